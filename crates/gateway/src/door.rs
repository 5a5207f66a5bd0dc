//! What the front door needs from above: the AWS interfaces and the admin handler, as traits that the server fills.
//!
//! Not here: how a signature is checked or an operation is run; the wire crate and the services know that.
//!
//! Invariants
//!   1. A door is called only after the browser rules let the request pass.
//!   2. A request of a guest carries its `GuestIdentity` in the request's extensions, and every call or
//!      request of an operator its `ClientAddress`; nothing that a client sends can set either.

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response};
use model::{Body, FunctionRef, Principal};

/// Which sandbox a connection comes from; known by the socket, not by anything the guest says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestIdentity {
    /// The function whose environment it is.
    pub function: FunctionRef,
    /// Its version.
    pub version: String,
    /// The role whose credentials the environment holds.
    pub role_arn: String,
}

/// Address of the client's end of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientAddress(pub SocketAddr);

/// Why a signed request is not let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthDenied {
    /// There is no signature.
    Missing,
    /// The signature is wrong, too old, or of an unknown key. Holds AWS's code and words.
    Invalid {
        /// `InvalidSignatureException`, `ExpiredTokenException`, `UnrecognizedClientException`
        code: String,
        /// For people.
        message: String,
    },
    /// The caller is known and may not do this.
    Forbidden,
}

/// The AWS interfaces.
#[async_trait]
pub trait AwsDoor: Send + Sync + 'static {
    /// Whether the request, which bears no other mark of an AWS call, has the method and path of an operation that
    /// is served (`GET /2015-03-31/functions`).
    fn identify(&self, parts: &Parts) -> bool;

    /// Runs the call. `endpoint` is `scheme://host[:port]` as the client addressed the platform.
    async fn handle(&self, parts: Parts, body: Bytes, endpoint: String) -> Response<Body>;

    /// Checks the signature of a request to a function URL (`service` is `lambda`) or an API (`execute-api`).
    async fn authorize(&self, parts: &Parts, body: &Bytes, service: &'static str) -> Result<Principal, AuthDenied>;
}

/// Everything below `/_dunlin/` that is not tenants' content or health.
#[async_trait]
pub trait AdminDoor: Send + Sync + 'static {
    /// Answers. That an `Authorization` header is there was checked; what it says was not.
    async fn handle(&self, request: Request<Bytes>) -> Response<Bytes>;
}

/// The other end of a connection, as the listener knows it.
#[derive(Debug, Clone)]
pub struct Peer {
    /// The client's address.
    pub address: SocketAddr,
    /// Whether the connection is encrypted.
    pub secure: bool,
    /// Port that the client connected to.
    pub port: u16,
    /// The sandbox, if the connection comes from one.
    pub guest: Option<Arc<GuestIdentity>>,
    /// Spelling of header names on HTTP/1 connections.
    pub spelling: Option<crate::spelling::Recorder>,
}

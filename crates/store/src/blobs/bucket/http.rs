//! Connections to the service: HTTP/1.1, plain or over TLS, used again as long as they are good.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use http_body_util::BodyExt;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse, HttpResponseBody,
    HttpService,
};
use parking_lot::Mutex;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};

use crate::contract::Error;

/// Connections of one service that are kept while nobody uses them.
const IDLE_MAX: usize = 16;

/// Makes clients that share their connections.
#[derive(Clone)]
pub(super) struct Connector {
    inner: Arc<Inner>,
}

struct Inner {
    tls: TlsConnector,
    /// By scheme and authority.
    idle: Mutex<HashMap<String, Vec<SendRequest<HttpRequestBody>>>>,
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connector")
    }
}

impl Connector {
    /// Trusts these certificates (PEM).
    pub(super) fn new(roots_pem: &str) -> Result<Self, Error> {
        let mut roots = RootCertStore::empty();
        let certificates = CertificateDer::pem_slice_iter(roots_pem.as_bytes()).filter_map(Result::ok);
        roots.add_parsable_certificates(certificates);
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::Io(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let inner = Inner { tls: TlsConnector::from(Arc::new(config)), idle: Mutex::default() };
        Ok(Self { inner: Arc::new(inner) })
    }
}

impl HttpConnector for Connector {
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

#[async_trait]
impl HttpService for Connector {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (mut parts, body) = request.into_parts();
        let authority = parts.uri.authority().cloned().ok_or_else(|| unclear("the address has no host"))?;
        let secure = parts.uri.scheme_str() == Some("https");
        let service = format!("{secure} {authority}");
        // A request names the host in a header, and in its first line the path alone.
        let host = http::HeaderValue::from_str(authority.as_str()).map_err(|_| unclear("the host"))?;
        parts.headers.insert(http::header::HOST, host);
        let path = parts.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        parts.uri = path.parse().map_err(|_| unclear("the path"))?;
        let mut sender = match self.inner.idle_connection(&service) {
            Some(sender) => sender,
            None => self.inner.connect(authority.host(), authority.port_u16(), secure).await?,
        };
        let response = sender.send_request(http::Request::from_parts(parts, body)).await;
        let response = response.map_err(|error| of_hyper(error, HttpErrorKind::Request))?;
        self.inner.keep(service, sender);
        let (parts, body) = response.into_parts();
        let body = body.map_err(|error| of_hyper(error, HttpErrorKind::Interrupted));
        Ok(http::Response::from_parts(parts, HttpResponseBody::new(body)))
    }
}

impl Inner {
    /// One whose last answer was read to its end.
    fn idle_connection(&self, service: &str) -> Option<SendRequest<HttpRequestBody>> {
        let mut idle = self.idle.lock();
        let senders = idle.get_mut(service)?;
        senders.retain(|sender| !sender.is_closed());
        let place = senders.iter().position(SendRequest::is_ready)?;
        Some(senders.swap_remove(place))
    }

    fn keep(&self, service: String, sender: SendRequest<HttpRequestBody>) {
        let mut idle = self.idle.lock();
        let senders = idle.entry(service).or_default();
        if senders.len() < IDLE_MAX {
            senders.push(sender);
        }
    }

    async fn connect(
        &self,
        host: &str,
        port: Option<u16>,
        secure: bool,
    ) -> Result<SendRequest<HttpRequestBody>, HttpError> {
        let refused = |error: io::Error| HttpError::new(HttpErrorKind::Connect, error);
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let port = port.unwrap_or(if secure { 443 } else { 80 });
        let stream = TcpStream::connect((bare, port)).await.map_err(refused)?;
        stream.set_nodelay(true).map_err(refused)?;
        if !secure {
            return handshake(stream).await;
        }
        let name = ServerName::try_from(bare.to_owned()).map_err(|_| unclear("the host is no name"))?;
        handshake(self.tls.connect(name, stream).await.map_err(refused)?).await
    }
}

async fn handshake(
    stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
) -> Result<SendRequest<HttpRequestBody>, HttpError> {
    let made = http1::handshake(TokioIo::new(stream)).await;
    let (sender, connection) = made.map_err(|error| of_hyper(error, HttpErrorKind::Connect))?;
    tokio::spawn(async move {
        // Whoever waits for an answer over it is told; nobody else wants to know.
        let _ = connection.await;
    });
    Ok(sender)
}

fn of_hyper(error: hyper::Error, kind: HttpErrorKind) -> HttpError {
    HttpError::new(kind, error)
}

fn unclear(what: &'static str) -> HttpError {
    HttpError::new(HttpErrorKind::Unknown, io::Error::other(what))
}

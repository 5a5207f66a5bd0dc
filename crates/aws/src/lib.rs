//! The AWS wire: signatures, protocols, error shapes, validation by the public service models.
//!
//! Invariant: it encodes and decodes; what an operation does is never known here. A service implements `Service`, and
//! does not know which protocol its caller speaks.
//!
//! Start reading at `dispatch`, which takes a request apart (`auth`, `route`, `decode`), calls the service and writes
//! its answer (`encode`).

mod apis;
pub mod auth;
mod content;
mod decode;
pub mod dispatch;
mod encode;
pub mod event_stream;
mod generated;
pub mod model_table;
mod route;
pub mod service;
pub mod sigv4;
pub mod testing;

pub use apis::catalogue;
pub use auth::{Authenticator, Caller, Mode};
pub use dispatch::{Dispatcher, Identified};
pub use service::{Call, Error, Reply, Service};

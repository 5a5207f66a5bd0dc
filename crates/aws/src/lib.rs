//! The AWS wire: signatures, protocols, error shapes, validation by the public service models.
//!
//! Invariant: it encodes and decodes; what an operation does is never known here. A service implements `Service`, and
//! does not know which protocol its caller speaks.
//!
//! Start reading at `dispatch`, which takes a request apart (`sigv4`, `route`, `decode`), calls the service and writes
//! its answer (`encode`).

mod generated;
pub mod model_table;
pub mod service;

pub use service::{Call, Error, Reply, Service};

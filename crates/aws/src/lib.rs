//! The AWS wire: signatures, protocols, error shapes, validation by the public service models.
//!
//! Invariant: it encodes and decodes; what an operation does is never known here. A service implements `Service`, and
//! does not know which protocol its caller speaks.

pub mod service;

pub use service::{Call, Error, Reply, Service};

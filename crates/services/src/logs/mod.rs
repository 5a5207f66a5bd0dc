//! The `logs` service.
//!
//! Nothing here yet.

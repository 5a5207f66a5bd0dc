//! The `sts` service.
//!
//! Nothing here yet.

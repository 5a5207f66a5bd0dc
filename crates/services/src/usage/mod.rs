//! The `usage` service.
//!
//! Nothing here yet.

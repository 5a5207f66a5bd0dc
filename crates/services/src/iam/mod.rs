//! The `iam` service.
//!
//! Nothing here yet.

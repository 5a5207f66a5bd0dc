//! The `apigateway` service.
//!
//! Under construction by its owner; nothing here yet.

//! The `dynamodb` service.
//!
//! Under construction by its owner; nothing here yet.

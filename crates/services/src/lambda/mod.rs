//! The `lambda` service.
//!
//! Under construction by its owner; nothing here yet.

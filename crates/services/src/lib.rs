//! One folder per AWS-compatible service, named by its signing name; `usage` keeps the ledger, and `marker` is what pages of lists
//! have in common.
//!
//! Invariants
//!   1. One service never names another's module: they meet through the ports of `model` only.
//!   2. A service does not know which protocol its caller speaks (`aws` does), nor what a sandbox is.
//!   3. Keys are built in each folder's `keys.rs` only, under the prefix that `model::prefixes` gives out.
//!
//! Start reading at any folder's `mod.rs`.

pub mod apigateway;
pub mod dynamodb;
pub mod iam;
pub mod lambda;
pub mod logs;
mod marker;
pub mod sts;
pub mod usage;

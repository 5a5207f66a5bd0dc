//! What the standard library could have had: time and randomness as arguments, safe archives, folders that stay, task supervision.
//!
//! Invariants
//!   1. No domain word: nothing here knows functions, tables or accounts.
//!   2. Nothing is global: a clock or a source of randomness is always handed in.

pub mod archive;
pub mod cache;
pub mod clock;
pub mod folders;
pub mod random;
pub mod repoll;

pub use cache::Cache;
pub use clock::{Clock, ManualClock, SystemClock};
pub use random::{Random, SeededRandom, SystemRandom};
pub use repoll::{repolled, repolled_while};

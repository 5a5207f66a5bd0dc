//! The peers, each used as its own manual advises for this load, all with 64 MB of cache except plain `sqlite`.

pub mod fjall;
pub mod lmdb;
pub mod log;
pub mod redb;
pub mod sqlite;

/// Bytes of cache.
pub const CACHE_BYTES: usize = 64 * 1024 * 1024;

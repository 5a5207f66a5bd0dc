//! Everything durable: ordered keys with atomic commits, watches, and blobs beside them.
//!
//! Queues, tables, logs and the registry of functions are key layouts over this contract; it sees bytes.
//!
//! Guarantees of every engine
//!   1. A commit is all or nothing, and is on disk before `commit` returns (`Durability::Flushed`).
//!   2. Commits happen one after another in the order of their `Version`s; nothing is readable before it is as durable
//!      as its transaction asked.
//!   3. A commit whose expectations do not hold writes nothing and answers `Error::Conflict`. With an expectation for
//!      each thing that a caller read, its commits are serialisable.
//!   4. A snapshot shows the state after exactly the commits up to its version.
//!   5. A watch that was made before a commit wakes after it. It is a hint: read again, nothing is told.
//!   6. An entry of a queue is under at most one lease at a time, whoever claims; a claim is a commit like others.
//!
//! Engines: `embedded` (SQLite behind a thread that commits in groups) with `blobs` (files), `postgres` (any number of
//! nodes over one database), and `memory` for tests. What a batch of transactions comes to is decided in `commit`.
//! Over any engine: `encrypted` (values and blobs at rest), `references` (which blobs are needed), `transfer` (backups
//! and moves).
//! Start reading at `contract`, then `embedded`.

pub mod blobs;
mod commit;
pub mod contract;
pub mod due;
pub mod embedded;
pub mod encrypted;
pub mod keys;
pub mod memory;
pub mod postgres;
pub mod references;
pub mod stats;
mod transact;
pub mod transfer;
mod watchers;
mod writes;

pub use blobs::{BlobInfo, BlobReader, BlobWriter, Blobs, FileBlobs, MemoryBlobs, PostgresBlobs};
pub use contract::{
    Claim, Claimed, Claims, Durability, Entry, Error, Expect, Op, Page, Range, Snapshot, Store, Txn, Version, Watch,
};
pub use embedded::{Embedded, EmbeddedConfig};
pub use memory::MemoryStore;
pub use postgres::{Postgres, PostgresConfig};
pub use stats::{Lag, Replica, Stats};
pub use transact::transact;

//! Event sources and their mappings to functions: what a poller needs to know of both.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::FunctionRef;

/// How the records of a source are had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceKind {
    /// Messages: each is taken for a time, and comes again unless it is acknowledged.
    Queue {
        /// Whether the messages of a key (a message group) come in order, one lot after the other.
        fifo: bool,
        /// Milliseconds that a message is taken for.
        lease_ms: u64,
    },
    /// Shards that are read in order, from a position that the reader keeps.
    Stream,
}

/// Where the part of a record lies that is a document of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Content {
    /// The member of the record that patterns speak of, `kinesis`; nothing: the record itself.
    pub within: Option<&'static str>,
    /// The member there that holds a document as text, `body`.
    pub member: &'static str,
    /// Whether that text is base64.
    pub base64: bool,
}

/// What a source is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceFacts {
    /// How its records are had.
    pub kind: SourceKind,
    /// What patterns see of a record; nothing: the record as it is.
    pub content: Option<Content>,
    /// What the record of a batch that is given up calls the batch's place: `KinesisBatchInfo`.
    pub batch_info: &'static str,
}

/// A shard of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shard {
    /// Its name within the stream.
    pub id: String,
    /// Shards that must have been read to their end before it.
    pub parents: Vec<String>,
}

/// Where in a shard reading begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Position {
    /// At the oldest record that there is.
    TrimHorizon,
    /// After the newest one.
    Latest,
    /// At the first record that arrived then or later, milliseconds since the epoch.
    AtTimestamp(u64),
    /// After a place that the source named: a sequence number.
    After(String),
}

/// What is to be taken of a source.
#[derive(Debug, Clone)]
pub struct Take {
    /// The ARN of the source.
    pub source: String,
    /// The shard and the place in it; nothing of a queue.
    pub from: Option<(String, Position)>,
    /// Most records.
    pub records: usize,
    /// Milliseconds to wait for the first one. A source wakes by itself, so that waiting costs nothing.
    pub wait_ms: u64,
}

/// One record of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceRecord {
    /// What a function calls it when it fails: message id, sequence number.
    pub id: String,
    /// What it is acknowledged with: receipt handle. Of a stream: the place after it, as in `Position::After`.
    pub handle: String,
    /// Records of one key are handled in order: message group, partition key.
    pub key: Option<String>,
    /// When the source got it, milliseconds since the epoch.
    pub arrived_ms: u64,
    /// The trace header that its sender gave it, `AWSTraceHeader` of a message. Records of streams have none.
    pub trace: Option<String>,
    /// The record as the function gets it: JSON, a member of `Records`.
    pub event: Bytes,
}

/// What was taken.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Taken {
    /// The records, in order.
    pub records: Vec<SourceRecord>,
    /// Of a shard: the place after them, as in `Position::After`, whatever it was asked for by. Nothing: the shard has
    /// ended, and this was the rest of it.
    pub next: Option<String>,
}

/// Why a source gives nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// There is no such source or shard any more.
    #[error("{0}")]
    Gone(String),
    /// What was at the position has been removed since: the oldest record is what comes next.
    #[error("the position is older than the oldest record")]
    Trimmed,
    /// Not now; it is to be tried again.
    #[error("{0}")]
    Later(String),
}

/// An event source mapping as its poller goes by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// Its ARN.
    pub arn: String,
    /// Differs between any two settings of it.
    pub revision: u64,
    /// Whether it is polled, rests, or is to go.
    pub wanted: Wanted,
    /// Who gets the records, with its qualifier.
    pub function: FunctionRef,
    /// The ARN of the source.
    pub source: String,
    /// Where a stream is read from at first.
    pub start: Position,
    /// Most records of a batch.
    pub batch_records: usize,
    /// Milliseconds that a batch waits for more records after its first.
    pub window_ms: u64,
    /// Event patterns, of which a record must match one; none: all records pass.
    pub filters: Vec<String>,
    /// Whether the function tells which records have failed.
    pub reports_failures: bool,
    /// Concurrent calls at most; nothing: the platform's own limit.
    pub concurrency_max: Option<u32>,
    /// Concurrent calls to begin with; nothing: the platform's own number.
    pub concurrency_min: Option<u32>,
    /// Of a stream: calls of one shard at once.
    pub lanes: u32,
    /// Of a stream: retries of a batch; nothing: without end.
    pub retries_max: Option<u32>,
    /// Of a stream: age in milliseconds from which on records are given up; nothing: never.
    pub age_max_ms: Option<u64>,
    /// Of a stream: whether a batch that failed is cut in two.
    pub bisects: bool,
    /// Of a stream: milliseconds of a tumbling window; zero: there are none.
    pub tumbling_ms: u64,
    /// The ARN that the record of a batch goes to which is given up.
    pub on_failure: Option<String>,
}

/// What is to become of a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Its source is polled.
    Polled,
    /// It rests.
    Rests,
    /// It rests, and what is kept for it goes.
    Gone,
}

/// Mappings by ARN.
pub type Mappings = BTreeMap<String, Arc<Mapping>>;

/// What a poller tells of a mapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MappingNews {
    /// It is as this revision wants it.
    Settled {
        /// Its ARN.
        arn: String,
        /// `Mapping::revision`
        revision: u64,
    },
    /// How its last batch ended, in words.
    Result {
        /// Its ARN.
        arn: String,
        /// `OK`, or `PROBLEM: …`
        words: String,
    },
}

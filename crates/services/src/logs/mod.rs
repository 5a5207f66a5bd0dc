//! CloudWatch Logs: where functions' lines go, and how people and tools read them.
//!
//! Operations: CreateLogGroup, DeleteLogGroup, DescribeLogGroups, CreateLogStream, DeleteLogStream, DescribeLogStreams,
//! PutLogEvents, GetLogEvents, FilterLogEvents, PutRetentionPolicy, DeleteRetentionPolicy. Not here: Insights queries,
//! subscriptions, metric filters, live tail.
//!
//! Invariants
//!   1. Lines of functions (`LogSink::append`) are gathered over a moment and committed together, relaxed: a crash of
//!      the process costs at most that moment, power loss a second more. Whole chunks are written or none.
//!   2. What PutLogEvents acknowledged is on disk.
//!   3. Events are read in the order of their positions (`chunk::Position`): time, then commit, then place in it. Lines of
//!      one stream with one timestamp keep the order in which they came.
//!   4. A chunk spans at most `chunk::SPAN_MS`, so a reader in order of time holds little.
//!   5. Groups and streams have ids of their own: one that is made again under an old name shows nothing of the old one.
//!
//! Start reading at `chunk`, then `writer` (in) and `read` (out).

mod chunk;
mod describe;
mod error;
mod events;
mod groups;
mod keys;
mod pattern;
mod read;
mod worker;
mod writer;

use std::sync::Arc;

use async_trait::async_trait;
use aws::{Call, Reply, Service};
use base::{Clock, Random};
use model::LogBatch;
use model::ports::LogSink;
use store::Store;

pub use error::Error;
use writer::Writer;

/// The service.
pub struct Logs {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    writer: Writer,
}

impl std::fmt::Debug for Logs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Logs").finish_non_exhaustive()
    }
}

impl Logs {
    /// The service over a store. Lines are written out while `run` runs, and at every `flush`.
    pub fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>, random: Arc<dyn Random>) -> Arc<Self> {
        Arc::new(Self { store, clock, random, writer: Writer::default() })
    }
}

#[async_trait]
impl LogSink for Logs {
    async fn append(&self, batch: LogBatch) {
        self.writer.accept(batch).await;
    }
}

#[async_trait]
impl Service for Logs {
    fn signing_name(&self) -> &'static str {
        "logs"
    }

    async fn call(&self, call: Call) -> Result<Reply, aws::Error> {
        let reply = match call.operation {
            "CreateLogGroup" => self.create_log_group(&call).await,
            "DeleteLogGroup" => self.delete_log_group(&call).await,
            "DescribeLogGroups" => self.describe_log_groups(&call).await,
            "CreateLogStream" => self.create_log_stream(&call).await,
            "DeleteLogStream" => self.delete_log_stream(&call).await,
            "DescribeLogStreams" => self.describe_log_streams(&call).await,
            "PutLogEvents" => self.put_log_events(&call).await,
            "GetLogEvents" => self.get_log_events(&call).await,
            "FilterLogEvents" => self.filter_log_events(&call).await,
            "PutRetentionPolicy" => self.put_retention_policy(&call).await,
            "DeleteRetentionPolicy" => self.delete_retention_policy(&call).await,
            other => return Err(aws::Error::not_implemented(format!("the operation '{other}' of 'logs'"))),
        };
        reply.map_err(aws::Error::from)
    }
}

#[cfg(test)]
mod tests;

//! DynamoDB: tables of items with keys, conditions and expressions, durable before each answer.
//!
//! Operations: CreateTable, DescribeTable, ListTables, UpdateTable (billing, throughput, class, protection, indexes,
//! stream), DeleteTable, PutItem, GetItem, UpdateItem, DeleteItem, Query, Scan with parallel segments, BatchGetItem,
//! BatchWriteItem, TransactGetItems, TransactWriteItems, ExecuteStatement, BatchExecuteStatement, ExecuteTransaction,
//! DescribeTimeToLive, UpdateTimeToLive, TagResource, UntagResource, ListTagsOfResource, DescribeLimits,
//! DescribeEndpoints, CreateBackup, DescribeBackup, ListBackups, DeleteBackup, RestoreTableFromBackup,
//! UpdateContinuousBackups, DescribeContinuousBackups, RestoreTableToPointInTime, PutResourcePolicy, GetResourcePolicy,
//! DeleteResourcePolicy. Of DynamoDB Streams: ListStreams, DescribeStream, GetShardIterator, GetRecords.
//!
//! Not here, and refused loudly: encryption with own keys, global tables, exports and imports, streams to Kinesis,
//! contributor insights.
//!
//! Invariants
//!   1. What was answered with success is committed and flushed; a refused call changed nothing.
//!   2. Every write is decided on the item that it replaces: the commit expects that item's version and the table's
//!      record unchanged, else the decision is made again.
//!   3. Writers of one item queue in this process, so that a hot item costs its writers waiting, never failure.
//!   4. Counters of items and bytes, entries of secondary indexes, records of streams and histories, and marks of items
//!      that expire are written in the commit that changes the item.
//!   5. What capacity is left is counted in each process; nodes over one store have equal parts of it.
//!
//! Start reading at `ops`; the pure parts are `value`, `number`, `expression`, `legacy`, `partiql`, `update`, `table`,
//! `index`, `access`, `query`, `stream`, `ttl`, `token`, `throttle`, `throughput`, `history`, `backup` and `policy`.

mod access;
mod archive;
mod backup;
mod capacity;
mod error;
mod expiry;
mod expression;
mod history;
mod index;
mod indexing;
mod item;
mod jobs;
mod keys;
mod legacy;
mod nodes;
mod number;
mod ops;
mod partiql;
mod passes;
mod policy;
mod query;
mod records;
mod retention;
mod source;
mod stream;
mod table;
mod throttle;
mod throughput;
mod token;
mod ttl;
mod update;
mod value;
mod worker;

#[cfg(test)]
mod steps;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use async_trait::async_trait;
use base::{Clock, Random};
use store::Store;

pub use source::TableStreams;

/// Fields that are accepted and described, and change nothing yet.
pub const ACCEPTED_WITHOUT_EFFECT: &[(&str, &str)] = &[
    ("CreateTable.TableClass", "described; there is one kind of storage"),
    ("UpdateTable.TableClass", "described; there is one kind of storage"),
    (
        "PutResourcePolicy.Policy",
        "enforced, for other accounts too; statements know tables of their caller's account only, as on AWS; policies of \
         identities are not evaluated",
    ),
    ("GetItem.ConsistentRead", "every read is strongly consistent; it changes the reported capacity only"),
    ("Query.ConsistentRead", "every read is strongly consistent; it changes the reported capacity only"),
    ("Scan.ConsistentRead", "every read is strongly consistent; it changes the reported capacity only"),
    ("BatchGetItem.ConsistentRead", "every read is strongly consistent; it changes the reported capacity only"),
    ("ExecuteStatement.ConsistentRead", "every read is strongly consistent; it changes the reported capacity only"),
    (
        "BatchExecuteStatement.ConsistentRead",
        "every read is strongly consistent; it changes the reported capacity only",
    ),
];

/// Settings of the service.
#[derive(Debug, Clone)]
pub struct Config {
    /// How many writers of different items may queue apart from each other; a power of two.
    pub write_lanes: usize,
    /// Most items that the worker removes in one commit.
    pub removal_rows: usize,
    /// Most tables of an account in a region.
    pub tables_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { write_lanes: 4_096, removal_rows: 500, tables_max: 2_500 }
    }
}

/// The `dynamodb` service. Cheap to clone.
#[derive(Clone)]
pub struct DynamoDb {
    shared: Arc<ops::Shared>,
}

impl DynamoDb {
    /// A service over `store`. `run` must be driven for deleted tables to give their room back.
    pub fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>, random: Arc<dyn Random>, config: Config) -> Self {
        Self { shared: Arc::new(ops::Shared::new(store, clock, random, config)) }
    }

    /// The streams of the tables, for pollers.
    pub fn streams(&self) -> TableStreams {
        TableStreams { shared: self.shared.clone() }
    }

    /// The background work: removes the items of deleted tables, old records of streams, and items and clients' tokens
    /// whose time is over; fills and empties indexes; makes backups, and tables of them. Ends when the store is closed;
    /// may be dropped at any time and started again, also on several nodes at once.
    pub async fn run(&self) {
        tokio::join!(
            worker::run(&self.shared),
            indexing::run(&self.shared),
            retention::run(&self.shared),
            expiry::run(&self.shared),
            passes::run(&self.shared),
            jobs::run(&self.shared),
            nodes::run(&self.shared),
            archive::run(&self.shared)
        );
    }

    /// One round of the background work; returns how many things it wrote and removed.
    pub async fn sweep(&self) -> Result<usize, aws::Error> {
        nodes::round(&self.shared).await?;
        let done = worker::sweep(&self.shared).await?
            + retention::round(&self.shared).await?
            + expiry::sweep(&self.shared).await?
            + passes::sweep(&self.shared).await?
            + jobs::sweep(&self.shared).await?
            + archive::round(&self.shared).await?;
        match indexing::step(&self.shared).await? {
            // Work that found nothing to write is work all the same.
            indexing::Step::Worked(entries) => Ok(done + entries.max(1)),
            indexing::Step::Idle(_) => Ok(done),
        }
    }
}

#[async_trait]
impl aws::Service for DynamoDb {
    fn signing_name(&self) -> &'static str {
        "dynamodb"
    }

    async fn call(&self, call: aws::Call) -> Result<aws::Reply, aws::Error> {
        ops::call(&self.shared, call).await
    }
}

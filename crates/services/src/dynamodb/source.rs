//! The port through which pollers read streams of tables: `EventSource`.
//!
//! A read that finds nothing waits for the commit of the next record, which wakes it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use model::ports::EventSource;
use model::{Position, Shard, SourceError, SourceFacts, SourceKind, SourceRecord, Take, Taken};
use tokio::time::{Instant, timeout_at};

use super::error::Error;
use super::keys;
use super::ops::Shared;
use super::records;
use super::stream::{Description, Place};
use super::value::item_to_json;

/// Most bytes of records that one read brings.
const BYTES: usize = 6 * 1024 * 1024;
/// The longest wait that a read can be asked for, in milliseconds.
const WAIT_MAX_MS: u64 = 24 * 3_600_000;

/// Streams of tables as pollers see them. Cheap to clone.
#[derive(Clone)]
pub struct TableStreams {
    pub(super) shared: Arc<Shared>,
}

fn later(error: Error) -> SourceError {
    match error {
        Error::Trimmed(_) => SourceError::Trimmed,
        error => SourceError::Later(error.to_string()),
    }
}

impl TableStreams {
    async fn find(&self, arn: &str) -> Result<Description, SourceError> {
        let found = records::find(&self.shared, arn).await.map_err(later)?;
        found.ok_or_else(|| SourceError::Gone(format!("there is no stream {arn}")))
    }

    async fn place(&self, of: &Description, position: &Position) -> Result<Place, SourceError> {
        match position {
            Position::TrimHorizon => Ok(Place::START),
            Position::Latest => records::latest(&self.shared).await.map_err(later),
            Position::AtTimestamp(ms) => records::at_time(&self.shared, of, *ms).await.map_err(later),
            Position::After(text) => {
                Place::parse(text).ok_or_else(|| SourceError::Later(format!("{text} is no place in a stream")))
            }
        }
    }

    async fn read(&self, of: &Description, after: Place, rows: usize) -> Result<Taken, SourceError> {
        let found = records::read(&self.shared, of, after, rows, BYTES).await.map_err(later)?;
        let taken = found.records.iter().map(|(place, record)| SourceRecord {
            id: place.sequence(),
            handle: place.sequence(),
            key: Some(item_to_json(&record.keys).to_string()),
            arrived_ms: record.at_ms,
            trace: None,
            event: Bytes::from(record.to_event(of, *place).to_string()),
        });
        Ok(Taken { records: taken.collect(), next: (!found.ended).then(|| found.next.sequence()) })
    }
}

#[async_trait]
impl EventSource for TableStreams {
    fn service(&self) -> &'static str {
        "dynamodb"
    }

    async fn describe(&self, arn: &str) -> Result<Option<SourceFacts>, SourceError> {
        let found = records::find(&self.shared, arn).await.map_err(later)?;
        let facts = SourceFacts { kind: SourceKind::Stream, content: None, batch_info: "DDBStreamBatchInfo" };
        Ok(found.map(|_| facts))
    }

    async fn shards(&self, arn: &str) -> Result<Vec<Shard>, SourceError> {
        Ok(vec![Shard { id: self.find(arn).await?.shard(), parents: Vec::new() }])
    }

    async fn lease(&self, take: &Take) -> Result<Taken, SourceError> {
        let Some((_, position)) = &take.from else {
            return Err(SourceError::Later("a stream is read from a position".into()));
        };
        let mut of = self.find(&take.source).await?;
        let after = self.place(&of, position).await?;
        if take.records == 0 {
            return Ok(Taken { records: Vec::new(), next: Some(after.sequence()) });
        }
        let until = Instant::now() + Duration::from_millis(take.wait_ms.min(WAIT_MAX_MS));
        // Before the first read, so that what comes between a read and the wait wakes it.
        let mut watch = self.shared.store.watch(&keys::records(of.stream.number));
        loop {
            let taken = self.read(&of, after, take.records).await?;
            if !taken.records.is_empty() || taken.next.is_none() || Instant::now() >= until {
                return Ok(taken);
            }
            let _ = timeout_at(until, watch.changed()).await;
            of = self.find(&take.source).await?;
        }
    }
}

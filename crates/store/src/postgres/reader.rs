//! Reading: gets on shared connections, snapshots on one of their own each.
//!
//! A snapshot is a transaction of the server (REPEATABLE READ, READ ONLY): its state is that of the version that its
//! first statement reads. Gets of the current state share a few connections, on which many are under way at once.
//!
//! Invariants
//!   1. At most `SNAPSHOTS_MAX` snapshots of a node live; who wants another one waits for it.
//!   2. A snapshot reads nothing after its life, whether its holder still wants to or not; its transaction ends then.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_postgres::{Row, Statement};

use super::address::Connecting;
use super::session::{Fault, Session};
use crate::contract::{Entry, Error, Page, Range, Snapshot, Version};

/// Most snapshots of one node at a time.
const SNAPSHOTS_MAX: usize = 16;
/// Connections that gets share.
const GETTERS: usize = 2;
/// Sessions that are kept open for the next snapshot.
const IDLE_MAX: usize = 8;
/// Rows of a range that are asked for at first; later as many as make up `CHUNK_BYTES`.
const FIRST_ROWS: usize = 64;
const CHUNK_BYTES: usize = 2 * 1024 * 1024;
const CHUNK_ROWS_MAX: usize = 4_096;

/// All reading connections of a node.
pub(super) struct Readers {
    connecting: Connecting,
    schema: String,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Reader>>,
    getters: [tokio::sync::Mutex<Option<Arc<Reader>>>; GETTERS],
    next: AtomicUsize,
}

/// A session with the statements of reading.
struct Reader {
    session: Session,
    get: Statement,
    up: Statement,
    down: Statement,
    version: Statement,
}

impl Reader {
    async fn open(connecting: &Connecting, schema: &str) -> Result<Self, Fault> {
        let session = Session::open(connecting, |_| ()).await?;
        let of = async |sql: &str| session.statement(&sql.replace("{}", schema)).await;
        Ok(Self {
            get: of("SELECT k, v, ver FROM {}.kv WHERE k = $1").await?,
            up: of("SELECT k, v, ver FROM {}.kv WHERE k >= $1 AND k < $2 ORDER BY k LIMIT $3").await?,
            down: of("SELECT k, v, ver FROM {}.kv WHERE k >= $1 AND k < $2 ORDER BY k DESC LIMIT $3").await?,
            version: of("SELECT version FROM {}.meta").await?,
            session,
        })
    }

    async fn get(&self, key: &[u8]) -> Result<Option<Entry>, Fault> {
        let row = self.session.answer(self.session.client.query_opt(&self.get, &[&key])).await?;
        Ok(row.as_ref().map(entry))
    }

    /// Reads a range in pieces, so that its limit of bytes is not passed by much.
    async fn range(&self, range: &Range) -> Result<Page, Fault> {
        let mut rest = range.clone();
        let mut page = Page::default();
        let (mut bytes, mut piece) = (0, FIRST_ROWS);
        if rest.is_empty() {
            return Ok(page);
        }
        let statement = if rest.reverse { &self.down } else { &self.up };
        loop {
            let (start, end) = rest.half_open();
            let wanted = piece.min((range.rows - page.entries.len()).saturating_add(1));
            let limit = i64::try_from(wanted).unwrap_or(i64::MAX);
            let rows = self.session.answer(self.session.client.query(statement, &[&start, &end, &limit])).await?;
            for row in &rows {
                if page.entries.len() == range.rows || (bytes >= range.bytes && !page.entries.is_empty()) {
                    page.more = true;
                    return Ok(page);
                }
                let entry = entry(row);
                bytes += entry.key.len() + entry.value.len();
                page.entries.push(entry);
            }
            let Some(last) = page.entries.last().filter(|_| rows.len() == wanted) else { return Ok(page) };
            rest = rest.beyond(last.key.clone());
            let mean = (bytes / page.entries.len()).max(1);
            piece = (CHUNK_BYTES / mean).clamp(1, CHUNK_ROWS_MAX);
        }
    }
}

pub(super) fn entry(row: &Row) -> Entry {
    Entry {
        key: Bytes::copy_from_slice(row.get(0)),
        value: Bytes::copy_from_slice(row.get(1)),
        version: row.get::<_, i64>(2).cast_unsigned(),
    }
}

impl Readers {
    pub(super) fn new(connecting: Connecting, schema: String) -> Self {
        Self {
            connecting,
            schema,
            permits: Arc::new(Semaphore::new(SNAPSHOTS_MAX)),
            idle: Mutex::default(),
            getters: std::array::from_fn(|_| tokio::sync::Mutex::default()),
            next: AtomicUsize::new(0),
        }
    }

    /// Reads one key of the current state.
    pub(super) async fn get(&self, key: &[u8]) -> Result<Option<Entry>, Error> {
        if self.permits.is_closed() {
            return Err(Error::Closed);
        }
        let place = &self.getters[self.next.fetch_add(1, Ordering::Relaxed) % GETTERS];
        // A connection that broke since it was last used is replaced once.
        for last in [false, true] {
            let reader = {
                let mut place = place.lock().await;
                match &*place {
                    Some(reader) if !reader.session.client.is_closed() => Arc::clone(reader),
                    _ => Arc::clone(place.insert(Arc::new(Reader::open(&self.connecting, &self.schema).await?))),
                }
            };
            match reader.get(key).await {
                Err(Fault::Disconnected(_)) if !last => *place.lock().await = None,
                read => return Ok(read?),
            }
        }
        Err(Error::Busy)
    }

    /// Opens a snapshot of the current state, as soon as there is a place for it.
    pub(super) async fn snapshot(self: &Arc<Self>, life: Duration) -> Result<Box<dyn Snapshot>, Error> {
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(|_| Error::Closed)?;
        let kept = self.idle.lock().pop();
        let begun = match kept {
            // One that broke while it was idle is no failure of the snapshot.
            Some(reader) => begin(reader).await.ok(),
            None => None,
        };
        let (reader, version) = match begun {
            Some(begun) => begun,
            None => begin(Reader::open(&self.connecting, &self.schema).await?).await?,
        };
        let held = Arc::new(tokio::sync::Mutex::new(Some(Held { reader, _permit: permit })));
        let until = Instant::now() + life;
        let place = Arc::clone(&held);
        let readers = Arc::clone(self);
        let end = tokio::spawn(async move {
            tokio::time::sleep_until(until).await;
            let taken = place.lock().await.take();
            readers.give_back(taken).await;
        });
        Ok(Box::new(PostgresSnapshot { readers: Arc::clone(self), held, version, until, end }))
    }

    async fn give_back(&self, held: Option<Held>) {
        let Some(Held { reader, _permit }) = held else { return };
        let ended = reader.session.simple("COMMIT").await;
        let mut idle = self.idle.lock();
        if ended.is_ok() && idle.len() < IDLE_MAX && !self.permits.is_closed() {
            idle.push(reader);
        }
    }

    /// Ends everything: nothing can be read any more.
    pub(super) async fn close(&self) {
        self.permits.close();
        self.idle.lock().clear();
        for getter in &self.getters {
            *getter.lock().await = None;
        }
    }
}

async fn begin(reader: Reader) -> Result<(Reader, Version), Fault> {
    let session = &reader.session;
    let (begun, version) = tokio::join!(
        session.simple(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL idle_in_transaction_session_timeout = 0"
        ),
        session.answer(session.client.query_one(&reader.version, &[])),
    );
    begun?;
    let version = version?.get::<_, i64>(0).cast_unsigned();
    Ok((reader, version))
}

struct Held {
    reader: Reader,
    _permit: OwnedSemaphorePermit,
}

struct PostgresSnapshot {
    readers: Arc<Readers>,
    held: Arc<tokio::sync::Mutex<Option<Held>>>,
    version: Version,
    until: Instant,
    end: JoinHandle<()>,
}

impl Drop for PostgresSnapshot {
    fn drop(&mut self) {
        self.end.abort();
        let (readers, held) = (Arc::clone(&self.readers), Arc::clone(&self.held));
        // Where no runtime is left, the session ends with the process.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let taken = held.lock().await.take();
                readers.give_back(taken).await;
            });
        }
    }
}

impl PostgresSnapshot {
    fn ended(&self) -> Error {
        if self.readers.permits.is_closed() { Error::Closed } else { Error::TooOld }
    }
}

#[async_trait]
impl Snapshot for PostgresSnapshot {
    fn version(&self) -> Version {
        self.version
    }

    async fn get(&self, key: &[u8]) -> Result<Option<Entry>, Error> {
        let held = self.held.lock().await;
        let held = held.as_ref().filter(|_| Instant::now() < self.until).ok_or_else(|| self.ended())?;
        Ok(held.reader.get(key).await?)
    }

    async fn range(&self, range: &Range) -> Result<Page, Error> {
        let held = self.held.lock().await;
        let held = held.as_ref().filter(|_| Instant::now() < self.until).ok_or_else(|| self.ended())?;
        Ok(held.reader.range(range).await?)
    }
}

//! Blobs in PostgreSQL, for nodes that share a database and no bucket.
//!
//! | table     | columns                        | holds                                                            |
//! |-----------|--------------------------------|------------------------------------------------------------------|
//! | `blobs`   | `name`, `id`, `trailer`        | the finished blobs; the trailer is that of a file (`chunks`)       |
//! | `chunks`  | `id`, `number`, `content`      | their contents, and those of uploads, in chunks of 256 KiB         |
//! | `uploads` | `id`, `at`                     | what is being written, and when a piece of it came last            |
//!
//! Chunks come in transactions of their own, some at a time, so that no long transaction keeps the server from cleaning
//! its tables. One last transaction makes the upload a blob.
//!
//! Invariants
//!   1. A row of `blobs` is put in the transaction that takes away the row of `uploads`, and only when all chunks are
//!      there: a blob is whole or not at all. The first under a name stands.
//!   2. What belongs neither to a blob nor to an upload is nothing: an upload that is given up, or silent for longer than
//!      `SILENCE`, goes with its chunks in one transaction.
//!   3. No content is given out whose checksum is wrong.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use base::Random;
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::chunks::{CHUNK_BYTES, Summing, Table};
use super::{BlobInfo, BlobReader, BlobWriter, Blobs, Names, check_blob_name};
use crate::contract::{Error, after_prefix};
use crate::postgres::{Connecting, PostgresConfig, Session, fault, prepare};

/// Connections of one node that blobs use at a time; whoever wants another one waits.
const SESSIONS_MAX: usize = 4;
/// So many chunks are read or written at once.
const GO_CHUNKS: usize = 4;
/// An upload to which nothing was added for so long is given up.
const SILENCE: &str = "1 hour";

/// Blobs in a database.
#[derive(Clone)]
pub struct PostgresBlobs {
    inner: Arc<Inner>,
}

struct Inner {
    connecting: Connecting,
    schema: String,
    random: Arc<dyn Random>,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Session>>,
}

impl std::fmt::Debug for PostgresBlobs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PostgresBlobs({})", self.inner.schema)
    }
}

impl PostgresBlobs {
    /// Connects, and makes the tables if there are none.
    pub async fn open(config: &PostgresConfig) -> Result<Self, Error> {
        let connecting = prepare(config).await?;
        let inner = Inner {
            connecting,
            schema: config.schema.clone(),
            random: Arc::clone(&config.random),
            permits: Arc::new(Semaphore::new(SESSIONS_MAX)),
            idle: Mutex::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }
}

/// A connection for some statements. One on which a statement failed is not used again.
struct Held {
    inner: Arc<Inner>,
    session: Option<Session>,
    _permit: OwnedSemaphorePermit,
}

impl Held {
    async fn of(inner: &Arc<Inner>) -> Result<Self, Error> {
        let permit = Arc::clone(&inner.permits).acquire_owned().await.map_err(|_| Error::Closed)?;
        let kept = loop {
            let kept = inner.idle.lock().pop();
            match kept {
                Some(session) if session.client.is_closed() => {}
                other => break other,
            }
        };
        let session = match kept {
            Some(session) => session,
            None => Session::open(&inner.connecting, |_| ()).await?,
        };
        Ok(Self { inner: Arc::clone(inner), session: Some(session), _permit: permit })
    }

    /// Runs a statement, with the schema's name where it says `{}`.
    async fn rows(&mut self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, Error> {
        let Some(session) = self.session.take() else { return Err(Error::Closed) };
        let sql = sql.replace("{}", &self.inner.schema);
        let rows = session.client.query(&sql, parameters).await.map_err(fault)?;
        self.session = Some(session);
        Ok(rows)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            self.inner.idle.lock().push(session);
        }
    }
}

impl Inner {
    /// Runs one statement, once more on another connection if the first has broken: for what may be done twice.
    async fn rows(self: &Arc<Self>, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, Error> {
        match Held::of(self).await?.rows(sql, parameters).await {
            Err(Error::Io(_)) => Held::of(self).await?.rows(sql, parameters).await,
            rows => rows,
        }
    }

    /// The checksums of a blob, and the id of its chunks; nothing if there is no such blob.
    async fn table(self: &Arc<Self>, name: &str) -> Result<Option<(String, Table)>, Error> {
        check_blob_name(name)?;
        let rows = self.rows("SELECT id, trailer FROM {}.blobs WHERE name = $1", &[&name]).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let table = Table::of_trailer(name, row.get(1)).ok_or_else(|| damaged(name))?;
        Ok(Some((row.get(0), table)))
    }
}

/// Removes uploads, with what they have.
const GIVE_UP: &str = "WITH gone AS (DELETE FROM {}.uploads WHERE id = $1 RETURNING id)
    DELETE FROM {}.chunks USING gone WHERE chunks.id = gone.id";

#[async_trait]
impl Blobs for PostgresBlobs {
    async fn write(&self, name: &str) -> Result<Box<dyn BlobWriter>, Error> {
        check_blob_name(name)?;
        let id = self.inner.random.hex(16);
        let silent = format!(
            "WITH gone AS (DELETE FROM {{}}.uploads WHERE at < now() - interval '{SILENCE}' RETURNING id)
             DELETE FROM {{}}.chunks USING gone WHERE chunks.id = gone.id"
        );
        self.inner.rows(&silent, &[]).await?;
        self.inner.rows("INSERT INTO {}.uploads (id) VALUES ($1) ON CONFLICT DO NOTHING", &[&id]).await?;
        Ok(Box::new(Writer {
            inner: Arc::clone(&self.inner),
            name: name.to_owned(),
            id,
            rest: BytesMut::new(),
            written: 0,
            summing: Summing::default(),
            state: State::Open,
        }))
    }

    async fn read(&self, name: &str, range: Range<u64>) -> Result<Option<Box<dyn BlobReader>>, Error> {
        let Some((id, table)) = self.inner.table(name).await? else { return Ok(None) };
        let end = range.end.min(table.bytes);
        let (inner, name) = (Arc::clone(&self.inner), name.to_owned());
        Ok(Some(Box::new(Reader { inner, name, id, table, at: range.start, end })))
    }

    async fn info(&self, name: &str) -> Result<Option<BlobInfo>, Error> {
        Ok(self.inner.table(name).await?.map(|(_, table)| table.info(name)))
    }

    async fn delete(&self, name: &str) -> Result<(), Error> {
        check_blob_name(name)?;
        let sql = "WITH gone AS (DELETE FROM {}.blobs WHERE name = $1 RETURNING id)
                   DELETE FROM {}.chunks USING gone WHERE chunks.id = gone.id";
        self.inner.rows(sql, &[&name]).await.map(drop)
    }

    async fn names(&self, prefix: &str, after: Option<&str>, rows: usize) -> Result<Names, Error> {
        // Names are ASCII, so what comes after a prefix is text too.
        let end = after_prefix(prefix.as_bytes()).and_then(|end| String::from_utf8(end.to_vec()).ok());
        let limit = i64::try_from(rows).unwrap_or(i64::MAX).saturating_add(1);
        let sql = "SELECT name FROM {}.blobs WHERE name >= $1 AND ($2::text IS NULL OR name < $2)
                   AND ($3::text IS NULL OR name > $3) ORDER BY name LIMIT $4";
        let found = self.inner.rows(sql, &[&prefix, &end, &after, &limit]).await?;
        let more = found.len() > rows;
        Ok(Names { names: found.iter().take(rows).map(|row| row.get(0)).collect(), more })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// A piece could not be written.
    Failed,
    /// It is a blob, or is given up already.
    Ended,
}

struct Writer {
    inner: Arc<Inner>,
    name: String,
    id: String,
    /// What has come and is not written yet.
    rest: BytesMut,
    /// Chunks that are written.
    written: usize,
    summing: Summing,
    state: State,
}

impl Writer {
    /// Writes `bytes` of the rest in chunks. They stay with the upload, or the upload is gone: then nothing is written.
    async fn go(&mut self, bytes: usize) -> Result<(), Error> {
        let content = self.rest.split_to(bytes).freeze();
        let chunks: Vec<&[u8]> = content.chunks(CHUNK_BYTES).collect();
        let first = i64::try_from(self.written).unwrap_or(i64::MAX);
        let sql = "WITH upload AS (UPDATE {}.uploads SET at = now() WHERE id = $1 RETURNING id)
                   INSERT INTO {}.chunks SELECT upload.id, $2 + part.number - 1, part.content
                   FROM upload, unnest($3::bytea[]) WITH ORDINALITY AS part(content, number)
                   ON CONFLICT DO NOTHING";
        self.state = State::Failed;
        self.inner.rows(sql, &[&self.id, &first, &chunks]).await?;
        self.state = State::Open;
        self.written += chunks.len();
        Ok(())
    }

    async fn end(&mut self) -> Result<(), Error> {
        let table = std::mem::take(&mut self.summing).done();
        let trailer = table.trailer(&self.name);
        let count = i64::try_from(self.written).unwrap_or(i64::MAX);
        // One that lost against another of its name takes its chunks away with it.
        let sql = "WITH upload AS (DELETE FROM {}.uploads WHERE id = $1
                       AND (SELECT count(*) FROM {}.chunks WHERE id = $1) = $4 RETURNING id),
                   made AS (INSERT INTO {}.blobs (name, id, trailer) SELECT $2, id, $3 FROM upload
                       ON CONFLICT DO NOTHING RETURNING id),
                   lost AS (DELETE FROM {}.chunks USING upload WHERE chunks.id = upload.id
                       AND NOT EXISTS (SELECT FROM made))
                   SELECT FROM upload";
        let ended = Held::of(&self.inner).await?.rows(sql, &[&self.id, &self.name, &trailer, &count]).await;
        match ended {
            Ok(rows) if rows.is_empty() => {
                Err(Error::Io(format!("the upload of {} took too long and was given up", self.name)))
            }
            Ok(_) => Ok(()),
            // It may have happened all the same; then there is a blob of this name, or of the one that was first.
            Err(error) => match self.inner.table(&self.name).await? {
                Some(_) => Ok(()),
                None => Err(error),
            },
        }
    }
}

#[async_trait]
impl BlobWriter for Writer {
    async fn push(&mut self, piece: Bytes) -> Result<(), Error> {
        if self.state != State::Open {
            return Err(Error::Invalid("a blob is not written on after an error".into()));
        }
        self.summing.push(&piece);
        self.rest.extend_from_slice(&piece);
        while self.rest.len() >= GO_CHUNKS * CHUNK_BYTES {
            self.go(GO_CHUNKS * CHUNK_BYTES).await?;
        }
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<(), Error> {
        if self.state != State::Open {
            return Err(Error::Invalid("a blob is not written on after an error".into()));
        }
        if !self.rest.is_empty() {
            self.go(self.rest.len()).await?;
        }
        self.end().await?;
        self.state = State::Ended;
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if self.state == State::Ended {
            return;
        }
        let (inner, id) = (Arc::clone(&self.inner), std::mem::take(&mut self.id));
        // Where no runtime is left, or the server cannot be reached, a later upload of any node does it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if let Err(error) = inner.rows(GIVE_UP, &[&id]).await {
                    tracing::warn!(%error, "an upload that was given up is left for later");
                }
            });
        }
    }
}

struct Reader {
    inner: Arc<Inner>,
    name: String,
    id: String,
    table: Table,
    at: u64,
    end: u64,
}

#[async_trait]
impl BlobReader for Reader {
    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        if self.at >= self.end {
            return Ok(None);
        }
        let first = self.at / CHUNK_BYTES as u64;
        let last = ((self.end - 1) / CHUNK_BYTES as u64).min(first + GO_CHUNKS as u64 - 1);
        let (from, to) = (first.cast_signed(), last.cast_signed());
        let sql = "SELECT content FROM {}.chunks WHERE id = $1 AND number BETWEEN $2 AND $3 ORDER BY number";
        let rows = self.inner.rows(sql, &[&self.id, &from, &to]).await?;
        if rows.len() as u64 != last - first + 1 {
            return Err(self.missing().await);
        }
        let mut content = BytesMut::new();
        for (chunk, row) in (first..).zip(&rows) {
            let piece: &[u8] = row.get(0);
            if !self.table.holds(chunk, piece) {
                return Err(damaged(&self.name));
            }
            content.extend_from_slice(piece);
        }
        let start = first * CHUNK_BYTES as u64;
        let content = content.freeze();
        let cut = |place: u64| usize::try_from(place - start).unwrap_or(usize::MAX).min(content.len());
        let piece = content.slice(cut(self.at)..cut(self.end));
        self.at += piece.len() as u64;
        Ok(Some(piece))
    }
}

impl Reader {
    /// Why chunks are not there: the blob was removed meanwhile, or is damaged.
    async fn missing(&self) -> Error {
        match self.inner.table(&self.name).await {
            Ok(Some((id, _))) if id == self.id => damaged(&self.name),
            Ok(_) => Error::Io(format!("the blob {} was removed while it was read", self.name)),
            Err(error) => error,
        }
    }
}

fn damaged(name: &str) -> Error {
    Error::Corrupt(format!("the blob {name} is damaged"))
}

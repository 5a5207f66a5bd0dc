//! The PostgreSQL engine: any number of equal nodes over one database.
//!
//! What every engine answers is decided by the same pure code (`commit::decide`); PostgreSQL keeps the entries, flushes
//! them, and gives the one lock that makes batches of all nodes happen one after another. That one lock is the whole
//! discipline of isolation: every writer takes it before it looks at what it decides by, or has that compared under it,
//! and holds it to the end of its flush. So decisions need no help of the server's isolation levels, and versions are
//! consecutive over all nodes. Each node merges what waits into one transaction, so that a commit costs its share of a
//! lock, a round trip and a flush.
//!
//! The way of a commit: `Postgres::commit` → `committer` → answer, `Watchers`. Other nodes hear of it by `listener`.
//! The way of a read: `reader`.
//!
//! Invariants
//!   1. What is answered with success is committed with `synchronous_commit = on`, relaxed or not: where several nodes
//!      have read a commit, none may forget it. (Survives what the server's own settings survive: replicas that are
//!      promoted must have been synchronous.)
//!   2. No transaction happens twice, also when answers are lost (`committer`).
//!   3. Nodes keep no state that another one needs; one that ends leaves nothing behind but an idle lock for the server
//!      to end.
//!
//! Start reading at `committer`.

mod address;
mod committer;
mod listener;
mod merge;
mod reader;
mod schema;
mod session;
mod tls;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use base::Random;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio::time::Instant;

pub(crate) use self::address::Connecting;
use self::committer::Committer;
use self::reader::Readers;
pub(crate) use self::session::{Session, fault};
use crate::commit::job::{Done, Job, Work};
use crate::contract::{Claim, Claims, Entry, Error, SNAPSHOT_LIFE_MS, Snapshot, Store, Txn, Version, Watch};
use crate::embedded::OnFatal;
use crate::stats::{Lag, Pace, Replica, Stats};
use crate::watchers::Watchers;

/// Most transactions that wait.
const WAITING_JOBS_MAX: usize = 8_192;
/// Most bytes that wait.
const WAITING_BYTES_MAX: usize = 32 * 1024 * 1024;

/// The replicas that follow the database. Most of a row is null for who may not see it.
const REPLICAS: &str = "SELECT coalesce(application_name, 'unnamed'),
    pg_wal_lsn_diff(pg_current_wal_flush_lsn(), flush_lsn)::bigint, coalesce(sync_state IN ('sync', 'quorum'), false)
    FROM pg_stat_replication WHERE state IS DISTINCT FROM 'backup' ORDER BY 1, pid";

/// Where and how a store is opened.
#[derive(Clone)]
pub struct PostgresConfig {
    /// `postgres://user:password@host:port/database`, or `key=value` words; several hosts are tried in turn, and one
    /// that takes writes is chosen.
    pub url: String,
    /// The schema that holds the tables; made if there is none. Nothing else may lie in it.
    pub schema: String,
    /// Certificates (PEM) that the server's is verified with, where the address asks for that and names none.
    pub roots_pem: String,
    /// The next commit comes after this one at least: for a store that is filled from another, whose numbered keys must
    /// stay before all later ones.
    pub version_min: Version,
    /// Names this node.
    pub random: Arc<dyn Random>,
    /// How long is waited for what.
    pub deadlines: Deadlines,
    /// Whether transactions that wait together become one of the server's. Off only to measure what that brings.
    pub merging: bool,
    /// What is done when the end of a commit cannot be found out. Nothing that was not answered by then is ever
    /// answered with success.
    pub on_fatal: OnFatal,
}

/// How long a node waits.
#[derive(Debug, Clone, Copy)]
pub struct Deadlines {
    /// For a server that cannot be reached, before transactions are refused.
    pub unreachable: Duration,
    /// For the answers of one round trip. A server that takes in what is sent and then is silent counts as gone.
    pub round_trip: Duration,
    /// For the end of a batch whose answer was lost.
    pub unknown: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        let [unreachable, round_trip, unknown] = [10, 10, 40].map(Duration::from_secs);
        Self { unreachable, round_trip, unknown }
    }
}

impl PostgresConfig {
    /// The store in schema `dunlin` of a database; the process ends (status 70) when it cannot go on.
    pub fn new(url: impl Into<String>, random: Arc<dyn Random>) -> Self {
        let on_fatal: OnFatal = Arc::new(|_| std::process::exit(70));
        let (schema, roots_pem) = ("dunlin".to_owned(), String::new());
        Self {
            url: url.into(),
            schema,
            roots_pem,
            version_min: 0,
            random,
            deadlines: Deadlines::default(),
            merging: true,
            on_fatal,
        }
    }

    /// Where the database is, for people: `host:port/database`, without user and password.
    ///
    /// # Errors
    /// `Invalid` if the address cannot be read.
    pub fn described(&self) -> Result<String, Error> {
        Ok(address::described(&address::parse(&self.url, &self.roots_pem, self.deadlines.round_trip)?.config))
    }
}

/// A store in a PostgreSQL database: one node of it.
pub struct Postgres {
    shared: Arc<Shared>,
    readers: Arc<Readers>,
    /// Taken away when the store is closed.
    jobs: Mutex<Option<mpsc::Sender<Job>>>,
    running: Mutex<Option<Running>>,
}

/// What the tasks and the callers share.
struct Shared {
    connecting: Connecting,
    schema: String,
    /// Tells this node's batches from others'.
    node: String,
    deadlines: Deadlines,
    merging: bool,
    watchers: Watchers,
    pace: Pace,
    /// Up to this commit of any node watches have been told.
    told: AtomicU64,
    /// Wakes the listener after each batch, so that it tells the other nodes.
    committed: Notify,
    waiting_bytes: AtomicUsize,
    closed: AtomicBool,
    on_fatal: OnFatal,
}

struct Running {
    committer: JoinHandle<()>,
    listener: JoinHandle<()>,
}

/// Connects, makes the tables if there are none, and starts this node's tasks.
pub async fn open(config: PostgresConfig) -> Result<Postgres, Error> {
    let connecting = prepare(&config).await?;
    let session = Session::open(&connecting, |_| ()).await?;
    let sql = format!("UPDATE {}.meta SET version = $1 WHERE version < $1", config.schema);
    session.answer(session.client.execute(&sql, &[&config.version_min.cast_signed()])).await?;
    let sql = format!("SELECT version FROM {}.meta", config.schema);
    let version = session.answer(session.client.query_one(&sql, &[])).await?.get::<_, i64>(0).cast_unsigned();
    let shared = Arc::new(Shared {
        connecting: connecting.clone(),
        schema: config.schema.clone(),
        node: config.random.uuid(),
        deadlines: config.deadlines,
        merging: config.merging,
        watchers: Watchers::default(),
        pace: Pace::default(),
        told: AtomicU64::new(version),
        committed: Notify::new(),
        waiting_bytes: AtomicUsize::new(0),
        closed: AtomicBool::new(false),
        on_fatal: config.on_fatal,
    });
    let (jobs, waiting) = mpsc::channel(WAITING_JOBS_MAX);
    let committer = tokio::spawn(Committer::new(Arc::clone(&shared), waiting, version).run());
    let listener = tokio::spawn(listener::run(Arc::clone(&shared)));
    let readers = Arc::new(Readers::new(connecting, config.schema));
    Ok(Postgres {
        shared,
        readers,
        jobs: Mutex::new(Some(jobs)),
        running: Mutex::new(Some(Running { committer, listener })),
    })
}

/// Reads the address, connects, and makes the tables if there are none.
pub(crate) async fn prepare(config: &PostgresConfig) -> Result<Connecting, Error> {
    schema::check_name(&config.schema)?;
    let connecting = address::parse(&config.url, &config.roots_pem, config.deadlines.round_trip)?;
    let session = Session::open(&connecting, |_| ()).await?;
    schema::prepare(&session.client, &config.schema).await?;
    Ok(connecting)
}

impl Shared {
    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    fn fatal(&self, reason: &str) {
        tracing::error!(reason, "the store cannot go on");
        (self.on_fatal)(reason);
        self.closed.store(true, Ordering::Relaxed);
        self.watchers.close();
    }
}

impl Postgres {
    /// Finishes the commits that wait and lets the connections go. Later calls are `Error::Closed`; watches end.
    pub async fn close(&self) -> Result<(), Error> {
        let Some(running) = self.running.lock().take() else { return Ok(()) };
        self.shared.closed.store(true, Ordering::Relaxed);
        // What was taken in before this is finished.
        drop(self.jobs.lock().take());
        let ended = running.committer.await;
        running.listener.abort();
        self.shared.watchers.close();
        self.readers.close().await;
        ended.map_err(|error| Error::Io(format!("the committer did not end by itself: {error}")))
    }
}

impl Postgres {
    async fn done(&self, work: Work) -> Result<Done, Error> {
        let (job, outcome) = Job::new(work)?;
        let (bytes, began) = (job.bytes, Instant::now());
        let jobs = self.jobs.lock().clone().filter(|_| !self.shared.is_closed()).ok_or(Error::Closed)?;
        if self.shared.waiting_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes > WAITING_BYTES_MAX {
            self.shared.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
            return Err(Error::Busy);
        }
        if let Err(refused) = jobs.try_send(job) {
            self.shared.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
            return Err(match refused {
                mpsc::error::TrySendError::Full(_) => Error::Busy,
                mpsc::error::TrySendError::Closed(_) => Error::Closed,
            });
        }
        drop(jobs);
        let outcome = outcome.await.unwrap_or(Err(Error::Closed));
        self.shared.pace.took(u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX));
        outcome
    }
}

impl Postgres {
    /// Asked over a connection of its own: it is wanted above all when others are down.
    async fn lag(&self) -> Result<Lag, Error> {
        let session = Session::open(&self.shared.connecting, |_| ()).await?;
        let version = format!("SELECT version FROM {}.meta", self.shared.schema);
        let version = session.answer(session.client.query_one(&version, &[])).await?.get::<_, i64>(0).cast_unsigned();
        let untold = version.saturating_sub(self.shared.told.load(Ordering::Relaxed));
        let replicas = session.answer(session.client.query(REPLICAS, &[])).await?;
        let replicas = replicas.iter().map(|row| Replica {
            name: row.get(0),
            behind_bytes: row.get::<_, Option<i64>>(1).map(|bytes| bytes.max(0).cast_unsigned()),
            synchronous: row.get(2),
        });
        Ok(Lag::Database { untold, replicas: replicas.collect() })
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Some(running) = self.running.lock().take() {
            running.committer.abort();
            running.listener.abort();
        }
        self.shared.watchers.close();
    }
}

#[async_trait]
impl Store for Postgres {
    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, Error> {
        self.readers.snapshot(Duration::from_millis(SNAPSHOT_LIFE_MS)).await
    }

    async fn long_snapshot(&self, life_ms: u64) -> Result<Box<dyn Snapshot>, Error> {
        self.readers.snapshot(Duration::from_millis(life_ms)).await
    }

    async fn commit(&self, txn: Txn) -> Result<Version, Error> {
        self.done(Work::Commit(txn)).await?.version()
    }

    async fn claim(&self, claim: Claim) -> Result<Claims, Error> {
        self.done(Work::Claim(claim)).await?.claims()
    }

    fn watch(&self, prefix: &[u8]) -> Watch {
        self.shared.watchers.watch(prefix)
    }

    async fn stats(&self) -> Result<Stats, Error> {
        Ok(self.shared.pace.stats(Some(self.lag().await?)))
    }

    async fn get(&self, key: &[u8]) -> Result<Option<Entry>, Error> {
        self.readers.get(key).await
    }
}

//! The embedded engine: one append-only log before a tree in SQLite, and one committer that commits in groups.
//!
//! A commit is one flushed write to the log, which many commits share. It is readable at once, through the overlay in
//! memory; the tree takes it over behind, sorted, thousands at a time, without a flush for each. A store that was killed
//! reads its log and goes on.
//!
//! The way of a commit: `Embedded::commit` → `turns`, `queue` → `committer` (`commit::decide`, `log`, `overlay`) → answer, `Watchers`.
//! Behind it: `overlay` → `applier` → the tree (`schema`) → the log's segments are free again.
//! The way of a read: `reader`: the overlay, then what is `kept`, then the tree, on a connection of its own, beside every commit.
//!
//! Invariants
//!   1. One process per folder (`lock`), one committer (`turns`), one thread that writes into the tree.
//!   2. What is answered with success is durable as asked; what is readable is committed.
//!   3. A failed flush ends the process (`EmbeddedConfig::on_fatal`); the next open recovers from the log.
//!
//! Start reading at `committer`, then `overlay`.

mod applier;
mod committer;
pub mod disk;
mod idle;
mod kept;
mod limits;
mod lock;
mod log;
mod overlay;
mod pages;
mod queue;
mod reader;
mod record;
mod schema;
mod stepped;
mod turns;

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use async_trait::async_trait;
use base::{Clock, Random, SystemRandom};
use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::SetOnce;

use self::applier::{Applier, Behind, Worker};
use self::committer::Committer;
use self::disk::{Disk, FolderDisk};
pub use self::limits::Limits;
pub use self::lock::FolderLock;
use self::log::{Log, Writer};
use self::overlay::Overlay;
use self::queue::Queue;
use self::reader::Readers;
use self::schema::Fault;
pub use self::stepped::{Progress, Stepped, open_stepped};
use self::turns::Turns;
use crate::commit::job::{Done, Job, Work};
use crate::contract::{
    Claim, Claims, Entry, Error, Page, Range, SNAPSHOT_LIFE_MS, Snapshot, Store, Txn, Version, Watch,
};
use crate::stats::{Pace, Stats};
use crate::watchers::Watchers;

/// What is done when the store cannot go on; told why. It should end the process.
pub type OnFatal = Arc<dyn Fn(&str) + Send + Sync>;

/// Where and how a store is opened.
#[derive(Clone)]
pub struct EmbeddedConfig {
    /// The folder of the store; made if there is none. Nothing else may lie in it.
    pub folder: PathBuf,
    /// Tells the age of snapshots, when leases end, and when something is due.
    pub clock: Arc<dyn Clock>,
    /// Makes the mark of a new store's log.
    pub random: Arc<dyn Random>,
    /// Most bytes of the tree's file, rounded down to pages of 4 KB; beyond, commits are `Error::DiskFull`. None: the disk's.
    pub size_bytes_max: Option<u64>,
    /// The next commit comes after this one at least: for a store that is filled from another, whose numbered keys must
    /// stay before all later ones.
    pub version_min: Version,
    /// Where the files of the log are; the folder by default.
    pub log_disk: Option<Arc<dyn Disk>>,
    /// The sizes at which the engine acts.
    pub limits: Limits,
    /// What is done when the store cannot go on. Nothing that was not answered by then is ever answered with success.
    pub on_fatal: OnFatal,
}

impl EmbeddedConfig {
    /// A store in `folder`, as large as the disk, that ends the process (status 70) when it cannot go on.
    pub fn new(folder: impl Into<PathBuf>, clock: Arc<dyn Clock>) -> Self {
        let on_fatal: OnFatal = Arc::new(|_| std::process::exit(70));
        Self {
            folder: folder.into(),
            clock,
            random: SystemRandom::shared(),
            size_bytes_max: None,
            version_min: 0,
            log_disk: None,
            limits: Limits::default(),
            on_fatal,
        }
    }
}

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process, or this one, has it open.
    #[error("the data folder {folder:?} is in use by process {holder}")]
    InUse {
        /// The folder.
        folder: PathBuf,
        /// The number of the process that has it.
        holder: String,
    },
    /// Written by a newer release.
    #[error("the store has format {found}, but this release knows formats up to {known}: use a newer release")]
    NewerFormat {
        /// The format of the file.
        found: i64,
        /// The newest that this code knows.
        known: i64,
    },
    /// A file of another program.
    #[error("the file store.db in the data folder belongs to another program")]
    Foreign,
    /// Not readable as what it should be.
    #[error("the store is damaged: {0}")]
    Damaged(String),
    /// The folder or the file cannot be used.
    #[error("the store cannot be opened: {0}")]
    Io(String),
}

impl From<std::io::Error> for OpenError {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error.to_string())
    }
}

impl From<rusqlite::Error> for OpenError {
    fn from(error: rusqlite::Error) -> Self {
        Fault::from(error).into()
    }
}

impl From<Fault> for OpenError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Corrupt(text) => Self::Damaged(text),
            Fault::Broken(text) => Self::Io(text),
            Fault::DiskFull => Self::Io("the disk is full".to_owned()),
        }
    }
}

/// A store in a folder of this machine.
pub struct Embedded {
    shared: Arc<Shared>,
    /// Of a store with threads.
    turns: Option<Arc<Turns>>,
    running: Mutex<Option<Running>>,
}

/// What the threads and the callers share.
struct Shared {
    clock: Arc<dyn Clock>,
    limits: Limits,
    queue: Queue,
    overlay: Arc<Overlay>,
    log: Arc<Log>,
    applier: Applier,
    readers: Arc<Readers>,
    watchers: Watchers,
    pace: Pace,
    on_fatal: OnFatal,
    failing: AtomicBool,
    /// Why the store could not go on; set after `on_fatal`.
    failed: SetOnce<Error>,
}

/// What ends with the store; the lock last.
struct Running {
    threads: Vec<JoinHandle<()>>,
    _lock: FolderLock,
}

/// A store that nobody works for yet.
struct Parts {
    shared: Arc<Shared>,
    worker: Worker,
    /// What a committer is made of.
    reader: Connection,
    writer: Writer,
    version: Version,
    lock: FolderLock,
}

/// Opens the store of a folder, recovering from its log what an earlier process left there.
/// Blocks for some milliseconds, after a crash for as long as reading a log of 60 MB and copying the tree's takes. Needs a tokio runtime from the first read on.
pub fn open(config: EmbeddedConfig) -> Result<Embedded, OpenError> {
    let Parts { shared, worker, reader, writer, version, lock } = prepare(config, true)?;
    let committer = Committer::new(Behind::thread(Arc::clone(&shared)), Arc::clone(&shared), reader, writer, version);
    let turns = Arc::new(Turns::new(Arc::clone(&shared), committer));
    let own = Arc::clone(&turns);
    let threads =
        vec![start(&shared, "store-committer", move || own.run())?, start(&shared, "store-applier", || worker.run())?];
    Ok(Embedded { shared, turns: Some(turns), running: Mutex::new(Some(Running { threads, _lock: lock })) })
}

/// Recovers a store; `threads` says whether its readers may use some.
fn prepare(config: EmbeddedConfig, threads: bool) -> Result<Parts, OpenError> {
    base::folders::make(&config.folder, 0o700)?;
    let lock = FolderLock::take(&config.folder)?;
    let file = config.folder.join("store.db");
    let (connection, applied) = schema::open_writer(&file, config.size_bytes_max, config.limits.wal_bytes)?;
    let mark = schema::mark(&connection, &*config.random)?;
    // What a killed process has left in the library's log may be in the page cache only, and after a flush that failed
    // the kernel may take it for clean. But where the tree has commits, the store's log is written anew. So all of it is
    // copied into the file and flushed; where the disk is full, at least flushed.
    if !applier::checkpoint(&connection, "TRUNCATE")? {
        File::open(config.folder.join("store.db-wal"))?.sync_all()?;
    }
    let reader = schema::open_reader(&file, reader::CACHE_KIB)?;
    let disk = config.log_disk.unwrap_or_else(|| FolderDisk::shared(&config.folder));
    let log::Opened { log, mut writer, chain } =
        Log::open(Arc::clone(&disk), config.limits.segment_bytes, mark, applied)?;
    // The entries of new files, too, must survive a power loss: those of the log, and those beside it.
    disk.sync_names()?;
    File::open(&config.folder)?.sync_all()?;
    let overlay = Arc::new(Overlay::after(applied, config.limits));
    for record in chain {
        overlay.publish(record.writes, record.last, record.log_bytes);
    }
    let mut version = overlay.published();
    let shared = Arc::new(Shared {
        clock: Arc::clone(&config.clock),
        limits: config.limits,
        queue: Queue::new(config.limits.batch_bytes),
        readers: Arc::new(Readers::new(file, Arc::clone(&overlay), config.clock, threads)),
        overlay,
        log,
        applier: Applier::default(),
        watchers: Watchers::default(),
        pace: Pace::default(),
        on_fatal: config.on_fatal,
        failing: AtomicBool::new(false),
        failed: SetOnce::new(),
    });
    let mut worker = Worker::new(Arc::clone(&shared), connection)?;
    if version < config.version_min {
        version = config.version_min;
        worker.jump(version)?;
        writer.jump(version);
    }
    Ok(Parts { shared, worker, reader, writer, version, lock })
}

/// Starts a thread whose failure, by error or by panic, ends the store.
fn start(
    shared: &Arc<Shared>,
    name: &str,
    work: impl FnOnce() -> Result<(), Fault> + Send + 'static,
) -> Result<JoinHandle<()>, OpenError> {
    let shared = Arc::clone(shared);
    Ok(thread::Builder::new().name(name.to_owned()).spawn(move || shared.guard(work))?)
}

impl Shared {
    /// Works; a failure, by error or by panic, ends the store.
    fn guard(&self, work: impl FnOnce() -> Result<(), Fault>) {
        match catch_unwind(AssertUnwindSafe(work)) {
            Ok(Ok(())) => {}
            Ok(Err(fault)) => self.fail(fault),
            Err(_) => self.fatal("a thread of the store panicked"),
        }
    }

    /// Ends the store for good.
    fn fail(&self, fault: Fault) {
        self.fatal(&Error::from(fault).to_string());
    }

    /// Ends the store for good.
    fn fatal(&self, reason: &str) {
        tracing::error!(reason, "the store cannot go on");
        // One thread may fail because the other one has.
        if self.failing.swap(true, Ordering::SeqCst) {
            return;
        }
        // First this, which should not return: whose commit is in doubt must not be told that it failed.
        (self.on_fatal)(reason);
        self.applier.abort();
        self.watchers.close();
        self.readers.close();
        let reason = Error::Io(reason.to_owned());
        self.queue.poison(reason.clone());
        let _ = self.failed.set(reason);
    }
}

impl Embedded {
    /// Finishes the commits that wait, writes all of them into the tree, and lets the folder go. Later calls are
    /// `Error::Closed`; watches end. Returns when all of it is done; a second call does nothing.
    pub async fn close(&self) -> Result<(), Error> {
        let Some(running) = self.begin_close() else { return Ok(()) };
        let ended = tokio::task::spawn_blocking(move || running.join());
        ended.await.map_err(|error| Error::Io(error.to_string()))?;
        match self.shared.queue.reason() {
            Error::Closed => Ok(()),
            failed => Err(failed),
        }
    }

    async fn done(&self, work: Work) -> Result<Done, Error> {
        let (job, outcome) = Job::new(work)?;
        let began_us = self.shared.clock.monotonic_us();
        match &self.turns {
            Some(turns) => turns.submit(job)?,
            None => self.shared.queue.push(job)?,
        }
        let outcome = outcome.await;
        self.shared.pace.took(self.shared.clock.monotonic_us().saturating_sub(began_us));
        match outcome {
            Ok(outcome) => outcome,
            // Only a failing store drops a job without an answer: whether it happened, the next open will tell.
            Err(_) => Err(self.shared.failed.wait().await.clone()),
        }
    }

    fn begin_close(&self) -> Option<Running> {
        let running = self.running.lock().take()?;
        self.shared.queue.close(Error::Closed);
        self.shared.watchers.close();
        Some(running)
    }
}

impl Running {
    fn join(self) {
        for thread in self.threads {
            // One that failed has said so through `Shared::fatal`.
            let _ = thread.join();
        }
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        if let Some(running) = self.begin_close() {
            running.join();
        }
    }
}

#[async_trait]
impl Store for Embedded {
    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, Error> {
        self.shared.readers.snapshot(SNAPSHOT_LIFE_MS).await
    }

    /// Takes one of the places for snapshots. While it lives the tree's log cannot start anew, and grows by what is
    /// written.
    async fn long_snapshot(&self, life_ms: u64) -> Result<Box<dyn Snapshot>, Error> {
        self.shared.readers.snapshot(life_ms).await
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
        Ok(self.shared.pace.stats(Some(self.shared.overlay.lag())))
    }

    async fn get(&self, key: &[u8]) -> Result<Option<Entry>, Error> {
        self.shared.readers.get(key)
    }

    async fn range(&self, range: &Range) -> Result<Page, Error> {
        match self.shared.readers.short_page(range)? {
            Some(page) => Ok(page),
            None => self.snapshot().await?.range(range).await,
        }
    }
}

//! The embedded engine: SQLite in WAL mode behind one committer thread that commits in groups.
//!
//! SQLite keeps the tree, its log and crash recovery; conflict detection, versions, batching, watches and limits are
//! ours, so that every engine answers alike. Measured beside redb, LMDB and fjall it wins no column and has no bad one:
//! opens in milliseconds after a crash, does not degrade under queues, no limit on keys, a format promised for decades.
//!
//! The way of a commit: `Embedded::commit` → `queue` → `committer` (`commit::decide`, then SQLite) → answer, `Watchers`.
//! The way of a read: `reader`, on a connection of its own, beside every commit. `janitor` keeps the log short.
//!
//! Invariants
//!   1. One process per folder (`lock`), one writing connection, one thread that uses it.
//!   2. What is answered with success is durable as asked; what is readable is committed.
//!   3. A failed flush ends the process (`EmbeddedConfig::on_fatal`); the next open recovers from the log.
//!
//! Start reading at `committer`.

mod committer;

mod janitor;
mod lock;
mod queue;
mod reader;

mod schema;

use std::fs::{self, File};
use std::os::unix::fs::DirBuilderExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use async_trait::async_trait;
use base::Clock;
use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::{SetOnce, oneshot};

use self::committer::Committer;
use self::janitor::Janitor;
use self::lock::FolderLock;
use self::queue::{Job, Queue};
use self::reader::Readers;
use self::schema::Fault;
use crate::contract::{Entry, Error, SNAPSHOT_LIFE_MS, Snapshot, Store, Txn, Version, Watch};
use crate::watchers::Watchers;

/// What is done when the store cannot go on; told why. It should end the process.
pub type OnFatal = Arc<dyn Fn(&str) + Send + Sync>;

/// Where and how a store is opened.
#[derive(Clone)]
pub struct EmbeddedConfig {
    /// The folder of the store; made if there is none. Nothing else may lie in it.
    pub folder: PathBuf,
    /// Tells the age of snapshots.
    pub clock: Arc<dyn Clock>,
    /// Most bytes of the file, rounded down to pages of 4 KB; beyond, commits are `Error::DiskFull`. None: the disk's.
    pub size_bytes_max: Option<u64>,
    /// The next commit comes after this one at least: for a store that is filled from another, whose numbered keys must
    /// stay before all later ones.
    pub version_min: Version,
    /// What is done when the store cannot go on. Nothing that was not answered by then is ever answered with success.
    pub on_fatal: OnFatal,
}

impl EmbeddedConfig {
    /// A store in `folder`, as large as the disk, that ends the process (status 70) when it cannot go on.
    pub fn new(folder: impl Into<PathBuf>, clock: Arc<dyn Clock>) -> Self {
        let on_fatal: OnFatal = Arc::new(|_| std::process::exit(70));
        Self { folder: folder.into(), clock, size_bytes_max: None, version_min: 0, on_fatal }
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
        match Fault::from(error) {
            Fault::Corrupt(text) => Self::Damaged(text),
            Fault::Broken(text) => Self::Io(text),
            Fault::DiskFull => Self::Io("the disk is full".to_owned()),
        }
    }
}

/// A store in a folder of this machine.
pub struct Embedded {
    shared: Arc<Shared>,
    running: Mutex<Option<Running>>,
}

/// What the threads and the callers share.
struct Shared {
    queue: Queue,
    readers: Arc<Readers>,
    watchers: Watchers,
    janitor: Janitor,
    /// Held during a checkpoint: two at once would only be in each other's way.
    checkpoints: Mutex<()>,
    on_fatal: OnFatal,
    /// Why the store could not go on; set after `on_fatal`.
    failed: SetOnce<Error>,
}

/// What ends with the store; the lock last.
struct Running {
    committer: JoinHandle<()>,
    janitor: JoinHandle<()>,
    _lock: FolderLock,
}

/// Opens the store of a folder, recovering from its log what an earlier process left there.
/// Blocks for some milliseconds. Needs a tokio runtime from the first read on.
pub fn open(config: EmbeddedConfig) -> Result<Embedded, OpenError> {
    make_folder(&config.folder)?;
    let lock = FolderLock::take(&config.folder)?;
    let file = config.folder.join("store.db");
    let (connection, version) = schema::open_writer(&file, config.size_bytes_max)?;
    if version < config.version_min {
        schema::set_version(&connection, config.version_min)?;
    }
    let version = version.max(config.version_min);
    let checkpointer = schema::open_checkpointer(&file)?;
    // The entries of new files, too, must survive a power loss.
    File::open(&config.folder)?.sync_all()?;
    let shared = Arc::new(Shared {
        queue: Queue::default(),
        readers: Arc::new(Readers::new(file, config.clock)),
        watchers: Watchers::default(),
        janitor: Janitor::default(),
        checkpoints: Mutex::default(),
        on_fatal: config.on_fatal,
        failed: SetOnce::new(),
    });
    let committer = Committer::new(Arc::clone(&shared), connection, version);
    let committer = start(&shared, "store-committer", |_| committer.run())?;
    let janitor = start(&shared, "store-janitor", move |shared| Janitor::run(shared, &checkpointer))?;
    let running = Mutex::new(Some(Running { committer, janitor, _lock: lock }));
    Ok(Embedded { shared, running })
}

fn make_folder(folder: &Path) -> Result<(), OpenError> {
    if folder.is_dir() {
        return Ok(());
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    if let Some(parent) = folder.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        File::open(parent)?.sync_all()?;
    }
    Ok(())
}

/// Starts a thread whose failure, by error or by panic, ends the store.
fn start(
    shared: &Arc<Shared>,
    name: &str,
    work: impl FnOnce(&Arc<Shared>) -> Result<(), Fault> + Send + 'static,
) -> Result<JoinHandle<()>, OpenError> {
    let shared = Arc::clone(shared);
    let body = move || match catch_unwind(AssertUnwindSafe(|| work(&shared))) {
        Ok(Ok(())) => {}
        Ok(Err(fault)) => shared.fatal(&Error::from(fault).to_string()),
        Err(_) => shared.fatal("a thread of the store panicked"),
    };
    Ok(thread::Builder::new().name(name.to_owned()).spawn(body)?)
}

impl Shared {
    /// Copies the log into the file, as far as no reader needs it.
    fn checkpoint(&self, connection: &Connection) -> Result<(), Fault> {
        let _alone = self.checkpoints.lock();
        committer::checkpoint(connection, "PASSIVE").map(drop)
    }

    /// Ends the store for good.
    fn fatal(&self, reason: &str) {
        tracing::error!(reason, "the store cannot go on");
        // First this, which should not return: whose commit is in doubt must not be told that it failed.
        (self.on_fatal)(reason);
        let reason = Error::Io(reason.to_owned());
        self.queue.poison(reason.clone());
        // The second of two failures tells nothing new.
        let _ = self.failed.set(reason);
        self.janitor.stop();
        self.watchers.close();
        self.readers.close();
    }
}

impl Embedded {
    /// Finishes the commits that wait, flushes, empties the log, and lets the folder go. Later calls are
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

    fn begin_close(&self) -> Option<Running> {
        let running = self.running.lock().take()?;
        self.shared.queue.close(Error::Closed);
        self.shared.janitor.stop();
        self.shared.watchers.close();
        Some(running)
    }
}

impl Running {
    fn join(self) {
        // A thread that failed has said so through `Shared::fatal`.
        let _ = self.janitor.join();
        let _ = self.committer.join();
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

    /// Takes one of the places for snapshots. While it lives the log cannot start anew, and grows by what is written.
    async fn long_snapshot(&self, life_ms: u64) -> Result<Box<dyn Snapshot>, Error> {
        self.shared.readers.snapshot(life_ms).await
    }

    async fn commit(&self, txn: Txn) -> Result<Version, Error> {
        let bytes = txn.bytes_within_limits()?;
        let (answer, outcome) = oneshot::channel();
        self.shared.queue.push(Job { txn, bytes, answer })?;
        match outcome.await {
            Ok(outcome) => outcome,
            // Only a failing store drops a transaction without an answer: whether it happened, the next open will tell.
            Err(_) => Err(self.shared.failed.wait().await.clone()),
        }
    }

    fn watch(&self, prefix: &[u8]) -> Watch {
        self.shared.watchers.watch(prefix)
    }

    async fn get(&self, key: &[u8]) -> Result<Option<Entry>, Error> {
        self.shared.readers.get(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::SystemClock;

    #[tokio::test]
    async fn the_log_starts_anew_even_if_the_janitor_never_comes() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(EmbeddedConfig::new(folder.path(), SystemClock::shared())).unwrap();
        store.shared.janitor.stop();
        for round in 0..40u8 {
            let txn =
                Txn::new().put(vec![round % 4, 0], vec![round; 2_000_000]).put(vec![round % 4, 1], vec![0; 2_000_000]);
            store.commit(txn).await.unwrap();
        }
        let log = fs::metadata(folder.path().join("store.db-wal")).unwrap().len();
        assert!(log > 0 && log < schema::LOG_BYTES_MAX + 10_000_000, "the log is {log} bytes long");
    }
}

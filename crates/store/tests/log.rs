//! The embedded engine over disks that fail: power cuts, damage, full disks, failed flushes.
//!
//! The log lies on a simulated disk, which knows what was flushed. A cut takes an image of it, in which every block that
//! was written and not flushed is there or not, by chance; a new store, with an empty tree, then has only this log.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use base::{ManualClock, Random, SeededRandom, SystemClock};
use parking_lot::Mutex;
use store::embedded::disk::{Disk, DiskFile};
use store::embedded::{self, Embedded, Limits, OpenError};
use store::{EmbeddedConfig, Error, Range, Store, Txn};

/// Every store of these tests has the same mark, so that a log is known to a tree of another folder.
fn mark() -> Arc<dyn Random> {
    SeededRandom::new(0)
}

const BLOCK: usize = 4_096;

/// A disk in memory that remembers what would survive.
#[derive(Default)]
struct SimDisk {
    files: Mutex<BTreeMap<String, Arc<SimFile>>>,
    faults: Arc<Faults>,
}

#[derive(Default)]
struct Faults {
    no_flush: AtomicBool,
    full: AtomicBool,
    flushes: AtomicUsize,
    slow_us: AtomicU64,
}

#[derive(Default)]
struct SimFile {
    content: Mutex<Content>,
    faults: Arc<Faults>,
}

#[derive(Default, Clone)]
struct Content {
    now: Vec<u8>,
    flushed: Vec<u8>,
    /// Blocks in which the two may differ.
    dirty: BTreeSet<usize>,
}

impl Content {
    fn flush(&mut self, blocks: impl Iterator<Item = usize>) {
        for block in blocks {
            let part = block * BLOCK..(block + 1) * BLOCK;
            self.flushed[part.clone()].copy_from_slice(&self.now[part]);
            self.dirty.remove(&block);
        }
    }
}

impl Faults {
    fn flush(&self) -> io::Result<()> {
        std::thread::sleep(Duration::from_micros(self.slow_us.load(Ordering::SeqCst)));
        self.flushes.fetch_add(1, Ordering::SeqCst);
        if self.no_flush.load(Ordering::SeqCst) { Err(io::Error::from_raw_os_error(5)) } else { Ok(()) }
    }
}

impl Disk for SimDisk {
    fn exists(&self, name: &str) -> io::Result<bool> {
        Ok(self.files.lock().contains_key(name))
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let new = || Arc::new(SimFile { faults: Arc::clone(&self.faults), ..SimFile::default() });
        Ok(Arc::clone(self.files.lock().entry(name.to_owned()).or_insert_with(new)) as Arc<dyn DiskFile>)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.files.lock().remove(name);
        Ok(())
    }
    fn sync_names(&self) -> io::Result<()> {
        Ok(())
    }
    fn free_bytes(&self) -> io::Result<u64> {
        Ok(if self.faults.full.load(Ordering::SeqCst) { 0 } else { 1 << 40 })
    }
}

impl DiskFile for SimFile {
    fn reserve(&self, bytes: u64) -> io::Result<()> {
        let mut content = self.content.lock();
        let bytes = content.now.len().max(usize::try_from(bytes).unwrap());
        if self.faults.full.load(Ordering::SeqCst) && bytes > content.now.len() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        content.now.resize(bytes, 0);
        content.flushed.resize(bytes, 0);
        Ok(())
    }
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let offset = usize::try_from(offset).unwrap();
        buffer.copy_from_slice(&self.content.lock().now[offset..offset + buffer.len()]);
        Ok(())
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let (mut content, offset) = (self.content.lock(), usize::try_from(offset).unwrap());
        content.now[offset..offset + bytes.len()].copy_from_slice(bytes);
        content.dirty.extend(offset / BLOCK..(offset + bytes.len()).div_ceil(BLOCK));
        Ok(())
    }
    fn write_synced_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_at(bytes, offset)?;
        self.flush()?;
        let offset = usize::try_from(offset).unwrap();
        self.content.lock().flush(offset / BLOCK..(offset + bytes.len()).div_ceil(BLOCK));
        Ok(())
    }
    fn sync(&self) -> io::Result<()> {
        self.flush()?;
        let mut content = self.content.lock();
        let dirty = std::mem::take(&mut content.dirty);
        content.flush(dirty.into_iter());
        Ok(())
    }
}

impl SimFile {
    /// After a failure, pages count as clean although the disk does not have them: so does the kernel.
    fn flush(&self) -> io::Result<()> {
        self.faults.flush().inspect_err(|_| self.content.lock().dirty.clear())
    }
}

impl SimDisk {
    /// What a cut of the power leaves of it.
    fn cut(&self, random: &dyn Random) -> Arc<Self> {
        let left = Self::default();
        for (name, file) in &*self.files.lock() {
            let mut content = file.content.lock().clone();
            let kept = content.dirty.clone().into_iter().filter(|_| random.next_u64().is_multiple_of(2));
            content.flush(kept.collect::<Vec<_>>().into_iter());
            content = Content { now: content.flushed.clone(), flushed: content.flushed, dirty: BTreeSet::new() };
            let file = SimFile { content: Mutex::new(content), faults: Arc::clone(&left.faults) };
            left.files.lock().insert(name.clone(), Arc::new(file));
        }
        Arc::new(left)
    }

    /// Loses a block of the first segment.
    fn lose(&self, block: usize) {
        let files = self.files.lock();
        let mut content = files["log.0"].content.lock();
        content.now[block * BLOCK..(block + 1) * BLOCK].fill(0);
    }

    /// Flips one bit at `at` of the first segment.
    fn flip(&self, at: usize) {
        self.files.lock()["log.0"].content.lock().now[at] ^= 4;
    }
}

struct Opened {
    store: Arc<Embedded>,
    folder: tempfile::TempDir,
}

fn open_in(folder: &Path, disk: &Arc<SimDisk>, on_fatal: embedded::OnFatal) -> Result<Arc<Embedded>, OpenError> {
    let log_disk: Option<Arc<dyn Disk>> = Some(Arc::clone(disk) as Arc<dyn Disk>);
    let config =
        EmbeddedConfig { random: mark(), log_disk, on_fatal, ..EmbeddedConfig::new(folder, SystemClock::shared()) };
    Ok(Arc::new(embedded::open(config)?))
}

fn never() -> embedded::OnFatal {
    Arc::new(|reason| panic!("the store failed: {reason}"))
}

fn try_open(disk: &Arc<SimDisk>, on_fatal: embedded::OnFatal) -> Result<Opened, OpenError> {
    let folder = tempfile::tempdir().unwrap();
    Ok(Opened { store: open_in(folder.path(), disk, on_fatal)?, folder })
}

fn open(disk: &Arc<SimDisk>) -> Opened {
    try_open(disk, never()).unwrap()
}

fn number(value: &[u8]) -> u64 {
    u64::from_le_bytes(value[..8].try_into().unwrap())
}

/// Commits one after another until told to stop; each third is relaxed. Returns nothing: `flushed` says what is safe.
async fn commit_on(store: Arc<Embedded>, writer: u8, flushed: Arc<AtomicU64>, stop: Arc<AtomicBool>) {
    for count in 1u64.. {
        if stop.load(Ordering::SeqCst) {
            return;
        }
        let value = [&count.to_le_bytes()[..], &vec![writer; 900 * (count as usize % 7)]].concat();
        let txn = Txn::new().put(vec![b'c', writer], value.clone()).put(vec![b'd', writer], value);
        let relaxed = count.is_multiple_of(3);
        if store.commit(if relaxed { txn.relaxed() } else { txn }).await.is_err() {
            return;
        }
        if !relaxed {
            flushed.store(count, Ordering::SeqCst);
        }
        tokio::task::yield_now().await;
    }
}

/// The number of cuts; each seed is one.
fn cuts() -> u64 {
    std::env::var("DUNLIN_CUTS").map_or(12, |cuts| cuts.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_loses_nothing_that_was_flushed_and_tears_nothing() {
    let (mut cut_commits, writers) = (0, 4u8);
    for seed in 0..cuts() {
        let random = SeededRandom::new(seed);
        let disk = Arc::new(SimDisk::default());
        disk.faults.slow_us.store(100, Ordering::SeqCst);
        let opened = open(&disk);
        let stop = Arc::new(AtomicBool::new(false));
        let flushed: Vec<_> = (0..writers).map(|_| Arc::new(AtomicU64::new(0))).collect();
        let tasks: Vec<_> = (0..writers)
            .map(|writer| {
                let flushed = Arc::clone(&flushed[usize::from(writer)]);
                tokio::spawn(commit_on(Arc::clone(&opened.store), writer, flushed, Arc::clone(&stop)))
            })
            .collect();
        tokio::time::sleep(Duration::from_micros(random.next_u64() % 20_000)).await;
        // In this order: what is acknowledged after the look may be in the image too.
        let safe: Vec<u64> = flushed.iter().map(|flushed| flushed.load(Ordering::SeqCst)).collect();
        let left = disk.cut(&*random);
        stop.store(true, Ordering::SeqCst);
        for task in tasks {
            task.await.unwrap();
        }
        let again = open(&left);
        for writer in 0..writers {
            let found = |entry: Option<store::Entry>| entry.map_or(0, |entry| number(&entry.value));
            let (c, d) =
                (again.store.get(&[b'c', writer]).await.unwrap(), again.store.get(&[b'd', writer]).await.unwrap());
            assert_eq!(found(c.clone()), found(d), "seed {seed}: torn");
            let safe = safe[usize::from(writer)];
            assert!(found(c.clone()) >= safe, "seed {seed}: {safe} was flushed, {} is there", found(c));
            cut_commits += safe;
        }
        // And it goes on from there; what the cut left behind never comes back.
        let version = again.store.commit(Txn::new().put("after", "x")).await.unwrap();
        let before = again.store.range(&Range::prefix("")).await.unwrap();
        again.store.close().await.unwrap();
        let third = open_in(again.folder.path(), &left.cut(&*random), never()).unwrap();
        assert_eq!(third.snapshot().await.unwrap().version(), version, "seed {seed}");
        assert_eq!(third.range(&Range::prefix("")).await.unwrap(), before, "seed {seed}");
    }
    assert!(cut_commits > 0);
}

#[tokio::test]
async fn a_damaged_middle_of_the_log_is_an_error_and_not_an_older_state() {
    let disk = Arc::new(SimDisk::default());
    let opened = open(&disk);
    for count in 0..10u8 {
        opened.store.commit(Txn::new().put(vec![count], vec![count; 3_000])).await.unwrap();
    }
    let random = SeededRandom::new(1);
    assert_eq!(open(&disk.cut(&*random)).store.range(&Range::prefix("")).await.unwrap().entries.len(), 10);
    for block in 0..9 {
        let left = disk.cut(&*random);
        left.flip(block * BLOCK + 1_000);
        let refused = try_open(&left, Arc::new(|_| {}));
        let Err(OpenError::Damaged(text)) = refused else { panic!("block {block} was not missed") };
        assert!(text.contains(&format!("after {block},")), "{text}");
    }
}

#[tokio::test]
async fn what_a_power_cut_has_left_beyond_a_gap_does_not_come_back_when_the_tree_has_gone_on() {
    let disk = Arc::new(SimDisk::default());
    let opened = open(&disk);
    opened.store.commit(Txn::new().put("kept", "1")).await.unwrap();
    opened.store.commit(Txn::new().put("lost", "2").relaxed()).await.unwrap();
    opened.store.commit(Txn::new().put("beyond", "3").relaxed()).await.unwrap();
    let left = disk.cut(&*SeededRandom::new(1));
    left.files.lock()["log.0"].content.lock().now = disk.files.lock()["log.0"].content.lock().now.clone();
    left.lose(1);
    let again = open(&left);
    assert_eq!(again.store.snapshot().await.unwrap().version(), 1);
    assert_eq!(again.store.commit(Txn::new().put("new", "2")).await.unwrap(), 2);
    // The tree has it then, and does not know in which opening it came about.
    again.store.close().await.unwrap();
    let third = open_in(again.folder.path(), &left, never()).unwrap();
    assert_eq!(third.snapshot().await.unwrap().version(), 2);
    assert_eq!(third.get(b"beyond").await.unwrap(), None);
    assert_eq!(third.get(b"new").await.unwrap().unwrap().value, "2");
}

#[tokio::test]
async fn the_tree_takes_over_nothing_that_the_log_has_not_flushed() {
    let (disk, folder, clock) = (Arc::new(SimDisk::default()), tempfile::tempdir().unwrap(), ManualClock::at_ms(1));
    let log_disk: Option<Arc<dyn Disk>> = Some(Arc::clone(&disk) as Arc<dyn Disk>);
    // Every commit is due at once, so the applier's time comes before the committer's.
    let limits = Limits { due_log_bytes: 1, ..Limits::default() };
    let config = EmbeddedConfig {
        random: mark(),
        log_disk,
        limits,
        on_fatal: never(),
        ..EmbeddedConfig::new(folder.path(), clock)
    };
    let mut stepped = embedded::open_stepped(config).unwrap();
    let store = Arc::clone(stepped.store());
    let commit = tokio::spawn(async move { store.commit(Txn::new().put("a", "1").relaxed()).await });
    while !commit.is_finished() {
        tokio::task::yield_now().await;
        stepped.step_committer();
    }
    let before = disk.faults.flushes.load(Ordering::SeqCst);
    assert_eq!(stepped.step_applier(), embedded::Progress::Worked);
    assert_eq!(stepped.applied(), 0, "one portion is in the tree, and its version is not");
    assert_eq!(disk.faults.flushes.load(Ordering::SeqCst), before + 1);
    let left = open(&disk.cut(&*SeededRandom::new(1)));
    assert_eq!(left.store.get(b"a").await.unwrap().unwrap().value, "1");
}

#[tokio::test]
async fn relaxed_commits_are_flushed_within_a_second() {
    let disk = Arc::new(SimDisk::default());
    let opened = open(&disk);
    let before = disk.faults.flushes.load(Ordering::SeqCst);
    opened.store.commit(Txn::new().put("log", "line").relaxed()).await.unwrap();
    let started = Instant::now();
    assert_eq!(opened.store.get(b"log").await.unwrap().unwrap().value, "line");
    let random = SeededRandom::new(3);
    while disk.faults.flushes.load(Ordering::SeqCst) == before {
        assert!(started.elapsed() < Duration::from_secs(10), "not flushed");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // The flush has been counted before its blocks were taken over.
    opened.store.commit(Txn::new().relaxed()).await.unwrap();
    let left = open(&disk.cut(&*random));
    assert_eq!(left.store.get(b"log").await.unwrap().unwrap().value, "line");
}

#[tokio::test]
async fn nothing_is_in_the_tree_that_is_not_flushed_in_the_log() {
    let disk = Arc::new(SimDisk::default());
    let folder = tempfile::tempdir().unwrap();
    let log_disk: Option<Arc<dyn Disk>> = Some(Arc::clone(&disk) as Arc<dyn Disk>);
    // Every commit is written into the tree at once, long before relaxed ones are flushed by themselves.
    let limits = Limits { due_log_bytes: 1, ..Limits::default() };
    let config = EmbeddedConfig {
        random: mark(),
        log_disk,
        limits,
        ..EmbeddedConfig::new(folder.path(), SystemClock::shared())
    };
    let store = embedded::open(config).unwrap();
    let before = disk.faults.flushes.load(Ordering::SeqCst);
    store.commit(Txn::new().put("log", "line").relaxed()).await.unwrap();
    let tree = rusqlite::Connection::open(folder.path().join("store.db")).unwrap();
    let started = Instant::now();
    while tree.query_row("SELECT count(*) FROM kv", [], |row| row.get::<_, i64>(0)).unwrap() == 0 {
        assert!(started.elapsed() < Duration::from_secs(10), "not written into the tree");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(disk.faults.flushes.load(Ordering::SeqCst) > before, "a loss of power could leave half of it");
}

#[tokio::test]
async fn a_full_disk_refuses_writes_before_they_happen_and_the_store_goes_on_by_itself() {
    let disk = Arc::new(SimDisk::default());
    let opened = open(&disk);
    let store = &opened.store;
    store.commit(Txn::new().put("a", "1")).await.unwrap();
    disk.faults.full.store(true, Ordering::SeqCst);
    // The room that was known is used up first, by what is larger than it was measured to be.
    let big = |key: u8| Txn::new().put(vec![key], vec![7; 2_000_000]).put(vec![key, 1], vec![7; 2_000_000]);
    let mut key = 0;
    let refused = loop {
        match store.commit(big(key)).await {
            Ok(_) => key += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, Error::DiskFull), "{refused:?}");
    let version = store.snapshot().await.unwrap().version();
    assert_eq!(version, 1 + u64::from(key), "what was refused took no version");
    assert_eq!(store.get(b"a").await.unwrap().unwrap().value, "1");
    assert!(matches!(store.commit(Txn::new().put("b", "1")).await, Err(Error::DiskFull)));
    store.commit(Txn::new().delete("a")).await.unwrap();
    disk.faults.full.store(false, Ordering::SeqCst);
    store.commit(Txn::new().put("b", "1")).await.unwrap();
    assert_eq!(store.get(b"b").await.unwrap().unwrap().value, "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_flush_ends_the_store_and_is_not_tried_again() {
    let disk = Arc::new(SimDisk::default());
    let reasons: Arc<Mutex<Vec<String>>> = Arc::default();
    let told = Arc::clone(&reasons);
    let opened = try_open(&disk, Arc::new(move |reason| told.lock().push(reason.to_owned()))).unwrap();
    opened.store.commit(Txn::new().put("a", "1")).await.unwrap();
    disk.faults.no_flush.store(true, Ordering::SeqCst);
    let before = disk.faults.flushes.load(Ordering::SeqCst);
    let outcome = opened.store.commit(Txn::new().put("a", "2")).await;
    assert!(matches!(outcome, Err(Error::Io(_))), "{outcome:?}");
    assert!(matches!(opened.store.commit(Txn::new().put("a", "3")).await, Err(Error::Io(_))));
    assert!(opened.store.close().await.is_err());
    assert_eq!(disk.faults.flushes.load(Ordering::SeqCst), before + 1);
    assert_eq!(reasons.lock().len(), 1, "{reasons:?}");
    disk.faults.no_flush.store(false, Ordering::SeqCst);
    let again = open(&disk.cut(&*SeededRandom::new(2)));
    assert!(again.store.get(b"a").await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_failed_flush_has_left_in_the_page_cache_is_on_disk_once_it_is_recovered() {
    let disk = Arc::new(SimDisk::default());
    let opened = try_open(&disk, Arc::new(|_| {})).unwrap();
    opened.store.commit(Txn::new().put("a", "1")).await.unwrap();
    disk.faults.no_flush.store(true, Ordering::SeqCst);
    assert!(matches!(opened.store.commit(Txn::new().put("b", "2")).await, Err(Error::Io(_))));
    drop(opened);
    disk.faults.no_flush.store(false, Ordering::SeqCst);
    // The process comes back and reads what the kernel shows it: whoever builds on that must not lose it.
    let again = open(&disk);
    assert_eq!(again.store.get(b"b").await.unwrap().unwrap().version, 2);
    let left = open(&disk.cut(&*SeededRandom::new(1)));
    assert_eq!(left.store.get(b"b").await.unwrap().unwrap().version, 2);
}

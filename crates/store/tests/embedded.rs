//! What only the embedded engine promises: files, locks, formats, full disks, damage, time limits, failures.
//!
//! The contract itself is tested in `contract.rs`, death by signal in `crash.rs`.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use base::{Clock, ManualClock, SystemClock};
use bytes::Bytes;
use parking_lot::Mutex;
use rusqlite::Connection;
use store::embedded::{self, Embedded, OpenError};
use store::{EmbeddedConfig, Error, Lag, Range, Store, Txn};

fn config(folder: &Path) -> EmbeddedConfig {
    let never = |reason: &str| panic!("the store failed: {reason}");
    EmbeddedConfig { on_fatal: Arc::new(never), ..EmbeddedConfig::new(folder, SystemClock::shared()) }
}

fn open(folder: &Path) -> Embedded {
    embedded::open(config(folder)).unwrap()
}

/// Asks again until it is so; a test that waits in vain ends after half a minute.
async fn until(mut so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !so() {
        assert!(started.elapsed() < Duration::from_secs(30), "waited in vain");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn what_was_committed_is_there_after_a_reopen_and_versions_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("deep/er"));
    let first = store.commit(Txn::new().put("a", "1")).await.unwrap();
    let second = store.commit(Txn::new().put("b", "2").relaxed()).await.unwrap();
    store.close().await.unwrap();
    assert!(matches!(store.get(b"a").await, Err(Error::Closed)));
    assert!(matches!(store.commit(Txn::new()).await, Err(Error::Closed)));
    assert!(matches!(store.snapshot().await, Err(Error::Closed)));
    store.watch(b"").changed().await;
    store.close().await.unwrap();

    // The first store still exists, but it has let the folder go.
    let again = open(&folder.path().join("deep/er"));
    assert_eq!(again.get(b"a").await.unwrap().unwrap().version, first);
    assert_eq!(again.snapshot().await.unwrap().version(), second);
    // What was read before is checked by points, which the tree knows, and cannot be by ranges.
    let range = |since| Txn::new().expect_range(Range::prefix("a"), since);
    assert!(matches!(again.commit(range(first)).await, Err(Error::TooOld)));
    again.commit(range(second)).await.unwrap();
    assert_eq!(again.commit(Txn::new().expect_version("a", first).put("a", "3")).await.unwrap(), second + 2);
}

#[tokio::test]
async fn a_close_answers_all_that_waits_and_ends_open_snapshots() {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(open(folder.path()));
    let snapshot = store.snapshot().await.unwrap();
    let commits: Vec<_> = (0..200u32)
        .map(|number| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.commit(Txn::new().put(number.to_be_bytes().to_vec(), "x")).await })
        })
        .collect();
    tokio::task::yield_now().await;
    store.close().await.unwrap();
    assert!(matches!(snapshot.get(b"a").await, Err(Error::Closed)));
    let mut kept = 0;
    for commit in commits {
        match commit.await.unwrap() {
            Ok(_) => kept += 1,
            Err(error) => assert!(matches!(error, Error::Closed)),
        }
    }
    drop(store);
    let found = open(folder.path()).range(&Range::prefix("")).await.unwrap().entries.len();
    assert_eq!(found, kept, "each is there exactly if it was acknowledged");
}

#[tokio::test]
async fn a_folder_is_open_once() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let Err(OpenError::InUse { holder, .. }) = embedded::open(config(folder.path())) else {
        panic!("opened twice");
    };
    assert_eq!(holder, std::process::id().to_string());
    drop(store);
    drop(open(folder.path()));
}

#[tokio::test]
async fn newer_formats_and_foreign_files_are_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path()));
    let file = folder.path().join("store.db");
    Connection::open(&file).unwrap().execute("UPDATE meta SET number = 3 WHERE name = 'format'", []).unwrap();
    let newer = embedded::open(config(folder.path()));
    assert!(matches!(newer, Err(OpenError::NewerFormat { found: 3, known: 2 })));
    fs::remove_file(&file).unwrap();
    Connection::open(&file).unwrap().execute_batch("CREATE TABLE other (a)").unwrap();
    assert!(matches!(embedded::open(config(folder.path())), Err(OpenError::Foreign)));
    fs::write(&file, "no database at all, but long enough to be looked at as one".repeat(100)).unwrap();
    assert!(matches!(embedded::open(config(folder.path())), Err(OpenError::Damaged(_))));
}

#[tokio::test]
async fn a_snapshot_ages_by_the_clock() {
    let folder = tempfile::tempdir().unwrap();
    let clock = ManualClock::at_ms(0);
    let store = embedded::open(EmbeddedConfig { clock: Arc::clone(&clock) as Arc<dyn Clock>, ..config(folder.path()) })
        .unwrap();
    store.commit(Txn::new().put("a", "1")).await.unwrap();
    let old = store.snapshot().await.unwrap();
    clock.advance(Duration::from_millis(5_000));
    assert!(old.get(b"a").await.is_ok());
    clock.advance(Duration::from_millis(1));
    assert!(matches!(old.get(b"a").await, Err(Error::TooOld)));
    assert!(matches!(old.range(&Range::prefix("")).await, Err(Error::TooOld)));

    // Snapshots that nobody reads and nobody drops lose their places all the same, to others than themselves.
    let mut idle = Vec::new();
    for _ in 0..32 {
        idle.push(store.snapshot().await.unwrap());
    }
    clock.advance(Duration::from_millis(5_001));
    let next = tokio::time::timeout(Duration::from_secs(30), store.snapshot()).await.unwrap().unwrap();
    assert!(next.get(b"a").await.is_ok());
    for old in idle {
        assert!(matches!(old.get(b"a").await, Err(Error::TooOld)));
    }
    assert!(next.get(b"a").await.is_ok());
}

#[tokio::test]
async fn a_full_store_refuses_reads_on_and_recovers() {
    let folder = tempfile::tempdir().unwrap();
    let full = EmbeddedConfig { size_bytes_max: Some(1024 * 1024), ..config(folder.path()) };
    let store = embedded::open(full).unwrap();
    let value = Bytes::from(vec![7; 20_000]);
    let mut kept = 0u32;
    let error = loop {
        match store.commit(Txn::new().put(kept.to_be_bytes().to_vec(), value.clone())).await {
            Ok(_) => kept += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::DiskFull));
    assert!(kept > 40);
    let page = store.range(&Range::prefix("")).await.unwrap();
    assert_eq!(page.entries.len(), kept as usize, "the refused commit left nothing");
    let version = store.snapshot().await.unwrap().version();
    assert_eq!(version, u64::from(kept), "and took no version");
    store.commit(Txn::new().delete(0u32.to_be_bytes().to_vec())).await.unwrap();
    store.commit(Txn::new().put("new", value)).await.unwrap();
}

#[tokio::test]
async fn damaged_values_are_never_given_out() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let value = |number: u8| Bytes::from(vec![b'A' + number; 3_000]);
    store.commit((0..20).fold(Txn::new(), |txn, number| txn.put(vec![number], value(number)))).await.unwrap();
    store.close().await.unwrap();
    let file = folder.path().join("store.db");
    let mut bytes = fs::read(&file).unwrap();
    // Everywhere, as the tree leaves old copies behind when it moves a value.
    let places: Vec<_> = (0..bytes.len() - 100).filter(|at| bytes[*at..at + 100] == [b'A' + 7; 100]).collect();
    places.iter().for_each(|at| bytes[at + 50] = b'x');
    assert!(!places.is_empty());
    fs::write(&file, bytes).unwrap();

    let store = open(folder.path());
    assert!(matches!(store.get(&[7]).await, Err(Error::Corrupt(_))));
    assert!(matches!(store.range(&Range::prefix("")).await, Err(Error::Corrupt(_))));
    assert_eq!(store.get(&[8]).await.unwrap().unwrap().value, value(8));
    // Whose transaction needs the value is refused; the others go on, and a new value heals the key.
    assert!(matches!(store.commit(Txn::new().add(vec![7], 1)).await, Err(Error::Corrupt(_))));
    store.commit(Txn::new().put(vec![7], "healed")).await.unwrap();
    assert_eq!(store.get(&[7]).await.unwrap().unwrap().value, "healed");
}

#[tokio::test]
async fn an_idle_store_writes_all_into_its_tree_and_empties_that_log() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    store.commit(Txn::new().put("a", vec![1; 100_000])).await.unwrap();
    let tree = Connection::open(folder.path().join("store.db")).unwrap();
    let rows = || tree.query_row("SELECT count(*) FROM kv", [], |row| row.get::<_, i64>(0)).unwrap();
    until(|| rows() == 1).await;
    drop(tree);
    until(|| fs::metadata(folder.path().join("store.db-wal")).unwrap().len() == 0).await;
    store.commit(Txn::new().put("b", "after")).await.unwrap();
    assert_eq!(store.get(b"b").await.unwrap().unwrap().value, "after");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_cannot_go_on_says_so_first_and_answers_nothing_with_success() {
    let folder = tempfile::tempdir().unwrap();
    let answered = Arc::new(AtomicBool::new(false));
    let reasons: Arc<Mutex<Vec<(String, bool)>>> = Arc::default();
    let on_fatal = {
        let (answered, reasons) = (Arc::clone(&answered), Arc::clone(&reasons));
        move |reason: &str| {
            std::thread::sleep(Duration::from_millis(50));
            reasons.lock().push((reason.to_owned(), answered.load(Ordering::SeqCst)));
        }
    };
    let store = embedded::open(EmbeddedConfig { on_fatal: Arc::new(on_fatal), ..config(folder.path()) }).unwrap();
    store.commit(Txn::new().put("a", "1")).await.unwrap();
    Connection::open(folder.path().join("store.db")).unwrap().execute_batch("DROP TABLE kv").unwrap();
    // The decision reads the tree.
    let outcome = store.commit(Txn::new().expect_absent("b").put("a", "2")).await;
    answered.store(true, Ordering::SeqCst);
    assert!(matches!(outcome, Err(Error::Io(_))), "{outcome:?}");
    let reasons = reasons.lock().clone();
    assert_eq!(reasons.len(), 1);
    assert!(reasons[0].0.contains("no such table"), "{reasons:?}");
    assert!(!reasons[0].1, "nothing may be answered before the process had its chance to end");
    assert!(matches!(store.commit(Txn::new()).await, Err(Error::Io(_))));
    assert!(store.get(b"a").await.is_err());
    assert!(store.close().await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_stays_short_under_load_and_a_standing_reader() {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(open(folder.path()));
    let mut longest = 0;
    let mut snapshot = store.snapshot().await.unwrap();
    // 300 MB through logs of some 80 MB, while there always is a reader that is not older than two rounds.
    for round in 0..75u32 {
        let txn = (0..2).fold(Txn::new(), |txn, part: u32| {
            txn.put([round % 5, part].map(u32::to_be_bytes).concat(), vec![3; 2_000_000])
        });
        store.commit(txn).await.unwrap();
        if round % 2 == 0 {
            snapshot = store.snapshot().await.unwrap();
        }
        let length = |name: &str| fs::metadata(folder.path().join(name)).map_or(0, |found| found.len());
        longest = longest.max(["store.db-wal", "log.0", "log.1", "log.2", "log.3"].map(length).iter().sum());
    }
    drop(snapshot);
    assert!(longest < 180 * 1024 * 1024, "the logs grew to {longest} bytes");
}

#[tokio::test]
async fn a_long_snapshot_outlives_the_others_and_ends_too() {
    let folder = tempfile::tempdir().unwrap();
    let clock = ManualClock::at_ms(0);
    let as_clock: Arc<dyn Clock> = clock.clone();
    let store = embedded::open(EmbeddedConfig::new(folder.path(), as_clock)).unwrap();
    store.commit(Txn::new().put("a", "1")).await.unwrap();
    let (short, long) = (store.snapshot().await.unwrap(), store.long_snapshot(60_000).await.unwrap());
    store.commit(Txn::new().put("a", "2")).await.unwrap();
    clock.advance(Duration::from_secs(59));
    assert!(matches!(short.get(b"a").await, Err(Error::TooOld)));
    assert_eq!(long.get(b"a").await.unwrap().unwrap().value, "1");
    clock.advance(Duration::from_secs(2));
    assert!(matches!(long.get(b"a").await, Err(Error::TooOld)));
}

#[tokio::test]
async fn a_store_that_is_filled_counts_on_from_where_it_is_told() {
    let folder = tempfile::tempdir().unwrap();
    for (version_min, next) in [(1_000, 1_001), (0, 1_002), (500, 1_003)] {
        let store = embedded::open(EmbeddedConfig { version_min, ..config(folder.path()) }).unwrap();
        assert_eq!(store.snapshot().await.unwrap().version(), next - 1);
        assert_eq!(store.commit(Txn::new().put("a", "1")).await.unwrap(), next);
        store.close().await.unwrap();
    }
}

#[tokio::test]
async fn the_engine_tells_how_it_keeps_up() {
    let folder = tempfile::tempdir().unwrap();
    let clock = ManualClock::at_ms(1_000);
    let store = embedded::open(EmbeddedConfig::new(folder.path(), clock)).unwrap();
    store.commit(Txn::new().put("a", "1")).await.unwrap();
    store.commit(Txn::new().expect_absent("a")).await.unwrap_err();
    let stats = store.stats().await.unwrap();
    assert_eq!((stats.commits, stats.slow_commits, stats.longest_us), (2, 0, 0), "its clock stands");
    let lag = Some(Lag::Tree { versions: 1, log_bytes: 4_096 });
    assert_eq!(stats.lag, lag, "no time has passed in which the tree could take it over");
    store.close().await.unwrap();
    assert_eq!(store.stats().await.unwrap().lag, Some(Lag::Tree { versions: 0, log_bytes: 0 }));
}

/// Tokens move from key to key while the tree takes the moves over, write by write: no page may show one twice or miss one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_is_one_state_while_the_tree_is_written() {
    const TOKENS: usize = 5;
    const PLACES: u64 = 40;
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    // So that the tree takes over what little there is again and again.
    config.limits.due_log_bytes = 1;
    config.limits.portion_writes = 1;
    let store = Arc::new(embedded::open(config).unwrap());
    let place = |number: u64| format!("place/{:02}", number % PLACES);
    let mut held: Vec<u64> = (0..TOKENS as u64).collect();
    store.commit(held.iter().fold(Txn::new(), |txn, number| txn.put(place(*number), "token"))).await.unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = [Range::prefix("place/"), Range::prefix("place/").reversed().rows(50)]
        .into_iter()
        .map(|range| {
            let (store, done) = (Arc::clone(&store), Arc::clone(&done));
            tokio::spawn(async move {
                let mut pages = 0;
                while !done.load(Ordering::Relaxed) {
                    let page = store.range(&range).await.unwrap();
                    let keys: Vec<_> = page.entries.iter().map(|entry| &entry.key).collect();
                    assert_eq!(keys.len(), TOKENS, "{keys:?}");
                    pages += 1;
                    tokio::task::yield_now().await;
                }
                pages
            })
        })
        .collect();
    for step in 0..3_000u64 {
        let moved = (step % TOKENS as u64) as usize;
        let to = (0..).map(|more| (step * 7 + more) % PLACES).find(|to| !held.contains(to)).unwrap();
        let txn = Txn::new().delete(place(held[moved])).put(place(to), "token").relaxed();
        store.commit(txn).await.unwrap();
        held[moved] = to;
    }
    done.store(true, Ordering::Relaxed);
    for reader in readers {
        let pages = reader.await.unwrap();
        assert!(pages > 100, "only {pages} pages were read");
    }
}

/// Ranges that are read again and again are kept (`pages`): no page may be older than what was acknowledged before it was asked for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_that_is_kept_is_never_older_than_what_was_acknowledged() {
    const KEYS: u64 = 8;
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    config.limits.due_log_bytes = 1;
    let store = Arc::new(embedded::open(config).unwrap());
    let (acknowledged, done) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let (store, acknowledged, done) = (Arc::clone(&store), Arc::clone(&acknowledged), Arc::clone(&done));
            tokio::spawn(async move {
                let (mut pages, mut newest) = (0, 0);
                while !done.load(Ordering::Relaxed) {
                    let least = acknowledged.load(Ordering::SeqCst).max(newest);
                    let page = store.range(&Range::prefix("page/")).await.unwrap();
                    let of = |value: &Bytes| u64::from_be_bytes(value[..].try_into().unwrap());
                    newest = page.entries.iter().map(|entry| of(&entry.value)).max().unwrap_or(0);
                    assert!(newest >= least, "{newest} was read after {least}");
                    pages += 1;
                    tokio::task::yield_now().await;
                }
                pages
            })
        })
        .collect();
    for step in 1..=1_500u64 {
        let value = step.to_be_bytes().to_vec();
        store.commit(Txn::new().put(format!("page/{}", step % KEYS), value)).await.unwrap();
        acknowledged.store(step, Ordering::SeqCst);
        if step % 10 == 0 {
            // Now the tree has all, and the range is kept.
            while store.stats().await.unwrap().lag != Some(Lag::Tree { versions: 0, log_bytes: 0 }) {
                tokio::task::yield_now().await;
            }
            for _ in 0..3 {
                store.range(&Range::prefix("page/")).await.unwrap();
            }
        }
    }
    done.store(true, Ordering::Relaxed);
    for reader in readers {
        let pages = reader.await.unwrap();
        assert!(pages > 100, "only {pages} pages were read");
    }
}

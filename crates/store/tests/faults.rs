//! Disks that fail: calls on files answer errors, write less than they were asked to, and bits change by themselves.
//!
//! A child (this test binary again, running only `child`) commits on a store with small sizes while `strace` makes one
//! call, or a few, on one kind of file fail. It must go on or end, and whatever it acknowledged the next open must find.
//! `DUNLIN_FAULTS` says how many places are tried for each kind (default 2), and ten times as many flipped bits.
//!
//! The log behind its trait is tested in `log.rs`, writes that end at a limit of size in `crash.rs`.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod strace;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base::{Random, SeededRandom, SystemClock};
use bytes::Bytes;
use parking_lot::Mutex;
use std::sync::Arc;
use store::embedded::{self, Limits};
use store::{EmbeddedConfig, Error, Range, Store, Txn};

const FOLDER: &str = "DUNLIN_FAULTS_FOLDER";
const COMMITS: u64 = 150;
const RING: u64 = 40;
/// The child's exits: it could not go on; it could not open; it saw a wrong answer.
const FAILED: i32 = 70;
const REFUSED: i32 = 71;
const WRONG: i32 = 99;

fn config(folder: &Path) -> EmbeddedConfig {
    let limits = Limits {
        segment_bytes: 256 << 10,
        batch_bytes: 64 << 10,
        due_log_bytes: 128 << 10,
        overlay_bytes: 512 << 10,
        portion_writes: 8,
        wal_bytes: 128 << 10,
        ..Limits::default()
    };
    EmbeddedConfig { limits, ..EmbeddedConfig::new(folder, SystemClock::shared()) }
}

fn body(number: u64) -> Bytes {
    format!("{number:08} ").repeat(200 + number as usize % 13 * 150).into()
}

fn txn(number: u64) -> Txn {
    let txn = Txn::new().put("last", number.to_string()).put(format!("body/{:02}", number % RING), body(number));
    if number.is_multiple_of(7) { txn.relaxed() } else { txn }
}

fn number_of(value: &[u8]) -> u64 {
    std::str::from_utf8(value).unwrap().parse().unwrap()
}

/// Not a test: what the parent starts.
#[test]
#[ignore = "no test by itself: the tests of this file start it as the process that they look after"]
fn child() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(work(folder.as_ref()));
}

async fn work(folder: &Path) {
    let say = |line: String| std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
    let store = embedded::open(config(folder)).unwrap_or_else(|_| std::process::exit(REFUSED));
    let mut last = store.get(b"last").await.map_or(0, |entry| entry.map_or(0, |entry| number_of(&entry.value)));
    for number in last + 1..=last + COMMITS {
        let mut attempts = 0;
        while let Err(error) = store.commit(txn(number)).await {
            // Refused: what was there is still read, and as soon as there is room it goes on.
            let found = store.get(b"last").await.unwrap().map_or(0, |entry| number_of(&entry.value));
            attempts += 1;
            if !matches!(error, Error::DiskFull) || found != last || attempts > 5_000 {
                say(format!("{error} after {last}, of which {found} is there\n"));
                std::process::exit(WRONG);
            }
            say("full\n".to_owned());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        last = number;
        say(format!("ack {number}\n"));
        let found = store.get(format!("body/{:02}", number % RING).as_bytes()).await;
        if !found.is_ok_and(|found| found.unwrap().value == body(number)) {
            std::process::exit(WRONG);
        }
    }
    store.close().await.unwrap();
}

/// What became of a child.
struct Outcome {
    code: i32,
    acknowledged: u64,
    full: bool,
}

fn run(folder: &Path, files: &[&str], inject: &str) -> Outcome {
    let mut child = strace::child();
    child.env(FOLDER, folder);
    let paths: Vec<PathBuf> = files.iter().map(|file| folder.join(file)).collect();
    let done = strace::injected(&child, &paths, &[inject.to_owned()]).output().unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    let code = done.status.code().unwrap_or(-1);
    let errors = String::from_utf8_lossy(&done.stderr);
    assert!([0, FAILED, REFUSED].contains(&code), "{files:?} {inject}: ended as {}: {said}{errors}", done.status);
    let acknowledged = said.lines().filter_map(|line| line.strip_prefix("ack ")?.parse().ok()).max().unwrap_or(0);
    Outcome { code, acknowledged, full: said.lines().any(|line| line == "full") }
}

/// The store of a healthy disk finds all that was acknowledged, and works on.
async fn check(folder: &Path, acknowledged: u64) -> Result<(), String> {
    let store = embedded::open(config(folder)).map_err(|error| error.to_string())?;
    let last = store.get(b"last").await.unwrap().map_or(0, |entry| number_of(&entry.value));
    if last < acknowledged || last > acknowledged + 1 {
        return Err(format!("{acknowledged} was acknowledged, {last} is there"));
    }
    for number in last.saturating_sub(RING - 1).max(1)..=last {
        let found = store.get(format!("body/{:02}", number % RING).as_bytes()).await.unwrap();
        if found.is_none_or(|entry| entry.value != body(number)) {
            return Err(format!("{number} of {last} is not whole"));
        }
    }
    store.commit(txn(last + 1)).await.map_err(|error| error.to_string())?;
    store.close().await.map_err(|error| error.to_string())
}

fn places() -> u64 {
    std::env::var("DUNLIN_FAULTS").map_or(2, |places| places.parse().unwrap())
}

#[tokio::test]
async fn failing_calls_lose_nothing_that_was_acknowledged() {
    const LOG: &[&str] = &["log.0", "log.1", "log.2"];
    const WAL: &[&str] = &["store.db-wal"];
    const TREE: &[&str] = &["store.db"];
    strace::require();
    // The files, the call, the failure; and whether the store cannot but end by it.
    let kinds: &[(&[&str], &str, &str, bool)] = &[
        (LOG, "pwritev2", "error=EIO", true),
        (LOG, "pwritev2", "retval=0", true),
        (LOG, "fdatasync", "error=EIO", true),
        (LOG, "fallocate", "error=ENOSPC", false),
        (WAL, "pwrite64", "error=EIO", true),
        (WAL, "pwrite64", "error=ENOSPC", false),
        (WAL, "pwrite64", "retval=0", false),
        (WAL, "fdatasync", "error=EIO", true),
        (TREE, "pwrite64", "error=EIO", true),
        (TREE, "pwrite64", "error=ENOSPC", false),
        (TREE, "fdatasync", "error=EIO", true),
    ];
    let random = SeededRandom::new(7);
    let (mut ended, mut refused, mut full) = (0, 0, 0);
    for (files, call, failure, ends) in kinds {
        let mut hit = false;
        for place in 0..places() {
            // The first of them, and later ones: in the midst of the work, or in the midst of opening.
            let at = if place == 0 { 1 } else { 2 + random.next_u64() % 30 };
            let folder = strace::folder();
            // A store that is there already: a new one needs no room that is not there.
            run(folder.path(), files, "fallocate:delay_enter=1");
            let several = if *ends { String::new() } else { format!("..{}", at + 4) };
            let inject = format!("{call}:{failure}:when={at}{several}");
            let outcome = run(folder.path(), files, &inject);
            let acknowledged = outcome.acknowledged.max(COMMITS);
            check(folder.path(), acknowledged).await.unwrap_or_else(|error| panic!("{files:?} {inject}: {error}"));
            hit |= outcome.code != 0;
            ended += u32::from(outcome.code == FAILED);
            refused += u32::from(outcome.code == REFUSED);
            full += u32::from(outcome.full);
        }
        assert!(hit || !ends, "{call} of {files:?} never failed");
    }
    println!(
        "{} kinds of failures, {} places each: {ended} ended, {refused} not opened, {full} refused as full, 0 lost",
        kinds.len(),
        places()
    );
    assert!(ended > 0);
}

fn copy(from: &Path, to: &Path) {
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        if !file.file_name().to_string_lossy().ends_with("-shm") {
            fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
    }
}

/// What came of reading a store with a flipped bit.
#[derive(Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Clone, Copy)]
enum Seen {
    Whole,
    Reported,
    /// An older state than the last: the last record of the log counts as torn.
    Older,
    /// The library found nothing where something was.
    Missing,
}

async fn read_all(folder: &Path, last: u64) -> Seen {
    let failed: Arc<Mutex<bool>> = Arc::default();
    let told = Arc::clone(&failed);
    let config = EmbeddedConfig { on_fatal: Arc::new(move |_| *told.lock() = true), ..config(folder) };
    let Ok(store) = embedded::open(config) else { return Seen::Reported };
    let Ok(snapshot) = store.snapshot().await else { return Seen::Reported };
    let Ok(entry) = snapshot.get(b"last").await else { return Seen::Reported };
    let Some(entry) = entry else { return Seen::Missing };
    let found = number_of(&entry.value);
    assert!(found <= last, "{found} was never written");
    assert!(found + 2 > last, "{found} of {last} is more than the last record that is missing");
    let Ok(page) = snapshot.range(&Range::prefix("")).await else { return Seen::Reported };
    let mut bodies = 0;
    for number in found.saturating_sub(RING - 1).max(1)..=found {
        let Ok(entry) = snapshot.get(format!("body/{:02}", number % RING).as_bytes()).await else {
            return Seen::Reported;
        };
        let Some(entry) = entry else { continue };
        assert_eq!(entry.value, body(number), "a wrong value is served");
        bodies += 1;
    }
    drop(snapshot);
    let whole = bodies == RING && page.entries.len() as u64 == RING + 1;
    let reported = store.close().await.is_err() || *failed.lock();
    match (whole, found == last) {
        _ if reported => Seen::Reported,
        (false, _) => Seen::Missing,
        (true, false) => Seen::Older,
        (true, true) => Seen::Whole,
    }
}

#[tokio::test]
async fn flipped_bits_are_never_served() {
    strace::require();
    let made = strace::folder();
    // Ends in the midst of its work, so that all files hold something that counts.
    let outcome = run(made.path(), &["log.0", "log.1", "log.2"], "pwritev2:error=EIO:when=80");
    assert_eq!(outcome.code, FAILED);
    let last = {
        let folder = strace::folder();
        copy(made.path(), folder.path());
        let store = embedded::open(config(folder.path())).unwrap();
        number_of(&store.get(b"last").await.unwrap().unwrap().value)
    };
    assert!(last >= outcome.acknowledged);
    let random = SeededRandom::new(11);
    for file in ["store.db", "store.db-wal", "log.0", "log.1"] {
        let mut seen = std::collections::BTreeMap::<Seen, u32>::new();
        for _ in 0..places() * 10 {
            let folder = strace::folder();
            copy(made.path(), folder.path());
            let path = folder.path().join(file);
            let mut content = fs::read(&path).unwrap();
            assert!(!content.is_empty(), "{file} is empty");
            let at = random.next_u64() as usize % content.len();
            content[at] ^= 1 << (random.next_u64() % 8);
            fs::write(&path, content).unwrap();
            *seen.entry(read_all(folder.path(), last).await).or_default() += 1;
        }
        println!("flipped bits of {file}: {seen:?}");
        if file != "store.db" {
            assert_eq!(seen.get(&Seen::Missing), None, "{file}");
        }
        if !file.starts_with("log.") {
            assert_eq!(seen.get(&Seen::Older), None, "{file}");
        }
    }
}

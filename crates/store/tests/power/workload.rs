//! What the recorded child does, and what a store must hold that it has worked on.
//!
//! Each committer repeats one transaction, numbered n: set its counter to n, write the body and the record n, delete the
//! record n - 1. Bodies lie in a ring of `RING` keys. So the whole state of a committer follows from n.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use base::SystemClock;
use bytes::Bytes;
use store::embedded::{self, Limits};
use store::{Blobs, EmbeddedConfig, Entry, FileBlobs, Store, Txn};

/// How many commit at the same time.
pub const COMMITTERS: u8 = 16;
const RING: u64 = 8;
/// Where the store and the blobs lie below the recorded folder: folders that are not there at first.
pub const STORE: &str = "data/node/store";
/// See `STORE`.
pub const BLOBS: &str = "data/blobs";

/// What a phase of the child does.
#[derive(Debug, Clone, Copy)]
pub struct Phase {
    /// Commits of each committer.
    pub commits: u64,
    /// Only relaxed commits; otherwise each eighth is.
    pub relaxed: bool,
    /// Whether the store is closed, opened again and used as often again.
    pub reopen: bool,
    /// Whether the store is closed at the end.
    pub close: bool,
}

impl Phase {
    /// As text, for the child's environment.
    pub fn text(&self) -> String {
        format!("{} {} {} {}", self.commits, self.relaxed, self.reopen, self.close)
    }

    fn of(text: &str) -> Self {
        let fields: Vec<&str> = text.split(' ').collect();
        Self {
            commits: fields[0].parse().unwrap(),
            relaxed: fields[1] == "true",
            reopen: fields[2] == "true",
            close: fields[3] == "true",
        }
    }
}

pub fn counter(committer: u8) -> Vec<u8> {
    vec![b'c', committer]
}

fn record(committer: u8, number: u64) -> Vec<u8> {
    [&[b'r', committer][..], &number.to_be_bytes()].concat()
}

fn body_key(committer: u8, number: u64) -> Vec<u8> {
    vec![b'b', committer, u8::try_from(number % RING).unwrap()]
}

/// The content of a body: readable text, so that the record of it stays short, from 10 bytes to 1 MB.
fn body(committer: u8, number: u64) -> Bytes {
    let hash = crc32fast::hash(&[&[committer][..], &number.to_be_bytes()].concat()) as usize;
    let length = match hash % 64 {
        0 => 1_000_000,
        1..8 => 40_000 + hash % 80_000,
        8..30 => 2_000 + hash % 9_000,
        _ => 10 + hash % 500,
    };
    let line = format!("{committer:02} {number:08} {hash:010} the quick brown fox. ");
    let mut content = line.repeat(length / line.len() + 1).into_bytes();
    content.truncate(length);
    content.into()
}

fn counted(number: u64) -> Bytes {
    Bytes::from(format!("{number:08} is the last"))
}

/// The number that a counter says.
pub fn number(entry: &Entry) -> u64 {
    std::str::from_utf8(&entry.value[..8]).unwrap().parse().unwrap()
}

/// The transaction `number` of a committer.
pub fn txn(committer: u8, number: u64) -> Txn {
    Txn::new()
        .put(counter(committer), counted(number))
        .put(body_key(committer, number), body(committer, number))
        .put(record(committer, number), counted(number))
        .delete(record(committer, number - 1))
}

/// All that a store holds when each committer has come to its number.
pub fn expected(numbers: &[u64]) -> BTreeMap<Vec<u8>, Bytes> {
    let mut all = BTreeMap::new();
    for (committer, last) in numbers.iter().enumerate().filter(|(_, last)| **last > 0) {
        let committer = u8::try_from(committer).unwrap();
        all.insert(counter(committer), counted(*last));
        all.insert(record(committer, *last), counted(*last));
        for number in last.saturating_sub(RING - 1).max(1)..=*last {
            all.insert(body_key(committer, number), body(committer, number));
        }
    }
    all
}

/// The content of the blob of that name.
pub fn blob(name: &str) -> Bytes {
    let length = crc32fast::hash(name.as_bytes()) as usize % 600_000;
    let mut content = format!("blob {name}. ").repeat(length / 8 + 1).into_bytes();
    content.truncate(length);
    content.into()
}

/// The store of a recorded folder. With small sizes, so that little work goes through all of its states.
pub fn config(folder: &Path) -> EmbeddedConfig {
    let limits = Limits {
        segment_bytes: 2 << 20,
        batch_bytes: 256 << 10,
        due_log_bytes: 1 << 20,
        due_deletes: 256,
        overlay_bytes: 4 << 20,
        portion_writes: 16,
        wal_bytes: 1 << 20,
        ..Limits::default()
    };
    EmbeddedConfig { limits, ..EmbeddedConfig::new(folder.join(STORE), SystemClock::shared()) }
}

fn say(line: &str) {
    std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
}

async fn commit_some(store: Arc<dyn Store>, committer: u8, phase: Phase) {
    let last = store.get(&counter(committer)).await.unwrap().map_or(0, |entry| number(&entry));
    for number in last + 1..=last + phase.commits {
        let relaxed = phase.relaxed || (number + u64::from(committer)).is_multiple_of(8);
        let txn = txn(committer, number);
        let version = store.commit(if relaxed { txn.relaxed() } else { txn }).await.unwrap();
        say(&format!("ack {committer} {number} {version} {}\n", if relaxed { "relaxed" } else { "flushed" }));
    }
}

async fn load(folder: &Path, phase: Phase, close: bool) {
    let store = Arc::new(embedded::open(config(folder)).unwrap());
    let blobs = FileBlobs::open(folder.join(BLOBS)).unwrap();
    let committers: Vec<_> =
        (0..COMMITTERS).map(|n| tokio::spawn(commit_some(Arc::clone(&store) as Arc<dyn Store>, n, phase))).collect();
    for number in 0..6 {
        let name = format!("{}/{}-{number}", number % 3, std::process::id());
        blobs.put(&name, blob(&name)).await.unwrap();
        say(&format!("blob {name}\n"));
    }
    for committer in committers {
        committer.await.unwrap();
    }
    if close {
        store.close().await.unwrap();
    } else {
        // No destructor runs: the store's threads are cut off in what they do.
        std::process::exit(0);
    }
}

/// Runs a phase in this process.
pub fn run(folder: &Path, phase: &str) {
    let phase = Phase::of(phase);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        if phase.reopen {
            load(folder, phase, true).await;
        }
        load(folder, phase, phase.close).await;
    });
}

//! Compares a folder that a cut of the power has left with what was acknowledged before the cut.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use store::{Blobs, Embedded, EmbeddedConfig, FileBlobs, Range, Store, Version, embedded};

use crate::trace::{Call, Step, Trace};
use crate::workload::{self, BLOBS, COMMITTERS};

/// A commit that was acknowledged.
#[derive(Debug, Clone, Copy)]
pub struct Commit {
    committer: u8,
    number: u64,
    version: Version,
    flushed: bool,
}

/// What was acknowledged, each with the step at which that was said.
#[derive(Debug, Default)]
pub struct Acknowledged {
    pub commits: Vec<(usize, Commit)>,
    pub blobs: Vec<(usize, String)>,
}

impl Acknowledged {
    pub fn of(trace: &Trace) -> Self {
        let mut all = Self::default();
        for (at, step) in trace.steps.iter().enumerate() {
            let Step::Begin(call) = step else { continue };
            let Call::Say { line } = &trace.calls[*call] else { continue };
            let fields: Vec<&str> = line.trim_end().split(' ').collect();
            let number = |field: usize| fields[field].parse::<u64>().unwrap();
            match fields[0] {
                "ack" => {
                    let committer = u8::try_from(number(1)).unwrap();
                    let (number, version) = (number(2), number(3));
                    all.commits.push((at, Commit { committer, number, version, flushed: fields[4] == "flushed" }));
                }
                "blob" => all.blobs.push((at, fields[1].to_owned())),
                _ => {}
            }
        }
        all
    }

    fn commits_before(&self, step: usize) -> impl Iterator<Item = &Commit> {
        self.commits.iter().take_while(move |(at, _)| *at <= step).map(|(_, commit)| commit)
    }
}

/// What opening a store came to.
struct Opened {
    store: Embedded,
    took: Duration,
    failed: Arc<Mutex<Vec<String>>>,
}

fn open(folder: &Path) -> Result<Opened, String> {
    let failed: Arc<Mutex<Vec<String>>> = Arc::default();
    let told = Arc::clone(&failed);
    let started = Instant::now();
    let config = EmbeddedConfig {
        on_fatal: Arc::new(move |reason| told.lock().push(reason.to_owned())),
        ..workload::config(folder)
    };
    let store = embedded::open(config).map_err(|error| format!("open: {error}"))?;
    Ok(Opened { store, took: started.elapsed(), failed })
}

/// Checks all that must hold after a cut at `step`; how long the store took to open, or what is wrong.
pub async fn check(folder: &Path, acknowledged: &Acknowledged, step: usize) -> Result<Duration, String> {
    let opened = open(folder)?;
    let version = opened.store.snapshot().await.map_err(|error| error.to_string())?.version();
    let mut numbers = numbers(&opened.store).await?;
    for commit in acknowledged.commits_before(step) {
        if commit.flushed && commit.version > version {
            return Err(format!("{commit:?} was flushed, but the store ends at version {version}"));
        }
        // Whatever is missing is missing together with all that came later.
        let there = numbers[usize::from(commit.committer)] >= commit.number;
        if there != (commit.version <= version) {
            return Err(format!("{commit:?} is there: {there}, in a store that ends at version {version}"));
        }
    }
    compare(&opened.store, &numbers).await.map_err(|error| format!("at version {version}: {error}"))?;
    // And it works on: flushed and relaxed, over a close.
    for (committer, last) in (0..COMMITTERS).zip(&mut numbers) {
        *last += 1;
        let txn = workload::txn(committer, *last);
        let txn = if committer % 2 == 0 { txn } else { txn.relaxed() };
        opened.store.commit(txn).await.map_err(|error| format!("a commit afterwards: {error}"))?;
    }
    opened.store.close().await.map_err(|error| format!("close: {error}"))?;
    let again = open(folder)?;
    compare(&again.store, &numbers).await.map_err(|error| format!("after a close, from version {version}: {error}"))?;
    again.store.close().await.map_err(|error| format!("second close: {error}"))?;
    let failed = [opened.failed, again.failed].iter().flat_map(|failed| failed.lock().clone()).collect::<Vec<_>>();
    if !failed.is_empty() {
        return Err(format!("the store failed: {failed:?}"));
    }
    check_blobs(folder, acknowledged, step).await?;
    Ok(opened.took)
}

/// To which number each committer has come.
async fn numbers(store: &Embedded) -> Result<Vec<u64>, String> {
    let mut numbers = Vec::new();
    for committer in 0..COMMITTERS {
        let entry = store.get(&workload::counter(committer)).await.map_err(|error| error.to_string())?;
        numbers.push(entry.map_or(0, |entry| workload::number(&entry)));
    }
    Ok(numbers)
}

/// The store holds what follows from the numbers, and nothing else.
async fn compare(store: &Embedded, numbers: &[u64]) -> Result<(), String> {
    let mut expected = workload::expected(numbers).into_iter();
    let snapshot = store.snapshot().await.map_err(|error| error.to_string())?;
    let mut range = Range::prefix("");
    loop {
        let page = snapshot.range(&range).await.map_err(|error| error.to_string())?;
        for entry in &page.entries {
            let wanted = expected.next();
            if wanted.as_ref().is_none_or(|(key, value)| *key != entry.key || *value != entry.value) {
                let text = |key: &[u8], value: &[u8]| {
                    format!("{} = {}", key.escape_ascii(), value[..value.len().min(30)].escape_ascii())
                };
                let wanted = wanted.map(|(key, value)| text(&key, &value));
                let found = text(&entry.key, &entry.value);
                return Err(format!("torn: {found:?} of version {} where {wanted:?} belongs", entry.version));
            }
        }
        match page.entries.last().filter(|_| page.more) {
            Some(last) => range = range.beyond(last.key.clone()),
            None => break,
        }
    }
    match expected.next() {
        Some((key, _)) => Err(format!("torn: {} is missing", key.escape_ascii())),
        None => Ok(()),
    }
}

async fn check_blobs(folder: &Path, acknowledged: &Acknowledged, step: usize) -> Result<(), String> {
    let blobs = FileBlobs::open(folder.join(BLOBS)).map_err(|error| error.to_string())?;
    let there = blobs.list("").await.map_err(|error| error.to_string())?;
    for name in &there {
        let content = blobs.get(name).await.map_err(|error| error.to_string())?;
        if content != Some(workload::blob(name)) {
            return Err(format!("the blob {name} is not what was written"));
        }
    }
    let before = acknowledged.blobs.iter().take_while(|(at, _)| *at <= step);
    match before.map(|(_, name)| name).find(|name| !there.contains(name)) {
        Some(name) => Err(format!("the blob {name} is lost")),
        None => Ok(()),
    }
}

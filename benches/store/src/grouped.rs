//! The plain group commit that every peer gets: one thread that takes what waits and makes one flushed write of it.
//! None of them has one of its own, and without it each flush carries one commit.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use crate::subject::{Commit, Failure, Found, Row, Subject};

/// Most transactions of one write.
const BATCH_MAX: usize = 1_024;

/// The net effect of a batch, by key: version and value, or none where it is deleted.
pub type Writes = BTreeMap<Bytes, Option<(u64, Bytes)>>;

/// A peer.
pub trait Tree: Send + Sync + 'static {
    /// In one transaction: lets `decide` say what is to be written, given what tells the version of a key, and writes
    /// that to the disk. Called by one thread.
    fn write(&self, decide: &mut dyn FnMut(&mut Versions<'_>) -> Result<Writes, Failure>) -> Result<(), Failure>;
    fn get(&self, key: &[u8]) -> Result<Found, Failure>;
    fn range(&self, start: &[u8], end: &[u8], rows: usize) -> Result<Vec<Row>, Failure>;
}

/// The version of a key in the tree.
pub type Versions<'a> = dyn FnMut(&[u8]) -> Result<Option<u64>, Failure> + 'a;

struct Job {
    commit: Commit,
    answer: oneshot::Sender<bool>,
}

#[derive(Default)]
struct Queue {
    jobs: Mutex<(Vec<Job>, bool)>,
    changed: Condvar,
}

pub struct Grouped<T> {
    tree: Arc<T>,
    queue: Arc<Queue>,
    thread: Mutex<Option<thread::JoinHandle<Result<(), String>>>>,
}

impl<T: Tree> Grouped<T> {
    pub fn start(tree: T) -> Self {
        let (tree, queue) = (Arc::new(tree), Arc::new(Queue::default()));
        let (own_tree, own_queue) = (Arc::clone(&tree), Arc::clone(&queue));
        let thread = thread::spawn(move || work(&*own_tree, &own_queue).map_err(|failure| failure.to_string()));
        Self { tree, queue, thread: Mutex::new(Some(thread)) }
    }
}

fn work<T: Tree>(tree: &T, queue: &Queue) -> Result<(), Failure> {
    // Beyond those of an earlier run over the same folder.
    let mut version = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as u64;
    loop {
        let mut waiting = queue.jobs.lock();
        while waiting.0.is_empty() {
            if waiting.1 {
                return Ok(());
            }
            queue.changed.wait(&mut waiting);
        }
        let taken = waiting.0.len().min(BATCH_MAX);
        let jobs: Vec<Job> = waiting.0.drain(..taken).collect();
        drop(waiting);
        let mut verdicts = Vec::with_capacity(jobs.len());
        tree.write(&mut |versions| {
            let mut writes = Writes::new();
            for job in &jobs {
                verdicts.push(decide(&job.commit, &mut version, &mut writes, versions)?);
            }
            Ok(writes)
        })?;
        for (job, verdict) in jobs.into_iter().zip(verdicts) {
            // Who has stopped waiting does not want to know.
            let _ = job.answer.send(verdict);
        }
    }
}

fn decide(
    commit: &Commit,
    version: &mut u64,
    writes: &mut Writes,
    versions: &mut Versions<'_>,
) -> Result<bool, Failure> {
    if let Some((key, expected)) = &commit.expect {
        let found = match writes.get(key) {
            Some(written) => written.as_ref().map(|(version, _)| *version),
            None => versions(key)?,
        };
        if found != *expected {
            return Ok(false);
        }
    }
    *version += 1;
    for (key, value) in &commit.puts {
        writes.insert(key.clone(), Some((*version, value.clone())));
    }
    for key in &commit.deletes {
        writes.insert(key.clone(), None);
    }
    Ok(true)
}

impl<T: Tree> Subject for Grouped<T> {
    async fn commit(&self, commit: Commit) -> Result<bool, Failure> {
        let (answer, outcome) = oneshot::channel();
        self.queue.jobs.lock().0.push(Job { commit, answer });
        self.queue.changed.notify_one();
        Ok(outcome.await?)
    }

    async fn get(&self, key: &[u8]) -> Result<Found, Failure> {
        self.tree.get(key)
    }

    async fn range(&self, start: Bytes, end: Bytes, rows: usize) -> Result<Vec<Row>, Failure> {
        self.tree.range(&start, &end, rows)
    }

    async fn close(&self) -> Result<(), Failure> {
        self.queue.jobs.lock().1 = true;
        self.queue.changed.notify_one();
        let Some(thread) = self.thread.lock().take() else { return Ok(()) };
        match thread.join() {
            Ok(outcome) => Ok(outcome?),
            Err(_) => Err("the committing thread panicked".into()),
        }
    }
}

/// Version and value as one value, for trees that have no columns.
pub fn joined(version: u64, value: &[u8]) -> Vec<u8> {
    let mut joined = Vec::with_capacity(8 + value.len());
    joined.extend_from_slice(&version.to_le_bytes());
    joined.extend_from_slice(value);
    joined
}

/// Takes `joined` apart, copying the value.
pub fn parted(bytes: &[u8]) -> Result<(u64, Bytes), Failure> {
    let (version, value) = bytes.split_first_chunk::<8>().ok_or("a value without a version")?;
    Ok((u64::from_le_bytes(*version), Bytes::copy_from_slice(value)))
}

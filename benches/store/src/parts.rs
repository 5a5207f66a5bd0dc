//! What is measured. Keys are spread over the whole of their range, values are not compressible by accident of being
//! alike only within one key.

use std::fs::{File, OpenOptions};
use std::future::Future;
use std::io::{IoSlice, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use base::{Random, SeededRandom};
use bytes::Bytes;
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::{ReadWriteFlags, pwritev2};

use crate::figures::{Figures, Histogram, MemoryWatch, Spent, anonymous_kib, bytes_under};
use crate::subject::{Commit, Failure, Subject};

/// Keys that commits read and write.
const COMMIT_KEYS: u64 = 100_000;
/// Bytes of each value that a commit writes.
const COMMIT_VALUE: usize = 100;
/// Keys that are read.
pub const READ_KEYS: u64 = 1_000_000;
/// Bytes of each value that is read.
pub const READ_VALUE: usize = 200;
/// Rows of a range.
const RANGE_ROWS: usize = 100;
/// Before anything is measured.
const WARM_UP: Duration = Duration::from_millis(500);
/// What one figure of a sustained run covers.
const STRETCH: Duration = Duration::from_secs(10);

fn key(number: u64) -> Bytes {
    let mut key = Vec::with_capacity(9);
    key.push(b'k');
    key.extend_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    key.into()
}

fn value(number: u64, bytes: usize) -> Bytes {
    let random = SeededRandom::new(number);
    let mut value = Vec::with_capacity(bytes + 8);
    while value.len() < bytes {
        value.extend_from_slice(&random.next_u64().to_le_bytes());
    }
    value.truncate(bytes);
    value.into()
}

/// The disk without a store: an append of 512 bytes with fdatasync, and a block written with DSYNC into a file that was
/// written before.
pub fn probe(folder: &Path, time: Duration) -> Result<Figures, Failure> {
    let mut figures = Figures::default();
    let (mut appends, mut writes) = (Histogram::default(), Histogram::default());
    let mut append = File::create(folder.join("append"))?;
    let block = [7u8; 4_096];
    let overwritten = OpenOptions::new().create(true).truncate(true).write(true).open(folder.join("overwritten"))?;
    let blocks = 1_024;
    fallocate(&overwritten, FallocateFlags::empty(), 0, blocks * block.len() as u64)?;
    (0..blocks).try_for_each(|_| (&overwritten).write_all(&block))?;
    overwritten.sync_all()?;
    let started = Instant::now();
    let mut at = 0;
    while started.elapsed() < time {
        let begun = Instant::now();
        append.write_all(&block[..512])?;
        append.sync_data()?;
        appends.add(begun.elapsed());
        let begun = Instant::now();
        let offset = at % blocks * block.len() as u64;
        let written = pwritev2(&overwritten, &[IoSlice::new(&block)], offset, ReadWriteFlags::DSYNC)?;
        if written != block.len() {
            return Err("a write of a block was short".into());
        }
        writes.add(begun.elapsed());
        at += 1;
    }
    for (name, histogram) in [("append", appends), ("overwrite", writes)] {
        figures.set(&format!("{name}_p50_us"), histogram.quantile(0.5));
        figures.set(&format!("{name}_p99_us"), histogram.quantile(0.99));
    }
    Ok(figures)
}

/// Lets `workers` tasks do one thing again and again.
struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    tasks: Vec<tokio::task::JoinHandle<Result<Histogram, Failure>>>,
}

impl Load {
    fn start<F: Future<Output = Result<(), Failure>> + Send + 'static>(
        workers: u64,
        work: impl Fn(u64) -> F + Clone + Send + 'static,
    ) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let tasks = (0..workers).map(|worker| {
            let (stop, done, work) = (Arc::clone(&stop), Arc::clone(&done), work.clone());
            tokio::spawn(async move {
                let random = SeededRandom::new(worker);
                let mut taken = Histogram::default();
                while !stop.load(Ordering::Relaxed) {
                    let one = Instant::now();
                    work(random.next_u64()).await?;
                    taken.add(one.elapsed());
                    done.fetch_add(1, Ordering::Relaxed);
                    // A read never waits: without this one reader would keep the others from the thread.
                    tokio::task::consume_budget().await;
                }
                Ok(taken)
            })
        });
        let tasks = tasks.collect();
        Self { stop, done, tasks }
    }

    async fn end(self) -> Result<Histogram, Failure> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Histogram::default();
        for task in self.tasks {
            all.merge(&task.await??);
        }
        Ok(all)
    }
}

/// Runs a load for a time, after a short one that does not count, and reports it.
async fn run<F: Future<Output = Result<(), Failure>> + Send + 'static>(
    workers: u64,
    time: Duration,
    work: impl Fn(u64) -> F + Clone + Send + 'static,
) -> Result<Figures, Failure> {
    let watch = MemoryWatch::start();
    let warm = Load::start(workers, work.clone());
    tokio::time::sleep(WARM_UP).await;
    warm.end().await?;
    let mut figures = Figures::default();
    let (started, spent) = (Instant::now(), Spent::now());
    let load = Load::start(workers, work);
    tokio::time::sleep(time).await;
    let taken = load.end().await?;
    spent.report(&mut figures, taken.count());
    taken.report(&mut figures, started.elapsed());
    watch.report(&mut figures);
    Ok(figures)
}

/// Reads a key with its version and writes it and another one, if the first is unchanged. Some lose: that is an answer.
fn committing<S: Subject>(
    subject: &Arc<S>,
) -> impl Fn(u64) -> std::pin::Pin<Box<dyn Future<Output = Result<(), Failure>> + Send>> + Clone + Send + 'static {
    let subject = Arc::clone(subject);
    let values: Arc<Vec<Bytes>> = Arc::new((0..64).map(|number| value(number, COMMIT_VALUE)).collect());
    move |number| {
        let (subject, values) = (Arc::clone(&subject), Arc::clone(&values));
        Box::pin(async move {
            let (first, second) = (key(number % COMMIT_KEYS), key((number >> 32) % COMMIT_KEYS));
            let version = subject.get(&first).await?.map(|(version, _)| version);
            let written = &values[(number % 64) as usize];
            let puts = vec![(first.clone(), written.clone()), (second, written.clone())];
            subject.commit(Commit { expect: Some((first, version)), puts, deletes: Vec::new() }).await?;
            Ok(())
        })
    }
}

/// Durable commits of two puts with one version check.
pub async fn commits<S: Subject>(subject: &Arc<S>, workers: u64, time: Duration) -> Result<Figures, Failure> {
    fill(subject, COMMIT_KEYS, COMMIT_VALUE).await?;
    run(workers, time, committing(subject)).await
}

/// The same for long, with its course: rate, bytes of logs and memory of each stretch.
pub async fn sustained<S: Subject>(
    subject: &Arc<S>,
    workers: u64,
    time: Duration,
    folder: &Path,
) -> Result<Figures, Failure> {
    fill(subject, COMMIT_KEYS, COMMIT_VALUE).await?;
    let (started, spent, watch) = (Instant::now(), Spent::now(), MemoryWatch::start());
    let load = Load::start(workers, committing(subject));
    let (mut rates, mut logs, mut trees_logs, mut memory) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut before = 0;
    while started.elapsed() < time {
        let stretch = Instant::now();
        tokio::time::sleep(STRETCH.min(time)).await;
        let now = load.done.load(Ordering::Relaxed);
        rates.push((now - before) as f64 / stretch.elapsed().as_secs_f64());
        before = now;
        let mib = |choose| bytes_under(folder, choose) as f64 / 1_048_576.0;
        logs.push(mib(|name| name.starts_with("log.") || name.ends_with(".jnl")));
        trees_logs.push(mib(|name| name.ends_with("-wal")));
        memory.push(anonymous_kib() as f64 / 1_024.0);
    }
    let mut figures = Figures::default();
    let taken = load.end().await?;
    spent.report(&mut figures, taken.count());
    taken.report(&mut figures, started.elapsed());
    watch.report(&mut figures);
    figures.set_list("rates", &rates);
    figures.set_list("log_mib", &logs);
    figures.set_list("tree_log_mib", &trees_logs);
    figures.set_list("anonymous_course_mib", &memory);
    Ok(figures)
}

/// Puts `keys` keys in, a thousand a commit, in an order that is not theirs.
pub async fn fill<S: Subject>(subject: &Arc<S>, keys: u64, bytes: usize) -> Result<Figures, Failure> {
    let (started, spent, watch) = (Instant::now(), Spent::now(), MemoryWatch::start());
    let values: Vec<Bytes> = (0..64).map(|number| value(number, bytes)).collect();
    for part in 0..keys.div_ceil(1_000) {
        let numbers = part * 1_000..keys.min((part + 1) * 1_000);
        let puts = numbers.map(|number| (key(number), values[(number % 64) as usize].clone())).collect();
        subject.commit(Commit { puts, ..Commit::default() }).await?;
    }
    let mut figures = Figures::default();
    spent.report(&mut figures, keys);
    figures.set("rate", keys as f64 / started.elapsed().as_secs_f64());
    watch.report(&mut figures);
    Ok(figures)
}

/// Reads of one key each.
pub async fn gets<S: Subject>(subject: &Arc<S>, workers: u64, time: Duration) -> Result<Figures, Failure> {
    let subject = Arc::clone(subject);
    run(workers, time, move |number| {
        let subject = Arc::clone(&subject);
        async move {
            match subject.get(&key(number % READ_KEYS)).await? {
                Some((_, value)) if value.len() == READ_VALUE => Ok(()),
                _ => Err("a key is missing: was the folder filled?".into()),
            }
        }
    })
    .await
}

/// Reads of 100 neighbours each.
pub async fn ranges<S: Subject>(subject: &Arc<S>, workers: u64, time: Duration) -> Result<Figures, Failure> {
    let subject = Arc::clone(subject);
    run(workers, time, move |number| {
        let subject = Arc::clone(&subject);
        async move {
            let rows = subject.range(key(number % READ_KEYS), Bytes::from_static(b"l"), RANGE_ROWS).await?;
            if rows.is_empty() { Err("no rows: was the folder filled?".into()) } else { Ok(()) }
        }
    })
    .await
}

/// Messages that go through the queue, at once, and how many lie in it.
const MESSAGES: u64 = 500_000;
const AT_ONCE: u64 = 100;
const DEPTH: u64 = 5_000;

fn message(queue: u8, number: u64) -> Bytes {
    [&[b'q', queue][..], &number.to_be_bytes()].concat().into()
}

/// A queue between two quiet ones: puts in at its tail, takes and deletes at its head, all from the first key on.
pub async fn queue<S: Subject>(subject: &Arc<S>) -> Result<Figures, Failure> {
    let (spent, watch, body) = (Spent::now(), MemoryWatch::start(), value(1, 200));
    for queue in [b'a', b'b', b'c'] {
        let puts = (0..DEPTH).map(|number| (message(queue, number), body.clone())).collect();
        subject.commit(Commit { puts, ..Commit::default() }).await?;
    }
    let (mut rates, mut scans, mut all_scans) = (Vec::new(), Vec::new(), Histogram::default());
    let (mut head, mut tail) = (0, DEPTH);
    for _ in 0..10 {
        let (begun, mut taken) = (Instant::now(), Histogram::default());
        for _ in 0..MESSAGES / 10 / AT_ONCE {
            let puts = (tail..tail + AT_ONCE).map(|number| (message(b'b', number), body.clone())).collect();
            subject.commit(Commit { puts, ..Commit::default() }).await?;
            tail += AT_ONCE;
            let scan = Instant::now();
            let rows = subject.range(message(b'b', 0), message(b'c', 0), AT_ONCE as usize).await?;
            taken.add(scan.elapsed());
            if rows.first().is_none_or(|(key, _)| *key != message(b'b', head)) {
                return Err(format!("message {head} is not the first").into());
            }
            head += rows.len() as u64;
            let deletes = rows.into_iter().map(|(key, _)| key).collect();
            subject.commit(Commit { deletes, ..Commit::default() }).await?;
        }
        rates.push((MESSAGES / 10) as f64 / begun.elapsed().as_secs_f64());
        scans.push(taken.quantile(0.5));
        all_scans.merge(&taken);
    }
    let mut figures = Figures::default();
    spent.report(&mut figures, MESSAGES);
    figures.set("scan_p50_us", all_scans.quantile(0.5));
    figures.set("scan_p99_us", all_scans.quantile(0.99));
    watch.report(&mut figures);
    figures.set_list("rates", &rates);
    figures.set_list("scans_us", &scans);
    Ok(figures)
}

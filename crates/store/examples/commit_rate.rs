//! How quick the embedded store is on this disk: commits a second with 1, 16 and 64 committers, queues, gets and ranges.
//!
//! ```text
//! cargo run --release -p store --example commit_rate -- [folder] [seconds per figure]
//! ```
//! A commit reads one of 100,000 keys and writes two entries of 100 bytes on condition that the one that it read is
//! unchanged; it is answered after the flush. The first line is the limit: an append and fdatasync of 512 bytes, bare.
//! CPU is that of the whole process, the committers included. Single runs: take the middle of three.

#![allow(clippy::print_stdout, reason = "figures are what this program is for")]

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use base::{Random, SeededRandom, SystemClock};
use bytes::Bytes;
use store::keys::Key;
use store::{Claim, EmbeddedConfig, Error, Range, Store, Txn, embedded};

const KEYS: u64 = 100_000;

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn key(number: u64) -> Bytes {
    Key::new(b'k').number(number.wrapping_mul(0x9e37_79b9_7f4a_7c15)).done()
}

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().map_or_else(|| std::env::temp_dir().join("dunlin-commit-rate"), PathBuf::from);
    let time = Duration::from_secs(arguments.next().map_or(Ok(3), |seconds| seconds.parse())?);
    std::fs::create_dir_all(&folder)?;
    flush_probe(&folder, time)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let store = embedded::open(EmbeddedConfig::new(folder.join("store"), SystemClock::shared()))?;
        let store: Arc<embedded::Embedded> = Arc::new(store);
        fill(&*store).await?;
        for committers in [1, 16, 64] {
            run(&format!("flushed commits, {committers:2} committers"), committers, time, &store, commit).await?;
        }
        run("relaxed commits, 64 committers", 64, time, &store, commit_relaxed).await?;
        offer(&*store, 0, 5_000).await?;
        for claimers in [1, 16, 64] {
            let name = format!("ten messages through a queue, {claimers:2}");
            run(&name, claimers, time, &store, ten_messages).await?;
        }
        println!("memory: {}", memory());
        println!("log: {} MB", std::fs::metadata(folder.join("store/log.0"))?.len() / 1_048_576);
        for readers in [1, 2, 16] {
            run(&format!("gets, {readers:2} readers"), readers, time, &store, get).await?;
        }
        run("snapshots with one get, 2 readers", 2, time, &store, snapshot).await?;
        run("ranges of 100, 2 readers", 2, time, &store, range).await?;
        println!("memory: {}", memory());
        store.close().await?;
        Ok::<_, Failure>(())
    })?;
    Ok(std::fs::remove_dir_all(&folder)?)
}

/// The limit of a lone committer.
fn flush_probe(folder: &Path, time: Duration) -> Result<(), Failure> {
    let mut file = File::create(folder.join("probe"))?;
    let mut taken = Vec::new();
    let started = Instant::now();
    while started.elapsed() < time {
        let one = Instant::now();
        file.write_all(&[0; 512])?;
        file.sync_data()?;
        taken.push(one.elapsed());
    }
    report("append and fdatasync, bare", started.elapsed(), Duration::ZERO, taken);
    Ok(())
}

async fn fill(store: &dyn Store) -> Result<(), Error> {
    for part in 0..KEYS / 1_000 {
        let txn = (0..1_000).fold(Txn::new(), |txn, n| txn.put(key(part * 1_000 + n), vec![1; 100]));
        store.commit(txn).await?;
    }
    Ok(())
}

async fn commit_with(store: &dyn Store, number: u64, finish: fn(Txn) -> Txn) -> Result<(), Error> {
    let (first, second) = (key(number % KEYS), key((number >> 32) % KEYS));
    let entry = store.get(&first).await?;
    let txn = Txn::new().expect_unchanged(first.clone(), entry.as_ref());
    match store.commit(finish(txn.put(first, vec![2; 100]).put(second, vec![2; 100]))).await {
        Ok(_) | Err(Error::Conflict) => Ok(()),
        Err(error) => Err(error),
    }
}

async fn commit(store: Arc<embedded::Embedded>, number: u64) -> Result<(), Error> {
    commit_with(&*store, number, |txn| txn).await
}

async fn commit_relaxed(store: Arc<embedded::Embedded>, number: u64) -> Result<(), Error> {
    commit_with(&*store, number, Txn::relaxed).await
}

/// Ten messages through a queue of its 5,000: offered, claimed, settled.
async fn ten_messages(store: Arc<embedded::Embedded>, number: u64) -> Result<(), Error> {
    offer(&*store, number, 10).await?;
    let claims = store.claim(Claim::new("q", 10, 60_000)).await?;
    store.commit(claims.entries.iter().fold(Txn::new(), Txn::settle)).await.map(drop)
}

async fn offer(store: &dyn Store, number: u64, messages: u64) -> Result<(), Error> {
    let id = |part: u64| number.wrapping_add(part).to_be_bytes().to_vec();
    store.commit((0..messages).fold(Txn::new(), |txn, part| txn.offer("q", id(part), 0, vec![3; 100]))).await.map(drop)
}

async fn get(store: Arc<embedded::Embedded>, number: u64) -> Result<(), Error> {
    store.get(&key(number % KEYS)).await.map(drop)
}

async fn snapshot(store: Arc<embedded::Embedded>, number: u64) -> Result<(), Error> {
    store.snapshot().await?.get(&key(number % KEYS)).await.map(drop)
}

async fn range(store: Arc<embedded::Embedded>, number: u64) -> Result<(), Error> {
    let range = Range { start: std::ops::Bound::Included(key(number % KEYS)), ..Range::prefix("k") };
    store.range(&range.rows(100)).await.map(drop)
}

/// Lets `workers` tasks do one thing again and again, and reports rate, latency and CPU.
async fn run<F: Future<Output = Result<(), Error>> + Send + 'static>(
    name: &str,
    workers: u64,
    time: Duration,
    store: &Arc<embedded::Embedded>,
    work: fn(Arc<embedded::Embedded>, u64) -> F,
) -> Result<(), Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    let (started, cpu) = (Instant::now(), cpu_used());
    let tasks: Vec<_> = (0..workers)
        .map(|worker| {
            let (stop, store) = (Arc::clone(&stop), Arc::clone(store));
            tokio::spawn(async move {
                let random = SeededRandom::new(worker);
                let mut taken = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let one = Instant::now();
                    work(Arc::clone(&store), random.next_u64()).await?;
                    taken.push(one.elapsed());
                    // A read never waits: without this one reader would keep the others from the thread.
                    tokio::task::consume_budget().await;
                }
                Ok::<_, Error>(taken)
            })
        })
        .collect();
    tokio::time::sleep(time).await;
    stop.store(true, Ordering::Relaxed);
    let mut taken = Vec::new();
    for task in tasks {
        taken.extend(task.await??);
    }
    report(name, started.elapsed(), cpu_used().saturating_sub(cpu), taken);
    Ok(())
}

fn report(name: &str, time: Duration, cpu: Duration, mut taken: Vec<Duration>) {
    taken.sort_unstable();
    let at = |part: usize| taken.get(taken.len() * part / 100).copied().unwrap_or_default();
    let count = taken.len().max(1) as f64;
    println!(
        "{name:36} {:8.0}/s  p50 {:>10.1?}  p99 {:>10.1?}  CPU {:5.1} µs",
        count / time.as_secs_f64(),
        at(50),
        at(99),
        cpu.as_secs_f64() * 1e6 / count
    );
}

/// User and system time of this process, by `/proc`, in ticks of 10 ms.
fn cpu_used() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(") ").next().unwrap_or_default().split(' ');
    let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

/// Private and shared memory, as the kernel counts it.
fn memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let lines = status.lines().filter(|line| line.starts_with("RssAnon") || line.starts_with("RssFile"));
    lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>().join(", ")
}

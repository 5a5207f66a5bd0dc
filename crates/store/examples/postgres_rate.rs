//! What merging is worth over PostgreSQL: four nodes of 16 committers each, beside the same load with one transaction of
//! the server for each commit; and how soon a watch on another node wakes.
//!
//! There are two such loads. One keeps the contract: the same engine with merging off. The other does not: bare statements
//! over 64 connections, without the lock that makes commits one order, without versions in that order, ranges or watches.
//!
//! ```text
//! cargo run --release -p store --example postgres_rate -- ADDRESS [seconds per figure]
//! ```
//! ADDRESS is that of a database which may be written to (schemas `dunlin_rate` and `rate_bare`). A commit puts two
//! entries of 100 bytes on condition that one of 100,000 keys is unchanged. All sides alternate, five rounds; medians.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "figures are what this program is for")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use base::{Random, SeededRandom, SystemRandom};
use store::{Error, Postgres, PostgresConfig, Store, Txn, postgres};
use tokio_postgres::NoTls;

const NODES: usize = 4;
const COMMITTERS: usize = 16;
const KEYS: u64 = 100_000;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let address = arguments.first().expect("usage: postgres_rate ADDRESS [seconds]").clone();
    let seconds = Duration::from_secs_f64(arguments.get(1).map_or(3.0, |text| text.parse().unwrap()));
    let nodes = open(&address, true).await;
    prepare(&address).await;
    let (mut merged, mut single, mut bare) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..5 {
        merged.push(run(seconds, |worker| commits(Arc::clone(&nodes[worker % NODES]), worker)).await);
        let alone = open(&address, false).await;
        single.push(run(seconds, |worker| commits(Arc::clone(&alone[worker % NODES]), worker)).await);
        for node in alone {
            node.close().await.unwrap();
        }
        bare.push(run(seconds, |worker| bare_commits(address.clone(), worker)).await);
    }
    let (merged, single, bare) = (median(&mut merged), median(&mut single), median(&mut bare));
    println!("merged: {merged:.0} commits/s");
    println!("one transaction each, same contract: {single:.0} commits/s; ratio {:.2}", merged / single);
    println!("one transaction each, bare, no order: {bare:.0} commits/s; ratio {:.2}", merged / bare);
    let mut woken: Vec<f64> = Vec::new();
    for number in 0..200_u32 {
        let mut watch = nodes[1].watch(b"woken");
        let committed = nodes[0].commit(Txn::new().put("woken", number.to_be_bytes().to_vec()));
        committed.await.unwrap();
        let began = Instant::now();
        watch.changed().await;
        woken.push(began.elapsed().as_secs_f64() * 1e3);
    }
    println!("a watch on another node wakes {:.1} ms after the commit's answer", median(&mut woken));
}

async fn open(address: &str, merging: bool) -> Vec<Arc<Postgres>> {
    let mut nodes = Vec::new();
    for _ in 0..NODES {
        let mut config = PostgresConfig::new(address, SystemRandom::shared());
        (config.schema, config.merging) = ("dunlin_rate".into(), merging);
        nodes.push(Arc::new(postgres::open(config).await.unwrap()));
    }
    nodes
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The same keys on both sides.
async fn prepare(address: &str) {
    let (client, connection) = tokio_postgres::connect(address, NoTls).await.unwrap();
    tokio::spawn(connection);
    let rows = |table: &str| {
        format!(
            "INSERT INTO {table} SELECT decode(lpad(to_hex(n), 8, '0'), 'hex'), decode(repeat('78', 100), 'hex'), 0
             FROM generate_series(0, {KEYS} - 1) AS n ON CONFLICT DO NOTHING"
        )
    };
    client
        .batch_execute(&format!(
            "CREATE SCHEMA IF NOT EXISTS rate_bare;
             CREATE TABLE IF NOT EXISTS rate_bare.kv (k bytea PRIMARY KEY, v bytea NOT NULL, ver bigint NOT NULL) WITH (fillfactor = 80);
             CREATE SEQUENCE IF NOT EXISTS rate_bare.ver; {}; {}; ANALYZE",
            rows("rate_bare.kv"),
            rows("dunlin_rate.kv")
        ))
        .await
        .unwrap();
}

/// Commits a second of all committers together.
async fn run<F>(seconds: Duration, make: impl Fn(usize) -> F) -> f64
where
    F: Future<Output = Box<dyn FnMut() -> std::pin::Pin<Box<dyn Future<Output = bool> + Send>> + Send>>,
{
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut workers = Vec::new();
    let mut commits = Vec::new();
    for worker in 0..NODES * COMMITTERS {
        commits.push(make(worker).await);
    }
    let began = Instant::now();
    for mut commit in commits {
        let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
        workers.push(tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                done.fetch_add(u64::from(commit().await), Ordering::Relaxed);
            }
        }));
    }
    tokio::time::sleep(seconds).await;
    let rate = done.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    for worker in workers {
        worker.await.unwrap();
    }
    rate
}

type Commit = Box<dyn FnMut() -> std::pin::Pin<Box<dyn Future<Output = bool> + Send>> + Send>;

fn some_key(random: &dyn Random) -> Vec<u8> {
    u32::try_from(random.next_u64() % KEYS).unwrap().to_be_bytes().to_vec()
}

async fn commits(node: Arc<Postgres>, worker: usize) -> Commit {
    let random = SeededRandom::new(worker as u64);
    Box::new(move || {
        let (node, key, beside) = (Arc::clone(&node), some_key(&*random), some_key(&*random));
        Box::pin(async move {
            let version = node.get(&key).await.unwrap().map_or(0, |entry| entry.version);
            let txn = Txn::new().expect_version(key.clone(), version).put(key, vec![1; 100]).put(beside, vec![2; 100]);
            match node.commit(txn).await {
                Ok(_) => true,
                Err(Error::Conflict) => false,
                Err(error) => panic!("{error}"),
            }
        })
    })
}

/// A connection for each committer: read, then one transaction with the same condition.
async fn bare_commits(address: String, worker: usize) -> Commit {
    let random = SeededRandom::new(1_000 + worker as u64);
    let (client, connection) = tokio_postgres::connect(&address, NoTls).await.unwrap();
    tokio::spawn(connection);
    let read = client.prepare("SELECT ver FROM rate_bare.kv WHERE k = $1").await.unwrap();
    // One round trip: the second entry is put only if the first one was as expected.
    let write = client
        .prepare(
            "WITH next AS (SELECT nextval('rate_bare.ver') AS ver),
                  first AS (UPDATE rate_bare.kv SET v = $3, ver = next.ver FROM next WHERE k = $1 AND kv.ver = $2 RETURNING 1)
             INSERT INTO rate_bare.kv SELECT $4, $3, next.ver FROM next, first
             ON CONFLICT (k) DO UPDATE SET v = EXCLUDED.v, ver = EXCLUDED.ver",
        )
        .await
        .unwrap();
    let client = Arc::new(client);
    Box::new(move || {
        let (client, read, write) = (Arc::clone(&client), read.clone(), write.clone());
        let (key, beside) = (some_key(&*random), some_key(&*random));
        Box::pin(async move {
            let version: i64 = client.query_one(&read, &[&key]).await.unwrap().get(0);
            // Two that meet in both keys may end in a deadlock, which one of them loses.
            client.execute(&write, &[&key, &version, &vec![1_u8; 100], &beside]).await.is_ok_and(|rows| rows > 0)
        })
    })
}

//! One queue, several nodes over one PostgreSQL: everything that was offered is claimed once, while connections break.
//!
//! `DUNLIN_CLAIMS` says how many entries (default 20,000).

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use base::SystemRandom;
use bytes::Bytes;
use store::{Claim, Claimed, Error, Postgres, PostgresConfig, Range, Store, Txn, postgres};
use tokio_postgres::NoTls;

mod support;

const NODES: usize = 4;
const CLAIMERS: usize = 16;
const OFFERED_AT_ONCE: u64 = 1_000;
const CLAIMED_AT_ONCE: usize = 50;
/// Longer than the test.
const LEASE_MS: u64 = 24 * 60 * 60 * 1_000;
/// How often connections are broken while there is work.
const BREAK_EVERY: Duration = Duration::from_millis(250);

async fn node(url: &str, schema: &str) -> Arc<Postgres> {
    let mut config = PostgresConfig::new(url, SystemRandom::shared());
    config.schema = schema.to_owned();
    config.on_fatal = Arc::new(|reason| panic!("{reason}"));
    Arc::new(postgres::open(config).await.unwrap())
}

/// Offers parts of the queue until all are.
async fn offer(store: Arc<Postgres>, next: Arc<AtomicU64>, entries: u64) {
    loop {
        let first = next.fetch_add(OFFERED_AT_ONCE, Ordering::Relaxed);
        if first >= entries {
            return;
        }
        let numbers = first..entries.min(first + OFFERED_AT_ONCE);
        let id = |number: u64| Bytes::copy_from_slice(&number.to_be_bytes());
        store.commit(numbers.fold(Txn::new(), |txn, number| txn.offer("q/", id(number), 0, id(number)))).await.unwrap();
    }
}

/// Claims and settles until nothing is left, and returns the numbers of what it had.
async fn claim(store: Arc<Postgres>) -> Vec<u64> {
    let mut mine = Vec::new();
    loop {
        let claims = store.claim(Claim::new("q/", CLAIMED_AT_ONCE, LEASE_MS)).await.unwrap();
        if claims.entries.is_empty() {
            return mine;
        }
        // Nobody else has it: a conflict would be a second lease.
        store.commit(claims.entries.iter().fold(Txn::new(), Txn::settle)).await.unwrap();
        mine.extend(claims.entries.iter().map(|claimed: &Claimed| {
            assert_eq!((claimed.attempts, &claimed.id), (1, &claimed.value));
            u64::from_be_bytes(claimed.id[..].try_into().unwrap())
        }));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_claimed_twice_or_lost_by_nodes_whose_connections_break() {
    let entries: u64 = std::env::var("DUNLIN_CLAIMS").map_or(20_000, |entries| entries.parse().unwrap());
    let (url, schema) = (support::shared().url(), support::fresh_schema());
    let mut nodes = Vec::new();
    for _ in 0..NODES {
        nodes.push(node(&url, &schema).await);
    }
    let next = Arc::new(AtomicU64::new(0));
    let offering: Vec<_> =
        nodes.iter().map(|node| tokio::spawn(offer(Arc::clone(node), Arc::clone(&next), entries))).collect();
    for offered in offering {
        offered.await.unwrap();
    }
    let (admin, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
    tokio::spawn(connection);
    let began = Instant::now();
    let breaking = tokio::spawn(async move {
        let mut broken = 0;
        loop {
            tokio::time::sleep(BREAK_EVERY).await;
            let sql = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'dunlin'";
            broken += admin.query_one(sql, &[]).await.unwrap().get::<_, i64>(0);
            BROKEN.store(broken.cast_unsigned(), Ordering::Relaxed);
        }
    });
    let claiming: Vec<_> =
        (0..CLAIMERS).map(|claimer| tokio::spawn(claim(Arc::clone(&nodes[claimer % NODES])))).collect();
    let mut seen = vec![0_u8; usize::try_from(entries).unwrap()];
    for claimed in claiming {
        for number in claimed.await.unwrap() {
            seen[usize::try_from(number).unwrap()] += 1;
        }
    }
    breaking.abort();
    let (lost, doubled) =
        (seen.iter().filter(|times| **times == 0).count(), seen.iter().filter(|times| **times > 1).count());
    let broken = BROKEN.load(Ordering::Relaxed);
    println!("{entries} claimed in {:?}, {broken} broken connections: {lost} lost, {doubled} doubled", began.elapsed());
    assert_eq!((lost, doubled), (0, 0));
    assert!(broken > 0, "nothing was broken");
    let left = loop {
        match nodes[0].range(&Range::prefix("q/")).await {
            Err(Error::Io(_)) => {}
            page => break page.unwrap(),
        }
    };
    assert!(left.entries.is_empty());
}

static BROKEN: AtomicU64 = AtomicU64::new(0);

//! Death without warning over PostgreSQL: nodes commit under load, one process each, and are killed; nothing that they
//! acknowledged may be lost, doubled or torn, and the node that is left goes on.
//!
//! The children are this test binary again, running only `child`. Each tells its acknowledged commits on its standard
//! output. `DUNLIN_KILLS` says how often (default 5).

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base::{Random, SystemRandom};
use store::{Entry, Postgres, PostgresConfig, Range, Store, Txn, postgres};

mod support;

const COMMITTERS: u8 = 8;
const PLACE: &str = "DUNLIN_CRASH_PLACE";
const SCHEMA: &str = "dunlin_crash";

async fn open(url: &str) -> Postgres {
    let mut config = PostgresConfig::new(url, SystemRandom::shared());
    config.schema = SCHEMA.into();
    postgres::open(config).await.unwrap()
}

fn counter(committer: u8) -> Vec<u8> {
    vec![b'c', committer]
}

fn record(committer: u8, number: u64, part: u8) -> Vec<u8> {
    [&[b'r', committer][..], &number.to_be_bytes(), &[part]].concat()
}

fn number(entry: &Entry) -> u64 {
    u64::from_be_bytes(entry.value[..8].try_into().unwrap())
}

/// Raises its counter to n, writes two records n, deletes those of n - 1, counts one up, and appends to a journal.
async fn commit_for_ever(store: Arc<Postgres>, committer: u8) {
    let mut last = store.get(&counter(committer)).await.unwrap();
    loop {
        let next = last.as_ref().map_or(0, number) + 1;
        let value = next.to_be_bytes().to_vec();
        let mut txn =
            Txn::new().expect_unchanged(counter(committer), last.as_ref()).put(counter(committer), value.clone());
        for part in 0..2 {
            txn = txn.put(record(committer, next, part), value.clone()).delete(record(committer, next - 1, part));
        }
        let txn = txn.add("sum", 1).put_numbered("j", vec![committer], value.clone());
        let version = store.commit(txn).await.unwrap();
        let line = format!("ack {committer} {next} {version}\n");
        std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
        last = Some(Entry { key: counter(committer).into(), value: value.into(), version });
    }
}

/// Not a test: what the parent starts. It has every other committer, from the given one on.
#[test]
#[ignore = "no test by itself: `nothing_acknowledged_is_lost_by_kill_9_of_a_node` starts it as the process that it looks after"]
fn child() {
    let Ok(place) = std::env::var(PLACE) else { return };
    let (first, url) = place.split_once(' ').unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let store = Arc::new(open(url).await);
        let committers = (first.parse().unwrap()..COMMITTERS).step_by(2);
        let committers: Vec<_> = committers.map(|n| tokio::spawn(commit_for_ever(Arc::clone(&store), n))).collect();
        for committer in committers {
            committer.await.unwrap();
        }
    });
}

fn start(first: u8, url: &str) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child", "--ignored", "--nocapture", "--quiet"]).env(PLACE, format!("{first} {url}"));
    command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
}

/// Reads what a child acknowledges to its end, which comes `patience` after its first word.
fn listen(mut child: Child, patience: Duration) -> Vec<(u8, u64)> {
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let (mut acknowledged, mut line, mut deadline) = (Vec::new(), String::new(), None);
    while lines.read_line(&mut line).unwrap() > 0 {
        // The last line may be cut off.
        if let Some(words) = line.strip_prefix("ack ").and_then(|line| line.strip_suffix('\n')) {
            let fields: Vec<u64> = words.split(' ').map(|field| field.parse().unwrap()).collect();
            acknowledged.push((u8::try_from(fields[0]).unwrap(), fields[1]));
            if Instant::now() >= *deadline.get_or_insert_with(|| Instant::now() + patience) {
                child.kill().unwrap();
            }
        }
        line.clear();
    }
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&child.wait().unwrap()), Some(9), "it ended by itself");
    acknowledged
}

/// Every committer's state is whole and not behind what it acknowledged; the sum and the journal know each commit once.
async fn check(store: &Postgres, acknowledged: &mut BTreeMap<u8, u64>) {
    // What was sent before the end may still happen, until this has had the lock.
    store.commit(Txn::new()).await.unwrap();
    let snapshot = store.snapshot().await.unwrap();
    let mut sum = 0;
    for committer in 0..COMMITTERS {
        let told = acknowledged.get(&committer).copied().unwrap_or(0);
        let Some(entry) = snapshot.get(&counter(committer)).await.unwrap() else {
            assert_eq!(told, 0, "the first commits of {committer} are lost");
            continue;
        };
        let found = number(&entry);
        assert!(found >= told, "committer {committer}: {told} was acknowledged, {found} is there");
        assert!(found <= told + 1, "committer {committer}: {found} is there, more than it can have tried");
        acknowledged.insert(committer, found);
        let page = snapshot.range(&Range::prefix(vec![b'r', committer])).await.unwrap();
        let keys: Vec<_> = page.entries.iter().map(|entry| entry.key.to_vec()).collect();
        assert_eq!(keys, [record(committer, found, 0), record(committer, found, 1)], "a torn commit");
        sum += found;
    }
    let entry = snapshot.get(b"sum").await.unwrap().unwrap();
    assert_eq!(
        i64::from_le_bytes(entry.value[..].try_into().unwrap()),
        sum.cast_signed(),
        "a commit counted otherwise"
    );
    let mut range = Range::prefix("j").rows(5_000);
    let (mut journal, mut counts) = (0, BTreeMap::new());
    loop {
        let page = snapshot.range(&range).await.unwrap();
        for entry in &page.entries {
            assert_eq!(entry.key[1..9], entry.version.to_be_bytes(), "a number of the journal is wrong");
            let next: &mut u64 = counts.entry(entry.key[9]).or_default();
            *next += 1;
            assert_eq!(number(entry), *next, "the journal is not in the order of commits");
            journal += 1;
        }
        match page.entries.last() {
            Some(last) if page.more => range = range.beyond(last.key.clone()),
            _ => break,
        }
    }
    assert_eq!(journal, sum, "the journal has another number of commits");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_by_kill_9_of_a_node() {
    let kills: u64 = std::env::var("DUNLIN_KILLS").map_or(5, |kills| kills.parse().unwrap());
    let server = support::Server::start();
    let store = open(&server.url()).await;
    let mut acknowledged: BTreeMap<u8, u64> = BTreeMap::new();
    for _ in 0..kills {
        let listeners: Vec<_> = (0..2)
            .map(|first| {
                let (child, patience) = (start(first, &server.url()), SystemRandom.next_u64() % 300);
                tokio::task::spawn_blocking(move || listen(child, Duration::from_millis(patience)))
            })
            .collect();
        for listener in listeners {
            for (committer, number) in listener.await.unwrap() {
                acknowledged.insert(committer, number);
            }
        }
        check(&store, &mut acknowledged).await;
    }
    let commits: u64 = acknowledged.values().sum();
    println!("{kills} times two nodes killed, {commits} commits acknowledged, none lost, doubled or torn");
    assert!(commits > 5 * kills);
}

//! Death without warning between the ring and the store: a child records usage over the embedded store and is killed;
//! every record that it acknowledged is counted, and none twice.
//!
//! The child is this test binary again, running only `child`. It tells each acknowledged record on its standard output.
//! The parent kills it with SIGKILL at random moments, several times over one data folder, so that dead boots are folded
//! by the next child as well as by the parent. `DUNLIN_KILLS` says how often (default 4).

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base::{Random, SystemClock, SystemRandom};
use model::ports::Meter;
use model::{AccountId, Ending, FunctionName, FunctionRef, Region, RequestId, Trigger, UsageRecord};
use services::usage::Usage;
use store::{EmbeddedConfig, Store, embedded};

const FOLDER: &str = "DUNLIN_LEDGER_FOLDER";
const RECORDERS: u64 = 3;

fn function(name: &str) -> FunctionRef {
    FunctionRef {
        account: AccountId::default(),
        region: Region::default(),
        name: FunctionName::parse(name).unwrap(),
        qualifier: None,
    }
}

fn record(id: &str, number: u64) -> UsageRecord {
    UsageRecord {
        function: function(if number.is_multiple_of(2) { "even" } else { "odd" }),
        version: "$LATEST".into(),
        request_id: RequestId(id.into()),
        trigger: Trigger::Direct,
        started_at_ms: SystemClock::shared().now_ms(),
        duration_us: 1_500,
        init_us: None,
        billed_ms: 3,
        memory_mb: 128,
        memory_peak_bytes: 0,
        cpu_us: 7,
        ending: Ending::Success,
    }
}

async fn open(folder: &Path, boot: &str) -> Arc<Usage> {
    let store = embedded::open(EmbeddedConfig::new(folder.join("store"), SystemClock::shared())).unwrap();
    let store: Arc<dyn Store> = Arc::new(store);
    Usage::open(folder, boot, store, SystemClock::shared()).await.unwrap()
}

/// Not a test: what the parent starts.
#[test]
#[ignore = "no test by itself: `what_was_recorded_before_a_kill_is_counted_once` starts it as the process that it looks after"]
fn child() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let boot = SystemRandom::shared().uuid();
        let usage = open(Path::new(&folder), &boot).await;
        let folding = Arc::clone(&usage);
        tokio::spawn(async move { folding.run(std::future::pending()).await });
        let eager = Arc::clone(&usage);
        // Beside the worker's two folds a second: death shall often fall between a commit and the emptied ring.
        tokio::spawn(async move {
            loop {
                eager.fold().await.unwrap();
            }
        });
        let recorders = (0..RECORDERS).map(|recorder| {
            let (usage, boot) = (Arc::clone(&usage), boot.clone());
            std::thread::spawn(move || {
                for number in 0.. {
                    let id = format!("{boot}-{recorder}-{number}");
                    usage.record(record(&id, number)).unwrap();
                    std::io::stdout().lock().write_all(format!("ack {id}\n").as_bytes()).unwrap();
                    std::thread::sleep(Duration::from_micros(200));
                }
            })
        });
        let recorders: Vec<_> = recorders.collect();
        std::future::pending::<()>().await;
        drop(recorders);
    });
}

/// Runs a child for a random while; returns what it acknowledged.
fn run_and_kill(folder: &Path, random: &dyn Random) -> Vec<String> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child", "--ignored", "--nocapture", "--quiet"]).env(FOLDER, folder);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut acknowledged = Vec::new();
    let mut note = |line: &str| {
        // The harness prints lines of its own, and the last line may be cut off.
        acknowledged.extend(line.strip_prefix("ack ").and_then(|line| line.strip_suffix('\n')).map(str::to_owned));
        acknowledged.len()
    };
    let mut line = String::new();
    let mut until = None;
    while output.read_line(&mut line).unwrap() > 0 {
        // The clock starts with the first record: opening takes as long as it takes.
        if note(&line) > 0 {
            let end =
                *until.get_or_insert_with(|| Instant::now() + Duration::from_millis(50 + random.next_u64() % 700));
            if Instant::now() >= end {
                break;
            }
        }
        line.clear();
    }
    child.kill().unwrap();
    line.clear();
    while output.read_line(&mut line).unwrap() > 0 {
        note(&line);
        line.clear();
    }
    child.wait().unwrap();
    acknowledged
}

#[test]
fn what_was_recorded_before_a_kill_is_counted_once() {
    let kills = std::env::var("DUNLIN_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(4u64);
    let folder = tempfile::tempdir().unwrap();
    let random = SystemRandom::shared();
    let mut acknowledged: BTreeSet<String> = BTreeSet::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for kill in 1..=kills {
        let ids = run_and_kill(folder.path(), &*random);
        assert!(!ids.is_empty(), "the child recorded nothing");
        acknowledged.extend(ids);
        // Every second time the next child meets what the killed one left.
        if kill.is_multiple_of(2) || kill == kills {
            runtime.block_on(check(folder.path(), &format!("check-{kill}"), &acknowledged, kill));
        }
    }
}

async fn check(folder: &Path, boot: &str, acknowledged: &BTreeSet<String>, kills: u64) {
    let usage = open(folder, boot).await;
    let mut ids = Vec::new();
    for name in ["even", "odd"] {
        ids.extend(usage.records(&function(name), usize::MAX).await.unwrap().into_iter().map(|r| r.request_id.0));
    }
    let distinct: BTreeSet<String> = ids.iter().cloned().collect();
    assert_eq!(distinct.len(), ids.len(), "a record was counted twice");
    let lost: Vec<&String> = acknowledged.difference(&distinct).collect();
    assert!(lost.is_empty(), "{} of {} records are lost, such as {:?}", lost.len(), acknowledged.len(), lost.first());
    // A record may be kept without its acknowledgement: at most one of each recorder and kill.
    assert!(ids.len() as u64 <= acknowledged.len() as u64 + RECORDERS * kills);
    let count = ids.len() as u64;
    assert_eq!(usage.count().await.unwrap(), count);
    let bills = usage.bill(0, u64::MAX / 2).await.unwrap();
    assert_eq!(bills.iter().map(|bill| bill.requests).sum::<u64>(), count, "sums and records disagree");
    assert_eq!(bills.iter().map(|bill| bill.billed_ms).sum::<u64>(), 3 * count);
}

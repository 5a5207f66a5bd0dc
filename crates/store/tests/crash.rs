//! Death without warning: a child commits under load and is killed; nothing that it acknowledged may be lost or torn.
//!
//! The child is this test binary again, running only `child`. It tells each acknowledged commit on its standard output;
//! the parent kills it with SIGKILL at a random moment, opens the store itself and compares. `DUNLIN_KILLS` says how
//! often (default 5). Killing a process proves nothing about the loss of power: the page cache survives here.
//!
//! Each committer repeats one transaction: raise its counter to n, write two records n, delete the records n - 1. So the
//! state of a committer is whole exactly if its counter and its only two records say the same n.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base::{Random, SystemClock, SystemRandom};
use store::{EmbeddedConfig, Entry, Range, Store, Txn, embedded};

const COMMITTERS: u8 = 16;
const FOLDER: &str = "DUNLIN_CRASH_FOLDER";

fn counter(committer: u8) -> Vec<u8> {
    vec![b'c', committer]
}

fn records(committer: u8) -> Vec<u8> {
    vec![b'r', committer]
}

fn record(committer: u8, number: u64, part: u8) -> Vec<u8> {
    [&records(committer)[..], &number.to_be_bytes(), &[part]].concat()
}

fn number(entry: &Entry) -> u64 {
    u64::from_be_bytes(entry.value[..8].try_into().unwrap())
}

/// One committer of the child. Every eighth commit is relaxed: the death of a process does not touch these either.
async fn commit_for_ever(store: Arc<dyn Store>, committer: u8) {
    let mut last = store.get(&counter(committer)).await.unwrap();
    loop {
        let next = last.as_ref().map_or(0, number) + 1;
        let value = [&next.to_be_bytes()[..], &[committer; 100]].concat();
        let mut txn =
            Txn::new().expect_unchanged(counter(committer), last.as_ref()).put(counter(committer), value.clone());
        for part in 0..2 {
            txn = txn.put(record(committer, next, part), value.clone()).delete(record(committer, next - 1, part));
        }
        txn = if next.is_multiple_of(8) { txn.relaxed() } else { txn };
        let version = match store.commit(txn).await {
            Ok(version) => version,
            // The store has failed and the process is about to end.
            Err(error) => panic!("{error}"),
        };
        let line = format!("ack {committer} {next} {version}\n");
        std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
        last = Some(Entry { key: counter(committer).into(), value: value.into(), version });
    }
}

/// Not a test: what the parent starts.
#[test]
#[ignore = "no test by itself: the tests of this file start it as the process that they look after"]
fn child() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let store = embedded::open(EmbeddedConfig::new(folder, SystemClock::shared())).unwrap();
        let store: Arc<dyn Store> = Arc::new(store);
        let committers: Vec<_> =
            (0..COMMITTERS).map(|n| tokio::spawn(commit_for_ever(Arc::clone(&store), n))).collect();
        for committer in committers {
            committer.await.unwrap();
        }
    });
}

fn start(folder: &Path, shell: Option<&str>) -> Child {
    let program = std::env::current_exe().unwrap();
    let mut command = match shell {
        None => Command::new(&program),
        Some(before) => {
            let mut shell = Command::new("sh");
            shell.arg("-c").arg(format!("{before}; exec \"$0\" \"$@\"")).arg(&program);
            shell
        }
    };
    command.args(["--exact", "child", "--ignored", "--nocapture", "--quiet"]).env(FOLDER, folder);
    command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
}

/// What a child has acknowledged: the last number of each committer, and the highest version.
#[derive(Default)]
struct Acknowledged {
    numbers: BTreeMap<u8, u64>,
    version: u64,
    commits: u64,
}

impl Acknowledged {
    fn note(&mut self, line: &str) {
        // The harness prints lines of its own, and the last line may be cut off.
        let Some(line) = line.strip_prefix("ack ").and_then(|line| line.strip_suffix('\n')) else { return };
        let fields: Vec<u64> = line.split(' ').map(|field| field.parse().unwrap()).collect();
        self.numbers.insert(u8::try_from(fields[0]).unwrap(), fields[1]);
        self.version = self.version.max(fields[2]);
        self.commits += 1;
    }

    /// Reads what the child says, kills it after `patience` if given, and reads to the end.
    fn listen(&mut self, mut child: Child, patience: Option<Duration>) -> std::process::ExitStatus {
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let mut deadline = None;
        let mut line = String::new();
        while lines.read_line(&mut line).unwrap() > 0 {
            self.note(&line);
            line.clear();
            // The time runs from the first line, so that there is always load when the end comes.
            let deadline = deadline.get_or_insert_with(|| Instant::now() + patience.unwrap_or(Duration::MAX / 4));
            if Instant::now() >= *deadline {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap()
    }
}

/// Opens the store, checks it against what was acknowledged, and returns how long opening took. What was found counts
/// as acknowledged from then on: it may not go back either.
async fn check(folder: &Path, acknowledged: &mut Acknowledged) -> Duration {
    let started = Instant::now();
    let store = embedded::open(EmbeddedConfig::new(folder, SystemClock::shared())).unwrap();
    let snapshot = store.snapshot().await.unwrap();
    let opened = started.elapsed();
    assert!(snapshot.version() >= acknowledged.version, "acknowledged commits are lost");
    for committer in 0..COMMITTERS {
        let told = acknowledged.numbers.get(&committer).copied().unwrap_or(0);
        let Some(entry) = snapshot.get(&counter(committer)).await.unwrap() else {
            assert_eq!(told, 0, "the first commits of {committer} are lost");
            continue;
        };
        let found = number(&entry);
        assert!(found >= told, "committer {committer}: {told} was acknowledged, {found} is there");
        assert!(found <= told + 1, "committer {committer}: {found} is there, more than it can have tried");
        acknowledged.numbers.insert(committer, found);
        let page = snapshot.range(&Range::prefix(records(committer))).await.unwrap();
        let keys: Vec<_> = page.entries.iter().map(|entry| entry.key.to_vec()).collect();
        assert_eq!(keys, [record(committer, found, 0), record(committer, found, 1)], "a torn commit");
        for record in page.entries {
            assert_eq!((record.value, record.version), (entry.value.clone(), entry.version), "a torn commit");
        }
    }
    drop(snapshot);
    store.close().await.unwrap();
    opened
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_by_kill_9() {
    let kills = std::env::var("DUNLIN_KILLS").map_or(5, |kills| kills.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let mut acknowledged = Acknowledged::default();
    let mut opened = Vec::new();
    for _ in 0..kills {
        let patience = Duration::from_millis(SystemRandom.next_u64() % 250);
        let status = acknowledged.listen(start(folder.path(), None), Some(patience));
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
        opened.push(check(folder.path(), &mut acknowledged).await);
    }
    opened.sort();
    let (middle, longest) = (opened[opened.len() / 2], opened[opened.len() - 1]);
    println!("{kills} kills, {} commits acknowledged, open p50 {middle:?} max {longest:?}", acknowledged.commits);
    assert!(longest < Duration::from_secs(1));
}

#[tokio::test]
async fn a_failed_write_ends_the_process_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut acknowledged = Acknowledged::default();
    // The log's room is taken when it is made.
    check(folder.path(), &mut acknowledged).await;
    for kilobytes in [300, 1_000] {
        // Files end at this size; a write beyond fails, with an error that is not that of a full disk.
        let limit = format!("trap '' XFSZ; ulimit -f {}", kilobytes * 2);
        let status = acknowledged.listen(start(folder.path(), Some(&limit)), None);
        assert_eq!(status.code(), Some(70));
        check(folder.path(), &mut acknowledged).await;
    }
    assert!(acknowledged.commits > 0);
}

//! Real deaths: a child polls a stream or a queue over the embedded store and is killed with SIGKILL at random moments,
//! again and again over one folder. The parent sees from the child's output what the function was given and has handled.
//!
//! The child is this test binary again, running only `child`. `DUNLIN_KILLS` says how often it is killed.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use base::{SystemClock, SystemRandom};
use serde_json::json;
use store::{EmbeddedConfig, Store, embedded};

use super::restarts::{KEYS, Seen};
use super::*;
use crate::tests::guests::Guests;

const FOLDER: &str = "DUNLIN_POLLER_FOLDER";
const RECORDS: &str = "DUNLIN_POLLER_RECORDS";
/// The ARN that the child polls.
const SOURCE: &str = "DUNLIN_POLLER_SOURCE";
/// The file of a queue's acknowledged messages.
const ACKED: &str = "acked";
/// Of how many events the function fails one, wholly or from some record on.
const FAILS: &str = "DUNLIN_POLLER_FAILS";
/// Kills of a usual run, and records for each of them.
const KILLS: u64 = 3;
const RECORDS_OF_KILL: u64 = 100;
/// A child that hangs ends.
const CHILD_LIFE: Duration = Duration::from_secs(120);

/// What the parent does with the children of one source.
struct Lives<'a> {
    folder: &'a Path,
    source: &'a str,
    records: u64,
    seen: Seen,
}

/// Not a test: what the parent starts.
#[test]
#[ignore = "no test by itself: the tests below start it as the process that they look after"]
fn child() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let (folder, source) = (Path::new(&folder), std::env::var(SOURCE).unwrap());
    let records = number(RECORDS).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let config = EmbeddedConfig::new(folder.join("store"), SystemClock::shared());
        let store: Arc<dyn Store> = Arc::new(embedded::open(config).unwrap());
        let world = World::over(store, Guests::new(), |_| {});
        deploy_told(&world, number(FAILS).unwrap());
        match source.as_str() {
            STREAM => fill_stream(&world, records),
            _ => fill_queue(&world, &folder.join(ACKED), records),
        }
        map(&world, Mapping { batch_records: 2, lanes: 2, reports_failures: true, ..mapping(&source, "f") });
        tokio::time::sleep(CHILD_LIFE).await;
    });
}

/// Deploys the function. It tells what it handles before the platform knows of it.
fn deploy_told(world: &World, fails: u64) {
    let random = SystemRandom::shared();
    deploy(world, "f", 3, move |event| {
        let records = event["Records"].as_array().unwrap();
        let text =
            |record: &Value| record.get("body").unwrap_or(&record["kinesis"]["data"]).as_str().unwrap().to_owned();
        let numbers: Vec<String> = records.iter().map(text).collect();
        let place = match random.next_u64().checked_rem(fails) {
            Some(0) => 0,
            Some(1) => random.next_u64() as usize % numbers.len(),
            _ => numbers.len(),
        };
        let line = format!("got {place} {}\n", numbers.join(" "));
        std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
        // What follows a failure has failed too, as functions of FIFO queues are to do.
        let id = |record: &Value| record.get("messageId").unwrap_or(&record["kinesis"]["sequenceNumber"]).clone();
        let failures: Vec<Value> =
            records[place..].iter().map(|record| json!({"itemIdentifier": id(record)})).collect();
        Some(json!({"batchItemFailures": failures}).to_string())
    });
}

fn fill_stream(world: &World, records: u64) {
    ["s-0", "s-1"].iter().for_each(|shard| world.stream.open(shard, &[]));
    for number in 0..records {
        let key = number % KEYS as u64;
        world.stream.append(&format!("s-{}", key % 2), &format!("k{key}"), &number.to_string());
    }
}

/// The queue of a child begins with what was not acknowledged in the lives before; their leases have ended.
fn fill_queue(world: &World, acked: &Path, records: u64) {
    let gone = world.queue.keep(acked);
    for number in 0..records {
        let (id, group) = (format!("m{number}"), format!("g{}", number % KEYS as u64));
        if !gone.contains(&id) {
            world.queue.send(&id, &number.to_string(), Some(&group));
        }
    }
}

impl Lives<'_> {
    /// Runs a child until it is killed after a random while, or has handled everything.
    fn run(&mut self, life: Option<Duration>) {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "poller::tests::kills::child", "--ignored", "--nocapture", "--quiet"]);
        command.env(FOLDER, self.folder).env("TMPDIR", self.folder).env(SOURCE, self.source);
        // A failure is waited after: it is rare, and the last child has none.
        let fails = if life.is_some() { 200 } else { 0 };
        command.env(RECORDS, self.records.to_string()).env(FAILS, fails.to_string());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let (mut line, mut begun) = (String::new(), None);
        while output.read_line(&mut line).unwrap() > 0 {
            let done = self.note(&line);
            line.clear();
            // The clock starts with the first event: opening takes as long as it takes.
            let began = *begun.get_or_insert_with(std::time::Instant::now);
            if done || life.is_some_and(|life| began.elapsed() >= life) {
                break;
            }
        }
        child.kill().unwrap();
        while output.read_line(&mut line).unwrap() > 0 {
            self.note(&line);
            line.clear();
        }
        child.wait().unwrap();
    }

    /// Takes note of a line; whether everything is handled.
    fn note(&mut self, line: &str) -> bool {
        // The harness prints lines of its own, and the last line may be cut off.
        let Some(line) = line.strip_prefix("got ").and_then(|line| line.strip_suffix('\n')) else { return false };
        let mut numbers = line.split(' ').map(|text| text.parse::<usize>().unwrap());
        let place = numbers.next().unwrap();
        let numbers: Vec<usize> = numbers.collect();
        self.seen.event(&numbers, (place < numbers.len()).then_some(place), true);
        self.seen.handled.len() as u64 == self.records
    }
}

/// Kills children until they have handled everything; `check` looks at what each has left.
fn live_through_kills(source: &str, check: impl Fn(&Path, &Seen)) {
    let kills = number("DUNLIN_KILLS").unwrap_or(KILLS);
    let (folder, random) = (tempfile::tempdir().unwrap(), SystemRandom::shared());
    let records = kills * RECORDS_OF_KILL;
    let mut lives = Lives { folder: folder.path(), source, records, seen: Seen::default() };
    for _ in 0..kills {
        lives.run(Some(Duration::from_millis(20 + random.next_u64() % 250)));
        assert_eq!(lives.seen.wrong, None);
        check(folder.path(), &lives.seen);
    }
    lives.run(None);
    let seen = &lives.seen;
    assert_eq!((seen.wrong.as_deref(), seen.handled.len() as u64), (None, records), "some are not handled");
    check(folder.path(), seen);
    let again = seen.given.values().filter(|given| **given > 1).count();
    println!("killed {kills} times: {records} records handled, {again} given again, none lost and none out of order");
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap())
}

#[test]
fn a_stream_that_is_polled_through_kills_has_no_gap() {
    live_through_kills(STREAM, |_, _| {});
}

#[test]
fn a_queue_that_is_polled_through_kills_loses_nothing() {
    live_through_kills(&format!("{QUEUE}.fifo"), |folder, seen| {
        let acked = std::fs::read_to_string(folder.join(ACKED)).unwrap();
        let acked: BTreeSet<usize> = acked.lines().map(|id| id[1..].parse().unwrap()).collect();
        let unhandled: Vec<_> = acked.difference(&seen.handled).collect();
        assert!(unhandled.is_empty(), "acknowledged but not handled: {unhandled:?}");
    });
}

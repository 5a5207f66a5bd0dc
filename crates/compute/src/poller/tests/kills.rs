//! Real deaths: a child polls a stream over the embedded store and is killed with SIGKILL at random moments, again and
//! again over one folder. The parent sees from the child's output what the function was given and has handled.
//!
//! The child is this test binary again, running only `child`. `DUNLIN_KILLS` says how often it is killed.

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
/// Kills of a usual run, and records for each of them.
const KILLS: u64 = 3;
const RECORDS_OF_KILL: u64 = 100;
/// A child that hangs ends.
const CHILD_LIFE: Duration = Duration::from_secs(120);

/// Not a test: what the parent starts.
#[test]
#[ignore = "no test by itself: `a_stream_that_is_polled_through_kills_has_no_gap` starts it as the process that it looks after"]
fn child() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let records = number(RECORDS).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let config = EmbeddedConfig::new(Path::new(&folder).join("store"), SystemClock::shared());
        let store: Arc<dyn Store> = Arc::new(embedded::open(config).unwrap());
        let world = World::over(store, Guests::new(), |_| {});
        let random = SystemRandom::shared();
        // It is told before the platform knows of it. Failures are rare, as each is waited after.
        deploy(&world, "f", 3, move |event| {
            let records = event["Records"].as_array().unwrap();
            let numbers: Vec<&str> = records.iter().map(|record| record["kinesis"]["data"].as_str().unwrap()).collect();
            let place = match random.next_u64() % 200 {
                0 => 0,
                1 => random.next_u64() as usize % numbers.len(),
                _ => numbers.len(),
            };
            let line = format!("got {place} {}\n", numbers.join(" "));
            std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
            let failed = records.get(place).map(|record| &record["kinesis"]["sequenceNumber"]);
            let failures: Vec<Value> = failed.into_iter().map(|id| json!({"itemIdentifier": id})).collect();
            Some(json!({"batchItemFailures": failures}).to_string())
        });
        ["s-0", "s-1"].iter().for_each(|shard| world.stream.open(shard, &[]));
        for number in 0..records {
            let key = number % KEYS as u64;
            world.stream.append(&format!("s-{}", key % 2), &format!("k{key}"), &number.to_string());
        }
        map(&world, Mapping { batch_records: 2, lanes: 2, reports_failures: true, ..mapping(STREAM, "f") });
        tokio::time::sleep(CHILD_LIFE).await;
    });
}

/// Runs a child until it is killed after a random while, or has handled everything.
fn run(folder: &Path, records: u64, seen: &mut Seen, life: Option<Duration>) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "poller::tests::kills::child", "--ignored", "--nocapture", "--quiet"]);
    command.env(FOLDER, folder).env(RECORDS, records.to_string()).env("TMPDIR", folder);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut note = |line: &str| {
        // The harness prints lines of its own, and the last line may be cut off.
        let Some(line) = line.strip_prefix("got ").and_then(|line| line.strip_suffix('\n')) else { return false };
        let mut numbers = line.split(' ').map(|text| text.parse::<usize>().unwrap());
        let place = numbers.next().unwrap();
        let numbers: Vec<usize> = numbers.collect();
        seen.event(&numbers, (place < numbers.len()).then_some(place), true);
        seen.handled.len() as u64 == records
    };
    let (mut line, mut begun) = (String::new(), None);
    while output.read_line(&mut line).unwrap() > 0 {
        let done = note(&line);
        line.clear();
        // The clock starts with the first event: opening takes as long as it takes.
        let began = *begun.get_or_insert_with(std::time::Instant::now);
        if done || life.is_some_and(|life| began.elapsed() >= life) {
            break;
        }
    }
    child.kill().unwrap();
    while output.read_line(&mut line).unwrap() > 0 {
        note(&line);
        line.clear();
    }
    child.wait().unwrap();
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap())
}

#[test]
fn a_stream_that_is_polled_through_kills_has_no_gap() {
    let kills = number("DUNLIN_KILLS").unwrap_or(KILLS);
    let records = kills * RECORDS_OF_KILL;
    let (folder, random) = (tempfile::tempdir().unwrap(), SystemRandom::shared());
    let mut seen = Seen::default();
    for _ in 0..kills {
        let life = Duration::from_millis(20 + random.next_u64() % 250);
        run(folder.path(), records, &mut seen, Some(life));
        assert_eq!(seen.wrong, None);
    }
    run(folder.path(), records, &mut seen, None);
    assert_eq!((seen.wrong.as_deref(), seen.handled.len() as u64), (None, records), "some are not handled");
    let again = seen.given.values().filter(|given| **given > 1).count();
    println!("killed {kills} times: {records} records handled, {again} given again, none lost and none out of order");
}

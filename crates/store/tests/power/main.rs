//! Loss of power: what is on disk at any moment is enough for the next open.
//!
//! A child (this test binary again, running only `child`) works on a store and on blobs, is killed and started again
//! several times, and says each commit that was acknowledged. `strace` records all its calls on files, with their data
//! and their order (`trace`). From the record follows what a disk must hold at any step of it, and what it may have lost
//! (`disk`). Such folders are made by chance, opened and compared with what had been said by then (`check`).
//!
//! `DUNLIN_CUTS` says how many cuts are made (default 40). So that the checker itself is known to find losses, the same
//! is done with disks that leave out one kind of sync: each must be found out.
//!
//! Start reading at `disk`.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]
#![allow(clippy::cast_possible_truncation, reason = "lengths of files that fit into memory")]

mod check;
mod disk;
#[path = "../strace/mod.rs"]
mod strace;
mod trace;
mod workload;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use base::{Random, SeededRandom};
use check::Acknowledged;
use disk::{Disk, Lie, below, honest};
use trace::{Call, Step, Trace};
use workload::{BLOBS, Phase, STORE};

const FOLDER: &str = "DUNLIN_POWER_FOLDER";
const PHASE: &str = "DUNLIN_POWER_PHASE";

/// Not a test: what the parent starts.
#[test]
#[ignore = "no test by itself: the tests of this file start it as the process that they look after"]
fn child() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    workload::run(folder.as_ref(), &std::env::var(PHASE).unwrap());
}

/// The child's lives, each with what strace does to it. A thread is killed when it is about to begin its n-th sync, so
/// that something is left which the page cache has and the disk has not. Slow syncs leave time for that.
fn lives() -> Vec<(Phase, Vec<String>)> {
    let usual = Phase { commits: 10, relaxed: false, reopen: false, close: false };
    let slow = |us| vec!["pwritev2:delay_enter=100".to_owned(), format!("fdatasync:delay_enter={us}")];
    let killed = |at: u32| [slow(500), vec![format!("fdatasync:signal=KILL:when={at}")]].concat();
    let slower = || slow(5_000);
    vec![
        (Phase { commits: 20, reopen: true, ..usual }, slower()),
        (usual, killed(4)),
        (Phase { relaxed: true, ..usual }, killed(5)),
        (usual, killed(9)),
        (Phase { relaxed: true, commits: 16, ..usual }, slower()),
        (Phase { reopen: true, close: true, ..usual }, slower()),
    ]
}

fn record() -> Trace {
    strace::require();
    let folder = strace::folder();
    let root = folder.path().join("disk");
    std::fs::create_dir(&root).unwrap();
    let mut trace = Trace::default();
    for (phase, inject) in lives() {
        let mut child = strace::child();
        child.env(FOLDER, &root).env(PHASE, phase.text());
        let file = folder.path().join("trace");
        let done = strace::recorded(&child, &file, &inject).output().unwrap();
        let killed = inject.iter().any(|inject| inject.contains("KILL"));
        let errors = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success() || killed, "the child ended as {}: {errors}", done.status);
        trace.read(&file, &root);
    }
    trace
}

/// The record shows all that this test is about: every file, segments used again, the tree's log emptied and begun anew.
fn is_complete(trace: &Trace) {
    let count = |kind: fn(&Call) -> bool, path: &str| {
        trace.calls.iter().filter(|call| kind(call) && call.path().contains(path)).count()
    };
    let synced_write = |call: &Call| matches!(call, Call::Write { synced: true, .. });
    let sync = |call: &Call| matches!(call, Call::Sync { .. });
    let write = |call: &Call| matches!(call, Call::Write { .. });
    let begin = |call: &Call| matches!(call, Call::Write { offset: Some(0), .. });
    let truncate = |call: &Call| matches!(call, Call::Truncate { .. });
    let link = |call: &Call| matches!(call, Call::Link { .. });
    let unlink = |call: &Call| matches!(call, Call::Unlink { .. });
    let rounds = count(begin, "log.0");
    for (seen, least, what) in [
        (count(synced_write, "log."), 100, "synced writes of the log"),
        (count(sync, "log."), 10, "syncs of the log"),
        (rounds, 5, "rounds of the log"),
        (count(sync, "store.db-wal"), 20, "syncs of the tree's log"),
        (count(begin, "store.db-wal"), 5, "rounds of the tree's log"),
        (count(truncate, "store.db-wal"), 1, "times that the tree's log is emptied"),
        (count(write, "store.db"), 100, "writes of the tree"),
        (count(sync, "store"), 10, "syncs"),
        (count(link, BLOBS), 20, "names of blobs"),
        (count(unlink, ""), 5, "names taken away"),
        (count(|call| matches!(call, Call::MakeFolder { .. }), ""), 3, "folders"),
    ] {
        assert!(seen >= least, "the record has {seen} {what}");
    }
}

/// After a kill the tree's log may be in memory only. The log is written anew where the tree has its commits, so it
/// must not be written before the tree's log is on disk.
fn tree_is_flushed_before_the_log_is_written(trace: &Trace) {
    // Whether there is something in it that is not flushed, and whether that is of an earlier life.
    let (mut unflushed, mut left) = (false, false);
    for step in &trace.steps {
        match step {
            Step::Start => left = unflushed,
            Step::End(call, Some(_)) => match &trace.calls[*call] {
                Call::Write { path, .. } if path.ends_with("store.db-wal") => unflushed = true,
                // It is emptied when the tree itself has all of it, flushed.
                Call::Sync { path } | Call::Truncate { path, .. } if path.ends_with("store.db-wal") => {
                    (unflushed, left) = (false, false);
                }
                _ => {}
            },
            Step::Begin(call) => match &trace.calls[*call] {
                Call::Write { path, .. } if path.contains("log.") => assert!(!left, "{path} is written too early"),
                _ => {}
            },
            Step::End(..) => {}
        }
    }
}

/// Disks that leave out one kind of sync.
fn lies() -> Vec<(&'static str, Lie)> {
    fn sync_of(call: &Call, end: &str) -> bool {
        matches!(call, Call::Sync { path } if path.ends_with(end))
    }
    vec![
        ("synced writes of the log", |call| matches!(call, Call::Write { synced: true, .. })),
        ("syncs of the log", |call| matches!(call, Call::Sync { path } if path.contains("store/log."))),
        ("syncs of the tree's log", |call| sync_of(call, "store.db-wal")),
        ("syncs of the tree", |call| sync_of(call, "store.db")),
        ("syncs of the store's folder", |call| sync_of(call, STORE)),
        ("syncs of the folders above", |call| sync_of(call, "data") || sync_of(call, "node")),
        ("syncs of blobs", |call| matches!(call, Call::Sync { path } if path.contains(".tmp/"))),
        (
            "syncs of the folders of blobs",
            |call| matches!(call, Call::Sync { path } if path.starts_with(BLOBS) && !path.contains(".tmp/")),
        ),
    ]
}

/// Where to cut: anywhere, and more often shortly after calls that change what the disk relies on.
fn places(trace: &Trace, number: usize, random: &dyn Random) -> BTreeSet<usize> {
    let interesting: Vec<usize> = (0..trace.steps.len())
        .filter(|at| match trace.steps[*at] {
            Step::Start => true,
            Step::Begin(call) | Step::End(call, _) => match &trace.calls[call] {
                // Begins of segments and of the tree's log; the tree itself; everything about names and lengths.
                Call::Write { offset, path, .. } => *offset == Some(0) || path.ends_with(".db"),
                Call::Open { create, .. } => *create,
                Call::Say { .. } => false,
                _ => true,
            },
        })
        .collect();
    let starts: Vec<usize> = (0..trace.steps.len()).filter(|at| matches!(trace.steps[*at], Step::Start)).collect();
    let pick = |of: &[usize], spread: u64| {
        of[below(random, of.len() as u64) as usize] + below(random, spread.min(1 + below(random, spread))) as usize
    };
    let mut places = BTreeSet::new();
    while places.len() < number.min(trace.steps.len() / 2) {
        let place = match random.next_u64() % 4 {
            0 => below(random, trace.steps.len() as u64) as usize,
            // The first calls of a process meet what the one before had left in memory only.
            1 => pick(&starts, 800),
            _ => pick(&interesting, 4),
        };
        places.insert(place.min(trace.steps.len() - 1));
    }
    places
}

/// So many places, evenly.
fn anywhere(trace: &Trace, number: usize) -> BTreeSet<usize> {
    (1..=number).map(|place| place * (trace.steps.len() - 1) / number).collect()
}

/// Cuts at those places, and returns what is wrong after each with its place; and how long opening took at most.
async fn cut_all(
    trace: &Trace,
    acknowledged: &Acknowledged,
    lie: Lie,
    places: &BTreeSet<usize>,
    enough: usize,
) -> (Vec<(usize, String)>, Duration) {
    let mut disk = Disk::new(trace, lie);
    let (mut wrong, mut longest) = (Vec::new(), Duration::ZERO);
    for (at, step) in trace.steps.iter().enumerate() {
        disk.step(*step);
        if !places.contains(&at) {
            continue;
        }
        let left = strace::folder();
        disk.cut(left.path(), &*SeededRandom::new(at as u64));
        match check::check(left.path(), acknowledged, at).await {
            Ok(took) => longest = longest.max(took),
            Err(error) => wrong.push((at, error)),
        }
        if wrong.len() >= enough {
            break;
        }
    }
    (wrong, longest)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loss_of_power_loses_nothing_acknowledged_and_tears_nothing() {
    let cuts = std::env::var("DUNLIN_CUTS").map_or(40, |cuts| cuts.parse().unwrap());
    let started = Instant::now();
    let trace = record();
    let acknowledged = Acknowledged::of(&trace);
    is_complete(&trace);
    tree_is_flushed_before_the_log_is_written(&trace);
    let places = places(&trace, cuts, &*SeededRandom::new(1));
    let (wrong, longest) = cut_all(&trace, &acknowledged, honest, &places, 12).await;
    for (at, error) in &wrong {
        println!("step {at}: {error}");
    }
    println!(
        "{} cuts in {} calls and {:?}: {} commits and {} blobs acknowledged, {} cuts lost or tore something; open at most {longest:?}",
        places.len(),
        trace.calls.len(),
        started.elapsed(),
        acknowledged.commits.len(),
        acknowledged.blobs.len(),
        wrong.len()
    );
    assert!(wrong.is_empty());
    assert!(longest < Duration::from_secs(1));
    for (lie, without) in lies() {
        let (found, _) = cut_all(&trace, &acknowledged, without, &anywhere(&trace, 60), 1).await;
        assert!(!found.is_empty(), "a disk without {lie} was not found out");
        println!("a disk without {lie} is found out: {}", found[0].1);
    }
}

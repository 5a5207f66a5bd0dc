//! The simulation over many seeds, and over variants that are broken on purpose.
//!
//! `DUNLIN_SEEDS=10000` runs that many; `DUNLIN_SEED=n` runs one and prints its events.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]
#![allow(clippy::print_stdout, reason = "what a run has met, and the events of one that is replayed")]

use std::panic::catch_unwind;

use sim::{Broken, Outcome, Stats, run};

/// Seeds of a usual run.
const SEEDS: u64 = 150;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap())
}

fn replay(seed: u64) -> String {
    format!("replay it: DUNLIN_SEED={seed} cargo test -p sim --test seeds a_store -- --nocapture")
}

/// Runs a seed; what panics is a failure like others.
fn try_run(seed: u64, broken: Broken, keep: bool) -> Outcome {
    catch_unwind(|| run(seed, broken, keep)).unwrap_or_else(|_| panic!("seed {seed} panicked; {}", replay(seed)))
}

/// Runs some seeds, and ends at the first that fails.
fn check(seeds: impl Iterator<Item = u64>, keep: bool) -> Stats {
    let mut sum = Stats::default();
    for seed in seeds {
        let outcome = try_run(seed, Broken::Nothing, keep);
        outcome.events.iter().for_each(|event| println!("{event}"));
        if let Some(violation) = outcome.violation {
            panic!("seed {seed}: {violation:.1000}\n{}", replay(seed));
        }
        sum.add(&outcome.stats);
    }
    sum
}

#[test]
fn a_store_that_is_cut_killed_and_filled_up_stays_what_the_model_says() {
    if let Some(seed) = number("DUNLIN_SEED") {
        check(seed..seed + 1, true);
        return;
    }
    let (count, threads) = (number("DUNLIN_SEEDS").unwrap_or(SEEDS), 2);
    // Each run has its own thread, disk and folder.
    let sums = std::thread::scope(|scope| {
        let start = |first| scope.spawn(move || check((first..count).step_by(threads as usize), false));
        let started: Vec<_> = (0..threads).map(start).collect();
        started.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    let mut sum = Stats::default();
    sums.iter().for_each(|part| sum.add(part));
    println!("{count} seeds passed, no acknowledged commit lost: {sum:?}");
    if count >= SEEDS {
        let kinds = [sum.conflicts, sum.too_old, sum.disk_full, sum.claimed, sum.cuts, sum.cuts_within, sum.kills];
        let rarer = [sum.disk_errors, sum.lost_relaxed, sum.resolved, sum.generations];
        assert!(kinds.iter().chain(&rarer).all(|count| *count > 0), "something never happens any more: {sum:?}");
    }
}

/// Entries hidden from claims; a lost commit that came back; a half one in the tree; a tree that a kill left unflushed.
#[test]
fn seeds_that_once_found_something_pass() {
    check([144, 1_599, 2_586, 10_423].into_iter(), false);
}

#[test]
fn a_seed_repeats_itself() {
    for seed in 0..10 {
        let (first, second) = (try_run(seed, Broken::Nothing, false), try_run(seed, Broken::Nothing, true));
        assert_eq!(first.hash, second.hash, "seed {seed}");
        assert_eq!(first.stats, second.stats, "seed {seed}");
    }
}

/// Runs a variant until it is caught; it must be within so many seeds.
fn caught(broken: Broken, seeds: u64) -> String {
    (0..seeds)
        .find_map(|seed| try_run(seed, broken, false).violation)
        .unwrap_or_else(|| panic!("{broken:?} was not caught within {seeds} seeds"))
}

#[test]
fn what_is_broken_on_purpose_is_caught() {
    for (broken, words) in [
        (Broken::LyingDisk, "lost commits|must have been kept"),
        (Broken::ForgottenCommit, "the next one was"),
        (Broken::IgnoredRanges, "did not hold"),
        (Broken::IgnoredPoints, "did not hold"),
        (Broken::LateWatches, "slept on"),
        (Broken::EarlyLeases, "it should have|the store says"),
    ] {
        let violation = caught(broken, 60);
        println!("{broken:?}: {violation:.150}");
        assert!(words.split('|').any(|words| violation.contains(words)), "{broken:?} was caught by: {violation:.1000}");
    }
}

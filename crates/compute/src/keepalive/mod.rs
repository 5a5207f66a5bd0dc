//! How long environments are kept without a call, and when they are started ahead of one. Pure: calls in, a number of
//! environments out.
//!
//! | what is known                      | file     | tells                                                             |
//! |------------------------------------|----------|-------------------------------------------------------------------|
//! | times without any call             | `gaps`   | until which age the last environment is worth its memory, and when it is again |
//! | equal intervals, known schedules   | `rhythm`, here | when the next call is due                                   |
//! | rate and length of calls           | `rate`   | how many environments the calls that run at once need             |
//! | calls that come quicker than before| `surge`  | how many more the first calls of a burst announce                 |
//!
//! What is learned does not depend on what was decided: it follows from calls alone. What a cold call is worth is one
//! price, in the idle time of an environment of a usual size; every decision follows from it.
//!
//! Invariants
//!   1. Environments that run calls are always wanted.
//!   2. What is kept of one function is bounded, and a function that was never called has nothing here.
//!
//! Start reading at `Habits`.

mod book;
mod gaps;
mod rate;
mod rhythm;
mod surge;
#[cfg(test)]
mod tests;

pub(crate) use book::Book;
use gaps::{Gaps, Plan, Price};
use rate::Rate;
use rhythm::Rhythm;
use surge::{Hold, Surge};

const SECOND: u64 = 1_000_000;
/// What a cold call is worth: so long an environment of `USUAL_MB` is kept for each one that it saves. With this price
/// less than half of the cold calls of ten fixed minutes are left, at less than a third of its memory (`tests`).
const COLD_CALL_US: u64 = 500 * SECOND;
const USUAL_MB: u64 = 256;
/// Beside the environments that the rate of calls wants, a rise starts others: one that is missing costs less.
const BESIDE_SURGE: u64 = 10;
/// How long an environment is kept of which nothing is known yet, as a share of what a cold call is worth.
const UNKNOWN: u64 = 4;
/// A start takes processors from others: it counts as so many times its length of idle time.
const START_WEIGHT: u64 = 30;
/// Where no start was seen yet.
const START_US_GUESS: u64 = 10_000;
/// Calls no longer than this wait for one another where none is free.
const QUICK_US: u64 = 10_000;
/// Gaps below which the histogram is not asked.
const GAPS_LEAST: u32 = 4;
/// Known due times kept at most for one function.
const EXPECTED_MAX: usize = 16;
/// How much later than said a known call may come.
const LATE_US: u64 = SECOND;

/// What a function's environments are wanted for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// How many there should be, those that run calls included.
    pub(crate) environments: usize,
    /// When that may change if nothing happens.
    pub(crate) look_at_us: Option<u64>,
}

/// What is known about the calls of one function version. All times are of one monotonic clock.
#[derive(Debug, Clone, Default)]
pub(crate) struct Habits {
    memory_mb: u64,
    start_us: Option<u64>,
    /// When the last call ended, or the running ones began.
    quiet_us: Option<u64>,
    gaps: Gaps,
    plan: Plan,
    /// How many gaps the plan is made from.
    planned: u32,
    rhythm: Rhythm,
    rate: Rate,
    surge: Surge,
    hold: Hold,
    /// Times at which calls are known to come, in order.
    expected: Vec<u64>,
}

impl Habits {
    /// Nothing known yet of a function with so much memory, in MiB.
    pub(crate) fn new(memory_mb: u32) -> Self {
        Self { memory_mb: u64::from(memory_mb.max(1)), ..Self::default() }
    }

    /// Counts a call in; `running` are the calls that wait or run, with this one.
    pub(crate) fn began(&mut self, now_us: u64, running: usize) {
        if running == 1 {
            if let Some(quiet_us) = self.quiet_us {
                self.gaps.add(now_us.saturating_sub(quiet_us));
                self.plan_again();
            }
            self.rhythm.called(now_us);
            self.expected.retain(|at_us| *at_us > now_us.saturating_add(LATE_US));
        }
        self.surge.began(now_us, running);
        self.rate.began(now_us);
    }

    /// Counts a call out that took so long; `running` are those that are left. `first`: in its environment.
    pub(crate) fn ended(&mut self, now_us: u64, running: usize, length_us: u64, first: bool) {
        self.rate.ended(length_us, first);
        self.surge.ended(now_us, running);
        self.quiet_us = Some(now_us);
    }

    /// Learns how long a start takes.
    pub(crate) fn started(&mut self, took_us: u64) {
        self.start_us = Some(self.start_us.map_or(took_us, |old| (old.saturating_mul(7)).saturating_add(took_us) / 8));
    }

    /// How long a start takes, if one was seen.
    pub(crate) fn start_us(&self) -> Option<u64> {
        self.start_us
    }

    /// How long a call takes, if one was seen.
    pub(crate) fn run_us(&self) -> Option<u64> {
        self.rate.length_us()
    }

    /// Goes on with a revision of another size.
    pub(crate) fn resize(&mut self, memory_mb: u32) {
        self.memory_mb = u64::from(memory_mb.max(1));
        self.planned = 0;
    }

    /// A call is known to come at this time.
    pub(crate) fn expect(&mut self, at_us: u64) {
        if let Err(place) = self.expected.binary_search(&at_us)
            && self.expected.len() < EXPECTED_MAX
        {
            self.expected.insert(place, at_us);
        }
    }

    /// Whether calls wait for one another where none is free, sooner than for a start.
    pub(crate) fn are_quick(&self) -> bool {
        self.run_us().is_some_and(|run_us| run_us <= QUICK_US)
    }

    /// How many environments are wanted while `running` calls have or need one.
    pub(crate) fn wanted(&mut self, now_us: u64, running: usize) -> Wanted {
        let mut wanted = Wanted { environments: running, look_at_us: None };
        let price = self.price();
        if running == 0 {
            self.quiet(now_us, price, &mut wanted);
        }
        if !self.are_quick() {
            self.several(now_us, running, price, &mut wanted);
        }
        let span_us = price.start_us.clamp(SECOND, 60 * SECOND);
        let several = wanted.environments.max(1);
        let (held, until_us) = self.hold.over(now_us, several, span_us);
        if held > several {
            wanted.within(now_us, held, now_us, until_us);
        }
        wanted
    }

    /// What more than one environment is wanted for.
    fn several(&self, now_us: u64, running: usize, price: Price, wanted: &mut Wanted) {
        let count = self.rate.environments(now_us, price.cold_us / BESIDE_SURGE);
        if count > running.max(1) {
            wanted.within(now_us, count, now_us, self.rate.look_at_us(now_us));
        }
        if let Some((count, until_us)) = self.surge.wanted(now_us, running) {
            wanted.within(now_us, count, now_us, until_us);
        }
    }

    /// What the last environment is wanted for while no call runs.
    fn quiet(&self, now_us: u64, price: Price, wanted: &mut Wanted) {
        let lead_us = self.lead_us();
        let mut known = false;
        for at_us in &self.expected {
            known |= wanted.within(now_us, 1, at_us.saturating_sub(lead_us), at_us.saturating_add(LATE_US));
        }
        if let Some(due) = self.rhythm.due() {
            // Between two calls that follow quickly it costs less to keep than to start.
            let apart = due.period_us > price.start_us;
            let from_us = if apart { due.at_us.saturating_sub(lead_us + due.spread_us) } else { now_us };
            known |= wanted.within(now_us, 1, from_us, due.at_us + due.spread_us);
        }
        let Some(quiet_us) = self.quiet_us.filter(|_| !known) else { return };
        let guess = Plan { keep_us: price.cold_us / UNKNOWN, again: None };
        let plan = if self.gaps.counted() < GAPS_LEAST { guess } else { self.plan };
        wanted.within(now_us, 1, quiet_us, quiet_us.saturating_add(plan.keep_us));
        if let Some((from, until)) = plan.again {
            wanted.within(now_us, 1, (quiet_us + from).saturating_sub(lead_us), quiet_us.saturating_add(until));
        }
    }

    /// Plans again when enough has been seen since the last time.
    fn plan_again(&mut self) {
        let counted = self.gaps.counted();
        if counted < self.planned || counted - self.planned > self.planned / 8 {
            self.plan = self.gaps.plan(self.price());
            self.planned = counted;
        }
    }

    fn price(&self) -> Price {
        let cold_us = COLD_CALL_US * USUAL_MB / self.memory_mb.max(1);
        let cold_us = cold_us.clamp(COLD_CALL_US / 8, COLD_CALL_US * 2);
        Price { cold_us, start_us: self.start_us.unwrap_or(START_US_GUESS).saturating_mul(START_WEIGHT) }
    }

    /// How long before a call its environment is started.
    fn lead_us(&self) -> u64 {
        self.start_us.unwrap_or(START_US_GUESS).saturating_mul(2) + SECOND / 20
    }

    /// What the host gains from keeping an idle environment, for eviction by cost: the time that its cold calls would
    /// cost in a while, for each MiB that it holds.
    pub(crate) fn worth(&self, now_us: u64) -> u64 {
        let hour = 3_600.0 * SECOND as f64;
        let saved_us = self.rate.now(now_us) * hour * self.start_us.unwrap_or(START_US_GUESS) as f64;
        (saved_us / self.memory_mb.max(1) as f64) as u64
    }
}

impl Wanted {
    /// Wants `count` environments within a time; says whether that is now or still to come.
    fn within(&mut self, now_us: u64, count: usize, from_us: u64, until_us: u64) -> bool {
        if until_us <= now_us {
            return false;
        }
        let look_us = if from_us <= now_us {
            self.environments = self.environments.max(count);
            until_us
        } else {
            from_us
        };
        self.look_at_us = Some(self.look_at_us.map_or(look_us, |other| other.min(look_us)));
        true
    }
}

//! Runs a policy over the calls of a trace and counts what it cost: cold calls, and memory that was held idle.
//!
//! Functions do not compete here: each is replayed by itself, and host capacity has no end. The first day is for
//! learning; only the second is counted, for every policy alike. A call is cold if no initialised environment is free
//! when it comes, also if one is being started already.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::AddAssign;

use super::trace::{self, Arrival, DAY_US, Function};

/// How often environments that are not wanted any more are looked for.
const TICK_US: u64 = 250_000;

/// What a policy wants at a moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    /// Environments, those that run a call included.
    pub(super) environments: usize,
    /// When that may change if nothing happens.
    pub(super) look_at_us: Option<u64>,
}

/// Decides how many environments a function has. `running` are calls that wait or run.
pub(super) trait Policy {
    fn began(&mut self, now_us: u64, running: usize);
    fn ended(&mut self, now_us: u64, running: usize, length_us: u64);
    fn wanted(&mut self, now_us: u64, running: usize) -> Wanted;
}

/// What the second day cost.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Bill {
    pub(super) calls: u64,
    pub(super) cold: u64,
    /// Environments that were started, for a call or ahead of one.
    pub(super) starts: u64,
    /// Memory of environments that ran nothing, their start included.
    pub(super) idle_gb_s: f64,
    /// Memory of environments while they ran calls: the same under every policy.
    pub(super) busy_gb_s: f64,
}

impl AddAssign for Bill {
    fn add_assign(&mut self, other: Self) {
        self.calls += other.calls;
        self.cold += other.cold;
        self.starts += other.starts;
        self.idle_gb_s += other.idle_gb_s;
        self.busy_gb_s += other.busy_gb_s;
    }
}

struct World<'a, P> {
    function: &'a Function,
    policy: P,
    now_us: u64,
    /// When running calls end, and how long they took.
    running: BinaryHeap<Reverse<(u64, u64)>>,
    /// When environments that are started ahead of calls are ready.
    ahead: Vec<u64>,
    /// Initialised and free.
    free: usize,
    /// When calls that wait for an environment of their own get it.
    waiting: BinaryHeap<Reverse<(u64, u64)>>,
    look_at_us: Option<u64>,
    idle_us: u64,
    busy_us: u64,
    bill: Bill,
}

impl<P: Policy> World<'_, P> {
    fn counted(&self) -> bool {
        self.now_us >= DAY_US
    }

    fn concurrency(&self) -> usize {
        self.running.len() + self.waiting.len()
    }

    fn pass(&mut self, to_us: u64) {
        let from_us = self.now_us.max(DAY_US);
        if to_us > from_us {
            let passed_us = to_us - from_us;
            self.idle_us += passed_us * (self.free + self.ahead.len() + self.waiting.len()) as u64;
            self.busy_us += passed_us * self.running.len() as u64;
        }
        self.now_us = to_us;
    }

    /// Everything that happens until `until_us`.
    fn advance(&mut self, until_us: u64) {
        loop {
            let end = self.running.peek().map(|Reverse((at, _))| *at);
            let begin = self.waiting.peek().map(|Reverse((at, _))| *at);
            let ready = self.ahead.iter().min().copied();
            let Some(next) = [end, begin, ready, self.look_at_us].into_iter().flatten().min() else { break };
            if next > until_us {
                break;
            }
            self.pass(next);
            if end == Some(next) {
                let Some(Reverse((_, length_us))) = self.running.pop() else { break };
                self.free += 1;
                self.policy.ended(next, self.concurrency(), length_us);
                // Environments end at the next tick, not with a call.
                let tick_us = (next / TICK_US + 1) * TICK_US;
                self.look_at_us = Some(self.look_at_us.map_or(tick_us, |look_us| look_us.min(tick_us)));
            } else if begin == Some(next) {
                let Some(Reverse((_, duration_us))) = self.waiting.pop() else { break };
                self.running.push(Reverse((next + duration_us, duration_us)));
            } else if ready == Some(next) {
                self.ahead.retain(|at| *at != next);
                self.free += 1;
            } else {
                self.follow(true);
            }
        }
        self.pass(until_us);
    }

    /// Does what the policy wants now.
    fn follow(&mut self, may_end: bool) {
        let concurrency = self.concurrency();
        let wanted = self.policy.wanted(self.now_us, concurrency);
        assert!(wanted.look_at_us.is_none_or(|at| at > self.now_us), "a policy that looks at once looks for ever");
        self.look_at_us = wanted.look_at_us;
        let spare = wanted.environments.saturating_sub(concurrency);
        if may_end {
            self.free = self.free.min(spare);
        }
        while self.free + self.ahead.len() < spare {
            // A microsecond apart, so that each is told from the others.
            self.ahead.push(self.now_us + self.function.start_us + self.ahead.len() as u64);
            self.bill.starts += u64::from(self.counted());
        }
    }

    fn arrive(&mut self, call: Arrival) {
        self.advance(call.at_us);
        self.bill.calls += u64::from(self.counted());
        if self.free > 0 {
            self.free -= 1;
            self.running.push(Reverse((self.now_us + call.duration_us, call.duration_us)));
        } else {
            self.bill.cold += u64::from(self.counted());
            let soonest = (0..self.ahead.len()).min_by_key(|at| self.ahead[*at]);
            let ready_us = match soonest {
                Some(at) => self.ahead.swap_remove(at),
                None => {
                    self.bill.starts += u64::from(self.counted());
                    self.now_us + self.function.start_us
                }
            };
            self.waiting.push(Reverse((ready_us, call.duration_us)));
        }
        self.policy.began(self.now_us, self.concurrency());
        self.follow(false);
    }
}

/// Runs one function's two days under a policy.
pub(super) fn replay<P: Policy>(function: &Function, policy: P) -> Bill {
    let mut world = World {
        function,
        policy,
        now_us: 0,
        running: BinaryHeap::new(),
        ahead: Vec::new(),
        free: 0,
        waiting: BinaryHeap::new(),
        look_at_us: None,
        idle_us: 0,
        busy_us: 0,
        bill: Bill::default(),
    };
    for call in function.arrivals(2 * DAY_US) {
        world.arrive(call);
    }
    world.advance(2 * DAY_US);
    let gb_s = f64::from(function.memory_mb) / 1_024.0 / 1e6;
    Bill { idle_gb_s: world.idle_us as f64 * gb_s, busy_gb_s: world.busy_us as f64 * gb_s, ..world.bill }
}

/// Every environment stays for the same time after its last call.
pub(super) struct Fixed {
    keep_us: u64,
    /// For each level of concurrency, when there were last so many calls.
    left_us: Vec<u64>,
}

impl Fixed {
    pub(super) fn minutes(minutes: u64) -> Self {
        Self { keep_us: minutes * 60_000_000, left_us: Vec::new() }
    }
}

impl Policy for Fixed {
    fn began(&mut self, now_us: u64, running: usize) {
        self.left_us.resize(self.left_us.len().max(running), now_us);
    }

    fn ended(&mut self, now_us: u64, running: usize, _length_us: u64) {
        self.left_us[running] = now_us;
    }

    fn wanted(&mut self, now_us: u64, running: usize) -> Wanted {
        while self.left_us.len() > running && self.left_us[self.left_us.len() - 1] + self.keep_us <= now_us {
            self.left_us.pop();
        }
        let kept = self.left_us.len() > running;
        let look_at_us = self.left_us.last().filter(|_| kept).map(|left_us| left_us + self.keep_us);
        Wanted { environments: self.left_us.len().max(running), look_at_us }
    }
}

/// What is spent by one who knows every call beforehand: each has an environment just in time, and none is kept.
pub(super) fn oracle(function: &Function) -> Bill {
    let gb_s = f64::from(function.memory_mb) / 1_024.0 / 1e6;
    let mut bill = Bill::default();
    for call in function.arrivals(2 * DAY_US).filter(|call| call.at_us >= DAY_US) {
        bill.calls += 1;
        bill.starts += 1;
        bill.idle_gb_s += function.start_us as f64 * gb_s;
        bill.busy_gb_s += call.duration_us as f64 * gb_s;
    }
    bill
}

/// The bills of all functions of a seed.
pub(super) fn total(seed: u64, functions: usize, bill: impl Fn(&Function) -> Bill) -> Bill {
    let mut total = Bill::default();
    for function in &trace::functions(seed, functions) {
        total += bill(function);
    }
    total
}

#[test]
fn keeping_longer_costs_memory_and_spares_cold_calls() {
    let of = |minutes| total(1, 12, |function| replay(function, Fixed::minutes(minutes)));
    let (short, long) = (of(1), of(10));
    assert_eq!(short.calls, long.calls);
    assert!(long.cold < short.cold && long.idle_gb_s > short.idle_gb_s);
    assert!((short.busy_gb_s / long.busy_gb_s - 1.0).abs() < 0.01);
    let oracle = total(1, 12, oracle);
    assert!(oracle.cold == 0 && oracle.calls == long.calls && oracle.idle_gb_s < long.idle_gb_s);
}

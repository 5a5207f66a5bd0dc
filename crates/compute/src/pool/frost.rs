//! Which idle environments are frozen, and when: between two calls a function's code must not run, as it does not in
//! Lambda. A guest that only waits for its next call costs nothing, and freezing it would only make that call later. So
//! the ones are frozen that could do anything else: that have more threads or processes than before their function was
//! loaded, or that used processor time while nobody called them.
//!
//! Invariants
//!   1. Nothing is frozen or looked at that was called within `Pace::after_us`.
//!   2. An environment that can do nothing is looked at ever more seldom, but never not at all.
//!
//! `Watch` is the decision, and pure; start reading there.

use sandbox::Usage;
use std::time::Duration;

use super::{Pool, State};

/// Longest time between two looks.
const LOOKS_APART_MAX_US: u64 = 10_000_000;
/// Processor time between two looks that a guest which only waits does not use.
const STRAY_CPU: Duration = Duration::from_micros(500);
/// Environments of one pool that are looked at under one lock.
const LOOKS_MAX: usize = 64;

/// What does the freezing of one sandbox (`sandbox::Control::freeze`).
pub(crate) type Freezing = Box<dyn FnOnce() + Send>;

/// What was seen of one idle environment, and when it is looked at next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Watch {
    look_at_us: u64,
    apart_us: u64,
    cpu: Option<Duration>,
}

impl Watch {
    /// Of an environment that became idle now.
    pub(super) fn from(now_us: u64, after: Option<Duration>) -> Self {
        let apart_us = after.map_or(u64::MAX, |after| u64::try_from(after.as_micros()).unwrap_or(u64::MAX).max(1));
        Self { look_at_us: now_us.saturating_add(apart_us), apart_us, cpu: None }
    }

    /// Of one that is frozen, or is never to be.
    pub(super) const NEVER: Self = Self { look_at_us: u64::MAX, apart_us: u64::MAX, cpu: None };

    /// When to look: monotonic microseconds.
    pub(super) fn look_at_us(&self) -> u64 {
        self.look_at_us
    }

    /// Looks: whether to freeze it now. `usual_tasks` are those that it had before its function was loaded.
    fn look(&mut self, now_us: u64, usual_tasks: u32, tasks: u32, cpu: Duration) -> bool {
        let used = cpu.saturating_sub(self.cpu.unwrap_or(cpu));
        if tasks > usual_tasks || used >= STRAY_CPU {
            *self = Self::NEVER;
            return true;
        }
        self.cpu = Some(cpu);
        self.look_at_us = now_us.saturating_add(self.apart_us);
        self.apart_us = self.apart_us.saturating_mul(2).min(LOOKS_APART_MAX_US);
        false
    }
}

impl State {
    /// An environment has become idle, to be looked at then.
    pub(super) fn watch(&mut self, watch: Watch) -> Watch {
        self.frost_at_us = self.frost_at_us.min(watch.look_at_us());
        watch
    }
}

impl Pool {
    /// Looks at idle environments whose time has come. Answers what freezes some, to be called without locks, and when to
    /// look again.
    pub(crate) fn frost(&self, now_us: u64) -> (Vec<Freezing>, u64) {
        let mut state = self.state.lock();
        if state.frost_at_us > now_us {
            return (Vec::new(), state.frost_at_us);
        }
        let mut freezings = Vec::new();
        let due = |watch: &Watch| watch.look_at_us <= now_us;
        for idle in state.idle.iter_mut().filter(|idle| due(&idle.watch)).take(LOOKS_MAX) {
            let environment = &mut idle.environment;
            let (Usage { cpu, .. }, tasks) = environment.measured();
            if idle.watch.look(now_us, environment.usual_tasks(), tasks, cpu) {
                freezings.push(environment.freeze());
            }
        }
        state.frost_at_us = state.idle.iter().map(|idle| idle.watch.look_at_us).min().unwrap_or(u64::MAX);
        (freezings, state.frost_at_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AFTER: Option<Duration> = Some(Duration::from_millis(100));
    const MS: u64 = 1_000;

    fn looked(seen: &[(u64, u32, u64)]) -> Vec<bool> {
        let mut watch = Watch::from(0, AFTER);
        seen.iter().map(|(at, tasks, cpu_us)| watch.look(*at, 7, *tasks, Duration::from_micros(*cpu_us))).collect()
    }

    #[test]
    fn what_only_waits_is_left_alone() {
        assert_eq!(looked(&[(100 * MS, 7, 5_000), (200 * MS, 7, 5_000), (400 * MS, 6, 5_100)]), [false, false, false]);
    }

    #[test]
    fn what_has_more_threads_is_frozen_at_once() {
        assert_eq!(looked(&[(100 * MS, 8, 5_000)]), [true]);
        assert_eq!(looked(&[(100 * MS, 7, 5_000), (200 * MS, 8, 5_000)]), [false, true]);
    }

    #[test]
    fn what_uses_time_is_frozen_once_that_is_seen() {
        assert_eq!(looked(&[(100 * MS, 7, 5_000), (200 * MS, 7, 5_600)]), [false, true]);
    }

    #[test]
    fn looks_become_rare_and_do_not_end() {
        let mut watch = Watch::from(0, AFTER);
        let mut now_us = 0;
        let mut apart = Vec::new();
        for _ in 0..12 {
            apart.push(watch.look_at_us() - now_us);
            now_us = watch.look_at_us();
            assert!(!watch.look(now_us, 1, 1, Duration::ZERO));
        }
        assert_eq!(&apart[..4], [100 * MS, 100 * MS, 200 * MS, 400 * MS]);
        assert_eq!(apart.last(), Some(&LOOKS_APART_MAX_US));
    }

    #[test]
    fn what_is_frozen_or_never_to_be_is_not_looked_at() {
        assert_eq!(Watch::from(5, None).look_at_us(), u64::MAX);
        let mut watch = Watch::from(0, AFTER);
        assert!(watch.look(100 * MS, 1, 2, Duration::ZERO));
        assert_eq!(watch, Watch::NEVER);
    }
}

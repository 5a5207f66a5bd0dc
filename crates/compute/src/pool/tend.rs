//! How many environments a pool has beside those that calls wait for: kept, started ahead, ended.
//!
//! Decided by `keepalive`, or by a fixed time where the operator set one. A start ahead of calls takes only room and a
//! slot that nobody wants, and ends nothing for it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Idle, Pool, Starting, State, floor};
use crate::autoscaler;
use crate::engine::Core;
use crate::keepalive::Habits;
use crate::start::{self, Purpose};

/// How long after a failed start ahead of calls the next one is.
pub(super) const FAILED_WAIT_US: u64 = 60_000_000;

/// What is to be done about a pool.
#[derive(Default)]
pub(crate) struct Tended {
    /// Environments that are not wanted any more; they end when dropped.
    pub(crate) ended: Vec<Idle>,
    /// Environments to start ahead (`Pool::start_ahead`).
    pub(crate) starts: usize,
    /// Environments to start for the floor (`Pool::start_floor`).
    pub(crate) floor_starts: usize,
    /// When to look again: monotonic microseconds.
    pub(crate) look_at_us: u64,
}

impl Pool {
    /// Looks whether there are as many environments as should be.
    pub(crate) fn tend(&self, core: &Core, now_us: u64) -> Tended {
        let mut state = self.state.lock();
        let mut tended = Tended { ended: state.take_off_floor(core, now_us), ..Tended::default() };
        tended.floor_starts = state.below_floor(now_us);
        tended.look_at_us = u64::MAX;
        let age_max = core.config.environment_age_max;
        let old = state.take_spare(usize::MAX, |idle| !idle.environment.is_usable(now_us, age_max));
        if !old.is_empty() {
            state.look_at_us = 0;
            tended.ended.extend(old);
        }
        if let Some(keep_alive) = core.config.keep_alive {
            let keep_us = u64::try_from(keep_alive.as_micros()).unwrap_or(u64::MAX);
            tended.ended.extend(state.take_spare(usize::MAX, |idle| idle.since_us.saturating_add(keep_us) < now_us));
            return tended;
        }
        if state.look_at_us > now_us {
            tended.look_at_us = state.look_at_us;
            return tended;
        }
        let running = state.in_need();
        let wanted = state.habits.wanted(now_us, running);
        state.look_at_us = wanted.look_at_us.unwrap_or(u64::MAX);
        let surplus = (state.busy + state.idle.len()).saturating_sub(wanted.environments);
        tended.ended.extend(state.take_spare(surplus, |_| true));
        tended.starts = state.missing(core, wanted.environments, now_us);
        tended.look_at_us = state.look_at_us;
        tended
    }

    /// Starts environments that no call waits for; `State::missing` has counted them.
    pub(crate) fn start_ahead(self: &Arc<Self>, core: &Arc<Core>, count: usize) {
        for _ in 0..count {
            core.tasks.spawn(start_one_ahead(core.clone(), self.clone()));
        }
    }

    /// What is known of the version's calls, for when there are environments again.
    pub(crate) fn take_habits(&self) -> Habits {
        std::mem::take(&mut self.state.lock().habits)
    }

    /// A call is known to come at this time.
    pub(crate) fn expect(&self, at_us: u64) {
        let mut state = self.state.lock();
        state.habits.expect(at_us);
        state.look_at_us = 0;
    }

    /// What the longest idle environment is worth beside others, and since when it is idle; nothing if none may end.
    pub(crate) fn worth(&self, now_us: u64) -> Option<(u64, u64)> {
        let state = self.state.lock();
        let oldest = state.idle.iter().find(|idle| !idle.environment.is_kept())?;
        Some((oldest.price.saturating_add(state.habits.worth(now_us)), oldest.since_us))
    }

    /// Ends the longest idle environment that may end, if there is one.
    pub(crate) fn evict_oldest(&self) -> bool {
        let oldest = self.state.lock().take_spare(1, |_| true);
        !oldest.is_empty()
    }
}

impl State {
    /// Counts a call in, before it has an environment.
    pub(super) fn call_comes(&mut self, now_us: u64) {
        let running = self.busy + self.waiters.len() + 1;
        self.habits.began(now_us, running);
    }

    /// Calls that have an environment or need one of their own. A crowd of quick ones is served by those that run.
    fn in_need(&self) -> usize {
        let waiting = self.waiters.len();
        self.busy.saturating_add(if self.habits.are_quick() {
            usize::from(self.busy == 0).min(waiting)
        } else {
            waiting
        })
    }

    /// An environment has ended by itself that no call had reached: that is a start that has failed, although later, and others would end
    /// like it.
    pub(super) fn start_was_lost(&mut self, kept: bool, now_us: u64) {
        self.ahead_after_us = now_us.saturating_add(FAILED_WAIT_US);
        if kept {
            self.floor_failed(floor::INIT_FAILURE, now_us);
        }
    }

    /// How many environments to start since the last free one was taken.
    pub(super) fn spares(&mut self, core: &Core, now_us: u64) -> usize {
        if core.config.keep_alive.is_some() || !self.idle.is_empty() || self.retired {
            return 0;
        }
        let wanted = self.habits.wanted(now_us, self.in_need());
        self.look_at_us = now_us;
        self.missing(core, wanted.environments, now_us)
    }

    /// Counts in and tells how many starts are missing.
    fn missing(&mut self, core: &Core, wanted: usize, now_us: u64) -> usize {
        if self.retired || now_us < self.ahead_after_us {
            return 0;
        }
        let there = self.busy + self.idle.len() + self.floor.starting() + self.starting.max(self.waiters.len());
        let missing = wanted.saturating_sub(there);
        if there > 0 && missing > 0 && autoscaler::saturated(&self.load(core, Duration::ZERO)) {
            return 0;
        }
        self.starting += missing;
        missing
    }
}

/// One start that no call waits for.
async fn start_one_ahead(core: Arc<Core>, pool: Arc<Pool>) {
    let starting = Starting(&pool);
    let slot = core.fleet.starts.try_take(0);
    let ready = slot.and_then(|slot| Some((slot, core.fleet.room_aside(pool.version.memory_mb)?)));
    let Some((slot, room)) = ready else {
        drop(starting);
        return pool.start_for_waiters(&core);
    };
    let began = Instant::now();
    let end = start::in_init_phase(&core, &pool, room, slot, Purpose::Calls).await;
    drop(starting);
    pool.started(&core, end, began.elapsed());
}

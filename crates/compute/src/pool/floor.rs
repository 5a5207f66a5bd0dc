//! The environments that a version has whether calls come or not: provisioned concurrency, and minimum environments.
//!
//! They are started for that alone, with `AWS_LAMBDA_INITIALIZATION_TYPE` saying so, serve calls before all others, and
//! neither age away nor yield to other functions. What is beyond them comes and goes as everywhere (`tend`).
//!
//! Invariants
//!   1. An environment of the floor is counted from the end of its init until it is dropped, however it ends.
//!   2. A floor that cannot be reached is tried again after a wait, and says meanwhile why.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::{Idle, Pool, State};
use crate::autoscaler;
use crate::engine::Core;
use crate::start::{self, FailedStart, Purpose, StartEnd};

/// How long after a failed start the next one is.
const FAILED_WAIT_US: u64 = 60_000_000;
/// Lambda's words for an init that fails.
pub(super) const INIT_FAILURE: &str = "FUNCTION_ERROR_INIT_FAILURE";
/// How long an init may take at least where no call waits for it. Source: Lambda's documentation of the init phase.
const INIT_CAP_MIN: Duration = Duration::from_secs(130);

/// What a pool knows of its floor.
#[derive(Default)]
pub(super) struct Floor {
    wanted: usize,
    kept: Arc<AtomicUsize>,
    starting: usize,
    failure: Option<&'static str>,
    retry_us: u64,
}

/// A place of the floor, held by the environment that fills it.
#[derive(Debug)]
pub(crate) struct FloorPlace(Arc<AtomicUsize>);

impl Drop for FloorPlace {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Floor {
    /// Environments that there are of it.
    fn kept(&self) -> usize {
        self.kept.load(Ordering::SeqCst)
    }

    /// Whether there is one.
    pub(super) fn is_set(&self) -> bool {
        self.wanted > 0
    }

    /// Starts that are on their way.
    pub(super) fn starting(&self) -> usize {
        self.starting
    }
}

impl State {
    /// The idle environment that the next call takes: one of the floor before others, the last used before longer idle.
    pub(super) fn take_for_call(&mut self) -> Option<Idle> {
        if !self.floor.is_set() {
            return self.idle.pop();
        }
        match self.idle.iter().rposition(|idle| idle.environment.is_kept()) {
            Some(at) => Some(self.idle.remove(at)),
            None => self.idle.pop(),
        }
    }

    /// Up to `most` idle environments that are not of the floor and `may` end, longest idle first.
    pub(super) fn take_spare(&mut self, most: usize, may: impl Fn(&Idle) -> bool) -> Vec<Idle> {
        let mut taken = Vec::new();
        let mut at = 0;
        while at < self.idle.len() && taken.len() < most {
            if !self.idle[at].environment.is_kept() && may(&self.idle[at]) {
                taken.push(self.idle.remove(at));
            } else {
                at += 1;
            }
        }
        taken
    }

    /// Idle environments that the floor no longer has a place for, or that have grown too old: of these one at a time,
    /// while none is being started, so that the others serve on.
    pub(super) fn take_off_floor(&mut self, core: &Core, now_us: u64) -> Vec<Idle> {
        let kept = self.floor.kept();
        if kept == 0 {
            return Vec::new();
        }
        let idle = self.idle.iter().filter(|idle| idle.environment.is_kept()).count();
        let excess = autoscaler::beyond_floor(self.floor.wanted, kept, idle);
        let mut taken = Vec::new();
        for _ in 0..excess {
            let first = self.idle.iter().position(|idle| idle.environment.is_kept());
            taken.extend(first.map(|at| self.idle.remove(at)));
        }
        if taken.is_empty() && self.floor.starting == 0 && kept >= self.floor.wanted {
            let age_max = core.config.environment_age_max;
            let old = |idle: &Idle| idle.environment.is_kept() && !idle.environment.is_usable(now_us, age_max);
            taken.extend(self.idle.iter().position(old).map(|at| self.idle.remove(at)));
        }
        taken
    }

    /// The floor is not reached for now.
    pub(super) fn floor_failed(&mut self, failure: &'static str, now_us: u64) {
        self.floor.failure = Some(failure);
        self.floor.retry_us = now_us.saturating_add(FAILED_WAIT_US);
    }

    /// Counts in and tells how many environments of the floor are to be started.
    pub(super) fn below_floor(&mut self, now_us: u64) -> usize {
        if self.retired || !self.floor.is_set() || now_us < self.floor.retry_us {
            return 0;
        }
        let missing = autoscaler::below_floor(self.floor.wanted, self.floor.kept(), self.floor.starting);
        self.floor.starting += missing;
        missing
    }
}

impl Pool {
    /// Has so many environments from now on, whether calls come or not.
    pub(crate) fn set_floor(&self, environments: usize) {
        let mut state = self.state.lock();
        if state.floor.wanted != environments {
            state.floor.wanted = environments;
            state.floor.failure = None;
            state.floor.retry_us = 0;
            state.look_at_us = 0;
        }
    }

    /// Environments that there are of the floor, and why there are not more if that failed.
    pub(crate) fn floor(&self) -> (usize, Option<&'static str>) {
        let state = self.state.lock();
        (state.floor.kept(), state.floor.failure)
    }

    /// Starts environments of the floor; `State::below_floor` has counted them.
    pub(crate) fn start_floor(self: &Arc<Self>, core: &Arc<Core>, count: usize) {
        for _ in 0..count {
            core.tasks.spawn(start_one_of_floor(core.clone(), self.clone()));
        }
    }

    /// Whether a start that was counted is still wanted.
    fn floor_wants(&self) -> bool {
        let state = self.state.lock();
        !state.retired && state.floor.kept() + state.floor.starting <= state.floor.wanted
    }

    fn floor_failed(&self, core: &Core, failure: &'static str) {
        self.state.lock().floor_failed(failure, core.clock.monotonic_us());
    }
}

/// One start for the floor.
async fn start_one_of_floor(core: Arc<Core>, pool: Arc<Pool>) {
    let starting = Starting(&pool);
    let Ok(Some(room)) = timeout(core.config.capacity_wait, core.fleet.room(&pool, &*core.clock)).await else {
        return pool.floor_failed(&core, "This host has no room for more environments");
    };
    let slot = core.fleet.starts.take(&pool.version.function, 0, pool.start_cost_us()).await;
    let Some(slot) = slot else { return };
    if !pool.floor_wants() {
        return;
    }
    let cap = INIT_CAP_MIN.max(Duration::from_millis(pool.version.timeout_ms));
    let began = Instant::now();
    match start::in_init_phase(&core, &pool, room, slot, Purpose::Floor { cap }).await {
        StartEnd::Ready(mut environment) => {
            {
                let mut state = pool.state.lock();
                state.floor.kept.fetch_add(1, Ordering::SeqCst);
                state.floor.failure = None;
                environment.keep(FloorPlace(state.floor.kept.clone()));
            }
            drop(starting);
            pool.started(&core, StartEnd::Ready(environment), began.elapsed());
        }
        StartEnd::Failed(failed) => {
            let failure = match *failed {
                FailedStart::Init(_) | FailedStart::Cut { .. } => INIT_FAILURE,
                FailedStart::Refused(_) => "The platform could not start the environment",
            };
            pool.floor_failed(&core, failure);
            drop(starting);
            failed.report_alone().await;
        }
    }
}

/// Counts a start, also one that panics.
struct Starting<'a>(&'a Pool);

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        self.0.state.lock().floor.starting -= 1;
    }
}

//! The environments of one function revision, and the calls that wait for one.
//!
//! Late binding: a call that finds no idle environment waits for whichever comes first, a freed one or a new one; a
//! start is no call's own. The most recently used environment is taken first, so that the others can grow old and end.
//!
//! Where the processors are busy with calls of a very quick function, more of its environments would only share what the
//! others have, and each would find it cold. Then a call waits for one of those that run although others are idle, as they
//! may be after a burst of first calls; but only while one comes back every few milliseconds.
//!
//! Invariants
//!   1. Calls are served in the order they came.
//!   2. An environment is idle, leased, or gone; `Lease` is the only way to use one.
//!   3. A leased environment returns only if its call says that it is sound; in every other case it ends.
//!   4. A retired pool keeps no environment idle; calls that wait are still served.
//!
//! How many environments there should be without a waiting call is in `tend`, and how many always in `floor`; what idle
//! ones may do is in `frost`. Environments that serve several calls at once are in `seats`.

mod floor;
mod frost;
mod seats;
mod tend;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use model::{FunctionVersion, InvokeError, ProgramState};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use crate::autoscaler::{self, Average, Load, Rivals};
use crate::engine::{Core, stopping};
use crate::environment::Environment;
use crate::fleet::EnvironmentState;
use crate::keepalive::Habits;
use crate::start::{self, FailedStart, Purpose, StartEnd};
pub(crate) use floor::FloorPlace;
pub(crate) use frost::Freezing;
use frost::Watch;
pub(crate) use seats::{Seat, Seated};

/// What a waiting call gets.
pub(crate) enum Ready {
    /// An environment.
    Environment(Lease),
    /// A start that failed; its failure is this call's.
    Failed(Box<FailedStart>),
}

/// The environments of one revision.
pub(crate) struct Pool {
    /// What they run.
    pub(crate) version: Arc<FunctionVersion>,
    /// Held by the one start of this pool that waits for room on the host.
    pub(crate) hunger: tokio::sync::Mutex<()>,
    state: Mutex<State>,
    seats: Mutex<seats::Seats>,
}

#[derive(Default)]
struct State {
    /// Least recently used first.
    idle: Vec<Idle>,
    waiters: VecDeque<Waiter>,
    /// Since when there always was one that waits, or since the last start because of that: monotonic microseconds.
    backlog_since_us: Option<u64>,
    starting: usize,
    busy: usize,
    retired: bool,
    /// From a call's event to its answer, and how long its guest had it.
    took_us: Average,
    run_us: Average,
    start_us: Average,
    cpu_milli: Average,
    /// Whether all that is known of the length of calls is from first ones of their environments.
    first_only: bool,
    habits: Habits,
    /// When the number of environments is to be looked at again: monotonic microseconds.
    look_at_us: u64,
    /// No start ahead of calls before: the last one failed.
    ahead_after_us: u64,
    /// When an environment that has served a call was last given back: monotonic microseconds.
    freed_us: u64,
    floor: floor::Floor,
    /// When an idle environment is to be looked at that may have to be frozen: monotonic microseconds.
    frost_at_us: u64,
}

/// A call that waits for an environment.
struct Waiter {
    sender: oneshot::Sender<Ready>,
    /// Monotonic microseconds.
    since_us: u64,
}

/// An environment that waits for a call; dropped, it ends.
pub(crate) struct Idle {
    environment: Box<Environment>,
    since_us: u64,
    /// The price of room when it became idle (`Fleet::evict_one`).
    price: u64,
    watch: Watch,
}

impl Pool {
    /// A pool without environments, for a version whose calls are known that well.
    pub(crate) fn new(version: Arc<FunctionVersion>, habits: Habits) -> Self {
        let mut state = State { start_us: Average::of(habits.start_us()), ..State::default() };
        state.run_us = Average::of(habits.run_us());
        state.first_only = true;
        state.habits = habits;
        Self { version, hunger: tokio::sync::Mutex::default(), state: Mutex::new(state), seats: Mutex::default() }
    }

    /// An environment for one call, or the failure of a start, or no capacity in time.
    pub(crate) async fn checkout(self: &Arc<Self>, core: &Arc<Core>) -> Result<Ready, InvokeError> {
        let (mut receiver, starts, mut ask_again) = {
            let mut state = self.state.lock();
            let now_us = core.clock.monotonic_us();
            state.call_comes(now_us);
            core.fleet.processors.look(now_us);
            if state.waiters.is_empty()
                && !state.is_crowded(core)
                && let Some(idle) = state.take_for_call()
            {
                state.busy += 1;
                state.backlog_since_us = None;
                let ahead = state.spares(core, now_us);
                drop(state);
                self.start_ahead(core, ahead);
                return Ok(Ready::Environment(Lease::new(core, self, idle.environment)));
            }
            let (sender, receiver) = oneshot::channel();
            state.waiters.push_back(Waiter { sender, since_us: now_us });
            state.backlog_since_us.get_or_insert(now_us);
            self.lend_idle(core, &mut state, false);
            let (starts, ask_again) = self.decide(&mut state, core, Duration::ZERO);
            (receiver, starts, ask_again)
        };
        let starts = self.start_here(core, starts).await;
        self.start(core, starts);
        let arrived = Instant::now();
        // Who starts slowly by its own wish has the time for that.
        let startup_ms = self.version.web.as_ref().and_then(|web| web.startup_ms).unwrap_or(0);
        let deadline = arrived + core.config.capacity_wait + Duration::from_millis(startup_ms);
        loop {
            let ready = tokio::select! {
                biased;
                ready = timeout_at(deadline.min(Instant::now() + ask_again), &mut receiver) => ready,
                () = core.cut.cancelled() => return Err(stopping()),
            };
            match ready {
                Ok(Ok(ready)) => return Ok(ready),
                Ok(Err(_)) => return Err(InvokeError::Internal("a waiting call was forgotten".to_owned())),
                Err(_) if Instant::now() >= deadline => {
                    let seconds = core.config.capacity_wait.as_secs_f32();
                    return Err(InvokeError::NoCapacity(format!("no environment came free within {seconds} s")));
                }
                Err(_) => {
                    let (starts, _) = {
                        let mut state = self.state.lock();
                        let in_any_case = state.is_stalled(core.clock.monotonic_us());
                        self.lend_idle(core, &mut state, in_any_case);
                        self.decide(&mut state, core, arrived.elapsed())
                    };
                    self.start(core, starts);
                    ask_again *= 2;
                }
            }
        }
    }

    fn decide(&self, state: &mut State, core: &Core, waited: Duration) -> (usize, Duration) {
        state.forget_gone();
        let load = state.load(core, waited);
        // Idle ones beside waiting calls are enough, and more than the processors can use.
        let starts = if state.idle.is_empty() { autoscaler::starts(&load) } else { 0 };
        state.starting += starts;
        (starts, Duration::from_micros(autoscaler::ask_again_us(&load)))
    }

    /// Gives idle environments to the calls that wait: while there are processors for them, or one in any case.
    fn lend_idle(self: &Arc<Self>, core: &Arc<Core>, state: &mut State, mut in_any_case: bool) {
        while !state.waiters.is_empty() && (in_any_case || !state.is_crowded(core)) {
            let Some(Idle { environment, since_us, price, watch }) = state.take_for_call() else { return };
            let mut ready = Some(Ready::Environment(Lease::new(core, self, environment)));
            while let Some(offered) = ready.take() {
                match state.waiters.pop_front() {
                    Some(waiter) => ready = waiter.sender.send(offered).err(),
                    None => {
                        let environment = offered.into_environment();
                        state.idle.extend(environment.map(|environment| Idle { environment, since_us, price, watch }));
                        return;
                    }
                }
            }
            state.busy += 1;
            in_any_case = false;
        }
    }

    /// Opens an environment of a program that is compiled in the task of the call that wants it: that takes no longer than
    /// another task's way to a processor. How many of the starts are left.
    async fn start_here(self: &Arc<Self>, core: &Arc<Core>, count: usize) -> usize {
        let compiled = || core.programs.state(&self.version.code) == ProgramState::Ready;
        if count == 0 || !self.version.program || !compiled() {
            return count;
        }
        // In a box, as nearly no call needs it.
        Box::pin(core.cut.run_until_cancelled(start_one(core.clone(), self.clone()))).await;
        count - 1
    }

    fn start(self: &Arc<Self>, core: &Arc<Core>, count: usize) {
        for _ in 0..count {
            core.tasks.spawn(start_one(core.clone(), self.clone()));
        }
    }

    /// Whether a start that was decided earlier is still worth it.
    fn still_wanted(&self, core: &Core) -> bool {
        let mut state = self.state.lock();
        state.forget_gone();
        let mut load = state.load(core, Duration::from_micros(state.stuck_us(core.clock.monotonic_us())));
        load.starting -= 1;
        let wanted = autoscaler::starts(&load) > 0;
        if wanted {
            // Not before: what was decided for a backlog would be dropped here.
            state.backlog_since_us = Some(core.clock.monotonic_us());
        }
        wanted
    }

    fn started(self: &Arc<Self>, core: &Arc<Core>, end: StartEnd, took: Duration) {
        match end {
            StartEnd::Ready(environment) => {
                {
                    let mut state = self.state.lock();
                    let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
                    state.start_us.add(took_us);
                    state.habits.started(took_us);
                    core.fleet.learn_start(took_us);
                    state.busy += 1;
                }
                drop(Lease::new(core, self, environment));
            }
            StartEnd::Failed(failed) => {
                let mut unheard = Some(Ready::Failed(failed));
                {
                    let mut state = self.state.lock();
                    while let Some(ready) = unheard.take() {
                        let Some(waiter) = state.waiters.pop_front() else {
                            unheard = Some(ready);
                            break;
                        };
                        unheard = waiter.sender.send(ready).err();
                    }
                    if unheard.is_some() {
                        state.ahead_after_us = core.clock.monotonic_us() + tend::FAILED_WAIT_US;
                    }
                }
                if let Some(Ready::Failed(failed)) = unheard {
                    core.tasks.spawn(failed.report_alone());
                }
                self.start_for_waiters(core);
            }
        }
    }

    /// Starts what the calls that wait need, after a start did not bring what they had counted on.
    fn start_for_waiters(self: &Arc<Self>, core: &Arc<Core>) {
        let starts = self.decide(&mut self.state.lock(), core, Duration::ZERO).0;
        self.start(core, starts);
    }

    /// What a start counts where others wait for theirs: its usual length in microseconds.
    pub(crate) fn start_cost_us(&self) -> u64 {
        self.state.lock().start_us.get().unwrap_or(1)
    }

    /// Takes an environment that was started within a call.
    pub(crate) fn adopt(self: &Arc<Self>, core: &Arc<Core>, environment: Box<Environment>) -> Lease {
        self.state.lock().busy += 1;
        Lease::new(core, self, environment)
    }

    /// An environment comes back from a lease; if `sound`, it goes to whom waits first or becomes idle.
    fn give_back(self: &Arc<Self>, core: &Arc<Core>, environment: Box<Environment>, sound: bool) {
        let now_us = core.clock.monotonic_us();
        // A function that is always busy must not keep its room for ever while others wait for theirs.
        let of_floor = environment.is_kept();
        let served = !environment.is_unused();
        let usable = sound
            && environment.is_usable(now_us, core.config.environment_age_max)
            && (of_floor || !core.fleet.must_yield(self, now_us));
        let mut kept = usable.then_some(environment);
        let starts = {
            let mut state = self.state.lock();
            state.busy -= 1;
            if served {
                state.freed_us = now_us;
            }
            let crowded = state.is_crowded(core);
            while !crowded && let Some(environment) = kept.take() {
                let Some(waiter) = state.waiters.pop_front() else {
                    kept = Some(environment);
                    break;
                };
                match waiter.sender.send(Ready::Environment(Lease::new(core, self, environment))) {
                    Ok(()) => state.busy += 1,
                    Err(back) => kept = back.into_environment(),
                }
            }
            let stays = !state.retired && (of_floor || !core.fleet.others_hunger(self));
            if let Some(mut environment) = kept.take_if(|_| stays) {
                environment.rest();
                environment.card().set(EnvironmentState::Idle);
                let watch =
                    if environment.is_frozen() { Watch::NEVER } else { Watch::from(now_us, core.frost_after()) };
                let watch = state.watch(watch);
                state.idle.push(Idle { environment, since_us: now_us, price: core.fleet.price(), watch });
                state.look_at_us = now_us;
            }
            self.lend_idle(core, &mut state, false);
            if state.waiters.is_empty() {
                state.backlog_since_us = None;
                0
            } else {
                self.decide(&mut state, core, Duration::ZERO).0
            }
        };
        // What is still held here ends, outside the lock.
        drop(kept);
        self.start(core, starts);
    }

    /// Learns from a call that is over: how long it took, how long its guest had it, and what that used. Where many calls
    /// wait for a processor their lengths say nothing of the function, and more environments would only wait as well: then
    /// it counts as long as it would have been with a processor of its own. `first`: it was the first one of its
    /// environment, which does what later ones find done.
    pub(crate) fn learn(&self, core: &Core, now_us: u64, took_us: u64, mut run_us: u64, cpu_us: u64, first: bool) {
        core.fleet.processors.look(now_us);
        let mut state = self.state.lock();
        if core.fleet.processors.are_busy() {
            let undisturbed_us = autoscaler::undisturbed_us(run_us, cpu_us, &state.rivals(core));
            run_us = autoscaler::believed_us(undisturbed_us, state.run_us.get());
        }
        state.took_us.add(took_us);
        let left = (state.busy + state.waiters.len()).saturating_sub(1);
        state.habits.ended(now_us, left, run_us, first);
        if first && !state.first_only {
            return;
        }
        if state.first_only && !first {
            (state.run_us, state.cpu_milli, state.first_only) = (Average::default(), Average::default(), false);
        }
        state.run_us.add(run_us);
        // What a guest does between two calls counts to the later one: beside a short one that is no second processor.
        let of = |time_us: u64| cpu_us.saturating_mul(1_000) / time_us.max(1);
        state.cpu_milli.add(of(took_us).max(of(run_us).min(1_000)));
    }

    /// What is predicted of a call: its length in microseconds, if one was seen, and its processor use in thousandths.
    pub(crate) fn predicted(&self) -> (Option<u64>, u64) {
        let state = self.state.lock();
        (state.took_us.get(), state.cpu_milli.get().unwrap_or(0))
    }

    /// Forgets an idle environment whose sandbox has ended by itself.
    pub(crate) fn forget(&self, id: &str, now_us: u64) {
        let found = {
            let mut state = self.state.lock();
            let at = state.idle.iter().position(|idle| idle.environment.id() == id);
            let found = at.map(|at| state.idle.remove(at));
            if let Some(idle) = found.as_ref().filter(|idle| idle.environment.is_unused()) {
                state.start_was_lost(idle.environment.is_kept(), now_us);
            }
            found
        };
        drop(found);
    }

    /// A call has found an environment at its end that was not used before; `kept`: one of the floor.
    pub(crate) fn start_was_lost(&self, kept: bool, now_us: u64) {
        self.state.lock().start_was_lost(kept, now_us);
    }

    /// Keeps no environment idle from now on; those that are end when dropped.
    pub(crate) fn retire(&self) -> Vec<Idle> {
        let mut state = self.state.lock();
        state.retired = true;
        std::mem::take(&mut state.idle)
    }

    /// Whether an environment waits for a call.
    pub(crate) fn has_idle(&self) -> bool {
        !self.state.lock().idle.is_empty()
    }

    /// Whether nothing runs, starts, waits or idles here.
    pub(crate) fn is_empty(&self) -> bool {
        let state = self.state.lock();
        state.idle.is_empty()
            && state.waiters.is_empty()
            && state.starting + state.floor.starting() == 0
            && state.busy == 0
            && !state.floor.is_set()
    }
}

impl State {
    /// Takes calls off the line that do not wait any more.
    fn forget_gone(&mut self) {
        while self.waiters.front().is_some_and(|waiter| waiter.sender.is_closed()) {
            self.waiters.pop_front();
        }
    }

    /// How long the first in line has waited while no call ended, if calls usually take much less: what was predicted
    /// of them does not hold any more. Zero where they end as they did.
    fn stuck_us(&self, now_us: u64) -> u64 {
        let Some(first) = self.waiters.front() else { return 0 };
        let waited_us = now_us.saturating_sub(first.since_us.max(self.freed_us));
        let usual_us = self.took_us.get().unwrap_or(0);
        if waited_us > usual_us.saturating_mul(2) { waited_us } else { 0 }
    }

    /// Whether one waits and none came back for a while, as others would for long: then those that are idle are worth more
    /// than those that run.
    fn is_stalled(&self, now_us: u64) -> bool {
        let Some(first) = self.waiters.front() else { return false };
        now_us.saturating_sub(first.since_us.max(self.freed_us)) >= autoscaler::CROWD_WAIT_US
    }

    /// What runs beside a call that ends now.
    fn rivals(&self, core: &Core) -> Rivals {
        let own_milli = self.cpu_milli.get().unwrap_or(0).saturating_mul(self.busy as u64);
        let host_milli = core.config.cores as u64 * 1_000;
        Rivals { own: self.busy, others_milli: core.fleet.busy_milli().saturating_sub(own_milli), host_milli }
    }

    /// Whether another environment that runs would only share the processors of those that do.
    fn is_crowded(&self, core: &Core) -> bool {
        self.busy >= autoscaler::shared_by(core.config.cores) && autoscaler::crowded(&self.load(core, Duration::ZERO))
    }

    fn load(&self, core: &Core, waited: Duration) -> Load {
        let now_us = core.clock.monotonic_us();
        let (host_us, slot_us) = core.fleet.predicted_start();
        let start_us = self.start_us.get().or(host_us);
        Load {
            waiting: self.waiters.len(),
            starting: self.starting,
            busy: self.busy,
            run_us: self.run_us.get(),
            start_us: start_us.map(|start_us| start_us.saturating_add(slot_us)),
            cpu_milli: self.cpu_milli.get().unwrap_or(0),
            waited_us: u64::try_from(waited.as_micros()).unwrap_or(u64::MAX),
            backlog_us: self.backlog_since_us.map_or(0, |since| now_us.saturating_sub(since)),
            host_milli: core.config.cores as u64 * 1_000,
            host_busy_milli: core.fleet.busy_milli(),
            host_is_busy: core.fleet.processors.are_busy(),
            stuck_us: self.stuck_us(now_us),
        }
    }
}

impl Ready {
    fn into_environment(self) -> Option<Box<Environment>> {
        match self {
            Self::Environment(mut lease) => lease.environment.take(),
            Self::Failed(_) => None,
        }
    }
}

/// One start, for calls that wait.
async fn start_one(core: Arc<Core>, pool: Arc<Pool>) {
    let starting = Starting(&pool);
    let Some(room) = core.fleet.room(&pool, &*core.clock).await else {
        let memory_mb = pool.version.memory_mb;
        let error = InvokeError::NoCapacity(format!("this host has no room for {memory_mb} MB at all"));
        drop(starting);
        return pool.started(&core, StartEnd::refused(error), Duration::ZERO);
    };
    let slot = core.fleet.starts.take(&pool.version.function, 0, pool.start_cost_us()).await;
    let Some(slot) = slot else { return };
    if !pool.still_wanted(&core) {
        return;
    }
    let began = Instant::now();
    let end = start::in_init_phase(&core, &pool, room, slot, Purpose::Calls).await;
    drop(starting);
    pool.started(&core, end, began.elapsed());
}

/// Counts a start, also one that panics.
struct Starting<'a>(&'a Pool);

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        self.0.state.lock().starting -= 1;
    }
}

/// An environment in one call's hands. Dropped before its call began it goes back; dropped later, it ends.
pub(crate) struct Lease {
    core: Arc<Core>,
    pool: Arc<Pool>,
    environment: Option<Box<Environment>>,
    used: bool,
}

impl Lease {
    fn new(core: &Arc<Core>, pool: &Arc<Pool>, environment: Box<Environment>) -> Self {
        Self { core: core.clone(), pool: pool.clone(), environment: Some(environment), used: false }
    }

    /// The environment, for its call. From here on it goes back only through `release`.
    pub(crate) fn environment(&mut self) -> &mut Environment {
        self.used = true;
        match &mut self.environment {
            Some(environment) => environment,
            None => unreachable!("a lease holds its environment until it is released"),
        }
    }

    /// The pool that it belongs to.
    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Gives a sound environment back, as soon as its runtime is ready for the next call.
    pub(crate) fn release(mut self, deadline: Instant) {
        if self.environment.as_ref().is_some_and(|environment| environment.is_ready()) {
            self.sound();
            return;
        }
        let tasks = self.core.tasks.clone();
        tasks.spawn(async move {
            // A runtime that does not come back within the function's time is ended with its lease.
            if timeout_at(deadline, self.environment().ready()).await == Ok(true) {
                self.sound();
            }
        });
    }

    fn sound(&mut self) {
        self.used = false;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(environment) = self.environment.take() {
            self.pool.give_back(&self.core, environment, !self.used);
        }
    }
}

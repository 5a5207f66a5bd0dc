//! Environments that serve several calls at once: web servers.
//!
//! A shared environment is leased from the pool by its first call and given back by its last. Between the two its free
//! seats go to whoever waits, first come first served; where there are not enough, another environment is fetched from the
//! pool, which decides as for any other call whether one is freed or started. So the pool counts environments, not calls.
//!
//! Invariants
//!   1. No more calls are in an environment than its version says.
//!   2. An environment that is unsound or too old gets no further call, and ends when its last call has left it.
//!   3. A start that failed is the failure of those that it was to serve, and of nobody else.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use model::InvokeError;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{Lease, Pool, Ready};
use crate::engine::{Core, stopping};
use crate::environment::Shown;
use crate::report::Beginning;
use crate::start::FailedStart;

/// What a call gets that asked for a seat.
pub(crate) enum Seated {
    /// A seat.
    Seat(Seat),
    /// A start that failed.
    Failed(Box<FailedStart>),
}

/// The shared environments of one revision.
#[derive(Default)]
pub(super) struct Seats {
    open: Vec<Open>,
    waiters: VecDeque<oneshot::Sender<Result<Seated, InvokeError>>>,
    /// Environments that are on their way.
    fetching: usize,
}

struct Open {
    shared: Arc<Shared>,
    taken: usize,
    sound: bool,
}

/// An environment that several calls are in.
pub(crate) struct Shared {
    /// What its calls may use of it.
    pub(crate) shown: Shown,
    /// How it began, until its first call has taken that.
    beginning: Mutex<Option<Beginning>>,
    lease: Mutex<Option<Lease>>,
}

/// One call's place in a shared environment, until dropped.
pub(crate) struct Seat {
    core: Arc<Core>,
    pool: Arc<Pool>,
    shared: Option<Arc<Shared>>,
    sound: bool,
}

impl Seat {
    /// The environment.
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        match &self.shared {
            Some(shared) => shared,
            None => unreachable!("a seat has its environment until it is dropped"),
        }
    }

    /// The pool that it belongs to.
    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Has the environment serve no further call.
    pub(crate) fn spoil(&mut self) {
        self.sound = false;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.take() {
            self.pool.leave(&self.core, shared, self.sound);
        }
    }
}

impl Shared {
    fn new(mut lease: Lease) -> Arc<Self> {
        let environment = lease.environment();
        let beginning = environment.first_beginning();
        environment.wake();
        let shown = environment.shown();
        Arc::new(Self { shown, beginning: Mutex::new(beginning), lease: Mutex::new(Some(lease)) })
    }

    /// How it began, for its first call only.
    pub(crate) fn beginning(&self) -> Option<Beginning> {
        self.beginning.lock().take()
    }

    /// Processor time since the last time this was asked, and all that is used.
    pub(crate) fn usage(&self) -> (Duration, sandbox::Usage) {
        let mut lease = self.lease.lock();
        lease.as_mut().map(|lease| lease.environment().usage()).unwrap_or_default()
    }

    fn is_usable(&self, core: &Core) -> bool {
        let mut lease = self.lease.lock();
        let now_us = core.clock.monotonic_us();
        lease.as_mut().is_some_and(|lease| lease.environment().is_usable(now_us, core.config.environment_age_max))
    }
}

impl Pool {
    fn seats_each(&self) -> usize {
        self.version.web.as_ref().map_or(1, |web| web.concurrency.max(1) as usize)
    }

    fn seat_in(self: &Arc<Self>, core: &Arc<Core>, shared: &Arc<Shared>) -> Seat {
        Seat { core: core.clone(), pool: self.clone(), shared: Some(shared.clone()), sound: true }
    }

    /// A seat for one call, or the failure of a start, or no capacity in time.
    pub(crate) async fn seat(self: &Arc<Self>, core: &Arc<Core>) -> Result<Seated, InvokeError> {
        let receiver = {
            let mut seats = self.seats.lock();
            let each = self.seats_each();
            let free = |open: &&mut Open| open.sound && open.taken < each && open.shared.is_usable(core);
            if let Some(open) = seats.open.iter_mut().find(free) {
                open.taken += 1;
                return Ok(Seated::Seat(self.seat_in(core, &open.shared)));
            }
            let (sender, receiver) = oneshot::channel();
            seats.waiters.push_back(sender);
            receiver
        };
        self.fetch_for_waiters(core);
        tokio::select! {
            biased;
            seated = receiver => seated.unwrap_or_else(|_| Err(InvokeError::Internal("a waiting call was forgotten".to_owned()))),
            () = core.cut.cancelled() => Err(stopping()),
        }
    }

    /// Has as many environments on their way as those that wait need.
    fn fetch_for_waiters(self: &Arc<Self>, core: &Arc<Core>) {
        let wanted = {
            let mut seats = self.seats.lock();
            seats.waiters.retain(|waiter| !waiter.is_closed());
            let needed = seats.waiters.len().div_ceil(self.seats_each());
            let wanted = needed.saturating_sub(seats.fetching);
            seats.fetching += wanted;
            wanted
        };
        for _ in 0..wanted {
            core.tasks.spawn(fetch(core.clone(), self.clone()));
        }
    }

    /// An environment has come: it is open for those that wait, or goes back if nobody does any more.
    fn opened(self: &Arc<Self>, core: &Arc<Core>, lease: Lease) {
        let mut seats = self.seats.lock();
        seats.waiters.retain(|waiter| !waiter.is_closed());
        if seats.waiters.is_empty() {
            drop(seats);
            return drop(lease);
        }
        seats.open.push(Open { shared: Shared::new(lease), taken: 0, sound: true });
        let unused = self.give_out(core, &mut seats);
        drop(seats);
        drop(unused);
    }

    /// Gives free seats to those that wait. What came back is to be dropped without the lock.
    fn give_out(self: &Arc<Self>, core: &Arc<Core>, seats: &mut Seats) -> Vec<Seat> {
        let each = self.seats_each();
        let mut unused = Vec::new();
        for open in seats.open.iter_mut().filter(|open| open.sound) {
            while open.taken < each {
                let Some(waiter) = seats.waiters.pop_front() else { return unused };
                open.taken += 1;
                if let Err(Ok(Seated::Seat(seat))) = waiter.send(Ok(Seated::Seat(self.seat_in(core, &open.shared)))) {
                    unused.push(seat);
                }
            }
        }
        unused
    }

    fn leave(self: &Arc<Self>, core: &Arc<Core>, shared: Arc<Shared>, sound: bool) {
        let usable = sound && shared.is_usable(core);
        let unused = {
            let mut seats = self.seats.lock();
            let Some(at) = seats.open.iter().position(|open| Arc::ptr_eq(&open.shared, &shared)) else { return };
            let open = &mut seats.open[at];
            open.taken -= 1;
            open.sound &= usable;
            let unused = self.give_out(core, &mut seats);
            if seats.open[at].taken == 0 {
                let Open { shared, sound, .. } = seats.open.remove(at);
                // Under the lock, so that a call that comes now finds the environment here or in the pool.
                if let Some(lease) = shared.lease.lock().take() {
                    if sound { lease.release(Instant::now()) } else { drop(lease) }
                }
            }
            unused
        };
        drop(unused);
        if !usable {
            self.fetch_for_waiters(core);
        }
    }

    /// Tells those that an environment was to serve that there is none.
    fn refused(self: &Arc<Self>, core: &Arc<Core>, failure: Result<Box<FailedStart>, InvokeError>) {
        let mut failure = failure;
        if let Ok(failed) = &mut failure {
            failed.tell();
        }
        let theirs: Vec<_> = {
            let mut seats = self.seats.lock();
            let count = seats.waiters.len().min(self.seats_each());
            seats.waiters.drain(..count).collect()
        };
        if theirs.is_empty()
            && let Ok(failed) = failure
        {
            core.tasks.spawn(failed.report_alone());
            return;
        }
        for waiter in theirs {
            let _ = waiter.send(match &failure {
                Ok(failed) => Ok(Seated::Failed(Box::new(failed.again()))),
                Err(error) => Err(error.clone()),
            });
        }
    }
}

/// One environment, for calls that wait.
async fn fetch(core: Arc<Core>, pool: Arc<Pool>) {
    let fetching = Fetching(&pool);
    match pool.checkout(&core).await {
        Ok(Ready::Environment(lease)) => pool.opened(&core, lease),
        Ok(Ready::Failed(failed)) => pool.refused(&core, Ok(failed)),
        Err(error) => pool.refused(&core, Err(error)),
    }
    // Counted until those that wait have it, so that nobody else is sent for them.
    drop(fetching);
    pool.fetch_for_waiters(&core);
}

/// Counts a fetch, also one that panics.
struct Fetching<'a>(&'a Pool);

impl Drop for Fetching<'_> {
    fn drop(&mut self) {
        self.0.seats.lock().fetching -= 1;
    }
}

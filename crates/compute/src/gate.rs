//! What starts of environments wait for when it is short: a slot among those that go on, and room on the host.
//!
//! Whoever waits is served in turn (`turns`). What was given comes back when it is dropped, and goes to the next.
//!
//! Invariants
//!   1. No more is given than there is.
//!   2. Nobody is served past one that waits: who asks for much is not overtaken for ever by those that ask for little.

use std::sync::Arc;

use model::{AccountId, FunctionRef};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::turns::Turns;

/// A number of places, and an amount of memory that they share.
#[derive(Debug)]
pub(crate) struct Gate {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    places: usize,
    memory_mb: u64,
    turns: Turns<AccountId, FunctionRef, Request>,
    /// The request whose turn it is, if there is not enough for it yet.
    next: Option<Request>,
}

#[derive(Debug)]
struct Request {
    memory_mb: u32,
    sender: oneshot::Sender<Grant>,
}

/// A place and memory, until dropped.
#[derive(Debug)]
pub(crate) struct Grant {
    /// Nothing once it has been taken back.
    gate: Option<Arc<Gate>>,
    memory_mb: u32,
}

impl Gate {
    /// A gate with so many places and so much memory, in MiB.
    pub(crate) fn new(places: usize, memory_mb: u64) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(State { places, memory_mb, turns: Turns::new(), next: None }) })
    }

    /// A place now, if there is one and nobody waits.
    pub(crate) fn try_take(self: &Arc<Self>, memory_mb: u32) -> Option<Grant> {
        let mut state = self.state.lock();
        let free = state.waiting() == 0 && state.fits(memory_mb);
        free.then(|| state.give(self, memory_mb))
    }

    /// Waits for a place. `cost` counts against the function and its account where others wait too.
    pub(crate) async fn take(self: &Arc<Self>, function: &FunctionRef, memory_mb: u32, cost: u64) -> Option<Grant> {
        let receiver = {
            let mut state = self.state.lock();
            let (sender, receiver) = oneshot::channel();
            state.turns.push(&function.account, function, cost, Request { memory_mb, sender });
            state.serve(self);
            receiver
        };
        // Only the end of the gate drops a request.
        receiver.await.ok()
    }

    /// Places and memory, in MiB, that are free.
    pub(crate) fn free(&self) -> (usize, u64) {
        let state = self.state.lock();
        (state.places, state.memory_mb)
    }

    /// Requests that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.state.lock().waiting()
    }
}

impl State {
    fn waiting(&self) -> usize {
        self.turns.len() + usize::from(self.next.is_some())
    }

    fn fits(&self, memory_mb: u32) -> bool {
        self.places > 0 && self.memory_mb >= u64::from(memory_mb)
    }

    fn give(&mut self, gate: &Arc<Gate>, memory_mb: u32) -> Grant {
        self.places -= 1;
        self.memory_mb -= u64::from(memory_mb);
        Grant { gate: Some(gate.clone()), memory_mb }
    }

    fn take_back(&mut self, grant: &mut Grant) {
        grant.gate = None;
        self.places += 1;
        self.memory_mb += u64::from(grant.memory_mb);
    }

    /// Gives what is free to those whose turn it is.
    fn serve(&mut self, gate: &Arc<Gate>) {
        while let Some(request) = self.next.take().or_else(|| self.turns.pop()) {
            if request.sender.is_closed() {
                continue;
            }
            if !self.fits(request.memory_mb) {
                self.next = Some(request);
                return;
            }
            let grant = self.give(gate, request.memory_mb);
            if let Err(mut grant) = request.sender.send(grant) {
                self.take_back(&mut grant);
            }
        }
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        if let Some(gate) = self.gate.take() {
            let mut state = gate.state.lock();
            state.take_back(self);
            state.serve(&gate);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::task::JoinSet;
    use tokio::time::timeout;

    use super::*;
    use crate::tests::fixtures::reference;

    #[tokio::test(start_paused = true)]
    async fn functions_take_turns() {
        let gate = Gate::new(1, 100);
        let mut held = gate.try_take(10);
        let mut takers = JoinSet::new();
        for number in 0..12 {
            // Ten of one function come before two of another.
            let name = if number < 10 { "loud" } else { "quiet" };
            let gate = gate.clone();
            takers.spawn(async move { (name, gate.take(&reference(name), 10, 1).await) });
            tokio::task::yield_now().await;
        }
        assert!(gate.try_take(1).is_none());
        let mut order = Vec::new();
        while !takers.is_empty() {
            drop(held.take());
            let (name, grant) = takers.join_next().await.unwrap().unwrap();
            order.push(name);
            held = grant;
        }
        assert_eq!(order[..5].iter().filter(|name| **name == "quiet").count(), 2, "{order:?}");
        drop(held);
        assert_eq!((gate.free(), gate.waiting()), ((1, 100), 0));
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_for_much_is_not_overtaken() {
        let gate = Gate::new(10, 100);
        let small = gate.try_take(60).unwrap();
        let function = reference("wide");
        let wide = gate.take(&function, 80, 80);
        tokio::pin!(wide);
        assert!(timeout(Duration::from_secs(1), &mut wide).await.is_err());
        assert!(gate.try_take(10).is_none(), "there is room, but somebody waits");
        drop(small);
        assert!(wide.await.is_some());
        assert_eq!(gate.free(), (10, 100));
    }

    #[tokio::test(start_paused = true)]
    async fn who_stops_waiting_takes_nothing() {
        let gate = Gate::new(1, 100);
        let held = gate.try_take(1).unwrap();
        assert!(timeout(Duration::from_secs(1), gate.take(&reference("f"), 1, 1)).await.is_err());
        drop(held);
        assert_eq!((gate.free(), gate.waiting()), ((1, 100), 0));
    }
}

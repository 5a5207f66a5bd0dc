//! A future that wakes itself while it is polled, and is polled again in the same turn.
//!
//! A task that was woken in its own turn goes to the end of the runtime's queue, and another thread of the runtime is woken
//! to look for it there: two system calls, and often caches of another processor. The HTTP library does that for each
//! request with a body: whoever reads the body asks the connection for it, and both are one task (a test of the gateway's
//! shows that it still does).
//!
//! Invariants
//!   1. No waking is lost: what comes during a poll is followed by another poll, what comes between two wakes the task.
//!   2. A future that wakes itself without end still lets others have their turn.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;

/// How often a future is polled in one turn.
const POLLS_MAX: usize = 8;

/// Nobody polls: to wake is to wake the task.
const IDLE: u8 = 0;
/// It is being polled.
const POLLED: u8 = 1;
/// It is being polled, and was woken meanwhile.
const WOKEN: u8 = 2;

/// What a future is given to be woken by.
#[derive(Default)]
struct Inner {
    state: AtomicU8,
    task: AtomicWaker,
}

impl Wake for Inner {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let polled =
            self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, |state| (state != IDLE).then_some(WOKEN));
        if polled.is_err() {
            self.task.wake();
        }
    }
}

/// The future, which is polled again at once where it has woken itself.
pub async fn repolled<F: Future>(future: F) -> F::Output {
    repolled_while(future, || true).await
}

/// The same, as long as `again` says so of the moment.
pub async fn repolled_while<F: Future>(future: F, again: impl Fn() -> bool) -> F::Output {
    let mut future = pin!(future);
    let inner = Arc::new(Inner::default());
    let waker = Waker::from(inner.clone());
    poll_fn(|outer| {
        inner.task.register(outer.waker());
        for _ in 0..POLLS_MAX {
            inner.state.store(POLLED, Ordering::Release);
            let polled = future.as_mut().poll(&mut Context::from_waker(&waker));
            let woken = inner.state.swap(IDLE, Ordering::AcqRel) == WOKEN;
            if polled.is_ready() || !woken {
                return polled;
            }
            if !again() {
                break;
            }
        }
        outer.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::Pin;
    use std::sync::atomic::AtomicUsize;

    /// Counts how often a task is woken.
    #[derive(Default)]
    struct Wakings(AtomicUsize);

    impl Wake for Wakings {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Wakes itself this many times before it is ready.
    fn selfish(mut times: usize) -> impl Future<Output = ()> {
        poll_fn(move |context| {
            if times == 0 {
                return Poll::Ready(());
            }
            times -= 1;
            context.waker().wake_by_ref();
            Poll::Pending
        })
    }

    /// One turn of a task; whether it is ready, and how often it was woken until then.
    fn turn(future: Pin<&mut impl Future>, wakings: &Arc<Wakings>) -> (bool, usize) {
        let ready = future.poll(&mut Context::from_waker(&Waker::from(wakings.clone()))).is_ready();
        (ready, wakings.0.load(Ordering::SeqCst))
    }

    #[test]
    fn a_future_that_wakes_itself_is_polled_in_the_same_turn() {
        assert_eq!(turn(pin!(repolled(selfish(3))), &Arc::default()), (true, 0));
    }

    #[test]
    fn one_that_does_not_stop_or_is_told_to_lets_others_have_their_turn() {
        let (wakings, mut future) = (Arc::default(), pin!(repolled(selfish(POLLS_MAX + 1))));
        assert_eq!(turn(future.as_mut(), &wakings), (false, 1));
        assert_eq!(turn(future, &wakings), (true, 1));
        let (wakings, mut future) = (Arc::default(), pin!(repolled_while(selfish(1), || false)));
        assert_eq!(turn(future.as_mut(), &wakings), (false, 1));
        assert_eq!(turn(future, &wakings), (true, 1));
    }

    #[test]
    fn what_wakes_it_between_two_turns_wakes_the_task_each_time() {
        let given = std::cell::RefCell::new(None);
        let wakings = Arc::default();
        let mut future = pin!(repolled(poll_fn(|context| {
            *given.borrow_mut() = Some(context.waker().clone());
            Poll::<()>::Pending
        })));
        for times in 0..3 {
            assert_eq!(turn(future.as_mut(), &wakings), (false, times));
            given.borrow().as_ref().unwrap().wake_by_ref();
        }
        assert_eq!(wakings.0.load(Ordering::SeqCst), 3);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn nothing_is_lost_between_threads() {
        let (sender, mut receiver) = tokio::sync::mpsc::channel(1);
        let sending = tokio::spawn(repolled(async move {
            for number in 0..20_000 {
                sender.send(number).await.unwrap();
            }
        }));
        let receiving = tokio::spawn(repolled(async move {
            let mut expected = 0;
            while let Some(number) = receiver.recv().await {
                assert_eq!(number, expected);
                expected += 1;
            }
            expected
        }));
        sending.await.unwrap();
        assert_eq!(receiving.await.unwrap(), 20_000);
    }
}

//! Polls a future again at once where it has woken itself meanwhile: a run that hands pieces of its answer on is writer and
//! reader in one task, and wakes itself with each of them. To go back to the runtime for that would poll all that the task
//! does around the run, and let the run's environment stand idle in its call's hands while other calls wait for one.
//!
//! Invariants
//!   1. A wake-up is never lost: one that comes during a poll leads to another poll, here or by the runtime.
//!   2. The runtime gets its thread back after at most `TURNS_MAX` polls.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use parking_lot::Mutex;

/// Polls in a row at most: beyond, a run is one that does not end soon, and others are to have their turn.
const TURNS_MAX: u32 = 64;

/// Nobody polls: who wakes tells the runtime.
const RESTING: u8 = 0;
/// Somebody polls.
const POLLED: u8 = 1;
/// The same, and somebody has woken it meanwhile.
const WOKEN: u8 = 2;

struct Bell {
    state: AtomicU8,
    outer: Mutex<Waker>,
}

impl Bell {
    fn ring(&self) {
        let seen = self.state.compare_exchange(POLLED, WOKEN, Ordering::SeqCst, Ordering::SeqCst);
        if seen == Err(RESTING) {
            let outer = self.outer.lock().clone();
            outer.wake();
        }
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.ring();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ring();
    }
}

/// See the module.
pub(super) struct AtOnce {
    bell: Arc<Bell>,
    waker: Waker,
}

impl AtOnce {
    /// For one future.
    pub(super) fn new() -> Self {
        let bell = Arc::new(Bell { state: AtomicU8::new(RESTING), outer: Mutex::new(Waker::noop().clone()) });
        let waker = bell.clone().into();
        Self { bell, waker }
    }

    /// Polls a future, again and again while it wakes itself and is `willing`.
    pub(super) fn poll<F: Future + ?Sized>(
        &self,
        mut future: Pin<&mut F>,
        cx: &mut Context<'_>,
        willing: impl Fn() -> bool,
    ) -> Poll<F::Output> {
        self.bell.outer.lock().clone_from(cx.waker());
        let mut own = Context::from_waker(&self.waker);
        for _ in 0..TURNS_MAX {
            self.bell.state.store(POLLED, Ordering::SeqCst);
            if let Poll::Ready(done) = future.as_mut().poll(&mut own) {
                self.bell.state.store(RESTING, Ordering::SeqCst);
                return Poll::Ready(done);
            }
            let rests = self.bell.state.compare_exchange(POLLED, RESTING, Ordering::SeqCst, Ordering::SeqCst);
            if rests.is_ok() {
                return Poll::Pending;
            }
            if !willing() {
                break;
            }
        }
        self.bell.state.store(RESTING, Ordering::SeqCst);
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    #[derive(Default)]
    struct Counted(AtomicU32);

    impl Wake for Counted {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Ready after so many polls, each of which wakes it.
    fn eager(mut polls: u32) -> impl Future<Output = ()> + Unpin {
        std::future::poll_fn(move |cx| {
            if polls == 0 {
                return Poll::Ready(());
            }
            polls -= 1;
            cx.waker().wake_by_ref();
            Poll::Pending
        })
    }

    fn polled<F: Future + Unpin>(at_once: &AtOnce, future: &mut F, woken: &Arc<Counted>) -> Poll<F::Output> {
        let waker = woken.clone().into();
        at_once.poll(Pin::new(future), &mut Context::from_waker(&waker), || true)
    }

    #[test]
    fn what_wakes_itself_ends_within_one_poll_and_wakes_nobody() {
        let (at_once, woken) = (AtOnce::new(), Arc::<Counted>::default());
        assert_eq!(polled(&at_once, &mut eager(TURNS_MAX - 1), &woken), Poll::Ready(()));
        assert_eq!(woken.0.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn what_wakes_itself_for_ever_gives_its_thread_back_and_goes_on_later() {
        let (at_once, woken) = (AtOnce::new(), Arc::<Counted>::default());
        let mut future = eager(TURNS_MAX * 2);
        for turn in 1..=2 {
            assert_eq!(polled(&at_once, &mut future, &woken), Poll::Pending);
            assert_eq!(woken.0.load(Ordering::SeqCst), turn);
        }
        assert_eq!(polled(&at_once, &mut future, &woken), Poll::Ready(()));
    }

    #[test]
    fn who_is_not_willing_gives_its_thread_back_after_one_poll() {
        let (at_once, woken) = (AtOnce::new(), Arc::<Counted>::default());
        let waker = woken.clone().into();
        let mut future = eager(1);
        let poll = at_once.poll(Pin::new(&mut future), &mut Context::from_waker(&waker), || false);
        assert_eq!((poll, woken.0.load(Ordering::SeqCst)), (Poll::Pending, 1));
    }

    #[test]
    fn no_wake_up_of_another_thread_is_lost() {
        for _ in 0..2_000 {
            let (at_once, woken) = (AtOnce::new(), Arc::<Counted>::default());
            let (sender, mut receiver) = tokio::sync::oneshot::channel();
            let other = std::thread::spawn(move || sender.send(7));
            let mut future = Box::pin(async { (&mut receiver).await });
            let mut seen = 0;
            let came = loop {
                if let Poll::Ready(came) = polled(&at_once, &mut future, &woken) {
                    break came;
                }
                // Woken at last, or the test never ends.
                while woken.0.load(Ordering::SeqCst) == seen {
                    std::hint::spin_loop();
                }
                seen = woken.0.load(Ordering::SeqCst);
            };
            assert_eq!(came, Ok(7));
            other.join().unwrap().unwrap();
        }
    }
}

//! A future that is finished even if nobody waits for it any more.
//!
//! It runs inside its caller's task, without a hop, for as long as the caller polls it. When the caller goes away half
//! way, the rest runs as a task of its own: an invocation that has begun is always settled and metered.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::runtime::Handle;

/// See the module.
pub(crate) struct Detached<F>
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    future: Option<Pin<Box<F>>>,
}

impl<F> Detached<F>
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    /// Makes a future unstoppable.
    pub(crate) fn new(future: F) -> Self {
        Self { future: Some(Box::pin(future)) }
    }
}

impl<F> Future for Detached<F>
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let Some(future) = &mut self.future else { unreachable!("it is not polled after its end") };
        let poll = future.as_mut().poll(context);
        if poll.is_ready() {
            self.future = None;
        }
        poll
    }
}

impl<F> Drop for Detached<F>
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn drop(&mut self) {
        // Without a runtime the process is on its way out, and so are the sandboxes.
        if let (Some(future), Ok(runtime)) = (self.future.take(), Handle::try_current()) {
            runtime.spawn(future);
        }
    }
}

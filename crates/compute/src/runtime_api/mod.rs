//! The HTTP server on a sandbox's own loopback, one for each environment: the Runtime API of custom runtimes, and what
//! extensions ask for in all.
//!
//! The engine puts a call in; the runtime takes it with `next` and posts its end with `response` or `error`. The order of
//! these is a state machine (`state`); their HTTP is in `http`.
//!
//! Managed runtimes speak frames; to them the Runtime API itself is closed. Not here, and answered so (501): the snapshot calls.
//!
//! Invariants
//!   1. A call is handed out at most once; `run` knows for certain whether it was.
//!   2. At most `CONNECTIONS_MAX` are served at once; others wait in the sandbox.
//!   3. Answers to anything but the call that runs are refused and change nothing.

mod body;
mod http;
mod state;

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::container_credentials::Document;
use crate::environment::{Answer, Call};
use crate::extensions::Extensions;
use crate::faults::{Failure, Fault};
use crate::start::InitEnd;
use state::{Phase, Refusal};

/// Far more than a runtime and ten extensions keep open.
const CONNECTIONS_MAX: usize = 256;

/// The Runtime API of one environment.
pub(crate) struct RuntimeApi {
    exchange: Mutex<Exchange>,
    /// Woken when a call waits to be taken.
    offered: Notify,
    /// Woken when the phase changed.
    moved: Notify,
    gone: CancellationToken,
}

struct Exchange {
    phase: Phase,
    init_error: Option<InitEnd>,
    /// The call that was not taken yet.
    offer: Option<Arc<Call>>,
    /// The call that runs.
    taken: Option<Arc<Call>>,
    /// Who waits for the end of the call that was taken or is offered.
    answer: Option<oneshot::Sender<Answer>>,
}

impl RuntimeApi {
    /// Of a new environment, whose runtime is there until `gone`.
    pub(crate) fn new(gone: CancellationToken) -> Arc<Self> {
        let exchange = Exchange { phase: Phase::Started, init_error: None, offer: None, taken: None, answer: None };
        let (offered, moved) = (Notify::new(), Notify::new());
        Arc::new(Self { exchange: Mutex::new(exchange), offered, moved, gone })
    }

    /// Waits for the end of the init phase.
    pub(crate) async fn initialised(&self) -> InitEnd {
        let ended = self.until(|exchange| match exchange.phase {
            Phase::Started => None,
            Phase::InitError => Some(exchange.init_error.take().unwrap_or(InitEnd::Exited)),
            _ => Some(InitEnd::Ready),
        });
        tokio::select! {
            biased;
            end = ended => end,
            () = self.gone.cancelled() => InitEnd::Exited,
        }
    }

    /// Runs one call.
    pub(crate) async fn run(&self, call: Arc<Call>) -> Answer {
        let (sender, receiver) = oneshot::channel();
        {
            let mut exchange = self.exchange.lock();
            if exchange.phase != Phase::Ready {
                return Answer::NotDelivered;
            }
            exchange.offer = Some(call);
            exchange.answer = Some(sender);
        }
        self.offered.notify_one();
        tokio::select! {
            biased;
            answer = receiver => answer.unwrap_or(Answer::Exited),
            () = self.gone.cancelled() => match self.exchange.lock().offer.take() {
                Some(_) => Answer::NotDelivered,
                None => Answer::Exited,
            },
        }
    }

    /// Whether the runtime waits for the next call.
    pub(crate) fn is_ready(&self) -> bool {
        self.exchange.lock().phase == Phase::Ready
    }

    /// Waits until the runtime waits for the next call; false if it is gone.
    pub(crate) async fn ready(&self) -> bool {
        tokio::select! {
            biased;
            () = self.until(|exchange| (exchange.phase == Phase::Ready).then_some(())) => true,
            () = self.gone.cancelled() => false,
        }
    }

    async fn until<T>(&self, mut done: impl FnMut(&mut Exchange) -> Option<T>) -> T {
        loop {
            let moved = self.moved.notified();
            tokio::pin!(moved);
            // Registered before the look, so that no move is missed between the two.
            moved.as_mut().enable();
            if let Some(result) = done(&mut self.exchange.lock()) {
                return result;
            }
            moved.await;
        }
    }

    /// The runtime asks for the next call: ends init or the former call, then waits.
    async fn next(&self) -> Result<Arc<Call>, Refusal> {
        {
            let mut exchange = self.exchange.lock();
            exchange.phase = exchange.phase.next()?;
        }
        self.moved.notify_waiters();
        loop {
            let offered = self.offered.notified();
            {
                let mut exchange = self.exchange.lock();
                if let Some(call) = exchange.offer.take() {
                    exchange.phase = Phase::Running(call.request_id.0.clone());
                    exchange.taken = Some(call.clone());
                    return Ok(call);
                }
            }
            offered.await;
        }
    }

    /// The call of this request, if its end would be taken now.
    fn expects(&self, request_id: &str) -> Result<Arc<Call>, Refusal> {
        let exchange = self.exchange.lock();
        exchange.phase.end(request_id)?;
        exchange.taken.clone().ok_or(Refusal::RequestId)
    }

    /// The runtime ends the call that runs.
    fn end(&self, request_id: &str, answer: Answer) -> Result<(), Refusal> {
        let waiting = {
            let mut exchange = self.exchange.lock();
            exchange.phase = exchange.phase.end(request_id)?;
            exchange.taken = None;
            exchange.answer.take()
        };
        if let Some(waiting) = waiting {
            // Nobody waits any more if the time was over; the environment then ends anyway.
            let _ = waiting.send(answer);
        }
        self.moved.notify_waiters();
        Ok(())
    }

    /// The runtime could not initialise the function.
    fn init_error(&self, failure: Failure) -> Result<(), Refusal> {
        {
            let mut exchange = self.exchange.lock();
            exchange.phase = exchange.phase.init_error()?;
            let says_nothing = failure.document.is_empty();
            exchange.init_error =
                Some(if says_nothing { InitEnd::Fault(Fault::init_error(&failure)) } else { InitEnd::Error(failure) });
        }
        self.moved.notify_waiters();
        Ok(())
    }
}

/// What a sandbox's programs find on its loopback.
pub(crate) struct Served {
    /// Of custom runtimes.
    pub(crate) runtime: Option<Arc<RuntimeApi>>,
    pub(crate) extensions: Arc<Extensions>,
    /// Of environments that began from a snapshot.
    pub(crate) credentials: Option<Arc<Document>>,
}

/// Serves an environment until `gone`.
pub(crate) fn serve(listener: TcpListener, served: Served, gone: CancellationToken) {
    tokio::spawn(accept(listener, Arc::new(served), gone));
}

async fn accept(listener: TcpListener, served: Arc<Served>, gone: CancellationToken) {
    // Connections end with this set, and with it the environment's last use of the server.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = gone.cancelled() => return,
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(http::serve(stream, served.clone()));
                }
                // The namespace is going away, or descriptors are short: neither is helped by haste.
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

//! The platform's end of a web server in a sandbox: sockets there, connections that are used again, the wait until it is ready.
//!
//! Invariants
//!   1. A connection is used again only after a whole answer, and only while it is so fresh that no server has given it up.
//!   2. A connection whose exchange was not finished is closed: the server sees that nobody listens any more.
//!   3. Whatever a server sends, a head takes no more than `HEAD_BYTES_MAX`.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use model::{FunctionVersion, WebServer, web};
use parking_lot::Mutex;
use sandbox::Control;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::outbound::Outbound;
use crate::inward::Inward;
use crate::start::InitEnd;

/// Most bytes of an answer's head, and most headers.
const HEAD_BYTES_MAX: usize = 64 * 1024;
const HEADERS_MAX: usize = 200;
/// Servers close idle connections after 2 seconds at the earliest, as far as is known.
const KEPT_IDLE: Duration = Duration::from_secs(1);
/// How long a server may take to accept a connection.
const ACCEPT_CAP: Duration = Duration::from_secs(10);
/// Pauses between two looks whether a server is ready: at first, and later.
const LOOK_SOON: Duration = Duration::from_millis(5);
const LOOK_LATER: Duration = Duration::from_millis(50);
const SOON: Duration = Duration::from_secs(1);
/// How long one such look may take.
const LOOK_CAP: Duration = Duration::from_secs(5);

/// One web server.
pub(crate) struct WebGuest {
    version: Arc<FunctionVersion>,
    gone: CancellationToken,
    inward: Inward,
    /// Last used last.
    idle: Mutex<Vec<(Connection, Instant)>>,
    /// What the last look at a server that is not ready has shown.
    unready: Mutex<String>,
}

/// A connection to a server; dropped, it closes.
pub(crate) struct Connection {
    sender: http1::SendRequest<Outbound>,
    task: AbortHandle,
    /// Whether it has served before: then it may have been closed meanwhile.
    used: bool,
}

impl Drop for Connection {
    fn drop(&mut self) {
        // An upgraded connection has left its task.
        self.task.abort();
    }
}

/// How sending failed.
pub(crate) enum Unsent {
    /// The server did not get it; whole again.
    Again(Box<Request<Outbound>>),
    /// It may have.
    Broken(hyper::Error),
}

impl Connection {
    /// Sends a request and waits for the head of its answer.
    pub(crate) async fn send(&mut self, request: Request<Outbound>) -> Result<Response<Incoming>, Unsent> {
        let sent = self.sender.try_send_request(request).await;
        sent.map_err(|mut failed| match failed.take_message().filter(|_| self.used) {
            Some(request) => Unsent::Again(Box::new(request)),
            None => Unsent::Broken(failed.into_error()),
        })
    }
}

impl WebGuest {
    /// The server of a new sandbox.
    pub(crate) fn new(version: Arc<FunctionVersion>, control: Arc<dyn Control>, gone: CancellationToken) -> Arc<Self> {
        Arc::new(Self {
            version,
            gone,
            inward: Inward::new(control),
            idle: Mutex::default(),
            unready: Mutex::default(),
        })
    }

    /// The settings.
    pub(crate) fn web(&self) -> &WebServer {
        match &self.version.web {
            Some(web) => web,
            None => unreachable!("only web servers get here"),
        }
    }

    /// Waits until the server is ready, or has ended.
    pub(crate) async fn initialised(&self) -> InitEnd {
        let began = Instant::now();
        let looking = async {
            loop {
                let found = timeout(LOOK_CAP, self.look()).await;
                match found.unwrap_or_else(|_| Err("nothing came back".to_owned())) {
                    Ok(()) => return,
                    Err(words) => *self.unready.lock() = words,
                }
                sleep(if began.elapsed() < SOON { LOOK_SOON } else { LOOK_LATER }).await;
            }
        };
        tokio::select! {
            biased;
            () = self.gone.cancelled() => InitEnd::Exited,
            () = looking => InitEnd::Ready,
        }
    }

    /// Why it is not ready, for people.
    pub(crate) fn unready(&self) -> String {
        let words = self.unready.lock().clone();
        let readiness = &self.web().readiness;
        match &readiness.path {
            Some(path) => format!("GET {path} at port {}: {words}", readiness.port),
            None => format!("port {}: {words}", readiness.port),
        }
    }

    async fn look(&self) -> Result<(), String> {
        let readiness = &self.web().readiness;
        let stream = self.inward.connect(readiness.port).await.map_err(|error| error.to_string())?;
        let Some(path) = &readiness.path else { return Ok(()) };
        let broken = |error: hyper::Error| error.to_string();
        let mut connection = self.speak(stream).await.map_err(broken)?;
        let request = Request::get(path.as_str()).header(http::header::HOST, format!("127.0.0.1:{}", readiness.port));
        let request = request.body(Outbound::empty()).map_err(|error| error.to_string())?;
        let answer = connection.send(request).await.map_err(|unsent| match unsent {
            Unsent::Broken(error) => broken(error),
            Unsent::Again(_) => "the connection was closed".to_owned(),
        })?;
        let status = answer.status().as_u16();
        if !web::holds(&readiness.healthy, status) {
            return Err(format!("status {status}"));
        }
        // A body that does not end does not matter: the connection closes.
        let body = timeout(LOOK_SOON, http_body_util::Limited::new(answer.into_body(), HEAD_BYTES_MAX).collect()).await;
        if readiness.port == self.web().port && matches!(body, Ok(Ok(_))) {
            self.keep(connection);
        }
        Ok(())
    }

    /// A connection for one exchange: a fresh one of those that are idle, or a new one.
    pub(crate) async fn connection(&self) -> io::Result<Connection> {
        let fresh = {
            let mut idle = self.idle.lock();
            let now = Instant::now();
            idle.retain(|(connection, since)| now - *since < KEPT_IDLE && !connection.sender.is_closed());
            idle.pop()
        };
        match fresh {
            Some((connection, _)) => Ok(connection),
            None => self.new_connection().await,
        }
    }

    /// A connection that nobody has used.
    pub(crate) async fn new_connection(&self) -> io::Result<Connection> {
        let stream = timeout(ACCEPT_CAP, self.inward.connect(self.web().port)).await;
        let stream = stream.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
        self.speak(stream).await.map_err(io::Error::other)
    }

    /// Keeps a connection for the next exchange.
    pub(crate) fn keep(&self, mut connection: Connection) {
        connection.used = true;
        if !connection.sender.is_closed() {
            self.idle.lock().push((connection, Instant::now()));
        }
    }

    async fn speak(&self, stream: TcpStream) -> hyper::Result<Connection> {
        let mut builder = http1::Builder::new();
        builder.max_buf_size(HEAD_BYTES_MAX).max_headers(HEADERS_MAX);
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
        let running = self.gone.clone().run_until_cancelled_owned(connection.with_upgrades());
        let task = tokio::spawn(running).abort_handle();
        Ok(Connection { sender, task, used: false })
    }
}

/// Bytes of an answer that is kept whole, up to a limit; nothing if it is longer or breaks off.
pub(crate) async fn whole(body: Incoming, most: usize) -> Option<Bytes> {
    let collected = http_body_util::Limited::new(body, most).collect().await;
    collected.ok().map(|body| body.to_bytes())
}

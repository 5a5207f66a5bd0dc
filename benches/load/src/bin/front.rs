//! `front PORT GUESTS AHEAD PROGRAM [ARGUMENT…]`: the least that a platform can do which has functions in processes of their own.
//!
//! Answers every HTTP request with what one of GUESTS processes makes of an event, and does nothing else: no event is made of the
//! request, no answer is looked into, nothing is isolated, metered, logged or bounded. What it reaches is above what any
//! platform that is built so can reach on the machine. A process has at most one event under way and AHEAD more that wait
//! in its socket, so that it need not sleep between two.
//!
//! Each process has a socket as its standard input, on which every message is an event or its answer. Start reading at `main`.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::sync::oneshot;

type Failure = Box<dyn std::error::Error + Send + Sync>;
type Answer = oneshot::Sender<Bytes>;

/// The largest message.
const MESSAGE_MAX: usize = 64 * 1024;
/// With so many headers an event is about as long as that of a function URL.
const HEADERS: usize = 12;

/// The processes, and the requests that wait for one.
struct Front {
    event: Vec<u8>,
    each: usize,
    state: Mutex<State>,
}

struct State {
    guests: Vec<Guest>,
    waiting: VecDeque<Answer>,
}

struct Guest {
    socket: Arc<AsyncFd<OwnedFd>>,
    /// Whose events it has, in their order.
    under_way: VecDeque<Answer>,
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [port, guests, ahead, command @ ..] = arguments.as_slice() else {
        return Err("usage: front PORT GUESTS AHEAD PROGRAM [ARGUMENT…]".into());
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(serve(port.parse()?, guests.parse()?, ahead.parse::<usize>()? + 1, command))
}

async fn serve(port: u16, count: usize, each: usize, command: &[String]) -> Result<(), Failure> {
    let mut guests = Vec::new();
    for _ in 0..count {
        guests.push(Guest { socket: Arc::new(watch(begin(command)?)?), under_way: VecDeque::new() });
    }
    let state = Mutex::new(State { guests, waiting: VecDeque::new() });
    let front = Arc::new(Front { event: event(), each, state });
    for number in 0..count {
        tokio::spawn(read_answers(front.clone(), number));
    }
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let front = front.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let front = front.clone();
            async move {
                let _ = request.into_body().collect().await;
                Ok::<_, Infallible>(front.ask().await)
            }
        });
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

/// Watched for answers alone: to be told of each room to write would wake this process once more for each event.
// What replaces the call is unsafe; no safe code closes the descriptor or changes it before it is dropped.
#[allow(deprecated)]
fn watch(socket: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(socket, Interest::READABLE)
}

/// Begins a process; its socket, with which it ends.
fn begin(command: &[String]) -> Result<OwnedFd, Failure> {
    let (own, other) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    rustix::io::ioctl_fionbio(&own, true)?;
    let (program, arguments) = command.split_first().ok_or("no program is named")?;
    Command::new(program).args(arguments).stdin(Stdio::from(other)).spawn()?;
    Ok(own)
}

/// What every request is to the processes.
fn event() -> Vec<u8> {
    let headers: Vec<String> =
        (0..HEADERS).map(|number| format!(r#""x-header-{number}":"{}""#, "v".repeat(64))).collect();
    let context =
        r#""http":{"method":"GET","path":"/","protocol":"HTTP/1.1","sourceIp":"127.0.0.1","userAgent":"load"}"#;
    let headers = headers.join(",");
    format!(r#"{{"version":"2.0","rawPath":"/","headers":{{{headers}}},"requestContext":{{{context}}}}}"#).into_bytes()
}

impl Front {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask(&self) -> Response<Full<Bytes>> {
        let (answer, answered) = oneshot::channel();
        {
            let mut state = self.state();
            let least = state.guests.iter_mut().min_by_key(|guest| guest.under_way.len());
            match least.filter(|guest| guest.under_way.len() < self.each) {
                Some(guest) => self.give(guest, answer),
                None => state.waiting.push_back(answer),
            }
        }
        let body = answered.await.unwrap_or_default();
        let status = if body.is_empty() { StatusCode::BAD_GATEWAY } else { StatusCode::OK };
        let mut response = Response::new(Full::new(body));
        *response.status_mut() = status;
        response
    }

    /// Who cannot be given an event hears that by the end of its channel.
    fn give(&self, guest: &mut Guest, answer: Answer) {
        if rustix::net::send(guest.socket.get_ref(), &self.event, SendFlags::empty()).is_ok() {
            guest.under_way.push_back(answer);
        }
    }

    /// An answer has come: whose it is gets it, and who waits is next.
    fn answered(&self, number: usize, body: Bytes) {
        let mut state = self.state();
        let State { guests, waiting } = &mut *state;
        let guest = &mut guests[number];
        let whose = guest.under_way.pop_front();
        if let Some(next) = waiting.pop_front() {
            self.give(guest, next);
        }
        drop(state);
        if let Some(whose) = whose {
            let _ = whose.send(body);
        }
    }
}

/// Reads a process's answers until it ends.
async fn read_answers(front: Arc<Front>, number: usize) -> Result<(), Failure> {
    let socket = front.state().guests[number].socket.clone();
    let mut buffer = vec![0; MESSAGE_MAX];
    loop {
        let mut ready = socket.readable().await?;
        match rustix::net::recv(socket.get_ref(), buffer.as_mut_slice(), RecvFlags::empty()) {
            Ok((0, _)) => return Err("a process has ended".into()),
            Ok((length, _)) => front.answered(number, Bytes::copy_from_slice(&buffer[..length])),
            Err(Errno::AGAIN) => ready.clear_ready(),
            Err(error) => return Err(error.into()),
        }
    }
}

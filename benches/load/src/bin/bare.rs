//! `bare`: what the parts of a call of a function cost without a platform, for measuring what the platform adds.
//!
//! - `bare echo PORT` answers every HTTP request with its body, or with `hello` if it has none, until it is ended.
//! - `bare loop SECONDS EVENT_BYTES PROGRAM` is a Runtime API and nothing else: it starts the custom runtime PROGRAM, gives
//!   it events back to back, and tells in one line of JSON the median µs from an event to its answer, and the calls/s.
//! - `bare socket SECONDS EVENT_BYTES ANSWER_BYTES` passes messages to another process over a socket and back, which is the
//!   least that a call of a guest that speaks frames can take, and tells the same.
//!
//! One thread each, as the platform has on two processors. Not here: errors of functions, headers that no runtime needs.
//!
//! Start reading at `main`.

use std::cell::RefCell;
use std::convert::Infallible;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use tokio::net::{TcpListener, TcpStream};

type Failure = Box<dyn std::error::Error>;

/// The largest message that is passed over the socket.
const MESSAGE_MAX: usize = 64 * 1024;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["echo", port] => runtime()?.block_on(echo(port.parse()?)),
        ["loop", seconds, bytes, program] => {
            runtime()?.block_on(runtime_api(Tally::new(seconds)?, bytes.parse()?, program))
        }
        ["socket", seconds, event, answer] => socket(Tally::new(seconds)?, event.parse()?, answer),
        ["answer", bytes] => answer(bytes.parse()?),
        _ => {
            Err("usage: bare echo PORT | loop SECONDS EVENT_BYTES PROGRAM | socket SECONDS EVENT_BYTES ANSWER_BYTES"
                .into())
        }
    }
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// Ends the process that it holds.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What was seen of calls, within a time.
struct Tally {
    begun: Instant,
    wanted: Duration,
    taken_us: Vec<f64>,
}

impl Tally {
    fn new(seconds: &str) -> Result<Self, Failure> {
        Ok(Self { begun: Instant::now(), wanted: Duration::from_secs_f64(seconds.parse()?), taken_us: Vec::new() })
    }

    /// Counts a call; whether more are wanted.
    fn count(&mut self, sent: Instant) -> bool {
        if self.taken_us.is_empty() {
            // The first one has waited for the other side to start.
            self.begun = Instant::now();
        }
        self.taken_us.push(sent.elapsed().as_secs_f64() * 1e6);
        self.begun.elapsed() < self.wanted
    }

    fn print(&mut self) -> std::io::Result<()> {
        let rate = self.taken_us.len() as f64 / self.begun.elapsed().as_secs_f64();
        self.taken_us.sort_by(f64::total_cmp);
        let p50_us = self.taken_us[self.taken_us.len() / 2];
        writeln!(std::io::stdout().lock(), r#"{{"p50_us": {p50_us:.1}, "rps": {rate:.0}}}"#)
    }
}

async fn echo(port: u16) -> Result<(), Failure> {
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    let answer = async |request: Request<Incoming>| {
        let body = request.into_body().collect().await?.to_bytes();
        let body = if body.is_empty() { Bytes::from_static(b"hello") } else { body };
        Ok::<_, hyper::Error>(Response::new(Full::new(body)))
    };
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer)));
    }
}

/// Where a runtime is with its calls.
struct Api {
    event: Bytes,
    sent: Instant,
    calls: u64,
    tally: Tally,
}

impl Api {
    fn answer(&mut self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        let body = match (method, path) {
            (&Method::GET, "/2018-06-01/runtime/invocation/next") => {
                self.calls += 1;
                self.sent = Instant::now();
                self.event.clone()
            }
            _ => Bytes::new(),
        };
        let mut response = Response::new(Full::new(body));
        if *method == Method::GET {
            let id = format!("00000000-0000-4000-8000-{:012}", self.calls);
            for (name, value) in [
                ("lambda-runtime-aws-request-id", id.as_str()),
                ("lambda-runtime-deadline-ms", "4102444800000"),
                ("lambda-runtime-invoked-function-arn", "arn:aws:lambda:us-east-1:000000000000:function:bare"),
            ] {
                if let Ok(value) = value.parse() {
                    response.headers_mut().insert(name, value);
                }
            }
        } else {
            *response.status_mut() = hyper::StatusCode::ACCEPTED;
        }
        response
    }
}

async fn runtime_api(tally: Tally, event_bytes: usize, program: &str) -> Result<(), Failure> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let host = listener.local_addr()?.to_string();
    let mut command = Command::new(program);
    let _runtime = Ended(command.env("AWS_LAMBDA_RUNTIME_API", host).stdout(Stdio::null()).spawn()?);
    let event = Bytes::from(format!("{{\"body\":\"{}\"}}", "x".repeat(event_bytes.saturating_sub(11))));
    let api = Rc::new(RefCell::new(Api { event, sent: Instant::now(), calls: 0, tally }));
    let done = Rc::new(tokio::sync::Notify::new());
    let (stream, _) = listener.accept().await?;
    let serve = serve(stream, api.clone(), done.clone());
    tokio::select! {
        served = serve => served?,
        () = done.notified() => {}
    }
    api.borrow_mut().tally.print()?;
    Ok(())
}

async fn serve(stream: TcpStream, api: Rc<RefCell<Api>>, done: Rc<tokio::sync::Notify>) -> Result<(), Failure> {
    stream.set_nodelay(true)?;
    let service = service_fn(move |request: Request<Incoming>| {
        let (api, done) = (api.clone(), done.clone());
        async move {
            let (head, body) = request.into_parts();
            // The answer of the function is taken whole, as it must be.
            let _ = body.collect().await;
            let mut api = api.borrow_mut();
            let sent = api.sent;
            if head.method == Method::POST && !api.tally.count(sent) {
                done.notify_one();
            }
            Ok::<_, Infallible>(api.answer(&head.method, head.uri.path()))
        }
    });
    http1::Builder::new().serve_connection(TokioIo::new(stream), service).await?;
    Err("the runtime closed its connection".into())
}

fn socket(mut tally: Tally, event_bytes: usize, answer_bytes: &str) -> Result<(), Failure> {
    let (own, other) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    let mut command = Command::new(std::env::current_exe()?);
    let _other = Ended(command.args(["answer", answer_bytes]).stdin(Stdio::from(other)).spawn()?);
    let (event, mut buffer) = (vec![b'x'; event_bytes], vec![0; MESSAGE_MAX]);
    loop {
        let sent = Instant::now();
        rustix::net::send(&own, &event, SendFlags::empty())?;
        if rustix::net::recv(&own, buffer.as_mut_slice(), RecvFlags::empty())?.0 == 0 {
            return Err("the other process has ended".into());
        }
        if !tally.count(sent) {
            tally.print()?;
            return Ok(());
        }
    }
}

/// The other process of `socket`: answers each message on its standard input.
fn answer(bytes: usize) -> Result<(), Failure> {
    let socket: OwnedFd = std::io::stdin().as_fd().try_clone_to_owned()?;
    let (message, mut buffer) = (vec![b'x'; bytes], vec![0; MESSAGE_MAX]);
    while rustix::net::recv(&socket, buffer.as_mut_slice(), RecvFlags::empty())?.0 > 0 {
        rustix::net::send(&socket, &message, SendFlags::empty())?;
    }
    Ok(())
}

//! What happens below requests: protocols, keep-alive, slow clients, the end of a listener, TLS.
//!
//! Not here: what is answered.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::Config;
use crate::door::Peer;
use crate::doubles::{Behaviour, Front, gateway, request, send, send_h2, shown, whole};
use crate::listener::converse;

/// Writes bytes and reads until the other side closes, for at most a few seconds.
pub(super) async fn exchange(mut stream: TcpStream, bytes: &[u8]) -> String {
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    let reading = async {
        let mut chunk = [0; 4_096];
        while let Ok(length @ 1..) = stream.read(&mut chunk).await {
            answer.extend_from_slice(&chunk[..length]);
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(3), reading).await;
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn http_2_with_prior_knowledge_is_spoken() {
    let front = Front::start(Config::default()).await;
    let stream = TcpStream::connect(front.address).await.unwrap();
    let mut asked = request("GET", "http://open.lambda-url.us-east-1.localhost/x", &[], b"");
    asked.headers_mut().remove("host");
    assert_eq!(shown(&send_h2(stream, asked).await), "200 hi");
    assert_eq!(front.functions.event()["requestContext"]["http"]["protocol"], "HTTP/2.0");
    assert_eq!(front.functions.event()["headers"]["host"], "open.lambda-url.us-east-1.localhost");
}

#[tokio::test]
async fn a_connection_serves_many_requests() {
    let front = Front::start(Config::default()).await;
    let stream = TcpStream::connect(front.address).await.unwrap();
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    for _ in 0..3 {
        sender.ready().await.unwrap();
        let response = sender.send_request(request("GET", "/_dunlin/url/open/", &[], b"")).await.unwrap();
        assert_eq!(shown(&whole(response).await), "200 hi");
    }
    assert_eq!(front.functions.seen.lock().len(), 3);
}

/// A connection that has a request with a body to read, and its client's side.
async fn asked() -> (impl Future<Output = ()>, DuplexStream) {
    let (mut ours, theirs) = tokio::io::duplex(4_096);
    let asked = b"POST /_dunlin/url/open/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nbody";
    ours.write_all(asked).await.unwrap();
    let address = ([127, 0, 0, 1], 1).into();
    let peer = Peer { address, secure: false, port: 80, guest: None, spelling: None };
    (converse(gateway(Config::default()).0, theirs, peer, CancellationToken::new()), ours)
}

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Whether a connection wants another turn after the one in which it answers.
fn wants_another_turn(connection: impl Future<Output = ()>, mut client: DuplexStream) -> bool {
    let (own, clients) = (Arc::<Woken>::default(), Waker::noop());
    assert!(pin!(connection).poll(&mut Context::from_waker(&own.clone().into())).is_pending());
    let mut answer = [0; 12];
    assert!(pin!(client.read(&mut answer)).poll(&mut Context::from_waker(clients)).is_ready());
    assert_eq!(answer, *b"HTTP/1.1 200");
    own.0.load(Ordering::SeqCst)
}

#[tokio::test]
async fn a_request_with_a_body_takes_one_turn() {
    let (connection, client) = asked().await;
    assert!(!wants_another_turn(base::repolled(connection), client));
    // The control: where it does not wake itself otherwise, there is no reason for `repolled` any more.
    let (connection, client) = asked().await;
    assert!(wants_another_turn(connection, client));
}

#[tokio::test]
async fn slow_and_silent_clients_are_closed() {
    let config = Config { header_timeout: Duration::from_millis(200), ..Config::default() };
    let front = Front::start(config).await;
    for opening in ["", "P", "PRI * HTTP", "GET / HTTP/1.1\r\nHost: loc"] {
        let stream = TcpStream::connect(front.address).await.unwrap();
        let started = std::time::Instant::now();
        let answer = exchange(stream, opening.as_bytes()).await;
        assert!(started.elapsed() < Duration::from_secs(2), "{opening:?}: not closed");
        assert!(!answer.contains("200"), "{opening:?}: {answer}");
    }
}

#[tokio::test]
async fn a_large_head_is_refused() {
    let front = Front::start(Config { header_bytes_max: 8_192, ..Config::default() }).await;
    let stream = TcpStream::connect(front.address).await.unwrap();
    let head = format!("GET / HTTP/1.1\r\nHost: localhost\r\nX-Large: {}\r\n\r\n", "x".repeat(20_000));
    let answer = exchange(stream, head.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
}

#[tokio::test]
async fn stopping_finishes_what_runs_and_accepts_no_more() {
    let front = Front::start(Config::default()).await;
    *front.functions.behaviour.lock() = Behaviour::Wait;
    let stream = TcpStream::connect(front.address).await.unwrap();
    let running = tokio::spawn(send(stream, request("GET", "/_dunlin/url/open/", &[], b"")));
    front.functions.entered.notified().await;
    let functions = front.functions.clone();
    let (address, listening) = (front.address, front.listening);
    let stopping = tokio::spawn(async move { listening.stop(Duration::from_secs(10)).await });
    // The socket is closed once the accepting task has seen the stop.
    while TcpStream::connect(address).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    functions.go.notify_one();
    assert_eq!(shown(&running.await.unwrap()), "200 waited");
    assert_eq!(stopping.await.unwrap(), 0);
}

#[tokio::test]
async fn stopping_cuts_off_what_takes_too_long() {
    let front = Front::start(Config::default()).await;
    *front.functions.behaviour.lock() = Behaviour::Wait;
    let stream = TcpStream::connect(front.address).await.unwrap();
    let cut = tokio::spawn(exchange(stream, b"GET /_dunlin/url/open/ HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    front.functions.entered.notified().await;
    assert_eq!(front.listening.stop(Duration::from_millis(20)).await, 1);
    assert_eq!(cut.await.unwrap(), "");
    // The function is not cut off with its caller.
    front.functions.go.notify_one();
    front.functions.ended.notified().await;
}

#[tokio::test]
async fn no_more_connections_are_open_than_allowed() {
    let front = Front::start(Config { connections_max: 1, ..Config::default() }).await;
    let first = TcpStream::connect(front.address).await.unwrap();
    let second = TcpStream::connect(front.address).await.unwrap();
    let asked = || request("GET", "/_dunlin/health", &[], b"");
    let waiting = tokio::spawn(send(second, asked()));
    assert_eq!(send(first, asked()).await.status(), 200);
    // The first connection ended with its answer, so the second has its turn.
    assert_eq!(waiting.await.unwrap().status(), 200);
}

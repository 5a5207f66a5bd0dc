//! Takes a subscriber's batches to where it listens in the sandbox, again and again until it has them.
//!
//! Invariants
//!   1. A batch is sent by one task, after the one before it: events arrive in order, at least once over HTTP.
//!   2. While nothing runs in the sandbox nothing is sent, and no time counts.

use std::io;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HOST};
use http::{Method, Request};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::json;
use std::sync::Arc;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::sleep;

use super::fact::Fact;
use super::subscription::Destination;
use super::{Hub, Subscriber};

/// How long a subscriber may take for a batch.
const ATTEMPT_CAP: Duration = Duration::from_secs(5);
/// Pauses between attempts: the first, and the longest.
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Most bytes of an answer.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Delivers until the sandbox is gone, or the extension has subscribed anew.
pub(super) async fn run(hub: Arc<Hub>, subscriber: Arc<Subscriber>) {
    let gone = hub.gone.clone();
    gone.run_until_cancelled(deliver(&hub, &subscriber)).await;
}

async fn deliver(hub: &Arc<Hub>, subscriber: &Arc<Subscriber>) {
    let mut line = Line::None;
    let mut running = hub.paused.subscribe();
    let mut pause = PAUSE;
    loop {
        wait_due(hub, subscriber).await;
        if !hub.has(subscriber) {
            return;
        }
        let _ = running.wait_for(|paused| !paused).await;
        let batch = subscriber.buffer.lock().take();
        match within(&mut running, send(hub, &subscriber.asked.destination, &mut line, &batch)).await {
            Ok(()) => {
                pause = PAUSE;
                let now_ms = hub.clock.now_ms();
                let mut buffer = subscriber.buffer.lock();
                buffer.delivered(now_ms);
                if let Some(dropped) = buffer.lost() {
                    let reason = "Some events were dropped because the subscriber did not take them in time";
                    let record =
                        json!({"reason": reason, "droppedRecords": dropped.records, "droppedBytes": dropped.bytes});
                    if let Some(text) = Fact::platform(now_ms, "logsDropped", record).text_for(&subscriber.asked) {
                        buffer.push(text, now_ms);
                    }
                }
            }
            Err(error) => {
                tracing::debug!(extension = %subscriber.name, %error, "telemetry could not be delivered");
                line = Line::None;
                sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }
}

/// Waits for a batch, or until the extension has subscribed anew.
async fn wait_due(hub: &Hub, subscriber: &Arc<Subscriber>) {
    while hub.has(subscriber) {
        // One that comes after the look is kept.
        let woken = subscriber.wake.notified();
        let due_ms = subscriber.buffer.lock().due_ms();
        let now_ms = hub.clock.now_ms();
        match due_ms {
            Some(due_ms) if due_ms <= now_ms => return,
            Some(due_ms) => tokio::select! {
                () = woken => {}
                () = sleep(Duration::from_millis(due_ms - now_ms)) => {}
            },
            None => woken.await,
        }
    }
}

/// The time of an attempt counts only while the sandbox runs.
async fn within(paused: &mut watch::Receiver<bool>, send: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    tokio::pin!(send);
    loop {
        tokio::select! {
            biased;
            sent = &mut send => return sent,
            stopped = paused.wait_for(|paused| *paused) => drop(stopped),
            () = sleep(ATTEMPT_CAP) => return Err(io::ErrorKind::TimedOut.into()),
        }
        tokio::select! {
            biased;
            sent = &mut send => return sent,
            goes_on = paused.wait_for(|paused| !*paused) => drop(goes_on),
        }
    }
}

/// What is open to a subscriber.
enum Line {
    None,
    Http(SendRequest<Full<Bytes>>),
    Tcp(TcpStream),
}

async fn send(hub: &Hub, to: &Destination, line: &mut Line, batch: &[Bytes]) -> io::Result<()> {
    match to {
        Destination::Http { port, path, put } => {
            let method = if *put { Method::PUT } else { Method::POST };
            let request = Request::builder().method(method).uri(path);
            let request = request.header(HOST, format!("sandbox.localdomain:{port}"));
            let request = request.header(CONTENT_TYPE, "application/json");
            let request = request.body(Full::new(joined(batch, b"[", b",", b"]"))).map_err(io::Error::other)?;
            request_at(hub, *port, line, request).await
        }
        Destination::Tcp { port } => {
            if !matches!(line, Line::Tcp(_)) {
                *line = Line::Tcp(hub.inward.connect(*port).await?);
            }
            let Line::Tcp(stream) = line else { return Err(io::ErrorKind::NotConnected.into()) };
            stream.write_all(&joined(batch, b"", b"\n", b"\n")).await
        }
    }
}

async fn request_at(hub: &Hub, port: u16, line: &mut Line, request: Request<Full<Bytes>>) -> io::Result<()> {
    let usable = matches!(line, Line::Http(sender) if !sender.is_closed());
    if !usable {
        let stream = TokioIo::new(hub.inward.connect(port).await?);
        let (sender, connection) = http1::Builder::new().handshake(stream).await.map_err(io::Error::other)?;
        tokio::spawn(hub.gone.clone().run_until_cancelled_owned(connection));
        *line = Line::Http(sender);
    }
    let Line::Http(sender) = line else { return Err(io::ErrorKind::NotConnected.into()) };
    sender.ready().await.map_err(io::Error::other)?;
    let answer = sender.send_request(request).await.map_err(io::Error::other)?;
    let status = answer.status();
    Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await.map_err(io::Error::other)?;
    if status.is_success() { Ok(()) } else { Err(io::Error::other(format!("status {status}"))) }
}

fn joined(batch: &[Bytes], before: &[u8], between: &[u8], after: &[u8]) -> Bytes {
    let whole = batch.iter().map(|event| event.len() + between.len()).sum::<usize>() + before.len() + after.len();
    let mut body = BytesMut::with_capacity(whole);
    body.put_slice(before);
    for (index, event) in batch.iter().enumerate() {
        if index > 0 {
            body.put_slice(between);
        }
        body.put_slice(event);
    }
    body.put_slice(after);
    body.freeze()
}

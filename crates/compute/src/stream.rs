//! Answers that come in pieces, on their way from the guest to the caller.
//!
//! The guest's side hands pieces to an `Outlet` and waits while the caller is behind. For a caller that takes streams they
//! pass on at once; for any other they are gathered up to the size of a payload. The caller's side is `Opened`.
//!
//! Invariants
//!   1. No more than `PIECES_HELD` pieces wait between guest and caller.
//!   2. A caller that is gone takes everything: the function runs on, as on Lambda.
//!   3. Every piece that the guest sent before its end reaches the caller before the end does.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use model::{Answered, FunctionError, InvokeError, Outcome, Piece, Pieces, StreamedAnswer, WebAnswer};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use crate::config::StreamConfig;
use crate::environment::{Answer, Call};
use crate::faults::{ANSWER_BYTES_MAX, Fault};

/// Pieces between guest and caller.
const PIECES_HELD: usize = 2;

/// Collects pieces up to the size of an answer; one piece alone is not copied.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    first: Bytes,
    all: BytesMut,
    length: usize,
}

impl Gathered {
    /// Appends. What is beyond the limit is thrown away.
    pub(crate) fn push(&mut self, data: Bytes) {
        self.length += data.len();
        if self.length > ANSWER_BYTES_MAX {
            self.first = Bytes::new();
            self.all = BytesMut::new();
        } else if self.first.is_empty() && self.all.is_empty() {
            self.first = data;
        } else {
            self.all.extend_from_slice(&std::mem::take(&mut self.first));
            self.all.extend_from_slice(&data);
        }
    }

    /// Whether there is more than an answer may have.
    pub(crate) fn is_too_much(&self) -> bool {
        self.length > ANSWER_BYTES_MAX
    }

    /// All of it, or nothing if it was too much.
    pub(crate) fn finish(self) -> Option<Bytes> {
        if self.length > ANSWER_BYTES_MAX {
            return None;
        }
        Some(if self.all.is_empty() { self.first } else { self.all.freeze() })
    }
}

/// The guest's end of a stream to a caller.
#[derive(Debug)]
pub(crate) struct StreamSink {
    head: Mutex<Option<oneshot::Sender<Head>>>,
    chunks: mpsc::Sender<Bytes>,
    sent: AtomicU64,
    /// When the first piece could go, of an answer that `pass` brings.
    began: OnceLock<Instant>,
    config: StreamConfig,
}

#[derive(Debug)]
struct Head {
    content_type: Option<String>,
    executed_version: String,
    /// Of a web server's answer.
    response: Option<http::response::Parts>,
}

impl StreamSink {
    fn head(&self, call: &Call, content_type: Option<String>, response: Option<http::response::Parts>) {
        if let Some(head) = self.head.lock().take() {
            // A caller that is gone takes everything.
            let executed_version = call.version.version.clone();
            let _ = head.send(Head { content_type, executed_version, response });
        }
    }

    /// Begins an answer that `pass` brings.
    pub(crate) fn begin(&self, call: &Call, content_type: Option<String>) {
        self.head(call, content_type, None);
    }

    /// Begins a web server's answer, which `pass` brings.
    pub(crate) fn begin_web(&self, call: &Call, response: http::response::Parts) {
        self.head(call, None, Some(response));
    }

    /// Hands a piece on, once there is room for it; false if nobody is there to take it.
    pub(crate) async fn pass(&self, bytes: Bytes) -> bool {
        let began = *self.began.get_or_init(Instant::now);
        let before = self.sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        if let Some(due) = due(before, &self.config) {
            sleep_until(began + due).await;
        }
        self.chunks.send(bytes).await.is_ok()
    }

    /// Waits until nobody is there any more to take anything.
    pub(crate) async fn gone(&self) {
        self.chunks.closed().await;
    }

    /// Most bytes of an answer.
    pub(crate) fn bytes_max(&self) -> u64 {
        self.config.bytes_max
    }
}

/// Where the pieces of one answer go.
pub(crate) enum Outlet {
    /// They are kept until the end, for a caller that waits for all.
    Gather {
        /// What came.
        gathered: Gathered,
        /// What it is.
        content_type: Option<String>,
    },
    /// They pass.
    Pass {
        /// The way.
        sink: Arc<StreamSink>,
        /// When the first piece could go.
        began: Instant,
    },
}

impl Outlet {
    /// Begins an answer. An empty content type is none.
    pub(crate) fn open(call: &Call, content_type: String) -> Self {
        let content_type = (!content_type.is_empty()).then_some(content_type);
        let Some(sink) = &call.sink else { return Self::Gather { gathered: Gathered::default(), content_type } };
        sink.begin(call, content_type);
        Self::Pass { sink: sink.clone(), began: Instant::now() }
    }

    /// Hands a piece on, once there is room for it.
    pub(crate) async fn chunk(&mut self, bytes: Bytes) {
        match self {
            Self::Gather { gathered, .. } => gathered.push(bytes),
            Self::Pass { sink, began } => {
                let before = sink.sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                let over = before + bytes.len() as u64 > sink.config.bytes_max;
                if over || bytes.is_empty() || sink.chunks.is_closed() {
                    return;
                }
                if let Some(due) = due(before, &sink.config) {
                    sleep_until(*began + due).await;
                }
                let _ = sink.chunks.send(bytes).await;
            }
        }
    }

    /// Ends an answer that came whole.
    pub(crate) fn end(self) -> Answer {
        match self {
            Self::Gather { gathered, content_type } => match gathered.finish() {
                Some(payload) => Answer::Response { payload, content_type, run_us: None },
                None => Answer::Fault { fault: Fault::answer_too_large(), sound: true },
            },
            Self::Pass { sink, .. } if sink.sent.load(Ordering::Relaxed) > sink.config.bytes_max => {
                Answer::Fault { fault: Fault::stream_too_large(sink.config.bytes_max), sound: true }
            }
            Self::Pass { .. } => Answer::Streamed,
        }
    }
}

/// When the byte at `position` may leave, counted from the begin of the stream; nothing where it may at once. Pure.
fn due(position: u64, config: &StreamConfig) -> Option<Duration> {
    let rate = config.bytes_per_s.filter(|rate| *rate > 0)?;
    let over = position.checked_sub(config.bytes_unlimited).filter(|over| *over > 0)?;
    Some(Duration::from_secs_f64(over as f64 / rate as f64))
}

/// The caller's end of a stream that has not begun.
pub(crate) struct Opened {
    head: oneshot::Receiver<Head>,
    chunks: mpsc::Receiver<Bytes>,
}

/// A stream for one call.
pub(crate) fn open(config: &StreamConfig) -> (Arc<StreamSink>, Opened) {
    let (head, opened) = oneshot::channel();
    let (chunks, arriving) = mpsc::channel(PIECES_HELD);
    let sent = AtomicU64::new(0);
    let began = OnceLock::new();
    let sink = Arc::new(StreamSink { head: Mutex::new(Some(head)), chunks, sent, began, config: config.clone() });
    (sink, Opened { head: opened, chunks: arriving })
}

/// How the invocation ended, from whoever runs it.
pub(crate) type End = oneshot::Receiver<Result<Outcome, InvokeError>>;

impl Opened {
    /// Waits until the function begins to stream or has ended without.
    pub(crate) async fn answered(self, mut end: End) -> Result<Answered, InvokeError> {
        let Self { mut head, chunks } = self;
        // The head is asked first: a call whose end is there may have streamed.
        let begun = tokio::select! {
            biased;
            begun = &mut head => begun.ok(),
            told = &mut end => return whole(told),
        };
        let Some(Head { content_type, executed_version, .. }) = begun else { return whole(end.await) };
        let version = executed_version.clone();
        let pieces = Box::new(Arriving { chunks, end: Some(end), ended: None, version });
        Ok(Answered::Streamed(StreamedAnswer { content_type, executed_version, pieces }))
    }
}

impl Opened {
    /// Waits until a web server begins to answer or has ended without.
    pub(crate) async fn begun(self, mut end: End) -> Result<WebAnswer, InvokeError> {
        let Self { mut head, chunks } = self;
        let begun = tokio::select! {
            biased;
            begun = &mut head => begun.ok(),
            told = &mut end => return unbegun(told),
        };
        let Some(Head { executed_version, response: Some(parts), .. }) = begun else { return unbegun(end.await) };
        let pieces: Box<dyn Pieces> =
            Box::new(Arriving { chunks, end: Some(end), ended: None, version: executed_version });
        Ok(WebAnswer::Begun(http::Response::from_parts(parts, pieces)))
    }
}

/// The end of a call that was not answered. One that nobody waits for any more may have none.
fn unbegun(told: Result<Result<Outcome, InvokeError>, oneshot::error::RecvError>) -> Result<WebAnswer, InvokeError> {
    match whole(told)? {
        Answered::Whole(outcome) => Ok(WebAnswer::Failed(Box::new(outcome))),
        Answered::Streamed(_) => Err(InvokeError::Internal("the call stopped before its end".to_owned())),
    }
}

fn whole(told: Result<Result<Outcome, InvokeError>, oneshot::error::RecvError>) -> Result<Answered, InvokeError> {
    match told {
        Ok(outcome) => outcome.map(Answered::Whole),
        Err(_) => Err(InvokeError::Internal("the call stopped before its end".to_owned())),
    }
}

/// The caller's end of a stream.
struct Arriving {
    chunks: mpsc::Receiver<Bytes>,
    /// Absent once it has told.
    end: Option<End>,
    ended: Option<Box<Outcome>>,
    version: String,
}

impl Pieces for Arriving {
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Piece> {
        // The end is asked first: what was sent before it is then already here.
        if let Some(end) = &mut self.end
            && let Poll::Ready(told) = Pin::new(end).poll(cx)
        {
            self.end = None;
            self.ended = Some(Box::new(told.ok().and_then(Result::ok).unwrap_or_else(|| stopped(&self.version))));
        }
        if self.ended.is_some() {
            // Not `poll_recv`, which may say that it wants to be asked later.
            return match (self.chunks.try_recv(), self.ended.take()) {
                (Ok(chunk), ended) => {
                    self.ended = ended;
                    Poll::Ready(Piece::Chunk(chunk))
                }
                (Err(_), Some(outcome)) => Poll::Ready(Piece::End(outcome)),
                (Err(_), None) => Poll::Pending,
            };
        }
        match self.chunks.poll_recv(cx) {
            Poll::Ready(Some(chunk)) => Poll::Ready(Piece::Chunk(chunk)),
            // Without senders only the end is awaited.
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}

/// The end of a call whose task was stopped from outside.
fn stopped(version: &str) -> Outcome {
    Outcome {
        payload: Bytes::from_static(br#"{"errorType":"Sandbox.Failure","errorMessage":"The invocation was stopped"}"#),
        error: Some(FunctionError { kind: "Unhandled", error_type: "Sandbox.Failure".to_owned() }),
        content_type: None,
        executed_version: version.to_owned(),
        log_tail: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_joined_up_to_the_limit() {
        let mut gathered = Gathered::default();
        for piece in ["a", "", "bc", "d"] {
            gathered.push(Bytes::from_static(piece.as_bytes()));
        }
        assert_eq!(gathered.finish().unwrap(), "abcd");
        for (more, fits) in [(0, true), (1, false)] {
            let mut gathered = Gathered::default();
            gathered.push(vec![0; ANSWER_BYTES_MAX].into());
            gathered.push(vec![0; more].into());
            assert_eq!(gathered.finish().is_some(), fits);
        }
    }

    #[test]
    fn a_limited_stream_is_slowed_after_what_is_unlimited() {
        let config = StreamConfig { bytes_unlimited: 100, bytes_per_s: Some(50), ..StreamConfig::default() };
        assert_eq!(due(100, &config), None);
        assert_eq!(due(200, &config), Some(Duration::from_secs(2)));
        assert_eq!(due(u64::MAX, &StreamConfig::default()), None);
    }

    #[tokio::test]
    async fn the_end_comes_after_everything_that_was_sent_before_it() {
        let (sink, opened) = open(&StreamConfig::default());
        let (told, end) = oneshot::channel();
        for byte in [b'a', b'b'] {
            sink.chunks.try_send(Bytes::copy_from_slice(&[byte])).unwrap();
        }
        let head = sink.head.lock().take().unwrap();
        head.send(Head { content_type: None, executed_version: "1".into(), response: None }).unwrap();
        told.send(Ok(stopped("1"))).unwrap();
        let Answered::Streamed(mut answer) = opened.answered(end).await.unwrap() else { panic!("no stream") };
        let mut seen = Vec::new();
        loop {
            match answer.next().await {
                Piece::Chunk(chunk) => seen.extend_from_slice(&chunk),
                Piece::End(outcome) => break assert_eq!(outcome.executed_version, "1"),
            }
        }
        assert_eq!(seen, b"ab");
    }
}

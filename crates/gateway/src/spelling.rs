//! How a client spelled the names of its headers: REST events show names as they were sent, HTTP parsing lowers them.
//!
//! A `Recorder` copies the bytes of each request's head as they pass by on an HTTP/1 connection; they are looked at
//! only when an event needs them.
//!
//! Invariants
//!   1. At most `HEAD_BYTES_MAX` are kept per connection.
//!   2. What is recorded decides over upper and lower case only; names and values come from the parsed request. So a
//!      pipelining client that confuses the recorder gets the usual spelling and nothing worse.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Longest head that is kept.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Longest answer whose pieces are put together before they are written.
const TOGETHER_BYTES_MAX: usize = 2 * 1024;

#[derive(Debug, Default)]
struct Head {
    bytes: Vec<u8>,
    complete: bool,
    /// The connection speaks HTTP/2, where names have one spelling.
    off: bool,
}

/// The head of the request that is being read on one connection.
#[derive(Debug, Clone, Default)]
pub struct Recorder(Arc<Mutex<Head>>);

impl Recorder {
    /// The spelling of the last head that was read.
    pub fn spelling(&self) -> Spelling {
        Spelling::of_head(&self.0.lock().bytes)
    }

    fn reading(&self, bytes: &[u8]) {
        let mut head = self.0.lock();
        if head.complete || bytes.is_empty() {
            return;
        }
        let from = head.bytes.len().saturating_sub(3);
        let room = HEAD_BYTES_MAX - head.bytes.len();
        head.bytes.extend_from_slice(&bytes[..bytes.len().min(room)]);
        let end = end_of_head(&head.bytes[from..]);
        if let Some(end) = end {
            head.bytes.truncate(from + end);
        }
        head.complete = end.is_some() || head.bytes.len() == HEAD_BYTES_MAX;
        if head.complete && head.bytes.starts_with(b"PRI * HTTP/2") {
            *head = Head { complete: true, off: true, ..Head::default() };
        }
    }

    /// An answer goes out: what is read next is another head, unless it only says that the body may come.
    fn writing(&self, bytes: &[u8]) {
        let mut head = self.0.lock();
        if head.complete && !head.off && !bytes.starts_with(b"HTTP/1.1 100") {
            head.bytes.clear();
            head.complete = false;
        }
    }
}

/// Where the empty line is that ends a head. Looks at every fourth byte as long as none is part of a line's end.
fn end_of_head(bytes: &[u8]) -> Option<usize> {
    let mut last = 3;
    loop {
        last += match bytes.get(last)? {
            b'\n' if bytes[last - 3..].starts_with(b"\r\n\r\n") => return Some(last - 3),
            b'\n' => 2,
            b'\r' => 1,
            _ => 4,
        };
    }
}

/// Names of one head as they were sent.
#[derive(Debug, Clone, Default)]
pub struct Spelling(Vec<String>);

impl Spelling {
    /// No name is known: each stays as it came.
    pub const UNKNOWN: &'static Self = &Self(Vec::new());

    fn of_head(head: &[u8]) -> Self {
        let lines = head.split(|byte| *byte == b'\n').skip(1);
        let names = lines.filter_map(|line| {
            let name = line.split(|byte| *byte == b':').next().filter(|name| name.len() < line.len())?;
            std::str::from_utf8(name).ok().map(str::to_owned)
        });
        Self(names.collect())
    }

    /// The name as the client spelled it, else as it came.
    pub fn of<'a>(&'a self, name: &'a str) -> &'a str {
        self.0.iter().find(|known| known.eq_ignore_ascii_case(name)).map_or(name, String::as_str)
    }
}

/// A connection whose request heads are recorded.
#[derive(Debug)]
pub struct Recorded<T> {
    inner: T,
    recorder: Recorder,
}

impl<T> Recorded<T> {
    /// Records what is read from `inner`.
    pub fn new(inner: T, recorder: Recorder) -> Self {
        Self { inner, recorder }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Recorded<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        if polled.is_ready() {
            self.recorder.reading(&buf.filled()[before..]);
        }
        polled
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Recorded<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        self.recorder.writing(buf);
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        self.recorder.writing(bufs.first().map_or(&[], |buf| buf));
        let bytes: usize = bufs.iter().map(|buf| buf.len()).sum();
        if bytes > TOGETHER_BYTES_MAX || bufs.len() < 2 {
            return Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        }
        // Head and body of a small answer: the kernel takes one piece sooner than a list of two.
        let (mut together, mut at) = ([0; TOGETHER_BYTES_MAX], 0);
        for buf in bufs {
            together[at..at + buf.len()].copy_from_slice(buf);
            at += buf.len();
        }
        Pin::new(&mut self.inner).poll_write(cx, &together[..at])
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_recorded_across_reads_and_renewed_after_an_answer() {
        let recorder = Recorder::default();
        for part in ["POST / HTTP/1.1\r\nHost: x\r\nX-API-key: 1\r", "\n\r", "\nBody-Line: no\r\n"] {
            recorder.reading(part.as_bytes());
        }
        let spelling = recorder.spelling();
        assert_eq!(spelling.of("x-api-key"), "X-API-key");
        assert_eq!(spelling.of("body-line"), "body-line");
        recorder.writing(b"HTTP/1.1 100 Continue\r\n\r\n");
        recorder.reading(b"Body-Line: no\r\n\r\n");
        assert_eq!(recorder.spelling().of("x-api-key"), "X-API-key");
        recorder.writing(b"HTTP/1.1 200 OK\r\n");
        recorder.reading(b"GET / HTTP/1.1\r\nx-Api-Key: 1\r\n\r\n");
        assert_eq!(recorder.spelling().of("x-api-key"), "x-Api-Key");
    }

    #[test]
    fn the_end_of_a_head_is_found_wherever_it_is() {
        for before in ["", "a", "\r", "\n", "\r\n", "\n\r\n", "\r\n\r", "a\r\nb: c", "\r\r\n", "\r\n\r\r\n"] {
            for pad in 0..8 {
                let text = format!("{}{before}\r\n\r\nrest", "x".repeat(pad));
                assert_eq!(end_of_head(text.as_bytes()), text.find("\r\n\r\n"), "{text:?}");
                assert_eq!(end_of_head(before.as_bytes()), before.find("\r\n\r\n"), "{before:?}");
            }
        }
    }

    #[test]
    fn http_2_is_not_recorded() {
        let recorder = Recorder::default();
        recorder.reading(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        recorder.writing(b"frames");
        recorder.reading(&[0; 1_000]);
        assert!(recorder.0.lock().bytes.is_empty());
    }

    #[test]
    fn a_long_head_stops_being_recorded() {
        let recorder = Recorder::default();
        for _ in 0..100 {
            recorder.reading(&[b'a'; 1_000]);
        }
        assert_eq!(recorder.0.lock().bytes.len(), HEAD_BYTES_MAX);
    }
}

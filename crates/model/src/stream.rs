//! Answers that come in pieces: what a streaming function writes, and bodies that carry it on.
//!
//! Both are polled, so that whoever reads slowly slows down who writes: nothing here holds more than one piece.
//!
//! Invariants
//!   1. The last piece of an answer is its `End`, once; nothing is asked for after it.
//!   2. A reader that goes away is dropped; the function is not told and runs to its end.

use std::fmt;
use std::future::poll_fn;
use std::task::{Context, Poll};

use bytes::Bytes;

use crate::Outcome;

/// One step of a streamed answer.
#[derive(Debug, Clone)]
pub enum Piece {
    /// Bytes of the answer.
    Chunk(Bytes),
    /// The invocation has ended, is metered and logged. The payload is empty, or the error document if it failed.
    End(Box<Outcome>),
}

/// Where the pieces of an answer come from.
pub trait Pieces: Send {
    /// The next piece.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Piece>;
}

/// An answer that has begun.
pub struct StreamedAnswer {
    /// What the runtime says the bytes are.
    pub content_type: Option<String>,
    /// `$LATEST` or the version number that runs.
    pub executed_version: String,
    /// What follows.
    pub pieces: Box<dyn Pieces>,
}

impl fmt::Debug for StreamedAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamedAnswer").field("content_type", &self.content_type).finish_non_exhaustive()
    }
}

impl StreamedAnswer {
    /// Waits for the next piece.
    pub async fn next(&mut self) -> Piece {
        poll_fn(|cx| self.pieces.poll_piece(cx)).await
    }
}

/// What a caller that takes streams is answered.
#[derive(Debug)]
pub enum Answered {
    /// The function has ended without streaming.
    Whole(Outcome),
    /// The function has begun to stream.
    Streamed(StreamedAnswer),
}

/// A body broke off: its end is not the end of what was meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the answer broke off")]
pub struct BrokenOff;

/// Where the bytes of a body come from.
pub trait Chunks: Send {
    /// The next bytes, or the end.
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BrokenOff>>>;
}

/// The body of an answer to a client.
pub enum Body {
    /// All of it.
    Whole(Bytes),
    /// What comes, as it comes.
    Stream(Box<dyn Chunks>),
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(bytes) => f.debug_tuple("Whole").field(bytes).finish(),
            Self::Stream(_) => f.write_str("Stream"),
        }
    }
}

impl Body {
    /// The bytes, if all of them are there.
    pub fn into_bytes(self) -> Option<Bytes> {
        match self {
            Self::Whole(bytes) => Some(bytes),
            Self::Stream(_) => None,
        }
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::Whole(bytes)
    }
}

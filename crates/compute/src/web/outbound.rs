//! Bodies of requests on their way to a web server.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use model::{Body, BrokenOff};

/// A request's body. Of a streamed one the announced length alone is known, which its head holds.
pub(crate) struct Outbound(Body);

impl Outbound {
    /// No body.
    pub(crate) fn empty() -> Self {
        Self::new(Body::Whole(Bytes::new()))
    }

    /// This body.
    pub(crate) fn new(body: Body) -> Self {
        Self(body)
    }

    /// The body, whatever is left of it.
    pub(crate) fn into_inner(self) -> Body {
        self.0
    }
}

impl HttpBody for Outbound {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        match &mut self.0 {
            Body::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Body::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Body::Stream(chunks) => chunks.poll_chunk(cx).map(|chunk| chunk.map(|chunk| chunk.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(&self.0, Body::Whole(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Body::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Body::Stream(_) => SizeHint::default(),
        }
    }
}

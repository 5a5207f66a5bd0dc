//! Requests for functions that are web servers: they pass as HTTP, without an event in between, and so do their answers.
//!
//! A function URL without authorisation takes bodies as they come; one that checks signatures, and APIs, need the whole body
//! before. Through function URLs a client may also ask for another protocol (WebSocket): once the server has agreed, bytes
//! pass in both directions until one side ends.
//!
//! Invariants
//!   1. Of a body no more than `WEB_BODY_BYTES_MAX` passes, and no pause in it is longer than the front door allows.
//!   2. Where the length of a body is said, it is what the front door has read of the request, never a header's word.
//!   3. No other HTTP is ever spoken over a connection that has left for another protocol.
//!   4. A client that goes away ends its exchange: the server sees its connection close.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, EXPECT, HeaderMap, HeaderName, HeaderValue, UPGRADE};
use http::{Request, Response, StatusCode, Uri};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use model::http_api::AuthKind;
use model::{Body, BrokenOff, Chunks, FunctionRef, Outcome, Piece, Pieces, Site, Trigger, WebAnswer, WebCall};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::{Sleep, sleep};

use crate::config::WEB_BODY_BYTES_MAX;
use crate::errors::Fault;
use crate::http_event::v2::is_set_here;
use crate::service::{Gateway, Unread};
use crate::site::{Rest, SiteCall, Stamp, fault_of, invocation};

/// Bytes of one read in another protocol.
const TUNNEL_BYTES: usize = 16 * 1024;
/// Pieces of it that wait for the server.
const TUNNEL_HELD: usize = 2;
const REQUEST_CONTEXT: HeaderName = HeaderName::from_static("x-amzn-request-context");

/// A body as it comes.
pub(crate) struct Stream {
    body: Body,
    length: Option<u64>,
}

/// What a site wants of a web server.
pub(crate) struct WebRequest<'a> {
    pub function: &'a FunctionRef,
    pub trigger: Trigger,
    /// Percent-encoded path as the server is to see it.
    pub path: &'a str,
    /// The context of the event that there is not, as JSON.
    pub context: Bytes,
}

/// Takes a body as it comes, unless it says that it is too long.
pub(crate) fn take<B>(body: B, silence: Duration) -> Result<Stream, Unread>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
{
    let hint = body.size_hint();
    if hint.lower() > WEB_BODY_BYTES_MAX {
        return Err(Unread::TooLarge);
    }
    let length = hint.exact();
    if body.is_end_stream() {
        return Ok(Stream { body: Body::Whole(Bytes::new()), length: Some(0) });
    }
    let arriving = Arriving { body, left: WEB_BODY_BYTES_MAX, silence, waiting: None };
    Ok(Stream { body: Body::Stream(Box::new(arriving)), length })
}

struct Arriving<B> {
    body: B,
    left: u64,
    silence: Duration,
    /// Ends when the client has been silent for too long, since it was last asked.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<B> Chunks for Arriving<B>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin,
{
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BrokenOff>>> {
        loop {
            let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
                let silence = self.silence;
                let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep(silence)));
                return waiting.as_mut().poll(cx).map(|()| Some(Err(BrokenOff)));
            };
            self.waiting = None;
            match frame {
                None => return Poll::Ready(None),
                Some(Err(_)) => return Poll::Ready(Some(Err(BrokenOff))),
                Some(Ok(frame)) => {
                    // Trailers belong to the connection.
                    let Ok(data) = frame.into_data() else { continue };
                    let Some(left) = self.left.checked_sub(data.len() as u64) else {
                        return Poll::Ready(Some(Err(BrokenOff)));
                    };
                    self.left = left;
                    if !data.is_empty() {
                        return Poll::Ready(Some(Ok(data)));
                    }
                }
            }
        }
    }
}

/// What a client sends in another protocol.
struct FromClient(mpsc::Receiver<Bytes>);

impl Chunks for FromClient {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BrokenOff>>> {
        self.0.poll_recv(cx).map(|bytes| bytes.map(Ok))
    }
}

impl Gateway {
    /// Whether a site is a web server that anybody may call: its requests' bodies need not be read first.
    pub(crate) async fn is_open_web_server(&self, site: &Site) -> bool {
        match site {
            Site::FunctionUrl(url) if url.auth == AuthKind::None => self.invoker.is_web_server(&url.function).await,
            _ => false,
        }
    }

    /// The same as `serve_web` where the answer has to begin within a time.
    pub(crate) async fn serve_web_within(
        &self,
        limit_ms: u64,
        wanted: WebRequest<'_>,
        call: &SiteCall<'_>,
        stamp: &Stamp,
    ) -> Result<Response<Body>, Fault> {
        let serving = Box::pin(self.serve_web(wanted, call, stamp));
        tokio::time::timeout(Duration::from_millis(limit_ms), serving).await.unwrap_or(Err(Fault::Timeout))
    }

    /// Has a web server answer.
    pub(crate) async fn serve_web(
        &self,
        wanted: WebRequest<'_>,
        call: &SiteCall<'_>,
        stamp: &Stamp,
    ) -> Result<Response<Body>, Fault> {
        let function = wanted.function;
        let invocation = invocation(function, Bytes::new(), wanted.trigger, stamp)?;
        let upgrade = on_upgrade(call).filter(|_| wanted.trigger == Trigger::FunctionUrl);
        let (feed, client) = mpsc::channel(TUNNEL_HELD);
        let Stream { body, length } = match &upgrade {
            Some(_) => Stream { body: Body::Stream(Box::new(FromClient(client))), length: None },
            None => call.stream.lock().take().unwrap_or_else(|| Stream {
                length: Some(call.body.len() as u64),
                body: Body::Whole(call.body.clone()),
            }),
        };
        let headers = headers(call, &wanted, length, upgrade.is_some());
        let request = request(call, &wanted, headers, body).ok_or(Fault::BadRequest)?;
        let response = match self.invoker.serve(WebCall { invocation, request }).await {
            Ok(WebAnswer::Begun(response)) => response,
            Ok(WebAnswer::Failed(outcome)) => return Err(fault_of_outcome(&outcome)),
            Err(error) => return Err(fault_of(&error, function)),
        };
        let (parts, pieces) = response.into_parts();
        if parts.status != StatusCode::SWITCHING_PROTOCOLS {
            return Ok(Response::from_parts(parts, Body::Stream(Box::new(Rest::of(pieces)))));
        }
        let Some(upgrade) = upgrade else { return Err(Fault::Function) };
        self.background.spawn(tunnel(upgrade, feed, pieces));
        Ok(Response::from_parts(parts, Body::from(Bytes::new())))
    }
}

/// The client's connection, if it asks for another protocol and can have one: not with a body, which would be neither the
/// one's nor the other's, and not for another HTTP, in which requests would pass unseen.
fn on_upgrade(call: &SiteCall<'_>) -> Option<OnUpgrade> {
    let protocol = call.parts.headers.get(UPGRADE)?.to_str().ok()?.to_ascii_lowercase();
    let of_http = protocol.split(',').map(str::trim).any(|name| name.starts_with("h2c") || name.starts_with("http"));
    let streams = matches!(&*call.stream.lock(), Some(Stream { body: Body::Stream(_), .. }));
    let plain = call.parts.version == http::Version::HTTP_11 && !streams && call.body.is_empty();
    call.parts.extensions.get::<OnUpgrade>().filter(|_| plain && !of_http).cloned()
}

fn headers(call: &SiteCall<'_>, wanted: &WebRequest<'_>, length: Option<u64>, upgrade: bool) -> HeaderMap {
    let mut headers = call.parts.headers.clone();
    let said = headers.remove(CONTENT_LENGTH).is_some();
    headers.remove(EXPECT);
    if !upgrade {
        headers.remove(UPGRADE);
    }
    let ours: Vec<HeaderName> = headers.keys().filter(|name| is_set_here(name.as_str())).cloned().collect();
    for name in &ours {
        headers.remove(name);
    }
    if let Some(length) = length.filter(|length| *length > 0 || said) {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    let set: [(&'static str, &[u8]); 3] = [
        ("x-forwarded-for", call.forwarded_for.as_bytes()),
        ("x-forwarded-port", &call.port.to_string().into_bytes()),
        ("x-forwarded-proto", call.scheme.as_bytes()),
    ];
    for (name, value) in set {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    headers.remove(REQUEST_CONTEXT);
    if let Ok(context) = HeaderValue::from_bytes(&wanted.context) {
        headers.insert(REQUEST_CONTEXT, context);
    }
    headers
}

fn request(call: &SiteCall<'_>, wanted: &WebRequest<'_>, headers: HeaderMap, body: Body) -> Option<Request<Body>> {
    let path = if wanted.path.is_empty() { "/" } else { wanted.path };
    let target = match call.parts.uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let mut request = Request::new(body);
    *request.method_mut() = call.parts.method.clone();
    *request.uri_mut() = target.parse::<Uri>().ok()?;
    *request.headers_mut() = headers;
    Some(request)
}

/// What a client is told of a server that did not answer.
fn fault_of_outcome(outcome: &Outcome) -> Fault {
    let timed_out = |error: &model::FunctionError| error.error_type == "Sandbox.Timedout";
    if outcome.error.as_ref().is_some_and(timed_out) { Fault::Timeout } else { Fault::Function }
}

/// Passes bytes of another protocol in both directions.
async fn tunnel(upgrade: OnUpgrade, feed: mpsc::Sender<Bytes>, mut pieces: Box<dyn Pieces>) {
    let upgraded = match upgrade.await {
        Ok(upgraded) => upgraded,
        // The client went away before the answer reached it.
        Err(error) => return tracing::debug!(%error, "a connection was not handed over"),
    };
    let (mut reader, mut writer) = tokio::io::split(TokioIo::new(upgraded));
    let inwards = async {
        let mut buffer = vec![0; TUNNEL_BYTES];
        loop {
            match reader.read(&mut buffer).await {
                Ok(0) => break,
                Err(_) => return,
                Ok(count) if feed.send(Bytes::copy_from_slice(&buffer[..count])).await.is_err() => return,
                Ok(_) => {}
            }
        }
        drop(feed);
        // The server may still have something to say.
        std::future::pending().await
    };
    let outwards = async {
        loop {
            match std::future::poll_fn(|cx| pieces.poll_piece(cx)).await {
                Piece::Chunk(bytes) => {
                    if writer.write_all(&bytes).await.is_err() {
                        return;
                    }
                }
                Piece::End(_) => {
                    let _ = writer.shutdown().await;
                    return;
                }
            }
        }
    };
    tokio::select! {
        () = inwards => {}
        () = outwards => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{BodyExt, Full};

    fn arriving(left: u64) -> Arriving<impl http_body::Body<Data = Bytes> + Send + Unpin> {
        let body = Full::new(Bytes::from_static(b"four")).map_err(|never| match never {});
        Arriving { body, left, silence: Duration::from_secs(30), waiting: None }
    }

    async fn read(mut arriving: impl Chunks) -> Result<Vec<u8>, BrokenOff> {
        let mut all = Vec::new();
        while let Some(chunk) = std::future::poll_fn(|cx| arriving.poll_chunk(cx)).await {
            all.extend_from_slice(&chunk?);
        }
        Ok(all)
    }

    #[tokio::test]
    async fn a_body_passes_up_to_its_bound_and_breaks_beyond() {
        assert_eq!(read(arriving(4)).await, Ok(b"four".to_vec()));
        assert_eq!(read(arriving(3)).await, Err(BrokenOff));
    }

    #[test]
    fn what_says_that_it_is_too_long_is_not_read() {
        struct Long;
        impl http_body::Body for Long {
            type Data = Bytes;
            type Error = BrokenOff;

            fn poll_frame(
                self: Pin<&mut Self>,
                _: &mut Context<'_>,
            ) -> Poll<Option<Result<http_body::Frame<Bytes>, BrokenOff>>> {
                unreachable!("it is not asked")
            }

            fn size_hint(&self) -> http_body::SizeHint {
                http_body::SizeHint::with_exact(WEB_BODY_BYTES_MAX + 1)
            }
        }
        assert!(matches!(take(Long, Duration::ZERO), Err(Unread::TooLarge)));
        let empty = take(Full::new(Bytes::new()), Duration::ZERO).ok().unwrap();
        assert!(matches!((empty.body, empty.length), (Body::Whole(_), Some(0))));
    }
}

//! Requests that a program makes: over connections that `Outside` gives it, and over nothing else.
//!
//! Each request has a connection of its own. It belongs to the run: when that ends, so do they.
//!
//! Invariant: this module opens no socket.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::uri::Scheme;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http1;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep, timeout};
use wasmtime_wasi_http::io::TokioIo;
use wasmtime_wasi_http::p2::bindings::http::types::ErrorCode;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

use crate::program::{Outside, Unreached};

/// Connections of one run at once.
pub(super) const CONNECTIONS_MAX: usize = 128;
/// How long each step takes at most, if the program does not say.
const PATIENCE: Duration = Duration::from_secs(600);

/// How a run makes requests.
pub(super) struct Hooks {
    outside: Arc<dyn Outside>,
    room: Arc<Semaphore>,
}

impl Hooks {
    /// By this way out, over so many connections.
    pub(super) fn new(outside: Arc<dyn Outside>, room: Arc<Semaphore>) -> Self {
        Self { outside, room }
    }
}

type Driver = Box<dyn Future<Output = Result<(), Error>> + Send>;

impl WasiHttpHooks for Hooks {
    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _processed: Driver,
    ) -> Box<dyn Future<Output = Result<(http::Response<WasiBody>, Driver), Error>> + Send> {
        let (outside, room) = (self.outside.clone(), self.room.clone());
        Box::new(async move {
            let permit = room.try_acquire_owned().map_err(|_| Error::ConnectionLimitReached)?;
            send(&*outside, permit, request, options.unwrap_or_default()).await
        })
    }

    // What becomes of a program's requests is its own business; the platform's log has nothing of it.
    fn p2_error_from_hyper(&mut self, error: &hyper::Error) -> ErrorCode {
        if error.is_incomplete_message() { ErrorCode::HttpResponseIncomplete } else { ErrorCode::HttpProtocolError }
    }

    fn p2_error_from_connect(&mut self, _error: &std::io::Error) -> ErrorCode {
        ErrorCode::ConnectionRefused
    }

    fn p2_error_from_tls(&mut self, _error: &std::io::Error) -> ErrorCode {
        ErrorCode::TlsProtocolError
    }
}

async fn send(
    outside: &dyn Outside,
    permit: OwnedSemaphorePermit,
    mut request: http::Request<WasiBody>,
    options: RequestOptions,
) -> Result<(http::Response<WasiBody>, Driver), Error> {
    let uri = request.uri();
    let authority = uri.authority().ok_or(Error::HttpRequestUriInvalid)?;
    let tls = uri.scheme() == Some(&Scheme::HTTPS);
    let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
    let connecting = timeout(options.connect_timeout.unwrap_or(PATIENCE), outside.connect(&host, port, tls));
    let stream = connecting.await.map_err(|_| Error::ConnectionTimeout)?.map_err(unreached)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    *request.uri_mut() = path.parse().map_err(|_| Error::HttpRequestUriInvalid)?;
    let mut connection = Box::pin(connection);
    let response = {
        let first = timeout(options.first_byte_timeout.unwrap_or(PATIENCE), sender.send_request(request));
        tokio::pin!(first);
        tokio::select! {
            response = &mut first => response,
            ended = &mut connection => {
                ended?;
                // Both may be over at once: what has come is taken.
                first.await
            }
        }
    };
    let response = response.map_err(|_| Error::ConnectionReadTimeout)??;
    let between = options.between_bytes_timeout.unwrap_or(PATIENCE);
    let response = response.map(|body| Timed { body, between, due: Box::pin(sleep(between)) }.boxed_unsync());
    let driver = Box::new(async move {
        let ended = connection.await;
        drop((sender, permit));
        ended.map_err(Error::from)
    });
    Ok((response, driver))
}

fn unreached(why: Unreached) -> Error {
    match why {
        Unreached::Refused(_) => Error::HttpRequestDenied,
        Unreached::NoSuchName(words) => Error::DnsError { rcode: Some(words), info_code: None },
        Unreached::Dial(_) => Error::ConnectionRefused,
        Unreached::Tls(_) => Error::TlsProtocolError,
    }
}

/// A body whose pieces must not let wait too long for themselves.
struct Timed {
    body: Incoming,
    between: Duration,
    due: Pin<Box<Sleep>>,
}

impl Body for Timed {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(frame) => {
                let due = Instant::now() + self.between;
                self.due.as_mut().reset(due);
                Poll::Ready(frame.map(|frame| frame.map_err(Error::from)))
            }
            Poll::Pending => self.due.as_mut().poll(cx).map(|()| Some(Err(Error::ConnectionReadTimeout))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.body.size_hint()
    }
}

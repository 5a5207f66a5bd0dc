//! One request in a web server: what is sent, what comes back, and where that goes.
//!
//! A request from the front door passes as it is, and its answer's pieces go on as they come. An event is made a request
//! (`event`), and its answer one of the event's form; pieces of it pass where the invoker takes a stream and the function is
//! to give one.
//!
//! Invariants
//!   1. Nothing of a body is held beyond a piece, but for an answer that goes into an event's.
//!   2. An exchange whose client is gone ends: its connection closes, as everywhere in HTTP.

use std::future::poll_fn;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use model::{Body, Chunks, web};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::event::{self, Shape};
use super::guest::{Connection, Unsent, WebGuest, whole};
use super::headers;
use super::outbound::Outbound;
use crate::environment::{Answer, Call};
use crate::faults::{ANSWER_BYTES_MAX, Failure, Fault};
use crate::stream::StreamSink;

/// Most bytes of an answer that becomes an error's words.
const ERROR_BYTES_MAX: usize = 64 * 1024;
/// Bytes of one read in another protocol.
const TUNNEL_BYTES: usize = 16 * 1024;
const PRELUDE_TYPE: &str = "application/vnd.awslambda.http-integration-response";

/// What a call wants of the server.
pub(super) enum Wish {
    /// An HTTP request of a client's.
    Http(Box<Request<Body>>),
    /// What its event says.
    Event,
}

/// Runs a call over a connection that is there.
pub(super) async fn run(
    guest: &Arc<WebGuest>,
    connection: Connection,
    call: &Call,
    wish: Wish,
    log_stream: &str,
) -> Answer {
    let web = guest.web();
    let (shape, mut request) = match wish {
        Wish::Http(request) => (None, request.map(Outbound::new)),
        Wish::Event => match event::request(&call.payload, &web.pass_through_path) {
            Ok((shape, request)) => (Some(shape), request.map(|body| Outbound::new(Body::Whole(body)))),
            Err(words) => return Answer::Error(Failure::of(document("Runtime.InvalidEvent", &words))),
        },
    };
    headers::prepare(&mut request, web, call, log_stream);
    let upgrade = headers::upgrade_of(request.headers()).is_some();
    let mut client = None;
    if upgrade {
        // What follows in the other protocol is no body of this request.
        let body = std::mem::replace(request.body_mut(), Outbound::empty());
        request.headers_mut().remove(http::header::CONTENT_LENGTH);
        client = Some(body.into_inner());
    }
    let relay = Relay { guest, call };
    match call.sink.as_ref().filter(|_| shape.is_none()) {
        None => relay.exchange(connection, request, shape, client).await,
        Some(sink) => tokio::select! {
            biased;
            answer = relay.exchange(connection, request, shape, client) => answer,
            // Nobody is there to be answered.
            () = sink.gone() => Answer::Streamed,
        },
    }
}

fn document(error_type: &str, message: &str) -> Bytes {
    serde_json::json!({ "errorType": error_type, "errorMessage": message }).to_string().into()
}

fn broken(words: impl std::fmt::Display) -> Answer {
    Answer::Fault { fault: Fault::web_answer(&words.to_string()), sound: true }
}

/// One exchange under way.
struct Relay<'a> {
    guest: &'a Arc<WebGuest>,
    call: &'a Call,
}

impl Relay<'_> {
    async fn exchange(
        &self,
        connection: Connection,
        request: Request<Outbound>,
        shape: Option<Shape>,
        client: Option<Body>,
    ) -> Answer {
        let (connection, mut response) = match self.send(connection, request).await {
            Ok(sent) => sent,
            Err(answer) => return answer,
        };
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let Some(client) = client else { return broken("it switched to a protocol that nobody asked for") };
            return self.tunnel(response, client).await;
        }
        headers::strip(response.headers_mut());
        let status = response.status().as_u16();
        let web = self.guest.web();
        let refuses = shape == Some(Shape::PassThrough) && !web.adapted && status >= 400;
        if refuses || web::holds(&web.error_statuses, status) {
            let body = whole(response.into_body(), ERROR_BYTES_MAX).await.unwrap_or_default();
            let words = serde_json::json!({ "statusCode": status, "body": String::from_utf8_lossy(&body) });
            return Answer::Error(Failure::of(document("Runtime.WebServerStatus", &words.to_string())));
        }
        let answer = match (shape, &self.call.sink) {
            (None, Some(sink)) => {
                let (parts, body) = response.into_parts();
                sink.begin_web(self.call, parts);
                self.pass(body, sink).await
            }
            (Some(Shape::V2 | Shape::V1), Some(sink)) if web.streams => {
                let (parts, body) = response.into_parts();
                sink.begin(self.call, Some(PRELUDE_TYPE.to_owned()));
                sink.pass(event::prelude(parts.status, &parts.headers)).await;
                self.pass(body, sink).await
            }
            (shape, _) => {
                let (parts, body) = response.into_parts();
                let shape = shape.unwrap_or(Shape::V2);
                match collected(body).await {
                    Ok(body) => answered(event::answer(shape, parts.status, &parts.headers, &body)),
                    Err(answer) => answer,
                }
            }
        };
        if matches!(answer, Answer::Response { .. } | Answer::Streamed) {
            self.guest.keep(connection);
        }
        answer
    }

    /// Sends, once more on a new connection where the old one turns out to be closed.
    async fn send(
        &self,
        mut connection: Connection,
        mut request: Request<Outbound>,
    ) -> Result<(Connection, Response<Incoming>), Answer> {
        loop {
            match connection.send(request).await {
                Ok(response) => return Ok((connection, response)),
                Err(Unsent::Broken(error)) => return Err(broken(described(&error))),
                Err(Unsent::Again(again)) => {
                    request = *again;
                    connection = self.guest.new_connection().await.map_err(broken)?;
                }
            }
        }
    }

    /// Passes a body on as it comes.
    async fn pass(&self, mut body: Incoming, sink: &StreamSink) -> Answer {
        let most = sink.bytes_max();
        let mut passed = 0;
        while let Some(frame) = body.frame().await {
            let frame = match frame {
                Ok(frame) => frame,
                Err(error) => return broken(described(&error)),
            };
            // Trailers belong to the connection.
            let Ok(data) = frame.into_data() else { continue };
            passed += data.len() as u64;
            if passed > most {
                return Answer::Fault { fault: Fault::stream_too_large(most), sound: true };
            }
            if !data.is_empty() && !sink.pass(data).await {
                return Answer::Streamed;
            }
        }
        Answer::Streamed
    }

    /// Passes bytes of another protocol in both directions until one side ends.
    async fn tunnel(&self, mut response: Response<Incoming>, mut client: Body) -> Answer {
        let Some(sink) = &self.call.sink else { return broken("it switched to another protocol") };
        let upgraded = hyper::upgrade::on(&mut response);
        let (parts, _) = response.into_parts();
        let upgraded = match upgraded.await {
            Ok(upgraded) => upgraded,
            Err(error) => return broken(described(&error)),
        };
        sink.begin_web(self.call, parts);
        let (mut reader, mut writer) = tokio::io::split(TokioIo::new(upgraded));
        let inwards = async {
            while let Some(Ok(bytes)) = next(&mut client).await {
                if writer.write_all(&bytes).await.is_err() {
                    return;
                }
            }
            // The other side may still have something to say.
            let _ = writer.shutdown().await;
            std::future::pending::<()>().await;
        };
        let outwards = async {
            let mut buffer = vec![0; TUNNEL_BYTES];
            loop {
                match reader.read(&mut buffer).await {
                    Ok(0) | Err(_) => return,
                    Ok(count) => {
                        if !sink.pass(Bytes::copy_from_slice(&buffer[..count])).await {
                            return;
                        }
                    }
                }
            }
        };
        tokio::select! {
            () = inwards => {}
            () = outwards => {}
        }
        Answer::Streamed
    }
}

async fn next(body: &mut Body) -> Option<Result<Bytes, model::BrokenOff>> {
    match body {
        Body::Whole(_) => None,
        Body::Stream(chunks) => next_chunk(&mut **chunks).await,
    }
}

async fn next_chunk(chunks: &mut dyn Chunks) -> Option<Result<Bytes, model::BrokenOff>> {
    poll_fn(|cx| chunks.poll_chunk(cx)).await
}

fn answered(payload: Bytes) -> Answer {
    if payload.len() > ANSWER_BYTES_MAX {
        return Answer::Fault { fault: Fault::answer_too_large(), sound: true };
    }
    Answer::Response { payload, content_type: None, run_us: None }
}

/// The whole body of an answer that goes into an event's.
async fn collected(mut body: Incoming) -> Result<Bytes, Answer> {
    let mut gathered = crate::stream::Gathered::default();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| broken(described(&error)))?;
        if let Ok(data) = frame.into_data() {
            gathered.push(data);
            if gathered.is_too_much() {
                break;
            }
        }
    }
    gathered.finish().ok_or(Answer::Fault { fault: Fault::answer_too_large(), sound: true })
}

/// An error of the connection, with its reason.
fn described(error: &hyper::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

//! InvokeWithResponseStream: the answer as an event stream, each piece as the function writes it.
//!
//! `PayloadChunk` events hold the bytes; the last event is `InvokeComplete`, with the error's type and document if the
//! function failed, before its first byte or after.

use std::task::{Context, Poll};

use aws::event_stream::{self, CONTENT_TYPE};
use aws::{Call, Error, Reply};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use model::ports::Invoker;
use model::{Answered, Body, BrokenOff, Chunks, Outcome, Piece, Pieces};
use serde_json::{Map, Value, json};

use super::invoke::{invocation, status, target};
use crate::lambda::{Functions, error};

/// InvokeWithResponseStream.
pub(in crate::lambda) async fn run(functions: &Functions, invoker: &dyn Invoker, call: Call) -> Result<Reply, Error> {
    call.honours(&["FunctionName", "Qualifier", "InvocationType", "LogType", "ClientContext", "Payload", "TenantId"])?;
    let function = target(functions, invoker, &call).await?;
    match call.text("InvocationType") {
        None | Some("RequestResponse") => {}
        Some("DryRun") => {
            invoker.dry_run(&function).await.map_err(error::invoke)?;
            return Ok(status(204));
        }
        Some(other) => {
            let rule = "Member must satisfy enum value set: [RequestResponse, DryRun]";
            return Err(error::constraint(other, "invocationType", rule));
        }
    }
    let invocation = invocation(function, &call, true)?;
    Ok(match invoker.invoke_streaming(invocation).await.map_err(error::invoke)? {
        Answered::Whole(outcome) => {
            let mut events = Vec::new();
            if outcome.error.is_none() {
                events.extend_from_slice(&chunk(&outcome.payload));
            }
            events.extend_from_slice(&complete(&outcome));
            reply(&outcome.executed_version, outcome.content_type, Bytes::from(events).into())
        }
        Answered::Streamed(answer) => {
            let events = Events { pieces: Some(answer.pieces) };
            reply(&answer.executed_version, answer.content_type, Body::Stream(Box::new(events)))
        }
    })
}

fn reply(version: &str, content_type: Option<String>, events: Body) -> Reply {
    let output = json!({ "StatusCode": 200, "ExecutedVersion": version, "ResponseStreamContentType": CONTENT_TYPE });
    // What the function says the bytes are; the answer itself is an event stream.
    let headers = content_type.map(|value| ("x-amzn-remapped-content-type", value)).into_iter().collect();
    Reply { status: Some(200), payload: Some(events), headers, ..Reply::of(output) }
}

/// The events of a stream that has begun.
struct Events {
    /// Absent after the last event.
    pieces: Option<Box<dyn Pieces>>,
}

impl Chunks for Events {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BrokenOff>>> {
        let Some(pieces) = &mut self.pieces else { return Poll::Ready(None) };
        pieces.poll_piece(cx).map(|piece| {
            Some(Ok(match piece {
                Piece::Chunk(bytes) => chunk(&bytes),
                Piece::End(outcome) => {
                    self.pieces = None;
                    complete(&outcome)
                }
            }))
        })
    }
}

fn chunk(bytes: &[u8]) -> Bytes {
    event_stream::event("PayloadChunk", "application/octet-stream", bytes)
}

fn complete(outcome: &Outcome) -> Bytes {
    let mut members = Map::new();
    if let Some(error) = &outcome.error {
        members.insert("ErrorCode".into(), error.error_type.clone().into());
        members.insert("ErrorDetails".into(), String::from_utf8_lossy(&outcome.payload).into());
    }
    if let Some(tail) = &outcome.log_tail {
        members.insert("LogResult".into(), BASE64.encode(tail).into());
    }
    event_stream::event("InvokeComplete", "application/json", Value::Object(members).to_string().as_bytes())
}

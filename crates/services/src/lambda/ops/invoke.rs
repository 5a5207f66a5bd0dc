//! Invoke: the call as an `Invocation`, and its end as an answer.

use aws::{Call, Error, Reply};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use model::ports::Invoker;
use model::{FunctionRef, Invocation, InvocationKind, Outcome, RequestId, Trigger};
use serde_json::json;

use crate::lambda::{error, name};

/// Most bytes of `X-Amz-Client-Context`. Source: the Invoke operation's documentation.
const CLIENT_CONTEXT_BYTES_MAX: usize = 3_583;

/// Invoke.
pub(in crate::lambda) async fn run(invoker: &dyn Invoker, call: Call) -> Result<Reply, Error> {
    call.honours(&["FunctionName", "Qualifier", "InvocationType", "LogType", "ClientContext", "Payload"])?;
    let function = name::of_call(&call)?;
    let waits = match call.text("InvocationType") {
        None | Some("RequestResponse") => true,
        Some("Event") => false,
        Some("DryRun") => {
            invoker.dry_run(&function).await.map_err(error::invoke)?;
            return Ok(status(204));
        }
        Some(other) => {
            let rule = "Member must satisfy enum value set: [Event, RequestResponse, DryRun]";
            return Err(error::constraint(other, "invocationType", rule));
        }
    };
    let invocation = invocation(function, &call, waits)?;
    if waits {
        return Ok(answer(invoker.invoke(invocation).await.map_err(error::invoke)?));
    }
    invoker.accept(invocation).await.map_err(error::invoke)?;
    Ok(status(202))
}

/// The call as an invocation. `waits` is whether somebody waits for the answer.
pub(super) fn invocation(function: FunctionRef, call: &Call, waits: bool) -> Result<Invocation, Error> {
    let context = call.text("ClientContext").map(client_context).transpose()?;
    Ok(Invocation {
        function,
        request_id: RequestId(call.request_id.clone()),
        // An event without content is an empty document, as AWS hands it on.
        payload: if call.payload.is_empty() { Bytes::from_static(b"{}") } else { call.payload.clone() },
        kind: if waits { InvocationKind::RequestResponse } else { InvocationKind::Event },
        trigger: Trigger::Direct,
        // The context of an asynchronous call does not reach the function.
        client_context: context.filter(|_| waits),
        trace_id: call.headers.get("x-amzn-trace-id").and_then(|value| value.to_str().ok()).map(str::to_owned),
        log_tail: waits && call.text("LogType") == Some("Tail"),
    })
}

pub(super) fn status(status: u16) -> Reply {
    Reply { status: Some(status), payload: Some(Bytes::new().into()), ..Reply::of(json!({"StatusCode": status})) }
}

fn answer(outcome: Outcome) -> Reply {
    let output = json!({
        "StatusCode": 200,
        "ExecutedVersion": outcome.executed_version,
        "FunctionError": outcome.error.map(|error| error.kind),
        "LogResult": outcome.log_tail.map(|tail| BASE64.encode(tail)),
    });
    Reply { status: Some(200), payload: Some(outcome.payload.into()), ..Reply::of(output) }
}

/// The JSON text of `X-Amz-Client-Context`.
fn client_context(header: &str) -> Result<String, Error> {
    let wrong = || error::bad_content("Client context must be a valid Base64-encoded JSON object.");
    if header.len() > CLIENT_CONTEXT_BYTES_MAX {
        return Err(error::bad_content(format!(
            "Client context must be no more than {CLIENT_CONTEXT_BYTES_MAX} bytes."
        )));
    }
    let bytes = BASE64.decode(header).map_err(|_| wrong())?;
    let text = String::from_utf8(bytes).map_err(|_| wrong())?;
    let object = serde_json::from_str::<serde_json::Value>(&text).is_ok_and(|value| value.is_object());
    if object { Ok(text) } else { Err(wrong()) }
}

//! Invoke and InvokeAsync: the call as an `Invocation`, and its end as an answer.

use aws::{Call, Error, Reply};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use model::policy::{Actor, Verdict};
use model::ports::Invoker;
use model::{FunctionRef, Invocation, InvocationKind, InvokeError, Outcome, RequestId, Trigger};
use serde_json::json;

use crate::lambda::{Functions, error, name, snapshots};

/// Most bytes of `X-Amz-Client-Context`. Source: the Invoke operation's documentation.
const CLIENT_CONTEXT_BYTES_MAX: usize = 3_583;
/// Most bytes of an event of InvokeAsync. Source: its documentation.
const ASYNC_BYTES_MAX: usize = 262_144;

/// Invoke.
pub(in crate::lambda) async fn run(functions: &Functions, invoker: &dyn Invoker, call: Call) -> Result<Reply, Error> {
    call.honours(&["FunctionName", "Qualifier", "InvocationType", "LogType", "ClientContext", "Payload", "TenantId"])?;
    let function = target(functions, invoker, &call).await?;
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

/// The function that a call names, if its policy lets the caller invoke it and its version is ready for calls. Within the
/// function's own account the policy need not allow it, for what principals may do by themselves is not limited yet.
pub(super) async fn target(functions: &Functions, invoker: &dyn Invoker, call: &Call) -> Result<FunctionRef, Error> {
    let function = name::of_any_account(call)?;
    let account = call.principal.account.as_str();
    let actor = Actor::Principal(account, &call.principal.arn);
    let circumstances = call.circumstances(functions.clock.now_ms());
    let verdict = functions.verdict(&function, actor, "lambda:InvokeFunction", (&[], circumstances)).await?;
    let why = match verdict {
        Verdict::Allowed => return ready(functions, invoker, function).await,
        Verdict::Silent if function.account == call.principal.account => {
            return ready(functions, invoker, function).await;
        }
        Verdict::Silent => "because no resource-based policy allows the lambda:InvokeFunction action",
        Verdict::Denied => "with an explicit deny in a resource-based policy",
    };
    Err(error::denied(format!(
        "User: {} is not authorized to perform: lambda:InvokeFunction on resource: {} {why}",
        call.principal.arn,
        function.arn()
    )))
}

/// The function, unless one of the versions that it leads to waits for its snapshot.
async fn ready(functions: &Functions, invoker: &dyn Invoker, function: FunctionRef) -> Result<FunctionRef, Error> {
    // What is not published never begins from a snapshot.
    if function.qualifier.is_none() {
        return Ok(function);
    }
    let resolved = functions.remembered(&function).await.map_err(error::invoke)?;
    for version in resolved.all().filter(|version| version.snap_start) {
        snapshots::check(&invoker.snapshot(&function.unqualified(), &version.version))?;
    }
    Ok(function)
}

/// InvokeAsync, the older way to send an event. Its answer has a status and nothing else.
pub(in crate::lambda) async fn asynchronously(
    functions: &Functions,
    invoker: &dyn Invoker,
    call: Call,
) -> Result<Reply, Error> {
    call.honours(&["FunctionName", "InvokeArgs"])?;
    let function = target(functions, invoker, &call).await?;
    if call.payload.len() > ASYNC_BYTES_MAX {
        let (size, limit) = (call.payload.len(), ASYNC_BYTES_MAX);
        return Err(error::invoke(InvokeError::PayloadTooLarge { size, kind: "Event", limit }));
    }
    let invocation = invocation(function, &call, false)?;
    invoker.accept(invocation).await.map_err(error::invoke)?;
    Ok(Reply { status: Some(202), payload: Some(Bytes::new().into()), ..Reply::of(json!({"Status": 202})) })
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
        tenant: call.text("TenantId").map(str::to_owned),
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

//! Dead letters: an event that is given up goes to the queue or topic that its function names, as it was sent.
//!
//! A letter goes beside the record of the same end, not in its place, and says in its attributes why it is one. Which target
//! it has is a setting of the version that ran; where none ran, of the one that the event's qualifier means. Pure, but for
//! `terms`.

use model::{Attribute, Attributes, Delivery, FunctionRef, InvokeError, Outcome};
use serde::Deserialize;
use tokio::time::sleep;

use super::deliver::End;
use super::event::Terms;
use super::worker::{END_TRIES, STORE_PAUSE, rules};
use crate::engine::{Core, LATEST};

/// Most bytes of `ErrorMessage`. Source: the developer guide.
const MESSAGE_BYTES_MAX: usize = 1_024;

/// What holds now for an event, after a try of this result or after none. Nothing: it cannot be read, and the event runs
/// again when its lease ends.
pub(super) async fn terms(
    core: &Core,
    function: &FunctionRef,
    result: Option<&Result<Outcome, InvokeError>>,
) -> Option<Terms> {
    let rules = rules(core, function).await?;
    let ran = result.and_then(|result| result.as_ref().ok());
    if ran.is_some_and(|outcome| outcome.error.is_none()) {
        return Some(Terms { rules, dead_letters: None });
    }
    for attempt in 1..=END_TRIES {
        match target(core, function, ran).await {
            Ok(dead_letters) => return Some(Terms { rules, dead_letters }),
            Err(error) if attempt == END_TRIES => {
                tracing::error!(%error, "the dead-letter target of an event cannot be read; the event will run again");
            }
            Err(_) => sleep(STORE_PAUSE * attempt).await,
        }
    }
    None
}

/// The target of the version that ran, or of what is there of the function.
async fn target(core: &Core, function: &FunctionRef, ran: Option<&Outcome>) -> Result<Option<String>, InvokeError> {
    let ran = ran.map(|outcome| {
        let qualifier = Some(outcome.executed_version.clone()).filter(|version| version != LATEST);
        FunctionRef { qualifier, ..function.clone() }
    });
    for function in ran.iter().chain([function]) {
        match core.catalog.version(function).await {
            Ok(version) => return Ok(version.dead_letters.clone()),
            // A version may be deleted while its events are tried.
            Err(InvokeError::NotFound(_) | InvokeError::NotReady(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// The letter of an event that has ended.
pub(super) fn letter(ending: &End<'_>, target: &str) -> Delivery {
    let End { invocation, lineage, .. } = ending;
    let (code, message) = reason(ending);
    let mut attributes = Attributes::from([
        ("RequestID".to_owned(), Attribute::Text(invocation.request_id.0.clone())),
        ("ErrorCode".to_owned(), Attribute::Number(code)),
    ]);
    let message = fitting(&message);
    // Attributes are never empty, and an error may well say nothing.
    if !message.is_empty() {
        attributes.insert("ErrorMessage".to_owned(), Attribute::Text(message));
    }
    Delivery {
        target: target.to_owned(),
        event: invocation.payload.clone(),
        attributes,
        trace_id: invocation.trace_id.clone(),
        lineage: (*lineage).clone(),
    }
}

/// The status that the last try would have had as an answer of Invoke, and what was wrong.
fn reason(ending: &End<'_>) -> (u64, String) {
    match ending.tried {
        Some((_, Ok(outcome))) => (200, error_message(&outcome.payload)),
        Some((_, Err(error))) => refusal(error),
        // It waited until it was too old: for a retry, or for its turn.
        None => {
            let code = if ending.pending.failures > 0 { 200 } else { 429 };
            (code, "The event is older than it may be.".to_owned())
        }
    }
}

fn refusal(error: &InvokeError) -> (u64, String) {
    let code = match error {
        InvokeError::PayloadNotJson(_) | InvokeError::Unfit(_) | InvokeError::Recursive(_) => 400,
        InvokeError::NotFound(_) => 404,
        InvokeError::NotReady(_) => 409,
        InvokeError::PayloadTooLarge { .. } => 413,
        InvokeError::Throttled(_) => 429,
        // What is wrong inside is for the server's log.
        InvokeError::Internal(_) => return (500, "An internal fault of the platform.".to_owned()),
        InvokeError::NoCapacity(_) => 503,
    };
    (code, error.to_string())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ErrorDocument {
    #[serde(default)]
    error_message: String,
    #[serde(default)]
    error_type: String,
}

/// The message of an error document; its type if it has none; and what is no such document, as it is.
fn error_message(payload: &[u8]) -> String {
    match serde_json::from_slice::<ErrorDocument>(payload) {
        Ok(document) if !document.error_message.is_empty() => document.error_message,
        Ok(document) if !document.error_type.is_empty() => document.error_type,
        _ => String::from_utf8_lossy(payload).into_owned(),
    }
}

/// The first kilobyte of a text, of characters that queues and topics take.
fn fitting(text: &str) -> String {
    let mut fitting = String::new();
    for c in text.chars() {
        let is_taken = matches!(c, '\t' | '\n' | '\r' | ' '..='\u{fffd}' | '\u{10000}'..);
        let c = if is_taken { c } else { '\u{fffd}' };
        if fitting.len() + c.len_utf8() > MESSAGE_BYTES_MAX {
            break;
        }
        fitting.push(c);
    }
    fitting
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use model::{FunctionError, Lineage, ThrottleReason};
    use proptest::prelude::*;

    use super::super::event::{Condition, Pending, Try};
    use super::*;
    use crate::tests::fixtures::{invocation, reference};

    fn failed(payload: &'static str) -> Result<Outcome, InvokeError> {
        Ok(Outcome {
            payload: Bytes::from_static(payload.as_bytes()),
            error: Some(FunctionError { kind: "Unhandled", error_type: "Error".into() }),
            content_type: None,
            executed_version: "7".into(),
            log_tail: None,
        })
    }

    fn letter_of(result: Option<&Result<Outcome, InvokeError>>, failures: u32) -> Delivery {
        let mut invocation = invocation("f", "id-1", "{\"a\": 1.50}");
        invocation.trace_id = Some("Root=1".into());
        let pending = Pending { function: reference("f"), accepted_ms: 0, failures, refusals: 0, holder: None };
        letter(
            &End {
                invocation: &invocation,
                lineage: &Lineage::from([("arn".to_owned(), 3)]),
                pending: &pending,
                lease: &Bytes::new(),
                condition: Condition::RetriesExhausted,
                tried: result.map(|result| (Try::Failed, result)),
            },
            "target",
        )
    }

    fn said(result: Option<&Result<Outcome, InvokeError>>, failures: u32) -> (u64, Option<String>) {
        let attributes = letter_of(result, failures).attributes;
        let Some(Attribute::Number(code)) = attributes.get("ErrorCode") else { panic!("{attributes:?}") };
        match attributes.get("ErrorMessage") {
            Some(Attribute::Text(message)) => (*code, Some(message.clone())),
            None => (*code, None),
            Some(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_letter_is_the_event_itself_and_says_why_it_is_one() {
        let letter = letter_of(Some(&failed(r#"{"errorType":"Error","errorMessage":"no"}"#)), 2);
        assert_eq!(
            letter,
            Delivery {
                target: "target".into(),
                event: "{\"a\": 1.50}".into(),
                attributes: Attributes::from([
                    ("RequestID".to_owned(), Attribute::Text("id-1".into())),
                    ("ErrorCode".to_owned(), Attribute::Number(200)),
                    ("ErrorMessage".to_owned(), Attribute::Text("no".into())),
                ]),
                trace_id: Some("Root=1".into()),
                lineage: Lineage::from([("arn".to_owned(), 3)]),
            }
        );
    }

    #[test]
    fn the_code_is_that_of_an_answer_and_the_message_is_never_empty() {
        let message = |text: &str| Some(text.to_owned());
        assert_eq!(said(Some(&failed(r#"{"errorType":"E","errorMessage":""}"#)), 0), (200, message("E")));
        assert_eq!(said(Some(&failed(r#"{"errorType":"E"}"#)), 0), (200, message("E")));
        assert_eq!(said(Some(&failed(r#"{"other":1}"#)), 0), (200, message(r#"{"other":1}"#)));
        assert_eq!(said(Some(&failed("no json")), 0), (200, message("no json")));
        assert_eq!(said(Some(&failed("")), 0), (200, None));
        let of = |error: InvokeError| said(Some(&Err(error)), 0);
        let throttled = ThrottleReason::ReservedFunctionConcurrentInvocationLimitExceeded;
        assert_eq!(of(InvokeError::Throttled(throttled)), (429, message("Rate Exceeded.")));
        assert_eq!(of(InvokeError::Recursive("loop".into())), (400, message("loop")));
        assert_eq!(of(InvokeError::Unfit("no")), (400, message("no")));
        assert_eq!(of(InvokeError::PayloadTooLarge { size: 2, kind: "Event", limit: 1 }).0, 413);
        assert_eq!(of(InvokeError::NoCapacity("full".into())).0, 503);
        let (code, text) = of(InvokeError::Internal("/secret/path".into()));
        assert!(code == 500 && !text.unwrap().contains("secret"));
        assert_eq!((said(None, 0).0, said(None, 1).0), (429, 200));
    }

    #[test]
    fn what_no_queue_takes_is_replaced() {
        assert_eq!(
            fitting("\u{1b}[31mred\u{0}\r\n\t\u{ffff}\u{1f980}"),
            "\u{fffd}[31mred\u{fffd}\r\n\t\u{fffd}\u{1f980}"
        );
        assert_eq!(fitting(&"é".repeat(600)), "é".repeat(512));
        assert_eq!(fitting(&"\u{1}".repeat(600)).len(), 1_023);
    }

    proptest! {
        #[test]
        fn messages_are_short_beginnings(text in "\\PC*") {
            let short = fitting(&text);
            prop_assert!(short.len() <= MESSAGE_BYTES_MAX && text.starts_with(&short));
            prop_assert!(short == text || short.len() > MESSAGE_BYTES_MAX - 4);
        }
    }
}

//! `DeadLetterConfig`: the queue or topic that gets events of a version which are given up.
//!
//! It is a setting like others: `$LATEST` has one, and a published version keeps what it was published with. Pure, but for the
//! question whether the target is there.

use std::sync::Arc;

use aws::{Call, Error};
use model::ports::{EventTarget, target_of};
use serde_json::Value;

use super::error;
use super::event_config::{is_fifo, is_of, no_service};

/// What may be one, whether or not it is there.
const SERVICES: &[&str] = &["sqs", "sns"];

/// What a call says: nothing at all, that there is to be none, or which.
pub(super) fn wanted(call: &Call) -> Result<Option<Option<String>>, Error> {
    let Some(config) = call.input.get("DeadLetterConfig").filter(|config| config.is_object()) else { return Ok(None) };
    let arn = config.get("TargetArn").and_then(Value::as_str).filter(|arn| !arn.is_empty());
    let Some(arn) = arn else { return Ok(Some(None)) };
    if !arn.starts_with("arn:") {
        return Err(error::invalid("Invalid dead letter ARN: ARNs must start with 'arn:'"));
    }
    if !is_of(arn, SERVICES) {
        return Err(error::invalid(format!(
            "The dead-letter target {arn} is neither an Amazon SQS queue nor an Amazon SNS topic."
        )));
    }
    if is_fifo(arn) {
        return Err(error::invalid(format!(
            "The dead-letter target {arn} is a FIFO queue or topic. Dead letters go to standard queues and topics only."
        )));
    }
    Ok(Some(Some(arn.to_owned())))
}

/// Refuses a target that nobody here delivers to, or that is not there.
pub(super) async fn check(call: &Call, targets: &[Arc<dyn EventTarget>]) -> Result<(), Error> {
    let Some(arn) = wanted(call)?.flatten() else { return Ok(()) };
    let Some(target) = target_of(targets, &arn) else { return Err(no_service(&arn, "DeadLetterConfig.TargetArn")) };
    if target.has(&arn).await {
        Ok(())
    } else {
        Err(error::invalid(format!("The dead-letter target {arn} does not exist.")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws::testing::call;
    use serde_json::json;

    fn said(config: Value) -> Result<Option<Option<String>>, Error> {
        wanted(&call("UpdateFunctionConfiguration", json!({"FunctionName": "f", "DeadLetterConfig": config})))
    }

    #[test]
    fn a_target_is_a_standard_queue_or_topic_and_an_empty_one_is_none() {
        assert_eq!(said(Value::Null).unwrap(), None);
        for none in [json!({}), json!({"TargetArn": ""}), json!({"TargetArn": null})] {
            assert_eq!(said(none).unwrap(), Some(None));
        }
        for arn in ["arn:aws:sqs:us-east-1:000000000000:q", "arn:aws:sns:us-east-1:000000000000:t"] {
            assert_eq!(said(json!({"TargetArn": arn})).unwrap(), Some(Some(arn.to_owned())));
            assert!(said(json!({"TargetArn": format!("{arn}.fifo")})).unwrap_err().message.contains("FIFO"));
        }
        for wrong in ["arn:aws:s3:::b", "arn:aws:lambda:us-east-1:000000000000:function:f", "q", "arn:aws"] {
            let error = said(json!({"TargetArn": wrong})).unwrap_err();
            assert_eq!((error.status, error.code.as_str()), (400, "InvalidParameterValueException"), "{wrong}");
        }
    }
}

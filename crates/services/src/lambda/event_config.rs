//! What is asked of the events of a function: how often and how long they are tried, and who is told of their end. Pure, but
//! for the question whether a destination is there.
//!
//! A configuration belongs to a qualifier: `$LATEST`, a version or an alias. It holds for events that were sent to this
//! very qualifier, and goes with it.

use std::sync::Arc;

use aws::{Call, Error};
use model::ports::{EventTarget, target_of};
use model::{EventRules, FunctionRef};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::record::LATEST;
use super::{alias, error};

/// Services that AWS delivers records to; the last one those of failures only.
const DESTINATIONS: &[&str] = &["lambda", "sqs", "sns", "events", "s3"];

/// What PutFunctionEventInvokeConfig set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct EventConfigRecord {
    /// What the engine goes by.
    #[serde(flatten)]
    pub(super) rules: EventRules,
    /// Milliseconds since the epoch.
    pub(super) modified_ms: u64,
}

/// What a call says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    retries_max: Option<u32>,
    age_max_s: Option<u32>,
    /// `DestinationConfig`, if there is one: of success and of failure.
    destinations: Option<(Option<String>, Option<String>)>,
}

impl Wanted {
    /// What a call says; a call that says nothing is refused.
    pub(super) fn of(call: &Call) -> Result<Self, Error> {
        // The model's limits leave no number that does not fit.
        let number = |member| call.number(member).and_then(|number| u32::try_from(number).ok());
        let config = call.input.get("DestinationConfig").filter(|config| config.is_object());
        let arn = |config: &Value, member: &str| {
            let text = config.pointer(&format!("/{member}/Destination")).and_then(Value::as_str);
            text.filter(|text| !text.is_empty()).map(str::to_owned)
        };
        let wanted = Self {
            retries_max: number("MaximumRetryAttempts"),
            age_max_s: number("MaximumEventAgeInSeconds"),
            destinations: config.map(|config| (arn(config, "OnSuccess"), arn(config, "OnFailure"))),
        };
        if wanted.retries_max.is_none() && wanted.age_max_s.is_none() && wanted.destinations.is_none() {
            return Err(error::invalid("You must specify at least one of error handling or destination setting."));
        }
        Ok(wanted)
    }

    /// The configuration that is this and nothing else.
    pub(super) fn alone(&self) -> EventRules {
        self.over(&EventRules::default())
    }

    /// A configuration with what was said in place of what was there.
    pub(super) fn over(&self, before: &EventRules) -> EventRules {
        let (on_success, on_failure) =
            self.destinations.clone().unwrap_or_else(|| (before.on_success.clone(), before.on_failure.clone()));
        EventRules {
            retries_max: self.retries_max.or(before.retries_max),
            age_max_s: self.age_max_s.or(before.age_max_s),
            on_success,
            on_failure,
        }
    }

    /// Refuses destinations that cannot be those of this function, that nobody here delivers to, or that are not there.
    pub(super) async fn check(&self, function: &FunctionRef, targets: &[Arc<dyn EventTarget>]) -> Result<(), Error> {
        let Some((on_success, on_failure)) = &self.destinations else { return Ok(()) };
        let of = |arn: &Option<String>, services: &[&str]| arn.as_deref().is_none_or(|arn| is_of(arn, services));
        let successes = &DESTINATIONS[..DESTINATIONS.len() - 1];
        if !of(on_success, successes) || !of(on_failure, DESTINATIONS) {
            let shown = |name: &str, arn: &Option<String>| {
                arn.as_ref().map_or_else(|| "null".to_owned(), |arn| format!("{name}(destination={arn})"))
            };
            return Err(error::invalid(format!(
                "The provided destination config DestinationConfig(onSuccess={}, onFailure={}) is invalid.",
                shown("OnSuccess", on_success),
                shown("OnFailure", on_failure)
            )));
        }
        for arn in [on_failure, on_success].into_iter().flatten() {
            check_destination(arn, function, targets).await?;
        }
        Ok(())
    }
}

/// Whether it is an ARN of one of these services.
pub(super) fn is_of(arn: &str, services: &[&str]) -> bool {
    arn.starts_with("arn:") && arn.split(':').nth(2).is_some_and(|service| services.contains(&service))
}

async fn check_destination(arn: &str, function: &FunctionRef, targets: &[Arc<dyn EventTarget>]) -> Result<(), Error> {
    let invalid = || error::invalid(format!("The destination ARN {arn} is invalid."));
    if arn.split(':').nth(2) == Some("lambda") {
        let target = FunctionRef::parse_arn(arn).ok_or_else(invalid)?;
        // Resource policies are not evaluated: nothing could let a function call those of others.
        if target.account != function.account || target.region != function.region {
            return Err(invalid());
        }
        if target.name == function.name {
            return Err(error::invalid("You can't specify the function as a destination for itself."));
        }
    }
    if is_fifo(arn) {
        return Err(invalid());
    }
    let Some(target) = target_of(targets, arn) else { return Err(no_service(arn, "the destination")) };
    if target.has(arn).await { Ok(()) } else { Err(invalid()) }
}

/// Whether a queue or topic keeps an order. Lambda writes to no such.
pub(super) fn is_fifo(arn: &str) -> bool {
    is_of(arn, &["sqs", "sns"]) && arn.ends_with(".fifo")
}

/// Refuses what belongs to a service that is not here.
pub(super) fn no_service(arn: &str, what: &str) -> Error {
    let service = arn.split(':').nth(2).unwrap_or_default();
    Error::not_implemented(format_args!(
        "{what} {arn}: the service {service} does not exist here yet. A function can be told of events that fail: name \
         its ARN as OnFailure of PutFunctionEventInvokeConfig"
    ))
}

/// `FunctionEventInvokeConfig`.
pub(super) fn shown(function: &FunctionRef, qualifier: &str, config: &EventConfigRecord) -> Value {
    let rules = &config.rules;
    let destination = |arn: &Option<String>| arn.as_ref().map_or_else(|| json!({}), |arn| json!({"Destination": arn}));
    json!({
        "LastModified": config.modified_ms as f64 / 1_000.0,
        "FunctionArn": alias::arn(function, qualifier),
        "MaximumRetryAttempts": rules.retries_max,
        "MaximumEventAgeInSeconds": rules.age_max_s,
        "DestinationConfig": {
            "OnSuccess": destination(&rules.on_success),
            "OnFailure": destination(&rules.on_failure),
        },
    })
}

/// The qualifier that the configuration of a reference is kept under.
pub(super) fn qualifier(function: &FunctionRef) -> &str {
    function.qualifier.as_deref().unwrap_or(LATEST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws::testing::call;

    fn wanted(input: Value) -> Wanted {
        Wanted::of(&call("PutFunctionEventInvokeConfig", input)).unwrap()
    }

    #[test]
    fn an_update_keeps_what_it_does_not_name() {
        let arn = |name: &str| json!({"Destination": name});
        let all = json!({
            "MaximumRetryAttempts": 0,
            "MaximumEventAgeInSeconds": 60,
            "DestinationConfig": {"OnSuccess": arn("s"), "OnFailure": arn("f")},
        });
        let before = wanted(all).alone();
        assert_eq!((before.retries_max, before.age_max_s), (Some(0), Some(60)));
        let after = wanted(json!({"MaximumRetryAttempts": 2})).over(&before);
        assert_eq!(after, EventRules { retries_max: Some(2), ..before.clone() });
        let after = wanted(json!({"DestinationConfig": {"OnFailure": arn("")}})).over(&before);
        assert_eq!((after.on_success, after.on_failure, after.age_max_s), (None, None, Some(60)));
        assert!(Wanted::of(&call("PutFunctionEventInvokeConfig", json!({"FunctionName": "f"}))).is_err());
    }
}

//! Aliases: what may be one, and which of its versions a call runs. Pure.

use aws::{Call, Error};
use model::FunctionRef;
use serde_json::{Value, json};

use super::error;
use super::record::{AliasRecord, FunctionRecord, Second, VersionId};

/// The name of a call, which is no number.
pub(super) fn name(call: &Call) -> Result<&str, Error> {
    let name = call.text("Name").unwrap_or_default();
    if name.bytes().all(|byte| byte.is_ascii_digit()) {
        let rule = "Member must satisfy regular expression pattern: (?!^[0-9]+$)([a-zA-Z0-9-_]+)";
        return Err(error::constraint(name, "name", rule));
    }
    Ok(name)
}

/// The version that a call names, if it names one; it must be there.
pub(super) fn version(
    call: &Call,
    function: &FunctionRef,
    record: &FunctionRecord,
) -> Result<Option<VersionId>, Error> {
    call.text("FunctionVersion").map(|text| existing(text, function, record)).transpose()
}

fn existing(text: &str, function: &FunctionRef, record: &FunctionRecord) -> Result<VersionId, Error> {
    VersionId::parse(text).filter(|id| record.has(*id)).ok_or_else(|| {
        error::function_not_found(&FunctionRef { qualifier: Some(text.to_owned()), ..function.clone() }.arn())
    })
}

/// What a call says of a second version. The outer nothing: it says nothing; the inner one: there shall be none.
pub(super) fn second(
    call: &Call,
    function: &FunctionRef,
    record: &FunctionRecord,
) -> Result<Option<Option<Second>>, Error> {
    let Some(routing) = call.input.get("RoutingConfig").filter(|value| value.is_object()) else { return Ok(None) };
    let weights = routing.get("AdditionalVersionWeights").and_then(Value::as_object);
    let mut weights = weights.into_iter().flatten();
    let Some((text, weight)) = weights.next() else { return Ok(Some(None)) };
    if weights.next().is_some() {
        return Err(error::invalid("Number of items in AdditionalVersionWeights cannot be greater than 1"));
    }
    let member = "routingConfig.additionalVersionWeights";
    let shown = format!("{{{text}={weight}}}");
    let weight = weight.as_f64().filter(|weight| (0.0..=1.0).contains(weight));
    let weight = weight.ok_or_else(|| {
        let rule = "Map value must satisfy constraint: [Member must have value less than or equal to 1.0, Member must have value greater than or equal to 0.0, Member must not be null]";
        error::constraint(&shown, member, rule)
    })?;
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        let rule = "Map keys must satisfy constraint: [Member must have length less than or equal to 1024, Member must have length greater than or equal to 1, Member must satisfy regular expression pattern: [0-9]+, Member must not be null]";
        return Err(error::constraint(&shown, member, rule));
    }
    Ok(Some(Some(Second { version: existing(text, function, record)?, weight })))
}

/// Refuses an alias whose versions do not go together.
pub(super) fn check(alias: &AliasRecord) -> Result<(), Error> {
    let Some(second) = &alias.second else { return Ok(()) };
    if alias.version == VersionId::Latest {
        return Err(error::invalid("$LATEST is not supported for an alias pointing to more than 1 version"));
    }
    if alias.version == second.version {
        let version = second.version;
        return Err(error::invalid(format!(
            "Invalid function version {version}. Function version {version} is already included in routing configuration."
        )));
    }
    Ok(())
}

/// Whether the second version with this share gets the call to which this random number falls.
pub(super) fn falls_to_second(weight: f64, random: u64) -> bool {
    // 53 bits are what a float holds exactly: evenly spread from 0 to just below 1.
    ((random >> 11) as f64 / (1u64 << 53) as f64) < weight
}

/// `AliasConfiguration`.
pub(super) fn shown(function: &FunctionRef, name: &str, alias: &AliasRecord) -> Value {
    let mut shown = json!({
        "AliasArn": arn(function, name),
        "Name": name,
        "FunctionVersion": alias.version.to_string(),
        "Description": alias.description,
        "RevisionId": alias.revision_id,
    });
    if let Some(second) = &alias.second {
        shown["RoutingConfig"] = json!({"AdditionalVersionWeights": {second.version.to_string(): second.weight}});
    }
    shown
}

/// The ARN of an alias.
pub(super) fn arn(function: &FunctionRef, name: &str) -> String {
    FunctionRef { qualifier: Some(name.to_owned()), ..function.clone() }.arn()
}

/// No such alias.
pub(super) fn not_found(arn: &str) -> Error {
    error::not_found(format!("Cannot find alias arn: {arn}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_ends_of_a_share_are_never_and_always() {
        for random in [0, 1, u64::MAX / 2, u64::MAX] {
            assert!(!falls_to_second(0.0, random) && falls_to_second(1.0, random), "{random}");
        }
    }

    proptest! {
        #[test]
        fn of_evenly_spread_calls_the_second_gets_its_share(weight in 0.0f64..=1.0, calls in 1u64..2_000, offset: u64) {
            let step = u64::MAX / calls;
            let begin = offset % step;
            let second = (0..calls).filter(|call| falls_to_second(weight, begin + call * step)).count();
            prop_assert!((second as f64 - weight * calls as f64).abs() <= 1.0, "{second} of {calls} at {weight}");
        }
    }
}

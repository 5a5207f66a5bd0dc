//! `RuntimeVersionConfig`: the version of the managed runtime that a function runs on, as answers tell of it. Pure.
//!
//! It is what runs functions now, whatever a runtime management configuration asks for. Lists do not have it, as on AWS.

use model::Runtime;
use serde_json::{Value, json};

/// The configuration in an answer, if it is of a function with a runtime; with it which.
pub(super) fn runtime_in(output: &mut Value) -> Option<(Runtime, &mut Value)> {
    let is_whole = output.get("Configuration").is_some_and(Value::is_object);
    let configuration = if is_whole { &mut output["Configuration"] } else { output };
    let runtime = Runtime::parse(configuration.get("Runtime")?.as_str()?)?;
    Some((runtime, configuration))
}

/// Says in a configuration which version it is, or why there is none.
pub(super) fn show(configuration: &mut Value, found: Result<String, String>) {
    configuration["RuntimeVersionConfig"] = match found {
        Ok(arn) => json!({"RuntimeVersionArn": arn}),
        Err(message) => json!({"Error": {"ErrorCode": "RuntimeNotAvailable", "Message": message}}),
    };
}

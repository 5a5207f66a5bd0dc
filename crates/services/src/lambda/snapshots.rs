//! Snapshots of versions with SnapStart, as answers tell of them. Pure.
//!
//! Not here: taking them; the engine of each node does that. While a snapshot is being taken the API refuses calls of its
//! version, as AWS does. What calls a version otherwise (a URL, a mapping, an event) has an environment that runs the init.

use aws::Error;
use model::{FunctionRef, SnapshotState};
use serde_json::{Value, json};

use super::error;

/// The configuration in an answer, if it is of a version that begins from a snapshot; with it which.
pub(super) fn version_in<'a>(
    output: &'a mut Value,
    function: &FunctionRef,
) -> Option<(FunctionRef, String, &'a mut Value)> {
    let is_whole = output.get("Configuration").is_some_and(Value::is_object);
    let configuration = if is_whole { &mut output["Configuration"] } else { output };
    if configuration["SnapStart"]["OptimizationStatus"] != "On" {
        return None;
    }
    let version = configuration["Version"].as_str()?.to_owned();
    Some((function.unqualified(), version, configuration))
}

/// Refuses a call of a version whose snapshot is being taken. Source: the reference's states of functions.
pub(super) fn check(state: &SnapshotState) -> Result<(), Error> {
    if *state != SnapshotState::Pending {
        return Ok(());
    }
    Err(error::conflict(
        "The operation cannot be performed at this time. The function is currently in the following state: Pending",
    ))
}

/// Says in a configuration how far the snapshot is.
pub(super) fn show(configuration: &mut Value, state: SnapshotState) {
    match state {
        SnapshotState::Open | SnapshotState::Taken => {}
        SnapshotState::Pending => {
            configuration["State"] = json!("Pending");
            configuration["StateReason"] = json!("The snapshot of this version is being taken.");
            configuration["StateReasonCode"] = json!("Creating");
        }
        SnapshotState::PutAway => {
            configuration["State"] = json!("Inactive");
            configuration["StateReason"] =
                json!("The function is inactive: its snapshot was put away. The next call has it taken anew.");
            configuration["StateReasonCode"] = json!("Idle");
        }
        SnapshotState::Impossible(reason) => {
            configuration["SnapStart"]["OptimizationStatus"] = json!("Off");
            configuration["StateReason"] =
                json!(format!("SnapStart is off for this version, each environment runs the init itself: {reason}"));
        }
    }
}

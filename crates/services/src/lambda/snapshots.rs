//! Snapshots of versions with SnapStart, as answers tell of them. Pure.
//!
//! Not here: taking them; the engine of each node does that. A version can be called while its snapshot is being taken.

use model::{FunctionRef, SnapshotState};
use serde_json::{Value, json};

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

/// Says in a configuration how far the snapshot is.
pub(super) fn show(configuration: &mut Value, state: SnapshotState) {
    match state {
        SnapshotState::Open | SnapshotState::Taken => {}
        SnapshotState::Pending => {
            configuration["State"] = json!("Pending");
            configuration["StateReason"] = json!("The snapshot of this version is being taken.");
            configuration["StateReasonCode"] = json!("Creating");
        }
        SnapshotState::Impossible(reason) => {
            configuration["SnapStart"]["OptimizationStatus"] = json!("Off");
            configuration["StateReason"] =
                json!(format!("SnapStart is off for this version, each environment runs the init itself: {reason}"));
        }
    }
}

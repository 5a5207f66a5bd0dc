//! Markers of Lambda's lists, put on and taken off in one place for all operations. Pure.

use aws::{Call, Error};
use serde_json::{Value, json};

use super::error;
use crate::marker;

/// Puts the place that a call's marker stands for in the marker's stead. An empty marker is none.
pub(super) fn open(call: &mut Call) -> Result<(), Error> {
    let Some(marker) = call.text("Marker") else { return Ok(()) };
    let place = match marker {
        "" => Value::Null,
        _ => match marker::read(call.operation, marker).and_then(|place| String::from_utf8(place).ok()) {
            Some(place) => json!(place),
            None => return Err(error::invalid(format!("The Marker {marker} is not one that this list answered."))),
        },
    };
    call.input["Marker"] = place;
    Ok(())
}

/// Puts the marker that clients get in the place's stead.
pub(super) fn seal(operation: &str, output: &mut Value) {
    if let Some(Value::String(place)) = output.get_mut("NextMarker") {
        *place = marker::of(operation, place.as_bytes());
    }
}

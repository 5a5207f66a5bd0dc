//! Markers as clients see them: opaque, and good only for the list that answered them. Pure.
//!
//! | part  | bytes                                                      |
//! |-------|------------------------------------------------------------|
//! | check | 6, the beginning of SHA-256 of operation, a zero and place |
//! | place | where the next page begins, as the operation has it        |
//!
//! as base64 for URLs. A damaged marker is refused: passed on, it would look like the end of the list.

use aws::{Call, Error};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::error;

const CHECK_BYTES: usize = 6;

/// Puts the place that a call's marker stands for in the marker's stead. An empty marker is none.
pub(super) fn open(call: &mut Call) -> Result<(), Error> {
    let Some(marker) = call.text("Marker") else { return Ok(()) };
    let place = match marker {
        "" => Value::Null,
        _ => match read(call.operation, marker) {
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
        *place = written(operation, place);
    }
}

fn check(operation: &str, place: &[u8]) -> [u8; CHECK_BYTES] {
    let digest = Sha256::new().chain_update(operation).chain_update([0]).chain_update(place).finalize();
    let mut check = [0; CHECK_BYTES];
    check.copy_from_slice(&digest[..CHECK_BYTES]);
    check
}

fn written(operation: &str, place: &str) -> String {
    URL_SAFE_NO_PAD.encode([&check(operation, place.as_bytes()), place.as_bytes()].concat())
}

fn read(operation: &str, marker: &str) -> Option<String> {
    let bytes = URL_SAFE_NO_PAD.decode(marker).ok()?;
    let (told, place) = bytes.split_first_chunk::<CHECK_BYTES>()?;
    if *told != check(operation, place) {
        return None;
    }
    String::from_utf8(place.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_marker_is_its_lists_alone(place: String) {
            let marker = written("ListFunctions", &place);
            prop_assert_eq!(read("ListFunctions", &marker), Some(place.clone()));
            prop_assert_eq!(read("ListAliases", &marker), None);
            prop_assert_eq!(read("ListFunctions", &place), None);
            prop_assert_eq!(read("ListFunctions", &marker[1..]), None);
        }
    }
}

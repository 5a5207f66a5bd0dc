//! Markers of pages: where the next one begins, readable only by the list that gave it. Pure.
//!
//! | part     | bytes                                                                |
//! |----------|----------------------------------------------------------------------|
//! | check    | the first 8 of SHA-256 over the list's name, a zero and the position |
//! | position | as the list has it                                                   |
//!
//! as base64 for URLs. The check is no secret: it tells what a list answered from what somebody made up or took from another
//! list. A damaged marker that was passed on would look like the end of the list.
//!
//! Not here: how each service words its refusal.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

const CHECK_BYTES: usize = 8;

fn check(list: &str, position: &[u8]) -> [u8; CHECK_BYTES] {
    let digest = Sha256::new().chain_update(list).chain_update([0]).chain_update(position).finalize();
    let mut check = [0; CHECK_BYTES];
    check.copy_from_slice(&digest[..CHECK_BYTES]);
    check
}

/// The marker of a position in a list.
pub(crate) fn of(list: &str, position: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode([&check(list, position)[..], position].concat())
}

/// The position that a marker names; nothing if this list did not give it.
pub(crate) fn read(list: &str, marker: &str) -> Option<Vec<u8>> {
    let bytes = URL_SAFE_NO_PAD.decode(marker).ok()?;
    let (told, position) = bytes.split_first_chunk::<CHECK_BYTES>()?;
    (*told == check(list, position)).then(|| position.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_marker_is_its_lists_alone(position: Vec<u8>, noise: String) {
            let marker = of("ListFunctions", &position);
            prop_assert_eq!(read("ListFunctions", &marker), Some(position));
            prop_assert_eq!(read("ListAliases", &marker), None);
            prop_assert_eq!(read("ListFunctions", &noise), None);
            prop_assert_eq!(read("ListFunctions", &marker[1..]), None);
            prop_assert_eq!(read("ListFunctions", ""), None);
        }
    }
}

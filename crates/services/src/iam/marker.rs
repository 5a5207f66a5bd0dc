//! Markers of pages: where the next one begins, readable only by the list that gave it. Pure.
//!
//! | part  | bytes                                                        |
//! |-------|--------------------------------------------------------------|
//! | check | the first 8 of SHA-256 over the list's name and the position |
//! | where | the position                                                 |
//!
//! as base64. The check is no secret: it tells what a list answered from what somebody made up or took from another list.

use aws::Error;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

use super::error;

const CHECK_BYTES: usize = 8;

fn check(list: &str, position: &[u8]) -> [u8; CHECK_BYTES] {
    let digest = Sha256::new().chain_update(list).chain_update([0]).chain_update(position).finalize();
    let mut check = [0; CHECK_BYTES];
    check.copy_from_slice(&digest[..CHECK_BYTES]);
    check
}

/// The marker of a position in a list.
pub(super) fn of(list: &str, position: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode([&check(list, position)[..], position].concat())
}

/// The position that a marker of this list names.
pub(super) fn read(list: &str, marker: &str) -> Result<Vec<u8>, Error> {
    let bytes = URL_SAFE_NO_PAD.decode(marker).unwrap_or_default();
    match bytes.split_at_checked(CHECK_BYTES) {
        Some((sum, position)) if sum == check(list, position) => Ok(position.to_vec()),
        _ => Err(error::invalid("Invalid Marker.")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_is_good_for_its_own_list_only() {
        let marker = of("ListRoles", b"r1");
        assert_eq!(read("ListRoles", &marker).unwrap(), b"r1");
        for (list, wrong) in
            [("ListPolicies", marker.as_str()), ("ListRoles", "r1"), ("ListRoles", ""), ("ListRoles", "ä")]
        {
            let refused = read(list, wrong).unwrap_err();
            assert_eq!((refused.status, refused.code.as_str()), (400, "ValidationError"), "{wrong}");
        }
    }
}

//! Tokens of clients that make transactions idempotent: what is kept of one, for how long.
//!
//! Pure: entries and times in, writes out. Removing them when their time is over is `expiry`'s.
//!
//! | part   | bytes                                                             |
//! |--------|-------------------------------------------------------------------|
//! | until  | milliseconds since the epoch, big-endian                          |
//! | digest | SHA-256 of the request                                            |

use serde_json::Value as Json;
use sha2::{Digest, Sha256};
use store::{Entry, Txn};

use super::keys;

/// How long a token stands for its request.
const LIFE_MS: u64 = 10 * 60 * 1_000;

/// What is kept of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Used {
    /// From this time on the token is as good as new, in milliseconds since the epoch.
    pub(super) until_ms: u64,
    /// What it was used for.
    pub(super) digest: [u8; 32],
}

impl Used {
    /// Reads what is kept. Anything else counts as nothing kept, since it stands for no request.
    pub(super) fn decode(entry: Option<&Entry>) -> Option<Self> {
        let (until, digest) = entry?.value.split_first_chunk()?;
        Some(Self { until_ms: u64::from_be_bytes(*until), digest: digest.try_into().ok()? })
    }

    fn encode(&self) -> Vec<u8> {
        [&self.until_ms.to_be_bytes()[..], &self.digest].concat()
    }

    /// The first second at which the token is no longer needed.
    pub(super) fn due_s(&self) -> u64 {
        self.until_ms.div_ceil(1_000)
    }
}

/// Appends that the token at `key`, where `entry` was found, stands for `digest` from now on.
pub(super) fn write(txn: Txn, key: &[u8], entry: Option<&Entry>, digest: [u8; 32], now_ms: u64) -> Txn {
    let used = Used { until_ms: now_ms + LIFE_MS, digest };
    let key = bytes::Bytes::copy_from_slice(key);
    let mut txn = txn.expect_unchanged(key.clone(), entry);
    if let Some(earlier) = Used::decode(entry) {
        txn = txn.delete(keys::due(earlier.due_s(), &key));
    }
    txn.put(keys::due(used.due_s(), &key), Vec::new()).put(key, used.encode())
}

/// Tells requests apart: the same members in another order are the same request.
pub(super) fn digest<'a>(members: impl Iterator<Item = (&'a str, &'a Json)>) -> [u8; 32] {
    let mut hash = Sha256::new();
    feed_members(members, &mut hash);
    hash.finalize().into()
}

fn feed_members<'a>(members: impl Iterator<Item = (&'a str, &'a Json)>, hash: &mut Sha256) {
    let mut members: Vec<_> = members.collect();
    members.sort_unstable_by_key(|(name, _)| *name);
    feed_count(b'M', members.len(), hash);
    for (name, member) in members {
        feed_text(name, hash);
        feed(member, hash);
    }
}

fn feed(json: &Json, hash: &mut Sha256) {
    match json {
        Json::Object(members) => feed_members(members.iter().map(|(name, member)| (name.as_str(), member)), hash),
        Json::Array(list) => {
            feed_count(b'L', list.len(), hash);
            list.iter().for_each(|member| feed(member, hash));
        }
        Json::String(text) => feed_text(text, hash),
        other => feed_text(&other.to_string(), hash),
    }
}

fn feed_count(kind: u8, count: usize, hash: &mut Sha256) {
    hash.update([kind]);
    hash.update((count as u64).to_be_bytes());
}

fn feed_text(text: &str, hash: &mut Sha256) {
    feed_count(b'T', text.len(), hash);
    hash.update(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn digest_of(json: &Json) -> [u8; 32] {
        digest(json.as_object().unwrap().iter().map(|(name, member)| (name.as_str(), member)))
    }

    #[test]
    fn the_order_of_members_does_not_matter_and_all_else_does() {
        let one = digest_of(&json!({ "a": [1, { "b": "x", "c": null }], "d": "y" }));
        assert_eq!(one, digest_of(&json!({ "d": "y", "a": [1, { "c": null, "b": "x" }] })));
        for other in [
            json!({ "a": [{ "b": "x", "c": null }, 1], "d": "y" }),
            json!({ "a": [1, { "b": "x" }], "c": null, "d": "y" }),
            json!({ "a": [1, { "b": "xc", "": null }], "d": "y" }),
            json!({ "a": [1, { "b": "x", "c": null }], "d": "z" }),
        ] {
            assert_ne!(one, digest_of(&other), "{other}");
        }
    }

    #[test]
    fn what_is_kept_comes_back() {
        let used = Used { until_ms: 1_234_567, digest: [7; 32] };
        let entry = Entry { key: "k".into(), value: used.encode().into(), version: 1 };
        assert_eq!(Used::decode(Some(&entry)), Some(used));
        let entry = Entry { key: "k".into(), value: vec![0; 39].into(), version: 1 };
        assert_eq!(Used::decode(Some(&entry)), None);
        assert_eq!(Used::decode(None), None);
    }
}

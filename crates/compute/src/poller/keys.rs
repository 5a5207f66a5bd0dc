//! Keys of the pollers, all under `prefixes::POLLERS`. Nobody else builds one.
//!
//! | key                                        | value                                                   |
//! |--------------------------------------------|---------------------------------------------------------|
//! | `e` `m` mapping's ARN                      | nothing: its shards have had their first positions        |
//! | `e` `p` mapping's ARN, shard               | JSON of `Kept`: who polls it, and how far it is           |
//! | `e` `w` mapping's ARN, shard, lane (number) | JSON of `Window`: a tumbling window that is open          |
//! | `e` `n` node                               | a number (text) that grows as long as the node lives      |
//!
//! The shard of a queue has an empty name.

use bytes::Bytes;
use model::prefixes::POLLERS;
use store::keys::{Key, Parts};

fn under(tag: u8) -> Key {
    Key::new(POLLERS.byte).tag(tag)
}

/// The shards of a mapping have had their first positions.
pub(super) fn begun(mapping: &str) -> Bytes {
    under(b'm').text(mapping).done()
}

/// How far a shard is.
pub(super) fn shard(mapping: &str, shard: &str) -> Bytes {
    under(b'p').text(mapping).text(shard).done()
}

/// All shards of a mapping.
pub(super) fn shards(mapping: &str) -> Bytes {
    under(b'p').text(mapping).done()
}

/// The shard of its key.
pub(super) fn shard_of(key: &[u8]) -> Option<String> {
    let mut parts = Parts::of(key);
    let own = parts.byte()? == POLLERS.byte && parts.byte()? == b'p' && parts.text().is_some();
    if own { parts.text() } else { None }
}

/// The window of a lane.
pub(super) fn window(mapping: &str, shard: &str, lane: usize) -> Bytes {
    under(b'w').text(mapping).text(shard).number(lane as u64).done()
}

/// All windows of a mapping.
pub(super) fn windows(mapping: &str) -> Bytes {
    under(b'w').text(mapping).done()
}

/// The sign of life of a node.
pub(super) fn node(node: &str) -> Bytes {
    under(b'n').text(node).done()
}

/// All signs of life.
pub(super) fn nodes() -> Bytes {
    under(b'n').done()
}

/// The node of its key.
pub(super) fn node_of(key: &[u8]) -> Option<String> {
    let mut parts = Parts::of(key);
    let own = parts.byte()? == POLLERS.byte && parts.byte()? == b'n';
    if own { parts.text() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use store::Range;

    #[test]
    fn keys_read_back() {
        assert_eq!(shard_of(&shard("m", "s")), Some("s".into()));
        assert_eq!((shard_of(&window("m", "s", 1)), shard_of(&node("n"))), (None, None));
        assert_eq!(node_of(&node("n")), Some("n".into()));
        assert!(
            Range::prefix(shards("m")).contains(&shard("m", ""))
                && !Range::prefix(shards("m")).contains(&shard("mm", ""))
        );
        assert!(Range::prefix(windows("m")).contains(&window("m", "s", 9)));
    }
}

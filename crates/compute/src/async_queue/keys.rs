//! Keys of the asynchronous queue, all under `prefixes::ASYNC_QUEUE`. Nobody else builds one.
//!
//! | key                         | value                              | ordered by                              |
//! |-----------------------------|------------------------------------|-----------------------------------------|
//! | `a` `d` due_ms (number) id  | JSON of `Pending`                  | when it is due; claimed: lease's end    |
//! | `a` `e` id (text)           | header length, JSON header, event  | nothing                                 |
//!
//! An event has one key of each kind from its acceptance to its end. Only the small first one is rewritten.

use bytes::Bytes;
use model::prefixes::ASYNC_QUEUE;
use store::Range;
use store::keys::{Key, Parts};

const DUE: u8 = b'd';
const EVENT: u8 = b'e';

/// Every due key.
pub(super) fn all_due() -> Bytes {
    Key::new(ASYNC_QUEUE.byte).tag(DUE).done()
}

/// The due key of an event.
pub(super) fn due(due_ms: u64, id: &str) -> Bytes {
    Key::new(ASYNC_QUEUE.byte).tag(DUE).number(due_ms).text(id).done()
}

/// The due keys up to a time, included.
pub(super) fn due_until(now_ms: u64) -> Range {
    Range::between(all_due(), Key::new(ASYNC_QUEUE.byte).tag(DUE).number(now_ms.saturating_add(1)).done())
}

/// When the event of a due key is due, and its id.
pub(super) fn parse_due(key: &[u8]) -> Option<(u64, String)> {
    let mut parts = Parts::of(key);
    let ours = parts.byte()? == ASYNC_QUEUE.byte && parts.byte()? == DUE;
    if ours { Some((parts.number()?, parts.text()?)) } else { None }
}

/// The event itself.
pub(super) fn event(id: &str) -> Bytes {
    Key::new(ASYNC_QUEUE.byte).tag(EVENT).text(id).done()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn due_keys_sort_by_time_and_read_back() {
        assert!(due(9, "z") < due(10, "a"));
        assert_eq!(parse_due(&due(10, "a")), Some((10, "a".into())));
        assert_eq!(parse_due(&event("a")), None);
        assert!(due_until(10).contains(&due(10, "a")) && !due_until(10).contains(&due(11, "")));
        assert!(Range::prefix(all_due()).contains(&due(u64::MAX, "a")));
    }
}

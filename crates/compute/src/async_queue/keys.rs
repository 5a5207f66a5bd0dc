//! Keys of the asynchronous queue, all under `prefixes::ASYNC_QUEUE`. Nobody else builds one.
//!
//! | key                          | value                              | ordered by         |
//! |------------------------------|------------------------------------|--------------------|
//! | `a` `d` due_ms (number) id   | JSON of `Pending`                  | when it is due     |
//! | `a` `h` until_ms (number) id | the same, with its holder          | its lease's end    |
//! | `a` `e` id (text)            | header length, JSON header, event  | nothing            |
//!
//! An event has an `e` and one of the others from its acceptance to its end. Only the small one is rewritten. Leases stand
//! apart so that nobody who waits for something due is woken by one.

use bytes::Bytes;
use model::prefixes::ASYNC_QUEUE;
use store::Range;
use store::keys::{Key, Parts};

const DUE: u8 = b'd';
const HELD: u8 = b'h';
const EVENT: u8 = b'e';

/// Every due key.
pub(super) fn all_due() -> Bytes {
    all(DUE)
}

/// Every lease.
pub(super) fn all_held() -> Bytes {
    all(HELD)
}

fn all(tag: u8) -> Bytes {
    Key::new(ASYNC_QUEUE.byte).tag(tag).done()
}

/// The due key of an event.
pub(super) fn due(due_ms: u64, id: &str) -> Bytes {
    Key::new(ASYNC_QUEUE.byte).tag(DUE).number(due_ms).text(id).done()
}

/// The lease of an event.
pub(super) fn held(until_ms: u64, id: &str) -> Bytes {
    Key::new(ASYNC_QUEUE.byte).tag(HELD).number(until_ms).text(id).done()
}

/// The due keys up to a time, included.
pub(super) fn due_until(now_ms: u64) -> Range {
    until(DUE, now_ms)
}

/// The leases that have ended at a time.
pub(super) fn held_until(now_ms: u64) -> Range {
    until(HELD, now_ms)
}

fn until(tag: u8, now_ms: u64) -> Range {
    Range::between(all(tag), Key::new(ASYNC_QUEUE.byte).tag(tag).number(now_ms.saturating_add(1)).done())
}

/// When the event of a due key is due, or its lease ends, and its id.
pub(super) fn parse(key: &[u8]) -> Option<(u64, String)> {
    let mut parts = Parts::of(key);
    let ours = parts.byte()? == ASYNC_QUEUE.byte && matches!(parts.byte()?, DUE | HELD);
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
    fn due_keys_and_leases_sort_by_time_and_read_back() {
        for (key, until, all) in
            [(due as fn(u64, &str) -> Bytes, due_until as fn(u64) -> Range, all_due()), (held, held_until, all_held())]
        {
            assert!(key(9, "z") < key(10, "a"));
            assert_eq!(parse(&key(10, "a")), Some((10, "a".into())));
            assert!(until(10).contains(&key(10, "a")) && !until(10).contains(&key(11, "")));
            assert!(Range::prefix(all).contains(&key(u64::MAX, "a")));
        }
        assert_eq!(parse(&event("a")), None);
        assert!(!Range::prefix(all_due()).contains(&held(10, "a")));
    }
}

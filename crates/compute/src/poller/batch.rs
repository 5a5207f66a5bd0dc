//! What goes into one call: how many records, how many bytes, how long it is waited for more. Pure.

use bytes::{BufMut, Bytes, BytesMut};
use model::SourceRecord;

use crate::payload::SYNC_BYTES_MAX;

/// Bytes that a payload has beside its records.
const FRAME_BYTES: usize = 1_024;
/// Most bytes of records of one call.
pub(super) const BATCH_BYTES_MAX: usize = SYNC_BYTES_MAX - FRAME_BYTES;

/// Most records and bytes of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) records: usize,
    pub(super) bytes: usize,
}

impl Room {
    /// The room of a batch of so many records.
    pub(super) fn of(records: usize) -> Self {
        Self { records: records.max(1), bytes: BATCH_BYTES_MAX }
    }

    /// Takes the place of one record. False: there is none. A record that is too large for any batch fits into an empty one.
    pub(super) fn take(&mut self, record: &SourceRecord, is_first: bool) -> bool {
        let bytes = record.event.len() + 1;
        if !is_first && (self.records == 0 || bytes > self.bytes) {
            return false;
        }
        self.records = self.records.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
        true
    }
}

/// A batch that gathers.
#[derive(Debug)]
pub(super) struct Gathering {
    size: usize,
    window_ms: u64,
    room: Room,
    records: Vec<SourceRecord>,
    /// Records that did not fit: the first ones of the next batch.
    left: Vec<SourceRecord>,
    /// When the first record came.
    first_ms: u64,
}

impl Gathering {
    /// Batches of at most so many records, which wait so long for more after their first.
    pub(super) fn new(size: usize, window_ms: u64) -> Self {
        let room = Room::of(size);
        Self { size, window_ms, room, records: Vec::new(), left: Vec::new(), first_ms: 0 }
    }

    /// How many more records are to be had; none if the batch is full.
    pub(super) fn wants(&self) -> usize {
        if self.left.is_empty() { self.room.records } else { 0 }
    }

    /// Adds what came at `now_ms`.
    pub(super) fn add(&mut self, records: Vec<SourceRecord>, now_ms: u64) {
        for record in records {
            let is_first = self.records.is_empty();
            if !self.left.is_empty() || !self.room.take(&record, is_first) {
                self.left.push(record);
                continue;
            }
            if is_first {
                self.first_ms = now_ms;
            }
            self.records.push(record);
        }
    }

    /// When the batch is due, if it has a record: at once if it is full.
    pub(super) fn due_ms(&self) -> Option<u64> {
        if self.records.is_empty() {
            return None;
        }
        let full = self.room.records == 0 || !self.left.is_empty();
        Some(if full { self.first_ms } else { self.first_ms.saturating_add(self.window_ms) })
    }

    /// The batch; the next one gathers.
    pub(super) fn take(&mut self, now_ms: u64) -> Vec<SourceRecord> {
        let batch = std::mem::take(&mut self.records);
        self.room = Room::of(self.size);
        let left = std::mem::take(&mut self.left);
        self.add(left, now_ms);
        batch
    }

    /// Everything that has gathered.
    pub(super) fn into_records(self) -> Vec<SourceRecord> {
        [self.records, self.left].concat()
    }
}

/// `{"Records":[…]…}`; `more` are further members, each with a comma before it.
pub(super) fn payload<'a>(events: impl Iterator<Item = &'a Bytes>, more: &str) -> Bytes {
    let mut payload = BytesMut::from(&br#"{"Records":["#[..]);
    for (place, event) in events.enumerate() {
        if place > 0 {
            payload.put_u8(b',');
        }
        payload.put_slice(event);
    }
    payload.put_slice(b"]");
    payload.put_slice(more.as_bytes());
    payload.put_slice(b"}");
    payload.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record(id: usize, bytes: usize) -> SourceRecord {
        let event = Bytes::from(vec![b'1'; bytes]);
        SourceRecord { id: id.to_string(), handle: String::new(), key: None, arrived_ms: 0, trace: None, event }
    }

    #[test]
    fn a_batch_is_due_when_it_is_full_or_its_window_is_over() {
        let mut gathering = Gathering::new(3, 500);
        assert_eq!((gathering.due_ms(), gathering.wants()), (None, 3));
        gathering.add(vec![record(0, 5)], 100);
        gathering.add(vec![record(1, 5)], 300);
        assert_eq!((gathering.due_ms(), gathering.wants()), (Some(600), 1));
        gathering.add(vec![record(2, 5), record(3, 5)], 400);
        assert_eq!((gathering.due_ms(), gathering.wants()), (Some(100), 0));
        assert_eq!(gathering.take(450).len(), 3);
        assert_eq!((gathering.due_ms(), gathering.wants()), (Some(950), 2), "what was left begins the next window");
        assert_eq!(gathering.into_records().len(), 1);
        let mut at_once = Gathering::new(10, 0);
        at_once.add(vec![record(0, 5)], 7);
        assert_eq!(at_once.due_ms(), Some(7));
    }

    #[test]
    fn a_payload_is_json() {
        let events = [Bytes::from_static(b"{\"a\":1}"), Bytes::from_static(b"2")];
        assert_eq!(payload(events.iter(), ""), r#"{"Records":[{"a":1},2]}"#);
        assert_eq!(payload(events[..0].iter(), ",\"x\":true"), r#"{"Records":[],"x":true}"#);
    }

    proptest! {
        #[test]
        fn no_record_is_lost_and_no_batch_is_too_large(
            sizes in prop::collection::vec(prop_oneof![1usize..100, 1_000_000usize..4_000_000], 0..30),
            size in 1usize..12,
            lot in 1usize..9,
        ) {
            let mut gathering = Gathering::new(size, 0);
            let mut seen = Vec::new();
            let records: Vec<_> = sizes.iter().enumerate().map(|(id, bytes)| record(id, *bytes)).collect();
            for lot in records.chunks(lot) {
                gathering.add(lot.to_vec(), 0);
                while gathering.due_ms().is_some() {
                    let batch = gathering.take(0);
                    prop_assert!(batch.len() <= size);
                    let bytes = payload(batch.iter().map(|record| &record.event), "").len();
                    prop_assert!(bytes <= SYNC_BYTES_MAX || batch.len() == 1);
                    seen.extend(batch.into_iter().map(|record| record.id));
                }
            }
            prop_assert_eq!(seen, (0..sizes.len()).map(|id| id.to_string()).collect::<Vec<_>>());
        }
    }
}

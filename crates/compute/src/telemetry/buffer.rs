//! What one subscriber has not got yet: when a batch is due, what is in it, what is thrown away. Pure.
//!
//! Invariants
//!   1. Events leave in the order they came; what was taken stays first until it is known to be delivered or given up.
//!   2. At most `HELD_BATCHES` times the configured bytes, and as many items, are held; what comes beyond that is counted as
//!      dropped, and told once there is room.
//!   3. Nothing waits longer than the configured time for others to come.

use std::collections::VecDeque;

use bytes::Bytes;

/// How many full batches wait for a subscriber that does not take them.
const HELD_BATCHES: usize = 4;

/// When batches are delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Buffering {
    pub(crate) items: usize,
    pub(crate) bytes: usize,
    pub(crate) timeout_ms: u64,
}

impl Default for Buffering {
    /// Source: Lambda's documentation of the Telemetry API, as are the ranges.
    fn default() -> Self {
        Self { items: 10_000, bytes: 256 * 1024, timeout_ms: 1_000 }
    }
}

/// What was thrown away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Dropped {
    pub(crate) records: u64,
    pub(crate) bytes: u64,
}

/// Events that wait.
#[derive(Debug)]
pub(crate) struct Buffer {
    buffering: Buffering,
    events: VecDeque<Bytes>,
    bytes: usize,
    /// When the batch that gathers began: milliseconds.
    since_ms: Option<u64>,
    /// Events at the front that are being delivered.
    taken: usize,
    dropped: Dropped,
    /// All that there is goes at once.
    hurries: bool,
}

impl Buffer {
    pub(crate) fn new(buffering: Buffering) -> Self {
        let events = VecDeque::new();
        Self { buffering, events, bytes: 0, since_ms: None, taken: 0, dropped: Dropped::default(), hurries: false }
    }

    /// Adds an event; whether it was kept.
    pub(crate) fn push(&mut self, event: Bytes, now_ms: u64) -> bool {
        let full = self.bytes + event.len() > HELD_BATCHES * self.buffering.bytes
            || self.events.len() >= HELD_BATCHES * self.buffering.items;
        if full {
            self.dropped.records += 1;
            self.dropped.bytes += event.len() as u64;
            return false;
        }
        self.bytes += event.len();
        self.events.push_back(event);
        self.since_ms.get_or_insert(now_ms);
        true
    }

    /// What was thrown away since this was last answered, once there is room again to tell it.
    pub(crate) fn lost(&mut self) -> Option<Dropped> {
        let roomy = self.bytes <= self.buffering.bytes && self.events.len() <= self.buffering.items;
        (roomy && self.dropped.records > 0).then(|| std::mem::take(&mut self.dropped))
    }

    /// When the next batch is due: milliseconds; nothing while there is none.
    pub(crate) fn due_ms(&self) -> Option<u64> {
        if self.events.is_empty() {
            return None;
        }
        let full = self.events.len() >= self.buffering.items || self.bytes >= self.buffering.bytes;
        let since_ms = self.since_ms.unwrap_or(0);
        Some(if full || self.hurries { 0 } else { since_ms.saturating_add(self.buffering.timeout_ms) })
    }

    /// Takes the next batch, to be delivered.
    pub(crate) fn take(&mut self) -> Vec<Bytes> {
        let mut bytes = 0;
        let fits = |event: &&Bytes| {
            bytes += event.len();
            bytes <= self.buffering.bytes
        };
        let batch: Vec<Bytes> = self.events.iter().take(self.buffering.items).take_while(fits).cloned().collect();
        // One that is larger than a batch goes alone.
        let batch = if batch.is_empty() { self.events.iter().take(1).cloned().collect() } else { batch };
        self.taken = batch.len();
        batch
    }

    /// What was taken is the subscriber's.
    pub(crate) fn delivered(&mut self, now_ms: u64) {
        for event in self.events.drain(..self.taken) {
            self.bytes -= event.len();
        }
        self.taken = 0;
        self.since_ms = (!self.events.is_empty()).then_some(now_ms);
    }

    /// From now on nothing waits.
    pub(crate) fn hurry(&mut self) {
        self.hurries = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SMALL: Buffering = Buffering { items: 3, bytes: 10, timeout_ms: 100 };

    fn event(bytes: usize) -> Bytes {
        Bytes::from(vec![b'x'; bytes])
    }

    #[test]
    fn a_batch_is_due_when_it_is_full_or_old() {
        let mut buffer = Buffer::new(SMALL);
        assert_eq!(buffer.due_ms(), None);
        buffer.push(event(1), 50);
        buffer.push(event(1), 60);
        assert_eq!(buffer.due_ms(), Some(150));
        buffer.push(event(1), 70);
        assert_eq!(buffer.due_ms(), Some(0), "as many as a batch has");
        assert_eq!(buffer.take().len(), 3);
        assert_eq!(buffer.take().len(), 3, "it was not delivered");
        buffer.delivered(80);
        assert_eq!(buffer.due_ms(), None);
        buffer.push(event(9), 90);
        assert_eq!(buffer.due_ms(), Some(190));
        buffer.push(event(2), 90);
        assert_eq!(buffer.due_ms(), Some(0), "more bytes than a batch has");
        assert_eq!(buffer.take().len(), 1);
        buffer.delivered(95);
        assert_eq!(buffer.due_ms(), Some(195));
        buffer.hurry();
        assert_eq!(buffer.due_ms(), Some(0));
    }

    #[test]
    fn one_that_is_larger_than_a_batch_goes_alone() {
        let mut buffer = Buffer::new(SMALL);
        buffer.push(event(30), 0);
        buffer.push(event(1), 0);
        assert_eq!(buffer.take(), [event(30)]);
    }

    #[test]
    fn what_is_thrown_away_is_told_once_there_is_room() {
        let mut buffer = Buffer::new(SMALL);
        for _ in 0..HELD_BATCHES {
            assert!(buffer.push(event(10), 0));
        }
        assert!(!buffer.push(event(7), 0) && !buffer.push(event(5), 0));
        assert_eq!(buffer.lost(), None);
        for _ in 0..3 {
            assert_eq!(buffer.take().len(), 1);
            buffer.delivered(0);
        }
        assert_eq!(buffer.lost(), Some(Dropped { records: 2, bytes: 12 }));
        assert_eq!(buffer.lost(), None);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_but_what_is_told(steps in proptest::collection::vec((0u8..4, 0usize..14), 0..200)) {
            let mut buffer = Buffer::new(SMALL);
            let (mut pushed, mut got, mut lost) = (0, 0, 0);
            for (now_ms, (step, size)) in steps.into_iter().enumerate() {
                match step {
                    0 | 1 => {
                        pushed += 1;
                        buffer.push(event(size), now_ms as u64);
                    }
                    2 => {
                        let batch = buffer.take();
                        let bytes: usize = batch.iter().map(Bytes::len).sum();
                        prop_assert!(batch.len() <= SMALL.items && (bytes <= SMALL.bytes || batch.len() == 1));
                        got += batch.len();
                        buffer.delivered(now_ms as u64);
                    }
                    _ => lost += buffer.lost().map_or(0, |dropped| dropped.records as usize),
                }
                prop_assert!(buffer.bytes <= HELD_BATCHES * SMALL.bytes && buffer.events.len() <= HELD_BATCHES * SMALL.items);
                prop_assert_eq!(buffer.due_ms().is_none(), buffer.events.is_empty());
            }
            while !buffer.events.is_empty() {
                got += buffer.take().len();
                buffer.delivered(0);
            }
            lost += buffer.lost().map_or(0, |dropped| dropped.records as usize);
            prop_assert_eq!(pushed, got + lost);
        }
    }
}

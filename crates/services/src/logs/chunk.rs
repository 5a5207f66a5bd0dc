//! Chunks of events and positions in logs. Pure.
//!
//! Events of one stream that come together are stored together, in chunks bounded in bytes and in span of time.

use model::LogEvent;
use serde::{Deserialize, Serialize};

use super::keys::Place;

/// Most milliseconds between two events of one chunk. Readers in order of time hold chunks of twice that span.
pub(super) const SPAN_MS: u64 = 60_000;
/// Bytes from which on a chunk is full.
const CHUNK_BYTES: usize = 256 * 1024;
/// What CloudWatch counts for an event beside its text.
pub(super) const EVENT_OVERHEAD_BYTES: usize = 26;
/// Most bytes of one event; longer lines are split.
pub(super) const EVENT_BYTES_MAX: usize = 1024 * 1024 - EVENT_OVERHEAD_BYTES;

/// Events of one stream as they are stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Chunk {
    pub(super) stream_id: u64,
    pub(super) stream: String,
    pub(super) ingested_ms: u64,
    pub(super) events: Vec<LogEvent>,
}

/// The place of an event among all of its group: the order in which logs are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    pub(super) timestamp_ms: u64,
    pub(super) commit: u64,
    pub(super) part: u32,
    pub(super) number: u32,
}

impl Position {
    pub(super) const FIRST: Self = Self { timestamp_ms: 0, commit: 0, part: 0, number: 0 };

    /// 56 digits, as CloudWatch's event ids and tokens have.
    pub(super) fn text(self) -> String {
        format!("{:020}{:020}{:08}{:08}", self.timestamp_ms, self.commit, self.part, self.number)
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        if text.len() != 56 || !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        Some(Self {
            timestamp_ms: text[..20].parse().ok()?,
            commit: text[20..40].parse().ok()?,
            part: text[40..48].parse().ok()?,
            number: text[48..].parse().ok()?,
        })
    }
}

/// An event on its way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) position: Position,
    pub(super) stream: String,
    pub(super) ingested_ms: u64,
    pub(super) message: String,
}

impl Chunk {
    /// The latest timestamp; a chunk has at least one event.
    pub(super) fn last_ms(&self) -> u64 {
        self.events.iter().map(|event| event.timestamp_ms).max().unwrap_or(0)
    }

    /// What CloudWatch counts as stored.
    pub(super) fn bytes(&self) -> u64 {
        self.events.iter().map(|event| (event.message.len() + EVENT_OVERHEAD_BYTES) as u64).sum()
    }

    /// The events with their positions.
    pub(super) fn found(self, place: Place) -> impl Iterator<Item = Found> {
        let Self { stream, ingested_ms, events, .. } = self;
        (0u32..).zip(events).map(move |(number, event)| Found {
            position: Position { timestamp_ms: event.timestamp_ms, commit: place.commit, part: place.part, number },
            stream: stream.clone(),
            ingested_ms,
            message: event.message,
        })
    }
}

/// Cuts events of one stream into chunks, in their order.
pub(super) fn cut(events: Vec<LogEvent>) -> Vec<Vec<LogEvent>> {
    let mut chunks: Vec<Vec<LogEvent>> = Vec::new();
    let (mut bytes, mut first, mut last) = (0, 0, 0);
    for event in events.into_iter().flat_map(split) {
        let size = event.message.len() + EVENT_OVERHEAD_BYTES;
        let (low, high) = (event.timestamp_ms.min(first), event.timestamp_ms.max(last));
        match chunks.last_mut() {
            Some(chunk) if bytes + size <= CHUNK_BYTES && high - low <= SPAN_MS => {
                chunk.push(event);
                (bytes, first, last) = (bytes + size, low, high);
            }
            _ => {
                (bytes, first, last) = (size, event.timestamp_ms, event.timestamp_ms);
                chunks.push(vec![event]);
            }
        }
    }
    chunks
}

/// An event that is too long as several, cut between characters.
fn split(event: LogEvent) -> Vec<LogEvent> {
    if event.message.len() <= EVENT_BYTES_MAX {
        return vec![event];
    }
    let mut parts = Vec::new();
    let mut rest = event.message.as_str();
    while !rest.is_empty() {
        let mut end = rest.len().min(EVENT_BYTES_MAX);
        while !rest.is_char_boundary(end) {
            end -= 1;
        }
        let (part, after) = rest.split_at(end);
        parts.push(LogEvent { timestamp_ms: event.timestamp_ms, message: part.to_owned() });
        rest = after;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn positions_read_back_and_sort_as_their_texts(
            a: (u64, u64, u16, u16), b: (u64, u64, u16, u16),
        ) {
            let position = |(timestamp_ms, commit, part, number): (u64, u64, u16, u16)| {
                Position { timestamp_ms, commit, part: part.into(), number: number.into() }
            };
            let (a, b) = (position(a), position(b));
            prop_assert_eq!(Position::parse(&a.text()), Some(a));
            prop_assert_eq!(a.text().cmp(&b.text()), a.cmp(&b));
        }

        #[test]
        fn cutting_keeps_all_events_in_order_within_bounds(
            events in proptest::collection::vec((0u64..300_000, 0usize..150_000), 0..30),
        ) {
            let events: Vec<LogEvent> = events.into_iter()
                .map(|(timestamp_ms, length)| LogEvent { timestamp_ms, message: "x".repeat(length) }).collect();
            let chunks = cut(events.clone());
            for chunk in &chunks {
                let times = chunk.iter().map(|event| event.timestamp_ms);
                prop_assert!(times.clone().max().unwrap() - times.min().unwrap() <= SPAN_MS);
                prop_assert!(chunk.len() == 1 || chunk.iter().map(|e| e.message.len()).sum::<usize>() <= CHUNK_BYTES);
            }
            prop_assert_eq!(chunks.concat(), events);
        }
    }

    #[test]
    fn a_line_beyond_the_limit_is_split_between_characters() {
        let message = format!("x{}", "é".repeat(EVENT_BYTES_MAX));
        let chunks = cut(vec![LogEvent { timestamp_ms: 1, message: message.clone() }]);
        let parts: Vec<LogEvent> = chunks.concat();
        assert!(parts.len() == 3 && parts.iter().all(|part| part.message.len() <= EVENT_BYTES_MAX));
        assert_eq!(parts.iter().map(|part| part.message.as_str()).collect::<String>(), message);
    }
}

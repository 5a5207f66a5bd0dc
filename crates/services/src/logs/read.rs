//! Events out, in order of their positions, forwards or backwards.
//!
//! Chunks lie in order of their last timestamp and span at most `SPAN_MS`. Reading forwards, everything older than the
//! present chunk's last timestamp less that span is complete and can go out; reading backwards, everything newer than
//! the present chunk's last timestamp. What is not complete is held, sorted.

use std::collections::BTreeMap;

use store::{Entry, Range};

use super::chunk::{Chunk, EVENT_OVERHEAD_BYTES, Found, Position, SPAN_MS};
use super::groups::decode;
use super::{Error, Logs, keys};

/// Most bytes of events in one answer, as CloudWatch has it.
const ANSWER_BYTES: usize = 1024 * 1024;
/// Chunk bytes after which a search that finds little hands back a token.
const SEARCH_BYTES: usize = 32 * 1024 * 1024;
const PAGE_ROWS: usize = 64;
const PAGE_BYTES: usize = 2 * 1024 * 1024;

/// What to read.
#[derive(Debug, Clone, Copy)]
pub(super) enum Source {
    /// All streams of a group.
    Group(u64),
    /// One stream of a group.
    Stream(u64, u64),
}

/// Which events.
pub(super) struct Query<'a> {
    pub(super) source: Source,
    /// Events at this position or later.
    pub(super) from: Position,
    /// Events before this position.
    pub(super) until: Position,
    pub(super) backwards: bool,
    pub(super) limit: usize,
    pub(super) wanted: &'a (dyn Fn(&Found) -> bool + Sync),
}

/// Events in the query's direction.
pub(super) struct Answer {
    pub(super) events: Vec<Found>,
    /// Where to go on: the new `from`, or the new `until` backwards. Nothing if all was read.
    pub(super) resume: Option<Position>,
}

/// Events on their way into an answer.
struct Gathered<'a> {
    query: &'a Query<'a>,
    held: BTreeMap<Position, Found>,
    events: Vec<Found>,
    bytes: usize,
}

impl Gathered<'_> {
    fn hold(&mut self, chunk: Chunk, place: keys::Place) {
        let range = self.query.from..self.query.until;
        let wanted = chunk.found(place).filter(|found| range.contains(&found.position) && (self.query.wanted)(found));
        self.held.extend(wanted.map(|found| (found.position, found)));
    }

    /// Lets go what is complete up to a time; says where to go on if the answer is full.
    fn release(&mut self, border_ms: Option<u64>) -> Option<Position> {
        loop {
            let next = if self.query.backwards { self.held.last_key_value() } else { self.held.first_key_value() };
            let (position, found) = next?;
            let complete = match border_ms {
                None => true,
                Some(border) if self.query.backwards => position.timestamp_ms > border,
                Some(border) => position.timestamp_ms < border,
            };
            if !complete {
                return None;
            }
            let size = found.message.len() + EVENT_OVERHEAD_BYTES;
            if self.events.len() >= self.query.limit || (!self.events.is_empty() && self.bytes + size > ANSWER_BYTES) {
                // Backwards `until` is exclusive, so it is the last event that went out.
                let last = self.events.last().map(|found| found.position);
                return if self.query.backwards { last } else { Some(*position) };
            }
            self.bytes += size;
            let position = *position;
            self.events.extend(self.held.remove(&position));
        }
    }
}

impl Logs {
    pub(super) async fn read(&self, query: &Query<'_>) -> Result<Answer, Error> {
        let mut gathered = Gathered { query, held: BTreeMap::new(), events: Vec::new(), bytes: 0 };
        let mut range = range_of(query);
        let mut searched = 0;
        loop {
            let page = self.store.range(&range).await?;
            for entry in &page.entries {
                let (chunk, place, size) = self.chunk_of(query.source, entry).await?;
                searched += size;
                let border = if query.backwards { place.last_ms } else { place.last_ms.saturating_sub(SPAN_MS) };
                if let Some(resume) = gathered.release(Some(border)) {
                    return Ok(Answer { events: gathered.events, resume: Some(resume) });
                }
                if let Some(chunk) = chunk {
                    gathered.hold(chunk, place);
                }
                let here = Position { timestamp_ms: border, ..Position::FIRST };
                if searched > SEARCH_BYTES && !query.backwards && here > query.from {
                    return Ok(Answer { events: gathered.events, resume: Some(here) });
                }
            }
            match page.entries.last() {
                Some(last) if page.more => range = range.beyond(last.key.clone()),
                _ => break,
            }
        }
        let resume = gathered.release(None);
        Ok(Answer { events: gathered.events, resume })
    }

    async fn chunk_of(&self, source: Source, entry: &Entry) -> Result<(Option<Chunk>, keys::Place, usize), Error> {
        let damaged = || Error::Damaged("a chunk's key".into());
        match source {
            Source::Group(_) => {
                let place = keys::place_of_chunk(&entry.key).ok_or_else(damaged)?;
                Ok((Some(decode(entry)?), place, entry.value.len()))
            }
            Source::Stream(group, _) => {
                let place = keys::place_of_index(&entry.key).ok_or_else(damaged)?;
                // Retention removes chunks while they are read.
                let Some(chunk) = self.store.get(&keys::chunk(group, place)).await? else {
                    return Ok((None, place, 0));
                };
                Ok((Some(decode(&chunk)?), place, chunk.value.len()))
            }
        }
    }
}

fn range_of(query: &Query<'_>) -> Range {
    let from = query.from.timestamp_ms;
    let until = query.until.timestamp_ms.saturating_add(SPAN_MS + 1);
    let range = match query.source {
        Source::Group(group) => Range::between(keys::chunks_at(group, from), keys::chunks_at(group, until)),
        Source::Stream(group, stream) => {
            Range::between(keys::index_at(group, stream, from), keys::index_at(group, stream, until))
        }
    };
    let range = range.rows(PAGE_ROWS).bytes(PAGE_BYTES);
    if query.backwards { range.reversed() } else { range }
}

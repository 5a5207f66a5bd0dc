//! One lane of a shard: its records in order, the batch that is tried, what follows after each try. Pure.
//!
//! A lane asks for one thing at a time (`step`) and is told how that ended. Records leave it from the front only: when a
//! call has handled them, or when they are given up and their destination has the record of it.
//!
//! | after a call that                       | the batch                                                                   |
//! |------------------------------------------|------------------------------------------------------------------------------|
//! | succeeded                                | leaves                                                                       |
//! | named records that failed                | leaves up to the first of them; the rest is tried again                      |
//! | failed                                   | is tried again, in halves if the mapping says so, which counts as no retry   |
//! | failed once more than may be             | is given up                                                                  |
//! | was refused by the platform              | is tried again, as often as need be                                          |
//!
//! Records beyond the greatest age are given up before they are tried. Source: the developer guide, "Using Lambda to
//! process records from Amazon Kinesis Data Streams" (batching, retries, bisecting, tumbling windows).

use std::collections::VecDeque;

use model::{Mapping, Outcome, RequestId, SourceRecord};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::answer::{Failed, failed};
use super::batch::Room;
use super::record::Condition;
use super::scale::wait_after;

/// Most bytes of the state of a tumbling window. Source: the developer guide.
pub(super) const STATE_BYTES_MAX: usize = 1024 * 1024;

/// What a mapping asks of the batches of a stream.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rules {
    pub(super) batch_records: usize,
    pub(super) window_ms: u64,
    pub(super) retries_max: Option<u32>,
    pub(super) age_max_ms: Option<u64>,
    pub(super) bisects: bool,
    pub(super) tumbling_ms: u64,
    pub(super) reports_failures: bool,
}

impl Rules {
    pub(super) fn of(mapping: &Mapping) -> Self {
        Self {
            batch_records: mapping.batch_records.max(1),
            window_ms: mapping.window_ms,
            retries_max: mapping.retries_max,
            age_max_ms: mapping.age_max_ms,
            bisects: mapping.bisects,
            tumbling_ms: mapping.tumbling_ms,
            reports_failures: mapping.reports_failures,
        }
    }
}

/// A record that waits.
#[derive(Debug, Clone)]
struct Item {
    /// Its place among all that was read of the shard.
    ordinal: u64,
    seen_ms: u64,
    record: SourceRecord,
}

/// A batch, or a piece of one that was cut.
#[derive(Debug, Clone, Default)]
struct Piece {
    records: usize,
    failures: u32,
    calls: u32,
    last: Option<(RequestId, Outcome)>,
}

/// A tumbling window that is open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Window {
    /// Milliseconds since the epoch.
    pub(super) start_ms: u64,
    /// What the last call has answered: JSON.
    pub(super) state: String,
    /// The state has become too large.
    #[serde(default)]
    pub(super) ends_early: bool,
}

/// What a lane wants done.
#[derive(Debug)]
pub(super) enum Step {
    /// A call of the function.
    Invoke(Call),
    /// The record of a batch that is given up goes to its destination.
    GiveUp(GiveUp),
    /// Nothing before that time, milliseconds since the epoch, or before a record comes.
    Wait(Option<u64>),
    /// Nothing before it is told how what it wanted has ended.
    Busy,
}

/// A call of the function.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) records: Vec<SourceRecord>,
    /// The window that it belongs to, and whether it is the window's last call.
    pub(super) window: Option<(Window, bool)>,
}

/// A batch that is given up.
#[derive(Debug)]
pub(super) struct GiveUp {
    pub(super) records: Vec<SourceRecord>,
    pub(super) condition: Condition,
    pub(super) calls: u32,
    pub(super) last: Option<(RequestId, Outcome)>,
}

/// How a call has ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// The function ran.
    Ran(RequestId, Outcome),
    /// The platform did not run it.
    Refused,
}

#[derive(Debug, Default)]
pub(super) struct Lane {
    items: VecDeque<Item>,
    bytes: usize,
    /// What of the first items is a batch.
    pieces: VecDeque<Piece>,
    /// What is under way: nothing, a call of the first piece or of the window's end, or so many records that are given up.
    doing: Doing,
    not_before_ms: u64,
    refusals: u32,
    window: Option<Window>,
    /// Tries of the call that ends the window.
    ending: Piece,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Doing {
    #[default]
    Nothing,
    Piece,
    EndOfWindow,
    GivingUp(usize),
    GivingUpWindow,
}

impl Lane {
    /// A lane with the window that was open.
    pub(super) fn new(window: Option<Window>) -> Self {
        Self { window, ..Self::default() }
    }

    /// Adds a record that was read at `now_ms`.
    pub(super) fn push(&mut self, ordinal: u64, record: SourceRecord, now_ms: u64) {
        self.bytes += record.event.len();
        self.items.push_back(Item { ordinal, seen_ms: now_ms, record });
    }

    /// The place of the first record that is not handled.
    pub(super) fn first(&self) -> Option<u64> {
        self.items.front().map(|item| item.ordinal)
    }

    /// Bytes of the records that wait.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The window that is open.
    pub(super) fn window(&self) -> Option<&Window> {
        self.window.as_ref()
    }

    /// Whether nothing is left to do.
    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty() && self.window.is_none() && self.doing == Doing::Nothing
    }

    /// What is to be done at `now_ms`. Every record that arrived before `caught_up_ms` has been read.
    pub(super) fn step(&mut self, rules: &Rules, now_ms: u64, caught_up_ms: u64) -> Step {
        if self.doing != Doing::Nothing {
            return Step::Busy;
        }
        if now_ms < self.not_before_ms {
            return Step::Wait(Some(self.not_before_ms));
        }
        if self.pieces.is_empty() {
            if let Some(step) = self.end_window(rules, caught_up_ms) {
                return step;
            }
            let open = self.window.as_ref().map(|window| window.start_ms.saturating_add(rules.tumbling_ms));
            match self.due(rules) {
                None => return Step::Wait(open),
                Some((_, due_ms)) if now_ms < due_ms => return Step::Wait(Some(due_ms)),
                Some((records, _)) => self.pieces.push_back(Piece { records, ..Piece::default() }),
            }
        }
        self.step_of_piece(rules, now_ms)
    }

    fn step_of_piece(&mut self, rules: &Rules, now_ms: u64) -> Step {
        let Some(piece) = self.pieces.front() else { return Step::Wait(None) };
        let expired =
            |item: &&Item| rules.age_max_ms.is_some_and(|most| now_ms.saturating_sub(item.record.arrived_ms) > most);
        let expired = self.items.iter().take(piece.records).take_while(expired).count();
        let exhausted = rules.retries_max.is_some_and(|most| piece.failures > most);
        let (records, condition) = match (expired, exhausted) {
            (0, false) => {
                if rules.tumbling_ms > 0 && self.window.is_none() {
                    let arrived_ms = self.items.front().map_or(now_ms, |item| item.record.arrived_ms);
                    let start_ms = arrived_ms - arrived_ms % rules.tumbling_ms;
                    self.window = Some(Window { start_ms, state: "{}".into(), ends_early: false });
                }
                self.doing = Doing::Piece;
                let window = self.window.clone().map(|window| (window, false));
                return Step::Invoke(Call { records: self.records(piece.records), window });
            }
            (_, true) => (piece.records, Condition::RetryAttemptsExhausted),
            (expired, false) => (expired, Condition::RecordAgeExceeded),
        };
        self.doing = Doing::GivingUp(records);
        let (calls, last) = (piece.calls, piece.last.clone());
        Step::GiveUp(GiveUp { records: self.records(records), condition, calls, last })
    }

    fn records(&self, records: usize) -> Vec<SourceRecord> {
        self.items.iter().take(records).map(|item| item.record.clone()).collect()
    }

    /// How many records the next batch has, and when it is due.
    fn due(&self, rules: &Rules) -> Option<(usize, u64)> {
        let first = self.items.front()?;
        let mut room = Room::of(rules.batch_records);
        let window_end = match (&self.window, rules.tumbling_ms) {
            (_, 0) => u64::MAX,
            (Some(window), length) => {
                room.bytes = room.bytes.saturating_sub(window.state.len());
                window.start_ms.saturating_add(length)
            }
            (None, length) => first.record.arrived_ms - first.record.arrived_ms % length + length,
        };
        let fits = |(place, item): &(usize, &Item)| {
            item.record.arrived_ms < window_end && room.take(&item.record, *place == 0)
        };
        let records = self.items.iter().enumerate().take_while(fits).count();
        // What arrived before its window began, as clocks may differ, goes with the next one.
        let records = records.max(1);
        let full = records == rules.batch_records || records < self.items.len();
        Some((records, if full { first.seen_ms } else { first.seen_ms.saturating_add(rules.window_ms) }))
    }

    /// The last call of a window that has ended.
    fn end_window(&mut self, rules: &Rules, caught_up_ms: u64) -> Option<Step> {
        let window = self.window.as_ref()?;
        let end_ms = window.start_ms.saturating_add(rules.tumbling_ms);
        let over = match self.items.front() {
            Some(item) => item.record.arrived_ms >= end_ms,
            None => caught_up_ms >= end_ms,
        };
        if !over && !window.ends_early && rules.tumbling_ms > 0 {
            return None;
        }
        if rules.retries_max.is_some_and(|most| self.ending.failures > most) {
            self.doing = Doing::GivingUpWindow;
            let (calls, last) = (self.ending.calls, self.ending.last.clone());
            let condition = Condition::RetryAttemptsExhausted;
            return Some(Step::GiveUp(GiveUp { records: Vec::new(), condition, calls, last }));
        }
        self.doing = Doing::EndOfWindow;
        Some(Step::Invoke(Call { records: Vec::new(), window: Some((window.clone(), true)) }))
    }

    /// The call that was asked for has ended at `now_ms`.
    pub(super) fn called(&mut self, rules: &Rules, ended: Ended, now_ms: u64) {
        let doing = std::mem::take(&mut self.doing);
        let Ended::Ran(id, outcome) = ended else {
            self.refusals += 1;
            self.not_before_ms = now_ms.saturating_add(wait_ms(self.refusals));
            return;
        };
        self.refusals = 0;
        if doing == Doing::EndOfWindow {
            self.window_called(id, outcome, now_ms);
            return;
        }
        let Some(records) = self.pieces.front().map(|piece| piece.records) else { return };
        let ids = self.items.iter().take(records).map(|item| item.record.id.as_str());
        let failed = match (&outcome.error, rules.reports_failures) {
            (Some(_), _) => Failed::Everything,
            (None, false) => Failed::Nothing,
            (None, true) => failed(&outcome.payload, ids),
        };
        let handled = match &failed {
            Failed::Nothing => records,
            Failed::Everything => 0,
            // The lowest one; what is after it is tried again with it.
            Failed::Some(places) => places.first().copied().unwrap_or(records),
        };
        if handled > 0 {
            self.keep_state(&outcome.payload);
        }
        if handled < records {
            self.piece_failed(rules, handled, id, outcome, now_ms);
        }
        self.leave(handled);
    }

    /// Of the first piece the records up to `handled` are handled, and the others are not.
    fn piece_failed(&mut self, rules: &Rules, handled: usize, id: RequestId, outcome: Outcome, now_ms: u64) {
        let Some(piece) = self.pieces.front_mut() else { return };
        piece.calls += 1;
        piece.last = Some((id, outcome));
        let left = piece.records - handled;
        if rules.bisects && handled > 0 {
            // Cut at the record that failed.
            return;
        }
        if rules.bisects && left > 1 {
            let second = Piece { records: left - left / 2, ..piece.clone() };
            piece.records = left / 2;
            self.pieces.insert(1, second);
            return;
        }
        // What follows a record that was handled is another batch, which has failed once.
        piece.failures = if handled > 0 { 1 } else { piece.failures + 1 };
        let exhausted = rules.retries_max.is_some_and(|most| piece.failures > most);
        if !exhausted {
            self.not_before_ms = now_ms.saturating_add(wait_ms(piece.failures));
        }
    }

    fn window_called(&mut self, id: RequestId, outcome: Outcome, now_ms: u64) {
        if outcome.error.is_none() {
            (self.window, self.ending) = (None, Piece::default());
            return;
        }
        self.ending.calls += 1;
        self.ending.failures += 1;
        self.ending.last = Some((id, outcome));
        self.not_before_ms = now_ms.saturating_add(wait_ms(self.ending.failures));
    }

    /// Keeps the state that a call within a window has answered.
    fn keep_state(&mut self, answer: &[u8]) {
        #[derive(Deserialize)]
        struct Answer<'a> {
            #[serde(borrow)]
            state: Option<&'a RawValue>,
        }
        let Some(window) = &mut self.window else { return };
        let state = serde_json::from_slice(answer).ok().and_then(|answer: Answer<'_>| answer.state);
        match state.map_or("{}", RawValue::get) {
            state if state.len() > STATE_BYTES_MAX => window.ends_early = true,
            "null" => "{}".clone_into(&mut window.state),
            state => state.clone_into(&mut window.state),
        }
    }

    /// The record of what was given up is delivered, or there is nobody who takes it.
    pub(super) fn gave_up(&mut self) {
        match std::mem::take(&mut self.doing) {
            Doing::GivingUp(records) => self.leave(records),
            Doing::GivingUpWindow => (self.window, self.ending) = (None, Piece::default()),
            Doing::Nothing | Doing::Piece | Doing::EndOfWindow => {}
        }
        self.refusals = 0;
    }

    /// The record of what was given up could not be delivered for now.
    pub(super) fn could_not_give_up(&mut self, now_ms: u64) {
        self.doing = Doing::Nothing;
        self.refusals += 1;
        self.not_before_ms = now_ms.saturating_add(wait_ms(self.refusals));
    }

    /// The first records are done with.
    fn leave(&mut self, records: usize) {
        let gone = self.items.drain(..records.min(self.items.len()));
        self.bytes -= gone.map(|item| item.record.event.len()).sum::<usize>();
        if let Some(piece) = self.pieces.front_mut() {
            piece.records -= records.min(piece.records);
            if piece.records == 0 {
                self.pieces.pop_front();
            }
        }
    }
}

fn wait_ms(tries: u32) -> u64 {
    u64::try_from(wait_after(tries).as_millis()).unwrap_or(u64::MAX)
}

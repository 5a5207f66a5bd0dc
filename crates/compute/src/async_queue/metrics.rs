//! What became of events, for whoever operates the platform: counted by function since this process started, beside what
//! the queue holds now.
//!
//! Invariant: at most `FUNCTIONS_MAX` functions are counted; the one that was quiet for longest is forgotten first.

use std::collections::{BTreeMap, HashMap};

use model::FunctionRef;
use parking_lot::Mutex;
use store::{Error, Range};

use super::worker::parse;
use super::{AsyncQueue, keys};

const FUNCTIONS_MAX: usize = 10_000;
/// Events of the queue that are looked at, of those that wait and of those that run.
const ROWS_MAX: usize = 10_000;

/// Counts of one function, all its qualifiers together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventCounts {
    /// Events that were accepted: Lambda's `AsyncEventsReceived`.
    pub received: u64,
    /// Tries that began, retries among them.
    pub begun: u64,
    /// Milliseconds from acceptance to the beginning of a try, of all tries together: with `begun` the mean of Lambda's
    /// `AsyncEventAge`.
    pub age_sum_ms: u64,
    /// The longest of these.
    pub age_max_ms: u64,
    /// Events that ended without success, by the reason: Lambda's `AsyncEventsDropped`.
    pub dropped: BTreeMap<&'static str, u64>,
    /// Records and letters that their targets did not take: Lambda's `DestinationDeliveryFailures` and `DeadLetterErrors`.
    pub undelivered: u64,
}

/// The events of one function.
#[derive(Debug, Clone)]
pub struct FunctionEvents {
    /// Unqualified.
    pub function: FunctionRef,
    /// Since this process started, on this node.
    pub counts: EventCounts,
    /// That wait for a try, on all nodes.
    pub waiting: u64,
    /// That run, or whose record is delivered, on all nodes.
    pub running: u64,
    /// Milliseconds since the oldest of both was accepted.
    pub oldest_ms: Option<u64>,
}

/// The events of all functions.
#[derive(Debug, Clone)]
pub struct EventsInfo {
    /// By function.
    pub functions: Vec<FunctionEvents>,
    /// Whether more wait or run than were looked at.
    pub more: bool,
}

/// The counts of this process.
#[derive(Default)]
pub(super) struct Metrics(Mutex<HashMap<FunctionRef, (EventCounts, u64)>>);

impl Metrics {
    pub(super) fn received(&self, function: &FunctionRef, now_ms: u64) {
        self.count(function, now_ms, |counts| counts.received += 1);
    }

    /// A try begins, of an event that was accepted at `accepted_ms`.
    pub(super) fn begun(&self, function: &FunctionRef, now_ms: u64, accepted_ms: u64) {
        let age_ms = now_ms.saturating_sub(accepted_ms);
        self.count(function, now_ms, |counts| {
            counts.begun += 1;
            counts.age_sum_ms = counts.age_sum_ms.saturating_add(age_ms);
            counts.age_max_ms = counts.age_max_ms.max(age_ms);
        });
    }

    pub(super) fn dropped(&self, function: &FunctionRef, now_ms: u64, reason: &'static str) {
        self.count(function, now_ms, |counts| *counts.dropped.entry(reason).or_default() += 1);
    }

    pub(super) fn undelivered(&self, function: &FunctionRef, now_ms: u64) {
        self.count(function, now_ms, |counts| counts.undelivered += 1);
    }

    fn count(&self, function: &FunctionRef, now_ms: u64, change: impl FnOnce(&mut EventCounts)) {
        let function = function.unqualified();
        let mut all = self.0.lock();
        if all.len() >= FUNCTIONS_MAX && !all.contains_key(&function) {
            let quiet = all.iter().min_by_key(|(_, (_, at_ms))| *at_ms).map(|(function, _)| function.clone());
            all.retain(|function, _| Some(function) != quiet.as_ref());
        }
        let (counts, at_ms) = all.entry(function).or_default();
        *at_ms = now_ms;
        change(counts);
    }
}

impl AsyncQueue {
    /// What is known of the events of all functions.
    pub(crate) async fn events(&self, now_ms: u64) -> Result<EventsInfo, Error> {
        let mut found: BTreeMap<FunctionRef, FunctionEvents> = BTreeMap::new();
        let of = |function: FunctionRef, counts: EventCounts| FunctionEvents {
            function,
            counts,
            waiting: 0,
            running: 0,
            oldest_ms: None,
        };
        for (function, (counts, _)) in self.metrics.0.lock().iter() {
            found.insert(function.clone(), of(function.clone(), counts.clone()));
        }
        let mut more = false;
        for (all, waits) in [(keys::all_due(), true), (keys::all_held(), false)] {
            let page = self.store.range(&Range::prefix(all).rows(ROWS_MAX)).await?;
            more |= page.more;
            for (_, pending) in page.entries.iter().filter_map(parse) {
                let function = pending.function.unqualified();
                let events = found.entry(function.clone()).or_insert_with(|| of(function, EventCounts::default()));
                events.waiting += u64::from(waits);
                events.running += u64::from(!waits);
                events.oldest_ms = events.oldest_ms.max(Some(now_ms.saturating_sub(pending.accepted_ms)));
            }
        }
        Ok(EventsInfo { functions: found.into_values().collect(), more })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function(name: usize) -> FunctionRef {
        FunctionRef::parse_arn(&format!("arn:aws:lambda:us-east-1:000000000000:function:f{name}:live")).unwrap()
    }

    #[test]
    fn counts_are_of_all_qualifiers_together() {
        let metrics = Metrics::default();
        metrics.received(&function(1), 1_000);
        metrics.received(&function(1).unqualified(), 1_000);
        metrics.begun(&function(1), 1_500, 1_000);
        metrics.begun(&function(1), 61_500, 1_000);
        metrics.dropped(&function(1), 61_500, "RetriesExhausted");
        metrics.undelivered(&function(1), 61_600);
        let wanted = EventCounts {
            received: 2,
            begun: 2,
            age_sum_ms: 61_000,
            age_max_ms: 60_500,
            dropped: BTreeMap::from([("RetriesExhausted", 1)]),
            undelivered: 1,
        };
        assert_eq!(metrics.0.lock().get(&function(1).unqualified()).unwrap().0, wanted);
    }

    #[test]
    fn who_was_quiet_for_longest_is_forgotten_first() {
        let metrics = Metrics::default();
        for number in 0..FUNCTIONS_MAX {
            metrics.received(&function(number), number as u64);
        }
        metrics.received(&function(0), FUNCTIONS_MAX as u64);
        metrics.received(&function(FUNCTIONS_MAX), FUNCTIONS_MAX as u64);
        let all = metrics.0.lock();
        assert!(all.len() == FUNCTIONS_MAX && !all.contains_key(&function(1).unqualified()));
        assert_eq!(all[&function(0).unqualified()].0.received, 2);
    }
}

//! One shard of a stream: what is read of it, its lanes, and how far it is. Pure.
//!
//! Invariants
//!   1. Records of one key are in one lane, in order, and one call at a time has records of it.
//!   2. The checkpoint is before every record that is not handled; what lanes have handled beyond it is counted, so that a
//!      new start passes over it.

use std::collections::VecDeque;

use model::{Position, Taken};
use serde::{Deserialize, Serialize};

use super::batch::BATCH_BYTES_MAX;
use super::filter::Filter;
use super::lane::{Ended, Lane, Rules, Step, Window};

/// How far a shard is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Checkpoint {
    /// Where reading goes on.
    pub(super) position: Position,
    /// How many of the records after it each lane has handled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) ahead: Vec<u32>,
    /// The shard has ended and all of it is handled.
    #[serde(default)]
    pub(super) ended: bool,
}

impl Checkpoint {
    /// Nothing is handled.
    pub(super) fn at(position: Position) -> Self {
        Self { position, ahead: Vec::new(), ended: false }
    }
}

#[derive(Debug)]
pub(super) struct ShardRun {
    rules: Rules,
    filter: Option<Filter>,
    lanes: Vec<Lane>,
    /// Of every record that was read after the checkpoint, the place after it, and its lane.
    log: VecDeque<(String, usize)>,
    /// How many records were passed over before `log`.
    base: u64,
    position: Position,
    read_to: Position,
    ended: bool,
    /// Records of each lane that were handled before this run.
    ahead: Vec<u32>,
    /// Every record that arrived before has been read.
    caught_up_ms: u64,
}

/// The lane of a key. The same in every process and on every node.
fn lane_of(key: Option<&str>, lanes: usize) -> usize {
    let hash = key
        .unwrap_or_default()
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    // Fewer than there are lanes.
    ((hash ^ hash >> 32) % lanes as u64) as usize
}

impl ShardRun {
    /// Goes on at a checkpoint, with the windows that were open.
    pub(super) fn new(
        rules: Rules,
        filter: Option<Filter>,
        lanes: usize,
        from: &Checkpoint,
        windows: Vec<Option<Window>>,
    ) -> Self {
        let lanes = lanes.max(1);
        // With another number of lanes the keys are in others: what was ahead is handled again, and windows begin anew.
        let same = from.ahead.len() == lanes;
        let mut windows = if same { windows } else { Vec::new() };
        windows.resize(lanes, None);
        Self {
            rules,
            filter,
            lanes: windows.into_iter().map(Lane::new).collect(),
            log: VecDeque::new(),
            base: 0,
            position: from.position.clone(),
            read_to: from.position.clone(),
            ended: false,
            ahead: if same { from.ahead.clone() } else { vec![0; lanes] },
            caught_up_ms: 0,
        }
    }

    /// Where to read, and how many records; nothing if there is no more to read or enough waits.
    pub(super) fn wants(&mut self) -> Option<(Position, usize)> {
        self.pass_over();
        let bytes: usize = self.lanes.iter().map(Lane::bytes).sum();
        let most = self.rules.batch_records * (self.lanes.len() + 1);
        let room = most.saturating_sub(self.log.len());
        let open = !self.ended && room > 0 && bytes < BATCH_BYTES_MAX * (self.lanes.len() + 1);
        open.then(|| (self.read_to.clone(), room))
    }

    /// Takes what a read that began at `began_ms` has brought.
    pub(super) fn read(&mut self, taken: Taken, began_ms: u64, now_ms: u64) {
        if taken.records.is_empty() {
            self.caught_up_ms = self.caught_up_ms.max(began_ms);
        }
        for record in taken.records {
            let lane = lane_of(record.key.as_deref(), self.lanes.len());
            let ordinal = self.base + self.log.len() as u64;
            self.log.push_back((record.handle.clone(), lane));
            if self.ahead[lane] > 0 {
                self.ahead[lane] -= 1;
            } else if self.filter.as_ref().is_none_or(|filter| filter.passes(&record)) {
                self.lanes[lane].push(ordinal, record, now_ms);
            }
        }
        match taken.next {
            Some(next) => self.read_to = Position::After(next),
            None => (self.ended, self.caught_up_ms) = (true, u64::MAX),
        }
    }

    /// Passes over what is handled.
    fn pass_over(&mut self) {
        let first = self.lanes.iter().filter_map(Lane::first).min();
        let beyond = first.unwrap_or(self.base + self.log.len() as u64);
        while self.base < beyond
            && let Some((handle, _)) = self.log.pop_front()
        {
            self.position = Position::After(handle);
            self.base += 1;
        }
        if first.is_none() {
            self.position = self.read_to.clone();
        }
    }

    /// What was at the position is gone: it goes on at the oldest record.
    pub(super) fn trimmed(&mut self) {
        self.read_to = Position::TrimHorizon;
        self.ahead.fill(0);
    }

    /// What each lane wants done at `now_ms`, and when to ask again if nothing happens before.
    pub(super) fn steps(&mut self, now_ms: u64) -> (Vec<(usize, Step)>, Option<u64>) {
        let (mut steps, mut wake_ms) = (Vec::new(), None::<u64>);
        for (number, lane) in self.lanes.iter_mut().enumerate() {
            match lane.step(&self.rules, now_ms, self.caught_up_ms) {
                Step::Busy | Step::Wait(None) => {}
                // A window that is over by the clock waits for a read that began after that, not for time.
                Step::Wait(Some(at_ms)) if at_ms <= now_ms => {}
                Step::Wait(Some(at_ms)) => wake_ms = Some(wake_ms.map_or(at_ms, |wake_ms| wake_ms.min(at_ms))),
                step => steps.push((number, step)),
            }
        }
        (steps, wake_ms)
    }

    /// When the first open window ends for which not all has been read: a read must not outlast that.
    pub(super) fn window_ends_ms(&self) -> Option<u64> {
        let ends = self.lanes.iter().filter_map(Lane::window).map(|window| window.start_ms + self.rules.tumbling_ms);
        ends.filter(|ends_ms| *ends_ms > self.caught_up_ms).min()
    }

    /// The call of a lane has ended.
    pub(super) fn called(&mut self, lane: usize, ended: Ended, now_ms: u64) {
        self.lanes[lane].called(&self.rules, ended, now_ms);
    }

    /// A lane.
    pub(super) fn lane(&mut self, lane: usize) -> &mut Lane {
        &mut self.lanes[lane]
    }

    /// Whether the shard has ended and all of it is handled.
    pub(super) fn is_done(&self) -> bool {
        self.ended && self.lanes.iter().all(Lane::is_empty)
    }

    /// Whether nothing of what was read is left to do.
    pub(super) fn is_idle(&self) -> bool {
        self.lanes.iter().all(Lane::is_empty)
    }

    /// How far it is.
    pub(super) fn checkpoint(&mut self) -> Checkpoint {
        self.pass_over();
        let mut ahead = self.ahead.clone();
        if self.lanes.len() > 1 {
            for (place, (_, lane)) in self.log.iter().enumerate() {
                let ordinal = self.base + place as u64;
                if self.lanes[*lane].first().is_none_or(|first| ordinal < first) {
                    ahead[*lane] += 1;
                }
            }
        }
        Checkpoint { position: self.position.clone(), ahead, ended: self.is_done() }
    }

    /// The windows that are open, by lane.
    pub(super) fn windows(&self) -> Vec<Option<&Window>> {
        self.lanes.iter().map(Lane::window).collect()
    }
}

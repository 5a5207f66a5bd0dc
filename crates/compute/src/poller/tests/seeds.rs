//! A shard over many seeds: records come, calls end in every way, processes die and go on at a checkpoint that they had
//! written. What must hold is checked at every call and at the end.
//!
//! `DUNLIN_SEEDS=10000` runs that many; `DUNLIN_SEED=n` runs one.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use base::{Random, SeededRandom};
use bytes::Bytes;
use model::{FunctionError, Outcome, Position, RequestId, SourceRecord, Taken};
use serde_json::{Value, json};

use crate::poller::filter::Filter;
use crate::poller::lane::{Call, Ended, Rules, Step, Window};
use crate::poller::shard::{Checkpoint, ShardRun};

/// Seeds of a usual run.
const SEEDS: u64 = 400;

/// How often things happened.
#[derive(Debug, Default)]
struct Met {
    crashes: u64,
    calls: u64,
    failures: u64,
    given_up: u64,
    filtered: u64,
    windows: u64,
}

struct Sim {
    random: std::sync::Arc<dyn Random>,
    rules: Rules,
    lanes: usize,
    filters: Vec<String>,
    crashes: bool,
    now_ms: u64,
    stream: Vec<SourceRecord>,
    /// Records that never succeed.
    poison: BTreeSet<usize>,
    /// Records that are handled: by a call, by being given up, or as nobody wants them.
    handled: BTreeSet<usize>,
    tries: HashMap<usize, u32>,
    /// What was written, oldest first: a crash may lose the last ones.
    written: Vec<(Checkpoint, Vec<Option<Window>>)>,
    succeeded: u64,
    summed: u64,
    calm: bool,
    met: Met,
}

fn wanted(number: usize) -> bool {
    !number.is_multiple_of(5)
}

impl Sim {
    fn new(seed: u64) -> Self {
        let random = SeededRandom::new(seed);
        let below = |most: u64| random.next_u64() % most;
        let rules = Rules {
            batch_records: 1 + below(8) as usize,
            window_ms: [0, 0, 700][below(3) as usize],
            retries_max: [None, Some(0), Some(2)][below(3) as usize],
            age_max_ms: [None, None, Some(60_000)][below(3) as usize],
            bisects: below(2) == 0,
            tumbling_ms: [0, 0, 3_000][below(3) as usize],
            reports_failures: below(2) == 0,
        };
        let lanes = 1 + below(4) as usize;
        let filters = if below(3) == 0 { vec![json!({"wanted": [true]}).to_string()] } else { Vec::new() };
        let (crashes, endless) = (below(3) > 0, rules.retries_max.is_none());
        let poison = if endless { BTreeSet::new() } else { (0..60).filter(|_| below(12) == 0).collect() };
        Self {
            rules,
            lanes,
            filters,
            crashes,
            now_ms: 1_000_000,
            stream: Vec::new(),
            poison,
            handled: BTreeSet::new(),
            tries: HashMap::new(),
            written: vec![(Checkpoint::at(Position::TrimHorizon), Vec::new())],
            succeeded: 0,
            summed: 0,
            calm: false,
            met: Met::default(),
            random,
        }
    }

    fn below(&self, most: u64) -> usize {
        usize::try_from(self.random.next_u64() % most).unwrap()
    }

    fn chance(&self, percent: u64) -> bool {
        self.random.next_u64() % 100 < percent
    }

    fn append(&mut self) {
        let number = self.stream.len();
        let event = json!({"n": number, "wanted": wanted(number)}).to_string();
        self.stream.push(SourceRecord {
            id: format!("s{number}"),
            handle: number.to_string(),
            key: Some(format!("k{}", self.below(5))),
            arrived_ms: self.now_ms,
            trace: None,
            event: Bytes::from(event),
        });
        if !self.filters.is_empty() && !wanted(number) {
            self.handled.insert(number);
            self.met.filtered += 1;
        }
    }

    fn take(&self, from: &Position, records: usize, closed: bool) -> Taken {
        let begin = match from {
            Position::After(handle) => handle.parse::<usize>().map_or(0, |number| number + 1),
            _ => 0,
        };
        let rest = &self.stream[begin.min(self.stream.len())..];
        let records: Vec<_> = rest.iter().take(records.min(1 + self.below(7))).cloned().collect();
        let ended = closed && records.len() == rest.len();
        let next = records.last().map_or_else(
            || if begin == 0 { "none".to_owned() } else { (begin - 1).to_string() },
            |record| record.handle.clone(),
        );
        Taken { records, next: (!ended).then_some(next) }
    }

    fn number(record: &SourceRecord) -> usize {
        record.id[1..].parse().unwrap()
    }

    /// A call begins: it must not pass over anything.
    fn begin(&mut self, call: &Call, running: &BTreeMap<usize, Call>) {
        self.met.calls += 1;
        let busy: BTreeSet<_> =
            running.values().flat_map(|call| &call.records).filter_map(|record| record.key.clone()).collect();
        let mut before = BTreeSet::new();
        for record in &call.records {
            let number = Self::number(record);
            assert!(self.filters.is_empty() || wanted(number), "{number} is not wanted");
            let key = record.key.clone().unwrap();
            assert!(!busy.contains(&key), "two calls have records of {key}");
            let older = self.stream[..number].iter().filter(|other| other.key.as_ref() == Some(&key));
            for other in older.map(Self::number) {
                assert!(self.handled.contains(&other) || before.contains(&other), "{number} comes before {other}");
            }
            assert!(before.last().is_none_or(|last| *last < number), "{number} comes late");
            before.insert(number);
            *self.tries.entry(number).or_default() += 1;
        }
        assert!(call.records.len() <= self.rules.batch_records);
        assert_eq!(call.window.is_some(), self.rules.tumbling_ms > 0);
    }

    /// How a call ends.
    fn end(&mut self, call: &Call) -> Ended {
        let numbers: Vec<usize> = call.records.iter().map(Self::number).collect();
        let state = call.window.as_ref().map(|(window, _)| serde_json::from_str::<Value>(&window.state).unwrap());
        let sum = state.as_ref().map_or(0, |state| state["n"].as_u64().unwrap_or(0));
        if !self.calm && self.chance(10) {
            return Ended::Refused;
        }
        let poisoned = numbers.iter().position(|number| self.poison.contains(number));
        let first = poisoned.or_else(|| {
            (!self.calm && self.chance(15) && !numbers.is_empty()).then(|| self.below(numbers.len() as u64))
        });
        let (handled, answer, error) = match first {
            None => (numbers.len(), json!({"state": {"n": sum + numbers.len() as u64}}), false),
            Some(place) if self.rules.reports_failures && self.chance(70) => {
                let id = format!("s{}", numbers[place]);
                let failures = json!([{"itemIdentifier": id}]);
                (place, json!({"batchItemFailures": failures, "state": {"n": sum + place as u64}}), false)
            }
            Some(_) => (0, json!({"errorMessage": "x"}), true),
        };
        self.met.failures += u64::from(handled < numbers.len());
        self.handled.extend(&numbers[..handled]);
        self.succeeded += handled as u64;
        if let Some((_, true)) = call.window {
            self.summed += sum;
            self.met.windows += 1;
        }
        let error = error.then(|| FunctionError { kind: "Unhandled", error_type: "Error".into() });
        let payload = Bytes::from(answer.to_string());
        let outcome = Outcome { payload, error, content_type: None, executed_version: "1".into(), log_tail: None };
        Ended::Ran(RequestId("r".into()), outcome)
    }

    fn give_up(&mut self, given_up: &crate::poller::lane::GiveUp) {
        use crate::poller::record::Condition;
        self.met.given_up += 1;
        for record in &given_up.records {
            let number = Self::number(record);
            match given_up.condition {
                Condition::RetryAttemptsExhausted => {
                    let least = self.rules.retries_max.expect("there is an end of retries") + 1;
                    assert!(self.tries[&number] >= least, "{number} was tried {} times", self.tries[&number]);
                }
                Condition::RecordAgeExceeded => {
                    let age_ms = self.now_ms - record.arrived_ms;
                    assert!(age_ms > self.rules.age_max_ms.unwrap(), "{number} is {age_ms} ms old");
                }
            }
            self.handled.insert(number);
        }
    }

    /// One life of a process, until it dies or all is done.
    fn live(&mut self, closed: &mut bool) -> bool {
        let (from, windows) = self.written.last().cloned().unwrap();
        if from.ended {
            return true;
        }
        let filter = Filter::new(&self.filters, None);
        let mut run = ShardRun::new(self.rules.clone(), filter, self.lanes, &from, windows);
        let mut running: BTreeMap<usize, Call> = BTreeMap::new();
        for _ in 0..20_000 {
            if self.crashes && !self.calm && self.chance(2) {
                self.met.crashes += 1;
                // What was written last may be lost, never what was written before that was read again.
                let lost = self.below(3).min(self.written.len() - 1);
                self.written.truncate(self.written.len() - lost);
                return false;
            }
            match self.below(6) {
                0 if self.stream.len() < 60 => self.append(),
                0 => (*closed, self.calm) = (true, true),
                1 => self.now_ms += [1, 300, 2_000, 70_000][self.below(if self.calm { 4 } else { 3 })],
                2 => {
                    if let Some((position, records)) = run.wants() {
                        let taken = self.take(&position, records, *closed);
                        run.read(taken, self.now_ms, self.now_ms);
                    }
                }
                3 => {
                    let (steps, _) = run.steps(self.now_ms);
                    for (lane, step) in steps {
                        match step {
                            Step::Invoke(call) => {
                                self.begin(&call, &running);
                                running.insert(lane, call);
                            }
                            Step::GiveUp(_) if !self.calm && self.chance(20) => {
                                run.lane(lane).could_not_give_up(self.now_ms)
                            }
                            Step::GiveUp(given_up) => {
                                self.give_up(&given_up);
                                run.lane(lane).gave_up();
                            }
                            other => panic!("{other:?}"),
                        }
                    }
                }
                _ => {
                    let lanes: Vec<usize> = running.keys().copied().collect();
                    if !lanes.is_empty() {
                        let lane = lanes[self.below(lanes.len() as u64)];
                        let call = running.remove(&lane).unwrap();
                        let ended = self.end(&call);
                        run.called(lane, ended, self.now_ms);
                        let windows = run.windows().into_iter().map(|window| window.cloned()).collect();
                        self.written.push((run.checkpoint(), windows));
                    }
                }
            }
            if run.is_done() {
                let checkpoint = run.checkpoint();
                assert!(checkpoint.ended);
                return true;
            }
        }
        panic!("it does not end: {run:?}");
    }
}

fn run(seed: u64) -> Met {
    let mut sim = Sim::new(seed);
    let mut closed = false;
    while !sim.live(&mut closed) {}
    let all: BTreeSet<usize> = (0..sim.stream.len()).collect();
    assert_eq!(sim.handled, all, "some are not handled");
    if sim.met.crashes == 0 && sim.rules.tumbling_ms > 0 {
        assert_eq!(sim.summed, sim.succeeded, "windows have lost or doubled records");
    }
    sim.met
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap())
}

#[test]
fn shards_keep_the_order_of_keys_and_lose_nothing() {
    let seeds = number("DUNLIN_SEED").map_or(0..number("DUNLIN_SEEDS").unwrap_or(SEEDS), |seed| seed..seed + 1);
    let count = seeds.end - seeds.start;
    let mut sum = Met::default();
    for seed in seeds {
        let met = std::panic::catch_unwind(|| run(seed)).unwrap_or_else(|_| {
            panic!("replay it: DUNLIN_SEED={seed} cargo test -p compute --lib shards_keep -- --nocapture")
        });
        sum.crashes += met.crashes;
        sum.calls += met.calls;
        sum.failures += met.failures;
        sum.given_up += met.given_up;
        sum.filtered += met.filtered;
        sum.windows += met.windows;
    }
    println!("{count} seeds passed, no record lost and none out of order: {sum:?}");
    if count >= SEEDS {
        let kinds = [sum.crashes, sum.calls, sum.failures, sum.given_up, sum.filtered, sum.windows];
        assert!(kinds.iter().all(|count| *count > 0), "something never happens any more: {sum:?}");
    }
}

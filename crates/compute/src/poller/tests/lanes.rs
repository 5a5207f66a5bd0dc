//! One lane step by step: what follows after each kind of end.

use bytes::Bytes;
use model::{FunctionError, Outcome, RequestId, SourceRecord};

use crate::poller::lane::{Call, Ended, GiveUp, Lane, Rules, Step};
use crate::poller::record::Condition;

fn rules() -> Rules {
    Rules {
        batch_records: 4,
        window_ms: 0,
        retries_max: None,
        age_max_ms: None,
        bisects: false,
        tumbling_ms: 0,
        reports_failures: false,
    }
}

/// A lane with so many records, which arrive one each 100 ms.
fn lane(records: u64) -> Lane {
    let mut lane = Lane::new(None);
    (0..records).for_each(|number| push(&mut lane, number, number * 100));
    lane
}

fn push(lane: &mut Lane, number: u64, arrived_ms: u64) {
    let record = SourceRecord {
        id: number.to_string(),
        handle: number.to_string(),
        key: None,
        arrived_ms,
        trace: None,
        event: Bytes::from(number.to_string()),
    };
    lane.push(number, record, arrived_ms);
}

fn ran(answer: &str, fails: bool) -> Ended {
    let error = fails.then(|| FunctionError { kind: "Unhandled", error_type: "Error".into() });
    let payload = Bytes::copy_from_slice(answer.as_bytes());
    let outcome = Outcome { payload, error, content_type: None, executed_version: "$LATEST".into(), log_tail: None };
    Ended::Ran(RequestId("r".into()), outcome)
}

fn ids(records: &[SourceRecord]) -> Vec<u64> {
    records.iter().map(|record| record.id.parse().unwrap()).collect()
}

fn call(lane: &mut Lane, rules: &Rules, now_ms: u64) -> Call {
    match lane.step(rules, now_ms, now_ms) {
        Step::Invoke(call) => call,
        other => panic!("{other:?}"),
    }
}

fn give_up(lane: &mut Lane, rules: &Rules, now_ms: u64) -> GiveUp {
    match lane.step(rules, now_ms, now_ms) {
        Step::GiveUp(given_up) => given_up,
        other => panic!("{other:?}"),
    }
}

fn waits(lane: &mut Lane, rules: &Rules, now_ms: u64) -> Option<u64> {
    match lane.step(rules, now_ms, now_ms) {
        Step::Wait(until_ms) => until_ms,
        other => panic!("{other:?}"),
    }
}

#[test]
fn batches_go_one_after_the_other() {
    let (rules, mut lane) = (rules(), lane(6));
    assert_eq!(ids(&call(&mut lane, &rules, 1_000).records), [0, 1, 2, 3]);
    assert!(matches!(lane.step(&rules, 1_000, 0), Step::Busy));
    lane.called(&rules, ran("null", false), 1_100);
    assert_eq!(lane.first(), Some(4));
    assert_eq!(ids(&call(&mut lane, &rules, 1_100).records), [4, 5]);
    lane.called(&rules, ran("not even JSON", false), 1_200);
    assert!(lane.is_empty() && lane.bytes() == 0);
    assert_eq!(waits(&mut lane, &rules, 1_200), None);
}

#[test]
fn a_batch_waits_for_its_window_and_not_longer() {
    let (rules, mut lane) = (Rules { window_ms: 2_000, ..rules() }, lane(2));
    assert_eq!(waits(&mut lane, &rules, 150), Some(2_000));
    (2..4).for_each(|number| push(&mut lane, number, 500));
    assert_eq!(ids(&call(&mut lane, &rules, 500).records), [0, 1, 2, 3]);
}

#[test]
fn a_batch_that_failed_is_tried_again_and_given_up() {
    let (rules, mut lane) = (Rules { retries_max: Some(1), ..rules() }, lane(5));
    call(&mut lane, &rules, 1_000);
    lane.called(&rules, ran("{}", true), 1_000);
    push(&mut lane, 5, 1_000);
    assert_eq!(waits(&mut lane, &rules, 1_500), Some(2_000));
    assert_eq!(ids(&call(&mut lane, &rules, 2_000).records), [0, 1, 2, 3], "the same batch");
    lane.called(&rules, Ended::Refused, 2_000);
    call(&mut lane, &rules, 3_000);
    lane.called(&rules, ran("{}", true), 3_000);
    let given_up = give_up(&mut lane, &rules, 3_000);
    assert_eq!((ids(&given_up.records), given_up.calls), (vec![0, 1, 2, 3], 2), "what was refused does not count");
    assert_eq!((given_up.condition, given_up.last.is_some()), (Condition::RetryAttemptsExhausted, true));
    lane.could_not_give_up(3_000);
    assert_eq!(lane.first(), Some(0), "it stays until its record is delivered");
    assert_eq!(ids(&give_up(&mut lane, &rules, 4_000).records), [0, 1, 2, 3]);
    lane.gave_up();
    assert_eq!(ids(&call(&mut lane, &rules, 4_000).records), [4, 5]);
}

#[test]
fn halves_find_the_record_that_fails() {
    let (rules, mut lane) = (Rules { bisects: true, retries_max: Some(0), ..rules() }, lane(4));
    let mut tried = Vec::new();
    let given_up = loop {
        match lane.step(&rules, 1_000, 1_000) {
            Step::Invoke(call) => {
                let ids = ids(&call.records);
                lane.called(&rules, ran("{}", ids.contains(&2)), 1_000);
                tried.push(ids);
            }
            Step::GiveUp(given_up) => break given_up,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(tried, [vec![0, 1, 2, 3], vec![0, 1], vec![2, 3], vec![2]]);
    assert_eq!((ids(&given_up.records), given_up.calls), (vec![2], 3));
    lane.gave_up();
    assert_eq!(ids(&call(&mut lane, &rules, 1_000).records), [3]);
}

#[test]
fn what_is_before_the_first_named_failure_is_handled() {
    let failures = |ids: &[u64]| {
        let items: Vec<String> = ids.iter().map(|id| format!("{{\"itemIdentifier\": \"{id}\"}}")).collect();
        ran(&format!("{{\"batchItemFailures\": [{}]}}", items.join(",")), false)
    };
    for bisects in [false, true] {
        let (rules, mut lane) = (Rules { reports_failures: true, bisects, ..rules() }, lane(4));
        call(&mut lane, &rules, 1_000);
        lane.called(&rules, failures(&[3, 2]), 1_000);
        assert_eq!(lane.first(), Some(2));
        let now_ms = if bisects { 1_000 } else { 2_000 };
        assert_eq!(ids(&call(&mut lane, &rules, now_ms).records), [2, 3]);
        lane.called(&rules, failures(&[2]), now_ms);
        let expected = if bisects { vec![2] } else { vec![2, 3] };
        assert_eq!(ids(&call(&mut lane, &rules, 9_000).records), expected);
        lane.called(&rules, ran("{\"batchItemFailures\": []}", false), 9_000);
        assert_eq!(lane.first(), bisects.then_some(3));
    }
    let mut deaf = lane(2);
    call(&mut deaf, &rules(), 1_000);
    deaf.called(&rules(), failures(&[0]), 1_000);
    assert!(deaf.is_empty(), "it counts only where the mapping says so");
}

#[test]
fn what_is_too_old_is_given_up_before_it_is_tried() {
    let (rules, mut lane) = (Rules { age_max_ms: Some(60_000), ..rules() }, lane(3));
    let given_up = give_up(&mut lane, &rules, 60_150);
    assert_eq!((ids(&given_up.records), given_up.calls), (vec![0, 1], 0));
    assert_eq!((given_up.condition, given_up.last.is_none()), (Condition::RecordAgeExceeded, true));
    lane.gave_up();
    assert_eq!(ids(&call(&mut lane, &rules, 60_150).records), [2]);
    lane.called(&rules, ran("{}", true), 60_150);
    let given_up = give_up(&mut lane, &rules, 61_150);
    assert_eq!((ids(&given_up.records), given_up.calls, given_up.last.is_some()), (vec![2], 1, true));
}

#[test]
fn windows_carry_a_state_to_their_last_call() {
    let rules = Rules { tumbling_ms: 1_000, ..rules() };
    let mut lane = Lane::new(None);
    for (number, arrived_ms) in [(0, 10_100), (1, 10_900), (2, 11_000), (3, 13_500)] {
        push(&mut lane, number, arrived_ms);
    }
    let seen = |call: &Call| {
        let (window, is_last) = call.window.clone().unwrap();
        (ids(&call.records), window.start_ms, window.state, is_last)
    };
    assert_eq!(seen(&call(&mut lane, &rules, 14_000)), (vec![0, 1], 10_000, "{}".into(), false));
    lane.called(&rules, ran("{\"state\": {\"n\": 2}}", false), 14_000);
    assert_eq!(seen(&call(&mut lane, &rules, 14_000)), (vec![], 10_000, "{\"n\": 2}".into(), true));
    lane.called(&rules, ran("{}", true), 14_000);
    assert_eq!(waits(&mut lane, &rules, 14_000), Some(15_000));
    assert!(seen(&call(&mut lane, &rules, 15_000)).3);
    lane.called(&rules, ran("{}", false), 15_000);
    assert_eq!(seen(&call(&mut lane, &rules, 15_000)), (vec![2], 11_000, "{}".into(), false));
    lane.called(&rules, ran("null", false), 15_000);
    assert_eq!(seen(&call(&mut lane, &rules, 15_000)), (vec![], 11_000, "{}".into(), true));
    lane.called(&rules, ran("null", false), 15_000);
    assert_eq!(seen(&call(&mut lane, &rules, 15_000)), (vec![3], 13_000, "{}".into(), false));
    lane.called(&rules, ran("{\"state\": [1]}", false), 15_000);
    assert!(matches!(lane.step(&rules, 15_000, 13_999), Step::Wait(Some(14_000))), "it may not have read all");
    let large = format!("{{\"state\": \"{}\"}}", "x".repeat(1024 * 1024));
    push(&mut lane, 4, 13_900);
    assert_eq!(seen(&call(&mut lane, &rules, 15_000)), (vec![4], 13_000, "[1]".into(), false));
    lane.called(&rules, ran(&large, false), 15_000);
    let ended = call(&mut lane, &rules, 15_000).window.unwrap();
    assert_eq!((ended.0.state.as_str(), ended.0.ends_early, ended.1), ("[1]", true, true));
    lane.called(&rules, ran("null", false), 15_000);
    assert!(lane.is_empty());
}

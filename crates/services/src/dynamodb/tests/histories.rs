//! Concurrent histories: one order explains all that clients on several nodes saw, and it is that of the table's stream.
//!
//! Each write brings a mark that no other brings, so that the stream tells where in the order it is. Whatever a client was
//! told must be so at one place of that order: a write's at its own place, a read's or a refusal's at some place; and what had
//! ended before something else began comes before it. Of a transaction that includes what it only checked.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use base::Random;
use parking_lot::Mutex;

use super::engines::{Engine, asked_for, over_each_engine};
use super::*;

const KEYS: usize = 3;
const CLIENTS: usize = 6;

over_each_engine!(one_order_explains_what_everybody_saw);

/// The marks of the items that are there.
type State = BTreeMap<usize, String>;

/// How a write is found in the stream.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Change {
    Marked(String),
    /// The item, and the mark that it had.
    Removed(usize, String),
}

#[derive(Debug)]
struct Event {
    from: usize,
    until: usize,
    change: Option<Change>,
    /// Items that had this mark or none, or else had not.
    sees: Vec<(usize, bool, Option<String>)>,
}

impl Event {
    fn holds(&self, state: &State) -> bool {
        self.sees.iter().all(|(key, is, mark)| (state.get(key) == mark.as_ref()) == *is)
    }
}

fn key(key: usize) -> Json {
    json!({ "id": { "S": key.to_string() } })
}

fn marked(key: usize, mark: &str) -> Json {
    json!({ "id": { "S": key.to_string() }, "mark": { "S": mark } })
}

fn mark_of(item: &Json) -> Option<String> {
    item["mark"]["S"].as_str().map(Into::into)
}

/// Adds the condition that an item has a mark, or that there is none.
fn only_if(mut write: Json, mark: Option<&String>) -> Json {
    match mark {
        Some(mark) => {
            write["ConditionExpression"] = json!("mark = :expected");
            write["ExpressionAttributeValues"][":expected"] = json!({ "S": mark });
        }
        None => write["ConditionExpression"] = json!("attribute_not_exists(mark)"),
    }
    write
}

/// One that does one thing after another.
struct Client {
    bench: Bench,
    random: Arc<SeededRandom>,
    /// What it believes is there.
    known: State,
    time: Arc<AtomicUsize>,
    name: usize,
}

/// What a client was told.
type Told = (Option<Change>, Vec<(usize, bool, Option<String>)>);

impl Client {
    fn below(&self, bound: usize) -> usize {
        usize::try_from(self.random.next_u64() % bound as u64).unwrap()
    }

    fn knows(&mut self, key: usize, mark: Option<String>) {
        match mark {
            Some(mark) => drop(self.known.insert(key, mark)),
            None => drop(self.known.remove(&key)),
        }
    }

    async fn step(&mut self, round: usize) -> Event {
        let mark = format!("{}-{round}", self.name);
        let at = self.below(KEYS);
        let from = self.time.fetch_add(1, Ordering::SeqCst);
        let (change, sees) = match self.below(7) {
            0 => self.put(at, mark).await,
            1 | 2 => self.update(at, mark).await,
            3 => self.delete(at).await,
            4 => self.read(&[at]).await,
            5 => self.read(&[0, 1, 2]).await,
            _ => self.transact(at, mark).await,
        };
        Event { from, until: self.time.fetch_add(1, Ordering::SeqCst), change, sees }
    }

    async fn put(&mut self, at: usize, mark: String) -> Told {
        let input = json!({ "TableName": "items", "Item": marked(at, &mark), "ReturnValues": "ALL_OLD" });
        let old = mark_of(&self.bench.ok("PutItem", input).await["Attributes"]);
        self.knows(at, Some(mark.clone()));
        (Some(Change::Marked(mark)), vec![(at, true, old)])
    }

    /// Only if the item is as it was last known to be.
    async fn update(&mut self, at: usize, mark: String) -> Told {
        let update = json!({
            "TableName": "items", "Key": key(at), "UpdateExpression": "SET mark = :mark",
            "ExpressionAttributeValues": { ":mark": { "S": mark } }, "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
        });
        let expected = self.known.get(&at).cloned();
        match self.bench.call("UpdateItem", only_if(update, expected.as_ref())).await {
            Ok(_) => {
                self.knows(at, Some(mark.clone()));
                (Some(Change::Marked(mark)), vec![(at, true, expected)])
            }
            Err(error) => {
                assert_eq!(error.code, "ConditionalCheckFailedException");
                let found = error.fields.get("Item").and_then(mark_of);
                self.knows(at, found.clone());
                (None, vec![(at, false, expected), (at, true, found)])
            }
        }
    }

    async fn delete(&mut self, at: usize) -> Told {
        let input = json!({ "TableName": "items", "Key": key(at), "ReturnValues": "ALL_OLD" });
        let old = mark_of(&self.bench.ok("DeleteItem", input).await["Attributes"]);
        self.knows(at, None);
        (old.clone().map(|old| Change::Removed(at, old)), vec![(at, true, old)])
    }

    async fn read(&mut self, keys: &[usize]) -> Told {
        let found: Vec<Json> = if let [at] = keys {
            vec![self.bench.get("items", key(*at)).await]
        } else {
            let gets = keys.iter().map(|at| json!({ "Get": { "TableName": "items", "Key": key(*at) } }));
            let input = json!({ "TransactItems": gets.collect::<Vec<_>>() });
            let answer = self.bench.ok("TransactGetItems", input).await;
            answer["Responses"].as_array().unwrap().iter().map(|one| one["Item"].clone()).collect()
        };
        let sees: Vec<_> = keys.iter().zip(&found).map(|(at, item)| (*at, true, mark_of(item))).collect();
        sees.iter().for_each(|(at, _, mark)| self.knows(*at, mark.clone()));
        (None, sees)
    }

    /// Marks two items, if all three are as they were last known to be.
    async fn transact(&mut self, at: usize, mark: String) -> Told {
        let (one, two, checked) = (at, (at + 1) % KEYS, (at + 2) % KEYS);
        let expected = |at: usize| self.known.get(&at);
        let put = |at: usize| only_if(json!({ "TableName": "items", "Item": marked(at, &mark) }), expected(at));
        let check = only_if(json!({ "TableName": "items", "Key": key(checked) }), expected(checked));
        let parts = json!([{ "Put": put(one) }, { "ConditionCheck": check }, { "Put": put(two) }]);
        let places = [one, checked, two];
        let known: Vec<_> = places.iter().map(|at| (*at, true, expected(*at).cloned())).collect();
        match self.bench.call("TransactWriteItems", json!({ "TransactItems": parts })).await {
            Ok(_) => {
                self.knows(one, Some(mark.clone()));
                self.knows(two, Some(mark.clone()));
                (Some(Change::Marked(mark)), known)
            }
            Err(error) => {
                assert_eq!(error.code, "TransactionCanceledException");
                let reasons = error.fields["CancellationReasons"].as_array().unwrap();
                let held = reasons.iter().map(|reason| match reason["Code"].as_str().unwrap() {
                    "None" => true,
                    code => code != "ConditionalCheckFailed",
                });
                (None, known.into_iter().zip(held).map(|((at, _, mark), held)| (at, held, mark)).collect())
            }
        }
    }
}

/// What the stream tells: every state that the table was in, and which write led to the next one.
async fn order(bench: &Bench, arn: &Json) -> (Vec<State>, BTreeMap<Change, usize>) {
    let stream = bench.ok("DescribeStream", json!({ "StreamArn": arn })).await;
    let shard = &stream["StreamDescription"]["Shards"][0]["ShardId"];
    let start = json!({ "StreamArn": arn, "ShardId": shard, "ShardIteratorType": "TRIM_HORIZON" });
    let iterator = bench.ok("GetShardIterator", start).await["ShardIterator"].clone();
    let records = bench.ok("GetRecords", json!({ "ShardIterator": iterator })).await["Records"].clone();
    let (mut states, mut places) = (vec![State::new()], BTreeMap::new());
    let mut last = None;
    for record in records.as_array().unwrap() {
        let change = &record["dynamodb"];
        let at: usize = change["Keys"]["id"]["S"].as_str().unwrap().parse().unwrap();
        let mut state = states.last().unwrap().clone();
        assert_eq!(state.get(&at).cloned(), mark_of(&change["OldImage"]), "{record}");
        let what = match mark_of(&change["NewImage"]) {
            Some(mark) => {
                state.insert(at, mark.clone());
                Change::Marked(mark)
            }
            None => Change::Removed(at, state.remove(&at).unwrap()),
        };
        if last.as_ref() == Some(&what) {
            // Another part of the same transaction.
            *states.last_mut().unwrap() = state;
            continue;
        }
        assert_eq!(places.insert(what.clone(), states.len() - 1), None, "{what:?} happened twice");
        last = Some(what);
        states.push(state);
    }
    (states, places)
}

/// Whether there is a place for everything. Reads take the earliest that they can, which leaves the most to those after them.
fn explain(mut events: Vec<Event>, states: &[State], places: &BTreeMap<Change, usize>) {
    events.sort_by_key(|event| event.until);
    let place = |event: &Event| event.change.as_ref().map(|change| places[change]);
    let written: Vec<_> = events.iter().filter_map(|event| Some((event, place(event)?))).collect();
    assert_eq!(written.len(), places.len(), "all that happened was told as done");
    // Whatever ended before, with the first state that may be seen after it.
    let mut ended: Vec<(usize, usize)> = Vec::new();
    for event in &events {
        let before = ended.iter().filter(|(until, _)| *until < event.from).map(|(_, state)| *state);
        let first = before.max().unwrap_or(0);
        let after = written.iter().filter(|(other, _)| other.from > event.until).map(|(_, place)| *place);
        let last = after.min().unwrap_or(states.len() - 1);
        match place(event) {
            Some(place) => {
                assert!(first <= place && event.holds(&states[place]), "{event:?} at {place}, {:?}", states[place]);
                ended.push((event.until, place + 1));
            }
            None => {
                let found = (first..=last).find(|state| event.holds(&states[*state]));
                let found = found.unwrap_or_else(|| panic!("{event:?} is so nowhere in {:?}", &states[first..=last]));
                ended.push((event.until, found));
            }
        }
    }
}

/// One history, or for every hundred of `DUNLIN_CASES` one.
async fn one_order_explains_what_everybody_saw(engine: Engine) {
    for seed in 0..u64::from(asked_for().map_or(1, |cases| cases.div_ceil(100))) {
        one_history(engine, seed).await;
    }
}

async fn one_history(engine: Engine, seed: u64) {
    let opened = engine.open().await;
    let mut table = create_input("items", &[("id", "S")]);
    table["StreamSpecification"] = json!({ "StreamEnabled": true, "StreamViewType": "NEW_AND_OLD_IMAGES" });
    let arn = opened.nodes[0].ok("CreateTable", table).await["TableDescription"]["LatestStreamArn"].clone();
    let (time, events) = (shared(AtomicUsize::new(0)), shared(Mutex::new(Vec::new())));
    let rounds = if engine.is_quick() { 60 } else { 20 };
    let (both, clock, seen) = (opened.nodes.clone(), Arc::clone(&time), Arc::clone(&events));
    at_once(CLIENTS, move |name| {
        let (bench, time, seen) = (both[name % 2].clone(), Arc::clone(&clock), Arc::clone(&seen));
        async move {
            let random = SeededRandom::new(seed * CLIENTS as u64 + name as u64);
            let mut client = Client { bench, random, known: State::new(), time, name };
            for round in 0..rounds {
                let event = client.step(round).await;
                seen.lock().push(event);
            }
        }
    })
    .await;
    let (states, places) = order(&opened.nodes[1], &arn).await;
    explain(std::mem::take(&mut *events.lock()), &states, &places);
}

/// A history of item 0, and of item 1 in one transaction with it.
fn of_two_writes(second: &str) -> (Vec<State>, BTreeMap<Change, usize>) {
    let state = |marks: &[(usize, &str)]| marks.iter().map(|(at, mark)| (*at, (*mark).to_owned())).collect();
    let states = vec![State::new(), state(&[(0, "a"), (1, "a")]), state(&[(0, second), (1, "a")])];
    (states, BTreeMap::from([(Change::Marked("a".into()), 0), (Change::Marked(second.into()), 1)]))
}

fn event(time: (usize, usize), change: Option<&str>, sees: &[(usize, Option<&str>)]) -> Event {
    let sees = sees.iter().map(|(at, mark)| (*at, true, mark.map(Into::into))).collect();
    Event { from: time.0, until: time.1, change: change.map(|mark| Change::Marked(mark.into())), sees }
}

#[test]
fn a_history_is_explained_where_it_can_be() {
    let (states, places) = of_two_writes("b");
    let wrote = |time, mark, old| event(time, Some(mark), &[(0, old)]);
    // Both are on their way while another looks.
    let reads = event((2, 5), None, &[(0, Some("a")), (1, Some("a"))]);
    explain(vec![wrote((0, 6), "a", None), wrote((1, 7), "b", Some("a")), reads], &states, &places);
}

#[test]
#[should_panic(expected = "Marked(\"b\")")]
fn a_lost_update_has_no_place() {
    let (states, places) = of_two_writes("b");
    let wrote = |mark| event((0, 1), Some(mark), &[(0, None)]);
    explain(vec![wrote("a"), wrote("b")], &states, &places);
}

#[test]
#[should_panic(expected = "is so nowhere")]
fn half_a_transaction_has_no_place() {
    let (states, places) = of_two_writes("b");
    let half = event((0, 9), None, &[(0, Some("a")), (1, None)]);
    explain(vec![event((0, 8), Some("a"), &[]), event((0, 8), Some("b"), &[]), half], &states, &places);
}

#[test]
#[should_panic(expected = "is so nowhere")]
fn a_read_of_what_was_before_has_no_place() {
    let (states, places) = of_two_writes("b");
    let late = event((4, 5), None, &[(0, Some("a"))]);
    explain(vec![event((0, 1), Some("a"), &[]), event((2, 3), Some("b"), &[]), late], &states, &places);
}

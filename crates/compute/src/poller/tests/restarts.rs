//! Whole engines over many seeds: records come while functions fail and the engine dies again and again over one store.
//!
//! What must hold is told by the function itself: what it has handled, and what it is given.
//! `DUNLIN_SEEDS=10000` runs that many; `DUNLIN_SEED=n` runs one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use base::{Random, SeededRandom};
use serde_json::json;
use tokio::time::sleep;

use super::*;

/// Seeds of a usual run.
const SEEDS: u64 = 15;
const RECORDS: usize = 40;
pub(super) const KEYS: usize = 4;

/// What a function has been given and has handled, by record.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) handled: BTreeSet<usize>,
    pub(super) given: BTreeMap<usize, u32>,
    pub(super) wrong: Option<String>,
}

impl Seen {
    /// Takes note of an event, of which all before the place `failed` is handled.
    pub(super) fn event(&mut self, numbers: &[usize], failed: Option<usize>, ordered: bool) {
        let mut before = BTreeSet::new();
        for number in numbers {
            let older = (0..*number).filter(|older| older % KEYS == number % KEYS);
            for older in older.filter(|older| ordered && !self.handled.contains(older) && !before.contains(older)) {
                self.wrong.get_or_insert(format!("{number} is given before {older} is handled"));
            }
            before.insert(*number);
            *self.given.entry(*number).or_default() += 1;
        }
        self.handled.extend(&numbers[..failed.unwrap_or(numbers.len())]);
    }
}

/// A function that fails now and then, and names what has failed; what it has seen.
fn unreliable(world: &World, random: Arc<dyn Random>, pointer: &'static str, ordered: bool) -> Arc<Mutex<Seen>> {
    let seen = Arc::new(Mutex::new(Seen::default()));
    let (noted, calm) = (seen.clone(), RECORDS * 6);
    deploy(world, "f", 30, move |event| {
        let records = event["Records"].as_array().unwrap();
        let texts = records.iter().map(|record| record.pointer(pointer).and_then(Value::as_str).unwrap());
        let numbers: Vec<usize> = texts.map(|text| text.parse().unwrap()).collect();
        let mut seen = noted.lock();
        let is_calm = seen.given.values().sum::<u32>() as usize > calm;
        match random.next_u64() % 10 {
            0 if !is_calm => {
                seen.event(&numbers, Some(0), ordered);
                None
            }
            1 if !is_calm => {
                let place = random.next_u64() as usize % numbers.len();
                seen.event(&numbers, Some(place), ordered);
                // As functions of FIFO queues are to do: what follows a failure has failed too.
                let failed = records[place..].iter().map(|record| match record.get("messageId") {
                    Some(id) => id.clone(),
                    None => record["kinesis"]["sequenceNumber"].clone(),
                });
                let failures: Vec<Value> = failed.map(|id| json!({"itemIdentifier": id})).collect();
                Some(json!({"batchItemFailures": failures}).to_string())
            }
            _ => {
                seen.event(&numbers, None, ordered);
                Some("null".into())
            }
        }
    });
    seen
}

async fn live_through(
    world: &mut World,
    random: &dyn Random,
    seen: &Mutex<Seen>,
    mut send: impl FnMut(&World, usize),
) -> u32 {
    let mut deaths = 0;
    for number in 0..RECORDS {
        send(world, number);
        if random.next_u64().is_multiple_of(3) {
            sleep(Duration::from_millis(random.next_u64() % 200)).await;
        }
        if random.next_u64().is_multiple_of(8) {
            world.restart();
            deaths += 1;
        }
    }
    world.until("all are handled", |_| seen.lock().handled.len() == RECORDS).await;
    deaths
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap())
}

/// Runs `live` with each seed in a runtime of its own, whose time moves only when nothing else can.
fn over_seeds<F: Future<Output = (u32, usize)>>(test: &str, live: impl Fn(u64) -> F) {
    let seeds = number("DUNLIN_SEED").map_or(0..number("DUNLIN_SEEDS").unwrap_or(SEEDS), |seed| seed..seed + 1);
    let count = seeds.end - seeds.start;
    let (mut deaths, mut again) = (0, 0);
    for seed in seeds {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        let live = std::panic::AssertUnwindSafe(|| runtime.block_on(live(seed)));
        let (died, repeated) = std::panic::catch_unwind(live).unwrap_or_else(|_| {
            panic!("replay it: DUNLIN_SEED={seed} cargo test -p compute --lib {test} -- --nocapture")
        });
        deaths += died;
        again += repeated;
    }
    println!(
        "{count} seeds passed, {deaths} deaths, {again} records given again, no record lost and none out of order"
    );
    assert!(count < SEEDS || deaths > 0 && again > 0);
}

fn end(seen: &Mutex<Seen>) -> usize {
    let seen = seen.lock();
    assert_eq!(seen.wrong, None);
    assert_eq!(seen.handled.len(), RECORDS);
    seen.given.values().filter(|given| **given > 1).count()
}

#[test]
fn streams_survive_deaths() {
    over_seeds("streams_survive", |seed| async move {
        let (random, mut world) = (SeededRandom::new(seed), World::new());
        let seen = unreliable(&world, random.clone(), "/kinesis/data", true);
        ["s-0", "s-1"].iter().for_each(|shard| world.stream.open(shard, &[]));
        let below = |most: u64| random.next_u64() % most;
        let mapping = Mapping {
            batch_records: 1 + below(6) as usize,
            lanes: 1 + below(3) as u32,
            window_ms: [0, 300][below(2) as usize],
            bisects: below(2) == 0,
            reports_failures: true,
            ..mapping(STREAM, "f")
        };
        map(&world, mapping);
        let send = |world: &World, number: usize| {
            let key = number % KEYS;
            world.stream.append(&format!("s-{}", key % 2), &format!("k{key}"), &number.to_string());
        };
        let deaths = live_through(&mut world, &*random, &seen, send).await;
        (deaths, end(&seen))
    });
}

#[test]
fn queues_survive_deaths() {
    over_seeds("queues_survive", |seed| async move {
        let (random, mut world) = (SeededRandom::new(seed), World::new());
        let fifo = seed.is_multiple_of(2);
        let seen = unreliable(&world, random.clone(), "/body", fifo);
        let source = if fifo { format!("{QUEUE}.fifo") } else { QUEUE.to_owned() };
        let batch_records = 1 + (random.next_u64() % 6) as usize;
        map(&world, Mapping { batch_records, reports_failures: true, ..mapping(&source, "f") });
        let send = |world: &World, number: usize| {
            let group = format!("g{}", number % KEYS);
            world.queue.send(&format!("m{number}"), &number.to_string(), fifo.then_some(group.as_str()));
        };
        let deaths = live_through(&mut world, &*random, &seen, send).await;
        world.until("all are acknowledged", |world| world.queue.len() == 0).await;
        (deaths, end(&seen))
    });
}

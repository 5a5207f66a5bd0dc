//! Mappings of a stream: shards and checkpoints, order, destinations of what is given up, windows, nodes.

use std::collections::BTreeMap;
use std::time::Duration;

use model::SourceError;
use serde_json::json;
use store::Range;
use tokio::time::sleep;

use super::*;
use crate::tests::guests::Guests;

const DESTINATION: &str = "arn:aws:sqs:us-east-1:000000000000:failed";

fn datas(events: &Events) -> Vec<Vec<String>> {
    texts(events, "/kinesis/data")
}

fn all(events: &Events) -> Vec<String> {
    datas(events).concat()
}

async fn until_seen(world: &World, events: &Events, count: usize) {
    world.until("all are seen", |_| all(events).len() >= count).await;
}

#[tokio::test(start_paused = true)]
async fn records_come_in_order_and_once() {
    let world = World::new();
    let events = deploy(&world, "f", 20, |_| Some("null".into()));
    world.stream.open("s-1", &[]);
    (0..25).for_each(|number| world.stream.append("s-1", "k", &number.to_string()));
    let mapping = mapping(STREAM, "f");
    map(&world, mapping.clone());
    until_seen(&world, &events, 25).await;
    assert!(is_settled(&world, &mapping));
    world.stream.append("s-1", "k", "25");
    until_seen(&world, &events, 26).await;
    assert_eq!(all(&events), (0..26).map(|number| number.to_string()).collect::<Vec<_>>());
    assert!(datas(&events).iter().all(|batch| batch.len() <= 10));
    let reads = *world.stream.reads.lock();
    sleep(Duration::from_secs(3_600)).await;
    assert!(*world.stream.reads.lock() - reads <= 62, "an idle shard is asked once a minute");
}

#[tokio::test(start_paused = true)]
async fn reading_goes_on_where_another_process_had_stopped() {
    let mut world = World::new();
    let events = deploy(&world, "f", 20, |_| Some("null".into()));
    world.stream.open("s-1", &[]);
    for number in 0..10 {
        world.stream.append("s-1", "k", &number.to_string());
    }
    map(&world, Mapping { start: Position::Latest, batch_records: 1, ..mapping(STREAM, "f") });
    world.until("the end is known", |world| !world.catalog.told.lock().is_empty()).await;
    // What comes while nobody reads is not passed over.
    world.engine.drain(Duration::ZERO).await;
    (10..20).for_each(|number| world.stream.append("s-1", "k", &number.to_string()));
    world.restart();
    until_seen(&world, &events, 5).await;
    world.restart();
    until_seen(&world, &events, 10).await;
    sleep(Duration::from_secs(5)).await;
    let mut seen: Vec<usize> = all(&events).iter().map(|text| text.parse().unwrap()).collect();
    seen.dedup();
    let again = seen.iter().collect::<std::collections::BTreeSet<_>>();
    assert!(again.iter().copied().eq(&(10..20).collect::<Vec<_>>()), "{seen:?}");
    assert!(seen.len() <= 12, "what ran when the process died comes again, and no more: {seen:?}");
}

#[tokio::test(start_paused = true)]
async fn children_are_read_after_their_parents() {
    let world = World::new();
    let events = deploy(&world, "f", 10, |_| Some("null".into()));
    world.stream.open("s-1", &[]);
    world.stream.open("s-2", &["s-1"]);
    world.stream.open("s-3", &["s-1", "s-0"]);
    ["s-3", "s-2", "s-1"].iter().for_each(|shard| world.stream.append(shard, "k", shard));
    map(&world, mapping(STREAM, "f"));
    until_seen(&world, &events, 1).await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!(all(&events), ["s-1"]);
    world.stream.append("s-1", "k", "s-1 again");
    world.stream.close("s-1");
    until_seen(&world, &events, 4).await;
    let seen = all(&events);
    assert_eq!((seen[..2].to_vec(), seen.len()), (vec!["s-1".to_owned(), "s-1 again".to_owned()], 4));
    // A shard that comes later is read from its beginning, wherever the mapping began.
    world.stream.open("s-4", &["s-2"]);
    world.stream.append("s-4", "k", "s-4");
    world.stream.close("s-2");
    until_seen(&world, &events, 5).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_given_up_goes_to_its_destination_first() {
    let world = World::new();
    let events = deploy(&world, "f", 10, |event| {
        let poisoned = event["Records"].as_array().unwrap().iter().any(|record| record["kinesis"]["data"] == "3");
        (!poisoned).then(|| "null".into())
    });
    world.stream.open("s-1", &[]);
    (0..6).for_each(|number| world.stream.append("s-1", "k", &number.to_string()));
    world.queues.answers.lock().push(model::DeliveryError::Later("full".into()));
    let on_failure = Some(DESTINATION.to_owned());
    map(&world, Mapping { bisects: true, retries_max: Some(1), on_failure, ..mapping(STREAM, "f") });
    world.until("the record is delivered", |world| world.queues.taken.lock().len() == 1).await;
    until_seen(&world, &events, 1).await;
    world
        .until("all others are handled", |_| {
            datas(&events).iter().any(|batch| batch.contains(&"5".into()) && !batch.contains(&"3".into()))
        })
        .await;
    let delivery = world.queues.taken.lock()[0].clone();
    let record: Value = serde_json::from_slice(&delivery.event).unwrap();
    assert_eq!(delivery.target, DESTINATION);
    assert_eq!(record["requestContext"]["condition"], "RetryAttemptsExhausted");
    assert_eq!(record["responseContext"]["functionError"], "Unhandled");
    let info = &record["KinesisBatchInfo"];
    assert_eq!((&info["startSequenceNumber"], &info["endSequenceNumber"]), (&json!("3"), &json!("3")));
    assert_eq!((&info["batchSize"], &info["shardId"], &info["streamArn"]), (&json!(1), &json!("s-1"), &json!(STREAM)));
}

#[tokio::test(start_paused = true)]
async fn old_records_are_given_up_untried() {
    let world = World::new();
    world.stream.open("s-1", &[]);
    world.stream.append("s-1", "k", "old");
    sleep(Duration::from_secs(120)).await;
    world.stream.append("s-1", "k", "new");
    let events = deploy(&world, "f", 0, |_| Some("null".into()));
    let on_failure = Some(DESTINATION.to_owned());
    map(&world, Mapping { age_max_ms: Some(60_000), on_failure, ..mapping(STREAM, "f") });
    until_seen(&world, &events, 1).await;
    assert_eq!(all(&events), ["new"]);
    let record: Value = serde_json::from_slice(&world.queues.taken.lock()[0].event).unwrap();
    assert_eq!(record["requestContext"]["condition"], "RecordAgeExceeded");
    assert_eq!(record.get("responseContext"), None);
}

#[tokio::test(start_paused = true)]
async fn lanes_run_beside_each_other_and_keep_the_order_of_keys() {
    let world = World::new();
    let events = deploy(&world, "f", 1_000, |_| Some("null".into()));
    world.stream.open("s-1", &[]);
    for number in 0..60 {
        world.stream.append("s-1", &format!("k{}", number % 12), &number.to_string());
    }
    map(&world, Mapping { batch_records: 2, lanes: 5, ..mapping(STREAM, "f") });
    until_seen(&world, &events, 60).await;
    assert!(world.clock_s() < 25, "one lane alone takes 30 s: {}", world.clock_s());
    let mut last = BTreeMap::new();
    for text in all(&events) {
        let number: usize = text.parse().unwrap();
        assert!(last.insert(number % 12, number).is_none_or(|before| before < number), "{number} comes late");
    }
}

#[tokio::test(start_paused = true)]
async fn windows_sum_up_and_end_by_the_clock() {
    let world = World::new();
    let sum =
        |event: &Value| event["state"]["n"].as_u64().unwrap_or(0) + event["Records"].as_array().unwrap().len() as u64;
    let events = deploy(&world, "f", 10, move |event| Some(json!({"state": {"n": sum(event)}}).to_string()));
    world.stream.open("s-1", &[]);
    map(&world, Mapping { batch_records: 2, tumbling_ms: 60_000, ..mapping(STREAM, "f") });
    (0..5).for_each(|number| world.stream.append("s-1", "k", &number.to_string()));
    let last = |events: &Events| events.lock().iter().find(|event| event["isFinalInvokeForWindow"] == true).cloned();
    world.until("the window ends", |_| last(&events).is_some()).await;
    let last = last(&events).unwrap();
    assert_eq!((&last["state"], &last["Records"]), (&json!({"n": 5}), &json!([])));
    assert_eq!((&last["shardId"], &last["eventSourceARN"]), (&json!("s-1"), &json!(STREAM)));
    assert_eq!(last["window"], json!({"start": "2023-11-14T22:13:00Z", "end": "2023-11-14T22:14:00Z"}));
    assert_eq!(last["isWindowTerminatedEarly"], false);
    assert!((39..45).contains(&world.clock_s()), "{}", world.clock_s());
    let left = world.store.range(&Range::prefix(vec![model::prefixes::POLLERS.byte, b'w'])).await.unwrap();
    assert_eq!(left.entries.len(), 0, "no window is open");
}

#[tokio::test(start_paused = true)]
async fn of_two_nodes_one_reads_a_shard_and_the_other_takes_it_over() {
    let mut world = World::with(Guests::new(), |config| config.async_queue.sole_node = false);
    let events = deploy(&world, "f", 10, |_| Some("null".into()));
    world.stream.open("s-1", &[]);
    map(&world, mapping(STREAM, "f"));
    for number in 0..20 {
        world.stream.append("s-1", "k", &number.to_string());
    }
    until_seen(&world, &events, 20).await;
    let other = world.beside();
    sleep(Duration::from_secs(30)).await;
    world.stream.append("s-1", "k", "20");
    sleep(Duration::from_secs(30)).await;
    assert_eq!(all(&events).len(), 21, "one of them alone reads");
    // The first one dies without a word.
    let dead = std::mem::replace(&mut world.engine, other);
    drop(dead);
    let died = world.clock_s();
    world.stream.append("s-1", "k", "21");
    until_seen(&world, &events, 22).await;
    assert!(world.clock_s() - died < 20, "{}", world.clock_s() - died);
    assert_eq!(all(&events), (0..22).map(|number| number.to_string()).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_mapping_that_goes_leaves_nothing_behind() {
    let world = World::new();
    let events = deploy(&world, "f", 0, |_| Some("null".into()));
    world.stream.open("s-1", &[]);
    world.stream.append("s-1", "k", "x");
    let mapping = mapping(STREAM, "f");
    map(&world, mapping.clone());
    until_seen(&world, &events, 1).await;
    let kept =
        async || world.store.range(&Range::prefix(vec![model::prefixes::POLLERS.byte])).await.unwrap().entries.len();
    assert!(kept().await >= 2);
    let gone = Mapping { wanted: Wanted::Gone, revision: 2, ..mapping };
    map(&world, gone.clone());
    world.until("it is gone", |world| is_settled(world, &gone)).await;
    assert_eq!(kept().await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_stream_waits_for_its_function_and_goes_on_after_a_rest() {
    let world = World::new();
    world.stream.open("s-1", &[]);
    world.stream.append("s-1", "k", "0");
    let first = mapping(STREAM, "f");
    map(&world, first.clone());
    sleep(Duration::from_secs(300)).await;
    assert_eq!(results(&world), ["PROBLEM: Function not found"]);
    let events = deploy(&world, "f", 0, |_| Some("null".into()));
    until_seen(&world, &events, 1).await;
    let rests = Mapping { wanted: Wanted::Rests, revision: 2, ..first.clone() };
    map(&world, rests.clone());
    world.until("it rests", |world| is_settled(world, &rests)).await;
    world.stream.append("s-1", "k", "1");
    sleep(Duration::from_secs(300)).await;
    assert_eq!(all(&events), ["0"]);
    map(&world, Mapping { revision: 3, start: Position::Latest, ..first });
    until_seen(&world, &events, 2).await;
    assert_eq!(all(&events), ["0", "1"], "it goes on where it was, wherever a new one would begin");
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_fails_is_read_again() {
    let world = World::new();
    let events = deploy(&world, "f", 0, |_| Some("null".into()));
    world.stream.open("s-1", &[]);
    (0..3).for_each(|number| world.stream.append("s-1", "k", &number.to_string()));
    let errors = [SourceError::Trimmed, SourceError::Later("busy".into()), SourceError::Gone("no such shard".into())];
    world.stream.errors.lock().extend(errors);
    map(&world, mapping(STREAM, "f"));
    until_seen(&world, &events, 3).await;
    assert_eq!(all(&events), ["0", "1", "2"]);
    let expected = ["PROBLEM: Event source not found", "PROBLEM: Event source does not answer", "OK"];
    assert_eq!(results(&world), expected);
}

#[tokio::test(start_paused = true)]
async fn many_idle_mappings_ask_seldom() {
    let world = World::new();
    deploy(&world, "f", 0, |_| Some("null".into()));
    world.stream.open("s-1", &[]);
    for number in 0..100 {
        for source in [STREAM, QUEUE] {
            let mut mapping = mapping(source, "f");
            mapping.arn = format!("{}-{number}-{source}", mapping.arn);
            map(&world, mapping);
        }
    }
    sleep(Duration::from_secs(3_600)).await;
    let (reads, asked) = (*world.stream.reads.lock(), world.queue.asked.lock().len());
    assert!((100..=6_200).contains(&reads) && (100..=6_200).contains(&asked), "{reads} {asked}");
    assert_eq!(world.catalog.told.lock().len(), 200, "and tell nothing but that they are there");
}

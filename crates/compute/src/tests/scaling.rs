//! Many calls at once: late binding, limits, room, keep-alive, revisions, the stop.
//!
//! Time is paused in most tests, so that waits are exact and cost nothing; the guests' sockets and pipes are real.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use model::ports::Invoker;
use model::{InvokeError, Outcome, ThrottleReason};
use tokio::task::JoinSet;

use super::fixtures::{World, invocation};
use super::guests::Guests;

type Ends = Vec<Result<Outcome, InvokeError>>;

/// Calls `name` that many times at once.
async fn burst(world: &World, name: &str, calls: usize) -> Ends {
    let mut set = JoinSet::new();
    for call in 0..calls {
        let engine = world.engine.clone();
        let invocation = invocation(name, &format!("{name}-{call}"), &call.to_string());
        set.spawn(async move { engine.invoke(invocation).await });
    }
    set.join_all().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_callers_lose_nothing() {
    let world = World::new();
    world.deploy("f", "print 1", |_| {});
    let mut set = JoinSet::new();
    for caller in 0..50 {
        let engine = world.engine.clone();
        set.spawn(async move {
            for call in 0..20 {
                let payload = format!("[{caller},{call}]");
                let outcome = engine.invoke(invocation("f", &format!("{caller}-{call}"), &payload)).await.unwrap();
                assert_eq!((outcome.payload, outcome.error), (payload.into(), None));
            }
        });
    }
    set.join_all().await;
    let mut ids: Vec<String> = world.records.0.lock().iter().map(|record| record.request_id.0.clone()).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 1_000);
    let lines = world.lines.messages();
    for (prefix, count) in [("START ", 1_000), ("line 0", 1_000), ("END ", 1_000), ("REPORT ", 1_000)] {
        assert_eq!(lines.iter().filter(|line| line.starts_with(prefix)).count(), count, "{prefix}");
    }
    // Within each stream every START is followed by its own lines, END and REPORT.
    let batches = world.lines.0.lock();
    let mut streams: std::collections::HashMap<&str, Vec<&str>> = std::collections::HashMap::new();
    for batch in batches.iter() {
        streams.entry(&batch.stream).or_default().extend(batch.events.iter().map(|event| event.message.as_str()));
    }
    for lines in streams.values() {
        assert_eq!(lines[1], "loading");
        for call in lines[2..].chunks(5) {
            let id = call[0].split(' ').nth(2).unwrap();
            assert_eq!(call[1..4], ["line 0", "unfinished", &format!("END RequestId: {id}")]);
            assert!(call[4].starts_with(&format!("REPORT RequestId: {id}\t")));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn long_calls_get_an_environment_each_and_scale_to_zero() {
    let world = World::with(Guests::booting(Duration::from_millis(20)), |config| {
        config.keep_alive = Some(Duration::from_secs(60));
    });
    world.deploy("f", "sleep 1000", |_| {});
    assert!(burst(&world, "f", 10).await.iter().all(Result::is_ok));
    assert_eq!(world.guests.started(), 10);
    assert!(burst(&world, "f", 10).await.iter().all(Result::is_ok));
    assert_eq!(world.guests.started(), 10, "the second burst is warm");
    tokio::time::sleep(Duration::from_secs(50)).await;
    assert_eq!(world.guests.alive(), 10);
    world.until("all environments have ended", |world| world.guests.alive() == 0).await;
    world.until("nothing is shown", |world| world.engine.environments().is_empty()).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(world.engine.pools(), 0, "a sleeping function costs nothing");
}

#[tokio::test(start_paused = true)]
async fn short_calls_wait_for_each_other_instead_of_starting_more() {
    let world = World::with(Guests::booting(Duration::from_millis(100)), |_| {});
    world.deploy("f", "sleep 1", |_| {});
    world.call("f", "1").await.unwrap();
    for _ in 0..5 {
        assert!(burst(&world, "f", 20).await.iter().all(Result::is_ok));
    }
    assert!(world.guests.started() <= 2, "{}", world.guests.started());
}

#[tokio::test(start_paused = true)]
async fn calls_that_wait_for_a_processor_start_no_more_that_would_wait_too() {
    let world = World::with(Guests::booting(Duration::from_millis(5)), |_| {});
    // The guest has each call for 0.07 ms, and waits a hundred times as long for a processor.
    world.deploy("f", "starved 7", |_| {});
    world.call("f", "1").await.unwrap();
    for _ in 0..20 {
        assert!(burst(&world, "f", 64).await.iter().all(Result::is_ok));
    }
    let environments = world.engine.environments().len();
    assert!(environments <= 4, "twice the processors is enough: {environments}");
}

#[tokio::test(start_paused = true)]
async fn a_burst_of_first_calls_leaves_no_more_environments_in_use_than_processors_feed() {
    let world = World::with(Guests::booting(Duration::from_millis(5)), |config| {
        config.keep_alive = Some(Duration::from_secs(60));
    });
    world.deploy("f", "echo", |_| {});
    assert!(burst(&world, "f", 64).await.iter().all(Result::is_ok));
    let served = || -> Vec<u64> { world.engine.environments().iter().map(|one| one.served).collect() };
    let before = served();
    assert!(before.len() >= 8, "nothing was known of the function: {before:?}");
    for _ in 0..20 {
        assert!(burst(&world, "f", 64).await.iter().all(Result::is_ok));
    }
    let used = before.iter().zip(served()).filter(|(before, after)| *before < after).count();
    assert!(used <= 5, "{used} of {} were used: {:?}", before.len(), served());
}

#[tokio::test(start_paused = true)]
async fn calls_that_never_stop_waiting_get_one_more() {
    let world = World::with(Guests::booting(Duration::from_millis(5)), |_| {});
    world.deploy("f", "sleep 1", |_| {});
    world.call("f", "1").await.unwrap();
    // Each waits for two others, in less time than a start takes.
    let mut callers = JoinSet::new();
    for caller in 0..3 {
        let engine = world.engine.clone();
        callers.spawn(async move {
            for call in 0..200 {
                engine.invoke(invocation("f", &format!("{caller}-{call}"), "1")).await.unwrap();
            }
        });
    }
    callers.join_all().await;
    let environments = world.engine.environments().len();
    assert!((2..=4).contains(&environments), "{environments}");
}

/// So many callers, each of which calls that often, with an event that says what its guest does.
async fn callers(world: &World, name: &str, callers: usize, each: usize, event: &'static str) {
    let mut set = JoinSet::new();
    for caller in 0..callers {
        let (engine, name) = (world.engine.clone(), name.to_owned());
        set.spawn(async move {
            for call in 0..each {
                engine.invoke(invocation(&name, &format!("{caller}-{call}"), event)).await.unwrap();
            }
        });
    }
    set.join_all().await;
}

/// A host that never has a processor idle, and a function that was called on it for a while. Each call uses 0.7 ms of
/// a processor.
async fn on_a_busy_host(handler: &str) -> World {
    let world = World::with(Guests::booting(Duration::from_millis(5)), |config| {
        config.processors_idle_us = || Some(0);
    });
    world.deploy("f", handler, |_| {});
    callers(&world, "f", 1, 30, "5").await;
    world
}

#[tokio::test(start_paused = true)]
async fn on_busy_processors_calls_that_take_turns_start_no_more() {
    let world = on_a_busy_host("sleep_as_told").await;
    callers(&world, "f", 64, 20, "5").await;
    let environments = world.engine.environments().len();
    assert!(environments <= 4, "twice the processors is enough: {environments}");
    // The function changes.
    let began = tokio::time::Instant::now();
    callers(&world, "f", 64, 1, "300").await;
    let took = began.elapsed();
    assert!(took < Duration::from_secs(1), "one in each environment of four would take five seconds: {took:?}");
    assert!(world.engine.environments().len() >= 30);
}

#[tokio::test(start_paused = true)]
async fn on_busy_processors_calls_that_wait_for_others_get_theirs() {
    let world = on_a_busy_host("sleep 50").await;
    callers(&world, "f", 64, 10, "1").await;
    let environments = world.engine.environments().len();
    assert!(environments >= 50, "{environments}");
}

#[tokio::test(start_paused = true)]
async fn what_is_known_of_a_function_drops_starts_that_were_decided_before() {
    let world = World::with(Guests::booting(Duration::from_millis(50)), |_| {});
    world.deploy("f", "slow_first 30", |_| {});
    world.call("f", "1").await.unwrap();
    // One call was seen, of 30 ms; the second tells that others take 1 ms.
    callers(&world, "f", 64, 20, "1").await;
    let environments = world.engine.environments().len();
    assert!(environments <= 12, "those that had begun, and few more: {environments}");
}

#[tokio::test(start_paused = true)]
async fn configured_limits_throttle_at_once() {
    let world = World::with(Guests::new(), |config| config.limit_accounts(3));
    world.deploy("f", "sleep 1000", |_| {});
    world.deploy("g", "sleep 1000", |version| version.reserved_concurrency = Some(1));
    let began = tokio::time::Instant::now();
    let (plain, reserved) = tokio::join!(burst(&world, "f", 5), burst(&world, "g", 3));
    assert_eq!(began.elapsed().as_secs(), 1);
    let throttled = |ends: &Ends, reason| {
        ends.iter().filter(|end| matches!(end, Err(InvokeError::Throttled(why)) if *why == reason)).count()
    };
    assert_eq!(throttled(&plain, ThrottleReason::ConcurrentInvocationLimitExceeded), 2);
    assert_eq!(throttled(&reserved, ThrottleReason::ReservedFunctionConcurrentInvocationLimitExceeded), 2);
    assert_eq!(world.records.0.lock().len(), 4);
    assert!(world.call("f", "1").await.is_ok(), "permits came back");
}

#[tokio::test(start_paused = true)]
async fn a_full_host_queues_then_refuses() {
    let world = World::with(Guests::new(), |config| {
        config.memory_mb_max = 256;
        config.capacity_wait = Duration::from_millis(2_500);
    });
    world.deploy("f", "sleep 1000", |_| {});
    let ends = burst(&world, "f", 8).await;
    assert_eq!(ends.iter().filter(|end| end.is_ok()).count(), 6, "two at a time for two and a half seconds");
    assert_eq!(ends.iter().filter(|end| matches!(end, Err(InvokeError::NoCapacity(_)))).count(), 2);
    assert_eq!(world.guests.started(), 2);
    world.deploy("large", "echo", |version| version.memory_mb = 512);
    assert!(matches!(world.call("large", "1").await, Err(InvokeError::NoCapacity(_))));
}

#[tokio::test(start_paused = true)]
async fn idle_environments_make_room_for_others() {
    let world = World::with(Guests::new(), |config| config.memory_mb_max = 256);
    for name in ["a", "b", "c"] {
        world.deploy(name, "echo", |_| {});
        world.call(name, "1").await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut left: Vec<String> =
        world.engine.environments().iter().map(|shown| shown.function.name.as_str().to_owned()).collect();
    left.sort();
    assert_eq!(left, ["b", "c"], "the longest idle one ended");
    world.deploy("wide", "echo", |version| version.memory_mb = 256);
    world.call("wide", "1").await.unwrap();
    assert_eq!(world.guests.alive(), 1);
}

#[tokio::test(start_paused = true)]
async fn busy_environments_make_room_when_they_are_done() {
    let world = Arc::new(World::with(Guests::new(), |config| config.memory_mb_max = 128));
    world.deploy("a", "sleep 500", |_| {});
    world.deploy("b", "echo", |_| {});
    let (a, b) = tokio::join!(world.call("a", "1"), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        world.call("b", "2").await
    });
    assert!(a.is_ok() && b.is_ok());
    assert_eq!(world.guests.alive(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_host_short_of_memory_ends_idle_environments_before_it_starts_more() {
    static LEFT_MB: AtomicU64 = AtomicU64::new(1_000);
    let world = World::with(Guests::new(), |config| {
        config.memory_low_mb = 500;
        config.memory_available_mb = |_| Some(LEFT_MB.load(Ordering::SeqCst));
    });
    for name in ["a", "b", "c"] {
        world.deploy(name, "echo", |_| {});
    }
    world.call("a", "1").await.unwrap();
    world.call("b", "1").await.unwrap();
    LEFT_MB.store(100, Ordering::SeqCst);
    assert_eq!(world.call("b", "2").await.unwrap().payload, "2", "what is warm needs no more memory");
    let (c, ()) = tokio::join!(world.call("c", "1"), async {
        world.until("the idle ones have ended", |world| world.guests.alive() == 0).await;
        assert_eq!(world.guests.started(), 2);
        LEFT_MB.store(1_000, Ordering::SeqCst);
    });
    assert!(c.is_ok());
    assert_eq!(world.guests.started(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_function_that_is_always_busy_lets_others_in() {
    let world = World::with(Guests::new(), |config| config.memory_mb_max = 128);
    world.deploy("greedy", "sleep 100", |_| {});
    world.deploy("quiet", "echo", |_| {});
    let (greedy, quiet) = tokio::join!(burst(&world, "greedy", 50), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let began = tokio::time::Instant::now();
        (world.call("quiet", "1").await, began.elapsed())
    });
    assert!(greedy.iter().all(Result::is_ok));
    assert!(quiet.0.is_ok() && quiet.1 < Duration::from_millis(800), "{quiet:?}");
}

#[tokio::test(start_paused = true)]
async fn many_functions_of_one_account_do_not_keep_another_out() {
    let world = Arc::new(World::with(Guests::new(), |config| config.memory_mb_max = 128));
    let mut greedy = JoinSet::new();
    for number in 0..10 {
        let name = format!("greedy{number}");
        world.deploy(&name, "sleep 100", |_| {});
        let world = world.clone();
        greedy.spawn(async move { burst(&world, &name, 10).await });
    }
    world
        .deploy("quiet", "echo", |version| version.function.account = model::AccountId::parse("000000000007").unwrap());
    let quiet = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let mut call = invocation("quiet", "quiet", "1");
        call.function.account = model::AccountId::parse("000000000007").unwrap();
        let began = tokio::time::Instant::now();
        (world.engine.invoke(call).await, began.elapsed())
    };
    let (ended, took) = quiet.await;
    assert!(ended.is_ok() && took < Duration::from_millis(1_500), "{took:?}: ten others were in line before");
    assert!(greedy.join_all().await.iter().flatten().all(Result::is_ok));
}

#[tokio::test(start_paused = true)]
async fn the_stop_turns_away_what_still_waits() {
    let world = World::with(Guests::new(), |config| config.memory_mb_max = 128);
    world.deploy("f", "sleep 60000", |version| version.timeout_ms = 900_000);
    let (ends, ()) = tokio::join!(burst(&world, "f", 3), async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        world.engine.drain(Duration::from_secs(1)).await;
    });
    assert_eq!(ends.iter().filter(|end| end.is_ok()).count(), 1);
    assert_eq!(ends.iter().filter(|end| matches!(end, Err(InvokeError::NoCapacity(_)))).count(), 2);
    assert_eq!((world.guests.alive(), world.records.0.lock().len()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_new_revision_ends_the_old_environments() {
    let world = World::new();
    world.deploy("f", "sleep 100", |_| {});
    let old = burst(&world, "f", 3);
    let new = async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        world.deploy("f", "echo", |version| version.revision = "2".into());
        world.call("f", "\"new\"").await.unwrap()
    };
    let (old, new) = tokio::join!(old, new);
    assert!(old.iter().all(Result::is_ok));
    assert_eq!(new.payload, "\"new\"");
    world.until("only the new one is left", |world| world.guests.alive() == 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_package_is_unpacked_once() {
    let world = World::new();
    world.deploy("f", "sleep 10", |_| {});
    world.deploy("g", "sleep 10", |version| version.layers = vec![model::CodeDigest::parse(&"1b".repeat(32)).unwrap()]);
    tokio::join!(burst(&world, "f", 10), burst(&world, "g", 10));
    assert_eq!(*world.catalog.fetched.lock(), 2);
    let file = world.config.code_root.join("0a".repeat(32)).join("index.js");
    assert_eq!(std::fs::read(file).unwrap(), b"exports.handler = 1");
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_away_is_still_metered() {
    let world = World::new();
    world.deploy("f", "sleep 1000", |_| {});
    let call = tokio::time::timeout(Duration::from_millis(100), world.call("f", "1")).await;
    assert!(call.is_err());
    world.until("the call is metered", |world| world.records.0.lock().len() == 1).await;
    world
        .until("the environment is idle", |world| world.engine.environments()[0].state == crate::EnvironmentState::Idle)
        .await;
    world.call("f", "1").await.unwrap();
    assert_eq!(world.guests.started(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_stop_finishes_what_runs_and_leaves_nothing() {
    let world = World::new();
    world.deploy("f", "sleep 1000", |_| {});
    let (ends, refused) = tokio::join!(burst(&world, "f", 5), async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let engine = world.engine.clone();
        let drained = tokio::spawn(async move { engine.drain(Duration::from_secs(30)).await });
        tokio::task::yield_now().await;
        let refused = world.call("f", "1").await;
        drained.await.unwrap();
        refused
    });
    assert!(ends.iter().all(Result::is_ok));
    assert!(matches!(refused, Err(InvokeError::NoCapacity(_))));
    assert_eq!(world.guests.alive(), 0);
    assert_eq!(world.records.0.lock().len(), 5);
}

#[tokio::test(start_paused = true)]
async fn the_stop_cuts_what_runs_too_long() {
    let world = World::new();
    world.deploy("f", "sleep 100000", |version| version.timeout_ms = 900_000);
    let (ends, ()) = tokio::join!(burst(&world, "f", 2), async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        world.engine.drain(Duration::from_secs(1)).await;
    });
    assert!(ends.iter().all(|end| end.as_ref().unwrap().error.is_some()));
    assert_eq!((world.guests.alive(), world.records.0.lock().len()), (0, 2));
}

#[tokio::test(start_paused = true)]
async fn a_log_flood_keeps_its_order_and_its_size() {
    let world = World::new();
    world.deploy("f", "print 20000", |_| {});
    world.call("f", "1").await.unwrap();
    let lines = world.lines.messages();
    assert_eq!(lines.len(), 20_000 + 6);
    assert!(lines[3..20_003].iter().enumerate().all(|(number, line)| *line == format!("line {number}")));
    let largest = world.lines.0.lock().iter().map(|batch| batch.events.len()).max().unwrap();
    assert!(largest < 20_000, "it went out in parts");
}

#[tokio::test(start_paused = true)]
async fn a_call_does_not_wait_for_ones_that_take_longer_than_those_before() {
    let world = Arc::new(World::with(Guests::booting(Duration::from_millis(20)), |_| {}));
    world.deploy("f", "sleep_as_told", |version| version.timeout_ms = 900_000);
    for _ in 0..20 {
        world.call("f", "1").await.unwrap();
    }
    assert_eq!(world.guests.started(), 1);
    let long = tokio::spawn({
        let world = world.clone();
        async move { world.call("f", "600000").await.map(|_| ()) }
    });
    world.until("the long call runs", |world| world.guests.seen.lock().get("r-1") == Some(&21)).await;
    let began = tokio::time::Instant::now();
    world.call("f", "1").await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    long.await.unwrap().unwrap();
}

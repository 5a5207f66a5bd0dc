//! Environments that follow their function's habits: ended early, started ahead, more of them in bursts.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::sleep;

use super::fixtures::{World, invocation};
use super::guests::{Guests, variable};

fn world() -> World {
    World::with(Guests::booting(Duration::from_millis(20)), |config| config.keep_alive = None)
}

fn reports(world: &World) -> Vec<String> {
    world.lines.messages().into_iter().filter(|line| line.starts_with("REPORT ")).collect()
}

#[tokio::test(start_paused = true)]
async fn a_function_that_is_not_called_again_costs_nothing_soon() {
    let world = world();
    world.deploy("f", "echo", |_| {});
    world.call("f", "1").await.unwrap();
    assert_eq!(world.guests.alive(), 1);
    sleep(Duration::from_secs(300)).await;
    assert_eq!((world.guests.alive(), world.engine.pools()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn an_environment_is_replaced_before_its_credentials_end() {
    let world = World::with(Guests::new(), |config| config.environment_age_max = Duration::from_secs(3_600));
    world.deploy("f", "echo", |_| {});
    for second in (0..=3_500).step_by(500) {
        world.call("f", &second.to_string()).await.unwrap();
        sleep(Duration::from_secs(500)).await;
    }
    // It is older than it may be.
    world.call("f", "4000").await.unwrap();
    let specs = world.guests.specs.lock();
    let good: Vec<String> = specs.iter().map(|spec| variable(spec, "AWS_SECRET_ACCESS_KEY")).collect();
    // The last call of the first one may take fifteen minutes, and clients ask anew a quarter of an hour before the end.
    assert_eq!(good, ["good for 7200 s", "good for 7200 s"]);
}

#[tokio::test(start_paused = true)]
async fn environments_of_a_deleted_function_end() {
    let world = World::new();
    for name in ["gone", "stays"] {
        world.deploy(name, "echo", |_| {});
        world.call(name, "1").await.unwrap();
    }
    world.catalog.versions.lock().retain(|function, _| function.name.as_str() != "gone");
    sleep(Duration::from_secs(5)).await;
    assert_eq!((world.guests.alive(), world.engine.pools()), (1, 1));
    world.deploy("gone", "echo", |_| {});
    world.call("gone", "1").await.unwrap();
    assert_eq!((world.guests.alive(), world.engine.pools()), (2, 2), "one that comes after it is another");
}

#[tokio::test(start_paused = true)]
async fn packages_of_deleted_functions_leave_the_disk() {
    let world = World::new();
    for (name, code) in [("one", "0a"), ("same", "0a"), ("other", "0b")] {
        world.deploy(name, "echo", |version| version.code = model::CodeDigest::parse(&code.repeat(32)).unwrap());
        world.call(name, "1").await.unwrap();
    }
    let folders = || {
        let all = std::fs::read_dir(&world.config.code_root).unwrap().flatten();
        let mut names: Vec<String> = all.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.retain(|name| !name.starts_with(".boot"));
        names.sort();
        names
    };
    let both = ["0a".repeat(32), "0b".repeat(32)];
    let delete = |gone: &str| world.catalog.versions.lock().retain(|function, _| function.name.as_str() != gone);
    delete("one");
    sleep(Duration::from_secs(300)).await;
    assert_eq!(folders(), both, "another function has it too");
    delete("same");
    sleep(Duration::from_secs(300)).await;
    world.until("it is gone", |_| folders() == both[1..]).await;
    world.deploy("again", "echo", |_| {});
    world.call("again", "1").await.unwrap();
    assert_eq!(folders(), both, "it is unpacked again");
    world.deploy("other", "echo", |version| version.revision = "2".into());
    world.call("other", "1").await.unwrap();
    sleep(Duration::from_secs(300)).await;
    world.until("other code came instead", |_| folders() == both[..1]).await;
}

#[tokio::test(start_paused = true)]
async fn a_timer_finds_an_environment_that_was_not_there_in_between() {
    let world = world();
    world.deploy("f", "echo", |_| {});
    for round in 0..8 {
        world.call("f", "1").await.unwrap();
        sleep(Duration::from_secs(30)).await;
        if round > 3 {
            assert_eq!(world.guests.alive(), 0, "between two calls, after {round}");
        }
        sleep(Duration::from_secs(30)).await;
    }
    let reports = reports(&world);
    assert!(reports[0].contains("Init Duration"));
    for report in &reports[5..] {
        assert!(!report.contains("Init Duration"), "it was ready before: {report}");
    }
    let records = world.records.0.lock();
    assert!(records[5..].iter().all(|record| record.init_us.is_none()));
    assert!(records[0].init_us.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_retry_finds_its_environment() {
    let world = world();
    world.deploy("f", "throw_until 2", |_| {});
    use model::ports::Invoker;
    world.engine.accept(invocation("f", "event", "1")).await.unwrap();
    world.until("all three tries have run", |world| world.records.0.lock().len() == 3).await;
    let cold = world.records.0.lock().iter().filter(|record| record.init_us.is_some()).count();
    assert_eq!(cold, 1, "the retries came a minute and three minutes later");
}

#[tokio::test(start_paused = true)]
async fn bursts_are_met_by_what_was_started_ahead() {
    let world = Arc::new(world());
    world.deploy("f", "sleep 2000", |_| {});
    let mut cold = Vec::new();
    for burst in 0..6 {
        let before = world.records.0.lock().len();
        let mut calls = JoinSet::new();
        for call in 0..20 {
            let engine = world.engine.clone();
            let invocation = invocation("f", &format!("{burst}-{call}"), "1");
            calls.spawn(async move { model::ports::Invoker::invoke(&*engine, invocation).await });
            sleep(Duration::from_millis(50)).await;
        }
        assert!(calls.join_all().await.iter().all(Result::is_ok));
        cold.push(world.records.0.lock()[before..].iter().filter(|record| record.init_us.is_some()).count());
        sleep(Duration::from_secs(1_000 + 137 * burst * burst)).await;
        assert_eq!(world.guests.alive(), 0);
    }
    assert!(cold[5] <= 8, "of twenty calls each: {cold:?}");
}

#[tokio::test(start_paused = true)]
async fn a_failing_init_is_not_repeated_for_nobody() {
    let world = world();
    world.deploy("f", "init_error", |_| {});
    for _ in 0..6 {
        world.call("f", "1").await.unwrap();
        sleep(Duration::from_secs(60)).await;
    }
    sleep(Duration::from_secs(600)).await;
    let started = world.guests.started();
    assert!(started <= 18, "{started}");
    assert_eq!(world.guests.alive(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_ends_right_after_its_init_is_not_started_again_and_again_for_nobody() {
    let world = Arc::new(world());
    world.deploy("f", "doomed 5", |_| {});
    for burst in 0..3 {
        let mut calls = JoinSet::new();
        for number in 0..8 {
            let world = world.clone();
            calls.spawn(async move { world.call("f", &format!("[{burst},{number}]")).await.unwrap().error.is_some() });
        }
        assert!(calls.join_all().await.into_iter().all(|failed| failed));
        sleep(Duration::from_secs(1)).await;
    }
    let started = world.guests.started();
    assert!(started <= 3 * 8 + 3, "{started}");
    // A minute has one more attempt.
    sleep(Duration::from_secs(300)).await;
    let ahead = world.guests.started() - started;
    assert!(ahead <= 6, "{ahead}");
}

#[tokio::test(start_paused = true)]
async fn room_is_taken_from_whom_it_costs_least() {
    let world = World::with(Guests::booting(Duration::from_millis(20)), |config| {
        config.keep_alive = None;
        config.memory_mb_max = 256;
    });
    for name in ["often", "once", "new"] {
        world.deploy(name, "echo", |_| {});
    }
    for call in 0..30 {
        world.call("often", "1").await.unwrap();
        sleep(Duration::from_secs([1, 12, 3, 7][call % 4])).await;
    }
    world.call("often", "1").await.unwrap();
    world.call("once", "1").await.unwrap();
    sleep(Duration::from_secs(1)).await;
    world.call("new", "1").await.unwrap();
    let shown = world.engine.environments();
    let names: Vec<&str> = shown.iter().map(|shown| shown.function.name.as_str()).collect();
    assert!(names.contains(&"often") && names.contains(&"new"), "{names:?}: the longest idle one was worth more");
}

#[tokio::test(start_paused = true)]
async fn a_burst_of_a_known_function_shares_a_few_environments() {
    let world = Arc::new(world());
    world.deploy("f", "sleep 4", |_| {});
    for _ in 0..10 {
        world.call("f", "1").await.unwrap();
        sleep(Duration::from_millis(1_700)).await;
    }
    sleep(Duration::from_secs(3_000)).await;
    assert_eq!((world.guests.alive(), world.engine.pools()), (0, 0), "only its habits are kept");
    let before = world.guests.started();
    let mut calls = JoinSet::new();
    for call in 0..20 {
        let engine = world.engine.clone();
        let invocation = invocation("f", &format!("burst-{call}"), "1");
        calls.spawn(async move { model::ports::Invoker::invoke(&*engine, invocation).await });
    }
    assert!(calls.join_all().await.iter().all(Result::is_ok));
    let started = world.guests.started() - before;
    assert!((1..=6).contains(&started), "{started}");
}

#[tokio::test(start_paused = true)]
async fn quick_calls_one_after_another_get_one_environment() {
    let world = world();
    world.deploy("f", "sleep 1", |_| {});
    for _ in 0..500 {
        world.call("f", "1").await.unwrap();
    }
    assert_eq!(world.guests.started(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_crowd_of_quick_calls_leaves_no_more_environments_than_it_used() {
    let world = Arc::new(world());
    world.deploy("f", "sleep 2", |_| {});
    let mut callers = JoinSet::new();
    for caller in 0..64 {
        let engine = world.engine.clone();
        callers.spawn(async move {
            for call in 0..200 {
                let invocation = invocation("f", &format!("{caller}-{call}"), "1");
                model::ports::Invoker::invoke(&*engine, invocation).await.unwrap();
            }
        });
    }
    callers.join_all().await;
    let used = world.guests.started();
    sleep(Duration::from_secs(5)).await;
    assert!(world.guests.started() == used && used < 40, "{used}, then {}", world.guests.started());
}

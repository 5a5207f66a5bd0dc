//! Versions with SnapStart: when their snapshots are taken, what begins from them, and when they go.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use model::ports::Invoker;
use model::{FunctionRef, FunctionVersion, Outcome, Runtime, SnapshotState};
use serde_json::Value;

use super::fixtures::{World, invocation, reference, version};
use super::guests::Guests;

fn world() -> World {
    World::with(Guests::booting(Duration::from_millis(80)), |config| config.ready_max = 2)
}

fn numbered(name: &str, number: &str) -> FunctionRef {
    FunctionRef { qualifier: Some(number.into()), ..reference(name) }
}

impl World {
    /// Publishes a version with SnapStart whose handler selects what its guests do.
    fn publish(&self, name: &str, number: &str, handler: &str, change: impl FnOnce(&mut FunctionVersion)) {
        let mut version = version(name);
        version.runtime = Runtime::parse("python3.12").unwrap();
        (version.version, version.revision) = (number.into(), format!("of {number}"));
        (version.handler, version.snap_start) = (handler.into(), true);
        change(&mut version);
        self.catalog.versions.lock().insert(numbered(name, number), version.into());
        self.engine.prepare(&numbered(name, number));
    }

    fn snapshot(&self, name: &str, number: &str) -> SnapshotState {
        self.engine.snapshot(&reference(name), number)
    }

    async fn until_taken(&self, name: &str, number: &str) {
        self.until("the snapshot is taken", |world| world.snapshot(name, number) == SnapshotState::Taken).await;
    }

    async fn call_version(&self, name: &str, number: &str) -> Outcome {
        let mut call = invocation(name, "r", "1");
        call.function = numbered(name, number);
        self.engine.invoke(call).await.unwrap()
    }
}

fn told(outcome: &Outcome) -> Value {
    assert!(outcome.error.is_none(), "{outcome:?}");
    serde_json::from_slice(&outcome.payload).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_published_version_begins_from_a_snapshot() {
    let world = world();
    world.publish("f", "1", "slow_told 3000", |_| {});
    assert_eq!(world.snapshot("f", "1"), SnapshotState::Pending);
    world.until_taken("f", "1").await;
    world.until("a fork is ready", |world| world.engine.ready().0 == 1).await;
    let told = told(&world.call_version("f", "1").await);
    let stream = told["environment"]["AWS_LAMBDA_LOG_STREAM_NAME"].as_str().unwrap();
    assert_eq!((&told["environment"]["AWS_ACCESS_KEY_ID"], &told["hooks"]), (&"ASIATEST".into(), &Value::Null));
    assert!(told["environment"].get("_HANDLER").is_none(), "what is the same is not said again: {told}");
    let (of_init, of_environment): (Vec<_>, Vec<_>) =
        world.lines.0.lock().iter().cloned().partition(|batch| &*batch.stream != stream);
    let text = |batches: &[model::LogBatch]| {
        let events = batches.iter().flat_map(|batch| &batch.events);
        events.map(|event| event.message.split('\t').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let init = text(&of_init);
    assert_eq!(init[1..], ["loading for all", "INIT_REPORT Init Duration: 3080.00 ms"]);
    assert!(init[0].starts_with("INIT_START Runtime Version: python:3.12.1"), "{init:?}");
    let environment = text(&of_environment);
    assert!(environment[0].starts_with("RESTORE_START Runtime Version: python:3.12.1"), "{environment:?}");
    assert_eq!(environment[1..3], ["after restore", "RESTORE_REPORT Restore Duration: 0.00 ms"]);
    let report = &of_environment.last().unwrap().events.last().unwrap().message;
    assert!(report.contains("\tRestore Duration: 0.00 ms\tBilled Restore Duration: 0 ms\t"), "{report}");
    let record = world.records.0.lock()[0].clone();
    assert_eq!((record.init_us, record.billed_ms), (Some(0), 1));
    let specs = world.guests.specs.lock();
    let zygote = specs.iter().find(|spec| matches!(spec.guest, sandbox::Guest::Zygote { .. }) && spec.code.is_some());
    let names: Vec<&str> = zygote.unwrap().environment.iter().map(|(name, _)| name.as_str()).collect();
    assert!(names.contains(&"AWS_LAMBDA_FUNCTION_VERSION") && !names.contains(&"AWS_SECRET_ACCESS_KEY"), "{names:?}");
}

#[tokio::test(start_paused = true)]
async fn until_it_is_there_environments_run_the_init_and_the_hooks_themselves() {
    let world = world();
    world.publish("f", "1", "slow_told 3000", |_| {});
    let told = told(&world.call_version("f", "1").await);
    assert_eq!(told["hooks"], true);
    assert!(world.records.0.lock()[0].init_us.unwrap() >= 3_000_000);
    world.until_taken("f", "1").await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_forked_is_tried_once_and_said_once() {
    let world = world();
    world.publish("f", "1", "unfit", |_| {});
    let impossible = SnapshotState::Impossible("its init left a thread running".into());
    world.until("it is known", |world| world.snapshot("f", "1") == impossible).await;
    for _ in 0..2 {
        assert!(world.call_version("f", "1").await.error.is_none());
        tokio::time::sleep(Duration::from_secs(7_200)).await;
    }
    let said = world.lines.messages().iter().filter(|line| line.ends_with("its init left a thread running")).count();
    let inits = world.lines.messages().iter().filter(|line| *line == "loading for all").count();
    assert_eq!((said, inits), (1, 1));
    assert_eq!(world.snapshot("f", "1"), impossible);
}

#[tokio::test(start_paused = true)]
async fn a_failed_init_is_tried_again_for_the_next_use_and_not_for_nobody() {
    let world = world();
    world.publish("f", "1", "init_exit", |_| {});
    world
        .until("it has failed", |world| world.lines.messages().iter().any(|line| line.starts_with("INIT_REPORT")))
        .await;
    let inits = |world: &World| world.lines.messages().iter().filter(|line| *line == "loading for all").count();
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    assert_eq!((inits(&world), world.snapshot("f", "1")), (1, SnapshotState::Open));
    assert!(world.call_version("f", "1").await.error.is_some());
    world.until("it is tried again", |world| inits(world) == 2).await;
}

#[tokio::test(start_paused = true)]
async fn each_version_function_and_account_has_its_own() {
    let world = world();
    world.publish("f", "1", "told", |_| {});
    world.publish("f", "2", "told", |_| {});
    world.publish("g", "1", "told", |_| {});
    for (name, number) in [("f", "1"), ("f", "2"), ("g", "1")] {
        world.until_taken(name, number).await;
        assert!(world.call_version(name, number).await.error.is_none());
    }
    let zygotes: Vec<u64> = {
        let specs = world.guests.specs.lock();
        let of_versions = specs
            .iter()
            .enumerate()
            .filter(|(_, spec)| matches!(spec.guest, sandbox::Guest::Zygote { .. }) && spec.code.is_some());
        of_versions.map(|(at, _)| at as u64 + 1).collect()
    };
    let assigned: Vec<usize> = zygotes.iter().map(|zygote| world.guests.assigned_from(*zygote)).collect();
    assert_eq!(assigned, [1, 1, 1]);
}

#[tokio::test(start_paused = true)]
async fn it_goes_with_its_version_and_after_a_long_time_without_use() {
    let world = world();
    world.publish("f", "1", "told", |_| {});
    world.publish("f", "2", "told", |_| {});
    world.until_taken("f", "1").await;
    world.until_taken("f", "2").await;
    world.catalog.versions.lock().remove(&numbered("f", "1"));
    world.until("it is gone", |world| world.snapshot("f", "1") == SnapshotState::Open).await;
    assert_eq!((world.snapshot("f", "2"), world.clock_s() < 60), (SnapshotState::Taken, true));
    tokio::time::sleep(Duration::from_secs(5 * 3_600)).await;
    assert_eq!(world.snapshot("f", "2"), SnapshotState::Taken);
    let inits = world.lines.messages().iter().filter(|line| *line == "loading for all").count();
    assert_eq!(inits, 2, "nobody used it: it was not taken again");
    world.until("it is not kept for ever", |world| world.snapshot("f", "2") == SnapshotState::PutAway).await;
    assert!(world.clock_s() < 7 * 3_600);
    assert!(world.call_version("f", "2").await.error.is_none());
    world.until_taken("f", "2").await;
}

#[tokio::test(start_paused = true)]
async fn none_is_kept_while_memory_is_short() {
    static LEFT_MB: AtomicU64 = AtomicU64::new(10_000);
    let world = World::with(Guests::new(), |config| {
        config.ready_max = 2;
        config.memory_low_mb = 500;
        config.memory_available_mb = |_| Some(LEFT_MB.load(Ordering::SeqCst));
    });
    world.publish("f", "1", "sleep 600000", |version| version.timeout_ms = 900_000);
    world.until_taken("f", "1").await;
    let mut invoked = invocation("f", "r", "1");
    invoked.function = numbered("f", "1");
    let engine = world.engine.clone();
    let call = tokio::spawn(async move { engine.invoke(invoked).await });
    world.until("it runs", |world| world.guests.assigned() == 1).await;
    LEFT_MB.store(100, Ordering::SeqCst);
    world.until("it is gone", |world| world.snapshot("f", "1") == SnapshotState::Open).await;
    assert_eq!((world.guests.alive(), world.engine.ready()), (1, (0, 0)), "the busy one stays");
    LEFT_MB.store(10_000, Ordering::SeqCst);
    let mut again = invocation("f", "again", "1");
    again.function = numbered("f", "1");
    let engine = world.engine.clone();
    let second = tokio::spawn(async move { engine.invoke(again).await });
    world.until_taken("f", "1").await;
    call.abort();
    second.abort();
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_in_use_is_taken_anew_from_time_to_time() {
    let world = world();
    world.publish("f", "1", "told", |_| {});
    world.until_taken("f", "1").await;
    let inits = |world: &World| world.lines.messages().iter().filter(|line| *line == "loading for all").count();
    world.call_version("f", "1").await;
    tokio::time::sleep(Duration::from_secs(3_000)).await;
    world.until("another", |world| inits(world) == 2).await;
    assert!(world.clock_s() >= 3_600);
}

#[tokio::test(start_paused = true)]
async fn a_restore_that_takes_too_long_is_the_calls_failure() {
    let world = world();
    world.publish("f", "1", "slow_restore", |_| {});
    world.until_taken("f", "1").await;
    let outcome = world.call_version("f", "1").await;
    assert_eq!(outcome.error.unwrap().error_type, "Sandbox.Timedout");
    let lines = world.lines.messages();
    assert!(lines.iter().any(|line| line.starts_with("RESTORE_REPORT") && line.contains("Status: error")), "{lines:?}");
    assert!(!lines.iter().any(|line| line.starts_with("INIT_REPORT") && line.contains("error")), "{lines:?}");
}

//! Guests that are booted ahead: when they are made, who gets them, and what happens when they fail.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use model::ports::Invoker;
use model::{FunctionVersion, Runtime};
use tokio::task::JoinSet;

use super::fixtures::{World, invocation};
use super::guests::{Guests, UNASSIGNABLE_MB};

fn world(guests: Arc<Guests>) -> World {
    World::with(guests, |config| config.ready_max = 4)
}

fn python(version: &mut FunctionVersion) {
    version.runtime = Runtime::parse("python3.12").unwrap();
}

async fn until_ready(world: &World, kinds: (usize, usize, usize)) {
    world.until(&format!("{kinds:?} are ready"), |world| world.guests.kinds() == kinds).await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_booted_before_there_is_a_function() {
    let world = world(Guests::new());
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(world.guests.started(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_process_is_ready_before_the_first_call() {
    let world = world(Guests::booting(Duration::from_millis(80)));
    world.deploy("f", "meta", |version| drop(version.environment.insert("COLOUR".into(), "blue".into())));
    until_ready(&world, (1, 0, 0)).await;
    let boot = world.guests.specs.lock()[0].clone();
    assert_eq!((boot.code, boot.layers.len(), boot.memory_bytes), (None, 0, 128 << 20));
    let names: Vec<&str> = boot.environment.iter().map(|(name, _)| name.as_str()).collect();
    assert!(names.contains(&"NODE_PATH") && names.contains(&"TZ"), "{names:?}");
    for secret in ["COLOUR", "AWS_SECRET_ACCESS_KEY", "_HANDLER", "AWS_LAMBDA_FUNCTION_NAME"] {
        assert!(!names.contains(&secret), "{secret}");
    }
    assert!(world.call("f", "{}").await.unwrap().error.is_none());
    assert_eq!(world.guests.assigned(), 1);
    assert_eq!(world.records.0.lock()[0].init_us, Some(0), "time is paused: nothing was waited for");
    // It is replaced, and the next may come at once.
    until_ready(&world, (3, 0, 0)).await;
    assert_eq!(world.guests.assigned(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_a_wrapper_starts_is_started_anew_with_its_code() {
    for (runtime, program) in [("python3.12", "python"), ("nodejs22.x", "node")] {
        let world = world(Guests::new());
        world.deploy("plain", "meta", |version| version.runtime = Runtime::parse(runtime).unwrap());
        world.deploy("f", "meta", |version| {
            (version.runtime, version.snap_start) = (Runtime::parse(runtime).unwrap(), true);
            version.environment.insert(model::web::WRAPPER.into(), "/opt/wrapper".into());
        });
        assert!(world.call("plain", "{}").await.unwrap().error.is_none());
        let before = world.guests.specs.lock().len();
        assert!(world.call("f", "{}").await.unwrap().error.is_none());
        let is_wrapped = |spec: &&sandbox::SandboxSpec| matches!(&spec.guest, sandbox::Guest::Interpreter { wrapper: Some(path), .. } if path == "/opt/wrapper");
        let specs = world.guests.specs.lock();
        assert_eq!(specs[..before].iter().filter(is_wrapped).count(), 0);
        let spec = specs[before..].iter().find(is_wrapped).unwrap();
        assert!(spec.code.is_some() && !spec.held, "nothing of it is there before the function");
        let path = super::guests::variable(spec, "PATH");
        assert!(path.starts_with(&format!("/var/lang/{program}")), "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn python_is_forked_from_one_zygote() {
    let world = world(Guests::booting(Duration::from_millis(80)));
    world.deploy("f", "sleep 10", python);
    until_ready(&world, (0, 1, 1)).await;
    let mut calls = JoinSet::new();
    for call in 0..20 {
        let engine = world.engine.clone();
        calls.spawn(async move { engine.invoke(invocation("f", &call.to_string(), "1")).await.unwrap() });
    }
    assert!(calls.join_all().await.iter().all(|outcome| outcome.error.is_none()));
    let (processes, zygotes, _) = world.guests.kinds();
    assert_eq!((processes, zygotes), (0, 1), "no call had to start a process");
    // What was taken at once is kept ready, within the limit.
    world.until("four are ready", |world| world.engine.ready() == (4, 1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_dead_zygote_is_replaced() {
    let world = world(Guests::booting(Duration::from_millis(80)));
    world.deploy("f", "echo", python);
    until_ready(&world, (0, 1, 1)).await;
    world.guests.crash_all(1);
    assert!(world.call("f", "1").await.unwrap().error.is_none(), "it is started from nothing");
    world.until("another zygote", |world| world.guests.kinds().1 == 1).await;
    world.until("forks of it", |world| world.guests.kinds().2 >= 1).await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_assigned_is_started() {
    let world = world(Guests::new());
    world.deploy("f", "echo", |version| version.memory_mb = UNASSIGNABLE_MB as u32);
    until_ready(&world, (1, 0, 0)).await;
    assert!(world.call("f", "1").await.unwrap().error.is_none());
    assert_eq!(world.guests.assigned(), 0);
}

#[tokio::test(start_paused = true)]
async fn variables_of_the_start_are_there_from_the_start() {
    let world = world(Guests::new());
    world
        .deploy("f", "echo", |version| drop(version.environment.insert("NODE_OPTIONS".into(), "--no-warnings".into())));
    assert!(world.call("f", "1").await.unwrap().error.is_none());
    assert_eq!(world.guests.assigned(), 0);
    let specs = world.guests.specs.lock();
    let started = specs.iter().find(|spec| spec.code.is_some()).unwrap();
    assert!(started.environment.iter().any(|(name, _)| name == "NODE_OPTIONS"));
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_ends_on_its_shelf_is_replaced() {
    let world = world(Guests::new());
    world.deploy("f", "echo", |_| {});
    until_ready(&world, (1, 0, 0)).await;
    world.guests.crash_all(1);
    until_ready(&world, (1, 0, 0)).await;
    assert!(world.call("f", "1").await.unwrap().error.is_none());
    assert_eq!(world.guests.assigned(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_nobody_has_any_more_ends_after_a_while() {
    let world = world(Guests::new());
    world.deploy("f", "echo", |_| {});
    world.deploy("g", "echo", python);
    until_ready(&world, (1, 1, 1)).await;
    world.catalog.uses.send_modify(std::collections::BTreeSet::clear);
    until_ready(&world, (0, 0, 0)).await;
    assert_eq!(world.engine.ready(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn all_of_them_end_with_the_engine() {
    let world = world(Guests::new());
    world.deploy("f", "echo", |_| {});
    world.deploy("g", "echo", python);
    until_ready(&world, (1, 1, 1)).await;
    world.engine.drain(Duration::from_secs(1)).await;
    until_ready(&world, (0, 0, 0)).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(world.guests.kinds(), (0, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_slow_init_is_prepared_for_the_next_time() {
    let world = world(Guests::booting(Duration::from_millis(80)));
    world.deploy("f", "slow_init 300", |version| {
        python(version);
        version.environment.insert("COLOUR".into(), "blue".into());
    });
    until_ready(&world, (0, 1, 1)).await;
    assert!(world.call("f", "1").await.unwrap().error.is_none());
    world.until("a zygote of its own", |world| world.guests.kinds().1 == 2).await;
    let (generic, own) = {
        let specs = world.guests.specs.lock();
        let mut zygotes = specs.iter().filter(|spec| matches!(spec.guest, sandbox::Guest::Zygote { .. })).cloned();
        (zygotes.next().unwrap(), zygotes.next().unwrap())
    };
    assert_eq!((generic.code.is_some(), own.code.is_some()), (false, true));
    let names: Vec<&str> = own.environment.iter().map(|(name, _)| name.as_str()).collect();
    assert!(names.contains(&"COLOUR") && !names.contains(&"AWS_SECRET_ACCESS_KEY"), "{names:?}");
    world.until("a fork of it", |world| world.engine.ready().0 >= 2).await;
    let own = 1 + world.guests.specs.lock().iter().position(|spec| spec.code.is_some()).unwrap() as u64;
    let deploy = |revision: &str, colour: &str| {
        world.deploy("f", "slow_init 300", |version| {
            python(version);
            version.revision = revision.into();
            version.code = model::CodeDigest::parse(&"0b".repeat(32)).unwrap();
            version.environment.insert("COLOUR".into(), colour.into());
            version.environment.insert("OTHER".into(), revision.into());
        });
    };
    deploy("2", "blue");
    assert!(world.call("f", "1").await.unwrap().error.is_none());
    assert_eq!(world.guests.assigned_from(own), 1, "new code with the same dependencies finds them loaded");
    deploy("3", "red");
    assert!(world.call("f", "1").await.unwrap().error.is_none());
    assert_eq!(world.guests.assigned_from(own), 1, "its imports would have gone another way");
    world.until("a zygote for that way", |world| world.guests.kinds().1 == 3).await;
}

#[tokio::test(start_paused = true)]
async fn none_is_kept_while_memory_is_short_and_all_come_back() {
    static LEFT_MB: AtomicU64 = AtomicU64::new(10_000);
    let world = World::with(Guests::new(), |config| {
        config.ready_max = 4;
        config.memory_low_mb = 500;
        config.memory_available_mb = |_| Some(LEFT_MB.load(Ordering::SeqCst));
    });
    world.deploy("f", "sleep 600000", |version| version.timeout_ms = 900_000);
    until_ready(&world, (1, 0, 0)).await;
    // The host's memory counts as short only where there are environments.
    let engine = world.engine.clone();
    let call = tokio::spawn(async move { engine.invoke(invocation("f", "1", "1")).await });
    world.until("it runs", |world| world.guests.assigned() == 1).await;
    LEFT_MB.store(100, Ordering::SeqCst);
    world.until("all but the busy one end", |world| world.guests.alive() == 1 && world.engine.ready() == (0, 0)).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(world.guests.alive(), 1, "none is booted");
    LEFT_MB.store(10_000, Ordering::SeqCst);
    world.until("some are ready again", |world| world.engine.ready().0 >= 1).await;
    call.abort();
}

fn custom(version: &mut FunctionVersion) {
    version.runtime = Runtime::parse("provided.al2023").unwrap();
    version.environment.insert("COLOUR".into(), "blue".into());
}

#[tokio::test(start_paused = true)]
async fn programs_move_into_sandboxes_that_were_made_before() {
    let world = world(Guests::new());
    world.deploy("f", "missing", custom);
    world.deploy("g", "missing", |version| {
        custom(version);
        version.memory_mb = 1_024;
        version.function.account = model::AccountId::parse("111111111111").unwrap();
    });
    until_ready(&world, (1, 0, 0)).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(world.guests.started(), 1, "whosever function comes, one is ready for it");
    let made = world.guests.specs.lock()[0].clone();
    assert_eq!((made.guest, made.code, made.environment), (sandbox::Guest::Vacant, None, Vec::new()));
    let error = world.call("f", "1").await.unwrap().error.unwrap();
    assert_eq!(
        error.error_type, "Runtime.InvalidEntrypoint",
        "what is the package's fault is that of its repeated init"
    );
    assert_eq!((world.guests.assigned(), world.guests.occupants().len()), (1, 0));
    assert!(world.guests.specs.lock().iter().all(|spec| spec.guest == sandbox::Guest::Vacant));
    // Two were taken at once, by its init and by the repeated one; one more is ready.
    until_ready(&world, (3, 0, 0)).await;
}

#[tokio::test(start_paused = true)]
async fn an_occupant_has_what_it_would_be_started_with() {
    let world = world(Guests::new());
    world.deploy("f", "", custom);
    until_ready(&world, (1, 0, 0)).await;
    let engine = world.engine.clone();
    let call = tokio::spawn(async move { engine.invoke(invocation("f", "1", "1")).await });
    world.until("it has moved in", |world| world.guests.occupants().len() == 1).await;
    let occupant = world.guests.occupants().remove(0);
    assert_eq!((occupant.guest, occupant.held), (sandbox::Guest::Bootstrap, false));
    for (name, value) in [("COLOUR", Some("blue")), ("AWS_LAMBDA_RUNTIME_API", Some("127.0.0.1:9001"))] {
        let found = occupant.environment.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
        assert_eq!(found, value, "{name}");
    }
    world.guests.crash_all(7);
    assert!(call.await.unwrap().unwrap().error.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_program_is_started_where_nothing_can_be_assigned() {
    let world = world(Guests::new());
    world.deploy("f", "", |version| {
        custom(version);
        version.memory_mb = UNASSIGNABLE_MB as u32;
    });
    until_ready(&world, (1, 0, 0)).await;
    let engine = world.engine.clone();
    let call = tokio::spawn(async move { engine.invoke(invocation("f", "1", "1")).await });
    let bootstraps =
        |world: &World| world.guests.specs.lock().iter().filter(|it| it.guest == sandbox::Guest::Bootstrap).count();
    world.until("it is started", |world| bootstraps(world) == 1).await;
    assert_eq!(world.guests.assigned(), 0);
    call.abort();
}

#[tokio::test(start_paused = true)]
async fn programs_without_processes_have_nothing_ready() {
    let world = world(Guests::new());
    world.deploy("f", "", |version| {
        custom(version);
        version.program = true;
    });
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(world.guests.started(), 0);
}

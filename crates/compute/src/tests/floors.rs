//! Environments that are there whether calls come or not: made ahead, kept, replaced, served first.

use std::sync::Arc;
use std::time::Duration;

use model::ports::Invoker;
use model::{Floor, InvokeError};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::fixtures::{World, invocation, reference};
use super::guests::Guests;

fn world(set: impl FnOnce(&mut crate::EngineConfig)) -> World {
    World::with(Guests::booting(Duration::from_millis(20)), |config| {
        config.keep_alive = None;
        set(config);
    })
}

/// Version 1 of `f` is to have so many environments always.
fn floor(environments: u32) -> Floor {
    Floor { function: reference("f"), version: "1".into(), revision: "of 1".into(), environments, set_aside: 0 }
}

fn set(world: &World, floors: impl IntoIterator<Item = Floor>) {
    world.catalog.floors.send_replace(floors.into_iter().filter(|floor| floor.environments > 0).collect());
}

fn kept(world: &World) -> u32 {
    world.engine.floor(&reference("f"), "1").environments
}

async fn until_kept(world: &World, environments: u32) {
    world.until("as many as asked for", |world| kept(world) == environments).await;
}

async fn call(world: &World, qualifier: &str, id: &str) -> model::Outcome {
    let mut call = invocation("f", id, "1");
    call.function.qualifier = Some(qualifier.into());
    world.engine.invoke(call).await.unwrap()
}

/// What the guests that were started were told of their initialisation, in the order of their starts.
fn told(world: &World) -> Vec<String> {
    let specs = world.guests.specs.lock();
    let told = specs.iter().map(|spec| {
        let found = spec.environment.iter().find(|(name, _)| name == "AWS_LAMBDA_INITIALIZATION_TYPE");
        found.map(|(_, value)| value.clone()).unwrap_or_default()
    });
    told.collect()
}

#[tokio::test(start_paused = true)]
async fn they_are_made_without_a_call_and_stay() {
    let world = world(|_| {});
    world.point("f", "1", "1", "echo");
    set(&world, [floor(3)]);
    until_kept(&world, 3).await;
    assert_eq!(told(&world), ["provisioned-concurrency"; 3]);
    sleep(Duration::from_secs(3 * 3_600)).await;
    assert_eq!((kept(&world), world.guests.alive(), world.guests.started()), (3, 3, 3));
    call(&world, "1", "r-1").await;
    assert_eq!(world.guests.started(), 3);
    let records = world.records.0.lock();
    assert_eq!((records[0].init_us, records[0].version.as_str()), (None, "1"), "no call is told of their init");
}

#[tokio::test(start_paused = true)]
async fn calls_beyond_them_get_environments_on_demand_that_go_again() {
    // Without starts ahead of calls, which would be counted too.
    let world = Arc::new(world(|config| config.keep_alive = Some(Duration::from_secs(60))));
    world.point("f", "1", "1", "sleep 2000");
    set(&world, [floor(2)]);
    until_kept(&world, 2).await;
    let mut calls = JoinSet::new();
    for number in 0..5 {
        let world = world.clone();
        calls.spawn(async move { call(&world, "1", &format!("r-{number}")).await.error.is_none() });
    }
    assert!(calls.join_all().await.into_iter().all(|fine| fine));
    assert_eq!(world.guests.started(), 5);
    assert_eq!(told(&world)[2..], ["on-demand"; 3]);
    sleep(Duration::from_secs(3 * 3_600)).await;
    assert_eq!((kept(&world), world.guests.alive()), (2, 2), "only they are left");
    let before = world.guests.started();
    call(&world, "1", "last").await;
    assert_eq!(world.guests.started(), before);
}

#[tokio::test(start_paused = true)]
async fn they_serve_before_what_was_started_on_demand() {
    let world = world(|config| config.keep_alive = Some(Duration::from_secs(60)));
    world.point("f", "1", "1", "echo");
    call(&world, "1", "before").await;
    set(&world, [floor(1)]);
    until_kept(&world, 1).await;
    assert_eq!(world.guests.alive(), 2);
    for second in 0..120 {
        call(&world, "1", &format!("r-{second}")).await;
        sleep(Duration::from_secs(1)).await;
    }
    assert_eq!((kept(&world), world.guests.alive()), (1, 1), "the other one had nothing to do and grew old");
}

#[tokio::test(start_paused = true)]
async fn one_that_dies_is_replaced() {
    let world = world(|_| {});
    world.point("f", "1", "1", "exit 1");
    set(&world, [floor(2)]);
    until_kept(&world, 2).await;
    let outcome = call(&world, "1", "r-1").await;
    assert_eq!(outcome.error.unwrap().error_type, "Runtime.ExitError");
    world.until("another one has been started", |world| world.guests.started() == 3).await;
    until_kept(&world, 2).await;
    assert_eq!(told(&world), ["provisioned-concurrency"; 3]);
}

#[tokio::test(start_paused = true)]
async fn those_that_end_right_after_their_init_are_tried_again_after_a_while() {
    let world = world(|_| {});
    world.point("f", "1", "1", "doomed 5");
    set(&world, [floor(2)]);
    world.until("they have been started", |world| world.guests.started() >= 2).await;
    sleep(Duration::from_secs(50)).await;
    assert!(world.guests.started() <= 4, "{}", world.guests.started());
    sleep(Duration::from_secs(300)).await;
    let started = world.guests.started();
    assert!((6..=20).contains(&started), "{started}");
}

#[tokio::test(start_paused = true)]
async fn they_are_replaced_when_they_grow_old() {
    let world = world(|config| config.environment_age_max = Duration::from_secs(3_600));
    world.point("f", "1", "1", "echo");
    set(&world, [floor(2)]);
    until_kept(&world, 2).await;
    sleep(Duration::from_secs(3_700)).await;
    assert_eq!((kept(&world), world.guests.alive(), world.guests.started()), (2, 2, 4));
}

#[tokio::test(start_paused = true)]
async fn a_restart_makes_them_again() {
    let mut world = world(|_| {});
    world.point("f", "1", "1", "echo");
    set(&world, [floor(2)]);
    until_kept(&world, 2).await;
    world.restart();
    assert_eq!(kept(&world), 0);
    until_kept(&world, 2).await;
    world.until("the former ones are gone", |world| world.guests.alive() == 2).await;
}

#[tokio::test(start_paused = true)]
async fn fewer_are_wanted_then_none_then_another_version() {
    let world = world(|_| {});
    world.point("f", "1", "1", "echo");
    world.point("f", "2", "2", "echo");
    set(&world, [floor(4)]);
    until_kept(&world, 4).await;
    set(&world, [floor(1)]);
    until_kept(&world, 1).await;
    // As an alias that moves makes it.
    let of_second = Floor { version: "2".into(), revision: "of 2".into(), ..floor(3) };
    set(&world, [of_second]);
    let second = |world: &World| world.engine.floor(&reference("f"), "2").environments;
    world.until("the other version has them", |world| second(world) == 3).await;
    world.until("the first one has none", |world| world.guests.alive() == 3).await;
    set(&world, []);
    world.until("none is left", |world| world.guests.alive() == 0 && world.engine.pools() == 0).await;
}

#[tokio::test(start_paused = true)]
async fn another_content_gets_environments_of_its_own() {
    let world = world(|_| {});
    world.deploy("f", "echo", |_| {});
    let latest = |revision: &str| Floor { version: "$LATEST".into(), revision: revision.into(), ..floor(2) };
    let kept = |world: &World| world.engine.floor(&reference("f"), "$LATEST").environments;
    set(&world, [latest("1")]);
    world.until("they are there", |world| kept(world) == 2).await;
    world.deploy("f", "echo", |version| version.revision = "2".into());
    set(&world, [latest("2")]);
    world
        .until("those of the new content are there alone", |world| {
            kept(world) == 2 && world.guests.started() == 4 && world.guests.alive() == 2
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_started_says_so_and_is_tried_again() {
    let world = world(|_| {});
    world.point("f", "1", "1", "init_error");
    set(&world, [floor(2)]);
    let failure = |world: &World| world.engine.floor(&reference("f"), "1").failure;
    world.until("it has failed", |world| failure(world).is_some()).await;
    assert_eq!(failure(&world).as_deref(), Some("FUNCTION_ERROR_INIT_FAILURE"));
    sleep(Duration::from_secs(30)).await;
    assert_eq!(world.guests.started(), 2, "not at once");
    // The same content with better luck: what it needed is there now.
    world.point("f", "1", "1", "echo");
    set(&world, []);
    world.until("its pool is gone", |world| world.engine.pools() == 0).await;
    set(&world, [floor(2)]);
    until_kept(&world, 2).await;
    assert_eq!(failure(&world), None);
}

#[tokio::test(start_paused = true)]
async fn a_failure_passes() {
    let world = world(|_| {});
    world.point("f", "1", "1", "init_error");
    set(&world, [floor(1)]);
    world.until("it is tried again and again", |world| world.guests.started() >= 4).await;
    assert!(world.clock_s() >= 180, "with a minute in between");
}

#[tokio::test(start_paused = true)]
async fn room_is_not_taken_from_them() {
    let world = world(|config| config.memory_mb_max = 256);
    world.point("f", "1", "1", "echo");
    for name in ["g", "h"] {
        world.deploy(name, "echo", |_| {});
    }
    set(&world, [floor(1)]);
    until_kept(&world, 1).await;
    for _ in 0..10 {
        world.call("g", "1").await.unwrap();
        world.call("h", "1").await.unwrap();
    }
    assert_eq!(kept(&world), 1);
    assert_eq!(told(&world).iter().filter(|kind| *kind == "provisioned-concurrency").count(), 1);
}

#[tokio::test(start_paused = true)]
async fn where_there_is_no_room_that_is_the_failure() {
    let world = world(|config| config.memory_mb_max = 256);
    world.point("f", "1", "1", "echo");
    set(&world, [floor(3)]);
    world.until("it has failed", |world| world.engine.floor(&reference("f"), "1").failure.is_some()).await;
    let state = world.engine.floor(&reference("f"), "1");
    assert_eq!(state.environments, 2);
    assert!(state.failure.unwrap().contains("no room"));
}

#[tokio::test(start_paused = true)]
async fn they_serve_although_others_use_up_what_the_account_has() {
    let world = Arc::new(world(|config| config.account_concurrency = 2));
    world.point("f", "1", "1", "echo");
    world.deploy("g", "sleep 2000", |_| {});
    set(&world, [Floor { set_aside: 1, ..floor(1) }]);
    until_kept(&world, 1).await;
    let other = tokio::spawn({
        let world = world.clone();
        async move { world.call("g", "1").await.is_ok() }
    });
    world.until("the other function runs", |world| world.guests.seen.lock().contains_key("r-1")).await;
    assert!(matches!(world.call("g", "1").await, Err(InvokeError::Throttled(_))));
    call(&world, "1", "own").await;
    assert!(other.await.unwrap());
}

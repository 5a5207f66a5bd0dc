//! Idle environments whose functions have left something running: frozen after a while, thawed for their next call.

use std::time::Duration;

use tokio::time::sleep;

use super::fixtures::World;
use super::guests::Guests;

/// Longer than it takes to be looked at twice.
const A_WHILE: Duration = Duration::from_secs(2);

fn shown(world: &World) -> Vec<bool> {
    world.engine.environments().iter().map(|info| info.frozen).collect()
}

async fn idle_world(guests: std::sync::Arc<Guests>, change: impl FnOnce(&mut crate::EngineConfig)) -> World {
    let world = World::with(guests, change);
    world.deploy("f", "echo", |_| {});
    world.call("f", "1").await.unwrap();
    world
}

#[tokio::test(start_paused = true)]
async fn an_environment_that_only_waits_is_not_frozen() {
    let world = idle_world(Guests::new(), |_| {}).await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!((world.guests.frozen(), shown(&world)), (0, vec![false]));
}

#[tokio::test(start_paused = true)]
async fn what_runs_between_calls_is_frozen_and_the_next_call_finds_it_thawed() {
    let world = idle_world(Guests::new(), |_| {}).await;
    for _ in 0..3 {
        sleep(Duration::from_millis(500)).await;
        world.guests.burn(Duration::from_millis(30));
        world.until("it is frozen", |world| world.guests.frozen() == 1).await;
        assert_eq!(shown(&world), [true]);
        assert!(world.call("f", "1").await.unwrap().error.is_none());
        assert_eq!((world.guests.frozen(), shown(&world)), (0, vec![false]));
    }
    assert_eq!(world.guests.started(), 1, "it stays the same environment");
}

#[tokio::test(start_paused = true)]
async fn threads_are_reason_enough_and_calls_that_follow_each_other_are_not() {
    let world = idle_world(Guests::new(), |_| {}).await;
    world.guests.set_tasks(3);
    for _ in 0..30 {
        sleep(Duration::from_millis(80)).await;
        world.call("f", "1").await.unwrap();
    }
    assert_eq!(world.guests.freezes(), 0, "it was never idle for long");
    sleep(A_WHILE).await;
    assert_eq!((world.guests.freezes(), world.guests.frozen()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_frozen_environment_ends_as_others_do() {
    let world = idle_world(Guests::new(), |config| config.keep_alive = Some(Duration::from_secs(5))).await;
    world.guests.set_tasks(3);
    sleep(A_WHILE).await;
    assert_eq!(world.guests.frozen(), 1);
    sleep(Duration::from_secs(10)).await;
    assert_eq!((world.guests.alive(), world.engine.pools()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_frozen_where_that_is_off_or_cannot_be() {
    let off = idle_world(Guests::new(), |config| config.freeze_after = None).await;
    let unable = idle_world(Guests::unfreezable(), |_| {}).await;
    for world in [off, unable] {
        world.guests.set_tasks(3);
        world.guests.burn(Duration::from_millis(30));
        sleep(A_WHILE).await;
        assert_eq!((world.guests.freezes(), shown(&world)), (0, vec![false]));
    }
}

//! Two engines over one store: limits hold over both, and are shared.

use std::sync::Arc;
use std::time::Duration;

use model::InvokeError;
use model::ports::Invoker;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::fixtures::{World, invocation};
use super::guests::Guests;
use crate::{Engine, EnvironmentState};

fn world() -> World {
    World::with(Guests::new(), |config| config.async_queue.sole_node = false)
}

/// Calls `f` again and again from several callers until `seconds` are over; how many calls ran.
fn callers(engine: &Arc<Engine>, node: &str, callers: usize, seconds: u64) -> JoinSet<usize> {
    let mut set = JoinSet::new();
    for caller in 0..callers {
        let (engine, node) = (engine.clone(), node.to_owned());
        set.spawn(async move {
            let end = tokio::time::Instant::now() + Duration::from_secs(seconds);
            let mut ran = 0;
            while tokio::time::Instant::now() < end {
                match engine.invoke(invocation("f", &format!("{node}-{caller}-{ran}"), "1")).await {
                    Ok(_) => ran += 1,
                    Err(InvokeError::Throttled(_)) => sleep(Duration::from_millis(50)).await,
                    Err(error) => panic!("{error}"),
                }
            }
            ran
        });
    }
    set
}

fn busy(engine: &Engine) -> usize {
    engine.environments().iter().filter(|shown| shown.state == EnvironmentState::Busy).count()
}

async fn total(set: JoinSet<usize>) -> usize {
    set.join_all().await.into_iter().sum()
}

#[tokio::test(start_paused = true)]
async fn two_nodes_share_a_limit_and_never_exceed_it() {
    let world = world();
    world.deploy("f", "sleep 300", |version| version.reserved_concurrency = Some(4));
    let other = world.beside();
    let one = callers(&world.engine, "one", 6, 30);
    // The first has all slots when the second comes.
    sleep(Duration::from_secs(3)).await;
    let two = callers(&other, "two", 6, 27);
    let mut most = 0;
    for _ in 0..600 {
        sleep(Duration::from_millis(37)).await;
        most = most.max(busy(&world.engine) + busy(&other));
    }
    assert!((3..=4).contains(&most), "{most}");
    let (one, two) = (total(one).await, total(two).await);
    // Four at a time for thirty seconds of 0.3 s each.
    assert!(one + two > 300, "{one} {two}");
    assert!(two > 120, "half of it for most of the time: {two} of {}", one + two);
}

#[tokio::test(start_paused = true)]
async fn slots_of_a_dead_node_come_back() {
    let world = world();
    world.deploy("f", "sleep 300", |version| version.reserved_concurrency = Some(2));
    let other = world.beside();
    assert!(total(callers(&other, "two", 4, 5)).await > 20);
    drop(other);
    let early = total(callers(&world.engine, "early", 4, 2)).await;
    assert_eq!(early, 0, "the dead node might still be admitting");
    sleep(Duration::from_secs(12)).await;
    let late = total(callers(&world.engine, "late", 4, 6)).await;
    assert!(late >= 36, "both slots for six seconds: {late}");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_alone_has_the_whole_account() {
    let world = World::with(Guests::new(), |config| {
        config.async_queue.sole_node = false;
        config.account_concurrency = 5;
    });
    world.deploy("f", "sleep 300", |_| {});
    let calls = callers(&world.engine, "one", 5, 3);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(busy(&world.engine), 5);
    assert_eq!(total(calls).await, 50);
    sleep(Duration::from_secs(10)).await;
    let left = world.store.range(&store::Range::prefix(vec![model::prefixes::SLOTS.byte])).await.unwrap();
    assert!(left.entries.is_empty(), "what is not used is given back");
}

//! Functions that isolate tenants: whose environment a call gets.

use std::time::Duration;

use model::ports::Invoker;
use model::{InvocationKind, InvokeError};
use serde_json::Value;
use tokio::time::sleep;

use super::fixtures::{World, invocation};
use super::guests::Guests;

/// Calls `f` for a tenant and returns what its guest was told of the call.
async fn call(world: &World, tenant: Option<&str>, id: &str) -> Result<Value, InvokeError> {
    let mut call = invocation("f", id, "1");
    call.tenant = tenant.map(str::to_owned);
    let outcome = world.engine.invoke(call).await?;
    Ok(serde_json::from_slice(&outcome.payload).unwrap())
}

fn isolating(world: &World, revision: &str) {
    world.deploy("f", "meta", |version| {
        version.per_tenant = true;
        version.revision = revision.into();
    });
}

#[tokio::test(start_paused = true)]
async fn an_environment_serves_one_tenant() {
    let world = World::new();
    isolating(&world, "1");
    for (round, (tenant, started)) in [("a", 1), ("b", 2), ("a", 2), ("b", 2), ("c", 3)].into_iter().enumerate() {
        let meta = call(&world, Some(tenant), &format!("r-{round}")).await.unwrap();
        assert_eq!((meta["tenantId"].as_str(), world.guests.started()), (Some(tenant), started));
    }
    isolating(&world, "2");
    call(&world, Some("a"), "r-6").await.unwrap();
    assert_eq!(world.guests.started(), 4, "a change reaches every tenant by an environment of its own");
    world.until("the former one of this tenant to end", |world| world.guests.alive() == 3).await;
    call(&world, Some("b"), "r-7").await.unwrap();
    assert_eq!(world.guests.started(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_call_names_a_tenant_exactly_where_they_are_isolated() {
    let world = World::new();
    isolating(&world, "1");
    let words = call(&world, None, "r-1").await.unwrap_err().to_string();
    assert!(words.starts_with("The invoked function is enabled with tenancy configuration. Add a valid"), "{words}");
    let event = invocation("f", "r-2", "1");
    assert!(matches!(world.engine.accept(event).await, Err(InvokeError::Unfit(_))));
    world.deploy("f", "meta", |_| {});
    let refused = call(&world, Some("a"), "r-3").await.unwrap_err();
    assert!(matches!(refused, InvokeError::Unfit(_)), "{refused}");
    assert_eq!(world.guests.started(), 0);
    assert_eq!(call(&world, None, "r-4").await.unwrap().get("tenantId"), None);
}

#[tokio::test(start_paused = true)]
async fn an_event_keeps_its_tenant() {
    let world = World::new();
    isolating(&world, "1");
    let mut event = invocation("f", "r-1", "1");
    (event.tenant, event.kind) = (Some("a".into()), InvocationKind::Event);
    world.engine.accept(event).await.unwrap();
    world.until("the event to be handled", |world| world.records.0.lock().len() == 1).await;
    call(&world, Some("a"), "r-2").await.unwrap();
    assert_eq!(world.guests.started(), 1, "the call finds the event's environment");
}

#[tokio::test(start_paused = true)]
async fn habits_start_nothing_for_nobody() {
    let world = World::with(Guests::booting(Duration::from_millis(20)), |config| config.keep_alive = None);
    isolating(&world, "1");
    for round in 0..20 {
        call(&world, Some("a"), &format!("r-{round}")).await.unwrap();
        sleep(Duration::from_secs(3_600)).await;
    }
    world.until("no environment to be left", |world| world.guests.alive() == 0).await;
    sleep(Duration::from_secs(7_200)).await;
    let tenants = world.guests.specs.lock().len();
    assert!(tenants <= 21, "{tenants} environments for 20 calls");
    assert_eq!(world.guests.alive(), 0);
}

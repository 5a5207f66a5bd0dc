//! Code that is compiled once for each package: when, where, and who gets it.

use std::sync::Arc;

use model::ports::Invoker;
use model::{CodeDigest, FunctionVersion, Runtime};
use serde_json::{Value, json};

use super::fixtures::{World, reference};
use super::guests::Guests;

/// A Python function with a package that is worth it.
fn large(version: &mut FunctionVersion) {
    version.runtime = Runtime::parse("python3.12").unwrap();
    version.code = CodeDigest::parse(&"1a".repeat(32)).unwrap();
}

fn file(world: &World) -> std::path::PathBuf {
    world.config.code_root.join(format!("{}.cache/python-3.12.1", "1a".repeat(32)))
}

async fn told(world: &World, name: &str) -> Value {
    let outcome = world.call(name, "1").await.unwrap();
    assert!(outcome.error.is_none());
    serde_json::from_slice(&outcome.payload).unwrap()
}

#[tokio::test]
async fn a_package_is_compiled_after_its_first_start_for_all_functions_that_have_it() {
    let world = World::with(Guests::new(), |config| config.ready_max = 0);
    world.deploy("f", "caches", |version| {
        large(version);
        version.environment.insert("COLOUR".into(), "blue".into());
    });
    assert_eq!(told(&world, "f").await, Value::Null);
    world.until("a cache", |world| world.engine.compiled() == 1).await;
    let made = std::fs::read(file(&world)).unwrap();
    let (order, _sum) = made.split_at(made.len() - 32);
    let order: Value = serde_json::from_slice(order).unwrap();
    assert_eq!(order, json!({"as": "/var/task", "root": "/var/task"}));
    {
        let specs = world.guests.specs.lock();
        let made = specs.last().unwrap();
        assert_eq!((made.code.as_ref(), made.layers.len()), (Some(&CodeDigest::parse(&"1a".repeat(32)).unwrap()), 0));
        let names: Vec<&str> = made.environment.iter().map(|(name, _)| name.as_str()).collect();
        for of_the_function in ["COLOUR", "AWS_SECRET_ACCESS_KEY", "_HANDLER", "AWS_LAMBDA_FUNCTION_NAME"] {
            assert!(!names.contains(&of_the_function), "{of_the_function}");
        }
    }
    world.until("its maker is gone", |world| world.guests.alive() == 1).await;
    world.deploy("g", "caches", large);
    let place = json!([["/var/cache/0/python-3.12.1", "/var/task"]]);
    assert_eq!(told(&world, "g").await, place);
    assert_eq!(world.guests.started(), 3, "it is made once");
}

#[tokio::test]
async fn a_deployed_package_is_compiled_before_its_first_start() {
    let world = World::with(Guests::new(), |config| config.ready_max = 0);
    world.deploy("f", "caches", large);
    world.deploy("small", "caches", |version| version.runtime = Runtime::parse("python3.12").unwrap());
    for name in ["small", "f", "none"] {
        world.engine.prepare(&reference(name));
    }
    world.until("a cache", |world| world.engine.compiled() == 1).await;
    assert_eq!(told(&world, "f").await, json!([["/var/cache/0/python-3.12.1", "/var/task"]]));
    let folders = std::fs::read_dir(&world.config.code_root).unwrap();
    let names: Vec<String> = folders.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(!names.contains(&"0a".repeat(32)), "a small package is not unpacked before its first call");
}

#[tokio::test]
async fn what_cannot_be_compiled_is_started_all_the_same() {
    let guests = Guests::new();
    guests.mute_compiler();
    let world = World::with(guests, |config| config.ready_max = 0);
    world.deploy("f", "caches", large);
    assert_eq!(told(&world, "f").await, Value::Null);
    world.until("its maker came and went", |world| world.guests.started() == 2 && world.guests.alive() == 1).await;
    assert!(!file(&world).exists());
    assert_eq!(told(&world, "f").await, Value::Null);
    assert_eq!(world.guests.started(), 2, "it is not tried again at once");
}

#[tokio::test]
async fn a_cache_goes_when_its_package_is_unpacked_again() {
    let mut world = World::with(Guests::new(), |config| config.ready_max = 0);
    world.deploy("f", "caches", large);
    told(&world, "f").await;
    world.until("a cache", |world| world.engine.compiled() == 1).await;
    std::fs::remove_dir_all(world.config.code_root.join("1a".repeat(32))).unwrap();
    std::fs::write(file(&world), "of the folder that is gone").unwrap();
    world.restart();
    let engine: Arc<crate::Engine> = world.engine.clone();
    engine.prepare(&reference("f"));
    let made = |world: &World| std::fs::read(file(world)).is_ok_and(|found| found.starts_with(b"{"));
    world.until("another cache", made).await;
}

//! Processor time: by weight between those who want it all, by quota where that is asked for, and only after the start.
//!
//! Start reading at `CHECKS`. Where no control group shares the processor, there is nothing to check.

use std::time::{Duration, Instant};

use sandbox::process::{SpawnerConfig, WallKind};
use sandbox::{Backend, SandboxSpec, WallState};
use tokio::io::AsyncReadExt;

use super::Check;
use super::world::{World, expect, limits};

pub const CHECKS: &[(&str, Check)] = &[
    ("processor time follows the memory size", weight),
    ("a processor quota holds after the start", quota),
    ("a processor quota that cannot be had refuses", no_quota),
];

const MIB: u64 = 1 << 20;

fn shared_by_group(world: &World) -> bool {
    world.with_backend(&world.config(&[]), async |backend| {
        let walls = backend.walls();
        walls.iter().any(|wall| wall.name == WallKind::Cpu.name() && wall.state == WallState::Hard)
    })
}

fn burning(world: &World, memory_bytes: u64) -> SandboxSpec {
    let mut spec = world.spec(&[("ATTEMPT", "burn"), ("MILLISECONDS", "60000")]);
    spec.memory_bytes = memory_bytes;
    spec
}

fn weight(world: &World) -> Result<(), String> {
    if !shared_by_group(world) {
        return Ok(());
    }
    world.with_backend(&world.config(&[]), async |backend| {
        let mut started = Vec::new();
        for memory in [256 * MIB, 1792 * MIB] {
            let mut one = backend.start(burning(world, memory)).await.map_err(|error| error.to_string())?;
            one.output.read_exact(&mut [0; 6]).await.unwrap();
            started.push(one);
        }
        // Seven times the memory; what others do on the machine blurs it for a while.
        let mut seen = Vec::new();
        for _ in 0..10 {
            let before: Vec<_> = started.iter().map(|one| one.control.usage().cpu).collect();
            tokio::time::sleep(Duration::from_millis(1500)).await;
            let used = started.iter().zip(before).map(|(one, before)| (one.control.usage().cpu - before).as_secs_f64());
            let used: Vec<f64> = used.collect();
            if used[1] > 2.0 * used[0] && used[1] < 15.0 * used[0] {
                return Ok(());
            }
            seen.push(used);
        }
        Err(format!("{seen:?} seconds"))
    })
}

fn with_quota(world: &World) -> SpawnerConfig {
    let mut config = world.config(&[]);
    config.cpu_quota = true;
    config
}

fn quota(world: &World) -> Result<(), String> {
    if !shared_by_group(world) {
        return Ok(());
    }
    world.with_backend(&with_quota(world), async |backend| {
        let mut one = backend.start(burning(world, 177 * MIB)).await.map_err(|error| error.to_string())?;
        one.output.read_exact(&mut [0; 6]).await.unwrap();
        // Processors that it had in this time.
        let share = async || {
            let (before, began) = (one.control.usage().cpu, Instant::now());
            tokio::time::sleep(Duration::from_millis(600)).await;
            (one.control.usage().cpu - before).as_secs_f64() / began.elapsed().as_secs_f64()
        };
        let starting = share().await;
        one.control.settle();
        let settled = share().await;
        expect(&format!("{starting} processors at the start"), starting > 0.3, true)?;
        // A tenth of a processor, give or take a period.
        expect(&format!("{settled} processors afterwards"), settled < 0.3, true)?;
        // A sandbox that gets more memory gets more time.
        one.control.assign(&limits(1769 * MIB, 512 * MIB)).await.map_err(|error| error.to_string())?;
        let larger = share().await;
        expect(&format!("{larger} processors with more memory"), larger > 0.3 && larger < 1.3, true)
    })
}

fn no_quota(world: &World) -> Result<(), String> {
    if shared_by_group(world) {
        return Ok(());
    }
    let error = sandbox::process::launch_spawner(&with_quota(world)).err().map(|error| error.to_string());
    expect(&format!("{error:?}"), error.is_some_and(|error| error.contains("quota")), true)
}

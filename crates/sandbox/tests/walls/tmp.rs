//! `/tmp`: its size is hard, it is not the function's memory, and nothing of it is left.
//!
//! Root's `/tmp` lies on the disk where the machine has loop devices and mke2fs; everybody's may lie in memory. Start
//! reading at `CHECKS`.

use std::collections::HashMap;
use std::fs;
use std::process::Command;

use sandbox::process::{SpawnerConfig, WallKind};
use sandbox::{Backend, SandboxSpec};
use tokio::io::AsyncReadExt;

use super::Check;
use super::world::{Outcome, World, expect, finish, limits, wait_until};

pub const CHECKS: &[(&str, Check)] = &[
    ("128 MB of memory fill 512 MB of /tmp", fills),
    ("128 MB of memory fill 512 MB of /tmp in memory", fills_memory),
    ("memory is limited beside a /tmp in memory", memory_beside_tmp),
    ("/tmp takes another size while it is in use", resized),
    ("/tmp takes another size in memory", resized_in_memory),
    ("a full disk is told as such", full_disk),
    ("a /tmp holds nothing of the one before", nothing_before),
    ("loop devices go with their sandboxes", loops_go),
];

const MIB: u64 = 1 << 20;

fn in_memory(world: &World) -> SpawnerConfig {
    let mut config = world.config(&[]);
    config.tmp_root = None;
    config
}

fn spec(world: &World, attempt: &str) -> SandboxSpec {
    let mut spec = world.spec(&[("ATTEMPT", attempt), ("MEGABYTES", "400")]);
    (spec.memory_bytes, spec.tmp_bytes) = (128 * MIB, 512 * MIB);
    spec
}

/// Whether this machine gives `/tmp` on disk, as `doctor` tells it.
fn on_disk(world: &World) -> bool {
    world.with_backend(&world.config(&[]), async |backend| {
        let walls = backend.walls();
        let wall = walls.iter().find(|wall| wall.name == WallKind::Tmp.name()).unwrap();
        if !wall.detail.contains("on the data folder's disk") {
            println!("    not on disk here: {}", wall.detail);
        }
        wall.detail.contains("on the data folder's disk")
    })
}

/// A line of `/proc/meminfo`, in bytes.
fn memory(field: &str) -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

fn filled(outcome: &Outcome, bytes: u64) -> Result<(), String> {
    let said = outcome.output.trim();
    let written: u64 =
        said.strip_prefix("DID ").and_then(|number| number.parse().ok()).ok_or(format!("{said} {:?}", outcome.exit))?;
    // A file system needs some blocks for itself: what is left of them is all that may be written above the size.
    expect(&format!("{written} bytes written"), (bytes..=bytes + 64 * 1024).contains(&written), true)
}

fn fills(world: &World) -> Result<(), String> {
    if !on_disk(world) {
        return Ok(());
    }
    // Other programs of the machine come and go; half of what was written would show.
    let before = memory("AnonPages:") + memory("Shmem:");
    let outcome = world.run(&world.config(&[]), spec(world, "fill-tmp-to-the-last-byte")).map_err(|e| e.to_string())?;
    let grown = (memory("AnonPages:") + memory("Shmem:")).saturating_sub(before);
    filled(&outcome, 512 * MIB)?;
    expect("memory peak", outcome.exit.usage.memory_peak_bytes <= 129 * MIB, true)?;
    expect(&format!("{} MiB of the host's memory", grown / MIB), grown < 256 * MIB, true)
}

fn fills_memory(world: &World) -> Result<(), String> {
    let outcome = world.run(&in_memory(world), spec(world, "fill-tmp-to-the-last-byte")).map_err(|e| e.to_string())?;
    filled(&outcome, 512 * MIB)?;
    expect("memory peak", outcome.exit.usage.memory_peak_bytes <= 128 * MIB, true)
}

fn memory_beside_tmp(world: &World) -> Result<(), String> {
    for attempt in ["memory-bomb", "shared-memory-bomb"] {
        let outcome = world.run(&in_memory(world), spec(world, attempt)).map_err(|error| error.to_string())?;
        if outcome.output.contains("BLOCKED") {
            // Where nobody counts memory that is no process's, there is none.
            expect(attempt, attempt == "shared-memory-bomb" && outcome.output.contains("not implemented"), true)?;
            continue;
        }
        expect(attempt, (outcome.exit.signal, outcome.exit.out_of_memory), (Some(libc::SIGKILL), true))?;
    }
    Ok(())
}

/// A guest waits until its `/tmp` is larger, and then fills it.
fn resize(world: &World, config: &SpawnerConfig) -> Result<(), String> {
    world.with_backend(config, async |backend| {
        let mut started =
            backend.start(spec(world, "fill-tmp-when-larger")).await.map_err(|error| error.to_string())?;
        started.output.read_exact(&mut [0; 6]).await.unwrap();
        started.control.assign(&limits(256 * MIB, 700 * MIB)).await.map_err(|error| error.to_string())?;
        let control = started.control.clone();
        filled(&finish(started).await, 700 * MIB)?;
        expect("an ended sandbox", control.assign(&limits(128 * MIB, 512 * MIB)).await.is_err(), true)
    })
}

fn resized(world: &World) -> Result<(), String> {
    if on_disk(world) { resize(world, &world.config(&[])) } else { Ok(()) }
}

fn resized_in_memory(world: &World) -> Result<(), String> {
    resize(world, &in_memory(world))
}

/// The data folder on a disk of its own that is smaller than `/tmp`.
fn full_disk(world: &World) -> Result<(), String> {
    if !on_disk(world) {
        return Ok(());
    }
    let (image, disk) = (world.path("disk.img"), world.path("disk"));
    fs::create_dir_all(&disk).unwrap();
    fs::File::create(&image).and_then(|file| file.set_len(400 * MIB)).unwrap();
    let run = |program: &str, arguments: &[&std::ffi::OsStr]| {
        let status = Command::new(program).args(arguments).status().map_err(|error| error.to_string())?;
        expect(program, status.success(), true)
    };
    run("mke2fs", &["-q".as_ref(), "-F".as_ref(), image.as_os_str()])?;
    run("mount", &["-o".as_ref(), "loop".as_ref(), image.as_os_str(), disk.as_os_str()])?;
    let mut config = world.config(&[]);
    config.tmp_root = Some(disk.clone());
    let outcome = world.run(&config, spec(world, "fill-tmp-to-the-last-byte"));
    // The last sandbox's image is unmounted a moment later than it ends.
    let umount = || Command::new("umount").arg(&disk).status().is_ok_and(|status| status.success());
    let unmounted = wait_until("the disk is unmounted", umount);
    let outcome = outcome.map_err(|error| error.to_string())?;
    // What was accepted has reached the disk; what is removed there gives the disk nothing back before the sandbox ends.
    let told = outcome.output.contains("BLOCKED") && outcome.output.contains("No space left");
    expect(&outcome.output, told, true)?;
    unmounted
}

/// Each guest looks for what the ones before have written, by name and by fresh blocks, and writes itself.
fn nothing_before(world: &World) -> Result<(), String> {
    for config in [world.config(&[]), in_memory(world)] {
        world.with_backend(&config, async |backend| {
            for round in 0..8 {
                let started = backend.start(spec(world, "traces")).await.map_err(|error| error.to_string())?;
                let outcome = finish(started).await;
                expect(&format!("round {round}"), outcome.output.trim(), "BLOCKED none")?;
            }
            Ok::<(), String>(())
        })?;
    }
    // The control: outside, the second one finds what the first has left.
    let folder = HashMap::from([("FOLDER", world.path("traces").display().to_string())]);
    fs::create_dir_all(world.path("traces")).unwrap();
    world.attempt_outside("traces", &folder);
    expect("the control", world.attempt_outside("traces", &folder).contains("DID"), true)
}

/// Loop devices whose file lies in the world's folder.
fn loops(world: &World) -> usize {
    let folder = world.folder.path().to_str().unwrap();
    let files = fs::read_dir("/sys/block").unwrap().flatten().map(|entry| entry.path().join("loop/backing_file"));
    files.filter_map(|path| fs::read_to_string(path).ok()).filter(|file| file.starts_with(folder)).count()
}

fn loops_go(world: &World) -> Result<(), String> {
    if !on_disk(world) {
        return Ok(());
    }
    let gone = |whose: &str| wait_until(&format!("the loops of {whose} are gone"), || loops(world) == 0);
    gone("the checks before")?;
    let outcome = world.attempt(&[], "open", &HashMap::from([("TARGET", "/dev/loop-control".to_owned())]));
    expect("inside", outcome.output.contains("BLOCKED"), true)?;
    gone("a sandbox")?;
    // Whoever is killed, with whatever is mounted.
    super::remains::kill_both(world, || expect("loops in use", loops(world) >= 3, true))?;
    gone("the dead")
}

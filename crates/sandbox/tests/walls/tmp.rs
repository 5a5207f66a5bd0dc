//! `/tmp`: its size is hard, it is not the function's memory, and nothing of it is left.
//!
//! Root's `/tmp` lies on the disk where the machine has loop devices and mke2fs; everybody's may lie in memory. Start
//! reading at `CHECKS`.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs;
use std::path::Path;
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
    ("loop devices that were made for sandboxes go with their server", made_devices_go),
];

const MIB: u64 = 1 << 20;
/// Loop devices that kernels make by themselves.
const HOST_DEVICES: u32 = 8;

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

fn run(program: &str, arguments: &[&OsStr]) -> Result<(), String> {
    let status = Command::new(program).args(arguments).status().map_err(|error| error.to_string())?;
    expect(program, status.success(), true)
}

/// The data folder on a disk of its own that is smaller than `/tmp`.
fn full_disk(world: &World) -> Result<(), String> {
    if !on_disk(world) {
        return Ok(());
    }
    let (image, disk) = (world.path("disk.img"), world.path("disk"));
    fs::create_dir_all(&disk).unwrap();
    fs::File::create(&image).and_then(|file| file.set_len(400 * MIB)).unwrap();
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

/// Numbers of the loop devices whose file lies in a folder.
fn loops_below(folder: &Path) -> BTreeSet<u32> {
    let names = fs::read_dir("/sys/block").unwrap().flatten().map(|entry| entry.path());
    let files = names.filter_map(|name| Some((fs::read_to_string(name.join("loop/backing_file")).ok()?, name)));
    let own = files.filter(|(file, _)| Path::new(file).starts_with(folder));
    own.filter_map(|(_, name)| name.to_str()?.rsplit_once("loop")?.1.parse().ok()).collect()
}

/// How many loop devices have their file in the world's folder.
fn loops(world: &World) -> usize {
    loops_below(world.folder.path()).len()
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

/// The host's own devices are all in use, so that the kernel makes others for the sandboxes.
fn made_devices_go(world: &World) -> Result<(), String> {
    if !on_disk(world) {
        return Ok(());
    }
    let taken = tempfile::tempdir().unwrap();
    let mut count = 0;
    while !(0..HOST_DEVICES).all(is_in_use) {
        let file = taken.path().join(count.to_string());
        fs::write(&file, [0; 4096]).unwrap();
        run("losetup", &["-f".as_ref(), file.as_os_str()])?;
        count += 1;
    }
    let made = world.with_backend(&world.config(&[]), async |_| loops_below(world.folder.path()));
    for number in loops_below(taken.path()) {
        run("losetup", &["-d".as_ref(), format!("/dev/loop{number}").as_ref()])?;
    }
    expect("devices beyond the host's", made.iter().all(|number| *number >= HOST_DEVICES) && !made.is_empty(), true)?;
    // One that another server has taken meanwhile is that one's to take away.
    let goes = |number: &u32| !Path::new(&format!("/sys/block/loop{number}")).exists() || is_in_use(*number);
    wait_until("the devices are gone", || made.iter().all(goes))
}

fn is_in_use(number: u32) -> bool {
    Path::new(&format!("/sys/block/loop{number}/loop")).exists()
}

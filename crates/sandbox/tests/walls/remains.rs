//! Nothing is left: after a sandbox, after the backend, after `kill -9` of the server or of the spawner.
//!
//! Looked at are processes, control groups, and the spawner's mounts and descriptors. Everything is waited for, nothing
//! is slept for. Start reading at `CHECKS`.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};

use sandbox::Backend;
use sandbox::process::{ProcessBackend, launch_spawner};
use tokio::io::AsyncReadExt;

use super::Check;
use super::world::{World, digest, expect, groups, wait_until};

pub const CHECKS: &[(&str, Check)] = &[
    ("a sandbox that has ended leaves nothing", after_a_sandbox),
    ("dropping the control handle ends the sandbox", after_a_drop),
    ("kill -9 of the server ends everything", after_the_server),
    ("kill -9 of the spawner ends the sandboxes", after_the_spawner),
    ("groups of a dead spawner go at the next start", stale_groups),
];

/// The descendants of a process, itself first; the keeper of `/tmp` images, where there is one, belongs to the spawner.
fn family(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    let mut next = 0;
    while next < all.len() {
        let path = format!("/proc/{0}/task/{0}/children", all[next]);
        let children = fs::read_to_string(path).unwrap_or_default();
        all.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        next += 1;
    }
    all
}

fn alive(pid: &u32) -> bool {
    // A zombie is dead; who reaps it is not this test's matter.
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z"))
}

fn after_a_sandbox(world: &World) -> Result<(), String> {
    let handle = launch_spawner(&world.config(&[])).map_err(|error| error.to_string())?;
    let spawner = handle.pid();
    let mine = format!("-{spawner}-");
    let inner = || -> usize {
        let own = groups().into_iter().filter(|group| group.to_string_lossy().contains(&mine));
        own.flat_map(|group| fs::read_dir(group).into_iter().flatten().flatten())
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .count()
    };
    let mounts = || fs::read_to_string(format!("/proc/{spawner}/mountinfo")).unwrap_or_default();
    let open = || fs::read_dir(format!("/proc/{spawner}/fd")).map(Iterator::count).unwrap_or(0);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let backend = ProcessBackend::new(handle).unwrap();
        // The spawner's report comes before its loop stands; after one refusal it does.
        let mut absent = world.spec(&[]);
        absent.code = Some(digest('8'));
        expect("absent code", backend.start(absent).await.is_err(), true)?;
        let (before, open_before) = (mounts(), open());
        let alone = family(spawner);
        for _ in 0..9 {
            let mut started = backend.start(world.spec(&[("ATTEMPT", "orphans")])).await.unwrap();
            started.output.read_exact(&mut [0; 6]).await.unwrap();
            // First process, guest, and what the guest left to the first process.
            expect("processes", family(spawner).len() > alone.len() + 3, true)?;
            started.control.kill();
            started.control.wait().await;
            expect("processes after the end", family(spawner), alone.clone())?;
            expect("groups after the end", inner(), 0)?;
        }
        expect("mounts", mounts(), before)?;
        // Up to sixteen images for `/tmp` are ready by now.
        expect("descriptors", (open_before..=open_before + 16).contains(&open()), true)
    })?;
    wait_until("the spawner has ended", || !alive(&spawner))?;
    let left: Vec<_> = groups().into_iter().filter(|group| group.to_string_lossy().contains(&mine)).collect();
    expect("groups", left, Vec::new())
}

fn after_a_drop(world: &World) -> Result<(), String> {
    let handle = launch_spawner(&world.config(&[])).map_err(|error| error.to_string())?;
    let spawner = handle.pid();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let backend = ProcessBackend::new(handle).unwrap();
        let alone = family(spawner).len();
        let started = backend.start(world.spec(&[("ATTEMPT", "sleep")])).await.unwrap();
        expect("a family", family(spawner).len(), alone + 2)?;
        drop(started);
        // A start that nobody waits for any more ends as well.
        let start = backend.start(world.spec(&[("ATTEMPT", "sleep")]));
        let _ = tokio::time::timeout(std::time::Duration::from_micros(10), start).await;
        for _ in 0..2000 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            if family(spawner).len() == alone {
                return Ok(());
            }
        }
        Err(format!("left: {:?}", family(spawner)))
    })
}

/// The server that is killed: starts sandboxes, says so, and sleeps.
pub fn server() -> ExitCode {
    let folder = std::env::args().nth(2).unwrap();
    let folder = Path::new(&folder);
    let mut config = sandbox::process::SpawnerConfig::new(folder.join("code"), folder.join("runtime"), "test");
    config.tmp_root = Some(folder.to_owned());
    let handle = launch_spawner(&config).unwrap();
    let spawner = handle.pid();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let backend = ProcessBackend::new(handle).unwrap();
        let mut held = Vec::new();
        for _ in 0..3 {
            let spec = sandbox::SandboxSpec {
                guest: sandbox::Guest::Bootstrap,
                root: None,
                code: Some(digest('a')),
                layers: Vec::new(),
                files: None,
                memory_bytes: 128 << 20,
                tmp_bytes: 1 << 20,
                environment: vec![("ATTEMPT".into(), "orphans".into())],
                held: false,
            };
            let mut started = backend.start(spec).await.unwrap();
            started.output.read_exact(&mut [0; 6]).await.unwrap();
            held.push(started);
        }
        // One runs, the others are frozen.
        if backend.freezes() {
            for started in &held[1..] {
                started.control.freeze()();
            }
            while super::frost::frozen_groups(spawner) < held.len() - 1 {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        }
        println!("{spawner}");
        std::io::stdout().flush().unwrap();
        std::future::pending::<()>().await;
    });
    ExitCode::SUCCESS
}

/// A running server and its spawner's id.
fn start_server(world: &World) -> (Child, u32) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .arg("server")
        .arg(world.folder.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    (child, line.trim().parse().unwrap())
}

fn after_the_server(world: &World) -> Result<(), String> {
    let (mut child, spawner) = start_server(world);
    let everybody = family(spawner);
    expect("a large family", everybody.len() >= 10, true)?;
    child.kill().unwrap();
    child.wait().unwrap();
    wait_until("all processes have ended", || !everybody.iter().any(alive))?;
    let mine = format!("-{spawner}-");
    wait_until("groups are gone", || !groups().iter().any(|group| group.to_string_lossy().contains(&mine)))
}

fn after_the_spawner(world: &World) -> Result<(), String> {
    let (mut child, spawner) = start_server(world);
    let everybody = family(spawner);
    let pid = rustix::process::Pid::from_raw(spawner as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    wait_until("all processes have ended", || !everybody.iter().any(alive))?;
    child.kill().unwrap();
    child.wait().unwrap();
    Ok(())
}

/// Kills server and spawner while sandboxes run, after a look at them.
pub fn kill_both(world: &World, look: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
    let (mut child, spawner) = start_server(world);
    let everybody = family(spawner);
    let seen = look();
    let pid = rustix::process::Pid::from_raw(spawner as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    wait_until("all processes have ended", || !everybody.iter().any(alive))?;
    seen
}

fn stale_groups(world: &World) -> Result<(), String> {
    // What the check before has left behind is gone once another spawner has started.
    drop(launch_spawner(&world.config(&[])).map_err(|error| error.to_string())?);
    let dead = |group: &std::path::PathBuf| {
        let name = group.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.rsplit('-').nth(1).and_then(|pid| pid.parse().ok()).is_none_or(|pid: u32| !alive(&pid))
    };
    let left: Vec<_> = groups().into_iter().filter(dead).collect();
    if world.is_root() { expect("groups of the dead", left, Vec::new()) } else { Ok(()) }
}

//! Measures the making of sandboxes: from request to the guest's exec, and from kill to removal.
//!
//! `cargo run -p sandbox --example create [COUNT] [memory]`. The guest is a script that sleeps. `memory` keeps `/tmp` off
//! the disk. Prints the walls, then medians of
//! one after the other, then of moving into sandboxes that were made before, then how many a second start when 32 are in flight, then what one that waits holds. The example is its own spawner.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use model::CodeDigest;
use sandbox::process::{ProcessBackend, SpawnerConfig, launch_spawner, spawner_main};
use sandbox::{Assignment, Backend, Guest, Occupant, SandboxSpec};

#[allow(clippy::print_stdout, reason = "the figures are the output")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let first = arguments.next();
    if first.as_deref() == Some("__spawner") {
        spawner_main();
    }
    sandbox::privilege::raise_file_limit()?;
    let count: usize = first.and_then(|text| text.parse().ok()).unwrap_or(200);
    let folder = tempfile::tempdir()?;
    let (code, runtime) = (folder.path().join("code"), folder.path().join("runtime"));
    let digest = sleeping_code(&code)?;
    std::fs::create_dir_all(&runtime)?;
    let mut config = SpawnerConfig::new(code, runtime, "bench");
    if arguments.next().is_none_or(|word| word != "memory") {
        config.tmp_root = Some(folder.path().to_owned());
    }
    let (began, handle) = (Instant::now(), launch_spawner(&config)?);
    println!("spawner ready in {:?}", began.elapsed());
    for wall in handle.walls() {
        println!("{:22} {:?}: {}", wall.name, wall.state, wall.detail);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let backend = std::sync::Arc::new(ProcessBackend::new(handle)?);
        let spec = SandboxSpec {
            guest: Guest::Bootstrap,
            root: None,
            code: Some(digest.clone()),
            layers: Vec::new(),
            files: None,
            memory_bytes: 128 << 20,
            tmp_bytes: 512 << 20,
            environment: vec![("PATH".into(), "/usr/bin:/bin".into())],
            held: false,
        };
        let (mut starts, mut ends) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let began = Instant::now();
            let started = backend.start(spec.clone()).await?;
            starts.push(began.elapsed());
            let began = Instant::now();
            started.control.kill();
            started.control.wait().await;
            ends.push(began.elapsed());
        }
        tell("start ", starts);
        tell("end   ", ends);
        move_in(&backend, &spec, count).await?;
        let began = Instant::now();
        let tasks: Vec<_> = (0..32)
            .map(|_| {
                let (backend, spec) = (backend.clone(), spec.clone());
                tokio::spawn(async move {
                    for _ in 0..count.div_ceil(32) {
                        let started = backend.start(spec.clone()).await?;
                        started.control.kill();
                        started.control.wait().await;
                    }
                    Ok::<_, sandbox::Error>(())
                })
            })
            .collect();
        for task in tasks {
            task.await??;
        }
        let made = count.div_ceil(32) * 32;
        println!("{:.0} starts and ends a second, 32 at once", made as f64 / began.elapsed().as_secs_f64());
        hold(&backend, &spec, count).await
    })
}

/// Tells how long it takes somebody to move into a sandbox that was made before.
#[allow(clippy::print_stdout, reason = "the figures are the output")]
async fn move_in(backend: &ProcessBackend, spec: &SandboxSpec, count: usize) -> Result<(), Box<dyn std::error::Error>> {
    let SandboxSpec { guest, code, layers, memory_bytes, tmp_bytes, environment, held, .. } = spec.clone();
    let vacant = SandboxSpec { guest: Guest::Vacant, code: None, environment: Vec::new(), ..spec.clone() };
    let occupant = Some(Occupant { guest, environment, held });
    let assignment = Assignment { code, layers, memory_bytes: memory_bytes * 2, tmp_bytes, occupant };
    let (mut starts, mut moves) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let began = Instant::now();
        let started = backend.start(vacant.clone()).await?;
        starts.push(began.elapsed());
        let began = Instant::now();
        started.control.assign(&assignment).await?;
        moves.push(began.elapsed());
        started.control.kill();
        started.control.wait().await;
    }
    tell("vacant", starts);
    tell("moving", moves);
    Ok(())
}

/// A package below `code` whose program waits.
fn sleeping_code(code: &Path) -> Result<CodeDigest, Box<dyn std::error::Error>> {
    let digest = CodeDigest::parse(&"a".repeat(64)).ok_or("digest")?;
    let task = code.join(digest.as_str());
    std::fs::create_dir_all(&task)?;
    let bootstrap = task.join("bootstrap");
    std::fs::write(&bootstrap, "#!/bin/sh\nexec sleep 1000\n")?;
    std::fs::set_permissions(&bootstrap, std::fs::Permissions::from_mode(0o755))?;
    Ok(digest)
}

/// Tells what sandboxes hold that wait.
#[allow(clippy::print_stdout, reason = "the figures are the output")]
async fn hold(backend: &ProcessBackend, spec: &SandboxSpec, count: usize) -> Result<(), Box<dyn std::error::Error>> {
    let before = available_kib()?;
    let mut held = Vec::new();
    for _ in 0..count {
        held.push(backend.start(spec.clone()).await?);
    }
    println!("{} KiB of the host's memory for each of {count} that wait", (before - available_kib()?) / count as i64);
    Ok(())
}

/// Memory that the host could still give.
fn available_kib() -> Result<i64, Box<dyn std::error::Error>> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:")).ok_or("MemAvailable")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

#[allow(clippy::print_stdout, reason = "the figures are the output")]
fn tell(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let quantile = |percent: usize| times[times.len() * percent / 100];
    println!("{what} p10 {:?}  p50 {:?}", quantile(10), quantile(50));
}

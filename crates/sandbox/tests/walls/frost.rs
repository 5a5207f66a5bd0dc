//! Freezing: nothing of a frozen sandbox runs, all of it goes on afterwards, and it can be ended in between.
//!
//! `guest` is what runs inside. Where the host cannot freeze, that it says so is all that is looked at.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sandbox::process::ProcessBackend;
use sandbox::{Backend, Control, Started};
use tokio::io::AsyncReadExt;
use tokio::time::sleep;

use super::Check;
use super::attempts::fork;
use super::world::{World, expect, groups};

pub const CHECKS: &[(&str, Check)] = &[
    ("a frozen sandbox uses no processor time and goes on when it is thawed", stops_and_goes_on),
    ("what is forked while a sandbox is frozen for the first time is frozen too", forks),
    ("a thaw that comes before the freeze is done wins", thaw_wins),
    ("a frozen sandbox can be ended", ends),
];

/// What the guests of these checks do.
pub fn guest(name: &str) -> Result<String, String> {
    match name {
        // A process without a parent, in a session of its own, and a thread.
        "count" => {
            if fork().is_none() {
                let _ = rustix::process::setsid();
                if fork().is_none() {
                    spin();
                }
                std::process::exit(0);
            }
            std::thread::spawn(|| spin());
        }
        "breed" => {
            println!("READY");
            loop {
                if fork().is_none() {
                    std::thread::sleep(Duration::from_millis(2));
                    std::process::exit(0);
                }
                while rustix::process::wait(rustix::process::WaitOptions::NOHANG).is_ok_and(|found| found.is_some()) {}
            }
        }
        other => panic!("no attempt {other}"),
    }
    println!("READY");
    spin()
}

fn spin() -> ! {
    loop {
        std::hint::spin_loop();
    }
}

/// Starts an attempt that says when it is ready; its output is read on, as nobody may wait for it.
async fn started(world: &World, backend: &ProcessBackend, attempt: &str) -> Started {
    let mut started = backend.start(world.spec(&[("ATTEMPT", attempt)])).await.unwrap();
    started.output.read_exact(&mut [0; 6]).await.unwrap();
    started
}

/// Waits until the sandbox uses no time in a while in which it would use a lot.
async fn stands_still(control: &dyn Control) -> Result<(), String> {
    for _ in 0..100 {
        let before = control.usage().cpu;
        sleep(Duration::from_millis(60)).await;
        if control.usage().cpu == before {
            return Ok(());
        }
    }
    Err("it runs on".to_owned())
}

async fn runs(control: &dyn Control) -> Result<(), String> {
    let before = control.usage().cpu;
    for _ in 0..500 {
        sleep(Duration::from_millis(10)).await;
        if control.usage().cpu > before + Duration::from_millis(20) {
            return Ok(());
        }
    }
    Err("it does not run".to_owned())
}

/// Calls `body` with a backend if this host freezes.
fn where_frozen(world: &World, body: impl AsyncFnOnce(&ProcessBackend) -> Result<(), String>) -> Result<(), String> {
    world.with_backend(&world.config(&[]), async |backend| {
        if backend.freezes() {
            return body(backend).await;
        }
        // What cannot be done does no harm.
        let started = started(world, backend, "count").await;
        started.control.freeze()();
        runs(&*started.control).await?;
        started.control.thaw();
        Ok(())
    })
}

fn stops_and_goes_on(world: &World) -> Result<(), String> {
    where_frozen(world, async |backend| {
        let started = started(world, backend, "count").await;
        let control = &*started.control;
        for _ in 0..3 {
            runs(control).await?;
            control.freeze()();
            stands_still(control).await?;
            expect("it holds its processes", control.held().tasks >= 3, true)?;
            expect("it holds its memory", control.held().memory_bytes > 0, true)?;
            control.thaw();
        }
        runs(control).await
    })
}

fn forks(world: &World) -> Result<(), String> {
    where_frozen(world, async |backend| {
        for _ in 0..5 {
            let started = started(world, backend, "breed").await;
            runs(&*started.control).await?;
            started.control.freeze()();
            stands_still(&*started.control).await?;
        }
        Ok(())
    })
}

fn thaw_wins(world: &World) -> Result<(), String> {
    where_frozen(world, async |backend| {
        let started = started(world, backend, "count").await;
        let control = &*started.control;
        // First while the freezer is asked for, then with it there.
        for _ in 0..20 {
            let freeze = control.freeze();
            control.thaw();
            freeze();
            control.freeze()();
            control.thaw();
            runs(control).await?;
        }
        Ok(())
    })
}

fn ends(world: &World) -> Result<(), String> {
    where_frozen(world, async |backend| {
        let started = started(world, backend, "count").await;
        started.control.freeze()();
        stands_still(&*started.control).await?;
        started.control.kill();
        expect("it was killed", started.control.wait().await.signal, Some(9))?;
        expect("nothing is measured of it", started.control.held().tasks, 0)
    })
}

/// Groups below those of a spawner in which everything is frozen.
pub fn frozen_groups(spawner: u32) -> usize {
    let mine = format!("-{spawner}-");
    let own = groups().into_iter().filter(|group| group.to_string_lossy().contains(&mine));
    let below = |group: PathBuf| std::fs::read_dir(group).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_frozen = |folder: &Path| {
        std::fs::read_to_string(folder.join("cgroup.events"))
            .is_ok_and(|text| text.lines().any(|line| line == "frozen 1"))
    };
    own.flat_map(below).filter(|folder| is_frozen(folder)).count()
}

//! The server that root started: it gives its privileges away and still reaches its data and its sandboxes.
//!
//! It needs a process of its own, since privileges cannot be taken back: `server` runs in it.
//! Only root has something to give away; an ordinary user's run passes at once.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use sandbox::process::{ProcessBackend, SpawnerConfig, launch_spawner};
use sandbox::{Backend, Guest, SandboxSpec, privilege};
use tokio::io::AsyncReadExt;

use super::Check;
use super::world::{World, digest, expect};

pub const CHECKS: &[(&str, Check)] = &[("a server without privilege reaches its data and its sandboxes", dropped)];

fn dropped(world: &World) -> Result<(), String> {
    if !world.is_root() {
        return Ok(());
    }
    let private = world.path("private");
    fs::create_dir_all(&private).unwrap();
    fs::set_permissions(&private, fs::Permissions::from_mode(0o700)).unwrap();
    let bound = PathBuf::from("/run/dunlin");
    let had = bound.exists();
    let output = Command::new(std::env::current_exe().unwrap())
        .arg("dropped")
        .arg(world.folder.path())
        .output()
        .map_err(|error| error.to_string())?;
    if !had {
        let _ = fs::remove_dir(&bound);
    }
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    expect(&said, output.status.success(), true)?;
    let data = private.join("data");
    expect("the data folder's owner", data.metadata().unwrap().uid(), privilege::SERVICE_ID)?;
    expect("what was written", fs::read_to_string(data.join("written")).unwrap().as_str(), "x")
}

/// The process that gives its privileges away. Panics where something is not as it should be.
pub fn server() -> ExitCode {
    let folder = PathBuf::from(std::env::args().nth(2).unwrap());
    let data = folder.join("private/data");
    let id = privilege::SERVICE_ID;
    fs::create_dir_all(data.join("code").join(digest('a').as_str())).unwrap();
    fs::create_dir_all(data.join("runtime")).unwrap();
    let bootstrap = data.join("code").join(digest('a').as_str()).join("bootstrap");
    fs::write(&bootstrap, "#!/bin/sh\necho ready\nexec sleep 1000\n").unwrap();
    fs::set_permissions(&bootstrap, fs::Permissions::from_mode(0o755)).unwrap();

    let data = privilege::prepare_data_dir(&data, id, id).unwrap();
    let handle = launch_spawner(&SpawnerConfig::new(data.join("code"), data.join("runtime"), "test")).unwrap();
    privilege::drop_to(id, id).unwrap();

    fs::write(data.join("written"), "x").unwrap();

    assert!(fs::read("/etc/shadow").is_err(), "reads what root reads");
    let status = fs::read_to_string("/proc/self/status").unwrap();
    for line in ["CapEff:", "CapPrm:", "CapBnd:", "CapInh:", "CapAmb:"] {
        assert!(status.contains(&format!("{line}\t0000000000000000")), "{line} {status}");
    }
    assert!(status.contains("NoNewPrivs:\t1") && status.contains(&format!("Uid:\t{id}\t{id}\t{id}\t{id}")), "{status}");

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let backend = ProcessBackend::new(handle).unwrap();
        let spec = SandboxSpec {
            guest: Guest::Bootstrap,
            root: None,
            code: Some(digest('a')),
            layers: Vec::new(),
            files: None,
            memory_bytes: 128 << 20,
            tmp_bytes: 1 << 20,
            environment: vec![("PATH".into(), "/usr/bin:/bin".into())],
            held: false,
        };
        let mut started = backend.start(spec).await.unwrap();
        started.output.read_exact(&mut [0; 6]).await.unwrap();
        assert!(started.control.held().memory_bytes > 0);
        started.control.kill();
        assert_eq!(started.control.wait().await.signal, Some(libc::SIGKILL));
    });
    ExitCode::SUCCESS
}

//! Guests that are commands: words for a shell, sockets in their network for the server, and an end in order.

use std::time::Duration;

use sandbox::{Backend, COMMAND_VARIABLE, Guest, Started};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::Check;
use super::world::{World, expect, finish};

pub const CHECKS: &[(&str, Check)] = &[
    ("a command runs in a shell that does not see its own words", words),
    ("every process of a command is asked to end", ends),
    ("sockets of a sandbox lead into its network and nowhere else", sockets),
    ("plain guests have sockets too, and those that have ended none", plain_sockets),
];

fn spec(world: &World, command: &str) -> sandbox::SandboxSpec {
    let mut spec = world.spec(&[("PATH", "/usr/bin:/bin"), (COMMAND_VARIABLE, command)]);
    spec.guest = Guest::Command;
    spec
}

fn words(world: &World) -> Result<(), String> {
    let command = r#"echo "$PWD ${DUNLIN_WEB_COMMAND-hidden} $0 'a  b'" && exit 4"#;
    let outcome = world.run(&world.config(&[]), spec(world, command)).map_err(|error| error.to_string())?;
    expect("output", outcome.output.as_str(), "/var/task hidden /bin/sh 'a  b'\n")?;
    expect("code", outcome.exit.code, Some(4))
}

/// Reads until a line has come.
async fn line(started: &mut Started, wanted: &str) -> Result<(), String> {
    let mut held = Vec::new();
    while !String::from_utf8_lossy(&held).contains(wanted) {
        let mut piece = [0; 256];
        let read = started.output.read(&mut piece).await.map_err(|error| error.to_string())?;
        if read == 0 {
            return Err(format!("no {wanted:?} but {:?}", String::from_utf8_lossy(&held)));
        }
        held.extend_from_slice(&piece[..read]);
    }
    Ok(())
}

fn ends(world: &World) -> Result<(), String> {
    world.with_backend(&world.config(&[]), async |backend| {
        let command = "sh -c 'trap \"echo child; exit\" TERM; echo up; while :; do sleep 0.01; done' & \
                       trap 'wait; echo asked; exit 5' TERM; wait; wait";
        let mut started = backend.start(spec(world, command)).await.map_err(|error| error.to_string())?;
        line(&mut started, "up\n").await?;
        started.control.terminate();
        started.control.terminate();
        let outcome = finish(started).await;
        // Shells may say more of what the signal ended.
        expect("the child was asked", outcome.output.contains("child\n"), true)?;
        expect("the shell was asked", outcome.output.contains("asked\n"), true)?;
        expect("code", outcome.exit.code, Some(5))?;
        // Who does not know the signal is ended by it.
        let mut started = backend.start(spec(world, "echo up; sleep 100")).await.map_err(|error| error.to_string())?;
        line(&mut started, "up\n").await?;
        started.control.terminate();
        let exit = finish(started).await.exit;
        expect("ended", exit.signal.or(exit.code.map(|code| code - 128)), Some(15))
    })
}

fn sockets(world: &World) -> Result<(), String> {
    world.with_backend(&world.config(&[]), async |backend| {
        let mut started = backend.start(spec(world, "sleep 100")).await.map_err(|error| error.to_string())?;
        let api = started.listeners.runtime_api.take().ok_or("no network")?;
        let outside = TcpListener::bind("127.0.0.1:0").await.unwrap();
        for round in 0..3 {
            let mut sockets = started.control.sockets().await.map_err(|error| error.to_string())?;
            expect("several at once", sockets.len() > 1, true)?;
            let inner = sockets.pop().ok_or("none")?.connect("127.0.0.1:9001".parse().unwrap());
            let (accepted, connected) = tokio::join!(api.accept(), inner);
            let (mut accepted, mut connected) = (accepted.unwrap().0, connected.map_err(|error| error.to_string())?);
            connected.write_all(b"in").await.unwrap();
            let mut got = [0; 2];
            accepted.read_exact(&mut got).await.unwrap();
            expect(&format!("round {round}"), &got[..], b"in")?;
            let elsewhere = sockets.pop().ok_or("none")?.connect(outside.local_addr().unwrap()).await;
            expect("the host's own port", elsewhere.map(drop).map_err(|error| error.kind()), {
                Err(std::io::ErrorKind::ConnectionRefused)
            })?;
        }
        let reached = tokio::time::timeout(Duration::from_millis(50), outside.accept()).await;
        expect("somebody came outside", reached.is_ok(), false)?;
        started.control.kill();
        finish(started).await;
        Ok(())
    })
}

fn plain_sockets(world: &World) -> Result<(), String> {
    world.with_backend(&world.config(&[]), async |backend| {
        let mut plain = backend.start(world.spec(&[("ATTEMPT", "sleep")])).await.map_err(|error| error.to_string())?;
        let api = plain.listeners.runtime_api.take().ok_or("no network")?;
        let mut sockets = plain.control.sockets().await.map_err(|error| error.to_string())?;
        let inner = sockets.pop().ok_or("none")?.connect("127.0.0.1:9001".parse().unwrap());
        let (accepted, connected) = tokio::join!(api.accept(), inner);
        expect("a plain guest's network", accepted.is_ok() && connected.is_ok(), true)?;
        // It hears nothing of it, and is killed as ever.
        plain.control.terminate();
        plain.control.kill();
        expect("signal", finish(plain).await.exit.signal, Some(9))?;
        let started = backend.start(spec(world, "exit 0")).await.map_err(|error| error.to_string())?;
        let control = started.control.clone();
        finish(started).await;
        expect("one that has ended", control.sockets().await.is_err(), true)
    })
}

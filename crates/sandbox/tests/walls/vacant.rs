//! Sandboxes that are made for nobody: who moves in finds what a guest finds that was started, and nobody comes twice.
//!
//! That every attempt of `cases` is blocked in them as well is tried there.

use model::CodeDigest;
use sandbox::process::{ProcessBackend, WallKind};
use sandbox::{Backend, BesideSpec, COMMAND_VARIABLE, Error, Guest, SandboxSpec};

use super::Check;
use super::world::{NO_BOOTSTRAP, World, expect, finish, group_folders, limits, line, moving, wait_until};

pub const CHECKS: &[(&str, Check)] = &[
    ("an occupant is what a guest is that was started", same),
    ("an occupant has the layers and the limits of its assignment", assigned),
    ("nobody moves in twice, nor without code, nor where somebody is", once),
    ("an occupant that cannot be executed is told with the system's words", refused),
    ("an occupant that is held begins after programs beside it", held),
    ("a command moves in, is connected to and asked to end", command),
    ("a sandbox that stays vacant ends like any other", unused),
    ("whoever comes next finds nothing of those before", apart),
];

/// All that a shell can say of what it is and of what it has.
const SELF: &str = r#"#!/bin/sh
id -u; id -g; echo "$MINE $PWD $$ $PPID $(umask) $(ulimit -n) $(ulimit -c) $(hostname)"
grep -E 'Groups|Cap|NoNewPrivs|Seccomp|NSpid|NSsid|Shd|Sig[PIBC]' /proc/self/status
for fd in /proc/self/fd/*; do echo "${fd##*/} $(readlink "$fd" | sed 's/[0-9]\{1,\}//')"; done
cut -d' ' -f4- /proc/self/mountinfo | sed -E 's/loop[0-9]+/loop/; s#fd/[0-9]+#fd#; s/(master|shared):[0-9]+//' | sort
cat /proc/self/oom_score_adj /proc/self/cgroup | sed -E 's#/[0-9]+$#/N#'
ls -lnd /tmp /var/task /opt /proc/1 /var/cache/0 | awk '{print $1, $3, $4, $NF}'
set -- /proc/[0-9]*; echo $#
env | sort
"#;

fn words(error: Error) -> String {
    error.to_string()
}

/// Packages of these checks alone.
fn package(letter: char) -> CodeDigest {
    CodeDigest::parse(&format!("7{letter}").repeat(32)).unwrap()
}

fn add(world: &World, letter: char, name: &str, text: &str) -> CodeDigest {
    world.add_package(package(letter), name, text)
}

fn spec(world: &World, letter: char, bootstrap: &str) -> SandboxSpec {
    let code = add(world, letter, "bootstrap", bootstrap);
    SandboxSpec { code: Some(code), ..world.spec(&[("PATH", "/usr/bin:/bin"), ("MINE", "own")]) }
}

fn same(world: &World) -> Result<(), String> {
    for off in [&[][..], &[WallKind::Landlock], &[WallKind::Memory, WallKind::Tasks]] {
        world.with_backend(&world.config(off), async |backend| {
            let spec = SandboxSpec { tmp_bytes: 512 << 20, ..spec(world, 'd', SELF) };
            let one = finish(backend.start(spec.clone()).await.map_err(words)?).await;
            let other = finish(world.move_in(backend, spec).await.map_err(words)?).await;
            expect("code", other.exit.code, Some(0))?;
            expect("it says something", one.output.lines().count() > 30, true)?;
            let (one, other): (Vec<&str>, Vec<&str>) = (one.output.lines().collect(), other.output.lines().collect());
            let alone = |these: &[&str], those: &[&str]| -> Vec<String> {
                these.iter().filter(|line| !those.contains(line)).map(|line| (*line).to_owned()).collect()
            };
            expect("what differs", (alone(&one, &other), alone(&other, &one)), (Vec::new(), Vec::new()))?;
            expect("lines", other.len(), one.len())
        })?;
    }
    Ok(())
}

fn assigned(world: &World) -> Result<(), String> {
    world.with_backend(&world.config(&[]), async |backend| {
        let layers = [add(world, 'e', "lib/one", "1"), add(world, 'f', "lib/two", "2")];
        let script =
            "#!/bin/sh\nls /opt/lib; df -m /tmp | awk 'END { print ($4 > 695 && $4 < 705) }'; echo x > /tmp/x\n";
        let spec = SandboxSpec { layers: layers.to_vec(), tmp_bytes: 700 << 20, ..spec(world, 'd', script) };
        let outcome = finish(world.move_in(backend, spec).await.map_err(words)?).await;
        expect("output", outcome.output.as_str(), "one\ntwo\n1\n")?;
        // A bootstrap of a layer, where the code has none.
        let layer = add(world, '1', "bootstrap", "#!/bin/sh\necho from a layer\n");
        let bare = Some(add(world, '2', "x", ""));
        let spec = SandboxSpec { code: bare, layers: vec![layer], ..world.spec(&[("PATH", "/usr/bin:/bin")]) };
        let outcome = finish(world.move_in(backend, spec).await.map_err(words)?).await;
        expect("output", outcome.output.as_str(), "from a layer\n")
    })
}

fn once(world: &World) -> Result<(), String> {
    world.with_backend(&world.config(&[]), async |backend| {
        let spec = spec(world, 'd', "#!/bin/sh\necho up; sleep 100\n");
        let mut started = world.vacant(backend).await.map_err(words)?;
        let control = started.control.clone();
        expect("nothing is held", control.begin().await.is_err(), true)?;
        let agent = BesideSpec { path: "/bin/true".into(), folder: "/tmp".into(), environment: Vec::new() };
        expect("beside nobody", control.launch(&agent).await.is_err(), true)?;
        // Limits alone change nothing else.
        control.assign(&limits(200 << 20, 512 << 20)).await.map_err(words)?;
        let mut nobody = moving(&spec);
        nobody.occupant = None;
        expect("code for nobody", control.assign(&nobody).await.is_err(), true)?;
        let mut homeless = moving(&spec);
        homeless.code = None;
        expect("without code", control.assign(&homeless).await.is_err(), true)?;
        let mut strange = moving(&spec);
        strange.occupant.as_mut().unwrap().guest = Guest::Compiler;
        expect("one that does not move", control.assign(&strange).await.is_err(), true)?;
        control.assign(&moving(&spec)).await.map_err(words)?;
        line(&mut started, "up\n").await?;
        expect("twice", control.assign(&moving(&spec)).await.is_err(), true)?;
        expect("it has begun", control.begin().await.is_err(), true)?;
        control.assign(&limits(256 << 20, 512 << 20)).await.map_err(words)?;
        control.kill();
        expect("signal", finish(started).await.exit.signal, Some(9))?;
        let plain = backend.start(spec.clone()).await.map_err(words)?;
        expect("where somebody is", plain.control.assign(&moving(&spec)).await.is_err(), true)?;
        plain.control.kill();
        finish(plain).await;
        let with_code = SandboxSpec { guest: Guest::Vacant, ..spec };
        expect("made with code", backend.start(with_code).await.is_err(), true)
    })
}

fn refused(world: &World) -> Result<(), String> {
    world.with_backend(&world.config(&[]), async |backend| {
        let bare = add(world, '2', "x", "");
        let folder = add(world, '3', "bootstrap/x", "");
        let text = add(world, '4', "bootstrap", "no program");
        for (code, words) in
            [(bare, NO_BOOTSTRAP), (folder, NO_BOOTSTRAP), (text, "fork/exec /var/task/bootstrap: exec format error")]
        {
            let started = world.vacant(backend).await.map_err(self::words)?;
            let spec = SandboxSpec { code: Some(code), ..world.spec(&[]) };
            let Err(Error::Entrypoint(found)) = started.control.assign(&moving(&spec)).await else {
                return Err("no such error".to_owned());
            };
            expect("words", found.as_str(), words)?;
            // Nobody can try again: it ends by itself.
            finish(started).await;
        }
        let started = world.vacant(backend).await.map_err(words)?;
        let spec = SandboxSpec { code: Some(package('9')), ..world.spec(&[]) };
        let missing = started.control.assign(&moving(&spec)).await;
        expect("missing code", matches!(missing, Err(Error::CodeMissing(code)) if code == package('9')), true)
    })
}

fn held(world: &World) -> Result<(), String> {
    world.with_backend(&world.config(&[]), async |backend| {
        let script = "#!/bin/sh\nls /tmp/first; echo \"$MINE\"; exit 6\n";
        let spec = SandboxSpec { held: true, ..spec(world, 'd', script) };
        add(world, 'd', "agent", "#!/bin/sh\ntouch /tmp/first\n");
        let mut started = world.move_in(backend, spec).await.map_err(words)?;
        let control = started.control.clone();
        let environment = vec![("PATH".to_owned(), "/usr/bin:/bin".to_owned())];
        let agent = BesideSpec { path: "/var/task/agent".into(), folder: "/tmp".into(), environment };
        let beside = control.launch(&agent).await.map_err(words)?;
        expect("code", control.left(beside.number).await.code, Some(0))?;
        control.begin().await.map_err(words)?;
        expect("once", control.begin().await.is_err(), true)?;
        let seen = line(&mut started, "own\n").await?;
        expect("what it finds", seen.as_str(), "/tmp/first\nown\n")?;
        expect("the guest's code", control.left(sandbox::GUEST).await.code, Some(6))?;
        control.kill();
        finish(started).await;
        Ok(())
    })
}

fn command(world: &World) -> Result<(), String> {
    world.with_backend(&world.config(&[]), async |backend| {
        let command =
            r#"trap 'echo asked; exit 5' TERM; echo "$PWD ${DUNLIN_WEB_COMMAND-hidden}"; while :; do sleep 0.01; done"#;
        let environment = vec![("PATH".into(), "/usr/bin:/bin".into()), (COMMAND_VARIABLE.into(), command.into())];
        let spec = SandboxSpec { guest: Guest::Command, environment, ..spec(world, 'd', "") };
        let mut started = world.move_in(backend, spec).await.map_err(words)?;
        expect("where", line(&mut started, "\n").await?.as_str(), "/var/task hidden\n")?;
        let api = started.listeners.runtime_api.take().ok_or("no network")?;
        let socket = started.control.sockets().await.map_err(words)?.pop().ok_or("none")?;
        let (accepted, connected) = tokio::join!(api.accept(), socket.connect("127.0.0.1:9001".parse().unwrap()));
        expect("its network", accepted.is_ok() && connected.is_ok(), true)?;
        started.control.terminate();
        let outcome = finish(started).await;
        expect("it was asked", outcome.output.contains("asked\n"), true)?;
        expect("code", outcome.exit.code, Some(5))?;
        let mut without = world.config(&[WallKind::Network]);
        without.tmp_root = None;
        let spec = SandboxSpec { guest: Guest::Command, ..world.spec(&[]) };
        world_without_network(world, &without, spec)
    })
}

/// A spawner of its own beside the one that runs.
fn world_without_network(
    world: &World,
    config: &sandbox::process::SpawnerConfig,
    spec: SandboxSpec,
) -> Result<(), String> {
    std::thread::scope(|scope| {
        let tried = scope.spawn(|| {
            world.with_backend(config, async |backend| {
                let started = world.vacant(backend).await.map_err(words)?;
                let found = started.control.assign(&moving(&spec)).await;
                expect("no network", matches!(found, Err(Error::NoNetwork)), true)
            })
        });
        tried.join().map_err(|_| "it panicked".to_owned())?
    })
}

async fn ended(backend: &ProcessBackend, world: &World) -> Result<(), String> {
    let before = group_folders();
    let started = world.vacant(backend).await.map_err(words)?;
    expect("a program", started.control.held().tasks, 0)?;
    let control = started.control.clone();
    drop(started);
    control.kill();
    expect("signal", control.wait().await.signal, Some(9))?;
    expect("nobody moves in", control.assign(&moving(&world.spec(&[]))).await.is_err(), true)?;
    wait_until("its groups are gone", || group_folders() == before)
}

fn unused(world: &World) -> Result<(), String> {
    world.with_backend(&world.config(&[]), async |backend| ended(backend, world).await)
}

fn apart(world: &World) -> Result<(), String> {
    world.with_backend(&world.config(&[]), async |backend| {
        let script = "#!/bin/sh\nls /tmp /dev/shm 2>/dev/null | grep -c mark; touch /tmp/mark; ipcmk -M 10 >/dev/null 2>&1; \
                      ipcs -m 2>/dev/null | grep -c 0x; sleep 100\n";
        let spec = spec(world, 'd', script);
        let mut all = Vec::new();
        for _ in 0..3 {
            let mut started = world.move_in(backend, spec.clone()).await.map_err(words)?;
            expect("what was there", line(&mut started, "\n").await?.starts_with("0\n"), true)?;
            all.push(started);
        }
        for started in all {
            started.control.kill();
            finish(started).await;
        }
        Ok(())
    })
}

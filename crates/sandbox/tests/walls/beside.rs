//! Programs beside a guest: who starts them, which walls they have, and who outlives whom.

use sandbox::{Backend, Beside, BesideSpec, Control, Error, GUEST, SandboxSpec};
use tokio::io::AsyncReadExt;

use super::Check;
use super::world::{World, expect, finish, line};

pub const CHECKS: &[(&str, Check)] = &[
    ("a program beside a guest stands behind the same walls", walls),
    ("a sandbox with a program beside its guest outlives that", outlives),
    ("a guest that is held begins when it is told to, and once", held),
    ("signals reach the programs that they are for", signals),
    ("what cannot be executed is told with the system's words", refused),
];

/// What a shell says of itself: ids, capabilities, filters, descriptors.
const SELF: &str = "#!/bin/sh\nid -u; id -g; grep -E 'Cap|NoNewPrivs|Seccomp' /proc/self/status; ls /proc/self/fd | wc -l; \
                    touch /var/task/x 2>/dev/null || echo read-only; echo \"$MINE $PWD\"; exit 3\n";

fn spec(world: &World, letter: char, bootstrap: &str, agent: &str) -> SandboxSpec {
    let code = world.add_code(letter, "bootstrap", bootstrap);
    world.add_code(letter, "agent", agent);
    SandboxSpec { code: Some(code), ..world.spec(&[("PATH", "/usr/bin:/bin"), ("MINE", "guest")]) }
}

fn agent(path: &str) -> BesideSpec {
    let environment = [("PATH", "/usr/bin:/bin"), ("MINE", "agent")];
    let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    BesideSpec { path: path.to_owned(), folder: "/tmp".to_owned(), environment }
}

async fn launch(control: &dyn Control) -> Result<Beside, String> {
    control.launch(&agent("/var/task/agent")).await.map_err(|error| error.to_string())
}

/// Reads all that a program writes.
async fn read(beside: &mut Beside) -> Result<String, String> {
    let mut text = String::new();
    beside.output.read_to_string(&mut text).await.map_err(|error| error.to_string())?;
    Ok(text)
}

fn walls(world: &World) -> Result<(), String> {
    world.with_backend(&world.config(&[]), async |backend| {
        let guest = SELF.replace("exit 3", "echo end; sleep 100");
        let mut started = backend.start(spec(world, 'd', &guest, SELF)).await.map_err(|error| error.to_string())?;
        let own = line(&mut started, "end\n").await?;
        let mut beside = launch(&*started.control).await?;
        let seen = read(&mut beside).await?;
        let exit = started.control.left(beside.number).await;
        expect("code", exit.code, Some(3))?;
        let own = own.replace("guest /var/task\nend\n", "agent /tmp\n");
        expect("what it is", seen.as_str(), own.as_str())?;
        expect("the sandbox goes on", started.control.held().tasks > 0, true)?;
        started.control.kill();
        expect("signal", finish(started).await.exit.signal, Some(9))
    })
}

fn outlives(world: &World) -> Result<(), String> {
    world.with_backend(&world.config(&[]), async |backend| {
        let bootstrap = "#!/bin/sh\necho up; while [ ! -e /tmp/go ]; do sleep 0.01; done; exit 7\n";
        let agent = "#!/bin/sh\ntouch /tmp/go; echo here; sleep 100\n";
        let started = backend.start(spec(world, 'e', bootstrap, agent)).await.map_err(|error| error.to_string())?;
        let control = started.control.clone();
        let first = launch(&*control).await?;
        let exit = control.left(GUEST).await;
        expect("the guest's code", exit.code, Some(7))?;
        // Another can begin where the guest is gone, and both end with the sandbox.
        let second = launch(&*control).await?;
        expect("numbers", first.number != second.number, true)?;
        control.kill();
        let exit = finish(started).await.exit;
        expect("the sandbox tells of its guest", exit.code, Some(7))?;
        expect("one that ended with it", control.left(second.number).await.code, Some(7))
    })
}

fn held(world: &World) -> Result<(), String> {
    world.with_backend(&world.config(&[]), async |backend| {
        let bootstrap = "#!/bin/sh\nls /tmp/first; echo \"$MINE\"; sleep 100\n";
        let mut spec = spec(world, 'f', bootstrap, "#!/bin/sh\ntouch /tmp/first\n");
        spec.held = true;
        let mut started = backend.start(spec).await.map_err(|error| error.to_string())?;
        let control = started.control.clone();
        let beside = launch(&*control).await?;
        expect("code", control.left(beside.number).await.code, Some(0))?;
        control.begin().await.map_err(|error| error.to_string())?;
        let seen = line(&mut started, "guest\n").await?;
        expect("what the guest finds", seen.as_str(), "/tmp/first\nguest\n")?;
        expect("once", control.begin().await.is_err(), true)?;
        control.kill();
        finish(started).await;
        expect("it is gone", control.begin().await.is_err(), true)
    })
}

fn signals(world: &World) -> Result<(), String> {
    world.with_backend(&world.config(&[]), async |backend| {
        let bootstrap = "#!/bin/sh\ntrap 'echo asked; exit 5' TERM; echo up; while :; do sleep 0.01; done\n";
        let agent = "#!/bin/sh\nsleep 100\n";
        let mut started = backend.start(spec(world, 'c', bootstrap, agent)).await.map_err(|error| error.to_string())?;
        let control = started.control.clone();
        line(&mut started, "up\n").await?;
        let (one, two) = (launch(&*control).await?, launch(&*control).await?);
        control.signal(one.number, 15);
        expect("the one", control.left(one.number).await.signal, Some(15))?;
        // Nobody has this number, nor the one's any more.
        control.signal(u64::MAX, 9);
        control.signal(one.number, 9);
        control.signal(GUEST, 15);
        expect("the guest", control.left(GUEST).await.code, Some(5))?;
        line(&mut started, "asked\n").await?;
        control.signal(two.number, 9);
        expect("the other", control.left(two.number).await.signal, Some(9))?;
        control.kill();
        finish(started).await;
        Ok(())
    })
}

fn refused(world: &World) -> Result<(), String> {
    world.with_backend(&world.config(&[]), async |backend| {
        let spec = spec(world, 'c', "#!/bin/sh\necho up; sleep 100\n", "no program");
        let mut started = backend.start(spec).await.map_err(|error| error.to_string())?;
        line(&mut started, "up\n").await?;
        for (path, words) in [
            ("/opt/extensions/none", "no such file or directory"),
            ("/var/task", "permission denied"),
            ("/var/task/agent", "exec format error"),
        ] {
            let found = started.control.launch(&agent(path)).await.map(|beside| beside.number);
            let Err(Error::Entrypoint(found)) = found else { return Err(format!("{path}: {found:?}")) };
            expect("words", found.as_str(), format!("fork/exec {path}: {words}").as_str())?;
        }
        let found = started.control.launch(&agent("/x\0y")).await.map(|beside| beside.number);
        expect("a name with a zero", matches!(found, Err(Error::Entrypoint(_))), true)?;
        let mut large = agent("/var/task/agent");
        large.environment.push(("X".to_owned(), "x".repeat(300_000)));
        expect("too large", matches!(started.control.launch(&large).await, Err(Error::Host(_))), true)?;
        started.control.kill();
        finish(started).await;
        Ok(())
    })
}

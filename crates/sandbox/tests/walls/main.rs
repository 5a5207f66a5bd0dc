//! The walls of the process sandbox, tried from inside, in both privilege modes.
//!
//! This program is everything at once: the test (`main`), its spawner (`__spawner`), the guest that attempts to get
//! out (`ATTEMPT` in its environment), the server that is killed (`server`), and, where root runs the tests, the same
//! suite again as an ordinary user (`suite`). So it needs no test harness; an argument selects cases by name.
//!
//! Every attempt has a control: the same attempt where that wall is off, or outside any sandbox, must succeed, so
//! that a blocked attempt shows the wall and not a mistake in the attempt.
#![allow(unsafe_code, clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

mod attempts;
mod beside;
mod calls;
mod cases;
mod command;
mod compiler;
mod dropped;
mod files;
mod frost;
mod hostile;
mod limits;
mod remains;
mod service;
mod tmp;
mod vacant;
mod world;
mod zygote;

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

/// The id of the ordinary user that root becomes.
const ORDINARY: u32 = 12_345;

fn main() -> ExitCode {
    if let Ok(attempt) = std::env::var("ATTEMPT") {
        attempts::run(&attempt);
    }
    let first = std::env::args().nth(1).unwrap_or_default();
    match first.as_str() {
        "__spawner" => sandbox::process::spawner_main(),
        "__compiler" => sandbox::wasm::compiler_main().map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS),
        "server" => remains::server(),
        "dropped" => dropped::server(),
        "--list" => ExitCode::SUCCESS,
        "suite" => suite(&std::env::args().nth(2).unwrap_or_default()),
        _ => {
            let filter = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_default();
            let here = suite(&filter);
            if sandbox::privilege::is_root() { worse(here, ordinary(&filter)) } else { here }
        }
    }
}

fn worse(one: ExitCode, other: bool) -> ExitCode {
    if other { one } else { ExitCode::FAILURE }
}

/// Runs the suite again as an ordinary user.
fn ordinary(filter: &str) -> bool {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let program = folder.path().join("walls");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let status = Command::new(&program)
        .args(["suite", filter])
        .env_remove("HOME")
        .current_dir("/")
        .uid(ORDINARY)
        .gid(ORDINARY)
        .status()
        .unwrap();
    status.success()
}

type Check = fn(&world::World) -> Result<(), String>;

fn suite(filter: &str) -> ExitCode {
    let world = world::World::new();
    let mut failed = 0;
    let mut run = |name: &str, check: &dyn Fn() -> Result<String, String>| {
        if !name.contains(filter) {
            return;
        }
        match check() {
            Ok(note) => println!("{}: {name} ... ok {note}", world.mode),
            Err(why) => {
                failed += 1;
                println!("{}: {name} ... FAILED\n    {why}", world.mode);
            }
        }
    };
    for case in cases::CASES {
        run(case.name, &|| case.check(&world));
    }
    for (name, check) in service::CHECKS
        .iter()
        .chain(hostile::CHECKS)
        .chain(remains::CHECKS)
        .chain(dropped::CHECKS)
        .chain(zygote::CHECKS)
        .chain(tmp::CHECKS)
        .chain(files::CHECKS)
        .chain(limits::CHECKS)
        .chain(frost::CHECKS)
        .chain(command::CHECKS)
        .chain(compiler::CHECKS)
        .chain(beside::CHECKS)
        .chain(vacant::CHECKS)
    {
        run(name, &|| check(&world).map(|()| String::new()));
    }
    if failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

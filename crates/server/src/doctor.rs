//! `dunlin doctor`: which walls stand on this machine, which interpreters are usable, and why others are not.

use std::path::Path;

use anyhow::Result;
use sandbox::process::{SpawnerConfig, launch_spawner};
use sandbox::{Interpreters, Wall, WallState, interpreter};
use serde_json::json;

use crate::data_dir::DataDir;

/// Inspects the machine as a server would find it and says what it saw. Starts no server and keeps nothing.
///
/// # Errors
/// The spawner cannot be started at all.
pub fn run(options: &cli::Doctor) -> Result<()> {
    let folder = std::env::temp_dir().join(format!("dunlin-doctor-{}", std::process::id()));
    let data = DataDir::open(&folder)?;
    let seen = inspect(&data);
    // Whatever was seen, the folder goes; what is left of a failed removal is an empty folder in a temporary place.
    let _ = std::fs::remove_dir_all(&folder);
    let Seen { walls, freezes, interpreters } = seen?;
    if options.json {
        let soft = walls.iter().filter(|wall| wall.state != WallState::Hard).count();
        cli::print_data(&json!({"walls": walls, "interpreters": interpreters, "substitutions": substitutions(&interpreters), "freezes": freezes, "softOrMissing": soft}).to_string());
        return Ok(());
    }
    show(&walls, freezes, &interpreters);
    Ok(())
}

/// What was found.
struct Seen {
    walls: Vec<Wall>,
    freezes: bool,
    interpreters: Interpreters,
}

fn inspect(data: &DataDir) -> Result<Seen> {
    data.write_runtimes()?;
    let interpreters = crate::interpreters::find();
    let mut config =
        SpawnerConfig::new(data.path("code"), data.path("runtime"), format!("doctor-{}", std::process::id()));
    config.interpreters = interpreters.usable.clone();
    // The disk that a server's data folder would be on.
    config.tmp_root = crate::config::default_data_dir()
        .ok()
        .and_then(|folder| folder.ancestors().find(|above| above.is_dir()).map(Path::to_owned));
    let spawner = launch_spawner(&config)?;
    Ok(Seen { walls: spawner.walls(), freezes: spawner.freezes(), interpreters })
}

/// The managed runtimes that another version than the one asked for serves.
fn substitutions(interpreters: &Interpreters) -> Vec<String> {
    let runtimes = model::runtime::ACCEPTED.iter().filter_map(|identifier| model::Runtime::parse(identifier));
    runtimes.filter_map(|runtime| interpreter::substitution(interpreters, &runtime)).collect()
}

fn show(walls: &[Wall], freezes: bool, interpreters: &Interpreters) {
    let state = |wall: &Wall| match wall.state {
        WallState::Hard => "hard",
        WallState::Soft => "soft",
        WallState::Missing => "missing",
    };
    let rows: Vec<Vec<String>> =
        walls.iter().map(|wall| vec![wall.name.to_owned(), state(wall).to_owned(), wall.detail.clone()]).collect();
    cli::print_table(&["WALL", "STATE", "HOW"], &rows);
    cli::print_data("");
    let version = |(major, minor, patch): (u32, u32, u32)| format!("{major}.{minor}.{patch}");
    let mut rows: Vec<Vec<String>> = Vec::new();
    for found in &interpreters.usable {
        rows.push(vec![
            format!("{:?}", found.family),
            version(found.version),
            "usable".into(),
            found.binary.display().to_string(),
        ]);
    }
    for skipped in &interpreters.skipped {
        rows.push(vec![
            "-".into(),
            "-".into(),
            "skipped".into(),
            format!("{}: {}", skipped.path.display(), skipped.why),
        ]);
    }
    cli::print_table(&["INTERPRETER", "VERSION", "STATE", "WHERE"], &rows);
    cli::print_data("");
    for family in interpreter::absent(interpreters) {
        let (name, package) = (interpreter::name_of(family), interpreter::package_of(family));
        cli::print_data(&format!("No usable {name} is on this machine; the distribution's package is `{package}`."));
    }
    let substitutions = substitutions(interpreters);
    for note in &substitutions {
        cli::print_data(note);
    }
    if !substitutions.is_empty() {
        cli::print_data("");
    }
    cli::print_data(if freezes {
        "Idle environments that could run are frozen between calls (cgroup v2)."
    } else {
        "Idle environments are not frozen here: threads and programs that functions leave behind run on between calls. \
         That needs cgroup v2, as root or with Delegate=yes."
    });
    cli::print_data(
        "Policies of roles are stored and not enforced yet: a function may do in its account whatever the services offer.",
    );
    let soft: Vec<&str> = walls.iter().filter(|wall| wall.state != WallState::Hard).map(|wall| wall.name).collect();
    if !soft.is_empty() {
        cli::print_words(&format!(
            "Not enforced by the kernel here: {}. Functions of people you do not trust need a machine where these stand.",
            soft.join(", ")
        ));
    }
}

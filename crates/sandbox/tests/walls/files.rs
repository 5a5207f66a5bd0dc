//! Folders of the host below `/mnt`: only those that the configuration names, as their owner, and nothing beside them.
//!
//! Start reading at `CHECKS`.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::PathBuf;

use sandbox::process::{SharedFolder, SpawnerConfig};
use sandbox::{SandboxSpec, SharedFiles};

use super::Check;
use super::world::{World, expect};

pub const CHECKS: &[(&str, Check)] = &[
    ("a folder of the host is read and written as its owner", written),
    ("a folder that may only be read is not written", read_only),
    ("a folder leads nowhere else", confined),
    ("a folder that nobody allowed is not given", unnamed),
    ("a folder of root's is refused at the start", of_root),
];

/// The owner of what is shared, where root runs the tests.
const OWNER: (u32, u32) = (4_321, 4_322);

fn shared(world: &World, name: &str, owner: Option<(u32, u32)>) -> PathBuf {
    let folder = world.path(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o750)).unwrap();
    fs::write(folder.join("there"), "of the host").unwrap();
    fs::set_permissions(folder.join("there"), fs::Permissions::from_mode(0o640)).unwrap();
    symlink(world.path("secret"), folder.join("link")).unwrap();
    if let Some((user, group)) = owner.filter(|_| world.is_root()) {
        for path in [folder.join("there"), folder.clone()] {
            chown(path, Some(user), Some(group)).unwrap();
        }
    }
    folder
}

fn config(world: &World, folder: PathBuf, read_only: bool) -> SpawnerConfig {
    let mut config = world.config(&[]);
    config.shared = vec![SharedFolder { folder, read_only }];
    config
}

fn spec(world: &World, attempt: &str, target: &str) -> SandboxSpec {
    let mut spec = world.spec(&[("ATTEMPT", attempt), ("TARGET", target), ("TEXT", attempt)]);
    spec.files = Some(SharedFiles { index: 0, name: "data".into() });
    spec
}

fn attempt(world: &World, config: &SpawnerConfig, attempt: &str, target: &str) -> Result<String, String> {
    let outcome = world.run(config, spec(world, attempt, target)).map_err(|error| error.to_string())?;
    Ok(outcome.output.trim().to_owned())
}

fn written(world: &World) -> Result<(), String> {
    let folder = shared(world, "shared", Some(OWNER));
    let config = config(world, folder.clone(), false);
    expect("a read", attempt(world, &config, "read", "/mnt/data/there")?, "DID of the host".to_owned())?;
    // Each run is a sandbox with an id of its own; what one has made the next one changes.
    for _ in 0..2 {
        expect("a write", attempt(world, &config, "write", "/mnt/data/new")?, "DID".to_owned())?;
    }
    expect("on the host", fs::read_to_string(folder.join("new")).unwrap(), "write".to_owned())?;
    let (made, of_folder) = (fs::metadata(folder.join("new")).unwrap(), fs::metadata(&folder).unwrap());
    expect("its owner", (made.uid(), made.gid()), (of_folder.uid(), of_folder.gid()))?;
    // The control: without the folder there is nothing.
    let mut without = spec(world, "read", "/mnt/data/there");
    without.files = None;
    let outcome = world.run(&config, without).map_err(|error| error.to_string())?;
    expect("without it", outcome.output.starts_with("BLOCKED"), true)
}

fn read_only(world: &World) -> Result<(), String> {
    let config = config(world, shared(world, "readable", Some(OWNER)), true);
    expect("a read", attempt(world, &config, "read", "/mnt/data/there")?, "DID of the host".to_owned())?;
    for target in ["/mnt/data/there", "/mnt/data/new"] {
        let said = attempt(world, &config, "write", target)?;
        expect(&said, said.starts_with("BLOCKED Read-only file system"), true)?;
    }
    Ok(())
}

fn confined(world: &World) -> Result<(), String> {
    let config = config(world, shared(world, "confined", Some(OWNER)), false);
    for (name, target) in [
        ("read", "/mnt/data/../../secret"),
        ("read", "/mnt/data/link"),
        ("list", "/files/0"),
        ("write", "/mnt/beside"),
        ("write", "/var/beside"),
    ] {
        let said = attempt(world, &config, name, target)?;
        expect(&format!("{name} {target}: {said}"), said.starts_with("BLOCKED"), true)?;
    }
    expect("what is at /mnt", attempt(world, &config, "list", "/mnt")?, "DID 1".to_owned())
}

fn unnamed(world: &World) -> Result<(), String> {
    let config = config(world, shared(world, "named", Some(OWNER)), false);
    for (index, name) in [(1, "data"), (usize::MAX, "data"), (0, ".."), (0, "a/b"), (0, "")] {
        let mut spec = spec(world, "list", "/mnt");
        spec.files = Some(SharedFiles { index, name: name.into() });
        expect(&format!("{index} {name:?}"), world.run(&config, spec).is_err(), true)?;
    }
    Ok(())
}

fn of_root(world: &World) -> Result<(), String> {
    if !world.is_root() {
        return Ok(());
    }
    let config = config(world, shared(world, "of-root", None), false);
    let error = sandbox::process::launch_spawner(&config).err().map(|error| error.to_string()).unwrap_or_default();
    expect(&error, error.contains("belongs to root"), true)
}

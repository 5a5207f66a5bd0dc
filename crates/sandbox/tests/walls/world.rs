//! Folders, spawners and runs that all cases share.
//!
//! A world is one temporary folder: a private code root with this program as one function's code and a secret as
//! another's, and a runtime folder. Each run has a spawner of its own, so that cases do not touch each other.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use model::CodeDigest;
use sandbox::process::{ProcessBackend, SpawnerConfig, WallKind, launch_spawner};
use sandbox::{Assignment, Backend, Error, Exit, Guest, Occupant, SandboxSpec, Started};
use tokio::io::AsyncReadExt;

/// A test may take this long before it counts as hung.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// What is said of a package without its program.
pub const NO_BOOTSTRAP: &str = "Couldn't find valid bootstrap(s): [/var/task/bootstrap /opt/bootstrap]";

pub struct World {
    /// `root` or `ordinary user`.
    pub mode: &'static str,
    pub folder: tempfile::TempDir,
    /// Code whose `bootstrap` is this program.
    pub code: CodeDigest,
    /// Somebody else's code.
    pub other: CodeDigest,
}

/// What a finished guest left.
pub struct Outcome {
    pub output: String,
    pub exit: Exit,
}

pub fn digest(letter: char) -> CodeDigest {
    CodeDigest::parse(&letter.to_string().repeat(64)).unwrap()
}

impl World {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mode = if sandbox::privilege::is_root() { "root" } else { "ordinary user" };
        let world = Self { mode, folder, code: digest('a'), other: digest('b') };
        for code in [&world.code, &world.other] {
            fs::create_dir_all(world.code_folder(code)).unwrap();
        }
        fs::create_dir(world.cache_folder(&world.code)).unwrap();
        // The code root is private, as the platform's is; what lies below is not.
        fs::set_permissions(world.path("code"), fs::Permissions::from_mode(0o700)).unwrap();
        let program = world.code_folder(&world.code).join("bootstrap");
        fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
        // Links and bits that code may bring along.
        std::os::unix::fs::symlink(world.path("secret"), world.code_folder(&world.code).join("link")).unwrap();
        for place in [world.code_folder(&world.code).join("setuid"), world.path("setuid")] {
            fs::copy(&program, &place).unwrap();
            fs::set_permissions(&place, fs::Permissions::from_mode(0o4755)).unwrap();
        }
        fs::set_permissions(world.folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(world.code_folder(&world.other).join("secret"), "another function's").unwrap();
        fs::write(world.path("secret"), "the host's").unwrap();
        fs::create_dir_all(world.path("runtime/python")).unwrap();
        world
    }

    pub fn is_root(&self) -> bool {
        self.mode == "root"
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn code_folder(&self, digest: &CodeDigest) -> PathBuf {
        self.path("code").join(digest.as_str())
    }

    /// What the platform has made of code.
    pub fn cache_folder(&self, digest: &CodeDigest) -> PathBuf {
        self.path("code").join(format!("{digest}{}", sandbox::CACHE_SUFFIX))
    }

    /// A folder of code with one executable file.
    pub fn add_code(&self, letter: char, name: &str, text: &str) -> CodeDigest {
        self.add_package(digest(letter), name, text)
    }

    /// The same for a package of any name.
    pub fn add_package(&self, digest: CodeDigest, name: &str, text: &str) -> CodeDigest {
        let file = self.code_folder(&digest).join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        digest
    }

    pub fn config(&self, off: &[WallKind]) -> SpawnerConfig {
        let mut config = SpawnerConfig::new(self.path("code"), self.path("runtime"), "test");
        config.off = off.to_vec();
        config.tmp_root = Some(self.folder.path().to_owned());
        config
    }

    pub fn spec(&self, environment: &[(&str, &str)]) -> SandboxSpec {
        SandboxSpec {
            guest: Guest::Bootstrap,
            root: None,
            code: Some(self.code.clone()),
            layers: Vec::new(),
            files: None,
            memory_bytes: 256 << 20,
            tmp_bytes: 8 << 20,
            environment: environment.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect(),
            held: false,
        }
    }

    /// Runs an attempt in a sandbox to its end.
    pub fn attempt(&self, off: &[WallKind], name: &str, environment: &HashMap<&str, String>) -> Outcome {
        let spec = self.attempting(name, environment);
        self.run(&self.config(off), spec).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// The same in a sandbox that was vacant before.
    pub fn attempt_moved(&self, name: &str, environment: &HashMap<&str, String>) -> Outcome {
        let spec = self.attempting(name, environment);
        let outcome = self.with_backend(&self.config(&[]), async |backend| {
            let started = self.move_in(backend, spec).await?;
            Ok::<_, Error>(finish(started).await)
        });
        outcome.unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    fn attempting(&self, name: &str, environment: &HashMap<&str, String>) -> SandboxSpec {
        let mut spec = self.spec(&[("ATTEMPT", name)]);
        spec.environment.extend(environment.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
        spec
    }

    /// A sandbox for nobody yet, as a platform would have it ready.
    pub async fn vacant(&self, backend: &ProcessBackend) -> Result<Started, Error> {
        let (memory_bytes, tmp_bytes) = (128 << 20, 512 << 20);
        let spec = SandboxSpec { guest: Guest::Vacant, code: None, memory_bytes, tmp_bytes, ..self.spec(&[]) };
        backend.start(spec).await
    }

    /// Makes a vacant sandbox what this would start.
    pub async fn move_in(&self, backend: &ProcessBackend, spec: SandboxSpec) -> Result<Started, Error> {
        let started = self.vacant(backend).await?;
        started.control.assign(&moving(&spec)).await?;
        Ok(started)
    }

    /// Runs an attempt as an ordinary child of this process.
    pub fn attempt_outside(&self, name: &str, environment: &HashMap<&str, String>) -> String {
        // The shell opens a descriptor that the program then inherits.
        let script = "exec 9</dev/null; exec \"$0\"";
        let output = Command::new("/bin/sh")
            .args(["-c", script])
            .arg(std::env::current_exe().unwrap())
            .env_clear()
            .env("ATTEMPT", name)
            .envs(environment)
            .stderr(Stdio::inherit())
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs one sandbox to its end with a spawner of its own.
    pub fn run(&self, config: &SpawnerConfig, spec: SandboxSpec) -> Result<Outcome, Error> {
        self.with_backend(config, async |backend| {
            let started = backend.start(spec).await?;
            Ok(finish(started).await)
        })
    }

    /// Calls `body` with a backend and ends it.
    pub fn with_backend<T>(&self, config: &SpawnerConfig, body: impl AsyncFnOnce(&ProcessBackend) -> T) -> T {
        let handle = launch_spawner(config).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let backend = ProcessBackend::new(handle).unwrap();
            tokio::time::timeout(PATIENCE, body(&backend)).await.expect("hung")
        })
    }
}

/// The assignment that makes a vacant sandbox what this would start.
pub fn moving(spec: &SandboxSpec) -> Assignment {
    let SandboxSpec { guest, code, layers, memory_bytes, tmp_bytes, environment, held, .. } = spec.clone();
    Assignment { code, layers, memory_bytes, tmp_bytes, occupant: Some(Occupant { guest, environment, held }) }
}

/// An assignment of limits only.
pub fn limits(memory_bytes: u64, tmp_bytes: u64) -> Assignment {
    Assignment { code: None, layers: Vec::new(), memory_bytes, tmp_bytes, occupant: None }
}

/// Reads until a line has come.
pub async fn line(started: &mut Started, wanted: &str) -> Result<String, String> {
    let mut held = String::new();
    while !held.contains(wanted) {
        let mut piece = [0; 256];
        let read = started.output.read(&mut piece).await.map_err(|error| error.to_string())?;
        if read == 0 {
            return Err(format!("no {wanted:?} but {held:?}"));
        }
        held.push_str(&String::from_utf8_lossy(&piece[..read]));
    }
    Ok(held)
}

/// Reads a sandbox's output to its end and waits for it.
pub async fn finish(started: Started) -> Outcome {
    let Started { mut output, control, channel, listeners } = started;
    let mut bytes = Vec::new();
    output.read_to_end(&mut bytes).await.unwrap();
    let exit = control.wait().await;
    drop((channel, listeners));
    Outcome { output: String::from_utf8_lossy(&bytes).into_owned(), exit }
}

/// Fails with both sides of a comparison.
pub fn expect<T: PartialEq + std::fmt::Debug>(what: &str, found: T, wanted: T) -> Result<(), String> {
    if found == wanted { Ok(()) } else { Err(format!("{what}: found {found:?}, wanted {wanted:?}")) }
}

/// Waits until something holds.
pub fn wait_until(what: &str, holds: impl Fn() -> bool) -> Result<(), String> {
    let end = std::time::Instant::now() + Duration::from_secs(10);
    while !holds() {
        if std::time::Instant::now() > end {
            return Err(format!("never: {what}"));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Folders of cgroups that a spawner of these tests has made.
pub fn groups() -> Vec<PathBuf> {
    fn look(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if entry.file_name().to_string_lossy().starts_with("dunlin-test-") {
                    found.push(entry.path());
                } else if depth > 0 {
                    look(&entry.path(), depth - 1, found);
                }
            }
        }
    }
    let mut found = Vec::new();
    look(Path::new("/sys/fs/cgroup"), 4, &mut found);
    found
}

/// How many groups of sandboxes there are.
pub fn group_folders() -> usize {
    let inside = |folder: &PathBuf| {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).count()
    };
    groups().iter().map(inside).sum()
}

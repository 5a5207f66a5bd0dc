//! Runs an interpreter of the host: once for its facts, and once per start for compiling the Python guest.
//!
//! Invariants
//!   1. A probe sees an empty environment, as a sandbox would: what is only found by a variable of the server counts as
//!      not found.
//!   2. A probe that hangs is killed after `PATIENCE`.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use model::Family;

use super::Interpreters;

/// How long a probe may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Most bytes that are read of an answer.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;
/// Prints version, prefix and the folders of the standard library, one a line; imports nothing.
const PYTHON_QUESTION: &str = "import sys
print('%d.%d.%d' % sys.version_info[:3])
print(sys.base_prefix)
print('\\n'.join(sys.path))
";
/// The same of Ruby, without gems.
const RUBY_QUESTION: &str = "require 'rbconfig'
puts RUBY_VERSION, RbConfig::CONFIG['prefix'], $LOAD_PATH";
/// Prints the version of PHP, without the settings of the host; the binary's place says the prefix.
const PHP_QUESTION: &str = "echo PHP_VERSION, \"\n\";";
/// Compiles each module of a folder where that was not done since the module changed.
const PYTHON_COMPILE: &str = "import os, py_compile, sys
from importlib.util import cache_from_source
os.umask(0o022)
folder = sys.argv[1]
for name in os.listdir(folder):
    if name.startswith('dunlin_') and name.endswith('.py'):
        source = os.path.join(folder, name)
        target = cache_from_source(source)
        if not os.path.exists(target) or os.path.getmtime(target) < os.path.getmtime(source):
            py_compile.compile(source, target, '/var/runtime/python/' + name, True,
                invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
";

/// What an interpreter says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Facts {
    /// Major, minor, patch.
    pub(super) version: (u32, u32, u32),
    /// Where it is installed.
    pub(super) prefix: PathBuf,
    /// Files and folders of the installation that it cannot do without.
    pub(super) samples: Vec<PathBuf>,
    /// Shared libraries that its binary needs.
    pub(super) libraries: Vec<PathBuf>,
}

/// Asks `binary`; the error is a plain reason.
pub(super) fn facts(family: Family, binary: &Path) -> Result<Facts, String> {
    let libraries = libraries_of(&run(Command::new(binary).env("LD_TRACE_LOADED_OBJECTS", "1"))?)?;
    let answer = match family {
        Family::Java => return java_facts(binary, libraries),
        Family::Node => run(Command::new(binary).arg("--version"))?,
        Family::Ruby => run(Command::new(binary).args(["--disable=gems", "-e", RUBY_QUESTION]))?,
        Family::Php => run(Command::new(binary).args(["-n", "-r", PHP_QUESTION]))?,
        Family::Python | Family::Provided => run(Command::new(binary).args(["-I", "-S", "-c", PYTHON_QUESTION]))?,
    };
    let mut lines = answer.lines();
    let version =
        lines.next().and_then(parse_version).ok_or_else(|| format!("it does not tell its version: {answer}"))?;
    let prefix = match lines.next() {
        Some(prefix) => PathBuf::from(prefix),
        None => prefix_of(binary),
    };
    // The standard library may be given as an archive that is not there, and a build without loadable modules has no
    // folder for them.
    let folders = lines.map(PathBuf::from).filter(|path| path.exists());
    let samples = folders.flat_map(|folder| [folder.join("os.py"), folder]).filter(|path| path.exists()).collect();
    Ok(Facts { version, prefix, samples, libraries })
}

/// What an installation of Java says about itself in a file: a start of the machine would take longer than all others.
fn java_facts(binary: &Path, libraries: Vec<PathBuf>) -> Result<Facts, String> {
    let prefix = prefix_of(binary);
    let file = prefix.join("release");
    let text = std::fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    let version = text.lines().find_map(|line| line.strip_prefix("JAVA_VERSION="));
    let version = version.and_then(|version| java_version(version.trim_matches('"')));
    let version = version.ok_or_else(|| format!("{} does not tell its version", file.display()))?;
    let samples: Vec<PathBuf> = ["lib/modules", "lib/server/libjvm.so"].map(|name| prefix.join(name)).into();
    match samples.iter().find(|path| !path.exists()) {
        Some(path) => Err(format!("its {} is missing", path.display())),
        None => Ok(Facts { version, prefix, samples, libraries }),
    }
}

/// `17.0.15`, `21`, and `1.8.0_402` of releases before 9.
fn java_version(text: &str) -> Option<(u32, u32, u32)> {
    let mut numbers = text.strip_prefix("1.").unwrap_or(text).split(['.', '_', '-', '+']).map(str::parse);
    let major = numbers.next()?.ok()?;
    let mut next = || numbers.next().and_then(Result::ok).unwrap_or(0);
    Some((major, next(), next()))
}

/// Compiles the Python guest in `folder` (which becomes `/var/runtime/python`) for every usable Python, so that a cold
/// start does not. Cheap where it was done before. Returns what went wrong, which costs milliseconds and nothing else.
pub fn precompile(interpreters: &Interpreters, folder: &Path) -> Vec<String> {
    let pythons = interpreters.usable.iter().filter(|known| known.family == Family::Python);
    let mut done = std::collections::BTreeSet::new();
    let failures = pythons.filter(|known| done.insert((known.version.0, known.version.1))).filter_map(|known| {
        let outcome = run(Command::new(&known.binary).args(["-I", "-S", "-c", PYTHON_COMPILE]).arg(folder));
        outcome.err().map(|why| format!("{}: {why}", known.binary.display()))
    });
    failures.collect()
}

/// `v20.1.0`, `3.11.2`, also with something after the digits.
fn parse_version(text: &str) -> Option<(u32, u32, u32)> {
    let mut parts = text.trim().trim_start_matches('v').splitn(3, '.');
    let mut number = || {
        let part = parts.next()?;
        part.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    };
    Some((number()?, number()?, number()?))
}

/// The folder that holds the `bin` folder that holds the binary.
fn prefix_of(binary: &Path) -> PathBuf {
    let folder = binary.parent().unwrap_or(binary);
    match folder.parent() {
        Some(parent) if folder.ends_with("bin") => parent.to_owned(),
        _ => folder.to_owned(),
    }
}

/// Reads the loader's list: `libc.so.6 => /lib/libc.so.6 (0x…)`. Another loader prints nothing of this form.
fn libraries_of(list: &str) -> Result<Vec<PathBuf>, String> {
    let mut libraries = Vec::new();
    for line in list.lines() {
        let Some((name, place)) = line.split_once(" => ") else { continue };
        let place = place.split(" (0x").next().unwrap_or_default().trim();
        if place == "not found" {
            return Err(format!("its shared library {} is not found", name.trim()));
        }
        if place.starts_with('/') {
            libraries.push(PathBuf::from(place));
        }
    }
    Ok(libraries)
}

/// Runs a command to its end and returns what it printed.
fn run(command: &mut Command) -> Result<String, String> {
    let trace = command.get_envs().map(|(key, value)| (key.to_owned(), value.map(ToOwned::to_owned)));
    let kept: Vec<_> = trace.filter_map(|(key, value)| Some((key, value?))).collect();
    command.env_clear().envs(kept);
    command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|error| format!("it cannot be started: {error}"))?;
    let output = child.stdout.take();
    // The answer is far smaller than a pipe holds: the program can end before it is read.
    let deadline = Instant::now() + PATIENCE;
    let mut pause = Duration::from_micros(500);
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() < deadline => std::thread::sleep(pause),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("it did not answer in {} s", PATIENCE.as_secs()));
            }
        }
        pause = (pause * 2).min(Duration::from_millis(4));
    };
    let mut answer = String::new();
    if let Some(output) = output {
        let read = output.take(ANSWER_BYTES_MAX).read_to_string(&mut answer);
        read.map_err(|error| format!("its answer cannot be read: {error}"))?;
    }
    if status.success() { Ok(answer) } else { Err(format!("it fails when it is run: {status}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_with_whatever_follows_them() {
        assert_eq!(parse_version("v20.20.2\n"), Some((20, 20, 2)));
        assert_eq!(parse_version("3.15.0a1"), Some((3, 15, 0)));
        assert_eq!(parse_version("v24.0.0-nightly2025"), Some((24, 0, 0)));
        assert_eq!(parse_version("node"), None);
        assert_eq!(java_version("17.0.15"), Some((17, 0, 15)));
        assert_eq!(java_version("25-ea"), Some((25, 0, 0)));
        assert_eq!(java_version("1.8.0_402"), Some((8, 0, 402)));
        assert_eq!(java_version(""), None);
    }

    #[test]
    fn the_loaders_list_gives_paths_and_tells_what_is_missing() {
        let list = "\tlinux-vdso.so.1 (0x7ff)\n\tlibm.so.6 => /lib/libm.so.6 (0x7f0)\n\t/lib64/ld.so (0x7f)\n";
        assert_eq!(libraries_of(list), Ok(vec![PathBuf::from("/lib/libm.so.6")]));
        let missing = libraries_of("\tlibnode.so.1 => not found\n");
        assert_eq!(missing, Err("its shared library libnode.so.1 is not found".to_owned()));
    }

    #[test]
    fn a_probe_sees_an_empty_environment_and_its_failure_is_told() {
        assert_eq!(run(Command::new("/bin/sh").args(["-c", "echo ${HOME-none}"])).unwrap(), "none\n");
        assert!(run(Command::new("/bin/sh").args(["-c", "exit 3"])).unwrap_err().contains('3'));
        assert!(run(&mut Command::new("/nonexistent/python3")).unwrap_err().starts_with("it cannot be started"));
    }

    #[test]
    fn the_guest_is_compiled_once_for_each_python() {
        let interpreters = super::super::discover(&super::super::Environment::of_process());
        let pythons = interpreters.usable.iter().filter(|known| known.family == Family::Python);
        let minors: std::collections::BTreeSet<u32> = pythons.map(|known| known.version.1).collect();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("dunlin_part.py"), "x = 1\n").unwrap();
        let compiled = || -> Vec<(std::ffi::OsString, std::time::SystemTime)> {
            let entries = std::fs::read_dir(folder.path().join("__pycache__")).into_iter().flatten().flatten();
            entries.map(|entry| (entry.file_name(), entry.metadata().unwrap().modified().unwrap())).collect()
        };
        assert_eq!(precompile(&interpreters, folder.path()), [""; 0]);
        let first = compiled();
        assert_eq!(first.len(), minors.len(), "{first:?}");
        assert_eq!(precompile(&interpreters, folder.path()), [""; 0]);
        assert_eq!(compiled(), first);
    }
}

//! Finds the host's interpreters: which files to look at, which of them are real, and which a sandbox could use.
//!
//! | step       | what happens                                                                                        |
//! |------------|-----------------------------------------------------------------------------------------------------|
//! | candidates | names in the folders of `PATH`, of the distribution and of the known version managers              |
//! | resolve    | the real path; scripts and dispatchers (shims) are left, their real binaries are candidates anyway |
//! | probe      | each distinct binary is run once, all at the same time, for its version, prefix and libraries; a   |
//! |            | Java installation says them in a file                                                              |
//! | judge      | version, prefix and permissions: may a sandbox read it?                                             |
//!
//! A sandbox gets a prefix as a mount of its own: private folders above it do not matter, what lies in it does.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use model::Family;

use super::probe::{self, Facts};
use super::{Interpreter, Interpreters, JAVA_OLDEST, NODE_OLDEST, PHP_OLDEST, PYTHON_OLDEST, RUBY_OLDEST, Skipped};

/// Minor versions of Python 3 that are looked for by name.
const PYTHON_MINORS: std::ops::RangeInclusive<u32> = 8..=15;
/// Minor versions of Ruby 3 that are looked for by name.
const RUBY_MINORS: std::ops::RangeInclusive<u32> = 0..=5;
/// Minor versions of PHP 8 that are looked for by name.
const PHP_MINORS: std::ops::RangeInclusive<u32> = 0..=6;
/// Probes that run at the same time.
const PROBES_MAX: usize = 8;
/// Folders that hold an installation of their own below `*`, relative to the home folder.
const HOME_PLACES: &[&str] = &[
    ".pyenv/versions",
    ".nvm/versions/node",
    ".asdf/installs/python",
    ".asdf/installs/nodejs",
    ".volta/tools/image/node",
    ".local/share/mise/installs/python",
    ".local/share/mise/installs/node",
    ".local/share/uv/python",
    ".local/share/fnm/node-versions",
    ".nodenv/versions",
    ".sdkman/candidates/java",
    ".asdf/installs/java",
    ".local/share/mise/installs/java",
    ".jdks",
    ".rbenv/versions",
    ".rvm/rubies",
    ".rubies",
    ".asdf/installs/ruby",
    ".local/share/mise/installs/ruby",
    ".phpenv/versions",
    ".asdf/installs/php",
    ".local/share/mise/installs/php",
];
/// The same, relative to the folder that holds a version manager's `shims`.
const SHIM_PLACES: &[&str] =
    &["versions", "installs/python", "installs/nodejs", "installs/node", "installs/ruby", "installs/php"];
/// The same, anywhere.
const HOST_PLACES: &[&str] =
    &["/opt", "/usr/lib/jvm", "/usr/local/n/versions/node", "/opt/pyenv/versions", "/opt/nvm/versions/node"];
/// Where sandboxes find the distribution's files: mounted in every one.
const SYSTEM_PLACES: &[&str] = &["/usr", "/lib", "/lib64", "/bin"];
/// What a sandbox uses for itself, so that no prefix can be mounted there.
const TAKEN_PLACES: &[&str] =
    &["/opt", "/tmp", "/var/task", "/var/runtime", "/var/lang", "/proc", "/dev", "/etc", "/sys", "/run"];
/// Too much of the host to be shown to a function.
const TOO_WIDE: &[&str] = &["/", "/home", "/root", "/var", "/srv", "/mnt", "/media"];

/// What discovery depends on.
#[derive(Debug, Clone)]
pub struct Environment {
    /// The `PATH`.
    pub path: OsString,
    /// The home folder, where version managers install.
    pub home: Option<PathBuf>,
    /// Whether sandboxes run as a user that is neither the owner nor in the group of the host's files: so it is when
    /// the server was started as root. Otherwise what this process can read, they can.
    pub foreign_user: bool,
}

impl Environment {
    /// That of this process.
    pub fn of_process() -> Self {
        Self {
            path: std::env::var_os("PATH").unwrap_or_default(),
            home: std::env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute()),
            foreign_user: rustix::process::geteuid().is_root(),
        }
    }
}

/// Looks at the host. Runs every interpreter that it finds once; takes about as long as two of them need to start.
pub fn discover(environment: &Environment) -> Interpreters {
    let mut found = Interpreters::default();
    let mut binaries: Vec<(Family, PathBuf)> = Vec::new();
    let mut seen = BTreeSet::new();
    for (family, path) in candidates(environment) {
        let Ok(real) = fs::canonicalize(&path) else { continue };
        if !seen.insert(real.clone()) {
            continue;
        }
        match resolve(family, &real) {
            Ok(()) => binaries.push((family, real)),
            Err(why) => found.skipped.push(Skipped { path, why }),
        }
    }
    for ((family, binary), facts) in binaries.iter().zip(probe_all(&binaries)) {
        match facts.and_then(|facts| judge(environment, *family, binary, facts)) {
            Ok(interpreter) => found.usable.push(interpreter),
            Err(why) => found.skipped.push(Skipped { path: binary.clone(), why }),
        }
    }
    // Stable: of two equal versions the one met first, which is the one on the PATH, stays first.
    found.usable.sort_by_key(|known| (known.family, known.version));
    found
}

fn candidates(environment: &Environment) -> Vec<(Family, PathBuf)> {
    let mut folders: Vec<PathBuf> = Vec::new();
    let mut places: Vec<PathBuf> = Vec::new();
    for folder in std::env::split_paths(&environment.path).filter(|folder| folder.is_absolute()) {
        // A version manager's folder of shims: the installations are beside it.
        if folder.ends_with("shims")
            && let Some(root) = folder.parent()
        {
            places.extend(SHIM_PLACES.iter().map(|place| root.join(place)));
        }
        folders.push(folder);
    }
    folders.extend(["/usr/bin", "/usr/local/bin"].map(PathBuf::from));
    if let Some(home) = &environment.home {
        places.extend(HOME_PLACES.iter().map(|place| home.join(place)));
    }
    places.extend(HOST_PLACES.iter().map(PathBuf::from));
    for place in places {
        let entries = fs::read_dir(place).into_iter().flatten().flatten();
        let mut installed: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        installed.sort();
        folders.extend(installed.iter().flat_map(|folder| [folder.join("bin"), folder.join("installation/bin")]));
    }
    let mut names = vec![(Family::Node, "node".to_owned()), (Family::Node, "nodejs".to_owned())];
    names.push((Family::Java, "java".to_owned()));
    names.push((Family::Python, "python3".to_owned()));
    names.extend(PYTHON_MINORS.map(|minor| (Family::Python, format!("python3.{minor}"))));
    names.push((Family::Ruby, "ruby".to_owned()));
    names.extend(RUBY_MINORS.map(|minor| (Family::Ruby, format!("ruby3.{minor}"))));
    names.push((Family::Php, "php".to_owned()));
    names.extend(PHP_MINORS.map(|minor| (Family::Php, format!("php8.{minor}"))));
    let mut seen = BTreeSet::new();
    folders.retain(|folder| seen.insert(folder.clone()));
    folders
        .iter()
        .filter(|folder| folder.is_dir())
        .flat_map(|folder| names.iter().map(|(family, name)| (*family, folder.join(name))))
        .filter(|(_, path)| path.is_file())
        .collect()
}

/// Whether the real file can be an interpreter at all, before it is run.
fn resolve(family: Family, real: &Path) -> Result<(), String> {
    let mut magic = [0; 4];
    let read = fs::File::open(real).and_then(|mut file| file.read_exact(&mut magic));
    read.map_err(|error| format!("it cannot be read: {error}"))?;
    if magic.starts_with(b"#!") {
        return Err("it is a script of a version manager; what it would start is looked at by itself".to_owned());
    }
    if &magic != b"\x7fELF" {
        return Err("it is no program of this system".to_owned());
    }
    let name = real.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let (expected, minor) = match family {
        Family::Node => (name.starts_with("node"), None),
        Family::Java => (name == "java", None),
        Family::Ruby => (is_numbered(name, "ruby"), None),
        Family::Php => (is_numbered(name, "php"), None),
        Family::Python | Family::Provided => {
            let minor = name.strip_prefix("python3.").and_then(|minor| minor.parse::<u32>().ok());
            (name.starts_with("python3"), minor)
        }
    };
    if !expected {
        return Err(format!("it leads to {}, which starts something else", real.display()));
    }
    match minor {
        Some(minor) if (3, minor) < PYTHON_OLDEST => Err(too_old(family, (3, minor))),
        _ => Ok(()),
    }
}

/// Whether a file is called by a word and at most a version: `php8.2`, not `php-fpm8.2`.
fn is_numbered(name: &str, word: &str) -> bool {
    name.strip_prefix(word).is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.'))
}

/// The oldest version of a family that a guest runs on.
fn oldest(family: Family) -> (u32, u32) {
    match family {
        Family::Node => NODE_OLDEST,
        Family::Java => JAVA_OLDEST,
        Family::Ruby => RUBY_OLDEST,
        Family::Php => PHP_OLDEST,
        Family::Python | Family::Provided => PYTHON_OLDEST,
    }
}

fn too_old(family: Family, line: (u32, u32)) -> String {
    let (name, oldest) = (super::name_of(family), oldest(family));
    format!("{name} {}.{} is older than {}.{}, the oldest that is supported", line.0, line.1, oldest.0, oldest.1)
}

/// Runs all probes, a few at a time; the answers are in the order of `binaries`.
fn probe_all(binaries: &[(Family, PathBuf)]) -> Vec<Result<Facts, String>> {
    let answers = Mutex::new(vec![Err(String::new()); binaries.len()]);
    let next = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..binaries.len().min(PROBES_MAX) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    let Some((family, binary)) = binaries.get(index) else { return };
                    let answer = probe::facts(*family, binary);
                    if let Ok(mut answers) = answers.lock() {
                        answers[index] = answer;
                    }
                }
            });
        }
    });
    answers.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn judge(environment: &Environment, family: Family, binary: &Path, facts: Facts) -> Result<Interpreter, String> {
    let line = (facts.version.0, facts.version.1);
    if line < oldest(family) {
        return Err(too_old(family, line));
    }
    let prefix = fs::canonicalize(&facts.prefix).map_err(|error| format!("{}: {error}", facts.prefix.display()))?;
    let system = within_any(&prefix, SYSTEM_PLACES);
    if !system {
        mountable(environment, &prefix)?;
    }
    if !binary.starts_with(&prefix) {
        return Err(format!("its installation is {}, which does not hold it", prefix.display()));
    }
    let mut library_paths = BTreeSet::new();
    for library in &facts.libraries {
        let real = fs::canonicalize(library).map_err(|error| format!("{}: {error}", library.display()))?;
        let Some(folder) = real.parent() else { continue };
        if !within_any(&real, SYSTEM_PLACES) && !real.starts_with(&prefix) {
            mountable(environment, folder)?;
            library_paths.insert(folder.to_owned());
        }
        if environment.foreign_user {
            let top = if real.starts_with(&prefix) { prefix.as_path() } else { folder };
            readable_by_others(top, &real)?;
        }
    }
    if environment.foreign_user {
        readable_by_others(&prefix, binary)?;
        for sample in &facts.samples {
            readable_by_others(&prefix, sample)?;
        }
    }
    let library_paths = library_paths.into_iter().collect();
    Ok(Interpreter { family, version: facts.version, binary: binary.to_owned(), prefix, library_paths })
}

fn within_any(path: &Path, places: &[&str]) -> bool {
    places.iter().any(|place| path.starts_with(place))
}

/// Whether a folder may be mounted into sandboxes at its own path.
fn mountable(environment: &Environment, folder: &Path) -> Result<(), String> {
    let shown = folder.display();
    if let Some(place) = TAKEN_PLACES.iter().find(|place| folder.starts_with(place)) {
        return Err(format!("it lies in {shown}, and functions have a {place} of their own"));
    }
    let holds_home = environment.home.as_ref().is_some_and(|home| home.starts_with(folder));
    if holds_home || TOO_WIDE.iter().any(|wide| Path::new(wide) == folder) {
        return Err(format!("its installation is {shown}: too much of this machine to be shown to functions"));
    }
    Ok(())
}

/// Whether a user that is neither owner nor in the group can reach `path` when `top` is mounted for it.
fn readable_by_others(top: &Path, path: &Path) -> Result<(), String> {
    let real = fs::canonicalize(path).map_err(|error| format!("{}: {error}", path.display()))?;
    for step in real.ancestors() {
        if step.starts_with(top) {
            let mode = fs::metadata(step).map_err(|error| format!("{}: {error}", step.display()))?.permissions().mode();
            let wanted = if step == real && !real.is_dir() { 0o004 } else { 0o005 };
            if mode & wanted != wanted {
                return Err(format!("{} may not be read by other users (mode {:o})", step.display(), mode & 0o777));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nowhere() -> Environment {
        Environment { path: OsString::new(), home: None, foreign_user: true }
    }

    fn executable(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn a_shim_is_left_and_the_installations_beside_it_are_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        executable(&folder.path().join("shims/python3"), "#!/bin/sh\n");
        executable(&folder.path().join("versions/3.6.1/bin/python3.9"), "no program\n");
        let environment = Environment { path: folder.path().join("shims").into(), ..nowhere() };
        let paths: Vec<PathBuf> = candidates(&environment).into_iter().map(|(_, path)| path).collect();
        assert!(paths.contains(&folder.path().join("versions/3.6.1/bin/python3.9")));
        let skipped = discover(&environment).skipped;
        let why = |end: &str| skipped.iter().find(|s| s.path.ends_with(end)).map(|s| s.why.clone()).unwrap();
        assert!(why("shims/python3").starts_with("it is a script of a version manager"));
        assert_eq!(why("bin/python3.9"), "it is no program of this system");
    }

    #[test]
    fn names_tell_dispatchers_and_old_versions_before_anything_is_run() {
        let folder = tempfile::tempdir().unwrap();
        for (name, family, expected) in [
            ("volta-shim", Family::Node, Some("starts something else")),
            ("python3.7", Family::Python, Some("Python 3.7 is older than 3.8, the oldest that is supported")),
            ("python3.12", Family::Python, None),
            ("node", Family::Node, None),
            ("java", Family::Java, None),
            ("javac", Family::Java, Some("starts something else")),
            ("ruby3.1", Family::Ruby, None),
            ("php8.2", Family::Php, None),
            ("php-cgi8.2", Family::Php, Some("starts something else")),
        ] {
            let path = folder.path().join(name);
            executable(&path, "\x7fELF...");
            let answer = resolve(family, &path);
            match expected {
                None => assert_eq!(answer, Ok(())),
                Some(words) => assert!(answer.unwrap_err().ends_with(words), "{name}"),
            }
        }
    }

    #[test]
    fn private_files_below_the_prefix_count_and_private_folders_above_it_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let prefix = folder.path().join("private/installation");
        let file = prefix.join("bin/node");
        executable(&file, "");
        let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        mode(&folder.path().join("private"), 0o700);
        assert_eq!(readable_by_others(&prefix, &file), Ok(()));
        mode(&file, 0o750);
        assert!(readable_by_others(&prefix, &file).unwrap_err().ends_with("(mode 750)"));
        mode(&file, 0o755);
        mode(&prefix.join("bin"), 0o700);
        assert!(readable_by_others(&prefix, &file).unwrap_err().ends_with("(mode 700)"));
    }

    #[test]
    fn a_home_folder_or_a_place_of_the_sandbox_is_never_a_prefix() {
        let environment = Environment { home: Some("/home/ann".into()), ..nowhere() };
        for folder in ["/", "/home", "/home/ann", "/opt/node", "/tmp/python", "/root"] {
            assert!(mountable(&environment, Path::new(folder)).is_err(), "{folder}");
        }
        for folder in ["/home/ann/.pyenv/versions/3.12.1", "/srv/python"] {
            assert_eq!(mountable(&environment, Path::new(folder)), Ok(()), "{folder}");
        }
    }

    #[test]
    fn what_this_machine_has_is_found_with_its_version_and_prefix() {
        let environment = Environment::of_process();
        let started = std::time::Instant::now();
        let found = discover(&environment);
        println!("{:?}\n{found:#?}", started.elapsed());
        assert!(found.usable.is_sorted_by_key(|known| (known.family, known.version)));
        for known in &found.usable {
            assert!(known.binary.starts_with(&known.prefix), "{known:?}");
            assert_eq!(fs::canonicalize(&known.binary).unwrap(), known.binary);
        }
    }
}

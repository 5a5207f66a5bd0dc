//! Interpreters of the host that managed runtimes run on: the nouns, and which one serves a runtime identifier.
//!
//! An interpreter is known by its real binary and prefix, never by a shim or a link: version managers put scripts and
//! links on the `PATH`, and interpreters compute their libraries' place from the real path.
//!
//! Start reading at `choose`. How the host's interpreters are found is in `interpreter/discover.rs`.
//!
//! Invariants
//!   1. `usable` is sorted by family and version, and does not change while the server runs: indices stay valid.
//!   2. No prefix holds a home folder or covers a path that a sandbox uses for something else.

mod discover;
mod probe;

use std::cmp::Reverse;
use std::path::PathBuf;

use model::{Family, Runtime};

pub use discover::{Environment, discover};
pub use probe::precompile;

/// Oldest Python that the guest runs on, as (major, minor).
const PYTHON_OLDEST: (u32, u32) = (3, 8);
/// Oldest Node.js that the guest runs on, as (major, minor).
const NODE_OLDEST: (u32, u32) = (12, 20);

/// Oldest Java that the guest runs on, as (major, minor).
const JAVA_OLDEST: (u32, u32) = (11, 0);

/// Oldest Ruby that the guest runs on, as (major, minor).
const RUBY_OLDEST: (u32, u32) = (2, 7);
/// Oldest PHP that the guest runs on, as (major, minor).
const PHP_OLDEST: (u32, u32) = (8, 0);

/// Families with interpreters.
pub const FAMILIES: &[Family] = &[Family::Node, Family::Python, Family::Java, Family::Ruby, Family::Php];

/// Flags of a Ruby interpreter, and what it runs. Text is UTF-8 whatever locale the sandbox has.
pub const RUBY_FLAGS: &[&str] = &["-EUTF-8", "/var/runtime/ruby/bootstrap.rb"];

/// Flags of a PHP interpreter, and what it runs: the sandbox bounds memory, variables are in `$_ENV` too whatever the host's
/// settings say of that, and errors are lines of the log.
pub const PHP_FLAGS: &[&str] = &[
    "-d",
    "memory_limit=-1",
    "-d",
    "variables_order=EGPCS",
    "-d",
    "display_errors=stderr",
    "-d",
    "log_errors=0",
    "-d",
    "html_errors=0",
    "/var/runtime/php/bootstrap.php",
];

/// Flags of a Python interpreter before the script's name. Packages of the host are no part of a function's world, so
/// `site` is not run (it would also cost milliseconds); text is UTF-8 whatever locale the sandbox has.
pub const PYTHON_FLAGS: &[&str] = &["-S", "-s", "-X", "utf8"];

/// Flags of a Java machine, and what it runs. The first two let the guest use descriptor 3 and give variables to a process
/// that runs already.
pub const JAVA_FLAGS: &[&str] = &[
    "--add-opens=java.base/java.io=ALL-UNNAMED",
    "--add-opens=java.base/java.util=ALL-UNNAMED",
    "-Dfile.encoding=UTF-8",
    "-Djavax.net.ssl.trustStore=/var/runtime/trust.jks",
    // Hooks of snapshots are registered with the client's context.
    "-Dorg.crac.Core.Compat=com.amazonaws.services.lambda.crac",
    "-cp",
    // The guest's own classes go before the client's.
    "/var/runtime/java/dunlin-guest.jar:/var/runtime/java/*",
    "dunlin.guest.Bootstrap",
];

/// A usable interpreter.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Interpreter {
    /// What it runs.
    pub family: Family,
    /// Major, minor, patch.
    pub version: (u32, u32, u32),
    /// The real path of the executable.
    pub binary: PathBuf,
    /// The real path of its installation, bound read-only into sandboxes at the same path when outside `/usr`.
    pub prefix: PathBuf,
    /// Folders outside `/usr` and `prefix` that its shared libraries lie in, bound like `prefix`.
    pub library_paths: Vec<PathBuf>,
}

impl Interpreter {
    /// The folder where guests find it by the names that people call it: `/var/lang/python3.11.4/bin`.
    pub fn named_folder(&self) -> PathBuf {
        let (major, minor, patch) = self.version;
        let family = match self.family {
            Family::Node => "node",
            Family::Python => "python",
            Family::Java => "java",
            Family::Ruby => "ruby",
            Family::Php => "php",
            Family::Provided => "program",
        };
        PathBuf::from(format!("/var/lang/{family}{major}.{minor}.{patch}/bin"))
    }

    /// What people call it and what comes with it, with the programs that are meant.
    pub(crate) fn names(&self) -> Vec<(String, PathBuf)> {
        let (major, minor, _) = self.version;
        let own = |name: String| (name, self.binary.clone());
        let beside = |name: &str| {
            let path = self.binary.with_file_name(name);
            path.exists().then(|| (name.to_owned(), path))
        };
        match self.family {
            Family::Node => {
                let others = ["npm", "npx", "corepack"].into_iter().filter_map(beside);
                std::iter::once(own("node".to_owned())).chain(others).collect()
            }
            Family::Python => {
                vec![own("python".to_owned()), own(format!("python{major}")), own(format!("python{major}.{minor}"))]
            }
            Family::Java => vec![own("java".to_owned())],
            Family::Ruby => {
                let others = ["gem", "bundle", "bundler", "rake", "irb"].into_iter().filter_map(beside);
                std::iter::once(own("ruby".to_owned())).chain(others).collect()
            }
            Family::Php => vec![own("php".to_owned()), own(format!("php{major}.{minor}"))],
            Family::Provided => Vec::new(),
        }
    }
}

/// A candidate that is not used.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Skipped {
    /// Where it was found.
    pub path: PathBuf,
    /// Why it is not used.
    pub why: String,
}

/// What discovery found.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Interpreters {
    /// Usable ones; `Guest::Interpreter` names them by index.
    pub usable: Vec<Interpreter>,
    /// The others, for `dunlin doctor`.
    pub skipped: Vec<Skipped>,
}

/// Index of the interpreter that serves `runtime`: the newest patch of the wanted version, else the nearest newer
/// version of the family, else the nearest older one; the newest, where none is wanted. The error says what to install.
pub fn choose(interpreters: &Interpreters, runtime: &Runtime) -> Result<usize, String> {
    let family = runtime.family();
    if family == Family::Provided {
        return Err(format!("{runtime} brings its own program and takes no interpreter"));
    }
    let asked = runtime.version();
    let of_family = interpreters.usable.iter().enumerate().filter(|(_, known)| known.family == family);
    let best = of_family.min_by_key(|(index, known)| {
        let line = line_of(known);
        let wanted = asked.unwrap_or(line);
        let newer = line > wanted;
        let distance = (line.0.abs_diff(wanted.0), line.1.abs_diff(wanted.1));
        // Exact before newer before older; within one line the newest patch, then what discovery met first.
        (line != wanted, !newer && line != wanted, distance, Reverse(known.version), *index)
    });
    best.map(|(index, _)| index).ok_or_else(|| missing(runtime))
}

/// What to tell the user when another version than the one asked for serves `runtime`; nothing when it is exact or
/// when there is none at all.
pub fn substitution(interpreters: &Interpreters, runtime: &Runtime) -> Option<String> {
    let chosen = &interpreters.usable[choose(interpreters, runtime).ok()?];
    let wanted = runtime.version()?;
    let (major, minor, patch) = chosen.version;
    (line_of(chosen) != wanted).then(|| {
        let (name, version) = (name_of(chosen.family), shown(chosen.family, wanted));
        let binary = chosen.binary.display();
        format!("{runtime} runs on {name} {major}.{minor}.{patch} ({binary}): this machine has no {name} {version}")
    })
}

/// The part of a version that a runtime identifier names.
fn line_of(interpreter: &Interpreter) -> (u32, u32) {
    match interpreter.family {
        Family::Node | Family::Java => (interpreter.version.0, 0),
        Family::Python | Family::Ruby | Family::Php | Family::Provided => {
            (interpreter.version.0, interpreter.version.1)
        }
    }
}

fn missing(runtime: &Runtime) -> String {
    let family = runtime.family();
    let name = name_of(family);
    let version = runtime.version().map(|wanted| format!(" {}", shown(family, wanted))).unwrap_or_default();
    let package = match family {
        Family::Java => format!("openjdk-{}-jdk-headless", version.trim_start()),
        _ => package_of(family).to_owned(),
    };
    let add = runtime.as_str();
    format!(
        "no usable {name} was found on this machine for {runtime}: install {name}{version} (the distribution's \
         package `{package}`, which `dunlin runtimes add {add}` does, or a version manager) and restart; `dunlin doctor` \
         lists what was looked at"
    )
}

/// The distribution's package of a family's interpreter, as Debian and its relatives call it.
pub fn package_of(family: Family) -> &'static str {
    match family {
        Family::Node => "nodejs",
        Family::Java => "default-jdk-headless",
        Family::Ruby => "ruby",
        Family::Php => "php-cli",
        Family::Python | Family::Provided => "python3",
    }
}

/// Families that this machine has no usable interpreter of.
pub fn absent(interpreters: &Interpreters) -> impl Iterator<Item = Family> {
    FAMILIES.iter().copied().filter(|family| interpreters.usable.iter().all(|known| known.family != *family))
}

/// What people call a family's interpreter.
pub fn name_of(family: Family) -> &'static str {
    match family {
        Family::Node => "Node.js",
        Family::Python => "Python",
        Family::Java => "Java",
        Family::Ruby => "Ruby",
        Family::Php => "PHP",
        Family::Provided => "a program of its own",
    }
}

fn shown(family: Family, line: (u32, u32)) -> String {
    match family {
        Family::Node | Family::Java => line.0.to_string(),
        Family::Python | Family::Ruby | Family::Php | Family::Provided => format!("{}.{}", line.0, line.1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(versions: &[(Family, (u32, u32, u32))]) -> Interpreters {
        let usable = versions.iter().map(|(family, version)| Interpreter {
            family: *family,
            version: *version,
            binary: "/usr/bin/x".into(),
            prefix: "/usr".into(),
            library_paths: Vec::new(),
        });
        Interpreters { usable: usable.collect(), skipped: Vec::new() }
    }

    fn chosen(host: &Interpreters, identifier: &str) -> (u32, u32, u32) {
        host.usable[choose(host, &Runtime::parse(identifier).unwrap()).unwrap()].version
    }

    #[test]
    fn the_exact_version_wins_then_the_nearest_newer_then_the_nearest_older() {
        let host = host(&[
            (Family::Node, (18, 1, 0)),
            (Family::Node, (20, 1, 0)),
            (Family::Node, (20, 20, 2)),
            (Family::Node, (24, 0, 0)),
            (Family::Python, (3, 9, 18)),
            (Family::Python, (3, 11, 2)),
            (Family::Java, (17, 0, 15)),
            (Family::Java, (25, 0, 1)),
            (Family::Ruby, (3, 1, 2)),
            (Family::Ruby, (3, 4, 9)),
            (Family::Php, (8, 1, 2)),
            (Family::Php, (8, 2, 36)),
        ]);
        let cases = [
            ("nodejs20.x", (20, 20, 2)),
            ("nodejs12.x", (18, 1, 0)),
            ("nodejs22.x", (24, 0, 0)),
            ("nodejs26.x", (24, 0, 0)),
            ("python3.8", (3, 9, 18)),
            ("python3.10", (3, 11, 2)),
            ("python3.11", (3, 11, 2)),
            ("python3.14", (3, 11, 2)),
            ("java8.al2", (17, 0, 15)),
            ("java17", (17, 0, 15)),
            ("java21", (25, 0, 1)),
            ("ruby3.2", (3, 4, 9)),
            ("ruby3.4", (3, 4, 9)),
        ];
        for (identifier, version) in cases {
            assert_eq!(chosen(&host, identifier), version, "{identifier}");
        }
        for (asked, version) in [(Some("8.1"), (8, 1, 2)), (Some("8.4"), (8, 2, 36)), (None, (8, 2, 36))] {
            let php = Runtime::php(asked).unwrap();
            assert_eq!(host.usable[choose(&host, &php).unwrap()].version, version, "{php}");
        }
    }

    #[test]
    fn a_substitution_and_a_missing_interpreter_are_told() {
        let host = host(&[(Family::Python, (3, 11, 2))]);
        let runtime = |identifier| Runtime::parse(identifier).unwrap();
        assert_eq!(substitution(&host, &runtime("python3.11")), None);
        assert_eq!(
            substitution(&host, &runtime("python3.12")).unwrap(),
            "python3.12 runs on Python 3.11.2 (/usr/bin/x): this machine has no Python 3.12"
        );
        let error = choose(&host, &runtime("nodejs22.x")).unwrap_err();
        assert!(error.starts_with("no usable Node.js was found on this machine for nodejs22.x: install Node.js 22 "));
        assert!(choose(&host, &runtime("provided.al2023")).is_err());
        let error = choose(&host, &runtime("ruby3.3")).unwrap_err();
        assert!(
            error.contains("install Ruby 3.3 ") && error.contains("`ruby`, which `dunlin runtimes add ruby3.3` does")
        );
        let error = choose(&host, &Runtime::php(None).unwrap()).unwrap_err();
        assert!(error.contains("install PHP (the") && error.contains("`php-cli`, which `dunlin runtimes add php`"));
        assert!(absent(&host).eq([Family::Node, Family::Java, Family::Ruby, Family::Php]));
        assert_eq!(substitution(&host, &runtime("nodejs22.x")), None);
    }
}

//! Code caches: what an interpreter makes of a package's sources before it can run them, made once and kept beside the
//! package: `CODE_ROOT/DIGEST.cache/NAME`, which guests see below `/var/cache` and cannot write.
//!
//! What is in a file only the guest side knows (`runtimes/python/dunlin_cache.py`, `runtimes/nodejs/code_cache.cjs`); here
//! it is bytes under a bound. A guest of its own makes it, in a sandbox that holds the code and reaches no network.
//!
//! | family  | one for each                                                | how it is made                             |
//! |---------|-------------------------------------------------------------|--------------------------------------------|
//! | Python  | package or layer, interpreter                               | every module is compiled, none is run      |
//! | Node.js | package, its layers, handler, memory, runtime, interpreter  | the handler's module is loaded, not called |
//!
//! V8 compiles a function when it first runs, so that only what was run is worth keeping; it takes code only of a process
//! with the same flags, of which the heap's size is one.
//!
//! Whom a cache may serve: bytecode is code, so whoever makes it could put anything there. The guest that makes it gets
//! nothing but the code: no variable, credential or event of the function that was its occasion; and no guest that serves
//! calls ever gives one, as it could then reach other functions of the package through it. So a cache holds only
//! what the code itself could do anyway, and may serve every function that has the same, of whichever account.
//!
//! Invariants
//!   1. The content of a cache follows from the code and the interpreter; its place and name tell which.
//!   2. A file under its final name is whole: it is written beside and renamed.
//!   3. A cache that is missing, torn or of other sources costs a start time, and nothing else.
//!   4. One is made at a time, behind the starts of calls, and only where there is enough to gain.
//!   5. A package's caches go with its folder: when the machine is started anew, and when it is unpacked again.
//!
//! Start reading at `CodeCaches::want` and `CodeCaches::recall`.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base::Random;
use bytes::Bytes;
use model::{CodeDigest, Family, FunctionVersion};
use parking_lot::Mutex;
use sandbox::{CACHE_ROOT, CACHE_SUFFIX, Control, Guest, Interpreter, SandboxSpec, Started, interpreter};
use serde_json::{Value as Json, json};
use sha2::{Digest, Sha256};
use tokio::time::{Instant, sleep, timeout};

use crate::engine::Core;
use crate::frames::Frames;
use crate::package::UNFINISHED;
use crate::start::MIB;
use crate::variables::{self, TASK_ROOT};

/// Most bytes of one cache.
pub(crate) const BYTES_MAX: usize = 64 * 1024 * 1024;
/// Most caches of one package; the oldest goes for a new one.
const FILES_MAX: usize = 8;
/// Sources of fewer bytes are compiled in a few milliseconds.
const SOURCES_WORTH: u64 = 64 * 1024;
/// How long the making of one may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long none is tried after it failed.
const RETRY_AFTER: Duration = Duration::from_secs(3_600);
/// Memory of the guest that makes one, MiB.
const MEMORY_MB: u32 = 512;
/// How long calls must have started no environment before one is made: a function is often called as soon as it is
/// deployed. And how long they go first at most.
const CALM: Duration = Duration::from_millis(250);
const STANDS_BACK: Duration = Duration::from_secs(30);
const BUSY_POLL: Duration = Duration::from_millis(10);
/// Where layers are inside.
const LAYERS_ROOT: &str = "/opt";

/// One cache: of a package, by a name that tells for what.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Cache {
    package: CodeDigest,
    name: String,
}

/// A cache that a version can use.
#[derive(Debug, Clone, PartialEq)]
struct Wanted {
    cache: Cache,
    /// Where guests see the caches of the package.
    folder: usize,
    /// Where guests see the package.
    root: &'static str,
    /// What its maker is told, and the layers that it sees.
    order: Json,
    layers: Vec<CodeDigest>,
    /// MiB of memory that the maker's interpreter is started for.
    memory_mb: u32,
}

/// Where a guest finds a cache, and the folder whose code it is of.
pub(crate) type Place = (String, &'static str);

enum State {
    Present,
    Absent,
    Making,
    /// Not worth it.
    Needless,
    FailedUntil(Instant),
}

/// The caches of this host.
pub(crate) struct CodeCaches {
    root: PathBuf,
    random: Arc<dyn Random>,
    known: Mutex<HashMap<Cache, State>>,
    /// Held by the one that is made.
    making: tokio::sync::Mutex<()>,
}

impl CodeCaches {
    /// The caches below `root`, the folder of the packages.
    pub(crate) fn new(root: PathBuf, random: Arc<dyn Random>) -> Self {
        Self { root, random, known: Mutex::default(), making: tokio::sync::Mutex::default() }
    }

    /// Looks once at what an earlier process has left for a version: no guest is given what the disk has damaged.
    pub(crate) async fn recall(&self, version: &FunctionVersion, interpreter: &Interpreter) {
        for Wanted { cache, .. } in wanted(version, interpreter) {
            if self.known.lock().contains_key(&cache) {
                continue;
            }
            let path = self.folder(&cache.package).join(&cache.name);
            let whole = tokio::task::spawn_blocking(move || is_whole(&path)).await.unwrap_or(false);
            self.known.lock().entry(cache).or_insert(if whole { State::Present } else { State::Absent });
        }
    }

    /// The caches that are there for a version, after `recall`.
    pub(crate) fn places(&self, version: &FunctionVersion, interpreter: &Interpreter) -> Vec<Place> {
        let known = self.known.lock();
        let present = |wanted: &Wanted| matches!(known.get(&wanted.cache), Some(State::Present));
        wanted(version, interpreter)
            .into_iter()
            .filter(present)
            .map(|it| (format!("{CACHE_ROOT}/{}/{}", it.folder, it.cache.name), it.root))
            .collect()
    }

    /// Has the caches made that a version can use and that are not there, in the background.
    pub(crate) fn want(&self, core: &Arc<Core>, version: &Arc<FunctionVersion>) {
        let Ok(index) = interpreter::choose(&core.interpreters, &version.runtime) else { return };
        for wanted in wanted(version, &core.interpreters.usable[index]) {
            if self.begin(&wanted.cache) {
                let task = make_noted(core.clone(), version.clone(), index, wanted);
                core.tasks.spawn(core.closing.clone().run_until_cancelled_owned(task));
            }
        }
    }

    /// How many there are.
    #[cfg(test)]
    pub(crate) fn present(&self) -> usize {
        self.known.lock().values().filter(|state| matches!(state, State::Present)).count()
    }

    /// A package's folder is gone: what is known of its caches holds no more.
    pub(crate) fn forget(&self, package: &CodeDigest) {
        self.known.lock().retain(|cache, _| cache.package != *package);
    }

    /// Whether a cache is to be made now, by the caller.
    fn begin(&self, cache: &Cache) -> bool {
        let mut known = self.known.lock();
        let due = match known.get(cache) {
            None | Some(State::Absent) => true,
            Some(State::FailedUntil(until)) => *until <= Instant::now(),
            Some(State::Present | State::Making | State::Needless) => false,
        };
        if due {
            known.insert(cache.clone(), State::Making);
        }
        due
    }

    fn folder(&self, package: &CodeDigest) -> PathBuf {
        self.root.join(format!("{package}{CACHE_SUFFIX}"))
    }

    async fn keep(&self, cache: &Cache, pieces: Vec<Bytes>) -> io::Result<()> {
        let (folder, name) = (self.folder(&cache.package), cache.name.clone());
        let beside = self.root.join(format!("{UNFINISHED}{}-{}", cache.package, self.random.hex(8)));
        let work = tokio::task::spawn_blocking(move || {
            let done = write(&beside, &folder, &name, &pieces);
            // What is left is removed at the next start at the latest.
            let _ = fs::remove_dir_all(&beside);
            done
        });
        work.await.map_err(io::Error::other)?
    }
}

/// The caches that a version can use on an interpreter. Pure.
fn wanted(version: &FunctionVersion, interpreter: &Interpreter) -> Vec<Wanted> {
    let (major, minor, patch) = interpreter.version;
    match interpreter.family {
        Family::Python => {
            let code = std::iter::once((&version.code, TASK_ROOT));
            let all = code.chain(version.layers.iter().map(|layer| (layer, LAYERS_ROOT))).enumerate();
            let name = format!("python-{major}.{minor}.{patch}");
            all.map(|(folder, (package, root))| Wanted {
                cache: Cache { package: package.clone(), name: name.clone() },
                folder,
                root,
                order: json!({"root": TASK_ROOT, "as": root}),
                layers: Vec::new(),
                memory_mb: MEMORY_MB,
            })
            .collect()
        }
        Family::Node => {
            let name = format!("node-{major}.{minor}.{patch}-{}", fingerprint(version));
            vec![Wanted {
                cache: Cache { package: version.code.clone(), name },
                folder: 0,
                root: TASK_ROOT,
                order: json!({"root": TASK_ROOT, "handler": version.handler}),
                layers: version.layers.clone(),
                memory_mb: version.memory_mb,
            }]
        }
        // A Java machine takes no compiled code from outside, and that of the others is of one process.
        Family::Java | Family::Ruby | Family::Php | Family::Provided => Vec::new(),
    }
}

/// What a Node.js function's compiled code depends on besides its package.
fn fingerprint(version: &FunctionVersion) -> String {
    let on = json!([version.runtime.to_string(), version.memory_mb, version.handler, version.layers]);
    Sha256::digest(on.to_string()).iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

async fn make_noted(core: Arc<Core>, version: Arc<FunctionVersion>, index: usize, wanted: Wanted) {
    let state = make(&core, &version, index, &wanted).await.unwrap_or_else(|error| {
        tracing::debug!(package = %wanted.cache.package, %error, "its code could not be compiled ahead");
        State::FailedUntil(Instant::now() + RETRY_AFTER)
    });
    core.code_caches.known.lock().insert(wanted.cache, state);
}

async fn make(core: &Core, version: &FunctionVersion, index: usize, wanted: &Wanted) -> Result<State, String> {
    let caches = &core.code_caches;
    let packages = std::iter::once(&wanted.cache.package).chain(&wanted.layers);
    let folders: Vec<PathBuf> = packages.map(|package| caches.root.join(package.as_str())).collect();
    let family = version.runtime.family();
    let bytes = move || folders.iter().map(|folder| source_bytes(folder, family)).sum::<u64>();
    let worth = tokio::task::spawn_blocking(move || bytes() >= SOURCES_WORTH);
    if !worth.await.map_err(|error| error.to_string())? {
        return Ok(State::Needless);
    }
    let _one = caches.making.lock().await;
    let (until, mut busy_at) = (Instant::now() + STANDS_BACK, Instant::now());
    while busy_at.elapsed() < CALM && Instant::now() < until {
        sleep(BUSY_POLL).await;
        if core.fleet.is_starting() || core.fleet.is_initialising() {
            busy_at = Instant::now();
        }
    }
    let pieces = timeout(PATIENCE, compile(core, version, index, wanted));
    let pieces = pieces.await.map_err(|_| "it takes too long".to_owned())??;
    caches.keep(&wanted.cache, pieces).await.map_err(|error| error.to_string())?;
    Ok(State::Present)
}

/// Has a guest compile a package. What it says otherwise is nobody's.
async fn compile(core: &Core, version: &FunctionVersion, index: usize, wanted: &Wanted) -> Result<Vec<Bytes>, String> {
    let (family, memory_mb) = (version.runtime.family(), wanted.memory_mb);
    let guest = Guest::Interpreter { family, interpreter: index, memory_mb, wrapper: None };
    let spec = SandboxSpec {
        guest,
        root: None,
        code: Some(wanted.cache.package.clone()),
        layers: wanted.layers.clone(),
        files: None,
        memory_bytes: u64::from(memory_mb.max(MEMORY_MB)) * MIB,
        tmp_bytes: u64::from(MEMORY_MB) * MIB,
        environment: variables::boot_variables(&version.runtime, &core.config.guest_variables),
        held: false,
    };
    let Started { channel, mut output, control, .. } =
        core.backend.start(spec).await.map_err(|error| error.to_string())?;
    let _end = End(control);
    let mut frames = Frames::new(channel).map_err(|error| error.to_string())?;
    let mut nobody = tokio::io::sink();
    let listen = async {
        let _ = tokio::io::copy(&mut output, &mut nobody).await;
        std::future::pending().await
    };
    tokio::select! {
        made = frames.compile(&wanted.order, BYTES_MAX) => made,
        () = listen => Err("its output has ended".to_owned()),
    }
}

/// Ends a sandbox.
struct End(Arc<dyn Control>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.kill();
    }
}

/// Bytes of the sources below a folder, links apart.
fn source_bytes(folder: &Path, family: Family) -> u64 {
    let endings: &[&str] = match family {
        Family::Python => &["py"],
        Family::Node => &["js", "cjs", "mjs"],
        Family::Java | Family::Ruby | Family::Php | Family::Provided => &[],
    };
    let mut bytes = 0;
    let mut todo = vec![folder.to_owned()];
    while let Some(folder) = todo.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => todo.push(path),
                Ok(kind) if kind.is_file() => {
                    let ending = path.extension().and_then(|ending| ending.to_str());
                    if ending.is_some_and(|ending| endings.contains(&ending)) {
                        bytes += entry.metadata().map_or(0, |about| about.len());
                    }
                }
                _ => {}
            }
        }
    }
    bytes
}

/// A checksum that the platform adds to a cache; guests do not look at it.
const CHECKSUM_BYTES: usize = 32;

/// Whether a file is as it was written; one that is not is removed.
fn is_whole(path: &Path) -> bool {
    let Ok(bytes) = fs::read(path) else { return false };
    let whole =
        bytes.split_last_chunk::<CHECKSUM_BYTES>().is_some_and(|(content, sum)| Sha256::digest(content)[..] == sum[..]);
    if !whole {
        tracing::warn!(path = %path.display(), "compiled code was damaged and is made again");
        // What cannot be removed is replaced.
        let _ = fs::remove_file(path);
    }
    whole
}

fn write(beside: &Path, folder: &Path, name: &str, pieces: &[Bytes]) -> io::Result<()> {
    // Sandboxes read them under ids of their own, whatever the umask says.
    let open_to_all = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode));
    fs::create_dir(beside)?;
    let unfinished = beside.join(name);
    let mut file = fs::File::create_new(&unfinished)?;
    let mut sum = Sha256::new();
    for piece in pieces {
        sum.update(piece);
        file.write_all(piece)?;
    }
    file.write_all(&sum.finalize())?;
    open_to_all(&unfinished, 0o644)?;
    match fs::create_dir(folder) {
        Ok(()) => open_to_all(folder, 0o755)?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    make_room(folder)?;
    fs::rename(unfinished, folder.join(name))
}

/// Removes the oldest caches of a package, so that there is room for one.
fn make_room(folder: &Path) -> io::Result<()> {
    let entries = fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
    let mut files: Vec<_> =
        entries.iter().map(|entry| (entry.metadata().and_then(|about| about.modified()).ok(), entry.path())).collect();
    files.sort_by_key(|(modified, _)| Reverse(*modified));
    files.iter().skip(FILES_MAX - 1).try_for_each(|(_, path)| fs::remove_file(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::fixtures::version;
    use base::SeededRandom;
    use model::Runtime;

    fn python() -> Interpreter {
        Interpreter {
            family: Family::Python,
            version: (3, 12, 1),
            binary: "/usr/bin/python3".into(),
            prefix: "/usr".into(),
            library_paths: Vec::new(),
        }
    }

    fn digest(byte: &str) -> CodeDigest {
        CodeDigest::parse(&byte.repeat(32)).unwrap()
    }

    #[tokio::test]
    async fn a_cache_is_of_a_package_and_an_interpreter_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let caches = CodeCaches::new(folder.path().to_owned(), SeededRandom::new(1));
        let mut one = version("f");
        one.runtime = Runtime::parse("python3.12").unwrap();
        one.layers = vec![digest("0b"), digest("0c")];
        caches.recall(&one, &python()).await;
        assert_eq!(caches.places(&one, &python()), []);
        for package in ["0a", "0c"] {
            let cache = Cache { package: digest(package), name: "python-3.12.1".into() };
            caches.keep(&cache, vec![Bytes::from_static(b"by"), Bytes::from_static(b"tes")]).await.unwrap();
            caches.forget(&cache.package);
        }
        caches.recall(&one, &python()).await;
        let places = caches.places(&one, &python());
        assert_eq!(
            places,
            [("/var/cache/0/python-3.12.1".into(), "/var/task"), ("/var/cache/2/python-3.12.1".into(), "/opt")]
        );
        let mut other = version("g");
        (other.runtime, other.handler) = (one.runtime.clone(), "another.handler".into());
        other.environment.insert("A".into(), "1".into());
        assert_eq!(caches.places(&other, &python()), places[..1]);
        let newer = Interpreter { version: (3, 12, 2), ..python() };
        assert_eq!(caches.places(&other, &newer), []);
        assert_eq!(wanted(&one, &python())[1].order, json!({"root": "/var/task", "as": "/opt"}));
        let kept = folder.path().join(format!("{}.cache/python-3.12.1", digest("0a")));
        assert_eq!(fs::read(&kept).unwrap()[..5], *b"bytes");
        assert_eq!(fs::metadata(&kept).unwrap().permissions().mode() & 0o777, 0o644);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "nothing unfinished is left");
        fs::write(&kept, b"bytes that somebody has changed, and a sum that is another").unwrap();
        caches.forget(&digest("0a"));
        caches.recall(&other, &python()).await;
        assert_eq!((caches.places(&other, &python()), kept.exists()), (Vec::new(), false));
    }

    #[test]
    fn node_code_is_of_all_that_v8_and_the_module_look_at() {
        let node = Interpreter { family: Family::Node, version: (22, 1, 0), ..python() };
        let name = |change: &dyn Fn(&mut FunctionVersion)| {
            let mut version = version("f");
            change(&mut version);
            wanted(&version, &node).remove(0).cache.name
        };
        let plain = name(&|_| {});
        assert!(plain.starts_with("node-22.1.0-") && plain.len() == 44, "{plain}");
        assert_eq!(name(&|version| drop(version.environment.insert("A".into(), "1".into()))), plain);
        let changes: [&dyn Fn(&mut FunctionVersion); 4] = [
            &|version| version.memory_mb = 256,
            &|version| version.handler = "other.handler".into(),
            &|version| version.layers.push(digest("0b")),
            &|version| version.runtime = Runtime::parse("nodejs16.x").unwrap(),
        ];
        for change in changes {
            assert_ne!(name(change), plain);
        }
    }

    #[tokio::test]
    async fn a_package_has_a_few_caches_at_most() {
        let folder = tempfile::tempdir().unwrap();
        let caches = CodeCaches::new(folder.path().to_owned(), SeededRandom::new(1));
        for number in 0..FILES_MAX + 3 {
            let cache = Cache { package: digest("0a"), name: format!("node-{number}") };
            caches.keep(&cache, vec![Bytes::from_static(b"x")]).await.unwrap();
        }
        let kept = fs::read_dir(caches.folder(&digest("0a"))).unwrap();
        assert_eq!(kept.count(), FILES_MAX);
        assert!(caches.folder(&digest("0a")).join(format!("node-{}", FILES_MAX + 2)).exists());
    }

    #[test]
    fn sources_are_counted_and_links_are_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("a/b")).unwrap();
        fs::write(folder.path().join("a/b/x.py"), "12345").unwrap();
        fs::write(folder.path().join("y.js"), "123").unwrap();
        fs::write(folder.path().join("data.json"), "1234567").unwrap();
        std::os::unix::fs::symlink("..", folder.path().join("a/up")).unwrap();
        std::os::unix::fs::symlink("y.js", folder.path().join("z.js")).unwrap();
        let bytes = |family| source_bytes(folder.path(), family);
        assert_eq!((bytes(Family::Python), bytes(Family::Node), bytes(Family::Provided)), (5, 3, 0));
    }
}

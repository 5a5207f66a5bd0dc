//! Boots a guest without a function, makes a zygote or a vacant sandbox, and gives what is ready its function.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use model::{Family, FunctionVersion, Runtime};
use sandbox::{Assignment, Control, Guest, GuestListeners, Occupant, SandboxSpec, Started};
use serde_json::{Value as Json, json};
use tokio::net::unix::pipe;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout};

use super::Kind;
use super::kind::{Sight, Terms};
use crate::engine::Core;
use crate::frames::Frames;
use crate::start::{self, MIB};
use crate::variables;

/// How long a boot may take.
const BOOT_TIMEOUT: Duration = Duration::from_secs(10);
/// Memory of a guest until it has a function's: the least that a function can have.
const BOOT_MEMORY_MB: u64 = 128;
/// Memory of a zygote, MiB.
const ZYGOTE_MEMORY_MB: u64 = 512;
/// `/tmp` of a booted guest, MiB: what a function has that does not ask for more.
const TMP_MB: u64 = 512;
/// How long a zygote loads what it was made for, before another function of its kind may say what else to load.
const CHANGES_AFTER: Duration = Duration::from_secs(600);
/// A zygote is replaced after so many forks, well before it can make no more.
const FORKS: u32 = 128;
/// And after so many even while calls wait, so that a burst does not end with it: to boot one takes the processor as long as
/// a dozen forks.
const FORKS_LAST: u32 = 208;
/// And after this time, so that functions do not share its address layout for ever.
const ZYGOTE_AGE: Duration = Duration::from_secs(3_600);

/// A guest that has no function yet, or a sandbox that has no guest yet. Dropped, it ends.
pub(crate) struct Booted {
    parts: Option<Parts>,
    control: Arc<dyn Control>,
    watcher: Option<AbortHandle>,
    /// Of a fork that has loaded dependencies: for whom.
    terms: Option<Arc<Terms>>,
    /// Of a fork that has run a version's init: what its clients ask for credentials with.
    token: Option<Arc<str>>,
    /// Whether nothing runs in it yet.
    vacant: bool,
    /// Whether its parts are somebody's, who ends it.
    given: bool,
}

/// What an environment is made of.
pub(crate) struct Parts {
    pub(crate) frames: Frames,
    pub(crate) output: pipe::Receiver,
    pub(crate) listeners: GuestListeners,
    pub(crate) control: Arc<dyn Control>,
    /// Processor time that was used before it was anybody's.
    pub(crate) cpu: Duration,
    /// Of a guest that has run its version's init: what its clients ask for credentials with.
    pub(crate) token: Option<Arc<str>>,
}

impl Booted {
    /// Names it among all.
    pub(super) fn id(&self) -> u64 {
        self.control.id()
    }

    pub(super) fn control(&self) -> Arc<dyn Control> {
        self.control.clone()
    }

    /// Whether it is for such a version; all are, where it has loaded nothing for anybody.
    pub(super) fn serves(&self, sight: Option<&Sight>) -> bool {
        self.terms.as_ref().is_none_or(|terms| sight.is_some_and(|sight| terms.hold_for(sight)))
    }

    /// Watched by a task that ends with it.
    pub(super) fn watched_by(&mut self, watcher: AbortHandle) {
        self.watcher = Some(watcher);
    }

    fn give(&mut self) -> Option<Parts> {
        let parts = self.parts.take();
        self.given = parts.is_some();
        parts
    }

    /// Whether it needs somebody who moves in.
    pub(crate) fn is_vacant(&self) -> bool {
        self.vacant
    }

    /// Gives it a version's code, layers and limits, and if it is vacant its guest.
    pub(crate) async fn assign(
        mut self,
        version: &FunctionVersion,
        occupant: Option<Occupant>,
    ) -> Result<Parts, sandbox::Error> {
        let before = self.control.usage().cpu;
        let assignment = Assignment {
            code: Some(version.code.clone()),
            layers: version.layers.clone(),
            memory_bytes: u64::from(version.memory_mb) * MIB,
            tmp_bytes: u64::from(version.tmp_mb) * MIB,
            occupant,
        };
        self.control.assign(&assignment).await?;
        let mut parts = self.give().ok_or(sandbox::Error::SpawnerGone)?;
        // What moved in has begun by now, and is the function's.
        parts.cpu = if self.vacant { before } else { parts.control.usage().cpu };
        parts.token.clone_from(&self.token);
        Ok(parts)
    }
}

impl Drop for Booted {
    fn drop(&mut self) {
        if let Some(watcher) = &self.watcher {
            watcher.abort();
        }
        if !self.given {
            self.control.kill();
        }
    }
}

/// A process that Python guests are forked from. Dropped, it ends; its forks live on.
pub(crate) struct Zygote {
    kind: Kind,
    control: Arc<dyn Control>,
    /// Its channel and its output: it ends when they close.
    _open: Box<dyn Any + Send + Sync>,
    /// Where it has loaded dependencies: for whom.
    terms: Option<Arc<Terms>>,
    /// Where it has run a version's init: what its forks are.
    copies: Option<Copies>,
    born: Instant,
    forks: AtomicU32,
}

/// Forks of a zygote that has run a version's init.
pub(super) struct Copies {
    /// MiB of their memory.
    pub(super) memory_mb: u32,
    /// What they ask for credentials with.
    pub(super) token: Arc<str>,
}

impl Zygote {
    /// One that is up. Whatever is `open` stays so as long as it lives.
    pub(super) fn new(kind: &Kind, control: Arc<dyn Control>, open: impl Any + Send + Sync) -> Self {
        let (kind, born, forks) = (kind.clone(), Instant::now(), AtomicU32::new(0));
        Self { kind, control, _open: Box::new(open), terms: None, copies: None, born, forks }
    }

    /// The same, which has run a version's init.
    pub(super) fn with(mut self, copies: Copies) -> Self {
        self.copies = Some(copies);
        self
    }

    /// Whether another may be made for other imports.
    pub(super) fn may_change(&self) -> bool {
        self.born.elapsed() >= CHANGES_AFTER
    }

    /// Whether the next one should be made. A snapshot that was not used since it was taken need not be taken again.
    pub(super) fn is_spent(&self, used: Instant) -> bool {
        let aged = self.born.elapsed() >= ZYGOTE_AGE && (self.copies.is_none() || used > self.born);
        aged || self.forks.load(Ordering::Relaxed) >= FORKS
    }

    /// Whether the next one can wait no longer.
    pub(super) fn is_running_out(&self) -> bool {
        self.forks.load(Ordering::Relaxed) >= FORKS_LAST
    }

    /// Whether it was asked for at most one fork so far.
    pub(super) fn is_new(&self) -> bool {
        self.forks.load(Ordering::Relaxed) <= 1
    }

    /// Whether its forks are for such a version.
    pub(super) fn serves(&self, sight: Option<&Sight>) -> bool {
        self.terms.as_ref().is_none_or(|terms| sight.is_some_and(|sight| terms.hold_for(sight)))
    }

    /// Forks a guest into a sandbox of its own.
    pub(super) async fn fork(&self, core: &Core) -> Result<Booted, String> {
        self.forks.fetch_add(1, Ordering::Relaxed);
        let guest = Guest::Fork { zygote: self.control.id() };
        let memory_mb = self.copies.as_ref().map_or(BOOT_MEMORY_MB, |copies| u64::from(copies.memory_mb));
        let mut booted = boot(core, spec(core, &self.kind, guest, memory_mb, TMP_MB), None).await?;
        booted.terms.clone_from(&self.terms);
        booted.token = self.copies.as_ref().map(|copies| copies.token.clone());
        Ok(booted)
    }
}

impl Drop for Zygote {
    fn drop(&mut self) {
        self.control.kill();
    }
}

/// Variables that a booted Java guest can be given.
pub(super) const JAVA_VARIABLES_MAX: usize = 128;

/// Makes a zygote; one that has loaded the dependencies of a version, if there is one.
pub(super) async fn zygote(core: &Core, kind: &Kind, version: Option<&FunctionVersion>) -> Result<Zygote, String> {
    let interpreter = start::interpreter_for(core, runtime_of(kind)?)?;
    let guest = Guest::Zygote { family: Family::Python, interpreter };
    let mut spec = spec(core, kind, guest, ZYGOTE_MEMORY_MB, TMP_MB);
    if let Some(version) = version {
        start::prepare(core, version).await.map_err(|error| error.to_string())?;
        spec.code = Some(version.code.clone());
        spec.layers.clone_from(&version.layers);
        spec.memory_bytes = spec.memory_bytes.max(u64::from(version.memory_mb) * MIB);
        spec.environment = variables::own_variables(version, &core.config.guest_variables);
    }
    let sight = version.and_then(|version| super::sight(core, version));
    let order = version.zip(sight.as_ref()).map_or_else(
        || json!({}),
        |(version, sight)| {
            json!({
                "root": variables::TASK_ROOT,
                "handler": version.handler,
                "caches": core.code_caches.places(version, &core.interpreters.usable[interpreter]),
                "modules": sight.dependencies.modules,
            })
        },
    );
    let mut booted = boot(core, spec, Some(&order)).await?;
    let mut parts = booted.give().ok_or("it has no parts")?;
    let terms = sight.map(|sight| Arc::new(Terms::new(sight, parts.frames.read())));
    let control = parts.control.clone();
    let mut zygote = Zygote::new(kind, control, parts);
    zygote.terms = terms;
    Ok(zygote)
}

fn runtime_of(kind: &Kind) -> Result<&Runtime, String> {
    kind.runtime().ok_or_else(|| "nothing is booted in it".to_owned())
}

/// Boots a guest in a process of its own, or makes a sandbox without one.
pub(super) async fn guest(core: &Core, kind: &Kind) -> Result<Booted, String> {
    let Some(runtime) = kind.runtime() else {
        return boot(core, spec(core, kind, Guest::Vacant, BOOT_MEMORY_MB, TMP_MB), None).await;
    };
    let interpreter = start::interpreter_for(core, runtime)?;
    let (family, memory_mb) = (runtime.family(), kind.memory_mb.unwrap_or(BOOT_MEMORY_MB as u32));
    let guest = Guest::Interpreter { family, interpreter, memory_mb, wrapper: None };
    let mut spec = spec(core, kind, guest, u64::from(memory_mb), TMP_MB);
    // The guest takes the time to rehearse, and the variable away.
    spec.environment.push(("_DUNLIN_AHEAD".to_owned(), "1".to_owned()));
    if family == Family::Java {
        // Room for those of the function, where a guest cannot make any (`runtimes/java/dunlin/guest/Native.java`).
        let spare = (0..JAVA_VARIABLES_MAX).map(|index| (format!("_DUNLIN_SPARE_{index}"), String::new()));
        spec.environment.extend(spare);
    }
    boot(core, spec, None).await
}

fn spec(core: &Core, kind: &Kind, guest: Guest, memory_mb: u64, tmp_mb: u64) -> SandboxSpec {
    SandboxSpec {
        guest,
        root: None,
        code: None,
        layers: Vec::new(),
        files: None,
        memory_bytes: memory_mb * MIB,
        tmp_bytes: tmp_mb * MIB,
        environment: kind
            .runtime()
            .map(|runtime| variables::boot_variables(runtime, &core.config.guest_variables))
            .unwrap_or_default(),
        held: false,
    }
}

/// Boots; a zygote is told what to get ready for.
async fn boot(core: &Core, spec: SandboxSpec, zygote: Option<&Json>) -> Result<Booted, String> {
    let up = async {
        let vacant = spec.guest == Guest::Vacant;
        let started = core.backend.start(spec).await.map_err(|error| error.to_string())?;
        let Started { channel, output, listeners, control } = started;
        // From here on whatever ends early ends the guest.
        let (terms, token, given) = (None, None, false);
        let mut booted = Booted { parts: None, control: control.clone(), watcher: None, terms, token, vacant, given };
        let mut frames = Frames::new(channel).map_err(|error| error.to_string())?;
        if let Some(order) = zygote {
            frames.prepare(order).await.map_err(|error| error.to_string())?;
        }
        let parts = Parts { frames, output, listeners, control, cpu: Duration::ZERO, token: None };
        let parts = booted.parts.insert(parts);
        if vacant || parts.frames.booted().await { Ok(booted) } else { Err("it ended".to_owned()) }
    };
    timeout(BOOT_TIMEOUT, up).await.unwrap_or_else(|_| Err("it did not come up in time".to_owned()))
}

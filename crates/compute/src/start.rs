//! From a version to an initialised environment: package, credentials, variables, sandbox, init phase.
//!
//! Invariants
//!   1. The init phase has a cap of its own; beyond it the guest ends. The invocation that waits for an init that failed or
//!      was cut runs it again within its own time (`Phase::Invoke`).
//!   2. A guest whose init failed never serves a call.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use model::{AccessPoint, Credentials, Family, FileSystem, FunctionVersion, ImageCode, InvokeError, Runtime};
use sandbox::{Control, GUEST, Interpreter, Occupant, SandboxSpec, SharedFiles, Started, Usage, interpreter};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::code_cache::Place;
use crate::config::GuestIdentity;
use crate::container_credentials::{Document, Lasting};
use crate::engine::Core;
use crate::environment::{Before, Environment, Guest, Keeper, exit_of};
use crate::extensions::{self, Agents, Extensions, Reason};
use crate::faults::{Failure, Fault};
use crate::fleet::{Card, EnvironmentState, Room};
use crate::frames::{Frames, Order};
use crate::gate::Grant;
use crate::output::{Output, Source, Stream};
use crate::pool::Pool;
use crate::program;
use crate::ready::Parts;
use crate::records::{self, Line, MadeFrom};
use crate::report::{self, Beginning, Phase, Status};
use crate::runtime_api::{self, RuntimeApi, Served};
use crate::variables;
use crate::web::WebGuest;

/// How long a guest may take to go on from a snapshot, its hooks included. Source: Lambda's documentation of runtime hooks.
const RESTORE_CAP: Duration = Duration::from_secs(10);
/// What is said of an image that does not say what it runs.
const NO_PROGRAM: &str = "The image names no program: neither it nor the function has an ENTRYPOINT or a CMD";
/// How long a start may keep others from starting; a slow init beyond that mostly waits.
const SLOT_HELD: Duration = Duration::from_millis(500);
pub(crate) const MIB: u64 = 1024 * 1024;

/// How a start ended.
pub(crate) enum StartEnd {
    /// An environment.
    Ready(Box<Environment>),
    /// None.
    Failed(Box<FailedStart>),
}

/// Why there is no environment.
pub(crate) enum FailedStart {
    /// The function's init failed.
    Init(FailedInit),
    /// The init took longer than the cap.
    Cut {
        /// The log of the guest that was cut.
        output: Arc<Output>,
        /// How long it took until then.
        init_us: u64,
        /// `on-demand` and the like.
        initialization: &'static str,
    },
    /// The platform did not come to start it.
    Refused(InvokeError),
}

/// A failed init, for the invocation that is answered with it.
#[derive(Clone)]
pub(crate) struct FailedInit {
    /// The log of the guest.
    pub(crate) output: Arc<Output>,
    /// What went wrong.
    pub(crate) failure: InitFailure,
    /// How long it took.
    pub(crate) init_us: u64,
    /// What it used.
    pub(crate) usage: Usage,
    /// Whether it was no init, but the way back from a snapshot.
    pub(crate) restore: bool,
    /// `on-demand` and the like.
    pub(crate) initialization: &'static str,
    /// Whether the log has the platform's line about it already.
    pub(crate) told: bool,
}

/// Who tells why an init failed.
#[derive(Clone)]
pub(crate) enum InitFailure {
    /// The runtime.
    Told(Failure),
    /// The platform.
    Fault(Fault),
}

/// How an init ended, seen from the guest's protocol.
#[derive(Debug)]
pub(crate) enum InitEnd {
    /// The handler is loaded.
    Ready,
    /// It could not be loaded, in the runtime's words.
    Error(Failure),
    /// The runtime broke the protocol.
    Fault(Fault),
    /// The runtime ended.
    Exited,
}

impl FailedStart {
    /// Says in the function's log what a failed init was, where no call is answered with it.
    pub(crate) async fn report_alone(self: Box<Self>) {
        let output = match *self {
            Self::Init(init) => {
                init.report(Phase::Init);
                init.output
            }
            Self::Cut { output, init_us, initialization } => {
                report_init(&output, init_us, initialization, Phase::Init, Status::Timeout);
                output
            }
            Self::Refused(error) => return tracing::debug!(%error, "no environment was started ahead"),
        };
        output.flush().await;
    }
}

impl FailedStart {
    /// Has the log say what a failed init was, for all the calls that are answered with it.
    pub(crate) fn tell(&mut self) {
        if let Self::Init(init) = self {
            init.report(Phase::Init);
            init.told = true;
        }
    }

    /// The same failure for another call.
    pub(crate) fn again(&self) -> Self {
        match self {
            Self::Init(init) => Self::Init(init.clone()),
            Self::Cut { output, init_us, initialization } => {
                Self::Cut { output: output.clone(), init_us: *init_us, initialization }
            }
            Self::Refused(error) => Self::Refused(error.clone()),
        }
    }
}

impl FailedInit {
    /// Ends its log with the platform's line about it.
    pub(crate) fn report(&self, phase: Phase) {
        if self.told {
            return;
        }
        let error_type = self.failure.error_type();
        let status = Status::Error(&error_type);
        if self.restore {
            report_restore(&self.output, self.init_us, status);
        } else {
            report_init(&self.output, self.init_us, self.initialization, phase, status);
        }
    }
}

/// Ends the log of an init with the platform's lines about it. That the runtime was ready may have been told before.
pub(crate) fn report_init(output: &Output, us: u64, initialization: &'static str, phase: Phase, status: Status<'_>) {
    let init = records::Init { us, initialization, phase, status, of_snapshot: false };
    output.drain();
    if !output.has_runtime_done() {
        output.line(&Line::InitRuntimeDone(init));
    }
    output.line(&Line::InitReport(init));
}

fn report_restore(output: &Output, us: u64, status: Status<'_>) {
    output.drain();
    if !output.has_runtime_done() {
        output.line(&Line::RestoreRuntimeDone(status));
    }
    output.line(&Line::RestoreReport(us, status));
}

impl InitFailure {
    /// What a REPORT line calls it.
    fn error_type(&self) -> String {
        match self {
            Self::Told(failure) => failure.logged_type(),
            Self::Fault(fault) => fault.report_type.clone(),
        }
    }
}

impl StartEnd {
    /// A start that did not come to pass.
    pub(crate) fn refused(error: InvokeError) -> Self {
        Self::Failed(Box::new(FailedStart::Refused(error)))
    }
}

/// What an environment is started for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Purpose {
    /// Calls that wait or are expected.
    Calls,
    /// To be there always (`pool::floor`).
    Floor {
        /// How long its init may take: no call waits for it.
        cap: Duration,
    },
}

/// Starts an environment before any invocation, under the init cap. `slot` is held while the start needs processors.
pub(crate) async fn in_init_phase(
    core: &Arc<Core>,
    pool: &Arc<Pool>,
    room: Room,
    slot: Grant,
    purpose: Purpose,
) -> StartEnd {
    let cap = match purpose {
        Purpose::Calls => startup_cap(core, &pool.version),
        Purpose::Floor { cap } => cap.max(core.config.init_cap),
    };
    holding(slot, start(core, pool, room, cap, purpose, Phase::Init)).await
}

/// A start that holds its slot for as long as it may.
async fn holding(slot: Grant, start: impl Future<Output = StartEnd>) -> StartEnd {
    tokio::pin!(start);
    tokio::select! {
        biased;
        end = &mut start => return end,
        () = sleep(SLOT_HELD) => drop(slot),
    }
    start.await
}

/// How long an init may take that calls wait for.
fn startup_cap(core: &Core, version: &FunctionVersion) -> Duration {
    let own_ms = version.web.as_ref().and_then(|web| web.startup_ms);
    own_ms.map_or(core.config.init_cap, Duration::from_millis)
}

/// Starts an environment within an invocation that has `cap` left. It waits for room and its turn as every other start
/// does: calls of a function whose init fails come in crowds as well.
pub(crate) async fn in_invocation(core: &Arc<Core>, pool: &Arc<Pool>, cap: Duration) -> StartEnd {
    let began = Instant::now();
    let turn = async {
        let room = core.fleet.room(pool, &*core.clock).await?;
        Some((room, core.fleet.starts.take(&pool.version.function, 0, pool.start_cost_us()).await?))
    };
    match timeout(cap, turn).await {
        Ok(Some((room, slot))) => {
            let cap = cap.saturating_sub(began.elapsed());
            holding(slot, start(core, pool, room, cap, Purpose::Calls, Phase::Invoke)).await
        }
        _ => StartEnd::refused(InvokeError::NoCapacity("no room to initialise the function again".to_owned())),
    }
}

async fn start(
    core: &Arc<Core>,
    pool: &Arc<Pool>,
    room: Room,
    cap: Duration,
    purpose: Purpose,
    phase: Phase,
) -> StartEnd {
    let version = &pool.version;
    if version.program {
        if let Err(error) = without_agents(core, version).await {
            return StartEnd::refused(error);
        }
        return program::start(core, pool, room, purpose, phase).await;
    }
    let guest = match prepare(core, version).await {
        Ok(guest) => guest,
        Err(error) => return StartEnd::refused(error),
    };
    let (files, agents) = match files_of(core, version).and_then(|files| Ok((files, agents_of(core, version)?))) {
        Ok(found) => found,
        Err(error) => return StartEnd::refused(error),
    };
    let id = core.random.hex(16);
    let interpreter = interpreter_of(core, &guest).map(|it| it.version);
    let initialization = initialization(version, purpose);
    let from = MadeFrom { version, interpreter, initialization, phase };
    let mut stream = stream(core, version, &id, &Line::InitStart(from));
    let credentials = credentials(core, version).await;
    let born_us = core.clock.monotonic_us();
    let names = variables::Names { log_stream: &stream.name, initialization };
    let wish = Wish { guest, files, agents, names };
    let origin = match originate(core, version, wish, credentials).await {
        Ok(origin) => origin,
        Err(error @ (sandbox::Error::Entrypoint(_) | sandbox::Error::Folder(_))) => {
            let fault = fault_of(&error);
            let output = Arc::new(Output::new(stream, core.clock.clone(), core.log_sink.clone(), Source::Nobody));
            let failure = InitFailure::Fault(fault);
            let init_us = core.clock.monotonic_us() - born_us;
            let usage = Usage::default();
            return failed(FailedInit { output, failure, init_us, usage, restore: false, initialization, told: false });
        }
        Err(sandbox::Error::NoNetwork) => {
            let words = "web servers need a network namespace, which this machine does not give; see `dunlin doctor`";
            return StartEnd::refused(InvokeError::NotReady(words.to_owned()));
        }
        Err(error) => {
            if let sandbox::Error::CodeMissing(code) = &error {
                core.packages.forget(code);
                core.code_caches.forget(code);
            }
            return StartEnd::refused(InvokeError::Internal(error.to_string()));
        }
    };
    let needs_network = version.runtime.family() == Family::Provided || !origin.agents.names.is_empty();
    if needs_network && origin.parts.listeners.runtime_api.is_none() {
        origin.parts.control.kill();
        let words = "custom runtimes, extensions and container images need a network namespace, which this machine does not give; see `dunlin doctor`";
        return StartEnd::refused(InvokeError::NotReady(words.to_owned()));
    }
    let first = if origin.parts.token.is_some() { Line::RestoreStart(from) } else { Line::InitStart(from) };
    if origin.parts.token.is_some() {
        stream.begins_with(&first, core.clock.now_ms());
    }
    let starting = Starting::enter(core, pool, room, id, stream, born_us, origin);
    if let Some(extensions) = &starting.extensions {
        extensions.begins(&first);
    }
    starting.initialise(cap, initialization, phase).await
}

/// What the platform says of a program that cannot be executed.
fn fault_of(error: &sandbox::Error) -> Fault {
    match error {
        sandbox::Error::Folder(words) => Fault::folder(words),
        other => Fault::entrypoint(&other.to_string()),
    }
}

/// Names of the external extensions that a version's environments have.
fn agents_of(core: &Core, version: &FunctionVersion) -> Result<Vec<String>, InvokeError> {
    /// The extension that the platform is itself for web servers.
    const ADAPTER: &str = "lambda-adapter";
    if version.layers.is_empty() && version.image.is_none() {
        return Ok(Vec::new());
    }
    let mut names = core.packages.agents(version);
    if version.web.is_some() {
        names.retain(|name| name != ADAPTER);
        if !names.is_empty() {
            let names = names.join(", ");
            let words = format!("External extensions ({names}) take part in events, and the function is a web server.");
            return Err(InvokeError::NotReady(words));
        }
    }
    Ok(names)
}

/// A program of WebAssembly has no processes beside it.
async fn without_agents(core: &Core, version: &FunctionVersion) -> Result<(), InvokeError> {
    if version.layers.is_empty() {
        return Ok(());
    }
    core.packages.ensure(version).await?;
    let names = core.packages.agents(version);
    if names.is_empty() {
        return Ok(());
    }
    let names = names.join(", ");
    Err(InvokeError::NotReady(format!("External extensions ({names}) are processes, and the function is WebAssembly.")))
}

/// What an environment is to be.
struct Wish<'a> {
    guest: sandbox::Guest,
    files: Option<SharedFiles>,
    /// Its external extensions.
    agents: Vec<String>,
    names: variables::Names<'a>,
}

/// Where the log of an environment goes.
pub(crate) fn stream(core: &Core, version: &FunctionVersion, id: &str, first_line: &Line<'_>) -> Stream {
    let now_ms = core.clock.now_ms();
    let mut stream = Stream {
        account: version.function.account.clone(),
        region: version.function.region.clone(),
        group: version.log_group.as_str().into(),
        name: report::stream_name(now_ms, version, id).into(),
        json: version.json_log,
        first_line: None,
    };
    stream.begins_with(first_line, now_ms);
    stream
}

/// What an environment comes from.
struct Origin {
    parts: Parts,
    order: Order,
    credentials: Credentials,
    agents: Agents,
    /// The guest begins when its extensions have registered.
    held: bool,
}

/// A guest that is ready, or one that is started now.
async fn originate(
    core: &Arc<Core>,
    version: &Arc<FunctionVersion>,
    wish: Wish<'_>,
    credentials: Credentials,
) -> Result<Origin, sandbox::Error> {
    let Wish { guest, files, agents, names } = wish;
    if matches!(&guest, sandbox::Guest::Entrypoint { line, .. } if line.is_empty()) {
        return Err(sandbox::Error::Entrypoint(NO_PROGRAM.to_owned()));
    }
    let caches = caches_of(core, version);
    let mut variables = variables::guest_variables(version, &credentials, names, &core.config.guest_variables);
    if let Some(web) = &version.web {
        let index = interpreter::choose(&core.interpreters, &version.runtime).ok();
        let programs = index.and_then(|it| core.interpreters.usable.get(it));
        variables::make_web(&mut variables, version, web, programs.map(Interpreter::named_folder));
    }
    let environment = if agents.is_empty() { Vec::new() } else { variables::of_extensions(&variables) };
    let folder = version.image.as_ref().map_or(variables::TASK_ROOT, |image| &image.folder).to_owned();
    let agents = Agents { names: agents, environment, folder };
    let wrapped = matches!(guest, sandbox::Guest::Interpreter { wrapper: Some(_), .. });
    if wrapped && let Some(interpreter) = interpreter_of(core, &guest) {
        variables::find_first(&mut variables, &interpreter.named_folder());
    }
    let runs_at_once = wrapped || matches!(guest, sandbox::Guest::Bootstrap | sandbox::Guest::Entrypoint { .. });
    let held = runs_at_once && !agents.names.is_empty();
    // A folder of the host is mounted when a sandbox is made.
    let booted = if files.is_none() { core.ready.take(core, version).await } else { None };
    if let Some(booted) = booted {
        let vacant = booted.is_vacant();
        let occupant = vacant.then(|| Occupant { guest: guest.clone(), environment: variables.clone(), held });
        match booted.assign(version, occupant).await {
            Ok(parts) => {
                // What has run the init has the others from it, and its hooks come by themselves.
                let is_copy = parts.token.is_some();
                let own = || variables::environment_variables(version, &credentials, names.log_stream);
                let variables = if is_copy { own() } else { variables };
                let order = Order { variables, caches, hooks: version.snap_start && !is_copy, wrapped };
                return Ok(Origin { parts, order, credentials, agents, held: held && vacant });
            }
            Err(error) if is_functions_own(&error) => return Err(error),
            Err(error) => tracing::warn!(%error, "what was ready could not be given its function"),
        }
    }
    let spec = SandboxSpec {
        guest,
        root: version.image.as_ref().map(|_| version.code.clone()),
        code: version.image.is_none().then(|| version.code.clone()),
        layers: version.layers.clone(),
        files,
        memory_bytes: u64::from(version.memory_mb) * MIB,
        tmp_bytes: u64::from(version.tmp_mb) * MIB,
        environment: variables,
        held,
    };
    let Started { channel, output, listeners, control } = core.backend.start(spec).await?;
    let frames = Frames::new(channel).inspect_err(|_| control.kill());
    let frames = frames.map_err(|error| sandbox::Error::Host(format!("the guest's channel: {error}")))?;
    let parts = Parts { frames, output, listeners, control, cpu: Duration::ZERO, token: None };
    let order = Order { variables: Vec::new(), caches, hooks: version.snap_start, wrapped };
    Ok(Origin { parts, order, credentials, agents, held })
}

/// Whether a start from nothing would end the same way.
fn is_functions_own(error: &sandbox::Error) -> bool {
    matches!(
        error,
        sandbox::Error::CodeMissing(_)
            | sandbox::Error::Entrypoint(_)
            | sandbox::Error::Folder(_)
            | sandbox::Error::NoNetwork
    )
}

fn failed(init: FailedInit) -> StartEnd {
    StartEnd::Failed(Box::new(FailedStart::Init(init)))
}

/// Has what is needed of a version on this host's disk; answers what runs it. Not for programs.
pub(crate) async fn prepare(core: &Core, version: &FunctionVersion) -> Result<sandbox::Guest, InvokeError> {
    core.needs.note(version, core.clock.monotonic_us());
    core.packages.ensure(version).await?;
    let guest = guest_of(core, version)?;
    if let Some(interpreter) = interpreter_of(core, &guest) {
        core.code_caches.recall(version, interpreter).await;
    }
    Ok(guest)
}

/// What runs a version on this host.
pub(crate) fn guest_of(core: &Core, version: &FunctionVersion) -> Result<sandbox::Guest, InvokeError> {
    if let Some(ImageCode { line, folder, .. }) = &version.image {
        return Ok(sandbox::Guest::Entrypoint { line: line.clone(), folder: folder.clone() });
    }
    match version.runtime.family() {
        Family::Provided if version.web.is_some() => Ok(sandbox::Guest::Command),
        Family::Provided => Ok(sandbox::Guest::Bootstrap),
        family => {
            if version.web.is_some() {
                // Its command finds the interpreter by name, and nothing of AWS's is in between.
                interpreter::choose(&core.interpreters, &version.runtime).map_err(InvokeError::NotReady)?;
                return Ok(sandbox::Guest::Command);
            }
            let interpreter = interpreter_for(core, &version.runtime).map_err(InvokeError::NotReady)?;
            let (memory_mb, wrapper) = (version.memory_mb, version.wrapper().map(str::to_owned));
            Ok(sandbox::Guest::Interpreter { family, interpreter, memory_mb, wrapper })
        }
    }
}

/// Index of the interpreter that serves a runtime's handlers. The error says what to do.
pub(crate) fn interpreter_for(core: &Core, runtime: &Runtime) -> Result<usize, String> {
    let index = interpreter::choose(&core.interpreters, runtime)?;
    let pack = core.config.java_pack.as_ref().filter(|_| runtime.family() == Family::Java);
    match pack {
        Some(pack) if !pack.exists() => Err(format!(
            "{runtime} needs the runtime client of AWS, which this platform does not have yet: run `dunlin runtimes add \
             {runtime}`"
        )),
        _ => Ok(index),
    }
}

/// The folder of the host that a version's environments have.
fn files_of(core: &Core, version: &FunctionVersion) -> Result<Option<SharedFiles>, InvokeError> {
    let Some(FileSystem { arn, name }) = &version.file_system else { return Ok(None) };
    let account = &version.function.account;
    let allowed = |point: &AccessPoint| point.account == *account && point.is(arn);
    match core.config.access_points.iter().position(allowed) {
        Some(index) => Ok(Some(SharedFiles { index, name: name.clone() })),
        None => Err(InvokeError::NotReady(format!(
            "The function's file system {arn} is not there: this platform is no longer started with a folder for it."
        ))),
    }
}

/// The interpreter that a guest runs on, if it runs on one.
fn interpreter_of<'a>(core: &'a Core, guest: &sandbox::Guest) -> Option<&'a Interpreter> {
    match guest {
        sandbox::Guest::Interpreter { interpreter, .. } => core.interpreters.usable.get(*interpreter),
        _ => None,
    }
}

/// What was made of a version's code ahead.
pub(crate) fn caches_of(core: &Core, version: &FunctionVersion) -> Vec<Place> {
    let guest = guest_of(core, version).ok();
    let interpreter = guest.as_ref().and_then(|guest| interpreter_of(core, guest));
    interpreter.map(|it| core.code_caches.places(version, it)).unwrap_or_default()
}

/// How long an environment's credentials are good. The last call that it takes may run for fifteen minutes, and clients
/// have no use for credentials that end within as long again.
fn credentials_ttl(core: &Core) -> Duration {
    core.config.environment_age_max + Duration::from_secs(3_600)
}

pub(crate) async fn credentials(core: &Core, version: &FunctionVersion) -> Credentials {
    let ttl_s = credentials_ttl(core).as_secs();
    core.authorizer.issue(&version.role_arn, version.function.name.as_str(), ttl_s).await
}

/// Whose traffic comes out of an environment.
pub(crate) fn identity(version: &FunctionVersion, id: &str) -> GuestIdentity {
    GuestIdentity {
        account: version.function.account.clone(),
        region: version.function.region.clone(),
        role_arn: version.role_arn.clone(),
        function_arn: version.qualified_arn(),
        egress: version.egress.clone(),
        environment_id: id.to_owned(),
    }
}

/// Is cancelled when the guest of a sandbox has left it, which goes on for its extensions.
fn watched(
    core: &Core,
    gone: &CancellationToken,
    control: &Arc<dyn Control>,
    pool: &Arc<Pool>,
    id: &str,
) -> CancellationToken {
    let left = gone.child_token();
    let (told, control, pool, id) = (left.clone(), control.clone(), pool.clone(), id.to_owned());
    let clock = core.clock.clone();
    tokio::spawn(async move {
        control.left(GUEST).await;
        told.cancel();
        // One that is idle will serve nobody.
        pool.forget(&id, clock.monotonic_us());
    });
    left
}

/// How an environment of a version is initialised, in Lambda's words.
pub(crate) fn initialization(version: &FunctionVersion, purpose: Purpose) -> &'static str {
    match purpose {
        _ if version.snap_start => variables::SNAP_START,
        Purpose::Calls => records::ON_DEMAND,
        Purpose::Floor { .. } => "provisioned-concurrency",
    }
}

/// A guest in its init phase.
struct Starting<'a> {
    core: &'a Arc<Core>,
    version: &'a Arc<FunctionVersion>,
    output: Arc<Output>,
    control: Arc<dyn Control>,
    card: Arc<Card>,
    gone: CancellationToken,
    guest: Guest,
    order: Order,
    /// Whether it goes on from a snapshot.
    restore: bool,
    before: Before,
    /// Nothing where there is no network to reach them by, and for web servers.
    extensions: Option<Arc<Extensions>>,
    agents: Agents,
    held: bool,
}

impl<'a> Starting<'a> {
    /// Puts a new sandbox on every list and leaves its keeper with it.
    fn enter(
        core: &'a Arc<Core>,
        pool: &'a Arc<Pool>,
        room: Room,
        id: String,
        stream: Stream,
        born_us: u64,
        origin: Origin,
    ) -> Self {
        let version = &pool.version;
        let Origin { parts, order, credentials, agents, held } = origin;
        let Parts { frames, output, listeners, control, cpu, token } = parts;
        let output = Arc::new(Output::new(stream, core.clock.clone(), core.log_sink.clone(), Source::Pipe(output)));
        let card = Arc::new(Card {
            id: id.clone(),
            version: version.clone(),
            born_us,
            control: Arc::downgrade(&control),
            state: AtomicU8::new(EnvironmentState::Starting as u8),
            served: AtomicU64::new(0),
            init_us: AtomicU64::new(0),
            frozen: AtomicBool::new(false),
        });
        core.fleet.enter(card.clone());
        let before = Before { cpu, tasks: control.held().tasks.max(1) };
        let identity = identity(version, &id);
        let network = core.network.serve(identity, listeners.tcp, listeners.dns, listeners.traces);
        let restore = token.is_some();
        let document = token.map(|token| {
            let unsaid_ms = core.clock.now_ms().saturating_add(credentials_ttl(core).as_millis() as u64);
            let lasting = Lasting::Until(credentials.expires_at_ms.unwrap_or(unsaid_ms));
            Document::new(&token, credentials, lasting)
        });
        let gone = CancellationToken::new();
        // A guest with extensions beside it may end before its sandbox does.
        let left = if agents.names.is_empty() { gone.clone() } else { watched(core, &gone, &control, pool, &id) };
        let keeper = Keeper {
            output: output.clone(),
            control: control.clone(),
            gone: gone.clone(),
            id,
            pool: pool.clone(),
            room,
            network: Box::new(network),
        };
        core.keepers.spawn(keeper.keep(core.clone()));
        if core.cut.is_cancelled() {
            // Everything was killed before this one was on the list.
            control.kill();
        }
        let listener = listeners.runtime_api.filter(|_| version.web.is_none());
        let is_custom = version.runtime.family() == Family::Provided && listener.is_some();
        let api = is_custom.then(|| RuntimeApi::new(left.clone()));
        let extensions = listener.map(|listener| {
            let extensions = Extensions::new(core, version, &control, &output, &gone);
            let served = Served { runtime: api.clone(), extensions: extensions.clone(), credentials: document };
            runtime_api::serve(listener, served, gone);
            extensions
        });
        let guest = match api {
            _ if version.web.is_some() => Guest::Web(WebGuest::new(version.clone(), control.clone(), left.clone())),
            Some(api) => Guest::Api(api),
            None => Guest::Frames(frames),
        };
        Self {
            core,
            version,
            output,
            control,
            card,
            gone: left,
            guest,
            order,
            restore,
            before,
            extensions,
            agents,
            held,
        }
    }

    /// Runs the guest's init. The processor quota, if there is one, holds from its end on, at the latest from the cap of
    /// the init phase on: an init within an invocation may take longer than that.
    async fn unthrottled_init(&mut self, initialization: &'static str, phase: Phase) -> InitEnd {
        let control = self.control.clone();
        let cap = self.core.config.init_cap;
        let init = self.whole_init(initialization, phase);
        tokio::pin!(init);
        let end = tokio::select! {
            biased;
            end = &mut init => end,
            () = sleep(cap) => {
                control.settle();
                return init.await;
            }
        };
        control.settle();
        end
    }

    /// Has the extensions begin, then the guest, and waits for all of them.
    async fn whole_init(&mut self, initialization: &'static str, phase: Phase) -> InitEnd {
        if let Some(extensions) = self.extensions.as_ref().filter(|_| !self.agents.names.is_empty()) {
            if let Err(fault) = extensions.launch(&self.agents).await {
                return InitEnd::Fault(fault);
            }
            if self.held
                && let Err(error) = self.control.begin().await
            {
                return InitEnd::Fault(fault_of(&error));
            }
        }
        let extensions = self.extensions.as_ref();
        let end = tokio::select! {
            biased;
            end = self.guest.initialise(&self.version.handler, &self.order) => end,
            fault = extensions::failed(extensions) => InitEnd::Fault(fault),
        };
        if matches!(end, InitEnd::Ready) {
            self.tell_runtime_done(initialization, phase);
        }
        match (end, extensions) {
            (InitEnd::Ready, Some(extensions)) => tokio::select! {
                biased;
                fault = extensions.failed() => InitEnd::Fault(fault),
                () = extensions.ready() => InitEnd::Ready,
            },
            (end, _) => end,
        }
    }

    /// Has subscribers and the log know at once that the runtime is ready: an extension may wait for that before it asks for
    /// its own first event. Those that subscribe later in the init phase are told as well.
    fn tell_runtime_done(&self, initialization: &'static str, phase: Phase) {
        let has_records = self.output.has_records();
        if !(has_records || self.extensions.is_some()) {
            return;
        }
        let us = self.core.clock.monotonic_us() - self.card.born_us;
        let init = records::Init { us, initialization, phase, status: Status::Fine, of_snapshot: false };
        let line = if self.restore { Line::RestoreRuntimeDone(Status::Fine) } else { Line::InitRuntimeDone(init) };
        if has_records || self.extensions.as_ref().is_some_and(|extensions| extensions.is_heard()) {
            // What the guest has begun to write may go on.
            self.output.drain_whole();
        }
        if let Some(extensions) = &self.extensions {
            extensions.begins(&line);
        }
        self.output.runtime_done(&line);
    }

    /// Ends what could not be initialised.
    fn give_up(&self, reason: Reason) {
        match &self.extensions {
            Some(extensions) => extensions.end(reason),
            None => self.control.kill(),
        }
    }

    /// Runs the init phase.
    async fn initialise(mut self, cap: Duration, initialization: &'static str, phase: Phase) -> StartEnd {
        let cap = if self.restore { cap.min(RESTORE_CAP) } else { cap };
        let began_us = self.core.clock.monotonic_us();
        let end = timeout(cap, self.unthrottled_init(initialization, phase)).await;
        let ended_us = self.core.clock.monotonic_us();
        let init_us = ended_us - self.card.born_us;
        // Nobody that has none pays for them from here on.
        self.extensions = self.extensions.take_if(|extensions| extensions.close());
        let is_heard = self.extensions.as_ref().is_some_and(|extensions| extensions.is_heard());
        let failure = match end {
            Ok(InitEnd::Ready) => {
                // Text has no line of it, and what the guest has begun to write may go on in its first call.
                if !self.restore && (is_heard || self.output.has_records()) {
                    report_init(&self.output, init_us, initialization, phase, Status::Fine);
                }
                return StartEnd::Ready(Box::new(self.initialised(init_us, ended_us - began_us)));
            }
            Ok(InitEnd::Error(failure)) => InitFailure::Told(failure),
            Ok(InitEnd::Fault(fault)) => InitFailure::Fault(fault),
            Ok(InitEnd::Exited) => InitFailure::Fault(Fault::exited(&exit_of(&*self.control).await)),
            Err(_) if let Guest::Web(web) = &self.guest => InitFailure::Fault(Fault::web_start(cap, &web.unready())),
            Err(_) if self.restore => InitFailure::Fault(Fault::restore_timed_out(cap)),
            Err(_) => {
                self.give_up(Reason::Timeout);
                let cut = FailedStart::Cut { output: self.output, init_us, initialization };
                return StartEnd::Failed(Box::new(cut));
            }
        };
        let usage = self.control.usage();
        self.give_up(Reason::Failure);
        let (output, restore) = (self.output, self.restore);
        failed(FailedInit { output, failure, init_us, usage, restore, initialization, told: false })
    }

    /// The environment. `own_us`: how long the guest itself took.
    fn initialised(self, init_us: u64, own_us: u64) -> Environment {
        let Self { core, version, output, control, card, gone, guest, before, restore, extensions, .. } = self;
        if version.web.is_none() {
            core.code_caches.want(core, version);
        }
        card.init_us.store(init_us, Ordering::Relaxed);
        let beginning = if restore {
            report_restore(&output, init_us, Status::Fine);
            Beginning::Restore { us: init_us, own_us }
        } else {
            if version.web.is_none() {
                core.ready.learn(core, version, Duration::from_micros(init_us));
            }
            Beginning::Init { us: init_us }
        };
        let mut environment = Environment::new(guest, output, control, card, gone, before, beginning);
        if let Some(extensions) = extensions {
            environment.accompany(extensions);
        }
        environment
    }
}

//! The server's side of the process sandbox: `Backend` over the spawner's socket.
//!
//! One task reads the socket; any number of starts are in flight; every packet is one send. A sandbox's usage is read
//! from descriptors of its cgroup files that the spawner opened, so that it costs no round trip and no privilege.
//!
//! Invariants
//!   1. A sandbox whose `Started` nobody holds any more is killed: dropping the control handle does it.
//!   2. When the spawner is gone, every start fails, every `wait` returns, and `ended` tells the server.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use model::CodeDigest;
use parking_lot::Mutex;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::{TcpListener, TcpSocket, UdpSocket, UnixStream, unix::pipe};
use tokio::sync::{SetOnce, oneshot, watch};

use super::cgroup::read_meter;
use super::config::FoundWall;
use super::launch::SpawnerHandle;
use super::protocol::{
    self, AssignRequest, Digest, ENVIRONMENT_BYTES_MAX, FilesRequest, GuestKind, LAYERS_MAX, OccupantRequest,
    REPLY_BYTES, Reply, Request, StartRequest, Step, feature,
};
use super::{sys, watch as measure};
use crate::contract::{
    Assignment, Backend, Beside, BesideSpec, Control, Error, Exit, Guest, GuestListeners, Held, Occupant, SandboxSpec,
    SharedFiles, Started, Usage, Wall,
};

/// Process sandboxes of this host.
#[derive(Debug)]
pub struct ProcessBackend {
    shared: Arc<Shared>,
    walls: Vec<FoundWall>,
    binaries: Vec<PathBuf>,
    /// Ends the spawner when the backend is dropped.
    _handle: SpawnerHandle,
}

struct Shared {
    socket: AsyncFd<OwnedFd>,
    /// The host's `/proc`, for sandboxes without a cgroup.
    proc: OwnedFd,
    /// Whether sandboxes can be frozen.
    freezes: bool,
    next_token: AtomicU64,
    state: Mutex<State>,
    /// Set when the spawner is gone.
    ended: Arc<SetOnce<()>>,
}

#[derive(Default)]
struct State {
    gone: bool,
    starting: HashMap<u64, Starting>,
    /// Orders to sandboxes: what each gives, which is nothing but of those for sockets.
    asking: HashMap<u64, oneshot::Sender<Result<Vec<OwnedFd>, Failure>>>,
    running: HashMap<u64, watch::Sender<Option<Exit>>>,
    /// Programs that have left sandboxes which go on, of those that were asked about.
    left: HashMap<u64, watch::Sender<Vec<(u64, Exit)>>>,
    /// Of sandboxes whose freezer was asked for and has not come.
    freezers: HashMap<u64, Arc<Freezer>>,
}

/// A start that is waited for.
struct Starting {
    sender: oneshot::Sender<Result<Parts, Failure>>,
    names: Names,
}

/// What the spawner gives of a new sandbox.
struct Parts {
    listeners: Vec<OwnedFd>,
    control: Arc<ProcessControl>,
    /// The group counts `/tmp` as well.
    tmp_in_group: bool,
}

enum Failure {
    Step { step: u32, errno: i32 },
    Gone,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl ProcessBackend {
    /// Takes over a running spawner. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the socket cannot be watched.
    pub fn new(handle: SpawnerHandle) -> io::Result<Self> {
        let socket = handle.socket.try_clone()?;
        rustix::io::ioctl_fionbio(&socket, true)?;
        // SAFETY: the descriptor is owned by the `AsyncFd` from here on and closed with it.
        let watched = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE | Interest::WRITABLE) };
        let shared = Arc::new(Shared {
            socket: watched?,
            proc: std::fs::File::open("/proc")?.into(),
            freezes: handle.freezes,
            next_token: AtomicU64::new(1),
            state: Mutex::default(),
            ended: Arc::default(),
        });
        tokio::spawn(read_replies(Arc::clone(&shared)));
        Ok(Self { shared, walls: handle.walls.clone(), binaries: handle.binaries.clone(), _handle: handle })
    }

    /// Is done when the spawner has ended, and all sandboxes with it. It cannot be started again: who started it has
    /// given away the privileges for that.
    pub fn ended(&self) -> impl Future<Output = ()> + Send + use<> {
        let ended = Arc::clone(&self.shared.ended);
        async move { *ended.wait().await }
    }

    fn error(&self, spec: &SandboxSpec, failure: &Failure) -> Error {
        let Failure::Step { step, errno } = *failure else { return Error::SpawnerGone };
        let words = words(errno);
        match Step::from_number(step) {
            Some(
                Step::ExecTask
                | Step::ExecOpt
                | Step::NoBootstrap
                | Step::ExecEntrypoint
                | Step::Folder
                | Step::ExecCommand,
            ) => Names::of(spec).error(step, errno),
            Some(Step::Root) if errno == libc::ENOENT => match &spec.root {
                Some(root) => Error::CodeMissing(root.clone()),
                None => Error::Host(words),
            },
            Some(Step::Sockets) if errno == libc::EOPNOTSUPP => Error::NoNetwork,
            Some(Step::ExecInterpreter) => {
                let index = if let Guest::Interpreter { interpreter, .. } = spec.guest { interpreter } else { 0 };
                let path = self.binaries.get(index).map(|path| path.display().to_string()).unwrap_or_default();
                Error::Entrypoint(format!("fork/exec {path}: {words}"))
            }
            _ => folder_error(step, errno, spec.code.as_ref(), &spec.layers),
        }
    }
}

/// An error of what every sandbox gets, assigned or from its start.
fn folder_error(step: u32, errno: i32, code: Option<&CodeDigest>, layers: &[CodeDigest]) -> Error {
    match (Step::from_number(step), code, layers) {
        (Some(Step::Code), Some(code), _) if errno == libc::ENOENT => Error::CodeMissing(code.clone()),
        (Some(Step::Layers), _, [layer, ..]) if errno == libc::ENOENT => Error::CodeMissing(layer.clone()),
        (Some(step), ..) => Error::Host(format!("{step:?}: {}", words(errno)).to_lowercase()),
        (None, ..) => Error::Host(format!("step {step}: {}", words(errno))),
    }
}

/// The system's words for an errno, as Go's runtime prints them: lower case, no number.
fn words(errno: i32) -> String {
    let text = io::Error::from_raw_os_error(errno).to_string().to_lowercase();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

fn digits(digest: &CodeDigest) -> Result<Digest, Error> {
    Digest::try_from(digest.as_str().as_bytes()).map_err(|_| Error::CodeMissing(digest.clone()))
}

/// The two ends of a guest's channel; the first does not block. They keep the bounds of writes (see `Started::channel`):
/// who waits for input on a stream socket is woken for nothing each time the other side reads, one on this kind is not.
fn channel() -> io::Result<(std::os::unix::net::UnixStream, OwnedFd)> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    rustix::io::ioctl_fionbio(&ours, true)?;
    Ok((ours.into(), theirs))
}

fn all_digits(layers: &[CodeDigest]) -> Result<Vec<Digest>, Error> {
    if layers.len() > LAYERS_MAX {
        return Err(Error::Host(format!("more than {LAYERS_MAX} layers")));
    }
    layers.iter().map(digits).collect()
}

fn occupant(assignment: &Assignment) -> Result<Option<OccupantRequest>, Error> {
    let Some(Occupant { guest, held, .. }) = &assignment.occupant else { return Ok(None) };
    let command = match guest {
        _ if assignment.code.is_none() => return Err(Error::Host("nobody moves in without code".to_owned())),
        Guest::Bootstrap => false,
        Guest::Command => true,
        _ => return Err(Error::Host("such a guest does not move into a sandbox".to_owned())),
    };
    Ok(Some(OccupantRequest { command, held: *held }))
}

fn files(files: &SharedFiles) -> Result<FilesRequest, Error> {
    let (index, name) = (files.index as u32, files.name.as_bytes().to_vec());
    if !protocol::is_mount_name(&name) {
        return Err(Error::Host(format!("a folder cannot be mounted at /mnt/{}", files.name)));
    }
    Ok(FilesRequest { index, name })
}

/// Limits that the spawner takes.
fn clamped(memory_bytes: u64, tmp_bytes: u64) -> (u64, u64) {
    let clamp = |value: u64, range: std::ops::RangeInclusive<u64>| value.clamp(*range.start(), *range.end());
    (clamp(memory_bytes, protocol::MEMORY_BYTES), clamp(tmp_bytes, protocol::TMP_BYTES))
}

/// The strings of a start: of a program its folder and its line, or what wraps an interpreter, then the variables.
fn memory_block(spec: &SandboxSpec) -> Result<Vec<u8>, Error> {
    let mut block = match &spec.guest {
        Guest::Entrypoint { line, folder } => strings(std::iter::once(folder).chain(line))?,
        Guest::Interpreter { wrapper: Some(wrapper), .. } => strings([wrapper])?,
        _ => Vec::new(),
    };
    block.extend(environment_block(&spec.environment)?);
    if block.len() > ENVIRONMENT_BYTES_MAX {
        return Err(Error::Host(format!("program and environment are longer than {ENVIRONMENT_BYTES_MAX} bytes")));
    }
    Ok(block)
}

/// Strings, each ended by a zero byte.
fn strings<'a>(all: impl IntoIterator<Item = &'a String>) -> Result<Vec<u8>, Error> {
    let mut block = Vec::new();
    for text in all {
        if text.contains('\0') {
            return Err(Error::Entrypoint(format!("{text:?} cannot be given to a program")));
        }
        block.extend_from_slice(text.as_bytes());
        block.push(0);
    }
    Ok(block)
}

/// `KEY=value` strings, each ended by a zero byte.
fn environment_block(variables: &[(String, String)]) -> Result<Vec<u8>, Error> {
    let mut block = Vec::new();
    for (key, value) in variables {
        if key.is_empty() || key.contains(['=', '\0']) || value.contains('\0') {
            return Err(Error::Host(format!("the variable {key:?} cannot be in an environment")));
        }
        block.extend_from_slice(key.as_bytes());
        block.push(b'=');
        block.extend_from_slice(value.as_bytes());
        block.push(0);
    }
    if block.len() > ENVIRONMENT_BYTES_MAX {
        return Err(Error::Host(format!("the environment is longer than {ENVIRONMENT_BYTES_MAX} bytes")));
    }
    Ok(block)
}

fn host(error: impl fmt::Display) -> Error {
    Error::Host(error.to_string())
}

#[async_trait]
impl Backend for ProcessBackend {
    async fn start(&self, spec: SandboxSpec) -> Result<Started, Error> {
        let guest = match spec.guest {
            Guest::Bootstrap => GuestKind::Bootstrap,
            Guest::Entrypoint { ref line, .. } => {
                let strings = u32::try_from(line.len()).ok().filter(|it| (1..=protocol::LINE_MAX).contains(it));
                let wrong = || Error::Entrypoint("a program has between 1 and 1,024 words".to_owned());
                GuestKind::Entrypoint { strings: strings.ok_or_else(wrong)? }
            }
            Guest::Command => GuestKind::Command,
            // The rest of the memory is for what an engine keeps outside its heap.
            Guest::Interpreter { interpreter, memory_mb, ref wrapper, .. } => {
                let (index, heap_mb) = (interpreter as u32, memory_mb * 9 / 10);
                GuestKind::Interpreter { index, heap_mb, wrapped: wrapper.is_some() }
            }
            Guest::Zygote { interpreter, .. } => GuestKind::Zygote { index: interpreter as u32 },
            Guest::Fork { zygote } => GuestKind::Fork { zygote },
            Guest::Compiler => GuestKind::Compiler,
            Guest::Vacant if spec.code.is_some() || !spec.layers.is_empty() || spec.files.is_some() || spec.held => {
                return Err(Error::Host("what a vacant sandbox has comes with its guest".to_owned()));
            }
            Guest::Vacant => GuestKind::Vacant,
        };
        let token = self.shared.next_token.fetch_add(1, Ordering::Relaxed);
        let (memory_bytes, tmp_bytes) = clamped(spec.memory_bytes, spec.tmp_bytes);
        let request = Request::Start(StartRequest {
            token,
            guest,
            memory_bytes,
            tmp_bytes,
            code: spec.code.as_ref().map(digits).transpose()?,
            layers: all_digits(&spec.layers)?,
            files: spec.files.as_ref().map(files).transpose()?,
            root: spec.root.as_ref().map(digits).transpose()?,
            held: spec.held,
        });
        let environment = sys::memory_file(c"environment", &memory_block(&spec)?).map_err(host)?;
        let (ours, theirs) = channel().map_err(host)?;
        let (output, output_end) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(host)?;
        let output = pipe::Receiver::from_owned_fd(output).map_err(host)?;

        let (sender, answer) = oneshot::channel();
        {
            let mut state = self.shared.state.lock();
            if state.gone {
                return Err(Error::SpawnerGone);
            }
            state.starting.insert(token, Starting { sender, names: Names::of(&spec) });
        }
        let _forget = Forget { shared: &self.shared, token };
        let fds = [theirs.as_raw_fd(), output_end.as_raw_fd(), environment.as_raw_fd()];
        self.shared.send(&request, &fds).await.map_err(|_| Error::SpawnerGone)?;
        drop((theirs, output_end, environment));
        let parts = match answer.await.unwrap_or(Err(Failure::Gone)) {
            Ok(parts) => parts,
            Err(failure) => return Err(self.error(&spec, &failure)),
        };
        if parts.tmp_in_group {
            parts.control.ceiling.store(spec.memory_bytes, Ordering::Relaxed);
        }
        let listeners = guest_listeners(parts.listeners).map_err(host)?;
        let channel = UnixStream::from_std(ours).map_err(host)?;
        Ok(Started { channel, output, listeners, control: parts.control })
    }

    fn walls(&self) -> Vec<Wall> {
        self.walls.iter().map(FoundWall::public).collect()
    }

    fn freezes(&self) -> bool {
        self.shared.freezes
    }
}

/// Forgets a start that is no longer waited for.
struct Forget<'a> {
    shared: &'a Shared,
    token: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        state.starting.remove(&self.token);
        state.asking.remove(&self.token);
    }
}

/// Runtime API, DNS, traces, then TCP, as `netns` makes them.
fn guest_listeners(fds: Vec<OwnedFd>) -> io::Result<GuestListeners> {
    let mut fds = fds.into_iter();
    let tcp = |fd: OwnedFd| TcpListener::from_std(fd.into());
    let udp = |fd: OwnedFd| UdpSocket::from_std(fd.into());
    Ok(GuestListeners {
        runtime_api: fds.next().map(tcp).transpose()?,
        dns: fds.next().map(udp).transpose()?,
        traces: fds.next().map(udp).transpose()?,
        tcp: fds.map(tcp).collect::<io::Result<_>>()?,
    })
}

impl Shared {
    async fn send(&self, request: &Request, fds: &[i32]) -> io::Result<()> {
        let packet = request.encode();
        self.socket.async_io(Interest::WRITABLE, |socket| protocol::send(socket, &packet, fds)).await
    }

    /// Sends now, or from a task of its own while the socket is full.
    fn send_soon(self: &Arc<Self>, request: Request) {
        if let Err(error) = protocol::send(self.socket.get_ref(), &request.encode(), &[])
            && error.kind() == io::ErrorKind::WouldBlock
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let shared = Arc::clone(self);
            runtime.spawn(async move { shared.send(&request, &[]).await });
        }
    }
}

async fn read_replies(shared: Arc<Shared>) {
    let mut packet = [0; REPLY_BYTES];
    loop {
        let received =
            shared.socket.async_io(Interest::READABLE, |socket| protocol::receive(socket, &mut packet)).await;
        match received {
            Ok((length, fds)) if length > 0 => {
                if let Some(reply) = Reply::decode(&packet[..length]) {
                    take_reply(&shared, reply, fds);
                }
            }
            _ => break,
        }
    }
    let mut state = shared.state.lock();
    state.gone = true;
    for (_, start) in state.starting.drain() {
        let _ = start.sender.send(Err(Failure::Gone));
    }
    for (_, sender) in state.asking.drain() {
        let _ = sender.send(Err(Failure::Gone));
    }
    state.left.clear();
    for (_, sender) in state.running.drain() {
        let usage = Usage::default();
        sender.send_replace(Some(Exit { code: None, signal: Some(libc::SIGKILL), out_of_memory: false, usage }));
    }
    drop(state);
    // Nobody else sets it.
    let _ = shared.ended.set(());
}

/// Tells whoever waits for what this token stands for that it has failed.
fn tell_failure(shared: &Shared, token: u64, step: u32, errno: i32) {
    let start = shared.state.lock().starting.remove(&token);
    match start {
        Some(start) => drop(start.sender.send(Err(Failure::Step { step, errno }))),
        None => answer(shared, token, Err(Failure::Step { step, errno })),
    }
}

/// Tells whoever has asked what came of it.
fn answer(shared: &Shared, token: u64, answer: Result<Vec<OwnedFd>, Failure>) {
    let waiter = shared.state.lock().asking.remove(&token);
    if let Some(waiter) = waiter {
        let _ = waiter.send(answer);
    }
}

fn take_reply(shared: &Arc<Shared>, reply: Reply, mut fds: Vec<OwnedFd>) {
    match reply {
        Reply::Started { token, id, pid, listeners, meters, features } => {
            // The kernel drops descriptors that this process has no room for.
            let whole = fds.len() == (listeners + meters) as usize;
            let files = fds.split_off((listeners as usize).min(fds.len()));
            let meters = <[OwnedFd; 4]>::try_from(files).ok().filter(|_| meters == 4);
            let (sender, exit) = watch::channel(None);
            let waiter = {
                let mut state = shared.state.lock();
                state.running.insert(id, sender);
                state.starting.remove(&token)
            };
            let (waiter, names) = waiter.map(|start| (start.sender, start.names)).unzip();
            let control = Arc::new(ProcessControl {
                shared: Arc::clone(shared),
                id,
                pid,
                meters,
                peak: AtomicU64::new(0),
                ceiling: AtomicU64::new(u64::MAX),
                exit,
                freezer: Arc::default(),
                asked_to_end: AtomicBool::new(false),
                names: names.unwrap_or_default(),
            });
            let tmp_in_group = features & feature::TMP_IN_GROUP != 0;
            // Where nobody waits any more, the control handle is dropped, which kills.
            if let Some(waiter) = waiter {
                let step = Step::Network as u32;
                let full = Failure::Step { step, errno: libc::EMFILE };
                let _ =
                    waiter.send(if whole { Ok(Parts { listeners: fds, control, tmp_in_group }) } else { Err(full) });
            }
        }
        Reply::Failed { token, step, errno } => tell_failure(shared, token, step, errno),
        Reply::Assigned { token } | Reply::Launched { token, errno: 0, .. } => answer(shared, token, Ok(Vec::new())),
        Reply::Sockets { token } => answer(shared, token, Ok(fds)),
        Reply::Launched { token, step, errno } => tell_failure(shared, token, step, errno),
        Reply::Left { id, program, status, out_of_memory } => {
            let mut state = shared.state.lock();
            if state.running.contains_key(&id) {
                let exit = exit(status, out_of_memory, Usage::default());
                state.left.entry(id).or_default().send_modify(|left| left.push((program, exit)));
            }
        }
        Reply::Freezer { id } => {
            let freezer = shared.state.lock().freezers.remove(&id);
            if let Some(freezer) = freezer {
                freezer.0.lock().file = fds.pop();
                freezer.apply();
            }
        }
        Reply::Exited { id, status, out_of_memory, cpu_ns, peak_bytes } => {
            let usage = Usage { cpu: Duration::from_nanos(cpu_ns), memory_peak_bytes: peak_bytes };
            ended(shared, id, exit(status, out_of_memory, usage));
        }
    }
}

/// Tells whoever waits for a sandbox that it has ended.
fn ended(shared: &Shared, id: u64, exit: Exit) {
    let sender = {
        let mut state = shared.state.lock();
        state.freezers.remove(&id);
        // Whoever waits for a program of it hears of the sandbox's end.
        state.left.remove(&id);
        state.running.remove(&id)
    };
    if let Some(sender) = sender {
        sender.send_replace(Some(exit));
    }
}

fn exit(status: i32, out_of_memory: bool, usage: Usage) -> Exit {
    let status = ExitStatus::from_raw(status);
    Exit { code: status.code(), signal: status.signal(), out_of_memory, usage }
}

/// Handle of one sandbox.
struct ProcessControl {
    shared: Arc<Shared>,
    id: u64,
    /// The sandbox's first process, as the host numbers it.
    pid: i32,
    /// Memory now, peak, processor time, tasks.
    meters: Option<[OwnedFd; 4]>,
    peak: AtomicU64,
    /// What the group counts beyond this is its `/tmp`.
    ceiling: AtomicU64,
    exit: watch::Receiver<Option<Exit>>,
    freezer: Arc<Freezer>,
    asked_to_end: AtomicBool,
    /// What a guest that was held is called in errors.
    names: Names,
}

/// Lambda's words for a package without its program.
const NO_BOOTSTRAP: &str = "Couldn't find valid bootstrap(s): [/var/task/bootstrap /opt/bootstrap]";

/// What is executed, for errors.
#[derive(Debug, Clone, Default)]
struct Names {
    line: String,
    folder: String,
}

impl Names {
    fn of(spec: &SandboxSpec) -> Self {
        match &spec.guest {
            Guest::Entrypoint { line, folder } => {
                Self { line: line.first().cloned().unwrap_or_default(), folder: folder.clone() }
            }
            _ => Self::default(),
        }
    }

    /// The error of a step of executing it.
    fn error(&self, step: u32, errno: i32) -> Error {
        let words = words(errno);
        let entrypoint = |path: &str| Error::Entrypoint(format!("fork/exec {path}: {words}"));
        match Step::from_number(step) {
            Some(Step::ExecTask) => entrypoint("/var/task/bootstrap"),
            Some(Step::ExecOpt) => entrypoint("/opt/bootstrap"),
            Some(Step::NoBootstrap) => Error::Entrypoint(NO_BOOTSTRAP.to_owned()),
            Some(Step::ExecEntrypoint) => entrypoint(&self.line),
            Some(Step::ExecCommand) => entrypoint("/bin/sh"),
            Some(Step::Folder) => Error::Folder(format!("chdir {}: {words}", self.folder)),
            _ => folder_error(step, errno, None, &[]),
        }
    }
}

impl fmt::Debug for ProcessControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessControl").field("id", &self.id).field("pid", &self.pid).finish_non_exhaustive()
    }
}

impl ProcessControl {
    /// Asks the spawner for something, and waits for what it gives.
    async fn ask(&self, token: u64, request: Request, fds: &[i32]) -> Result<Vec<OwnedFd>, Failure> {
        let (sender, answer) = oneshot::channel();
        {
            let mut state = self.shared.state.lock();
            if state.gone {
                return Err(Failure::Gone);
            }
            state.asking.insert(token, sender);
        }
        let _forget = Forget { shared: &self.shared, token };
        self.shared.send(&request, fds).await.map_err(|_| Failure::Gone)?;
        answer.await.unwrap_or(Err(Failure::Gone))
    }

    /// The same for what the sandbox itself answers.
    async fn ask_within(&self, token: u64, request: Request, fds: &[i32]) -> Result<Vec<OwnedFd>, Failure> {
        tokio::select! {
            biased;
            answer = self.ask(token, request, fds) => answer,
            // Nobody there will answer any more.
            _ = self.wait() => Err(Failure::Step { step: Step::Vanished as u32, errno: libc::ESRCH }),
        }
    }

    /// Has something executed in the sandbox, and waits for that. `names`: what it is called in errors.
    async fn executed(&self, token: u64, request: Request, fds: &[i32], names: &Names) -> Result<(), Error> {
        match self.ask_within(token, request, fds).await {
            Ok(_) => Ok(()),
            Err(Failure::Gone) => Err(Error::SpawnerGone),
            Err(Failure::Step { step, errno }) => Err(names.error(step, errno)),
        }
    }

    /// What was counted, of which a group's part for `/tmp` in memory is not the function's own.
    fn bounded(&self, counted: u64) -> u64 {
        counted.min(self.ceiling.load(Ordering::Relaxed))
    }
}

impl Drop for ProcessControl {
    fn drop(&mut self) {
        if self.exit.borrow().is_none() {
            self.shared.send_soon(Request::Kill(self.id));
        }
    }
}

/// Freezes and thaws one sandbox. The file that does it is asked for when it is first needed.
#[derive(Default)]
struct Freezer(Mutex<FreezerState>);

#[derive(Default)]
struct FreezerState {
    /// What was wanted last, and what was done last.
    wanted: bool,
    done: bool,
    /// Whether `file` was asked for.
    asked: bool,
    file: Option<OwnedFd>,
}

impl Freezer {
    /// Does what is wanted by now, if that can be done. One after another: what was wanted last stays.
    fn apply(&self) {
        let mut state = self.0.lock();
        if let FreezerState { wanted, done, file: Some(file), .. } = &mut *state
            && *wanted != *done
        {
            // A group that is gone needs neither.
            let _ = rustix::io::write(file, if *wanted { b"1" } else { b"0" });
            *done = *wanted;
        }
    }

    /// Sets what is wanted. True where the file is to be asked for.
    fn want(&self, frozen: bool) -> bool {
        let mut state = self.0.lock();
        state.wanted = frozen;
        frozen && !std::mem::replace(&mut state.asked, true)
    }
}

#[async_trait]
impl Control for ProcessControl {
    fn id(&self) -> u64 {
        self.id
    }

    async fn assign(&self, assignment: &Assignment) -> Result<(), Error> {
        let token = self.shared.next_token.fetch_add(1, Ordering::Relaxed);
        let (memory_bytes, tmp_bytes) = clamped(assignment.memory_bytes, assignment.tmp_bytes);
        let request = Request::Assign(AssignRequest {
            token,
            id: self.id,
            memory_bytes,
            tmp_bytes,
            code: assignment.code.as_ref().map(digits).transpose()?,
            layers: all_digits(&assignment.layers)?,
            occupant: occupant(assignment)?,
        });
        let assigned = match &assignment.occupant {
            Some(occupant) => {
                let block = environment_block(&occupant.environment)?;
                let environment = sys::memory_file(c"environment", &block).map_err(host)?;
                self.ask_within(token, request, &[environment.as_raw_fd()]).await
            }
            None => self.ask(token, request, &[]).await,
        };
        match assigned {
            Ok(_) => {
                if self.ceiling.load(Ordering::Relaxed) != u64::MAX {
                    self.ceiling.store(memory_bytes, Ordering::Relaxed);
                }
                Ok(())
            }
            Err(Failure::Gone) => Err(Error::SpawnerGone),
            Err(Failure::Step { step, errno }) => Err(match Step::from_number(step) {
                Some(Step::ExecTask | Step::ExecOpt | Step::NoBootstrap | Step::ExecCommand) => {
                    self.names.error(step, errno)
                }
                Some(Step::Sockets) if errno == libc::EOPNOTSUPP => Error::NoNetwork,
                _ => folder_error(step, errno, assignment.code.as_ref(), &assignment.layers),
            }),
        }
    }

    fn kill(&self) {
        self.shared.send_soon(Request::Kill(self.id));
    }

    fn freeze(&self) -> Box<dyn FnOnce() + Send> {
        if !self.shared.freezes || self.exit.borrow().is_some() {
            return Box::new(|| {});
        }
        let asks = self.freezer.want(true);
        let (shared, freezer, id) = (Arc::clone(&self.shared), Arc::clone(&self.freezer), self.id);
        Box::new(move || {
            if asks {
                shared.state.lock().freezers.insert(id, freezer);
                shared.send_soon(Request::Freezer(id));
            } else {
                freezer.apply();
            }
        })
    }

    fn thaw(&self) {
        self.freezer.want(false);
        self.freezer.apply();
    }

    fn terminate(&self) {
        // Many servers take a second signal for impatience.
        if !self.asked_to_end.swap(true, Ordering::Relaxed) {
            self.shared.send_soon(Request::Terminate(self.id));
        }
    }

    async fn sockets(&self) -> Result<Vec<TcpSocket>, Error> {
        let token = self.shared.next_token.fetch_add(1, Ordering::Relaxed);
        match self.ask(token, Request::Sockets { token, id: self.id }, &[]).await {
            // The kernel drops descriptors that this process has no room for.
            Ok(fds) if fds.is_empty() => Err(Error::Host("sockets: too many open files".to_owned())),
            Ok(fds) => {
                let socket = |fd: OwnedFd| TcpSocket::from_std_stream(std::net::TcpStream::from(fd));
                Ok(fds.into_iter().map(socket).collect())
            }
            Err(Failure::Gone) => Err(Error::SpawnerGone),
            Err(Failure::Step { step, errno }) => Err(folder_error(step, errno, None, &[])),
        }
    }

    async fn begin(&self) -> Result<(), Error> {
        let token = self.shared.next_token.fetch_add(1, Ordering::Relaxed);
        self.executed(token, Request::Begin { token, id: self.id }, &[], &self.names).await
    }

    async fn launch(&self, spec: &BesideSpec) -> Result<Beside, Error> {
        let number = self.shared.next_token.fetch_add(1, Ordering::Relaxed);
        let mut block = strings([&spec.folder, &spec.path])?;
        block.extend(environment_block(&spec.environment)?);
        if block.len() > ENVIRONMENT_BYTES_MAX {
            return Err(Error::Host(format!("a program's environment is longer than {ENVIRONMENT_BYTES_MAX} bytes")));
        }
        let environment = sys::memory_file(c"environment", &block).map_err(host)?;
        let (output, output_end) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(host)?;
        let output = pipe::Receiver::from_owned_fd(output).map_err(host)?;
        let fds = [environment.as_raw_fd(), output_end.as_raw_fd()];
        let names = Names { line: spec.path.clone(), folder: spec.folder.clone() };
        self.executed(number, Request::Launch { token: number, id: self.id }, &fds, &names).await?;
        Ok(Beside { number, output })
    }

    fn signal(&self, number: u64, signal: i32) {
        self.shared.send_soon(Request::Signal { id: self.id, program: number, signal });
    }

    async fn left(&self, number: u64) -> Exit {
        let left = {
            let mut state = self.shared.state.lock();
            let runs = state.running.contains_key(&self.id);
            runs.then(|| state.left.entry(self.id).or_default().subscribe())
        };
        let Some(mut left) = left else { return self.wait().await };
        let of = |left: &Vec<(u64, Exit)>| left.iter().find(|(of, _)| *of == number).map(|(_, exit)| *exit);
        let found = left.wait_for(|left| of(left).is_some()).await.ok().and_then(|left| of(&left));
        match found {
            Some(exit) => exit,
            None => self.wait().await,
        }
    }

    async fn wait(&self) -> Exit {
        let mut exit = self.exit.clone();
        let ended = exit.wait_for(Option::is_some).await.ok().and_then(|exit| *exit);
        let mut ended =
            ended.unwrap_or(Exit { code: None, signal: None, out_of_memory: false, usage: Usage::default() });
        let peak = ended.usage.memory_peak_bytes.max(self.peak.load(Ordering::Relaxed));
        ended.usage.memory_peak_bytes = self.bounded(peak);
        ended
    }

    fn settle(&self) {
        self.shared.send_soon(Request::Settle(self.id));
    }

    fn usage(&self) -> Usage {
        if let Some(exit) = *self.exit.borrow() {
            return Usage { memory_peak_bytes: self.bounded(exit.usage.memory_peak_bytes), ..exit.usage };
        }
        let mut usage = match &self.meters {
            Some([_, peak, cpu, _]) => {
                Usage { cpu: Duration::from_nanos(read_meter(cpu)), memory_peak_bytes: self.bounded(read_meter(peak)) }
            }
            None => {
                let seen = measure::measure(&self.shared.proc, self.pid);
                Usage { cpu: Duration::from_nanos(seen.cpu_ns), memory_peak_bytes: seen.peak_bytes }
            }
        };
        let before = self.peak.fetch_max(usage.memory_peak_bytes, Ordering::Relaxed);
        usage.memory_peak_bytes = usage.memory_peak_bytes.max(before);
        usage
    }

    fn held(&self) -> Held {
        if self.exit.borrow().is_some() {
            return Held::default();
        }
        match &self.meters {
            // The sandbox's first process is the platform's.
            Some([now, _, _, tasks]) => Held {
                memory_bytes: self.bounded(read_meter(now)),
                tasks: u32::try_from(read_meter(tasks).saturating_sub(1)).unwrap_or(0),
            },
            None => {
                let seen = measure::measure(&self.shared.proc, self.pid);
                Held { memory_bytes: seen.memory_bytes, tasks: seen.tasks }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_environment_is_zero_terminated_strings() {
        let pairs =
            |list: &[(&str, &str)]| list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<Vec<_>>();
        assert_eq!(environment_block(&pairs(&[("A", "1"), ("B", "x=y")])).unwrap(), b"A=1\0B=x=y\0");
        for wrong in [("", "1"), ("A=", "1"), ("A\0", "1"), ("A", "1\0")] {
            assert!(environment_block(&pairs(&[wrong])).is_err(), "{wrong:?}");
        }
        assert!(environment_block(&pairs(&[("A", &"x".repeat(ENVIRONMENT_BYTES_MAX))])).is_err());
    }

    #[test]
    fn errors_read_as_the_go_runtime_prints_them() {
        assert_eq!(words(libc::ENOENT), "no such file or directory");
        assert_eq!(words(libc::EACCES), "permission denied");
        assert_eq!(words(libc::ENOEXEC), "exec format error");
    }
}

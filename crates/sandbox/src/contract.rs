//! What a sandbox is to the engine: a guest program with a channel, an output pipe, listeners and a control handle.
//!
//! Non-purpose: what is said over the channel, and what answers the listeners.
//! Start reading at `Backend`.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use model::{CodeDigest, Family};
use tokio::net::{TcpListener, TcpSocket, UdpSocket, UnixStream};

use crate::program::{Opened, ProgramSpec};

/// Beside a package's folder below the code root, the folder of this further ending holds what the platform has made of the
/// package. Guests see it, read-only, below `CACHE_ROOT`; it may not be there.
pub const CACHE_SUFFIX: &str = ".cache";
/// Where guests see what was made of their packages: the code's in `0`, each layer's, in merge order, from `1` on.
pub const CACHE_ROOT: &str = "/var/cache";

/// What a folder that is to be a sandbox's root (`SandboxSpec::root`) must have as folders, none of them behind a link: the
/// platform mounts something on each.
pub const ROOT_FOLDERS: &[&str] = &["/dev", "/mnt", "/proc", "/run", "/tmp"];
/// What it must have as files with this content, for the same reasons that the shared root has them.
pub const ROOT_FILES: &[(&str, &str)] = &[("/etc/hosts", HOSTS), ("/etc/resolv.conf", RESOLVER), (ROOT_TRUST, "")];
/// The file of it, empty before, where the certificates are that guests trust.
pub const ROOT_TRUST: &str = "/run/dunlin-trust.pem";
/// Where programs look for them: what is there must lead to `ROOT_TRUST`, the first place in any case.
pub const TRUST_PLACES: &[&str] = &[
    crate::process::TRUST_PATH,
    "/etc/ssl/cert.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
];
pub(crate) const HOSTS: &str = "127.0.0.1 localhost sandbox sandbox.localdomain\n::1 localhost\n";
// The platform answers on every address; a short timeout costs nothing and a lost datagram little.
pub(crate) const RESOLVER: &str = "nameserver 127.0.0.1\noptions timeout:2 attempts:3\n";
/// The variable that holds the words for the shell of a `Guest::Command`. The command itself does not see it.
pub const COMMAND_VARIABLE: &str = "DUNLIN_WEB_COMMAND";

/// The program that runs inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Guest {
    /// An interpreter of the host, chosen by `Interpreters`, running the platform's bootstrap of its family
    /// (`/var/runtime/nodejs/bootstrap.cjs`, `/var/runtime/python/bootstrap.py` and the like, of Java the runtime pack). It speaks frames on
    /// descriptor 3.
    Interpreter {
        /// Which family.
        family: Family,
        /// Index into the list of usable interpreters, as the host found them at start.
        interpreter: usize,
        /// Megabytes (MiB) of the function's memory; the interpreter's own heap limit follows from it.
        memory_mb: u32,
        /// A program of the sandbox that is executed in its place, with the interpreter's command line as its arguments.
        /// Needs code. Where it cannot be executed, the guest says so in its output and ends with 126 or 127.
        wrapper: Option<String>,
    },
    /// `/var/task/bootstrap`, else `/opt/bootstrap`. It speaks the HTTP Runtime API at `127.0.0.1:9001`.
    Bootstrap,
    /// Any program of the sandbox's root, which needs one of its own (`SandboxSpec::root`). It has no channel; what it speaks
    /// is for those to know who serve the sandbox's network.
    Entrypoint {
        /// The program and its arguments. One without a slash is looked for where `PATH` says.
        line: Vec<String>,
        /// Where it begins.
        folder: String,
    },
    /// What the variable `COMMAND_VARIABLE` says, run by `/bin/sh` in `/var/task`. It listens on a port of its own, which
    /// `Control::sockets` reach, and knows nothing of the platform. Needs a network namespace.
    Command,
    /// An interpreter of the host that runs no function, but forks guests for sandboxes of their own (`Fork`). It speaks
    /// frames on descriptor 3 as well.
    Zygote {
        /// Which family; only Python can be forked.
        family: Family,
        /// Index into the list of usable interpreters.
        interpreter: usize,
    },
    /// Nobody yet: every wall stands, and who runs behind them comes with code and variables (`Assignment::occupant`).
    Vacant,
    /// A fork of a zygote, in a sandbox of its own.
    Fork {
        /// The zygote: `Control::id` of its sandbox.
        zygote: u64,
    },
    /// This server's own program as a compiler of `/var/task/bootstrap.wasm` (`wasm::compiler_main`). It has the channel, and
    /// speaks no frames.
    Compiler,
}

/// Everything that a sandbox is made from.
#[derive(Debug, Clone)]
pub struct SandboxSpec {
    /// What runs.
    pub guest: Guest,
    /// Folder below the code root that is the sandbox's whole root, read-only, with what `ROOT_FOLDERS` and the like say in
    /// it; of a `Guest::Entrypoint` only, which has neither code nor layers. None: the root that all sandboxes share.
    pub root: Option<CodeDigest>,
    /// Folder below the code root that becomes `/var/task`, read-only. None: empty, until `Control::assign` says more.
    pub code: Option<CodeDigest>,
    /// Folders below the code root that are merged into `/opt`, later ones first. Empty: an empty `/opt`.
    pub layers: Vec<CodeDigest>,
    /// A folder of the host below `/mnt`. Who is to be assigned to, a zygote and a fork have none.
    pub files: Option<SharedFiles>,
    /// Bytes of memory that may be used, `/tmp` apart where the host can tell them apart.
    pub memory_bytes: u64,
    /// Bytes of `/tmp`.
    pub tmp_bytes: u64,
    /// Whole environment of the guest: nothing of the server's own environment is added.
    pub environment: Vec<(String, String)>,
    /// The guest is executed at `Control::begin` and not before, so that programs beside it can be first. Only a
    /// `Guest::Bootstrap`, `Entrypoint`, `Command` or an `Interpreter` with a wrapper can be held.
    pub held: bool,
}

/// A program that runs beside the guest, behind the same walls and within the same limits.
#[derive(Debug, Clone)]
pub struct BesideSpec {
    /// Where it lies in the sandbox.
    pub path: String,
    /// Where it begins.
    pub folder: String,
    /// Its whole environment.
    pub environment: Vec<(String, String)>,
}

/// A program that runs beside the guest.
#[derive(Debug)]
pub struct Beside {
    /// Names it among the programs of its sandbox.
    pub number: u64,
    /// What it writes to its standard output and error.
    pub output: tokio::net::unix::pipe::Receiver,
}

/// The guest, among the programs of its sandbox.
pub const GUEST: u64 = 0;

/// A folder of the host that a sandbox has at `/mnt/NAME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedFiles {
    /// Its place in the list that the operator allows (`SpawnerConfig::shared`).
    pub index: usize,
    /// `NAME`: letters, digits, `-`, `_` and `.`, at most 160.
    pub name: String,
}

/// What a sandbox gets after its start.
#[derive(Debug, Clone)]
pub struct Assignment {
    /// Folder below the code root that becomes `/var/task`. None: code and layers stay, only the limits change.
    pub code: Option<CodeDigest>,
    /// Folders below the code root that are merged into `/opt`.
    pub layers: Vec<CodeDigest>,
    /// Bytes of memory that may be used.
    pub memory_bytes: u64,
    /// Bytes of `/tmp`.
    pub tmp_bytes: u64,
    /// Who moves in: of a `Guest::Vacant` with its code, and of no other.
    pub occupant: Option<Occupant>,
}

/// Who moves into a sandbox that was made for nobody.
#[derive(Debug, Clone)]
pub struct Occupant {
    /// What runs: a `Guest::Bootstrap` or `Command`.
    pub guest: Guest,
    /// Its whole environment.
    pub environment: Vec<(String, String)>,
    /// It is executed at `Control::begin` and not before, as `SandboxSpec::held` has it.
    pub held: bool,
}

/// A running sandbox, in parts that different tasks own.
#[derive(Debug)]
pub struct Started {
    /// The server's end of the frame channel (descriptor 3 inside), non-blocking. Unused by `Guest::Bootstrap`. It keeps
    /// the bounds of writes (`SOCK_SEQPACKET`): a read takes at most one write, and loses what it has no room for.
    pub channel: UnixStream,
    /// What the guest writes to its standard output and error, in the order it was written.
    pub output: tokio::net::unix::pipe::Receiver,
    /// Sockets that live in the sandbox's network namespace.
    pub listeners: GuestListeners,
    /// Ends, measures and waits.
    pub control: Arc<dyn Control>,
}

/// Sockets inside the sandbox's network namespace, served by the platform. `None` where the host has no network
/// namespaces.
#[derive(Debug, Default)]
pub struct GuestListeners {
    /// `127.0.0.1:9001`, the Runtime API.
    pub runtime_api: Option<TcpListener>,
    /// Every other TCP connection of the guest. An accepted stream's local address is the address that was wanted.
    pub tcp: Vec<TcpListener>,
    /// UDP port 53 on every address.
    pub dns: Option<UdpSocket>,
    /// UDP, where `AWS_XRAY_DAEMON_ADDRESS` says that the daemon is.
    pub traces: Option<UdpSocket>,
}

/// Handle of a running sandbox. Dropping the last one kills the sandbox.
#[async_trait]
pub trait Control: Send + Sync + std::fmt::Debug {
    /// Names the sandbox among those of its backend; never given out twice.
    fn id(&self) -> u64;

    /// Gives other limits to a sandbox: memory with the processor share that follows from it, and `/tmp`, whose content
    /// stays; to one that was started without code, code and layers as well, once, and to a vacant one its guest, which
    /// then runs or is held. After an error a sandbox without code is of no use; kill it.
    ///
    /// # Errors
    /// `CodeMissing`; of an occupant those of `Backend::start`; `Host` for everything else, also when a forked guest has not
    /// given up what it must. Memory that is used already cannot be taken away.
    async fn assign(&self, assignment: &Assignment) -> Result<(), Error>;

    /// Kills every process of the sandbox, frozen or not. Returns at once; `wait` tells when it is gone.
    fn kill(&self);

    /// Has every process of the sandbox stop until `thaw`: returns what does it, which waits for the kernel and is to be
    /// called without locks. A `thaw` that comes first wins. Does nothing where the host cannot (`Backend::freezes`). A
    /// frozen sandbox can be measured and killed; the end of a guest that was killed otherwise may be told only after
    /// `thaw`.
    fn freeze(&self) -> Box<dyn FnOnce() + Send>;

    /// Undoes `freeze`, also one that is only on its way. When it returns, the sandbox runs, or is about to.
    fn thaw(&self);

    /// Asks every process of the sandbox to end (SIGTERM). Returns at once. Only a `Guest::Command` or `Entrypoint` hears it.
    fn terminate(&self) {}

    /// Some TCP sockets in the sandbox's own network namespace, not connected, not blocking: what they connect to is the
    /// guest's.
    ///
    /// # Errors
    /// `Host` where the sandbox has ended or is of another kind.
    async fn sockets(&self) -> Result<Vec<TcpSocket>, Error> {
        Err(Error::Host("this guest cannot be connected to".to_owned()))
    }

    /// Has a guest that is held begin.
    ///
    /// # Errors
    /// As for `Backend::start`, where the program cannot be executed.
    async fn begin(&self) -> Result<(), Error> {
        Err(Error::Host("this guest is not held".to_owned()))
    }

    /// Starts a program beside the guest. From then on the sandbox outlives its guest: it has to be killed.
    ///
    /// # Errors
    /// `Entrypoint` where it cannot be executed; `Host` for everything else.
    async fn launch(&self, _spec: &BesideSpec) -> Result<Beside, Error> {
        Err(Error::Host("nothing can run beside this guest".to_owned()))
    }

    /// Sends a signal to a program of the sandbox, or to the guest with all that is in its process group. Returns at once.
    fn signal(&self, _number: u64, _signal: i32) {}

    /// Waits until a program of the sandbox has ended, the guest for one, or the whole sandbox. Usage is told at the end of
    /// the sandbox only.
    async fn left(&self, _number: u64) -> Exit {
        self.wait().await
    }

    /// Waits until the sandbox has ended and all that belonged to it is removed. May be called more than once.
    async fn wait(&self) -> Exit;

    /// The start is over: where a processor quota is asked for, it holds from now on.
    fn settle(&self);

    /// What was used so far. Asked for by every invocation, so it is no more than that needs.
    fn usage(&self) -> Usage;

    /// What is held now.
    fn held(&self) -> Held;
}

/// How a sandbox ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// Exit code of the guest's first process, if it ended by itself.
    pub code: Option<i32>,
    /// Signal that ended it.
    pub signal: Option<i32>,
    /// Whether the memory limit ended it.
    pub out_of_memory: bool,
    /// Last usage.
    pub usage: Usage,
}

/// Measured use of a sandbox, all its processes together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Processor time.
    pub cpu: Duration,
    /// Most bytes so far.
    pub memory_peak_bytes: u64,
}

/// What a sandbox holds at a moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held {
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Processes and threads.
    pub tasks: u32,
}

/// How well a wall stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WallState {
    /// Enforced by the kernel.
    Hard,
    /// Enforced by watching: there is a moment in which it does not hold.
    Soft,
    /// Not there.
    Missing,
}

/// One wall of this host, for `dunlin doctor`.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Wall {
    /// `user namespace`, `memory limit`, …
    pub name: &'static str,
    /// How well it stands.
    pub state: WallState,
    /// How it is built here, or what is missing and what to do about it.
    pub detail: String,
}

/// Why a sandbox could not be made.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The guest program does not exist or cannot be executed. Holds the path and the system's words, in the form
    /// `fork/exec /var/task/bootstrap: permission denied`, or that there is no `bootstrap` in any place.
    #[error("{0}")]
    Entrypoint(String),
    /// The folder that the guest program is to begin in is not there. Holds the path and the system's words.
    #[error("{0}")]
    Folder(String),
    /// The code folder is not there.
    #[error("the code {0} is not unpacked")]
    CodeMissing(CodeDigest),
    /// The guest is one that is connected to, and sandboxes have no network of their own here.
    #[error("sandboxes have no network namespace on this host")]
    NoNetwork,
    /// The package's program cannot be run, for this reason.
    #[error("bootstrap.wasm cannot be run: {0}")]
    Unfit(String),
    /// The host refused something.
    #[error("the sandbox could not be made: {0}")]
    Host(String),
    /// The spawner is gone; the server must end.
    #[error("the spawner has ended")]
    SpawnerGone,
}

/// A kind of sandbox on this host.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// Starts a guest.
    async fn start(&self, spec: SandboxSpec) -> Result<Started, Error>;

    /// Has the program of an unpacked package compiled, unless it is: this can take minutes, and is done once at a time.
    ///
    /// # Errors
    /// `Unfit` when it cannot be run. That is kept until `forget`.
    async fn compile(&self, _code: &CodeDigest) -> Result<(), Error> {
        Err(no_programs())
    }

    /// Opens a program, and has it compiled where that was not done.
    ///
    /// # Errors
    /// `Unfit` when it cannot be run.
    async fn open(&self, _spec: ProgramSpec) -> Result<Opened, Error> {
        Err(no_programs())
    }

    /// Nobody needs a package any more: what was made of its program goes.
    fn forget(&self, _code: &CodeDigest) {}

    /// Which walls stand on this host.
    fn walls(&self) -> Vec<Wall>;

    /// Whether sandboxes can be frozen on this host.
    fn freezes(&self) -> bool;
}

fn no_programs() -> Error {
    Error::Host("there is no engine for WebAssembly here".to_owned())
}

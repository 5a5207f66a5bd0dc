//! What server and spawner say to each other, and a sandbox's first process to the spawner.
//!
//! All messages are of fixed size, one per packet of a SEQPACKET socket; descriptors travel beside them (SCM_RIGHTS).
//! Nothing variable is in a request but the environment, which lies in a memory file that the spawner never reads.
//!
//! Invariants
//!   1. `decode` accepts exactly what `encode` makes: another length, kind, count or a name that is no digest is refused.
//!   2. A digest is 64 lower-case hexadecimal digits, so it cannot climb out of the code root.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

use super::sys;

/// Most layers of one sandbox: the five of Lambda and the platform's runtime packs.
pub(crate) const LAYERS_MAX: usize = 8;
/// Bytes of a digest in hexadecimal.
pub(crate) const DIGEST_BYTES: usize = 64;
/// Longest name of a folder below `/mnt`.
pub(crate) const MOUNT_NAME_MAX: usize = 160;
/// Bytes of a request.
pub(crate) const REQUEST_BYTES: usize = AT_ROOT + DIGEST_BYTES;
/// Bytes of a reply.
pub(crate) const REPLY_BYTES: usize = 80;
/// Longest environment block.
pub(crate) const ENVIRONMENT_BYTES_MAX: usize = 256 * 1024;
/// Least and most bytes of memory that may be asked for.
pub(crate) const MEMORY_BYTES: std::ops::RangeInclusive<u64> = (16 << 20)..=(1 << 40);
/// Least and most bytes of `/tmp` that may be asked for.
pub(crate) const TMP_BYTES: std::ops::RangeInclusive<u64> = (64 << 10)..=(1 << 40);

/// A digest's digits.
pub(crate) type Digest = [u8; DIGEST_BYTES];

/// Which program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GuestKind {
    Bootstrap,
    /// A program of a root of its own. Its line, and before it the folder that it begins in, are the first strings of the
    /// environment memory file, which the spawner never reads: so many strings, the folder not counted.
    Entrypoint {
        strings: u32,
    },
    /// Where it is wrapped, the first string of the environment memory file is the wrapper.
    Interpreter {
        index: u32,
        heap_mb: u32,
        wrapped: bool,
    },
    Zygote {
        index: u32,
    },
    /// A fork of the zygote in the sandbox with this id.
    Fork {
        zygote: u64,
    },
    /// Whatever its environment says.
    Command,
    /// The spawner's own program.
    Compiler,
    /// Whoever an assignment brings.
    Vacant,
}

/// A folder of the host below `/mnt`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FilesRequest {
    /// Its place in the configuration.
    pub(crate) index: u32,
    /// Its name there: letters, digits, `-`, `_` and `.`.
    pub(crate) name: Vec<u8>,
}

/// Asks for a sandbox. Beside it: the guest's channel end, the output pipe's write end, the environment memory file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StartRequest {
    pub(crate) token: u64,
    pub(crate) guest: GuestKind,
    pub(crate) memory_bytes: u64,
    pub(crate) tmp_bytes: u64,
    /// None: an empty folder.
    pub(crate) code: Option<Digest>,
    pub(crate) layers: Vec<Digest>,
    pub(crate) files: Option<FilesRequest>,
    /// The root of a `GuestKind::Entrypoint`, and of no other.
    pub(crate) root: Option<Digest>,
    /// The guest is executed when `Order::Begin` comes.
    pub(crate) held: bool,
}

/// What a sandbox's first process is to do for programs in it. The spawner passes it on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// A guest that was held begins. Answered by `Reply::Launched`.
    Begin { token: u64 },
    /// A program runs beside the guest. Beside the order: the memory file of its folder, its path and its environment; the
    /// pipe that it writes to. Answered by `Reply::Launched`; the token then names the program.
    Launch { token: u64 },
    /// A signal for a program, or the guest (`contract::GUEST`).
    Signal { program: u64, signal: i32 },
    /// Sockets in the sandbox's network. Answered by `Reply::Sockets`.
    Sockets { token: u64 },
    /// A fork has come into its sandbox.
    Entered,
    /// A guest moves into a vacant sandbox. Beside the order: the memory file of its environment. Answered by
    /// `Reply::Launched`.
    Occupy { token: u64, occupant: OccupantRequest },
}

/// Bytes of an order.
pub(crate) const ORDER_BYTES: usize = 24;

impl Order {
    pub(crate) fn encode(self) -> [u8; ORDER_BYTES] {
        let (kind, subject, detail) = match self {
            Self::Begin { token } => (1u64, token, 0),
            Self::Launch { token } => (2, token, 0),
            Self::Signal { program, signal } => (3, program, signal as u64),
            Self::Sockets { token } => (4, token, 0),
            Self::Entered => (5, 0, 0),
            Self::Occupy { token, occupant } => (6, token, occupant.bits()),
        };
        let mut buffer = [0; ORDER_BYTES];
        for (index, word) in [kind, subject, detail].into_iter().enumerate() {
            buffer[index * 8..index * 8 + 8].copy_from_slice(&word.to_le_bytes());
        }
        buffer
    }

    /// The order, or nothing if the packet is not one. Allocates nothing.
    pub(crate) fn decode(packet: &[u8]) -> Option<Self> {
        if packet.len() != ORDER_BYTES {
            return None;
        }
        let (subject, detail) = (u64_at(packet, 8), u64_at(packet, 16));
        match (u64_at(packet, 0), detail) {
            (1, 0) => Some(Self::Begin { token: subject }),
            (2, 0) => Some(Self::Launch { token: subject }),
            (3, 1..=64) => Some(Self::Signal { program: subject, signal: detail as i32 }),
            (4, 0) => Some(Self::Sockets { token: subject }),
            (5, 0) if subject == 0 => Some(Self::Entered),
            (6, bits) => Some(Self::Occupy { token: subject, occupant: OccupantRequest::of_bits(bits)? }),
            _ => None,
        }
    }
}

/// Most strings of a program's line.
pub(crate) const LINE_MAX: u32 = 1_024;

/// Who moves into a vacant sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OccupantRequest {
    /// Whatever its environment says (`GuestKind::Command`), or a `GuestKind::Bootstrap`.
    pub(crate) command: bool,
    /// It is executed when `Order::Begin` comes.
    pub(crate) held: bool,
}

impl OccupantRequest {
    fn bits(self) -> u64 {
        u64::from(self.command) | u64::from(self.held) << 1
    }

    fn of_bits(bits: u64) -> Option<Self> {
        (bits < 4).then_some(Self { command: bits & 1 != 0, held: bits & 2 != 0 })
    }
}

/// Gives a running sandbox its function, or other limits only. Beside it, if somebody moves in: the memory file of the
/// environment. It is then answered by `Reply::Launched`, else by `Reply::Assigned`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AssignRequest {
    pub(crate) token: u64,
    /// The sandbox.
    pub(crate) id: u64,
    pub(crate) memory_bytes: u64,
    pub(crate) tmp_bytes: u64,
    /// None: only the limits are others.
    pub(crate) code: Option<Digest>,
    pub(crate) layers: Vec<Digest>,
    /// Who moves in. Nobody comes without code.
    pub(crate) occupant: Option<OccupantRequest>,
}

/// What the server asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Request {
    Start(StartRequest),
    Assign(AssignRequest),
    /// Kill the sandbox with this id.
    Kill(u64),
    /// The start of the sandbox with this id is over: hold it to its processor share.
    Settle(u64),
    /// Make what is needed to freeze the sandbox with this id.
    Freezer(u64),
    /// Ask the processes of the sandbox with this id to end.
    Terminate(u64),
    /// Make sockets in the network of the sandbox with this id.
    Sockets {
        token: u64,
        id: u64,
    },
    /// Have a held guest of the sandbox with this id begin.
    Begin {
        token: u64,
        id: u64,
    },
    /// Start a program beside the guest of the sandbox with this id. Beside it: what `Order::Launch` has.
    Launch {
        token: u64,
        id: u64,
    },
    /// Send a signal to a program of the sandbox with this id.
    Signal {
        id: u64,
        program: u64,
        signal: i32,
    },
}

const START: u32 = 1;
const KILL: u32 = 2;
const ASSIGN: u32 = 3;
const SETTLE: u32 = 4;
const FREEZER: u32 = 5;
const TERMINATE: u32 = 6;
const SOCKETS: u32 = 7;
const BEGIN: u32 = 8;
const LAUNCH: u32 = 9;
const SIGNAL: u32 = 10;

/// How many sockets one request brings.
pub(crate) const SOCKETS_EACH: usize = 8;

fn put(buffer: &mut [u8], at: usize, bytes: &[u8]) {
    buffer[at..at + bytes.len()].copy_from_slice(bytes);
}

fn u32_at(buffer: &[u8], at: usize) -> u32 {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&buffer[at..at + 4]);
    u32::from_le_bytes(bytes)
}

fn u64_at(buffer: &[u8], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&buffer[at..at + 8]);
    u64::from_le_bytes(bytes)
}

fn digest_at(buffer: &[u8], at: usize) -> Option<Digest> {
    let digest = Digest::try_from(&buffer[at..at + DIGEST_BYTES]).ok()?;
    let fits = |b: &u8| b.is_ascii_digit() || (b'a'..=b'f').contains(b);
    digest.iter().all(fits).then_some(digest)
}

// Where the parts of a request lie.
const AT_KIND: usize = 0;
const AT_GUEST: usize = 4;
const AT_TOKEN: usize = 8;
/// An interpreter's index, a zygote's id, or the sandbox that is assigned to.
const AT_SUBJECT: usize = 16;
const AT_MEMORY: usize = 24;
const AT_TMP: usize = 32;
const AT_LAYERS: usize = 40;
const AT_HEAP: usize = 44;
const AT_HAS_CODE: usize = 48;
/// Whether the guest is held.
const AT_HELD: usize = 52;
const AT_CODE: usize = 56;
/// One more than the place of the folder below `/mnt`; zero: none.
const AT_FILES: usize = AT_CODE + DIGEST_BYTES * (1 + LAYERS_MAX);
const AT_FILES_LENGTH: usize = AT_FILES + 4;
const AT_FILES_NAME: usize = AT_FILES + 8;
/// The root's digest; read only where the guest has one.
const AT_ROOT: usize = AT_FILES_NAME + MOUNT_NAME_MAX;

fn put_files(buffer: &mut [u8], files: &FilesRequest) {
    let name = &files.name[..files.name.len().min(MOUNT_NAME_MAX)];
    put(buffer, AT_FILES, &files.index.saturating_add(1).to_le_bytes());
    put(buffer, AT_FILES_LENGTH, &(name.len() as u32).to_le_bytes());
    put(buffer, AT_FILES_NAME, name);
}

/// The folder below `/mnt` of a packet of right length: nothing if what it says cannot be.
fn files_of(packet: &[u8]) -> Option<Option<FilesRequest>> {
    let Some(index) = u32_at(packet, AT_FILES).checked_sub(1) else { return Some(None) };
    let length = u32_at(packet, AT_FILES_LENGTH) as usize;
    let name = packet[AT_FILES_NAME..].get(..length).filter(|name| is_mount_name(name))?;
    Some(Some(FilesRequest { index, name: name.to_vec() }))
}

/// Whether a folder below `/mnt` can have this name: no way to climb out of there.
pub(crate) fn is_mount_name(name: &[u8]) -> bool {
    let fits = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    (1..=MOUNT_NAME_MAX).contains(&name.len()) && name.iter().all(fits) && name != b"." && name != b".."
}

fn put_folders(buffer: &mut [u8], code: Option<&Digest>, layers: &[Digest]) {
    put(buffer, AT_LAYERS, &(layers.len() as u32).to_le_bytes());
    if let Some(code) = code {
        put(buffer, AT_HAS_CODE, &1u32.to_le_bytes());
        put(buffer, AT_CODE, code);
    }
    for (index, layer) in layers.iter().take(LAYERS_MAX).enumerate() {
        put(buffer, AT_CODE + DIGEST_BYTES * (index + 1), layer);
    }
}

/// The limits, code and layers of a packet of right length, if all of them are allowed.
fn folders(packet: &[u8]) -> Option<(u64, u64, Option<Digest>, Vec<Digest>)> {
    let (memory_bytes, tmp_bytes) = (u64_at(packet, AT_MEMORY), u64_at(packet, AT_TMP));
    let count = u32_at(packet, AT_LAYERS) as usize;
    if !MEMORY_BYTES.contains(&memory_bytes) || !TMP_BYTES.contains(&tmp_bytes) || count > LAYERS_MAX {
        return None;
    }
    let layers =
        (0..count).map(|index| digest_at(packet, AT_CODE + DIGEST_BYTES * (index + 1))).collect::<Option<_>>()?;
    let code = match u32_at(packet, AT_HAS_CODE) {
        0 => None,
        1 => Some(digest_at(packet, AT_CODE)?),
        _ => return None,
    };
    Some((memory_bytes, tmp_bytes, code, layers))
}

impl Request {
    pub(crate) fn encode(&self) -> [u8; REQUEST_BYTES] {
        let mut buffer = [0; REQUEST_BYTES];
        match self {
            Self::Kill(id) | Self::Settle(id) | Self::Freezer(id) | Self::Terminate(id) => {
                let kind = match self {
                    Self::Kill(_) => KILL,
                    Self::Settle(_) => SETTLE,
                    Self::Terminate(_) => TERMINATE,
                    _ => FREEZER,
                };
                put(&mut buffer, AT_KIND, &kind.to_le_bytes());
                put(&mut buffer, AT_SUBJECT, &id.to_le_bytes());
            }
            Self::Sockets { token, id } | Self::Begin { token, id } | Self::Launch { token, id } => {
                let kind = match self {
                    Self::Sockets { .. } => SOCKETS,
                    Self::Begin { .. } => BEGIN,
                    _ => LAUNCH,
                };
                put(&mut buffer, AT_KIND, &kind.to_le_bytes());
                put(&mut buffer, AT_TOKEN, &token.to_le_bytes());
                put(&mut buffer, AT_SUBJECT, &id.to_le_bytes());
            }
            Self::Signal { id, program, signal } => {
                put(&mut buffer, AT_KIND, &SIGNAL.to_le_bytes());
                put(&mut buffer, AT_GUEST, &signal.to_le_bytes());
                put(&mut buffer, AT_TOKEN, &program.to_le_bytes());
                put(&mut buffer, AT_SUBJECT, &id.to_le_bytes());
            }
            Self::Start(start) => {
                let (guest, subject, heap) = match start.guest {
                    GuestKind::Bootstrap => (0u32, 0, 0),
                    GuestKind::Interpreter { index, heap_mb, wrapped: false } => (1, u64::from(index), heap_mb),
                    GuestKind::Interpreter { index, heap_mb, wrapped: true } => (8, u64::from(index), heap_mb),
                    GuestKind::Zygote { index } => (2, u64::from(index), 0),
                    GuestKind::Fork { zygote } => (3, zygote, 0),
                    GuestKind::Command => (4, 0, 0),
                    GuestKind::Entrypoint { strings } => (5, u64::from(strings), 0),
                    GuestKind::Compiler => (6, 0, 0),
                    GuestKind::Vacant => (7, 0, 0),
                };
                put(&mut buffer, AT_KIND, &START.to_le_bytes());
                put(&mut buffer, AT_GUEST, &guest.to_le_bytes());
                put(&mut buffer, AT_TOKEN, &start.token.to_le_bytes());
                put(&mut buffer, AT_SUBJECT, &subject.to_le_bytes());
                put(&mut buffer, AT_HEAP, &heap.to_le_bytes());
                put(&mut buffer, AT_MEMORY, &start.memory_bytes.to_le_bytes());
                put(&mut buffer, AT_TMP, &start.tmp_bytes.to_le_bytes());
                put_folders(&mut buffer, start.code.as_ref(), &start.layers);
                if let Some(files) = &start.files {
                    put_files(&mut buffer, files);
                }
                if let Some(root) = &start.root {
                    put(&mut buffer, AT_ROOT, root);
                }
                put(&mut buffer, AT_HELD, &u32::from(start.held).to_le_bytes());
            }
            Self::Assign(assign) => {
                put(&mut buffer, AT_KIND, &ASSIGN.to_le_bytes());
                put(&mut buffer, AT_TOKEN, &assign.token.to_le_bytes());
                put(&mut buffer, AT_SUBJECT, &assign.id.to_le_bytes());
                put(&mut buffer, AT_MEMORY, &assign.memory_bytes.to_le_bytes());
                put(&mut buffer, AT_TMP, &assign.tmp_bytes.to_le_bytes());
                put_folders(&mut buffer, assign.code.as_ref(), &assign.layers);
                // One more than its bits; zero: nobody.
                let occupant = assign.occupant.map_or(0, |occupant| occupant.bits() as u32 + 1);
                put(&mut buffer, AT_GUEST, &occupant.to_le_bytes());
            }
        }
        buffer
    }

    /// The request, or nothing if the packet is not one.
    pub(crate) fn decode(packet: &[u8]) -> Option<Self> {
        if packet.len() != REQUEST_BYTES {
            return None;
        }
        match u32_at(packet, AT_KIND) {
            KILL => Some(Self::Kill(u64_at(packet, AT_SUBJECT))),
            SETTLE => Some(Self::Settle(u64_at(packet, AT_SUBJECT))),
            FREEZER => Some(Self::Freezer(u64_at(packet, AT_SUBJECT))),
            TERMINATE => Some(Self::Terminate(u64_at(packet, AT_SUBJECT))),
            SOCKETS => Some(Self::Sockets { token: u64_at(packet, AT_TOKEN), id: u64_at(packet, AT_SUBJECT) }),
            BEGIN => Some(Self::Begin { token: u64_at(packet, AT_TOKEN), id: u64_at(packet, AT_SUBJECT) }),
            LAUNCH => Some(Self::Launch { token: u64_at(packet, AT_TOKEN), id: u64_at(packet, AT_SUBJECT) }),
            SIGNAL => {
                let signal = i32::try_from(u32_at(packet, AT_GUEST)).ok().filter(|signal| (1..=64).contains(signal))?;
                Some(Self::Signal { id: u64_at(packet, AT_SUBJECT), program: u64_at(packet, AT_TOKEN), signal })
            }
            START => Self::decode_start(packet).map(Self::Start),
            ASSIGN => {
                let (memory_bytes, tmp_bytes, code, layers) = folders(packet)?;
                let (token, id) = (u64_at(packet, AT_TOKEN), u64_at(packet, AT_SUBJECT));
                let occupant = match u32_at(packet, AT_GUEST).checked_sub(1) {
                    None => None,
                    Some(bits) => Some(OccupantRequest::of_bits(u64::from(bits)).filter(|_| code.is_some())?),
                };
                Some(Self::Assign(AssignRequest { token, id, memory_bytes, tmp_bytes, code, layers, occupant }))
            }
            _ => None,
        }
    }

    fn decode_start(packet: &[u8]) -> Option<StartRequest> {
        let subject = u64_at(packet, AT_SUBJECT);
        let guest = match u32_at(packet, AT_GUEST) {
            0 => GuestKind::Bootstrap,
            kind @ (1 | 8) => {
                let (index, heap_mb) = (u32::try_from(subject).ok()?, u32_at(packet, AT_HEAP));
                GuestKind::Interpreter { index, heap_mb, wrapped: kind == 8 }
            }
            2 => GuestKind::Zygote { index: u32::try_from(subject).ok()? },
            3 => GuestKind::Fork { zygote: subject },
            4 => GuestKind::Command,
            5 => {
                GuestKind::Entrypoint { strings: u32::try_from(subject).ok().filter(|it| (1..=LINE_MAX).contains(it))? }
            }
            6 => GuestKind::Compiler,
            7 => GuestKind::Vacant,
            _ => return None,
        };
        let (memory_bytes, tmp_bytes, code, layers) = folders(packet)?;
        let (token, files) = (u64_at(packet, AT_TOKEN), files_of(packet)?);
        let is_plain = !matches!(guest, GuestKind::Zygote { .. } | GuestKind::Fork { .. } | GuestKind::Compiler);
        let is_vacant = guest == GuestKind::Vacant;
        if files.is_some() && (is_vacant || !is_plain) || is_vacant && (code.is_some() || !layers.is_empty()) {
            return None;
        }
        let root = match guest {
            // There is no place for more in a root that is not the platform's.
            GuestKind::Entrypoint { .. } if code.is_some() || !layers.is_empty() => return None,
            GuestKind::Entrypoint { .. } => Some(digest_at(packet, AT_ROOT)?),
            _ => None,
        };
        let is_wrapped = matches!(guest, GuestKind::Interpreter { wrapped: true, .. });
        if is_wrapped && code.is_none() {
            return None;
        }
        let may_be_held =
            is_wrapped || matches!(guest, GuestKind::Bootstrap | GuestKind::Command | GuestKind::Entrypoint { .. });
        let held = match u32_at(packet, AT_HELD) {
            0 => false,
            1 if may_be_held => true,
            _ => return None,
        };
        Some(StartRequest { token, guest, memory_bytes, tmp_bytes, code, layers, files, root, held })
    }
}

/// Steps of making a sandbox, for messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Step {
    Request = 1,
    Code,
    Layers,
    Cgroup,
    Clone,
    IdMap,
    Gate,
    Ids,
    Mount,
    Template,
    Tmp,
    Task,
    Opt,
    Proc,
    Pivot,
    Network,
    Environment,
    Limits,
    Landlock,
    Capabilities,
    Seccomp,
    Fork,
    /// The guest program could not be executed; the errno is execve's.
    ExecTask,
    /// The same, for the program below `/opt`.
    ExecOpt,
    /// The same, for an interpreter.
    ExecInterpreter,
    Config,
    Stage,
    Vanished,
    NetworkNamespace,
    Tproxy,
    UserNamespace,
    MemoryLimit,
    TaskLimit,
    CpuWeight,
    /// The zygote is gone, or has given out all its forks.
    Zygote,
    /// A fork did not enter its sandbox.
    Join,
    /// The sandbox cannot be assigned to.
    Assign,
    /// The guest has kept what it must give up.
    Verify,
    /// What was made of a package cannot be mounted.
    Cache,
    /// A folder of the host cannot be given.
    Files,
    /// There are no sockets to have in the sandbox.
    Sockets,
    /// The same as `ExecTask`, for the shell of a command.
    ExecCommand,
    /// The root of a sandbox cannot be mounted.
    Root,
    /// The guest's folder cannot be gone to; the errno is chdir's.
    Folder,
    /// The program could not be executed; the errno is execve's.
    ExecEntrypoint,
    /// There is no `bootstrap` in either place.
    NoBootstrap,
}

impl Step {
    const ALL: [Self; 46] = [
        Self::Request,
        Self::Code,
        Self::Layers,
        Self::Cgroup,
        Self::Clone,
        Self::IdMap,
        Self::Gate,
        Self::Ids,
        Self::Mount,
        Self::Template,
        Self::Tmp,
        Self::Task,
        Self::Opt,
        Self::Proc,
        Self::Pivot,
        Self::Network,
        Self::Environment,
        Self::Limits,
        Self::Landlock,
        Self::Capabilities,
        Self::Seccomp,
        Self::Fork,
        Self::ExecTask,
        Self::ExecOpt,
        Self::ExecInterpreter,
        Self::Config,
        Self::Stage,
        Self::Vanished,
        Self::NetworkNamespace,
        Self::Tproxy,
        Self::UserNamespace,
        Self::MemoryLimit,
        Self::TaskLimit,
        Self::CpuWeight,
        Self::Zygote,
        Self::Join,
        Self::Assign,
        Self::Verify,
        Self::Cache,
        Self::Files,
        Self::Sockets,
        Self::ExecCommand,
        Self::Root,
        Self::Folder,
        Self::ExecEntrypoint,
        Self::NoBootstrap,
    ];

    pub(crate) fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|step| *step as u32 == number)
    }
}

/// What the spawner says, and what a sandbox's first process says to the spawner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reply {
    /// The guest runs. Beside it: `listeners` sockets (Runtime API, DNS, then TCP), then `meters` usage files.
    Started { token: u64, id: u64, pid: i32, listeners: u32, meters: u32, features: u32 },
    /// No sandbox was made, or it does not have what it should.
    Failed { token: u64, step: u32, errno: i32 },
    /// A sandbox has what the assignment with this token asked for. A failed one is `Failed`.
    Assigned { token: u64 },
    /// Answers `Request::Freezer`. Beside it, where it could be made: the file that freezes the sandbox with this id.
    Freezer { id: u64 },
    /// Answers `Request::Sockets`, unless `Failed` does. Beside it: the sockets.
    Sockets { token: u64 },
    /// Answers `Request::Begin` and `Request::Launch`. What was executed runs if `errno` is zero.
    Launched { token: u64, step: u32, errno: i32 },
    /// A program of a sandbox that goes on has ended. `status` is wait(2)'s.
    Left { id: u64, program: u64, status: i32, out_of_memory: bool },
    /// A sandbox has ended and everything of it is removed. `status` is wait(2)'s.
    Exited { id: u64, status: i32, out_of_memory: bool, cpu_ns: u64, peak_bytes: u64 },
}

/// Bits of `Started::features`.
pub(crate) mod feature {
    /// Every TCP connection arrives (TPROXY), not only ports 80 and 443.
    pub(crate) const TPROXY: u32 = 1;
    /// Landlock confines the guest.
    pub(crate) const LANDLOCK: u32 = 2;
    /// `/tmp` is memory and counted by the group; what the group counts is no measure of the function's memory alone.
    pub(crate) const TMP_IN_GROUP: u32 = 4;
}

impl Reply {
    pub(crate) fn encode(&self) -> [u8; REPLY_BYTES] {
        let mut buffer = [0; REPLY_BYTES];
        let mut words = [0u64; REPLY_BYTES / 8];
        match *self {
            Self::Started { token, id, pid, listeners, meters, features } => {
                words[..7].copy_from_slice(&[
                    1,
                    token,
                    id,
                    pid as u64,
                    u64::from(listeners),
                    u64::from(meters),
                    u64::from(features),
                ]);
            }
            Self::Failed { token, step, errno } => {
                words[..4].copy_from_slice(&[2, token, u64::from(step), errno as u64]);
            }
            Self::Exited { id, status, out_of_memory, cpu_ns, peak_bytes } => {
                words[..6].copy_from_slice(&[3, id, status as u64, u64::from(out_of_memory), cpu_ns, peak_bytes]);
            }
            Self::Assigned { token } => words[..2].copy_from_slice(&[4, token]),
            Self::Freezer { id } => words[..2].copy_from_slice(&[5, id]),
            Self::Sockets { token } => words[..2].copy_from_slice(&[6, token]),
            Self::Launched { token, step, errno } => {
                words[..4].copy_from_slice(&[7, token, u64::from(step), errno as u64]);
            }
            Self::Left { id, program, status, out_of_memory } => {
                words[..5].copy_from_slice(&[8, id, program, status as u64, u64::from(out_of_memory)]);
            }
        }
        for (index, word) in words.iter().enumerate() {
            put(&mut buffer, index * 8, &word.to_le_bytes());
        }
        buffer
    }

    /// The reply, or nothing if the packet is not one.
    pub(crate) fn decode(packet: &[u8]) -> Option<Self> {
        if packet.len() != REPLY_BYTES {
            return None;
        }
        let word = |index: usize| u64_at(packet, index * 8);
        match word(0) {
            1 => Some(Self::Started {
                token: word(1),
                id: word(2),
                pid: word(3) as i32,
                listeners: word(4) as u32,
                meters: word(5) as u32,
                features: word(6) as u32,
            }),
            2 => Some(Self::Failed { token: word(1), step: word(2) as u32, errno: word(3) as i32 }),
            3 => Some(Self::Exited {
                id: word(1),
                status: word(2) as i32,
                out_of_memory: word(3) != 0,
                cpu_ns: word(4),
                peak_bytes: word(5),
            }),
            4 => Some(Self::Assigned { token: word(1) }),
            5 => Some(Self::Freezer { id: word(1) }),
            6 => Some(Self::Sockets { token: word(1) }),
            7 => Some(Self::Launched { token: word(1), step: word(2) as u32, errno: word(3) as i32 }),
            8 => {
                Some(Self::Left { id: word(1), program: word(2), status: word(3) as i32, out_of_memory: word(4) != 0 })
            }
            _ => None,
        }
    }
}

/// Receives one packet with its descriptors. Length zero means the other side is gone.
pub(crate) fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(sys::FDS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut iov = [io::IoSliceMut::new(buffer)];
    let message = rustix::net::recvmsg(socket, &mut iov, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let mut fds = Vec::new();
    for part in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = part {
            fds.extend(rights);
        }
    }
    if message.flags.contains(rustix::net::ReturnFlags::TRUNC) {
        return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
    }
    Ok((message.bytes, fds))
}

/// Sends one packet with descriptors.
pub(crate) fn send(socket: impl AsFd, packet: &[u8], fds: &[RawFd]) -> io::Result<()> {
    sys::send_with_fds(socket.as_fd().as_raw_fd(), packet, fds).map_err(io::Error::from_raw_os_error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start() -> StartRequest {
        StartRequest {
            token: 7,
            guest: GuestKind::Interpreter { index: 2, heap_mb: 115, wrapped: false },
            memory_bytes: 128 << 20,
            tmp_bytes: 512 << 20,
            code: Some([b'a'; 64]),
            layers: vec![[b'0'; 64], [b'1'; 64]],
            files: Some(FilesRequest { index: 1, name: b"shared.d".to_vec() }),
            root: None,
            held: false,
        }
    }

    fn assign() -> AssignRequest {
        AssignRequest {
            token: 8,
            id: u64::MAX - 1,
            memory_bytes: 128 << 20,
            tmp_bytes: 512 << 20,
            code: Some([b'c'; 64]),
            layers: vec![[b'2'; 64]],
            occupant: None,
        }
    }

    #[test]
    fn requests_read_back() {
        let mut requests =
            vec![Request::Start(start()), Request::Kill(u64::MAX), Request::Settle(5), Request::Freezer(6)];
        requests.extend([Request::Terminate(7), Request::Sockets { token: 8, id: 9 }]);
        requests.extend([Request::Begin { token: 8, id: 9 }, Request::Launch { token: u64::MAX, id: 9 }]);
        requests.push(Request::Signal { id: 9, program: 1 << 40, signal: 15 });
        requests.push(Request::Start(StartRequest { guest: GuestKind::Bootstrap, held: true, ..start() }));
        let guests = [GuestKind::Bootstrap, GuestKind::Zygote { index: 3 }, GuestKind::Fork { zygote: 1 << 40 }];
        for guest in guests.into_iter().chain([GuestKind::Command, GuestKind::Compiler]) {
            requests.push(Request::Start(StartRequest { guest, code: None, files: None, ..start() }));
        }
        let guest = GuestKind::Entrypoint { strings: 2 };
        let program = StartRequest { guest, code: None, layers: Vec::new(), root: Some([b'd'; 64]), ..start() };
        requests.push(Request::Start(program));
        let guest = GuestKind::Interpreter { index: 2, heap_mb: 115, wrapped: true };
        for held in [false, true] {
            requests.push(Request::Start(StartRequest { guest, held, ..start() }));
        }
        for code in [Some([b'c'; 64]), None] {
            requests.push(Request::Assign(AssignRequest { code, ..assign() }));
        }
        for (command, held) in [(false, false), (false, true), (true, false), (true, true)] {
            let occupant = Some(OccupantRequest { command, held });
            requests.push(Request::Assign(AssignRequest { occupant, ..assign() }));
        }
        let vacant = StartRequest { guest: GuestKind::Vacant, code: None, layers: Vec::new(), files: None, ..start() };
        requests.push(Request::Start(vacant));
        for request in requests {
            assert_eq!(Request::decode(&request.encode()), Some(request));
        }
    }

    #[test]
    fn replies_read_back() {
        for reply in [
            Reply::Started { token: 1, id: 2, pid: 3, listeners: 4, meters: 4, features: 1 },
            Reply::Freezer { id: 9 },
            Reply::Sockets { token: 9 },
            Reply::Failed { token: 9, step: Step::Code as u32, errno: 2 },
            Reply::Exited { id: 1, status: 9, out_of_memory: true, cpu_ns: 5, peak_bytes: 6 },
            Reply::Assigned { token: 4 },
            Reply::Launched { token: 4, step: Step::ExecEntrypoint as u32, errno: 13 },
            Reply::Left { id: 4, program: 7, status: -1, out_of_memory: true },
        ] {
            assert_eq!(Reply::decode(&reply.encode()), Some(reply));
        }
    }

    #[test]
    fn hostile_requests_are_refused() {
        let good = Request::Start(start()).encode();
        assert_eq!(Request::decode(&good[1..]), None, "wrong length");
        assert_eq!(Request::decode(&[]), None);
        let with = |at: usize, bytes: &[u8]| {
            let mut packet = good;
            put(&mut packet, at, bytes);
            Request::decode(&packet)
        };
        assert_eq!(with(0, &11u32.to_le_bytes()), None, "unknown kind");
        assert_eq!(with(4, &9u32.to_le_bytes()), None, "unknown guest");
        assert_eq!(with(4, &7u32.to_le_bytes()), None, "nobody has code");
        assert_eq!(with(4, &5u32.to_le_bytes()), None, "code beside a root");
        let guest = GuestKind::Entrypoint { strings: 1 };
        let good_program = StartRequest { guest, code: None, layers: Vec::new(), root: Some([b'd'; 64]), ..start() };
        let good_program = Request::Start(good_program).encode();
        for (at, bytes) in
            [(AT_ROOT, b"../x"), (AT_ROOT, b"\0\0\0\0"), (16, &[0; 4]), (16, &[1, 4, 0, 0]), (20, &[1, 0, 0, 0])]
        {
            let mut packet = good_program;
            put(&mut packet, at, bytes);
            assert_eq!(Request::decode(&packet), None, "{at} {bytes:?}");
        }
        assert_eq!(with(4, &6u32.to_le_bytes()), None, "a compiler with folders of the host");
        assert_eq!(with(20, &1u32.to_le_bytes()), None, "an interpreter beyond any list");
        assert_eq!(with(48, &2u32.to_le_bytes()), None, "neither code nor none");
        let homeless = StartRequest {
            guest: GuestKind::Interpreter { index: 2, heap_mb: 115, wrapped: true },
            code: None,
            ..start()
        };
        assert_eq!(Request::decode(&Request::Start(homeless).encode()), None, "a wrapper without code");
        let none = AssignRequest { memory_bytes: 0, ..assign() };
        assert_eq!(Request::decode(&Request::Assign(none).encode()), None, "no memory");
        let occupant = Some(OccupantRequest { command: false, held: false });
        let homeless = AssignRequest { code: None, occupant, ..assign() };
        assert_eq!(Request::decode(&Request::Assign(homeless).encode()), None, "an occupant without code");
        let mut strange = Request::Assign(AssignRequest { occupant, ..assign() }).encode();
        put(&mut strange, AT_GUEST, &5u32.to_le_bytes());
        assert_eq!(Request::decode(&strange), None, "an unknown occupant");
        assert_eq!(with(24, &0u64.to_le_bytes()), None, "no memory");
        assert_eq!(with(24, &u64::MAX.to_le_bytes()), None, "all memory");
        assert_eq!(with(32, &0u64.to_le_bytes()), None, "no /tmp: tmpfs takes size=0 for unlimited");
        assert_eq!(with(40, &9u32.to_le_bytes()), None, "too many layers");
        assert_eq!(with(56, b"../../etc"), None, "a path for a digest");
        assert_eq!(with(56 + 64, b"/"), None, "a path for a layer");
        assert_eq!(with(56, b"A"), None, "upper case");
        assert_eq!(with(60, b"\0"), None, "a terminator within");
        assert_eq!(with(AT_FILES_NAME, b"a/b"), None, "a path for a name");
        assert_eq!(with(AT_FILES_LENGTH, &0u32.to_le_bytes()), None, "no name");
        assert_eq!(with(AT_FILES_LENGTH, &161u32.to_le_bytes()), None, "a name beyond the packet");
        assert_eq!(with(AT_FILES_LENGTH, &u32::MAX.to_le_bytes()), None, "a name beyond any packet");
        for (name, fits) in [("a", true), (".a", true), (".", false), ("..", false), ("", false), ("a b", false)] {
            assert_eq!(is_mount_name(name.as_bytes()), fits, "{name:?}");
        }
    }

    #[test]
    fn orders_read_back_and_others_are_refused() {
        let orders = [
            Order::Begin { token: 1 },
            Order::Launch { token: u64::MAX },
            Order::Signal { program: 3, signal: 15 },
            Order::Sockets { token: 4 },
            Order::Entered,
            Order::Occupy { token: 5, occupant: OccupantRequest { command: true, held: false } },
            Order::Occupy { token: 6, occupant: OccupantRequest { command: false, held: true } },
        ];
        for order in orders {
            let packet = order.encode();
            assert_eq!(Order::decode(&packet), Some(order));
            assert_eq!(Order::decode(&packet[1..]), None);
        }
        let with = |at: usize, value: u64| {
            let mut packet = Order::Signal { program: 3, signal: 15 }.encode();
            put(&mut packet, at, &value.to_le_bytes());
            Order::decode(&packet)
        };
        for (at, value) in [(0, 0), (0, 6), (0, 9), (16, 0), (16, 65), (16, u64::MAX)] {
            assert_eq!(with(at, value), None, "{at} {value}");
        }
        let held = StartRequest { held: true, ..start() };
        assert_eq!(Request::decode(&Request::Start(held).encode()), None, "an interpreter cannot be held");
        let signal = Request::Signal { id: 1, program: 0, signal: 65 };
        assert_eq!(Request::decode(&signal.encode()), None, "no such signal");
    }

    #[test]
    fn steps_keep_their_numbers() {
        for step in Step::ALL {
            assert_eq!(Step::from_number(step as u32), Some(step));
        }
        assert_eq!(Step::from_number(0), None);
    }
}

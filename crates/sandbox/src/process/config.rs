//! What the spawner is told at start, and what it answers: which walls stand.
//!
//! The configuration is the first message on the spawner's socket, sent before the server has a thread or a listener.
//! It is the only message that the spawner trusts.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::contract::{Wall, WallState};
use crate::interpreter::Interpreter;

/// The walls of a process sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WallKind {
    /// Ids and capabilities inside mean nothing outside.
    UserNamespace,
    /// A root of its own: only what was mounted can be named.
    Mounts,
    /// Only the sandbox's own processes can be named.
    Processes,
    /// Only the sandbox's own loopback network exists.
    Network,
    /// Every connection arrives at the platform, not only those to known ports.
    Interception,
    /// System calls that reach outside do not exist.
    Seccomp,
    /// The kernel checks paths once more, behind the mounts.
    Landlock,
    /// Each sandbox has a user id of its own on the host.
    OwnUserId,
    /// Memory ends at the limit.
    Memory,
    /// Processes end at the limit.
    Tasks,
    /// Processor time is shared by weight.
    Cpu,
    /// `/tmp` ends at the limit.
    Tmp,
}

impl WallKind {
    /// Every wall.
    pub const ALL: [Self; 12] = [
        Self::UserNamespace,
        Self::Mounts,
        Self::Processes,
        Self::Network,
        Self::Interception,
        Self::Seccomp,
        Self::Landlock,
        Self::OwnUserId,
        Self::Memory,
        Self::Tasks,
        Self::Cpu,
        Self::Tmp,
    ];

    /// Its name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::UserNamespace => "user namespace",
            Self::Mounts => "own root",
            Self::Processes => "process namespace",
            Self::Network => "network namespace",
            Self::Interception => "network interception",
            Self::Seccomp => "system call filter",
            Self::Landlock => "Landlock",
            Self::OwnUserId => "own user id",
            Self::Memory => "memory limit",
            Self::Tasks => "process limit",
            Self::Cpu => "processor share",
            Self::Tmp => "size of /tmp",
        }
    }
}

/// How the spawner is set up.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SpawnerConfig {
    /// Folder whose folders are unpacked code, each named by its digest. May be 0700; folders below it must be
    /// readable by all.
    pub code_root: PathBuf,
    /// Folder that becomes `/var/runtime`. Its content must be readable by all.
    pub runtime_root: PathBuf,
    /// Folder on whose disk `/tmp` of sandboxes lies, where the host allows it; nothing is seen in it. None: in memory.
    pub tmp_root: Option<PathBuf>,
    /// Interpreters, in the order that `Guest::Interpreter` counts.
    pub interpreters: Vec<Interpreter>,
    /// Names this start of the platform; letters, digits and hyphens.
    pub boot_id: String,
    /// Certificates that guests trust, in PEM: mounted at the distribution's paths and at `TRUST_PATH`. Readable by all.
    pub trust_bundle: Option<PathBuf>,
    /// Folders that sandboxes may get, in the order that `SharedFiles` counts.
    pub shared: Vec<SharedFolder>,
    /// Whether processor time ends at the share of a sandbox's memory even where nobody else wants the rest. Without it,
    /// shares decide only between those who want more than there is.
    pub cpu_quota: bool,
    /// Walls that must stand hard, else the spawner refuses to start.
    pub require: Vec<WallKind>,
    /// Walls that are left out, for tests that show what each of them holds. `walls` calls them missing.
    pub off: Vec<WallKind>,
    /// The program that is the spawner, called as `PROGRAM __spawner`. None: this program.
    pub program: Option<PathBuf>,
}

/// A folder of the host that sandboxes may get.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedFolder {
    /// Where it is.
    pub folder: PathBuf,
    /// Whether nothing in it can be changed.
    pub read_only: bool,
}

impl SpawnerConfig {
    /// A configuration without interpreters, bundle or demands.
    pub fn new(code_root: PathBuf, runtime_root: PathBuf, boot_id: impl Into<String>) -> Self {
        Self {
            code_root,
            runtime_root,
            tmp_root: None,
            interpreters: Vec::new(),
            boot_id: boot_id.into(),
            trust_bundle: None,
            shared: Vec::new(),
            cpu_quota: false,
            require: Vec::new(),
            off: Vec::new(),
            program: None,
        }
    }
}

/// One wall as the spawner found it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct FoundWall {
    pub(crate) kind: WallKind,
    pub(crate) state: WallState,
    pub(crate) detail: String,
}

impl FoundWall {
    pub(crate) fn new(kind: WallKind, state: WallState, detail: impl Into<String>) -> Self {
        Self { kind, state, detail: detail.into() }
    }

    pub(crate) fn public(&self) -> Wall {
        Wall { name: self.kind.name(), state: self.state, detail: self.detail.clone() }
    }
}

/// The spawner's first message: ready, or why not.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) walls: Vec<FoundWall>,
    /// Whether sandboxes can be frozen.
    pub(crate) freezes: bool,
    pub(crate) error: Option<String>,
}

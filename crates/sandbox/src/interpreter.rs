//! Interpreters of the host that managed runtimes run on.
//!
//! An interpreter is known by its real binary and prefix, never by a shim or a link: version managers put scripts and
//! links on the `PATH`, and interpreters compute their libraries' place from the real path.
//!
//! Non-purpose: which runtime identifier gets which interpreter; the engine decides that.

use std::path::PathBuf;

use model::Family;

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

//! Isolation behind one trait: it starts guests, feeds them, measures them and ends them.
//!
//! Backends: `process` (namespaces, pivot_root, seccomp, Landlock, cgroups), `wasm` (WebAssembly, anew for every request). It
//! never knows what a request is for.
//!
//! Invariants
//!   1. All `unsafe` of the project is in this crate, each with its reason.
//!   2. Privileged work happens in the spawner process only; see `process`.
//!   3. When a sandbox has ended, nothing of it is left: no process, mount, cgroup or folder.

pub mod contract;
pub mod interpreter;
pub mod privilege;
pub mod process;
pub mod program;
pub mod wasm;

pub use contract::{
    Assignment, Backend, Beside, BesideSpec, CACHE_ROOT, CACHE_SUFFIX, COMMAND_VARIABLE, Control, Error, Exit, GUEST,
    Guest, GuestListeners, Held, Occupant, ROOT_FILES, ROOT_FOLDERS, ROOT_TRUST, SandboxSpec, SharedFiles, Started,
    TRUST_PLACES, Usage, Wall, WallState,
};
pub use interpreter::{Interpreter, Interpreters, Skipped};

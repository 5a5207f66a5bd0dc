//! Sandboxes made of processes: namespaces, an own root, seccomp, Landlock, cgroups.
//!
//! Two processes work together. The **server** asks and serves (`backend`); the **spawner** (`spawner`) is small and
//! single-threaded and does all that needs privilege. It is started before the server has a thread, and everything
//! that the server can ask of it is in `protocol`.
//!
//! | file        | is                                                                  |
//! |-------------|---------------------------------------------------------------------|
//! | `launch`    | starts the spawner                                                  |
//! | `backend`   | the server's side: `Backend` over the socket                        |
//! | `spawner`   | the loop of the spawner                                             |
//! | `nursery`   | a zygote, as the spawner sees it                                    |
//! | `make`      | one sandbox up to its open gate                                     |
//! | `child`     | its first process: root, network, walls, guest                      |
//! | `wrapper`   | what starts an interpreter in its place                             |
//! | `entry`     | the same walls for a guest that is forked from a zygote             |
//! | `assign`    | gives a sandbox that runs, or waits for a guest, its function       |
//! | `template`  | the root that all sandboxes are cloned from                         |
//! | `tmp`, `images` | the size and place of `/tmp`                                   |
//! | `netns`, `landlock`, `seccomp`, `cgroup`, `watch` | one wall each                  |
//! | `tend`      | reaps inside, and starts programs beside the guest                  |
//! | `probe`     | which walls stand on this host                                      |
//! | `procfs`    | reads `/proc`                                                       |
//! | `sys`       | system calls                                                        |
//!
//! Invariant: nothing survives the spawner, and the spawner does not survive the server.
#![allow(unsafe_code)]

mod assign;
mod backend;
mod cgroup;
mod child;
mod config;
mod entry;
mod files;
mod images;
mod landlock;
mod launch;
mod make;
mod masks;
mod netns;
mod nursery;
mod probe;
mod procfs;
mod protocol;
mod seccomp;
mod spawner;
pub(crate) mod sys;
mod template;
mod tend;
mod tmp;
mod watch;
mod wrapper;

pub use backend::ProcessBackend;
pub use config::{SharedFolder, SpawnerConfig, WallKind};
pub use launch::{LaunchError, SpawnerHandle, launch_spawner};
pub use spawner::spawner_main;
pub use template::TRUST_PATH;

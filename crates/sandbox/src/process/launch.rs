//! Starts the spawner: a second process of this program, with one end of a socket as its standard input.
//!
//! Must happen before the server has a thread, a listener or a secret in memory: the spawner is started by exec, so that
//! it inherits nothing but that socket and the error stream.
//!
//! Start reading at `launch_spawner`.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::config::{FoundWall, Report, SpawnerConfig};
use super::protocol;
use super::spawner::CONFIG_BYTES_MAX;
use crate::contract::Wall;

/// How long a spawner may take to say whether it is ready.
const READY_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a spawner may take to end.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// Why there is no spawner.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// It could not be started or spoken to.
    #[error("the spawner cannot be started: {0}")]
    Start(#[from] io::Error),
    /// It refused, in words for the operator.
    #[error("{0}")]
    Refused(String),
}

/// A running spawner. Dropping it ends the spawner with all sandboxes, and waits for that.
pub struct SpawnerHandle {
    pub(crate) socket: OwnedFd,
    pub(crate) walls: Vec<FoundWall>,
    pub(crate) freezes: bool,
    /// Of the interpreters, for messages.
    pub(crate) binaries: Vec<PathBuf>,
    child: Child,
}

impl SpawnerHandle {
    /// Which walls stand on this host.
    pub fn walls(&self) -> Vec<Wall> {
        self.walls.iter().map(FoundWall::public).collect()
    }

    /// Whether sandboxes can be frozen on this host.
    pub fn freezes(&self) -> bool {
        self.freezes
    }

    /// The spawner's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl fmt::Debug for SpawnerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpawnerHandle").field("pid", &self.child.id()).finish_non_exhaustive()
    }
}

impl Drop for SpawnerHandle {
    fn drop(&mut self) {
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
        let end = Instant::now() + END_TIMEOUT;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > end {
                // Its sandboxes die with it.
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Starts the spawner and waits until it is ready. Call before any thread exists and before privileges are dropped.
///
/// # Errors
/// `Refused` says what the host lacks and what to do; also when a required wall does not stand.
pub fn launch_spawner(config: &SpawnerConfig) -> Result<SpawnerHandle, LaunchError> {
    let (socket, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(io::Error::from)?;
    let program = config.program.clone().unwrap_or_else(|| "/proc/self/exe".into());
    // Sandboxes begin as copies of the spawner: whatever the server's environment holds must not be in it.
    let child =
        Command::new(program).arg("__spawner").env_clear().stdin(Stdio::from(theirs)).stdout(Stdio::null()).spawn()?;
    let binaries = config.interpreters.iter().map(|interpreter| interpreter.binary.clone()).collect();
    let mut handle = SpawnerHandle { socket, walls: Vec::new(), freezes: false, binaries, child };
    let message = serde_json::to_vec(config).map_err(io::Error::from)?;
    protocol::send(&handle.socket, &message, &[])?;
    let timeout = rustix::net::sockopt::Timeout::Recv;
    rustix::net::sockopt::set_socket_timeout(&handle.socket, timeout, Some(READY_TIMEOUT)).map_err(io::Error::from)?;
    let mut buffer = vec![0; CONFIG_BYTES_MAX];
    let (length, _) = protocol::receive(&handle.socket, &mut buffer)?;
    rustix::net::sockopt::set_socket_timeout(&handle.socket, timeout, None).map_err(io::Error::from)?;
    if length == 0 {
        return Err(LaunchError::Refused("the spawner ended before it was ready".to_owned()));
    }
    let report: Report = serde_json::from_slice(&buffer[..length]).map_err(io::Error::from)?;
    match report.error {
        Some(error) => Err(LaunchError::Refused(error)),
        None => {
            handle.walls = report.walls;
            handle.freezes = report.freezes;
            Ok(handle)
        }
    }
}

//! Reads `/proc` by the descriptor of one: the caller's own may be hidden behind a root of its own.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};

/// More than any file that is read here holds; a longer one is cut.
const FILE_BYTES: usize = 16 * 1024;

/// The beginning of a file below `/proc`.
pub(crate) fn read(proc: &OwnedFd, path: &str) -> io::Result<String> {
    let file = rustix::fs::openat(proc, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut text = [0u8; FILE_BYTES];
    let length = rustix::io::read(&file, &mut text)?;
    Ok(String::from_utf8_lossy(&text[..length]).into_owned())
}

/// The children of a process with one thread; none if it is gone.
pub(crate) fn children(proc: &OwnedFd, pid: i32) -> Vec<i32> {
    let text = read(proc, &format!("{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

/// The highest number of a capability that the kernel knows.
pub(crate) fn last_capability(proc: &OwnedFd) -> io::Result<i64> {
    let text = read(proc, "sys/kernel/cap_last_cap")?;
    text.trim().parse().map_err(|_| io::ErrorKind::InvalidData.into())
}

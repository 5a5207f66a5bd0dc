//! Measures a sandbox by `/proc`, where no cgroup counts for it.
//!
//! The processes of a sandbox are the descendants of its first process: an orphan's new parent is that process too.
//! Memory is resident memory; shared pages are counted once for each process, so before anything is killed the exact
//! share (PSS) is asked for, where the kernel lets the spawner see it.
//!
//! Invariant: what cannot be read counts as gone; nothing here fails.

use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};

use super::cgroup::Counts;
use super::sys;

/// What was seen of one sandbox so far.
#[derive(Debug, Default)]
pub(crate) struct Watched {
    peak_bytes: u64,
    cpu_ns: u64,
    out_of_memory: bool,
}

impl Watched {
    /// Measures now. Answers the bytes that count against the limit.
    pub(crate) fn look(&mut self, proc: &OwnedFd, first: i32) -> u64 {
        let seen = measure(proc, first);
        self.peak_bytes = self.peak_bytes.max(seen.memory_bytes);
        self.cpu_ns = self.cpu_ns.max(seen.cpu_ns);
        seen.memory_bytes
    }

    /// The limit has ended it.
    pub(crate) fn over_limit(&mut self) {
        self.out_of_memory = true;
    }

    pub(crate) fn counts(&self) -> Counts {
        Counts { cpu_ns: self.cpu_ns, peak_bytes: self.peak_bytes, out_of_memory: self.out_of_memory }
    }
}

/// One measurement of a whole sandbox.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) memory_bytes: u64,
    pub(crate) cpu_ns: u64,
    pub(crate) tasks: u32,
}

/// Most processes that are followed: more than a sandbox may have.
const PROCESSES_MAX: usize = 4096;

/// Measures the descendants of `first`, which itself is the platform's.
pub(crate) fn measure(proc: &OwnedFd, first: i32) -> Seen {
    let mut seen = Seen::default();
    let mut pids = children(proc, first);
    while let Some(pid) = pids.pop() {
        let Some(stat) = read(proc, &format!("{pid}/stat")) else { continue };
        seen.add(&stat);
        if pids.len() < PROCESSES_MAX {
            pids.extend(children(proc, pid));
        }
    }
    if let Some(own) = read(proc, &format!("{first}/stat")) {
        seen.add_reaped(&own);
    }
    seen
}

impl Seen {
    /// Adds one process by its `stat` line: proc(5), fields 14 to 17 (times), 20 (threads) and 24 (resident pages).
    fn add(&mut self, stat: &str) {
        let field = |number: usize| field(stat, number);
        self.cpu_ns += (14..=17).map(field).sum::<u64>() * ns_per_tick();
        self.tasks += field(20) as u32;
        self.memory_bytes += field(24) * sys::system_value(libc::_SC_PAGESIZE);
    }

    /// Adds the times of processes that the first process has reaped.
    fn add_reaped(&mut self, stat: &str) {
        self.cpu_ns += (field(stat, 16) + field(stat, 17)) * ns_per_tick();
    }
}

fn field(stat: &str, number: usize) -> u64 {
    // The second field is a name in brackets, which may hold anything.
    let rest = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    rest.split(' ').nth(number - 3).and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn ns_per_tick() -> u64 {
    1_000_000_000 / sys::system_value(libc::_SC_CLK_TCK)
}

fn children(proc: &OwnedFd, pid: i32) -> Vec<i32> {
    read(proc, &format!("{pid}/task/{pid}/children"))
        .map(|text| text.split_whitespace().filter_map(|word| word.parse().ok()).collect())
        .unwrap_or_default()
}

fn read(proc: &OwnedFd, path: &str) -> Option<String> {
    let file = rustix::fs::openat(proc, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let mut buffer = [0u8; 8192];
    let length = rustix::io::read(&file, &mut buffer).ok()?;
    Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

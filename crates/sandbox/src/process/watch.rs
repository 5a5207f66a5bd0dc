//! Watches a sandbox's memory where no cgroup alone can hold it to its limit.
//!
//! Where no cgroup counts, it is measured by `/proc`. Where one counts and `/tmp` is memory too, the group holds both
//! together hard, and the memory without `/tmp` is held to its limit here.
//!
//! The processes of a sandbox are the descendants of its first process: an orphan's new parent is that process too.
//! Memory is resident memory, in which shared pages count once for each process; before anything is killed, the exact
//! share (PSS) is asked for, where the kernel lets the spawner see it.
//!
//! Invariant: what cannot be read counts as gone; nothing here fails.

use std::os::fd::OwnedFd;

use super::cgroup::Counts;
use super::{procfs, sys};

/// What was seen of one sandbox so far.
#[derive(Debug, Default)]
pub(crate) struct Watched {
    peak_bytes: u64,
    cpu_ns: u64,
    out_of_memory: bool,
}

impl Watched {
    /// Measures now. True when the sandbox is above its limit, which is then its end.
    pub(crate) fn look(&mut self, proc: &OwnedFd, first: i32, limit_bytes: u64) -> bool {
        let pids = descendants(proc, first);
        let seen = measure_all(proc, first, &pids);
        self.peak_bytes = self.peak_bytes.max(seen.memory_bytes);
        self.cpu_ns = self.cpu_ns.max(seen.cpu_ns);
        if seen.memory_bytes > limit_bytes {
            let exact: Option<u64> = pids.iter().map(|pid| proportional_bytes(proc, *pid)).sum();
            self.out_of_memory = exact.is_none_or(|exact| exact > limit_bytes);
        }
        self.out_of_memory
    }

    /// The same for a sandbox whose group counts its `/tmp` as well. `group_bytes` is what the group holds; only where
    /// that is above the limit are its parts asked for.
    pub(crate) fn look_at_group(
        &mut self,
        group_bytes: u64,
        limit_bytes: u64,
        shares: impl FnOnce() -> Shares,
        mut tmp: impl FnMut() -> u64,
    ) -> bool {
        if group_bytes > limit_bytes {
            // What is written to `/tmp` or removed from it between two readings must not look like memory.
            let before = tmp();
            let shares = shares();
            let in_tmp = before.max(tmp());
            self.out_of_memory = shares.anonymous + shares.shared.saturating_sub(in_tmp) > limit_bytes;
        }
        self.out_of_memory
    }

    pub(crate) fn counts(&self) -> Counts {
        Counts { cpu_ns: self.cpu_ns, peak_bytes: self.peak_bytes, out_of_memory: self.out_of_memory }
    }
}

/// What a group holds that the kernel cannot let go of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Shares {
    /// Memory of processes.
    pub(crate) anonymous: u64,
    /// Files in memory: what lies in `/tmp`, and memory that processes share.
    pub(crate) shared: u64,
}

/// One measurement of a whole sandbox.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) memory_bytes: u64,
    /// The sum of each living process's peak: at least the true one of processes that overlap.
    pub(crate) peak_bytes: u64,
    pub(crate) cpu_ns: u64,
    pub(crate) tasks: u32,
}

/// Most processes that are followed: more than a sandbox may have.
const PROCESSES_MAX: usize = 4096;

/// Measures the descendants of `first`, which itself is the platform's.
pub(crate) fn measure(proc: &OwnedFd, first: i32) -> Seen {
    let pids = descendants(proc, first);
    let mut seen = measure_all(proc, first, &pids);
    for pid in pids {
        let status = procfs::read(proc, &format!("{pid}/status")).unwrap_or_default();
        seen.peak_bytes += kilobytes(&status, "VmHWM:").unwrap_or(0);
    }
    seen
}

fn measure_all(proc: &OwnedFd, first: i32, pids: &[i32]) -> Seen {
    let mut seen = Seen::default();
    for pid in pids {
        if let Ok(stat) = procfs::read(proc, &format!("{pid}/stat")) {
            seen.add(&stat, sys::process_cpu_ns(*pid));
        }
    }
    if let Ok(own) = procfs::read(proc, &format!("{first}/stat")) {
        seen.cpu_ns += reaped_ns(&own);
    }
    seen
}

fn descendants(proc: &OwnedFd, first: i32) -> Vec<i32> {
    let mut pids = procfs::children(proc, first);
    let mut next = 0;
    while next < pids.len() && pids.len() < PROCESSES_MAX {
        pids.extend(procfs::children(proc, pids[next]));
        next += 1;
    }
    pids
}

impl Seen {
    /// Adds one process by its `stat` line: proc(5), fields 14 and 15 (times), 20 (threads) and 24 (resident pages).
    /// The clock's time is finer than the line's.
    fn add(&mut self, stat: &str, clock_ns: Option<u64>) {
        let ticks = field(stat, 14) + field(stat, 15);
        self.cpu_ns += clock_ns.unwrap_or(ticks * ns_per_tick()) + reaped_ns(stat);
        self.tasks += field(stat, 20) as u32;
        self.memory_bytes += field(stat, 24) * sys::system_value(libc::_SC_PAGESIZE);
    }
}

/// Processor time of the children that a process has reaped: fields 16 and 17.
fn reaped_ns(stat: &str) -> u64 {
    (field(stat, 16) + field(stat, 17)) * ns_per_tick()
}

fn field(stat: &str, number: usize) -> u64 {
    // The second field is a name in brackets, which may hold anything.
    let rest = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    rest.split(' ').nth(number - 3).and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn ns_per_tick() -> u64 {
    1_000_000_000 / sys::system_value(libc::_SC_CLK_TCK)
}

fn proportional_bytes(proc: &OwnedFd, pid: i32) -> Option<u64> {
    kilobytes(&procfs::read(proc, &format!("{pid}/smaps_rollup")).ok()?, "Pss:")
}

/// The bytes of a line `key 123 kB`.
fn kilobytes(text: &str, key: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(key))?;
    value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_shift_the_fields() {
        let numbers: Vec<String> = (4..=30).map(|number| number.to_string()).collect();
        let stat = format!("7 (a) b (c) S {}", numbers.join(" "));
        assert_eq!((field(&stat, 14), field(&stat, 20), field(&stat, 24)), (14, 20, 24));
        assert_eq!(field("", 14), 0);
    }

    #[test]
    fn what_lies_in_tmp_is_not_the_functions_memory() {
        let over = |anonymous, shared, tmp| {
            let group = anonymous + shared + 50;
            Watched::default().look_at_group(group, 100, || Shares { anonymous, shared }, || tmp)
        };
        assert!(!over(100, 0, 0), "what is neither is the kernel's");
        assert!(over(101, 0, 0));
        assert!(!over(100, 500, 500), "the rest is /tmp");
        assert!(over(100, 501, 500), "memory in a file elsewhere");
        let never = || unreachable!("nothing is asked for below the limit");
        assert!(!Watched::default().look_at_group(50, 100, never, || 0));
        let shares = || Shares { anonymous: 10, shared: 500 };
        let (mut emptied, mut filled) = ([500, 0].into_iter(), [0, 500].into_iter());
        assert!(!Watched::default().look_at_group(510, 100, shares, || emptied.next().unwrap()), "removed meanwhile");
        assert!(!Watched::default().look_at_group(510, 100, shares, || filled.next().unwrap()), "written meanwhile");
    }

    #[test]
    fn this_process_is_measured() {
        let proc = std::fs::File::open("/proc").unwrap().into();
        let mut seen = Seen::default();
        let pid = std::process::id() as i32;
        seen.add(&procfs::read(&proc, "self/stat").unwrap(), sys::process_cpu_ns(pid));
        assert!(seen.cpu_ns > 0 && seen.memory_bytes > 1 << 20 && seen.tasks >= 1, "{seen:?}");
        assert!(proportional_bytes(&proc, pid).unwrap() > 0);
    }
}

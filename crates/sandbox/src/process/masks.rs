//! What `/proc` tells of the host and nobody in a sandbox needs: hidden behind an empty file or folder each.
//!
//! A mount of its own hides each, which takes every start of a sandbox a hundredth of a millisecond: so few are hidden, and of these what the
//! host has and guests could read, which is looked up once.
//!
//! Not hidden, although it is the host's: what runtimes cannot do without (`cpuinfo`, `meminfo`, `stat`, `uptime`, `loadavg`, `vmstat`;
//! Node.js aborts on an empty `stat`), what a system call tells as well (`version`), and what belongs to processes, where nothing can be
//! hidden before there is the process: `mountinfo` has the paths that are mounted. Runs between clone and exec: nothing but `Masks::of_host` allocates.

use std::ffi::{CStr, c_ulong};
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};

use super::sys::{self, Call};

/// Below the working folder, which is the new root.
const MASKED: [&CStr; 18] = [
    // What the host does, and on which hardware.
    c"proc/interrupts",
    c"proc/softirqs",
    c"proc/irq",
    c"proc/diskstats",
    c"proc/partitions",
    c"proc/scsi",
    c"proc/acpi",
    c"proc/asound",
    c"proc/latency_stats",
    c"proc/sched_debug",
    c"proc/timer_list",
    c"proc/timer_stats",
    // Its kernel: how it was built and started, what is in it.
    c"proc/kallsyms",
    c"proc/modules",
    c"proc/config.gz",
    c"proc/cmdline",
    // Who else is there.
    c"proc/keys",
    // By which functions of one host know each other.
    c"proc/sys/kernel/random/boot_id",
];
const NO_FILE: &CStr = c"/template/dev/null";
const NO_FOLDER: &CStr = c"/template/run";

/// Which of them this host has.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Masks {
    files: u32,
    folders: u32,
}

impl Masks {
    /// Looks at the host's `/proc`.
    pub(crate) fn of_host(proc: &OwnedFd) -> Self {
        let mut masks = Self::default();
        for (index, path) in MASKED.iter().enumerate() {
            let name = &path.to_bytes_with_nul()[b"proc/".len()..];
            let name = CStr::from_bytes_with_nul(name).unwrap_or(path);
            let Ok(about) = rustix::fs::statat(proc, name, AtFlags::empty()) else { continue };
            // Guests have no id to whom the host's root would be known.
            if !Mode::from_raw_mode(about.st_mode).contains(Mode::ROTH) {
                continue;
            }
            if !FileType::from_raw_mode(about.st_mode).is_dir() {
                masks.files |= 1 << index;
            } else if has_entries(proc, name) {
                masks.folders |= 1 << index;
            }
        }
        masks
    }

    /// Hides them in the fresh `/proc` of a sandbox whose root is the working folder, while the stage is the caller's root.
    pub(crate) fn put(self) -> Call<()> {
        const BIND: c_ulong = libc::MS_BIND;
        for (index, path) in MASKED.iter().enumerate() {
            let bit = 1 << index;
            if self.files & bit != 0 {
                sys::mount(NO_FILE, path, c"", BIND, c"")?;
            } else if self.folders & bit != 0 {
                sys::mount(NO_FOLDER, path, c"", BIND, c"")?;
            }
        }
        Ok(())
    }
}

fn has_entries(proc: &OwnedFd, name: &CStr) -> bool {
    let folder = rustix::fs::openat(proc, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    folder
        .and_then(Dir::read_from)
        .is_ok_and(|entries| entries.flatten().any(|entry| !matches!(entry.file_name().to_bytes(), b"." | b"..")))
}

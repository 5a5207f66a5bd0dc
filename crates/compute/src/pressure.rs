//! How much memory the host has left, so that environments end before the host's own killer chooses.
//!
//! Configured sizes are limits, not what functions use: a host carries far more of them than its memory. What is
//! really left is therefore asked before every start and once in a while.

use std::fs::File;
use std::io::Read;

/// What of the kernel's table is read, in one call, as it is read before every start: it begins with the memory's sums.
const TABLE_BYTES: usize = 512;

/// Memory that can be had without swapping, MiB, as the kernel estimates it; nothing where it does not tell.
pub(crate) fn host_available_mb() -> Option<u64> {
    table_field_mb("MemAvailable:")
}

/// A sixteenth of the host's memory, at least 128 MiB; zero where the host does not tell.
pub(crate) fn default_low_mb() -> u64 {
    table_field_mb("MemTotal:").map_or(0, |total| (total / 16).max(128))
}

fn table_field_mb(name: &str) -> Option<u64> {
    let mut table = [0; TABLE_BYTES];
    let length = File::open("/proc/meminfo").ok()?.read(&mut table).ok()?;
    field_mb(&String::from_utf8_lossy(&table[..length]), name)
}

fn field_mb(meminfo: &str, name: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes / 1_024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_table_is_read() {
        let table = "MemTotal:        8000000 kB\nMemFree:  100 kB\nMemAvailable:    2048000 kB\n";
        assert_eq!(field_mb(table, "MemAvailable:"), Some(2_000));
        assert_eq!(field_mb(table, "SwapTotal:"), None);
        assert!(host_available_mb().is_some_and(|available| available > 0));
        assert!(default_low_mb() >= 128);
    }
}

//! How much memory the host has left, so that environments end before the host's own killer chooses.
//!
//! Configured sizes are limits, not what functions use: a host carries far more of them than its memory. What is
//! really left is therefore asked before every start and once in a while. To read the kernel's table takes a good part of
//! a quick start, so first it is asked what is free, which is never more than what is left.

use std::fs::File;
use std::io::Read;

/// What of the kernel's table is read, in one call, as it is read before every start: it begins with the memory's sums.
const TABLE_BYTES: usize = 512;

/// Memory that can be had without swapping, MiB, as the kernel estimates it, or less if that is `enough_mb` already;
/// nothing where it does not tell.
pub(crate) fn host_available_mb(enough_mb: u64) -> Option<u64> {
    let free_mb = free_mb();
    if free_mb >= enough_mb { Some(free_mb) } else { table_field_mb("MemAvailable:") }
}

/// Memory that nobody uses for anything, MiB.
fn free_mb() -> u64 {
    let told = rustix::system::sysinfo();
    u64::try_from(u128::from(told.freeram) * u128::from(told.mem_unit) / (1 << 20)).unwrap_or(0)
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
        let available = table_field_mb("MemAvailable:").unwrap();
        // Memory comes and goes with whatever else runs here.
        let left = host_available_mb(u64::MAX).unwrap();
        assert!(left.abs_diff(available) < 2_000, "{left} where the table says {available}");
        assert!((1..=left + 2_000).contains(&host_available_mb(0).unwrap()));
        assert!(default_low_mb() >= 128);
    }
}

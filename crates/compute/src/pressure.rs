//! How much memory the host has left, so that environments end before the host's own killer chooses.
//!
//! Configured sizes are limits, not what functions use: a host carries far more of them than its memory. What is
//! really left is therefore asked before every start and once in a while. To read the kernel's table of memory takes a good
//! part of a quick start: it goes through all block devices of the host, as `sysinfo` does, 0.3 ms where there are a
//! thousand. So its counters of pages are read first, of which less than what is left can be told.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::sync::LazyLock;

/// What of the kernel's table is read, in one call: it begins with the memory's sums.
const TABLE_BYTES: usize = 512;
/// What of its counters is read: it begins with those that are needed.
const COUNTERS_BYTES: usize = 1_024;

/// Memory that can be had without swapping, MiB, as the kernel estimates it, or less if that is `enough_mb` already;
/// nothing where it does not tell.
pub(crate) fn host_available_mb(enough_mb: u64) -> Option<u64> {
    let least_mb = counters().map_or(0, |counters| least_mb(&counters, rustix::param::page_size() as u64));
    if least_mb >= enough_mb { Some(least_mb) } else { table_field_mb("MemAvailable:") }
}

/// The beginning of the kernel's counters.
fn counters() -> Option<String> {
    static FILE: LazyLock<Option<File>> = LazyLock::new(|| File::open("/proc/vmstat").ok());
    let mut counters = [0; COUNTERS_BYTES];
    let length = FILE.as_ref()?.read_at(&mut counters, 0).ok()?;
    Some(String::from_utf8_lossy(&counters[..length]).into_owned())
}

/// What is free, and half of what can be made so: the kernel counts more than half of that as available.
fn least_mb(counters: &str, page_bytes: u64) -> u64 {
    let pages = |name: &str| -> u64 {
        let line = counters.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|count| count.parse().ok()).unwrap_or(0)
    };
    let can_be_freed = pages("nr_inactive_file") + pages("nr_active_file") + pages("nr_slab_reclaimable");
    (pages("nr_free_pages") + can_be_freed / 2).saturating_mul(page_bytes) / (1 << 20)
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
        let counters = counters().unwrap();
        let least = least_mb(&counters, rustix::param::page_size() as u64);
        assert!((1..=left + 2_000).contains(&least), "{least} of {left}: {counters}");
        assert!(default_low_mb() >= 128);
    }

    #[test]
    fn half_of_what_can_be_freed_is_left() {
        let counters = "nr_free_pages 1024\nnr_free_pages_blocks 7\nnr_zone_active_file 9\nnr_inactive_file 512\n\
                        nr_active_file 256\nnr_slab_reclaimable 256\nnr_active_file_cu";
        assert_eq!(least_mb(counters, 4_096), 4 + 2);
        assert_eq!(least_mb("", 4_096), 0);
    }
}

//! Whether the processors of the host are busy, whoever keeps them so.
//!
//! What runs here is predicted, but other programs are not, nor what the platform itself does for its calls. So the kernel is
//! asked how long processors had nothing to do: while calls come and end, and no oftener than `LOOK_US`.
//!
//! Invariants
//!   1. Nothing is said of a time that was not looked at: after a pause it takes `LOOK_US` until something is known.
//!   2. Where the kernel does not tell, or tells of more processors than functions may use, they count as free as long as
//!      any of them is.

use std::fs::File;
use std::io::Read;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::config::EngineConfig;

/// Time between two looks. The kernel counts in steps of 10 ms, over all processors.
const LOOK_US: u64 = 50_000;
/// The time that a look is compared with begins one look before the last one, and no earlier than this.
const SPAN_US_MAX: u64 = 4 * LOOK_US;
/// Shares of the processors' time, in thousandths, that are idle at most where they become busy, and where they stay so.
const BUSY_BELOW: u64 = 100;
const BUSY_STILL: u64 = 250;
/// What of the kernel's table is read: its first line is the sum of all processors.
const LINE_BYTES: usize = 256;

/// What is known of the host's processors.
pub(crate) struct Processors {
    idle_us: fn() -> Option<u64>,
    cores: u64,
    /// Monotonic microseconds.
    look_at_us: AtomicU64,
    looks: Mutex<Looks>,
    busy: AtomicBool,
}

/// When it was looked, and how long processors had been idle until then.
#[derive(Debug, Clone, Copy)]
struct Look {
    at_us: u64,
    idle_us: u64,
}

/// The last two looks, the older one first.
#[derive(Debug, Clone, Copy, Default)]
struct Looks([Option<Look>; 2]);

impl Processors {
    /// Nothing known yet.
    pub(crate) fn new(config: &EngineConfig) -> Self {
        Self {
            idle_us: config.processors_idle_us,
            cores: config.cores.max(1) as u64,
            look_at_us: AtomicU64::new(0),
            looks: Mutex::default(),
            busy: AtomicBool::new(false),
        }
    }

    /// Looks, if it is time to: where a call comes or ends.
    pub(crate) fn look(&self, now_us: u64) {
        if now_us < self.look_at_us.load(Ordering::Relaxed) {
            return;
        }
        // Who finds somebody else looking need not wait.
        let Some(mut looks) = self.looks.try_lock() else { return };
        let Some(idle_us) = (self.idle_us)() else {
            return self.look_at_us.store(u64::MAX, Ordering::Relaxed);
        };
        let was_busy = self.busy.load(Ordering::Relaxed);
        self.busy.store(looks.add(Look { at_us: now_us, idle_us }, self.cores, was_busy), Ordering::Relaxed);
        self.look_at_us.store(now_us.saturating_add(LOOK_US), Ordering::Relaxed);
    }

    /// Whether they were busy of late.
    pub(crate) fn are_busy(&self) -> bool {
        self.busy.load(Ordering::Relaxed)
    }
}

impl Looks {
    /// Adds a look; whether so many processors are busy since the one before the last.
    fn add(&mut self, look: Look, cores: u64, was_busy: bool) -> bool {
        let since = |past: &Look| look.at_us.saturating_sub(past.at_us);
        let fresh = self.0.into_iter().flatten().find(|past| (1..=SPAN_US_MAX).contains(&since(past)));
        self.0 = [self.0[1], Some(look)];
        let Some(past) = fresh else { return false };
        let idle_us = look.idle_us.saturating_sub(past.idle_us);
        let share = idle_us.saturating_mul(1_000) / since(&past).saturating_mul(cores);
        share <= if was_busy { BUSY_STILL } else { BUSY_BELOW }
    }
}

/// How long the host's processors were idle since it began, all together, in microseconds; nothing where the kernel does not
/// tell. Who waits for a disk is idle.
pub(crate) fn host_idle_us() -> Option<u64> {
    let mut line = [0; LINE_BYTES];
    let length = File::open("/proc/stat").ok()?.read(&mut line).ok()?;
    idle_ticks(&String::from_utf8_lossy(&line[..length])).map(|ticks| ticks.saturating_mul(tick_us()))
}

/// `user nice system idle iowait …`, as the kernel says it to programs of every architecture.
fn idle_ticks(table: &str) -> Option<u64> {
    let mut fields = table.lines().next()?.strip_prefix("cpu ")?.split_ascii_whitespace().skip(3);
    let mut next = || fields.next()?.parse::<u64>().ok();
    Some(next()?.saturating_add(next()?))
}

fn tick_us() -> u64 {
    1_000_000 / rustix::param::clock_ticks_per_second().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What is said after each look at these times, of two processors that had so long nothing to do.
    fn said(seen: &[(u64, u64)]) -> Vec<bool> {
        let (mut looks, mut busy) = (Looks::default(), false);
        seen.iter()
            .map(|(at_ms, idle_ms)| {
                busy = looks.add(Look { at_us: at_ms * 1_000, idle_us: idle_ms * 1_000 }, 2, busy);
                busy
            })
            .collect()
    }

    #[test]
    fn busy_is_what_leaves_a_tenth_and_stays_busy_to_a_quarter() {
        assert_eq!(said(&[(0, 500), (50, 510), (100, 520)]), [false, true, true]);
        assert_eq!(said(&[(0, 500), (50, 520), (100, 540)]), [false, false, false]);
        assert_eq!(said(&[(0, 500), (50, 500), (100, 520), (150, 550), (200, 580)]), [false, true, true, true, false]);
    }

    #[test]
    fn nothing_is_said_of_a_pause() {
        assert_eq!(said(&[(0, 0), (50, 0), (5_000, 0), (5_050, 0)]), [false, true, false, true]);
    }

    #[test]
    fn idle_processors_beyond_those_of_functions_are_no_surprise() {
        assert_eq!(said(&[(0, 0), (50, 400), (100, 800)]), [false, false, false]);
    }

    #[test]
    fn the_kernels_line_is_read() {
        assert_eq!(idle_ticks("cpu  10 20 30 400 50 0 7 8 0 0\ncpu0 1 2 3 4 5 0 0 0 0 0\n"), Some(450));
        assert_eq!(idle_ticks("cpu  10 20 30 400"), None);
        assert_eq!(idle_ticks("intr 1 2 3"), None);
        let before = host_idle_us().unwrap();
        assert!(host_idle_us().unwrap() >= before);
    }

    proptest! {
        #[test]
        fn any_times_are_borne(seen in proptest::collection::vec((any::<u64>(), any::<u64>()), 0..20), cores in 1u64..99) {
            let (mut looks, mut busy) = (Looks::default(), false);
            for (at_us, idle_us) in seen {
                busy = looks.add(Look { at_us, idle_us }, cores, busy);
            }
        }
    }
}

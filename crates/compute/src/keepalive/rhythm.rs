//! Whether a function is called in equal intervals, and when the next call is then due.
//!
//! Minutes are too coarse for a timer: an environment that is started a moment before the call and ends after it
//! costs nothing in between. Intervals are measured from call to call, so that a call's own length does not blur them.

const SECOND: u64 = 1_000_000;
/// Intervals that must agree.
const AGREE: usize = 3;
/// Shorter intervals are left to the histogram.
const SHORTEST_US: u64 = 10 * SECOND;

/// The last intervals between calls of a function.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rhythm {
    last_us: Option<u64>,
    intervals: [u64; AGREE],
}

/// When a call is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Due {
    /// Its most likely time.
    pub(crate) at_us: u64,
    /// How far from that it may be.
    pub(crate) spread_us: u64,
    /// The interval.
    pub(crate) period_us: u64,
}

impl Rhythm {
    /// Counts a call in that found none running.
    pub(crate) fn called(&mut self, now_us: u64) {
        if let Some(last_us) = self.last_us {
            self.intervals.rotate_left(1);
            self.intervals[AGREE - 1] = now_us.saturating_sub(last_us);
        }
        self.last_us = Some(now_us);
    }

    /// The next call, if the last ones came regularly.
    pub(crate) fn due(&self) -> Option<Due> {
        let low = self.intervals.into_iter().min()?;
        let high = self.intervals.into_iter().max()?;
        let spread_us = high - low;
        let steady = low >= SHORTEST_US && spread_us <= (low / 100).clamp(SECOND / 5, 30 * SECOND);
        // The slowest of the clocks that this may hang on ticks in tenths.
        let due =
            |last_us| Due { at_us: last_us + low + spread_us / 2, spread_us: spread_us + SECOND / 10, period_us: low };
        self.last_us.filter(|_| steady).map(due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(calls: &[u64]) -> Option<Due> {
        let mut rhythm = Rhythm::default();
        calls.iter().for_each(|call| rhythm.called(call * SECOND));
        rhythm.due()
    }

    #[test]
    fn equal_intervals_are_a_rhythm() {
        assert_eq!(after(&[5, 65, 125]), None, "two intervals are too few");
        let due = after(&[5, 65, 125, 185]).unwrap();
        assert_eq!((due.at_us, due.period_us), (245 * SECOND, 60 * SECOND));
        assert_eq!(after(&[0, 3_600, 7_201, 10_800]).unwrap().at_us / SECOND, 14_400);
    }

    #[test]
    fn others_are_none() {
        assert_eq!(after(&[0, 60, 121, 180]), None);
        assert_eq!(after(&[0, 2, 4, 6]), None, "too quick to be worth it");
        assert_eq!(after(&[0, 60, 120, 180, 300]), None, "one that stayed out breaks it");
        assert_eq!(after(&[0, 60, 120, 180, 300, 360, 420, 480]).unwrap().at_us, 540 * SECOND);
    }
}

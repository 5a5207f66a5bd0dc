//! How often a function is called now, and how many of its calls will run at once.
//!
//! Calls that come independently, at a rate and for a mean time each, run in a number that is Poisson distributed. One
//! more environment is worth its memory while the calls that would find all others taken are worth more than its idle
//! time. The rate is that of as many calls as are remembered, as far as the last ones do not tell of a change: it
//! follows the first calls of a burst, and its end, without trembling in between.
//!
//! Invariants
//!   1. What is remembered has the same size however many calls were counted.
//!   2. Without further calls the rate only falls.

/// Entries of each ring.
const SLOTS: usize = 16;
/// Rings: of every call, every fourth, every sixteenth, every sixty-fourth.
const RINGS: usize = 4;
/// Windows by ring and entries, from the longest to the shortest, and by how much a window's rate may lie from the one
/// before without telling of a change. Chance alone brings the last ones that far less than once in a hundred calls.
const WINDOWS: [(usize, u64, f64); 5] = [(3, 16, 1.0), (2, 16, 1.25), (1, 16, 1.5), (0, 16, 2.2), (0, 4, 8.0)];
/// Lengths that the mean is taken from.
const LENGTHS: f64 = 128.0;
/// From so many running calls on, the normal distribution stands for Poisson's.
const MANY: f64 = 12.0;
/// Calls cannot be told apart more closely, in microseconds.
const CLOSEST_US: u64 = 1_000;

/// The last calls of a function.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rate {
    rings: [[u64; SLOTS]; RINGS],
    calls: u64,
    length_us: f64,
    lengths: f64,
    /// Whether all lengths so far are of first calls.
    first_only: bool,
}

impl Rate {
    /// Counts a call in.
    pub(crate) fn began(&mut self, now_us: u64) {
        for (at, ring) in self.rings.iter_mut().enumerate() {
            let (entry, rest) = (self.calls >> (2 * at), self.calls & ((1 << (2 * at)) - 1));
            if rest == 0 {
                ring[entry as usize % SLOTS] = now_us;
            }
        }
        self.calls += 1;
    }

    /// Learns the length of a call; `first`: in its environment. Such a call does what later ones find done, and counts
    /// only while there are no others: a few of them among quick ones would tell of many that run at once.
    pub(crate) fn ended(&mut self, length_us: u64, first: bool) {
        if first && self.lengths > 0.0 && !self.first_only {
            return;
        }
        if self.first_only && !first {
            self.lengths = 0.0;
        }
        self.first_only = first;
        self.lengths = (self.lengths + 1.0).min(LENGTHS);
        self.length_us += (length_us as f64 - self.length_us) / self.lengths;
    }

    /// Mean length of a call, if one has ended.
    pub(crate) fn length_us(&self) -> Option<u64> {
        (self.lengths > 0.0).then_some(self.length_us as u64)
    }

    /// Calls a microsecond over the last entries of a ring, until now.
    fn over(&self, ring: usize, entries: u64, now_us: u64) -> Option<f64> {
        let newest = self.calls.checked_sub(1)? >> (2 * ring);
        let first = (newest + 1).checked_sub(entries)?;
        let gaps = self.calls - (first << (2 * ring)) - 1;
        let since_us = now_us.saturating_sub(self.rings[ring][first as usize % SLOTS]).max(CLOSEST_US);
        Some(gaps as f64 / since_us as f64)
    }

    /// Calls a microsecond now; zero while too few were seen.
    pub(crate) fn now(&self, now_us: u64) -> f64 {
        let mut rate: Option<f64> = None;
        for (ring, entries, doubt) in WINDOWS {
            if let Some(seen) = self.over(ring, entries, now_us) {
                rate = Some(rate.unwrap_or(seen).clamp(seen / doubt, seen * doubt));
            }
        }
        rate.unwrap_or(0.0)
    }

    /// How many environments are worth their memory now, where a cold call costs `cold_us` of one's idle time.
    pub(crate) fn environments(&self, now_us: u64, cold_us: u64) -> usize {
        let rate = self.now(now_us);
        let running = rate * self.length_us;
        let worth = rate * cold_us as f64;
        if worth <= 1.0 || running <= 0.0 {
            return 0;
        }
        if running > MANY {
            let sigma = running.sqrt();
            let z = (2.0 * (worth / (sigma * 2.5)).max(1.0).ln()).sqrt();
            return (running + z * sigma).ceil() as usize;
        }
        let (mut count, mut exactly, mut at_most) = (0usize, (-running).exp(), 0.0);
        loop {
            at_most += exactly;
            // A call that comes while exactly `count` run is served by one more environment.
            if worth * exactly < at_most {
                return count;
            }
            count += 1;
            exactly *= running / count as f64;
        }
    }

    /// When the rate will have fallen enough to look again.
    pub(crate) fn look_at_us(&self, now_us: u64) -> u64 {
        let gap_us = self.over(0, 4, now_us).map_or(1e6, |rate| 1.0 / rate.max(1e-9));
        now_us + (gap_us as u64).clamp(250_000, 60_000_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60_000_000;

    /// Calls of `length_us`, one each `gap_us`.
    fn steady(rate: &mut Rate, from_us: u64, calls: u64, gap_us: u64, length_us: u64) -> u64 {
        for call in 0..calls {
            rate.began(from_us + call * gap_us);
            rate.ended(length_us, false);
        }
        from_us + calls * gap_us
    }

    #[test]
    fn nothing_is_told_from_too_few_calls() {
        let mut rate = Rate::default();
        assert_eq!(rate.environments(MINUTE, MINUTE), 0);
        let now_us = steady(&mut rate, 0, 3, 1_000, 1_000_000);
        assert_eq!(rate.environments(now_us, MINUTE), 0);
    }

    #[test]
    fn a_slow_first_call_tells_of_no_crowd() {
        let mut rate = Rate::default();
        rate.ended(500_000, true);
        rate.ended(300_000, true);
        assert_eq!(rate.length_us(), Some(400_000), "better than nothing");
        // One caller, whose calls follow each other.
        let now_us = steady(&mut rate, 0, 20, 3_000, 3_000);
        assert_eq!(rate.length_us(), Some(3_000));
        let before = rate.environments(now_us, MINUTE);
        rate.ended(500_000, true);
        assert_eq!((rate.length_us(), rate.environments(now_us, MINUTE)), (Some(3_000), before));
    }

    #[test]
    fn many_calls_get_what_runs_and_a_margin() {
        let mut rate = Rate::default();
        let now_us = steady(&mut rate, 0, 5_000, 100_000, 4_000_000);
        let count = rate.environments(now_us, MINUTE);
        assert!((45..70).contains(&count), "40 run at once: {count}");
        assert!(rate.environments(now_us, 10 * MINUTE) > count, "dearer cold calls want more");
        // The two ways of counting meet.
        let mut rate = Rate::default();
        let now_us = steady(&mut rate, 0, 5_000, 100_000, 1_190_000);
        let below = rate.environments(now_us, MINUTE);
        rate.length_us = 1_210_000.0;
        assert!(rate.environments(now_us, MINUTE).abs_diff(below) <= 3);
    }

    #[test]
    fn a_burst_is_followed_up_and_down() {
        let mut rate = Rate::default();
        let now_us = steady(&mut rate, 0, 2_000, MINUTE, 1_000_000);
        assert!(rate.environments(now_us, MINUTE) <= 1);
        let now_us = steady(&mut rate, now_us, 20, 20_000, 1_000_000);
        assert!(rate.environments(now_us, MINUTE) >= 20, "{}", rate.environments(now_us, MINUTE));
        assert!(rate.environments(now_us + MINUTE, MINUTE) <= 3, "{}", rate.environments(now_us + MINUTE, MINUTE));
    }
}

//! How long a function is without calls: a histogram, and the times at which an environment is worth its memory.
//!
//! An environment that is kept for an age costs that much idle time of every gap that lasts so long; it saves a cold
//! call in every gap that ends meanwhile. With a price for a cold call, in idle time, the ages at which the histogram
//! says it gains more than it costs are what to keep: from the last call to some age (the tail of the short gaps),
//! and perhaps once more around an age at which many gaps end (from the head to the tail of the long ones).
//!
//! Invariants
//!   1. A histogram has the same size however many gaps it counted.
//!   2. A plan's times are in order: `keep_us` ends before `again` begins.

const SECOND: u64 = 1_000_000;
const MINUTE: u64 = 60 * SECOND;
/// Upper edges of the bins below a minute, in milliseconds.
const FINE_MS: [u64; 10] = [125, 250, 500, 1_000, 2_000, 4_000, 8_000, 15_000, 30_000, 60_000];
/// Bins of a minute each, up to four hours.
const MINUTES: usize = 239;
const BINS: usize = FINE_MS.len() + MINUTES;
/// Where counts are halved, so that what was long ago fades.
const COUNT_MAX: u32 = 2_048;
/// Gaps that must end within a later window before it is believed.
const WINDOW_LEAST: u32 = 3;

/// When an environment is worth keeping, in microseconds since the last call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Plan {
    /// From the last call until this age.
    pub(crate) keep_us: u64,
    /// And again from one age to another.
    pub(crate) again: Option<(u64, u64)>,
}

/// What cold calls and starts cost, in microseconds of one idle environment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Price {
    /// A call that finds no environment.
    pub(crate) cold_us: u64,
    /// A start ahead of a call.
    pub(crate) start_us: u64,
}

/// A histogram of gaps. Gaps beyond its last bin are counted as such.
#[derive(Debug, Clone)]
pub(crate) struct Gaps {
    bins: Box<[u16; BINS]>,
    beyond: u32,
    counted: u32,
}

impl Default for Gaps {
    fn default() -> Self {
        Self { bins: Box::new([0; BINS]), beyond: 0, counted: 0 }
    }
}

impl Gaps {
    /// Counts a gap in.
    pub(crate) fn add(&mut self, gap_us: u64) {
        match bin_of(gap_us) {
            Some(bin) => self.bins[bin] += 1,
            None => self.beyond += 1,
        }
        self.counted += 1;
        if self.counted >= COUNT_MAX {
            self.fade();
        }
    }

    fn fade(&mut self) {
        self.beyond /= 2;
        self.counted = self.beyond;
        for bin in self.bins.iter_mut() {
            *bin /= 2;
            self.counted += u32::from(*bin);
        }
    }

    /// Gaps that are counted at present.
    pub(crate) fn counted(&self) -> u32 {
        self.counted
    }

    /// What to keep at this price.
    pub(crate) fn plan(&self, price: Price) -> Plan {
        // One more gap that never ends stands for what was not seen yet.
        let mut left = self.counted + 1;
        let mut gains = [0i64; BINS];
        for (bin, gain) in gains.iter_mut().enumerate() {
            let ended = u32::from(self.bins[bin]);
            left -= ended;
            let width_us = edge_us(bin + 1) - edge_us(bin);
            let cost_us = width_us * u64::from(2 * left + ended) / 2;
            *gain = to_signed(u64::from(ended) * price.cold_us) - to_signed(cost_us);
        }
        let kept = best_head(&gains);
        Plan { keep_us: edge_us(kept), again: self.window(&gains, kept, price) }
    }

    /// The run of later bins that gains most, if it is worth a start.
    fn window(&self, gains: &[i64; BINS], from: usize, price: Price) -> Option<(u64, u64)> {
        let (mut best, mut found) = (0, None);
        let (mut sum, mut begin) = (0, from);
        for (bin, gain) in gains.iter().enumerate().skip(from) {
            if sum <= 0 {
                (sum, begin) = (0, bin);
            }
            sum += gain;
            if sum > best {
                (best, found) = (sum, Some((begin, bin + 1)));
            }
        }
        let (begin, end) = found?;
        let ended: u32 = self.bins[begin..end].iter().map(|count| u32::from(*count)).sum();
        // Every gap that lasts until the window pays for its start.
        let reached = self.counted - self.bins[..begin].iter().map(|count| u32::from(*count)).sum::<u32>();
        let worth = best > to_signed(u64::from(reached) * price.start_us);
        (ended >= WINDOW_LEAST && worth).then(|| (edge_us(begin), edge_us(end)))
    }
}

/// How many of the first bins gain most together.
fn best_head(gains: &[i64; BINS]) -> usize {
    let (mut sum, mut best, mut kept) = (0, 0, 0);
    for (bin, gain) in gains.iter().enumerate() {
        sum += gain;
        if sum > best {
            (best, kept) = (sum, bin + 1);
        }
    }
    kept
}

fn to_signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX / 4)
}

fn bin_of(gap_us: u64) -> Option<usize> {
    if gap_us < MINUTE {
        return Some(FINE_MS.partition_point(|edge| edge * 1_000 <= gap_us));
    }
    let bin = FINE_MS.len() - 1 + usize::try_from(gap_us / MINUTE).unwrap_or(BINS);
    (bin < BINS).then_some(bin)
}

/// The lower edge of a bin; that of the bin after the last ends the histogram.
fn edge_us(bin: usize) -> u64 {
    match bin {
        0 => 0,
        bin if bin <= FINE_MS.len() => FINE_MS[bin - 1] * 1_000,
        bin => (bin - FINE_MS.len() + 1) as u64 * MINUTE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRICE: Price = Price { cold_us: 60 * SECOND, start_us: SECOND };

    #[test]
    fn bins_meet_without_holes() {
        for bin in 0..BINS {
            assert_eq!(bin_of(edge_us(bin)), Some(bin));
            assert_eq!(bin_of(edge_us(bin + 1) - 1), Some(bin));
        }
        assert_eq!(bin_of(4 * 60 * MINUTE), None);
    }

    #[test]
    fn nothing_known_keeps_nothing() {
        assert_eq!(Gaps::default().plan(PRICE), Plan::default());
    }

    #[test]
    fn short_gaps_are_kept_and_long_ones_are_not() {
        let mut gaps = Gaps::default();
        for _ in 0..50 {
            gaps.add(3 * SECOND);
            gaps.add(3_600 * SECOND * 5);
        }
        assert_eq!(gaps.plan(PRICE), Plan { keep_us: 4 * SECOND, again: None });
    }

    #[test]
    fn gaps_of_one_length_are_met_when_they_end() {
        let mut gaps = Gaps::default();
        for _ in 0..20 {
            gaps.add(42 * MINUTE + 20 * SECOND);
        }
        let plan = gaps.plan(PRICE);
        assert_eq!(plan, Plan { keep_us: 0, again: Some((42 * MINUTE, 43 * MINUTE)) });
        let dear = Price { start_us: 59 * SECOND, ..PRICE };
        assert_eq!(gaps.plan(dear).again, None, "a start that costs as much as it saves is none");
    }

    #[test]
    fn what_was_long_ago_fades() {
        let mut gaps = Gaps::default();
        (0..5_000).for_each(|_| gaps.add(30 * MINUTE));
        (0..9_000).for_each(|_| gaps.add(SECOND));
        assert!(gaps.counted() < COUNT_MAX);
        let plan = gaps.plan(PRICE);
        assert!((2 * SECOND..=8 * SECOND).contains(&plan.keep_us), "{plan:?}");
    }
}

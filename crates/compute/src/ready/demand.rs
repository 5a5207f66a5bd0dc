//! How many booted guests of a kind to have ready. Pure.
//!
//! What is measured is how many were taken within one second, the most of the last minutes: so many calls at once found no
//! environment, and may do so again.
//!
//! Invariants
//!   1. A kind that is used has at least one ready, and never more than its limit.
//!   2. What was wanted by a burst is forgotten after `MEMORY_S`.

use std::collections::VecDeque;

/// For how long a burst is remembered.
const MEMORY_S: u64 = 300;

/// What was taken of late.
#[derive(Debug, Default)]
pub(crate) struct Demand {
    /// Seconds in which something was taken, with how many; the oldest first.
    taken: VecDeque<(u64, usize)>,
}

impl Demand {
    /// Counts one taken in.
    pub(crate) fn take(&mut self, now_s: u64) {
        match self.taken.back_mut() {
            Some((second, count)) if *second >= now_s => *count += 1,
            _ => {
                // A later second with at least as many makes an earlier one needless.
                self.taken.push_back((now_s, 1));
            }
        }
        self.forget(now_s);
    }

    fn forget(&mut self, now_s: u64) {
        while self.taken.front().is_some_and(|(second, _)| now_s.saturating_sub(*second) >= MEMORY_S) {
            self.taken.pop_front();
        }
    }

    /// How many to have ready now, `max` at most.
    pub(crate) fn wanted(&mut self, now_s: u64, max: usize) -> usize {
        self.forget(now_s);
        let most = self.taken.iter().map(|(_, count)| *count).max().unwrap_or(0);
        // One more than at once: the next may come before it is replaced.
        (most + 1).min(max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_burst_is_remembered_for_a_while() {
        let mut demand = Demand::default();
        assert_eq!(demand.wanted(0, 8), 1);
        for _ in 0..5 {
            demand.take(10);
        }
        demand.take(11);
        assert_eq!(demand.wanted(12, 8), 6);
        assert_eq!(demand.wanted(12, 4), 4);
        assert_eq!(demand.wanted(10 + MEMORY_S, 8), 2, "the second after the burst is remembered");
        assert_eq!(demand.wanted(11 + MEMORY_S, 8), 1);
    }

    proptest! {
        #[test]
        fn always_one_and_never_too_many(steps in proptest::collection::vec(0u64..400, 0..200), max in 1usize..20) {
            let mut demand = Demand::default();
            let mut now = 0;
            for step in steps {
                now += step;
                demand.take(now);
                prop_assert!((1..=max).contains(&demand.wanted(now, max)));
                prop_assert!(demand.taken.len() as u64 <= MEMORY_S);
            }
        }
    }
}

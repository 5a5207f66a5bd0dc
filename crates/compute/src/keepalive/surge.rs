//! Rises of concurrent calls that no rate has told yet: a call that finds more running than there were just before
//! announces further ones.
//!
//! Environments for a quarter more calls are then started at once, so that a burst waits for a few starts instead of one
//! for each of its calls. A first call after a quiet time announces a second only where that was seen often enough.

const SECOND: u64 = 1_000_000;
/// A level of calls that was there so shortly before is no rise.
const FRESH_US: u64 = 300_000;
/// How long a rise is waited for.
const SOON_US: u64 = 2 * SECOND;
/// First calls for each second one that are still worth an environment.
const FIRSTS_MOST: u32 = 300;
/// Where counts are halved, so that what was long ago fades.
const FIRSTS_KEPT: u32 = 1_200;

/// How calls of one function rise.
#[derive(Debug, Clone, Default)]
pub(crate) struct Surge {
    /// For each level of concurrency, when there were last so many calls. Levels not fresh are left out.
    left_us: Vec<u64>,
    until_us: u64,
    firsts: u32,
    seconds: u32,
    /// When the present first call came; nothing once it was followed.
    first_us: Option<u64>,
}

impl Surge {
    /// Counts a call in; `running` includes it.
    pub(crate) fn began(&mut self, now_us: u64, running: usize) {
        self.count_firsts(now_us, running);
        let level = running.max(1) - 1;
        let left_us = self.left_us.get(level);
        let rises = left_us.is_none_or(|left_us| left_us.saturating_add(FRESH_US) < now_us);
        let pays = running > 1 || self.seconds * FIRSTS_MOST > self.firsts;
        if rises && pays {
            self.until_us = now_us + SOON_US;
        }
    }

    fn count_firsts(&mut self, now_us: u64, running: usize) {
        let open = self.first_us.is_some_and(|first_us| first_us + SOON_US > now_us);
        match running {
            0 | 1 if !open => {
                self.first_us = Some(now_us);
                self.firsts += 1;
                if self.firsts > FIRSTS_KEPT {
                    self.firsts /= 2;
                    self.seconds /= 2;
                }
            }
            2 if open => {
                self.first_us = None;
                self.seconds += 1;
            }
            _ => {}
        }
    }

    /// Counts a call out; `running` are those that are left.
    pub(crate) fn ended(&mut self, now_us: u64, running: usize) {
        if self.left_us.len() <= running {
            self.left_us.resize(running + 1, now_us);
        }
        self.left_us[running] = now_us;
        while self.left_us.len() > running + 1 && self.left_us.last().is_some_and(|left_us| left_us + FRESH_US < now_us)
        {
            self.left_us.pop();
        }
    }

    /// How many environments the rise that goes on wants, and until when; nothing if none does.
    pub(crate) fn wanted(&self, now_us: u64, running: usize) -> Option<(usize, u64)> {
        (self.until_us > now_us).then(|| (running + (running / 4).max(1), self.until_us))
    }
}

/// Keeps what was wanted until shortly after, so that a number that trembles starts and ends nothing.
#[derive(Debug, Clone, Default)]
pub(crate) struct Hold {
    /// The highest of the last span and of the present one.
    high: [usize; 2],
    turn_us: u64,
}

impl Hold {
    /// The highest number of the last `span_us` at least, and until when it holds.
    pub(crate) fn over(&mut self, now_us: u64, wanted: usize, span_us: u64) -> (usize, u64) {
        if now_us >= self.turn_us {
            let last = if now_us < self.turn_us + span_us { self.high[1] } else { 0 };
            self.high = [last, 0];
            self.turn_us = now_us + span_us;
        }
        self.high[1] = self.high[1].max(wanted);
        (self.high[0].max(self.high[1]), self.turn_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rise_wants_more_and_a_steady_number_does_not() {
        let mut surge = Surge::default();
        (1..=8).for_each(|running| surge.began(10 * SECOND, running));
        assert_eq!(surge.wanted(10 * SECOND, 8), Some((10, 12 * SECOND)));
        assert_eq!(surge.wanted(12 * SECOND, 8), None);
        // One goes and another comes, again and again.
        for step in 0..100 {
            let now_us = 20 * SECOND + step * SECOND / 4;
            surge.ended(now_us, 7);
            surge.began(now_us + 1, 8);
        }
        assert_eq!(surge.wanted(45 * SECOND, 8), None);
    }

    #[test]
    fn a_lone_call_announces_no_other_until_that_was_seen() {
        let mut surge = Surge::default();
        for minute in 0..20 {
            surge.began(minute * 60 * SECOND, 1);
            assert_eq!(surge.wanted(minute * 60 * SECOND, 1), None);
            surge.ended(minute * 60 * SECOND + 5, 0);
        }
        surge.began(1_200 * SECOND, 1);
        surge.began(1_201 * SECOND, 2);
        surge.ended(1_201 * SECOND, 1);
        surge.ended(1_202 * SECOND, 0);
        surge.began(1_300 * SECOND, 1);
        assert_eq!(surge.wanted(1_300 * SECOND, 1), Some((2, 1_302 * SECOND)));
    }

    #[test]
    fn what_was_wanted_holds_for_a_while() {
        let mut hold = Hold::default();
        assert_eq!(hold.over(100, 5, 10), (5, 110));
        assert_eq!(hold.over(109, 1, 10).0, 5);
        assert_eq!(hold.over(111, 1, 10).0, 5, "of the last span");
        assert_eq!(hold.over(125, 1, 10).0, 1);
    }
}

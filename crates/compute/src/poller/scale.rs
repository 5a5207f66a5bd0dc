//! How many calls of a queue's mapping may run at once, and how long is waited after one that did not run. Pure.
//!
//! It begins with few and grows while there is a backlog; a refused call halves it. Source: the developer guide, "Scaling
//! behavior": five at first, 300 more each minute, 1,250 at most.

use std::time::Duration;

const FIRST: u32 = 5;
const PER_MINUTE: f64 = 300.0;
const MOST: u32 = 1_250;
const WAIT_MIN: Duration = Duration::from_secs(1);
const WAIT_MAX: Duration = Duration::from_secs(60);

/// The wait before a try, after so many that failed.
pub(super) fn wait_after(tries: u32) -> Duration {
    WAIT_MIN.saturating_mul(1 << tries.saturating_sub(1).min(16)).min(WAIT_MAX)
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Scale {
    least: u32,
    most: u32,
    allowed: f64,
    /// Since when all that is allowed is in use.
    busy_since_ms: Option<u64>,
}

impl Scale {
    /// Within what a mapping asks for.
    pub(super) fn new(least: Option<u32>, most: Option<u32>) -> Self {
        let most = most.unwrap_or_else(|| MOST.max(least.unwrap_or(0))).max(1);
        let least = least.unwrap_or(FIRST).clamp(1, most);
        Self { least, most, allowed: f64::from(least), busy_since_ms: None }
    }

    /// Calls that may run at once.
    pub(super) fn calls(&self) -> usize {
        // Between 1 and `most`.
        self.allowed as usize
    }

    /// Whether more calls may run soon.
    pub(super) fn grows(&self) -> bool {
        self.allowed < f64::from(self.most)
    }

    /// All that is allowed is in use, and more waits.
    pub(super) fn busy(&mut self, now_ms: u64) {
        let since = *self.busy_since_ms.get_or_insert(now_ms);
        let minutes = now_ms.saturating_sub(since) as f64 / 60_000.0;
        self.allowed = (self.allowed + minutes * PER_MINUTE).min(f64::from(self.most));
        self.busy_since_ms = Some(now_ms);
    }

    /// There was nothing to take.
    pub(super) fn idle(&mut self) {
        self.busy_since_ms = None;
        self.allowed = f64::from(self.least);
    }

    /// Less is in use than is allowed.
    pub(super) fn free(&mut self) {
        self.busy_since_ms = None;
    }

    /// A call was refused.
    pub(super) fn refused(&mut self) {
        self.busy_since_ms = None;
        self.allowed = (self.allowed / 2.0).max(1.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_grow_with_a_backlog_and_shrink_when_refused() {
        let mut scale = Scale::new(None, None);
        assert_eq!(scale.calls(), 5);
        for second in 0..=60 {
            scale.busy(second * 1_000);
        }
        assert_eq!(scale.calls(), 305);
        scale.refused();
        assert_eq!(scale.calls(), 152);
        scale.busy(100_000);
        assert_eq!(scale.calls(), 152, "the time in between does not count");
        for minute in 2..10 {
            scale.busy(minute * 60_000);
        }
        assert_eq!(scale.calls(), 1_250);
        scale.idle();
        assert_eq!(scale.calls(), 5);
        (0..5).for_each(|_| scale.refused());
        assert_eq!(scale.calls(), 1);
    }

    #[test]
    fn a_mapping_sets_its_own_bounds() {
        let mut scale = Scale::new(None, Some(2));
        scale.busy(0);
        scale.busy(600_000);
        assert_eq!(scale.calls(), 2);
        let scale = Scale::new(Some(2_000), None);
        assert_eq!((scale.calls(), scale.most), (2_000, 2_000));
    }

    #[test]
    fn waits_double_to_a_minute() {
        let waits: Vec<u64> = [0, 1, 2, 3, 6, 7, 100].iter().map(|tries| wait_after(*tries).as_secs()).collect();
        assert_eq!(waits, [1, 1, 2, 4, 32, 60, 60]);
    }
}

//! How long the platform looks for an answer before it gives its processor away. Pure.
//!
//! To sleep and to be woken across processors costs more than many a function's whole run. Where a function is that
//! quick and nothing else is to be done, looking is sooner; where other calls run, the processor is theirs.

use std::time::Duration;

/// Longest look. Above, waking costs little beside the run.
const LOOK_US_MAX: u64 = 150;

/// How long to look for the answer of a call; `took_us` is how long the function's answers take on average, the way there
/// and back included, `calls` are all that run or wait, this one counted in.
pub(crate) fn look(took_us: Option<u64>, calls: usize, cores: usize) -> Option<Duration> {
    let took_us = took_us?;
    // The guest needs a processor of its own meanwhile, and calls that wait need this one.
    if calls > 1 || cores < 2 || took_us > LOOK_US_MAX {
        return None;
    }
    // Twice the average takes in nearly all calls; the slow ones wait as others do.
    Some(Duration::from_micros((2 * took_us).min(LOOK_US_MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_lone_call_of_a_quick_function_is_looked_for() {
        assert_eq!(look(Some(40), 1, 2), Some(Duration::from_micros(80)));
        assert_eq!(look(Some(120), 1, 2), Some(Duration::from_micros(150)));
        for (took_us, calls, cores) in [(None, 1, 2), (Some(151), 1, 2), (Some(40), 2, 2), (Some(40), 1, 1)] {
            assert_eq!(look(took_us, calls, cores), None);
        }
    }
}

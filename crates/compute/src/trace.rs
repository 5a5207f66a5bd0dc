//! The trace header of a call: where a trace begins, whether it is sampled, and which segment the function's own calls are of.
//!
//! Whoever was first to decide about a trace has decided: a header that says `Sampled` is taken at its word. Else a function with
//! active tracing decides, by X-Ray's rule for what has no rule of its own, and one that passes traces through samples none.
//!
//! Not here: recording segments; nothing does yet. What is decided is what functions, their log and what they call see.

use std::sync::atomic::{AtomicU64, Ordering};

use base::Random;
use model::trace;

/// Sampled of a hundred beyond the first of each second. Source: X-Ray's default sampling rule.
const PERCENT: u64 = 5;
/// Of a header with nothing but root, parent and decision.
const HEADER_BYTES: usize = 80;

/// Which traces are sampled on this node.
#[derive(Debug, Default)]
pub(crate) struct Sampler {
    /// The second that has had its first.
    second: AtomicU64,
}

impl Sampler {
    fn takes(&self, now_ms: u64, random: &dyn Random) -> bool {
        let second = now_ms / 1_000;
        self.second.swap(second, Ordering::Relaxed) != second || random.next_u64() % 100 < PERCENT
    }

    /// The header of a call of a function with active tracing, or of one that passes traces through.
    pub(crate) fn header(&self, given: Option<&str>, active: bool, now_ms: u64, random: &dyn Random) -> String {
        let given = given.unwrap_or_default();
        let root = trace::field(given, "Root").filter(|root| !root.is_empty());
        let root = root.map_or_else(|| trace::begun(now_ms, random), |root| format!("Root={root}"));
        let sampled = match trace::field(given, "Sampled") {
            Some("1") => true,
            Some("0") => false,
            _ => active && self.takes(now_ms, random),
        };
        // What the function calls is of a segment of its own, if there is to be one.
        let parent = trace::field(given, "Parent").filter(|parent| !(parent.is_empty() || active && sampled));
        let parent = parent.map_or_else(|| random.hex(8), str::to_owned);
        let mut header = String::with_capacity(HEADER_BYTES + given.len());
        for part in [root.as_str(), ";Parent=", parent.as_str(), ";Sampled=", if sampled { "1" } else { "0" }] {
            header.push_str(part);
        }
        let ours = ["Root=", "Parent=", "Sampled="];
        for other in given.split(';').map(str::trim).filter(|part| !part.is_empty()) {
            if !ours.iter().any(|name| other.starts_with(name)) {
                header.push(';');
                header.push_str(other);
            }
        }
        header
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::SeededRandom;
    use proptest::prelude::*;

    #[test]
    fn who_decided_first_has_decided() {
        let (sampler, random) = (Sampler::default(), SeededRandom::new(1));
        let of = |given: &str, active| sampler.header(Some(given), active, 7_000, &*random);
        for active in [false, true] {
            assert_eq!(
                of("Root=1-a-b;Parent=c;Sampled=0;Lineage=1:x:1", active),
                "Root=1-a-b;Parent=c;Sampled=0;Lineage=1:x:1"
            );
        }
        assert_eq!(of("Root=1-a-b;Parent=c;Sampled=1", false), "Root=1-a-b;Parent=c;Sampled=1", "it is passed through");
        let own = of("Parent=c;Root=1-a-b;Sampled=1", true);
        assert!(own.starts_with("Root=1-a-b;Parent=") && own.ends_with(";Sampled=1") && !own.contains("=c;"), "{own}");
        let begun = of("Root=1-a-b", false);
        assert!(begun.starts_with("Root=1-a-b;Parent=") && begun.ends_with(";Sampled=0"), "{begun}");
        assert_eq!(begun.len(), "Root=1-a-b;Parent=".len() + 16 + ";Sampled=0".len());
    }

    #[test]
    fn the_first_of_a_second_is_sampled_and_some_of_the_others() {
        let (sampler, random) = (Sampler::default(), SeededRandom::new(2));
        let sampled = |now_ms| sampler.header(None, true, now_ms, &*random).ends_with(";Sampled=1");
        assert!(sampled(1_000) && sampled(2_000));
        let others = (0..2_000).filter(|_| sampled(2_000)).count();
        assert!((60..140).contains(&others), "{others} of 2,000");
        assert!((0..100).all(|second| sampler.header(None, false, second * 1_000, &*random).ends_with(";Sampled=0")));
    }

    proptest! {
        #[test]
        fn any_header_becomes_a_whole_one(given in ".{0,80}", active: bool) {
            let header = Sampler::default().header(Some(&given), active, 1, &*SeededRandom::new(3));
            prop_assert!(trace::field(&header, "Root").is_some_and(|root| !root.is_empty()));
            prop_assert!(trace::field(&header, "Parent").is_some() && trace::field(&header, "Sampled").is_some());
        }
    }
}

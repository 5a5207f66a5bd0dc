//! How nodes share a limit: the record that they keep of it, and what one of them may use. Pure.
//!
//! Each node says in the record how many slots it wants and how many it holds. Nobody takes what another holds: a node
//! that holds more than its fair share gives back as its calls end, and only then can another take it.
//!
//! Invariants
//!   1. The slots of all holders together are never more than the limit, in whatever order nodes come.
//!   2. While wants stay the same, each node comes to have what it wants, or where that is too much for all an equal
//!      share of the limit.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One that is alone leaves this share of a limit to whoever comes, unless it needs it.
const LEFT_ALONE: u32 = 8;

/// What the store keeps of one limit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// By node.
    pub(super) holders: BTreeMap<String, Holder>,
}

/// What one node has of a limit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Holder {
    /// Slots that no other may use.
    pub(super) slots: u32,
    /// Slots that it could use.
    pub(super) want: u32,
    /// Changes with each renewal: a holder whose beat stands still is dead.
    pub(super) beat: u64,
}

/// What a node asks for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ask {
    pub(super) limit: u32,
    /// Calls that run now: their slots cannot be given back.
    pub(super) running: u32,
    /// Slots that it could use.
    pub(super) want: u32,
}

impl Record {
    /// Renews what `node` holds, after the dead were taken out, and says how many calls it may run. Nothing wanted and
    /// nothing running leaves the record without it.
    pub(super) fn renew(&mut self, node: &str, ask: Ask) -> u32 {
        let beat = self.holders.remove(node).map_or(0, |holder| holder.beat);
        if ask.want == 0 && ask.running == 0 {
            return 0;
        }
        let held: u64 = self.holders.values().map(|holder| u64::from(holder.slots)).sum();
        let left = ask.limit.saturating_sub(u32::try_from(held).unwrap_or(u32::MAX));
        // Nobody else asks: nearly all of it, so that the next calls need no renewal. What is left is for the first
        // calls of a node that comes.
        let alone = self.holders.is_empty();
        let want = if alone { ask.want.max(ask.limit - ask.limit / LEFT_ALONE) } else { ask.want };
        let may = self.fair_share(node, want, ask.limit).min(left);
        let slots = may.max(ask.running.min(left));
        self.holders.insert(node.to_owned(), Holder { slots, want: ask.want.max(ask.running), beat: beat + 1 });
        may
    }

    /// What is left for a node when all get equally much, and nobody more than it wants.
    fn fair_share(&self, node: &str, want: u32, limit: u32) -> u32 {
        let mut wants: Vec<(u32, &str)> =
            self.holders.iter().map(|(name, holder)| (holder.want, name.as_str())).collect();
        wants.push((want, node));
        wants.sort_unstable();
        let mut left = limit;
        let mut sharers = u32::try_from(wants.len()).unwrap_or(u32::MAX);
        for (want, name) in wants {
            // What does not divide evenly goes to the last ones.
            let share = want.min(left / sharers);
            if name == node {
                return share;
            }
            left -= share;
            sharers -= 1;
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_alone_has_it_all() {
        let mut record = Record::default();
        assert_eq!(record.renew("a", Ask { limit: 100, running: 1, want: 1 }), 88);
        assert_eq!(record.clone().renew("b", Ask { limit: 100, running: 0, want: 3 }), 3, "without waiting");
        assert_eq!(record.renew("a", Ask { limit: 100, running: 88, want: 100 }), 100);
    }

    #[test]
    fn another_gets_its_share_when_calls_have_ended() {
        let mut record = Record::default();
        let ask = |running, want| Ask { limit: 10, running, want };
        assert_eq!(record.renew("a", ask(10, 10)), 10);
        assert_eq!(record.renew("b", ask(0, 10)), 0, "all are held");
        assert_eq!(record.renew("a", ask(8, 10)), 5, "it begins no more than its share");
        assert_eq!(record.renew("b", ask(0, 10)), 2, "what has been given back");
        assert_eq!(record.renew("a", ask(3, 10)), 5);
        assert_eq!(record.renew("b", ask(2, 10)), 5);
        assert_eq!(record.renew("a", ask(0, 0)), 0);
        assert_eq!(record.renew("b", ask(5, 7)), 9, "alone, but for what is left to whoever comes");
    }

    #[test]
    fn a_limit_of_one_goes_to_one() {
        let mut record = Record::default();
        let ask = |running, want| Ask { limit: 1, running, want };
        assert_eq!(record.renew("a", ask(1, 1)), 1);
        assert_eq!(record.renew("b", ask(0, 1)), 0);
        record.renew("a", ask(0, 0));
        assert_eq!(record.renew("b", ask(0, 1)), 1);
    }

    proptest! {
        #[test]
        fn never_more_than_the_limit_and_fair_in_the_end(
            limit in 0u32..40,
            wants in proptest::collection::vec(0u32..30, 1..5),
            steps in proptest::collection::vec((0usize..5, 0u32..30), 0..60),
        ) {
            let mut record = Record::default();
            let mut running = vec![0u32; wants.len()];
            let renew = |record: &mut Record, node: usize, running: &mut Vec<u32>, want: u32, ends: u32| {
                running[node] = running[node].saturating_sub(ends);
                let may = record.renew(&node.to_string(), Ask { limit, running: running[node], want });
                // It begins as many as it may.
                running[node] = running[node].max(may.min(want));
                let held: u32 = record.holders.values().map(|holder| holder.slots).sum();
                assert!(held <= limit, "{record:?}");
                assert!(running.iter().sum::<u32>() <= limit, "{running:?} {record:?}");
                may
            };
            for (node, ends) in steps {
                let node = node % wants.len();
                renew(&mut record, node, &mut running, wants[node], ends);
            }
            let mut may = vec![0; wants.len()];
            for _ in 0..4 {
                for node in 0..wants.len() {
                    may[node] = renew(&mut record, node, &mut running, wants[node], 30);
                }
            }
            let total: u32 = wants.iter().sum();
            for node in 0..wants.len() {
                if total <= limit {
                    prop_assert!(may[node] >= wants[node], "{may:?} {wants:?}");
                } else {
                    let least = wants[node].min(limit / wants.len() as u32);
                    prop_assert!(may[node] >= least, "{may:?} {wants:?} {record:?}");
                }
            }
        }
    }
}

//! Where queues begin: what a claim need not look at again.
//!
//! Claims take entries away at the head of a queue. What they leave there is nothing, but a store that is written behind,
//! or that removes later, steps over each of them again with every claim. So the head is remembered.
//!
//! Invariants
//!   1. No entry of a queue lies below its head.
//!   2. A queue that is not known begins with its prefix.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

/// Most queues whose heads are remembered.
const QUEUES_MAX: usize = 4_096;

/// The heads of queues, by prefix.
#[derive(Debug, Clone, Default)]
pub(crate) struct Heads {
    heads: BTreeMap<Bytes, Bytes>,
}

impl Heads {
    /// The first key that can be in a queue, if it is remembered.
    pub(crate) fn get(&self, prefix: &[u8]) -> Option<&Bytes> {
        self.heads.get(prefix)
    }

    /// Nothing of the queue lies below `head`.
    pub(crate) fn set(&mut self, prefix: &Bytes, head: &Bytes) {
        if self.heads.len() >= QUEUES_MAX && !self.heads.contains_key(prefix) {
            self.heads.clear();
        }
        // Copies, as the caller's bytes may be a small part of something large.
        self.heads.insert(Bytes::copy_from_slice(prefix), Bytes::copy_from_slice(head));
    }

    /// A key has been written: it may lie below the head of a queue.
    pub(crate) fn wrote(&mut self, key: &Bytes) {
        // Prefixes of a key sort before it; those that begin others come in turn.
        let mut below: Bound<&[u8]> = Bound::Included(key);
        while let Some((prefix, head)) = self.heads.range_mut::<[u8], _>((Bound::Unbounded, below)).next_back() {
            if !key.starts_with(prefix) {
                // Further prefixes of the key are within what it has in common with this one.
                let common = key.iter().zip(prefix.iter()).take_while(|(a, b)| a == b).count();
                below = Bound::Included(&key[..common]);
                continue;
            }
            if key < head {
                *head = key.clone();
            }
            if prefix.is_empty() {
                return;
            }
            below = Bound::Included(&key[..prefix.len() - 1]);
        }
    }

    /// Takes over what another one knows.
    pub(crate) fn extend(&mut self, other: Self) {
        other.heads.into_iter().for_each(|(prefix, head)| self.set(&prefix, &head));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against asking every queue.
        #[test]
        fn a_write_lowers_the_heads_that_it_lies_below(
            queues in prop::collection::btree_map("[ab]{0,3}", "[ab]{0,5}", 0..8),
            keys in prop::collection::vec("[ab]{0,6}", 0..8),
        ) {
            let mut heads = Heads::default();
            let mut model: BTreeMap<Bytes, Bytes> = BTreeMap::new();
            for (prefix, rest) in queues {
                let head = Bytes::from(format!("{prefix}{rest}"));
                heads.set(&prefix.clone().into(), &head);
                model.insert(prefix.into(), head);
            }
            for key in keys.into_iter().map(Bytes::from) {
                heads.wrote(&key);
                for (prefix, head) in &mut model {
                    if key.starts_with(prefix) && key < *head {
                        *head = key.clone();
                    }
                }
            }
            prop_assert_eq!(heads.heads, model);
        }
    }

    #[test]
    fn too_many_queues_are_forgotten() {
        let mut heads = Heads::default();
        for number in 0..=QUEUES_MAX {
            heads.set(&Bytes::from(number.to_string()), &Bytes::from(format!("{number}x")));
        }
        assert_eq!(heads.heads.len(), 1);
        assert_eq!(heads.get(QUEUES_MAX.to_string().as_bytes()).unwrap(), &format!("{QUEUES_MAX}x"));
    }
}

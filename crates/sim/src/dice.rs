//! Decisions by a seed.

use std::sync::Arc;

use base::{Random, SeededRandom};

/// A sequence of decisions that follows from a seed.
#[derive(Debug, Clone)]
pub(crate) struct Dice(Arc<SeededRandom>);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(SeededRandom::new(seed))
    }

    /// Others, which follow from the next number of these.
    pub(crate) fn split(&self) -> Self {
        Self::new(self.0.next_u64())
    }

    /// A number below `end`, which is not zero.
    pub(crate) fn below(&self, end: u64) -> u64 {
        self.0.next_u64() % end
    }

    /// The same for indices and sizes.
    pub(crate) fn index(&self, end: usize) -> usize {
        (self.0.next_u64() % end as u64) as usize
    }

    /// True in so many of a hundred cases.
    pub(crate) fn chance(&self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of several.
    pub(crate) fn pick<'a, T>(&self, of: &'a [T]) -> &'a T {
        &of[self.index(of.len())]
    }
}

//! For tests: how many steps readers of text and bytes take, since time says little on a busy machine.
//!
//! A step is one look at a token or at one character; `count` stands where readers look.

use std::cell::Cell;

thread_local! {
    static STEPS: Cell<usize> = const { Cell::new(0) };
}

/// Counts steps of this thread.
pub(super) fn count(steps: usize) {
    STEPS.with(|all| all.set(all.get() + steps));
}

/// How many steps `work` takes.
pub(super) fn of<T>(work: impl FnOnce() -> T) -> usize {
    let before = STEPS.with(Cell::get);
    work();
    STEPS.with(Cell::get) - before
}

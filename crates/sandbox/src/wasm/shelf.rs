//! Programs that are loaded: those of which there are environments, and a few more that were opened last. To load one again takes
//! longer than its whole first call, and functions are seldom away for good.
//!
//! Invariants
//!   1. A program is loaded once at a time, however many environments have it.
//!   2. What is kept without an environment is bounded, by number and by bytes of machine code; who was opened longest ago
//!      goes first. It is address space and pages of a file, with what the engine knows of the program beside it.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Weak};

use model::CodeDigest;

/// Programs that are kept, and bytes of their machine code.
const KEPT_MAX: usize = 64;
const KEPT_BYTES_MAX: u64 = 256 << 20;

/// Programs by their packages.
#[derive(Debug)]
pub(super) struct Shelf<T> {
    all: HashMap<CodeDigest, (Weak<T>, u64)>,
    /// Opened longest ago first.
    kept: VecDeque<Kept<T>>,
    bytes: u64,
}

#[derive(Debug)]
struct Kept<T> {
    code: CodeDigest,
    program: Arc<T>,
    bytes: u64,
}

impl<T> Default for Shelf<T> {
    fn default() -> Self {
        Self { all: HashMap::new(), kept: VecDeque::new(), bytes: 0 }
    }
}

impl<T> Shelf<T> {
    /// A program that is loaded, which counts as opened now.
    pub(super) fn get(&mut self, code: &CodeDigest) -> Option<Arc<T>> {
        if let Some(at) = self.kept.iter().rposition(|kept| kept.code == *code) {
            let program = self.kept[at].program.clone();
            if at + 1 < self.kept.len()
                && let Some(kept) = self.kept.remove(at)
            {
                self.kept.push_back(kept);
            }
            return Some(program);
        }
        let (program, bytes) = self.all.get(code).and_then(|(held, bytes)| Some((held.upgrade()?, *bytes)))?;
        self.keep(code, &program, bytes);
        Some(program)
    }

    /// Takes one that was loaded, of so many bytes of machine code.
    pub(super) fn put(&mut self, code: &CodeDigest, program: &Arc<T>, bytes: u64) {
        self.leave(code);
        self.all.retain(|_, (held, _)| held.strong_count() > 0);
        self.all.insert(code.clone(), (Arc::downgrade(program), bytes));
        self.keep(code, program, bytes);
    }

    fn keep(&mut self, code: &CodeDigest, program: &Arc<T>, bytes: u64) {
        if bytes > KEPT_BYTES_MAX {
            return;
        }
        self.bytes += bytes;
        self.kept.push_back(Kept { code: code.clone(), program: program.clone(), bytes });
        while self.kept.len() > KEPT_MAX || self.bytes > KEPT_BYTES_MAX {
            let Some(gone) = self.kept.pop_front() else { break };
            self.bytes -= gone.bytes;
        }
    }

    /// Nobody needs the package any more.
    pub(super) fn forget(&mut self, code: &CodeDigest) {
        self.leave(code);
        self.all.remove(code);
    }

    fn leave(&mut self, code: &CodeDigest) {
        if let Some(at) = self.kept.iter().position(|kept| kept.code == *code)
            && let Some(gone) = self.kept.remove(at)
        {
            self.bytes -= gone.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(number: usize) -> CodeDigest {
        CodeDigest::parse(&format!("{number:064x}")).unwrap()
    }

    /// Number zero was put in first.
    fn full(bytes: u64) -> Shelf<usize> {
        let mut shelf = Shelf::default();
        for number in 0..KEPT_MAX {
            shelf.put(&code(number), &Arc::new(number), bytes);
        }
        shelf
    }

    #[test]
    fn who_was_opened_longest_ago_goes_first_and_who_is_in_use_stays() {
        let mut shelf = full(1);
        let used = shelf.get(&code(1)).unwrap();
        assert_eq!(shelf.get(&code(0)).as_deref(), Some(&0));
        for number in KEPT_MAX..KEPT_MAX * 2 - 1 {
            shelf.put(&code(number), &Arc::new(number), 1);
        }
        assert_eq!(shelf.get(&code(0)).as_deref(), Some(&0), "it was opened after all the others");
        assert!(shelf.get(&code(2)).is_none());
        assert!(!shelf.kept.iter().any(|kept| kept.code == code(1)));
        assert!(Arc::ptr_eq(&shelf.get(&code(1)).unwrap(), &used), "an environment has it");
        drop(used);
        assert_eq!(shelf.get(&code(1)).as_deref(), Some(&1), "and it was opened just now");
    }

    #[test]
    fn bytes_are_bounded_too() {
        let mut shelf = full(1);
        shelf.put(&code(100), &Arc::new(100), KEPT_BYTES_MAX);
        assert_eq!((shelf.kept.len(), shelf.bytes), (1, KEPT_BYTES_MAX));
        let large = Arc::new(101);
        shelf.put(&code(101), &large, KEPT_BYTES_MAX + 1);
        assert_eq!(shelf.get(&code(101)).as_deref(), Some(&101));
        drop(large);
        assert!(shelf.get(&code(101)).is_none());
        assert!(shelf.get(&code(100)).is_some());
    }

    #[test]
    fn what_is_loaded_anew_takes_the_place_and_what_is_forgotten_is_gone() {
        let mut shelf = full(7);
        shelf.put(&code(3), &Arc::new(33), 9);
        assert_eq!((shelf.get(&code(3)).as_deref(), shelf.kept.len()), (Some(&33), KEPT_MAX));
        assert_eq!(shelf.bytes, 7 * (KEPT_MAX as u64 - 1) + 9);
        shelf.forget(&code(3));
        assert!(shelf.get(&code(3)).is_none());
        assert_eq!(shelf.bytes, 7 * (KEPT_MAX as u64 - 1));
    }
}

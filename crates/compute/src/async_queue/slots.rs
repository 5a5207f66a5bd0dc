//! The slots of events: how many run at once on this node, and who may have the next one.
//!
//! An account may come to hold four times as many slots as it leaves free, and a function as many of them as it leaves to
//! its account. So what comes late finds a part of what is left, however many slow ones came before it, and gets more as
//! those end; nothing is set apart, and nobody has to know how many functions there are.
//!
//! Invariants
//!   1. No more slots are held than there are.
//!   2. Where something was left for want of a slot, it is told of when one comes free.

use std::collections::HashMap;
use std::sync::Arc;

use model::{AccountId, FunctionRef};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// An account may hold so many times as many slots as it leaves free.
const ACCOUNT_TIMES: usize = 4;

/// All slots of a node.
pub(super) struct Slots {
    all: usize,
    held: Arc<Mutex<Held>>,
    freed: Arc<Notify>,
}

#[derive(Default)]
struct Held {
    all: usize,
    of_functions: HashMap<FunctionRef, usize>,
    of_accounts: HashMap<AccountId, usize>,
    /// Whether something that is due was left.
    behind: bool,
}

/// A place to run one event.
pub(super) struct Slot {
    function: FunctionRef,
    held: Arc<Mutex<Held>>,
    freed: Arc<Notify>,
}

impl Slots {
    pub(super) fn new(all: usize) -> Self {
        Self { all: all.max(1), held: Arc::default(), freed: Arc::default() }
    }

    /// A slot for a new event of a function that may hold at most `share`.
    pub(super) fn take(&self, function: &FunctionRef, share: usize) -> Option<Slot> {
        self.slot(&mut self.held.lock(), function.unqualified(), share)
    }

    /// A slot for one that is due. If there is none, whoever has one tells when it comes free.
    pub(super) fn take_due(&self, function: &FunctionRef, share: usize) -> Option<Slot> {
        let mut held = self.held.lock();
        let slot = self.slot(&mut held, function.unqualified(), share);
        held.behind |= slot.is_none();
        slot
    }

    fn slot(&self, held: &mut Held, function: FunctionRef, share: usize) -> Option<Slot> {
        let own = held.of_functions.get(&function).copied().unwrap_or(0);
        let of_account = held.of_accounts.get(&function.account).copied().unwrap_or(0);
        if own >= share || !may_have(own, of_account, self.all - held.all, self.all) {
            return None;
        }
        held.all += 1;
        *held.of_functions.entry(function.clone()).or_default() += 1;
        *held.of_accounts.entry(function.account.clone()).or_default() += 1;
        Some(Slot { function, held: self.held.clone(), freed: self.freed.clone() })
    }

    /// It is looked at what is due, from its beginning on.
    pub(super) fn begin(&self) {
        self.held.lock().behind = false;
    }

    /// Something may be left that was not looked at. Returns whether there are slots for it.
    pub(super) fn fall_behind(&self) -> bool {
        let mut held = self.held.lock();
        held.behind = true;
        held.all < self.all
    }

    /// Wakes when a slot comes free that somebody wants.
    pub(super) fn freed(&self) -> Notified<'_> {
        self.freed.notified()
    }
}

/// Whether a function that holds `own` slots of those of its account may have one of the `free` ones. The only one always.
fn may_have(own: usize, of_account: usize, free: usize, all: usize) -> bool {
    let left_to_account = (ACCOUNT_TIMES * free).saturating_sub(of_account) / (ACCOUNT_TIMES + 1);
    own < left_to_account || free == all
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut held = self.held.lock();
        held.all -= 1;
        give_back(&mut held.of_functions, &self.function);
        give_back(&mut held.of_accounts, &self.function.account);
        if held.behind {
            self.freed.notify_one();
        }
    }
}

fn give_back<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K) {
    match counts.get_mut(key) {
        Some(count) if *count > 1 => *count -= 1,
        _ => {
            counts.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn function(account: u8, name: u8) -> FunctionRef {
        FunctionRef::parse_arn(&format!("arn:aws:lambda:us-east-1:{account:012}:function:f{name}")).unwrap()
    }

    fn taken(slots: &Slots, function: &FunctionRef) -> Vec<Slot> {
        std::iter::from_fn(|| slots.take(function, usize::MAX)).collect()
    }

    #[test]
    fn slow_functions_leave_room_for_the_next() {
        let slots = Slots::new(1_000);
        let held: Vec<Vec<Slot>> = (0..6).map(|name| taken(&slots, &function(1, name))).collect();
        assert_eq!(held.iter().map(Vec::len).collect::<Vec<_>>(), [400, 200, 100, 50, 25, 13]);
        assert_eq!(taken(&Slots::new(1), &function(1, 1)).len(), 1);
    }

    #[test]
    fn an_account_of_many_functions_leaves_something_to_others() {
        let slots = Slots::new(1_000);
        let held: Vec<Slot> = (0..200).flat_map(|name| taken(&slots, &function(1, name))).collect();
        assert!((780..=800).contains(&held.len()), "{}", held.len());
        assert!(taken(&slots, &function(2, 0)).len() >= 80);
    }

    #[tokio::test]
    async fn who_frees_a_slot_tells_of_it_only_where_somebody_wants_it() {
        let slots = Slots::new(4);
        let told = async || tokio::time::timeout(Duration::ZERO, slots.freed()).await.is_ok();
        let slow = function(1, 1);
        let mut held = taken(&slots, &slow);
        drop(held.pop());
        assert!(!told().await);
        held.extend(slots.take(&slow, usize::MAX));
        assert!(slots.take_due(&slow, usize::MAX).is_none());
        drop(held.pop());
        assert!(told().await);
    }

    proptest! {
        #[test]
        fn counts_are_those_of_what_is_held(
            all in 1..20_usize,
            steps in prop::collection::vec((0..3_u8, 0..4_u8, any::<bool>()), 0..80),
        ) {
            let slots = Slots::new(all);
            let mut held: Vec<Slot> = Vec::new();
            for (account, name, takes) in steps {
                let function = function(account, name);
                if takes {
                    let free = all - held.len();
                    let own = held.iter().filter(|slot| slot.function == function).count();
                    let of_account = held.iter().filter(|slot| slot.function.account == function.account).count();
                    let slot = slots.take(&function, 5);
                    prop_assert_eq!(slot.is_some(), own < 5 && may_have(own, of_account, free, all));
                    held.extend(slot);
                } else if !held.is_empty() {
                    held.remove(usize::from(name) % held.len());
                }
                prop_assert!(held.len() <= all);
            }
            held.clear();
            let rest = slots.held.lock();
            prop_assert!(rest.all == 0 && rest.of_functions.is_empty() && rest.of_accounts.is_empty());
        }
    }
}

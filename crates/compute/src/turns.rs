//! Whose turn it is where something is short: accounts in turn, and in each account its functions. Pure.
//!
//! Each account, and each function in its account, has used so much; the one that waits and has used least is next, and
//! what it gets counts as used (start-time fair queueing on two levels). One that was away for long does not save up:
//! it begins where the others are. Among the requests of one function, the first that came is first.
//!
//! Invariants
//!   1. Of two accounts (or two functions of one account) that both wait all the time, neither gets more than the other
//!      by over one request of each.
//!   2. A request is served after at most so much of any other account, plus one request, as its own account was served
//!      since it came: nobody waits for ever.
//!   3. What is remembered is bounded by who waits, and who was served while others waited.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::Hash;

/// Requests in waiting, of accounts `A` and functions `F`.
#[derive(Debug)]
pub(crate) struct Turns<A, F, T> {
    accounts: Level<A, Level<F, VecDeque<(u64, T)>>>,
    len: usize,
}

/// Flows that share something: who used how much.
#[derive(Debug)]
struct Level<K, V> {
    /// Waiting flows by what they have used, then by when they came.
    line: BTreeMap<(u64, u64), K>,
    flows: HashMap<K, Flow<V>>,
    /// Flows that do not wait but have used more than the one that was served last.
    resting: HashMap<K, u64>,
    by_used: BTreeMap<(u64, u64), K>,
    /// What the flow that was served last had used before.
    now: u64,
    arrivals: u64,
}

#[derive(Debug)]
struct Flow<V> {
    place: (u64, u64),
    inner: V,
}

impl<K: Clone + Eq + Hash, V: Default> Default for Level<K, V> {
    fn default() -> Self {
        Self {
            line: BTreeMap::new(),
            flows: HashMap::new(),
            resting: HashMap::new(),
            by_used: BTreeMap::new(),
            now: 0,
            arrivals: 0,
        }
    }
}

impl<K: Clone + Eq + Hash, V: Default> Level<K, V> {
    /// What waits of a flow; it joins the line if it was not in it.
    fn flow(&mut self, key: &K) -> &mut V {
        let (line, now, arrivals) = (&mut self.line, self.now, &mut self.arrivals);
        let resting = &mut self.resting;
        let flow = self.flows.entry(key.clone()).or_insert_with(|| {
            let used = resting.remove(key).unwrap_or(0).max(now);
            *arrivals += 1;
            let place = (used, *arrivals);
            line.insert(place, key.clone());
            Flow { place, inner: V::default() }
        });
        &mut flow.inner
    }

    /// The flow whose turn it is.
    fn first(&mut self) -> Option<(K, &mut V)> {
        let key = self.line.first_key_value().map(|(_, key)| key.clone())?;
        let flow = self.flows.get_mut(&key)?;
        Some((key, &mut flow.inner))
    }

    /// The flow whose turn it was has got `cost`; it leaves the line if nothing of it waits.
    fn served(&mut self, key: &K, cost: u64, waits: bool) {
        let Some(flow) = self.flows.get_mut(key) else { return };
        self.line.remove(&flow.place);
        self.now = self.now.max(flow.place.0);
        let used = flow.place.0.saturating_add(cost.max(1));
        self.arrivals += 1;
        let place = (used, self.arrivals);
        if waits {
            flow.place = place;
            self.line.insert(place, key.clone());
        } else {
            self.flows.remove(key);
            self.resting.insert(key.clone(), used);
            self.by_used.insert(place, key.clone());
        }
        self.forget();
    }

    /// Forgets flows that the others have overtaken: they begin where these are anyway.
    fn forget(&mut self) {
        let all = self.line.is_empty();
        while let Some(((used, _), _)) = self.by_used.first_key_value()
            && (all || *used <= self.now)
        {
            let Some(((used, _), key)) = self.by_used.pop_first() else { break };
            if self.resting.get(&key) == Some(&used) {
                self.resting.remove(&key);
            }
        }
    }
}

impl<A: Clone + Eq + Hash, F: Clone + Eq + Hash, T> Turns<A, F, T> {
    /// Nobody waits.
    pub(crate) fn new() -> Self {
        Self { accounts: Level::default(), len: 0 }
    }

    /// Requests that wait.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Puts a request in line; `cost` is how much of what is short it takes.
    pub(crate) fn push(&mut self, account: &A, function: &F, cost: u64, request: T) {
        self.accounts.flow(account).flow(function).push_back((cost, request));
        self.len += 1;
    }

    /// The request whose turn it is.
    pub(crate) fn pop(&mut self) -> Option<T> {
        let (account, functions) = self.accounts.first()?;
        let (function, requests) = functions.first()?;
        let (cost, request) = requests.pop_front()?;
        let waits = !requests.is_empty();
        functions.served(&function, cost, waits);
        let waits = !functions.line.is_empty();
        self.accounts.served(&account, cost, waits);
        self.len -= 1;
        Some(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_flow_is_served_as_it_came() {
        let mut turns = Turns::new();
        (0..5).for_each(|number| turns.push(&"a", &"f", 1, number));
        assert_eq!((turns.len(), std::iter::from_fn(|| turns.pop()).collect::<Vec<_>>()), (5, vec![0, 1, 2, 3, 4]));
    }

    #[test]
    fn a_late_account_does_not_wait_for_all_of_another() {
        let mut turns = Turns::new();
        (0..100).for_each(|number| turns.push(&"many", &number, 1, "many"));
        (0..50).for_each(|_| assert!(turns.pop().is_some()));
        turns.push(&"late", &0, 1, "late");
        assert!((0..2).any(|_| turns.pop() == Some("late")));
    }

    #[test]
    fn functions_of_one_account_alternate() {
        let mut turns = Turns::new();
        (0..10).for_each(|_| turns.push(&"a", &"loud", 1, "loud"));
        (0..3).for_each(|_| turns.push(&"a", &"quiet", 1, "quiet"));
        let order: Vec<&str> = (0..6).filter_map(|_| turns.pop()).collect();
        assert_eq!(order.iter().filter(|who| **who == "quiet").count(), 3, "{order:?}");
    }

    #[test]
    fn nothing_is_remembered_when_nobody_waits() {
        let mut turns = Turns::new();
        (0..100).for_each(|number| turns.push(&number, &number, 7, ()));
        while turns.pop().is_some() {}
        let accounts = &turns.accounts;
        assert!(accounts.flows.is_empty() && accounts.resting.is_empty() && accounts.by_used.is_empty());
    }

    proptest! {
        /// Accounts that always wait, and one that comes back with a single request each time it was served.
        #[test]
        fn shares_are_equal_and_nobody_starves(
            costs in proptest::collection::vec(1u64..50, 2..6),
            functions in proptest::collection::vec(1usize..5, 6),
            rounds in 100usize..600,
        ) {
            let mut turns = Turns::new();
            let push = |turns: &mut Turns<usize, usize, (usize, usize)>, account: usize, function: usize| {
                turns.push(&account, &function, costs[account], (account, function));
            };
            for (account, own) in functions.iter().copied().enumerate().take(costs.len()) {
                // The first has one request at a time, the others several of each function.
                let depth = if account == 0 { 1 } else { 3 };
                for function in 0..if account == 0 { 1 } else { own } {
                    (0..depth).for_each(|_| push(&mut turns, account, function));
                }
            }
            let mut got = vec![0u64; costs.len()];
            let mut by_function = HashMap::new();
            for _ in 0..rounds {
                let (account, function) = turns.pop().unwrap();
                got[account] += costs[account];
                *by_function.entry((account, function)).or_insert(0u64) += 1;
                push(&mut turns, account, function);
                let (least, most) = (got.iter().min().unwrap(), got.iter().max().unwrap());
                prop_assert!(most - least <= 2 * costs.iter().max().unwrap(), "{got:?}");
            }
            for (account, own) in functions.iter().copied().enumerate().take(costs.len()).skip(1) {
                let of = |function| by_function.get(&(account, function)).copied().unwrap_or(0);
                let counts: Vec<u64> = (0..own).map(of).collect();
                prop_assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "{counts:?}");
            }
            prop_assert!(turns.accounts.resting.len() <= costs.len());
        }

        #[test]
        fn every_request_is_served_once(
            steps in proptest::collection::vec((0usize..4, 0usize..4, 1u64..20, any::<bool>()), 0..200),
        ) {
            let mut turns = Turns::new();
            let (mut pushed, mut popped) = (0, Vec::new());
            for (account, function, cost, come) in steps {
                if come {
                    turns.push(&account, &function, cost, pushed);
                    pushed += 1;
                } else {
                    popped.extend(turns.pop());
                }
                prop_assert_eq!(turns.len(), pushed - popped.len());
            }
            popped.extend(std::iter::from_fn(|| turns.pop()));
            popped.sort_unstable();
            prop_assert_eq!(popped, (0..pushed).collect::<Vec<_>>());
        }
    }
}

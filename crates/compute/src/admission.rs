//! Who may run now: reserved and account concurrency, and as Lambda has it ten times as many calls in a second.
//!
//! A decision on counters, no await and no clock. A call beyond a configured limit is throttled at once; a lack of room
//! on the host is not known here (see `fleet`). A permit gives its place back when it is dropped. Who comes while a call has
//! its answer and not yet ended may wait for that one's place: a caller that calls again is none that calls twice at once.
//!
//! Invariants
//!   1. A function with reserved concurrency never runs more calls than that, and is refused below it only for its rate.
//!   2. Functions without one together never run more calls than the account's limit.
//!   3. In no second begin more calls than twice a rate: what was not used for a second may come at once.
//!   4. Rates are remembered only of whoever called within the last second.
//!   5. No more calls wait for a place than have answered and not ended; nobody waits for calls without an answer.
//!   6. A call for which concurrency is set aside (`model::Floor`) is let in whatever others do; these share what is left.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use model::{AccountId, Floor, FunctionRef, FunctionVersion, ThrottleReason};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::slots::Limit;

/// Counts calls against configured limits.
#[derive(Debug)]
pub(crate) struct Admission {
    account_limit: u32,
    /// Calls in a second of an account's functions without reserved concurrency; nothing: not limited.
    account_rate: Option<u64>,
    /// Whether anything is set aside: most calls then look no further.
    any_aside: AtomicBool,
    /// Places that calls have given back which had answered before.
    left: AtomicU64,
    running: Mutex<Running>,
}

/// Calls in a second for each concurrent one. Source: Lambda quotas.
const RATE_PER_CONCURRENT: u32 = 10;
const SECOND_US: u64 = 1_000_000;
/// Rates looked at before those of the past are forgotten.
const RATES_KEPT: usize = 64;

#[derive(Debug, Default)]
struct Running {
    unreserved: HashMap<AccountId, u32>,
    reserved: HashMap<FunctionRef, u32>,
    account_rates: Rates<AccountId>,
    reserved_rates: Rates<FunctionRef>,
    aside: HashMap<FunctionRef, Vec<Aside>>,
    aside_of: HashMap<AccountId, u32>,
    leaving: HashMap<Limit, Leaving>,
}

/// Calls that have answered and not ended, and those that wait for their places.
#[derive(Debug, Default)]
struct Leaving {
    answered: u32,
    waiting: u32,
    freed: Arc<Notify>,
}

/// What is set aside for a version, and how much of it is in use.
#[derive(Debug)]
struct Aside {
    version: String,
    most: u32,
    running: u32,
}

impl Running {
    fn aside(&mut self, function: &FunctionRef, version: &str) -> Option<&mut Aside> {
        self.aside.get_mut(function)?.iter_mut().find(|aside| aside.version == version)
    }

    /// Changes what is known of those that leave, and forgets it where there is nothing any more.
    fn leave(&mut self, limit: &Limit, change: impl FnOnce(&mut Leaving)) {
        let Some(leaving) = self.leaving.get_mut(limit) else { return };
        change(leaving);
        if leaving.answered + leaving.waiting == 0 {
            self.leaving.remove(limit);
        }
    }

    /// Forgets what is neither set aside any more nor in use.
    fn forget_aside(&mut self) {
        self.aside.retain(|_, of_function| {
            of_function.retain(|aside| aside.most + aside.running > 0);
            !of_function.is_empty()
        });
    }
}

/// For each key the time until which its calls use up its rate (the generic cell rate algorithm).
#[derive(Debug)]
struct Rates<K> {
    until_us: HashMap<K, u64>,
    forget_at: usize,
}

impl<K> Default for Rates<K> {
    fn default() -> Self {
        Self { until_us: HashMap::new(), forget_at: RATES_KEPT }
    }
}

impl<K: Clone + Eq + std::hash::Hash> Rates<K> {
    /// Whether another call is within `per_second` now.
    fn allows(&self, key: &K, per_second: u64, now_us: u64) -> bool {
        let until_us = self.until_us.get(key).copied().unwrap_or(0).max(now_us);
        until_us + SECOND_US / per_second.max(1) <= now_us + SECOND_US
    }

    /// Counts a call that is allowed.
    fn count(&mut self, key: &K, per_second: u64, now_us: u64) {
        let step_us = SECOND_US / per_second.max(1);
        match self.until_us.get_mut(key) {
            Some(until_us) => *until_us = (*until_us).max(now_us) + step_us,
            None => {
                if self.until_us.len() >= self.forget_at {
                    self.until_us.retain(|_, until_us| *until_us > now_us);
                    self.forget_at = (self.until_us.len() * 2).max(RATES_KEPT);
                }
                self.until_us.insert(key.clone(), now_us + step_us);
            }
        }
    }
}

#[derive(Debug)]
enum Place {
    Unreserved(AccountId),
    Reserved(FunctionRef),
    Aside(FunctionRef, String),
}

/// A place among the running calls, until dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    admission: Arc<Admission>,
    place: Place,
    /// Whether the caller has its answer.
    answered: bool,
}

impl Place {
    /// The limit that it counts against, if others may have it afterwards.
    fn limit(&self) -> Option<Limit> {
        match self {
            Self::Unreserved(account) => Some(Limit::Account(account.clone())),
            Self::Reserved(function) => Some(Limit::Function(function.clone())),
            Self::Aside(..) => None,
        }
    }
}

impl Permit {
    /// The caller has its answer, and the call goes on: who comes from now on may wait for the place.
    pub(crate) fn answered(&mut self) {
        if !self.answered
            && let Some(limit) = self.place.limit()
        {
            self.answered = true;
            self.admission.running.lock().leaving.entry(limit).or_default().answered += 1;
        }
    }
}

/// A call that waits for a place.
struct Waiting<'a> {
    admission: &'a Admission,
    limit: &'a Limit,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.admission.running.lock().leave(self.limit, |leaving| leaving.waiting -= 1);
    }
}

impl Admission {
    /// Admission where each account may run `account_limit` calls of functions without reserved concurrency, and begin
    /// `account_rate` of them in a second.
    pub(crate) fn new(account_limit: u32, account_rate: Option<u32>) -> Arc<Self> {
        Arc::new(Self {
            account_limit,
            account_rate: account_rate.map(u64::from),
            any_aside: AtomicBool::new(false),
            left: AtomicU64::new(0),
            running: Mutex::default(),
        })
    }

    /// Concurrent calls that bound a version's, over all nodes.
    pub(crate) fn limit(&self, version: &FunctionVersion) -> u32 {
        version.reserved_concurrency.unwrap_or_else(|| {
            if !self.any_aside.load(Ordering::Relaxed) {
                return self.account_limit;
            }
            let aside = self.running.lock().aside_of.get(&version.function.account).copied();
            self.account_limit.saturating_sub(aside.unwrap_or(0))
        })
    }

    /// Sets aside what these floors say, and nothing else. Calls that run keep their places.
    pub(crate) fn set_aside(&self, floors: &BTreeSet<Floor>) {
        let mut running = self.running.lock();
        running.aside_of.clear();
        running.aside.values_mut().flatten().for_each(|aside| aside.most = 0);
        for floor in floors.iter().filter(|floor| floor.set_aside > 0) {
            let of_account = running.aside_of.entry(floor.function.account.clone()).or_default();
            *of_account = of_account.saturating_add(floor.set_aside);
            match running.aside(&floor.function, &floor.version) {
                Some(aside) => aside.most = floor.set_aside,
                None => {
                    let aside = Aside { version: floor.version.clone(), most: floor.set_aside, running: 0 };
                    running.aside.entry(floor.function.clone()).or_default().push(aside);
                }
            }
        }
        running.forget_aside();
        self.any_aside.store(!running.aside.is_empty(), Ordering::Relaxed);
    }

    /// A place among what is set aside for a version, if one is free.
    pub(crate) fn admit_aside(self: &Arc<Self>, version: &FunctionVersion) -> Option<Permit> {
        if !self.any_aside.load(Ordering::Relaxed) {
            return None;
        }
        let mut running = self.running.lock();
        let aside = running.aside(&version.function, &version.version)?;
        if aside.running >= aside.most {
            return None;
        }
        aside.running += 1;
        let place = Place::Aside(version.function.clone(), version.version.clone());
        Some(Permit { admission: self.clone(), place, answered: false })
    }

    /// Calls of a limit that run on this node.
    pub(crate) fn running(&self, limit: &Limit) -> u32 {
        let running = self.running.lock();
        let count = match limit {
            Limit::Account(account) => running.unreserved.get(account),
            Limit::Function(function) => running.reserved.get(function),
        };
        count.copied().unwrap_or(0)
    }

    /// A place for one call among `limit` (see there; less if other nodes have a share), or what is reached.
    pub(crate) fn admit(
        self: &Arc<Self>,
        version: &FunctionVersion,
        now_us: u64,
        limit: u32,
    ) -> Result<Permit, ThrottleReason> {
        let mut running = self.running.lock();
        self.decide(&running, version, now_us, limit)?;
        let (function, account) = (&version.function, &version.function.account);
        let place = match version.reserved_concurrency {
            Some(_) => {
                *running.reserved.entry(function.clone()).or_default() += 1;
                running.reserved_rates.count(function, reserved_rate(limit), now_us);
                Place::Reserved(function.clone())
            }
            None => {
                match running.unreserved.get_mut(account) {
                    Some(count) => *count += 1,
                    None => drop(running.unreserved.insert(account.clone(), 1)),
                }
                if let Some(rate) = self.account_rate_of(limit) {
                    running.account_rates.count(account, rate, now_us);
                }
                Place::Unreserved(account.clone())
            }
        };
        Ok(Permit { admission: self.clone(), place, answered: false })
    }

    /// How many places were given back by calls that had answered before.
    pub(crate) fn left(&self) -> u64 {
        self.left.load(Ordering::Acquire)
    }

    /// Waits until a call of the limit ends that has answered, if there is one that nobody else waits for. False if there is
    /// none, and none has ended since `left`.
    pub(crate) async fn place_left(&self, limit: &Limit, left: u64) -> bool {
        let (freed, _waiting) = {
            let mut running = self.running.lock();
            if self.left() != left {
                return true;
            }
            let leaving = running.leaving.get_mut(limit).filter(|leaving| leaving.answered > leaving.waiting);
            let Some(leaving) = leaving else { return false };
            leaving.waiting += 1;
            // Made under the lock, so that no place is given back unheard.
            (leaving.freed.clone().notified_owned(), Waiting { admission: self, limit })
        };
        freed.await;
        true
    }

    /// Whether a call would be admitted now.
    pub(crate) fn check(self: &Arc<Self>, version: &FunctionVersion, now_us: u64) -> Result<(), ThrottleReason> {
        if self.admit_aside(version).is_some() {
            return Ok(());
        }
        let limit = self.limit(version);
        self.decide(&self.running.lock(), version, now_us, limit)
    }

    /// The account's rate, or this node's share of it.
    fn account_rate_of(&self, limit: u32) -> Option<u64> {
        let rate = self.account_rate?;
        Some(rate * u64::from(limit) / u64::from(self.account_limit.max(1)))
    }

    fn decide(
        &self,
        running: &Running,
        version: &FunctionVersion,
        now_us: u64,
        limit: u32,
    ) -> Result<(), ThrottleReason> {
        let (function, account) = (&version.function, &version.function.account);
        let below = |count: Option<&u32>, limit| count.copied().unwrap_or(0) < limit;
        let within = |rate| running.account_rates.allows(account, rate, now_us);
        match version.reserved_concurrency {
            Some(_) if !below(running.reserved.get(function), limit) => {
                Err(ThrottleReason::ReservedFunctionConcurrentInvocationLimitExceeded)
            }
            Some(_) if !running.reserved_rates.allows(function, reserved_rate(limit), now_us) => {
                Err(ThrottleReason::ReservedFunctionInvocationRateLimitExceeded)
            }
            None if !below(running.unreserved.get(account), limit) => {
                Err(ThrottleReason::ConcurrentInvocationLimitExceeded)
            }
            None if !self.account_rate_of(limit).is_none_or(within) => {
                Err(ThrottleReason::FunctionInvocationRateLimitExceeded)
            }
            _ => Ok(()),
        }
    }
}

fn reserved_rate(limit: u32) -> u64 {
    u64::from(rate_of(limit))
}

/// Calls in a second that go with so many concurrent ones.
pub(crate) fn rate_of(concurrency: u32) -> u32 {
    concurrency.saturating_mul(RATE_PER_CONCURRENT)
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut running = self.admission.running.lock();
        match &self.place {
            Place::Unreserved(account) => give(&mut running.unreserved, account),
            Place::Reserved(function) => give(&mut running.reserved, function),
            Place::Aside(function, version) => {
                if let Some(aside) = running.aside(function, version) {
                    aside.running -= 1;
                }
                running.forget_aside();
            }
        }
        if self.answered
            && let Some(limit) = self.place.limit()
        {
            self.admission.left.fetch_add(1, Ordering::Release);
            running.leave(&limit, |leaving| {
                leaving.answered -= 1;
                leaving.freed.notify_waiters();
            });
        }
    }
}

fn give<K: Eq + std::hash::Hash>(counts: &mut HashMap<K, u32>, key: &K) {
    let count = counts.get_mut(key);
    debug_assert!(count.is_some(), "a permit was counted when it was given");
    match count {
        Some(count) if *count > 1 => *count -= 1,
        _ => {
            counts.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::fixtures::version;
    use proptest::prelude::*;

    #[test]
    fn zero_reserved_throttles_every_call() {
        let admission = Admission::new(10, None);
        let mut version = version("f");
        version.reserved_concurrency = Some(0);
        assert_eq!(
            admission.admit(&version, 0, admission.limit(&version)).unwrap_err(),
            ThrottleReason::ReservedFunctionConcurrentInvocationLimitExceeded
        );
    }

    #[test]
    fn a_reserved_function_is_not_refused_for_others() {
        let admission = Admission::new(1, None);
        let plain = version("plain");
        let mut reserved = version("reserved");
        reserved.reserved_concurrency = Some(1);
        let _held = admission.admit(&plain, 0, admission.limit(&plain)).unwrap();
        assert_eq!(
            admission.admit(&plain, 0, admission.limit(&plain)).unwrap_err(),
            ThrottleReason::ConcurrentInvocationLimitExceeded
        );
        let _also = admission.admit(&reserved, 0, admission.limit(&reserved)).unwrap();
        assert!(admission.check(&reserved, 0).is_err());
    }

    #[test]
    fn ten_calls_a_second_for_each_concurrent_one() {
        let admission = Admission::new(10, Some(20));
        let (plain, mut reserved) = (version("plain"), version("reserved"));
        reserved.reserved_concurrency = Some(1);
        for (function, most, reason) in [
            (&reserved, 10, ThrottleReason::ReservedFunctionInvocationRateLimitExceeded),
            (&plain, 20, ThrottleReason::FunctionInvocationRateLimitExceeded),
        ] {
            let begun = (0..50).filter(|_| admission.admit(function, 0, admission.limit(function)).is_ok()).count();
            assert_eq!(begun, most);
            assert_eq!(admission.admit(function, 1_000, admission.limit(function)).unwrap_err(), reason);
            assert_eq!(admission.check(function, 1_000).unwrap_err(), reason);
            assert!(
                admission.admit(function, SECOND_US / 10, admission.limit(function)).is_ok(),
                "a tenth of a second frees some"
            );
            // Steadily, exactly the rate.
            let begun = (0..10_000)
                .filter(|ms| admission.admit(function, SECOND_US * 2 + ms * 1_000, admission.limit(function)).is_ok())
                .count();
            assert!(begun.abs_diff(11 * most) <= 1, "{begun} of {most} a second, with what a second saved up");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_may_be_waited_for_once_its_caller_has_the_answer() {
        let admission = Admission::new(10, None);
        let mut version = version("f");
        version.reserved_concurrency = Some(1);
        let limit = Limit::of(&version);
        let mut held = admission.admit(&version, 0, 1).unwrap();
        let left = admission.left();
        assert!(!admission.place_left(&limit, left).await, "it has not answered");
        held.answered();
        held.answered();
        let first = admission.place_left(&limit, left);
        tokio::pin!(first);
        assert!(futures_pending(&mut first).await);
        assert!(!admission.place_left(&limit, left).await, "one place, one that waits");
        drop(held);
        assert!(first.await && admission.place_left(&limit, left).await, "it ended meanwhile");
        let left = admission.left();
        assert!(!admission.place_left(&limit, left).await);
        assert!(admission.admit(&version, 0, 1).is_ok());
        assert!(admission.running.lock().leaving.is_empty());
    }

    async fn futures_pending(future: &mut (impl Future<Output = bool> + Unpin)) -> bool {
        tokio::time::timeout(std::time::Duration::from_secs(60), future).await.is_err()
    }

    fn aside(name: &str, set_aside: u32) -> Floor {
        let of = version(name);
        Floor { function: of.function, version: of.version, revision: of.revision, environments: set_aside, set_aside }
    }

    #[test]
    fn what_is_set_aside_is_there_for_its_version_and_for_nobody_else() {
        let admission = Admission::new(5, None);
        let (plain, provisioned) = (version("plain"), version("provisioned"));
        admission.set_aside(&BTreeSet::from([aside("provisioned", 2)]));
        let admit = |of: &FunctionVersion| {
            admission.admit_aside(of).map_or_else(|| admission.admit(of, 0, admission.limit(of)), Ok)
        };
        let mut others: Vec<Permit> = (0..3).map(|_| admit(&plain).unwrap()).collect();
        assert_eq!(admit(&plain).unwrap_err(), ThrottleReason::ConcurrentInvocationLimitExceeded);
        assert!(admission.check(&plain, 0).is_err() && admission.check(&provisioned, 0).is_ok());
        let own: Vec<Permit> = (0..2).map(|_| admit(&provisioned).unwrap()).collect();
        assert!(admit(&provisioned).is_err(), "beyond it, it is a function like others");
        others.pop();
        let third = admit(&provisioned).unwrap();
        assert!(admit(&plain).is_err());

        admission.set_aside(&BTreeSet::new());
        assert_eq!(admission.limit(&plain), 5);
        drop((own, third, others));
        let running = admission.running.lock();
        assert!(running.aside.is_empty() && running.aside_of.is_empty() && running.unreserved.is_empty());
    }

    #[test]
    fn rates_of_the_past_are_forgotten() {
        let admission = Admission::new(10, None);
        for second in 0..1_000u64 {
            let mut version = version(&format!("f{second}"));
            version.reserved_concurrency = Some(1);
            assert!(admission.admit(&version, second * SECOND_US, admission.limit(&version)).is_ok());
        }
        assert!(admission.running.lock().reserved_rates.until_us.len() <= RATES_KEPT);
    }

    proptest! {
        #[test]
        fn never_more_than_the_limits_and_nothing_left_behind(
            limit in 0u32..6,
            reserved in 0u32..4,
            steps in proptest::collection::vec((any::<bool>(), any::<bool>()), 0..80),
        ) {
            let admission = Admission::new(limit, None);
            let plain = version("plain");
            let mut kept = version("kept");
            kept.reserved_concurrency = Some(reserved);
            let mut held: [Vec<Permit>; 2] = [Vec::new(), Vec::new()];
            for (second, (come, which)) in steps.into_iter().enumerate() {
                let now_us = second as u64 * SECOND_US;
                let (function, most) = if which { (&kept, reserved) } else { (&plain, limit) };
                let held = &mut held[usize::from(which)];
                if come {
                    let permit = admission.admit(function, now_us, admission.limit(function));
                    prop_assert_eq!(permit.is_ok(), (held.len() as u32) < most);
                    held.extend(permit);
                } else {
                    held.pop();
                }
            }
            drop(held);
            let running = admission.running.lock();
            prop_assert!(running.unreserved.is_empty() && running.reserved.is_empty());
        }
    }
}

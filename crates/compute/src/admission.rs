//! Who may run now: reserved and account concurrency, and as Lambda has it ten times as many calls in a second.
//!
//! A decision on counters, no await and no clock. A call beyond a configured limit is throttled at once; a lack of room
//! on the host is not known here (see `fleet`). A permit gives its place back when it is dropped.
//!
//! Invariants
//!   1. A function with reserved concurrency never runs more calls than that, and is refused below it only for its rate.
//!   2. Functions without one together never run more calls than the account's limit.
//!   3. In no second begin more calls than twice a rate: what was not used for a second may come at once.
//!   4. Rates are remembered only of whoever called within the last second.

use std::collections::HashMap;
use std::sync::Arc;

use model::{AccountId, FunctionRef, FunctionVersion, ThrottleReason};
use parking_lot::Mutex;

use crate::slots::Limit;

/// Counts calls against configured limits.
#[derive(Debug)]
pub(crate) struct Admission {
    account_limit: u32,
    /// Calls in a second of an account's functions without reserved concurrency; nothing: not limited.
    account_rate: Option<u64>,
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
}

/// A place among the running calls, until dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    admission: Arc<Admission>,
    place: Place,
}

impl Admission {
    /// Admission where each account may run `account_limit` calls of functions without reserved concurrency, and begin
    /// `account_rate` of them in a second.
    pub(crate) fn new(account_limit: u32, account_rate: Option<u32>) -> Arc<Self> {
        Arc::new(Self { account_limit, account_rate: account_rate.map(u64::from), running: Mutex::default() })
    }

    /// Concurrent calls that bound a version's, over all nodes.
    pub(crate) fn limit(&self, version: &FunctionVersion) -> u32 {
        version.reserved_concurrency.unwrap_or(self.account_limit)
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
        Ok(Permit { admission: self.clone(), place })
    }

    /// Whether a call would be admitted now.
    pub(crate) fn check(&self, version: &FunctionVersion, now_us: u64) -> Result<(), ThrottleReason> {
        self.decide(&self.running.lock(), version, now_us, self.limit(version))
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

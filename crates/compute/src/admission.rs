//! Who may run now: reserved and account concurrency.
//!
//! A decision on counters, no await and no clock. A call beyond a configured limit is throttled at once; a lack of room
//! on the host is not known here (see `fleet`). A permit gives its place back when it is dropped.
//!
//! Invariants
//!   1. A function with reserved concurrency never runs more calls than that, and is never refused below it.
//!   2. Functions without one together never run more calls than the account's limit.

use std::collections::HashMap;
use std::sync::Arc;

use model::{AccountId, FunctionRef, FunctionVersion, ThrottleReason};
use parking_lot::Mutex;

/// Counts calls against configured limits.
#[derive(Debug)]
pub(crate) struct Admission {
    account_limit: u32,
    running: Mutex<Running>,
}

#[derive(Debug, Default)]
struct Running {
    unreserved: HashMap<AccountId, u32>,
    reserved: HashMap<FunctionRef, u32>,
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
    /// Admission where each account may run `account_limit` calls of functions without reserved concurrency.
    pub(crate) fn new(account_limit: u32) -> Arc<Self> {
        Arc::new(Self { account_limit, running: Mutex::default() })
    }

    /// A place for one call, or the limit that is reached.
    pub(crate) fn admit(self: &Arc<Self>, version: &FunctionVersion) -> Result<Permit, ThrottleReason> {
        let mut running = self.running.lock();
        let place = match version.reserved_concurrency {
            Some(limit) => {
                take(&mut running.reserved, &version.function, limit)
                    .map_err(|()| ThrottleReason::ReservedFunctionConcurrentInvocationLimitExceeded)?;
                Place::Reserved(version.function.clone())
            }
            None => {
                take(&mut running.unreserved, &version.function.account, self.account_limit)
                    .map_err(|()| ThrottleReason::ConcurrentInvocationLimitExceeded)?;
                Place::Unreserved(version.function.account.clone())
            }
        };
        Ok(Permit { admission: self.clone(), place })
    }

    /// Whether a call would be admitted now.
    pub(crate) fn check(self: &Arc<Self>, version: &FunctionVersion) -> Result<(), ThrottleReason> {
        self.admit(version).map(drop)
    }
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

fn take<K: Clone + Eq + std::hash::Hash>(counts: &mut HashMap<K, u32>, key: &K, limit: u32) -> Result<(), ()> {
    match counts.get_mut(key) {
        Some(count) if *count < limit => *count += 1,
        None if limit > 0 => {
            counts.insert(key.clone(), 1);
        }
        _ => return Err(()),
    }
    Ok(())
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
        let admission = Admission::new(10);
        let mut version = version("f");
        version.reserved_concurrency = Some(0);
        assert_eq!(
            admission.admit(&version).unwrap_err(),
            ThrottleReason::ReservedFunctionConcurrentInvocationLimitExceeded
        );
    }

    #[test]
    fn a_reserved_function_is_not_refused_for_others() {
        let admission = Admission::new(1);
        let plain = version("plain");
        let mut reserved = version("reserved");
        reserved.reserved_concurrency = Some(1);
        let _held = admission.admit(&plain).unwrap();
        assert_eq!(admission.admit(&plain).unwrap_err(), ThrottleReason::ConcurrentInvocationLimitExceeded);
        let _also = admission.admit(&reserved).unwrap();
        assert!(admission.check(&reserved).is_err());
    }

    proptest! {
        #[test]
        fn never_more_than_the_limits_and_nothing_left_behind(
            limit in 0u32..6,
            reserved in 0u32..4,
            steps in proptest::collection::vec((any::<bool>(), any::<bool>()), 0..80),
        ) {
            let admission = Admission::new(limit);
            let plain = version("plain");
            let mut kept = version("kept");
            kept.reserved_concurrency = Some(reserved);
            let mut held: [Vec<Permit>; 2] = [Vec::new(), Vec::new()];
            for (come, which) in steps {
                let (function, most) = if which { (&kept, reserved) } else { (&plain, limit) };
                let held = &mut held[usize::from(which)];
                if come {
                    let permit = admission.admit(function);
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

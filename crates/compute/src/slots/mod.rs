//! Limits over several nodes: reserved and account concurrency as leases of slots, kept in the store.
//!
//! A node admits as many calls as it holds slots, by counters of its own; only to get more, and to renew, it writes.
//! No clocks are compared: a holder that does not renew is dead to each other node once that node has seen it stand
//! still for a whole lease, and a holder admits nothing when its own lease has not been renewed for less than that.
//!
//! Invariants
//!   1. Nodes that live and nodes that were just lost together never admit more than the limit. They may admit less:
//!      for a lease after a node died, and for a renewal after wants have changed.
//!   2. A node that is alone over its store writes nothing for limits (`EngineConfig`, one process over one folder).
//!
//! Start reading at `Slots::admit`.

mod share;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use base::Clock;
use model::{AccountId, FunctionRef, FunctionVersion, ThrottleReason};
use parking_lot::Mutex;
use store::{Store, Txn};
use tokio::time::sleep;

use crate::admission::{Admission, Permit};
use share::{Ask, Record};

/// How long a holder that does not renew is believed to be alive.
const LEASE_US: u64 = 10_000_000;
/// How long a holder admits after its last renewal began. The rest is for clocks that go differently.
const VALID_US: u64 = 7_000_000;
/// How often leases are renewed.
pub(crate) const RENEW_EVERY: Duration = Duration::from_secs(2);
/// How long a node without a slot waits for those that others give back.
const FIRST_WAIT: Duration = Duration::from_millis(3_000);
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// How often a renewal is tried against those of others.
const ATTEMPTS: usize = 16;

/// What is limited.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Limit {
    /// Calls of an account's functions without reserved concurrency.
    Account(AccountId),
    /// Calls of a function with reserved concurrency.
    Function(FunctionRef),
}

impl Limit {
    /// What bounds the calls of a version.
    pub(crate) fn of(version: &FunctionVersion) -> Self {
        match version.reserved_concurrency {
            Some(_) => Self::Function(version.function.clone()),
            None => Self::Account(version.function.account.clone()),
        }
    }

    fn key(&self) -> Vec<u8> {
        let text = match self {
            Self::Account(account) => format!("account/{account}"),
            Self::Function(function) => function.arn(),
        };
        [&[model::prefixes::SLOTS.byte], text.as_bytes()].concat()
    }
}

/// This node's slots of every limit that it uses.
pub(crate) struct Slots {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    node: String,
    held: Mutex<HashMap<Limit, Held>>,
}

#[derive(Default)]
struct Held {
    limit: u32,
    may: u32,
    /// Until when `may` holds: monotonic microseconds.
    valid_until_us: u64,
    /// Most calls that ran or asked since the last renewal.
    peak: u32,
    /// Other holders' beats, and when they were first seen.
    seen: HashMap<String, (u64, u64)>,
    /// One renewal at a time.
    renewing: Arc<tokio::sync::Mutex<()>>,
}

impl Held {
    /// Slots that may be used at this time.
    fn usable(&self, now_us: u64) -> u32 {
        if now_us < self.valid_until_us { self.may.min(self.limit) } else { 0 }
    }
}

impl Slots {
    /// Slots of this node, by whatever name it has while it runs.
    pub(crate) fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>, node: String) -> Self {
        Self { store, clock, node, held: Mutex::default() }
    }

    /// A place for one call, of the slots that this node holds or can get.
    pub(crate) async fn admit(
        &self,
        admission: &Arc<Admission>,
        version: &FunctionVersion,
    ) -> Result<Permit, ThrottleReason> {
        let limit = Limit::of(version);
        let most = admission.limit(version);
        let mut waited = Duration::ZERO;
        loop {
            let running = admission.running(&limit);
            let may = self.may(&limit, most, running + 1);
            let refused = match admission.admit(version, self.clock.monotonic_us(), may) {
                Err(reason) if may < most && running >= may => reason,
                // What was given back meanwhile is no longer this node's.
                Ok(_) if admission.running(&limit) > self.may(&limit, most, 0) => continue,
                end => return end,
            };
            if self.renew(admission, &limit, may).await > may {
                continue;
            }
            // Whoever holds all slots learns of this node with its next renewal.
            if may > 0 || waited >= FIRST_WAIT {
                return Err(refused);
            }
            sleep(FIRST_PAUSE).await;
            waited += FIRST_PAUSE;
        }
    }

    /// Slots of `most` that are held now; notes how many could be used.
    fn may(&self, limit: &Limit, most: u32, wanted: u32) -> u32 {
        let now_us = self.clock.monotonic_us();
        let mut all = self.held.lock();
        if !all.contains_key(limit) {
            all.insert(limit.clone(), Held::default());
        }
        let Some(held) = all.get_mut(limit) else { return 0 };
        held.limit = most;
        held.peak = held.peak.max(wanted.min(most));
        held.usable(now_us)
    }

    /// Renews the lease of one limit, unless another call has got more than `had` meanwhile; how many slots it now has.
    async fn renew(&self, admission: &Admission, limit: &Limit, had: u32) -> u32 {
        let Some(renewing) = self.held.lock().get(limit).map(|held| held.renewing.clone()) else { return 0 };
        let _one = renewing.lock().await;
        let has = self.held.lock().get(limit).map_or(0, |held| held.usable(self.clock.monotonic_us()));
        if has > had {
            return has;
        }
        let key = limit.key();
        for _ in 0..ATTEMPTS {
            let began_us = self.clock.monotonic_us();
            let Ok(entry) = self.store.get(&key).await.inspect_err(warn) else { return 0 };
            let mut record: Record =
                entry.as_ref().and_then(|entry| serde_json::from_slice(&entry.value).ok()).unwrap_or_default();
            let Some(may) = self.decide(admission, limit, &mut record, began_us) else { return 0 };
            let txn = Txn::new().expect_unchanged(key.clone(), entry.as_ref()).relaxed();
            let txn = match serde_json::to_vec(&record) {
                Ok(value) if !record.holders.is_empty() => txn.put(key.clone(), value),
                _ if entry.is_none() => return 0,
                _ => txn.delete(key.clone()),
            };
            match self.store.commit(txn).await {
                Ok(_) => {
                    if let Some(held) = self.held.lock().get_mut(limit) {
                        held.may = may;
                        held.valid_until_us = began_us + VALID_US;
                    }
                    return may;
                }
                Err(store::Error::Conflict | store::Error::TooOld) => {}
                Err(error) => {
                    warn(&error);
                    return 0;
                }
            }
        }
        0
    }

    /// What this node has in the record from now on.
    fn decide(&self, admission: &Admission, limit: &Limit, record: &mut Record, now_us: u64) -> Option<u32> {
        let mut all = self.held.lock();
        let held = all.get_mut(limit)?;
        held.seen.retain(|node, _| record.holders.contains_key(node));
        record.holders.retain(|node, holder| {
            if *node == self.node {
                return true;
            }
            let (beat, since_us) = held.seen.entry(node.clone()).or_insert((holder.beat, now_us));
            if *beat != holder.beat {
                (*beat, *since_us) = (holder.beat, now_us);
            }
            now_us.saturating_sub(*since_us) < LEASE_US
        });
        let wanted = Ask { limit: held.limit, running: admission.running(limit), want: held.peak };
        // Lowered before it is counted what runs: a call that is let in by the former number then sees the new one.
        let may = record.clone().renew(&self.node, wanted);
        held.may = held.may.min(may);
        drop(all);
        let running = admission.running(limit);
        Some(record.renew(&self.node, Ask { running, ..wanted }))
    }

    /// Renews all leases, and gives back those that were not used since the last time.
    pub(crate) async fn renew_all(&self, admission: &Admission) {
        let in_use: Vec<Limit> = {
            let all = self.held.lock();
            all.iter().filter(|(_, held)| held.valid_until_us > 0).map(|(limit, _)| limit.clone()).collect()
        };
        for limit in in_use {
            self.renew(admission, &limit, u32::MAX).await;
            let running = admission.running(&limit);
            let mut all = self.held.lock();
            let Some(held) = all.get_mut(&limit) else { continue };
            let given_back = held.peak == 0 && running == 0;
            held.peak = running;
            if given_back {
                held.valid_until_us = 0;
                // What was seen of others tells later whether they are dead.
                if held.seen.is_empty() {
                    all.remove(&limit);
                }
            }
        }
    }
}

fn warn(error: &store::Error) {
    tracing::warn!(%error, "slots of a limit could not be renewed");
}

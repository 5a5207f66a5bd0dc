//! Who has which entry of a queue, and until when: no two at once, and none lost.

use std::collections::BTreeMap;

use bytes::Bytes;
use store::{Claims, Version};

#[derive(Debug, Clone)]
struct Lease {
    version: Version,
    ends_ms: u64,
}

/// The entries that were offered and are not settled, by queue and id.
#[derive(Debug, Default, Clone)]
pub(crate) struct Leases {
    /// With the history of their leases, last first by need: a cut may undo the last ones.
    open: BTreeMap<Bytes, (Version, Vec<Lease>)>,
    settled: BTreeMap<Bytes, Version>,
}

impl Leases {
    pub(crate) fn offered(&mut self, id: &Bytes, version: Version) {
        self.open.entry(id.clone()).or_insert((version, Vec::new()));
    }

    pub(crate) fn settled(&mut self, id: &Bytes, version: Version) {
        self.settled.insert(id.clone(), version);
    }

    /// Takes note of a claim at `now_ms`, or says what is wrong with it.
    pub(crate) fn claimed(&mut self, claims: &Claims, now_ms: u64) -> Result<(), String> {
        for claimed in &claims.entries {
            let id = claimed.id.escape_ascii();
            if let Some(settled) = self.settled.get(&claimed.id) {
                return Err(format!("{id} was claimed by {}, but settled by {settled}", claimed.version));
            }
            let Some((_, leases)) = self.open.get_mut(&claimed.id) else {
                return Err(format!("{id} was claimed, but never offered"));
            };
            if let Some(last) = leases.last().filter(|last| last.ends_ms > now_ms) {
                return Err(format!(
                    "{id} was claimed by {} at {now_ms}, within the lease that {} has until {}",
                    claimed.version, last.version, last.ends_ms
                ));
            }
            if usize::from(claimed.attempts) != leases.len() + 1 {
                return Err(format!("{id} was taken {} times, not {}", leases.len() + 1, claimed.attempts));
            }
            leases.push(Lease { version: claimed.version, ends_ms: claimed.lease_ends_ms });
        }
        Ok(())
    }

    /// Forgets what was committed after `version`.
    pub(crate) fn truncate(&mut self, version: Version) {
        self.settled.retain(|_, settled| *settled <= version);
        self.open.retain(|_, (offered, leases)| {
            leases.retain(|lease| lease.version <= version);
            *offered <= version
        });
    }

    /// The ids that must be in their queue.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = &Bytes> {
        self.open.keys().filter(|id| !self.settled.contains_key(*id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use store::Claimed;

    fn claims(version: Version, attempts: u16, lease_ends_ms: u64) -> Claims {
        let claimed =
            Claimed { key: "q/x".into(), id: "x".into(), value: "v".into(), attempts, lease_ends_ms, version };
        Claims { entries: vec![claimed], next_in_ms: None }
    }

    #[test]
    fn an_entry_is_claimed_again_when_its_lease_has_ended_and_not_before() {
        let mut leases = Leases::default();
        assert!(leases.claimed(&claims(2, 1, 10), 0).is_err(), "never offered");
        leases.offered(&"x".into(), 1);
        leases.claimed(&claims(2, 1, 10), 0).unwrap();
        assert!(leases.clone().claimed(&claims(3, 2, 20), 9).is_err(), "within the lease");
        assert!(leases.clone().claimed(&claims(3, 1, 20), 10).is_err(), "one attempt is forgotten");
        leases.claimed(&claims(3, 2, 20), 10).unwrap();
        leases.truncate(2);
        leases.claimed(&claims(3, 2, 20), 10).unwrap();
        assert_eq!(leases.waiting().count(), 1);
        leases.settled(&"x".into(), 4);
        assert_eq!(leases.waiting().count(), 0);
        assert!(leases.claimed(&claims(5, 3, 90), 50).is_err(), "settled");
    }
}

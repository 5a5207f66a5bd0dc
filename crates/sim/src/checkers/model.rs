//! The serial model: one transaction after another over a sorted map that keeps every version of every key.
//!
//! It shares nothing with the store but the contract's words, and is written to be obviously right.

use std::collections::BTreeMap;

use bytes::Bytes;
use store::due::Due;
use store::{Claim, Claimed, Claims, Durability, Entry, Expect, Op, Page, Range, Txn, Version};

use crate::env::MARKS;

/// A transaction or a claim.
#[derive(Debug, Clone)]
pub(crate) enum Work {
    Commit(Txn),
    Claim(Claim),
}

impl Work {
    pub(crate) fn is_flushed(&self) -> bool {
        let durability = match self {
            Self::Commit(txn) => txn.durability,
            Self::Claim(claim) => claim.durability,
        };
        durability == Durability::Flushed
    }

    /// Whether it leaves a mark that tells that it happened.
    pub(crate) fn has_mark(&self) -> bool {
        let is_mark = |op: &Op| matches!(op, Op::PutNumbered { prefix, .. } if prefix == MARKS);
        matches!(self, Self::Commit(txn) if txn.ops.iter().any(is_mark))
    }
}

#[derive(Debug, Default)]
pub(crate) struct Model {
    current: Version,
    /// Every write of every key, oldest first; none where it deletes.
    keys: BTreeMap<Bytes, Vec<(Version, Option<Bytes>)>>,
}

impl Model {
    /// The last commit.
    pub(crate) fn current(&self) -> Version {
        self.current
    }

    pub(crate) fn get(&self, key: &[u8], at: Version) -> Option<Entry> {
        let (key, writes) = self.keys.get_key_value(key)?;
        entry(key, writes, at)
    }

    pub(crate) fn range(&self, range: &Range, at: Version) -> Page {
        let mut entries: Vec<Entry> = Vec::new();
        for (key, writes) in self.keys.iter().filter(|(key, _)| range.contains(key)) {
            entries.extend(entry(key, writes, at));
        }
        if range.reverse {
            entries.reverse();
        }
        let mut bytes = 0;
        let mut most = 0;
        for entry in &entries {
            if most == range.rows || (bytes >= range.bytes && most > 0) {
                break;
            }
            bytes += entry.key.len() + entry.value.len();
            most += 1;
        }
        let more = most < entries.len();
        entries.truncate(most);
        Page { entries, more }
    }

    /// Whether an expectation holds at a version.
    pub(crate) fn holds(&self, expect: &Expect, at: Version) -> bool {
        match expect {
            Expect::Version(key, version) => self.get(key, at).is_some_and(|entry| entry.version == *version),
            Expect::Absent(key) => self.get(key, at).is_none(),
            Expect::Present(key) => self.get(key, at).is_some(),
            Expect::RangeUnchanged(range, since) => !self.changed(range, *since, at),
        }
    }

    /// Whether a key of the range was written after `since`, up to `at`.
    pub(crate) fn changed(&self, range: &Range, since: Version, at: Version) -> bool {
        let within = |(version, _): &(Version, Option<Bytes>)| *version > since && *version <= at;
        self.keys.iter().any(|(key, writes)| range.contains(key) && writes.iter().any(within))
    }

    /// Commits the next transaction, or says why that is not possible.
    pub(crate) fn commit(&mut self, txn: &Txn, now_ms: u64) -> Result<(), String> {
        let (before, version) = (self.current, self.current + 1);
        if let Some(broken) = txn.expects.iter().find(|expect| !self.holds(expect, before)) {
            return Err(format!("commit {version} was acknowledged, but this did not hold: {broken:?}"));
        }
        self.current = version;
        for op in &txn.ops {
            match op {
                Op::Put(key, value) => self.write(key.clone(), Some(value.clone())),
                Op::Delete(key) => self.write(key.clone(), None),
                Op::Add(key, by) => {
                    let earlier = self.get(key, version).map_or(Ok(0), |entry| {
                        entry.value[..].try_into().map(i64::from_le_bytes).map_err(|_| {
                            format!("commit {version} was acknowledged, but adds to a text at {}", key.escape_ascii())
                        })
                    })?;
                    self.write(key.clone(), Some(Bytes::copy_from_slice(&earlier.wrapping_add(*by).to_le_bytes())));
                }
                Op::PutNumbered { prefix, suffix, value } => {
                    let key = [&prefix[..], &version.to_be_bytes(), &suffix[..]].concat();
                    self.write(key.into(), Some(value.clone()));
                }
                Op::Offer { prefix, id, delay_ms, attempts, value } => {
                    let due = Due { at_ms: now_ms + delay_ms, attempts: *attempts };
                    self.write(due.key(prefix, id), Some(value.clone()));
                }
            }
        }
        Ok(())
    }

    /// What a claim takes as the next commit; nothing is committed if it takes nothing.
    pub(crate) fn claim(&mut self, claim: &Claim, now_ms: u64) -> Result<Claims, String> {
        let version = self.current + 1;
        let lease_ends_ms = now_ms + claim.lease_ms;
        let mut claims = Claims::default();
        for entry in self.range(&Range::prefix(claim.prefix.clone()).rows(claim.entries), self.current).entries {
            let (due, id) = Due::of(claim.prefix.len(), &entry.key).map_err(|error| error.to_string())?;
            if due.at_ms > now_ms {
                break;
            }
            let attempts = due.attempts + 1;
            let key = Due { at_ms: lease_ends_ms, attempts }.key(&claim.prefix, &id);
            claims.entries.push(Claimed { key, id, value: entry.value, attempts, lease_ends_ms, version });
            self.current = version;
            self.write(entry.key, None);
        }
        for claimed in &claims.entries {
            self.write(claimed.key.clone(), Some(claimed.value.clone()));
        }
        Ok(claims)
    }

    fn write(&mut self, key: Bytes, value: Option<Bytes>) {
        let writes = self.keys.entry(key).or_default();
        match writes.last_mut().filter(|(version, _)| *version == self.current) {
            Some((_, last)) => *last = value,
            None => writes.push((self.current, value)),
        }
    }

    /// Takes back all after `version`.
    pub(crate) fn truncate(&mut self, version: Version) {
        self.current = version;
        self.keys.retain(|_, writes| {
            writes.retain(|(written, _)| *written <= version);
            !writes.is_empty()
        });
    }
}

fn entry(key: &Bytes, writes: &[(Version, Option<Bytes>)], at: Version) -> Option<Entry> {
    let (version, value) = writes.iter().rev().find(|(version, _)| *version <= at)?;
    Some(Entry { key: key.clone(), value: value.clone()?, version: *version })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_version_can_be_read_and_later_ones_taken_back() {
        let mut model = Model::default();
        model.commit(&Txn::new().put("a", "1").add("n", 2).put_numbered("s/", "", "x"), 0).unwrap();
        model.commit(&Txn::new().delete("a").add("n", 3), 0).unwrap();
        assert_eq!(model.get(b"a", 1).unwrap().value, "1");
        assert_eq!(model.get(b"a", 2), None);
        assert_eq!(model.get(b"n", 2).unwrap().value[0], 5);
        assert_eq!(model.range(&Range::prefix("").rows(1), 1).entries[0].key, "a");
        assert!(model.changed(&Range::prefix("a"), 1, 2) && !model.changed(&Range::prefix("a"), 1, 1));
        model.truncate(1);
        assert_eq!(model.get(b"a", 1), model.get(b"a", 9));
        assert!(model.commit(&Txn::new().expect_absent("a"), 0).is_err());
    }
}

//! One API as a whole: read in one snapshot, changed in memory by a pure decision, written back as the parts that differ.
//!
//! Invariants
//!   1. A change is committed only if no part of its API was touched since it was read, so that rules between parts
//!      (one resource per path, one route per key, no stage without its deployment) always hold.
//!   2. What deployments serve is not a part: it is written once, when a deployment is made, and never changed.

use std::collections::BTreeMap;

use aws::{Call, Error};
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use store::{Range, Txn};

use super::{Apis, error, keys};

/// How often a change is tried against others of the same API.
const ATTEMPTS: usize = 64;

/// Parts by kind and name.
pub(super) type PartMap = BTreeMap<(u8, String), Bytes>;

/// What deployments of a document became in one change.
#[derive(Debug, Default, Clone)]
pub(super) struct Frozen {
    /// New deployments and what they serve.
    pub(super) made: BTreeMap<String, Bytes>,
    /// Deployments that are gone.
    pub(super) dropped: Vec<String>,
}

/// A kind of API.
pub(super) trait Document: Sized + Send {
    /// The kind of the part that is the API itself.
    const KIND: u8;

    /// The document of these parts; nothing if the part that is the API itself is missing.
    fn from_parts(parts: &PartMap) -> Result<Option<Self>, Error>;

    /// Its parts.
    fn to_parts(&self) -> Result<PartMap, Error>;

    /// Account and region that own it.
    fn owner(&self) -> (&str, &str);

    /// What its deployments became since it was read.
    fn frozen(&self) -> &Frozen;

    /// Ids of all its deployments.
    fn deployment_ids(&self) -> Vec<String>;
}

/// The parts of one kind as records by name.
pub(super) fn records<T: DeserializeOwned>(parts: &PartMap, kind: u8) -> Result<BTreeMap<String, T>, Error> {
    let of_kind = parts.iter().filter(|((part, _), _)| *part == kind);
    of_kind.map(|((_, name), value)| Ok((name.clone(), decoded(value)?))).collect()
}

/// Adds records by name to the parts.
pub(super) fn put_records<T: Serialize>(
    parts: &mut PartMap,
    kind: u8,
    records: &BTreeMap<String, T>,
) -> Result<(), Error> {
    for (name, record) in records {
        parts.insert((kind, name.clone()), encoded(record)?);
    }
    Ok(())
}

/// A record as the store keeps it.
pub(super) fn encoded<T: Serialize>(record: &T) -> Result<Bytes, Error> {
    serde_json::to_vec(record).map(Bytes::from).map_err(Error::internal)
}

/// A record as the store kept it.
pub(super) fn decoded<T: DeserializeOwned>(value: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(value).map_err(Error::internal)
}

impl Apis {
    /// The parts of an API as they are now, and the state that they are of.
    async fn parts(&self, id: &str) -> Result<(PartMap, store::Version), Error> {
        let snapshot = self.store.snapshot().await.map_err(error::store)?;
        let page = snapshot.range(&Range::prefix(keys::parts(id))).await.map_err(error::store)?;
        let mut parts = PartMap::new();
        for entry in page.entries {
            let name = keys::part_name(&entry.key).ok_or_else(|| Error::internal("an API's key cannot be read"))?;
            parts.insert(name, entry.value);
        }
        Ok((parts, snapshot.version()))
    }

    fn owned<D: Document>(call: &Call, id: &str, parts: &PartMap) -> Result<D, Error> {
        let document = D::from_parts(parts)?;
        let here = (call.principal.account.as_str(), call.region.as_str());
        document.filter(|document| document.owner() == here).ok_or_else(|| error::no_such_api(call, id))
    }

    /// The API of this id, if it is the caller's.
    pub(super) async fn read<D: Document>(&self, call: &Call, id: &str) -> Result<D, Error> {
        let (parts, _) = self.parts(id).await?;
        Self::owned(call, id, &parts)
    }

    /// Changes an API. `decide` runs again when another change came first.
    pub(super) async fn change<D: Document, T: Send>(
        &self,
        call: &Call,
        id: &str,
        mut decide: impl FnMut(&mut D) -> Result<T, Error> + Send,
    ) -> Result<T, Error> {
        for _ in 0..ATTEMPTS {
            let (before, version) = self.parts(id).await?;
            let mut document: D = Self::owned(call, id, &before)?;
            let result = decide(&mut document)?;
            let after = document.to_parts()?;
            let txn = Txn::new().expect_range(Range::prefix(keys::parts(id)), version);
            let txn = difference(id, &before, &after, document.frozen(), txn);
            if txn.ops.is_empty() || self.committed(txn).await? {
                return Ok(result);
            }
        }
        Err(error::store(store::Error::Conflict))
    }

    /// Makes a new API. False: its id is taken.
    pub(super) async fn create<D: Document>(&self, id: &str, document: &D) -> Result<bool, Error> {
        let (account, region) = document.owner();
        let listed = keys::listed(account, region, D::KIND, id);
        let all = Range::prefix(keys::parts(id));
        let (taken, version) = self.parts(id).await?;
        if !taken.is_empty() {
            return Ok(false);
        }
        let txn = Txn::new().expect_range(all, version).put(listed, Bytes::new());
        let txn = difference(id, &PartMap::new(), &document.to_parts()?, document.frozen(), txn);
        self.committed(txn).await
    }

    /// Removes an API with all that belongs to it.
    pub(super) async fn remove<D: Document>(&self, call: &Call, id: &str) -> Result<(), Error> {
        for _ in 0..ATTEMPTS {
            let (before, version) = self.parts(id).await?;
            let document: D = Self::owned(call, id, &before)?;
            let (account, region) = document.owner();
            let gone = Frozen { dropped: document.deployment_ids(), ..Frozen::default() };
            let txn = Txn::new().expect_range(Range::prefix(keys::parts(id)), version).delete(keys::listed(
                account,
                region,
                D::KIND,
                id,
            ));
            if self.committed(difference(id, &before, &PartMap::new(), &gone, txn)).await? {
                return Ok(());
            }
        }
        Err(error::store(store::Error::Conflict))
    }

    /// Commits and forgets. False: another commit came first, decide again.
    async fn committed(&self, txn: Txn) -> Result<bool, Error> {
        let done = self.store.commit(txn).await;
        match done {
            Err(store::Error::Conflict | store::Error::TooOld) => Ok(false),
            done => {
                // Also after a failure: whether it happened is not known then.
                self.forget();
                done.map(|_| true).map_err(error::store)
            }
        }
    }

    /// A page of the APIs of one kind of the caller: the part that is the API itself, after `start`.
    pub(super) async fn list<T: DeserializeOwned>(
        &self,
        call: &Call,
        kind: u8,
        start: Option<&str>,
        most: usize,
    ) -> Result<(Vec<T>, Option<String>), Error> {
        let (account, region) = (call.principal.account.as_str(), call.region.as_str());
        let snapshot = self.store.snapshot().await.map_err(error::store)?;
        let mut range = Range::prefix(keys::list(account, region, kind)).rows(most + 1);
        if let Some(start) = start {
            range = range.beyond(keys::listed(account, region, kind, start));
        }
        let page = snapshot.range(&range).await.map_err(error::store)?;
        let (mut shown, mut last, mut more) = (Vec::new(), None, false);
        for entry in &page.entries {
            if shown.len() == most {
                more = true;
                break;
            }
            let id = keys::listed_id(&entry.key).ok_or_else(|| Error::internal("an API's key cannot be read"))?;
            if let Some(part) = snapshot.get(&keys::part(&id, kind, "")).await.map_err(error::store)? {
                shown.push(decoded(&part.value)?);
            }
            last = Some(id);
        }
        Ok((shown, last.filter(|_| more)))
    }
}

fn difference(id: &str, before: &PartMap, after: &PartMap, frozen: &Frozen, mut txn: Txn) -> Txn {
    for ((kind, name), value) in after {
        if before.get(&(*kind, name.clone())) != Some(value) {
            txn = txn.put(keys::part(id, *kind, name), value.clone());
        }
    }
    for (kind, name) in before.keys() {
        if !after.contains_key(&(*kind, name.clone())) {
            txn = txn.delete(keys::part(id, *kind, name));
        }
    }
    for (deployment, value) in &frozen.made {
        txn = txn.put(keys::frozen(id, deployment), value.clone());
    }
    for deployment in &frozen.dropped {
        txn = txn.delete(keys::frozen(id, deployment));
    }
    txn
}

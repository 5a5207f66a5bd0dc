//! Published versions: what a qualifier means, and how `$LATEST` becomes a version.
//!
//! A version's content is a record of its own and never changes. Which versions there are stands in the function's
//! record, so every change of that set also changes that record (`record`, invariant 2).
//!
//! Invariants
//!   1. A number is given once in the life of a function.
//!   2. A version uses its package as `$LATEST` does: the bytes stay as long as one of them needs them.

use std::sync::Arc;

use model::{FunctionRef, FunctionVersion};
use store::{Range, Snapshot, Txn, Version};

use super::record::{FunctionRecord, VersionId, VersionRecord};
use super::{Functions, alias, decoded, encoded, error, keys};

/// What a qualifier is by its form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Qualifier<'a> {
    /// A version, if there is one with this number.
    Version(VersionId),
    /// An alias, if there is one with this name.
    Alias(&'a str),
    /// Neither can have this text.
    Neither,
}

impl<'a> Qualifier<'a> {
    /// The qualifier of a reference; without one it means `$LATEST`.
    pub(super) fn of(function: &'a FunctionRef) -> Self {
        function.qualifier.as_deref().map_or(Self::Version(VersionId::Latest), Self::parse)
    }

    fn parse(text: &'a str) -> Self {
        match VersionId::parse(text) {
            Some(id) => Self::Version(id),
            None if text.contains('$') || text.bytes().all(|byte| byte.is_ascii_digit()) => Self::Neither,
            None => Self::Alias(text),
        }
    }
}

/// Where a reference leads: a version, and maybe a second one that gets a share of the calls.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Target {
    /// The version.
    pub(super) first: VersionId,
    /// The other one, with its share.
    pub(super) second: Option<(VersionId, f64)>,
}

impl FunctionRecord {
    /// Whether there is this version.
    pub(super) fn has(&self, id: VersionId) -> bool {
        match id {
            VersionId::Latest => true,
            VersionId::Number(number) => self.published.contains(&number),
        }
    }

    /// Where a reference to this function leads; nothing if its qualifier names nothing.
    pub(super) fn target(&self, function: &FunctionRef) -> Option<Target> {
        self.leads(Qualifier::of(function))
    }

    /// Where the text of a qualifier leads.
    pub(super) fn target_of(&self, qualifier: &str) -> Option<Target> {
        self.leads(Qualifier::parse(qualifier))
    }

    fn leads(&self, qualifier: Qualifier<'_>) -> Option<Target> {
        match qualifier {
            Qualifier::Version(id) => self.has(id).then_some(Target { first: id, second: None }),
            Qualifier::Alias(name) => {
                let alias = self.aliases.get(name)?;
                let second = alias.second.map(|second| (second.version, second.weight));
                Some(Target { first: alias.version, second })
            }
            Qualifier::Neither => None,
        }
    }
}

/// What a cached look-up of a reference has found.
#[derive(Debug, Clone)]
pub(super) enum Resolved {
    /// One version.
    One(Arc<FunctionVersion>),
    /// Two, each with a share of the calls.
    Two {
        /// The version that gets the rest.
        first: Arc<FunctionVersion>,
        /// The version that gets the share.
        second: Arc<FunctionVersion>,
        /// The share, from 0 to 1.
        weight: f64,
    },
}

impl Resolved {
    /// All versions that a call may run.
    pub(super) fn all(&self) -> impl Iterator<Item = &FunctionVersion> {
        let (first, second) = match self {
            Self::One(version) => (version, None),
            Self::Two { first, second, .. } => (first, Some(second)),
        };
        std::iter::once(first).chain(second).map(Arc::as_ref)
    }

    /// The version that one call runs; `random` is asked only where there is a choice.
    pub(super) fn choose(self, random: impl FnOnce() -> u64) -> Arc<FunctionVersion> {
        match self {
            Self::One(version) => version,
            Self::Two { first, second, weight } => {
                if alias::falls_to_second(weight, random()) {
                    second
                } else {
                    first
                }
            }
        }
    }
}

/// A version that was found.
pub(super) struct Found {
    /// The function's record.
    pub(super) record: FunctionRecord,
    /// Which version.
    pub(super) id: VersionId,
    /// What is in it.
    pub(super) version: VersionRecord,
}

/// What publishing came to.
pub(super) struct Published {
    /// Which version.
    pub(super) id: VersionId,
    /// What is in it.
    pub(super) version: VersionRecord,
    /// Whether it was made now; else nothing has changed since it was.
    pub(super) is_new: bool,
}

impl Functions {
    /// What a reference means. Of an alias with two versions it is the first.
    pub(super) async fn found(&self, function: &FunctionRef) -> Result<Found, aws::Error> {
        let missing = || error::function_not_found(&function.arn());
        let snapshot = self.store.snapshot().await.map_err(error::store)?;
        let (record, _) = existing_in(&*snapshot, function).await?;
        let id = record.target(function).ok_or_else(missing)?.first;
        let version = self.content(&*snapshot, function, &record, id).await?.ok_or_else(missing)?;
        Ok(Found { record, id, version })
    }

    /// What is in a version of a function whose record was read from the same snapshot.
    pub(super) async fn content(
        &self,
        snapshot: &dyn Snapshot,
        function: &FunctionRef,
        record: &FunctionRecord,
        id: VersionId,
    ) -> Result<Option<VersionRecord>, aws::Error> {
        let number = match id {
            VersionId::Latest => return Ok(Some(record.latest.clone())),
            VersionId::Number(number) => number,
        };
        let entry = snapshot.get(&keys::version(function, number)).await.map_err(error::store)?;
        entry.map(|entry| Ok(with_revision(decoded(&entry.value)?, record, number))).transpose()
    }

    /// Up to `most` published versions from a number on, in order, and the number that comes after them.
    pub(super) async fn contents(
        &self,
        snapshot: &dyn Snapshot,
        function: &FunctionRef,
        record: &FunctionRecord,
        from: u64,
        most: usize,
    ) -> Result<(Vec<(u64, VersionRecord)>, Option<u64>), aws::Error> {
        let mut range = Range::prefix(keys::versions(function)).rows(most.saturating_add(1));
        range.start = std::ops::Bound::Included(keys::version(function, from));
        let page = snapshot.range(&range).await.map_err(error::store)?;
        let mut found = Vec::new();
        for entry in &page.entries {
            let number = keys::number_of(&entry.key);
            let number = number.ok_or_else(|| aws::Error::internal("a version's key cannot be read"))?;
            if found.len() == most {
                return Ok((found, Some(number)));
            }
            found.push((number, with_revision(decoded(&entry.value)?, record, number)));
        }
        Ok((found, None))
    }

    /// Makes `$LATEST` of `record` a version, unless the last one that was published is like it. Within `txn` is the
    /// version's own record; the function's, and the use of its package, are the caller's to write.
    pub(super) async fn publish(
        &self,
        snapshot: &dyn Snapshot,
        function: &FunctionRef,
        record: &mut FunctionRecord,
        description: Option<&str>,
        txn: Txn,
    ) -> Result<(Txn, Published), aws::Error> {
        let last = VersionId::Number(record.next_version.saturating_sub(1));
        if record.has(last)
            && let Some(version) = self.content(snapshot, function, record, last).await?
            && version.is_like(&record.latest)
        {
            return Ok((txn, Published { id: last, version, is_new: false }));
        }
        let number = record.next_version;
        record.next_version += 1;
        record.published.insert(number);
        let version = VersionRecord {
            modified_ms: self.clock.now_ms(),
            revision_id: self.random.uuid(),
            description: description.map(str::to_owned),
            ..record.latest.clone()
        };
        let key = keys::version(function, number);
        let txn = txn.expect_absent(key.clone()).put(key, encoded(&version)?);
        Ok((txn, Published { id: VersionId::Number(number), version, is_new: true }))
    }

    /// The versions that environments of a reference are started from.
    pub(super) async fn resolved(&self, function: &FunctionRef) -> Result<Option<Resolved>, aws::Error> {
        if Qualifier::of(function) == Qualifier::Version(VersionId::Latest) {
            let record = self.record(function).await?;
            return Ok(record
                .map(|record| Resolved::One(Arc::new(record.runnable(function, VersionId::Latest, &record.latest)))));
        }
        let snapshot = self.store.snapshot().await.map_err(error::store)?;
        let Some(entry) = snapshot.get(&keys::function(function)).await.map_err(error::store)? else {
            return Ok(None);
        };
        let record: FunctionRecord = decoded(&entry.value)?;
        let Some(target) = record.target(function) else { return Ok(None) };
        let Some(first) = self.runnable(&*snapshot, function, &record, target.first).await? else { return Ok(None) };
        let Some((id, weight)) = target.second else { return Ok(Some(Resolved::One(first))) };
        let second = self.runnable(&*snapshot, function, &record, id).await?;
        Ok(second.map(|second| Resolved::Two { first, second, weight }))
    }

    async fn runnable(
        &self,
        snapshot: &dyn Snapshot,
        function: &FunctionRef,
        record: &FunctionRecord,
        id: VersionId,
    ) -> Result<Option<Arc<FunctionVersion>>, aws::Error> {
        let version = self.content(snapshot, function, record, id).await?;
        Ok(version.map(|version| Arc::new(record.runnable(function, id, &version))))
    }
}

/// The record of a function that must be there, whatever qualifier the reference has, and the commit that wrote it.
pub(super) async fn existing_in(
    snapshot: &dyn Snapshot,
    function: &FunctionRef,
) -> Result<(FunctionRecord, Version), aws::Error> {
    let entry = snapshot.get(&keys::function(function)).await.map_err(error::store)?;
    let entry = entry.ok_or_else(|| error::function_not_found(&function.arn()))?;
    Ok((decoded(&entry.value)?, entry.version))
}

/// A version as it is shown: with the `RevisionId` that the last change of its policy gave it.
fn with_revision(version: VersionRecord, record: &FunctionRecord, number: u64) -> VersionRecord {
    match record.version_revisions.get(&number) {
        Some(revision) => VersionRecord { revision_id: revision.clone(), ..version },
        None => version,
    }
}

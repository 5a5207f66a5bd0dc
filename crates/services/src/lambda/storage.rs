//! How many bytes of code an account keeps in a region: what account settings show, and what is refused beyond the limit.
//!
//! A package counts once, however many functions, versions and layers of the account have it, as its bytes are kept once;
//! container images do not count, as on AWS.
//!
//! Invariant: what a call would keep beyond the limit is refused, by what its snapshot holds. Only calls at the same moment, and
//! other nodes within `BOUND_MS`, are not seen, so that not every call reads what all others have kept.

use std::collections::{BTreeMap, HashMap};

use model::{AccountId, CodeDigest, FunctionRef, Region};
use parking_lot::Mutex;
use store::{Range, Snapshot};

use super::record::{FunctionRecord, LayerVersionRecord, VersionRecord};
use super::{Functions, decoded, error, keys};

/// How long it is trusted that what was read and what was kept since is all there is.
const BOUND_MS: u64 = 60_000;

/// What an account keeps in a region.
pub(super) struct Stored {
    /// Its functions.
    pub(super) functions: Vec<FunctionRecord>,
    /// Bytes of each package, and how often it is there.
    packages: BTreeMap<CodeDigest, (u64, usize)>,
}

impl Stored {
    /// Bytes of all packages.
    pub(super) fn bytes(&self) -> u64 {
        self.packages.values().map(|(bytes, _)| bytes).sum()
    }

    /// The same, once a package has come and maybe another one has gone that had one use less.
    fn with(&self, brought: Package<'_>, replaced: Option<&CodeDigest>) -> u64 {
        let more = if self.packages.contains_key(brought.code) { 0 } else { brought.bytes };
        let gone = replaced.filter(|code| *code != brought.code).and_then(|code| self.packages.get(code));
        let less = gone.filter(|(_, uses)| *uses == 1).map_or(0, |(bytes, _)| *bytes);
        (self.bytes() + more).saturating_sub(less)
    }

    fn add(&mut self, code: CodeDigest, bytes: u64) {
        self.packages.entry(code).or_insert((bytes, 0)).1 += 1;
    }
}

/// A package that a call brings.
#[derive(Debug, Clone, Copy)]
pub(super) struct Package<'a> {
    /// Its name.
    pub(super) code: &'a CodeDigest,
    /// Its bytes; zero of an image.
    pub(super) bytes: u64,
}

impl<'a> From<&'a VersionRecord> for Package<'a> {
    fn from(version: &'a VersionRecord) -> Self {
        Self { code: &version.code, bytes: version.code_bytes }
    }
}

/// For each account and region what it keeps at most, by what was read last.
#[derive(Debug, Default)]
pub(super) struct Bounds(Mutex<HashMap<(AccountId, Region), Bound>>);

#[derive(Debug, Clone, Copy)]
struct Bound {
    bytes: u64,
    read_ms: u64,
}

impl Bounds {
    /// Whether so many bytes more are certainly within the limit; then they are counted.
    fn have_room(&self, owner: &(AccountId, Region), bytes: u64, limit: u64, now_ms: u64) -> bool {
        let mut bounds = self.0.lock();
        let fresh = |bound: &&mut Bound| now_ms < bound.read_ms.saturating_add(BOUND_MS);
        let Some(bound) = bounds.get_mut(owner).filter(fresh) else { return false };
        let after = bound.bytes.saturating_add(bytes);
        if after <= limit {
            bound.bytes = after;
        }
        after <= limit
    }

    fn set(&self, owner: (AccountId, Region), bytes: u64, read_ms: u64) {
        self.0.lock().insert(owner, Bound { bytes, read_ms });
    }
}

impl Functions {
    /// What an account keeps in a region.
    pub(super) async fn stored(
        &self,
        snapshot: &dyn Snapshot,
        account: &str,
        region: &str,
    ) -> Result<Stored, aws::Error> {
        let mut stored = Stored { functions: Vec::new(), packages: BTreeMap::new() };
        let page = snapshot.range(&Range::prefix(keys::functions(account, region))).await.map_err(error::store)?;
        for entry in &page.entries {
            let record: FunctionRecord = decoded(&entry.value)?;
            stored.add(record.latest.code.clone(), record.latest.code_bytes);
            stored.functions.push(record);
        }
        let page = snapshot.range(&Range::prefix(keys::versions_of(account, region))).await.map_err(error::store)?;
        for entry in &page.entries {
            let version: VersionRecord = decoded(&entry.value)?;
            stored.add(version.code, version.code_bytes);
        }
        let layers = Range::prefix(keys::layer_versions_of(account, region));
        let page = snapshot.range(&layers).await.map_err(error::store)?;
        for entry in &page.entries {
            let layer: LayerVersionRecord = decoded(&entry.value)?;
            stored.add(layer.code, layer.code_bytes);
        }
        Ok(stored)
    }

    /// Refuses a package that would take its account beyond the limit; `replaced` is what a function has in its place.
    pub(super) async fn check_storage(
        &self,
        snapshot: &dyn Snapshot,
        (account, region): (&AccountId, &Region),
        brought: Package<'_>,
        replaced: Option<&CodeDigest>,
    ) -> Result<(), aws::Error> {
        let (limit, now_ms) = (self.config.code_bytes_max, self.clock.now_ms());
        let owner = (account.clone(), region.clone());
        if brought.bytes == 0 || self.bounds.have_room(&owner, brought.bytes, limit, now_ms) {
            return Ok(());
        }
        let stored = self.stored(snapshot, account.as_str(), region.as_str()).await?;
        let bytes = stored.with(brought, replaced);
        if bytes > limit && bytes > stored.bytes() {
            return Err(error::user(400, "CodeStorageExceededException", "Code storage limit exceeded."));
        }
        self.bounds.set(owner, bytes, now_ms);
        Ok(())
    }

    /// The same of a function's next `$LATEST`.
    pub(super) async fn check_stored(
        &self,
        snapshot: &dyn Snapshot,
        function: &FunctionRef,
        next: &VersionRecord,
        before: Option<&VersionRecord>,
    ) -> Result<(), aws::Error> {
        let owner = (&function.account, &function.region);
        self.check_storage(snapshot, owner, next.into(), before.map(|version| &version.code)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(digit: char) -> CodeDigest {
        CodeDigest::parse(&digit.to_string().repeat(64)).unwrap()
    }

    #[test]
    fn a_package_counts_once_and_goes_with_its_last_use() {
        let mut stored = Stored { functions: Vec::new(), packages: BTreeMap::new() };
        let (a, b, c) = (digest('a'), digest('b'), digest('c'));
        for (code, bytes) in [(&a, 10), (&a, 10), (&b, 5)] {
            stored.add(code.clone(), bytes);
        }
        assert_eq!(stored.bytes(), 15);
        let brought = |code, bytes| Package { code, bytes };
        assert_eq!(stored.with(brought(&c, 3), None), 18);
        assert_eq!(stored.with(brought(&b, 5), None), 15, "it is there");
        assert_eq!(stored.with(brought(&c, 3), Some(&b)), 13);
        assert_eq!(stored.with(brought(&c, 3), Some(&a)), 18, "another has it");
        assert_eq!(stored.with(brought(&b, 5), Some(&b)), 15);
    }

    #[test]
    fn a_bound_counts_what_is_kept_and_is_trusted_for_a_while() {
        let (bounds, owner) = (Bounds::default(), (AccountId::default(), Region::default()));
        assert!(!bounds.have_room(&owner, 1, 100, 0), "nothing was read");
        bounds.set(owner.clone(), 90, 1_000);
        assert!(bounds.have_room(&owner, 6, 100, 1_000));
        assert!(!bounds.have_room(&owner, 6, 100, 1_000), "six of the ten are taken");
        assert!(bounds.have_room(&owner, 4, 100, 1_000));
        assert!(!bounds.have_room(&owner, 0, 100, 1_000 + BOUND_MS));
    }
}

//! Layers as they are kept: looked up for whoever may have them, and measured together with the functions that use them.
//!
//! The content of a layer version is a package like a function's code; the layer version is one user of it and each
//! version of a function that lists it another. So a layer version that is deleted is gone for new users only.
//!
//! Invariants
//!   1. A number is given once in the life of a layer: its record stays when all its versions are deleted.
//!   2. What a layer version holds never changes; its policy alone does.

use aws::{Call, Error};
use model::CodeDigest;
use store::{Range, Snapshot, Txn};

use super::layer::{self, LayerRef, LayerVersionRef};
use super::packages::{self, Package, UNPACKED_BYTES_MAX};
use super::record::{LayerUse, LayerVersionRecord, PackageRecord, VersionRecord};
use super::{Functions, decoded, encoded, error, keys};

/// Versions read at once in the search for one that fits.
const SEARCH_ROWS: usize = 50;

impl Functions {
    /// A version of a layer, if there is one.
    pub(super) async fn layer_version(
        &self,
        snapshot: &dyn Snapshot,
        version: &LayerVersionRef,
    ) -> Result<Option<LayerVersionRecord>, Error> {
        let entry = snapshot.get(&keys::layer_version(version)).await.map_err(error::store)?;
        entry.map(|entry| decoded(&entry.value)).transpose()
    }

    /// The same, if the caller's account may have it. Of another account's layers no caller learns which there are.
    pub(super) async fn layer_for(
        &self,
        snapshot: &dyn Snapshot,
        call: &Call,
        version: &LayerVersionRef,
    ) -> Result<Option<LayerVersionRecord>, Error> {
        let found = self.layer_version(snapshot, version).await?;
        let account = &call.principal.account;
        let allowed = version.layer.account == *account
            || found.as_ref().is_some_and(|record| layer::allows(&record.policy, account, version));
        if allowed { Ok(found) } else { Err(layer::denied(call, "GetLayerVersion", &version.arn())) }
    }

    /// The layers that a function is to have, in their order.
    pub(super) async fn layers_of(
        &self,
        snapshot: &dyn Snapshot,
        call: &Call,
        wanted: &[LayerVersionRef],
    ) -> Result<Vec<LayerUse>, Error> {
        let mut uses = Vec::new();
        for version in wanted {
            let found = self.layer_for(snapshot, call, version).await?;
            let LayerVersionRecord { code, code_bytes, without_bootstrap, .. } =
                found.ok_or_else(|| error::invalid(layer::absent(version)))?;
            uses.push(LayerUse { arn: version.arn(), code, code_bytes, without_bootstrap });
        }
        Ok(uses)
    }

    /// The newest versions of a layer that `fits` accepts, `most` at most, from the number `newest` downwards.
    pub(super) async fn newest_versions(
        &self,
        snapshot: &dyn Snapshot,
        layer: &LayerRef,
        newest: u64,
        most: usize,
        fits: impl Fn(&LayerVersionRecord) -> bool + Send,
    ) -> Result<Vec<(u64, LayerVersionRecord)>, Error> {
        let end = keys::layer_version(&layer.clone().version(newest.saturating_add(1)));
        let mut range = Range::between(keys::layer_versions(layer), end).rows(SEARCH_ROWS).reversed();
        let mut found = Vec::new();
        loop {
            let page = snapshot.range(&range).await.map_err(error::store)?;
            for entry in &page.entries {
                let number = keys::layer_number_of(&entry.key);
                let number = number.ok_or_else(|| Error::internal("the key of a layer version cannot be read"))?;
                let record: LayerVersionRecord = decoded(&entry.value)?;
                if fits(&record) {
                    found.push((number, record));
                }
                if found.len() == most {
                    return Ok(found);
                }
            }
            match page.entries.into_iter().next_back() {
                Some(last) if page.more => range = range.beyond(last.key),
                _ => return Ok(found),
            }
        }
    }

    /// Refuses a function whose code and layers are too large together. `brought` is the code that comes with the call.
    pub(super) async fn check_unpacked(
        &self,
        snapshot: &dyn Snapshot,
        version: &VersionRecord,
        brought: Option<&Package>,
    ) -> Result<(), Error> {
        if version.settings.layers.is_empty() {
            // Then the code alone was measured when it was taken.
            return Ok(());
        }
        let mut total = 0;
        for code in version.packages() {
            total += match brought.filter(|package| package.digest == *code) {
                Some(package) => package.unpacked_bytes,
                None => self.unpacked_bytes(snapshot, code).await?,
            };
        }
        if total > UNPACKED_BYTES_MAX {
            return Err(error::invalid(format!(
                "Function code combined with layers exceeds the maximum allowed size of {UNPACKED_BYTES_MAX} bytes. The actual size is {total} bytes."
            )));
        }
        Ok(())
    }

    /// Bytes of a package once unpacked; noted now where an earlier release has not.
    async fn unpacked_bytes(&self, snapshot: &dyn Snapshot, code: &CodeDigest) -> Result<u64, Error> {
        let key = keys::package(code);
        let entry = snapshot.get(&key).await.map_err(error::store)?;
        let entry = entry.ok_or_else(|| packages::without_record(code))?;
        let record: PackageRecord = decoded(&entry.value)?;
        if let Some(bytes) = record.unpacked_bytes {
            return Ok(bytes);
        }
        let zip = self.blobs.get(&record.blob).await.map_err(error::store)?;
        let zip = zip.ok_or_else(|| Error::internal(format_args!("the bytes of the package {code} are gone")))?;
        let bytes = packages::measured(zip).await?.unpacked_bytes;
        let noted = PackageRecord { unpacked_bytes: Some(bytes), ..record };
        // Whoever changes it in this moment leaves it to the next to measure it.
        self.committed(Txn::new().expect_version(key.clone(), entry.version).put(key, encoded(&noted)?)).await?;
        Ok(bytes)
    }
}

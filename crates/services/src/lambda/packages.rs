//! Code packages: checked before they are kept, kept once however many functions use them, removed when nobody does.
//!
//! Invariants
//!   1. A blob's name is used for one upload and never again, so removing it can never hit a later upload.
//!   2. Every blob is named by a `PackageRecord` or by a `Doomed` key that was written before it: nothing leaks,
//!      wherever a crash falls. What a power loss forgets is found at the next start.
//!   3. An upload that took too long is condemned before it is removed, and a function is only stored with an upload that
//!      is not: of the two transactions that race, one is a conflict.
//!   4. While a hold lasts (a backup is running), nothing is removed.
//!   5. A package that lost its last user stays readable for `GRACE_MS`: environments that are starting right now and
//!      links that were handed out still reach it.

use std::collections::HashSet;
use std::sync::Arc;

use base::archive;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use hmac::{Hmac, Mac};
use model::CodeDigest;
use sha2::{Digest, Sha256};
use store::references::Holds;
use store::{Range, Snapshot, Txn};

use super::Functions;
use super::record::{Doomed, PackageRecord};
use super::{error, keys};

/// Most bytes of a package sent inline. Source: Lambda quotas.
const ZIP_BYTES_MAX: usize = 52_428_800;
/// Most bytes of a package once unpacked. Source: Lambda quotas.
const UNPACKED_BYTES_MAX: u64 = 262_144_000;
/// Most files of a package; a bound on the work of unpacking it.
const ENTRIES_MAX: usize = 100_000;
/// How long a package without users, and a link to a package, last.
pub(super) const GRACE_MS: u64 = 10 * 60 * 1_000;
/// How long an upload may take until it counts as abandoned.
const UPLOAD_MS: u64 = 60 * 60 * 1_000;
/// What names of uploads begin with; the digest, `-` and random digits follow.
const UPLOADS: &str = "lambda/code/";
/// Most removals of one round.
const ROUND: usize = 256;

/// A package that fits every limit.
#[derive(Debug, Clone)]
pub(super) struct Package {
    /// Its name.
    pub(super) digest: CodeDigest,
    /// The zip.
    pub(super) zip: Bytes,
}

/// A blob that no record names yet.
#[derive(Debug, Clone)]
pub(super) struct Upload {
    blob: String,
    due_ms: u64,
}

/// Reads and checks the base64 text of a zip: its sizes, its names, its checksums.
pub(super) async fn checked(zip_file: &str) -> Result<Package, aws::Error> {
    let zip = BASE64.decode(zip_file).map_err(|_| error::invalid("Could not decode the base64 text of ZipFile."))?;
    if zip.is_empty() {
        return Err(nothing_in_it());
    }
    if zip.len() > ZIP_BYTES_MAX {
        return Err(error::too_large(format!("Zipped size must be smaller than {ZIP_BYTES_MAX} bytes")));
    }
    // Unpacking a quarter of a gigabyte takes a second: not on a thread that serves others.
    tokio::task::spawn_blocking(move || inspected(zip.into())).await.map_err(aws::Error::internal)?
}

fn nothing_in_it() -> aws::Error {
    error::invalid("Uploaded file must be a non-empty zip")
}

fn inspected(zip: Bytes) -> Result<Package, aws::Error> {
    let limits = archive::Limits { unpacked_bytes: UNPACKED_BYTES_MAX, entries: ENTRIES_MAX };
    match archive::inspect(&zip, limits) {
        Ok(_) => {}
        Err(archive::Error::Empty) => return Err(nothing_in_it()),
        Err(archive::Error::TooLarge(most)) => {
            return Err(error::invalid(format!("Unzipped size must be smaller than {most} bytes")));
        }
        Err(problem) => {
            return Err(error::invalid(format!(
                "Could not unzip uploaded file. Please check your file, then try to upload again. ({problem})"
            )));
        }
    }
    let digest = CodeDigest::parse(&hex::encode(Sha256::digest(&zip)))
        .ok_or_else(|| aws::Error::internal("a SHA-256 has 64 digits"))?;
    Ok(Package { digest, zip })
}

impl Functions {
    /// Keeps the bytes of a package that has no record yet.
    pub(super) async fn upload(&self, package: &Package) -> Result<Upload, aws::Error> {
        let upload = Upload {
            blob: format!("{UPLOADS}{}-{}", package.digest, self.random.hex(8)),
            due_ms: self.clock.now_ms() + UPLOAD_MS,
        };
        let doomed = Doomed { package: None, blob: upload.blob.clone(), condemned: false };
        let intent = Txn::new().put(keys::doomed(upload.due_ms, &upload.blob), super::encoded(&doomed)?).relaxed();
        self.store.commit(intent).await.map_err(error::store)?;
        self.blobs.put(&upload.blob, package.zip.clone()).await.map_err(error::store)?;
        Ok(upload)
    }

    /// Removes an upload that no record came to name. What fails here is removed when its time is over.
    pub(super) async fn discard(&self, upload: &Upload) {
        if let Err(problem) = self.blobs.delete(&upload.blob).await {
            tracing::warn!(%problem, blob = upload.blob, "an upload that is not needed is left for later");
            return;
        }
        let gone = Txn::new().delete(keys::doomed(upload.due_ms, &upload.blob)).relaxed();
        if let Err(problem) = self.store.commit(gone).await {
            tracing::warn!(%problem, blob = upload.blob, "a removed upload is still listed");
        }
    }

    /// Adds a user to a package within `txn`. Nothing is returned where the package has no record and `upload` is not
    /// there either, or was given up: upload, then try again.
    pub(super) async fn claim(
        &self,
        snapshot: &dyn Snapshot,
        code: &CodeDigest,
        upload: Option<&Upload>,
        txn: Txn,
    ) -> Result<Option<(Txn, Claim)>, aws::Error> {
        let key = keys::package(code);
        let entry = snapshot.get(&key).await.map_err(error::store)?;
        let (record, claim, txn) = match (&entry, upload) {
            (Some(entry), _) => {
                let record: PackageRecord = super::decoded(&entry.value)?;
                (PackageRecord { users: record.users + 1, due_ms: None, ..record }, Claim::Shared, txn)
            }
            (None, Some(upload)) => {
                let listed = keys::doomed(upload.due_ms, &upload.blob);
                let Some(entry) = snapshot.get(&listed).await.map_err(error::store)? else { return Ok(None) };
                if super::decoded::<Doomed>(&entry.value)?.condemned {
                    return Ok(None);
                }
                let record = PackageRecord { blob: upload.blob.clone(), users: 1, due_ms: None };
                (record, Claim::Uploaded, txn.expect_version(listed.clone(), entry.version).delete(listed))
            }
            (None, None) => return Ok(None),
        };
        let txn = txn.expect_unchanged(key.clone(), entry.as_ref()).put(key, super::encoded(&record)?);
        Ok(Some((txn, claim)))
    }

    /// Takes a user away from a package within `txn`; the last one dooms it.
    pub(super) async fn release(
        &self,
        snapshot: &dyn Snapshot,
        code: &CodeDigest,
        txn: Txn,
    ) -> Result<Txn, aws::Error> {
        let key = keys::package(code);
        let Some(entry) = snapshot.get(&key).await.map_err(error::store)? else {
            return Err(aws::Error::internal(format_args!("the package {code} has no record")));
        };
        let mut record: PackageRecord = super::decoded(&entry.value)?;
        record.users = record.users.saturating_sub(1);
        let mut txn = txn.expect_version(key.clone(), entry.version);
        if record.users == 0 {
            let due_ms = self.clock.now_ms() + GRACE_MS;
            record.due_ms = Some(due_ms);
            let doomed = Doomed { package: Some(code.clone()), blob: record.blob.clone(), condemned: false };
            txn = txn.put(keys::doomed(due_ms, &record.blob), super::encoded(&doomed)?);
        }
        Ok(txn.put(key, super::encoded(&record)?))
    }

    /// Removes bytes that nobody uses and whose time is over; says how many blobs went.
    pub async fn collect_garbage(&self) -> Result<usize, store::Error> {
        let (start, end) = keys::doomed_until(self.clock.now_ms());
        let mut removed = 0;
        let page = self.store.range(&Range::between(start, end).rows(ROUND)).await?;
        for entry in page.entries {
            let Ok(doomed) = serde_json::from_slice::<Doomed>(&entry.value) else {
                return Err(store::Error::Corrupt("a removal cannot be read".into()));
            };
            match self.unregister(doomed.clone(), &entry).await? {
                Verdict::Free => {
                    self.blobs.delete(&doomed.blob).await?;
                    removed += 1;
                }
                Verdict::Kept => {}
                Verdict::Later => continue,
            }
            self.store.commit(Txn::new().delete(entry.key).relaxed()).await?;
        }
        Ok(removed)
    }

    /// Lists for removal the uploads that nothing names: a power loss can take the note of one that it leaves, and a
    /// backup copies some that came after its state. Says how many there were.
    pub(super) async fn find_strays(&self) -> Result<usize, store::Error> {
        let (mut found, mut after) = (0, None::<String>);
        loop {
            let page = self.blobs.names(UPLOADS, after.as_deref(), ROUND).await?;
            // Read after the names: whatever was there had been noted before it was.
            let snapshot = self.store.snapshot().await?;
            let doomed = doomed_blobs(&*snapshot).await?;
            for blob in &page.names {
                if doomed.contains(blob) || is_registered(&*snapshot, blob).await? {
                    continue;
                }
                let due_ms = self.clock.now_ms() + UPLOAD_MS;
                let stray = Doomed { package: None, blob: blob.clone(), condemned: false };
                let stray = serde_json::to_vec(&stray).map_err(|problem| store::Error::Invalid(problem.to_string()))?;
                self.store.commit(Txn::new().put(keys::doomed(due_ms, blob), stray)).await?;
                found += 1;
            }
            after = page.names.into_iter().next_back().filter(|_| page.more);
            if after.is_none() {
                return Ok(found);
            }
        }
    }

    /// Makes sure that nobody can come to use doomed bytes any more. The removal stays listed until they are gone.
    async fn unregister(&self, doomed: Doomed, listed: &store::Entry) -> Result<Verdict, store::Error> {
        let snapshot = self.store.snapshot().await?;
        let holds = Holds::new(model::prefixes::BLOBS.byte);
        let Some(unheld) = holds.none(&*snapshot, self.clock.now_ms()).await? else { return Ok(Verdict::Later) };
        let mut txn = match &doomed.package {
            None if doomed.condemned => return Ok(Verdict::Free),
            None => {
                let condemned = serde_json::to_vec(&Doomed { condemned: true, ..doomed });
                let condemned = condemned.map_err(|problem| store::Error::Invalid(problem.to_string()))?;
                Txn::new().expect_version(listed.key.clone(), listed.version).put(listed.key.clone(), condemned)
            }
            Some(code) => {
                let key = keys::package(code);
                let Some(entry) = snapshot.get(&key).await? else { return Ok(Verdict::Free) };
                let record: PackageRecord = serde_json::from_slice(&entry.value)
                    .map_err(|problem| store::Error::Corrupt(problem.to_string()))?;
                if record.blob != doomed.blob {
                    return Ok(Verdict::Free);
                }
                let due = record.due_ms.is_some_and(|due_ms| keys::doomed(due_ms, &record.blob) == listed.key);
                if record.users > 0 || !due {
                    return Ok(Verdict::Kept);
                }
                Txn::new().expect_version(key.clone(), entry.version).delete(key)
            }
        };
        drop(snapshot);
        txn.expects.push(unheld);
        match self.store.commit(txn).await {
            Ok(_) => Ok(Verdict::Free),
            // Somebody took it in this moment, or holds it: the next round sees what it was.
            Err(store::Error::Conflict | store::Error::TooOld) => Ok(Verdict::Later),
            Err(other) => Err(other),
        }
    }

    /// A link under `endpoint` that gives the zip of a package for ten minutes to whoever holds it.
    pub(super) async fn package_link(&self, endpoint: &str, code: &CodeDigest) -> Result<String, aws::Error> {
        let expires_s = (self.clock.now_ms() + GRACE_MS) / 1_000;
        let secret = self.link_secret().await.map_err(error::store)?;
        let signature = hex::encode(link_mac(&secret, code, expires_s).finalize().into_bytes());
        Ok(format!("{endpoint}/_dunlin/code/{code}?X-Amz-Expires={expires_s}&X-Amz-Signature={signature}"))
    }

    /// The zip that a link of `GetFunction` leads to: `code` is the last part of its path, `query` what follows the
    /// question mark. Nothing if the link is not genuine, has ended, or its package is gone.
    pub async fn package_by_link(&self, code: &str, query: &str) -> Result<Option<Bytes>, store::Error> {
        let value = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        let (Some(code), Some(expires_s), Some(signature)) = (
            CodeDigest::parse(code),
            value("X-Amz-Expires").and_then(|text| text.parse::<u64>().ok()),
            value("X-Amz-Signature").and_then(|text| hex::decode(text).ok()),
        ) else {
            return Ok(None);
        };
        let secret = self.link_secret().await?;
        let genuine = link_mac(&secret, &code, expires_s).verify_slice(&signature).is_ok();
        if !genuine || expires_s <= self.clock.now_ms() / 1_000 {
            return Ok(None);
        }
        self.package_bytes(&code).await
    }

    /// The zip of a package that is registered.
    pub(super) async fn package_bytes(&self, code: &CodeDigest) -> Result<Option<Bytes>, store::Error> {
        let Some(entry) = self.store.get(&keys::package(code)).await? else { return Ok(None) };
        let record: PackageRecord =
            serde_json::from_slice(&entry.value).map_err(|problem| store::Error::Corrupt(problem.to_string()))?;
        self.blobs.get(&record.blob).await
    }

    /// The secret that signs links, made by whichever node needs it first.
    async fn link_secret(&self) -> Result<Arc<[u8]>, store::Error> {
        let key = keys::link_secret();
        loop {
            if let Some(secret) = self.link_secret.get() {
                return Ok(secret.clone());
            }
            if let Some(entry) = self.store.get(&key).await? {
                return Ok(self.link_secret.get_or_init(|| Arc::from(&entry.value[..])).clone());
            }
            let mut secret = [0; 32];
            self.random.fill(&mut secret);
            let made = Txn::new().expect_absent(key.clone()).put(key.clone(), secret.to_vec());
            match self.store.commit(made).await {
                Ok(_) | Err(store::Error::Conflict) => {}
                Err(other) => return Err(other),
            }
        }
    }
}

/// Every blob that is listed for removal.
async fn doomed_blobs(snapshot: &dyn Snapshot) -> Result<HashSet<String>, store::Error> {
    let mut all = HashSet::new();
    let (start, end) = keys::doomed_until(u64::MAX - 1);
    let mut range = Range::between(start, end).rows(ROUND);
    loop {
        let page = snapshot.range(&range).await?;
        for entry in &page.entries {
            let doomed: Doomed = serde_json::from_slice(&entry.value)
                .map_err(|_| store::Error::Corrupt("a removal cannot be read".into()))?;
            all.insert(doomed.blob);
        }
        match page.entries.into_iter().next_back() {
            Some(last) if page.more => range = range.beyond(last.key),
            _ => return Ok(all),
        }
    }
}

/// Whether a package has its bytes in this blob.
async fn is_registered(snapshot: &dyn Snapshot, blob: &str) -> Result<bool, store::Error> {
    let digest = blob.strip_prefix(UPLOADS).and_then(|rest| rest.split_once('-')).map(|(digest, _)| digest);
    let Some(code) = digest.and_then(CodeDigest::parse) else { return Ok(false) };
    let Some(entry) = snapshot.get(&keys::package(&code)).await? else { return Ok(false) };
    let record: PackageRecord =
        serde_json::from_slice(&entry.value).map_err(|problem| store::Error::Corrupt(problem.to_string()))?;
    Ok(record.blob == blob)
}

/// What may be done with doomed bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Nobody has them or ever will: they go.
    Free,
    /// They have users again.
    Kept,
    /// It cannot be said now.
    Later,
}

/// Whether a claim used the upload that came with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Claim {
    /// The package was there before.
    Shared,
    /// The upload became the package.
    Uploaded,
}

fn link_mac(secret: &[u8], code: &CodeDigest, expires_s: u64) -> Hmac<Sha256> {
    #[expect(clippy::expect_used, reason = "HMAC takes keys of every length")]
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes keys of every length");
    mac.update(format!("dunlin-package-link\n{code}\n{expires_s}").as_bytes());
    mac
}

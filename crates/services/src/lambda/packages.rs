//! Packages, the code of functions and the content of layers: checked before they are kept, kept once however many use them, removed when nobody does.
//!
//! A package has a record that counts its users; its bytes are a blob that the record owns (`store::references`, which
//! sees to uploads that nobody came to own, to crashes and to backups under way).
//!
//! Invariants
//!   1. Of two that store one package at once, one becomes its record and the other one's upload is abandoned.
//!   2. A package that lost its last user stays readable for `GRACE_MS`: environments that are starting right now and
//!      links that were handed out still reach it. Until then a new user gives it its life back.
//!   3. A package whose time is over is listed (`Doomed`) until its record is gone, in one transaction with the list.

use std::collections::BTreeMap;
use std::sync::Arc;

use base::archive;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use hmac::{Hmac, Mac};
use model::CodeDigest;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use store::references::Collected;
use store::{Range, Snapshot, Txn};

use super::Functions;
use super::record::{Doomed, PackageRecord, VersionRecord};
use super::{error, keys};

/// Most bytes of a package sent inline. Source: Lambda quotas.
const ZIP_BYTES_MAX: usize = 52_428_800;
/// Most bytes of a package once unpacked, and of a function's code and layers together. Source: Lambda quotas.
pub(super) const UNPACKED_BYTES_MAX: u64 = 262_144_000;
/// Most files of a package; a bound on the work of unpacking it.
const ENTRIES_MAX: usize = 100_000;
/// How long a package without users, and a link to a package, last.
pub(super) const GRACE_MS: u64 = 10 * 60 * 1_000;
/// How long bytes may lie that no record owns: longer than any upload takes.
pub(super) const UPLOAD_MS: u64 = 60 * 60 * 1_000;
/// What names of blobs begin with; the digest, `-` and random digits follow.
pub(super) const UPLOADS: &str = "lambda/code/";
/// The owner of the bytes of a package is its record.
const OWNER: &[u8] = b"package";
/// Most removals of one round.
const ROUND: usize = 256;

/// A package that fits every limit.
#[derive(Debug, Clone)]
pub(super) struct Package {
    /// Its name.
    pub(super) digest: CodeDigest,
    /// The zip.
    pub(super) zip: Bytes,
    /// Bytes of its files.
    pub(super) unpacked_bytes: u64,
    /// Whether it has a program, and no `bootstrap` beside it, which goes first as at AWS.
    pub(super) has_program: bool,
    /// Whether it has a `bootstrap` of neither kind.
    pub(super) without_bootstrap: bool,
}

/// The file that is a program.
const PROGRAM: &str = "bootstrap.wasm";
/// The file that is a custom runtime.
const BOOTSTRAP: &str = "bootstrap";

/// A package that comes with a call, or a layer of an image, and its upload once it was needed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Brought<'a> {
    /// Its name.
    pub(super) code: &'a CodeDigest,
    /// Bytes of its files; known where there is an upload.
    pub(super) unpacked_bytes: u64,
    /// Its upload.
    pub(super) upload: Option<&'a Upload>,
}

impl<'a> Brought<'a> {
    /// A package, with its upload if there is one.
    pub(super) fn package(package: &'a Package, upload: Option<&'a Upload>) -> Self {
        Self { code: &package.digest, unpacked_bytes: package.unpacked_bytes, upload }
    }
}

/// How many users each package gains by a transaction, or loses.
#[derive(Debug, Default)]
pub(super) struct Users(BTreeMap<CodeDigest, i64>);

impl Users {
    /// One package alone.
    pub(super) fn one(code: &CodeDigest, users: i64) -> Self {
        Self(BTreeMap::from([(code.clone(), users)]))
    }

    /// What a version of a function uses, so many times.
    pub(super) fn of(version: &VersionRecord, times: i64) -> Self {
        Self::default().and(version, times)
    }

    /// Those of another version too.
    pub(super) fn and(mut self, version: &VersionRecord, times: i64) -> Self {
        for code in version.packages() {
            *self.0.entry(code.clone()).or_default() += times;
        }
        self
    }

    /// So many users more of each layer of an image.
    pub(super) fn of_layers(mut self, layers: &[CodeDigest], times: i64) -> Self {
        for code in layers {
            *self.0.entry(code.clone()).or_default() += times;
        }
        self
    }

    fn changed(&self) -> impl Iterator<Item = (&CodeDigest, i64)> {
        self.0.iter().filter(|(_, users)| **users != 0).map(|(code, users)| (code, *users))
    }
}

/// A blob that no record owns yet.
#[derive(Debug, Clone)]
pub(super) struct Upload {
    pub(super) blob: String,
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
    measured(zip.into()).await
}

/// Reads and checks a whole zip.
pub(super) async fn measured(zip: Bytes) -> Result<Package, aws::Error> {
    // Unpacking a quarter of a gigabyte takes a second: not on a thread that serves others.
    tokio::task::spawn_blocking(move || inspected(zip)).await.map_err(aws::Error::internal)?
}

/// A package that somebody uses is not there.
pub(super) fn without_record(code: &CodeDigest) -> aws::Error {
    aws::Error::internal(format_args!("the package {code} has no record"))
}

fn nothing_in_it() -> aws::Error {
    error::invalid("Uploaded file must be a non-empty zip")
}

fn inspected(zip: Bytes) -> Result<Package, aws::Error> {
    let limits = archive::Limits { unpacked_bytes: UNPACKED_BYTES_MAX, entries: ENTRIES_MAX };
    let unpacked_bytes = match archive::inspect(&zip, limits) {
        Ok(bytes) => bytes,
        Err(archive::Error::Empty) => return Err(nothing_in_it()),
        Err(archive::Error::TooLarge(most)) => {
            return Err(error::invalid(format!("Unzipped size must be smaller than {most} bytes")));
        }
        Err(problem) => {
            return Err(error::invalid(format!(
                "Could not unzip uploaded file. Please check your file, then try to upload again. ({problem})"
            )));
        }
    };
    let digest = CodeDigest::parse(&hex::encode(Sha256::digest(&zip)))
        .ok_or_else(|| aws::Error::internal("a SHA-256 has 64 digits"))?;
    let has = |file: &str| archive::has_file(&zip, file).map_err(aws::Error::internal);
    let (program, bootstrap) = (has(PROGRAM)?, has(BOOTSTRAP)?);
    let (has_program, without_bootstrap) = (program && !bootstrap, !program && !bootstrap);
    Ok(Package { digest, zip, unpacked_bytes, has_program, without_bootstrap })
}

impl Functions {
    /// Keeps the bytes of a package that has no record yet.
    pub(super) async fn upload(&self, package: &Package) -> Result<Upload, aws::Error> {
        let blob = self.references.begin(package.digest.as_str()).await.map_err(error::store)?;
        self.blobs.put(&blob, package.zip.clone()).await.map_err(error::store)?;
        Ok(Upload { blob })
    }

    /// Removes an upload that no record came to own. What fails here is removed when its time is over.
    pub(super) async fn discard(&self, upload: &Upload) {
        if let Err(problem) = self.references.abandon(&upload.blob).await {
            tracing::warn!(%problem, blob = upload.blob, "an upload that is not needed is left for later");
        }
    }

    /// Counts users of packages within `txn`, among them those that the call brings. Nothing is returned where one of these
    /// has no record and its upload is not there either, or was given up: upload, then try again.
    pub(super) async fn claim(
        &self,
        snapshot: &dyn Snapshot,
        users: &Users,
        brought: &[Brought<'_>],
        mut txn: Txn,
    ) -> Result<Option<(Txn, Claim)>, aws::Error> {
        let mut claim = Claim::Shared;
        for (code, change) in users.changed() {
            let brought = brought.iter().find(|brought| brought.code == code).copied();
            let Some((next, how)) = self.count_one(snapshot, code, change, brought, txn).await? else {
                return Ok(None);
            };
            txn = next;
            if how == Claim::Uploaded {
                claim = how;
            }
        }
        Ok(Some((txn, claim)))
    }

    /// Counts users of packages that have a record within `txn`.
    pub(super) async fn count(&self, snapshot: &dyn Snapshot, users: &Users, mut txn: Txn) -> Result<Txn, aws::Error> {
        for (code, change) in users.changed() {
            let counted = self.count_one(snapshot, code, change, None, txn).await?;
            (txn, _) = counted.ok_or_else(|| without_record(code))?;
        }
        Ok(txn)
    }

    /// A package that loses its last user is doomed.
    async fn count_one(
        &self,
        snapshot: &dyn Snapshot,
        code: &CodeDigest,
        change: i64,
        brought: Option<Brought<'_>>,
        txn: Txn,
    ) -> Result<Option<(Txn, Claim)>, aws::Error> {
        let key = keys::package(code);
        let entry = snapshot.get(&key).await.map_err(error::store)?;
        let (record, claim, txn) = match (&entry, brought) {
            (Some(entry), _) => (super::decoded::<PackageRecord>(&entry.value)?, Claim::Shared, txn),
            (None, Some(Brought { unpacked_bytes, upload: Some(upload), .. })) => {
                let adopted = self.references.adopt(snapshot, txn, &upload.blob, OWNER).await.map_err(error::store)?;
                let Some(txn) = adopted else { return Ok(None) };
                let unpacked_bytes = Some(unpacked_bytes);
                let blob = upload.blob.clone();
                (PackageRecord { blob, users: 0, due_ms: None, unpacked_bytes }, Claim::Uploaded, txn)
            }
            (None, Some(_)) => return Ok(None),
            (None, None) => return Err(without_record(code)),
        };
        let users = record.users.saturating_add_signed(change);
        let due_ms = (users == 0).then(|| self.clock.now_ms() + GRACE_MS);
        let mut txn = txn.expect_unchanged(key.clone(), entry.as_ref());
        if let Some(due_ms) = due_ms {
            let doomed = Doomed { package: Some(code.clone()), blob: record.blob.clone() };
            txn = txn.put(keys::doomed(due_ms, &record.blob), super::encoded(&doomed)?);
        }
        let record = PackageRecord { users, due_ms, ..record };
        Ok(Some((txn.put(key, super::encoded(&record)?), claim)))
    }

    /// Ends packages whose time without users is over, and removes bytes that nobody owns; says how many blobs went.
    pub async fn collect_garbage(&self) -> Result<usize, store::Error> {
        let (start, end) = keys::doomed_until(self.clock.now_ms());
        let page = self.store.range(&Range::between(start, end).rows(ROUND)).await?;
        for listed in &page.entries {
            self.end_package(listed).await?;
        }
        let mut all = self.references.collect(None).await?;
        while let Some(after) = all.after.take() {
            let next = self.references.collect(Some(&after)).await?;
            all = Collected { removed: all.removed + next.removed, after: next.after };
        }
        Ok(all.removed)
    }

    /// Takes a package off the list, with its record if nobody has come to use it.
    async fn end_package(&self, listed: &store::Entry) -> Result<(), store::Error> {
        let doomed: Doomed = parsed(&listed.value)?;
        let mut txn = Txn::new().expect_version(listed.key.clone(), listed.version).delete(listed.key.clone());
        // Earlier releases listed uploads too; these are found by their names.
        if let Some(code) = &doomed.package {
            let key = keys::package(code);
            if let Some(entry) = self.store.get(&key).await? {
                let record: PackageRecord = parsed(&entry.value)?;
                let due = record.due_ms.is_some_and(|due_ms| keys::doomed(due_ms, &record.blob) == listed.key);
                if record.users == 0 && due {
                    txn = txn.expect_version(key.clone(), entry.version).delete(key);
                    txn = self.references.release(txn, &record.blob, OWNER);
                }
            }
        }
        match self.store.commit(txn).await {
            // Somebody took it in this moment: the next round sees what it was.
            Ok(_) | Err(store::Error::Conflict | store::Error::TooOld) => Ok(()),
            Err(other) => Err(other),
        }
    }

    /// At start: makes the records that an earlier release left the owners of their bytes, then finds bytes that nobody
    /// began to upload: a power loss can take the note of one that it leaves, and a backup copies some that came after
    /// its state.
    pub(super) async fn find_strays(&self) -> Result<(), store::Error> {
        let mut range = Range::prefix(keys::packages()).rows(ROUND);
        loop {
            let page = self.store.range(&range).await?;
            for entry in &page.entries {
                self.own_bytes(&entry.key).await?;
            }
            match page.entries.into_iter().next_back() {
                Some(last) if page.more => range = range.beyond(last.key),
                _ => break,
            }
        }
        let mut after = None;
        loop {
            after = self.references.find_unmarked(after.as_deref()).await?.after;
            if after.is_none() {
                return Ok(());
            }
        }
    }

    async fn own_bytes(&self, key: &Bytes) -> Result<(), store::Error> {
        loop {
            let snapshot = self.store.snapshot().await?;
            let Some(entry) = snapshot.get(key).await? else { return Ok(()) };
            let record: PackageRecord = parsed(&entry.value)?;
            if self.references.is_owner(&*snapshot, &record.blob, OWNER).await? {
                return Ok(());
            }
            let txn = Txn::new().expect_version(entry.key, entry.version);
            let Some(txn) = self.references.register(&*snapshot, txn, &record.blob, OWNER).await? else {
                return Err(store::Error::Corrupt(format!("the bytes of a package, {}, are gone", record.blob)));
            };
            drop(snapshot);
            match self.store.commit(txn).await {
                Ok(_) => return Ok(()),
                Err(store::Error::Conflict | store::Error::TooOld) => {}
                Err(other) => return Err(other),
            }
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
        let record: PackageRecord = parsed(&entry.value)?;
        self.blobs.get(&record.blob).await
    }

    /// A part of a package that is registered; empty at its end.
    pub(super) async fn package_range(
        &self,
        code: &CodeDigest,
        from: u64,
        most: usize,
    ) -> Result<Option<Bytes>, store::Error> {
        let Some(entry) = self.store.get(&keys::package(code)).await? else { return Ok(None) };
        let record: PackageRecord = parsed(&entry.value)?;
        let range = from..from.saturating_add(most as u64);
        match self.blobs.read(&record.blob, range).await? {
            Some(mut reader) => store::blobs::collect(&mut *reader).await.map(Some),
            None => Ok(None),
        }
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

fn parsed<T: DeserializeOwned>(value: &[u8]) -> Result<T, store::Error> {
    serde_json::from_slice(value).map_err(|problem| store::Error::Corrupt(problem.to_string()))
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

//! The data keys of a store, and the master key that wraps them.
//!
//! The ring lies in the store itself, under its last key, as JSON: which master key wraps it (a fingerprint), which
//! data key is in use, and all of them wrapped. So it goes where the store goes, into backups too, and is of no use
//! without the master key.

use base::Random;
use bytes::Bytes;
use ring::aead::{Aad, NONCE_LEN, Nonce};
use serde::{Deserialize, Serialize};

use super::sealing::{DataKey, broken, cipher};
use crate::blobs::Blobs;
use crate::contract::{Entry, Error, Range, Store, Txn};
use crate::keys::OWN;

/// Where the ring lies: after every other key.
pub(super) const RING: &[u8] = &[OWN, 0xff];
const FORMAT: u32 = 1;
const SECRET_BYTES: usize = 32;

/// A key that wraps data keys: 32 bytes.
#[derive(Clone)]
pub struct MasterKey([u8; SECRET_BYTES]);

impl std::fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MasterKey({})", self.fingerprint())
    }
}

impl MasterKey {
    /// A key in 64 hexadecimal digits, with white space around it.
    ///
    /// # Errors
    /// `Invalid` if it is something else.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let key = hex::decode(text.trim()).ok().and_then(|key| key.try_into().ok());
        let key = key.ok_or_else(|| {
            Error::Invalid("an encryption key is 64 hexadecimal digits; `openssl rand -hex 32` makes one".into())
        })?;
        Ok(Self(key))
    }

    /// Tells keys apart without telling the key.
    pub fn fingerprint(&self) -> String {
        hex::encode(&self.derived("dunlin 2026-11 fingerprint of a master key")[..8])
    }

    /// A secret for another purpose, from which the key cannot be told.
    pub(super) fn derived(&self, purpose: &str) -> [u8; SECRET_BYTES] {
        blake3::derive_key(purpose, &self.0)
    }

    fn wrap(&self, id: u32, secret: &[u8; SECRET_BYTES], random: &dyn Random) -> Result<String, Error> {
        let mut nonce = [0; NONCE_LEN];
        random.fill(&mut nonce);
        let mut wrapped = secret.to_vec();
        let sealed = cipher(&self.0)?.seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(id.to_le_bytes()),
            &mut wrapped,
        );
        Ok(hex::encode([&nonce[..], &wrapped, sealed.map_err(|_| broken())?.as_ref()].concat()))
    }

    fn unwrap(&self, wrapped: &Wrapped) -> Result<[u8; SECRET_BYTES], Error> {
        let damaged = || Error::Corrupt(format!("the data key {} of the store cannot be unwrapped", wrapped.id));
        let bytes = hex::decode(&wrapped.key).map_err(|_| damaged())?;
        let (nonce, body) = bytes.split_first_chunk().ok_or_else(damaged)?;
        let mut body = body.to_vec();
        let opened = cipher(&self.0)?.open_in_place(
            Nonce::assume_unique_for_key(*nonce),
            Aad::from(wrapped.id.to_le_bytes()),
            &mut body,
        );
        opened.ok().and_then(|secret| (*secret).try_into().ok()).ok_or_else(damaged)
    }
}

/// The ring as it is kept.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    format: u32,
    /// Fingerprint of the master key.
    master: String,
    /// The data key that new values get.
    active: u32,
    keys: Vec<Wrapped>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Wrapped {
    id: u32,
    /// Hexadecimal: nonce, encrypted key, tag.
    key: String,
}

/// The data keys of a store, ready for use.
pub struct KeyRing {
    active: u32,
    keys: Vec<DataKey>,
}

impl KeyRing {
    /// The ring of a store; an empty store gets one.
    ///
    /// With `old`, a ring that the old master key wraps is wrapped by `master` instead and gets a new data key.
    ///
    /// # Errors
    /// `Invalid` if the store is encrypted with another key, or holds anything in clear.
    pub async fn open(
        store: &dyn Store,
        blobs: &dyn Blobs,
        master: &MasterKey,
        old: Option<&MasterKey>,
        random: &dyn Random,
    ) -> Result<Self, Error> {
        let Some(entry) = store.get(RING).await? else { return Self::create(store, blobs, master, random).await };
        let record: Record = serde_json::from_slice(&entry.value)
            .map_err(|error| Error::Corrupt(format!("the ring of keys: {error}")))?;
        if record.format != FORMAT {
            return Err(Error::Invalid("the store is encrypted by a newer release: use that one".into()));
        }
        if record.master == master.fingerprint() {
            return Self::unwrapped(&record, master);
        }
        match old.filter(|old| record.master == old.fingerprint()) {
            Some(old) => Self::rotate(store, &entry, record, old, master, random).await,
            None => Err(Error::Invalid(format!(
                "the store is encrypted with the key of fingerprint {}, and the given one has {}",
                record.master,
                master.fingerprint()
            ))),
        }
    }

    async fn create(
        store: &dyn Store,
        blobs: &dyn Blobs,
        master: &MasterKey,
        random: &dyn Random,
    ) -> Result<Self, Error> {
        let anything = Range::between("", vec![OWN]).rows(1);
        if !store.range(&anything).await?.entries.is_empty() || !blobs.names("", None, 1).await?.names.is_empty() {
            return Err(Error::Invalid(
                "the store holds values in clear: move it into an encrypted one with `dunlin migrate --to-key-file`"
                    .into(),
            ));
        }
        let wrapped = vec![new_key(1, master, random)?];
        let record = Record { format: FORMAT, master: master.fingerprint(), active: 1, keys: wrapped };
        match store.commit(Txn::new().expect_absent(RING).put(RING, encoded(&record)?)).await {
            Ok(_) => Self::unwrapped(&record, master),
            // Another node was first: its ring is the store's.
            Err(Error::Conflict) => {
                let entry = store.get(RING).await?.ok_or(Error::Conflict)?;
                let record: Record = serde_json::from_slice(&entry.value)
                    .map_err(|error| Error::Corrupt(format!("the ring of keys: {error}")))?;
                if record.master != master.fingerprint() {
                    return Err(Error::Invalid("another node has just encrypted the store with another key".into()));
                }
                Self::unwrapped(&record, master)
            }
            Err(other) => Err(other),
        }
    }

    async fn rotate(
        store: &dyn Store,
        entry: &Entry,
        record: Record,
        old: &MasterKey,
        master: &MasterKey,
        random: &dyn Random,
    ) -> Result<Self, Error> {
        let mut keys = Vec::new();
        for wrapped in &record.keys {
            keys.push(Wrapped { id: wrapped.id, key: master.wrap(wrapped.id, &old.unwrap(wrapped)?, random)? });
        }
        let active = keys.iter().map(|key| key.id).max().unwrap_or(0) + 1;
        keys.push(new_key(active, master, random)?);
        let record = Record { format: FORMAT, master: master.fingerprint(), active, keys };
        store.commit(Txn::new().expect_version(RING, entry.version).put(RING, encoded(&record)?)).await?;
        Self::unwrapped(&record, master)
    }

    fn unwrapped(record: &Record, master: &MasterKey) -> Result<Self, Error> {
        let keys = record.keys.iter().map(|wrapped| Ok(DataKey::new(wrapped.id, &master.unwrap(wrapped)?)));
        let ring = Self { active: record.active, keys: keys.collect::<Result<_, Error>>()? };
        ring.active()?;
        Ok(ring)
    }

    /// The key for what is written.
    pub(super) fn active(&self) -> Result<&DataKey, Error> {
        self.key(self.active).ok_or_else(|| Error::Corrupt("the ring lacks the key that is in use".into()))
    }

    /// The key of this number.
    pub(super) fn key(&self, id: u32) -> Option<&DataKey> {
        self.keys.iter().find(|key| key.id == id)
    }
}

fn new_key(id: u32, master: &MasterKey, random: &dyn Random) -> Result<Wrapped, Error> {
    let mut secret = [0; SECRET_BYTES];
    random.fill(&mut secret);
    Ok(Wrapped { id, key: master.wrap(id, &secret, random)? })
}

fn encoded(record: &Record) -> Result<Bytes, Error> {
    Ok(serde_json::to_vec(record).map_err(|error| Error::Io(error.to_string()))?.into())
}

/// Refuses an encrypted store where no key is given.
pub async fn check_clear(store: &dyn Store) -> Result<(), Error> {
    if store.get(RING).await?.is_none() {
        return Ok(());
    }
    Err(Error::Invalid(
        "the store is encrypted: give its key with --encryption-key-file or --encryption-key-command".into(),
    ))
}

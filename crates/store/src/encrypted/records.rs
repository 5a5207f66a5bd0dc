//! Encryption of some records in a store that is in clear otherwise: those that hold what is secret by its nature.
//!
//! One key, which lies beside the store and never in it: a copy of the store alone, of its log or of its blocks shows nothing of
//! these records. It is not what the encryption of a whole store is, whose key is elsewhere.
//!
//! Invariants
//!   1. A sealed record is bound to its key, as every sealed value is.
//!   2. A record that was put before, in clear, is read; it is sealed when it is next written. One that a whole store's key
//!      has encrypted already passes through as it is, both ways.

use bytes::Bytes;

use super::keyring::MasterKey;
use super::sealing::{self, DataKey, RANDOM_BYTES};
use crate::contract::Error;

/// What a sealed record begins with. No JSON does, nor does what a whole store's keys have encrypted (1, 2).
const MARK: u8 = 3;

/// Which records are sealed, and with which key.
pub struct Records {
    key: DataKey,
    prefixes: Vec<Bytes>,
}

impl Records {
    /// The records under these prefixes.
    pub fn new(key: &MasterKey, prefixes: Vec<Bytes>) -> Self {
        let secret = key.derived("dunlin 2026-11 key of sealed records");
        let [a, b, c, d, ..] = key.derived("dunlin 2026-11 number of a key of sealed records");
        Self { key: DataKey::new(u32::from_le_bytes([a, b, c, d]), &secret), prefixes }
    }

    /// Whether a value would be sealed under this key.
    pub(super) fn seals(&self, key: &[u8], value: &[u8]) -> bool {
        !matches!(value.first(), Some(1..=MARK)) && self.prefixes.iter().any(|prefix| key.starts_with(prefix))
    }

    pub(super) fn seal(&self, key: &[u8], value: &[u8], random: [u8; RANDOM_BYTES]) -> Result<Bytes, Error> {
        let sealed = self.key.seal(key, None, value, random)?;
        Ok([&[MARK], &sealed[..]].concat().into())
    }

    pub(super) fn open(&self, key: &[u8], value: Bytes) -> Result<Bytes, Error> {
        if !is_sealed_record(&value) || !self.prefixes.iter().any(|prefix| key.starts_with(prefix)) {
            return Ok(value);
        }
        sealing::open(key, &value[1..], |id| (id == self.key.id).then_some(&self.key))
    }
}

/// Whether this is the value of a sealed record; asked of values under the prefixes of such.
pub fn is_sealed_record(value: &[u8]) -> bool {
    value.first() == Some(&MARK)
}

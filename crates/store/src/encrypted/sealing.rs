//! Sealing and opening bytes. Pure but for the random bytes that are handed in.
//!
//! A value as it is kept:
//!
//! | bytes | are                                                                                |
//! |-------|------------------------------------------------------------------------------------|
//! | 1     | 1: bound to the whole key; 2: bound to it without the commit's number              |
//! | 2     | only with 2: where in the key the number stands (little-endian)                    |
//! | 4     | which data key (little-endian)                                                     |
//! | 24    | random: 12 make the key of this value, 12 are the nonce                            |
//! | …     | the encrypted value                                                                |
//! | 16    | the tag                                                                            |

use bytes::Bytes;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hmac;

use crate::contract::Error;

/// Bytes that a value grows by at most.
pub(super) const GROWTH: usize = 1 + 2 + ID_BYTES + RANDOM_BYTES + TAG_BYTES;
/// Bytes of a tag.
pub(super) const TAG_BYTES: usize = 16;
/// Random bytes of a value.
pub(super) const RANDOM_BYTES: usize = SALT_BYTES + NONCE_LEN;
const SALT_BYTES: usize = 12;
const ID_BYTES: usize = 4;
const NUMBER_BYTES: usize = 8;

/// A key that values and blobs are encrypted with.
pub(super) struct DataKey {
    pub(super) id: u32,
    key: hmac::Key,
}

impl DataKey {
    pub(super) fn new(id: u32, secret: &[u8; 32]) -> Self {
        Self { id, key: hmac::Key::new(hmac::HMAC_SHA256, secret) }
    }

    /// A cipher of its own for each purpose and salt.
    pub(super) fn cipher(&self, purpose: &str, salt: &[u8]) -> Result<LessSafeKey, Error> {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(purpose.as_bytes());
        context.update(&[0]);
        context.update(salt);
        cipher(context.sign().as_ref())
    }

    /// Seals a value for a key; with `number_at`, for a key that will get its number there.
    pub(super) fn seal(
        &self,
        key: &[u8],
        number_at: Option<usize>,
        value: &[u8],
        random: [u8; RANDOM_BYTES],
    ) -> Result<Bytes, Error> {
        let mut sealed = Vec::with_capacity(value.len() + GROWTH);
        match number_at {
            None => sealed.push(1),
            Some(at) => {
                sealed.push(2);
                let at = u16::try_from(at).map_err(|_| Error::TooLarge("the prefix of a numbered key".into()))?;
                sealed.extend_from_slice(&at.to_le_bytes());
            }
        }
        sealed.extend_from_slice(&self.id.to_le_bytes());
        sealed.extend_from_slice(&random);
        let bound = [&sealed[..], key].concat();
        let header = sealed.len();
        sealed.extend_from_slice(value);
        let (salt, nonce) = random.split_at(SALT_BYTES);
        let cipher = self.cipher("value", salt)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| broken())?;
        let tag = cipher.seal_in_place_separate_tag(nonce, Aad::from(bound), &mut sealed[header..]);
        sealed.extend_from_slice(tag.map_err(|_| broken())?.as_ref());
        Ok(sealed.into())
    }
}

/// Opens a value that was sealed for `key`; `data_key` finds the key of an id.
pub(super) fn open<'a>(
    key: &[u8],
    sealed: &[u8],
    data_key: impl FnOnce(u32) -> Option<&'a DataKey>,
) -> Result<Bytes, Error> {
    let damaged = || Error::Corrupt(format!("the value of key {} cannot be decrypted", key.escape_ascii()));
    let number_at = match sealed.split_first_chunk() {
        Some(([1], _)) => None,
        Some(([2], rest)) => Some(usize::from(u16::from_le_bytes(*rest.first_chunk().ok_or_else(damaged)?))),
        _ => return Err(damaged()),
    };
    let header = 1 + if number_at.is_some() { 2 } else { 0 } + ID_BYTES + RANDOM_BYTES;
    let (head, body) = sealed.split_at_checked(header).ok_or_else(damaged)?;
    let random = &head[header - RANDOM_BYTES..];
    let id = head[..header - RANDOM_BYTES].last_chunk().ok_or_else(damaged)?;
    let data_key = data_key(u32::from_le_bytes(*id)).ok_or_else(damaged)?;
    let bound = match number_at {
        None => [head, key].concat(),
        Some(at) => {
            let (prefix, rest) = key.split_at_checked(at).ok_or_else(damaged)?;
            [head, prefix, rest.get(NUMBER_BYTES..).ok_or_else(damaged)?].concat()
        }
    };
    let (salt, nonce) = random.split_at(SALT_BYTES);
    let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| damaged())?;
    let mut body = body.to_vec();
    let opened = data_key.cipher("value", salt)?.open_in_place(nonce, Aad::from(bound), &mut body);
    let length = opened.map_err(|_| damaged())?.len();
    body.truncate(length);
    Ok(body.into())
}

/// A cipher with this key of 32 bytes.
pub(super) fn cipher(key: &[u8]) -> Result<LessSafeKey, Error> {
    Ok(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).map_err(|_| broken())?))
}

pub(super) fn broken() -> Error {
    Error::Io("the cipher refused to work".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key() -> DataKey {
        DataKey::new(7, &[9; 32])
    }

    proptest! {
        #[test]
        fn what_is_sealed_opens_for_its_key_alone(
            key in prop::collection::vec(any::<u8>(), 0..40), other in prop::collection::vec(any::<u8>(), 0..40),
            value: Vec<u8>, random: [u8; RANDOM_BYTES], at: prop::sample::Index, bit in 0..8u8
        ) {
            let data_key = self::key();
            let sealed = data_key.seal(&key, None, &value, random).unwrap();
            let find = |id| (id == 7).then_some(&data_key);
            prop_assert_eq!(&open(&key, &sealed, find).unwrap(), &value);
            prop_assert!(key == other || open(&other, &sealed, find).is_err());
            let mut damaged = sealed.to_vec();
            damaged[at.index(sealed.len())] ^= 1 << bit;
            prop_assert!(open(&key, &damaged, find).is_err());
            prop_assert!(open(&key, &sealed[..at.index(sealed.len())], find).is_err());
            prop_assert!(open(&key, &sealed, |_| None).is_err());
            let wrong = DataKey::new(7, &[8; 32]);
            prop_assert!(open(&key, &sealed, |_| Some(&wrong)).is_err());
        }

        #[test]
        fn a_numbered_value_opens_under_any_number_and_no_other_name(
            prefix: Vec<u8>, suffix: Vec<u8>, number: u64, value: Vec<u8>, random: [u8; RANDOM_BYTES]
        ) {
            let data_key = self::key();
            let sealed = data_key.seal(&[&prefix[..], &suffix].concat(), Some(prefix.len()), &value, random).unwrap();
            let full = [&prefix[..], &number.to_be_bytes(), &suffix].concat();
            prop_assert_eq!(&open(&full, &sealed, |_| Some(&data_key)).unwrap(), &value);
            prop_assert!(open(&[&full[..], b"x"].concat(), &sealed, |_| Some(&data_key)).is_err());
            prop_assert!(open(&prefix, &sealed, |_| Some(&data_key)).is_err());
        }

        #[test]
        fn noise_never_opens(key: Vec<u8>, noise: Vec<u8>) {
            let data_key = self::key();
            prop_assert!(open(&key, &noise, |_| Some(&data_key)).is_err());
        }
    }
}

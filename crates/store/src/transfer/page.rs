//! A page of keys as bytes: what a server answers to a backup, and what a backup keeps.
//!
//! | bytes | are                                                                    |
//! |-------|------------------------------------------------------------------------|
//! | 8     | `dunkeys1`                                                             |
//! | 1     | 1 if the page is followed by another, else 0                           |
//! | 4     | number of entries                                                      |
//! | …     | for each: length of key (4), length of value (4), key, value           |
//! | 32    | BLAKE3 of all that stands before                                       |
//!
//! Numbers are little-endian. Keys ascend.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::contract::Error;

const MAGIC: &[u8; 8] = b"dunkeys1";

/// Entries in the order of their keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyPage {
    /// Keys with their values.
    pub entries: Vec<(Bytes, Bytes)>,
    /// Whether there are more beyond the last.
    pub more: bool,
}

impl KeyPage {
    /// After which key the next page begins; nothing if this is the last one.
    pub fn next(&self) -> Option<Bytes> {
        self.entries.last().filter(|_| self.more).map(|(key, _)| key.clone())
    }

    /// The page as bytes.
    ///
    /// # Errors
    /// `TooLarge` beyond 4 GB in one part.
    pub fn encode(&self) -> Result<Bytes, Error> {
        let short = |length: usize| u32::try_from(length).map_err(|_| Error::TooLarge("a page beyond 4 GB".into()));
        let length: usize = self.entries.iter().map(|(key, value)| 8 + key.len() + value.len()).sum();
        let mut out = BytesMut::with_capacity(MAGIC.len() + 5 + length + blake3::OUT_LEN);
        out.put_slice(MAGIC);
        out.put_u8(u8::from(self.more));
        out.put_u32_le(short(self.entries.len())?);
        for (key, value) in &self.entries {
            out.put_u32_le(short(key.len())?);
            out.put_u32_le(short(value.len())?);
            out.put_slice(key);
            out.put_slice(value);
        }
        let sum = blake3::hash(&out);
        out.put_slice(sum.as_bytes());
        Ok(out.freeze())
    }

    /// Reads a page.
    ///
    /// # Errors
    /// `Corrupt` if it is not exactly what `encode` made.
    pub fn decode(mut bytes: Bytes) -> Result<Self, Error> {
        let damaged = || Error::Corrupt("a page of keys is damaged".into());
        let sum = bytes.split_off(bytes.len().checked_sub(blake3::OUT_LEN).ok_or_else(damaged)?);
        if blake3::hash(&bytes).as_bytes() != &sum[..] || !bytes.starts_with(MAGIC) {
            return Err(damaged());
        }
        bytes.advance(MAGIC.len());
        // Whoever can make the sum right can still make the rest wrong: every step is checked.
        let more = bytes.try_get_u8().map_err(|_| damaged())? == 1;
        let count = bytes.try_get_u32_le().map_err(|_| damaged())?;
        let mut entries: Vec<(Bytes, Bytes)> = Vec::new();
        for _ in 0..count {
            let key = bytes.try_get_u32_le().map_err(|_| damaged())? as usize;
            let value = bytes.try_get_u32_le().map_err(|_| damaged())? as usize;
            if bytes.len() < key || bytes.len() - key < value {
                return Err(damaged());
            }
            let entry = (bytes.split_to(key), bytes.split_to(value));
            if entries.last().is_some_and(|(last, _)| *last >= entry.0) {
                return Err(damaged());
            }
            entries.push(entry);
        }
        if !bytes.is_empty() || (more && entries.is_empty()) {
            return Err(damaged());
        }
        Ok(Self { entries, more })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn pages_read_back_and_no_damage_is_read(
            map: BTreeMap<Vec<u8>, Vec<u8>>, more: bool, at: prop::sample::Index, bit in 0..8u8
        ) {
            let entries: Vec<_> = map.into_iter().map(|(key, value)| (Bytes::from(key), Bytes::from(value))).collect();
            let page = KeyPage { more: more && !entries.is_empty(), entries };
            let bytes = page.encode().unwrap();
            prop_assert_eq!(KeyPage::decode(bytes.clone()).unwrap(), page);
            let mut damaged = bytes.to_vec();
            damaged[at.index(bytes.len())] ^= 1 << bit;
            prop_assert!(KeyPage::decode(damaged.into()).is_err());
            prop_assert!(KeyPage::decode(bytes.slice(..at.index(bytes.len()))).is_err());
        }

        #[test]
        fn noise_with_a_right_sum_never_panics(noise: Vec<u8>) {
            let mut page = [&MAGIC[..], &noise].concat();
            page.extend_from_slice(blake3::hash(&page).as_bytes());
            let _ = KeyPage::decode(page.into());
        }
    }
}

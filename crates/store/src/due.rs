//! Where an offered entry lies: `prefix ++ due ++ id`, so that a queue is in the order in which its entries are due.
//!
//! `due` has eight bytes: six for the time in milliseconds since the epoch, two for how often the entry was taken, both
//! big-endian. A claim changes nothing else of an entry, so that a value which is bound to its key, but not to these
//! eight bytes, stays as it is.

use bytes::Bytes;

use crate::contract::Error;

/// Bytes of `due`.
const BYTES: usize = 8;
/// The last time that can be told, in the year 10889.
const AT_MS_MAX: u64 = (1 << 48) - 1;

/// When an entry is due, and how often it was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Due {
    /// Milliseconds since the epoch, by the store's clock.
    pub at_ms: u64,
    /// How often it was taken.
    pub attempts: u16,
}

impl Due {
    /// The key of an entry; a time that cannot be told becomes the last one that can.
    pub fn key(self, prefix: &[u8], id: &[u8]) -> Bytes {
        let number = (self.at_ms.min(AT_MS_MAX) << 16) | u64::from(self.attempts);
        [prefix, &number.to_be_bytes(), id].concat().into()
    }

    /// Takes the key of an entry under a prefix of `prefix` bytes apart: when it is due, and its id.
    ///
    /// # Errors
    /// `Error::Invalid`: nobody has offered such an entry.
    pub fn of(prefix: usize, key: &Bytes) -> Result<(Self, Bytes), Error> {
        let Some((number, _)) = key.get(prefix..).and_then(|rest| rest.split_first_chunk::<BYTES>()) else {
            return Err(Error::Invalid(format!("the key {} lies in a queue, but was not offered", key.escape_ascii())));
        };
        let number = u64::from_be_bytes(*number);
        let attempts = u16::try_from(number & 0xffff).unwrap_or(u16::MAX);
        Ok((Self { at_ms: number >> 16, attempts }, key.slice(prefix + BYTES..)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn keys_lie_in_the_order_in_which_they_are_due(
            (a, b) in (0..=AT_MS_MAX, 0..=AT_MS_MAX), (m, n) in any::<(u16, u16)>(),
            (x, y) in any::<(Vec<u8>, Vec<u8>)>(), prefix in any::<Vec<u8>>(),
        ) {
            let (first, second) = (Due { at_ms: a, attempts: m }, Due { at_ms: b, attempts: n });
            let keys = (first.key(&prefix, &x), second.key(&prefix, &y));
            prop_assert_eq!((first, &x).cmp(&(second, &y)), keys.0.cmp(&keys.1));
            prop_assert_eq!(Due::of(prefix.len(), &keys.0).unwrap(), (first, Bytes::from(x)));
        }
    }

    #[test]
    fn the_end_of_time_and_foreign_keys() {
        let late = Due { at_ms: u64::MAX, attempts: 7 }.key(b"q", b"id");
        assert_eq!(Due::of(1, &late).unwrap().0, Due { at_ms: AT_MS_MAX, attempts: 7 });
        assert!(matches!(Due::of(1, &Bytes::from_static(b"q1234567")), Err(Error::Invalid(_))));
    }
}

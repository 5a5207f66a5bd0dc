//! Order-preserving keys: tuples of parts whose encoded bytes sort as the parts do.
//!
//! | part    | bytes                                                              |
//! |---------|--------------------------------------------------------------------|
//! | prefix  | as it is, first                                                    |
//! | text    | its bytes with `00` written as `00 ff`, then `00 01`               |
//! | bytes   | the same                                                           |
//! | number  | eight bytes, big-endian                                            |
//!
//! The terminator `00 01` is below any continuation, so a shorter text sorts before a longer one that it begins.
//! Only `keys.rs` files build keys with this.

use bytes::{BufMut, Bytes, BytesMut};

/// The first byte of keys that belong to the store itself: above every registered prefix.
pub const OWN: u8 = 0xff;

/// Builds one key.
#[derive(Debug, Clone)]
pub struct Key {
    bytes: BytesMut,
}

impl Key {
    /// A key under a registered prefix byte.
    pub fn new(prefix: u8) -> Self {
        let mut bytes = BytesMut::with_capacity(64);
        bytes.put_u8(prefix);
        Self { bytes }
    }

    /// A single byte that tells kinds of keys apart.
    #[must_use]
    pub fn tag(mut self, tag: u8) -> Self {
        self.bytes.put_u8(tag);
        self
    }

    /// A text part.
    #[must_use]
    pub fn text(self, text: &str) -> Self {
        self.bytes(text.as_bytes())
    }

    /// A bytes part.
    #[must_use]
    pub fn bytes(mut self, part: &[u8]) -> Self {
        for byte in part {
            self.bytes.put_u8(*byte);
            if *byte == 0 {
                self.bytes.put_u8(0xff);
            }
        }
        self.bytes.put_slice(&[0, 1]);
        self
    }

    /// A number part.
    #[must_use]
    pub fn number(mut self, number: u64) -> Self {
        self.bytes.put_u64(number);
        self
    }

    /// Bytes as they are; only last, where nothing follows.
    #[must_use]
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.put_slice(bytes);
        self
    }

    /// The finished key.
    pub fn done(self) -> Bytes {
        self.bytes.freeze()
    }
}

/// Reads the parts of a key in the order they were written.
#[derive(Debug, Clone, Copy)]
pub struct Parts<'a> {
    rest: &'a [u8],
}

impl<'a> Parts<'a> {
    /// Reads `key`.
    pub fn of(key: &'a [u8]) -> Self {
        Self { rest: key }
    }

    /// The next single byte (prefix or tag).
    pub fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    /// The next bytes part.
    pub fn bytes(&mut self) -> Option<Vec<u8>> {
        let mut part = Vec::new();
        let mut rest = self.rest;
        loop {
            let (first, after) = rest.split_first()?;
            rest = after;
            if *first != 0 {
                part.push(*first);
                continue;
            }
            let (second, after) = rest.split_first()?;
            rest = after;
            match second {
                1 => break,
                0xff => part.push(0),
                _ => return None,
            }
        }
        self.rest = rest;
        Some(part)
    }

    /// The next text part.
    pub fn text(&mut self) -> Option<String> {
        String::from_utf8(self.bytes()?).ok()
    }

    /// The next number part.
    pub fn number(&mut self) -> Option<u64> {
        let (number, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(u64::from_be_bytes(*number))
    }

    /// All that is left.
    pub fn rest(self) -> &'a [u8] {
        self.rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn keys_sort_as_their_parts(a: (Vec<u8>, u64), b: (Vec<u8>, u64)) {
            let key = |(bytes, number): &(Vec<u8>, u64)| Key::new(b'x').bytes(bytes).number(*number).done();
            prop_assert_eq!(key(&a).cmp(&key(&b)), a.cmp(&b));
        }

        #[test]
        fn keys_read_back(bytes: Vec<u8>, text: String, number: u64) {
            let key = Key::new(b'x').tag(7).bytes(&bytes).text(&text).number(number).raw(b"end").done();
            let mut parts = Parts::of(&key);
            prop_assert_eq!(parts.byte(), Some(b'x'));
            prop_assert_eq!(parts.byte(), Some(7));
            prop_assert_eq!(parts.bytes(), Some(bytes));
            prop_assert_eq!(parts.text(), Some(text));
            prop_assert_eq!(parts.number(), Some(number));
            prop_assert_eq!(parts.rest(), b"end");
        }

        #[test]
        fn noise_never_panics(noise: Vec<u8>) {
            let mut parts = Parts::of(&noise);
            while parts.bytes().is_some() {}
            let _ = parts.number();
        }
    }
}

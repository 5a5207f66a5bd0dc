//! Order-preserving keys: tuples of parts whose encoded bytes sort as the parts do.
//!
//! | part    | bytes                                                              |
//! |---------|--------------------------------------------------------------------|
//! | prefix  | as it is, first                                                    |
//! | text    | its bytes with `00` written as `00 ff`, then `00 01`               |
//! | bytes   | the same                                                           |
//! | number  | eight bytes, big-endian                                            |
//! | signed  | the number plus 2^63, as eight bytes, big-endian                   |
//! | reversed| the number with every bit turned: the greatest sorts first         |
//!
//! What one tuple of parts encodes to begins what every longer tuple with the same beginning encodes to, and nothing
//! else: so a range by prefix finds exactly the keys whose first parts are these. The terminator `00 01` is below any continuation, so a shorter text sorts before a longer one that it begins.
//! Only `keys.rs` files build keys with this.

use bytes::{BufMut, Bytes, BytesMut};

/// The first byte of keys that belong to the store itself: above every registered prefix.
pub const OWN: u8 = 0xff;

/// Turned, it makes numbers below zero sort below the others.
const SIGN: u64 = 1 << 63;

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

    /// A number part that may be below zero.
    #[must_use]
    pub fn signed(self, number: i64) -> Self {
        self.number(number.cast_unsigned() ^ SIGN)
    }

    /// A number part that sorts the other way round: for "newest first".
    #[must_use]
    pub fn reversed(self, number: u64) -> Self {
        self.number(!number)
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

    /// The next part that `signed` wrote.
    pub fn signed(&mut self) -> Option<i64> {
        self.number().map(|number| (number ^ SIGN).cast_signed())
    }

    /// The next part that `reversed` wrote.
    pub fn reversed(&mut self) -> Option<u64> {
        self.number().map(|number| !number)
    }

    /// All that is left.
    pub fn rest(self) -> &'a [u8] {
        self.rest
    }
}

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;

    use super::*;
    use crate::contract::Range;
    use proptest::prelude::*;

    /// A part as a value, which sorts by itself as its bytes must.
    #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
    enum Part {
        Tag(u8),
        Bytes(Vec<u8>),
        Text(String),
        Number(u64),
        Signed(i64),
        Reversed(Reverse<u64>),
    }

    /// The kinds of parts of a layout: keys that are compared have the same one.
    #[derive(Debug, Clone, Copy)]
    enum Kind {
        Tag,
        Bytes,
        Text,
        Number,
        Signed,
        Reversed,
    }

    fn part(kind: Kind) -> BoxedStrategy<Part> {
        // Few letters, so that parts begin each other and hold the bytes that are escaped.
        let bytes =
            || prop::collection::vec(prop_oneof![Just(0u8), Just(1), Just(0xff), Just(b'a'), any::<u8>()], 0..5);
        match kind {
            Kind::Tag => any::<u8>().prop_map(Part::Tag).boxed(),
            Kind::Bytes => bytes().prop_map(Part::Bytes).boxed(),
            Kind::Text => "[\u{0}\u{1}a\u{e9}\u{10ffff}]{0,4}".prop_map(Part::Text).boxed(),
            Kind::Number => prop_oneof![any::<u64>(), 0..3u64].prop_map(Part::Number).boxed(),
            Kind::Signed => prop_oneof![any::<i64>(), -2..3i64].prop_map(Part::Signed).boxed(),
            Kind::Reversed => any::<u64>().prop_map(|number| Part::Reversed(Reverse(number))).boxed(),
        }
    }

    /// Two tuples of one layout; the second takes some of its first parts from the first.
    fn tuples() -> impl Strategy<Value = (Vec<Part>, Vec<Part>)> {
        let kinds = [Kind::Tag, Kind::Bytes, Kind::Text, Kind::Number, Kind::Signed, Kind::Reversed];
        prop::collection::vec(prop::sample::select(kinds.to_vec()), 1..5).prop_flat_map(|layout| {
            let tuple = || layout.iter().map(|kind| part(*kind)).collect::<Vec<_>>();
            (tuple(), tuple(), 0..layout.len() + 1).prop_map(|(a, mut b, same)| {
                b[..same].clone_from_slice(&a[..same]);
                (a, b)
            })
        })
    }

    fn key(parts: &[Part]) -> Bytes {
        let add = |key: Key, part: &Part| match part {
            Part::Tag(tag) => key.tag(*tag),
            Part::Bytes(bytes) => key.bytes(bytes),
            Part::Text(text) => key.text(text),
            Part::Number(number) => key.number(*number),
            Part::Signed(number) => key.signed(*number),
            Part::Reversed(Reverse(number)) => key.reversed(*number),
        };
        parts.iter().fold(Key::new(b'x'), add).done()
    }

    proptest! {
        #[test]
        fn keys_sort_as_their_tuples((a, b) in tuples()) {
            prop_assert_eq!(key(&a).cmp(&key(&b)), a.cmp(&b));
        }

        #[test]
        fn a_range_by_prefix_finds_exactly_the_keys_that_begin_so((a, b) in tuples(), parts in 0..5usize) {
            let first = &a[..parts.min(a.len())];
            prop_assert_eq!(Range::prefix(key(first)).contains(&key(&b)), b.starts_with(first));
        }

        #[test]
        fn keys_read_back((tuple, _) in tuples(), end: Vec<u8>) {
            let key = [&key(&tuple)[..], &end].concat();
            let mut parts = Parts::of(&key);
            prop_assert_eq!(parts.byte(), Some(b'x'));
            for part in &tuple {
                let read = match part {
                    Part::Tag(_) => parts.byte().map(Part::Tag),
                    Part::Bytes(_) => parts.bytes().map(Part::Bytes),
                    Part::Text(_) => parts.text().map(Part::Text),
                    Part::Number(_) => parts.number().map(Part::Number),
                    Part::Signed(_) => parts.signed().map(Part::Signed),
                    Part::Reversed(_) => parts.reversed().map(|number| Part::Reversed(Reverse(number))),
                };
                prop_assert_eq!(read.as_ref(), Some(part));
            }
            prop_assert_eq!(parts.rest(), &end);
        }

        #[test]
        fn noise_never_panics(noise: Vec<u8>, reads in prop::collection::vec(0..6u8, 0..12)) {
            let mut parts = Parts::of(&noise);
            for read in reads {
                let before = parts.rest().len();
                let found = match read {
                    0 => parts.byte().is_some(),
                    1 => parts.bytes().is_some(),
                    2 => parts.text().is_some(),
                    3 => parts.number().is_some(),
                    4 => parts.signed().is_some(),
                    _ => parts.reversed().is_some(),
                };
                prop_assert!(!found || parts.rest().len() < before, "what was found was read");
            }
        }
    }
}

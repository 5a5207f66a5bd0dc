//! How an item lies in the store: a compact form with a version byte.
//!
//! | part    | bytes                                                                                   |
//! |---------|-----------------------------------------------------------------------------------------|
//! | version | `01`                                                                                    |
//! | map     | count, then name and value of each, by name                                             |
//! | value   | type byte, then: text and bytes with their length before them; numbers as in `number`;  |
//! |         | sets and lists with their count before them                                             |
//! | count,  | seven bits a byte, low first, the high bit says that more follows                       |
//! | length  |                                                                                         |
//!
//! Invariants
//!   1. `decode(encode(item))` is the item; anything else decodes to nothing, never to a panic or a huge allocation.
//!   2. `write_json` says of an item what `decode` and then `value` would: it is for pages, which hold many.
//!   3. A new version gets a new version byte; old ones stay readable.

use std::collections::BTreeSet;
use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::number::Number;
use super::value::{AttributeValue, DEPTH_MAX, Item};

const VERSION: u8 = 1;

/// The stored form.
pub(super) fn encode(item: &Item) -> Vec<u8> {
    let mut out = Vec::with_capacity(64 + super::value::item_size(item));
    out.push(VERSION);
    put_map(item, &mut out);
    out
}

/// Reads the stored form; nothing if the bytes are not one.
pub(super) fn decode(bytes: &[u8]) -> Option<Item> {
    let (version, rest) = bytes.split_first()?;
    if *version != VERSION {
        return None;
    }
    let mut reader = Reader { rest };
    let item = reader.map(0)?;
    reader.rest.is_empty().then_some(item)
}

/// Appends DynamoDB's JSON of a stored form, and answers the item's size in bytes; nothing if the bytes are not one.
pub(super) fn write_json(bytes: &[u8], out: &mut Vec<u8>) -> Option<usize> {
    let (version, rest) = bytes.split_first()?;
    if *version != VERSION {
        return None;
    }
    let mut writer = Writer { reader: Reader { rest }, out };
    let size = writer.map(0, 0)?;
    writer.reader.rest.is_empty().then_some(size)
}

fn put_length(mut length: usize, out: &mut Vec<u8>) {
    while length >= 0x80 {
        out.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
}

fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    put_length(bytes.len(), out);
    out.extend_from_slice(bytes);
}

fn put_map(map: &Item, out: &mut Vec<u8>) {
    put_length(map.len(), out);
    for (name, value) in map {
        put_bytes(name.as_bytes(), out);
        put_value(value, out);
    }
}

fn put_value(value: &AttributeValue, out: &mut Vec<u8>) {
    match value {
        AttributeValue::S(text) => {
            out.push(b'S');
            put_bytes(text.as_bytes(), out);
        }
        AttributeValue::N(number) => {
            out.push(b'N');
            number.encode(out);
        }
        AttributeValue::B(bytes) => {
            out.push(b'B');
            put_bytes(bytes, out);
        }
        AttributeValue::Ss(set) => {
            out.push(b's');
            put_length(set.len(), out);
            set.iter().for_each(|text| put_bytes(text.as_bytes(), out));
        }
        AttributeValue::Ns(set) => {
            out.push(b'n');
            put_length(set.len(), out);
            set.iter().for_each(|number| number.encode(out));
        }
        AttributeValue::Bs(set) => {
            out.push(b'b');
            put_length(set.len(), out);
            set.iter().for_each(|bytes| put_bytes(bytes, out));
        }
        AttributeValue::Bool(true) => out.push(b'T'),
        AttributeValue::Bool(false) => out.push(b'F'),
        AttributeValue::Null => out.push(b'0'),
        AttributeValue::L(list) => {
            out.push(b'L');
            put_length(list.len(), out);
            list.iter().for_each(|value| put_value(value, out));
        }
        AttributeValue::M(map) => {
            out.push(b'M');
            put_map(map, out);
        }
    }
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    fn length(&mut self) -> Option<usize> {
        let mut length = 0usize;
        for shift in [0, 7, 14, 21] {
            let byte = self.byte()?;
            length |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(length);
            }
        }
        None
    }

    /// A count of things that take a byte each at least, so that a lie cannot reserve memory.
    fn count(&mut self) -> Option<usize> {
        self.length().filter(|count| *count <= self.rest.len())
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.length()?;
        let (bytes, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(bytes)
    }

    fn text(&mut self) -> Option<String> {
        String::from_utf8(self.bytes()?.to_vec()).ok()
    }

    fn number(&mut self) -> Option<Number> {
        let (number, rest) = Number::decode(self.rest)?;
        self.rest = rest;
        Some(number)
    }

    fn map(&mut self, depth: usize) -> Option<Item> {
        let count = self.count()?;
        (0..count).map(|_| Some((self.text()?, self.value(depth)?))).collect()
    }

    fn set<T: Ord>(&mut self, mut member: impl FnMut(&mut Self) -> Option<T>) -> Option<BTreeSet<T>> {
        let count = self.count()?;
        (0..count).map(|_| member(self)).collect()
    }

    fn value(&mut self, depth: usize) -> Option<AttributeValue> {
        if depth > DEPTH_MAX {
            return None;
        }
        Some(match self.byte()? {
            b'S' => AttributeValue::S(self.text()?),
            b'N' => AttributeValue::N(self.number()?),
            b'B' => AttributeValue::B(self.bytes()?.to_vec()),
            b's' => AttributeValue::Ss(self.set(Self::text)?),
            b'n' => AttributeValue::Ns(self.set(Self::number)?),
            b'b' => AttributeValue::Bs(self.set(|reader| reader.bytes().map(<[u8]>::to_vec))?),
            b'T' => AttributeValue::Bool(true),
            b'F' => AttributeValue::Bool(false),
            b'0' => AttributeValue::Null,
            b'L' => {
                let count = self.count()?;
                AttributeValue::L((0..count).map(|_| self.value(depth + 1)).collect::<Option<_>>()?)
            }
            b'M' => AttributeValue::M(self.map(depth + 1)?),
            _ => return None,
        })
    }
}

/// Whether a text is ASCII that JSON writes as it is. Most are, and many bytes are looked at at once.
fn is_plain(text: &[u8]) -> bool {
    let special = |found: bool, byte: &u8| found | !(0x20..0x80).contains(byte) | (*byte == b'"') | (*byte == b'\\');
    text.chunks(64).all(|chunk| !chunk.iter().fold(false, special))
}

/// From the stored form to JSON. Each part answers its size, as `AttributeValue::size` has it.
struct Writer<'a, 'o> {
    reader: Reader<'a>,
    out: &'o mut Vec<u8>,
}

impl Writer<'_, '_> {
    fn text(&mut self) -> Option<usize> {
        let text = self.reader.bytes()?;
        if is_plain(text) {
            self.out.push(b'"');
            self.out.extend_from_slice(text);
            self.out.push(b'"');
        } else {
            serde_json::to_writer(&mut *self.out, std::str::from_utf8(text).ok()?).ok()?;
        }
        Some(text.len())
    }

    fn number(&mut self) -> Option<usize> {
        let number = self.reader.number()?;
        self.out.push(b'"');
        match number.whole() {
            Some(whole) => serde_json::to_writer(&mut *self.out, &whole).ok()?,
            None => write!(self.out, "{number}").ok()?,
        }
        self.out.push(b'"');
        Some(number.size())
    }

    fn binary(&mut self) -> Option<usize> {
        let bytes = self.reader.bytes()?;
        write!(self.out, "\"{}\"", BASE64.encode(bytes)).ok()?;
        Some(bytes.len())
    }

    fn literal(&mut self, text: &[u8]) -> Option<usize> {
        self.out.extend_from_slice(text);
        Some(1)
    }

    /// Parts between two brackets; the sum of their sizes.
    fn parts(&mut self, brackets: [u8; 2], mut part: impl FnMut(&mut Self) -> Option<usize>) -> Option<usize> {
        let [open, close] = brackets;
        self.out.push(open);
        let mut size = 0;
        for index in 0..self.reader.count()? {
            if index > 0 {
                self.out.push(b',');
            }
            size += part(self)?;
        }
        self.out.push(close);
        Some(size)
    }

    fn list(&mut self, part: impl FnMut(&mut Self) -> Option<usize>) -> Option<usize> {
        self.parts(*b"[]", part)
    }

    /// `more`: what each member counts beyond its name and its value.
    fn map(&mut self, depth: usize, more: usize) -> Option<usize> {
        self.parts(*b"{}", |writer| {
            let name = writer.text()?;
            writer.out.push(b':');
            Some(more + name + writer.value(depth)?)
        })
    }

    fn value(&mut self, depth: usize) -> Option<usize> {
        if depth > DEPTH_MAX {
            return None;
        }
        let kind = self.reader.byte()?;
        let name: &[u8] = match kind {
            b'S' => b"{\"S\":",
            b'N' => b"{\"N\":",
            b'B' => b"{\"B\":",
            b's' => b"{\"SS\":",
            b'n' => b"{\"NS\":",
            b'b' => b"{\"BS\":",
            b'T' | b'F' => b"{\"BOOL\":",
            b'0' => b"{\"NULL\":",
            b'L' => b"{\"L\":",
            b'M' => b"{\"M\":",
            _ => return None,
        };
        self.out.extend_from_slice(name);
        let size = match kind {
            b'S' => self.text(),
            b'N' => self.number(),
            b'B' => self.binary(),
            b's' => self.list(Self::text),
            b'n' => self.list(Self::number),
            b'b' => self.list(Self::binary),
            b'F' => self.literal(b"false"),
            b'L' => self.list(|writer| Some(1 + writer.value(depth + 1)?)).map(|size| 3 + size),
            b'M' => self.map(depth + 1, 1).map(|size| 3 + size),
            _ => self.literal(b"true"),
        }?;
        self.out.push(b'}');
        Some(size)
    }
}

//! Event streams (`application/vnd.amazon.eventstream`): answers that are a row of framed messages.
//!
//! ```text
//! message = total: u32 | headers: u32 | CRC-32 of these 8 bytes | headers | payload | CRC-32 of all before
//! header  = name length: u8 | name | 7 (text) | value length: u16 | value
//! ```
//! Numbers are big-endian. Pure.

use bytes::{BufMut, Bytes, BytesMut};

/// Content type of answers in this form.
pub const CONTENT_TYPE: &str = "application/vnd.amazon.eventstream";

const PRELUDE_BYTES: usize = 12;
const CRC_BYTES: usize = 4;
const TEXT: u8 = 7;

/// One event of a stream. Names, types and payloads are bounded far below the lengths' width by their makers.
pub fn event(event_type: &str, content_type: &str, payload: &[u8]) -> Bytes {
    let headers = [(":event-type", event_type), (":content-type", content_type), (":message-type", "event")];
    let headers_length: usize = headers.iter().map(|(name, value)| 4 + name.len() + value.len()).sum();
    let total = PRELUDE_BYTES + headers_length + payload.len() + CRC_BYTES;
    let mut message = BytesMut::with_capacity(total);
    message.put_u32(u32::try_from(total).unwrap_or(u32::MAX));
    message.put_u32(u32::try_from(headers_length).unwrap_or(u32::MAX));
    message.put_u32(crc32fast::hash(&message));
    for (name, value) in headers {
        message.put_u8(u8::try_from(name.len()).unwrap_or(u8::MAX));
        message.put_slice(name.as_bytes());
        message.put_u8(TEXT);
        message.put_u16(u16::try_from(value.len()).unwrap_or(u16::MAX));
        message.put_slice(value.as_bytes());
    }
    message.put_slice(payload);
    message.put_u32(crc32fast::hash(&message));
    message.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_its_lengths_and_sums() {
        let message = event("PayloadChunk", "application/octet-stream", b"hi");
        let number = |at: usize| u32::from_be_bytes(message[at..at + 4].try_into().unwrap());
        assert_eq!(number(0) as usize, message.len());
        let headers = number(4) as usize;
        assert_eq!(number(8), crc32fast::hash(&message[..8]));
        assert_eq!(&message[12 + headers..message.len() - 4], b"hi");
        assert_eq!(number(message.len() - 4), crc32fast::hash(&message[..message.len() - 4]));
        assert_eq!(&message[12..12 + 1 + 11 + 1 + 2 + 12], b"\x0b:event-type\x07\x00\x0cPayloadChunk");
    }
}

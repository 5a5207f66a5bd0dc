//! Frames between the platform and a managed guest, on one stream socket (descriptor 3 inside the sandbox).
//!
//! ```text
//! frame   = length: u32 little-endian (of what follows) | kind: u8 | body
//! ```
//!
//! | kind | from     | name       | body                                                                   |
//! |------|----------|------------|------------------------------------------------------------------------|
//! | 1    | platform | LOAD       | JSON `{"root","handler","environment":{…},"cold":true,"caches"?,"hooks"?,"wrapped"?}` |
//! | 2    | platform | INVOKE     | `meta_length: u32 le`, JSON meta, then the event's bytes               |
//! | 3    | platform | PREPARE    | to a zygote: JSON, `{}` or `{"root","handler","caches","modules"}` of the function to prepare for, with `"snapshot":true` instead of `"modules"` to run its init |
//! | 4    | platform | COMPILE    | instead of LOAD: JSON `{"root","as"}`, make a code cache of the package at `root`, as if it were at `as` |
//! | 15   | guest    | BOOTED     | empty: the guest is up and waits for LOAD                              |
//! | 16   | guest    | READY      | empty: the handler is loaded                                           |
//! | 17   | guest    | INIT_ERROR | JSON error document; the guest exits after it. Also answers an INVOKE   |
//! |      |          |            | when an error that nobody caught ends the process                      |
//! | 18   | guest    | RESPONSE   | `run_us: u32 le`, `type_length: u32 le`, content type, then the        |
//! |      |          |            | answer's bytes. `run_us`: how long the guest had the event             |
//! | 19   | guest    | ERROR      | JSON error document                                                    |
//! | 20   | guest    | BEGIN      | content type: the answer comes in pieces                               |
//! | 21   | guest    | CHUNK      | bytes of the answer                                                    |
//! | 22   | guest    | END        | empty: all pieces were sent                                            |
//! | 23   | guest    | LINGER     | empty, before an answer's last frame: READY follows it when the guest  |
//! |      |          |            | has ended what it does after the answer                                |
//! | 24   | guest    | READ       | of a zygote, before BOOTED: JSON `{"variables"?,"modules"}`, what its imports looked at |
//! | 25   | guest    | UNFIT      | of a zygote that has run a function's init, instead of BOOTED: UTF-8, why it cannot be forked |
//!
//! INVOKE's meta: `{"requestId","deadlineMs","functionArn","traceId"?,"clientContext"?,"tenantId"?,"identity"?,"stream"?}`; absent keys
//! are left out. BOOTED is the first frame of a guest, whether it was asked already or not. `stream` is true where pieces reach the caller as they come; otherwise the platform gathers them.
//! `caches` are `[file, folder whose code it is of]` each. BEGIN, CHUNK and END carry a cache as well; the guest then ends.
//! Exactly one RESPONSE, ERROR, INIT_ERROR or END answers each INVOKE; the next INVOKE comes after it. BEGIN and then any
//! number of CHUNK come before END, or before the ERROR of an answer that fails half way. `environment` of LOAD is merged
//! over the process's own, so that a process may be booted before its function is known. `hooks`: the function's hooks of a
//! snapshot are run although there is none. A fork of a zygote that has run the function's init has the handler; to it LOAD
//! says what differs, and READY or INIT_ERROR tell how its hooks after the restore went. `wrapped`: a wrapper has started the
//! process, and the handler is what `_HANDLER` says by now, as it may have set that.
//!
//! The socket keeps the bounds of writes (`SOCK_SEQPACKET`): nobody who waits for input is woken because the other side has
//! read. So a frame longer than `MESSAGE_BYTES_MAX` is written in pieces of that size, no write holds parts of two frames,
//! and every read has room for a whole piece.
//!
//! Invariant: a frame that is no longer is written with one call, so that one invocation is one write and one read on
//! either side.

use std::collections::BTreeSet;

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Kinds of frames; see the table above.
pub mod kind {
    /// Load a handler.
    pub const LOAD: u8 = 1;
    /// Run the handler.
    pub const INVOKE: u8 = 2;
    /// Get ready to fork.
    pub const PREPARE: u8 = 3;
    /// Make a code cache.
    pub const COMPILE: u8 = 4;
    /// The guest is up.
    pub const BOOTED: u8 = 15;
    /// The handler is loaded.
    pub const READY: u8 = 16;
    /// The handler could not be loaded.
    pub const INIT_ERROR: u8 = 17;
    /// The handler answered.
    pub const RESPONSE: u8 = 18;
    /// The handler failed.
    pub const ERROR: u8 = 19;
    /// The handler answers in pieces.
    pub const BEGIN: u8 = 20;
    /// A piece.
    pub const CHUNK: u8 = 21;
    /// The last piece was sent.
    pub const END: u8 = 22;
    /// The guest is busy after its answer.
    pub const LINGER: u8 = 23;
    /// What a zygote looked at.
    pub const READ: u8 = 24;
    /// A zygote cannot be forked.
    pub const UNFIT: u8 = 25;
}

/// Most bytes of one write.
pub const MESSAGE_BYTES_MAX: usize = 32 * 1024;
/// Bytes before a frame's body.
pub const HEADER_BYTES: usize = 5;
/// Frames up to this size are copied out of the buffer that they came in.
const COPIED_BYTES_MAX: usize = 1024;
/// Longest body that is accepted from a guest: 6 MiB, the content type, and what Lambda allows beyond.
pub const BODY_BYTES_MAX: usize = 6 * 1024 * 1024 + 64 * 1024;

/// What a guest says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromGuest {
    /// The guest is up.
    Booted,
    /// The handler is loaded.
    Ready,
    /// The handler could not be loaded; an error document.
    InitError(Bytes),
    /// The handler's answer.
    Response {
        /// Microseconds from having the event to having the answer, as the guest saw it. For predictions only.
        run_us: u32,
        /// Its content type; empty means JSON.
        content_type: String,
        /// Its bytes.
        payload: Bytes,
    },
    /// The handler failed; an error document.
    Error(Bytes),
    /// The answer comes in pieces of this content type; empty means none.
    Begin(String),
    /// A piece of it.
    Chunk(Bytes),
    /// Its end.
    End,
    /// READY will follow the answer.
    Linger,
    /// What decided how a zygote's imports went.
    Read(Read),
    /// Why a zygote that has run a function's init cannot be forked.
    Unfit(String),
}

/// What a zygote's imports looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Deserialize)]
pub struct Read {
    /// Names of variables; nothing: all may have been looked at.
    pub variables: Option<BTreeSet<String>>,
    /// Top-level modules that were looked for, found or not.
    pub modules: BTreeSet<String>,
}

/// A guest that does not keep to the protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The frame is longer than allowed. Holds its length.
    #[error("frame of {0} bytes")]
    TooLong(usize),
    /// No such kind, or a body that does not fit it.
    #[error("malformed frame of kind {0}")]
    Malformed(u8),
}

/// One frame with this kind and body.
pub fn encode(kind: u8, parts: &[&[u8]]) -> Bytes {
    let body: usize = parts.iter().map(|part| part.len()).sum();
    let mut frame = BytesMut::with_capacity(HEADER_BYTES + body);
    // Bodies are bounded by payload limits far below 4 GiB.
    frame.put_u32_le(u32::try_from(body + 1).unwrap_or(u32::MAX));
    frame.put_u8(kind);
    for part in parts {
        frame.put_slice(part);
    }
    frame.freeze()
}

/// An INVOKE frame.
pub fn encode_invoke(meta: &[u8], event: &[u8]) -> Bytes {
    let meta_length = u32::try_from(meta.len()).unwrap_or(u32::MAX).to_le_bytes();
    encode(kind::INVOKE, &[&meta_length, meta, event])
}

/// How many bytes are known to come before the frame at the beginning of `buffer` is whole.
pub fn announced(buffer: &[u8]) -> usize {
    let length = buffer.first_chunk::<4>().map_or(0, |length| u32::from_le_bytes(*length) as usize);
    if length > BODY_BYTES_MAX { 0 } else { (4 + length).saturating_sub(buffer.len()) }
}

/// Takes one whole frame out of `buffer`, or nothing if it is not all there yet.
pub fn decode(buffer: &mut BytesMut) -> Result<Option<FromGuest>, Error> {
    let Some(length) = buffer.first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_le_bytes(*length) as usize;
    if length == 0 || length > BODY_BYTES_MAX {
        return Err(Error::TooLong(length));
    }
    if buffer.len() < 4 + length {
        buffer.reserve(4 + length - buffer.len());
        return Ok(None);
    }
    buffer.advance(4);
    let mut body = if length <= COPIED_BYTES_MAX && buffer.len() == length {
        // The buffer stays whole and is used again.
        let body = Bytes::copy_from_slice(buffer);
        buffer.clear();
        body
    } else {
        buffer.split_to(length).freeze()
    };
    let kind = body.get_u8();
    match kind {
        kind::BOOTED if body.is_empty() => Ok(Some(FromGuest::Booted)),
        kind::READY if body.is_empty() => Ok(Some(FromGuest::Ready)),
        kind::INIT_ERROR => Ok(Some(FromGuest::InitError(body))),
        kind::ERROR => Ok(Some(FromGuest::Error(body))),
        kind::BEGIN => String::from_utf8(body.to_vec())
            .map(|text| Some(FromGuest::Begin(text)))
            .map_err(|_| Error::Malformed(kind)),
        kind::CHUNK => Ok(Some(FromGuest::Chunk(body))),
        kind::END if body.is_empty() => Ok(Some(FromGuest::End)),
        kind::LINGER if body.is_empty() => Ok(Some(FromGuest::Linger)),
        kind::READ => {
            serde_json::from_slice(&body).map(|read| Some(FromGuest::Read(read))).map_err(|_| Error::Malformed(kind))
        }
        kind::UNFIT => Ok(Some(FromGuest::Unfit(String::from_utf8_lossy(&body).into_owned()))),
        kind::RESPONSE => response(body).map(Some).ok_or(Error::Malformed(kind)),
        _ => Err(Error::Malformed(kind)),
    }
}

fn response(mut body: Bytes) -> Option<FromGuest> {
    let [run_us, length] = [body.try_get_u32_le().ok()?, body.try_get_u32_le().ok()?];
    let length = length as usize;
    if length > body.len() {
        return None;
    }
    let content_type = String::from_utf8(body.split_to(length).to_vec()).ok()?;
    Some(FromGuest::Response { run_us, content_type, payload: body })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn frames_come_out_whole_however_they_arrive() {
        let mut stream = encode(kind::READY, &[]).to_vec();
        stream.extend_from_slice(&encode(kind::RESPONSE, &[&7u32.to_le_bytes(), &4u32.to_le_bytes(), b"a/bc", b"{}"]));
        stream.extend_from_slice(&encode(kind::BEGIN, &[b"a/b"]));
        stream.extend_from_slice(&encode(kind::CHUNK, &[b"12"]));
        stream.extend_from_slice(&encode(kind::END, &[]));
        let mut buffer = BytesMut::new();
        let mut seen = Vec::new();
        for byte in stream {
            buffer.put_u8(byte);
            seen.extend(decode(&mut buffer).unwrap());
        }
        let response =
            FromGuest::Response { run_us: 7, content_type: "a/bc".into(), payload: Bytes::from_static(b"{}") };
        let pieces = [FromGuest::Begin("a/b".into()), FromGuest::Chunk(Bytes::from_static(b"12")), FromGuest::End];
        assert_eq!(seen[..2], [FromGuest::Ready, response]);
        assert_eq!(seen[2..], pieces);
    }

    #[test]
    fn lengths_and_kinds_are_checked() {
        assert_eq!(decode(&mut BytesMut::from(&u32::MAX.to_le_bytes()[..])), Err(Error::TooLong(u32::MAX as usize)));
        assert_eq!(decode(&mut BytesMut::from(&[1, 0, 0, 0, 99][..])), Err(Error::Malformed(99)));
        assert_eq!(decode(&mut BytesMut::from(&[5, 0, 0, 0, 18, 9, 0, 0, 0][..])), Err(Error::Malformed(18)));
        let beyond = [9, 0, 0, 0, 18, 1, 0, 0, 0, 9, 0, 0, 0];
        assert_eq!(decode(&mut BytesMut::from(&beyond[..])), Err(Error::Malformed(18)));
        assert_eq!(decode(&mut BytesMut::from(&[2, 0, 0, 0, 20, 0xff][..])), Err(Error::Malformed(20)));
        assert_eq!(decode(&mut BytesMut::from(&[2, 0, 0, 0, 22, 0][..])), Err(Error::Malformed(22)));
    }

    proptest! {
        #[test]
        fn noise_never_panics(noise: Vec<u8>) {
            let mut buffer = BytesMut::from(&noise[..]);
            while let Ok(Some(_)) = decode(&mut buffer) {}
        }
    }
}

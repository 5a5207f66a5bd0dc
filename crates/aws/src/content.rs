//! The body of a request as it was before its client compressed it.
//!
//! Signatures are made over what was sent: this comes after them. Pure: bytes in, bytes out.
//!
//! Invariants
//!   1. What is unpacked is never longer than `UNPACKED_BYTES_MAX`, however little of it was sent.
//!   2. All of what was sent is read, or nothing is: a body that ends early or late is refused.

use std::io::Read;

use bytes::Bytes;
use flate2::bufread::MultiGzDecoder;
use flate2::{Decompress, FlushDecompress, Status};
use http::HeaderMap;
use http::header::CONTENT_ENCODING;

/// Most bytes that a body may have when it is unpacked.
pub(crate) const UNPACKED_BYTES_MAX: usize = 16 * 1024 * 1024;
/// By how much what is unpacked grows at least.
const GROWTH_BYTES: usize = 64 * 1024;

/// Why a body cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unreadable {
    /// It is not what its headers say, or they say what nobody here knows.
    Malformed,
    /// There is more of it than may be.
    TooLarge,
}

/// The body that headers say how to unpack.
pub(crate) fn unpacked(headers: &HeaderMap, body: Bytes) -> Result<Bytes, Unreadable> {
    let mut values = headers.get_all(CONTENT_ENCODING).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return if headers.contains_key(CONTENT_ENCODING) { Err(Unreadable::Malformed) } else { Ok(body) };
    };
    let name = value.to_str().unwrap_or_default().trim().to_ascii_lowercase();
    match name.as_str() {
        "identity" => Ok(body),
        "gzip" => ungzipped(&body).map(Bytes::from),
        "deflate" => inflated(&body).map(Bytes::from),
        _ => Err(Unreadable::Malformed),
    }
}

/// The content of one gzip stream or of several that follow each other.
fn ungzipped(body: &[u8]) -> Result<Vec<u8>, Unreadable> {
    if body.is_empty() {
        return Err(Unreadable::Malformed);
    }
    let mut out = Vec::new();
    let most = u64::try_from(UNPACKED_BYTES_MAX + 1).unwrap_or(u64::MAX);
    MultiGzDecoder::new(body).take(most).read_to_end(&mut out).map_err(|_| Unreadable::Malformed)?;
    if out.len() > UNPACKED_BYTES_MAX { Err(Unreadable::TooLarge) } else { Ok(out) }
}

/// The content of one zlib stream. Its reader of the library takes a cut one for a whole one.
fn inflated(body: &[u8]) -> Result<Vec<u8>, Unreadable> {
    let mut stream = Decompress::new(true);
    let mut out = Vec::new();
    loop {
        out.reserve(GROWTH_BYTES);
        let (taken, made) = (usize::try_from(stream.total_in()).unwrap_or(usize::MAX), out.len());
        let rest = body.get(taken..).unwrap_or_default();
        let status = stream.decompress_vec(rest, &mut out, FlushDecompress::None).map_err(|_| Unreadable::Malformed)?;
        if out.len() > UNPACKED_BYTES_MAX {
            return Err(Unreadable::TooLarge);
        }
        let taken_now = usize::try_from(stream.total_in()).unwrap_or(usize::MAX);
        match status {
            Status::StreamEnd if taken_now == body.len() => return Ok(out),
            Status::StreamEnd => return Err(Unreadable::Malformed),
            _ if (taken_now, out.len()) == (taken, made) => return Err(Unreadable::Malformed),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::read::{GzEncoder, ZlibEncoder};
    use proptest::prelude::*;

    fn packed(encoding: &str, body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        match encoding {
            "gzip" => GzEncoder::new(body, Compression::fast()).read_to_end(&mut out).unwrap(),
            _ => ZlibEncoder::new(body, Compression::fast()).read_to_end(&mut out).unwrap(),
        };
        out
    }

    fn of(encoding: &str, body: Vec<u8>) -> Result<Bytes, Unreadable> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_ENCODING, encoding.parse().unwrap());
        unpacked(&headers, body.into())
    }

    proptest! {
        #[test]
        fn what_was_packed_comes_back_and_nothing_else_does(
            body in prop::collection::vec(0u8..4, 0..200_000), cut in 1usize..40, other in any::<[u8; 8]>()
        ) {
            for encoding in ["gzip", "deflate", " GZIP "] {
                let name = encoding.trim().to_lowercase();
                let whole = packed(&name, &body);
                prop_assert_eq!(of(encoding, whole.clone()), Ok(Bytes::from(body.clone())));
                let short = whole[..whole.len().saturating_sub(cut)].to_vec();
                prop_assert_eq!(of(encoding, short), Err(Unreadable::Malformed));
                prop_assert_eq!(of(encoding, [&whole[..], b"junk"].concat()), Err(Unreadable::Malformed));
                prop_assert_eq!(of(encoding, body.clone()), Err(Unreadable::Malformed));
                prop_assert_eq!(of(encoding, other.to_vec()).is_ok(), false);
            }
        }
    }

    #[test]
    fn streams_of_gzip_follow_each_other_and_others_do_not() {
        let twice = |encoding: &str| [packed(encoding, b"one"), packed(encoding, b"two")].concat();
        assert_eq!(of("gzip", twice("gzip")), Ok(Bytes::from_static(b"onetwo")));
        assert_eq!(of("deflate", twice("deflate")), Err(Unreadable::Malformed));
        for unknown in ["br", "gzip, gzip", "aws-chunked", ""] {
            assert_eq!(of(unknown, packed("gzip", b"one")), Err(Unreadable::Malformed), "{unknown}");
        }
        assert_eq!(of("identity", b"as it is".to_vec()), Ok(Bytes::from_static(b"as it is")));
        assert_eq!(unpacked(&HeaderMap::new(), Bytes::from_static(b"x")), Ok(Bytes::from_static(b"x")));
        let mut both = HeaderMap::new();
        both.append(CONTENT_ENCODING, "gzip".parse().unwrap());
        both.append(CONTENT_ENCODING, "gzip".parse().unwrap());
        assert_eq!(unpacked(&both, packed("gzip", b"one").into()), Err(Unreadable::Malformed));
    }

    #[test]
    fn little_does_not_become_more_than_may_be() {
        for encoding in ["gzip", "deflate"] {
            let most = vec![b' '; UNPACKED_BYTES_MAX];
            assert_eq!(of(encoding, packed(encoding, &most)).unwrap().len(), UNPACKED_BYTES_MAX);
            let more = vec![b' '; UNPACKED_BYTES_MAX + 1];
            assert_eq!(of(encoding, packed(encoding, &more)), Err(Unreadable::TooLarge));
        }
    }
}

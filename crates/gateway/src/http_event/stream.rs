//! Streamed answers of function URLs: status, headers and cookies before the first byte of the body.
//!
//! A stream of the type `PRELUDE_TYPE` begins with the JSON of these and eight NUL bytes; any other stream is the body of a
//! 200. Pure: bytes in, a head and the rest out.

use bytes::{Bytes, BytesMut};
use http::Response;

use super::{Malformed, v2};

/// Content type of streams that begin with a prelude.
pub const PRELUDE_TYPE: &str = "application/vnd.awslambda.http-integration-response";
/// Between prelude and body.
const DELIMITER: [u8; 8] = [0; 8];
/// Most bytes of a prelude: more headers than any client takes.
const PRELUDE_BYTES_MAX: usize = 256 * 1024;

/// A prelude on its way.
#[derive(Debug, Default)]
pub struct Prelude {
    buffer: BytesMut,
}

impl Prelude {
    /// Takes the next bytes; the head and what follows it, once the prelude is whole.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Option<(Response<()>, Bytes)>, Malformed> {
        // The delimiter may have begun in what came before.
        let from = self.buffer.len().saturating_sub(DELIMITER.len() - 1);
        self.buffer.extend_from_slice(bytes);
        let found = self.buffer[from..].windows(DELIMITER.len()).position(|window| window == DELIMITER);
        let Some(at) = found.map(|at| from + at) else {
            let fits = self.buffer.len() <= PRELUDE_BYTES_MAX;
            return if fits { Ok(None) } else { Err(Malformed("the stream's prelude does not end")) };
        };
        let head = v2::prelude(&self.buffer[..at])?;
        let rest = std::mem::take(&mut self.buffer).split_off(at + DELIMITER.len()).freeze();
        Ok(Some((head, rest)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WHOLE: &[u8] =
        b"{\"statusCode\":201,\"headers\":{\"X-A\":\"b\"},\"cookies\":[\"c=1\",\"d=2\"]}\0\0\0\0\0\0\0\0body";

    fn taken(pieces: &[&[u8]]) -> (Response<()>, Vec<u8>) {
        let mut prelude = Prelude::default();
        let (mut head, mut body) = (None, Vec::new());
        for piece in pieces {
            match &head {
                Some(_) => body.extend_from_slice(piece),
                None => {
                    if let Some((found, rest)) = prelude.push(piece).unwrap() {
                        head = Some(found);
                        body.extend_from_slice(&rest);
                    }
                }
            }
        }
        (head.unwrap(), body)
    }

    #[test]
    fn a_prelude_is_status_headers_and_cookies() {
        let (head, body) = taken(&[WHOLE]);
        assert_eq!((head.status().as_u16(), head.headers()["x-a"].to_str().unwrap()), (201, "b"));
        assert_eq!(head.headers().get_all("set-cookie").iter().count(), 2);
        assert_eq!(head.headers()["content-type"], "application/octet-stream");
        assert_eq!(body, b"body");
        assert_eq!(taken(&[b"{}\0\0\0\0\0\0\0\0"]).0.status(), 200);
    }

    #[test]
    fn what_is_no_prelude_is_told() {
        for wrong in [&b"text\0\0\0\0\0\0\0\0"[..], b"{\"statusCode\":99}\0\0\0\0\0\0\0\0"] {
            assert!(Prelude::default().push(wrong).is_err());
        }
        assert!(Prelude::default().push(&vec![b'x'; PRELUDE_BYTES_MAX + 1]).is_err());
        assert!(matches!(Prelude::default().push(b"{\"statusCode\":200}\0\0\0\0\0\0\0"), Ok(None)));
    }

    proptest! {
        #[test]
        fn however_it_is_cut(cuts in proptest::collection::vec(0..WHOLE.len(), 0..6)) {
            let mut cuts = cuts;
            cuts.extend([0, WHOLE.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &WHOLE[pair[0]..pair[1]]).collect();
            let (head, body) = taken(&pieces);
            prop_assert_eq!(head.status().as_u16(), 201);
            prop_assert_eq!(body, b"body");
        }
    }
}

//! Checksums of a blob: one a chunk, and one digest over all of them with the blob's name and length.
//!
//! The digest makes the table of checksums one thing: a chunk, a table or a whole file that lies under another name is
//! as wrong as a flipped bit.
//!
//! What stands behind the content in a file (numbers little-endian):
//!
//! | bytes         | are                                             |
//! |---------------|-------------------------------------------------|
//! | 32 for each chunk | BLAKE3 of the chunk                         |
//! | 32            | the digest                                      |
//! | 8             | length of the content                           |
//! | 8             | `dunblob2`                                      |

use std::ops::Range;

use super::BlobInfo;

/// Bytes of a chunk; the last one of a blob may be shorter.
pub const CHUNK_BYTES: usize = 256 * 1024;
/// Says what a file is.
pub(super) const MAGIC: &[u8; 8] = b"dunblob2";
/// Bytes behind the table.
pub(super) const FOOTER_BYTES: usize = blake3::OUT_LEN + 8 + MAGIC.len();

type Sum = [u8; blake3::OUT_LEN];

/// Sums up content as it comes.
#[derive(Debug, Default)]
pub(super) struct Summing {
    sums: Vec<Sum>,
    current: blake3::Hasher,
    bytes: u64,
}

impl Summing {
    /// Adds a piece of any length.
    pub(super) fn push(&mut self, mut piece: &[u8]) {
        while !piece.is_empty() {
            let filled = place_in_chunk(self.bytes);
            let (now, later) = piece.split_at(piece.len().min(CHUNK_BYTES - filled));
            self.current.update(now);
            self.bytes += now.len() as u64;
            if place_in_chunk(self.bytes) == 0 {
                self.sums.push(*self.current.finalize().as_bytes());
                self.current.reset();
            }
            piece = later;
        }
    }

    /// The table of all that came.
    pub(super) fn done(mut self) -> Table {
        if place_in_chunk(self.bytes) != 0 {
            self.sums.push(*self.current.finalize().as_bytes());
        }
        Table { bytes: self.bytes, sums: self.sums }
    }
}

fn place_in_chunk(at: u64) -> usize {
    // Less than a chunk, so it fits.
    (at % CHUNK_BYTES as u64) as usize
}

/// The checksums of one blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Table {
    /// Length of the content.
    pub(super) bytes: u64,
    sums: Vec<Sum>,
}

impl Table {
    /// Length and digest of the blob of this name.
    pub(super) fn info(&self, name: &str) -> BlobInfo {
        let mut hasher = blake3::Hasher::new_derive_key("dunlin 2026-11 blob");
        hasher.update(&(name.len() as u64).to_le_bytes());
        hasher.update(name.as_bytes());
        hasher.update(&self.bytes.to_le_bytes());
        for sum in &self.sums {
            hasher.update(sum);
        }
        BlobInfo { bytes: self.bytes, digest: *hasher.finalize().as_bytes() }
    }

    /// What stands behind the content.
    pub(super) fn trailer(&self, name: &str) -> Vec<u8> {
        let mut trailer = self.sums.concat();
        trailer.extend_from_slice(&self.info(name).digest);
        trailer.extend_from_slice(&self.bytes.to_le_bytes());
        trailer.extend_from_slice(MAGIC);
        trailer
    }

    /// Reads a trailer; nothing if it is not that of a blob of this name, or damaged.
    pub(super) fn of_trailer(name: &str, trailer: &[u8]) -> Option<Self> {
        let (sums, footer) = trailer.split_at(trailer.len().checked_sub(FOOTER_BYTES)?);
        let bytes = content_bytes(footer)?;
        let (sums, rest) = sums.as_chunks();
        let table = Self { bytes, sums: sums.to_vec() };
        let whole = rest.is_empty() && table.sums.len() as u64 == chunks_of(bytes);
        (whole && footer.starts_with(&table.info(name).digest)).then_some(table)
    }

    /// Where a chunk lies in the content; nothing beyond the end.
    pub(super) fn place(&self, chunk: u64) -> Option<Range<u64>> {
        let start = chunk.checked_mul(CHUNK_BYTES as u64).filter(|start| *start < self.bytes)?;
        Some(start..self.bytes.min(start + CHUNK_BYTES as u64))
    }

    /// Whether a chunk is what was written.
    pub(super) fn holds(&self, chunk: u64, content: &[u8]) -> bool {
        let sum = usize::try_from(chunk).ok().and_then(|chunk| self.sums.get(chunk));
        sum.is_some_and(|sum| blake3::hash(content).as_bytes() == sum)
    }
}

/// How many chunks a content of this length has.
fn chunks_of(bytes: u64) -> u64 {
    bytes.div_ceil(CHUNK_BYTES as u64)
}

/// The length of the content that a footer tells of; nothing if it is none.
fn content_bytes(footer: &[u8]) -> Option<u64> {
    let rest = footer.strip_suffix(MAGIC)?;
    rest.last_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

/// How many bytes at the end of a file of `file_bytes` are the trailer that its footer tells of; nothing if they do not
/// fit together.
pub(super) fn trailer_bytes(footer: &[u8], file_bytes: u64) -> Option<u64> {
    let bytes = content_bytes(footer)?;
    let trailer = chunks_of(bytes).checked_mul(blake3::OUT_LEN as u64)?.checked_add(FOOTER_BYTES as u64)?;
    (bytes.checked_add(trailer)? == file_bytes).then_some(trailer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn table(content: &[u8]) -> Table {
        let mut summing = Summing::default();
        summing.push(content);
        summing.done()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn how_content_is_cut_into_pieces_does_not_matter(
            length in 0..3 * CHUNK_BYTES, cuts in prop::collection::vec(0..3 * CHUNK_BYTES, 0..6)
        ) {
            let content: Vec<u8> = (0..length).map(|at| (at / 7) as u8).collect();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(length)).collect();
            cuts.extend([0, length]);
            cuts.sort_unstable();
            let mut summing = Summing::default();
            for pair in cuts.windows(2) {
                summing.push(&content[pair[0]..pair[1]]);
            }
            let table = summing.done();
            prop_assert_eq!(&table, &self::table(&content));
            let trailer = table.trailer("a/b");
            prop_assert_eq!(trailer_bytes(&trailer[trailer.len() - FOOTER_BYTES..], (length + trailer.len()) as u64), Some(trailer.len() as u64));
            prop_assert_eq!(Table::of_trailer("a/b", &trailer), Some(table));
            prop_assert_eq!(Table::of_trailer("a/c", &trailer), None);
        }

        #[test]
        fn noise_is_no_trailer(noise: Vec<u8>, name in "[a-z]{1,4}") {
            prop_assert_eq!(Table::of_trailer(&name, &noise), None);
            prop_assert_eq!(trailer_bytes(&noise, noise.len() as u64), None);
        }
    }

    #[test]
    fn an_empty_blob_has_no_chunk() {
        let table = table(b"");
        assert_eq!((table.bytes, table.place(0)), (0, None));
        assert!(!table.holds(0, b""));
        assert_eq!(table.trailer("a").len(), FOOTER_BYTES);
    }
}

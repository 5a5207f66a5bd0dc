//! How a batch lies in the log, and what a log that an earlier process left says. Pure: bytes in, records out.
//!
//! A record begins on a block of 4,096 bytes and shares none with another one, so a write that is torn or lost never
//! touches what was acknowledged before it. All numbers are little-endian.
//!
//! | bytes | of a record                                                              |
//! |-------|--------------------------------------------------------------------------|
//! | 4     | magic                                                                    |
//! | 4     | CRC-32 of everything after these eight bytes                             |
//! | 4, 4  | its length in bytes, the number of its writes                            |
//! | 8     | epoch: which opening of the store wrote it                               |
//! | 8, 8  | the version before its first commit, and that of its last                |
//! | 8     | synced: up to this version everything was on disk when it was written    |
//! | 16    | the store's mark                                                         |
//! | then  | per write: length of key (2), length of value or all ones for a deletion (4), version less the one before (4), key, value |
//!
//! A stored value lies in the log as it is, and parts of records that were written over remain. The mark, random and
//! never told, keeps a value that looks like a record from being taken for one.
//!
//! **Recovery** follows the chain: from the tree's version on, each record must begin where the last one ended. The chain
//! ends at the first one that is missing. That is the torn tail of a crash, and was never acknowledged, unless some
//! record says that later versions had been on disk: then the middle is damaged, and that is an error. So only the last
//! flush before a crash, and relaxed commits after it, cannot be told from a torn tail if the disk damages them.
//!
//! Invariants
//!   1. What `recover` returns is a gapless chain from the tree's version.
//!   2. A chain never goes back to an earlier epoch: what an earlier recovery has cut off stays cut off, although its
//!      versions are given out again. That recovery erases it, too (`log`): the tree knows no epochs.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::commit::decide::Slot;
use crate::contract::Version;

/// Records begin on multiples of this.
pub(super) const BLOCK: usize = 4_096;
/// Bytes before the writes.
pub(super) const HEADER: usize = 64;
/// How much of its buffer an encoder keeps for the next record: as much as all but the largest need.
const BUFFER_BYTES_KEPT: usize = 4 * 1024 * 1024;
const MARK_AT: usize = 48;
const MAGIC: u32 = 0x316c_6e64;
const DELETED: u32 = u32::MAX;

/// What all records of a store have in common, and nothing else has.
pub(super) type Mark = [u8; 16];

/// One write: key, version, value or deletion.
pub(super) type Write = (Bytes, Slot);

/// A batch as it lies in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) epoch: u64,
    pub(super) before: Version,
    pub(super) last: Version,
    pub(super) synced: Version,
    pub(super) writes: Vec<Write>,
    /// Where it begins in its segment.
    pub(super) at: usize,
    /// Bytes that it takes in the log.
    pub(super) log_bytes: usize,
}

/// What is known of a record before its writes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    pub(super) mark: Mark,
    pub(super) epoch: u64,
    pub(super) before: Version,
    pub(super) last: Version,
    pub(super) synced: Version,
}

/// Rounds up to whole blocks.
pub(super) fn padded(bytes: usize) -> usize {
    bytes.next_multiple_of(BLOCK)
}

/// Writes a record into `buffer`, padded to whole blocks, and returns its writes as parts of one allocation, so that
/// keeping them keeps nothing of what the callers passed in.
pub(super) fn encode(head: Head, slots: &BTreeMap<Bytes, Slot>, buffer: &mut Vec<u8>) -> Vec<Write> {
    buffer.clear();
    buffer.shrink_to(BUFFER_BYTES_KEPT);
    buffer.resize(HEADER, 0);
    for (key, slot) in slots {
        let length = slot.value.as_ref().map_or(DELETED, |value| value.len() as u32);
        buffer.extend_from_slice(&(key.len() as u16).to_le_bytes());
        buffer.extend_from_slice(&length.to_le_bytes());
        buffer.extend_from_slice(&((slot.version - head.before) as u32).to_le_bytes());
        buffer.extend_from_slice(key);
        buffer.extend_from_slice(slot.value.as_deref().unwrap_or_default());
    }
    let length = buffer.len() as u32;
    buffer[8..12].copy_from_slice(&length.to_le_bytes());
    buffer[12..16].copy_from_slice(&(slots.len() as u32).to_le_bytes());
    for (at, number) in [(16, head.epoch), (24, head.before), (32, head.last), (40, head.synced)] {
        buffer[at..at + 8].copy_from_slice(&number.to_le_bytes());
    }
    buffer[MARK_AT..HEADER].copy_from_slice(&head.mark);
    let checksum = crc32fast::hash(&buffer[8..]);
    buffer[0..4].copy_from_slice(&MAGIC.to_le_bytes());
    buffer[4..8].copy_from_slice(&checksum.to_le_bytes());
    let kept = Bytes::copy_from_slice(&buffer[HEADER..]);
    buffer.resize(padded(buffer.len()), 0);
    writes_of(&kept, slots.len(), head.before).unwrap_or_default()
}

/// Takes the writes apart, without copying; none if they are not well-formed.
fn writes_of(bytes: &Bytes, count: usize, before: Version) -> Option<Vec<Write>> {
    let mut writes = Vec::with_capacity(count.min(bytes.len() / 10));
    let mut at = 0;
    for _ in 0..count {
        let key_bytes = usize::from(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
        let value_bytes = number32(bytes, at + 2)?;
        let version = before + u64::from(number32(bytes, at + 6)?);
        at += 10;
        bytes.get(at..at + key_bytes)?;
        let key = bytes.slice(at..at + key_bytes);
        at += key_bytes;
        let value = if value_bytes == DELETED {
            None
        } else {
            bytes.get(at..at + value_bytes as usize)?;
            Some(bytes.slice(at..at + value_bytes as usize))
        };
        at += value.as_ref().map_or(0, Bytes::len);
        writes.push((key, Slot { version, value }));
    }
    (at == bytes.len()).then_some(writes)
}

fn number32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn number64(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// The record at the beginning of `bytes`, if there is a whole one of this store.
fn parse(bytes: &[u8], mark: &Mark) -> Option<Record> {
    if number32(bytes, 0)? != MAGIC || bytes.get(MARK_AT..HEADER)? != mark {
        return None;
    }
    let length = number32(bytes, 8)? as usize;
    let body = bytes.get(8..length)?;
    if length < HEADER || number32(bytes, 4)? != crc32fast::hash(body) {
        return None;
    }
    let (epoch, before, last, synced) =
        (number64(bytes, 16)?, number64(bytes, 24)?, number64(bytes, 32)?, number64(bytes, 40)?);
    let writes = writes_of(&Bytes::copy_from_slice(&bytes[HEADER..length]), number32(bytes, 12)? as usize, before)?;
    (before < last).then_some(Record { epoch, before, last, synced, writes, at: 0, log_bytes: padded(length) })
}

/// What one segment of the log holds.
#[derive(Debug, Default)]
pub(super) struct Scanned {
    /// Whole records of versions that the tree does not have.
    pub(super) records: Vec<Record>,
    /// The highest epoch of all whole records.
    pub(super) epoch: u64,
    /// The highest `synced` of them.
    pub(super) synced: Version,
}

/// Finds the whole records in a segment, wherever they begin: one that is damaged must not hide those behind it.
pub(super) fn scan(segment: &[u8], mark: &Mark, applied: Version) -> Scanned {
    let mut scanned = Scanned::default();
    let mut at = 0;
    while at < segment.len() {
        let Some(record) = parse(&segment[at..], mark).map(|record| Record { at, ..record }) else {
            at += BLOCK;
            continue;
        };
        at += record.log_bytes;
        scanned.epoch = scanned.epoch.max(record.epoch);
        scanned.synced = scanned.synced.max(record.synced);
        if record.last > applied {
            scanned.records.push(record);
        }
    }
    scanned
}

/// Puts the chain together that goes on from the tree's version, out of the records of all segments; or says where it
/// is broken.
pub(super) fn recover(mut found: Vec<Record>, synced: Version, applied: Version) -> Result<Vec<Record>, String> {
    let mut by_start: BTreeMap<Version, Vec<Record>> = BTreeMap::new();
    found.sort_by_key(|record| record.epoch);
    found.into_iter().for_each(|record| by_start.entry(record.before).or_default().push(record));
    let (mut chain, mut last, mut epoch) = (Vec::new(), applied, 0);
    // The newest epoch is at the end: where two say different things, the later opening has cut the earlier one.
    while let Some(record) = by_start.remove(&last).and_then(|mut records| records.pop()) {
        if record.epoch < epoch {
            break;
        }
        (last, epoch) = (record.last, record.epoch);
        chain.push(record);
    }
    if synced > last {
        return Err(format!("the log has lost commits after {last}, although all up to {synced} were on disk"));
    }
    Ok(chain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MARK: Mark = [7; 16];

    fn slots(of: &[(&str, Version, Option<&str>)]) -> BTreeMap<Bytes, Slot> {
        let slot = |version, value: Option<&str>| Slot { version, value: value.map(|v| v.to_owned().into()) };
        of.iter().map(|(key, version, value)| (key.to_string().into(), slot(*version, *value))).collect()
    }

    /// A log of records of 1 to 3 commits, each synced before the next.
    fn log(records: u64, epoch: u64, from: Version) -> Vec<u8> {
        let (mut bytes, mut buffer, mut before) = (Vec::new(), Vec::new(), from);
        for number in 0..records {
            let last = before + 1 + number % 3;
            let value = "v".repeat(1 + 1_700 * (number as usize % 5));
            let slots = slots(&[("a", last, Some(&value)), ("b", before + 1, None)]);
            encode(Head { mark: MARK, epoch, before, last, synced: before }, &slots, &mut buffer);
            bytes.extend_from_slice(&buffer);
            before = last;
        }
        bytes
    }

    fn recovered(bytes: &[u8], applied: Version) -> Result<Vec<Record>, String> {
        let scanned = scan(bytes, &MARK, applied);
        recover(scanned.records, scanned.synced, applied)
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let mut buffer = Vec::new();
        let slots = slots(&[("", 8, Some("empty key")), ("k", 9, Some("")), ("x", 9, None)]);
        let head = Head { mark: MARK, epoch: 3, before: 7, last: 9, synced: 6 };
        let writes = encode(head, &slots, &mut buffer);
        assert_eq!(writes, slots.into_iter().collect::<Vec<_>>());
        assert_eq!(buffer.len(), BLOCK);
        let expected = Record { epoch: 3, before: 7, last: 9, synced: 6, writes, at: 0, log_bytes: BLOCK };
        assert_eq!(scan(&buffer, &MARK, 0).records, [expected]);
        assert!(scan(&buffer, &MARK, 9).records.is_empty(), "what the tree has is not wanted");
        assert!(scan(&buffer, &[8; 16], 0).records.is_empty(), "what another store has written is no record");
    }

    #[test]
    fn a_log_cut_at_any_byte_gives_the_whole_records_before_the_cut() {
        let bytes = log(6, 1, 0);
        let whole = recovered(&bytes, 0).unwrap();
        assert_eq!(whole.len(), 6);
        for cut in 0..bytes.len() {
            // The rest of a segment is zeros, or what an earlier round has left there.
            let zeros = [&bytes[..cut], &vec![0; bytes.len() - cut][..]].concat();
            let found = recovered(&zeros, 0).unwrap();
            assert_eq!(found[..], whole[..found.len()], "cut at {cut}");
            let ends: usize = found.iter().map(|record| record.log_bytes).sum();
            let next = whole.get(found.len()).map_or(usize::MAX, |record| ends + record.log_bytes);
            assert!(ends <= cut.next_multiple_of(BLOCK) && cut < next, "cut at {cut}: {} records", found.len());
        }
    }

    #[test]
    fn what_an_earlier_recovery_cut_off_does_not_come_back() {
        // Epoch 1: (0, 1] whole, (1, 3] torn, (3, 6] whole but unreachable. Epoch 2 goes on from 1 and ends at 3.
        let mut first = log(3, 1, 0);
        first[BLOCK] = 0;
        let slots = slots(&[("new", 3, Some("x"))]);
        let mut second = Vec::new();
        encode(Head { mark: MARK, epoch: 2, before: 1, last: 3, synced: 1 }, &slots, &mut second);
        let scanned = [scan(&first, &MARK, 0), scan(&second, &MARK, 0)];
        let synced = 1;
        let found = scanned.into_iter().flat_map(|scanned| scanned.records).collect();
        let chain = recover(found, synced, 0).unwrap();
        assert_eq!(chain.iter().map(|record| (record.epoch, record.last)).collect::<Vec<_>>(), [(1, 1), (2, 3)]);
    }

    #[test]
    fn a_tree_that_is_older_than_the_log_allows_is_damage() {
        assert!(recovered(&log(4, 1, 10), 5).is_err());
        assert!(recovered(&log(1, 1, 5), 5).is_ok());
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

        /// One flipped bit: an error, or nothing changed but the last record, and never other bytes.
        #[test]
        fn a_flipped_bit_is_found(records in 1u64..8, at: prop::sample::Index, bit in 0u8..8) {
            let mut bytes = log(records, 1, 0);
            let whole = recovered(&bytes, 0).unwrap();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            match recovered(&bytes, 0) {
                Ok(found) => {
                    prop_assert!(found.len() + 1 >= whole.len());
                    prop_assert_eq!(&found[..], &whole[..found.len()]);
                    let tail: usize = whole[..whole.len() - 1].iter().map(|record| record.log_bytes).sum();
                    prop_assert!(found.len() == whole.len() || at >= tail);
                }
                Err(error) => prop_assert!(error.contains("lost commits"), "{}", error),
            }
        }

        /// Unsynced writes that a power cut keeps or loses in any order leave a prefix, at least up to the last sync.
        #[test]
        fn a_power_cut_leaves_a_prefix(kept in prop::collection::vec(any::<bool>(), 12), synced in 0usize..12) {
            let (mut bytes, mut buffer) = (Vec::new(), Vec::new());
            for (number, kept) in kept.iter().enumerate() {
                let before = number as Version;
                let slots = slots(&[("k", before + 1, Some("v"))]);
                let on_disk = number.min(synced) as Version;
                encode(Head { mark: MARK, epoch: 1, before, last: before + 1, synced: on_disk }, &slots, &mut buffer);
                if number >= synced && !kept {
                    buffer.fill(0);
                }
                bytes.extend_from_slice(&buffer);
            }
            let found = recovered(&bytes, 0).unwrap();
            let expected = synced + kept[synced..].iter().take_while(|kept| **kept).count();
            prop_assert_eq!(found.len(), expected);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), length: u32, count: u32) {
            let mut buffer = bytes;
            buffer.resize(buffer.len().max(HEADER), 0);
            buffer[8..12].copy_from_slice(&length.to_le_bytes());
            buffer[12..16].copy_from_slice(&count.to_le_bytes());
            buffer[0..4].copy_from_slice(&MAGIC.to_le_bytes());
            buffer[MARK_AT..HEADER].copy_from_slice(&MARK);
            let end = (length as usize).clamp(8, buffer.len());
            let checksum = crc32fast::hash(&buffer[8..end]);
            buffer[4..8].copy_from_slice(&checksum.to_le_bytes());
            let _ = recovered(&buffer, 0);
        }
    }
}

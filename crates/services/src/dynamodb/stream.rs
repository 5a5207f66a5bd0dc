//! Streams: the changes of a table's items, in order: what a record is, how it lies in the store, what clients and functions
//! see of it.
//!
//! Pure. Which change writes which record is decided in `ops::write`; how records are read, in `records`; when they go, in
//! `retention`.
//!
//! | record  | bytes                                                                                       |
//! |---------|---------------------------------------------------------------------------------------------|
//! | version | `01`                                                                                        |
//! | event   | `I` insert, `M` modify, `R` remove, `E` the stream was switched off, and nothing follows it |
//! | flags   | 1: by expiry, 2: with the item after, 4: with the item before                               |
//! | time    | milliseconds since the epoch, 8 bytes, big-endian                                           |
//! | items   | keys, after, before, as the flags say: length, 4 bytes, big-endian, then as `item` has them |
//!
//! Invariants
//!   1. A stream has one shard, from its beginning to its end; its records are in the order of their commits, hence those of
//!      each item in the order of its changes.
//!   2. The record of a change is written in the commit of the change; what changed nothing has none.
//!   3. A place is the number of a commit and what tells its records apart; so it is known without asking anyone, and
//!      sequence numbers, which are places, only grow.

use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};
use sha2::{Digest, Sha256};

use super::item;
use super::policy::Policy;
use super::table::{KeyAttribute, Table};
use super::value::{Item, item_size, item_to_json};

/// How long records stay, and streams that were switched off.
pub(super) const RETENTION_MS: u64 = 24 * 3_600_000;

const VERSION: u8 = 1;
const BY_EXPIRY: u8 = 1;
const WITH_AFTER: u8 = 2;
const WITH_BEFORE: u8 = 4;

/// What records show of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(super) enum View {
    /// Its key attributes.
    KeysOnly,
    /// The item after the change as well.
    NewImage,
    /// The item before the change as well.
    OldImage,
    /// Both as well.
    NewAndOldImages,
}

impl View {
    /// The names that requests have for them.
    pub(super) const NAMES: &[&str] = &["OLD_IMAGE", "NEW_IMAGE", "KEYS_ONLY", "NEW_AND_OLD_IMAGES"];

    /// The view of a name.
    pub(super) fn parse(name: &str) -> Option<Self> {
        match name {
            "KEYS_ONLY" => Some(Self::KeysOnly),
            "NEW_IMAGE" => Some(Self::NewImage),
            "OLD_IMAGE" => Some(Self::OldImage),
            "NEW_AND_OLD_IMAGES" => Some(Self::NewAndOldImages),
            _ => None,
        }
    }

    /// The name of the view.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::KeysOnly => "KEYS_ONLY",
            Self::NewImage => "NEW_IMAGE",
            Self::OldImage => "OLD_IMAGE",
            Self::NewAndOldImages => "NEW_AND_OLD_IMAGES",
        }
    }
}

/// The latest stream of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stream {
    /// Tells its records from those of all others.
    pub(super) number: u64,
    /// When it was switched on, as its ARN says it.
    pub(super) label: String,
    pub(super) view: View,
    /// Milliseconds since the epoch.
    pub(super) created_at_ms: u64,
    /// A commit before its first record.
    pub(super) opened: u64,
    /// Whether changes are recorded.
    pub(super) enabled: bool,
    /// Who may do what with it.
    #[serde(default)]
    pub(super) policy: Option<Policy>,
}

impl Stream {
    /// One that is switched on now, with a label other than `last`.
    pub(super) fn new(number: u64, view: View, now_ms: u64, opened: u64, last: Option<&Self>) -> Self {
        // Labels tell the streams of a table apart.
        let created_at_ms = last.map_or(now_ms, |last| now_ms.max(last.created_at_ms + 1));
        Self { number, label: label(created_at_ms), view, created_at_ms, opened, enabled: true, policy: None }
    }

    /// `arn:aws:dynamodb:R:A:table/T/stream/L`
    pub(super) fn arn(&self, table: &Table) -> String {
        format!("{}/stream/{}", table.arn(), self.label)
    }
}

/// `2024-01-01T00:00:00.000`
fn label(ms: u64) -> String {
    let time = jiff::Timestamp::from_millisecond(i64::try_from(ms).unwrap_or(0)).unwrap_or_default();
    let text = format!("{time:.3}");
    text.trim_end_matches('Z').to_owned()
}

/// A stream as it is known without its table, which it may outlive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Description {
    pub(super) stream: Stream,
    pub(super) account: String,
    pub(super) region: String,
    pub(super) table: String,
    pub(super) hash: KeyAttribute,
    pub(super) range: Option<KeyAttribute>,
    /// When it was switched off, in milliseconds since the epoch.
    #[serde(default)]
    pub(super) closed_at_ms: Option<u64>,
}

impl Description {
    /// Of a stream of a table.
    pub(super) fn of(table: &Table, stream: &Stream, closed_at_ms: Option<u64>) -> Self {
        Self {
            stream: stream.clone(),
            account: table.account.clone(),
            region: table.region.clone(),
            table: table.name.clone(),
            hash: table.hash.clone(),
            range: table.range.clone(),
            closed_at_ms,
        }
    }

    /// Its ARN.
    pub(super) fn arn(&self) -> String {
        let Self { account, region, table, stream, .. } = self;
        format!("arn:aws:dynamodb:{region}:{account}:table/{table}/stream/{}", stream.label)
    }

    /// The name of its shard.
    pub(super) fn shard(&self) -> String {
        let Stream { number, created_at_ms, .. } = self.stream;
        format!("shardId-{created_at_ms:020}-{:08x}", number & 0xffff_ffff)
    }
}

/// Where in a stream: after all records up to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// The commit.
    pub(super) commit: u64,
    /// Which of its records.
    pub(super) ordinal: u32,
}

impl Place {
    /// Before all records.
    pub(super) const START: Self = Self { commit: 0, ordinal: 0 };

    /// After all records of a commit.
    pub(super) fn after_commit(commit: u64) -> Self {
        Self { commit, ordinal: u32::MAX }
    }

    /// Before the record there and after all others before it.
    pub(super) fn before(self) -> Self {
        match (self.ordinal.checked_sub(1), self.commit.checked_sub(1)) {
            (Some(ordinal), _) => Self { ordinal, ..self },
            (None, Some(commit)) => Self::after_commit(commit),
            (None, None) => Self::START,
        }
    }

    /// The sequence number of the record there: all have as many digits, so that they sort as texts too.
    pub(super) fn sequence(self) -> String {
        format!("1{:020}{:010}", self.commit, self.ordinal)
    }

    /// The place of a sequence number.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let digits =
            text.strip_prefix('1').filter(|rest| rest.len() == 30 && rest.bytes().all(|b| b.is_ascii_digit()))?;
        Some(Self { commit: digits[..20].parse().ok()?, ordinal: digits[20..].parse().ok()? })
    }
}

/// What happened to an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    Insert,
    Modify,
    Remove,
    /// Nothing happens any more.
    End,
}

impl Event {
    fn byte(self) -> u8 {
        match self {
            Self::Insert => b'I',
            Self::Modify => b'M',
            Self::Remove => b'R',
            Self::End => b'E',
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Insert => "INSERT",
            Self::Modify => "MODIFY",
            Self::Remove => "REMOVE",
            Self::End => "",
        }
    }
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) event: Event,
    /// Whether the table itself removed the item, since its time had come.
    pub(super) by_expiry: bool,
    pub(super) at_ms: u64,
    pub(super) keys: Item,
    pub(super) after: Option<Item>,
    pub(super) before: Option<Item>,
}

/// The stored record of a change, as far as `view` shows it; nothing if nothing changed.
pub(super) fn change(
    view: View,
    by_expiry: bool,
    at_ms: u64,
    keys: &Item,
    before: Option<&Item>,
    after: Option<&Item>,
) -> Option<Vec<u8>> {
    let event = match (before, after) {
        (None, None) => return None,
        (None, Some(_)) => Event::Insert,
        (Some(_), None) => Event::Remove,
        (Some(before), Some(after)) if before == after => return None,
        (Some(_), Some(_)) => Event::Modify,
    };
    let before = before.filter(|_| matches!(view, View::OldImage | View::NewAndOldImages));
    let after = after.filter(|_| matches!(view, View::NewImage | View::NewAndOldImages));
    let flag = |on: bool, flag: u8| if on { flag } else { 0 };
    let flags = flag(by_expiry, BY_EXPIRY) | flag(after.is_some(), WITH_AFTER) | flag(before.is_some(), WITH_BEFORE);
    let mut out = head(event, flags, at_ms);
    for item in std::iter::once(keys).chain(after).chain(before) {
        let bytes = item::encode(item);
        out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
        out.extend_from_slice(&bytes);
    }
    Some(out)
}

/// The stored record that nothing follows.
pub(super) fn end(at_ms: u64) -> Vec<u8> {
    head(Event::End, 0, at_ms)
}

fn head(event: Event, flags: u8, at_ms: u64) -> Vec<u8> {
    let mut out = vec![VERSION, event.byte(), flags];
    out.extend_from_slice(&at_ms.to_be_bytes());
    out
}

/// Reads a stored record; nothing if the bytes are not one.
pub(super) fn decode(bytes: &[u8]) -> Option<Record> {
    let (&[version, event, flags], rest) = bytes.split_first_chunk()?;
    let (at_ms, mut rest) = rest.split_first_chunk()?;
    let event = match event {
        b'I' => Event::Insert,
        b'M' => Event::Modify,
        b'R' => Event::Remove,
        b'E' => Event::End,
        _ => return None,
    };
    if version != VERSION {
        return None;
    }
    let mut next = |there: bool| -> Option<Option<Item>> {
        if !there {
            return Some(None);
        }
        let (length, after) = rest.split_first_chunk()?;
        let (item, after) = after.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
        rest = after;
        item::decode(item).map(Some)
    };
    let keys = next(event != Event::End)?.unwrap_or_default();
    let (after, before) = (next(flags & WITH_AFTER != 0)?, next(flags & WITH_BEFORE != 0)?);
    let at_ms = u64::from_be_bytes(*at_ms);
    rest.is_empty().then_some(Record { event, by_expiry: flags & BY_EXPIRY != 0, at_ms, keys, after, before })
}

/// When a stored record was written.
pub(super) fn time_of(bytes: &[u8]) -> Option<u64> {
    bytes.get(3..11).and_then(|time| time.try_into().ok()).map(u64::from_be_bytes)
}

impl Record {
    /// The record as GetRecords answers it.
    pub(super) fn to_json(&self, of: &Description, at: Place) -> Json {
        let mut record = self.members(of, at);
        if self.by_expiry {
            record["userIdentity"] = json!({ "Type": "Service", "PrincipalId": "dynamodb.amazonaws.com" });
        }
        record
    }

    /// The record as a function gets it.
    pub(super) fn to_event(&self, of: &Description, at: Place) -> Json {
        let mut record = self.members(of, at);
        record["eventSourceARN"] = json!(of.arn());
        if self.by_expiry {
            record["userIdentity"] = json!({ "type": "Service", "principalId": "dynamodb.amazonaws.com" });
        }
        record
    }

    fn members(&self, of: &Description, at: Place) -> Json {
        let sizes = [Some(&self.keys), self.after.as_ref(), self.before.as_ref()];
        let size: usize = sizes.into_iter().flatten().map(item_size).sum();
        let mut change = json!({
            "ApproximateCreationDateTime": whole_seconds(self.at_ms),
            "Keys": item_to_json(&self.keys),
            "SequenceNumber": at.sequence(),
            "SizeBytes": size,
            "StreamViewType": of.stream.view.name(),
        });
        for (member, item) in [("NewImage", &self.after), ("OldImage", &self.before)] {
            if let Some(item) = item {
                change[member] = item_to_json(item);
            }
        }
        json!({
            "eventID": event_id(of.stream.number, at),
            "eventName": self.event.name(),
            "eventVersion": "1.1",
            "eventSource": "aws:dynamodb",
            "awsRegion": of.region,
            "dynamodb": change,
        })
    }
}

/// Names a record among all of all streams; the same each time that it is read.
fn event_id(stream: u64, at: Place) -> String {
    let digest = Sha256::new()
        .chain_update(stream.to_be_bytes())
        .chain_update(at.commit.to_be_bytes())
        .chain_update(at.ordinal.to_be_bytes())
        .finalize();
    hex::encode(&digest[..16])
}

/// Seconds since the epoch, rounded down, as the wire has timestamps.
#[expect(clippy::cast_precision_loss, reason = "seconds of this age fit a double exactly")]
fn whole_seconds(ms: u64) -> f64 {
    (ms / 1_000) as f64
}

#[cfg(test)]
mod tests {
    use super::super::value::AttributeValue;
    use super::*;
    use proptest::prelude::*;

    fn item(text: &str) -> Item {
        Item::from([("id".to_owned(), AttributeValue::S(text.into()))])
    }

    proptest! {
        #[test]
        fn sequence_numbers_sort_as_places_and_are_read_back(a: (u64, u32), b: (u64, u32)) {
            let (a, b) = (Place { commit: a.0, ordinal: a.1 }, Place { commit: b.0, ordinal: b.1 });
            prop_assert_eq!(a.cmp(&b), a.sequence().cmp(&b.sequence()));
            prop_assert_eq!(Place::parse(&a.sequence()), Some(a));
            prop_assert!((21..=40).contains(&a.sequence().len()));
            prop_assert!(a.before() < a || a == Place::START);
        }

        #[test]
        fn any_bytes_are_a_record_or_nothing(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = decode(&bytes);
        }
    }

    #[test]
    fn a_record_shows_what_its_view_says() {
        let (keys, old, new) = (item("k"), item("old"), item("new"));
        for (view, after, before) in [
            (View::KeysOnly, false, false),
            (View::NewImage, true, false),
            (View::OldImage, false, true),
            (View::NewAndOldImages, true, true),
        ] {
            assert_eq!(View::parse(view.name()), Some(view));
            assert_eq!(serde_json::to_value(view).unwrap(), view.name());
            let bytes = change(view, after, 7, &keys, Some(&old), Some(&new)).unwrap();
            let record = decode(&bytes).unwrap();
            assert_eq!((record.event, record.by_expiry, record.at_ms), (Event::Modify, after, 7));
            assert_eq!((record.after.is_some(), record.before.is_some()), (after, before));
            assert_eq!(time_of(&bytes), Some(7));
        }
        assert_eq!(change(View::NewImage, false, 7, &keys, Some(&old), Some(&old)), None);
        assert_eq!(change(View::NewImage, false, 7, &keys, None, None), None);
        let removed = change(View::NewImage, false, 7, &keys, Some(&old), None).unwrap();
        assert_eq!(decode(&removed).unwrap().event, Event::Remove);
        assert_eq!(decode(&end(9)).unwrap().event, Event::End);
    }

    #[test]
    fn a_label_is_a_time_and_used_once() {
        let first = Stream::new(1, View::KeysOnly, 1_700_000_000_123, 0, None);
        assert_eq!(first.label, "2023-11-14T22:13:20.123");
        let second = Stream::new(2, View::KeysOnly, 1_700_000_000_000, 0, Some(&first));
        assert_eq!(second.label, "2023-11-14T22:13:20.124");
    }
}

//! Secondary indexes: what an index is, which entry an item has in it, what a change of an item changes there.
//!
//! Pure. How entries lie in the store is said in `keys`; which are written when, in `ops::write`; how an index is filled
//! or emptied on a live table, in `indexing`.
//!
//! An entry's value:
//!
//! | first byte | then                                                                                         |
//! |------------|----------------------------------------------------------------------------------------------|
//! | `01`       | the projected attributes, as `item` has them                                                 |
//! | `02`       | the key of the item: the attributes are read from the table                                  |
//!
//! Invariants
//!   1. An item without an index's key attributes, or whose values cannot be keys, has no entry in it.
//!   2. An entry carries its attributes only if they are few: so all entries of one item, of all its indexes, are small
//!      beside a transaction of the store.
//!   3. Entries are written in the commit that changes the item, so that both tell the same in every snapshot.

use std::collections::BTreeSet;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use super::error::{Result, invalid};
use super::table::{Count, HASH_KEY_BYTES_MAX, KeyAttribute, RANGE_KEY_BYTES_MAX, Table};
use super::throughput::{OnDemand, UnitsChanged};
use super::value::{AttributeValue, Item, item_size};
use super::{item, keys};

const PARAMETERS: &str = "One or more parameter values were invalid: ";
/// Most bytes of attributes that an entry carries.
const CARRIED_BYTES_MAX: usize = 4_096;
const CARRIES: u8 = 1;
const REFERS: u8 = 2;

/// Which attributes an index has besides the keys of the table and its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Projection {
    /// Every attribute.
    All,
    /// None.
    KeysOnly,
    /// These.
    Include(Vec<String>),
}

/// How far an index is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) enum State {
    /// Every item has its entry.
    #[default]
    Active,
    /// Items from before are still to get their entries; changes of items reach it already.
    Creating,
    /// Nobody writes it any more; its entries are being removed.
    Deleting,
}

/// A secondary index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Index {
    pub(super) name: String,
    /// Tells its entries from those of all others, also of the same name.
    pub(super) number: u64,
    /// Whether it shares the table's partitions.
    pub(super) local: bool,
    pub(super) hash: KeyAttribute,
    pub(super) range: Option<KeyAttribute>,
    pub(super) projection: Projection,
    #[serde(default)]
    pub(super) state: State,
    /// Read and write capacity units of a global one.
    #[serde(default)]
    pub(super) throughput: Option<(u64, u64)>,
    /// The greatest throughput of a global one while its table is paid per request.
    #[serde(default)]
    pub(super) on_demand: OnDemand,
    /// When its units were changed.
    #[serde(default)]
    pub(super) units_changed: UnitsChanged,
}

/// What an item has in an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct IndexEntry {
    /// The store's key.
    pub(super) key: Bytes,
    /// The store's value.
    pub(super) value: Vec<u8>,
    /// Bytes of the projected attributes.
    pub(super) size: usize,
}

/// What an entry's value says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Carried {
    /// The projected attributes.
    Attributes(Item),
    /// Where the item is.
    Item(Bytes),
}

/// What a change of an item changes in one index.
#[derive(Debug)]
pub(super) struct IndexChange<'a> {
    pub(super) index: &'a Index,
    pub(super) before: Option<IndexEntry>,
    pub(super) after: Option<IndexEntry>,
}

/// Where values come from that are to be keys of indexes: DynamoDB refuses them in different words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin<'a> {
    /// A whole item of the request.
    Put,
    /// An update of this item.
    Update(Option<&'a Item>),
}

impl Index {
    /// The key attributes: hash, then range.
    pub(super) fn key_attributes(&self) -> impl Iterator<Item = &KeyAttribute> {
        std::iter::once(&self.hash).chain(&self.range)
    }

    /// Whether items have the attribute in this index.
    pub(super) fn projects(&self, table: &Table, name: &str) -> bool {
        match &self.projection {
            Projection::All => true,
            Projection::Include(names) if names.iter().any(|one| one == name) => true,
            _ => table.is_key(name) || self.key_attributes().any(|key| key.name == name),
        }
    }

    /// What the index has of an item.
    pub(super) fn project(&self, table: &Table, item: &Item) -> Item {
        let wanted = item.iter().filter(|(name, _)| self.projects(table, name));
        wanted.map(|(name, value)| (name.clone(), value.clone())).collect()
    }

    /// The entry of an item of the table, if it has one.
    pub(super) fn entry(&self, table: &Table, item: &Item) -> Option<IndexEntry> {
        let hash = key_value(&self.hash, HASH_KEY_BYTES_MAX, item)?;
        let sort = match &self.range {
            Some(range) => Some(key_value(range, RANGE_KEY_BYTES_MAX, item)?),
            None => None,
        };
        let partition = keys::entry_partition(table.generation, self.number, &hash);
        let start = keys::entry_sort(&partition, sort.as_deref());
        let (item_partition, item_sort) = table.key_parts(item)?;
        let key = keys::entry(&start, &item_partition, item_sort.as_deref());
        let size = match &self.projection {
            Projection::All => item_size(item),
            _ => item.iter().filter(|(name, _)| self.projects(table, name)).map(|(n, v)| n.len() + v.size()).sum(),
        };
        let value = if size > CARRIED_BYTES_MAX {
            let item_partition = keys::partition(table.generation, &item_partition);
            [&[REFERS], &keys::item(&item_partition, item_sort.as_deref())[..]].concat()
        } else {
            [&[CARRIES], &item::encode(&self.project(table, item))[..]].concat()
        };
        Some(IndexEntry { key, value, size })
    }

    /// The members of its description.
    pub(super) fn describe(&self, table: &Table, count: Count, now_ms: u64) -> Json {
        let roles = ["HASH", "RANGE"];
        let schema = self.key_attributes().zip(roles);
        let schema = schema.map(|(key, role)| json!({ "AttributeName": key.name, "KeyType": role }));
        let projection = match &self.projection {
            Projection::All => json!({ "ProjectionType": "ALL" }),
            Projection::KeysOnly => json!({ "ProjectionType": "KEYS_ONLY" }),
            Projection::Include(names) => json!({ "ProjectionType": "INCLUDE", "NonKeyAttributes": names }),
        };
        let mut description = json!({
            "IndexName": self.name,
            "KeySchema": schema.collect::<Vec<_>>(),
            "Projection": projection,
            "IndexSizeBytes": count.bytes.max(0),
            "ItemCount": count.items.max(0),
            "IndexArn": format!("{}/index/{}", table.arn(), self.name),
        });
        if self.local {
            return description;
        }
        let (read, write) = self.throughput.unwrap_or_default();
        description["ProvisionedThroughput"] = self.units_changed.describe(read, write, now_ms);
        if let Some(most) = self.on_demand.describe() {
            description["OnDemandThroughput"] = most;
        }
        description["IndexStatus"] = json!(match self.state {
            State::Active => "ACTIVE",
            State::Creating => "CREATING",
            State::Deleting => "DELETING",
        });
        if self.state == State::Creating {
            description["Backfilling"] = json!(true);
        }
        description
    }
}

/// Bytes of a key attribute's value, if it can be one.
fn key_value(key: &KeyAttribute, bytes_max: usize, item: &Item) -> Option<Vec<u8>> {
    let value = item.get(&key.name).filter(|value| value.type_name() == key.kind && !is_empty(value))?;
    (value.size() <= bytes_max).then(|| keys::key_bytes(value)).flatten()
}

fn is_empty(value: &AttributeValue) -> bool {
    match value {
        AttributeValue::S(text) => text.is_empty(),
        AttributeValue::B(bytes) => bytes.is_empty(),
        _ => false,
    }
}

/// Reads an entry's value; nothing if the bytes are not one.
pub(super) fn decode(value: &Bytes) -> Option<Carried> {
    match *value.first()? {
        CARRIES => item::decode(&value[1..]).map(Carried::Attributes),
        REFERS => Some(Carried::Item(value.slice(1..))),
        _ => None,
    }
}

/// What making `after` of `before` changes in the table's indexes; indexes in which nothing changes are left out.
pub(super) fn changes<'a>(table: &'a Table, before: Option<&Item>, after: Option<&Item>) -> Vec<IndexChange<'a>> {
    let written = table.indexes.iter().filter(|index| index.state != State::Deleting);
    let changes = written.map(|index| {
        let entry = |item: Option<&Item>| item.and_then(|item| index.entry(table, item));
        IndexChange { index, before: entry(before), after: entry(after) }
    });
    // What an entry refers to changes with the item; the entry itself stays.
    changes.filter(|change| change.before != change.after).collect()
}

/// Refuses an item whose values cannot be keys of the table's indexes. What an update leaves as it was is not looked at.
pub(super) fn check(table: &Table, item: &Item, origin: Origin<'_>) -> Result<()> {
    for index in table.indexes.iter().filter(|index| index.state != State::Deleting) {
        for (key, bytes_max) in index.key_attributes().zip([HASH_KEY_BYTES_MAX, RANGE_KEY_BYTES_MAX]) {
            let Some(value) = item.get(&key.name) else { continue };
            match origin {
                Origin::Put => check_put(index, key, value, bytes_max)?,
                Origin::Update(before) if before.and_then(|before| before.get(&key.name)) != Some(value) => {
                    check_update(key, value, bytes_max)?;
                }
                Origin::Update(_) => {}
            }
        }
    }
    Ok(())
}

fn empty_kind(value: &AttributeValue) -> &'static str {
    if matches!(value, AttributeValue::B(_)) { "binary" } else { "string" }
}

fn check_put(index: &Index, key: &KeyAttribute, value: &AttributeValue, bytes_max: usize) -> Result<()> {
    check_type(index, key, value)?;
    if is_empty(value) {
        return invalid(format!(
            "One or more parameter values are not valid. A value specified for a secondary index key is not supported. \
             The AttributeValue for a key attribute cannot contain an empty {} value. IndexName: {}, IndexKey: {}",
            empty_kind(value),
            index.name,
            key.name
        ));
    }
    if value.size() <= bytes_max {
        return Ok(());
    }
    if bytes_max == HASH_KEY_BYTES_MAX {
        return invalid(format!("{PARAMETERS}Size of hashkey has exceeded the maximum size limit of{bytes_max} bytes"));
    }
    invalid(format!("{PARAMETERS}Aggregated size of all range keys has exceeded the size limit of {bytes_max} bytes"))
}

/// Refuses a value of another type than the index's key has.
fn check_type(index: &Index, key: &KeyAttribute, value: &AttributeValue) -> Result<()> {
    if value.type_name() == key.kind {
        return Ok(());
    }
    invalid(format!(
        "{PARAMETERS}Type mismatch for Index Key {} Expected: {} Actual: {} IndexName: {}",
        key.name,
        key.kind,
        value.type_name(),
        index.name
    ))
}

/// Refuses values that a request sets index keys to, whatever the item is.
pub(super) fn check_assigned(table: &Table, name: &str, value: &AttributeValue) -> Result<()> {
    for index in table.indexes.iter().filter(|index| index.state != State::Deleting) {
        if let Some(key) = index.key_attributes().find(|key| key.name == name) {
            check_type(index, key, value)?;
        }
    }
    Ok(())
}

fn check_update(key: &KeyAttribute, value: &AttributeValue, bytes_max: usize) -> Result<()> {
    if value.type_name() != key.kind {
        return invalid("The update expression attempted to update the secondary index key to unsupported type");
    }
    if is_empty(value) {
        return invalid(format!(
            "One or more parameter values are not valid. The update expression attempted to update a secondary index \
             key to a value that is not supported. The AttributeValue for a key attribute cannot contain an empty {} \
             value.",
            empty_kind(value)
        ));
    }
    if value.size() > bytes_max {
        return invalid("The update expression attempted to update the secondary index key beyond allowed size limits");
    }
    Ok(())
}

/// The names of all key attributes of a table and its indexes, each once: table first.
pub(super) fn all_keys(table: &Table) -> Vec<&KeyAttribute> {
    let mut seen = BTreeSet::new();
    let all = table.key_attributes().chain(table.indexes.iter().flat_map(Index::key_attributes));
    all.filter(|key| seen.insert(&key.name)).collect()
}

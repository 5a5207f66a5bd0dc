//! A table: its record, its key schema, and what a key or an item must be to fit it.
//!
//! Pure: no store, no clock. Which table is meant and whether it exists is decided in `ops`.
//!
//! Invariants
//!   1. The record is JSON with defaults, so that members can be added without rewriting records.
//!   2. A stored item has the key attributes with the schema's types, not empty, within their sizes. What an index's key
//!      attributes hold, where an item was written since the index is there, can be a key.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use super::error::{Error, Result, invalid};
use super::history::{History, Hold, Recovery};
use super::index::{self, Index};
use super::keys;
use super::policy::Policy;
use super::stream::Stream;
use super::throughput::{OnDemand, UnitsChanged};
use super::ttl::Ttl;
use super::value::{AttributeValue, Item, check_item};

/// Most bytes of a partition key.
pub(super) const HASH_KEY_BYTES_MAX: usize = 2_048;
/// Most bytes of a sort key.
pub(super) const RANGE_KEY_BYTES_MAX: usize = 1_024;
const PARAMETERS: &str = "One or more parameter values were invalid: ";

/// A key attribute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KeyAttribute {
    /// The attribute's name.
    pub(super) name: String,
    /// `S`, `N` or `B`.
    pub(super) kind: String,
}

/// How a table is paid for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Billing {
    /// `PAY_PER_REQUEST`, and since when, in milliseconds.
    PayPerRequest {
        /// Milliseconds since the epoch.
        since_ms: u64,
    },
    /// `PROVISIONED`: so much may be read and written in a second.
    Provisioned {
        /// ReadCapacityUnits
        read: u64,
        /// WriteCapacityUnits
        write: u64,
    },
}

/// A table's record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Table {
    pub(super) name: String,
    pub(super) account: String,
    pub(super) region: String,
    /// UUID.
    pub(super) id: String,
    /// Tells this table's items from those of all others, also of the same name.
    pub(super) generation: u64,
    pub(super) created_at_ms: u64,
    pub(super) hash: KeyAttribute,
    pub(super) range: Option<KeyAttribute>,
    pub(super) billing: Billing,
    #[serde(default)]
    pub(super) deletion_protection: bool,
    #[serde(default)]
    pub(super) ttl: Option<Ttl>,
    #[serde(default)]
    pub(super) class: Option<String>,
    #[serde(default)]
    pub(super) tags: BTreeMap<String, String>,
    /// Secondary indexes: local ones first, then global ones, each in the order in which they were made.
    #[serde(default)]
    pub(super) indexes: Vec<Index>,
    /// The latest stream.
    #[serde(default)]
    pub(super) stream: Option<Stream>,
    /// The greatest throughput while it is paid per request.
    #[serde(default)]
    pub(super) on_demand: OnDemand,
    /// Since when it was paid per request before it got the units that it has.
    #[serde(default)]
    pub(super) paid_per_request_ms: Option<u64>,
    /// When its provisioned units were changed.
    #[serde(default)]
    pub(super) units_changed: UnitsChanged,
    /// What its items were before they changed.
    #[serde(default)]
    pub(super) history: Option<History>,
    /// Whether it can be restored to points in time.
    #[serde(default)]
    pub(super) recovery: Option<Recovery>,
    /// Who copies it just now.
    #[serde(default)]
    pub(super) holds: Vec<Hold>,
    /// What it was made of.
    #[serde(default)]
    pub(super) restored: Option<Restored>,
    /// Who may do what with it.
    #[serde(default)]
    pub(super) policy: Option<Policy>,
}

/// What a table was made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Restored {
    /// The ARN of the backup; nothing if it was made of a table at a point in time.
    pub(super) backup: Option<String>,
    /// The ARN of the table.
    pub(super) table: String,
    /// The state of which time it is.
    pub(super) at_ms: u64,
    /// Whether its items are still on their way; until they are there, nobody reads or writes it.
    pub(super) in_progress: bool,
}

/// What a table or an index has.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Count {
    /// Items or entries.
    pub(super) items: i64,
    /// Bytes of them.
    pub(super) bytes: i64,
}

/// Where an item lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ItemKey {
    /// The store's key.
    pub(super) store: bytes::Bytes,
    /// The key attributes alone.
    pub(super) attributes: Item,
}

impl Table {
    /// The key attributes: hash, then range.
    pub(super) fn key_attributes(&self) -> impl Iterator<Item = &KeyAttribute> {
        std::iter::once(&self.hash).chain(&self.range)
    }

    /// Whether `name` is a key attribute.
    pub(super) fn is_key(&self, name: &str) -> bool {
        self.key_attributes().any(|key| key.name == name)
    }

    /// `arn:aws:dynamodb:R:A:table/T`
    pub(super) fn arn(&self) -> String {
        format!("arn:aws:dynamodb:{}:{}:table/{}", self.region, self.account, self.name)
    }

    /// Refuses an item without the key attributes, or with others of their names, in the words of keys.
    pub(super) fn check_key_types(&self, item: &Item) -> Result<()> {
        let fits = |key: &KeyAttribute| item.get(&key.name).is_some_and(|value| value.type_name() == key.kind);
        if self.key_attributes().all(fits) { Ok(()) } else { Err(mismatch()) }
    }

    /// The key of a request: exactly the key attributes.
    pub(super) fn key_of_request(&self, key: &Item) -> Result<ItemKey> {
        self.check_key_types(key)?;
        if key.len() != self.key_attributes().count() {
            return Err(mismatch());
        }
        self.check_values(key)?;
        self.locate(key)
    }

    /// The index of that name, unless it is being deleted.
    pub(super) fn index(&self, name: &str) -> Option<&Index> {
        self.indexes.iter().find(|index| index.name == name && index.state != index::State::Deleting)
    }

    /// Whether `name` is a key attribute of an index.
    pub(super) fn is_index_key(&self, name: &str) -> bool {
        self.indexes.iter().flat_map(Index::key_attributes).any(|key| key.name == name)
    }

    /// Whether it has local indexes, hence item collections.
    pub(super) fn has_collections(&self) -> bool {
        self.indexes.iter().any(|index| index.local)
    }

    /// The key of a whole item, which fits the table and its indexes.
    pub(super) fn key_of_item(&self, item: &Item) -> Result<ItemKey> {
        for attribute in self.key_attributes() {
            let name = &attribute.name;
            let Some(value) = item.get(name) else {
                return invalid(format!("{PARAMETERS}Missing the key {name} in the item"));
            };
            if value.type_name() != attribute.kind {
                return invalid(format!(
                    "{PARAMETERS}Type mismatch for key {name} expected: {} actual: {}",
                    attribute.kind,
                    value.type_name()
                ));
            }
        }
        self.check_values(item)?;
        self.check_item(item, index::Origin::Put)?;
        self.locate(item)
    }

    /// Refuses an item that cannot be stored here, whatever made it. Everything that writes an item asks this before.
    pub(super) fn check_item(&self, item: &Item, origin: index::Origin<'_>) -> Result<()> {
        check_item(item)?;
        index::check(self, item, origin)
    }

    /// Checks content and size of the key attributes that are there.
    pub(super) fn check_values(&self, item: &Item) -> Result<()> {
        for attribute in self.key_attributes() {
            let name = &attribute.name;
            let what = match item.get(name) {
                Some(AttributeValue::S(text)) if text.is_empty() => "string",
                Some(AttributeValue::B(bytes)) if bytes.is_empty() => "binary",
                _ => continue,
            };
            return invalid(format!(
                "One or more parameter values are not valid. The AttributeValue for a key attribute cannot contain an \
                 empty {what} value. Key: {name}"
            ));
        }
        if item.get(&self.hash.name).is_some_and(|value| value.size() > HASH_KEY_BYTES_MAX) {
            return invalid(format!(
                "{PARAMETERS}Size of hashkey has exceeded the maximum size limit of{HASH_KEY_BYTES_MAX} bytes"
            ));
        }
        let range = self.range.as_ref().and_then(|range| item.get(&range.name));
        if range.is_some_and(|value| value.size() > RANGE_KEY_BYTES_MAX) {
            return invalid(format!(
                "{PARAMETERS}Aggregated size of all range keys has exceeded the size limit of {RANGE_KEY_BYTES_MAX} \
                 bytes"
            ));
        }
        Ok(())
    }

    /// Bytes of the key attributes of an item that has them.
    pub(super) fn key_parts(&self, item: &Item) -> Option<(Vec<u8>, Option<Vec<u8>>)> {
        let bytes = |key: &KeyAttribute| item.get(&key.name).and_then(keys::key_bytes);
        let hash = bytes(&self.hash)?;
        match &self.range {
            Some(range) => Some((hash, Some(bytes(range)?))),
            None => Some((hash, None)),
        }
    }

    /// The key attributes of an item alone.
    pub(super) fn key_of(&self, item: &Item) -> Item {
        let pairs = self.key_attributes().filter_map(|key| Some((key.name.clone(), item.get(&key.name)?.clone())));
        pairs.collect()
    }

    /// The place of an item by its key attributes alone, if these are of the right types.
    pub(super) fn place(&self, item: &Item) -> Option<bytes::Bytes> {
        self.check_key_types(item).ok()?;
        self.locate(item).ok().map(|key| key.store)
    }

    /// The place of an item whose key attributes were checked.
    fn locate(&self, item: &Item) -> Result<ItemKey> {
        let (hash, range) = self.key_parts(item).ok_or_else(mismatch)?;
        let partition = keys::partition(self.generation, &hash);
        Ok(ItemKey { store: keys::item(&partition, range.as_deref()), attributes: self.key_of(item) })
    }

    /// One without anything but a key.
    #[cfg(test)]
    pub(super) fn bare(hash: KeyAttribute) -> Self {
        Self {
            name: String::new(),
            account: String::new(),
            region: String::new(),
            id: String::new(),
            generation: 0,
            created_at_ms: 0,
            hash,
            range: None,
            billing: Billing::PayPerRequest { since_ms: 0 },
            deletion_protection: false,
            ttl: None,
            class: None,
            tags: BTreeMap::new(),
            indexes: Vec::new(),
            stream: None,
            on_demand: OnDemand::default(),
            paid_per_request_ms: None,
            units_changed: UnitsChanged::default(),
            history: None,
            recovery: None,
            holds: Vec::new(),
            restored: None,
            policy: None,
        }
    }

    /// Whether its items are still on their way.
    pub(super) fn is_being_restored(&self) -> bool {
        self.restored.as_ref().is_some_and(|restored| restored.in_progress)
    }

    /// The members of `TableDescription`. `count` is the table's own, `counts` are those of its indexes.
    pub(super) fn describe(&self, status: &str, count: Count, counts: &[Count], now_ms: u64) -> Json {
        let pairs = |name: &str, kind: &str| json!({ "AttributeName": name, "KeyType": kind });
        let mut schema = vec![pairs(&self.hash.name, "HASH")];
        schema.extend(self.range.as_ref().map(|range| pairs(&range.name, "RANGE")));
        let definition = |key: &KeyAttribute| json!({ "AttributeName": key.name, "AttributeType": key.kind });
        let definitions: Vec<_> = index::all_keys(self).into_iter().map(definition).collect();
        let (read, write) = match self.billing {
            Billing::PayPerRequest { .. } => (0, 0),
            Billing::Provisioned { read, write } => (read, write),
        };
        let mut description = json!({
            "AttributeDefinitions": definitions,
            "TableName": self.name,
            "KeySchema": schema,
            "TableStatus": status,
            "CreationDateTime": seconds(self.created_at_ms),
            "ProvisionedThroughput": self.units_changed.describe(read, write, now_ms),
            "TableSizeBytes": count.bytes.max(0),
            "ItemCount": count.items.max(0),
            "TableArn": self.arn(),
            "TableId": self.id,
            "DeletionProtectionEnabled": self.deletion_protection,
        });
        let summary = match self.billing {
            Billing::PayPerRequest { since_ms } => Some(("PAY_PER_REQUEST", since_ms)),
            // One that has always had units has none.
            Billing::Provisioned { .. } => self.paid_per_request_ms.map(|since_ms| ("PROVISIONED", since_ms)),
        };
        if let Some((mode, since_ms)) = summary {
            description["BillingModeSummary"] =
                json!({ "BillingMode": mode, "LastUpdateToPayPerRequestDateTime": seconds(since_ms) });
        }
        if let Some(restored) = &self.restored {
            description["RestoreSummary"] = restored.describe();
        }
        if let Some(most) = self.on_demand.describe() {
            description["OnDemandThroughput"] = most;
        }
        if let Some(class) = &self.class {
            description["TableClassSummary"] = json!({ "TableClass": class });
        }
        if let Some(stream) = &self.stream {
            description["LatestStreamLabel"] = json!(stream.label);
            description["LatestStreamArn"] = json!(stream.arn(self));
            if stream.enabled {
                description["StreamSpecification"] =
                    json!({ "StreamEnabled": true, "StreamViewType": stream.view.name() });
            }
        }
        for (member, local) in [("LocalSecondaryIndexes", true), ("GlobalSecondaryIndexes", false)] {
            let own = self.indexes.iter().zip(counts).filter(|(index, _)| index.local == local);
            let described: Vec<_> = own.map(|(index, count)| index.describe(self, *count, now_ms)).collect();
            if !described.is_empty() {
                description[member] = json!(described);
            }
        }
        description
    }
}

fn mismatch() -> Error {
    Error::validation("The provided key element does not match the schema")
}

impl Restored {
    /// `RestoreSummary`
    fn describe(&self) -> Json {
        let mut summary = json!({
            "SourceTableArn": self.table,
            "RestoreDateTime": seconds(self.at_ms),
            "RestoreInProgress": self.in_progress,
        });
        if let Some(backup) = &self.backup {
            summary["SourceBackupArn"] = json!(backup);
        }
        summary
    }
}

/// Seconds since the epoch with milliseconds as a fraction, as the wire has timestamps.
#[expect(clippy::cast_precision_loss, reason = "milliseconds of this age fit a double exactly")]
pub(super) fn seconds(ms: u64) -> f64 {
    ms as f64 / 1_000.0
}

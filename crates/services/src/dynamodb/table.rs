//! A table: its record, its key schema, and what a key or an item must be to fit it.
//!
//! Pure: no store, no clock. Which table is meant and whether it exists is decided in `ops`.
//!
//! Invariants
//!   1. The record is JSON with defaults, so that members can be added without rewriting records.
//!   2. A stored item has the key attributes with the schema's types, not empty, within their sizes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use super::error::{Error, Result, invalid};
use super::keys;
use super::value::{AttributeValue, Item};

const HASH_KEY_BYTES_MAX: usize = 2_048;
const RANGE_KEY_BYTES_MAX: usize = 1_024;
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
    /// `PROVISIONED`; the units are described and have no effect.
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
    pub(super) class: Option<String>,
    #[serde(default)]
    pub(super) tags: BTreeMap<String, String>,
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

    /// The key of a request: exactly the key attributes.
    pub(super) fn key_of_request(&self, key: &Item) -> Result<ItemKey> {
        let mismatch = || Error::validation("The provided key element does not match the schema");
        for attribute in self.key_attributes() {
            match key.get(&attribute.name) {
                Some(value) if value.type_name() == attribute.kind => {}
                _ => return Err(mismatch()),
            }
        }
        if key.len() != self.key_attributes().count() {
            return Err(mismatch());
        }
        self.check_values(key)?;
        self.locate(key)
    }

    /// The key of a whole item.
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
        self.locate(item)
    }

    fn check_values(&self, item: &Item) -> Result<()> {
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

    /// The place of an item whose key attributes were checked.
    fn locate(&self, item: &Item) -> Result<ItemKey> {
        let mismatch = || Error::validation("The provided key element does not match the schema");
        let mut attributes = Item::new();
        let mut bytes = Vec::with_capacity(2);
        for attribute in self.key_attributes() {
            let value = item.get(&attribute.name).ok_or_else(mismatch)?;
            bytes.push(keys::key_bytes(value).ok_or_else(mismatch)?);
            attributes.insert(attribute.name.clone(), value.clone());
        }
        let partition = keys::partition(self.generation, bytes.first().ok_or_else(mismatch)?);
        let store = keys::item(&partition, bytes.get(1).map(Vec::as_slice));
        Ok(ItemKey { store, attributes })
    }

    /// The members of `TableDescription`. `items` and `bytes` are the table's counters.
    pub(super) fn describe(&self, status: &str, items: i64, bytes: i64) -> Json {
        let pairs = |name: &str, kind: &str| json!({ "AttributeName": name, "KeyType": kind });
        let mut schema = vec![pairs(&self.hash.name, "HASH")];
        schema.extend(self.range.as_ref().map(|range| pairs(&range.name, "RANGE")));
        let definition = |key: &KeyAttribute| json!({ "AttributeName": key.name, "AttributeType": key.kind });
        let definitions: Vec<_> = self.key_attributes().map(definition).collect();
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
            "ProvisionedThroughput": {
                "NumberOfDecreasesToday": 0, "ReadCapacityUnits": read, "WriteCapacityUnits": write,
            },
            "TableSizeBytes": bytes.max(0),
            "ItemCount": items.max(0),
            "TableArn": self.arn(),
            "TableId": self.id,
            "DeletionProtectionEnabled": self.deletion_protection,
        });
        if let Billing::PayPerRequest { since_ms } = self.billing {
            description["BillingModeSummary"] =
                json!({ "BillingMode": "PAY_PER_REQUEST", "LastUpdateToPayPerRequestDateTime": seconds(since_ms) });
        }
        if let Some(class) = &self.class {
            description["TableClassSummary"] = json!({ "TableClass": class });
        }
        description
    }
}

/// Seconds since the epoch with milliseconds as a fraction, as the wire has timestamps.
#[expect(clippy::cast_precision_loss, reason = "milliseconds of this age fit a double exactly")]
pub(super) fn seconds(ms: u64) -> f64 {
    ms as f64 / 1_000.0
}

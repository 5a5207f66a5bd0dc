//! Backups: what is kept of one beside its items, and how it is described.
//!
//! Pure. A backup's items lie under a generation of their own, like those of a table (`keys`); `jobs` puts them there.
//!
//! Invariants
//!   1. A backup has all that a table can be made of again; it needs nothing of the table that it was made of.
//!   2. The backup of a table that was deleted is that table's own generation, handed over in the commit that deletes it.

use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use super::history::{DAY_MS, DAYS_MAX};
use super::index::Index;
use super::table::{Billing, Count, Table, seconds};

/// Who made a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Kind {
    /// Somebody who asked for it.
    User,
    /// The deletion of a table with recovery to points in time.
    System,
}

impl Kind {
    /// `BackupType`
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::User => "USER",
            Self::System => "SYSTEM",
        }
    }
}

/// A backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Backup {
    /// The end of its ARN.
    pub(super) id: String,
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) created_at_ms: u64,
    /// The table as it was.
    pub(super) table: Table,
    /// Where its items are.
    pub(super) generation: u64,
    /// Whether all of them are there.
    pub(super) available: bool,
    /// Jobs that make tables of it.
    #[serde(default)]
    pub(super) readers: Vec<u64>,
}

impl Backup {
    /// A backup's id: unlikely to be used twice, and in the order of time.
    pub(super) fn new_id(now_ms: u64, random: u64) -> String {
        format!("{now_ms:014}-{:08x}", random >> 32)
    }

    /// `arn:aws:dynamodb:R:A:table/T/backup/ID`
    pub(super) fn arn(&self) -> String {
        format!("{}/backup/{}", self.table.arn(), self.id)
    }

    /// When it goes by itself.
    pub(super) fn expires_at_ms(&self) -> Option<u64> {
        (self.kind == Kind::System).then_some(self.created_at_ms + DAYS_MAX * DAY_MS)
    }

    /// `BackupDetails`
    pub(super) fn details(&self, count: Count, status: &str) -> Json {
        let mut details = json!({
            "BackupArn": self.arn(),
            "BackupName": self.name,
            "BackupSizeBytes": count.bytes.max(0),
            "BackupStatus": status,
            "BackupType": self.kind.name(),
            "BackupCreationDateTime": seconds(self.created_at_ms),
        });
        if let Some(at_ms) = self.expires_at_ms() {
            details["BackupExpiryDateTime"] = json!(seconds(at_ms));
        }
        details
    }

    /// `BackupStatus`
    pub(super) fn status(&self) -> &'static str {
        if self.available { "AVAILABLE" } else { "CREATING" }
    }

    /// `BackupSummary`
    pub(super) fn summary(&self, count: Count) -> Json {
        let mut summary = self.details(count, self.status());
        summary["TableName"] = json!(self.table.name);
        summary["TableId"] = json!(self.table.id);
        summary["TableArn"] = json!(self.table.arn());
        summary
    }

    /// `BackupDescription`
    pub(super) fn describe(&self, count: Count, status: &str) -> Json {
        let table = &self.table;
        let none = vec![Count::default(); table.indexes.len()];
        let described = table.describe("ACTIVE", count, &none, self.created_at_ms);
        let mut source = json!({
            "TableName": table.name,
            "TableId": table.id,
            "TableArn": table.arn(),
            "TableSizeBytes": count.bytes.max(0),
            "KeySchema": described["KeySchema"],
            "TableCreationDateTime": described["CreationDateTime"],
            "ProvisionedThroughput": units(&described["ProvisionedThroughput"]),
            "ItemCount": count.items.max(0),
            "BillingMode": match table.billing {
                Billing::Provisioned { .. } => "PROVISIONED",
                Billing::PayPerRequest { .. } => "PAY_PER_REQUEST",
            },
        });
        if let Some(most) = described.get("OnDemandThroughput") {
            source["OnDemandThroughput"] = most.clone();
        }
        json!({
            "BackupDetails": self.details(count, status),
            "SourceTableDetails": source,
            "SourceTableFeatureDetails": features(table, &described),
        })
    }
}

/// Units without what is said of their changes.
fn units(described: &Json) -> Json {
    json!({
        "ReadCapacityUnits": described["ReadCapacityUnits"],
        "WriteCapacityUnits": described["WriteCapacityUnits"],
    })
}

/// `SourceTableFeatureDetails`
fn features(table: &Table, described: &Json) -> Json {
    let mut features = json!({});
    for (member, local) in [("LocalSecondaryIndexes", true), ("GlobalSecondaryIndexes", false)] {
        let own: Vec<&Index> = table.indexes.iter().filter(|index| index.local == local).collect();
        let list = described[member].as_array();
        let list = own.iter().zip(list.into_iter().flatten()).map(|(index, described)| {
            let mut shown = json!({
                "IndexName": index.name,
                "KeySchema": described["KeySchema"],
                "Projection": described["Projection"],
            });
            if !local {
                shown["ProvisionedThroughput"] = units(&described["ProvisionedThroughput"]);
            }
            shown
        });
        let list: Vec<Json> = list.collect();
        if !list.is_empty() {
            features[member] = json!(list);
        }
    }
    if let Some(stream) = described.get("StreamSpecification") {
        features["StreamDescription"] = stream.clone();
    }
    if let Some(ttl) = &table.ttl {
        features["TimeToLiveDescription"] =
            json!({ "TimeToLiveStatus": ttl.phase.status(), "AttributeName": ttl.attribute });
    }
    features
}

//! Capacity units: what a read or a write of so many bytes is said to have used.
//!
//! Pure. Where a table's throughput is limited, `throttle` goes by these figures; they are reported where a request asks
//! for them.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};

use super::index::{Index, IndexChange};
use super::value::{Item, item_size};

/// Bytes of one unit of reading and of writing.
const READ_BYTES: usize = 4_096;
const WRITE_BYTES: usize = 1_024;

/// What a call used of one table.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Units {
    table: f64,
    local: BTreeMap<String, f64>,
    global: BTreeMap<String, f64>,
}

impl Units {
    /// A read of that many bytes of the table: half when not strongly consistent.
    pub(super) fn of_read(bytes: usize, consistent: bool) -> Self {
        Self { table: read_units(bytes, consistent), ..Self::default() }
    }

    /// A read of that many bytes of an index, and of items of these sizes in the table that it led to.
    pub(super) fn of_index_read(index: &Index, bytes: usize, fetched: &[usize], consistent: bool) -> Self {
        // The sum of no floats is minus zero, which JSON shows.
        let table = fetched.iter().fold(0.0, |sum, bytes| sum + read_units(*bytes, consistent));
        let mut units = Self { table, ..Self::default() };
        *units.of_index(index) = read_units(bytes, consistent);
        units
    }

    /// A write that made `after` of `before`, and these changes in indexes. An index whose entry it changed counts too; one
    /// in which it moved an entry counts for both places.
    pub(super) fn of_write(before: Option<&Item>, after: Option<&Item>, changes: &[IndexChange<'_>]) -> Self {
        let bytes = before.map_or(0, item_size).max(after.map_or(0, item_size));
        let mut units = Self { table: blocks(bytes, WRITE_BYTES), ..Self::default() };
        for change in changes {
            let used = match (&change.before, &change.after) {
                (Some(before), Some(after)) if before.key == after.key => {
                    blocks(before.size.max(after.size), WRITE_BYTES)
                }
                (before, after) => before.iter().chain(after.iter()).map(|entry| blocks(entry.size, WRITE_BYTES)).sum(),
            };
            *units.of_index(change.index) = used;
        }
        units
    }

    fn of_index(&mut self, index: &Index) -> &mut f64 {
        let indexes = if index.local { &mut self.local } else { &mut self.global };
        indexes.entry(index.name.clone()).or_default()
    }

    /// Both together.
    #[must_use]
    pub(super) fn and(mut self, other: &Self) -> Self {
        self.table += other.table;
        for (own, others) in [(&mut self.local, &other.local), (&mut self.global, &other.global)] {
            for (name, units) in others {
                *own.entry(name.clone()).or_default() += units;
            }
        }
        self
    }

    /// What the same takes in a transaction: of the table twice as much, of indexes no more.
    #[must_use]
    pub(super) fn in_transaction(&self) -> Self {
        Self { table: self.table * 2.0, ..self.clone() }
    }

    /// Those that come from the table's own capacity.
    pub(super) fn of_table_and_local(&self) -> f64 {
        self.table + self.local.values().sum::<f64>()
    }

    /// Those that come from the capacity of global indexes, by name.
    pub(super) fn of_globals(&self) -> impl Iterator<Item = (&str, f64)> {
        self.global.iter().map(|(name, units)| (name.as_str(), *units))
    }

    /// As little as a call may use, to ask whether there is anything at all: of the table, or of a global index.
    pub(super) fn least(index: Option<&Index>) -> Self {
        let mut units = Self::default();
        match index {
            Some(index) if !index.local => *units.of_index(index) = 0.5,
            _ => units.table = 0.5,
        }
        units
    }

    /// All units.
    pub(super) fn total(&self) -> f64 {
        self.table + self.local.values().chain(self.global.values()).sum::<f64>()
    }

    /// `ConsumedCapacity` of the table of that name, as far as `wanted` (`ReturnConsumedCapacity`) asks for it.
    pub(super) fn shown(&self, wanted: Option<&str>, table: &str) -> Option<Json> {
        let total = json!({ "TableName": table, "CapacityUnits": self.total() });
        match wanted {
            Some("TOTAL") => Some(total),
            Some("INDEXES") => {
                let mut capacity = total;
                capacity["Table"] = json!({ "CapacityUnits": self.table });
                for (member, units) in
                    [("LocalSecondaryIndexes", &self.local), ("GlobalSecondaryIndexes", &self.global)]
                {
                    let each = units.iter().map(|(name, units)| (name.clone(), json!({ "CapacityUnits": units })));
                    if !units.is_empty() {
                        capacity[member] = Json::Object(each.collect());
                    }
                }
                Some(capacity)
            }
            _ => None,
        }
    }
}

fn blocks(bytes: usize, of: usize) -> f64 {
    f64::from(u32::try_from(bytes.div_ceil(of).max(1)).unwrap_or(u32::MAX))
}

fn read_units(bytes: usize, consistent: bool) -> f64 {
    blocks(bytes, READ_BYTES) * if consistent { 1.0 } else { 0.5 }
}

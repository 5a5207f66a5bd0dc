//! Capacity units: what a read or a write of so many bytes is said to have used.
//!
//! Pure. Nothing is throttled by these figures; they are reported where a request asks for them.

use serde_json::{Value as Json, json};

use super::table::Table;
use super::value::{Item, item_size};

/// Bytes of one unit of reading and of writing.
const READ_BYTES: usize = 4_096;
const WRITE_BYTES: usize = 1_024;

/// What a call used of one table.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Units {
    table: f64,
}

impl Units {
    /// A read of that many bytes of the table: half when not strongly consistent.
    pub(super) fn of_read(bytes: usize, consistent: bool) -> Self {
        Self { table: read_units(bytes, consistent) }
    }

    /// A write that made `after` of `before`.
    pub(super) fn of_write(_table: &Table, before: Option<&Item>, after: Option<&Item>) -> Self {
        let bytes = before.map_or(0, item_size).max(after.map_or(0, item_size));
        Self { table: blocks(bytes, WRITE_BYTES) }
    }

    /// Both together.
    #[must_use]
    pub(super) fn and(mut self, other: &Self) -> Self {
        self.table += other.table;
        self
    }

    /// All units.
    pub(super) fn total(&self) -> f64 {
        self.table
    }

    /// `ConsumedCapacity` of the table of that name, as far as `wanted` (`ReturnConsumedCapacity`) asks for it.
    pub(super) fn shown(&self, wanted: Option<&str>, table: &str) -> Option<Json> {
        let total = json!({ "TableName": table, "CapacityUnits": self.total() });
        match wanted {
            Some("TOTAL") => Some(total),
            Some("INDEXES") => {
                let mut capacity = total;
                capacity["Table"] = json!({ "CapacityUnits": self.table });
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

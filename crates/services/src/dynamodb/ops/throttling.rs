//! Which calls are refused for want of capacity: asks `throttle` before the work, and pays after it.
//!
//! Invariants
//!   1. A table whose throughput is not limited costs one look at its record, and no lock.
//!   2. A write pays once for each call, however often it is decided anew; one whose condition does not hold pays too.
//!   3. A transaction pays for all its tables or is cancelled with the reasons of those that are short.

use std::collections::BTreeMap;

use super::super::capacity::Units;
use super::super::error::{Error, Reason, Result};
use super::super::index::Index;
use super::super::table::Table;
use super::super::throttle::{self, Direction};
use super::{Found, Shared};

impl Shared {
    /// Whether tables whose throughput is limited were used here.
    pub(in super::super) fn serves_limited_tables(&self) -> bool {
        self.buckets.lock().are_used()
    }

    /// Leaves so many other nodes their parts.
    pub(in super::super) fn share_limits_with(&self, others: u32) {
        self.buckets.lock().share(others.saturating_add(1));
    }

    /// Refuses a call on a table, or along one of its indexes, that has nothing left.
    pub(super) fn admit(&self, table: &Table, index: Option<&Index>, direction: Direction) -> Result<()> {
        if !throttle::is_limited(table) {
            return Ok(());
        }
        let now_ms = self.clock.now_ms();
        throttle::refuse(self.buckets.lock().shortages(table, &Units::least(index), direction, now_ms))
    }

    /// Takes what a call has used.
    pub(super) fn pay(&self, table: &Table, units: &Units, direction: Direction) {
        if throttle::is_limited(table) {
            self.buckets.lock().take(table, units, direction, self.clock.now_ms());
        }
    }

    /// Takes what a write uses that was decided on, or refuses it: also its indexes must have something left.
    pub(super) fn pay_for_write(&self, table: &Table, units: &Units, paid: &mut bool) -> Result<()> {
        if *paid || !throttle::is_limited(table) {
            return Ok(());
        }
        let (mut buckets, now_ms) = (self.buckets.lock(), self.clock.now_ms());
        throttle::refuse(buckets.shortages(table, units, Direction::Write, now_ms))?;
        buckets.take(table, units, Direction::Write, now_ms);
        *paid = true;
        Ok(())
    }

    /// Takes what a transaction uses of its tables; `parts` names the table of each of its parts.
    pub(super) fn pay_for_transaction<'a>(
        &self,
        tables: &BTreeMap<&str, Found>,
        units: &BTreeMap<String, Units>,
        parts: impl Iterator<Item = &'a str>,
        direction: Direction,
    ) -> Result<()> {
        let used = || units.iter().filter_map(|(name, units)| Some((name, &tables.get(name.as_str())?.table, units)));
        if !used().any(|(_, table, _)| throttle::is_limited(table)) {
            return Ok(());
        }
        let (mut buckets, now_ms) = (self.buckets.lock(), self.clock.now_ms());
        let mut short = BTreeMap::new();
        for (name, table, units) in used() {
            let found = buckets.shortages(table, units, direction, now_ms);
            if !found.is_empty() {
                let reason = Reason {
                    code: throttle::reason_code(&found),
                    message: throttle::message(&found).into(),
                    item: None,
                };
                short.insert(name.as_str(), reason);
            }
        }
        if !short.is_empty() {
            return Err(Error::Cancelled(parts.map(|name| short.get(name).cloned()).collect()));
        }
        for (_, table, units) in used() {
            buckets.take(table, &units.in_transaction(), direction, now_ms);
        }
        Ok(())
    }
}

//! Who may read and write how much of a table: buckets of capacity units, of a table and of each global index.
//!
//! Pure: units and times in, decisions out. Which call asks for what is `ops::throttling`'s.
//!
//! A table with provisioned units, or with a greatest throughput on demand, has one bucket for reads and one for writes, and
//! so has each of its global indexes; local indexes use their table's. A bucket fills at its rate and holds what was not
//! used for five minutes, so a burst may take that at once. It begins full.
//!
//! Invariants
//!   1. A call is let in while every bucket that it takes from holds something; then it takes all that it uses. So over any
//!      time no more is let in than the rate, five minutes' worth, and what the last calls use beyond.
//!   2. What is refused has taken nothing.
//!   3. Buckets live in this process: each of several nodes has its part of the rate (`nodes`), and a restart fills all of
//!      them.

use std::collections::HashMap;

use super::capacity::Units;
use super::error::{Error, Result};
use super::index::Index;
use super::table::{Billing, Table};
use super::throughput::OnDemand;

/// For how many seconds units that are not used are kept. Source: the developer guide on burst capacity.
pub(super) const BURST_S: u32 = 300;
/// Most buckets kept; those that are full go first.
const BUCKETS_MAX: usize = 8_192;

/// Whether units are for reading or for writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Direction {
    Read,
    Write,
}

/// What is to be had of one thing in a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Limit {
    units: u64,
    /// Whether they are provisioned; else they are the greatest throughput on demand.
    provisioned: bool,
}

/// Why a call was refused: one bucket that was empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shortage {
    /// `TableReadProvisionedThroughputExceeded` and the like.
    pub(super) reason: String,
    /// The ARN of the table or the index.
    pub(super) resource: String,
    pub(super) of_index: bool,
    pub(super) provisioned: bool,
}

/// One bucket.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    units: f64,
    filled_at_ms: u64,
}

/// The table itself, or a global index by its number.
type Key = (u64, u64, Direction);

/// What buckets the tables of this process have.
#[derive(Debug)]
pub(super) struct Buckets {
    buckets: HashMap<Key, Bucket>,
    /// How many nodes share what is to be had.
    nodes: u32,
}

impl Default for Buckets {
    fn default() -> Self {
        Self { buckets: HashMap::new(), nodes: 1 }
    }
}

/// What a call is about to take of one bucket.
struct Draw<'a> {
    index: Option<&'a Index>,
    limit: Limit,
    units: f64,
}

/// Units a second of one of so many nodes.
#[expect(clippy::cast_precision_loss, reason = "rates are far below what a double holds exactly")]
fn rate(limit: Limit, nodes: u32) -> f64 {
    limit.units as f64 / f64::from(nodes)
}

impl Bucket {
    #[expect(clippy::cast_precision_loss, reason = "a process does not run long enough for it to matter")]
    fn fill(&mut self, rate: f64, now_ms: u64) {
        let passed_s = now_ms.saturating_sub(self.filled_at_ms) as f64 / 1_000.0;
        self.units = (self.units + passed_s * rate).min(rate * f64::from(BURST_S));
        self.filled_at_ms = self.filled_at_ms.max(now_ms);
    }
}

/// Whether calls on the table can be refused at all.
pub(super) fn is_limited(table: &Table) -> bool {
    matches!(table.billing, Billing::Provisioned { .. })
        || table.on_demand != OnDemand::default()
        || table.indexes.iter().any(|index| index.on_demand != OnDemand::default())
}

/// What is to be had of a table, or of one of its global indexes.
fn limit(table: &Table, index: Option<&Index>, direction: Direction) -> Option<Limit> {
    let of = |(read, write): (u64, u64)| if direction == Direction::Read { read } else { write };
    match (&table.billing, index) {
        (Billing::Provisioned { .. }, Some(index)) => {
            index.throughput.map(|units| Limit { units: of(units), provisioned: true })
        }
        (Billing::Provisioned { read, write }, None) => Some(Limit { units: of((*read, *write)), provisioned: true }),
        (Billing::PayPerRequest { .. }, index) => {
            let most = index.map_or(table.on_demand, |index| index.on_demand);
            let units = if direction == Direction::Read { most.read } else { most.write };
            units.map(|units| Limit { units, provisioned: false })
        }
    }
}

/// The global index of that name.
fn global<'a>(table: &'a Table, name: &str) -> Option<&'a Index> {
    table.indexes.iter().find(|index| !index.local && index.name == name)
}

/// The buckets that these units come from.
fn draws<'a>(table: &'a Table, units: &Units, direction: Direction) -> Vec<Draw<'a>> {
    let mut draws = Vec::with_capacity(1);
    let own = units.of_table_and_local();
    if own > 0.0
        && let Some(limit) = limit(table, None, direction)
    {
        draws.push(Draw { index: None, limit, units: own });
    }
    for (name, units) in units.of_globals() {
        let Some(index) = global(table, name) else { continue };
        if let Some(limit) = limit(table, Some(index), direction) {
            draws.push(Draw { index: Some(index), limit, units });
        }
    }
    draws
}

fn shortage(table: &Table, draw: &Draw<'_>, direction: Direction) -> Shortage {
    let what = if draw.index.is_some() { "Index" } else { "Table" };
    let verb = if direction == Direction::Read { "Read" } else { "Write" };
    let why = if draw.limit.provisioned { "ProvisionedThroughputExceeded" } else { "MaxOnDemandThroughputExceeded" };
    let arn = table.arn();
    Shortage {
        reason: format!("{what}{verb}{why}"),
        resource: draw.index.map_or(arn.clone(), |index| format!("{arn}/index/{}", index.name)),
        of_index: draw.index.is_some(),
        provisioned: draw.limit.provisioned,
    }
}

impl Buckets {
    fn bucket(&mut self, table: &Table, draw: &Draw<'_>, direction: Direction, now_ms: u64) -> &mut Bucket {
        let key = (table.generation, draw.index.map_or(0, |index| index.number), direction);
        let rate = rate(draw.limit, self.nodes);
        let full = Bucket { units: rate * f64::from(BURST_S), filled_at_ms: now_ms };
        let bucket = self.buckets.entry(key).or_insert(full);
        bucket.fill(rate, now_ms);
        bucket
    }

    /// Whether anything was asked for at all.
    pub(super) fn are_used(&self) -> bool {
        !self.buckets.is_empty()
    }

    /// Shares all that is to be had among so many nodes.
    pub(super) fn share(&mut self, nodes: u32) {
        self.nodes = nodes.max(1);
    }

    /// What stands in the way of a call that takes these units, if anything does.
    pub(super) fn shortages(
        &mut self,
        table: &Table,
        units: &Units,
        direction: Direction,
        now_ms: u64,
    ) -> Vec<Shortage> {
        let mut short = Vec::new();
        for draw in draws(table, units, direction) {
            if self.bucket(table, &draw, direction, now_ms).units <= 0.0 {
                short.push(shortage(table, &draw, direction));
            }
        }
        short
    }

    /// Takes units, also more than there are.
    pub(super) fn take(&mut self, table: &Table, units: &Units, direction: Direction, now_ms: u64) {
        if self.buckets.len() >= BUCKETS_MAX {
            self.forget(now_ms);
        }
        for draw in draws(table, units, direction) {
            self.bucket(table, &draw, direction, now_ms).units -= draw.units;
        }
    }

    /// Forgets buckets that nothing was taken from for so long that they are full by now whatever their rate is, or
    /// would be if they had not been overdrawn: those of deleted tables above all.
    fn forget(&mut self, now_ms: u64) {
        let border_ms = now_ms.saturating_sub(2 * u64::from(BURST_S) * 1_000);
        self.buckets.retain(|_, bucket| bucket.filled_at_ms > border_ms);
    }
}

/// The refusal for these shortages, if there are any.
pub(super) fn refuse(short: Vec<Shortage>) -> Result<()> {
    if short.is_empty() { Ok(()) } else { Err(Error::Throttled(short)) }
}

/// What the refusal says to people.
pub(super) fn message(short: &[Shortage]) -> &'static str {
    match short.first() {
        Some(first) if !first.provisioned => {
            "Throughput exceeds the maximum OnDemandThroughput configured on table or index."
        }
        Some(first) if first.of_index => {
            "The level of configured provisioned throughput for one or more global secondary indexes of the table was \
             exceeded. Consider increasing your provisioning level for the under-provisioned global secondary indexes \
             with the UpdateTable API."
        }
        _ => {
            "The level of configured provisioned throughput for the table was exceeded. Consider increasing your \
             provisioning level with the UpdateTable API."
        }
    }
}

/// The code of a refusal within a transaction or a batch of statements.
pub(super) fn reason_code(short: &[Shortage]) -> &'static str {
    match short.first() {
        Some(first) if !first.provisioned => "ThrottlingError",
        _ => "ProvisionedThroughputExceeded",
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::KeyAttribute;
    use super::*;
    use proptest::prelude::*;

    fn table(read: u64, write: u64) -> Table {
        Table {
            name: "t".into(),
            account: "000000000000".into(),
            region: "us-east-1".into(),
            generation: 7,
            billing: Billing::Provisioned { read, write },
            ..Table::bare(KeyAttribute { name: "id".into(), kind: "S".into() })
        }
    }

    fn read(units: usize) -> Units {
        Units::of_read(units * 4_096, true)
    }

    #[test]
    fn a_burst_takes_five_minutes_worth_and_then_the_rate() {
        let (table, mut buckets) = (table(2, 1), Buckets::default());
        let mut ask = |units: usize, now_ms: u64| {
            let short = buckets.shortages(&table, &read(units), Direction::Read, now_ms);
            if short.is_empty() {
                buckets.take(&table, &read(units), Direction::Read, now_ms);
            }
            short
        };
        for _ in 0..600 {
            assert_eq!(ask(1, 1_000), []);
        }
        let short = ask(1, 1_000);
        assert_eq!(short[0].reason, "TableReadProvisionedThroughputExceeded");
        assert_eq!(short[0].resource, "arn:aws:dynamodb:us-east-1:000000000000:table/t");
        assert_eq!(ask(1, 1_500), []);
        assert_eq!(ask(1, 1_500).len(), 1);
        // What is used beyond must be made up for.
        assert_eq!(ask(20, 2_000), []);
        assert_eq!(ask(1, 11_000).len(), 1);
        assert_eq!(ask(1, 12_000), []);
    }

    #[test]
    fn reads_and_writes_do_not_share() {
        let (table, mut buckets) = (table(1, 1), Buckets::default());
        buckets.take(&table, &read(1_000), Direction::Read, 0);
        assert_eq!(buckets.shortages(&table, &read(1), Direction::Read, 0).len(), 1);
        assert_eq!(buckets.shortages(&table, &read(1), Direction::Write, 0), []);
    }

    #[test]
    fn on_demand_is_limited_only_where_a_maximum_is_set() {
        let mut table = table(1, 1);
        table.billing = Billing::PayPerRequest { since_ms: 0 };
        assert!(!is_limited(&table));
        let mut buckets = Buckets::default();
        buckets.take(&table, &read(1_000_000), Direction::Read, 0);
        assert_eq!(buckets.shortages(&table, &read(1), Direction::Read, 0), []);
        table.on_demand.read = Some(1);
        assert!(is_limited(&table));
        buckets.take(&table, &read(1_000), Direction::Read, 0);
        let short = buckets.shortages(&table, &read(1), Direction::Read, 0);
        assert_eq!(short[0].reason, "TableReadMaxOnDemandThroughputExceeded");
        assert_eq!(reason_code(&short), "ThrottlingError");
        assert_eq!(buckets.shortages(&table, &read(1), Direction::Write, 0), []);
    }

    proptest! {
        #[test]
        fn never_more_than_the_rate_a_burst_and_one_call(
            rate in 1u64..50, calls in prop::collection::vec((0u64..3_000, 1usize..200), 1..300),
        ) {
            let (table, mut buckets) = (table(rate, 1), Buckets::default());
            let (mut now_ms, mut used) = (0, 0);
            for (wait_ms, units) in calls {
                now_ms += wait_ms;
                if buckets.shortages(&table, &read(units), Direction::Read, now_ms).is_empty() {
                    buckets.take(&table, &read(units), Direction::Read, now_ms);
                    used += units as u64;
                }
                let most = rate * u64::from(BURST_S) + rate * now_ms / 1_000 + 200;
                prop_assert!(used <= most, "{used} of {most}");
            }
            // Whoever waits is let in again.
            let debt_ms = 1_000 * 201 / rate + 1_000;
            prop_assert_eq!(buckets.shortages(&table, &read(1), Direction::Read, now_ms + debt_ms), []);
        }
    }
}

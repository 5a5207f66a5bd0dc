//! Questions to the ledger. Each folds first, so that an answer holds everything that was recorded before it.

use std::collections::BTreeMap;

use model::{FunctionRef, UsageRecord};
use serde::Serialize;
use store::{Range, Snapshot};

use super::keys::{self, Field, HOUR_MS};
use super::price::{MB_MS_PER_GB_S, cost_usd};
use super::ring::FORMAT;
use super::worker::amount;
use super::{Error, Usage};

const PAGE_ROWS: usize = 1_000;
const PAGE_BYTES: usize = 4 * 1024 * 1024;

/// What one function used in a span of time.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Bill {
    /// The function.
    pub function: FunctionRef,
    /// Invocations.
    pub requests: u64,
    /// Those that did not end with an answer of the function.
    pub errors: u64,
    /// Charged milliseconds.
    pub billed_ms: u64,
    /// Charged memory-time.
    pub gb_seconds: f64,
    /// Microseconds of processor time.
    pub cpu_us: u64,
    /// Dollars at AWS's list price.
    pub cost_usd: f64,
}

#[derive(Default, Clone, Copy)]
struct Sums([u64; 5]);

impl Sums {
    fn add(&mut self, field: Field, by: u64) {
        self.0[field as usize - 1] += by;
    }

    fn get(&self, field: Field) -> u64 {
        self.0[field as usize - 1]
    }
}

impl Usage {
    /// What every function used by invocations that started from `from_ms` up to, not including, `to_ms`. Whole hours come
    /// from sums, the hours at the edges from their records; an edge whose records are no longer kept (`KEPT_MS`) counts
    /// as a whole.
    pub async fn bill(&self, from_ms: u64, to_ms: u64) -> Result<Vec<Bill>, Error> {
        self.fold().await?;
        let mut sums: BTreeMap<FunctionRef, Sums> = BTreeMap::new();
        if from_ms < to_ms {
            let (first, last) = (from_ms / HOUR_MS, (to_ms - 1) / HOUR_MS);
            let kept_from = self.kept_from().await?;
            let inside = |hour: u64| hour * HOUR_MS >= from_ms && (hour + 1) * HOUR_MS <= to_ms;
            let whole = |hour: u64| hour < kept_from || inside(hour);
            let mut edges: Vec<(u64, FunctionRef)> = Vec::new();
            let mut range = Range::between(keys::hour_sums(first), keys::hour_sums(last + 1)).rows(PAGE_ROWS);
            loop {
                let page = self.store.range(&range).await?;
                for entry in &page.entries {
                    let damaged = || Error::Damaged("a sum".into());
                    let (hour, function, field) = keys::parse_sum(&entry.key).ok_or_else(damaged)?;
                    let value = counter(&entry.value).ok_or_else(damaged)?;
                    if whole(hour) {
                        sums.entry(function).or_default().add(field, value);
                    } else if field == Field::Requests {
                        edges.push((hour, function));
                    }
                }
                match page.entries.last() {
                    Some(last) if page.more => range = range.beyond(last.key.clone()),
                    _ => break,
                }
            }
            for (hour, function) in edges {
                let sum = self.edge(&function, hour, from_ms, to_ms).await?;
                let total = sums.entry(function).or_default();
                for field in Field::ALL {
                    total.add(field, sum.get(field));
                }
            }
        }
        let used = sums.into_iter().filter(|(_, sums)| sums.get(Field::Requests) > 0);
        Ok(used.map(|(function, sums)| bill_of(function, &sums)).collect())
    }

    async fn edge(&self, function: &FunctionRef, hour: u64, from_ms: u64, to_ms: u64) -> Result<Sums, Error> {
        let mut sums = Sums::default();
        let range = Range::prefix(keys::hour_records(function, hour));
        self.chunks(range, |records| {
            for record in records.iter().filter(|record| (from_ms..to_ms).contains(&record.started_at_ms)) {
                for field in Field::ALL {
                    sums.add(field, amount(record, field));
                }
            }
            true
        })
        .await?;
        Ok(sums)
    }

    /// A function's last records, newest first. `qualifier` of the reference is not looked at.
    pub async fn records(&self, function: &FunctionRef, limit: usize) -> Result<Vec<UsageRecord>, Error> {
        self.fold().await?;
        let mut found: Vec<UsageRecord> = Vec::new();
        let range = Range::prefix(keys::function_records(function)).reversed();
        self.chunks(range, |records| {
            found.extend(records.into_iter().rev());
            found.len() < limit
        })
        .await?;
        found.sort_by_key(|record| std::cmp::Reverse(record.started_at_ms));
        found.truncate(limit);
        Ok(found)
    }

    /// How many invocations were ever recorded.
    pub async fn count(&self) -> Result<u64, Error> {
        self.fold().await?;
        let entry = self.store.get(&keys::count()).await?;
        Ok(entry.and_then(|entry| counter(&entry.value)).unwrap_or(0))
    }

    async fn chunks(&self, range: Range, mut visit: impl FnMut(Vec<UsageRecord>) -> bool) -> Result<(), Error> {
        let mut range = range.rows(PAGE_ROWS).bytes(PAGE_BYTES);
        loop {
            let snapshot: Box<dyn Snapshot> = self.store.snapshot().await?;
            let page = snapshot.range(&range).await?;
            for entry in &page.entries {
                let value = entry.value.strip_prefix(&[FORMAT]);
                let value = value.ok_or_else(|| Error::Damaged("a chunk of an unknown format".into()))?;
                let records =
                    postcard::from_bytes(value).map_err(|error| Error::Damaged(format!("a chunk: {error}")))?;
                if !visit(records) {
                    return Ok(());
                }
            }
            match page.entries.last() {
                Some(last) if page.more => range = range.beyond(last.key.clone()),
                _ => return Ok(()),
            }
        }
    }
}

fn counter(value: &[u8]) -> Option<u64> {
    u64::try_from(i64::from_le_bytes(value.try_into().ok()?)).ok()
}

fn bill_of(function: FunctionRef, sums: &Sums) -> Bill {
    let (requests, mb_ms) = (sums.get(Field::Requests), sums.get(Field::MbMs));
    Bill {
        function,
        requests,
        errors: sums.get(Field::Errors),
        billed_ms: sums.get(Field::BilledMs),
        gb_seconds: mb_ms as f64 / MB_MS_PER_GB_S,
        cpu_us: sums.get(Field::CpuUs),
        cost_usd: cost_usd(requests, mb_ms),
    }
}

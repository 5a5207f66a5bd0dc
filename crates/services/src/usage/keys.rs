//! Keys of the ledger; nobody else builds one.
//!
//! | key                                                       | value                                       |
//! |-----------------------------------------------------------|---------------------------------------------|
//! | `b` boot                                                  | last folded sequence, 8 bytes little-endian |
//! | `n`                                                       | number of all records (counter)             |
//! | `p`                                                       | how far `prune` has come: `prune::Mark`     |
//! | `r` account region name hour folded-at-ms boot sequence   | format byte, postcard of `Vec<UsageRecord>` |
//! | `s` hour account region name field                        | sum (counter)                               |
//!
//! An hour is the number of hours since the epoch in which the invocation started. Fields are in `Field`.

use bytes::Bytes;
use model::prefixes::USAGE;
use model::{AccountId, FunctionName, FunctionRef, Region};
use store::keys::{Key, Parts};

const BOOT: u8 = b'b';
const COUNT: u8 = b'n';
const PRUNED: u8 = b'p';
const RECORDS: u8 = b'r';
const SUMS: u8 = b's';

/// Milliseconds of an hour.
pub(super) const HOUR_MS: u64 = 3_600_000;

/// What is summed up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Field {
    Requests = 1,
    Errors = 2,
    BilledMs = 3,
    MbMs = 4,
    CpuUs = 5,
}

impl Field {
    pub(super) const ALL: [Self; 5] = [Self::Requests, Self::Errors, Self::BilledMs, Self::MbMs, Self::CpuUs];
}

pub(super) fn boot(boot_id: &str) -> Bytes {
    Key::new(USAGE.byte).tag(BOOT).text(boot_id).done()
}

pub(super) fn count() -> Bytes {
    Key::new(USAGE.byte).tag(COUNT).done()
}

pub(super) fn pruned() -> Bytes {
    Key::new(USAGE.byte).tag(PRUNED).done()
}

fn of_function(function: &FunctionRef) -> Key {
    let key = Key::new(USAGE.byte).tag(RECORDS).text(function.account.as_str());
    key.text(function.region.as_str()).text(function.name.as_str())
}

/// Everything of a function.
pub(super) fn function_records(function: &FunctionRef) -> Bytes {
    of_function(function).done()
}

/// Everything of a function in an hour.
pub(super) fn hour_records(function: &FunctionRef, hour: u64) -> Bytes {
    of_function(function).number(hour).done()
}

pub(super) fn chunk(function: &FunctionRef, hour: u64, folded_at_ms: u64, boot_id: &str, sequence: u64) -> Bytes {
    of_function(function).number(hour).number(folded_at_ms).text(boot_id).number(sequence).done()
}

pub(super) fn sum(function: &FunctionRef, hour: u64, field: Field) -> Bytes {
    let key = Key::new(USAGE.byte).tag(SUMS).number(hour).text(function.account.as_str());
    key.text(function.region.as_str()).text(function.name.as_str()).tag(field as u8).done()
}

/// The first key of an hour's sums.
pub(super) fn hour_sums(hour: u64) -> Bytes {
    Key::new(USAGE.byte).tag(SUMS).number(hour).done()
}

/// Hour, function and field of a sum's key.
pub(super) fn parse_sum(key: &[u8]) -> Option<(u64, FunctionRef, Field)> {
    let mut parts = Parts::of(key);
    if parts.byte()? != USAGE.byte || parts.byte()? != SUMS {
        return None;
    }
    let hour = parts.number()?;
    let function = FunctionRef {
        account: AccountId::parse(&parts.text()?)?,
        region: Region::parse(&parts.text()?)?,
        name: FunctionName::parse(&parts.text()?)?,
        qualifier: None,
    };
    let tag = parts.byte()?;
    let field = Field::ALL.into_iter().find(|field| *field as u8 == tag)?;
    Some((hour, function, field))
}

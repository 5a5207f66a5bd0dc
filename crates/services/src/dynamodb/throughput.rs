//! What a table and its global indexes may be set to let through, and how often that may be lowered.
//!
//! Pure. What becomes of calls beyond it is decided in `throttle`.

use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use super::error::{Error, Result, invalid};
use super::table::seconds;

const DAY_MS: u64 = 24 * 3_600_000;
const HOUR_MS: u64 = 3_600_000;
/// How often units may be lowered on a day without an hour between. Source: service quotas.
const LOWERED_AT_ONCE: u32 = 4;
/// Most units of a table, and of one of its indexes. Source: service quotas.
pub(super) const TABLE_UNITS_MAX: u64 = 40_000;
/// Most units of all tables and indexes of an account in a region. Source: service quotas.
pub(super) const ACCOUNT_UNITS_MAX: u64 = 80_000;

/// A greatest throughput of a table or an index that is paid per request; nothing means no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct OnDemand {
    /// MaxReadRequestUnits
    #[serde(default)]
    pub(super) read: Option<u64>,
    /// MaxWriteRequestUnits
    #[serde(default)]
    pub(super) write: Option<u64>,
}

/// When provisioned units were changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct UnitsChanged {
    #[serde(default)]
    raised_at_ms: Option<u64>,
    #[serde(default)]
    lowered_at_ms: Option<u64>,
    /// How often they were lowered on the day of the last time.
    #[serde(default)]
    lowered: u32,
}

impl OnDemand {
    /// `OnDemandThroughput`, as it is in JSON, of a table or of an index, as `what` says; -1 means no limit, what is left
    /// out is None.
    pub(super) fn read(json: &Json, what: &str) -> Result<(Option<i64>, Option<i64>)> {
        let unit = |member: &str| match json.get(member).filter(|unit| !unit.is_null()) {
            None => Ok(None),
            Some(unit) => match unit.as_i64() {
                Some(number) if number == -1 || number >= 1 => Ok(Some(number)),
                Some(_) => invalid(format!(
                    "One or more parameter values were invalid: Requested {member} for OnDemandThroughput for {what} is \
                     outside of valid range"
                )),
                None => Err(Error::serialization("Unexpected field type")),
            },
        };
        let found = (unit("MaxReadRequestUnits")?, unit("MaxWriteRequestUnits")?);
        if found == (None, None) {
            return invalid(
                "One or more parameter values were invalid: OnDemandThroughput must have MaxReadRequestUnits, \
                 MaxWriteRequestUnits, or both",
            );
        }
        Ok(found)
    }

    /// What it is after a change.
    #[must_use]
    pub(super) fn changed(self, (read, write): (Option<i64>, Option<i64>)) -> Self {
        let unit = |old: Option<u64>, new: Option<i64>| new.map_or(old, |new| u64::try_from(new).ok());
        Self { read: unit(self.read, read), write: unit(self.write, write) }
    }

    /// `OnDemandThroughput` of a description, if there is a limit.
    pub(super) fn describe(self) -> Option<Json> {
        let unit = |unit: Option<u64>| unit.map_or(json!(-1), |unit| json!(unit));
        (self != Self::default())
            .then(|| json!({ "MaxReadRequestUnits": unit(self.read), "MaxWriteRequestUnits": unit(self.write) }))
    }
}

impl UnitsChanged {
    fn lowered_today(&self, now_ms: u64) -> u32 {
        if self.lowered_at_ms.is_some_and(|at_ms| at_ms / DAY_MS == now_ms / DAY_MS) { self.lowered } else { 0 }
    }

    /// The same after the units were changed from `old` to `new`, if they may be.
    pub(super) fn change(self, old: (u64, u64), new: (u64, u64), now_ms: u64) -> Result<Self> {
        let mut after = self;
        if new.0 > old.0 || new.1 > old.1 {
            after.raised_at_ms = Some(now_ms);
        }
        if new.0 >= old.0 && new.1 >= old.1 {
            return Ok(after);
        }
        let (lowered, last_ms) = (self.lowered_today(now_ms), self.lowered_at_ms.unwrap_or_default());
        if lowered >= LOWERED_AT_ONCE && now_ms < last_ms + HOUR_MS {
            return Err(Error::LimitExceeded(format!(
                "Subscriber limit exceeded: Provisioned throughput decreases are limited within a given UTC day. After \
                 the first {LOWERED_AT_ONCE} decreases, each subsequent decrease in the same UTC day can be performed at \
                 most once every 3600 seconds. Number of decreases today: {lowered}. Last decrease at {}. Next decrease \
                 can be made at {}",
                time(last_ms),
                time(last_ms + HOUR_MS)
            )));
        }
        after.lowered = lowered + 1;
        after.lowered_at_ms = Some(now_ms);
        Ok(after)
    }

    /// `ProvisionedThroughput` of a description.
    pub(super) fn describe(&self, read: u64, write: u64, now_ms: u64) -> Json {
        let mut described = json!({
            "NumberOfDecreasesToday": self.lowered_today(now_ms),
            "ReadCapacityUnits": read,
            "WriteCapacityUnits": write,
        });
        for (member, at_ms) in
            [("LastIncreaseDateTime", self.raised_at_ms), ("LastDecreaseDateTime", self.lowered_at_ms)]
        {
            if let Some(at_ms) = at_ms {
                described[member] = json!(seconds(at_ms));
            }
        }
        described
    }
}

fn time(ms: u64) -> jiff::Timestamp {
    jiff::Timestamp::from_millisecond(i64::try_from(ms / 1_000 * 1_000).unwrap_or(0)).unwrap_or_default()
}

/// Refuses units that a table or an index is set to already; `what` says which.
pub(super) fn check_changes(what: &str, is: (u64, u64), wanted: (u64, u64)) -> Result<()> {
    if is != wanted {
        return Ok(());
    }
    let (read, write) = is;
    let short = what.split(' ').next().unwrap_or(what);
    invalid(format!(
        "The provisioned throughput for the {what} will not change. The requested value equals the current value. \
         Current ReadCapacityUnits provisioned for the {short}: {read}. Requested ReadCapacityUnits: {read}. Current \
         WriteCapacityUnits provisioned for the {short}: {write}. Requested WriteCapacityUnits: {write}. Refer to the \
         Amazon DynamoDB Developer Guide for current limits and how to request higher limits."
    ))
}

/// Units that may be provisioned for one table or index.
pub(super) fn check_units((read, write): (u64, u64)) -> Result<()> {
    for (kind, units) in [("read", read), ("write", write)] {
        if units > TABLE_UNITS_MAX {
            return Err(Error::LimitExceeded(format!(
                "Subscriber limit exceeded: a table or an index has at most {TABLE_UNITS_MAX} {kind} capacity units: {units}"
            )));
        }
    }
    Ok(())
}

/// What is wrong with `OnDemandThroughput` beside provisioned units.
pub(super) fn not_on_demand<T>() -> Result<T> {
    invalid(
        "One or more parameter values were invalid: MaxReadRequestUnits and MaxWriteRequestUnits can only be specified \
         when BillingMode is PAY_PER_REQUEST",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const MORNING: u64 = 1_700_006_400_000;

    #[test]
    fn units_are_lowered_four_times_at_once_and_then_hourly() {
        let mut changed = UnitsChanged::default();
        for count in 0..4 {
            changed = changed.change((10 - count, 5), (9 - count, 5), MORNING + count).unwrap();
        }
        let now_ms = MORNING + 3 + HOUR_MS;
        let error = changed.change((6, 5), (5, 5), now_ms - 1).unwrap_err();
        assert!(error.to_string().contains("Number of decreases today: 4."), "{error}");
        // Raising is always possible, and counts for nothing.
        let raised = changed.change((6, 5), (60, 5), now_ms - 1).unwrap();
        assert_eq!(raised.describe(60, 5, now_ms)["NumberOfDecreasesToday"], 4);
        assert!(raised.describe(60, 5, now_ms)["LastIncreaseDateTime"].is_number());
        let lowered = raised.change((60, 5), (60, 4), now_ms).unwrap();
        assert!(lowered.change((60, 4), (60, 3), now_ms).is_err());
        // Another day, another four.
        let tomorrow = MORNING + DAY_MS;
        assert_eq!(lowered.describe(1, 1, tomorrow)["NumberOfDecreasesToday"], 0);
        assert!(lowered.change((60, 4), (1, 1), tomorrow).is_ok());
    }

    #[test]
    fn a_maximum_is_set_changed_and_taken_away() {
        let set = OnDemand::default().changed(OnDemand::read(&json!({ "MaxReadRequestUnits": 5 }), "table").unwrap());
        assert_eq!(set.describe().unwrap(), json!({ "MaxReadRequestUnits": 5, "MaxWriteRequestUnits": -1 }));
        let more = set.changed(OnDemand::read(&json!({ "MaxWriteRequestUnits": 6 }), "table").unwrap());
        assert_eq!(more, OnDemand { read: Some(5), write: Some(6) });
        let none = json!({ "MaxReadRequestUnits": -1, "MaxWriteRequestUnits": -1 });
        let none = OnDemand::read(&none, "table").unwrap();
        assert_eq!(more.changed(none).describe(), None);
        for wrong in [json!({}), json!({ "MaxReadRequestUnits": 0 }), json!({ "MaxWriteRequestUnits": -2 })] {
            assert!(OnDemand::read(&wrong, "table").is_err(), "{wrong}");
        }
    }
}

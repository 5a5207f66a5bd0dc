//! Event source mappings: what is kept of one, the states that it goes through, how answers and the engine see it. Pure.
//!
//! | state                         | comes with         | goes, when the poller has said that it is so          |
//! |-------------------------------|--------------------|--------------------------------------------------------|
//! | `Creating`                    | a creation         | to `Enabled` or `Disabled`, as is asked for             |
//! | `Enabling`, `Disabling`       | `Enabled` changed  | the same                                                |
//! | `Updating`                    | any other update   | the same                                                |
//! | `Deleting`                    | a deletion         | away                                                    |
//!
//! Not here: what a call may ask for (`mapping_settings`), and the poller, which is the engine's.

use std::collections::BTreeMap;

use aws::Error;
use model::{AccountId, FunctionRef, Mapping, Position, Region, Wanted};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::error;
use super::mapping_settings::{Kind, MappingSettings};

/// Concurrent calls that one provisioned poller makes. Source: the developer guide, "Provisioned mode".
const CALLS_OF_POLLER: u32 = 10;

/// Which mapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MappingRef {
    pub(super) account: AccountId,
    pub(super) region: Region,
    pub(super) uuid: String,
}

impl MappingRef {
    /// `arn:aws:lambda:REGION:ACCOUNT:event-source-mapping:UUID`
    pub(super) fn arn(&self) -> String {
        format!("arn:aws:lambda:{}:{}:event-source-mapping:{}", self.region, self.account, self.uuid)
    }

    /// The mapping that an ARN names.
    pub(super) fn parse_arn(arn: &str) -> Option<Self> {
        let parts: Vec<&str> = arn.split(':').collect();
        let ["arn", _, "lambda", region, account, "event-source-mapping", uuid] = *parts.as_slice() else {
            return None;
        };
        Some(Self { account: AccountId::parse(account)?, region: Region::parse(region)?, uuid: uuid.to_owned() })
    }
}

/// Where a mapping stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum State {
    Creating,
    Enabling,
    Enabled,
    Disabling,
    Disabled,
    Updating,
    Deleting,
}

impl State {
    fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "Creating",
            Self::Enabling => "Enabling",
            Self::Enabled => "Enabled",
            Self::Disabling => "Disabling",
            Self::Disabled => "Disabled",
            Self::Updating => "Updating",
            Self::Deleting => "Deleting",
        }
    }
}

/// What is kept of a mapping.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct MappingRecord {
    /// Who gets the records.
    pub(super) function: FunctionRef,
    /// The ARN of the source.
    pub(super) source: String,
    /// Where it stands.
    pub(super) state: State,
    /// Milliseconds since the epoch.
    pub(super) modified_ms: u64,
    /// Grows with every change that the poller has to follow.
    pub(super) revision: u64,
    /// What is asked for.
    pub(super) settings: MappingSettings,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) tags: BTreeMap<String, String>,
}

impl MappingRecord {
    fn kind(&self) -> Kind {
        // A source of another kind is never stored.
        Kind::of(&self.source).unwrap_or(Kind::Sqs)
    }

    /// Refuses a change while another one is under way.
    pub(super) fn check_at_rest(&self, verb: &str) -> Result<(), Error> {
        match self.state {
            State::Enabled | State::Disabled => Ok(()),
            // A poller that is held up by its source does not keep anybody from taking a step back.
            State::Enabling | State::Disabling if verb == "delete" => Ok(()),
            _ => Err(error::in_use(format!("Cannot {verb} the event source mapping because it is in use."))),
        }
    }

    /// Takes over other settings and another function.
    pub(super) fn update(&mut self, function: FunctionRef, settings: MappingSettings, now_ms: u64) {
        self.state = match (self.settings.enabled, settings.enabled) {
            (false, true) => State::Enabling,
            (true, false) => State::Disabling,
            _ => State::Updating,
        };
        (self.function, self.settings, self.modified_ms) = (function, settings, now_ms);
        self.revision += 1;
    }

    /// Begins its end.
    pub(super) fn delete(&mut self, now_ms: u64) {
        (self.state, self.modified_ms) = (State::Deleting, now_ms);
        self.revision += 1;
    }

    /// The poller follows this revision: what becomes of the record. Nothing: it goes.
    pub(super) fn settled(&self, revision: u64) -> Option<Self> {
        if revision != self.revision {
            return Some(self.clone());
        }
        let state = match self.state {
            State::Deleting => return None,
            _ if self.settings.enabled => State::Enabled,
            _ => State::Disabled,
        };
        Some(Self { state, ..self.clone() })
    }

    /// `EventSourceMappingConfiguration`
    pub(super) fn shown(&self, mapping: &MappingRef, last_result: Option<&str>) -> Value {
        let settings = &self.settings;
        let stream = self.kind() != Kind::Sqs;
        let of_stream = |value: Value| if stream { value } else { Value::Null };
        let filters: Vec<Value> = settings.filters.iter().map(|pattern| json!({"Pattern": pattern})).collect();
        let responses = if settings.reports_failures { json!(["ReportBatchItemFailures"]) } else { json!([]) };
        let on_failure = settings.on_failure.as_ref().map_or_else(|| json!({}), |arn| json!({"Destination": arn}));
        let pollers = settings.pollers.map(|(least, most)| json!({"MinimumPollers": least, "MaximumPollers": most}));
        json!({
            "UUID": mapping.uuid,
            "StartingPosition": settings.start,
            "StartingPositionTimestamp": settings.start_ms.map(seconds),
            "BatchSize": settings.batch_size,
            "MaximumBatchingWindowInSeconds": settings.window_s,
            "ParallelizationFactor": of_stream(json!(settings.lanes)),
            "EventSourceArn": self.source,
            "FilterCriteria": (!filters.is_empty()).then(|| json!({"Filters": filters})),
            "MetricsConfig": (!settings.metrics.is_empty()).then(|| json!({"Metrics": settings.metrics})),
            "ScalingConfig": settings.concurrency_max.map(|most| json!({"MaximumConcurrency": most})),
            "ProvisionedPollerConfig": pollers,
            "FunctionArn": self.function.arn(),
            "LastModified": seconds(self.modified_ms),
            "LastProcessingResult": last_result.or(stream.then_some("No records processed")),
            "State": self.state.as_str(),
            "StateTransitionReason": if stream { "User action" } else { "USER_INITIATED" },
            "DestinationConfig": of_stream(json!({"OnFailure": on_failure})),
            "MaximumRecordAgeInSeconds": of_stream(json!(settings.age_max_s)),
            "BisectBatchOnFunctionError": of_stream(json!(settings.bisects)),
            "MaximumRetryAttempts": of_stream(json!(settings.retries_max)),
            "TumblingWindowInSeconds": of_stream(json!(settings.tumbling_s)),
            "FunctionResponseTypes": responses,
            "EventSourceMappingArn": mapping.arn(),
        })
    }

    /// What the poller goes by.
    pub(super) fn for_poller(&self, mapping: &MappingRef) -> Mapping {
        let settings = &self.settings;
        let wanted = match self.state {
            State::Deleting => Wanted::Gone,
            _ if settings.enabled => Wanted::Polled,
            _ => Wanted::Rests,
        };
        let start = match (settings.start.as_deref(), settings.start_ms) {
            (Some("LATEST"), _) => Position::Latest,
            (Some("AT_TIMESTAMP"), Some(ms)) => Position::AtTimestamp(ms),
            _ => Position::TrimHorizon,
        };
        let of_pollers = |number: u32| number.saturating_mul(CALLS_OF_POLLER);
        Mapping {
            arn: mapping.arn(),
            revision: self.revision,
            wanted,
            function: self.function.clone(),
            source: self.source.clone(),
            start,
            batch_records: settings.batch_size as usize,
            window_ms: u64::from(settings.window_s) * 1_000,
            filters: settings.filters.clone(),
            reports_failures: settings.reports_failures,
            concurrency_max: settings.concurrency_max.or(settings.pollers.map(|(_, most)| of_pollers(most))),
            concurrency_min: settings.pollers.map(|(least, _)| of_pollers(least)),
            lanes: settings.lanes,
            retries_max: u32::try_from(settings.retries_max).ok(),
            age_max_ms: u64::try_from(settings.age_max_s).ok().map(|seconds| seconds * 1_000),
            bisects: settings.bisects,
            tumbling_ms: u64::from(settings.tumbling_s) * 1_000,
            on_failure: settings.on_failure.clone(),
        }
    }
}

fn seconds(ms: u64) -> f64 {
    ms as f64 / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arn_reads_back() {
        let arn = "arn:aws:lambda:us-east-1:000000000000:event-source-mapping:7f3a0000-0000-4000-8000-000000000000";
        assert_eq!(MappingRef::parse_arn(arn).unwrap().arn(), arn);
        for wrong in ["", "arn:aws:lambda:us-east-1:000000000000:function:f", &format!("{arn}:1"), &arn[1..]] {
            assert_eq!(MappingRef::parse_arn(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_mapping_goes_through_its_states() {
        let function = FunctionRef::parse_arn("arn:aws:lambda:us-east-1:000000000000:function:f").unwrap();
        let mut record = MappingRecord {
            function: function.clone(),
            source: "arn:aws:sqs:us-east-1:000000000000:q".into(),
            state: State::Creating,
            modified_ms: 0,
            revision: 1,
            settings: MappingSettings::default(),
            tags: BTreeMap::new(),
        };
        assert!(record.check_at_rest("update").is_err() && record.check_at_rest("delete").is_err());
        assert_eq!(record.settled(0).unwrap().state, State::Creating, "of an older revision");
        record = record.settled(1).unwrap();
        assert_eq!((record.state, record.check_at_rest("update").is_ok()), (State::Enabled, true));
        for (enabled, within, then) in [
            (false, State::Disabling, State::Disabled),
            (false, State::Updating, State::Disabled),
            (true, State::Enabling, State::Enabled),
            (true, State::Updating, State::Enabled),
        ] {
            record.update(function.clone(), MappingSettings { enabled, ..MappingSettings::default() }, 1);
            assert_eq!(record.state, within);
            assert!(record.check_at_rest("update").is_err());
            record = record.settled(record.revision).unwrap();
            assert_eq!(record.state, then);
        }
        record.delete(2);
        assert!(record.check_at_rest("delete").is_err());
        assert_eq!(record.settled(record.revision), None);
    }
}

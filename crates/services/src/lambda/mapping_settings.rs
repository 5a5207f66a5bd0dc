//! What a call may ask of an event source mapping: which parameters its kind of source has, their limits and defaults. Pure,
//! but for the question whether the source and the destination are there.
//!
//! Sources: the developer guide, "Event source mapping parameters" and the pages of each source; the service model.

use std::sync::Arc;

use aws::{Call, Error};
use model::ports::{EventSource, EventTarget, source_of, target_of};
use model::{Pattern, SourceKind};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::error;

/// Filters of one mapping. Source: Lambda quotas, where it can be raised to this.
const FILTERS_MAX: usize = 10;
/// Least age that records can be given up at, seconds. Source: the developer guide.
const AGE_LEAST_S: i64 = 60;
/// Records of a batch of an SQS queue without a window, and of a FIFO queue. Source: the developer guide.
const QUEUE_BATCH: u32 = 10;
/// Pollers that a queue can be given. Source: the developer guide, "Provisioned mode".
const POLLERS: (std::ops::RangeInclusive<u64>, std::ops::RangeInclusive<u64>) = (2..=200, 2..=10_000);

/// Members that every kind of source takes.
const COMMON: &[&str] = &[
    "FunctionName",
    "EventSourceArn",
    "UUID",
    "Enabled",
    "BatchSize",
    "FilterCriteria",
    "MaximumBatchingWindowInSeconds",
    "FunctionResponseTypes",
    "MetricsConfig",
    "Tags",
];
/// Beside them, of queues.
const OF_QUEUES: &[&str] = &["ScalingConfig", "ProvisionedPollerConfig"];
/// Beside them, of streams.
const OF_STREAMS: &[&str] = &[
    "StartingPosition",
    "StartingPositionTimestamp",
    "ParallelizationFactor",
    "DestinationConfig",
    "MaximumRecordAgeInSeconds",
    "BisectBatchOnFunctionError",
    "MaximumRetryAttempts",
    "TumblingWindowInSeconds",
];

/// The kinds of sources that there are pollers for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Sqs,
    Kinesis,
    DynamoDb,
}

impl Kind {
    /// The kind of a source by its ARN.
    pub(super) fn of(arn: &str) -> Option<Self> {
        match arn.split(':').nth(2)? {
            "sqs" => Some(Self::Sqs),
            "kinesis" => Some(Self::Kinesis),
            "dynamodb" => Some(Self::DynamoDb),
            _ => None,
        }
    }

    /// The kind of the source that a call names; what AWS has and nobody here polls is refused by its name.
    pub(super) fn of_call(call: &Call) -> Result<Self, Error> {
        if call.input.get("SelfManagedEventSource").is_some() {
            if call.input.get("SourceAccessConfigurations").is_none() {
                return Err(error::invalid("Required 'sourceAccessConfigurations' parameter is missing."));
            }
            return Err(Error::not_implemented(
                "event sources on Kafka clusters of one's own (SelfManagedEventSource)",
            ));
        }
        let Some(arn) = call.text("EventSourceArn").filter(|arn| !arn.is_empty()) else {
            return Err(error::invalid("Unrecognized event source."));
        };
        match (Self::of(arn), arn.split(':').nth(2).unwrap_or_default()) {
            (Some(kind), _) => Ok(kind),
            (None, "kafka") => Err(no_service(arn, "MSK (kafka)")),
            (None, "mq") => Err(no_service(arn, "Amazon MQ (mq)")),
            (None, "rds") => Err(no_service(arn, "DocumentDB (rds)")),
            _ => Err(error::invalid("Unrecognized event source.")),
        }
    }

    fn is_stream(self) -> bool {
        self != Self::Sqs
    }
}

fn no_service(arn: &str, service: &str) -> Error {
    Error::not_implemented(format_args!(
        "the event source {arn}: the service {service} does not exist here yet, so nobody would poll it"
    ))
}

/// What is asked of a mapping.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct MappingSettings {
    pub(super) enabled: bool,
    pub(super) batch_size: u32,
    pub(super) window_s: u32,
    /// Patterns.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) filters: Vec<String>,
    #[serde(default)]
    pub(super) reports_failures: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) metrics: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) concurrency_max: Option<u32>,
    /// Least and most pollers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) pollers: Option<(u32, u32)>,
    /// `StartingPosition`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) start: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) start_ms: Option<u64>,
    /// `ParallelizationFactor`
    pub(super) lanes: u32,
    /// Seconds; -1: without end.
    pub(super) age_max_s: i64,
    /// -1: without end.
    pub(super) retries_max: i64,
    pub(super) bisects: bool,
    pub(super) tumbling_s: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) on_failure: Option<String>,
}

impl Default for MappingSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            batch_size: QUEUE_BATCH,
            window_s: 0,
            filters: Vec::new(),
            reports_failures: false,
            metrics: Vec::new(),
            concurrency_max: None,
            pollers: None,
            start: None,
            start_ms: None,
            lanes: 1,
            age_max_s: -1,
            retries_max: -1,
            bisects: false,
            tumbling_s: 0,
            on_failure: None,
        }
    }
}

/// The settings that a creation asks for.
pub(super) fn created(call: &Call, kind: Kind) -> Result<MappingSettings, Error> {
    let mut settings = MappingSettings::default();
    if kind.is_stream() {
        settings.batch_size = 100;
        (settings.start, settings.start_ms) = start(call, kind)?;
    }
    changed(&settings, call, kind, call.text("EventSourceArn").unwrap_or_default())
}

/// Where a stream is to be read from at first.
fn start(call: &Call, kind: Kind) -> Result<(Option<String>, Option<u64>), Error> {
    let Some(position) = call.text("StartingPosition") else {
        return Err(error::invalid(
            "1 validation error detected: Value null at 'startingPosition' failed to satisfy constraint: Member must not be null.",
        ));
    };
    let timestamp = call.input.get("StartingPositionTimestamp").and_then(Value::as_f64);
    let start_ms = match (position, kind, timestamp) {
        ("AT_TIMESTAMP", Kind::DynamoDb, _) => {
            let arn = call.text("EventSourceArn").unwrap_or_default();
            return Err(error::invalid(format!("Unsupported starting position for arn type: {arn}")));
        }
        ("AT_TIMESTAMP", _, None) => {
            return Err(error::invalid("StartingPositionTimestamp is required when StartingPosition is AT_TIMESTAMP."));
        }
        // Beyond what milliseconds hold there is nothing to read.
        ("AT_TIMESTAMP", _, Some(seconds)) => Some((seconds.max(0.0) * 1_000.0) as u64),
        (_, _, None) => None,
        (_, _, Some(_)) => {
            return Err(error::invalid(
                "StartingPositionTimestamp is allowed only when StartingPosition is AT_TIMESTAMP.",
            ));
        }
    };
    Ok((Some(position.to_owned()), start_ms))
}

/// The settings with what a call says in place of what was there.
pub(super) fn changed(
    before: &MappingSettings,
    call: &Call,
    kind: Kind,
    source: &str,
) -> Result<MappingSettings, Error> {
    check_members(call, kind)?;
    let mut settings = before.clone();
    let number = |member: &str| call.number(member).and_then(|number| u32::try_from(number).ok());
    let signed = |member: &str| call.input.get(member).and_then(Value::as_i64);
    let object = |member: &str| call.input.get(member).filter(|value| value.is_object());
    if let Some(enabled) = call.input.get("Enabled").and_then(Value::as_bool) {
        settings.enabled = enabled;
    }
    settings.batch_size = number("BatchSize").unwrap_or(settings.batch_size);
    settings.window_s = number("MaximumBatchingWindowInSeconds").unwrap_or(settings.window_s);
    settings.lanes = number("ParallelizationFactor").unwrap_or(settings.lanes);
    settings.tumbling_s = number("TumblingWindowInSeconds").unwrap_or(settings.tumbling_s);
    settings.age_max_s = signed("MaximumRecordAgeInSeconds").unwrap_or(settings.age_max_s);
    settings.retries_max = signed("MaximumRetryAttempts").unwrap_or(settings.retries_max);
    if let Some(bisects) = call.input.get("BisectBatchOnFunctionError").and_then(Value::as_bool) {
        settings.bisects = bisects;
    }
    if let Some(criteria) = object("FilterCriteria") {
        settings.filters = filters(criteria)?;
    }
    if let Some(types) = call.input.get("FunctionResponseTypes").and_then(Value::as_array) {
        settings.reports_failures = !types.is_empty();
    }
    if let Some(config) = object("MetricsConfig") {
        let metrics = config.get("Metrics").and_then(Value::as_array).into_iter().flatten();
        settings.metrics = metrics.filter_map(Value::as_str).map(str::to_owned).collect();
    }
    if let Some(config) = object("ScalingConfig") {
        let most = config.get("MaximumConcurrency").and_then(Value::as_u64);
        settings.concurrency_max = most.and_then(|most| u32::try_from(most).ok());
    }
    if let Some(config) = object("ProvisionedPollerConfig") {
        settings.pollers = pollers(config)?;
    }
    if let Some(config) = object("DestinationConfig") {
        let arn = config.pointer("/OnFailure/Destination").and_then(Value::as_str);
        settings.on_failure = arn.filter(|arn| !arn.is_empty()).map(str::to_owned);
    }
    check_limits(&settings, kind, source)?;
    Ok(settings)
}

/// Refuses parameters that this kind of source does not have.
fn check_members(call: &Call, kind: Kind) -> Result<(), Error> {
    let (own, others) = if kind.is_stream() { (OF_STREAMS, OF_QUEUES) } else { (OF_QUEUES, OF_STREAMS) };
    let unsupported =
        |member: &str| error::invalid(format!("Unsupported {member} parameter for given event source mapping type."));
    if let Some(member) = others.iter().find(|member| call.input.get(**member).is_some()) {
        return Err(unsupported(member));
    }
    if call.input.pointer("/DestinationConfig/OnSuccess").is_some() {
        return Err(unsupported("DestinationConfig"));
    }
    let of_others = [
        "Topics",
        "Queues",
        "SourceAccessConfigurations",
        "AmazonManagedKafkaEventSourceConfig",
        "SelfManagedKafkaEventSourceConfig",
        "DocumentDBEventSourceConfig",
    ];
    if let Some(member) = of_others.iter().find(|member| call.input.get(**member).is_some()) {
        return Err(unsupported(member));
    }
    call.honours(&[COMMON, own].concat())
}

fn filters(criteria: &Value) -> Result<Vec<String>, Error> {
    let filters = criteria.get("Filters").and_then(Value::as_array).into_iter().flatten();
    let patterns = filters.map(|filter| {
        let text = filter.get("Pattern").and_then(Value::as_str).unwrap_or_default();
        Pattern::parse(text).map(|_| text.to_owned()).map_err(|_| error::invalid("Invalid filter pattern definition."))
    });
    let patterns = patterns.collect::<Result<Vec<_>, _>>()?;
    if patterns.len() > FILTERS_MAX {
        return Err(error::invalid(format!(
            "Number of filters exceeds the limit of filters for an event source mapping. (limit {FILTERS_MAX})"
        )));
    }
    Ok(patterns)
}

fn pollers(config: &Value) -> Result<Option<(u32, u32)>, Error> {
    if config.get("PollerGroupName").is_some() {
        return Err(Error::not_implemented("poller groups (ProvisionedPollerConfig.PollerGroupName)"));
    }
    let (least, most) = (config.get("MinimumPollers"), config.get("MaximumPollers"));
    if least.is_none() && most.is_none() {
        return Ok(None);
    }
    let least = least.and_then(Value::as_u64).unwrap_or(*POLLERS.0.start());
    let most = most.and_then(Value::as_u64).unwrap_or(least.max(*POLLERS.0.end()));
    if !POLLERS.0.contains(&least) || !POLLERS.1.contains(&most) {
        return Err(error::invalid(format!(
            "MinimumPollers of a queue is from {} to {}, MaximumPollers from {} to {}.",
            POLLERS.0.start(),
            POLLERS.0.end(),
            POLLERS.1.start(),
            POLLERS.1.end()
        )));
    }
    if least > most {
        return Err(error::invalid("MinimumPollers must be less than or equal to MaximumPollers."));
    }
    Ok(u32::try_from(least).ok().zip(u32::try_from(most).ok()))
}

fn check_limits(settings: &MappingSettings, kind: Kind, source: &str) -> Result<(), Error> {
    if kind == Kind::Sqs && source.ends_with(".fifo") {
        if settings.batch_size > QUEUE_BATCH {
            let rule = format!("Member must have value less than or equal to {QUEUE_BATCH}");
            return Err(error::constraint(&settings.batch_size.to_string(), "batchSize", &rule));
        }
        if settings.window_s > 0 {
            return Err(error::invalid("Batching window is not supported for FIFO queues."));
        }
    }
    if kind == Kind::Sqs && settings.batch_size > QUEUE_BATCH && settings.window_s == 0 {
        return Err(error::invalid(
            "Maximum batch window in seconds must be greater than 0 if maximum batch size is greater than 10",
        ));
    }
    if settings.concurrency_max.is_some() && settings.pollers.is_some() {
        return Err(error::invalid("MaximumConcurrency and ProvisionedPollerConfig cannot be used together."));
    }
    if settings.age_max_s != -1 && settings.age_max_s < AGE_LEAST_S {
        let rule = format!("Member must have value greater than or equal to {AGE_LEAST_S}");
        return Err(error::constraint(&settings.age_max_s.to_string(), "maximumRecordAgeInSeconds", &rule));
    }
    Ok(())
}

/// Refuses a source that is not there, that nobody here has, or that does not suit the function; `timeout_s` is its.
pub(super) async fn check_source(
    source: &str,
    kind: Kind,
    call: &Call,
    timeout_s: u64,
    sources: &[Arc<dyn EventSource>],
) -> Result<(), Error> {
    let Some(service) = source_of(sources, source) else {
        let service = if kind == Kind::DynamoDb { "DynamoDB Streams (dynamodb)" } else { service_of(source) };
        return Err(no_service(source, service));
    };
    let absent = || match kind {
        Kind::Sqs => error::invalid(
            "Error occurred while ReceiveMessage. SQS Error Code: AWS.SimpleQueueService.NonExistentQueue. SQS Error Message: The specified queue does not exist.",
        ),
        Kind::Kinesis | Kind::DynamoDb => error::invalid(format!("Stream not found: {source}")),
    };
    let place: Vec<&str> = source.split(':').collect();
    // Policies of queues and streams are not evaluated: nothing could let in functions of others.
    if place.get(3) != Some(&call.region.to_string().as_str()) || place.get(4) != Some(&call.principal.account.as_str())
    {
        return Err(absent());
    }
    let facts = service.describe(source).await.map_err(|problem| {
        Error::new(500, "ServiceException", format!("The event source cannot be asked: {problem}"))
            .with("Type", "Server")
    })?;
    match facts.map(|facts| facts.kind) {
        None => Err(absent()),
        Some(SourceKind::Queue { lease_ms, .. }) if lease_ms < timeout_s * 1_000 => Err(error::invalid(format!(
            "Queue visibility timeout: {} seconds is less than Function timeout: {timeout_s} seconds",
            lease_ms / 1_000
        ))),
        Some(_) => Ok(()),
    }
}

fn service_of(arn: &str) -> &str {
    arn.split(':').nth(2).unwrap_or_default()
}

/// Refuses a destination that records of batches cannot go to, or that is not there.
pub(super) async fn check_destination(
    settings: &MappingSettings,
    targets: &[Arc<dyn EventTarget>],
) -> Result<(), Error> {
    let Some(arn) = &settings.on_failure else { return Ok(()) };
    let invalid = || {
        error::invalid(format!(
            "The provided destination config DestinationConfig(onSuccess=null, onFailure=OnFailure(destination={arn})) is invalid."
        ))
    };
    if arn.starts_with("kafka://") {
        return Err(Error::not_implemented(format_args!("the destination {arn}: there is no Kafka here yet")));
    }
    if !matches!(service_of(arn), "sqs" | "sns" | "s3") {
        return Err(invalid());
    }
    let Some(target) = target_of(targets, arn) else {
        return Err(Error::not_implemented(format_args!(
            "the destination {arn}: the service {} does not exist here yet",
            service_of(arn)
        )));
    };
    if target.has(arn).await { Ok(()) } else { Err(invalid()) }
}

//! Operations of the service DynamoDB Streams: ListStreams, DescribeStream, GetShardIterator, GetRecords.
//!
//! Invariant: an iterator says all that a read needs, so that nothing is kept of readers: the stream, a place, and when it
//! was given.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use serde_json::{Value as Json, json};

use super::super::error::{Error, Result, constraint, invalid};
use super::super::keys;
use super::super::policy;
use super::super::records;
use super::super::stream::{Description, Place};
use super::super::table::seconds;
use super::request::{Request, Rule, missing, report, table_name};
use super::{Place as Owner, Shared};

/// Most streams and shards of one answer.
const LIST_MAX: i64 = 100;
/// Most records of one answer.
const RECORDS_MAX: i64 = 1_000;
/// Most bytes of records of one answer, about.
const RECORDS_BYTES_MAX: usize = 1024 * 1024;
/// How long an iterator may be used.
const ITERATOR_MS: u64 = 15 * 60_000;
const ARN: Rule<'static> = Rule::Length("StreamArn", 37, 1_024);
const SHARD: Rule<'static> = Rule::Length("ShardId", 28, 65);
const SHARD_AFTER: Rule<'static> = Rule::Length("ExclusiveStartShardId", 28, 65);
const KINDS: &[&str] = &["AT_TIMESTAMP", "AFTER_SEQUENCE_NUMBER", "LATEST", "AT_SEQUENCE_NUMBER", "TRIM_HORIZON"];

fn limit(request: &Request, most: i64) -> Result<usize> {
    request.check(&[Rule::Within("Limit", 1, most)])?;
    Ok(usize::try_from(request.number("Limit")?.unwrap_or(most)).unwrap_or(1))
}

/// The stream that a request names, which must be the caller's.
async fn named(shared: &Shared, owner: &Owner, arn: &str) -> Result<Description> {
    let not_found = || Error::NotFound(format!("Requested resource not found: Stream: {arn} not found"));
    if !arn.starts_with("arn:") || arn.split(':').count() < 6 {
        return invalid(format!("Invalid StreamArn: {arn} is no ARN"));
    }
    if !arn.starts_with(&format!("arn:aws:dynamodb:{}:{}:table/", owner.region, owner.account)) {
        return Err(not_found());
    }
    let found = records::find(shared, arn).await?.ok_or_else(not_found)?;
    let policy = found.stream.policy.as_ref();
    policy::check(policy, &owner.caller, &owner.account, owner.operation, arn)?;
    Ok(found)
}

/// `ListStreams`
pub(super) async fn list(shared: &Shared, owner: &Owner, request: &Request) -> Result<Json> {
    request.only("ListStreams", &["TableName", "Limit", "ExclusiveStartStreamArn"])?;
    request.check(&[Rule::Length("ExclusiveStartStreamArn", 37, 1_024)])?;
    let limit = limit(request, LIST_MAX)?;
    let table = request.text("TableName")?.map(|name| table_name(name, owner)).transpose()?;
    let mut range = keys::streams(&owner.account, &owner.region, table).rows(limit);
    if let Some(arn) = request.text("ExclusiveStartStreamArn")? {
        let after = named(shared, owner, arn).await?;
        range = range.beyond(keys::stream(&after.account, &after.region, &after.table, &after.stream.label));
    }
    let page = shared.store.range(&range).await?;
    let found = page.entries.iter().map(records::description).collect::<Result<Vec<_>>>()?;
    let shown = found
        .iter()
        .map(|one| json!({ "StreamArn": one.arn(), "TableName": one.table, "StreamLabel": one.stream.label }));
    let mut output = json!({ "Streams": shown.collect::<Vec<_>>() });
    if page.more {
        output["LastEvaluatedStreamArn"] = json!(found.last().map(Description::arn));
    }
    Ok(output)
}

/// Refuses a `ShardFilter` that names no shard, or asks for another thing than its children.
fn check_filter(request: &Request) -> Result<()> {
    let Some(filter) = request.get("ShardFilter") else { return Ok(()) };
    let filter = Request::new(filter.clone())?;
    filter.only("DescribeStream.ShardFilter", &["Type", "ShardId"])?;
    let rules = [Rule::Required("Type"), Rule::OneOf("Type", &["CHILD_SHARDS"]), Rule::Required("ShardId"), SHARD];
    report(filter.broken_in("shardFilter.", &rules)?)
}

/// `DescribeStream`
pub(super) async fn describe(shared: &Shared, owner: &Owner, request: &Request) -> Result<Json> {
    request.only("DescribeStream", &["StreamArn", "Limit", "ExclusiveStartShardId", "ShardFilter"])?;
    request.check(&[Rule::Required("StreamArn"), ARN, SHARD_AFTER, Rule::Within("Limit", 1, LIST_MAX)])?;
    check_filter(request)?;
    let of = named(shared, owner, request.text("StreamArn")?.ok_or_else(|| missing("StreamArn"))?).await?;
    let mut numbers =
        json!({ "StartingSequenceNumber": Place { commit: of.stream.opened + 1, ordinal: 0 }.sequence() });
    if let Some(end) = records::last(shared, &of).await? {
        numbers["EndingSequenceNumber"] = json!(end.sequence());
    }
    let mut shards = vec![json!({ "ShardId": of.shard(), "SequenceNumberRange": numbers })];
    // The one shard has no children; after it there is none.
    if request.get("ShardFilter").is_some()
        || request.text("ExclusiveStartShardId")?.is_some_and(|after| after >= of.shard().as_str())
    {
        shards.clear();
    }
    let roles = std::iter::once((&of.hash, "HASH")).chain(of.range.iter().map(|range| (range, "RANGE")));
    let schema = roles.map(|(key, role)| json!({ "AttributeName": key.name, "KeyType": role }));
    Ok(json!({ "StreamDescription": {
        "StreamArn": of.arn(),
        "StreamLabel": of.stream.label,
        "StreamStatus": if of.closed_at_ms.is_some() { "DISABLED" } else { "ENABLED" },
        "StreamViewType": of.stream.view.name(),
        "CreationRequestDateTime": seconds(of.stream.created_at_ms),
        "TableName": of.table,
        "KeySchema": schema.collect::<Vec<_>>(),
        "Shards": shards,
    } }))
}

/// `GetShardIterator`
pub(super) async fn iterator(shared: &Shared, owner: &Owner, request: &Request) -> Result<Json> {
    let members = ["StreamArn", "ShardId", "ShardIteratorType", "SequenceNumber", "Timestamp"];
    request.only("GetShardIterator", &members)?;
    request.check(&[
        Rule::Required("StreamArn"),
        Rule::Required("ShardId"),
        Rule::Required("ShardIteratorType"),
        Rule::OneOf("ShardIteratorType", KINDS),
        ARN,
        SHARD,
        Rule::Length("SequenceNumber", 21, 40),
    ])?;
    let kind = request.text("ShardIteratorType")?.unwrap_or_default();
    let sequence = request.text("SequenceNumber")?;
    let of_sequence = kind.ends_with("_SEQUENCE_NUMBER");
    if of_sequence != sequence.is_some() {
        let words = if of_sequence { "must be specified" } else { "must not be specified" };
        return invalid(format!("SequenceNumber {words} when ShardIteratorType is {kind}"));
    }
    let of = named(shared, owner, request.text("StreamArn")?.unwrap_or_default()).await?;
    let shard = request.text("ShardId")?.unwrap_or_default();
    if shard != of.shard() {
        return Err(Error::NotFound(format!(
            "Requested resource not found: Shard does not exist: {shard} in stream: {}",
            of.arn()
        )));
    }
    let after = match (kind, sequence) {
        ("LATEST", _) => records::latest(shared).await?,
        ("AT_TIMESTAMP", _) => at_time(shared, request, &of).await?,
        (kind, Some(sequence)) => at_sequence(shared, &of, kind, sequence).await?,
        _ => Place::START,
    };
    Ok(json!({ "ShardIterator": Iterator { of: of.arn(), after, issued_ms: shared.clock.now_ms() }.text() }))
}

async fn at_sequence(shared: &Shared, of: &Description, kind: &str, sequence: &str) -> Result<Place> {
    let Some(place) = Place::parse(sequence) else {
        return invalid(format!("Invalid SequenceNumber: {sequence}"));
    };
    let trimmed = records::trimmed(&*shared.store.snapshot().await?, of.stream.number).await?;
    let after = if kind == "AT_SEQUENCE_NUMBER" { place.before() } else { place };
    if after < trimmed {
        return Err(Error::Trimmed(format!(
            "The operation attempted to read past the oldest stream record in a shard. Invalid SequenceNumber: {sequence}"
        )));
    }
    // A place before the beginning is the beginning.
    Ok(after.max(Place { ordinal: 1, ..Place::START }))
}

async fn at_time(shared: &Shared, request: &Request, of: &Description) -> Result<Place> {
    let Some(seconds) = request.get("Timestamp").and_then(Json::as_f64) else {
        return Err(missing("Timestamp"));
    };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates, and is not below zero")]
    let ms = (seconds.max(0.0) * 1_000.0).round() as u64;
    if ms > shared.clock.now_ms() {
        return invalid("Timestamp must not be in the future");
    }
    records::at_time(shared, of, ms).await
}

/// `GetRecords`
pub(super) async fn records(shared: &Shared, owner: &Owner, request: &Request) -> Result<Json> {
    request.only("GetRecords", &["ShardIterator", "Limit"])?;
    request.check(&[Rule::Required("ShardIterator")])?;
    let limit = limit(request, RECORDS_MAX)?;
    let text = request.text("ShardIterator")?.unwrap_or_default();
    let Some(iterator) = Iterator::parse(text) else {
        return Err(constraint(&json!(text), "shardIterator", "Member must be an iterator that was given out"));
    };
    let of = named(shared, owner, &iterator.of).await?;
    let now_ms = shared.clock.now_ms();
    if now_ms.saturating_sub(iterator.issued_ms) > ITERATOR_MS {
        return Err(Error::ExpiredIterator(format!(
            "Iterator expired. The iterator was created at time {} while right now it is {now_ms} which is further in the \
             future than the tolerated delay of {ITERATOR_MS} milliseconds.",
            iterator.issued_ms
        )));
    }
    let found = records::read(shared, &of, iterator.after, limit, RECORDS_BYTES_MAX).await?;
    let shown: Vec<Json> = found.records.iter().map(|(place, record)| record.to_json(&of, *place)).collect();
    let mut output = json!({ "Records": shown });
    if !found.ended {
        output["NextShardIterator"] = json!(Iterator { of: of.arn(), after: found.next, issued_ms: now_ms }.text());
    }
    Ok(output)
}

/// Where a reader is.
#[derive(Debug, PartialEq, Eq)]
struct Iterator {
    /// The stream's ARN.
    of: String,
    after: Place,
    issued_ms: u64,
}

impl Iterator {
    fn text(&self) -> String {
        let Self { of, after, issued_ms } = self;
        let position = BASE64.encode(format!("{}.{}.{issued_ms}", after.commit, after.ordinal));
        format!("{of}|1|{position}")
    }

    fn parse(text: &str) -> Option<Self> {
        let (of, position) = text.split_once("|1|")?;
        let position = String::from_utf8(BASE64.decode(position).ok()?).ok()?;
        let mut numbers = position.splitn(3, '.');
        let after = Place { commit: numbers.next()?.parse().ok()?, ordinal: numbers.next()?.parse().ok()? };
        Some(Self { of: of.into(), after, issued_ms: numbers.next()?.parse().ok()? })
    }
}

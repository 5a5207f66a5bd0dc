//! DescribeLogGroups and DescribeLogStreams.
//!
//! Lists are in order of names; their tokens are the last name shown.

use aws::{Call, Reply};
use serde_json::{Value, json};
use store::Range;

use super::groups::{Group, Stream, decode, find_group, group_arn, group_name, number, refuse, text};
use super::{Error, Logs, keys};

const PAGE_MAX: usize = 50;
const SCAN_ROWS: usize = 500;

impl Logs {
    pub(super) async fn describe_log_groups(&self, call: &Call) -> Result<Reply, Error> {
        refuse(call, &["accountIdentifiers", "includeLinkedAccounts", "logGroupIdentifiers"])?;
        if text(call, "logGroupClass").is_some_and(|class| class != "STANDARD") {
            return Ok(Reply::of(json!({ "logGroups": [] })));
        }
        self.flush().await?;
        let (prefix, part) = (text(call, "logGroupNamePrefix"), text(call, "logGroupNamePattern"));
        if prefix.is_some() && part.is_some() {
            let text = "LogGroup name prefix and LogGroup name pattern are mutually exclusive parameters.";
            return Err(Error::Invalid(text.into()));
        }
        let limit = page_size(call);
        let (account, region) = (&call.principal.account, &call.region);
        let mut range = Range::prefix(keys::groups(account, region).done()).rows(SCAN_ROWS);
        if let Some(token) = text(call, "nextToken") {
            range = range.beyond(keys::group(account, region, token));
        }
        let (mut shown, mut next) = (Vec::new(), None);
        'pages: loop {
            let page = self.store.range(&range).await?;
            for entry in &page.entries {
                let name = keys::group_name(&entry.key).ok_or_else(|| Error::Damaged("a group's key".into()))?;
                let matches = prefix.is_none_or(|prefix| name.starts_with(prefix))
                    && part.is_none_or(|part| name.to_lowercase().contains(&part.to_lowercase()));
                if !matches {
                    continue;
                }
                if shown.len() == limit {
                    next = last_name(&shown, "logGroupName");
                    break 'pages;
                }
                let group: Group = decode(entry)?;
                let arn = group_arn(account, region, &name);
                shown.push(json!({
                    "logGroupName": name,
                    "creationTime": group.created_ms,
                    "retentionInDays": group.retention_days,
                    "metricFilterCount": 0,
                    "arn": format!("{arn}:*"),
                    "storedBytes": self.stored_bytes(group.id).await?,
                    "logGroupClass": "STANDARD",
                    "logGroupArn": arn,
                }));
            }
            match page.entries.last() {
                Some(last) if page.more => range = range.beyond(last.key.clone()),
                _ => break,
            }
        }
        Ok(Reply::of(json!({ "logGroups": without_nulls(shown), "nextToken": next })))
    }

    async fn stored_bytes(&self, group_id: u64) -> Result<u64, Error> {
        let entry = self.store.get(&keys::stored_bytes(group_id)).await?;
        let value = entry.and_then(|entry| entry.value[..].try_into().ok()).map_or(0, i64::from_le_bytes);
        Ok(u64::try_from(value).unwrap_or(0))
    }

    pub(super) async fn describe_log_streams(&self, call: &Call) -> Result<Reply, Error> {
        self.flush().await?;
        let prefix = text(call, "logStreamNamePrefix");
        let by_time = text(call, "orderBy") == Some("LastEventTime");
        if by_time && prefix.is_some() {
            return Err(Error::Invalid("Cannot order by LastEventTime with a logStreamNamePrefix.".into()));
        }
        let descending = call.input.get("descending").and_then(Value::as_bool).unwrap_or(false);
        let snapshot = self.store.snapshot().await?;
        let (_, group) = find_group(&*snapshot, call).await?;
        let mut streams: Vec<(String, Stream)> = Vec::new();
        let mut range = Range::prefix(keys::streams(group.id).done()).rows(SCAN_ROWS);
        loop {
            let page = snapshot.range(&range).await?;
            for entry in &page.entries {
                let name = keys::stream_name(&entry.key).ok_or_else(|| Error::Damaged("a stream's key".into()))?;
                if prefix.is_none_or(|prefix| name.starts_with(prefix)) {
                    streams.push((name, decode(entry)?));
                }
            }
            match page.entries.last() {
                Some(last) if page.more => range = range.beyond(last.key.clone()),
                _ => break,
            }
        }
        if by_time {
            streams.sort_by_key(|(_, stream)| stream.events_ms.map_or(stream.created_ms, |(_, last)| last));
        }
        if descending {
            streams.reverse();
        }
        let skip = match text(call, "nextToken") {
            None => 0,
            Some(token) => {
                let place = streams.iter().position(|(name, _)| name == token);
                place.ok_or_else(|| Error::Invalid("The specified nextToken is invalid.".into()))? + 1
            }
        };
        let limit = page_size(call);
        let more = streams.len() > skip + limit;
        let arn = group_arn(&call.principal.account, &call.region, group_name(call)?);
        let shown: Vec<Value> =
            streams.iter().skip(skip).take(limit).map(|(name, stream)| shown(&arn, name, stream)).collect();
        let next = more.then(|| last_name(&shown, "logStreamName"));
        Ok(Reply::of(json!({ "logStreams": without_nulls(shown), "nextToken": next })))
    }
}

fn shown(group_arn: &str, name: &str, stream: &Stream) -> Value {
    json!({
        "logStreamName": name,
        "creationTime": stream.created_ms,
        "firstEventTimestamp": stream.events_ms.map(|(first, _)| first),
        "lastEventTimestamp": stream.events_ms.map(|(_, last)| last),
        "lastIngestionTime": stream.ingested_ms,
        "uploadSequenceToken": stream.ingested_ms.map(|at_ms| format!("{at_ms:056}")),
        "arn": format!("{group_arn}:log-stream:{name}"),
        // CloudWatch has answered zero for streams since 2019.
        "storedBytes": 0,
    })
}

fn page_size(call: &Call) -> usize {
    number(call, "limit").and_then(|limit| usize::try_from(limit).ok()).unwrap_or(PAGE_MAX).clamp(1, PAGE_MAX)
}

fn last_name(shown: &[Value], member: &str) -> Option<String> {
    shown.last().and_then(|last| last[member].as_str()).map(str::to_owned)
}

fn without_nulls(mut shown: Vec<Value>) -> Vec<Value> {
    for value in &mut shown {
        if let Value::Object(members) = value {
            members.retain(|_, value| !value.is_null());
        }
    }
    shown
}

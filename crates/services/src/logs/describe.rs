//! DescribeLogGroups and DescribeLogStreams.
//!
//! Lists are in order of names, and streams also in that of their last events; tokens are the place of what was shown last.

use std::collections::BTreeMap;

use aws::{Call, Reply};
use serde_json::{Value, json};
use store::{Entry, Range, Snapshot};

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
        let mut range = Range::prefix(keys::groups_with(account, region, prefix.unwrap_or_default())).rows(SCAN_ROWS);
        if let Some(token) = text(call, "nextToken") {
            if !token.starts_with(prefix.unwrap_or_default()) {
                return Err(wrong_token());
            }
            range = range.beyond(keys::group(account, region, token));
        }
        let (mut shown, mut next) = (Vec::new(), None);
        'pages: loop {
            let page = self.store.range(&range).await?;
            for entry in &page.entries {
                let name = keys::group_name(&entry.key).ok_or_else(|| Error::Damaged("a group's key".into()))?;
                if part.is_some_and(|part| !name.to_lowercase().contains(&part.to_lowercase())) {
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
        let limit = page_size(call);
        let token = text(call, "nextToken");
        let (streams, next) = if by_time {
            by_last_event(&*snapshot, group.id, token, descending, limit).await?
        } else {
            by_name(&*snapshot, group.id, prefix.unwrap_or_default(), token, descending, limit).await?
        };
        let arn = group_arn(&call.principal.account, &call.region, group_name(call)?);
        let shown: Vec<Value> = streams.iter().map(|(name, stream)| shown(&arn, name, stream)).collect();
        Ok(Reply::of(json!({ "logStreams": without_nulls(shown), "nextToken": next })))
    }
}

type Named = (String, Stream);

fn named(entry: &Entry) -> Result<Named, Error> {
    let name = keys::stream_name(&entry.key).ok_or_else(|| Error::Damaged("a stream's key".into()))?;
    Ok((name, decode(entry)?))
}

fn wrong_token() -> Error {
    Error::Invalid("The specified nextToken is invalid.".into())
}

/// A page of a group's streams in the order of their names, and the token of the next one. Reads that page only.
async fn by_name(
    snapshot: &dyn Snapshot,
    group_id: u64,
    prefix: &str,
    token: Option<&str>,
    descending: bool,
    limit: usize,
) -> Result<(Vec<Named>, Option<String>), Error> {
    let mut range = Range::prefix(keys::streams_with(group_id, prefix)).rows(limit);
    if descending {
        range = range.reversed();
    }
    if let Some(token) = token {
        if !token.starts_with(prefix) {
            return Err(wrong_token());
        }
        range = range.beyond(keys::stream(group_id, token));
    }
    let page = snapshot.range(&range).await?;
    let streams = page.entries.iter().map(named).collect::<Result<Vec<_>, _>>()?;
    let next = streams.last().filter(|_| page.more).map(|(name, _)| name.clone());
    Ok((streams, next))
}

/// The same in the order of their last events. There is no index of that order, since every line would change it: all
/// streams are read, and the page alone is kept.
async fn by_last_event(
    snapshot: &dyn Snapshot,
    group_id: u64,
    token: Option<&str>,
    descending: bool,
    limit: usize,
) -> Result<(Vec<Named>, Option<String>), Error> {
    let place = |(name, stream): &Named| {
        let at_ms = stream.events_ms.map_or(stream.created_ms, |(_, last)| last);
        // Turned round, the greatest is the first.
        (if descending { u64::MAX - at_ms } else { at_ms }, name.clone())
    };
    // The place, not the stream: one that gets an event between two pages has another place then.
    let parse = |token: &str| -> Option<(u64, String)> {
        let (at, name) = token.split_once('/')?;
        Some((at.parse().ok()?, name.to_owned()))
    };
    let after = token.map(|token| parse(token).ok_or_else(wrong_token)).transpose()?;
    let mut best: BTreeMap<(u64, String), Named> = BTreeMap::new();
    let mut more = false;
    let mut range = Range::prefix(keys::streams(group_id).done()).rows(SCAN_ROWS);
    loop {
        let page = snapshot.range(&range).await?;
        for entry in &page.entries {
            let stream = named(entry)?;
            let place = place(&stream);
            if after.as_ref().is_some_and(|after| place <= *after) {
                continue;
            }
            best.insert(place, stream);
            if best.len() > limit {
                best.pop_last();
                more = true;
            }
        }
        match page.entries.last() {
            Some(last) if page.more => range = range.beyond(last.key.clone()),
            _ => break,
        }
    }
    let next = best.last_key_value().filter(|_| more).map(|((at, name), _)| format!("{at}/{name}"));
    Ok((best.into_values().collect(), next))
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use aws::Service;
    use aws::testing::call;
    use base::{ManualClock, SeededRandom};
    use store::MemoryStore;

    use super::*;

    const NOW_MS: u64 = 1_800_000_000_000;

    async fn ask(logs: &Logs, operation: &'static str, input: Value) -> Value {
        logs.call(call(operation, input)).await.unwrap().output
    }

    /// All names, page by page.
    async fn names(logs: &Logs, input: &Value, pages: usize) -> Vec<String> {
        let mut names = Vec::new();
        let mut token = Value::Null;
        for page in 1..=pages {
            let mut input = input.clone();
            input["nextToken"] = token;
            let output = ask(logs, "DescribeLogStreams", input).await;
            let streams = output["logStreams"].as_array().unwrap();
            names.extend(streams.iter().map(|stream| stream["logStreamName"].as_str().unwrap().to_owned()));
            token = output["nextToken"].clone();
            assert_eq!(token.is_null(), page == pages, "page {page} of {pages}");
        }
        names
    }

    async fn put(logs: &Logs, stream: &str, offset_ms: u64) {
        let events = json!([{"timestamp": NOW_MS + offset_ms, "message": "x"}]);
        ask(logs, "PutLogEvents", json!({"logGroupName": "g", "logStreamName": stream, "logEvents": events})).await;
    }

    async fn with_streams() -> Arc<Logs> {
        let logs = Logs::new(MemoryStore::shared(), ManualClock::at_ms(NOW_MS), SeededRandom::new(1));
        ask(&logs, "CreateLogGroup", json!({"logGroupName": "g"})).await;
        for (stream, offset_ms) in [("b", 50), ("ab", 10), ("a", 40), ("c", 20), ("ac", 30)] {
            ask(&logs, "CreateLogStream", json!({"logGroupName": "g", "logStreamName": stream})).await;
            put(&logs, stream, offset_ms).await;
        }
        logs
    }

    #[tokio::test]
    async fn streams_are_paged_by_name_by_prefix_and_by_last_event() {
        let logs = with_streams().await;
        for (input, pages, wanted) in [
            (json!({"limit": 2}), 3, ["a", "ab", "ac", "b", "c"].as_slice()),
            (json!({"limit": 2, "descending": true}), 3, &["c", "b", "ac", "ab", "a"]),
            (json!({"limit": 2, "logStreamNamePrefix": "a"}), 2, &["a", "ab", "ac"]),
            (json!({"limit": 3, "logStreamNamePrefix": "a", "descending": true}), 1, &["ac", "ab", "a"]),
            (json!({"limit": 2, "orderBy": "LastEventTime"}), 3, &["ab", "c", "ac", "a", "b"]),
            (json!({"limit": 4, "orderBy": "LastEventTime", "descending": true}), 2, &["b", "a", "ac", "c", "ab"]),
            (json!({"logStreamNamePrefix": "nothing"}), 1, &[]),
        ] {
            let mut asked = input.clone();
            asked["logGroupName"] = json!("g");
            assert_eq!(names(&logs, &asked, pages).await, wanted, "{input}");
        }
    }

    #[tokio::test]
    async fn a_stream_that_moves_between_two_pages_does_not_start_the_list_anew() {
        let logs = with_streams().await;
        let newest = json!({"logGroupName": "g", "limit": 2, "orderBy": "LastEventTime", "descending": true});
        let first = ask(&logs, "DescribeLogStreams", newest.clone()).await;
        put(&logs, "a", 60).await;
        let mut input = newest;
        input["nextToken"] = first["nextToken"].clone();
        let second = ask(&logs, "DescribeLogStreams", input).await;
        assert_eq!(second["logStreams"][0]["logStreamName"], "ac");
    }

    #[tokio::test]
    async fn groups_are_paged_under_a_prefix() {
        let logs = with_streams().await;
        for group in ["/a/1", "/a/2", "/a/3", "/b/1"] {
            ask(&logs, "CreateLogGroup", json!({"logGroupName": group})).await;
        }
        let mut input = json!({"logGroupNamePrefix": "/a/", "limit": 2});
        let first = ask(&logs, "DescribeLogGroups", input.clone()).await;
        input["nextToken"] = first["nextToken"].clone();
        let second = ask(&logs, "DescribeLogGroups", input).await;
        assert_eq!(second["logGroups"].as_array().unwrap().len(), 1);
        assert_eq!(second["logGroups"][0]["logGroupName"], "/a/3");
        assert!(second["nextToken"].is_null());
    }
}

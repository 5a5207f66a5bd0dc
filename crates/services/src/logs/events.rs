//! The operations on events: PutLogEvents, GetLogEvents, FilterLogEvents.
//!
//! Tokens are positions, so they need no state, end with nothing, and stay good for ever.

use aws::{Call, Reply};
use model::LogEvent;
use serde_json::{Value, json};

use super::chunk::{EVENT_OVERHEAD_BYTES, Found, Position};
use super::groups::{find_group, find_stream, group_name, number, refuse, text};
use super::pattern::Pattern;
use super::read::{Query, Source};
use super::writer::Target;
use super::{Error, Logs};

const EVENTS_MAX: usize = 10_000;
const PUT_BYTES_MAX: usize = 1024 * 1024;
const DAY_MS: u64 = 24 * 3_600_000;
const TOO_OLD_MS: u64 = 14 * DAY_MS;
const TOO_NEW_MS: u64 = 2 * 3_600_000;
const END: Position = Position { timestamp_ms: u64::MAX, commit: u64::MAX, part: u32::MAX, number: u32::MAX };

fn at(timestamp_ms: u64) -> Position {
    Position { timestamp_ms, ..Position::FIRST }
}

impl Logs {
    pub(super) async fn put_log_events(&self, call: &Call) -> Result<Reply, Error> {
        refuse(call, &["entity"])?;
        let events = put_events(call)?;
        let target = Target {
            account: call.principal.account.clone(),
            region: call.region.clone(),
            group: group_name(call)?.into(),
            stream: text(call, "logStreamName").unwrap_or_default().into(),
        };
        let now_ms = self.clock.now_ms();
        let (oldest, newest) = (now_ms.saturating_sub(TOO_OLD_MS), now_ms + TOO_NEW_MS);
        let old = events.iter().take_while(|event| event.timestamp_ms < oldest).count();
        let good = events.iter().take_while(|event| event.timestamp_ms <= newest).count();
        let total = events.len();
        let accepted: Vec<LogEvent> = events.into_iter().take(good).skip(old).collect();
        if accepted.is_empty() {
            // Nothing to write; that the stream exists is still the caller's to know.
            let snapshot = self.store.snapshot().await?;
            let (_, group) = find_group(&*snapshot, call).await?;
            find_stream(&*snapshot, &group, &target.stream).await?;
        }
        self.commit_durably(&target, accepted).await?;
        let mut output = json!({ "nextSequenceToken": format!("{:056}", now_ms) });
        if old > 0 || good < total {
            let mut rejected = serde_json::Map::new();
            if old > 0 {
                rejected.insert("tooOldLogEventEndIndex".into(), json!(old));
            }
            if good < total {
                rejected.insert("tooNewLogEventStartIndex".into(), json!(good));
            }
            output["rejectedLogEventsInfo"] = Value::Object(rejected);
        }
        Ok(Reply::of(output))
    }

    pub(super) async fn get_log_events(&self, call: &Call) -> Result<Reply, Error> {
        refuse(call, &["unmask"])?;
        self.flush().await?;
        let snapshot = self.store.snapshot().await?;
        let (_, group) = find_group(&*snapshot, call).await?;
        let (_, stream) = find_stream(&*snapshot, &group, text(call, "logStreamName").unwrap_or_default()).await?;
        drop(snapshot);
        let token = text(call, "nextToken").map(get_token).transpose()?;
        let from_head = call.input.get("startFromHead").and_then(Value::as_bool).unwrap_or(false);
        let (mut from, mut until) = (at(number(call, "startTime").unwrap_or(0)), END);
        if let Some(end) = number(call, "endTime") {
            until = at(end);
        }
        let backwards = match token {
            Some((true, position)) => {
                from = from.max(position);
                false
            }
            Some((false, position)) => {
                until = until.min(position);
                true
            }
            None => !from_head,
        };
        let limit = limit(call);
        let source = Source::Stream(group.id, stream.id);
        let query = Query { source, from, until, backwards, limit, wanted: &|_| true };
        let mut events = self.read(&query).await?.events;
        if backwards {
            events.reverse();
        }
        let (first, after) = match (events.first(), events.last(), token) {
            (Some(first), Some(last), _) => (first.position, next(last.position)),
            (_, _, Some((_, position))) => (position, position),
            _ => (Position::FIRST, Position::FIRST),
        };
        let shown = |found: &Found| {
            json!({
                "timestamp": found.position.timestamp_ms,
                "message": found.message,
                "ingestionTime": found.ingested_ms,
            })
        };
        Ok(Reply::of(json!({
            "events": events.iter().map(shown).collect::<Vec<_>>(),
            "nextForwardToken": format!("f/{}", after.text()),
            "nextBackwardToken": format!("b/{}", first.text()),
        })))
    }

    pub(super) async fn filter_log_events(&self, call: &Call) -> Result<Reply, Error> {
        refuse(call, &["unmask"])?;
        self.flush().await?;
        let pattern = Pattern::parse(text(call, "filterPattern").unwrap_or_default())?;
        let names: Option<Vec<&str>> = call
            .input
            .get("logStreamNames")
            .and_then(Value::as_array)
            .map(|names| names.iter().filter_map(Value::as_str).collect());
        let prefix = text(call, "logStreamNamePrefix");
        if names.is_some() && prefix.is_some() {
            return Err(Error::Invalid("logStreamNames and logStreamNamePrefix cannot be used together.".into()));
        }
        let snapshot = self.store.snapshot().await?;
        let (_, group) = find_group(&*snapshot, call).await?;
        let mut source = Source::Group(group.id);
        for name in names.iter().flatten() {
            let (_, stream) = find_stream(&*snapshot, &group, name).await?;
            if names.as_ref().is_some_and(|names| names.len() == 1) {
                source = Source::Stream(group.id, stream.id);
            }
        }
        drop(snapshot);
        let wanted = |found: &Found| {
            names.as_ref().is_none_or(|names| names.contains(&found.stream.as_str()))
                && prefix.is_none_or(|prefix| found.stream.starts_with(prefix))
                && pattern.matches(&found.message)
        };
        let wrong = || Error::Invalid("The specified nextToken is invalid.".into());
        let token = text(call, "nextToken").map(|token| Position::parse(token).ok_or_else(wrong)).transpose()?;
        let start = at(number(call, "startTime").unwrap_or(0));
        // CloudWatch includes the end here, and excludes it in GetLogEvents.
        let until = number(call, "endTime").map_or(END, |end| at(end.saturating_add(1)));
        let from = token.map_or(start, |token| token.max(start));
        let query = Query { source, from, until, backwards: false, limit: limit(call), wanted: &wanted };
        let answer = self.read(&query).await?;
        let shown = |found: &Found| {
            json!({
                "logStreamName": found.stream,
                "timestamp": found.position.timestamp_ms,
                "message": found.message,
                "ingestionTime": found.ingested_ms,
                "eventId": found.position.text(),
            })
        };
        Ok(Reply::of(json!({
            "events": answer.events.iter().map(shown).collect::<Vec<_>>(),
            "searchedLogStreams": [],
            "nextToken": answer.resume.map(Position::text),
        })))
    }
}

/// The position right after one; between the two there is none.
fn next(position: Position) -> Position {
    Position { number: position.number.saturating_add(1), ..position }
}

fn limit(call: &Call) -> usize {
    number(call, "limit").and_then(|limit| usize::try_from(limit).ok()).unwrap_or(EVENTS_MAX).min(EVENTS_MAX)
}

/// Direction (forwards) and position of GetLogEvents' token.
fn get_token(token: &str) -> Result<(bool, Position), Error> {
    let wrong = || Error::Invalid("The specified nextToken is invalid.".into());
    let (direction, position) = token.split_once('/').ok_or_else(wrong)?;
    let position = Position::parse(position).ok_or_else(wrong)?;
    match direction {
        "f" => Ok((true, position)),
        "b" => Ok((false, position)),
        _ => Err(wrong()),
    }
}

fn put_events(call: &Call) -> Result<Vec<LogEvent>, Error> {
    let members = call.input.get("logEvents").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let event = |member: &Value| LogEvent {
        timestamp_ms: member["timestamp"].as_u64().unwrap_or_default(),
        message: member["message"].as_str().unwrap_or_default().to_owned(),
    };
    let events: Vec<LogEvent> = members.iter().map(event).collect();
    let bytes: usize = events.iter().map(|event| event.message.len() + EVENT_OVERHEAD_BYTES).sum();
    if bytes > PUT_BYTES_MAX {
        return Err(Error::Invalid(format!("Upload too large: {bytes} bytes exceeds limit of {PUT_BYTES_MAX}")));
    }
    if events.windows(2).any(|pair| pair[0].timestamp_ms > pair[1].timestamp_ms) {
        let text = "Log events in a single PutLogEvents request must be in chronological order.";
        return Err(Error::Invalid(text.into()));
    }
    match (events.first(), events.last()) {
        (Some(first), Some(last)) if last.timestamp_ms - first.timestamp_ms > DAY_MS => {
            let text = "The batch of log events in a single PutLogEvents request cannot span more than 24 hours.";
            Err(Error::Invalid(text.into()))
        }
        _ => Ok(events),
    }
}

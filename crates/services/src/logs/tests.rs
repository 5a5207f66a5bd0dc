//! Logs as functions write them and as tools read them.

use std::time::Duration;

use aws::testing::call;
use base::{ManualClock, SeededRandom};
use model::{AccountId, LogEvent, Region};
use serde_json::{Value, json};
use store::MemoryStore;

use super::*;

const NOW_MS: u64 = 1_800_000_000_000;

fn logs() -> (Arc<Logs>, Arc<ManualClock>) {
    let clock = ManualClock::at_ms(NOW_MS);
    (Logs::new(MemoryStore::shared(), clock.clone(), SeededRandom::new(1)), clock)
}

async fn ask(logs: &Logs, operation: &'static str, input: Value) -> Result<Value, aws::Error> {
    logs.call(call(operation, input)).await.map(|reply| reply.output)
}

fn batch(stream: &str, events: &[(u64, &str)]) -> LogBatch {
    let event =
        |(offset, message): &(u64, &str)| LogEvent { timestamp_ms: NOW_MS + offset, message: (*message).into() };
    LogBatch {
        account: AccountId::default(),
        region: Region::default(),
        group: "/aws/lambda/f".into(),
        stream: stream.into(),
        events: events.iter().map(event).collect(),
    }
}

/// Messages without the line's end that those of functions have.
fn messages(output: &Value) -> Vec<&str> {
    let events = output["events"].as_array().unwrap().iter();
    events.map(|event| event["message"].as_str().unwrap().trim_end_matches('\n')).collect()
}

#[tokio::test]
async fn lines_of_functions_are_read_in_order_across_streams() {
    let (logs, _) = logs();
    logs.append(batch("a", &[(0, "a0"), (20, "a20"), (20, "a20 again")])).await;
    logs.append(batch("b", &[(10, "b10")])).await;
    logs.flush().await.unwrap();
    logs.append(batch("b", &[(5, "b5"), (100_000, "b later")])).await;
    let all = ask(&logs, "FilterLogEvents", json!({"logGroupName": "/aws/lambda/f"})).await.unwrap();
    assert_eq!(messages(&all), ["a0", "b5", "b10", "a20", "a20 again", "b later"]);
    assert_eq!(all["events"][1]["logStreamName"], "b");
    assert!(all["nextToken"].is_null());
    let input = json!({"logGroupName": "/aws/lambda/f", "logStreamNamePrefix": "a", "filterPattern": "again"});
    assert_eq!(messages(&ask(&logs, "FilterLogEvents", input).await.unwrap()), ["a20 again"]);
    let input = json!({"logGroupName": "/aws/lambda/f", "startTime": NOW_MS + 5, "endTime": NOW_MS + 10});
    assert_eq!(messages(&ask(&logs, "FilterLogEvents", input).await.unwrap()), ["b5", "b10"]);
    let groups = ask(&logs, "DescribeLogGroups", json!({"logGroupNamePrefix": "/aws/"})).await.unwrap();
    assert_eq!(groups["logGroups"][0]["storedBytes"], 6 * (26 + 1) + 26);
    assert_eq!(all["events"][0]["message"], "a0\n");
    let streams = json!({"logGroupName": "/aws/lambda/f", "orderBy": "LastEventTime", "descending": true});
    let streams = ask(&logs, "DescribeLogStreams", streams).await.unwrap();
    assert_eq!(streams["logStreams"][0]["logStreamName"], "b");
    assert_eq!(streams["logStreams"][1]["lastEventTimestamp"], NOW_MS + 20);
}

#[tokio::test]
async fn pages_are_seamless_in_both_directions() {
    let (logs, _) = logs();
    let texts: Vec<String> = (0..250).map(|number| format!("{number:03}")).collect();
    // Several chunks with the same and with distant times.
    for (part, texts) in texts.chunks(40).enumerate() {
        let events: Vec<(u64, &str)> =
            texts.iter().enumerate().map(|(n, text)| (part as u64 * 50_000 + n as u64 / 10, text.as_str())).collect();
        logs.append(batch("s", &events)).await;
        logs.flush().await.unwrap();
    }
    for operation in ["FilterLogEvents", "GetLogEvents"] {
        let mut found: Vec<String> = Vec::new();
        let mut token = Value::Null;
        loop {
            let mut input = json!({"logGroupName": "/aws/lambda/f", "limit": 33});
            if operation == "GetLogEvents" {
                input["logStreamName"] = json!("s");
                input["startFromHead"] = json!(true);
            }
            if !token.is_null() {
                input["nextToken"] = token.clone();
            }
            let page = ask(&logs, operation, input).await.unwrap();
            found.extend(messages(&page).into_iter().map(str::to_owned));
            let next = page.get("nextToken").or_else(|| page.get("nextForwardToken")).cloned().unwrap_or_default();
            if next.is_null() || next == token {
                break;
            }
            token = next;
        }
        assert_eq!(found, texts, "{operation}");
    }
    let (mut found, mut token): (Vec<String>, Value) = (Vec::new(), Value::Null);
    loop {
        let mut input = json!({"logGroupName": "/aws/lambda/f", "logStreamName": "s", "limit": 33});
        if !token.is_null() {
            input["nextToken"] = token.clone();
        }
        let page = ask(&logs, "GetLogEvents", input).await.unwrap();
        let mut events: Vec<String> = messages(&page).into_iter().map(str::to_owned).collect();
        events.append(&mut found);
        found = events;
        if page["nextBackwardToken"] == token {
            break;
        }
        token = page["nextBackwardToken"].clone();
    }
    assert_eq!(found, texts);
}

#[tokio::test]
async fn a_forward_token_sees_what_comes_later() {
    let (logs, _) = logs();
    logs.append(batch("s", &[(0, "one")])).await;
    let input = json!({"logGroupName": "/aws/lambda/f", "logStreamName": "s"});
    let page = ask(&logs, "GetLogEvents", input.clone()).await.unwrap();
    assert_eq!(messages(&page), ["one"]);
    logs.append(batch("s", &[(0, "two"), (1, "three")])).await;
    let mut input = input;
    input["nextToken"] = page["nextForwardToken"].clone();
    assert_eq!(messages(&ask(&logs, "GetLogEvents", input).await.unwrap()), ["two", "three"]);
}

#[tokio::test]
async fn put_log_events_checks_and_acknowledges() {
    let (logs, _) = logs();
    let put = async |events: Value| {
        ask(&logs, "PutLogEvents", json!({"logGroupName": "g", "logStreamName": "s", "logEvents": events})).await
    };
    let event = |offset: i64, message: &str| json!({"timestamp": NOW_MS as i64 + offset, "message": message});
    assert_eq!(put(json!([event(0, "x")])).await.unwrap_err().message, "The specified log group does not exist.");
    ask(&logs, "CreateLogGroup", json!({"logGroupName": "g"})).await.unwrap();
    assert_eq!(put(json!([event(0, "x")])).await.unwrap_err().message, "The specified log stream does not exist.");
    ask(&logs, "CreateLogStream", json!({"logGroupName": "g", "logStreamName": "s"})).await.unwrap();
    let again = ask(&logs, "CreateLogStream", json!({"logGroupName": "g", "logStreamName": "s"})).await.unwrap_err();
    assert_eq!(again.code, "ResourceAlreadyExistsException");
    assert!(put(json!([event(0, "x")])).await.unwrap()["nextSequenceToken"].is_string());
    assert!(put(json!([event(1, "x"), event(0, "y")])).await.unwrap_err().message.contains("chronological"));
    let days = 24 * 3_600_000;
    let reply = put(json!([event(-15 * days, "old")])).await.unwrap();
    assert_eq!(reply["rejectedLogEventsInfo"]["tooOldLogEventEndIndex"], 1);
    let reply = put(json!([event(1, "now"), event(days / 2, "new")])).await.unwrap();
    assert_eq!(reply["rejectedLogEventsInfo"]["tooNewLogEventStartIndex"], 1);
    let all = ask(
        &logs,
        "GetLogEvents",
        json!({"logGroupIdentifier": "arn:aws:logs:us-east-1:000000000000:log-group:g:*", "logStreamName": "s"}),
    );
    let all = all.await.unwrap();
    assert_eq!(messages(&all), ["x", "now"]);
    assert_eq!(all["events"][0]["message"], "x");
}

#[tokio::test]
async fn what_is_deleted_does_not_come_back_under_its_name() {
    let (logs, _) = logs();
    logs.append(batch("s", &[(0, "old")])).await;
    logs.append(batch("t", &[(0, "kept")])).await;
    ask(&logs, "DeleteLogStream", json!({"logGroupName": "/aws/lambda/f", "logStreamName": "s"})).await.unwrap();
    let all = async || ask(&logs, "FilterLogEvents", json!({"logGroupName": "/aws/lambda/f"})).await;
    assert_eq!(messages(&all().await.unwrap()), ["kept"]);
    ask(&logs, "DeleteLogGroup", json!({"logGroupName": "/aws/lambda/f"})).await.unwrap();
    assert_eq!(all().await.unwrap_err().code, "ResourceNotFoundException");
    logs.append(batch("s", &[(0, "new")])).await;
    assert_eq!(messages(&all().await.unwrap()), ["new"]);
    logs.housekeeping().await.unwrap();
    let left = logs.store.range(&store::Range::prefix(keys::dead_groups())).await.unwrap();
    assert!(left.entries.is_empty());
    assert_eq!(messages(&all().await.unwrap()), ["new"]);
}

#[tokio::test]
async fn retention_removes_what_is_old_and_its_bytes() {
    let (logs, clock) = logs();
    logs.append(batch("s", &[(0, "old")])).await;
    logs.flush().await.unwrap();
    let wrong = ask(&logs, "PutRetentionPolicy", json!({"logGroupName": "/aws/lambda/f", "retentionInDays": 2})).await;
    assert_eq!(wrong.unwrap_err().code, "InvalidParameterException");
    ask(&logs, "PutRetentionPolicy", json!({"logGroupName": "/aws/lambda/f", "retentionInDays": 1})).await.unwrap();
    clock.advance(Duration::from_secs(24 * 3_600 + 1));
    logs.append(batch("s", &[(24 * 3_600_000, "new")])).await;
    logs.flush().await.unwrap();
    logs.housekeeping().await.unwrap();
    let all = ask(&logs, "FilterLogEvents", json!({"logGroupName": "/aws/lambda/f"})).await.unwrap();
    assert_eq!(messages(&all), ["new"]);
    let groups = ask(&logs, "DescribeLogGroups", json!({})).await.unwrap();
    assert_eq!(
        (&groups["logGroups"][0]["storedBytes"], &groups["logGroups"][0]["retentionInDays"]),
        (&json!(30), &json!(1))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_writer_drops_no_line_of_many_environments() {
    let logs = Logs::new(MemoryStore::shared(), base::SystemClock::shared(), SeededRandom::new(1));
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let runner = tokio::spawn({
        let logs = logs.clone();
        async move {
            logs.run(async {
                let _ = stopped.await;
            })
            .await;
        }
    });
    let environments: Vec<_> = (0..10)
        .map(|environment| {
            let logs = logs.clone();
            tokio::spawn(async move {
                for line in 0..100u64 {
                    // Together more than may wait: some appends have to wait for the writer.
                    let message = format!("{line:03}{}", "x".repeat(30_000));
                    logs.append(batch(&format!("s{environment}"), &[(line, &message)])).await;
                }
            })
        })
        .collect();
    for environment in environments {
        environment.await.unwrap();
    }
    stop.send(()).unwrap();
    runner.await.unwrap();
    for environment in 0..10 {
        let (mut lines, mut token) = (Vec::new(), Value::Null);
        loop {
            let mut input = json!({"logGroupName": "/aws/lambda/f", "logStreamName": format!("s{environment}"), "startFromHead": true});
            if !token.is_null() {
                input["nextToken"] = token.clone();
            }
            let page = ask(&logs, "GetLogEvents", input).await.unwrap();
            lines.extend(messages(&page).into_iter().map(|message| message[..3].parse::<u64>().unwrap()));
            if page["nextForwardToken"] == token {
                break;
            }
            token = page["nextForwardToken"].clone();
        }
        assert_eq!(lines, (0..100).collect::<Vec<_>>());
    }
}

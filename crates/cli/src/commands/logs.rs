//! `dunlin logs NAME [-f]`: the log of a function, oldest line first.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{Result, bail};
use base::SystemClock;
use serde_json::{Value as Json, json};

use crate::client::{Client, found};
use crate::output;

/// Flags of `dunlin logs`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Function name, or a log group that starts with /
    name: String,
    /// Go on showing new lines
    #[arg(short, long)]
    follow: bool,
    /// How far back: 30s, 10m, 2h, 1d
    #[arg(long, default_value = "1h", value_name = "TIME", value_parser = span_ms)]
    since: u64,
    /// CloudWatch Logs filter pattern, such as ERROR
    #[arg(long, value_name = "PATTERN")]
    filter: Option<String>,
    /// Region of the function
    #[arg(long, default_value = "us-east-1")]
    region: String,
    /// One JSON document a line
    #[arg(long)]
    json: bool,
}

const POLL: Duration = Duration::from_millis(500);

/// Shows the log; with `-f` until interrupted.
pub fn run(client: &Client, args: &Args) -> Result<()> {
    let place = place(client, args)?;
    let group = &place.group;
    let mut from = SystemClock::shared().now_ms().saturating_sub(args.since);
    let mut seen: HashSet<String> = HashSet::new();
    let mut told = false;
    loop {
        let events = events(client, args, &place, from)?;
        if events.is_none() && !args.follow {
            bail!("there is no log group {group}; has the function run?");
        }
        if events.is_none() && !told {
            output::say(&format!("waiting for the first line of {group}"));
            told = true;
        }
        let mut newest = from;
        let mut current = HashSet::new();
        for event in events.unwrap_or_default() {
            let id = event["eventId"].as_str().unwrap_or("").to_owned();
            let at = event["timestamp"].as_u64().unwrap_or(0);
            if !seen.contains(&id) {
                show(&event, args.json);
            }
            newest = newest.max(at);
            current.insert(id);
        }
        if !args.follow {
            return Ok(());
        }
        // Lines of one environment may come later than those of another: look back a little, show each once.
        from = from.max(newest.saturating_sub(10_000));
        seen = current;
        std::thread::sleep(POLL);
    }
}

/// Where lines of a log are.
struct Place {
    group: String,
    /// What the names of its streams have in them, where the group holds those of others too.
    mark: Option<String>,
}

/// The log group that was named, or that of the function.
fn place(client: &Client, args: &Args) -> Result<Place> {
    if args.name.starts_with('/') {
        return Ok(Place { group: args.name.clone(), mark: None });
    }
    let usual = format!("/aws/lambda/{}", args.name);
    let path = format!("/2015-03-31/functions/{}/configuration", args.name);
    let function = found(client.rest("lambda", &args.region, http::Method::GET, &path, None))?;
    // The log outlives its function.
    let group = function.as_ref().and_then(|function| function["LoggingConfig"]["LogGroup"].as_str());
    Ok(match group {
        Some(group) if group != usual => Place { group: group.to_owned(), mark: Some(format!("/{}[", args.name)) },
        _ => Place { group: usual, mark: None },
    })
}

fn events(client: &Client, args: &Args, place: &Place, from: u64) -> Result<Option<Vec<Json>>> {
    let mut all = Vec::new();
    let mut input = json!({"logGroupName": place.group, "startTime": from});
    if let Some(pattern) = &args.filter {
        input["filterPattern"] = json!(pattern);
    }
    loop {
        let Some(page) = found(client.json("logs", "Logs_20140328.FilterLogEvents", &args.region, &input))? else {
            return Ok(None);
        };
        let stream = |event: &Json, mark: &String| {
            event["logStreamName"].as_str().is_some_and(|name| name.contains(mark.as_str()))
        };
        let events = page["events"].as_array().into_iter().flatten();
        all.extend(events.filter(|event| place.mark.as_ref().is_none_or(|mark| stream(event, mark))).cloned());
        match page["nextToken"].as_str() {
            Some(token) => input["nextToken"] = json!(token),
            None => return Ok(Some(all)),
        }
    }
}

fn show(event: &Json, as_json: bool) {
    if as_json {
        return output::data(&event.to_string());
    }
    let at = event["timestamp"].as_i64().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    let at = at.map(|at| at.strftime("%H:%M:%S%.3f").to_string()).unwrap_or_default();
    output::data(&format!("{at}  {}", event["message"].as_str().unwrap_or("").trim_end()));
}

/// Milliseconds of `30s`, `10m`, `2h`, `1d`.
fn span_ms(text: &str) -> Result<u64, String> {
    let unit = text.chars().last().unwrap_or(' ');
    let factor = match unit {
        's' => 1_000,
        'm' => 60_000,
        'h' => 3_600_000,
        'd' => 86_400_000,
        _ => return Err(format!("{text:?} is no time; write 30s, 10m, 2h or 1d")),
    };
    let number: u64 =
        text[..text.len() - 1].parse().map_err(|_| format!("{text:?} is no time; write 30s, 10m, 2h or 1d"))?;
    Ok(number.saturating_mul(factor))
}

#[cfg(test)]
mod tests {
    #[test]
    fn spans_have_units() {
        assert_eq!(super::span_ms("10m"), Ok(600_000));
        for wrong in ["", "10", "m", "x s", "1µ"] {
            assert!(super::span_ms(wrong).is_err(), "{wrong}");
        }
    }
}

//! `dunlin events`: what became of asynchronous events.

use anyhow::Result;
use serde_json::Value as Json;

use crate::client::Client;
use crate::output;

/// Flags of `dunlin events`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Lists functions with their events.
pub fn run(client: &Client, args: &Args) -> Result<()> {
    let answer = client.admin("/_dunlin/events")?;
    if args.json {
        output::data(&answer.to_string());
        return Ok(());
    }
    let functions = answer["functions"].as_array().map_or(&[][..], Vec::as_slice);
    if functions.is_empty() {
        output::say("There was no asynchronous event since the server started, and none waits.");
        return Ok(());
    }
    output::table(
        &["FUNCTION", "RECEIVED", "WAITING", "RUNNING", "OLDEST", "MEAN AGE", "DROPPED", "UNDELIVERED"],
        &functions.iter().map(row).collect::<Vec<_>>(),
    );
    if answer["more"] == true {
        output::say("More wait or run than were counted.");
    }
    Ok(())
}

fn row(function: &Json) -> Vec<String> {
    let count = |value: &Json| value.as_u64().unwrap_or(0).to_string();
    let time = |value: &Json| value.as_u64().map_or("-".into(), |ms| format!("{ms} ms"));
    let dropped: u64 =
        function["asyncEventsDropped"].as_object().map_or(0, |reasons| reasons.values().filter_map(Json::as_u64).sum());
    vec![
        function["function"].as_str().unwrap_or("-").to_owned(),
        count(&function["asyncEventsReceived"]),
        count(&function["waiting"]),
        count(&function["running"]),
        time(&function["oldestMs"]),
        time(&function["asyncEventAge"]["meanMs"]),
        dropped.to_string(),
        count(&function["destinationDeliveryFailures"]),
    ]
}

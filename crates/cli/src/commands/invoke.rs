//! `dunlin invoke NAME`: one call, its answer on standard output.

use anyhow::{Context, Result};
use base64::Engine;
use http::Method;

use crate::client::Client;
use crate::output;

/// Flags of `dunlin invoke`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Function name or ARN
    name: String,
    /// The event: JSON, @FILE, or - for standard input
    #[arg(short, long, default_value = "{}", value_name = "JSON")]
    data: String,
    /// Accept the event and do not wait for the answer
    #[arg(long)]
    event: bool,
    /// Show the call's log
    #[arg(short, long)]
    log: bool,
    /// Region of the function
    #[arg(long, default_value = "us-east-1")]
    region: String,
    /// Print one JSON document: status, functionError, version, requestId, payload
    #[arg(long)]
    json: bool,
}

/// Calls the function. Returns whether it succeeded.
pub fn run(client: &Client, args: &Args) -> Result<bool> {
    let payload = read(&args.data)?;
    let name = percent_encoding::utf8_percent_encode(&args.name, percent_encoding::NON_ALPHANUMERIC);
    let kind = if args.event { "Event" } else { "RequestResponse" };
    let tail = if args.log && !args.event { "Tail" } else { "None" };
    let headers = [("x-amz-invocation-type", kind), ("x-amz-log-type", tail), ("content-type", "application/json")];
    let answer = client.send(
        "lambda",
        &args.region,
        Method::POST,
        &format!("/2015-03-31/functions/{name}/invocations"),
        &headers,
        &payload,
    )?;
    if answer.status >= 300 {
        let json: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let text = |name: &str| json.get(name).and_then(|v| v.as_str());
        let message = text("message")
            .or(text("Message"))
            .map_or_else(|| String::from_utf8_lossy(&answer.body).into_owned(), str::to_owned);
        let code = answer.headers.get("x-amzn-errortype").map_or("", String::as_str);
        anyhow::bail!(
            "{code}: {message}\n`aws --endpoint-url {} lambda list-functions` shows the functions there are.",
            client.endpoint
        );
    }
    let failed = answer.headers.get("x-amz-function-error");
    if args.json {
        let payload: serde_json::Value = serde_json::from_slice(&answer.body)
            .unwrap_or_else(|_| String::from_utf8_lossy(&answer.body).into_owned().into());
        let document = serde_json::json!({
            "status": answer.status, "functionError": failed, "version": answer.headers.get("x-amz-executed-version"),
            "requestId": answer.headers.get("x-amzn-requestid"), "payload": payload,
        });
        output::data(&document.to_string());
    } else if !answer.body.is_empty() {
        output::raw(&answer.body);
        output::raw(b"\n");
    }
    if let Some(log) = answer.headers.get("x-amz-log-result") {
        let log = base64::engine::general_purpose::STANDARD.decode(log).context("the log is not base64")?;
        output::say(String::from_utf8_lossy(&log).trim_end());
    }
    if args.event {
        output::say(&format!("accepted as {}", answer.headers.get("x-amzn-requestid").map_or("", String::as_str)));
    }
    if let Some(kind) = failed {
        output::say(&format!("the function failed ({kind})"));
    }
    Ok(failed.is_none())
}

fn read(data: &str) -> Result<Vec<u8>> {
    use std::io::Read;
    if data == "-" {
        let mut bytes = Vec::new();
        std::io::stdin().read_to_end(&mut bytes).context("reading the event from standard input")?;
        return Ok(bytes);
    }
    match data.strip_prefix('@') {
        Some(file) => std::fs::read(file).with_context(|| format!("reading the event from {file}")),
        None => Ok(data.as_bytes().to_vec()),
    }
}

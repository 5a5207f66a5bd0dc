//! `dunlin bill`: what functions used, and what that would cost at AWS's list prices.

use anyhow::Result;
use base::SystemClock;
use serde_json::Value as Json;

use crate::client::Client;
use crate::output;

/// Flags of `dunlin bill`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How many days back
    #[arg(long, default_value_t = 30, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=3_650))]
    days: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Shows the sums of each function.
pub fn run(client: &Client, args: &Args) -> Result<()> {
    let now = SystemClock::shared().now_ms();
    let from = now.saturating_sub(args.days * 86_400_000);
    let answer = client.admin(&format!("/_dunlin/bill?from={from}&to={}", now + 1))?;
    if args.json {
        output::data(&answer.to_string());
        return Ok(());
    }
    let functions = answer["functions"].as_array().map_or(&[][..], Vec::as_slice);
    if functions.is_empty() {
        output::say("Nothing was used: no function has run in this time.");
        return Ok(());
    }
    let number = |row: &Json, name: &str| row[name].as_u64().unwrap_or(0).to_string();
    let rows: Vec<Vec<String>> = functions
        .iter()
        .map(|row| {
            vec![
                row["function"].as_str().unwrap_or("").to_owned(),
                number(row, "requests"),
                number(row, "errors"),
                number(row, "billedMs"),
                format!("{:.6}", row["gbSeconds"].as_f64().unwrap_or(0.0)),
                format!("{:.3}", row["cpuUs"].as_f64().unwrap_or(0.0) / 1e6),
                format!("{:.8}", row["costUsd"].as_f64().unwrap_or(0.0)),
            ]
        })
        .collect();
    output::table(&["FUNCTION", "REQUESTS", "ERRORS", "BILLED MS", "GB-SECONDS", "CPU S", "USD"], &rows);
    output::say(&format!(
        "Total {:.8} USD at AWS's list prices, free tier not counted. Here it costs nothing.",
        answer["totalUsd"].as_f64().unwrap_or(0.0)
    ));
    Ok(())
}

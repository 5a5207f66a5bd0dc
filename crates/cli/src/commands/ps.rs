//! `dunlin ps`: the environments that are running.

use anyhow::Result;
use serde_json::Value as Json;

use crate::client::Client;
use crate::output;

/// Flags of `dunlin ps`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Lists environments.
pub fn run(client: &Client, args: &Args) -> Result<()> {
    let answer = client.admin("/_dunlin/ps")?;
    if args.json {
        output::data(&answer.to_string());
        return Ok(());
    }
    let environments = answer["environments"].as_array().map_or(&[][..], Vec::as_slice);
    if environments.is_empty() {
        output::say("No environment is running: functions start when they are called.");
        return Ok(());
    }
    let text = |row: &Json, name: &str| match &row[name] {
        Json::String(text) => text.clone(),
        Json::Null => "-".into(),
        other => other.to_string(),
    };
    let rows: Vec<Vec<String>> = environments
        .iter()
        .map(|row| {
            let memory = row["memoryBytes"].as_u64().unwrap_or(0).div_ceil(1_048_576);
            let age = row["ageMs"].as_u64().unwrap_or(0) / 1_000;
            vec![
                // Whose it is counts as much as what it is.
                match row["tenant"].as_str() {
                    Some(tenant) => format!("{} for {tenant}", text(row, "function")),
                    None => text(row, "function"),
                },
                text(row, "version"),
                if row["frozen"] == true { "frozen".into() } else { text(row, "state") },
                text(row, "calls"),
                format!("{memory} MB"),
                format!("{age} s"),
            ]
        })
        .collect();
    output::table(&["FUNCTION", "VERSION", "STATE", "CALLS", "MEMORY", "AGE"], &rows);
    Ok(())
}

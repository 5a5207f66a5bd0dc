//! `stream` events: the records of tables' streams reach functions by event source mappings.
//!
//! A mapping of the file is made or changed; others are not the project's, and stay. A table of the same file gives its
//! stream by `!GetAtt TABLE.StreamArn`, which is known once the table is there.

use anyhow::{Context, Result, bail};
use http::Method;
use serde_json::{Map, Value as Json, json};

use super::plan::{self, Action, Step};
use super::project::{Function, Project, StreamEvent};
use crate::client::{Client, found};
use crate::yaml::{Error, Node, Value};

const MAPPINGS: &str = "/2015-03-31/event-source-mappings";

/// Numbers: key, member, least, most.
const NUMBERS: &[(&str, &str, u64, u64)] = &[
    ("batchSize", "BatchSize", 1, 10_000),
    ("batchWindow", "MaximumBatchingWindowInSeconds", 0, 300),
    ("parallelizationFactor", "ParallelizationFactor", 1, 10),
    ("maximumRetryAttempts", "MaximumRetryAttempts", 0, 10_000),
    ("maximumRecordAgeInSeconds", "MaximumRecordAgeInSeconds", 60, 604_800),
    ("tumblingWindowInSeconds", "TumblingWindowInSeconds", 0, 900),
];

/// One `stream` event of the file.
pub fn event(node: &Node) -> Result<StreamEvent, Error> {
    let mut input = Map::new();
    input.insert("StartingPosition".into(), "TRIM_HORIZON".into());
    input.insert("Enabled".into(), true.into());
    let Value::Map(entries) = &node.value else {
        let source = Json::String(node.text("stream")?);
        check_source(node, &source)?;
        return Ok(StreamEvent { source, input });
    };
    // `!GetAtt` and its like are maps as well.
    if entries.iter().any(|(key, _)| key == "Ref" || key.starts_with("Fn::")) {
        return Ok(StreamEvent { source: node.json(), input });
    }
    for (key, value) in entries {
        if let Some((_, member, least, most)) = NUMBERS.iter().find(|(name, ..)| name == key) {
            input.insert((*member).into(), value.integer(key, *least, *most)?.into());
            continue;
        }
        match key.as_str() {
            "arn" => {}
            "type" if value.text(key)? == "dynamodb" => {}
            "startingPosition" => {
                let position = value.text(key)?;
                if position != "TRIM_HORIZON" && position != "LATEST" {
                    return Err(value.error("stream.startingPosition must be TRIM_HORIZON or LATEST"));
                }
                input.insert("StartingPosition".into(), position.into());
            }
            "enabled" => drop(input.insert("Enabled".into(), value.flag(key)?.into())),
            "bisectBatchOnFunctionError" => {
                input.insert("BisectBatchOnFunctionError".into(), value.flag(key)?.into());
            }
            "functionResponseType" => {
                input.insert("FunctionResponseTypes".into(), json!([value.text(key)?]));
            }
            "filterPatterns" => {
                let filters = value.list(key)?.iter().map(|filter| json!({"Pattern": filter.json().to_string()}));
                input.insert("FilterCriteria".into(), json!({"Filters": filters.collect::<Vec<_>>()}));
            }
            other => {
                let known: Vec<&str> = NUMBERS.iter().map(|(name, ..)| *name).collect();
                return Err(value.error(format!(
                    "stream.{other} is not supported here; supported are type: dynamodb, arn, startingPosition, enabled, \
                     bisectBatchOnFunctionError, functionResponseType, filterPatterns, {}",
                    known.join(", ")
                )));
            }
        }
    }
    let Some(arn) = node.get("arn") else { return Err(node.error("stream.arn is missing")) };
    let source = arn.json();
    check_source(arn, &source)?;
    Ok(StreamEvent { source, input })
}

fn check_source(node: &Node, source: &Json) -> Result<(), Error> {
    match source.as_str() {
        Some(arn) if arn.split(':').nth(2) != Some("dynamodb") => {
            Err(node.error(format!("the stream {arn} is not supported yet; supported are those of DynamoDB tables")))
        }
        _ => Ok(()),
    }
}

/// The ARN of a stream; nothing where its table is not there yet.
fn arn(client: &Client, project: &Project, account: &str, source: &Json) -> Result<Option<String>> {
    let path = match &source["Fn::GetAtt"] {
        Json::String(path) => path.clone(),
        Json::Array(parts) => parts.iter().filter_map(Json::as_str).collect::<Vec<_>>().join("."),
        _ => String::new(),
    };
    let Some(id) = path.strip_suffix(".StreamArn") else {
        let value =
            plan::names(project, account).evaluate(source).map_err(|message| anyhow::anyhow!("stream: {message}"))?;
        return Ok(Some(value.as_str().context("a stream's arn must be a text")?.to_owned()));
    };
    let Some(table) = project.tables.iter().find(|table| table.logical_id == id) else {
        bail!("stream: there is no table {id} in this file");
    };
    let input = json!({"TableName": table.name});
    let live = found(client.json("dynamodb", "DynamoDB_20120810.DescribeTable", &project.region, &input))?;
    let Some(live) = live else { return Ok(None) };
    match live["Table"]["LatestStreamArn"].as_str() {
        Some(arn) => Ok(Some(arn.to_owned())),
        None => bail!("the table {} is there and has no stream; give it one, or delete it", table.name),
    }
}

/// The mapping from a stream to a function.
fn live(client: &Client, project: &Project, function: &Function, arn: &str) -> Result<Option<Json>> {
    let path = format!("{MAPPINGS}?FunctionName={}&EventSourceArn={arn}", function.target());
    let listed = found(client.rest("lambda", &project.region, Method::GET, &path, None))?;
    Ok(listed.and_then(|listed| listed["EventSourceMappings"].as_array().and_then(|all| all.first().cloned())))
}

/// Whether a mapping is as the file wants it. Where it begins is for its creation alone.
fn same(live: &Json, wanted: &Map<String, Json>) -> bool {
    let enabled = !live["State"].as_str().unwrap_or_default().starts_with("Disabl");
    wanted.iter().all(|(name, value)| match name.as_str() {
        "StartingPosition" => true,
        "Enabled" => *value == enabled,
        _ => live[name] == *value,
    })
}

/// The steps that are missing for a function.
pub fn steps(client: &Client, project: &Project, account: &str, function: &Function) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    for (index, event) in function.streams.iter().enumerate() {
        let arn = arn(client, project, account, &event.source)?;
        let there = match &arn {
            Some(arn) => live(client, project, function, arn)?,
            None => None,
        };
        let verb = match &there {
            Some(live) if same(live, &event.input) => continue,
            Some(_) => "update",
            None => "create",
        };
        let detail = format!("records of {}", arn.unwrap_or_else(|| "a new table".to_owned()));
        let action = Action::Stream(function.key.clone(), index);
        steps.push(Step { verb, subject: format!("stream of {}", function.name), detail, action });
    }
    Ok(steps)
}

/// Makes or changes a mapping.
pub fn apply(client: &Client, project: &Project, account: &str, key: &str, index: usize) -> Result<()> {
    let function = project.functions.iter().find(|function| function.key == key).context("the function of a stream")?;
    let event = function.streams.get(index).context("the event of a stream")?;
    let arn = arn(client, project, account, &event.source)?.context("the table of the stream is not there")?;
    let mut input = event.input.clone();
    let (method, path) = match live(client, project, function, &arn)? {
        Some(live) => {
            input.remove("StartingPosition");
            (Method::PUT, format!("{MAPPINGS}/{}", live["UUID"].as_str().unwrap_or_default()))
        }
        None => {
            input.insert("EventSourceArn".into(), arn.into());
            (Method::POST, MAPPINGS.to_owned())
        }
    };
    input.insert("FunctionName".into(), function.target().into());
    client.rest("lambda", &project.region, method, &path, Some(&Json::Object(input)))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn read(yaml: &str) -> Result<StreamEvent, Error> {
        event(&Node::parse(Path::new("serverless.yml"), yaml).unwrap())
    }

    #[test]
    fn a_stream_is_a_tables() {
        let event = read("type: dynamodb\narn: !GetAtt T.StreamArn\nbatchSize: 5\nstartingPosition: LATEST\nfilterPatterns:\n  - eventName: [INSERT]\n").unwrap();
        assert!(event.source.get("Fn::GetAtt").is_some(), "{}", event.source);
        assert_eq!((&event.input["BatchSize"], &event.input["StartingPosition"]), (&json!(5), &json!("LATEST")));
        assert_eq!(event.input["FilterCriteria"]["Filters"][0]["Pattern"], r#"{"eventName":["INSERT"]}"#);
        let arn = "arn:aws:dynamodb:us-east-1:000000000000:table/t/stream/x";
        assert_eq!(read(arn).unwrap().source, json!(arn));
        for (yaml, word) in [
            ("type: kinesis\narn: a", "stream.type"),
            ("arn:aws:kinesis:us-east-1:000000000000:stream/s", "those of DynamoDB tables"),
            ("batchSize: 5", "stream.arn is missing"),
            ("arn: a\nconsumer: true", "stream.consumer is not supported"),
            ("arn: arn:aws:dynamodb:r:a:t\nbatchSize: 0", "batchSize"),
        ] {
            let words = read(yaml).unwrap_err().to_string();
            assert!(words.contains(word), "{words}");
        }
    }

    #[test]
    fn a_mapping_is_compared_by_what_the_file_says() {
        let live = json!({"State": "Enabled", "BatchSize": 5, "StartingPosition": "LATEST", "UUID": "u"});
        let mut wanted = Map::new();
        wanted.insert("StartingPosition".into(), "TRIM_HORIZON".into());
        wanted.insert("Enabled".into(), true.into());
        wanted.insert("BatchSize".into(), 5.into());
        assert!(same(&live, &wanted));
        wanted.insert("Enabled".into(), false.into());
        assert!(!same(&live, &wanted));
    }
}

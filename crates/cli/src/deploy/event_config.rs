//! What becomes of the events of the project's functions: the event invoke configuration of what events lead to.

use anyhow::Result;
use http::Method;
use serde_json::{Map, Value as Json, json};

use super::plan::{Action, Step};
use super::project::{Destination, Events, Function, Project};
use crate::client::{Client, found};

/// The path of a function's configuration, or of that of the alias that events lead to.
fn path(function: &Function) -> String {
    let qualifier = function.alias().map_or(String::new(), |alias| format!("?Qualifier={alias}"));
    format!("/2019-09-25/functions/{}/event-invoke-config{qualifier}", function.name)
}

fn arn(project: &Project, account: &str, destination: &Destination) -> String {
    match destination {
        Destination::Arn(arn) => arn.clone(),
        Destination::Function(target) => {
            format!("arn:aws:lambda:{}:{account}:function:{target}", project.region)
        }
    }
}

/// As PutFunctionEventInvokeConfig takes it; nothing where nothing is said.
fn wanted(project: &Project, account: &str, events: &Events) -> Option<Json> {
    if *events == Events::default() {
        return None;
    }
    let mut input = Map::new();
    if let Some(retries) = events.retries {
        input.insert("MaximumRetryAttempts".into(), json!(retries));
    }
    if let Some(age) = events.age_s {
        input.insert("MaximumEventAgeInSeconds".into(), json!(age));
    }
    let destination = |of: &Option<Destination>| match of {
        Some(of) => json!({"Destination": arn(project, account, of)}),
        None => json!({}),
    };
    let config = json!({"OnSuccess": destination(&events.on_success), "OnFailure": destination(&events.on_failure)});
    input.insert("DestinationConfig".into(), config);
    Some(Json::Object(input))
}

/// Whether a configuration is as it is wanted.
fn same(live: &Json, wanted: &Json) -> bool {
    let numbers = ["MaximumRetryAttempts", "MaximumEventAgeInSeconds"];
    let destination = |of: &Json, name: &str| of["DestinationConfig"][name]["Destination"].as_str().map(str::to_owned);
    numbers.iter().all(|name| live[name].as_u64() == wanted[name].as_u64())
        && ["OnSuccess", "OnFailure"].iter().all(|name| destination(live, name) == destination(wanted, name))
}

fn shown(input: &Json) -> String {
    let mut words = Vec::new();
    if let Some(retries) = input["MaximumRetryAttempts"].as_u64() {
        words.push(format!("{retries} retries"));
    }
    if let Some(age) = input["MaximumEventAgeInSeconds"].as_u64() {
        words.push(format!("tried for {age} s"));
    }
    for (name, what) in [("OnSuccess", "successes"), ("OnFailure", "failures")] {
        if let Some(arn) = input["DestinationConfig"][name]["Destination"].as_str() {
            words.push(format!("{what} to {}", arn.split(":function:").last().unwrap_or(arn)));
        }
    }
    words.join(", ")
}

/// The step that is missing for a function.
pub fn step(client: &Client, project: &Project, account: &str, function: &Function) -> Result<Option<Step>> {
    let path = path(function);
    let live = found(client.rest("lambda", &project.region, Method::GET, &path, None))?;
    let subject = format!("events of {}", function.name);
    Ok(match (live, wanted(project, account, &function.events)) {
        (None, None) => None,
        (Some(live), Some(input)) if same(&live, &input) => None,
        (live, Some(input)) => {
            let verb = if live.is_some() { "update" } else { "create" };
            Some(Step { verb, subject, detail: shown(&input), action: Action::Events(path, Some(input)) })
        }
        (Some(_), None) => {
            let detail = "as the platform does it".to_owned();
            Some(Step { verb: "delete", subject, detail, action: Action::Events(path, None) })
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_compared_by_what_it_says() {
        let live = json!({
            "LastModified": 1.5, "MaximumRetryAttempts": 1, "FunctionArn": "x",
            "DestinationConfig": {"OnSuccess": {}, "OnFailure": {"Destination": "arn:aws:lambda:r:a:function:g"}},
        });
        let mut wanted = json!({
            "MaximumRetryAttempts": 1,
            "DestinationConfig": {"OnSuccess": {}, "OnFailure": {"Destination": "arn:aws:lambda:r:a:function:g"}},
        });
        assert!(same(&live, &wanted));
        assert_eq!(shown(&wanted), "1 retries, failures to g");
        wanted["MaximumEventAgeInSeconds"] = json!(60);
        assert!(!same(&live, &wanted));
    }
}

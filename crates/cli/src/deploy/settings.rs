//! What a function of a serverless.yml says beyond its code and routes: its log, network, file system and tags, and what becomes
//! of its events. Pure.
//!
//! A destination names a function of the file by its key, or any by its ARN. Queues, topics and buses are refused with their
//! place until there are such services.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json};

use super::project::{Destination, Events, FileSystem, Image, Project, Vpc};
use crate::yaml::{Error, Node, Value};

/// What `logs` of a function and `logs.lambda` of the provider say, as `LoggingConfig`; the function's word wins.
pub fn logging(
    node: &Node,
    provider: &Node,
    prefix: &str,
    notes: &mut Vec<String>,
) -> Result<Map<String, Json>, Error> {
    const MEMBERS: &[(&str, &str, &[&str])] = &[
        ("logFormat", "LogFormat", &["Text", "JSON"]),
        ("applicationLogLevel", "ApplicationLogLevel", &["TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL"]),
        ("systemLogLevel", "SystemLogLevel", &["DEBUG", "INFO", "WARN"]),
        ("logGroup", "LogGroup", &[]),
    ];
    let mut logging = Map::new();
    let mut read = |source: &Node, place: &str| {
        for (key, value) in source.map(place)? {
            let Some((_, member, values)) = MEMBERS.iter().find(|(name, ..)| name == key) else {
                let known: Vec<&str> = MEMBERS.iter().map(|(name, ..)| *name).collect();
                return Err(value.error(format!("{place}.{key} is not known; there are {}", known.join(", "))));
            };
            let text = value.text(key)?;
            let given = values.iter().find(|known| known.eq_ignore_ascii_case(&text));
            if given.is_none() && !values.is_empty() {
                return Err(
                    value.error(format!("{place}.{key} must be one of {}, here is {text:?}", values.join(", ")))
                );
            }
            logging.insert((*member).to_owned(), given.map_or(Json::String(text), |known| Json::from(*known)));
        }
        Ok(())
    };
    if let Some(logs) = provider.get("logs") {
        for (key, value) in logs.map("provider.logs")? {
            match key.as_str() {
                "lambda" => read(value, "provider.logs.lambda")?,
                "restApi" | "httpApi" | "websocket" | "frameworkLambda" => {
                    let note = format!("provider.logs.{key} has no effect");
                    if !notes.contains(&note) {
                        notes.push(note);
                    }
                }
                other => return Err(value.error(format!("provider.logs.{other} is not known; there is lambda"))),
            }
        }
    }
    if let Some(logs) = node.get("logs") {
        read(logs, &format!("{prefix}logs"))?;
    }
    let has = |member: &str| logging.contains_key(member);
    if logging.get("LogFormat").is_none_or(|format| format == "Text")
        && (has("ApplicationLogLevel") || has("SystemLogLevel"))
    {
        return Err(node.error(format!("{prefix}logs: levels need `logFormat: JSON`")));
    }
    Ok(logging)
}

/// What is said of images that a plugin or the framework would build.
pub const BUILT_IMAGES: &str = "images are not built here: build and push it (or `dunlin images push`), then write its name at `functions.NAME.image`";

/// `image` of the function: its URI, or a map with it.
pub fn image(node: &Node, prefix: &str) -> Result<Option<Image>, Error> {
    let Some(image) = node.get("image") else { return Ok(None) };
    for other in ["handler", "runtime", "layers", "package"] {
        if let Some(other_node) = node.get(other) {
            return Err(other_node.error(format!("{prefix}{other} cannot stand beside {prefix}image, which brings it")));
        }
    }
    let mut found = Image::default();
    let entries = match &image.value {
        Value::Map(_) => image.map("image")?,
        _ => return Ok(Some(Image { uri: uri(image, &image.text("image")?)?, ..found })),
    };
    for (key, value) in entries {
        let texts = || value.list(key)?.iter().map(|item| item.text(key)).collect::<Result<Vec<_>, _>>();
        match key.as_str() {
            "uri" => found.uri = uri(value, &value.text(key)?)?,
            "entryPoint" => found.entrypoint = texts()?,
            "command" => found.command = texts()?,
            "workingDirectory" => found.folder = Some(value.text(key)?),
            "name" => {
                return Err(value.error(format!("{prefix}image.name names an image of provider.ecr: {BUILT_IMAGES}")));
            }
            other => {
                let words = "there are uri, entryPoint, command and workingDirectory";
                return Err(value.error(format!("{prefix}image.{other} is not known; {words}")));
            }
        }
    }
    if found.uri.is_empty() {
        return Err(image.error(format!("{prefix}image.uri is missing")));
    }
    Ok(Some(found))
}

fn uri(node: &Node, text: &str) -> Result<String, Error> {
    match oci::reference::Reference::parse(text) {
        // What has neither host nor tag is, with the framework, a name below provider.ecr.images.
        Some(reference) if reference.registry.is_some() || reference.tag.is_some() || reference.digest.is_some() => {
            Ok(text.to_owned())
        }
        Some(_) => Err(node.error(format!("{text:?} names an image of provider.ecr, or has no tag: {BUILT_IMAGES}"))),
        None => Err(node.error(format!("{text:?} is no name of an image: HOST/NAME:TAG, or NAME:TAG of the platform"))),
    }
}

/// `vpc` of the function, else of the provider. `~` for a function takes it out of the provider's.
pub fn vpc(node: &Node, provider: &Node) -> Result<Vpc, Error> {
    let own = matches!(&node.value, Value::Map(entries) if entries.iter().any(|(key, _)| key == "vpc"));
    let Some(vpc) = (if own { node.get("vpc") } else { provider.get("vpc") }) else { return Ok(Vpc::default()) };
    let mut found = Vpc::default();
    for (key, value) in vpc.map("vpc")? {
        let texts = || value.list(key)?.iter().map(|item| item.text(key)).collect::<Result<Vec<_>, _>>();
        match key.as_str() {
            "securityGroupIds" => found.security_groups = texts()?,
            "subnetIds" => found.subnets = texts()?,
            "ipv6AllowedForDualStack" => found.ipv6 = value.flag(key)?,
            other => {
                return Err(value.error(format!(
                    "vpc.{other} is not known; there are securityGroupIds, subnetIds and ipv6AllowedForDualStack"
                )));
            }
        }
    }
    if found.subnets.is_empty() != found.security_groups.is_empty() {
        return Err(vpc.error("vpc needs securityGroupIds and subnetIds, or none of both"));
    }
    Ok(found)
}

/// `fileSystemConfig`
pub fn file_system(node: &Node) -> Result<Option<FileSystem>, Error> {
    let Some(config) = node.get("fileSystemConfig") else { return Ok(None) };
    let (mut arn, mut path) = (None, None);
    for (key, value) in config.map("fileSystemConfig")? {
        match key.as_str() {
            "arn" => arn = Some(value.text(key)?),
            "localMountPath" => path = Some(value.text(key)?),
            other => {
                let words = "there are arn and localMountPath";
                return Err(value.error(format!("fileSystemConfig.{other} is not known; {words}")));
            }
        }
    }
    match (arn, path) {
        (Some(arn), Some(path)) => Ok(Some(FileSystem { arn, path })),
        _ => Err(config.error("fileSystemConfig needs arn, of an access point, and localMountPath, such as /mnt/data")),
    }
}

/// The provider's tags and the function's, which win.
pub fn tags(node: &Node, provider: &Node) -> Result<BTreeMap<String, String>, Error> {
    let mut tags = BTreeMap::new();
    for source in [provider.get("tags"), node.get("tags")].into_iter().flatten() {
        for (name, value) in source.map("tags")? {
            tags.insert(name.clone(), value.text(name)?);
        }
    }
    Ok(tags)
}

/// What becomes of the function's events.
pub fn events(node: &Node, prefix: &str) -> Result<Events, Error> {
    let number = |name: &str, from, to| node.get(name).map(|found| found.integer(name, from, to)).transpose();
    let mut events = Events {
        retries: number("maximumRetryAttempts", 0, 2)?,
        age_s: number("maximumEventAge", 60, 21_600)?,
        on_success: None,
        on_failure: None,
    };
    let Some(destinations) = node.get("destinations") else { return Ok(events) };
    for (key, value) in destinations.map("destinations")? {
        let place = format!("{prefix}destinations.{key}");
        let destination = Some(destination(value, &place)?);
        match key.as_str() {
            "onSuccess" => events.on_success = destination,
            "onFailure" => events.on_failure = destination,
            _ => return Err(value.error(format!("{place} is not known; there are onSuccess and onFailure"))),
        }
    }
    Ok(events)
}

fn destination(node: &Node, place: &str) -> Result<Destination, Error> {
    let (kind, arn) = match &node.value {
        Value::Map(entries) => {
            if let Some((key, value)) = entries.iter().find(|(key, _)| key != "type" && key != "arn") {
                return Err(value.error(format!("{place}.{key} is not known; there are type and arn")));
            }
            let Some(arn) = node.get("arn") else { return Err(node.error(format!("{place}.arn is missing"))) };
            let kind = node.get("type").map(|kind| kind.text("type")).transpose()?;
            (kind, arn.text(&format!("{place}.arn"))?)
        }
        _ => (None, node.text(place)?),
    };
    let service = arn.strip_prefix("arn:").and_then(|rest| rest.split(':').nth(1));
    if kind.as_deref().is_some_and(|kind| kind != "function") || service.is_some_and(|service| service != "lambda") {
        let what = kind.as_deref().or(service).unwrap_or_default();
        return Err(node.error(format!(
            "{place}: {what} is not supported yet; a destination is a function, by its key in this file or by its ARN"
        )));
    }
    Ok(if service.is_some() { Destination::Arn(arn) } else { Destination::Function(arn) })
}

/// Dead letters need a queue or a topic.
pub fn refuse_dead_letters(node: &Node, prefix: &str) -> Result<(), Error> {
    let Some(on_error) = node.get("onError") else { return Ok(()) };
    Err(on_error.error(format!(
        "{prefix}onError: dead letters go to queues and topics, which are not supported yet; name a function at \
         `destinations: {{onFailure: …}}`, which gets the event and how it failed"
    )))
}

/// Has destinations lead to what the file's keys stand for.
pub fn settle_destinations(project: &mut Project, document: &Node) -> Result<(), Error> {
    let targets: BTreeMap<String, String> =
        project.functions.iter().map(|function| (function.key.clone(), function.target())).collect();
    for function in &mut project.functions {
        let Events { on_success, on_failure, .. } = &mut function.events;
        for (name, destination) in [("onSuccess", on_success), ("onFailure", on_failure)] {
            let Some(Destination::Function(key)) = destination else { continue };
            let Some(target) = targets.get(key) else {
                let place = document.get("functions").and_then(|functions| functions.get(&function.key));
                let place = place.and_then(|node| node.get("destinations")).and_then(|node| node.get(name));
                return Err(place.unwrap_or(document).error(format!(
                    "functions.{}.destinations.{name}: there is no function {key:?} in this file",
                    function.key
                )));
            };
            *destination = Some(Destination::Function(target.clone()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::super::serverless::project;
    use super::*;

    fn read(yaml: &str) -> Result<Project, Error> {
        let document = Node::parse(Path::new("serverless.yml"), yaml)?;
        project(&document, Path::new("/tmp/app"), "dev".into(), "us-east-1".into(), "000000000000")
    }

    fn of_function(lines: &str) -> Result<Project, Error> {
        read(&format!("functions:\n  f:\n    handler: h.main\n{lines}\n  g:\n    handler: g.main\n"))
    }

    #[test]
    fn a_functions_log_is_as_it_or_the_provider_says() {
        let read = |provider: &str, function: &str| {
            super::tests::read(&format!(
                "provider: {{name: aws, logs: {provider}}}\nfunctions:\n  f:\n    handler: h.main\n    logs: {function}\n"
            ))
        };
        let project =
            read("{restApi: true, lambda: {logFormat: json, logGroup: all}}", "{applicationLogLevel: ERROR}").unwrap();
        let logging = Json::Object(project.functions[0].logging.clone());
        assert_eq!(logging, json!({"LogFormat": "JSON", "LogGroup": "all", "ApplicationLogLevel": "ERROR"}));
        assert!(project.notes.contains(&"provider.logs.restApi has no effect".to_owned()));
        let logging = read("{lambda: {logFormat: JSON}}", "{logFormat: Text}").unwrap().functions.remove(0).logging;
        assert_eq!(Json::Object(logging), json!({"LogFormat": "Text"}));
        for (provider, function, word) in [
            ("{lambda: {format: JSON}}", "{}", "provider.logs.lambda.format is not known"),
            ("{lambada: {}}", "{}", "provider.logs.lambada is not known"),
            ("{}", "{logFormat: xml}", "functions.f.logs.logFormat must be one of Text, JSON"),
            ("{}", "{systemLogLevel: WARN}", "levels need `logFormat: JSON`"),
        ] {
            let words = read(provider, function).unwrap_err().to_string();
            assert!(words.contains(word) && words.contains("serverless.yml:"), "{words}");
        }
    }

    #[test]
    fn destinations_are_functions_by_key_or_arn() {
        let arn = "arn:aws:lambda:us-east-1:000000000000:function:other";
        let lines = format!(
            "    maximumRetryAttempts: 0\n    maximumEventAge: 60\n    destinations: {{onSuccess: g, onFailure: {{type: function, arn: {arn}}}}}"
        );
        let events = of_function(&lines).unwrap().functions.remove(0).events;
        let expected = Events {
            retries: Some(0),
            age_s: Some(60),
            on_success: Some(Destination::Function("app-dev-g".into())),
            on_failure: Some(Destination::Arn(arn.into())),
        };
        assert_eq!(events, expected);
        assert_eq!(of_function("").unwrap().functions.remove(0).events, Events::default());
        for (lines, word) in [
            ("    destinations: {onFailure: h}", "there is no function \"h\" in this file"),
            ("    destinations: {onFailure: arn:aws:sqs:us-east-1:000000000000:q}", "sqs is not supported yet"),
            ("    destinations: {onFailure: {type: sns, arn: !Ref T}}", "functions.f.destinations.onFailure"),
            ("    destinations: {onEnd: g}", "functions.f.destinations.onEnd is not known"),
            ("    maximumRetryAttempts: 3", "maximumRetryAttempts"),
            ("    maximumEventAge: 59", "maximumEventAge"),
            ("    onError: arn:aws:sns:us-east-1:000000000000:t", "functions.f.onError: dead letters go to"),
        ] {
            let words = of_function(lines).unwrap_err().to_string();
            assert!(words.contains(word) && words.contains("serverless.yml:"), "{words}");
        }
    }

    #[test]
    fn network_file_system_and_tags_are_read() {
        let yaml = "provider:\n  name: aws\n  tags: {a: 1, b: two}\n  vpc: {securityGroupIds: [sg-1], subnetIds: [subnet-1]}\nfunctions:\n  f:\n    handler: h.main\n    tags: {b: three}\n    fileSystemConfig: {arn: a, localMountPath: /mnt/data}\n  g:\n    handler: g.main\n    vpc: ~\n";
        let project = read(yaml).unwrap();
        let (f, g) = (&project.functions[0], &project.functions[1]);
        let tags: Vec<(&str, &str)> = f.tags.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(tags, [("a", "1"), ("b", "three")]);
        assert_eq!(f.vpc.subnets, ["subnet-1"]);
        assert_eq!(g.vpc, Vpc::default());
        assert_eq!(f.file_system, Some(FileSystem { arn: "a".into(), path: "/mnt/data".into() }));
        for (lines, word) in [
            ("    vpc: {subnetIds: [subnet-1]}", "vpc needs"),
            ("    vpc: {zone: x}", "vpc.zone is not known"),
            ("    fileSystemConfig: {arn: a}", "localMountPath"),
            ("    fileSystemConfig: {root: a}", "fileSystemConfig.root is not known"),
        ] {
            let words = of_function(lines).unwrap_err().to_string();
            assert!(words.contains(word) && words.contains("serverless.yml:"), "{words}");
        }
    }
}

//! serverless.yml (Serverless Framework, version 3) to a `Project`.
//!
//! What the platform does not do is refused with its place; what has no effect yet is a note in the plan. `service:` and
//! `provider:` may be missing: the folder's name and defaults stand in.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value as Json, json};

use super::intrinsics::Names;
use super::project::{Function, HttpRoute, Layer, Project, RestRoute, Table, UrlConfig};
use super::{php, settings, streams, web};
use crate::yaml::{Error, Node, Value};

/// Keys that are read, and keys that the plan notes as having no effect.
struct Keys {
    read: &'static [&'static str],
    noted: &'static [&'static str],
}

const TOP: Keys = Keys {
    read: &[
        "service",
        "provider",
        "functions",
        "resources",
        "custom",
        "params",
        "package",
        "layers",
        "frameworkVersion",
        "configValidationMode",
        "useDotenv",
    ],
    noted: &["plugins", "org", "app", "variablesResolutionMode", "disabledDeprecations", "build"],
};
const PROVIDER: Keys = Keys {
    read: &[
        "name",
        "runtime",
        "stage",
        "region",
        "memorySize",
        "timeout",
        "environment",
        "httpApi",
        "layers",
        "logs",
        "tags",
        "vpc",
    ],
    noted: &[
        "profile",
        "stackName",
        "apiName",
        "architecture",
        "stackTags",
        "versionFunctions",
        "lambdaHashingVersion",
        "logRetentionInDays",
        "iam",
        "iamRoleStatements",
        "role",
        "deploymentBucket",
        "deploymentMethod",
        "endpointType",
        "tracing",
        "apiGateway",
    ],
};
const FUNCTION: Keys = Keys {
    read: &[
        "handler",
        "image",
        "name",
        "runtime",
        "memorySize",
        "timeout",
        "description",
        "environment",
        "events",
        "url",
        "web",
        "package",
        "reservedConcurrency",
        "provisionedConcurrency",
        "snapStart",
        "ephemeralStorageSize",
        "layers",
        "logs",
        "tags",
        "vpc",
        "fileSystemConfig",
        "destinations",
        "maximumRetryAttempts",
        "maximumEventAge",
        "onError",
    ],
    noted: &["architecture", "tracing", "versionFunction", "role", "logRetentionInDays"],
};

const LAYER: Keys = Keys {
    read: &[
        "path",
        "package",
        "name",
        "description",
        "compatibleRuntimes",
        "compatibleArchitectures",
        "licenseInfo",
        "allowedAccounts",
    ],
    noted: &["retain"],
};

/// The project of a resolved document in `folder`.
pub fn project(document: &Node, folder: &Path, stage: String, region: String, account: &str) -> Result<Project, Error> {
    if !matches!(document.value, Value::Map(_)) {
        return Err(document.error(format!("a map with `functions:` was expected, here is {}", document.kind())));
    }
    let mut notes = check_keys(document, &TOP, "")?;
    let service = match document.get("service") {
        Some(node) if node.get("name").is_some() => {
            return Err(node.error("service must be a text; `service: {name: …}` is the old form"));
        }
        Some(node) => name(node, "service")?,
        None => folder_name(folder),
    };
    let empty = Node { at: document.at.clone(), value: Value::Map(Vec::new()) };
    let provider = document.get("provider").unwrap_or(&empty);
    let provider = match &provider.value {
        Value::Text(text) if text == "aws" => &empty,
        _ => provider,
    };
    if let Some(ecr) = provider.get("ecr") {
        return Err(ecr.error(format!("provider.ecr is not supported: {}", settings::BUILT_IMAGES)));
    }
    notes.extend(check_keys(provider, &PROVIDER, "provider.")?);
    if let Some(node) = provider.get("name")
        && node.text("provider.name")? != "aws"
    {
        return Err(node.error("provider.name must be aws"));
    }
    let mut project = Project {
        service,
        stage,
        region,
        root: folder.to_owned(),
        functions: Vec::new(),
        layers: Vec::new(),
        tables: Vec::new(),
        http_api_cors: None,
        notes,
    };
    let payload = http_api(provider, &mut project)?;
    if let Some(resources) = document.get("resources") {
        project.tables = tables(resources, &project, account, &mut Vec::new())?;
    }
    for (key, node) in document.get("layers").map_or(Ok(&[][..]), |node| node.map("layers"))? {
        let layer = layer(key, node, &mut project.notes)?;
        project.layers.push(layer);
    }
    let (patterns, artifact_of_all) = (patterns(document)?, artifact(document)?);
    for (key, node) in document.get("functions").map_or(Ok(&[][..]), |node| node.map("functions"))? {
        let mut function = function(key, node, provider, &mut project, &payload)?;
        function.patterns.splice(0..0, patterns.iter().cloned());
        function.artifact = function.artifact.or_else(|| artifact_of_all.clone());
        project.functions.push(function);
    }
    settings::settle_destinations(&mut project, document)?;
    if project.functions.is_empty() && project.tables.is_empty() && project.layers.is_empty() {
        return Err(document.error("nothing to deploy: `functions:`, `layers:` and `resources:` are missing or empty"));
    }
    Ok(project)
}

/// Refuses unknown keys; returns notes for those without effect.
fn check_keys(node: &Node, keys: &Keys, prefix: &str) -> Result<Vec<String>, Error> {
    let mut notes = Vec::new();
    for (key, value) in node.map(prefix.trim_end_matches('.'))? {
        if keys.read.contains(&key.as_str()) {
            continue;
        }
        if !keys.noted.contains(&key.as_str()) {
            let known = keys.read.join(", ");
            return Err(value.error(format!("{prefix}{key} is not supported; supported here: {known}")));
        }
        let detail = match (key.as_str(), &value.value) {
            ("plugins", Value::List(items)) => {
                let names: Vec<String> = items.iter().filter_map(|item| item.text("a plugin").ok()).collect();
                format!(
                    "plugins are not run ({}); TypeScript and dependencies are handled by the planner",
                    names.join(", ")
                )
            }
            ("iam" | "iamRoleStatements" | "role", _) => format!("{prefix}{key}: policies are not enforced yet"),
            _ => format!("{prefix}{key} has no effect"),
        };
        notes.push(detail);
    }
    Ok(notes)
}

fn http_api(provider: &Node, project: &mut Project) -> Result<String, Error> {
    let Some(node) = provider.get("httpApi") else { return Ok("2.0".into()) };
    let keys =
        Keys { read: &["payload", "cors"], noted: &["name", "metrics", "disableDefaultEndpoint", "useProviderTags"] };
    project.notes.extend(check_keys(node, &keys, "provider.httpApi.")?);
    project.http_api_cors = match node.get("cors") {
        Some(cors) if cors.value == Value::Bool(true) => Some(json!({
            "allowOrigins": ["*"],
            "allowHeaders": ["Content-Type", "X-Amz-Date", "Authorization", "X-Api-Key", "X-Amz-Security-Token", "X-Amz-User-Agent", "X-Amzn-Trace-Id"],
            "allowMethods": ["OPTIONS", "GET", "POST", "PUT", "DELETE", "PATCH"],
        })),
        Some(cors) if cors.value == Value::Bool(false) => None,
        Some(cors) => Some(http_api_cors(cors)?),
        None => None,
    };
    match node.get("payload") {
        Some(payload) => payload_version(payload),
        None => Ok("2.0".into()),
    }
}

fn payload_version(node: &Node) -> Result<String, Error> {
    match node.text("payload")?.as_str() {
        "1.0" | "1" => Ok("1.0".into()),
        "2.0" | "2" => Ok("2.0".into()),
        other => Err(node.error(format!("payload must be '1.0' or '2.0', here is {other:?}"))),
    }
}

fn http_api_cors(cors: &Node) -> Result<Json, Error> {
    let wire = [
        ("allowedOrigins", "allowOrigins"),
        ("allowedHeaders", "allowHeaders"),
        ("allowedMethods", "allowMethods"),
        ("exposedResponseHeaders", "exposeHeaders"),
        ("allowCredentials", "allowCredentials"),
        ("maxAge", "maxAge"),
    ];
    let mut out = serde_json::Map::new();
    for (key, value) in cors.map("provider.httpApi.cors")? {
        let Some((_, name)) = wire.iter().find(|(known, _)| known == key) else {
            return Err(value.error(format!("provider.httpApi.cors.{key} is not known")));
        };
        out.insert((*name).to_owned(), value.json());
    }
    Ok(Json::Object(out))
}

fn patterns(node: &Node) -> Result<Vec<String>, Error> {
    let Some(package) = node.get("package") else { return Ok(Vec::new()) };
    let mut all = Vec::new();
    for (key, value) in package.map("package")? {
        match key.as_str() {
            "patterns" | "include" => {
                all.extend(value.list(key)?.iter().map(|item| item.text(key)).collect::<Result<Vec<_>, _>>()?)
            }
            "exclude" => {
                for item in value.list(key)? {
                    all.push(format!("!{}", item.text(key)?));
                }
            }
            "individually" | "excludeDevDependencies" | "artifact" => {}
            other => {
                let words =
                    format!("package.{other} is not supported; there are package.patterns and package.artifact");
                return Err(value.error(words));
            }
        }
    }
    Ok(all)
}

/// `package.artifact` of the project or of a function.
fn artifact(node: &Node) -> Result<Option<PathBuf>, Error> {
    let artifact = node.get("package").and_then(|package| package.get("artifact"));
    artifact.map(|artifact| artifact.text("package.artifact").map(PathBuf::from)).transpose()
}

fn function(key: &str, node: &Node, provider: &Node, project: &mut Project, payload: &str) -> Result<Function, Error> {
    let prefix = format!("functions.{key}.");
    project.notes.extend(check_keys(node, &FUNCTION, &prefix)?);
    let image = settings::image(node, &prefix)?;
    let handler = match (node.get("handler"), node.get("web"), &image) {
        (Some(handler), ..) => handler.text("handler")?,
        (None, _, Some(_)) => String::new(),
        (None, Some(_), None) => web::HANDLER.to_owned(),
        (None, None, None) => {
            return Err(node.error(format!("{prefix}handler is missing; write `handler: file.export`")));
        }
    };
    let either = |name: &str| node.get(name).or_else(|| provider.get(name));
    let number = |name: &str, from, to, default| either(name).map_or(Ok(default), |node| node.integer(name, from, to));
    let optional = |name: &str, from, to| node.get(name).map(|found| found.integer(name, from, to)).transpose();
    let mut environment = BTreeMap::new();
    for source in [provider.get("environment"), node.get("environment")].into_iter().flatten() {
        for (name, value) in source.map("environment")? {
            match &value.value {
                Value::Null => environment.remove(name),
                Value::Map(_) => environment.insert(name.clone(), value.json()),
                _ => environment.insert(name.clone(), Json::String(value.text(name)?)),
            };
        }
    }
    if let Some(server) = node.get("web") {
        environment.extend(web::variables(server, &prefix, image.is_some())?);
    }
    settings::refuse_dead_letters(node, &prefix)?;
    let mut function = Function {
        key: key.to_owned(),
        name: match node.get("name") {
            Some(given) => given.text("name")?,
            None => format!("{}-{key}", project.stack()),
        },
        handler,
        runtime: either("runtime").map(|node| node.text("runtime")).transpose()?,
        memory_mb: number("memorySize", 128, 10_240, 1_024)?,
        timeout_s: number("timeout", 1, 900, 6)?,
        description: node.get("description").map_or(Ok(String::new()), |node| node.text("description"))?,
        environment,
        layers: if image.is_some() { Vec::new() } else { listed_layers(either("layers"))? },
        image,
        logging: settings::logging(node, provider, &prefix, &mut project.notes)?,
        vpc: settings::vpc(node, provider)?,
        file_system: settings::file_system(node)?,
        tags: settings::tags(node, provider)?,
        events: settings::events(node, &prefix)?,
        reserved_concurrency: optional("reservedConcurrency", 0, 1_000)?,
        provisioned: optional("provisionedConcurrency", 1, 1_000)?,
        snap_start: node.get("snapStart").map_or(Ok(false), |node| node.flag("snapStart"))?,
        tmp_mb: optional("ephemeralStorageSize", 512, 10_240)?,
        rest: Vec::new(),
        http: Vec::new(),
        streams: Vec::new(),
        url: url(node)?,
        patterns: patterns(node)?,
        artifact: artifact(node)?,
    };
    for event in node.get("events").map_or(Ok(&[][..]), |events| events.list("events"))? {
        add_event(&mut function, event, payload)?;
    }
    project.notes.extend(php::adapt(&mut function));
    Ok(function)
}

fn layer(key: &str, node: &Node, notes: &mut Vec<String>) -> Result<Layer, Error> {
    let prefix = format!("layers.{key}.");
    notes.extend(check_keys(node, &LAYER, &prefix)?);
    let artifact = node.get("package").and_then(|package| package.get("artifact"));
    let (path, is_artifact) = match (node.get("path"), artifact) {
        (Some(path), None) => (path.text("path")?, false),
        (None, Some(artifact)) => (artifact.text("package.artifact")?, true),
        _ => return Err(node.error(format!("{prefix}path, a folder, or {prefix}package.artifact, a zip, is needed"))),
    };
    let text = |name: &str| node.get(name).map(|found| found.text(name)).transpose();
    let texts = |name: &str| match node.get(name) {
        Some(list) => list.list(name)?.iter().map(|item| item.text(name)).collect(),
        None => Ok(Vec::new()),
    };
    Ok(Layer {
        key: key.to_owned(),
        name: text("name")?.unwrap_or_else(|| key.to_owned()),
        path: path.into(),
        is_artifact,
        description: text("description")?.unwrap_or_default(),
        runtimes: texts("compatibleRuntimes")?,
        architectures: texts("compatibleArchitectures")?,
        license: text("licenseInfo")?,
        accounts: texts("allowedAccounts")?,
    })
}

/// What a function lists of layers: ARNs, and functions that give one.
fn listed_layers(node: Option<&Node>) -> Result<Vec<Json>, Error> {
    let Some(node) = node else { return Ok(Vec::new()) };
    let one = |item: &Node| match &item.value {
        Value::Map(_) => Ok(item.json()),
        _ => item.text("a layer").map(Json::String),
    };
    node.list("layers")?.iter().map(one).collect()
}

fn url(node: &Node) -> Result<Option<UrlConfig>, Error> {
    let Some(url) = node.get("url") else { return Ok(None) };
    match &url.value {
        Value::Bool(false) => return Ok(None),
        Value::Bool(true) => return Ok(Some(UrlConfig::default())),
        _ => {}
    }
    let mut config = UrlConfig::default();
    for (key, value) in url.map("url")? {
        match (key.as_str(), &value.value) {
            ("authorizer", Value::Text(text)) if text == "aws_iam" => config.auth = "AWS_IAM".into(),
            ("cors", Value::Bool(true)) => {
                config.cors = Some(json!({"AllowOrigins": ["*"], "AllowHeaders": ["*"], "AllowMethods": ["*"]}))
            }
            ("cors", Value::Bool(false)) => {}
            ("invokeMode", Value::Text(text)) if text == "BUFFERED" || text == "RESPONSE_STREAM" => {
                config.stream = text == "RESPONSE_STREAM";
            }
            _ => {
                let words =
                    "supported are `authorizer: aws_iam`, `cors: true` and `invokeMode: BUFFERED` or `RESPONSE_STREAM`";
                return Err(value.error(format!("url.{key}: {words}")));
            }
        }
    }
    Ok(Some(config))
}

fn add_event(function: &mut Function, event: &Node, payload: &str) -> Result<(), Error> {
    let entries = event.map("an event")?;
    let [(kind, node)] = entries else {
        return Err(event.error("an event is a map with one key, such as `- http: {path: /, method: ANY}`"));
    };
    match kind.as_str() {
        "http" => function.rest.push(rest_route(node)?),
        "httpApi" => function.http.push(HttpRoute { key: http_route_key(node)?, payload: payload.to_owned() }),
        "stream" => function.streams.push(streams::event(node)?),
        other => {
            let words = "supported are http, httpApi and stream";
            return Err(node.error(format!("the event {other:?} is not supported yet; {words}")));
        }
    }
    Ok(())
}

const METHODS: &[&str] = &["ANY", "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

fn rest_route(node: &Node) -> Result<RestRoute, Error> {
    let (method, path, cors) = match &node.value {
        Value::Text(text) => match text.split_once(' ') {
            Some((method, path)) => (method.to_owned(), path.trim().to_owned(), false),
            None => return Err(node.error("an http event is `METHOD /path` or {method, path}")),
        },
        _ => {
            for (key, value) in node.map("http")? {
                if !["method", "path", "cors", "integration"].contains(&key.as_str()) {
                    return Err(
                        value.error(format!("http.{key} is not supported yet; supported are method, path and cors"))
                    );
                }
            }
            let required = |key: &str| match node.get(key) {
                Some(value) => value.text(key),
                None => Err(node.error(format!("http.{key} is missing"))),
            };
            if let Some(kind) = node.get("integration") {
                let text = kind.text("integration")?.to_lowercase();
                if !["lambda_proxy", "lambda-proxy", "aws_proxy", "aws-proxy"].contains(&text.as_str()) {
                    return Err(kind
                        .error(format!("http.integration {text:?} is not supported yet; supported is lambda-proxy")));
                }
            }
            let cors = match node.get("cors") {
                Some(value) => value.flag("http.cors")?,
                None => false,
            };
            (required("method")?, required("path")?, cors)
        }
    };
    let method = if method == "*" { "ANY".to_owned() } else { method.to_uppercase() };
    if !METHODS.contains(&method.as_str()) {
        return Err(node.error(format!("{method:?} is no method; there are {}", METHODS.join(", "))));
    }
    Ok(RestRoute { path: format!("/{}", path.trim_matches('/')), method, cors })
}

fn http_route_key(node: &Node) -> Result<String, Error> {
    let (method, path) = match &node.value {
        Value::Text(text) if text == "*" => return Ok("$default".into()),
        Value::Text(text) => match text.split_once(' ') {
            Some((method, path)) => (method.to_owned(), path.trim().to_owned()),
            None => return Err(node.error("an httpApi event is `METHOD /path`, `*`, or {method, path}")),
        },
        _ => {
            for (key, value) in node.map("httpApi")? {
                if !["method", "path"].contains(&key.as_str()) {
                    return Err(
                        value.error(format!("httpApi.{key} is not supported yet; supported are method and path"))
                    );
                }
            }
            let Some(path) = node.get("path") else { return Err(node.error("httpApi.path is missing")) };
            let path = path.text("path")?;
            if path == "*" {
                return Ok("$default".into());
            }
            (node.get("method").map_or(Ok("*".into()), |method| method.text("method"))?, path)
        }
    };
    let method = if method == "*" { "ANY".to_owned() } else { method.to_uppercase() };
    if !METHODS.contains(&method.as_str()) {
        return Err(node.error(format!("{method:?} is no method; there are {}", METHODS.join(", "))));
    }
    Ok(format!("{method} /{}", path.trim_start_matches('/')))
}

/// Tables of `resources:`; fills in what references to them mean.
fn tables(
    resources: &Node,
    project: &Project,
    account: &str,
    names: &mut Vec<(String, String)>,
) -> Result<Vec<Table>, Error> {
    for (key, value) in resources.map("resources")? {
        if !["Resources", "Outputs", "Description", "Conditions", "extensions"].contains(&key.as_str())
            || ["Conditions", "extensions"].contains(&key.as_str())
        {
            return Err(value.error(format!("resources.{key} is not supported")));
        }
    }
    let stack = Names::of_stack(account, &project.region, &project.stack());
    let mut tables = Vec::new();
    for (logical_id, node) in resources.get("Resources").map_or(Ok(&[][..]), |node| node.map("Resources"))? {
        let Some(kind) = node.get("Type") else { return Err(node.error(format!("{logical_id} has no Type"))) };
        let kind_text = kind.text("Type")?;
        if kind_text != "AWS::DynamoDB::Table" {
            return Err(kind.error(format!(
                "resources of type {kind_text} are not supported yet; supported is AWS::DynamoDB::Table"
            )));
        }
        let empty = Node { at: node.at.clone(), value: Value::Map(Vec::new()) };
        let properties = node.get("Properties").unwrap_or(&empty);
        let mut input = stack.evaluate(&properties.json()).map_err(|message| properties.error(message))?;
        let name = match input.get("TableName").and_then(Json::as_str) {
            Some(name) => name.to_owned(),
            None => format!("{}-{logical_id}", project.stack()),
        };
        input["TableName"] = Json::String(name.clone());
        as_create_table(&mut input).map_err(|message| properties.error(message))?;
        names.push((logical_id.clone(), name.clone()));
        tables.push(Table { logical_id: logical_id.clone(), name, input });
    }
    Ok(tables)
}

/// CloudFormation's property names to CreateTable's members.
fn as_create_table(input: &mut Json) -> Result<(), String> {
    let Json::Object(members) = input else { return Err("Properties must be a map".into()) };
    for ignored in ["PointInTimeRecoverySpecification", "ContributorInsightsSpecification", "TimeToLiveSpecification"] {
        if members.contains_key(ignored) {
            return Err(format!("{ignored} is not supported yet; remove it"));
        }
    }
    if !members.contains_key("KeySchema") || !members.contains_key("AttributeDefinitions") {
        return Err("a table needs KeySchema and AttributeDefinitions".into());
    }
    // A template names the view, and has a stream by that alone.
    if let Some(Json::Object(stream)) = members.get_mut("StreamSpecification") {
        stream.insert("StreamEnabled".into(), true.into());
    }
    if !members.contains_key("ProvisionedThroughput") {
        members.entry("BillingMode").or_insert_with(|| "PAY_PER_REQUEST".into());
    }
    // Numbers written as texts are common in templates; the wire wants numbers.
    if let Some(Json::Object(throughput)) = members.get_mut("ProvisionedThroughput") {
        for value in throughput.values_mut() {
            if let Some(number) = value.as_str().and_then(|text| text.parse::<u64>().ok()) {
                *value = number.into();
            }
        }
    }
    Ok(())
}

fn name(node: &Node, what: &str) -> Result<String, Error> {
    let text = node.text(what)?;
    let fits = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if fits {
        Ok(text)
    } else {
        Err(node.error(format!("{what} must be letters, digits and hyphens, starting with a letter; here is {text:?}")))
    }
}

/// A service name out of a folder's name.
pub fn folder_name(folder: &Path) -> String {
    let name = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let cleaned: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let cleaned = cleaned.trim_matches('-');
    if cleaned.starts_with(|c: char| c.is_ascii_alphabetic()) {
        cleaned.to_owned()
    } else {
        format!("app-{cleaned}").trim_end_matches('-').to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(yaml: &str) -> Result<Project, Error> {
        let document = Node::parse(Path::new("serverless.yml"), yaml)?;
        project(&document, Path::new("/tmp/items-api"), "dev".into(), "us-east-1".into(), "000000000000")
    }

    #[test]
    fn the_smallest_file_is_enough() {
        let project = read(
            "functions:\n  create:\n    handler: handler.main\n    events:\n      - http: {path: /, method: ANY}\n",
        )
        .unwrap();
        assert_eq!(project.service, "items-api");
        let function = &project.functions[0];
        assert_eq!(
            (function.name.as_str(), function.memory_mb, function.timeout_s),
            ("items-api-dev-create", 1_024, 6)
        );
        assert_eq!(function.rest, [RestRoute { path: "/".into(), method: "ANY".into(), cors: false }]);
        assert_eq!(function.runtime, None);
    }

    #[test]
    fn tables_routes_and_settings_are_read() {
        let yaml = "service: shop\nprovider:\n  name: aws\n  runtime: nodejs20.x\n  memorySize: 256\n  environment: {A: 1, B: two}\n  iam: {role: {statements: []}}\nfunctions:\n  f:\n    handler: src/f.main\n    timeout: 10\n    environment: {B: null, C: !Ref T}\n    events:\n      - httpApi: 'GET /items/{id}'\n      - httpApi: '*'\n      - http: post items\nresources:\n  Resources:\n    T:\n      Type: AWS::DynamoDB::Table\n      Properties:\n        TableName: ExampleTable\n        AttributeDefinitions: [{AttributeName: id, AttributeType: S}]\n        KeySchema: [{AttributeName: id, KeyType: HASH}]\n        ProvisionedThroughput: {ReadCapacityUnits: 1, WriteCapacityUnits: '1'}\n";
        let project = read(yaml).unwrap();
        let function = &project.functions[0];
        assert_eq!(
            function.http.iter().map(|route| route.key.as_str()).collect::<Vec<_>>(),
            ["GET /items/{id}", "$default"]
        );
        assert_eq!(function.rest[0], RestRoute { path: "/items".into(), method: "POST".into(), cors: false });
        assert_eq!(function.environment["A"], "1");
        assert!(!function.environment.contains_key("B"));
        assert_eq!(function.environment["C"], json!({"Ref": "T"}));
        assert_eq!(project.tables[0].input["ProvisionedThroughput"]["WriteCapacityUnits"], 1);
        assert!(project.notes.iter().any(|note| note.contains("policies are not enforced")));
    }

    #[test]
    fn events_lead_to_what_is_provisioned() {
        let read = |line: &str| read(&format!("functions:\n  f:\n    handler: h.main\n{line}"));
        let function = read("    provisionedConcurrency: 2").unwrap().functions.remove(0);
        assert_eq!((function.provisioned, function.target()), (Some(2), format!("{}:provisioned", function.name)));
        let function = read("").unwrap().functions.remove(0);
        assert_eq!(function.target(), function.name);
        assert!(read("    provisionedConcurrency: 0").is_err());
        let function = read("    snapStart: true").unwrap().functions.remove(0);
        assert_eq!((function.snap_start, function.target()), (true, format!("{}:snapstart", function.name)));
        let both = read("    snapStart: true\n    provisionedConcurrency: 1").unwrap().functions.remove(0);
        assert_eq!((both.snap_start, both.alias()), (true, Some("provisioned")));
        assert_eq!(read("    snapStart: false").unwrap().functions.remove(0).alias(), None);
        assert!(read("    snapStart: PublishedVersions").is_err());
    }

    #[test]
    fn layers_are_read() {
        let yaml = "provider:\n  name: aws\n  layers: ['arn:p:1']\nlayers:\n  my-libs: {path: libs, compatibleRuntimes: [python3.12], allowedAccounts: ['*'], retain: true}\n  ready: {package: {artifact: ready.zip}, name: other}\nfunctions:\n  f: {handler: a.b}\n  g:\n    handler: a.b\n    layers:\n      - arn:x:1\n      - !Ref MyDashlibsLambdaLayer\n";
        let project = read(yaml).unwrap();
        let [libs, ready] = &project.layers[..] else { panic!("two layers") };
        assert_eq!((libs.name.as_str(), libs.logical_id().as_str()), ("my-libs", "MyDashlibsLambdaLayer"));
        assert_eq!(
            (libs.path.to_str(), libs.is_artifact, &libs.accounts[..]),
            (Some("libs"), false, &["*".to_owned()][..])
        );
        assert_eq!((ready.name.as_str(), ready.path.to_str(), ready.is_artifact), ("other", Some("ready.zip"), true));
        assert_eq!(project.functions[0].layers, [json!("arn:p:1")]);
        assert_eq!(project.functions[1].layers, [json!("arn:x:1"), json!({"Ref": "MyDashlibsLambdaLayer"})]);
        assert!(project.notes.iter().any(|note| note == "layers.my-libs.retain has no effect"));
        assert!(read("layers: {a: {name: b}}\n").unwrap_err().message.contains("layers.a.path, a folder"));
    }

    #[test]
    fn an_image_may_be_a_web_server() {
        let project = read("functions:\n  f:\n    image: own:v1\n    web: {port: 3000}\n").unwrap();
        let f = &project.functions[0];
        let shown: Vec<String> = f.environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(f.handler, "");
        assert_eq!(shown, [r#"AWS_LWA_PORT="3000""#, r#"DUNLIN_WEB_CONCURRENCY="80""#]);
        assert!(read("functions:\n  f:\n    image: own:v1\n    web: node server.js\n").is_err());
    }

    #[test]
    fn images_are_read() {
        let yaml = "provider: {name: aws, runtime: nodejs20.x, layers: ['arn:p:1']}\nfunctions:\n  f:\n    image: own:v1\n  g:\n    image: {uri: 'localhost:5000/a@sha256:0000000000000000000000000000000000000000000000000000000000000000', command: [a.b], entryPoint: [/e], workingDirectory: /w}\n";
        let project = read(yaml).unwrap();
        let [f, g] = &project.functions[..] else { panic!() };
        assert_eq!((f.image.as_ref().unwrap().uri.as_str(), f.layers.len()), ("own:v1", 0));
        let image = g.image.as_ref().unwrap();
        assert_eq!(
            (&image.command[0][..], &image.entrypoint[0][..], image.folder.as_deref()),
            ("a.b", "/e", Some("/w"))
        );
    }

    #[test]
    fn urls_are_read() {
        let url = |yaml: &str| {
            read(&format!("functions:\n  f:\n    handler: a.b\n    url: {yaml}\n"))
                .map(|project| project.functions[0].url.clone())
        };
        assert_eq!(url("true").unwrap(), Some(UrlConfig::default()));
        let config = url("{authorizer: aws_iam, invokeMode: RESPONSE_STREAM}").unwrap().unwrap();
        assert_eq!((config.auth.as_str(), config.stream), ("AWS_IAM", true));
        assert!(url("{invokeMode: odd}").unwrap_err().message.contains("url.invokeMode: supported are"));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        for (yaml, word) in [
            ("functions:\n  f: {}\n", "functions.f.handler is missing"),
            ("functions:\n  f: {image: r.example/a:b, handler: a.b}\n", "cannot stand beside functions.f.image"),
            ("functions:\n  f: {image: 'base'}\n", "images are not built here"),
            ("functions:\n  f: {image: {name: base}}\n", "images are not built here"),
            ("functions:\n  f: {image: 'r.example/A:b'}\n", "is no name of an image"),
            ("functions:\n  f: {image: {command: [a]}}\n", "image.uri is missing"),
            (
                "provider: {name: aws, ecr: {images: {}}}\nfunctions:\n  f: {image: a:b}\n",
                "provider.ecr is not supported",
            ),
            ("functions:\n  f: {handler: a.b, timeout: 1000}\n", "from 1 to 900"),
            ("functions:\n  f: {handler: a.b, events: [{sqs: arn}]}\n", "\"sqs\" is not supported yet"),
            ("function:\n  f: {handler: a.b}\n", "function is not supported"),
            ("service: 9lives\nfunctions: {f: {handler: a.b}}\n", "starting with a letter"),
            ("functions: [1]\n", "functions must be a map"),
            ("resources: {Resources: {Q: {Type: 'AWS::SQS::Queue'}}}\n", "AWS::SQS::Queue"),
            ("- a\n", "a map with `functions:`"),
            ("service: x\n", "nothing to deploy"),
        ] {
            let error = read(yaml).unwrap_err();
            assert!(error.message.contains(word), "{yaml}: {error}");
            assert!(error.to_string().starts_with("serverless.yml:"), "{error}");
        }
    }
}

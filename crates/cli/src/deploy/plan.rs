//! What has to be done so that the platform holds what the project says: found by looking, done by calling.
//!
//! Invariants
//!   1. Looking changes nothing; all mistakes of the project are found before the first change.
//!   2. A project that is already there needs no step: a second deployment does nothing.
//!   3. Data is never replaced: a table whose keys differ is an error, not a step.

use anyhow::{Context, Result, bail};
use base64::Engine;
use http::Method;
use serde_json::{Map, Value as Json, json};

use super::intrinsics::Names;
use super::package::Package;
use super::permissions;
use super::project::{FileSystem, Function, Image, PROVISIONED, Project, SNAP_START, Table, UrlConfig};
use super::{event_config, http_api, layers, rest_api, streams};
use crate::client::{Client, found};

/// A function with everything settled: runtime, package, variables.
pub struct Ready<'a> {
    /// The function of the project.
    pub function: &'a Function,
    /// Its runtime identifier.
    pub runtime: String,
    /// Its package.
    pub package: Package,
    /// Its variables, functions evaluated.
    pub environment: Map<String, Json>,
    /// The ARNs of its layers.
    pub layers: Vec<Json>,
}

/// One change.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// `create`, `update` or `delete`.
    pub verb: &'static str,
    /// `function items-api-dev-create`.
    pub subject: String,
    /// What exactly, for people.
    pub detail: String,
    /// What to call.
    pub action: Action,
}

/// Calls behind a step.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// PublishLayerVersion of this name, and AddLayerVersionPermission for these accounts.
    Layer(String, Json, Vec<String>),
    /// CreateTable.
    Table(Json),
    /// CreateFunction, with the index of the package.
    CreateFunction(Json, usize),
    /// UpdateFunctionCode, with the index of the package.
    UpdateCode(String, usize),
    /// UpdateFunctionConfiguration.
    UpdateConfiguration(String, Json),
    /// PutFunctionConcurrency or DeleteFunctionConcurrency.
    Concurrency(String, Option<u64>),
    /// PublishVersion, its alias, and PutProvisionedConcurrencyConfig if that is wanted.
    Publish(String, &'static str, Option<u64>),
    /// DeleteAlias, with what was provisioned of it.
    Unpublish(String, &'static str),
    /// PutFunctionEventInvokeConfig or DeleteFunctionEventInvokeConfig at this path.
    Events(String, Option<Json>),
    /// Bring the mapping of a function's stream event to what the file says: the function's key, and which of its events.
    Stream(String, usize),
    /// TagResource of this ARN.
    Tag(String, Json),
    /// CreateFunctionUrlConfig at this path.
    CreateUrl(String, Json),
    /// UpdateFunctionUrlConfig at this path.
    UpdateUrl(String, Json),
    /// AddPermission for everybody to call the URL of this function or alias.
    PermitUrl(String),
    /// Bring the REST API to the project's routes.
    Rest,
    /// Bring the HTTP API to the project's routes.
    Http,
}

const FUNCTIONS: &str = "/2015-03-31/functions";

/// What references to the project's tables mean.
pub fn names(project: &Project, account: &str) -> Names {
    let mut names = Names::of_stack(account, &project.region, &project.stack());
    for table in &project.tables {
        names.refs.insert(table.logical_id.clone(), table.name.clone());
        let arn = format!("arn:aws:dynamodb:{}:{account}:table/{}", project.region, table.name);
        names.attributes.insert(format!("{}.Arn", table.logical_id), arn);
    }
    names
}

/// The steps that are missing.
pub fn plan(client: &Client, project: &Project, ready: &[Ready<'_>], account: &str) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    for table in &project.tables {
        steps.extend(table_step(client, project, table)?);
    }
    for (index, function) in ready.iter().enumerate() {
        function_steps(client, project, function, index, account, &mut steps)?;
    }
    // Once every function is there that one of another may lead to.
    for function in &project.functions {
        steps.extend(event_config::step(client, project, account, function)?);
        steps.extend(streams::steps(client, project, account, function)?);
    }
    steps.extend(rest_api::step(client, project, account)?);
    steps.extend(http_api::step(client, project, account)?);
    // Only once nothing leads there any more.
    for function in &project.functions {
        for alias in [PROVISIONED, SNAP_START].into_iter().filter(|alias| function.alias() != Some(alias)) {
            steps.extend(unpublish_step(client, project, function, alias)?);
        }
    }
    Ok(steps)
}

fn dynamodb(client: &Client, project: &Project, operation: &str, input: &Json) -> Result<Json> {
    client.json("dynamodb", &format!("DynamoDB_20120810.{operation}"), &project.region, input)
}

fn table_step(client: &Client, project: &Project, table: &Table) -> Result<Option<Step>> {
    let live = found(dynamodb(client, project, "DescribeTable", &json!({"TableName": table.name})))?;
    let Some(live) = live else {
        let detail = describe_keys(&table.input);
        let subject = format!("table {}", table.name);
        return Ok(Some(Step { verb: "create", subject, detail, action: Action::Table(table.input.clone()) }));
    };
    if live["Table"]["KeySchema"] != table.input["KeySchema"] {
        bail!(
            "the table {} exists with other keys ({}) than the project says ({}); tables are never replaced: name another table, or delete that one",
            table.name,
            describe_keys(&live["Table"]),
            describe_keys(&table.input)
        );
    }
    Ok(None)
}

fn describe_keys(table: &Json) -> String {
    let keys = table["KeySchema"].as_array().map_or(&[][..], Vec::as_slice);
    let names: Vec<&str> = keys.iter().filter_map(|key| key["AttributeName"].as_str()).collect();
    format!("key {}", names.join(" + "))
}

fn function_steps(
    client: &Client,
    project: &Project,
    ready: &Ready<'_>,
    index: usize,
    account: &str,
    steps: &mut Vec<Step>,
) -> Result<()> {
    let function = ready.function;
    let path = format!("{FUNCTIONS}/{}/configuration", function.name);
    let live = found(client.rest("lambda", &project.region, Method::GET, &path, None))?;
    let wanted = configuration(project, ready, account);
    let subject = format!("function {}", function.name);
    let step = |verb, detail: String, action| Step { verb, subject: subject.clone(), detail, action };
    let size = ready.package.zip.len().div_ceil(1_024);
    let before = steps.len();
    let is_image = |live: &Json| live["PackageType"] == "Image";
    if let Some(live) = live.as_ref().filter(|live| is_image(live) != function.image.is_some()) {
        bail!(
            "the function {} exists with PackageType {}, which never changes: delete it, or name it otherwise",
            function.name,
            live["PackageType"]
        );
    }
    match &live {
        None if function.image.is_some() => {
            let uri = &function.image.as_ref().map_or("", |image| image.uri.as_str());
            let detail = format!("image {uri}, {} MB, {} s", function.memory_mb, function.timeout_s);
            steps.push(step("create", detail, Action::CreateFunction(wanted, index)));
        }
        None => {
            let detail =
                format!("{}, {} MB, {} s, {size} KB of code", ready.runtime, function.memory_mb, function.timeout_s);
            steps.push(step("create", detail, Action::CreateFunction(wanted, index)));
        }
        Some(live) => {
            if let Some(image) = &function.image {
                if live["CodeSha256"] != image_digest(client, project, function, image)? {
                    let detail = format!("image {}", image.uri);
                    steps.push(step("update", detail, Action::UpdateCode(function.name.clone(), index)));
                }
            } else if live["CodeSha256"] != ready.package.sha256 {
                steps.push(step(
                    "update",
                    format!("{size} KB of new code"),
                    Action::UpdateCode(function.name.clone(), index),
                ));
            }
            let changed = changed_settings(live, &wanted);
            if !changed.is_empty() {
                steps.push(step(
                    "update",
                    changed.join(", "),
                    Action::UpdateConfiguration(function.name.clone(), wanted),
                ));
            }
        }
    }
    let changed = steps.len() > before;
    if live.is_some() {
        steps.extend(tag_step(client, project, function, account)?);
    }
    concurrency_step(client, project, function, live.is_some(), steps)?;
    publish_step(client, project, function, live.as_ref().filter(|_| !changed), steps)?;
    url_step(client, project, function, live.is_some(), steps)
}

/// The digest that an image's name means now.
fn image_digest(client: &Client, project: &Project, function: &Function, image: &Image) -> Result<Json> {
    let path = format!("{FUNCTIONS}/{}/code", function.name);
    let input = json!({"ImageUri": image.uri, "DryRun": true});
    Ok(client.rest("lambda", &project.region, Method::PUT, &path, Some(&input))?["CodeSha256"].clone())
}

/// `ImageConfig`; empty: everything is the image's own.
fn image_config(image: &Image) -> Json {
    let mut config = Map::new();
    for (name, words) in [("EntryPoint", &image.entrypoint), ("Command", &image.command)] {
        if !words.is_empty() {
            config.insert(name.into(), json!(words));
        }
    }
    config.extend(image.folder.as_ref().map(|folder| ("WorkingDirectory".to_owned(), json!(folder))));
    Json::Object(config)
}

fn configuration(project: &Project, ready: &Ready<'_>, account: &str) -> Json {
    let mut wanted = common(project, ready, account);
    if let (Some(image), Some(members)) = (&ready.function.image, wanted.as_object_mut()) {
        for of_zips in ["Runtime", "Handler", "Layers", "SnapStart"] {
            members.shift_remove(of_zips);
        }
        members.insert("ImageConfig".into(), image_config(image));
    }
    wanted
}

fn common(project: &Project, ready: &Ready<'_>, account: &str) -> Json {
    let function = ready.function;
    json!({
        "FunctionName": function.name,
        "Role": format!("arn:aws:iam::{account}:role/{}-{}-lambdaRole", project.stack(), project.region),
        "Runtime": ready.runtime,
        "Handler": function.handler,
        "Description": function.description,
        "MemorySize": function.memory_mb,
        "Timeout": function.timeout_s,
        "Environment": {"Variables": ready.environment},
        "EphemeralStorage": {"Size": function.tmp_mb.unwrap_or(512)},
        "SnapStart": {"ApplyOn": if function.snap_start { "PublishedVersions" } else { "None" }},
        "Layers": ready.layers,
        "LoggingConfig": logging(function),
        "VpcConfig": {
            "SubnetIds": function.vpc.subnets,
            "SecurityGroupIds": function.vpc.security_groups,
            "Ipv6AllowedForDualStack": function.vpc.ipv6,
        },
        "FileSystemConfigs": file_systems(function),
    })
}

fn file_systems(function: &Function) -> Json {
    let of = |file_system: &FileSystem| json!({"Arn": file_system.arn, "LocalMountPath": file_system.path});
    function.file_system.iter().map(of).collect()
}

/// Tags of the file that the function does not have. Others are not the project's to remove.
fn tag_step(client: &Client, project: &Project, function: &Function, account: &str) -> Result<Option<Step>> {
    if function.tags.is_empty() {
        return Ok(None);
    }
    let arn = format!("arn:aws:lambda:{}:{account}:function:{}", project.region, function.name);
    let live = client.rest("lambda", &project.region, Method::GET, &format!("/2017-03-31/tags/{arn}"), None)?;
    let missing: Vec<String> = function
        .tags
        .iter()
        .filter(|(name, value)| live["Tags"][name] != **value)
        .map(|(name, _)| name.clone())
        .collect();
    Ok((!missing.is_empty()).then(|| Step {
        verb: "update",
        subject: format!("function {}", function.name),
        detail: format!("tags {}", missing.join(", ")),
        action: Action::Tag(arn, json!({"Tags": function.tags})),
    }))
}

/// How the function's log is written, with all that was left to the defaults.
fn logging(function: &Function) -> Json {
    let mut logging = Map::new();
    logging.insert("LogFormat".into(), "Text".into());
    logging.insert("LogGroup".into(), format!("/aws/lambda/{}", function.name).into());
    if function.logging.get("LogFormat").is_some_and(|format| format == "JSON") {
        logging.insert("ApplicationLogLevel".into(), "INFO".into());
        logging.insert("SystemLogLevel".into(), "INFO".into());
    }
    logging.extend(function.logging.clone());
    Json::Object(logging)
}

/// Settings that differ, as `name old → new`.
fn changed_settings(live: &Json, wanted: &Json) -> Vec<String> {
    let mut changed = Vec::new();
    for name in ["Runtime", "Handler", "Description", "MemorySize", "Timeout", "Role"] {
        if live[name] != wanted[name] {
            changed.push(format!("{name} {} → {}", live[name], wanted[name]));
        }
    }
    if live["EphemeralStorage"]["Size"] != wanted["EphemeralStorage"]["Size"] {
        changed.push("EphemeralStorage".into());
    }
    if let Some(config) = wanted.get("ImageConfig") {
        let live = live["ImageConfigResponse"].get("ImageConfig");
        if sorted(live.unwrap_or(&Json::Null)) != sorted(config) {
            changed.push("ImageConfig".into());
        }
    }
    if wanted.get("SnapStart").is_some_and(|wanted| live["SnapStart"]["ApplyOn"] != wanted["ApplyOn"]) {
        changed.push("SnapStart".into());
    }
    let network = |document: &Json| {
        let list = |name: &str| document["VpcConfig"][name].as_array().cloned().unwrap_or_default();
        let ipv6 = document["VpcConfig"]["Ipv6AllowedForDualStack"].as_bool().unwrap_or(false);
        (list("SubnetIds"), list("SecurityGroupIds"), ipv6)
    };
    if network(live) != network(wanted) {
        changed.push("VpcConfig".into());
    }
    let files = |document: &Json| document["FileSystemConfigs"].as_array().cloned().unwrap_or_default();
    if files(live) != files(wanted) {
        changed.push("FileSystemConfigs".into());
    }
    if sorted(&live["LoggingConfig"]) != sorted(&wanted["LoggingConfig"]) {
        changed.push("LoggingConfig".into());
    }
    let listed = live["Layers"].as_array().into_iter().flatten().map(|layer| &layer["Arn"]);
    if !listed.eq(wanted["Layers"].as_array().into_iter().flatten()) {
        changed.push("Layers".into());
    }
    let empty = json!({});
    let variables =
        |document: &Json| document["Environment"].get("Variables").cloned().unwrap_or_else(|| empty.clone());
    let (before, after) = (variables(live), variables(wanted));
    if sorted(&before) != sorted(&after) {
        changed.push("Environment".into());
    }
    changed
}

fn sorted(document: &Json) -> Vec<(String, String)> {
    let mut all: Vec<_> = document.as_object().into_iter().flatten().map(|(k, v)| (k.clone(), v.to_string())).collect();
    all.sort();
    all
}

fn concurrency_step(
    client: &Client,
    project: &Project,
    function: &Function,
    exists: bool,
    steps: &mut Vec<Step>,
) -> Result<()> {
    let mut live = None;
    if exists {
        let path = format!("/2019-09-30/functions/{}/concurrency", function.name);
        live =
            client.rest("lambda", &project.region, Method::GET, &path, None)?["ReservedConcurrentExecutions"].as_u64();
    }
    if live != function.reserved_concurrency {
        let detail = function
            .reserved_concurrency
            .map_or("no reserved concurrency".into(), |n| format!("reserved concurrency {n}"));
        let action = Action::Concurrency(function.name.clone(), function.reserved_concurrency);
        steps.push(Step { verb: "update", subject: format!("function {}", function.name), detail, action });
    }
    Ok(())
}

/// What is there under an alias.
fn under_alias(
    client: &Client,
    project: &Project,
    function: &Function,
    alias: &str,
    what: &str,
) -> Result<Option<Json>> {
    let path = format!("{what}?Qualifier={alias}").replace("{name}", &function.name);
    found(client.rest("lambda", &project.region, Method::GET, &path, None))
}

/// `unchanged` is the function as it is, unless it is yet to be made or changed.
fn publish_step(
    client: &Client,
    project: &Project,
    function: &Function,
    unchanged: Option<&Json>,
    steps: &mut Vec<Step>,
) -> Result<()> {
    let Some(alias) = function.alias() else { return Ok(()) };
    if let Some(latest) = unchanged {
        let version = under_alias(client, project, function, alias, "/2015-03-31/functions/{name}/configuration")?;
        let same = |of: &Json| ["CodeSha256", "ConfigSha256"].iter().all(|name| of[name] == latest[name]);
        let number = match function.provisioned {
            Some(_) => {
                let path = "/2019-09-30/functions/{name}/provisioned-concurrency";
                let config = under_alias(client, project, function, alias, path)?;
                config.and_then(|config| config["RequestedProvisionedConcurrentExecutions"].as_u64())
            }
            None => None,
        };
        if version.as_ref().is_some_and(same) && number == function.provisioned {
            return Ok(());
        }
    }
    let mut detail = "the present version".to_owned();
    if function.snap_start {
        detail.push_str(", SnapStart");
    }
    if let Some(number) = function.provisioned {
        detail.push_str(&format!(", provisioned concurrency {number}"));
    }
    let action = Action::Publish(function.name.clone(), alias, function.provisioned);
    steps.push(Step { verb: "update", subject: format!("alias {alias} of {}", function.name), detail, action });
    Ok(())
}

fn unpublish_step(
    client: &Client,
    project: &Project,
    function: &Function,
    alias: &'static str,
) -> Result<Option<Step>> {
    // An alias of this name that somebody made for something else is not the project's to remove.
    let is_ours = if alias == PROVISIONED {
        under_alias(client, project, function, alias, "/2019-09-30/functions/{name}/provisioned-concurrency")?.is_some()
    } else {
        let version = under_alias(client, project, function, alias, "/2015-03-31/functions/{name}/configuration")?;
        version.is_some_and(|version| version["SnapStart"]["ApplyOn"] == "PublishedVersions")
    };
    Ok(is_ours.then(|| Step {
        verb: "delete",
        subject: format!("alias {alias} of {}", function.name),
        detail: "nothing of the project leads there any more".into(),
        action: Action::Unpublish(function.name.clone(), alias),
    }))
}

fn publish(client: &Client, region: &str, name: &str, alias: &str, provisioned: Option<u64>) -> Result<()> {
    let lambda = |method, path: String, input: &Json| client.rest("lambda", region, method, &path, Some(input));
    let version = lambda(Method::POST, format!("{FUNCTIONS}/{name}/versions"), &json!({}))?["Version"].clone();
    let aliases = format!("{FUNCTIONS}/{name}/aliases");
    let input = json!({"FunctionVersion": version, "RoutingConfig": {}});
    if found(lambda(Method::PUT, format!("{aliases}/{alias}"), &input))?.is_none() {
        lambda(Method::POST, aliases, &json!({"Name": alias, "FunctionVersion": version}))?;
    }
    if let Some(number) = provisioned {
        let path = format!("/2019-09-30/functions/{name}/provisioned-concurrency?Qualifier={alias}");
        lambda(Method::PUT, path, &json!({"ProvisionedConcurrentExecutions": number}))?;
    }
    Ok(())
}

fn url_step(
    client: &Client,
    project: &Project,
    function: &Function,
    exists: bool,
    steps: &mut Vec<Step>,
) -> Result<()> {
    let live = if exists { live_url(client, project, function)? } else { None };
    let subject = format!("url of {}", function.name);
    let name = url_path(function);
    let step = match (&live, &function.url) {
        (None, Some(config)) => Some(("create", shown(config), Action::CreateUrl(name, url_input(config)))),
        (Some(live), Some(config)) => {
            let wanted = url_input(config);
            let cors = |document: &Json| document.get("Cors").cloned().unwrap_or(Json::Null);
            let settings = ["AuthType", "InvokeMode"];
            let same = settings.iter().all(|setting| live[setting] == wanted[setting])
                && sorted(&cors(live)) == sorted(&cors(&wanted));
            (!same).then(|| ("update", shown(config), Action::UpdateUrl(name, wanted)))
        }
        // A URL that somebody made by hand is not the project's to remove.
        (_, None) => None,
    };
    steps.extend(step.map(|(verb, detail, action)| Step { verb, subject: subject.clone(), detail, action }));
    let public = function.url.as_ref().is_some_and(|config| config.auth == "NONE");
    let target = function.target();
    if public && !(exists && permissions::has(client, project, &target, permissions::PUBLIC_URL)?) {
        let detail = "everybody may call it".to_owned();
        steps.push(Step { verb: "permit", subject, detail, action: Action::PermitUrl(target) });
    }
    Ok(())
}

fn shown(config: &UrlConfig) -> String {
    format!("auth {}{}", config.auth, if config.stream { ", streams" } else { "" })
}

fn url_input(config: &UrlConfig) -> Json {
    let mode = if config.stream { "RESPONSE_STREAM" } else { "BUFFERED" };
    let mut input = json!({"AuthType": config.auth, "InvokeMode": mode});
    if let Some(cors) = &config.cors {
        input["Cors"] = cors.clone();
    }
    input
}

/// The URL configuration of what events of a function call, if it has one.
pub fn live_url(client: &Client, project: &Project, function: &Function) -> Result<Option<Json>> {
    found(client.rest("lambda", &project.region, Method::GET, &url_path(function), None))
}

fn url_path(function: &Function) -> String {
    let qualifier = function.alias().map_or(String::new(), |alias| format!("?Qualifier={alias}"));
    format!("/2021-10-31/functions/{}/url{qualifier}", function.name)
}

/// Does one step.
pub fn apply(client: &Client, project: &Project, ready: &[Ready<'_>], account: &str, step: &Step) -> Result<()> {
    let region = &project.region;
    let lambda = |method, path: String, input: Option<&Json>| client.rest("lambda", region, method, &path, input);
    let code = |index: &usize| match &ready[*index] {
        Ready { function: Function { image: Some(image), .. }, .. } => json!({"ImageUri": image.uri}),
        ready => json!({"ZipFile": base64::engine::general_purpose::STANDARD.encode(&ready.package.zip)}),
    };
    match &step.action {
        Action::Layer(name, input, accounts) => layers::publish(client, region, name, input, accounts)?,
        Action::Table(input) => {
            dynamodb(client, project, "CreateTable", input)?;
            wait_for_table(client, project, &input["TableName"])?;
        }
        Action::CreateFunction(input, index) => {
            let mut input = layers::numbered(client, region, input)?;
            input["Code"] = code(index);
            if ready[*index].function.image.is_some() {
                input["PackageType"] = json!("Image");
            }
            input["Tags"] = json!(ready[*index].function.tags);
            lambda(Method::POST, FUNCTIONS.into(), Some(&input))?;
        }
        Action::UpdateCode(name, index) => {
            lambda(Method::PUT, format!("{FUNCTIONS}/{name}/code"), Some(&code(index)))?;
        }
        Action::UpdateConfiguration(name, input) => {
            let mut input = layers::numbered(client, region, input)?;
            input.as_object_mut().map(|members| members.shift_remove("FunctionName"));
            lambda(Method::PUT, format!("{FUNCTIONS}/{name}/configuration"), Some(&input))?;
        }
        Action::Concurrency(name, limit) => {
            let path = format!("/2017-10-31/functions/{name}/concurrency");
            match limit {
                Some(limit) => lambda(Method::PUT, path, Some(&json!({"ReservedConcurrentExecutions": limit})))?,
                None => lambda(Method::DELETE, path, None)?,
            };
        }
        Action::Publish(name, alias, provisioned) => publish(client, region, name, alias, *provisioned)?,
        Action::Unpublish(name, alias) => {
            lambda(Method::DELETE, format!("{FUNCTIONS}/{name}/aliases/{alias}"), None)?;
        }
        Action::Events(path, input) => {
            let method = if input.is_some() { Method::PUT } else { Method::DELETE };
            lambda(method, path.clone(), input.as_ref())?;
        }
        Action::Stream(key, index) => streams::apply(client, project, account, key, *index)?,
        Action::Tag(arn, input) => {
            lambda(Method::POST, format!("/2017-03-31/tags/{arn}"), Some(input))?;
        }
        Action::CreateUrl(path, input) => {
            lambda(Method::POST, path.clone(), Some(input))?;
        }
        Action::UpdateUrl(path, input) => {
            lambda(Method::PUT, path.clone(), Some(input))?;
        }
        Action::PermitUrl(target) => permissions::permit_url(client, project, target)?,
        Action::Rest => rest_api::apply(client, project, account)?,
        Action::Http => http_api::apply(client, project, account)?,
    }
    Ok(())
}

fn wait_for_table(client: &Client, project: &Project, name: &Json) -> Result<()> {
    for _ in 0..300 {
        let table = dynamodb(client, project, "DescribeTable", &json!({"TableName": name}))?;
        if table["Table"]["TableStatus"] == "ACTIVE" {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    bail!("the table {name} did not become ACTIVE within 30 s")
}

/// The account that the key acts in.
pub fn account(client: &Client, region: &str) -> Result<String> {
    let body = b"Action=GetCallerIdentity&Version=2011-06-15";
    let headers =
        [("content-type", "application/x-www-form-urlencoded; charset=utf-8"), ("accept", "application/json")];
    let answer = client.send("sts", region, Method::POST, "/", &headers, body)?;
    let text = String::from_utf8_lossy(&answer.body);
    let inside = |open: &str, close: &str| {
        text.split_once(open).and_then(|(_, rest)| rest.split_once(close)).map(|(found, _)| found.to_owned())
    };
    if answer.status != 200 {
        bail!(
            "the platform refused the key: {}",
            inside("<Message>", "</Message>").unwrap_or_else(|| text.trim().to_owned())
        );
    }
    inside("<Account>", "</Account>").context("the platform did not say which account the key belongs to")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_differing_settings_are_changed() {
        let wanted = json!({"Runtime": "nodejs20.x", "Handler": "a.b", "Description": "", "MemorySize": 128, "Timeout": 3, "Role": "r", "EphemeralStorage": {"Size": 512}, "Environment": {"Variables": {"A": "1", "B": "2"}}});
        let mut live = wanted.clone();
        live["Environment"]["Variables"] = json!({"B": "2", "A": "1"});
        assert_eq!(changed_settings(&live, &wanted), Vec::<String>::new());
        live["Timeout"] = json!(6);
        live["Environment"] = Json::Null;
        assert_eq!(changed_settings(&live, &wanted), ["Timeout 6 → 3", "Environment"]);
        let mut wanted = live.clone();
        (live["Layers"], wanted["Layers"]) = (json!([{"Arn": "a:1"}, {"Arn": "b:1"}]), json!(["a:1", "b:1"]));
        assert_eq!(changed_settings(&live, &wanted), Vec::<String>::new());
        wanted["Layers"] = json!(["b:1", "a:1"]);
        assert_eq!(changed_settings(&live, &wanted), ["Layers"]);
        live["LoggingConfig"] = json!({"LogGroup": "g", "LogFormat": "Text"});
        (wanted["Layers"], wanted["LoggingConfig"]) =
            (json!(["a:1", "b:1"]), json!({"LogFormat": "Text", "LogGroup": "g"}));
        assert_eq!(changed_settings(&live, &wanted), Vec::<String>::new());
        wanted["LoggingConfig"] = json!({"LogFormat": "JSON", "LogGroup": "g"});
        assert_eq!(changed_settings(&live, &wanted), ["LoggingConfig"]);
    }
}

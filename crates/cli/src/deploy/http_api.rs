//! The project's HTTP API: compared with what is there, and brought to it. Its stage is `$default`, deployed by itself.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use http::Method;
use serde_json::{Value as Json, json};

use super::permissions;
use super::plan::{Action, Step};
use super::project::Project;
use crate::client::Client;

/// Route key to function ARN and payload version.
type Routes = BTreeMap<String, (String, String)>;

fn call(client: &Client, project: &Project, method: Method, path: &str, input: Option<&Json>) -> Result<Json> {
    client.rest("apigateway", &project.region, method, path, input)
}

fn list(client: &Client, project: &Project, path: &str) -> Result<Vec<Json>> {
    let mut all = Vec::new();
    let mut token = String::new();
    loop {
        let page = call(client, project, Method::GET, &format!("{path}?maxResults=500{token}"), None)?;
        all.extend(page["items"].as_array().cloned().unwrap_or_default());
        match page["nextToken"].as_str() {
            Some(next) => {
                token = format!(
                    "&nextToken={}",
                    percent_encoding::utf8_percent_encode(next, percent_encoding::NON_ALPHANUMERIC)
                )
            }
            None => return Ok(all),
        }
    }
}

/// The project's HTTP API, if it is there.
pub fn live_api(client: &Client, project: &Project) -> Result<Option<Json>> {
    Ok(list(client, project, "/v2/apis")?.into_iter().find(|api| api["name"] == project.http_api_name()))
}

fn wanted(project: &Project, account: &str) -> Routes {
    let arn = |name: &str| format!("arn:aws:lambda:{}:{account}:function:{name}", project.region);
    project
        .http_routes()
        .map(|(route, function)| (route.key.clone(), (arn(&function.target()), route.payload.clone())))
        .collect()
}

/// Functions and aliases that routes lead to.
fn targets(project: &Project) -> BTreeSet<String> {
    project.http_routes().map(|(_, function)| function.target()).collect()
}

struct Live {
    routes: Routes,
    route_ids: BTreeMap<String, String>,
    integrations: BTreeMap<(String, String), String>,
}

fn live(client: &Client, project: &Project, id: &str) -> Result<Live> {
    let text = |document: &Json, name: &str| document[name].as_str().unwrap_or("").to_owned();
    let mut by_id = BTreeMap::new();
    for integration in list(client, project, &format!("/v2/apis/{id}/integrations"))? {
        let target = (text(&integration, "integrationUri"), text(&integration, "payloadFormatVersion"));
        by_id.insert(text(&integration, "integrationId"), target);
    }
    let (mut routes, mut route_ids) = (Routes::new(), BTreeMap::new());
    for route in list(client, project, &format!("/v2/apis/{id}/routes"))? {
        let target = text(&route, "target");
        let target = by_id.get(target.trim_start_matches("integrations/")).cloned().unwrap_or_default();
        route_ids.insert(text(&route, "routeKey"), text(&route, "routeId"));
        routes.insert(text(&route, "routeKey"), target);
    }
    let integrations = by_id.into_iter().map(|(id, target)| (target, id)).collect();
    Ok(Live { routes, route_ids, integrations })
}

/// The step that is missing, if any.
pub fn step(client: &Client, project: &Project, account: &str) -> Result<Option<Step>> {
    let wanted = wanted(project, account);
    let api = live_api(client, project)?;
    let subject = format!("HTTP API {}", project.http_api_name());
    let Some(api) = api else {
        let detail = format!("{} routes", wanted.len());
        return Ok((!wanted.is_empty()).then_some(Step { verb: "create", subject, detail, action: Action::Http }));
    };
    let live = live(client, project, api["apiId"].as_str().unwrap_or(""))?;
    let same_cors = cors_of(&api) == project.http_api_cors.as_ref();
    let id = api["apiId"].as_str().unwrap_or("");
    let permitted = permissions::may_call(client, project, id, targets(project).iter())?;
    if live.routes == wanted && same_cors && permitted {
        return Ok(None);
    }
    let add = wanted.iter().filter(|(key, target)| live.routes.get(*key) != Some(target)).count();
    let remove = live.routes.keys().filter(|key| !wanted.contains_key(*key)).count();
    let mut detail = format!("{add} routes to set, {remove} to remove");
    if !same_cors {
        detail.push_str(", cross-origin settings");
    }
    if !permitted {
        detail.push_str(", permission to call its functions");
    }
    Ok(Some(Step { verb: "update", subject, detail, action: Action::Http }))
}

/// The cross-origin settings of an API. Maps compare equal whatever the order of their members.
fn cors_of(api: &Json) -> Option<&Json> {
    api.get("corsConfiguration").filter(|cors| !cors.is_null())
}

/// Brings the API to the project's routes.
pub fn apply(client: &Client, project: &Project, account: &str) -> Result<()> {
    let mut settings = json!({"name": project.http_api_name(), "protocolType": "HTTP"});
    if let Some(cors) = &project.http_api_cors {
        settings["corsConfiguration"] = cors.clone();
    }
    let id = match live_api(client, project)? {
        Some(api) => {
            let id = api["apiId"].as_str().context("GetApis answered without an id")?.to_owned();
            settings.as_object_mut().map(|members| members.shift_remove("protocolType"));
            call(client, project, Method::PATCH, &format!("/v2/apis/{id}"), Some(&settings))?;
            if cors_of(&api).is_some() && project.http_api_cors.is_none() {
                call(client, project, Method::DELETE, &format!("/v2/apis/{id}/cors"), None)?;
            }
            id
        }
        None => {
            let created = call(client, project, Method::POST, "/v2/apis", Some(&settings))?;
            let id = created["apiId"].as_str().context("CreateApi answered without an id")?.to_owned();
            let stage = json!({"stageName": "$default", "autoDeploy": true});
            call(client, project, Method::POST, &format!("/v2/apis/{id}/stages"), Some(&stage))?;
            id
        }
    };
    let mut live = live(client, project, &id)?;
    let wanted = wanted(project, account);
    for (key, route) in live.route_ids.iter().filter(|(key, _)| wanted.get(*key) != live.routes.get(*key)) {
        call(client, project, Method::DELETE, &format!("/v2/apis/{id}/routes/{route}"), None)
            .with_context(|| format!("removing the route {key}"))?;
    }
    for (key, target) in wanted.iter().filter(|(key, target)| live.routes.get(*key) != Some(target)) {
        let integration = match live.integrations.get(target) {
            Some(found) => found.clone(),
            None => {
                let input = json!({"integrationType": "AWS_PROXY", "integrationUri": target.0, "payloadFormatVersion": target.1});
                let created =
                    call(client, project, Method::POST, &format!("/v2/apis/{id}/integrations"), Some(&input))?;
                let made =
                    created["integrationId"].as_str().context("CreateIntegration answered without an id")?.to_owned();
                live.integrations.insert(target.clone(), made.clone());
                made
            }
        };
        let input = json!({"routeKey": key, "target": format!("integrations/{integration}")});
        call(client, project, Method::POST, &format!("/v2/apis/{id}/routes"), Some(&input))?;
    }
    permissions::permit_api(client, project, account, &id, targets(project).iter())
}

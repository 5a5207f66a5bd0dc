//! The project's REST API: compared with what is deployed, and brought there.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use http::Method;
use serde_json::{Value as Json, json};

use super::permissions;
use super::plan::{Action, Step};
use super::project::Project;
use crate::client::Client;

/// Path, method and what serves it.
type Routes = BTreeSet<(String, String, String)>;

fn call(client: &Client, project: &Project, method: Method, path: &str, input: Option<&Json>) -> Result<Json> {
    client.rest("apigateway", &project.region, method, path, input)
}

/// The id of the project's REST API, if it is there.
pub fn live_id(client: &Client, project: &Project) -> Result<Option<String>> {
    let mut position = String::new();
    loop {
        let page = call(client, project, Method::GET, &format!("/restapis?limit=500{position}"), None)?;
        let items = page["item"].as_array().map_or(&[][..], Vec::as_slice);
        if let Some(api) = items.iter().find(|api| api["name"] == project.rest_api_name()) {
            return Ok(api["id"].as_str().map(str::to_owned));
        }
        match page["position"].as_str() {
            Some(next) => {
                position = format!(
                    "&position={}",
                    percent_encoding::utf8_percent_encode(next, percent_encoding::NON_ALPHANUMERIC)
                )
            }
            None => return Ok(None),
        }
    }
}

fn resources(client: &Client, project: &Project, id: &str) -> Result<Vec<Json>> {
    let mut all = Vec::new();
    let mut position = String::new();
    loop {
        let page = call(
            client,
            project,
            Method::GET,
            &format!("/restapis/{id}/resources?limit=500&embed=methods{position}"),
            None,
        )?;
        all.extend(page["item"].as_array().cloned().unwrap_or_default());
        match page["position"].as_str() {
            Some(next) => {
                position = format!(
                    "&position={}",
                    percent_encoding::utf8_percent_encode(next, percent_encoding::NON_ALPHANUMERIC)
                )
            }
            None => return Ok(all),
        }
    }
}

fn integration_uri(project: &Project, function: &str, account: &str) -> String {
    let region = &project.region;
    format!(
        "arn:aws:apigateway:{region}:lambda:path/2015-03-31/functions/arn:aws:lambda:{region}:{account}:function:{function}/invocations"
    )
}

fn wanted(project: &Project, account: &str) -> Routes {
    let mut routes = Routes::new();
    for (route, function) in project.rest_routes() {
        routes.insert((
            route.path.clone(),
            route.method.clone(),
            integration_uri(project, &function.target(), account),
        ));
        if route.cors {
            routes.insert((route.path.clone(), "OPTIONS".into(), "MOCK".into()));
        }
    }
    routes
}

fn live(resources: &[Json]) -> Routes {
    let mut routes = Routes::new();
    for resource in resources {
        for (method, detail) in resource["resourceMethods"].as_object().into_iter().flatten() {
            let integration = &detail["methodIntegration"];
            let target = if integration["type"] == "MOCK" { "MOCK" } else { integration["uri"].as_str().unwrap_or("") };
            routes.insert((resource["path"].as_str().unwrap_or("").to_owned(), method.clone(), target.to_owned()));
        }
    }
    routes
}

/// The step that is missing, if any.
pub fn step(client: &Client, project: &Project, account: &str) -> Result<Option<Step>> {
    let wanted = wanted(project, account);
    let id = live_id(client, project)?;
    if wanted.is_empty() && id.is_none() {
        return Ok(None);
    }
    let subject = format!("REST API {}", project.rest_api_name());
    let Some(id) = id else {
        let detail = format!("{} routes, stage {}", wanted.len(), project.stage);
        return Ok(Some(Step { verb: "create", subject, detail, action: Action::Rest }));
    };
    let live = live(&resources(client, project, &id)?);
    let stages = call(client, project, Method::GET, &format!("/restapis/{id}/stages"), None)?;
    let has_stage = stages["item"]
        .as_array()
        .is_some_and(|all| all.iter().any(|stage| stage["stageName"] == project.stage.as_str()));
    let permitted = permissions::may_call(client, project, &id, targets(project).iter())?;
    if live == wanted && has_stage && permitted {
        return Ok(None);
    }
    let mut detail =
        format!("{} routes to add, {} to remove", wanted.difference(&live).count(), live.difference(&wanted).count());
    if !permitted {
        detail.push_str(", permission to call its functions");
    }
    Ok(Some(Step { verb: "update", subject, detail, action: Action::Rest }))
}

/// Brings the API to the project's routes and deploys them.
pub fn apply(client: &Client, project: &Project, account: &str) -> Result<()> {
    let id = match live_id(client, project)? {
        Some(id) => id,
        None => {
            let input = json!({"name": project.rest_api_name(), "endpointConfiguration": {"types": ["REGIONAL"]}});
            let created = call(client, project, Method::POST, "/restapis", Some(&input))?;
            created["id"].as_str().context("CreateRestApi answered without an id")?.to_owned()
        }
    };
    let existing = resources(client, project, &id)?;
    let (wanted, live) = (wanted(project, account), live(&existing));
    let text = |resource: &Json, name: &str| resource[name].as_str().unwrap_or("").to_owned();
    let mut ids: BTreeMap<String, String> =
        existing.iter().map(|resource| (text(resource, "path"), text(resource, "id"))).collect();
    for (path, method, _) in live.difference(&wanted) {
        let resource = &ids[path];
        call(client, project, Method::DELETE, &format!("/restapis/{id}/resources/{resource}/methods/{method}"), None)?;
    }
    for (path, method, target) in wanted.difference(&live) {
        let resource = ensure_resource(client, project, &id, path, &mut ids)?;
        put_method(client, project, &format!("/restapis/{id}/resources/{resource}/methods/{method}"), target)?;
    }
    call(
        client,
        project,
        Method::POST,
        &format!("/restapis/{id}/deployments"),
        Some(&json!({"stageName": project.stage})),
    )?;
    permissions::permit_api(client, project, account, &id, targets(project).iter())
}

/// Functions and aliases that routes lead to.
fn targets(project: &Project) -> BTreeSet<String> {
    project.rest_routes().map(|(_, function)| function.target()).collect()
}

fn ensure_resource(
    client: &Client,
    project: &Project,
    id: &str,
    path: &str,
    ids: &mut BTreeMap<String, String>,
) -> Result<String> {
    if let Some(found) = ids.get(path) {
        return Ok(found.clone());
    }
    let (parent, part) = path.rsplit_once('/').context("a path without a slash")?;
    let parent = if parent.is_empty() { "/" } else { parent };
    let parent = ensure_resource(client, project, id, parent, ids)?;
    let created = call(
        client,
        project,
        Method::POST,
        &format!("/restapis/{id}/resources/{parent}"),
        Some(&json!({"pathPart": part})),
    )?;
    let made = created["id"].as_str().context("CreateResource answered without an id")?.to_owned();
    ids.insert(path.to_owned(), made.clone());
    Ok(made)
}

fn put_method(client: &Client, project: &Project, path: &str, target: &str) -> Result<()> {
    call(client, project, Method::PUT, path, Some(&json!({"authorizationType": "NONE"})))?;
    if target != "MOCK" {
        let input = json!({"type": "AWS_PROXY", "httpMethod": "POST", "uri": target});
        call(client, project, Method::PUT, &format!("{path}/integration"), Some(&input))?;
        return Ok(());
    }
    let input = json!({"type": "MOCK", "requestTemplates": {"application/json": "{\"statusCode\": 200}"}});
    call(client, project, Method::PUT, &format!("{path}/integration"), Some(&input))?;
    let allowed =
        "Content-Type,X-Amz-Date,Authorization,X-Api-Key,X-Amz-Security-Token,X-Amz-User-Agent,X-Amzn-Trace-Id";
    let values = json!({
        "method.response.header.Access-Control-Allow-Origin": "'*'",
        "method.response.header.Access-Control-Allow-Headers": format!("'{allowed}'"),
        "method.response.header.Access-Control-Allow-Methods": "'OPTIONS,DELETE,GET,HEAD,PATCH,POST,PUT'",
    });
    let declared: serde_json::Map<String, Json> =
        values.as_object().into_iter().flatten().map(|(name, _)| (name.clone(), Json::Bool(true))).collect();
    call(
        client,
        project,
        Method::PUT,
        &format!("{path}/responses/200"),
        Some(&json!({"responseParameters": declared})),
    )?;
    call(
        client,
        project,
        Method::PUT,
        &format!("{path}/integration/responses/200"),
        Some(&json!({"responseParameters": values})),
    )?;
    Ok(())
}

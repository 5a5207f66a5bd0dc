//! Stages and deployments of HTTP APIs.

use std::collections::BTreeMap;

use aws::{Call, Error, Reply};
use serde_json::json;

use super::record::{Http, Stage};
use super::{change, frozen, listed, read, shown};
use crate::apigateway::{Apis, error, required, text_map};

const STAGE: &[&str] = &[
    "ApiId",
    "StageName",
    "AutoDeploy",
    "DeploymentId",
    "Description",
    "StageVariables",
    "Tags",
    "DefaultRouteSettings",
];

/// A stage before anything is said of it.
pub(super) fn blank(name: &str, now_s: u64) -> Stage {
    Stage {
        stage_name: name.to_owned(),
        auto_deploy: false,
        deployment_id: None,
        stage_variables: BTreeMap::new(),
        description: None,
        tags: BTreeMap::new(),
        default_route_settings: json!({"DetailedMetricsEnabled": false}),
        route_settings: json!({}),
        created_date: now_s,
        last_updated_date: now_s,
        last_deployment_status_message: None,
        api_gateway_managed: None,
    }
}

fn no_such_stage() -> Error {
    error::not_found("Invalid stage identifier specified")
}

/// A stage with what a call says in place of what was there.
fn applied(document: &Http, stage: &Stage, call: &Call) -> Result<Stage, Error> {
    let mut next = stage.clone();
    if let Some(settings) = call.input.get("DefaultRouteSettings").and_then(|settings| settings.as_object()) {
        for (member, value) in settings {
            let off = value.as_bool() == Some(false) || value.as_str() == Some("OFF");
            if member != "DetailedMetricsEnabled" && !value.is_null() && !off {
                return Err(Error::not_implemented(format_args!("DefaultRouteSettings.{member} of HTTP APIs")));
            }
        }
        if let Some(detailed) = settings.get("DetailedMetricsEnabled").and_then(|value| value.as_bool()) {
            next.default_route_settings = json!({"DetailedMetricsEnabled": detailed});
        }
    }
    if call.input.get("AutoDeploy").is_some_and(|value| value.is_boolean()) {
        next.auto_deploy = call.flag("AutoDeploy");
    }
    if let Some(id) = call.text("DeploymentId") {
        if next.auto_deploy {
            return Err(error::bad_request("DeploymentId cannot be set on a stage with AutoDeploy"));
        }
        if !document.deployments.contains_key(id) {
            return Err(error::bad_request("Deployment id does not exist"));
        }
        next.deployment_id = Some(id.to_owned());
    }
    if let Some(description) = call.text("Description") {
        next.description = Some(description.to_owned());
    }
    if let Some(variables) = text_map(call, "StageVariables") {
        next.stage_variables = variables;
    }
    if let Some(tags) = text_map(call, "Tags") {
        next.tags = tags;
    }
    Ok(next)
}

/// CreateStage.
pub(super) async fn create(apis: &Apis, call: &Call) -> Result<Reply, Error> {
    call.honours(STAGE)?;
    let name = required(call, "StageName");
    let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    if name != "$default" && (name.is_empty() || name.len() > 128 || !name.bytes().all(fits)) {
        return Err(error::bad_request("Stage name only allows a-zA-Z0-9_- or $default"));
    }
    let now_s = apis.now_s();
    change(apis, call, |document| {
        if document.stages.contains_key(name) {
            return Err(error::conflict("Stage already exists"));
        }
        let stage = applied(document, &blank(name, now_s), call)?;
        document.stages.insert(name.to_owned(), stage);
        Ok(())
    })
    .await?;
    get(apis, call).await
}

/// GetStage.
pub(super) async fn get(apis: &Apis, call: &Call) -> Result<Reply, Error> {
    shown(read(apis, call).await?.stages.get(required(call, "StageName")).ok_or_else(no_such_stage)?)
}

/// GetStages.
pub(super) async fn list(apis: &Apis, call: &Call) -> Result<Reply, Error> {
    listed(read(apis, call).await?.stages, call)
}

/// UpdateStage.
pub(super) async fn update(apis: &Apis, call: &Call) -> Result<Reply, Error> {
    call.honours(STAGE)?;
    let now_s = apis.now_s();
    change(apis, call, |document| {
        let stage = document.stages.get(required(call, "StageName")).ok_or_else(no_such_stage)?;
        let starts = call.flag("AutoDeploy") && !stage.auto_deploy;
        let mut next = applied(document, stage, call)?;
        next.last_updated_date = now_s;
        if starts {
            // What was deployed by hand may be old: the stage shows the API as it is from now on.
            next.deployment_id = None;
        }
        document.stages.insert(next.stage_name.clone(), next);
        Ok(())
    })
    .await?;
    get(apis, call).await
}

/// DeleteStage.
pub(super) async fn delete(apis: &Apis, call: &Call) -> Result<Reply, Error> {
    change(apis, call, |document| {
        document.stages.remove(required(call, "StageName")).map(|_| ()).ok_or_else(no_such_stage)
    })
    .await?;
    Ok(Reply::empty())
}

/// CreateDeployment, which also moves a stage if one is named.
pub(super) async fn deploy(apis: &Apis, call: &Call) -> Result<Reply, Error> {
    call.honours(&["ApiId", "Description", "StageName"])?;
    let deployment = change(apis, call, |document| {
        let made = frozen::deploy(apis, document, false, call.text("Description").map(str::to_owned))?;
        if let Some(name) = call.text("StageName") {
            let stage = document.stages.get_mut(name).ok_or_else(no_such_stage)?;
            if stage.auto_deploy {
                return Err(error::bad_request("A stage with AutoDeploy cannot be deployed by hand"));
            }
            stage.deployment_id = Some(made.deployment_id.clone());
            stage.last_updated_date = made.created_date;
        }
        Ok(made)
    })
    .await?;
    shown(&deployment)
}

fn no_such_deployment() -> Error {
    error::no_such("Deployment")
}

/// GetDeployment.
pub(super) async fn get_deployment(apis: &Apis, call: &Call) -> Result<Reply, Error> {
    let document = read(apis, call).await?;
    shown(document.deployments.get(required(call, "DeploymentId")).ok_or_else(no_such_deployment)?)
}

/// GetDeployments.
pub(super) async fn list_deployments(apis: &Apis, call: &Call) -> Result<Reply, Error> {
    listed(read(apis, call).await?.deployments, call)
}

/// DeleteDeployment.
pub(super) async fn delete_deployment(apis: &Apis, call: &Call) -> Result<Reply, Error> {
    let id = required(call, "DeploymentId");
    change(apis, call, |document| {
        if document.stages.values().any(|stage| stage.deployment_id.as_deref() == Some(id)) {
            return Err(error::bad_request("Active stages pointing to this deployment must be moved or deleted"));
        }
        document.deployments.remove(id).ok_or_else(no_such_deployment)?;
        document.frozen.dropped.push(id.to_owned());
        Ok(())
    })
    .await?;
    Ok(Reply::empty())
}

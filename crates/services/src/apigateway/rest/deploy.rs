//! Deployments and stages.

use aws::{Call, Error, Reply};
use serde_json::{Value, json};

use super::apis::invalid_patch;
use super::record::{Deployment, Rest, Stage};
use super::{frozen, limit, shown};
use crate::apigateway::document::encoded;
use crate::apigateway::{Apis, error, page, required, text_list, text_map};

const CREATE: &[&str] = &["restApiId", "stageName", "stageDescription", "description", "variables"];
const CREATE_STAGE: &[&str] = &["restApiId", "stageName", "deploymentId", "description", "variables", "tags"];
const ID_LENGTH: usize = 6;
/// Most stage variables. Source: API Gateway quotas.
const VARIABLES_MAX: usize = 100;

fn no_such_stage() -> Error {
    error::not_found("Invalid stage identifier specified")
}

fn stage_name(call: &Call) -> Result<&str, Error> {
    let name = required(call, "stageName");
    let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    if name.is_empty() || name.len() > 128 || !name.bytes().all(fits) {
        return Err(error::bad_request("Stage name only allows a-zA-Z0-9_-"));
    }
    Ok(name)
}

/// CreateDeployment, with a new or moved stage if one is named.
pub(super) async fn create(apis: &Apis, call: &Call) -> Result<Reply, Error> {
    call.honours(CREATE)?;
    let stage = call.text("stageName").filter(|name| !name.is_empty()).map(|_| stage_name(call)).transpose()?;
    let now_s = apis.now_s();
    let deployment = apis
        .change(call, required(call, "restApiId"), |document: &mut Rest| {
            let deployment = Deployment {
                id: apis.fresh_id(ID_LENGTH, &document.deployments),
                description: call.text("description").map(str::to_owned),
                created_date: now_s,
                api_summary: frozen::summary(document),
            };
            document.frozen.made.insert(deployment.id.clone(), encoded(&frozen::methods(document)?)?);
            document.deployments.insert(deployment.id.clone(), deployment.clone());
            if let Some(name) = stage {
                let fresh = || new_stage(name, now_s);
                let stage = document.stages.entry(name.to_owned()).or_insert_with(fresh);
                stage.deployment_id.clone_from(&deployment.id);
                stage.last_updated_date = now_s;
                if let Some(description) = call.text("stageDescription") {
                    stage.description = Some(description.to_owned());
                }
                if let Some(variables) = text_map(call, "variables") {
                    stage.variables = variables;
                }
                check_variables(stage)?;
            }
            Ok(deployment)
        })
        .await?;
    let mut output = serde_json::to_value(&deployment).map_err(Error::internal)?;
    // Shown by GetDeployment where it is embedded, never here.
    output["apiSummary"] = Value::Null;
    Ok(Reply::of(output))
}

fn new_stage(name: &str, now_s: u64) -> Stage {
    Stage {
        deployment_id: String::new(),
        stage_name: name.to_owned(),
        description: None,
        variables: std::collections::BTreeMap::new(),
        tags: std::collections::BTreeMap::new(),
        cache_cluster_enabled: false,
        cache_cluster_status: "NOT_AVAILABLE".into(),
        method_settings: json!({}),
        tracing_enabled: false,
        created_date: now_s,
        last_updated_date: now_s,
    }
}

fn check_variables(stage: &Stage) -> Result<(), Error> {
    let name_fits = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    for (name, value) in &stage.variables {
        if name.is_empty() || name.len() > 64 || !name.bytes().all(name_fits) || value.len() > 512 {
            return Err(error::bad_request(format!("Invalid stage variable: {name}")));
        }
    }
    if stage.variables.len() > VARIABLES_MAX {
        return Err(error::bad_request(format!("A stage has at most {VARIABLES_MAX} variables")));
    }
    Ok(())
}

/// GetDeployment.
pub(super) async fn get(apis: &Apis, call: &Call) -> Result<Reply, Error> {
    let document: Rest = apis.read(call, required(call, "restApiId")).await?;
    let deployment = document.deployments.get(required(call, "deploymentId"));
    let mut output =
        serde_json::to_value(deployment.ok_or_else(|| error::no_such("Deployment"))?).map_err(Error::internal)?;
    if !text_list(call.input.get("embed")).iter().any(|member| member == "apisummary") {
        output["apiSummary"] = Value::Null;
    }
    Ok(Reply::of(output))
}

/// GetDeployments.
pub(super) async fn list(apis: &Apis, call: &Call) -> Result<Reply, Error> {
    let document: Rest = apis.read(call, required(call, "restApiId")).await?;
    let (items, position) = page(document.deployments.into_iter().collect(), call.text("position"), limit(call, 25));
    let items: Vec<Value> = items
        .iter()
        .map(|deployment| {
            json!({
                "id": deployment.id,
                "description": deployment.description,
                "createdDate": deployment.created_date,
            })
        })
        .collect();
    Ok(Reply::of(json!({"items": items, "position": position})))
}

/// DeleteDeployment.
pub(super) async fn delete(apis: &Apis, call: &Call) -> Result<Reply, Error> {
    let id = required(call, "deploymentId");
    apis.change(call, required(call, "restApiId"), |document: &mut Rest| {
        if document.stages.values().any(|stage| stage.deployment_id == id) {
            return Err(error::bad_request("Active stages pointing to this deployment must be moved or deleted"));
        }
        document.deployments.remove(id).ok_or_else(|| error::no_such("Deployment"))?;
        document.frozen.dropped.push(id.to_owned());
        Ok(())
    })
    .await?;
    Ok(Reply::empty())
}

/// CreateStage.
pub(super) async fn create_stage(apis: &Apis, call: &Call) -> Result<Reply, Error> {
    call.honours(CREATE_STAGE)?;
    let name = stage_name(call)?;
    let mut stage = new_stage(name, apis.now_s());
    required(call, "deploymentId").clone_into(&mut stage.deployment_id);
    stage.description = call.text("description").map(str::to_owned);
    stage.variables = text_map(call, "variables").unwrap_or_default();
    stage.tags = text_map(call, "tags").unwrap_or_default();
    check_variables(&stage)?;
    apis.change(call, required(call, "restApiId"), |document: &mut Rest| {
        if !document.deployments.contains_key(&stage.deployment_id) {
            return Err(error::no_such("Deployment"));
        }
        if document.stages.contains_key(name) {
            return Err(error::conflict("Stage already exists"));
        }
        document.stages.insert(name.to_owned(), stage.clone());
        Ok(())
    })
    .await?;
    shown(&stage)
}

/// GetStage.
pub(super) async fn get_stage(apis: &Apis, call: &Call) -> Result<Reply, Error> {
    let document: Rest = apis.read(call, required(call, "restApiId")).await?;
    shown(document.stages.get(required(call, "stageName")).ok_or_else(no_such_stage)?)
}

/// GetStages.
pub(super) async fn list_stages(apis: &Apis, call: &Call) -> Result<Reply, Error> {
    let document: Rest = apis.read(call, required(call, "restApiId")).await?;
    let deployment = call.text("deploymentId");
    let stages: Vec<&Stage> =
        document.stages.values().filter(|stage| deployment.is_none_or(|id| stage.deployment_id == id)).collect();
    Ok(Reply::of(json!({"item": stages})))
}

/// UpdateStage.
pub(super) async fn update_stage(apis: &Apis, call: &Call) -> Result<Reply, Error> {
    let now_s = apis.now_s();
    let stage = apis
        .change(call, required(call, "restApiId"), |document: &mut Rest| {
            let mut stage = document.stages.get(required(call, "stageName")).ok_or_else(no_such_stage)?.clone();
            for operation in call.input["patchOperations"].as_array().into_iter().flatten() {
                patch(document, &mut stage, operation)?;
            }
            check_variables(&stage)?;
            stage.last_updated_date = now_s;
            document.stages.insert(stage.stage_name.clone(), stage.clone());
            Ok(stage)
        })
        .await?;
    shown(&stage)
}

fn patch(document: &Rest, stage: &mut Stage, operation: &Value) -> Result<(), Error> {
    let text = |member: &str| operation.get(member).and_then(Value::as_str);
    let (op, path, value) = (text("op").unwrap_or_default(), text("path").unwrap_or_default(), text("value"));
    if let Some(name) = path.strip_prefix("/variables/") {
        match (op, value) {
            ("add" | "replace", Some(value)) => {
                stage.variables.insert(name.to_owned(), value.to_owned());
            }
            ("remove", _) => {
                stage.variables.remove(name);
            }
            _ => return Err(invalid_patch(op, path)),
        }
        return Ok(());
    }
    match (op, path, value) {
        ("replace", "/deploymentId", Some(id)) if document.deployments.contains_key(id) => {
            id.clone_into(&mut stage.deployment_id);
        }
        ("replace", "/deploymentId", _) => return Err(error::no_such("Deployment")),
        ("replace", "/description", value) => stage.description = value.map(str::to_owned),
        ("replace", "/tracingEnabled" | "/cacheClusterEnabled", Some("false")) => {}
        _ => return Err(invalid_patch(op, path)),
    }
    Ok(())
}

/// DeleteStage.
pub(super) async fn delete_stage(apis: &Apis, call: &Call) -> Result<Reply, Error> {
    apis.change(call, required(call, "restApiId"), |document: &mut Rest| {
        document.stages.remove(required(call, "stageName")).map(|_| ()).ok_or_else(no_such_stage)
    })
    .await?;
    Ok(Reply::empty())
}

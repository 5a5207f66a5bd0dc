//! What a deployment of an HTTP API serves, and when a stage is deployed by itself. Pure but for fresh ids.

use aws::Error;
use model::http_api::{self, AuthKind, HttpRoute, PayloadFormat};

use super::record::{Deployment, Http, Integration};
use crate::apigateway::document::encoded;
use crate::apigateway::{Apis, target};

const ID_LENGTH: usize = 6;

/// Every route that has a target, as the front door serves it from then on.
fn routes(document: &Http) -> Result<Vec<HttpRoute>, Error> {
    let mut routes = Vec::new();
    for route in document.routes.values() {
        let target = route.target.as_deref().and_then(|target| target.strip_prefix("integrations/"));
        let Some(integration) = target.and_then(|id| document.integrations.get(id)) else { continue };
        routes.push(HttpRoute {
            route_key: route.route_key.clone(),
            auth: if route.authorization_type == "AWS_IAM" { AuthKind::AwsIam } else { AuthKind::None },
            integration: served(integration)?,
        });
    }
    Ok(routes)
}

fn served(integration: &Integration) -> Result<http_api::Integration, Error> {
    Ok(http_api::Integration::Function {
        function: target::function_of(&integration.integration_uri)?,
        format: if integration.payload_format_version == "1.0" { PayloadFormat::V1 } else { PayloadFormat::V2 },
        timeout_ms: integration.timeout_in_millis,
    })
}

/// Makes a deployment of the API as it is.
pub(super) fn deploy(
    apis: &Apis,
    document: &mut Http,
    auto_deployed: bool,
    description: Option<String>,
) -> Result<Deployment, Error> {
    let deployment = Deployment {
        deployment_id: apis.fresh_id(ID_LENGTH, &document.deployments),
        auto_deployed,
        created_date: apis.now_s(),
        deployment_status: "DEPLOYED".into(),
        description,
    };
    let id = deployment.deployment_id.clone();
    document.frozen.made.insert(id.clone(), encoded(&routes(document)?)?);
    document.deployments.insert(id, deployment.clone());
    Ok(deployment)
}

/// Deploys the stages with `AutoDeploy` anew where routes or integrations changed, or where a stage has no deployment.
/// Deployments that were made so and serve no stage any more are dropped.
pub(super) fn deploy_by_itself(apis: &Apis, before: &Http, document: &mut Http) -> Result<(), Error> {
    let changed = before.routes != document.routes || before.integrations != document.integrations;
    let due = |document: &Http| -> Vec<String> {
        let stages = document.stages.values().filter(|stage| stage.auto_deploy);
        stages.filter(|stage| changed || stage.deployment_id.is_none()).map(|stage| stage.stage_name.clone()).collect()
    };
    let due = due(document);
    if due.is_empty() {
        return Ok(());
    }
    let made = deploy(
        apis,
        document,
        true,
        Some("Automatic deployment triggered by changes to the Api configuration".into()),
    )?;
    for name in due {
        if let Some(stage) = document.stages.get_mut(&name) {
            stage.deployment_id = Some(made.deployment_id.clone());
            stage.last_updated_date = made.created_date;
            stage.last_deployment_status_message =
                Some(format!("Successfully deployed stage with deployment ID '{}'", made.deployment_id));
        }
    }
    let idle: Vec<String> = document
        .deployments
        .values()
        .filter(|deployment| deployment.auto_deployed)
        .map(|deployment| deployment.deployment_id.clone())
        .filter(|id| !document.stages.values().any(|stage| stage.deployment_id.as_ref() == Some(id)))
        .collect();
    for id in idle {
        document.deployments.remove(&id);
        document.frozen.dropped.push(id);
    }
    Ok(())
}

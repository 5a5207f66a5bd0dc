//! What a deployment serves: every method of the tree with what answers it. Pure.

use std::collections::BTreeMap;

use aws::Error;
use model::http_api::{self, AuthKind, PayloadFormat, RestMethod};
use serde_json::{Map, Value, json};

use super::mock;
use super::record::{Integration, Method, Rest};
use crate::apigateway::{error, target};

/// Every method, as the front door serves it from then on.
pub(super) fn methods(document: &Rest) -> Result<Vec<RestMethod>, Error> {
    let mut methods = Vec::new();
    for resource in document.resources.values() {
        for method in resource.resource_methods.values() {
            methods.push(RestMethod {
                resource_path: resource.path.clone(),
                resource_id: resource.id.clone(),
                http_method: method.http_method.clone(),
                auth: auth(method),
                integration: integration(
                    method
                        .method_integration
                        .as_ref()
                        .ok_or_else(|| error::bad_request("No integration defined for method"))?,
                )?,
            });
        }
    }
    if methods.is_empty() {
        return Err(error::bad_request("The REST API doesn't contain any methods"));
    }
    Ok(methods)
}

fn auth(method: &Method) -> AuthKind {
    if method.authorization_type == "AWS_IAM" { AuthKind::AwsIam } else { AuthKind::None }
}

/// What an integration comes to.
pub(super) fn integration(integration: &Integration) -> Result<http_api::Integration, Error> {
    if integration.kind == "MOCK" {
        return mock::answer(integration);
    }
    Ok(http_api::Integration::Function {
        function: target::function_of(integration.uri.as_deref().unwrap_or_default())?,
        format: PayloadFormat::V1,
        timeout_ms: integration.timeout_in_millis,
    })
}

/// `apiSummary` of a deployment: its methods by path.
pub(super) fn summary(document: &Rest) -> Value {
    let mut paths = BTreeMap::new();
    for resource in document.resources.values().filter(|resource| !resource.resource_methods.is_empty()) {
        let methods = resource.resource_methods.values().map(|method| {
            let shown = json!({"authorizationType": method.authorization_type, "apiKeyRequired": false});
            (method.http_method.clone(), shown)
        });
        paths.insert(resource.path.clone(), Value::Object(methods.collect::<Map<_, _>>()));
    }
    json!(paths)
}

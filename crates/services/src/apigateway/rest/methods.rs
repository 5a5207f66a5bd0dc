//! Methods, what they declare, and what serves them.

use std::collections::BTreeMap;

use aws::{Call, Error, Reply};
use serde_json::Value;

use super::record::{Integration, IntegrationResponse, Method, MethodResponse, Rest};
use super::{frozen, mock, shown};
use crate::apigateway::{Apis, error, required, target, text_list, text_map};

const PUT: &[&str] = &[
    "restApiId",
    "resourceId",
    "httpMethod",
    "authorizationType",
    "operationName",
    "requestParameters",
    "requestModels",
];
const PUT_INTEGRATION: &[&str] = &[
    "restApiId",
    "resourceId",
    "httpMethod",
    "type",
    "integrationHttpMethod",
    "uri",
    "connectionType",
    "requestParameters",
    "requestTemplates",
    "passthroughBehavior",
    "cacheNamespace",
    "cacheKeyParameters",
    "timeoutInMillis",
    "responseTransferMode",
];
const PUT_INTEGRATION_RESPONSE: &[&str] = &[
    "restApiId",
    "resourceId",
    "httpMethod",
    "statusCode",
    "selectionPattern",
    "responseParameters",
    "responseTemplates",
];
/// Verbs that a method can have.
const VERBS: &[&str] = &["ANY", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"];
/// Milliseconds until a REST API gives up. Source: API Gateway quotas.
const TIMEOUT_MS: (u64, u64) = (50, 29_000);

fn flags(value: Option<&Value>) -> BTreeMap<String, bool> {
    let members = value.and_then(Value::as_object).into_iter().flatten();
    members.map(|(name, value)| (name.clone(), value.as_bool().unwrap_or(false))).collect()
}

/// The method that a call names.
fn method<'a>(document: &'a mut Rest, call: &Call) -> Result<&'a mut Method, Error> {
    let resource = document.resources.get_mut(required(call, "resourceId"));
    let resource = resource.ok_or_else(|| error::no_such("Resource"))?;
    resource.resource_methods.get_mut(required(call, "httpMethod")).ok_or_else(|| error::no_such("Method"))
}

fn integration<'a>(document: &'a mut Rest, call: &Call) -> Result<&'a mut Integration, Error> {
    method(document, call)?.method_integration.as_mut().ok_or_else(|| error::no_such("Integration"))
}

async fn read(apis: &Apis, call: &Call) -> Result<Rest, Error> {
    apis.read(call, required(call, "restApiId")).await
}

async fn change<T: Send>(
    apis: &Apis,
    call: &Call,
    decide: impl FnMut(&mut Rest) -> Result<T, Error> + Send,
) -> Result<T, Error> {
    apis.change(call, required(call, "restApiId"), decide).await
}

/// PutMethod.
pub(super) async fn put(apis: &Apis, call: &Call) -> Result<Reply, Error> {
    call.honours(PUT)?;
    let verb = required(call, "httpMethod");
    if !VERBS.contains(&verb) {
        return Err(error::bad_request(format!("Invalid HTTP method specified: {verb}")));
    }
    let authorization_type = required(call, "authorizationType");
    if !matches!(authorization_type, "NONE" | "AWS_IAM") {
        return Err(Error::not_implemented(format_args!("the authorization type {authorization_type}")));
    }
    let method = Method {
        http_method: verb.to_owned(),
        authorization_type: authorization_type.to_owned(),
        api_key_required: false,
        operation_name: call.text("operationName").map(str::to_owned),
        request_parameters: flags(call.input.get("requestParameters")),
        request_models: text_map(call, "requestModels").unwrap_or_default(),
        method_responses: BTreeMap::new(),
        method_integration: None,
    };
    change(apis, call, |document| {
        let resource = document.resources.get_mut(required(call, "resourceId"));
        let methods = &mut resource.ok_or_else(|| error::no_such("Resource"))?.resource_methods;
        if methods.contains_key(verb) {
            return Err(error::conflict("Method already exists for this resource"));
        }
        methods.insert(verb.to_owned(), method.clone());
        Ok(())
    })
    .await?;
    shown(&method)
}

/// GetMethod.
pub(super) async fn get(apis: &Apis, call: &Call) -> Result<Reply, Error> {
    shown(method(&mut read(apis, call).await?, call)?)
}

/// DeleteMethod.
pub(super) async fn delete(apis: &Apis, call: &Call) -> Result<Reply, Error> {
    change(apis, call, |document| {
        method(document, call)?;
        if let Some(resource) = document.resources.get_mut(required(call, "resourceId")) {
            resource.resource_methods.remove(required(call, "httpMethod"));
        }
        Ok(())
    })
    .await?;
    Ok(Reply::empty())
}

/// PutMethodResponse.
pub(super) async fn put_response(apis: &Apis, call: &Call) -> Result<Reply, Error> {
    let status_code = required(call, "statusCode").to_owned();
    let response = MethodResponse {
        status_code: status_code.clone(),
        response_parameters: flags(call.input.get("responseParameters")),
        response_models: text_map(call, "responseModels").unwrap_or_default(),
    };
    change(apis, call, |document| {
        let responses = &mut method(document, call)?.method_responses;
        if responses.contains_key(&status_code) {
            return Err(error::conflict("Response already exists for this resource"));
        }
        responses.insert(status_code.clone(), response.clone());
        Ok(())
    })
    .await?;
    shown(&response)
}

/// GetMethodResponse.
pub(super) async fn get_response(apis: &Apis, call: &Call) -> Result<Reply, Error> {
    let mut document = read(apis, call).await?;
    let response = method(&mut document, call)?.method_responses.get(required(call, "statusCode"));
    shown(response.ok_or_else(no_such_status)?)
}

/// DeleteMethodResponse.
pub(super) async fn delete_response(apis: &Apis, call: &Call) -> Result<Reply, Error> {
    change(apis, call, |document| {
        let responses = &mut method(document, call)?.method_responses;
        responses.remove(required(call, "statusCode")).map(|_| ()).ok_or_else(no_such_status)
    })
    .await?;
    Ok(Reply::empty())
}

fn no_such_status() -> Error {
    error::not_found("Invalid Response status code specified")
}

/// PutIntegration. What could not be served is refused here, not when it is deployed.
pub(super) async fn put_integration(apis: &Apis, call: &Call) -> Result<Reply, Error> {
    call.honours(PUT_INTEGRATION)?;
    let kind = required(call, "type");
    if call.text("connectionType").is_some_and(|kind| kind != "INTERNET") {
        return Err(Error::not_implemented("integrations through a VPC link"));
    }
    if call.text("responseTransferMode").is_some_and(|mode| mode != "BUFFERED") {
        return Err(Error::not_implemented("streamed answers of REST APIs"));
    }
    let timeout_in_millis = call.number("timeoutInMillis").unwrap_or(TIMEOUT_MS.1);
    if !(TIMEOUT_MS.0..=TIMEOUT_MS.1).contains(&timeout_in_millis) {
        return Err(error::bad_request(format!(
            "Timeout should be between {} ms and {} ms",
            TIMEOUT_MS.0, TIMEOUT_MS.1
        )));
    }
    let made = Integration {
        kind: kind.to_owned(),
        http_method: call.text("integrationHttpMethod").map(str::to_owned),
        uri: call.text("uri").map(str::to_owned),
        connection_type: call.text("connectionType").map(str::to_owned),
        request_parameters: text_map(call, "requestParameters").unwrap_or_default(),
        request_templates: text_map(call, "requestTemplates").unwrap_or_default(),
        passthrough_behavior: call.text("passthroughBehavior").unwrap_or("WHEN_NO_MATCH").to_owned(),
        timeout_in_millis,
        cache_namespace: call.text("cacheNamespace").unwrap_or(required(call, "resourceId")).to_owned(),
        cache_key_parameters: text_list(call.input.get("cacheKeyParameters")),
        integration_responses: BTreeMap::new(),
    };
    match kind {
        "AWS_PROXY" => {
            if made.http_method.is_none() {
                return Err(error::bad_request("Enumeration value for HttpMethod must be non-empty"));
            }
            target::function_of(made.uri.as_deref().unwrap_or_default())?;
        }
        "MOCK" => mock::check_request(&made)?,
        other => return Err(Error::not_implemented(format_args!("integrations of type {other}"))),
    }
    change(apis, call, |document| {
        method(document, call)?.method_integration = Some(made.clone());
        Ok(())
    })
    .await?;
    shown(&made)
}

/// GetIntegration.
pub(super) async fn get_integration(apis: &Apis, call: &Call) -> Result<Reply, Error> {
    shown(integration(&mut read(apis, call).await?, call)?)
}

/// DeleteIntegration.
pub(super) async fn delete_integration(apis: &Apis, call: &Call) -> Result<Reply, Error> {
    change(apis, call, |document| {
        integration(document, call)?;
        method(document, call)?.method_integration = None;
        Ok(())
    })
    .await?;
    Ok(Reply::empty())
}

/// PutIntegrationResponse.
pub(super) async fn put_integration_response(apis: &Apis, call: &Call) -> Result<Reply, Error> {
    call.honours(PUT_INTEGRATION_RESPONSE)?;
    let status_code = required(call, "statusCode").to_owned();
    let response = IntegrationResponse {
        status_code: status_code.clone(),
        selection_pattern: call.text("selectionPattern").map(str::to_owned),
        response_parameters: text_map(call, "responseParameters").unwrap_or_default(),
        response_templates: text_map(call, "responseTemplates").unwrap_or_default(),
    };
    change(apis, call, |document| {
        let integration = integration(document, call)?;
        integration.integration_responses.insert(status_code.clone(), response.clone());
        // A function's answer passes by the responses; a fixed answer is made of them, so it must be one that can be.
        if integration.kind == "MOCK" {
            frozen::integration(integration)?;
        }
        Ok(())
    })
    .await?;
    shown(&response)
}

/// GetIntegrationResponse.
pub(super) async fn get_integration_response(apis: &Apis, call: &Call) -> Result<Reply, Error> {
    let mut document = read(apis, call).await?;
    let response = integration(&mut document, call)?.integration_responses.get(required(call, "statusCode"));
    shown(response.ok_or_else(no_such_status)?)
}

/// DeleteIntegrationResponse.
pub(super) async fn delete_integration_response(apis: &Apis, call: &Call) -> Result<Reply, Error> {
    change(apis, call, |document| {
        let responses = &mut integration(document, call)?.integration_responses;
        responses.remove(required(call, "statusCode")).map(|_| ()).ok_or_else(no_such_status)
    })
    .await?;
    Ok(Reply::empty())
}

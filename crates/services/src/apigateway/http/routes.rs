//! Integrations and routes of HTTP APIs.

use aws::{Call, Error, Reply};

use super::record::{Http, Integration, Route};
use super::{change, listed, read, shown};
use crate::apigateway::{Apis, error, required, target};

const INTEGRATION: &[&str] = &[
    "ApiId",
    "IntegrationId",
    "IntegrationType",
    "IntegrationUri",
    "IntegrationMethod",
    "ConnectionType",
    "PayloadFormatVersion",
    "TimeoutInMillis",
    "Description",
];
const ROUTE: &[&str] = &["ApiId", "RouteId", "RouteKey", "Target", "AuthorizationType", "OperationName"];
const VERBS: &[&str] = &["ANY", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"];
/// Length of the ids of integrations and routes.
pub(super) const ID_LENGTH: usize = 7;
/// Milliseconds until an HTTP API gives up. Source: API Gateway quotas.
const TIMEOUT_MS: u64 = 30_000;

/// An integration before anything is said of it.
pub(super) fn blank_integration() -> Integration {
    Integration {
        integration_id: String::new(),
        integration_type: "AWS_PROXY".into(),
        integration_uri: String::new(),
        integration_method: "POST".into(),
        connection_type: "INTERNET".into(),
        payload_format_version: "2.0".into(),
        timeout_in_millis: TIMEOUT_MS,
        description: None,
        api_gateway_managed: None,
    }
}

/// A route before anything is said of it.
pub(super) fn blank_route() -> Route {
    Route {
        route_id: String::new(),
        route_key: String::new(),
        authorization_type: "NONE".into(),
        api_key_required: false,
        target: None,
        operation_name: None,
        api_gateway_managed: None,
    }
}

/// An integration with what a call says in place of what was there.
fn applied(integration: &Integration, call: &Call) -> Result<Integration, Error> {
    let mut next = integration.clone();
    if let Some(kind) = call.text("IntegrationType").filter(|kind| *kind != "AWS_PROXY") {
        return Err(Error::not_implemented(format_args!("integrations of type {kind}")));
    }
    if call.text("ConnectionType").is_some_and(|kind| kind != "INTERNET") {
        return Err(Error::not_implemented("integrations through a VPC link"));
    }
    for (member, field) in [
        ("IntegrationUri", &mut next.integration_uri),
        ("IntegrationMethod", &mut next.integration_method),
        ("PayloadFormatVersion", &mut next.payload_format_version),
    ] {
        if let Some(text) = call.text(member) {
            text.clone_into(field);
        }
    }
    if let Some(description) = call.text("Description") {
        next.description = Some(description.to_owned());
    }
    if !matches!(next.payload_format_version.as_str(), "1.0" | "2.0") {
        return Err(error::bad_request("PayloadFormatVersion must be 1.0 or 2.0"));
    }
    next.timeout_in_millis = call.number("TimeoutInMillis").unwrap_or(next.timeout_in_millis);
    if !(50..=TIMEOUT_MS).contains(&next.timeout_in_millis) {
        return Err(error::bad_request(format!("Timeout should be between 50 ms and {TIMEOUT_MS} ms")));
    }
    target::function_of(&next.integration_uri)?;
    Ok(next)
}

/// CreateIntegration.
pub(super) async fn create_integration(apis: &Apis, call: &Call) -> Result<Reply, Error> {
    call.honours(INTEGRATION)?;
    let made = applied(&blank_integration(), call)?;
    let integration = change(apis, call, |document| {
        let id = apis.fresh_id(ID_LENGTH, &document.integrations);
        let integration = Integration { integration_id: id.clone(), ..made.clone() };
        document.integrations.insert(id, integration.clone());
        Ok(integration)
    })
    .await?;
    shown(&integration)
}

fn no_such_integration() -> Error {
    error::no_such("Integration")
}

/// GetIntegration.
pub(super) async fn get_integration(apis: &Apis, call: &Call) -> Result<Reply, Error> {
    let document = read(apis, call).await?;
    shown(document.integrations.get(required(call, "IntegrationId")).ok_or_else(no_such_integration)?)
}

/// GetIntegrations.
pub(super) async fn list_integrations(apis: &Apis, call: &Call) -> Result<Reply, Error> {
    listed(read(apis, call).await?.integrations, call)
}

/// UpdateIntegration.
pub(super) async fn update_integration(apis: &Apis, call: &Call) -> Result<Reply, Error> {
    call.honours(INTEGRATION)?;
    let integration = change(apis, call, |document| {
        let integration =
            document.integrations.get_mut(required(call, "IntegrationId")).ok_or_else(no_such_integration)?;
        *integration = applied(integration, call)?;
        Ok(integration.clone())
    })
    .await?;
    shown(&integration)
}

/// DeleteIntegration.
pub(super) async fn delete_integration(apis: &Apis, call: &Call) -> Result<Reply, Error> {
    let id = required(call, "IntegrationId");
    change(apis, call, |document| {
        let target = format!("integrations/{id}");
        if let Some(route) = document.routes.values().find(|route| route.target.as_deref() == Some(&target)) {
            return Err(error::conflict(format!(
                "Cannot delete Integration '{id}' due to it being referenced by Route '{}'",
                route.route_id
            )));
        }
        document.integrations.remove(id).map(|_| ()).ok_or_else(no_such_integration)
    })
    .await?;
    Ok(Reply::empty())
}

/// A well-formed route key: `$default`, or a verb and a path without a slash at its end.
pub(super) fn route_key(text: &str) -> Result<&str, Error> {
    let wrong = || {
        error::bad_request(
            "The provided route key is not formatted properly for HTTP protocol. Route keys should be formatted like \"GET /pets\" or be \"$default\".",
        )
    };
    if text == "$default" {
        return Ok(text);
    }
    let (verb, path) = text.split_once(' ').ok_or_else(wrong)?;
    let whole = path.starts_with('/') && (path == "/" || !path.ends_with('/')) && !path.contains([' ', '?', '#']);
    if !VERBS.contains(&verb) || !whole {
        return Err(wrong());
    }
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    for (index, segment) in segments.iter().enumerate() {
        let variable = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
        let greedy = variable.is_some_and(|name| name.ends_with('+'));
        let name = variable.map(|name| name.strip_suffix('+').unwrap_or(name));
        let braces = variable.unwrap_or(segment).contains(['{', '}']);
        if name == Some("") || braces || (greedy && index + 1 != segments.len()) || (segment.is_empty() && path != "/")
        {
            return Err(wrong());
        }
    }
    Ok(text)
}

/// A route with what a call says in place of what was there.
fn applied_route(document: &Http, route: &Route, call: &Call) -> Result<Route, Error> {
    let mut next = route.clone();
    if let Some(key) = call.text("RouteKey") {
        route_key(key)?.clone_into(&mut next.route_key);
    }
    match call.text("AuthorizationType") {
        None => {}
        Some(kind @ ("NONE" | "AWS_IAM")) => kind.clone_into(&mut next.authorization_type),
        Some(kind) => return Err(Error::not_implemented(format_args!("the authorization type {kind}"))),
    }
    if let Some(name) = call.text("OperationName") {
        next.operation_name = Some(name.to_owned());
    }
    if let Some(target) = call.text("Target") {
        let known = target.strip_prefix("integrations/").is_some_and(|id| document.integrations.contains_key(id));
        if !known {
            return Err(error::bad_request(format!("Invalid target: {target} is no integration of this API")));
        }
        next.target = Some(target.to_owned());
    }
    let same = |other: &&Route| other.route_key == next.route_key && other.route_id != next.route_id;
    if document.routes.values().find(same).is_some() {
        return Err(error::conflict(format!("Route with key {} already exists for this API", next.route_key)));
    }
    Ok(next)
}

/// CreateRoute.
pub(super) async fn create(apis: &Apis, call: &Call) -> Result<Reply, Error> {
    call.honours(ROUTE)?;
    let route = change(apis, call, |document| {
        let id = apis.fresh_id(ID_LENGTH, &document.routes);
        let route = applied_route(document, &Route { route_id: id.clone(), ..blank_route() }, call)?;
        document.routes.insert(id, route.clone());
        Ok(route)
    })
    .await?;
    shown(&route)
}

fn no_such_route() -> Error {
    error::no_such("Route")
}

/// GetRoute.
pub(super) async fn get(apis: &Apis, call: &Call) -> Result<Reply, Error> {
    shown(read(apis, call).await?.routes.get(required(call, "RouteId")).ok_or_else(no_such_route)?)
}

/// GetRoutes.
pub(super) async fn list(apis: &Apis, call: &Call) -> Result<Reply, Error> {
    listed(read(apis, call).await?.routes, call)
}

/// UpdateRoute.
pub(super) async fn update(apis: &Apis, call: &Call) -> Result<Reply, Error> {
    call.honours(ROUTE)?;
    let route = change(apis, call, |document| {
        let route = document.routes.get(required(call, "RouteId")).ok_or_else(no_such_route)?;
        let next = applied_route(document, route, call)?;
        document.routes.insert(next.route_id.clone(), next.clone());
        Ok(next)
    })
    .await?;
    shown(&route)
}

/// DeleteRoute.
pub(super) async fn delete(apis: &Apis, call: &Call) -> Result<Reply, Error> {
    change(apis, call, |document| {
        document.routes.remove(required(call, "RouteId")).map(|_| ()).ok_or_else(no_such_route)
    })
    .await?;
    Ok(Reply::empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn route_keys_have_a_form() {
        for good in ["$default", "GET /", "ANY /pets", "POST /pets/{id}/toys", "ANY /{proxy+}", "GET /a/{rest+}"] {
            assert!(route_key(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "GET",
            "/pets",
            "get /pets",
            "GET pets",
            "GET /pets/",
            "GET /{proxy+}/x",
            "GET /{}",
            "GET /a{b}",
            "GET //a",
            "GET /a?b",
            "$connect",
        ] {
            assert!(route_key(bad).is_err(), "{bad}");
        }
    }
}

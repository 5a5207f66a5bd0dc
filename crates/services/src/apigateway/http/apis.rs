//! Create/Get/Update/DeleteApi, GetApis and DeleteCorsConfiguration.

use std::collections::BTreeMap;

use aws::{Call, Error, Reply};
use serde_json::{Value, json};

use super::record::{Api, Cors, Http, Integration, Route};
use super::{change, frozen, most, read, routes, stages};
use crate::apigateway::document::{Document, Frozen};
use crate::apigateway::{Apis, error, required, text_map};

const CREATE: &[&str] = &[
    "Name",
    "ProtocolType",
    "Description",
    "Version",
    "CorsConfiguration",
    "Tags",
    "Target",
    "RouteKey",
    "RouteSelectionExpression",
    "ApiKeySelectionExpression",
    "DisableSchemaValidation",
    "IpAddressType",
];
const UPDATE: &[&str] = &["ApiId", "Name", "Description", "Version", "CorsConfiguration", "RouteSelectionExpression"];
const SELECTION: &str = "$request.method $request.path";
const ID_LENGTH: usize = 10;

/// An API as an answer. Its endpoint is named after the way that the caller reached the platform.
fn view(apis: &Apis, call: &Call, api: &Api) -> Result<Value, Error> {
    let (scheme, rest) = call.endpoint.split_once("://").unwrap_or(("http", &call.endpoint));
    let port = rest.rsplit_once(':').map(|(_, port)| port).filter(|port| port.bytes().all(|b| b.is_ascii_digit()));
    let port = port.map(|port| format!(":{port}")).unwrap_or_default();
    let mut value = serde_json::to_value(api).map_err(Error::internal)?;
    if let Some(members) = value.as_object_mut() {
        members.shift_remove("account");
        members.shift_remove("region");
    }
    value["ApiEndpoint"] =
        json!(format!("{scheme}://{}.execute-api.{}.{}{port}", api.api_id, api.region, apis.url_suffix));
    Ok(value)
}

fn cors_of(call: &Call) -> Result<Option<Cors>, Error> {
    let Some(value) = call.input.get("CorsConfiguration").filter(|value| value.is_object()) else { return Ok(None) };
    let cors: Cors =
        serde_json::from_value(value.clone()).map_err(|problem| error::bad_request(problem.to_string()))?;
    if cors.is_contradiction() {
        return Err(error::bad_request("allow-origin set to '*' is not permitted when allow-credentials is true"));
    }
    Ok(Some(cors))
}

fn check_selection(call: &Call) -> Result<(), Error> {
    let own = |text: &str| !matches!(text, SELECTION | "${request.method} ${request.path}");
    if call.text("RouteSelectionExpression").is_some_and(own) {
        return Err(error::bad_request(format!("HTTP APIs route by {SELECTION} only")));
    }
    Ok(())
}

/// CreateApi. With `Target` it also gets a route, an integration, and a `$default` stage that deploys by itself.
pub(super) async fn create(apis: &Apis, call: &Call) -> Result<Reply, Error> {
    if required(call, "ProtocolType") != "HTTP" {
        return Err(Error::not_implemented("WebSocket APIs"));
    }
    call.honours(CREATE)?;
    check_selection(call)?;
    let cors = cors_of(call)?;
    loop {
        let api = Api {
            account: call.principal.account.to_string(),
            region: call.region.to_string(),
            api_id: apis.random.lower_alphanumeric(ID_LENGTH),
            name: required(call, "Name").to_owned(),
            protocol_type: "HTTP".into(),
            description: call.text("Description").map(str::to_owned),
            version: call.text("Version").map(str::to_owned),
            created_date: apis.now_s(),
            route_selection_expression: SELECTION.into(),
            api_key_selection_expression: "$request.header.x-api-key".into(),
            cors_configuration: cors.clone(),
            tags: text_map(call, "Tags").unwrap_or_default(),
            disable_execute_api_endpoint: false,
            ip_address_type: call.text("IpAddressType").unwrap_or("ipv4").to_owned(),
        };
        let id = api.api_id.clone();
        let mut document = Http {
            api,
            integrations: BTreeMap::new(),
            routes: BTreeMap::new(),
            deployments: BTreeMap::new(),
            stages: BTreeMap::new(),
            frozen: Frozen::default(),
        };
        if let Some(target) = call.text("Target").filter(|target| !target.is_empty()) {
            quickly(apis, call, &mut document, target)?;
        }
        if apis.create(&id, &document).await? {
            return Ok(Reply::of(view(apis, call, &document.api)?));
        }
    }
}

/// What a quick creation adds.
fn quickly(apis: &Apis, call: &Call, document: &mut Http, target: &str) -> Result<(), Error> {
    let before = document.clone();
    let integration = Integration {
        integration_id: apis.fresh_id(routes::ID_LENGTH, &document.integrations),
        integration_uri: target.to_owned(),
        payload_format_version: "2.0".into(),
        api_gateway_managed: Some(true),
        ..routes::blank_integration()
    };
    let route = Route {
        route_id: apis.fresh_id(routes::ID_LENGTH, &document.routes),
        route_key: routes::route_key(call.text("RouteKey").unwrap_or("$default"))?.to_owned(),
        target: Some(format!("integrations/{}", integration.integration_id)),
        api_gateway_managed: Some(true),
        ..routes::blank_route()
    };
    document.integrations.insert(integration.integration_id.clone(), integration);
    document.routes.insert(route.route_id.clone(), route);
    let mut stage = stages::blank("$default", apis.now_s());
    stage.auto_deploy = true;
    stage.api_gateway_managed = Some(true);
    document.stages.insert(stage.stage_name.clone(), stage);
    frozen::deploy_by_itself(apis, &before, document)
}

/// GetApi.
pub(super) async fn get(apis: &Apis, call: &Call) -> Result<Reply, Error> {
    Ok(Reply::of(view(apis, call, &read(apis, call).await?.api)?))
}

/// GetApis. The token is the id of the last API of the page before.
pub(super) async fn list(apis: &Apis, call: &Call) -> Result<Reply, Error> {
    let (items, next) = apis.list::<Api>(call, Http::KIND, call.text("NextToken"), most(call)).await?;
    let items: Vec<Value> = items.iter().map(|api| view(apis, call, api)).collect::<Result<_, _>>()?;
    Ok(Reply::of(json!({"Items": items, "NextToken": next})))
}

/// UpdateApi.
pub(super) async fn update(apis: &Apis, call: &Call) -> Result<Reply, Error> {
    call.honours(UPDATE)?;
    check_selection(call)?;
    let cors = cors_of(call)?;
    let api = change(apis, call, |document| {
        let api = &mut document.api;
        if let Some(name) = call.text("Name") {
            name.clone_into(&mut api.name);
        }
        for (member, field) in [("Description", &mut api.description), ("Version", &mut api.version)] {
            if let Some(text) = call.text(member) {
                *field = Some(text.to_owned());
            }
        }
        if let Some(cors) = &cors {
            api.cors_configuration = Some(cors.clone());
        }
        Ok(api.clone())
    })
    .await?;
    Ok(Reply::of(view(apis, call, &api)?))
}

/// DeleteApi.
pub(super) async fn delete(apis: &Apis, call: &Call) -> Result<Reply, Error> {
    apis.remove::<Http>(call, required(call, "ApiId")).await?;
    Ok(Reply::empty())
}

/// DeleteCorsConfiguration.
pub(super) async fn delete_cors(apis: &Apis, call: &Call) -> Result<Reply, Error> {
    change(apis, call, |document| {
        document.api.cors_configuration = None;
        Ok(())
    })
    .await?;
    Ok(Reply::empty())
}

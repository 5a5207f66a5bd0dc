//! Create/Get/Update/DeleteRestApi and GetRestApis.

use std::collections::BTreeMap;

use aws::{Call, Error, Reply};
use serde_json::{Value, json};

use super::record::{Api, Resource, Rest};
use super::{limit, shown};
use crate::apigateway::document::{Document, Frozen};
use crate::apigateway::{Apis, error, required, text_list, text_map};

const CREATE: &[&str] = &[
    "name",
    "description",
    "version",
    "binaryMediaTypes",
    "minimumCompressionSize",
    "apiKeySource",
    "endpointConfiguration",
    "tags",
];
const ID_LENGTH: usize = 10;

fn view(api: &Api) -> Result<Value, Error> {
    let mut value = serde_json::to_value(api).map_err(Error::internal)?;
    if let Some(members) = value.as_object_mut() {
        members.shift_remove("account");
        members.shift_remove("region");
    }
    Ok(value)
}

/// CreateRestApi.
pub(super) async fn create(apis: &Apis, call: &Call) -> Result<Reply, Error> {
    call.honours(CREATE)?;
    let endpoint = endpoint_of(call)?;
    if call.text("apiKeySource").is_some_and(|source| source != "HEADER") {
        return Err(Error::not_implemented("API keys from authorizers (apiKeySource AUTHORIZER)"));
    }
    let name = required(call, "name").trim();
    if name.is_empty() {
        return Err(error::bad_request("No API name specified"));
    }
    loop {
        let id = apis.random.lower_alphanumeric(ID_LENGTH);
        let root = Resource {
            id: apis.random.lower_alphanumeric(ID_LENGTH),
            parent_id: None,
            path_part: None,
            path: "/".into(),
            resource_methods: BTreeMap::new(),
        };
        let api = Api {
            account: call.principal.account.to_string(),
            region: call.region.to_string(),
            id: id.clone(),
            name: name.to_owned(),
            description: call.text("description").map(str::to_owned),
            created_date: apis.now_s(),
            version: call.text("version").map(str::to_owned),
            binary_media_types: text_list(call.input.get("binaryMediaTypes")),
            minimum_compression_size: call.number("minimumCompressionSize"),
            api_key_source: "HEADER".into(),
            endpoint_configuration: endpoint.clone(),
            tags: text_map(call, "tags").unwrap_or_default(),
            disable_execute_api_endpoint: false,
            root_resource_id: root.id.clone(),
        };
        let document = Rest {
            resources: BTreeMap::from([(root.id.clone(), root)]),
            deployments: BTreeMap::new(),
            stages: BTreeMap::new(),
            frozen: Frozen::default(),
            api,
        };
        if apis.create(&id, &document).await? {
            return Ok(Reply::of(view(&document.api)?));
        }
    }
}

fn endpoint_of(call: &Call) -> Result<Value, Error> {
    let types = text_list(call.input.pointer("/endpointConfiguration/types"));
    if types.iter().any(|kind| kind == "PRIVATE") {
        return Err(Error::not_implemented("private APIs (endpointConfiguration PRIVATE)"));
    }
    let kind = types.into_iter().next().unwrap_or_else(|| "EDGE".into());
    Ok(json!({"types": [kind], "ipAddressType": "ipv4"}))
}

/// GetRestApi.
pub(super) async fn get(apis: &Apis, call: &Call) -> Result<Reply, Error> {
    let document: Rest = apis.read(call, required(call, "restApiId")).await?;
    Ok(Reply::of(view(&document.api)?))
}

/// GetRestApis. The position is the id of the last API of the page before.
pub(super) async fn list(apis: &Apis, call: &Call) -> Result<Reply, Error> {
    let (items, position) = apis.list::<Api>(call, Rest::KIND, call.text("position"), limit(call, 25)).await?;
    let items: Vec<Value> = items.iter().map(view).collect::<Result<_, _>>()?;
    Ok(Reply::of(json!({"items": items, "position": position})))
}

/// DeleteRestApi.
pub(super) async fn delete(apis: &Apis, call: &Call) -> Result<Reply, Error> {
    apis.remove::<Rest>(call, required(call, "restApiId")).await?;
    Ok(Reply::empty())
}

/// UpdateRestApi.
pub(super) async fn update(apis: &Apis, call: &Call) -> Result<Reply, Error> {
    let api = apis
        .change(call, required(call, "restApiId"), |document: &mut Rest| {
            for operation in call.input["patchOperations"].as_array().into_iter().flatten() {
                patch(&mut document.api, operation)?;
            }
            Ok(document.api.clone())
        })
        .await?;
    shown(&view(&api)?)
}

fn patch(api: &mut Api, operation: &Value) -> Result<(), Error> {
    let text = |member: &str| operation.get(member).and_then(Value::as_str);
    let (op, path, value) = (text("op").unwrap_or_default(), text("path").unwrap_or_default(), text("value"));
    if let Some(escaped) = path.strip_prefix("/binaryMediaTypes/") {
        let media_type = escaped.replace("~1", "/").replace("~0", "~");
        api.binary_media_types.retain(|kept| *kept != media_type);
        match (op, value) {
            ("add", _) => api.binary_media_types.push(media_type),
            ("replace", Some(value)) => api.binary_media_types.push(value.to_owned()),
            ("remove", _) => {}
            _ => return Err(invalid_patch(op, path)),
        }
        return Ok(());
    }
    match (op, path, value) {
        ("replace", "/name", Some(value)) => value.clone_into(&mut api.name),
        ("replace", "/description", value) => api.description = value.map(str::to_owned),
        ("replace", "/version", value) => api.version = value.map(str::to_owned),
        ("replace", "/minimumCompressionSize", value) => {
            api.minimum_compression_size = value.and_then(|value| value.parse().ok());
        }
        _ => return Err(invalid_patch(op, path)),
    }
    Ok(())
}

/// A patch that is not done: loudly, since it may well be one that AWS does.
pub(super) fn invalid_patch(op: &str, path: &str) -> Error {
    Error::not_implemented(format_args!("the patch operation {op} of {path}"))
}

//! Function URLs: Create/Get/Update/Delete/ListFunctionUrlConfig(s).

use aws::{Call, Error, Reply};
use model::http_api::{AuthKind, Cors};
use model::{FunctionRef, Region};
use serde_json::{Value, json};

use crate::lambda::record::{UrlOwner, UrlRecord};
use crate::lambda::{Functions, encoded, error, keys, name, view};

/// Most URL configurations of one page. Source: the service model.
const PAGE_MAX: usize = 50;
const SETTINGS: &[&str] = &["FunctionName", "Qualifier", "AuthType", "Cors", "InvokeMode"];

/// `http://ID.lambda-url.REGION.localhost:4566/`: scheme and port as the caller reached the platform.
fn text(functions: &Functions, endpoint: &str, region: &Region, id: &str) -> String {
    let (scheme, rest) = endpoint.split_once("://").unwrap_or(("http", endpoint));
    let port = rest.rsplit_once(':').map(|(_, port)| port).filter(|port| port.bytes().all(|b| b.is_ascii_digit()));
    let port = port.map(|port| format!(":{port}")).unwrap_or_default();
    format!("{scheme}://{id}.lambda-url.{region}.{}{port}/", functions.config.url_suffix)
}

/// The function as its URL knows it: with the alias, never with `$LATEST`.
fn target(call: &Call) -> Result<(FunctionRef, String), Error> {
    let function = name::of_call(call)?;
    let qualifier = function.qualifier.clone().unwrap_or_default();
    if qualifier.starts_with('$') || (!qualifier.is_empty() && qualifier.bytes().all(|b| b.is_ascii_digit())) {
        return Err(error::constraint(
            &qualifier,
            "qualifier",
            "Member must satisfy regular expression pattern: ((?!^\\d+$)^[0-9a-zA-Z-_]+$)",
        ));
    }
    Ok((function, qualifier))
}

fn shown(functions: &Functions, call: &Call, function: &FunctionRef, record: &UrlRecord) -> Value {
    view::url(function, record, &text(functions, &call.endpoint, &call.region, &record.id))
}

/// What a URL's CORS may allow. Source: the API reference of `Cors`.
const METHODS: &[&str] = &["GET", "PUT", "HEAD", "POST", "PATCH", "DELETE", "*"];

fn cors_of(value: &Value) -> Option<Cors> {
    let list = |member: &str| -> Vec<String> {
        let items = value.get(member).and_then(Value::as_array).into_iter().flatten();
        items.filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let cors = Cors {
        allow_credentials: value.get("AllowCredentials").and_then(Value::as_bool).unwrap_or(false),
        allow_headers: list("AllowHeaders"),
        allow_methods: list("AllowMethods"),
        allow_origins: list("AllowOrigins"),
        expose_headers: list("ExposeHeaders"),
        max_age_s: value.get("MaxAge").and_then(Value::as_u64).and_then(|age| u32::try_from(age).ok()),
    };
    (cors != Cors::default()).then_some(cors)
}

/// Puts what the call sends into the record.
fn apply(call: &Call, record: &mut UrlRecord) -> Result<(), Error> {
    match call.text("AuthType") {
        Some("AWS_IAM") => record.auth = AuthKind::AwsIam,
        Some(_) => record.auth = AuthKind::None,
        None => {}
    }
    if let Some(mode) = call.text("InvokeMode") {
        record.streaming = mode == "RESPONSE_STREAM";
    }
    if let Some(cors) = call.input.get("Cors").filter(|value| value.is_object()) {
        record.cors = cors_of(cors);
        let methods = record.cors.iter().flat_map(|cors| &cors.allow_methods);
        if let Some(method) = methods.into_iter().find(|method| !METHODS.contains(&method.as_str())) {
            return Err(error::invalid(format!(
                "The AllowMethods of Cors cannot be {method}: each is one of {}.",
                METHODS.join(", ")
            )));
        }
    }
    Ok(())
}

/// CreateFunctionUrlConfig.
pub(in crate::lambda) async fn create(functions: &Functions, call: &Call) -> Result<Reply, Error> {
    call.honours(SETTINGS)?;
    let (function, qualifier) = target(call)?;
    let now_ms = functions.clock.now_ms();
    let mut url = UrlRecord {
        id: functions.random.lower_alphanumeric(32),
        auth: AuthKind::None,
        streaming: false,
        cors: None,
        created_ms: now_ms,
        modified_ms: now_ms,
    };
    apply(call, &mut url)?;
    let owner = encoded(&UrlOwner { function: function.clone() })?;
    functions
        .change(&function, |record, txn| {
            if !qualifier.is_empty() && !record.aliases.contains_key(&qualifier) {
                return Err(error::not_found("Function does not exist"));
            }
            if record.latest.settings.per_tenant {
                return Err(error::invalid("Function URLs are not supported for functions with tenant isolation."));
            }
            if record.urls.contains_key(&qualifier) {
                return Err(error::conflict(format!(
                    "Failed to create function url config for [functionArn = {}]. Error message:  FunctionUrlConfig exists for this Lambda function",
                    function.arn()
                )));
            }
            record.urls.insert(qualifier.clone(), url.clone());
            let key = keys::url(&url.id);
            *txn = std::mem::take(txn).expect_absent(key.clone()).put(key, owner.clone());
            Ok(())
        })
        .await?;
    let mut output = shown(functions, call, &function, &url);
    output["LastModifiedTime"] = Value::Null;
    Ok(Reply::of(output))
}

/// GetFunctionUrlConfig.
pub(in crate::lambda) async fn get(functions: &Functions, call: &Call) -> Result<Reply, Error> {
    call.honours(&["FunctionName", "Qualifier"])?;
    let (function, qualifier) = target(call)?;
    let record = functions.record(&function).await?.ok_or_else(error::no_such_resource)?;
    let url = record.urls.get(&qualifier).ok_or_else(error::no_such_resource)?;
    Ok(Reply::of(shown(functions, call, &function, url)))
}

/// UpdateFunctionUrlConfig.
pub(in crate::lambda) async fn update(functions: &Functions, call: &Call) -> Result<Reply, Error> {
    call.honours(SETTINGS)?;
    let (function, qualifier) = target(call)?;
    let url = functions
        .change(&function, |record, _| {
            let url = record.urls.get_mut(&qualifier).ok_or_else(error::no_such_resource)?;
            apply(call, url)?;
            url.modified_ms = functions.clock.now_ms();
            Ok(url.clone())
        })
        .await?;
    Ok(Reply::of(shown(functions, call, &function, &url)))
}

/// DeleteFunctionUrlConfig.
pub(in crate::lambda) async fn delete(functions: &Functions, call: &Call) -> Result<Reply, Error> {
    call.honours(&["FunctionName", "Qualifier"])?;
    let (function, qualifier) = target(call)?;
    functions
        .change(&function, |record, txn| {
            let url = record.urls.remove(&qualifier).ok_or_else(error::no_such_resource)?;
            *txn = std::mem::take(txn).delete(keys::url(&url.id));
            Ok(())
        })
        .await?;
    Ok(Reply::empty())
}

/// ListFunctionUrlConfigs.
pub(in crate::lambda) async fn list(functions: &Functions, call: &Call) -> Result<Reply, Error> {
    call.honours(&["FunctionName", "Marker", "MaxItems"])?;
    let function = name::unqualified(call)?;
    let record = functions.existing(&function).await?;
    let items = record.urls.iter().map(|(qualifier, url)| {
        let qualified = (!qualifier.is_empty()).then(|| qualifier.clone());
        let of = FunctionRef { qualifier: qualified, ..function.clone() };
        (qualifier.clone(), shown(functions, call, &of, url))
    });
    let (items, next) = super::page(items.collect(), call, PAGE_MAX);
    Ok(Reply::of(json!({"FunctionUrlConfigs": items, "NextMarker": next})))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_cross_origin_settings_are_none() {
        assert_eq!(cors_of(&json!({})), None);
        let cors = cors_of(&json!({"AllowOrigins": ["*"], "MaxAge": 5})).unwrap();
        assert_eq!((cors.allow_origins, cors.max_age_s), (vec!["*".to_owned()], Some(5)));
    }
}

//! HTTP APIs (v2): the control plane.
//!
//! | file     | operations                                                                                 |
//! |----------|--------------------------------------------------------------------------------------------|
//! | `apis`   | Create/Get/Update/DeleteApi, GetApis, DeleteCorsConfiguration                              |
//! | `routes` | Create/Get/Update/Delete of Integration and Route, GetIntegrations, GetRoutes              |
//! | `stages` | Create/Get/Update/Delete of Stage, GetStages, Create/Get/DeleteDeployment, GetDeployments  |
//!
//! `frozen` is the pure decision on what a deployment serves, and when stages are deployed by themselves.
//! WebSocket APIs are refused.

mod apis;
mod frozen;
pub(super) mod record;
mod routes;
mod stages;

use aws::{Call, Error, Reply};
use serde::Serialize;
use serde_json::{Value, json};

use super::{Apis, page, required};
use record::Http;

/// Does a call on HTTP APIs; `operation` is its name in the second model.
pub(super) async fn call(apis: &Apis, operation: &str, call: &Call) -> Result<Reply, Error> {
    match operation {
        "CreateApi" => apis::create(apis, call).await,
        "GetApi" => apis::get(apis, call).await,
        "GetApis" => apis::list(apis, call).await,
        "UpdateApi" => apis::update(apis, call).await,
        "DeleteApi" => apis::delete(apis, call).await,
        "DeleteCorsConfiguration" => apis::delete_cors(apis, call).await,
        "CreateIntegration" => routes::create_integration(apis, call).await,
        "GetIntegration" => routes::get_integration(apis, call).await,
        "GetIntegrations" => routes::list_integrations(apis, call).await,
        "UpdateIntegration" => routes::update_integration(apis, call).await,
        "DeleteIntegration" => routes::delete_integration(apis, call).await,
        "CreateRoute" => routes::create(apis, call).await,
        "GetRoute" => routes::get(apis, call).await,
        "GetRoutes" => routes::list(apis, call).await,
        "UpdateRoute" => routes::update(apis, call).await,
        "DeleteRoute" => routes::delete(apis, call).await,
        "CreateStage" => stages::create(apis, call).await,
        "GetStage" => stages::get(apis, call).await,
        "GetStages" => stages::list(apis, call).await,
        "UpdateStage" => stages::update(apis, call).await,
        "DeleteStage" => stages::delete(apis, call).await,
        "CreateDeployment" => stages::deploy(apis, call).await,
        "GetDeployment" => stages::get_deployment(apis, call).await,
        "GetDeployments" => stages::list_deployments(apis, call).await,
        "DeleteDeployment" => stages::delete_deployment(apis, call).await,
        other => Err(Error::not_implemented(format_args!("the API Gateway v2 operation {other}"))),
    }
}

/// Changes an API and deploys what deploys by itself.
async fn change<T: Send>(
    apis: &Apis,
    call: &Call,
    mut decide: impl FnMut(&mut Http) -> Result<T, Error> + Send,
) -> Result<T, Error> {
    apis.change(call, required(call, "ApiId"), |document: &mut Http| {
        let before = document.clone();
        let result = decide(document)?;
        frozen::deploy_by_itself(apis, &before, document)?;
        Ok(result)
    })
    .await
}

async fn read(apis: &Apis, call: &Call) -> Result<Http, Error> {
    apis.read(call, required(call, "ApiId")).await
}

/// A record as an answer.
fn shown<T: Serialize>(record: &T) -> Result<Reply, Error> {
    serde_json::to_value(record).map(Reply::of).map_err(Error::internal)
}

/// `MaxResults`, which the model makes a text, bounded.
fn most(call: &Call) -> usize {
    let asked = call.text("MaxResults").and_then(|text| text.parse().ok());
    asked.filter(|most| *most > 0).unwrap_or(500).min(500)
}

/// A page of records by id.
fn listed<T: Serialize>(records: std::collections::BTreeMap<String, T>, call: &Call) -> Result<Reply, Error> {
    let (items, next) = page(records.into_iter().collect(), call.text("NextToken"), most(call));
    let items: Vec<Value> =
        items.iter().map(serde_json::to_value).collect::<Result<_, _>>().map_err(Error::internal)?;
    Ok(Reply::of(json!({"Items": items, "NextToken": next})))
}

//! REST APIs (v1): the control plane.
//!
//! | file        | operations                                                                      |
//! |-------------|---------------------------------------------------------------------------------|
//! | `apis`      | Create/Get/Update/DeleteRestApi, GetRestApis                                    |
//! | `resources` | Create/Get/DeleteResource, GetResources                                         |
//! | `methods`   | Put/Get/Delete of Method, MethodResponse, Integration, IntegrationResponse      |
//! | `deploy`    | Create/Get/DeleteDeployment, GetDeployments, Create/Get/Update/DeleteStage, GetStages |
//!
//! `mock` and `frozen` are the pure decisions on what a deployment serves.

mod apis;
mod deploy;
mod frozen;
mod methods;
mod mock;
pub(super) mod record;
mod resources;

use aws::{Call, Error, Reply};
use serde::Serialize;

use super::Apis;

/// Does a call on REST APIs.
pub(super) async fn call(apis: &Apis, call: &Call) -> Result<Reply, Error> {
    match call.operation {
        "CreateRestApi" => apis::create(apis, call).await,
        "GetRestApi" => apis::get(apis, call).await,
        "GetRestApis" => apis::list(apis, call).await,
        "UpdateRestApi" => apis::update(apis, call).await,
        "DeleteRestApi" => apis::delete(apis, call).await,
        "CreateResource" => resources::create(apis, call).await,
        "GetResource" => resources::get(apis, call).await,
        "GetResources" => resources::list(apis, call).await,
        "DeleteResource" => resources::delete(apis, call).await,
        "PutMethod" => methods::put(apis, call).await,
        "GetMethod" => methods::get(apis, call).await,
        "DeleteMethod" => methods::delete(apis, call).await,
        "PutMethodResponse" => methods::put_response(apis, call).await,
        "GetMethodResponse" => methods::get_response(apis, call).await,
        "DeleteMethodResponse" => methods::delete_response(apis, call).await,
        "PutIntegration" => methods::put_integration(apis, call).await,
        "GetIntegration" => methods::get_integration(apis, call).await,
        "DeleteIntegration" => methods::delete_integration(apis, call).await,
        "PutIntegrationResponse" => methods::put_integration_response(apis, call).await,
        "GetIntegrationResponse" => methods::get_integration_response(apis, call).await,
        "DeleteIntegrationResponse" => methods::delete_integration_response(apis, call).await,
        "CreateDeployment" => deploy::create(apis, call).await,
        "GetDeployment" => deploy::get(apis, call).await,
        "GetDeployments" => deploy::list(apis, call).await,
        "DeleteDeployment" => deploy::delete(apis, call).await,
        "CreateStage" => deploy::create_stage(apis, call).await,
        "GetStage" => deploy::get_stage(apis, call).await,
        "GetStages" => deploy::list_stages(apis, call).await,
        "UpdateStage" => deploy::update_stage(apis, call).await,
        "DeleteStage" => deploy::delete_stage(apis, call).await,
        other => Err(Error::not_implemented(format_args!("the API Gateway operation {other}"))),
    }
}

/// A record as an answer.
fn shown<T: Serialize>(record: &T) -> Result<Reply, Error> {
    serde_json::to_value(record).map(Reply::of).map_err(Error::internal)
}

/// `limit` of a list, bounded.
fn limit(call: &Call, default: usize) -> usize {
    let asked = call.number("limit").and_then(|limit| usize::try_from(limit).ok());
    asked.filter(|limit| *limit > 0).unwrap_or(default).min(500)
}

//! PutRuntimeManagementConfig, GetRuntimeManagementConfig: when a version gets another runtime. Kept and shown; what runs a
//! function is the host's interpreter, which its operator changes.

use aws::{Call, Error, Reply};
use model::FunctionRef;
use serde_json::json;

use crate::lambda::record::{RuntimeManagementRecord, VersionId};
use crate::lambda::versions::Qualifier;
use crate::lambda::{Functions, error, name};

/// The version that a call is about: `$LATEST` or a number, never an alias.
fn version_of(function: &FunctionRef) -> Result<VersionId, Error> {
    match Qualifier::of(function) {
        Qualifier::Version(id) => Ok(id),
        Qualifier::Alias(alias) => Err(error::invalid(format!(
            "A runtime management configuration belongs to $LATEST or to a published version, not to an alias: {alias}"
        ))),
        Qualifier::Neither => Err(error::function_not_found(&function.arn())),
    }
}

/// PutRuntimeManagementConfig.
pub(in crate::lambda) async fn put(functions: &Functions, call: &Call) -> Result<Reply, Error> {
    call.honours(&["FunctionName", "Qualifier", "UpdateRuntimeOn", "RuntimeVersionArn"])?;
    let function = name::of_call(call)?;
    let id = version_of(&function)?;
    let arn = call.text("RuntimeVersionArn").filter(|arn| !arn.is_empty());
    let update_on = call.text("UpdateRuntimeOn").unwrap_or_default();
    match (update_on, arn) {
        ("Manual", None) => {
            return Err(error::invalid("You must specify a RuntimeVersionArn with the runtime update mode Manual."));
        }
        ("Manual", Some(arn)) if !arn.contains(&format!(":lambda:{}:", call.region)) => {
            return Err(error::invalid(format!("The runtime version {arn} is not of the region {}.", call.region)));
        }
        ("Manual", Some(_)) | (_, None) => {}
        (mode, Some(_)) => {
            return Err(error::invalid(format!(
                "You can specify a RuntimeVersionArn with the runtime update mode Manual only, not with {mode}."
            )));
        }
    }
    let config = RuntimeManagementRecord { update_on: update_on.to_owned(), version_arn: arn.map(str::to_owned) };
    functions
        .change(&function, |record, _| {
            if !record.has(id) {
                return Err(error::function_not_found(&function.arn()));
            }
            if config == RuntimeManagementRecord::default() {
                record.runtime_management.remove(&id.to_string());
            } else {
                record.runtime_management.insert(id.to_string(), config.clone());
            }
            Ok(())
        })
        .await?;
    Ok(shown(&function, id, &config))
}

/// GetRuntimeManagementConfig.
pub(in crate::lambda) async fn get(functions: &Functions, call: &Call) -> Result<Reply, Error> {
    call.honours(&["FunctionName", "Qualifier"])?;
    let function = name::of_call(call)?;
    let id = version_of(&function)?;
    let record = functions.existing(&function).await?;
    if !record.has(id) {
        return Err(error::function_not_found(&function.arn()));
    }
    let config = record.runtime_management.get(&id.to_string()).cloned().unwrap_or_default();
    Ok(shown(&function, id, &config))
}

fn shown(function: &FunctionRef, id: VersionId, config: &RuntimeManagementRecord) -> Reply {
    let function = FunctionRef { qualifier: Some(id.to_string()), ..function.clone() };
    Reply::of(json!({
        "UpdateRuntimeOn": config.update_on,
        "FunctionArn": function.arn(),
        "RuntimeVersionArn": config.version_arn,
    }))
}

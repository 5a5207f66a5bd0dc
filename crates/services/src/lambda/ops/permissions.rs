//! AddPermission, GetPolicy, RemovePermission. Policies are per qualifier.

use aws::{Call, Error, Reply};
use model::FunctionRef;
use serde_json::json;

use crate::lambda::record::{FunctionRecord, LATEST};
use crate::lambda::{Functions, error, name, policy};

const ADD: &[&str] = &[
    "FunctionName",
    "Qualifier",
    "StatementId",
    "Action",
    "Principal",
    "SourceArn",
    "SourceAccount",
    "EventSourceToken",
    "FunctionUrlAuthType",
    "InvokedViaFunctionUrl",
    "PrincipalOrgID",
    "RevisionId",
];

fn check_revision(call: &Call, record: &FunctionRecord) -> Result<(), Error> {
    match call.text("RevisionId") {
        Some(revision) if revision != record.latest.revision_id => Err(error::stale_revision("GetPolicy")),
        _ => Ok(()),
    }
}

/// The function with the qualifier that its policy is kept under.
fn target(call: &Call) -> Result<(FunctionRef, String), Error> {
    let function = name::of_call(call)?;
    let qualifier = function.qualifier.clone().unwrap_or_default();
    Ok((function, qualifier))
}

/// AddPermission.
pub(in crate::lambda) async fn add(functions: &Functions, call: &Call) -> Result<Reply, Error> {
    call.honours(ADD)?;
    let (function, qualifier) = target(call)?;
    if qualifier == LATEST {
        return Err(error::invalid("We currently do not support adding policies for $LATEST."));
    }
    let statement = policy::statement(call, &function)?;
    let sid = call.text("StatementId").unwrap_or_default();
    functions
        .change(&function, |record, _| {
            check_revision(call, record)?;
            let statements = record.policies.entry(qualifier.clone()).or_default();
            if statements.iter().any(|statement| policy::has_sid(statement, sid)) {
                return Err(error::conflict(format!(
                    "The statement id ({sid}) provided already exists. Please provide a new statement id, or remove the existing statement."
                )));
            }
            statements.push(statement.clone());
            policy::document(statements)?;
            record.latest.revision_id = functions.random.uuid();
            Ok(())
        })
        .await?;
    Ok(Reply::of(json!({"Statement": statement.to_string()})))
}

/// GetPolicy.
pub(in crate::lambda) async fn get(functions: &Functions, call: &Call) -> Result<Reply, Error> {
    call.honours(&["FunctionName", "Qualifier"])?;
    let (function, qualifier) = target(call)?;
    let record = functions.record(&function).await?.ok_or_else(error::no_such_resource)?;
    let statements = record.policies.get(&qualifier).ok_or_else(error::no_such_resource)?;
    Ok(Reply::of(json!({"Policy": policy::document(statements)?, "RevisionId": record.latest.revision_id})))
}

/// RemovePermission.
pub(in crate::lambda) async fn remove(functions: &Functions, call: &Call) -> Result<Reply, Error> {
    call.honours(&["FunctionName", "Qualifier", "StatementId", "RevisionId"])?;
    let (function, qualifier) = target(call)?;
    let sid = call.text("StatementId").unwrap_or_default();
    functions
        .change(&function, |record, _| {
            let Some(statements) = record.policies.get_mut(&qualifier) else {
                return Err(error::not_found("No policy is associated with the given resource."));
            };
            let before = statements.len();
            statements.retain(|statement| !policy::has_sid(statement, sid));
            if statements.len() == before {
                return Err(error::not_found(format!("Statement {sid} is not found in resource policy.")));
            }
            if statements.is_empty() {
                record.policies.remove(&qualifier);
            }
            check_revision(call, record)?;
            record.latest.revision_id = functions.random.uuid();
            Ok(())
        })
        .await?;
    Ok(Reply::empty())
}

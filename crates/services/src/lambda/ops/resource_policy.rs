//! PutResourcePolicy, GetResourcePolicy, DeleteResourcePolicy: the same policy as that of AddPermission, as a whole.

use aws::{Call, Error, Reply};
use model::FunctionRef;
use serde_json::{Value, json};

use super::permissions::Subject;
use crate::lambda::record::LATEST;
use crate::lambda::{Functions, error, policy};

/// The function, version or alias that a call names in `ResourceArn`.
async fn subject(functions: &Functions, call: &Call) -> Result<Subject, Error> {
    let arn = call.text("ResourceArn").unwrap_or_default();
    let function = FunctionRef::parse_arn(arn)
        .filter(|function| function.account == call.principal.account && function.region == call.region);
    let function = function.ok_or_else(error::no_such_resource)?;
    if function.qualifier.as_deref() == Some(LATEST) {
        return Err(error::invalid("We currently do not support adding policies for $LATEST."));
    }
    Subject::of(functions, function).await
}

/// The statements of a policy document that can be evaluated here.
fn statements(text: &str) -> Result<Vec<Value>, Error> {
    let document: Value = serde_json::from_str(text)
        .map_err(|problem| error::invalid(format!("The policy is not valid JSON: {problem}")))?;
    let statements = match &document["Statement"] {
        Value::Array(statements) => statements.clone(),
        Value::Object(_) => vec![document["Statement"].clone()],
        _ => return Err(error::invalid("The policy has no Statement.")),
    };
    if statements.is_empty() {
        return Err(error::invalid("The policy has no Statement."));
    }
    match statements.iter().find_map(model::policy::problem) {
        Some(problem) => Err(error::invalid(format!("The policy cannot be taken: {problem}."))),
        None => Ok(statements),
    }
}

/// PutResourcePolicy.
pub(in crate::lambda) async fn put(functions: &Functions, call: &Call) -> Result<Reply, Error> {
    call.honours(&["ResourceArn", "Policy", "RevisionId"])?;
    let subject = subject(functions, call).await?;
    let statements = statements(call.text("Policy").unwrap_or_default())?;
    let shown = policy::document(&statements)?;
    let revision = functions.random.uuid();
    functions
        .change(&subject.function, |record, _| {
            subject.check_there(record)?;
            subject.check_revision(call, record, "GetResourcePolicy")?;
            record.policies.insert(subject.qualifier.clone(), statements.clone());
            subject.revise(record, revision.clone());
            Ok(())
        })
        .await?;
    Ok(Reply::of(json!({"Policy": shown, "RevisionId": revision})))
}

/// GetResourcePolicy.
pub(in crate::lambda) async fn get(functions: &Functions, call: &Call) -> Result<Reply, Error> {
    call.honours(&["ResourceArn"])?;
    let subject = subject(functions, call).await?;
    let record = functions.record(&subject.function).await?.ok_or_else(error::no_such_resource)?;
    let statements = record.policies.get(&subject.qualifier).ok_or_else(error::no_such_resource)?;
    Ok(Reply::of(json!({"Policy": policy::document(statements)?, "RevisionId": subject.revision(&record)})))
}

/// DeleteResourcePolicy.
pub(in crate::lambda) async fn delete(functions: &Functions, call: &Call) -> Result<Reply, Error> {
    call.honours(&["ResourceArn", "RevisionId"])?;
    let subject = subject(functions, call).await?;
    functions
        .change(&subject.function, |record, _| {
            subject.check_there(record)?;
            subject.check_revision(call, record, "GetResourcePolicy")?;
            record.policies.remove(&subject.qualifier).ok_or_else(error::no_such_resource)?;
            subject.revise(record, functions.random.uuid());
            Ok(())
        })
        .await?;
    Ok(Reply::empty())
}

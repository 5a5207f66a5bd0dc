//! Resource policies: a permission as the statement that IAM would read. Pure.
//!
//! Not here: evaluation, which is `model::policy`.

use aws::{Call, Error};
use model::{AccountId, FunctionRef};
use serde_json::{Map, Value, json};

use super::error;

/// Most bytes of a policy document. Source: Lambda quotas.
const POLICY_BYTES_MAX: usize = 20_480;

/// The statement that AddPermission asks for.
pub(super) fn statement(call: &Call, function: &FunctionRef) -> Result<Value, Error> {
    let text = |member: &str| call.text(member).unwrap_or_default();
    let action = text("Action");
    if call.text("FunctionUrlAuthType").is_some() && action != "lambda:InvokeFunctionUrl" {
        return Err(error::invalid("FunctionUrlAuthType is only supported for lambda:InvokeFunctionUrl action"));
    }
    let mut statement = json!({
        "Sid": text("StatementId"),
        "Effect": "Allow",
        "Principal": principal(text("Principal"))?,
        "Action": action,
        "Resource": function.arn(),
    });
    let condition = condition(call);
    if !condition.is_empty() {
        statement["Condition"] = Value::Object(condition);
    }
    Ok(statement)
}

fn principal(text: &str) -> Result<Value, Error> {
    if text == "*" {
        return Ok(json!("*"));
    }
    if AccountId::parse(text).is_some() {
        return Ok(json!({"AWS": format!("arn:aws:iam::{text}:root")}));
    }
    if text.starts_with("arn:") {
        return Ok(json!({"AWS": text}));
    }
    if is_service(text) {
        return Ok(json!({"Service": text}));
    }
    Err(error::invalid("The provided principal was invalid. Please check the principal and try again."))
}

/// Whether a text has the form of a service's name: most are of `amazonaws.com`, the oldest, such as
/// `alexa-appkit.amazon.com`, of `amazon.com`.
fn is_service(text: &str) -> bool {
    [".amazonaws.com", ".amazon.com"]
        .iter()
        .any(|domain| text.strip_suffix(domain).is_some_and(|name| !name.is_empty()))
        || text.contains(".amazonaws.com.")
}

fn condition(call: &Call) -> Map<String, Value> {
    let mut equals = Map::new();
    for (member, key) in [
        ("SourceAccount", "AWS:SourceAccount"),
        ("EventSourceToken", "lambda:EventSourceToken"),
        ("FunctionUrlAuthType", "lambda:FunctionUrlAuthType"),
        ("PrincipalOrgID", "aws:PrincipalOrgID"),
    ] {
        if let Some(value) = call.text(member) {
            equals.insert(key.into(), json!(value));
        }
    }
    let mut condition = Map::new();
    if !equals.is_empty() {
        condition.insert("StringEquals".into(), Value::Object(equals));
    }
    if let Some(arn) = call.text("SourceArn") {
        condition.insert("ArnLike".into(), json!({"AWS:SourceArn": arn}));
    }
    if call.flag("InvokedViaFunctionUrl") {
        condition.insert("Bool".into(), json!({"lambda:InvokedViaFunctionUrl": "true"}));
    }
    condition
}

/// The document of these statements.
pub(super) fn document(statements: &[Value]) -> Result<String, Error> {
    let text = json!({"Version": "2012-10-17", "Id": "default", "Statement": statements}).to_string();
    if text.len() > POLICY_BYTES_MAX {
        return Err(Error::new(
            400,
            "PolicyLengthExceededException",
            format!("The final policy size ({}) is bigger than the limit ({POLICY_BYTES_MAX}).", text.len()),
        )
        .with("Type", "User"));
    }
    Ok(text)
}

/// A statement with this id is there already.
pub(super) fn sid_exists(sid: &str) -> Error {
    error::conflict(format!(
        "The statement id ({sid}) provided already exists. Please provide a new statement id, or remove the existing statement."
    ))
}

/// No statement has this id.
pub(super) fn no_statement(sid: &str) -> Error {
    error::not_found(format!("Statement {sid} is not found in resource policy."))
}

/// Whether a statement has this id.
pub(super) fn has_sid(statement: &Value, sid: &str) -> bool {
    statement.get("Sid").and_then(Value::as_str) == Some(sid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn principals_are_told_apart() {
        assert_eq!(principal("*").unwrap(), json!("*"));
        assert_eq!(principal("s3.amazonaws.com").unwrap(), json!({"Service": "s3.amazonaws.com"}));
        for service in ["alexa-appkit.amazon.com", "alexa-connectedhome.amazon.com", "s3.amazonaws.com.cn"] {
            assert_eq!(principal(service).unwrap(), json!({"Service": service}));
        }
        assert_eq!(principal("123456789012").unwrap(), json!({"AWS": "arn:aws:iam::123456789012:root"}));
        for wrong in ["somebody", ".amazon.com", "amazon.com", "x.notamazon.com", "x.amazon.com.example.org"] {
            assert!(principal(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_document_has_a_limit() {
        assert!(document(&[json!({"Sid": "x"})]).unwrap().starts_with(r#"{"Version":"2012-10-17","Id":"default""#));
        assert_eq!(document(&[json!("x".repeat(20_480))]).unwrap_err().code, "PolicyLengthExceededException");
    }
}

//! Resource policies of tables and streams: what a document must be, and whom it lets do what.
//!
//! Pure. The language is `model::policy`'s.
//!
//! Invariants
//!   1. Within its own account a caller may do what no statement denies, as policies of identities are not evaluated yet;
//!      from another account only what a statement allows.
//!   2. A document that cannot be evaluated whole is refused when it is put, never taken for less than it says.
//!   3. Nobody can lock an account out: its root may always take a policy away.

use model::policy::{self, Actor, Circumstances, Verdict};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::error::{Error, Result, invalid};

/// Most bytes of a document, white space included. Source: API reference of PutResourcePolicy.
const BYTES_MAX: usize = 20 * 1024;

/// A policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Policy {
    /// As it was put.
    pub(super) text: String,
    pub(super) revision: String,
    statements: Vec<Json>,
}

/// Who calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Caller {
    pub(super) account: String,
    pub(super) arn: String,
    pub(super) circumstances: Circumstances,
}

impl Policy {
    /// Reads a document.
    pub(super) fn read(text: &str, revision: String) -> Result<Self> {
        if text.len() > BYTES_MAX {
            return invalid(format!("Resource policy size ({}) exceeds the limit of {BYTES_MAX} bytes", text.len()));
        }
        let document: Json = serde_json::from_str(text)
            .map_err(|problem| Error::validation(format!("Resource policy is not valid JSON: {problem}")))?;
        let statements = match &document["Statement"] {
            Json::Array(statements) => statements.clone(),
            Json::Object(_) => vec![document["Statement"].clone()],
            _ => Vec::new(),
        };
        if statements.is_empty() {
            return invalid("Resource policy has no Statement");
        }
        if let Some(problem) = statements.iter().find_map(policy::problem) {
            return invalid(format!("Resource policy cannot be evaluated: {problem}"));
        }
        if statements.iter().any(|statement| statement["Resource"].is_null() && statement["NotResource"].is_null()) {
            return invalid("Resource policy cannot be evaluated: a statement has no Resource");
        }
        Ok(Self { text: text.into(), revision, statements })
    }

    fn verdict(&self, caller: &Caller, action: &str, resource: &str) -> Verdict {
        let actor = Actor::Principal(&caller.account, &caller.arn);
        let circumstances = caller.circumstances;
        let request = policy::Request { actor, action, resource, context: &[], circumstances };
        policy::evaluate(&self.statements, &request)
    }

    /// Whether it takes the right to change it from who puts it.
    pub(super) fn locks_out(&self, caller: &Caller, resource: &str) -> bool {
        ["dynamodb:PutResourcePolicy", "dynamodb:DeleteResourcePolicy"]
            .iter()
            .any(|action| self.verdict(caller, action, resource) == Verdict::Denied)
    }
}

/// Whether a caller may do `action`, an operation's name, with a resource of `owner`'s account.
pub(super) fn check(
    policy: Option<&Policy>,
    caller: &Caller,
    owner: &str,
    operation: &str,
    resource: &str,
) -> Result<()> {
    let own = caller.account == owner;
    if own && (policy.is_none() || (operation == "DeleteResourcePolicy" && caller.arn.ends_with(":root"))) {
        return Ok(());
    }
    let action = format!("dynamodb:{operation}");
    let why = match policy.map_or(Verdict::Silent, |policy| policy.verdict(caller, &action, resource)) {
        Verdict::Allowed => return Ok(()),
        Verdict::Silent if own => return Ok(()),
        Verdict::Silent => format!("because no resource-based policy allows the {action} action"),
        Verdict::Denied => "with an explicit deny in a resource-based policy".to_owned(),
    };
    let who = &caller.arn;
    let words = format!("User: {who} is not authorized to perform: {action} on resource: {resource} {why}");
    Err(Error::Refused("AccessDeniedException", words))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const TABLE: &str = "arn:aws:dynamodb:us-east-1:000000000000:table/t";

    fn caller(account: &str) -> Caller {
        let arn = format!("arn:aws:iam::{account}:root");
        Caller { account: account.into(), arn, circumstances: Circumstances::default() }
    }

    fn policy(effect: &str, principal: &str, action: &str) -> Policy {
        let statement =
            json!({ "Effect": effect, "Principal": { "AWS": principal }, "Action": action, "Resource": TABLE });
        Policy::read(&json!({ "Statement": statement }).to_string(), "1".into()).unwrap()
    }

    #[test]
    fn strangers_need_an_allowance_and_owners_no_denial() {
        let (own, other) = (caller("000000000000"), caller("111122223333"));
        let ask = |policy: Option<&Policy>, caller: &Caller, operation: &str| {
            check(policy, caller, "000000000000", operation, TABLE).is_ok()
        };
        assert!(ask(None, &own, "GetItem") && !ask(None, &other, "GetItem"));
        let allow = policy("Allow", "111122223333", "dynamodb:Get*");
        assert!(ask(Some(&allow), &other, "GetItem") && !ask(Some(&allow), &other, "PutItem"));
        assert!(ask(Some(&allow), &own, "PutItem"));
        let deny = policy("Deny", "*", "dynamodb:*");
        assert!(!ask(Some(&deny), &own, "GetItem") && !ask(Some(&deny), &own, "PutResourcePolicy"));
        assert!(ask(Some(&deny), &own, "DeleteResourcePolicy"));
        assert!(deny.locks_out(&own, TABLE) && !allow.locks_out(&own, TABLE));
    }

    #[test]
    fn what_cannot_be_evaluated_is_refused() {
        let statement = |more: Json| {
            let mut statement =
                json!({ "Effect": "Allow", "Principal": "*", "Action": "dynamodb:GetItem", "Resource": TABLE });
            statement.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            json!({ "Statement": [statement] }).to_string()
        };
        assert!(Policy::read(&statement(json!({})), String::new()).is_ok());
        for wrong in [
            statement(json!({ "NotAction": "x" })),
            statement(json!({ "Resource": null })),
            statement(json!({ "Condition": { "StringEquals": { "aws:ResourceTag/team": "a" } } })),
            statement(json!({ "Condition": { "ForAllValues:StringEquals": { "dynamodb:LeadingKeys": "a" } } })),
            "{}".to_owned(),
            "[".to_owned(),
            format!("{}{}", statement(json!({})), " ".repeat(BYTES_MAX)),
        ] {
            assert!(Policy::read(&wrong, String::new()).is_err(), "{wrong}");
        }
    }
}

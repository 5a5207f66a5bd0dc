//! What a policy document must be to be kept: its grammar, in IAM's words, and of one that says who may assume a role, that
//! all of it can be evaluated. Pure.
//!
//! Invariants
//!   1. What `statements` accepts of a trust policy, `model::policy` evaluates: nothing is kept that would be passed over.
//!   2. Nothing is kept that IAM would refuse for its grammar.

use std::collections::BTreeSet;

use aws::Error;
use model::{AccountId, policy};
use serde_json::{Map, Value};

use super::error::malformed;

/// Who vouches for callers without an account at IAM.
const FEDERATIONS: &[&str] =
    &["cognito-identity.amazonaws.com", "www.amazon.com", "graph.facebook.com", "accounts.google.com"];
/// Domains that services have names in.
const SERVICE_DOMAINS: &[&str] = &[".amazonaws.com", ".amazon.com", ".amazonaws.com.cn", ".aws.internal"];

/// What a document is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// To say who may assume a role.
    Trust,
    /// To say what a role may do.
    Rights,
}

fn syntax() -> Error {
    malformed("Syntax errors in policy.")
}

/// The statements of a document that was kept once.
pub(super) fn kept(document: &str) -> Result<Vec<Value>, Error> {
    let parsed: Value = serde_json::from_str(document).map_err(|_| malformed("This policy contains invalid Json"))?;
    match &parsed["Statement"] {
        Value::Array(statements) => Ok(statements.clone()),
        Value::Object(_) => Ok(vec![parsed["Statement"].clone()]),
        _ => Err(syntax()),
    }
}

/// How large a document is for its limits: its characters without white space.
pub(super) fn size(document: &str) -> usize {
    document.chars().filter(|letter| !letter.is_whitespace()).count()
}

/// Refuses what is no policy of its kind.
pub(super) fn check(document: &str, kind: Kind) -> Result<(), Error> {
    let statements = kept(document)?;
    let parsed: Map<String, Value> = serde_json::from_str(document).map_err(|_| syntax())?;
    if parsed.keys().any(|element| !matches!(element.as_str(), "Version" | "Id" | "Statement"))
        || parsed.get("Id").is_some_and(|id| !id.is_string())
        || statements.is_empty()
    {
        return Err(syntax());
    }
    let version = parsed.get("Version").map(|version| version.as_str().unwrap_or_default());
    match (version, kind) {
        (Some("2012-10-17"), _) | (None | Some("2008-10-17"), Kind::Trust) => {}
        (None | Some("2008-10-17"), Kind::Rights) => {
            return Err(malformed("Policy document must be version 2012-10-17 or greater."));
        }
        _ => return Err(malformed("The policy must contain a valid version string")),
    }
    let mut ids = BTreeSet::new();
    for statement in &statements {
        let statement = statement.as_object().ok_or_else(syntax)?;
        check_statement(statement, kind)?;
        if let Some(id) = statement.get("Sid").and_then(Value::as_str).filter(|id| !id.is_empty())
            && !ids.insert(id)
        {
            return Err(malformed("Statement IDs (SID) in a single policy must be unique."));
        }
    }
    let problem = statements.iter().filter(|_| kind == Kind::Trust).find_map(policy::problem);
    problem.map_or(Ok(()), |problem| Err(malformed(format!("The policy cannot be taken: {problem}."))))
}

fn check_statement(statement: &Map<String, Value>, kind: Kind) -> Result<(), Error> {
    let has = |element: &str| statement.contains_key(element);
    if statement.keys().any(|element| !policy::ELEMENTS.contains(&element.as_str()))
        || !matches!(statement.get("Effect").and_then(Value::as_str), Some("Allow" | "Deny"))
        || ["Principal", "Action", "Resource"].iter().any(|element| has(element) && has(&format!("Not{element}")))
    {
        return Err(syntax());
    }
    if let Some(id) = statement.get("Sid") {
        let id = id.as_str().ok_or_else(syntax)?;
        if !id.chars().all(|letter| letter.is_ascii_alphanumeric()) {
            return Err(malformed(
                "Statement IDs (SID) must be alpha-numeric. Check that your input satisfies the regular expression [0-9A-Za-z]*",
            ));
        }
    }
    let either = |element: &str| {
        let name = [element.to_owned(), format!("Not{element}")].into_iter().find(|name| has(name))?;
        statement.get(&name).map(|value| (name, value))
    };
    let (actions, principal, resources) = (either("Action"), either("Principal"), either("Resource"));
    match kind {
        Kind::Trust => {
            let Some((_, principal)) = principal else { return Err(malformed("Missing required field Principal")) };
            if let Some((name, _)) = resources {
                return Err(malformed(format!("Has prohibited field {name}")));
            }
            let Some((_, actions)) = actions else { return Err(malformed("Missing required field Action")) };
            check_principal(principal)?;
            check_actions(actions)?;
            if !texts(actions)?.iter().all(|action| action.to_ascii_lowercase().starts_with("sts:")) {
                return Err(malformed("AssumeRole policy may only specify STS AssumeRole actions."));
            }
        }
        Kind::Rights => {
            if principal.is_some() {
                return Err(malformed("Policy document should not specify a principal."));
            }
            let Some((_, actions)) = actions else {
                return Err(malformed("Policy statement must contain actions."));
            };
            check_actions(actions)?;
            let Some((_, resources)) = resources else {
                return Err(malformed("Policy statement must contain resources."));
            };
            texts(resources)?.into_iter().try_for_each(check_resource)?;
        }
    }
    statement.get("Condition").map_or(Ok(()), check_condition)
}

/// One text or several, and nothing else.
fn texts(value: &Value) -> Result<Vec<&str>, Error> {
    let values = match value {
        Value::Array(values) => values.as_slice(),
        value => std::slice::from_ref(value),
    };
    let texts: Option<Vec<&str>> = values.iter().map(Value::as_str).collect();
    texts.filter(|texts| !texts.is_empty()).ok_or_else(syntax)
}

fn check_actions(actions: &Value) -> Result<(), Error> {
    for action in texts(actions)? {
        let mut parts = action.splitn(3, ':');
        let (vendor, name, more) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
        if action == "*" {
            continue;
        }
        if name.is_none_or(str::is_empty) || vendor.is_empty() {
            return Err(no_vendor());
        }
        if more.is_some() {
            return Err(malformed("Actions/Condition can contain only one colon."));
        }
        let is_odd = |letter: char| !(letter.is_ascii_alphanumeric() || matches!(letter, '-' | '.' | '*' | '?'));
        if vendor.contains(is_odd) {
            return Err(malformed(format!("Vendor {vendor} is not valid")));
        }
    }
    Ok(())
}

fn no_vendor() -> Error {
    malformed("Actions/Conditions must be prefaced by a vendor, e.g., iam, sdb, ec2, etc.")
}

/// A resource has all six parts of an ARN; what they are is the service's.
fn check_resource(resource: &str) -> Result<(), Error> {
    if resource == "*" {
        return Ok(());
    }
    let Some(rest) = resource.strip_prefix("arn:") else {
        return Err(malformed(format!("Resource {resource} must be in ARN format or \"*\".")));
    };
    let partition = rest.split(':').next().unwrap_or_default();
    if !partition.starts_with("aws") && !partition.contains(['*', '?', '$']) {
        return Err(malformed(format!("Partition \"{partition}\" is not valid for resource \"{resource}\".")));
    }
    // A star may stand for several parts at the end.
    if rest.matches(':').count() < 4 && !resource.ends_with('*') {
        return Err(malformed("The policy failed legacy parsing"));
    }
    Ok(())
}

/// Operators, keys and the form of values. Which keys there are, a policy of rights may say as it likes: it is not evaluated.
fn check_condition(condition: &Value) -> Result<(), Error> {
    for (operator, keys) in condition.as_object().ok_or_else(syntax)? {
        if !policy::is_operator(operator) {
            return Err(syntax());
        }
        for (key, values) in keys.as_object().ok_or_else(syntax)? {
            if !key.contains(':') {
                return Err(no_vendor());
            }
            let is_scalar = |value: &Value| value.is_string() || value.is_boolean() || value.is_number();
            let is_valid = values.as_array().map_or_else(|| is_scalar(values), |values| values.iter().all(is_scalar));
            if !is_valid {
                return Err(syntax());
            }
        }
    }
    Ok(())
}

fn check_principal(principal: &Value) -> Result<(), Error> {
    if principal == "*" {
        return Ok(());
    }
    if let Some(name) = principal.as_str() {
        return Err(no_principal("AWS", name));
    }
    let kinds = principal.as_object().filter(|kinds| !kinds.is_empty()).ok_or_else(syntax)?;
    for (kind, names) in kinds {
        let (shown, fits): (&str, fn(&str) -> bool) = match kind.as_str() {
            "AWS" => ("AWS", is_caller),
            "Service" => ("SERVICE", is_service),
            "Federated" => ("FEDERATED", is_federation),
            other => (other, |_| false),
        };
        if let Some(name) = texts(names)?.into_iter().find(|name| !fits(name)) {
            return Err(no_principal(shown, name));
        }
    }
    Ok(())
}

fn no_principal(kind: &str, name: &str) -> Error {
    malformed(format!("Invalid principal in policy: \"{kind}\":\"{name}\""))
}

/// Service, account and name of an ARN of IAM or STS.
fn named(arn: &str) -> Option<(&str, &str)> {
    let parts: Vec<&str> = arn.splitn(6, ':').collect();
    let ["arn", partition, service, "", account, what] = parts[..] else { return None };
    (partition.starts_with("aws") && AccountId::parse(account).is_some()).then_some((service, what))
}

/// An account, or a principal of one. Stars do not stand for parts of it.
fn is_caller(name: &str) -> bool {
    if name == "*" || AccountId::parse(name).is_some() {
        return true;
    }
    let is_named = |what: &str, kinds: &[&str]| {
        kinds
            .iter()
            .filter_map(|kind| what.strip_prefix(kind))
            .any(|name| !name.is_empty() && !name.contains(['*', '?']))
    };
    match named(name) {
        Some(("iam", what)) => what == "root" || is_named(what, &["role/", "user/"]),
        Some(("sts", what)) => is_named(what, &["assumed-role/", "federated-user/"]),
        _ => false,
    }
}

fn is_service(name: &str) -> bool {
    SERVICE_DOMAINS.iter().any(|domain| name.strip_suffix(domain).is_some_and(|name| !name.is_empty()))
}

fn is_federation(name: &str) -> bool {
    FEDERATIONS.contains(&name)
        || named(name).is_some_and(|(service, what)| {
            service == "iam" && (what.starts_with("oidc-provider/") || what.starts_with("saml-provider/"))
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn trust() -> Value {
        json!({"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"})
    }

    fn rights() -> Value {
        json!({"Effect": "Allow", "Action": ["logs:*", "s3:GetObject"], "Resource": "*"})
    }

    fn with(mut statement: Value, element: &str, value: Value) -> Value {
        match value {
            Value::Null => drop(statement.as_object_mut().unwrap().remove(element)),
            value => statement[element] = value,
        }
        statement
    }

    fn said(document: &Value, kind: Kind) -> String {
        let answer = check(&document.to_string(), kind);
        answer.map_or_else(
            |error| {
                assert_eq!((error.status, error.code.as_str()), (400, "MalformedPolicyDocument"));
                error.message
            },
            |()| String::new(),
        )
    }

    fn of(statement: Value, kind: Kind) -> String {
        said(&json!({"Version": "2012-10-17", "Statement": [statement]}), kind)
    }

    #[test]
    fn what_iam_takes_is_taken() {
        for statement in [
            trust(),
            with(trust(), "Sid", json!("a1")),
            with(trust(), "Action", json!(["sts:AssumeRole", "STS:TagSession"])),
            with(with(trust(), "Action", Value::Null), "NotAction", json!("sts:TagSession")),
            with(trust(), "Principal", json!("*")),
            with(trust(), "Principal", json!({"AWS": ["*", "111122223333", "arn:aws:iam::111122223333:role/a/b"]})),
            with(trust(), "Principal", json!({"AWS": "arn:aws:sts::111122223333:assumed-role/r/s"})),
            with(trust(), "Principal", json!({"Federated": "cognito-identity.amazonaws.com"})),
            with(trust(), "Condition", json!({"DateLessThan": {"aws:CurrentTime": "2027-01-01T00:00:00Z"}})),
        ] {
            assert_eq!(of(statement.clone(), Kind::Trust), "", "{statement}");
        }
        for statement in [
            rights(),
            with(rights(), "Resource", json!(["arn:aws:s3:::b/*", "arn:aws:dynamodb:*:*:table/${aws:username}"])),
            with(with(rights(), "Resource", Value::Null), "NotResource", json!("arn:aws:s3:::b")),
            with(rights(), "Condition", json!({"ForAllValues:StringEqualsIfExists": {"dynamodb:LeadingKeys": ["a"]}})),
            with(rights(), "Condition", json!({"BinaryEquals": {"x:y": "QQ=="}, "Null": {"x:z": true}})),
        ] {
            assert_eq!(of(statement.clone(), Kind::Rights), "", "{statement}");
        }
        assert_eq!(said(&json!({"Statement": trust()}), Kind::Trust), "");
        assert_eq!(said(&json!({"Version": "2008-10-17", "Id": "x", "Statement": trust()}), Kind::Trust), "");
    }

    #[test]
    fn documents_of_both_kinds_have_one_grammar() {
        const SYNTAX: &str = "Syntax errors in policy.";
        for (kind, statement) in [(Kind::Trust, trust()), (Kind::Rights, rights())] {
            let one = |element: &str, value: Value| of(with(statement.clone(), element, value), kind);
            assert_eq!(one("Effect", json!("allow")), SYNTAX);
            assert_eq!(one("Effect", Value::Null), SYNTAX);
            assert_eq!(one("Foo", json!("x")), SYNTAX);
            assert_eq!(one("NotAction", json!("sts:TagSession")), SYNTAX);
            assert_eq!(one("Action", json!([])), SYNTAX);
            assert_eq!(one("Action", json!(["sts:AssumeRole", 1])), SYNTAX);
            assert_eq!(one("Sid", json!(1)), SYNTAX);
            assert!(one("Sid", json!("a b")).starts_with("Statement IDs (SID) must be alpha-numeric."));
            assert!(one("Action", json!("foo")).starts_with("Actions/Conditions must be prefaced by a vendor"));
            assert_eq!(one("Action", json!("sts:a:b")), "Actions/Condition can contain only one colon.");
            assert_eq!(one("Action", json!("s ts:a")), "Vendor s ts is not valid");
            assert_eq!(one("Condition", json!({"StringEquls": {"aws:SourceIp": "x"}})), SYNTAX);
            assert_eq!(one("Condition", json!({"StringEquals": {"aws:SourceIp": {}}})), SYNTAX);
            assert_eq!(one("Condition", json!("x")), SYNTAX);
            assert!(one("Condition", json!({"Bool": {"foo": "true"}})).starts_with("Actions/Conditions must be"));
            let two = json!([with(statement.clone(), "Sid", json!("a")), with(statement.clone(), "Sid", json!("a"))]);
            let unique = "Statement IDs (SID) in a single policy must be unique.";
            assert_eq!(said(&json!({"Version": "2012-10-17", "Statement": two}), kind), unique);
            let all = json!({"Version": "2012-10-17", "Statement": [statement]});
            assert_eq!(said(&with(all.clone(), "Statement", json!([])), kind), SYNTAX);
            assert_eq!(said(&with(all.clone(), "Statement", json!(["x"])), kind), SYNTAX);
            assert_eq!(said(&with(all.clone(), "Foo", json!(1)), kind), SYNTAX);
            assert_eq!(said(&with(all.clone(), "Id", json!(1)), kind), SYNTAX);
            let version = said(&with(all, "Version", json!("2020-01-01")), kind);
            assert_eq!(version, "The policy must contain a valid version string");
            assert_eq!(said(&json!([]), kind), SYNTAX);
            assert_eq!(check("{", kind).unwrap_err().message, "This policy contains invalid Json");
        }
    }

    #[test]
    fn a_trust_policy_names_whom_it_trusts_and_nothing_else() {
        let one = |element: &str, value: Value| of(with(trust(), element, value), Kind::Trust);
        assert_eq!(one("Resource", json!("*")), "Has prohibited field Resource");
        assert_eq!(one("Principal", Value::Null), "Missing required field Principal");
        assert_eq!(one("Action", Value::Null), "Missing required field Action");
        for action in ["s3:GetObject", "*"] {
            assert_eq!(
                one("Action", json!([action, "sts:AssumeRole"])),
                "AssumeRole policy may only specify STS AssumeRole actions."
            );
        }
        for (principal, shown) in [
            (json!("foo"), r#""AWS":"foo""#),
            (json!({"AWS": "foo"}), r#""AWS":"foo""#),
            (json!({"AWS": ["111122223333", "1234"]}), r#""AWS":"1234""#),
            (json!({"AWS": "arn:aws:iam::111122223333:role/*"}), r#""AWS":"arn:aws:iam::111122223333:role/*""#),
            (json!({"AWS": "arn:aws:s3:::b"}), r#""AWS":"arn:aws:s3:::b""#),
            (json!({"Foo": "x"}), r#""Foo":"x""#),
            (json!({"Service": "foo"}), r#""SERVICE":"foo""#),
            (json!({"Federated": "foo"}), r#""FEDERATED":"foo""#),
        ] {
            assert_eq!(one("Principal", principal), format!("Invalid principal in policy: {shown}"));
        }
        assert_eq!(one("Principal", json!({})), "Syntax errors in policy.");
        for condition in [
            json!({"BinaryEquals": {"aws:SourceIp": "QQ=="}}),
            json!({"StringEquals": {"aws:PrincipalTag/a": "b"}}),
            json!({"StringEquals": {"sts:RoleSessionName": "${aws:username}"}}),
            json!({"DateLessThan": {"aws:CurrentTime": "soon"}}),
        ] {
            assert!(one("Condition", condition).starts_with("The policy cannot be taken: "));
        }
    }

    #[test]
    fn a_policy_of_rights_names_what_may_be_done_and_with_what() {
        let one = |element: &str, value: Value| of(with(rights(), element, value), Kind::Rights);
        assert_eq!(one("Resource", json!("foo")), "Resource foo must be in ARN format or \"*\".");
        assert_eq!(
            one("Resource", json!("arn:x:s3:::b")),
            "Partition \"x\" is not valid for resource \"arn:x:s3:::b\"."
        );
        assert_eq!(one("Resource", json!("arn:aws:s3")), "The policy failed legacy parsing");
        assert_eq!(one("Principal", json!("*")), "Policy document should not specify a principal.");
        assert_eq!(one("NotPrincipal", json!("*")), "Policy document should not specify a principal.");
        assert_eq!(one("Resource", Value::Null), "Policy statement must contain resources.");
        assert_eq!(one("Action", Value::Null), "Policy statement must contain actions.");
        for document in [json!({"Statement": rights()}), json!({"Version": "2008-10-17", "Statement": rights()})] {
            assert_eq!(said(&document, Kind::Rights), "Policy document must be version 2012-10-17 or greater.");
        }
    }
}

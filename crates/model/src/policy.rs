//! Resource policies: whether the statements of a resource let somebody do something. Pure.
//!
//! The language is IAM's. What this does not know it must not read as a grant: an `Allow` with an element, an operator or a
//! principal that is not known here does not hold, a `Deny` with one does.
//!
//! Not here: the policies of identities.

use serde_json::Value;

/// Somebody who wants to do something.
#[derive(Debug, Clone, Copy)]
pub enum Actor<'a> {
    /// Nobody has said who.
    Anonymous,
    /// A service of the platform, as `apigateway.amazonaws.com`.
    Service(&'a str),
    /// A principal: its account, and its ARN.
    Principal(&'a str, &'a str),
}

/// What somebody wants to do.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Who.
    pub actor: Actor<'a>,
    /// `lambda:InvokeFunction`
    pub action: &'a str,
    /// The ARN of the resource.
    pub resource: &'a str,
    /// Condition keys in lower case, with their values.
    pub context: &'a [(&'a str, &'a str)],
}

/// What a policy says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// A statement allows it and none denies it.
    Allowed,
    /// A statement denies it.
    Denied,
    /// No statement is about it.
    Silent,
}

/// Elements of a statement that are known here.
const ELEMENTS: &[&str] = &["Sid", "Effect", "Principal", "Action", "Resource", "Condition"];
/// Condition operators that are known here, without `IfExists`.
const OPERATORS: &[&str] = &[
    "StringEquals",
    "StringNotEquals",
    "StringEqualsIgnoreCase",
    "StringLike",
    "StringNotLike",
    "ArnEquals",
    "ArnLike",
    "ArnNotEquals",
    "ArnNotLike",
    "Bool",
    "Null",
];

/// What the statements of a policy say of a request.
pub fn evaluate(statements: &[Value], request: &Request<'_>) -> Verdict {
    let mut verdict = Verdict::Silent;
    for statement in statements {
        match statement["Effect"].as_str() {
            Some("Allow") if holds(statement, request, false) => verdict = Verdict::Allowed,
            // What is not understood may well be meant for this.
            Some("Deny") if holds(statement, request, true) => return Verdict::Denied,
            _ => {}
        }
    }
    verdict
}

/// What is wrong with a statement, if it is one that this cannot read.
pub fn problem(statement: &Value) -> Option<String> {
    let Some(members) = statement.as_object() else { return Some("a statement is an object".into()) };
    if let Some(other) = members.keys().find(|member| !ELEMENTS.contains(&member.as_str())) {
        return Some(format!("the element {other} of a statement is not supported"));
    }
    if !matches!(statement["Effect"].as_str(), Some("Allow" | "Deny")) {
        return Some("the Effect of a statement is Allow or Deny".into());
    }
    for element in ["Principal", "Action"] {
        if texts(&statement[element]).is_empty() && !statement[element].is_object() {
            return Some(format!("a statement has no {element}"));
        }
    }
    let operators = statement["Condition"].as_object().into_iter().flatten().map(|(operator, _)| operator);
    operators
        .map(|operator| operator.strip_suffix("IfExists").unwrap_or(operator))
        .find(|operator| !OPERATORS.contains(operator))
        .map(|operator| format!("the condition operator {operator} is not supported"))
}

/// Whether a statement is about a request. `unknown` is what holds of parts that are not understood.
fn holds(statement: &Value, request: &Request<'_>, unknown: bool) -> bool {
    let known = statement.as_object().is_some_and(|members| members.keys().all(|key| ELEMENTS.contains(&key.as_str())));
    if !known && !unknown {
        return false;
    }
    let resource = &statement["Resource"];
    is_actor(&statement["Principal"], request.actor, unknown)
        && texts(&statement["Action"]).iter().any(|pattern| like_ignoring_case(pattern, request.action))
        && (resource.is_null() || texts(resource).iter().any(|pattern| like(pattern, request.resource)))
        && statement["Condition"].as_object().into_iter().flatten().all(|(operator, keys)| {
            let keys = keys.as_object().into_iter().flatten();
            keys.into_iter().all(|(key, wanted)| condition(operator, key, wanted, request.context).unwrap_or(unknown))
        })
}

fn texts(value: &Value) -> Vec<&str> {
    match value {
        Value::Array(values) => values.iter().filter_map(Value::as_str).collect(),
        value => value.as_str().into_iter().collect(),
    }
}

fn is_actor(principal: &Value, actor: Actor<'_>, unknown: bool) -> bool {
    if principal == "*" {
        return true;
    }
    let Some(kinds) = principal.as_object() else { return unknown };
    kinds.iter().any(|(kind, names)| {
        let mut names = texts(names).into_iter();
        match (kind.as_str(), actor) {
            ("AWS", Actor::Principal(account, arn)) => names.any(|name| is_principal(name, account, arn)),
            ("AWS", Actor::Anonymous) => names.any(|name| name == "*"),
            ("Service", Actor::Service(service)) => names.any(|name| name == service),
            ("AWS" | "Service", _) => false,
            _ => unknown,
        }
    })
}

/// Whether a principal of a policy means this caller. A role means its sessions.
fn is_principal(name: &str, account: &str, arn: &str) -> bool {
    if name == "*" || name == account || name == arn {
        return true;
    }
    let Some((head, rest)) = name.split_once("::") else { return false };
    let Some((owner, what)) = rest.split_once(':').filter(|_| head.starts_with("arn:") && head.ends_with(":iam"))
    else {
        return false;
    };
    if owner != account {
        return false;
    }
    if what == "root" {
        return true;
    }
    let role = what.strip_prefix("role/").map(|path| path.rsplit('/').next().unwrap_or(path));
    let session = arn.split_once(":assumed-role/").and_then(|(_, session)| session.split_once('/'));
    role.zip(session).is_some_and(|(role, (of, _))| role == of)
}

/// Whether a condition holds; nothing if its operator is not known.
fn condition(operator: &str, key: &str, wanted: &Value, context: &[(&str, &str)]) -> Option<bool> {
    let (operator, if_exists) = match operator.strip_suffix("IfExists") {
        Some(operator) => (operator, true),
        None => (operator, false),
    };
    let key = key.to_ascii_lowercase();
    let found = context.iter().find(|(name, _)| *name == key).map(|(_, value)| *value);
    let wanted = texts_or_flags(wanted);
    if operator == "Null" {
        return Some(wanted.iter().any(|wanted| (wanted == "true") == found.is_none()));
    }
    let matches: fn(&str, &str) -> bool = match operator {
        "StringEquals" | "StringNotEquals" => |wanted, found| wanted == found,
        "StringEqualsIgnoreCase" | "Bool" => |wanted, found| wanted.eq_ignore_ascii_case(found),
        "StringLike" | "StringNotLike" => like,
        "ArnEquals" | "ArnLike" | "ArnNotEquals" | "ArnNotLike" => arn_like,
        _ => return None,
    };
    let negative = operator.contains("Not");
    Some(match found {
        Some(found) => wanted.iter().any(|wanted| matches(wanted, found)) != negative,
        None => negative || if_exists,
    })
}

fn texts_or_flags(value: &Value) -> Vec<String> {
    let text = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    match value {
        Value::Array(values) => values.iter().filter_map(text).collect(),
        value => text(value).into_iter().collect(),
    }
}

/// Whether a text fits a pattern of `*` and `?`.
fn like(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut at, mut of) = (0, 0);
    // Where the last star was, and how much of the text it has taken.
    let mut star: Option<(usize, usize)> = None;
    while of < text.len() {
        match pattern.get(at) {
            Some('*') => {
                star = Some((at, of));
                at += 1;
            }
            Some(wanted) if *wanted == '?' || *wanted == text[of] => {
                at += 1;
                of += 1;
            }
            _ => {
                let Some((begin, taken)) = star else { return false };
                star = Some((begin, taken + 1));
                at = begin + 1;
                of = taken + 1;
            }
        }
    }
    pattern[at..].iter().all(|rest| *rest == '*')
}

fn like_ignoring_case(pattern: &str, text: &str) -> bool {
    like(&pattern.to_ascii_lowercase(), &text.to_ascii_lowercase())
}

/// As `like`, each of the six parts of an ARN on its own.
fn arn_like(pattern: &str, arn: &str) -> bool {
    let (mut patterns, mut parts) = (pattern.splitn(6, ':'), arn.splitn(6, ':'));
    loop {
        match (patterns.next(), parts.next()) {
            (Some(pattern), Some(part)) if like(pattern, part) => {}
            (None, None) => return true,
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    const ARN: &str = "arn:aws:lambda:us-east-1:000000000000:function:f";
    const ROOT: Actor<'static> = Actor::Principal("111122223333", "arn:aws:iam::111122223333:root");

    fn ask(statement: Value, actor: Actor<'_>, context: &[(&str, &str)]) -> Verdict {
        evaluate(&[statement], &Request { actor, action: "lambda:InvokeFunction", resource: ARN, context })
    }

    fn allow(principal: Value, condition: Value) -> Value {
        let mut statement =
            json!({"Effect": "Allow", "Principal": principal, "Action": "lambda:InvokeFunction", "Resource": ARN});
        if !condition.is_null() {
            statement["Condition"] = condition;
        }
        statement
    }

    #[test]
    fn principals_are_accounts_roles_services_or_everybody() {
        let session = Actor::Principal("111122223333", "arn:aws:sts::111122223333:assumed-role/r/s");
        for (principal, actor, allowed) in [
            (json!("*"), Actor::Anonymous, true),
            (json!({"AWS": "*"}), Actor::Anonymous, true),
            (json!({"AWS": "arn:aws:iam::111122223333:root"}), ROOT, true),
            (json!({"AWS": "111122223333"}), session, true),
            (json!({"AWS": ["444455556666", "111122223333"]}), ROOT, true),
            (json!({"AWS": "arn:aws:iam::111122223333:role/path/r"}), session, true),
            (json!({"AWS": "arn:aws:iam::111122223333:role/other"}), session, false),
            (json!({"AWS": "arn:aws:iam::444455556666:role/r"}), session, false),
            (json!({"AWS": "arn:aws:iam::444455556666:root"}), ROOT, false),
            (json!({"Service": "apigateway.amazonaws.com"}), Actor::Service("apigateway.amazonaws.com"), true),
            (json!({"Service": "apigateway.amazonaws.com"}), Actor::Service("s3.amazonaws.com"), false),
            (json!({"Service": "apigateway.amazonaws.com"}), Actor::Anonymous, false),
            (json!({"Federated": "x"}), ROOT, false),
        ] {
            let expected = if allowed { Verdict::Allowed } else { Verdict::Silent };
            assert_eq!(ask(allow(principal.clone(), Value::Null), actor, &[]), expected, "{principal}");
        }
    }

    #[test]
    fn conditions_must_all_hold() {
        let api = "arn:aws:execute-api:us-east-1:000000000000:abc/live/GET/pets";
        let context = [("aws:sourcearn", api), ("aws:sourceaccount", "000000000000")];
        for (condition, holds) in [
            (json!({"ArnLike": {"AWS:SourceArn": "arn:aws:execute-api:us-east-1:000000000000:abc/*/*/pets"}}), true),
            (json!({"ArnLike": {"AWS:SourceArn": "arn:aws:execute-api:us-east-1:000000000000:other/*"}}), false),
            (json!({"ArnLike": {"AWS:SourceArn": "arn:*:abc/*"}}), false),
            (json!({"StringEquals": {"AWS:SourceAccount": "000000000000"}}), true),
            (json!({"StringEquals": {"AWS:SourceAccount": ["1", "000000000000"]}}), true),
            (json!({"StringNotEquals": {"AWS:SourceAccount": "000000000000"}}), false),
            (json!({"StringEquals": {"aws:PrincipalOrgID": "o-1"}}), false),
            (json!({"StringEqualsIfExists": {"aws:PrincipalOrgID": "o-1"}}), true),
            (json!({"StringNotEquals": {"aws:PrincipalOrgID": "o-1"}}), true),
            (json!({"Null": {"aws:PrincipalOrgID": "true"}}), true),
            (json!({"Bool": {"lambda:InvokedViaFunctionUrl": true}}), false),
            (json!({"DateLessThan": {"aws:CurrentTime": "x"}}), false),
        ] {
            let verdict = ask(allow(json!("*"), condition.clone()), Actor::Anonymous, &context);
            assert_eq!(verdict == Verdict::Allowed, holds, "{condition}");
            let mut statement = allow(json!("*"), condition);
            statement["Effect"] = json!("Deny");
            let unknown = problem(&statement).is_some();
            assert_eq!(ask(statement, Actor::Anonymous, &context) == Verdict::Denied, holds || unknown);
        }
    }

    #[test]
    fn a_denial_wins_and_what_is_not_known_grants_nothing() {
        let mut deny = allow(json!("*"), Value::Null);
        deny["Effect"] = json!("Deny");
        let request = Request { actor: ROOT, action: "lambda:InvokeFunction", resource: ARN, context: &[] };
        assert_eq!(evaluate(&[allow(json!("*"), Value::Null), deny], &request), Verdict::Denied);
        let mut odd = allow(json!("*"), Value::Null);
        odd["NotAction"] = json!("x");
        assert!(problem(&odd).is_some());
        assert_eq!(ask(odd, ROOT, &[]), Verdict::Silent);
        for action in ["lambda:*", "LAMBDA:invokefunction", "*"] {
            let mut statement = allow(json!("*"), Value::Null);
            statement["Action"] = json!([action]);
            assert_eq!(ask(statement, ROOT, &[]), Verdict::Allowed, "{action}");
        }
        for resource in [json!("arn:aws:lambda:us-east-1:000000000000:function:g"), json!(format!("{ARN}:live"))] {
            let mut statement = allow(json!("*"), Value::Null);
            statement["Resource"] = resource;
            assert_eq!(ask(statement, ROOT, &[]), Verdict::Silent);
        }
    }

    proptest! {
        #[test]
        fn stars_fit_what_they_leave_out(before in "[a-c]{0,5}", middle in "[a-c]{0,5}", after in "[a-c]{0,5}") {
            let text = format!("{before}{middle}{after}");
            let patterns = [format!("{before}*{after}"), format!("*{middle}*"), text.clone(), "?".repeat(text.len())];
            for pattern in &patterns {
                prop_assert!(like(pattern, &text), "{} {}", pattern, text);
            }
            for pattern in [format!("{text}d"), format!("{text}?")] {
                prop_assert!(!like(&pattern, &text), "{} {}", pattern, text);
            }
        }
    }
}

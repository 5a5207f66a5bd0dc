//! Policies of resources and roles: whether their statements let somebody do something. Pure.
//!
//! The language is IAM's. What this does not know it must not read as a grant: an `Allow` with an element, an operator, a
//! key or a value that is not known here does not hold, a `Deny` with one does. `problem` finds such statements before they
//! are kept, so that none is passed over in silence.
//!
//! Not here: the policies of identities.

mod condition;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::str::Chars;

use serde_json::Value;

pub use condition::is_operator;

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

/// When and from where something is wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Circumstances {
    /// Milliseconds since the epoch.
    pub now_ms: u64,
    /// The address that the call comes from; services have none.
    pub source_ip: Option<IpAddr>,
    /// Whether it comes by TLS.
    pub secure: bool,
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
    /// Condition keys in lower case, with their values, beside those that follow from the actor and the circumstances.
    pub context: &'a [(&'a str, &'a str)],
    /// When and from where.
    pub circumstances: Circumstances,
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

/// Elements of a statement.
pub const ELEMENTS: &[&str] =
    &["Sid", "Effect", "Principal", "NotPrincipal", "Action", "NotAction", "Resource", "NotResource", "Condition"];
/// Kinds of principals.
const KINDS: &[&str] = &["AWS", "Service", "Federated", "CanonicalUser"];

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
    for (element, is_needed) in [("Principal", true), ("Action", true), ("Resource", false)] {
        let (plain, negated) = (&statement[element], &statement[format!("Not{element}")]);
        match (plain.is_null(), negated.is_null()) {
            (false, false) => return Some(format!("a statement has {element} and Not{element}")),
            (true, true) if is_needed => return Some(format!("a statement has no {element}")),
            (true, true) => {}
            _ if element == "Principal" => {}
            _ => {
                let named = if plain.is_null() { negated } else { plain };
                if let Some(problem) = texts_problem(element, named) {
                    return Some(problem);
                }
            }
        }
    }
    if statement["Effect"] == "Allow" && !statement["NotPrincipal"].is_null() {
        return Some("a statement with NotPrincipal cannot allow, only deny".into());
    }
    let principal = if statement["Principal"].is_null() { "NotPrincipal" } else { "Principal" };
    principal_problem(&statement[principal]).or_else(|| {
        let vouched =
            statement["Principal"].as_object().is_some_and(|kinds| kinds.keys().all(|kind| kind == "Federated"));
        condition::problem(&statement["Condition"], vouched)
    })
}

/// What is wrong with the names of an element.
fn texts_problem(element: &str, value: &Value) -> Option<String> {
    let listed = value.as_array().map_or(1, Vec::len);
    let texts: Vec<_> = texts(value).collect();
    if texts.is_empty() || texts.len() != listed {
        return Some(format!("the {element} of a statement is one text or several"));
    }
    let variable = texts.iter().find(|text| text.contains("${"))?;
    Some(format!("the policy variable in {variable} is not supported"))
}

fn principal_problem(principal: &Value) -> Option<String> {
    if principal == "*" {
        return None;
    }
    let Some(kinds) = principal.as_object().filter(|kinds| !kinds.is_empty()) else {
        return Some("a principal is * or an object of names".into());
    };
    kinds.iter().find_map(|(kind, names)| {
        if !KINDS.contains(&kind.as_str()) {
            return Some(format!("principals of the kind {kind} are not supported"));
        }
        texts_problem("Principal", names)
    })
}

/// Whether a statement is about a request. `unknown` is what holds of parts that are not understood.
fn holds(statement: &Value, request: &Request<'_>, unknown: bool) -> bool {
    let known = statement.as_object().is_some_and(|members| members.keys().all(|key| ELEMENTS.contains(&key.as_str())));
    if !known && !unknown {
        return false;
    }
    let named = |element: &str, negated: &str, fits: &dyn Fn(&str) -> bool| {
        let is_one = |names: &Value| texts(names).any(fits);
        match (&statement[element], &statement[negated]) {
            (Value::Null, Value::Null) => None,
            (Value::Null, negated) => Some(!is_one(negated)),
            (names, Value::Null) => Some(is_one(names)),
            _ => Some(unknown),
        }
    };
    let is_meant = match (&statement["Principal"], &statement["NotPrincipal"]) {
        // To let in everybody but some is nothing that `problem` lets pass.
        (Value::Null, others) => unknown && !is_left_out(others, request.actor),
        (principal, Value::Null) => is_actor(principal, request.actor, unknown),
        _ => unknown,
    };
    is_meant
        && named("Action", "NotAction", &|name| like_ignoring_case(name, request.action)).unwrap_or(false)
        && named("Resource", "NotResource", &|name| like(name, request.resource)).unwrap_or(true)
        && conditions_hold(&statement["Condition"], request, unknown)
}

fn conditions_hold(conditions: &Value, request: &Request<'_>, unknown: bool) -> bool {
    conditions.as_object().into_iter().flatten().all(|(operator, keys)| {
        let keys = keys.as_object().into_iter().flatten();
        keys.into_iter().all(|(key, wanted)| condition::holds(operator, key, wanted, request).unwrap_or(unknown))
    })
}

fn texts(value: &Value) -> impl Iterator<Item = &str> {
    let listed = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
    listed.iter().filter_map(Value::as_str)
}

fn is_actor(principal: &Value, actor: Actor<'_>, unknown: bool) -> bool {
    if principal == "*" {
        return true;
    }
    let Some(kinds) = principal.as_object() else { return unknown };
    kinds.iter().any(|(kind, names)| {
        let mut names = texts(names);
        match (kind.as_str(), actor) {
            ("AWS", Actor::Principal(account, arn)) => names.any(|name| is_principal(name, account, arn)),
            ("AWS", Actor::Anonymous) => names.any(|name| name == "*"),
            ("Service", Actor::Service(service)) => names.any(|name| name == service),
            // Nobody comes here vouched for by another, or by the id of a bucket's owner.
            (kind, _) if KINDS.contains(&kind) => false,
            _ => unknown,
        }
    })
}

/// Whether `NotPrincipal` leaves a caller out. A session is left out only with its role and its account: each is a
/// principal of its own, and one that is not named is denied.
fn is_left_out(others: &Value, actor: Actor<'_>) -> bool {
    let Actor::Principal(account, arn) = actor else { return is_actor(others, actor, false) };
    let is_named = |fits: &dyn Fn(&str) -> bool| texts(&others["AWS"]).any(fits);
    let of_session = |(role, _): (&str, &str)| {
        is_named(&|name| name == arn) && is_named(&|name| role_of(name, account) == Some(role))
    };
    others == "*"
        || is_named(&|name| name == "*")
        || (is_named(&|name| name == account || within(name, account) == Some("root"))
            && session_of(arn).is_none_or(of_session))
}

/// Whether a principal of a policy means this caller. A role means its sessions.
fn is_principal(name: &str, account: &str, arn: &str) -> bool {
    if name == "*" || name == account || name == arn || within(name, account) == Some("root") {
        return true;
    }
    role_of(name, account).zip(session_of(arn)).is_some_and(|(role, (of, _))| role == of)
}

/// Role and name of a session.
fn session_of(arn: &str) -> Option<(&str, &str)> {
    arn.split_once(":assumed-role/")?.1.split_once('/')
}

/// What an ARN of IAM names within an account.
fn within<'a>(arn: &'a str, account: &str) -> Option<&'a str> {
    let (head, rest) = arn.split_once("::")?;
    let (owner, what) = rest.split_once(':')?;
    (owner == account && head.starts_with("arn:") && head.ends_with(":iam")).then_some(what)
}

/// The name of the role of an account that an ARN means.
fn role_of<'a>(arn: &'a str, account: &str) -> Option<&'a str> {
    within(arn, account)?.strip_prefix("role/")?.rsplit('/').next()
}

/// Whether a text fits a pattern of `*` and `?`.
fn like(pattern: &str, text: &str) -> bool {
    fits(pattern, text, |wanted, found| wanted == found)
}

fn like_ignoring_case(pattern: &str, text: &str) -> bool {
    fits(pattern, text, |wanted, found| wanted.eq_ignore_ascii_case(&found))
}

/// Without a copy of either: every call of a function's URL comes here.
fn fits(pattern: &str, text: &str, is_same: impl Fn(char, char) -> bool) -> bool {
    let (mut pattern, mut text) = (pattern.chars(), text.chars());
    // What follows the last star, and the text that the star has not taken.
    let mut star: Option<(Chars<'_>, Chars<'_>)> = None;
    while let Some(found) = text.clone().next() {
        let mut ahead = pattern.clone();
        match ahead.next() {
            Some('*') => {
                pattern = ahead;
                star = Some((pattern.clone(), text.clone()));
            }
            Some(wanted) if wanted == '?' || is_same(wanted, found) => {
                pattern = ahead;
                text.next();
            }
            _ => {
                let Some((after, untaken)) = &mut star else { return false };
                untaken.next();
                (pattern, text) = (after.clone(), untaken.clone());
            }
        }
    }
    pattern.all(|rest| rest == '*')
}

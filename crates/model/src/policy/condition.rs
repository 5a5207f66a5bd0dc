//! Conditions of statements: operators, the keys that are known, and whether they hold. Pure.
//!
//! Every key has one value here or none, so that the operators for sets differ from others only where there is none.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::net::IpAddr;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde_json::Value;

use super::{Actor, Request, like, session_of};

/// Keys that are known here, in lower case: either they have their value whenever a request has it, or nothing here can
/// give them one, as those of organizations. Others are not evaluated.
const KEYS: &[&str] = &[
    "aws:calledvia",
    "aws:calledviafirst",
    "aws:calledvialast",
    "aws:currenttime",
    "aws:epochtime",
    "aws:federatedprovider",
    "aws:multifactorauthage",
    "aws:multifactorauthpresent",
    "aws:principalaccount",
    "aws:principalarn",
    "aws:principalisawsservice",
    "aws:principalorgid",
    "aws:principalorgpaths",
    "aws:principalservicename",
    "aws:principaltype",
    "aws:securetransport",
    "aws:sourceaccount",
    "aws:sourcearn",
    "aws:sourceidentity",
    "aws:sourceip",
    "aws:sourceorgid",
    "aws:sourceorgpaths",
    "aws:sourcevpc",
    "aws:sourcevpce",
    "aws:username",
    "aws:viaawsservice",
    "aws:vpcsourceip",
    "lambda:eventsourcetoken",
    "lambda:functionurlauthtype",
    "lambda:invokedviafunctionurl",
    "sts:externalid",
    "sts:rolesessionname",
    "sts:sourceidentity",
];

/// How a value may compare with a policy's.
type Order = fn(Ordering) -> bool;

#[derive(Debug, Clone, Copy)]
enum Test {
    Equals,
    EqualsIgnoringCase,
    Like,
    Arn,
    Bool,
    Null,
    Address,
    Number(Order),
    Date(Order),
}

/// What a condition does with several values, or with none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Set {
    All,
    Any,
}

#[derive(Debug, Clone, Copy)]
struct Operator {
    test: Test,
    negative: bool,
    if_exists: bool,
    set: Option<Set>,
}

impl Operator {
    fn read(name: &str) -> Option<Self> {
        let (set, plain) = match name.split_once(':') {
            Some(("ForAllValues", plain)) => (Some(Set::All), plain),
            Some(("ForAnyValue", plain)) => (Some(Set::Any), plain),
            Some(_) => return None,
            None => (None, name),
        };
        if plain == "Null" {
            return set.is_none().then_some(Self { test: Test::Null, negative: false, if_exists: false, set });
        }
        let (plain, if_exists) = plain.strip_suffix("IfExists").map_or((plain, false), |plain| (plain, true));
        let (test, negative) = match plain {
            "StringEquals" => (Test::Equals, false),
            "StringNotEquals" => (Test::Equals, true),
            "StringEqualsIgnoreCase" => (Test::EqualsIgnoringCase, false),
            "StringNotEqualsIgnoreCase" => (Test::EqualsIgnoringCase, true),
            "StringLike" => (Test::Like, false),
            "StringNotLike" => (Test::Like, true),
            "ArnEquals" | "ArnLike" => (Test::Arn, false),
            "ArnNotEquals" | "ArnNotLike" => (Test::Arn, true),
            "Bool" => (Test::Bool, false),
            "IpAddress" => (Test::Address, false),
            "NotIpAddress" => (Test::Address, true),
            _ => {
                if let Some(order) = plain.strip_prefix("Numeric") {
                    let (order, negative) = ordered(order)?;
                    (Test::Number(order), negative)
                } else {
                    let (order, negative) = ordered(plain.strip_prefix("Date")?)?;
                    (Test::Date(order), negative)
                }
            }
        };
        Some(Self { test, negative, if_exists, set })
    }

    /// Whether a value of a policy fits one of a request; nothing if it is no value for this operator.
    fn fits(self, wanted: &str, found: &str) -> Option<bool> {
        Some(match self.test {
            Test::Equals => wanted == found,
            Test::EqualsIgnoringCase => wanted.to_lowercase() == found.to_lowercase(),
            Test::Like => like(wanted, found),
            Test::Arn => arn_like(wanted, found),
            Test::Bool | Test::Null => flag(wanted)? == flag(found).unwrap_or(false),
            Test::Address => {
                let (network, found) = (network(wanted)?, found.parse::<IpAddr>().ok());
                found.is_some_and(|found| within(found.to_canonical(), network))
            }
            Test::Number(order) => {
                let (wanted, found) = (number(wanted)?, number(found));
                found.and_then(|found| found.partial_cmp(&wanted)).is_some_and(order)
            }
            Test::Date(order) => {
                let (wanted, found) = (date(wanted)?, date(found));
                found.is_some_and(|found| order(found.cmp(&wanted)))
            }
        })
    }
}

/// How a request's value compares with a policy's, and whether it must not.
fn ordered(name: &str) -> Option<(Order, bool)> {
    let (order, negative): (Order, bool) = match name {
        "Equals" => (Ordering::is_eq, false),
        "NotEquals" => (Ordering::is_eq, true),
        "LessThan" => (Ordering::is_lt, false),
        "LessThanEquals" => (Ordering::is_le, false),
        "GreaterThan" => (Ordering::is_gt, false),
        "GreaterThanEquals" => (Ordering::is_ge, false),
        _ => return None,
    };
    Some((order, negative))
}

/// Whether a name is one of the language's operators. One of them is not evaluated here: no key has a binary value.
pub fn is_operator(name: &str) -> bool {
    let plain = name.strip_prefix("ForAllValues:").or_else(|| name.strip_prefix("ForAnyValue:")).unwrap_or(name);
    Operator::read(name).is_some() || matches!(plain, "BinaryEquals" | "BinaryEqualsIfExists")
}

/// Whether a condition holds; nothing if a part of it is not known.
pub(super) fn holds(operator: &str, key: &str, wanted: &Value, request: &Request<'_>) -> Option<bool> {
    let operator = Operator::read(operator)?;
    let found = value(&key.to_ascii_lowercase(), request)?;
    let mut any = false;
    for wanted in scalars(wanted) {
        let wanted = wanted?;
        if wanted.contains("${") {
            return None;
        }
        any |= match (operator.test, &found) {
            (Test::Null, found) => flag(&wanted)? == found.is_none(),
            (_, Some(found)) => operator.fits(&wanted, found)?,
            (_, None) => operator.fits(&wanted, "").map(|_| false)?,
        };
    }
    Some(match (operator.test, &found, operator.set) {
        (Test::Null, _, _) => any,
        (_, Some(_), _) => any != operator.negative,
        (_, None, Some(Set::All)) => true,
        (_, None, Some(Set::Any)) => operator.if_exists,
        (_, None, None) => operator.negative || operator.if_exists,
    })
}

/// What is wrong with the conditions of a statement, if they cannot be evaluated. Those of callers whom another has vouched
/// for have keys of that other's, and nobody here is such a caller.
pub(super) fn problem(conditions: &Value, any_key: bool) -> Option<String> {
    let Some(conditions) = conditions.as_object() else {
        return (!conditions.is_null()).then(|| "the Condition of a statement is an object".to_owned());
    };
    for (name, keys) in conditions {
        let Some(operator) = Operator::read(name) else {
            return Some(format!("the condition operator {name} is not supported"));
        };
        let Some(keys) = keys.as_object().filter(|keys| !keys.is_empty()) else {
            return Some(format!("the condition operator {name} has no key"));
        };
        for (key, wanted) in keys {
            if !any_key && !KEYS.contains(&key.to_ascii_lowercase().as_str()) {
                return Some(format!("the condition key {key} is not supported"));
            }
            let mut values = scalars(wanted).peekable();
            if values.peek().is_none() {
                return Some(format!("the condition key {key} has no value"));
            }
            for value in values {
                let Some(value) = value else { return Some(format!("a value of {key} is no text")) };
                if value.contains("${") {
                    return Some(format!("the policy variable in {value} is not supported"));
                }
                if operator.fits(&value, "").is_none() {
                    return Some(format!("{value} is no value for the condition operator {name}"));
                }
            }
        }
    }
    None
}

/// The value of a key in lower case, if it has one; nothing if the key is not known.
fn value<'a>(key: &str, request: &Request<'a>) -> Option<Option<Cow<'a, str>>> {
    if let Some((_, value)) = request.context.iter().find(|(name, _)| *name == key) {
        return Some(Some(Cow::Borrowed(*value)));
    }
    let seen = &request.circumstances;
    let flag = |flag: bool| Some(Cow::Borrowed(if flag { "true" } else { "false" }));
    Some(match (key, request.actor) {
        ("aws:currenttime", _) => time(seen.now_ms).map(|at| at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into()),
        ("aws:epochtime", _) => Some((seen.now_ms / 1_000).to_string().into()),
        ("aws:sourceip", _) => seen.source_ip.map(|address| address.to_canonical().to_string().into()),
        ("aws:securetransport", _) => flag(seen.secure),
        ("aws:viaawsservice", _) => flag(false),
        ("aws:principalisawsservice", actor) => flag(matches!(actor, Actor::Service(_))),
        ("aws:principalservicename", Actor::Service(service)) => Some(service.into()),
        ("aws:principalaccount", Actor::Principal(account, _)) => Some(account.into()),
        ("aws:principalarn", Actor::Principal(account, arn)) => Some(principal_arn(account, arn)),
        ("aws:principaltype", Actor::Anonymous) => Some("Anonymous".into()),
        ("aws:principaltype", Actor::Principal(_, arn)) => {
            Some(if session_of(arn).is_some() { "AssumedRole" } else { "Account" }.into())
        }
        // Sessions of roles say that nobody showed a second factor, long-lived keys say nothing.
        ("aws:multifactorauthpresent", Actor::Principal(_, arn)) if session_of(arn).is_some() => flag(false),
        _ if KEYS.contains(&key) => None,
        _ => return None,
    })
}

/// A session stands for its role.
fn principal_arn<'a>(account: &str, arn: &'a str) -> Cow<'a, str> {
    session_of(arn).map_or(Cow::Borrowed(arn), |(role, _)| format!("arn:aws:iam::{account}:role/{role}").into())
}

/// The values of a condition as texts; nothing in place of what is none.
fn scalars(value: &Value) -> impl Iterator<Item = Option<Cow<'_, str>>> {
    let values = match value {
        Value::Array(values) => values.as_slice(),
        value => std::slice::from_ref(value),
    };
    values.iter().map(|value| match value {
        Value::String(text) => Some(Cow::Borrowed(text.as_str())),
        Value::Bool(_) | Value::Number(_) => Some(value.to_string().into()),
        _ => None,
    })
}

fn flag(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}

fn number(text: &str) -> Option<f64> {
    text.parse().ok().filter(|number: &f64| number.is_finite())
}

fn time(ms: u64) -> Option<Timestamp> {
    i64::try_from(ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok())
}

/// A moment: seconds since the epoch, or a date of ISO 8601 of which the end may be left out.
fn date(text: &str) -> Option<Timestamp> {
    if text.len() > 4
        && let Ok(seconds) = text.parse()
    {
        return Timestamp::from_second(seconds).ok();
    }
    let whole: Cow<'_, str> = match text.len() {
        4 => format!("{text}-01-01").into(),
        7 => format!("{text}-01").into(),
        _ => text.into(),
    };
    if whole.len() > "2026-01-01".len() {
        return whole.parse().ok();
    }
    let day: Date = whole.parse().ok()?;
    TimeZone::UTC.to_timestamp(day.at(0, 0, 0, 0)).ok()
}

/// An address and how many of its bits count.
fn network(text: &str) -> Option<(IpAddr, u32)> {
    let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
    let address: IpAddr = address.parse().ok()?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let bits = bits.map_or(Some(most), |bits| bits.parse().ok())?;
    (bits <= most).then_some((address, bits))
}

fn within(found: IpAddr, (address, bits): (IpAddr, u32)) -> bool {
    match (found, address) {
        (IpAddr::V4(found), IpAddr::V4(address)) => {
            (found.to_bits() ^ address.to_bits()).checked_shr(32 - bits).unwrap_or(0) == 0
        }
        (IpAddr::V6(found), IpAddr::V6(address)) => {
            (found.to_bits() ^ address.to_bits()).checked_shr(128 - bits).unwrap_or(0) == 0
        }
        _ => false,
    }
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

//! One member of a list in a pattern: what it says of one value.

use std::net::IpAddr;

use serde_json::Value;

use super::{NotAPattern, wrong};

/// Greatest number that `numeric` compares with, on either side of zero.
const NUMERIC_MAX: f64 = 5e9;

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Rule {
    Equals(Literal),
    Text(TextRule),
    /// Text or numbers that it must not be.
    NoneOf(Vec<Literal>),
    /// Rules that its text must not fulfil.
    NotText(Vec<TextRule>),
    /// Lower and upper bound.
    Numeric(Bound, Bound),
    Cidr(IpAddr, u8),
    Exists(bool),
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Literal {
    Null,
    Flag(bool),
    Number(f64),
    Text(String),
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum TextRule {
    Prefix(String),
    Suffix(String),
    /// Lower-case.
    PrefixAnyCase(String),
    SuffixAnyCase(String),
    AnyCase(String),
    /// Parts between stars.
    Wildcard(Vec<String>),
}

/// A bound that is not there is infinite.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Bound {
    at: f64,
    included: bool,
}

impl Literal {
    fn of(value: &Value) -> Option<Self> {
        Some(match value {
            Value::Null => Self::Null,
            Value::Bool(flag) => Self::Flag(*flag),
            Value::Number(number) => Self::Number(number.as_f64()?),
            Value::String(text) => Self::Text(text.clone()),
            Value::Array(_) | Value::Object(_) => return None,
        })
    }

    fn is(&self, value: &Value) -> bool {
        match self {
            Self::Null => value.is_null(),
            Self::Flag(flag) => value.as_bool() == Some(*flag),
            Self::Number(number) => value.as_f64() == Some(*number),
            Self::Text(text) => value.as_str() == Some(text),
        }
    }
}

impl Rule {
    pub(super) fn parse(item: &Value) -> Result<Self, NotAPattern> {
        let Value::Object(members) = item else {
            let literal = Literal::of(item).map(Self::Equals);
            return literal.ok_or_else(|| NotAPattern(not_a_value().into()));
        };
        let mut members = members.iter();
        let (Some((name, value)), None) = (members.next(), members.next()) else {
            return wrong("Only one key allowed in match expression");
        };
        match name.as_str() {
            "anything-but" => anything_but(value),
            "numeric" => numeric(value),
            "cidr" => cidr(value),
            "exists" => match value.as_bool() {
                Some(exists) => Ok(Self::Exists(exists)),
                None => wrong("exists match pattern must be either true or false."),
            },
            other => TextRule::parse(other, value).map(Self::Text),
        }
    }

    /// Whether the value, or one of its elements, fulfils it.
    pub(super) fn matches_any(&self, value: Option<&Value>) -> bool {
        match (self, value) {
            (Self::Exists(exists), value) => *exists == value.is_some_and(is_leaf),
            (_, None) => false,
            (_, Some(Value::Array(elements))) => elements.iter().any(|element| self.matches_any(Some(element))),
            (_, Some(value)) => self.matches(value),
        }
    }

    fn matches(&self, value: &Value) -> bool {
        match self {
            Self::Equals(literal) => literal.is(value),
            Self::Text(rule) => value.as_str().is_some_and(|text| rule.matches(text)),
            Self::NoneOf(literals) => !value.is_object() && !literals.iter().any(|literal| literal.is(value)),
            Self::NotText(rules) => {
                !value.is_object() && !value.as_str().is_some_and(|text| rules.iter().any(|rule| rule.matches(text)))
            }
            Self::Numeric(low, high) => value.as_f64().is_some_and(|number| {
                (number > low.at || low.included && number == low.at)
                    && (number < high.at || high.included && number == high.at)
            }),
            Self::Cidr(network, bits) => value
                .as_str()
                .and_then(|text| text.parse().ok())
                .is_some_and(|address| within(address, *network, *bits)),
            Self::Exists(exists) => *exists,
        }
    }
}

/// Whether something is there that rules can speak of.
fn is_leaf(value: &Value) -> bool {
    match value {
        Value::Object(_) => false,
        Value::Array(elements) => elements.iter().any(is_leaf),
        _ => true,
    }
}

impl TextRule {
    fn parse(name: &str, value: &Value) -> Result<Self, NotAPattern> {
        let any_case = |value: &Value| {
            let text = value.as_object().filter(|members| members.len() == 1)?.get("equals-ignore-case")?.as_str()?;
            Some(text.to_lowercase())
        };
        match (name, value, any_case(value)) {
            ("prefix", Value::String(text), _) => Ok(Self::Prefix(text.clone())),
            ("prefix", _, Some(text)) => Ok(Self::PrefixAnyCase(text)),
            ("suffix", Value::String(text), _) => Ok(Self::Suffix(text.clone())),
            ("suffix", _, Some(text)) => Ok(Self::SuffixAnyCase(text)),
            ("equals-ignore-case", Value::String(text), _) => Ok(Self::AnyCase(text.to_lowercase())),
            ("wildcard", Value::String(text), _) => wildcard(text).map(Self::Wildcard),
            ("prefix" | "suffix" | "equals-ignore-case" | "wildcard", _, _) => {
                wrong(format!("{name} match pattern must be a string"))
            }
            (other, _, _) => wrong(format!("Unrecognized match type {other}")),
        }
    }

    fn matches(&self, text: &str) -> bool {
        match self {
            Self::Prefix(prefix) => text.starts_with(prefix.as_str()),
            Self::Suffix(suffix) => text.ends_with(suffix.as_str()),
            Self::PrefixAnyCase(prefix) => text.to_lowercase().starts_with(prefix.as_str()),
            Self::SuffixAnyCase(suffix) => text.to_lowercase().ends_with(suffix.as_str()),
            Self::AnyCase(other) => text.to_lowercase() == *other,
            Self::Wildcard(parts) => fits(parts, text),
        }
    }
}

/// The parts between the stars of a wildcard.
fn wildcard(text: &str) -> Result<Vec<String>, NotAPattern> {
    let mut parts = vec![String::new()];
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        let letter = match (letter, letters.peek()) {
            ('*', Some('*')) => return wrong("Consecutive wildcard characters"),
            ('*', _) => {
                parts.push(String::new());
                continue;
            }
            ('\\', Some(next @ ('*' | '\\'))) => {
                let next = *next;
                letters.next();
                next
            }
            ('\\', _) => return wrong("Invalid escape character"),
            (letter, _) => letter,
        };
        if let Some(part) = parts.last_mut() {
            part.push(letter);
        }
    }
    Ok(parts)
}

/// Whether the parts are found one after another, the first at the beginning and the last at the end.
fn fits(parts: &[String], text: &str) -> bool {
    let [first, between @ .., last] = parts else { return parts.first().is_some_and(|part| part == text) };
    let Some(mut rest) = text.strip_prefix(first.as_str()).and_then(|rest| rest.strip_suffix(last.as_str())) else {
        return false;
    };
    between.iter().all(|part| match rest.find(part.as_str()) {
        Some(at) => {
            rest = &rest[at + part.len()..];
            true
        }
        None => false,
    })
}

fn not_a_value() -> &'static str {
    "Match value must be String, number, true, false, or null"
}

fn anything_but(value: &Value) -> Result<Rule, NotAPattern> {
    let all = |values: &[Value]| -> Option<Vec<Literal>> {
        let same = values.iter().all(Value::is_string) || values.iter().all(Value::is_number);
        (same && !values.is_empty()).then(|| values.iter().filter_map(Literal::of).collect())
    };
    let literals = match value {
        Value::String(_) | Value::Number(_) => all(std::slice::from_ref(value)),
        Value::Bool(flag) => Some(vec![Literal::Flag(*flag)]),
        Value::Array(values) => all(values),
        Value::Object(members) => {
            let mut members = members.iter();
            let (Some((name, value)), None) = (members.next(), members.next()) else {
                return wrong("Only one key allowed in match expression");
            };
            if !matches!(name.as_str(), "prefix" | "suffix" | "equals-ignore-case" | "wildcard") {
                return wrong(format!("Unsupported anything-but pattern: {name}"));
            }
            let values = match value {
                Value::Array(values) if values.is_empty() => return wrong("Empty arrays are not allowed"),
                Value::Array(values) => values.as_slice(),
                other => std::slice::from_ref(other),
            };
            let rules = values.iter().map(|value| TextRule::parse(name, value));
            return rules.collect::<Result<_, _>>().map(Rule::NotText);
        }
        Value::Null => None,
    };
    literals
        .map(Rule::NoneOf)
        .ok_or_else(|| NotAPattern("Value of anything-but must be an array or single string/number value.".into()))
}

fn numeric(value: &Value) -> Result<Rule, NotAPattern> {
    let Value::Array(items) = value else { return wrong("Value of numeric must be an array.") };
    let infinite = |at: f64| Bound { at, included: true };
    let (mut low, mut high) = (infinite(f64::NEG_INFINITY), infinite(f64::INFINITY));
    let mut pairs = items.chunks(2);
    let Some(first) = pairs.next() else { return wrong("Value of numeric must be an array.") };
    let (operator, at) = comparison(first)?;
    match operator {
        "=" => (low, high) = (infinite(at), infinite(at)),
        "<" | "<=" => high = Bound { at, included: operator == "<=" },
        _ => {
            low = Bound { at, included: operator == ">=" };
            if let Some(second) = pairs.next() {
                let (operator, at) = comparison(second)?;
                if !matches!(operator, "<" | "<=") {
                    return wrong(format!("Bad numeric range operator: {operator}"));
                }
                if at <= low.at {
                    return wrong("Bottom must be less than top");
                }
                high = Bound { at, included: operator == "<=" };
            }
        }
    }
    if pairs.next().is_some() {
        return wrong("Too many elements in numeric expression");
    }
    Ok(Rule::Numeric(low, high))
}

fn comparison(pair: &[Value]) -> Result<(&str, f64), NotAPattern> {
    let Some(operator) = pair.first().and_then(Value::as_str) else {
        return wrong("Invalid member in numeric match: operators are strings");
    };
    if !matches!(operator, "=" | "<" | "<=" | ">" | ">=") {
        return wrong(format!("Unrecognized numeric range operator: {operator}"));
    }
    let number = pair.get(1).and_then(Value::as_f64).filter(|number| number.abs() <= NUMERIC_MAX);
    let shown = if operator == "=" { "equals" } else { operator };
    number.map(|number| (operator, number)).ok_or_else(|| NotAPattern(format!("Value of {shown} must be numeric")))
}

fn cidr(value: &Value) -> Result<Rule, NotAPattern> {
    let Some(text) = value.as_str() else { return wrong("prefix match pattern must be a string") };
    let read = text.split_once('/').and_then(|(address, bits)| {
        let address: IpAddr = address.parse().ok()?;
        let bits: u8 = bits.parse().ok()?;
        (bits <= if address.is_ipv4() { 32 } else { 128 }).then_some(Rule::Cidr(address, bits))
    });
    read.ok_or_else(|| NotAPattern(format!("Malformed CIDR, one '/' required: {text}")))
}

fn within(address: IpAddr, network: IpAddr, bits: u8) -> bool {
    let (address, network, width) = match (address, network) {
        (IpAddr::V4(address), IpAddr::V4(network)) => (u32::from(address).into(), u32::from(network).into(), 32),
        (IpAddr::V6(address), IpAddr::V6(network)) => (u128::from(address), u128::from(network), 128),
        _ => return false,
    };
    let host = width - u32::from(bits);
    // To shift by all bits is not defined.
    host == 128 || address >> host == network >> host
}

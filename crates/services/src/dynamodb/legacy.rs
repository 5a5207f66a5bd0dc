//! The forms that requests had before expressions: Expected, QueryFilter, ScanFilter, KeyConditions, AttributeUpdates.
//!
//! Pure: each is read into the tree that its expression would have, so that nothing beyond this file knows of them.
//!
//! Invariant: an attribute's name stands for itself: dots and brackets lead nowhere.

use std::cmp::Ordering;
use std::sync::Arc;

use serde_json::{Map, Value as Json};

use super::error::{Error, Result, broken, invalid};
use super::expression::condition::{Comparator, Condition, Operand};
use super::expression::key_condition::KeyTest;
use super::expression::path::{Path, Step};
use super::expression::update::{Expression, Update};
use super::value::{AttributeValue, check_name};

const PARAMETERS: &str = "One or more parameter values were invalid: ";
/// The operators, in the order in which messages list them.
const OPERATORS: [&str; 13] = [
    "IN",
    "NULL",
    "BETWEEN",
    "LT",
    "NOT_CONTAINS",
    "EQ",
    "GT",
    "NOT_NULL",
    "NE",
    "LE",
    "BEGINS_WITH",
    "GE",
    "CONTAINS",
];
const ACTIONS: [&str; 3] = ["ADD", "DELETE", "PUT"];

/// What is wrong with the operators and actions of a legacy member on their own. `member` is its name as messages write it.
pub(super) fn broken_members(member: &str, map: &Map<String, Json>) -> Vec<String> {
    let (inner, choices): (_, &[&str]) = match member {
        "attributeUpdates" => ("Action", &ACTIONS),
        _ => ("ComparisonOperator", &OPERATORS),
    };
    let required = matches!(member, "keyConditions" | "queryFilter" | "scanFilter");
    let mut wrong = Vec::new();
    for (name, json) in map {
        let place = format!("{member}.{name}.member.{}{}", inner[..1].to_lowercase(), &inner[1..]);
        match json.get(inner).and_then(Json::as_str) {
            Some(text) if !choices.contains(&text) => {
                let rule = format!("Member must satisfy enum value set: [{}]", choices.join(", "));
                wrong.push(broken(&Json::from(text), &place, &rule));
            }
            None if required => wrong.push(broken(&Json::Null, &place, "Member must not be null")),
            _ => {}
        }
    }
    wrong
}

fn path(name: &str) -> Path {
    Path(vec![Step::Name(name.into())])
}

fn join(conditions: Vec<Condition>, operator: Option<&str>) -> Option<Condition> {
    match (conditions.is_empty(), operator) {
        (true, _) => None,
        (false, Some("OR")) => Some(Condition::Or(conditions)),
        (false, _) => Some(Condition::And(conditions)),
    }
}

/// QueryFilter or ScanFilter; `operator` is the ConditionalOperator.
pub(super) fn filter(map: &Map<String, Json>, operator: Option<&str>) -> Result<Option<Condition>> {
    let read = |(name, json): (&String, &Json)| {
        let (operator, values) = operator_and_values(json)?;
        Ok(condition(&path(name), operator, &values))
    };
    Ok(join(map.iter().map(read).collect::<Result<_>>()?, operator))
}

/// Expected; `operator` is the ConditionalOperator.
pub(super) fn expected(map: &Map<String, Json>, operator: Option<&str>) -> Result<Option<Condition>> {
    let conditions = map.iter().map(|(name, json)| expectation(name, json)).collect::<Result<_>>()?;
    Ok(join(conditions, operator))
}

fn expectation(name: &str, json: &Json) -> Result<Condition> {
    let given = |member: &str| json.get(member).filter(|json| !json.is_null());
    let (value, list) = (given("Value"), given("AttributeValueList"));
    let refuse = |what: String| invalid(format!("{PARAMETERS}{what} for Attribute: {name}"));
    if value.is_some() && list.is_some() {
        return refuse("Value and AttributeValueList cannot be used together".into());
    }
    let exists = given("Exists").map(|json| json.as_bool().ok_or_else(wrong_type)).transpose()?;
    if let Some(operator) = given("ComparisonOperator").and_then(Json::as_str) {
        if exists.is_some() {
            return refuse("Exists and ComparisonOperator cannot be used together".into());
        }
        if value.is_none() && list.is_none() && !matches!(operator, "NULL" | "NOT_NULL") {
            return refuse(format!("Value or AttributeValueList must be used with ComparisonOperator: {operator}"));
        }
        let values = match value {
            Some(value) => vec![Arc::new(AttributeValue::from_json(value)?)],
            None => values(list)?,
        };
        check_values(operator, &values)?;
        return Ok(condition(&path(name), operator, &values));
    }
    if list.is_some() {
        return refuse("AttributeValueList can only be used with a ComparisonOperator".into());
    }
    match (exists, value) {
        (Some(false), None) => Ok(Condition::NotExists(path(name))),
        (Some(false), Some(_)) => refuse("Value cannot be used when Exists is false".into()),
        (_, Some(value)) => {
            let value = Arc::new(AttributeValue::from_json(value)?);
            Ok(Condition::Compare(Comparator::Equal, Operand::Path(path(name)), Operand::Value(value)))
        }
        (exists, None) => {
            let shown = exists.map_or("null", |_| "true");
            refuse(format!("Value must be provided when Exists is {shown}"))
        }
    }
}

fn wrong_type() -> Error {
    Error::serialization("Unexpected field type")
}

fn values(list: Option<&Json>) -> Result<Vec<Arc<AttributeValue>>> {
    let Some(list) = list else { return Ok(Vec::new()) };
    let list = list.as_array().ok_or_else(wrong_type)?;
    list.iter().map(|json| Ok(Arc::new(AttributeValue::from_json(json)?))).collect()
}

fn operator_and_values(json: &Json) -> Result<(&str, Vec<Arc<AttributeValue>>)> {
    let operator = json.get("ComparisonOperator").and_then(Json::as_str).ok_or_else(wrong_type)?;
    let values = values(json.get("AttributeValueList").filter(|list| !list.is_null()))?;
    check_values(operator, &values)?;
    Ok((operator, values))
}

/// Holds the values against the operator: how many, of which types, in which order.
fn check_values(operator: &str, values: &[Arc<AttributeValue>]) -> Result<()> {
    let fits = match operator {
        "NULL" | "NOT_NULL" => values.is_empty(),
        "IN" => !values.is_empty(),
        "BETWEEN" => values.len() == 2,
        _ => values.len() == 1,
    };
    if !fits {
        return invalid(format!("{PARAMETERS}Invalid number of argument(s) for the {operator} ComparisonOperator"));
    }
    let Some(first) = values.first() else { return Ok(()) };
    if values.iter().any(|value| value.type_name() != first.type_name()) {
        return invalid(format!("{PARAMETERS}AttributeValues inside AttributeValueList must be of same type"));
    }
    let types: &[&str] = match operator {
        "EQ" | "NE" => return Ok(()),
        "BEGINS_WITH" => &["S", "B"],
        _ => &["S", "N", "B"],
    };
    if !types.contains(&first.type_name()) {
        let kind = first.type_name();
        return invalid(format!(
            "{PARAMETERS}ComparisonOperator {operator} is not valid for {kind} AttributeValue type"
        ));
    }
    match values {
        [low, high] if operator == "BETWEEN" && low.order(high) == Some(Ordering::Greater) => {
            invalid("The BETWEEN condition was provided a range where the lower bound is greater than the upper bound")
        }
        _ => Ok(()),
    }
}

fn comparator(operator: &str) -> Option<Comparator> {
    Some(match operator {
        "EQ" => Comparator::Equal,
        "NE" => Comparator::NotEqual,
        "LT" => Comparator::Less,
        "LE" => Comparator::LessOrEqual,
        "GT" => Comparator::Greater,
        "GE" => Comparator::GreaterOrEqual,
        _ => return None,
    })
}

/// The condition that an operator with values that fit it makes of an attribute.
fn condition(path: &Path, operator: &str, values: &[Arc<AttributeValue>]) -> Condition {
    let attribute = Operand::Path(path.clone());
    match (operator, values) {
        ("NULL", _) => Condition::NotExists(path.clone()),
        ("IN", values) => Condition::In(attribute, values.iter().cloned().map(Operand::Value).collect()),
        ("BETWEEN", [low, high]) => {
            Condition::Between(attribute, Operand::Value(Arc::clone(low)), Operand::Value(Arc::clone(high)))
        }
        ("BEGINS_WITH", [start]) => Condition::BeginsWith(attribute, Operand::Value(Arc::clone(start))),
        ("CONTAINS", [part]) => Condition::Contains(attribute, Operand::Value(Arc::clone(part))),
        ("NOT_CONTAINS", [part]) => not_contains(path, part),
        (operator, values) => match (comparator(operator), values) {
            (Some(comparator), [value]) => Condition::Compare(comparator, attribute, Operand::Value(Arc::clone(value))),
            _ => Condition::Exists(path.clone()),
        },
    }
}

/// True of every attribute that is there and does not contain the value, whatever its type.
fn not_contains(path: &Path, part: &Arc<AttributeValue>) -> Condition {
    let contains = Condition::Contains(Operand::Path(path.clone()), Operand::Value(Arc::clone(part)));
    Condition::And(vec![Condition::Exists(path.clone()), Condition::Not(Box::new(contains))])
}

/// KeyConditions.
pub(super) fn key_conditions(map: &Map<String, Json>) -> Result<Vec<(String, KeyTest)>> {
    let mut tests = Vec::with_capacity(map.len());
    for (name, json) in map {
        let (operator, values) = operator_and_values(json)?;
        let value = |at: usize| values.get(at).cloned().ok_or_else(wrong_type);
        let test = match operator {
            "BETWEEN" => KeyTest::Between(value(0)?, value(1)?),
            "BEGINS_WITH" => KeyTest::BeginsWith(value(0)?),
            "NE" => KeyTest::NotIndexable,
            operator => match comparator(operator) {
                Some(comparator) => KeyTest::Compare(comparator, value(0)?),
                None => KeyTest::NotIndexable,
            },
        };
        tests.push((name.clone(), test));
    }
    if tests.is_empty() || tests.len() > 2 {
        return invalid("Conditions can be of length 1 or 2 only");
    }
    Ok(tests)
}

/// AttributeUpdates.
pub(super) fn updates(map: &Map<String, Json>) -> Result<Update> {
    let mut update = Update { legacy: true, ..Update::default() };
    for (name, json) in map {
        check_name(name)?;
        let action = json.get("Action").and_then(Json::as_str).unwrap_or("PUT");
        let value = json.get("Value").filter(|json| !json.is_null());
        let value = value.map(|json| AttributeValue::from_json(json).map(Arc::new)).transpose()?;
        let path = path(name);
        // Names are distinct and lead nowhere, so no two targets can overlap.
        let _ = update.targets.insert(&path);
        match (action, value) {
            ("DELETE", None) => update.remove.push(path),
            (_, None) => {
                return invalid(format!(
                    "{PARAMETERS}Only DELETE action is allowed when no attribute value is specified"
                ));
            }
            ("DELETE", Some(value)) => match &*value {
                AttributeValue::Ss(_) | AttributeValue::Ns(_) | AttributeValue::Bs(_) => {
                    update.delete.push((path, value));
                }
                other => {
                    let kind = other.type_name();
                    return invalid(format!(
                        "{PARAMETERS}DELETE action with value is not supported for the type {kind}"
                    ));
                }
            },
            ("ADD", Some(value)) => match &*value {
                AttributeValue::N(_) | AttributeValue::Ss(_) | AttributeValue::Ns(_) | AttributeValue::Bs(_) => {
                    update.add.push((path, value));
                }
                AttributeValue::L(_) => {
                    let none = Expression::Value(Arc::new(AttributeValue::L(Vec::new())));
                    let list = Expression::IfNotExists(path.clone(), Box::new(none));
                    let longer = Expression::ListAppend(Box::new(list), Box::new(Expression::Value(value)));
                    update.set.push((path, longer));
                }
                other => {
                    let kind = other.type_name();
                    return invalid(format!("{PARAMETERS}ADD action is not supported for the type {kind}"));
                }
            },
            (_, Some(value)) => update.set.push((path, Expression::Value(value))),
        }
    }
    Ok(update)
}

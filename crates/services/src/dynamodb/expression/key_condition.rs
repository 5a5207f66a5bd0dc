//! Key condition expressions: one partition, and at most one condition on its sort key.
//!
//! A key condition is a condition whose tree has one of few forms; this reads them and refuses the rest in
//! DynamoDB's words. Which attributes are the keys is checked later, against the table.

use std::sync::Arc;

use super::super::error::{Result, invalid};
use super::super::value::AttributeValue;
use super::condition::{Comparator, Condition, Operand};
use super::path::Path;

/// A condition on one key attribute.
#[derive(Debug, Clone, PartialEq)]
pub(in super::super) enum KeyTest {
    /// `=`, `<`, `<=`, `>`, `>=`
    Compare(Comparator, Arc<AttributeValue>),
    /// Both ends belong to it.
    Between(Arc<AttributeValue>, Arc<AttributeValue>),
    /// A string or binary that begins so.
    BeginsWith(Arc<AttributeValue>),
    /// Something that only the legacy form can ask, and no key can answer.
    NotIndexable,
}

impl KeyTest {
    /// The values it compares with.
    pub(in super::super) fn values(&self) -> Vec<&AttributeValue> {
        match self {
            Self::Compare(_, value) | Self::BeginsWith(value) => vec![value],
            Self::Between(low, high) => vec![low, high],
            Self::NotIndexable => Vec::new(),
        }
    }

    /// Whether a key attribute of this value passes.
    pub(in super::super) fn holds(&self, value: &AttributeValue) -> bool {
        match self {
            Self::Compare(comparator, bound) => value.order(bound).is_some_and(|order| match comparator {
                Comparator::Equal => order.is_eq(),
                Comparator::NotEqual => order.is_ne(),
                Comparator::Less => order.is_lt(),
                Comparator::LessOrEqual => order.is_le(),
                Comparator::Greater => order.is_gt(),
                Comparator::GreaterOrEqual => order.is_ge(),
            }),
            Self::Between(low, high) => {
                value.order(low).is_some_and(std::cmp::Ordering::is_ge)
                    && value.order(high).is_some_and(std::cmp::Ordering::is_le)
            }
            Self::BeginsWith(start) => match (value, &**start) {
                (AttributeValue::S(text), AttributeValue::S(start)) => text.starts_with(start.as_str()),
                (AttributeValue::B(bytes), AttributeValue::B(start)) => bytes.starts_with(start),
                _ => false,
            },
            Self::NotIndexable => false,
        }
    }
}

/// Conditions by attribute name, in the order written.
pub(in super::super) fn read(condition: &Condition) -> Result<Vec<(String, KeyTest)>> {
    let mut tests = Vec::new();
    collect(condition, &mut tests)?;
    Ok(tests)
}

fn collect(condition: &Condition, out: &mut Vec<(String, KeyTest)>) -> Result<()> {
    let wrong = |operator: &str| invalid(format!("Invalid operator used in KeyConditionExpression: {operator}"));
    let test = match condition {
        Condition::And(parts) => return parts.iter().try_for_each(|part| collect(part, out)),
        Condition::Or(_) => return wrong("OR"),
        Condition::Not(_) => return wrong("NOT"),
        Condition::In(..) => return wrong("IN"),
        Condition::Exists(_) => return wrong("attribute_exists"),
        Condition::NotExists(_) => return wrong("attribute_not_exists"),
        Condition::HasType(..) => return wrong("attribute_type"),
        Condition::Contains(..) => return wrong("contains"),
        Condition::Compare(Comparator::NotEqual, ..) => return wrong("<>"),
        Condition::Compare(comparator, a, b) => compare(*comparator, a, b)?,
        Condition::Between(a, low, high) => {
            let name = leading_key(a, "BETWEEN")?;
            (name, KeyTest::Between(plain_value(low)?, plain_value(high)?))
        }
        Condition::BeginsWith(a, start) => {
            let name = leading_key(a, "begins_with")?;
            (name, KeyTest::BeginsWith(plain_value(start)?))
        }
    };
    if out.iter().any(|(name, _)| *name == test.0) {
        return invalid("KeyConditionExpressions must only contain one condition per key");
    }
    out.push(test);
    Ok(())
}

fn compare(comparator: Comparator, a: &Operand, b: &Operand) -> Result<(String, KeyTest)> {
    match (a, b) {
        (Operand::Path(path), other) => Ok((key_name(path)?, KeyTest::Compare(comparator, plain_value(other)?))),
        (other, Operand::Path(path)) => {
            Ok((key_name(path)?, KeyTest::Compare(comparator.mirrored(), plain_value(other)?)))
        }
        (Operand::Size(_), _) | (_, Operand::Size(_)) => {
            invalid("KeyConditionExpressions cannot contain nested operations")
        }
        _ => invalid("Invalid condition in KeyConditionExpression: No key attribute specified"),
    }
}

fn leading_key(operand: &Operand, operator: &str) -> Result<String> {
    match operand {
        Operand::Path(path) => key_name(path),
        Operand::Size(_) => invalid("KeyConditionExpressions cannot contain nested operations"),
        Operand::Value(_) => invalid(format!(
            "Invalid condition in KeyConditionExpression: {operator} operator must have the key attribute as its first \
             operand"
        )),
    }
}

fn key_name(path: &Path) -> Result<String> {
    if path.is_nested() {
        return invalid("KeyConditionExpressions cannot have conditions on nested attributes");
    }
    Ok(path.head().into())
}

fn plain_value(operand: &Operand) -> Result<Arc<AttributeValue>> {
    match operand {
        Operand::Value(value) => Ok(Arc::clone(value)),
        Operand::Size(_) => invalid("KeyConditionExpressions cannot contain nested operations"),
        Operand::Path(_) => {
            invalid("Invalid condition in KeyConditionExpression: Multiple attribute names used in one condition")
        }
    }
}

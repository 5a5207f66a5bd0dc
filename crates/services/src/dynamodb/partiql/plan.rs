//! What a condition says of keys: which item a write means, which partitions a read goes along.
//!
//! Only what is said on the outermost level counts, since only that holds for everything that is found.

use std::sync::Arc;

use super::super::error::{Result, invalid};
use super::super::expression::condition::{Comparator, Condition, Operand};
use super::super::expression::key_condition::KeyTest;
use super::super::expression::path::{Path, Step};
use super::super::table::Table;
use super::super::value::{AttributeValue, Item};

/// The parts of a condition that must all hold.
fn parts(condition: Option<&Condition>) -> Vec<&Condition> {
    let mut out = Vec::new();
    let mut open: Vec<&Condition> = condition.into_iter().collect();
    while let Some(next) = open.pop() {
        match next {
            Condition::And(inner) => open.extend(inner.iter().rev()),
            other => out.push(other),
        }
    }
    out
}

/// The name of a whole attribute.
fn name_of(operand: &Operand) -> Option<&str> {
    match operand {
        Operand::Path(path) if !path.is_nested() => Some(path.head()),
        _ => None,
    }
}

fn comparison<'a>(
    comparator: Comparator,
    a: &'a Operand,
    b: &'a Operand,
    name: &str,
) -> Option<(Comparator, &'a Arc<AttributeValue>)> {
    match (a, b) {
        (a, Operand::Value(value)) if name_of(a) == Some(name) => Some((comparator, value)),
        (Operand::Value(value), b) if name_of(b) == Some(name) => Some((comparator.mirrored(), value)),
        _ => None,
    }
}

/// What a part says that an attribute equals.
fn equality<'a>(part: &'a Condition, name: &str) -> Option<&'a Arc<AttributeValue>> {
    match part {
        Condition::Compare(Comparator::Equal, a, b) => {
            comparison(Comparator::Equal, a, b, name).map(|(_, value)| value)
        }
        _ => None,
    }
}

/// The key that a write names by an equality on every key attribute, and the parts besides.
pub(in super::super) fn key(table: &Table, condition: Option<&Condition>) -> Result<(Item, Vec<Condition>)> {
    let mut rest = parts(condition);
    let mut key = Item::new();
    for attribute in table.key_attributes() {
        let found = rest.iter().enumerate().find_map(|(at, part)| Some((at, equality(part, &attribute.name)?)));
        let Some((at, value)) = found else {
            return invalid("Where clause does not contain a mandatory equality on all key attributes");
        };
        key.insert(attribute.name.clone(), (**value).clone());
        rest.remove(at);
    }
    Ok((key, rest.into_iter().cloned().collect()))
}

/// The values that an attribute may have: those of an equality or of IN.
pub(in super::super) fn choices(condition: Option<&Condition>, name: &str) -> Option<Vec<Arc<AttributeValue>>> {
    parts(condition).into_iter().find_map(|part| match part {
        Condition::In(operand, choices) if name_of(operand) == Some(name) => {
            let value = |choice: &Operand| match choice {
                Operand::Value(value) => Some(Arc::clone(value)),
                _ => None,
            };
            choices.iter().map(value).collect()
        }
        part => equality(part, name).map(|value| vec![Arc::clone(value)]),
    })
}

/// What is asked of a sort key, if it is something that a range of keys can answer.
pub(in super::super) fn sort_test(condition: Option<&Condition>, name: &str) -> Option<KeyTest> {
    parts(condition).into_iter().find_map(|part| match part {
        Condition::Compare(comparator, a, b) if *comparator != Comparator::NotEqual => {
            let (comparator, value) = comparison(*comparator, a, b, name)?;
            Some(KeyTest::Compare(comparator, Arc::clone(value)))
        }
        Condition::Between(operand, Operand::Value(low), Operand::Value(high)) if name_of(operand) == Some(name) => {
            Some(KeyTest::Between(Arc::clone(low), Arc::clone(high)))
        }
        Condition::BeginsWith(operand, Operand::Value(start)) if name_of(operand) == Some(name) => {
            Some(KeyTest::BeginsWith(Arc::clone(start)))
        }
        _ => None,
    })
}

fn hash_path(table: &Table) -> Path {
    Path(vec![Step::Name(table.hash.name.clone())])
}

/// The condition of an item that must be there.
pub(in super::super) fn existing(table: &Table, mut rest: Vec<Condition>) -> Condition {
    rest.insert(0, Condition::Exists(hash_path(table)));
    Condition::And(rest)
}

/// The condition of an item that may be missing.
pub(in super::super) fn existing_or_missing(table: &Table, rest: Vec<Condition>) -> Option<Condition> {
    if rest.is_empty() {
        return None;
    }
    Some(Condition::Or(vec![Condition::NotExists(hash_path(table)), Condition::And(rest)]))
}

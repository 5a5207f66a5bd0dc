//! Applies an update expression to an item.
//!
//! Pure: item before and expression in, item after out.
//!
//! Invariants
//!   1. Right-hand sides see the item as it was before the whole update.
//!   2. Indexes of lists mean the list before the update, in all sections: what it had is replaced, what lies beyond is
//!      appended in the order of the indexes, and elements are removed last and from the end.
//!   3. Where a path leads is decided by the item before the update.
//!   4. No intermediate value grows far beyond an item's size limit, whatever the expression asks for.

use std::borrow::Cow;

use super::error::{Error, Result, invalid};
use super::expression::path::{Path, Step};
use super::expression::update::{Expression, Update};
use super::number::{Number, NumberError};
use super::value::{AttributeValue, ITEM_BYTES_MAX, Item, item_size};

const WRONG_TYPE: &str = "An operand in the update expression has an incorrect data type";

/// What an update makes of an item, or of nothing but the attributes of a key.
pub(super) fn apply(update: &Update, before: Option<&Item>, key: &Item) -> Result<Item> {
    apply_all(update, before, key).map_err(|error| match error {
        Error::Validation(text) if update.legacy && text == WRONG_TYPE => {
            Error::validation("Type mismatch for attribute to update")
        }
        other => other,
    })
}

fn apply_all(update: &Update, found: Option<&Item>, key: &Item) -> Result<Item> {
    let before = found.unwrap_or(key);
    let mut edits = Edits { before, item: before.clone(), appends: Vec::new(), removals: Vec::new() };
    for (path, value) in assignments(update, before)? {
        edits.replace(path, Some(value))?;
    }
    for (path, operand) in &update.add {
        let sum = match path.find(before) {
            Some(value) => add(value, operand)?,
            None => (**operand).clone(),
        };
        edits.replace(path, Some(sum))?;
    }
    for (path, operand) in &update.delete {
        let rest = match path.find(before) {
            Some(value) => subtract(value, operand)?,
            None => None,
        };
        edits.replace(path, rest)?;
    }
    // Of an item that is not there nothing can be taken, however deep.
    for path in update.remove.iter().filter(|path| found.is_some() || !path.is_nested()) {
        edits.replace(path, None)?;
    }
    let item = edits.finish()?;
    if item_size(&item) > ITEM_BYTES_MAX {
        return Err(too_large());
    }
    Ok(item)
}

fn too_large() -> Error {
    Error::validation("Item size to update has exceeded the maximum allowed size")
}

fn invalid_path() -> Error {
    Error::validation("The document path provided in the update expression is invalid for update")
}

fn wrong_type() -> Error {
    Error::validation(WRONG_TYPE)
}

fn number_error(error: NumberError) -> Error {
    Error::validation(error.to_string())
}

/// SET's targets and values.
fn assignments<'a>(update: &'a Update, before: &Item) -> Result<Vec<(&'a Path, AttributeValue)>> {
    let mut assignments = Vec::with_capacity(update.set.len());
    let mut bytes = 0;
    for (path, expression) in &update.set {
        let value = evaluate(expression, before)?.into_owned();
        bytes += value.size();
        if bytes > ITEM_BYTES_MAX {
            return Err(too_large());
        }
        assignments.push((path, value));
    }
    Ok(assignments)
}

fn evaluate<'a>(expression: &'a Expression, before: &'a Item) -> Result<Cow<'a, AttributeValue>> {
    match expression {
        Expression::Value(value) => Ok(Cow::Borrowed(value)),
        Expression::Path(path) => match path.find(before) {
            Some(value) => Ok(Cow::Borrowed(value)),
            None => invalid("The provided expression refers to an attribute that does not exist in the item"),
        },
        Expression::IfNotExists(path, other) => match path.find(before) {
            Some(value) => Ok(Cow::Borrowed(value)),
            None => evaluate(other, before),
        },
        Expression::Plus(a, b) => {
            let (a, b) = numbers(a, b, before)?;
            Ok(Cow::Owned(AttributeValue::N(a.add(b).map_err(number_error)?)))
        }
        Expression::Minus(a, b) => {
            let (a, b) = numbers(a, b, before)?;
            Ok(Cow::Owned(AttributeValue::N(a.subtract(b).map_err(number_error)?)))
        }
        Expression::ListAppend(a, b) => {
            let (AttributeValue::L(mut list), AttributeValue::L(more)) =
                (evaluate(a, before)?.into_owned(), evaluate(b, before)?.into_owned())
            else {
                return Err(wrong_type());
            };
            list.extend(more);
            let list = AttributeValue::L(list);
            if list.size() > ITEM_BYTES_MAX {
                return Err(too_large());
            }
            Ok(Cow::Owned(list))
        }
    }
}

fn numbers(a: &Expression, b: &Expression, before: &Item) -> Result<(Number, Number)> {
    match (&*evaluate(a, before)?, &*evaluate(b, before)?) {
        (AttributeValue::N(a), AttributeValue::N(b)) => Ok((*a, *b)),
        _ => Err(wrong_type()),
    }
}

/// ADD: the sum of numbers, the union of sets.
fn add(value: &AttributeValue, operand: &AttributeValue) -> Result<AttributeValue> {
    Ok(match (value, operand) {
        (AttributeValue::N(a), AttributeValue::N(b)) => AttributeValue::N(a.add(*b).map_err(number_error)?),
        (AttributeValue::Ss(a), AttributeValue::Ss(b)) => AttributeValue::Ss(a | b),
        (AttributeValue::Ns(a), AttributeValue::Ns(b)) => AttributeValue::Ns(a | b),
        (AttributeValue::Bs(a), AttributeValue::Bs(b)) => AttributeValue::Bs(a | b),
        _ => return Err(wrong_type()),
    })
}

/// DELETE: the difference of sets; nothing when no member is left.
fn subtract(value: &AttributeValue, operand: &AttributeValue) -> Result<Option<AttributeValue>> {
    Ok(match (value, operand) {
        (AttributeValue::Ss(a), AttributeValue::Ss(b)) => Some(a - b).filter(|s| !s.is_empty()).map(AttributeValue::Ss),
        (AttributeValue::Ns(a), AttributeValue::Ns(b)) => Some(a - b).filter(|s| !s.is_empty()).map(AttributeValue::Ns),
        (AttributeValue::Bs(a), AttributeValue::Bs(b)) => Some(a - b).filter(|s| !s.is_empty()).map(AttributeValue::Bs),
        _ => return Err(wrong_type()),
    })
}

/// An item on its way from what it was to what it will be. What replaces something is done at once; what makes a list longer
/// or shorter waits, so that indexes mean the list as it was.
struct Edits<'a> {
    before: &'a Item,
    item: Item,
    appends: Vec<(&'a Path, AttributeValue)>,
    /// Elements of lists.
    removals: Vec<&'a Path>,
}

impl<'a> Edits<'a> {
    /// Puts a value where `path` leads, or takes away what is there. No two paths of an update overlap.
    fn replace(&mut self, path: &'a Path, value: Option<AttributeValue>) -> Result<()> {
        let (last, parents) = path.0.split_last().ok_or_else(invalid_path)?;
        match (last, parents.is_empty()) {
            (Step::Name(_), true) => {}
            (Step::Index(_), true) => return Err(invalid_path()),
            (last, false) => match (last, Path(parents.to_vec()).find(self.before)) {
                (Step::Name(_), Some(AttributeValue::M(_))) => {}
                (Step::Index(index), Some(AttributeValue::L(list))) => match value {
                    Some(value) if *index >= list.len() => {
                        self.appends.push((path, value));
                        return Ok(());
                    }
                    None => {
                        self.removals.extend(Some(path).filter(|_| *index < list.len()));
                        return Ok(());
                    }
                    Some(_) => {}
                },
                _ => return Err(invalid_path()),
            },
        }
        put(&mut self.item, path, value)
    }

    /// Changes the lengths of lists: elements behind an end come in the order of their indexes, and the greatest ones go
    /// first, so that taking one away does not move another that is still to be taken.
    fn finish(mut self) -> Result<Item> {
        self.appends.sort_by_key(|(path, _)| *path);
        for (path, value) in self.appends {
            put(&mut self.item, path, Some(value))?;
        }
        self.removals.sort_unstable_by(|a, b| b.cmp(a));
        for path in self.removals {
            put(&mut self.item, path, None)?;
        }
        Ok(self.item)
    }
}

/// Writes where `path` leads in the item as it is now; nothing takes away.
fn put(item: &mut Item, path: &Path, value: Option<AttributeValue>) -> Result<()> {
    let Some((last, parents)) = path.0.split_last() else {
        return Err(invalid_path());
    };
    let Some((Step::Name(head), inner)) = parents.split_first() else {
        return put_name(item, last, value);
    };
    let mut parent = item.get_mut(head).ok_or_else(invalid_path)?;
    for step in inner {
        let child = match (step, parent) {
            (Step::Name(name), AttributeValue::M(map)) => map.get_mut(name),
            (Step::Index(index), AttributeValue::L(list)) => list.get_mut(*index),
            _ => None,
        };
        parent = child.ok_or_else(invalid_path)?;
    }
    match (last, parent) {
        (Step::Name(_), AttributeValue::M(map)) => return put_name(map, last, value),
        (Step::Index(index), AttributeValue::L(list)) => match value {
            Some(value) if *index < list.len() => list[*index] = value,
            Some(value) => list.push(value),
            None if *index < list.len() => {
                list.remove(*index);
            }
            None => {}
        },
        _ => return Err(invalid_path()),
    }
    Ok(())
}

fn put_name(map: &mut Item, step: &Step, value: Option<AttributeValue>) -> Result<()> {
    let Step::Name(name) = step else {
        return Err(invalid_path());
    };
    match value {
        Some(value) => map.insert(name.clone(), value),
        None => map.remove(name),
    };
    Ok(())
}

//! Whether an item fulfils a condition.
//!
//! Invariants
//!   1. A comparison with something that is not there is false, except `<>`, which is true.
//!   2. Values of different types are unequal and have no order.

use std::borrow::Cow;
use std::cmp::Ordering;

use super::super::number::Number;
use super::super::value::{AttributeValue, Item};
use super::condition::{Comparator, Condition, Operand};

/// Whether `item` fulfils `condition`. An item that does not exist is an empty one.
pub(in super::super) fn holds(condition: &Condition, item: &Item) -> bool {
    let value = |operand| resolve(operand, item);
    match condition {
        Condition::Compare(comparator, a, b) => compare(*comparator, value(a), value(b)),
        Condition::Between(a, low, high) => match (value(a), value(low), value(high)) {
            (Some(a), Some(low), Some(high)) => {
                a.order(&low).is_some_and(Ordering::is_ge) && a.order(&high).is_some_and(Ordering::is_le)
            }
            _ => false,
        },
        Condition::In(a, choices) => {
            value(a).is_some_and(|a| choices.iter().any(|choice| value(choice).as_ref() == Some(&a)))
        }
        Condition::Exists(path) => path.find(item).is_some(),
        Condition::NotExists(path) => path.find(item).is_none(),
        Condition::HasType(a, kind) => value(a).is_some_and(|a| a.type_name() == kind),
        Condition::BeginsWith(a, b) => match (value(a).as_deref(), value(b).as_deref()) {
            (Some(AttributeValue::S(text)), Some(AttributeValue::S(start))) => text.starts_with(start.as_str()),
            (Some(AttributeValue::B(bytes)), Some(AttributeValue::B(start))) => bytes.starts_with(start),
            _ => false,
        },
        Condition::Contains(a, b) => match (value(a), value(b)) {
            (Some(a), Some(b)) => contains(&a, &b),
            _ => false,
        },
        Condition::Not(inner) => !holds(inner, item),
        Condition::And(parts) => parts.iter().all(|part| holds(part, item)),
        Condition::Or(parts) => parts.iter().any(|part| holds(part, item)),
    }
}

fn resolve<'a>(operand: &'a Operand, item: &'a Item) -> Option<Cow<'a, AttributeValue>> {
    match operand {
        Operand::Path(path) => path.find(item).map(Cow::Borrowed),
        Operand::Value(value) => Some(Cow::Borrowed(value)),
        Operand::Size(inner) => {
            let size = size(&*resolve(inner, item)?)?;
            Some(Cow::Owned(AttributeValue::N(Number::from_u64(size as u64))))
        }
    }
}

/// What `size()` answers; nothing for types without a size. Text is counted in units of UTF-16.
fn size(value: &AttributeValue) -> Option<usize> {
    match value {
        AttributeValue::S(text) => Some(text.encode_utf16().count()),
        AttributeValue::B(bytes) => Some(bytes.len()),
        AttributeValue::Ss(set) => Some(set.len()),
        AttributeValue::Ns(set) => Some(set.len()),
        AttributeValue::Bs(set) => Some(set.len()),
        AttributeValue::L(list) => Some(list.len()),
        AttributeValue::M(map) => Some(map.len()),
        AttributeValue::N(_) | AttributeValue::Bool(_) | AttributeValue::Null => None,
    }
}

fn compare(comparator: Comparator, a: Option<Cow<'_, AttributeValue>>, b: Option<Cow<'_, AttributeValue>>) -> bool {
    let (Some(a), Some(b)) = (a, b) else {
        return comparator == Comparator::NotEqual;
    };
    match comparator {
        Comparator::Equal => a == b,
        Comparator::NotEqual => a != b,
        Comparator::Less => a.order(&b).is_some_and(Ordering::is_lt),
        Comparator::LessOrEqual => a.order(&b).is_some_and(Ordering::is_le),
        Comparator::Greater => a.order(&b).is_some_and(Ordering::is_gt),
        Comparator::GreaterOrEqual => a.order(&b).is_some_and(Ordering::is_ge),
    }
}

fn contains(whole: &AttributeValue, part: &AttributeValue) -> bool {
    match (whole, part) {
        (AttributeValue::S(text), AttributeValue::S(part)) => text.contains(part.as_str()),
        (AttributeValue::B(bytes), AttributeValue::B(part)) => contains_bytes(bytes, part),
        (AttributeValue::Ss(set), AttributeValue::S(member)) => set.contains(member),
        (AttributeValue::Ns(set), AttributeValue::N(member)) => set.contains(member),
        (AttributeValue::Bs(set), AttributeValue::B(member)) => set.contains(member),
        (AttributeValue::L(list), member) => list.contains(member),
        _ => false,
    }
}

/// Linear search (Knuth, Morris, Pratt), since the two may be 400 KB each and chosen by a stranger.
fn contains_bytes(bytes: &[u8], part: &[u8]) -> bool {
    if part.is_empty() {
        return true;
    }
    let mut borders = vec![0; part.len()];
    let mut matched = 0;
    for at in 1..part.len() {
        while matched > 0 && part[at] != part[matched] {
            matched = borders[matched - 1];
        }
        matched += usize::from(part[at] == part[matched]);
        borders[at] = matched;
    }
    matched = 0;
    for byte in bytes {
        while matched > 0 && *byte != part[matched] {
            matched = borders[matched - 1];
        }
        matched += usize::from(*byte == part[matched]);
        if matched == part.len() {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn bytes_are_found_where_a_plain_search_finds_them(
            bytes in proptest::collection::vec(0u8..3, 0..40),
            part in proptest::collection::vec(0u8..3, 0..5),
        ) {
            let plain = part.is_empty() || bytes.windows(part.len()).any(|window| window == part);
            prop_assert_eq!(contains_bytes(&bytes, &part), plain);
        }
    }
}

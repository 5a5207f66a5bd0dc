//! Which keys a query reads, and where it goes on.
//!
//! Pure: key conditions and a way through a table in, a range of the store's keys out.

use store::Range;

use super::access::Access;
use super::error::{Error, Result, invalid};
use super::expression::condition::Comparator;
use super::expression::key_condition::KeyTest;
use super::table::KeyAttribute;
use super::value::{AttributeValue, Item};

/// Most bytes of items that one page reads.
pub(super) const PAGE_BYTES_MAX: usize = 1024 * 1024;

/// Checks the key conditions against the keys and turns them into a range: every key that fulfils them, ascending.
pub(super) fn plan(access: &Access<'_>, tests: &[(String, KeyTest)]) -> Result<Range> {
    if tests.is_empty() || tests.len() > 2 {
        return invalid("Conditions can be of length 1 or 2 only");
    }
    let find = |key: &KeyAttribute| tests.iter().find(|(name, _)| *name == key.name).map(|(_, test)| test);
    if tests.len() == 2 && access.range().is_none() {
        return invalid("Query key condition not supported");
    }
    let missed =
        |key: &KeyAttribute| Error::validation(format!("Query condition missed key schema element: {}", key.name));
    let hash = find(access.hash()).ok_or_else(|| missed(access.hash()))?;
    check_test(access.hash(), hash)?;
    let KeyTest::Compare(Comparator::Equal, partition) = hash else {
        return invalid("Query key condition not supported");
    };
    let Some(range) = access.range().filter(|_| tests.len() == 2) else {
        return access.keys(partition, None);
    };
    let test = find(range).ok_or_else(|| missed(range))?;
    check_test(range, test)?;
    access.keys(partition, Some(test))
}

fn check_test(key: &KeyAttribute, test: &KeyTest) -> Result<()> {
    if *test == KeyTest::NotIndexable {
        return invalid("Attempted conditional constraint is not an indexable operation");
    }
    for value in test.values() {
        if value.type_name() != key.kind {
            return invalid(
                "One or more parameter values were invalid: Condition parameter type does not match schema type",
            );
        }
        let empty = match value {
            AttributeValue::S(text) if text.is_empty() => "string",
            AttributeValue::B(bytes) if bytes.is_empty() => "binary",
            _ => continue,
        };
        return invalid(format!(
            "One or more parameter values are not valid. The AttributeValue for a key attribute cannot contain an \
             empty {empty} value. Key: {}",
            key.name
        ));
    }
    Ok(())
}

/// Checks that a query that reads `range` can go on beyond `start`, which lies at `key`.
pub(super) fn check_start(
    access: &Access<'_>,
    range: &Range,
    tests: &[(String, KeyTest)],
    start: &Item,
    key: &[u8],
) -> Result<()> {
    if range.contains(key) {
        return Ok(());
    }
    let sort = access.range().and_then(|sort| {
        let (_, test) = tests.iter().find(|(name, _)| *name == sort.name)?;
        Some((test, start.get(&sort.name)?))
    });
    match sort {
        None => invalid("The provided starting key is outside query boundaries based on provided conditions"),
        Some((test, value)) if test.holds(value) => {
            invalid("The query can return at most one row and cannot be restarted")
        }
        Some(_) => invalid("The provided starting key does not match the range key predicate"),
    }
}

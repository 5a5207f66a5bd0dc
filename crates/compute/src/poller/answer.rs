//! What a function says of a batch when it reports which records have failed. Pure.
//!
//! Source: the developer guide, "Reporting batch item failures": the conditions of whole success and whole failure.

use std::collections::HashMap;

use serde_json::Value;

/// Which records of a batch have failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failed {
    /// None.
    Nothing,
    /// All, or it cannot be told which.
    Everything,
    /// Those at these places of the batch, in order.
    Some(Vec<usize>),
}

/// What the answer says of a batch with records of these ids.
pub(super) fn failed<'a>(answer: &[u8], ids: impl Iterator<Item = &'a str>) -> Failed {
    if answer.is_empty() {
        return Failed::Nothing;
    }
    let failures = match serde_json::from_slice(answer) {
        Ok(Value::Null) => return Failed::Nothing,
        Ok(Value::Object(mut members)) => members.remove("batchItemFailures").unwrap_or_default(),
        _ => return Failed::Everything,
    };
    let failures = match failures {
        Value::Null => return Failed::Nothing,
        Value::Array(failures) if failures.is_empty() => return Failed::Nothing,
        Value::Array(failures) => failures,
        _ => return Failed::Everything,
    };
    let places: HashMap<&str, usize> = ids.enumerate().map(|(place, id)| (id, place)).collect();
    let named = failures.iter().map(|failure| {
        let id = failure.get("itemIdentifier").and_then(Value::as_str)?;
        places.get(id).copied()
    });
    let Some(mut named) = named.collect::<Option<Vec<usize>>>() else { return Failed::Everything };
    named.sort_unstable();
    named.dedup();
    if named.len() == places.len() { Failed::Everything } else { Failed::Some(named) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(answer: &str) -> Failed {
        failed(answer.as_bytes(), ["a", "b", "c"].into_iter())
    }

    #[test]
    fn whole_successes_and_failures_are_as_documented() {
        for success in
            ["", "null", "{}", r#"{"batchItemFailures": []}"#, r#"{"batchItemFailures": null}"#, r#"{"x": 1}"#]
        {
            assert_eq!(of(success), Failed::Nothing, "{success}");
        }
        for failure in [
            "{",
            "[]",
            "\"ok\"",
            r#"{"batchItemFailures": "a"}"#,
            r#"{"batchItemFailures": [{"itemIdentifier": ""}]}"#,
            r#"{"batchItemFailures": [{"itemIdentifier": null}]}"#,
            r#"{"batchItemFailures": [{"identifier": "a"}]}"#,
            r#"{"batchItemFailures": [{"itemIdentifier": "z"}]}"#,
            r#"{"batchItemFailures": [{"itemIdentifier": "a"}, {"itemIdentifier": "z"}]}"#,
            r#"{"batchItemFailures": ["a"]}"#,
        ] {
            assert_eq!(of(failure), Failed::Everything, "{failure}");
        }
    }

    #[test]
    fn those_that_failed_are_known_by_their_places() {
        let some =
            r#"{"batchItemFailures": [{"itemIdentifier": "c"}, {"itemIdentifier": "a"}, {"itemIdentifier": "c"}]}"#;
        assert_eq!(of(some), Failed::Some(vec![0, 2]));
        let all =
            r#"{"batchItemFailures": [{"itemIdentifier": "a"}, {"itemIdentifier": "b"}, {"itemIdentifier": "c"}]}"#;
        assert_eq!(of(all), Failed::Everything);
    }
}

//! Event patterns: which JSON documents pass. Buses choose targets with them, and mappings the records of a source. Pure.
//!
//! A pattern is an object: all of its keys must match, a list matches if one of its members does, and a list in the
//! document matches if one of its elements does.
//!
//! | member of a list                                  | matches                                                        |
//! |---------------------------------------------------|----------------------------------------------------------------|
//! | text, number, `true`, `false`, `null`             | the same value; numbers by value                                |
//! | `{"prefix": p}`, `{"suffix": p}`                  | text that begins or ends so; `p` may be `{"equals-ignore-case": p}` |
//! | `{"equals-ignore-case": p}`                       | the same text, whatever the case of its letters                 |
//! | `{"wildcard": "a*b"}`                             | `*` stands for any letters; `\*` and `\\` for themselves        |
//! | `{"anything-but": …}`                             | a value that is there and is not that                           |
//! | `{"numeric": [">", 0, "<=", 5]}`                  | a number within the bounds                                      |
//! | `{"cidr": "10.0.0.0/24"}`                         | text that is an address of the network                          |
//! | `{"exists": true}`                                | a value that is there; `false`: none                            |
//!
//! `"$or": [{…}, {…}]` beside keys: one of the objects must match too. Source: the EventBridge user guide, "Comparison
//! operators", and the Lambda developer guide, "Event filtering". Start reading at `Pattern`; rules of one value are in `rule`.

mod rule;

use serde_json::{Map, Value};

use rule::Rule;

/// Most characters of a pattern.
pub const PATTERN_CHARS_MAX: usize = 4_096;

/// A pattern that was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Pattern(Group);

/// Why a text is no pattern, in the words of EventBridge, which come after `Event pattern is not valid. Reason: `.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotAPattern(pub String);

fn wrong<T>(reason: impl Into<String>) -> Result<T, NotAPattern> {
    Err(NotAPattern(reason.into()))
}

/// An object of a pattern: all fields must match, and one alternative of each list.
#[derive(Debug, Clone, PartialEq)]
struct Group {
    fields: Vec<(String, Field)>,
    alternatives: Vec<Vec<Group>>,
}

#[derive(Debug, Clone, PartialEq)]
enum Field {
    Group(Group),
    Rules(Vec<Rule>),
}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// The text is not one.
    pub fn parse(text: &str) -> Result<Self, NotAPattern> {
        match serde_json::from_str(text) {
            Ok(Value::Object(members)) => group(&members).map(Self),
            Ok(_) => wrong("Filter is not an object"),
            Err(_) => wrong("Filter is not valid JSON"),
        }
    }

    /// Whether a document passes.
    pub fn matches(&self, document: &Value) -> bool {
        self.0.matches(Some(document))
    }

    /// Whether the pattern says anything of this key of the document, and if so whether it wants an object there.
    pub fn wants_object(&self, key: &str) -> Option<bool> {
        self.0.wants_object(key)
    }
}

fn group(members: &Map<String, Value>) -> Result<Group, NotAPattern> {
    let mut found = Group { fields: Vec::with_capacity(members.len()), alternatives: Vec::new() };
    for (key, value) in members {
        let field = match value {
            Value::Object(inner) => Field::Group(group(inner)?),
            Value::Array(items) if key == "$or" && items.len() >= 2 && items.iter().all(Value::is_object) => {
                let groups = items.iter().filter_map(Value::as_object).map(group);
                found.alternatives.push(groups.collect::<Result<_, _>>()?);
                continue;
            }
            Value::Array(items) if items.is_empty() => return wrong("Empty arrays are not allowed"),
            Value::Array(items) => Field::Rules(items.iter().map(Rule::parse).collect::<Result<_, _>>()?),
            _ => return wrong(format!("\"{key}\" must be an object or an array")),
        };
        found.fields.push((key.clone(), field));
    }
    Ok(found)
}

impl Group {
    /// Whether a value passes; nothing is a value that is not there.
    fn matches(&self, value: Option<&Value>) -> bool {
        if let Some(Value::Array(elements)) = value
            && !elements.is_empty()
        {
            return elements.iter().any(|element| self.matches(Some(element)));
        }
        let members = value.and_then(Value::as_object);
        let of = |key: &str| members.and_then(|members| members.get(key));
        self.fields.iter().all(|(key, field)| field.matches(of(key)))
            && self.alternatives.iter().all(|groups| groups.iter().any(|group| group.matches(value)))
    }

    fn wants_object(&self, key: &str) -> Option<bool> {
        let own = self.fields.iter().find(|(name, _)| name == key);
        let own = own.map(|(_, field)| matches!(field, Field::Group(_)));
        own.or_else(|| self.alternatives.iter().flatten().find_map(|group| group.wants_object(key)))
    }
}

impl Field {
    fn matches(&self, value: Option<&Value>) -> bool {
        match self {
            Self::Group(group) => group.matches(value),
            Self::Rules(rules) => rules.iter().any(|rule| rule.matches_any(value)),
        }
    }
}

#[cfg(test)]
mod tests;

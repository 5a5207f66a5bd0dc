//! YAML with positions: every value knows its line and column, so that an error can point at it.
//!
//! Short-form CloudFormation tags (`!Ref x`, `!GetAtt a.b`, `!Sub …`) become their long form. Any other tag is an error.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use saphyr::{LoadableYamlNode, MarkedYaml, Scalar, YamlData};
use serde_json::{Map, Number, Value as Json};

/// Where a value stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// The file.
    pub file: Arc<PathBuf>,
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1.
    pub column: usize,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file.display(), self.line, self.column)
    }
}

/// A value with its position.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Where it starts.
    pub at: Position,
    /// What it is.
    pub value: Value,
}

/// What a node can be.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Null, or nothing after a key.
    Null,
    /// A truth value.
    Bool(bool),
    /// A number.
    Number(Number),
    /// A text.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// A map in the file's order; keys are texts.
    Map(Vec<(String, Node)>),
}

/// An error that a person can act on: place, what is there, what was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{at}: {message}")]
pub struct Error {
    /// The place.
    pub at: Position,
    /// What is wrong and what was expected.
    pub message: String,
}

impl Node {
    /// Reads a file's text. An empty file is a null.
    pub fn parse(file: &Path, text: &str) -> Result<Self, Error> {
        let file = Arc::new(file.to_owned());
        let documents = MarkedYaml::load_from_str(text).map_err(|error| {
            let (line, column) = (error.marker().line(), error.marker().col() + 1);
            let at = Position { file: file.clone(), line, column };
            Error { at, message: format!("this is not valid YAML: {}", error.info()) }
        })?;
        match documents.as_slice() {
            [] => Ok(Self { at: Position { file, line: 1, column: 1 }, value: Value::Null }),
            [document] => convert(document, &file),
            [_, second, ..] => {
                let at = position(second, &file);
                Err(Error { at, message: "one YAML document was expected, a second one starts here".into() })
            }
        }
    }

    /// An error at this node.
    pub fn error(&self, message: impl Into<String>) -> Error {
        Error { at: self.at.clone(), message: message.into() }
    }

    /// What kind of value this is, for messages.
    pub fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "a truth value",
            Value::Number(_) => "a number",
            Value::Text(_) => "a text",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
        }
    }

    /// The member of a map; nothing if this is no map, or it lacks the key, or the value is null.
    pub fn get(&self, key: &str) -> Option<&Self> {
        let Value::Map(entries) = &self.value else { return None };
        let (_, node) = entries.iter().find(|(name, _)| name == key)?;
        (node.value != Value::Null).then_some(node)
    }

    /// The entries of a map. `what` names the thing in the error.
    pub fn map(&self, what: &str) -> Result<&[(String, Self)], Error> {
        match &self.value {
            Value::Map(entries) => Ok(entries),
            Value::Null => Ok(&[]),
            _ => Err(self.error(format!("{what} must be a map, here is {}", self.kind()))),
        }
    }

    /// The items of a list.
    pub fn list(&self, what: &str) -> Result<&[Self], Error> {
        match &self.value {
            Value::List(items) => Ok(items),
            Value::Null => Ok(&[]),
            _ => Err(self.error(format!("{what} must be a list, here is {}", self.kind()))),
        }
    }

    /// A text; numbers and truth values are taken by their text, as YAML writers expect.
    pub fn text(&self, what: &str) -> Result<String, Error> {
        match &self.value {
            Value::Text(text) => Ok(text.clone()),
            Value::Number(number) => Ok(number.to_string()),
            Value::Bool(flag) => Ok(flag.to_string()),
            _ => Err(self.error(format!("{what} must be a text, here is {}", self.kind()))),
        }
    }

    /// A whole number within limits.
    pub fn integer(&self, what: &str, from: u64, to: u64) -> Result<u64, Error> {
        let number = match &self.value {
            Value::Number(number) => number.as_u64(),
            Value::Text(text) => text.parse().ok(),
            _ => None,
        };
        match number {
            Some(number) if (from..=to).contains(&number) => Ok(number),
            _ => {
                Err(self.error(format!("{what} must be a whole number from {from} to {to}, here is {}", self.shown())))
            }
        }
    }

    /// A truth value.
    pub fn flag(&self, what: &str) -> Result<bool, Error> {
        match &self.value {
            Value::Bool(flag) => Ok(*flag),
            _ => Err(self.error(format!("{what} must be true or false, here is {}", self.shown()))),
        }
    }

    /// The same value as JSON.
    pub fn json(&self) -> Json {
        match &self.value {
            Value::Null => Json::Null,
            Value::Bool(flag) => Json::Bool(*flag),
            Value::Number(number) => Json::Number(number.clone()),
            Value::Text(text) => Json::String(text.clone()),
            Value::List(items) => Json::Array(items.iter().map(Self::json).collect()),
            Value::Map(entries) => {
                Json::Object(entries.iter().map(|(k, v)| (k.clone(), v.json())).collect::<Map<_, _>>())
            }
        }
    }

    fn shown(&self) -> String {
        match &self.value {
            Value::List(_) | Value::Map(_) | Value::Null => self.kind().to_owned(),
            _ => self.json().to_string(),
        }
    }
}

fn position(node: &MarkedYaml<'_>, file: &Arc<PathBuf>) -> Position {
    Position { file: file.clone(), line: node.span.start.line().max(1), column: node.span.start.col() + 1 }
}

fn convert(node: &MarkedYaml<'_>, file: &Arc<PathBuf>) -> Result<Node, Error> {
    let at = position(node, file);
    let value = match &node.data {
        YamlData::Value(scalar) => scalar_value(scalar),
        YamlData::Sequence(items) => {
            Value::List(items.iter().map(|item| convert(item, file)).collect::<Result<_, _>>()?)
        }
        YamlData::Mapping(entries) => {
            let mut map = Vec::with_capacity(entries.len());
            for (key, value) in entries {
                let key = convert(key, file)?;
                let name = key.text("a key")?;
                if name == "<<" {
                    return Err(key.error("merge keys (<<) are not supported; write the entries out"));
                }
                let mut value = convert(value, file)?;
                if value.value == Value::Null {
                    value.at = key.at;
                }
                map.push((name, value));
            }
            Value::Map(map)
        }
        YamlData::Tagged(tag, inner) => return tagged(&tag.suffix, convert(inner, file)?, at),
        YamlData::Representation(text, ..) => Value::Text(text.to_string()),
        YamlData::Alias(_) | YamlData::BadValue => {
            return Err(Error { at, message: "this value does not fit its type".into() });
        }
    };
    Ok(Node { at, value })
}

fn scalar_value(scalar: &Scalar<'_>) -> Value {
    match scalar {
        Scalar::Null => Value::Null,
        Scalar::Boolean(flag) => Value::Bool(*flag),
        Scalar::Integer(number) => Value::Number((*number).into()),
        Scalar::FloatingPoint(number) => match Number::from_f64(number.into_inner()) {
            Some(number) => Value::Number(number),
            None => Value::Text(number.to_string()),
        },
        Scalar::String(text) => Value::Text(text.to_string()),
    }
}

/// `!Ref x` is `{Ref: x}`; `!GetAtt a.b` is `{Fn::GetAtt: [a, b]}`; `!Name x` is `{Fn::Name: x}`.
fn tagged(tag: &str, inner: Node, at: Position) -> Result<Node, Error> {
    const FUNCTIONS: &[&str] = &[
        "Base64",
        "Cidr",
        "FindInMap",
        "GetAtt",
        "GetAZs",
        "ImportValue",
        "Join",
        "Select",
        "Split",
        "Sub",
        "If",
        "And",
        "Equals",
        "Not",
        "Or",
    ];
    let (name, inner) = match (tag, &inner.value) {
        ("Ref" | "Condition", _) => (tag.to_owned(), inner),
        ("GetAtt", Value::Text(text)) => {
            let part = |text: &str| Node { at: inner.at.clone(), value: Value::Text(text.to_owned()) };
            let Some((resource, attribute)) = text.split_once('.') else {
                return Err(inner.error("!GetAtt needs RESOURCE.ATTRIBUTE"));
            };
            let parts = Value::List(vec![part(resource), part(attribute)]);
            ("Fn::GetAtt".to_owned(), Node { at: inner.at, value: parts })
        }
        (tag, _) if FUNCTIONS.contains(&tag) => (format!("Fn::{tag}"), inner),
        _ => return Err(Error { at, message: format!("the tag !{tag} is not known") }),
    };
    Ok(Node { at, value: Value::Map(vec![(name, inner)]) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Node, Error> {
        Node::parse(Path::new("a.yml"), text)
    }

    #[test]
    fn values_know_their_place() {
        let node = parse("a: 1\nb:\n  - x\n  - {c: true}\n").unwrap();
        let list = node.get("b").unwrap().list("b").unwrap();
        assert_eq!((list[1].at.line, list[1].at.column), (4, 5));
        assert_eq!(list[1].get("c").unwrap().flag("c"), Ok(true));
        assert_eq!(node.json(), serde_json::json!({"a": 1, "b": ["x", {"c": true}]}));
    }

    #[test]
    fn errors_name_file_line_and_expectation() {
        let error = parse("a: [1, 2\nb: 3\n").unwrap_err().to_string();
        assert!(error.starts_with("a.yml:"), "{error}");
        let node = parse("timeout: soon\n").unwrap();
        let error = node.get("timeout").unwrap().integer("timeout", 1, 900).unwrap_err().to_string();
        assert_eq!(error, "a.yml:1:10: timeout must be a whole number from 1 to 900, here is \"soon\"");
    }

    #[test]
    fn short_tags_become_functions() {
        let node = parse("a: !Ref T\nb: !GetAtt T.Arn\nc: !Sub 'x-${T}'\n").unwrap();
        let expected =
            serde_json::json!({"a": {"Ref": "T"}, "b": {"Fn::GetAtt": ["T", "Arn"]}, "c": {"Fn::Sub": "x-${T}"}});
        assert_eq!(node.json(), expected);
        assert!(parse("a: !Nonsense x\n").unwrap_err().message.contains("!Nonsense"));
    }

    #[test]
    fn noise_is_an_error_or_a_value_never_a_panic() {
        for noise in ["", "\t", "[", "a: b: c", "- - -", "&a *a", "%YAML 9", "{", "\"", "a: |\n  x\n y", "? [a]\n: b"] {
            let _ = parse(noise);
        }
    }
}

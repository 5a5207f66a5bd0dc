//! CloudFormation's functions, as far as a deployed table or variable needs them: Ref, Fn::GetAtt, Fn::Sub, Fn::Join.
//!
//! Pure: takes a document and what the stack's resources are called.

use std::collections::BTreeMap;

use regex_lite::{Captures, Regex};
use serde_json::{Map, Value};

/// What references mean.
#[derive(Debug, Clone, Default)]
pub struct Names {
    /// `Ref` of logical ids and pseudo parameters.
    pub refs: BTreeMap<String, String>,
    /// `Fn::GetAtt` by `LOGICAL.ATTRIBUTE`.
    pub attributes: BTreeMap<String, String>,
}

impl Names {
    /// The pseudo parameters of a stack.
    pub fn of_stack(account: &str, region: &str, stack: &str) -> Self {
        let pairs = [
            ("AWS::AccountId", account),
            ("AWS::Region", region),
            ("AWS::StackName", stack),
            ("AWS::Partition", "aws"),
            ("AWS::URLSuffix", "amazonaws.com"),
        ];
        let refs = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Self { refs, attributes: BTreeMap::new() }
    }

    /// The document with every function replaced by its value.
    pub fn evaluate(&self, document: &Value) -> Result<Value, String> {
        match document {
            Value::Array(items) => {
                items.iter().map(|item| self.evaluate(item)).collect::<Result<_, _>>().map(Value::Array)
            }
            Value::Object(members) => match members.iter().next() {
                Some((name, argument)) if members.len() == 1 && (name == "Ref" || name.starts_with("Fn::")) => {
                    self.function(name, argument)
                }
                _ => members
                    .iter()
                    .map(|(name, value)| Ok((name.clone(), self.evaluate(value)?)))
                    .collect::<Result<Map<_, _>, String>>()
                    .map(Value::Object),
            },
            other => Ok(other.clone()),
        }
    }

    fn function(&self, name: &str, argument: &Value) -> Result<Value, String> {
        match (name, argument) {
            ("Ref", Value::String(id)) => self.reference(id).map(Value::String),
            ("Fn::GetAtt", Value::String(path)) => self.attribute(path).map(Value::String),
            ("Fn::GetAtt", Value::Array(parts)) => {
                let path: Vec<&str> = parts.iter().filter_map(Value::as_str).collect();
                self.attribute(&path.join(".")).map(Value::String)
            }
            ("Fn::Sub", Value::String(text)) => self.substitute(text, &Map::new()).map(Value::String),
            ("Fn::Sub", Value::Array(parts)) => match parts.as_slice() {
                [Value::String(text), Value::Object(more)] => self.substitute(text, more).map(Value::String),
                _ => Err("Fn::Sub takes a text, or a text and a map".into()),
            },
            ("Fn::Join", Value::Array(parts)) => match parts.as_slice() {
                [Value::String(glue), Value::Array(items)] => {
                    let items: Vec<String> = items.iter().map(|item| self.text(item)).collect::<Result<_, _>>()?;
                    Ok(Value::String(items.join(glue)))
                }
                _ => Err("Fn::Join takes a separator and a list".into()),
            },
            _ => {
                Err(format!("{name} is not supported here; use a literal value, Ref, Fn::GetAtt, Fn::Sub or Fn::Join"))
            }
        }
    }

    fn text(&self, value: &Value) -> Result<String, String> {
        match self.evaluate(value)? {
            Value::String(text) => Ok(text),
            Value::Number(number) => Ok(number.to_string()),
            Value::Bool(flag) => Ok(flag.to_string()),
            other => Err(format!("a text was expected, here is {other}")),
        }
    }

    fn reference(&self, id: &str) -> Result<String, String> {
        self.refs.get(id).cloned().ok_or_else(|| format!("Ref {id}: there is no such resource or parameter"))
    }

    fn attribute(&self, path: &str) -> Result<String, String> {
        self.attributes
            .get(path)
            .cloned()
            .ok_or_else(|| format!("Fn::GetAtt {path}: there is no such resource or attribute"))
    }

    fn substitute(&self, text: &str, more: &Map<String, Value>) -> Result<String, String> {
        let pattern = Regex::new(r"\$\{(!?)([^}]*)\}").map_err(|error| error.to_string())?;
        let mut failed = None;
        let replaced = pattern.replace_all(text, |found: &Captures<'_>| {
            let name = found[2].trim();
            if &found[1] == "!" {
                return format!("${{{name}}}");
            }
            let value = match more.get(name) {
                Some(value) => self.text(value),
                None if name.contains('.') => self.attribute(name),
                None => self.reference(name),
            };
            value.unwrap_or_else(|error| {
                failed.get_or_insert(error);
                String::new()
            })
        });
        let replaced = replaced.into_owned();
        failed.map_or(Ok(replaced), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn names() -> Names {
        let mut names = Names::of_stack("000000000000", "us-east-1", "s-dev");
        names.refs.insert("T".into(), "Table".into());
        names.attributes.insert("T.Arn".into(), "arn:table".into());
        names
    }

    #[test]
    fn functions_become_values() {
        let document = json!({"a": {"Ref": "T"}, "b": {"Fn::GetAtt": ["T", "Arn"]}, "c": {"Fn::Sub": "${AWS::Region}/${T}/${T.Arn}/${!T}"},
            "d": {"Fn::Join": ["-", ["x", {"Ref": "AWS::AccountId"}]]}, "e": {"Fn::Sub": ["${v}", {"v": {"Ref": "T"}}]}, "f": [1, true]});
        let expected = json!({"a": "Table", "b": "arn:table", "c": "us-east-1/Table/arn:table/${T}", "d": "x-000000000000", "e": "Table", "f": [1, true]});
        assert_eq!(names().evaluate(&document), Ok(expected));
    }

    #[test]
    fn what_is_not_known_is_said() {
        for (document, word) in [
            (json!({"Ref": "X"}), "Ref X"),
            (json!({"Fn::Sub": "${X}"}), "Ref X"),
            (json!({"Fn::Cidr": []}), "Fn::Cidr"),
        ] {
            assert!(names().evaluate(&document).unwrap_err().contains(word));
        }
    }
}

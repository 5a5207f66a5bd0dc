//! From a request to the input of an operation: members collected from where they travel, renamed, typed and checked.
//!
//! Invariants
//!   1. What comes out has members of the model only, under their model names, each of the model's type.
//!   2. Text is never looked at twice: a JSON body is parsed once, a blob payload not at all.
//!   3. All broken constraints are reported together, in the words and paths that AWS uses.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::HeaderMap;
use serde_json::{Map, Number, Value};

use crate::apis::{Api, Constraints};
use crate::model_table::{Io, Kind, Location, Member, Shape};
use crate::service::Error;

/// Where the members of one request are.
pub(crate) struct Source<'a> {
    /// Decoded parts of the path, by wire name.
    pub(crate) path: &'a [(&'static str, String)],
    /// The raw query.
    pub(crate) query: &'a str,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) body: &'a Bytes,
}

/// The input of an operation, and its blob payload.
pub(crate) fn rest(api: &Api, io: &Io, source: &Source<'_>) -> Result<(Value, Bytes), Error> {
    let mut check = Check::of(api);
    let in_body = io.input.iter().any(|member| member.location == Location::Body);
    let (payload, mut wire) = if io.input_payload.is_empty() {
        let empty = !in_body || source.body.iter().all(u8::is_ascii_whitespace);
        (Bytes::new(), if empty { Map::new() } else { object(api, source.body)? })
    } else {
        (source.body.clone(), Map::new())
    };
    let query: Vec<(String, String)> = form_urlencoded::parse(source.query.as_bytes()).into_owned().collect();
    let mut input = Map::new();
    for member in io.input {
        let found = match member.location {
            Location::Body => wire.remove(member.wire),
            Location::Uri => {
                source.path.iter().find(|(name, _)| *name == member.wire).map(|(_, text)| Value::String(text.clone()))
            }
            Location::Header => {
                let text = source.headers.get(member.wire).map(|value| String::from_utf8_lossy(value.as_bytes()));
                text.map(|text| Value::String(text.into_owned()))
            }
            Location::Query => of_query(&query, member),
            Location::Status => None,
        };
        let found = match found {
            Some(Value::String(text)) if member.location != Location::Body => Some(of_text(text, &member.shape.kind)?),
            found => found,
        };
        check.member(member, found, "", &mut input)?;
    }
    check.done()?;
    Ok((Value::Object(input), payload))
}

/// The input of an operation of a JSON protocol.
pub(crate) fn json(api: &Api, io: &Io, body: &Bytes) -> Result<Value, Error> {
    let mut check = Check::of(api);
    let wire = if body.is_empty() { Map::new() } else { object(api, body)? };
    let input = check.members(io.input, wire, "")?;
    check.done()?;
    Ok(Value::Object(input))
}

/// The input of an operation of the query protocol: `Name`, `List.member.1.Name`, `Map.entry.1.key`.
pub(crate) fn form(api: &Api, io: &Io, fields: &[(String, String)]) -> Result<Value, Error> {
    let mut check = Check::of(api);
    let mut by_name: HashMap<&str, &str> = HashMap::with_capacity(fields.len());
    for (name, text) in fields {
        by_name.entry(name).or_insert(text);
    }
    let mut input = Map::new();
    for member in io.input {
        let found = of_fields(&by_name, member.wire, member.shape)?;
        check.member(member, found, "", &mut input)?;
    }
    check.done()?;
    Ok(Value::Object(input))
}

/// What the fields under a name hold, if there are any. Each step down looks up names, so that the work is as much as there
/// are fields.
fn of_fields(fields: &HashMap<&str, &str>, name: &str, shape: &'static Shape) -> Result<Option<Value>, Error> {
    Ok(match &shape.kind {
        Kind::Structure(members) => {
            let mut found = Map::new();
            for member in *members {
                if let Some(value) = of_fields(fields, &format!("{name}.{}", member.wire), member.shape)? {
                    found.insert(member.wire.to_owned(), value);
                }
            }
            (!found.is_empty()).then_some(Value::Object(found))
        }
        Kind::List(inner) => {
            let mut found = Vec::new();
            while let Some(value) = of_fields(fields, &format!("{name}.member.{}", found.len() + 1), inner)? {
                found.push(value);
            }
            (!found.is_empty()).then_some(Value::Array(found))
        }
        Kind::Map(_, inner) => {
            let mut found = Map::new();
            let entry = |number: usize, part: &str| format!("{name}.entry.{number}.{part}");
            while let Some(key) = fields.get(entry(found.len() + 1, "key").as_str()) {
                let Some(value) = of_fields(fields, &entry(found.len() + 1, "value"), inner)? else { break };
                if found.insert((*key).to_owned(), value).is_some() {
                    return Err(serialization(format!("{name} has the key {key} twice")));
                }
            }
            (!found.is_empty()).then_some(Value::Object(found))
        }
        kind => fields.get(name).map(|text| of_text((*text).to_owned(), kind)).transpose()?,
    })
}

fn object(api: &Api, body: &[u8]) -> Result<Map<String, Value>, Error> {
    match serde_json::from_slice(body) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(serialization("Unexpected field type".into())),
        Err(error) => Err(Error::new(400, api.bad_json, format!("Could not parse request body into json: {error}"))),
    }
}

fn serialization(message: String) -> Error {
    Error::new(400, "SerializationException", message)
}

fn of_query(query: &[(String, String)], member: &Member) -> Option<Value> {
    let mut values = query.iter().filter(|(name, _)| name == member.wire).map(|(_, text)| text.clone());
    match member.shape.kind {
        Kind::List(_) => {
            let values: Vec<Value> = values.map(Value::String).collect();
            (!values.is_empty()).then_some(Value::Array(values))
        }
        _ => values.next().map(Value::String),
    }
}

/// Text of a path, query, header or form as a value of its kind.
fn of_text(text: String, kind: &Kind) -> Result<Value, Error> {
    let wrong = |what: &str| serialization(format!("STRING_VALUE can not be converted to {what}"));
    Ok(match kind {
        Kind::Integer => Value::from(text.trim().parse::<i64>().map_err(|_| wrong("a Long"))?),
        Kind::Float => Value::from(text.trim().parse::<f64>().map_err(|_| wrong("a Double"))?),
        Kind::Boolean => match text.trim() {
            "true" | "True" => Value::Bool(true),
            "false" | "False" => Value::Bool(false),
            _ => return Err(wrong("a Boolean")),
        },
        _ => Value::String(text),
    })
}

/// Most errors that are written out; all are counted.
const WRITTEN_MAX: usize = 20;

struct Check {
    constraints: Constraints,
    broken: Vec<String>,
    count: usize,
}

impl Check {
    fn of(api: &Api) -> Self {
        Self { constraints: api.constraints, broken: Vec::new(), count: 0 }
    }

    fn done(self) -> Result<(), Error> {
        let Constraints::Checked(code) = self.constraints else { return Ok(()) };
        if self.count == 0 {
            return Ok(());
        }
        let errors = if self.count == 1 { "error" } else { "errors" };
        let text = format!("{} validation {errors} detected: {}", self.count, self.broken.join("; "));
        Err(Error::new(400, code, text))
    }

    fn breaks(&mut self, value: &Value, path: &str, rule: &str) {
        self.count += 1;
        if self.broken.len() < WRITTEN_MAX {
            let shown = match value {
                Value::Null => "null".to_owned(),
                other => format!("'{}'", plain(other)),
            };
            self.broken.push(format!("Value {shown} at '{path}' failed to satisfy constraint: {rule}"));
        }
    }

    fn members(
        &mut self,
        members: &'static [Member],
        mut wire: Map<String, Value>,
        path: &str,
    ) -> Result<Map<String, Value>, Error> {
        if self.constraints == Constraints::Service {
            return self.in_place(members, wire);
        }
        let mut input = Map::new();
        for member in members {
            let found = wire.remove(member.wire);
            self.member(member, found, path, &mut input)?;
        }
        Ok(input)
    }

    /// The same where nothing is checked but types: what was sent is looked through, not all that may be, and stays where
    /// it is.
    fn in_place(
        &mut self,
        members: &'static [Member],
        mut wire: Map<String, Value>,
    ) -> Result<Map<String, Value>, Error> {
        let (mut wrong, mut renamed) = (None, false);
        wire.retain(|name, value| {
            let Some(member) = members.iter().find(|member| member.wire == name).filter(|_| !value.is_null()) else {
                return false;
            };
            renamed |= member.name != member.wire;
            self.replace(member.shape, value, &mut wrong);
            true
        });
        match wrong {
            Some(error) => Err(error),
            None if renamed => Ok(named(members, wire)),
            None => Ok(wire),
        }
    }

    /// Looks through a value where it is; the first that is wrong counts.
    fn replace(&mut self, shape: &'static Shape, value: &mut Value, wrong: &mut Option<Error>) {
        match self.value(shape, std::mem::take(value), "") {
            Ok(typed) => *value = typed,
            Err(error) => *wrong = wrong.take().or(Some(error)),
        }
    }

    fn member(
        &mut self,
        member: &'static Member,
        found: Option<Value>,
        path: &str,
        input: &mut Map<String, Value>,
    ) -> Result<(), Error> {
        let path = || {
            let mut name = member.name.to_owned();
            name[..1].make_ascii_lowercase();
            if path.is_empty() { name } else { format!("{path}.{name}") }
        };
        match found {
            None | Some(Value::Null) => {
                if member.required {
                    self.breaks(&Value::Null, &path(), "Member must not be null");
                }
            }
            Some(value) => {
                let value = self.value(member.shape, value, &path())?;
                input.insert(member.name.to_owned(), value);
            }
        }
        Ok(())
    }

    fn value(&mut self, shape: &'static Shape, value: Value, path: &str) -> Result<Value, Error> {
        let value = typed(&shape.kind, value)?;
        if self.constraints != Constraints::Service {
            for rule in rules(shape) {
                if !holds(&rule, shape, &value) {
                    self.breaks(&value, path, &rule_text(&rule));
                }
            }
        }
        match (&shape.kind, value) {
            (Kind::Structure(members), Value::Object(wire)) => Ok(Value::Object(self.members(members, wire, path)?)),
            (Kind::List(inner), Value::Array(values)) => self.list(inner, values, path),
            (Kind::Map(key, inner), Value::Object(entries)) => self.map(key, inner, entries, path),
            (_, value) => Ok(value),
        }
    }

    fn list(&mut self, inner: &'static Shape, values: Vec<Value>, path: &str) -> Result<Value, Error> {
        let nested = nests(inner);
        if !nested && self.constraints != Constraints::Service {
            let breaks = |value: &Value| rules(inner).iter().any(|rule| !holds(rule, inner, value));
            if values.iter().any(breaks) {
                let rule = format!("Member must satisfy constraint: [{}]", all_rules(inner));
                self.breaks(&Value::Array(values.clone()), path, &rule);
            }
        }
        let mut list = Vec::with_capacity(values.len());
        for (index, value) in values.into_iter().enumerate() {
            list.push(match (nested, self.constraints) {
                (true, Constraints::Checked(_)) => self.value(inner, value, &format!("{path}.{}.member", index + 1))?,
                (true, Constraints::Service) => self.value(inner, value, "")?,
                (false, _) => typed(&inner.kind, value)?,
            });
        }
        Ok(Value::Array(list))
    }

    fn map(
        &mut self,
        key: &'static Shape,
        inner: &'static Shape,
        mut entries: Map<String, Value>,
        path: &str,
    ) -> Result<Value, Error> {
        let nested = nests(inner);
        if self.constraints == Constraints::Service {
            let mut wrong = None;
            entries.retain(|_, value| {
                if !value.is_null() {
                    self.replace(inner, value, &mut wrong);
                }
                !value.is_null()
            });
            return wrong.map_or(Ok(Value::Object(entries)), Err);
        }
        let key_breaks = |name: &String| {
            let name = Value::String(name.clone());
            rules(key).iter().any(|rule| !holds(rule, key, &name))
        };
        if entries.keys().any(key_breaks) {
            let rule = format!("Map keys must satisfy constraint: [{}]", all_rules(key));
            self.breaks(&Value::Object(entries.clone()), path, &rule);
        }
        let breaks = |value: &Value| rules(inner).iter().any(|rule| !holds(rule, inner, value));
        if !nested && entries.values().any(breaks) {
            let rule = format!("Map value must satisfy constraint: [{}]", all_rules(inner));
            self.breaks(&Value::Object(entries.clone()), path, &rule);
        }
        let mut map = Map::new();
        for (name, value) in entries {
            let value = match nested {
                _ if value.is_null() => continue,
                true => self.value(inner, value, &format!("{path}.{name}.member"))?,
                false => typed(&inner.kind, value)?,
            };
            map.insert(name, value);
        }
        Ok(Value::Object(map))
    }
}

/// Members under their model names.
fn named(members: &'static [Member], wire: Map<String, Value>) -> Map<String, Value> {
    let name =
        |wire: &str| members.iter().find(|member| member.wire == wire).map_or(wire, |member| member.name).to_owned();
    wire.into_iter().map(|(wire, value)| (name(&wire), value)).collect()
}

fn nests(shape: &Shape) -> bool {
    matches!(shape.kind, Kind::Structure(_) | Kind::List(_) | Kind::Map(..))
}

/// A value of its kind, or the words for a wrong type.
fn typed(kind: &Kind, value: Value) -> Result<Value, Error> {
    let fits = match kind {
        Kind::Text | Kind::Blob => value.is_string(),
        Kind::Boolean => value.is_boolean(),
        Kind::Integer | Kind::Float => value.is_number(),
        Kind::Timestamp(_) => match &value {
            Value::String(text) => return seconds(text).map(Value::Number),
            other => other.is_number(),
        },
        Kind::Structure(_) | Kind::Map(..) => value.is_object(),
        Kind::List(_) => value.is_array(),
    };
    if !fits {
        return Err(serialization(wrong_type(kind, &value)));
    }
    match (kind, &value) {
        // 3.0 is a whole number to every client that has no other kind.
        (Kind::Integer, Value::Number(number)) if number.as_i64().is_none() => match number.as_f64() {
            Some(float) if float.fract() == 0.0 && float.abs() < 9e15 => Ok(Value::from(float as i64)),
            _ => Err(serialization("DECIMAL_VALUE can not be converted to a Long".into())),
        },
        (Kind::Blob, Value::String(text)) if text.len() < 4_096 && STANDARD.decode(text).is_err() => {
            Err(serialization("Invalid Base64 text in a blob member".into()))
        }
        _ => Ok(value),
    }
}

fn seconds(text: &str) -> Result<Number, Error> {
    let at: Result<jiff::Timestamp, _> = text.parse();
    let seconds = at.ok().and_then(|at| Number::from_f64(at.as_millisecond() as f64 / 1_000.0));
    seconds.ok_or_else(|| serialization(format!("{text} is not a timestamp")))
}

fn wrong_type(kind: &Kind, value: &Value) -> String {
    let token = match value {
        Value::Bool(true) => "TRUE_VALUE",
        Value::Bool(false) => "FALSE_VALUE",
        Value::Number(number) if number.is_f64() => "DECIMAL_VALUE",
        Value::Number(_) => "NUMBER_VALUE",
        Value::String(_) => "STRING_VALUE",
        Value::Object(_) => return "Start of structure or map found where not expected".into(),
        Value::Array(_) => return "Start of list found where not expected".into(),
        Value::Null => "NULL_VALUE",
    };
    match kind {
        Kind::Text => format!("{token} cannot be converted to String"),
        Kind::Blob => "only base-64-encoded data is convertible to binary".into(),
        Kind::Boolean if value.is_string() => "Unexpected token received from parser".into(),
        Kind::Boolean => format!("{token} cannot be converted to Boolean"),
        Kind::Integer => format!("{token} cannot be converted to Long"),
        Kind::Float => format!("{token} cannot be converted to Double"),
        Kind::Timestamp(_) => format!("{token} cannot be converted to Timestamp"),
        Kind::Structure(_) | Kind::Map(..) | Kind::List(_) => "Unexpected field type".into(),
    }
}

enum Rule {
    LengthMax(i64),
    LengthMin(i64),
    Most(i64),
    Least(i64),
    Pattern(&'static str),
    Values(&'static [&'static str]),
}

/// The rules of a shape, in the order that AWS lists them.
fn rules(shape: &'static Shape) -> Vec<Rule> {
    let counts = !matches!(shape.kind, Kind::Integer | Kind::Float | Kind::Timestamp(_) | Kind::Boolean);
    let mut rules = Vec::new();
    if let Some(max) = shape.max {
        rules.push(if counts { Rule::LengthMax(max) } else { Rule::Most(max) });
    }
    if let Some(min) = shape.min {
        rules.push(if counts { Rule::LengthMin(min) } else { Rule::Least(min) });
    }
    if let Some(pattern) = shape.pattern {
        rules.push(Rule::Pattern(pattern.source()));
    }
    if !shape.values.is_empty() {
        rules.push(Rule::Values(shape.values));
    }
    rules
}

fn rule_text(rule: &Rule) -> String {
    match rule {
        Rule::LengthMax(max) => format!("Member must have length less than or equal to {max}"),
        Rule::LengthMin(min) => format!("Member must have length greater than or equal to {min}"),
        Rule::Most(max) => format!("Member must have value less than or equal to {max}"),
        Rule::Least(min) => format!("Member must have value greater than or equal to {min}"),
        Rule::Pattern(source) => format!("Member must satisfy regular expression pattern: {source}"),
        Rule::Values(values) => format!("Member must satisfy enum value set: [{}]", values.join(", ")),
    }
}

fn all_rules(shape: &'static Shape) -> String {
    let mut texts: Vec<String> = rules(shape).iter().map(rule_text).collect();
    texts.push("Member must not be null".into());
    texts.join(", ")
}

fn holds(rule: &Rule, shape: &'static Shape, value: &Value) -> bool {
    let length = || -> i64 {
        let length = match value {
            // A blob's length is that of its bytes; three of them are four characters.
            Value::String(text) if matches!(shape.kind, Kind::Blob) => {
                text.len() / 4 * 3 - text.bytes().rev().take(2).filter(|byte| *byte == b'=').count().min(text.len() / 4)
            }
            Value::String(text) => text.chars().count(),
            Value::Array(values) => values.len(),
            Value::Object(members) => members.len(),
            _ => 0,
        };
        i64::try_from(length).unwrap_or(i64::MAX)
    };
    let number = || value.as_f64().unwrap_or_default();
    match rule {
        Rule::LengthMax(max) => length() <= *max,
        Rule::LengthMin(min) => length() >= *min,
        Rule::Most(max) => number() <= *max as f64,
        Rule::Least(min) => number() >= *min as f64,
        Rule::Pattern(_) => match (shape.pattern, value.as_str()) {
            (Some(pattern), Some(text)) => pattern.matches(text),
            _ => true,
        },
        Rule::Values(values) => value.as_str().is_none_or(|text| values.contains(&text)),
    }
}

/// A value as Java prints it: `[a, b]`, `{k=v}`.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(values) => format!("[{}]", values.iter().map(plain).collect::<Vec<_>>().join(", ")),
        Value::Object(members) => {
            let members: Vec<String> = members.iter().map(|(name, value)| format!("{name}={}", plain(value))).collect();
            format!("{{{}}}", members.join(", "))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apis;
    use crate::model_table::{Member, Pattern, Shape};
    use serde_json::json;
    use std::collections::HashSet;

    fn lambda(operation: &str, body: &Value, query: &str, name: &str) -> Result<Value, Error> {
        let api = apis::of("lambda", "/").unwrap();
        let io = api.model.operation(operation).unwrap().io.unwrap();
        let body = Bytes::from(body.to_string());
        let path = [("FunctionName", name.to_owned()), ("Resource", name.to_owned())];
        let source = Source { path: &path, query, headers: &HeaderMap::new(), body: &body };
        rest(api, io, &source).map(|(input, _)| input)
    }

    #[test]
    fn members_are_collected_from_everywhere() {
        let input =
            lambda("UpdateFunctionConfiguration", &json!({"Timeout": 5.0, "Nonsense": 1, "Role": null}), "", "f");
        assert_eq!(input.unwrap(), json!({"FunctionName": "f", "Timeout": 5}));
        let input = lambda(
            "UntagResource",
            &json!(null),
            "tagKeys=a&tagKeys=b%20c",
            "arn:aws:lambda:us-east-1:000000000000:function:f",
        );
        assert_eq!(input.unwrap()["TagKeys"], json!(["a", "b c"]));
        let input = lambda("ListFunctions", &json!(null), "MaxItems=7", "f");
        assert_eq!(input.unwrap(), json!({"MaxItems": 7}));
    }

    #[test]
    fn broken_constraints_are_told_in_the_words_of_aws() {
        let error =
            lambda("UpdateFunctionConfiguration", &json!({"MemorySize": 3, "Timeout": 0}), "", "f").unwrap_err();
        assert_eq!((error.status, error.code.as_str()), (400, "ValidationException"));
        assert_eq!(
            error.message,
            "2 validation errors detected: Value '0' at 'timeout' failed to satisfy constraint: Member must have value \
             greater than or equal to 1; Value '3' at 'memorySize' failed to satisfy constraint: Member must have \
             value greater than or equal to 128"
        );
        let error = lambda("ListFunctions", &json!(null), "MaxItems=0", "f").unwrap_err();
        assert!(error.message.contains("Value '0' at 'maxItems'"), "{}", error.message);
        let wrong = json!({"Environment": {"Variables": {"1a": "x"}}});
        let error = lambda("UpdateFunctionConfiguration", &wrong, "", "f").unwrap_err();
        assert!(error.message.contains(
            "Value '{1a=x}' at 'environment.variables' failed to satisfy constraint: Map keys must satisfy constraint: \
             [Member must satisfy regular expression pattern: [a-zA-Z]([a-zA-Z0-9_])+"
        ), "{}", error.message);
        let error = lambda("CreateFunction", &json!({"Architectures": ["x86"]}), "", "f").unwrap_err();
        assert!(error.message.contains("Value '[x86]' at 'architectures' failed to satisfy constraint: Member must satisfy constraint: [Member must satisfy enum value set: [x86_64, arm64], Member must not be null]"), "{}", error.message);
        assert!(
            error
                .message
                .contains("Value null at 'functionName' failed to satisfy constraint: Member must not be null")
        );
        let error = lambda("GetFunction", &json!(null), "", "a b").unwrap_err();
        assert!(error.message.starts_with("1 validation error detected: Value 'a b' at 'functionName' failed to satisfy constraint: Member must satisfy regular expression pattern: (arn:"), "{}", error.message);
    }

    #[test]
    fn patterns_of_names_and_values_in_maps_are_looked_at() {
        let arn = "arn:aws:lambda:us-east-1:000000000000:function:f";
        for tags in [json!({"a*b": "v"}), json!({"a": "v*"})] {
            let error = lambda("TagResource", &json!({"Tags": tags}), "", arn).unwrap_err();
            assert!(error.message.contains("regular expression pattern: ([\\p{L}"), "{}", error.message);
        }
        lambda("TagResource", &json!({"Tags": {"Größe": "漢 字"}}), "", arn).unwrap();
    }

    #[test]
    fn wrong_types_are_serialization_errors() {
        let error = lambda("UpdateFunctionConfiguration", &json!({"Timeout": "x"}), "", "f").unwrap_err();
        assert_eq!(
            (error.code.as_str(), error.message.as_str()),
            ("SerializationException", "STRING_VALUE cannot be converted to Long")
        );
        let dynamodb = apis::of("dynamodb", "/").unwrap();
        let io = dynamodb.model.operation("GetItem").unwrap().io.unwrap();
        let decode = |body: Value| json_of(dynamodb, io, &body);
        assert_eq!(decode(json!({"TableName": 1})).unwrap_err().message, "NUMBER_VALUE cannot be converted to String");
        assert_eq!(decode(json!({"TableName": "x"})).unwrap(), json!({"TableName": "x"}));
        let nested = json!({"Key": {"a": {"L": [{"M": {"b": {"N": 1}}}]}}});
        assert_eq!(decode(nested).unwrap_err().code, "SerializationException");
    }

    fn json_of(api: &Api, io: &Io, body: &Value) -> Result<Value, Error> {
        json(api, io, &Bytes::from(body.to_string()))
    }

    #[test]
    fn every_pattern_compiles_and_those_with_look_around_are_known() {
        /// Shows every pattern below these members, however deep it lies.
        fn walk(
            members: &'static [Member],
            seen: &mut HashSet<*const Shape>,
            show: &mut dyn FnMut(&'static str, &'static Pattern),
        ) {
            for member in members {
                let mut shapes = vec![member.shape];
                while let Some(shape) = shapes.pop() {
                    if let Some(pattern) = shape.pattern {
                        show(member.name, pattern);
                    }
                    // A shape may hold itself.
                    match shape.kind {
                        _ if !seen.insert(shape) => {}
                        Kind::Structure(members) => walk(members, seen, show),
                        Kind::List(of) => shapes.push(of),
                        Kind::Map(key, value) => shapes.extend([key, value]),
                        _ => {}
                    }
                }
            }
        }
        let (mut loose, mut seen) = (Vec::new(), HashSet::new());
        for api in apis::ALL {
            for io in api.model.operations.iter().filter_map(|operation| operation.io) {
                walk(io.input, &mut seen, &mut |name, pattern| {
                    assert!(pattern.is_understood(), "{}", pattern.source());
                    if !pattern.is_exact() {
                        loose.push(name);
                    }
                });
            }
        }
        loose.sort_unstable();
        loose.dedup();
        assert_eq!(
            loose,
            ["CollectionName", "FunctionName", "Name", "Qualifier", "S3Bucket"],
            "services must check the rest of these by hand"
        );
    }
}

//! Expressions: condition, filter, key condition, projection and update, from text to a checked tree to an answer.
//!
//! The lexer is winnow's; the parsers above it walk over tokens by hand, because DynamoDB's errors name the token and
//! its neighbours, and report the first of several mistakes by a rank of its own instead of by place.
//!
//! Invariants
//!   1. Parsing is linear in the text's length and bounded in depth; no text makes it panic.
//!   2. A tree that exists is checked: placeholders resolved, functions known, operand types right as far as the text
//!      tells them. What depends on the item is decided when the item is there.
//!   3. A placeholder that no expression uses is an error: `Scope::finish`.
//!
//! Start reading at `Scope`, then `condition`, `update`, `projection`.

pub(super) mod condition;
pub(super) mod evaluate;
pub(super) mod key_condition;
pub(super) mod lexer;
pub(super) mod path;
pub(super) mod projection;
pub(super) mod reserved;
pub(super) mod update;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Map, Value as Json};

use super::error::{Error, Result, invalid};
use super::value::{AttributeValue, NAME_BYTES_MAX};
use lexer::{Cursor, Kind};
use path::{Path, STEPS_MAX, Step};

/// Most bytes of one expression.
const EXPRESSION_BYTES_MAX: usize = 4_096;
/// Most operators and functions of one expression.
const OPERATORS_MAX: usize = 300;
/// Most bytes of all values together.
const VALUES_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Most bytes of a placeholder.
const PLACEHOLDER_BYTES_MAX: usize = 255;

/// Why an expression is refused, without the `Invalid …Expression: ` before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault(String);

impl Fault {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

/// Kinds of mistakes, in the order of their rank: the first one found is reported, wherever it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Mistake {
    Parentheses,
    UnknownFunction,
    MisusedFunction,
    Reserved,
    UnknownUpdateFunction,
    Section,
    Name,
    Value,
    Overlap,
    Conflict,
    OperandCount,
    Distinct,
    OperandType,
}

/// Names and values that expressions of one request refer to.
#[derive(Debug, Default)]
pub(super) struct Scope {
    names: BTreeMap<String, String>,
    values: BTreeMap<String, Arc<AttributeValue>>,
    unused_names: BTreeSet<String>,
    unused_values: BTreeSet<String>,
}

impl Scope {
    /// Checks and takes the placeholders of a request.
    pub(super) fn new(names: Option<&Map<String, Json>>, values: Option<&Map<String, Json>>) -> Result<Self> {
        let mut scope = Self::default();
        if let Some(names) = names {
            scope.take_names(names)?;
        }
        if let Some(values) = values {
            scope.take_values(values)?;
        }
        Ok(scope)
    }

    fn take_names(&mut self, names: &Map<String, Json>) -> Result<()> {
        if names.is_empty() {
            return invalid("ExpressionAttributeNames must not be empty");
        }
        for (key, name) in names {
            check_placeholder("ExpressionAttributeNames", key, '#')?;
            let name = name.as_str().ok_or_else(|| Error::serialization("Unexpected field type"))?;
            check_name_of(key, name)?;
            self.names.insert(key.clone(), name.into());
        }
        self.unused_names = self.names.keys().cloned().collect();
        Ok(())
    }

    fn take_values(&mut self, values: &Map<String, Json>) -> Result<()> {
        if values.is_empty() {
            return invalid("ExpressionAttributeValues must not be empty");
        }
        for key in values.keys() {
            check_placeholder("ExpressionAttributeValues", key, ':')?;
        }
        let mut size = 0;
        for (key, value) in values {
            let value = AttributeValue::from_json(value).map_err(|error| match error {
                Error::Validation(message) => Error::validation(format!(
                    "ExpressionAttributeValues contains invalid value: {message} for key {key}"
                )),
                other => other,
            })?;
            size += value.size();
            self.values.insert(key.clone(), Arc::new(value));
        }
        if size > VALUES_BYTES_MAX {
            return invalid("Expression attribute values have exceeded the maximum allowed size of 2 MB in sum");
        }
        self.unused_values = self.values.keys().cloned().collect();
        Ok(())
    }

    /// Parses one expression with its own parser and puts DynamoDB's prefix before a refusal.
    pub(super) fn parse<T>(
        &mut self,
        kind: &str,
        text: &str,
        parser: impl FnOnce(&mut Parsing<'_, '_>) -> std::result::Result<T, Fault>,
    ) -> Result<T> {
        self.parse_plain(text, parser).map_err(|Fault(message)| Error::validation(format!("Invalid {kind}: {message}")))
    }

    fn parse_plain<T>(
        &mut self,
        text: &str,
        parser: impl FnOnce(&mut Parsing<'_, '_>) -> std::result::Result<T, Fault>,
    ) -> std::result::Result<T, Fault> {
        if text.is_empty() {
            return Err(Fault::new("The expression can not be empty;"));
        }
        if text.len() > EXPRESSION_BYTES_MAX {
            let size = text.len();
            return Err(Fault::new(format!(
                "Expression size has exceeded the maximum allowed size; expression size: {size}"
            )));
        }
        let mut parsing = Parsing { cursor: Cursor::new(text), scope: self, mistakes: BTreeMap::new(), operators: 0 };
        let tree = parser(&mut parsing)?;
        parsing.cursor.expect_end()?;
        parsing.finish(tree)
    }

    /// After all expressions: everything must have been used.
    pub(super) fn finish(self) -> Result<()> {
        let list = |keys: BTreeSet<String>| keys.into_iter().collect::<Vec<_>>().join(", ");
        if !self.unused_names.is_empty() {
            let keys = list(self.unused_names);
            return invalid(format!(
                "Value provided in ExpressionAttributeNames unused in expressions: keys: {{{keys}}}"
            ));
        }
        if !self.unused_values.is_empty() {
            let keys = list(self.unused_values);
            return invalid(format!(
                "Value provided in ExpressionAttributeValues unused in expressions: keys: {{{keys}}}"
            ));
        }
        Ok(())
    }
}

fn check_name_of(key: &str, name: &str) -> Result<()> {
    let what = match name.len() {
        0 => "Empty attribute name".to_owned(),
        size if size > NAME_BYTES_MAX => {
            format!("Attribute name has {size} bytes, more than the maximum of {NAME_BYTES_MAX},")
        }
        _ => return Ok(()),
    };
    invalid(format!("ExpressionAttributeNames contains invalid value: {what} for key {key}"))
}

fn check_placeholder(member: &str, key: &str, sign: char) -> Result<()> {
    let fits = key
        .strip_prefix(sign)
        .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'));
    if fits && key.len() <= PLACEHOLDER_BYTES_MAX {
        Ok(())
    } else {
        invalid(format!("{member} contains invalid key: Syntax error; key: \"{key}\""))
    }
}

/// One expression being parsed: where it stands, what it may refer to, which mistakes were found.
pub(super) struct Parsing<'s, 'a> {
    pub(super) cursor: Cursor<'a>,
    scope: &'s mut Scope,
    mistakes: BTreeMap<Mistake, String>,
    operators: usize,
}

impl Parsing<'_, '_> {
    /// Notes a mistake; the first of each kind stays.
    pub(super) fn mistake(&mut self, kind: Mistake, message: impl FnOnce() -> String) {
        self.mistakes.entry(kind).or_insert_with(message);
    }

    /// Counts an operator or function; one too many ends the reading.
    pub(super) fn operator(&mut self) -> std::result::Result<(), Fault> {
        self.operators += 1;
        if self.operators > OPERATORS_MAX {
            let count = self.operators;
            return Err(Fault(format!("The expression contains too many operators; operator count: {count}")));
        }
        Ok(())
    }

    fn finish<T>(self, tree: T) -> std::result::Result<T, Fault> {
        if let Some((_, message)) = self.mistakes.into_iter().next() {
            return Err(Fault(message));
        }
        Ok(tree)
    }

    /// A document path. `stop` tells key words that cannot be names here.
    pub(super) fn path(&mut self, stop: &[&str]) -> std::result::Result<Path, Fault> {
        let mut steps = vec![self.path_name(stop)?];
        loop {
            if self.cursor.take_symbol(".") {
                steps.push(self.path_name(stop)?);
            } else if self.cursor.peek() == Kind::Symbol("[") {
                self.cursor.skip();
                let Kind::Index(digits) = self.cursor.peek() else {
                    return Err(self.cursor.syntax_error());
                };
                let Ok(index) = digits.parse::<u32>() else {
                    let words = format!("List index is not within the allowable range; index: [{digits}]");
                    return Err(Fault(words));
                };
                steps.push(Step::Index(usize::try_from(index).unwrap_or(usize::MAX)));
                self.cursor.skip();
                self.cursor.expect("]")?;
            } else if steps.len() > STEPS_MAX {
                let count = steps.len();
                let words = format!("The document path has too many nesting levels; nesting levels: {count}");
                return Err(Fault(words));
            } else {
                return Ok(Path(steps));
            }
        }
    }

    fn path_name(&mut self, stop: &[&str]) -> std::result::Result<Step, Fault> {
        match self.cursor.peek() {
            Kind::Name(name) if !stop.iter().any(|word| word.eq_ignore_ascii_case(name)) => {
                self.cursor.skip();
                if reserved::is_reserved(name) {
                    self.mistake(Mistake::Reserved, || {
                        format!("Attribute name is a reserved keyword; reserved keyword: {name}")
                    });
                }
                Ok(Step::Name(name.into()))
            }
            Kind::NameRef(key) => {
                self.cursor.skip();
                Ok(Step::Name(self.resolve_name(key)))
            }
            _ => Err(self.cursor.syntax_error()),
        }
    }

    fn resolve_name(&mut self, key: &str) -> String {
        self.scope.unused_names.remove(key);
        let found = self.scope.names.get(key).cloned();
        found.unwrap_or_else(|| {
            self.mistake(Mistake::Name, || {
                format!("An expression attribute name used in the document path is not defined; attribute name: {key}")
            });
            String::new()
        })
    }

    /// A value placeholder.
    pub(super) fn value(&mut self) -> std::result::Result<Arc<AttributeValue>, Fault> {
        let Kind::ValueRef(key) = self.cursor.peek() else {
            return Err(self.cursor.syntax_error());
        };
        self.cursor.skip();
        self.scope.unused_values.remove(key);
        let found = self.scope.values.get(key).cloned();
        Ok(found.unwrap_or_else(|| {
            self.mistake(Mistake::Value, || {
                format!("An expression attribute value used in expression is not defined; attribute value: {key}")
            });
            Arc::new(AttributeValue::Null)
        }))
    }
}

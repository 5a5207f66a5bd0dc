//! Update expressions: `SET a = b + :c REMOVE d ADD e :f DELETE g :h`.
//!
//! Not here: applying one to an item (`super::super::update`).
//!
//! Invariants
//!   1. Each section stands at most once, in any order, with at least one action.
//!   2. No two target paths overlap or conflict.

use std::sync::Arc;

use super::super::value::AttributeValue;
use super::lexer::Kind;
use super::path::{Path, PathTree};
use super::{Fault, Mistake, Parsing};

const SECTIONS: &[&str] = &["SET", "REMOVE", "ADD", "DELETE"];

/// What SET computes.
#[derive(Debug, Clone, PartialEq)]
pub(in super::super) enum Expression {
    /// What the item holds there; an error if nothing.
    Path(Path),
    /// A value of the request.
    Value(Arc<AttributeValue>),
    /// What the item holds there, or the other one.
    IfNotExists(Path, Box<Expression>),
    /// Both lists, one after the other.
    ListAppend(Box<Expression>, Box<Expression>),
    /// Sum of two numbers.
    Plus(Box<Expression>, Box<Expression>),
    /// Difference of two numbers.
    Minus(Box<Expression>, Box<Expression>),
}

/// A checked update.
#[derive(Debug, Clone, Default)]
pub(in super::super) struct Update {
    pub(in super::super) set: Vec<(Path, Expression)>,
    pub(in super::super) remove: Vec<Path>,
    pub(in super::super) add: Vec<(Path, Arc<AttributeValue>)>,
    pub(in super::super) delete: Vec<(Path, Arc<AttributeValue>)>,
    /// All target paths.
    pub(in super::super) targets: PathTree,
    /// Whether it was AttributeUpdates: some refusals have other words.
    pub(in super::super) legacy: bool,
}

impl Expression {
    /// The bytes of the values in it.
    fn bytes(&self) -> usize {
        match self {
            Self::Path(_) => 0,
            Self::Value(value) => value.size(),
            Self::IfNotExists(_, other) => other.bytes(),
            Self::ListAppend(a, b) | Self::Plus(a, b) | Self::Minus(a, b) => a.bytes() + b.bytes(),
        }
    }
}

impl Update {
    /// The bytes of the values in it.
    pub(in super::super) fn bytes(&self) -> usize {
        let set = self.set.iter().map(|(_, expression)| expression.bytes());
        set.chain(self.add.iter().chain(&self.delete).map(|(_, value)| value.size())).sum()
    }

    /// Whether it is AttributeUpdates that only take away: these make no item where none is.
    pub(in super::super) fn only_deletes(&self) -> bool {
        let deletes = !self.remove.is_empty() || !self.delete.is_empty();
        self.legacy && deletes && self.set.is_empty() && self.add.is_empty()
    }

    /// All target paths, in the order of the sections SET, REMOVE, ADD, DELETE.
    pub(in super::super) fn paths(&self) -> impl Iterator<Item = &Path> {
        let set = self.set.iter().map(|(path, _)| path);
        let pairs = self.add.iter().chain(&self.delete).map(|(path, _)| path);
        set.chain(&self.remove).chain(pairs)
    }
}

/// Parses a whole update.
pub(in super::super) fn parse(parsing: &mut Parsing<'_, '_>) -> Result<Update, Fault> {
    let mut update = Update::default();
    let mut seen = Vec::new();
    loop {
        let Some(section) = parsing.section() else {
            return Err(parsing.cursor.syntax_error());
        };
        parsing.cursor.skip();
        if seen.contains(&section) {
            parsing.mistake(Mistake::Section, || {
                format!("The \"{section}\" section can only be used once in an update expression;")
            });
        }
        seen.push(section);
        loop {
            parsing.action(section, &mut update)?;
            if !parsing.cursor.take_symbol(",") {
                break;
            }
        }
        if parsing.cursor.peek() == Kind::End {
            return Ok(update);
        }
    }
}

impl Parsing<'_, '_> {
    fn section(&self) -> Option<&'static str> {
        match self.cursor.peek() {
            Kind::Name(name) => SECTIONS.iter().find(|word| word.eq_ignore_ascii_case(name)).copied(),
            _ => None,
        }
    }

    fn action(&mut self, section: &str, update: &mut Update) -> Result<(), Fault> {
        let path = self.path(SECTIONS)?;
        self.distinct_path(&mut update.targets, &path);
        match section {
            "SET" => {
                self.cursor.expect("=")?;
                let expression = self.set_value()?;
                update.set.push((path, expression));
            }
            "REMOVE" => update.remove.push(path),
            "ADD" => {
                let value = self.value()?;
                self.check_set_operand(section, &value);
                update.add.push((path, value));
            }
            _ => {
                let value = self.value()?;
                self.check_set_operand(section, &value);
                update.delete.push((path, value));
            }
        }
        Ok(())
    }

    fn check_set_operand(&mut self, section: &str, value: &AttributeValue) {
        let kind = match value {
            AttributeValue::Ss(_) | AttributeValue::Ns(_) | AttributeValue::Bs(_) => return,
            AttributeValue::N(_) if section == "ADD" => return,
            AttributeValue::N(_) => "NUMBER",
            AttributeValue::S(_) => "STRING",
            AttributeValue::B(_) => "BINARY",
            AttributeValue::Bool(_) => "BOOLEAN",
            AttributeValue::Null => "NULL",
            AttributeValue::L(_) => "LIST",
            AttributeValue::M(_) => "MAP",
        };
        self.mistake(Mistake::OperandType, || {
            format!(
                "Incorrect operand type for operator or function; operator: {section}, operand type: {kind}, \
                 typeSet: ALLOWED_FOR_ADD_OPERAND"
            )
        });
    }

    /// `operand`, `operand + operand` or `operand - operand`, perhaps in parentheses.
    fn set_value(&mut self) -> Result<Expression, Fault> {
        if !self.cursor.take_symbol("(") {
            let first = self.set_plain()?;
            return self.sum(first);
        }
        self.cursor.enter()?;
        let inner = self.set_value()?;
        self.cursor.leave();
        self.cursor.expect(")")?;
        self.sum(inner)
    }

    fn sum(&mut self, first: Expression) -> Result<Expression, Fault> {
        let symbol = match self.cursor.peek() {
            Kind::Symbol(symbol @ ("+" | "-")) => symbol,
            _ => return Ok(first),
        };
        // A sum has two operands; a third one is a syntax error where it stands.
        if matches!(first, Expression::Plus(..) | Expression::Minus(..)) {
            return Err(self.cursor.syntax_error());
        }
        self.cursor.skip();
        self.operator()?;
        let second = self.set_operand()?;
        for operand in [&first, &second] {
            self.check_operand(symbol, operand, "N");
        }
        let (first, second) = (Box::new(first), Box::new(second));
        Ok(if symbol == "+" { Expression::Plus(first, second) } else { Expression::Minus(first, second) })
    }

    fn set_operand(&mut self) -> Result<Expression, Fault> {
        if !self.cursor.take_symbol("(") {
            return self.set_plain();
        }
        self.cursor.enter()?;
        let inner = self.set_operand()?;
        self.cursor.leave();
        self.cursor.expect(")")?;
        Ok(inner)
    }

    fn set_plain(&mut self) -> Result<Expression, Fault> {
        match (self.cursor.peek(), self.cursor.peek_at(1)) {
            (Kind::ValueRef(_), _) => Ok(Expression::Value(self.value()?)),
            (Kind::Name(name), Kind::Symbol("(")) => self.set_function(name),
            _ => Ok(Expression::Path(self.path(SECTIONS)?)),
        }
    }

    fn set_function(&mut self, name: &str) -> Result<Expression, Fault> {
        self.cursor.skip();
        self.operator()?;
        self.cursor.expect("(")?;
        self.cursor.enter()?;
        let mut arguments = vec![self.set_operand()?];
        while self.cursor.take_symbol(",") {
            arguments.push(self.set_operand()?);
        }
        self.cursor.leave();
        self.cursor.expect(")")?;
        let nothing = Expression::Value(Arc::new(AttributeValue::Null));
        if !matches!(name, "if_not_exists" | "list_append") {
            self.mistake(Mistake::UnknownUpdateFunction, || format!("Invalid function name; function: {name}"));
            return Ok(nothing);
        }
        let count = arguments.len();
        let (Some(second), Some(first), true) = (arguments.pop(), arguments.pop(), count == 2) else {
            self.mistake(Mistake::OperandCount, || {
                format!(
                    "Incorrect number of operands for operator or function; operator or function: {name}, \
                     number of operands: {count}"
                )
            });
            return Ok(nothing);
        };
        if name == "list_append" {
            if [&first, &second].into_iter().any(|list| matches!(list, Expression::ListAppend(..))) {
                self.misused(name);
            }
            self.check_operand(name, &first, "L");
            self.check_operand(name, &second, "L");
            return Ok(Expression::ListAppend(Box::new(first), Box::new(second)));
        }
        let Expression::Path(path) = first else {
            self.mistake(Mistake::OperandType, || {
                format!("Operator or function requires a document path; operator or function: {name}")
            });
            return Ok(nothing);
        };
        Ok(Expression::IfNotExists(path, Box::new(second)))
    }

    fn check_operand(&mut self, operator: &str, operand: &Expression, wanted: &str) {
        let found = match operand {
            Expression::Value(value) => value.type_name(),
            Expression::ListAppend(..) => "L",
            Expression::Plus(..) | Expression::Minus(..) => "N",
            Expression::Path(_) | Expression::IfNotExists(..) => return,
        };
        if found != wanted {
            self.mistake(Mistake::OperandType, || {
                format!(
                    "Incorrect operand type for operator or function; operator or function: {operator}, \
                     operand type: {found}"
                )
            });
        }
    }
}

//! What stands after WHERE.

use std::sync::Arc;

use super::super::error::{Result, invalid};
use super::super::expression::condition::{Comparator, Condition, Operand};
use super::super::expression::path::Path;
use super::super::value::AttributeValue;
use super::lexer::Kind;
use super::malformed;
use super::parser::Parser;

/// Most operands of IN.
const CHOICES_MAX: usize = 100;
const TYPES: [&str; 10] = ["N", "BS", "L", "B", "NULL", "M", "S", "SS", "NS", "BOOL"];
/// Functions that answer yes or no, and how many operands each has.
const PREDICATES: [(&str, usize); 5] =
    [("attribute_exists", 1), ("attribute_not_exists", 1), ("attribute_type", 2), ("begins_with", 2), ("contains", 2)];

impl Parser<'_> {
    /// `a OR b OR …`
    pub(super) fn condition(&mut self) -> Result<Condition> {
        self.chain("OR", Self::and, Condition::Or)
    }

    fn and(&mut self) -> Result<Condition> {
        self.chain("AND", Self::not, Condition::And)
    }

    fn chain(
        &mut self,
        word: &str,
        part: fn(&mut Self) -> Result<Condition>,
        join: fn(Vec<Condition>) -> Condition,
    ) -> Result<Condition> {
        let first = part(self)?;
        let mut parts = vec![first];
        while self.take_word(word) {
            if *self.peek() == Kind::End {
                return Err(malformed("Missing right-hand side expression of infix operator"));
            }
            parts.push(part(self)?);
        }
        if parts.len() > 1 {
            return Ok(join(parts));
        }
        parts.pop().ok_or_else(|| malformed("Unexpected term"))
    }

    fn not(&mut self) -> Result<Condition> {
        if !self.take_word("NOT") {
            return self.predicate();
        }
        self.deeper(|parser| Ok(Condition::Not(Box::new(parser.not()?))))
    }

    fn predicate(&mut self) -> Result<Condition> {
        if self.take_symbol("(") {
            let inner = self.deeper(Self::condition)?;
            self.expect(")")?;
            return Ok(inner);
        }
        if let Some(name) = self.function_here()
            && !name.eq_ignore_ascii_case("size")
        {
            let holds = self.function(&name)?;
            return self.compared(holds);
        }
        let left = self.operand()?;
        self.comparison(left)
    }

    /// The name before a parenthesis, if that is what stands here.
    fn function_here(&self) -> Option<String> {
        match (self.peek(), self.peek_at(1)) {
            (Kind::Word(name), Kind::Symbol("(")) => Some(name.clone()),
            _ => None,
        }
    }

    fn operand(&mut self) -> Result<Operand> {
        if self.at_value() {
            return Ok(Operand::Value(Arc::new(self.value()?)));
        }
        if let Some(name) = self.function_here() {
            let place = self.place();
            if !name.eq_ignore_ascii_case("size") {
                return invalid(format!("Unrecognized function: {} at {place}", name.to_lowercase()));
            }
            let mut operands = self.operands("size", 1)?;
            let operand = operands.pop().ok_or_else(|| malformed("Unexpected term"))?;
            return Ok(Operand::Size(Box::new(operand)));
        }
        Ok(Operand::Path(self.path()?))
    }

    /// `(a, b)` after the name of a function that stands here.
    fn operands(&mut self, function: &str, expected: usize) -> Result<Vec<Operand>> {
        self.skip();
        self.expect("(")?;
        let mut operands = Vec::new();
        self.deeper(|parser| {
            parser.list(")", |parser| {
                operands.push(parser.operand()?);
                Ok(())
            })
        })?;
        if operands.len() != expected {
            let count = operands.len();
            return invalid(format!(
                "Incorrect number of operands for operator or function; operator or function: {function}, \
                 number of operands: {count}"
            ));
        }
        Ok(operands)
    }

    fn function(&mut self, name: &str) -> Result<Condition> {
        let place = self.place();
        let Some((name, count)) = PREDICATES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)) else {
            return invalid(format!("Unrecognized function: {} at {place}", name.to_lowercase()));
        };
        let mut operands = self.operands(name, *count)?.into_iter();
        let (Some(first), second) = (operands.next(), operands.next()) else {
            return Err(malformed("Unexpected term"));
        };
        Ok(match (*name, first, second) {
            ("attribute_exists", first, _) => Condition::Exists(document_path(name, first)?),
            ("attribute_not_exists", first, _) => Condition::NotExists(document_path(name, first)?),
            ("attribute_type", first, Some(kind)) => Condition::HasType(first, type_name(&kind)?),
            ("begins_with", first, Some(start)) => Condition::BeginsWith(first, start),
            (_, first, Some(part)) => Condition::Contains(first, part),
            (_, _, None) => return Err(malformed("Unexpected term")),
        })
    }

    /// `= true` or `= false` after something that answers yes or no.
    fn compared(&mut self, holds: Condition) -> Result<Condition> {
        if !self.take_symbol("=") {
            return Ok(holds);
        }
        if self.take_word("TRUE") {
            return Ok(holds);
        }
        if self.take_word("FALSE") { Ok(Condition::Not(Box::new(holds))) } else { Err(self.unexpected()) }
    }

    fn comparison(&mut self, left: Operand) -> Result<Condition> {
        if self.take_word("IS") {
            return self.is(left);
        }
        let negated = self.take_word("NOT");
        let condition = if self.take_word("BETWEEN") {
            let low = self.operand()?;
            self.expect_word("AND")?;
            Condition::Between(left, low, self.operand()?)
        } else if self.take_word("IN") {
            self.choices(left)?
        } else {
            let comparator = match self.peek() {
                Kind::Symbol(symbol) if !negated => comparator(symbol),
                _ => None,
            };
            let comparator = comparator.ok_or_else(|| self.unexpected())?;
            self.skip();
            if *self.peek() == Kind::End {
                return Err(malformed("Missing right-hand side expression of infix operator"));
            }
            Condition::Compare(comparator, left, self.operand()?)
        };
        Ok(if negated { Condition::Not(Box::new(condition)) } else { condition })
    }

    /// `IS [NOT] MISSING | NULL | BOOL | STRING`
    fn is(&mut self, left: Operand) -> Result<Condition> {
        let negated = self.take_word("NOT");
        let condition = if self.take_word("MISSING") {
            Condition::NotExists(document_path("IS MISSING", left)?)
        } else if self.take_word("NULL") {
            Condition::HasType(left, "NULL".into())
        } else if self.take_word("BOOL") {
            Condition::HasType(left, "BOOL".into())
        } else if self.take_word("STRING") {
            Condition::HasType(left, "S".into())
        } else {
            return Err(malformed("Expected type name"));
        };
        Ok(if negated { Condition::Not(Box::new(condition)) } else { condition })
    }

    /// `[a, b]` or `(a, b)`. One choice is an equality, so that it can name a key.
    fn choices(&mut self, left: Operand) -> Result<Condition> {
        let end = if self.take_symbol("[") {
            "]"
        } else {
            self.expect("(")?;
            ")"
        };
        let mut choices = Vec::new();
        self.deeper(|parser| {
            parser.list(end, |parser| {
                choices.push(parser.operand()?);
                Ok(())
            })
        })?;
        match choices.len() {
            0 => Err(malformed("Unexpected term")),
            1 => Ok(Condition::Compare(Comparator::Equal, left, choices.remove(0))),
            count if count > CHOICES_MAX => {
                invalid(format!("The IN operator is provided with too many operands; number of operands: {count}"))
            }
            _ => Ok(Condition::In(left, choices)),
        }
    }
}

fn comparator(symbol: &str) -> Option<Comparator> {
    Some(match symbol {
        "=" => Comparator::Equal,
        "<>" | "!=" => Comparator::NotEqual,
        "<" => Comparator::Less,
        "<=" => Comparator::LessOrEqual,
        ">" => Comparator::Greater,
        ">=" => Comparator::GreaterOrEqual,
        _ => return None,
    })
}

fn document_path(function: &str, operand: Operand) -> Result<Path> {
    match operand {
        Operand::Path(path) => Ok(path),
        _ => invalid(format!("Operator or function requires a document path; operator or function: {function}")),
    }
}

fn type_name(operand: &Operand) -> Result<String> {
    let Operand::Value(value) = operand else {
        return invalid(
            "Incorrect operand type for operator or function; operator or function: attribute_type, \
             operand type: {NS,SS,L,BS,N,M,B,BOOL,NULL,S}",
        );
    };
    match &**value {
        AttributeValue::S(kind) if TYPES.contains(&kind.as_str()) => Ok(kind.clone()),
        AttributeValue::S(kind) => {
            invalid(format!("Invalid attribute type name found; type: {kind}, valid types: {{{}}}", TYPES.join(",")))
        }
        other => invalid(format!(
            "Incorrect operand type for operator or function; operator or function: attribute_type, operand type: {}",
            other.type_name()
        )),
    }
}

//! Literals and parameters: `'text'`, `1.5`, `true`, `null`, `[…]`, `{…}`, `<<…>>`, `?`.

use std::collections::BTreeSet;

use super::super::error::{Error, Result, invalid};
use super::super::number::{Number, NumberError};
use super::super::value::{AttributeValue, DEPTH_MAX, Item, check_item, too_deep};
use super::lexer::Kind;
use super::malformed;
use super::parser::Parser;

impl Parser<'_> {
    /// Whether a literal or parameter starts here.
    pub(super) fn at_value(&self) -> bool {
        match self.peek() {
            Kind::Text(_) | Kind::Number(_) | Kind::Parameter => true,
            Kind::Symbol(symbol) => match *symbol {
                "[" | "{" | "<<" => true,
                "-" | "+" => matches!(self.peek_at(1), Kind::Number(_)),
                _ => false,
            },
            Kind::Word(word) => ["true", "false", "null"].iter().any(|one| one.eq_ignore_ascii_case(word)),
            Kind::Quoted(_) | Kind::End => false,
        }
    }

    /// A literal or parameter.
    pub(super) fn value(&mut self) -> Result<AttributeValue> {
        let value = self.value_at("root", 0)?;
        if value.depth() > DEPTH_MAX { Err(too_deep()) } else { Ok(value) }
    }

    /// A literal or parameter that is a whole item, in which lists and maps may nest as deep as in any other.
    pub(super) fn item(&mut self) -> Result<Item> {
        match self.value_at("root", 0)? {
            AttributeValue::M(item) => check_item(&item).map(|()| item),
            _ => Err(malformed("Expected a tuple in VALUE")),
        }
    }

    /// `path` says where in the whole value it is, for messages. What bounds the recursion is one level more than a value
    /// may have, since an item is a literal too; parameters in it are not deep themselves.
    fn value_at(&mut self, path: &str, depth: usize) -> Result<AttributeValue> {
        if depth > DEPTH_MAX + 1 {
            return Err(too_deep());
        }
        if !self.at_value() {
            return Err(self.unexpected());
        }
        match self.take() {
            Kind::Text(text) => Ok(AttributeValue::S(text)),
            Kind::Number(text) => number("", &text, path),
            Kind::Parameter => self.parameter(),
            Kind::Word(word) if word.eq_ignore_ascii_case("null") => Ok(AttributeValue::Null),
            Kind::Word(word) => Ok(AttributeValue::Bool(word.eq_ignore_ascii_case("true"))),
            Kind::Symbol("[") => {
                let mut list = Vec::new();
                self.list("]", |parser| {
                    list.push(parser.value_at(&format!("{path}[{}]", list.len()), depth + 1)?);
                    Ok(())
                })?;
                Ok(AttributeValue::L(list))
            }
            Kind::Symbol("{") => self.map(path, depth),
            Kind::Symbol("<<") => {
                let mut members = Vec::new();
                self.list(">>", |parser| {
                    members.push(parser.value_at(path, depth + 1)?);
                    Ok(())
                })?;
                bag(members)
            }
            Kind::Symbol(sign) => match self.take() {
                Kind::Number(text) => number(if sign == "-" { sign } else { "" }, &text, path),
                _ => Err(malformed("Unexpected term")),
            },
            Kind::Quoted(_) | Kind::End => Err(malformed("Unexpected term")),
        }
    }

    /// `name: value` pairs; messages name members of the item itself by nothing and deeper ones by their path.
    fn map(&mut self, path: &str, depth: usize) -> Result<AttributeValue> {
        let mut map = Item::new();
        self.list("}", |parser| {
            let Kind::Text(name) = parser.take() else {
                return Err(malformed("Expected a text as the name of an attribute"));
            };
            parser.expect(":")?;
            let inner = if depth == 0 { path.to_owned() } else { format!("{path}.{name}") };
            let value = parser.value_at(&inner, depth + 1)?;
            if name.is_empty() {
                return invalid("One or more parameter values were invalid: Attribute names must not be empty");
            }
            match map.insert(name.clone(), value) {
                Some(_) => invalid(format!("Duplicate field in a tuple: {name}")),
                None => Ok(()),
            }
        })?;
        Ok(AttributeValue::M(map))
    }

    /// Any number of things between commas, up to `end`.
    pub(super) fn list(&mut self, end: &'static str, mut one: impl FnMut(&mut Self) -> Result<()>) -> Result<()> {
        if self.take_symbol(end) {
            return Ok(());
        }
        loop {
            one(self)?;
            if self.take_symbol(end) {
                return Ok(());
            }
            self.expect(",")?;
        }
    }
}

fn number(sign: &str, text: &str, path: &str) -> Result<AttributeValue> {
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let exponent: i32 = exponent.parse().map_err(|_| malformed(""))?;
    let fraction = mantissa.split_once('.').map_or(0, |(_, fraction)| fraction.len());
    // The scale must fit 32 bits too.
    let scale = i64::try_from(fraction).unwrap_or(i64::MAX) - i64::from(exponent);
    if i32::try_from(scale).is_err() {
        return Err(malformed(""));
    }
    match Number::parse(&format!("{sign}{text}")) {
        Ok(number) => Ok(AttributeValue::N(number)),
        Err(NumberError::Text(_) | NumberError::Empty) => Err(malformed("")),
        Err(error) => invalid(format!("{error} under {path}")),
    }
}

/// A set of what is in `<<…>>`: numbers or texts.
fn bag(members: Vec<AttributeValue>) -> Result<AttributeValue> {
    let wrong =
        || Error::validation("Unsupported data type in Bag. DynamoDB only supports either numbers or strings in bags");
    let count = members.len();
    match members.first() {
        None => invalid("Empty bags are not supported"),
        Some(AttributeValue::S(_)) => {
            let texts = members.into_iter().map(|member| match member {
                AttributeValue::S(text) => Ok(text),
                _ => Err(wrong()),
            });
            let texts = texts.collect::<Result<Vec<_>>>()?;
            let shown = texts.join(", ");
            let set: BTreeSet<String> = texts.into_iter().collect();
            if set.len() < count {
                return duplicates(&shown);
            }
            Ok(AttributeValue::Ss(set))
        }
        Some(AttributeValue::N(_)) => {
            let numbers = members.into_iter().map(|member| match member {
                AttributeValue::N(number) => Ok(number),
                _ => Err(wrong()),
            });
            let numbers = numbers.collect::<Result<Vec<_>>>()?;
            let shown = numbers.iter().map(Number::to_string).collect::<Vec<_>>().join(", ");
            let set: BTreeSet<Number> = numbers.into_iter().collect();
            if set.len() < count {
                return duplicates(&shown);
            }
            Ok(AttributeValue::Ns(set))
        }
        Some(_) => Err(wrong()),
    }
}

fn duplicates<T>(shown: &str) -> Result<T> {
    invalid(format!("One or more parameter values were invalid: Input collection [{shown}] contains duplicates."))
}

//! Condition and filter expressions: the tree and its parser.
//!
//! Precedence, strongest first: comparison, IN and BETWEEN; functions; parentheses; NOT; AND; OR.
//!
//! Invariants
//!   1. A parenthesis may hold an operand or a condition; which one is known when it has been read, so nothing is ever
//!      parsed twice.
//!   2. Of several mistakes the reported one is: parentheses, unknown function, misused function, reserved word,
//!      undefined placeholder, count of operands, equal operands, type of operands.

use std::cmp::Ordering;
use std::sync::Arc;

use super::super::value::AttributeValue;
use super::lexer::Kind;
use super::path::Path;
use super::{Fault, Mistake, Parsing};

/// Words that end an operand.
const STOP: &[&str] = &["AND", "OR", "NOT", "IN", "BETWEEN"];
/// Most operands of IN.
const IN_OPERANDS_MAX: usize = 100;

/// Something with a value.
#[derive(Debug, Clone, PartialEq)]
pub(in super::super) enum Operand {
    /// An attribute or a part of one.
    Path(Path),
    /// A value of the request.
    Value(Arc<AttributeValue>),
    /// `size(operand)`
    Size(Box<Operand>),
}

/// `=` and its kin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Comparator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Comparator {
    pub(in super::super) fn symbol(self) -> &'static str {
        match self {
            Self::Equal => "=",
            Self::NotEqual => "<>",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
        }
    }

    fn of(symbol: &str) -> Option<Self> {
        [Self::Equal, Self::NotEqual, Self::Less, Self::LessOrEqual, Self::Greater, Self::GreaterOrEqual]
            .into_iter()
            .find(|comparator| comparator.symbol() == symbol)
    }

    /// The same with its sides exchanged.
    pub(in super::super) fn mirrored(self) -> Self {
        match self {
            Self::Less => Self::Greater,
            Self::LessOrEqual => Self::GreaterOrEqual,
            Self::Greater => Self::Less,
            Self::GreaterOrEqual => Self::LessOrEqual,
            same => same,
        }
    }
}

/// A checked condition.
#[derive(Debug, Clone, PartialEq)]
pub(in super::super) enum Condition {
    Compare(Comparator, Operand, Operand),
    Between(Operand, Operand, Operand),
    In(Operand, Vec<Operand>),
    Exists(Path),
    NotExists(Path),
    HasType(Operand, String),
    BeginsWith(Operand, Operand),
    Contains(Operand, Operand),
    Not(Box<Condition>),
    And(Vec<Condition>),
    Or(Vec<Condition>),
}

/// Parses a whole condition.
pub(in super::super) fn parse(parsing: &mut Parsing<'_, '_>) -> Result<Condition, Fault> {
    let node = parsing.or()?;
    parsing.as_condition(node.content)
}

/// What has been read: known to be an operand or a condition, and whether it stood in parentheses as a whole.
struct Node {
    content: Content,
    wrapped: bool,
}

enum Content {
    Condition(Condition),
    Operand(Operand),
    /// A mistake was noted; what stands here no longer matters.
    Broken,
}

impl From<Content> for Node {
    fn from(content: Content) -> Self {
        Self { content, wrapped: false }
    }
}

impl Parsing<'_, '_> {
    fn or(&mut self) -> Result<Node, Fault> {
        self.chain("OR", Self::and, Condition::Or)
    }

    fn and(&mut self) -> Result<Node, Fault> {
        self.chain("AND", Self::not, Condition::And)
    }

    fn chain(
        &mut self,
        word: &str,
        part: fn(&mut Self) -> Result<Node, Fault>,
        join: fn(Vec<Condition>) -> Condition,
    ) -> Result<Node, Fault> {
        let first = part(self)?;
        if !matches!(self.cursor.peek(), Kind::Name(name) if name.eq_ignore_ascii_case(word)) {
            return Ok(first);
        }
        let mut parts = vec![self.as_condition(first.content)?];
        while self.cursor.take_word(word) {
            self.operator()?;
            let next = part(self)?;
            parts.push(self.as_condition(next.content)?);
        }
        Ok(Content::Condition(join(parts)).into())
    }

    fn not(&mut self) -> Result<Node, Fault> {
        let mut count = 0;
        while self.cursor.take_word("NOT") {
            self.operator()?;
            count += 1;
        }
        let inner = self.primary()?;
        if count == 0 {
            return Ok(inner);
        }
        let inner = self.as_condition(inner.content)?;
        let once = Condition::Not(Box::new(inner));
        // Two cancel each other: a tree of them all would be walked by recursion.
        Ok(Content::Condition(if count % 2 == 0 { Condition::Not(Box::new(once)) } else { once }).into())
    }

    /// An operand alone is a condition only if it is a function that answers yes or no.
    fn as_condition(&mut self, content: Content) -> Result<Condition, Fault> {
        match content {
            Content::Condition(condition) => Ok(condition),
            Content::Operand(Operand::Size(_)) => {
                self.misused("size");
                Ok(Condition::And(Vec::new()))
            }
            Content::Operand(_) => Err(self.cursor.syntax_error()),
            Content::Broken => Ok(Condition::And(Vec::new())),
        }
    }

    pub(super) fn misused(&mut self, function: &str) {
        self.mistake(Mistake::MisusedFunction, || {
            format!("The function is not allowed to be used this way in an expression; function: {function}")
        });
    }

    /// Something in parentheses, a function or an operand, and the comparison that follows an operand.
    fn primary(&mut self) -> Result<Node, Fault> {
        let node = self.wrapped_or_plain()?;
        self.comparison(node)
    }

    fn wrapped_or_plain(&mut self) -> Result<Node, Fault> {
        if !self.cursor.take_symbol("(") {
            return Ok(self.plain()?.into());
        }
        self.cursor.enter()?;
        let inner = self.or()?;
        self.cursor.leave();
        self.cursor.expect(")")?;
        if inner.wrapped {
            self.mistake(Mistake::Parentheses, || "The expression has redundant parentheses;".into());
        }
        Ok(Node { content: inner.content, wrapped: true })
    }

    fn plain(&mut self) -> Result<Content, Fault> {
        match (self.cursor.peek(), self.cursor.peek_at(1)) {
            (Kind::ValueRef(_), _) => Ok(Content::Operand(Operand::Value(self.value()?))),
            (Kind::Name(name), Kind::Symbol("(")) if !STOP.iter().any(|word| word.eq_ignore_ascii_case(name)) => {
                self.function(name)
            }
            _ => Ok(Content::Operand(Operand::Path(self.path(STOP)?))),
        }
    }

    /// An operand of a comparison or function.
    fn operand(&mut self) -> Result<Operand, Fault> {
        let mut wraps = 0;
        while self.cursor.take_symbol("(") {
            wraps += 1;
        }
        let content = self.plain()?;
        for _ in 0..wraps {
            self.cursor.expect(")")?;
        }
        if wraps > 1 {
            self.mistake(Mistake::Parentheses, || "The expression has redundant parentheses;".into());
        }
        Ok(self.as_operand(content))
    }

    fn as_operand(&mut self, content: Content) -> Operand {
        let function = match content {
            Content::Operand(operand) => return operand,
            Content::Condition(Condition::Exists(_)) => "attribute_exists",
            Content::Condition(Condition::NotExists(_)) => "attribute_not_exists",
            Content::Condition(Condition::HasType(..)) => "attribute_type",
            Content::Condition(Condition::BeginsWith(..)) => "begins_with",
            Content::Condition(Condition::Contains(..)) => "contains",
            Content::Condition(_) | Content::Broken => return Operand::Value(Arc::new(AttributeValue::Null)),
        };
        self.misused(function);
        Operand::Value(Arc::new(AttributeValue::Null))
    }

    fn comparison(&mut self, left: Node) -> Result<Node, Fault> {
        let comparator = match self.cursor.peek() {
            Kind::Symbol(symbol) => Comparator::of(symbol),
            _ => None,
        };
        let between = matches!(self.cursor.peek(), Kind::Name(name) if name.eq_ignore_ascii_case("BETWEEN"));
        let within = matches!(self.cursor.peek(), Kind::Name(name) if name.eq_ignore_ascii_case("IN"));
        if comparator.is_none() && !between && !within {
            return Ok(left);
        }
        // A condition in parentheses or with operators is no operand; a function is one, misused.
        if matches!(left.content, Content::Condition(Condition::And(_) | Condition::Or(_) | Condition::Not(_)))
            || (left.wrapped && matches!(left.content, Content::Condition(_)))
            || matches!(
                left.content,
                Content::Condition(Condition::Compare(..) | Condition::Between(..) | Condition::In(..))
            )
        {
            return Err(self.cursor.syntax_error());
        }
        let left = self.as_operand(left.content);
        self.operator()?;
        self.cursor.skip();
        let condition = match comparator {
            Some(comparator) => {
                let right = self.operand()?;
                self.check_comparison(comparator, &left, &right);
                Condition::Compare(comparator, left, right)
            }
            None if between => {
                let low = self.operand()?;
                self.cursor.expect_word("AND")?;
                let high = self.operand()?;
                self.check_between(&low, &high);
                Condition::Between(left, low, high)
            }
            None => {
                let choices = self.arguments()?;
                if choices.len() > IN_OPERANDS_MAX {
                    let count = choices.len();
                    self.mistake(Mistake::OperandCount, || {
                        format!("The IN operator is provided with too many operands; number of operands: {count}")
                    });
                }
                Condition::In(left, choices)
            }
        };
        Ok(Content::Condition(condition).into())
    }

    fn arguments(&mut self) -> Result<Vec<Operand>, Fault> {
        self.cursor.expect("(")?;
        self.cursor.enter()?;
        let mut arguments = vec![self.operand()?];
        while self.cursor.take_symbol(",") {
            arguments.push(self.operand()?);
        }
        self.cursor.leave();
        self.cursor.expect(")")?;
        Ok(arguments)
    }

    fn check_comparison(&mut self, comparator: Comparator, left: &Operand, right: &Operand) {
        self.check_distinct(comparator.symbol(), left, right);
        if matches!(comparator, Comparator::Equal | Comparator::NotEqual) {
            return;
        }
        for operand in [left, right] {
            if let Operand::Value(value) = operand
                && value.order(value).is_none()
            {
                self.wrong_type(comparator.symbol(), value.type_name());
            }
        }
    }

    fn check_distinct(&mut self, operator: &str, left: &Operand, right: &Operand) {
        if let (Operand::Path(a), Operand::Path(b)) = (left, right)
            && a == b
        {
            self.mistake(Mistake::Distinct, || {
                format!(
                    "The first operand must be distinct from the remaining operands for this operator or function; \
                     operator: {operator}, first operand: {a}"
                )
            });
        }
    }

    fn check_between(&mut self, low: &Operand, high: &Operand) {
        let (Operand::Value(low), Operand::Value(high)) = (low, high) else {
            return;
        };
        let rule = match low.order(high) {
            Some(Ordering::Greater) => "upper bound to be greater than or equal to lower bound",
            Some(_) => return,
            None if low.type_name() == high.type_name() => return self.wrong_type("BETWEEN", low.type_name()),
            None => "same data type for lower and upper bounds",
        };
        self.mistake(Mistake::OperandType, || {
            format!(
                "The BETWEEN operator requires {rule}; lower bound operand: AttributeValue: {}, \
                 upper bound operand: AttributeValue: {}",
                shown(low),
                shown(high)
            )
        });
    }

    fn wrong_type(&mut self, function: &str, kind: &str) {
        self.mistake(Mistake::OperandType, || {
            format!(
                "Incorrect operand type for operator or function; operator or function: {function}, operand type: {kind}"
            )
        });
    }

    fn function(&mut self, name: &str) -> Result<Content, Fault> {
        self.cursor.skip();
        self.operator()?;
        let mut arguments = self.arguments()?;
        let expected = match name {
            "attribute_exists" | "attribute_not_exists" | "size" => 1,
            "attribute_type" | "begins_with" | "contains" => 2,
            "if_not_exists" | "list_append" => {
                self.misused(name);
                return Ok(Content::Broken);
            }
            _ => {
                self.mistake(Mistake::UnknownFunction, || format!("Invalid function name; function: {name}"));
                return Ok(Content::Broken);
            }
        };
        if arguments.len() != expected {
            let count = arguments.len();
            self.mistake(Mistake::OperandCount, || {
                format!(
                    "Incorrect number of operands for operator or function; operator or function: {name}, \
                     number of operands: {count}"
                )
            });
            return Ok(Content::Broken);
        }
        let last = if expected == 2 { arguments.pop() } else { None };
        let (Some(first), last) = (arguments.pop(), last) else {
            return Ok(Content::Broken);
        };
        Ok(match last {
            None => self.unary(name, first),
            Some(last) => self.binary(name, first, last),
        })
    }

    fn unary(&mut self, name: &str, operand: Operand) -> Content {
        if name == "size" {
            if let Operand::Value(value) = &operand
                && matches!(**value, AttributeValue::N(_) | AttributeValue::Bool(_) | AttributeValue::Null)
            {
                self.wrong_type("size", value.type_name());
            } else if matches!(operand, Operand::Size(_)) {
                self.wrong_type("size", "N");
            }
            return Content::Operand(Operand::Size(Box::new(operand)));
        }
        let Operand::Path(path) = operand else {
            self.mistake(Mistake::OperandType, || {
                format!("Operator or function requires a document path; operator or function: {name}")
            });
            return Content::Broken;
        };
        Content::Condition(match name {
            "attribute_exists" => Condition::Exists(path),
            _ => Condition::NotExists(path),
        })
    }

    fn binary(&mut self, name: &str, first: Operand, second: Operand) -> Content {
        self.check_distinct(name, &first, &second);
        match name {
            "attribute_type" => self.attribute_type(first, &second),
            "begins_with" => {
                for operand in [&first, &second] {
                    match operand {
                        Operand::Value(value) if !matches!(**value, AttributeValue::S(_) | AttributeValue::B(_)) => {
                            self.wrong_type(name, value.type_name());
                        }
                        Operand::Size(_) => self.wrong_type(name, "N"),
                        _ => {}
                    }
                }
                Content::Condition(Condition::BeginsWith(first, second))
            }
            _ => Content::Condition(Condition::Contains(first, second)),
        }
    }

    fn attribute_type(&mut self, first: Operand, second: &Operand) -> Content {
        const TYPES: [&str; 10] = ["S", "N", "B", "NULL", "SS", "BOOL", "L", "BS", "NS", "M"];
        let kind = match second {
            Operand::Value(value) => match &**value {
                AttributeValue::S(kind) => kind.clone(),
                other => {
                    self.wrong_type("attribute_type", other.type_name());
                    return Content::Broken;
                }
            },
            Operand::Size(_) => {
                self.wrong_type("attribute_type", "N");
                return Content::Broken;
            }
            Operand::Path(_) => {
                self.wrong_type("attribute_type", "{NS,SS,L,BS,N,M,B,BOOL,NULL,S}");
                return Content::Broken;
            }
        };
        if !TYPES.contains(&kind.as_str()) {
            self.mistake(Mistake::OperandType, || {
                format!(
                    "Invalid attribute type name found; type: {kind}, valid types: {{B,NULL,SS,BOOL,L,BS,N,NS,S,M}}"
                )
            });
        }
        Content::Condition(Condition::HasType(first, kind))
    }
}

fn shown(value: &AttributeValue) -> String {
    match value {
        AttributeValue::S(text) => format!("{{S:{text}}}"),
        AttributeValue::N(number) => format!("{{N:{number}}}"),
        other => {
            let json = other.to_json();
            let kind = other.type_name();
            format!("{{{kind}:{}}}", json.get(kind).map_or_else(String::new, |value| value.to_string()))
        }
    }
}

/// The top-level attributes that a condition looks at, as paths.
pub(in super::super) fn heads<'a>(condition: &'a Condition, out: &mut Vec<&'a Path>) {
    match condition {
        Condition::Compare(_, a, b) | Condition::BeginsWith(a, b) | Condition::Contains(a, b) => {
            operand_heads(a, out);
            operand_heads(b, out);
        }
        Condition::Between(a, b, c) => [a, b, c].into_iter().for_each(|one| operand_heads(one, out)),
        Condition::In(a, choices) => {
            operand_heads(a, out);
            choices.iter().for_each(|one| operand_heads(one, out));
        }
        Condition::Exists(path) | Condition::NotExists(path) => out.push(path),
        Condition::HasType(a, _) => operand_heads(a, out),
        Condition::Not(inner) => heads(inner, out),
        Condition::And(parts) | Condition::Or(parts) => parts.iter().for_each(|part| heads(part, out)),
    }
}

fn operand_heads<'a>(operand: &'a Operand, out: &mut Vec<&'a Path>) {
    match operand {
        Operand::Path(path) => out.push(path),
        Operand::Size(inner) => operand_heads(inner, out),
        Operand::Value(_) => {}
    }
}

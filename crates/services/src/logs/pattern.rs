//! Filter patterns: terms and JSON conditions. Pure.
//!
//! | pattern                              | matches                                        |
//! |--------------------------------------|------------------------------------------------|
//! | `ERROR Exit`                         | messages that have all terms                   |
//! | `"a phrase"`                         | the phrase                                     |
//! | `?ERROR ?WARN`                       | any of the terms                               |
//! | `-DEBUG`                             | messages without the term                      |
//! | `{ $.level = "ERROR" && $.n > 3 }`   | JSON messages for which the condition holds    |
//!
//! Matching is case-sensitive. Column patterns (`[a, b]`) and regular expressions (`%…%`) are refused.
//! Source: "Filter pattern syntax" of the CloudWatch Logs user guide.

use serde_json::Value;

use super::Error;

/// A parsed pattern.
#[derive(Debug, PartialEq)]
pub(super) enum Pattern {
    Terms { all: Vec<String>, any: Vec<String>, none: Vec<String> },
    Json(Condition),
}

#[derive(Debug, PartialEq)]
pub(super) enum Condition {
    All(Vec<Condition>),
    Any(Vec<Condition>),
    Compare(Vec<Step>, Operator, Operand),
    Is(Vec<Step>, Option<bool>),
    Exists(Vec<Step>, bool),
}

#[derive(Debug, PartialEq)]
pub(super) enum Step {
    Member(String),
    Index(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Debug, PartialEq)]
pub(super) enum Operand {
    Number(f64),
    /// May hold `*` at its ends and inside.
    Text(String),
}

impl Pattern {
    pub(super) fn parse(text: &str) -> Result<Self, Error> {
        let text = text.trim();
        if text.starts_with('[') {
            return Err(Error::Unsupported("filter patterns with columns".into()));
        }
        if text.starts_with('{') {
            let inner = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')).ok_or_else(invalid)?;
            let mut parser = Parser { rest: inner.trim() };
            let condition = parser.any()?;
            return if parser.rest.is_empty() { Ok(Self::Json(condition)) } else { Err(invalid()) };
        }
        terms(text)
    }

    pub(super) fn matches(&self, message: &str) -> bool {
        match self {
            Self::Terms { all, any, none } => {
                all.iter().all(|term| message.contains(term.as_str()))
                    && (any.is_empty() || any.iter().any(|term| message.contains(term.as_str())))
                    && !none.iter().any(|term| message.contains(term.as_str()))
            }
            Self::Json(condition) => serde_json::from_str(message).is_ok_and(|value| condition.holds(&value)),
        }
    }
}

fn invalid() -> Error {
    Error::Invalid("Invalid filter pattern".into())
}

fn terms(text: &str) -> Result<Pattern, Error> {
    let (mut all, mut any, mut none) = (Vec::new(), Vec::new(), Vec::new());
    let mut rest = text;
    while !rest.is_empty() {
        let list = match rest.as_bytes()[0] {
            b'?' => &mut any,
            b'-' => &mut none,
            b'%' => return Err(Error::Unsupported("filter patterns with regular expressions".into())),
            _ => &mut all,
        };
        rest = rest.strip_prefix(['?', '-']).unwrap_or(rest);
        let (term, after) = if rest.starts_with('"') {
            quoted(rest)?
        } else {
            let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
            (rest[..end].to_owned(), &rest[end..])
        };
        if term.is_empty() {
            return Err(invalid());
        }
        list.push(term);
        rest = after.trim_start();
    }
    Ok(Pattern::Terms { all, any, none })
}

/// A quoted text at the start, with `\"` and `\\` undone, and what follows.
fn quoted(text: &str) -> Result<(String, &str), Error> {
    let mut inner = String::new();
    let mut characters = text.char_indices().skip(1);
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Ok((inner, &text[at + 1..])),
            '\\' => inner.push(characters.next().ok_or_else(invalid)?.1),
            other => inner.push(other),
        }
    }
    Err(invalid())
}

/// How deep parentheses may be.
const DEPTH_MAX: usize = 32;

struct Parser<'a> {
    rest: &'a str,
}

impl Parser<'_> {
    fn take(&mut self, token: &str) -> bool {
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest.trim_start();
                true
            }
            None => false,
        }
    }

    fn any(&mut self) -> Result<Condition, Error> {
        self.any_within(DEPTH_MAX)
    }

    fn any_within(&mut self, depth: usize) -> Result<Condition, Error> {
        let mut conditions = vec![self.all(depth)?];
        while self.take("||") {
            conditions.push(self.all(depth)?);
        }
        Ok(if conditions.len() == 1 { conditions.remove(0) } else { Condition::Any(conditions) })
    }

    fn all(&mut self, depth: usize) -> Result<Condition, Error> {
        let mut conditions = vec![self.one(depth)?];
        while self.take("&&") {
            conditions.push(self.one(depth)?);
        }
        Ok(if conditions.len() == 1 { conditions.remove(0) } else { Condition::All(conditions) })
    }

    fn one(&mut self, depth: usize) -> Result<Condition, Error> {
        if self.take("(") {
            let inner = self.any_within(depth.checked_sub(1).ok_or_else(invalid)?)?;
            return if self.take(")") { Ok(inner) } else { Err(invalid()) };
        }
        let path = self.path()?;
        if self.take("IS") {
            return Ok(Condition::Is(path, self.constant()?));
        }
        if self.take("NOT") {
            return if self.take("EXISTS") { Ok(Condition::Exists(path, false)) } else { Err(invalid()) };
        }
        if self.take("EXISTS") {
            return Ok(Condition::Exists(path, true));
        }
        let operators = [
            ("!=", Operator::NotEqual),
            ("<=", Operator::LessOrEqual),
            (">=", Operator::GreaterOrEqual),
            ("=", Operator::Equal),
            ("<", Operator::Less),
            (">", Operator::Greater),
        ];
        for (token, operator) in operators {
            if self.take(token) {
                return Ok(Condition::Compare(path, operator, self.operand()?));
            }
        }
        Err(invalid())
    }

    fn constant(&mut self) -> Result<Option<bool>, Error> {
        for (token, value) in [("NULL", None), ("TRUE", Some(true)), ("FALSE", Some(false))] {
            if self.take(token) {
                return Ok(value);
            }
        }
        Err(invalid())
    }

    fn path(&mut self) -> Result<Vec<Step>, Error> {
        self.rest = self.rest.strip_prefix('$').ok_or_else(invalid)?;
        let mut steps = Vec::new();
        loop {
            if let Some(rest) = self.rest.strip_prefix('.') {
                let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '-')).unwrap_or(rest.len());
                if end == 0 {
                    return Err(invalid());
                }
                steps.push(Step::Member(rest[..end].to_owned()));
                self.rest = &rest[end..];
            } else if let Some(rest) = self.rest.strip_prefix('[') {
                let (inner, after) = rest.split_once(']').ok_or_else(invalid)?;
                let name = inner.strip_prefix(['\'', '"']).and_then(|name| name.strip_suffix(['\'', '"']));
                steps.push(match name {
                    Some(name) => Step::Member(name.to_owned()),
                    None => Step::Index(inner.parse().map_err(|_| invalid())?),
                });
                self.rest = after;
            } else {
                self.rest = self.rest.trim_start();
                return if steps.is_empty() { Err(invalid()) } else { Ok(steps) };
            }
        }
    }

    fn operand(&mut self) -> Result<Operand, Error> {
        if self.rest.starts_with('%') {
            return Err(Error::Unsupported("filter patterns with regular expressions".into()));
        }
        if self.rest.starts_with('"') {
            let (text, rest) = quoted(self.rest)?;
            self.rest = rest.trim_start();
            return Ok(Operand::Text(text));
        }
        let end = self.rest.find(|c: char| c.is_whitespace() || "&|()".contains(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        if word.is_empty() {
            return Err(invalid());
        }
        self.rest = rest.trim_start();
        Ok(word.parse().map_or_else(|_| Operand::Text(word.to_owned()), Operand::Number))
    }
}

impl Condition {
    fn holds(&self, value: &Value) -> bool {
        match self {
            Self::All(conditions) => conditions.iter().all(|condition| condition.holds(value)),
            Self::Any(conditions) => conditions.iter().any(|condition| condition.holds(value)),
            Self::Is(path, None) => at(value, path).is_some_and(Value::is_null),
            Self::Is(path, Some(wanted)) => at(value, path).and_then(Value::as_bool) == Some(*wanted),
            Self::Exists(path, wanted) => at(value, path).is_some() == *wanted,
            Self::Compare(path, operator, operand) => {
                at(value, path).is_some_and(|found| compare(found, *operator, operand))
            }
        }
    }
}

fn at<'a>(value: &'a Value, path: &[Step]) -> Option<&'a Value> {
    path.iter().try_fold(value, |value, step| match step {
        Step::Member(name) => value.get(name),
        Step::Index(index) => value.get(index),
    })
}

fn compare(found: &Value, operator: Operator, operand: &Operand) -> bool {
    match (found, operand) {
        (Value::Number(number), Operand::Number(operand)) => {
            let Some(number) = number.as_f64() else { return false };
            match operator {
                Operator::Equal => number == *operand,
                Operator::NotEqual => number != *operand,
                Operator::Less => number < *operand,
                Operator::LessOrEqual => number <= *operand,
                Operator::Greater => number > *operand,
                Operator::GreaterOrEqual => number >= *operand,
            }
        }
        (Value::String(text), Operand::Text(wanted)) => match operator {
            Operator::Equal => like(text, wanted),
            Operator::NotEqual => !like(text, wanted),
            _ => false,
        },
        (Value::String(text), Operand::Number(wanted)) => match operator {
            Operator::Equal => text.parse() == Ok(*wanted),
            Operator::NotEqual => text.parse() != Ok(*wanted),
            _ => false,
        },
        _ => operator == Operator::NotEqual,
    }
}

/// Whether a text is as wanted, where `*` stands for anything.
fn like(text: &str, wanted: &str) -> bool {
    let mut parts = wanted.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(found) => rest = &rest[found + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, message: &str) -> bool {
        Pattern::parse(pattern).unwrap().matches(message)
    }

    #[test]
    fn terms_are_found_as_the_guide_says() {
        for (pattern, yes, no) in [
            ("", "anything", "\0none"),
            ("ERROR Exit", "Exit by ERROR", "ERROR"),
            ("\"INTERNAL SERVER ERROR\"", "an INTERNAL SERVER ERROR", "INTERNAL ERROR SERVER"),
            ("?ERROR ?WARN", "a WARN", "an INFO"),
            ("ERROR -EXITING", "ERROR here", "ERROR EXITING"),
            ("\"say \\\"hi\\\"\"", "they say \"hi\"", "they say hi"),
            ("error", "an error", "an ERROR"),
        ] {
            assert!(matches(pattern, yes), "{pattern} {yes}");
            assert!(no == "\0none" || !matches(pattern, no), "{pattern} {no}");
        }
    }

    #[test]
    fn json_conditions_hold_as_the_guide_says() {
        let message = r#"{"level":"ERROR","n":5,"ok":false,"none":null,"user":{"tags":["a","bc"]},"a-b":"x.y"}"#;
        for pattern in [
            "{ $.level = \"ERROR\" && $.n > 3 }",
            "{$.level=ERR*}",
            "{ $.level = *RO* }",
            "{ ($.n < 1) || ($.n >= 5) }",
            "{ $.ok IS FALSE && $.none IS NULL }",
            "{ $.missing NOT EXISTS }",
            "{ $.user.tags[1] = \"b*\" }",
            "{ $['a-b'] = \"x.y\" }",
            "{ $.n != 4 }",
        ] {
            assert!(matches(pattern, message), "{pattern}");
        }
        for pattern in ["{ $.level = \"WARN\" }", "{ $.n > 5 }", "{ $.missing = 1 }", "{ $.user = \"x\" && $.n = 5 }"] {
            assert!(!matches(pattern, message), "{pattern}");
        }
        assert!(!matches("{ $.n = 5 }", "n = 5"));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for pattern in
            ["{ $.a }", "{ $.a = }", "{ a = 1 }", "\"open", "{ $.a = 1", "{ ($.a = 1 }", "-", "{ $.a = 1 } x"]
        {
            assert!(matches!(Pattern::parse(pattern), Err(Error::Invalid(_))), "{pattern}");
        }
        for pattern in ["[ip, user]", "%AUTH%", "{ $.a = %x% }"] {
            assert!(matches!(Pattern::parse(pattern), Err(Error::Unsupported(_))), "{pattern}");
        }
        assert!(Pattern::parse(&format!("{{{}$.a = 1}}", "(".repeat(100_000))).is_err());
    }

    proptest::proptest! {
        #[test]
        fn noise_never_panics(pattern in "\\PC{0,40}", inner in "[$.a=()&|\"\\[\\]' 1*<>!]{0,30}", message in "\\PC{0,40}") {
            for pattern in [pattern, format!("{{{inner}}}")] {
                if let Ok(pattern) = Pattern::parse(&pattern) {
                    let _ = pattern.matches(&message);
                }
            }
        }
    }
}

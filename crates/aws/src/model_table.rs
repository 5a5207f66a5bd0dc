//! The shape of a service model as static tables: what `xtask codegen` writes and the wire reads.
//!
//! Not here: the tables themselves (`generated/`), and what a service's own words for a broken rule are (`apis`).
//!
//! Invariants
//!   1. A table holds every operation of the public model, so that an operation that is known but not supported is told
//!      apart from one that does not exist. Shapes exist for supported operations only.
//!   2. Tables are static data without code; a pattern is compiled at its first use.

use std::borrow::Cow;
use std::sync::{Mutex, OnceLock, PoisonError};

use regex_lite::Regex;

/// One service model.
#[derive(Debug)]
pub struct Model {
    /// The model's own version, `2015-03-31`.
    pub version: &'static str,
    /// Before the dot in `X-Amz-Target`; empty where that header is not used.
    pub target_prefix: &'static str,
    /// Namespace of XML answers; empty where answers are JSON.
    pub xml_namespace: &'static str,
    /// All operations, sorted by name.
    pub operations: &'static [Operation],
}

impl Model {
    /// The operation of a name.
    pub fn operation(&self, name: &str) -> Option<&'static Operation> {
        let found = self.operations.binary_search_by(|operation| operation.name.cmp(name)).ok()?;
        Some(&self.operations[found])
    }
}

/// One operation.
#[derive(Debug)]
pub struct Operation {
    /// Its name as `Call::operation` has it.
    pub name: &'static str,
    /// HTTP method.
    pub method: &'static str,
    /// Path template with `{Name}` and `{Name+}` parts, and fixed query parts if there are any.
    pub uri: &'static str,
    /// Status of success.
    pub status: u16,
    /// Shapes, if the platform supports the operation.
    pub io: Option<&'static Io>,
}

/// Shapes of one supported operation.
#[derive(Debug)]
pub struct Io {
    /// Members of the input.
    pub input: &'static [Member],
    /// The input's blob member that is the whole body, if there is one.
    pub input_payload: &'static str,
    /// Members of the output that are not simply a body member of the same name.
    pub output: &'static [Member],
    /// The output's blob or event stream that is the whole body, if there is one.
    pub output_payload: &'static str,
}

/// Where a member travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Location {
    /// In the document.
    Body,
    /// In the path.
    Uri,
    /// In the query.
    Query,
    /// In a header.
    Header,
    /// As the status.
    Status,
}

/// One member of a structure.
#[derive(Debug)]
pub struct Member {
    /// Name in the model.
    pub name: &'static str,
    /// Name on the wire.
    pub wire: &'static str,
    /// Where it travels.
    pub location: Location,
    /// Whether it must be there.
    pub required: bool,
    /// What it is.
    pub shape: &'static Shape,
}

/// How a timestamp is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeFormat {
    /// Seconds since the epoch, a number.
    Epoch,
    /// `2026-01-02T03:04:05Z`
    Iso8601,
}

/// What a value is.
#[derive(Debug)]
pub enum Kind {
    /// Text.
    Text,
    /// Bytes, in JSON as base64 text.
    Blob,
    /// `true` or `false`.
    Boolean,
    /// A whole number.
    Integer,
    /// A number.
    Float,
    /// A point in time.
    Timestamp(TimeFormat),
    /// Named members.
    Structure(&'static [Member]),
    /// Values of one shape.
    List(&'static Shape),
    /// Text to values of one shape.
    Map(&'static Shape, &'static Shape),
}

/// A kind with its constraints.
#[derive(Debug)]
pub struct Shape {
    /// What it is.
    pub kind: Kind,
    /// Least length or value.
    pub min: Option<i64>,
    /// Greatest length or value.
    pub max: Option<i64>,
    /// Pattern that text matches as a whole.
    pub pattern: Option<&'static Pattern>,
    /// The only values that text may have; empty for any.
    pub values: &'static [&'static str],
}

impl Shape {
    /// A shape without constraints.
    pub const fn of(kind: Kind) -> Self {
        Self { kind, min: None, max: None, pattern: None, values: &[] }
    }

    /// With a least length or value.
    #[must_use]
    pub const fn min(mut self, min: i64) -> Self {
        self.min = Some(min);
        self
    }

    /// With a greatest length or value.
    #[must_use]
    pub const fn max(mut self, max: i64) -> Self {
        self.max = Some(max);
        self
    }

    /// With a pattern.
    #[must_use]
    pub const fn pattern(mut self, pattern: &'static Pattern) -> Self {
        self.pattern = Some(pattern);
        self
    }

    /// With an enumeration.
    #[must_use]
    pub const fn values(mut self, values: &'static [&'static str]) -> Self {
        self.values = values;
        self
    }
}

/// Texts that a pattern remembers to have matched.
const REMEMBERED: usize = 256;

/// A pattern of the model, compiled when first needed.
#[derive(Debug)]
pub struct Pattern {
    source: &'static str,
    compiled: OnceLock<Option<Regex>>,
    /// Matching a function name against its ARN pattern costs microseconds, and the same few names come again and
    /// again: those that matched are kept, up to a bound.
    matched: Mutex<Vec<Box<str>>>,
}

impl Pattern {
    /// A pattern of the model's dialect (Java).
    pub const fn new(source: &'static str) -> Self {
        Self { source, compiled: OnceLock::new(), matched: Mutex::new(Vec::new()) }
    }

    /// The pattern as the model has it.
    pub fn source(&self) -> &'static str {
        self.source
    }

    fn regex(&self) -> Option<&Regex> {
        let compile = || Regex::new(&format!("^(?:{})$", in_ascii(&without_look_around(self.source)))).ok();
        self.compiled.get_or_init(compile).as_ref()
    }

    /// Whether the matcher understands the pattern; one that it does not understand lets everything pass.
    pub fn is_understood(&self) -> bool {
        self.regex().is_some()
    }

    /// Whether all of the pattern is checked, or only what is left without look-around (`(?!…)`, `(?<!…)`).
    pub fn is_exact(&self) -> bool {
        self.regex().is_some() && without_look_around(self.source) == self.source
    }

    /// Whether the whole text matches.
    pub fn matches(&self, text: &str) -> bool {
        let Some(regex) = self.regex() else { return true };
        let folded = if self.source.contains("\\p{") { Cow::Owned(folded(text)) } else { Cow::Borrowed(text) };
        let text = &*folded;
        {
            let matched = self.matched.lock().unwrap_or_else(PoisonError::into_inner);
            if matched.binary_search_by(|known| (**known).cmp(text)).is_ok() {
                return true;
            }
        }
        if !regex.is_match(text) {
            return false;
        }
        if text.len() <= 256 {
            let mut matched = self.matched.lock().unwrap_or_else(PoisonError::into_inner);
            if matched.len() >= REMEMBERED {
                matched.clear();
            }
            if let Err(place) = matched.binary_search_by(|known| (**known).cmp(text)) {
                matched.insert(place, text.into());
            }
        }
        true
    }
}

/// The pattern with classes of Unicode as those of ASCII, which is all that the matcher knows; `folded` texts fit it.
fn in_ascii(source: &str) -> String {
    source.replace("\\p{L}", "A-Za-z").replace("\\p{N}", "0-9").replace("\\p{Z}", " ")
}

/// The text with a letter, digit or space of ASCII for each other one.
fn folded(text: &str) -> String {
    let fold = |c: char| match c {
        _ if c.is_ascii() => c,
        _ if c.is_alphabetic() => 'A',
        _ if c.is_numeric() => '0',
        _ if c.is_whitespace() => ' ',
        _ => c,
    };
    text.chars().map(fold).collect()
}

/// The pattern without its negative look-around, which the matcher lacks; what remains is looser, never stricter.
fn without_look_around(source: &str) -> String {
    let mut kept = source.to_owned();
    while let Some(start) = kept.find("(?!").or_else(|| kept.find("(?<!")) {
        let mut depth = 0usize;
        let end = kept[start..].bytes().position(|byte| {
            match byte {
                b'(' => depth += 1,
                b')' => depth -= 1,
                _ => {}
            }
            depth == 0
        });
        let Some(end) = end else { return kept };
        kept.replace_range(start..=start + end, "");
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_digits_and_spaces_of_all_scripts_are_told_from_signs() {
        static TAG: Pattern = Pattern::new(r"([\p{L}\p{Z}\p{N}_.:/=+\-@]*)");
        for fits in ["", "a b", "Größe", "漢字", "٣", "a\u{a0}b", "x_.:/=+-@"] {
            assert!(TAG.matches(fits), "{fits}");
        }
        for wrong in ["a*b", "<", "a\tb", "€", "a\u{200b}b", "🦆"] {
            assert!(!TAG.matches(wrong), "{wrong}");
        }
    }

    #[test]
    fn a_pattern_matches_whole_texts_and_remembers_only_matches() {
        static DIGITS: Pattern = Pattern::new("[0-9]+|x");
        for _ in 0..2 {
            assert!(DIGITS.matches("12"));
            assert!(DIGITS.matches("x"));
            assert!(!DIGITS.matches("12a"));
            assert!(!DIGITS.matches("ax"));
        }
        for n in 0..1_000 {
            assert!(DIGITS.matches(&n.to_string()));
        }
        assert!(DIGITS.matched.lock().unwrap().len() <= REMEMBERED);
    }
}

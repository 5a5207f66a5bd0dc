//! Cuts a statement into tokens.
//!
//! Comments are `-- to the end of the line` and `/* … */`. Words are compared without case where they are key words.

use super::super::error::Result;
use super::malformed;

/// What a token is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// A key word, function or name.
    Word(String),
    /// A name in double quotes.
    Quoted(String),
    /// A text in single quotes.
    Text(String),
    /// Digits with point and exponent, without sign.
    Number(String),
    /// `?`
    Parameter,
    /// An operator or bracket.
    Symbol(&'static str),
    /// The end of the statement.
    End,
}

/// A token and where it is: counted in characters from 1.
#[derive(Debug, Clone)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) line: usize,
    pub(super) column: usize,
    pub(super) length: usize,
}

impl Token {
    /// `line:column:length`
    pub(super) fn place(&self) -> String {
        format!("{}:{}:{}", self.line, self.column, self.length)
    }
}

/// Longest first, so that none hides a longer one.
const SYMBOLS: [&str; 25] = [
    "<<", ">>", "<=", ">=", "<>", "!=", "(", ")", "[", "]", "{", "}", ",", ".", ":", ";", "=", "<", ">", "+", "-", "*",
    "/", "%", "|",
];

/// All tokens of `source`, the end included.
pub(super) fn tokens(source: &str) -> Result<Vec<Token>> {
    let mut lexer = Lexer { rest: source, line: 1, column: 1 };
    let mut tokens = Vec::new();
    loop {
        lexer.skip_space()?;
        let (line, column) = (lexer.line, lexer.column);
        let before = lexer.rest;
        let kind = lexer.next()?;
        let length = before[..before.len() - lexer.rest.len()].chars().count();
        let end = kind == Kind::End;
        tokens.push(Token { kind, line, column, length });
        if end {
            return Ok(tokens);
        }
    }
}

struct Lexer<'a> {
    rest: &'a str,
    line: usize,
    column: usize,
}

impl<'a> Lexer<'a> {
    /// Takes so many bytes, which end between characters.
    fn take(&mut self, bytes: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at(bytes);
        #[cfg(test)]
        super::super::steps::count(bytes + 1);
        self.rest = rest;
        match taken.rfind('\n') {
            Some(at) => {
                self.line += taken.matches('\n').count();
                self.column = taken[at + 1..].chars().count() + 1;
            }
            None => self.column += taken.chars().count(),
        }
        taken
    }

    fn take_while(&mut self, fits: impl Fn(char) -> bool) -> &'a str {
        self.take(self.rest.find(|c| !fits(c)).unwrap_or(self.rest.len()))
    }

    fn skip_space(&mut self) -> Result<()> {
        loop {
            self.take_while(char::is_whitespace);
            if self.rest.starts_with("--") {
                self.take_while(|c| c != '\n');
            } else if self.rest.starts_with("/*") {
                let end = self.rest.find("*/").ok_or_else(|| malformed(""))?;
                self.take(end + 2);
            } else {
                return Ok(());
            }
        }
    }

    fn next(&mut self) -> Result<Kind> {
        let Some(first) = self.rest.chars().next() else {
            return Ok(Kind::End);
        };
        Ok(match first {
            '\'' => Kind::Text(self.quoted('\'')?),
            '"' => Kind::Quoted(self.quoted('"')?),
            '?' => {
                self.take(1);
                Kind::Parameter
            }
            '0'..='9' => self.number(),
            'a'..='z' | 'A'..='Z' | '_' | '$' => {
                Kind::Word(self.take_while(|c| c.is_ascii_alphanumeric() || c == '_' || c == '$').into())
            }
            '.' if self.rest[1..].starts_with(|c: char| c.is_ascii_digit()) => self.number(),
            _ => {
                let symbol = SYMBOLS.into_iter().find(|symbol| self.rest.starts_with(symbol));
                let symbol = symbol.ok_or_else(|| malformed(""))?;
                self.take(symbol.len());
                Kind::Symbol(symbol)
            }
        })
    }

    /// What stands between quotes; two of them mean one.
    fn quoted(&mut self, quote: char) -> Result<String> {
        self.take(1);
        let mut text = String::new();
        loop {
            text.push_str(self.take_while(|c| c != quote));
            if self.rest.is_empty() {
                return Err(malformed(""));
            }
            self.take(1);
            if !self.rest.starts_with(quote) {
                return Ok(text);
            }
            self.take(1);
            text.push(quote);
        }
    }

    fn number(&mut self) -> Kind {
        let digits = |text: &str| text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let mut length = digits(self.rest);
        if self.rest[length..].starts_with('.') {
            length += 1;
            length += digits(&self.rest[length..]);
        }
        let exponent = &self.rest[length..];
        if exponent.starts_with(['e', 'E']) {
            let sign = usize::from(exponent[1..].starts_with(['+', '-']));
            let count = digits(&exponent[1 + sign..]);
            if count > 0 {
                length += 1 + sign + count;
            }
        }
        Kind::Number(self.take(length).into())
    }
}

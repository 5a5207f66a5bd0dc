//! Cuts an expression into tokens, and walks over them.
//!
//! Not here: what the tokens mean. A character that no token starts with is a symbol of its own, so that the parser
//! refuses it with DynamoDB's own message instead of the lexer with another one.

use std::ops::Range;

use winnow::Parser;
use winnow::ascii::{digit1, multispace0};
use winnow::combinator::{alt, eof, opt};
use winnow::stream::LocatingSlice;
use winnow::token::{any, one_of, take_while};

use super::Fault;

/// Deepest nesting of parentheses and functions; keeps recursion far from the end of a small stack. Where each level has
/// two operators, there are no more of these anyway.
const DEPTH_MAX: usize = 150;

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Kind<'a> {
    /// A key word, function or attribute name.
    Name(&'a str),
    /// `#name`
    NameRef(&'a str),
    /// `:value`
    ValueRef(&'a str),
    /// Digits.
    Index(&'a str),
    /// An operator, a bracket, or anything else.
    Symbol(&'a str),
    /// The end of the expression.
    End,
}

type Input<'a> = LocatingSlice<&'a str>;

fn word<'a>(input: &mut Input<'a>) -> winnow::Result<&'a str> {
    take_while(1.., |c: char| c.is_ascii_alphanumeric() || c == '_').parse_next(input)
}

fn kind<'a>(input: &mut Input<'a>) -> winnow::Result<Kind<'a>> {
    let tail = |c: char| c.is_ascii_alphanumeric() || c == '_';
    alt((
        (one_of(|c: char| c.is_ascii_alphabetic()), take_while(0.., tail)).take().map(Kind::Name),
        ('#', word).take().map(Kind::NameRef),
        (':', word).take().map(Kind::ValueRef),
        digit1.map(Kind::Index),
        alt(("<>", "<=", ">=")).map(Kind::Symbol),
        any.take().map(Kind::Symbol),
    ))
    .parse_next(input)
}

/// All tokens of `source` with their places.
pub(super) fn tokens(source: &str) -> Vec<(Kind<'_>, Range<usize>)> {
    let mut input = LocatingSlice::new(source);
    let mut tokens = Vec::new();
    let space = |input: &mut Input<'_>| -> winnow::Result<bool> {
        multispace0.parse_next(input)?;
        Ok(opt(eof).parse_next(input)?.is_some())
    };
    while let Ok(false) = space(&mut input) {
        // `any` takes what nothing else does, so every round moves on.
        match kind.with_span().parse_next(&mut input) {
            Ok(token) => {
                #[cfg(test)]
                super::super::steps::count(token.1.len());
                tokens.push(token);
            }
            Err(_) => break,
        }
    }
    tokens
}

/// Walks over tokens.
pub(in super::super) struct Cursor<'a> {
    source: &'a str,
    tokens: Vec<(Kind<'a>, Range<usize>)>,
    at: usize,
    depth: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(source: &'a str) -> Self {
        Self { source, tokens: tokens(source), at: 0, depth: 0 }
    }

    /// The token here.
    pub(super) fn peek(&self) -> Kind<'a> {
        self.peek_at(0)
    }

    /// The token `ahead` after this one.
    pub(super) fn peek_at(&self, ahead: usize) -> Kind<'a> {
        #[cfg(test)]
        super::super::steps::count(1);
        self.tokens.get(self.at + ahead).map_or(Kind::End, |(kind, _)| *kind)
    }

    pub(super) fn skip(&mut self) {
        self.at += 1;
    }

    /// Takes `symbol` if it is here.
    pub(super) fn take_symbol(&mut self, symbol: &str) -> bool {
        let here = self.peek() == Kind::Symbol(symbol);
        self.at += usize::from(here);
        here
    }

    /// Takes the key word if it is here, in any case.
    pub(super) fn take_word(&mut self, word: &str) -> bool {
        let here = matches!(self.peek(), Kind::Name(name) if name.eq_ignore_ascii_case(word));
        self.at += usize::from(here);
        here
    }

    pub(super) fn expect(&mut self, symbol: &str) -> Result<(), Fault> {
        if self.take_symbol(symbol) { Ok(()) } else { Err(self.syntax_error()) }
    }

    pub(super) fn expect_word(&mut self, word: &str) -> Result<(), Fault> {
        if self.take_word(word) { Ok(()) } else { Err(self.syntax_error()) }
    }

    pub(super) fn expect_end(&self) -> Result<(), Fault> {
        if self.peek() == Kind::End { Ok(()) } else { Err(self.syntax_error()) }
    }

    /// One level deeper; `leave` goes back.
    pub(super) fn enter(&mut self) -> Result<(), Fault> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(Fault::new(format!("The expression is nested more than {DEPTH_MAX} levels deep;")));
        }
        Ok(())
    }

    pub(super) fn leave(&mut self) {
        self.depth -= 1;
    }

    /// `Syntax error; token: "x", near: "a x b"`: the token here with one on each side, as they were written.
    pub(super) fn syntax_error(&self) -> Fault {
        let token = match self.tokens.get(self.at) {
            Some((_, span)) => &self.source[span.clone()],
            None => "<EOF>",
        };
        let span = |at: usize| self.tokens.get(at).map(|(_, span)| span.clone());
        let before = self.at.checked_sub(1).and_then(span);
        let start = before.clone().or_else(|| span(self.at)).map_or(0, |span| span.start);
        let end = span(self.at + 1).or_else(|| span(self.at)).or(before).map_or(0, |span| span.end);
        Fault::new(format!("Syntax error; token: \"{token}\", near: \"{}\"", &self.source[start..end]))
    }
}

//! PartiQL: statements, from text and parameters to the trees that expressions have too.
//!
//! Pure. What a statement does is decided in `ops::partiql`, by the operations that are there without it.
//!
//! Invariants
//!   1. Parsing is linear in the text's length and bounded in depth; no text makes it panic.
//!   2. Every `?` has been replaced by its parameter, and there are as many of one as of the other.
//!
//! Start reading at `Statement`, then `parser`.

mod condition;
mod lexer;
mod parser;
pub(super) mod plan;
mod values;

#[cfg(test)]
mod tests;

use super::error::Error;
use super::expression::condition::Condition;
use super::expression::path::Path;
use super::expression::update::Update;
use super::value::Item;

pub(super) use parser::parse;

/// What a statement asks for.
#[derive(Debug)]
pub(super) enum Statement {
    Select(Select),
    /// A SELECT in `EXISTS(…)`: something that a transaction checks.
    Exists(Select),
    Insert {
        table: String,
        item: Item,
    },
    Update {
        table: String,
        update: Update,
        condition: Option<Condition>,
        returning: Option<Returning>,
    },
    Delete {
        table: String,
        condition: Option<Condition>,
        returning: Option<Returning>,
    },
}

impl Statement {
    /// The table as the statement names it.
    pub(super) fn table(&self) -> &str {
        match self {
            Self::Select(select) | Self::Exists(select) => &select.table,
            Self::Insert { table, .. } | Self::Update { table, .. } | Self::Delete { table, .. } => table,
        }
    }

    /// What stands after WHERE.
    pub(super) fn condition(&self) -> Option<&Condition> {
        match self {
            Self::Select(select) | Self::Exists(select) => select.condition.as_ref(),
            Self::Update { condition, .. } | Self::Delete { condition, .. } => condition.as_ref(),
            Self::Insert { .. } => None,
        }
    }

    /// Whether it only reads.
    pub(super) fn is_read(&self) -> bool {
        matches!(self, Self::Select(_))
    }

    /// What it answers of what it wrote.
    pub(super) fn returning(&self) -> Option<Returning> {
        match self {
            Self::Update { returning, .. } | Self::Delete { returning, .. } => *returning,
            _ => None,
        }
    }
}

/// `SELECT … FROM … WHERE … ORDER BY …`
#[derive(Debug)]
pub(super) struct Select {
    pub(super) table: String,
    pub(super) index: Option<String>,
    /// None: `*`.
    pub(super) paths: Option<Vec<Path>>,
    pub(super) condition: Option<Condition>,
    /// Attributes, and whether they are asked for in descending order.
    pub(super) order: Vec<(String, bool)>,
}

/// `RETURNING …`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Returning {
    /// ALL instead of MODIFIED.
    pub(super) all: bool,
    /// NEW instead of OLD.
    pub(super) new: bool,
}

/// A refusal of the statement as a text; `why` may be empty.
fn malformed(why: &str) -> Error {
    Error::validation(format!("Statement wasn't well formed, can't be processed: {why}"))
}

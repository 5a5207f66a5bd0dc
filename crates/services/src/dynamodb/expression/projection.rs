//! Projection expressions: `a, b.c[0], #d`.
//!
//! Invariant: paths of one projection neither overlap nor conflict.

use super::path::{Path, PathTree};
use super::{Fault, Parsing};

/// Which parts of an item are answered.
#[derive(Debug, Clone, Default)]
pub(in super::super) struct Projection {
    /// The paths as they were written.
    pub(in super::super) paths: Vec<Path>,
    /// The same, to cut an item with.
    pub(in super::super) tree: PathTree,
}

/// Parses a whole projection.
pub(in super::super) fn parse(parsing: &mut Parsing<'_, '_>) -> Result<Projection, Fault> {
    let mut projection = Projection::default();
    loop {
        let path = parsing.path(&[])?;
        parsing.distinct_path(&mut projection.tree, &path);
        projection.paths.push(path);
        if !parsing.cursor.take_symbol(",") {
            return Ok(projection);
        }
    }
}

//! Document paths, and trees of them: how overlaps are found and parts of an item are cut out.
//!
//! Invariant: inserting a path into a tree costs its length, not the number of paths before it.

use std::collections::BTreeMap;
use std::fmt;

use super::super::value::{AttributeValue, DEPTH_MAX, Item};
use super::{Mistake, Parsing};

/// One step of a path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(in super::super) enum Step {
    /// Into a map.
    Name(String),
    /// Into a list.
    Index(usize),
}

/// Where in an item: a name, then any steps.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(in super::super) struct Path(pub(in super::super) Vec<Step>);

impl Path {
    /// The name of the top-level attribute.
    pub(in super::super) fn head(&self) -> &str {
        match self.0.first() {
            Some(Step::Name(name)) => name,
            _ => "",
        }
    }

    /// Whether it leads into an attribute instead of to one.
    pub(in super::super) fn is_nested(&self) -> bool {
        self.0.len() > 1
    }

    /// The name under which a statement answers it as its column `at`, counted from zero.
    pub(in super::super) fn column(&self, at: usize) -> String {
        match self.0.last() {
            Some(Step::Name(name)) => name.clone(),
            _ => format!("_{}", at + 1),
        }
    }

    /// What is there.
    pub(in super::super) fn find<'a>(&self, item: &'a Item) -> Option<&'a AttributeValue> {
        let mut value = item.get(self.head())?;
        for step in self.0.iter().skip(1) {
            value = match (step, value) {
                (Step::Name(name), AttributeValue::M(map)) => map.get(name)?,
                (Step::Index(index), AttributeValue::L(list)) => list.get(*index)?,
                _ => return None,
            };
        }
        Some(value)
    }
}

impl fmt::Display for Path {
    /// `[a, [0], b]`, as DynamoDB's messages print it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (at, step) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str(", ")?;
            }
            match step {
                Step::Name(name) => f.write_str(name)?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        f.write_str("]")
    }
}

/// Most steps of a path, its first name among them. Trees of paths are walked by recursion, which this keeps far from the end of
/// a small stack.
pub(in super::super) const STEPS_MAX: usize = DEPTH_MAX;

/// Paths by their steps.
#[derive(Debug, Default, Clone)]
pub(in super::super) struct PathTree {
    children: BTreeMap<Step, PathTree>,
    /// A path that ends here.
    leaf: Option<Path>,
}

impl PathTree {
    /// Adds a path, or says which earlier one it overlaps or conflicts with.
    pub(in super::super) fn insert(&mut self, path: &Path) -> Result<(), (Mistake, Path)> {
        let mut node = self;
        for step in &path.0 {
            #[cfg(test)]
            super::super::steps::count(1);
            if let Some(earlier) = &node.leaf {
                return Err((Mistake::Overlap, earlier.clone()));
            }
            // All children are of one kind, since this refuses the other one.
            if let Some((other, child)) = node.children.iter().next()
                && std::mem::discriminant(other) != std::mem::discriminant(step)
            {
                return Err((Mistake::Conflict, child.any_path().unwrap_or_else(|| path.clone())));
            }
            node = node.children.entry(step.clone()).or_default();
        }
        if let Some(earlier) = node.any_path() {
            return Err((Mistake::Overlap, earlier));
        }
        node.leaf = Some(path.clone());
        Ok(())
    }

    fn any_path(&self) -> Option<Path> {
        let mut node = self;
        loop {
            #[cfg(test)]
            super::super::steps::count(1);
            if let Some(path) = &node.leaf {
                return Some(path.clone());
            }
            node = node.children.values().next()?;
        }
    }

    /// The parts of an item that the paths lead to. Lists close up, in the order of their indexes.
    pub(in super::super) fn project(&self, item: &Item) -> Item {
        let mut out = Item::new();
        for (step, child) in &self.children {
            if let Step::Name(name) = step
                && let Some(part) = item.get(name).and_then(|value| child.cut(value))
            {
                out.insert(name.clone(), part);
            }
        }
        out
    }

    fn cut(&self, value: &AttributeValue) -> Option<AttributeValue> {
        if self.leaf.is_some() {
            return Some(value.clone());
        }
        match value {
            AttributeValue::M(map) => {
                let part = self.project(map);
                (!part.is_empty()).then_some(AttributeValue::M(part))
            }
            AttributeValue::L(list) => {
                let parts = self.children.iter().filter_map(|(step, child)| match step {
                    Step::Index(index) => list.get(*index).and_then(|value| child.cut(value)),
                    Step::Name(_) => None,
                });
                let parts: Vec<_> = parts.collect();
                (!parts.is_empty()).then_some(AttributeValue::L(parts))
            }
            _ => None,
        }
    }
}

impl Parsing<'_, '_> {
    /// Adds a path of this expression to its tree, noting an overlap as a mistake.
    pub(super) fn distinct_path(&mut self, tree: &mut PathTree, path: &Path) {
        if let Err((kind, earlier)) = tree.insert(path) {
            let what = if kind == Mistake::Overlap { "overlap" } else { "conflict" };
            self.mistake(kind, || {
                format!(
                    "Two document paths {what} with each other; must remove or rewrite one of these paths; \
                     path one: {earlier}, path two: {path}"
                )
            });
        }
    }
}

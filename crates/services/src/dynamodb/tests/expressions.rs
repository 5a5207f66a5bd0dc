//! Placeholder of expressions.

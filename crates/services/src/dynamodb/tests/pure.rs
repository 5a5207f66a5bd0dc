//! Placeholder of pure.

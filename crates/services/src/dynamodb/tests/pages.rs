//! Placeholder of pages.

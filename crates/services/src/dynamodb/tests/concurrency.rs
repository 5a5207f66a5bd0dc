//! Placeholder of concurrency.

//! How long environments are kept without a call, and when they are started ahead of one.

#[cfg(test)]
mod tests;

//! From a folder to running functions: discover, package, plan, apply.

pub mod dependencies;
pub mod discover;
pub mod intrinsics;
pub mod package;
pub mod project;
pub mod serverless;
pub mod transpile;
pub mod variables;

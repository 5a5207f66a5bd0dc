//! From a folder to running functions: discover, package, plan, apply.

pub mod dependencies;
pub mod discover;
pub mod event_config;
pub mod http_api;
pub mod install;
pub mod interpreters;
pub mod intrinsics;
pub mod java;
pub mod layers;
pub mod package;
pub mod packs;
pub mod permissions;
pub mod php;
pub mod plan;
pub mod project;
pub mod rest_api;
pub mod scripts;
pub mod serverless;
pub mod settings;
pub mod streams;
pub mod transpile;
pub mod variables;
pub mod web;

//! The function engine: admission, pool, environments, the guest protocols, the asynchronous queue.
//!
//! Invariants
//!   1. `invoke` is the only road into a sandbox.
//!   2. No AWS protocol and no particular queue is known here; callers meet it through `model::ports`.
//!   3. Every call that reached an environment is metered exactly once, before its answer leaves; a streamed one before
//!      the end of its answer; one of a custom runtime or with extensions when these are done, which its answer does not
//!      wait for.
//!
//! Start reading at `invoke`; what it is made from is in `config`.

pub mod guest_protocol;

mod admission;
mod after;
mod async_queue;
mod autoscaler;
mod channel;
mod code_cache;
mod config;
mod container_credentials;
mod dependencies;
mod detached;
mod engine;
mod environment;
mod extensions;
mod faults;
mod fleet;
mod frames;
mod gate;
mod image;
mod invoke;
mod inward;
mod keepalive;
mod output;
mod package;
mod patience;
mod payload;
mod poller;
mod pool;
mod pressure;
mod processors;
mod program;
mod ready;
mod records;
mod recursion;
mod reply;
mod report;
mod runtime_api;
mod settle;
mod slots;
mod start;
mod stream;
mod telemetry;
mod tenants;
#[cfg(test)]
mod tests;
mod trace;
mod turns;
mod unneeded;
mod variables;
mod web;

pub use async_queue::{EventCounts, EventsInfo, FunctionEvents};
pub use config::{
    AsyncConfig, EngineConfig, EngineParts, GuestIdentity, GuestNetwork, NetworkGuard, NoNetwork, StreamConfig,
};
pub use engine::Engine;
pub use fleet::{EnvironmentInfo, EnvironmentState};

//! The function engine: admission, pool, environments, the guest protocols, the asynchronous queue.
//!
//! Invariants
//!   1. `invoke` is the only road into a sandbox.
//!   2. No AWS protocol and no particular queue is known here; callers meet it through `model::ports`.

pub mod guest_protocol;

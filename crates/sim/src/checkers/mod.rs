//! What must hold, whatever happens.
//!
//! `model` commits one transaction after another and remembers every version of every key: what the store acknowledges
//! must be possible there, and what it shows must be what is there. `leases` looks at claims by themselves.

pub(crate) mod leases;
pub(crate) mod model;

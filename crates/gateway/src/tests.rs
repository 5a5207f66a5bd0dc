//! The front door over a real listener of the loopback interface, with doubles behind it.
//!
//! `sites` tests tenants' content, `control` the control plane and the browser rules, `connections` what happens below
//! requests. Pure rules have tables beside their code.

mod connections;
mod control;
mod sites;

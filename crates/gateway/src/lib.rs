//! The front door: listeners, TLS, routing, the browser rules, limits, HTTP ↔ event, and the guests' network.
//!
//! Start reading at `service::Gateway::handle`: every request of every connection passes there.
//!
//! Invariants
//!   1. No particular service is known: AWS calls go through `door::AwsDoor`, functions through `model::ports`.
//!   2. Decisions are pure (`route`, `browser`, `http_event`, `errors`, `egress`, `dns`) and apart from sockets.

pub mod authority;
mod body;
pub mod browser;
pub mod client;
pub mod config;
mod detached;
pub mod dial;
pub mod dns;
pub mod door;
#[cfg(test)]
mod doubles;
pub mod egress;
pub mod errors;
pub mod guest_network;
pub mod http_event;
pub mod listener;
mod name_servers;
pub mod names;
pub mod route;
mod service;
mod site;
pub mod spelling;
#[cfg(test)]
mod tests;
pub mod tls;
pub mod traffic;
pub mod trust_store;
mod web;

pub use authority::Authority;
pub use config::Config;
pub use dial::HostResolver;
pub use door::{AdminDoor, AuthDenied, AwsDoor, ClientAddress, GuestIdentity, Peer};
pub use guest_network::{GUEST_ENDPOINT, GuestNetworkConfig, GuestNetworkGuard, GuestNetworkService};
pub use listener::{Listening, listen};
pub use service::{Gateway, GatewayParts};

//! Behaviour of the engine as a whole, with guests that are tasks of the test.
//!
//! `guests` is the backend, `fixtures` all other ports. Time is paused where a test waits: the runtime then moves it
//! only when nothing else can happen.

mod code_caches;
mod custom_runtimes;
mod dead_letters;
mod destinations;
mod events;
mod extensions;
pub(crate) mod fixtures;
mod floors;
mod frost;
pub(crate) mod guests;
mod habits;
mod invoking;
mod nodes;
mod ready;
mod scaling;
mod snapshots;
mod streaming;
mod tenants;
mod web;

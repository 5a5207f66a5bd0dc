//! What is decided about a batch of transactions, whichever engine commits it. Pure: no clock, no disk, no wait.
//!
//! Start reading at `decide`.

pub(crate) mod decide;
pub(crate) mod heads;
pub(crate) mod job;
pub(crate) mod recent;

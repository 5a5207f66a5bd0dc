//! One file a command. A command writes data to standard output and words for people to standard error.

pub mod bill;
pub mod deploy;
pub mod events;
pub mod images;
pub mod invoke;
pub mod logs;
pub mod ps;
pub mod runtimes;

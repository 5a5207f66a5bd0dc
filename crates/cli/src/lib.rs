//! The command line and the deploy planner. Speaks public and admin APIs only; knows nothing of the server's inside.

mod deploy;
mod yaml;

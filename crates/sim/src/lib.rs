//! Simulation, for development only: one thread, one seed, and the whole of a run follows from it: which client goes on,
//! when the store's committer and applier get their turn, what time it is, when the disk fails or the power goes.
//!
//! A run is a number of lives of one store. In each, clients work while faults strike; it ends by a cut of the power, a
//! kill, a failure of the disk or a close, and the next one recovers. All that the store answers, and all that it shows,
//! is compared with a model that commits one transaction after another. A hash over all events proves that a seed
//! repeats itself, so whoever finds a failing one can run it again and again.
//!
//! | module     | is                                                                                       |
//! |------------|------------------------------------------------------------------------------------------|
//! | `world`    | the scheduler: whose turn it is, how a life ends, what must hold then                     |
//! | `plan`     | what a seed decides beforehand: sizes, number of clients, which faults may strike         |
//! | `env`      | what clients see: the store, with every answer and every read handed to the checkers      |
//! | `disk`     | the disk of the log: unsynced writes that a cut keeps, loses and tears; errors; no room    |
//! | `tree`     | the files of the tree, which the library writes itself: what of them survives a cut       |
//! | `workload` | the clients                                                                               |
//! | `checkers` | the model, and the leases of claims                                                       |
//!
//! A later layer adds its clients to `workload` and what it promises to `checkers`. Start reading at `world`.

mod checkers;
mod dice;
mod disk;
mod env;
mod plan;
mod tasks;
mod trace;
mod tree;
mod workload;
mod world;

pub use self::plan::{Broken, Stats};
pub use self::world::{Outcome, run};

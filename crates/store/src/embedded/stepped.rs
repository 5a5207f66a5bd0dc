//! The engine without its threads, for simulation: who drives it says whose turn it is, so one thread and a seed decide
//! every order in which things happen. It is the same committer and the same applier; only their loops are the caller's.
//!
//! Where the committer would wait for the applier, it drives it. Ranges of any length are read where they are called.

use std::sync::Arc;

use parking_lot::Mutex;

use super::applier::{Behind, Step as Applying, Worker};
use super::committer::{Committer, Step as Committing};
use super::schema::Fault;
use super::{Embedded, EmbeddedConfig, OpenError, Running, prepare};
use crate::contract::Version;

/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Something; there may be more.
    Worked,
    /// Nothing: it waits for somebody else, or for time to pass.
    Idle,
    /// It has ended: the store is closed, or has failed.
    Ended,
}

/// A store whose committer and applier are driven by hand. Dropped, it ends like a killed process: what waits is neither
/// committed nor answered.
pub struct Stepped {
    store: Arc<Embedded>,
    committer: Committer,
    applier: Arc<Mutex<Worker>>,
    /// Whether one of them has failed: then neither does anything more.
    failed: bool,
}

/// Opens the store of a folder as `embedded::open` does, without threads. It needs no runtime.
pub fn open_stepped(config: EmbeddedConfig) -> Result<Stepped, OpenError> {
    let parts = prepare(config, false)?;
    let shared = parts.shared;
    let applier = Arc::new(Mutex::new(parts.worker));
    let behind = Behind::inline(Arc::clone(&shared), Arc::clone(&applier));
    let committer = Committer::new(behind, Arc::clone(&shared), parts.reader, parts.writer, parts.version);
    let running = Running { threads: Vec::new(), _lock: parts.lock };
    Ok(Stepped {
        store: Arc::new(Embedded { shared, turns: None, running: Mutex::new(Some(running)) }),
        committer,
        applier,
        failed: false,
    })
}

impl Stepped {
    /// The store. Its calls only get on when the committer is stepped; `Embedded::close` is not for this use.
    pub fn store(&self) -> &Arc<Embedded> {
        &self.store
    }

    /// The last commit that the tree has, on disk.
    pub fn applied(&self) -> Version {
        self.store.shared.overlay.peek().base()
    }

    /// Decides and commits one batch: all that waits, up to a batch's limits. Flushes relaxed commits when it is time.
    pub fn step_committer(&mut self) -> Progress {
        if self.failed {
            return Progress::Ended;
        }
        let step = self.committer.step();
        self.progress(step.map(|step| match step {
            Committing::Batch(_) => Progress::Worked,
            Committing::Idle => Progress::Idle,
            Committing::End => Progress::Ended,
        }))
    }

    /// Writes one portion into the tree, or tidies up.
    pub fn step_applier(&mut self) -> Progress {
        if self.failed {
            return Progress::Ended;
        }
        let step = self.applier.lock().step();
        self.progress(step.map(|step| match step {
            Applying::More => Progress::Worked,
            Applying::Pause(_) | Applying::Wait => Progress::Idle,
            Applying::End => Progress::Ended,
        }))
    }

    /// Ends the store as `Embedded::close` does: all that waits is committed, and written into the tree.
    pub fn close(mut self) {
        let _running = self.store.begin_close();
        while self.step_committer() != Progress::Ended {}
        while self.step_applier() != Progress::Ended {}
    }

    fn progress(&mut self, step: Result<Progress, Fault>) -> Progress {
        step.unwrap_or_else(|fault| {
            self.failed = true;
            self.store.shared.fail(fault);
            Progress::Ended
        })
    }
}

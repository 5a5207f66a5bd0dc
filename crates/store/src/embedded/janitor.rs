//! The janitor: a thread beside the committer that copies the log into the file and ends snapshots that live too long.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use rusqlite::Connection;

use super::Shared;
use super::schema::{Fault, PAGE_BYTES};

/// How often snapshots are looked at.
const TICK: Duration = Duration::from_secs(1);
/// So many pages of the log that are not in the file yet are worth a checkpoint.
const BACKLOG_PAGES: u64 = 16 * 1024 * 1024 / PAGE_BYTES;

/// What the janitor is told.
#[derive(Debug, Default)]
pub(super) struct Janitor {
    orders: Mutex<Orders>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Orders {
    checkpoint: bool,
    stop: bool,
}

impl Janitor {
    /// Told by the committer after each batch: how many pages of the log are not in the file yet.
    pub(super) fn note_backlog(&self, pages: u64) {
        if pages >= BACKLOG_PAGES {
            self.orders.lock().checkpoint = true;
            self.changed.notify_one();
        }
    }

    /// Ends the thread after what it does now.
    pub(super) fn stop(&self) {
        self.orders.lock().stop = true;
        self.changed.notify_one();
    }

    /// Works until told to stop.
    pub(super) fn run(shared: &Arc<Shared>, connection: &Connection) -> Result<(), Fault> {
        loop {
            let mut orders = shared.janitor.orders.lock();
            if !orders.stop && !orders.checkpoint {
                shared.janitor.changed.wait_for(&mut orders, TICK);
            }
            let (stop, checkpoint) = (orders.stop, std::mem::take(&mut orders.checkpoint));
            drop(orders);
            if stop {
                return Ok(());
            }
            shared.readers.reap();
            if checkpoint {
                shared.checkpoint(connection)?;
            }
        }
    }
}

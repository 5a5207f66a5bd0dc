//! Connections that read the current state, one at a time each, and are kept open between reads.
//!
//! Each lies in a cell with a lock of its own, and a read begins to look at the cell of its processor: so a connection's
//! pages stay in that processor's cache, and reads on different processors share no lock. Taken from one list instead,
//! connections change processors at random.
//!
//! Invariants
//!   1. Who holds a cell's lock is its connection's only user.
//!   2. A connection on which a read failed is not used again.
//!   3. After `close` no cell ever has one.

use std::path::PathBuf;

use parking_lot::{Mutex, MutexGuard};
use rusqlite::Connection;

use super::reader::CACHE_KIB;
use super::schema::{self, Fault};
use crate::contract::Error;

/// Cells beyond those of the processors, for readers that wait for the disk meanwhile.
const MORE: usize = 2;

/// See the head of this file.
pub(super) struct Idle {
    file: PathBuf,
    cells: Vec<Cell>,
}

/// Apart in memory, as the lock of one would else lie where that of the next does.
#[repr(align(128))]
struct Cell(Mutex<Held>);

enum Held {
    Nothing,
    Connection(Connection),
    Closed,
}

impl Idle {
    pub(super) fn new(file: PathBuf) -> Self {
        let cells = std::thread::available_parallelism().map_or(2, usize::from) + MORE;
        Self { file, cells: (0..cells).map(|_| Cell(Mutex::new(Held::Nothing))).collect() }
    }

    /// How many connections stay open: as many as can read at the same time.
    pub(super) fn most(&self) -> usize {
        self.cells.len()
    }

    /// Reads on a connection that nobody uses.
    pub(super) fn with<T>(&self, read: impl FnOnce(&Connection) -> Result<T, Fault>) -> Result<T, Error> {
        let Some(mut cell) = self.free() else {
            // More read at once than are worth a connection that stays.
            return Ok(read(&self.open()?)?);
        };
        let connection = match std::mem::replace(&mut *cell, Held::Nothing) {
            Held::Connection(connection) => connection,
            Held::Nothing => self.open()?,
            Held::Closed => {
                *cell = Held::Closed;
                return Err(Error::Closed);
            }
        };
        let read = read(&connection)?;
        *cell = Held::Connection(connection);
        Ok(read)
    }

    /// A cell that nobody uses, the processor's own if possible.
    fn free(&self) -> Option<MutexGuard<'_, Held>> {
        let own = rustix::thread::sched_getcpu() % self.cells.len();
        let (before, from_own) = self.cells.split_at(own);
        from_own.iter().chain(before).find_map(|cell| cell.0.try_lock())
    }

    fn open(&self) -> Result<Connection, Error> {
        Ok(schema::open_reader(&self.file, CACHE_KIB).map_err(Fault::from)?)
    }

    /// Closes all of them, when their readers are done.
    pub(super) fn close(&self) {
        for cell in &self.cells {
            *cell.0.lock() = Held::Closed;
        }
    }
}

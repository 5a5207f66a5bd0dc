//! LMDB: memory-mapped copy-on-write B-tree in C. Its keys end at 511 bytes, where the contract wants 4,096.

use std::path::Path;

use bytes::Bytes;
use lmdb::{Cursor, Database, DatabaseFlags, Environment, EnvironmentFlags, Error, Transaction, WriteFlags};

use crate::grouped::{Tree, Versions, Writes, joined, parted};
use crate::subject::{Failure, Found, Row};

/// Fixed when it is opened; more than this load needs.
const MAP_BYTES: usize = 8 * 1024 * 1024 * 1024;

pub struct Lmdb {
    environment: Environment,
    database: Database,
}

impl Lmdb {
    pub fn open(folder: &Path) -> Result<Self, Failure> {
        let folder = folder.join("lmdb");
        std::fs::create_dir_all(&folder)?;
        // Reading transactions move between the runtime's threads.
        let flags = EnvironmentFlags::NO_TLS;
        let environment =
            Environment::new().set_flags(flags).set_map_size(MAP_BYTES).set_max_readers(126).open(&folder)?;
        let database = environment.create_db(None, DatabaseFlags::empty())?;
        Ok(Self { environment, database })
    }
}

fn present<T>(found: Result<T, Error>) -> Result<Option<T>, Failure> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(Error::NotFound) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

impl Tree for Lmdb {
    fn write(&self, decide: &mut dyn FnMut(&mut Versions<'_>) -> Result<Writes, Failure>) -> Result<(), Failure> {
        let mut begun = self.environment.begin_rw_txn()?;
        let writes = decide(&mut |key| {
            Ok(present(begun.get(self.database, &key))?.map(parted).transpose()?.map(|(version, _)| version))
        })?;
        for (key, written) in &writes {
            match written {
                Some((version, value)) => {
                    begun.put(self.database, &&key[..], &joined(*version, value), WriteFlags::empty())?;
                }
                None => drop(present(begun.del(self.database, &&key[..], None))?),
            }
        }
        Ok(begun.commit()?)
    }

    fn get(&self, key: &[u8]) -> Result<Found, Failure> {
        let begun = self.environment.begin_ro_txn()?;
        present(begun.get(self.database, &key))?.map(parted).transpose()
    }

    fn range(&self, start: &[u8], end: &[u8], rows: usize) -> Result<Vec<Row>, Failure> {
        let begun = self.environment.begin_ro_txn()?;
        let mut cursor = begun.open_ro_cursor(self.database)?;
        let mut taken = Vec::with_capacity(rows);
        for entry in cursor.iter_from(start) {
            let (key, value) = entry?;
            if taken.len() == rows || key >= end {
                break;
            }
            taken.push((Bytes::copy_from_slice(key), parted(value)?.1));
        }
        Ok(taken)
    }
}

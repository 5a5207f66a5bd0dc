//! fjall: log-structured merge tree in Rust.

use std::path::Path;

use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use super::CACHE_BYTES;
use crate::grouped::{Tree, Versions, Writes, joined, parted};
use crate::subject::{Failure, Found, Row};

pub struct Fjall {
    database: Database,
    keys: Keyspace,
}

impl Fjall {
    pub fn open(folder: &Path) -> Result<Self, Failure> {
        let database = Database::builder(folder.join("fjall")).cache_size(CACHE_BYTES as u64).open()?;
        let keys = database.keyspace("kv", KeyspaceCreateOptions::default)?;
        Ok(Self { database, keys })
    }
}

impl Tree for Fjall {
    fn write(&self, decide: &mut dyn FnMut(&mut Versions<'_>) -> Result<Writes, Failure>) -> Result<(), Failure> {
        let writes =
            decide(&mut |key| Ok(self.keys.get(key)?.map(|value| parted(&value)).transpose()?.map(|it| it.0)))?;
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncData));
        for (key, written) in &writes {
            match written {
                Some((version, value)) => batch.insert(&self.keys, &key[..], joined(*version, value)),
                None => batch.remove(&self.keys, &key[..]),
            }
        }
        Ok(batch.commit()?)
    }

    fn get(&self, key: &[u8]) -> Result<Found, Failure> {
        self.keys.get(key)?.map(|value| parted(&value)).transpose()
    }

    fn range(&self, start: &[u8], end: &[u8], rows: usize) -> Result<Vec<Row>, Failure> {
        let mut taken = Vec::with_capacity(rows);
        for entry in self.keys.range(start..end).take(rows) {
            let (key, value) = entry.into_inner()?;
            taken.push((Bytes::copy_from_slice(&key), parted(&value)?.1));
        }
        Ok(taken)
    }
}

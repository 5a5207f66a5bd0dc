//! redb: copy-on-write B-tree in Rust.

use std::path::Path;

use bytes::Bytes;
use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};

use super::CACHE_BYTES;
use crate::grouped::{Tree, Versions, Writes, joined, parted};
use crate::subject::{Failure, Found, Row};

const TABLE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("kv");

pub struct Redb {
    database: Database,
}

impl Redb {
    pub fn open(folder: &Path) -> Result<Self, Failure> {
        let database = Database::builder().set_cache_size(CACHE_BYTES).create(folder.join("redb"))?;
        let begun = database.begin_write()?;
        begun.open_table(TABLE)?;
        begun.commit()?;
        Ok(Self { database })
    }
}

impl Tree for Redb {
    fn write(&self, decide: &mut dyn FnMut(&mut Versions<'_>) -> Result<Writes, Failure>) -> Result<(), Failure> {
        let mut begun = self.database.begin_write()?;
        begun.set_durability(Durability::Immediate)?;
        let mut table = begun.open_table(TABLE)?;
        let writes =
            decide(&mut |key| Ok(table.get(key)?.map(|value| parted(value.value())).transpose()?.map(|it| it.0)))?;
        for (key, written) in &writes {
            match written {
                Some((version, value)) => table.insert(&key[..], &joined(*version, value)[..])?,
                None => table.remove(&key[..])?,
            };
        }
        drop(table);
        Ok(begun.commit()?)
    }

    fn get(&self, key: &[u8]) -> Result<Found, Failure> {
        let table = self.database.begin_read()?.open_table(TABLE)?;
        table.get(key)?.map(|value| parted(value.value())).transpose()
    }

    fn range(&self, start: &[u8], end: &[u8], rows: usize) -> Result<Vec<Row>, Failure> {
        let table = self.database.begin_read()?.open_table(TABLE)?;
        let mut taken = Vec::with_capacity(rows);
        for entry in table.range(start..end)?.take(rows) {
            let (key, value) = entry?;
            taken.push((Bytes::copy_from_slice(key.value()), parted(value.value())?.1));
        }
        Ok(taken)
    }
}

//! SQLite in WAL mode, used raw: the tree that Dunlin's engine uses, without its log, overlay and checksums.
//!
//! `sqlite` has the page size, caches and mapping that Dunlin gives its own tree, `sqlite-large` 64 MB of cache for each
//! connection and a gigabyte mapped. Both copy the library's log at 64 MB, which suits a flush for each batch best.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use parking_lot::Mutex;
use rusqlite::{Connection, OptionalExtension, params};

use crate::grouped::{Tree, Versions, Writes};
use crate::subject::{Failure, Found, Row};

/// As in `crates/store/src/embedded/schema.rs`.
const SAME_READERS: &str = "PRAGMA cache_size = -1024;";

pub struct Sqlite {
    file: PathBuf,
    reader_settings: String,
    writer: Mutex<Connection>,
    readers: Mutex<Vec<Connection>>,
}

impl Sqlite {
    pub fn open(folder: &Path, large: bool) -> Result<Self, Failure> {
        let file = folder.join("sqlite.db");
        let writer = Connection::open(&file)?;
        let (writer_cache, reader_settings) = match large {
            true => (65_536, "PRAGMA cache_size = -65536; PRAGMA mmap_size = 1073741824;"),
            false => (16_384, SAME_READERS),
        };
        writer.execute_batch(&format!(
            "PRAGMA page_size = 4096; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
             PRAGMA wal_autocheckpoint = 16000; PRAGMA temp_store = MEMORY; PRAGMA cache_size = -{writer_cache};
             CREATE TABLE IF NOT EXISTS kv (key BLOB PRIMARY KEY, version INTEGER NOT NULL, value BLOB NOT NULL)
             STRICT, WITHOUT ROWID;"
        ))?;
        let reader_settings = reader_settings.to_owned();
        Ok(Self { file, reader_settings, writer: Mutex::new(writer), readers: Mutex::default() })
    }

    fn read<T>(&self, read: impl FnOnce(&Connection) -> Result<T, Failure>) -> Result<T, Failure> {
        let idle = self.readers.lock().pop();
        let connection = match idle {
            Some(connection) => connection,
            None => {
                let connection = Connection::open(&self.file)?;
                connection.execute_batch(&self.reader_settings)?;
                connection
            }
        };
        let found = read(&connection)?;
        self.readers.lock().push(connection);
        Ok(found)
    }
}

impl Tree for Sqlite {
    fn write(&self, decide: &mut dyn FnMut(&mut Versions<'_>) -> Result<Writes, Failure>) -> Result<(), Failure> {
        let writer = self.writer.lock();
        writer.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        let mut version = writer.prepare_cached("SELECT version FROM kv WHERE key = ?1")?;
        let mut put = writer.prepare_cached("INSERT OR REPLACE INTO kv VALUES (?1, ?2, ?3)")?;
        let mut delete = writer.prepare_cached("DELETE FROM kv WHERE key = ?1")?;
        let writes = decide(&mut |key| {
            let found = version.query_row([key], |row| row.get::<_, i64>(0)).optional()?;
            Ok(found.map(i64::cast_unsigned))
        })?;
        for (key, written) in &writes {
            match written {
                Some((version, value)) => put.execute(params![&key[..], version.cast_signed(), &value[..]])?,
                None => delete.execute([&key[..]])?,
            };
        }
        writer.prepare_cached("COMMIT")?.execute([])?;
        Ok(())
    }

    fn get(&self, key: &[u8]) -> Result<Found, Failure> {
        self.read(|connection| {
            let mut statement = connection.prepare_cached("SELECT version, value FROM kv WHERE key = ?1")?;
            let mut rows = statement.query([key])?;
            let Some(row) = rows.next()? else { return Ok(None) };
            let value = Bytes::copy_from_slice(row.get_ref(1)?.as_blob()?);
            Ok(Some((row.get::<_, i64>(0)?.cast_unsigned(), value)))
        })
    }

    fn range(&self, start: &[u8], end: &[u8], rows: usize) -> Result<Vec<Row>, Failure> {
        self.read(|connection| {
            let mut statement = connection
                .prepare_cached("SELECT key, value FROM kv WHERE key >= ?1 AND key < ?2 ORDER BY key LIMIT ?3")?;
            let mut found = statement.query(params![start, end, rows as i64])?;
            let mut taken = Vec::with_capacity(rows);
            while let Some(row) = found.next()? {
                let blob = |index| Ok::<_, Failure>(Bytes::copy_from_slice(row.get_ref(index)?.as_blob()?));
                taken.push((blob(0)?, blob(1)?));
            }
            Ok(taken)
        })
    }
}

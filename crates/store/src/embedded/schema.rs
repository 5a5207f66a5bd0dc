//! The tree's file: its tables, its settings, and how an entry lies in it.
//!
//! | table  | columns                                             | holds                                           |
//! |--------|-----------------------------------------------------|-------------------------------------------------|
//! | `kv`   | key, version, checksum, value; in the order of keys | the entries                                     |
//! | `meta` | name, number                                        | `format`; `version`: the last commit wholly within; |
//! |        |                                                     | `mark_1`, `mark_2`: the halves of the log's mark    |
//!
//! Format 1 had no log beside the file, so its tree is complete: it is opened with an empty log, and format 2 it is.
//!
//! Invariants
//!   1. Every entry carries a CRC-32 over key, version and value; none is given out without it being right.
//!   2. A file of a newer format is never opened, one of another program neither.
//!   3. The library is the bundled one: distributions still ship releases that can corrupt a log which several
//!      connections checkpoint.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use base::Random;
use bytes::BytesMut;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, Row, params};

use super::OpenError;
use super::record::Mark;
use crate::contract::{Entry, Error, Version};

/// The newest format that this code knows. Changes with the meaning of anything in the file.
pub(super) const FORMAT: i64 = 2;
/// Says in the file's header whose it is ("dunl").
const APPLICATION_ID: i32 = 0x6475_6e6c;
/// Bytes of a page of the file and of its log.
pub(super) const PAGE_BYTES: u64 = 4_096;
/// At this length the library's own log starts anew. It always is a little longer by then; cut back to this length each
/// time, it would give blocks to the file system and take them again. So it is cut only from twice that.
pub(super) const WAL_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Memory for pages of the writing connection. Those of a portion must fit with room to spare: what does not is written
/// into the library's log twice.
const WRITER_CACHE_KIB: u64 = 16_384;

/// Why a statement failed, as far as somebody acts on it.
#[derive(Debug)]
pub(super) enum Fault {
    /// No room; nothing was written.
    DiskFull,
    /// What was read cannot be right.
    Corrupt(String),
    /// Anything else; above all failed writes and flushes.
    Broken(String),
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::DiskFull,
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Corrupt(error.to_string()),
            _ => Self::Broken(error.to_string()),
        }
    }
}

impl From<std::io::Error> for Fault {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Self::DiskFull,
            _ => Self::Broken(error.to_string()),
        }
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::DiskFull => Self::DiskFull,
            Fault::Corrupt(text) => Self::Corrupt(text),
            Fault::Broken(text) => Self::Io(text),
        }
    }
}

/// Opens the file for writing, makes it when there is none, and returns the last commit in it.
pub(super) fn open_writer(
    file: &Path,
    size_bytes_max: Option<u64>,
    wal_bytes: u64,
) -> Result<(Connection, Version), OpenError> {
    // Made here and not by the library, so that nobody else may ever read it. The log inherits these rights.
    OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(file)?;
    let connection = Connection::open_with_flags(file, flags(OpenFlags::SQLITE_OPEN_READ_WRITE))?;
    let format = format_of(&connection)?;
    if let Some(found) = format.filter(|found| *found > FORMAT) {
        return Err(OpenError::NewerFormat { found, known: FORMAT });
    }
    connection.execute_batch(&format!(
        // Checkpoints are run by hand, where they do not stand in the way of a commit.
        "PRAGMA page_size = {PAGE_BYTES}; PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;
         PRAGMA wal_autocheckpoint = 0; PRAGMA journal_size_limit = {};
         PRAGMA temp_store = MEMORY; PRAGMA cache_size = -{WRITER_CACHE_KIB}; PRAGMA cell_size_check = ON;",
        2 * wal_bytes
    ))?;
    if let Some(bytes) = size_bytes_max {
        connection.execute_batch(&format!("PRAGMA max_page_count = {}", bytes / PAGE_BYTES))?;
    }
    match format {
        None => create(&connection)?,
        Some(FORMAT) => {}
        Some(_) => connection.execute_batch(&format!(
            "PRAGMA synchronous = FULL;
             BEGIN IMMEDIATE; DELETE FROM meta WHERE name = 'flushed';
             UPDATE meta SET number = {FORMAT} WHERE name = 'format'; COMMIT;
             PRAGMA synchronous = NORMAL;"
        ))?,
    }
    // The writer never waits for a reader: what it cannot do now, it does later.
    connection.busy_timeout(Duration::ZERO)?;
    let version = version_of(&connection)?;
    Ok((connection, version))
}

/// Opens the file for reading, with so much memory for its pages. The writer has opened it before.
pub(super) fn open_reader(file: &Path, cache_kib: u64) -> Result<Connection, rusqlite::Error> {
    let connection = Connection::open_with_flags(file, flags(OpenFlags::SQLITE_OPEN_READ_ONLY))?;
    connection.execute_batch(&format!(
        "PRAGMA cache_size = -{cache_kib}; PRAGMA temp_store = MEMORY; PRAGMA cell_size_check = ON;"
    ))?;
    Ok(connection)
}

/// Each connection belongs to one thread at a time, by Rust's rules: the library need not lock.
fn flags(access: OpenFlags) -> OpenFlags {
    access | OpenFlags::SQLITE_OPEN_NO_MUTEX
}

/// The format of a file that has one; none for an empty file.
fn format_of(connection: &Connection) -> Result<Option<i64>, OpenError> {
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if tables == 0 {
        return Ok(None);
    }
    let owner: i32 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    if owner != APPLICATION_ID {
        return Err(OpenError::Foreign);
    }
    Ok(Some(connection.query_row("SELECT number FROM meta WHERE name = 'format'", [], |row| row.get(0))?))
}

fn create(connection: &Connection) -> Result<(), rusqlite::Error> {
    connection.execute_batch(&format!(
        "BEGIN IMMEDIATE;
         PRAGMA application_id = {APPLICATION_ID};
         CREATE TABLE meta (name TEXT PRIMARY KEY, number INTEGER NOT NULL) STRICT, WITHOUT ROWID;
         CREATE TABLE kv (key BLOB PRIMARY KEY, version INTEGER NOT NULL, checksum INTEGER NOT NULL,
                          value BLOB NOT NULL) STRICT, WITHOUT ROWID;
         INSERT INTO meta VALUES ('format', {FORMAT}), ('version', 0);
         COMMIT;"
    ))
}

/// The last commit up to which the connection's current state is whole.
pub(super) fn version_of(connection: &Connection) -> Result<Version, rusqlite::Error> {
    let mut statement = connection.prepare_cached("SELECT number FROM meta WHERE name = 'version'")?;
    statement.query_row([], |row| row.get::<_, i64>(0)).map(i64::cast_unsigned)
}

/// The mark of the records of the store's log, made when there is none; on disk when this returns.
pub(super) fn mark(connection: &Connection, random: &dyn Random) -> Result<Mark, rusqlite::Error> {
    let half = |name: &str| {
        let sql = "SELECT number FROM meta WHERE name = ?1";
        connection.query_row(sql, [name], |row| row.get::<_, i64>(0)).optional()
    };
    if let (Some(first), Some(second)) = (half("mark_1")?, half("mark_2")?) {
        return Ok(joined(first, second));
    }
    let (first, second) = (random.next_u64().cast_signed(), random.next_u64().cast_signed());
    connection.execute_batch(&format!(
        "PRAGMA synchronous = FULL;
         BEGIN IMMEDIATE; INSERT OR REPLACE INTO meta VALUES ('mark_1', {first}), ('mark_2', {second}); COMMIT;
         PRAGMA synchronous = NORMAL;"
    ))?;
    Ok(joined(first, second))
}

fn joined(first: i64, second: i64) -> Mark {
    let mut mark = Mark::default();
    mark[..8].copy_from_slice(&first.to_le_bytes());
    mark[8..].copy_from_slice(&second.to_le_bytes());
    mark
}

/// Sets it.
pub(super) fn set_version(connection: &Connection, version: Version) -> Result<(), rusqlite::Error> {
    let mut statement = connection.prepare_cached("UPDATE meta SET number = ?1 WHERE name = 'version'")?;
    statement.execute([version.cast_signed()]).map(drop)
}

/// How many bytes the file may still grow by, free pages within it included.
pub(super) fn free_bytes(connection: &Connection) -> Result<u64, rusqlite::Error> {
    let number = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let pages = number("max_page_count")? - number("page_count")? + number("freelist_count")?;
    Ok(pages.max(0).cast_unsigned() * PAGE_BYTES)
}

/// Writes an entry.
pub(super) fn put(connection: &Connection, key: &[u8], version: Version, value: &[u8]) -> Result<(), rusqlite::Error> {
    let mut statement = connection.prepare_cached("INSERT OR REPLACE INTO kv VALUES (?1, ?2, ?3, ?4)")?;
    statement.execute(params![key, version.cast_signed(), checksum(key, version, value), value]).map(drop)
}

/// Removes an entry, if it is there.
pub(super) fn delete(connection: &Connection, key: &[u8]) -> Result<(), rusqlite::Error> {
    connection.prepare_cached("DELETE FROM kv WHERE key = ?1")?.execute([key]).map(drop)
}

/// Reads an entry.
pub(super) fn get(connection: &Connection, key: &[u8]) -> Result<Option<Entry>, Fault> {
    let mut statement = connection.prepare_cached("SELECT key, version, checksum, value FROM kv WHERE key = ?1")?;
    let mut rows = statement.query([key])?;
    rows.next()?.map(|row| entry(row, &mut Arena::default())).transpose()
}

/// Reads the version of an entry, without its value.
pub(super) fn get_version(connection: &Connection, key: &[u8]) -> Result<Option<Version>, Fault> {
    let mut statement = connection.prepare_cached("SELECT version FROM kv WHERE key = ?1")?;
    let version = statement.query_row([key], |row| row.get::<_, i64>(0)).optional()?;
    Ok(version.map(i64::cast_unsigned))
}

/// The memory of entries that are read together: one piece for many, as each piece costs about as much as reading one.
#[derive(Debug, Default)]
pub(super) struct Arena {
    piece: BytesMut,
    /// Bytes of the next piece.
    next: usize,
}

impl Arena {
    /// Whoever keeps one entry keeps its whole piece, so pieces are small, and a long entry has one of its own.
    const PIECE_MAX: usize = 8 * 1024;

    /// Copies an entry and verifies its checksum: in this order, as the copy lies in one piece as the checksum wants it.
    fn entry(&mut self, key: &[u8], version: Version, value: &[u8], checksum: i64) -> Result<Entry, Fault> {
        let value_at = key.len() + size_of::<Version>();
        let bytes = value_at + value.len();
        if self.piece.capacity() < bytes {
            self.piece = BytesMut::with_capacity(self.next.max(bytes));
            self.next = (2 * self.piece.capacity()).min(Self::PIECE_MAX);
        }
        self.piece.extend_from_slice(key);
        self.piece.extend_from_slice(&version.to_le_bytes());
        self.piece.extend_from_slice(value);
        let mut all = self.piece.split().freeze();
        if i64::from(crc32fast::hash(&all)) != checksum {
            return Err(Fault::Corrupt(format!("the checksum of key {} is wrong", key.escape_ascii())));
        }
        let value = all.split_off(value_at);
        all.truncate(key.len());
        Ok(Entry { key: all, value, version })
    }
}

/// The entry of a row `key, version, checksum, value`.
pub(super) fn entry(row: &Row<'_>, arena: &mut Arena) -> Result<Entry, Fault> {
    let blob = |index| -> Result<&[u8], Fault> {
        row.get_ref(index)?.as_blob().map_err(|error| Fault::Corrupt(error.to_string()))
    };
    arena.entry(blob(0)?, row.get::<_, i64>(1)?.cast_unsigned(), blob(3)?, row.get(2)?)
}

/// Over key, version and value, one after the other.
fn checksum(key: &[u8], version: Version, value: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(&version.to_le_bytes());
    hasher.update(value);
    hasher.finalize()
}

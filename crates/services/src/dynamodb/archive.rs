//! Removes what nobody can ask for any more: records of histories beyond their tables' recovery, and backups whose time is
//! over.
//!
//! Invariants
//!   1. A record goes in a commit that expects the record of its table: nobody begins to need it meanwhile.
//!   2. Every step may be done by several nodes, and again.

use store::{Entry, Error as StoreError, Range, Txn};

use super::error::{Error, Result};
use super::ops::Shared;
use super::worker::now_and_then;
use super::{history, jobs, keys};

/// Most bytes of records that one commit looks at.
const BYTES: usize = 4 * 1024 * 1024;
/// Histories and backups that one read brings.
const ROWS: usize = 100;

/// Does a round now and then, until the store is closed.
pub(super) async fn run(shared: &Shared) {
    now_and_then("removing old records of tables' histories", || round(shared)).await;
}

/// Removes what is old by now; returns how many records and backups.
pub(super) async fn round(shared: &Shared) -> Result<usize> {
    let mut removed = 0;
    let mut range = keys::history_owners().rows(ROWS);
    loop {
        let page = shared.store.range(&range).await?;
        for owner in &page.entries {
            removed += trim(shared, owner).await?;
        }
        match page.entries.last() {
            Some(last) if page.more => range = range.beyond(last.key.clone()),
            _ => break,
        }
    }
    let mut range = keys::all_backups().rows(ROWS);
    loop {
        let page = shared.store.range(&range).await?;
        for entry in &page.entries {
            removed += usize::from(expire(shared, entry).await?);
        }
        match page.entries.last() {
            Some(last) if page.more => range = range.beyond(last.key.clone()),
            _ => return Ok(removed),
        }
    }
}

/// Removes the records of a history that are useless by now.
async fn trim(shared: &Shared, owner: &Entry) -> Result<usize> {
    let number = keys::owned_history(&owner.key).ok_or(Error::Corrupt("owner of a history"))?;
    let mut removed = 0;
    loop {
        let Some(found) = shared.found(&owner.value).await? else { return Ok(removed) };
        let is_its = found.table.history.as_ref().is_some_and(|history| history.number == number);
        let border_ms = history::useless_before_ms(&found.table, shared.clock.now_ms()).filter(|_| is_its);
        let Some(border_ms) = border_ms else { return Ok(removed) };
        let range = Range::prefix(keys::history(number)).rows(shared.config.removal_rows).bytes(BYTES);
        let page = shared.store.range(&range).await?;
        let is_old = |entry: &Entry| history::time_of(&entry.value).is_none_or(|at_ms| at_ms <= border_ms);
        let old: Vec<_> = page.entries.into_iter().take_while(is_old).collect();
        if old.is_empty() {
            return Ok(removed);
        }
        let count = old.len();
        let txn = old.into_iter().fold(found.expect(Txn::new()), |txn, entry| txn.delete(entry.key));
        // Losing these on a crash only means doing them again.
        match shared.store.commit(txn.relaxed()).await {
            Ok(_) => removed += count,
            Err(StoreError::Conflict | StoreError::TooOld) => return Ok(removed),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Removes a backup whose time is over, unless somebody makes a table of it; returns whether it is gone.
async fn expire(shared: &Shared, entry: &Entry) -> Result<bool> {
    let backup = jobs::backup(entry)?;
    let over = backup.expires_at_ms().is_some_and(|at_ms| at_ms <= shared.clock.now_ms());
    if !over || !backup.readers.is_empty() {
        return Ok(false);
    }
    let txn = Txn::new()
        .expect_version(entry.key.clone(), entry.version)
        .delete(entry.key.clone())
        .put(keys::garbage(backup.generation), Vec::new());
    match shared.store.commit(txn).await {
        Ok(_) => Ok(true),
        Err(StoreError::Conflict | StoreError::TooOld) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

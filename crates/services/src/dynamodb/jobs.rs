//! Backups and restores at work: items are copied from one generation to another in the background, a bounded number in
//! each commit, while the table that they come from is read and written.
//!
//! A table is copied page by page as it is, and then what came meanwhile is undone by its history (`history`), so that the
//! copy is one state of it: the one at which the backup was asked for, or the one of a point in time.
//!
//! Invariants
//!   1. How far a job is lies in the commit of each of its pages, which expects it as it was read: a crash loses nothing,
//!      and of two nodes at the same page one does it. So counters are exact.
//!   2. No writer of the source waits for a job: its pages write nothing that a change of an item there expects.
//!   3. The last commit of a job makes its target usable and lets go of its source.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use store::{Entry, Error as StoreError, Range, Txn};

use super::backup::Backup;
use super::error::{Error, Result};
use super::history::{self, Cut};
use super::ops::{Found, ItemWrite, Shared};
use super::table::{ItemKey, Table};
use super::value::{Item, item_size};
use super::worker::sweep_whenever;
use super::{item, keys};

/// Most bytes of items or records that one page reads.
const PAGE_BYTES_MAX: usize = 1024 * 1024;

/// Where items come from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Source {
    /// A table, by its name.
    Table(String),
    /// A backup: its table's name, and its id.
    Backup(String, String),
}

/// Where items go to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Target {
    /// A backup: its table's name, and its id.
    Backup(String, String),
    /// A table, by its name.
    Table(String),
}

/// A copy of all items of a generation.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Job {
    pub(super) account: String,
    pub(super) region: String,
    pub(super) source: Source,
    pub(super) target: Target,
    /// The generations.
    pub(super) from: u64,
    pub(super) to: u64,
    /// The history that is undone after the copy, and how far.
    pub(super) undo: Option<(u64, Cut)>,
    #[serde(default)]
    phase: Phase,
    /// What the phase looked at last, base64 of its key; nothing yet if it is empty.
    #[serde(default)]
    after: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
enum Phase {
    #[default]
    Copy,
    Undo,
    Finish,
}

impl Job {
    /// A job that has not begun.
    pub(super) fn new(place: (String, String), source: Source, target: Target, generations: (u64, u64)) -> Self {
        let ((account, region), (from, to)) = (place, generations);
        Self { account, region, source, target, from, to, undo: None, phase: Phase::Copy, after: String::new() }
    }

    /// Appends the job to the commit that asks for it.
    pub(super) fn offer(&self, txn: Txn, number: u64) -> Result<Txn> {
        Ok(txn.put(keys::job(number), encode(self)?))
    }

    /// The key that the phase goes on after, if it has begun.
    fn after(&self) -> Result<Option<Bytes>> {
        if self.after.is_empty() {
            return Ok(None);
        }
        let key = BASE64.decode(&self.after).map_err(|_| Error::Corrupt("job of a backup"))?;
        Ok(Some(key.into()))
    }

    fn went_on(&self, after: &[u8]) -> Self {
        Self { after: BASE64.encode(after), ..self.clone() }
    }

    fn began(&self, phase: Phase) -> Self {
        Self { phase, after: String::new(), ..self.clone() }
    }
}

fn encode(job: &Job) -> Result<Vec<u8>> {
    serde_json::to_vec(job).map_err(|_| Error::Corrupt("job of a backup"))
}

/// Gives a table a history, if it has none, and appends what that takes.
pub(super) fn begin_history(txn: Txn, table: &mut Table, number: u64) -> Txn {
    if table.history.is_some() {
        return txn;
    }
    table.history = Some(history::History { number });
    txn.put(keys::history_owner(number), keys::table(&table.account, &table.region, &table.name))
}

/// Takes a table's history away if nobody needs it, and appends what that takes.
pub(super) fn end_history(txn: Txn, table: &mut Table) -> Txn {
    if history::is_needed(table) {
        return txn;
    }
    match table.history.take() {
        Some(history) => forget_history(txn, history.number),
        None => txn,
    }
}

/// Appends the removal of a history.
pub(super) fn forget_history(txn: Txn, number: u64) -> Txn {
    txn.delete(keys::history_owner(number)).put(keys::garbage_history(number), Vec::new())
}

/// Does what there is to do, until the store is closed.
pub(super) async fn run(shared: &Shared) {
    sweep_whenever(shared, &keys::job_prefix(), "a backup or a restore", || sweep(shared)).await;
}

/// Does the next page of every job; returns how many jobs there were.
pub(super) async fn sweep(shared: &Shared) -> Result<usize> {
    let jobs = shared.store.range(&keys::jobs().rows(100)).await?.entries;
    let mut failed = None;
    for entry in &jobs {
        // One that fails holds up no other.
        failed = go_on(shared, entry).await.err().or(failed);
    }
    failed.map_or(Ok(jobs.len()), Err)
}

/// Does the next page of a job.
async fn go_on(shared: &Shared, entry: &Entry) -> Result<()> {
    let job = serde_json::from_slice(&entry.value).map_err(|_| Error::Corrupt("job of a backup"))?;
    let mut step = Step { shared, entry, job, rows: shared.config.removal_rows };
    // A page that writes more than a commit takes, or that meets others, is made smaller.
    while !step.page().await? && step.rows > 1 {
        step.rows = (step.rows / 4).max(1);
    }
    Ok(())
}

/// One page of a job.
struct Step<'a> {
    shared: &'a Shared,
    entry: &'a Entry,
    job: Job,
    rows: usize,
}

impl Step<'_> {
    /// Returns whether it was done.
    async fn page(&self) -> Result<bool> {
        let txn = Txn::new().expect_version(self.entry.key.clone(), self.entry.version);
        match self.job.phase {
            Phase::Copy => self.copy(txn).await,
            Phase::Undo => self.undo(txn).await,
            Phase::Finish => self.finish(txn).await,
        }
    }

    async fn commit(&self, txn: Txn) -> Result<bool> {
        match self.shared.store.commit(txn).await {
            Ok(_) => Ok(true),
            Err(StoreError::Conflict | StoreError::TooOld) => Ok(false),
            Err(StoreError::TooLarge(_)) if self.rows > 1 => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Commits a page. Losing it on a crash only means doing it again.
    async fn goes_on(&self, txn: Txn, job: &Job) -> Result<bool> {
        self.commit(txn.put(self.entry.key.clone(), encode(job)?).relaxed()).await
    }

    fn page_of(&self, range: Range) -> Result<Range> {
        let range = range.rows(self.rows).bytes(PAGE_BYTES_MAX);
        Ok(match self.job.after()? {
            Some(after) => range.beyond(after),
            None => range,
        })
    }

    async fn copy(&self, mut txn: Txn) -> Result<bool> {
        let range = self.page_of(keys::items(self.job.from))?;
        let entries = self.shared.store.range(&range).await?.entries;
        let Some(last) = entries.last() else {
            let next = if self.job.undo.is_some() { Phase::Undo } else { Phase::Finish };
            return self.goes_on(txn, &self.job.began(next)).await;
        };
        let target = self.target().await?;
        for entry in &entries {
            let rest = keys::item_rest(&entry.key);
            txn = self.set(txn, target.as_ref(), rest, None, Some(&entry.value)).await?;
        }
        self.goes_on(txn, &self.job.went_on(&last.key)).await
    }

    async fn undo(&self, mut txn: Txn) -> Result<bool> {
        let Some((number, cut)) = self.job.undo else {
            return self.goes_on(txn, &self.job.began(Phase::Finish)).await;
        };
        let range = self.page_of(Range::prefix(keys::history(number)).reversed())?;
        let page = self.shared.store.range(&range).await?;
        let mut undone = self.job.after()?;
        // Of several changes of an item the earliest says what it was.
        let mut items = BTreeMap::new();
        let mut more = page.more;
        for entry in &page.entries {
            let commit_of = |key: &Bytes| keys::place_of(key).map(|place| place.commit);
            let commit = commit_of(&entry.key).ok_or(Error::Corrupt("key of a history"))?;
            let before = history::decode(&entry.value).ok_or(Error::Corrupt("record of a history"))?;
            if !cut.undoes(commit, before.at_ms, undone.as_ref().and_then(commit_of)) {
                more = false;
                break;
            }
            items.insert(before.key, before.item);
            undone = Some(entry.key.clone());
        }
        let target = self.target().await?;
        for (rest, item) in &items {
            let is = self.shared.store.get(&keys::item_of_rest(self.job.to, rest)).await?;
            txn = self.set(txn, target.as_ref(), rest, is.as_ref(), item.as_ref()).await?;
        }
        let next = match undone {
            Some(undone) if more => self.job.went_on(&undone),
            _ => self.job.began(Phase::Finish),
        };
        self.goes_on(txn, &next).await
    }

    fn table_key(&self, name: &str) -> Bytes {
        keys::table(&self.job.account, &self.job.region, name)
    }

    fn backup_key(&self, table: &str, id: &str) -> Bytes {
        keys::backup(&self.job.account, &self.job.region, table, id)
    }

    /// The table that items go to, if they do not go to a backup.
    async fn target(&self) -> Result<Option<Found>> {
        let Target::Table(name) = &self.job.target else { return Ok(None) };
        let found = self.shared.found(&self.table_key(name)).await?;
        let found = found.filter(|found| found.table.generation == self.job.to);
        found.map(Some).ok_or(Error::Corrupt("table that is being restored"))
    }

    /// Appends what makes the item at `rest`, which is stored as `is` in the target, what `wanted` says.
    async fn set(
        &self,
        txn: Txn,
        target: Option<&Found>,
        rest: &[u8],
        is: Option<&Entry>,
        wanted: Option<&Bytes>,
    ) -> Result<Txn> {
        let key = keys::item_of_rest(self.job.to, rest);
        let decoded = |bytes: &Bytes| item::decode(bytes).ok_or(Error::Corrupt("item"));
        let before = is.map(|entry| decoded(&entry.value)).transpose()?;
        let after = wanted.map(decoded).transpose()?;
        let Some(found) = target else {
            return Ok(set_in_backup(txn, self.job.to, key, before.as_ref(), after.as_ref().zip(wanted)));
        };
        let attributes = after.as_ref().or(before.as_ref()).map(|item| found.table.key_of(item)).unwrap_or_default();
        let key = ItemKey { store: key, attributes };
        let write = ItemWrite::new(found, &key, is, before.as_ref(), after.as_ref());
        self.shared.write_item(txn, write).await
    }

    /// Makes the target usable, and lets go of the source.
    async fn finish(&self, txn: Txn) -> Result<bool> {
        let number = keys::owned_job(&self.entry.key).ok_or(Error::Corrupt("job of a backup"))?;
        let mut txn = txn.delete(self.entry.key.clone());
        txn = match &self.job.target {
            Target::Backup(table, id) => {
                let available = |backup: &mut Backup| backup.available = true;
                change_backup(self.shared, txn, self.backup_key(table, id), available).await?
            }
            Target::Table(_) => match self.target().await? {
                Some(found) => {
                    let mut table = (*found.table).clone();
                    if let Some(restored) = &mut table.restored {
                        restored.in_progress = false;
                    }
                    found.put_record(txn, &table)?
                }
                None => txn,
            },
        };
        txn = match &self.job.source {
            Source::Backup(table, id) => {
                let let_go = |backup: &mut Backup| backup.readers.retain(|reader| *reader != number);
                change_backup(self.shared, txn, self.backup_key(table, id), let_go).await?
            }
            Source::Table(name) => match self.shared.found(&self.table_key(name)).await? {
                Some(found) if found.table.generation == self.job.from => {
                    let mut table = (*found.table).clone();
                    table.holds.retain(|hold| hold.job != number);
                    let txn = end_history(txn, &mut table);
                    found.put_record(txn, &table)?
                }
                _ => txn,
            },
        };
        self.commit(txn).await
    }
}

/// Appends a change of an item of a backup.
fn set_in_backup(
    mut txn: Txn,
    generation: u64,
    key: Bytes,
    before: Option<&Item>,
    after: Option<(&Item, &Bytes)>,
) -> Txn {
    let size = |item: Option<&Item>| item.map_or(0, |item| i64::try_from(item_size(item)).unwrap_or(i64::MAX));
    let count = i64::from(after.is_some()) - i64::from(before.is_some());
    let bytes = size(after.map(|(item, _)| item)) - size(before);
    if count != 0 {
        txn = txn.add(keys::count(generation), count);
    }
    if bytes != 0 {
        txn = txn.add(keys::size(generation), bytes);
    }
    match after {
        Some((_, value)) => txn.put(key, value.clone()),
        None => txn.delete(key),
    }
}

/// Reads a stored backup.
pub(super) fn backup(entry: &Entry) -> Result<Backup> {
    serde_json::from_slice(&entry.value).map_err(|_| Error::Corrupt("backup"))
}

/// Appends a change of a backup's record, if it is there.
async fn change_backup(shared: &Shared, txn: Txn, key: Bytes, change: impl FnOnce(&mut Backup)) -> Result<Txn> {
    let Some(entry) = shared.store.get(&key).await? else { return Ok(txn) };
    let mut changed = backup(&entry)?;
    change(&mut changed);
    put_backup(txn, key, Some(&entry), &changed)
}

/// Appends a backup's record, on condition that it is still as it was read.
pub(super) fn put_backup(txn: Txn, key: Bytes, is: Option<&Entry>, backup: &Backup) -> Result<Txn> {
    let record = serde_json::to_vec(backup).map_err(|_| Error::Corrupt("backup"))?;
    Ok(txn.expect_unchanged(key.clone(), is).put(key, record))
}

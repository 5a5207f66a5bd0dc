//! From the ring into the store, at least once a second and exactly once each.
//!
//! A fold commits in batches. Each batch carries its chunks, its sums and the boot's new last sequence, on condition that
//! the last sequence is the one that was read: a batch that was committed before (by this process, or before a crash)
//! is recognised by its sequences and dropped.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use base::Clock;
use model::{Ending, FunctionRef, UsageRecord};
use store::{Store, Txn, transact};

use super::keys::{self, Field, HOUR_MS};
use super::ring::{self, FORMAT, Numbered, Taken};
use super::{Error, Usage};

/// Most records of one commit: some 250 bytes each, well within a transaction and a value.
const BATCH: usize = 2_000;
const EVERY: Duration = Duration::from_millis(500);
/// Between two rounds of forgetting.
const PRUNE_EVERY: Duration = Duration::from_secs(3_600);

/// The state of folding.
pub(super) struct Folder {
    boot_id: String,
    /// What a failed fold took and the store does not have yet.
    left: Option<Taken>,
}

impl Folder {
    pub(super) fn new(boot_id: &str) -> Self {
        Self { boot_id: boot_id.to_owned(), left: None }
    }
}

impl Usage {
    /// Folds until `stop` ends, then once more; in between, forgets what is old. A failing store is tried again; nothing
    /// is lost meanwhile.
    pub async fn run(&self, stop: impl Future<Output = ()> + Send) {
        let mut stop = std::pin::pin!(stop);
        let mut prune_at = Instant::now();
        loop {
            let stopped = tokio::select! {
                () = &mut stop => true,
                () = tokio::time::sleep(EVERY) => false,
                () = self.hurry.notified() => false,
            };
            if let Err(error) = self.fold().await {
                tracing::error!(%error, "usage records wait in the ring: the store does not take them");
            }
            if stopped {
                return;
            }
            if prune_at <= Instant::now() {
                let more = self.prune().await.unwrap_or_else(|error| {
                    tracing::warn!(%error, "old usage records could not be removed; the next round tries again");
                    false
                });
                prune_at = Instant::now() + if more { EVERY } else { PRUNE_EVERY };
            }
        }
    }

    /// Brings all records made so far into the store.
    pub async fn fold(&self) -> Result<(), Error> {
        let mut folder = self.folder.lock().await;
        // Twice: what a failed fold left, then what came since.
        for _ in 0..2 {
            if folder.left.is_none() {
                folder.left = self.ring.take();
            }
            let Some(taken) = &folder.left else { return Ok(()) };
            fold_records(&*self.store, &folder.boot_id, &taken.records, self.clock.now_ms()).await?;
            self.ring.empty(taken.file)?;
            folder.left = None;
        }
        Ok(())
    }
}

/// Folds what boots that are no more have left, and removes their files.
pub(super) async fn fold_dead_boots(
    rings: &Path,
    boot_id: &str,
    store: &dyn Store,
    clock: &dyn Clock,
) -> Result<(), Error> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::Io { path, source }
    };
    let mut boots: BTreeMap<String, (Vec<PathBuf>, Vec<Numbered>)> = BTreeMap::new();
    for (boot, path) in ring::left_by_boots(rings).map_err(io(rings))? {
        if boot == boot_id {
            return Err(Error::Damaged(format!("the boot id {boot_id} was used before")));
        }
        let bytes = std::fs::read(&path).map_err(io(&path))?;
        let (paths, records) = boots.entry(boot).or_default();
        records.extend(ring::read_frames(&bytes));
        paths.push(path);
    }
    for (boot, (paths, mut records)) in boots {
        // The two files were used in turn; sequences are their common order.
        records.sort_by_key(|(sequence, _)| *sequence);
        fold_records(store, &boot, &records, clock.now_ms()).await?;
        for path in paths {
            std::fs::remove_file(&path).map_err(io(&path))?;
        }
        // Without its files, nothing of the boot can come again: not after a loss of power either, which may bring back
        // a file whose folder was not flushed.
        std::fs::File::open(rings).and_then(|folder| folder.sync_all()).map_err(io(rings))?;
        store.commit(Txn::new().delete(keys::boot(&boot)).relaxed()).await?;
    }
    Ok(())
}

async fn fold_records(store: &dyn Store, boot_id: &str, records: &[Numbered], now_ms: u64) -> Result<(), Error> {
    for batch in records.chunks(BATCH) {
        transact(store, |snapshot| async move {
            let key = keys::boot(boot_id);
            let entry = snapshot.get(&key).await?;
            let folded = match &entry {
                Some(entry) => u64::from_le_bytes(
                    entry.value[..].try_into().map_err(|_| Error::Damaged("a boot's last sequence".into()))?,
                ),
                None => 0,
            };
            let fresh: Vec<&Numbered> = batch.iter().filter(|(sequence, _)| *sequence > folded).collect();
            let Some((last, _)) = fresh.last() else { return Ok((Txn::new(), ())) };
            let txn = Txn::new().expect_unchanged(key.clone(), entry.as_ref());
            let txn = txn.put(key, last.to_le_bytes().to_vec());
            Ok::<_, Error>((with_records(txn, boot_id, &fresh, now_ms)?, ()))
        })
        .await?;
    }
    Ok(())
}

/// What a function used in an hour, within one batch.
#[derive(Default)]
struct Part<'a> {
    first: u64,
    records: Vec<&'a UsageRecord>,
}

fn with_records(mut txn: Txn, boot_id: &str, batch: &[&Numbered], now_ms: u64) -> Result<Txn, Error> {
    let mut parts: BTreeMap<(u64, &FunctionRef), Part<'_>> = BTreeMap::new();
    for (sequence, record) in batch {
        let part = parts.entry((record.started_at_ms / HOUR_MS, &record.function)).or_default();
        if part.records.is_empty() {
            part.first = *sequence;
        }
        part.records.push(record);
    }
    for ((hour, function), part) in parts {
        let value =
            postcard::to_extend(&part.records, vec![FORMAT]).map_err(|error| Error::Damaged(error.to_string()))?;
        txn = txn.put(keys::chunk(function, hour, now_ms, boot_id, part.first), value);
        for field in Field::ALL {
            let sum: u64 = part.records.iter().map(|record| amount(record, field)).sum();
            if sum > 0 {
                txn = txn.add(keys::sum(function, hour, field), i64::try_from(sum).unwrap_or(i64::MAX));
            }
        }
    }
    Ok(txn.add(keys::count(), i64::try_from(batch.len()).unwrap_or(i64::MAX)))
}

/// What a record adds to a sum.
pub(super) fn amount(record: &UsageRecord, field: Field) -> u64 {
    match field {
        Field::Requests => 1,
        Field::Errors => u64::from(record.ending != Ending::Success),
        Field::BilledMs => record.billed_ms,
        Field::MbMs => record.mb_ms(),
        Field::CpuUs => record.cpu_us,
    }
}

//! The ledger's promises: exactly once, over crashes, under concurrency.

use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use base::ManualClock;
use model::{AccountId, Ending, FunctionName, FunctionRef, Region, RequestId, Trigger};
use store::{Claim, Claims, MemoryStore, Snapshot, Txn, Version, Watch};

use super::keys::HOUR_MS;
use super::*;

fn function(name: &str) -> FunctionRef {
    FunctionRef {
        account: AccountId::default(),
        region: Region::default(),
        name: FunctionName::parse(name).unwrap(),
        qualifier: None,
    }
}

fn record(name: &str, number: u64, started_at_ms: u64) -> UsageRecord {
    UsageRecord {
        function: function(name),
        version: "$LATEST".into(),
        request_id: RequestId(format!("{number}")),
        trigger: Trigger::Direct,
        started_at_ms,
        duration_us: 1_500,
        init_us: None,
        billed_ms: 100,
        memory_mb: 128,
        memory_peak_bytes: 0,
        cpu_us: 7,
        ending: if number.is_multiple_of(10) { Ending::Timeout } else { Ending::Success },
    }
}

async fn open(folder: &Path, boot: &str, store: &Arc<dyn Store>) -> Arc<Usage> {
    Usage::open(folder, boot, store.clone(), ManualClock::at_ms(HOUR_MS * 10)).await.unwrap()
}

#[tokio::test]
async fn a_crash_before_the_fold_counts_once() {
    let folder = tempfile::tempdir().unwrap();
    let store = MemoryStore::shared();
    let usage = open(folder.path(), "boot-1", &store).await;
    for number in 1..=5 {
        usage.record(record("f", number, number)).unwrap();
    }
    drop(usage);
    let usage = open(folder.path(), "boot-2", &store).await;
    assert_eq!(usage.count().await.unwrap(), 5);
    assert_eq!(fs::read_dir(folder.path().join(RING_FOLDER)).unwrap().count(), 2, "dead rings are removed");
    usage.record(record("f", 6, 6)).unwrap();
    assert_eq!(usage.count().await.unwrap(), 6);
    let numbers: Vec<String> =
        usage.records(&function("f"), 3).await.unwrap().into_iter().map(|record| record.request_id.0).collect();
    assert_eq!(numbers, ["6", "5", "4"]);
}

#[tokio::test]
async fn a_crash_between_fold_and_emptying_counts_once() {
    let folder = tempfile::tempdir().unwrap();
    let copies = tempfile::tempdir().unwrap();
    let store = MemoryStore::shared();
    let usage = open(folder.path(), "boot-1", &store).await;
    for number in 1..=5 {
        usage.record(record("f", number, number)).unwrap();
    }
    // What a kill -9 right after the commit would leave: full files, and a store that has them.
    let rings = copies.path().join(RING_FOLDER);
    fs::create_dir(&rings).unwrap();
    for entry in fs::read_dir(folder.path().join(RING_FOLDER)).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, rings.join(path.file_name().unwrap())).unwrap();
    }
    usage.fold().await.unwrap();
    let usage = open(copies.path(), "boot-2", &store).await;
    assert_eq!(usage.count().await.unwrap(), 5);
    assert_eq!(usage.bill(0, HOUR_MS).await.unwrap()[0].requests, 5);
}

#[tokio::test]
async fn a_torn_frame_ends_a_ring_and_harms_nothing_before_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = MemoryStore::shared();
    let usage = open(folder.path(), "boot-1", &store).await;
    for number in 1..=3 {
        usage.record(record("f", number, number)).unwrap();
    }
    drop(usage);
    let path = folder.path().join(RING_FOLDER).join("boot-1.0.ring");
    let mut bytes = fs::read(&path).unwrap();
    for cut in 1..20 {
        assert_eq!(ring::read_frames(&bytes[..bytes.len() - cut]).len(), 2);
    }
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&path, &bytes).unwrap();
    assert_eq!(open(folder.path(), "boot-2", &store).await.count().await.unwrap(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_recorders_lose_and_double_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = MemoryStore::shared();
    let usage = open(folder.path(), "boot-1", &store).await;
    let recorders: Vec<_> = (0..8u64)
        .map(|recorder| {
            let usage = usage.clone();
            tokio::spawn(async move {
                for number in 0..500 {
                    usage.record(record("f", recorder * 500 + number, 1)).unwrap();
                    if number.is_multiple_of(50) {
                        usage.fold().await.unwrap();
                    }
                }
            })
        })
        .collect();
    for recorder in recorders {
        recorder.await.unwrap();
    }
    assert_eq!(usage.count().await.unwrap(), 4_000);
    let mut numbers: Vec<String> =
        usage.records(&function("f"), 10_000).await.unwrap().into_iter().map(|record| record.request_id.0).collect();
    numbers.sort();
    numbers.dedup();
    assert_eq!(numbers.len(), 4_000);
    let bill = &usage.bill(0, 2).await.unwrap()[0];
    assert_eq!((bill.requests, bill.errors, bill.billed_ms, bill.cpu_us), (4_000, 400, 400_000, 28_000));
}

#[tokio::test]
async fn bills_are_exact_at_the_edges_of_hours() {
    let folder = tempfile::tempdir().unwrap();
    let store = MemoryStore::shared();
    let usage = open(folder.path(), "boot-1", &store).await;
    for (number, at_ms) in
        [(1, HOUR_MS - 1), (2, HOUR_MS), (3, 2 * HOUR_MS - 1), (4, 2 * HOUR_MS), (5, 2 * HOUR_MS + 5)]
    {
        usage.record(record("f", number, at_ms)).unwrap();
    }
    usage.record(record("g", 6, HOUR_MS)).unwrap();
    let requests = async |from_ms, to_ms| -> Vec<u64> {
        usage.bill(from_ms, to_ms).await.unwrap().iter().map(|bill| bill.requests).collect()
    };
    assert_eq!(requests(0, 3 * HOUR_MS).await, [5, 1]);
    assert_eq!(requests(HOUR_MS, 2 * HOUR_MS).await, [2, 1]);
    assert_eq!(requests(HOUR_MS - 1, 2 * HOUR_MS + 5).await, [4, 1]);
    assert_eq!(requests(HOUR_MS + 1, 2 * HOUR_MS + 6).await, [3]);
    assert!(requests(5, 5).await.is_empty());
    let bill = &usage.bill(HOUR_MS, 2 * HOUR_MS).await.unwrap()[0];
    assert!((bill.gb_seconds - 2.0 * 100.0 * 128.0 / 1_024_000.0).abs() < 1e-12);
}

/// A store whose first commits fail.
struct Failing {
    inner: MemoryStore,
    failures: AtomicU32,
}

#[async_trait]
impl Store for Failing {
    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, store::Error> {
        self.inner.snapshot().await
    }

    async fn commit(&self, txn: Txn) -> Result<Version, store::Error> {
        let left = self.failures.load(Ordering::SeqCst);
        if left > 0 && !txn.ops.is_empty() {
            self.failures.store(left - 1, Ordering::SeqCst);
            return Err(store::Error::DiskFull);
        }
        self.inner.commit(txn).await
    }

    async fn claim(&self, claim: Claim) -> Result<Claims, store::Error> {
        self.inner.claim(claim).await
    }

    fn watch(&self, prefix: &[u8]) -> Watch {
        self.inner.watch(prefix)
    }
}

#[tokio::test]
async fn a_store_that_fails_for_a_while_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store: Arc<dyn Store> = Arc::new(Failing { inner: MemoryStore::new(), failures: AtomicU32::new(2) });
    let usage = open(folder.path(), "boot-1", &store).await;
    usage.record(record("f", 1, 1)).unwrap();
    assert!(usage.fold().await.is_err());
    usage.record(record("f", 2, 2)).unwrap();
    assert!(usage.fold().await.is_err());
    usage.record(record("f", 3, 3)).unwrap();
    assert_eq!(usage.count().await.unwrap(), 3);
}

#[tokio::test]
async fn a_boot_id_is_used_once() {
    let folder = tempfile::tempdir().unwrap();
    let store = MemoryStore::shared();
    drop(open(folder.path(), "boot-1", &store).await);
    assert!(Usage::open(folder.path(), "boot-1", store, ManualClock::at_ms(0)).await.is_err());
}

#[tokio::test]
async fn old_records_go_and_their_sums_stay() {
    const OLD: u64 = HOUR_MS * 10;
    let folder = tempfile::tempdir().unwrap();
    let store = MemoryStore::shared();
    let clock = ManualClock::at_ms(OLD);
    let usage = Usage::open(folder.path(), "boot-1", store.clone(), clock.clone()).await.unwrap();
    // More chunks than one step takes: each fold makes one.
    for number in 0..2_100 {
        usage.record(record("f", number, OLD + number)).unwrap();
        usage.fold().await.unwrap();
    }
    usage.record(record("g", 1, OLD + HOUR_MS)).unwrap();
    assert!(!usage.prune().await.unwrap(), "nothing is old yet");
    assert_eq!(usage.records(&function("f"), 5_000).await.unwrap().len(), 2_100);

    clock.advance(std::time::Duration::from_millis(KEPT_MS + HOUR_MS - 1));
    assert!(!usage.prune().await.unwrap(), "an hour goes when it is past as a whole");
    assert_eq!(usage.records(&function("f"), 5_000).await.unwrap().len(), 2_100);

    clock.advance(std::time::Duration::from_millis(1));
    assert!(usage.prune().await.unwrap(), "one step is bounded");
    assert_eq!(usage.bill(OLD, OLD + 5).await.unwrap()[0].requests, 2_100, "half removed: the hour counts as a whole");
    assert!(!usage.prune().await.unwrap());
    assert!(usage.records(&function("f"), 5_000).await.unwrap().is_empty());
    assert_eq!(usage.records(&function("g"), 5_000).await.unwrap().len(), 1);
    assert!(!usage.prune().await.unwrap());
    let requests = |bills: Vec<Bill>| -> Vec<u64> { bills.iter().map(|bill| bill.requests).collect() };
    assert_eq!(requests(usage.bill(0, OLD + 2 * HOUR_MS).await.unwrap()), [2_100, 1]);
    assert_eq!(requests(usage.bill(OLD + 1, OLD + HOUR_MS + 1).await.unwrap()), [2_100, 1]);
    assert_eq!(usage.count().await.unwrap(), 2_101);
}

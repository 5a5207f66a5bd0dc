//! The contract, spoken to every engine: the same tests over the model in memory, the embedded engine, PostgreSQL (one
//! node, and two over one database) and the layer that encrypts.
//!
//! Read `suite!` at the end for the list. `serialisable` is the heart: it runs random transactions concurrently and then
//! replays them one by one in the order of their versions; each must have read exactly what the replay shows.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use base::{ManualClock, Random, SeededRandom, SystemRandom};
use bytes::Bytes;
use proptest::prelude::*;
use store::contract::{KEY_BYTES_MAX, TXN_BYTES_MAX, TXN_PARTS_MAX, VALUE_BYTES_MAX};
use store::due::Due;
use store::encrypted::{EncryptedStore, KeyRing, MasterKey};
use store::{
    Claim, Claimed, EmbeddedConfig, Entry, Error, MemoryBlobs, MemoryStore, Page, PostgresConfig, Range, Store, Txn,
    Version, embedded, postgres, transact,
};

mod claims;
mod support;

use claims::{
    a_claim_is_a_write_like_others, claims_take_what_is_due_for_a_time, everything_is_claimed_once_whoever_claims,
    limits_of_queues_are_kept, what_is_given_back_keeps_its_number_of_attempts,
    what_is_offered_before_all_that_is_left_is_found,
};

/// A store to test, and what must live as long.
struct Subject {
    store: Arc<dyn Store>,
    /// Another node of the same store; the same one where there is only one.
    other: Arc<dyn Store>,
    /// Its clock; none where it is the server's.
    clock: Option<Arc<ManualClock>>,
    _folder: Option<tempfile::TempDir>,
}

impl Subject {
    /// Lets time pass for the store.
    async fn pass(&self, time: Duration) {
        match &self.clock {
            Some(clock) => clock.advance(time),
            None => tokio::time::sleep(time).await,
        }
    }
}

/// Not zero, so that some time is past already.
fn clock() -> Arc<ManualClock> {
    ManualClock::at_ms(1_000)
}

fn memory() -> Subject {
    let clock = clock();
    let store: Arc<dyn Store> = Arc::new(MemoryStore::with_clock(clock.clone()));
    Subject { other: Arc::clone(&store), store, clock: Some(clock), _folder: None }
}

fn embedded() -> Subject {
    let (folder, clock) = (tempfile::tempdir().unwrap(), clock());
    let store = embedded::open(EmbeddedConfig::new(folder.path(), clock.clone())).unwrap();
    let store: Arc<dyn Store> = Arc::new(store);
    Subject { other: Arc::clone(&store), store, clock: Some(clock), _folder: Some(folder) }
}

/// A model under the layer that encrypts; its ring is the first commit.
async fn encrypted() -> Subject {
    let Subject { store: inner, clock, .. } = memory();
    let random = SeededRandom::new(5);
    let master = MasterKey::parse(&"7a".repeat(32)).unwrap();
    let ring = KeyRing::open(&*inner, &MemoryBlobs::new(), &master, None, &*random).await.unwrap();
    let store: Arc<dyn Store> = Arc::new(EncryptedStore::new(inner, Arc::new(ring), random));
    Subject { other: Arc::clone(&store), store, clock, _folder: None }
}

async fn node(schema: &str) -> Arc<dyn Store> {
    let mut config = PostgresConfig::new(support::shared().url(), SystemRandom::shared());
    config.schema = schema.to_owned();
    config.on_fatal = Arc::new(|reason| panic!("{reason}"));
    Arc::new(postgres::open(config).await.unwrap())
}

async fn on_postgres() -> Subject {
    let store = node(&support::fresh_schema()).await;
    Subject { other: Arc::clone(&store), store, clock: None, _folder: None }
}

async fn on_two_nodes() -> Subject {
    let schema = support::fresh_schema();
    let (store, other) = tokio::join!(node(&schema), node(&schema));
    Subject { store, other, clock: None, _folder: None }
}

fn keys(page: &Page) -> Vec<&str> {
    page.entries.iter().map(|entry| std::str::from_utf8(&entry.key).unwrap()).collect()
}

async fn value(store: &dyn Store, key: &str) -> Option<Bytes> {
    store.get(key.as_bytes()).await.unwrap().map(|entry| entry.value)
}

fn is_conflict(outcome: Result<Version, Error>) -> bool {
    matches!(outcome, Err(Error::Conflict))
}

async fn commits_are_numbered_and_entries_say_by_which_they_were_written(subject: Subject) {
    let store = &*subject.store;
    let empty = store.snapshot().await.unwrap().version();
    let first = store.commit(Txn::new().put("a", "1").put("b", "1")).await.unwrap();
    let second = store.commit(Txn::new().put("b", "2").delete("never was")).await.unwrap();
    assert_eq!((first, second), (empty + 1, empty + 2));
    let entry =
        |key: &'static str, value: &'static str, version| Entry { key: key.into(), value: value.into(), version };
    assert_eq!(store.get(b"a").await.unwrap(), Some(entry("a", "1", first)));
    assert_eq!(store.get(b"b").await.unwrap(), Some(entry("b", "2", second)));
    assert_eq!(store.get(b"c").await.unwrap(), None);
    assert_eq!(store.snapshot().await.unwrap().version(), second);
}

async fn a_snapshot_shows_one_state(subject: Subject) {
    let store = &*subject.store;
    let version = store.commit(Txn::new().put("a", "1").put("b", "1")).await.unwrap();
    let snapshot = store.snapshot().await.unwrap();
    store.commit(Txn::new().put("a", "2").delete("b").put("c", "2")).await.unwrap();
    assert_eq!(snapshot.version(), version);
    assert_eq!(snapshot.get(b"a").await.unwrap().unwrap().value, "1");
    assert_eq!(keys(&snapshot.range(&Range::prefix("")).await.unwrap()), ["a", "b"]);
    assert_eq!(keys(&store.range(&Range::prefix("")).await.unwrap()), ["a", "c"]);
}

async fn points_are_expected(subject: Subject) {
    let store = &*subject.store;
    let first = store.commit(Txn::new().expect_absent("a").put("a", "1")).await.unwrap();
    assert!(is_conflict(store.commit(Txn::new().expect_absent("a").put("a", "x")).await));
    assert!(is_conflict(store.commit(Txn::new().expect_present("b").put("b", "x")).await));
    assert!(is_conflict(store.commit(Txn::new().expect_version("b", first)).await));
    let second = store.commit(Txn::new().expect_version("a", first).expect_present("a").put("a", "2")).await.unwrap();
    assert!(is_conflict(store.commit(Txn::new().expect_version("a", first).put("side", "x")).await));
    assert_eq!(value(store, "side").await, None, "a loser leaves nothing");
    store.commit(Txn::new().expect_version("a", second).delete("a")).await.unwrap();
    assert!(is_conflict(store.commit(Txn::new().expect_present("a")).await));
    // A key that comes back is another one.
    store.commit(Txn::new().expect_absent("a").put("a", "2")).await.unwrap();
    assert!(is_conflict(store.commit(Txn::new().expect_version("a", second)).await));
}

async fn ranges_are_expected(subject: Subject) {
    let store = &*subject.store;
    let seen = store.commit(Txn::new().put("q/1", "").put("q/5", "")).await.unwrap();
    let whole = Range::prefix("q/");
    let expect = |range: &Range| Txn::new().expect_range(range.clone(), seen).put("claim", "");
    store.commit(expect(&whole)).await.unwrap();
    store.commit(Txn::new().put("r", "").put("p", "")).await.unwrap();
    store.commit(expect(&whole)).await.unwrap();
    store.commit(Txn::new().put("q/3", "phantom")).await.unwrap();
    assert!(is_conflict(store.commit(expect(&whole)).await));
    assert!(is_conflict(store.commit(expect(&whole.clone().rows(1).reversed())).await), "limits do not count");
    store.commit(expect(&Range::between("q/", "q/3"))).await.unwrap();
    let behind = Range { start: Bound::Excluded("q/3".into()), ..whole.clone() };
    store.commit(expect(&behind)).await.unwrap();
    // Deleting what is not there counts as a write, deleting what is there all the more.
    store.commit(Txn::new().delete("q/5")).await.unwrap();
    assert!(is_conflict(store.commit(expect(&behind)).await));
    store.commit(expect(&Range::between("z", "a"))).await.unwrap();
}

async fn write_skew_is_refused(subject: Subject) {
    let store = &*subject.store;
    store.commit(Txn::new().put("doctor/a", "on").put("doctor/b", "on")).await.unwrap();
    let snapshot = store.snapshot().await.unwrap();
    let (a, b) = (snapshot.get(b"doctor/a").await.unwrap(), snapshot.get(b"doctor/b").await.unwrap());
    let leave = |key: &'static str| {
        let seen = Txn::new().expect_unchanged("doctor/a", a.as_ref()).expect_unchanged("doctor/b", b.as_ref());
        seen.put(key, "off")
    };
    let (left, right) = tokio::join!(store.commit(leave("doctor/a")), subject.other.commit(leave("doctor/b")));
    assert!(left.is_ok() != right.is_ok(), "exactly one may leave: {left:?} {right:?}");
}

async fn adds_need_no_expectation(subject: Subject) {
    let store = &subject.store;
    let adders = (0..8).map(|adder| {
        let store = Arc::clone(if adder % 2 == 0 { store } else { &subject.other });
        tokio::spawn(async move {
            for _ in 0..25 {
                store.commit(Txn::new().add("sum", 3).add("sum", -1)).await.unwrap();
            }
        })
    });
    for adder in adders.collect::<Vec<_>>() {
        adder.await.unwrap();
    }
    assert_eq!(&value(&**store, "sum").await.unwrap()[..], 400i64.to_le_bytes());
    store.commit(Txn::new().put("text", "nine bytes")).await.unwrap();
    let refused = store.commit(Txn::new().put("side", "x").add("text", 1)).await;
    assert!(matches!(refused, Err(Error::Invalid(_))));
    assert_eq!(value(&**store, "side").await, None);
}

async fn numbered_keys_lie_in_the_order_of_commits(subject: Subject) {
    let store = &subject.store;
    let appenders = (0..4u8).map(|writer| {
        let store = Arc::clone(if writer % 2 == 0 { store } else { &subject.other });
        tokio::spawn(async move {
            let mut versions = Vec::new();
            for _ in 0..20 {
                let txn =
                    Txn::new().put_numbered("log/", vec![writer, 0], "x").put_numbered("log/", vec![writer, 1], "y");
                versions.push(store.commit(txn).await.unwrap());
            }
            versions
        })
    });
    let mut expected = Vec::new();
    for (writer, appender) in appenders.collect::<Vec<_>>().into_iter().enumerate() {
        for version in appender.await.unwrap() {
            for part in 0..2 {
                let suffix = [u8::try_from(writer).unwrap(), part];
                expected.push(([b"log/", &version.to_be_bytes()[..], &suffix].concat(), version));
            }
        }
    }
    expected.sort();
    let page = store.range(&Range::prefix("log/")).await.unwrap();
    let found: Vec<_> = page.entries.iter().map(|entry| (entry.key.to_vec(), entry.version)).collect();
    assert_eq!(found, expected);
}

async fn ranges_go_both_ways_within_their_limits(subject: Subject) {
    let store = &*subject.store;
    let names = ["a", "b/1", "b/2", "b/3", "b/4", "c"];
    store.commit(names.iter().fold(Txn::new(), |txn, name| txn.put(*name, "12345"))).await.unwrap();
    let all = Range::prefix("b/");
    let read = async |range: Range| store.range(&range).await.unwrap();
    let page = read(all.clone()).await;
    assert_eq!((keys(&page), page.more), (vec!["b/1", "b/2", "b/3", "b/4"], false));
    let page = read(all.clone().rows(3)).await;
    assert_eq!((keys(&page), page.more), (vec!["b/1", "b/2", "b/3"], true));
    let page = read(all.clone().rows(3).beyond("b/3")).await;
    assert_eq!((keys(&page), page.more), (vec!["b/4"], false));
    let page = read(all.clone().reversed().rows(3)).await;
    assert_eq!((keys(&page), page.more), (vec!["b/4", "b/3", "b/2"], true));
    let page = read(all.clone().reversed().rows(3).beyond("b/2")).await;
    assert_eq!((keys(&page), page.more), (vec!["b/1"], false));
    let page = read(all.clone().rows(4)).await;
    assert_eq!((page.entries.len(), page.more), (4, false), "exactly as many as asked is not more");
    let page = read(all.clone().bytes(9)).await;
    assert_eq!((keys(&page), page.more), (vec!["b/1", "b/2"], true), "the entry that reaches the limit is the last");
    let page = read(all.clone().bytes(0)).await;
    assert_eq!((keys(&page), page.more), (vec!["b/1"], true));
    let page = read(all.clone().rows(0)).await;
    assert_eq!((page.entries.len(), page.more), (0, true));
    let page = read(Range::between("x", "b")).await;
    assert_eq!(page, Page::default());
    let unbounded = Range { start: Bound::Unbounded, end: Bound::Unbounded, ..all.clone() };
    assert_eq!(read(unbounded).await.entries.len(), names.len());
    let ends = Range { start: Bound::Excluded("b/1".into()), end: Bound::Included("b/3".into()), ..all };
    assert_eq!(keys(&read(ends).await), ["b/2", "b/3"]);
}

async fn long_ranges_are_whole(subject: Subject) {
    let store = &*subject.store;
    for part in 0..4u64 {
        let txn = (0..1_000).fold(Txn::new(), |txn, number| {
            txn.put(store::keys::Key::new(b'n').number(part * 1_000 + number).done(), vec![7; 100])
        });
        store.commit(txn).await.unwrap();
    }
    for range in [Range::prefix("n"), Range::prefix("n").reversed()] {
        let whole = store.range(&range).await.unwrap();
        assert_eq!((whole.entries.len(), whole.more), (4_000, false));
        let limited = store.range(&range.clone().rows(777)).await.unwrap();
        assert_eq!((&limited.entries[..], limited.more), (&whole.entries[..777], true));
        let limited = store.range(&range.clone().bytes(109 * 1_500)).await.unwrap();
        assert_eq!((&limited.entries[..], limited.more), (&whole.entries[..1_500], true));
        let (mut paged, mut rest) = (Vec::new(), range.clone().rows(900));
        loop {
            let page = store.range(&rest).await.unwrap();
            paged.extend(page.entries);
            if !page.more {
                break;
            }
            rest = rest.beyond(paged.last().unwrap().key.clone());
        }
        assert_eq!(paged, whole.entries);
    }
}

async fn limits_are_kept_and_reached(subject: Subject) {
    let store = &*subject.store;
    let too_large = |outcome: Result<Version, Error>| matches!(outcome, Err(Error::TooLarge(_)));
    let (key, half) = (vec![0xff; KEY_BYTES_MAX], vec![1; VALUE_BYTES_MAX]);
    store.commit(Txn::new().put(key.clone(), half.clone()).put("", "empty key")).await.unwrap();
    assert_eq!(store.get(&key).await.unwrap().unwrap().value, half);
    let page =
        store.range(&Range { start: Bound::Unbounded, end: Bound::Unbounded, ..Range::prefix("") }).await.unwrap();
    assert_eq!(page.entries.len(), 2);
    assert!(too_large(store.commit(Txn::new().put(vec![1; KEY_BYTES_MAX + 1], "")).await));
    assert!(too_large(store.commit(Txn::new().expect_absent(vec![1; KEY_BYTES_MAX + 1])).await));
    assert!(too_large(store.commit(Txn::new().put_numbered(vec![1; KEY_BYTES_MAX - 7], "", "")).await));
    assert!(too_large(store.commit(Txn::new().put("v", vec![1; VALUE_BYTES_MAX + 1])).await));
    let full = (0..12).fold(Txn::new(), |txn, n: u8| txn.put(vec![n], vec![n; TXN_BYTES_MAX / 12 - 1]));
    store.commit(full.clone()).await.unwrap();
    assert!(too_large(store.commit(full.put("x", "")).await));
    let parts = (0..TXN_PARTS_MAX).fold(Txn::new(), |txn, _| txn.delete("k"));
    store.commit(parts.clone()).await.unwrap();
    assert!(too_large(store.commit(parts.expect_absent("k")).await));
}

async fn a_watch_wakes_after_every_change_of_its_prefix(subject: Subject) {
    const LAST: i64 = 500;
    let store = Arc::clone(&subject.store);
    let mut watches = Vec::new();
    for prefix in ["", "w", "w/count"] {
        let store = Arc::clone(&store);
        watches.push(tokio::spawn(async move {
            let mut watch = store.watch(prefix.as_bytes());
            // A hint that is missed even once leaves this waiting for ever after the last commit.
            while value(&*store, "w/count").await.is_none_or(|value| value[..] != LAST.to_le_bytes()) {
                watch.changed().await;
            }
        }));
    }
    let mut elsewhere = store.watch(b"w/other");
    for _ in 0..LAST {
        subject.other.commit(Txn::new().add("w/count", 1)).await.unwrap();
    }
    for watch in watches {
        tokio::time::timeout(Duration::from_secs(20), watch).await.expect("a watch slept on").unwrap();
    }
    assert!(tokio::time::timeout(Duration::from_millis(20), elsewhere.changed()).await.is_err(), "woken for nothing");
    subject.other.commit(Txn::new().delete("w/other/1")).await.unwrap();
    tokio::time::timeout(Duration::from_secs(20), elsewhere.changed()).await.expect("deletes wake too");
}

async fn transact_repeats_until_nobody_comes_between(subject: Subject) {
    let store = &subject.store;
    let workers = (0..4).map(|worker| {
        let store = Arc::clone(if worker % 2 == 0 { store } else { &subject.other });
        tokio::spawn(async move {
            for _ in 0..10 {
                let bumped = transact(&*store, |snapshot| async move {
                    let entry = snapshot.get(b"n").await?;
                    let before = entry.as_ref().map_or(0, |entry| entry.value[0]);
                    let txn = Txn::new().expect_unchanged("n", entry.as_ref()).put("n", vec![before + 1]);
                    Ok::<_, Error>((txn, before))
                });
                bumped.await.unwrap();
            }
        })
    });
    for worker in workers.collect::<Vec<_>>() {
        worker.await.unwrap();
    }
    assert_eq!(value(&**store, "n").await.unwrap(), vec![40]);
}

// --- serialisability ---

type State = BTreeMap<Bytes, Entry>;

/// What one committed transaction saw and did.
struct Observed {
    version: Version,
    points: Vec<(Bytes, Option<Entry>)>,
    ranges: Vec<(Range, Page)>,
    txn: Txn,
    claimed: Vec<Claimed>,
}

/// Entries of the queue that transactions put there are due before this time, those under a lease after it.
const DUE_BEFORE_MS: u64 = 8;
const CLAIMED_AT_ONCE: usize = 3;

/// Takes some of the queue; nothing is observed if there was nothing.
async fn one_claim(store: &dyn Store) -> Option<Observed> {
    let claimed = store.claim(Claim::new("q/", CLAIMED_AT_ONCE, 600_000)).await.unwrap().entries;
    let version = claimed.first()?.version;
    Some(Observed { version, points: Vec::new(), ranges: Vec::new(), txn: Txn::new(), claimed })
}

fn some_key(random: &dyn Random) -> Bytes {
    format!("k{:02}", random.next_u64() % 12).into()
}

fn some_range(random: &dyn Random) -> Range {
    let range = match random.next_u64() % 4 {
        0 => Range::prefix("q/"),
        _ => Range::between(some_key(random), some_key(random)),
    };
    if random.next_u64().is_multiple_of(2) { range.reversed() } else { range }
}

/// Reads some things, writes what depends on nothing (the values are unique), and expects all that it read.
async fn one_transaction(store: &dyn Store, random: &dyn Random, name: &str, queue: bool) -> Option<Observed> {
    if queue && random.next_u64().is_multiple_of(6) {
        return one_claim(store).await;
    }
    let snapshot = store.snapshot().await.unwrap();
    let mut observed =
        Observed { version: 0, points: Vec::new(), ranges: Vec::new(), txn: Txn::new(), claimed: Vec::new() };
    let mut txn = Txn::new();
    for _ in 0..random.next_u64() % 3 {
        let key = some_key(random);
        let entry = snapshot.get(&key).await.unwrap();
        txn = txn.expect_unchanged(key.clone(), entry.as_ref());
        observed.points.push((key, entry));
    }
    if random.next_u64().is_multiple_of(2) {
        let range = some_range(random);
        let page = snapshot.range(&range).await.unwrap();
        txn = txn.expect_range(range.clone(), snapshot.version());
        observed.ranges.push((range, page));
    }
    drop(snapshot);
    for part in 0..1 + random.next_u64() % 3 {
        txn = match random.next_u64() % 10 {
            8.. if queue => {
                let due = Due { at_ms: random.next_u64() % DUE_BEFORE_MS, attempts: 0 };
                txn.put(due.key(b"q/", name.as_bytes()), format!("{name}/{part}"))
            }
            0..4 | 8.. => txn.put(some_key(random), format!("{name}/{part}")),
            4..6 => txn.delete(some_key(random)),
            6 => txn.add("sum", 1),
            _ => txn.put_numbered("k05", format!("{part}"), "numbered"),
        };
    }
    if random.next_u64().is_multiple_of(4) {
        txn = txn.relaxed();
    }
    observed.txn = txn.clone();
    match store.commit(txn).await {
        Ok(version) => Some(Observed { version, ..observed }),
        Err(Error::Conflict | Error::TooOld) => None,
        Err(other) => panic!("{other}"),
    }
}

fn replay(state: &mut State, observed: &Observed) {
    for (key, entry) in &observed.points {
        assert_eq!(state.get(key), entry.as_ref(), "commit {} read an old state", observed.version);
    }
    for (range, page) in &observed.ranges {
        let mut expected: Vec<_> = state.values().filter(|entry| range.contains(&entry.key)).cloned().collect();
        if range.reverse {
            expected.reverse();
        }
        assert_eq!(page.entries, expected, "commit {} read an old range", observed.version);
    }
    let version = observed.version;
    replay_claim(state, observed);
    for op in observed.txn.ops.clone() {
        let (key, value) = match op {
            store::Op::Delete(key) => {
                state.remove(&key);
                continue;
            }
            store::Op::Put(key, value) => (key, value),
            store::Op::Add(key, by) => {
                let sum = state.get(&key).map_or(0, |entry| i64::from_le_bytes(entry.value[..].try_into().unwrap()));
                (key, Bytes::copy_from_slice(&(sum + by).to_le_bytes()))
            }
            store::Op::PutNumbered { prefix, suffix, value } => {
                ([&prefix[..], &version.to_be_bytes(), &suffix].concat().into(), value)
            }
            store::Op::Offer { .. } => unreachable!("its key would not be known"),
        };
        state.insert(key.clone(), Entry { key, value, version });
    }
}

/// What was claimed must have been the first of the queue, and as many as were due.
fn replay_claim(state: &mut State, observed: &Observed) {
    if observed.claimed.is_empty() {
        return;
    }
    let due = |entry: &Entry| Due::of(2, &entry.key).unwrap();
    let queue = Range::prefix("q/");
    let queued: Vec<Entry> = state.values().filter(|entry| queue.contains(&entry.key)).cloned().collect();
    let taken: Vec<_> =
        queued.into_iter().filter(|entry| due(entry).0.at_ms < DUE_BEFORE_MS).take(CLAIMED_AT_ONCE).collect();
    let expected: Vec<_> = taken.iter().map(|entry| (due(entry).1, entry.value.clone(), 1)).collect();
    let claimed: Vec<_> =
        observed.claimed.iter().map(|one| (one.id.clone(), one.value.clone(), one.attempts)).collect();
    assert_eq!(claimed, expected, "claim {}", observed.version);
    for (before, Claimed { key, value, version, .. }) in taken.iter().zip(observed.claimed.clone()) {
        state.remove(&before.key);
        state.insert(key.clone(), Entry { key, value, version });
    }
}

/// With a `queue` whose entries are plain puts, so that their keys are known: not where values are bound to keys.
fn serialisable(open: impl AsyncFnOnce() -> Subject, queue: bool, seed: u64) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(3).enable_all().build().unwrap();
    runtime.block_on(async {
        let subject = open().await;
        let empty = subject.store.snapshot().await.unwrap().version();
        let workers = (0..6u64).map(|worker| {
            let store = Arc::clone(if worker % 2 == 0 { &subject.store } else { &subject.other });
            tokio::spawn(async move {
                let random = SeededRandom::new(seed.wrapping_mul(31).wrapping_add(worker));
                let mut committed = Vec::new();
                for number in 0..30 {
                    committed.extend(one_transaction(&*store, &*random, &format!("{worker}/{number}"), queue).await);
                }
                committed
            })
        });
        let mut history = Vec::new();
        for worker in workers.collect::<Vec<_>>() {
            history.extend(worker.await.unwrap());
        }
        history.sort_by_key(|observed| observed.version);
        let versions: Vec<_> = history.iter().map(|observed| observed.version).collect();
        assert_eq!(
            versions,
            (1..=history.len() as u64).map(|number| empty + number).collect::<Vec<_>>(),
            "versions are consecutive"
        );
        let mut state = State::new();
        history.iter().for_each(|observed| replay(&mut state, observed));
        let all = subject.store.range(&Range::prefix("")).await.unwrap();
        assert_eq!(all.entries, state.into_values().collect::<Vec<_>>(), "the final state is that of the replay");
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 0, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn memory_is_serialisable(seed: u64) {
        serialisable(async || memory(), true, seed);
    }

    #[test]
    fn encrypted_is_serialisable(seed: u64) {
        serialisable(encrypted, false, seed);
    }

    #[test]
    fn postgres_is_serialisable_over_two_nodes(seed: u64) {
        serialisable(on_two_nodes, true, seed);
    }

    #[test]
    fn embedded_is_serialisable(seed: u64) {
        serialisable(async || embedded(), true, seed);
    }
}

/// Runs each test over each engine.
macro_rules! suite {
    ($($name:ident),* $(,)?) => {
        mod in_memory {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name(super::memory()).await; })*
        }
        mod on_disk {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name(super::embedded()).await; })*
        }
        mod on_postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name(super::on_postgres().await).await; })*
        }
        mod on_two_nodes {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name(super::on_two_nodes().await).await; })*
        }
        mod encrypted {
            // Limits are smaller by what encryption adds: tested beside it.
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                if stringify!($name) != "limits_are_kept_and_reached" {
                    super::$name(super::encrypted().await).await;
                }
            })*
        }
    };
}

suite!(
    commits_are_numbered_and_entries_say_by_which_they_were_written,
    a_snapshot_shows_one_state,
    points_are_expected,
    ranges_are_expected,
    write_skew_is_refused,
    adds_need_no_expectation,
    numbered_keys_lie_in_the_order_of_commits,
    ranges_go_both_ways_within_their_limits,
    long_ranges_are_whole,
    limits_are_kept_and_reached,
    a_watch_wakes_after_every_change_of_its_prefix,
    transact_repeats_until_nobody_comes_between,
    claims_take_what_is_due_for_a_time,
    what_is_given_back_keeps_its_number_of_attempts,
    what_is_offered_before_all_that_is_left_is_found,
    everything_is_claimed_once_whoever_claims,
    a_claim_is_a_write_like_others,
    limits_of_queues_are_kept,
);

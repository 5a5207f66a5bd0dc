//! Queues: what is offered is claimed by one at a time, and by another one when its lease has ended.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use store::contract::{CLAIM_ENTRIES_MAX, KEY_BYTES_MAX, OFFER_BYTES_MAX};
use store::due::Due;
use store::{Claim, Claimed, Claims, Error, Range, Store, Txn};

use super::{Subject, is_conflict};

/// Longer than any test.
const LONG_MS: u64 = 600_000;
/// Longer than the steps of a test that fall within it, also on a machine that is busy.
const SHORT_MS: u64 = 2_000;

fn ids(claims: &Claims) -> Vec<(&str, u16)> {
    claims.entries.iter().map(|entry| (std::str::from_utf8(&entry.id).unwrap(), entry.attempts)).collect()
}

async fn claim(store: &dyn Store, entries: usize, lease_ms: u64) -> Claims {
    store.claim(Claim::new("q/", entries, lease_ms)).await.unwrap()
}

/// Claims until there is something, for so long that only a failure can be the reason that there is not.
async fn claim_some(subject: &Subject) -> Claims {
    for _ in 0..500 {
        let claims = claim(&*subject.other, 10, LONG_MS).await;
        if !claims.entries.is_empty() {
            return claims;
        }
        subject.pass(Duration::from_millis(20)).await;
    }
    panic!("nothing became due");
}

pub async fn claims_take_what_is_due_for_a_time(subject: Subject) {
    let store = &*subject.store;
    let offered = Txn::new().offer("q/", "a", 0, "1").offer("q/", "b", 0, "2").offer("q/", "late", LONG_MS, "3");
    store.commit(offered.put("q", "before").put("q0", "behind")).await.unwrap();
    let first = claim(store, 1, SHORT_MS).await;
    assert_eq!(ids(&first), [("a", 1)]);
    assert_eq!((&first.entries[0].value[..], first.next_in_ms), (&b"1"[..], Some(0)));
    let held = claim(store, 10, LONG_MS).await;
    assert_eq!(ids(&held), [("b", 1)], "what is under a lease is nobody else's");
    let again = claim_some(&subject).await;
    assert_eq!(ids(&again), [("a", 2)], "the lease has ended");
    assert!(again.entries[0].lease_ends_ms > first.entries[0].lease_ends_ms);
    assert!(is_conflict(store.commit(Txn::new().settle(&first.entries[0])).await), "whose lease has ended is too late");
    let both = Txn::new().settle(&again.entries[0]).settle(&held.entries[0]);
    store.commit(both).await.unwrap();
    let rest = claim(store, 10, LONG_MS).await;
    assert!(rest.entries.is_empty());
    assert!(rest.next_in_ms.is_some_and(|ms| (1..=LONG_MS).contains(&ms)), "{:?}", rest.next_in_ms);
    assert_eq!(store.range(&Range::prefix("q/")).await.unwrap().entries[0].value, "3");
}

pub async fn what_is_given_back_keeps_its_number_of_attempts(subject: Subject) {
    let store = &*subject.store;
    store.commit(Txn::new().offer("q/", "a", 0, "body")).await.unwrap();
    for attempts in 1..=3 {
        let claims = claim(store, 10, LONG_MS).await;
        assert_eq!(ids(&claims), [("a", attempts)]);
        let Claimed { id, attempts, value, .. } = claims.entries[0].clone();
        let back = Txn::new().settle(&claims.entries[0]).offer_again("q/", id, 0, attempts, value);
        store.commit(back).await.unwrap();
    }
    let last = claim(store, 10, LONG_MS).await;
    store.commit(Txn::new().settle(&last.entries[0])).await.unwrap();
    assert_eq!(claim(store, 10, LONG_MS).await, Claims::default());
}

pub async fn what_is_offered_before_all_that_is_left_is_found(subject: Subject) {
    let store = &*subject.store;
    store.commit(Txn::new().offer("q/", "a", 0, "1").offer("q/", "late", LONG_MS, "2")).await.unwrap();
    for id in ["b", "c", "d"] {
        let claims = claim(store, 1, 2 * LONG_MS).await;
        assert_eq!(claims.entries.len(), 1, "before {id}");
        store.commit(Txn::new().settle(&claims.entries[0])).await.unwrap();
        // What is left is due later than this, and whoever has just claimed may know where the queue began.
        subject.other.commit(Txn::new().offer("q/", id, 0, "3")).await.unwrap();
    }
    assert_eq!(ids(&claim(store, 10, LONG_MS).await), [("d", 1)]);
}

pub async fn everything_is_claimed_once_whoever_claims(subject: Subject) {
    const ENTRIES: u32 = 300;
    for part in 0..3 {
        let numbers = (part * 100..part * 100 + 100).map(u32::to_be_bytes);
        let offered = numbers.fold(Txn::new(), |txn, id| txn.offer("q/", id.to_vec(), 0, id.to_vec()));
        subject.store.commit(offered).await.unwrap();
    }
    let claimers = (0..8).map(|claimer| {
        let store = Arc::clone(if claimer % 2 == 0 { &subject.store } else { &subject.other });
        tokio::spawn(async move {
            let mut mine = Vec::new();
            loop {
                let claims = claim(&*store, 1 + claimer, LONG_MS).await;
                if claims.entries.is_empty() {
                    return mine;
                }
                store.commit(claims.entries.iter().fold(Txn::new(), Txn::settle)).await.unwrap();
                mine.extend(claims.entries.into_iter().map(|claimed| {
                    assert_eq!((claimed.id, claimed.attempts), (claimed.value.clone(), 1));
                    claimed.value
                }));
            }
        })
    });
    let mut all: Vec<Bytes> = Vec::new();
    for claimer in claimers.collect::<Vec<_>>() {
        all.extend(claimer.await.unwrap());
    }
    let distinct: BTreeSet<&Bytes> = all.iter().collect();
    assert_eq!((all.len(), distinct.len()), (ENTRIES as usize, ENTRIES as usize));
    assert!(subject.other.range(&Range::prefix("q/")).await.unwrap().entries.is_empty());
}

pub async fn a_claim_is_a_write_like_others(subject: Subject) {
    let store = &*subject.store;
    let mut watch = subject.other.watch(b"q/");
    let offered = store.commit(Txn::new().offer("q/", "a", 0, "body")).await.unwrap();
    tokio::time::timeout(Duration::from_secs(20), watch.changed()).await.expect("an offer wakes");
    let claims = store.claim(Claim::new("q/", 10, LONG_MS).relaxed()).await.unwrap();
    assert_eq!(claims.entries[0].version, offered + 1);
    assert_eq!(claims.next_in_ms, Some(LONG_MS));
    let entry = store.get(&claims.entries[0].key).await.unwrap().unwrap();
    assert_eq!((entry.value, entry.version), ("body".into(), offered + 1));
    let late = Txn::new().expect_range(Range::prefix("q/"), offered).put("seen", "");
    assert!(is_conflict(store.commit(late).await));
    assert_eq!(claim(store, 10, LONG_MS).await.entries, []);
    assert_eq!(store.snapshot().await.unwrap().version(), offered + 1, "a claim of nothing is no commit");
}

pub async fn limits_of_queues_are_kept(subject: Subject) {
    let store = &*subject.store;
    let too_large = |outcome: Result<_, Error>| matches!(outcome, Err(Error::TooLarge(_)));
    assert!(too_large(store.claim(Claim::new("q/", CLAIM_ENTRIES_MAX + 1, 1)).await.map(drop)));
    assert!(too_large(store.claim(Claim::new(vec![0; KEY_BYTES_MAX - 7], 1, 1)).await.map(drop)));
    let offer = |bytes: usize| Txn::new().offer("q/", "a", 0, vec![b'x'; bytes]);
    assert!(too_large(store.commit(offer(OFFER_BYTES_MAX + 1)).await.map(drop)));
    let long = Txn::new().offer("q/", vec![0; KEY_BYTES_MAX - 9], 0, "");
    assert!(too_large(store.commit(long).await.map(drop)));
    // Encryption takes some of the greatest value.
    let great = OFFER_BYTES_MAX - 59;
    for number in 0..8 {
        let txn = Txn::new().offer("q/", vec![number], 0, vec![number; great]);
        store.commit(txn).await.unwrap();
    }
    let (first, second) = (claim(store, 1_000, LONG_MS).await, claim(store, 1_000, LONG_MS).await);
    assert!(matches!(first.entries.len(), 4 | 5), "what one claim takes is bounded in bytes");
    assert_eq!((first.entries.len() + second.entries.len(), first.next_in_ms), (8, Some(0)));
    assert_eq!(second.entries.last().unwrap().value, vec![7; great]);
    assert_eq!(claim(store, 0, LONG_MS).await.entries, []);
    store.commit(Txn::new().put("q/", "not offered")).await.unwrap();
    assert!(matches!(store.claim(Claim::new("q/", 1, 1)).await, Err(Error::Invalid(_))));
    let far = Due { at_ms: u64::MAX, attempts: 0 };
    store.commit(Txn::new().delete("q/").put(far.key(b"r/", b"far"), "")).await.unwrap();
    assert_eq!(store.claim(Claim::new("r/", 1, 1)).await.unwrap().entries, []);
}

//! Encryption at rest: nothing readable beneath, nothing accepted elsewhere, wrong keys refused, rotation, counters.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::sync::Arc;

use base::SystemRandom;
use bytes::Bytes;
use store::contract::VALUE_BYTES_MAX;
use store::encrypted::{EncryptedBlobs, EncryptedStore, KeyRing, MasterKey, Records, check_clear, is_sealed_record};
use store::transfer::{Local, import};
use store::{Blobs, Error, MemoryBlobs, MemoryStore, Range, Store, Txn};

struct Place {
    inner: Arc<dyn Store>,
    inner_blobs: Arc<dyn Blobs>,
}

fn place() -> Place {
    Place { inner: MemoryStore::shared(), inner_blobs: MemoryBlobs::shared() }
}

fn master(byte: &str) -> MasterKey {
    MasterKey::parse(&format!("{}\n", byte.repeat(32))).unwrap()
}

impl Place {
    async fn open(&self, key: &MasterKey, old: Option<&MasterKey>) -> Result<(EncryptedStore, EncryptedBlobs), Error> {
        let random = SystemRandom::shared();
        let ring = KeyRing::open(&*self.inner, &*self.inner_blobs, key, old, &*random).await?;
        let ring = Arc::new(ring);
        Ok((
            EncryptedStore::new(self.inner.clone(), ring.clone(), random.clone()),
            EncryptedBlobs::new(self.inner_blobs.clone(), ring, random),
        ))
    }
}

const SECRET: &[u8] = b"a secret that is long enough to be found";

fn holds_secret(bytes: &[u8]) -> bool {
    bytes.windows(SECRET.len()).any(|window| window == SECRET)
}

#[tokio::test]
async fn nothing_of_a_value_or_a_blob_is_readable_beneath() {
    let place = place();
    let (store, blobs) = place.open(&master("aa"), None).await.unwrap();
    store.commit(Txn::new().put("k", SECRET).put_numbered("n/", "/s", SECRET)).await.unwrap();
    blobs.put("b", Bytes::from(SECRET.repeat(10_000))).await.unwrap();
    assert_eq!(store.get(b"k").await.unwrap().unwrap().value, SECRET);
    let all = store.range(&Range::prefix("")).await.unwrap().entries;
    assert_eq!(all.len(), 2, "the ring is not seen");
    assert!(all.iter().all(|entry| entry.value == SECRET));
    assert_eq!(blobs.get("b").await.unwrap().unwrap(), SECRET.repeat(10_000));
    let beneath = place.inner.range(&Range::prefix("")).await.unwrap().entries;
    assert_eq!(beneath.len(), 3);
    assert!(beneath.iter().all(|entry| !holds_secret(&entry.value)));
    assert!(!holds_secret(&place.inner_blobs.get("b").await.unwrap().unwrap()));
}

#[tokio::test]
async fn what_is_swapped_beneath_is_refused() {
    let place = place();
    let (store, blobs) = place.open(&master("aa"), None).await.unwrap();
    store.commit(Txn::new().put("mine", "poor").put("yours", "rich")).await.unwrap();
    let yours = place.inner.get(b"yours").await.unwrap().unwrap().value;
    place.inner.commit(Txn::new().put("mine", yours)).await.unwrap();
    assert!(matches!(store.get(b"mine").await, Err(Error::Corrupt(_))));
    assert!(matches!(store.range(&Range::prefix("m")).await, Err(Error::Corrupt(_))));
    assert_eq!(store.get(b"yours").await.unwrap().unwrap().value, "rich");

    let content: Vec<u8> = (0..300_000usize).map(|at| (at % 253) as u8).collect();
    blobs.put("a", content.into()).await.unwrap();
    let sealed = place.inner_blobs.get("a").await.unwrap().unwrap();
    place.inner_blobs.put("b", sealed.clone()).await.unwrap();
    assert!(matches!(blobs.get("b").await, Err(Error::Corrupt(_))), "under another name");
    for cut in [0, 43, 44, 60, 44 + 65_552, 44 + 2 * 65_552, sealed.len() - 1] {
        place.inner_blobs.delete("a").await.unwrap();
        place.inner_blobs.put("a", sealed.slice(..cut)).await.unwrap();
        assert!(matches!(blobs.get("a").await, Err(Error::Corrupt(_))), "cut to {cut}");
    }
    // Two chunks in each other's place.
    let (head, one, two) = (&sealed[..44], &sealed[44..44 + 65_552], &sealed[44 + 65_552..44 + 2 * 65_552]);
    place.inner_blobs.delete("a").await.unwrap();
    place.inner_blobs.put("a", [head, two, one, &sealed[44 + 2 * 65_552..]].concat().into()).await.unwrap();
    assert!(matches!(blobs.get("a").await, Err(Error::Corrupt(_))));
}

#[tokio::test]
async fn any_part_of_an_encrypted_blob() {
    let place = place();
    let (_, blobs) = place.open(&master("aa"), None).await.unwrap();
    for length in [0, 1, 65_535, 65_536, 65_537, 400_000] {
        let content: Vec<u8> = (0..length).map(|at| (at / 3 % 251) as u8).collect();
        let name = format!("b/{length}");
        let mut writer = blobs.write(&name).await.unwrap();
        for piece in content.chunks(70_001) {
            writer.push(Bytes::copy_from_slice(piece)).await.unwrap();
        }
        writer.finish().await.unwrap();
        assert_eq!(blobs.info(&name).await.unwrap().unwrap().bytes, length as u64);
        let ends = [0, 1, 65_535, 65_536, 65_537, 131_072, 399_999, 400_000, u64::MAX];
        for (start, end) in ends.iter().flat_map(|start| ends.iter().map(move |end| (*start, *end))) {
            let mut reader = blobs.read(&name, start..end).await.unwrap().unwrap();
            let read = store::blobs::collect(&mut *reader).await.unwrap();
            let at = |place: u64| usize::try_from(place).unwrap_or(usize::MAX).min(length);
            assert!(read == content[at(start)..at(end).max(at(start))], "{start}..{end} of {length}");
        }
    }
    assert!(blobs.read("none", 0..1).await.unwrap().is_none());
}

#[tokio::test]
async fn a_wrong_key_opens_nothing_and_an_old_one_is_replaced() {
    let place = place();
    let (store, blobs) = place.open(&master("aa"), None).await.unwrap();
    store.commit(Txn::new().put("old", "1")).await.unwrap();
    blobs.put("old", Bytes::from_static(b"1")).await.unwrap();
    let words = async |key: &MasterKey, old| place.open(key, old).await.err().unwrap().to_string();
    assert!(words(&master("bb"), None).await.contains(&master("aa").fingerprint()));
    assert!(words(&master("bb"), Some(&master("cc"))).await.contains("encrypted with the key"));
    assert!(check_clear(&*place.inner).await.is_err(), "not without a key");

    let (store, blobs) = place.open(&master("bb"), Some(&master("aa"))).await.unwrap();
    assert_eq!(store.get(b"old").await.unwrap().unwrap().value, "1");
    assert_eq!(blobs.get("old").await.unwrap().unwrap(), "1");
    store.commit(Txn::new().put("new", "2")).await.unwrap();
    let ids = |value: &Bytes| u32::from_le_bytes(value[1..5].try_into().unwrap());
    assert_eq!(ids(&place.inner.get(b"old").await.unwrap().unwrap().value), 1);
    assert_eq!(ids(&place.inner.get(b"new").await.unwrap().unwrap().value), 2, "a new data key");
    // From now on the old key is of no use, and the new one needs no help.
    assert!(place.open(&master("aa"), None).await.is_err());
    let (store, _) = place.open(&master("bb"), Some(&master("aa"))).await.unwrap();
    assert_eq!(store.range(&Range::prefix("")).await.unwrap().entries.len(), 2);
    for text in ["", "aa", &"g".repeat(64), &"a".repeat(66)] {
        assert!(MasterKey::parse(text).unwrap_err().to_string().contains("openssl rand -hex 32"));
    }
}

#[tokio::test]
async fn a_store_in_clear_is_not_mixed_and_can_be_moved() {
    let clear = place();
    clear.inner.commit(Txn::new().put("k", SECRET).put_numbered("n", "", "1").add("count", 3)).await.unwrap();
    clear.inner_blobs.put("b", Bytes::from_static(SECRET)).await.unwrap();
    assert!(clear.open(&master("aa"), None).await.err().unwrap().to_string().contains("values in clear"));
    check_clear(&*clear.inner).await.unwrap();

    let target = Place { inner: Arc::new(MemoryStore::after(100)), inner_blobs: MemoryBlobs::shared() };
    let (store, blobs) = target.open(&master("aa"), None).await.unwrap();
    let mut source = Local::at_rest(&*clear.inner, &*clear.inner_blobs).await.unwrap();
    let amount = import(&mut source, &store, &blobs, &mut |_| {}).await.unwrap();
    assert_eq!((amount.entries, amount.blobs), (3, 1));
    assert_eq!(store.get(b"k").await.unwrap().unwrap().value, SECRET);
    let beneath = target.inner.range(&Range::prefix("")).await.unwrap().entries;
    assert!(beneath.iter().all(|entry| !holds_secret(&entry.value)));
    // And back.
    let back = Place { inner: Arc::new(MemoryStore::after(200)), inner_blobs: MemoryBlobs::shared() };
    let mut source = Local::at_rest(&store, &blobs).await.unwrap();
    import(&mut source, &*back.inner, &*back.inner_blobs, &mut |_| {}).await.unwrap();
    let values = async |store: &dyn Store| {
        let entries = store.range(&Range::prefix("")).await.unwrap().entries;
        entries.into_iter().map(|entry| (entry.key, entry.value)).collect::<Vec<_>>()
    };
    assert_eq!(values(&*back.inner).await, values(&*clear.inner).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counters_lose_nothing_under_contention() {
    let place = place();
    let (store, _) = place.open(&master("aa"), None).await.unwrap();
    let (other, _) = place.open(&master("aa"), None).await.unwrap();
    let stores = [Arc::new(store), Arc::new(other)];
    let tasks: Vec<_> = (0..8usize)
        .map(|task| {
            let store = stores[task % 2].clone();
            tokio::spawn(async move {
                for number in 0..50u32 {
                    let txn =
                        Txn::new().add("sum", 1).add("sum", 2).put(format!("{task}/{number}"), "x").add("other", 1);
                    store.commit(txn).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let sum = stores[0].get(b"sum").await.unwrap().unwrap().value;
    assert_eq!(i64::from_le_bytes(sum[..].try_into().unwrap()), 8 * 50 * 3);
    // A conflict of the caller's own is told, not tried for ever.
    let own = Txn::new().expect_absent("0/0").add("sum", 1);
    assert!(matches!(stores[0].commit(own).await, Err(Error::Conflict)));
    stores[0].commit(Txn::new().put("text", "no counter")).await.unwrap();
    assert!(matches!(stores[0].commit(Txn::new().add("text", 1)).await, Err(Error::Invalid(_))));
}

#[tokio::test]
async fn limits_leave_room_for_what_encryption_adds() {
    let place = place();
    let (store, _) = place.open(&master("aa"), None).await.unwrap();
    let most = VALUE_BYTES_MAX - 47;
    store.commit(Txn::new().put("k", vec![1; most]).put_numbered("n", "", vec![1; most])).await.unwrap();
    assert_eq!(store.get(b"k").await.unwrap().unwrap().value.len(), most);
    assert!(matches!(store.commit(Txn::new().put("k", vec![1; most + 1])).await, Err(Error::TooLarge(_))));
    assert!(matches!(store.commit(Txn::new().put([0xff, 0xff].to_vec(), "x")).await, Err(Error::Invalid(_))));
    assert_eq!(store.get(&[0xff, 0xff]).await.unwrap(), None);
}

fn of_records(inner: &Arc<dyn Store>, key: &str) -> EncryptedStore {
    let records = Records::new(&master(key), vec![Bytes::from_static(b"f/"), Bytes::from_static(b"v/")]);
    EncryptedStore::of_records(inner.clone(), records, SystemRandom::shared())
}

#[tokio::test]
async fn some_records_are_sealed_and_the_rest_is_in_clear() {
    let inner: Arc<dyn Store> = MemoryStore::shared();
    inner.commit(Txn::new().put("f/old", SECRET)).await.unwrap();
    let store = of_records(&inner, "aa");
    let txn =
        Txn::new().put("f/1", SECRET).put("v/1", SECRET).put("g/1", SECRET).add("f", 2).put_numbered("q/", "", SECRET);
    store.commit(txn).await.unwrap();
    store.commit(Txn::new().add("f", 3)).await.unwrap();
    let beneath = inner.range(&Range::prefix("")).await.unwrap().entries;
    let sealed: Vec<_> =
        beneath.iter().filter(|entry| !holds_secret(&entry.value)).map(|entry| &entry.key[..]).collect();
    assert_eq!(
        sealed,
        [&b"f"[..], b"f/1", b"v/1"],
        "a counter is in clear, and what was there before until it is written"
    );
    let seen = store.snapshot().await.unwrap().range(&Range::prefix("f/").rows(1)).await.unwrap();
    assert_eq!((seen.entries[0].value.as_ref(), seen.more), (SECRET, true));
    assert_eq!(store.get(b"f").await.unwrap().unwrap().value, 5u64.to_le_bytes().as_slice());
    for key in ["f/old", "f/1", "v/1", "g/1"] {
        assert_eq!(store.get(key.as_bytes()).await.unwrap().unwrap().value, SECRET, "{key}");
    }
    store.commit(Txn::new().put("f/old", SECRET)).await.unwrap();
    let old = inner.get(b"f/old").await.unwrap().unwrap().value;
    assert!(is_sealed_record(&old) && !holds_secret(&old));

    let other = of_records(&inner, "bb");
    assert!(matches!(other.get(b"f/1").await, Err(Error::Corrupt(_))), "with another key");
    inner.commit(Txn::new().put("v/1", old)).await.unwrap();
    assert!(matches!(store.get(b"v/1").await, Err(Error::Corrupt(_))), "in another's place");
    let numbered = store.commit(Txn::new().put_numbered("f/", "", SECRET)).await;
    assert!(matches!(numbered, Err(Error::Invalid(_))));
}

#[tokio::test]
async fn what_a_whole_stores_key_has_encrypted_passes_the_seal_of_records() {
    let inner: Arc<dyn Store> = MemoryStore::shared();
    let through: Arc<dyn Store> = Arc::new(of_records(&inner, "aa"));
    let place = Place { inner: through.clone(), inner_blobs: MemoryBlobs::shared() };
    let (whole, _) = place.open(&master("cc"), None).await.unwrap();
    whole.commit(Txn::new().put("f/1", SECRET)).await.unwrap();
    let kept = inner.get(b"f/1").await.unwrap().unwrap().value;
    assert!(!is_sealed_record(&kept) && !holds_secret(&kept), "it is encrypted once");
    assert_eq!(through.get(b"f/1").await.unwrap().unwrap().value, kept);
    let beside = Place { inner, inner_blobs: place.inner_blobs.clone() };
    let (whole, _) = beside.open(&master("cc"), None).await.unwrap();
    assert_eq!(whole.get(b"f/1").await.unwrap().unwrap().value, SECRET);
}

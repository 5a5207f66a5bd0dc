//! What this release wrote must be readable for ever: frozen files of every format, opened and compared with what they
//! are known to hold. A change of a format makes a new set beside the old one and a way to read both.
//!
//! `crates/store/tests/fixtures/1` was made by `DUNLIN_WRITE_FIXTURES=1 cargo test -p store --test formats`.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base::{SeededRandom, SystemClock};
use bytes::Bytes;
use store::encrypted::{EncryptedBlobs, EncryptedStore, KeyRing, MasterKey};
use store::transfer::{Local, Repository, import};
use store::{Blobs, EmbeddedConfig, FileBlobs, MemoryBlobs, MemoryStore, Range, Store, Txn, embedded};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/1")
}

fn master() -> MasterKey {
    MasterKey::parse(&"0f".repeat(32)).unwrap()
}

/// What the fixtures hold.
fn txns() -> Vec<Txn> {
    vec![
        Txn::new().put("a/empty", "").put("a/text", "text").put(vec![0, 0xff, 0], vec![0, 1, 2, 0xff]),
        Txn::new().add("counter", -5).put("gone", "soon"),
        Txn::new().delete("gone").put_numbered("log/", "/x", "entry").add("counter", 12),
        Txn::new().put("a/text", "changed").put("large", vec![b'v'; 6_000]).relaxed(),
    ]
}

fn entries() -> Vec<(Bytes, Bytes)> {
    let entry = |key: &[u8], value: &[u8]| (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
    vec![
        entry(&[0, 0xff, 0], &[0, 1, 2, 0xff]),
        entry(b"a/empty", b""),
        entry(b"a/text", b"changed"),
        entry(b"counter", &7i64.to_le_bytes()),
        entry(b"large", &[b'v'; 6_000]),
        entry(b"log/\0\0\0\0\0\0\0\x03/x", b"entry"),
    ]
}

fn blobs() -> Vec<(&'static str, Bytes)> {
    vec![("empty", Bytes::new()), ("f/one", Bytes::from_static(b"content of one"))]
}

async fn check(store: &dyn Store, held: &dyn Blobs, entries: &[(Bytes, Bytes)]) {
    let found = store.range(&Range::prefix("")).await.unwrap().entries;
    assert_eq!(found.into_iter().map(|entry| (entry.key, entry.value)).collect::<Vec<_>>(), entries);
    for (name, content) in blobs() {
        assert_eq!(held.get(name).await.unwrap(), Some(content), "{name}");
    }
}

/// A copy that a test may open: an engine writes into its folder.
fn copied(name: &str) -> tempfile::TempDir {
    fn copy(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let to = to.join(entry.file_name());
            match entry.file_type().unwrap().is_dir() {
                true => copy(&entry.path(), &to),
                false => drop(fs::copy(entry.path(), to).unwrap()),
            }
        }
    }
    let folder = tempfile::tempdir().unwrap();
    copy(&fixtures().join(name), folder.path());
    folder
}

fn config(folder: &Path) -> EmbeddedConfig {
    EmbeddedConfig::new(folder, SystemClock::shared())
}

#[tokio::test]
async fn a_store_of_format_1_is_read() {
    let folder = copied("data");
    let store = embedded::open(config(&folder.path().join("store"))).unwrap();
    let held = FileBlobs::open(folder.path().join("blobs")).unwrap();
    check(&store, &held, &entries()).await;
    assert_eq!(store.snapshot().await.unwrap().version(), 4);
    assert_eq!(store.get(b"a/empty").await.unwrap().unwrap().version, 1);
    assert_eq!(store.commit(Txn::new().put("new", "x")).await.unwrap(), 5);
}

#[tokio::test]
async fn blobs_of_the_first_format_are_read() {
    let folder = copied("first-blobs");
    let held = FileBlobs::open(folder.path()).unwrap();
    assert_eq!(held.list("").await.unwrap(), ["empty", "f/one"]);
    for (name, content) in blobs() {
        assert_eq!(held.get(name).await.unwrap(), Some(content), "{name}");
    }
}

#[tokio::test]
async fn a_backup_of_format_1_is_restored() {
    let repository = Repository::for_restore(&fixtures().join("backups")).unwrap();
    assert_eq!(repository.names().unwrap(), ["20261125T190000Z"]);
    let mut reader = repository.open("20261125T190000Z").unwrap();
    reader.verify().await.unwrap();
    let (store, held) = (MemoryStore::after(reader.manifest().version), MemoryBlobs::new());
    import(&mut reader, &store, &held, &mut |_| {}).await.unwrap();
    check(&store, &held, &entries()).await;
}

#[tokio::test]
async fn an_encrypted_backup_of_format_1_is_decrypted() {
    let repository = Repository::for_restore(&fixtures().join("encrypted-backups")).unwrap();
    let mut reader = repository.open("20261125T190000Z").unwrap();
    let store: Arc<dyn Store> = Arc::new(MemoryStore::after(reader.manifest().version));
    let held = MemoryBlobs::shared();
    import(&mut reader, &*store, &*held, &mut |_| {}).await.unwrap();
    let random = SeededRandom::new(1);
    let ring = Arc::new(KeyRing::open(&*store, &*held, &master(), None, &*random).await.unwrap());
    let store = EncryptedStore::new(store, ring.clone(), random.clone());
    let mut entries = entries();
    // The ring was the first commit there, so the number is one more.
    entries[5].0 = Bytes::from_static(b"log/\0\0\0\0\0\0\0\x04/x");
    check(&store, &EncryptedBlobs::new(held, ring, random), &entries).await;
}

/// Not a test, except that it says so where it is not asked to work: makes the fixtures that do not exist.
#[tokio::test]
async fn write_fixtures() {
    let wanted = std::env::var_os("DUNLIN_WRITE_FIXTURES").is_some();
    if !wanted {
        assert!(fixtures().is_dir(), "the fixtures are part of the repository");
        return;
    }
    assert!(!fixtures().exists(), "what is frozen is not made anew");
    let data = fixtures().join("data");
    let store = embedded::open(config(&data.join("store"))).unwrap();
    let held = FileBlobs::open(data.join("blobs")).unwrap();
    let (inner, inner_blobs, random) = (MemoryStore::shared(), MemoryBlobs::shared(), SeededRandom::new(9));
    let ring = Arc::new(KeyRing::open(&*inner, &*inner_blobs, &master(), None, &*random).await.unwrap());
    let encrypted = EncryptedStore::new(inner.clone(), ring.clone(), random.clone());
    let encrypted_blobs = EncryptedBlobs::new(inner_blobs.clone(), ring, random);
    for txn in txns() {
        store.commit(txn.clone()).await.unwrap();
        encrypted.commit(txn).await.unwrap();
    }
    for (name, content) in blobs() {
        held.put(name, content.clone()).await.unwrap();
        encrypted_blobs.put(name, content.clone()).await.unwrap();
        let path = fixtures().join("first-blobs").join(format!("{name}~"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, [&content[..], blake3::hash(&content).as_bytes(), b"dunblob1"].concat()).unwrap();
    }
    for (folder, store, held) in
        [("backups", &store as &dyn Store, &held as &dyn Blobs), ("encrypted-backups", &*inner, &*inner_blobs)]
    {
        let repository = Repository::for_backup(&fixtures().join(folder)).unwrap();
        let mut source = Local::at_rest(store, held).await.unwrap();
        repository.back_up(&mut source, "20261125T190000Z", 1_795_633_200_000, "0.1.0", &mut |_| {}).await.unwrap();
    }
    store.close().await.unwrap();
    // Working files are no part of a format.
    for file in ["data/store/lock", "backups/lock", "encrypted-backups/lock"] {
        fs::remove_file(fixtures().join(file)).unwrap();
    }
}

//! Backups, restores and moves between engines: whole, verified, resumable, and refused where they would lose something.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base::SystemClock;
use bytes::Bytes;
use store::transfer::{Amount, Local, Repository, Source, check_finished, import};
use store::{Blobs, EmbeddedConfig, Error, FileBlobs, MemoryBlobs, MemoryStore, Range, Store, Txn, embedded};

fn quiet(_: Amount) {}

async fn fill(store: &dyn Store, blobs: &dyn Blobs, from: u32, to: u32) {
    for number in from..to {
        let value = vec![(number % 251) as u8; if number % 25 == 7 { 300_000 } else { 20 }];
        let txn = Txn::new().put(format!("k{number:06}"), value).put_numbered("n/", "", number.to_le_bytes().to_vec());
        store.commit(txn.relaxed()).await.unwrap();
    }
    for number in (from..to).step_by(100) {
        blobs.put(&format!("b/{number:06}"), vec![3; number as usize * 1_000].into()).await.unwrap();
    }
}

async fn content(store: &dyn Store, blobs: &dyn Blobs) -> (Vec<(Bytes, Bytes)>, Vec<(String, Bytes)>) {
    let entries = store.range(&Range::prefix("")).await.unwrap().entries;
    let mut held = Vec::new();
    for name in blobs.list("").await.unwrap() {
        let bytes = blobs.get(&name).await.unwrap().unwrap();
        held.push((name, bytes));
    }
    (entries.into_iter().map(|entry| (entry.key, entry.value)).collect(), held)
}

async fn back_up(store: &dyn Store, blobs: &dyn Blobs, folder: &Path, name: &str) -> store::transfer::Manifest {
    let repository = Repository::for_backup(folder).unwrap();
    let mut source = Local::of_now(store, blobs, 60_000).await.unwrap();
    repository.back_up(&mut source, name, 1, "test", &mut quiet).await.unwrap()
}

fn config(folder: PathBuf, version_min: u64) -> EmbeddedConfig {
    EmbeddedConfig { version_min, ..EmbeddedConfig::new(folder, SystemClock::shared()) }
}

#[tokio::test]
async fn a_backup_is_one_state_and_restores_into_any_engine() {
    let folder = tempfile::tempdir().unwrap();
    let backups = folder.path().join("backups");
    let store = embedded::open(config(folder.path().join("store"), 0)).unwrap();
    let blobs = FileBlobs::open(folder.path().join("blobs")).unwrap();
    fill(&store, &blobs, 0, 400).await;
    let before = content(&store, &blobs).await;

    // What is written while the backup reads is not in it.
    let repository = Repository::for_backup(&backups).unwrap();
    let mut source = Local::of_now(&store, &blobs, 60_000).await.unwrap();
    fill(&store, &MemoryBlobs::new(), 300, 500).await;
    store.commit(Txn::new().delete("k000001")).await.unwrap();
    let manifest = repository.back_up(&mut source, "one", 1, "test", &mut quiet).await.unwrap();
    assert_eq!((manifest.amount.entries, manifest.amount.blobs), (800, 4));
    assert!(manifest.pages > 1, "several pages");
    drop((source, repository));

    let repository = Repository::for_restore(&backups).unwrap();
    assert_eq!(repository.names().unwrap(), ["one"]);
    let (memory, memory_blobs) = (MemoryStore::after(manifest.version), MemoryBlobs::new());
    let mut reader = repository.open("one").unwrap();
    reader.verify().await.unwrap();
    let amount = import(&mut reader, &memory, &memory_blobs, &mut quiet).await.unwrap();
    assert_eq!(amount, manifest.amount);
    assert!(content(&memory, &memory_blobs).await == before);

    let again = embedded::open(config(folder.path().join("again"), manifest.version)).unwrap();
    let again_blobs = FileBlobs::open(folder.path().join("again-blobs")).unwrap();
    import(&mut reader, &again, &again_blobs, &mut quiet).await.unwrap();
    assert!(content(&again, &again_blobs).await == before);
    // Numbered keys go on after the old ones.
    again.commit(Txn::new().put_numbered("n/", "", "last")).await.unwrap();
    let last = again.range(&Range::prefix("n/").reversed().rows(1)).await.unwrap();
    assert_eq!(last.entries[0].value, "last");
}

#[tokio::test]
async fn a_second_backup_copies_only_new_blobs() {
    let folder = tempfile::tempdir().unwrap();
    let (store, blobs) = (MemoryStore::new(), MemoryBlobs::new());
    fill(&store, &blobs, 0, 300).await;
    back_up(&store, &blobs, folder.path(), "one").await;
    let inode = |name: &str| {
        use std::os::unix::fs::MetadataExt;
        fs::metadata(folder.path().join("blobs").join(name)).unwrap().ino()
    };
    let first = inode("b/000200~");
    blobs.delete("b/000100").await.unwrap();
    fill(&store, &blobs, 300, 400).await;
    let manifest = back_up(&store, &blobs, folder.path(), "two").await;
    assert_eq!((manifest.amount.blobs, inode("b/000200~")), (3, first));
    // The older backup still has what the newer one has no more.
    let repository = Repository::for_restore(folder.path()).unwrap();
    for (name, count) in [("one", 3), ("two", 3)] {
        let mut reader = repository.open(name).unwrap();
        reader.verify().await.unwrap();
        assert_eq!(reader.blobs(None).await.unwrap().blobs.len(), count);
    }
    let repository = Repository::for_backup(folder.path()).unwrap();
    assert!(matches!(Repository::for_backup(folder.path()), Err(Error::Invalid(_))), "one at a time");
    drop(repository);
}

#[tokio::test]
async fn any_damage_to_a_backup_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let (store, blobs) = (MemoryStore::new(), MemoryBlobs::new());
    fill(&store, &blobs, 0, 12).await;
    blobs.put("more/blob", Bytes::from_static(b"content")).await.unwrap();
    back_up(&store, &blobs, folder.path(), "one").await;
    let whole = async || {
        let mut reader = Repository::for_restore(folder.path())?.open("one")?;
        reader.verify().await
    };
    whole().await.unwrap();
    let files = ["one/manifest", "one/keys-000001", "one/blobs", "blobs/more/blob~", "blobs/b/000000~"];
    for path in files.map(|file| folder.path().join(file)) {
        let content = fs::read(&path).unwrap();
        let step = (content.len() / 40).max(1);
        for at in (0..content.len()).step_by(step) {
            let mut damaged = content.clone();
            damaged[at] ^= 0x10;
            fs::write(&path, &damaged).unwrap();
            assert!(whole().await.is_err(), "{path:?} byte {at}");
            fs::write(&path, &content[..at]).unwrap();
            assert!(whole().await.is_err(), "{path:?} cut to {at}");
        }
        fs::remove_file(&path).unwrap();
        assert!(whole().await.is_err(), "{path:?} missing");
        fs::write(&path, &content).unwrap();
    }
    whole().await.unwrap();
}

#[tokio::test]
async fn what_is_no_folder_of_backups_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("precious"), "text").unwrap();
    assert!(matches!(Repository::for_backup(folder.path()), Err(Error::Invalid(_))));
    assert!(matches!(Repository::for_restore(folder.path()), Err(Error::Invalid(_))));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    let newer = tempfile::tempdir().unwrap();
    fs::write(newer.path().join("dunlin-backups"), "2\n").unwrap();
    let Err(error) = Repository::for_restore(newer.path()) else { panic!("a newer format is refused") };
    assert!(error.to_string().contains("newer release"));
}

/// A source that fails after some reads.
struct Failing<'a> {
    inner: Local<'a>,
    reads: u32,
}

impl Failing<'_> {
    fn count(&mut self) -> Result<(), Error> {
        self.reads = self.reads.checked_sub(1).ok_or(Error::Io("cut".into()))?;
        Ok(())
    }
}

#[async_trait::async_trait]
impl Source for Failing<'_> {
    fn version(&self) -> u64 {
        self.inner.version()
    }
    async fn keys(&mut self, after: Option<&Bytes>) -> Result<store::transfer::KeyPage, Error> {
        self.count()?;
        self.inner.keys(after).await
    }
    async fn blobs(&mut self, after: Option<&str>) -> Result<store::transfer::BlobPage, Error> {
        self.count()?;
        self.inner.blobs(after).await
    }
    async fn blob(&mut self, name: &str, places: std::ops::Range<u64>) -> Result<Option<Bytes>, Error> {
        self.count()?;
        self.inner.blob(name, places).await
    }
}

#[tokio::test]
async fn a_move_that_was_cut_anywhere_goes_on() {
    let (store, blobs) = (MemoryStore::new(), MemoryBlobs::new());
    fill(&store, &blobs, 0, 600).await;
    let before = content(&store, &blobs).await;
    for first in 0..9 {
        let (target, target_blobs) = (Arc::new(MemoryStore::after(10_000)), MemoryBlobs::new());
        let mut reads = first;
        let mut rounds = 0;
        loop {
            let inner = Local::at_rest(&store, &blobs).await.unwrap();
            let done = import(&mut Failing { inner, reads }, &*target, &target_blobs, &mut quiet).await;
            rounds += 1;
            match done {
                Ok(amount) => {
                    assert_eq!((amount.entries, amount.blobs), (1_200, 6));
                    break;
                }
                Err(error) => assert_eq!(error.to_string(), "the store failed: cut"),
            }
            assert!(matches!(check_finished(&*target).await, Err(Error::Invalid(_))));
            reads += 4;
        }
        assert!(rounds >= 2);
        check_finished(&*target).await.unwrap();
        assert!(content(&*target, &target_blobs).await == before);
    }
}

#[tokio::test]
async fn a_move_is_refused_where_it_would_lose_something() {
    let (store, blobs) = (MemoryStore::new(), MemoryBlobs::new());
    fill(&store, &blobs, 0, 10).await;
    let refused = async |target: &MemoryStore, target_blobs: &MemoryBlobs, words: &str| {
        let mut source = Local::at_rest(&store, &blobs).await.unwrap();
        let error = import(&mut source, target, target_blobs, &mut quiet).await.unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    };
    refused(&MemoryStore::new(), &MemoryBlobs::new(), "count from commit 10").await;
    let full = MemoryStore::after(100);
    full.commit(Txn::new().put("a", "b")).await.unwrap();
    refused(&full, &MemoryBlobs::new(), "not empty").await;
    let full = MemoryBlobs::new();
    full.put("a", Bytes::new()).await.unwrap();
    refused(&MemoryStore::after(100), &full, "not empty").await;

    // Begun from one state, it does not go on from another.
    let (target, target_blobs) = (MemoryStore::after(100), MemoryBlobs::new());
    let inner = Local::at_rest(&store, &blobs).await.unwrap();
    import(&mut Failing { inner, reads: 2 }, &target, &target_blobs, &mut quiet).await.unwrap_err();
    let mut source = Local::at_rest(&store, &blobs).await.unwrap();
    store.commit(Txn::new().put("later", "x")).await.unwrap();
    assert!(source.keys(None).await.is_err(), "it was to stand still");
    refused(&target, &target_blobs, "another one at").await;
}

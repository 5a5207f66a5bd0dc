//! The contract of blobs, spoken to both engines. Damage to files is tested beside the file engine.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::sync::Arc;

use bytes::Bytes;
use store::{Blobs, Error, FileBlobs, MemoryBlobs};

async fn check(blobs: Arc<dyn Blobs>) {
    let content = Bytes::from(vec![7; 3_000_000]);
    assert_eq!(blobs.get("code/a").await.unwrap(), None);
    blobs.put("code/a", content.clone()).await.unwrap();
    blobs.put("code/a", Bytes::from_static(b"other")).await.unwrap();
    assert_eq!(blobs.get("code/a").await.unwrap(), Some(content), "the first put stands");
    blobs.put("code/a/b", Bytes::new()).await.unwrap();
    assert_eq!(blobs.get("code/a/b").await.unwrap(), Some(Bytes::new()), "a name below another name is another blob");
    blobs.put("code-x", Bytes::new()).await.unwrap();
    assert_eq!(blobs.list("").await.unwrap(), ["code-x", "code/a", "code/a/b"]);
    assert_eq!(blobs.list("code/").await.unwrap(), ["code/a", "code/a/b"]);
    assert_eq!(blobs.list("code/a/").await.unwrap(), ["code/a/b"]);
    assert_eq!(blobs.list("co").await.unwrap().len(), 3);
    assert_eq!(blobs.list("../").await.unwrap(), Vec::<String>::new());
    blobs.delete("code/a").await.unwrap();
    blobs.delete("code/a").await.unwrap();
    blobs.delete("no/such").await.unwrap();
    assert_eq!(blobs.get("code/a").await.unwrap(), None);
    assert_eq!(blobs.get("code/a/b/c").await.unwrap(), None);
    assert_eq!(blobs.list("").await.unwrap(), ["code-x", "code/a/b"]);
    for name in ["", "../etc", "a//b", ".tmp/1", "A"] {
        assert!(matches!(blobs.put(name, Bytes::new()).await, Err(Error::Invalid(_))), "{name}");
        assert!(matches!(blobs.get(name).await, Err(Error::Invalid(_))), "{name}");
        assert!(matches!(blobs.delete(name).await, Err(Error::Invalid(_))), "{name}");
    }
}

async fn race(blobs: Arc<dyn Blobs>) {
    let puts = (0..16u8).map(|number| {
        let blobs = Arc::clone(&blobs);
        tokio::spawn(async move {
            blobs.put("same/name", Bytes::from(vec![number; 10_000])).await.unwrap();
            blobs.put(&format!("own/{number:02}"), Bytes::from(vec![number; 100])).await.unwrap();
            // Whoever was first: it is whole, and it stays.
            blobs.get("same/name").await.unwrap().unwrap()
        })
    });
    let mut seen = Vec::new();
    for put in puts.collect::<Vec<_>>() {
        seen.push(put.await.unwrap());
    }
    assert!(seen.iter().all(|content| *content == seen[0] && content.len() == 10_000));
    assert_eq!(blobs.list("own/").await.unwrap().len(), 16);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_memory() {
    check(MemoryBlobs::shared()).await;
    race(MemoryBlobs::shared()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_files() {
    let folder = tempfile::tempdir().unwrap();
    check(Arc::new(FileBlobs::open(folder.path().join("a")).unwrap())).await;
    race(Arc::new(FileBlobs::open(folder.path().join("b")).unwrap())).await;
    // Another opening finds what the first has kept.
    let again = FileBlobs::open(folder.path().join("b")).unwrap();
    assert_eq!(again.list("").await.unwrap().len(), 17);
}

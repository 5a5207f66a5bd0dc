//! The contract of blobs, spoken to every engine. Damage to files is tested beside the file engine. The bucket engine is
//! tested against a double, with `--features bucket`.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

#[cfg(feature = "bucket")]
mod bucket_double;
mod support;

use std::sync::Arc;

use base::SystemRandom;
use bytes::Bytes;
use store::{Blobs, Error, FileBlobs, MemoryBlobs, PostgresBlobs, PostgresConfig};

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

fn content(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at / 3 % 251) as u8).collect()
}

async fn ranges(blobs: Arc<dyn Blobs>, length: usize, cuts: &[(u64, u64)]) {
    let whole = content(length);
    let mut writer = blobs.write("streamed").await.unwrap();
    for piece in whole.chunks(100_000) {
        writer.push(Bytes::copy_from_slice(piece)).await.unwrap();
    }
    assert_eq!(blobs.info("streamed").await.unwrap(), None, "not there before it is finished");
    writer.finish().await.unwrap();
    assert_eq!(blobs.info("streamed").await.unwrap().unwrap().bytes, length as u64);
    for (start, end) in cuts {
        let mut reader = blobs.read("streamed", *start..*end).await.unwrap().unwrap();
        let mut read = Vec::new();
        while let Some(piece) = reader.next().await.unwrap() {
            assert!(!piece.is_empty() && piece.len() <= 2 * 1024 * 1024);
            read.extend_from_slice(&piece);
        }
        let at = |place: u64| usize::try_from(place).unwrap_or(usize::MAX).min(length);
        assert_eq!(read, &whole[at(*start)..at(*end).max(at(*start))], "{start}..{end} of {length}");
    }
}

const CUTS: &[(u64, u64)] = &[
    (0, u64::MAX),
    (0, 0),
    (0, 1),
    (5, 3),
    (262_143, 262_145),
    (262_144, 524_288),
    (1, 2_000_000),
    (1_500_000, 9_000_000),
    (9_000_000, 9_000_001),
];

#[tokio::test]
async fn any_part_of_any_length() {
    for length in [0, 1, 262_143, 262_144, 262_145, 3_000_000] {
        let folder = tempfile::tempdir().unwrap();
        ranges(Arc::new(FileBlobs::open(folder.path()).unwrap()), length, CUTS).await;
        ranges(MemoryBlobs::shared(), length, CUTS).await;
    }
}

#[tokio::test]
async fn engines_agree_on_digests_and_on_pages_of_names() {
    let folder = tempfile::tempdir().unwrap();
    let engines: [Arc<dyn Blobs>; 3] = [
        MemoryBlobs::shared(),
        Arc::new(FileBlobs::open(folder.path()).unwrap()),
        Arc::new(in_postgres::blobs(&support::fresh_schema()).await),
    ];
    let mut names = ["a", "a-x", "a.b", "a/b", "a/b/c", "a/b-c", "a0", "b/a", "b/a/a", "b/b", "c"];
    for blobs in &engines {
        for name in names {
            blobs.put(name, Bytes::from(name)).await.unwrap();
        }
    }
    names.sort_unstable();
    let [memory, files, database] = &engines;
    for name in names {
        assert_eq!(memory.info(name).await.unwrap(), files.info(name).await.unwrap());
        assert_eq!(memory.info(name).await.unwrap(), database.info(name).await.unwrap());
    }
    assert_ne!(memory.info("a").await.unwrap(), memory.info("c").await.unwrap());
    for prefix in ["", "a", "a/", "a/b", "b/a", "x"] {
        for rows in 1..5 {
            for after in names.iter().map(|name| Some(*name)).chain([None, Some("a/a"), Some("zz")]) {
                let expected = memory.names(prefix, after, rows).await.unwrap();
                for blobs in [files, database] {
                    let found = blobs.names(prefix, after, rows).await.unwrap();
                    assert_eq!(found, expected, "{prefix:?} {after:?} {rows}");
                }
            }
        }
        assert_eq!(files.list(prefix).await.unwrap(), memory.list(prefix).await.unwrap());
    }
    assert_eq!(files.list("").await.unwrap(), names);
}

mod in_postgres {
    use std::time::{Duration, Instant};

    use tokio_postgres::{Client, NoTls};

    use super::*;

    pub async fn blobs(schema: &str) -> PostgresBlobs {
        let mut config = PostgresConfig::new(support::shared().url(), SystemRandom::shared());
        config.schema = schema.to_owned();
        PostgresBlobs::open(&config).await.unwrap()
    }

    async fn administrator() -> Client {
        let (client, connection) = tokio_postgres::connect(&support::shared().url(), NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    async fn count(admin: &Client, table: &str) -> i64 {
        admin.query_one(&format!("SELECT count(*) FROM {table}"), &[]).await.unwrap().get(0)
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_contract_holds() {
        check(Arc::new(blobs(&support::fresh_schema()).await)).await;
        let schema = support::fresh_schema();
        race(Arc::new(blobs(&schema).await)).await;
        // Those that came second have left nothing, and another node sees what the first has kept.
        let admin = administrator().await;
        assert_eq!(count(&admin, &format!("{schema}.chunks")).await, 17);
        assert_eq!(count(&admin, &format!("{schema}.uploads")).await, 0);
        assert_eq!(blobs(&schema).await.list("").await.unwrap().len(), 17);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn any_part_of_any_length() {
        for length in [0, 1, 262_144, 262_145, 3_000_000] {
            ranges(Arc::new(blobs(&support::fresh_schema()).await), length, CUTS).await;
        }
    }

    #[tokio::test]
    async fn an_upload_that_is_given_up_leaves_nothing() {
        let schema = support::fresh_schema();
        let (blobs, admin) = (blobs(&schema).await, administrator().await);
        let mut dropped = blobs.write("a").await.unwrap();
        dropped.push(vec![0; 3_000_000].into()).await.unwrap();
        assert!(count(&admin, &format!("{schema}.chunks")).await >= 8);
        drop(dropped);
        let started = Instant::now();
        while count(&admin, &format!("{schema}.chunks")).await + count(&admin, &format!("{schema}.uploads")).await > 0 {
            assert!(started.elapsed() < Duration::from_secs(30), "its chunks stay");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // What a node that died was writing goes with a later upload; whoever is only slow is told.
        let mut slow = blobs.write("b").await.unwrap();
        slow.push(vec![0; 2_000_000].into()).await.unwrap();
        admin.execute(&format!("UPDATE {schema}.uploads SET at = at - interval '2 hours'"), &[]).await.unwrap();
        blobs.put("c", Bytes::from_static(b"c")).await.unwrap();
        assert_eq!(count(&admin, &format!("{schema}.chunks")).await, 1);
        assert!(slow.finish().await.unwrap_err().to_string().contains("given up"));
        assert_eq!(blobs.list("").await.unwrap(), ["c"]);
    }

    #[tokio::test]
    async fn damage_is_noticed_and_a_broken_connection_is_not() {
        let schema = support::fresh_schema();
        let (blobs, admin) = (blobs(&schema).await, administrator().await);
        blobs.put("a", content(600_000).into()).await.unwrap();
        // Named by the schema that its last statement was about.
        let ended = format!(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'dunlin' AND query LIKE '%{schema}.%'"
        );
        assert!(admin.query_one(&ended, &[]).await.unwrap().get::<_, i64>(0) > 0);
        assert_eq!(blobs.get("a").await.unwrap().unwrap(), content(600_000), "asked again");
        for damage in [
            "UPDATE {}.chunks SET content = set_byte(content, 7, 9) WHERE number = 1",
            "UPDATE {}.chunks SET content = substr(content, 2) WHERE number = 2",
            "DELETE FROM {}.chunks WHERE number = 0",
            "UPDATE {}.blobs SET trailer = set_byte(trailer, 7, 9)",
            "UPDATE {}.blobs SET name = 'b'",
        ] {
            blobs.delete("a").await.unwrap();
            blobs.delete("b").await.unwrap();
            blobs.put("a", content(600_000).into()).await.unwrap();
            assert!(admin.execute(&damage.replace("{}", &schema), &[]).await.unwrap() > 0);
            let name = if damage.contains("'b'") { "b" } else { "a" };
            assert!(matches!(blobs.get(name).await, Err(Error::Corrupt(_))), "{damage}");
        }
    }
}

#[cfg(feature = "bucket")]
mod in_a_bucket {
    use std::sync::atomic::Ordering;

    use super::bucket_double::Double;
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_contract_holds() {
        let (_, blobs) = Double::start().await;
        check(Arc::new(blobs)).await;
        let (double, blobs) = Double::start().await;
        race(Arc::new(blobs)).await;
        let (requests, connections) =
            (double.requests.load(Ordering::SeqCst), double.connections.load(Ordering::SeqCst));
        assert!(connections * 2 < requests, "{connections} connections for {requests} requests: they are used again");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn any_part_of_any_length() {
        for length in [0, 1, 262_144, 3_000_000] {
            let (_, blobs) = Double::start().await;
            ranges(Arc::new(blobs), length, CUTS).await;
        }
        // Long ones go up in parts.
        let (double, blobs) = Double::start().await;
        ranges(Arc::new(blobs), 40_000_000, &[(0, u64::MAX), (16_777_210, 16_777_220)]).await;
        assert!(double.uploads.lock().is_empty());
    }

    #[tokio::test]
    async fn names_come_in_the_same_pages_as_from_the_model() {
        let (_, blobs) = Double::start().await;
        let model = MemoryBlobs::new();
        for number in 0..30 {
            for name in [format!("a/{number}"), format!("b-{number}/x"), format!("c{number}")] {
                blobs.put(&name, Bytes::from_static(b"x")).await.unwrap();
                model.put(&name, Bytes::from_static(b"x")).await.unwrap();
            }
        }
        for prefix in ["", "a", "a/", "a/1", "b-2", "b-2/", "c", "none"] {
            for after in [None, Some("a/15"), Some("b-20/x"), Some("zz")] {
                for rows in [1, 5, 100] {
                    let expected = model.names(prefix, after, rows).await.unwrap();
                    assert_eq!(
                        blobs.names(prefix, after, rows).await.unwrap(),
                        expected,
                        "{prefix:?} {after:?} {rows}"
                    );
                }
            }
        }
        assert_eq!(blobs.info("a/1").await.unwrap(), model.info("a/1").await.unwrap());
    }

    #[tokio::test]
    async fn damage_is_noticed_and_short_failures_are_not() {
        let (double, blobs) = Double::start().await;
        blobs.put("a", content(600_000).into()).await.unwrap();
        double.failing.store(2, Ordering::SeqCst);
        assert_eq!(blobs.get("a").await.unwrap().unwrap(), content(600_000), "asked again");
        let key = "dunlin/blobs/a";
        let whole = double.objects.lock()[key].clone();
        let length = whole.len();
        for at in [0, 300_000, 599_999, 600_000, length - 40, length - 9, length - 1] {
            let mut damaged = whole.to_vec();
            damaged[at] ^= 1;
            double.objects.lock().insert(key.into(), damaged.into());
            assert!(matches!(blobs.get("a").await, Err(Error::Corrupt(_))), "byte {at}");
        }
        for cut in [1, 40, 300_000, length - 1] {
            double.objects.lock().insert(key.into(), whole.slice(..cut));
            assert!(matches!(blobs.get("a").await, Err(Error::Corrupt(_))), "cut to {cut}");
        }
        double.objects.lock().insert("dunlin/blobs/b".into(), whole);
        assert!(matches!(blobs.get("b").await, Err(Error::Corrupt(_))), "under another name");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn over_tls_the_service_is_checked() {
        let (trusting, doubting) = Double::start_secure().await;
        trusting.put("a", Bytes::from_static(b"content")).await.unwrap();
        assert_eq!(trusting.get("a").await.unwrap().unwrap(), "content");
        let refused = tokio::time::timeout(std::time::Duration::from_millis(500), doubting.get("a")).await;
        assert!(!matches!(refused, Ok(Ok(_))), "a certificate that nobody vouches for");
    }

    #[tokio::test]
    async fn an_upload_that_is_dropped_leaves_nothing() {
        let (double, blobs) = Double::start().await;
        let mut writer = blobs.write("a").await.unwrap();
        writer.push(vec![0; 20_000_000].into()).await.unwrap();
        assert_eq!(double.uploads.lock().len(), 1);
        drop(writer);
        let started = std::time::Instant::now();
        while !double.uploads.lock().is_empty() {
            assert!(started.elapsed() < std::time::Duration::from_secs(30), "the parts stay");
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        assert_eq!(blobs.get("a").await.unwrap(), None);
    }
}

//! A large store is open again at once: how long it takes after a kill depends on its log, not on what it holds.
//!
//! A child (this test binary again, running only `child`) fills a store and is killed while it goes on. `DUNLIN_FILL_MB`
//! says with how much (default 48).

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use base::SystemClock;
use store::{EmbeddedConfig, Error, Store, Txn, embedded};

const FOLDER: &str = "DUNLIN_LARGE_FOLDER";
const VALUE_BYTES: usize = 64 * 1024;

fn fill_bytes() -> u64 {
    std::env::var("DUNLIN_FILL_MB").map_or(48, |megabytes| megabytes.parse::<u64>().unwrap()) << 20
}

/// Not a test: what the parent starts.
#[test]
#[ignore = "no test by itself: `a_large_store_is_open_again_within_a_second` starts it as the process that it looks after"]
fn child() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let store = Arc::new(embedded::open(EmbeddedConfig::new(folder, SystemClock::shared())).unwrap());
        let next = Arc::new(AtomicU64::new(0));
        let committers: Vec<_> = (0..8).map(|_| tokio::spawn(fill(Arc::clone(&store), Arc::clone(&next)))).collect();
        for committer in committers {
            committer.await.unwrap();
        }
    });
}

/// Writes until the process is killed, and says the number of each value that is committed.
async fn fill(store: Arc<embedded::Embedded>, next: Arc<AtomicU64>) {
    loop {
        let number = next.fetch_add(1, Ordering::SeqCst);
        let value = number.to_be_bytes().repeat(VALUE_BYTES / 8);
        while let Err(error) =
            store.commit(Txn::new().put(number.to_be_bytes().to_vec(), value.clone()).relaxed()).await
        {
            assert!(matches!(error, Error::Busy), "{error}");
            tokio::task::yield_now().await;
        }
        std::io::stdout().lock().write_all(format!("ack {number}\n").as_bytes()).unwrap();
    }
}

#[tokio::test]
async fn a_large_store_is_open_again_within_a_second() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child", "--ignored", "--nocapture", "--quiet"]).env(FOLDER, folder.path());
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let started = Instant::now();
    let (mut acknowledged, mut killed) = (Vec::new(), false);
    while let Some(Ok(line)) = lines.next() {
        acknowledged.extend(line.strip_prefix("ack ").and_then(|number| number.parse::<u64>().ok()));
        if !killed && acknowledged.len() as u64 * VALUE_BYTES as u64 >= fill_bytes() {
            child.kill().unwrap();
            killed = true;
        }
    }
    assert!(killed, "the child ended by itself: {:?}", child.wait());
    child.wait().unwrap();
    let filled = started.elapsed();
    let started = Instant::now();
    let store = embedded::open(EmbeddedConfig::new(folder.path(), SystemClock::shared())).unwrap();
    let snapshot = store.snapshot().await.unwrap();
    let opened = started.elapsed();
    for number in &acknowledged {
        let entry = snapshot.get(&number.to_be_bytes()).await;
        // A snapshot lives for some seconds; nothing is written meanwhile.
        let entry = if matches!(entry, Err(Error::TooOld)) { store.get(&number.to_be_bytes()).await } else { entry };
        assert_eq!(entry.unwrap().unwrap().value, number.to_be_bytes().repeat(VALUE_BYTES / 8), "{number} is lost");
    }
    println!(
        "{} values of 64 KB acknowledged ({} MB in {filled:.1?}), killed, 0 lost; open in {opened:.1?}",
        acknowledged.len(),
        (acknowledged.len() * VALUE_BYTES) >> 20
    );
    assert!(opened < Duration::from_secs(1));
    drop(snapshot);
    store.close().await.unwrap();
}

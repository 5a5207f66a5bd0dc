//! `dunlin doctor --store`: reads every key and every blob once, verifies their checksums, and says what takes room.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use bytes::Bytes;
use model::prefixes;
use serde::{Deserialize, Serialize};
use serde_json::json;
use store::{Blobs, Error, Lag, Range, Store};

use super::{block_on, existing, in_units};
use crate::places::Opened;

/// Most entries of one report.
const ROWS: usize = 20_000;
/// A report on keys ends after so many bytes.
const KEY_BYTES: usize = 4 * 1024 * 1024;
/// A report on blobs ends after so many bytes.
const BLOB_BYTES: u64 = 128 * 1024 * 1024;
/// Most blobs of one report.
const BLOB_ROWS: usize = 500;

/// What lies under one prefix.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sizes {
    /// Keys.
    pub entries: u64,
    /// Bytes of keys.
    pub key_bytes: u64,
    /// Bytes of values.
    pub value_bytes: u64,
}

/// A part of the keys, checked.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyReport {
    /// By the first byte of the keys.
    pub prefixes: BTreeMap<u8, Sizes>,
    /// What is damaged. Nothing beyond it was read.
    pub damage: Option<String>,
    /// Where the next part begins, in hexadecimal; none at the end.
    pub next: Option<String>,
}

/// A part of the blobs, checked.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobReport {
    /// How many.
    pub blobs: u64,
    /// Bytes of their contents.
    pub bytes: u64,
    /// What is damaged.
    pub damage: Vec<String>,
    /// Where the next part begins; none at the end.
    pub next: Option<String>,
}

/// How the store of a running server keeps up.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PaceReport {
    /// Commits since the server was started.
    pub commits: u64,
    /// Those that took more than 100 ms.
    pub slow_commits: u64,
    /// The longest, in microseconds.
    pub longest_us: u64,
    /// Commits that are durable in the log and not yet in the tree; none where there is no such log.
    pub lag_commits: Option<u64>,
    /// Their bytes.
    pub lag_bytes: Option<u64>,
    /// Commits of any node that this node's watches were not told of; none where there is only one.
    pub untold_commits: Option<u64>,
    /// The replicas of the database; none where there is no database.
    pub replicas: Option<Vec<ReplicaReport>>,
}

/// A replica of the database.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaReport {
    /// The name that it gives itself.
    pub name: String,
    /// Bytes of the database's log that it has not on its disk; none where the database does not tell.
    pub behind_bytes: Option<u64>,
    /// Whether commits wait for it.
    pub synchronous: bool,
}

impl ReplicaReport {
    fn line(&self) -> String {
        let behind = self.behind_bytes.map_or_else(
            || "unknown: it has not said yet, or the user of the store is no member of pg_monitor".to_owned(),
            |bytes| format!("{} behind", in_units(bytes)),
        );
        let kind = if self.synchronous { "commits wait for it" } else { "it may lack commits when it takes over" };
        format!("Replica {}: {behind}; {kind}", self.name)
    }
}

impl PaceReport {
    /// The report of an engine.
    pub fn of(stats: store::Stats) -> Self {
        let report = Self {
            commits: stats.commits,
            slow_commits: stats.slow_commits,
            longest_us: stats.longest_us,
            ..Self::default()
        };
        match stats.lag {
            None => report,
            Some(Lag::Tree { versions, log_bytes }) => {
                Self { lag_commits: Some(versions), lag_bytes: Some(log_bytes), ..report }
            }
            Some(Lag::Database { untold, replicas }) => {
                let replicas = replicas.into_iter().map(|replica| ReplicaReport {
                    name: replica.name,
                    behind_bytes: replica.behind_bytes,
                    synchronous: replica.synchronous,
                });
                Self { untold_commits: Some(untold), replicas: Some(replicas.collect()), ..report }
            }
        }
    }

    fn show(&self) {
        cli::print_data(&format!(
            "Commits since the start: {}; slower than 100 ms: {}; longest: {} ms",
            self.commits,
            self.slow_commits,
            self.longest_us.div_ceil(1_000)
        ));
        if let (Some(commits), Some(bytes)) = (self.lag_commits, self.lag_bytes) {
            cli::print_data(&format!("In the log, not yet in the tree: {commits} commits, {}", in_units(bytes)));
        }
        if let Some(commits) = self.untold_commits {
            cli::print_data(&format!("Commits that this node has not heard of: {commits}"));
        }
        for replica in self.replicas.iter().flatten() {
            cli::print_data(&replica.line());
        }
    }
}

/// Checks the keys beyond `after`, some of them.
pub async fn keys(store: &dyn Store, after: Option<&Bytes>) -> Result<KeyReport, Error> {
    let range = Range::prefix("").rows(ROWS).bytes(KEY_BYTES);
    let range = match after {
        Some(after) => range.beyond(after.clone()),
        None => range,
    };
    let page = match store.range(&range).await {
        Ok(page) => page,
        Err(Error::Corrupt(damage)) => return Ok(KeyReport { damage: Some(damage), ..KeyReport::default() }),
        Err(other) => return Err(other),
    };
    let mut report = KeyReport::default();
    for entry in &page.entries {
        let sizes = report.prefixes.entry(entry.key.first().copied().unwrap_or_default()).or_default();
        sizes.entries += 1;
        sizes.key_bytes += entry.key.len() as u64;
        sizes.value_bytes += entry.value.len() as u64;
    }
    report.next = page.entries.last().filter(|_| page.more).map(|last| hex::encode(&last.key));
    Ok(report)
}

/// Checks the blobs beyond `after`, some of them.
pub async fn blobs(blobs: &dyn Blobs, after: Option<&str>) -> Result<BlobReport, Error> {
    let names = blobs.names("", after, BLOB_ROWS).await?;
    let mut report = BlobReport::default();
    let count = names.names.len();
    for (number, name) in names.names.into_iter().enumerate() {
        match read(blobs, &name).await {
            Ok(bytes) => {
                report.blobs += u64::from(bytes.is_some());
                report.bytes += bytes.unwrap_or(0);
            }
            Err(Error::Corrupt(damage)) => report.damage.push(damage),
            Err(other) => return Err(other),
        }
        if report.bytes >= BLOB_BYTES || number + 1 == count {
            report.next = (names.more || number + 1 < count).then_some(name);
            break;
        }
    }
    Ok(report)
}

/// Reads a blob to its end; its length, or nothing if it went meanwhile.
async fn read(blobs: &dyn Blobs, name: &str) -> Result<Option<u64>, Error> {
    let Some(mut reader) = blobs.read(name, store::blobs::WHOLE).await? else { return Ok(None) };
    let mut bytes = 0;
    while let Some(piece) = reader.next().await? {
        bytes += piece.len() as u64;
    }
    Ok(Some(bytes))
}

/// Runs `dunlin doctor --store`.
///
/// # Errors
/// Something is damaged, or cannot be read.
pub fn run(options: &cli::Doctor, connection: &cli::Connection) -> Result<()> {
    let (keys, blobs, pace) = match (&options.data_dir, options.store.as_ref().and_then(Option::as_ref)) {
        (Some(_), Some(_)) => bail!("--store=URL and --data-dir name two stores: check one after the other"),
        // A store that was opened for this has done nothing yet.
        (Some(root), None) => block_on(async { of_opened(existing(root).await?).await })?,
        (None, Some(address)) => {
            block_on(async { of_opened(Opened::database(address, 0, base::SystemRandom::shared()).await?).await })?
        }
        (None, None) => of_server(&cli::Client::open(connection)?)?,
    };
    if options.json {
        let shown = |(byte, sizes): (&u8, &Sizes)| {
            let (name, owner) = owner(*byte);
            json!({"prefix": byte, "name": name, "owner": owner, "sizes": sizes})
        };
        let damage: Vec<&String> = keys.damage.iter().chain(&blobs.damage).collect();
        let prefixes: Vec<_> = keys.prefixes.iter().map(shown).collect();
        let blobs = json!({"count": blobs.blobs, "bytes": blobs.bytes});
        cli::print_data(&json!({"prefixes": prefixes, "blobs": blobs, "pace": pace, "damage": damage}).to_string());
    } else {
        show(&keys, &blobs, pace.as_ref());
    }
    if keys.damage.is_some() || !blobs.damage.is_empty() {
        bail!("the store is damaged: stop the server and restore the last backup beside it with `dunlin restore`");
    }
    Ok(())
}

/// All that is told: of a store that no server has open, nothing about its pace.
type Told = (KeyReport, BlobReport, Option<PaceReport>);

async fn of_opened(opened: Opened) -> Result<Told> {
    let (store, blobs) = (opened.with_records(), opened.blobs.clone());
    let mut all = (KeyReport::default(), BlobReport::default());
    loop {
        let after = all.0.next.take().map(hex::decode).transpose()?.map(Bytes::from);
        if !add_keys(&mut all.0, keys(&*store, after.as_ref()).await?) {
            break;
        }
    }
    loop {
        let after = all.1.next.take();
        if !add_blobs(&mut all.1, self::blobs(&*blobs, after.as_deref()).await?) {
            break;
        }
    }
    opened.engine.close().await?;
    Ok((all.0, all.1, None))
}

fn of_server(client: &cli::Client) -> Result<Told> {
    let mut all = (KeyReport::default(), BlobReport::default());
    loop {
        let question = json!({"after": all.0.next.take()});
        let answer = client.admin_post("/_dunlin/store/keys", &question)?;
        if !add_keys(&mut all.0, serde_json::from_slice(&answer)?) {
            break;
        }
    }
    loop {
        let question = json!({"after": all.1.next.take()});
        let answer = client.admin_post("/_dunlin/store/blobs", &question)?;
        if !add_blobs(&mut all.1, serde_json::from_slice(&answer)?) {
            break;
        }
    }
    let pace = client.admin_post("/_dunlin/store/pace", &json!({}))?;
    Ok((all.0, all.1, Some(serde_json::from_slice(&pace)?)))
}

/// Adds a part; says whether there is another.
fn add_keys(all: &mut KeyReport, part: KeyReport) -> bool {
    for (byte, sizes) in part.prefixes {
        let sum = all.prefixes.entry(byte).or_default();
        sum.entries += sizes.entries;
        sum.key_bytes += sizes.key_bytes;
        sum.value_bytes += sizes.value_bytes;
    }
    all.damage = part.damage;
    all.next = part.next;
    all.next.is_some()
}

fn add_blobs(all: &mut BlobReport, part: BlobReport) -> bool {
    all.blobs += part.blobs;
    all.bytes += part.bytes;
    all.damage.extend(part.damage);
    all.next = part.next;
    all.next.is_some()
}

fn owner(byte: u8) -> (&'static str, &'static str) {
    prefixes::of(byte).map_or(("unknown", "nobody"), |prefix| (prefix.name, prefix.owner))
}

fn show(keys: &KeyReport, blobs: &BlobReport, pace: Option<&PaceReport>) {
    let row = |(byte, sizes): (&u8, &Sizes)| {
        let (name, owner) = owner(*byte);
        vec![
            name.to_owned(),
            owner.to_owned(),
            sizes.entries.to_string(),
            in_units(sizes.key_bytes),
            in_units(sizes.value_bytes),
        ]
    };
    let rows: Vec<Vec<String>> = keys.prefixes.iter().map(row).collect();
    cli::print_table(&["KEYS OF", "KEPT BY", "COUNT", "KEYS", "VALUES"], &rows);
    cli::print_data("");
    cli::print_data(&format!("Blobs: {}, {}", blobs.blobs, in_units(blobs.bytes)));
    if let Some(pace) = pace {
        pace.show();
    }
    for damage in keys.damage.iter().chain(&blobs.damage) {
        cli::print_words(&format!("DAMAGED: {damage}"));
    }
    if keys.damage.is_none() && blobs.damage.is_empty() {
        cli::print_words("Every key and every blob was read; all checksums are right.");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use store::{MemoryBlobs, MemoryStore, Txn};

    #[tokio::test]
    async fn parts_add_up_to_all() {
        let store = MemoryStore::new();
        for number in 0..50u32 {
            let key = [b"tu"[number as usize % 2], 0, 0, 0, number as u8];
            store.commit(Txn::new().put(key.to_vec(), vec![0; 300_000])).await.unwrap();
        }
        let (mut all, mut parts) = (KeyReport::default(), 0);
        loop {
            let after = all.next.take().map(|next| Bytes::from(hex::decode(next).unwrap()));
            parts += 1;
            if !add_keys(&mut all, keys(&store, after.as_ref()).await.unwrap()) {
                break;
            }
        }
        assert!(parts > 2);
        let sizes = Sizes { entries: 25, key_bytes: 125, value_bytes: 7_500_000 };
        assert_eq!(all.prefixes, BTreeMap::from([(b't', sizes), (b'u', sizes)]));
    }

    #[tokio::test]
    async fn every_blob_is_seen_once() {
        let held = MemoryBlobs::new();
        for number in 0..1_200 {
            held.put(&format!("b/{number:04}"), Bytes::from_static(b"xyz")).await.unwrap();
        }
        let (mut all, mut parts) = (BlobReport::default(), 0);
        loop {
            let after = all.next.take();
            parts += 1;
            if !add_blobs(&mut all, blobs(&held, after.as_deref()).await.unwrap()) {
                break;
            }
        }
        assert_eq!((parts, all.blobs, all.bytes), (3, 1_200, 3_600));
    }
}

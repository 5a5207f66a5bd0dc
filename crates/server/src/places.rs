//! Where what is stored lies: keys in the data folder or in PostgreSQL; blobs beside them, or in an S3-compatible bucket.
//!
//! Invariant: what several nodes share, they share whole. Over PostgreSQL blobs are in the database or in a bucket, never
//! in a folder of one node.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use base::{Clock, Random, SystemRandom};
use cli::{Serve, StoreAddress};
use gateway::authority::system_roots;
use store::embedded::{self, Embedded, EmbeddedConfig, FolderLock, OpenError};
use store::postgres::{self, Postgres, PostgresConfig};
use store::{Blobs, FileBlobs, PostgresBlobs, Store, Version};

use crate::data_dir::DataDir;
use crate::encryption::sealing_records;

/// In the folder of a store that is not there but in a database: says where.
const ELSEWHERE: &str = "in-postgres";

/// An open store of either engine.
#[derive(Clone)]
pub enum Engine {
    /// In a folder.
    Embedded(Arc<Embedded>),
    /// In a database.
    Postgres(Arc<Postgres>),
}

impl Engine {
    /// The store as everybody uses it.
    pub fn shared(&self) -> Arc<dyn Store> {
        match self {
            Self::Embedded(store) => store.clone(),
            Self::Postgres(store) => store.clone(),
        }
    }

    /// Finishes what waits and closes the store.
    ///
    /// # Errors
    /// It did not end well; what was acknowledged is kept all the same.
    pub async fn close(&self) -> Result<(), store::Error> {
        match self {
            Self::Embedded(store) => store.close().await,
            Self::Postgres(store) => store.close().await,
        }
    }
}

/// Keys and blobs, open.
pub struct Opened {
    /// Keys.
    pub engine: Engine,
    /// Blobs.
    pub blobs: Arc<dyn Blobs>,
    /// Where the keys are, for people.
    pub place: String,
    /// The store of a folder through the key of its sealed records.
    records: Option<Arc<dyn Store>>,
    /// Of a data folder whose store is elsewhere.
    _lock: Option<FolderLock>,
}

impl Opened {
    /// The store and blobs below a folder; made if there are none.
    ///
    /// # Errors
    /// They cannot be opened, or another process has them.
    pub async fn folder(root: &Path, version_min: Version, clock: Arc<dyn Clock>) -> Result<Self> {
        let config = EmbeddedConfig { version_min, ..EmbeddedConfig::new(root.join("store"), clock) };
        let engine = Engine::Embedded(Arc::new(embedded::open(config)?));
        let blobs = Arc::new(FileBlobs::open(root.join("blobs"))?);
        let records = Some(sealing_records(engine.shared(), root, &SystemRandom::shared()).await?);
        Ok(Self { engine, blobs, place: root.display().to_string(), records, _lock: None })
    }

    /// The store with sealed records opened, as backups and other stores get it. Who needs no such record takes the engine's
    /// own, which is a step less.
    pub fn with_records(&self) -> Arc<dyn Store> {
        self.records.clone().unwrap_or_else(|| self.engine.shared())
    }

    /// The store and blobs in a database; made if there are none.
    ///
    /// # Errors
    /// The server cannot be reached or does not let us in, or the store is of a newer release.
    pub async fn database(address: &StoreAddress, version_min: Version, random: Arc<dyn Random>) -> Result<Self> {
        let config = config(address, random);
        let place = format!("postgres://{}", config.described()?);
        let opening = || format!("opening the store in {place}");
        let config = PostgresConfig { version_min, ..config };
        let engine = Engine::Postgres(Arc::new(postgres::open(config.clone()).await.with_context(opening)?));
        let blobs = Arc::new(PostgresBlobs::open(&config).await.with_context(opening)?);
        Ok(Self { engine, blobs, place, records: None, _lock: None })
    }
}

fn config(address: &StoreAddress, random: Arc<dyn Random>) -> PostgresConfig {
    PostgresConfig { roots_pem: system_roots(), ..PostgresConfig::new(address.reveal(), random) }
}

/// Opens what a server keeps, where its settings say.
///
/// # Errors
/// A place is no place, cannot be opened, or is not where this data folder's server kept it before.
pub async fn open(serve: &Serve, data: &DataDir, clock: Arc<dyn Clock>, random: Arc<dyn Random>) -> Result<Opened> {
    let folder = data.path("store");
    let in_use = |error: OpenError| match error {
        OpenError::InUse { .. } => anyhow!("{error}: stop that server, or choose another folder with --data-dir"),
        other => other.into(),
    };
    let mut opened = match &serve.store {
        None => {
            refuse_elsewhere(&folder)?;
            Opened::folder(data.root(), 0, clock).await.map_err(|error| match error.downcast::<OpenError>() {
                Ok(error) => in_use(error),
                Err(other) => other,
            })?
        }
        Some(address) => {
            // Keys, authority and usage records of the folder are for one process, whatever the engine.
            let lock = FolderLock::take(&folder).map_err(in_use)?;
            let opened = Opened::database(address, 0, random).await?;
            if folder.join("store.db").exists() {
                tracing::warn!(folder = %folder.display(), "the data folder holds a store of its own, which is not used: --store names another");
            }
            fs::write(folder.join(ELSEWHERE), format!("{}\n", opened.place)).context("writing into the data folder")?;
            Opened { _lock: Some(lock), ..opened }
        }
    };
    if let Some(address) = &serve.blobs {
        let (bucket, prefix) = parsed(address).with_context(|| format!("--blobs {address}"))?;
        opened.blobs = open_bucket(serve, bucket, prefix)?;
    }
    Ok(opened)
}

/// A server that is started without its `--store` by mistake would look as if all were lost.
fn refuse_elsewhere(folder: &Path) -> Result<()> {
    let path = folder.join(ELSEWHERE);
    let Ok(place) = fs::read_to_string(&path) else { return Ok(()) };
    bail!(
        "the server of this data folder keeps its store in {}: say so with --store or DUNLIN_STORE, or remove {} to use a store in the folder",
        place.trim(),
        path.display()
    )
}

/// Bucket and prefix of `s3://BUCKET/PREFIX`.
fn parsed(address: &str) -> Result<(&str, &str)> {
    let Some(rest) = address.strip_prefix("s3://") else {
        bail!("a place for blobs is s3://BUCKET or s3://BUCKET/PREFIX");
    };
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    if bucket.is_empty() {
        bail!("the name of the bucket is missing: s3://BUCKET/PREFIX");
    }
    Ok((bucket, prefix.trim_matches('/')))
}

#[cfg(feature = "bucket")]
fn open_bucket(serve: &Serve, bucket: &str, prefix: &str) -> Result<Arc<dyn Blobs>> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let key = variable("AWS_ACCESS_KEY_ID").zip(variable("AWS_SECRET_ACCESS_KEY"));
    Ok(Arc::new(store::blobs::BucketBlobs::new(&store::blobs::BucketConfig {
        bucket: bucket.to_owned(),
        prefix: prefix.to_owned(),
        endpoint: serve.blobs_endpoint.clone(),
        region: serve.blobs_region.clone(),
        key,
        roots_pem: system_roots(),
    })?))
}

#[cfg(not(feature = "bucket"))]
fn open_bucket(_serve: &Serve, bucket: &str, _prefix: &str) -> Result<Arc<dyn Blobs>> {
    bail!(
        "this program was built without the engine for buckets, which s3://{bucket} needs: build it with `cargo build --release -p server --features bucket`, or leave --blobs out"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_bucket_and_a_prefix() {
        assert_eq!(parsed("s3://b").unwrap(), ("b", ""));
        assert_eq!(parsed("s3://b/").unwrap(), ("b", ""));
        assert_eq!(parsed("s3://b/p/q/").unwrap(), ("b", "p/q"));
        for wrong in ["", "b", "s3://", "s3:///p", "gs://b", "/folder"] {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_folder_whose_store_is_elsewhere_is_not_used_by_mistake() {
        let folder = tempfile::tempdir().unwrap();
        assert!(refuse_elsewhere(folder.path()).is_ok());
        fs::write(folder.path().join(ELSEWHERE), "postgres://h:5432/d\n").unwrap();
        let words = refuse_elsewhere(folder.path()).unwrap_err().to_string();
        assert!(words.contains("postgres://h:5432/d: say so with --store"), "{words}");
    }
}

//! Where blobs lie: in the data folder, or in an S3-compatible bucket.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use cli::Serve;
use store::{Blobs, FileBlobs};

use crate::data_dir::DataDir;

/// Opens the blobs where the settings say.
///
/// # Errors
/// The place is no place, or this program was built without its engine.
pub fn blobs(serve: &Serve, data: &DataDir) -> Result<Arc<dyn Blobs>> {
    match &serve.blobs {
        None => Ok(Arc::new(FileBlobs::open(data.path("blobs"))?)),
        Some(address) => {
            let (bucket, prefix) = parsed(address).with_context(|| format!("--blobs {address}"))?;
            open(serve, bucket, prefix)
        }
    }
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
fn open(serve: &Serve, bucket: &str, prefix: &str) -> Result<Arc<dyn Blobs>> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let key = variable("AWS_ACCESS_KEY_ID").zip(variable("AWS_SECRET_ACCESS_KEY"));
    Ok(Arc::new(store::blobs::BucketBlobs::new(&store::blobs::BucketConfig {
        bucket: bucket.to_owned(),
        prefix: prefix.to_owned(),
        endpoint: serve.blobs_endpoint.clone(),
        region: serve.blobs_region.clone(),
        key,
        roots_pem: gateway::authority::system_roots(),
    })?))
}

#[cfg(not(feature = "bucket"))]
fn open(_serve: &Serve, bucket: &str, _prefix: &str) -> Result<Arc<dyn Blobs>> {
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
}

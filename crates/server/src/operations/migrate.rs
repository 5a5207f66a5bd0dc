//! `dunlin migrate`: all that one store holds into another, over the contract alone. It goes on where it was when it was
//! cut off, and ends with a comparison of both sides.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use store::encrypted::check_clear;
use store::transfer::{Local, import};
use store::{Blobs, Store};

use super::{Filling, Opened, block_on, in_words, telling};
use crate::encryption::{Masters, layered, of_file};

/// Runs the command.
///
/// # Errors
/// A side cannot be opened, the target is not empty, or the two differ at the end.
pub fn run(options: &cli::Migrate) -> Result<()> {
    let (from, to) = (folder(&options.from)?, folder(&options.to)?);
    let amount = block_on(async {
        let source = Opened::existing(from)?;
        // Not removed first: what an earlier try has written is not written again.
        let filling = Filling::begin(to, "migrating")?;
        let version = source.store.snapshot().await?.version();
        let opened = filling.open(version)?;
        let (from_store, from_blobs) = through(&source, options.from_key_file.as_deref(), from)
            .await
            .context("the source, whose key is named with --from-key-file")?;
        let (to_store, to_blobs) = through(&opened, options.to_key_file.as_deref(), to).await?;
        if options.from_key_file.is_none() && options.to_key_file.is_some() {
            check_clear(&*from_store).await.context("the source is encrypted: name its key with --from-key-file")?;
        }
        let mut reader = Local::at_rest(&*from_store, &*from_blobs).await?;
        let mut tell = telling("migrating");
        let moved = import(&mut reader, &*to_store, &*to_blobs, &mut tell).await;
        let amount = moved.with_context(|| {
            format!(
                "the same command goes on where this one ended; to begin anew, remove {} first",
                filling.beside().display()
            )
        })?;
        drop(reader);
        drop((from_store, from_blobs, to_store, to_blobs));
        filling.finish(opened).await?;
        source.store.close().await?;
        Ok(amount)
    })?;
    if options.json {
        cli::print_data(&serde_json::json!({"amount": amount}).to_string());
    } else {
        cli::print_words(&format!("Moved {} from {} to {}.", in_words(amount), options.from, options.to));
    }
    Ok(())
}

/// A side through its key; without one as it is kept, so that what is encrypted stays so.
async fn through(side: &Opened, key_file: Option<&Path>, data_dir: &Path) -> Result<(Arc<dyn Store>, Arc<dyn Blobs>)> {
    let (store, blobs) = (side.store.clone(), side.blobs.clone());
    match key_file {
        None => Ok((store, blobs)),
        Some(file) => {
            let masters = Masters { current: of_file(file, data_dir)?, old: None };
            layered(store, blobs, Some(&masters), &base::SystemRandom::shared()).await
        }
    }
}

/// The data folder that an address means.
fn folder(address: &str) -> Result<&Path> {
    if let Some((scheme, _)) = address.split_once("://") {
        bail!("this release has no engine for {scheme}://: name a data folder");
    }
    Ok(Path::new(address))
}

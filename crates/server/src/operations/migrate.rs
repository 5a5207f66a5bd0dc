//! `dunlin migrate`: all that one store holds into another, over the contract alone. It goes on where it was when it was
//! cut off, and ends with a comparison of both sides.

use std::path::Path;

use anyhow::{Context, Result, bail};
use store::Store;
use store::transfer::{Local, import};

use super::{Filling, Opened, block_on, in_words, telling};

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
        let mut reader = Local::at_rest(&*source.store, &*source.blobs).await?;
        let mut tell = telling("migrating");
        let moved = import(&mut reader, &*opened.store, &*opened.blobs, &mut tell).await;
        let amount = moved.context("the same command goes on where this one was cut off")?;
        drop(reader);
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

/// The data folder that an address means.
fn folder(address: &str) -> Result<&Path> {
    if let Some((scheme, _)) = address.split_once("://") {
        bail!("this release has no engine for {scheme}://: name a data folder");
    }
    Ok(Path::new(address))
}

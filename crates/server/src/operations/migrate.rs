//! `dunlin migrate`: all that one store holds into another, over the contract alone: between data folders, from one into
//! PostgreSQL, and back. It goes on where it was when it was cut off, and ends with a comparison of both sides.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use base::SystemRandom;
use cli::Place;
use store::encrypted::check_clear;
use store::transfer::{Amount, Local, check_finished, import};
use store::{Blobs, Store};

use super::{Filling, block_on, existing, in_words, telling};
use crate::encryption::{Masters, layered, of_file};
use crate::places::Opened;

/// Runs the command.
///
/// # Errors
/// A side cannot be opened, the target is not empty, or the two differ at the end.
pub fn run(options: &cli::Migrate) -> Result<()> {
    let (amount, from, to) = block_on(migrate(options))?;
    if options.json {
        cli::print_data(&serde_json::json!({"amount": amount}).to_string());
    } else {
        cli::print_words(&format!("Moved {} from {from} to {to}.", in_words(amount)));
    }
    Ok(())
}

async fn migrate(options: &cli::Migrate) -> Result<(Amount, String, String)> {
    if options.from == options.to {
        bail!("--from and --to are the same place");
    }
    let source = source(&options.from).await?;
    let version = source.engine.shared().snapshot().await?.version();
    let target = Target::begin(&options.to, version).await?;
    let (from, to) = (source.place.clone(), target.named());
    let anew = target.how_to_begin_anew();
    let (from_store, from_blobs) = through(&source, options.from_key_file.as_deref(), &options.from)
        .await
        .context("the source, whose key is named with --from-key-file")?;
    let (to_store, to_blobs) = through(&target.opened, options.to_key_file.as_deref(), &options.to).await?;
    if options.from_key_file.is_none() && options.to_key_file.is_some() {
        check_clear(&*from_store).await.context("the source is encrypted: name its key with --from-key-file")?;
    }
    let mut reader = Local::at_rest(&*from_store, &*from_blobs).await?;
    let mut tell = telling("migrating");
    let moved = import(&mut reader, &*to_store, &*to_blobs, &mut tell).await;
    let amount =
        moved.with_context(|| format!("the same command goes on where this one ended; to begin anew, {anew} first"))?;
    drop(reader);
    drop((from_store, from_blobs, to_store, to_blobs));
    target.finish().await?;
    source.engine.close().await?;
    Ok((amount, from, to))
}

async fn source(place: &Place) -> Result<Opened> {
    match place {
        Place::Folder(root) => existing(root).await,
        Place::Postgres(address) => {
            let opened = Opened::database(address, 0, SystemRandom::shared()).await?;
            if opened.engine.shared().snapshot().await?.version() == 0 {
                bail!("there is no store in {}", opened.place);
            }
            Ok(opened)
        }
    }
}

/// What is being filled. Until that is done it says so itself (`check_finished`), and a folder has no name yet either.
struct Target {
    opened: Opened,
    filling: Option<Filling>,
}

impl Target {
    /// Opens the target. What an earlier try has written is not written again.
    async fn begin(place: &Place, version: store::Version) -> Result<Self> {
        match place {
            Place::Folder(root) => {
                let filling = Filling::begin(root, "migrating")?;
                Ok(Self { opened: filling.open(version).await?, filling: Some(filling) })
            }
            Place::Postgres(address) => {
                let opened = Opened::database(address, 0, SystemRandom::shared()).await?;
                let store = opened.engine.shared();
                let empty = store.range(&store::Range::prefix("").rows(1)).await?.entries.is_empty();
                if !empty && check_finished(&*store).await.is_ok() {
                    bail!("there is a store in {} already: name another database", opened.place);
                }
                opened.engine.close().await?;
                // Only now that nobody's store can be meant its commits are counted on from the source's.
                let opened = Opened::database(address, version, SystemRandom::shared()).await?;
                Ok(Self { opened, filling: None })
            }
        }
    }

    fn named(&self) -> String {
        match &self.filling {
            Some(filling) => filling.target().display().to_string(),
            None => self.opened.place.clone(),
        }
    }

    fn how_to_begin_anew(&self) -> String {
        match &self.filling {
            Some(filling) => format!("remove {}", filling.beside().display()),
            None => format!("drop the schema dunlin in {}", self.opened.place),
        }
    }

    async fn finish(self) -> Result<()> {
        match self.filling {
            Some(filling) => filling.finish(self.opened).await,
            None => Ok(self.opened.engine.close().await?),
        }
    }
}

/// A side through its key; without one as it is kept, so that what is encrypted stays so.
async fn through(side: &Opened, key_file: Option<&Path>, place: &Place) -> Result<(Arc<dyn Store>, Arc<dyn Blobs>)> {
    let (store, blobs) = (side.with_records(), side.blobs.clone());
    let Some(file) = key_file else { return Ok((store, blobs)) };
    let data_dir = match place {
        Place::Folder(root) => root.as_path(),
        Place::Postgres(_) => Path::new(""),
    };
    let masters = Masters { current: of_file(file, data_dir)?, old: None };
    layered(store, blobs, Some(&masters), &SystemRandom::shared()).await
}

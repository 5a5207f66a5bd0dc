//! `dunlin restore`: a new data folder from a backup, whole or not at all.
//!
//! Everything is read and verified first, then written beside the folder, verified again, flushed, and renamed.

use anyhow::{Context, Result, bail};
use store::transfer::{Repository, import};

use super::{Filling, block_on, in_words, telling};

/// Runs the command.
///
/// # Errors
/// The folder is not empty, or the backup is damaged: then nothing is made.
pub fn run(options: &cli::Restore) -> Result<()> {
    let repository = Repository::for_restore(&options.source)?;
    let names = repository.names()?;
    let name = match &options.backup {
        Some(name) => name.clone(),
        None => match names.last() {
            Some(newest) => newest.clone(),
            None => bail!("there is no whole backup in {}", options.source.display()),
        },
    };
    let mut reader = repository.open(&name).with_context(|| format!("there are: {}", names.join(", ")))?;
    let filling = Filling::begin(&options.data_dir, "restoring")?;
    filling.clean()?;
    let amount = block_on(async {
        reader.verify().await.context("the backup cannot be used; nothing was restored")?;
        let opened = filling.open(reader.manifest().version).await?;
        let mut tell = telling("restoring");
        let amount = match import(&mut reader, &*opened.with_records(), &*opened.blobs, &mut tell).await {
            Ok(amount) => amount,
            Err(error) => {
                drop(opened);
                filling.clean()?;
                return Err(error).context("nothing was restored");
            }
        };
        filling.finish(opened).await?;
        Ok(amount)
    })?;
    if options.json {
        cli::print_data(&serde_json::json!({"backup": name, "amount": amount}).to_string());
    } else {
        cli::print_words(&format!("Restored {name} into {}: {}.", options.data_dir.display(), in_words(amount)));
        cli::print_words(
            "The root key and the authority are not part of a backup; the first start makes new ones, or copy keys/ from the old folder.",
        );
    }
    Ok(())
}

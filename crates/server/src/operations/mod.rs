//! What an operator does to the store: backup, restore, check, move. Each command is a file; this one opens what they
//! work on.
//!
//! A running server holds the lock of its folder, so `backup` and `doctor --store` ask it through the admin interface
//! (`served` answers); with `--data-dir` they open the folder of a server that is stopped.

pub mod backup;
pub mod check;
pub mod migrate;
pub mod restore;
pub mod served;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use base::SystemClock;
use store::Version;
use store::transfer::Amount;

use crate::places::Opened;

/// Opens the data folder of a server that is stopped.
pub async fn existing(root: &Path) -> Result<Opened> {
    if !root.join("store/store.db").is_file() {
        bail!("{} is no data folder of Dunlin: there is no store/store.db in it", root.display());
    }
    Opened::folder(root, 0, SystemClock::shared())
        .await
        .with_context(|| format!("opening {}; a server that runs there is asked without --data-dir", root.display()))
}

/// A place for a store that is being filled: beside its own, until it is whole.
pub struct Filling {
    target: PathBuf,
    beside: PathBuf,
}

impl Filling {
    /// A new data folder `target`, which must not exist or be empty. `word` tells apart what commands left unfinished.
    pub fn begin(target: &Path, word: &str) -> Result<Self> {
        let target = std::path::absolute(target)?;
        let Some(name) = target.file_name() else { bail!("{} is no folder that can be made", target.display()) };
        match fs::read_dir(&target) {
            Ok(mut entries) => {
                if entries.next().is_some() {
                    bail!("{} is not empty: name a new folder, or move this one away", target.display());
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("reading {}", target.display())),
        }
        let beside = target.with_file_name(format!("{}.{word}", name.to_string_lossy()));
        Ok(Self { target, beside })
    }

    /// Where it will be.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Where it lies until it is whole.
    pub fn beside(&self) -> &Path {
        &self.beside
    }

    /// Removes what an earlier try left.
    pub fn clean(&self) -> Result<()> {
        match fs::remove_dir_all(&self.beside) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("removing {}", self.beside.display()))
            }
            _ => Ok(()),
        }
    }

    /// Opens what is being filled.
    pub async fn open(&self, version_min: Version) -> Result<Opened> {
        crate::data_dir::DataDir::open(&self.beside)?;
        Opened::folder(&self.beside, version_min, SystemClock::shared()).await
    }

    /// Closes it and gives it its name: from here on it is there, whole.
    pub async fn finish(self, opened: Opened) -> Result<()> {
        opened.engine.close().await?;
        drop(opened);
        if self.target.exists() {
            // Only an empty folder can be removed so.
            fs::remove_dir(&self.target).with_context(|| format!("{} is not empty any more", self.target.display()))?;
        }
        fs::rename(&self.beside, &self.target).with_context(|| format!("making {}", self.target.display()))?;
        let parent = self.target.parent().unwrap_or(Path::new("/"));
        Ok(fs::File::open(parent)?.sync_all()?)
    }
}

/// Runs the work of a command.
pub fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

/// Tells a person how far a transfer is, about once a second.
pub fn telling(doing: &'static str) -> impl FnMut(Amount) + Send {
    let mut last = std::time::Instant::now();
    move |amount| {
        if last.elapsed().as_millis() >= 1_000 {
            last = std::time::Instant::now();
            cli::print_words(&format!("{doing}: {}", in_words(amount)));
        }
    }
}

/// `1,200 keys (3.1 MB), 4 blobs (12.0 MB)`
pub fn in_words(amount: Amount) -> String {
    let Amount { entries, key_bytes, blobs, blob_bytes } = amount;
    let (keys, rest) = (in_units(key_bytes), in_units(blob_bytes));
    format!("{entries} keys ({keys}), {blobs} blobs ({rest})")
}

/// Bytes as a person reads them.
pub fn in_units(bytes: u64) -> String {
    let mut size = bytes as f64;
    for unit in ["bytes", "KB", "MB", "GB"] {
        if size < 1_000.0 {
            return if unit == "bytes" { format!("{bytes} bytes") } else { format!("{size:.1} {unit}") };
        }
        size /= 1_000.0;
    }
    format!("{size:.1} TB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_well() {
        let texts = [
            (0, "0 bytes"),
            (999, "999 bytes"),
            (1_500, "1.5 KB"),
            (2_000_000, "2.0 MB"),
            (5_100_000_000_000, "5.1 TB"),
        ];
        for (bytes, text) in texts {
            assert_eq!(in_units(bytes), text);
        }
    }
}

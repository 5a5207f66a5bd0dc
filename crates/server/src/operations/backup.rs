//! `dunlin backup`: all that a server holds into a folder of backups, while it goes on serving.

use std::ops::Range as Places;

use anyhow::{Context, Result};
use async_trait::async_trait;
use base::SystemClock;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value as Json, json};
use store::transfer::{BlobPage, KeyPage, Local, Manifest, Repository, Source};
use store::{BlobInfo, Error, Version};

use super::{block_on, existing, in_words, telling};

/// Runs the command.
///
/// # Errors
/// Nothing is left that looks like a backup, unless it is a whole one.
pub fn run(options: &cli::Backup, connection: &cli::Connection) -> Result<()> {
    let mut repository = Repository::for_backup(&options.dest)?;
    repository.rereads = options.verify;
    let manifest = match &options.data_dir {
        Some(root) => block_on(async {
            let opened = existing(root).await?;
            let store = opened.with_records();
            let mut source = Local::at_rest(&*store, &*opened.blobs).await?;
            let manifest = write(&repository, &mut source).await?;
            drop(source);
            opened.engine.close().await?;
            Ok(manifest)
        })?,
        None => {
            let client = cli::Client::open(connection)?;
            let mut source = Remote::begin(&client)?;
            let written = block_on(write(&repository, &mut source));
            // Also after an error: it says more than that the server still waits.
            let ended = source.end();
            let manifest = written?;
            ended?;
            manifest
        }
    };
    if options.json {
        cli::print_data(&serde_json::to_string(&manifest)?);
    } else {
        cli::print_words(&format!(
            "The backup {} in {} is whole: {}.",
            manifest.name,
            options.dest.display(),
            in_words(manifest.amount)
        ));
        cli::print_words(&format!("Restore it with: dunlin restore {} --data-dir DIR", options.dest.display()));
    }
    Ok(())
}

async fn write(repository: &Repository, source: &mut dyn Source) -> Result<Manifest> {
    let now_ms = SystemClock::shared().now_ms();
    let name = name_at(now_ms, &repository.names()?)?;
    let mut tell = telling("backing up");
    Ok(repository.back_up(source, &name, now_ms, env!("CARGO_PKG_VERSION"), &mut tell).await?)
}

/// `20261125T184500Z`, or with a number behind it when there is such a backup.
fn name_at(now_ms: u64, taken: &[String]) -> Result<String> {
    let at = jiff::Timestamp::from_millisecond(i64::try_from(now_ms)?).context("the clock of this machine")?;
    let name = at.strftime("%Y%m%dT%H%M%SZ").to_string();
    let numbered = (1..).map(|number| if number == 1 { name.clone() } else { format!("{name}-{number:04}") });
    numbered.into_iter().find(|name| !taken.contains(name)).context("there is always another number")
}

/// A running server as a source.
struct Remote<'a> {
    client: &'a cli::Client,
    session: String,
    version: Version,
}

#[derive(Deserialize)]
struct Begun {
    session: String,
    version: Version,
}

#[derive(Deserialize)]
struct Listed {
    blobs: Vec<(String, u64, String)>,
    more: bool,
}

impl<'a> Remote<'a> {
    fn begin(client: &'a cli::Client) -> Result<Self> {
        let begun: Begun = serde_json::from_slice(&client.admin_post("/_dunlin/backup/begin", &json!({}))?)?;
        Ok(Self { client, session: begun.session, version: begun.version })
    }

    fn end(self) -> Result<()> {
        self.client.admin_post("/_dunlin/backup/end", &json!({"session": self.session})).map(drop)
    }

    fn ask(&self, what: &str, mut question: Json) -> Result<Vec<u8>, Error> {
        question["session"] = json!(self.session);
        let answer = self.client.admin_post(&format!("/_dunlin/backup/{what}"), &question);
        answer.map_err(|error| match error.downcast_ref::<cli::ApiError>() {
            Some(api) => Error::Io(format!("the server answered: {}", api.message)),
            None => Error::Io(error.to_string()),
        })
    }
}

/// The calls block: nothing else runs in this process.
#[async_trait]
impl Source for Remote<'_> {
    fn version(&self) -> Version {
        self.version
    }

    async fn keys(&mut self, after: Option<&Bytes>) -> Result<KeyPage, Error> {
        KeyPage::decode(self.ask("keys", json!({"after": after.map(hex::encode)}))?.into())
    }

    async fn blobs(&mut self, after: Option<&str>) -> Result<BlobPage, Error> {
        let unclear = |_| Error::Io("the server's list of blobs cannot be read".into());
        let listed: Listed = serde_json::from_slice(&self.ask("blobs", json!({"after": after}))?).map_err(unclear)?;
        let mut page = BlobPage { blobs: Vec::new(), more: listed.more };
        for (name, bytes, digest) in listed.blobs {
            let digest = hex::decode(digest).ok().and_then(|digest| digest.try_into().ok());
            let digest = digest.ok_or_else(|| Error::Io(format!("the digest of the blob {name} cannot be read")))?;
            page.blobs.push((name, BlobInfo { bytes, digest }));
        }
        Ok(page)
    }

    async fn blob(&mut self, name: &str, places: Places<u64>) -> Result<Option<Bytes>, Error> {
        let question = json!({"session": self.session, "name": name, "from": places.start, "to": places.end});
        match self.client.admin_post("/_dunlin/backup/blob", &question) {
            Ok(piece) => Ok(Some(piece.into())),
            Err(error) => match error.downcast_ref::<cli::ApiError>() {
                Some(api) if api.status == 404 => Ok(None),
                _ => Err(Error::Io(error.to_string())),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_times_and_sort_as_they_were_made() {
        let first = name_at(1_795_632_300_000, &[]).unwrap();
        assert_eq!(first, "20261125T184500Z");
        let second = name_at(1_795_632_300_000, std::slice::from_ref(&first)).unwrap();
        let third = name_at(1_795_632_300_000, &[first.clone(), second.clone()]).unwrap();
        assert!(first < second && second < third && third < name_at(1_795_632_301_000, &[]).unwrap());
    }
}

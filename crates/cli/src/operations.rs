//! Flags of the commands on the store. What they do is the server's: it opens folders, and speaks for a running server.

use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;

/// The address of a PostgreSQL database. It may hold a password, so nothing prints it.
#[derive(Clone, PartialEq, Eq)]
pub struct StoreAddress(String);

impl StoreAddress {
    /// Whether a text is meant as one: `postgres://…`.
    pub fn is(text: &str) -> bool {
        text.starts_with("postgres://") || text.starts_with("postgresql://")
    }

    /// All of it, for whoever connects.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl FromStr for StoreAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if Self::is(text) {
            return Ok(Self(text.to_owned()));
        }
        Err("a store is named as postgres://USER:PASSWORD@HOST:PORT/DATABASE".to_owned())
    }
}

impl std::fmt::Debug for StoreAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StoreAddress(…)")
    }
}

/// Where a store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In a data folder.
    Folder(PathBuf),
    /// In a database.
    Postgres(StoreAddress),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if StoreAddress::is(text) {
            return Ok(Self::Postgres(text.parse()?));
        }
        match text.split_once("://") {
            Some((scheme, _)) => Err(format!("there is no engine for {scheme}://: name a data folder or postgres://…")),
            None => Ok(Self::Folder(text.into())),
        }
    }
}

/// Where the keys of encryption at rest come from.
#[derive(Debug, Clone, Default, Args)]
pub struct KeyFlags {
    /// File (mode 0600) with the key that what is stored is encrypted with: 64 hexadecimal digits
    #[arg(long, env = "DUNLIN_ENCRYPTION_KEY_FILE", value_name = "FILE")]
    pub encryption_key_file: Option<PathBuf>,
    /// Shell command that prints that key, such as one that asks a key service
    #[arg(long, env = "DUNLIN_ENCRYPTION_KEY_COMMAND", value_name = "COMMAND", conflicts_with = "encryption_key_file")]
    pub encryption_key_command: Option<String>,
    /// File with the key before: what it protects is taken over by the new one
    #[arg(long, env = "DUNLIN_ENCRYPTION_OLD_KEY_FILE", value_name = "FILE")]
    pub encryption_old_key_file: Option<PathBuf>,
}

/// Flags of `dunlin backup`.
#[derive(Debug, Clone, Args)]
pub struct Backup {
    /// Folder of backups: new, empty, or one that has earlier backups
    #[arg(value_name = "DEST")]
    pub dest: PathBuf,
    /// Read this data folder, whose server is stopped, instead of asking a running server
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Read what earlier backups have of the blobs as well, and copy anew what has become damaged there
    #[arg(long)]
    pub verify: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Flags of `dunlin restore`.
#[derive(Debug, Clone, Args)]
pub struct Restore {
    /// Folder of backups
    #[arg(value_name = "SOURCE")]
    pub source: PathBuf,
    /// Data folder to make; it must be empty or not there
    #[arg(long, value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Which backup [default: the newest]
    #[arg(long, value_name = "NAME")]
    pub backup: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Flags of `dunlin migrate`.
#[derive(Debug, Clone, Args)]
pub struct Migrate {
    /// Data folder of a server that is stopped, or postgres://… whose servers are
    #[arg(long, value_name = "PLACE")]
    pub from: Place,
    /// Data folder to make, or postgres://… without a store in it
    #[arg(long, value_name = "PLACE")]
    pub to: Place,
    /// File with the encryption key of the source: its values are read in clear
    #[arg(long, value_name = "FILE")]
    pub from_key_file: Option<PathBuf>,
    /// File with the encryption key that the new store is to have
    #[arg(long, value_name = "FILE")]
    pub to_key_file: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_folder_or_a_database() {
        assert_eq!("/data".parse(), Ok(Place::Folder("/data".into())));
        let Ok(Place::Postgres(address)) = "postgres://u:hush@h/d".parse() else { panic!("no database") };
        assert_eq!(address.reveal(), "postgres://u:hush@h/d");
        assert!(!format!("{:?}", Place::Postgres(address)).contains("hush"));
        assert!("mysql://u:hush@h/d".parse::<Place>().unwrap_err().contains("mysql://"));
        assert!(!"mysql://u:hush@h/d".parse::<StoreAddress>().unwrap_err().contains("hush"));
    }
}

//! Flags of the commands on the store. What they do is the server's: it opens folders, and speaks for a running server.

use std::path::PathBuf;

use clap::Args;

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
    /// Data folder of a server that is stopped
    #[arg(long, value_name = "PLACE")]
    pub from: String,
    /// Data folder to make; it must be empty or not there
    #[arg(long, value_name = "PLACE")]
    pub to: String,
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

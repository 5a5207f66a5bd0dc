//! Flags of the commands on the store. What they do is the server's: it opens folders, and speaks for a running server.

use std::path::PathBuf;

use clap::Args;

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
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

//! The command line and the deploy planner. Speaks public and admin APIs only; knows nothing of the server's inside.
//!
//! `parse` reads the arguments; commands that start or inspect a server are handed back to whoever called, the others
//! run here. Exit codes: 0 done, 1 failed (or the invoked function failed), 2 wrong arguments.

mod client;
mod commands;
mod deploy;
mod operations;
mod output;
mod yaml;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

pub use client::{ApiError, Client, Connection};
pub use deploy::java::guest_digest as java_guest_digest;
pub use operations::{Backup, KeyFlags, Migrate, Place, Restore, StoreAddress};

/// Run functions written for AWS Lambda on your own machine.
#[derive(Debug, Parser)]
#[command(
    name = "dunlin",
    version,
    propagate_version = true,
    subcommand_required = true,
    arg_required_else_help = true
)]
struct Arguments {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    command: Command,
}

/// What `dunlin` can be asked to do.
#[derive(Debug, Subcommand)]
enum Command {
    /// Start a local cloud: loopback only, any credentials
    Dev(Serve),
    /// Start a production server: signed requests only
    Up(Serve),
    /// Deploy a serverless.yml, a folder, or a handler file
    Deploy(commands::deploy::Args),
    /// Call a function
    Invoke(commands::invoke::Args),
    /// Show a function's log
    Logs(commands::logs::Args),
    /// List running environments
    Ps(commands::ps::Args),
    /// Show what became of asynchronous events, and what waits
    Events(commands::events::Args),
    /// Show what serves each runtime; install the SDKs that Lambda provides
    Runtimes(commands::runtimes::Args),
    /// Bring container images to the platform, list them, take them away
    Images(commands::images::Args),
    /// Show what functions used and what that costs
    Bill(commands::bill::Args),
    /// Say which walls stand on this machine and which interpreters are usable; with --store, check what is stored
    Doctor(Doctor),
    /// Copy everything that a server holds into a folder of backups
    Backup(Backup),
    /// Make a data folder from a backup
    Restore(Restore),
    /// Copy everything from one store into a new one
    Migrate(Migrate),
    /// Compiles a program within a sandbox; started by the spawner only
    #[command(name = "__compiler", hide = true)]
    Compiler,
    /// The privileged helper; started by the server only
    #[command(name = "__spawner", hide = true)]
    Spawner,
}

/// Flags of `dunlin dev` and `dunlin up`.
#[derive(Debug, Clone, Args)]
pub struct Serve {
    /// Address and port to listen on
    #[arg(long, env = "DUNLIN_LISTEN", default_value = "127.0.0.1:4566", value_name = "ADDR:PORT")]
    pub listen: std::net::SocketAddr,
    /// Folder that everything is kept in [default: ./.dunlin for dev, /var/lib/dunlin or ~/.local/share/dunlin for up]
    #[arg(long, env = "DUNLIN_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// PEM file with the server's certificate chain
    #[arg(long, env = "DUNLIN_TLS_CERT", requires = "tls_key", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// PEM file with the certificate's key
    #[arg(long, env = "DUNLIN_TLS_KEY", requires = "tls_cert", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// A proxy in front ends TLS: plain HTTP may leave loopback
    #[arg(long, env = "DUNLIN_BEHIND_PROXY")]
    pub behind_proxy: bool,
    /// Host name that clients may use besides localhost and AWS names (may be repeated)
    #[arg(long = "domain", env = "DUNLIN_DOMAINS", value_delimiter = ',', value_name = "NAME")]
    pub domains: Vec<String>,
    /// Web origin that may use the control plane from a browser (may be repeated)
    #[arg(long = "allow-origin", env = "DUNLIN_ALLOW_ORIGINS", value_delimiter = ',', value_name = "ORIGIN")]
    pub allow_origins: Vec<String>,
    /// HOST:PORT that functions may reach although it is not public (may be repeated)
    #[arg(long = "allow-egress", env = "DUNLIN_ALLOW_EGRESS", value_delimiter = ',', value_name = "HOST:PORT")]
    pub allow_egress: Vec<String>,
    /// Folder that functions may have as a file system: [ACCOUNT/]fsap-ID=/FOLDER[:ro] (may be repeated)
    #[arg(long = "file-system", env = "DUNLIN_FILE_SYSTEMS", value_delimiter = ',', value_name = "ID=FOLDER[:ro]")]
    pub file_systems: Vec<String>,
    /// File with the passwords of registries that images are pulled from, in the form of Docker's config.json
    #[arg(long, env = "DUNLIN_REGISTRY_CONFIG", value_name = "FILE")]
    pub registry_config: Option<PathBuf>,
    /// HOST:PORT of a registry that images may be pulled from although it is not public (may be repeated)
    #[arg(long = "allow-registry", env = "DUNLIN_ALLOW_REGISTRIES", value_delimiter = ',', value_name = "HOST:PORT")]
    pub allow_registry: Vec<String>,
    /// Megabits a second of one environment's own connections, both ways together [default: 600]
    #[arg(long, env = "DUNLIN_EGRESS_MBIT", value_name = "MBIT")]
    pub egress_mbit: Option<std::num::NonZeroU64>,
    /// Hold every function to the processor share of its memory (1,769 MB make one processor), also on an idle machine
    #[arg(long, env = "DUNLIN_CPU_QUOTA")]
    pub cpu_quota: bool,
    /// Bytes a second of a streamed answer after its first 6 MB; Lambda has 2097152 [default: as quick as its reader]
    #[arg(long, env = "DUNLIN_STREAM_RATE", value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1..))]
    pub stream_rate: Option<u64>,
    /// Seconds that environments stay without a call [default: as long as the calls of each function make it worth]
    #[arg(long, env = "DUNLIN_KEEP_ALIVE", value_name = "SECONDS")]
    pub keep_alive: Option<u32>,
    /// Let what functions leave running (threads, programs) run on between calls, instead of freezing it as Lambda does
    #[arg(long, env = "DUNLIN_NO_FREEZE")]
    pub no_freeze: bool,
    /// Let several accounts share this machine although its kernel does not enforce every wall between them
    #[arg(long, env = "DUNLIN_ALLOW_SOFT_WALLS")]
    pub allow_soft_walls: bool,
    /// Calls that an account may run at once, and ten times as many in a second; more are throttled [default: 1000, any rate]
    #[arg(long, env = "DUNLIN_ACCOUNT_CONCURRENCY", value_name = "CALLS", value_parser = clap::value_parser!(u32).range(1..))]
    pub account_concurrency: Option<u32>,
    /// Refuse to start unless every wall of this machine is enforced by the kernel
    #[arg(long, env = "DUNLIN_REQUIRE_HARD_WALLS")]
    pub require_hard_walls: bool,
    /// Database to keep everything in that nodes share, instead of the data folder: postgres://USER:PASSWORD@HOST/DATABASE
    #[arg(long, env = "DUNLIN_STORE", hide_env_values = true, value_name = "URL")]
    pub store: Option<StoreAddress>,
    /// Bucket for blobs instead of the data folder or the database: s3://BUCKET/PREFIX; the key is that of AWS_ACCESS_KEY_ID
    #[arg(long, env = "DUNLIN_BLOBS", value_name = "PLACE")]
    pub blobs: Option<String>,
    /// Address of the bucket's service [default: that of AWS]
    #[arg(long, env = "DUNLIN_BLOBS_ENDPOINT", requires = "blobs", value_name = "URL")]
    pub blobs_endpoint: Option<String>,
    /// Region of the bucket
    #[arg(long, env = "DUNLIN_BLOBS_REGION", default_value = "us-east-1", value_name = "REGION")]
    pub blobs_region: String,
    /// Encryption of what is stored.
    #[command(flatten)]
    pub keys: KeyFlags,
    /// Log lines as JSON
    #[arg(long, env = "DUNLIN_LOG_JSON")]
    pub log_json: bool,
}

/// Flags of `dunlin doctor`.
#[derive(Debug, Clone, Args)]
pub struct Doctor {
    /// Read and verify everything that a running server holds, or the database postgres://…, and say what takes room
    #[arg(long, value_name = "URL", num_args = 0..=1, require_equals = true)]
    pub store: Option<Option<StoreAddress>>,
    /// With --store: check this data folder, whose server is stopped
    #[arg(long, requires = "store", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What is left to do after the arguments were read.
#[derive(Debug)]
pub enum Task {
    /// Be a server.
    Serve(Mode, Box<Serve>),
    /// Inspect this machine, or a store.
    Doctor(Doctor, Connection),
    /// Back a store up.
    Backup(Backup, Connection),
    /// Restore a backup.
    Restore(Restore),
    /// Move a store.
    Migrate(Migrate),
    /// Be the spawner.
    Spawner,
    /// Be the compiler of programs.
    Compiler,
    /// Nothing: the command ran, this is its exit code.
    Done(ExitCode),
}

/// Which kind of server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// `dunlin dev`
    Dev,
    /// `dunlin up`
    Up,
}

/// Reads the program's arguments and runs what needs no server of our own.
pub fn parse() -> Task {
    let Arguments { connection, command } = Arguments::parse();
    let result = match command {
        Command::Dev(serve) => return Task::Serve(Mode::Dev, Box::new(serve)),
        Command::Up(serve) => return Task::Serve(Mode::Up, Box::new(serve)),
        Command::Doctor(doctor) => return Task::Doctor(doctor, connection),
        Command::Backup(backup) => return Task::Backup(backup, connection),
        Command::Restore(restore) => return Task::Restore(restore),
        Command::Migrate(migrate) => return Task::Migrate(migrate),
        Command::Spawner => return Task::Spawner,
        Command::Compiler => return Task::Compiler,
        Command::Deploy(args) => {
            Client::open(&connection).and_then(|client| commands::deploy::run(&client, &args)).map(|()| true)
        }
        Command::Invoke(args) => Client::open(&connection).and_then(|client| commands::invoke::run(&client, &args)),
        Command::Logs(args) => {
            Client::open(&connection).and_then(|client| commands::logs::run(&client, &args)).map(|()| true)
        }
        Command::Events(args) => {
            Client::open(&connection).and_then(|client| commands::events::run(&client, &args)).map(|()| true)
        }
        Command::Ps(args) => {
            Client::open(&connection).and_then(|client| commands::ps::run(&client, &args)).map(|()| true)
        }
        Command::Runtimes(args) => {
            Client::open(&connection).and_then(|client| commands::runtimes::run(&client, &args)).map(|()| true)
        }
        Command::Images(args) => {
            Client::open(&connection).and_then(|client| commands::images::run(&client, &args)).map(|()| true)
        }
        Command::Bill(args) => {
            Client::open(&connection).and_then(|client| commands::bill::run(&client, &args)).map(|()| true)
        }
    };
    Task::Done(match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            fail(&error);
            ExitCode::FAILURE
        }
    })
}

/// Says an error with its causes, the first line being what happened.
pub fn fail(error: &anyhow::Error) {
    output::say(&format!("error: {error}"));
    for cause in error.chain().skip(1) {
        output::say(&format!("  because: {cause}"));
    }
}

/// Prints a line of data.
pub fn print_data(line: &str) {
    output::data(line);
}

/// Prints a line for people.
pub fn print_words(line: &str) {
    output::say(line);
}

/// Prints a table of data.
pub fn print_table(head: &[&str], rows: &[Vec<String>]) {
    output::table(head, rows);
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }
}

//! The server: settings, start and stop, admin endpoints. Everything is constructed in `wire`; nothing is decided here.
//!
//! The order of a start: settings → data folder → what guests run on → spawner → privileges away → runtime, store,
//! services, engine, front door → listen. A step that fails ends the start with a message; nothing is left running.

pub mod admin;
pub mod config;
pub mod data_dir;
pub mod doctor;
pub mod doors;
pub mod encryption;
pub mod images;
pub mod interpreters;
pub mod operations;
pub mod packs;
mod places;
pub mod registries;
pub mod wire;

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use base::Random;
use cli::{Mode, Serve};
use sandbox::process::{SpawnerConfig, SpawnerHandle, WallKind, launch_spawner};
use sandbox::{Interpreters, privilege};
use tracing_subscriber::EnvFilter;

use config::Config;
use data_dir::DataDir;
use encryption::Masters;

/// How long running calls get to end after a stop was asked for.
const GRACE: Duration = Duration::from_secs(60);

/// What is settled before the first thread exists.
pub struct Ground {
    /// The settings.
    pub config: Config,
    /// Certificate and key of the listener, read while they could be.
    pub tls: Option<tokio_rustls::TlsAcceptor>,
    /// The data folder.
    pub data: DataDir,
    /// Keys of what is stored, read while they could be.
    pub masters: Option<Masters>,
    /// Interpreters of the host.
    pub interpreters: Interpreters,
    /// The spawner, ready.
    pub spawner: SpawnerHandle,
    /// Names this run; never used again.
    pub boot_id: String,
    /// When the start began.
    pub started: Instant,
}

/// Runs a server until it is told to stop.
///
/// # Errors
/// The start failed; the message says what to do.
pub fn run(mode: Mode, serve: Serve) -> Result<()> {
    let started = Instant::now();
    init_log(serve.log_json);
    let config = Config::settle(mode, serve)?;
    let tls = match (&config.serve.tls_cert, &config.serve.tls_key) {
        (Some(certificate), Some(key)) => Some(gateway::tls::load(certificate, key)?),
        _ => None,
    };
    let masters = Masters::of(&config.serve.keys, &config.data_dir)?;
    let data = DataDir::open(&config.data_dir)?;
    data.write_runtimes()?;
    wire::write_trust(&data)?;
    let data = hand_over(data)?;
    if let Err(error) = privilege::raise_file_limit() {
        tracing::warn!(%error, "the limit of open files stays as it is; many connections or sandboxes will meet it");
    }
    let interpreters = interpreters::find();
    interpreters::precompile(&interpreters, &data);
    let boot_id = base::SystemRandom.hex(8);
    let mut spawner = SpawnerConfig::new(data.path("code"), data.path("runtime"), boot_id.clone());
    spawner.interpreters = interpreters.usable.clone();
    spawner.tmp_root = Some(data.root().to_owned());
    spawner.trust_bundle = Some(data.path(data_dir::TRUST_FILE));
    spawner.shared = config.file_systems.iter().map(|(_, folder)| folder.clone()).collect();
    spawner.cpu_quota = config.serve.cpu_quota;
    if config.serve.require_hard_walls {
        spawner.require = WallKind::ALL.to_vec();
    }
    let spawner = launch_spawner(&spawner).context("the sandboxes cannot be set up")?;
    if privilege::is_root() {
        privilege::drop_to(privilege::SERVICE_ID, privilege::SERVICE_ID).context("giving up root's privileges")?;
    }
    let ground = Ground { config, tls, data, masters, interpreters, spawner, boot_id, started };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(worker_threads()).enable_all().build()?;
    let done = runtime.block_on(serve_until_stopped(ground));
    runtime.shutdown_timeout(Duration::from_secs(1));
    done
}

/// As root: makes the folder that of the id that the server will have, at a path that this id can reach.
fn hand_over(data: DataDir) -> Result<DataDir> {
    if !privilege::is_root() {
        return Ok(data);
    }
    let id = privilege::SERVICE_ID;
    let reachable = privilege::prepare_data_dir(data.root(), id, id)
        .with_context(|| format!("handing {} over to the server's own user id", data.root().display()))?;
    Ok(data.at(&reachable))
}

/// Half of the processors are the platform's, half the functions'; on two, both are either's: with one worker a sixth of the
/// processors' time was idle beside 64 clients, for functions as for tables (`ARCHITECTURE.md`).
fn worker_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2).max(2).min(cores.get()))
}

async fn serve_until_stopped(ground: Ground) -> Result<()> {
    // Signals are caught before the port opens, so that a stop during the start is a stop.
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
    let server = wire::start(ground).await?;
    let asked = tokio::select! {
        _ = terminate.recv() => true,
        _ = interrupt.recv() => true,
        () = server.crippled() => false,
    };
    if asked {
        cli::print_words("Stopping: running calls are finished first; once more to stop at once.");
    }
    tokio::select! {
        () = server.stop(GRACE) => match asked {
            true => Ok(()),
            // Whoever watches over the server starts it again; one that stays up would fail every call.
            false => anyhow::bail!("the process that makes sandboxes has ended, and all functions with it; start the server again"),
        },
        _ = terminate.recv() => anyhow::bail!("stopped at once"),
        _ = interrupt.recv() => anyhow::bail!("stopped at once"),
    }
}

fn init_log(json: bool) {
    // What becomes of programs' own requests is for their logs: no tenant fills the operator's.
    let usual = || EnvFilter::new("info,wasmtime_wasi_http=off");
    let filter = EnvFilter::try_from_env("DUNLIN_LOG").unwrap_or_else(|_| usual());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if json {
        builder.json().init();
    } else {
        // Colours are for people; a file or a journal would hold their codes.
        builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).with_target(false).compact().init();
    }
}

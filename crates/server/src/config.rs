//! From arguments to settled settings: where data lies, what is listened on, whether that is allowed.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Result, bail};
use cli::{Mode, Serve};

/// Settings of one server, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// `dev` or `up`.
    pub mode: Mode,
    /// The arguments as they came.
    pub serve: Serve,
    /// The data folder, not yet made.
    pub data_dir: PathBuf,
    /// Whether the listener encrypts.
    pub tls: bool,
}

impl Config {
    /// Checks the arguments.
    ///
    /// # Errors
    /// The address is not allowed for this mode, or no data folder can be told.
    pub fn settle(mode: Mode, serve: Serve) -> Result<Self> {
        let tls = serve.tls_cert.is_some();
        may_listen(mode, serve.listen, tls, serve.behind_proxy)?;
        let data_dir = match (&serve.data_dir, mode) {
            (Some(folder), _) => folder.clone(),
            (None, Mode::Dev) => PathBuf::from(".dunlin"),
            (None, Mode::Up) => default_data_dir()?,
        };
        Ok(Self { mode, serve, data_dir: std::path::absolute(data_dir)?, tls })
    }
}

/// `dev` takes any credentials, so it never leaves loopback; `up` leaves it only behind encryption.
fn may_listen(mode: Mode, listen: SocketAddr, tls: bool, behind_proxy: bool) -> Result<()> {
    if listen.ip().is_loopback() {
        return Ok(());
    }
    match mode {
        Mode::Dev => bail!(
            "`dunlin dev` takes any credentials and therefore listens on loopback only, not on {listen}; use `dunlin up` to serve others"
        ),
        Mode::Up if tls || behind_proxy => Ok(()),
        Mode::Up => bail!(
            "{listen} is reachable from elsewhere, and requests would travel in clear text: give --tls-cert and --tls-key, or --behind-proxy if a proxy in front ends TLS"
        ),
    }
}

/// Where a production server keeps its data unless it is told otherwise.
pub(crate) fn default_data_dir() -> Result<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/dunlin"));
    }
    match std::env::var_os("HOME") {
        Some(home) => Ok(PathBuf::from(home).join(".local/share/dunlin")),
        None => bail!("HOME is not set: say where data is to be kept with --data-dir"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clear_text_never_leaves_loopback() {
        let loopback: SocketAddr = "127.0.0.1:4566".parse().unwrap();
        let anywhere: SocketAddr = "0.0.0.0:4566".parse().unwrap();
        for mode in [Mode::Dev, Mode::Up] {
            assert!(may_listen(mode, loopback, false, false).is_ok());
            assert!(may_listen(mode, anywhere, false, false).is_err());
        }
        assert!(may_listen(Mode::Up, anywhere, true, false).is_ok());
        assert!(may_listen(Mode::Up, anywhere, false, true).is_ok());
        assert!(may_listen(Mode::Dev, anywhere, true, true).is_err());
    }
}

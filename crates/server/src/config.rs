//! From arguments to settled settings: where data lies, what is listened on, whether that is allowed.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use cli::{Mode, Serve};
use model::{AccessPoint, OpenTarget};
use oci::credentials::Credentials;
use sandbox::process::SharedFolder;

use crate::registries;

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
    /// Folders that functions may have, with the names of their access points.
    pub file_systems: Vec<(AccessPoint, SharedFolder)>,
    /// What registries are told, read while it could be.
    pub registries: Credentials,
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
        let data_dir = std::path::absolute(data_dir)?;
        let file_systems = serve.file_systems.iter().map(|text| file_system(text, &data_dir)).collect::<Result<_>>()?;
        let registries = registries::credentials(serve.registry_config.as_deref())?;
        for target in &serve.allow_registry {
            target.parse::<OpenTarget>().context("--allow-registry")?;
        }
        Ok(Self { mode, serve, data_dir, tls, file_systems, registries })
    }
}

/// `[ACCOUNT/]fsap-ID=/FOLDER[:ro]`. Neither the platform's own data nor what holds it can be given away.
fn file_system(text: &str, data_dir: &Path) -> Result<(AccessPoint, SharedFolder)> {
    let Some((point, folder)) = text.split_once('=') else {
        bail!(
            "--file-system {text}: write fsap-0123456789abcdef0=/FOLDER, and :ro behind it if functions may only read"
        );
    };
    let point = point.parse().with_context(|| format!("--file-system {text}"))?;
    let (folder, read_only) = folder.strip_suffix(":ro").map_or((folder, false), |folder| (folder, true));
    let folder = PathBuf::from(folder);
    if !folder.is_absolute() {
        bail!("--file-system {text}: {} is no absolute path", folder.display());
    }
    let folder = folder.canonicalize().with_context(|| format!("--file-system {text}"))?;
    if !folder.is_dir() {
        bail!("--file-system {text}: {} is no folder", folder.display());
    }
    let data = without_links(data_dir);
    if folder.starts_with(&data) || data.starts_with(&folder) {
        bail!("--file-system {text}: the platform's own data is there ({})", data_dir.display());
    }
    Ok((point, SharedFolder { folder, read_only }))
}

/// A path that need not be there as a whole, without the links of what is there.
fn without_links(path: &Path) -> PathBuf {
    match (path.canonicalize(), path.parent(), path.file_name()) {
        (Ok(found), ..) => found,
        (_, Some(above), Some(name)) => without_links(above).join(name),
        _ => path.to_owned(),
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
    fn a_file_system_is_a_folder_and_never_the_platforms_own() {
        let folder = tempfile::tempdir().unwrap();
        let (shared, data) = (folder.path().join("shared"), folder.path().join("data"));
        std::fs::create_dir_all(&shared).unwrap();
        std::fs::create_dir_all(data.join("code")).unwrap();
        std::os::unix::fs::symlink(&data, folder.path().join("link")).unwrap();
        let read = |text: String| file_system(&text, &data);
        let id = "fsap-0123456789abcdef0";
        let (point, found) = read(format!("{id}={}:ro", shared.display())).unwrap();
        assert_eq!((point.id.as_str(), found.read_only), (id, true));
        assert_eq!(found.folder, shared.canonicalize().unwrap());
        assert!(!read(format!("123456789012/{id}={}", shared.display())).unwrap().1.read_only);
        for (name, folder) in [
            (id, data.clone()),
            (id, data.join("code")),
            (id, folder.path().to_owned()),
            (id, folder.path().join("link")),
            (id, folder.path().join("absent")),
            (id, PathBuf::from("/")),
            (id, PathBuf::from("relative")),
            ("data", shared),
        ] {
            assert!(read(format!("{name}={}", folder.display())).is_err(), "{name} {}", folder.display());
        }
        assert!(read(id.to_owned()).is_err());
    }

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

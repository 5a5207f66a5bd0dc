//! Secrets in files of the data folder.
//!
//! Invariants
//!   1. A secret's file appears whole or not at all, and is on disk before the secret is used.
//!   2. A file that others may read is refused: the secret in it is no longer one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use base::Random;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use model::Credentials;

use super::token::key_letters;

/// The root key, in the form of AWS's credentials files.
pub const ROOT_KEY_FILE: &str = "root-credentials";
/// What temporary keys are derived from.
pub const SESSION_SECRET_FILE: &str = "session-secret";

/// Why the keys of a data folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What happened.
        source: io::Error,
    },
    /// Others may read the file.
    #[error(
        "{path} can be read by other users (mode {mode:03o}): run `chmod 600 {path}`, and make a new key if they may have read it"
    )]
    TooOpen {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file does not hold what it should.
    #[error("{path} is damaged: restore it, or remove it to have a new one made")]
    Damaged {
        /// The file.
        path: PathBuf,
    },
}

/// The root key of a data folder; made if there is none. `folder` must exist.
pub fn root_key(folder: &Path, random: &dyn Random) -> Result<Credentials, Error> {
    let path = folder.join(ROOT_KEY_FILE);
    let text = read_or_make(&path, || {
        let (mut id, mut secret) = ([0; 16], [0; 30]);
        random.fill(&mut id);
        random.fill(&mut secret);
        format!(
            "[default]\naws_access_key_id = AKIA{}\naws_secret_access_key = {}\n",
            key_letters(&id),
            STANDARD.encode(secret)
        )
    })?;
    let field = |name: &str| {
        let found = text.lines().filter_map(|line| line.split_once('=')).find(|(key, _)| key.trim() == name);
        found.map(|(_, value)| value.trim().to_owned()).filter(|value| !value.is_empty())
    };
    match (field("aws_access_key_id"), field("aws_secret_access_key")) {
        (Some(access_key), Some(secret_key)) => {
            Ok(Credentials { access_key, secret_key, session_token: None, expires_at_ms: None })
        }
        _ => Err(Error::Damaged { path }),
    }
}

/// The secret that temporary keys are derived from; made if there is none.
pub(super) fn session_secret(folder: &Path, random: &dyn Random) -> Result<[u8; 32], Error> {
    let path = folder.join(SESSION_SECRET_FILE);
    let text = read_or_make(&path, || random.hex(32))?;
    let mut secret = [0; 32];
    hex::decode_to_slice(text.trim(), &mut secret).map_err(|_| Error::Damaged { path })?;
    Ok(secret)
}

fn read_or_make(path: &Path, make: impl FnOnce() -> String) -> Result<String, Error> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    match fs::metadata(path) {
        Ok(metadata) => {
            let mode = metadata.permissions().mode() & 0o777;
            if mode & 0o077 != 0 {
                return Err(Error::TooOpen { path: path.to_owned(), mode });
            }
            fs::read_to_string(path).map_err(io)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let text = make();
            write_whole(path, &text).map_err(io)?;
            Ok(text)
        }
        Err(error) => Err(io(error)),
    }
}

fn write_whole(path: &Path, text: &str) -> io::Result<()> {
    let part = path.with_extension("part");
    // A part that a crash left behind was never used.
    match fs::remove_file(&part) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&part, path)?;
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

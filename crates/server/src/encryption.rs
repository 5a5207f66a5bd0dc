//! Where the keys of encryption at rest come from: a file that only its owner reads, or a command that prints the key; and,
//! for what functions are configured with, a key that each data folder makes for itself.
//!
//! Invariants
//!   1. A key file does not lie in the data folder. A key beside what it encrypts protects nothing from whoever has both.
//!   2. The folder's own key is on the disk before anything is sealed with it. It is never made anew over sealed records.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use base::Random;
use bytes::Bytes;
use cli::KeyFlags;
use services::lambda::secret_records;
use store::encrypted::{EncryptedBlobs, EncryptedStore, KeyRing, MasterKey, Records, check_clear, is_sealed_record};
use store::{Blobs, Range, Store};

/// The keys that a start was given.
#[derive(Debug, Clone)]
pub struct Masters {
    /// Wraps the data keys.
    pub current: MasterKey,
    /// Wrapped them before; taken when `current` does not fit.
    pub old: Option<MasterKey>,
}

impl Masters {
    /// The keys that the flags name, if they name any.
    ///
    /// # Errors
    /// A file is readable by others or lies in `data_dir`, a command failed, or what came is no key.
    pub fn of(flags: &KeyFlags, data_dir: &Path) -> Result<Option<Self>> {
        let current = match (&flags.encryption_key_file, &flags.encryption_key_command) {
            (Some(file), _) => of_file(file, data_dir)?,
            (None, Some(command)) => of_command(command)?,
            (None, None) => return Ok(None),
        };
        let old = match &flags.encryption_old_key_file {
            Some(file) => Some(of_file(file, data_dir)?),
            None => None,
        };
        Ok(Some(Self { current, old }))
    }
}

/// The key in a file.
///
/// # Errors
/// It is readable by others, lies in `data_dir`, or holds no key.
pub fn of_file(path: &Path, data_dir: &Path) -> Result<MasterKey> {
    let opened = || format!("the key file {}", path.display());
    let mut file = std::fs::File::open(path).with_context(opened)?;
    let about = file.metadata().with_context(opened)?;
    if about.mode() & 0o077 != 0 {
        bail!(
            "the key file {path} can be read by others (mode {mode:03o}): chmod 600 {path}",
            path = path.display(),
            mode = about.mode() & 0o777
        );
    }
    let within = data_dir.canonicalize().is_ok_and(|data| path.canonicalize().is_ok_and(|file| file.starts_with(data)));
    if within {
        bail!("the key file {} lies in the data folder that it is to protect: keep it elsewhere", path.display());
    }
    let mut text = String::new();
    // A key is 64 digits; whatever is longer is none.
    Read::by_ref(&mut file).take(4_096).read_to_string(&mut text).with_context(opened)?;
    MasterKey::parse(&text).with_context(opened)
}

/// The key that a command prints.
fn of_command(command: &str) -> Result<MasterKey> {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", command]).stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = shell.output().context("running the command that prints the encryption key")?;
    if !output.status.success() {
        bail!("the command that prints the encryption key failed ({})", output.status);
    }
    let text = String::from_utf8_lossy(&output.stdout);
    MasterKey::parse(&text).context("what the command printed")
}

/// The key of a data folder's sealed records.
pub const RECORDS_KEY_FILE: &str = "records.key";

/// The store of a data folder with the records sealed that hold environment variables. The folder gets its key here.
///
/// # Errors
/// The key is missing where there are sealed records, is damaged, or cannot be written.
pub async fn sealing_records(store: Arc<dyn Store>, root: &Path, random: &Arc<dyn Random>) -> Result<Arc<dyn Store>> {
    let path = root.join(RECORDS_KEY_FILE);
    let key = match fs::read_to_string(&path) {
        Ok(text) => MasterKey::parse(&text).with_context(|| format!("the key {}", path.display()))?,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            if has_sealed(&*store).await? {
                bail!(
                    "{} is missing, the key that the functions of this folder are sealed with: put it back, or restore a backup into a new folder",
                    path.display()
                );
            }
            new_key(&path, &**random)?
        }
        Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
    };
    let records = Records::new(&key, secret_records().into());
    Ok(Arc::new(EncryptedStore::of_records(store, records, random.clone())))
}

async fn has_sealed(store: &dyn Store) -> Result<bool> {
    for prefix in secret_records() {
        let mut range = Range::prefix(prefix);
        loop {
            let page = store.range(&range).await?;
            if page.entries.iter().any(|entry| is_sealed_record(&entry.value)) {
                return Ok(true);
            }
            let Some(last) = page.entries.last().filter(|_| page.more) else { break };
            range = range.beyond(Bytes::clone(&last.key));
        }
    }
    Ok(false)
}

/// Makes a key and has it on the disk, name and all.
fn new_key(path: &Path, random: &dyn Random) -> Result<MasterKey> {
    let text = random.hex(32);
    let write = || -> std::io::Result<()> {
        let beside = path.with_extension("new");
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        writeln!(file, "{text}")?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        base::folders::flush_name(path)
    };
    write().with_context(|| format!("writing {}", path.display()))?;
    Ok(MasterKey::parse(&text)?)
}

/// A store and blobs as their users see them: through the keys, if there are some.
///
/// # Errors
/// The keys do not fit, or are missing.
pub async fn layered(
    store: Arc<dyn Store>,
    blobs: Arc<dyn Blobs>,
    masters: Option<&Masters>,
    random: &Arc<dyn Random>,
) -> Result<(Arc<dyn Store>, Arc<dyn Blobs>)> {
    let Some(Masters { current, old }) = masters else {
        check_clear(&*store).await?;
        return Ok((store, blobs));
    };
    let ring = Arc::new(KeyRing::open(&*store, &*blobs, current, old.as_ref(), &**random).await?);
    let encrypted = EncryptedStore::new(store, ring.clone(), random.clone());
    Ok((Arc::new(encrypted), Arc::new(EncryptedBlobs::new(blobs, ring, random.clone()))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    fn key_file(folder: &Path, name: &str, mode: u32) -> PathBuf {
        let path = folder.join(name);
        fs::write(&path, format!("{}\n", "5c".repeat(32))).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn a_key_is_for_its_owner_and_not_beside_the_data() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        fs::create_dir(&data).unwrap();
        let words = |path: &Path| of_file(path, &data).unwrap_err().to_string();
        of_file(&key_file(folder.path(), "key", 0o600), &data).unwrap();
        of_file(&key_file(folder.path(), "readonly", 0o400), &data).unwrap();
        assert!(words(&key_file(folder.path(), "open", 0o640)).contains("chmod 600"));
        assert!(words(&key_file(&data, "key", 0o600)).contains("keep it elsewhere"));
        assert!(words(&folder.path().join("none")).contains("the key file"));
    }

    #[tokio::test]
    async fn a_folder_keeps_its_own_key_and_never_replaces_it_over_sealed_records() {
        let folder = tempfile::tempdir().unwrap();
        let (store, random) = (store::MemoryStore::shared(), base::SystemRandom::shared());
        let opened = async || sealing_records(store.clone(), folder.path(), &random).await;
        let key = [&secret_records()[1][..], b"x"].concat();
        opened().await.unwrap();
        let path = folder.path().join(RECORDS_KEY_FILE);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        // Nothing is sealed with it yet: it may be lost.
        fs::remove_file(&path).unwrap();
        opened().await.unwrap().commit(store::Txn::new().put(key.clone(), "{}")).await.unwrap();
        assert!(is_sealed_record(&store.get(&key).await.unwrap().unwrap().value));
        assert_eq!(opened().await.unwrap().get(&key).await.unwrap().unwrap().value, "{}");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, "no key").unwrap();
        assert!(opened().await.err().unwrap().to_string().contains(RECORDS_KEY_FILE));
        fs::remove_file(&path).unwrap();
        let words = opened().await.err().unwrap().to_string();
        assert!(words.contains("is missing") && words.contains("put it back") && !path.exists(), "{words}");
        fs::write(&path, text).unwrap();
        assert_eq!(opened().await.unwrap().get(&key).await.unwrap().unwrap().value, "{}");
    }

    #[test]
    fn a_command_prints_the_key() {
        let key = of_command("printf '%064d' 7").unwrap();
        assert_eq!(key.fingerprint(), MasterKey::parse(&format!("{:064}", 7)).unwrap().fingerprint());
        assert!(of_command("exit 3").unwrap_err().to_string().contains("exit status: 3"));
        assert!(of_command("echo no key").unwrap_err().to_string().contains("what the command printed"));
    }
}

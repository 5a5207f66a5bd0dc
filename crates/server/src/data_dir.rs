//! The data folder: made private, checked, and filled with what guests run on.
//!
//! | entry       | is                                                        | kept by          |
//! |-------------|-----------------------------------------------------------|------------------|
//! | `store/`    | keys and values, or where else they are                   | `store`, `places`|
//! | `blobs/`    | code packages                                             | `store`          |
//! | `usage/`    | usage records that are not yet in the store               | `services::usage`|
//! | `keys/`     | root key, session secret; files of mode 0600              | `services::iam`  |
//! | `records.key`| what records with environment variables are sealed with | `encryption`    |
//! | `authority/`| certificate authority; its key has mode 0600              | `gateway`        |
//! | `code/`     | unpacked packages, made anew when missing                 | `compute`        |
//! | `runtime/`  | guest side of managed runtimes, written at each start     | this file        |
//! | `runtime/packs/` | SDKs for functions, and links to them beside it      | `packs`          |
//! | `trust.pem` | certificates that guests trust, written at each start     | `wire`           |
//!
//! Invariant: the folder has mode 0700 and belongs to whoever runs the server. What sandboxes read below it is readable
//! by all, and reaches them as cloned mounts, never by path.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Certificates that guests trust, below the data folder.
pub const TRUST_FILE: &str = "trust.pem";

/// The checked data folder.
#[derive(Debug, Clone)]
pub struct DataDir {
    root: PathBuf,
}

/// Guest-side files, by their place below `/var/runtime`.
const RUNTIME_FILES: &[(&str, &str)] = &[
    ("nodejs/bootstrap.cjs", include_str!("../../../runtimes/nodejs/bootstrap.cjs")),
    ("nodejs/channel.cjs", include_str!("../../../runtimes/nodejs/channel.cjs")),
    ("nodejs/code_cache.cjs", include_str!("../../../runtimes/nodejs/code_cache.cjs")),
    ("nodejs/errors.cjs", include_str!("../../../runtimes/nodejs/errors.cjs")),
    ("nodejs/fetch.cjs", include_str!("../../../runtimes/nodejs/fetch.cjs")),
    ("nodejs/invocation.cjs", include_str!("../../../runtimes/nodejs/invocation.cjs")),
    ("nodejs/loader.cjs", include_str!("../../../runtimes/nodejs/loader.cjs")),
    ("nodejs/logs.cjs", include_str!("../../../runtimes/nodejs/logs.cjs")),
    ("nodejs/rehearsal.cjs", include_str!("../../../runtimes/nodejs/rehearsal.cjs")),
    ("nodejs/streaming.cjs", include_str!("../../../runtimes/nodejs/streaming.cjs")),
    ("python/bootstrap.py", include_str!("../../../runtimes/python/bootstrap.py")),
    ("python/dunlin_cache.py", include_str!("../../../runtimes/python/dunlin_cache.py")),
    ("python/dunlin_guest.py", include_str!("../../../runtimes/python/dunlin_guest.py")),
    ("python/dunlin_logs.py", include_str!("../../../runtimes/python/dunlin_logs.py")),
    ("python/dunlin_rehearsal.py", include_str!("../../../runtimes/python/dunlin_rehearsal.py")),
    ("python/dunlin_snapshot.py", include_str!("../../../runtimes/python/dunlin_snapshot.py")),
    ("python/dunlin_zygote.py", include_str!("../../../runtimes/python/dunlin_zygote.py")),
    ("python/snapshot_restore_py.py", include_str!("../../../runtimes/python/snapshot_restore_py.py")),
    ("python/zygote.py", include_str!("../../../runtimes/python/zygote.py")),
    ("php/bootstrap.php", include_str!("../../../runtimes/php/bootstrap.php")),
    ("php/bref_context.php", include_str!("../../../runtimes/php/bref_context.php")),
    ("php/bref_handler.php", include_str!("../../../runtimes/php/bref_handler.php")),
    ("php/dunlin_guest.php", include_str!("../../../runtimes/php/dunlin_guest.php")),
    ("ruby/bootstrap.rb", include_str!("../../../runtimes/ruby/bootstrap.rb")),
    ("ruby/dunlin_guest.rb", include_str!("../../../runtimes/ruby/dunlin_guest.rb")),
];

impl DataDir {
    /// Makes the folder, or checks the one that is there.
    ///
    /// # Errors
    /// It belongs to somebody else, is no folder, or cannot be made.
    pub fn open(root: &Path) -> Result<Self> {
        let parent = root.parent().unwrap_or(Path::new("/"));
        base::folders::make(parent, 0o777).with_context(|| format!("making {}", parent.display()))?;
        match fs::DirBuilder::new().mode(0o700).create(root) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => check(root)?,
            Err(error) => return Err(error).with_context(|| format!("making the data folder {}", root.display())),
        }
        // Nothing below is safe before its name is.
        base::folders::flush_name(root).with_context(|| format!("flushing the name of {}", root.display()))?;
        // The mode given at creation passed through the umask.
        fs::set_permissions(root, fs::Permissions::from_mode(0o700))?;
        let data = Self { root: root.to_owned() };
        for name in ["store", "blobs", "usage", "keys", "authority"] {
            make(&data.path(name), 0o700)?;
        }
        for name in ["code", "runtime"] {
            make(&data.path(name), 0o755)?;
        }
        Ok(data)
    }

    /// A place below the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The same folder under another path.
    pub fn at(&self, root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Writes the guest side of the managed runtimes.
    ///
    /// # Errors
    /// Writing failed.
    pub fn write_runtimes(&self) -> Result<()> {
        let root = self.path("runtime");
        for (name, content) in RUNTIME_FILES {
            let path = root.join(name);
            if let Some(folder) = path.parent() {
                make(folder, 0o755)?;
            }
            write_public(&path, content.as_bytes())?;
        }
        Ok(())
    }
}

/// Differs between any two releases of the guest side.
pub fn runtime_digest() -> String {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    RUNTIME_FILES.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

/// Writes a file that sandboxes may read, whole or not at all.
///
/// # Errors
/// Writing failed.
pub fn write_public(path: &Path, content: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|old| old == content) {
        return Ok(());
    }
    let temporary = path.with_extension("new");
    fs::write(&temporary, content).with_context(|| format!("writing {}", temporary.display()))?;
    fs::set_permissions(&temporary, fs::Permissions::from_mode(0o644))?;
    fs::rename(&temporary, path).with_context(|| format!("writing {}", path.display()))
}

fn make(folder: &Path, mode: u32) -> Result<()> {
    if !folder.is_dir() {
        fs::create_dir(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    fs::set_permissions(folder, fs::Permissions::from_mode(mode))
        .with_context(|| format!("setting the mode of {}", folder.display()))
}

fn check(root: &Path) -> Result<()> {
    let found = fs::symlink_metadata(root)?;
    if !found.is_dir() {
        bail!("the data folder {} is no folder", root.display());
    }
    let me = rustix::process::geteuid().as_raw();
    // What root starts runs under an id of its own, which then owns the folder.
    let mine = found.uid() == me || (me == 0 && found.uid() == sandbox::privilege::SERVICE_ID);
    if !mine {
        bail!(
            "the data folder {} belongs to the user id {}, and this is {me}: run as its owner, or name another with --data-dir",
            root.display(),
            found.uid()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_is_private_and_what_guests_read_is_not() {
        let parent = tempfile::tempdir().unwrap();
        let root = parent.path().join("deep/data");
        fs::create_dir_all(&root).unwrap();
        fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).unwrap();
        let data = DataDir::open(&root).unwrap();
        data.write_runtimes().unwrap();
        let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(root.clone()), 0o700);
        assert_eq!(mode(data.path("keys")), 0o700);
        assert_eq!(mode(data.path("runtime/nodejs/bootstrap.cjs")), 0o644);
        assert_eq!(mode(data.path("runtime/python")), 0o755);
    }

    #[test]
    fn a_file_in_its_place_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let root = parent.path().join("data");
        fs::write(&root, "").unwrap();
        assert!(DataDir::open(&root).unwrap_err().to_string().contains("is no folder"));
    }

    #[test]
    fn every_guest_file_is_embedded() {
        let runtimes = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../runtimes");
        for (folder, ending) in [("nodejs", "cjs"), ("python", "py"), ("php", "php"), ("ruby", "rb")] {
            for entry in fs::read_dir(runtimes.join(folder)).unwrap() {
                let path = entry.unwrap().path();
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                if path.is_file() && name.ends_with(ending) && !name.starts_with("test") {
                    let name = format!("{folder}/{name}");
                    assert!(
                        RUNTIME_FILES.iter().any(|(embedded, _)| *embedded == name),
                        "{name} is not in RUNTIME_FILES"
                    );
                }
            }
        }
    }
}

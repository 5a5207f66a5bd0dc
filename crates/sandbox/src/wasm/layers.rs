//! `/opt` of programs: a layer as it lies unpacked, or several as one folder of hard links, which costs names and no bytes.
//!
//! Invariants
//!   1. Of two files of one name that of the later layer is there, as Lambda merges layers; folders of one name are merged.
//!   2. A merged folder is there for as long as an environment has it, and is one for all with the same layers.
//!
//! Links are taken over as they are: who follows one in a program is kept within `/opt` by the engine.

use std::collections::HashMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use model::CodeDigest;
use tokio::sync::Mutex;

use crate::contract::Error;

/// Where an environment's layers are.
#[derive(Debug)]
pub(super) enum Opt {
    /// As they were unpacked.
    One(PathBuf),
    /// Made of several; goes with its last user.
    Merged(PathBuf),
}

impl Opt {
    pub(super) fn path(&self) -> &Path {
        let (Self::One(path) | Self::Merged(path)) = self;
        path
    }
}

impl Drop for Opt {
    fn drop(&mut self) {
        if let Self::Merged(path) = self {
            // A large one takes a while, and whoever drops it serves others.
            let path = std::mem::take(path);
            std::thread::spawn(move || super::run::remove(Some(&path), "/opt"));
        }
    }
}

/// The merged folders that there are.
#[derive(Debug)]
pub(super) struct Layers {
    code_root: PathBuf,
    folder: PathBuf,
    merged: Mutex<HashMap<Vec<CodeDigest>, Weak<Opt>>>,
    /// The name of the next one: that of one that is being removed is not given again.
    next: AtomicU64,
}

impl Layers {
    /// Of packages below `code_root`, on whose file system `folder` is; what an earlier process left there is removed.
    pub(super) fn open(code_root: PathBuf, folder: PathBuf) -> io::Result<Self> {
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        Ok(Self { code_root, folder, merged: Mutex::default(), next: AtomicU64::new(0) })
    }

    /// `/opt` of a program with these layers, if it has any.
    pub(super) async fn opt(&self, layers: &[CodeDigest]) -> Result<Option<Arc<Opt>>, Error> {
        let unpacked = |layer: &CodeDigest| self.code_root.join(layer.as_str());
        match layers {
            [] => return Ok(None),
            [layer] => return Ok(Some(Arc::new(Opt::One(unpacked(layer))))),
            _ => {}
        }
        let mut merged = self.merged.lock().await;
        if let Some(opt) = merged.get(layers).and_then(Weak::upgrade) {
            return Ok(Some(opt));
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let opt = Arc::new(Opt::Merged(self.folder.join(number.to_string())));
        let (into, from): (_, Vec<PathBuf>) = (opt.path().to_owned(), layers.iter().rev().map(unpacked).collect());
        let work = tokio::task::spawn_blocking(move || {
            fs::create_dir_all(&into)?;
            from.iter().try_for_each(|layer| add(layer, &into))
        });
        let host = |error: &dyn std::fmt::Display| Error::Host(format!("merging the layers of a program: {error}"));
        work.await.map_err(|error| host(&error))?.map_err(|error| host(&error))?;
        merged.retain(|_, held| held.strong_count() > 0);
        merged.insert(layers.to_vec(), Arc::downgrade(&opt));
        Ok(Some(opt))
    }
}

/// Adds what a layer has and the later ones have not.
fn add(layer: &Path, into: &Path) -> io::Result<()> {
    for entry in fs::read_dir(layer)? {
        let entry = entry?;
        let (from, to, kind) = (entry.path(), into.join(entry.file_name()), entry.file_type()?);
        let there = match to.symlink_metadata() {
            Ok(about) => Some(about.file_type()),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        match there {
            None if kind.is_symlink() => symlink(fs::read_link(&from)?, &to)?,
            None if kind.is_dir() => {
                fs::create_dir(&to)?;
                add(&from, &to)?;
            }
            None => fs::hard_link(&from, &to)?,
            Some(there) if there.is_dir() && kind.is_dir() => add(&from, &to)?,
            Some(_) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(root: &Path, digit: &str, files: &[(&str, &str)]) -> CodeDigest {
        let digest = CodeDigest::parse(&digit.repeat(64)).unwrap();
        for (name, text) in files {
            let path = root.join(digest.as_str()).join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        digest
    }

    #[tokio::test]
    async fn later_layers_win_and_the_folder_goes_with_its_last_user() {
        let root = tempfile::tempdir().unwrap();
        let (code, folder) = (root.path().join("code"), root.path().join("opt"));
        let first = layer(&code, "a", &[("both", "1"), ("lib/one", "1"), ("kind", "a file")]);
        let second = layer(&code, "b", &[("both", "2"), ("lib/two", "2"), ("kind/of", "a folder")]);
        symlink("/etc/passwd", code.join(first.as_str()).join("link")).unwrap();
        fs::create_dir_all(folder.join("left")).unwrap();
        let layers = Layers::open(code, folder.clone()).unwrap();
        assert!(!folder.exists(), "what was left is gone");
        assert!(layers.opt(&[]).await.unwrap().is_none());
        assert!(matches!(&*layers.opt(std::slice::from_ref(&first)).await.unwrap().unwrap(), Opt::One(_)));

        let both = [first.clone(), second.clone()];
        let opt = layers.opt(&both).await.unwrap().unwrap();
        let read = |opt: &Opt, name: &str| fs::read_to_string(opt.path().join(name)).unwrap();
        assert_eq!((read(&opt, "both"), read(&opt, "kind/of")), ("2".into(), "a folder".into()));
        assert_eq!((read(&opt, "lib/one"), read(&opt, "lib/two")), ("1".into(), "2".into()));
        assert_eq!(fs::read_link(opt.path().join("link")).unwrap(), Path::new("/etc/passwd"));
        let again = layers.opt(&both).await.unwrap().unwrap();
        assert_eq!(again.path(), opt.path(), "one for all");
        let turned = layers.opt(&[second, first]).await.unwrap().unwrap();
        assert_eq!((read(&turned, "both"), read(&turned, "kind")), ("1".into(), "a file".into()));
        let path = opt.path().to_owned();
        drop(opt);
        assert!(path.exists());
        drop(again);
        for _ in 0..500 {
            if !path.exists() {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("the folder stays");
    }
}

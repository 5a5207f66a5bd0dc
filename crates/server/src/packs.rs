//! Runtime packs: the SDKs that Lambda provides, below the folder that every sandbox sees as `/var/runtime`.
//!
//! | pack          | serves                              | functions find it at                        |
//! |---------------|-------------------------------------|---------------------------------------------|
//! | `nodejs`      | nodejs18.x and later                | `/var/runtime/node_modules`                 |
//! | `nodejs16.x`  | nodejs16.x and earlier              | `/var/runtime/nodejs16/node_modules`        |
//! | `python3.N`   | functions that run on Python 3.N    | `/var/runtime/python3.N/site-packages`      |
//! | `ruby3.N`     | functions that run on Ruby 3.N      | `/var/runtime/ruby3.N/gems`                 |
//! | `java`        | every Java function                 | `/var/runtime/java`, on its class path      |
//!
//! These places come after the function's own and its layers': whoever brings a copy of a package gets that one. A pack
//! is a folder of its own, `packs/NAME-ID`, to which a link leads.
//!
//! Java functions cannot do without theirs: it holds the guest that speaks with the platform.
//!
//! Invariants
//!   1. A link changes at once: a function sees one pack or another, never a part.
//!   2. A pack that was replaced or removed is left until the next start, for functions that still load from it.
//!   3. A pack of another release of the Java guest is not used.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base::{Random, archive};
use cli::java_guest_digest;
use serde_json::{Value as Json, json};

/// Most that a pack may hold.
const LIMITS: archive::Limits = archive::Limits { unpacked_bytes: 1024 * 1024 * 1024, entries: 400_000 };
/// What a pack says about itself: its packages and their versions.
const MANIFEST: &str = "pack.json";
const UNFINISHED: &str = ".new-";

/// The packs of this host.
pub struct Packs {
    root: PathBuf,
    random: Arc<dyn Random>,
}

/// Why a pack is not taken, for the operator.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such pack can be.
    #[error("there is no runtime pack {0:?}; there are nodejs, nodejs16.x, python3.N, ruby3.N and java")]
    Name(String),
    /// The zip is not a pack.
    #[error("this is no runtime pack: {0}")]
    Content(String),
    /// The disk refused.
    #[error("the runtime pack could not be kept: {0}")]
    Io(#[from] io::Error),
}

/// Where a pack is reached: the link below the root, and the folder of the pack that it leads to.
struct Place {
    link: PathBuf,
    content: &'static str,
}

fn place(name: &str) -> Result<Place, Error> {
    let numbered = |beginning| {
        let minor = name.strip_prefix(beginning);
        minor.is_some_and(|minor| (1..=2).contains(&minor.len()) && minor.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let (link, content) = match name {
        "nodejs" => (PathBuf::from("node_modules"), "node_modules"),
        "nodejs16.x" => (PathBuf::from("nodejs16/node_modules"), "node_modules"),
        "java" => (PathBuf::from("java"), "lib"),
        _ if numbered("ruby3.") => (Path::new(name).join("gems"), "gems"),
        _ if numbered("python3.") => (Path::new(name).join("site-packages"), "site-packages"),
        _ => return Err(Error::Name(name.to_owned())),
    };
    Ok(Place { link, content })
}

impl Packs {
    /// The packs below `root`, the folder of the guest side; folders that nothing leads to are removed.
    ///
    /// # Errors
    /// The folder cannot be read or changed.
    pub fn open(root: PathBuf, random: Arc<dyn Random>) -> io::Result<Self> {
        let packs = Self { root, random };
        make_folder(&packs.root.join("packs"))?;
        for (name, folder) in packs.linked()? {
            if let Err(why) = check(&name, manifest(&folder).as_ref()) {
                tracing::warn!(name, why, "a runtime pack is not used");
                packs.remove(&name).map_err(io::Error::other)?;
            }
        }
        let kept: Vec<PathBuf> = packs.linked()?.into_iter().map(|(_, folder)| folder).collect();
        for entry in fs::read_dir(packs.root.join("packs"))? {
            let folder = entry?.path();
            if !kept.contains(&folder) {
                fs::remove_dir_all(folder)?;
            }
        }
        Ok(packs)
    }

    /// Names and folders of the packs that are in use.
    fn linked(&self) -> io::Result<Vec<(String, PathBuf)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.root.join("packs"))? {
            let folder = entry?.path();
            let file_name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let Some((name, _)) = file_name.rsplit_once('-') else { continue };
            let Ok(place) = place(name) else { continue };
            if fs::canonicalize(self.root.join(place.link)).ok() == fs::canonicalize(folder.join(place.content)).ok() {
                found.push((name.to_owned(), folder));
            }
        }
        found.sort();
        Ok(found)
    }

    /// Every pack: its name and what it says about itself.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn list(&self) -> io::Result<Json> {
        let shown = |(name, folder): (String, PathBuf)| json!({"name": name, "packages": manifest(&folder).map(|manifest| manifest["packages"].clone())});
        Ok(self.linked()?.into_iter().map(shown).collect())
    }

    /// Takes a pack in the place of the one of its name.
    ///
    /// # Errors
    /// The name or the content is not that of a pack, or the disk refuses; nothing is changed then.
    pub fn put(&self, name: &str, zip: &[u8]) -> Result<(), Error> {
        let place = place(name)?;
        let id = self.random.hex(8);
        let beside = self.root.join(format!("packs/{UNFINISHED}{id}"));
        let done = unpack(name, zip, &beside, place.content).and_then(|()| {
            let folder = format!("packs/{name}-{id}");
            fs::rename(&beside, self.root.join(&folder))?;
            // The name is free again, and no other call's.
            self.lead(&place, &folder, &beside)
        });
        if done.is_err() {
            // What is left is removed at the next start at the latest.
            let _ = fs::remove_dir_all(&beside);
        }
        done
    }

    /// Lets the link of a place lead to a folder; it is made at `fresh` first.
    fn lead(&self, place: &Place, folder: &str, fresh: &Path) -> Result<(), Error> {
        let link = self.root.join(&place.link);
        let up = "../".repeat(place.link.components().count() - 1);
        if let Some(parent) = link.parent().filter(|parent| *parent != self.root) {
            make_folder(parent)?;
        }
        symlink(format!("{up}{folder}/{}", place.content), fresh)?;
        Ok(fs::rename(fresh, link)?)
    }

    /// Takes a pack away from functions; false if there is none of this name.
    ///
    /// # Errors
    /// No such pack can be, or the disk refuses.
    pub fn remove(&self, name: &str) -> Result<bool, Error> {
        match fs::remove_file(self.root.join(place(name)?.link)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// What the pack in a folder says about itself.
fn manifest(folder: &Path) -> Option<Json> {
    serde_json::from_slice(&fs::read(folder.join(MANIFEST)).ok()?).ok()
}

/// Whether a pack can be used, by what it says about itself.
fn check(name: &str, manifest: Option<&Json>) -> Result<(), String> {
    let Some(manifest) = manifest.filter(|manifest| manifest["packages"].is_object()) else {
        return Err(format!("it has no {MANIFEST} with `packages`"));
    };
    if name == "java" && manifest["guest"].as_str() != Some(&java_guest_digest()) {
        return Err("it was made by another release of dunlin: run `dunlin runtimes add java21` of this one".to_owned());
    }
    Ok(())
}

fn unpack(name: &str, zip: &[u8], folder: &Path, content: &str) -> Result<(), Error> {
    make_folder(folder)?;
    archive::unpack(zip, folder, LIMITS).map_err(|error| Error::Content(error.to_string()))?;
    check(name, manifest(folder).as_ref()).map_err(Error::Content)?;
    if !folder.join(content).is_dir() {
        return Err(Error::Content(format!("it has no folder {content}")));
    }
    Ok(())
}

fn make_folder(folder: &Path) -> io::Result<()> {
    if !folder.is_dir() {
        fs::create_dir(folder)?;
    }
    // Sandboxes read it under ids of their own, whatever the umask says.
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::SeededRandom;
    use std::io::Write;

    fn pack(files: &[(&str, &str)]) -> Vec<u8> {
        let mut writer = zip::ZipWriter::new(io::Cursor::new(Vec::new()));
        for (name, text) in files {
            writer.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
            writer.write_all(text.as_bytes()).unwrap();
        }
        writer.finish().unwrap().into_inner()
    }

    const MADE: &str = r#"{"packages":{"boto3":"1.2.3"}}"#;

    #[test]
    fn packs_are_put_replaced_and_removed() {
        let root = tempfile::tempdir().unwrap();
        let open = || Packs::open(root.path().to_owned(), SeededRandom::new(1)).unwrap();
        let packs = open();
        let module = root.path().join("python3.11/site-packages/boto3.py");
        for text in ["one", "two"] {
            packs.put("python3.11", &pack(&[("pack.json", MADE), ("site-packages/boto3.py", text)])).unwrap();
            assert_eq!(fs::read_to_string(&module).unwrap(), text);
        }
        packs.put("nodejs", &pack(&[("pack.json", MADE), ("node_modules/a/index.js", "1")])).unwrap();
        assert!(root.path().join("node_modules/a/index.js").is_file());
        let names = |packs: &Packs| {
            packs
                .list()
                .unwrap()
                .as_array()
                .unwrap()
                .iter()
                .map(|pack| pack["name"].as_str().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(names(&packs), ["nodejs", "python3.11"]);
        assert_eq!(packs.list().unwrap()[1]["packages"]["boto3"], "1.2.3");
        assert_eq!(
            fs::read_dir(root.path().join("packs")).unwrap().count(),
            3,
            "running functions may use the old one"
        );
        assert_eq!(names(&open()), ["nodejs", "python3.11"]);
        assert_eq!(fs::read_dir(root.path().join("packs")).unwrap().count(), 2);
        assert!(packs.remove("nodejs").unwrap() && !packs.remove("nodejs").unwrap());
        assert!(!root.path().join("node_modules").exists());
        assert_eq!(names(&open()), ["python3.11"]);
    }

    #[test]
    fn what_is_no_pack_changes_nothing() {
        let root = tempfile::tempdir().unwrap();
        let packs = Packs::open(root.path().to_owned(), SeededRandom::new(1)).unwrap();
        for name in ["", "ruby", "python3.", "python3.x", "python3.111", "../nodejs", "nodejs20.x"] {
            assert!(matches!(packs.put(name, b""), Err(Error::Name(_))), "{name}");
        }
        for files in
            [&[("node_modules/a", "1")][..], &[("pack.json", MADE)], &[("pack.json", "[]"), ("node_modules/a", "1")]]
        {
            assert!(matches!(packs.put("nodejs", &pack(files)), Err(Error::Content(_))));
        }
        assert!(matches!(packs.put("nodejs", b"no zip"), Err(Error::Content(_))));
        assert_eq!(fs::read_dir(root.path().join("packs")).unwrap().count(), 0);
        assert_eq!(packs.list().unwrap(), json!([]));
    }
}

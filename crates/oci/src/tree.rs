//! Layers over each other, as one tree of files; and how it comes to disk.
//!
//! The tree is made in memory from the indexes of unpacked layers, then written to an empty folder: folders and symbolic links
//! anew, files as further names of the layers' own. So images that share layers share their files, on disk and in memory,
//! wherever a disk has hard links, with any number of layers and without a privilege. An overlay of the kernel's would save
//! the names too, but not every kernel lets an ordinary user have one, nor with marks for what is gone.
//!
//! Symbolic links above an entry are followed as a container engine does, within the image: an absolute one, and one that
//! climbs, ends at the image's root. Links themselves keep their text: it is read inside of a sandbox, whose root is the
//! image's.
//!
//! Invariants
//!   1. Every name is written in a folder that was made here a moment before; no link on the disk is ever followed.
//!   2. Marks of a layer (`Gone`, `Opaque`) are about lower layers, wherever they stand in it.
//!
//! Start reading at `Tree::apply`.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::layer::{self, Entry, Kind, Names};

/// Most symbolic links on the way to one entry, as in the kernel.
const LINKS_MAX: usize = 40;
/// Deepest folder, links followed.
const DEPTH_MAX: usize = 200;

/// Why layers do not make a tree.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A file is where an entry needs a folder.
    #[error("the entry {0:?} is below a file")]
    BelowFile(String),
    /// Links lead in circles, or too deep.
    #[error("the entry {0:?} is behind too many links or folders")]
    Links(String),
    /// A hard link to what is not there.
    #[error("the entry {0:?} is another name of a file that is not there")]
    Dangling(String),
}

type Folder = BTreeMap<Vec<u8>, Node>;

#[derive(Debug, Clone)]
enum Node {
    Folder {
        mode: u32,
        inside: Folder,
    },
    File {
        layer: usize,
        number: u64,
    },
    Link(Vec<u8>),
    /// The platform's own.
    Text(&'static str),
}

/// What the platform puts into every image.
#[derive(Debug, Clone, Copy)]
pub struct Furniture {
    /// Folders that something is mounted on.
    pub folders: &'static [&'static str],
    /// Files with their content, in place of what the image has.
    pub files: &'static [(&'static str, &'static str)],
    /// Files that become links where the image has them, the first in any case, and what the links say.
    pub links: (&'static [&'static str], &'static str),
}

/// A tree of files.
#[derive(Debug, Default)]
pub struct Tree {
    root: Folder,
    layers: usize,
}

impl Tree {
    /// Puts the next layer over those before.
    ///
    /// # Errors
    /// The layers do not fit together; the tree is of no use then.
    pub fn apply(&mut self, entries: &[Entry]) -> Result<(), Error> {
        let layer = self.layers;
        self.layers += 1;
        for entry in entries {
            match &entry.kind {
                Kind::Gone => self.remove(&entry.path)?,
                Kind::Opaque => self.clear(&entry.path)?,
                _ => {}
            }
        }
        let mut number = 0;
        for Entry { path, kind } in entries {
            let node = match kind {
                Kind::Gone | Kind::Opaque => continue,
                Kind::Folder(mode) => Node::Folder { mode: *mode, inside: Folder::new() },
                Kind::File(_) => {
                    number += 1;
                    Node::File { layer, number: number - 1 }
                }
                Kind::Link(text) => Node::Link(text.clone()),
                Kind::Same(to) => self.same(path, to)?,
            };
            self.put(path, node)?;
        }
        Ok(())
    }

    fn same(&self, path: &Names, to: &Names) -> Result<Node, Error> {
        let Some((name, above)) = to.split_last() else { return Err(Error::Dangling(shown(path))) };
        let above = self.real(above)?;
        match self.folder(&above).and_then(|folder| folder.get(name)) {
            Some(node @ (Node::File { .. } | Node::Link(_))) => Ok(node.clone()),
            _ => Err(Error::Dangling(shown(path))),
        }
    }

    fn put(&mut self, path: &Names, node: Node) -> Result<(), Error> {
        let Some((name, above)) = path.split_last() else { return Ok(()) };
        let above = self.real(above)?;
        let folder = self.folder_mut(&above).ok_or_else(|| Error::BelowFile(shown(path)))?;
        match (folder.get_mut(name), node) {
            (Some(Node::Folder { mode, .. }), Node::Folder { mode: new, .. }) => *mode = new,
            (_, node) => drop(folder.insert(name.clone(), node)),
        }
        Ok(())
    }

    fn remove(&mut self, path: &Names) -> Result<(), Error> {
        let Some((name, above)) = path.split_last() else { return Ok(()) };
        let above = self.real(above)?;
        if self.folder(&above).is_some()
            && let Some(folder) = self.folder_mut(&above)
        {
            folder.remove(name);
        }
        Ok(())
    }

    fn clear(&mut self, path: &Names) -> Result<(), Error> {
        let path = self.real(path)?;
        if self.folder(&path).is_some()
            && let Some(folder) = self.folder_mut(&path)
        {
            folder.clear();
        }
        Ok(())
    }

    /// The path of a folder with every link followed within the tree; what is not there is taken as it is named.
    fn real(&self, path: &[Vec<u8>]) -> Result<Names, Error> {
        let mut rest: VecDeque<Vec<u8>> = path.iter().cloned().collect();
        let (mut real, mut links) = (Names::new(), 0);
        while let Some(name) = rest.pop_front() {
            match &name[..] {
                b"" | b"." => continue,
                b".." => {
                    real.pop();
                    continue;
                }
                _ => {}
            }
            match self.folder(&real).and_then(|folder| folder.get(&name)) {
                Some(Node::Link(text)) => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(Error::Links(shown(path)));
                    }
                    if text.starts_with(b"/") {
                        real.clear();
                    }
                    for part in text.split(|byte| *byte == b'/').rev() {
                        rest.push_front(part.to_vec());
                    }
                }
                Some(Node::File { .. } | Node::Text(_)) => return Err(Error::BelowFile(shown(path))),
                Some(Node::Folder { .. }) | None => real.push(name),
            }
            if real.len() > DEPTH_MAX {
                return Err(Error::Links(shown(path)));
            }
        }
        Ok(real)
    }

    fn folder(&self, path: &[Vec<u8>]) -> Option<&Folder> {
        path.iter().try_fold(&self.root, |folder, name| match folder.get(name) {
            Some(Node::Folder { inside, .. }) => Some(inside),
            _ => None,
        })
    }

    /// The folder of a path without links, made if it is not there; nothing if something else is in the way.
    fn folder_mut(&mut self, path: &[Vec<u8>]) -> Option<&mut Folder> {
        path.iter().try_fold(&mut self.root, |folder, name| {
            let new = || Node::Folder { mode: 0o755, inside: Folder::new() };
            match folder.entry(name.clone()).or_insert_with(new) {
                Node::Folder { inside, .. } => Some(inside),
                _ => None,
            }
        })
    }

    /// Puts in what the platform needs; what the image has in its place goes.
    pub fn furnish(&mut self, furniture: &Furniture) {
        let (places, to) = furniture.links;
        let known: Vec<Names> = places.iter().filter_map(|place| self.place(place)).collect();
        if let Some(first) = places.first() {
            // Where something is in the way, there is no such place, and nobody looks there.
            let _ = self.put(&names(first), Node::Link(to.as_bytes().to_vec()));
        }
        for path in known {
            if let Some((name, above)) = path.split_last()
                && let Some(folder) = self.folder_mut(above)
            {
                folder.insert(name.clone(), Node::Link(to.as_bytes().to_vec()));
            }
        }
        for (place, text) in furniture.files {
            let mut path = names(place);
            if let Some(name) = path.pop() {
                self.forced(&path).insert(name, Node::Text(text));
            }
        }
        for place in furniture.folders {
            let _ = self.forced(&names(place));
        }
    }

    /// Where a place is behind links, if there is something.
    fn place(&self, place: &str) -> Option<Names> {
        let mut path = names(place);
        let name = path.pop()?;
        let mut real = self.real(&path).ok()?;
        self.folder(&real)?.get(&name)?;
        real.push(name);
        Some(real)
    }

    /// A folder, whatever was in the way.
    fn forced(&mut self, path: &[Vec<u8>]) -> &mut Folder {
        let mut folder = &mut self.root;
        for name in path {
            let new = || Node::Folder { mode: 0o755, inside: Folder::new() };
            let node = folder.entry(name.clone()).or_insert_with(new);
            if !matches!(node, Node::Folder { .. }) {
                *node = new();
            }
            let Node::Folder { inside, .. } = node else { unreachable!("it was made one above") };
            folder = inside;
        }
        folder
    }

    /// Writes the tree into an empty folder; `layers` are the unpacked layers that were applied. After an error the caller
    /// removes the folder.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn write(&self, folder: &Path, layers: &[PathBuf]) -> io::Result<()> {
        write_folder(&self.root, folder, layers)
    }

    /// Every path with what is there, for tests.
    #[cfg(test)]
    pub(crate) fn list(&self) -> Vec<String> {
        fn add(folder: &Folder, above: &str, all: &mut Vec<String>) {
            for (name, node) in folder {
                let path = format!("{above}/{}", String::from_utf8_lossy(name));
                match node {
                    Node::Folder { inside, .. } => {
                        all.push(format!("{path}/"));
                        add(inside, &path, all);
                    }
                    Node::File { layer, number } => all.push(format!("{path}={layer}.{number}")),
                    Node::Link(text) => all.push(format!("{path}->{}", String::from_utf8_lossy(text))),
                    Node::Text(_) => all.push(format!("{path}=own")),
                }
            }
        }
        let mut all = Vec::new();
        add(&self.root, "", &mut all);
        all
    }
}

fn names(place: &str) -> Names {
    place.split('/').filter(|name| !name.is_empty()).map(|name| name.as_bytes().to_vec()).collect()
}

fn shown(path: &[Vec<u8>]) -> String {
    String::from_utf8_lossy(&path.join(&b'/')).into_owned()
}

fn write_folder(inside: &Folder, folder: &Path, layers: &[PathBuf]) -> io::Result<()> {
    for (name, node) in inside {
        let path = folder.join(OsStr::from_bytes(name));
        match node {
            Node::Folder { mode, inside } => {
                fs::create_dir(&path)?;
                write_folder(inside, &path, layers)?;
                // The owner always gets in, to take it away again.
                fs::set_permissions(&path, fs::Permissions::from_mode(mode | 0o700))?;
            }
            Node::File { layer, number } => {
                let from = layers.get(*layer).ok_or_else(|| io::Error::other("a layer is missing"))?;
                give_name(&layer::file(from, *number), &path)?;
            }
            Node::Link(text) => symlink(OsStr::from_bytes(text), &path)?,
            Node::Text(text) => {
                fs::write(&path, text)?;
                fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
            }
        }
    }
    Ok(())
}

/// Gives a file one more name; where a disk has no room for more names of one file, a copy.
fn give_name(file: &Path, name: &Path) -> io::Result<()> {
    match fs::hard_link(file, name) {
        Err(error) if matches!(error.kind(), io::ErrorKind::TooManyLinks | io::ErrorKind::Unsupported) => {
            // Who made the file can read it, whatever its mode says to others.
            let mode = fs::metadata(file)?.permissions();
            fs::set_permissions(file, fs::Permissions::from_mode(mode.mode() | 0o400))?;
            let copied = fs::copy(file, name);
            fs::set_permissions(file, mode.clone())?;
            copied?;
            fs::set_permissions(name, mode)
        }
        done => done,
    }
}

#[cfg(test)]
#[path = "tree_tests.rs"]
mod tests;

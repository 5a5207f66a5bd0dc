//! What a Python package brings of others: the packages that an installer has put beside the function's own modules.
//!
//! They are known by the installer's records (`NAME.dist-info/RECORD`), and taken as whole top-level folders and files: what
//! is in them is the same wherever their digest is the same, whatever else the package holds.
//!
//! Start reading at `of`.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use sha2::{Digest, Sha256};

/// Where interpreters keep bytecode.
const BYTECODE: &str = "__pycache__";
/// Longest record that is read.
const RECORD_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// The packages of others in a package, and the names of the rest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Dependencies {
    /// Of all their files, names included; nothing if there are none.
    pub(crate) digest: Option<String>,
    /// Names of their top-level modules.
    pub(crate) modules: BTreeSet<String>,
    /// Names of the function's own top-level modules: they go before those of layers and of the platform.
    pub(crate) own: BTreeSet<String>,
}

/// What is installed in a folder.
pub(crate) fn of(folder: &Path) -> io::Result<Dependencies> {
    let (mut entries, mut own) = (BTreeSet::new(), BTreeSet::new());
    for entry in fs::read_dir(folder)? {
        let Ok(name) = entry?.file_name().into_string() else { continue };
        own.extend(module(&name));
        let record = folder.join(&name).join("RECORD");
        if name.ends_with(".dist-info") && record.symlink_metadata().is_ok_and(|about| is_small_file(&about)) {
            entries.extend(recorded(&String::from_utf8_lossy(&fs::read(record)?)));
            entries.insert(name);
        }
    }
    entries.retain(|name| folder.join(name).symlink_metadata().is_ok());
    let modules: BTreeSet<String> = entries.iter().filter_map(|name| module(name)).collect();
    own.retain(|name| !modules.contains(name));
    if entries.is_empty() {
        return Ok(Dependencies { own, ..Dependencies::default() });
    }
    let mut sum = Sha256::new();
    for name in entries.iter().filter(|name| *name != BYTECODE) {
        add(&mut sum, folder, Path::new(name))?;
    }
    // The function's own modules have their bytecode in the same folder.
    for entry in fs::read_dir(folder.join(BYTECODE))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name())
        .collect::<BTreeSet<_>>()
    {
        let stem = entry.to_str().and_then(|name| name.split('.').next());
        if stem.is_some_and(|stem| modules.contains(stem)) {
            add(&mut sum, folder, &Path::new(BYTECODE).join(entry))?;
        }
    }
    let digest = sum.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Dependencies { digest: Some(digest), modules, own })
}

fn is_small_file(about: &fs::Metadata) -> bool {
    about.is_file() && about.len() <= RECORD_BYTES_MAX
}

/// The first parts of the paths in a record. Pure.
fn recorded(record: &str) -> BTreeSet<String> {
    let firsts = record.lines().filter_map(|line| {
        // A path with a comma stands in quotes; its first part has none in any package that can be imported.
        match Path::new(line.split(',').next()?).components().next()? {
            Component::Normal(first) => first.to_str().map(str::to_owned),
            _ => None,
        }
    });
    firsts.collect()
}

/// The module that a top-level folder or file is; nothing if it is none. Pure.
fn module(name: &str) -> Option<String> {
    let stem = name.split('.').next()?;
    let is_name = !stem.is_empty() && stem.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let is_module = name == stem || name.ends_with(".py") || name.ends_with(".so");
    (is_name && is_module && stem != BYTECODE).then(|| stem.to_owned())
}

/// Adds a file, a link or a folder with all that is in it: kind, name and content, each with its length.
fn add(sum: &mut Sha256, root: &Path, path: &Path) -> io::Result<()> {
    let whole = root.join(path);
    let about = whole.symlink_metadata()?;
    let mut part = |kind: u8, content: &[u8]| {
        sum.update([kind]);
        for bytes in [path.as_os_str().as_bytes(), content] {
            sum.update((bytes.len() as u64).to_le_bytes());
            sum.update(bytes);
        }
    };
    if about.is_dir() {
        part(b'd', b"");
        let names = fs::read_dir(&whole)?.map(|entry| entry.map(|entry| entry.file_name()));
        let names = names.collect::<io::Result<BTreeSet<_>>>()?;
        return names.iter().try_for_each(|name| add(sum, root, &path.join(name)));
    }
    if about.is_symlink() {
        part(b'l', fs::read_link(&whole)?.as_os_str().as_bytes());
    } else {
        part(b'f', &fs::read(&whole)?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: &str =
        "others/__init__.py,sha256=x,1\nothers-1.0.dist-info/RECORD,,\nsix.py,,\n../../bin/tool,,\n/etc/passwd,,\n";

    fn package(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let installed = [("others-1.0.dist-info/RECORD", RECORD), ("others/__init__.py", ""), ("six.py", "1")];
        for (name, text) in installed.iter().chain(files) {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        folder
    }

    fn found(files: &[(&str, &str)]) -> Dependencies {
        of(package(files).path()).unwrap()
    }

    #[test]
    fn the_functions_own_files_do_not_count_and_each_of_the_others_does() {
        let plain = found(&[("app.py", "one")]);
        assert!(plain.modules.iter().eq(["others", "six"]) && plain.own.iter().eq(["app"]));
        let other = found(&[("app.py", "two"), ("own/x.py", ""), ("__pycache__/app.cpython-311.pyc", "")]);
        assert_eq!((&other.digest, &other.modules), (&plain.digest, &plain.modules));
        assert!(other.own.iter().eq(["app", "own"]));
        for change in [
            ("six.py", "2"),
            ("others/__init__.py", "1"),
            ("others/data/a.json", ""),
            ("others/b.py", ""),
            ("__pycache__/six.cpython-311.pyc", ""),
        ] {
            assert_ne!(found(&[change]).digest, plain.digest, "{change:?}");
        }
        let moved = [found(&[("others/a", "bc")]), found(&[("others/ab", "c")])];
        assert_ne!(moved[0].digest, moved[1].digest);
    }

    #[test]
    fn a_link_is_what_it_says_and_is_not_followed() {
        let folder = package(&[]);
        std::os::unix::fs::symlink("/", folder.path().join("others/root")).unwrap();
        let linked = of(folder.path()).unwrap();
        assert_ne!(linked.digest, found(&[]).digest);
    }

    #[test]
    fn a_package_without_records_brings_nothing() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("app.py"), "").unwrap();
        let found = of(folder.path()).unwrap();
        assert_eq!((found.digest, found.modules.len(), found.own.len()), (None, 0, 1));
    }

    #[test]
    fn names_are_those_that_can_be_imported() {
        let names = [
            "six.py",
            "_cffi.cpython-311-x86_64-linux-gnu.so",
            "boto3",
            "a-b",
            "x.dist-info",
            "__pycache__",
            "bin.txt",
        ];
        let modules: Vec<_> = names.iter().filter_map(|name| module(name)).collect();
        assert_eq!(modules, ["six", "_cffi", "boto3"]);
    }
}

//! A function's code package: the project's files, scripts made loadable, dependencies added, in a zip that is the same
//! byte for byte whenever its content is the same.
//!
//! Invariants
//!   1. Entries are sorted and carry no time, so that a second deployment of the same sources changes nothing.
//!   2. Nothing outside the project folder and the dependency cache gets in: symbolic links that leave are refused.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Cursor, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use zip::write::{SimpleFileOptions, ZipWriter};

use super::dependencies::{self, Supplied};
use super::scripts::{self, Scripts};

/// The file of a package that is a program.
pub const PROGRAM: &str = "bootstrap.wasm";

/// Lambda's limit of a directly uploaded package.
const ZIP_BYTES_MAX: usize = 50 * 1024 * 1024;

/// A finished package.
#[derive(Debug, Clone)]
pub struct Package {
    /// The zip.
    pub zip: Vec<u8>,
    /// Base64 of its SHA-256, as `CodeSha256`.
    pub sha256: String,
    /// What was added and changed on the way, for the plan.
    pub notes: Vec<String>,
    /// The names of its files.
    pub files: Vec<PathBuf>,
}

impl Package {
    /// Of a function that brings none: its code is a container image.
    pub fn none() -> Self {
        Self { zip: Vec::new(), sha256: String::new(), notes: Vec::new(), files: Vec::new() }
    }
}

/// Folders and files that are never code.
const NEVER: &[&str] = &[
    ".git",
    ".serverless",
    ".dunlin",
    ".aws-sam",
    "node_modules",
    "__pycache__",
    ".venv",
    "venv",
    ".pytest_cache",
    ".DS_Store",
    ".npmrc",
    ".env",
];

/// Packs `root` for a function of `runtime`. `handler_only`: a single file, with what it imports from its folder.
/// `provided`: packages that the platform gives its functions.
pub fn build(
    root: &Path,
    runtime: &str,
    patterns: &[String],
    handler_only: Option<&Path>,
    provided: &BTreeMap<String, String>,
) -> Result<Package> {
    let mut files = match handler_only {
        Some(file) => alone(root, file, runtime)?,
        None => {
            let mut files = BTreeMap::new();
            walk(root, root, &mut files, &|name| NEVER.contains(&name))?;
            files
        }
    };
    retain_patterns(&mut files, patterns)?;
    let is_node = runtime.starts_with("nodejs");
    let scripts = if is_node { scripts::load(&files)? } else { Scripts::default() };
    let mut imports = scripts.imports;
    if runtime.starts_with("python") {
        let sources = files.iter().filter(|(name, _)| name.extension().is_some_and(|ending| ending == "py"));
        imports.extend(sources.flat_map(|(_, path)| python_imports_of(path)));
    }
    let mut entries: BTreeMap<PathBuf, Content> = BTreeMap::new();
    let mut rewritten = scripts.rewritten;
    for (name, path) in files {
        match rewritten.remove(&name) {
            Some((target, text)) => entries.insert(target, Content::Text(text)),
            None if is_node && scripts::is_declaration(&name) => None,
            None => entries.insert(name, Content::File(path)),
        };
    }
    let Supplied { folder, mut notes } = dependencies::supply(root, runtime, &imports, provided)?;
    if let Some(folder) = folder {
        let mut more = BTreeMap::new();
        let base = if folder.ends_with("node_modules") { root } else { &folder };
        walk(base, &folder, &mut more, &|name| matches!(name, ".package-lock.json" | ".cache"))?;
        for (relative, path) in more {
            entries.entry(relative).or_insert(Content::File(path));
        }
    }
    if entries.is_empty() {
        bail!("{} holds no file that could be deployed", root.display());
    }
    let mut zip = zip_of(&entries)?;
    if zip.len() > ZIP_BYTES_MAX {
        // Compiled modules make starts quicker; where there is no room for them, functions run all the same.
        let before = entries.len();
        entries.retain(|name, _| name.extension().is_none_or(|ending| ending != "pyc"));
        if entries.len() < before {
            notes.push("modules are packed without their compiled form, for want of room".into());
            zip = zip_of(&entries)?;
        }
    }
    if zip.len() > ZIP_BYTES_MAX {
        bail!(
            "the package has {} MB zipped and may have 50; take files out with package.patterns, or bundle the code",
            zip.len() / 1_048_576
        );
    }
    let sha256 = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, Sha256::digest(&zip));
    Ok(Package { zip, sha256, notes, files: entries.into_keys().collect() })
}

/// A package that something else has built: a zip, or a jar, which is one; or a program, which is put into one.
///
/// # Errors
/// It cannot be read, is no zip, or is too large.
pub fn of_artifact(path: &Path) -> Result<Package> {
    let unreadable = || format!("package.artifact {} cannot be read; was the project built?", path.display());
    let zip = if path.extension().is_some_and(|ending| ending == "wasm") {
        path.metadata().with_context(unreadable)?;
        zip_of(&BTreeMap::from([(PathBuf::from(PROGRAM), Content::File(path.to_owned()))]))?
    } else {
        fs::read(path).with_context(unreadable)?
    };
    let no_zip = || format!("package.artifact {} is no zip and no jar", path.display());
    let archive = zip::ZipArchive::new(Cursor::new(&zip[..])).with_context(no_zip)?;
    let files = archive.file_names().map(|name| name.map(|name| PathBuf::from(&*name)));
    let files = files.collect::<Result<_, _>>().with_context(no_zip)?;
    if zip.len() > ZIP_BYTES_MAX {
        bail!("{} has {} MB and may have 50", path.display(), zip.len() / 1_048_576);
    }
    let sha256 = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, Sha256::digest(&zip));
    Ok(Package { zip, sha256, notes: Vec::new(), files })
}

enum Content {
    File(PathBuf),
    Text(String),
}

/// A single handler file and what it imports from its folder.
fn alone(root: &Path, file: &Path, runtime: &str) -> Result<BTreeMap<PathBuf, PathBuf>> {
    if runtime.starts_with("nodejs") {
        return scripts::closure(root, file);
    }
    if file.extension().is_some_and(|ending| ending == "rb" || ending == "php") {
        return required(root, file);
    }
    let mut files = BTreeMap::new();
    let mut open = vec![PathBuf::from(file.file_name().context("the handler has no file name")?)];
    while let Some(name) = open.pop() {
        let path = root.join(&name);
        let imports = python_imports_of(&path);
        if files.insert(name, path).is_some() {
            continue;
        }
        for import in imports {
            let module = PathBuf::from(format!("{import}.py"));
            if root.join(&module).is_file() {
                open.push(module);
            } else if root.join(&import).join("__init__.py").is_file() {
                walk(root, &root.join(&import), &mut files, &|name| NEVER.contains(&name))?;
            }
        }
    }
    Ok(files)
}

/// A Ruby or PHP file and the files that it requires by their place: of PHP, what Composer has installed is one.
fn required(root: &Path, file: &Path) -> Result<BTreeMap<PathBuf, PathBuf>> {
    let pattern = if file.extension().is_some_and(|ending| ending == "rb") {
        r#"\brequire_relative\s*\(?\s*['"]([^'"]+)['"]"#
    } else {
        r#"\b(?:require|include)(?:_once)?\s*\(?\s*(?:__DIR__\s*\.\s*)?['"]([^'"]+\.php)['"]"#
    };
    let pattern = regex_lite::Regex::new(pattern)?;
    let ending = file.extension().unwrap_or_default();
    let mut files = BTreeMap::new();
    let mut open = vec![PathBuf::from(file.file_name().context("the handler has no file name")?)];
    while let Some(name) = open.pop() {
        let path = root.join(&name);
        let folder = name.parent().unwrap_or(Path::new("")).to_owned();
        let text = fs::read_to_string(&path).unwrap_or_default();
        if files.insert(name, path).is_some() {
            continue;
        }
        for found in pattern.captures_iter(&text).filter_map(|found| found.get(1)) {
            let mut wanted = folder.join(found.as_str().trim_start_matches('/').trim_start_matches("./"));
            if wanted.extension().is_none() {
                wanted.set_extension(ending);
            }
            if wanted.ends_with("vendor/autoload.php") && root.join(&wanted).is_file() {
                walk(root, &root.join("vendor"), &mut files, &|name| NEVER.contains(&name))?;
            } else if root.join(&wanted).is_file()
                && wanted.components().all(|part| matches!(part, Component::Normal(_)))
            {
                open.push(wanted);
            }
        }
    }
    Ok(files)
}

fn python_imports_of(path: &Path) -> Vec<String> {
    dependencies::python_imports(&fs::read_to_string(path).unwrap_or_default())
}

fn walk(root: &Path, folder: &Path, files: &mut BTreeMap<PathBuf, PathBuf>, skip: &dyn Fn(&str) -> bool) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if skip(&name) {
            continue;
        }
        let real = fs::canonicalize(&path).with_context(|| format!("{} leads nowhere", path.display()))?;
        if !real.starts_with(fs::canonicalize(root)?) {
            bail!("{} leads out of the project to {}; copy it in, or remove the link", path.display(), real.display());
        }
        if path.is_symlink() && path.is_dir() {
            continue;
        }
        if path.is_dir() {
            walk(root, &path, files, skip)?;
        } else if let Ok(relative) = path.strip_prefix(root) {
            files.insert(relative.to_owned(), path.clone());
        }
    }
    Ok(())
}

/// Serverless' patterns: everything is in; of the patterns that match a file, the last decides; `!` takes away.
fn retain_patterns(files: &mut BTreeMap<PathBuf, PathBuf>, patterns: &[String]) -> Result<()> {
    let mut rules = Vec::new();
    for pattern in patterns {
        let (takes_away, pattern) = pattern.strip_prefix('!').map_or((false, pattern.as_str()), |rest| (true, rest));
        rules.push((glob(pattern.trim_start_matches("./"))?, takes_away));
    }
    files.retain(|name, _| {
        let name = name.to_string_lossy();
        let last = rules.iter().rev().find(|(glob, _)| glob.is_match(&name));
        last.is_none_or(|(_, takes_away)| !takes_away)
    });
    Ok(())
}

/// `*` within a path segment, `**` across segments, `?` one character.
fn glob(pattern: &str) -> Result<regex_lite::Regex> {
    let escaped = regex_lite::escape(pattern);
    let expression =
        escaped.replace("\\*\\*/", "(?:.*/)?").replace("\\*\\*", ".*").replace("\\*", "[^/]*").replace("\\?", "[^/]");
    regex_lite::Regex::new(&format!("^{expression}$")).with_context(|| format!("the pattern {pattern:?}"))
}

/// The zip of everything in a folder.
pub fn of_folder(folder: &Path) -> Result<Vec<u8>> {
    let mut files = BTreeMap::new();
    walk(folder, folder, &mut files, &|_| false)?;
    zip_of(&files.into_iter().map(|(name, path)| (name, Content::File(path))).collect())
}

fn zip_of(entries: &BTreeMap<PathBuf, Content>) -> Result<Vec<u8>> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (relative, content) in entries {
        let name = relative.to_string_lossy();
        let (bytes, executable) = match content {
            Content::Text(text) => (text.clone().into_bytes(), false),
            Content::File(path) => {
                let mode = fs::metadata(path)?.permissions().mode();
                (fs::read(path).with_context(|| format!("reading {}", path.display()))?, mode & 0o111 != 0)
            }
        };
        let mode = if executable { 0o755 } else { 0o644 };
        let options = SimpleFileOptions::default()
            .compression_level(Some(1))
            .unix_permissions(mode)
            .last_modified_time(zip::DateTime::default());
        writer.start_file(name.as_ref(), options)?;
        writer.write_all(&bytes)?;
    }
    Ok(writer.finish()?.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(zip: &[u8]) -> Vec<String> {
        let archive = zip::ZipArchive::new(Cursor::new(zip)).unwrap();
        (0..archive.len()).map(|index| archive.name_for_index(index).unwrap().unwrap().into_owned()).collect()
    }

    #[test]
    fn the_same_sources_make_the_same_bytes() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("handler.ts"), "export const main = async (e: unknown): Promise<number> => 1;\n")
            .unwrap();
        fs::create_dir(folder.path().join("node_modules")).unwrap();
        fs::write(folder.path().join(".env"), "SECRET=1").unwrap();
        fs::write(folder.path().join("data.txt"), "x").unwrap();
        let first = build(folder.path(), "nodejs20.x", &[], None, &BTreeMap::new()).unwrap();
        std::fs::File::open(folder.path().join("data.txt")).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
        let second = build(folder.path(), "nodejs20.x", &["!nothing/**".into()], None, &BTreeMap::new()).unwrap();
        assert_eq!(first.sha256, second.sha256);
        assert_eq!(names(&first.zip), ["data.txt", "handler.js"]);
        let third = build(folder.path(), "nodejs20.x", &["!*.txt".into()], None, &BTreeMap::new()).unwrap();
        assert_eq!(names(&third.zip), ["handler.js"]);
        let only = build(folder.path(), "nodejs20.x", &["!**".into(), "*.txt".into()], None, &BTreeMap::new()).unwrap();
        assert_eq!(names(&only.zip), ["data.txt"], "a later pattern puts back");
        let last = build(folder.path(), "nodejs20.x", &["data.txt".into(), "!data.txt".into()], None, &BTreeMap::new())
            .unwrap();
        assert_eq!(names(&last.zip), ["handler.js"]);
    }

    #[test]
    fn a_single_python_file_brings_its_own_modules() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        fs::create_dir(folder.path().join("pack")).unwrap();
        write("h.py", "import json, near\nfrom pack.inner import x\n");
        write("near.py", "import h\n");
        write("far.py", "");
        write("pack/__init__.py", "");
        write("pack/inner.py", "x = 1\n");
        let package =
            build(folder.path(), "python3.11", &[], Some(&folder.path().join("h.py")), &BTreeMap::new()).unwrap();
        assert_eq!(names(&package.zip), ["h.py", "near.py", "pack/__init__.py", "pack/inner.py"]);
    }

    #[test]
    fn modules_that_no_manifest_names_are_packed_as_they_are() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("node_modules/thing")).unwrap();
        fs::write(folder.path().join("node_modules/thing/index.ts"), "not a script of ours").unwrap();
        fs::write(folder.path().join("h.js"), "exports.h = require('thing');\n").unwrap();
        let package = build(folder.path(), "nodejs20.x", &[], None, &BTreeMap::new()).unwrap();
        assert_eq!(names(&package.zip), ["h.js", "node_modules/thing/index.ts"]);
        assert!(package.notes[0].contains("node_modules"), "{:?}", package.notes);
        fs::write(folder.path().join("package.json"), "{}").unwrap();
        let package = build(folder.path(), "nodejs20.x", &[], None, &BTreeMap::new()).unwrap();
        assert!(names(&package.zip).contains(&"node_modules/thing/index.ts".to_owned()));
    }

    #[test]
    fn links_that_leave_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.py"), "x").unwrap();
        std::os::unix::fs::symlink("/etc/hostname", folder.path().join("b")).unwrap();
        let error = build(folder.path(), "python3.11", &[], None, &BTreeMap::new()).unwrap_err().to_string();
        assert!(error.contains("leads out of the project"), "{error}");
    }

    #[test]
    fn globs_know_segments() {
        for (pattern, text, expected) in [
            ("a/*", "a/b", true),
            ("a/*", "a/b/c", false),
            ("a/**", "a/b/c", true),
            ("**/*.md", "x/y.md", true),
            ("**/*.md", "y.md", true),
            ("?.js", "ab.js", false),
        ] {
            assert_eq!(glob(pattern).unwrap().is_match(text), expected, "{pattern} {text}");
        }
    }
}

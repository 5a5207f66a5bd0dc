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
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use zip::write::{SimpleFileOptions, ZipWriter};

use super::dependencies::{self, Supplied};
use super::transpile;

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

/// Packs `root` for a function of `runtime`. `handler_only`: a single file instead of the whole folder.
pub fn build(root: &Path, runtime: &str, patterns: &[String], handler_only: Option<&Path>) -> Result<Package> {
    let mut files = BTreeMap::new();
    match handler_only {
        Some(file) => {
            let name = file.file_name().context("the handler has no file name")?;
            files.insert(PathBuf::from(name), file.to_owned());
        }
        None => collect(root, root, &mut files)?,
    }
    retain_patterns(&mut files, patterns);
    let mut notes = Vec::new();
    let mut entries: BTreeMap<PathBuf, Content> = BTreeMap::new();
    let mut imports = Vec::new();
    for (relative, path) in &files {
        add_file(relative, path, runtime, &mut entries, &mut imports)
            .with_context(|| format!("packing {}", path.display()))?;
    }
    let Supplied { folder, notes: supplied } = dependencies::supply(root, runtime, &imports)?;
    notes.extend(supplied);
    if let Some(folder) = folder {
        let mut more = BTreeMap::new();
        collect_all(&folder, &folder, &mut more)?;
        for (relative, path) in more {
            entries.entry(relative).or_insert(Content::File(path));
        }
    }
    if entries.is_empty() {
        bail!("{} holds no file that could be deployed", root.display());
    }
    let zip = zip(&entries)?;
    if zip.len() > ZIP_BYTES_MAX {
        bail!(
            "the package has {} MB zipped and may have 50; take files out with package.patterns, or bundle the code",
            zip.len() / 1_048_576
        );
    }
    let sha256 = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, Sha256::digest(&zip));
    Ok(Package { zip, sha256, notes })
}

enum Content {
    File(PathBuf),
    Text(String),
}

fn add_file(
    relative: &Path,
    path: &Path,
    runtime: &str,
    entries: &mut BTreeMap<PathBuf, Content>,
    imports: &mut Vec<String>,
) -> Result<()> {
    let name = relative.to_string_lossy();
    let is_node = runtime.starts_with("nodejs");
    let is_types = [".d.ts", ".d.mts", ".d.cts"].iter().any(|ending| name.ends_with(ending));
    let extension = relative.extension().and_then(|ending| ending.to_str()).unwrap_or("");
    if !is_node {
        if extension == "py" && runtime.starts_with("python") {
            imports.extend(dependencies::python_imports(&fs::read_to_string(path).unwrap_or_default()));
        }
        entries.insert(relative.to_owned(), Content::File(path.to_owned()));
        return Ok(());
    }
    match extension {
        _ if is_types => {}
        "ts" | "tsx" | "mts" | "cts" => {
            let source = fs::read_to_string(path)?;
            imports.extend(transpile::imports(relative, &source)?);
            let out = transpile::transpile(relative, &source)?;
            let ending = if out.is_module || extension == "mts" {
                "mjs"
            } else if extension == "cts" {
                "cjs"
            } else {
                "js"
            };
            let target = relative.with_extension(ending);
            if target.with_extension("js") != relative && entries.contains_key(&target) {
                bail!("{} and {} would be one file", relative.display(), target.display());
            }
            entries.insert(target, Content::Text(out.code));
        }
        "js" | "jsx" | "mjs" | "cjs" => {
            let source = fs::read_to_string(path)?;
            // A script that does not parse is the function's affair: it is packed as it is and fails as on Lambda.
            imports.extend(transpile::imports(relative, &source).unwrap_or_default());
            if extension == "jsx" {
                entries.insert(
                    relative.with_extension("js"),
                    Content::Text(transpile::transpile(relative, &source)?.code),
                );
            } else {
                entries.insert(relative.to_owned(), Content::Text(source));
            }
        }
        _ => {
            entries.insert(relative.to_owned(), Content::File(path.to_owned()));
        }
    }
    Ok(())
}

fn collect(root: &Path, folder: &Path, files: &mut BTreeMap<PathBuf, PathBuf>) -> Result<()> {
    walk(root, folder, files, &|name| NEVER.contains(&name))
}

fn collect_all(root: &Path, folder: &Path, files: &mut BTreeMap<PathBuf, PathBuf>) -> Result<()> {
    walk(root, folder, files, &|name| name == "__pycache__" || name == ".package-lock.json")
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

/// Serverless' patterns: everything is in; later patterns win; `!` takes away.
fn retain_patterns(files: &mut BTreeMap<PathBuf, PathBuf>, patterns: &[String]) {
    for pattern in patterns {
        if let Some(pattern) = pattern.strip_prefix('!') {
            files.retain(|relative, _| !matches_glob(pattern.trim_start_matches("./"), &relative.to_string_lossy()));
        }
    }
}

/// `*` within a path segment, `**` across segments, `?` one character.
fn matches_glob(pattern: &str, text: &str) -> bool {
    let escaped = regex_lite::escape(pattern);
    let expression =
        escaped.replace("\\*\\*/", "(?:.*/)?").replace("\\*\\*", ".*").replace("\\*", "[^/]*").replace("\\?", "[^/]");
    regex_lite::Regex::new(&format!("^{expression}$")).is_ok_and(|regex| regex.is_match(text))
}

fn zip(entries: &BTreeMap<PathBuf, Content>) -> Result<Vec<u8>> {
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
        let first = build(folder.path(), "nodejs20.x", &[], None).unwrap();
        std::fs::File::open(folder.path().join("data.txt")).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
        let second = build(folder.path(), "nodejs20.x", &["!nothing/**".into()], None).unwrap();
        assert_eq!(first.sha256, second.sha256);
        assert_eq!(names(&first.zip), ["data.txt", "handler.js"]);
        let third = build(folder.path(), "nodejs20.x", &["!*.txt".into()], None).unwrap();
        assert_eq!(names(&third.zip), ["handler.js"]);
    }

    #[test]
    fn links_that_leave_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.py"), "x").unwrap();
        std::os::unix::fs::symlink("/etc/hostname", folder.path().join("b")).unwrap();
        let error = build(folder.path(), "python3.11", &[], None).unwrap_err().to_string();
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
            assert_eq!(matches_glob(pattern, text), expected, "{pattern} {text}");
        }
    }
}

//! Dependencies of a package: installed from its manifest, or the SDKs that Lambda provides, into a cache by content.
//!
//! | project has                                   | is added                                                       |
//! |-----------------------------------------------|----------------------------------------------------------------|
//! | `package.json` with `dependencies`            | what npm installs for it, without development dependencies     |
//! | `node_modules` and no such manifest           | that folder as it is                                           |
//! | `requirements.txt`                            | what pip installs for it                                       |
//! | imports of `aws-sdk`, `@aws-sdk/*`, `boto3`   | the SDK, where no manifest names it and the platform has none  |
//!
//! What the platform has in a runtime pack (`packs.rs`) is left to it, as on Lambda.
//!
//! The cache is `$XDG_CACHE_HOME/dunlin` or `~/.cache/dunlin`. An installation happens in a temporary folder beside its
//! place and is renamed when it is whole, so that an interrupted one is never used.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value as Json;
use sha2::{Digest, Sha256};

use super::install::{self, NpmOptions};

/// What is to be added to a package.
#[derive(Debug, Default)]
pub struct Supplied {
    /// A folder whose content joins the package's root.
    pub folder: Option<PathBuf>,
    /// What was done, for the plan.
    pub notes: Vec<String>,
}

/// Installs what the project in `root` needs that its own files do not hold.
/// `provided` are the packages that the platform gives its functions, with their versions.
pub fn supply(root: &Path, runtime: &str, imports: &[String], provided: &BTreeMap<String, String>) -> Result<Supplied> {
    if runtime.starts_with("nodejs") {
        return node(root, imports, provided);
    }
    if runtime.starts_with("python") {
        return python(root, runtime, imports, provided);
    }
    Ok(Supplied { folder: None, notes: unpacked(root, runtime).into_iter().collect() })
}

/// What to do first where the packages of a project are packed as they lie there, and do not.
fn unpacked(root: &Path, runtime: &str) -> Option<String> {
    let lacks = |manifest: &str, folder: &str| root.join(manifest).is_file() && !root.join(folder).exists();
    if runtime.starts_with("ruby") && lacks("Gemfile", "vendor/bundle") {
        let commands = "`bundle config set --local path vendor/bundle` and `bundle install`";
        return Some(format!("the gems of the Gemfile are not in the package: run {commands} first"));
    }
    if runtime.starts_with("provided") && lacks("composer.json", "vendor/autoload.php") {
        return Some("the packages of composer.json are not in the package: run `composer install` first".into());
    }
    None
}

fn node(root: &Path, imports: &[String], provided: &BTreeMap<String, String>) -> Result<Supplied> {
    let manifest = root.join("package.json");
    let mut declared = Json::Null;
    if manifest.exists() {
        let text = fs::read_to_string(&manifest)?;
        declared = serde_json::from_str(&text).with_context(|| format!("{} is not valid JSON", manifest.display()))?;
    }
    let mut wanted: Vec<(String, String)> = Vec::new();
    if let Some(dependencies) = declared.get("dependencies").and_then(Json::as_object) {
        for (name, version) in dependencies {
            wanted.push((name.clone(), version.as_str().unwrap_or("*").to_owned()));
        }
    }
    if wanted.is_empty() && root.join("node_modules").is_dir() {
        // Whoever keeps modules without a manifest means these very files.
        let notes =
            vec!["node_modules is packed as it is (no package.json with dependencies names its content)".into()];
        return Ok(Supplied { folder: Some(root.join("node_modules")), notes });
    }
    let mut notes = Vec::new();
    let mut packs: Vec<String> = imports.iter().filter_map(|import| sdk_package(import)).collect();
    packs.sort();
    packs.dedup();
    packs.retain(|name| !wanted.iter().any(|(declared, _)| declared == name));
    let mut bundled = false;
    for name in packs {
        if let Some(version) = provided.get(&name) {
            notes.push(left_to_platform(&name, version));
            continue;
        }
        bundled = true;
        notes.push(format!(
            "{name} is added to the package: no manifest names it, and the platform has no runtime pack with it (see `dunlin runtimes add`)"
        ));
        let version = match name.as_str() {
            "aws-sdk" => "^2",
            name if name.starts_with("@aws-sdk/") => "^3",
            _ => "*",
        };
        wanted.push((name, version.to_owned()));
    }
    if wanted.is_empty() {
        return Ok(Supplied { folder: None, notes });
    }
    let lock = ["package-lock.json", "npm-shrinkwrap.json"].iter().find_map(|name| fs::read(root.join(name)).ok());
    // Relative `file:` dependencies mean the project's folder, which a cache elsewhere cannot see.
    if let Some((name, version)) =
        wanted.iter().find(|(_, version)| version.starts_with("file:") || version.starts_with("link:"))
    {
        bail!(
            "the dependency {name} ({version}) is a local folder; publish it, or copy it into the project and import it by path"
        );
    }
    let key = digest(&[b"npm-1", install::npm_manifest(&wanted).as_bytes(), lock.as_deref().unwrap_or(b"")]);
    // The lock serves where the manifest is the project's own.
    let options = NpmOptions { lock: lock.as_deref().filter(|_| !bundled), project: Some(root) };
    let folder = cached("npm", &key, |folder| {
        install::npm(folder, &wanted, &options)?;
        install::trim_sdk_v2(&folder.join("node_modules/aws-sdk"));
        Ok(())
    })?;
    if manifest_has(&declared) {
        notes.insert(0, "dependencies of package.json are installed by npm and cached".into());
    }
    Ok(Supplied { folder: Some(folder), notes })
}

fn left_to_platform(name: &str, version: &str) -> String {
    format!("{name} {version} is the platform's own (runtime pack)")
}

fn manifest_has(declared: &Json) -> bool {
    declared.get("dependencies").and_then(Json::as_object).is_some_and(|all| !all.is_empty())
}

/// The SDK package that an import needs: `aws-sdk`, or the `@aws-sdk/…` package of the specifier.
fn sdk_package(import: &str) -> Option<String> {
    if import == "aws-sdk" || import.starts_with("aws-sdk/") {
        return Some("aws-sdk".into());
    }
    let rest = import.strip_prefix("@aws-sdk/").or_else(|| import.strip_prefix("@smithy/"))?;
    let scope = &import[..import.len() - rest.len()];
    Some(format!("{scope}{}", rest.split('/').next()?))
}

fn python(root: &Path, runtime: &str, imports: &[String], provided: &BTreeMap<String, String>) -> Result<Supplied> {
    let requirements = fs::read_to_string(root.join("requirements.txt")).unwrap_or_default();
    let names = |line: &str| {
        line.split(['=', '<', '>', '~', '!', '[', ';', ' ', '#']).next().unwrap_or("").trim().to_lowercase()
    };
    let listed: Vec<String> = requirements.lines().map(names).filter(|name| !name.is_empty()).collect();
    let mut wanted = requirements.clone();
    let mut notes = Vec::new();
    if !listed.is_empty() {
        notes.push("requirements.txt is installed by pip and cached".into());
    }
    for pack in ["boto3", "botocore"] {
        let imported = imports.iter().any(|import| import == pack);
        if !imported || listed.iter().any(|name| name == "boto3" || name == pack) {
            continue;
        }
        if let Some(version) = provided.get(pack) {
            notes.push(left_to_platform(pack, version));
            continue;
        }
        notes.push(format!(
            "{pack} is added to the package: requirements.txt does not name it, and the platform has no runtime pack with it (see `dunlin runtimes add`)"
        ));
        wanted.push_str(&format!("\n{pack}\n"));
    }
    if wanted.trim().is_empty() {
        return Ok(Supplied { folder: None, notes });
    }
    let line = model::Runtime::parse(runtime).and_then(|runtime| runtime.version()).unwrap_or((3, 0));
    let python = install::python(line, None)?;
    let key = digest(&[b"pip-2", runtime.as_bytes(), wanted.as_bytes()]);
    let folder = cached("pip", &key, |folder| install::pip(folder, &python, line, &wanted))?;
    Ok(Supplied { folder: Some(folder), notes })
}

/// Top-level modules that a Python file imports.
pub fn python_imports(source: &str) -> Vec<String> {
    let mut names = Vec::new();
    for line in source.lines() {
        let line = line.trim();
        if let Some(rest) = line.strip_prefix("import ") {
            names.extend(rest.split(',').filter_map(|part| part.trim().split([' ', '.']).next()).map(str::to_owned));
        } else if let Some(rest) = line.strip_prefix("from ") {
            names.extend(rest.split([' ', '.']).next().map(str::to_owned));
        }
    }
    names
}

fn digest(parts: &[&[u8]]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hex::encode(&hasher.finalize()[..16])
}

fn cache_root() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty()) {
        return Ok(PathBuf::from(path).join("dunlin"));
    }
    let home = std::env::var_os("HOME")
        .context("neither XDG_CACHE_HOME nor HOME is set, so there is no place for the dependency cache")?;
    Ok(PathBuf::from(home).join(".cache/dunlin"))
}

/// The folder of `key`, made by `install` if it is not there.
fn cached(kind: &str, key: &str, install: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let root = cache_root()?.join(kind);
    let folder = root.join(key);
    if folder.is_dir() {
        return Ok(folder);
    }
    fs::create_dir_all(&root).with_context(|| format!("making {}", root.display()))?;
    let temporary = root.join(format!(".{key}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&temporary);
    fs::create_dir(&temporary)?;
    if let Err(error) = install(&temporary) {
        let _ = fs::remove_dir_all(&temporary);
        return Err(error);
    }
    if fs::rename(&temporary, &folder).is_err() {
        // Another deployment was quicker; its folder has the same content.
        fs::remove_dir_all(&temporary)?;
    }
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sdk_imports_name_their_package() {
        assert_eq!(sdk_package("aws-sdk/clients/s3").as_deref(), Some("aws-sdk"));
        assert_eq!(sdk_package("@aws-sdk/client-s3/x").as_deref(), Some("@aws-sdk/client-s3"));
        assert_eq!(sdk_package("./aws-sdk"), None);
    }

    #[test]
    fn packages_that_are_not_installed_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let notes = |runtime| supply(folder.path(), runtime, &[], &BTreeMap::new()).unwrap().notes;
        assert!(notes("ruby3.3").is_empty() && notes("provided.al2023").is_empty());
        fs::write(folder.path().join("Gemfile"), "").unwrap();
        fs::write(folder.path().join("composer.json"), "{}").unwrap();
        assert!(
            notes("ruby3.3")[0].contains("bundle install") && notes("provided.al2023")[0].contains("composer install")
        );
        fs::create_dir_all(folder.path().join("vendor/bundle")).unwrap();
        assert!(notes("ruby3.3").is_empty());
    }

    #[test]
    fn python_imports_are_top_level_names() {
        assert_eq!(
            python_imports("import os, boto3\nfrom botocore.config import Config\nx = 1\n"),
            ["os", "boto3", "botocore"]
        );
    }
}

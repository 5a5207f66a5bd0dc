//! A project's scripts as Node loads them: TypeScript rewritten, files named as they are in the package.
//!
//! | source                                   | in the package                                              |
//! |------------------------------------------|-------------------------------------------------------------|
//! | `.js`, `.mjs`, `.cjs`                    | as it is                                                    |
//! | `.mts`, `.cts`                           | `.mjs`, `.cjs`                                              |
//! | `.ts`, `.tsx`, `.jsx`                    | `.js`: an ES module below a `package.json` of type `module` |
//! | the same, awaiting at its top level      | `.mjs` where `.js` would be CommonJS                        |
//! | `.d.ts`, `.d.mts`, `.d.cts`              | not in it                                                   |
//!
//! Relative imports may name a TypeScript file by its own ending, by the ending that it gets, by none, or by its folder,
//! as bundlers allow; Node's ES modules know exact names only, so imports are rewritten to those.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value as Json;

use super::transpile::{self, Format, Transpiled};

/// Endings of what is rewritten, and those that Node loads, in the order in which an import without one is looked up.
const TYPED: &[&str] = &["ts", "tsx", "mts", "cts", "jsx"];
const LOADED: &[&str] = &["js", "mjs", "cjs", "json"];

/// The scripts of a package.
#[derive(Debug, Default)]
pub struct Scripts {
    /// Rewritten files by the source that they came from: name in the package, and text.
    pub rewritten: BTreeMap<PathBuf, (PathBuf, String)>,
    /// What all scripts import, types left out.
    pub imports: Vec<String>,
}

/// Whether the file is a script, rewritten or not.
pub fn is_script(path: &Path) -> bool {
    ending(path).is_some_and(|ending| TYPED.contains(&ending) || ["js", "mjs", "cjs"].contains(&ending))
}

/// Whether the file only declares types.
pub fn is_declaration(path: &Path) -> bool {
    let name = path.to_string_lossy();
    [".d.ts", ".d.mts", ".d.cts"].iter().any(|ending| name.ends_with(ending))
}

/// Rewrites what has to be rewritten among `files`, given by their name in the project and their place.
pub fn load(files: &BTreeMap<PathBuf, PathBuf>) -> Result<Scripts> {
    let mut scripts = Scripts::default();
    let mut sources = BTreeMap::new();
    let mut targets = BTreeMap::new();
    for (name, path) in files.iter().filter(|(name, _)| is_script(name) && !is_declaration(name)) {
        let source = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        if ending(name).is_some_and(|ending| TYPED.contains(&ending)) {
            scripts.imports.extend(transpile::imports(name, &source)?);
            let format = format_of(name, files)?;
            let target = target_of(name, format, &transpile::transpile(name, &source, format, &|_| None)?)?;
            sources.insert(name.clone(), (source, format));
            targets.insert(name.clone(), target);
        } else {
            // A script that does not parse is the function's affair: it is packed as it is and fails as on Lambda.
            scripts.imports.extend(transpile::imports(name, &source).unwrap_or_default());
        }
    }
    for (name, target) in &targets {
        let twin = targets.iter().find(|(other, same)| *other != name && *same == target).map(|(other, _)| other);
        if let Some(twin) = twin.or_else(|| files.get_key_value(target).map(|(other, _)| other)) {
            bail!("{} and {} would both be {} in the package", name.display(), twin.display(), target.display());
        }
    }
    let known = |path: &Path| files.contains_key(path);
    for (name, (source, format)) in sources {
        let rename = |specifier: &str| {
            let found = resolve(&name, specifier, &known)?;
            let file = targets.get(&found).unwrap_or(&found).file_name()?.to_str()?.to_owned();
            renamed(&name, specifier, &found, &file).filter(|new| new != specifier)
        };
        let code = transpile::transpile(&name, &source, format, &rename)?.code;
        scripts.rewritten.insert(name.clone(), (targets[&name].clone(), code));
    }
    Ok(scripts)
}

/// The files that a script needs of its own folder: itself, and what it imports by relative names, and so on.
pub fn closure(root: &Path, script: &Path) -> Result<BTreeMap<PathBuf, PathBuf>> {
    let first = PathBuf::from(script.file_name().context("the handler has no file name")?);
    let mut files = BTreeMap::new();
    let mut open = vec![first.clone()];
    while let Some(name) = open.pop() {
        let path = root.join(&name);
        if files.insert(name.clone(), path.clone()).is_some() || !is_script(&name) {
            continue;
        }
        let source = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        for import in transpile::imports(&name, &source).unwrap_or_default() {
            if import.starts_with("../") && normal(&name, &import).is_none() {
                bail!(
                    "{} imports {import}, outside of the folder that is deployed; deploy a folder that holds both",
                    name.display()
                );
            }
            open.extend(resolve(&name, &import, &|path| root.join(path).is_file()));
        }
    }
    // Node asks the manifest what the script is.
    let manifest = (PathBuf::from("package.json"), root.join("package.json"));
    if manifest.1.is_file() && format_of(&first, &[manifest.clone()].into())? == Format::Module {
        files.extend([manifest]);
    }
    Ok(files)
}

fn ending(path: &Path) -> Option<&str> {
    path.extension().and_then(|ending| ending.to_str())
}

/// What Node takes a file for: by its ending, else by the nearest manifest.
fn format_of(name: &Path, files: &BTreeMap<PathBuf, PathBuf>) -> Result<Format> {
    match ending(name) {
        Some("mts") => return Ok(Format::Module),
        Some("cts") => return Ok(Format::CommonJs),
        _ => {}
    }
    let nearest = name.ancestors().skip(1).find_map(|folder| files.get(&folder.join("package.json")));
    let Some(manifest) = nearest else { return Ok(Format::CommonJs) };
    let text = fs::read_to_string(manifest).with_context(|| format!("reading {}", manifest.display()))?;
    let document: Json =
        serde_json::from_str(&text).with_context(|| format!("{} is not valid JSON", manifest.display()))?;
    Ok(if document["type"] == "module" { Format::Module } else { Format::CommonJs })
}

fn target_of(name: &Path, format: Format, out: &Transpiled) -> Result<PathBuf> {
    let ending = match ending(name) {
        Some("mts") => "mjs",
        Some("cts") if out.is_module => bail!("{}: a CommonJS module cannot await at its top level", name.display()),
        Some("cts") => "cjs",
        _ if out.is_module && format == Format::CommonJs => "mjs",
        _ => "js",
    };
    Ok(name.with_extension(ending))
}

/// The project's file that a relative specifier means.
fn resolve(importer: &Path, specifier: &str, known: &dyn Fn(&Path) -> bool) -> Option<PathBuf> {
    if !(specifier.starts_with("./") || specifier.starts_with("../") || specifier == "." || specifier == "..") {
        return None;
    }
    let plain = normal(importer, specifier)?;
    let swapped: &[&str] = match ending(&plain) {
        Some("js" | "jsx") => &["ts", "tsx", "jsx"],
        Some("mjs") => &["mts"],
        Some("cjs") => &["cts"],
        _ => &[],
    };
    let with = |path: &Path, ending: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(".");
        name.push(ending);
        PathBuf::from(name)
    };
    let endings = || TYPED.iter().chain(LOADED);
    let swapped = swapped.iter().map(|ending| plain.with_extension(ending));
    let added = endings().map(|ending| with(&plain, ending));
    let inside = endings().map(|ending| with(&plain.join("index"), ending));
    let mut all = std::iter::once(plain.clone()).chain(swapped).chain(added).chain(inside);
    all.find(|path| known(path))
}

/// A specifier's path from the project's folder; nothing where it leaves that.
fn normal(importer: &Path, specifier: &str) -> Option<PathBuf> {
    let mut path = importer.parent()?.to_owned();
    for part in Path::new(specifier).components() {
        match part {
            Component::ParentDir => path.pop().then_some(())?,
            Component::Normal(name) => path.push(name),
            _ => {}
        }
    }
    Some(path)
}

/// The specifier that names `file`, which lies where `found` lies.
fn renamed(importer: &Path, specifier: &str, found: &Path, file: &str) -> Option<String> {
    let is_folder = normal(importer, specifier).as_deref() == found.parent();
    if is_folder && found.file_stem().is_some_and(|stem| stem == "index") {
        return Some(format!("{}/{file}", specifier.trim_end_matches('/')));
    }
    let (folder, _) = specifier.rsplit_once('/')?;
    Some(format!("{folder}/{file}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn project(files: &[(&str, &str)]) -> (tempfile::TempDir, BTreeMap<PathBuf, PathBuf>) {
        let folder = tempfile::tempdir().unwrap();
        let mut all = BTreeMap::new();
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            all.insert(PathBuf::from(name), path);
        }
        (folder, all)
    }

    fn text<'a>(scripts: &'a Scripts, name: &str) -> (&'a str, &'a str) {
        let (target, code) = &scripts.rewritten[Path::new(name)];
        (target.to_str().unwrap(), code)
    }

    #[test]
    fn a_module_project_stays_one_and_names_its_files_exactly() {
        let (_folder, files) = project(&[
            ("package.json", r#"{"type": "module"}"#),
            (
                "h.ts",
                "import { a } from './lib';\nimport { b } from './sub';\nimport { c } from './c.js';\nimport { d } from '../h/d.ts';\nimport x from 'x';\nexport const h = [a, b, c, d, x];\n",
            ),
            ("lib.ts", "export const a: number = 1;\n"),
            ("sub/index.ts", "export const b = 1;\n"),
            ("c.ts", "export const c = 1;\n"),
        ]);
        let scripts = load(&files).unwrap();
        let (target, code) = text(&scripts, "h.ts");
        assert_eq!(target, "h.js");
        for part in
            ["\"./lib.js\"", "\"./sub/index.js\"", "\"./c.js\"", "\"../h/d.ts\"", "from \"x\"", "export const h"]
        {
            assert!(code.contains(part), "{part} in {code}");
        }
    }

    #[test]
    fn endings_decide_before_the_manifest() {
        let (_folder, files) = project(&[
            ("a.mts", "import { c } from './c.cjs';\nexport const a = c;\n"),
            ("c.cts", "export const c: string = 'c';\n"),
            ("t.ts", "export const t = await import('./a.mjs');\n"),
            ("u.ts", "import { t } from './t';\nexport const u = t;\n"),
        ]);
        let scripts = load(&files).unwrap();
        assert_eq!(text(&scripts, "a.mts").0, "a.mjs");
        assert!(text(&scripts, "a.mts").1.contains("export const a"));
        assert_eq!(text(&scripts, "c.cts").0, "c.cjs");
        assert!(text(&scripts, "c.cts").1.contains("\"use strict\""));
        assert_eq!(text(&scripts, "t.ts").0, "t.mjs");
        assert!(text(&scripts, "u.ts").1.contains("\"./t.mjs\""), "{}", text(&scripts, "u.ts").1);
    }

    #[test]
    fn two_sources_of_one_name_are_refused() {
        let (_folder, files) = project(&[("a.ts", "export {}"), ("a.js", "")]);
        assert!(load(&files).unwrap_err().to_string().contains("would both be a.js"));
    }

    #[test]
    fn a_script_brings_what_it_imports_and_no_more() {
        let (folder, _) = project(&[
            (
                "h.ts",
                "import { a } from './lib/a';\nimport data from './data.json';\nexport const handler = () => [a, data];\n",
            ),
            ("lib/a.ts", "export { b as a } from './b';\n"),
            ("lib/b.js", "exports.b = 1;\n"),
            ("data.json", "1"),
            ("other.ts", ""),
            ("bad.js", "require('../outside');\n"),
        ]);
        let files = closure(folder.path(), &folder.path().join("h.ts")).unwrap();
        let names: Vec<_> = files.keys().map(|name| name.to_str().unwrap()).collect();
        assert_eq!(names, ["data.json", "h.ts", "lib/a.ts", "lib/b.js"]);
        let error = closure(folder.path(), &folder.path().join("bad.js")).unwrap_err().to_string();
        assert!(error.contains("outside of the folder"), "{error}");
    }
}

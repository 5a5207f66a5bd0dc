//! House rules that a machine can check. Run by `cargo test -p xtask` and by `cargo xtask tidy`.
//!
//! | rule    | says                                                                                          |
//! |---------|-----------------------------------------------------------------------------------------------|
//! | layers  | crates use only what `layers.toml` allows; a service never names another service              |
//! | headers | every Rust file starts with a `//!` header                                                    |
//! | sizes   | no file over 1,000 lines (functions are held to 70 lines by clippy)                           |
//! | unsafe  | `unsafe` stands in `crates/sandbox` only, each block with its `SAFETY:` reason                |
//! | paths   | every path in backticks or links of the documents exists                                      |
//! | words   | no unfinished places, no unbounded channels, no path of one machine, no registry address      |
//! | crates  | `ARCHITECTURE.md` names exactly the crates that exist                                         |
//!
//! Each rule is a function from the tree to a list of findings; a finding names file, line and remedy.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Most lines of a source file.
const FILE_LINES_MAX: usize = 1_000;

/// One breach of a rule.
pub type Finding = String;

/// All findings in the tree at `root`.
pub fn check(root: &Path) -> Vec<Finding> {
    let tree = Tree::read(root);
    [layers, services_stay_apart, headers, sizes, unsafe_places, document_paths, words, architecture]
        .iter()
        .flat_map(|rule| rule(&tree))
        .collect()
}

/// The files that git tracks or would track, by path relative to the root.
struct Tree {
    root: PathBuf,
    files: BTreeMap<String, String>,
}

impl Tree {
    fn read(root: &Path) -> Self {
        let mut files = BTreeMap::new();
        let mut folders = vec![root.to_owned()];
        while let Some(folder) = folders.pop() {
            let Ok(entries) = fs::read_dir(&folder) else { continue };
            for entry in entries.flatten() {
                let path = entry.path();
                let name = entry.file_name().to_string_lossy().into_owned();
                let skipped = ["target", ".git", "node_modules", ".cache", ".dunlin", "__pycache__"];
                if skipped.contains(&name.as_str()) || path.is_symlink() {
                    continue;
                }
                if path.is_dir() {
                    folders.push(path);
                } else if let (Ok(relative), Ok(text)) = (path.strip_prefix(root), fs::read_to_string(&path)) {
                    files.insert(relative.to_string_lossy().into_owned(), text);
                }
            }
        }
        Self { root: root.to_owned(), files }
    }

    fn rust(&self) -> impl Iterator<Item = (&String, &String)> {
        self.files.iter().filter(|(path, _)| path.ends_with(".rs"))
    }

    fn documents(&self) -> impl Iterator<Item = (&String, &String)> {
        self.files.iter().filter(|(path, _)| path.ends_with(".md"))
    }

    fn exists(&self, path: &str) -> bool {
        self.root.join(path).exists()
    }
}

fn is_generated(text: &str) -> bool {
    text.lines().take(3).any(|line| line.contains("@generated"))
}

fn layers(tree: &Tree) -> Vec<Finding> {
    let Some(table) = tree.files.get("layers.toml") else { return vec!["layers.toml is missing".into()] };
    let mut findings = Vec::new();
    let mut allowed = BTreeMap::new();
    for line in table.lines().filter(|line| line.contains('=') && !line.starts_with('#')) {
        let (name, list) = line.split_once('=').unwrap_or((line, ""));
        let list: BTreeSet<&str> = list.split('"').skip(1).step_by(2).collect();
        allowed.insert(name.trim(), list);
    }
    for (path, text) in &tree.files {
        let Some(name) = path.strip_suffix("/Cargo.toml").and_then(|folder| folder.rsplit('/').next()) else {
            continue;
        };
        // Programs that tests run as functions are of no layer.
        if path.starts_with("tests/") {
            continue;
        }
        let Some(may) = allowed.get(name) else {
            findings.push(format!("{path}: the crate {name} is not in layers.toml"));
            continue;
        };
        let used = text.split("[dev-dependencies]").next().unwrap_or(text);
        for line in used.lines() {
            let dependency = line.split(['.', ' ', '=']).next().unwrap_or("");
            if allowed.contains_key(dependency) && dependency != name && line.contains('=') && !may.contains(dependency)
            {
                findings.push(format!("{path}: {name} must not use {dependency} (layers.toml)"));
            }
        }
    }
    findings
}

fn services_stay_apart(tree: &Tree) -> Vec<Finding> {
    let folder = "crates/services/src/";
    let service =
        |path: &str| path.strip_prefix(folder).and_then(|rest| rest.split_once('/')).map(|(name, _)| name.to_owned());
    let names: BTreeSet<String> = tree.files.keys().filter_map(|path| service(path)).collect();
    let mut findings = Vec::new();
    for (path, text) in tree.rust() {
        let Some(own) = service(path) else { continue };
        for (number, line) in text.lines().enumerate() {
            for other in names.iter().filter(|name| **name != own) {
                if line.contains(&format!("crate::{other}::")) || line.contains(&format!("super::super::{other}")) {
                    findings
                        .push(format!("{path}:{}: the service {own} must not name the service {other}", number + 1));
                }
            }
        }
    }
    findings
}

fn headers(tree: &Tree) -> Vec<Finding> {
    let lacks = |text: &str| !text.starts_with("//!") && !is_generated(text);
    tree.rust()
        .filter(|(_, text)| lacks(text))
        .map(|(path, _)| format!("{path}: starts without a //! header"))
        .collect()
}

fn sizes(tree: &Tree) -> Vec<Finding> {
    let sources = tree.files.iter().filter(|(path, text)| {
        let source = [".rs", ".py", ".cjs", ".mjs", ".js", ".ts"].iter().any(|ending| path.ends_with(ending));
        source && !is_generated(text)
    });
    let lines = |text: &str| text.lines().count();
    sources
        .filter(|(_, text)| lines(text) > FILE_LINES_MAX)
        .map(|(path, text)| format!("{path}: {} lines; split it ({FILE_LINES_MAX} at most)", lines(text)))
        .collect()
}

fn unsafe_places(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.rust().filter(|(path, _)| !path.starts_with("xtask/")) {
        let lines: Vec<&str> = text.lines().collect();
        for (index, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap_or("");
            if !code.contains("unsafe ") || code.contains("unsafe_code") || code.contains('"') {
                continue;
            }
            if !path.starts_with("crates/sandbox/") {
                findings.push(format!("{path}:{}: unsafe outside crates/sandbox", index + 1));
            } else if code.contains("unsafe {")
                && !lines[index.saturating_sub(6)..=index].iter().any(|near| near.contains("SAFETY"))
            {
                findings.push(format!("{path}:{}: unsafe without a SAFETY reason above it", index + 1));
            }
        }
    }
    findings
}

fn document_paths(tree: &Tree) -> Vec<Finding> {
    let roots = ["crates/", "runtimes/", "examples/", "tests/", "benches/", "docs/", "xtask/", "fuzz/", ".ci/"];
    let mut findings = Vec::new();
    for (path, text) in tree.documents() {
        for (number, line) in text.lines().enumerate() {
            let quoted = line.split('`').skip(1).step_by(2);
            let linked = line.split("](").skip(1).filter_map(|rest| rest.split(')').next());
            for word in quoted.chain(linked) {
                let word = word.split([' ', '#', ':']).next().unwrap_or("").trim_end_matches('/');
                let is_path = roots.iter().any(|root| word.starts_with(root)) && !word.contains(['*', '<', '{', '…']);
                if is_path && !tree.exists(word) {
                    findings.push(format!("{path}:{}: {word} does not exist", number + 1));
                }
            }
        }
    }
    findings
}

fn words(tree: &Tree) -> Vec<Finding> {
    // Written in halves, so that this file does not find itself.
    let banned = [
        (concat!("todo", "!("), "finish it"),
        (concat!("unimplemented", "!("), "finish it"),
        (concat!("FIX", "ME"), "mend it or open an issue"),
        (concat!("unbounded", "_channel("), "bound it; a full channel is back-pressure"),
        (concat!("/wo", "rk/main"), "no path of one machine"),
        (concat!("--index", "-url"), "no registry address"),
        (concat!("\"resolved\": \"", "http"), "npm: omit-lockfile-registry-resolved=true"),
    ];
    let mut findings = Vec::new();
    for (path, text) in tree.files.iter().filter(|(path, text)| !is_generated(text) && path.as_str() != "LICENSE") {
        for (number, line) in text.lines().enumerate() {
            for (word, remedy) in banned {
                if line.contains(word) {
                    findings.push(format!("{path}:{}: {word:?}: {remedy}", number + 1));
                }
            }
        }
    }
    findings
}

fn architecture(tree: &Tree) -> Vec<Finding> {
    let Some(page) = tree.files.get("ARCHITECTURE.md") else { return vec!["ARCHITECTURE.md is missing".into()] };
    let crates = tree.files.keys().filter_map(|path| path.strip_prefix("crates/")?.strip_suffix("/Cargo.toml"));
    crates
        .filter(|name| !page.contains(&format!("`crates/{name}`")))
        .map(|name| format!("ARCHITECTURE.md does not name `crates/{name}`"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
    }

    fn tree(files: &[(&str, &str)]) -> Tree {
        let files = files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect();
        Tree { root: PathBuf::from("/nowhere"), files }
    }

    #[test]
    fn the_house_is_tidy() {
        let findings = check(&root());
        assert!(findings.is_empty(), "{} findings:\n{}", findings.len(), findings.join("\n"));
    }

    #[test]
    fn an_arrow_that_points_up_is_found() {
        let layers_toml = ("layers.toml", "base = []\nmodel = [\"base\"]\n");
        let upward = ("crates/base/Cargo.toml", "[dependencies]\nmodel.workspace = true\n");
        let downward = ("crates/model/Cargo.toml", "[dependencies]\nbase.workspace = true\n");
        assert_eq!(layers(&tree(&[layers_toml, downward])), Vec::<Finding>::new());
        assert_eq!(layers(&tree(&[layers_toml, upward])).len(), 1);
    }

    #[test]
    fn a_service_that_names_another_is_found() {
        let files = [
            ("crates/services/src/a/mod.rs", "use crate::b::X;"),
            ("crates/services/src/b/mod.rs", "use crate::b::X;"),
        ];
        assert_eq!(services_stay_apart(&tree(&files)).len(), 1);
    }

    #[test]
    fn each_textual_rule_finds_its_breach() {
        let long = "//! x\n".repeat(FILE_LINES_MAX + 1);
        assert_eq!(sizes(&tree(&[("a.rs", &long)])).len(), 1);
        assert_eq!(headers(&tree(&[("a.rs", "fn x() {}")])).len(), 1);
        assert_eq!(unsafe_places(&tree(&[("crates/base/src/a.rs", "    unsafe { x() }")])).len(), 1);
        assert_eq!(unsafe_places(&tree(&[("crates/sandbox/src/a.rs", "    unsafe { x() }")])).len(), 1);
        assert_eq!(unsafe_places(&tree(&[("crates/sandbox/src/a.rs", "// SAFETY: y\nunsafe { x() }")])).len(), 0);
        assert_eq!(document_paths(&tree(&[("A.md", "see `crates/nothing/here.rs`")])).len(), 1);
        assert_eq!(words(&tree(&[("a.rs", concat!("todo", "!()"))])).len(), 1);
    }
}

//! Which black-box tests call an operation: what the matrix names beside each that is supported.
//!
//! Read from the tests' text: a call of boto3 (`.create_alias(`), one of its paginators, or a subcommand of the AWS CLI in
//! the body of a test or of a function of its file; else a command of the SDK for JavaScript. That a test shows what the
//! operation does is for its reviewer.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Most tests that are named for one operation.
const NAMED_MAX: usize = 2;

/// The tests of this repository.
pub struct Tests {
    /// By file and name, with their text.
    all: Vec<(String, String)>,
}

impl Tests {
    pub fn read(root: &Path) -> Self {
        let mut all = Vec::new();
        for file in files(&root.join("tests/sdk"), "py") {
            let text = fs::read_to_string(&file).unwrap();
            let file = shown(root, &file);
            for part in text.split("\ndef ").skip(1) {
                let name = part.split('(').next().unwrap_or_default();
                let place = if name.starts_with("test_") { format!("{file}::{name}") } else { file.clone() };
                all.push((place, part.to_owned()));
            }
        }
        for file in files(&root.join("tests/js"), "test.js") {
            all.push((shown(root, &file), fs::read_to_string(&file).unwrap()));
        }
        Self { all }
    }

    /// Those that call an operation of a service, tests before files.
    pub fn of(&self, service: &str, operation: &str) -> Vec<&str> {
        let snake = words(operation, '_');
        let wanted = [
            format!(".{snake}("),
            format!("\"{snake}\""),
            format!("\"{}\"", words(operation, '-')),
            format!("{operation}Command("),
        ];
        // Names that several services have belong to the one that the place speaks of.
        let ours = |place: &str| !place.contains("dynamodb") || service.starts_with("dynamodb");
        let found: BTreeSet<&str> = self
            .all
            .iter()
            .filter(|(place, text)| ours(place) && wanted.iter().any(|wanted| text.contains(wanted)))
            .map(|(place, _)| &**place)
            .collect();
        let (tests, files): (Vec<&str>, Vec<&str>) = found.into_iter().partition(|place| place.contains("::"));
        tests.into_iter().chain(files).take(NAMED_MAX).collect()
    }
}

fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().ends_with(ending))
        // It calls every operation there is, to see which are refused.
        .filter(|path| !path.to_string_lossy().contains("_surface"))
        .collect();
    found.sort();
    found
}

fn shown(root: &Path, file: &Path) -> String {
    file.strip_prefix(root).unwrap().to_string_lossy().into_owned()
}

/// A name as boto3 and the CLI write it: a capital begins a word unless it follows one and no small letter comes after it.
pub fn words(name: &str, between: char) -> String {
    let chars: Vec<char> = name.chars().collect();
    let mut written = String::new();
    for (at, c) in chars.iter().enumerate() {
        let after_small = at > 0 && !chars[at - 1].is_ascii_uppercase();
        let before_small = at > 0 && chars.get(at + 1).is_some_and(char::is_ascii_lowercase);
        if c.is_ascii_uppercase() && at > 0 && (after_small || before_small) {
            written.push(between);
        }
        written.push(c.to_ascii_lowercase());
    }
    written
}

//! PHP functions, as they are written for Bref: its runtimes `php-84`, `php-84-fpm` and `php-84-console`, its layers, and bare
//! files. Pure, but for the files that are looked at.
//!
//! The platform runs a `provided.*` function on its PHP where the handler is a PHP file, or the variable `DUNLIN_PHP_VERSION`
//! says so, and the package has no `bootstrap`; what was said otherwise becomes that here, and layers of Bref's, which hold a
//! PHP, are left out. Web applications become web servers, which PHP has one of.

use std::path::Path;

use anyhow::{Result, bail};
use model::runtime::PHP_VERSION;
use model::web;
use serde_json::Value as Json;

use super::package::PROGRAM;
use super::project::Function;

/// The runtime of functions that are PHP to the platform.
const RUNTIME: &str = "provided.al2023";
/// The accounts that Bref's layers are of.
const BREF_ACCOUNTS: &[&str] = &["534081306603", "873528684822"];
/// What `${bref:layer.NAME}` begins with once its source is taken off.
pub const BREF_LAYER: &str = "layer.";
/// What tells Bref, and the platform's PHP, that a handler is a command.
const CONSOLE: (&str, &str) = ("BREF_RUNTIME", "console");

/// One of Bref's runtimes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Bref {
    /// `8.4`; nothing where none is said.
    version: Option<String>,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Function,
    Web,
    Console,
}

/// `php-84-fpm` and the like; also `php-84` alone, `arm-php-84`, `console`.
fn bref(name: &str) -> Option<Bref> {
    if name == "console" {
        return Some(Bref { version: None, kind: Kind::Console });
    }
    let rest = name.trim_start_matches("arm-").strip_prefix("php-")?;
    let (digits, kind) = match rest.split_once('-') {
        None => (rest, Kind::Function),
        Some((digits, "fpm")) => (digits, Kind::Web),
        Some((digits, "console")) => (digits, Kind::Console),
        Some(_) => return None,
    };
    if digits.len() < 2 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (major, minor) = digits.split_at(1);
    Some(Bref { version: Some(format!("{major}.{minor}")), kind })
}

/// The name of a layer of Bref's.
fn layer_name(layer: &Json) -> Option<&str> {
    let text = layer.as_str()?;
    if let Some(name) = text.strip_prefix(BREF_LAYER) {
        return Some(name);
    }
    match text.split(':').collect::<Vec<_>>()[..] {
        ["arn", _, "lambda", _, account, "layer", name, _] if BREF_ACCOUNTS.contains(&account) => Some(name),
        _ => None,
    }
}

/// Makes of Bref's words what the platform knows; answers what was done, for the plan.
pub fn adapt(function: &mut Function) -> Vec<String> {
    let mut said: Vec<Bref> = function.runtime.as_deref().and_then(bref).into_iter().collect();
    let is_custom = function.runtime.as_deref().is_none_or(|runtime| runtime.starts_with("provided"));
    let mut notes = Vec::new();
    if !said.is_empty() || is_custom {
        function.layers.retain(|layer| {
            let Some(found) = layer_name(layer).and_then(bref) else { return true };
            said.push(found);
            false
        });
    }
    let Some(first) = said.first() else { return notes };
    let kind = said.iter().map(|found| found.kind).find(|kind| *kind != Kind::Function).unwrap_or(first.kind);
    let version = said.iter().find_map(|found| found.version.clone());
    function.runtime = Some(RUNTIME.to_owned());
    let mut put = |name: &str, value: String| {
        function.environment.entry(name.to_owned()).or_insert(Json::String(value));
    };
    if let Some(version) = version {
        put(PHP_VERSION, version);
    }
    match kind {
        Kind::Function => {}
        Kind::Console => put(CONSOLE.0, CONSOLE.1.to_owned()),
        Kind::Web => {
            notes
                .push(format!("{}: its PHP is served by PHP's own web server, in the place of PHP-FPM", function.name));
            put(web::COMMAND, web_command(&function.handler));
            // As there: a request has the process for itself.
            put(web::CONCURRENCY, "1".to_owned());
        }
    }
    notes
}

/// PHP's own web server, which gives every request to one file.
pub fn web_command(handler: &str) -> String {
    let folder = Path::new(handler).parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.map_or_else(|| ".".into(), |folder| quoted(&folder.to_string_lossy()));
    format!("exec php -S 127.0.0.1:$PORT -t {folder} {}", quoted(handler))
}

/// A word for the shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Whether a file returns something at its top level, as a handler does and a page does not.
pub fn returns_handler(source: &str) -> bool {
    regex_lite::Regex::new(r"(?m)^return\s").is_ok_and(|pattern| pattern.is_match(source))
}

/// Whether the platform's PHP is to run a function.
pub fn is_php(root: &Path, function: &Function) -> bool {
    let is_custom = function.runtime.as_deref().is_none_or(|runtime| runtime.starts_with("provided"));
    let brings = ["bootstrap", PROGRAM].iter().any(|name| root.join(name).is_file());
    let says = function.handler.ends_with(".php") || function.environment.contains_key(PHP_VERSION);
    is_custom && !brings && says
}

/// What to know about the PHP that the platform has for a function.
///
/// # Errors
/// It has none.
pub fn served_by(function: &Function, platform: &Json) -> Result<Option<String>> {
    let found = platform["interpreters"].as_array().into_iter().flatten().filter(|found| found["family"] == "php");
    let number = |found: &Json, index: usize| found["version"][index].as_u64().unwrap_or(0);
    let mut versions: Vec<(u64, u64, u64)> =
        found.map(|found| (number(found, 0), number(found, 1), number(found, 2))).collect();
    versions.sort_unstable();
    let Some(newest) = versions.last() else {
        bail!(
            "the platform has no usable PHP: `dunlin runtimes add php` on its machine installs one; `dunlin doctor` lists what was looked at"
        );
    };
    let asked = function.environment.get(PHP_VERSION).and_then(Json::as_str);
    let Some(asked) = asked else { return Ok(None) };
    if versions.iter().any(|(major, minor, _)| asked == format!("{major}.{minor}")) {
        return Ok(None);
    }
    let wanted = asked.split_once('.').and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    let newer = versions.iter().find(|(major, minor, _)| wanted.is_some_and(|wanted| (*major, *minor) > wanted));
    let (major, minor, patch) = newer.unwrap_or(newest);
    Ok(Some(format!("PHP {asked} runs on PHP {major}.{minor}.{patch}: the platform's machine has no PHP {asked}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn function(runtime: &str, layers: &[&str]) -> Function {
        let folder = tempfile::tempdir().unwrap();
        let text = format!(
            "service: s\nfunctions:\n  f:\n    handler: public/index.php\n    runtime: {runtime}\n    layers: {}\n",
            json!(layers)
        );
        let document = crate::yaml::Node::parse(Path::new("serverless.yml"), &text).unwrap();
        let project =
            super::super::serverless::project(&document, folder.path(), "dev".into(), "us-east-1".into(), "1").unwrap();
        project.functions.into_iter().next().unwrap()
    }

    fn shown(function: &Function) -> String {
        let variables: Vec<String> =
            function.environment.iter().map(|(name, value)| format!("{name}={}", value.as_str().unwrap())).collect();
        format!("{} {}", function.runtime.as_deref().unwrap(), variables.join(" "))
    }

    #[test]
    fn brefs_runtimes_and_layers_become_what_the_platform_knows() {
        let web =
            "DUNLIN_WEB_COMMAND=exec php -S 127.0.0.1:$PORT -t 'public' 'public/index.php' DUNLIN_WEB_CONCURRENCY=1";
        let cases = [
            ("php-84", &[][..], "provided.al2023 DUNLIN_PHP_VERSION=8.4".to_owned()),
            ("php-83-fpm", &[], format!("provided.al2023 DUNLIN_PHP_VERSION=8.3 {web}")),
            ("php-82-console", &[], "provided.al2023 BREF_RUNTIME=console DUNLIN_PHP_VERSION=8.2".to_owned()),
            (
                "provided.al2",
                &["arn:aws:lambda:eu-west-1:534081306603:layer:arm-php-81:9"],
                "provided.al2023 DUNLIN_PHP_VERSION=8.1".to_owned(),
            ),
            ("provided.al2023", &["layer.php-84-fpm"], format!("provided.al2023 DUNLIN_PHP_VERSION=8.4 {web}")),
            (
                "provided.al2023",
                &["layer.php-84", "layer.console"],
                "provided.al2023 BREF_RUNTIME=console DUNLIN_PHP_VERSION=8.4".to_owned(),
            ),
        ];
        for (runtime, layers, expected) in cases {
            let function = function(runtime, layers);
            assert_eq!(shown(&function), expected);
            assert!(function.layers.is_empty());
        }
        let other = "arn:aws:lambda:us-east-1:000000000000:layer:php-84:1";
        for (runtime, layers) in [("nodejs20.x", &["layer.php-84"][..]), ("provided.al2023", &[other]), ("php-8x", &[])]
        {
            let function = function(runtime, layers);
            assert_eq!((shown(&function), function.layers.len()), (format!("{runtime} "), layers.len()));
        }
    }

    #[test]
    fn a_handler_is_told_from_a_page() {
        assert!(returns_handler("<?php\n\nreturn function ($event) {\n};\n"));
        assert!(returns_handler("<?php\r\nreturn new Handler();"));
        assert!(!returns_handler("<?php\nfunction f() {\n    return 1;\n}\necho f();\n"));
    }

    #[test]
    fn another_version_and_none_are_said() {
        let platform = json!({"interpreters": [
            {"family": "ruby", "version": [8, 4, 0]}, {"family": "php", "version": [8, 2, 7]}, {"family": "php", "version": [8, 5, 1]},
        ]});
        let says = |runtime: &str| served_by(&function(runtime, &[]), &platform).unwrap();
        assert_eq!(says("php-82"), None);
        assert_eq!(says("provided.al2023"), None);
        assert_eq!(says("php-84").unwrap(), "PHP 8.4 runs on PHP 8.5.1: the platform's machine has no PHP 8.4");
        assert_eq!(says("php-86").unwrap(), "PHP 8.6 runs on PHP 8.5.1: the platform's machine has no PHP 8.6");
        let error = served_by(&function("php-84", &[]), &json!({"interpreters": []})).unwrap_err().to_string();
        assert!(error.contains("`dunlin runtimes add php`"), "{error}");
    }
}

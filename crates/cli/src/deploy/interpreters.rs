//! Interpreters that the platform's machine lacks: what to say, and how they are installed.
//!
//! The platform says which kinds it has none of, and what the distribution calls their packages. They are installed by the
//! distribution's package manager, on the platform's own machine only, where the platform finds them when it starts next.

use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value as Json;

use crate::output;

/// What the platform has no interpreter of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Absent {
    /// What people call it.
    name: String,
    /// The distribution's package.
    package: String,
}

/// The kind of interpreter that a runtime, or a word such as `ruby` or `php-84`, is about.
pub fn family_of(word: &str) -> Option<&'static str> {
    let letters = word.split(|c: char| c.is_ascii_digit() || c == '-').next().unwrap_or(word);
    let rest = &word[letters.len()..];
    let family = ["nodejs", "python", "java", "ruby", "php"].into_iter().find(|family| *family == letters)?;
    let is_known = rest.is_empty() || family == "php" || model::Runtime::parse(word).is_some();
    is_known.then_some(family)
}

/// What is to be installed first for a runtime, or nothing.
pub fn lacking(word: &str, platform: &Json) -> Option<Absent> {
    let family = family_of(word)?;
    let absent = platform["absent"].as_array()?.iter().find(|absent| absent["family"] == family)?;
    let text = |name: &str| absent[name].as_str().map(str::to_owned);
    Some(Absent { name: text("name")?, package: text("package")? })
}

/// A line for a plan.
pub fn note(runtime: &str, absent: &Absent) -> String {
    let Absent { name, package } = absent;
    format!(
        "{runtime}: the platform's machine has no usable {name}; functions answer with an error until its package \
         `{package}` is there (`dunlin runtimes add {runtime}` on that machine) and the platform was restarted"
    )
}

/// Installs it with the distribution's package manager.
///
/// # Errors
/// The platform is elsewhere, there is no such package manager or no right to use it, or it fails.
pub fn install(endpoint: &str, absent: &Absent) -> Result<()> {
    let Absent { name, package } = absent;
    if !is_here(endpoint) {
        bail!(
            "the platform at {endpoint} has no usable {name} and runs on another machine: install its package `{package}` \
             there and restart the platform"
        );
    }
    if !on_path("apt-get") {
        bail!(
            "there is no apt-get here: install {name} with this machine's package manager (Debian's package is `{package}`) \
             or a version manager, and restart the platform"
        );
    }
    let line = ["apt-get", "install", "-y", "--no-install-recommends", package];
    let mut words: Vec<&str> = line.to_vec();
    if !is_root() {
        if !on_path("sudo") {
            bail!("installing {name} takes root: run `{}` as root and restart the platform", line.join(" "));
        }
        words.insert(0, "sudo");
    }
    output::say(&format!("running {} …", words.join(" ")));
    let mut command = Command::new(words[0]);
    // What it says is for people.
    command.args(&words[1..]).env("DEBIAN_FRONTEND", "noninteractive").stdout(Stdio::from(std::io::stderr()));
    let status = command.status().with_context(|| format!("{} could not be started", words[0]))?;
    if !status.success() {
        bail!("`{}` failed ({status}); its package lists may be old: run `apt-get update` first", words.join(" "));
    }
    output::say(&format!("{name} is installed; restart the platform, which looks for interpreters when it starts"));
    Ok(())
}

fn is_here(endpoint: &str) -> bool {
    let host = endpoint.parse::<http::Uri>().ok().and_then(|uri| uri.host().map(str::to_owned)).unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || host.ends_with(".localhost") || address.is_ok_and(|address| address.is_loopback())
}

fn on_path(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(name).is_file())
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|about| about.uid() == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_word_says_which_kind() {
        for (word, family) in [
            ("ruby", Some("ruby")),
            ("ruby3.3", Some("ruby")),
            ("php", Some("php")),
            ("php-84", Some("php")),
            ("php8.4", Some("php")),
            ("nodejs22.x", Some("nodejs")),
            ("python3.12", Some("python")),
            ("java21", Some("java")),
            ("ruby9.9", None),
            ("provided.al2023", None),
            ("rubyx", None),
            ("", None),
        ] {
            assert_eq!(family_of(word), family, "{word}");
        }
    }

    #[test]
    fn what_is_absent_is_found_and_what_is_elsewhere_is_told() {
        let platform = json!({"absent": [{"family": "ruby", "name": "Ruby", "package": "ruby"}]});
        let ruby = lacking("ruby3.4", &platform).unwrap();
        assert_eq!(lacking("php-84", &platform), None);
        assert!(note("ruby3.4", &ruby).contains("`ruby` is there (`dunlin runtimes add ruby3.4` on that machine)"));
        let error = install("https://dunlin.example.com", &ruby).unwrap_err().to_string();
        assert!(error.contains("another machine: install its package `ruby` there"), "{error}");
        for (endpoint, here) in [
            ("http://localhost:4566", true),
            ("http://127.0.0.1:1", true),
            ("http://[::1]:4566", true),
            ("http://api.localhost:4566", true),
            ("http://10.0.0.1:4566", false),
            ("http://localhost.example.com", false),
        ] {
            assert_eq!(is_here(endpoint), here, "{endpoint}");
        }
    }
}

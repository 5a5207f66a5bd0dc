//! Runtime identifiers (`nodejs20.x`, `python3.12`, `java21`, `provided.al2023`) and the families that serve them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Identifiers that CreateFunction accepts, oldest first within a family.
/// Source: the Lambda developer guide's table of runtimes, and the service model's enumeration.
pub const ACCEPTED: &[&str] = &[
    "nodejs12.x",
    "nodejs14.x",
    "nodejs16.x",
    "nodejs18.x",
    "nodejs20.x",
    "nodejs22.x",
    "nodejs24.x",
    "nodejs26.x",
    "python3.8",
    "python3.9",
    "python3.10",
    "python3.11",
    "python3.12",
    "python3.13",
    "python3.14",
    "python3.15",
    "java8.al2",
    "java8.al2023",
    "java11",
    "java11.al2023",
    "java17",
    "java17.al2023",
    "java21",
    "java25",
    "ruby3.2",
    "ruby3.3",
    "ruby3.4",
    "ruby4.0",
    "provided",
    "provided.al2",
    "provided.al2023",
];

/// The variable by which a function says that the platform's PHP runs it, and which one: `8.4`.
pub const PHP_VERSION: &str = "DUNLIN_PHP_VERSION";

/// How a runtime is started and spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Family {
    /// A Node.js interpreter of the host and the frame protocol.
    Node,
    /// A CPython interpreter of the host and the frame protocol.
    Python,
    /// A Java virtual machine of the host and the frame protocol.
    Java,
    /// A Ruby interpreter of the host and the frame protocol.
    Ruby,
    /// A PHP interpreter of the host and the frame protocol. Lambda has no such runtime: a function is PHP by its handler.
    Php,
    /// The package's own `bootstrap` and the HTTP Runtime API.
    Provided,
}

/// One accepted runtime identifier.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Runtime {
    identifier: String,
}

impl Runtime {
    /// The runtime of an accepted identifier, or nothing.
    pub fn parse(identifier: &str) -> Option<Self> {
        ACCEPTED.contains(&identifier).then(|| Self { identifier: identifier.to_owned() })
    }

    /// What container images are run as: they bring their own, and speak the Runtime API.
    pub fn image() -> Self {
        Self { identifier: "image".to_owned() }
    }

    /// What functions run as whose handler the platform's PHP understands: on that version, such as `8.4`, or on the newest.
    /// Nothing if it is no version.
    pub fn php(version: Option<&str>) -> Option<Self> {
        let is_number =
            |part: &str| !part.is_empty() && part.len() < 4 && part.bytes().all(|byte| byte.is_ascii_digit());
        let is_version =
            version.is_none_or(|text| text.split_once('.').is_some_and(|(a, b)| is_number(a) && is_number(b)));
        is_version.then(|| Self { identifier: format!("php{}", version.unwrap_or_default()) })
    }

    /// The identifier as the user wrote it.
    pub fn as_str(&self) -> &str {
        &self.identifier
    }

    /// The family that serves it.
    pub fn family(&self) -> Family {
        match self.identifier.as_bytes()[0] {
            b'n' => Family::Node,
            b'j' => Family::Java,
            b'r' => Family::Ruby,
            b'p' if self.identifier.starts_with("python") => Family::Python,
            b'p' if self.identifier.starts_with("php") => Family::Php,
            _ => Family::Provided,
        }
    }

    /// Whether versions of it may have SnapStart. Lambda has it for Python from 3.12 on, for Java from 11 on, and for none
    /// of the others here.
    pub fn has_snap_start(&self) -> bool {
        match self.family() {
            Family::Python => self.version() >= Some((3, 12)),
            Family::Java => self.version() >= Some((11, 0)),
            Family::Node | Family::Ruby | Family::Php | Family::Provided => false,
        }
    }

    /// The version the user asks for: `(20, 0)` of `nodejs20.x`, `(3, 12)` of `python3.12`, `(21, 0)` of `java21`; nothing for
    /// `provided`, and for PHP of any version.
    pub fn version(&self) -> Option<(u32, u32)> {
        let digits = self.identifier.trim_start_matches(|c: char| c.is_ascii_alphabetic());
        let (major, minor) = digits.split_once('.').unwrap_or((digits, ""));
        match self.family() {
            Family::Node | Family::Java => Some((major.parse().ok()?, 0)),
            Family::Python | Family::Ruby | Family::Php => Some((major.parse().ok()?, minor.parse().ok()?)),
            Family::Provided => None,
        }
    }
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.identifier)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_accepted_identifier_has_a_family_and_a_version() {
        for identifier in ACCEPTED {
            let runtime = Runtime::parse(identifier).unwrap();
            assert_eq!(runtime.version().is_none(), runtime.family() == Family::Provided, "{identifier}");
        }
        assert_eq!(Runtime::parse("python3.12").unwrap().version(), Some((3, 12)));
        assert_eq!(Runtime::parse("nodejs20.x").unwrap().version(), Some((20, 0)));
        assert_eq!(Runtime::parse("java21").unwrap().version(), Some((21, 0)));
        assert_eq!(Runtime::parse("java8.al2").unwrap().version(), Some((8, 0)));
        for (java, version) in [("java8.al2023", 8), ("java11.al2023", 11), ("java17.al2023", 17)] {
            assert_eq!(Runtime::parse(java).unwrap().version(), Some((version, 0)));
        }
        assert_eq!(Runtime::parse("ruby3.3").unwrap().version(), Some((3, 3)));
        assert_eq!(Runtime::parse("ruby4.0").unwrap().version(), Some((4, 0)));
        assert_eq!(Runtime::parse("nodejs20"), None);
        assert_eq!(Runtime::parse("php8.4"), None, "Lambda has none");
        let php = |version| Runtime::php(version).map(|runtime| (runtime.family(), runtime.version()));
        assert_eq!(php(Some("8.4")), Some((Family::Php, Some((8, 4)))));
        assert_eq!(php(None), Some((Family::Php, None)));
        for wrong in ["", "8", "84", "8.", ".4", "8.4.1", "a.b", "8.4 "] {
            assert_eq!(php(Some(wrong)), None, "{wrong:?}");
        }
        assert_eq!((Runtime::parse("image"), Runtime::image().family()), (None, Family::Provided));
        let with_snap_start = ACCEPTED.iter().filter(|it| Runtime::parse(it).unwrap().has_snap_start());
        let java = ["java11", "java11.al2023", "java17", "java17.al2023", "java21", "java25"];
        let python = ["python3.12", "python3.13", "python3.14", "python3.15"];
        assert!(with_snap_start.copied().eq(python.into_iter().chain(java)));
    }
}

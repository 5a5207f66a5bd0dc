//! Where a function's own connections may go, beside the platform itself.
//!
//! A function says so by the tag `dunlin:egress`: words that are `public`, `none` or HOST:PORT. Without it, it reaches
//! public addresses. Whether a named target may be reached although it is not public is not said here: an operator
//! opens such targets, and in development the developer.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The tag that holds a function's policy.
pub const EGRESS_TAG: &str = "dunlin:egress";

/// A host and a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct OpenTarget {
    /// A name (lower case) or address; `host.dunlin.internal` is the platform's own host.
    pub host: String,
    /// Port.
    pub port: u16,
}

/// A target that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no HOST:PORT; write db.internal:5432, 10.0.0.5:443 or [fd00::1]:80")]
pub struct NotATarget(pub String);

impl FromStr for OpenTarget {
    type Err = NotATarget;

    fn from_str(text: &str) -> Result<Self, NotATarget> {
        let wrong = || NotATarget(text.to_owned());
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse().map_err(|_| wrong())?;
        let bracketed = host.strip_prefix('[').map(|inner| inner.strip_suffix(']').ok_or_else(wrong)).transpose()?;
        let host = match bracketed {
            Some(inner) => inner.parse::<Ipv6Addr>().map_err(|_| wrong())?.to_string(),
            None => host.trim_end_matches('.').to_ascii_lowercase(),
        };
        if host.is_empty() || port == 0 || (bracketed.is_none() && host.contains(':')) {
            return Err(wrong());
        }
        Ok(Self { host, port })
    }
}

impl fmt::Display for OpenTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// A function's policy.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Egress {
    /// Every public address, and what the operator has opened for all.
    pub public: bool,
    /// Targets by name or address.
    pub targets: Vec<OpenTarget>,
}

impl Default for Egress {
    fn default() -> Self {
        Self { public: true, targets: Vec::new() }
    }
}

impl Egress {
    /// Whether the policy names this host with any port.
    pub fn names(&self, host: &str) -> bool {
        self.targets.iter().any(|target| target.host == host)
    }

    /// Whether the policy names this host with this port.
    pub fn lists(&self, host: &str, port: u16) -> bool {
        self.targets.iter().any(|target| target.port == port && target.host == host)
    }
}

impl FromStr for Egress {
    type Err = NotATarget;

    fn from_str(text: &str) -> Result<Self, NotATarget> {
        let words: Vec<&str> = text.split_whitespace().collect();
        match words[..] {
            ["none"] => return Ok(Self { public: false, targets: Vec::new() }),
            [] => return Err(NotATarget(text.to_owned())),
            _ => {}
        }
        let targets = words.iter().filter(|word| **word != "public").map(|word| word.parse());
        Ok(Self { public: words.contains(&"public"), targets: targets.collect::<Result<_, _>>()? })
    }
}

impl fmt::Display for Egress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let public = self.public.then(|| "public".to_owned());
        let words: Vec<String> = public.into_iter().chain(self.targets.iter().map(OpenTarget::to_string)).collect();
        f.write_str(if words.is_empty() { "none" } else { "" })?;
        f.write_str(&words.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read() {
        for (text, host, port) in [
            ("10.0.0.5:443", "10.0.0.5", 443),
            ("[FD00::1]:80", "fd00::1", 80),
            ("Host.Dunlin.Internal:5432", "host.dunlin.internal", 5432),
        ] {
            assert_eq!(text.parse(), Ok(OpenTarget { host: host.into(), port }));
        }
        for wrong in ["", "x", "x:", ":1", "x:0", "x:99999", "fd00::1:80", "[x]:1", "[::1:80"] {
            assert!(wrong.parse::<OpenTarget>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn policies_read_back() {
        for text in ["public", "none", "db.example:5432", "public host.dunlin.internal:5432 [fd00::1]:80"] {
            let policy: Egress = text.parse().unwrap();
            assert_eq!(policy.to_string(), text);
        }
        assert_eq!("public".parse(), Ok(Egress::default()));
        for wrong in ["", "none public", "private", "db.example"] {
            assert!(wrong.parse::<Egress>().is_err(), "{wrong}");
        }
        let policy: Egress = "db.example:5432".parse().unwrap();
        assert!(policy.names("db.example") && policy.lists("db.example", 5432) && !policy.lists("db.example", 22));
    }
}

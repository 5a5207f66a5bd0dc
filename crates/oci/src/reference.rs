//! What an image is called: `[HOST[:PORT]/]NAME[/NAME…][:TAG][@sha256:DIGITS]`. Pure.
//!
//! The first part is a host if it has a dot or a colon, or is `localhost`, as with Docker. A name without a host is an image
//! of the platform's own: there is no registry that is meant by saying nothing.

use std::fmt;

use crate::Digest;

/// Longest name with its host. Source: the distribution specification.
const NAME_MAX: usize = 255;

/// A name of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// `HOST[:PORT]` of its registry; nothing: the platform's own.
    pub registry: Option<String>,
    /// `NAME/NAME…`
    pub repository: String,
    /// `TAG`, if it was said.
    pub tag: Option<String>,
    /// The manifest's digest, if it was said.
    pub digest: Option<Digest>,
}

impl Reference {
    /// The reference of a text, or nothing if it is none.
    pub fn parse(text: &str) -> Option<Self> {
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(Digest::parse(digest)?)),
            None => (text, None),
        };
        let (registry, rest) = match name.split_once('/') {
            Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" => (Some(host_of(host)?), rest),
            _ => (None, name),
        };
        let (repository, tag) = match rest.rsplit_once(':') {
            Some((repository, tag)) => (repository, Some(tag)),
            None => (rest, None),
        };
        let fits = is_repository(repository) && tag.is_none_or(is_tag) && name.len() <= NAME_MAX;
        let (repository, tag) = (repository.to_owned(), tag.map(str::to_owned));
        fits.then_some(Self { registry, repository, tag, digest })
    }

    /// What a registry is asked for: the digest, else the tag, else `latest`.
    pub fn asked(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".to_owned(),
        }
    }

    /// The tag, `latest` if none was said.
    pub fn tag(&self) -> &str {
        self.tag.as_deref().unwrap_or("latest")
    }

    /// The name without tag and digest.
    pub fn name(&self) -> String {
        match &self.registry {
            Some(registry) => format!("{registry}/{}", self.repository),
            None => self.repository.clone(),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        self.digest.as_ref().map_or(Ok(()), |digest| write!(f, "@{digest}"))
    }
}

fn host_of(text: &str) -> Option<String> {
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) if !text.ends_with(']') => (name, Some(port)),
        _ => (text, None),
    };
    let port_fits = port.is_none_or(|port| !port.starts_with('+') && port.parse().is_ok_and(|port: u16| port > 0));
    let bracketed = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    let name_fits = match bracketed {
        Some(inner) => inner.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
            name.split('.').all(|label| {
                !label.is_empty() && label.bytes().all(fits) && !label.starts_with('-') && !label.ends_with('-')
            })
        }
    };
    (name_fits && port_fits).then(|| text.to_ascii_lowercase())
}

/// Whether a text can be a repository: lower-case words, between them a dot, one or two underscores, or hyphens.
pub fn is_repository(text: &str) -> bool {
    text.len() <= NAME_MAX && text.split('/').all(is_word)
}

fn is_word(text: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let ends = bytes.first().zip(bytes.last()).is_some_and(|(a, b)| alphanumeric(*a) && alphanumeric(*b));
    ends && text
        .split(|c: char| alphanumeric(u8::try_from(c).unwrap_or(0)))
        .all(|between| matches!(between, "" | "." | "_" | "__") || between.bytes().all(|b| b == b'-'))
}

/// Whether a text can be a tag.
pub fn is_tag(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let also = |b: u8| fits(b) || b == b'.' || b == b'-';
    (1..=128).contains(&text.len()) && fits(text.as_bytes()[0]) && text.bytes().all(also)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_read_and_written() {
        let digits = "0a".repeat(32);
        for (text, registry, repository, asked) in [
            ("hello", None, "hello", "latest"),
            ("hello:v1", None, "hello", "v1"),
            ("team/hello:v1", None, "team/hello", "v1"),
            ("localhost/hello", Some("localhost"), "hello", "latest"),
            ("localhost:5000/a/b:c", Some("localhost:5000"), "a/b", "c"),
            ("[::1]:5000/a:c", Some("[::1]:5000"), "a", "c"),
            (
                "123456789012.dkr.ecr.eu-west-1.amazonaws.com/app:1.0",
                Some("123456789012.dkr.ecr.eu-west-1.amazonaws.com"),
                "app",
                "1.0",
            ),
            (&format!("r.example/app@sha256:{digits}"), Some("r.example"), "app", &format!("sha256:{digits}")),
            (&format!("r.example/app:t@sha256:{digits}"), Some("r.example"), "app", &format!("sha256:{digits}")),
        ] {
            let reference = Reference::parse(text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!(reference.registry.as_deref(), registry, "{text}");
            assert_eq!((reference.repository.as_str(), reference.asked().as_str()), (repository, asked), "{text}");
            assert_eq!(reference.to_string(), text);
        }
    }

    #[test]
    fn what_is_no_reference_is_nothing() {
        for text in [
            "",
            ":",
            "a:",
            "/a",
            "a/",
            "a//b",
            "A",
            "r.example/A",
            "a:b:c",
            "r.example/",
            "a@sha256:0",
            "a@md5:00",
            "../a",
            "a/../b",
            "r.example/a/..",
            "-a",
            "a-",
            "a___b",
            "a._b",
            "r.example:0/a",
            "r.example:x/a",
            "http://r.example/a",
            "r.example:99999/a",
            "r..example/a",
            "a b",
            "a:-t",
            "a?b",
            "[::x]/a",
            "é",
        ] {
            assert_eq!(Reference::parse(text), None, "{text}");
        }
        assert_eq!(Reference::parse(&"a".repeat(256)), None);
    }
}

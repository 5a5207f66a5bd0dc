//! The address of a database: what of it the client library knows, and what is ours (`sslmode`, `sslrootcert`).
//!
//! Words and meanings are those of PostgreSQL's own library. Without `sslmode` a connection over TCP is encrypted if the
//! server can, and its certificate is not looked at; `verify-full` is what keeps others out.
//!
//! Invariant: no message holds a part of the address that could be a password.

use std::time::Duration;

use percent_encoding::percent_decode_str;
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};

use super::tls::{Connector, Trust};
use crate::contract::Error;

/// How to connect.
#[derive(Clone)]
pub(crate) struct Connecting {
    pub(super) config: Config,
    pub(super) tls: Connector,
    /// How long the answers of one round trip are waited for.
    pub(super) round_trip: Duration,
}

/// Reads an address. `roots_pem` are the certificates to trust where it names none.
pub(super) fn parse(url: &str, roots_pem: &str, round_trip: Duration) -> Result<Connecting, Error> {
    let (rest, ssl) =
        if url.starts_with("postgres://") || url.starts_with("postgresql://") { of_url(url) } else { of_words(url)? };
    // The library's own words may repeat a part of the password.
    let mut config: Config = rest.parse().map_err(|_| unclear())?;
    if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
        return Err(Error::Invalid("the address of the PostgreSQL store names no host".into()));
    }
    let local = config.get_hosts().iter().all(|host| matches!(host, Host::Unix(_))) && !config.get_hosts().is_empty();
    let (mode, trust) = ssl.settled(local)?;
    let trust = match (trust, &ssl.root) {
        (None, _) => Trust::Anybody,
        (Some(names), Some(file)) if file != "system" => {
            let pem = std::fs::read_to_string(file)
                .map_err(|error| Error::Invalid(format!("the certificates in sslrootcert={file}: {error}")))?;
            Trust::SignedBy { roots_pem: pem, names }
        }
        (Some(names), _) => Trust::SignedBy { roots_pem: roots_pem.to_owned(), names },
    };
    config.ssl_mode(mode).application_name("dunlin").connect_timeout(Duration::from_secs(5));
    config.target_session_attrs(TargetSessionAttrs::ReadWrite).tcp_user_timeout(Duration::from_secs(10));
    // A server that has vanished without a word is noticed by these.
    config.keepalives_idle(Duration::from_secs(5)).keepalives_interval(Duration::from_secs(2)).keepalives_retries(3);
    Ok(Connecting { config, tls: Connector::new(&trust)?, round_trip })
}

/// `host:port/database`, for people. No user and no password.
pub(super) fn described(config: &Config) -> String {
    let hosts = config.get_hosts().iter().enumerate().map(|(number, host)| {
        let ports = config.get_ports();
        let port = ports.get(number).or(ports.first()).copied().unwrap_or(5432);
        match host {
            Host::Tcp(name) => format!("{name}:{port}"),
            Host::Unix(folder) => format!("{}:{port}", folder.display()),
        }
    });
    let hosts: Vec<String> = hosts.collect();
    let database = config.get_dbname().or(config.get_user()).unwrap_or("postgres");
    format!("{}/{database}", hosts.join(","))
}

fn unclear() -> Error {
    Error::Invalid(
        "the address of the PostgreSQL store cannot be read: it is postgres://USER:PASSWORD@HOST:PORT/DATABASE, with special letters of the password as %XX"
            .into(),
    )
}

/// What an address says of TLS.
#[derive(Debug, Default, PartialEq, Eq)]
struct Ssl {
    mode: Option<String>,
    root: Option<String>,
}

impl Ssl {
    /// Takes in a setting, if it is one of ours.
    fn take(&mut self, key: &str, value: &str) -> bool {
        match key {
            "sslmode" => self.mode = Some(value.to_owned()),
            "sslrootcert" => self.root = Some(value.to_owned()),
            _ => return false,
        }
        true
    }

    /// The mode for the client, and whether the certificate is verified: if so, whether with the host's name.
    fn settled(&self, local: bool) -> Result<(SslMode, Option<bool>), Error> {
        let settled = match self.mode.as_deref() {
            Some("disable") => (SslMode::Disable, None),
            None | Some("allow" | "prefer") => (SslMode::Prefer, None),
            Some("require") => (SslMode::Require, self.root.is_some().then_some(false)),
            Some("verify-ca") => (SslMode::Require, Some(false)),
            Some("verify-full") => (SslMode::Require, Some(true)),
            Some(_) => {
                let words = "sslmode is disable, prefer, require, verify-ca or verify-full";
                return Err(Error::Invalid(words.into()));
            }
        };
        // A unix socket is not encrypted, whatever is asked, as with PostgreSQL's own library.
        Ok(if local { (SslMode::Disable, None) } else { settled })
    }
}

/// Takes our settings out of `postgres://…?a=b&c=d`.
fn of_url(url: &str) -> (String, Ssl) {
    let mut ssl = Ssl::default();
    // A password may hold a question mark; what comes after it is no setting.
    let host = url.find('@').unwrap_or(0);
    let Some(at) = url[host..].find('?').map(|at| host + at) else { return (url.to_owned(), ssl) };
    let kept = url[at + 1..].split('&').filter(|setting| {
        let (key, value) = setting.split_once('=').unwrap_or((setting, ""));
        !ssl.take(key, &percent_decode_str(value).decode_utf8_lossy())
    });
    let kept: Vec<&str> = kept.collect();
    let rest = if kept.is_empty() { url[..at].to_owned() } else { format!("{}?{}", &url[..at], kept.join("&")) };
    (rest, ssl)
}

/// Takes our settings out of `a=b c='d e'`.
fn of_words(text: &str) -> Result<(String, Ssl), Error> {
    let (mut ssl, mut rest) = (Ssl::default(), String::new());
    let mut letters = text.chars().peekable();
    loop {
        while letters.next_if(|letter| letter.is_whitespace()).is_some() {}
        if letters.peek().is_none() {
            return Ok((rest, ssl));
        }
        let mut key = String::new();
        while let Some(letter) = letters.next_if(|letter| *letter != '=') {
            key.push(letter);
        }
        letters.next().ok_or_else(unclear)?;
        while letters.next_if(|letter| letter.is_whitespace()).is_some() {}
        let quoted = letters.next_if_eq(&'\'').is_some();
        let mut value = String::new();
        loop {
            match letters.next() {
                Some('\\') => value.extend(letters.next()),
                Some('\'') if quoted => break,
                None if quoted => return Err(unclear()),
                Some(letter) if quoted || !letter.is_whitespace() => value.push(letter),
                _ => break,
            }
        }
        if !ssl.take(key.trim(), &value) {
            let value = value.replace('\\', "\\\\").replace('\'', "\\'");
            rest.push_str(&format!("{}='{value}' ", key.trim()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ssl(mode: &str, root: Option<&str>) -> Ssl {
        Ssl { mode: Some(mode.into()), root: root.map(str::to_owned) }
    }

    #[test]
    fn settings_of_tls_are_taken_out_of_either_form() {
        let (rest, found) =
            of_url("postgres://u:p%3F@h:1/d?sslmode=verify-full&connect_timeout=3&sslrootcert=/a%20b.pem");
        assert_eq!(rest, "postgres://u:p%3F@h:1/d?connect_timeout=3");
        assert_eq!(found, ssl("verify-full", Some("/a b.pem")));
        assert_eq!(of_url("postgres://u:a?sslmode=x@h/d"), ("postgres://u:a?sslmode=x@h/d".into(), Ssl::default()));
        let (rest, found) = of_words(r"host=h password='it\'s a \\' sslmode = require sslrootcert='/a b.pem'").unwrap();
        assert_eq!(found, ssl("require", Some("/a b.pem")));
        let config: Config = rest.parse().unwrap();
        assert_eq!(config.get_password(), Some(&br"it's a \"[..]));
        assert!(of_words("host").is_err() && of_words("password='open").is_err());
    }

    #[test]
    fn what_cannot_be_read_does_not_tell_the_password() {
        for url in [
            "postgres://u:hush?=1&hush=2@h:x/d?hush=1",
            "host=h hush",
            "password='hush",
            "postgres://u:hush@h:99999999/d",
        ] {
            let words = parse(url, "", Duration::ZERO).err().unwrap().to_string();
            assert!(!words.contains("hush") && words.contains("%XX"), "{words}");
        }
        assert!(parse("postgres:///d", "", Duration::ZERO).err().unwrap().to_string().contains("no host"));
    }

    #[test]
    fn modes_mean_what_they_mean_elsewhere() {
        let mode = |mode: &str, root| ssl(mode, root).settled(false).unwrap();
        assert_eq!(mode("disable", None), (SslMode::Disable, None));
        assert_eq!(Ssl::default().settled(false).unwrap(), (SslMode::Prefer, None));
        assert_eq!(mode("require", None), (SslMode::Require, None));
        assert_eq!(mode("require", Some("f")), (SslMode::Require, Some(false)));
        assert_eq!(mode("verify-full", None), (SslMode::Require, Some(true)));
        assert_eq!(ssl("verify-full", None).settled(true).unwrap(), (SslMode::Disable, None));
        assert!(ssl("maybe", None).settled(false).is_err());
    }

    #[test]
    fn a_place_is_described_without_user_and_password() {
        let connecting = parse("postgres://me:hush@one,two:6000/data?sslmode=disable", "", Duration::ZERO).unwrap();
        assert_eq!(described(&connecting.config), "one:5432,two:6000/data");
    }
}

//! Passwords of registries, in the form of Docker's `config.json`. Pure.
//!
//! Programs that keep passwords (`credsStore`, `credHelpers`) are not called: a file that names one for a registry, and no
//! password, is refused, as it would silently come to nothing.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;

/// What a registry is told.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// A user and a password.
    Password(String, String),
    /// What is exchanged for tokens (`identitytoken`).
    Refresh(String),
    /// A token as it is (`registrytoken`).
    Token(String),
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential(…)")
    }
}

/// Credentials by registry.
#[derive(Debug, Clone, Default)]
pub struct Credentials(BTreeMap<String, Credential>);

/// Why a file is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not in the form of `config.json`.
    #[error("it is not in the form of Docker's config.json: {0}")]
    Form(String),
    /// A password is elsewhere.
    #[error("the credentials of {0} are kept by another program ({1}), which is not called: write them into `auths`")]
    Elsewhere(String, &'static str),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    #[serde(default)]
    auths: BTreeMap<String, Auth>,
    #[serde(default)]
    cred_helpers: BTreeMap<String, String>,
    #[serde(default)]
    creds_store: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Auth {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

impl Credentials {
    /// Reads a file's text.
    ///
    /// # Errors
    /// It is in another form, or leads to other programs.
    pub fn read(text: &str) -> Result<Self, Error> {
        let json: serde_json::Value = serde_json::from_str(text).map_err(|error| Error::Form(error.to_string()))?;
        if !json.is_object() {
            return Err(Error::Form("it is no object".into()));
        }
        let file = File::deserialize(json).map_err(|error| Error::Form(error.to_string()))?;
        if let Some(registry) = file.cred_helpers.keys().next() {
            return Err(Error::Elsewhere(registry.clone(), "credHelpers"));
        }
        let mut all = BTreeMap::new();
        for (registry, auth) in file.auths {
            match credential(auth).ok_or_else(|| Error::Form(format!("the entry of {registry} cannot be read")))? {
                Some(credential) => drop(all.insert(host(&registry), credential)),
                None if file.creds_store.is_some() => return Err(Error::Elsewhere(registry, "credsStore")),
                None => {}
            }
        }
        Ok(Self(all))
    }

    /// What a registry is told, by its `HOST[:PORT]`.
    pub fn of(&self, registry: &str) -> Option<&Credential> {
        self.0.get(registry)
    }
}

/// The host of a key, which may be written as an address.
fn host(key: &str) -> String {
    let bare = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    bare.split('/').next().unwrap_or(bare).to_ascii_lowercase()
}

/// Nothing of nothing: it cannot be read. Nothing inside: there is none.
fn credential(auth: Auth) -> Option<Option<Credential>> {
    let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
    if let Some(token) = filled(auth.registrytoken) {
        return Some(Some(Credential::Token(token)));
    }
    if let Some(token) = filled(auth.identitytoken) {
        return Some(Some(Credential::Refresh(token)));
    }
    if let Some((user, password)) = filled(auth.username).zip(filled(auth.password)) {
        return Some(Some(Credential::Password(user, password)));
    }
    let Some(text) = filled(auth.auth) else { return Some(None) };
    let pair = String::from_utf8(BASE64.decode(text.trim()).ok()?).ok()?;
    let (user, password) = pair.split_once(':')?;
    Some(Some(Credential::Password(user.to_owned(), password.trim_end_matches('\0').to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forms_of_dockers_file_are_read() {
        let read = Credentials::read(
            r#"{"auths": {"https://r.example/v1/": {"auth": "dTpwOnc="}, "localhost:5000": {"username": "a", "password": "b"},
               "t.example": {"identitytoken": "x", "auth": "dTo="}, "none.example": {}}, "HttpHeaders": {}}"#,
        )
        .unwrap();
        let password = |user: &str, password: &str| Credential::Password(user.into(), password.into());
        assert_eq!(read.of("r.example"), Some(&password("u", "p:w")));
        assert_eq!(read.of("localhost:5000"), Some(&password("a", "b")));
        assert_eq!(read.of("t.example"), Some(&Credential::Refresh("x".into())));
        assert_eq!((read.of("none.example"), read.of("localhost")), (None, None));
        assert!(!format!("{read:?}").contains("p:w"));
    }

    #[test]
    fn what_would_come_to_nothing_is_refused() {
        for text in ["", "[]", r#"{"auths": {"r": {"auth": "%"}}}"#, r#"{"auths": {"r": {"auth": "bm9uZQ=="}}}"#] {
            assert!(matches!(Credentials::read(text), Err(Error::Form(_))), "{text}");
        }
        for text in [r#"{"auths": {"r": {}}, "credsStore": "desktop"}"#, r#"{"credHelpers": {"r": "ecr-login"}}"#] {
            assert!(matches!(Credentials::read(text), Err(Error::Elsewhere(..))), "{text}");
        }
    }
}

//! The distribution protocol: documents and blobs of a registry, with its tokens and passwords.
//!
//! How a connection is made is a `Transport`'s: it decides what may be reached.
//!
//! Invariants
//!   1. Nothing is asked in clear text but of this machine itself.
//!   2. A password goes to the registry that it is for, and to where that registry sends for tokens; after a redirection to
//!      another host nothing secret goes along.
//!   3. A document that was asked for by digest has it.
//!
//! Start reading at `Registry::document`.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::{HeaderMap, StatusCode, Uri, header};
use parking_lot::Mutex;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

use crate::credentials::{Credential, Credentials};
use crate::document::{DOCKER_INDEX, DOCKER_MANIFEST, INDEX, MANIFEST};
use crate::{DOCUMENT_BYTES_MAX, Digest};

/// Redirections of one request, at most.
const REDIRECTIONS_MAX: usize = 5;
/// Tokens that are remembered, at most; beyond that all are asked for anew.
const TOKENS_MAX: usize = 1_000;

/// Sends requests.
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    /// Sends a GET and returns when the head of the answer is there.
    async fn get(&self, uri: &Uri, headers: HeaderMap) -> Result<Answer, Error>;
}

/// An answer, its body still to come.
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Box<dyn Pieces>,
}

/// Something that comes in pieces.
#[async_trait]
pub trait Pieces: Send {
    /// The next piece; nothing at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, Error>;
}

/// Why a registry gave nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// There is no such image.
    #[error("there is no such image")]
    NotFound,
    /// The credentials do not do, or there are none.
    #[error("the registry refuses access")]
    Denied,
    /// It may not be reached.
    #[error("the registry may not be reached: {0}")]
    Forbidden(String),
    /// It cannot be reached now, or has failed.
    #[error("the registry does not answer as it should: {0}")]
    Failed(String),
}

/// A document as it came.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// Its bytes.
    pub bytes: Bytes,
    /// What it came as.
    pub media_type: Option<String>,
    /// Of its bytes.
    pub digest: Digest,
}

/// Where an image is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    /// `HOST[:PORT]`
    pub registry: String,
    /// `NAME/NAME…`
    pub repository: String,
}

/// A client of registries.
pub struct Registry {
    transport: Arc<dyn Transport>,
    credentials: Credentials,
    /// What goes into `Authorization` for a place that asked for it.
    tokens: Mutex<HashMap<Place, String>>,
}

impl Registry {
    /// A client that sends with this transport.
    pub fn new(transport: Arc<dyn Transport>, credentials: Credentials) -> Self {
        Self { transport, credentials, tokens: Mutex::default() }
    }

    /// A manifest or an index, by tag or digest.
    ///
    /// # Errors
    /// It is not to be had; or it is another than was asked for.
    pub async fn document(&self, place: &Place, asked: &str) -> Result<Fetched, Error> {
        let accept = [MANIFEST, DOCKER_MANIFEST, INDEX, DOCKER_INDEX].join(", ");
        let answer = self.ask(place, &format!("manifests/{asked}"), &accept).await?;
        let media_type = answer.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let media_type = media_type.map(str::to_owned);
        let bytes = whole(answer.body).await?;
        let digest = Digest::of(&bytes);
        if Digest::parse(asked).is_some_and(|asked| asked != digest) {
            return Err(Error::Failed(format!("the document {asked} has another digest")));
        }
        Ok(Fetched { bytes, media_type, digest })
    }

    /// A configuration, whole and checked.
    ///
    /// # Errors
    /// It is not to be had, or has another digest.
    pub async fn small_blob(&self, place: &Place, digest: &Digest) -> Result<Bytes, Error> {
        let bytes = whole(self.blob(place, digest).await?).await?;
        if Digest::of(&bytes) != *digest {
            return Err(Error::Failed(format!("the blob {digest} has another digest")));
        }
        Ok(bytes)
    }

    /// A blob; who reads it has to check its digest.
    ///
    /// # Errors
    /// It is not to be had.
    pub async fn blob(&self, place: &Place, digest: &Digest) -> Result<Box<dyn Pieces>, Error> {
        self.ask(place, &format!("blobs/{digest}"), "*/*").await.map(|answer| answer.body)
    }

    async fn ask(&self, place: &Place, path: &str, accept: &str) -> Result<Answer, Error> {
        let scheme = if is_loopback(&place.registry) { "http" } else { "https" };
        let uri = format!("{scheme}://{}/v2/{}/{path}", place.registry, place.repository);
        let uri: Uri = uri.parse().map_err(|_| Error::Failed("the address cannot be read".into()))?;
        let known = self.tokens.lock().get(place).cloned();
        let answer = self.follow(&uri, accept, known.as_deref()).await?;
        if answer.status != StatusCode::UNAUTHORIZED {
            return good(answer);
        }
        // Unknown, or too old by now.
        let token = self.authorize(place, &answer.headers).await?;
        {
            let mut tokens = self.tokens.lock();
            if tokens.len() >= TOKENS_MAX {
                tokens.clear();
            }
            tokens.insert(place.clone(), token.clone());
        }
        good(self.follow(&uri, accept, Some(&token)).await?)
    }

    /// Sends, and follows redirections: those of blobs lead to other hosts.
    async fn follow(&self, uri: &Uri, accept: &str, authorization: Option<&str>) -> Result<Answer, Error> {
        let mut at = uri.clone();
        for _ in 0..=REDIRECTIONS_MAX {
            let mut headers = HeaderMap::new();
            let mut put = |name, value: &str| {
                let value = value.parse().map_err(|_| Error::Failed("a header cannot be written".into()))?;
                headers.insert(name, value);
                Ok::<_, Error>(())
            };
            put(header::ACCEPT, accept)?;
            if let Some(authorization) = authorization.filter(|_| at.authority() == uri.authority()) {
                put(header::AUTHORIZATION, authorization)?;
            }
            let answer = self.send(&at, headers).await?;
            if !answer.status.is_redirection() {
                return Ok(answer);
            }
            let to = answer.headers.get(header::LOCATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
            at = redirected(&at, to).ok_or_else(|| Error::Failed(format!("it leads to {to:?}")))?;
        }
        Err(Error::Failed("it leads from one place to another without end".into()))
    }

    async fn send(&self, uri: &Uri, headers: HeaderMap) -> Result<Answer, Error> {
        let host = uri.host().unwrap_or_default();
        match uri.scheme_str() {
            Some("https") => {}
            Some("http") if is_loopback(host) => {}
            _ => return Err(Error::Forbidden(format!("{host} is asked over https only"))),
        }
        self.transport.get(uri, headers).await
    }

    /// What the registry wants to see, as it says itself.
    async fn authorize(&self, place: &Place, headers: &HeaderMap) -> Result<String, Error> {
        let credential = self.credentials.of(&place.registry);
        let asked = headers.get_all(header::WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        let asked: Vec<Challenge> = asked.filter_map(Challenge::read).collect();
        if let Some(bearer) = asked.iter().find(|challenge| challenge.scheme == "bearer") {
            return self.token(place, bearer, credential).await;
        }
        match credential {
            Some(Credential::Password(user, password)) if asked.iter().any(|it| it.scheme == "basic") => {
                Ok(basic(user, password))
            }
            _ => Err(Error::Denied),
        }
    }

    async fn token(&self, place: &Place, ask: &Challenge, credential: Option<&Credential>) -> Result<String, Error> {
        #[derive(Deserialize)]
        struct Given {
            token: Option<String>,
            access_token: Option<String>,
        }
        let authorization = match credential {
            Some(Credential::Token(token)) => return Ok(format!("Bearer {token}")),
            // What Docker sends where the user is not to be named.
            Some(Credential::Refresh(token)) => Some(basic("<token>", token)),
            Some(Credential::Password(user, password)) => Some(basic(user, password)),
            None => None,
        };
        let realm = ask.value("realm").ok_or(Error::Denied)?;
        let scope = format!("repository:{}:pull", place.repository);
        let mut uri = realm.to_owned();
        let mut separator = if realm.contains('?') { '&' } else { '?' };
        for (name, value) in [("service", ask.value("service")), ("scope", Some(&*scope))] {
            if let Some(value) = value {
                // Writing into a text cannot fail.
                let _ = write!(uri, "{separator}{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC));
                separator = '&';
            }
        }
        let uri: Uri = uri.parse().map_err(|_| Error::Failed(format!("its tokens come from {realm:?}")))?;
        let answer = self.follow(&uri, "application/json", authorization.as_deref()).await?;
        if !answer.status.is_success() {
            return Err(Error::Denied);
        }
        let given: Given = serde_json::from_slice(&whole(answer.body).await?)
            .map_err(|_| Error::Failed("what gives its tokens answers with something else".into()))?;
        given.token.or(given.access_token).map(|token| format!("Bearer {token}")).ok_or(Error::Denied)
    }
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", BASE64.encode(format!("{user}:{password}")))
}

fn good(answer: Answer) -> Result<Answer, Error> {
    match answer.status {
        status if status.is_success() => Ok(answer),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(Error::Denied),
        StatusCode::NOT_FOUND => Err(Error::NotFound),
        status => Err(Error::Failed(format!("it answers {status}"))),
    }
}

async fn whole(mut body: Box<dyn Pieces>) -> Result<Bytes, Error> {
    let mut all = Vec::new();
    while let Some(piece) = body.next().await? {
        if all.len() + piece.len() > DOCUMENT_BYTES_MAX {
            return Err(Error::Failed(format!("a document is longer than {DOCUMENT_BYTES_MAX} bytes")));
        }
        all.extend_from_slice(&piece);
    }
    Ok(all.into())
}

/// Whether `HOST[:PORT]` is this machine by its name.
pub fn is_loopback(registry: &str) -> bool {
    let host = match registry.rsplit_once(':') {
        Some((host, _)) if !registry.ends_with(']') => host,
        _ => registry,
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn redirected(from: &Uri, to: &str) -> Option<Uri> {
    if to.starts_with('/') && !to.starts_with("//") {
        return format!("{}://{}{to}", from.scheme_str()?, from.authority()?).parse().ok();
    }
    to.parse().ok().filter(|uri: &Uri| uri.scheme().is_some() && uri.host().is_some())
}

/// What `WWW-Authenticate` asks for.
#[derive(Debug, PartialEq, Eq)]
struct Challenge {
    /// Lower case.
    scheme: String,
    parameters: HashMap<String, String>,
}

impl Challenge {
    fn read(text: &str) -> Option<Self> {
        let (scheme, mut rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
        let mut parameters = HashMap::new();
        while let Some((name, after)) = rest.trim_start_matches([' ', ',']).split_once('=') {
            let (value, next) = match after.strip_prefix('"') {
                Some(quoted) => quoted.split_once('"')?,
                None => after.split_once(',').unwrap_or((after, "")),
            };
            parameters.insert(name.trim().to_ascii_lowercase(), value.to_owned());
            rest = next;
        }
        Some(Self { scheme: scheme.to_ascii_lowercase(), parameters })
    }

    fn value(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }
}

#[cfg(test)]
#[path = "registry_tests.rs"]
mod tests;

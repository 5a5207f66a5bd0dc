//! How images are pulled: the registries' protocol over connections that the rules for tenants' connections judge.
//!
//! Who deploys a function names the registry, so it is a tenant's connection: public addresses, and what the operator has
//! opened by `--allow-registry`. In development whoever deploys decides, as for functions' own connections.

use std::path::Path;

use anyhow::{Context, Result};
use async_trait::async_trait;
use bytes::Bytes;
use gateway::client::{GuardedBody, GuardedClient, NotFetched};
use gateway::egress::Rules;
use http::{HeaderMap, Uri};
use model::{Egress, OpenTarget};
use oci::credentials::Credentials;
use oci::registry::{Answer, Error, Pieces, Transport};

/// Reads the operator's credentials.
///
/// # Errors
/// The file cannot be read.
pub fn credentials(file: Option<&Path>) -> Result<Credentials> {
    let Some(file) = file else { return Ok(Credentials::default()) };
    let shown = || format!("--registry-config {}", file.display());
    Credentials::read(&std::fs::read_to_string(file).with_context(shown)?).with_context(shown)
}

/// The connections to registries.
pub struct Registries {
    /// What sends.
    pub client: GuardedClient,
    /// What the operator has opened.
    pub open: Vec<OpenTarget>,
    /// Whether whoever deploys may name any registry.
    pub developer_opens: bool,
}

impl Registries {
    fn rules(&self, uri: &Uri) -> Rules {
        let mut rules =
            Rules { egress: Egress::default(), open: self.open.clone(), developer_opens: self.developer_opens };
        if let Some(authority) = uri.authority().filter(|_| self.developer_opens) {
            let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
            rules.egress.targets.extend(format!("{}:{port}", authority.host()).parse::<OpenTarget>());
        }
        rules
    }
}

fn error(problem: NotFetched) -> Error {
    match problem {
        NotFetched::Refused(words) => Error::Forbidden(format!("{words}; an operator opens it with --allow-registry")),
        NotFetched::Failed(words) => Error::Failed(words),
    }
}

struct Body(GuardedBody);

#[async_trait]
impl Pieces for Body {
    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        self.0.next().await.map_err(error)
    }
}

#[async_trait]
impl Transport for Registries {
    async fn get(&self, uri: &Uri, headers: HeaderMap) -> Result<Answer, Error> {
        let answer = self.client.get(&self.rules(uri), uri, headers).await.map_err(error)?;
        let (parts, body) = answer.into_parts();
        Ok(Answer { status: parts.status, headers: parts.headers, body: Box::new(Body(body)) })
    }
}

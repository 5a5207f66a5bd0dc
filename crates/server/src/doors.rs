//! Adapters between the front door's traits and what stands behind them.

use std::sync::Arc;

use async_trait::async_trait;
use aws::dispatch::Dispatcher;
use aws::sigv4::Refusal;
use bytes::Bytes;
use gateway::{AuthDenied, AwsDoor};
use http::Response;
use http::request::Parts;
use model::ports::Sites;
use model::{Principal, Site, SiteKey};

/// Signing name of the platform's own interface.
const ADMIN_SERVICE: &str = "dunlin";

/// The AWS wire behind the front door.
pub struct Door {
    dispatcher: Dispatcher,
}

impl Door {
    /// A door to these services.
    pub fn new(dispatcher: Dispatcher) -> Self {
        Self { dispatcher }
    }

    /// Who makes a call of the platform's own interface.
    ///
    /// # Errors
    /// The signature is missing or wrong.
    pub async fn admin_principal(&self, parts: &Parts, body: &[u8]) -> Result<Principal, Refusal> {
        let caller = self.dispatcher.authenticator().caller(parts, body, ADMIN_SERVICE).await?;
        Ok(caller.principal)
    }
}

#[async_trait]
impl AwsDoor for Door {
    fn identify(&self, parts: &Parts) -> bool {
        self.dispatcher.identify(parts).is_some()
    }

    async fn handle(&self, parts: Parts, body: Bytes, endpoint: String) -> Response<Bytes> {
        self.dispatcher.handle(parts, body, &endpoint).await
    }

    async fn authorize(&self, parts: &Parts, body: &Bytes, service: &'static str) -> Result<Principal, AuthDenied> {
        let caller = self.dispatcher.authenticator().caller(parts, body, service).await;
        caller.map(|caller| caller.principal).map_err(|refusal| match refusal {
            Refusal::Missing => AuthDenied::Missing,
            Refusal::UnknownKey => invalid("UnrecognizedClientException", &refusal),
            Refusal::Expired => invalid("ExpiredTokenException", &refusal),
            Refusal::Incomplete(_) => invalid("IncompleteSignatureException", &refusal),
            Refusal::Mismatch | Refusal::Scope(_) => invalid("InvalidSignatureException", &refusal),
        })
    }
}

fn invalid(code: &str, refusal: &Refusal) -> AuthDenied {
    AuthDenied::Invalid { code: code.to_owned(), message: refusal.to_string() }
}

/// Sites of several services, asked in turn.
pub struct AllSites {
    /// Who knows sites.
    pub parts: Vec<Arc<dyn Sites>>,
}

#[async_trait]
impl Sites for AllSites {
    async fn site(&self, key: &SiteKey) -> Option<Site> {
        for part in &self.parts {
            if let Some(site) = part.site(key).await {
                return Some(site);
            }
        }
        None
    }
}

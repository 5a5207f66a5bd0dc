//! Who calls: the claim of a request checked against the keys that there are.
//!
//! In `Up` every signature is verified. In `Dev` the claimed key is taken at its word, but some `Authorization` (or
//! presigned query) must be there: a web page cannot add one, so a page open on the same machine is no operator.

use std::sync::Arc;

use base::Clock;
use http::request::Parts;
use model::ports::Authorizer;
use model::{Principal, Region};

use crate::apis::{Api, Protocol};
use crate::service::Error;
use crate::sigv4::{self, Claim, DerivedKeys, Refusal};

/// How much is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Any credentials; loopback only.
    Dev,
    /// Valid signatures only.
    Up,
}

/// A caller that was let in.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Who.
    pub principal: Principal,
    /// The region that the request was signed for.
    pub region: Region,
}

/// Whom a connection belongs to, as an extension of its requests: only that principal may call over it. A key that got
/// out of one sandbox is then no use in another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfinedTo {
    /// ARN of the principal.
    pub principal_arn: String,
}

/// Lets callers in.
pub struct Authenticator {
    mode: Mode,
    authorizer: Arc<dyn Authorizer>,
    clock: Arc<dyn Clock>,
    keys: DerivedKeys,
}

impl std::fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authenticator").field("mode", &self.mode).finish_non_exhaustive()
    }
}

impl Authenticator {
    /// An authenticator over these keys.
    pub fn new(mode: Mode, authorizer: Arc<dyn Authorizer>, clock: Arc<dyn Clock>) -> Self {
        Self { mode, authorizer, clock, keys: DerivedKeys::default() }
    }

    /// The caller of a request to the service with this signing name. For anything that is signed but is no AWS call
    /// (a function URL or a route with `AWS_IAM`), ask with the name that clients sign for: `lambda`, `execute-api`.
    pub async fn caller(&self, parts: &Parts, body: &[u8], service: &str) -> Result<Caller, Refusal> {
        self.caller_of(parts, body, service, sigv4::claim(parts)).await
    }

    /// The same where the claim was read before.
    pub(crate) async fn caller_of(
        &self,
        parts: &Parts,
        body: &[u8],
        service: &str,
        claim: Result<Option<Claim>, Refusal>,
    ) -> Result<Caller, Refusal> {
        match self.mode {
            Mode::Up => self.verified(parts, body, service, &claim?.ok_or(Refusal::Missing)?).await,
            Mode::Dev => self.believed(parts, claim.ok().flatten()).await,
        }
    }

    async fn verified(&self, parts: &Parts, body: &[u8], service: &str, claim: &Claim) -> Result<Caller, Refusal> {
        if claim.scope.service != service {
            return Err(Refusal::Scope(format!("Credential should be scoped to correct service: '{service}'. ")));
        }
        let Some(region) = Region::parse(&claim.scope.region) else {
            return Err(Refusal::Scope("Credential should be scoped to a valid region. ".into()));
        };
        let token = claim.session_token.as_deref();
        let Some(known) = self.authorizer.key(&claim.access_key, token).await else {
            let ended = self.authorizer.has_ended(&claim.access_key, token).await;
            return Err(if ended { Refusal::Expired } else { Refusal::UnknownKey });
        };
        let now_ms = self.clock.now_ms();
        sigv4::verify(parts, body, claim, &known.credentials.secret_key, now_ms, &self.keys)?;
        if known.credentials.expires_at_ms.is_some_and(|end_ms| end_ms <= now_ms) {
            return Err(Refusal::Expired);
        }
        let confined = parts.extensions.get::<ConfinedTo>();
        if confined.is_some_and(|confined| confined.principal_arn != known.principal.arn) {
            return Err(Refusal::Foreign);
        }
        Ok(Caller { principal: known.principal, region })
    }

    async fn believed(&self, parts: &Parts, claim: Option<Claim>) -> Result<Caller, Refusal> {
        if claim.is_none() {
            let authorization = parts.headers.get(http::header::AUTHORIZATION);
            if authorization.is_none_or(|value| value.as_bytes().trim_ascii().is_empty()) {
                return Err(Refusal::Missing);
            }
        }
        let access_key = claim.as_ref().map_or("test", |claim| claim.access_key.as_str());
        let token = claim.as_ref().and_then(|claim| claim.session_token.as_deref());
        let known = self.authorizer.key(access_key, token).await.ok_or(Refusal::UnknownKey)?;
        let region = claim.as_ref().and_then(|claim| Region::parse(&claim.scope.region)).unwrap_or_default();
        Ok(Caller { principal: known.principal, region })
    }
}

/// A refusal in a service's words; `None` for what no model describes.
pub(crate) fn refusal(api: Option<&Api>, refusal: &Refusal) -> Error {
    let query = api.is_some_and(|api| api.protocol == Protocol::Query);
    let code = match (refusal, query) {
        (Refusal::Missing, false) => "MissingAuthenticationTokenException",
        (Refusal::Missing, true) => "MissingAuthenticationToken",
        (Refusal::Incomplete(_), false) => "IncompleteSignatureException",
        (Refusal::Incomplete(_), true) => "IncompleteSignature",
        (Refusal::UnknownKey, false) => "UnrecognizedClientException",
        (Refusal::UnknownKey, true) => "InvalidClientTokenId",
        (Refusal::Expired, false) => "ExpiredTokenException",
        (Refusal::Expired, true) => "ExpiredToken",
        (Refusal::Foreign, false) => "AccessDeniedException",
        (Refusal::Foreign, true) => "AccessDenied",
        (Refusal::Mismatch | Refusal::Scope(_), false) => "InvalidSignatureException",
        (Refusal::Mismatch | Refusal::Scope(_), true) => "SignatureDoesNotMatch",
    };
    Error::new(api.map_or(403, |api| api.refusal_status), code, refusal.to_string())
}

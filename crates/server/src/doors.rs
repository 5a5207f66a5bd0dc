//! Adapters between the front door's traits and what stands behind them.
//!
//! Invariant: what comes out of a sandbox calls as that function and as nobody else; its socket and its signature must
//! agree (in production, where signatures are verified).

use std::sync::Arc;

use async_trait::async_trait;
use aws::auth::ConfinedTo;
use aws::dispatch::Dispatcher;
use aws::sigv4::Refusal;
use bytes::Bytes;
use gateway::{AuthDenied, AwsDoor, GuestIdentity};
use http::Response;
use http::request::Parts;
use model::ports::Sites;
use model::{Body, FunctionRef, Principal, Site, SiteKey};

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
        self.principal(parts, body, ADMIN_SERVICE).await
    }

    async fn principal(&self, parts: &Parts, body: &[u8], service: &str) -> Result<Principal, Refusal> {
        let authenticator = self.dispatcher.authenticator();
        let caller = match confinement(parts) {
            None => authenticator.caller(parts, body, service).await?,
            Some(confined) => {
                let mut parts = parts.clone();
                parts.extensions.insert(confined);
                authenticator.caller(&parts, body, service).await?
            }
        };
        Ok(caller.principal)
    }
}

#[async_trait]
impl AwsDoor for Door {
    fn identify(&self, parts: &Parts) -> bool {
        self.dispatcher.identify(parts).is_some()
    }

    async fn handle(&self, mut parts: Parts, body: Bytes, endpoint: String) -> Response<Body> {
        if let Some(confined) = confinement(&parts) {
            parts.extensions.insert(confined);
        }
        self.dispatcher.handle(parts, body, &endpoint).await
    }

    async fn authorize(&self, parts: &Parts, body: &Bytes, service: &'static str) -> Result<Principal, AuthDenied> {
        self.principal(parts, body, service).await.map_err(|refusal| match refusal {
            Refusal::Missing => AuthDenied::Missing,
            Refusal::UnknownKey => invalid("UnrecognizedClientException", &refusal),
            Refusal::Expired => invalid("ExpiredTokenException", &refusal),
            Refusal::Incomplete(_) => invalid("IncompleteSignatureException", &refusal),
            Refusal::Foreign => AuthDenied::Forbidden,
            Refusal::Mismatch | Refusal::Scope(_) => invalid("InvalidSignatureException", &refusal),
        })
    }
}

/// Who alone may call over the connection that a request came on, if that is a sandbox's.
fn confinement(parts: &Parts) -> Option<ConfinedTo> {
    let guest = parts.extensions.get::<Arc<GuestIdentity>>()?;
    let principal_arn = services::iam::session_arn(&guest.role_arn, guest.function.name.as_str());
    Some(ConfinedTo { principal_arn })
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

    async fn lets(&self, function: &FunctionRef, service: &str, source_arn: &str) -> bool {
        for part in &self.parts {
            if !part.lets(function, service, source_arn).await {
                return false;
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws::auth::Mode;
    use aws::sigv4::{Signing, sign};
    use base::{SystemClock, SystemRandom};
    use model::Credentials;
    use model::ports::Authorizer;
    use services::iam::Keys;
    use services::sts::Sts;

    const ROLE: &str = "arn:aws:iam::000000000000:role/shared";

    fn guest(name: &str) -> Arc<GuestIdentity> {
        let arn = format!("arn:aws:lambda:us-east-1:000000000000:function:{name}");
        let function = FunctionRef::parse_arn(&arn).unwrap();
        Arc::new(GuestIdentity { function, version: "$LATEST".into(), role_arn: ROLE.into() })
    }

    fn signed(credentials: &Credentials, service: &str, from: Option<&str>) -> (Parts, Bytes) {
        let body = Bytes::from_static(b"Action=GetCallerIdentity&Version=2011-06-15");
        let request = http::Request::post("/").header("host", "sts.us-east-1.amazonaws.com");
        let request = request.header("content-type", "application/x-www-form-urlencoded").body(()).unwrap();
        let (mut parts, ()) = request.into_parts();
        if let Some(name) = from {
            parts.extensions.insert(guest(name));
        }
        let now_ms = SystemClock::shared().now_ms();
        sign(&mut parts, &body, Signing { credentials, region: "us-east-1", service, now_ms }).unwrap();
        (parts, body)
    }

    #[tokio::test]
    async fn a_key_of_another_function_is_no_use_in_a_sandbox() {
        let folder = tempfile::tempdir().unwrap();
        let (clock, random) = (SystemClock::shared(), SystemRandom::shared());
        let keys = Arc::new(Keys::up(folder.path(), clock.clone(), random.clone()).unwrap());
        let own = keys.issue(ROLE, "mine", 60).await;
        let stolen = keys.issue(ROLE, "yours", 60).await;
        let root = services::iam::root_key(folder.path(), &SystemRandom).unwrap();
        let services: Vec<Arc<dyn aws::Service>> = vec![Arc::new(Sts::new(keys.clone(), clock.clone()))];
        let door = Door::new(Dispatcher::new(services, keys, Mode::Up, clock, random));
        for (credentials, from, status) in [
            (&own, Some("mine"), 200),
            (&stolen, Some("mine"), 403),
            (&root, Some("mine"), 403),
            (&stolen, Some("yours"), 200),
            (&stolen, None, 200),
            (&root, None, 200),
        ] {
            let (parts, body) = signed(credentials, "sts", from);
            let response = door.handle(parts, body, "http://sts.us-east-1.amazonaws.com".into()).await;
            let (parts, body) = response.into_parts();
            let text = String::from_utf8_lossy(&body.into_bytes().unwrap()).into_owned();
            assert_eq!(parts.status, status, "{from:?}: {text}");
            assert!(status == 200 || text.contains("<Code>AccessDenied</Code>"), "{text}");
            let (parts, body) = signed(credentials, "lambda", from);
            let forbidden = matches!(door.authorize(&parts, &body, "lambda").await, Err(AuthDenied::Forbidden));
            assert_eq!(forbidden, status == 403, "{from:?}");
            let (parts, body) = signed(credentials, ADMIN_SERVICE, from);
            assert_eq!(door.admin_principal(&parts, &body).await.is_err(), status == 403, "{from:?}");
        }
    }
}

//! The `apigateway` service: REST APIs (`/restapis`) and HTTP APIs (`/v2/apis`) in front of functions.
//!
//! Operations: those that `rest` and `http` list. Integrations are functions (`AWS_PROXY`) and, in REST APIs, fixed
//! answers (`MOCK`), as CORS preflights use them. Everything else is refused loudly; `ACCEPTED_WITHOUT_EFFECT` lists
//! what is taken and does nothing.
//!
//! Not here: matching requests to routes and making events of them; the front door does that with the views that
//! `Apis` hands out.
//!
//! Invariants
//!   1. A REST stage serves what its deployment froze, not what the API looks like now. So does an HTTP stage without
//!      `AutoDeploy`; one with it is deployed anew by every change of routes and integrations, in the same transaction.
//!   2. Once a change is answered, no later look-up sees what was before it.
//!
//! Start reading at `document`, then `rest` or `http`.

mod document;
mod error;
mod http;
mod keys;
mod rest;
mod sites;
mod target;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use aws::{Call, Error, Reply, Service};
use base::{Cache, Clock, Random};
use model::Site;
use serde_json::Value;
use store::Store;

/// What is taken and stored but changes nothing: operation, parameter, and why. The compatibility matrix shows it.
pub const ACCEPTED_WITHOUT_EFFECT: &[(&str, &str, &str)] = &[
    ("CreateRestApi", "endpointConfiguration", "REGIONAL and EDGE are the same thing here"),
    ("CreateRestApi", "minimumCompressionSize", "answers are not compressed"),
    ("CreateRestApi", "apiKeySource", "API keys are not supported; HEADER is the default"),
    ("PutMethod", "requestParameters", "declares only; request validators are not supported"),
    ("PutMethod", "requestModels", "declares only; request validators are not supported"),
    ("PutMethodResponse", "every parameter", "declares only; what is sent follows the integration response"),
    ("PutIntegration", "cacheKeyParameters, cacheNamespace", "there is no cache"),
    ("PutIntegration", "requestParameters", "function proxies get the whole request"),
    ("PutIntegration", "passthroughBehavior", "function proxies get the whole request"),
    ("v2.CreateApi", "routeSelectionExpression, apiKeySelectionExpression", "HTTP APIs have one value each"),
    ("v2.CreateApi", "disableSchemaValidation, ipAddressType", "have no meaning for HTTP APIs here"),
    ("v2.CreateStage", "defaultRouteSettings.detailedMetricsEnabled", "metrics are always detailed"),
];

/// Answers remembered at most; beyond that they are read again.
const REMEMBERED_MAX: usize = 20_000;

/// The APIs, shared by the control plane (`ApiGatewayService`) and the front door.
pub struct Apis {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    url_suffix: String,
    sites: Cache<String, Site>,
}

impl Apis {
    /// The APIs in this store, whose hosts are named under `url_suffix` (`localhost`). Spawn `run` beside it.
    pub fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>, random: Arc<dyn Random>, url_suffix: &str) -> Arc<Self> {
        Arc::new(Self { store, clock, random, url_suffix: url_suffix.to_owned(), sites: Cache::new(REMEMBERED_MAX) })
    }

    /// Seconds since the epoch.
    fn now_s(&self) -> u64 {
        self.clock.now_ms() / 1_000
    }

    /// An id of this length that is not a key of `taken`.
    fn fresh_id<T>(&self, length: usize, taken: &BTreeMap<String, T>) -> String {
        loop {
            let id = self.random.lower_alphanumeric(length);
            if !taken.contains_key(&id) {
                return id;
            }
        }
    }
}

/// The control plane of APIs.
pub struct ApiGatewayService {
    apis: Arc<Apis>,
}

impl ApiGatewayService {
    /// The control plane of these APIs.
    pub fn new(apis: Arc<Apis>) -> Self {
        Self { apis }
    }
}

#[async_trait]
impl Service for ApiGatewayService {
    fn signing_name(&self) -> &'static str {
        "apigateway"
    }

    async fn call(&self, call: Call) -> Result<Reply, Error> {
        match call.operation.strip_prefix("v2.") {
            Some(operation) => http::call(&self.apis, operation, &call).await,
            None => rest::call(&self.apis, &call).await,
        }
    }
}

/// A member whose values are texts.
fn text_map(call: &Call, member: &str) -> Option<BTreeMap<String, String>> {
    let members = call.input.get(member)?.as_object()?;
    Some(members.iter().map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned())).collect())
}

/// A member that is a list of texts.
fn text_list(value: Option<&Value>) -> Vec<String> {
    let items = value.and_then(Value::as_array).into_iter().flatten();
    items.filter_map(Value::as_str).map(str::to_owned).collect()
}

/// A required text member; the wire has checked that it is there.
fn required<'a>(call: &'a Call, member: &str) -> &'a str {
    call.text(member).unwrap_or_default()
}

/// One page of what comes in order: after `start`, at most `most`, with the start of the next page.
fn page<T>(items: Vec<(String, T)>, start: Option<&str>, most: usize) -> (Vec<T>, Option<String>) {
    let start = start.unwrap_or_default();
    let mut rest = items.into_iter().filter(|(key, _)| start.is_empty() || key.as_str() > start).peekable();
    let (mut shown, mut last) = (Vec::new(), None);
    while let Some((key, item)) = (shown.len() < most).then(|| rest.next()).flatten() {
        shown.push(item);
        last = Some(key);
    }
    (shown, last.filter(|_| rest.peek().is_some()))
}

//! One request, whatever connection it came on: route, browser rules, body, then the part that it is for.
//!
//! Not here: sockets (`listener`, `guest_network`), what a site answers (`site`).
//!
//! Invariants
//!   1. No byte of a body is read before the route is known and the browser rules let the request pass.
//!   2. A body is read up to the limit of its target and no further.
//!   3. What a client sends never sets a request's `GuestIdentity` or `ClientAddress`, nor its `CallerAddress` unless a trusted proxy says so.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base::{Clock, Random};
use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, CONTENT_SECURITY_POLICY, HOST, HeaderMap, HeaderValue};
use http::request::Parts;
use http::{Request, Response};
use http_body_util::BodyExt;
use model::ports::{Invoker, Sites};
use model::{Body, CallerAddress, SiteKey};
use parking_lot::Mutex;
use tokio_util::task::TaskTracker;

use crate::browser::{self, Rules};
use crate::config::{API_BODY_BYTES_MAX, Config, FUNCTION_URL_BODY_BYTES_MAX};
use crate::detached::Detached;
use crate::door::{AdminDoor, AwsDoor, ClientAddress, Peer};
use crate::errors::{self, Fault};
use crate::guest_network::GUEST_HOST;
use crate::route::{Form, SiteRequest, Target, View, route};
use crate::site::SiteCall;
use crate::web;

/// What the front door is made from.
pub struct GatewayParts {
    /// The AWS interfaces.
    pub aws: Arc<dyn AwsDoor>,
    /// The road to functions.
    pub invoker: Arc<dyn Invoker>,
    /// What answers under an id.
    pub sites: Arc<dyn Sites>,
    /// The admin handler.
    pub admin: Arc<dyn AdminDoor>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness, for ids.
    pub random: Arc<dyn Random>,
    /// Settings.
    pub config: Config,
}

/// The front door.
pub struct Gateway {
    pub(crate) aws: Arc<dyn AwsDoor>,
    pub(crate) invoker: Arc<dyn Invoker>,
    pub(crate) sites: Arc<dyn Sites>,
    admin: Arc<dyn AdminDoor>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
    pub(crate) config: Config,
    /// Calls whose caller is gone.
    pub(crate) background: TaskTracker,
    ready: AtomicBool,
}

/// Why a body was not read.
pub(crate) enum Unread {
    TooLarge,
    Broken,
}

impl Gateway {
    /// A front door that is ready.
    pub fn new(parts: GatewayParts) -> Arc<Self> {
        let GatewayParts { aws, invoker, sites, admin, clock, random, config } = parts;
        let (background, ready) = (TaskTracker::new(), AtomicBool::new(true));
        Arc::new(Self { aws, invoker, sites, admin, clock, random, config, background, ready })
    }

    /// What the health check says from now on.
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Relaxed);
    }

    /// Settings.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Waits until the calls whose callers are gone have ended.
    pub async fn wait_for_abandoned_calls(&self) {
        self.background.close();
        self.background.wait().await;
    }

    /// Answers one request.
    pub async fn handle<B>(&self, request: Request<B>, peer: &Peer) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: std::fmt::Display,
    {
        let (mut parts, body) = request.into_parts();
        let Some(authority) = authority(&parts) else { return whole(errors::refused(browser::Refusal::NoHost)) };
        if let (false, Ok(host)) = (parts.headers.contains_key(HOST), HeaderValue::from_str(&authority)) {
            // HTTP/2 has no such header; events show it and signatures cover it all the same.
            parts.headers.insert(HOST, host);
        }
        if let Some(guest) = &peer.guest {
            parts.extensions.insert(Arc::clone(guest));
        }
        let host = browser::host_name(&authority);
        let scheme = self.scheme(&parts.headers, peer);
        let origin = format!("{scheme}://{authority}");
        let view = View {
            host: &host,
            method: parts.method.as_str(),
            path: parts.uri.path(),
            query: parts.uri.query().unwrap_or(""),
            headers: &parts.headers,
        };
        let target = route(&view, || self.aws.identify(&parts));
        let rules = Rules {
            domains: &self.config.domains,
            allowed_origins: &self.config.allowed_origins,
            own_origin: &origin,
            guest_host: peer.guest.as_ref().map(|_| GUEST_HOST),
        };
        if let Err(refusal) = browser::judge(&view, &target, &rules) {
            return whole(errors::refused(refusal));
        }
        let policy = browser::content_policy(&target);
        let mut response = match target {
            Target::Health => whole(self.health()),
            Target::Unknown => whole(errors::not_served()),
            Target::Site(site) => self.site(&site, &host, scheme, &parts, body, peer).await,
            // In a box, as calls of functions are more, and their future is not to hold all that an AWS call may do.
            Target::Aws => Box::pin(self.control(parts, peer, body, Some(origin))).await,
            Target::Admin => Box::pin(self.control(parts, peer, body, None)).await,
        };
        if let Some(policy) = policy {
            // A second policy can only narrow the function's own.
            response.headers_mut().append(CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
        }
        response
    }

    fn health(&self) -> Response<Bytes> {
        let ready = self.ready.load(Ordering::Relaxed);
        let (status, text) = if ready { (200, r#"{"status":"ready"}"#) } else { (503, r#"{"status":"stopping"}"#) };
        errors::answer(status, "application/json", text)
    }

    /// The control plane: an AWS call (with the endpoint that the client used) or the admin handler.
    async fn control<B>(&self, mut parts: Parts, peer: &Peer, body: B, endpoint: Option<String>) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Unpin,
        B::Error: std::fmt::Display,
    {
        parts.extensions.insert(ClientAddress(peer.address));
        parts.extensions.insert(CallerAddress(self.client(&parts.headers, peer).0));
        let limit = self.config.control_body_bytes_max;
        let body = match read(body, &parts.headers, limit, self.config.body_timeout).await {
            Ok(body) => body,
            Err(Unread::TooLarge) => {
                let text = format!("Request must be smaller than {limit} bytes");
                return whole(errors::message(413, "message", &text, Some("RequestEntityTooLargeException")));
            }
            Err(Unread::Broken) => return whole(errors::message(400, "message", "The body did not arrive", None)),
        };
        let (aws, admin) = (self.aws.clone(), self.admin.clone());
        // A call whose caller is gone is done to its end all the same: nothing stays half done in the middle of it.
        let work = Detached::new(&self.background, async move {
            match endpoint {
                Some(endpoint) => aws.handle(parts, body, endpoint).await,
                None => whole(admin.handle(Request::from_parts(parts, body)).await),
            }
        });
        let mut response = work.await;
        // Whatever is behind the door, no page of another origin may read this answer.
        let headers = response.headers_mut();
        for name in ["access-control-allow-origin", "access-control-allow-credentials"] {
            headers.remove(name);
        }
        headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
        response
    }

    async fn site<B>(
        &self,
        request: &SiteRequest<'_>,
        host: &str,
        scheme: &'static str,
        parts: &Parts,
        body: B,
        peer: &Peer,
    ) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: std::fmt::Display,
    {
        type Shape = fn(&Fault) -> Response<Bytes>;
        let (id, limit, unknown): (&str, usize, Shape) = match &request.key {
            SiteKey::FunctionUrl(id) => (id, FUNCTION_URL_BODY_BYTES_MAX, errors::of_function_url),
            SiteKey::Api(id) => (id, API_BODY_BYTES_MAX, errors::of_http_api),
        };
        let Some(site) = self.sites.site(&request.key).await else { return whole(unknown(&Fault::NoRoute)) };
        let shape: Shape = match site {
            model::Site::FunctionUrl(_) => errors::of_function_url,
            model::Site::Http(_) => errors::of_http_api,
            model::Site::Rest(_) => errors::of_rest_api,
        };
        let web = self.is_open_web_server(&site).await;
        let read = if web {
            web::take(body, self.config.body_timeout).map(|stream| (Bytes::new(), Some(stream)))
        } else {
            read(body, &parts.headers, limit, self.config.body_timeout).await.map(|body| (body, None))
        };
        let (body, stream) = match read {
            Ok(read) => read,
            Err(Unread::TooLarge) => return whole(shape(&Fault::TooLarge)),
            Err(Unread::Broken) => return whole(shape(&Fault::BadRequest)),
        };
        let (source_ip, forwarded_for) = self.client(&parts.headers, peer);
        let call = SiteCall {
            parts,
            body,
            stream: Mutex::new(stream),
            path: &request.path,
            id,
            host: (request.form == Form::Host).then_some(host),
            source_ip,
            forwarded_for,
            scheme,
            port: peer.port,
            spelling: peer.spelling.as_ref(),
        };
        self.serve_site(&site, call).await
    }

    fn scheme(&self, headers: &HeaderMap, peer: &Peer) -> &'static str {
        let forwarded = headers.get("x-forwarded-proto").filter(|_| self.config.behind_proxy);
        if peer.secure || forwarded.is_some_and(|value| value.as_bytes() == b"https") { "https" } else { "http" }
    }

    /// The client's address, and the chain of addresses that a function is shown.
    fn client(&self, headers: &HeaderMap, peer: &Peer) -> (IpAddr, String) {
        let own = peer.address.ip().to_canonical();
        let given = headers.get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok());
        let given: Vec<&str> = given.flat_map(|value| value.split(',')).map(str::trim).collect();
        if self.config.behind_proxy {
            // The last entry is the one that the trusted proxy added.
            let client = given.last().and_then(|last| last.parse().ok()).unwrap_or(own);
            return (client, if given.is_empty() { own.to_string() } else { given.join(", ") });
        }
        let chain = given.into_iter().map(str::to_owned).chain([own.to_string()]);
        (own, chain.collect::<Vec<_>>().join(", "))
    }
}

/// An answer that is there.
pub(crate) fn whole(response: Response<Bytes>) -> Response<Body> {
    response.map(Body::from)
}

/// The host that the client addressed; nothing if it named two.
fn authority(parts: &Parts) -> Option<String> {
    let mut hosts = parts.headers.get_all(HOST).iter();
    let header = match hosts.next() {
        Some(host) => Some(host.to_str().ok()?),
        None => None,
    };
    if hosts.next().is_some() {
        return None;
    }
    match (parts.uri.authority(), header) {
        (Some(authority), Some(header)) if !authority.as_str().eq_ignore_ascii_case(header) => None,
        (Some(authority), _) => Some(authority.as_str().to_owned()),
        (None, header) => Some(header.unwrap_or("").to_owned()),
    }
}

/// The whole body, if it stays within `limit` and no pause is longer than `silence`.
async fn read<B>(mut body: B, headers: &HeaderMap, limit: usize, silence: Duration) -> Result<Bytes, Unread>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    let announced = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > limit) {
        drain(body).await;
        return Err(Unread::TooLarge);
    }
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    loop {
        let frame = match tokio::time::timeout(silence, body.frame()).await {
            Ok(None) => break,
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(_))) | Err(_) => return Err(Unread::Broken),
        };
        let Ok(data) = frame.into_data() else { continue };
        if first.len() + rest.len() + data.len() > limit {
            drain(body).await;
            return Err(Unread::TooLarge);
        }
        if first.is_empty() && rest.is_empty() {
            // Most bodies are one frame and are not copied.
            first = data;
            continue;
        }
        if rest.is_empty() {
            rest.reserve(announced.unwrap_or(first.len() + data.len()));
            rest.extend_from_slice(&std::mem::take(&mut first));
        }
        rest.extend_from_slice(&data);
    }
    Ok(if rest.is_empty() { first } else { rest.freeze() })
}

/// Takes in a part of what is refused, so that a client that writes before it reads still sees the answer.
async fn drain<B: http_body::Body<Data = Bytes> + Unpin>(mut body: B) {
    const BYTES_MAX: usize = 32 * 1024 * 1024;
    let reading = async {
        let mut taken = 0;
        while let Some(Ok(frame)) = body.frame().await {
            taken += frame.data_ref().map_or(0, Bytes::len);
            if taken > BYTES_MAX {
                break;
            }
        }
    };
    // Best effort: who sends on for longer sees a broken connection.
    let _ = tokio::time::timeout(Duration::from_secs(2), reading).await;
}

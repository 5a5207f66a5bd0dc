//! Tenants' content: one request to a function URL, a REST API or an HTTP API, from route to answer.
//!
//! Routing, events and answers are pure and live in `http_event`; here they are put in order around the call of the
//! function. Start reading at `Gateway::serve_site`.
//!
//! Invariants
//!   1. Every answer carries the id that the event carried.
//!   2. A function whose caller is gone, or whose front's time is over, runs to its end.
//!   3. A streamed answer that breaks off after its head breaks the connection: its client can tell.

use std::borrow::Cow;
use std::net::IpAddr;
use std::task::{Context, Poll};
use std::time::Duration;

use base64::Engine;
use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::request::Parts;
use http::{Response, StatusCode};
use model::http_api::{AuthKind, FunctionUrl, HttpApi, Integration, PayloadFormat, RestApi};
use model::policy::Circumstances;
use model::{Answered, Body, BrokenOff, Chunks, Piece, Pieces, StreamedAnswer};
use model::{FunctionRef, Invocation, InvocationKind, InvokeError, Principal, RequestId, Site, Trigger};
use parking_lot::Mutex;

use crate::config::EVENT_BYTES_MAX;
use crate::detached::Detached;
use crate::door::AuthDenied;
use crate::errors::{self, Fault};
use crate::http_event::stream::{PRELUDE_TYPE, Prelude};
use crate::http_event::{Facts, Malformed, cors, http_router, rest_router, trace_id, v1, v2};
use crate::service::{Gateway, whole};
use crate::spelling::{Recorder, Spelling};
use crate::web::{Stream, WebRequest};

/// The service that calls functions for APIs, as policies name it.
const API_GATEWAY: &str = "apigateway.amazonaws.com";

/// A whole request for a site, with what the listener and the router know about it.
pub(crate) struct SiteCall<'a> {
    pub parts: &'a Parts,
    pub body: Bytes,
    /// The body as it comes, in place of `body`, for who takes it so.
    pub stream: Mutex<Option<Stream>>,
    /// Percent-encoded path as the site sees it.
    pub path: &'a str,
    /// The id in the host name or path.
    pub id: &'a str,
    /// The site's own host name, if the client used it.
    pub host: Option<&'a str>,
    pub source_ip: IpAddr,
    pub forwarded_for: String,
    pub scheme: &'static str,
    pub port: u16,
    pub spelling: Option<&'a Recorder>,
}

/// The ids and times of one exchange.
pub(crate) struct Stamp {
    now_ms: u64,
    invocation_id: String,
    pub(crate) trace_id: String,
}

impl Gateway {
    /// Answers a request for a site.
    pub(crate) async fn serve_site(&self, site: &Site, call: SiteCall<'_>) -> Response<Body> {
        let now_ms = self.clock.now_ms();
        let trace_id = trace_id(&call.parts.headers, now_ms, &*self.random);
        let stamp = Stamp { now_ms, invocation_id: self.random.uuid(), trace_id };
        match site {
            Site::FunctionUrl(url) => self.function_url(url, &call, &stamp).await,
            Site::Http(api) => Box::pin(self.http_api(api, &call, &stamp)).await,
            Site::Rest(api) => Box::pin(self.rest_api(api, &call, &stamp)).await,
        }
    }

    async fn function_url(&self, url: &FunctionUrl, call: &SiteCall<'_>, stamp: &Stamp) -> Response<Body> {
        let headers = &call.parts.headers;
        let preflight = |cors| cors::preflight(cors, call.parts.method.as_str(), headers, StatusCode::OK);
        let mut response = match url.cors.as_ref().and_then(preflight) {
            Some(response) => whole(response),
            None => {
                let answer = self.function_url_answer(url, call, stamp).await;
                let mut response = answer.unwrap_or_else(|fault| whole(errors::of_function_url(&fault)));
                if let Some(cors) = &url.cors {
                    cors::apply(cors, headers, response.headers_mut());
                }
                response
            }
        };
        set(&mut response, "x-amzn-requestid", &stamp.invocation_id);
        set(&mut response, "x-amzn-trace-id", &stamp.trace_id);
        response
    }

    async fn function_url_answer(
        &self,
        url: &FunctionUrl,
        call: &SiteCall<'_>,
        stamp: &Stamp,
    ) -> Result<Response<Body>, Fault> {
        let caller = self.caller(url.auth, call, "lambda").await?;
        let circumstances =
            Circumstances { now_ms: stamp.now_ms, source_ip: Some(call.source_ip), secure: call.scheme == "https" };
        if !url.lets(caller.as_ref(), circumstances) {
            return Err(Fault::Forbidden);
        }
        let domain = call.host.map_or_else(
            || Cow::Owned(format!("{}.lambda-url.{}.localhost", call.id, url.function.region)),
            Cow::Borrowed,
        );
        let account = caller.as_ref().map_or("anonymous", |caller| caller.account.as_str());
        let mut facts = call.facts(stamp, &domain, account);
        facts.request_id = &stamp.invocation_id;
        facts.caller = caller.as_ref();
        if call.stream.lock().is_some() || self.invoker.is_web_server(&url.function).await {
            let context = v2::context_json(&facts, &v2::Route::DEFAULT);
            let passed =
                WebRequest { function: &url.function, trigger: Trigger::FunctionUrl, path: call.path, context };
            return Box::pin(self.serve_web(passed, call, stamp)).await;
        }
        let event = v2::event(&facts, &v2::Route::DEFAULT);
        let usable = |error| malformed(error, &url.function, stamp);
        let payload = if url.streaming {
            match Box::pin(self.invoke_streaming(&url.function, event, stamp)).await? {
                Answered::Whole(outcome) => outcome.payload,
                Answered::Streamed(answer) => {
                    return Box::pin(streamed(answer)).await.map_err(|error| error.map_or(Fault::Function, usable));
                }
            }
        } else {
            self.invoke(&url.function, event, Trigger::FunctionUrl, None, stamp).await?
        };
        v2::response(&payload, v2::Front::FunctionUrl).map(whole).map_err(usable)
    }

    async fn http_api(&self, api: &HttpApi, call: &SiteCall<'_>, stamp: &Stamp) -> Response<Body> {
        let request_id = self.gateway_id();
        let headers = &call.parts.headers;
        let preflight = |cors| cors::preflight(cors, call.parts.method.as_str(), headers, StatusCode::NO_CONTENT);
        let mut response = match api.cors.as_ref().and_then(preflight) {
            Some(response) => whole(response),
            None => {
                let answer = self.http_api_answer(api, call, stamp, &request_id).await;
                let mut response = answer.unwrap_or_else(|fault| whole(errors::of_http_api(&fault)));
                if let Some(cors) = &api.cors {
                    cors::apply(cors, headers, response.headers_mut());
                }
                response
            }
        };
        set(&mut response, "apigw-requestid", &request_id);
        response
    }

    async fn http_api_answer(
        &self,
        api: &HttpApi,
        call: &SiteCall<'_>,
        stamp: &Stamp,
        request_id: &str,
    ) -> Result<Response<Body>, Fault> {
        let method = call.parts.method.as_str();
        let staged = http_router::find_stage(api, call.path).ok_or(Fault::NoRoute)?;
        let matched = http_router::find(staged.stage, method, staged.path).ok_or(Fault::NoRoute)?;
        let caller = self.caller(matched.route.auth, call, "execute-api").await?;
        let (function, format, timeout_ms) = match &matched.route.integration {
            Integration::Function { function, format, timeout_ms } => (function, *format, *timeout_ms),
            Integration::Mock { .. } => return Err(Fault::Platform),
        };
        let domain = call.api_domain(&api.region);
        let mut facts = call.facts(stamp, &domain, api.account.as_str());
        facts.request_id = request_id;
        facts.caller = caller.as_ref();
        let key = matched.route.route_key.as_str();
        let web = self.invoker.is_web_server(function).await;
        let event = match format {
            PayloadFormat::V2 => {
                let stage = staged.stage;
                let variables = Some(&stage.variables);
                let route = v2::Route { key, stage: &stage.name, parameters: &matched.parameters, variables };
                if web { v2::context_json(&facts, &route) } else { v2::event(&facts, &route) }
            }
            PayloadFormat::V1 => {
                let route = v1::Route {
                    version: Some("1.0"),
                    resource: key.split_once(' ').map_or(key, |(_, path)| path),
                    resource_id: key,
                    path: call.path,
                    full_path: call.path,
                    stage: &staged.stage.name,
                    deployment_id: "",
                    parameters: &matched.parameters,
                    variables: &staged.stage.variables,
                    binary_media_types: None,
                };
                let spelling = call.spelling();
                let facts = Facts { spelling: &spelling, ..facts };
                if web { v1::context_json(&facts, &route, request_id) } else { v1::event(&facts, &route, request_id) }
            }
        };
        let path = key.split_once(' ').map_or(key.to_owned(), |(_, path)| format!("{method}{path}"));
        self.check_policy(function, (&api.region, &api.account), &format!("{}/{}/{path}", api.id, staged.stage.name))
            .await?;
        if web {
            let passed = WebRequest { function, trigger: Trigger::Api, path: call.path, context: event };
            return self.serve_web_within(timeout_ms, passed, call, stamp).await;
        }
        let payload = self.invoke(function, event, Trigger::Api, Some(timeout_ms), stamp).await?;
        let response = match format {
            PayloadFormat::V2 => v2::response(&payload, v2::Front::HttpApi),
            PayloadFormat::V1 => v1::response(&payload, v1::Reading::HttpApi),
        };
        response.map(whole).map_err(|error| malformed(error, function, stamp))
    }

    async fn rest_api(&self, api: &RestApi, call: &SiteCall<'_>, stamp: &Stamp) -> Response<Body> {
        let extended_id = self.gateway_id();
        let answer = self.rest_api_answer(api, call, stamp, &extended_id).await;
        let mut response = answer.unwrap_or_else(|fault| whole(errors::of_rest_api(&fault)));
        set(&mut response, "x-amzn-requestid", &stamp.invocation_id);
        set(&mut response, "x-amz-apigw-id", &extended_id);
        set(&mut response, "x-amzn-trace-id", &stamp.trace_id);
        response
    }

    async fn rest_api_answer(
        &self,
        api: &RestApi,
        call: &SiteCall<'_>,
        stamp: &Stamp,
        extended_id: &str,
    ) -> Result<Response<Body>, Fault> {
        let inner = call.path.strip_prefix('/').unwrap_or(call.path);
        let (stage, path) = inner.split_at(inner.find('/').unwrap_or(inner.len()));
        let stage = api.stages.get(stage).ok_or(Fault::NoStage)?;
        let path = if path.is_empty() { "/" } else { path };
        let matched = rest_router::find(&stage.methods, call.parts.method.as_str(), path).ok_or(Fault::NoRoute)?;
        let caller = self.caller(matched.method.auth, call, "execute-api").await?;
        let (function, timeout_ms) = match &matched.method.integration {
            Integration::Function { function, timeout_ms, .. } => (function, *timeout_ms),
            Integration::Mock { status, headers, body } => return Ok(whole(mock(*status, headers, body))),
        };
        let domain = call.api_domain(&api.region);
        let mut facts = call.facts(stamp, &domain, api.account.as_str());
        facts.request_id = &stamp.invocation_id;
        facts.caller = caller.as_ref();
        let route = v1::Route {
            version: None,
            resource: &matched.method.resource_path,
            resource_id: &matched.method.resource_id,
            path,
            full_path: call.path,
            stage: &stage.name,
            deployment_id: &stage.deployment_id,
            parameters: &matched.parameters,
            variables: &stage.variables,
            binary_media_types: Some(&api.binary_media_types),
        };
        let spelling = call.spelling();
        let facts = Facts { spelling: &spelling, ..facts };
        let source = format!("{}/{}/{}{}", api.id, stage.name, call.parts.method, matched.method.resource_path);
        self.check_policy(function, (&api.region, &api.account), &source).await?;
        if self.invoker.is_web_server(function).await {
            let context = v1::context_json(&facts, &route, extended_id);
            let passed = WebRequest { function, trigger: Trigger::Api, path, context };
            return self.serve_web_within(timeout_ms, passed, call, stamp).await;
        }
        let event = v1::event(&facts, &route, extended_id);
        let payload = self.invoke(function, event, Trigger::Api, Some(timeout_ms), stamp).await?;
        let accept = call.parts.headers.get(http::header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("");
        let reading = v1::Reading::Rest { binary_media_types: &api.binary_media_types, accept };
        v1::response(&payload, reading).map(whole).map_err(|error| malformed(error, function, stamp))
    }

    /// Who calls, where the site wants to know.
    async fn caller(
        &self,
        auth: AuthKind,
        call: &SiteCall<'_>,
        service: &'static str,
    ) -> Result<Option<Principal>, Fault> {
        match auth {
            AuthKind::None => Ok(None),
            AuthKind::AwsIam => match self.aws.authorize(call.parts, &call.body, service).await {
                Ok(principal) => Ok(Some(principal)),
                Err(AuthDenied::Missing) => Err(Fault::NotSigned),
                Err(AuthDenied::Invalid { code, message }) => Err(Fault::BadSignature(code, message)),
                Err(AuthDenied::Forbidden) => Err(Fault::Forbidden),
            },
        }
    }

    /// Refuses a call that the function's policy does not let a route of an API make.
    async fn check_policy(
        &self,
        function: &FunctionRef,
        (region, account): (&model::Region, &model::AccountId),
        route: &str,
    ) -> Result<(), Fault> {
        let source = format!("arn:aws:execute-api:{region}:{account}:{route}");
        if self.sites.lets(function, API_GATEWAY, &source).await {
            return Ok(());
        }
        tracing::warn!(
            function = %function.arn(), source,
            "the function's policy does not let this route call it: AddPermission for {API_GATEWAY}"
        );
        Err(Fault::Platform)
    }

    /// Runs the function; its failure is a fault.
    async fn invoke(
        &self,
        function: &FunctionRef,
        payload: Bytes,
        trigger: Trigger,
        timeout_ms: Option<u64>,
        stamp: &Stamp,
    ) -> Result<Bytes, Fault> {
        let invocation = invocation(function, payload, trigger, stamp)?;
        let invoker = self.invoker.clone();
        let work = Detached::new(&self.background, async move { invoker.invoke(invocation).await });
        let outcome = match timeout_ms {
            None => work.await,
            Some(limit) => match tokio::time::timeout(Duration::from_millis(limit), work).await {
                Ok(outcome) => outcome,
                Err(_) => {
                    tracing::warn!(function = %function.arn(), limit_ms = limit, "the integration's time is over; the function runs on");
                    return Err(Fault::Timeout);
                }
            },
        };
        match outcome {
            Ok(outcome) if outcome.error.is_none() => Ok(outcome.payload),
            Ok(_) => Err(Fault::Function),
            Err(error) => Err(fault_of(&error, function)),
        }
    }

    /// Runs the function for a client that takes a stream; its failure before the begin of one is a fault.
    async fn invoke_streaming(&self, function: &FunctionRef, payload: Bytes, stamp: &Stamp) -> Result<Answered, Fault> {
        let invocation = invocation(function, payload, Trigger::FunctionUrl, stamp)?;
        match self.invoker.invoke_streaming(invocation).await {
            Ok(Answered::Whole(outcome)) if outcome.error.is_some() => Err(Fault::Function),
            Ok(answered) => Ok(answered),
            Err(error) => Err(fault_of(&error, function)),
        }
    }

    /// An id as API Gateway makes them: 11 bytes in base64.
    fn gateway_id(&self) -> String {
        let mut raw = [0; 11];
        self.random.fill(&mut raw);
        base64::engine::general_purpose::URL_SAFE.encode(raw)
    }
}

impl SiteCall<'_> {
    fn facts<'b>(&'b self, stamp: &'b Stamp, domain: &'b str, account: &'b str) -> Facts<'b> {
        Facts {
            method: self.parts.method.as_str(),
            path: self.path,
            query: self.parts.uri.query().unwrap_or(""),
            headers: &self.parts.headers,
            spelling: Spelling::UNKNOWN,
            body: &self.body,
            protocol: if self.parts.version == http::Version::HTTP_2 { "HTTP/2.0" } else { "HTTP/1.1" },
            source_ip: self.source_ip,
            forwarded_for: &self.forwarded_for,
            scheme: self.scheme,
            port: self.port,
            domain,
            id: self.id,
            account,
            now_ms: stamp.now_ms,
            request_id: "",
            trace_id: &stamp.trace_id,
            caller: None,
        }
    }

    fn spelling(&self) -> Spelling {
        self.spelling.map(Recorder::spelling).unwrap_or_default()
    }

    fn api_domain(&self, region: &model::Region) -> Cow<'_, str> {
        self.host.map_or_else(|| Cow::Owned(format!("{}.execute-api.{region}.localhost", self.id)), Cow::Borrowed)
    }
}

pub(crate) fn invocation(
    function: &FunctionRef,
    payload: Bytes,
    trigger: Trigger,
    stamp: &Stamp,
) -> Result<Invocation, Fault> {
    if payload.len() > EVENT_BYTES_MAX {
        return Err(Fault::TooLarge);
    }
    Ok(Invocation {
        function: function.clone(),
        request_id: RequestId(stamp.invocation_id.clone()),
        payload,
        kind: InvocationKind::RequestResponse,
        trigger,
        client_context: None,
        tenant: None,
        trace_id: Some(stamp.trace_id.clone()),
        log_tail: false,
    })
}

/// The response that a stream means, as soon as its head is known. Fails without a reason where the function failed.
async fn streamed(mut answer: StreamedAnswer) -> Result<Response<Body>, Option<Malformed>> {
    let content_type = answer.content_type.take().unwrap_or_default();
    if content_type != PRELUDE_TYPE {
        let mut response = Response::new(Body::Stream(Box::new(Rest::of(answer.pieces))));
        let value = HeaderValue::from_str(&content_type).ok().filter(|value| !value.is_empty());
        let value = value.unwrap_or(HeaderValue::from_static("application/octet-stream"));
        response.headers_mut().insert(http::header::CONTENT_TYPE, value);
        return Ok(response);
    }
    let mut prelude = Prelude::default();
    loop {
        let chunk = match answer.next().await {
            Piece::Chunk(chunk) => chunk,
            Piece::End(outcome) if outcome.error.is_some() => return Err(None),
            Piece::End(_) => return Err(Some(Malformed("the stream ended within its prelude"))),
        };
        if let Some((head, rest)) = prelude.push(&chunk)? {
            let first = Some(rest).filter(|rest| !rest.is_empty());
            let body = Rest { first, pieces: answer.pieces, broken: false };
            let none = v2::is_without_body(head.status());
            return Ok(head.map(|()| if none { Body::from(Bytes::new()) } else { Body::Stream(Box::new(body)) }));
        }
    }
}

/// The body of a streamed answer.
pub(crate) struct Rest {
    /// What came together with the prelude.
    first: Option<Bytes>,
    pieces: Box<dyn Pieces>,
    broken: bool,
}

impl Rest {
    /// Of these pieces.
    pub(crate) fn of(pieces: Box<dyn Pieces>) -> Self {
        Self { first: None, pieces, broken: false }
    }
}

impl Chunks for Rest {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BrokenOff>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(first)));
        }
        if self.broken {
            return Poll::Ready(Some(Err(BrokenOff)));
        }
        match self.pieces.poll_piece(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Piece::Chunk(chunk)) => Poll::Ready(Some(Ok(chunk))),
            Poll::Ready(Piece::End(outcome)) if outcome.error.is_none() => Poll::Ready(None),
            Poll::Ready(Piece::End(_)) => {
                // What came before leaves first: the connection writes when it has to wait.
                self.broken = true;
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }
}

fn set<B>(response: &mut Response<B>, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(HeaderName::from_static(name), value);
    }
}

fn mock(status: u16, headers: &std::collections::BTreeMap<String, String>, body: &str) -> Response<Bytes> {
    let mut response = errors::answer(status, "application/json", body.to_owned());
    for (name, value) in headers {
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value)) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

fn malformed(error: Malformed, function: &FunctionRef, stamp: &Stamp) -> Fault {
    tracing::warn!(function = %function.arn(), request_id = %stamp.invocation_id, %error, "answer not usable");
    Fault::Function
}

pub(crate) fn fault_of(error: &InvokeError, function: &FunctionRef) -> Fault {
    match error {
        InvokeError::Throttled(_) => Fault::Throttled,
        InvokeError::PayloadTooLarge { .. } => Fault::TooLarge,
        InvokeError::NoCapacity(_) => Fault::Busy,
        InvokeError::NotFound(_)
        | InvokeError::PayloadNotJson(_)
        | InvokeError::NotReady(_)
        | InvokeError::Recursive(_)
        | InvokeError::Unfit(_)
        | InvokeError::Internal(_) => {
            tracing::warn!(function = %function.arn(), %error, "the function could not be run");
            Fault::Platform
        }
    }
}

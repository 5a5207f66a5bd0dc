//! Stand-ins for what is behind the front door, and a small HTTP client, for tests.
//!
//! Not here: any test.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_trait::async_trait;
use base::{SystemClock, SystemRandom};
use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use model::http_api::{AuthKind, Cors, FunctionUrl, HttpApi, HttpRoute, HttpStage, Integration, PayloadFormat};
use model::http_api::{RestApi, RestMethod, RestStage};
use model::ports::{Invoker, Sites};
use model::{AccountId, FunctionError, FunctionName, FunctionRef, Invocation, InvokeError, Outcome, Region};
use model::{Answered, Body, Piece, Pieces, Principal, Site, SiteKey, StreamedAnswer, ThrottleReason};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use crate::{AdminDoor, AuthDenied, AwsDoor, Config, Gateway, GatewayParts, GuestIdentity, Listening, listen};

/// What the next invocations answer.
#[derive(Clone)]
pub(crate) enum Behaviour {
    /// This payload.
    Payload(Bytes),
    /// A function error.
    Fail,
    /// A configured limit.
    Throttle,
    /// No room on the host.
    Busy,
    /// Waits for `Functions::go`, then answers 200.
    Wait,
    /// Streams these bytes under this content type; then fails, if so said.
    Stream(&'static str, &'static [&'static str], bool),
}

/// Pieces that come from a channel.
struct FromChannel(tokio::sync::mpsc::Receiver<Piece>);

impl Pieces for FromChannel {
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Piece> {
        self.0.poll_recv(cx).map(|piece| piece.expect("the end comes before the channel's"))
    }
}

fn outcome(payload: Bytes, error: Option<FunctionError>) -> Outcome {
    Outcome { payload, error, content_type: None, executed_version: "$LATEST".into(), log_tail: None }
}

fn failed() -> Outcome {
    let error = FunctionError { kind: "Unhandled", error_type: "Error".into() };
    outcome(Bytes::from_static(b"{}"), Some(error))
}

/// Functions that record what they get.
pub(crate) struct Functions {
    pub(crate) behaviour: Mutex<Behaviour>,
    pub(crate) seen: Mutex<Vec<Invocation>>,
    pub(crate) entered: Notify,
    pub(crate) go: Notify,
    pub(crate) ended: Notify,
}

impl Functions {
    pub(crate) fn answer(&self, payload: &'static str) {
        *self.behaviour.lock() = Behaviour::Payload(Bytes::from_static(payload.as_bytes()));
    }

    /// The last event as JSON.
    pub(crate) fn event(&self) -> serde_json::Value {
        serde_json::from_slice(&self.seen.lock().last().unwrap().payload).unwrap()
    }
}

#[async_trait]
impl Invoker for Functions {
    async fn invoke(&self, invocation: Invocation) -> Result<Outcome, InvokeError> {
        self.seen.lock().push(invocation);
        let behaviour = self.behaviour.lock().clone();
        match behaviour {
            Behaviour::Payload(payload) => Ok(outcome(payload, None)),
            Behaviour::Fail => Ok(failed()),
            Behaviour::Stream(..) => Err(InvokeError::Internal("asked for as a whole".into())),
            Behaviour::Throttle => Err(InvokeError::Throttled(ThrottleReason::ConcurrentInvocationLimitExceeded)),
            Behaviour::Busy => Err(InvokeError::NoCapacity("full".into())),
            Behaviour::Wait => {
                self.entered.notify_one();
                self.go.notified().await;
                self.ended.notify_one();
                Ok(outcome(Bytes::from_static(br#"{"statusCode":200,"body":"waited"}"#), None))
            }
        }
    }

    async fn invoke_streaming(&self, invocation: Invocation) -> Result<Answered, InvokeError> {
        let Behaviour::Stream(content_type, chunks, fails) = *self.behaviour.lock() else {
            return self.invoke(invocation).await.map(Answered::Whole);
        };
        self.seen.lock().push(invocation);
        let (sender, receiver) = tokio::sync::mpsc::channel(8);
        for chunk in chunks {
            sender.try_send(Piece::Chunk(Bytes::from_static(chunk.as_bytes()))).unwrap();
        }
        let end = if fails { failed() } else { outcome(Bytes::new(), None) };
        sender.try_send(Piece::End(Box::new(end))).unwrap();
        let pieces = Box::new(FromChannel(receiver));
        let content_type = Some(content_type.to_owned());
        Ok(Answered::Streamed(StreamedAnswer { content_type, executed_version: "$LATEST".into(), pieces }))
    }

    async fn accept(&self, _: Invocation) -> Result<(), InvokeError> {
        Err(InvokeError::Internal("not asked for".into()))
    }

    async fn dry_run(&self, _: &FunctionRef) -> Result<(), InvokeError> {
        Err(InvokeError::Internal("not asked for".into()))
    }
}

struct FixedSites(HashMap<SiteKey, Site>);

#[async_trait]
impl Sites for FixedSites {
    async fn site(&self, key: &SiteKey) -> Option<Site> {
        self.0.get(key).cloned()
    }
}

struct Aws(Arc<Functions>);

#[async_trait]
impl AwsDoor for Aws {
    fn identify(&self, parts: &Parts) -> bool {
        parts.uri.path().starts_with("/2015-03-31/")
    }

    async fn handle(&self, parts: Parts, body: Bytes, endpoint: String) -> Response<Body> {
        if parts.uri.path() == "/2015-03-31/wait" {
            self.0.entered.notify_one();
            self.0.go.notified().await;
            self.0.ended.notify_one();
        }
        let guest = parts.extensions.get::<Arc<GuestIdentity>>().map_or("nobody", |guest| guest.version.as_str());
        let text = format!("aws {} {endpoint} {} bytes from {guest}", parts.uri.path(), body.len());
        let mut response = Response::new(Body::from(Bytes::from(text)));
        response.headers_mut().insert("access-control-allow-origin", "*".parse().unwrap());
        response
    }

    async fn authorize(&self, parts: &Parts, _: &Bytes, service: &'static str) -> Result<Principal, AuthDenied> {
        match parts.headers.get("authorization").map(|value| value.to_str().unwrap()) {
            None => Err(AuthDenied::Missing),
            Some("AWS4 good") => Ok(Principal {
                account: AccountId::default(),
                arn: format!("arn:{service}"),
                user_id: "U".into(),
                access_key: "AKIA".into(),
            }),
            Some("AWS4 known") => Err(AuthDenied::Forbidden),
            Some(_) => {
                Err(AuthDenied::Invalid { code: "InvalidSignatureException".into(), message: "wrong signature".into() })
            }
        }
    }
}

struct Admin;

#[async_trait]
impl AdminDoor for Admin {
    async fn handle(&self, request: Request<Bytes>) -> Response<Bytes> {
        Response::new(Bytes::from(format!("admin {}", request.uri().path())))
    }
}

pub(crate) fn function() -> FunctionRef {
    FunctionRef {
        account: AccountId::default(),
        region: Region::default(),
        name: FunctionName::parse("f").unwrap(),
        qualifier: None,
    }
}

fn integration(format: PayloadFormat, timeout_ms: u64) -> Integration {
    Integration::Function { function: function(), format, timeout_ms }
}

fn url(id: &str, auth: AuthKind, cors: Option<Cors>) -> (SiteKey, Site) {
    let url = FunctionUrl {
        id: id.into(),
        function: function(),
        auth,
        streaming: false,
        cors,
        policy: vec![serde_json::json!({"Effect": "Allow", "Principal": "*", "Action": "lambda:InvokeFunctionUrl"})],
    };
    (SiteKey::FunctionUrl(id.into()), Site::FunctionUrl(Arc::new(url)))
}

fn streaming_url(id: &str) -> (SiteKey, Site) {
    let (key, site) = url(id, AuthKind::None, Some(cors()));
    let Site::FunctionUrl(url) = site else { unreachable!("a URL") };
    (key, Site::FunctionUrl(Arc::new(FunctionUrl { streaming: true, ..FunctionUrl::clone(&url) })))
}

fn cors() -> Cors {
    Cors { allow_methods: vec!["*".into()], allow_origins: vec!["https://shop.example".into()], ..Cors::default() }
}

fn http_api() -> (SiteKey, Site) {
    let route = |key: &str, format, timeout_ms| HttpRoute {
        route_key: key.into(),
        auth: AuthKind::None,
        integration: integration(format, timeout_ms),
    };
    let mut routes = vec![
        route("GET /pets/{id}", PayloadFormat::V2, 30_000),
        route("POST /old", PayloadFormat::V1, 30_000),
        route("GET /slow", PayloadFormat::V2, 50),
    ];
    routes.push(HttpRoute { auth: AuthKind::AwsIam, ..route("GET /signed", PayloadFormat::V2, 30_000) });
    let stage = HttpStage { name: "$default".into(), variables: BTreeMap::new(), routes };
    let api = HttpApi {
        id: "httpapi".into(),
        account: AccountId::default(),
        region: Region::default(),
        cors: Some(cors()),
        stages: BTreeMap::from([("$default".to_owned(), stage)]),
    };
    (SiteKey::Api("httpapi".into()), Site::Http(Arc::new(api)))
}

fn rest_api() -> (SiteKey, Site) {
    let method = |http_method: &str, path: &str, auth, integration| RestMethod {
        resource_path: path.into(),
        resource_id: "res1".into(),
        http_method: http_method.into(),
        auth,
        integration,
    };
    let allow = ("Access-Control-Allow-Origin".to_owned(), "*".to_owned());
    let mock = Integration::Mock { status: 204, headers: BTreeMap::from([allow]), body: String::new() };
    let methods = vec![
        method("ANY", "/items/{id}", AuthKind::None, integration(PayloadFormat::V1, 29_000)),
        method("GET", "/slow", AuthKind::None, integration(PayloadFormat::V1, 50)),
        method("GET", "/signed", AuthKind::AwsIam, integration(PayloadFormat::V1, 29_000)),
        method("OPTIONS", "/items", AuthKind::None, mock),
    ];
    let stage = RestStage { name: "dev".into(), deployment_id: "dep1".into(), variables: BTreeMap::new(), methods };
    let api = RestApi {
        id: "restapi".into(),
        account: AccountId::default(),
        region: Region::default(),
        binary_media_types: Vec::new(),
        stages: BTreeMap::from([("dev".to_owned(), stage)]),
    };
    (SiteKey::Api("restapi".into()), Site::Rest(Arc::new(api)))
}

/// A front door over doubles: URLs `open`, `signed`, `shared` (with CORS), `stream`, a REST API `restapi`, an HTTP API `httpapi`.
pub(crate) fn gateway(config: Config) -> (Arc<Gateway>, Arc<Functions>) {
    let functions = Arc::new(Functions {
        behaviour: Mutex::new(Behaviour::Payload(Bytes::from_static(br#"{"statusCode":200,"body":"hi"}"#))),
        seen: Mutex::default(),
        entered: Notify::new(),
        go: Notify::new(),
        ended: Notify::new(),
    });
    let sites = [
        url("open", AuthKind::None, None),
        url("signed", AuthKind::AwsIam, None),
        url("shared", AuthKind::None, Some(cors())),
        streaming_url("stream"),
        http_api(),
        rest_api(),
    ];
    let gateway = Gateway::new(GatewayParts {
        aws: Arc::new(Aws(functions.clone())),
        invoker: functions.clone(),
        sites: Arc::new(FixedSites(HashMap::from(sites))),
        admin: Arc::new(Admin),
        clock: SystemClock::shared(),
        random: SystemRandom::shared(),
        config,
    });
    (gateway, functions)
}

/// A front door on a port of the loopback interface.
pub(crate) struct Front {
    pub(crate) address: SocketAddr,
    pub(crate) listening: Listening,
    pub(crate) functions: Arc<Functions>,
    pub(crate) gateway: Arc<Gateway>,
}

impl Front {
    pub(crate) async fn start(config: Config) -> Self {
        let (gateway, functions) = gateway(config);
        let socket = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let listening = listen(gateway.clone(), socket, None).unwrap();
        Self { address: listening.address(), listening, functions, gateway }
    }

    /// One request on a connection of its own.
    pub(crate) async fn call(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Response<Bytes> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        send(stream, request(method, path, headers, body)).await
    }
}

/// A request; the host is `localhost` where no header says otherwise.
pub(crate) fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Request<Full<Bytes>> {
    let mut builder = Request::builder().method(method).uri(path);
    if !headers.iter().any(|(name, _)| *name == "host") {
        builder = builder.header("host", "localhost");
    }
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    builder.body(Full::new(Bytes::copy_from_slice(body))).unwrap()
}

/// Sends one HTTP/1.1 request.
pub(crate) async fn send<S>(stream: S, request: Request<Full<Bytes>>) -> Response<Bytes>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    whole(sender.send_request(request).await.unwrap()).await
}

/// Sends one HTTP/2 request with prior knowledge.
pub(crate) async fn send_h2(stream: TcpStream, request: Request<Full<Bytes>>) -> Response<Bytes> {
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.unwrap();
    tokio::spawn(connection);
    whole(sender.send_request(request).await.unwrap()).await
}

/// The body of an answer over HTTP/2: whole, or what came of it before it broke off.
pub(crate) async fn send_h2_streaming(stream: TcpStream, request: Request<Full<Bytes>>) -> Result<String, String> {
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.unwrap();
    tokio::spawn(connection);
    let mut body = sender.send_request(request).await.unwrap().into_body();
    let mut seen = String::new();
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => seen.push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap()),
            Err(_) => return Err(seen),
        }
    }
    Ok(seen)
}

pub(crate) async fn whole(response: Response<hyper::body::Incoming>) -> Response<Bytes> {
    let (parts, body) = response.into_parts();
    Response::from_parts(parts, body.collect().await.unwrap().to_bytes())
}

/// Status and body as text.
pub(crate) fn shown(response: &Response<Bytes>) -> String {
    format!("{} {}", response.status().as_u16(), String::from_utf8_lossy(response.body()))
}

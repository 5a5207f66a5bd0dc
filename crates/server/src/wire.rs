//! The one place that constructs everything: store, services, engine, front door; and takes it down in the right order.
//!
//! A stop goes from the outside in: the health check says no, the listener accepts nothing more and finishes what runs,
//! the engine ends its environments, the log and the ledger are written out, the store is closed.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use async_trait::async_trait;
use aws::auth::Mode as AuthMode;
use aws::dispatch::Dispatcher;
use aws::sigv4::{Signing, sign};
use base::{Clock, Random, SystemClock, SystemRandom};
use cli::{Mode, Serve};
use compute::{Engine, EngineConfig, EngineParts, GuestNetwork, NetworkGuard};
use gateway::HostResolver;
use gateway::authority::{Authority, system_roots};
use gateway::client::GuardedClient;
use gateway::dial::NotReached;
use gateway::guest_network::{GUEST_ENDPOINT, GuestNetworkConfig, GuestNetworkService, NotConnected, Visitor};
use gateway::trust_store::java_trust_store;
use gateway::{Gateway, GatewayParts, Listening};
use model::ports::{Authorizer, EventSource, Sites};
use model::{AccessPoint, FunctionRef};
use sandbox::process::{ProcessBackend, TRUST_PATH};
use sandbox::program::{CallKeys, Connection, Outside, Unreached};
use sandbox::wasm::{Wasm, WasmConfig};
use sandbox::{Backend, Interpreters, WallState, interpreter};
use serde_json::json;
use services::apigateway::{ApiGatewayService, Apis};
use services::dynamodb::DynamoDb;
use services::iam::{Iam, Keys, Roles};
use services::lambda::{Functions, LambdaService};
use services::logs::Logs;
use services::sts::Sts;
use services::usage::Usage;
use store::Store;
use store::transfer::check_finished;
use tokio::net::{TcpListener, TcpSocket, UdpSocket};
use tokio::sync::SetOnce;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::Ground;
use crate::admin::Admin;
use crate::config::Config;
use crate::data_dir::{DataDir, TRUST_FILE, write_public};
use crate::doors::{AllSites, Door};
use crate::encryption::layered;
use crate::operations::served::{Kept, Served};
use crate::packs::Packs;
use crate::places::{self, Engine as StoreEngine};
use crate::registries::Registries;

/// A running server.
pub struct Server {
    gateway: Arc<Gateway>,
    listening: Listening,
    engine: Arc<Engine>,
    store: places::Opened,
    backend: Arc<ProcessBackend>,
    stopping: CancellationToken,
    /// Loops that write out what they hold when they are stopped.
    writers: Vec<JoinHandle<()>>,
}

impl Server {
    /// Is done when no function can run any more, because the spawner was killed.
    pub fn crippled(&self) -> impl Future<Output = ()> + Send + use<> {
        self.backend.ended()
    }

    /// Finishes running calls for up to `grace`, writes everything out, and closes the store.
    pub async fn stop(self, grace: Duration) {
        self.gateway.set_ready(false);
        let cut = self.listening.stop(grace).await;
        if cut > 0 {
            tracing::warn!(connections = cut, "connections were cut off by the stop");
        }
        self.engine.drain(grace).await;
        self.gateway.wait_for_abandoned_calls().await;
        self.stopping.cancel();
        for writer in self.writers {
            if let Err(error) = writer.await {
                tracing::error!(%error, "a writer ended badly");
            }
        }
        if let Err(error) = self.store.engine.close().await {
            tracing::error!(%error, "the store was not closed cleanly; what was acknowledged is on disk");
        }
        tracing::info!("stopped");
    }
}

/// The authority alone, below the data folder and as guests see it. Node.js has the public roots built in and reads this
/// file at every start: the whole bundle would cost each cold start tens of milliseconds.
const NODE_TRUST_FILE: &str = "runtime/authority.pem";
const NODE_TRUST_PATH: &str = "/var/runtime/authority.pem";
/// The bundle for Java, whose command line names it (`sandbox::interpreter::JAVA_FLAGS`).
const JAVA_TRUST_FILE: &str = "runtime/trust.jks";

/// Writes the certificates that guests trust; made with the authority of the data folder.
///
/// # Errors
/// The authority is damaged, or the file cannot be written.
pub fn write_trust(data: &DataDir) -> Result<()> {
    let authority = Authority::open(&data.path("authority"), SystemClock::shared())?;
    write_public(&data.path(NODE_TRUST_FILE), authority.certificate_pem().as_bytes())?;
    let bundle = authority.bundle(&system_roots());
    write_public(&data.path(JAVA_TRUST_FILE), &java_trust_store(&bundle))?;
    write_public(&data.path(TRUST_FILE), bundle.as_bytes())
}

/// The guests' network, known only after the front door that it leads to. The engine starts first and may at once run
/// events that an earlier process left: their guests are served as soon as there is a front door.
#[derive(Default)]
struct LateNetwork {
    service: Arc<SetOnce<Arc<GuestNetworkService>>>,
}

impl GuestNetwork for LateNetwork {
    fn serve(
        &self,
        guest: compute::GuestIdentity,
        tcp: Vec<TcpListener>,
        dns: Option<UdpSocket>,
        traces: Option<UdpSocket>,
    ) -> NetworkGuard {
        let Some(mut function) = FunctionRef::parse_arn(&guest.function_arn) else {
            tracing::error!(arn = guest.function_arn, "a guest without a function's ARN gets no network");
            return Box::new(());
        };
        let version = function.qualifier.take().unwrap_or_default();
        let identity = gateway::GuestIdentity { function, version, role_arn: guest.role_arn };
        let egress = guest.egress;
        if let Some(service) = self.service.get() {
            return Box::new(service.serve(identity, egress, tcp, dns, traces));
        }
        let (service, ended) = (self.service.clone(), CancellationToken::new());
        let guard = ended.clone().drop_guard();
        tokio::spawn(async move {
            let serving = async { service.wait().await.serve(identity, egress, tcp, dns, traces) };
            if let Some(_network) = ended.run_until_cancelled(serving).await {
                ended.cancelled().await;
            }
        });
        Box::new(guard)
    }

    fn outside(&self, guest: compute::GuestIdentity) -> Arc<dyn Outside> {
        Arc::new(LateOutside { service: self.service.clone(), guest, visitor: OnceLock::new() })
    }
}

/// A program's way out, known with the first connection.
struct LateOutside {
    service: Arc<SetOnce<Arc<GuestNetworkService>>>,
    guest: compute::GuestIdentity,
    visitor: OnceLock<Option<Visitor>>,
}

#[async_trait]
impl Outside for LateOutside {
    async fn connect(&self, host: &str, port: u16, tls: bool) -> Result<Box<dyn Connection>, Unreached> {
        let service = self.service.wait().await;
        let visitor = self.visitor.get_or_init(|| {
            let mut function = FunctionRef::parse_arn(&self.guest.function_arn)?;
            let version = function.qualifier.take().unwrap_or_default();
            let identity = gateway::GuestIdentity { function, version, role_arn: self.guest.role_arn.clone() };
            Some(service.visitor(identity, self.guest.egress.clone()))
        });
        let Some(visitor) = visitor else {
            return Err(Unreached::Refused("a program without a function's ARN reaches nothing".to_owned()));
        };
        match visitor.connect(host, port, tls).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) => Err(unreached(&error)),
        }
    }

    fn sign(
        &self,
        head: &mut http::request::Parts,
        body: &[u8],
        keys: &CallKeys,
        service: &str,
    ) -> Result<(), Unreached> {
        let now_ms = SystemClock::shared().now_ms();
        let signing = Signing { credentials: &keys.credentials, region: &keys.region, service, now_ms };
        sign(head, body, signing).map_err(|error| Unreached::Refused(error.to_string()))
    }
}

fn unreached(error: &NotConnected) -> Unreached {
    let words = error.to_string();
    match error {
        NotConnected::Closed(_) | NotConnected::NotReached(NotReached::Refused(_)) => Unreached::Refused(words),
        NotConnected::NotReached(NotReached::LookUp(_)) => Unreached::NoSuchName(words),
        NotConnected::NotReached(NotReached::Dial(_)) => Unreached::Dial(words),
        NotConnected::Tls(_) => Unreached::Tls(words),
    }
}

/// Everything durable and the services over it.
struct Base {
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    opened: places::Opened,
    store: Arc<dyn Store>,
    kept: Kept,
    keys: Arc<Keys>,
    roles: Arc<Roles>,
    functions: Arc<Functions>,
    apis: Arc<Apis>,
    logs: Arc<Logs>,
    usage: Arc<Usage>,
    tables: DynamoDb,
}

async fn open(ground: &Ground) -> Result<Base> {
    let (clock, random) = (SystemClock::shared(), SystemRandom::shared());
    let data = &ground.data;
    let opened = places::open(&ground.config.serve, data, clock.clone(), random.clone()).await?;
    let kept = Kept { store: opened.with_records(), blobs: opened.blobs.clone() };
    check_finished(&*kept.store).await?;
    let masters = ground.masters.as_ref();
    let (store, blobs) = layered(opened.engine.shared(), kept.blobs.clone(), masters, &random).await?;
    if masters.is_none() && matches!(opened.engine, StoreEngine::Postgres(_)) {
        tracing::warn!(
            "environment variables lie in clear in the database: --encryption-key-file encrypts what is stored"
        );
    }
    // Where everything is encrypted, so are the records.
    let with_records = if masters.is_some() { store.clone() } else { kept.store.clone() };
    let keys = data.path("keys");
    let keys = match ground.config.mode {
        Mode::Dev => Keys::dev(&keys, clock.clone(), random.clone())?,
        Mode::Up => Keys::up(&keys, clock.clone(), random.clone())?,
    };
    let roles = Roles::new(store.clone(), clock.clone());
    let keys = keys.with_roles(roles.clone());
    let mut settings = services::lambda::Config::default();
    if let Some(concurrency) = ground.config.serve.account_concurrency {
        settings.account_concurrency = concurrency;
    }
    settings.access_points = access_points(&ground.config);
    let functions = Functions::new(with_records, blobs.clone(), clock.clone(), random.clone(), settings);
    functions.pull_with(registries(&ground.config)?, ground.config.registries.clone());
    let apis = Apis::new(store.clone(), clock.clone(), random.clone(), "localhost");
    let logs = Logs::new(store.clone(), clock.clone(), random.clone());
    let usage = Usage::open(data.root(), &ground.boot_id, store.clone(), clock.clone()).await?;
    let tables = DynamoDb::new(store.clone(), clock.clone(), random.clone(), services::dynamodb::Config::default());
    Ok(Base { clock, random, opened, store, kept, keys: Arc::new(keys), roles, functions, apis, logs, usage, tables })
}

fn gateway_config(config: &Config, port: u16) -> gateway::Config {
    gateway::Config {
        domains: config.serve.domains.clone(),
        allowed_origins: config.serve.allow_origins.clone(),
        behind_proxy: config.serve.behind_proxy,
        port,
        ..gateway::Config::default()
    }
}

/// Connections that may wait until they are taken; the system may allow fewer. Beyond that a client tries again after a
/// second, and by default that begins with 128 at once.
const BACKLOG: u32 = 4096;

fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A port whose last connections have just ended can be had again.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Constructs everything and starts to listen.
///
/// # Errors
/// Something cannot be opened; the message says what to do.
pub async fn start(ground: Ground) -> Result<Server> {
    let listen = ground.config.serve.listen;
    let listener = bind(listen).with_context(|| {
        format!("{listen} cannot be listened on: is another server running there? Choose another with --listen")
    })?;
    let port = listener.local_addr()?.port();
    let base = open(&ground).await?;
    let backend = Arc::new(ProcessBackend::new(ground.spawner)?);
    let walls = backend.walls();
    let has_network = walls.iter().any(|wall| wall.name == "network namespace" && wall.state == WallState::Hard);
    if ground.config.mode == Mode::Up && !ground.config.serve.allow_soft_walls {
        refuse_shared_soft_walls(&base.functions, &walls).await?;
    }
    let network = Arc::new(LateNetwork::default());
    let mut config = engine_config(&ground.data, has_network, port);
    set_limits(&mut config, &ground.config.serve);
    config.access_points = access_points(&ground.config);
    // Over a database there may be other nodes, or have been: what they run is left to them until their leases end.
    config.async_queue.sole_node = matches!(base.opened.engine, StoreEngine::Embedded(_));
    config.streams.bytes_per_s = ground.config.serve.stream_rate;
    let sources = sources(&base);
    let engine = Engine::new(EngineParts {
        store: base.store.clone(),
        catalog: base.functions.clone(),
        meter: base.usage.clone(),
        log_sink: base.logs.clone(),
        authorizer: base.keys.clone(),
        backend: Arc::new(Wasm::new(backend.clone(), wasm_config(&ground.data, &ground.config))?),
        interpreters: ground.interpreters.clone(),
        network: network.clone(),
        targets: Vec::new(),
        sources: sources.clone(),
        clock: base.clock.clone(),
        random: base.random.clone(),
        config,
    })?;
    let door = Arc::new(Door::new(dispatcher(&base, &engine, sources, ground.config.mode)));
    let kept = Served::new(base.kept.clone(), base.store.clone(), base.clock.clone(), base.random.clone());
    let admin = Admin {
        store: kept,
        door: door.clone(),
        engine: engine.clone(),
        usage: base.usage.clone(),
        functions: base.functions.clone(),
        network: network.service.clone(),
        walls,
        interpreters: shown_interpreters(&ground.interpreters),
        packs: Arc::new(Packs::open(ground.data.path("runtime"), base.random.clone())?),
    };
    let sites: Vec<Arc<dyn Sites>> = vec![base.functions.clone(), base.apis.clone()];
    let gateway = Gateway::new(GatewayParts {
        aws: door,
        invoker: engine.clone(),
        sites: Arc::new(AllSites { parts: sites }),
        admin: Arc::new(admin),
        clock: base.clock.clone(),
        random: base.random.clone(),
        config: gateway_config(&ground.config, port),
    });
    let authority = Authority::open(&ground.data.path("authority"), base.clock.clone())?;
    let guest_tls = gateway::tls::of_authority(Arc::new(authority))?;
    let guests = guest_network_config(&ground.config)?;
    // Set once, here; a second value cannot come.
    let _ = network.service.set(GuestNetworkService::new(gateway.clone(), guest_tls, Arc::new(HostResolver), guests));
    let stopping = CancellationToken::new();
    let writers = start_workers(&base, &stopping);
    let listening = gateway::listen(gateway.clone(), listener, ground.tls)?;
    announce(&ground.config, &base.opened, listening.address(), ground.started.elapsed());
    Ok(Server { gateway, listening, engine, store: base.opened, backend, stopping, writers })
}

/// How images are pulled.
fn registries(config: &Config) -> Result<Arc<Registries>> {
    let client = GuardedClient::new(Arc::new(HostResolver), &system_roots())?;
    let open = config.serve.allow_registry.iter().map(|target| target.parse());
    Ok(Arc::new(Registries {
        client,
        open: open.collect::<Result<_, _>>()?,
        developer_opens: config.mode == Mode::Dev,
    }))
}

/// Where programs are.
fn wasm_config(data: &DataDir, config: &Config) -> WasmConfig {
    WasmConfig { code_root: data.path("code"), folder: data.path("wasm"), cpu_quota: config.serve.cpu_quota }
}

/// How functions reach the network.
fn guest_network_config(config: &Config) -> Result<GuestNetworkConfig> {
    // In development whoever deploys a function decides what of the machine it may reach.
    let developer_opens = config.mode == Mode::Dev;
    let mut guests = GuestNetworkConfig { developer_opens, ..GuestNetworkConfig::default() };
    if let Some(megabits) = config.serve.egress_mbit {
        guests.bytes_per_second = megabits.get() * 125_000;
    }
    for target in &config.serve.allow_egress {
        guests.open.push(target.parse()?);
    }
    Ok(guests)
}

/// Accounts are people who need not trust each other: they share a machine only where its kernel keeps them apart.
async fn refuse_shared_soft_walls(functions: &Functions, walls: &[sandbox::Wall]) -> Result<()> {
    let soft: Vec<&str> = walls.iter().filter(|wall| wall.state != WallState::Hard).map(|wall| wall.name).collect();
    if !soft.is_empty() && functions.accounts(2).await?.len() > 1 {
        bail!(
            "functions of several accounts are stored here, and this machine does not keep them apart: {} (see `dunlin \
             doctor`). Start where all walls are hard, or accept that with --allow-soft-walls",
            soft.join(", ")
        );
    }
    Ok(())
}

fn engine_config(data: &DataDir, has_network: bool, port: u16) -> EngineConfig {
    let mut config = EngineConfig::new(data.path("code"));
    config.java_pack = Some(data.path("runtime/java"));
    let endpoint = if has_network { GUEST_ENDPOINT.to_owned() } else { format!("http://127.0.0.1:{port}") };
    let trust = ["AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"];
    config.guest_variables = trust.iter().map(|name| ((*name).to_owned(), TRUST_PATH.to_owned())).collect();
    config.guest_variables.push(("NODE_EXTRA_CA_CERTS".to_owned(), NODE_TRUST_PATH.to_owned()));
    config.guest_variables.push(("AWS_ENDPOINT_URL".to_owned(), endpoint));
    config
}

/// The folders that functions may have, in the order that the spawner has them.
fn access_points(config: &Config) -> Vec<AccessPoint> {
    config.file_systems.iter().map(|(point, _)| point.clone()).collect()
}

fn set_limits(config: &mut EngineConfig, serve: &Serve) {
    config.keep_alive = serve.keep_alive.map(|seconds| Duration::from_secs(seconds.into()));
    if serve.no_freeze {
        config.freeze_after = None;
    }
    if let Some(concurrency) = serve.account_concurrency {
        config.limit_accounts(concurrency);
    }
}

/// The services whose queues and streams can be mapped to functions.
fn sources(base: &Base) -> Vec<Arc<dyn EventSource>> {
    vec![Arc::new(base.tables.streams())]
}

fn dispatcher(base: &Base, engine: &Arc<Engine>, sources: Vec<Arc<dyn EventSource>>, mode: Mode) -> Dispatcher {
    let lambda = LambdaService::new(base.functions.clone(), engine.clone(), engine.targets(), sources);
    let lambda = lambda.with_roles(base.keys.clone());
    let services: Vec<Arc<dyn aws::Service>> = vec![
        Arc::new(ApiGatewayService::new(base.apis.clone())),
        Arc::new(base.tables.clone()),
        Arc::new(lambda),
        base.logs.clone(),
        Arc::new(Iam::new(base.roles.clone())),
        Arc::new(Sts::new(base.keys.clone(), base.clock.clone())),
    ];
    let mode = match mode {
        Mode::Dev => AuthMode::Dev,
        Mode::Up => AuthMode::Up,
    };
    let authorizer: Arc<dyn Authorizer> = base.keys.clone();
    Dispatcher::new(services, authorizer, mode, base.clock.clone(), base.random.clone())
}

/// Starts the loops behind the services; returns those that write out at the end.
fn start_workers(base: &Base, stopping: &CancellationToken) -> Vec<JoinHandle<()>> {
    let token = stopping.clone();
    let (functions, apis, tables) = (base.functions.clone(), base.apis.clone(), base.tables.clone());
    tokio::spawn(async move {
        let all = async { tokio::join!(functions.run(), apis.run(), tables.run()) };
        token.run_until_cancelled(all).await;
    });
    let (logs, token) = (base.logs.clone(), stopping.clone());
    let logs = tokio::spawn(async move { logs.run(token.cancelled()).await });
    let (usage, token) = (base.usage.clone(), stopping.clone());
    let usage = tokio::spawn(async move { usage.run(token.cancelled()).await });
    vec![logs, usage]
}

/// Interpreters, and which of them serves each managed runtime.
fn shown_interpreters(interpreters: &Interpreters) -> serde_json::Value {
    let word = |family| match family {
        model::Family::Node => "nodejs",
        model::Family::Python => "python",
        model::Family::Java => "java",
        model::Family::Ruby => "ruby",
        model::Family::Php => "php",
        model::Family::Provided => "provided",
    };
    let shown = |found: &sandbox::Interpreter| json!({"family": word(found.family), "version": found.version, "binary": found.binary});
    let serving = |runtime: model::Runtime| {
        let found = &interpreters.usable[interpreter::choose(interpreters, &runtime).ok()?];
        let note = interpreter::substitution(interpreters, &runtime);
        Some(json!({"runtime": runtime.as_str(), "version": found.version, "binary": found.binary, "note": note}))
    };
    let known = model::runtime::ACCEPTED.iter().filter_map(|identifier| model::Runtime::parse(identifier));
    let runtimes: Vec<_> = known.chain(model::Runtime::php(None)).filter_map(serving).collect();
    let absent = interpreter::absent(interpreters).map(|family| {
        json!({"family": word(family), "name": interpreter::name_of(family), "package": interpreter::package_of(family)})
    });
    let absent: Vec<_> = absent.collect();
    let interpreters: Vec<_> = interpreters.usable.iter().map(shown).collect();
    json!({"interpreters": interpreters, "runtimes": runtimes, "absent": absent})
}

fn announce(config: &Config, opened: &places::Opened, address: SocketAddr, took: Duration) {
    let scheme = if config.tls { "https" } else { "http" };
    let port = address.port();
    let store = &opened.place;
    tracing::info!(%address, store, ready_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX), "ready");
    let words = match config.mode {
        Mode::Dev => format!(
            "Dunlin is ready at {scheme}://localhost:{port} (any credentials; data in {store}).\nTry:  dunlin deploy examples/items-api\nOr:   AWS_ENDPOINT_URL={scheme}://localhost:{port} aws lambda list-functions"
        ),
        Mode::Up => format!(
            "Dunlin is ready at {scheme}://{address} (signed requests only; data in {store}).\nThe root key is in {}",
            config.data_dir.join("keys").join(services::iam::ROOT_KEY_FILE).display()
        ),
    };
    cli::print_words(&words);
}

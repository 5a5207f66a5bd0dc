//! What the engine is made from and how it is set. Start reading at `EngineParts`.
//!
//! Not here: defaults that depend on the machine's walls or on command-line options; the server decides those.

use std::any::Any;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base::{Clock, Random};
use model::ports::{Authorizer, Catalog, EventSource, EventTarget, LogSink, Meter};
use model::{AccessPoint, AccountId, Egress, FunctionArn, Region};
use sandbox::program::{Nowhere, Outside};
use sandbox::{Backend, Interpreters};
use store::Store;
use tokio::net::{TcpListener, UdpSocket};

use crate::{admission, pressure, processors};

/// Everything that the engine needs from others.
pub struct EngineParts {
    /// Keeps accepted events.
    pub store: Arc<dyn Store>,
    /// Knows the functions.
    pub catalog: Arc<dyn Catalog>,
    /// Keeps usage records.
    pub meter: Arc<dyn Meter>,
    /// Keeps log lines.
    pub log_sink: Arc<dyn LogSink>,
    /// Makes the functions' credentials.
    pub authorizer: Arc<dyn Authorizer>,
    /// Makes sandboxes.
    pub backend: Arc<dyn Backend>,
    /// The interpreters that the backend knows, in its order.
    pub interpreters: Interpreters,
    /// Serves the network of the guests.
    pub network: Arc<dyn GuestNetwork>,
    /// Take the records of events that have ended; functions need none, the engine takes what is for them.
    pub targets: Vec<Arc<dyn EventTarget>>,
    /// What event source mappings lead from.
    pub sources: Vec<Arc<dyn EventSource>>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Randomness for names and ids.
    pub random: Arc<dyn Random>,
    /// Settings.
    pub config: EngineConfig,
}

/// Settings of the engine.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Folder of unpacked packages: `CODE_ROOT/DIGEST`. The backend binds from the same folder.
    pub code_root: PathBuf,
    /// Concurrent calls per account, functions with reserved concurrency apart.
    pub account_concurrency: u32,
    /// Calls that an account may begin in a second, functions with reserved concurrency apart; nothing: not limited.
    pub account_rate: Option<u32>,
    /// Most environments on this host.
    pub environments_max: u32,
    /// Most memory of all environments together, MiB of configured size.
    pub memory_mb_max: u32,
    /// Memory that must be left on the host, MiB, before another environment starts; below it idle ones end. Zero: never
    /// looked at.
    pub memory_low_mb: u64,
    /// Tells how much memory is left, MiB, or less if that is as much as it is asked for.
    pub memory_available_mb: fn(u64) -> Option<u64>,
    /// Tells how long the host's processors were idle so far, all together, in microseconds; where it does not, only predictions
    /// say whether they are busy.
    pub processors_idle_us: fn() -> Option<u64>,
    /// Environments that may be in their start at once.
    pub starts_max: usize,
    /// Guests of one kind that are booted ahead of calls, at most. Zero: none.
    pub ready_max: usize,
    /// Processors that functions may use.
    pub cores: usize,
    /// How long a call may wait for an environment before it is refused.
    pub capacity_wait: Duration,
    /// How long an environment stays without a call; nothing: as long as the calls of its function make it worth, and
    /// started again ahead of calls that are expected.
    pub keep_alive: Option<Duration>,
    /// How long an environment is idle before what its function has left running is stopped until the next call; nothing:
    /// it runs on.
    pub freeze_after: Option<Duration>,
    /// Age after which an environment serves no further call. Its credentials are valid for an hour longer.
    pub environment_age_max: Duration,
    /// The cap of the init phase.
    pub init_cap: Duration,
    /// Where the runtime pack is that Java functions cannot do without; nothing: it is not looked for.
    pub java_pack: Option<PathBuf>,
    /// Variables that every guest gets unless the user set them: `AWS_ENDPOINT_URL`, `NODE_EXTRA_CA_CERTS`,
    /// `AWS_CA_BUNDLE`, `REQUESTS_CA_BUNDLE`, `SSL_CERT_FILE`.
    pub guest_variables: Vec<(String, String)>,
    /// Folders of the host that functions may have, in the backend's order.
    pub access_points: Vec<AccessPoint>,
    /// The asynchronous queue.
    pub async_queue: AsyncConfig,
    /// Streamed answers.
    pub streams: StreamConfig,
}

impl EngineConfig {
    /// Lambda's limits, and what a small machine carries.
    pub fn new(code_root: PathBuf) -> Self {
        let cores = cores();
        Self {
            code_root,
            account_concurrency: 1_000,
            account_rate: None,
            environments_max: 1_000,
            memory_mb_max: 1_024 * 1_024,
            memory_low_mb: pressure::default_low_mb(),
            memory_available_mb: pressure::host_available_mb,
            processors_idle_us: processors::host_idle_us,
            starts_max: cores * 4,
            ready_max: cores * 8,
            cores,
            capacity_wait: Duration::from_secs(30),
            keep_alive: None,
            freeze_after: Some(Duration::from_millis(100)),
            environment_age_max: Duration::from_secs(4 * 3_600),
            init_cap: Duration::from_secs(10),
            java_pack: None,
            guest_variables: Vec::new(),
            access_points: Vec::new(),
            async_queue: AsyncConfig::default(),
            streams: StreamConfig::default(),
        }
    }

    /// Limits each account to so many concurrent calls, and to the rate that Lambda limits them to with it.
    pub fn limit_accounts(&mut self, concurrency: u32) {
        self.account_concurrency = concurrency;
        self.account_rate = Some(admission::rate_of(concurrency));
    }
}

/// Limits of streamed answers.
#[derive(Debug, Clone)]
pub struct StreamConfig {
    /// Most bytes of one answer.
    pub bytes_max: u64,
    /// Bytes that pass as quickly as they can.
    pub bytes_unlimited: u64,
    /// Bytes a second beyond that; nothing does not slow.
    pub bytes_per_s: Option<u64>,
}

impl Default for StreamConfig {
    /// Lambda's size. Its rate (2 MB a second after 6 MB) protects a network that is shared by everybody, which one's own
    /// machine has not: it is off.
    fn default() -> Self {
        Self { bytes_max: 200 * 1024 * 1024, bytes_unlimited: 6 * 1024 * 1024, bytes_per_s: None }
    }
}

/// Events that a processor has at once at most: what runs beyond that only waits for it, in an environment of its own.
const SLOTS_PER_CORE: usize = 128;

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Settings of the asynchronous queue.
#[derive(Debug, Clone)]
pub struct AsyncConfig {
    /// Events that may run at once on this node.
    pub slots: usize,
    /// Waits before the retries of a function error; as many retries as there are waits.
    pub retry_waits: Vec<Duration>,
    /// First wait after a call was throttled or refused; doubles with each further one.
    pub refusal_wait_min: Duration,
    /// Longest wait after a refusal.
    pub refusal_wait_max: Duration,
    /// An event older than this is dropped.
    pub age_max: Duration,
    /// How long a claimed event is left to its node. Longer than any call may take.
    pub lease: Duration,
    /// Whether no other node uses this store: what a former process had claimed is then run again at once, and limits
    /// are this node's alone.
    pub sole_node: bool,
}

impl Default for AsyncConfig {
    fn default() -> Self {
        Self {
            slots: (SLOTS_PER_CORE * cores()).min(1_000),
            retry_waits: vec![Duration::from_secs(60), Duration::from_secs(120)],
            refusal_wait_min: Duration::from_secs(1),
            refusal_wait_max: Duration::from_secs(300),
            age_max: Duration::from_secs(6 * 3_600),
            lease: Duration::from_secs(960),
            sole_node: true,
        }
    }
}

/// Whose traffic comes out of a sandbox.
#[derive(Debug, Clone)]
pub struct GuestIdentity {
    /// The function's account.
    pub account: AccountId,
    /// Its region.
    pub region: Region,
    /// The role that its credentials stand for.
    pub role_arn: String,
    /// The function with its version.
    pub function_arn: FunctionArn,
    /// Where the function's own connections may go.
    pub egress: Egress,
    /// The environment: 32 hexadecimal digits, as in its log stream's name.
    pub environment_id: String,
}

/// What serves a guest's network, until it is dropped: tasks end with it.
pub type NetworkGuard = Box<dyn Any + Send + Sync>;

/// Serves the sockets of a sandbox's network namespace.
pub trait GuestNetwork: Send + Sync + 'static {
    /// Serves every connection and DNS question of one guest, and takes its traces.
    fn serve(
        &self,
        guest: GuestIdentity,
        tcp: Vec<TcpListener>,
        dns: Option<UdpSocket>,
        traces: Option<UdpSocket>,
    ) -> NetworkGuard;

    /// What a program reaches that has no sockets of its own: the same as any other guest of its function.
    fn outside(&self, _guest: GuestIdentity) -> Arc<dyn Outside> {
        Arc::new(Nowhere)
    }
}

/// No network: connections of the guest stay unanswered.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoNetwork;

impl GuestNetwork for NoNetwork {
    fn serve(
        &self,
        _guest: GuestIdentity,
        tcp: Vec<TcpListener>,
        dns: Option<UdpSocket>,
        traces: Option<UdpSocket>,
    ) -> NetworkGuard {
        drop((tcp, dns, traces));
        Box::new(())
    }
}

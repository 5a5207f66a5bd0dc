//! Functions, invocations and doubles of the ports that the tests share.
//!
//! `World` is an engine with everything around it, one recorder per port; start reading there.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{Cursor, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use base::{Clock, SeededRandom};
use bytes::Bytes;
use model::ports::{Authorizer, Catalog, EventSource, EventTarget, Invoker, KnownKey, LogSink, Meter, MeterError};
use model::{
    AccountId, CodeDigest, Credentials, Delivery, DeliveryError, EventRules, Family, Floor, FunctionName, FunctionRef,
    FunctionVersion, Invocation, InvocationKind, InvokeError, LogBatch, MappingNews, Mappings, Outcome, Region,
    RequestId, Runtime, RuntimeUse, Trigger, UsageRecord,
};
use parking_lot::Mutex;
use sandbox::{Interpreter, Interpreters};
use store::{MemoryStore, Store};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::Instant;

use super::guests::Guests;
use crate::poller::doubles::{MemoryQueue, MemoryStream};
use crate::{Engine, EngineConfig, EngineParts, NoNetwork};

/// A Node function of that name.
pub(crate) fn version(name: &str) -> FunctionVersion {
    FunctionVersion {
        function: reference(name),
        version: "$LATEST".into(),
        revision: "1".into(),
        runtime: Runtime::parse("nodejs22.x").unwrap(),
        handler: "echo".into(),
        code: CodeDigest::parse(&"0a".repeat(32)).unwrap(),
        image: None,
        layers: Vec::new(),
        memory_mb: 128,
        timeout_ms: 3_000,
        tmp_mb: 512,
        environment: BTreeMap::new(),
        role_arn: "arn:aws:iam::000000000000:role/r".into(),
        log_group: format!("/aws/lambda/{name}"),
        json_log: None,
        egress: model::Egress::default(),
        reserved_concurrency: None,
        snap_start: false,
        allows_recursion: false,
        traced: false,
        dead_letters: None,
        per_tenant: false,
        program: false,
        file_system: None,
        web: None,
        tenant: None,
    }
}

pub(crate) fn reference(name: &str) -> FunctionRef {
    FunctionRef {
        account: AccountId::default(),
        region: Region::default(),
        name: FunctionName::parse(name).unwrap(),
        qualifier: None,
    }
}

pub(crate) fn invocation(name: &str, id: &str, payload: &str) -> Invocation {
    Invocation {
        function: reference(name),
        request_id: RequestId(id.into()),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        kind: InvocationKind::RequestResponse,
        trigger: Trigger::Direct,
        client_context: None,
        tenant: None,
        trace_id: None,
        log_tail: false,
    }
}

/// The time of the test's runtime, which may be paused.
pub(crate) struct TestClock {
    started: Instant,
}

/// The epoch time at which every test begins.
pub(crate) const START_MS: u64 = 1_700_000_000_000;

impl Clock for TestClock {
    fn now_us(&self) -> u64 {
        START_MS * 1_000 + self.monotonic_us()
    }

    fn monotonic_us(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap()
    }
}

#[derive(Default)]
pub(crate) struct FixedCatalog {
    pub(crate) versions: Mutex<HashMap<FunctionRef, Arc<FunctionVersion>>>,
    pub(crate) fetched: Mutex<usize>,
    /// What holds for events of a reference; as it stands there, or the default.
    pub(crate) rules: Mutex<HashMap<FunctionRef, EventRules>>,
    /// What the catalog says of what functions run on.
    pub(crate) uses: watch::Sender<BTreeSet<RuntimeUse>>,
    /// What the catalog says of environments that are there always.
    pub(crate) floors: watch::Sender<BTreeSet<Floor>>,
    /// What the catalog says of event source mappings, and what it was told of them.
    pub(crate) mappings: watch::Sender<Mappings>,
    pub(crate) told: Mutex<Vec<MappingNews>>,
}

#[async_trait]
impl Catalog for FixedCatalog {
    async fn uses(&self, known: &BTreeSet<RuntimeUse>) -> BTreeSet<RuntimeUse> {
        self.uses.subscribe().wait_for(|uses| uses != known).await.unwrap().clone()
    }

    async fn floors(&self, known: &BTreeSet<Floor>) -> BTreeSet<Floor> {
        self.floors.subscribe().wait_for(|floors| floors != known).await.unwrap().clone()
    }

    async fn mappings(&self, known: &Mappings) -> Mappings {
        self.mappings.subscribe().wait_for(|mappings| mappings != known).await.unwrap().clone()
    }

    async fn tell(&self, news: MappingNews) -> bool {
        self.told.lock().push(news);
        true
    }

    async fn version(&self, function: &FunctionRef) -> Result<Arc<FunctionVersion>, InvokeError> {
        let found = self.versions.lock().get(function).cloned();
        found.ok_or_else(|| InvokeError::NotFound(function.arn()))
    }

    async fn event_rules(&self, function: &FunctionRef) -> Result<Arc<EventRules>, InvokeError> {
        Ok(Arc::new(self.rules.lock().get(function).cloned().unwrap_or_default()))
    }

    async fn package(&self, code: &CodeDigest) -> Result<Bytes, InvokeError> {
        *self.fetched.lock() += 1;
        tokio::task::yield_now().await;
        if code.as_str().starts_with("bad") {
            return Ok(Bytes::from_static(b"not a zip"));
        }
        let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
        writer.start_file("index.js", zip::write::SimpleFileOptions::default()).unwrap();
        writer.write_all(b"exports.handler = 1").unwrap();
        if code.as_str().starts_with("1a") {
            writer.start_file("large.py", zip::write::SimpleFileOptions::default()).unwrap();
            // It does not shrink, so that it is a large package as well.
            let mut state = 1u32;
            let mut next = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            };
            let noise: Vec<u8> = (0..200_000).map(|_| next()).collect();
            writer.write_all(&noise).unwrap();
        }
        Ok(writer.finish().unwrap().into_inner().into())
    }
}

#[derive(Default)]
pub(crate) struct Records(pub(crate) Mutex<Vec<UsageRecord>>);

impl Meter for Records {
    fn record(&self, record: UsageRecord) -> Result<(), MeterError> {
        self.0.lock().push(record);
        Ok(())
    }
}

#[derive(Default)]
pub(crate) struct Lines(pub(crate) Mutex<Vec<LogBatch>>);

impl Lines {
    /// All messages of one stream, in order; of the first stream that there is if none is named.
    pub(crate) fn messages(&self) -> Vec<String> {
        let batches = self.0.lock();
        batches.iter().flat_map(|batch| &batch.events).map(|event| event.message.clone()).collect()
    }
}

#[async_trait]
impl LogSink for Lines {
    async fn append(&self, batch: LogBatch) {
        assert!(!batch.events.is_empty());
        self.0.lock().push(batch);
    }
}

/// A service of queues that remembers what it was given.
#[derive(Default)]
pub(crate) struct Queues {
    pub(crate) taken: Mutex<Vec<Delivery>>,
    /// What it answers, and how often; afterwards it takes everything.
    pub(crate) answers: Mutex<Vec<DeliveryError>>,
    /// Whether deliveries hang, as in a process that is about to die.
    pub(crate) hangs: AtomicBool,
    /// The queue whose deliveries alone hang.
    pub(crate) hanging: Mutex<Option<String>>,
}

#[async_trait]
impl EventTarget for Queues {
    fn service(&self) -> &'static str {
        "sqs"
    }

    fn event_bytes_max(&self) -> usize {
        1_000
    }

    async fn has(&self, _arn: &str) -> bool {
        true
    }

    async fn deliver(&self, delivery: Delivery) -> Result<(), DeliveryError> {
        let hangs = self.hangs.load(Ordering::SeqCst) || self.hanging.lock().as_ref() == Some(&delivery.target);
        if hangs {
            std::future::pending::<()>().await;
        }
        if let Some(error) = self.answers.lock().pop() {
            return Err(error);
        }
        self.taken.lock().push(delivery);
        Ok(())
    }
}

type Sources = Vec<Arc<dyn EventSource>>;

struct Keys;

#[async_trait]
impl Authorizer for Keys {
    async fn key(&self, _access_key: &str, _session_token: Option<&str>) -> Option<KnownKey> {
        None
    }

    async fn issue(&self, _role_arn: &str, session_name: &str, ttl_s: u64) -> Credentials {
        Credentials {
            access_key: "ASIATEST".into(),
            secret_key: format!("good for {ttl_s} s"),
            session_token: Some(session_name.into()),
            expires_at_ms: None,
        }
    }
}

/// An engine with everything around it.
pub(crate) struct World {
    pub(crate) engine: Arc<Engine>,
    pub(crate) guests: Arc<Guests>,
    pub(crate) catalog: Arc<FixedCatalog>,
    pub(crate) records: Arc<Records>,
    pub(crate) lines: Arc<Lines>,
    pub(crate) queues: Arc<Queues>,
    /// A queue and a stream whose records functions can get.
    pub(crate) queue: Arc<MemoryQueue>,
    pub(crate) stream: Arc<MemoryStream>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<TestClock>,
    pub(crate) config: EngineConfig,
    seed: u64,
    _folder: TempDir,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(Guests::new(), |_| {})
    }

    pub(crate) fn with(guests: Arc<Guests>, set: impl FnOnce(&mut EngineConfig)) -> Self {
        Self::over(Arc::new(MemoryStore::new()), guests, set)
    }

    /// The same over a store that there is.
    pub(crate) fn over(store: Arc<dyn Store>, guests: Arc<Guests>, set: impl FnOnce(&mut EngineConfig)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = EngineConfig::new(folder.path().join("code"));
        config.cores = 2;
        config.memory_low_mb = 0;
        config.starts_max = 8;
        config.ready_max = 0;
        // What else this host does is no part of a test.
        config.processors_idle_us = || None;
        // Tests count environments; those of habits choose otherwise.
        config.keep_alive = Some(Duration::from_secs(600));
        set(&mut config);
        let (catalog, records, lines) = <(Arc<FixedCatalog>, Arc<Records>, Arc<Lines>)>::default();
        let queues = Arc::new(Queues::default());
        let clock = Arc::new(TestClock { started: Instant::now() });
        let (queue, stream) = (MemoryQueue::new(clock.clone()), MemoryStream::new(clock.clone()));
        let sources: Sources = vec![queue.clone(), stream.clone()];
        let parts = parts(&guests, &catalog, &records, &lines, &queues, sources, &store, &clock, &config, 1);
        let engine = Engine::new(parts).unwrap();
        Self {
            engine,
            guests,
            catalog,
            records,
            lines,
            queues,
            queue,
            stream,
            store,
            clock,
            config,
            seed: 1,
            _folder: folder,
        }
    }

    /// Ends the engine without grace and starts another on the same store.
    pub(crate) fn restart(&mut self) {
        self.seed += 1;
        let Self { guests, catalog, records, lines, queues, store, clock, config, seed, .. } = self;
        let sources: Sources = vec![self.queue.clone(), self.stream.clone()];
        let parts = parts(guests, catalog, records, lines, queues, sources, store, clock, config, *seed);
        self.engine = Engine::new(parts).unwrap();
    }

    /// Another engine on the same store, as on another node.
    pub(crate) fn beside(&self) -> Arc<Engine> {
        let Self { guests, catalog, records, lines, queues, store, clock, config, .. } = self;
        let sources: Sources = vec![self.queue.clone(), self.stream.clone()];
        Engine::new(parts(guests, catalog, records, lines, queues, sources, store, clock, config, 1_000)).unwrap()
    }

    /// Deploys a function whose handler selects what its guest does.
    pub(crate) fn deploy(&self, name: &str, handler: &str, change: impl FnOnce(&mut FunctionVersion)) {
        let mut version = version(name);
        version.handler = handler.into();
        change(&mut version);
        self.catalog.uses.send_if_modified(|uses| version.runtime_use().is_some_and(|it| uses.insert(it)));
        self.catalog.versions.lock().insert(version.function.clone(), Arc::new(version));
    }

    /// Has a qualifier of a function lead to this version of it.
    pub(crate) fn point(&self, name: &str, qualifier: &str, version: &str, handler: &str) {
        let mut pointed = self::version(name);
        (pointed.version, pointed.revision) = (version.into(), format!("of {version}"));
        pointed.handler = handler.into();
        let reference = FunctionRef { qualifier: Some(qualifier.into()), ..reference(name) };
        self.catalog.versions.lock().insert(reference, Arc::new(pointed));
    }

    pub(crate) async fn call(&self, name: &str, payload: &str) -> Result<Outcome, InvokeError> {
        self.engine.invoke(invocation(name, "r-1", payload)).await
    }

    /// Deploys one function `f` and calls it once.
    pub(crate) async fn call_of(&self, handler: &str) -> Outcome {
        self.deploy("f", handler, |_| {});
        self.call("f", "{\"a\": 1}").await.unwrap()
    }

    /// Seconds since the test began.
    pub(crate) fn clock_s(&self) -> u64 {
        self.clock.monotonic_us() / 1_000_000
    }

    /// Waits for a condition.
    pub(crate) async fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let began = tokio::time::Instant::now();
        let reached = async {
            while !condition(self) {
                // The longer it takes, the less it is looked: half a minute of a clock that jumps is not made of steps.
                let pause = (began.elapsed() / 50).clamp(Duration::from_millis(2), Duration::from_secs(1));
                tokio::time::sleep(pause).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(3_600), reached).await.unwrap_or_else(|_| panic!("never: {what}"));
    }
}

#[allow(clippy::too_many_arguments, reason = "it puts everything of a world together")]
fn parts(
    guests: &Arc<Guests>,
    catalog: &Arc<FixedCatalog>,
    records: &Arc<Records>,
    lines: &Arc<Lines>,
    queues: &Arc<Queues>,
    sources: Sources,
    store: &Arc<dyn Store>,
    clock: &Arc<TestClock>,
    config: &EngineConfig,
    seed: u64,
) -> EngineParts {
    let interpreter = |family, version| Interpreter {
        family,
        version,
        binary: "/usr/bin/interpreter".into(),
        prefix: "/usr".into(),
        library_paths: Vec::new(),
    };
    let mut usable = vec![interpreter(Family::Node, (22, 1, 0)), interpreter(Family::Python, (3, 12, 1))];
    usable.truncate(if guests.python { 2 } else { 1 });
    EngineParts {
        store: store.clone(),
        catalog: catalog.clone(),
        meter: records.clone(),
        log_sink: lines.clone(),
        authorizer: Arc::new(Keys),
        backend: guests.clone(),
        interpreters: Interpreters { usable, skipped: Vec::new() },
        network: Arc::new(NoNetwork),
        targets: vec![queues.clone()],
        sources,
        clock: clock.clone(),
        random: SeededRandom::new(seed),
        config: config.clone(),
    }
}

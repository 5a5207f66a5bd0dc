//! A backend whose guests are tasks of the test: they speak the real protocols over real sockets and pipes.
//!
//! A guest ends as a process does: its socket and its pipe close, and whoever waits for its control handle is told.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Buf, Bytes, BytesMut};
use parking_lot::Mutex;
use sandbox::{
    Assignment, Backend, Control, Error, Exit, Guest, GuestListeners, Held, Occupant, SandboxSpec, Started, Usage, Wall,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::net::{TcpListener, TcpSocket, UnixStream};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::guest_protocol::{self as protocol, kind};

/// A function of this memory cannot be given to a guest that is booted already.
pub(crate) const UNASSIGNABLE_MB: u64 = 777;

/// Answers events, as a test wants it.
pub(crate) type Script = Arc<Mutex<Box<dyn FnMut(&[u8]) -> Option<String> + Send>>>;

/// What a fake guest does when its function is loaded or called. The handler's name selects it.
pub(crate) struct Guests {
    /// Sandboxes that were started.
    pub(crate) started: AtomicUsize,
    /// Sandboxes that are there now, and the most there were.
    pub(crate) alive: Arc<AtomicUsize>,
    /// Specs in the order of their start.
    pub(crate) specs: Mutex<Vec<SandboxSpec>>,
    /// Time that a boot takes.
    pub(crate) boot: Duration,
    /// Whether the host has a Python.
    pub(crate) python: bool,
    /// Whether the host can freeze.
    freezing: bool,
    /// The address of the last Runtime API listener.
    pub(crate) runtime_api: Mutex<Option<std::net::SocketAddr>>,
    /// Calls that each request id was seen in.
    pub(crate) seen: Arc<Mutex<HashMap<String, usize>>>,
    /// Bytes of pieces that guests got rid of.
    pub(crate) streamed: Arc<AtomicU64>,
    /// What functions with the handler `script` answer; nothing: an error.
    pub(crate) script: Script,
    /// The trace headers of the calls of such functions.
    pub(crate) traces: Arc<Mutex<Vec<String>>>,
    /// Whether guests end instead of compiling.
    mute_compiler: Arc<AtomicBool>,
    controls: Mutex<Vec<Arc<FakeControl>>>,
}

impl Guests {
    pub(crate) fn new() -> Arc<Self> {
        Self::booting(Duration::ZERO)
    }

    pub(crate) fn booting(boot: Duration) -> Arc<Self> {
        Arc::new(Self::with(boot, true))
    }

    pub(crate) fn without_python() -> Arc<Self> {
        Arc::new(Self::with(Duration::ZERO, false))
    }

    fn with(boot: Duration, python: bool) -> Self {
        Self {
            python,
            freezing: true,
            started: AtomicUsize::new(0),
            alive: Arc::default(),
            specs: Mutex::default(),
            boot,
            runtime_api: Mutex::default(),
            seen: Arc::default(),
            streamed: Arc::default(),
            script: Arc::new(Mutex::new(Box::new(|_| None))),
            traces: Arc::default(),
            mute_compiler: Arc::default(),
            controls: Mutex::default(),
        }
    }

    pub(crate) fn unfreezable() -> Arc<Self> {
        Arc::new(Self { freezing: false, ..Self::with(Duration::ZERO, true) })
    }

    /// Has every guest use processor time, whether it is called or not.
    pub(crate) fn burn(&self, time: Duration) {
        self.controls.lock().iter().for_each(|control| control.usage.lock().cpu += time);
    }

    /// Has every guest have used so many bytes of memory.
    pub(crate) fn swell(&self, bytes: u64) {
        self.controls.lock().iter().for_each(|control| control.usage.lock().memory_peak_bytes = bytes);
    }

    /// Has every guest consist of so many threads.
    pub(crate) fn set_tasks(&self, tasks: u32) {
        self.controls.lock().iter().for_each(|control| control.tasks.store(tasks, Ordering::SeqCst));
    }

    /// Guests that are frozen now.
    pub(crate) fn frozen(&self) -> usize {
        self.controls.lock().iter().filter(|control| *control.frozen.borrow()).count()
    }

    /// How often guests were frozen.
    pub(crate) fn freezes(&self) -> usize {
        self.controls.lock().iter().map(|control| control.freezes.load(Ordering::SeqCst)).sum()
    }

    pub(crate) fn started(&self) -> usize {
        self.started.load(Ordering::SeqCst)
    }

    pub(crate) fn alive(&self) -> usize {
        self.alive.load(Ordering::SeqCst)
    }

    /// Who moved into sandboxes that were vacant.
    pub(crate) fn occupants(&self) -> Vec<Occupant> {
        self.controls.lock().iter().filter_map(|control| control.occupant.borrow().clone()).collect()
    }

    /// Guests that were given a function after their start.
    pub(crate) fn assigned(&self) -> usize {
        self.controls.lock().iter().filter(|control| control.assigned.load(Ordering::SeqCst)).count()
    }

    /// The same, of the forks of one zygote.
    pub(crate) fn assigned_from(&self, zygote: u64) -> usize {
        let (specs, controls) = (self.specs.lock(), self.controls.lock());
        let forks = specs.iter().zip(controls.iter()).filter(|(spec, _)| spec.guest == Guest::Fork { zygote });
        forks.filter(|(_, control)| control.assigned.load(Ordering::SeqCst)).count()
    }

    /// Sandboxes of each kind that are there now: processes, zygotes, forks.
    pub(crate) fn kinds(&self) -> (usize, usize, usize) {
        let (specs, controls) = (self.specs.lock(), self.controls.lock());
        let alive = specs.iter().zip(controls.iter()).filter(|(_, control)| control.exit.borrow().is_none());
        alive.fold((0, 0, 0), |(processes, zygotes, forks), (spec, _)| match spec.guest {
            Guest::Zygote { .. } => (processes, zygotes + 1, forks),
            Guest::Fork { .. } => (processes, zygotes, forks + 1),
            _ => (processes + 1, zygotes, forks),
        })
    }

    pub(crate) fn mute_compiler(&self) {
        self.mute_compiler.store(true, Ordering::SeqCst);
    }

    /// Ends every guest as a crash would.
    pub(crate) fn crash_all(&self, code: i32) {
        for control in self.controls.lock().iter() {
            control.end(Some(code), None, false);
        }
    }
}

#[derive(Debug)]
pub(crate) struct FakeControl {
    id: u64,
    assigned: AtomicBool,
    /// Who moved in.
    occupant: watch::Sender<Option<Occupant>>,
    exit: watch::Sender<Option<Exit>>,
    frozen: watch::Sender<bool>,
    freezes: AtomicUsize,
    tasks: AtomicU32,
    usage: Mutex<Usage>,
    alive: Arc<AtomicUsize>,
}

impl FakeControl {
    fn new(id: u64, alive: Arc<AtomicUsize>) -> Self {
        Self {
            id,
            assigned: AtomicBool::new(false),
            occupant: watch::Sender::new(None),
            exit: watch::Sender::new(None),
            frozen: watch::Sender::new(false),
            freezes: AtomicUsize::new(0),
            tasks: AtomicU32::new(1),
            usage: Mutex::new(Usage { memory_peak_bytes: 10 << 20, ..Usage::default() }),
            alive,
        }
    }

    fn end(&self, code: Option<i32>, signal: Option<i32>, out_of_memory: bool) {
        let usage = *self.usage.lock();
        self.exit.send_if_modified(|exit| {
            let first = exit.is_none();
            if first {
                *exit = Some(Exit { code, signal, out_of_memory, usage });
                self.alive.fetch_sub(1, Ordering::SeqCst);
            }
            first
        });
    }
}

#[async_trait]
impl Control for FakeControl {
    fn id(&self) -> u64 {
        self.id
    }

    async fn assign(&self, assignment: &Assignment) -> Result<(), Error> {
        if assignment.memory_bytes == UNASSIGNABLE_MB << 20 || self.exit.borrow().is_some() {
            return Err(Error::Host("verify".into()));
        }
        assert!(!self.assigned.swap(true, Ordering::SeqCst), "assigned twice");
        if let Some(occupant) = &assignment.occupant {
            executed(&occupant.environment)?;
            self.occupant.send_replace(Some(occupant.clone()));
        }
        Ok(())
    }

    fn kill(&self) {
        self.end(None, Some(9), false);
    }

    async fn wait(&self) -> Exit {
        let mut exit = self.exit.subscribe();
        exit.wait_for(Option::is_some).await.unwrap().unwrap()
    }

    fn settle(&self) {}

    fn terminate(&self) {
        // As a server does that knows the signal.
        self.end(Some(0), None, false);
    }

    async fn sockets(&self) -> Result<Vec<TcpSocket>, Error> {
        Ok((0..4).map(|_| TcpSocket::new_v4().unwrap()).collect())
    }

    fn freeze(&self) -> Box<dyn FnOnce() + Send> {
        self.frozen.send_replace(true);
        self.freezes.fetch_add(1, Ordering::SeqCst);
        Box::new(|| {})
    }

    fn thaw(&self) {
        self.frozen.send_replace(false);
    }

    fn usage(&self) -> Usage {
        *self.usage.lock()
    }

    fn held(&self) -> Held {
        Held { tasks: self.tasks.load(Ordering::SeqCst), ..Held::default() }
    }
}

/// What becomes of a program that is executed with these variables.
fn executed(environment: &[(String, String)]) -> Result<(), Error> {
    if of(environment, "_HANDLER") == "missing" {
        return Err(Error::Entrypoint("fork/exec /var/task/bootstrap: no such file or directory".into()));
    }
    Ok(())
}

/// Waits in a vacant sandbox for who moves in.
async fn occupied(control: Arc<FakeControl>) {
    let mut exit = control.exit.subscribe();
    let mut moved = control.occupant.subscribe();
    let occupant = tokio::select! {
        _ = exit.wait_for(Option::is_some) => return,
        occupant = moved.wait_for(Option::is_some) => occupant.unwrap().clone().unwrap(),
    };
    if occupant.guest == Guest::Command {
        command(&occupant.environment, &control).await;
    }
}

/// A web server, or one that ends at once.
async fn command(environment: &[(String, String)], control: &Arc<FakeControl>) {
    let port: u16 = of(environment, "PORT").parse().unwrap();
    if of(environment, "DUNLIN_WEB_COMMAND") == "crash" {
        control.end(Some(7), None, false);
    } else {
        tokio::spawn(web_server(TcpListener::bind(("127.0.0.1", port)).await.unwrap(), control.clone()));
    }
}

#[async_trait]
impl Backend for Guests {
    async fn start(&self, spec: SandboxSpec) -> Result<Started, Error> {
        executed(&spec.environment)?;
        if let Guest::Fork { zygote } = spec.guest {
            let known = self.controls.lock().iter().any(|of| of.id == zygote && of.exit.borrow().is_none());
            if !known {
                return Err(Error::Host("zygote: no such process".into()));
            }
        } else {
            tokio::time::sleep(self.boot).await;
        }
        let number = self.started.fetch_add(1, Ordering::SeqCst);
        self.alive.fetch_add(1, Ordering::SeqCst);
        let (channel, guest_channel) = UnixStream::pair().unwrap();
        let (write, output) = pipe::pipe().unwrap();
        let control = Arc::new(FakeControl::new(number as u64 + 1, self.alive.clone()));
        {
            let (mut specs, mut controls) = (self.specs.lock(), self.controls.lock());
            specs.push(spec.clone());
            controls.push(control.clone());
        }
        let mut listeners = GuestListeners::default();
        let runs_init = |spec: &SandboxSpec| !variable(spec, "AWS_CONTAINER_CREDENTIALS_FULL_URI").is_empty();
        let snapshot = match spec.guest {
            Guest::Zygote { .. } => runs_init(&spec),
            Guest::Fork { zygote } => runs_init(&self.specs.lock()[zygote as usize - 1]),
            _ => false,
        };
        if snapshot {
            listeners.runtime_api = Some(TcpListener::bind("127.0.0.1:0").await.unwrap());
        }
        if spec.guest == Guest::Command {
            drop((guest_channel, write));
            command(&spec.environment, &control).await;
        } else if matches!(spec.guest, Guest::Bootstrap | Guest::Vacant) {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            *self.runtime_api.lock() = Some(listener.local_addr().unwrap());
            listeners.runtime_api = Some(listener);
            drop((guest_channel, write));
            if spec.guest == Guest::Vacant {
                tokio::spawn(occupied(control.clone()));
            }
        } else {
            let guest = FakeGuest {
                zygote: matches!(spec.guest, Guest::Zygote { .. }),
                snapshot,
                channel: guest_channel,
                buffer: BytesMut::new(),
                output: write,
                control: control.clone(),
                seen: self.seen.clone(),
                streamed: self.streamed.clone(),
                script: self.script.clone(),
                traces: self.traces.clone(),
                mute_compiler: self.mute_compiler.clone(),
                calls: 0,
                began: Instant::now(),
                caches: serde_json::Value::Null,
                loaded: serde_json::Value::Null,
            };
            let mut killed = control.exit.subscribe();
            tokio::spawn(async move {
                tokio::select! {
                    _ = killed.wait_for(Option::is_some) => {}
                    () = guest.live() => {}
                }
            });
        }
        Ok(Started { channel, output, listeners, control })
    }

    fn walls(&self) -> Vec<Wall> {
        Vec::new()
    }

    fn freezes(&self) -> bool {
        self.freezing
    }
}

/// Answers each request with its number, once so many are there at once as the path says; `/end` ends it when two are there.
async fn web_server(listener: TcpListener, control: Arc<FakeControl>) {
    let here = Arc::new(watch::Sender::new(0_usize));
    let mut ended = control.exit.subscribe();
    let mut serving = tokio::task::JoinSet::new();
    loop {
        let (mut stream, _) = tokio::select! {
            _ = ended.wait_for(Option::is_some) => return,
            accepted = listener.accept() => accepted.unwrap(),
        };
        let (here, control) = (here.clone(), control.clone());
        serving.spawn(async move {
            let mut head = [0; 4_096];
            while let Ok(count @ 1..) = stream.read(&mut head).await {
                let head = String::from_utf8_lossy(&head[..count]).into_owned();
                let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
                if path == "/end" {
                    let _ = here.subscribe().wait_for(|here| *here >= 2).await;
                    return control.end(Some(3), None, false);
                }
                let wanted: usize = path.trim_start_matches('/').parse().unwrap_or(0);
                here.send_modify(|here| *here += 1);
                let _ = here.subscribe().wait_for(|here| *here >= wanted).await;
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{:02}", control.id);
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        });
    }
}

pub(crate) fn variable(spec: &SandboxSpec, name: &str) -> String {
    of(&spec.environment, name)
}

fn of(environment: &[(String, String)], name: &str) -> String {
    environment.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone()).unwrap_or_default()
}

struct FakeGuest {
    zygote: bool,
    /// Whether it has run a function's init, or is to run it.
    snapshot: bool,
    channel: UnixStream,
    buffer: BytesMut,
    output: pipe::Sender,
    control: Arc<FakeControl>,
    seen: Arc<Mutex<HashMap<String, usize>>>,
    streamed: Arc<AtomicU64>,
    script: Script,
    traces: Arc<Mutex<Vec<String>>>,
    mute_compiler: Arc<AtomicBool>,
    calls: usize,
    /// When the event came.
    began: Instant,
    /// What it was told of code that is compiled, and all that it was told.
    caches: serde_json::Value,
    loaded: serde_json::Value,
}

impl FakeGuest {
    async fn live(mut self) {
        if self.zygote {
            return self.prepare().await;
        }
        self.say(kind::BOOTED, &[]).await;
        let (kind, body) = self.frame().await;
        if kind == kind::COMPILE {
            if self.mute_compiler.load(Ordering::SeqCst) {
                return self.control.end(Some(1), None, false);
            }
            self.say(kind::BEGIN, &[]).await;
            self.say(kind::CHUNK, &[&body]).await;
            return self.say(kind::END, &[]).await;
        }
        assert_eq!(kind, kind::LOAD);
        let load: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let handler = load["handler"].as_str().unwrap().to_owned();
        self.caches = load["caches"].clone();
        if self.snapshot {
            // The handler is there; only the hooks are run.
            self.print("after restore\n").await;
            if handler == "slow_restore" {
                std::future::pending::<()>().await;
            }
            self.loaded = load;
            return self.serve(&handler).await;
        }
        self.print("loading\n").await;
        self.loaded = load;
        match handler.split_once(' ').unwrap_or((&handler, "")) {
            ("init_error", _) => {
                self.say(kind::INIT_ERROR, &[br#"{"errorType":"Runtime.ImportModuleError","errorMessage":"no"}"#])
                    .await;
                return self.control.end(Some(1), None, false);
            }
            ("init_exit", _) => return self.control.end(Some(3), None, false),
            ("slow_init" | "slow_told", ms) => tokio::time::sleep(Duration::from_millis(ms.parse().unwrap())).await,
            _ => {}
        }
        self.serve(&handler).await;
    }

    async fn serve(mut self, handler: &str) {
        self.say(kind::READY, &[]).await;
        // What a module left to a timer ends it.
        if let Some(ms) = handler.strip_prefix("doomed ") {
            tokio::time::sleep(Duration::from_millis(ms.parse().unwrap())).await;
            return self.control.end(Some(1), None, false);
        }
        loop {
            let (kind, mut body) = self.frame().await;
            let mut frozen = self.control.frozen.subscribe();
            frozen.wait_for(|frozen| !*frozen).await.unwrap();
            assert_eq!(kind, kind::INVOKE);
            let length = body.get_u32_le() as usize;
            let meta: serde_json::Value = serde_json::from_slice(&body.split_to(length)).unwrap();
            let id = meta["requestId"].as_str().unwrap().to_owned();
            *self.seen.lock().entry(id).or_default() += 1;
            self.traces.lock().extend(meta["traceId"].as_str().map(str::to_owned));
            self.calls += 1;
            self.began = Instant::now();
            self.control.usage.lock().cpu += Duration::from_micros(700);
            if !self.act(handler, &meta, body).await {
                return;
            }
        }
    }

    /// A zygote is told what to prepare for, and then only orders of the spawner. Its imports look at one variable.
    async fn prepare(mut self) {
        let (kind, body) = self.frame().await;
        assert_eq!(kind, kind::PREPARE);
        let order: serde_json::Value = serde_json::from_slice(&body).unwrap();
        if self.snapshot {
            assert_eq!(order["snapshot"], true);
            self.print("loading for all\n").await;
            let handler = order["handler"].as_str().unwrap();
            match handler.split_once(' ').unwrap_or((handler, "")) {
                ("unfit", _) => {
                    self.say(kind::UNFIT, &[b"its init left a thread running"]).await;
                    return self.control.end(Some(1), None, false);
                }
                ("init_exit", code) => return self.control.end(Some(code.parse().unwrap_or(3)), None, false),
                ("slow_init" | "slow_told", ms) => tokio::time::sleep(Duration::from_millis(ms.parse().unwrap())).await,
                _ => {}
            }
        } else if order["handler"].is_string() {
            self.say(kind::READ, &[br#"{"variables":["COLOUR"],"modules":["others"]}"#]).await;
        }
        self.say(kind::BOOTED, &[]).await;
        std::future::pending().await
    }

    /// Answers one call; false if the guest has ended.
    async fn act(&mut self, handler: &str, meta: &serde_json::Value, event: Bytes) -> bool {
        match handler.split_once(' ').unwrap_or((handler, "")) {
            ("sleep", ms) => {
                tokio::time::sleep(Duration::from_millis(ms.parse().unwrap())).await;
                self.respond(&event).await;
            }
            ("script", ms) => self.scripted(ms, &event).await,
            ("sleep_as_told", _) => {
                let ms = std::str::from_utf8(&event).unwrap().parse().unwrap();
                tokio::time::sleep(Duration::from_millis(ms)).await;
                self.respond(&event).await;
            }
            // As one whose first call compiles.
            ("slow_first", ms) => {
                let first = if self.calls == 1 { ms.parse().unwrap() } else { 1 };
                tokio::time::sleep(Duration::from_millis(first)).await;
                self.respond(&event).await;
            }
            // As a guest that waits for a processor before it sees the event.
            ("starved", ms) => {
                tokio::time::sleep(Duration::from_millis(ms.parse().unwrap())).await;
                self.began = Instant::now() - Duration::from_micros(70);
                self.respond(&event).await;
            }
            ("print", count) => {
                for line in 0..count.parse::<usize>().unwrap() {
                    self.print(&format!("line {line}\n")).await;
                }
                self.print("unfinished").await;
                self.respond(&event).await;
            }
            ("throw", _) => {
                self.say(kind::ERROR, &[br#"{"errorType":"TypeError","errorMessage":"x","trace":[]}"#]).await;
            }
            ("throw_until", calls) => {
                let seen = self.seen.lock()[meta["requestId"].as_str().unwrap()];
                if seen <= calls.parse().unwrap() {
                    self.say(kind::ERROR, &[br#"{"errorType":"E","errorMessage":"x"}"#]).await;
                } else {
                    self.respond(&event).await;
                }
            }
            ("exit" | "die" | "oom", code) => return self.leave(handler, code).await,
            ("garbage", _) => self.channel.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap(),
            ("large", bytes) => self.respond(&vec![b'x'; bytes.parse().unwrap()]).await,
            ("twice", _) => {
                self.respond(&event).await;
                self.respond(b"\"stray\"").await;
            }
            ("meta", _) => self.respond(meta.to_string().as_bytes()).await,
            ("slow_told" | "told", _) => self.respond(self.loaded.to_string().as_bytes()).await,
            ("caches", _) => self.respond(self.caches.to_string().as_bytes()).await,
            ("stream", end) => return self.stream(end, &event).await,
            ("linger", ms) => {
                self.say(kind::LINGER, &[]).await;
                self.respond(&event).await;
                tokio::time::sleep(Duration::from_millis(ms.parse().unwrap())).await;
                self.say(kind::READY, &[]).await;
            }
            ("flood", bytes) => self.flood(bytes.parse().unwrap()).await,
            ("once", _) => {
                self.respond(&event).await;
                self.control.end(Some(0), None, false);
                return false;
            }
            _ => self.respond(&event).await,
        }
        true
    }

    /// Ends, in one way or another. A `die` of 0 only says so.
    async fn leave(&mut self, handler: &str, code: &str) -> bool {
        if handler == "oom" {
            self.control.end(None, Some(9), true);
            return false;
        }
        if handler.starts_with("die") {
            self.say(kind::INIT_ERROR, &[br#"{"errorType":"Error","errorMessage":"uncaught"}"#]).await;
        } else {
            self.print("last words").await;
        }
        if code == "0" && handler.starts_with("die") {
            std::future::pending::<()>().await;
        }
        self.control.end(Some(code.parse().unwrap()), None, false);
        false
    }

    async fn scripted(&mut self, ms: &str, event: &[u8]) {
        tokio::time::sleep(Duration::from_millis(ms.parse().unwrap_or(0))).await;
        let answer = (self.script.lock())(event);
        match answer {
            Some(answer) => self.respond(answer.as_bytes()).await,
            None => self.say(kind::ERROR, &[br#"{"errorType":"E","errorMessage":"x"}"#]).await,
        }
    }

    async fn respond(&mut self, payload: &[u8]) {
        let run_us = u32::try_from(self.began.elapsed().as_micros()).unwrap();
        self.say(kind::RESPONSE, &[&run_us.to_le_bytes(), &0u32.to_le_bytes(), payload]).await;
    }

    /// Two pieces a second apart, and then the end that is named; false if the guest has ended.
    async fn stream(&mut self, end: &str, event: &[u8]) -> bool {
        self.say(kind::BEGIN, &[b"text/x"]).await;
        self.piece(b"first ").await;
        // The test's clock moves on when nothing else can.
        tokio::time::sleep(Duration::from_secs(1)).await;
        self.piece(b"second").await;
        match end {
            "throw" => self.say(kind::ERROR, &[br#"{"errorType":"E","errorMessage":"mid"}"#]).await,
            "exit" => {
                self.control.end(Some(3), None, false);
                return false;
            }
            "whole" => self.respond(event).await,
            _ => self.say(kind::END, &[]).await,
        }
        true
    }

    async fn flood(&mut self, bytes: usize) {
        self.say(kind::BEGIN, &[]).await;
        let piece = vec![b'x'; 64 * 1024];
        for _ in 0..bytes / piece.len() {
            self.piece(&piece).await;
        }
        self.say(kind::END, &[]).await;
    }

    async fn piece(&mut self, bytes: &[u8]) {
        self.say(kind::CHUNK, &[bytes]).await;
        self.streamed.fetch_add(bytes.len() as u64, Ordering::SeqCst);
    }

    async fn say(&mut self, kind: u8, parts: &[&[u8]]) {
        // The platform may have given up on this guest.
        let _ = self.channel.write_all(&protocol::encode(kind, parts)).await;
    }

    async fn print(&mut self, text: &str) {
        let _ = self.output.write_all(text.as_bytes()).await;
    }

    async fn frame(&mut self) -> (u8, Bytes) {
        loop {
            if let Some(length) = self.buffer.first_chunk::<4>() {
                let length = u32::from_le_bytes(*length) as usize;
                if self.buffer.len() >= 4 + length {
                    self.buffer.advance(4);
                    let mut body = self.buffer.split_to(length).freeze();
                    return (body.get_u8(), body);
                }
            }
            if self.channel.read_buf(&mut self.buffer).await.unwrap_or(0) == 0 {
                std::future::pending::<()>().await;
            }
        }
    }
}

//! A program in an environment, and its runs: each in a fresh instance, dropped with everything in it when it is over.
//!
//! Invariants
//!   1. Nothing of a run is in the next: memory, globals, handles and connections are new; the folder `/tmp` stays.
//!   2. A run that is dropped is over at its next interruption, at the latest one tick later (`machine`).
//!   3. When an environment has ended, its `/tmp` is gone.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use tokio::sync::{Semaphore, SetOnce, oneshot};
use tokio_util::sync::CancellationToken;
use wasmtime::{InstancePre, PoolConcurrencyLimitError, Store, Trap, UpdateDeadline};
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi::p2::pipe::MemoryInputPipe;
use wasmtime_wasi::{FsPerms, I32Exit, WasiCtx, WasiCtxBuilder};
use wasmtime_wasi_http::WasiHttpCtx;
use wasmtime_wasi_http::WasiHttpView;
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wasmtime_wasi_http::p2::bindings::http::types::{ErrorCode, Scheme};
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;

use super::layers::Opt;
use super::machine::{LATER_TICKS, Machine};
use super::objects::{Objects, Place};
use super::outside::{CONNECTIONS_MAX, Hooks};
use super::quota::Quota;
use super::state::{Answer, CALL_BYTES_MAX, Gauge, HANDLES_MAX, Limits, Log, RANDOM_BYTES_MAX, State};
use super::tables::Tables;
use super::told::Told;
use crate::contract::{Assignment, Control, Error, Exit, Held, Usage};
use crate::program::{CallKeys, Program, ProgramKind, ProgramSpec, Reply, RunEnd};

/// Most bytes that are said of what went wrong.
const WORDS_MAX: usize = 4_096;

/// A program as it is started from.
pub(super) enum Pre {
    Http(ProxyPre<State>),
    Command(CommandPre<State>),
    Module(InstancePre<State>),
}

/// A program that is loaded; shared by all its environments.
pub(super) struct Loaded {
    pub(super) pre: Pre,
    /// Whether it can see folders.
    pub(super) sees_files: bool,
}

/// Where an environment's folders are.
pub(super) struct Folders {
    pub(super) task: PathBuf,
    /// Its layers, if it has any.
    pub(super) opt: Option<Arc<Opt>>,
    /// Its own, if it has one.
    pub(super) tmp: Option<PathBuf>,
}

/// One environment of a program.
pub(super) struct Environment {
    id: u64,
    machine: Arc<Machine>,
    loaded: Arc<Loaded>,
    spec: Arc<ProgramSpec>,
    /// What calls of the platform's services are signed with, if there is such.
    keys: Option<Arc<CallKeys>>,
    /// Where its objects are, or why that is not known.
    place: Arc<Result<Place, String>>,
    folders: Folders,
    quota: Quota,
    gauge: Arc<Gauge>,
    killed: CancellationToken,
    gone: Arc<SetOnce<()>>,
}

impl std::fmt::Debug for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Environment").field("id", &self.id).finish_non_exhaustive()
    }
}

static NEXT: AtomicU64 = AtomicU64::new(1);

impl Environment {
    /// A new one, in which nothing has run.
    pub(super) fn new(machine: Arc<Machine>, loaded: Arc<Loaded>, spec: ProgramSpec, folders: Folders) -> Arc<Self> {
        let quota = Quota::new(folders.tmp.clone(), spec.tmp_bytes);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let (gauge, killed, gone) = (Arc::default(), CancellationToken::new(), Arc::default());
        let keys = CallKeys::of(&spec.environment).map(Arc::new);
        let place = Place::of(&spec.environment, keys.as_ref().map_or("us-east-1", |keys| &keys.region));
        let place = Arc::new(place);
        Arc::new(Self { id, machine, loaded, spec: Arc::new(spec), keys, place, folders, quota, gauge, killed, gone })
    }

    fn store(&self, wasi: &mut WasiCtxBuilder, told: Told) -> Result<Store<State>, RunEnd> {
        if self.loaded.sees_files {
            self.open_folders(wasi).map_err(|error| RunEnd::Broken(format!("its folders: {error}")))?;
        }
        self.gauge.begin();
        let mut wasi = wasi.build_p1();
        wasmtime_wasi::WasiView::ctx(&mut wasi).table.set_max_capacity(HANDLES_MAX);
        let (outside, room) = (&self.spec.outside, Arc::new(Semaphore::new(CONNECTIONS_MAX)));
        let state = State {
            wasi,
            told,
            http: WasiHttpCtx::new(),
            hooks: Hooks::new(outside.clone(), room.clone()),
            tables: Tables::new(outside.clone(), self.keys.clone()),
            objects: Objects::new(outside.clone(), self.keys.clone(), self.place.clone(), room),
            limits: Limits { gauge: self.gauge.clone(), memory_bytes: self.spec.memory_bytes },
            quota: self.quota.clone(),
        };
        let mut store = Store::new(&self.machine.engine, state);
        store.limiter(|state| &mut state.limits);
        store.set_hostcall_fuel(CALL_BYTES_MAX);
        store.set_epoch_deadline(1);
        let gauge = self.gauge.clone();
        store.epoch_deadline_callback(move |_| {
            gauge.interrupted.store(true, Ordering::Relaxed);
            Ok(UpdateDeadline::Yield(LATER_TICKS))
        });
        Ok(store)
    }

    fn open_folders(&self, wasi: &mut WasiCtxBuilder) -> wasmtime::Result<()> {
        let Folders { task, opt, tmp } = &self.folders;
        wasi.preopened_dir(task, "/var/task", FsPerms::ReadOnly)?;
        if let Some(opt) = opt {
            wasi.preopened_dir(opt.path(), "/opt", FsPerms::ReadOnly)?;
        }
        if let Some(tmp) = tmp {
            wasi.preopened_dir(tmp, "/tmp", FsPerms::ReadWrite)?;
        }
        Ok(())
    }

    fn wasi(&self, told: &Told) -> WasiCtxBuilder {
        let mut wasi = WasiCtx::builder();
        // Components ask for what they are told (`told`); a module's functions read it here.
        if let Pre::Module(_) = self.loaded.pre {
            for (name, value) in told.variables() {
                wasi.env(name, value);
            }
            for argument in told.arguments() {
                wasi.arg(argument);
            }
        }
        // Neither sockets nor names: what is outside is reached by HTTP alone, through `Outside`.
        wasi.allow_tcp(false).allow_udp(false).max_random_size(RANDOM_BYTES_MAX).stderr(Log(self.spec.lines.clone()));
        wasi
    }

    /// Drives a run, and says how it ended.
    async fn drive(
        &self,
        run: impl Future<Output = (wasmtime::Result<()>, Option<String>)> + Send + 'static,
    ) -> RunEnd {
        let driven = self.machine.drive(&self.gauge, self.spec.memory_bytes, run);
        let ended = self.killed.run_until_cancelled(driven).await;
        self.gauge.held_bytes.store(0, Ordering::Relaxed);
        match ended {
            None => RunEnd::Killed,
            Some((Err(error), _)) => self.end_of(&error),
            Some((Ok(()), Some(broken))) => RunEnd::Broken(broken),
            Some((Ok(()), None)) => RunEnd::Done,
        }
    }

    fn end_of(&self, error: &wasmtime::Error) -> RunEnd {
        if self.gauge.out_of_memory.load(Ordering::Relaxed) {
            return RunEnd::OutOfMemory;
        }
        if let Some(I32Exit(code)) = error.downcast_ref::<I32Exit>() {
            return if *code == 0 { RunEnd::Done } else { RunEnd::Exited(*code) };
        }
        if error.downcast_ref::<PoolConcurrencyLimitError>().is_some() {
            return RunEnd::NoRoom;
        }
        let mut words = format!("{error:?}");
        words.truncate(words.floor_char_boundary(WORDS_MAX));
        self.spec.lines.write(words.as_bytes());
        self.spec.lines.write(b"\n");
        match error.downcast_ref::<Trap>() {
            Some(trap) => RunEnd::Trapped(trap.to_string()),
            None => RunEnd::Trapped(error.root_cause().to_string()),
        }
    }
}

type Answering = oneshot::Receiver<Result<http::Response<HyperOutgoingBody>, ErrorCode>>;

/// Hands an answer on while the program that makes it runs.
async fn hand_on(answering: Answering, reply: &mut dyn Reply) -> Result<(), String> {
    let response = match answering.await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => return Err(format!("it answered with the error {error:?}")),
        Err(_) => return Err("it came to its end without an answer".to_owned()),
    };
    let (head, mut body) = response.into_parts();
    reply.head(head).await;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| format!("its answer broke off: {error}"))?;
        // Trailers are nothing that an answer of a function can have.
        if let Ok(piece) = frame.into_data() {
            reply.piece(piece).await;
        }
    }
    Ok(())
}

#[async_trait]
impl Program for Environment {
    fn kind(&self) -> ProgramKind {
        match self.loaded.pre {
            Pre::Http(_) => ProgramKind::Http,
            Pre::Command(_) | Pre::Module(_) => ProgramKind::Command,
        }
    }

    async fn request(
        &self,
        variables: Vec<(String, String)>,
        request: http::Request<Bytes>,
        mut reply: Box<dyn Reply>,
    ) -> RunEnd {
        let Pre::Http(pre) = &self.loaded.pre else {
            return RunEnd::Broken("it takes no HTTP requests".to_owned());
        };
        let told = Told { spec: self.spec.clone(), variables };
        let mut store = match self.store(self.wasi(&told).stdout(Log(self.spec.lines.clone())), told) {
            Ok(store) => store,
            Err(end) => return end,
        };
        let pre = pre.clone();
        let (answer, answering) = oneshot::channel();
        let run = async move {
            // The store goes when the run is over, and its end of the answer with it: who reads that waits for no more.
            let run = async move {
                let request = store.data_mut().http().new_incoming_request(Scheme::Https, request.map(Full::new))?;
                let answer = store.data_mut().http().new_response_outparam(answer)?;
                let proxy = pre.instantiate_async(&mut store).await?;
                proxy.wasi_http_incoming_handler().call_handle(&mut store, request, answer).await
            };
            let (ran, said) = tokio::join!(run, hand_on(answering, &mut *reply));
            (ran, said.err())
        };
        self.drive(run).await
    }

    async fn command(&self, variables: Vec<(String, String)>, input: Bytes, mut reply: Box<dyn Reply>) -> RunEnd {
        let answer = Answer::default();
        let told = Told { spec: self.spec.clone(), variables };
        let mut wasi = self.wasi(&told);
        let mut store = match self.store(wasi.stdin(MemoryInputPipe::new(input)).stdout(answer.clone()), told) {
            Ok(store) => store,
            Err(end) => return end,
        };
        let loaded = self.loaded.clone();
        let run = async move {
            let run = async {
                match &loaded.pre {
                    Pre::Command(pre) => {
                        let command = pre.instantiate_async(&mut store).await?;
                        match command.wasi_cli_run().call_run(&mut store).await? {
                            Ok(()) => Ok(()),
                            Err(()) => Err(I32Exit(1).into()),
                        }
                    }
                    Pre::Module(pre) => {
                        let instance = pre.instantiate_async(&mut store).await?;
                        let start = instance.get_typed_func::<(), ()>(&mut store, "_start")?;
                        start.call_async(&mut store, ()).await
                    }
                    Pre::Http(_) => Err(wasmtime::Error::msg("it is no command")),
                }
            };
            tokio::pin!(run);
            let ran = loop {
                tokio::select! {
                    biased;
                    ran = &mut run => break ran,
                    () = answer.written() => {
                        while let Some(piece) = answer.take() {
                            reply.piece(piece).await;
                        }
                    }
                }
            };
            while let Some(piece) = answer.take() {
                reply.piece(piece).await;
            }
            (ran, None)
        };
        self.drive(run).await
    }
}

#[async_trait]
impl Control for Environment {
    fn id(&self) -> u64 {
        self.id
    }

    async fn assign(&self, _assignment: &Assignment) -> Result<(), Error> {
        Err(Error::Host("a program has what it was opened with".to_owned()))
    }

    fn kill(&self) {
        if self.killed.is_cancelled() {
            return;
        }
        self.killed.cancel();
        let (tmp, gone) = (self.folders.tmp.clone(), self.gone.clone());
        let remove = move || {
            remove(tmp.as_deref(), "/tmp");
            let _ = gone.set(());
        };
        if self.folders.tmp.is_none() {
            return remove();
        }
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }

    fn freeze(&self) -> Box<dyn FnOnce() + Send> {
        // Between two runs there is nothing that could run.
        Box::new(|| {})
    }

    fn thaw(&self) {}

    async fn wait(&self) -> Exit {
        self.gone.wait().await;
        Exit { code: None, signal: Some(libc::SIGKILL), out_of_memory: false, usage: self.usage() }
    }

    fn settle(&self) {}

    fn usage(&self) -> Usage {
        Usage {
            cpu: Duration::from_nanos(self.gauge.cpu_ns.load(Ordering::Relaxed)),
            memory_peak_bytes: self.gauge.peak_bytes.load(Ordering::Relaxed),
        }
    }

    fn held(&self) -> Held {
        Held { memory_bytes: self.gauge.held_bytes.load(Ordering::Relaxed), tasks: 1 }
    }
}

impl Drop for Environment {
    fn drop(&mut self) {
        if !self.killed.is_cancelled() {
            remove(self.folders.tmp.as_deref(), "/tmp");
        }
    }
}

/// Removes a folder that programs knew as `name`.
pub(super) fn remove(folder: Option<&Path>, name: &str) {
    if let Some(folder) = folder
        && let Err(error) = std::fs::remove_dir_all(folder)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(%error, name, "a folder of a program could not be removed; it goes when the server starts");
    }
}

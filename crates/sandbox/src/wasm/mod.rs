//! Programs of WebAssembly: components and modules on one engine in the server's own process, a fresh instance for each run.
//!
//! | file        | is                                                                       |
//! |-------------|--------------------------------------------------------------------------|
//! | `compiler`  | turns a package's program into machine code, in a process sandbox        |
//! | `artefacts` | keeps that on the disk, sealed                                           |
//! | `machine`   | the engine: settings, imports, clock, threads of runs that take longer   |
//! | `run`       | one environment, and its runs                                            |
//! | `state`     | what a run has and may use                                               |
//! | `told`      | variables and arguments of components                                    |
//! | `quota`     | the size of `/tmp`                                                       |
//! | `layers`    | `/opt`: several layers in one folder                                     |
//! | `outside`   | requests that a program makes                                            |
//! | `keyvalue`  | the interfaces of `wasi:keyvalue`; `pairs` has what they do               |
//! | `tables`    | calls of the platform's tables, where pairs are                           |
//! | `blobstore` | the interfaces of `wasi:blobstore`                                        |
//! | `objects`   | calls of S3, where a container is a bucket                                |
//! | `upload`    | an object that a program writes                                           |
//! | `line`      | a connection to a service                                                 |
//!
//! What keeps a program in: it can name nothing but its own memory and what it imports; every access is within its
//! memory or a trap; its folders are opened beneath descriptors, and paths and links that lead out of them are refused;
//! it has no socket; time, memory, handles and bytes per call are bounded. A program that is only deployed is a
//! file; it is loaded with its first environment and unloaded with its last.
//!
//! Invariants
//!   1. Code that strangers wrote is compiled in a sandbox, and never in this process.
//!   2. Only what this server's own compiler made is loaded (`artefacts`).
//!   3. No two runs share an instance, whoever they are for.
//!
//! Start reading at `Wasm`.
#![allow(unsafe_code)]

mod artefacts;
mod blobstore;
mod compiler;
mod keyvalue;
mod layers;
mod line;
mod machine;
mod objects;
mod outside;
mod pairs;
mod quota;
mod run;
mod state;
mod tables;
#[cfg(test)]
mod tests;
mod told;
mod upload;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, Weak};

use async_trait::async_trait;
use model::CodeDigest;
use parking_lot::Mutex;
use tokio::sync::OnceCell;
use wasmtime::component::Component;
use wasmtime::component::types::ComponentItem;
use wasmtime::{Engine, ExternType, Module, Precompiled};
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi_http::p2::bindings::ProxyPre;

use crate::contract::{Backend, Error, SandboxSpec, Started, Wall};
use crate::program::{Opened, ProgramSpec};
use artefacts::Artefacts;
use layers::Layers;
use machine::Machine;
use run::{Environment, Folders, Loaded, Pre};

pub use compiler::compiler_main;

/// A file above this size is loaded off the threads that serve others.
const SMALL_BYTES: u64 = 4 << 20;
/// Packages of WASI that are there.
const SERVED: &[&str] =
    &["wasi:cli/", "wasi:clocks/", "wasi:filesystem/", "wasi:http/", "wasi:io/", "wasi:random/", "wasi:sockets/"];

/// Where things are.
#[derive(Debug, Clone)]
pub struct WasmConfig {
    /// The folder of unpacked packages.
    pub code_root: PathBuf,
    /// The folder of what is compiled, and of programs' `/tmp`; nobody else's.
    pub folder: PathBuf,
    /// Whether processor time ends at the share of a program's memory.
    pub cpu_quota: bool,
}

/// Sandboxes of every kind: processes as `inner` makes them, and programs.
pub struct Wasm {
    inner: Arc<dyn Backend>,
    config: WasmConfig,
    /// Made with the first program: who has none pays for none.
    engine: OnceLock<Result<Arc<Parts>, String>>,
    compiled: Mutex<HashMap<CodeDigest, Flight>>,
    /// Held by the one that is compiled.
    compiling: tokio::sync::Mutex<()>,
    loaded: Mutex<HashMap<CodeDigest, Weak<Loaded>>>,
    next_tmp: std::sync::atomic::AtomicU64,
    layers: Layers,
}

/// Filled with what came of compiling a package: nothing, or why it cannot be run.
type Flight = Arc<OnceCell<Result<(), String>>>;

struct Parts {
    machine: Arc<Machine>,
    artefacts: Arc<Artefacts>,
}

impl Wasm {
    /// Programs beside what `inner` makes.
    ///
    /// # Errors
    /// The folder cannot be made, or cleaned of what an earlier process has left.
    pub fn new(inner: Arc<dyn Backend>, config: WasmConfig) -> io::Result<Self> {
        let tmp = tmp_root(&config.folder);
        match fs::remove_dir_all(&tmp) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let layers = Layers::open(config.code_root.clone(), config.folder.join("opt"))?;
        Ok(Self {
            layers,
            inner,
            config,
            engine: OnceLock::new(),
            compiled: Mutex::default(),
            compiling: tokio::sync::Mutex::default(),
            loaded: Mutex::default(),
            next_tmp: std::sync::atomic::AtomicU64::new(0),
        })
    }

    fn parts(&self) -> Result<Arc<Parts>, Error> {
        let made = self.engine.get_or_init(|| {
            let machine = Machine::new(self.config.cpu_quota).map_err(|error| format!("{error:#}"))?;
            let folder = self.config.folder.join("code");
            let artefacts = Artefacts::open(folder, &machine.engine).map_err(|error| error.to_string())?;
            fs::create_dir_all(tmp_root(&self.config.folder)).map_err(|error| error.to_string())?;
            Ok(Arc::new(Parts { machine: Arc::new(machine), artefacts: Arc::new(artefacts) }))
        });
        made.clone().map_err(|error| Error::Host(format!("there is no engine for WebAssembly: {error}")))
    }

    /// The program of a package, loaded; compiled first where that was not done.
    async fn loaded(&self, parts: &Parts, code: &CodeDigest) -> Result<Arc<Loaded>, Error> {
        if let Some(loaded) = self.loaded.lock().get(code).and_then(Weak::upgrade) {
            return Ok(loaded);
        }
        let loaded = match self.load(parts, code).await? {
            Some(loaded) => loaded,
            None => {
                // Gone since it was compiled, or not as it was written.
                self.compiled.lock().remove(code);
                self.compiled_once(parts, code).await?;
                let again = self.load(parts, code).await?;
                again.ok_or_else(|| Error::Host("a program is gone as soon as it is compiled".to_owned()))?
            }
        };
        let loaded = Arc::new(loaded);
        let mut all = self.loaded.lock();
        all.retain(|_, held| held.strong_count() > 0);
        all.insert(code.clone(), Arc::downgrade(&loaded));
        Ok(loaded)
    }

    async fn load(&self, parts: &Parts, code: &CodeDigest) -> Result<Option<Loaded>, Error> {
        if let Some((path, bytes)) = parts.artefacts.known(code)
            && bytes <= SMALL_BYTES
        {
            return load(&parts.machine, &path).map(Some);
        }
        let (artefacts, machine, code) = (parts.artefacts.clone(), parts.machine.clone(), code.clone());
        let work = tokio::task::spawn_blocking(move || {
            let path = match artefacts.known(&code) {
                Some((path, _)) => Some(path),
                None => artefacts.verified(&code).map_err(host)?,
            };
            path.map(|path| load(&machine, &path)).transpose()
        });
        work.await.map_err(host)?
    }

    async fn compiled_once(&self, parts: &Parts, code: &CodeDigest) -> Result<(), Error> {
        let flight = self.compiled.lock().entry(code.clone()).or_default().clone();
        let made = flight.get_or_try_init(|| async {
            let known = parts.artefacts.known(code).is_some();
            let kept = known || {
                let (artefacts, code) = (parts.artefacts.clone(), code.clone());
                let verified = tokio::task::spawn_blocking(move || artefacts.verified(&code)).await.map_err(host)?;
                verified.map_err(host)?.is_some()
            };
            if !kept {
                let _one = self.compiling.lock().await;
                match compiler::compile(&*self.inner, &parts.artefacts, code).await {
                    Ok(()) => {}
                    // What is wrong with the program stays so; what is wrong with the host may pass.
                    Err(Error::Unfit(reason)) => return Ok(Err(reason)),
                    Err(error) => return Err(error),
                }
            }
            match self.load(parts, code).await {
                Ok(Some(_)) => Ok(Ok(())),
                Ok(None) => Err(Error::Host("a program is gone as soon as it is compiled".to_owned())),
                Err(Error::Unfit(reason)) => Ok(Err(reason)),
                Err(error) => Err(error),
            }
        });
        made.await?.clone().map_err(Error::Unfit)
    }

    async fn folders(&self, loaded: &Loaded, spec: &ProgramSpec) -> Result<Folders, Error> {
        let task = self.config.code_root.join(spec.code.as_str());
        let opt = if loaded.sees_files { self.layers.opt(&spec.layers).await? } else { None };
        let tmp = loaded.sees_files.then(|| {
            let number = self.next_tmp.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            tmp_root(&self.config.folder).join(number.to_string())
        });
        if let Some(tmp) = &tmp {
            fs::create_dir(tmp).map_err(host)?;
        }
        Ok(Folders { task, opt, tmp })
    }
}

fn tmp_root(folder: &Path) -> PathBuf {
    folder.join("tmp")
}

fn host(error: impl std::fmt::Display) -> Error {
    Error::Host(format!("a program: {error}"))
}

/// Loads a file that was verified.
fn load(machine: &Machine, path: &Path) -> Result<Loaded, Error> {
    let form = Engine::detect_precompiled_file(path).map_err(host)?;
    match form {
        Some(Precompiled::Component) => {
            // SAFETY: the file was made by this server's compiler for this engine and is as it was written, by its seal;
            // it lies in a folder of mode 0700 whose files are only ever replaced, never written to again.
            let component = unsafe { Component::deserialize_file(&machine.engine, path) }.map_err(host)?;
            of_component(machine, &component)
        }
        Some(Precompiled::Module) => {
            // SAFETY: as above.
            let module = unsafe { Module::deserialize_file(&machine.engine, path) }.map_err(host)?;
            of_module(machine, &module)
        }
        None => Err(host("what was compiled is no code")),
    }
}

fn of_component(machine: &Machine, component: &Component) -> Result<Loaded, Error> {
    let about = component.component_type();
    let imports: Vec<String> = about.imports(&machine.engine).map(|(name, _)| name.to_owned()).collect();
    let strange: Vec<&str> = imports.iter().map(String::as_str).filter(|name| !is_served(name)).collect();
    if !strange.is_empty() {
        return Err(Error::Unfit(format!(
            "it imports what this platform does not have: {}. There are the interfaces of wasi:cli, clocks, filesystem, \
             http, io, random and sockets (without access to any) of WASI 0.2, wasi:keyvalue (store, atomics and batch) \
             of 0.2.0-draft and 0.2.0-draft2, and wasi:blobstore of 0.2.0-draft",
            strange.join(", ")
        )));
    }
    let exports = |wanted: &str| {
        about
            .exports(&machine.engine)
            .any(|(name, item)| name.starts_with(wanted) && matches!(item.ty, ComponentItem::ComponentInstance(_)))
    };
    let unfit = |error: wasmtime::Error| Error::Unfit(format!("{error:#}"));
    let sees_files = imports.iter().any(|name| name.starts_with("wasi:filesystem/preopens"));
    let (http, run) = (exports("wasi:http/incoming-handler@0.2"), exports("wasi:cli/run@0.2"));
    if !http && !run {
        return Err(Error::Unfit(
            "it exports neither wasi:http/incoming-handler nor wasi:cli/run (of WASI 0.2)".to_owned(),
        ));
    }
    let pre = machine.components.instantiate_pre(component).map_err(unfit)?;
    let pre = if http {
        Pre::Http(ProxyPre::new(pre).map_err(unfit)?)
    } else {
        Pre::Command(CommandPre::new(pre).map_err(unfit)?)
    };
    Ok(Loaded { pre, sees_files })
}

/// Whether an import is of a package that is there, in a version that is.
fn is_served(name: &str) -> bool {
    let of_wasi = || {
        SERVED.iter().any(|package| name.starts_with(package))
            && name.split_once('@').is_none_or(|(_, version)| version.starts_with("0.2."))
    };
    keyvalue::is_served(name) || blobstore::is_served(name) || of_wasi()
}

fn of_module(machine: &Machine, module: &Module) -> Result<Loaded, Error> {
    let strange: Vec<String> = module
        .imports()
        .filter(|import| import.module() != "wasi_snapshot_preview1")
        .map(|import| format!("{}.{}", import.module(), import.name()))
        .collect();
    if !strange.is_empty() {
        return Err(Error::Unfit(format!(
            "it imports what this platform does not have: {}. Modules can import wasi_snapshot_preview1",
            strange.join(", ")
        )));
    }
    let starts = module.get_export("_start").is_some_and(|start| match start {
        ExternType::Func(start) => start.params().len() == 0 && start.results().len() == 0,
        _ => false,
    });
    if !starts {
        return Err(Error::Unfit("it is a module without a function _start, hence no command".to_owned()));
    }
    let sees_files = module.imports().any(|import| import.name().starts_with("fd_prestat"));
    let pre = machine.modules.instantiate_pre(module).map_err(|error| Error::Unfit(format!("{error:#}")))?;
    Ok(Loaded { pre: Pre::Module(pre), sees_files })
}

#[async_trait]
impl Backend for Wasm {
    async fn start(&self, spec: SandboxSpec) -> Result<Started, Error> {
        self.inner.start(spec).await
    }

    async fn compile(&self, code: &CodeDigest) -> Result<(), Error> {
        let parts = self.parts()?;
        self.compiled_once(&parts, code).await
    }

    async fn open(&self, spec: ProgramSpec) -> Result<Opened, Error> {
        let parts = self.parts()?;
        let loaded = self.loaded(&parts, &spec.code).await?;
        let folders = self.folders(&loaded, &spec).await?;
        let environment = Environment::new(parts.machine.clone(), loaded, spec, folders);
        Ok(Opened { program: environment.clone(), control: environment })
    }

    fn forget(&self, code: &CodeDigest) {
        self.compiled.lock().remove(code);
        if let Some(Ok(parts)) = self.engine.get() {
            parts.artefacts.forget(code);
        }
    }

    fn walls(&self) -> Vec<Wall> {
        self.inner.walls()
    }

    fn freezes(&self) -> bool {
        self.inner.freezes()
    }
}

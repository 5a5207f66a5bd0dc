//! The compiler of programs: a guest like others, whose result the server takes.

use std::fs;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use sandbox::process::{ProcessBackend, launch_spawner};
use sandbox::program::{Lines, Nowhere, PROGRAM_FILE, ProgramSpec, Reply, RunEnd};
use sandbox::wasm::{Wasm, WasmConfig};
use sandbox::{Backend, Error};

use super::Check;
use super::world::{World, expect};

pub const CHECKS: &[(&str, Check)] = &[
    ("a program is compiled in a sandbox, and what is made of it runs", compiled),
    ("what is no program is refused by the compiler, and it lives", refused),
];

/// Writes "ok" to its standard output.
const PROGRAM: &str = r#"(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 16) "ok")
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 16)) (i32.store (i32.const 4) (i32.const 2))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#;

struct Unheard;

#[async_trait]
impl Lines for Unheard {
    fn write(&self, _: &[u8]) {}

    fn has_room(&self) -> bool {
        true
    }

    async fn make_room(&self) {}
}

#[derive(Clone, Default)]
struct Got(Arc<Mutex<Vec<u8>>>);

#[async_trait]
impl Reply for Got {
    async fn head(&mut self, _: http::response::Parts) {}

    async fn piece(&mut self, bytes: Bytes) {
        self.0.lock().extend_from_slice(&bytes);
    }
}

/// Calls `body` with programs over a spawner of their own.
fn with_programs<T>(world: &World, name: &str, body: impl AsyncFnOnce(&Wasm) -> T) -> T {
    let handle = launch_spawner(&world.config(&[])).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let backend = Arc::new(ProcessBackend::new(handle).unwrap());
        let (code_root, folder) = (world.path("code"), world.path(name));
        let wasm = Wasm::new(backend, WasmConfig { code_root, folder, cpu_quota: false }).unwrap();
        body(&wasm).await
    })
}

fn compiled(world: &World) -> Result<(), String> {
    let code = world.add_code('c', PROGRAM_FILE, "");
    fs::write(world.code_folder(&code).join(PROGRAM_FILE), wat::parse_str(PROGRAM).unwrap()).unwrap();
    with_programs(world, "wasm-compiled", async |wasm| {
        wasm.compile(&code).await.map_err(|error| error.to_string())?;
        let spec = ProgramSpec {
            code,
            layers: Vec::new(),
            memory_bytes: 64 << 20,
            tmp_bytes: 1 << 20,
            environment: Vec::new(),
            arguments: Vec::new(),
            lines: Arc::new(Unheard),
            outside: Arc::new(Nowhere),
        };
        let opened = wasm.open(spec).await.map_err(|error| error.to_string())?;
        let got = Got::default();
        let end = opened.program.command(Vec::new(), Bytes::new(), Box::new(got.clone())).await;
        expect("its end", end, RunEnd::Done)?;
        expect("its answer", got.0.lock().clone(), b"ok".to_vec())
    })
}

fn refused(world: &World) -> Result<(), String> {
    let code = world.add_code('d', PROGRAM_FILE, "#!/bin/sh\n");
    let link = world.add_code('e', "other", "");
    std::os::unix::fs::symlink("/etc/passwd", world.code_folder(&link).join(PROGRAM_FILE)).unwrap();
    with_programs(world, "wasm-refused", async |wasm| {
        for (code, words) in [(&code, "magic number"), (&link, "magic number")] {
            match wasm.compile(code).await {
                Err(Error::Unfit(reason)) if reason.contains(words) => {}
                other => return Err(format!("{other:?}")),
            }
        }
        Ok(())
    })
}

//! What one run has: its WASI context, its limits, and the streams of its output.
//!
//! Invariants
//!   1. A run's memories and tables together stay within the limit; what would go beyond ends it.
//!   2. What the host keeps for a run has bounds of its own: handles, header fields, bytes that one call hands over.
//!   3. Nothing of the server's is in a context: no variable, argument, descriptor or address.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::AsyncWrite;
use wasmtime::ResourceLimiter;
use wasmtime::component::{LinkerInstance, Resource, ResourceType};
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError, StreamResult};
use wasmtime_wasi::{WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use super::objects::Objects;
use super::outside::Hooks;
use super::quota::Quota;
use super::tables::Tables;
use super::told::Told;
use crate::program::Lines;

/// Most handles of one run: streams, files, requests, headers, what it waits for.
pub(super) const HANDLES_MAX: usize = 10_000;
/// Bytes that one call of the host takes from a program at most, all its arguments together.
pub(super) const CALL_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Most random bytes of one call.
pub(super) const RANDOM_BYTES_MAX: u64 = 1024 * 1024;
/// What an element of a table takes.
const ELEMENT_BYTES: usize = 16;
/// Bytes that a stream takes at once.
const WRITE_BYTES: usize = 64 * 1024;

/// What an environment has used, and what becomes of its present run.
#[derive(Debug, Default)]
pub(super) struct Gauge {
    /// Nanoseconds of all runs.
    pub(super) cpu_ns: AtomicU64,
    /// Most bytes of memory of any run.
    pub(super) peak_bytes: AtomicU64,
    /// Bytes of memory of the present run.
    pub(super) held_bytes: AtomicU64,
    /// Whether the present run was interrupted.
    pub(super) interrupted: AtomicBool,
    /// Whether the present run wanted more memory than it may have.
    pub(super) out_of_memory: AtomicBool,
}

impl Gauge {
    /// Nothing is known of the run that begins.
    pub(super) fn begin(&self) {
        self.held_bytes.store(0, Ordering::Relaxed);
        self.interrupted.store(false, Ordering::Relaxed);
        self.out_of_memory.store(false, Ordering::Relaxed);
    }
}

/// The memory was over.
#[derive(Debug, thiserror::Error)]
#[error("out of memory")]
pub(super) struct OutOfMemory;

/// What a run may use.
pub(super) struct Limits {
    pub(super) gauge: Arc<Gauge>,
    pub(super) memory_bytes: u64,
}

impl Limits {
    fn grow(&self, bytes: u64) -> wasmtime::Result<bool> {
        let held = self.gauge.held_bytes.load(Ordering::Relaxed).saturating_add(bytes);
        if held > self.memory_bytes {
            // A process that goes beyond is ended as well; an allocation that fails is seldom handled.
            self.gauge.out_of_memory.store(true, Ordering::Relaxed);
            return Err(OutOfMemory.into());
        }
        self.gauge.held_bytes.store(held, Ordering::Relaxed);
        self.gauge.peak_bytes.fetch_max(held, Ordering::Relaxed);
        Ok(true)
    }
}

impl ResourceLimiter for Limits {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        self.grow(desired.saturating_sub(current) as u64)
    }

    fn table_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        self.grow((desired.saturating_sub(current) * ELEMENT_BYTES) as u64)
    }
}

/// Everything of one run.
pub(super) struct State {
    pub(super) wasi: WasiP1Ctx,
    pub(super) told: Told,
    pub(super) http: WasiHttpCtx,
    pub(super) hooks: Hooks,
    pub(super) tables: Tables,
    pub(super) objects: Objects,
    pub(super) limits: Limits,
    pub(super) quota: Quota,
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.wasi.ctx()
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { hooks: &mut self.hooks, table: self.wasi.ctx().table, ctx: &mut self.http }
    }
}

/// Defines a resource whose values are in a run's table, and go with their handles.
pub(super) fn define_resource<T: Send + 'static>(
    interface: &mut LinkerInstance<'_, State>,
    name: &str,
) -> wasmtime::Result<()> {
    interface.resource(name, ResourceType::host::<T>(), |mut store, handle| {
        store.data_mut().ctx().table.delete(Resource::<T>::new_own(handle))?;
        Ok(())
    })
}

/// An output that goes into the log.
#[derive(Clone)]
pub(super) struct Log(pub(super) Arc<dyn Lines>);

impl IsTerminal for Log {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Log {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        // Of the interfaces of WASI 0.3 alone, which nothing here links.
        Box::new(tokio::io::sink())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Log {
    async fn ready(&mut self) {
        if !self.0.has_room() {
            self.0.make_room().await;
        }
    }
}

#[wasmtime_wasi::async_trait]
impl OutputStream for Log {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.0.write(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(if self.0.has_room() { WRITE_BYTES } else { 0 })
    }
}

/// What a command writes, on its way to who gets the answer: at most one piece waits.
#[derive(Clone, Default)]
pub(super) struct Answer(Arc<Mutex<Pieces>>);

#[derive(Default)]
struct Pieces {
    waiting: Vec<u8>,
    /// Woken when there is room again.
    writer: Arc<tokio::sync::Notify>,
    /// Woken when there is something.
    reader: Arc<tokio::sync::Notify>,
}

impl Answer {
    /// What was written; nothing if that is nothing.
    pub(super) fn take(&self) -> Option<Bytes> {
        let mut pieces = self.0.lock();
        pieces.writer.notify_one();
        let waiting = std::mem::take(&mut pieces.waiting);
        (!waiting.is_empty()).then(|| waiting.into())
    }

    /// Waits until something was written.
    pub(super) async fn written(&self) {
        let reader = self.0.lock().reader.clone();
        reader.notified().await;
    }
}

impl IsTerminal for Answer {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Answer {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(tokio::io::sink())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Answer {
    async fn ready(&mut self) {
        loop {
            let writer = {
                let pieces = self.0.lock();
                if pieces.waiting.len() < WRITE_BYTES {
                    return;
                }
                pieces.writer.clone()
            };
            writer.notified().await;
        }
    }
}

#[wasmtime_wasi::async_trait]
impl OutputStream for Answer {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        let mut pieces = self.0.lock();
        if pieces.waiting.len() >= WRITE_BYTES {
            return Err(StreamError::trap("more was written than there was room for"));
        }
        pieces.waiting.extend_from_slice(&bytes);
        pieces.reader.notify_one();
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_BYTES.saturating_sub(self.0.lock().waiting.len()))
    }
}

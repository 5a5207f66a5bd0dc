//! The size of `/tmp`: no write goes through that could make the folder larger than it may be.
//!
//! Each write is charged for the most blocks that it could take; where the charges are used up, the folder is measured and
//! they begin anew from what it really holds. So the limit is never passed, and a write fails at most a sixty-fourth
//! below it. To measure is work for the host that a program can cause: it is done seldom, and off the server's threads.
//!
//! The functions of WASI that can make a folder grow are put before those of the same name: of preview 1 in the linker of
//! modules, of 0.2 in that of components.
//!
//! Invariant: whatever makes a file longer or makes one is charged first.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use wasmtime::component::{Linker as ComponentLinker, LinkerInstance, Resource};
use wasmtime::{Caller, Extern, Linker, StoreContextMut};
use wasmtime_wasi::filesystem::{Descriptor, WasiFilesystemView};
use wasmtime_wasi::p1::wasi_snapshot_preview1 as preview1;
use wasmtime_wasi::p2::bindings::filesystem::types::{
    DescriptorFlags, ErrorCode, Host as _, HostDescriptor, OpenFlags, PathFlags,
};
use wasmtime_wasi::p2::{DynOutputStream, FsResult, OutputStream, Pollable, StreamError, StreamResult};
use wiggle::GuestMemory;

use super::state::State;

const PREVIEW1: &str = "wasi_snapshot_preview1";
const FILES: &str = "wasi:filesystem/types@0.2.12";
/// What a write takes beside its bytes at most: parts of two blocks. And what a file, folder or link takes.
const ASIDE: u64 = 8 * 1024;
/// `ENOSPC` and `ENOTSUP` of preview 1.
const NO_SPACE: i32 = 51;
const NOT_SUPPORTED: i32 = 58;
/// `O_CREAT` of preview 1.
const CREATE: i32 = 1;
/// How often a folder that is full is measured at most.
const MEASURED_EVERY: Duration = Duration::from_millis(100);
/// Most bytes of a write by a stream, and fewest.
const WRITE_BYTES: usize = 64 * 1024;
const PAGE_BYTES: usize = 4 * 1024;

/// How much of a folder's size is left; of one environment.
#[derive(Clone)]
pub(super) struct Quota(Arc<Folder>);

struct Folder {
    /// None: nothing can be written.
    path: Option<PathBuf>,
    bytes: u64,
    left: Mutex<Left>,
}

#[derive(Default)]
struct Left {
    bytes: u64,
    charged: u64,
    measured: Option<Instant>,
}

impl Quota {
    /// Of a folder that may hold so many bytes.
    pub(super) fn new(path: Option<PathBuf>, bytes: u64) -> Self {
        Self(Arc::new(Folder { path, bytes, left: Mutex::default() }))
    }

    fn try_charge(&self, bytes: u64) -> bool {
        let mut left = self.0.left.lock();
        let fits = bytes <= left.bytes;
        if fits {
            left.bytes -= bytes;
            left.charged += bytes;
        }
        fits
    }

    fn is_worth_measuring(&self) -> bool {
        let left = self.0.left.lock();
        left.measured.is_none_or(|at| at.elapsed() >= MEASURED_EVERY) || left.charged > self.0.bytes / 64
    }

    /// Charges a write; false: there is no room for it.
    pub(super) async fn charge(&self, bytes: u64) -> bool {
        let bytes = bytes.saturating_add(ASIDE);
        if self.try_charge(bytes) {
            return true;
        }
        self.measure().await;
        self.try_charge(bytes)
    }

    async fn measure(&self) {
        let Some(path) = self.0.path.clone() else { return };
        if !self.is_worth_measuring() {
            return;
        }
        let held = tokio::task::spawn_blocking(move || held(&path)).await;
        let mut left = self.0.left.lock();
        left.measured = Some(Instant::now());
        // What cannot be measured is full.
        left.bytes = held.ok().and_then(Result::ok).map_or(0, |held| self.0.bytes.saturating_sub(held));
        left.charged = 0;
    }
}

/// Bytes of all that is in a folder, as the disk has them. Links are not followed.
fn held(folder: &Path) -> io::Result<u64> {
    let (mut bytes, mut todo) = (0, vec![folder.to_owned()]);
    while let Some(folder) = todo.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            // What goes away meanwhile holds nothing.
            let Ok(about) = entry.metadata() else { continue };
            bytes += about.blocks() * 512 + ASIDE;
            if about.is_dir() {
                todo.push(entry.path());
            }
        }
    }
    Ok(bytes)
}

fn no_space() -> io::Error {
    io::Error::from_raw_os_error(libc::ENOSPC)
}

/// Puts charges before the functions of modules.
pub(super) fn limit_modules(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    limit_writes(linker)?;
    limit_opening(linker)?;
    limit_names(linker)?;
    linker.allow_shadowing(false);
    Ok(())
}

fn limit_writes(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.func_wrap_async(
        PREVIEW1,
        "fd_write",
        |mut caller: Caller<'_, State>, (fd, list, count, written): (i32, i32, i32, i32)| {
            Box::new(async move {
                if !charged(&mut caller, fd, list, count).await? {
                    return Ok(NO_SPACE);
                }
                let (mut memory, state) = parts(&mut caller)?;
                preview1::fd_write(&mut state.wasi, &mut memory, fd, list, count, written).await
            })
        },
    )?;
    linker.func_wrap_async(
        PREVIEW1,
        "fd_pwrite",
        |mut caller: Caller<'_, State>, (fd, list, count, at, written): (i32, i32, i32, i64, i32)| {
            Box::new(async move {
                if !charged(&mut caller, fd, list, count).await? {
                    return Ok(NO_SPACE);
                }
                let (mut memory, state) = parts(&mut caller)?;
                preview1::fd_pwrite(&mut state.wasi, &mut memory, fd, list, count, at, written).await
            })
        },
    )?;
    linker.func_wrap_async(PREVIEW1, "fd_renumber", |mut caller: Caller<'_, State>, (from, to): (i32, i32)| {
        Box::new(async move {
            // A file that had the number of an output would be written to without a charge.
            if (0..=2).contains(&to) {
                return Ok(NOT_SUPPORTED);
            }
            let (mut memory, state) = parts(&mut caller)?;
            preview1::fd_renumber(&mut state.wasi, &mut memory, from, to).await
        })
    })?;
    Ok(())
}

fn limit_opening(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.func_wrap_async(
        PREVIEW1,
        "path_open",
        |mut caller: Caller<'_, State>,
         (fd, lookup, path, length, open, base, inherited, flags, opened): (
            i32,
            i32,
            i32,
            i32,
            i32,
            i64,
            i64,
            i32,
            i32,
        )| {
            Box::new(async move {
                if open & CREATE != 0 && !caller.data().quota.clone().charge(0).await {
                    return Ok(NO_SPACE);
                }
                let (mut memory, state) = parts(&mut caller)?;
                let wasi = &mut state.wasi;
                preview1::path_open(wasi, &mut memory, fd, lookup, path, length, open, base, inherited, flags, opened)
                    .await
            })
        },
    )?;
    Ok(())
}

fn limit_names(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.func_wrap_async(
        PREVIEW1,
        "path_create_directory",
        |mut caller: Caller<'_, State>, (fd, path, length): (i32, i32, i32)| {
            Box::new(async move {
                if !caller.data().quota.clone().charge(0).await {
                    return Ok(NO_SPACE);
                }
                let (mut memory, state) = parts(&mut caller)?;
                preview1::path_create_directory(&mut state.wasi, &mut memory, fd, path, length).await
            })
        },
    )?;
    linker.func_wrap_async(
        PREVIEW1,
        "path_symlink",
        |mut caller: Caller<'_, State>, (old, old_length, fd, new, new_length): (i32, i32, i32, i32, i32)| {
            Box::new(async move {
                if !caller.data().quota.clone().charge(0).await {
                    return Ok(NO_SPACE);
                }
                let (mut memory, state) = parts(&mut caller)?;
                preview1::path_symlink(&mut state.wasi, &mut memory, old, old_length, fd, new, new_length).await
            })
        },
    )?;
    linker.func_wrap_async(
        PREVIEW1,
        "path_link",
        |mut caller: Caller<'_, State>,
         (fd, flags, old, old_length, to, new, new_length): (i32, i32, i32, i32, i32, i32, i32)| {
            Box::new(async move {
                if !caller.data().quota.clone().charge(0).await {
                    return Ok(NO_SPACE);
                }
                let (mut memory, state) = parts(&mut caller)?;
                let wasi = &mut state.wasi;
                preview1::path_link(wasi, &mut memory, fd, flags, old, old_length, to, new, new_length).await
            })
        },
    )?;
    Ok(())
}

fn parts<'a>(caller: &'a mut Caller<'_, State>) -> wasmtime::Result<(GuestMemory<'a>, &'a mut State)> {
    let Some(Extern::Memory(memory)) = caller.get_export("memory") else {
        return Err(wasmtime::Error::msg("the module exports no memory"));
    };
    let fuel = caller_fuel(caller);
    let (bytes, state) = memory.data_and_store_mut(caller);
    preview1::WasiSnapshotPreview1::set_hostcall_fuel(&mut state.wasi, fuel);
    Ok((GuestMemory::Unshared(bytes), state))
}

fn caller_fuel(caller: &mut Caller<'_, State>) -> usize {
    use wasmtime::AsContextMut;
    caller.as_context_mut().hostcall_fuel()
}

/// Charges what a list of pieces names; false: there is no room for it.
async fn charged(caller: &mut Caller<'_, State>, fd: i32, list: i32, count: i32) -> wasmtime::Result<bool> {
    if (0..=2).contains(&fd) {
        return Ok(true);
    }
    let (memory, _) = parts(caller)?;
    let GuestMemory::Unshared(bytes) = memory else { return Ok(false) };
    // The function behind takes the first piece that is not empty; the longest is no shorter.
    let mut most: u64 = 0;
    for index in 0..u64::from(count.cast_unsigned()).min(1_024) {
        let at = u64::from(list.cast_unsigned()) + index * 8 + 4;
        let length = usize::try_from(at).ok().and_then(|at| bytes.get(at..at + 4));
        let Some(length) = length.and_then(|length| length.first_chunk::<4>()) else { break };
        most = most.saturating_add(u64::from(u32::from_le_bytes(*length)));
    }
    if count.cast_unsigned() > 1_024 {
        most = u64::from(u32::MAX);
    }
    let quota = caller.data().quota.clone();
    Ok(quota.charge(most.min(bytes_of(caller))).await)
}

/// No write is longer than the memory that it comes from.
fn bytes_of(caller: &mut Caller<'_, State>) -> u64 {
    match caller.get_export("memory") {
        Some(Extern::Memory(memory)) => memory.data_size(&caller) as u64,
        _ => 0,
    }
}

type Answered<T> = wasmtime::Result<(Result<T, ErrorCode>,)>;

/// A function's result as components take it.
fn answered<T>(store: &mut StoreContextMut<'_, State>, result: FsResult<T>) -> Answered<T> {
    match result {
        Ok(value) => Ok((Ok(value),)),
        Err(error) => Ok((Err(store.data_mut().filesystem().convert_error_code(error)?),)),
    }
}

/// Puts charges before the functions of components.
pub(super) fn limit_components(linker: &mut ComponentLinker<State>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    limit_component_writes(&mut linker.instance(FILES)?)?;
    limit_component_names(&mut linker.instance(FILES)?)?;
    linker.allow_shadowing(false);
    Ok(())
}

fn limit_component_writes(files: &mut LinkerInstance<'_, State>) -> wasmtime::Result<()> {
    files.func_wrap_async(
        "[method]descriptor.write",
        |mut store: StoreContextMut<'_, State>, (file, bytes, at): (Resource<Descriptor>, Vec<u8>, u64)| {
            Box::new(async move {
                if !store.data().quota.clone().charge(bytes.len() as u64).await {
                    return Ok((Err(ErrorCode::InsufficientSpace),));
                }
                let result = store.data_mut().filesystem().write(file, bytes, at).await;
                answered(&mut store, result)
            })
        },
    )?;
    files.func_wrap(
        "[method]descriptor.write-via-stream",
        |mut store: StoreContextMut<'_, State>, (file, at): (Resource<Descriptor>, u64)| {
            let result = store.data_mut().filesystem().write_via_stream(file, at);
            let result = result.and_then(|stream| charged_stream(&mut store, stream));
            answered(&mut store, result)
        },
    )?;
    files.func_wrap(
        "[method]descriptor.append-via-stream",
        |mut store: StoreContextMut<'_, State>, (file,): (Resource<Descriptor>,)| {
            let result = store.data_mut().filesystem().append_via_stream(file);
            let result = result.and_then(|stream| charged_stream(&mut store, stream));
            answered(&mut store, result)
        },
    )?;
    files.func_wrap_async(
        "[method]descriptor.open-at",
        |mut store: StoreContextMut<'_, State>,
         (folder, flags, path, open, how): (Resource<Descriptor>, PathFlags, String, OpenFlags, DescriptorFlags)| {
            Box::new(async move {
                if open.contains(OpenFlags::CREATE) && !store.data().quota.clone().charge(0).await {
                    return Ok((Err(ErrorCode::InsufficientSpace),));
                }
                let result = store.data_mut().filesystem().open_at(folder, flags, path, open, how).await;
                answered(&mut store, result)
            })
        },
    )?;
    Ok(())
}

fn limit_component_names(files: &mut LinkerInstance<'_, State>) -> wasmtime::Result<()> {
    files.func_wrap_async(
        "[method]descriptor.create-directory-at",
        |mut store: StoreContextMut<'_, State>, (folder, path): (Resource<Descriptor>, String)| {
            Box::new(async move {
                if !store.data().quota.clone().charge(0).await {
                    return Ok((Err(ErrorCode::InsufficientSpace),));
                }
                let result = store.data_mut().filesystem().create_directory_at(folder, path).await;
                answered(&mut store, result)
            })
        },
    )?;
    files.func_wrap_async(
        "[method]descriptor.symlink-at",
        |mut store: StoreContextMut<'_, State>, (folder, to, path): (Resource<Descriptor>, String, String)| {
            Box::new(async move {
                if !store.data().quota.clone().charge(0).await {
                    return Ok((Err(ErrorCode::InsufficientSpace),));
                }
                let result = store.data_mut().filesystem().symlink_at(folder, to, path).await;
                answered(&mut store, result)
            })
        },
    )?;
    files.func_wrap_async(
        "[method]descriptor.link-at",
        |mut store: StoreContextMut<'_, State>,
         (folder, flags, path, to, name): (
            Resource<Descriptor>,
            PathFlags,
            String,
            Resource<Descriptor>,
            String,
        )| {
            Box::new(async move {
                if !store.data().quota.clone().charge(0).await {
                    return Ok((Err(ErrorCode::InsufficientSpace),));
                }
                let result = store.data_mut().filesystem().link_at(folder, flags, path, to, name).await;
                answered(&mut store, result)
            })
        },
    )?;
    Ok(())
}

/// The same stream, whose writes are charged.
fn charged_stream(
    store: &mut StoreContextMut<'_, State>,
    stream: Resource<DynOutputStream>,
) -> FsResult<Resource<DynOutputStream>> {
    let state = store.data_mut();
    let quota = state.quota.clone();
    let slot = state.filesystem().table.get_mut(&stream)?;
    let inner = std::mem::replace(slot, Box::new(Nothing));
    *slot = Box::new(Charged { inner, quota, room: 0, full: false });
    Ok(stream)
}

/// A stream that takes no more than was charged.
struct Charged {
    inner: DynOutputStream,
    quota: Quota,
    /// Bytes that are charged and not written.
    room: usize,
    full: bool,
}

#[wasmtime_wasi::async_trait]
impl Pollable for Charged {
    async fn ready(&mut self) {
        self.inner.ready().await;
        if self.room > 0 || self.full {
            return;
        }
        // Where less is left than a whole piece, it is given in pages.
        for bytes in [WRITE_BYTES, PAGE_BYTES] {
            if self.quota.charge(bytes as u64).await {
                self.room = bytes;
                return;
            }
        }
        self.full = true;
    }
}

#[wasmtime_wasi::async_trait]
impl OutputStream for Charged {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        let Some(room) = self.room.checked_sub(bytes.len()) else {
            return Err(StreamError::trap("more was written than there was room for"));
        };
        self.room = room;
        self.inner.write(bytes)
    }

    fn flush(&mut self) -> StreamResult<()> {
        self.inner.flush()
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        if self.full {
            return Err(StreamError::LastOperationFailed(no_space().into()));
        }
        Ok(self.inner.check_write()?.min(self.room))
    }
}

/// What stands in a stream's place while it is wrapped.
struct Nothing;

#[wasmtime_wasi::async_trait]
impl Pollable for Nothing {
    async fn ready(&mut self) {}
}

#[wasmtime_wasi::async_trait]
impl OutputStream for Nothing {
    fn write(&mut self, _bytes: Bytes) -> StreamResult<()> {
        Err(StreamError::Closed)
    }

    fn flush(&mut self) -> StreamResult<()> {
        Err(StreamError::Closed)
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Err(StreamError::Closed)
    }
}

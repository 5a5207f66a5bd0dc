//! `wasi:blobstore` (0.2.0-draft) over buckets of S3.
//!
//! A container is a bucket. What a call may do is what the function's role may do at S3. Both ends of a range count, and
//! times are seconds since the epoch. Objects pass through: what comes is read as the program reads it, what goes is sent
//! as it is written (`upload`).
//!
//! The interfaces are defined here by hand, as those of `keyvalue` are: their types are few, and their functions one call each.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::Mutex;
use wasmtime::StoreContextMut;
use wasmtime::component::{ComponentType, Lift, Linker, LinkerInstance, Lower, Resource};
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream, InputStream, Pollable, StreamError, StreamResult};
use wasmtime_wasi::{ResourceTable, WasiView};

use super::objects::{Coming, Done, Failure, Names, Objects};
use super::state::{CALL_BYTES_MAX, State, define_resource};
use super::upload::{Memory, Upload, Writing};

const VERSION: &str = "0.2.0-draft";
/// How often a bucket that others fill meanwhile is emptied before it is given up.
const EMPTYINGS: u32 = 3;

/// Whether an import is one of those defined here.
pub(super) fn is_served(name: &str) -> bool {
    let Some((interface, version)) = name.split_once('@') else { return false };
    matches!(interface, "wasi:blobstore/blobstore" | "wasi:blobstore/container" | "wasi:blobstore/types")
        && version == VERSION
}

/// What a function of the interfaces returns: errors are words.
type Answered<T> = wasmtime::Result<(Result<T, String>,)>;
type Store<'a> = StoreContextMut<'a, State>;

fn answered<T>(done: Done<T>) -> Answered<T> {
    Ok((done.map_err(|failure| failure.to_string()),))
}

/// `wasi:blobstore/container.container`.
struct Container {
    name: String,
}

/// `wasi:blobstore/container.stream-object-names`: pages, as far as they were asked for.
struct Listing {
    bucket: String,
    page: std::vec::IntoIter<String>,
    next: Next,
}

/// Where a listing goes on.
enum Next {
    First,
    At(String),
    End,
}

/// `wasi:blobstore/types.outgoing-value`.
struct Outgoing(Arc<Mutex<Upload>>);

/// `wasi:blobstore/types.incoming-value`.
struct Value(Coming);

#[derive(ComponentType, Lower)]
#[component(record)]
struct ContainerMetadata {
    name: String,
    #[component(name = "created-at")]
    created_at: u64,
}

#[derive(ComponentType, Lower)]
#[component(record)]
struct ObjectMetadata {
    name: String,
    container: String,
    #[component(name = "created-at")]
    created_at: u64,
    size: u64,
}

#[derive(ComponentType, Lift)]
#[component(record)]
struct ObjectId {
    container: String,
    object: String,
}

/// Defines the interfaces.
pub(super) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    let mut types = linker.instance(&format!("wasi:blobstore/types@{VERSION}"))?;
    define_outgoing(&mut types)?;
    define_incoming(&mut types)?;
    let mut container = linker.instance(&format!("wasi:blobstore/container@{VERSION}"))?;
    define_resource::<Container>(&mut container, "container")?;
    define_container(&mut container)?;
    define_contents(&mut container)?;
    define_listing(&mut container)?;
    define_blobstore(&mut linker.instance(&format!("wasi:blobstore/blobstore@{VERSION}"))?)
}

fn table<'a>(store: &'a mut Store<'_>) -> &'a mut ResourceTable {
    store.data_mut().ctx().table
}

fn objects(store: &Store<'_>) -> Objects {
    store.data().objects.clone()
}

/// The way to a container's objects, and its name.
fn opened(store: &mut Store<'_>, held: &Resource<Container>) -> wasmtime::Result<(Objects, String)> {
    let name = table(store).get(held)?.name.clone();
    Ok((objects(store), name))
}

fn push<T: Send + 'static>(store: &mut Store<'_>, done: Done<T>) -> Answered<Resource<T>> {
    match done {
        Ok(value) => answered(Ok(table(store).push(value)?)),
        Err(failure) => answered(Err(failure)),
    }
}

fn define_outgoing(types: &mut LinkerInstance<'_, State>) -> wasmtime::Result<()> {
    define_resource::<Outgoing>(types, "outgoing-value")?;
    types.func_wrap("[static]outgoing-value.new-outgoing-value", |mut store: Store<'_>, (): ()| {
        let limits = &store.data().limits;
        let memory = Memory { gauge: limits.gauge.clone(), bytes: limits.memory_bytes };
        let upload = Upload::new(objects(&store), memory);
        Ok((table(&mut store).push(Outgoing(Arc::new(Mutex::new(upload))))?,))
    })?;
    types.func_wrap_async(
        "[method]outgoing-value.outgoing-value-write-body",
        |mut store: Store<'_>, (held,): (Resource<Outgoing>,)| {
            Box::new(async move {
                let upload = table(&mut store).get(&held)?.0.clone();
                if std::mem::replace(&mut upload.lock().await.is_given, true) {
                    return Ok((Err(()),));
                }
                let stream: DynOutputStream = Box::new(Writing(upload));
                Ok((Ok(table(&mut store).push_child(stream, &held)?),))
            })
        },
    )?;
    types.func_wrap_async("[static]outgoing-value.finish", |mut store: Store<'_>, (held,): (Resource<Outgoing>,)| {
        Box::new(async move {
            let Outgoing(upload) = table(&mut store).delete(held)?;
            answered(upload.lock().await.finish().await)
        })
    })
}

fn define_incoming(types: &mut LinkerInstance<'_, State>) -> wasmtime::Result<()> {
    define_resource::<Value>(types, "incoming-value")?;
    types.func_wrap_async(
        "[static]incoming-value.incoming-value-consume-sync",
        |mut store: Store<'_>, (held,): (Resource<Value>,)| {
            Box::new(async move {
                let Value(coming) = table(&mut store).delete(held)?;
                answered(whole(coming).await)
            })
        },
    )?;
    types.func_wrap(
        "[static]incoming-value.incoming-value-consume-async",
        |mut store: Store<'_>, (held,): (Resource<Value>,)| {
            let Value(coming) = table(&mut store).delete(held)?;
            let stream: DynInputStream = Box::new(Reading { coming, piece: Bytes::new(), failed: None });
            push(&mut store, Ok(stream))
        },
    )?;
    types.func_wrap("[method]incoming-value.size", |mut store: Store<'_>, (held,): (Resource<Value>,)| {
        Ok((table(&mut store).get(&held)?.0.bytes,))
    })
}

fn define_container(container: &mut LinkerInstance<'_, State>) -> wasmtime::Result<()> {
    container.func_wrap("[method]container.name", |mut store: Store<'_>, (held,): (Resource<Container>,)| {
        answered(Ok(table(&mut store).get(&held)?.name.clone()))
    })?;
    container.func_wrap_async("[method]container.info", |mut store: Store<'_>, (held,): (Resource<Container>,)| {
        Box::new(async move {
            let (objects, name) = opened(&mut store, &held)?;
            let made = objects.bucket_made_s(&name).await;
            answered(made.map(|created_at| ContainerMetadata { name, created_at }))
        })
    })?;
    container.func_wrap(
        "[method]container.list-objects",
        |mut store: Store<'_>, (held,): (Resource<Container>,)| {
            let (_, bucket) = opened(&mut store, &held)?;
            push(&mut store, Ok(Listing { bucket, page: Vec::new().into_iter(), next: Next::First }))
        },
    )?;
    container.func_wrap_async("[method]container.clear", |mut store: Store<'_>, (held,): (Resource<Container>,)| {
        Box::new(async move {
            let (objects, name) = opened(&mut store, &held)?;
            answered(clear(&objects, &name).await)
        })
    })
}

type OneObject = (Resource<Container>, String);

fn define_contents(container: &mut LinkerInstance<'_, State>) -> wasmtime::Result<()> {
    container.func_wrap_async(
        "[method]container.get-data",
        |mut store: Store<'_>, (held, object, start, end): (Resource<Container>, String, u64, u64)| {
            Box::new(async move {
                let (objects, name) = opened(&mut store, &held)?;
                let coming = objects.read(&name, &object, start, end).await;
                push(&mut store, coming.map(Value))
            })
        },
    )?;
    container.func_wrap_async(
        "[method]container.write-data",
        |mut store: Store<'_>, (held, object, value): (Resource<Container>, String, Resource<Outgoing>)| {
            Box::new(async move {
                let (_, name) = opened(&mut store, &held)?;
                let upload = table(&mut store).get(&value)?.0.clone();
                answered(upload.lock().await.aim(&name, &object))
            })
        },
    )?;
    container.func_wrap_async(
        "[method]container.delete-object",
        |mut store: Store<'_>, (held, object): OneObject| {
            Box::new(async move {
                let (objects, name) = opened(&mut store, &held)?;
                answered(objects.remove(&name, &object).await)
            })
        },
    )?;
    container.func_wrap_async(
        "[method]container.delete-objects",
        |mut store: Store<'_>, (held, all): (Resource<Container>, Vec<String>)| {
            Box::new(async move {
                let (objects, name) = opened(&mut store, &held)?;
                answered(objects.remove_all(&name, &all).await)
            })
        },
    )?;
    container.func_wrap_async("[method]container.has-object", |mut store: Store<'_>, (held, object): OneObject| {
        Box::new(async move {
            let (objects, name) = opened(&mut store, &held)?;
            answered(objects.about(&name, &object).await.map(|about| about.is_some()))
        })
    })?;
    container.func_wrap_async("[method]container.object-info", |mut store: Store<'_>, (held, object): OneObject| {
        Box::new(async move {
            let (objects, container) = opened(&mut store, &held)?;
            let about = objects.about(&container, &object).await;
            answered(about.and_then(|about| {
                let about = about.ok_or_else(|| absent(&container, &object))?;
                Ok(ObjectMetadata { name: object, container, created_at: about.written_s, size: about.bytes })
            }))
        })
    })
}

fn define_listing(container: &mut LinkerInstance<'_, State>) -> wasmtime::Result<()> {
    define_resource::<Listing>(container, "stream-object-names")?;
    container.func_wrap_async(
        "[method]stream-object-names.read-stream-object-names",
        |mut store: Store<'_>, (held, wanted): (Resource<Listing>, u64)| {
            Box::new(async move {
                let objects = objects(&store);
                let listing = table(&mut store).get_mut(&held)?;
                let mut names = Vec::new();
                let gone = listing.go(&objects, wanted, |name| names.push(name)).await;
                answered(gone.map(|(_, is_over)| (names, is_over)))
            })
        },
    )?;
    container.func_wrap_async(
        "[method]stream-object-names.skip-stream-object-names",
        |mut store: Store<'_>, (held, wanted): (Resource<Listing>, u64)| {
            Box::new(async move {
                let objects = objects(&store);
                answered(table(&mut store).get_mut(&held)?.go(&objects, wanted, drop).await)
            })
        },
    )
}

fn define_blobstore(blobstore: &mut LinkerInstance<'_, State>) -> wasmtime::Result<()> {
    blobstore.func_wrap_async("create-container", |mut store: Store<'_>, (name,): (String,)| {
        Box::new(async move {
            let made = objects(&store).make_bucket(&name).await;
            push(&mut store, made.map(|()| Container { name }))
        })
    })?;
    blobstore.func_wrap_async("get-container", |mut store: Store<'_>, (name,): (String,)| {
        Box::new(async move {
            let there = objects(&store).has_bucket(&name).await;
            let there = there.and_then(|is| if is { Ok(()) } else { Err(no_container(&name)) });
            push(&mut store, there.map(|()| Container { name }))
        })
    })?;
    blobstore.func_wrap_async("delete-container", |store: Store<'_>, (name,): (String,)| {
        Box::new(async move { answered(remove(&objects(&store), &name).await) })
    })?;
    blobstore.func_wrap_async("container-exists", |store: Store<'_>, (name,): (String,)| {
        Box::new(async move { answered(objects(&store).has_bucket(&name).await) })
    })?;
    blobstore.func_wrap_async("copy-object", |store: Store<'_>, (from, to): (ObjectId, ObjectId)| {
        Box::new(async move { answered(copy(&objects(&store), &from, &to).await) })
    })?;
    blobstore.func_wrap_async("move-object", |store: Store<'_>, (from, to): (ObjectId, ObjectId)| {
        Box::new(async move {
            let objects = objects(&store);
            let copied = copy(&objects, &from, &to).await;
            answered(match copied {
                Ok(()) if !is_same(&from, &to) => objects.remove(&from.container, &from.object).await,
                copied => copied,
            })
        })
    })
}

fn absent(container: &str, object: &str) -> Failure {
    Failure { code: "NoSuchKey".to_owned(), message: format!("there is no object {object} in {container}") }
}

fn no_container(name: &str) -> Failure {
    Failure { code: "NoSuchBucket".to_owned(), message: format!("there is no container {name}") }
}

fn is_same(from: &ObjectId, to: &ObjectId) -> bool {
    (&from.container, &from.object) == (&to.container, &to.object)
}

async fn copy(objects: &Objects, from: &ObjectId, to: &ObjectId) -> Done<()> {
    if is_same(from, to) {
        // Which S3 refuses, as it would change nothing.
        let about = objects.about(&from.container, &from.object).await?;
        return about.map(drop).ok_or_else(|| absent(&from.container, &from.object));
    }
    objects.copy((&from.container, &from.object), (&to.container, &to.object)).await
}

async fn clear(objects: &Objects, bucket: &str) -> Done<()> {
    let mut at = None;
    loop {
        let Names { names, next } = objects.names(bucket, at.as_deref()).await?;
        objects.remove_all(bucket, &names).await?;
        if next.is_none() {
            return Ok(());
        }
        at = next;
    }
}

/// Removes a bucket with all that is in it.
async fn remove(objects: &Objects, bucket: &str) -> Done<()> {
    let mut left = EMPTYINGS;
    loop {
        left -= 1;
        clear(objects, bucket).await?;
        match objects.remove_bucket(bucket).await {
            Err(failure) if failure.code == "BucketNotEmpty" && left > 0 => {}
            done => return done,
        }
    }
}

impl Listing {
    /// Goes on by so many names, or as far as one call may hand over; how many, and whether that is the end.
    async fn go(&mut self, objects: &Objects, wanted: u64, mut give: impl FnMut(String)) -> Done<(u64, bool)> {
        let (mut gone, mut bytes) = (0, 0);
        loop {
            if self.page.len() == 0 {
                let page = match &self.next {
                    Next::End => return Ok((gone, true)),
                    Next::First => objects.names(&self.bucket, None).await?,
                    Next::At(at) => objects.names(&self.bucket, Some(at)).await?,
                };
                self.page = page.names.into_iter();
                self.next = page.next.map_or(Next::End, Next::At);
                continue;
            }
            if gone == wanted || bytes >= CALL_BYTES_MAX / 2 {
                return Ok((gone, false));
            }
            if let Some(name) = self.page.next() {
                gone += 1;
                bytes += name.len();
                give(name);
            }
        }
    }
}

/// An object as one piece.
async fn whole(coming: Coming) -> Done<Vec<u8>> {
    if coming.bytes > CALL_BYTES_MAX as u64 {
        let words =
            format!("the object has {} bytes; what has more than {CALL_BYTES_MAX} is read as a stream", coming.bytes);
        return Err(Failure::new(words));
    }
    let Some((mut body, _held)) = coming.body else { return Ok(Vec::new()) };
    // Within the bound above: a body of another length is refused by who reads it.
    let mut bytes = Vec::with_capacity(usize::try_from(coming.bytes).unwrap_or_default());
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Failure::new(format!("the object broke off: {error}")))?;
        if let Ok(piece) = frame.into_data() {
            bytes.extend_from_slice(&piece);
        }
    }
    Ok(bytes)
}

/// The stream of a value.
struct Reading {
    coming: Coming,
    piece: Bytes,
    failed: Option<String>,
}

impl Reading {
    async fn next(body: &mut Incoming) -> Result<Option<Bytes>, String> {
        while let Some(frame) = body.frame().await {
            match frame.map_err(|error| format!("the object broke off: {error}"))?.into_data() {
                Ok(piece) if !piece.is_empty() => return Ok(Some(piece)),
                _ => {}
            }
        }
        Ok(None)
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Reading {
    async fn ready(&mut self) {
        if !self.piece.is_empty() || self.failed.is_some() {
            return;
        }
        let Some((body, _)) = &mut self.coming.body else { return };
        match Self::next(body).await {
            Ok(Some(piece)) => self.piece = piece,
            // With its last byte it gives up its line.
            Ok(None) => self.coming.body = None,
            Err(error) => self.failed = Some(error),
        }
    }
}

#[wasmtime_wasi::async_trait]
impl InputStream for Reading {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        if self.piece.is_empty() {
            if let Some(error) = self.failed.take() {
                self.coming.body = None;
                return Err(StreamError::LastOperationFailed(wasmtime::Error::msg(error)));
            }
            if self.coming.body.is_none() {
                return Err(StreamError::Closed);
            }
        }
        Ok(self.piece.split_to(size.min(self.piece.len())))
    }
}

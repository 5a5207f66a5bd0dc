//! `wasi:keyvalue` (0.2.0-draft and -draft2) over the platform's tables.
//!
//! A bucket is a table of the function's account whose key is a partition key of type S and nothing else; a pair is an item
//! with that key and the attribute `value`, of type B, or N once it was incremented. Reads are consistent. What a call may
//! do is what the function's role may do at DynamoDB.
//!
//! The interfaces are defined here by hand, as two versions of them differ in the types of two functions only.

use serde_json::Value;
use wasmtime::StoreContextMut;
use wasmtime::component::{ComponentType, Linker, LinkerInstance, Lower, Resource};
use wasmtime_wasi::{ResourceTable, WasiView};

use super::pairs::{self, Bucket};
use super::state::{State, define_resource};
use super::tables::Failure;

/// The versions that there are, whose names no other version is compatible with.
const DRAFT: &str = "0.2.0-draft";
const DRAFT_2: &str = "0.2.0-draft2";
/// Pages that a run of the first draft can go on from, as its cursors are numbers which the host has to remember.
const CURSORS_MAX: usize = 10_000;

/// Whether an import is one of those defined here.
pub(super) fn is_served(name: &str) -> bool {
    let Some((interface, version)) = name.split_once('@') else { return false };
    matches!(interface, "wasi:keyvalue/store" | "wasi:keyvalue/atomics" | "wasi:keyvalue/batch")
        && matches!(version, DRAFT | DRAFT_2)
}

/// `wasi:keyvalue/store.error`.
#[derive(Debug, Clone, PartialEq, Eq, ComponentType, Lower)]
#[component(variant)]
pub(super) enum StoreError {
    #[component(name = "no-such-store")]
    NoSuchStore,
    #[component(name = "access-denied")]
    AccessDenied,
    #[component(name = "other")]
    Other(String),
}

impl StoreError {
    pub(super) fn other(words: impl Into<String>) -> Self {
        Self::Other(words.into())
    }
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        match failure.code.as_str() {
            "ResourceNotFoundException" => Self::NoSuchStore,
            "AccessDeniedException" | "UnrecognizedClientException" | "ExpiredTokenException" => Self::AccessDenied,
            "" => Self::Other(failure.message),
            code => Self::Other(format!("{code}: {}", failure.message)),
        }
    }
}

type Answered<T> = wasmtime::Result<(Result<T, StoreError>,)>;
type Store<'a> = StoreContextMut<'a, State>;

/// A bucket that a run holds.
struct Opened {
    bucket: Bucket,
    /// Keys that pages ended with: cursors of the first draft are their places here, from one.
    ends: Vec<String>,
}

/// A compare-and-swap that was begun.
struct Cas {
    bucket: Bucket,
    key: String,
    /// The attribute as it was seen.
    seen: Option<Value>,
}

/// `wasi:keyvalue/atomics.cas-error`.
#[derive(ComponentType, Lower)]
#[component(variant)]
enum CasError {
    #[component(name = "store-error")]
    Store(StoreError),
    #[component(name = "cas-failed")]
    Failed(Resource<Cas>),
}

#[derive(ComponentType, Lower)]
#[component(record)]
struct Keys<C> {
    keys: Vec<String>,
    cursor: Option<C>,
}

/// Defines the interfaces.
pub(super) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    for version in [DRAFT, DRAFT_2] {
        let mut store = linker.instance(&format!("wasi:keyvalue/store@{version}"))?;
        define_resource::<Opened>(&mut store, "bucket")?;
        define_store(&mut store)?;
        if version == DRAFT {
            store.func_wrap_async("[method]bucket.list-keys", list_by_number)?;
        } else {
            store.func_wrap_async("[method]bucket.list-keys", list_by_text)?;
        }
        define_batch(&mut linker.instance(&format!("wasi:keyvalue/batch@{version}"))?)?;
    }
    let mut atomics = linker.instance(&format!("wasi:keyvalue/atomics@{DRAFT}"))?;
    atomics.func_wrap_async(
        "increment",
        |mut store: Store<'_>, (held, key, delta): (Resource<Opened>, String, u64)| {
            Box::new(async move {
                increment::<u64>(&mut store, &held, &key, i128::from(delta), (0, i128::from(u64::MAX))).await
            })
        },
    )?;
    let mut atomics = linker.instance(&format!("wasi:keyvalue/atomics@{DRAFT_2}"))?;
    atomics.func_wrap_async(
        "increment",
        |mut store: Store<'_>, (held, key, delta): (Resource<Opened>, String, i64)| {
            let bounds = (i128::from(i64::MIN), i128::from(i64::MAX));
            Box::new(async move { increment::<i64>(&mut store, &held, &key, i128::from(delta), bounds).await })
        },
    )?;
    define_cas(&mut atomics)
}

fn table<'a>(store: &'a mut Store<'_>) -> &'a mut ResourceTable {
    store.data_mut().ctx().table
}

fn bucket(store: &mut Store<'_>, held: &Resource<Opened>) -> wasmtime::Result<Bucket> {
    Ok(table(store).get(held)?.bucket.clone())
}

fn define_store(store: &mut LinkerInstance<'_, State>) -> wasmtime::Result<()> {
    store.func_wrap_async("open", |mut store: Store<'_>, (name,): (String,)| {
        Box::new(async move {
            let answer: Answered<_> = match pairs::open(&mut store.data_mut().tables, &name).await {
                Ok(bucket) => Ok((Ok(table(&mut store).push(Opened { bucket, ends: Vec::new() })?),)),
                Err(error) => Ok((Err(error),)),
            };
            answer
        })
    })?;
    store.func_wrap_async("[method]bucket.get", |mut store: Store<'_>, (held, key): (Resource<Opened>, String)| {
        Box::new(async move {
            let bucket = bucket(&mut store, &held)?;
            let found = bucket.read(&mut store.data_mut().tables, &key).await;
            Ok((found.and_then(|found| found.as_ref().map(pairs::bytes).transpose()),))
        })
    })?;
    store.func_wrap_async(
        "[method]bucket.set",
        |mut store: Store<'_>, (held, key, value): (Resource<Opened>, String, Vec<u8>)| {
            Box::new(async move {
                let bucket = bucket(&mut store, &held)?;
                Ok((bucket.write(&mut store.data_mut().tables, &key, &value).await,))
            })
        },
    )?;
    store.func_wrap_async(
        "[method]bucket.delete",
        |mut store: Store<'_>, (held, key): (Resource<Opened>, String)| {
            Box::new(async move {
                let bucket = bucket(&mut store, &held)?;
                Ok((bucket.delete(&mut store.data_mut().tables, &key).await,))
            })
        },
    )?;
    store.func_wrap_async("[method]bucket.exists", |mut store: Store<'_>, (held, key): (Resource<Opened>, String)| {
        Box::new(async move {
            let bucket = bucket(&mut store, &held)?;
            Ok((bucket.exists(&mut store.data_mut().tables, &key).await,))
        })
    })
}

type Listing<'a, C> = Box<dyn Future<Output = Answered<Keys<C>>> + Send + 'a>;

/// A page after a key.
fn list_by_text(mut store: Store<'_>, (held, after): (Resource<Opened>, Option<String>)) -> Listing<'_, String> {
    Box::new(async move {
        let bucket = bucket(&mut store, &held)?;
        let page = bucket.keys(&mut store.data_mut().tables, after.as_deref()).await;
        Ok((page.map(|(keys, cursor)| Keys { keys, cursor }),))
    })
}

/// A page after the end of another.
fn list_by_number(mut store: Store<'_>, (held, cursor): (Resource<Opened>, Option<u64>)) -> Listing<'_, u64> {
    Box::new(async move {
        let ends = &table(&mut store).get(&held)?.ends;
        let known =
            |number: u64| usize::try_from(number).ok()?.checked_sub(1).and_then(|place| ends.get(place)).cloned();
        let after = match cursor {
            None => None,
            Some(number) => match known(number) {
                Some(key) => Some(key),
                None => return Ok((Err(StoreError::other(format!("{number} is no cursor of this bucket"))),)),
            },
        };
        if ends.len() >= CURSORS_MAX {
            return Ok((Err(StoreError::other("too many pages were listed with this bucket; open it again")),));
        }
        let bucket = bucket(&mut store, &held)?;
        let page = bucket.keys(&mut store.data_mut().tables, after.as_deref()).await;
        let (keys, end) = match page {
            Ok(page) => page,
            Err(error) => return Ok((Err(error),)),
        };
        let cursor = match end {
            None => None,
            Some(end) => {
                let ends = &mut table(&mut store).get_mut(&held)?.ends;
                ends.push(end);
                Some(ends.len() as u64)
            }
        };
        Ok((Ok(Keys { keys, cursor }),))
    })
}

fn define_batch(batch: &mut LinkerInstance<'_, State>) -> wasmtime::Result<()> {
    batch.func_wrap_async("get-many", |mut store: Store<'_>, (held, keys): (Resource<Opened>, Vec<String>)| {
        Box::new(async move {
            let bucket = bucket(&mut store, &held)?;
            Ok((bucket.read_many(&mut store.data_mut().tables, &keys).await,))
        })
    })?;
    batch.func_wrap_async(
        "set-many",
        |mut store: Store<'_>, (held, all): (Resource<Opened>, Vec<(String, Vec<u8>)>)| {
            Box::new(async move {
                let bucket = bucket(&mut store, &held)?;
                let changes = all.iter().map(|(key, value)| (key.as_str(), Some(value.as_slice())));
                Ok((bucket.change_many(&mut store.data_mut().tables, changes).await,))
            })
        },
    )?;
    batch.func_wrap_async("delete-many", |mut store: Store<'_>, (held, keys): (Resource<Opened>, Vec<String>)| {
        Box::new(async move {
            let bucket = bucket(&mut store, &held)?;
            let changes = keys.iter().map(|key| (key.as_str(), None));
            Ok((bucket.change_many(&mut store.data_mut().tables, changes).await,))
        })
    })
}

/// Adds to a number that stays within these bounds.
async fn increment<N: TryFrom<i128>>(
    store: &mut Store<'_>,
    held: &Resource<Opened>,
    key: &str,
    delta: i128,
    bounds: (i128, i128),
) -> Answered<N> {
    let bucket = bucket(store, held)?;
    let sum = bucket.add(&mut store.data_mut().tables, key, delta, bounds).await;
    let out = |_| StoreError::other("the number is out of range");
    Ok((sum.and_then(|sum| N::try_from(sum).map_err(out)),))
}

fn define_cas(atomics: &mut LinkerInstance<'_, State>) -> wasmtime::Result<()> {
    define_resource::<Cas>(atomics, "cas")?;
    atomics.func_wrap_async("[static]cas.new", |mut store: Store<'_>, (held, key): (Resource<Opened>, String)| {
        Box::new(async move {
            let bucket = bucket(&mut store, &held)?;
            let answer: Answered<_> = match bucket.read(&mut store.data_mut().tables, &key).await {
                Ok(seen) => Ok((Ok(table(&mut store).push(Cas { bucket, key, seen })?),)),
                Err(error) => Ok((Err(error),)),
            };
            answer
        })
    })?;
    atomics.func_wrap_async("[method]cas.current", |mut store: Store<'_>, (cas,): (Resource<Cas>,)| {
        Box::new(async move {
            let seen = table(&mut store).get(&cas)?.seen.as_ref();
            Ok((seen.map(pairs::bytes).transpose(),))
        })
    })?;
    atomics.func_wrap_async("swap", |mut store: Store<'_>, (cas, value): (Resource<Cas>, Vec<u8>)| {
        Box::new(async move {
            let Cas { bucket, key, seen } = table(&mut store).delete(cas)?;
            let swapped = bucket.swap(&mut store.data_mut().tables, &key, seen.as_ref(), &value).await;
            let answer = match swapped {
                Ok(None) => Ok(()),
                Ok(Some(seen)) => Err(CasError::Failed(table(&mut store).push(Cas { bucket, key, seen })?)),
                Err(error) => Err(CasError::Store(error)),
            };
            Ok((answer,))
        })
    })
}

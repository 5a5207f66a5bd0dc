//! The collector against everybody: random interleavings of uploads, adoptions, releases, holds, collections that are
//! cut between their steps, and clocks that jump. No blob that an owner has is ever gone; no other stays for ever.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use base::{ManualClock, SystemRandom};
use bytes::Bytes;
use proptest::prelude::*;
use store::references::{Holds, Mark, References, Step, decide};
use store::{
    BlobInfo, BlobReader, BlobWriter, Blobs, Claim, Claims, Error, MemoryBlobs, MemoryStore, Snapshot, Store, Txn,
    Version, Watch,
};
use tokio::sync::Semaphore;

const GRACE_MS: u64 = 1_000;
const PREFIX: u8 = b'b';

/// Lets one call through at a time, when the test says so: what comes between two calls is the test's choice.
struct Gate {
    steps: Semaphore,
    waiting: AtomicUsize,
    open: AtomicBool,
}

impl Gate {
    fn shared() -> Arc<Self> {
        Arc::new(Self { steps: Semaphore::new(0), waiting: AtomicUsize::new(0), open: AtomicBool::new(false) })
    }

    async fn pass(&self) {
        if !self.open.load(Ordering::SeqCst) {
            self.waiting.fetch_add(1, Ordering::SeqCst);
            self.steps.acquire().await.unwrap().forget();
        }
    }
}

struct GatedStore(Arc<MemoryStore>, Arc<Gate>);

#[async_trait]
impl Store for GatedStore {
    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, Error> {
        self.1.pass().await;
        self.0.snapshot().await
    }
    async fn commit(&self, txn: Txn) -> Result<Version, Error> {
        self.1.pass().await;
        self.0.commit(txn).await
    }
    async fn claim(&self, claim: Claim) -> Result<Claims, Error> {
        self.1.pass().await;
        self.0.claim(claim).await
    }
    fn watch(&self, prefix: &[u8]) -> Watch {
        self.0.watch(prefix)
    }
}

struct GatedBlobs(Arc<MemoryBlobs>, Arc<Gate>);

#[async_trait]
impl Blobs for GatedBlobs {
    async fn write(&self, name: &str) -> Result<Box<dyn BlobWriter>, Error> {
        self.0.write(name).await
    }
    async fn read(&self, name: &str, range: std::ops::Range<u64>) -> Result<Option<Box<dyn BlobReader>>, Error> {
        self.0.read(name, range).await
    }
    async fn info(&self, name: &str) -> Result<Option<BlobInfo>, Error> {
        self.0.info(name).await
    }
    async fn delete(&self, name: &str) -> Result<(), Error> {
        self.1.pass().await;
        self.0.delete(name).await
    }
    async fn names(&self, prefix: &str, after: Option<&str>, rows: usize) -> Result<store::blobs::Names, Error> {
        self.0.names(prefix, after, rows).await
    }
}

/// One that runs beside the others, a step of which is one call of the store or of the blobs.
struct Actor {
    gate: Arc<Gate>,
    task: Option<tokio::task::JoinHandle<()>>,
}

struct World {
    store: Arc<MemoryStore>,
    blobs: Arc<MemoryBlobs>,
    clock: Arc<ManualClock>,
    actors: Vec<Actor>,
    /// Uploads that are known to all, most of them owned by somebody.
    names: Arc<parking_lot::Mutex<Vec<String>>>,
    owner: u32,
}

impl World {
    fn new() -> Self {
        Self {
            store: Arc::new(MemoryStore::new()),
            blobs: Arc::new(MemoryBlobs::new()),
            clock: ManualClock::at_ms(1_000_000),
            actors: Vec::new(),
            names: Arc::default(),
            owner: 0,
        }
    }

    fn references(&self, gate: &Arc<Gate>) -> References {
        let store = Arc::new(GatedStore(Arc::clone(&self.store), Arc::clone(gate)));
        let blobs = Arc::new(GatedBlobs(Arc::clone(&self.blobs), Arc::clone(gate)));
        References::new(store, blobs, self.clock.clone(), SystemRandom::shared(), (PREFIX, "kept/"), GRACE_MS)
    }

    fn start(&mut self, action: Action) {
        let gate = Gate::shared();
        let references = self.references(&gate);
        let store = GatedStore(Arc::clone(&self.store), Arc::clone(&gate));
        let (names, blobs) = (Arc::clone(&self.names), Arc::clone(&self.blobs));
        self.owner += 1;
        let owner = self.owner;
        let now_ms = base::Clock::now_ms(&*self.clock);
        let task = tokio::spawn(async move {
            match action {
                Action::Upload => {
                    let name = references.begin("x").await.unwrap();
                    blobs.put(&name, Bytes::from_static(b"content")).await.unwrap();
                    names.lock().push(name.clone());
                    adopt(&references, &store, &name, owner).await;
                }
                Action::Abandon => drop(references.begin("x").await.unwrap()),
                Action::Share(pick) => {
                    let name = pick_of(&names, pick);
                    if let Some(name) = name {
                        adopt(&references, &store, &name, owner).await;
                    }
                }
                Action::Release(pick) => {
                    let Some(name) = pick_of(&names, pick) else { return };
                    let Some(owner) = owners(&*store.0, &name).await.into_iter().next() else { return };
                    let released = store.commit(references.release(Txn::new(), &name, &owner)).await;
                    assert!(matches!(released, Ok(_) | Err(Error::Conflict)));
                }
                Action::Collect => drop(references.collect(None).await.unwrap()),
                Action::Hold => Holds::new(PREFIX).take(&store, "backup", now_ms + 3 * GRACE_MS).await.unwrap(),
                Action::Unhold => Holds::new(PREFIX).end(&store, "backup").await.unwrap(),
                Action::Wait(_) | Action::Step(_) => unreachable!(),
            }
        });
        self.actors.push(Actor { gate, task: Some(task) });
    }

    /// Lets everybody come to the next call.
    async fn settle(&self) {
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
    }

    /// Lets one actor make one call, and waits until it waits again or is done.
    async fn step(&mut self, pick: usize) {
        self.actors.retain(|actor| actor.task.as_ref().is_some_and(|task| !task.is_finished()));
        let Some(count) = self.actors.len().checked_sub(1).map(|last| last + 1) else { return };
        let actor = &self.actors[pick % count];
        let before = actor.gate.waiting.load(Ordering::SeqCst);
        actor.gate.steps.add_permits(1);
        while actor.gate.waiting.load(Ordering::SeqCst) == before
            && actor.task.as_ref().is_some_and(|task| !task.is_finished())
        {
            tokio::task::yield_now().await;
        }
    }

    async fn check(&self) {
        for name in self.blobs_with_owners().await.keys() {
            assert!(self.blobs.info(name).await.unwrap().is_some(), "{name} is owned and gone");
        }
    }

    async fn blobs_with_owners(&self) -> BTreeMap<String, usize> {
        let mut found = BTreeMap::new();
        let names = self.names.lock().clone();
        for name in names {
            let owners = owners(&*self.store, &name).await.len();
            if owners > 0 {
                found.insert(name, owners);
            }
        }
        found
    }
}

fn pick_of(names: &parking_lot::Mutex<Vec<String>>, pick: usize) -> Option<String> {
    let names = names.lock();
    (!names.is_empty()).then(|| names[pick % names.len()].clone())
}

async fn owners(store: &dyn Store, name: &str) -> Vec<Vec<u8>> {
    let under = store::keys::Key::new(PREFIX).tag(b'r').text(name).done();
    let entries = store.range(&store::Range::prefix(under.clone())).await.unwrap().entries;
    entries.iter().map(|entry| store::keys::Parts::of(&entry.key[under.len()..]).bytes().unwrap()).collect()
}

async fn adopt(references: &References, store: &GatedStore, name: &str, owner: u32) {
    loop {
        let snapshot = store.snapshot().await.unwrap();
        let Some(txn) = references.adopt(&*snapshot, Txn::new(), name, &owner.to_be_bytes()).await.unwrap() else {
            return;
        };
        match store.commit(txn).await {
            Ok(_) => return,
            Err(Error::Conflict) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Action {
    Upload,
    Abandon,
    Share(usize),
    Release(usize),
    Collect,
    Hold,
    Unhold,
    Wait(u64),
    Step(usize),
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        1 => Just(Action::Upload),
        1 => Just(Action::Abandon),
        3 => any::<usize>().prop_map(Action::Share),
        5 => any::<usize>().prop_map(Action::Release),
        4 => Just(Action::Collect),
        1 => Just(Action::Hold),
        1 => Just(Action::Unhold),
        3 => (0..2 * GRACE_MS).prop_map(Action::Wait),
        40 => any::<usize>().prop_map(Action::Step),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn no_owned_blob_is_ever_taken_and_no_other_stays(actions in prop::collection::vec(action(), 1..200)) {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
            let mut world = World::new();
            for action in actions {
                match action {
                    Action::Wait(ms) => world.clock.advance(Duration::from_millis(ms)),
                    Action::Step(pick) => world.step(pick).await,
                    other => {
                        world.start(other);
                        world.settle().await;
                    }
                }
                world.check().await;
            }
            // Half of them die where they are, as in a crash; the others finish, in the order of their start.
            for (number, actor) in world.actors.iter_mut().enumerate() {
                let task = actor.task.take().unwrap();
                if number % 2 == 0 {
                    task.abort();
                }
                actor.gate.open.store(true, Ordering::SeqCst);
                actor.gate.steps.add_permits(1_000);
                let _ = task.await;
            }
            world.check().await;
            world.clock.advance(Duration::from_millis(10 * GRACE_MS));
            let gate = Gate::shared();
            gate.open.store(true, Ordering::SeqCst);
            let references = world.references(&gate);
            references.find_unmarked(None).await.unwrap();
            references.collect(None).await.unwrap();
            world.check().await;
            let left = world.blobs.list("").await.unwrap();
            let owned: Vec<String> = world.blobs_with_owners().await.into_keys().collect();
            assert_eq!(left, owned);
            assert_eq!(references.missing(None).await.unwrap(), (Vec::new(), None));
        });
    }

    #[test]
    fn nothing_is_condemned_that_somebody_has_or_holds_or_that_is_young(
        since in 0..3_000u64, has_owner: bool, held: bool, now in 0..3_000u64
    ) {
        let step = decide(Mark::Idle(since), has_owner, held, now, GRACE_MS);
        prop_assert!(step != Step::Remove, "never without being condemned before");
        prop_assert_eq!(step == Step::Condemn, !has_owner && !held && now >= since && now - since >= GRACE_MS);
        prop_assert_eq!(decide(Mark::Condemned, has_owner, held, now, GRACE_MS), Step::Remove);
    }
}

#[tokio::test]
async fn a_blob_without_a_mark_is_found_and_ends() {
    let world = World::new();
    let gate = Gate::shared();
    gate.open.store(true, Ordering::SeqCst);
    let references = world.references(&gate);
    world.blobs.put("kept/lost", Bytes::new()).await.unwrap();
    world.blobs.put("other/lost", Bytes::new()).await.unwrap();
    references.find_unmarked(None).await.unwrap();
    assert_eq!(references.collect(None).await.unwrap().removed, 0, "it gets the grace first");
    world.clock.advance(Duration::from_millis(GRACE_MS));
    assert_eq!(references.collect(None).await.unwrap().removed, 1);
    assert_eq!(world.blobs.list("").await.unwrap(), ["other/lost"], "others' names are others' matter");
}

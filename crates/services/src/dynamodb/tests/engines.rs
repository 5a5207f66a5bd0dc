//! The stores that tests of the service run over: each engine, and what nodes it can have.
//!
//! Wherever one store can serve several nodes, two services stand over it, with one clock.

use std::sync::Arc;

use base::{ManualClock, SeededRandom, SystemClock, SystemRandom};
use store::encrypted::{EncryptedStore, KeyRing, MasterKey};
use store::{EmbeddedConfig, MemoryBlobs, MemoryStore, PostgresConfig, Store, embedded, postgres};

use super::super::{Config, DynamoDb};
use super::Bench;

/// The server that the store's own tests start too: one for the tests of a program, ended with them.
#[path = "../../../../store/tests/support/mod.rs"]
mod support;

/// How many runs `DUNLIN_CASES` asks for, in place of the few of every build.
pub(super) fn asked_for() -> Option<u32> {
    std::env::var("DUNLIN_CASES").ok().map(|text| text.parse().unwrap())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Engine {
    Memory,
    Embedded,
    /// Over the embedded one.
    Encrypted,
    Postgres,
    /// Two stores over one database.
    TwoNodes,
}

/// Two services over one store, and what must live as long.
pub(super) struct Nodes {
    pub(super) nodes: [Bench; 2],
    _folder: Option<tempfile::TempDir>,
}

impl Engine {
    /// Whether a commit takes no disk.
    pub(super) fn is_quick(self) -> bool {
        self == Self::Memory
    }

    pub(super) async fn open(self) -> Nodes {
        match self {
            Self::Memory => Nodes::over([MemoryStore::shared()], None),
            Self::Embedded => {
                let (store, folder) = on_disk();
                Nodes::over([store], Some(folder))
            }
            Self::Encrypted => {
                let (store, folder) = on_disk();
                let random = SystemRandom::shared();
                let master = MasterKey::parse(&"7a".repeat(32)).unwrap();
                let ring = KeyRing::open(&*store, &MemoryBlobs::new(), &master, None, &*random).await.unwrap();
                Nodes::over([Arc::new(EncryptedStore::new(store, Arc::new(ring), random))], Some(folder))
            }
            Self::Postgres => Nodes::over([on_postgres(&support::fresh_schema()).await], None),
            Self::TwoNodes => {
                let schema = support::fresh_schema();
                let (one, other) = tokio::join!(on_postgres(&schema), on_postgres(&schema));
                Nodes::over([one, other], None)
            }
        }
    }
}

fn on_disk() -> (Arc<dyn Store>, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let store = embedded::open(EmbeddedConfig::new(folder.path(), SystemClock::shared())).unwrap();
    (Arc::new(store), folder)
}

async fn on_postgres(schema: &str) -> Arc<dyn Store> {
    let mut config = PostgresConfig::new(support::shared().url(), SystemRandom::shared());
    config.schema = schema.to_owned();
    config.on_fatal = Arc::new(|reason| panic!("{reason}"));
    Arc::new(postgres::open(config).await.unwrap())
}

impl Nodes {
    fn over<const STORES: usize>(stores: [Arc<dyn Store>; STORES], folder: Option<tempfile::TempDir>) -> Self {
        let clock = ManualClock::at_ms(1_700_000_000_123);
        let node = |number: usize| {
            let (store, random) = (stores[number % STORES].clone(), SeededRandom::new(number as u64 + 1));
            Bench { service: DynamoDb::new(store, clock.clone(), random, Config::default()), clock: clock.clone() }
        };
        Self { nodes: [node(0), node(1)], _folder: folder }
    }

    /// With a table `items`: key `id` (S).
    pub(super) async fn with_items(self) -> Self {
        self.nodes[0].create("items", &[("id", "S")]).await;
        self
    }
}

/// Each of these tests, over every engine.
macro_rules! over_each_engine {
    ($($name:ident),* $(,)?) => {
        over_each_engine!(@ in_memory Memory $($name)*);
        over_each_engine!(@ on_disk Embedded $($name)*);
        over_each_engine!(@ encrypted Encrypted $($name)*);
        over_each_engine!(@ on_postgres Postgres $($name)*);
        over_each_engine!(@ on_two_nodes TwoNodes $($name)*);
    };
    (@ $module:ident $engine:ident $($name:ident)*) => {
        mod $module {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name(super::Engine::$engine).await; })*
        }
    };
}

pub(super) use over_each_engine;

//! The way between a node and PostgreSQL, cut at each step of a commit.
//!
//! A proxy stands between: it passes on the messages of one direction until the one that is to be cut, and then breaks
//! the connection, or swallows everything and stays silent. So each message of each round trip, both ways, is once the
//! last: among them the commit's own, and the answer to it, which is then lost although the commit happened. Held back
//! is also tried: the message comes to the server only after the node has given the connection up.
//!
//! Commits go on meanwhile. Afterwards: each that was acknowledged is there once, none twice, none that was refused as a
//! conflict, and the node works. `DUNLIN_CUTS` says how many steps are tried (default 40, of all there are).

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use base::SystemRandom;
use bytes::Bytes;
use parking_lot::Mutex;
use store::postgres::{Deadlines, Postgres, PostgresConfig};
use store::{Claim, Error, Range, Store, Txn, postgres};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Notify;

mod support;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    ToServer,
    ToNode,
}

/// What happens to the message that is to be cut, and to all after it on its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    /// Both ends are closed; what was passed on before arrives.
    Break,
    /// It is swallowed, and neither end hears of it.
    Silence,
    /// It arrives after the node has closed its end.
    Late,
}

/// What the proxy is to do. One cut at a time.
#[derive(Default)]
struct Plan {
    /// The message, counted over all connections of a committer from when the plan was made.
    cut: Mutex<Option<(Way, usize, Cut)>>,
    seen: [AtomicUsize; 2],
    done: AtomicBool,
    mute: Mutex<Option<Mute>>,
}

/// Which new connections fall silent, whoever they are for.
#[derive(Clone, Copy)]
struct Mute {
    /// So many are let through before.
    skip: usize,
    /// So many fall silent.
    most: usize,
    /// After so many of the node's messages.
    messages: usize,
}

impl Plan {
    /// Counts a message; says what is to be done with it.
    fn next(&self, way: Way) -> Option<Cut> {
        let number = self.seen[way as usize].fetch_add(1, Ordering::SeqCst);
        let mut cut = self.cut.lock();
        let (wanted, place, how) = (*cut)?;
        if wanted != way || number != place {
            return None;
        }
        *cut = None;
        self.done.store(true, Ordering::SeqCst);
        Some(how)
    }

    /// After how many messages a connection that is made now falls silent.
    fn muted(&self) -> Option<usize> {
        let mut mute = self.mute.lock();
        let mute = mute.as_mut()?;
        if mute.skip > 0 {
            mute.skip -= 1;
            return None;
        }
        mute.most = mute.most.checked_sub(1)?;
        Some(mute.messages)
    }

    fn set(&self, cut: Option<(Way, usize, Cut)>) {
        self.seen.iter().for_each(|seen| seen.store(0, Ordering::SeqCst));
        self.done.store(false, Ordering::SeqCst);
        *self.cut.lock() = cut;
    }
}

/// Starts a proxy; the folder is where PostgreSQL seems to be.
fn proxy(server: PathBuf, plan: Arc<Plan>) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(folder.path().join(server.file_name().unwrap())).unwrap();
    tokio::spawn(async move {
        while let Ok((node, _)) = listener.accept().await {
            let Ok(server) = UnixStream::connect(&server).await else { continue };
            let ((from_node, to_node), (from_server, to_server)) = (node.into_split(), server.into_split());
            let connection = Arc::new(Connection { mute_after: plan.muted(), ..Connection::default() });
            tokio::spawn(pass(from_node, to_server, Way::ToServer, Arc::clone(&plan), Arc::clone(&connection)));
            tokio::spawn(pass(from_server, to_node, Way::ToNode, Arc::clone(&plan), connection));
        }
    });
    folder
}

/// What both directions of one connection know.
#[derive(Default)]
struct Connection {
    /// Whether it is one of a committer: only these are cut.
    commits: AtomicBool,
    /// It is to fall silent after so many of the node's messages.
    mute_after: Option<usize>,
    /// Nothing is passed on any more.
    silent: AtomicBool,
    broken: Notify,
}

/// Passes messages on, one after another.
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, way: Way, plan: Arc<Plan>, connection: Arc<Connection>) {
    let mut first = way == Way::ToServer;
    let mut mute = connection.mute_after.filter(|_| way == Way::ToServer);
    loop {
        let message = tokio::select! {
            message = message(&mut from, first) => message,
            () = connection.broken.notified() => None,
        };
        let Some(message) = message else {
            connection.broken.notify_one();
            return;
        };
        first = false;
        if contains(&message, b"merge_1") || contains(&message, b"pg_advisory_xact_lock") {
            connection.commits.store(true, Ordering::SeqCst);
        }
        if mute == Some(0) {
            connection.silent.store(true, Ordering::SeqCst);
        }
        mute = mute.map(|left| left.saturating_sub(1));
        if connection.silent.load(Ordering::SeqCst) {
            continue;
        }
        let cut = if connection.commits.load(Ordering::SeqCst) { plan.next(way) } else { None };
        match cut {
            None => {
                if to.write_all(&message).await.is_err() {
                    connection.broken.notify_one();
                    return;
                }
            }
            Some(Cut::Break) => {
                connection.broken.notify_one();
                return;
            }
            Some(Cut::Silence) => connection.silent.store(true, Ordering::SeqCst),
            Some(Cut::Late) => {
                connection.silent.store(true, Ordering::SeqCst);
                let mut late = message;
                // All that follows, until the node has given up.
                while let Some(more) = self::message(&mut from, false).await {
                    late.extend_from_slice(&more);
                }
                tokio::time::sleep(Duration::from_millis(60)).await;
                let _ = to.write_all(&late).await;
                // The server answers into nothing.
                tokio::time::sleep(Duration::from_millis(60)).await;
                connection.broken.notify_one();
                return;
            }
        }
    }
}

/// One message; nothing at the end.
async fn message(from: &mut OwnedReadHalf, first: bool) -> Option<Vec<u8>> {
    // The first of a connection has no letter before its length.
    let head_bytes = if first { 4 } else { 5 };
    let mut message = vec![0; head_bytes];
    from.read_exact(&mut message).await.ok()?;
    let length = u32::from_be_bytes(message[head_bytes - 4..].try_into().unwrap());
    message.resize(head_bytes + length as usize - 4, 0);
    from.read_exact(&mut message[head_bytes..]).await.ok()?;
    Some(message)
}

fn contains(message: &[u8], word: &[u8]) -> bool {
    message.windows(word.len()).any(|window| window == word)
}

/// A node behind a proxy, one beside it, and what was committed.
struct Scene {
    node: Arc<Postgres>,
    beside: Arc<Postgres>,
    plan: Arc<Plan>,
    acknowledged: Vec<Bytes>,
    /// May be there or not: refused because the server was away.
    unknown: Vec<Bytes>,
    next: usize,
    _folder: tempfile::TempDir,
}

impl Scene {
    async fn new() -> Self {
        Self::patient(Duration::from_secs(5)).await
    }

    /// With a node that waits so long for a server that cannot be reached.
    async fn patient(unreachable: Duration) -> Self {
        let server = support::shared();
        let plan = Arc::new(Plan::default());
        let folder = proxy(server.socket(), Arc::clone(&plan));
        let schema = support::fresh_schema();
        let url = server.url();
        let (_, rest) = url.split_once(' ').unwrap();
        let config = |host: &std::path::Path| {
            let mut config = PostgresConfig::new(format!("host={} {rest}", host.display()), SystemRandom::shared());
            config.schema.clone_from(&schema);
            let [round_trip, unknown] = [150, 10_000].map(Duration::from_millis);
            config.deadlines = Deadlines { unreachable, round_trip, unknown };
            config.on_fatal = Arc::new(|reason| panic!("{reason}"));
            config
        };
        // Nothing stands in the way of this one: its answers may take their time.
        let mut direct = config(server.socket().parent().unwrap());
        direct.deadlines = Deadlines::default();
        let beside = Arc::new(postgres::open(direct).await.unwrap());
        let node = postgres::open(config(folder.path())).await.unwrap();
        let (acknowledged, unknown) = (Vec::new(), Vec::new());
        Self { node: Arc::new(node), beside, plan, acknowledged, unknown, next: 0, _folder: folder }
    }

    /// Some commits at once, of each kind: what the quick way takes, what it does not, and what collides.
    async fn commit_some(&mut self) {
        let mut commits = Vec::new();
        // Every other batch expects nothing: nothing but the node's care keeps it from happening twice.
        let kinds = if self.next.is_multiple_of(8) { [0, 1, 2, 3] } else { [2; 4] };
        for kind in kinds {
            let key = Bytes::from(format!("record/{:06}/{kind}", self.next));
            self.next += 1;
            let blind = Txn::new().put(key.clone(), "x");
            let txn = blind.clone().expect_absent(key.clone());
            let txn = match kind {
                0 => txn,
                1 => txn.add("sum", 1),
                2 => blind.put_numbered("numbered/", "", key.clone()),
                _ => txn.expect_range(Range::prefix(key.clone()), self.beside.snapshot().await.unwrap().version()),
            };
            let node = Arc::clone(&self.node);
            commits.push((key, kind, tokio::spawn(async move { node.commit(txn).await })));
        }
        // Makes the node's suppositions wrong now and then, so that it goes the long way for a while.
        if self.next.is_multiple_of(40) {
            self.beside.commit(Txn::new().add("sum", 1_000_000)).await.unwrap();
        }
        for (key, _, commit) in commits {
            match commit.await.unwrap() {
                Ok(_) => self.acknowledged.push(key),
                Err(Error::Io(_)) => self.unknown.push(key),
                Err(error) => panic!("{key:?}: {error}"),
            }
        }
    }

    /// Messages of one round without a cut, each way.
    async fn steps(&mut self) -> [usize; 2] {
        self.commit_some().await;
        self.plan.set(None);
        self.commit_some().await;
        [Way::ToServer, Way::ToNode].map(|way| self.plan.seen[way as usize].load(Ordering::SeqCst))
    }

    async fn check(&mut self, what: &str) {
        let store = &self.beside;
        let found = store.range(&Range::prefix("record/")).await.unwrap().entries;
        let keys: Vec<&Bytes> = found.iter().map(|entry| &entry.key).collect();
        for key in &self.acknowledged {
            assert!(keys.contains(&key), "{what}: {key:?} was acknowledged and is lost");
        }
        let known = |key: &Bytes| self.acknowledged.contains(key) || self.unknown.contains(key);
        assert!(keys.iter().all(|key| known(key)), "{what}: something is there that was never tried");
        // Each numbered key and each count belongs to one record: what happened twice would be there twice.
        let numbered = store.range(&Range::prefix("numbered/")).await.unwrap().entries;
        let mut of: Vec<Bytes> = numbered.iter().map(|entry| entry.value.clone()).collect();
        of.sort_unstable();
        let wanted = |kind: u8| keys.iter().filter(move |key| key.ends_with(&[b'0' + kind])).map(|key| (*key).clone());
        assert_eq!(of, wanted(2).collect::<Vec<_>>(), "{what}: a commit happened twice or in half");
        let sum =
            store.get(b"sum").await.unwrap().map_or(0, |entry| i64::from_le_bytes(entry.value[..].try_into().unwrap()));
        assert_eq!(usize::try_from(sum % 1_000_000).unwrap(), wanted(1).count(), "{what}: a count is lost or doubled");
        assert!(
            numbered.iter().all(|entry| entry.key[9..] == entry.version.to_be_bytes()),
            "{what}: a number is wrong"
        );
    }
}

fn cuts() -> usize {
    std::env::var("DUNLIN_CUTS").map_or(40, |cuts| cuts.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_at_any_step_a_commit_happens_once_or_not_at_all() {
    let mut scene = Scene::new().await;
    let [to_server, to_node] = scene.steps().await;
    assert!(to_server >= 3 && to_node >= 3, "{to_server} and {to_node} messages");
    let mut all = Vec::new();
    for how in [Cut::Break, Cut::Silence, Cut::Late] {
        // Beyond one round: reconnecting, looking up and going the long way are cut too.
        all.extend((0..3 * to_server).map(|place| (Way::ToServer, place, how)));
        if how != Cut::Late {
            all.extend((0..3 * to_node).map(|place| (Way::ToNode, place, how)));
        }
    }
    let every = all.len().div_ceil(cuts()).max(1);
    let mut made = 0;
    for (number, cut) in all.iter().enumerate().filter(|(number, _)| number % every == 0) {
        scene.plan.set(Some(*cut));
        for _ in 0..8 {
            scene.commit_some().await;
            if scene.plan.done.load(Ordering::SeqCst) {
                break;
            }
        }
        made += usize::from(scene.plan.done.load(Ordering::SeqCst));
        scene.plan.set(None);
        // The node goes on working.
        let before = scene.acknowledged.len();
        scene.commit_some().await;
        assert!(scene.acknowledged.len() > before, "after {cut:?} nothing is committed any more");
        if number % (8 * every) == 0 {
            scene.check(&format!("{cut:?}")).await;
        }
    }
    scene.check("at the end").await;
    println!("cut {made} times; {} commits acknowledged, none lost or doubled", scene.acknowledged.len());
    assert!(made * 10 >= all.len().div_ceil(every) * 8, "only {made} cuts were made");
}

/// A connection whose server falls silent while it is made is given up like any other: by commits and by reads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_falls_silent_while_a_node_connects_holds_up_nobody() {
    let mut scene = Scene::patient(Duration::from_millis(400)).await;
    scene.commit_some().await;
    for messages in (1..24).step_by(if cuts() > 40 { 1 } else { 3 }) {
        let (silent, patience) = (format!("silent after {messages} messages"), Duration::from_secs(30));
        // A snapshot needs a connection of its own, as none is left of an earlier one.
        *scene.plan.mute.lock() = Some(Mute { skip: 0, most: usize::MAX, messages });
        let read = async { scene.node.snapshot().await?.get(b"sum").await };
        let read = tokio::time::timeout(patience, read).await;
        let read = read.unwrap_or_else(|_| panic!("{silent}: a read waits for ever"));
        assert!(messages > 12 || matches!(read, Err(Error::Io(_))), "{silent}: {read:?}");
        // The first new connection looks up what became of the commit, the second goes on with the next one.
        *scene.plan.mute.lock() = Some(Mute { skip: 1, most: 1, messages });
        scene.plan.set(Some((Way::ToServer, 0, Cut::Break)));
        let commits = tokio::time::timeout(patience, scene.commit_some()).await;
        commits.unwrap_or_else(|_| panic!("{silent}: commits wait for ever"));
        *scene.plan.mute.lock() = None;
        scene.plan.set(None);
        let before = scene.acknowledged.len();
        scene.commit_some().await;
        assert!(scene.acknowledged.len() > before, "{silent}, nothing is committed any more");
    }
    scene.check("at the end").await;
}

/// What other nodes committed before the commit is then not known: nothing may be decided as if there was nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_lost_answer_the_commits_of_others_still_count() {
    let scene = Scene::new().await;
    for place in 0..4 {
        let read = scene.node.commit(Txn::new().put("mine", "x")).await.unwrap();
        scene.beside.commit(Txn::new().put(format!("range/{place}"), "x")).await.unwrap();
        scene.plan.set(Some((Way::ToNode, place, Cut::Break)));
        scene.node.commit(Txn::new().put("answer lost", "x")).await.unwrap();
        scene.plan.set(None);
        let late = Txn::new().expect_range(Range::prefix("range/"), read).put("late", "x");
        let outcome = scene.node.commit(late).await;
        assert!(matches!(outcome, Err(Error::Conflict | Error::TooOld)), "{place}: {outcome:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_whose_answer_is_lost_is_found_by_its_lease() {
    let scene = Scene::new().await;
    let offer = |number: usize| Txn::new().offer("queue/", format!("{number:02}"), 0, "x");
    for number in 0..8 {
        scene.beside.commit(offer(number)).await.unwrap();
    }
    let mut taken = Vec::new();
    for place in 0..8 {
        scene.plan.set(Some((Way::ToNode, place * 2, Cut::Break)));
        let claims = scene.node.claim(Claim::new("queue/", 1, 60_000)).await.unwrap();
        taken.extend(claims.entries.into_iter().map(|entry| entry.id));
    }
    // A claim is done again only if it did not happen: no entry is hidden behind a lease that nobody holds.
    taken.sort_unstable();
    assert_eq!(taken, (0..8).map(|number| Bytes::from(format!("{number:02}"))).collect::<Vec<_>>());
}

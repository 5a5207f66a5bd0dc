//! What nodes over PostgreSQL promise when connections break and the server dies: nothing acknowledged is lost, nothing
//! happens twice, and nobody has to do anything for it to go on. `DUNLIN_KILLS` says how often the server dies (default 2).

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base::SystemRandom;
use bytes::Bytes;
use store::{Claim, Error, Lag, Postgres, PostgresConfig, Range, Replica, Store, Txn, postgres};
use tokio_postgres::NoTls;

mod support;

fn config(server: &support::Server, schema: &str) -> PostgresConfig {
    let mut config = PostgresConfig::new(server.url(), SystemRandom::shared());
    config.schema = schema.to_owned();
    config.on_fatal = Arc::new(|reason| panic!("{reason}"));
    config
}

async fn two_nodes(server: &support::Server) -> [Arc<Postgres>; 2] {
    let schema = support::fresh_schema();
    let (one, other) = tokio::join!(postgres::open(config(server, &schema)), postgres::open(config(server, &schema)));
    [Arc::new(one.unwrap()), Arc::new(other.unwrap())]
}

/// Commits from several tasks on both nodes until told to stop. Each commit counts one up and leaves a record of its own.
async fn work(nodes: &[Arc<Postgres>; 2], stop: &Arc<AtomicBool>) -> Vec<Bytes> {
    let workers = (0..8).map(|worker: usize| {
        let (node, stop) = (Arc::clone(&nodes[worker % 2]), Arc::clone(stop));
        tokio::spawn(async move {
            let mut acknowledged = Vec::new();
            for number in 0.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let key = Bytes::from(format!("record/{worker}/{number}"));
                // Were it done twice, the second time would be refused here or counted in the sum.
                let txn = Txn::new().expect_absent(key.clone()).put(key.clone(), "x").add("sum", 1);
                match node.commit(txn).await {
                    Ok(_) => acknowledged.push(key),
                    Err(error) => panic!("{key:?}: {error}"),
                }
            }
            acknowledged
        })
    });
    let mut acknowledged = Vec::new();
    for worker in workers.collect::<Vec<_>>() {
        acknowledged.extend(worker.await.unwrap());
    }
    acknowledged
}

/// Every acknowledged record is there, no other is, and each was counted once.
async fn check(store: &dyn Store, mut acknowledged: Vec<Bytes>) {
    acknowledged.sort_unstable();
    let found = store.range(&Range::prefix("record/")).await.unwrap();
    let found: Vec<Bytes> = found.entries.into_iter().map(|entry| entry.key).collect();
    assert_eq!(found, acknowledged);
    let sum = store.get(b"sum").await.unwrap().unwrap().value;
    assert_eq!(i64::from_le_bytes(sum[..].try_into().unwrap()), i64::try_from(acknowledged.len()).unwrap());
}

async fn administrator(server: &support::Server) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(&server.url(), NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_connections_and_a_dying_server_lose_and_double_nothing() {
    // A server of its own: the others' connections are not to be broken.
    let server = Arc::new(support::Server::start());
    let nodes = two_nodes(&server).await;
    let stop = Arc::new(AtomicBool::new(false));
    let working = tokio::spawn({
        let (nodes, stop) = (nodes.clone(), Arc::clone(&stop));
        async move { work(&nodes, &stop).await }
    });
    // At whatever step of a commit each connection is just then.
    let admin = administrator(&server).await;
    for _ in 0..40 {
        let ended = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'dunlin'";
        admin.query_one(ended, &[]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    let kills = std::env::var("DUNLIN_KILLS").map_or(2, |kills| kills.parse().unwrap());
    for _ in 0..kills {
        let dying = Arc::clone(&server);
        tokio::task::spawn_blocking(move || dying.crash()).await.unwrap();
        // Work goes on by itself: something new is committed on either node.
        for node in &nodes {
            node.commit(Txn::new().put("after a crash", "x")).await.unwrap();
        }
    }
    stop.store(true, Ordering::Relaxed);
    let acknowledged = working.await.unwrap();
    assert!(acknowledged.len() > 50, "only {} commits", acknowledged.len());
    println!("server killed {kills} times, {} commits acknowledged, none lost or doubled", acknowledged.len());
    check(&*nodes[1], acknowledged).await;
}

/// The number that a node supposes for its next commit is another node's by then: of two in one batch, the second must
/// not take what the first writes for what the other node wrote.
/// A node that joins changes no table that others use: it would wait for them, and they for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_join_while_others_commit_and_read() {
    let server = support::shared();
    let schema = support::fresh_schema();
    let node = async || Arc::new(postgres::open(config(server, &schema)).await.unwrap());
    let nodes = [node().await, node().await];
    let stop = Arc::new(AtomicBool::new(false));
    let working = {
        let (nodes, stop) = (nodes.clone(), Arc::clone(&stop));
        tokio::spawn(async move { work(&nodes, &stop).await })
    };
    let reading = {
        let (node, stop) = (Arc::clone(&nodes[0]), Arc::clone(&stop));
        tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                node.range(&Range::prefix("record/").rows(50)).await.unwrap();
            }
        })
    };
    for number in 0..40 {
        let joined = postgres::open(config(server, &schema)).await;
        joined.unwrap_or_else(|error| panic!("node {number}: {error}")).close().await.unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    reading.await.unwrap();
    check(&*nodes[1], working.await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_the_server_gives_up_for_another_is_decided_anew() {
    let server = support::shared();
    let (other, schema) = (administrator(server).await, support::fresh_schema());
    // The one that has waited for a second is given up. Seldom is that the other, and it is tried with the next node.
    for number in 0..5 {
        let node = Arc::new(postgres::open(config(server, &schema)).await.unwrap());
        node.commit(Txn::new().offer("queue/", format!("{number}"), 0, "x")).await.unwrap();
        other.batch_execute(&format!("BEGIN; LOCK TABLE {schema}.kv IN ACCESS EXCLUSIVE MODE")).await.unwrap();
        let claiming = {
            let node = Arc::clone(&node);
            // Claims go the long way.
            tokio::spawn(async move { node.claim(Claim::new("queue/", 10, 60_000)).await })
        };
        // It waits for the table, and the other for the lock that it holds.
        let wanted = format!(
            "SELECT (a.classid::bigint << 32) | a.objid::bigint FROM pg_locks AS w JOIN pg_locks AS a USING (pid)
             WHERE w.relation = '{schema}.kv'::regclass AND NOT w.granted AND a.locktype = 'advisory' AND a.granted"
        );
        let lock: i64 = loop {
            match other.query_opt(&wanted, &[]).await.unwrap() {
                Some(row) => break row.get(0),
                None => tokio::task::yield_now().await,
            }
        };
        let got = other.execute("SELECT pg_advisory_xact_lock($1)", &[&lock]).await;
        other.batch_execute("ROLLBACK").await.unwrap();
        assert_eq!(claiming.await.unwrap().unwrap().entries.len(), 1);
        node.close().await.unwrap();
        if got.is_ok() {
            return;
        }
    }
    panic!("no commit was given up");
}

#[tokio::test]
async fn a_table_that_is_missing_is_made_beside_nodes_that_work() {
    let server = support::shared();
    let (working, schema) = (administrator(server).await, support::fresh_schema());
    postgres::open(config(server, &schema)).await.unwrap().close().await.unwrap();
    // As a store of an earlier release would be, and what a node holds in the middle of a commit.
    let earlier =
        format!("DROP TABLE {schema}.uploads; BEGIN; LOCK TABLE {schema}.kv, {schema}.batches IN ROW EXCLUSIVE MODE");
    working.batch_execute(&earlier).await.unwrap();
    let node = tokio::time::timeout(Duration::from_secs(20), postgres::open(config(server, &schema))).await;
    let node = node.expect("it waits for no other node").unwrap();
    working.batch_execute("ROLLBACK").await.unwrap();
    let there = format!("SELECT to_regclass('{schema}.uploads') IS NOT NULL");
    assert!(working.query_one(&there, &[]).await.unwrap().get::<_, bool>(0));
    node.commit(Txn::new().put("a", "x")).await.unwrap();
}

#[tokio::test]
async fn what_another_node_wrote_is_not_taken_for_an_earlier_write_of_the_same_batch() {
    let [one, other] = two_nodes(support::shared()).await;
    one.commit(Txn::new().put("first", "x")).await.unwrap();
    for ahead in 1..=3 {
        // Each of the next commits that the node has not heard of, in turn.
        let mut read = 0;
        for number in 1..=3 {
            let version = other.commit(Txn::new().put(format!("{number}"), "other")).await.unwrap();
            if number == ahead {
                read = version;
            }
        }
        let key = format!("{ahead}");
        // Both wait when the committer comes to them, so they are one batch.
        let (first, second) = tokio::join!(
            one.commit(Txn::new().put("filler", "x").put(key.clone(), "one")),
            one.commit(Txn::new().expect_version(key.clone(), read).put("second", "x")),
        );
        first.unwrap();
        assert!(matches!(second, Err(Error::Conflict)), "{ahead}: {second:?} although the key was written before");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_node_has_finished_what_it_took_in() {
    let [one, other] = two_nodes(support::shared()).await;
    let commits: Vec<_> = (0..50)
        .map(|number| {
            let node = Arc::clone(&one);
            tokio::spawn(
                async move { node.commit(Txn::new().put(format!("record/{number:02}"), "x").add("sum", 1)).await },
            )
        })
        .collect();
    // The first of them is on its way.
    while other.get(b"sum").await.unwrap().is_none() {
        tokio::task::yield_now().await;
    }
    one.close().await.unwrap();
    let mut acknowledged = Vec::new();
    for (number, commit) in commits.into_iter().enumerate() {
        match commit.await.unwrap() {
            Ok(_) => acknowledged.push(Bytes::from(format!("record/{number:02}"))),
            Err(Error::Closed) => {}
            Err(error) => panic!("{error}"),
        }
    }
    check(&*other, acknowledged).await;
    assert!(matches!(one.commit(Txn::new()).await, Err(Error::Closed)));
    assert!(matches!(one.get(b"sum").await, Err(Error::Closed)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_database_s_own_isolation_level_does_not_matter() {
    let server = Arc::new(support::Server::start());
    let admin = administrator(&server).await;
    admin.batch_execute("ALTER DATABASE postgres SET default_transaction_isolation = 'repeatable read'").await.unwrap();
    let nodes = two_nodes(&server).await;
    let adders = (0..8).map(|adder: usize| {
        let node = Arc::clone(&nodes[adder % 2]);
        tokio::spawn(async move {
            for _ in 0..20 {
                node.commit(Txn::new().add("sum", 1)).await.unwrap();
            }
        })
    });
    for adder in adders.collect::<Vec<_>>() {
        adder.await.unwrap();
    }
    assert_eq!(nodes[0].get(b"sum").await.unwrap().unwrap().value[..], 160_i64.to_le_bytes());
}

#[tokio::test]
async fn what_cannot_be_opened_says_why() {
    let refused = async |change: &dyn Fn(&mut PostgresConfig)| {
        let mut config = config(support::shared(), "dunlin_refused");
        change(&mut config);
        postgres::open(config).await.err().unwrap().to_string()
    };
    assert!(refused(&|config| config.schema = "Drop Table".into()).await.contains("cannot name a schema"));
    assert!(refused(&|config| config.url = "postgres://%zz".into()).await.contains("address"));
    assert!(refused(&|config| config.url += " sslmode=maybe").await.contains("sslmode"));
    let no_database = refused(&|config| config.url += " dbname=nothing").await;
    assert!(no_database.contains("\"nothing\" does not exist"), "{no_database}");
    let nobody_there = refused(&|config| config.url = "host=/nowhere user=x".into()).await;
    assert!(nobody_there.contains("cannot be reached"), "{nobody_there}");
    let admin = administrator(support::shared()).await;
    drop(postgres::open(config(support::shared(), "dunlin_newer")).await.unwrap());
    admin.execute("UPDATE dunlin_newer.meta SET format = 99", &[]).await.unwrap();
    assert!(refused(&|config| config.schema = "dunlin_newer".into()).await.contains("newer release"));
}

/// Waits until the engine's lag is as wanted.
async fn lag_that(node: &Postgres, wanted: impl Fn(u64, &[Replica]) -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    loop {
        let lag = node.stats().await.unwrap().lag.unwrap();
        if matches!(&lag, Lag::Database { untold, replicas } if wanted(*untold, replicas)) {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "{lag:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_tells_what_it_and_the_replicas_have_not_heard_of() {
    // A server of its own, as the others' would be followed too.
    let server = support::Server::start();
    let [one, other] = two_nodes(&server).await;
    other.commit(Txn::new().put("a", "1")).await.unwrap();
    lag_that(&one, |untold, replicas| untold == 0 && replicas.is_empty()).await;

    let follower = server.follower("follower_1");
    let behind = |replicas: &[Replica]| replicas.first().and_then(|replica| replica.behind_bytes);
    lag_that(&one, |_, replicas| behind(replicas) == Some(0) && replicas[0].name == "follower_1").await;
    follower.stand_still(true);
    other.commit(Txn::new().put("b", vec![7; 900_000])).await.unwrap();
    lag_that(&one, |_, replicas| behind(replicas) > Some(500_000)).await;
    follower.stand_still(false);
    lag_that(&one, |_, replicas| behind(replicas) == Some(0)).await;

    // Who may not look is told that there is one, and not how far it is.
    let admin = administrator(&server).await;
    admin.batch_execute("CREATE ROLE plain LOGIN; GRANT CREATE ON DATABASE postgres TO plain").await.unwrap();
    let plain_schema = support::fresh_schema();
    let mut as_plain = config(&server, &plain_schema);
    as_plain.url = as_plain.url.replace("user=dunlin", "user=plain");
    let plain = postgres::open(as_plain).await.unwrap();
    lag_that(&plain, |_, replicas| matches!(replicas, [replica] if replica.behind_bytes.is_none())).await;
    drop(follower);
    lag_that(&one, |_, replicas| replicas.is_empty()).await;

    // Commits of which there is no news.
    let schema = "SELECT table_schema FROM information_schema.tables WHERE table_name = 'meta' AND table_schema <> $1";
    let schema: String = admin.query_one(schema, &[&plain_schema]).await.unwrap().get(0);
    admin.execute(&format!("UPDATE {schema}.meta SET version = version + 5"), &[]).await.unwrap();
    lag_that(&one, |untold, _| untold == 5).await;
}

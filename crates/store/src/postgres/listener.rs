//! Watches across nodes: what the others have written, learned from `batches`.
//!
//! Notifications are hints that are sent outside every commit, since a notifying transaction of PostgreSQL takes a lock
//! over the whole database. One that is lost, or a connection that breaks, costs the time of a slow poll and no change:
//! rows are read from the last one seen.
//!
//! Invariant: every batch of another node touches the watches of this one, or, if its row was gone before it could be
//! read, all watches are.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::Shared;
use super::session::{Fault, Session, fault};
use crate::contract::{Error, Version};

/// How often rows are looked for without a hint.
const POLL: Duration = Duration::from_secs(1);
/// Commits of this time share one hint.
const GATHER: Duration = Duration::from_millis(3);
/// How long rows of `batches` are kept, and how often the old ones are removed.
const KEEP: &str = "60 seconds";
const TRIM: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_millis(500);

/// Listens, tells and trims until it is aborted.
pub(super) async fn run(shared: Arc<Shared>, mut seen: Version) {
    loop {
        if let Err(reason) = listen(&shared, &mut seen).await {
            tracing::warn!(reason = %Error::from(reason), "watches of other nodes' commits wait");
        }
        sleep(RETRY).await;
    }
}

async fn listen(shared: &Arc<Shared>, seen: &mut Version) -> Result<(), Fault> {
    let hint = Arc::new(tokio::sync::Notify::new());
    let told = Arc::clone(&hint);
    let session = Session::open(&shared.connecting, move || told.notify_one()).await?;
    let channel = &shared.schema;
    session.client.batch_execute(&format!("LISTEN {channel}")).await.map_err(fault)?;
    let news = format!("SELECT first, last, node, keys FROM {channel}.batches WHERE first > $1 ORDER BY first");
    let news = session.statement(&news).await?;
    let trim = format!("DELETE FROM {channel}.batches WHERE at < now() - interval '{KEEP}'");
    let mut poll = interval(POLL);
    poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut trimmed = Instant::now();
    loop {
        tokio::select! {
            () = hint.notified() => {}
            _ = poll.tick() => {}
            () = shared.committed.notified() => {
                sleep(GATHER).await;
                session.client.batch_execute(&format!("NOTIFY {channel}")).await.map_err(fault)?;
                continue;
            }
        }
        for row in session.client.query(&news, &[&seen.cast_signed()]).await.map_err(fault)? {
            let (first, last): (i64, i64) = (row.get(0), row.get(1));
            if first.cast_unsigned() != *seen + 1 {
                shared.watchers.touched_all(last.cast_unsigned());
            } else if row.get::<_, &str>(2) != shared.node {
                let keys: Vec<&[u8]> = row.get(3);
                shared.watchers.touched(keys.into_iter(), last.cast_unsigned());
            }
            *seen = last.cast_unsigned();
        }
        if trimmed.elapsed() >= TRIM {
            session.client.batch_execute(&trim).await.map_err(fault)?;
            trimmed = Instant::now();
        }
    }
}

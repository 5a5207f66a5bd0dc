//! Watches across nodes: what the others have written, learned from `batches`.
//!
//! Notifications are hints that are sent outside every commit, since a notifying transaction of PostgreSQL takes a lock
//! over the whole database. One that is lost, or a connection that breaks, costs the time of a slow poll and no change:
//! rows are read from the last one seen.
//!
//! The committer tells watches too, of what it writes and of what it learns on the way; both say how far in `told`.
//!
//! Invariant: every batch of another node touches the watches of this one, or, if its row was gone before it could be
//! read, all watches are.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};
use tokio_postgres::Statement;

use super::Shared;
use super::session::{Fault, STATEMENT, Session, fault, in_time};
use crate::contract::{Error, Version};

/// How often rows are looked for without a hint.
const POLL: Duration = Duration::from_secs(1);
/// Shortest time between two hints of a node, and between two looks: what happens meanwhile shares one.
const GATHER: Duration = Duration::from_millis(8);
/// How long rows of `batches` are kept, and how often the old ones are removed.
const KEEP: &str = "60 seconds";
const TRIM: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_millis(500);

/// Listens, tells and trims until it is aborted.
pub(super) async fn run(shared: Arc<Shared>) {
    loop {
        if let Err(reason) = listen(&shared).await {
            tracing::warn!(reason = %Error::from(reason), "watches of other nodes' commits wait");
        }
        sleep(RETRY).await;
    }
}

async fn listen(shared: &Arc<Shared>) -> Result<(), Fault> {
    let hint = Arc::new(Notify::new());
    let (hinted, hearing) = (Arc::clone(&hint), Arc::clone(shared));
    // What this node's committer has seen by itself, its own commits among it, is no news.
    let hear = move |version: &str| {
        if version.parse::<Version>().is_ok_and(|version| version > hearing.told.load(Ordering::Relaxed)) {
            hinted.notify_one();
        }
    };
    let session = Session::open(&shared.connecting, hear).await?;
    session.simple(&format!("LISTEN {}", shared.schema)).await?;
    let listener = Listener { shared, news: session.statement(&news_of(&shared.schema)).await?, session };
    let mut poll = interval(POLL);
    poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut trimmed, mut looked, mut sent) = (Instant::now(), Instant::now(), Instant::now());
    let (mut to_look, mut to_send) = (true, false);
    loop {
        let due = [to_look.then_some(looked + GATHER), to_send.then_some(sent + GATHER)].into_iter().flatten().min();
        tokio::select! {
            () = hint.notified(), if !to_look => to_look = true,
            () = shared.committed.notified(), if !to_send => to_send = true,
            _ = poll.tick() => to_look = true,
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
        }
        let now = Instant::now();
        if to_send && now >= sent + GATHER {
            (to_send, sent) = (false, now);
            listener.tell().await?;
        }
        if to_look && now >= looked + GATHER {
            (to_look, looked) = (false, now);
            listener.look().await?;
        }
        if trimmed.elapsed() >= TRIM {
            trimmed = now;
            listener.trim().await?;
        }
    }
}

fn news_of(schema: &str) -> String {
    format!("SELECT first, last, node, keys FROM {schema}.batches WHERE first > $1 ORDER BY first")
}

struct Listener<'a> {
    shared: &'a Shared,
    session: Session,
    news: Statement,
}

impl Listener<'_> {
    /// Tells the other nodes.
    async fn tell(&self) -> Result<(), Fault> {
        let hint = format!("NOTIFY {}, '{}'", self.shared.schema, self.shared.told.load(Ordering::Relaxed));
        self.session.simple(&hint).await
    }

    /// Wakes watches by what was written since the last time.
    async fn look(&self) -> Result<(), Fault> {
        let mut seen = self.shared.told.load(Ordering::Relaxed);
        for row in self.session.answer(self.session.client.query(&self.news, &[&seen.cast_signed()])).await? {
            let (first, last): (i64, i64) = (row.get(0), row.get(1));
            if first.cast_unsigned() != seen + 1 {
                self.shared.watchers.touched_all(last.cast_unsigned());
            } else if row.get::<_, &str>(2) != self.shared.node {
                let keys: Vec<&[u8]> = row.get(3);
                self.shared.watchers.touched(keys.into_iter(), last.cast_unsigned());
            }
            seen = last.cast_unsigned();
        }
        self.shared.told.fetch_max(seen, Ordering::Relaxed);
        Ok(())
    }

    async fn trim(&self) -> Result<(), Fault> {
        let schema = &self.shared.schema;
        let trim = format!(
            "DELETE FROM {schema}.batches WHERE at < now() - interval '{KEEP}';
             DELETE FROM {schema}.fences WHERE at < now() - interval '1 day'"
        );
        // There may be much to remove: as long as a statement may run.
        in_time(2 * STATEMENT, async { self.session.client.batch_execute(&trim).await.map_err(fault) }).await
    }
}

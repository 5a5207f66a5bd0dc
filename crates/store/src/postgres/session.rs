//! One connection to the server with its statements, and what a failure of it means.
//!
//! Invariants
//!   1. A session that fails in any way but by an error of one statement is not used again.
//!   2. Nobody waits for an answer without end: a server that takes in what is sent and then is silent counts as gone.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_postgres::error::{Severity, SqlState};
use tokio_postgres::{AsyncMessage, Client, Statement};

use super::address::Connecting;
use crate::contract::Error;

/// After this time without an answer a transaction of a node that hangs is ended by the server, so that its lock goes.
const IDLE_IN_TRANSACTION: &str = "10s";
/// No statement of ours runs longer; one that waits for the lock is tried again.
pub(super) const STATEMENT: Duration = Duration::from_secs(30);
const CONNECT: Duration = Duration::from_secs(5);

/// Why something did not work, as far as somebody acts on it.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// The server or the way to it is gone; another connection may do better.
    Disconnected(String),
    /// The server's disk is full; nothing was written.
    DiskFull,
    /// The server ended the transaction for the sake of another; nothing was written, and it may go well the next time.
    Undone(String),
    /// Anything else.
    Broken(String),
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Disconnected(words) => Self::Io(format!("PostgreSQL cannot be reached: {words}")),
            Fault::DiskFull => Self::DiskFull,
            Fault::Undone(words) | Fault::Broken(words) => Self::Io(format!("PostgreSQL: {words}")),
        }
    }
}

/// What an error of the client means.
#[expect(clippy::needless_pass_by_value, reason = "it is made for map_err")]
pub(crate) fn fault(error: tokio_postgres::Error) -> Fault {
    let words = words(&error);
    let Some(db) = error.as_db_error() else { return Fault::Disconnected(words) };
    // A server that fails within COMMIT ends the session; what it logged may be done by its recovery all the same. Only
    // an error of the statement alone says that nothing happened.
    if !matches!(db.parsed_severity(), Some(Severity::Error)) {
        return Fault::Disconnected(words);
    }
    let code = db.code();
    // Classes 08 (connection), 57P (shut down), 25006 (a standby), and what a crashed or overfull server says.
    let gone = code.code().starts_with("08")
        || code.code().starts_with("57P")
        || *code == SqlState::READ_ONLY_SQL_TRANSACTION
        || *code == SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT
        || *code == SqlState::TOO_MANY_CONNECTIONS
        || *code == SqlState::QUERY_CANCELED;
    if gone {
        Fault::Disconnected(words)
    } else if *code == SqlState::DISK_FULL {
        Fault::DiskFull
    } else if code.code().starts_with("40") || *code == SqlState::LOCK_NOT_AVAILABLE {
        // Class 40: deadlocks, and what could not be put in an order.
        Fault::Undone(words)
    } else {
        Fault::Broken(words)
    }
}

/// What it means that a session was not opened. Whom the server does not know it will not know the next time either.
fn refusal(error: tokio_postgres::Error) -> Fault {
    let unknown = error.code().is_some_and(|code| code.code().starts_with("28") || code.code() == "3D000");
    if unknown { Fault::Broken(words(&error)) } else { fault(error) }
}

/// The whole of what an error says: the client keeps the server's words beneath its own.
fn words(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(db) => format!("{} ({})", db.message(), db.code().code()),
        None => {
            let mut words = error.to_string();
            let mut beneath = std::error::Error::source(error);
            while let Some(inner) = beneath {
                let inner_words = inner.to_string();
                if !words.contains(&inner_words) {
                    words = format!("{words}: {inner_words}");
                }
                beneath = inner.source();
            }
            words
        }
    }
}

/// A connection that is served by a task of its own.
pub(crate) struct Session {
    pub(crate) client: Client,
    task: JoinHandle<()>,
    /// How long the answers of one round trip are waited for.
    round_trip: Duration,
}

impl Drop for Session {
    fn drop(&mut self) {
        // A transaction that is open on it ends with it.
        self.task.abort();
    }
}

impl Session {
    /// Connects. `told` is called with what each notification says.
    pub(crate) async fn open(connecting: &Connecting, told: impl Fn(&str) + Send + 'static) -> Result<Self, Fault> {
        let Connecting { config, tls, round_trip } = connecting;
        let opened = tokio::time::timeout(CONNECT, config.connect(tls.clone())).await;
        let late = || Fault::Disconnected(format!("no connection within {} s", CONNECT.as_secs()));
        let (client, mut connection) = opened.map_err(|_| late())?.map_err(refusal)?;
        let task = tokio::spawn(async move {
            let mut messages = futures_util::stream::poll_fn(move |context| connection.poll_message(context));
            while let Some(Ok(message)) = futures_util::StreamExt::next(&mut messages).await {
                match message {
                    AsyncMessage::Notification(hint) => told(hint.payload()),
                    AsyncMessage::Notice(notice) => tracing::debug!(%notice, "PostgreSQL"),
                    _ => {}
                }
            }
        });
        let session = Self { client, task, round_trip: *round_trip };
        let settings = format!(
            "SET synchronous_commit = on; SET default_transaction_isolation = 'read committed';
             SET default_transaction_read_only = off; SET statement_timeout = '{}s';
             SET idle_in_transaction_session_timeout = '{IDLE_IN_TRANSACTION}'; SET client_min_messages = warning",
            STATEMENT.as_secs()
        );
        session.simple(&settings).await?;
        Ok(session)
    }

    /// Waits for the answers of one round trip.
    pub(crate) async fn answer<T>(
        &self,
        work: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, Fault> {
        in_time(self.round_trip, async { work.await.map_err(fault) }).await
    }

    /// Statements without parameters and rows.
    pub(crate) async fn simple(&self, sql: &str) -> Result<(), Fault> {
        self.answer(self.client.batch_execute(sql)).await
    }

    /// A statement, parsed once for the life of the session.
    pub(crate) async fn statement(&self, sql: &str) -> Result<Statement, Fault> {
        self.answer(self.client.prepare(sql)).await
    }
}

/// Waits no longer than this.
pub(super) async fn in_time<T>(time: Duration, work: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    let late = || Fault::Disconnected(format!("no answer within {time:?}"));
    tokio::time::timeout(time, work).await.unwrap_or_else(|_| Err(late()))
}

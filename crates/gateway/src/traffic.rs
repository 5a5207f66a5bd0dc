//! What guests' own connections carry: paced for each sandbox, counted for each function, and the last ones remembered.
//!
//! Not here: connections to the platform itself, which are requests and counted as such.
//!
//! Invariants
//!   1. Every connection is counted once, at its end, however it ends; one that was refused is counted as refused.
//!   2. What is remembered has a bound; what a function's name costs goes with the last of its connections only when the
//!      platform ends, and is a few words.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base::Clock;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// Connections that are remembered.
const REMEMBERED: usize = 1_000;
const PIECE_BYTES: usize = 16 * 1024;

/// Sums of one function since the platform's start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Sums {
    /// Connections that reached something.
    pub connections: u64,
    /// Connections that may not be made, or reached nothing.
    pub refused: u64,
    /// Bytes that the function sent.
    pub sent_bytes: u64,
    /// Bytes that it received.
    pub received_bytes: u64,
    /// Segments of traces that it sent to the X-Ray daemon's address.
    pub segments: u64,
    /// Datagrams there that were none.
    pub bad_segments: u64,
}

/// One connection that has ended.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Connection {
    /// Milliseconds since the epoch when it was asked for.
    pub at_ms: u64,
    /// The function's ARN.
    pub function: String,
    /// Name or address and port, as the function asked.
    pub target: String,
    /// The address that was dialled, if one was reached.
    pub address: Option<String>,
    /// Why nothing was reached.
    pub refused: Option<String>,
    /// Bytes that the function sent.
    pub sent_bytes: u64,
    /// Bytes that it received.
    pub received_bytes: u64,
    /// How long it lasted.
    pub duration_ms: u64,
}

/// All guests' traffic.
#[derive(Default)]
pub struct Traffic {
    sums: Mutex<BTreeMap<String, Sums>>,
    last: Mutex<VecDeque<Connection>>,
}

impl Traffic {
    /// Sums by the function's ARN.
    pub fn sums(&self) -> BTreeMap<String, Sums> {
        self.sums.lock().clone()
    }

    /// The last connections, newest first.
    pub fn last(&self) -> Vec<Connection> {
        self.last.lock().iter().rev().cloned().collect()
    }

    /// Counts what came to the X-Ray daemon's address.
    pub(crate) fn segment(&self, function: &str, good: bool) {
        let mut sums = self.sums.lock();
        if !sums.contains_key(function) {
            sums.insert(function.to_owned(), Sums::default());
        }
        if let Some(sum) = sums.get_mut(function) {
            sum.segments += u64::from(good);
            sum.bad_segments += u64::from(!good);
        }
    }

    fn add(&self, connection: Connection) {
        let mut sums = self.sums.lock();
        let sum = sums.entry(connection.function.clone()).or_default();
        let reached = connection.refused.is_none();
        sum.connections += u64::from(reached);
        sum.refused += u64::from(!reached);
        sum.sent_bytes += connection.sent_bytes;
        sum.received_bytes += connection.received_bytes;
        drop(sums);
        let mut last = self.last.lock();
        if last.len() == REMEMBERED {
            last.pop_front();
        }
        last.push_back(connection);
    }
}

/// A connection while it lasts. It is counted when this is dropped.
pub(crate) struct Account {
    traffic: Arc<Traffic>,
    clock: Arc<dyn Clock>,
    began_us: u64,
    connection: Connection,
    sent: AtomicU64,
    received: AtomicU64,
}

impl Account {
    pub(crate) fn open(traffic: Arc<Traffic>, clock: Arc<dyn Clock>, function: String, target: String) -> Self {
        let connection = Connection {
            at_ms: clock.now_ms(),
            function,
            target,
            address: None,
            // Unless it is told otherwise.
            refused: Some("the environment ended".to_owned()),
            sent_bytes: 0,
            received_bytes: 0,
            duration_ms: 0,
        };
        let began_us = clock.monotonic_us();
        Self { traffic, clock, began_us, connection, sent: AtomicU64::new(0), received: AtomicU64::new(0) }
    }

    pub(crate) fn reached(&mut self, address: std::net::SocketAddr) {
        self.connection.address = Some(address.to_string());
        self.connection.refused = None;
    }

    pub(crate) fn refused(&mut self, why: String) {
        self.connection.refused = Some(why);
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let mut connection = self.connection.clone();
        connection.sent_bytes = self.sent.load(Ordering::Relaxed);
        connection.received_bytes = self.received.load(Ordering::Relaxed);
        connection.duration_ms = (self.clock.monotonic_us() - self.began_us) / 1_000;
        self.traffic.add(connection);
    }
}

/// Bytes a second that one sandbox may send and receive together, all its connections; or questions that it may ask. A burst of a quarter of a second
/// passes unhindered.
pub(crate) struct Pace {
    bytes_per_second: u64,
    /// When all that has passed so far would have passed at this pace.
    due: Mutex<Instant>,
}

impl Pace {
    pub(crate) fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1), due: Mutex::new(Instant::now()) }
    }

    /// How long who wants to pass this many bytes at `now` waits first.
    pub(crate) fn wait(&self, bytes: usize, now: Instant) -> Duration {
        const BURST: Duration = Duration::from_millis(250);
        let takes = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        let mut due = self.due.lock();
        // What was not used earlier than a burst ago is gone.
        *due = (*due).max(now) + takes;
        due.saturating_duration_since(now).saturating_sub(BURST)
    }
}

/// Copies both ways until either side has ended.
pub(crate) async fn relay(mut guest: TcpStream, mut outside: TcpStream, pace: &Pace, account: &Account) {
    let (guest_read, guest_write) = guest.split();
    let (outside_read, outside_write) = outside.split();
    both(guest_read, guest_write, outside_read, outside_write, pace, account).await;
}

/// The same for a guest that has no socket.
pub(crate) async fn relay_of(
    guest: impl AsyncRead + AsyncWrite,
    mut outside: TcpStream,
    pace: &Pace,
    account: &Account,
) {
    let (guest_read, guest_write) = tokio::io::split(guest);
    let (outside_read, outside_write) = outside.split();
    both(guest_read, guest_write, outside_read, outside_write, pace, account).await;
}

async fn both(
    guest_read: impl AsyncRead + Unpin,
    guest_write: impl AsyncWrite + Unpin,
    outside_read: impl AsyncRead + Unpin,
    outside_write: impl AsyncWrite + Unpin,
    pace: &Pace,
    account: &Account,
) {
    // Either side may break off at any time; nobody is left to tell.
    let _ = tokio::try_join!(
        copy(guest_read, outside_write, pace, &account.sent),
        copy(outside_read, guest_write, pace, &account.received),
    );
}

async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    pace: &Pace,
    counted: &AtomicU64,
) -> std::io::Result<()> {
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let length = from.read(&mut piece).await?;
        if length == 0 {
            return to.shutdown().await;
        }
        let wait = pace.wait(length, Instant::now());
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        to.write_all(&piece[..length]).await?;
        counted.fetch_add(length as u64, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::SystemClock;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn a_pace_lets_a_burst_pass_and_then_holds() {
        let (pace, now) = (Pace::new(1_000), Instant::now());
        assert_eq!(pace.wait(250, now), Duration::ZERO);
        assert_eq!(pace.wait(500, now), Duration::from_millis(500));
        assert_eq!(pace.wait(1_000, now + Duration::from_secs(1)), Duration::from_millis(750));
        assert_eq!(pace.wait(250, now + Duration::from_secs(60)), Duration::ZERO, "idle time gives one burst, no more");
        assert_eq!(pace.wait(1_000, now + Duration::from_secs(60)), Duration::from_secs(1));
    }

    /// Two ends of a connection over the loopback interface.
    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (client, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn both_ways_are_counted_at_the_end() {
        let traffic = Arc::new(Traffic::default());
        let account = || Account::open(traffic.clone(), SystemClock::shared(), "f".into(), "x:1".into());
        let ((mut client, guest), (outside, mut server)) = (pair().await, pair().await);
        let mut open = account();
        open.reached("192.0.2.1:1".parse().unwrap());
        let relaying = tokio::spawn(async move {
            relay(guest, outside, &Pace::new(1 << 30), &open).await;
        });
        client.write_all(b"ping").await.unwrap();
        let mut heard = [0; 4];
        server.read_exact(&mut heard).await.unwrap();
        server.write_all(b"and back").await.unwrap();
        drop(server);
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        drop(client);
        relaying.await.unwrap();
        assert_eq!((&heard, answer.as_str()), (b"ping", "and back"));

        let mut closed = account();
        closed.refused("the address is not public".into());
        drop(closed);
        let wanted = Sums { connections: 1, refused: 1, sent_bytes: 4, received_bytes: 8, ..Sums::default() };
        assert_eq!(traffic.sums(), BTreeMap::from([("f".to_owned(), wanted)]));
        let last = traffic.last();
        assert_eq!(last[0].refused.as_deref(), Some("the address is not public"));
        assert_eq!((last[1].address.as_deref(), last[1].sent_bytes), (Some("192.0.2.1:1"), 4));
    }

    #[test]
    fn what_is_remembered_has_a_bound() {
        let traffic = Arc::new(Traffic::default());
        for _ in 0..REMEMBERED + 5 {
            drop(Account::open(traffic.clone(), SystemClock::shared(), "f".into(), "x:1".into()));
        }
        assert_eq!((traffic.last().len(), traffic.sums()["f"].refused), (REMEMBERED, REMEMBERED as u64 + 5));
    }
}

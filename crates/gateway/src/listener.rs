//! Connections: accepts them, bounds them, speaks HTTP/1.1 and HTTP/2 on each, and lets them end in peace.
//!
//! Invariants
//!   1. At most `connections_max` connections are open; more wait in the kernel's queue.
//!   2. A connection whose request head does not arrive within `header_timeout` is closed, from its first byte on.
//!   3. After `stop`, no request is accepted and every request that was accepted is answered, within the grace given.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use model::Body;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::body::Outgoing;
use crate::config::Config;
use crate::door::Peer;
use crate::service::Gateway;
use crate::spelling::{Recorded, Recorder};

/// A running listener. Dropping it stops accepting and leaves running requests to end.
#[derive(Debug)]
pub struct Listening {
    address: SocketAddr,
    stopping: CancellationToken,
    killing: CancellationToken,
    connections: TaskTracker,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.stopping.cancel();
    }
}

impl Listening {
    /// The bound address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts nothing more, finishes what runs, and after `grace` cuts the rest off. Returns how many were cut.
    pub async fn stop(&self, grace: Duration) -> usize {
        self.stopping.cancel();
        self.connections.close();
        if tokio::time::timeout(grace, self.connections.wait()).await.is_ok() {
            return 0;
        }
        let cut = self.connections.len();
        self.killing.cancel();
        self.connections.wait().await;
        cut
    }
}

/// Starts to serve a bound socket.
pub fn listen(gateway: Arc<Gateway>, listener: TcpListener, tls: Option<TlsAcceptor>) -> std::io::Result<Listening> {
    let listening = Listening {
        address: listener.local_addr()?,
        stopping: CancellationToken::new(),
        killing: CancellationToken::new(),
        connections: TaskTracker::new(),
    };
    let (stopping, killing) = (listening.stopping.clone(), listening.killing.clone());
    let connections = listening.connections.clone();
    let port = listening.address.port();
    let accepting = async move {
        let room = Arc::new(Semaphore::new(gateway.config().connections_max));
        while let Some((stream, address, permit)) = accept(&listener, &room, &stopping).await {
            let peer = Peer { address, secure: tls.is_some(), port, guest: None, spelling: None };
            let serving = serve(gateway.clone(), stream, peer, tls.clone(), stopping.clone());
            let killing = killing.clone();
            connections.spawn(async move {
                killing.run_until_cancelled(base::repolled(serving)).await;
                drop(permit);
            });
        }
    };
    tokio::spawn(accepting);
    Ok(listening)
}

type Accepted = (TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit);

/// The next connection, once there is room for it; nothing when it is time to stop.
pub(crate) async fn accept(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
    stopping: &CancellationToken,
) -> Option<Accepted> {
    let next = async {
        let permit = room.clone().acquire_owned().await.ok()?;
        loop {
            match listener.accept().await {
                Ok((stream, address)) => return Some((stream, address, permit)),
                Err(error) => {
                    // Out of descriptors, or a connection that ended while it waited: both pass.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
    };
    stopping.run_until_cancelled(next).await.flatten()
}

/// Serves one connection to its end.
pub(crate) async fn serve(
    gateway: Arc<Gateway>,
    stream: TcpStream,
    peer: Peer,
    tls: Option<TlsAcceptor>,
    stopping: CancellationToken,
) {
    // Answers are written whole; waiting for more to send only adds latency.
    let _ = stream.set_nodelay(true);
    match tls {
        None => converse(gateway, stream, peer, stopping).await,
        Some(tls) => {
            let limit = gateway.config().header_timeout;
            match tokio::time::timeout(limit, tls.accept(stream)).await {
                Ok(Ok(stream)) => converse(gateway, stream, peer, stopping).await,
                Ok(Err(error)) => tracing::debug!(%error, peer = %peer.address, "a TLS handshake failed"),
                Err(_) => tracing::debug!(peer = %peer.address, "a TLS handshake took too long"),
            }
        }
    }
}

/// Serves what is said on a connection.
pub(crate) async fn converse<S>(gateway: Arc<Gateway>, stream: S, mut peer: Peer, stopping: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    // A connection that goes on in another protocol leaves here; whoever took it holds it (`web`).
    let recorder = Recorder::default();
    peer.spelling = Some(recorder.clone());
    let (peer, begun) = (Arc::new(peer), Arc::new(AtomicBool::new(false)));
    let builder = builder(gateway.config());
    let limit = gateway.config().header_timeout;
    let service = {
        let (peer, begun) = (peer.clone(), begun.clone());
        service_fn(move |request: http::Request<Incoming>| {
            begun.store(true, Ordering::Relaxed);
            let (gateway, peer) = (gateway.clone(), peer.clone());
            async move { Ok::<_, std::convert::Infallible>(answer(&gateway, request, &peer).await.map(Outgoing)) }
        })
    };
    let io = TokioIo::new(Recorded::new(stream, recorder));
    let mut connection = pin!(builder.serve_connection_with_upgrades(io, service));
    // Telling HTTP/1 from HTTP/2 has no time limit of its own, so that a silent client is watched here.
    let mut first = pin!(tokio::time::sleep(limit));
    let (mut watching, mut ending) = (true, false);
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, peer = %peer.address, "a connection ended early");
                }
                return;
            }
            () = first.as_mut(), if watching => {
                if !begun.load(Ordering::Relaxed) {
                    tracing::debug!(peer = %peer.address, "no request arrived in time");
                    return;
                }
                watching = false;
            }
            () = stopping.cancelled(), if !ending => {
                connection.as_mut().graceful_shutdown();
                ending = true;
            }
        }
    }
}

fn answer<'a>(
    gateway: &'a Gateway,
    request: http::Request<Incoming>,
    peer: &'a Peer,
) -> impl Future<Output = http::Response<Body>> + Send + 'a {
    gateway.handle(request, peer)
}

fn builder(config: &Config) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(config.header_timeout)
        .max_buf_size(config.header_bytes_max.max(8_192));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(config.header_bytes_max).unwrap_or(u32::MAX))
        .max_concurrent_streams(256)
        .keep_alive_interval(config.header_timeout)
        .keep_alive_timeout(Duration::from_secs(20));
    builder
}

//! Connections of the platform's to what listens in a sandbox: over sockets that were made in its network and come some at
//! a time, so that most connections need nobody else.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use parking_lot::Mutex;
use sandbox::Control;
use tokio::net::{TcpSocket, TcpStream};

/// The way into one sandbox.
pub(crate) struct Inward {
    control: Arc<dyn Control>,
    spare: Mutex<Vec<TcpSocket>>,
    /// Held by the one that asks for more.
    asking: tokio::sync::Mutex<()>,
}

impl Inward {
    pub(crate) fn new(control: Arc<dyn Control>) -> Self {
        Self { control, spare: Mutex::default(), asking: tokio::sync::Mutex::default() }
    }

    /// Connects to a port of the sandbox's loopback.
    pub(crate) async fn connect(&self, port: u16) -> io::Result<TcpStream> {
        let stream = self.socket().await?.connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await?;
        // What waits for more to send is latency; without the option it still works.
        let _ = stream.set_nodelay(true);
        Ok(stream)
    }

    async fn socket(&self) -> io::Result<TcpSocket> {
        if let Some(socket) = self.spare.lock().pop() {
            return Ok(socket);
        }
        let _one = self.asking.lock().await;
        if let Some(socket) = self.spare.lock().pop() {
            return Ok(socket);
        }
        let mut sockets = self.control.sockets().await.map_err(io::Error::other)?;
        let socket = sockets.pop().ok_or(io::ErrorKind::NotFound)?;
        self.spare.lock().append(&mut sockets);
        Ok(socket)
    }
}

//! A connection of one run to a service, over which its calls go one after another.
//!
//! Invariant: this module opens no socket.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use tokio_util::task::AbortOnDropHandle;
use wasmtime_wasi_http::io::TokioIo;

use crate::program::Outside;

/// Ends with what holds it.
pub(super) struct Line {
    sender: SendRequest<Full<Bytes>>,
    _driver: AbortOnDropHandle<()>,
}

impl Line {
    /// A new one.
    ///
    /// # Errors
    /// Why nothing was reached.
    pub(super) async fn open(outside: &dyn Outside, host: &str, port: u16, tls: bool) -> Result<Self, String> {
        let stream = outside.connect(host, port, tls).await.map_err(|error| error.to_string())?;
        let handshake = http1::handshake(TokioIo::new(stream)).await;
        let (sender, connection) = handshake.map_err(|error| error.to_string())?;
        let driver = tokio::spawn(async move {
            // How a call ended is what its own future says.
            let _ = connection.await;
        });
        Ok(Self { sender, _driver: AbortOnDropHandle::new(driver) })
    }

    /// Whether the other side is still there, as far as is known.
    pub(super) fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }

    /// Asks when the answer before was read to its end; the answer's head, and its body, which comes for as long as the line is
    /// there.
    ///
    /// # Errors
    /// There was none.
    pub(super) async fn ask(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, String> {
        self.sender.ready().await.map_err(|error| error.to_string())?;
        self.sender.send_request(request).await.map_err(|error| error.to_string())
    }
}

//! HTTP requests that the platform sends because a tenant named a place: over `dial`, so that the rules for tenants'
//! connections hold, and to certificates that the host trusts.
//!
//! A request has a connection of its own. Redirections are not followed: who asks decides, and its next request is judged anew.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, HeaderMap, HeaderValue, USER_AGENT};
use http::{Request, Response, Uri};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::dial::{Destination, Dialer, NotReached, Resolver};
use crate::egress::Rules;

/// How long a server may take for its next word.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotFetched {
    /// It may not be reached.
    #[error("{0}")]
    Refused(String),
    /// It was not reached, or has failed.
    #[error("{0}")]
    Failed(String),
}

fn failed(words: impl ToString) -> NotFetched {
    NotFetched::Failed(words.to_string())
}

/// Sends requests to places that tenants name.
#[derive(Clone)]
pub struct GuardedClient {
    dialer: Dialer,
    tls: TlsConnector,
}

impl GuardedClient {
    /// A client that looks names up with `resolver` and trusts these certificates (PEM).
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn new(resolver: Arc<dyn Resolver>, roots_pem: &str) -> Result<Self, rustls::Error> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(CertificateDer::pem_slice_iter(roots_pem.as_bytes()).filter_map(Result::ok));
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { dialer: Dialer::new(resolver), tls: TlsConnector::from(Arc::new(config)) })
    }

    /// Sends a GET; returns when the head of the answer is there.
    ///
    /// # Errors
    /// The rules forbid it, or there is no answer.
    pub async fn get(&self, rules: &Rules, uri: &Uri, headers: HeaderMap) -> Result<Response<GuardedBody>, NotFetched> {
        let host = uri.host().ok_or_else(|| failed("the address has no host"))?;
        let bare = host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        let secure = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let to = match bare.parse::<IpAddr>() {
            Ok(address) => Destination::Address(SocketAddr::new(address, port)),
            Err(_) => Destination::Name(bare.clone(), port),
        };
        let (stream, _) = self.dialer.dial(rules, &to).await.map_err(|problem| match problem {
            NotReached::Refused(why) => NotFetched::Refused(format!("{to}: {why}")),
            other => failed(format_args!("{to}: {other}")),
        })?;
        // A small request is not to wait for an acknowledgement; without it, it only may.
        let _ = stream.set_nodelay(true);
        let request = request(uri, headers)?;
        if !secure {
            return send(stream, request).await;
        }
        let name = ServerName::try_from(bare).map_err(|_| failed("the host is no name for a certificate"))?;
        let stream = timeout(PATIENCE, self.tls.connect(name, stream)).await.map_err(|_| late())?;
        send(stream.map_err(|problem| failed(format_args!("{to}: {problem}")))?, request).await
    }
}

fn late() -> NotFetched {
    failed(format_args!("no answer within {} s", PATIENCE.as_secs()))
}

fn request(uri: &Uri, headers: HeaderMap) -> Result<Request<Empty<Bytes>>, NotFetched> {
    let path = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let mut request = Request::get(path).body(Empty::new()).map_err(failed)?;
    let authority = uri.authority().map_or("", http::uri::Authority::as_str);
    *request.headers_mut() = headers;
    request.headers_mut().insert(HOST, HeaderValue::from_str(authority).map_err(failed)?);
    request.headers_mut().insert(USER_AGENT, HeaderValue::from_static("dunlin"));
    Ok(request)
}

async fn send(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Empty<Bytes>>,
) -> Result<Response<GuardedBody>, NotFetched> {
    let exchange = async {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(async move {
            // Whoever waits for the answer is told; nobody else wants to know.
            let _ = connection.await;
        });
        sender.send_request(request).await
    };
    let response = timeout(PATIENCE, exchange).await.map_err(|_| late())?.map_err(failed)?;
    Ok(response.map(GuardedBody))
}

/// The body of an answer.
pub struct GuardedBody(Incoming);

impl GuardedBody {
    /// The next piece; nothing at the end.
    ///
    /// # Errors
    /// The connection broke, or nothing came for too long.
    pub async fn next(&mut self) -> Result<Option<Bytes>, NotFetched> {
        loop {
            let frame = timeout(PATIENCE, self.0.frame()).await.map_err(|_| late())?;
            match frame.transpose().map_err(failed)? {
                None => return Ok(None),
                Some(frame) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dial::HostResolver;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn only_what_rules_open_is_asked() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let served = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 1_024];
            let read = stream.read(&mut request).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello").await.unwrap();
            String::from_utf8_lossy(&request[..read]).into_owned()
        });
        let client = GuardedClient::new(Arc::new(HostResolver), "").unwrap();
        let uri: Uri = format!("http://127.0.0.1:{port}/a?b=c").parse().unwrap();
        let mut rules = Rules { egress: model::Egress::default(), open: Vec::new(), developer_opens: false };
        let refused = client.get(&rules, &uri, HeaderMap::new()).await.err().unwrap();
        assert!(matches!(refused, NotFetched::Refused(_)), "{refused}");
        rules.open.push(format!("127.0.0.1:{port}").parse().unwrap());
        let mut body = client.get(&rules, &uri, HeaderMap::new()).await.unwrap().into_body();
        assert_eq!(body.next().await.unwrap().as_deref(), Some(&b"hello"[..]));
        assert_eq!(body.next().await.unwrap(), None);
        let request = served.await.unwrap();
        assert!(request.starts_with("GET /a?b=c HTTP/1.1\r\n") && request.contains(&format!("host: 127.0.0.1:{port}")));
        assert!(matches!(client.get(&rules, &uri, HeaderMap::new()).await, Err(NotFetched::Failed(_))));
    }
}

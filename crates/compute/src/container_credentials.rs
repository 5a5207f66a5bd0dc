//! The role's credentials over HTTP on a sandbox's own loopback, for functions with SnapStart: clients that were made in a
//! snapshot ask again before they use what they have, and so get those of the environment that they are in.
//!
//! | request                        | answer                                                             |
//! |--------------------------------|--------------------------------------------------------------------|
//! | GET `/2021-04-23/credentials`  | 200, `{"AccessKeyId","SecretAccessKey","Token","Expiration"}`      |
//! | the same with another token    | 403                                                                |
//! | of extensions, in a snapshot   | none: `asked` is cancelled, and whoever waits for that takes over  |
//! | anything else                  | 404                                                                |
//!
//! The path and the variables that name it are Lambda's; the document is that of the container credentials of AWS's SDKs.
//!
//! Start reading at `serve`.

use std::convert::Infallible;
use std::sync::Arc;

use base::Clock;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use model::Credentials;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::extensions;
use crate::report::iso_ms;

/// Where they are.
pub(crate) const PATH: &str = "/2021-04-23/credentials";
/// Where guests find it: the listener is that of the Runtime API, which managed runtimes do not use.
pub(crate) const URI: &str = "http://127.0.0.1:9001/2021-04-23/credentials";

/// What is said of how long credentials last.
pub(crate) enum Lasting {
    /// Until then, milliseconds since the epoch.
    Until(u64),
    /// So long from when they are asked for.
    For {
        /// Milliseconds.
        ms: u64,
        /// Tells when that is.
        clock: Arc<dyn Clock>,
    },
}

/// What is served, and to whom.
pub(crate) struct Document {
    token: String,
    credentials: Credentials,
    lasting: Lasting,
}

impl Document {
    /// Credentials for those that know `token`.
    pub(crate) fn new(token: &str, credentials: Credentials, lasting: Lasting) -> Arc<Self> {
        Arc::new(Self { token: token.to_owned(), credentials, lasting })
    }

    fn body(&self) -> Bytes {
        let expires_at_ms = match &self.lasting {
            Lasting::Until(at_ms) => *at_ms,
            Lasting::For { ms, clock } => clock.now_ms().saturating_add(*ms),
        };
        let body = serde_json::json!({
            "AccessKeyId": self.credentials.access_key,
            "SecretAccessKey": self.credentials.secret_key,
            "Token": self.credentials.session_token.as_deref().unwrap_or_default(),
            "Expiration": iso_ms(expires_at_ms),
        });
        body.to_string().into()
    }
}

/// Serves until the guard is dropped, to an init that a snapshot is taken of. `asked` tells that it registers an
/// extension.
pub(crate) fn serve(listener: TcpListener, document: Arc<Document>, asked: CancellationToken) -> DropGuard {
    let over = CancellationToken::new();
    tokio::spawn(over.clone().run_until_cancelled_owned(accept(listener, document, asked)));
    over.drop_guard()
}

async fn accept(listener: TcpListener, document: Arc<Document>, asked: CancellationToken) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        let (document, asked) = (document.clone(), asked.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            let (document, asked) = (document.clone(), asked.clone());
            async move {
                if extensions::is_theirs(request.uri().path()) {
                    asked.cancel();
                    std::future::pending::<()>().await;
                }
                Ok::<_, Infallible>(answer(&document, &request))
            }
        });
        // A broken connection is the client's to notice.
        connections.spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

/// Answers a request.
pub(crate) fn answer(document: &Document, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let knows = request.headers().get(AUTHORIZATION).is_some_and(|token| token.as_bytes() == document.token.as_bytes());
    let (status, body) = match request.uri().path() {
        PATH if knows => (StatusCode::OK, document.body()),
        PATH => (StatusCode::FORBIDDEN, Bytes::from_static(b"{\"message\":\"the authorization token is another\"}")),
        _ => (StatusCode::NOT_FOUND, Bytes::from_static(b"{\"message\":\"there is nothing here\"}")),
    };
    let mut reply = Response::new(Full::new(body));
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    reply
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    #[tokio::test]
    async fn who_knows_the_token_gets_them_and_nobody_else() {
        let credentials = Credentials {
            access_key: "ASIA1".into(),
            secret_key: "s".into(),
            session_token: Some("t".into()),
            expires_at_ms: None,
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = CancellationToken::new();
        let document = Document::new("right", credentials, Lasting::Until(1_700_000_000_000));
        let guard = serve(listener, document, asked.clone());
        let ask = async |path: &str, token: &str| {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let text = format!("GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: {token}\r\nconnection: close\r\n\r\n");
            stream.write_all(text.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        };
        let right = ask(PATH, "right").await;
        let document: serde_json::Value = serde_json::from_str(right.rsplit("\r\n\r\n").next().unwrap()).unwrap();
        assert_eq!((&document["AccessKeyId"], &document["SecretAccessKey"]), (&"ASIA1".into(), &"s".into()));
        assert_eq!((&document["Token"], &document["Expiration"]), (&"t".into(), &"2023-11-14T22:13:20.000Z".into()));
        for (path, token, status) in [(PATH, "wrong", "403"), ("/", "right", "404")] {
            let answer = ask(path, token).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")) && !answer.contains("ASIA1"), "{answer}");
        }
        assert!(!asked.is_cancelled());
        let mut extension = TcpStream::connect(address).await.unwrap();
        extension
            .write_all(b"POST /2020-01-01/extension/register HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n")
            .await
            .unwrap();
        asked.cancelled().await;
        drop(guard);
        assert_eq!(extension.read(&mut [0; 1]).await.ok().filter(|read| *read > 0), None, "it gets no answer");
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    }
}

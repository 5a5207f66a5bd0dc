//! As much of an S3-compatible service as the bucket engine uses, in memory: whole and partial puts, conditional puts,
//! ranges, removal, lists in pages. It can fail the next requests, cut answers short and flip a bit.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use store::blobs::{BucketBlobs, BucketConfig};
use tokio::io::{AsyncRead, AsyncWrite};

/// Objects of a page of a list: few, so that lists have several pages.
const LIST_ROWS: usize = 7;

#[derive(Default)]
pub struct Double {
    pub objects: Mutex<BTreeMap<String, Bytes>>,
    /// Parts of uploads that are not complete.
    pub uploads: Mutex<BTreeMap<String, BTreeMap<u32, Bytes>>>,
    /// So many requests are answered with 503 first.
    pub failing: AtomicUsize,
    pub requests: AtomicUsize,
    pub connections: AtomicUsize,
    next: AtomicUsize,
}

impl Double {
    /// A service, and a client of its bucket.
    pub async fn start() -> (Arc<Self>, BucketBlobs) {
        let (double, address) = Self::serve(None).await;
        (double, client(format!("http://{address}"), String::new()))
    }

    /// The same over TLS; the second client trusts nobody.
    pub async fn start_secure() -> (BucketBlobs, BucketBlobs) {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let key = rustls_pki_types::PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
        let config = tokio_rustls::rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let (_, address) = Self::serve(Some(Arc::new(config).into())).await;
        let endpoint = format!("https://localhost:{}", address.port());
        (client(endpoint.clone(), made.cert.pem()), client(endpoint, String::new()))
    }

    async fn serve(tls: Option<tokio_rustls::TlsAcceptor>) -> (Arc<Self>, std::net::SocketAddr) {
        let double = Arc::new(Self::default());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let served = double.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                served.connections.fetch_add(1, Ordering::SeqCst);
                let (served, tls) = (served.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => served.converse(stream).await,
                        Some(tls) => {
                            // A client that does not trust us ends here.
                            let Ok(stream) = tls.accept(stream).await else { return };
                            served.converse(stream).await;
                        }
                    }
                });
            }
        });
        (double, address)
    }

    async fn converse(self: Arc<Self>, stream: impl AsyncRead + AsyncWrite + Unpin) {
        let answer = hyper::service::service_fn(|request| {
            let served = self.clone();
            async move { Ok::<_, Infallible>(served.answer(request).await) }
        });
        let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        self.requests.fetch_add(1, Ordering::SeqCst);
        let (parts, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let authorization = parts.headers.get("authorization").map(|value| value.to_str().unwrap().to_owned());
        assert!(authorization.unwrap().starts_with("AWS4-HMAC-SHA256 Credential=key/"), "every request is signed");
        assert!(parts.headers.contains_key("host"));
        if self.failing.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
            return answered(StatusCode::SERVICE_UNAVAILABLE, "<Error><Code>SlowDown</Code></Error>");
        }
        let query: BTreeMap<String, String> = parts
            .uri
            .query()
            .unwrap_or("")
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .map(|(name, value)| (name.to_owned(), value.replace("%2F", "/")))
            .collect();
        let key = parts.uri.path().strip_prefix("/bucket").unwrap().trim_start_matches('/').to_owned();
        match parts.method {
            Method::PUT => self.put(key, &query, &parts.headers, body),
            Method::POST => self.post(key, &query),
            Method::DELETE => {
                match query.get("uploadId") {
                    Some(upload) => drop(self.uploads.lock().remove(upload)),
                    None => drop(self.objects.lock().remove(&key)),
                }
                answered(StatusCode::NO_CONTENT, "")
            }
            _ if query.contains_key("list-type") => self.list(&query),
            _ => self.get(&key, &parts.headers),
        }
    }

    fn put(
        &self,
        key: String,
        query: &BTreeMap<String, String>,
        headers: &http::HeaderMap,
        body: Bytes,
    ) -> Response<Full<Bytes>> {
        if let Some(upload) = query.get("uploadId") {
            let number = query["partNumber"].parse().unwrap();
            self.uploads.lock().get_mut(upload).unwrap().insert(number, body);
        } else {
            let mut objects = self.objects.lock();
            if headers.get("if-none-match").is_some_and(|value| value == "*") && objects.contains_key(&key) {
                return answered(StatusCode::PRECONDITION_FAILED, "<Error><Code>PreconditionFailed</Code></Error>");
            }
            objects.insert(key, body);
        }
        Response::builder().header("etag", "\"tag\"").body(Full::default()).unwrap()
    }

    fn post(&self, key: String, query: &BTreeMap<String, String>) -> Response<Full<Bytes>> {
        let Some(upload) = query.get("uploadId") else {
            let upload = format!("upload{}", self.next.fetch_add(1, Ordering::SeqCst));
            self.uploads.lock().insert(upload.clone(), BTreeMap::new());
            return answered(
                StatusCode::OK,
                &format!(
                    "<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>"
                ),
            );
        };
        let parts = self.uploads.lock().remove(upload).unwrap();
        let content: Vec<u8> = parts.into_values().flatten().collect();
        self.objects.lock().insert(key, content.into());
        answered(StatusCode::OK, "<CompleteMultipartUploadResult><ETag>tag</ETag></CompleteMultipartUploadResult>")
    }

    fn get(&self, key: &str, headers: &http::HeaderMap) -> Response<Full<Bytes>> {
        let Some(object) = self.objects.lock().get(key).cloned() else {
            return answered(StatusCode::NOT_FOUND, "<Error><Code>NoSuchKey</Code></Error>");
        };
        let range =
            headers.get("range").map(|range| range.to_str().unwrap().strip_prefix("bytes=").unwrap().to_owned());
        let range = range.expect("the engine reads by ranges");
        let (start, end) = match range.split_once('-').unwrap() {
            ("", last) => (object.len().saturating_sub(last.parse().unwrap()), object.len()),
            (start, end) => (start.parse().unwrap(), object.len().min(end.parse::<usize>().unwrap() + 1)),
        };
        if start >= object.len() {
            return answered(StatusCode::RANGE_NOT_SATISFIABLE, "");
        }
        Response::builder()
            .status(StatusCode::PARTIAL_CONTENT)
            .header("content-range", format!("bytes {start}-{}/{}", end - 1, object.len()))
            .header("last-modified", "Wed, 25 Nov 2026 19:00:00 GMT")
            .header("etag", "\"tag\"")
            .body(Full::new(object.slice(start..end)))
            .unwrap()
    }

    fn list(&self, query: &BTreeMap<String, String>) -> Response<Full<Bytes>> {
        let text = |name: &str| query.get(name).cloned().unwrap_or_default();
        let (prefix, after) = (text("prefix"), text("continuation-token").max(text("start-after")));
        let objects = self.objects.lock();
        let mut found = objects.iter().filter(|(key, _)| key.starts_with(&prefix) && **key > after);
        let page: Vec<_> = found.by_ref().take(LIST_ROWS).collect();
        let more = found.next().is_some();
        let next = page.last().map(|(key, _)| key.to_string()).unwrap_or_default();
        let contents: String = page.iter().map(|(key, object)| format!(
            "<Contents><Key>{key}</Key><Size>{}</Size><LastModified>2026-11-25T19:00:00.000Z</LastModified><ETag>tag</ETag></Contents>",
            object.len()
        )).collect();
        let token = if more { format!("<NextContinuationToken>{next}</NextContinuationToken>") } else { String::new() };
        answered(StatusCode::OK, &format!("<ListBucketResult>{contents}{token}</ListBucketResult>"))
    }
}

fn client(endpoint: String, roots_pem: String) -> BucketBlobs {
    let config = BucketConfig {
        bucket: "bucket".into(),
        prefix: "dunlin/blobs".into(),
        endpoint: Some(endpoint),
        region: "us-east-1".into(),
        key: Some(("key".into(), "secret".into())),
        roots_pem,
    };
    BucketBlobs::new(&config).unwrap()
}

fn answered(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    Response::builder().status(status).body(Full::new(Bytes::copy_from_slice(text.as_bytes()))).unwrap()
}

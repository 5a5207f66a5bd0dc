//! The control plane and what keeps a browser on the same machine out of it.
//!
//! Each attempt has a control: the same request with what a page cannot send passes.

use tokio::net::TcpStream;

use crate::Config;
use crate::doubles::{Front, shown};

const AUTH: (&str, &str) = ("authorization", "AWS4-HMAC-SHA256 Credential=test/20200101/us-east-1/lambda/aws4_request");

#[tokio::test]
async fn the_doors_are_reached() {
    let front = Front::start(Config::default()).await;
    let host = ("host", "localhost:4566");
    for (method, path, headers, wanted) in [
        ("GET", "/_dunlin/health", vec![], r#"200 {"status":"ready"}"#),
        ("GET", "/_dunlin/health", vec![("host", "evil.example")], r#"200 {"status":"ready"}"#),
        ("POST", "/", vec![host, AUTH], "200 aws / http://localhost:4566 2 bytes from nobody"),
        (
            "GET",
            "/2015-03-31/functions",
            vec![host, ("authorization", "x")],
            "200 aws /2015-03-31/functions http://localhost:4566 2 bytes from nobody",
        ),
        ("GET", "/_dunlin/usage", vec![("authorization", "x")], "200 admin /_dunlin/usage"),
    ] {
        assert_eq!(shown(&front.call(method, path, &headers, b"{}").await), wanted);
    }
    front.gateway.set_ready(false);
    assert_eq!(front.call("GET", "/_dunlin/health", &[], b"").await.status(), 503);
    let nothing = front.call("GET", "/favicon.ico", &[], b"").await;
    assert_eq!(nothing.status(), 404);
    assert!(shown(&nothing).contains("This port serves"));
}

#[tokio::test]
async fn a_call_is_done_to_its_end_although_the_caller_hangs_up() {
    let front = Front::start(Config::default()).await;
    let mut stream = TcpStream::connect(front.address).await.unwrap();
    let head = b"GET /2015-03-31/wait HTTP/1.1\r\nHost: localhost\r\nAuthorization: x\r\n\r\n";
    tokio::io::AsyncWriteExt::write_all(&mut stream, head).await.unwrap();
    front.functions.entered.notified().await;
    drop(stream);
    while front.gateway.background.is_empty() {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    front.functions.go.notify_one();
    front.functions.ended.notified().await;
    front.gateway.wait_for_abandoned_calls().await;
}

#[tokio::test]
async fn what_a_page_can_send_is_refused() {
    let front = Front::start(Config::default()).await;
    let form = ("content-type", "application/x-www-form-urlencoded");
    let plain = ("content-type", "text/plain");
    for (headers, status) in [
        (vec![plain], 403),
        (vec![form], 403),
        (vec![plain, ("x-amz-target", "DynamoDB_20120810.ListTables")], 403),
        (vec![AUTH, ("origin", "https://evil.example")], 403),
        (vec![AUTH, ("origin", "null")], 403),
        (vec![AUTH, ("sec-fetch-site", "cross-site")], 403),
        (vec![AUTH, ("host", "evil.example")], 421),
        (vec![AUTH, ("host", "evil.example:4566")], 421),
        (vec![AUTH, ("upgrade", "websocket"), ("connection", "Upgrade"), ("sec-websocket-key", "x")], 403),
        (vec![AUTH], 200),
        (vec![AUTH, plain, ("origin", "http://localhost"), ("sec-fetch-site", "same-origin")], 200),
    ] {
        for path in ["/", "/_dunlin/usage"] {
            let response = front.call("POST", path, &headers, b"Action=GetCallerIdentity").await;
            assert_eq!(response.status(), status, "{path} {headers:?}");
            let cors = response.headers().keys().find(|name| name.as_str().starts_with("access-control"));
            assert_eq!(cors, None, "{headers:?}");
        }
    }
    let preflight = [("origin", "https://evil.example"), ("access-control-request-method", "POST")];
    let response = front.call("OPTIONS", "/", &preflight, b"").await;
    assert!(!response.status().is_success());
    assert!(!response.headers().contains_key("access-control-allow-origin"));
}

#[tokio::test]
async fn a_request_names_one_host() {
    let front = Front::start(Config::default()).await;
    for (head, status) in [
        ("GET /_dunlin/url/open/ HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n", "400"),
        ("GET http://evil.example/_dunlin/url/open/ HTTP/1.1\r\nHost: localhost\r\n", "400"),
        ("GET /_dunlin/url/open/ HTTP/1.1\r\n", "400"),
        ("GET http://localhost/_dunlin/url/open/ HTTP/1.1\r\nHost: localhost\r\n", "200"),
    ] {
        let stream = TcpStream::connect(front.address).await.unwrap();
        let answer = super::connections::exchange(stream, format!("{head}Connection: close\r\n\r\n").as_bytes()).await;
        assert_eq!(&answer[9..12], status, "{head}");
    }
}

#[tokio::test]
async fn an_allowed_origin_and_domain_pass() {
    let config = Config {
        domains: vec!["faas.example".into()],
        allowed_origins: vec!["https://console.example".into()],
        ..Config::default()
    };
    let front = Front::start(config).await;
    let headers =
        [AUTH, ("host", "faas.example"), ("origin", "https://console.example"), ("sec-fetch-site", "cross-site")];
    assert_eq!(front.call("POST", "/", &headers, b"").await.status(), 200);
}

#[tokio::test]
async fn a_large_request_is_taken_up_to_the_limit() {
    let front = Front::start(Config { control_body_bytes_max: 1_000, ..Config::default() }).await;
    assert_eq!(front.call("POST", "/", &[AUTH], &[b'x'; 1_000]).await.status(), 200);
    assert_eq!(front.call("POST", "/", &[AUTH], &[b'x'; 1_001]).await.status(), 413);
    let chunked = "POST / HTTP/1.1\r\nHost: localhost\r\nAuthorization: AWS4 x\r\nConnection: close\r\n\
        Transfer-Encoding: chunked\r\n\r\n";
    let body = format!("3e9\r\n{}\r\n0\r\n\r\n", "x".repeat(1_001));
    let stream = TcpStream::connect(front.address).await.unwrap();
    let answer = super::connections::exchange(stream, format!("{chunked}{body}").as_bytes()).await;
    assert_eq!(&answer[9..12], "413", "{answer}");
}

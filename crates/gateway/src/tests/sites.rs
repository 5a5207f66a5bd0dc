//! Function URLs, REST APIs and HTTP APIs from the client's socket to the function's event and back.
//!
//! Not here: the tables of events and answers, which are beside `http_event`.

use bytes::Bytes;
use http::Response;
use serde_json::json;

use crate::Config;
use crate::doubles::{Behaviour, Front, shown};

fn header<'a>(response: &'a Response<Bytes>, name: &str) -> &'a str {
    response.headers().get(name).map_or("-", |value| value.to_str().unwrap())
}

#[tokio::test]
async fn a_function_url_answers_in_both_forms() {
    let front = Front::start(Config::default()).await;
    let host = ("host", "open.lambda-url.us-east-1.localhost:4566");
    for (path, headers, policy, domain) in [
        ("/_dunlin/url/open/a%20b?x=1", vec![], crate::browser::SANDBOX_POLICY, "open.lambda-url.us-east-1.localhost"),
        ("/a%20b?x=1", vec![host], "-", "open.lambda-url.us-east-1.localhost"),
    ] {
        let response = front.call("POST", path, &headers, b"body").await;
        assert_eq!(shown(&response), "200 hi");
        assert_eq!(header(&response, "content-security-policy"), policy);
        let event = front.functions.event();
        assert_eq!(event["rawPath"], "/a b");
        assert_eq!(event["body"], "Ym9keQ==");
        let context = &event["requestContext"];
        assert_eq!(context["domainName"], domain);
        assert_eq!(context["accountId"], "anonymous");
        assert_eq!(context["http"]["sourceIp"], "127.0.0.1");
        assert_eq!(context["requestId"], header(&response, "x-amzn-requestid"));
        assert_eq!(event["headers"]["x-amzn-trace-id"], header(&response, "x-amzn-trace-id"));
        let seen = front.functions.seen.lock();
        assert_eq!(seen.last().unwrap().request_id.0, header(&response, "x-amzn-requestid"));
    }
}

#[tokio::test]
async fn faults_have_the_shape_of_their_front() {
    let front = Front::start(Config::default()).await;
    let internal = r#"{"message":"Internal server error"}"#;
    for (behaviour, url, http, rest) in [
        (
            Behaviour::Fail,
            "502 Internal Server Error",
            r#"500 {"message":"Internal Server Error"}"#,
            format!("502 {internal}"),
        ),
        (
            Behaviour::Throttle,
            r#"429 {"Message":"Rate Exceeded."}"#,
            r#"429 {"message":"Too Many Requests"}"#,
            r#"429 {"message":"Too Many Requests"}"#.into(),
        ),
        (
            Behaviour::Busy,
            r#"503 {"Message":"Service Unavailable"}"#,
            r#"503 {"message":"Service Unavailable"}"#,
            r#"503 {"message":"Service Unavailable"}"#.into(),
        ),
        (
            Behaviour::Payload(Bytes::from_static(br#"{"statusCode":0}"#)),
            "502 Internal Server Error",
            r#"500 {"message":"Internal Server Error"}"#,
            format!("502 {internal}"),
        ),
    ] {
        *front.functions.behaviour.lock() = behaviour;
        assert_eq!(shown(&front.call("GET", "/_dunlin/url/open/", &[], b"").await), url);
        assert_eq!(shown(&front.call("GET", "/_dunlin/api/httpapi/pets/1", &[], b"").await), http);
        assert_eq!(shown(&front.call("GET", "/_dunlin/api/restapi/dev/items/1", &[], b"").await), rest);
    }
    let missing = r#"403 {"message":"Missing Authentication Token"}"#;
    for (path, wanted) in [
        ("/_dunlin/url/unknown/", r#"403 {"Message":null}"#),
        ("/_dunlin/api/unknown/", r#"404 {"message":"Not Found"}"#),
        ("/_dunlin/api/httpapi/none", r#"404 {"message":"Not Found"}"#),
        ("/_dunlin/api/restapi/dev/none", missing),
        ("/_dunlin/api/restapi/prod/items/1", r#"403 {"message":"Forbidden"}"#),
    ] {
        assert_eq!(shown(&front.call("GET", path, &[], b"").await), wanted, "{path}");
    }
}

#[tokio::test]
async fn a_rest_api_gets_format_1() {
    let front = Front::start(Config::default()).await;
    let stream = tokio::net::TcpStream::connect(front.address).await.unwrap();
    let raw = "POST /restapis/restapi/dev/_user_request_/items/a%2Fb?q=1 HTTP/1.1\r\nHost: localhost\r\n\
        X-Custom-HEADER: v\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi";
    let answer = super::connections::exchange(stream, raw.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("\r\nx-amz-apigw-id: "), "{answer}");
    let event = front.functions.event();
    assert_eq!(event["path"], "/items/a%2Fb");
    assert_eq!(event["resource"], "/items/{id}");
    assert_eq!(event["pathParameters"], json!({"id": "a%2Fb"}));
    assert_eq!(event["headers"]["X-Custom-HEADER"], "v");
    assert_eq!(event["requestContext"]["path"], "/dev/items/a%2Fb");
    assert_eq!(event["requestContext"]["stage"], "dev");
    assert_eq!(event["requestContext"]["deploymentId"], "dep1");
    assert_eq!(event["body"], "hi");
    let mock = front.call("OPTIONS", "/_dunlin/api/restapi/dev/items", &[], b"").await;
    assert_eq!((mock.status().as_u16(), header(&mock, "access-control-allow-origin")), (204, "*"));
}

#[tokio::test]
async fn an_http_api_gets_the_format_of_its_route() {
    let front = Front::start(Config::default()).await;
    let host = ("host", "httpapi.execute-api.us-east-1.localhost");
    let response = front.call("GET", "/pets/a%20b", &[host], b"").await;
    assert_eq!(shown(&response), "200 hi");
    assert_eq!(header(&response, "apigw-requestid").len(), 16);
    let event = front.functions.event();
    assert_eq!(event["version"], "2.0");
    assert_eq!(event["routeKey"], "GET /pets/{id}");
    assert_eq!(event["pathParameters"], json!({"id": "a b"}));
    assert_eq!(event["requestContext"]["requestId"], header(&response, "apigw-requestid"));
    front.call("POST", "/old", &[host], b"x").await;
    let event = front.functions.event();
    assert_eq!((&event["version"], &event["path"]), (&json!("1.0"), &json!("/old")));
}

#[tokio::test]
async fn an_integrations_time_ends_the_wait_but_not_the_function() {
    let front = Front::start(Config::default()).await;
    *front.functions.behaviour.lock() = Behaviour::Wait;
    let timeout = r#"504 {"message":"Endpoint request timed out"}"#;
    for (path, wanted) in [
        ("/_dunlin/api/restapi/dev/slow", timeout),
        ("/_dunlin/api/httpapi/slow", r#"503 {"message":"Service Unavailable"}"#),
    ] {
        assert_eq!(shown(&front.call("GET", path, &[], b"").await), wanted);
        front.functions.go.notify_one();
        front.functions.ended.notified().await;
    }
    front.gateway.wait_for_abandoned_calls().await;
}

#[tokio::test]
async fn signed_sites_ask_who_calls() {
    let front = Front::start(Config::default()).await;
    let forbidden = r#"403 {"Message":"Forbidden"}"#;
    let not_authorized = r#"403 {"Message":"User is not authorized to access this resource"}"#;
    let wrong = r#"403 {"message":"wrong signature"}"#;
    for (path, none, bad, known) in [
        ("/_dunlin/url/signed/", forbidden, wrong, forbidden),
        ("/_dunlin/api/restapi/dev/signed", r#"403 {"message":"Missing Authentication Token"}"#, wrong, not_authorized),
        (
            "/_dunlin/api/httpapi/signed",
            r#"403 {"message":"Forbidden"}"#,
            r#"403 {"message":"Forbidden"}"#,
            r#"403 {"message":"Forbidden"}"#,
        ),
    ] {
        let call = |value: &'static str| {
            front.call("GET", path, std::slice::from_ref(Box::leak(Box::new(("authorization", value)))), b"")
        };
        assert_eq!(shown(&front.call("GET", path, &[], b"").await), none, "{path}");
        assert_eq!(shown(&call("AWS4 bad").await), bad, "{path}");
        assert_eq!(shown(&call("AWS4 known").await), known, "{path}");
        assert!(front.functions.seen.lock().is_empty());
        assert_eq!(shown(&call("AWS4 good").await), "200 hi", "{path}");
        front.functions.seen.lock().clear();
    }
    front.call("GET", "/_dunlin/url/signed/", &[("authorization", "AWS4 good")], b"").await;
    let event = front.functions.event();
    assert_eq!(event["requestContext"]["authorizer"]["iam"]["userArn"], "arn:lambda");
    assert_eq!(event["requestContext"]["accountId"], "000000000000");
}

#[tokio::test]
async fn browsers_get_the_configured_cross_origin_answers() {
    let front = Front::start(Config::default()).await;
    front.functions.answer(r#"{"statusCode":200,"headers":{"access-control-allow-origin":"*"},"body":"hi"}"#);
    let asks = ("access-control-request-method", "POST");
    for (origin, allowed) in [("https://shop.example", "https://shop.example"), ("https://evil.example", "-")] {
        let origin = ("origin", origin);
        for (path, status) in [("/_dunlin/url/shared/", 200), ("/_dunlin/api/httpapi/none", 204)] {
            let preflight = front.call("OPTIONS", path, &[origin, asks], b"").await;
            assert_eq!(preflight.status(), status, "{path}");
            assert_eq!(header(&preflight, "access-control-allow-origin"), allowed, "{path}");
            assert!(front.functions.seen.lock().is_empty(), "the function answers no preflight");
        }
        let answer = front.call("POST", "/_dunlin/url/shared/", &[origin, ("sec-fetch-site", "cross-site")], b"").await;
        assert_eq!(header(&answer, "access-control-allow-origin"), allowed);
        front.functions.seen.lock().clear();
    }
    // Without settings of the URL, the function's own headers stand.
    let answer = front.call("GET", "/_dunlin/url/open/", &[("origin", "https://evil.example")], b"").await;
    assert_eq!(header(&answer, "access-control-allow-origin"), "*");
}

#[tokio::test]
async fn bodies_are_taken_up_to_the_limit_of_their_front() {
    let front = Front::start(Config::default()).await;
    let text = ("content-type", "text/plain");
    let fits = vec![b'x'; 6_000_000];
    assert_eq!(shown(&front.call("POST", "/_dunlin/url/open/", &[text], &fits).await), "200 hi");
    assert_eq!(front.functions.event()["body"].as_str().unwrap().len(), fits.len());
    // Six megabytes of binary are eight of base64: too large an event.
    let url = r#"413 {"Message":"Request Entity Too Large"}"#;
    assert_eq!(shown(&front.call("POST", "/_dunlin/url/open/", &[], &fits).await), url);
    let large = vec![b'x'; 6 * 1024 * 1024 + 1];
    assert_eq!(shown(&front.call("POST", "/_dunlin/url/open/", &[text], &large).await), url);
    let rest = r#"413 {"message":"Request Too Long"}"#;
    let huge = vec![b'x'; 10 * 1024 * 1024 + 1];
    assert_eq!(shown(&front.call("POST", "/_dunlin/api/restapi/dev/items/1", &[], &huge).await), rest);
    let http = r#"413 {"message":"Request Entity Too Large"}"#;
    assert_eq!(shown(&front.call("POST", "/_dunlin/api/httpapi/old", &[], &huge).await), http);
    assert_eq!(front.functions.seen.lock().len(), 1);
}

#[tokio::test]
async fn a_trusted_proxy_names_the_client() {
    let front = Front::start(Config { behind_proxy: true, ..Config::default() }).await;
    let headers = [("x-forwarded-for", "198.51.100.1, 192.0.2.9"), ("x-forwarded-proto", "https")];
    front.call("GET", "/_dunlin/url/open/", &headers, b"").await;
    let event = front.functions.event();
    assert_eq!(event["requestContext"]["http"]["sourceIp"], "192.0.2.9");
    assert_eq!(event["headers"]["x-forwarded-proto"], "https");
    let front = Front::start(Config::default()).await;
    front.call("GET", "/_dunlin/url/open/", &headers, b"").await;
    let event = front.functions.event();
    assert_eq!(event["requestContext"]["http"]["sourceIp"], "127.0.0.1");
    assert_eq!(event["headers"]["x-forwarded-for"], "198.51.100.1, 192.0.2.9, 127.0.0.1");
    assert_eq!(event["headers"]["x-forwarded-proto"], "http");
}

#[tokio::test]
async fn a_streaming_url_passes_pieces_on() {
    let front = Front::start(Config::default()).await;
    let url = "/_dunlin/url/stream/";
    let stream = |content_type, chunks, fails| {
        *front.functions.behaviour.lock() = Behaviour::Stream(content_type, chunks, fails);
    };
    stream("text/x", &["one ", "two"], false);
    let answer = front.call("GET", url, &[("origin", "https://shop.example")], b"").await;
    assert_eq!((shown(&answer).as_str(), header(&answer, "content-type")), ("200 one two", "text/x"));
    assert_eq!(header(&answer, "access-control-allow-origin"), "https://shop.example");
    assert_eq!(header(&answer, "transfer-encoding"), "chunked");
    assert_eq!(header(&answer, "x-amzn-requestid").len(), 36);

    let prelude = "application/vnd.awslambda.http-integration-response";
    stream(prelude, &["{\"statusCode\":201,\"cookies\":[\"a=b\"]}\0\0\0\0", "\0\0\0\0first ", "second"], false);
    let answer = front.call("GET", url, &[], b"").await;
    assert_eq!((shown(&answer).as_str(), header(&answer, "set-cookie")), ("201 first second", "a=b"));
    stream(prelude, &["{\"statusCode\":204}\0\0\0\0\0\0\0\0"], false);
    assert_eq!(shown(&front.call("GET", url, &[], b"").await), "204 ");

    for (chunks, fails) in [(&["{"][..], false), (&["{\"statusCode\":200}"], true), (&["x\0\0\0\0\0\0\0\0"], false)] {
        stream(prelude, chunks, fails);
        assert_eq!(shown(&front.call("GET", url, &[], b"").await), "502 Internal Server Error", "{chunks:?}");
    }
    front.functions.answer(r#"{"statusCode":202,"body":"whole"}"#);
    assert_eq!(shown(&front.call("GET", url, &[], b"").await), "202 whole");
    *front.functions.behaviour.lock() = Behaviour::Fail;
    assert_eq!(shown(&front.call("GET", url, &[], b"").await), "502 Internal Server Error");
}

#[tokio::test]
async fn a_stream_that_breaks_off_breaks_its_connection() {
    let front = Front::start(Config::default()).await;
    *front.functions.behaviour.lock() = Behaviour::Stream("text/x", &["half"], true);
    let stream = tokio::net::TcpStream::connect(front.address).await.unwrap();
    let raw = "GET /_dunlin/url/stream/ HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let answer = super::connections::exchange(stream, raw.as_bytes()).await;
    assert!(answer.ends_with("4\r\nhalf\r\n"), "no last chunk: {answer}");
}

#[tokio::test]
async fn streams_over_http_2() {
    let front = Front::start(Config::default()).await;
    let call = || async {
        let stream = tokio::net::TcpStream::connect(front.address).await.unwrap();
        let request = crate::doubles::request("GET", "http://localhost/_dunlin/url/stream/", &[], b"");
        crate::doubles::send_h2_streaming(stream, request).await
    };
    *front.functions.behaviour.lock() = Behaviour::Stream("text/x", &["one ", "two"], false);
    assert_eq!(call().await, Ok("one two".into()));
    *front.functions.behaviour.lock() = Behaviour::Stream("text/x", &["half"], true);
    assert_eq!(call().await, Err("half".into()), "what came is there, and its end is not");
}

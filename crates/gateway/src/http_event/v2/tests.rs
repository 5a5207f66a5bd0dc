//! Tables of format 2.0: events written and answers read.
//!
//! Not here: routing and CORS, which have tables of their own beside their code.

use http::HeaderMap;
use serde_json::{Value, json};

use super::*;
use crate::http_event::tests::facts;

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in pairs {
        map.append(*name, value.parse().unwrap());
    }
    map
}

fn read(bytes: &Bytes) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

#[test]
fn an_event_has_every_member_that_the_request_has() {
    let map = headers(&[
        ("host", "abc.execute-api.us-east-1.localhost"),
        ("user-agent", "curl/8"),
        ("accept", "a"),
        ("accept", "b"),
        ("cookie", "c1=v; c2=w"),
        ("cookie", "c3=x"),
        ("connection", "keep-alive"),
        ("x-forwarded-for", "forged"),
        ("content-type", "Application/JSON; charset=utf-8"),
    ]);
    let mut facts = facts("POST", "/stage/a%20b/%E2%98%95/", "a=1&a=2&b=%20x+y", &map);
    facts.body = br#"{"k":"\u00e9"}"#;
    let variables = BTreeMap::from([("v".to_owned(), "1".to_owned())]);
    let parameters = [(Cow::Borrowed("id"), Cow::Borrowed("1"))];
    let route = Route { key: "POST /{id}", stage: "stage", parameters: &parameters, variables: Some(&variables) };
    assert_eq!(
        read(&event(&facts, &route)),
        json!({
            "version": "2.0",
            "routeKey": "POST /{id}",
            "rawPath": "/stage/a b/☕/",
            "rawQueryString": "a=1&a=2&b=%20x+y",
            "cookies": ["c1=v", "c2=w", "c3=x"],
            "headers": {
                "host": "abc.execute-api.us-east-1.localhost",
                "user-agent": "curl/8",
                "accept": "a,b",
                "content-type": "Application/JSON; charset=utf-8",
                "x-amzn-trace-id": "Root=1-5e6722a7-cc56xmpl46db7ae02d4da47e",
                "x-forwarded-for": "192.0.2.1",
                "x-forwarded-port": "443",
                "x-forwarded-proto": "https",
            },
            "queryStringParameters": {"a": "1,2", "b": " x y"},
            "requestContext": {
                "accountId": "000000000000",
                "apiId": "abc",
                "domainName": "abc.execute-api.us-east-1.localhost",
                "domainPrefix": "abc",
                "http": {
                    "method": "POST",
                    "path": "/stage/a b/☕/",
                    "protocol": "HTTP/1.1",
                    "sourceIp": "192.0.2.1",
                    "userAgent": "curl/8",
                },
                "requestId": "id",
                "routeKey": "POST /{id}",
                "stage": "stage",
                "time": "04/Mar/2020:19:15:17 +0000",
                "timeEpoch": 1_583_349_317_135_u64,
            },
            "pathParameters": {"id": "1"},
            "stageVariables": {"v": "1"},
            "body": "{\"k\":\"\\u00e9\"}",
            "isBase64Encoded": false,
        })
    );
}

#[test]
fn absent_things_are_left_out() {
    let map = HeaderMap::new();
    let event = read(&event(&facts("GET", "/", "", &map), &Route::DEFAULT));
    for key in ["cookies", "queryStringParameters", "pathParameters", "stageVariables", "body"] {
        assert!(event.get(key).is_none(), "{key}");
    }
    assert!(event["requestContext"].get("authorizer").is_none());
    assert_eq!(event["isBase64Encoded"], json!(false));
}

#[test]
fn bodies_are_text_only_for_the_known_media_types() {
    for (media, body, wanted) in [
        (Some("text/plain"), &b"hi"[..], "hi"),
        (Some("TEXT/x"), b"hi", "hi"),
        (Some("application/xml;a=b"), b"hi", "hi"),
        (Some("application/javascript"), b"hi", "hi"),
        (Some("application/problem+json"), b"hi", "aGk="),
        (Some("application/x-www-form-urlencoded"), b"hi", "aGk="),
        (None, b"hi", "aGk="),
        (Some("text/plain"), b"\xff", "/w=="),
    ] {
        let map = media.map(|media| headers(&[("content-type", media)])).unwrap_or_default();
        let mut facts = facts("POST", "/", "", &map);
        facts.body = body;
        let event = read(&event(&facts, &Route::DEFAULT));
        assert_eq!(event["body"], json!(wanted), "{media:?}");
        assert_eq!(event["isBase64Encoded"], json!(wanted != "hi"), "{media:?}");
    }
}

#[test]
fn a_signed_caller_is_shown() {
    let map = HeaderMap::new();
    let caller = model::Principal {
        account: model::AccountId::default(),
        arn: "arn:aws:iam::000000000000:root".into(),
        user_id: "U".into(),
        access_key: "AKIA".into(),
    };
    let mut facts = facts("GET", "/", "", &map);
    facts.caller = Some(&caller);
    let event = read(&event(&facts, &Route::DEFAULT));
    assert_eq!(
        event["requestContext"]["authorizer"]["iam"],
        json!({"accessKey": "AKIA", "accountId": "000000000000", "callerId": "U", "cognitoIdentity": null,
            "principalOrgId": null, "userArn": "arn:aws:iam::000000000000:root", "userId": "U"})
    );
}

/// Status, content type and body, or `malformed`.
fn answer(payload: &str, front: Front) -> String {
    match response(&Bytes::copy_from_slice(payload.as_bytes()), front) {
        Ok(response) => format!(
            "{} {} {}",
            response.status().as_u16(),
            response.headers()[CONTENT_TYPE].to_str().unwrap(),
            String::from_utf8_lossy(response.body())
        ),
        Err(_) => "malformed".into(),
    }
}

#[test]
fn answers_without_a_status_are_bodies() {
    for (payload, wanted) in [
        (r#""a\n\"b\"""#, "a\n\"b\""),
        (r#""plain""#, "plain"),
        ("null", "null"),
        ("[1, 2]", "[1, 2]"),
        ("3.50", "3.50"),
        (r#"{"a": 1, "headers": {"x": "y"}}"#, r#"{"a": 1, "headers": {"x": "y"}}"#),
        (r#"{"statusCode": null, "body": "x"}"#, r#"{"statusCode": null, "body": "x"}"#),
        ("{broken", "{broken"),
        ("\"broken", "\"broken"),
        ("", ""),
    ] {
        let response = response(&Bytes::copy_from_slice(payload.as_bytes()), Front::HttpApi).unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
        assert!(response.headers().get("x").is_none());
        assert_eq!(response.body(), wanted.as_bytes(), "{payload}");
    }
}

#[test]
fn structured_answers_follow_the_rules_of_their_front() {
    let plain = "text/plain;charset=UTF-8";
    for (payload, api, url) in [
        (r#"{"statusCode":201}"#, format!("201 {plain} "), "201 application/json ".to_owned()),
        (r#"{"statusCode":"201","body":"x"}"#, format!("201 {plain} x"), "201 application/json x".to_owned()),
        (
            r#"{"statusCode":200,"body":"aGk=","isBase64Encoded":true}"#,
            format!("200 {plain} hi"),
            "200 application/json hi".into(),
        ),
        (r#"{"statusCode":200,"body":{"a":1}}"#, "malformed".to_owned(), r#"200 application/json {"a":1}"#.to_owned()),
        (r#"{"statusCode":200.5}"#, "malformed".to_owned(), "malformed".to_owned()),
        (r#"{"statusCode":0}"#, "malformed".to_owned(), "malformed".to_owned()),
        (r#"{"statusCode":100}"#, "malformed".to_owned(), "malformed".to_owned()),
        (r#"{"statusCode":700}"#, "malformed".to_owned(), "malformed".to_owned()),
        (r#"{"statusCode":200,"headers":[1]}"#, "malformed".to_owned(), "malformed".to_owned()),
        (r#"{"statusCode":200,"headers":{"a":{}}}"#, "malformed".to_owned(), "malformed".to_owned()),
        (r#"{"statusCode":200,"headers":{"bad name":"x"}}"#, "malformed".to_owned(), "malformed".to_owned()),
        (r#"{"statusCode":200,"headers":{"a":"x\r\ny: z"}}"#, "malformed".to_owned(), "malformed".to_owned()),
        (r#"{"statusCode":200,"cookies":"a"}"#, "malformed".to_owned(), "malformed".to_owned()),
        (r#"{"statusCode":200,"body":"?","isBase64Encoded":true}"#, "malformed".to_owned(), "malformed".to_owned()),
        (
            r#"{"statusCode":200,"headers":{"Content-Type":"a/b"},"body":null}"#,
            "200 a/b ".to_owned(),
            "200 a/b ".to_owned(),
        ),
        (r#"{"statusCode":204,"body":"gone"}"#, format!("204 {plain} "), "204 application/json ".to_owned()),
    ] {
        assert_eq!(answer(payload, Front::HttpApi), api, "{payload}");
        assert_eq!(answer(payload, Front::FunctionUrl), url, "{payload}");
    }
}

#[test]
fn headers_and_cookies_are_carried() {
    let payload = r#"{"statusCode":200,"cookies":["a=1","b=2"],"headers":{"X-Number":7,"x-true":true,"x-null":null,
        "Transfer-Encoding":"chunked","Content-Length":"99","Connection":"close"},"body":"x","other":1}"#;
    let response = response(&Bytes::from_static(payload.as_bytes()), Front::HttpApi).unwrap();
    let headers = response.headers();
    assert_eq!(headers["x-number"], "7");
    assert_eq!(headers["x-true"], "true");
    assert_eq!(headers.get_all("set-cookie").iter().collect::<Vec<_>>(), ["a=1", "b=2"]);
    for dropped in ["transfer-encoding", "content-length", "connection", "x-null"] {
        assert!(!headers.contains_key(dropped), "{dropped}");
    }
}

#[test]
fn a_body_without_escapes_is_not_copied() {
    let payload = Bytes::from_static(br#"{"statusCode":200,"body":"no escapes here"}"#);
    let body = response(&payload, Front::HttpApi).unwrap().into_body();
    assert!(payload.as_ptr_range().contains(&body.as_ptr()));
}

proptest::proptest! {
    #[test]
    fn noise_never_panics(noise in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
        let _ = response(&Bytes::from(noise), Front::FunctionUrl);
    }

    #[test]
    fn any_path_query_and_body_make_an_event(path in "/[ -~]{0,40}", query in "[ -~]{0,40}", body: Vec<u8>) {
        let map = headers(&[("content-type", "text/plain")]);
        let mut facts = facts("POST", &path, &query, &map);
        facts.body = &body;
        let event = read(&event(&facts, &Route::DEFAULT));
        proptest::prop_assert_eq!(event["rawQueryString"].as_str(), Some(query.as_str()));
        proptest::prop_assert_eq!(event.get("body").is_none(), body.is_empty());
    }
}

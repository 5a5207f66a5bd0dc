//! Tables of format 1.0: events written and answers read.
//!
//! Not here: the resource tree's routing, which has tables of its own.

use serde_json::{Value, json};

use super::*;
use crate::http_event::tests::facts;

static NO_VARIABLES: BTreeMap<String, String> = BTreeMap::new();

fn route<'a>(parameters: &'a [(Cow<'a, str>, Cow<'a, str>)], binary: &'a [String]) -> Route<'a> {
    Route {
        version: None,
        resource: "/pets/{id}",
        resource_id: "abc123",
        path: "/pets/1",
        full_path: "/dev/pets/1",
        stage: "dev",
        deployment_id: "d1",
        parameters,
        variables: &NO_VARIABLES,
        binary_media_types: Some(binary),
    }
}

#[test]
fn an_event_has_every_member() {
    let mut map = HeaderMap::new();
    for (name, value) in [
        ("host", "abc.execute-api.us-east-1.localhost"),
        ("user-agent", "curl/8"),
        ("authorization", "x"),
        ("x-two", "1"),
        ("x-two", "2"),
        ("content-length", "2"),
        ("te", "trailers"),
    ] {
        map.append(name, value.parse().unwrap());
    }
    let mut facts = facts("POST", "/dev/pets/1", "a=1&a=2&b=%C3%A9", &map);
    facts.body = b"hi";
    let parameters = [(Cow::Borrowed("id"), Cow::Borrowed("1"))];
    let event: Value = serde_json::from_slice(&event(&facts, &route(&parameters, &[]), "ext=")).unwrap();
    assert_eq!(
        event,
        json!({
            "resource": "/pets/{id}",
            "path": "/pets/1",
            "httpMethod": "POST",
            "headers": {
                "Host": "abc.execute-api.us-east-1.localhost", "User-Agent": "curl/8", "Authorization": "x",
                "x-two": "2", "X-Amzn-Trace-Id": "Root=1-5e6722a7-cc56xmpl46db7ae02d4da47e",
                "X-Forwarded-For": "192.0.2.1", "X-Forwarded-Port": "443", "X-Forwarded-Proto": "https",
            },
            "multiValueHeaders": {
                "Host": ["abc.execute-api.us-east-1.localhost"], "User-Agent": ["curl/8"], "Authorization": ["x"],
                "x-two": ["1", "2"], "X-Amzn-Trace-Id": ["Root=1-5e6722a7-cc56xmpl46db7ae02d4da47e"],
                "X-Forwarded-For": ["192.0.2.1"], "X-Forwarded-Port": ["443"], "X-Forwarded-Proto": ["https"],
            },
            "queryStringParameters": {"a": "2", "b": "é"},
            "multiValueQueryStringParameters": {"a": ["1", "2"], "b": ["é"]},
            "pathParameters": {"id": "1"},
            "stageVariables": null,
            "requestContext": {
                "accountId": "000000000000", "apiId": "abc", "deploymentId": "d1",
                "domainName": "abc.execute-api.us-east-1.localhost", "domainPrefix": "abc",
                "extendedRequestId": "ext=", "httpMethod": "POST",
                "identity": {
                    "accessKey": null, "accountId": null, "caller": null, "cognitoAuthenticationProvider": null,
                    "cognitoAuthenticationType": null, "cognitoIdentityId": null, "cognitoIdentityPoolId": null,
                    "principalOrgId": null, "sourceIp": "192.0.2.1", "user": null, "userAgent": "curl/8",
                    "userArn": null,
                },
                "path": "/dev/pets/1", "protocol": "HTTP/1.1", "requestId": "id",
                "requestTime": "04/Mar/2020:19:15:17 +0000", "requestTimeEpoch": 1_583_349_317_135_u64,
                "resourceId": "abc123", "resourcePath": "/pets/{id}", "stage": "dev",
            },
            "body": "hi",
            "isBase64Encoded": false,
        })
    );
}

#[test]
fn empty_things_are_null_and_binary_bodies_base64() {
    let map = HeaderMap::new();
    let bare: Value = serde_json::from_slice(&event(&facts("GET", "/", "", &map), &route(&[], &[]), "")).unwrap();
    for key in ["queryStringParameters", "multiValueQueryStringParameters", "pathParameters", "stageVariables", "body"]
    {
        assert_eq!(bare[key], Value::Null, "{key}");
        assert!(bare.as_object().unwrap().contains_key(key));
    }
    for (types, media, encoded) in [
        (vec!["image/png"], "image/png", true),
        (vec!["image/*"], "Image/PNG; q=1", true),
        (vec!["*/*"], "", true),
        (vec!["image/png"], "*/*", false),
        (vec!["image/png"], "image/jpeg", false),
        (vec![], "image/png", false),
    ] {
        let types: Vec<String> = types.into_iter().map(str::to_owned).collect();
        let mut map = HeaderMap::new();
        map.insert(CONTENT_TYPE, media.parse().unwrap());
        let mut facts = facts("POST", "/", "", &map);
        facts.body = b"hi";
        let event: Value = serde_json::from_slice(&event(&facts, &route(&[], &types), "")).unwrap();
        assert_eq!(event["isBase64Encoded"], json!(encoded), "{types:?} {media}");
        assert_eq!(event["body"], json!(if encoded { "aGk=" } else { "hi" }));
    }
}

fn answer(payload: &str, reading: Reading<'_>) -> String {
    match response(&Bytes::copy_from_slice(payload.as_bytes()), reading) {
        Ok(response) => {
            let media = response.headers()[CONTENT_TYPE].to_str().unwrap();
            format!("{} {media} {}", response.status().as_u16(), String::from_utf8_lossy(response.body()))
        }
        Err(_) => "malformed".into(),
    }
}

#[test]
fn only_proxy_responses_are_accepted() {
    let rest = Reading::Rest { binary_media_types: &[], accept: "" };
    for (payload, wanted) in [
        ("{}", "200 application/json "),
        (r#"{"statusCode":"404","body":"x"}"#, "404 application/json x"),
        (r#"{"statusCode":200,"body":"x","headers":{"Content-Type":"text/html"}}"#, "200 text/html x"),
        (r#"{"statusCode":200,"body":"aGk=","isBase64Encoded":true}"#, "200 application/json aGk="),
        (r#"{"statusCode":200,"body":null,"headers":null}"#, "200 application/json "),
        (r#"{"statusCode":0}"#, "malformed"),
        (r#"{"statusCode":200,"cookies":[]}"#, "malformed"),
        (r#"{"statusCode":200,"body":{"a":1}}"#, "malformed"),
        (r#"{"statusCode":200,"headers":{"a":[]}}"#, "malformed"),
        (r#"{"statusCode":200,"multiValueHeaders":{"a":"b"}}"#, "malformed"),
        ("[200]", "malformed"),
        ("\"x\"", "malformed"),
        ("null", "malformed"),
        ("", "malformed"),
    ] {
        assert_eq!(answer(payload, rest), wanted, "{payload}");
    }
    assert_eq!(
        answer(r#"{"body":"aGk=","isBase64Encoded":true}"#, Reading::HttpApi),
        "200 text/plain;charset=UTF-8 hi"
    );
}

#[test]
fn base64_is_decoded_where_the_client_accepts_it() {
    let types = ["image/*".to_owned()];
    for (accept, wanted) in
        [("image/png, text/html", "hi"), ("text/html, image/png", "aGk="), ("*/*", "aGk="), ("", "aGk=")]
    {
        let reading = Reading::Rest { binary_media_types: &types, accept };
        let payload = Bytes::from_static(br#"{"body":"aGk=","isBase64Encoded":true}"#);
        assert_eq!(response(&payload, reading).unwrap().body(), wanted.as_bytes(), "{accept}");
    }
}

#[test]
fn both_header_maps_are_sent_and_some_names_change() {
    let payload = Bytes::from_static(
        br#"{"headers":{"a":"3","Server":"me","Connection":"close","Transfer-Encoding":"x","b":1},
             "multiValueHeaders":{"a":["1","2"],"Set-Cookie":["x=1","y=2"]}}"#,
    );
    let response = response(&payload, Reading::Rest { binary_media_types: &[], accept: "" }).unwrap();
    let headers = response.headers();
    assert_eq!(headers.get_all("a").iter().collect::<Vec<_>>(), ["1", "2", "3"]);
    assert_eq!(headers.get_all("set-cookie").iter().count(), 2);
    assert_eq!(headers["x-amzn-remapped-server"], "me");
    assert_eq!(headers["x-amzn-remapped-connection"], "close");
    assert_eq!(headers["b"], "1");
    for dropped in ["server", "connection", "transfer-encoding"] {
        assert!(!headers.contains_key(dropped), "{dropped}");
    }
}

proptest::proptest! {
    #[test]
    fn noise_never_panics(noise in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
        let _ = response(&Bytes::from(noise), Reading::HttpApi);
    }
}

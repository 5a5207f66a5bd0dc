//! Whole calls through the dispatcher, from bytes to bytes, over a service that answers with its input.
//!
//! What real SDKs make of the answers is tested from outside, with these SDKs.

use async_trait::async_trait;
use base::{ManualClock, SeededRandom};
use http::Request;
use model::Credentials;
use serde_json::{Value, json};

use super::*;
use crate::service::Reply;
use crate::sigv4::Signing;
use crate::testing::AnyKey;

/// 2026-01-02T03:04:05Z
const AT_MS: u64 = 1_767_323_045_000;

struct Echo(&'static str);

#[async_trait]
impl Service for Echo {
    fn signing_name(&self) -> &'static str {
        self.0
    }

    async fn call(&self, call: Call) -> Result<Reply, Error> {
        match call.operation {
            "Invoke" => {
                let output = json!({ "StatusCode": 202, "ExecutedVersion": "7", "FunctionError": null });
                Ok(Reply { payload: Some(call.payload.into()), output, ..Reply::default() })
            }
            "DeleteFunction" => Err(Error::new(429, "TooManyRequestsException", "Rate Exceeded.").with("Reason", "X")),
            "PutItem" => Err(Error::new(400, "ConditionalCheckFailedException", "no")),
            "GetCallerIdentity" => Ok(Reply::of(json!({ "Arn": "a<b", "Account": call.principal.account }))),
            "v2.GetApi" => Ok(Reply::of(json!({ "ApiId": call.input["ApiId"], "CreatedDate": 1_800_000_000.5 }))),
            "GetRestApis" => Ok(Reply::of(json!({ "items": [{ "id": "x" }], "position": null }))),
            _ => Ok(Reply::of(json!({ "operation": call.operation, "input": call.input, "region": call.region }))),
        }
    }
}

fn dispatcher(mode: Mode) -> Dispatcher {
    let services = ["lambda", "dynamodb", "apigateway", "sts"].map(|name| Arc::new(Echo(name)) as Arc<dyn Service>);
    Dispatcher::new(services.into(), Arc::new(AnyKey), mode, ManualClock::at_ms(AT_MS), SeededRandom::new(1))
}

struct Sent<'a> {
    service: &'a str,
    method: &'a str,
    path: &'a str,
    headers: &'a [(&'a str, &'a str)],
    body: &'a str,
    key: &'a str,
    secret: &'a str,
}

impl Default for Sent<'_> {
    fn default() -> Self {
        Self { service: "lambda", method: "GET", path: "/", headers: &[], body: "", key: "test", secret: "secret" }
    }
}

async fn send(mode: Mode, sent: Sent<'_>) -> (u16, http::HeaderMap, Value) {
    let mut request = Request::builder().method(sent.method).uri(format!("http://localhost:4566{}", sent.path));
    for (name, value) in sent.headers {
        request = request.header(*name, *value);
    }
    let mut parts = request.body(()).unwrap().into_parts().0;
    let credentials = Credentials {
        access_key: sent.key.into(),
        secret_key: sent.secret.into(),
        session_token: None,
        expires_at_ms: None,
    };
    let signing = Signing { credentials: &credentials, region: "eu-west-1", service: sent.service, now_ms: AT_MS };
    sigv4::sign(&mut parts, sent.body.as_bytes(), signing).unwrap();
    let body = Bytes::from(sent.body.to_owned());
    let (parts, body) = dispatcher(mode).handle(parts, body, "http://localhost:4566").await.into_parts();
    let text = String::from_utf8(body.into_bytes().unwrap().to_vec()).unwrap();
    let value = serde_json::from_str(&text).unwrap_or(Value::String(text));
    (parts.status.as_u16(), parts.headers, value)
}

#[tokio::test]
async fn a_rest_call_goes_all_the_way_and_back() {
    let invoke = Sent {
        method: "POST",
        path: "/2015-03-31/functions/f/invocations?Qualifier=1",
        body: "not json at all",
        ..Sent::default()
    };
    let (status, headers, body) = send(Mode::Up, invoke).await;
    assert_eq!((status, body), (202, json!("not json at all")));
    assert_eq!(headers["x-amz-executed-version"], "7");
    assert!(!headers.contains_key("x-amz-function-error"));
    assert_eq!(headers["x-amzn-requestid"].len(), 36);

    let list = Sent { path: "/2015-03-31/functions/?MaxItems=5", ..Sent::default() };
    let (status, _, body) = send(Mode::Up, list).await;
    let expected = json!({"operation": "ListFunctions", "input": {"MaxItems": 5}, "region": "eu-west-1"});
    assert_eq!((status, body), (200, expected));

    let delete = Sent { method: "DELETE", path: "/2015-03-31/functions/f", ..Sent::default() };
    let (status, headers, body) = send(Mode::Up, delete).await;
    assert_eq!((status, &headers["x-amzn-errortype"]), (429, &"TooManyRequestsException".parse().unwrap()));
    assert_eq!(body, json!({"Type": "User", "message": "Rate Exceeded.", "Message": "Rate Exceeded.", "Reason": "X"}));
}

#[tokio::test]
async fn both_models_of_api_gateway_reach_one_service_under_distinct_names() {
    let api = |path| Sent { service: "apigateway", path, ..Sent::default() };
    let (_, _, body) = send(Mode::Up, api("/v2/apis/abc")).await;
    assert_eq!(body, json!({"apiId": "abc", "createdDate": "2027-01-15T08:00:00Z"}));
    let (_, _, body) = send(Mode::Up, api("/restapis")).await;
    assert_eq!(body, json!({"item": [{"id": "x"}]}));
    let (_, _, body) = send(Mode::Up, api("/restapis/a/stages/b")).await;
    assert_eq!(body["operation"], "GetStage");
    assert_eq!(body["input"], json!({"restApiId": "a", "stageName": "b"}));
    let (_, _, body) = send(Mode::Up, api("/v2/apis/a/stages/b")).await;
    assert_eq!(body["operation"], "v2.GetStage");
}

/// Sends a table call of these headers and bytes, signed as they are.
async fn send_bytes(host: &str, headers: &[(&str, &str)], method: &str, body: Bytes, signed: bool) -> (u16, String) {
    let mut request = Request::builder().method(method).uri("/").header("host", host);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut parts = request.body(()).unwrap().into_parts().0;
    if signed {
        let credentials = Credentials {
            access_key: "test".into(),
            secret_key: "secret".into(),
            session_token: None,
            expires_at_ms: None,
        };
        let signing = Signing { credentials: &credentials, region: "eu-west-1", service: "dynamodb", now_ms: AT_MS };
        sigv4::sign(&mut parts, &body, signing).unwrap();
    }
    let (parts, body) = dispatcher(Mode::Up).handle(parts, body, "http://localhost:4566").await.into_parts();
    assert!(parts.headers.contains_key("x-amz-crc32") && parts.headers.contains_key("x-amzn-requestid"));
    (parts.status.as_u16(), String::from_utf8(body.into_bytes().unwrap().to_vec()).unwrap())
}

#[tokio::test]
async fn a_body_that_was_packed_is_read_as_it_was_before() {
    const TARGET: (&str, &str) = ("x-amz-target", "DynamoDB_20120810.GetItem");
    let packed = |text: &str| {
        let mut out = Vec::new();
        let compression = flate2::Compression::fast();
        std::io::Read::read_to_end(&mut flate2::read::GzEncoder::new(text.as_bytes(), compression), &mut out).unwrap();
        Bytes::from(out)
    };
    let call = |encoding: &'static str, body: Bytes| async move {
        send_bytes("localhost:4566", &[TARGET, ("content-encoding", encoding)], "POST", body, true).await
    };
    let (status, answer) = call("gzip", packed(r#"{"TableName": "table"}"#)).await;
    assert_eq!((status, answer.contains(r#""TableName":"table""#)), (200, true), "{answer}");
    for (encoding, body) in
        [("gzip", Bytes::from_static(b"{}")), ("deflate", packed("{}")), ("br", Bytes::from_static(b"{}"))]
    {
        let (status, answer) = call(encoding, body).await;
        assert_eq!((status, answer.contains("InternalServerError")), (500, true), "{encoding} {answer}");
    }
    let spaces = " ".repeat(content::UNPACKED_BYTES_MAX);
    assert_eq!(call("gzip", packed(&format!("{{}}{spaces}"))).await.0, 413);
}

#[tokio::test]
async fn a_table_call_beyond_sixteen_megabytes_is_refused_whoever_sends_it() {
    let most = apis::body_bytes_max("dynamodb").unwrap();
    let target = [("x-amz-target", "DynamoDB_20120810.GetItem")];
    for signed in [true, false] {
        let body = Bytes::from(format!("{{}}{}", " ".repeat(most - 1)));
        assert_eq!(send_bytes("localhost:4566", &target, "POST", body, signed).await, (413, String::new()));
    }
    let body = Bytes::from(format!("{{}}{}", " ".repeat(most - 2)));
    assert_eq!(send_bytes("localhost:4566", &target, "POST", body, true).await.0, 200);
}

#[tokio::test]
async fn the_root_of_the_tables_own_host_says_that_it_is_healthy() {
    let host = "dynamodb.eu-west-1.amazonaws.com";
    for port in ["", ":4566"] {
        let answer = send_bytes(&format!("{host}{port}"), &[], "GET", Bytes::new(), false).await;
        assert_eq!(answer, (200, format!("healthy: {host} ")));
    }
    let put = send_bytes(host, &[], "PUT", Bytes::new(), false).await;
    assert_eq!(put.0, 400, "{}", put.1);
}

#[tokio::test]
async fn json_and_query_protocols_have_their_shapes() {
    let target = [("x-amz-target", "DynamoDB_20120810.PutItem"), ("content-type", "application/x-amz-json-1.0")];
    let put = Sent { service: "dynamodb", method: "POST", headers: &target, body: "{}", ..Sent::default() };
    let (status, headers, body) = send(Mode::Up, put).await;
    let kind = "com.amazonaws.dynamodb.v20120810#ConditionalCheckFailedException";
    assert_eq!((status, &body), (400, &json!({"__type": kind, "message": "no"})));
    assert_eq!(headers["x-amz-crc32"], crc32fast::hash(body.to_string().as_bytes()).to_string().as_str());
    let who = Sent {
        service: "sts",
        method: "POST",
        headers: &[("content-type", "application/x-www-form-urlencoded; charset=utf-8")],
        body: "Action=GetCallerIdentity&Version=2011-06-15",
        ..Sent::default()
    };
    let (status, headers, body) = send(Mode::Up, who).await;
    assert_eq!((status, &headers["content-type"]), (200, &"text/xml".parse().unwrap()));
    assert!(
        body.as_str().unwrap().contains("<GetCallerIdentityResult><Arn>a&lt;b</Arn><Account>000000000000</Account>")
    );
}

#[tokio::test]
async fn what_is_unknown_and_what_is_unsupported_are_told_apart() {
    let dynamodb = async |target: &str| {
        let headers = [("x-amz-target", target)];
        send(Mode::Up, Sent { service: "dynamodb", method: "POST", headers: &headers, body: "{}", ..Sent::default() })
            .await
    };
    let kind = |body: &Value| body["__type"].as_str().unwrap().rsplit('#').next().unwrap().to_owned();
    let (status, _, body) = dynamodb("DynamoDB_20120810.Nonsense").await;
    assert_eq!((status, kind(&body).as_str()), (400, "UnknownOperationException"));
    let (status, _, body) = dynamodb("DynamoDB_20120810.ExportTableToPointInTime").await;
    assert_eq!((status, kind(&body).as_str()), (501, "NotImplementedException"));
    // Streams of tables have a model of their own under the same signing name.
    assert_eq!(dynamodb("DynamoDBStreams_20120810.ListStreams").await.0, 200);
    let (status, _, body) = dynamodb("DynamoDBStreams_20120810.PutItem").await;
    assert_eq!((status, kind(&body).as_str()), (400, "UnknownOperationException"));
    let (status, headers, _) = send(Mode::Up, Sent { path: "/2015-03-31/nonsense", ..Sent::default() }).await;
    assert_eq!((status, &headers["x-amzn-errortype"]), (404, &"UnknownOperationException".parse().unwrap()));
    for (service, code) in
        [("sqs", "NotImplementedException"), ("logs", "NotImplementedException"), ("s3", "NotImplemented<")]
    {
        let headers = [("x-amz-target", "Logs_20140328.DescribeLogGroups")];
        let sent = Sent { service, method: "POST", headers: &headers, body: "{}", ..Sent::default() };
        let (status, _, body) = send(Mode::Up, sent).await;
        assert_eq!(status, 501);
        assert!(body.to_string().contains(code), "{service}: {body}");
    }
}

#[tokio::test]
async fn only_valid_signatures_are_let_in_and_the_body_is_not_looked_at_before() {
    let wrong = async |sent: Sent<'_>| {
        let (status, headers, body) = send(Mode::Up, sent).await;
        (status, headers.get("x-amzn-errortype").map(|code| code.to_str().unwrap().to_owned()), body)
    };
    let create = Sent { method: "POST", path: "/2015-03-31/functions", body: "{", secret: "other", ..Sent::default() };
    let (status, code, _) = wrong(create).await;
    assert_eq!((status, code.as_deref()), (403, Some("InvalidSignatureException")));
    let (status, code, _) = wrong(Sent { key: "unknown", path: "/2015-03-31/functions", ..Sent::default() }).await;
    assert_eq!((status, code.as_deref()), (403, Some("UnrecognizedClientException")));
    let headers = [("x-amz-target", "DynamoDB_20120810.ListTables")];
    let (status, _, body) =
        wrong(Sent { service: "dynamodb", headers: &headers, secret: "other", ..Sent::default() }).await;
    assert_eq!((status, &body["__type"]), (400, &json!("com.amazon.coral.service#InvalidSignatureException")));
    let believed = Sent { secret: "other", path: "/2015-03-31/functions", ..Sent::default() };
    assert_eq!(send(Mode::Dev, believed).await.0, 200);
}

#[tokio::test]
async fn in_development_something_must_still_be_said() {
    let ask = async |authorization: Option<&str>| {
        let mut request = Request::builder().uri("/2015-03-31/functions");
        if let Some(authorization) = authorization {
            request = request.header("authorization", authorization);
        }
        let parts = request.body(()).unwrap().into_parts().0;
        dispatcher(Mode::Dev).handle(parts, Bytes::new(), "http://localhost").await.status().as_u16()
    };
    assert_eq!(ask(None).await, 403);
    assert_eq!(ask(Some(" ")).await, 403);
    assert_eq!(ask(Some("anything")).await, 200);
}

#[test]
fn aws_calls_are_told_from_other_requests() {
    let identify = |uri: &str, headers: &[(&str, &str)]| {
        let request =
            headers.iter().fold(Request::builder().uri(uri), |request, (name, value)| request.header(*name, *value));
        dispatcher(Mode::Up).identify(&request.body(()).unwrap().into_parts().0).map(|identified| identified.service)
    };
    let signed = "AWS4-HMAC-SHA256 Credential=a/20260102/eu-west-1/sqs/aws4_request, SignedHeaders=host, Signature=x";
    assert_eq!(identify("/", &[("authorization", signed)]).as_deref(), Some("sqs"));
    assert_eq!(identify("/", &[("x-amz-target", "DynamoDB_20120810.PutItem")]).as_deref(), Some("dynamodb"));
    assert_eq!(identify("/", &[("host", "lambda.us-east-1.amazonaws.com:443")]).as_deref(), Some("lambda"));
    assert_eq!(identify("/2015-03-31/functions", &[]).as_deref(), Some("lambda"));
    assert_eq!(identify("/v2/apis", &[]).as_deref(), Some("apigateway"));
    assert_eq!(identify("/", &[("host", "localhost:4566")]), None);
    assert_eq!(identify("/items/1", &[]), None);
}

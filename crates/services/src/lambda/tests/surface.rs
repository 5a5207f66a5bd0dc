//! Everything around functions: Invoke, function URLs, policies, concurrency, tags, account settings, refusals.

use model::ports::Sites;
use model::{Body, FunctionError, InvocationKind, Site, SiteKey, ThrottleReason, http_api::AuthKind};

use super::*;

pub(super) fn outcome(payload: &'static str) -> Outcome {
    Outcome {
        payload: Bytes::from_static(payload.as_bytes()),
        error: None,
        content_type: None,
        executed_version: "$LATEST".into(),
        log_tail: None,
    }
}

pub(super) async fn invoke(platform: &Platform, input: Value, payload: &'static str) -> Result<Reply, Error> {
    let mut call = call("Invoke", with(input, "FunctionName", json!("f")));
    call.payload = Bytes::from_static(payload.as_bytes());
    call.headers.insert("x-amzn-trace-id", "Root=1-2-3".parse().unwrap());
    platform.service.call(call).await
}

#[tokio::test]
async fn a_call_that_is_waited_for_answers_what_the_function_said() {
    let platform = Platform::new();
    *platform.invoker.answer.lock() = Some(Ok(Outcome { log_tail: Some("log".into()), ..outcome("{\"a\":1}") }));
    let context = json!({"LogType": "Tail", "ClientContext": base64(b"{\"custom\":{}}")});
    let reply = invoke(&platform, context, "").await.unwrap();
    assert_eq!(reply.status, Some(200));
    assert_eq!(reply.payload.unwrap().into_bytes().unwrap(), "{\"a\":1}");
    assert_eq!(reply.output["ExecutedVersion"], json!("$LATEST"));
    assert_eq!(reply.output["FunctionError"], Value::Null);
    assert_eq!(reply.output["LogResult"], json!(base64(b"log")));
    let (how, seen) = platform.invoker.seen.lock().pop().unwrap();
    let seen = seen.unwrap();
    assert_eq!((how, seen.kind, seen.log_tail), ("invoke", InvocationKind::RequestResponse, true));
    assert_eq!(seen.payload, "{}", "an absent payload is an empty document");
    assert_eq!(seen.client_context.as_deref(), Some("{\"custom\":{}}"));
    assert_eq!(seen.trace_id.as_deref(), Some("Root=1-2-3"));
    assert_eq!(seen.request_id.0, "7f3a0000-0000-4000-8000-000000000000");
    assert_eq!(seen.function, reference("f"));

    let error = FunctionError { kind: "Unhandled", error_type: "Error".into() };
    *platform.invoker.answer.lock() = Some(Ok(Outcome { error: Some(error), ..outcome("{}") }));
    let reply = invoke(&platform, json!({}), "{\"x\":1}").await.unwrap();
    assert_eq!((reply.status, &reply.output["FunctionError"]), (Some(200), &json!("Unhandled")));
}

#[tokio::test]
async fn the_older_way_to_send_an_event_keeps_its_trace() {
    let platform = Platform::new();
    let mut call = call("InvokeAsync", json!({"FunctionName": "f"}));
    call.payload = Bytes::from_static(b"{\"x\":1}");
    let sent = async |call: Call| {
        assert_eq!(platform.service.call(call).await.unwrap().status, Some(202));
        let (how, seen) = platform.invoker.seen.lock().pop().unwrap();
        let seen = seen.unwrap();
        assert_eq!((how, seen.kind, &seen.payload[..]), ("accept", InvocationKind::Event, &b"{\"x\":1}"[..]));
        seen.trace_id
    };
    assert_eq!(sent(call.clone()).await, None);
    // Else a function that calls itself so would never be seen to.
    let chain = "Root=1-2-3;Lineage=1:0000abcd:7";
    call.headers.insert("x-amzn-trace-id", chain.parse().unwrap());
    assert_eq!(sent(call).await.as_deref(), Some(chain));
}

#[tokio::test]
async fn a_streaming_call_is_a_row_of_events() {
    let platform = Platform::new();
    let events = |body: Body| String::from_utf8_lossy(&body.into_bytes().unwrap()).into_owned();
    let mut call = call("InvokeWithResponseStream", json!({"FunctionName": "f", "LogType": "Tail"}));
    *platform.invoker.answer.lock() = Some(Ok(Outcome { log_tail: Some("log".into()), ..outcome("{\"a\":1}") }));
    let reply = platform.service.call(call.clone()).await.unwrap();
    assert_eq!(reply.output["ResponseStreamContentType"], json!("application/vnd.amazon.eventstream"));
    assert_eq!(reply.output["ExecutedVersion"], json!("$LATEST"));
    let text = events(reply.payload.unwrap());
    assert!(text.contains("PayloadChunk") && text.contains("{\"a\":1}"), "{text}");
    assert!(text.contains("InvokeComplete") && text.contains(r#"{"LogResult":"bG9n"}"#), "{text}");

    let error = FunctionError { kind: "Unhandled", error_type: "TypeError".into() };
    *platform.invoker.answer.lock() = Some(Ok(Outcome { error: Some(error), ..outcome("{}") }));
    let text = events(platform.service.call(call.clone()).await.unwrap().payload.unwrap());
    assert!(!text.contains("PayloadChunk"), "{text}");
    assert!(text.contains(r#"{"ErrorCode":"TypeError","ErrorDetails":"{}"}"#), "{text}");

    call.input = json!({"FunctionName": "f", "InvocationType": "DryRun"});
    assert_eq!(platform.service.call(call.clone()).await.unwrap().status, Some(204));
    call.input = json!({"FunctionName": "f", "InvocationType": "Event"});
    assert_eq!(platform.service.call(call).await.unwrap_err().code, "ValidationException");
}

#[tokio::test]
async fn events_are_accepted_and_dry_runs_run_nothing() {
    let platform = Platform::new();
    let reply = invoke(&platform, json!({"InvocationType": "Event", "ClientContext": "e30="}), "[1]").await.unwrap();
    assert_eq!(reply.status, Some(202));
    let (how, seen) = platform.invoker.seen.lock().pop().unwrap();
    let seen = seen.unwrap();
    assert_eq!((how, seen.kind, seen.client_context), ("accept", InvocationKind::Event, None));
    let reply = invoke(&platform, json!({"InvocationType": "DryRun"}), "").await.unwrap();
    assert_eq!(reply.status, Some(204));
    assert_eq!(platform.invoker.seen.lock().pop().unwrap().0, "dry_run");
}

#[tokio::test]
async fn calls_that_do_not_run_answer_as_lambda_does() {
    let platform = Platform::new();
    let throttled = InvokeError::Throttled(ThrottleReason::ReservedFunctionConcurrentInvocationLimitExceeded);
    let large = InvokeError::PayloadTooLarge { size: 7, kind: "Event", limit: 5 };
    for (error, status, code, message) in [
        (InvokeError::NotFound("arn".into()), 404, "ResourceNotFoundException", "Function not found: arn"),
        (throttled, 429, "TooManyRequestsException", "Rate Exceeded."),
        (
            large,
            413,
            "RequestEntityTooLargeException",
            "7 byte payload is too large for the Event invocation type (limit 5 bytes)",
        ),
        (
            InvokeError::PayloadNotJson("x".into()),
            400,
            "InvalidRequestContentException",
            "Could not parse request body into json: x",
        ),
        (InvokeError::NotReady("no interpreter".into()), 409, "ResourceConflictException", "no interpreter"),
        (
            InvokeError::NoCapacity("full".into()),
            503,
            "ServiceUnavailableException",
            "the platform has no capacity for this call: full",
        ),
    ] {
        *platform.invoker.answer.lock() = Some(Err(error));
        let got = invoke(&platform, json!({}), "{}").await.unwrap_err();
        assert_eq!((got.status, got.code.as_str(), got.message.as_str()), (status, code, message));
        if status == 429 {
            assert_eq!(got.fields["Reason"], "ReservedFunctionConcurrentInvocationLimitExceeded");
            assert!(got.headers.iter().any(|(name, _)| *name == "retry-after"));
        }
    }
    for context in ["%", "e30", &base64(b"[]"), &base64(b"x"), &"e".repeat(3_584)] {
        let got = invoke(&platform, json!({"ClientContext": context}), "{}").await.unwrap_err();
        assert_eq!((got.status, got.code.as_str()), (400, "InvalidRequestContentException"), "{context}");
    }
    let got = invoke(&platform, json!({"DurableExecutionName": "x"}), "{}").await.unwrap_err();
    assert_eq!(got.status, 501);
    assert_eq!(platform.invoker.seen.lock().len(), 6, "a refused call does not reach the engine");
}

#[tokio::test]
async fn a_function_url_lives_from_creation_to_deletion() {
    let platform = Platform::new();
    platform.create("f").await;
    let cors = json!({"AllowOrigins": ["https://a.example"], "AllowMethods": ["GET"], "MaxAge": 60});
    let input = json!({"FunctionName": "f", "AuthType": "NONE", "Cors": cors});
    let made = platform.ok("CreateFunctionUrlConfig", input.clone()).await;
    let text = made["FunctionUrl"].as_str().unwrap();
    let id = text.strip_prefix("http://").unwrap().strip_suffix(".lambda-url.us-east-1.localhost:4566/").unwrap();
    assert_eq!(id.len(), 32);
    assert_eq!(made["LastModifiedTime"], Value::Null);
    assert_eq!(made["InvokeMode"], json!("BUFFERED"));
    assert_eq!(made["Cors"]["AllowOrigins"], json!(["https://a.example"]));
    for method in ["FOO", "get"] {
        let wrong = json!({"FunctionName": "f", "Cors": {"AllowMethods": ["GET", method]}});
        let got = platform.fails("UpdateFunctionUrlConfig", wrong).await;
        assert_eq!((got.0, got.1.as_str()), (400, "InvalidParameterValueException"), "{}", got.2);
    }
    let got = platform.fails("CreateFunctionUrlConfig", input).await;
    assert_eq!((got.0, got.1.as_str()), (409, "ResourceConflictException"));
    assert!(got.2.ends_with("Error message:  FunctionUrlConfig exists for this Lambda function"), "{got:?}");

    let key = SiteKey::FunctionUrl(id.to_owned());
    let Some(Site::FunctionUrl(site)) = platform.functions.site(&key).await else { panic!("no site") };
    assert_eq!((&site.function, site.auth), (&reference("f"), AuthKind::None));
    assert_eq!(site.cors.as_ref().unwrap().max_age_s, Some(60));

    let update = json!({"FunctionName": "f", "AuthType": "AWS_IAM", "Cors": {}});
    let updated = platform.ok("UpdateFunctionUrlConfig", update).await;
    assert_eq!((&updated["AuthType"], &updated["Cors"]), (&json!("AWS_IAM"), &Value::Null));
    let Some(Site::FunctionUrl(site)) = platform.functions.site(&key).await else { panic!("no site") };
    assert_eq!((site.auth, site.cors.is_none()), (AuthKind::AwsIam, true));
    assert_eq!(platform.ok("GetFunctionUrlConfig", json!({"FunctionName": "f"})).await, updated);
    let list = platform.ok("ListFunctionUrlConfigs", json!({"FunctionName": "f"})).await;
    assert_eq!(list["FunctionUrlConfigs"], json!([updated]));

    platform.ok("DeleteFunctionUrlConfig", json!({"FunctionName": "f"})).await;
    assert!(platform.functions.site(&key).await.is_none());
    for operation in ["GetFunctionUrlConfig", "UpdateFunctionUrlConfig", "DeleteFunctionUrlConfig"] {
        let got = platform.fails(operation, json!({"FunctionName": "f"})).await;
        assert_eq!((got.0, got.2.as_str()), (404, "The resource you requested does not exist."), "{operation}");
    }
    assert_eq!(platform.everything().await, (4, 1));
}

#[tokio::test]
async fn function_urls_refuse_what_they_cannot_serve() {
    let platform = Platform::new();
    platform.create("f").await;
    let input = json!({"FunctionName": "f", "AuthType": "NONE"});
    for (member, value, status) in [
        ("Qualifier", json!("$LATEST"), 400),
        ("Qualifier", json!("3"), 400),
        ("Qualifier", json!("live"), 404),
        ("FunctionName", json!("absent"), 404),
    ] {
        assert_eq!(platform.fails("CreateFunctionUrlConfig", with(input.clone(), member, value)).await.0, status);
    }
    assert_eq!(platform.everything().await, (4, 1));
}

#[tokio::test]
async fn permissions_are_kept_and_shown_as_a_policy() {
    let platform = Platform::new();
    let created = platform.create("f").await;
    let got = platform.fails("GetPolicy", json!({"FunctionName": "f"})).await;
    assert_eq!((got.0, got.2.as_str()), (404, "The resource you requested does not exist."));
    let input = json!({
        "FunctionName": "f", "StatementId": "url", "Action": "lambda:InvokeFunctionUrl", "Principal": "*",
        "FunctionUrlAuthType": "NONE",
    });
    let added = platform.ok("AddPermission", input.clone()).await;
    let statement: Value = serde_json::from_str(added["Statement"].as_str().unwrap()).unwrap();
    assert_eq!(
        statement,
        json!({
            "Sid": "url", "Effect": "Allow", "Principal": "*", "Action": "lambda:InvokeFunctionUrl",
            "Resource": "arn:aws:lambda:us-east-1:000000000000:function:f",
            "Condition": {"StringEquals": {"lambda:FunctionUrlAuthType": "NONE"}},
        })
    );
    let got = platform.fails("AddPermission", input.clone()).await;
    assert_eq!(got.0, 409);
    assert!(got.2.starts_with("The statement id (url) provided already exists."), "{got:?}");
    let policy = platform.ok("GetPolicy", json!({"FunctionName": "f"})).await;
    let document: Value = serde_json::from_str(policy["Policy"].as_str().unwrap()).unwrap();
    assert_eq!((&document["Id"], &document["Statement"]), (&json!("default"), &json!([statement])));
    assert_ne!(policy["RevisionId"], created["RevisionId"]);

    let latest = with(with(input.clone(), "Qualifier", json!("$LATEST")), "StatementId", json!("x"));
    assert!(platform.fails("AddPermission", latest).await.2.contains("adding policies for $LATEST"));
    let stale = with(with(input.clone(), "RevisionId", json!("old")), "StatementId", json!("x"));
    assert_eq!(platform.fails("AddPermission", stale).await.0, 412);
    let wrong = with(with(input, "Action", json!("lambda:InvokeFunction")), "StatementId", json!("x"));
    assert_eq!(platform.fails("AddPermission", wrong).await.1, "InvalidParameterValueException");

    let got = platform.fails("RemovePermission", json!({"FunctionName": "f", "StatementId": "x"})).await;
    assert_eq!(got.2, "Statement x is not found in resource policy.");
    platform.ok("RemovePermission", json!({"FunctionName": "f", "StatementId": "url"})).await;
    let got = platform.fails("RemovePermission", json!({"FunctionName": "f", "StatementId": "url"})).await;
    assert_eq!((got.0, got.2.as_str()), (404, "No policy is associated with the given resource."));
}

#[tokio::test]
async fn reserved_concurrency_reaches_the_engine_and_has_a_limit() {
    let platform = Platform::new();
    platform.create("f").await;
    platform.create("g").await;
    let version = model::ports::Catalog::version(&*platform.functions, &reference("f")).await.unwrap();
    assert_eq!(version.reserved_concurrency, None);
    let put = |name: &str, number: u64| json!({"FunctionName": name, "ReservedConcurrentExecutions": number});
    assert_eq!(platform.ok("PutFunctionConcurrency", put("f", 900)).await["ReservedConcurrentExecutions"], json!(900));
    let after = model::ports::Catalog::version(&*platform.functions, &reference("f")).await.unwrap();
    assert_eq!((after.reserved_concurrency, &after.revision), (Some(900), &version.revision));
    let got = platform.fails("PutFunctionConcurrency", put("g", 1)).await;
    assert_eq!((got.0, got.1.as_str()), (400, "InvalidParameterValueException"));
    assert!(got.2.ends_with("below its minimum value of [100]."), "{got:?}");
    platform.ok("PutFunctionConcurrency", put("g", 0)).await;
    let got = platform.ok("GetFunction", json!({"FunctionName": "g"})).await;
    assert_eq!(got["Concurrency"], json!({"ReservedConcurrentExecutions": 0}));
    platform.ok("DeleteFunctionConcurrency", json!({"FunctionName": "f"})).await;
    let got = platform.ok("GetFunctionConcurrency", json!({"FunctionName": "f"})).await;
    assert_eq!(got["ReservedConcurrentExecutions"], Value::Null);
    let account = platform.ok("GetAccountSettings", json!({})).await;
    assert_eq!(account["AccountLimit"]["UnreservedConcurrentExecutions"], json!(1000));
    assert_eq!(account["AccountUsage"]["FunctionCount"], json!(2));
}

#[tokio::test]
async fn reservations_at_once_never_exceed_the_limit() {
    let platform = Platform::new();
    for number in 0..8 {
        platform.create(&format!("f{number}")).await;
    }
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..8 {
        let service = platform.service.clone();
        let input = json!({"FunctionName": format!("f{number}"), "ReservedConcurrentExecutions": 300});
        tasks.spawn(async move { service.call(call("PutFunctionConcurrency", input)).await.is_ok() });
    }
    assert_eq!(tasks.join_all().await.into_iter().filter(|done| *done).count(), 3);
}

#[tokio::test]
async fn tags_can_be_added_and_removed() {
    let platform = Platform::new();
    let arn = platform.create("f").await["FunctionArn"].clone();
    platform.ok("TagResource", json!({"Resource": arn, "Tags": {"a": "1", "b": "2"}})).await;
    platform.ok("UntagResource", json!({"Resource": arn, "TagKeys": ["a", "x"]})).await;
    assert_eq!(platform.ok("ListTags", json!({"Resource": arn})).await, json!({"Tags": {"b": "2"}}));
    let many: serde_json::Map<String, Value> = (0..50).map(|n| (format!("t{n}"), json!("v"))).collect();
    assert_eq!(platform.fails("TagResource", json!({"Resource": arn, "Tags": many})).await.0, 400);
    let absent = "arn:aws:lambda:us-east-1:000000000000:function:absent";
    assert_eq!(platform.fails("ListTags", json!({"Resource": absent})).await.0, 404);
}

#[tokio::test]
async fn what_is_not_there_is_refused_loudly() {
    let platform = Platform::new();
    platform.create("f").await;
    for operation in ["CreateCapacityProvider", "GetDurableExecution"] {
        let got = platform.fails(operation, json!({"FunctionName": "f"})).await;
        assert_eq!((got.0, got.1.as_str()), (501, "NotImplementedException"));
        assert!(got.2.contains(operation), "{got:?}");
    }
    let got = platform.fails("GetFunction", json!({"FunctionName": "f:1", "Qualifier": "7"})).await;
    assert!(got.2.starts_with("The derived qualifier from the function name"), "{got:?}");
}

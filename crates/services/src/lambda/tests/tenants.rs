//! Tenant isolation: how a function gets it, what it goes without, what a call has to say. And the network of a function.

use super::surface::{invoke, outcome};
use super::*;

fn isolating(name: &str) -> Value {
    with(creation(name), "TenancyConfig", json!({"TenantIsolationMode": "PER_TENANT"}))
}

#[tokio::test]
async fn tenant_isolation_is_for_good_and_shown() {
    let platform = Platform::new();
    let config = json!({"TenantIsolationMode": "PER_TENANT"});
    assert_eq!(platform.ok("CreateFunction", isolating("f")).await["TenancyConfig"], config);
    platform.ok("UpdateFunctionConfiguration", json!({"FunctionName": "f", "Timeout": 9})).await;
    let published = platform.ok("PublishVersion", json!({"FunctionName": "f"})).await;
    assert_eq!(published["TenancyConfig"], config);
    assert!(platform.functions.version(&reference("f")).await.unwrap().per_tenant);
    platform.create("g").await;
    let change = json!({"FunctionName": "g", "TenancyConfig": config});
    assert_eq!(platform.fails("UpdateFunctionConfiguration", change).await.0, 501);
    let got = platform.ok("GetFunctionConfiguration", json!({"FunctionName": "g"})).await;
    assert_eq!(got["TenancyConfig"], Value::Null);
}

#[tokio::test]
async fn what_needs_no_tenant_is_not_for_such_functions() {
    let platform = Platform::new();
    platform.ok("CreateFunction", isolating("f")).await;
    let arn = "arn:aws:lambda:us-east-1:000000000000:function:f";
    platform.ok("PublishVersion", json!({"FunctionName": "f"})).await;
    let minimum = json!({model::MINIMUM_TAG: "2"});
    let source = "arn:aws:sqs:us-east-1:000000000000:there";
    for (operation, input) in [
        ("CreateFunctionUrlConfig", json!({"FunctionName": "f", "AuthType": "NONE"})),
        (
            "PutProvisionedConcurrencyConfig",
            json!({"FunctionName": "f", "Qualifier": "1", "ProvisionedConcurrentExecutions": 1}),
        ),
        ("CreateEventSourceMapping", json!({"FunctionName": "f", "EventSourceArn": source})),
        ("TagResource", json!({"Resource": arn, "Tags": minimum})),
        ("CreateFunction", with(isolating("g"), "Tags", minimum.clone())),
        (
            "CreateFunction",
            with(
                with(isolating("g"), "Runtime", json!("python3.12")),
                "SnapStart",
                json!({"ApplyOn": "PublishedVersions"}),
            ),
        ),
    ] {
        let got = platform.fails(operation, input).await;
        assert_eq!((got.0, got.1.as_str()), (400, "InvalidParameterValueException"), "{operation}: {got:?}");
        assert!(got.2.contains("tenant isolation"), "{operation}: {got:?}");
    }
    let other = json!({"Resource": arn, "Tags": {"a": "b"}});
    platform.ok("TagResource", other).await;
}

#[tokio::test]
async fn the_tenant_of_a_call_reaches_the_engine() {
    let platform = Platform::new();
    *platform.invoker.answer.lock() = Some(Ok(outcome("1")));
    invoke(&platform, json!({"TenantId": "blue"}), "1").await.unwrap();
    let (_, seen) = platform.invoker.seen.lock().pop().unwrap();
    assert_eq!(seen.unwrap().tenant.as_deref(), Some("blue"));
    *platform.invoker.answer.lock() = Some(Err(InvokeError::Unfit("add a tenant")));
    let refused = invoke(&platform, json!({}), "1").await.unwrap_err();
    assert_eq!((refused.status, refused.code.as_str()), (400, "InvalidParameterValueException"));
}

#[tokio::test]
async fn a_function_in_a_vpc_is_shown_there_and_reaches_nothing_public() {
    let platform = Platform::new();
    let vpc = |subnets: &[&str], groups: &[&str]| json!({"SubnetIds": subnets, "SecurityGroupIds": groups});
    let egress = async || platform.functions.version(&reference("f")).await.unwrap().egress.to_string();
    let made = platform.ok("CreateFunction", with(creation("f"), "VpcConfig", vpc(&["subnet-1"], &["sg-1"]))).await;
    let shown = &made["VpcConfig"];
    assert_eq!((&shown["SubnetIds"], &shown["SecurityGroupIds"]), (&json!(["subnet-1"]), &json!(["sg-1"])));
    let id = shown["VpcId"].as_str().unwrap();
    assert!(id.starts_with("vpc-") && id.len() == 21, "{id}");
    assert_eq!(egress().await, "none");
    let within = platform.functions.version(&reference("f")).await.unwrap().revision.clone();

    let arn = made["FunctionArn"].clone();
    platform.ok("TagResource", json!({"Resource": arn, "Tags": {model::EGRESS_TAG: "public db.internal:5432"}})).await;
    assert_eq!(egress().await, "public db.internal:5432", "the tag says more than the network");
    let tagged = platform.functions.version(&reference("f")).await.unwrap().revision.clone();
    assert_ne!(within, tagged, "environments of the former policy are stale");
    platform.ok("UntagResource", json!({"Resource": arn, "TagKeys": [model::EGRESS_TAG]})).await;

    let change = |config: Value| json!({"FunctionName": "f", "VpcConfig": config});
    let half = platform.fails("UpdateFunctionConfiguration", change(json!({"SubnetIds": []}))).await;
    assert_eq!((half.0, half.1.as_str()), (400, "InvalidParameterValueException"));
    let left = platform.ok("UpdateFunctionConfiguration", change(vpc(&[], &[]))).await;
    assert_eq!((&left["VpcConfig"]["VpcId"], &left["VpcConfig"]["SubnetIds"]), (&json!(""), &json!([])));
    assert_eq!(egress().await, "public");
    assert_eq!(platform.create("g").await["VpcConfig"], Value::Null);
}

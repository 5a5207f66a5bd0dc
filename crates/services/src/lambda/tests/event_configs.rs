//! What is asked of the events of a function: kept by qualifier, shown as AWS shows it, known to the engine at once.

use model::EventRules;
use model::ports::Catalog;

use super::*;

fn destination(arn: &str) -> Value {
    json!({"Destination": arn})
}

fn arn(name: &str) -> String {
    reference(name).arn()
}

async fn rules(platform: &Platform, name: &str) -> EventRules {
    EventRules::clone(&*platform.functions.event_rules(&reference(name)).await.unwrap())
}

#[tokio::test]
async fn a_configuration_is_put_updated_shown_and_deleted() {
    let platform = Platform::new();
    platform.create("f").await;
    platform.create("g").await;
    assert_eq!(rules(&platform, "f").await, EventRules::default());
    let of = |input: Value| with(input, "FunctionName", json!("f"));
    let config = json!({"OnFailure": destination(&arn("g"))});
    let input = of(json!({"MaximumRetryAttempts": 1, "DestinationConfig": config}));
    let made = platform.ok("PutFunctionEventInvokeConfig", input).await;
    assert_eq!(
        made,
        json!({
            "LastModified": 1_704_164_645.678,
            "FunctionArn": arn("f:$LATEST"),
            "MaximumRetryAttempts": 1,
            "MaximumEventAgeInSeconds": null,
            "DestinationConfig": {"OnSuccess": {}, "OnFailure": destination(&arn("g"))},
        })
    );
    let shown = platform.ok("GetFunctionEventInvokeConfig", of(json!({"Qualifier": "$LATEST"}))).await;
    assert_eq!(shown, made);
    let expected = EventRules { retries_max: Some(1), on_failure: Some(arn("g")), ..EventRules::default() };
    assert_eq!(rules(&platform, "f").await, expected);
    assert_eq!(rules(&platform, "f:$LATEST").await, expected);

    platform.clock.advance(std::time::Duration::from_secs(1));
    let updated = platform.ok("UpdateFunctionEventInvokeConfig", of(json!({"MaximumEventAgeInSeconds": 60}))).await;
    assert_eq!((&updated["MaximumRetryAttempts"], &updated["MaximumEventAgeInSeconds"]), (&json!(1), &json!(60)));
    assert_eq!(updated["LastModified"], json!(1_704_164_646.678));
    assert_eq!(rules(&platform, "f").await, EventRules { age_max_s: Some(60), ..expected });

    let put = platform.ok("PutFunctionEventInvokeConfig", of(json!({"MaximumRetryAttempts": 0}))).await;
    assert_eq!((&put["MaximumEventAgeInSeconds"], &put["DestinationConfig"]["OnFailure"]), (&Value::Null, &json!({})));
    platform.ok("DeleteFunctionEventInvokeConfig", of(json!({}))).await;
    assert_eq!(rules(&platform, "f").await, EventRules::default());
    let none = (
        404,
        "ResourceNotFoundException".to_owned(),
        format!("The function {} doesn't have an EventInvokeConfig", arn("f:$LATEST")),
    );
    for operation in ["GetFunctionEventInvokeConfig", "DeleteFunctionEventInvokeConfig"] {
        assert_eq!(platform.fails(operation, of(json!({}))).await, none, "{operation}");
    }
    let update = of(json!({"MaximumRetryAttempts": 0}));
    assert_eq!(platform.fails("UpdateFunctionEventInvokeConfig", update).await, none);
}

#[tokio::test]
async fn what_cannot_be_is_refused() {
    let platform = Platform::new();
    platform.create("f").await;
    platform.create("g").await;
    let put = async |config: Value| {
        let input = json!({"FunctionName": "f", "DestinationConfig": config});
        platform.fails("PutFunctionEventInvokeConfig", input).await
    };
    let (status, code, message) = platform.fails("PutFunctionEventInvokeConfig", json!({"FunctionName": "f"})).await;
    assert_eq!((status, code.as_str()), (400, "InvalidParameterValueException"));
    assert_eq!(message, "You must specify at least one of error handling or destination setting.");
    for own in [arn("f"), arn("f:live")] {
        let (status, _, message) = put(json!({"OnSuccess": destination(&own)})).await;
        assert_eq!((status, message.as_str()), (400, "You can't specify the function as a destination for itself."));
    }
    for missing in [arn("h"), arn("g:live"), arn("g").replace("000000000000", "111111111111")] {
        let (status, code, message) = put(json!({"OnFailure": destination(&missing)})).await;
        assert_eq!((status, code.as_str()), (400, "InvalidParameterValueException"), "{missing}");
        assert_eq!(message, format!("The destination ARN {missing} is invalid."));
    }
    let (kinesis, bucket) = ("arn:aws:kinesis:us-east-1:000000000000:stream/s", "arn:aws:s3:::b");
    for (config, shown) in [
        (
            json!({"OnFailure": destination(kinesis)}),
            format!("onSuccess=null, onFailure=OnFailure(destination={kinesis})"),
        ),
        (
            json!({"OnSuccess": destination(bucket)}),
            format!("onSuccess=OnSuccess(destination={bucket}), onFailure=null"),
        ),
    ] {
        let (status, _, message) = put(config).await;
        let expected = format!("The provided destination config DestinationConfig({shown}) is invalid.");
        assert_eq!((status, message), (400, expected));
    }
    for absent in ["arn:aws:sns:us-east-1:000000000000:t", "arn:aws:events:us-east-1:000000000000:event-bus/b", bucket]
    {
        let (status, code, message) = put(json!({"OnFailure": destination(absent)})).await;
        assert_eq!((status, code.as_str()), (501, "NotImplementedException"), "{absent}");
        assert!(message.contains(absent) && message.contains("does not exist here yet"), "{message}");
    }
    for name in ["h", "f:live", "f:7"] {
        let input = json!({"FunctionName": name, "MaximumRetryAttempts": 0});
        let (status, _, message) = platform.fails("PutFunctionEventInvokeConfig", input).await;
        assert_eq!((status, message.as_str()), (404, "The function doesn't exist."), "{name}");
    }
    let (_, _, message) = platform.fails("ListFunctionEventInvokeConfigs", json!({"FunctionName": "h"})).await;
    assert_eq!(message, "The function doesn't exist.");
    assert_eq!(rules(&platform, "f").await, EventRules::default(), "nothing of that was kept");
    // A service that is there takes what it has.
    let queue = json!({"OnFailure": destination("arn:aws:sqs:us-east-1:000000000000:there")});
    platform.ok("PutFunctionEventInvokeConfig", json!({"FunctionName": "f", "DestinationConfig": queue})).await;
    for wrong in ["arn:aws:sqs:us-east-1:000000000000:gone", "arn:aws:sns:us-east-1:000000000000:t.fifo"] {
        let (status, _, message) = put(json!({"OnFailure": destination(wrong)})).await;
        assert_eq!((status, message), (400, format!("The destination ARN {wrong} is invalid.")));
    }
}

#[tokio::test]
async fn every_qualifier_has_its_own_and_it_goes_with_it() {
    let platform = Platform::new();
    platform.create("f").await;
    platform.publish("f", "one").await;
    platform.publish("f", "two").await;
    platform.ok("CreateAlias", json!({"FunctionName": "f", "Name": "live", "FunctionVersion": "2"})).await;
    for (retries, name) in ["f", "f:1", "f:live"].into_iter().enumerate() {
        let input = json!({"FunctionName": name, "MaximumRetryAttempts": retries});
        platform.ok("PutFunctionEventInvokeConfig", input).await;
    }
    for (retries, name) in ["f", "f:1", "f:live"].into_iter().enumerate() {
        assert_eq!(rules(&platform, name).await.retries_max, u32::try_from(retries).ok(), "{name}");
    }
    assert_eq!(rules(&platform, "f:2").await, EventRules::default(), "an alias is not its version");
    let first = platform.ok("ListFunctionEventInvokeConfigs", json!({"FunctionName": "f", "MaxItems": 2})).await;
    let arns = |page: &Value| -> Vec<String> {
        let listed = page["FunctionEventInvokeConfigs"].as_array().unwrap().iter();
        listed.map(|config| config["FunctionArn"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(arns(&first), [arn("f:$LATEST"), arn("f:1")]);
    let input = json!({"FunctionName": "f", "MaxItems": 2, "Marker": first["NextMarker"]});
    let second = platform.ok("ListFunctionEventInvokeConfigs", input).await;
    assert_eq!((arns(&second), &second["NextMarker"]), (vec![arn("f:live")], &Value::Null));

    platform.ok("DeleteAlias", json!({"FunctionName": "f", "Name": "live"})).await;
    platform.ok("DeleteFunction", json!({"FunctionName": "f", "Qualifier": "1"})).await;
    let left = platform.ok("ListFunctionEventInvokeConfigs", json!({"FunctionName": "f"})).await;
    assert_eq!(arns(&left), [arn("f:$LATEST")]);
    assert_eq!(rules(&platform, "f:live").await, EventRules::default());
    platform.ok("DeleteFunction", json!({"FunctionName": "f"})).await;
    assert_eq!(rules(&platform, "f").await, EventRules::default());
}

const THERE: &str = "arn:aws:sqs:us-east-1:000000000000:there";

fn letters(arn: &str) -> Value {
    json!({"TargetArn": arn})
}

/// Where events of a reference go that are given up.
async fn dead_letters(platform: &Platform, name: &str) -> Option<String> {
    platform.functions.version(&reference(name)).await.unwrap().dead_letters.clone()
}

#[tokio::test]
async fn a_dead_letter_target_is_a_setting_of_a_version() {
    let platform = Platform::new();
    let made = platform.ok("CreateFunction", with(creation("f"), "DeadLetterConfig", letters(THERE))).await;
    assert_eq!(made["DeadLetterConfig"], letters(THERE));
    assert_eq!(platform.publish("f", "two").await["DeadLetterConfig"], letters(THERE));
    let update = async |member: &str, value: Value| {
        let input = with(json!({"FunctionName": "f"}), member, value);
        platform.ok("UpdateFunctionConfiguration", input).await.get("DeadLetterConfig").cloned()
    };
    assert_eq!(update("Description", json!("other")).await, Some(letters(THERE)), "what is not said stays");
    for none in [json!({}), letters("")] {
        assert_eq!(update("DeadLetterConfig", letters(THERE)).await, Some(letters(THERE)));
        assert_eq!(dead_letters(&platform, "f").await.as_deref(), Some(THERE));
        assert_eq!(update("DeadLetterConfig", none).await, None);
        assert_eq!(dead_letters(&platform, "f").await, None);
    }
    assert_eq!(
        dead_letters(&platform, "f:1").await.as_deref(),
        Some(THERE),
        "a version keeps what it was published with"
    );
    let shown = async |qualifier: &str| {
        let input = json!({"FunctionName": "f", "Qualifier": qualifier});
        let alone = platform.ok("GetFunctionConfiguration", input.clone()).await;
        let whole = platform.ok("GetFunction", input).await;
        assert_eq!(alone.get("DeadLetterConfig"), whole["Configuration"].get("DeadLetterConfig"));
        alone.get("DeadLetterConfig").cloned()
    };
    assert_eq!((shown("1").await, shown("$LATEST").await), (Some(letters(THERE)), None));
    let listed = platform.ok("ListVersionsByFunction", json!({"FunctionName": "f"})).await;
    assert_eq!(listed["Versions"][1]["DeadLetterConfig"], letters(THERE));
    // It is a change, so that there is something to publish.
    let published = platform.ok("PublishVersion", json!({"FunctionName": "f"})).await;
    assert_eq!((&published["Version"], published.get("DeadLetterConfig")), (&json!("2"), None));
}

#[tokio::test]
async fn a_dead_letter_target_that_cannot_be_is_refused_and_leaves_nothing() {
    let platform = Platform::new();
    let absent = "arn:aws:sns:us-east-1:000000000000:t";
    let wrong = ["arn:aws:s3:::b", "arn:aws:sqs:us-east-1:000000000000:gone", &format!("{THERE}.fifo")];
    let create =
        async |arn: &str| platform.fails("CreateFunction", with(creation("f"), "DeadLetterConfig", letters(arn))).await;
    for arn in wrong {
        let (status, code, message) = create(arn).await;
        assert_eq!((status, code.as_str()), (400, "InvalidParameterValueException"), "{arn}");
        assert!(message.contains(arn), "{message}");
    }
    let (status, code, message) = create(absent).await;
    assert_eq!((status, code.as_str()), (501, "NotImplementedException"));
    assert!(message.contains("the service sns does not exist here yet"), "{message}");
    assert_eq!(platform.everything().await, (0, 0));

    let update = async |name: &str, arn: &str| {
        let input = json!({"FunctionName": name, "DeadLetterConfig": letters(arn)});
        platform.fails("UpdateFunctionConfiguration", input).await.0
    };
    assert_eq!(update("f", absent).await, 404, "there is no such function");
    let made = platform.ok("CreateFunction", with(creation("f"), "DeadLetterConfig", letters(""))).await;
    assert_eq!(made.get("DeadLetterConfig"), None);
    for arn in wrong {
        assert_eq!(update("f", arn).await, 400, "{arn}");
    }
    assert_eq!(update("f", absent).await, 501);
    assert_eq!(dead_letters(&platform, "f").await, None);
}

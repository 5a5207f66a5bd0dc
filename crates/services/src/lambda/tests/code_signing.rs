//! Code signing configurations: what they let through, who has which, and that none goes while a function has it.

use super::*;

const PROFILE: &str = "arn:aws:signer:us-east-1:000000000000:/signing-profiles/p/0123456789";

async fn config(platform: &Platform, policy: &str) -> String {
    let input = json!({
        "AllowedPublishers": {"SigningProfileVersionArns": [PROFILE]},
        "CodeSigningPolicies": {"UntrustedArtifactOnDeployment": policy},
    });
    let made = platform.ok("CreateCodeSigningConfig", input).await;
    made["CodeSigningConfig"]["CodeSigningConfigArn"].as_str().unwrap().to_owned()
}

fn of(name: &str) -> Value {
    json!({"FunctionName": name})
}

#[tokio::test]
async fn a_configuration_that_enforces_lets_no_code_in_and_one_that_warns_all() {
    let platform = Platform::new();
    let (enforce, warn) = (config(&platform, "Enforce").await, config(&platform, "Warn").await);
    let before = platform.everything().await;
    let refused = platform.fails("CreateFunction", with(creation("f"), "CodeSigningConfigArn", json!(enforce))).await;
    assert_eq!((refused.0, refused.1.as_str()), (400, "CodeVerificationFailedException"));
    assert!(refused.2.contains("ENFORCE"), "{}", refused.2);
    assert_eq!(platform.everything().await, before, "what is refused leaves nothing behind");

    platform.ok("CreateFunction", with(creation("f"), "CodeSigningConfigArn", json!(warn))).await;
    let listed = platform.ok("ListFunctionsByCodeSigningConfig", json!({"CodeSigningConfigArn": warn})).await;
    assert_eq!(listed["FunctionArns"], json!([reference("f").arn()]));
    let update = with(of("f"), "ZipFile", json!(code("two")));
    platform.ok("UpdateFunctionCode", update.clone()).await;

    // What runs stays when the policy closes; what comes next is refused, dry runs and layers too.
    let closed = json!({
        "CodeSigningConfigArn": warn,
        "CodeSigningPolicies": {"UntrustedArtifactOnDeployment": "Enforce"},
    });
    let shown = platform.ok("UpdateCodeSigningConfig", closed).await;
    assert_eq!(shown["CodeSigningConfig"]["AllowedPublishers"]["SigningProfileVersionArns"], json!([PROFILE]));
    assert!(platform.functions.version(&reference("f")).await.is_ok());
    for input in [with(update.clone(), "DryRun", json!(true)), update] {
        assert_eq!(platform.fails("UpdateFunctionCode", input).await.1, "CodeVerificationFailedException");
    }
    let layer = json!({"LayerName": "l", "Content": {"ZipFile": code("layer")}});
    let layer = platform.ok("PublishLayerVersion", layer).await["LayerVersionArn"].clone();
    let layered = with(of("f"), "Layers", json!([layer]));
    assert_eq!(platform.fails("UpdateFunctionConfiguration", layered).await.1, "CodeVerificationFailedException");
    platform.ok("UpdateFunctionConfiguration", with(of("f"), "Timeout", json!(9))).await;
}

#[tokio::test]
async fn a_configuration_stays_while_a_function_has_it() {
    let platform = Platform::new();
    let (one, other) = (config(&platform, "Warn").await, config(&platform, "Warn").await);
    platform.create("f").await;
    assert_eq!(platform.ok("GetFunctionCodeSigningConfig", of("f")).await, json!({}));
    for arn in [&one, &other] {
        let put = platform.ok("PutFunctionCodeSigningConfig", with(of("f"), "CodeSigningConfigArn", json!(arn))).await;
        assert_eq!(put, json!({"CodeSigningConfigArn": arn, "FunctionName": "f"}));
        assert_eq!(platform.ok("GetFunctionCodeSigningConfig", of("f")).await, put);
    }
    // The first is free again, the second is in use until the function goes.
    let gone = json!({"CodeSigningConfigArn": one});
    platform.ok("DeleteCodeSigningConfig", gone.clone()).await;
    assert_eq!(platform.fails("GetCodeSigningConfig", gone.clone()).await.1, "ResourceNotFoundException");
    let missing =
        platform.fails("PutFunctionCodeSigningConfig", with(of("f"), "CodeSigningConfigArn", json!(one))).await;
    assert_eq!((missing.0, missing.1.as_str()), (404, "CodeSigningConfigNotFoundException"));
    let used = json!({"CodeSigningConfigArn": other});
    assert_eq!(platform.fails("DeleteCodeSigningConfig", used.clone()).await.1, "ResourceConflictException");
    platform.ok("DeleteFunctionCodeSigningConfig", of("f")).await;
    assert_eq!(platform.ok("GetFunctionCodeSigningConfig", of("f")).await, json!({}));
    platform.ok("PutFunctionCodeSigningConfig", with(of("f"), "CodeSigningConfigArn", json!(other))).await;
    platform.ok("DeleteFunction", of("f")).await;
    platform.ok("DeleteCodeSigningConfig", used).await;
}

#[tokio::test]
async fn configurations_and_their_functions_are_listed_in_pages() {
    let platform = Platform::new();
    let mut all = Vec::new();
    for _ in 0..3 {
        all.push(config(&platform, "Warn").await);
    }
    all.sort();
    let (mut seen, mut marker) = (Vec::new(), Value::Null);
    loop {
        let page = platform.ok("ListCodeSigningConfigs", json!({"MaxItems": 2, "Marker": marker})).await;
        seen.extend(
            page["CodeSigningConfigs"].as_array().unwrap().iter().map(|config| config["CodeSigningConfigArn"].clone()),
        );
        marker = page["NextMarker"].clone();
        if marker.is_null() {
            break;
        }
        assert_eq!(seen.len(), 2);
    }
    assert_eq!(seen, all.iter().map(|arn| json!(arn)).collect::<Vec<_>>());
    for name in ["a", "b", "c"] {
        platform.ok("CreateFunction", with(creation(name), "CodeSigningConfigArn", json!(all[0]))).await;
    }
    let input = json!({"CodeSigningConfigArn": all[0], "MaxItems": 2});
    let page = platform.ok("ListFunctionsByCodeSigningConfig", input.clone()).await;
    assert_eq!(page["FunctionArns"], json!([reference("a").arn(), reference("b").arn()]));
    let page = platform.ok("ListFunctionsByCodeSigningConfig", with(input, "Marker", page["NextMarker"].clone())).await;
    assert_eq!((&page["FunctionArns"], &page["NextMarker"]), (&json!([reference("c").arn()]), &Value::Null));
}

#[tokio::test]
async fn configurations_have_tags() {
    let platform = Platform::new();
    let input = json!({"AllowedPublishers": {"SigningProfileVersionArns": [PROFILE]}, "Tags": {"a": "1"}});
    let made = platform.ok("CreateCodeSigningConfig", input).await;
    let arn = made["CodeSigningConfig"]["CodeSigningConfigArn"].clone();
    assert_eq!(made["CodeSigningConfig"]["CodeSigningPolicies"]["UntrustedArtifactOnDeployment"], "Warn");
    platform.ok("TagResource", json!({"Resource": arn, "Tags": {"b": "2"}})).await;
    platform.ok("UntagResource", json!({"Resource": arn, "TagKeys": ["a"]})).await;
    assert_eq!(platform.ok("ListTags", json!({"Resource": arn})).await["Tags"], json!({"b": "2"}));
}

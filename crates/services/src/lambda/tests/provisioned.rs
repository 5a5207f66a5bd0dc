//! Provisioned concurrency: what may be asked for, what the engine is told, what is shown of it.

use std::collections::BTreeSet;

use model::Floor;
use model::ports::Catalog;

use super::*;

const ARN: &str = "arn:aws:lambda:us-east-1:000000000000:function:f";

/// A function with versions 1 and 2, and the aliases `live` of the first and `canary` of both.
async fn with_versions() -> Platform {
    let platform = Platform::new();
    platform.create("f").await;
    platform.publish("f", "one").await;
    platform.publish("f", "two").await;
    let alias = |name: &str| json!({"FunctionName": "f", "Name": name, "FunctionVersion": "1"});
    platform.ok("CreateAlias", alias("live")).await;
    let routing = json!({"AdditionalVersionWeights": {"2": 0.25}});
    platform.ok("CreateAlias", with(alias("canary"), "RoutingConfig", routing)).await;
    platform
}

fn put(qualifier: &str, number: u64) -> Value {
    json!({"FunctionName": "f", "Qualifier": qualifier, "ProvisionedConcurrentExecutions": number})
}

fn of(qualifier: &str) -> Value {
    json!({"FunctionName": "f", "Qualifier": qualifier})
}

/// What the engine is told, as `version: environments`.
async fn floors(platform: &Platform) -> BTreeSet<(String, u32)> {
    platform.functions.list_uses().await.unwrap();
    let never = BTreeSet::from([Floor {
        function: reference("never"),
        version: String::new(),
        revision: String::new(),
        environments: 0,
        set_aside: 0,
    }]);
    let told = platform.functions.floors(&never).await;
    assert!(told.iter().all(|floor| floor.function == reference("f")));
    told.into_iter().map(|floor| (floor.version, floor.environments)).collect()
}

fn told(floors: &[(&str, u32)]) -> BTreeSet<(String, u32)> {
    floors.iter().map(|(version, number)| ((*version).to_owned(), *number)).collect()
}

/// The engine has so many environments of a version, or has failed to make them.
fn there(platform: &Platform, version: &str, environments: u32, failure: Option<&str>) {
    let state = FloorState { environments, failure: failure.map(str::to_owned) };
    platform.invoker.floors.lock().insert(version.to_owned(), state);
}

#[tokio::test]
async fn a_configuration_goes_from_progress_to_ready() {
    let platform = with_versions().await;
    let reply = platform.call("PutProvisionedConcurrencyConfig", put("1", 3)).await.unwrap();
    let expected = json!({
        "RequestedProvisionedConcurrentExecutions": 3, "AvailableProvisionedConcurrentExecutions": 0,
        "AllocatedProvisionedConcurrentExecutions": 0, "Status": "IN_PROGRESS",
        "LastModified": "2024-01-02T03:04:05.678+0000",
    });
    assert_eq!(reply.output, expected);
    assert_eq!(floors(&platform).await, told(&[("1", 3)]));
    let status = async || {
        let shown = platform.ok("GetProvisionedConcurrencyConfig", of("1")).await;
        (
            shown["Status"].as_str().unwrap().to_owned(),
            shown["AllocatedProvisionedConcurrentExecutions"].as_u64().unwrap(),
            shown["AvailableProvisionedConcurrentExecutions"].as_u64().unwrap(),
            shown["StatusReason"].clone(),
        )
    };
    assert_eq!(status().await, ("IN_PROGRESS".into(), 0, 0, Value::Null));
    there(&platform, "1", 2, None);
    assert_eq!(status().await, ("IN_PROGRESS".into(), 2, 2, Value::Null));
    there(&platform, "1", 2, Some("FUNCTION_ERROR_INIT_FAILURE"));
    assert_eq!(status().await, ("FAILED".into(), 2, 2, json!("FUNCTION_ERROR_INIT_FAILURE")));
    there(&platform, "1", 5, Some("long ago"));
    assert_eq!(status().await, ("READY".into(), 3, 3, Value::Null));
    platform.ok("PutProvisionedConcurrencyConfig", put("1", 6)).await;
    there(&platform, "1", 3, None);
    assert_eq!(status().await, ("IN_PROGRESS".into(), 3, 3, Value::Null));

    platform.ok("DeleteProvisionedConcurrencyConfig", of("1")).await;
    platform.ok("DeleteProvisionedConcurrencyConfig", of("1")).await;
    assert_eq!(floors(&platform).await, told(&[]));
    let got = platform.fails("GetProvisionedConcurrencyConfig", of("1")).await;
    assert_eq!(
        got,
        (
            404,
            "ProvisionedConcurrencyConfigNotFoundException".into(),
            "No Provisioned Concurrency Config found for this function".into()
        )
    );
}

#[tokio::test]
async fn an_alias_shares_by_weight_and_takes_along_what_it_has() {
    let platform = with_versions().await;
    let weights =
        platform.ok("GetAlias", json!({"FunctionName": "f", "Name": "canary"})).await["RoutingConfig"].clone();
    let routed = |routing: Value| json!({"FunctionName": "f", "Name": "canary", "RoutingConfig": routing});
    let got = platform.fails("PutProvisionedConcurrencyConfig", put("canary", 8)).await;
    assert_eq!((got.0, &*got.2), (400, "Alias with weights can not be used with Provisioned Concurrency"));
    platform.ok("UpdateAlias", routed(json!({}))).await;
    platform.ok("PutProvisionedConcurrencyConfig", put("canary", 8)).await;
    assert_eq!(floors(&platform).await, told(&[("1", 8)]));
    // It may get weights afterwards, as for a deployment that shifts its calls.
    platform.ok("UpdateAlias", routed(weights)).await;
    assert_eq!(floors(&platform).await, told(&[("1", 6), ("2", 2)]));
    there(&platform, "1", 6, None);
    there(&platform, "2", 1, None);
    let shown = platform.ok("GetProvisionedConcurrencyConfig", of("canary")).await;
    assert_eq!(
        (&shown["Status"], &shown["AllocatedProvisionedConcurrentExecutions"]),
        (&json!("IN_PROGRESS"), &json!(7))
    );
    let moved = json!({"FunctionName": "f", "Name": "canary", "FunctionVersion": "2", "RoutingConfig": {}});
    platform.ok("UpdateAlias", moved).await;
    assert_eq!(floors(&platform).await, told(&[("2", 8)]));
    platform.ok("DeleteAlias", json!({"FunctionName": "f", "Name": "canary"})).await;
    assert_eq!(floors(&platform).await, told(&[]));
    platform.ok("PutProvisionedConcurrencyConfig", put("2", 1)).await;
    platform.ok("DeleteFunction", of("2")).await;
    assert_eq!(floors(&platform).await, told(&[]));
}

#[tokio::test]
async fn what_cannot_be_provisioned_is_refused() {
    let platform = with_versions().await;
    let latest = json!({"FunctionName": "f", "Name": "latest", "FunctionVersion": "$LATEST"});
    platform.ok("CreateAlias", latest).await;
    let unpublished = "Provisioned Concurrency Configs cannot be applied to unpublished function versions.";
    for (input, status, words) in [
        (put("$LATEST", 1), 400, unpublished.to_owned()),
        (put("latest", 1), 400, unpublished.to_owned()),
        (put("9", 1), 404, format!("Function not found: {ARN}:9")),
        (put("none", 1), 404, format!("Cannot find alias arn: {ARN}:none")),
        (
            with(put("1", 1), "FunctionName", json!("absent")),
            404,
            "Function not found: ".to_owned() + &reference("absent").arn(),
        ),
    ] {
        let got = platform.fails("PutProvisionedConcurrencyConfig", input).await;
        assert_eq!((got.0, got.2), (status, words));
    }
    for operation in ["GetProvisionedConcurrencyConfig", "DeleteProvisionedConcurrencyConfig"] {
        let got = platform.fails(operation, of("$LATEST")).await;
        assert_eq!(got.2, "The function resource provided must be an alias or a published version.", "{operation}");
        assert_eq!(platform.fails(operation, of("none")).await.2, format!("Cannot find alias arn: {ARN}:none"));
    }
    platform.ok("PutProvisionedConcurrencyConfig", put("live", 1)).await;
    let got = platform.fails("PutProvisionedConcurrencyConfig", put("1", 1)).await;
    assert_eq!((got.0, got.1.as_str()), (409, "ResourceConflictException"));
    assert!(got.2.starts_with("Version can't be used"), "{got:?}");
    platform.ok("PutProvisionedConcurrencyConfig", put("2", 1)).await;
    let to_second = json!({"FunctionName": "f", "Name": "live", "FunctionVersion": "2"});
    let got = platform.fails("UpdateAlias", to_second.clone()).await;
    assert!(got.2.starts_with("Alias can't be used"), "{got:?}");
    let got = platform.fails("UpdateAlias", with(to_second, "FunctionVersion", json!("$LATEST"))).await;
    assert_eq!(got.2, unpublished);
    assert_eq!(floors(&platform).await, told(&[("1", 1), ("2", 1)]));
}

#[tokio::test]
async fn it_is_bounded_by_what_the_function_and_the_account_have() {
    let platform = with_versions().await;
    platform.create("g").await;
    let reserve = |name: &str, number: u64| json!({"FunctionName": name, "ReservedConcurrentExecutions": number});
    platform.ok("PutFunctionConcurrency", reserve("g", 500)).await;
    let got = platform.fails("PutProvisionedConcurrencyConfig", put("1", 1_001)).await;
    assert_eq!(
        got.2,
        "Specified ConcurrentExecutions for function is greater than account's unreserved concurrency [1000]."
    );
    let got = platform.fails("PutProvisionedConcurrencyConfig", put("1", 401)).await;
    assert!(got.2.ends_with("below its minimum value of [100]."), "{got:?}");
    platform.ok("PutProvisionedConcurrencyConfig", put("1", 400)).await;
    platform.ok("PutProvisionedConcurrencyConfig", put("1", 399)).await;
    let settings = platform.ok("GetAccountSettings", json!({})).await;
    assert_eq!(settings["AccountLimit"]["UnreservedConcurrentExecutions"], json!(101));
    assert_eq!(platform.fails("PutProvisionedConcurrencyConfig", put("2", 2)).await.0, 400);
    assert_eq!(platform.fails("PutFunctionConcurrency", reserve("g", 502)).await.0, 400);

    let aside = async || {
        floors(&platform).await;
        let told = platform.functions.floors(&BTreeSet::new()).await;
        told.into_iter().map(|floor| (floor.environments, floor.set_aside)).collect::<Vec<_>>()
    };
    assert_eq!(aside().await, [(399, 399)]);

    // What a function has reserved holds what it provisions.
    platform.ok("DeleteProvisionedConcurrencyConfig", of("1")).await;
    platform.ok("PutFunctionConcurrency", reserve("f", 10)).await;
    platform.ok("PutProvisionedConcurrencyConfig", put("1", 7)).await;
    assert_eq!(aside().await, [(7, 0)]);
    let got = platform.fails("PutProvisionedConcurrencyConfig", put("2", 4)).await;
    assert_eq!(
        got.2,
        "Requested Provisioned Concurrency should not be greater than the reservedConcurrentExecution for function"
    );
    platform.ok("PutProvisionedConcurrencyConfig", put("2", 3)).await;
    for number in [0, 9] {
        let got = platform.fails("PutFunctionConcurrency", reserve("f", number)).await;
        assert!(got.2.contains("should not be lower than function's total provisioned concurrency [10]"), "{got:?}");
    }
    let settings = platform.ok("GetAccountSettings", json!({})).await;
    assert_eq!(settings["AccountLimit"]["UnreservedConcurrentExecutions"], json!(490));
}

#[tokio::test]
async fn configurations_are_listed() {
    let platform = with_versions().await;
    for (qualifier, number) in [("2", 5), ("live", 2)] {
        platform.ok("PutProvisionedConcurrencyConfig", put(qualifier, number)).await;
    }
    there(&platform, "2", 5, None);
    let first = platform.ok("ListProvisionedConcurrencyConfigs", json!({"FunctionName": "f", "MaxItems": 1})).await;
    let shown = &first["ProvisionedConcurrencyConfigs"][0];
    assert_eq!((&shown["FunctionArn"], &shown["Status"]), (&json!(format!("{ARN}:2")), &json!("READY")));
    let input = json!({"FunctionName": "f", "Marker": first["NextMarker"]});
    let rest = platform.ok("ListProvisionedConcurrencyConfigs", input).await;
    assert_eq!(rest["ProvisionedConcurrencyConfigs"][0]["FunctionArn"], json!(format!("{ARN}:live")));
    assert_eq!(rest["NextMarker"], Value::Null);
}

#[tokio::test]
async fn a_tag_keeps_environments_of_the_latest_version() {
    let platform = with_versions().await;
    let arn = json!(ARN);
    let tag = |text: &str| json!({"Resource": arn, "Tags": {"dunlin:minimum-environments": text}});
    for wrong in ["", "-1", "many", "1001"] {
        assert_eq!(platform.fails("TagResource", tag(wrong)).await.1, "InvalidParameterValueException", "{wrong}");
    }
    platform.ok("TagResource", tag("2")).await;
    assert_eq!(floors(&platform).await, told(&[("$LATEST", 2)]));
    // With another code they are others.
    let revision = async || {
        floors(&platform).await;
        platform.functions.floors(&BTreeSet::new()).await.into_iter().next().unwrap().revision
    };
    let before = revision().await;
    assert_eq!(before, platform.functions.version(&reference("f")).await.unwrap().revision);
    platform.ok("UpdateFunctionCode", json!({"FunctionName": "f", "ZipFile": code("three")})).await;
    assert_ne!(revision().await, before);
    platform.ok("UntagResource", json!({"Resource": arn, "TagKeys": ["dunlin:minimum-environments"]})).await;
    assert_eq!(floors(&platform).await, told(&[]));
}

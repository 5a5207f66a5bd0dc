//! Aliases: names that lead to versions, with weights, and what hangs on them.

use model::ports::{Catalog, Sites};
use model::{Site, SiteKey};

use super::*;

const ARN: &str = "arn:aws:lambda:us-east-1:000000000000:function:f";

/// A function with versions 1, 2 and 3.
async fn with_versions() -> Platform {
    let platform = Platform::new();
    platform.create("f").await;
    for content in ["one", "two", "three"] {
        platform.publish("f", content).await;
    }
    platform
}

fn alias(name: &str, version: &str) -> Value {
    json!({"FunctionName": "f", "Name": name, "FunctionVersion": version})
}

fn weighted(name: &str, version: &str, weights: Value) -> Value {
    with(alias(name, version), "RoutingConfig", json!({"AdditionalVersionWeights": weights}))
}

async fn runs(platform: &Platform, name: &str) -> String {
    platform.functions.version(&reference(name)).await.unwrap().version.clone()
}

#[tokio::test]
async fn an_alias_leads_where_it_was_last_pointed() {
    let platform = with_versions().await;
    let made = platform.ok("CreateAlias", with(alias("live", "1"), "Description", json!("words"))).await;
    let expected = json!({
        "AliasArn": format!("{ARN}:live"), "Name": "live", "FunctionVersion": "1", "Description": "words",
        "RevisionId": made["RevisionId"],
    });
    assert_eq!(made, expected);
    assert_eq!(platform.ok("GetAlias", json!({"FunctionName": "f", "Name": "live"})).await, made);
    assert_eq!(runs(&platform, "f:live").await, "1");
    let shown = platform.ok("GetFunctionConfiguration", json!({"FunctionName": "f", "Qualifier": "live"})).await;
    assert_eq!((&shown["FunctionArn"], &shown["Version"]), (&json!(format!("{ARN}:live")), &json!("1")));

    let moved = platform.ok("UpdateAlias", with(alias("live", "2"), "RevisionId", made["RevisionId"].clone())).await;
    assert_eq!((&moved["FunctionVersion"], &moved["Description"]), (&json!("2"), &json!("words")));
    assert_ne!(moved["RevisionId"], made["RevisionId"]);
    assert_eq!(runs(&platform, "f:live").await, "2");
    let stale = with(alias("live", "3"), "RevisionId", made["RevisionId"].clone());
    let got = platform.fails("UpdateAlias", stale).await;
    assert_eq!((got.0, got.1.as_str()), (412, "PreconditionFailedException"));
    platform.ok("UpdateAlias", alias("live", "$LATEST")).await;
    assert_eq!(runs(&platform, "f:live").await, "$LATEST");
    platform.ok("DeleteAlias", json!({"FunctionName": "f", "Name": "live"})).await;
    platform.ok("DeleteAlias", json!({"FunctionName": "f", "Name": "live"})).await;
    assert!(platform.functions.version(&reference("f:live")).await.is_err());
    let got = platform.fails("GetAlias", json!({"FunctionName": "f", "Name": "live"})).await;
    assert_eq!((got.0, got.2), (404, format!("Cannot find alias arn: {ARN}:live")));
}

#[tokio::test]
async fn what_cannot_be_an_alias_is_refused() {
    let platform = with_versions().await;
    platform.ok("CreateAlias", alias("live", "1")).await;
    let (invalid, bad) = ("InvalidParameterValueException", "ValidationException");
    let missing = "ResourceNotFoundException";
    for (input, status, code, words) in [
        (alias("live", "2"), 409, "ResourceConflictException", format!("Alias already exists: {ARN}:live")),
        (alias("7", "2"), 400, bad, "Value '7' at 'name' failed to satisfy constraint".into()),
        (alias("a", "9"), 404, missing, format!("Function not found: {ARN}:9")),
        (alias("a", "$LATEST.PUBLISHED"), 404, missing, format!("Function not found: {ARN}:$LATEST.PUBLISHED")),
        (
            weighted("a", "1", json!({"2": 0.1, "3": 0.1})),
            400,
            invalid,
            "Number of items in AdditionalVersionWeights cannot be greater than 1".into(),
        ),
        (
            weighted("a", "1", json!({"1": 0.1})),
            400,
            invalid,
            "Invalid function version 1. Function version 1 is already included in routing configuration.".into(),
        ),
        (
            weighted("a", "$LATEST", json!({"1": 0.1})),
            400,
            invalid,
            "$LATEST is not supported for an alias pointing to more than 1 version".into(),
        ),
        (weighted("a", "1", json!({"9": 0.1})), 404, missing, format!("Function not found: {ARN}:9")),
        (
            weighted("a", "1", json!({"2": 1.5})),
            400,
            bad,
            "Value '{2=1.5}' at 'routingConfig.additionalVersionWeights'".into(),
        ),
        (
            weighted("a", "1", json!({"2": -0.1})),
            400,
            bad,
            "Member must have value greater than or equal to 0.0".into(),
        ),
        (
            weighted("a", "1", json!({"live": 0.5})),
            400,
            bad,
            "Member must satisfy regular expression pattern: [0-9]+".into(),
        ),
    ] {
        let got = platform.fails("CreateAlias", input).await;
        assert_eq!((got.0, got.1.as_str()), (status, code), "{got:?}");
        assert!(got.2.contains(&words), "{got:?}");
    }
    let got = platform.fails("UpdateAlias", alias("absent", "1")).await;
    assert_eq!((got.0, got.2), (404, format!("Cannot find alias arn: {ARN}:absent")));
    let absent = with(alias("a", "1"), "FunctionName", json!("absent"));
    for (operation, input) in [
        ("CreateAlias", absent.clone()),
        ("UpdateAlias", absent),
        ("DeleteAlias", json!({"FunctionName": "absent", "Name": "a"})),
        ("GetAlias", json!({"FunctionName": "absent", "Name": "a"})),
        ("ListAliases", json!({"FunctionName": "absent"})),
    ] {
        assert_eq!(platform.fails(operation, input).await.0, 404, "{operation}");
    }
    let listed = platform.ok("ListAliases", json!({"FunctionName": "f"})).await;
    assert_eq!(listed["Aliases"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn calls_are_shared_by_weight() {
    let platform = with_versions().await;
    let made = platform.ok("CreateAlias", weighted("live", "1", json!({"2": 0.25}))).await;
    assert_eq!(made["RoutingConfig"], json!({"AdditionalVersionWeights": {"2": 0.25}}));
    let count = async |calls: usize| {
        let mut second = 0;
        for _ in 0..calls {
            match &*runs(&platform, "f:live").await {
                "1" => {}
                "2" => second += 1,
                other => panic!("{other}"),
            }
        }
        second
    };
    let second = count(4_000).await;
    assert!((900..1_100).contains(&second), "{second} of 4000 at 0.25");
    platform.ok("UpdateAlias", weighted("live", "1", json!({"2": 1.0}))).await;
    assert_eq!(count(50).await, 50);
    // The first version may not become the second one.
    let got = platform.fails("UpdateAlias", alias("live", "2")).await;
    assert!(got.2.contains("already included in routing configuration"), "{got:?}");
    let kept = platform.ok("UpdateAlias", with(alias("live", "1"), "Description", json!("d"))).await;
    assert_eq!(kept["RoutingConfig"], json!({"AdditionalVersionWeights": {"2": 1.0}}), "nothing was said of it");
    let cleared = platform.ok("UpdateAlias", with(alias("live", "2"), "RoutingConfig", json!({}))).await;
    assert_eq!((&cleared["RoutingConfig"], &cleared["FunctionVersion"]), (&Value::Null, &json!("2")));
    assert_eq!(count(50).await, 50);
}

#[tokio::test]
async fn a_version_stays_while_an_alias_leads_to_it() {
    let platform = with_versions().await;
    platform.ok("CreateAlias", weighted("canary", "1", json!({"2": 0.1}))).await;
    platform.ok("CreateAlias", alias("live", "1")).await;
    for (version, aliases) in [("1", "[canary, live]"), ("2", "[canary]")] {
        let got = platform.fails("DeleteFunction", json!({"FunctionName": "f", "Qualifier": version})).await;
        let words = format!("Unable to delete version because the following aliases reference it: {aliases}");
        assert_eq!(got, (409, "ResourceConflictException".into(), words));
    }
    platform.ok("DeleteFunction", json!({"FunctionName": "f", "Qualifier": "3"})).await;
    platform.ok("DeleteAlias", json!({"FunctionName": "f", "Name": "canary"})).await;
    platform.ok("DeleteFunction", json!({"FunctionName": "f", "Qualifier": "2"})).await;
    platform.ok("DeleteFunction", json!({"FunctionName": "f"})).await;
    assert!(platform.functions.version(&reference("f:live")).await.is_err());
}

#[tokio::test]
async fn aliases_are_listed_in_pages_and_by_version() {
    let platform = with_versions().await;
    for number in 0..7 {
        let version = (number % 2 + 1).to_string();
        platform.ok("CreateAlias", alias(&format!("a{number}"), &version)).await;
    }
    platform.ok("CreateAlias", weighted("both", "1", json!({"3": 0.5}))).await;
    let names = async |mut input: Value| {
        let mut names = Vec::new();
        loop {
            let page = platform.ok("ListAliases", input.clone()).await;
            names.extend(
                page["Aliases"].as_array().unwrap().iter().map(|item| item["Name"].as_str().unwrap().to_owned()),
            );
            match page["NextMarker"].as_str() {
                Some(marker) => input["Marker"] = json!(marker),
                None => return names.join(" "),
            }
        }
    };
    let of = |version: Value, size: u64| json!({"FunctionName": "f", "FunctionVersion": version, "MaxItems": size});
    assert_eq!(names(of(Value::Null, 3)).await, "a0 a1 a2 a3 a4 a5 a6 both");
    assert_eq!(names(of(json!("1"), 2)).await, "a0 a2 a4 a6 both");
    assert_eq!(names(of(json!("3"), 10)).await, "both");
    assert_eq!(names(of(json!("$LATEST"), 10)).await, "");
}

#[tokio::test]
async fn an_alias_has_a_url_and_a_policy_that_go_with_it() {
    let platform = with_versions().await;
    platform.ok("CreateAlias", alias("live", "2")).await;
    let input = json!({"FunctionName": "f", "Qualifier": "live", "AuthType": "NONE"});
    let made = platform.ok("CreateFunctionUrlConfig", input).await;
    assert_eq!(made["FunctionArn"], json!(format!("{ARN}:live")));
    let id = made["FunctionUrl"].as_str().unwrap().strip_prefix("http://").unwrap().split('.').next().unwrap();
    let key = SiteKey::FunctionUrl(id.to_owned());
    let Some(Site::FunctionUrl(site)) = platform.functions.site(&key).await else { panic!("no site") };
    assert_eq!(platform.functions.version(&site.function).await.unwrap().version, "2");
    let listed = platform.ok("ListFunctionUrlConfigs", json!({"FunctionName": "f"})).await;
    assert_eq!(listed["FunctionUrlConfigs"][0]["FunctionArn"], json!(format!("{ARN}:live")));

    let before = platform.ok("GetAlias", json!({"FunctionName": "f", "Name": "live"})).await;
    let permission = json!({
        "FunctionName": "f:live", "StatementId": "s", "Action": "lambda:InvokeFunction", "Principal": "*",
        "RevisionId": before["RevisionId"],
    });
    platform.ok("AddPermission", permission).await;
    let after = platform.ok("GetAlias", json!({"FunctionName": "f", "Name": "live"})).await;
    assert_ne!(after["RevisionId"], before["RevisionId"]);
    let policy = platform.ok("GetPolicy", json!({"FunctionName": "f", "Qualifier": "live"})).await;
    assert_eq!(policy["RevisionId"], after["RevisionId"]);
    assert!(policy["Policy"].as_str().unwrap().contains(&format!("{ARN}:live")));

    platform.ok("DeleteAlias", json!({"FunctionName": "f", "Name": "live"})).await;
    assert!(platform.functions.site(&key).await.is_none());
    platform.ok("CreateAlias", alias("live", "2")).await;
    assert_eq!(platform.fails("GetPolicy", json!({"FunctionName": "f:live"})).await.0, 404);
    assert_eq!(platform.fails("GetFunctionUrlConfig", json!({"FunctionName": "f:live"})).await.0, 404);
    let got = platform.fails("CreateFunctionUrlConfig", json!({"FunctionName": "f:none", "AuthType": "NONE"})).await;
    assert_eq!((got.0, got.2.as_str()), (404, "Function does not exist"));
}

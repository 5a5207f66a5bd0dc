//! Published versions: made once, never changed, kept with their code until they go.

use std::time::Duration;

use model::ports::Catalog;

use super::*;

const ARN: &str = "arn:aws:lambda:us-east-1:000000000000:function:f";

/// The version that a reference runs: its number, its time, its code.
async fn runs(platform: &Platform, name: &str) -> (String, u64, Vec<u8>) {
    let version = platform.functions.version(&reference(name)).await.unwrap();
    let package = platform.functions.package(&version.code).await.unwrap();
    (version.version.clone(), version.timeout_ms, package.to_vec())
}

#[tokio::test]
async fn a_version_keeps_code_and_configuration() {
    let platform = Platform::new();
    platform.create("f").await;
    platform.clock.advance(Duration::from_secs(1));
    let first = platform.ok("PublishVersion", json!({"FunctionName": "f", "Description": "the first"})).await;
    assert_eq!((&first["Version"], &first["FunctionArn"]), (&json!("1"), &json!(format!("{ARN}:1"))));
    assert_eq!((&first["Description"], &first["State"]), (&json!("the first"), &json!("Active")));
    assert_eq!(first["LastModified"], json!("2024-01-02T03:04:06.678+0000"));

    platform.ok("UpdateFunctionConfiguration", json!({"FunctionName": "f", "Timeout": 9})).await;
    let second = platform.publish("f", "two").await;
    assert_eq!((&second["Version"], &second["FunctionArn"]), (&json!("2"), &json!(format!("{ARN}:2"))));
    platform.ok("UpdateFunctionCode", json!({"FunctionName": "f", "ZipFile": code("three")})).await;

    let zipped = |content: &str| zip(&[("index.js", content.as_bytes())]);
    assert_eq!(runs(&platform, "f").await, ("$LATEST".into(), 9_000, zipped("three")));
    assert_eq!(runs(&platform, "f:$LATEST").await, ("$LATEST".into(), 9_000, zipped("three")));
    assert_eq!(runs(&platform, "f:1").await, ("1".into(), 3_000, zipped("one")));
    assert_eq!(runs(&platform, "f:2").await, ("2".into(), 9_000, zipped("two")));
    for (name, shown) in [("f:1", &first), (&*format!("{ARN}:2"), &second)] {
        assert_eq!(platform.ok("GetFunctionConfiguration", json!({"FunctionName": name})).await, *shown);
        assert_eq!(platform.ok("GetFunction", json!({"FunctionName": name})).await["Configuration"], *shown);
    }
    let unqualified = platform.ok("GetFunctionConfiguration", json!({"FunctionName": "f"})).await;
    assert_eq!((&unqualified["Version"], &unqualified["Description"]), (&json!("$LATEST"), &json!("")));
    // Tags and reservations are the function's, of all versions.
    platform.ok("PutFunctionConcurrency", json!({"FunctionName": "f", "ReservedConcurrentExecutions": 7})).await;
    let version = platform.functions.version(&reference("f:1")).await.unwrap();
    assert_eq!((version.reserved_concurrency, &version.function), (Some(7), &reference("f")));
}

#[tokio::test]
async fn nothing_new_is_published_when_nothing_has_changed() {
    let platform = Platform::new();
    let created = platform.ok("CreateFunction", with(creation("f"), "Publish", json!(true))).await;
    assert_eq!((&created["Version"], &created["FunctionArn"]), (&json!("1"), &json!(ARN)));
    let again = platform.ok("PublishVersion", json!({"FunctionName": "f", "Description": "another"})).await;
    assert_eq!((&again["Version"], &again["Description"]), (&json!("1"), &json!("")));
    assert_eq!(platform.publish("f", "one").await["Version"], json!("1"));
    platform.ok("UpdateFunctionConfiguration", json!({"FunctionName": "f", "Description": "new words"})).await;
    assert_eq!(platform.ok("PublishVersion", json!({"FunctionName": "f"})).await["Version"], json!("2"));
    // A number is not given again, even if its version is gone.
    platform.ok("DeleteFunction", json!({"FunctionName": "f", "Qualifier": "2"})).await;
    assert_eq!(platform.ok("PublishVersion", json!({"FunctionName": "f"})).await["Version"], json!("3"));
    assert_eq!(platform.ok("PublishVersion", json!({"FunctionName": "f"})).await["Version"], json!("3"));
}

#[tokio::test]
async fn publishing_can_be_bound_to_a_code_and_a_revision() {
    let platform = Platform::new();
    let made = platform.create("f").await;
    let (sha, revision) = (made["CodeSha256"].as_str().unwrap(), &made["RevisionId"]);
    let got = platform.fails("PublishVersion", json!({"FunctionName": "f", "CodeSha256": "x"})).await;
    assert_eq!(
        got,
        (
            400,
            "InvalidParameterValueException".into(),
            format!(
                "CodeSHA256 (x) is different from current CodeSHA256 in $LATEST ({sha}). Please try again with the CodeSHA256 in $LATEST."
            )
        )
    );
    let got = platform.fails("PublishVersion", json!({"FunctionName": "f", "RevisionId": "old"})).await;
    assert_eq!((got.0, got.1.as_str()), (412, "PreconditionFailedException"));
    assert!(got.2.contains("Call the GetFunction/GetAlias API"), "{got:?}");
    assert_eq!(platform.everything().await, (4, 1));
    let input = json!({"FunctionName": "f", "CodeSha256": sha, "RevisionId": revision});
    let version = platform.ok("PublishVersion", input).await;
    assert_ne!(version["RevisionId"], *revision, "a version has a revision of its own");
    let got = platform.fails("PublishVersion", json!({"FunctionName": "absent"})).await;
    assert_eq!((got.0, got.1.as_str()), (404, "ResourceNotFoundException"));
    let got = platform.fails("PublishVersion", json!({"FunctionName": "f", "PublishTo": "LATEST_PUBLISHED"})).await;
    assert_eq!(got.0, 501);
}

#[tokio::test]
async fn of_publications_at_once_each_has_its_number_or_shares_one() {
    let platform = Platform::new();
    platform.create("f").await;
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..24 {
        let service = platform.service.clone();
        tasks.spawn(async move {
            if number % 2 == 0 {
                let content = code(&number.to_string());
                let input = json!({"FunctionName": "f", "ZipFile": content, "Publish": true});
                let shown = service.call(call("UpdateFunctionCode", input)).await.unwrap().output;
                Some((shown["Version"].clone(), shown["CodeSha256"].clone()))
            } else {
                service.call(call("PublishVersion", json!({"FunctionName": "f"}))).await.unwrap();
                None
            }
        });
    }
    let published: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
    for (version, sha) in &published {
        let shown = platform.ok("GetFunctionConfiguration", json!({"FunctionName": "f", "Qualifier": version})).await;
        assert_eq!(shown["CodeSha256"], *sha, "{version} is what its caller was told");
    }
    let mut numbers: Vec<&str> = published.iter().map(|(version, _)| version.as_str().unwrap()).collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), 12, "different contents have different numbers");
}

#[tokio::test]
async fn code_stays_while_a_version_needs_it() {
    let platform = Platform::new();
    platform.create("f").await;
    platform.ok("PublishVersion", json!({"FunctionName": "f"})).await;
    platform.publish("f", "two").await;
    platform.publish("f", "three").await;
    let ages = async || {
        for _ in 0..2 {
            platform.clock.advance(Duration::from_secs(3_600));
            platform.functions.collect_garbage().await.unwrap();
        }
        platform.everything().await.1
    };
    assert_eq!(ages().await, 3);
    assert_eq!(runs(&platform, "f:1").await.2, zip(&[("index.js", b"one")]));
    let sizes = platform.ok("GetAccountSettings", json!({})).await["AccountUsage"]["TotalCodeSize"].as_u64().unwrap();
    assert_eq!(
        sizes,
        ["one", "two", "three"]
            .map(|content| zip(&[("index.js", content.as_bytes())]).len() as u64)
            .iter()
            .sum::<u64>()
    );
    platform.ok("DeleteFunction", json!({"FunctionName": "f:1"})).await;
    assert_eq!(ages().await, 2);
    // Version 3 and $LATEST share theirs.
    platform.ok("DeleteFunction", json!({"FunctionName": "f", "Qualifier": "3"})).await;
    assert_eq!(ages().await, 2);
    platform.ok("DeleteFunction", json!({"FunctionName": "f"})).await;
    assert_eq!(ages().await, 0);
    assert_eq!(platform.everything().await, (0, 0), "nothing is left of a function or its versions");
}

#[tokio::test]
async fn a_version_that_is_deleted_is_not_found_and_its_neighbours_are() {
    let platform = Platform::new();
    platform.create("f").await;
    platform.publish("f", "one").await;
    platform.publish("f", "two").await;
    assert_eq!(runs(&platform, "f:1").await.0, "1", "remembered");
    let reply = platform.call("DeleteFunction", json!({"FunctionName": "f", "Qualifier": "1"})).await.unwrap();
    assert_eq!(reply.status, Some(204));
    let reply = platform.call("DeleteFunction", json!({"FunctionName": "f", "Qualifier": "1"})).await.unwrap();
    assert_eq!(reply.status, Some(204), "what does not exist counts as deleted");
    for name in ["f:1", "f:3", "f:01", "f:live", "f:$LATEST.PUBLISHED"] {
        let gone = platform.functions.version(&reference(name)).await;
        assert!(matches!(gone, Err(InvokeError::NotFound(arn)) if arn == reference(name).arn()), "{name}");
        for operation in ["GetFunction", "GetFunctionConfiguration"] {
            let got = platform.fails(operation, json!({"FunctionName": reference(name).arn()})).await;
            assert_eq!(got.2, format!("Function not found: {}", reference(name).arn()));
        }
    }
    assert_eq!(runs(&platform, "f:2").await.0, "2");
    let got = platform.fails("DeleteFunction", json!({"FunctionName": "f:$LATEST.PUBLISHED"})).await;
    assert_eq!(got.0, 404);
    let got = platform.fails("DeleteFunction", json!({"FunctionName": "absent", "Qualifier": "1"})).await;
    assert_eq!(got.2, "Function not found: arn:aws:lambda:us-east-1:000000000000:function:absent");
}

/// Texts of a member of all pages of a list, `size` items a page.
async fn pages(
    platform: &Platform,
    operation: &'static str,
    list: &str,
    member: &str,
    mut input: Value,
) -> Vec<String> {
    let mut texts = Vec::new();
    loop {
        let page = platform.ok(operation, input.clone()).await;
        let items = page[list].as_array().unwrap();
        assert!(!items.is_empty() && items.len() as u64 <= input["MaxItems"].as_u64().unwrap());
        texts.extend(items.iter().map(|item| item[member].as_str().unwrap().to_owned()));
        match page["NextMarker"].as_str() {
            Some(marker) => input["Marker"] = json!(marker),
            None => return texts,
        }
    }
}

#[tokio::test]
async fn versions_are_listed_by_number_in_pages() {
    let platform = Platform::new();
    platform.create("f").await;
    platform.create("g").await;
    platform.publish("g", "other").await;
    for number in 1..=12 {
        platform.publish("f", &number.to_string()).await;
    }
    platform.ok("DeleteFunction", json!({"FunctionName": "f", "Qualifier": "7"})).await;
    let expected: Vec<String> =
        std::iter::once("$LATEST".to_owned()).chain((1..=12).filter(|n| *n != 7).map(|n| n.to_string())).collect();
    for size in [1, 2, 5, 11, 12, 50] {
        let input = json!({"FunctionName": "f", "MaxItems": size});
        let listed = pages(&platform, "ListVersionsByFunction", "Versions", "Version", input).await;
        assert_eq!(listed, expected, "{size}");
    }
    let page = platform.ok("ListVersionsByFunction", json!({"FunctionName": "f"})).await;
    assert_eq!(page["Versions"][0]["FunctionArn"], json!(format!("{ARN}:$LATEST")));
    assert_eq!(page["Versions"][11]["FunctionArn"], json!(format!("{ARN}:12")));
    assert!(page["Versions"].as_array().unwrap().iter().all(|version| version.get("State").is_none()));
    let got = platform.fails("ListVersionsByFunction", json!({"FunctionName": "f", "Marker": "x"})).await;
    assert_eq!(got.1, "InvalidParameterValueException");

    // All versions of all functions, in pages that may end within one.
    let expected: Vec<String> = expected
        .iter()
        .map(|version| format!("{ARN}:{version}"))
        .chain(["$LATEST", "1"].map(|version| reference(&format!("g:{version}")).arn()))
        .collect();
    for size in [1, 3, 11, 12, 13, 50] {
        let input = json!({"FunctionVersion": "ALL", "MaxItems": size});
        let listed = pages(&platform, "ListFunctions", "Functions", "FunctionArn", input).await;
        assert_eq!(listed, expected, "{size}");
    }
    let latest = pages(&platform, "ListFunctions", "Functions", "FunctionArn", json!({"MaxItems": 1})).await;
    assert_eq!(latest, [ARN.to_owned(), reference("g").arn()]);
}

#[tokio::test]
async fn a_version_has_a_policy_of_its_own() {
    let platform = Platform::new();
    platform.create("f").await;
    let version = platform.publish("f", "one").await;
    let latest = platform.ok("GetFunctionConfiguration", json!({"FunctionName": "f"})).await;
    let input = json!({
        "FunctionName": "f", "Qualifier": "1", "StatementId": "s", "Action": "lambda:InvokeFunction",
        "Principal": "events.amazonaws.com", "RevisionId": version["RevisionId"],
    });
    let added = platform.ok("AddPermission", input.clone()).await;
    let statement: Value = serde_json::from_str(added["Statement"].as_str().unwrap()).unwrap();
    assert_eq!(statement["Resource"], json!(format!("{ARN}:1")));
    assert_eq!(platform.fails("AddPermission", with(input.clone(), "StatementId", json!("t"))).await.0, 412);
    let policy = platform.ok("GetPolicy", json!({"FunctionName": "f:1"})).await;
    let after = platform.ok("GetFunctionConfiguration", json!({"FunctionName": "f:1"})).await;
    assert_ne!(version["RevisionId"], after["RevisionId"]);
    assert_eq!(policy["RevisionId"], after["RevisionId"]);
    assert_eq!(platform.fails("GetPolicy", json!({"FunctionName": "f"})).await.0, 404);
    assert_eq!(platform.ok("GetFunctionConfiguration", json!({"FunctionName": "f"})).await, latest);
    let absent = with(with(input.clone(), "Qualifier", json!("2")), "RevisionId", Value::Null);
    assert_eq!(platform.fails("AddPermission", absent).await.2, format!("Function not found: {ARN}:2"));
    let absent = with(with(input, "Qualifier", json!("live")), "RevisionId", Value::Null);
    assert_eq!(platform.fails("AddPermission", absent).await.2, format!("Cannot find alias arn: {ARN}:live"));
    let removal =
        json!({"FunctionName": "f", "Qualifier": "1", "StatementId": "s", "RevisionId": policy["RevisionId"]});
    platform.ok("RemovePermission", removal).await;
    assert_eq!(platform.fails("GetPolicy", json!({"FunctionName": "f:1"})).await.0, 404);
}

#[tokio::test]
async fn what_belongs_to_the_function_refuses_a_version() {
    let platform = Platform::new();
    platform.create("f").await;
    platform.publish("f", "one").await;
    for (operation, input) in [
        ("UpdateFunctionConfiguration", json!({"FunctionName": "f:1", "Timeout": 9})),
        ("UpdateFunctionCode", json!({"FunctionName": "f:1", "ZipFile": code("two")})),
        ("PublishVersion", json!({"FunctionName": "f:1"})),
        ("ListVersionsByFunction", json!({"FunctionName": "f:1"})),
        ("PutFunctionConcurrency", json!({"FunctionName": "f:1", "ReservedConcurrentExecutions": 1})),
        ("CreateAlias", json!({"FunctionName": "f:1", "Name": "a", "FunctionVersion": "1"})),
    ] {
        let got = platform.fails(operation, input).await;
        assert_eq!((got.0, got.1.as_str()), (400, "InvalidParameterValueException"), "{operation}");
    }
    assert_eq!(runs(&platform, "f:1").await.1, 3_000);
}

#[tokio::test]
async fn what_a_release_without_versions_kept_can_be_published() {
    let platform = Platform::new();
    platform.create("f").await;
    // As that release wrote it: no word of versions or aliases.
    let key = crate::lambda::keys::function(&reference("f"));
    let entry = platform.store.get(&key).await.unwrap().unwrap();
    let mut record: Value = serde_json::from_slice(&entry.value).unwrap();
    let members = record.as_object_mut().unwrap();
    members.retain(|member, _| {
        ["latest", "next_version", "tags", "reserved_concurrency", "policies", "urls"].contains(&member.as_str())
    });
    assert_eq!(members.len(), 6);
    platform.store.commit(store::Txn::new().put(key, record.to_string())).await.unwrap();
    platform.functions.forget();
    assert_eq!(runs(&platform, "f").await.0, "$LATEST");
    assert_eq!(platform.ok("PublishVersion", json!({"FunctionName": "f"})).await["Version"], json!("1"));
    assert_eq!(runs(&platform, "f:1").await.2, zip(&[("index.js", b"one")]));
}

#[tokio::test]
async fn published_versions_begin_from_snapshots_where_that_was_asked_for() {
    let platform = Platform::new();
    let snap_start = json!({"ApplyOn": "PublishedVersions"});
    let mut input = creation("f");
    (input["Runtime"], input["SnapStart"]) = (json!("python3.12"), snap_start.clone());
    let shown = platform.ok("CreateFunction", input).await;
    assert_eq!(shown["SnapStart"], json!({"ApplyOn": "PublishedVersions", "OptimizationStatus": "Off"}));
    platform.invoker.snapshots.lock().insert("1".into(), SnapshotState::Pending);
    let first = platform.ok("PublishVersion", json!({"FunctionName": "f"})).await;
    assert_eq!(first["SnapStart"], json!({"ApplyOn": "PublishedVersions", "OptimizationStatus": "On"}));
    assert_eq!((&first["State"], &first["StateReasonCode"]), (&json!("Pending"), &json!("Creating")));
    assert_eq!(*platform.invoker.prepared.lock(), ["f", "f:1"]);
    platform.ok("CreateAlias", json!({"FunctionName": "f", "Name": "live", "FunctionVersion": "1"})).await;
    let called = async |qualifier: &str, kind: &str| {
        let input = json!({"FunctionName": "f", "Qualifier": qualifier, "InvocationType": kind});
        platform.call("Invoke", input).await.map(drop)
    };
    for (qualifier, kind) in [("1", "RequestResponse"), ("live", "Event")] {
        let error = called(qualifier, kind).await.unwrap_err();
        assert_eq!((error.status, error.code.as_str()), (409, "ResourceConflictException"));
        assert!(error.message.ends_with("currently in the following state: Pending"), "{}", error.message);
    }
    called("$LATEST", "Event").await.unwrap();
    for (state, shown, optimised) in [
        (SnapshotState::Taken, "Active", "On"),
        (SnapshotState::PutAway, "Inactive", "On"),
        (SnapshotState::Impossible("its init left a thread running".into()), "Active", "Off"),
    ] {
        platform.invoker.snapshots.lock().insert("1".into(), state);
        let got =
            platform.ok("GetFunction", json!({"FunctionName": "f", "Qualifier": "1"})).await["Configuration"].clone();
        assert_eq!((&got["State"], &got["SnapStart"]["OptimizationStatus"]), (&json!(shown), &json!(optimised)));
        assert_eq!(got["StateReason"].is_string(), shown != "Active" || optimised == "Off");
        assert_eq!(got["StateReasonCode"].as_str(), (shown == "Inactive").then_some("Idle"));
        called("1", "Event").await.unwrap();
    }
    let begins = async |name: &str| platform.functions.version(&reference(name)).await.unwrap().snap_start;
    assert_eq!((begins("f").await, begins("f:1").await), (false, true));

    let none = json!({"FunctionName": "f", "SnapStart": {"ApplyOn": "None"}});
    platform.ok("UpdateFunctionConfiguration", none).await;
    let second = platform.ok("PublishVersion", json!({"FunctionName": "f"})).await;
    assert_eq!(second["SnapStart"], json!({"ApplyOn": "None", "OptimizationStatus": "Off"}));
    assert_eq!((begins("f:1").await, begins("f:2").await), (true, false));
    let old = json!({"FunctionName": "f", "SnapStart": snap_start, "Runtime": "python3.11"});
    let (_, code, message) = platform.fails("UpdateFunctionConfiguration", old).await;
    assert_eq!(code, "InvalidParameterValueException");
    assert_eq!(message, "python3.11 is not supported for SnapStart enabled functions.");
}

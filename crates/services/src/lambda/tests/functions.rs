//! Functions and their packages: created once, updated whole, removed without a trace.

use std::time::Duration;

use model::ports::Catalog;
use sha2::{Digest, Sha256};
use store::Txn;

use super::*;
use crate::lambda::{keys, packages};

const ARN: &str = "arn:aws:lambda:us-east-1:000000000000:function:f";

const FSAP: &str = "fsap-0123456789abcdef0";

#[tokio::test]
async fn a_created_function_shows_every_field() {
    let platform = Platform::new();
    let input = json!({
        "Environment": {"Variables": {"KEY": "value", "EMPTY": ""}},
        "Description": "d", "Timeout": 30, "MemorySize": 256, "EphemeralStorage": {"Size": 1024},
        "Tags": {"team": "a"}, "VpcConfig": {"SubnetIds": [], "SecurityGroupIds": []}, "Publish": false,
        "SnapStart": {"ApplyOn": "None"}, "Layers": [], "PackageType": "Zip", "Architectures": ["arm64"],
        "LoggingConfig": {"LogFormat": "Text", "LogGroup": "/own/group"}, "TracingConfig": {"Mode": "Active"},
    });
    let mut whole = creation("f");
    whole.as_object_mut().unwrap().extend(input.as_object().unwrap().clone());
    let shown = platform.ok("CreateFunction", whole).await;
    let package = zip(&[("index.js", b"one")]);
    for (member, value) in [
        ("FunctionName", json!("f")),
        ("FunctionArn", json!(ARN)),
        ("Runtime", json!("nodejs20.x")),
        ("CodeSize", json!(package.len())),
        ("CodeSha256", json!(base64(&Sha256::digest(&package)))),
        ("LastModified", json!("2024-01-02T03:04:05.678+0000")),
        ("Version", json!("$LATEST")),
        ("Timeout", json!(30)),
        ("MemorySize", json!(256)),
        ("EphemeralStorage", json!({"Size": 1024})),
        ("Environment", json!({"Variables": {"KEY": "value", "EMPTY": ""}})),
        ("State", json!("Active")),
        ("LastUpdateStatus", json!("Successful")),
        ("PackageType", json!("Zip")),
        ("Architectures", json!(["arm64"])),
        ("TracingConfig", json!({"Mode": "Active"})),
        ("SnapStart", json!({"ApplyOn": "None", "OptimizationStatus": "Off"})),
        ("LoggingConfig", json!({"LogFormat": "Text", "LogGroup": "/own/group"})),
    ] {
        assert_eq!(shown[member], value, "{member}");
    }
    let got = platform.ok("GetFunction", json!({"FunctionName": "f"})).await;
    assert_eq!(got["Configuration"], shown);
    assert_eq!(got["Tags"], json!({"team": "a"}));
    assert_eq!(got["Concurrency"], Value::Null);
    assert_eq!(platform.ok("GetFunctionConfiguration", json!({"FunctionName": ARN})).await, shown);
    let qualified = platform.ok("GetFunctionConfiguration", json!({"FunctionName": "f:$LATEST"})).await;
    assert_eq!(qualified["FunctionArn"], json!(format!("{ARN}:$LATEST")));

    let version = platform.functions.version(&reference("f")).await.unwrap();
    assert_eq!((version.timeout_ms, version.memory_mb, version.tmp_mb), (30_000, 256, 1024));
    assert_eq!((version.log_group.as_str(), version.environment["KEY"].as_str()), ("/own/group", "value"));
    assert_eq!(platform.functions.package(&version.code).await.unwrap(), package);
}

#[tokio::test]
async fn defaults_are_those_of_lambda() {
    let platform = Platform::new();
    let shown = platform.create("f").await;
    assert_eq!((&shown["Timeout"], &shown["MemorySize"]), (&json!(3), &json!(128)));
    assert_eq!((&shown["Description"], &shown["Environment"]), (&json!(""), &Value::Null));
    assert_eq!(shown["LoggingConfig"]["LogGroup"], json!("/aws/lambda/f"));
    assert_eq!((&shown["Architectures"], &shown["TracingConfig"]["Mode"]), (&json!(["x86_64"]), &json!("PassThrough")));
}

#[tokio::test]
async fn what_cannot_be_is_refused_and_leaves_nothing_behind() {
    let platform = Platform::new();
    let invalid = "InvalidParameterValueException";
    let bomb = zip(&[("bomb", &vec![0; 262_144_001])]);
    assert!(bomb.len() < 1_000_000);
    let cases = [
        ("Code", json!({"ZipFile": base64(&bomb)}), 400, invalid, "Unzipped size must be smaller than 262144000 bytes"),
        ("Code", json!({"ZipFile": base64(&zip(&[]))}), 400, invalid, "Uploaded file must be a non-empty zip"),
        ("Code", json!({"ZipFile": base64(&zip(&[("../x", b"x")]))}), 400, invalid, "outside the target folder"),
        ("Code", json!({"ZipFile": base64(&zip(&[("/etc/x", b"x")]))}), 400, invalid, "outside the target folder"),
        ("Code", json!({"ZipFile": base64(b"no zip")}), 400, invalid, "Could not unzip uploaded file."),
        ("Code", json!({"ZipFile": "%"}), 400, invalid, "base64"),
        ("Code", json!({}), 400, invalid, "Please provide a source for function code."),
        ("Code", json!({"S3Bucket": "bucket", "S3Key": "k"}), 501, "NotImplementedException", "S3Bucket"),
        ("Code", json!({"ImageUri": "x"}), 400, invalid, "Please do not provide ImageUri when packageType is Zip"),
        ("Runtime", json!("cobol"), 400, invalid, "Value cobol at 'runtime' failed to satisfy constraint"),
        (
            "Runtime",
            json!("dotnet8"),
            501,
            "NotImplementedException",
            "the runtime dotnet8 (.NET functions run as programs",
        ),
        ("Runtime", json!("python3.6"), 400, invalid, "no longer supported"),
        ("Handler", Value::Null, 400, invalid, "Runtime and Handler are mandatory"),
        ("Timeout", json!(901), 400, invalid, "'Timeout' value failed"),
        ("MemorySize", json!(10_241), 400, invalid, "less than or equal to 10240"),
        ("EphemeralStorage", json!({"Size": 10_241}), 400, invalid, "less than or equal to 10240"),
        ("Environment", json!({"Variables": {"AWS_REGION": "x"}}), 400, invalid, "reserved keys"),
        ("Layers", json!(["arn"]), 400, "ValidationException", "layers"),
        ("FunctionName", json!("f:live"), 400, "ValidationException", "functionName"),
        ("FunctionName", json!("x".repeat(65)), 400, "ValidationException", "less than or equal to 64"),
    ];
    for (member, value, status, code, message) in cases {
        refused(&platform, member, value, (status, code), message).await;
    }
}

/// A creation with this member is refused so, and leaves nothing behind.
async fn refused(platform: &Platform, member: &str, value: Value, how: (u16, &str), message: &str) {
    let got = platform.fails("CreateFunction", with(creation("f"), member, value)).await;
    assert_eq!((got.0, got.1.as_str()), how, "{member}: {got:?}");
    assert!(got.2.contains(message), "{member}: {got:?}");
    assert_eq!(platform.everything().await, (0, 0), "{member}");
}

#[tokio::test]
async fn what_is_not_here_is_refused_by_its_name() {
    let platform = Platform::new();
    let (invalid, absent) = ("InvalidParameterValueException", "NotImplementedException");
    let cases = [
        (
            "FileSystemConfigs",
            json!([{"Arn": format!("arn:aws:elasticfilesystem:us-east-1:000000000000:access-point/{FSAP}"), "LocalMountPath": "/mnt/x"}]),
            400,
            invalid,
            "is not there",
        ),
        (
            "FileSystemConfigs",
            json!([{"Arn": "arn:aws:s3files:us-east-1:000000000000:file-system/fs-0123456789abcdef0/access-point/fsap-0123456789abcdef0", "LocalMountPath": "/mnt/x"}]),
            501,
            absent,
            "file systems of S3",
        ),
        ("ImageConfig", json!({"Command": ["x"]}), 400, invalid, "ImageConfig is for functions with PackageType Image"),
        ("DurableConfig", json!({"ExecutionTimeout": 1}), 501, absent, "DurableConfig"),
        ("DurableConfig", json!({}), 501, absent, "DurableConfig"),
        (
            "DeadLetterConfig",
            json!({"TargetArn": "arn:aws:sqs:us-east-1:000000000000:q"}),
            400,
            invalid,
            "does not exist",
        ),
        ("VpcConfig", json!({"SubnetIds": ["subnet-1"]}), 400, invalid, "VpcConfig needs at least one"),
        (
            "DeadLetterConfig",
            json!({"TargetArn": "arn:aws:sns:us-east-1:000000000000:t"}),
            501,
            absent,
            "the service sns does not exist here yet",
        ),
        (
            "DeadLetterConfig",
            json!({"TargetArn": "arn:aws:lambda:us-east-1:000000000000:function:g"}),
            400,
            invalid,
            "neither an Amazon SQS queue nor an Amazon SNS topic",
        ),
        ("PackageType", json!("Image"), 400, invalid, "Runtime is not supported for functions with PackageType Image"),
        ("CapacityProviderConfig", json!({"x": {"y": "z"}}), 501, absent, "CapacityProviderConfig"),
        (
            "SnapStart",
            json!({"ApplyOn": "PublishedVersions"}),
            400,
            invalid,
            "nodejs20.x is not supported for SnapStart",
        ),
        ("KMSKeyArn", json!("arn:aws:kms:x"), 501, absent, "KMSKeyArn"),
        ("PublishTo", json!("LATEST_PUBLISHED"), 501, absent, "PublishTo"),
        ("SomethingOfTomorrow", json!({"x": 1}), 501, absent, "SomethingOfTomorrow"),
    ];
    for (member, value, status, code, message) in cases {
        refused(&platform, member, value, (status, code), message).await;
    }
}

#[tokio::test]
async fn packages_beyond_the_inline_limit_are_refused() {
    let platform = Platform::new();
    let large = json!({"ZipFile": base64(&vec![7; 52_428_801])});
    let got = platform.fails("CreateFunction", with(creation("f"), "Code", large)).await;
    assert_eq!((got.0, got.1.as_str()), (413, "RequestEntityTooLargeException"));
    assert_eq!(got.2, "Zipped size must be smaller than 52428800 bytes");
    assert_eq!(platform.everything().await, (0, 0));
}

#[tokio::test]
async fn of_concurrent_creations_exactly_one_wins() {
    let platform = Platform::new();
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..16 {
        let service = platform.service.clone();
        let input = with(creation("f"), "Code", json!({"ZipFile": code(&number.to_string())}));
        tasks.spawn(async move { service.call(call("CreateFunction", input)).await });
    }
    let results = tasks.join_all().await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    for error in results.into_iter().filter_map(Result::err) {
        assert_eq!((error.status, error.code.as_str()), (409, "ResourceConflictException"));
        assert_eq!(error.message, "Function already exist: f");
    }
    // The function, its package with mark and owner of its bytes, and no upload of those who lost.
    assert_eq!(platform.everything().await, (4, 1));
}

#[tokio::test]
async fn functions_with_one_package_share_its_bytes() {
    let platform = Platform::new();
    platform.create("a").await;
    platform.create("b").await;
    assert_eq!(platform.everything().await, (5, 1));
    platform.ok("DeleteFunction", json!({"FunctionName": "a"})).await;
    platform.clock.advance(Duration::from_secs(3_600));
    assert_eq!(platform.functions.collect_garbage().await.unwrap(), 0);
    let version = platform.functions.version(&reference("b")).await.unwrap();
    assert!(platform.functions.package(&version.code).await.is_ok());
    platform.ok("DeleteFunction", json!({"FunctionName": "b"})).await;
    assert!(platform.functions.package(&version.code).await.is_ok(), "still readable for those who are starting");
    assert_eq!(platform.functions.collect_garbage().await.unwrap(), 0);
    platform.clock.advance(Duration::from_secs(600));
    assert_eq!(platform.functions.collect_garbage().await.unwrap(), 0, "nobody finds it any more, but it is there");
    assert!(platform.functions.package(&version.code).await.is_err());
    platform.clock.advance(Duration::from_secs(3_600));
    assert_eq!(platform.functions.collect_garbage().await.unwrap(), 1);
    assert_eq!(platform.everything().await, (0, 0));
}

#[tokio::test]
async fn a_package_that_is_used_again_in_time_stays() {
    let platform = Platform::new();
    platform.create("a").await;
    platform.ok("DeleteFunction", json!({"FunctionName": "a"})).await;
    platform.clock.advance(Duration::from_secs(300));
    platform.create("a").await;
    platform.clock.advance(Duration::from_secs(3_600));
    assert_eq!(platform.functions.collect_garbage().await.unwrap(), 0);
    assert_eq!(platform.everything().await, (4, 1));
    let version = platform.functions.version(&reference("a")).await.unwrap();
    assert!(platform.functions.package(&version.code).await.is_ok());
}

#[tokio::test]
async fn an_upload_that_a_crash_cut_off_is_removed_later() {
    let platform = Platform::new();
    let package = packages::checked(&code("x")).await.unwrap();
    platform.functions.upload(&package).await.unwrap();
    assert_eq!(platform.everything().await, (1, 1));
    assert_eq!(platform.functions.collect_garbage().await.unwrap(), 0);
    platform.clock.advance(Duration::from_secs(3_600));
    assert_eq!(platform.functions.collect_garbage().await.unwrap(), 1);
    assert_eq!(platform.everything().await, (0, 0));
}

#[tokio::test]
async fn a_function_is_not_stored_with_an_upload_that_was_given_up() {
    let platform = Platform::new();
    let functions = &platform.functions;
    let package = packages::checked(&code("x")).await.unwrap();
    let upload = functions.upload(&package).await.unwrap();
    let snapshot = platform.store.snapshot().await.unwrap();
    let (users, brought) =
        (packages::Users::one(&package.digest, 1), [packages::Brought::package(&package, Some(&upload))]);
    let (claimed, _) = functions.claim(&*snapshot, &users, &brought, Txn::new()).await.unwrap().unwrap();
    platform.clock.advance(Duration::from_secs(3_600));
    assert_eq!(functions.collect_garbage().await.unwrap(), 1);
    assert!(!functions.committed(claimed).await.unwrap(), "its bytes are gone");
    let snapshot = platform.store.snapshot().await.unwrap();
    let again = functions.claim(&*snapshot, &users, &brought, Txn::new()).await.unwrap();
    assert!(again.is_none(), "it is to be uploaded anew");
}

#[tokio::test]
async fn an_upload_that_nothing_names_is_found_and_removed() {
    let platform = Platform::new();
    platform.create("a").await;
    let package = packages::checked(&code("x")).await.unwrap();
    platform.functions.upload(&package).await.unwrap();
    platform.functions.find_strays().await.unwrap();
    assert_eq!(platform.everything().await, (5, 2), "one is owned, the other has its mark");
    let stray = format!("lambda/code/{}-00", package.digest);
    for blob in [stray.as_str(), "lambda/code/unclear", "objects/of-others"] {
        platform.blobs.put(blob, bytes::Bytes::new()).await.unwrap();
    }
    for _ in 0..2 {
        platform.functions.find_strays().await.unwrap();
        assert_eq!(platform.everything().await, (7, 5), "the strays have marks now");
    }
    platform.clock.advance(Duration::from_secs(3_600));
    assert_eq!(platform.functions.collect_garbage().await.unwrap(), 3);
    assert_eq!(platform.blobs.list("").await.unwrap().len(), 2, "the package in use, and what is not ours");
    let version = platform.functions.version(&reference("a")).await.unwrap();
    assert!(platform.functions.package(&version.code).await.is_ok());
}

#[tokio::test]
async fn what_an_earlier_release_kept_is_owned_from_the_next_start_on() {
    let platform = Platform::new();
    platform.create("a").await;
    // It knew no owners, and listed its uploads for removal.
    let marks = Range::prefix(vec![model::prefixes::BLOBS.byte]);
    let without = platform.store.range(&marks).await.unwrap().entries;
    let listed = crate::lambda::keys::doomed(0, "lambda/code/upload");
    let txn = without.into_iter().fold(Txn::new(), |txn, entry| txn.delete(entry.key));
    let upload = json!({"package": null, "blob": "lambda/code/upload", "condemned": true}).to_string();
    platform.store.commit(txn.put(listed, upload)).await.unwrap();
    platform.blobs.put("lambda/code/upload", bytes::Bytes::new()).await.unwrap();
    platform.functions.find_strays().await.unwrap();
    for removed in [0, 1, 0] {
        assert_eq!(platform.functions.collect_garbage().await.unwrap(), removed);
        platform.clock.advance(Duration::from_secs(3_600));
    }
    assert_eq!(platform.everything().await, (4, 1));
    let version = platform.functions.version(&reference("a")).await.unwrap();
    assert!(platform.functions.package(&version.code).await.is_ok());
}

#[tokio::test]
async fn nothing_is_removed_while_a_backup_holds() {
    let platform = Platform::new();
    platform.create("a").await;
    platform.ok("DeleteFunction", json!({"FunctionName": "a"})).await;
    let package = packages::checked(&code("x")).await.unwrap();
    platform.functions.upload(&package).await.unwrap();
    let holds = store::references::Holds::new(model::prefixes::BLOBS.byte);
    platform.clock.advance(Duration::from_secs(7_200));
    holds.take(&*platform.store, "backup", platform.clock.now_ms() + 3_600_000).await.unwrap();
    assert_eq!(platform.functions.collect_garbage().await.unwrap(), 0);
    assert_eq!(platform.blobs.list("").await.unwrap().len(), 2);
    // A hold whose holder died ends by itself.
    platform.clock.advance(Duration::from_secs(3_600));
    assert_eq!(platform.functions.collect_garbage().await.unwrap(), 2);
    assert_eq!(platform.blobs.list("").await.unwrap().len(), 0);
}

#[tokio::test]
async fn an_update_is_what_the_next_look_up_sees() {
    let platform = Platform::new();
    let before = platform.create("f").await;
    let first = platform.functions.version(&reference("f")).await.unwrap();
    let shown = platform.ok("UpdateFunctionCode", json!({"FunctionName": "f", "ZipFile": code("two")})).await;
    let second = platform.functions.version(&reference("f")).await.unwrap();
    assert_ne!(first.code, second.code);
    assert_ne!(first.revision, second.revision);
    assert_ne!(before["RevisionId"], shown["RevisionId"]);
    assert_ne!(before["CodeSha256"], shown["CodeSha256"]);

    let changes = json!({"FunctionName": "f", "Timeout": 9, "Environment": {"Variables": {"AB": "c"}}});
    let shown = platform.ok("UpdateFunctionConfiguration", changes).await;
    assert_eq!(
        (&shown["Timeout"], &shown["MemorySize"], &shown["Handler"]),
        (&json!(9), &json!(128), &json!("index.handler"))
    );
    let third = platform.functions.version(&reference("f")).await.unwrap();
    assert_eq!((third.timeout_ms, third.code.clone()), (9_000, second.code.clone()));
    assert_ne!(second.revision, third.revision);
    let cleared = json!({"FunctionName": "f", "Environment": {"Variables": {}}});
    assert_eq!(platform.ok("UpdateFunctionConfiguration", cleared).await["Environment"], Value::Null);
    platform.fails("UpdateFunctionCode", json!({"FunctionName": "g", "ZipFile": code("two")})).await;
    assert_eq!(*platform.invoker.prepared.lock(), ["f"; 4], "a creation and three changes");
}

#[tokio::test]
async fn a_revision_must_be_the_current_one_and_a_dry_run_changes_nothing() {
    let platform = Platform::new();
    let shown = platform.create("f").await;
    for (operation, input) in [
        ("UpdateFunctionCode", json!({"FunctionName": "f", "RevisionId": "old", "ZipFile": code("two")})),
        ("UpdateFunctionConfiguration", json!({"FunctionName": "f", "RevisionId": "old", "Timeout": 5})),
    ] {
        let got = platform.fails(operation, input).await;
        assert_eq!((got.0, got.1.as_str()), (412, "PreconditionFailedException"));
        assert!(got.2.starts_with("The Revision Id provided does not match the latest Revision Id."), "{got:?}");
    }
    let dry = json!({"FunctionName": "f", "DryRun": true, "ZipFile": code("two"), "RevisionId": shown["RevisionId"]});
    let would = platform.ok("UpdateFunctionCode", dry.clone()).await;
    assert_ne!(would["CodeSha256"], shown["CodeSha256"]);
    assert_eq!(platform.ok("GetFunctionConfiguration", json!({"FunctionName": "f"})).await, shown);
    assert_eq!(platform.everything().await, (4, 1));
    let real = with(dry, "DryRun", json!(false));
    platform.ok("UpdateFunctionCode", real).await;
    let refused = json!({"FunctionName": "f", "ZipFile": base64(&zip(&[("../x", b"")]))});
    assert_eq!(platform.fails("UpdateFunctionCode", refused).await.1, "InvalidParameterValueException");
}

#[tokio::test]
async fn deleting_takes_everything_with_it() {
    let platform = Platform::new();
    platform.create("f").await;
    platform.ok("CreateFunctionUrlConfig", json!({"FunctionName": "f", "AuthType": "NONE"})).await;
    for (qualifier, message) in [("$LATEST", "$LATEST version cannot be deleted"), ("live", "Deletion of aliases")] {
        let got = platform.fails("DeleteFunction", json!({"FunctionName": "f", "Qualifier": qualifier})).await;
        assert!(got.2.starts_with(message), "{got:?}");
    }
    platform.ok("DeleteFunction", json!({"FunctionName": "f", "Qualifier": "7"})).await;
    platform.functions.version(&reference("f")).await.unwrap();
    let reply = platform.call("DeleteFunction", json!({"FunctionName": "f"})).await.unwrap();
    assert_eq!(reply.status, Some(204));
    assert!(matches!(platform.functions.version(&reference("f")).await, Err(InvokeError::NotFound(arn)) if arn == ARN));
    for operation in ["GetFunction", "GetFunctionConfiguration", "DeleteFunction", "GetFunctionConcurrency"] {
        let got = platform.fails(operation, json!({"FunctionName": "f"})).await;
        assert_eq!(
            (got.0, got.1.as_str(), got.2),
            (404, "ResourceNotFoundException", format!("Function not found: {ARN}"))
        );
    }
    for _ in 0..2 {
        platform.clock.advance(Duration::from_secs(3_600));
        platform.functions.collect_garbage().await.unwrap();
    }
    assert_eq!(platform.everything().await, (0, 0));
}

#[tokio::test]
async fn lists_come_in_pages() {
    let platform = Platform::new();
    for number in 0..55 {
        platform.create(&format!("f{number:02}")).await;
    }
    let mut names = Vec::new();
    let mut input = json!({"MaxItems": 20});
    loop {
        let page = platform.ok("ListFunctions", input.clone()).await;
        let items = page["Functions"].as_array().unwrap();
        assert!(items.len() <= 20);
        assert!(items.iter().all(|item| item.get("State").is_none()));
        names.extend(items.iter().map(|item| item["FunctionName"].as_str().unwrap().to_owned()));
        match page["NextMarker"].as_str() {
            Some(marker) => input["Marker"] = json!(marker),
            None => break,
        }
    }
    assert_eq!(names, (0..55).map(|number| format!("f{number:02}")).collect::<Vec<_>>());
    assert_eq!(
        platform.ok("ListFunctions", json!({"MaxItems": 10_000})).await["Functions"].as_array().unwrap().len(),
        50
    );
    let mut elsewhere = call("ListFunctions", json!({}));
    elsewhere.region = Region::parse("eu-west-1").unwrap();
    assert_eq!(platform.service.call(elsewhere).await.unwrap().output["Functions"], json!([]));
}

#[tokio::test]
async fn a_package_link_works_for_ten_minutes_and_only_as_it_was_given() {
    let platform = Platform::new();
    platform.create("f").await;
    let got = platform.ok("GetFunction", json!({"FunctionName": "f"})).await;
    let link = got["Code"]["Location"].as_str().unwrap();
    let rest = link.strip_prefix("http://localhost:4566/_dunlin/code/").unwrap();
    let (path, query) = rest.split_once('?').unwrap();
    let fetch = |query: String| platform.functions.package_by_link(path, query.leak());
    assert_eq!(fetch(query.into()).await.unwrap().unwrap(), zip(&[("index.js", b"one")]));
    for wrong in ["", "X-Amz-Expires=99999999999", "X-Amz-Signature=00"] {
        assert_eq!(fetch(wrong.into()).await.unwrap(), None, "{wrong}");
    }
    let later = query.replace("X-Amz-Expires=1", "X-Amz-Expires=2");
    assert_ne!(later, query);
    assert_eq!(fetch(later).await.unwrap(), None);
    platform.clock.advance(Duration::from_secs(600));
    assert_eq!(fetch(query.into()).await.unwrap(), None);
}

#[tokio::test]
async fn writes_of_other_nodes_are_seen_through_the_watch() {
    let platform = Platform::new();
    let other = Functions::new(
        platform.store.clone(),
        platform.blobs.clone(),
        platform.clock.clone(),
        SeededRandom::new(2),
        Config::default(),
    );
    let task = tokio::spawn(other.clone().run());
    platform.create("f").await;
    assert_eq!(other.version(&reference("f")).await.unwrap().timeout_ms, 3_000);
    platform.ok("UpdateFunctionConfiguration", json!({"FunctionName": "f", "Timeout": 9})).await;
    tokio::time::timeout(Duration::from_secs(10), async {
        while other.version(&reference("f")).await.unwrap().timeout_ms != 9_000 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    task.abort();
}

#[tokio::test]
async fn answers_tell_the_version_of_a_managed_runtime_and_lists_do_not() {
    let platform = Platform::new();
    let shown = json!({"RuntimeVersionArn": "arn:aws:lambda:us-east-1::runtime:nodejs20.x"});
    assert_eq!(platform.create("f").await["RuntimeVersionConfig"], shown);
    let named = json!({"FunctionName": "f"});
    assert_eq!(platform.ok("GetFunction", named.clone()).await["Configuration"]["RuntimeVersionConfig"], shown);
    assert_eq!(platform.ok("GetFunctionConfiguration", named.clone()).await["RuntimeVersionConfig"], shown);
    assert_eq!(platform.ok("PublishVersion", named.clone()).await["RuntimeVersionConfig"], shown);
    assert_eq!(platform.publish("f", "two").await["RuntimeVersionConfig"], shown);
    for (list, input) in [("ListFunctions", json!({})), ("ListVersionsByFunction", named.clone())] {
        let listed = platform.ok(list, input).await.to_string();
        assert!(listed.contains("nodejs20.x") && !listed.contains("RuntimeVersionConfig"), "{listed}");
    }
    let updated = json!({"FunctionName": "f", "Runtime": "python3.12"});
    let updated = platform.ok("UpdateFunctionConfiguration", updated).await;
    let error = json!({"ErrorCode": "RuntimeNotAvailable", "Message": "python3.12 is not here"});
    assert_eq!(updated["RuntimeVersionConfig"], json!({"Error": error}));
    let own = with(creation("own"), "Runtime", json!("provided.al2023"));
    assert_eq!(platform.ok("CreateFunction", own).await.get("RuntimeVersionConfig"), None);
}

#[tokio::test]
async fn an_account_keeps_no_more_code_than_it_may() {
    let bytes = zip(&[("index.js", b"one")]).len() as u64;
    let platform = Platform::with(crate::lambda::Config { code_bytes_max: 2 * bytes, ..Default::default() });
    let update = |name: &str, content: &str, publish: bool| json!({"FunctionName": name, "ZipFile": code(content), "Publish": publish});
    let layer = json!({"LayerName": "l", "Content": {"ZipFile": code("lay")}});
    let refused = (400, "CodeStorageExceededException".to_owned(), "Code storage limit exceeded.".to_owned());
    let limit = async || platform.ok("GetAccountSettings", json!({})).await;
    platform.create("f").await;
    platform.create("same").await;
    assert_eq!(limit().await["AccountUsage"]["TotalCodeSize"], json!(bytes), "one package, kept once");
    assert_eq!(limit().await["AccountLimit"]["TotalCodeSize"], json!(2 * bytes));
    platform.ok("PublishVersion", json!({"FunctionName": "f"})).await;
    platform.ok("UpdateFunctionCode", update("f", "two", true)).await;
    // The second half is taken: nothing more comes, in no way, and nothing stays of the try.
    let before = platform.everything().await;
    assert_eq!(platform.fails("UpdateFunctionCode", update("f", "six", false)).await, refused);
    let dry = with(update("f", "six", false), "DryRun", json!(true));
    assert_eq!(platform.fails("UpdateFunctionCode", dry).await, refused);
    let other = with(creation("other"), "Code", json!({"ZipFile": code("six")}));
    assert_eq!(platform.fails("CreateFunction", other.clone()).await, refused);
    assert_eq!(platform.fails("PublishLayerVersion", layer.clone()).await, refused);
    assert_eq!(platform.everything().await, before);
    // What is there already may be used again.
    platform.ok("UpdateFunctionCode", update("same", "two", false)).await;
    platform.ok("PublishLayerVersion", with(layer.clone(), "Content", json!({"ZipFile": code("one")}))).await;
    // What nobody has any more makes room.
    platform.ok("DeleteLayerVersion", json!({"LayerName": "l", "VersionNumber": 1})).await;
    platform.ok("DeleteFunction", json!({"FunctionName": "f:1"})).await;
    platform.ok("PublishLayerVersion", layer).await;
    assert_eq!(platform.fails("CreateFunction", other.clone()).await, refused);
    // Another region is another place.
    let elsewhere = Region::parse("eu-west-1").unwrap();
    platform.service.call(Call { region: elsewhere, ..call("CreateFunction", other) }).await.unwrap();
}

#[tokio::test]
async fn a_role_of_another_account_is_refused() {
    let platform = Platform::new();
    let role = "arn:aws:iam::123456789012:role/service-role/r";
    let refused = (403, "AccessDeniedException".to_owned(), "Cross-account pass role is not allowed.".to_owned());
    assert_eq!(platform.fails("CreateFunction", with(creation("f"), "Role", json!(role))).await, refused);
    assert_eq!(platform.everything().await, (0, 0));
    let made = platform.create("f").await;
    let update = json!({"FunctionName": "f", "Role": role, "Timeout": 9});
    assert_eq!(platform.fails("UpdateFunctionConfiguration", update).await, refused);
    let shown = platform.ok("GetFunctionConfiguration", json!({"FunctionName": "f"})).await;
    assert_eq!(shown, made);
}

#[tokio::test]
async fn a_role_of_another_account_that_an_earlier_release_took_leads_nowhere_else() {
    let platform = Platform::new();
    platform.create("f").await;
    let entry = platform.store.get(&keys::function(&reference("f"))).await.unwrap().unwrap();
    let old = String::from_utf8(entry.value.to_vec()).unwrap().replace("iam::000000000000", "iam::123456789012");
    platform.store.commit(Txn::new().put(entry.key, old.into_bytes())).await.unwrap();
    platform.functions.forget();
    let version = platform.functions.version(&reference("f")).await.unwrap();
    assert_eq!(version.role_arn, "arn:aws:iam::000000000000:role/r");
    // What is not about its role still works.
    platform.ok("UpdateFunctionConfiguration", json!({"FunctionName": "f", "Timeout": 9})).await;
}

#[tokio::test]
async fn a_log_in_json_has_levels_and_text_has_none() {
    let platform = Platform::new();
    let shown = async |operation: &'static str, logging: Value| {
        let input = with(creation("f"), "LoggingConfig", logging);
        let input = if operation == "CreateFunction" {
            input
        } else {
            json!({"FunctionName": "f", "LoggingConfig": input["LoggingConfig"]})
        };
        platform.ok(operation, input).await["LoggingConfig"].clone()
    };
    let group = "/aws/lambda/f";
    assert_eq!(
        shown("CreateFunction", json!({"LogFormat": "JSON"})).await,
        json!({"LogFormat": "JSON", "LogGroup": group, "ApplicationLogLevel": "INFO", "SystemLogLevel": "INFO"})
    );
    assert_eq!(
        shown("UpdateFunctionConfiguration", json!({"ApplicationLogLevel": "DEBUG", "SystemLogLevel": "WARN"})).await,
        json!({"LogFormat": "JSON", "LogGroup": group, "ApplicationLogLevel": "DEBUG", "SystemLogLevel": "WARN"})
    );
    let version = platform.functions.version(&reference("f")).await.unwrap();
    let log = version.json_log.unwrap();
    assert_eq!((log.application, log.system), (model::ApplicationLevel::Debug, model::SystemLevel::Warn));
    let group = "shared";
    assert_eq!(
        shown("UpdateFunctionConfiguration", json!({"LogGroup": group})).await,
        json!({"LogFormat": "JSON", "LogGroup": group, "ApplicationLogLevel": "DEBUG", "SystemLogLevel": "WARN"})
    );
    assert_eq!(
        shown("UpdateFunctionConfiguration", json!({"LogFormat": "JSON", "SystemLogLevel": "DEBUG"})).await,
        json!({"LogFormat": "JSON", "LogGroup": group, "ApplicationLogLevel": "INFO", "SystemLogLevel": "DEBUG"})
    );
    let text = json!({"LogFormat": "Text", "LogGroup": group});
    assert_eq!(shown("UpdateFunctionConfiguration", json!({"LogFormat": "Text"})).await, text);
    assert_eq!(platform.functions.version(&reference("f")).await.unwrap().json_log, None);
    let level = json!({"FunctionName": "f", "LoggingConfig": {"SystemLogLevel": "WARN"}});
    let refused = platform.fails("UpdateFunctionConfiguration", level).await;
    assert_eq!((refused.0, refused.1.as_str()), (400, "InvalidParameterValueException"));
}

#[tokio::test]
async fn a_file_system_is_one_that_the_operator_named() {
    let point = model::AccessPoint { account: AccountId::default(), id: FSAP.into() };
    let platform = Platform::with(Config { access_points: vec![point], ..Config::default() });
    let arn = format!("arn:aws:elasticfilesystem:us-east-1:000000000000:access-point/{FSAP}");
    let configs = |arn: &str, path: &str| json!([{"Arn": arn, "LocalMountPath": path}]);
    let made =
        platform.ok("CreateFunction", with(creation("f"), "FileSystemConfigs", configs(&arn, "/mnt/data"))).await;
    assert_eq!(made["FileSystemConfigs"], configs(&arn, "/mnt/data"));
    let version = platform.functions.version(&reference("f")).await.unwrap();
    assert_eq!(version.file_system.as_ref().unwrap().name, "data");
    let kept = platform.ok("UpdateFunctionConfiguration", json!({"FunctionName": "f", "Timeout": 9})).await;
    assert_eq!(kept["FileSystemConfigs"], configs(&arn, "/mnt/data"));
    for (arn, path) in [
        (arn.as_str(), "/mnt/.."),
        (arn.as_str(), "/mnt/."),
        (&arn.replace("000000000000", "123456789012"), "/mnt/data"),
        (&arn.replace("abcdef0", "abcdef1"), "/mnt/data"),
    ] {
        let input = json!({"FunctionName": "f", "FileSystemConfigs": configs(arn, path)});
        let got = platform.fails("UpdateFunctionConfiguration", input).await;
        assert_eq!((got.0, got.1.as_str()), (400, "InvalidParameterValueException"), "{arn} {path}");
    }
    let none = platform.ok("UpdateFunctionConfiguration", json!({"FunctionName": "f", "FileSystemConfigs": []})).await;
    assert_eq!(none["FileSystemConfigs"], Value::Null);
    assert_eq!(platform.functions.version(&reference("f")).await.unwrap().file_system, None);
}

//! Layers: versions with numbers, policies, lists, and what functions have of them.

use std::time::Duration;

use model::ports::Catalog;
use model::{CodeDigest, FunctionVersion};
use sha2::{Digest, Sha256};

use super::*;

const LAYER: &str = "arn:aws:lambda:us-east-1:000000000000:layer:l";
const OTHER: &str = "123456789012";

fn layer_zip(content: &str) -> Vec<u8> {
    zip(&[("python/shared.py", content.as_bytes())])
}

fn digest(zip: &[u8]) -> CodeDigest {
    CodeDigest::parse(&hex::encode(Sha256::digest(zip))).unwrap()
}

impl Platform {
    /// Publishes a version of a layer, and tells its ARN.
    async fn layer(&self, name: &str, content: &str) -> String {
        let input = json!({"LayerName": name, "Content": {"ZipFile": base64(&layer_zip(content))}});
        self.ok("PublishLayerVersion", input).await["LayerVersionArn"].as_str().unwrap().to_owned()
    }

    async fn runs(&self, name: &str) -> Arc<FunctionVersion> {
        self.functions.version(&reference(name)).await.unwrap()
    }

    async fn of_account(&self, account: &str, operation: &'static str, input: Value) -> Result<Value, (u16, String)> {
        let mut call = call(operation, input);
        call.principal.account = AccountId::parse(account).unwrap();
        call.principal.arn = format!("arn:aws:iam::{account}:root");
        let done = self.service.call(call).await;
        done.map(|reply| reply.output).map_err(|error| (error.status, error.message))
    }

    /// Everything without users is gone.
    async fn collected(&self) {
        for _ in 0..3 {
            self.clock.advance(Duration::from_secs(2 * 60 * 60));
            self.functions.collect_garbage().await.unwrap();
        }
    }
}

fn names(list: &Value, of: &str, member: &str) -> Vec<String> {
    list[of].as_array().unwrap().iter().map(|item| item[member].to_string().replace('"', "")).collect()
}

#[tokio::test]
async fn a_published_version_shows_every_field_and_its_number_is_never_used_again() {
    let platform = Platform::new();
    let content = layer_zip("one");
    let input = json!({
        "LayerName": "l", "Description": "d", "Content": {"ZipFile": base64(&content)}, "LicenseInfo": "MIT",
        "CompatibleRuntimes": ["python3.12", "nodejs20.x"], "CompatibleArchitectures": ["arm64"],
    });
    let made = platform.ok("PublishLayerVersion", input.clone()).await;
    for (member, value) in [
        ("LayerArn", json!(LAYER)),
        ("LayerVersionArn", json!(format!("{LAYER}:1"))),
        ("Version", json!(1)),
        ("Description", json!("d")),
        ("CreatedDate", json!("2024-01-02T03:04:05.678+0000")),
        ("LicenseInfo", json!("MIT")),
        ("CompatibleRuntimes", json!(["python3.12", "nodejs20.x"])),
        ("CompatibleArchitectures", json!(["arm64"])),
    ] {
        assert_eq!(made[member], value, "{member}");
    }
    let shown = &made["Content"];
    assert_eq!(shown["CodeSize"], json!(content.len()));
    assert_eq!(shown["CodeSha256"], json!(base64(&Sha256::digest(&content))));
    let link = shown["Location"].as_str().unwrap().rsplit_once('/').unwrap().1.split_once('?').unwrap();
    assert_eq!(platform.functions.package_by_link(link.0, link.1).await.unwrap().unwrap(), content);

    let number = json!({"LayerName": LAYER, "VersionNumber": 1});
    let got = platform.ok("GetLayerVersion", number.clone()).await;
    assert_eq!(got, platform.ok("GetLayerVersionByArn", json!({"Arn": format!("{LAYER}:1")})).await);
    assert_eq!(got, made);
    assert_eq!(platform.ok("PublishLayerVersion", input.clone()).await["Version"], json!(2), "every call makes one");
    for number in [1, 2, 2] {
        platform.ok("DeleteLayerVersion", json!({"LayerName": "l", "VersionNumber": number})).await;
    }
    assert_eq!(platform.ok("ListLayers", json!({})).await["Layers"], json!([]));
    let got = platform.fails("GetLayerVersion", number).await;
    assert_eq!((got.0, got.2.as_str()), (404, "The resource you requested does not exist."));
    assert_eq!(platform.ok("PublishLayerVersion", input).await["Version"], json!(3));
    let got = platform.fails("GetLayerVersion", json!({"LayerName": "l", "VersionNumber": 0})).await;
    assert_eq!(got.2, "Layer Version Cannot be less than 1.");
}

#[tokio::test]
async fn what_cannot_be_a_layer_is_refused_and_leaves_nothing_behind() {
    let platform = Platform::new();
    for (member, value, status, message) in [
        ("Content", json!({"S3Bucket": "b", "S3Key": "k"}), 501, "S3Bucket"),
        ("Content", json!({"ZipFile": base64(b"no zip")}), 400, "Could not unzip uploaded file."),
        ("Content", json!({"ZipFile": base64(&zip(&[("../x", b"x")]))}), 400, "outside the target folder"),
        ("LayerName", json!("a b"), 400, "layerName"),
        ("LayerName", json!(format!("{LAYER}:1")), 400, "layerName"),
        ("LayerName", json!(LAYER.replace("us-east-1", "eu-west-1")), 404, "not reachable in this region"),
        ("LayerName", json!(LAYER.replace("000000000000", OTHER)), 403, "is not authorized to perform"),
    ] {
        let input = json!({"LayerName": "l", "Content": {"ZipFile": base64(&layer_zip("x"))}});
        let got = platform.fails("PublishLayerVersion", with(input, member, value)).await;
        assert_eq!(got.0, status, "{member}: {got:?}");
        assert!(got.2.contains(message), "{member}: {got:?}");
        assert_eq!(platform.everything().await, (0, 0), "{member}");
    }
}

#[tokio::test]
async fn publications_at_once_get_numbers_of_their_own() {
    let platform = Arc::new(Platform::new());
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..8 {
        let platform = platform.clone();
        tasks.spawn(async move { platform.layer("l", &(number % 3).to_string()).await });
    }
    let mut made = tasks.join_all().await;
    made.sort();
    let wanted: Vec<String> = (1..=8).map(|number| format!("{LAYER}:{number}")).collect();
    assert_eq!(made, wanted);
    for number in 1..=8 {
        platform.ok("DeleteLayerVersion", json!({"LayerName": "l", "VersionNumber": number})).await;
    }
    platform.collected().await;
    assert_eq!(platform.blobs.list("").await.unwrap().len(), 0);
}

#[tokio::test]
async fn lists_have_pages_and_filters() {
    let platform = Platform::new();
    for (name, runtime, architecture) in [
        ("a", "python3.12", "arm64"),
        ("a", "nodejs20.x", "x86_64"),
        ("b", "python3.12", "x86_64"),
        ("c", "nodejs20.x", "arm64"),
    ] {
        let input = json!({
            "LayerName": name, "Content": {"ZipFile": base64(&layer_zip(name))},
            "CompatibleRuntimes": [runtime], "CompatibleArchitectures": [architecture],
        });
        platform.ok("PublishLayerVersion", input).await;
    }
    let list = platform.ok("ListLayers", json!({"MaxItems": 2})).await;
    assert_eq!(names(&list, "Layers", "LayerName"), ["a", "b"]);
    assert_eq!(list["Layers"][0]["LatestMatchingVersion"]["Version"], json!(2));
    let marker = list["NextMarker"].clone();
    let list = platform.ok("ListLayers", json!({"MaxItems": 2, "Marker": marker})).await;
    assert_eq!((names(&list, "Layers", "LayerName"), &list["NextMarker"]), (vec!["c".into()], &Value::Null));
    let list = platform.ok("ListLayers", json!({"CompatibleRuntime": "python3.12"})).await;
    assert_eq!(names(&list, "Layers", "LayerName"), ["a", "b"]);
    assert_eq!(list["Layers"][0]["LatestMatchingVersion"]["Version"], json!(1), "the newest that fits");
    let both = json!({"CompatibleRuntime": "python3.12", "CompatibleArchitecture": "x86_64"});
    assert_eq!(names(&platform.ok("ListLayers", both).await, "Layers", "LayerName"), ["b"]);

    for _ in 0..60 {
        platform.layer("many", "x").await;
    }
    let first = platform.ok("ListLayerVersions", json!({"LayerName": "many"})).await;
    assert_eq!(names(&first, "LayerVersions", "Version").len(), 50);
    assert_eq!(first["LayerVersions"][0]["Version"], json!(60), "the newest first");
    let rest = platform.ok("ListLayerVersions", json!({"LayerName": "many", "Marker": first["NextMarker"]})).await;
    assert_eq!(names(&rest, "LayerVersions", "Version").len(), 10);
    assert_eq!((&rest["LayerVersions"][9]["Version"], &rest["NextMarker"]), (&json!(1), &Value::Null));
    let none = platform.ok("ListLayerVersions", json!({"LayerName": "a", "CompatibleRuntime": "ruby3.3"})).await;
    assert_eq!(none["LayerVersions"], json!([]));
    for marker in [json!("x"), marker, json!("10")] {
        let got = platform.fails("ListLayerVersions", json!({"LayerName": "a", "Marker": marker})).await;
        let words = format!("The Marker {} is not one that this list answered.", marker.as_str().unwrap());
        assert_eq!((got.0, got.1.as_str(), got.2), (400, "InvalidParameterValueException", words));
    }
    let all = platform.ok("ListLayers", json!({"Marker": ""})).await;
    assert_eq!(names(&all, "Layers", "LayerName").len(), 4, "an empty marker is none");
}

#[tokio::test]
async fn layers_are_for_runtimes_that_there_are() {
    let platform = Platform::new();
    let input = |runtime: &str| json!({"LayerName": "a", "Content": {"ZipFile": base64(&layer_zip("a"))}, "CompatibleRuntimes": [runtime]});
    for (operation, input, begin) in [
        (
            "PublishLayerVersion",
            input("foo"),
            "Value '[foo]' at 'compatibleRuntimes' failed to satisfy constraint: Member must satisfy constraint: [Member must satisfy enum value set: [nodejs12.x, ",
        ),
        (
            "ListLayers",
            json!({"CompatibleRuntime": "foo"}),
            "Value 'foo' at 'compatibleRuntime' failed to satisfy constraint: Member must satisfy enum value set: [",
        ),
        (
            "ListLayerVersions",
            json!({"LayerName": "a", "CompatibleRuntime": "foo"}),
            "Value 'foo' at 'compatibleRuntime' ",
        ),
    ] {
        let got = platform.fails(operation, input).await;
        assert_eq!((got.0, got.1.as_str()), (400, "ValidationException"), "{operation}");
        assert!(got.2.contains(begin), "{}", got.2);
    }
    for runtime in ["python2.7", "dotnet8", "nodejs26.x", "java8"] {
        platform.ok("PublishLayerVersion", input(runtime)).await;
    }
}

#[tokio::test]
async fn functions_show_and_run_the_layers_that_they_list() {
    let platform = Platform::new();
    let (one, two) = (platform.layer("l", "one").await, platform.layer("m", "two").await);
    let made = platform.ok("CreateFunction", with(creation("f"), "Layers", json!([two, one]))).await;
    let size = layer_zip("one").len();
    assert_eq!(made["Layers"], json!([{"Arn": two, "CodeSize": size}, {"Arn": one, "CodeSize": size}]));
    let got = platform.ok("GetFunction", json!({"FunctionName": "f"})).await;
    assert_eq!(got["Configuration"]["Layers"], made["Layers"]);
    let before = platform.runs("f").await;
    assert_eq!(before.layers, [digest(&layer_zip("two")), digest(&layer_zip("one"))], "in the order given");
    assert_eq!(platform.functions.package(&before.layers[0]).await.unwrap(), layer_zip("two"));

    platform.ok("PublishVersion", json!({"FunctionName": "f"})).await;
    let updated = platform.ok("UpdateFunctionConfiguration", json!({"FunctionName": "f", "Layers": [one]})).await;
    assert_eq!(updated["Layers"], json!([{"Arn": one, "CodeSize": size}]));
    let after = platform.runs("f").await;
    assert_eq!(after.layers, [digest(&layer_zip("one"))]);
    assert_ne!(after.revision, before.revision, "environments with other layers are stale");
    platform.ok("UpdateFunctionConfiguration", json!({"FunctionName": "f", "Timeout": 9})).await;
    assert_eq!(platform.runs("f").await.layers, after.layers, "what is not said stays");
    platform.publish("f", "two").await;
    assert_eq!(platform.runs("f:2").await.layers, after.layers);
    let emptied = platform.ok("UpdateFunctionConfiguration", json!({"FunctionName": "f", "Layers": []})).await;
    assert_eq!((&emptied["Layers"], platform.runs("f").await.layers.len()), (&Value::Null, 0));
    assert_eq!(platform.runs("f:1").await.layers, before.layers, "a published version keeps its own");
    let shown = platform.ok("GetFunctionConfiguration", json!({"FunctionName": "f:1"})).await;
    assert_eq!(shown["Layers"], made["Layers"]);
}

#[tokio::test]
async fn layers_that_functions_cannot_have_are_refused() {
    let platform = Platform::new();
    let one = platform.layer("l", "one").await;
    platform.layer("l", "two").await;
    platform.create("there").await;
    let before = platform.everything().await;
    let many: Vec<String> = (0..6).map(|number| format!("{LAYER}{number}:1")).collect();
    for (layers, status, message) in [
        (json!([format!("{LAYER}:9")]), 400, format!("Layer version {LAYER}:9 does not exist.")),
        (
            json!([one, format!("{LAYER}:2")]),
            400,
            format!(
                "Two different versions of the same layer are not allowed to be referenced in the same function. {LAYER}:1 and {LAYER}:2 are versions of the same layer."
            ),
        ),
        (json!([one, one]), 400, "are versions of the same layer.".into()),
        (json!(many), 400, "Cannot reference more than 5 layers.".into()),
        (json!([LAYER]), 400, "Member must satisfy".into()),
        (json!([one.replace("us-east-1", "eu-west-1")]), 400, "expected to be in region us-east-1.".into()),
        (json!([one.replace("000000000000", OTHER)]), 403, "lambda:GetLayerVersion on resource".into()),
        (json!(["arn:aws:lambda:::awslayer:X"]), 501, "layers that AWS provides".into()),
    ] {
        let created = platform.fails("CreateFunction", with(creation("f"), "Layers", layers.clone())).await;
        let updated =
            platform.fails("UpdateFunctionConfiguration", json!({"FunctionName": "there", "Layers": layers})).await;
        for got in [created, updated] {
            assert_eq!(got.0, status, "{got:?}");
            assert!(got.2.contains(&message), "{got:?}");
        }
        assert_eq!(platform.everything().await, before, "{message}");
    }
}

#[tokio::test]
async fn a_function_and_its_layers_have_one_limit_together() {
    let platform = Platform::new();
    let half = |name: &str| base64(&zip(&[(name, &vec![0; 131_072_001])]));
    let input = json!({"LayerName": "l", "Content": {"ZipFile": half("a")}});
    let arn = platform.ok("PublishLayerVersion", input).await["LayerVersionArn"].clone();
    let message = "Function code combined with layers exceeds the maximum allowed size of 262144000 bytes. The actual size is 262144002 bytes.";
    let large = with(creation("f"), "Code", json!({"ZipFile": half("index.js")}));
    assert_eq!(platform.fails("CreateFunction", with(large.clone(), "Layers", json!([arn]))).await.2, message);
    platform.ok("CreateFunction", large).await;
    let got = platform.fails("UpdateFunctionConfiguration", json!({"FunctionName": "f", "Layers": [arn]})).await;
    assert_eq!((got.1.as_str(), got.2.as_str()), ("InvalidParameterValueException", message));
    platform.ok("CreateFunction", with(creation("g"), "Layers", json!([arn]))).await;
    for dry in [true, false] {
        let input = json!({"FunctionName": "g", "ZipFile": half("index.js"), "DryRun": dry});
        assert_eq!(platform.fails("UpdateFunctionCode", input).await.2, message);
    }
    let account = platform.ok("GetAccountSettings", json!({})).await;
    let zips = [zip(&[("a", &vec![0; 131_072_001])]), zip(&[("index.js", &vec![0; 131_072_001])])];
    let bytes: usize = zips.iter().map(Vec::len).sum::<usize>() + zip(&[("index.js", b"one")]).len();
    assert_eq!(account["AccountUsage"]["TotalCodeSize"], json!(bytes), "layers count");
}

#[tokio::test]
async fn the_size_of_a_package_of_an_earlier_release_is_found_out() {
    let platform = Platform::new();
    platform.create("f").await;
    let key = super::super::keys::package(&digest(&zip(&[("index.js", b"one")])));
    let kept = platform.store.get(&key).await.unwrap().unwrap();
    let mut record: Value = serde_json::from_slice(&kept.value).unwrap();
    record.as_object_mut().unwrap().remove("unpacked_bytes").unwrap();
    platform.store.commit(store::Txn::new().put(key.clone(), record.to_string().into_bytes())).await.unwrap();
    let arn = platform.layer("l", "one").await;
    platform.ok("UpdateFunctionConfiguration", json!({"FunctionName": "f", "Layers": [arn]})).await;
    let kept = platform.store.get(&key).await.unwrap().unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&kept.value).unwrap()["unpacked_bytes"], json!(3));
}

#[tokio::test]
async fn deleted_layers_stay_for_those_who_use_them_and_no_longer() {
    let platform = Platform::new();
    let (one, two) = (platform.layer("l", "one").await, platform.layer("m", "two").await);
    platform.ok("CreateFunction", with(with(creation("f"), "Layers", json!([one, two])), "Publish", json!(true))).await;
    for name in ["l", "m"] {
        platform.ok("DeleteLayerVersion", json!({"LayerName": name, "VersionNumber": 1})).await;
    }
    platform.collected().await;
    let layers = platform.runs("f").await.layers.clone();
    assert_eq!(layers.len(), 2);
    for (code, content) in layers.iter().zip(["one", "two"]) {
        assert_eq!(platform.functions.package(code).await.unwrap(), layer_zip(content));
    }
    platform.publish("f", "other").await;
    let got = platform.fails("UpdateFunctionConfiguration", json!({"FunctionName": "f", "Layers": [one]})).await;
    assert_eq!(got.2, format!("Layer version {one} does not exist."), "it is gone for whoever comes now");
    platform.ok("UpdateFunctionConfiguration", json!({"FunctionName": "f", "Layers": []})).await;
    platform.ok("DeleteFunction", json!({"FunctionName": "f", "Qualifier": "2"})).await;
    platform.collected().await;
    assert!(platform.functions.package(&layers[0]).await.is_ok(), "version 1 has it");
    platform.ok("DeleteFunction", json!({"FunctionName": "f"})).await;
    platform.collected().await;
    assert_eq!(platform.blobs.list("").await.unwrap().len(), 0, "nobody has it");
}

#[tokio::test]
async fn layers_with_one_content_are_counted_and_merged_as_one() {
    let platform = Platform::new();
    let (one, two, copy) =
        (platform.layer("a", "one").await, platform.layer("b", "two").await, platform.layer("c", "one").await);
    let code = json!({"ZipFile": base64(&layer_zip("one"))});
    let input = with(with(creation("f"), "Layers", json!([one, two, copy])), "Code", code);
    platform.ok("CreateFunction", input).await;
    let version = platform.runs("f").await;
    assert_eq!(version.layers, [digest(&layer_zip("two")), digest(&layer_zip("one"))], "the later one decides");
    assert_eq!(version.code, version.layers[1]);
    for name in ["a", "b", "c"] {
        platform.ok("DeleteLayerVersion", json!({"LayerName": name, "VersionNumber": 1})).await;
    }
    platform.publish("f", "other").await;
    platform.collected().await;
    assert!(platform.functions.package(&version.code).await.is_ok(), "as layers they are in use");
    platform.ok("DeleteFunction", json!({"FunctionName": "f"})).await;
    platform.collected().await;
    assert_eq!(platform.blobs.list("").await.unwrap().len(), 0);
}

#[tokio::test]
async fn a_policy_lets_other_accounts_have_a_layer_version() {
    let platform = Platform::new();
    let arn = platform.layer("l", "one").await;
    let version = json!({"LayerName": "l", "VersionNumber": 1});
    let got = platform.fails("GetLayerVersionPolicy", version.clone()).await;
    assert_eq!((got.0, got.2.as_str()), (404, "No policy is associated with the given resource."));
    let get = json!({"LayerName": LAYER, "VersionNumber": 1});
    let role = json!(format!("arn:aws:iam::{OTHER}:role/r"));
    let create = with(with(creation("f"), "Layers", json!([arn])), "Role", role);
    let refusal = format!(
        "User: arn:aws:iam::{OTHER}:root is not authorized to perform: lambda:GetLayerVersion on resource: {arn} because no resource-based policy allows the lambda:GetLayerVersion action"
    );
    for (operation, input) in [("GetLayerVersion", &get), ("CreateFunction", &create)] {
        assert_eq!(platform.of_account(OTHER, operation, input.clone()).await, Err((403, refusal.clone())));
    }
    let add = json!({
        "LayerName": "l", "VersionNumber": 1, "StatementId": "s", "Action": "lambda:GetLayerVersion", "Principal": OTHER,
    });
    let added = platform.ok("AddLayerVersionPermission", add.clone()).await;
    let statement: Value = serde_json::from_str(added["Statement"].as_str().unwrap()).unwrap();
    assert_eq!(
        statement,
        json!({
            "Sid": "s", "Effect": "Allow", "Principal": {"AWS": format!("arn:aws:iam::{OTHER}:root")},
            "Action": "lambda:GetLayerVersion", "Resource": arn,
        })
    );
    let policy = platform.ok("GetLayerVersionPolicy", version.clone()).await;
    let document: Value = serde_json::from_str(policy["Policy"].as_str().unwrap()).unwrap();
    assert_eq!((&document["Statement"], &policy["RevisionId"]), (&json!([statement]), &added["RevisionId"]));
    assert_eq!(platform.fails("AddLayerVersionPermission", add.clone()).await.0, 409);
    let stale = with(with(add.clone(), "StatementId", json!("x")), "RevisionId", json!("old"));
    let got = platform.fails("AddLayerVersionPermission", stale).await;
    assert_eq!((got.0, got.2.ends_with("Call the GetLayerPolicy API to retrieve the latest Revision Id")), (412, true));

    let got = platform.of_account(OTHER, "GetLayerVersion", get.clone()).await.unwrap();
    assert_eq!(got["LayerVersionArn"], json!(arn));
    let made = platform.of_account(OTHER, "CreateFunction", create).await.unwrap();
    assert_eq!(made["Layers"][0]["Arn"], json!(arn));
    let foreign = platform.of_account(OTHER, "DeleteLayerVersion", get.clone()).await.unwrap_err();
    assert_eq!(foreign.0, 403, "a policy lets others have it, not change it");

    let remove = with(version.clone(), "StatementId", json!("s"));
    let got = platform.fails("RemoveLayerVersionPermission", with(remove.clone(), "StatementId", json!("x"))).await;
    assert_eq!((got.0, got.2.as_str()), (404, "Statement x is not found in resource policy."));
    platform.ok("RemoveLayerVersionPermission", remove).await;
    assert_eq!(platform.of_account(OTHER, "GetLayerVersion", get).await, Err((403, refusal)));
    let organization = with(add.clone(), "OrganizationId", json!("o-aaaaaaaaaa"));
    assert_eq!(platform.fails("AddLayerVersionPermission", organization).await.0, 400);
    let absent = with(add, "VersionNumber", json!(7));
    let got = platform.fails("AddLayerVersionPermission", absent).await;
    assert_eq!((got.0, got.2), (404, format!("Layer version {LAYER}:7 does not exist.")));
}

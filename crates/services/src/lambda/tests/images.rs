//! Functions from container images: what a name means, what is pulled, kept, shared and refused.

use std::collections::BTreeMap;
use std::time::Duration;

use http::{HeaderMap, StatusCode, Uri};
use model::ports::Catalog;
use oci::Digest;
use oci::credentials::Credentials;
use oci::registry::{Answer, Pieces, Transport};

use super::*;
use crate::lambda::PushError;

const URI: &str = "123456789012.dkr.ecr.us-east-1.amazonaws.com/app:one";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Documents and blobs by the end of their address, and what was asked for.
#[derive(Default)]
struct Fake {
    there: Mutex<BTreeMap<String, Bytes>>,
    asked: Mutex<Vec<String>>,
}

struct Once(Option<Bytes>);

#[async_trait]
impl Pieces for Once {
    async fn next(&mut self) -> Result<Option<Bytes>, oci::registry::Error> {
        Ok(self.0.take())
    }
}

#[async_trait]
impl Transport for Fake {
    async fn get(&self, uri: &Uri, _: HeaderMap) -> Result<Answer, oci::registry::Error> {
        let path = uri.path().strip_prefix("/v2/app/").unwrap_or("elsewhere").to_owned();
        let found = self.there.lock().get(&path).cloned();
        self.asked.lock().push(path.clone());
        let status = match &found {
            _ if path.contains("secret") => StatusCode::FORBIDDEN,
            Some(_) => StatusCode::OK,
            None => StatusCode::NOT_FOUND,
        };
        Ok(Answer { status, headers: HeaderMap::new(), body: Box::new(Once(found)) })
    }
}

/// An image that can be put into a registry.
#[derive(Clone)]
struct Image {
    layers: Vec<Bytes>,
    config: Value,
}

fn layer(files: &[(&str, &str)]) -> Bytes {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(content.len() as u64);
        header.set_mode(0o755);
        header.set_cksum();
        builder.append(&header, content.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap().into()
}

fn image(layers: &[Bytes]) -> Image {
    let diff_ids: Vec<String> = layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let config = json!({
        "architecture": architecture, "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "config": {"Entrypoint": ["/start"], "Cmd": ["app.handler"], "Env": ["A=image"], "WorkingDir": "/work"},
    });
    Image { layers: layers.to_vec(), config }
}

impl Image {
    fn config_bytes(&self) -> Vec<u8> {
        self.config.to_string().into_bytes()
    }

    fn manifest(&self) -> String {
        let of = |kind: &str, bytes: &[u8]| json!({"mediaType": format!("application/vnd.oci.image.{kind}"), "digest": Digest::of(bytes).to_string(), "size": bytes.len()});
        let layers: Vec<Value> = self.layers.iter().map(|layer| of("layer.v1.tar", layer)).collect();
        let config = of("config.v1+json", &self.config_bytes());
        json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers}).to_string()
    }

    fn digest(&self) -> Digest {
        Digest::of(self.manifest().as_bytes())
    }
}

struct World {
    platform: Platform,
    registry: Arc<Fake>,
}

impl World {
    fn new() -> Self {
        let (platform, registry) = (Platform::new(), Arc::new(Fake::default()));
        platform.functions.pull_with(registry.clone(), Credentials::default());
        Self { platform, registry }
    }

    fn put(&self, tag: &str, image: &Image) {
        let mut there = self.registry.there.lock();
        for name in [tag.to_owned(), image.digest().to_string()] {
            there.insert(format!("manifests/{name}"), image.manifest().into());
        }
        for blob in image.layers.iter().cloned().chain([image.config_bytes().into()]) {
            there.insert(format!("blobs/{}", Digest::of(&blob)), blob);
        }
    }

    async fn create(&self, name: &str, uri: &str) -> Result<Value, (u16, String, String)> {
        let made = self.platform.call("CreateFunction", creation_of(name, uri)).await;
        made.map(|reply| reply.output).map_err(|error| (error.status, error.code, error.message))
    }

    fn layers_asked(&self) -> usize {
        let configs: Vec<String> = self
            .registry
            .there
            .lock()
            .iter()
            .filter(|(_, bytes)| bytes.starts_with(b"{"))
            .map(|(name, _)| name.clone())
            .collect();
        self.registry.asked.lock().iter().filter(|path| path.starts_with("blobs/") && !configs.contains(path)).count()
    }
}

fn creation_of(name: &str, uri: &str) -> Value {
    json!({
        "FunctionName": name, "Role": "arn:aws:iam::000000000000:role/r", "PackageType": "Image", "Code": {"ImageUri": uri},
    })
}

#[tokio::test]
async fn an_image_shows_what_aws_shows_and_runs_what_it_says() {
    let world = World::new();
    let one = image(&[layer(&[("start", "#!")]), layer(&[("work/x", "1")])]);
    world.put("one", &one);
    let mut input = creation_of("f", URI);
    input["ImageConfig"] = json!({"Command": ["other.handler", "x"], "EntryPoint": []});
    let shown = world.platform.ok("CreateFunction", input).await;
    for (member, value) in [
        ("PackageType", json!("Image")),
        ("CodeSize", json!(0)),
        ("CodeSha256", json!(one.digest().digits())),
        ("State", json!("Active")),
        ("LastUpdateStatus", json!("Successful")),
        ("Runtime", Value::Null),
        ("Handler", Value::Null),
        ("/ImageConfigResponse/ImageConfig/Command", json!(["other.handler", "x"])),
    ] {
        let found = if member.starts_with('/') { shown.pointer(member).unwrap() } else { &shown[member] };
        assert_eq!(*found, value, "{member}");
    }
    let got = world.platform.ok("GetFunction", json!({"FunctionName": "f"})).await;
    let resolved = format!("123456789012.dkr.ecr.us-east-1.amazonaws.com/app@{}", one.digest());
    assert_eq!(got["Code"], json!({"RepositoryType": "ECR", "ImageUri": URI, "ResolvedImageUri": resolved}));
    let version = world.platform.functions.version(&reference("f")).await.unwrap();
    let code = version.image.as_ref().unwrap();
    assert_eq!((code.line.join(" ").as_str(), code.folder.as_str()), ("/start other.handler x", "/work"));
    assert_eq!(code.environment, [("A".to_owned(), "image".to_owned())]);
    assert_eq!(version.handler, "other.handler", "the handler is what its runtime gets first");
    // Part by part, as the engine reads.
    let whole = &one.layers[1];
    let mut read = Vec::new();
    while read.len() < whole.len() {
        read.extend_from_slice(
            &world.platform.functions.package_part(&code.layers[1], read.len() as u64, 700).await.unwrap(),
        );
    }
    assert_eq!(read, *whole);
    assert!(world.platform.functions.package_part(&code.layers[1], read.len() as u64, 700).await.unwrap().is_empty());
    // An empty ImageConfig takes the overrides back.
    let update = json!({"FunctionName": "f", "ImageConfig": {}, "Timeout": 9});
    let updated = world.platform.ok("UpdateFunctionConfiguration", update).await;
    assert_eq!((&updated["ImageConfigResponse"], &updated["Timeout"]), (&Value::Null, &json!(9)));
    let version = world.platform.functions.version(&reference("f")).await.unwrap();
    assert_eq!(version.image.as_ref().unwrap().line, ["/start", "app.handler"]);
    assert_eq!(version.handler, "app.handler");
}

#[tokio::test]
async fn an_image_is_published_by_the_digest_that_is_shown() {
    let world = World::new();
    let one = image(&[layer(&[("start", "#!")])]);
    world.put("one", &one);
    let shown = world.create("f", URI).await.unwrap();
    let publishing = |sha: &Value| json!({"FunctionName": "f", "CodeSha256": sha});
    let base64 = json!(crate::lambda::view::code_sha256(shown["CodeSha256"].as_str().unwrap()));
    let got = world.platform.fails("PublishVersion", publishing(&base64)).await;
    assert_eq!((got.0, got.1.as_str()), (400, "InvalidParameterValueException"));
    assert!(got.2.contains(&format!("in $LATEST ({})", one.digest().digits())), "{got:?}");
    let published = world.platform.ok("PublishVersion", publishing(&shown["CodeSha256"])).await;
    assert_eq!((&published["Version"], &published["CodeSha256"]), (&json!("1"), &shown["CodeSha256"]));
}

#[tokio::test]
async fn layers_are_pulled_once_shared_and_gone_with_their_last_user() {
    let world = World::new();
    let base = layer(&[("base", "b")]);
    let (one, two) = (image(&[base.clone(), layer(&[("a", "1")])]), image(&[base.clone(), layer(&[("a", "2")]), base]));
    world.put("one", &one);
    world.put("two", &two);
    world.create("f", URI).await.unwrap();
    world.create("g", URI).await.unwrap();
    assert_eq!((world.layers_asked(), world.platform.blobs.list("").await.unwrap().len()), (2, 2));
    let update = json!({"FunctionName": "g", "ImageUri": URI.replace("one", "two"), "Publish": true});
    let updated = world.platform.ok("UpdateFunctionCode", update).await;
    assert_eq!((&updated["Version"], &updated["CodeSha256"]), (&json!("1"), &json!(two.digest().digits())));
    assert_eq!((world.layers_asked(), world.platform.blobs.list("").await.unwrap().len()), (3, 3));
    for name in ["f", "g"] {
        world.platform.ok("DeleteFunction", json!({"FunctionName": name})).await;
    }
    for _ in 0..3 {
        world.platform.clock.advance(Duration::from_secs(3_601));
        world.platform.functions.collect_garbage().await.unwrap();
    }
    assert_eq!(world.platform.everything().await, (0, 0));
}

#[tokio::test]
async fn what_is_not_what_it_says_is_refused() {
    let good = image(&[layer(&[("a", "1")])]);
    let invalid = "InvalidParameterValueException";
    let refused = async |spoil: &dyn Fn(&World), words: &str| {
        let world = World::new();
        world.put("one", &good);
        spoil(&world);
        let (status, code, message) = world.create("f", URI).await.unwrap_err();
        assert_eq!((status, code.as_str()), (400, invalid), "{message}");
        assert!(message.contains(words) && message.contains(URI), "{message}");
        assert!(world.platform.functions.version(&reference("f")).await.is_err());
        world.platform.clock.advance(Duration::from_secs(3_601));
        world.platform.functions.collect_garbage().await.unwrap();
        world.platform.functions.collect_garbage().await.unwrap();
        assert_eq!(world.platform.everything().await, (0, 0), "{words}");
    };
    let put = |world: &World, name: String, bytes: Bytes| drop(world.registry.there.lock().insert(name, bytes));
    let of_layer = format!("blobs/{}", Digest::of(&good.layers[0]));
    let other = layer(&[("b", "1")]);
    assert_eq!(other.len(), good.layers[0].len());
    refused(&|world| put(world, of_layer.clone(), other.clone()), "another digest").await;
    refused(&|world| put(world, of_layer.clone(), [&good.layers[0][..], &[0; 512]].concat().into()), "longer than")
        .await;
    refused(&|world| put(world, of_layer.clone(), good.layers[0].slice(..600)), "another digest").await;
    refused(&|world| drop(world.registry.there.lock().remove(&of_layer)), "does not exist").await;
    let config = format!("blobs/{}", Digest::of(&good.config_bytes()));
    refused(&|world| put(world, config.clone(), "{}".into()), "another digest").await;
    let spoilt = |change: &dyn Fn(&mut Image)| {
        let mut image = good.clone();
        change(&mut image);
        image
    };
    for (image, words) in [
        (spoilt(&|image| image.config["architecture"] = json!("riscv64")), "linux/riscv64"),
        (spoilt(&|image| image.config["rootfs"]["diff_ids"] = json!([])), "different numbers of layers"),
        (
            spoilt(&|image| image.config["rootfs"]["diff_ids"] = json!([format!("sha256:{}", "0".repeat(64))])),
            "unpacks to another digest",
        ),
    ] {
        refused(&|world| world.put("one", &image), words).await;
    }
    for (name, words) in [("../../etc/passwd", "outside of the image"), ("a/../../b", "outside of the image")] {
        refused(&|world| world.put("one", &super::images::image(&[layer(&[(name, "x")])])), words).await;
    }
    let manifest = |from: &str, to: &str| Bytes::from(good.manifest().replace(from, to));
    for (from, to, words) in [
        ("\"schemaVersion\":2", "\"schemaVersion\":1", "is not supported"),
        ("layer.v1.tar", "layer.nondistributable.v1.tar", "media type"),
        ("image.config.v1", "image.other.v1", "media type"),
    ] {
        refused(&|world| put(world, "manifests/one".into(), manifest(from, to)), words).await;
    }
    let huge = good.manifest().replace(&format!("\"size\":{}", good.layers[0].len()), "\"size\":99999999999");
    refused(&|world| put(world, "manifests/one".into(), huge.clone().into()), "more than 10737418240 bytes").await;
}

#[tokio::test]
async fn names_and_kinds_are_told_apart() {
    let world = World::new();
    world.put("one", &image(&[]));
    for (uri, status, words) in [
        (
            URI.replace("one", "none"),
            400,
            "Source image 123456789012.dkr.ecr.us-east-1.amazonaws.com/app:none does not exist. Provide a valid source image.",
        ),
        (
            URI.replace("one", "secret"),
            403,
            "Lambda does not have permission to access the ECR image. Check the ECR permissions.",
        ),
        ("not an image".into(), 400, "Source image not an image is not valid. Provide a valid source image."),
        ("own:tag".into(), 400, "Source image own:tag does not exist."),
    ] {
        let (found, _, message) = world.create("f", &uri).await.unwrap_err();
        assert_eq!(found, status, "{message}");
        assert!(message.starts_with(words), "{message}");
    }
    for (member, value, words) in [
        ("Runtime", json!("nodejs20.x"), "Runtime is not supported"),
        ("Layers", json!(["arn:aws:lambda:us-east-1:000000000000:layer:l:1"]), "Layers is not supported"),
        ("SnapStart", json!({"ApplyOn": "PublishedVersions"}), "SnapStart is not supported"),
        ("Code", json!({"ZipFile": code("x")}), "Please provide ImageUri"),
        ("Code", json!({"ImageUri": URI, "ZipFile": code("x")}), "Please do not provide ZipFile"),
        (
            "Code",
            json!({"ImageUri": URI, "S3ObjectStorageMode": "COPY"}),
            "Please do not provide S3ObjectStorageMode beside ImageUri",
        ),
        (
            "Code",
            json!({"ImageUri": URI, "SourceKMSKeyArn": "arn:aws:kms:us-east-1:000000000000:key/k"}),
            "Please do not provide SourceKMSKeyArn beside ImageUri",
        ),
        ("ImageConfig", json!({"Command": ["a\u{0}b"]}), "no program can be given"),
    ] {
        let (status, _, message) =
            world.platform.fails("CreateFunction", with(creation_of("f", URI), member, value)).await;
        assert!(status == 400 && message.contains(words), "{message}");
    }
    world.create("f", URI).await.unwrap();
    world.platform.create("zip").await;
    for (operation, input, words) in [
        ("UpdateFunctionCode", json!({"FunctionName": "f", "ZipFile": code("x")}), "Please provide ImageUri"),
        (
            "UpdateFunctionCode",
            json!({"FunctionName": "f", "ImageUri": URI, "SourceKMSKeyArn": "arn:aws:kms:us-east-1:000000000000:key/k"}),
            "Please do not provide SourceKMSKeyArn beside ImageUri",
        ),
        ("UpdateFunctionCode", json!({"FunctionName": "zip", "ImageUri": URI}), "Please do not provide ImageUri"),
        ("UpdateFunctionConfiguration", json!({"FunctionName": "f", "Handler": "x.y"}), "Handler is not supported"),
        (
            "UpdateFunctionConfiguration",
            json!({"FunctionName": "zip", "ImageConfig": {"Command": ["x"]}}),
            "PackageType Image",
        ),
    ] {
        let (status, _, message) = world.platform.fails(operation, input).await;
        assert!(status == 400 && message.contains(words), "{message}");
    }
}

async fn push(functions: &Functions, image: &Image, name: &str) -> Result<String, PushError> {
    for layer in &image.layers {
        let Some(id) = functions.begin_layer(&Digest::of(layer).to_string()).await? else { continue };
        let middle = layer.len() / 2;
        functions.push_layer(&id, 0, layer.slice(..middle)).await?;
        functions.push_layer(&id, middle as u64, layer.slice(middle..)).await?;
        functions.finish_layer(&id).await?;
    }
    functions.put_image(name, image.manifest().as_bytes(), &image.config_bytes()).await
}

#[tokio::test]
async fn an_operators_images_are_deployed_by_their_names() {
    let World { platform, .. } = World::new();
    let functions = &platform.functions;
    let base = layer(&[("base", "b")]);
    let (one, two) = (image(&[base.clone(), layer(&[("a", "1")])]), image(&[base]));
    push(functions, &one, "team/app:v1").await.unwrap();
    let shown = platform.ok("CreateFunction", creation_of("f", "team/app:v1")).await;
    assert_eq!(shown["CodeSha256"], one.digest().digits());
    push(functions, &two, "team/app:v1").await.unwrap();
    let got = platform.ok("GetFunction", json!({"FunctionName": "f"})).await;
    assert_eq!(
        got["Code"]["ResolvedImageUri"],
        format!("team/app@{}", one.digest()),
        "it goes on with what it was given"
    );
    let by_digest = format!("team/app@{}", two.digest());
    platform.ok("UpdateFunctionCode", json!({"FunctionName": "f", "ImageUri": by_digest})).await;
    let listed = functions.images().await.unwrap();
    assert_eq!((listed.len(), listed[0].name.as_str(), listed[0].layers), (1, "team/app:v1", 1));
    assert!(
        functions.remove_image("team/app:v1").await.unwrap() && !functions.remove_image("team/app:v1").await.unwrap()
    );
    platform.clock.advance(Duration::from_secs(3_601));
    functions.collect_garbage().await.unwrap();
    let version = functions.version(&reference("f")).await.unwrap();
    let code = version.image.clone().unwrap();
    assert!(functions.package_part(&code.layers[0], 0, 10).await.is_ok(), "what a function has stays");
    platform.ok("DeleteFunction", json!({"FunctionName": "f"})).await;
    for _ in 0..3 {
        platform.clock.advance(Duration::from_secs(3_601));
        functions.collect_garbage().await.unwrap();
    }
    assert_eq!(platform.everything().await, (0, 0));
}

#[tokio::test]
async fn a_push_that_is_wrong_is_refused() {
    let World { platform, .. } = World::new();
    let functions = &platform.functions;
    let one = image(&[layer(&[("a", "1")])]);
    let digest = Digest::of(&one.layers[0]).to_string();
    let begin = async || functions.begin_layer(&digest).await.unwrap().unwrap();
    let wrong = |result: Result<(), PushError>, words: &str| {
        let Err(PushError::Wrong(message)) = result else { panic!("{result:?}") };
        assert!(message.contains(words), "{message}");
    };
    wrong(functions.begin_layer("sha256:../../x").await.map(drop), "no sha256 digest");
    let id = begin().await;
    wrong(functions.push_layer(&id, 7, Bytes::from_static(b"x")).await, "begins at byte 0");
    wrong(functions.push_layer(&id, 0, Bytes::from_static(b"x")).await, "not under way");
    let id = begin().await;
    functions.push_layer(&id, 0, layer(&[("b", "1")])).await.unwrap();
    wrong(functions.finish_layer(&id).await, "another digest");
    wrong(
        functions.put_image("app:v1", one.manifest().as_bytes(), &one.config_bytes()).await.map(drop),
        "layer of the image is missing",
    );
    push(functions, &one, "app:v1").await.unwrap();
    for (name, manifest, config, words) in [
        ("r.example/app:v1", one.manifest(), one.config_bytes(), "no name for an image"),
        ("app@sha256:0", one.manifest(), one.config_bytes(), "no name for an image"),
        ("app:v1", one.manifest(), b"{}".to_vec(), "another digest"),
        ("app:v1", "{}".into(), one.config_bytes(), "not supported"),
    ] {
        wrong(functions.put_image(name, manifest.as_bytes(), &config).await.map(drop), words);
    }
    let climbs = image(&[layer(&[("../x", "1")])]);
    assert!(matches!(push(functions, &climbs, "app:v2").await, Err(PushError::Wrong(_))));
    assert_eq!(functions.images().await.unwrap().len(), 1);
}

//! What the store keeps of functions. JSON, so that fields can be added; a field that is missing reads as its default.
//!
//! Invariants
//!   1. A `VersionRecord` never changes once it is stored under a number; `$LATEST` is replaced by each update.
//!   2. The record of a function changes with everything that belongs to the function, so that one watch and one expected
//!      version cover its published versions too.
//!   3. `content_revision` changes exactly when code or configuration change, so an environment of another one is stale;
//!      `revision_id` changes with permissions too, as clients expect of `RevisionId`.
//!   4. A `PackageRecord` counts its users exactly: it changes in the same transaction as the function or the layer version
//!      that uses it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use model::http_api::{AuthKind, Cors};
use model::runtime::PHP_VERSION;
use model::{
    AccountId, CodeDigest, EGRESS_TAG, Egress, Family, FileSystem, FunctionRef, FunctionVersion, ImageCode, JsonLog,
    Runtime, WebServer,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::event_config::EventConfigRecord;
use super::view;
use super::vpc::{self, VpcRecord};

/// `$LATEST`
pub(super) const LATEST: &str = "$LATEST";

/// Everything of one function that is not bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct FunctionRecord {
    /// `$LATEST`.
    pub(super) latest: VersionRecord,
    /// The number that the next published version gets. Numbers are never reused.
    pub(super) next_version: u64,
    /// Tags of the function.
    #[serde(default)]
    pub(super) tags: BTreeMap<String, String>,
    /// `ReservedConcurrentExecutions`.
    #[serde(default)]
    pub(super) reserved_concurrency: Option<u32>,
    /// Resource policies by qualifier; the empty one is of the unqualified function.
    #[serde(default)]
    pub(super) policies: BTreeMap<String, Vec<Value>>,
    /// Function URLs by qualifier; the empty one is of `$LATEST`.
    #[serde(default)]
    pub(super) urls: BTreeMap<String, UrlRecord>,
    /// Numbers of the published versions that there are. What is in each is a record of its own.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(super) published: BTreeSet<u64>,
    /// `RevisionId` of versions whose policy has changed since they were published.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) version_revisions: BTreeMap<u64, String>,
    /// Aliases by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) aliases: BTreeMap<String, AliasRecord>,
    /// Provisioned concurrency by qualifier, a number or an alias.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) provisioned: BTreeMap<String, ProvisionedRecord>,
    /// What is asked of events, by qualifier: `$LATEST`, a number or an alias.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) event_configs: BTreeMap<String, EventConfigRecord>,
    /// The id of its code signing configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) code_signing: Option<String>,
    /// `RecursiveLoop` is `Allow`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) allows_recursion: bool,
    /// Runtime management by version, where it is not the default.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) runtime_management: BTreeMap<String, RuntimeManagementRecord>,
}

/// What PutRuntimeManagementConfig set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RuntimeManagementRecord {
    /// `UpdateRuntimeOn`
    pub(super) update_on: String,
    /// `RuntimeVersionArn`
    pub(super) version_arn: Option<String>,
}

impl Default for RuntimeManagementRecord {
    fn default() -> Self {
        Self { update_on: "Auto".into(), version_arn: None }
    }
}

/// What was asked for by PutProvisionedConcurrencyConfig.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ProvisionedRecord {
    /// `ProvisionedConcurrentExecutions`
    pub(super) requested: u32,
    /// Milliseconds since the epoch.
    pub(super) modified_ms: u64,
}

/// Which version of a function: its text is `$LATEST` or the number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub(super) enum VersionId {
    /// What updates change.
    Latest,
    /// A published one.
    Number(u64),
}

impl VersionId {
    /// The version of its text. A number has one text only: no sign, no leading zero.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if text == LATEST {
            return Some(Self::Latest);
        }
        text.parse().ok().filter(|number: &u64| number.to_string() == text).map(Self::Number)
    }
}

impl fmt::Display for VersionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latest => f.write_str(LATEST),
            Self::Number(number) => number.fmt(f),
        }
    }
}

impl From<VersionId> for String {
    fn from(id: VersionId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for VersionId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text).ok_or_else(|| format!("{text} is no version"))
    }
}

/// A name for a version, or for two of which each gets a share of the calls.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct AliasRecord {
    /// `FunctionVersion`
    pub(super) version: VersionId,
    /// `Description`
    pub(super) description: String,
    /// `RoutingConfig`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) second: Option<Second>,
    /// `RevisionId`
    pub(super) revision_id: String,
}

/// The other version of an alias, and its share of the calls, from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Second {
    /// A published version.
    pub(super) version: VersionId,
    /// Its share.
    pub(super) weight: f64,
}

/// Code and configuration together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct VersionRecord {
    /// What was configured.
    pub(super) settings: Settings,
    /// The package.
    pub(super) code: CodeDigest,
    /// Bytes of the package; of a container image zero, as AWS shows it.
    pub(super) code_bytes: u64,
    /// The container image, if it is one: `code` is its manifest's digest then, and no package.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) image: Option<ImageRecord>,
    /// Milliseconds since the epoch.
    pub(super) modified_ms: u64,
    /// `RevisionId`.
    pub(super) revision_id: String,
    /// Names this content for environments.
    pub(super) content_revision: String,
    /// What PublishVersion said in place of the function's description.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) description: Option<String>,
    /// Whether the package has a program, and nothing that goes before it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) has_program: bool,
    /// Whether the package is known to have no `bootstrap` of either kind.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) without_bootstrap: bool,
}

/// A container image of a function. It holds what it needs of the image itself, for the name may come to mean another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ImageRecord {
    /// `ImageUri`
    pub(super) uri: String,
    /// `ResolvedImageUri`
    pub(super) resolved: String,
    /// What the image is.
    pub(super) content: ImageContent,
}

/// What an image is, whatever it is called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ImageContent {
    /// Of the manifest.
    pub(super) digest: CodeDigest,
    /// The layers' blobs, the lowest first; each is kept as a package.
    pub(super) layers: Vec<CodeDigest>,
    /// `ENTRYPOINT`
    pub(super) entrypoint: Vec<String>,
    /// `CMD`
    pub(super) command: Vec<String>,
    /// `WORKDIR`
    pub(super) folder: String,
    /// `ENV`
    pub(super) environment: Vec<(String, String)>,
}

/// An image that was pushed to the platform, under a name and a tag.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PushedImage {
    /// What it is.
    pub(super) content: ImageContent,
    /// Bytes of its layers' blobs.
    pub(super) bytes: u64,
    /// Milliseconds since the epoch.
    pub(super) pushed_ms: u64,
}

/// `ImageConfig`: what takes the place of the image's own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ImageOverrides {
    /// `EntryPoint`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) entrypoint: Option<Vec<String>>,
    /// `Command`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) command: Option<Vec<String>>,
    /// `WorkingDirectory`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) folder: Option<String>,
}

impl ImageContent {
    /// What its program gets as arguments.
    fn command<'a>(&'a self, overrides: &'a ImageOverrides) -> &'a [String] {
        overrides.command.as_ref().unwrap_or(&self.command)
    }

    /// What is started of it.
    fn code(&self, overrides: &ImageOverrides) -> ImageCode {
        let entrypoint = overrides.entrypoint.as_ref().unwrap_or(&self.entrypoint);
        let command = self.command(overrides);
        let folder = overrides.folder.as_ref().unwrap_or(&self.folder);
        ImageCode {
            layers: self.layers.clone(),
            line: entrypoint.iter().chain(command).cloned().collect(),
            // A folder that is not absolute begins at the root, as with every engine.
            folder: format!("/{}", folder.trim_start_matches('/')),
            environment: self.environment.clone(),
        }
    }
}

/// Configuration of a function, defaults filled in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Settings {
    /// `Runtime`
    pub(super) runtime: Runtime,
    /// `Handler`
    pub(super) handler: String,
    /// `Role`
    pub(super) role: String,
    /// `Description`
    pub(super) description: String,
    /// `Timeout`, seconds.
    pub(super) timeout_s: u32,
    /// `MemorySize`, MiB.
    pub(super) memory_mb: u32,
    /// `EphemeralStorage.Size`, MiB.
    pub(super) tmp_mb: u32,
    /// `Environment.Variables`; absent if the client never sent `Environment`.
    pub(super) environment: Option<BTreeMap<String, String>>,
    /// `Architectures`, one element.
    pub(super) architecture: String,
    /// `TracingConfig.Mode`
    pub(super) tracing: String,
    /// `LoggingConfig.LogGroup`, if it is not the default one.
    pub(super) log_group: Option<String>,
    /// `LoggingConfig.LogFormat` is `JSON`, with these levels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) json_log: Option<JsonLog>,
    /// `SnapStart.ApplyOn` is `PublishedVersions`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) snap_start: bool,
    /// `VpcConfig`, once it was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) vpc: Option<VpcRecord>,
    /// `FileSystemConfigs`, of which there is one at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) file_system: Option<FileSystem>,
    /// `ImageConfig`, of a container image only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) image: Option<ImageOverrides>,
    /// `TenancyConfig.TenantIsolationMode` is `PER_TENANT`. Never changes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) per_tenant: bool,
    /// `DeadLetterConfig.TargetArn`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) dead_letters: Option<String>,
    /// `Layers`, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) layers: Vec<LayerUse>,
}

/// A layer version that a function has. It holds its content itself, for the layer version may be deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LayerUse {
    /// `Arn`
    pub(super) arn: String,
    /// The package.
    pub(super) code: CodeDigest,
    /// `CodeSize`
    pub(super) code_bytes: u64,
    /// Whether it is known to have no `bootstrap`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) without_bootstrap: bool,
}

/// What there is of a layer beside its versions. It stays when the last of them is deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LayerRecord {
    /// The number that the next version gets. Numbers are never reused.
    pub(super) next_version: u64,
}

/// A version of a layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct LayerVersionRecord {
    /// The package.
    pub(super) code: CodeDigest,
    /// Bytes of the package.
    pub(super) code_bytes: u64,
    /// Whether it is known to have no `bootstrap`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) without_bootstrap: bool,
    /// `Description`
    pub(super) description: String,
    /// `CompatibleRuntimes`
    pub(super) runtimes: Vec<String>,
    /// `CompatibleArchitectures`
    pub(super) architectures: Vec<String>,
    /// `LicenseInfo`
    pub(super) license: Option<String>,
    /// Milliseconds since the epoch.
    pub(super) created_ms: u64,
    /// Statements of its policy.
    pub(super) policy: Vec<Value>,
    /// `RevisionId` of the policy.
    pub(super) revision_id: String,
}

/// A function URL.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct UrlRecord {
    /// 32 characters.
    pub(super) id: String,
    /// `AuthType`
    pub(super) auth: AuthKind,
    /// `InvokeMode` is `RESPONSE_STREAM`.
    pub(super) streaming: bool,
    /// `Cors`
    pub(super) cors: Option<Cors>,
    /// Milliseconds since the epoch.
    pub(super) created_ms: u64,
    /// Milliseconds since the epoch.
    pub(super) modified_ms: u64,
}

/// Whose function URL an id is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct UrlOwner {
    /// The function; `qualifier` is the alias, if any.
    pub(super) function: FunctionRef,
}

/// Where the bytes of a package are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PackageRecord {
    /// The blob. Its name is used once and never again.
    pub(super) blob: String,
    /// Versions of functions and of layers that use it.
    pub(super) users: u64,
    /// When it is removed, while it has no user.
    pub(super) due_ms: Option<u64>,
    /// Bytes once unpacked. None in what earlier releases kept, until somebody needs to know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) unpacked_bytes: Option<u64>,
}

/// A package that ends after a time unless somebody uses it by then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Doomed {
    /// The package. None in what earlier releases listed of uploads.
    pub(super) package: Option<CodeDigest>,
    /// Its blob.
    pub(super) blob: String,
}

impl FunctionRecord {
    /// A function that has been made just now.
    pub(super) fn new(latest: VersionRecord, tags: BTreeMap<String, String>) -> Self {
        Self {
            latest,
            next_version: 1,
            tags,
            reserved_concurrency: None,
            policies: BTreeMap::new(),
            urls: BTreeMap::new(),
            published: BTreeSet::new(),
            version_revisions: BTreeMap::new(),
            aliases: BTreeMap::new(),
            provisioned: BTreeMap::new(),
            event_configs: BTreeMap::new(),
            code_signing: None,
            allows_recursion: false,
            runtime_management: BTreeMap::new(),
        }
    }

    /// What environments of a version are started from.
    pub(super) fn runnable(&self, function: &FunctionRef, id: VersionId, version: &VersionRecord) -> FunctionVersion {
        let VersionRecord { settings, code, .. } = version;
        let function = function.unqualified();
        let overrides = settings.image.clone().unwrap_or_default();
        let image = version.image.as_ref().map(|image| image.content.code(&overrides));
        // An image's handler is what its runtime gets first.
        let command = version.image.as_ref().map(|image| image.content.command(&overrides));
        let handler = command.map_or_else(|| settings.handler.clone(), |it| it.first().cloned().unwrap_or_default());
        FunctionVersion {
            version: id.to_string(),
            revision: self.revision(version),
            runtime: version.php().unwrap_or_else(|| settings.runtime.clone()),
            handler,
            code: code.clone(),
            image,
            layers: settings.merged_layers(),
            memory_mb: settings.memory_mb,
            timeout_ms: u64::from(settings.timeout_s) * 1_000,
            tmp_mb: settings.tmp_mb,
            environment: settings.environment.clone().unwrap_or_default(),
            role_arn: role_within(&function.account, &settings.role),
            log_group: settings.log_group.clone().unwrap_or_else(|| view::default_log_group(&function.name)),
            json_log: settings.json_log,
            reserved_concurrency: self.reserved_concurrency,
            egress: self.egress(settings),
            snap_start: settings.begins_from_snapshot(id),
            allows_recursion: self.allows_recursion,
            traced: settings.tracing == "Active",
            dead_letters: settings.dead_letters.clone(),
            per_tenant: settings.per_tenant,
            program: version.is_program(),
            file_system: settings.file_system.clone(),
            web: version.web(),
            tenant: None,
            function,
        }
    }

    /// Names the content of a version for environments.
    pub(super) fn revision(&self, version: &VersionRecord) -> String {
        // Environments keep the policy that they began with, so those of another are stale.
        let egress = self.egress(&version.settings);
        if egress == Egress::default() {
            version.content_revision.clone()
        } else {
            format!("{} {egress}", version.content_revision)
        }
    }

    fn egress(&self, settings: &Settings) -> Egress {
        // Checked when the tag was given; one that was there before it meant something closes rather than opens.
        let closed = Egress { public: false, targets: Vec::new() };
        match self.tags.get(EGRESS_TAG) {
            Some(text) => text.parse().unwrap_or(closed),
            None => vpc::egress(settings.vpc.as_ref()),
        }
    }
}

impl VersionRecord {
    /// How it is run where it is a web server. What an image says itself and cannot be counts as unsaid.
    fn web(&self) -> Option<WebServer> {
        let Some(image) = &self.image else { return self.settings.web() };
        let own = image.content.code(&self.settings.image.clone().unwrap_or_default()).environment;
        let environment = self.settings.environment.clone().unwrap_or_default();
        WebServer::of_image(&own, &environment, u64::from(self.settings.timeout_s) * 1_000).ok().flatten()
    }
}

impl Settings {
    /// Whether SnapStart holds for this version: `$LATEST` has it never, nor has a web server, which is not forked.
    pub(super) fn begins_from_snapshot(&self, id: VersionId) -> bool {
        self.snap_start && id != VersionId::Latest && self.web().is_none()
    }

    /// How it is run where it is a web server of a package. Variables were checked when they were given.
    fn web(&self) -> Option<WebServer> {
        let none = BTreeMap::new();
        let environment = self.environment.as_ref().unwrap_or(&none);
        WebServer::of(self.runtime.family(), environment, u64::from(self.timeout_s) * 1_000).ok().flatten()
    }

    /// The packages that make `/opt`, later ones over earlier ones. Of two layers with the same content the later one
    /// alone decides, and nothing can be merged with itself.
    fn merged_layers(&self) -> Vec<CodeDigest> {
        let layers = self.layers.iter().enumerate();
        let last =
            |(index, layer): &(usize, &LayerUse)| self.layers[index + 1..].iter().all(|other| other.code != layer.code);
        layers.filter(last).map(|(_, layer)| layer.code.clone()).collect()
    }
}

impl VersionRecord {
    /// Every package that it uses: its code, or the layers of its image, and the content of each layer of its own.
    pub(super) fn packages(&self) -> impl Iterator<Item = &CodeDigest> {
        let code = self.image.is_none().then_some(&self.code);
        let of_image = self.image.iter().flat_map(|image| &image.content.layers);
        code.into_iter().chain(of_image).chain(self.settings.layers.iter().map(|layer| &layer.code))
    }

    /// Whether it runs as a program.
    pub(super) fn is_program(&self) -> bool {
        self.has_program && self.settings.runtime.family() == Family::Provided
    }

    /// The PHP that runs it, if one of the platform's does: its handler is a PHP file, or it says which PHP, and neither it
    /// nor a layer brings a program of its own, which goes first as at AWS.
    fn php(&self) -> Option<Runtime> {
        let settings = &self.settings;
        let is_bare = settings.runtime.family() == Family::Provided && self.image.is_none() && self.without_bootstrap;
        if !is_bare || !settings.layers.iter().all(|layer| layer.without_bootstrap) {
            return None;
        }
        let version = settings.environment.as_ref().and_then(|all| all.get(PHP_VERSION));
        if version.is_none() && !settings.handler.ends_with(".php") {
            return None;
        }
        Runtime::php(version.map(String::as_str))
    }

    /// Whether code and configuration are those of another.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        self.code == other.code && self.settings == other.settings
    }
}

/// The role as one of the function's own account. No function gets another account's any more; one that an earlier release
/// gave it to acts in its own account whatever its role says.
fn role_within(account: &AccountId, role_arn: &str) -> String {
    let mut parts: Vec<&str> = role_arn.splitn(6, ':').collect();
    if let Some(of_role) = parts.get_mut(4) {
        *of_role = account.as_str();
    }
    parts.join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A function as releases without versions kept it.
    const OLD: &str = r#"{"latest":{"settings":{"runtime":{"identifier":"nodejs20.x"},"handler":"index.handler",
        "role":"arn:aws:iam::000000000000:role/r","description":"","timeout_s":3,"memory_mb":128,"tmp_mb":512,
        "environment":null,"architecture":"x86_64","tracing":"PassThrough","log_group":null},
        "code":"0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a","code_bytes":7,"modified_ms":1,
        "revision_id":"r","content_revision":"c"},"next_version":1,"tags":{},"reserved_concurrency":null,
        "policies":{},"urls":{}}"#;

    #[test]
    fn a_function_of_a_release_without_versions_is_read_and_gets_its_first() {
        let record: FunctionRecord = serde_json::from_str(OLD).unwrap();
        assert_eq!((record.next_version, record.published.len(), record.aliases.len()), (1, 0, 0));
        assert_eq!(record.latest.description, None);
        let again = serde_json::to_string(&record).unwrap();
        assert_eq!(again, OLD.replace("\n", "").replace("        ", ""), "without versions it is kept as it was");
    }

    #[test]
    fn a_custom_runtime_without_a_program_is_php_by_its_handler_or_by_its_word() {
        let record: FunctionRecord = serde_json::from_str(OLD).unwrap();
        let mut plain = record.latest;
        plain.settings.runtime = Runtime::parse("provided.al2023").unwrap();
        plain.settings.handler = "public/index.php".into();
        assert_eq!(plain.php(), None, "an earlier release has not looked");
        plain.without_bootstrap = true;
        assert_eq!(plain.php(), Runtime::php(None));
        let changed = |change: &dyn Fn(&mut VersionRecord)| {
            let mut changed = plain.clone();
            change(&mut changed);
            changed.php()
        };
        let layer = |without_bootstrap| LayerUse {
            arn: "a".into(),
            code: plain.code.clone(),
            code_bytes: 1,
            without_bootstrap,
        };
        let says = BTreeMap::from([(PHP_VERSION.to_owned(), "8.3".to_owned())]);
        assert_eq!(changed(&|it| it.settings.layers = vec![layer(true)]), Runtime::php(None));
        assert_eq!(changed(&|it| it.settings.layers = vec![layer(true), layer(false)]), None);
        assert_eq!(changed(&|it| it.settings.handler = "bootstrap".into()), None);
        assert_eq!(changed(&|it| it.settings.runtime = Runtime::parse("python3.12").unwrap()), None);
        let named = changed(&|it| {
            it.settings.handler = "App\\Handler".into();
            it.settings.environment = Some(says.clone());
        });
        assert_eq!(named, Runtime::php(Some("8.3")));
    }

    #[test]
    fn versions_and_aliases_read_back() {
        let mut record: FunctionRecord = serde_json::from_str(OLD).unwrap();
        record.published = BTreeSet::from([1, 12]);
        record.version_revisions.insert(12, "r".into());
        record.provisioned.insert("live".into(), ProvisionedRecord { requested: 3, modified_ms: 7 });
        let second = Some(Second { version: VersionId::Number(12), weight: 0.1 });
        let alias =
            AliasRecord { version: VersionId::Number(1), description: "d".into(), second, revision_id: "a".into() };
        record.aliases.insert("live".into(), alias);
        let latest = AliasRecord { version: VersionId::Latest, second: None, ..record.aliases["live"].clone() };
        record.aliases.insert("dev".into(), latest);
        let text = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<FunctionRecord>(&text).unwrap(), record);
    }

    #[test]
    fn a_version_has_one_text() {
        for (text, id) in [("$LATEST", VersionId::Latest), ("1", VersionId::Number(1)), ("42", VersionId::Number(42))] {
            assert_eq!(VersionId::parse(text), Some(id));
            assert_eq!(id.to_string(), text);
        }
        for wrong in ["", "01", "+1", "live", "$LATEST.PUBLISHED", "18446744073709551616"] {
            assert_eq!(VersionId::parse(wrong), None, "{wrong}");
        }
    }
}

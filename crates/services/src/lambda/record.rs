//! What the store keeps of functions. JSON, so that fields can be added; a field that is missing reads as its default.
//!
//! Invariants
//!   1. A `VersionRecord` never changes once it is stored under a number; `$LATEST` is replaced by each update.
//!   2. `content_revision` changes exactly when code or configuration change, so an environment of another one is stale;
//!      `revision_id` changes with permissions too, as clients expect of `RevisionId`.
//!   3. A `PackageRecord` counts its users exactly: it changes in the same transaction as the function that uses it.

use std::collections::BTreeMap;

use model::http_api::{AuthKind, Cors};
use model::{AccountId, CodeDigest, EGRESS_TAG, Egress, FunctionName, FunctionRef, FunctionVersion, Region, Runtime};
use serde::{Deserialize, Serialize};
use serde_json::Value;

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
}

/// Code and configuration together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct VersionRecord {
    /// What was configured.
    pub(super) settings: Settings,
    /// The package.
    pub(super) code: CodeDigest,
    /// Bytes of the package.
    pub(super) code_bytes: u64,
    /// Milliseconds since the epoch.
    pub(super) modified_ms: u64,
    /// `RevisionId`.
    pub(super) revision_id: String,
    /// Names this content for environments.
    pub(super) content_revision: String,
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
    /// Versions of functions that use it.
    pub(super) users: u64,
    /// When it is removed, while it has no user.
    pub(super) due_ms: Option<u64>,
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
    /// The version that an environment of `$LATEST` is started from.
    pub(super) fn latest_version(&self, account: &AccountId, region: &Region, name: &FunctionName) -> FunctionVersion {
        let VersionRecord { settings, code, content_revision, .. } = &self.latest;
        let function =
            FunctionRef { account: account.clone(), region: region.clone(), name: name.clone(), qualifier: None };
        // Checked when the tag was given; one that was there before it meant something closes rather than opens.
        let closed = Egress { public: false, targets: Vec::new() };
        let egress = self.tags.get(EGRESS_TAG).map_or_else(Egress::default, |text| text.parse().unwrap_or(closed));
        FunctionVersion {
            version: LATEST.into(),
            // Environments keep the policy that they began with, so those of another are stale.
            revision: if egress == Egress::default() {
                content_revision.clone()
            } else {
                format!("{content_revision} {egress}")
            },
            runtime: settings.runtime.clone(),
            handler: settings.handler.clone(),
            code: code.clone(),
            layers: Vec::new(),
            memory_mb: settings.memory_mb,
            timeout_ms: u64::from(settings.timeout_s) * 1_000,
            tmp_mb: settings.tmp_mb,
            environment: settings.environment.clone().unwrap_or_default(),
            role_arn: role_within(account, &settings.role),
            log_group: settings.log_group.clone().unwrap_or_else(|| format!("/aws/lambda/{name}")),
            reserved_concurrency: self.reserved_concurrency,
            egress,
            function,
        }
    }
}

/// The role as one of the function's own account. AWS lets no function have a role of another account; here any ARN is
/// taken, as examples are full of made-up ones, but a function acts in its own account whatever its role says.
fn role_within(account: &AccountId, role_arn: &str) -> String {
    let mut parts: Vec<&str> = role_arn.splitn(6, ':').collect();
    if let Some(of_role) = parts.get_mut(4) {
        *of_role = account.as_str();
    }
    parts.join(":")
}

//! Functions as the data plane sees them: what to run, under which limits.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::web::WRAPPER;
use crate::{AccountId, Egress, Family, FileSystem, ImageCode, JsonLog, Region, Runtime, WebServer};

/// A function's name within an account and region: 1 to 64 of `[a-zA-Z0-9-_]`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FunctionName(String);

impl FunctionName {
    /// A valid name, or nothing.
    pub fn parse(text: &str) -> Option<Self> {
        let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        ((1..=64).contains(&text.len()) && text.bytes().all(fits)).then(|| Self(text.to_owned()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for FunctionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `arn:aws:lambda:REGION:ACCOUNT:function:NAME[:QUALIFIER]`.
pub type FunctionArn = String;

/// Which function a caller means, and which of its versions.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FunctionRef {
    /// The account that owns the function.
    pub account: AccountId,
    /// The region that it was created in.
    pub region: Region,
    /// Its name.
    pub name: FunctionName,
    /// A version number, an alias, or nothing for `$LATEST`.
    pub qualifier: Option<String>,
}

impl FunctionRef {
    /// The function, whichever of its versions and aliases is meant.
    #[must_use]
    pub fn unqualified(&self) -> Self {
        Self { qualifier: None, ..self.clone() }
    }

    /// The ARN, qualified exactly when the reference is.
    pub fn arn(&self) -> FunctionArn {
        let base = format!("arn:aws:lambda:{}:{}:function:{}", self.region, self.account, self.name);
        match &self.qualifier {
            Some(qualifier) => format!("{base}:{qualifier}"),
            None => base,
        }
    }

    /// The reference that an ARN names, or nothing if it is no function ARN.
    pub fn parse_arn(arn: &str) -> Option<Self> {
        let mut parts = arn.splitn(8, ':');
        let head = [parts.next()?, parts.next()?, parts.next()?];
        if head[0] != "arn" || !head[1].starts_with("aws") || head[2] != "lambda" {
            return None;
        }
        let region = Region::parse(parts.next()?)?;
        let account = AccountId::parse(parts.next()?)?;
        if parts.next()? != "function" {
            return None;
        }
        let name = FunctionName::parse(parts.next()?)?;
        Some(Self { account, region, name, qualifier: parts.next().map(str::to_owned) })
    }
}

/// The tag of a function that says how many environments of `$LATEST` there are always.
pub const MINIMUM_TAG: &str = "dunlin:minimum-environments";

/// SHA-256 of a code package, as 64 lower-case hexadecimal digits: the package's name in every place it is kept.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CodeDigest(String);

impl CodeDigest {
    /// A digest, or nothing if the text is not one. A digest is therefore always a safe file name.
    pub fn parse(text: &str) -> Option<Self> {
        let fits = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        (text.len() == 64 && text.bytes().all(fits)).then(|| Self(text.to_owned()))
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CodeDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What functions of an account run on: what a host can prepare for before one of them is called.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuntimeUse {
    /// Whose functions.
    pub account: AccountId,
    /// Their runtime.
    pub runtime: Runtime,
    /// Megabytes (MiB) of their memory.
    pub memory_mb: u32,
    /// Whether what runs is a program of theirs: a custom runtime, or a web server.
    pub executes: bool,
}

/// Environments that a version has whether it is called or not: provisioned concurrency, or a minimum.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Floor {
    /// The function; `qualifier` empty.
    pub function: FunctionRef,
    /// `$LATEST` or a version number.
    pub version: String,
    /// The content (`FunctionVersion::revision`): with another one they are started anew.
    pub revision: String,
    /// How many.
    pub environments: u32,
    /// Concurrent calls of it that the account's concurrency is lowered by for all others, and that it has in any case.
    pub set_aside: u32,
}

/// What there is of a `Floor`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FloorState {
    /// Environments that are initialised.
    pub environments: u32,
    /// Why there are not more, if the last try to make one failed.
    pub failure: Option<String>,
}

/// How far a node is with the snapshot of a version that has SnapStart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SnapshotState {
    /// Nothing is under way and nothing speaks against one.
    Open,
    /// It is being taken.
    Pending,
    /// Environments begin from it.
    Taken,
    /// It was put away, for no environment was made from it for long; the next one has it taken anew.
    PutAway,
    /// There can be none, for this reason: every environment runs the init.
    Impossible(String),
}

/// How far a node is with the program of a package: it is compiled before it can run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProgramState {
    /// Nothing is known; the first call sees to it.
    Open,
    /// It is being compiled.
    Pending,
    /// It can run.
    Ready,
    /// It cannot, for this reason.
    Unfit(String),
}

/// One version of a function: everything that an environment is started from. Never changes; a change of code or
/// configuration makes another one with another `revision`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionVersion {
    /// Owner, region and name; `qualifier` is always empty here.
    pub function: FunctionRef,
    /// `$LATEST` or a version number.
    pub version: String,
    /// Differs between any two contents; environments of another revision are never used.
    pub revision: String,
    /// What runs it.
    pub runtime: Runtime,
    /// `file.export` and the like; may be empty for `provided`.
    pub handler: String,
    /// The code package; of a container image its manifest.
    pub code: CodeDigest,
    /// The container image, if it is one; `runtime` and `handler` say nothing then.
    #[serde(default)]
    pub image: Option<ImageCode>,
    /// Layers in merge order.
    pub layers: Vec<CodeDigest>,
    /// Megabytes (MiB) of memory.
    pub memory_mb: u32,
    /// Milliseconds that one invocation may take.
    pub timeout_ms: u64,
    /// Megabytes (MiB) of `/tmp`.
    pub tmp_mb: u32,
    /// The user's variables.
    pub environment: BTreeMap<String, String>,
    /// The role whose credentials the function gets.
    pub role_arn: String,
    /// The log group, normally `/aws/lambda/NAME`.
    pub log_group: String,
    /// JSON in place of text.
    #[serde(default)]
    pub json_log: Option<JsonLog>,
    /// Where its own connections may go.
    pub egress: Egress,
    /// Most concurrent invocations, if reserved. Zero throttles every call.
    pub reserved_concurrency: Option<u32>,
    /// Whether its environments begin as copies of one that was initialised ahead (SnapStart), where the platform can.
    #[serde(default)]
    pub snap_start: bool,
    /// Whether chains of calls may call it as often as they like.
    #[serde(default)]
    pub allows_recursion: bool,
    /// Whether it decides which traces are sampled (active tracing), where nobody has before.
    #[serde(default)]
    pub traced: bool,
    /// The ARN of the queue or topic that gets events of this version which are given up.
    #[serde(default)]
    pub dead_letters: Option<String>,
    /// Whether each call names a tenant, and no environment serves two.
    #[serde(default)]
    pub per_tenant: bool,
    /// Whether it is a program (`bootstrap.wasm`), which runs anew for every call.
    #[serde(default)]
    pub program: bool,
    /// The file system that it has below `/mnt`.
    #[serde(default)]
    pub file_system: Option<FileSystem>,
    /// How it is run and spoken to where it is a web server.
    #[serde(default)]
    pub web: Option<WebServer>,
    /// The tenant that this is run for; nothing in a catalog.
    #[serde(default)]
    pub tenant: Option<String>,
}

impl FunctionVersion {
    /// The ARN with this version's number, `…:$LATEST` included.
    pub fn qualified_arn(&self) -> FunctionArn {
        format!("{}:{}", self.function.arn(), self.version)
    }

    /// The program that is to start its interpreter (`AWS_LAMBDA_EXEC_WRAPPER`): a path in its sandbox. Managed runtimes alone
    /// look at the variable. Who brings a program of its own, PHP's functions among them as on Lambda, starts that; what a web
    /// server's means is in `web`.
    pub fn wrapper(&self) -> Option<&str> {
        let managed = matches!(self.runtime.family(), Family::Node | Family::Python | Family::Java | Family::Ruby);
        let looks = managed && self.image.is_none() && !self.program && self.web.is_none();
        self.environment.get(WRAPPER).filter(|path| looks && !path.is_empty()).map(String::as_str)
    }

    /// What it runs on; nothing that could be prepared for of a container image, or of a program that has no process.
    pub fn runtime_use(&self) -> Option<RuntimeUse> {
        (self.image.is_none() && !self.program).then(|| RuntimeUse {
            account: self.function.account.clone(),
            runtime: self.runtime.clone(),
            memory_mb: self.memory_mb,
            executes: self.web.is_some() || self.runtime.family() == Family::Provided,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arn_reads_back_as_it_was_written() {
        for arn in [
            "arn:aws:lambda:us-east-1:000000000000:function:f",
            "arn:aws:lambda:eu-west-1:123456789012:function:f_1:live",
        ] {
            assert_eq!(FunctionRef::parse_arn(arn).unwrap().arn(), arn);
        }
        for wrong in [
            "",
            "arn:aws:s3:::b",
            "arn:aws:lambda:us-east-1:1:function:f",
            "arn:aws:lambda:us-east-1:000000000000:layer:f",
        ] {
            assert_eq!(FunctionRef::parse_arn(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn managed_runtimes_alone_have_wrappers() {
        let of = |runtime: Runtime, pairs: &[(&str, &str)]| {
            let environment: BTreeMap<String, String> =
                pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            let web = WebServer::of(runtime.family(), &environment, 3_000).unwrap();
            let version = FunctionVersion { runtime, environment, web, ..plain() };
            version.wrapper().map(str::to_owned)
        };
        let managed = |name: &str| Runtime::parse(name).unwrap();
        for name in ["nodejs22.x", "python3.12", "ruby3.3", "java21"] {
            assert_eq!(of(managed(name), &[(WRAPPER, "/opt/w")]).as_deref(), Some("/opt/w"), "{name}");
            assert_eq!(of(managed(name), &[(WRAPPER, "")]), None, "{name}");
            assert_eq!(of(managed(name), &[(WRAPPER, "/opt/bootstrap")]), None, "the web adapter: {name}");
            assert_eq!(of(managed(name), &[]), None);
        }
        assert_eq!(of(managed("provided.al2023"), &[(WRAPPER, "/opt/w")]), None);
        assert_eq!(of(Runtime::php(None).unwrap(), &[(WRAPPER, "/opt/w")]), None);
    }

    fn plain() -> FunctionVersion {
        FunctionVersion {
            function: FunctionRef::parse_arn("arn:aws:lambda:us-east-1:000000000000:function:f").unwrap(),
            version: "$LATEST".into(),
            revision: "1".into(),
            runtime: Runtime::parse("nodejs22.x").unwrap(),
            handler: "index.handler".into(),
            code: CodeDigest::parse(&"0a".repeat(32)).unwrap(),
            image: None,
            layers: Vec::new(),
            memory_mb: 128,
            timeout_ms: 3_000,
            tmp_mb: 512,
            environment: BTreeMap::new(),
            role_arn: String::new(),
            log_group: String::new(),
            json_log: None,
            egress: Egress::default(),
            reserved_concurrency: None,
            snap_start: false,
            allows_recursion: false,
            traced: false,
            dead_letters: None,
            per_tenant: false,
            program: false,
            file_system: None,
            web: None,
            tenant: None,
        }
    }

    #[test]
    fn a_digest_is_a_safe_file_name() {
        assert!(CodeDigest::parse(&"0a".repeat(32)).is_some());
        for wrong in ["", "../..", &"0A".repeat(32), &"0".repeat(63)] {
            assert!(CodeDigest::parse(wrong).is_none());
        }
    }
}

//! Runtime packs, seen from here: which pack serves a runtime, what belongs into it, and what the platform has.
//!
//! The platform keeps packs (`crates/server/src/packs.rs` says where); they are made here, by the package managers of the
//! machine that asks for them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::{Value as Json, json};

use super::install::{self, NpmOptions, Wanted};
use super::{java, package};

/// The clients of version 3 of the SDK that a pack has. Lambda has every one; these are those of services that functions
/// call most, and others can be named.
const NODE_CLIENTS: &[&str] = &[
    "@aws-sdk/client-apigatewaymanagementapi",
    "@aws-sdk/client-cloudwatch",
    "@aws-sdk/client-cloudwatch-logs",
    "@aws-sdk/client-cognito-identity-provider",
    "@aws-sdk/client-dynamodb",
    "@aws-sdk/client-eventbridge",
    "@aws-sdk/client-kinesis",
    "@aws-sdk/client-kms",
    "@aws-sdk/client-lambda",
    "@aws-sdk/client-s3",
    "@aws-sdk/client-scheduler",
    "@aws-sdk/client-secrets-manager",
    "@aws-sdk/client-ses",
    "@aws-sdk/client-sesv2",
    "@aws-sdk/client-sfn",
    "@aws-sdk/client-sns",
    "@aws-sdk/client-sqs",
    "@aws-sdk/client-ssm",
    "@aws-sdk/client-sts",
    "@aws-sdk/credential-providers",
    "@aws-sdk/lib-dynamodb",
    "@aws-sdk/lib-storage",
    "@aws-sdk/s3-request-presigner",
    "@aws-sdk/util-dynamodb",
];
/// The gems of the SDK for Ruby that a pack has, for the same services.
const RUBY_GEMS: &[&str] = &[
    "aws-sdk-apigatewaymanagementapi",
    "aws-sdk-cloudwatch",
    "aws-sdk-cloudwatchlogs",
    "aws-sdk-cognitoidentityprovider",
    "aws-sdk-dynamodb",
    "aws-sdk-eventbridge",
    "aws-sdk-kinesis",
    "aws-sdk-kms",
    "aws-sdk-lambda",
    "aws-sdk-s3",
    "aws-sdk-scheduler",
    "aws-sdk-secretsmanager",
    "aws-sdk-ses",
    "aws-sdk-sesv2",
    "aws-sdk-sns",
    "aws-sdk-sqs",
    "aws-sdk-ssm",
    "aws-sdk-states",
];
/// The first Node.js runtime that Lambda gives version 3 of the SDK.
const FIRST_WITH_V3: u32 = 18;

/// A pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pack {
    /// Version 3 of the SDK for JavaScript.
    Node,
    /// Version 2.
    Node16,
    /// The SDK for Python, for this version of Python.
    Python(u32, u32),
    /// The SDK for Ruby, for this version of Ruby.
    Ruby(u32, u32),
    /// AWS's runtime client for Java, without which no Java function runs.
    Java,
}

impl Pack {
    /// The pack that functions of a runtime get on a platform that answers so about its runtimes.
    ///
    /// # Errors
    /// The runtime is none that takes a pack, or the platform has no interpreter for it.
    pub fn of(runtime: &str, platform: &Json) -> Result<Self> {
        let Some(parsed) = model::Runtime::parse(runtime) else {
            if super::interpreters::family_of(runtime) == Some("php") {
                bail!("PHP is there, and has no SDK of the platform's: functions bring theirs, as with Bref");
            }
            bail!("the runtime {runtime:?} is not supported; there are {}", model::runtime::ACCEPTED.join(", "));
        };
        match (parsed.family(), parsed.version()) {
            (model::Family::Node, Some((major, _))) if major >= FIRST_WITH_V3 => Ok(Self::Node),
            (model::Family::Node, _) => Ok(Self::Node16),
            (model::Family::Java, _) => Ok(Self::Java),
            (family @ (model::Family::Python | model::Family::Ruby), _) => {
                let found = serving(runtime, platform);
                let number =
                    |index: usize| found.and_then(|found| u32::try_from(found["version"][index].as_u64()?).ok());
                match (number(0), number(1)) {
                    (Some(major), Some(minor)) if family == model::Family::Ruby => Ok(Self::Ruby(major, minor)),
                    (Some(major), Some(minor)) => Ok(Self::Python(major, minor)),
                    _ => bail!("the platform has no usable {family:?} for {runtime}; `dunlin doctor` says why"),
                }
            }
            _ => bail!("{runtime} brings its own program and takes no runtime pack"),
        }
    }

    /// Its name.
    pub fn name(&self) -> String {
        match self {
            Self::Node => "nodejs".into(),
            Self::Node16 => "nodejs16.x".into(),
            Self::Python(major, minor) => format!("python{major}.{minor}"),
            Self::Ruby(major, minor) => format!("ruby{major}.{minor}"),
            Self::Java => "java".into(),
        }
    }

    /// What it holds, for people.
    pub fn what(&self) -> &'static str {
        match self {
            Self::Node => "the AWS SDK for JavaScript, version 3",
            Self::Node16 => "the AWS SDK for JavaScript, version 2",
            Self::Python(..) => "the AWS SDK for Python (boto3)",
            Self::Ruby(..) => "the AWS SDK for Ruby, version 3",
            Self::Java => "the runtime client of AWS for Java",
        }
    }

    /// Installs it, with more packages if they are named, and returns its zip and its packages' versions.
    ///
    /// # Errors
    /// A package manager is missing or fails.
    pub fn make(&self, more: &[String], interpreter: Option<&Path>) -> Result<(Vec<u8>, BTreeMap<String, String>)> {
        let folder = std::env::temp_dir().join(format!("dunlin-pack-{}-{}", self.name(), std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir(&folder).with_context(|| format!("making {}", folder.display()))?;
        let made = self.make_in(&folder, more, interpreter);
        let _ = fs::remove_dir_all(&folder);
        made
    }

    fn make_in(
        &self,
        folder: &Path,
        more: &[String],
        interpreter: Option<&Path>,
    ) -> Result<(Vec<u8>, BTreeMap<String, String>)> {
        let versions = match self {
            Self::Python(major, minor) => {
                let packages = folder.join("site-packages");
                fs::create_dir(&packages)?;
                let line = (*major, *minor);
                let python = install::python(line, interpreter)?;
                let wanted: Vec<&str> = ["boto3"].into_iter().chain(more.iter().map(String::as_str)).collect();
                install::pip(&packages, &python, line, &wanted.join("\n"))?;
                install::pip_versions(&packages)?
            }
            Self::Ruby(..) => {
                let gems = folder.join("gems");
                fs::create_dir(&gems)?;
                let wanted: Vec<&str> = RUBY_GEMS.iter().copied().chain(more.iter().map(String::as_str)).collect();
                install::gems(&gems, interpreter, &wanted)?;
                install::gem_versions(&gems)?
            }
            Self::Java => java::make(folder, more)?,
            Self::Node | Self::Node16 => {
                install::npm(folder, &self.wanted(more), &NpmOptions::default())?;
                let modules = folder.join("node_modules");
                install::trim_sdk_v2(&modules.join("aws-sdk"));
                install::trim_types(&modules);
                let _ = fs::remove_file(modules.join(".package-lock.json"));
                install::npm_versions(&modules)?
            }
        };
        let mut manifest = json!({"name": self.name(), "packages": versions});
        if *self == Self::Java {
            manifest["guest"] = json!(java::guest_digest());
        }
        fs::write(folder.join("pack.json"), manifest.to_string())?;
        Ok((package::of_folder(folder)?, versions))
    }

    fn wanted(&self, more: &[String]) -> Wanted {
        let own: &[&str] = if *self == Self::Node { NODE_CLIENTS } else { &["aws-sdk"] };
        let version = if *self == Self::Node { "^3" } else { "^2" };
        let own = own.iter().map(|name| ((*name).to_owned(), version.to_owned()));
        own.chain(more.iter().map(|name| (name.clone(), "*".to_owned()))).collect()
    }
}

/// What the platform says about a runtime: the interpreter that serves it.
pub fn serving<'a>(runtime: &str, platform: &'a Json) -> Option<&'a Json> {
    platform["runtimes"].as_array()?.iter().find(|found| found["runtime"] == runtime)
}

/// The packages that functions of a runtime find on the platform, with their versions; none without a pack.
pub fn provided(runtime: &str, platform: &Json) -> BTreeMap<String, String> {
    let Ok(pack) = Pack::of(runtime, platform) else { return BTreeMap::new() };
    let name = pack.name();
    let packs = platform["packs"].as_array().map_or(&[][..], Vec::as_slice);
    let found = packs.iter().find(|pack| pack["name"] == name.as_str());
    let packages = found.and_then(|pack| pack["packages"].as_object()).into_iter().flatten();
    packages.map(|(name, version)| (name.clone(), version.as_str().unwrap_or("").to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_runtime_has_its_pack() {
        let platform = json!({
            "runtimes": [{"runtime": "python3.12", "version": [3, 11, 7]}, {"runtime": "ruby3.3", "version": [3, 1, 2]}],
            "packs": [{"name": "python3.11", "packages": {"boto3": "1.2.3"}}],
        });
        assert_eq!(Pack::of("nodejs18.x", &platform).unwrap().name(), "nodejs");
        assert_eq!(Pack::of("nodejs16.x", &platform).unwrap().name(), "nodejs16.x");
        assert_eq!(Pack::of("nodejs12.x", &platform).unwrap().name(), "nodejs16.x");
        assert_eq!(Pack::of("python3.12", &platform).unwrap(), Pack::Python(3, 11));
        assert_eq!(Pack::of("ruby3.3", &platform).unwrap().name(), "ruby3.1");
        assert!(Pack::of("php-84", &platform).unwrap_err().to_string().contains("functions bring theirs"));
        assert!(Pack::of("python3.13", &platform).unwrap_err().to_string().contains("no usable Python"));
        assert!(Pack::of("provided.al2023", &platform).is_err());
        assert_eq!(Pack::of("java21", &platform).unwrap().name(), "java");
        assert_eq!(provided("python3.12", &platform)["boto3"], "1.2.3");
        assert!(provided("nodejs20.x", &platform).is_empty());
    }
}

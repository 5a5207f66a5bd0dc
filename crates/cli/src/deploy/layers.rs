//! Layers of a project: packed, compared with the newest version of each on the platform, published where they differ.
//!
//! A function may list a layer of the project before its version has a number: then its ARN stands there without one until
//! the step is done.

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::Method;
use serde_json::{Value as Json, json};
use sha2::{Digest, Sha256};

use super::package;
use super::plan::{self, Action, Step};
use super::project::{Function, Layer, Project};
use crate::client::{Client, found};

/// The layers of a project as they are to be listed, and the steps that make them so.
#[derive(Debug, Default)]
pub struct Layers {
    /// Logical ids with ARNs; without a number where the version is yet to be made.
    arns: Vec<(String, String)>,
    /// What is missing.
    pub steps: Vec<Step>,
}

impl Layers {
    /// Packs the layers and looks what is there.
    ///
    /// # Errors
    /// When a folder or artifact cannot be read, or the platform not be asked.
    pub fn look(client: &Client, project: &Project, account: &str) -> Result<Self> {
        let mut all = Self::default();
        for layer in &project.layers {
            let zip = content(project, layer).with_context(|| format!("layer {}", layer.name))?;
            let wanted = input(layer, &zip);
            let live = newest(client, &project.region, &layer.name)?;
            let arn = match &live {
                Some(live) if is_as_wanted(client, project, layer, live, &wanted, &zip)? => {
                    text(&live["LayerVersionArn"])
                }
                _ => {
                    all.steps.push(Step {
                        verb: if live.is_some() { "update" } else { "create" },
                        subject: format!("layer {}", layer.name),
                        detail: format!("a version with {} KB", zip.len().div_ceil(1_024)),
                        action: Action::Layer(layer.name.clone(), wanted, layer.accounts.clone()),
                    });
                    format!("arn:aws:lambda:{}:{account}:layer:{}", project.region, layer.name)
                }
            };
            all.arns.push((layer.logical_id(), arn));
        }
        Ok(all)
    }

    /// The ARNs that a function is to list.
    ///
    /// # Errors
    /// When one of its references means nothing.
    pub fn of(&self, project: &Project, account: &str, function: &Function) -> Result<Vec<Json>> {
        let mut names = plan::names(project, account);
        names.refs.extend(self.arns.iter().cloned());
        let listed = function.layers.iter().map(|layer| names.evaluate(layer)).collect::<Result<_, _>>();
        listed.map_err(|message| anyhow::anyhow!("{}: layers: {message}", function.name))
    }
}

fn text(value: &Json) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn content(project: &Project, layer: &Layer) -> Result<Vec<u8>> {
    let path = project.root.join(&layer.path);
    if layer.is_artifact {
        return std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()));
    }
    if !path.is_dir() {
        bail!("{} is no folder", path.display());
    }
    package::of_folder(&path)
}

/// PublishLayerVersion's input.
fn input(layer: &Layer, zip: &[u8]) -> Json {
    json!({
        "Description": layer.description,
        "CompatibleRuntimes": layer.runtimes,
        "CompatibleArchitectures": layer.architectures,
        "LicenseInfo": layer.license,
        "Content": {"ZipFile": BASE64.encode(zip)},
    })
}

fn versions(name: &str) -> String {
    format!("/2018-10-31/layers/{name}/versions")
}

fn newest(client: &Client, region: &str, name: &str) -> Result<Option<Json>> {
    let list = client.rest("lambda", region, Method::GET, &format!("{}?MaxItems=1", versions(name)), None)?;
    let Some(number) = list["LayerVersions"][0]["Version"].as_u64() else { return Ok(None) };
    found(client.rest("lambda", region, Method::GET, &format!("{}/{number}", versions(name)), None))
}

fn is_as_wanted(
    client: &Client,
    project: &Project,
    layer: &Layer,
    live: &Json,
    wanted: &Json,
    zip: &[u8],
) -> Result<bool> {
    let list = |value: &Json| value.as_array().cloned().unwrap_or_default();
    let same = live["Content"]["CodeSha256"] == BASE64.encode(Sha256::digest(zip))
        && ["Description", "LicenseInfo"].iter().all(|name| text(&live[*name]) == text(&wanted[*name]))
        && ["CompatibleRuntimes", "CompatibleArchitectures"]
            .iter()
            .all(|name| list(&live[*name]) == list(&wanted[*name]));
    if !same {
        return Ok(false);
    }
    let path = format!("{}/{}/policy", versions(&layer.name), live["Version"]);
    let policy = found(client.rest("lambda", &project.region, Method::GET, &path, None))?.unwrap_or_default();
    let document: Json = serde_json::from_str(policy["Policy"].as_str().unwrap_or("{}")).unwrap_or_default();
    let mut sids: Vec<String> = list(&document["Statement"]).iter().map(|statement| text(&statement["Sid"])).collect();
    let mut accounts: Vec<String> = layer.accounts.iter().map(|account| statement_id(account)).collect();
    sids.sort();
    accounts.sort();
    Ok(sids == accounts)
}

fn statement_id(account: &str) -> String {
    format!("allow-{}", if account == "*" { "all" } else { account })
}

/// Makes a version that these accounts may have.
///
/// # Errors
/// When the platform refuses.
pub fn publish(client: &Client, region: &str, name: &str, input: &Json, accounts: &[String]) -> Result<()> {
    let made = client.rest("lambda", region, Method::POST, &versions(name), Some(input))?;
    let path = format!("{}/{}/policy", versions(name), made["Version"]);
    for account in accounts {
        let statement =
            json!({"StatementId": statement_id(account), "Action": "lambda:GetLayerVersion", "Principal": account});
        client.rest("lambda", region, Method::POST, &path, Some(&statement))?;
    }
    Ok(())
}

/// A function's input with the newest version of each layer that is listed without a number.
///
/// # Errors
/// When the platform cannot be asked, or there is no version.
pub fn numbered(client: &Client, region: &str, input: &Json) -> Result<Json> {
    let mut input = input.clone();
    for arn in input["Layers"].as_array_mut().into_iter().flatten() {
        let open = arn.as_str().and_then(|arn| arn.rsplit_once(":layer:")).filter(|(_, name)| !name.contains(':'));
        let Some((_, name)) = open else { continue };
        let live = newest(client, region, name)?.with_context(|| format!("the layer {name} has no version"))?;
        *arn = live["LayerVersionArn"].clone();
    }
    Ok(input)
}

//! `dunlin runtimes`: what serves each runtime, and the packs of SDKs that functions find there as on Lambda.

use std::path::PathBuf;

use anyhow::{Result, bail};
use http::Method;
use serde_json::Value as Json;

use crate::client::Client;
use crate::deploy::interpreters;
use crate::deploy::packs::{Pack, serving};
use crate::output;

/// Flags of `dunlin runtimes`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// List runtimes, the interpreters that serve them, and runtime packs
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Install what functions of a runtime need and the platform lacks: the interpreter, by the distribution's package
    /// manager; else the SDK that Lambda provides (for Java its runtime client), for all of them; again to update it
    Add {
        /// Runtime such as nodejs22.x, python3.12, ruby3.4 or java21; or ruby, php and the like
        runtime: String,
        /// Package to install beside the SDK, of Java GROUP:ARTIFACT:VERSION (may be repeated)
        #[arg(long = "with", value_name = "PACKAGE")]
        with: Vec<String>,
    },
    /// Take the SDK away from the functions of a runtime
    Remove {
        /// Runtime such as nodejs22.x or python3.12
        runtime: String,
    },
}

/// Lists or changes.
pub fn run(client: &Client, args: &Args) -> Result<()> {
    let platform = client.admin("/_dunlin/runtimes")?;
    match &args.action {
        None => show(&platform),
        Some(Action::List { json: false }) => show(&platform),
        Some(Action::List { json: true }) => output::data(&platform.to_string()),
        Some(Action::Add { runtime, with }) => add(client, &platform, runtime, with)?,
        Some(Action::Remove { runtime }) => {
            let pack = Pack::of(runtime, &platform)?;
            client.admin_change(Method::DELETE, &format!("/_dunlin/runtimes/{}", pack.name()), b"")?;
            output::say(&format!("{} is gone; environments that run keep what they have loaded", pack.name()));
        }
    }
    Ok(())
}

/// Installs a runtime's interpreter, where the platform has none; else makes its pack and gives it to the platform.
///
/// # Errors
/// The runtime takes none, a package manager fails, or the platform refuses.
pub fn add(client: &Client, platform: &Json, runtime: &str, with: &[String]) -> Result<()> {
    if let Some(absent) = interpreters::lacking(runtime, platform) {
        return interpreters::install(&client.endpoint, &absent);
    }
    let pack = Pack::of(runtime, platform)?;
    let binary = serving(runtime, platform).and_then(|found| found["binary"].as_str()).map(PathBuf::from);
    output::say(&format!("installing {} …", pack.what()));
    let (zip, versions) = pack.make(with, binary.as_deref().filter(|path| path.is_file()))?;
    if versions.is_empty() {
        bail!("the package manager installed nothing");
    }
    client.admin_change(Method::PUT, &format!("/_dunlin/runtimes/{}", pack.name()), &zip)?;
    output::say(&format!("{}: {} packages, {} MB", pack.name(), versions.len(), zip.len().div_ceil(1 << 20)));
    Ok(())
}

fn show(platform: &Json) {
    let list = |name: &str| platform[name].as_array().cloned().unwrap_or_default();
    let text = |value: &Json| value.as_str().unwrap_or("-").to_owned();
    let rows: Vec<Vec<String>> = list("runtimes")
        .iter()
        .map(|found| {
            let version: Vec<String> = found["version"].as_array().into_iter().flatten().map(Json::to_string).collect();
            let exact = if found["note"].is_string() { "another version" } else { "" };
            vec![text(&found["runtime"]), version.join("."), text(&found["binary"]), exact.to_owned()]
        })
        .collect();
    output::table(&["RUNTIME", "RUNS ON", "WHERE", ""], &rows);
    output::data("");
    let rows: Vec<Vec<String>> = list("packs")
        .iter()
        .map(|pack| {
            let packages = pack["packages"].as_object().cloned().unwrap_or_default();
            let own = packages
                .iter()
                .filter(|(name, _)| *name == "boto3" || name.contains("aws-sdk") || name.contains("aws-lambda"));
            let versions = own.map(|(name, version)| format!("{name} {}", text(version)));
            let shown: Vec<String> = versions.take(3).collect();
            vec![text(&pack["name"]), packages.len().to_string(), shown.join(", ")]
        })
        .collect();
    if rows.is_empty() {
        output::say(
            "No runtime pack is installed: `dunlin runtimes add nodejs22.x` gives functions the SDK that Lambda provides.",
        );
        return;
    }
    output::table(&["PACK", "PACKAGES", "AMONG THEM"], &rows);
}

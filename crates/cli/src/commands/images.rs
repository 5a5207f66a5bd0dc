//! `dunlin images`: brings container images from files to the platform, so that functions can be made of them.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::Method;
use oci::archive::{self, Blob};
use serde_json::{Value as Json, json};

use crate::client::Client;
use crate::output;

/// Bytes that are sent at once.
const PIECE_BYTES: usize = 8 * 1024 * 1024;

/// Flags of `dunlin images`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// List the images that were pushed to the platform
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Bring an image from a file: then NAME:TAG is an ImageUri that functions can be made of
    Push {
        /// What it is to be called: NAME[:TAG], without a host
        name: String,
        /// Archive that `docker save` (or another tool) has written, or a folder or archive of the OCI layout
        path: PathBuf,
        /// Which image to take of several: x86_64 or arm64 [default: that of this machine]
        #[arg(long, value_parser = ["x86_64", "arm64"])]
        architecture: Option<String>,
    },
    /// Take a name away; functions that were made of the image keep it
    Remove {
        /// NAME[:TAG]
        name: String,
    },
}

/// Lists or changes.
pub fn run(client: &Client, args: &Args) -> Result<()> {
    match &args.action {
        None => show(&client.admin("/_dunlin/images")?),
        Some(Action::List { json: false }) => show(&client.admin("/_dunlin/images")?),
        Some(Action::List { json: true }) => output::data(&client.admin("/_dunlin/images")?.to_string()),
        Some(Action::Push { name, path, architecture }) => {
            let own = if cfg!(target_arch = "aarch64") { "arm64" } else { "x86_64" };
            push(client, name, path, architecture.as_deref().unwrap_or(own))?;
        }
        Some(Action::Remove { name }) => {
            client.admin_change(Method::DELETE, &named(name)?, b"")?;
            output::say(&format!("{name} is gone; functions that were made of it keep the image"));
        }
    }
    Ok(())
}

/// The path of a name, which is checked so that it needs no escapes.
fn named(name: &str) -> Result<String> {
    let reference = oci::reference::Reference::parse(name).filter(|it| it.registry.is_none() && it.digest.is_none());
    match reference {
        Some(_) => Ok(format!("/_dunlin/images/named?{name}")),
        None => bail!("{name:?} is no name for an image of the platform: write NAME:TAG, lower case, without a host"),
    }
}

fn push(client: &Client, name: &str, path: &Path, architecture: &str) -> Result<()> {
    let place = named(name)?;
    let image =
        archive::open(path, architecture).with_context(|| format!("no image is taken from {}", path.display()))?;
    let total: u64 = image.layers.iter().map(|layer| layer.size).sum();
    output::say(&format!("{} layers, {} MB", image.layers.len(), total.div_ceil(1 << 20)));
    for layer in &image.layers {
        push_layer(client, layer).with_context(|| format!("the layer {}", layer.digest))?;
    }
    let document = json!({"manifest": BASE64.encode(&image.manifest), "config": BASE64.encode(&image.config)});
    let answer = client.admin_change(Method::PUT, &place, document.to_string().as_bytes())?;
    let shown = if name.contains(':') { name.to_owned() } else { format!("{name}:latest") };
    output::say(&format!("{shown} is {}", answer["digest"].as_str().unwrap_or_default()));
    output::data(&shown);
    Ok(())
}

fn push_layer(client: &Client, layer: &Blob) -> Result<()> {
    let asked = json!({"digest": layer.digest.to_string()});
    let answer = client.admin_change(Method::POST, "/_dunlin/images/layers", asked.to_string().as_bytes())?;
    let Some(push) = answer["push"].as_str() else { return Ok(()) };
    output::say(&format!("  sending {} ({} MB)", layer.digest, layer.size.div_ceil(1 << 20)));
    let mut content = layer.open()?;
    let mut at = 0u64;
    loop {
        let mut piece = Vec::new();
        (&mut content).take(PIECE_BYTES as u64).read_to_end(&mut piece)?;
        if piece.is_empty() {
            break;
        }
        client.admin_change(Method::PUT, &format!("/_dunlin/images/layers/{push}?at={at}"), &piece)?;
        at += piece.len() as u64;
    }
    client.admin_change(Method::POST, &format!("/_dunlin/images/layers/{push}"), b"").map(drop)
}

fn show(answer: &Json) {
    let images = answer["images"].as_array().map_or(&[][..], Vec::as_slice);
    if images.is_empty() {
        output::say("No image was pushed: `dunlin images push NAME:TAG FILE` takes what `docker save` has written.");
        return;
    }
    let row = |image: &Json| {
        let text = |name: &str| image[name].as_str().unwrap_or("-").to_owned();
        let megabytes = image["bytes"].as_u64().unwrap_or(0).div_ceil(1 << 20);
        let digest: String = text("digest").chars().take(19).collect();
        vec![text("name"), digest, image["layers"].to_string(), megabytes.to_string()]
    };
    output::table(&["IMAGE", "DIGEST", "LAYERS", "MB"], &images.iter().map(row).collect::<Vec<_>>());
}

//! Manifests, indexes and configurations of images. Pure.
//!
//! Docker's second schema and the OCI's are read, and nothing else. A multi-platform index is taken for the platform that is
//! asked for. Layers that are not in the registry (`foreign`, `nondistributable`) are refused.

use serde::Deserialize;
use serde_json::Value as Json;

use crate::{DOCUMENT_BYTES_MAX, Digest, LAYERS_MAX};

/// Docker's manifest.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker's index.
pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// The OCI's manifest.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// The OCI's index.
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// The OCI's configuration.
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const LAYERS: &[&str] = &[
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
];

/// Why a document is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error("{0}")]
    Unreadable(String),
    /// It is of a kind that is not supported.
    #[error("the media type {0:?} is not supported")]
    MediaType(String),
    /// It is not for this machine.
    #[error("it is for {found}, and this machine is {wanted}")]
    Platform {
        /// What there is.
        found: String,
        /// What was asked for.
        wanted: String,
    },
}

fn unreadable(words: impl ToString) -> Error {
    Error::Unreadable(words.to_string())
}

/// A piece of an image, by its digest.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it is.
    pub media_type: String,
    /// `sha256:DIGITS`
    #[serde(deserialize_with = "digest")]
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    /// Of a manifest in an index: what it is for.
    #[serde(default)]
    pub platform: Option<Platform>,
}

/// What an image runs on.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Platform {
    /// `amd64`
    pub architecture: String,
    /// `linux`
    pub os: String,
}

fn digest<'de, D: serde::Deserializer<'de>>(source: D) -> Result<Digest, D::Error> {
    let text = String::deserialize(source)?;
    Digest::parse(&text).ok_or_else(|| serde::de::Error::custom(format!("{text:?} is no SHA-256 digest")))
}

/// A configuration and layers, the lowest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The configuration.
    pub config: Descriptor,
    /// The layers.
    pub layers: Vec<Descriptor>,
}

/// What stands under a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// An image.
    Manifest(Manifest),
    /// Images for several platforms.
    Index(Vec<Descriptor>),
}

impl Document {
    /// Reads a manifest or an index; `said` is what it came as, if that was said.
    ///
    /// # Errors
    /// It is neither, or of a kind that is not supported.
    pub fn read(bytes: &[u8], said: Option<&str>) -> Result<Self, Error> {
        if bytes.len() > DOCUMENT_BYTES_MAX {
            return Err(Error::Unreadable(format!("it is longer than {DOCUMENT_BYTES_MAX} bytes")));
        }
        let json: Json = serde_json::from_slice(bytes).map_err(unreadable)?;
        let said = said.map(|said| said.split(';').next().unwrap_or(said).trim());
        let known = |kind: &&str| [MANIFEST, DOCKER_MANIFEST, INDEX, DOCKER_INDEX].contains(kind);
        let kind = json["mediaType"].as_str().or(said.filter(known));
        let shape = if json["manifests"].is_array() { INDEX } else { MANIFEST };
        match kind.unwrap_or(shape) {
            _ if json["schemaVersion"].as_u64() != Some(2) => {
                Err(Error::MediaType(said.unwrap_or("a manifest of another schema than 2").to_owned()))
            }
            MANIFEST | DOCKER_MANIFEST => manifest(&json).map(Self::Manifest),
            INDEX | DOCKER_INDEX => list(&json["manifests"]).map(Self::Index),
            other => Err(Error::MediaType(other.to_owned())),
        }
    }
}

fn list(json: &Json) -> Result<Vec<Descriptor>, Error> {
    Vec::<Descriptor>::deserialize(json).map_err(unreadable)
}

fn manifest(json: &Json) -> Result<Manifest, Error> {
    let config = Descriptor::deserialize(&json["config"]).map_err(unreadable)?;
    if ![CONFIG, DOCKER_CONFIG].contains(&config.media_type.as_str()) {
        return Err(Error::MediaType(config.media_type));
    }
    let layers = list(&json["layers"])?;
    if let Some(layer) = layers.iter().find(|layer| !LAYERS.contains(&layer.media_type.as_str())) {
        return Err(Error::MediaType(layer.media_type.clone()));
    }
    if layers.len() > LAYERS_MAX {
        return Err(Error::Unreadable(format!("it has more than {LAYERS_MAX} layers")));
    }
    Ok(Manifest { config, layers })
}

/// The image of an index for a machine: `x86_64` or `arm64`, as Lambda calls them.
///
/// # Errors
/// There is none.
pub fn choose<'a>(index: &'a [Descriptor], architecture: &str) -> Result<&'a Descriptor, Error> {
    let wanted = Platform { architecture: oci_architecture(architecture).to_owned(), os: "linux".to_owned() };
    let fits = |descriptor: &&Descriptor| descriptor.platform.as_ref() == Some(&wanted);
    if let [only] = index
        && only.platform.is_none()
    {
        return Ok(only);
    }
    index.iter().find(fits).ok_or_else(|| {
        let platforms = index.iter().filter_map(|descriptor| descriptor.platform.as_ref());
        let found: Vec<String> = platforms.map(|it| format!("{}/{}", it.os, it.architecture)).collect();
        Error::Platform { found: found.join(", "), wanted: format!("linux/{}", wanted.architecture) }
    })
}

/// Lambda's name of an architecture, as images have it.
pub fn oci_architecture(architecture: &str) -> &str {
    match architecture {
        "x86_64" => "amd64",
        other => other,
    }
}

/// What an image says about how it is run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// `ENTRYPOINT`
    pub entrypoint: Vec<String>,
    /// `CMD`
    pub command: Vec<String>,
    /// `WORKDIR`; empty: not said.
    pub working_folder: String,
    /// `ENV`, in order.
    pub environment: Vec<(String, String)>,
    /// Digests of the layers once decompressed.
    pub diff_ids: Vec<Digest>,
}

impl Config {
    /// Reads a configuration.
    ///
    /// # Errors
    /// It cannot be read, or is not for this machine (`x86_64`, `arm64`).
    pub fn read(bytes: &[u8], architecture: &str) -> Result<Self, Error> {
        #[derive(Deserialize)]
        struct Outer {
            #[serde(default)]
            architecture: String,
            #[serde(default)]
            os: String,
            #[serde(default)]
            config: Option<Inner>,
            rootfs: RootFs,
        }
        #[derive(Default, Deserialize)]
        #[serde(rename_all = "PascalCase", default)]
        struct Inner {
            entrypoint: Option<Vec<String>>,
            cmd: Option<Vec<String>>,
            env: Option<Vec<String>>,
            working_dir: Option<String>,
        }
        #[derive(Deserialize)]
        struct RootFs {
            diff_ids: Option<Vec<String>>,
        }
        let outer: Outer = serde_json::from_slice(bytes).map_err(unreadable)?;
        let wanted = format!("linux/{}", oci_architecture(architecture));
        let found = format!("{}/{}", outer.os, outer.architecture);
        if found != wanted {
            return Err(Error::Platform { found, wanted });
        }
        let inner = outer.config.unwrap_or_default();
        let pair = |text: String| {
            let (name, value) = text.split_once('=').unwrap_or((&text, ""));
            (name.to_owned(), value.to_owned())
        };
        let one = |text: &String| Digest::parse(text).ok_or_else(|| unreadable(format!("{text:?} is no digest")));
        let diff_ids = outer.rootfs.diff_ids.unwrap_or_default();
        let config = Self {
            entrypoint: inner.entrypoint.unwrap_or_default(),
            command: inner.cmd.unwrap_or_default(),
            working_folder: inner.working_dir.unwrap_or_default(),
            environment: inner.env.unwrap_or_default().into_iter().map(pair).collect(),
            diff_ids: diff_ids.iter().map(one).collect::<Result<_, _>>()?,
        };
        let all = config.entrypoint.iter().chain(&config.command).chain([&config.working_folder]);
        let all = all.chain(config.environment.iter().flat_map(|(name, value)| [name, value]));
        if all.into_iter().any(|text| text.contains('\0')) || config.environment.iter().any(|(name, _)| name.is_empty())
        {
            return Err(unreadable("the configuration has words that no program can be given"));
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn descriptor(kind: &str, n: char) -> Json {
        json!({"mediaType": kind, "digest": format!("sha256:{}", n.to_string().repeat(64)), "size": 7})
    }

    #[test]
    fn manifests_of_both_makers_are_read() {
        for (kind, config, layer) in
            [(MANIFEST, CONFIG, LAYERS[1]), (DOCKER_MANIFEST, DOCKER_CONFIG, LAYERS[4]), (MANIFEST, CONFIG, LAYERS[2])]
        {
            let mut json = json!({"schemaVersion": 2, "mediaType": kind, "config": descriptor(config, 'a'), "layers": [descriptor(layer, 'b')]});
            for said in [None, Some(kind), Some("application/json")] {
                let Ok(Document::Manifest(read)) = Document::read(json.to_string().as_bytes(), said) else {
                    panic!("{kind} {said:?}")
                };
                assert_eq!(read.layers[0].digest.digits(), "b".repeat(64));
            }
            json.as_object_mut().unwrap().remove("mediaType");
            assert!(Document::read(json.to_string().as_bytes(), None).is_ok(), "the OCI leaves it to the registry");
        }
    }

    #[test]
    fn what_is_not_supported_is_named() {
        let good = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor(CONFIG, 'a'), "layers": [descriptor(LAYERS[0], 'b')]});
        let with = |pointer: &str, value: Json| {
            let mut json = good.clone();
            *json.pointer_mut(pointer).unwrap() = value;
            Document::read(json.to_string().as_bytes(), None)
        };
        assert!(with("/schemaVersion", json!(2)).is_ok());
        for (pointer, value) in [
            ("/schemaVersion", json!(1)),
            ("/mediaType", json!("application/vnd.example+json")),
            ("/config/mediaType", json!("application/vnd.wasm.config.v0+json")),
            ("/layers/0/mediaType", json!("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip")),
        ] {
            assert!(matches!(with(pointer, value), Err(Error::MediaType(_))), "{pointer}");
        }
        for (pointer, value) in [
            ("/layers/0/digest", json!("sha256:../../x")),
            ("/layers/0/digest", json!("md5:00")),
            ("/layers/0/size", json!(-1)),
            ("/layers", json!(vec![descriptor(LAYERS[0], 'b'); 128])),
            ("/config", json!(null)),
        ] {
            assert!(matches!(with(pointer, value), Err(Error::Unreadable(_))), "{pointer}");
        }
    }

    #[test]
    fn the_machines_image_is_chosen_of_several() {
        let mut list = Vec::new();
        for (n, architecture) in [('a', "arm64"), ('b', "amd64"), ('c', "unknown")] {
            let mut one = descriptor(MANIFEST, n);
            one["platform"] = json!({"architecture": architecture, "os": "linux", "variant": "v8"});
            list.push(one);
        }
        let json = json!({"schemaVersion": 2, "manifests": list});
        let Ok(Document::Index(index)) = Document::read(json.to_string().as_bytes(), None) else { panic!() };
        assert!(choose(&index, "x86_64").unwrap().digest.digits().starts_with('b'));
        assert!(choose(&index, "arm64").unwrap().digest.digits().starts_with('a'));
        let error = choose(&index[..1], "x86_64").unwrap_err().to_string();
        assert_eq!(error, "it is for linux/arm64, and this machine is linux/amd64");
    }

    #[test]
    fn a_configuration_says_what_runs() {
        let diff = format!("sha256:{}", "0".repeat(64));
        let json = json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [diff]},
            "config": {"Entrypoint": ["/e"], "Cmd": null, "Env": ["A=b=c", "D"], "WorkingDir": "/w", "User": "1"}});
        let config = Config::read(json.to_string().as_bytes(), "x86_64").unwrap();
        assert_eq!((config.entrypoint.len(), config.command.len(), config.working_folder.as_str()), (1, 0, "/w"));
        assert_eq!(config.environment[0], ("A".to_owned(), "b=c".to_owned()));
        assert_eq!(config.environment[1], ("D".to_owned(), String::new()));
        assert!(matches!(Config::read(json.to_string().as_bytes(), "arm64"), Err(Error::Platform { .. })));
        let mut nul = json.clone();
        nul["config"]["Cmd"] = json!(["a\0b"]);
        assert!(Config::read(nul.to_string().as_bytes(), "x86_64").is_err());
    }

    proptest::proptest! {
        #[test]
        fn never_panics_on_noise(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let _ = Document::read(&bytes, None);
            let _ = Config::read(&bytes, "x86_64");
        }
    }
}

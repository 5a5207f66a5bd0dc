//! What is to be deployed, whatever file said so.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Map, Value as Json};

/// A folder's worth of functions, routes and tables.
#[derive(Debug, Clone, PartialEq)]
pub struct Project {
    /// `service:` of a serverless.yml, else the folder's name.
    pub service: String,
    /// `dev` if nothing says otherwise.
    pub stage: String,
    /// Region that names are made in.
    pub region: String,
    /// The folder that code paths are relative to.
    pub root: PathBuf,
    /// Functions in the file's order.
    pub functions: Vec<Function>,
    /// Layers in the file's order.
    pub layers: Vec<Layer>,
    /// Tables in the file's order, as CreateTable inputs.
    pub tables: Vec<Table>,
    /// Cross-origin settings of the HTTP API, as CreateApi's `corsConfiguration`.
    pub http_api_cors: Option<Json>,
    /// Things that the user should know: defaults that were inferred, settings without effect.
    pub notes: Vec<String>,
}

impl Project {
    /// `SERVICE-STAGE`, the start of every made-up name.
    pub fn stack(&self) -> String {
        format!("{}-{}", self.service, self.stage)
    }

    /// The REST API's name, as the Serverless Framework makes it.
    pub fn rest_api_name(&self) -> String {
        format!("{}-{}", self.stage, self.service)
    }

    /// The HTTP API's name, as the Serverless Framework makes it.
    pub fn http_api_name(&self) -> String {
        self.rest_api_name()
    }

    /// Every REST route with its function's name.
    pub fn rest_routes(&self) -> impl Iterator<Item = (&RestRoute, &Function)> {
        self.functions.iter().flat_map(|function| function.rest.iter().map(move |route| (route, function)))
    }

    /// Every HTTP API route with its function's name.
    pub fn http_routes(&self) -> impl Iterator<Item = (&HttpRoute, &Function)> {
        self.functions.iter().flat_map(|function| function.http.iter().map(move |route| (route, function)))
    }
}

/// One function.
#[derive(Debug, Clone, PartialEq)]
pub struct Function {
    /// Its key in the file.
    pub key: String,
    /// Its name on the platform.
    pub name: String,
    /// `path/file.export`, relative to the root.
    pub handler: String,
    /// The container image that it is; handler, runtime and packages say nothing then.
    pub image: Option<Image>,
    /// Runtime identifier; nothing: to be inferred from the handler's file.
    pub runtime: Option<String>,
    /// MiB.
    pub memory_mb: u64,
    /// Seconds.
    pub timeout_s: u64,
    /// Text for people.
    pub description: String,
    /// Variables; values may still hold CloudFormation functions.
    pub environment: BTreeMap<String, Json>,
    /// ARNs of layer versions, in their order; values may be CloudFormation functions.
    pub layers: Vec<Json>,
    /// How its log is written, as CreateFunction's `LoggingConfig`; what is absent is the default.
    pub logging: Map<String, Json>,
    /// The network that it is in.
    pub vpc: Vpc,
    /// The file system that it has.
    pub file_system: Option<FileSystem>,
    /// Tags.
    pub tags: BTreeMap<String, String>,
    /// What becomes of its events.
    pub events: Events,
    /// Reserved concurrency, if any.
    pub reserved_concurrency: Option<u64>,
    /// Environments that are there always: of a version under the alias `PROVISIONED`, which events then lead to.
    pub provisioned: Option<u64>,
    /// Whether versions begin from snapshots; without `provisioned`, events then lead to the alias `SNAP_START` of one.
    pub snap_start: bool,
    /// MiB of `/tmp`, if said.
    pub tmp_mb: Option<u64>,
    /// `http` events.
    pub rest: Vec<RestRoute>,
    /// `httpApi` events.
    pub http: Vec<HttpRoute>,
    /// `stream` events.
    pub streams: Vec<StreamEvent>,
    /// A function URL, if wanted.
    pub url: Option<UrlConfig>,
    /// `package.patterns`, provider-wide ones first; a leading `!` takes away.
    pub patterns: Vec<String>,
    /// `package.artifact`: the zip or jar that is its code, relative to the root; nothing: the folder is packed.
    pub artifact: Option<PathBuf>,
}

/// A container image, and what takes the place of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Image {
    /// `ImageUri`
    pub uri: String,
    /// `EntryPoint`; empty: the image's own.
    pub entrypoint: Vec<String>,
    /// `Command`; empty: the image's own.
    pub command: Vec<String>,
    /// `WorkingDirectory`
    pub folder: Option<String>,
}

/// A function's network; nothing: none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Vpc {
    /// `subnetIds`
    pub subnets: Vec<String>,
    /// `securityGroupIds`
    pub security_groups: Vec<String>,
    /// `ipv6AllowedForDualStack`
    pub ipv6: bool,
}

/// A function's file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSystem {
    /// The ARN of its access point.
    pub arn: String,
    /// `/mnt/NAME`
    pub path: String,
}

/// What becomes of a function's events; nothing set: the platform's defaults, and nobody is told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Events {
    /// Retries after an error.
    pub retries: Option<u64>,
    /// Seconds to which an event is tried.
    pub age_s: Option<u64>,
    /// Who is told of an event that was handled.
    pub on_success: Option<Destination>,
    /// Who is told of one that was given up.
    pub on_failure: Option<Destination>,
}

/// Who is told of the end of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// A function of the project: while the file is read by its key, afterwards as events call it.
    Function(String),
    /// Any function.
    Arn(String),
}

/// A layer that the project brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Its key in the file.
    pub key: String,
    /// Its name on the platform.
    pub name: String,
    /// The folder that becomes `/opt`, or the zip of it; relative to the root.
    pub path: PathBuf,
    /// `path` is a zip.
    pub is_artifact: bool,
    /// Text for people.
    pub description: String,
    /// `compatibleRuntimes`
    pub runtimes: Vec<String>,
    /// `compatibleArchitectures`
    pub architectures: Vec<String>,
    /// `licenseInfo`
    pub license: Option<String>,
    /// Other accounts that may have it; `*` is all.
    pub accounts: Vec<String>,
}

impl Layer {
    /// What `Ref` calls it, as the Serverless Framework makes it.
    pub fn logical_id(&self) -> String {
        let mut letters = self.key.chars();
        let first = letters.next().map(|letter| letter.to_ascii_uppercase());
        let id: String = first.into_iter().chain(letters).collect();
        format!("{}LambdaLayer", id.replace('-', "Dash").replace('_', "Underscore"))
    }
}

/// The alias of what is provisioned, as the Serverless Framework names it.
pub const PROVISIONED: &str = "provisioned";
/// The alias of what begins from snapshots, as the Serverless Framework names it.
pub const SNAP_START: &str = "snapstart";

impl Function {
    /// The alias of a version that events lead to; nothing: they lead to the function as it is.
    pub fn alias(&self) -> Option<&'static str> {
        self.provisioned.map(|_| PROVISIONED).or(self.snap_start.then_some(SNAP_START))
    }

    /// What events call: the function, or the alias of a version of it.
    pub fn target(&self) -> String {
        match self.alias() {
            Some(alias) => format!("{}:{alias}", self.name),
            None => self.name.clone(),
        }
    }
}

/// A table's stream whose records a function gets.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamEvent {
    /// The ARN of the stream, or functions that give it.
    pub source: Json,
    /// The rest of CreateEventSourceMapping's input.
    pub input: Map<String, Json>,
}

/// A route of the REST API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestRoute {
    /// `/items/{id}`
    pub path: String,
    /// Upper case, or `ANY`.
    pub method: String,
    /// Whether a CORS preflight answers there.
    pub cors: bool,
}

/// A route of the HTTP API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpRoute {
    /// `GET /items/{id}`, `ANY /x`, or `$default`.
    pub key: String,
    /// `1.0` or `2.0`.
    pub payload: String,
}

/// A function URL's settings.
#[derive(Debug, Clone, PartialEq)]
pub struct UrlConfig {
    /// `NONE` or `AWS_IAM`.
    pub auth: String,
    /// As CreateFunctionUrlConfig's `Cors`.
    pub cors: Option<Json>,
    /// Whether answers are streamed (`RESPONSE_STREAM`).
    pub stream: bool,
}

impl Default for UrlConfig {
    /// Open to everybody, answers whole.
    fn default() -> Self {
        Self { auth: "NONE".into(), cors: None, stream: false }
    }
}

/// A table.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    /// Its key under `Resources`.
    pub logical_id: String,
    /// Its name on the platform.
    pub name: String,
    /// CreateTable's input.
    pub input: Json,
}

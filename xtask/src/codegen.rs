//! `xtask codegen [--check] MODELS`: writes `crates/aws/src/generated/*.rs` from botocore's service models.
//!
//! MODELS is botocore's `data` folder (`pip install botocore` into a virtual environment puts it at
//! `lib/python3*/site-packages/botocore/data`). Models may be gzipped, as botocore ships them. With `--check` nothing
//! is written: the task fails if a file is not what it would write.
//!
//! What is supported is said here, in `SERVICES`; a supported operation gets its shapes, all others their names and
//! routes only. Output members are written out only where the wire has to do something with them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Map, Value};

struct Service {
    folder: &'static str,
    module: &'static str,
    /// Put before every operation's name, to tell two models of one signing name apart.
    prefix: &'static str,
    /// Shapes whose enumeration is the service's own business.
    open_enums: &'static [&'static str],
    supported: &'static [&'static str],
}

const SERVICES: &[Service] = &[
    Service {
        folder: "apigateway",
        module: "apigateway",
        prefix: "",
        open_enums: &[],
        supported: &[
            "CreateDeployment",
            "CreateResource",
            "CreateRestApi",
            "CreateStage",
            "DeleteDeployment",
            "DeleteIntegration",
            "DeleteIntegrationResponse",
            "DeleteMethod",
            "DeleteMethodResponse",
            "DeleteResource",
            "DeleteRestApi",
            "DeleteStage",
            "GetDeployment",
            "GetDeployments",
            "GetIntegration",
            "GetIntegrationResponse",
            "GetMethod",
            "GetMethodResponse",
            "GetResource",
            "GetResources",
            "GetRestApi",
            "GetRestApis",
            "GetStage",
            "GetStages",
            "PutIntegration",
            "PutIntegrationResponse",
            "PutMethod",
            "PutMethodResponse",
            "UpdateRestApi",
            "UpdateStage",
        ],
    },
    Service {
        folder: "apigatewayv2",
        module: "apigatewayv2",
        prefix: "v2.",
        open_enums: &[],
        supported: &[
            "CreateApi",
            "CreateDeployment",
            "CreateIntegration",
            "CreateRoute",
            "CreateStage",
            "DeleteApi",
            "DeleteCorsConfiguration",
            "DeleteDeployment",
            "DeleteIntegration",
            "DeleteRoute",
            "DeleteStage",
            "GetApi",
            "GetApis",
            "GetDeployment",
            "GetDeployments",
            "GetIntegration",
            "GetIntegrations",
            "GetRoute",
            "GetRoutes",
            "GetStage",
            "GetStages",
            "UpdateApi",
            "UpdateIntegration",
            "UpdateRoute",
            "UpdateStage",
        ],
    },
    Service {
        folder: "dynamodb",
        module: "dynamodb",
        prefix: "",
        open_enums: &[],
        supported: &[
            "BatchExecuteStatement",
            "BatchGetItem",
            "BatchWriteItem",
            "CreateBackup",
            "CreateTable",
            "DeleteBackup",
            "DeleteItem",
            "DeleteResourcePolicy",
            "DeleteTable",
            "DescribeBackup",
            "DescribeContinuousBackups",
            "DescribeEndpoints",
            "DescribeLimits",
            "DescribeTable",
            "DescribeTimeToLive",
            "ExecuteStatement",
            "ExecuteTransaction",
            "GetItem",
            "GetResourcePolicy",
            "ListBackups",
            "ListTables",
            "ListTagsOfResource",
            "PutItem",
            "PutResourcePolicy",
            "Query",
            "RestoreTableFromBackup",
            "RestoreTableToPointInTime",
            "Scan",
            "TagResource",
            "TransactGetItems",
            "TransactWriteItems",
            "UntagResource",
            "UpdateContinuousBackups",
            "UpdateItem",
            "UpdateTable",
            "UpdateTimeToLive",
        ],
    },
    Service {
        folder: "dynamodbstreams",
        module: "dynamodbstreams",
        prefix: "",
        open_enums: &[],
        supported: &["DescribeStream", "GetRecords", "GetShardIterator", "ListStreams"],
    },
    Service {
        folder: "iam",
        module: "iam",
        prefix: "",
        open_enums: &[],
        supported: &[
            "AttachRolePolicy",
            "CreatePolicy",
            "CreatePolicyVersion",
            "CreateRole",
            "DeletePolicy",
            "DeletePolicyVersion",
            "DeleteRole",
            "DeleteRolePolicy",
            "DetachRolePolicy",
            "GetPolicy",
            "GetPolicyVersion",
            "GetRole",
            "GetRolePolicy",
            "ListAttachedRolePolicies",
            "ListInstanceProfilesForRole",
            "ListPolicies",
            "ListPolicyVersions",
            "ListRolePolicies",
            "ListRoleTags",
            "ListRoles",
            "PutRolePolicy",
            "TagRole",
            "UntagRole",
            "UpdateAssumeRolePolicy",
            "UpdateRole",
        ],
    },
    Service {
        folder: "lambda",
        module: "lambda",
        prefix: "",
        open_enums: &["Runtime"],
        supported: &[
            "AddLayerVersionPermission",
            "AddPermission",
            "CreateAlias",
            "CreateCodeSigningConfig",
            "CreateEventSourceMapping",
            "CreateFunction",
            "CreateFunctionUrlConfig",
            "DeleteAlias",
            "DeleteCodeSigningConfig",
            "DeleteEventSourceMapping",
            "DeleteFunction",
            "DeleteFunctionCodeSigningConfig",
            "DeleteFunctionConcurrency",
            "DeleteFunctionEventInvokeConfig",
            "DeleteFunctionUrlConfig",
            "DeleteLayerVersion",
            "DeleteProvisionedConcurrencyConfig",
            "DeleteResourcePolicy",
            "GetAccountSettings",
            "GetAlias",
            "GetCodeSigningConfig",
            "GetEventSourceMapping",
            "GetFunction",
            "GetFunctionCodeSigningConfig",
            "GetFunctionConcurrency",
            "GetFunctionConfiguration",
            "GetFunctionEventInvokeConfig",
            "GetFunctionRecursionConfig",
            "GetFunctionUrlConfig",
            "GetLayerVersion",
            "GetLayerVersionByArn",
            "GetLayerVersionPolicy",
            "GetPolicy",
            "GetProvisionedConcurrencyConfig",
            "GetResourcePolicy",
            "GetRuntimeManagementConfig",
            "Invoke",
            "InvokeAsync",
            "InvokeWithResponseStream",
            "ListAliases",
            "ListCodeSigningConfigs",
            "ListEventSourceMappings",
            "ListFunctionEventInvokeConfigs",
            "ListFunctionUrlConfigs",
            "ListFunctions",
            "ListFunctionsByCodeSigningConfig",
            "ListLayerVersions",
            "ListLayers",
            "ListProvisionedConcurrencyConfigs",
            "ListTags",
            "ListVersionsByFunction",
            "PublishLayerVersion",
            "PublishVersion",
            "PutFunctionCodeSigningConfig",
            "PutFunctionConcurrency",
            "PutFunctionEventInvokeConfig",
            "PutFunctionRecursionConfig",
            "PutProvisionedConcurrencyConfig",
            "PutResourcePolicy",
            "PutRuntimeManagementConfig",
            "RemoveLayerVersionPermission",
            "RemovePermission",
            "TagResource",
            "UntagResource",
            "UpdateAlias",
            "UpdateCodeSigningConfig",
            "UpdateEventSourceMapping",
            "UpdateFunctionCode",
            "UpdateFunctionConfiguration",
            "UpdateFunctionEventInvokeConfig",
            "UpdateFunctionUrlConfig",
        ],
    },
    Service {
        folder: "logs",
        module: "logs",
        prefix: "",
        open_enums: &[],
        supported: &[
            "CreateLogGroup",
            "CreateLogStream",
            "DeleteLogGroup",
            "DeleteLogStream",
            "DeleteRetentionPolicy",
            "DescribeLogGroups",
            "DescribeLogStreams",
            "FilterLogEvents",
            "GetLogEvents",
            "PutLogEvents",
            "PutRetentionPolicy",
        ],
    },
    Service {
        folder: "sts",
        module: "sts",
        prefix: "",
        open_enums: &[],
        supported: &["AssumeRole", "GetCallerIdentity", "GetSessionToken"],
    },
];

/// Runs the task.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let check = arguments.iter().any(|argument| argument == "--check");
    let models = arguments.iter().find(|argument| !argument.starts_with("--"));
    let models = Path::new(models.context("usage: xtask codegen [--check] BOTOCORE_DATA_FOLDER")?);
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/aws/src/generated");
    let mut files: BTreeMap<PathBuf, String> = BTreeMap::new();
    for service in SERVICES {
        let model = read_model(&models.join(service.folder))?;
        let text = Writer::new(service, &model)?.write()?;
        files.insert(target.join(format!("{}.rs", service.module)), text);
    }
    files.insert(target.join("mod.rs"), index());
    for (path, text) in files {
        if check {
            let present = fs::read_to_string(&path).unwrap_or_default();
            if present != text {
                bail!("{} is out of date: run `cargo run -p xtask -- codegen {}`", path.display(), models.display());
            }
        } else {
            fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        }
    }
    Ok(())
}

fn index() -> String {
    let mut text = String::from(
        "// @generated by `xtask codegen`; do not edit.\n\
         //! Tables of the public service models, written by `xtask codegen`.\n//!\n\
         //! Static data only; the types are in `model_table`, what is supported is said in the task.\n\n",
    );
    for service in SERVICES {
        let _ = writeln!(text, "#[rustfmt::skip]\npub(crate) mod {};", service.module);
    }
    text
}

/// The newest model in a service's folder.
fn read_model(folder: &Path) -> Result<Value> {
    let mut versions: Vec<PathBuf> = fs::read_dir(folder)
        .with_context(|| format!("no service model in {}", folder.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    versions.sort();
    for version in versions.iter().rev() {
        let plain = version.join("service-2.json");
        if plain.exists() {
            return Ok(serde_json::from_slice(&fs::read(plain)?)?);
        }
        let packed = version.join("service-2.json.gz");
        if packed.exists() {
            let output = Command::new("gzip").arg("-dc").arg(&packed).output().context("running gzip")?;
            return Ok(serde_json::from_slice(&output.stdout)?);
        }
    }
    Err(anyhow!("no service-2.json below {}", folder.display()))
}

struct Writer<'a> {
    service: &'a Service,
    metadata: &'a Value,
    operations: &'a Map<String, Value>,
    shapes: &'a Map<String, Value>,
    /// Shapes that inputs or outputs need.
    needed: BTreeSet<&'a str>,
    patterns: Vec<&'a str>,
}

impl<'a> Writer<'a> {
    fn new(service: &'a Service, model: &'a Value) -> Result<Self> {
        let object = |key: &str| model[key].as_object().with_context(|| format!("the model lacks {key}"));
        let (operations, shapes) = (object("operations")?, object("shapes")?);
        for name in service.supported {
            if !operations.contains_key(*name) {
                bail!("{} has no operation {name}", service.folder);
            }
        }
        Ok(Self {
            service,
            metadata: &model["metadata"],
            operations,
            shapes,
            needed: BTreeSet::new(),
            patterns: Vec::new(),
        })
    }

    fn write(mut self) -> Result<String> {
        let mut names: Vec<&String> = self.operations.keys().collect();
        names.sort();
        let mut operations = String::new();
        let mut shapes_of_operations = String::new();
        for name in names {
            let operation = &self.operations[name];
            let supported = self.service.supported.contains(&name.as_str());
            let io = if supported { format!("Some(&IO_{name})") } else { "None".into() };
            let http = &operation["http"];
            let _ = writeln!(
                operations,
                "    Operation {{ name: {:?}, method: {}, uri: {}, status: {}, io: {io} }},",
                format!("{}{name}", self.service.prefix),
                http["method"],
                http["requestUri"],
                http["responseCode"].as_u64().unwrap_or(200),
            );
            if supported {
                shapes_of_operations.push_str(&self.io(name, operation)?);
            }
        }
        let shapes = self.shape_statics()?;
        let mut text = self.head();
        let _ = write!(text, "pub(crate) static MODEL: Model = {};\n\n", self.model_literal());
        let _ = write!(text, "static OPERATIONS: &[Operation] = &[\n{operations}];\n\n");
        text.push_str(&shapes_of_operations);
        text.push('\n');
        for (number, pattern) in self.patterns.iter().enumerate() {
            let _ = writeln!(text, "static P{number}: Pattern = Pattern::new({pattern:?});");
        }
        text.push('\n');
        text.push_str(&shapes);
        Ok(text)
    }

    fn head(&self) -> String {
        format!(
            "// @generated by `xtask codegen`; do not edit.\n\
             //! The public model of {}, version {}, as tables.\n//!\n\
             //! All operations by name and route; shapes of the supported ones.\n\n\
             #![allow(non_upper_case_globals, unused_imports)]\n\n\
             use crate::model_table::{{Io, Kind, Location, Member, Model, Operation, Pattern, Shape, TimeFormat}};\n\n",
            self.metadata["serviceFullName"].as_str().unwrap_or_default(),
            self.metadata["apiVersion"].as_str().unwrap_or_default(),
        )
    }

    fn model_literal(&self) -> String {
        let text = |key: &str| self.metadata[key].as_str().unwrap_or_default();
        format!(
            "Model {{ version: {:?}, target_prefix: {:?}, xml_namespace: {:?}, operations: OPERATIONS }}",
            text("apiVersion"),
            text("targetPrefix"),
            text("xmlNamespace"),
        )
    }

    fn io(&mut self, name: &str, operation: &'a Value) -> Result<String> {
        let (mut input, mut input_payload) = (String::from("&[]"), "");
        if let Some(shape) = operation["input"]["shape"].as_str() {
            input = self.members(shape, false)?;
            input_payload = self.payload(shape)?;
        }
        let (mut output, mut output_payload) = (String::from("&[]"), "");
        if let Some(shape) = operation["output"]["shape"].as_str() {
            if self.metadata["protocol"] != "query" {
                output = self.members(shape, true)?;
            }
            output_payload = self.payload(shape)?;
        }
        Ok(format!(
            "static IO_{name}: Io = Io {{\n    input: {input},\n    input_payload: {input_payload:?},\n    \
             output: {output},\n    output_payload: {output_payload:?},\n}};\n"
        ))
    }

    fn payload(&self, shape: &str) -> Result<&'a str> {
        let Some(member) = self.shapes[shape]["payload"].as_str() else { return Ok("") };
        let target = self.shapes[shape]["members"][member]["shape"].as_str().unwrap_or_default();
        if self.shapes[target]["type"] != "blob" && self.shapes[target]["eventstream"] != true {
            bail!("{shape}: only blobs and event streams are supported as payloads, {member} is neither");
        }
        Ok(member)
    }

    /// The members of a structure as a slice. Of an output, only those that the wire must treat.
    fn members(&mut self, structure: &str, output: bool) -> Result<String> {
        let shape = &self.shapes[structure];
        let required: BTreeSet<&str> =
            shape["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let members = shape["members"].as_object().with_context(|| format!("{structure} has no members"))?;
        let mut text = String::from("&[\n");
        for (name, member) in members {
            let target = member["shape"].as_str().with_context(|| format!("{structure}.{name} has no shape"))?;
            if output && !self.needs_treatment(name, member, &mut BTreeSet::new()) {
                continue;
            }
            if shape["payload"] == name.as_str() {
                continue;
            }
            let location = match member["location"].as_str() {
                None => "Body",
                Some("uri") => "Uri",
                Some("querystring") => "Query",
                Some("header") => "Header",
                Some("statusCode") => "Status",
                Some(other) => bail!("{structure}.{name}: members in {other} are not supported"),
            };
            self.need(target);
            let _ = writeln!(
                text,
                "    Member {{ name: {name:?}, wire: {:?}, location: Location::{location}, required: {}, shape: &S_{target} }},",
                member["locationName"].as_str().unwrap_or(name),
                required.contains(name.as_str()),
            );
        }
        text.push(']');
        Ok(text)
    }

    /// Whether an output member is more than a body member of its own name and JSON's own form.
    fn needs_treatment(&self, name: &str, member: &'a Value, seen: &mut BTreeSet<&'a str>) -> bool {
        if member["location"].is_string() || member["locationName"].as_str().is_some_and(|wire| wire != name) {
            return true;
        }
        member["shape"].as_str().is_some_and(|shape| self.shape_needs_treatment(shape, seen))
    }

    fn shape_needs_treatment(&self, name: &'a str, seen: &mut BTreeSet<&'a str>) -> bool {
        if !seen.insert(name) {
            return false;
        }
        let shape = &self.shapes[name];
        match shape["type"].as_str() {
            Some("timestamp") => shape["timestampFormat"].is_string(),
            Some("list") => shape["member"]["shape"].as_str().is_some_and(|s| self.shape_needs_treatment(s, seen)),
            Some("map") => shape["value"]["shape"].as_str().is_some_and(|s| self.shape_needs_treatment(s, seen)),
            Some("structure") => {
                let members = shape["members"].as_object().into_iter().flatten();
                members.into_iter().any(|(name, member)| self.needs_treatment(name, member, seen))
            }
            _ => false,
        }
    }

    fn need(&mut self, name: &'a str) {
        if !self.needed.insert(name) {
            return;
        }
        let shape = &self.shapes[name];
        let inner = ["member", "key", "value"].into_iter().filter_map(|part| shape[part]["shape"].as_str());
        let members = shape["members"].as_object().into_iter().flatten();
        let members = members.into_iter().filter_map(|(_, member)| member["shape"].as_str());
        for target in inner.chain(members).collect::<Vec<_>>() {
            self.need(target);
        }
    }

    fn shape_statics(&mut self) -> Result<String> {
        let mut text = String::new();
        for name in self.needed.clone() {
            let kind = self.kind(name)?;
            let shape = &self.shapes[name];
            let _ = write!(text, "static S_{name}: Shape = Shape::of({kind})");
            for bound in ["min", "max"] {
                if let Some(value) = shape[bound].as_f64() {
                    let _ = write!(text, ".{bound}({value})");
                }
            }
            if let Some(pattern) = shape["pattern"].as_str() {
                let number = self.patterns.iter().position(|known| *known == pattern).unwrap_or_else(|| {
                    self.patterns.push(pattern);
                    self.patterns.len() - 1
                });
                let _ = write!(text, ".pattern(&P{number})");
            }
            if shape["enum"].is_array() && !self.service.open_enums.contains(&name) {
                let _ = write!(text, ".values(&{})", shape["enum"]);
            }
            text.push_str(";\n");
        }
        Ok(text)
    }

    fn kind(&mut self, name: &str) -> Result<String> {
        let shape = &self.shapes[name];
        let inner = |part: &str| format!("&S_{}", shape[part]["shape"].as_str().unwrap_or_default());
        Ok(match shape["type"].as_str().unwrap_or_default() {
            "string" => "Kind::Text".into(),
            "blob" => "Kind::Blob".into(),
            "boolean" => "Kind::Boolean".into(),
            "integer" | "long" => "Kind::Integer".into(),
            "float" | "double" => "Kind::Float".into(),
            "timestamp" => match shape["timestampFormat"].as_str() {
                None | Some("unixTimestamp") => "Kind::Timestamp(TimeFormat::Epoch)".into(),
                Some("iso8601") => "Kind::Timestamp(TimeFormat::Iso8601)".into(),
                Some(other) => bail!("{name}: timestamps as {other} are not supported"),
            },
            "list" => format!("Kind::List({})", inner("member")),
            "map" => format!("Kind::Map({}, {})", inner("key"), inner("value")),
            "structure" => format!("Kind::Structure({})", self.members(name, false)?),
            other => bail!("{name}: the type {other:?} is not supported"),
        })
    }
}

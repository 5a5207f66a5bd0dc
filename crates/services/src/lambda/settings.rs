//! The configuration of a function as a client asks for it: defaults, limits and refusals. Pure.
//!
//! The wire has checked types, lengths and patterns before; here are the limits that are tighter than the model's, the
//! rules between fields, and the values that the platform cannot honour. Not here: layers, which `layers` looks up, and whether
//! the target of dead letters is there (`dead_letters`).

use std::collections::BTreeMap;

use aws::{Call, Error};
use model::runtime::PHP_VERSION;
use model::web::{ADAPTER, WRAPPER};
use model::{ApplicationLevel, Family, JsonLog, Runtime, SystemLevel};
use serde_json::{Value, json};

use super::record::{ImageOverrides, Settings};
use super::vpc::VpcRecord;
use super::{Config, dead_letters, error, file_systems, name, view};

/// Members that both CreateFunction and UpdateFunctionConfiguration may carry and that are looked at here.
pub(super) const HONOURED: &[&str] = &[
    "Runtime",
    "Handler",
    "Role",
    "Description",
    "Timeout",
    "MemorySize",
    "EphemeralStorage",
    "Environment",
    "TracingConfig",
    "LoggingConfig",
    "SnapStart",
    "Layers",
    "DeadLetterConfig",
    "VpcConfig",
    "FileSystemConfigs",
    "ImageConfig",
];

/// Most bytes of names and values of all variables. Source: Lambda quotas.
const ENVIRONMENT_BYTES_MAX: usize = 4_096;

/// Names that users may not set. Source: the developer guide's table of reserved variables.
const RESERVED: &[&str] = &[
    "_HANDLER",
    "_X_AMZN_TRACE_ID",
    "AWS_DEFAULT_REGION",
    "AWS_REGION",
    "AWS_EXECUTION_ENV",
    "AWS_LAMBDA_FUNCTION_NAME",
    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
    "AWS_LAMBDA_FUNCTION_VERSION",
    "AWS_LAMBDA_INITIALIZATION_TYPE",
    "AWS_LAMBDA_LOG_GROUP_NAME",
    "AWS_LAMBDA_LOG_STREAM_NAME",
    "AWS_LAMBDA_LOG_FORMAT",
    "AWS_LAMBDA_LOG_LEVEL",
    "AWS_ACCESS_KEY",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_LAMBDA_RUNTIME_API",
    "AWS_LAMBDA_MAX_CONCURRENCY",
    "LAMBDA_TASK_ROOT",
    "LAMBDA_RUNTIME_DIR",
    "TZ",
];

/// Identifiers that Lambda once had and refuses now. Source: the service model's enumeration.
const RETIRED: &[&str] = &[
    "nodejs",
    "nodejs4.3",
    "nodejs4.3-edge",
    "nodejs6.10",
    "nodejs8.10",
    "nodejs10.x",
    "python2.7",
    "python3.6",
    "python3.7",
    "dotnetcore1.0",
    "dotnetcore2.0",
    "dotnetcore2.1",
    "dotnetcore3.1",
    "ruby2.5",
    "ruby2.7",
    "go1.x",
    "java8",
];

/// What Lambda runs and this platform runs as a program of the package's own only.
const ABSENT_FAMILIES: &[&str] = &["dotnet"];

/// A name of the service model's enumeration that no documentation explains.
const CUSTOM: &str = "custom";

/// What layers may be for, although no function runs as that here. Source: the service model's enumeration.
const OF_LAYERS: &[&str] = &["dotnet6", "dotnet8", "dotnet10", CUSTOM];

/// Whether these settings are of a container image.
pub(super) fn are_of_image(settings: &Settings) -> bool {
    settings.runtime == Runtime::image()
}

/// Runtime and handler of a new function.
fn what_runs(call: &Call) -> Result<(Runtime, String), Error> {
    if call.text("PackageType") == Some("Image") {
        return Ok((Runtime::image(), String::new()));
    }
    match (call.text("Runtime"), call.text("Handler")) {
        (Some(runtime), Some(handler)) => Ok((runtime_of(runtime)?, handler.to_owned())),
        _ => Err(error::invalid(
            "Runtime and Handler are mandatory parameters for functions created with deployment packages.",
        )),
    }
}

/// Refuses durable functions, also where the setting says nothing yet: it would be gone without a word.
pub(super) fn refuse_durable(call: &Call) -> Result<(), Error> {
    match call.input.get("DurableConfig") {
        None | Some(Value::Null) => Ok(()),
        Some(_) => Err(Error::not_implemented(format_args!("the parameter DurableConfig of {}", call.operation))),
    }
}

/// The settings of a new function.
pub(super) fn created(call: &Call, host: &Config) -> Result<Settings, Error> {
    let (runtime, handler) = what_runs(call)?;
    let settings = Settings {
        runtime,
        handler,
        role: String::new(),
        description: String::new(),
        timeout_s: 3,
        memory_mb: 128,
        tmp_mb: 512,
        environment: None,
        architecture: "x86_64".into(),
        tracing: "PassThrough".into(),
        log_group: None,
        json_log: None,
        snap_start: false,
        vpc: None,
        file_system: None,
        image: None,
        per_tenant: call.input.pointer("/TenancyConfig/TenantIsolationMode").is_some_and(Value::is_string),
        dead_letters: None,
        layers: Vec::new(),
    };
    let settings = updated(&settings, call, host)?;
    with_architecture(settings, call, host.architecture)
}

/// Refuses variables of the platform's that say what cannot be.
fn check_variables(next: &Settings) -> Result<(), Error> {
    if let Some(environment) = &next.environment {
        let timeout_ms = u64::from(next.timeout_s) * 1_000;
        let read = if are_of_image(next) {
            model::WebServer::of_image(&[], environment, timeout_ms)
        } else {
            model::WebServer::of(next.runtime.family(), environment, timeout_ms)
        };
        let web = read.map_err(|words| error::invalid(format!("Environment.Variables: {words}.")))?;
        let wrapper = environment.get(WRAPPER).filter(|path| !path.is_empty() && *path != ADAPTER);
        let looks = !are_of_image(next) && !matches!(next.runtime.family(), Family::Provided | Family::Php);
        if looks && web.is_some() && wrapper.is_some() {
            let words = "has no effect on a web server: begin its command with the wrapper";
            return Err(error::invalid(format!("Environment.Variables: {WRAPPER} {words}.")));
        }
    }
    if let Some(version) = next.environment.as_ref().and_then(|all| all.get(PHP_VERSION))
        && Runtime::php(Some(version)).is_none()
    {
        return Err(error::invalid(format!(
            "Environment.Variables: {PHP_VERSION} must be a version of PHP such as 8.4, not {version:?}."
        )));
    }
    Ok(())
}

/// Existing settings with what the call sends in place of what was there.
pub(super) fn updated(settings: &Settings, call: &Call, host: &Config) -> Result<Settings, Error> {
    let mut next = settings.clone();
    if let Some(wanted) = dead_letters::wanted(call)? {
        next.dead_letters = wanted;
    }
    next.image = image_config(call, settings)?;
    if let Some(runtime) = call.text("Runtime") {
        next.runtime = runtime_of(runtime)?;
    }
    let text = |member: &str, field: &mut String| {
        if let Some(value) = call.text(member) {
            value.clone_into(field);
        }
    };
    text("Handler", &mut next.handler);
    text("Role", &mut next.role);
    text("Description", &mut next.description);
    within(call.number("Timeout"), "Timeout", 1, 900, &mut next.timeout_s)?;
    within(call.number("MemorySize"), "MemorySize", 128, 10_240, &mut next.memory_mb)?;
    let tmp = call.input.pointer("/EphemeralStorage/Size").and_then(Value::as_u64);
    within(tmp, "EphemeralStorage.Size", 512, 10_240, &mut next.tmp_mb)?;
    if let Some(environment) = call.input.get("Environment").filter(|value| value.is_object()) {
        next.environment = Some(variables_of(environment)?);
    }
    if let Some(mode) = call.input.pointer("/TracingConfig/Mode").and_then(Value::as_str) {
        mode.clone_into(&mut next.tracing);
    }
    if let Some(logging) = call.input.get("LoggingConfig") {
        if let Some(group) = logging.get("LogGroup").and_then(Value::as_str) {
            // What is the default anyway stays unsaid, or it would count as a change.
            let usual = name::of_call(call).is_ok_and(|function| view::default_log_group(&function.name) == group);
            next.log_group = (!usual).then(|| group.to_owned());
        }
        next.json_log = json_log_of(logging, next.json_log)?;
    }
    if let Some(apply_on) = call.input.pointer("/SnapStart/ApplyOn").and_then(Value::as_str) {
        next.snap_start = apply_on == "PublishedVersions";
    }
    if let Some(config) = call.input.get("VpcConfig").filter(|config| config.is_object()) {
        let vpc = VpcRecord::over(config, next.vpc.as_ref())?;
        next.vpc = Some(vpc).filter(|vpc| next.vpc.is_some() || !vpc.subnets.is_empty());
    }
    if let Some(wanted) = file_systems::wanted(call, &host.access_points)? {
        next.file_system = wanted;
    }
    check_variables(&next)?;
    if next.snap_start && next.per_tenant {
        return Err(error::invalid("SnapStart is not supported for functions with tenant isolation."));
    }
    if next.snap_start && are_of_image(&next) {
        return Err(error::invalid("SnapStart is not supported for functions with PackageType Image."));
    }
    if next.snap_start && !next.runtime.has_snap_start() {
        return Err(error::invalid(format!("{} is not supported for SnapStart enabled functions.", next.runtime)));
    }
    Ok(next)
}

/// The settings with the architecture that the call asks for. An interpreter of the host serves both; a program of the
/// package's own runs on the host's only.
pub(super) fn with_architecture(settings: Settings, call: &Call, host: &str) -> Result<Settings, Error> {
    let asked = call.input.pointer("/Architectures/0").and_then(Value::as_str);
    let settings = match asked {
        Some(architecture) => Settings { architecture: architecture.to_owned(), ..settings },
        None => settings,
    };
    if asked.is_some() && settings.runtime.family() == Family::Provided && settings.architecture != host {
        return Err(error::invalid(format!(
            "The architecture {} cannot run a function with its own runtime here: this machine is {host}.",
            settings.architecture
        )));
    }
    Ok(settings)
}

/// What takes the place of an image's own. What is sent replaces all that was sent before.
fn image_config(call: &Call, settings: &Settings) -> Result<Option<ImageOverrides>, Error> {
    let sent = call.input.get("ImageConfig").filter(|config| config.is_object());
    if !are_of_image(settings) {
        return match sent {
            Some(_) => Err(error::invalid("ImageConfig is for functions with PackageType Image only.")),
            None => Ok(None),
        };
    }
    let beside = |member: &&&str| call.input.get(**member).is_some_and(|value| !value.is_null() && *value != json!([]));
    if let Some(member) = ["Runtime", "Handler", "Layers"].iter().find(beside) {
        return Err(error::invalid(format!(
            "{member} is not supported for functions with PackageType Image: the image brings it."
        )));
    }
    let Some(sent) = sent else { return Ok(settings.image.clone()) };
    let list = |member: &str| {
        let items = sent.get(member).and_then(Value::as_array)?;
        let texts = items.iter().filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>();
        Some(texts).filter(|texts| !texts.is_empty())
    };
    let folder = sent.get("WorkingDirectory").and_then(Value::as_str).filter(|text| !text.is_empty());
    let overrides =
        ImageOverrides { entrypoint: list("EntryPoint"), command: list("Command"), folder: folder.map(str::to_owned) };
    let words = overrides.entrypoint.iter().chain(&overrides.command).flatten().chain(&overrides.folder);
    if words.into_iter().any(|word| word.contains('\0')) {
        return Err(error::invalid("ImageConfig has words that no program can be given."));
    }
    Ok(Some(overrides).filter(|overrides| *overrides != ImageOverrides::default()))
}

fn within(value: Option<u64>, member: &str, least: u32, most: u32, field: &mut u32) -> Result<(), Error> {
    let Some(value) = value else { return Ok(()) };
    let wrong = |rule: &str, bound: u32| {
        error::invalid(format!("'{member}' value failed to satisfy constraint: Member must have value {rule} {bound}"))
    };
    if value < u64::from(least) {
        return Err(wrong("greater than or equal to", least));
    }
    *field =
        u32::try_from(value).ok().filter(|value| *value <= most).ok_or_else(|| wrong("less than or equal to", most))?;
    Ok(())
}

fn runtime_of(identifier: &str) -> Result<Runtime, Error> {
    if let Some(runtime) = Runtime::parse(identifier) {
        return Ok(runtime);
    }
    if RETIRED.contains(&identifier) {
        return Err(error::invalid(format!(
            "The runtime parameter of {identifier} is no longer supported for creating or updating AWS Lambda functions. We recommend you use a supported runtime while creating or updating functions."
        )));
    }
    if identifier == CUSTOM {
        return Err(Error::not_implemented(format_args!(
            "the runtime {identifier} (a package that brings its own program runs as provided.al2023, a container image with \
             PackageType Image)"
        )));
    }
    let digits = identifier.find(|c: char| c.is_ascii_digit()).unwrap_or(identifier.len());
    if ABSENT_FAMILIES.contains(&&identifier[..digits]) && digits < identifier.len() {
        return Err(Error::not_implemented(format_args!(
            "the runtime {identifier} (.NET functions run as programs of their own: set AssemblyName to bootstrap, run `dotnet \
             publish -r linux-x64 --self-contained`, and use the runtime provided.al2023 with the published folder)"
        )));
    }
    Err(error::invalid(format!(
        "Value {identifier} at 'runtime' failed to satisfy constraint: Member must satisfy enum value set: [{}] or be a valid ARN",
        model::runtime::ACCEPTED.join(", ")
    )))
}

/// Refuses runtimes of layers that no service model names: a list, or one.
pub(super) fn check_compatible(call: &Call) -> Result<(), Error> {
    let known = [model::runtime::ACCEPTED, RETIRED, OF_LAYERS].concat();
    let rule = || format!("Member must satisfy enum value set: [{}]", known.join(", "));
    let list = call.input.get("CompatibleRuntimes").and_then(Value::as_array);
    let names: Vec<&str> = list.into_iter().flatten().filter_map(Value::as_str).collect();
    if names.iter().any(|name| !known.contains(name)) {
        let rule = format!("Member must satisfy constraint: [{}]", rule());
        return Err(error::constraint(&format!("[{}]", names.join(", ")), "compatibleRuntimes", &rule));
    }
    match call.text("CompatibleRuntime") {
        Some(name) if !known.contains(&name) => Err(error::constraint(name, "compatibleRuntime", &rule())),
        _ => Ok(()),
    }
}

fn variables_of(environment: &Value) -> Result<BTreeMap<String, String>, Error> {
    let mut variables = BTreeMap::new();
    let members = environment.get("Variables").and_then(Value::as_object);
    for (name, value) in members.into_iter().flatten() {
        variables.insert(name.clone(), value.as_str().unwrap_or_default().to_owned());
    }
    let reserved: Vec<&str> = variables.keys().map(String::as_str).filter(|name| RESERVED.contains(name)).collect();
    if !reserved.is_empty() {
        return Err(error::invalid(format!(
            "Lambda was unable to configure your environment variables because the environment variables you have provided contains reserved keys that are currently not supported for modification. Reserved keys used in this request: {}",
            reserved.join(", ")
        )));
    }
    let bytes: usize = variables.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > ENVIRONMENT_BYTES_MAX {
        return Err(error::invalid(format!(
            "Lambda was unable to configure your environment variables because the environment variables you have provided exceeded the 4KB limit. String measured: {}",
            json!(variables)
        )));
    }
    Ok(variables)
}

/// The format of the log that `LoggingConfig` asks for. What it does not name stays as it is, but for levels, which begin anew
/// with each wish for JSON and belong to it alone.
fn json_log_of(logging: &Value, before: Option<JsonLog>) -> Result<Option<JsonLog>, Error> {
    let text = |member: &str| logging.get(member).and_then(Value::as_str);
    let is_json = text("LogFormat").map_or(before.is_some(), |format| format == "JSON");
    let (application, system) = (text("ApplicationLogLevel"), text("SystemLogLevel"));
    if !is_json {
        if let Some(member) = application.map(|_| "ApplicationLogLevel").or(system.map(|_| "SystemLogLevel")) {
            return Err(error::invalid(format!(
                "{member} can be set only if LogFormat is JSON. Set LogFormat to JSON, or leave {member} out."
            )));
        }
        return Ok(None);
    }
    let usual = JsonLog { application: ApplicationLevel::Info, system: SystemLevel::Info };
    let before = before.filter(|_| text("LogFormat").is_none()).unwrap_or(usual);
    // The wire has held both against their enumerations.
    Ok(Some(JsonLog {
        application: application.and_then(ApplicationLevel::parse).unwrap_or(before.application),
        system: system.and_then(SystemLevel::parse).unwrap_or(before.system),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runtimes_are_accepted_retired_absent_or_unknown() {
        assert!(runtime_of("python3.12").is_ok());
        assert!(runtime_of("nodejs10.x").unwrap_err().message.contains("no longer supported"));
        assert!(runtime_of("ruby3.3").is_ok());
        for absent in ["dotnet6", "dotnet8", "dotnet10"] {
            let error = runtime_of(absent).unwrap_err();
            assert_eq!(error.status, 501, "{absent}");
            assert!(error.message.contains("--self-contained") && error.message.contains("provided.al2023"));
        }
        let error = runtime_of("custom").unwrap_err();
        assert!(error.status == 501 && error.message.contains("provided.al2023"), "{}", error.message);
        for unknown in ["cobol", "java", "python9.9", ""] {
            let error = runtime_of(unknown).unwrap_err();
            assert_eq!(error.code, "InvalidParameterValueException");
            assert!(error.message.starts_with(&format!("Value {unknown} at 'runtime' failed")), "{}", error.message);
        }
    }

    #[test]
    fn variables_are_limited_by_their_bytes() {
        let full = json!({"Variables": {"AB": "x".repeat(4_094)}});
        assert_eq!(variables_of(&full).unwrap().len(), 1);
        let over = json!({"Variables": {"AB": "x".repeat(4_095)}});
        assert!(variables_of(&over).unwrap_err().message.contains("exceeded the 4KB limit"));
        let reserved = json!({"Variables": {"AWS_REGION": "x", "TZ": "y", "OK": ""}});
        assert!(variables_of(&reserved).unwrap_err().message.ends_with("used in this request: AWS_REGION, TZ"));
    }
}

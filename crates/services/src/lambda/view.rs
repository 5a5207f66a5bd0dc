//! Records as the answers of the API show them. Pure.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use model::http_api::{AuthKind, Cors};
use model::{FunctionName, FunctionRef};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::file_systems;
use super::layer::LayerVersionRef;
use super::record::{LayerVersionRecord, UrlRecord, VersionId, VersionRecord};

/// Milliseconds since the epoch as Lambda writes them: `2024-01-02T03:04:05.678+0000`.
pub(super) fn time(ms: u64) -> String {
    let at =
        i64::try_from(ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok()).unwrap_or(Timestamp::UNIX_EPOCH);
    at.strftime("%Y-%m-%dT%H:%M:%S%.3f+0000").to_string()
}

/// A hexadecimal SHA-256 as `CodeSha256` shows it.
pub(super) fn code_sha256(hexadecimal: &str) -> String {
    BASE64.encode(hex::decode(hexadecimal).unwrap_or_default())
}

/// `CodeSha256` of a version: base64 of a package, the digits of an image, as AWS has it.
pub(super) fn sha256_of(version: &VersionRecord) -> String {
    match &version.image {
        Some(image) => image.content.digest.as_str().to_owned(),
        None => code_sha256(version.code.as_str()),
    }
}

/// `FunctionConfiguration`. The ARN carries a qualifier exactly when `function` does.
pub(super) fn configuration(function: &FunctionRef, id: VersionId, version: &VersionRecord) -> Value {
    let mut shown = summary(function, id, version);
    shown["State"] = json!("Active");
    shown["LastUpdateStatus"] = json!("Successful");
    if version.is_program() {
        // Taken out again by who asks how far the program is (`programs`).
        shown[super::programs::MARK] = json!(version.code.as_str());
    }
    shown
}

/// `FunctionConfiguration` as lists show it: without the states, which AWS leaves out there too.
pub(super) fn summary(function: &FunctionRef, id: VersionId, version: &VersionRecord) -> Value {
    let settings = &version.settings;
    let log_group = settings.log_group.clone().unwrap_or_else(|| default_log_group(&function.name));
    let mut shown = json!({
        "FunctionName": function.name.as_str(),
        "FunctionArn": function.arn(),
        "Runtime": settings.runtime.as_str(),
        "Role": settings.role,
        "Handler": settings.handler,
        "CodeSize": version.code_bytes,
        "Description": version.description.as_ref().unwrap_or(&settings.description),
        "Timeout": settings.timeout_s,
        "MemorySize": settings.memory_mb,
        "LastModified": time(version.modified_ms),
        "CodeSha256": sha256_of(version),
        "Version": id.to_string(),
        "TracingConfig": {"Mode": settings.tracing},
        "RevisionId": version.revision_id,
        "PackageType": "Zip",
        "Architectures": [settings.architecture],
        "EphemeralStorage": {"Size": settings.tmp_mb},
        "SnapStart": {
            "ApplyOn": if settings.snap_start { "PublishedVersions" } else { "None" },
            "OptimizationStatus": if settings.begins_from_snapshot(id) { "On" } else { "Off" },
        },
        "LoggingConfig": {"LogFormat": if settings.json_log.is_some() { "JSON" } else { "Text" }, "LogGroup": log_group},
        "ConfigSha256": BASE64.encode(Sha256::digest(json!(settings).to_string())),
    });
    if let Some(log) = &settings.json_log {
        shown["LoggingConfig"]["ApplicationLogLevel"] = json!(log.application.as_str());
        shown["LoggingConfig"]["SystemLogLevel"] = json!(log.system.as_str());
    }
    if let Some(variables) = settings.environment.as_ref().filter(|variables| !variables.is_empty()) {
        shown["Environment"] = json!({"Variables": variables});
    }
    if let Some(vpc) = &settings.vpc {
        shown["VpcConfig"] = vpc.shown(function);
    }
    if let Some(target) = &settings.dead_letters {
        shown["DeadLetterConfig"] = json!({"TargetArn": target});
    }
    if let Some(file_system) = &settings.file_system {
        shown["FileSystemConfigs"] = file_systems::shown(file_system);
    }
    if settings.per_tenant {
        shown["TenancyConfig"] = json!({"TenantIsolationMode": "PER_TENANT"});
    }
    if !settings.layers.is_empty() {
        let layers = settings.layers.iter();
        shown["Layers"] = layers.map(|layer| json!({"Arn": layer.arn, "CodeSize": layer.code_bytes})).collect();
    }
    if version.image.is_some() {
        shown["PackageType"] = json!("Image");
        for of_zips in ["Runtime", "Handler"] {
            shown[of_zips] = Value::Null;
        }
    }
    if let Some(overrides) = &settings.image {
        let members = [
            ("EntryPoint", overrides.entrypoint.as_ref().map(|words| json!(words))),
            ("Command", overrides.command.as_ref().map(|words| json!(words))),
            ("WorkingDirectory", overrides.folder.as_ref().map(|folder| json!(folder))),
        ];
        let config: Value = members.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        shown["ImageConfigResponse"] = json!({"ImageConfig": config});
    }
    shown
}

/// A layer version as lists show it.
pub(super) fn layer_version(version: &LayerVersionRef, record: &LayerVersionRecord) -> Value {
    let list = |items: &Vec<String>| (!items.is_empty()).then(|| json!(items));
    json!({
        "LayerVersionArn": version.arn(),
        "Version": version.number,
        "Description": record.description,
        "CreatedDate": time(record.created_ms),
        "CompatibleRuntimes": list(&record.runtimes),
        "CompatibleArchitectures": list(&record.architectures),
        "LicenseInfo": record.license,
    })
}

/// The log group of a function that names none.
pub(super) fn default_log_group(name: &FunctionName) -> String {
    format!("/aws/lambda/{name}")
}

/// A function URL as every operation but Create shows it.
pub(super) fn url(function: &FunctionRef, record: &UrlRecord, text: &str) -> Value {
    json!({
        "FunctionUrl": text,
        "FunctionArn": function.arn(),
        "AuthType": match record.auth {
            AuthKind::None => "NONE",
            AuthKind::AwsIam => "AWS_IAM",
        },
        "Cors": record.cors.as_ref().map(cors),
        "CreationTime": time(record.created_ms),
        "LastModifiedTime": time(record.modified_ms),
        "InvokeMode": if record.streaming { "RESPONSE_STREAM" } else { "BUFFERED" },
    })
}

fn cors(cors: &Cors) -> Value {
    let list = |items: &Vec<String>| (!items.is_empty()).then(|| json!(items));
    json!({
        "AllowCredentials": cors.allow_credentials.then_some(true),
        "AllowHeaders": list(&cors.allow_headers),
        "AllowMethods": list(&cors.allow_methods),
        "AllowOrigins": list(&cors.allow_origins),
        "ExposeHeaders": list(&cors.expose_headers),
        "MaxAge": cors.max_age_s,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_milliseconds_and_a_zone() {
        assert_eq!(time(1_704_164_645_678), "2024-01-02T03:04:05.678+0000");
        assert_eq!(time(1_704_164_645_000), "2024-01-02T03:04:05.000+0000");
    }
}

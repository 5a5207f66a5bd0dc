//! The environment variables of a guest. Pure.
//!
//! | layer (later wins) | what                                                                  |
//! |--------------------|-----------------------------------------------------------------------|
//! | defaults           | paths, language, trust, endpoint: what the user may replace           |
//! | the user's         | as configured, names that Lambda reserves left out                    |
//! | platform           | handler, region, credentials, sizes, log names: reserved by Lambda    |
//!
//! Names and values follow Lambda's table of defined runtime environment variables.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use model::{Credentials, Family, FunctionVersion, ImageCode, Runtime, WebServer};
use sandbox::COMMAND_VARIABLE;
use sandbox::process::TRUST_PATH;

use crate::container_credentials;

/// Where the Runtime API answers inside every sandbox.
pub(crate) const RUNTIME_API: &str = "127.0.0.1:9001";
/// Where the function's code lies inside every sandbox.
pub(crate) const TASK_ROOT: &str = "/var/task";

/// Names that a user cannot set and the platform does not always set.
const RESERVED_UNSET: &[&str] = &[
    "AWS_ACCESS_KEY",
    "AWS_EXECUTION_ENV",
    "AWS_LAMBDA_MAX_CONCURRENCY",
    "AWS_LAMBDA_RUNTIME_API",
    "AWS_LAMBDA_LOG_LEVEL",
];

/// What tells one environment of a version from another.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Names<'a> {
    /// The log stream.
    pub(crate) log_stream: &'a str,
    /// `on-demand`, `provisioned-concurrency` or `snap-start`.
    pub(crate) initialization: &'static str,
}

/// How a version with SnapStart is initialised.
pub(crate) const SNAP_START: &str = "snap-start";

/// All variables of one environment's guest.
pub(crate) fn guest_variables(
    version: &FunctionVersion,
    credentials: &Credentials,
    names: Names<'_>,
    host: &[(String, String)],
) -> Vec<(String, String)> {
    let mut all = common(version, names.initialization, host);
    all.extend(environment_variables(version, credentials, names.log_stream));
    all.into_iter().collect()
}

/// Makes variables those of a web server: where it is to listen, what its command is, where that finds the runtime's
/// programs, and which service it is, as Knative and Cloud Run tell it. There is no Runtime API for it.
pub(crate) fn make_web(
    all: &mut Vec<(String, String)>,
    version: &FunctionVersion,
    web: &WebServer,
    programs: Option<PathBuf>,
) {
    let (name, number) = (version.function.name.as_str(), version.version.trim_start_matches('$'));
    let mut own = vec![
        pair("PORT", &web.port.to_string()),
        pair("K_SERVICE", name),
        pair("K_CONFIGURATION", name),
        pair("K_REVISION", &format!("{name}-{}", number.to_ascii_lowercase())),
    ];
    if version.image.is_none() {
        own.push(pair(COMMAND_VARIABLE, &web.command));
    }
    all.retain(|(name, _)| name != "AWS_LAMBDA_RUNTIME_API" && own.iter().all(|(other, _)| other != name));
    all.append(&mut own);
    if let Some(programs) = programs {
        find_first(all, &programs);
    }
}

/// Has programs looked for in a folder before all others.
pub(crate) fn find_first(all: &mut Vec<(String, String)>, folder: &Path) {
    match all.iter_mut().find(|(name, _)| name == "PATH") {
        Some((_, path)) => *path = format!("{}:{path}", folder.display()),
        None => all.push(pair("PATH", &folder.display().to_string())),
    }
}

/// The variables of a process that runs a version's init for all its environments: all but those that differ between them.
/// Credentials come by HTTP, for those that know `token`.
pub(crate) fn snapshot_variables(
    version: &FunctionVersion,
    token: &str,
    host: &[(String, String)],
) -> Vec<(String, String)> {
    let mut all = common(version, SNAP_START, host);
    all.extend([
        pair("AWS_CONTAINER_CREDENTIALS_FULL_URI", container_credentials::URI),
        pair("AWS_CONTAINER_AUTHORIZATION_TOKEN", token),
    ]);
    all.into_iter().collect()
}

/// What all environments of a version have: later ones hide earlier ones of the same name.
fn common(version: &FunctionVersion, initialization: &str, host: &[(String, String)]) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    match &version.image {
        Some(image) => all.extend(of_image(image, host)),
        None => {
            all.extend(defaults(&version.runtime));
            all.extend(host.iter().cloned());
        }
    }
    all.extend(users(version));
    all.extend(platform(version, initialization));
    if version.image.is_some() {
        all.extend([pair("TZ", ":UTC")]);
    } else {
        all.extend(fixed());
    }
    all
}

/// The variables of a guest that has no function yet: what every function of a runtime gets.
pub(crate) fn boot_variables(runtime: &Runtime, host: &[(String, String)]) -> Vec<(String, String)> {
    let mut all: BTreeMap<String, String> = BTreeMap::new();
    all.extend(defaults(runtime));
    all.extend(host.iter().cloned());
    all.extend(fixed());
    all.into_iter().collect()
}

/// The variables of a zygote that loads a version's dependencies: all of the version's but those that tell of an
/// environment, credentials above all.
pub(crate) fn own_variables(version: &FunctionVersion, host: &[(String, String)]) -> Vec<(String, String)> {
    let mut all: BTreeMap<String, String> = boot_variables(&version.runtime, host).into_iter().collect();
    all.extend(users(version));
    let function = &version.function;
    all.extend([
        pair("AWS_REGION", function.region.as_str()),
        pair("AWS_DEFAULT_REGION", function.region.as_str()),
        pair("AWS_LAMBDA_FUNCTION_NAME", function.name.as_str()),
        pair("AWS_EXECUTION_ENV", &format!("AWS_Lambda_{}", version.runtime)),
        pair("AWS_LAMBDA_RUNTIME_API", RUNTIME_API),
    ]);
    all.into_iter().collect()
}

/// What the user has configured and may.
fn users(version: &FunctionVersion) -> impl Iterator<Item = (String, String)> {
    let allowed = version.environment.iter().filter(|(name, _)| !RESERVED_UNSET.contains(&name.as_str()));
    allowed.map(|(name, value)| (name.clone(), value.clone()))
}

/// What the image says, over what the host says.
fn of_image(image: &ImageCode, host: &[(String, String)]) -> BTreeMap<String, String> {
    let mut all = BTreeMap::from([
        pair("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        pair("LAMBDA_TASK_ROOT", TASK_ROOT),
        pair("LAMBDA_RUNTIME_DIR", "/var/runtime"),
    ]);
    all.extend(tracing());
    all.extend(host.iter().cloned());
    // The platform's folder is not in an image; the bundle is in every one.
    if let Some(bundle) = all.get_mut("NODE_EXTRA_CA_CERTS") {
        TRUST_PATH.clone_into(bundle);
    }
    all.extend(image.environment.iter().cloned());
    all
}

fn fixed() -> Vec<(String, String)> {
    vec![pair("LAMBDA_TASK_ROOT", TASK_ROOT), pair("LAMBDA_RUNTIME_DIR", "/var/runtime"), pair("TZ", ":UTC")]
}

/// What clients of X-Ray look for, in packages and in images.
fn tracing() -> [(String, String); 2] {
    [pair("AWS_XRAY_CONTEXT_MISSING", "LOG_ERROR"), pair("AWS_XRAY_DAEMON_ADDRESS", "169.254.79.129:2000")]
}

fn defaults(runtime: &Runtime) -> Vec<(String, String)> {
    let family = runtime.family();
    let mut all = vec![
        pair("LANG", "en_US.UTF-8"),
        pair(
            "LD_LIBRARY_PATH",
            "/var/lang/lib:/lib64:/usr/lib64:/var/runtime:/var/runtime/lib:/var/task:/var/task/lib:/opt/lib",
        ),
    ];
    all.extend(tracing());
    let path = match family {
        Family::Provided => "/usr/local/bin:/usr/bin/:/bin:/opt/bin",
        Family::Node | Family::Python | Family::Java | Family::Ruby | Family::Php => {
            "/var/lang/bin:/usr/local/bin:/usr/bin/:/bin:/opt/bin"
        }
    };
    all.push(pair("PATH", path));
    match (family, runtime.version()) {
        (Family::Node, Some((major, _))) => all.push(pair(
            "NODE_PATH",
            &format!(
                "/opt/nodejs/node{major}/node_modules:/opt/nodejs/node_modules:/var/runtime/{}node_modules:\
                 /var/runtime:/var/task",
                // Before this version Lambda's SDK is another one.
                if major < 18 { "nodejs16/" } else { "" }
            ),
        )),
        (Family::Python, Some((major, minor))) => all.push(pair(
            "PYTHONPATH",
            &format!("/var/runtime:/opt/python/lib/python{major}.{minor}/site-packages:/opt/python"),
        )),
        (Family::Ruby, Some((major, minor))) => {
            all.push(pair(
                "GEM_PATH",
                &format!("/var/task/vendor/bundle/ruby/{major}.{minor}.0:/opt/ruby/gems/{major}.{minor}.0"),
            ));
            all.push(pair("RUBYLIB", "/var/task:/var/runtime/lib:/opt/ruby/lib"));
        }
        _ => {}
    }
    all
}

/// What the platform says that is the same in all environments of a version.
fn platform(version: &FunctionVersion, initialization: &str) -> Vec<(String, String)> {
    let function = &version.function;
    let mut all = vec![
        pair("_HANDLER", &version.handler),
        pair("AWS_REGION", function.region.as_str()),
        pair("AWS_DEFAULT_REGION", function.region.as_str()),
        pair("AWS_LAMBDA_FUNCTION_NAME", function.name.as_str()),
        pair("AWS_LAMBDA_FUNCTION_VERSION", &version.version),
        pair("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", &version.memory_mb.to_string()),
        pair("AWS_LAMBDA_INITIALIZATION_TYPE", initialization),
        pair("AWS_LAMBDA_LOG_FORMAT", if version.json_log.is_some() { "JSON" } else { "Text" }),
    ];
    if let Some(log) = &version.json_log {
        all.push(pair("AWS_LAMBDA_LOG_LEVEL", log.application.as_str()));
    }
    // A program has no process that would ask there.
    if !version.program {
        all.push(pair("AWS_LAMBDA_RUNTIME_API", RUNTIME_API));
    }
    match version.runtime.family() {
        // To those who look at variables PHP is what Lambda has for it, a custom runtime.
        Family::Provided | Family::Php => {}
        Family::Node | Family::Python | Family::Java | Family::Ruby => {
            all.push(pair("AWS_EXECUTION_ENV", &format!("AWS_Lambda_{}", version.runtime)));
        }
    }
    all
}

/// The variables of an extension, from those of its function: what tells of the runtime's process is left out. Source: the
/// reference of the Extensions API.
pub(crate) fn of_extensions(all: &[(String, String)]) -> Vec<(String, String)> {
    const OF_RUNTIME: [&str; 8] = [
        "AWS_EXECUTION_ENV",
        "AWS_LAMBDA_LOG_GROUP_NAME",
        "AWS_LAMBDA_LOG_STREAM_NAME",
        "AWS_XRAY_CONTEXT_MISSING",
        "AWS_XRAY_DAEMON_ADDRESS",
        "LAMBDA_RUNTIME_DIR",
        "LAMBDA_TASK_ROOT",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    ];
    let is_own = |name: &str| !name.starts_with('_') && !OF_RUNTIME.contains(&name);
    all.iter().filter(|(name, _)| is_own(name)).cloned().collect()
}

/// What is one environment's own, and what one has beside the variables of the snapshot that it begins from.
pub(crate) fn environment_variables(
    version: &FunctionVersion,
    credentials: &Credentials,
    log_stream: &str,
) -> Vec<(String, String)> {
    let mut all = vec![
        pair("AWS_LAMBDA_LOG_GROUP_NAME", &version.log_group),
        pair("AWS_LAMBDA_LOG_STREAM_NAME", log_stream),
        pair("AWS_ACCESS_KEY_ID", &credentials.access_key),
        pair("AWS_SECRET_ACCESS_KEY", &credentials.secret_key),
    ];
    if let Some(token) = &credentials.session_token {
        all.push(pair("AWS_SESSION_TOKEN", token));
    }
    all
}

fn pair(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::fixtures::version;
    use model::Runtime;

    fn variables(version: &FunctionVersion) -> BTreeMap<String, String> {
        let credentials = Credentials {
            access_key: "ASIA1".into(),
            secret_key: "secret".into(),
            session_token: Some("token".into()),
            expires_at_ms: None,
        };
        let host = [pair("AWS_ENDPOINT_URL", "http://platform"), pair("SSL_CERT_FILE", "/ca.pem")];
        let names = Names { log_stream: "2026/01/01/[1]ab", initialization: "on-demand" };
        guest_variables(version, &credentials, names, &host).into_iter().collect()
    }

    #[test]
    fn the_users_values_win_except_over_reserved_ones() {
        let mut version = version("f");
        for (name, value) in [
            ("SSL_CERT_FILE", "/mine"),
            ("AWS_REGION", "mars"),
            ("A", "b"),
            ("AWS_LAMBDA_RUNTIME_API", "x"),
            ("TZ", "CET"),
        ] {
            version.environment.insert(name.into(), value.into());
        }
        let all = variables(&version);
        assert_eq!(all["SSL_CERT_FILE"], "/mine");
        assert_eq!(all["A"], "b");
        assert_eq!(all["AWS_ENDPOINT_URL"], "http://platform");
        assert_eq!(all["AWS_REGION"], "us-east-1");
        assert_eq!(all["TZ"], ":UTC");
        assert_eq!(all["AWS_LAMBDA_RUNTIME_API"], RUNTIME_API);
        assert_eq!(all["AWS_SESSION_TOKEN"], "token");
        assert_eq!(all["AWS_EXECUTION_ENV"], "AWS_Lambda_nodejs22.x");
        assert!(all["NODE_PATH"].starts_with("/opt/nodejs/node22/node_modules:"));
        assert!(all["NODE_PATH"].contains(":/var/runtime/node_modules:"));
        version.runtime = Runtime::parse("nodejs16.x").unwrap();
        assert!(variables(&version)["NODE_PATH"].contains(":/var/runtime/nodejs16/node_modules:"));
    }

    #[test]
    fn extensions_have_what_is_not_the_runtimes() {
        let mut version = version("f");
        version.environment.insert("MINE".into(), "1".into());
        let all: Vec<_> = variables(&version).into_iter().collect();
        let own: BTreeMap<_, _> = of_extensions(&all).into_iter().collect();
        for name in
            ["MINE", "AWS_LAMBDA_RUNTIME_API", "AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN", "AWS_REGION", "PATH", "TZ"]
        {
            assert!(own.contains_key(name), "{name}");
        }
        for name in ["_HANDLER", "LAMBDA_TASK_ROOT", "AWS_EXECUTION_ENV", "AWS_LAMBDA_LOG_STREAM_NAME"] {
            assert!(!own.contains_key(name), "{name}");
        }
        assert_eq!(own["AWS_LAMBDA_FUNCTION_NAME"], "f");
    }

    #[test]
    fn a_snapshot_has_what_its_environments_have_but_for_what_differs() {
        let mut version = version("f");
        version.runtime = Runtime::parse("python3.12").unwrap();
        version.environment.insert("A".into(), "b".into());
        let mut all = variables(&version);
        let snapshot: BTreeMap<_, _> =
            snapshot_variables(&version, "token", &[pair("AWS_ENDPOINT_URL", "http://platform")]).into_iter().collect();
        let uri = "AWS_CONTAINER_CREDENTIALS_FULL_URI";
        assert_eq!((snapshot["AWS_LAMBDA_INITIALIZATION_TYPE"].as_str(), snapshot["A"].as_str()), (SNAP_START, "b"));
        for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_LAMBDA_LOG_STREAM_NAME"] {
            assert!(!snapshot.contains_key(name), "{name}");
        }
        let credentials = Credentials {
            access_key: "ASIA1".into(),
            secret_key: "secret".into(),
            session_token: Some("token".into()),
            expires_at_ms: None,
        };
        let mut restored = snapshot;
        restored.extend(environment_variables(&version, &credentials, "2026/01/01/[1]ab"));
        assert!(restored.remove(uri).is_some() && restored.remove("AWS_CONTAINER_AUTHORIZATION_TOKEN").is_some());
        restored.insert("AWS_LAMBDA_INITIALIZATION_TYPE".into(), "on-demand".into());
        all.remove("SSL_CERT_FILE");
        assert_eq!(restored, all);
    }

    #[test]
    fn the_format_and_the_level_of_the_log_are_told() {
        let mut version = version("f");
        version.environment.insert("AWS_LAMBDA_LOG_LEVEL".into(), "mine".into());
        let all = variables(&version);
        assert_eq!((all["AWS_LAMBDA_LOG_FORMAT"].as_str(), all.get("AWS_LAMBDA_LOG_LEVEL")), ("Text", None));
        version.json_log =
            Some(model::JsonLog { application: model::ApplicationLevel::Error, system: model::SystemLevel::Info });
        let all = variables(&version);
        assert_eq!((all["AWS_LAMBDA_LOG_FORMAT"].as_str(), all["AWS_LAMBDA_LOG_LEVEL"].as_str()), ("JSON", "ERROR"));
    }

    #[test]
    fn an_images_variables_are_the_first_to_be_replaced() {
        let mut version = version("f");
        version.runtime = Runtime::image();
        let environment =
            [("PATH", "/own"), ("A", "image"), ("B", "image"), ("AWS_REGION", "mars"), ("LAMBDA_TASK_ROOT", "/f")];
        let environment = environment.map(|(name, value)| pair(name, value)).to_vec();
        version.image =
            Some(ImageCode { layers: Vec::new(), line: vec!["/x".into()], folder: "/".into(), environment });
        version.environment = BTreeMap::from([pair("B", "user")]);
        let all = variables(&version);
        for (name, value) in [
            ("PATH", "/own"),
            ("A", "image"),
            ("B", "user"),
            ("AWS_REGION", "us-east-1"),
            ("LAMBDA_TASK_ROOT", "/f"),
            ("AWS_LAMBDA_RUNTIME_API", RUNTIME_API),
            ("AWS_ENDPOINT_URL", "http://platform"),
            ("TZ", ":UTC"),
            ("AWS_XRAY_CONTEXT_MISSING", "LOG_ERROR"),
        ] {
            assert_eq!(all.get(name).map(String::as_str), Some(value), "{name}");
        }
        assert!(!all.contains_key("LD_LIBRARY_PATH") && !all.contains_key("AWS_EXECUTION_ENV"));
    }

    #[test]
    fn gems_are_looked_for_where_lambda_looks() {
        let mut version = version("f");
        version.runtime = Runtime::parse("ruby3.3").unwrap();
        let all = variables(&version);
        assert_eq!(all["GEM_PATH"], "/var/task/vendor/bundle/ruby/3.3.0:/opt/ruby/gems/3.3.0");
        assert_eq!(all["AWS_EXECUTION_ENV"], "AWS_Lambda_ruby3.3");
        version.runtime = Runtime::php(None).unwrap();
        assert!(!variables(&version).contains_key("AWS_EXECUTION_ENV"));
    }

    #[test]
    fn custom_runtimes_get_the_runtime_api() {
        let mut version = version("f");
        version.runtime = Runtime::parse("provided.al2023").unwrap();
        let all = variables(&version);
        assert_eq!(all["AWS_LAMBDA_RUNTIME_API"], RUNTIME_API);
        assert!(!all.contains_key("AWS_EXECUTION_ENV"));
        assert!(!all["PATH"].contains("/var/lang"));
    }
}

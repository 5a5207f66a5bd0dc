//! Functions that are web servers: what their variables say of them, and HTTP on its way to and from them.
//!
//! A function is one if it names a command (`DUNLIN_WEB_COMMAND`), or is set up for the web adapter that Lambda's users
//! have as a layer (`AWS_LAMBDA_EXEC_WRAPPER=/opt/bootstrap`, or any `AWS_LWA_…` on a runtime that runs a program of its
//! own, or in an image). The settings lie in the function's variables, so that every version keeps its own and every client can set them.
//!
//! Invariants
//!   1. `WebServer::of` is pure, and refuses what it does not understand: no setting is overlooked.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Body, Family, Invocation, Outcome, Pieces};

/// Words for the shell that start the server.
pub const COMMAND: &str = "DUNLIN_WEB_COMMAND";
/// Requests that one environment gets at once.
pub const CONCURRENCY: &str = "DUNLIN_WEB_CONCURRENCY";
/// Seconds until the server must be ready.
pub const STARTUP: &str = "DUNLIN_WEB_STARTUP";
/// Where the server listens.
pub const PORT: &str = "AWS_LWA_PORT";
/// Path that tells whether it is ready.
pub const READINESS_PATH: &str = "AWS_LWA_READINESS_CHECK_PATH";

const OWN_PREFIX: &str = "DUNLIN_WEB_";
const ADAPTER_PREFIX: &str = "AWS_LWA_";
/// Names a program that starts the runtime.
pub const WRAPPER: &str = "AWS_LAMBDA_EXEC_WRAPPER";
/// The one of the web adapter.
pub const ADAPTER: &str = "/opt/bootstrap";
/// Accepted and without effect, as the platform answers the client itself.
const WITHOUT_EFFECT: &[&str] = &["AWS_LWA_ENABLE_COMPRESSION", "AWS_LWA_LAMBDA_RUNTIME_API_PROXY"];
const KNOWN: &[&str] = &[
    COMMAND,
    CONCURRENCY,
    STARTUP,
    PORT,
    READINESS_PATH,
    "AWS_LWA_HOST",
    "AWS_LWA_READINESS_CHECK_PORT",
    "AWS_LWA_READINESS_CHECK_PROTOCOL",
    "AWS_LWA_READINESS_CHECK_HEALTHY_STATUS",
    "AWS_LWA_REMOVE_BASE_PATH",
    "AWS_LWA_PASS_THROUGH_PATH",
    "AWS_LWA_ASYNC_INIT",
    "AWS_LWA_INVOKE_MODE",
    "AWS_LWA_AUTHORIZATION_SOURCE",
    "AWS_LWA_ERROR_STATUS_CODES",
];
/// Ports in a sandbox that are the platform's own.
const TAKEN_PORTS: [u16; 2] = [9_001, 15_001];
const PORT_DEFAULT: u16 = 8_080;
/// Requests at once in one environment, if nothing is said.
pub const CONCURRENCY_DEFAULT: u32 = 80;
/// Most requests at once in one environment.
pub const CONCURRENCY_MAX: u32 = 1_000;
const STARTUP_S_MAX: u64 = 900;

/// Statuses from one to another, both included.
pub type Statuses = Vec<(u16, u16)>;

/// How to run a web server and to speak with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WebServer {
    /// Words for the shell; of a container image none, whose own program it is.
    pub command: String,
    /// Where it listens.
    pub port: u16,
    /// Requests that one environment gets at once.
    pub concurrency: u32,
    /// How it is known to be ready.
    pub readiness: Readiness,
    /// Milliseconds until it must be ready, if the platform's own limit is not to hold.
    pub startup_ms: Option<u64>,
    /// What is taken off the front of paths.
    pub base_path: Option<String>,
    /// Where events that are no HTTP requests are posted.
    pub pass_through_path: String,
    /// Whether it was set up for the web adapter, whose rules then hold.
    pub adapted: bool,
    /// Whether invocations that take a stream get one.
    pub streams: bool,
    /// The header that becomes `Authorization`.
    pub authorization_source: Option<String>,
    /// Statuses that are failures of the function.
    pub error_statuses: Statuses,
}

/// How a server is known to be ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readiness {
    /// Where to ask.
    pub port: u16,
    /// What to get there; nothing: a connection is enough.
    pub path: Option<String>,
    /// Statuses that mean that it is.
    pub healthy: Statuses,
}

/// Whether a status is among some.
pub fn holds(statuses: &Statuses, status: u16) -> bool {
    statuses.iter().any(|(from, to)| (*from..=*to).contains(&status))
}

/// A function's variables.
struct Variables<'a> {
    all: &'a BTreeMap<String, String>,
    /// Whether the adapter's older names count.
    adapter: bool,
}

impl<'a> Variables<'a> {
    fn get(&self, name: &str) -> Option<&'a str> {
        self.all.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// The adapter's variable, or the name that it had before.
    fn of_adapter(&self, name: &str) -> Option<&'a str> {
        let older = name.strip_prefix(ADAPTER_PREFIX).filter(|_| self.adapter);
        self.get(name).or_else(|| self.get(older?))
    }

    fn number<T: TryFrom<u64>>(&self, name: &str, least: u64, most: u64) -> Result<Option<T>, String> {
        let Some(text) = self.of_adapter(name) else { return Ok(None) };
        let number = text.parse::<u64>().ok().filter(|number| (least..=most).contains(number));
        let number = number.and_then(|number| T::try_from(number).ok());
        number.map(Some).ok_or_else(|| format!("{name} must be a number from {least} to {most}, not {text:?}"))
    }

    fn port(&self, name: &str) -> Result<Option<u16>, String> {
        let port = self.number::<u16>(name, 1_024, 65_535)?;
        match port.filter(|port| TAKEN_PORTS.contains(port)) {
            Some(port) => Err(format!("{name} cannot be {port}: the platform itself listens there")),
            None => Ok(port),
        }
    }

    fn flag(&self, name: &str) -> Result<bool, String> {
        match self.of_adapter(name) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(other) => Err(format!("{name} must be true or false, not {other:?}")),
        }
    }

    fn path(&self, name: &str) -> Result<Option<String>, String> {
        let path = self.of_adapter(name);
        let fits = |path: &str| path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic());
        match path {
            Some(path) if !fits(path) => Err(format!("{name} must be a path that begins with /, not {path:?}")),
            path => Ok(path.map(str::to_owned)),
        }
    }

    fn statuses(&self, name: &str) -> Result<Option<Statuses>, String> {
        let Some(text) = self.of_adapter(name) else { return Ok(None) };
        let read = |part: &str| {
            let (from, to) = part.split_once('-').unwrap_or((part, part));
            let (from, to) = (from.trim().parse().ok()?, to.trim().parse().ok()?);
            (100 <= from && from <= to && to <= 599).then_some((from, to))
        };
        let all = text.split(',').map(|part| read(part.trim())).collect::<Option<Statuses>>();
        all.map(Some).ok_or_else(|| format!("{name} must be statuses such as 200-399,404, not {text:?}"))
    }
}

/// Refuses what begins like a setting and is none.
fn refuse_unknown(environment: &BTreeMap<String, String>) -> Result<(), String> {
    let is_unknown = |name: &&String| {
        let prefixed = name.starts_with(OWN_PREFIX) || name.starts_with(ADAPTER_PREFIX);
        prefixed && !KNOWN.contains(&name.as_str()) && !WITHOUT_EFFECT.contains(&name.as_str())
    };
    match environment.keys().find(is_unknown) {
        Some(name) => Err(format!("{name} is no setting of web servers here")),
        None => Ok(()),
    }
}

impl WebServer {
    /// The web server that a function is by its variables; nothing if it is none.
    ///
    /// # Errors
    /// What is wrong with a variable, in words for whoever set it.
    pub fn of(family: Family, environment: &BTreeMap<String, String>, timeout_ms: u64) -> Result<Option<Self>, String> {
        let wrapped = environment.get(WRAPPER).is_some_and(|wrapper| wrapper == ADAPTER);
        let own = environment.get(COMMAND).filter(|command| !command.trim().is_empty());
        let adapted = family == Family::Provided && environment.keys().any(|name| name.starts_with(ADAPTER_PREFIX));
        let command = match own {
            Some(command) => command.clone(),
            None if wrapped => r#"exec "$LAMBDA_TASK_ROOT/$_HANDLER""#.to_owned(),
            None if adapted => r#"exec "$LAMBDA_TASK_ROOT/bootstrap""#.to_owned(),
            None => {
                return match environment.keys().find(|name| name.starts_with(OWN_PREFIX)) {
                    Some(name) => Err(format!("{name} has no meaning without {COMMAND}")),
                    None => Ok(None),
                };
            }
        };
        refuse_unknown(environment)?;
        Self::read(command, &Variables { all: environment, adapter: own.is_none() }, timeout_ms).map(Some)
    }

    /// The same of a container image, by its own variables and the function's over them: any of either kind says that its
    /// program, which is the image's, is one.
    ///
    /// # Errors
    /// As of `of`.
    pub fn of_image(
        image: &[(String, String)],
        environment: &BTreeMap<String, String>,
        timeout_ms: u64,
    ) -> Result<Option<Self>, String> {
        let mut all: BTreeMap<String, String> = image.iter().cloned().collect();
        all.extend(environment.iter().map(|(name, value)| (name.clone(), value.clone())));
        if all.contains_key(COMMAND) {
            return Err(format!("{COMMAND} is the image's own to say: set its command, or ImageConfig"));
        }
        let has = |prefix: &str| all.keys().any(|name| name.starts_with(prefix));
        let own = has(OWN_PREFIX);
        if !own && !has(ADAPTER_PREFIX) {
            return Ok(None);
        }
        refuse_unknown(&all)?;
        Self::read(String::new(), &Variables { all: &all, adapter: !own }, timeout_ms).map(Some)
    }

    fn read(command: String, variables: &Variables<'_>, timeout_ms: u64) -> Result<Self, String> {
        const PLAIN_PORT: &str = "PORT";
        let named = variables.port(PORT)?;
        let port = if named.is_some() { named } else { variables.port(PLAIN_PORT)? }.unwrap_or(PORT_DEFAULT);
        let host = variables.of_adapter("AWS_LWA_HOST").unwrap_or("127.0.0.1");
        if !matches!(host, "127.0.0.1" | "localhost" | "0.0.0.0") {
            return Err(format!(
                "AWS_LWA_HOST must be 127.0.0.1 or localhost: a server is reached there, not at {host:?}"
            ));
        }
        let startup_s = variables.number::<u64>(STARTUP, 1, STARTUP_S_MAX)?;
        let patient = variables.flag("AWS_LWA_ASYNC_INIT")?.then_some(timeout_ms.max(10_000));
        let alone = if variables.adapter { 1 } else { CONCURRENCY_DEFAULT };
        let mode = variables.of_adapter("AWS_LWA_INVOKE_MODE").unwrap_or("buffered").to_ascii_lowercase();
        if !matches!(mode.as_str(), "buffered" | "response_stream") {
            return Err(format!("AWS_LWA_INVOKE_MODE must be buffered or response_stream, not {mode:?}"));
        }
        let pass_through = variables.path("AWS_LWA_PASS_THROUGH_PATH")?;
        let base_path = variables.path("AWS_LWA_REMOVE_BASE_PATH")?;
        let base_path = base_path.map(|path| path.trim_end_matches('/').to_owned()).filter(|path| !path.is_empty());
        let authorization_source = variables.of_adapter("AWS_LWA_AUTHORIZATION_SOURCE").map(str::to_ascii_lowercase);
        if authorization_source.as_deref().is_some_and(|name| http::HeaderName::try_from(name).is_err()) {
            return Err("AWS_LWA_AUTHORIZATION_SOURCE must be the name of a header".to_owned());
        }
        Ok(Self {
            command,
            port,
            concurrency: variables.number(CONCURRENCY, 1, u64::from(CONCURRENCY_MAX))?.unwrap_or(alone),
            readiness: Self::readiness(variables, port)?,
            startup_ms: startup_s.map(|seconds| seconds * 1_000).or(patient),
            base_path,
            adapted: variables.adapter,
            pass_through_path: pass_through.unwrap_or_else(|| "/events".to_owned()),
            streams: mode == "response_stream",
            authorization_source,
            error_statuses: variables.statuses("AWS_LWA_ERROR_STATUS_CODES")?.unwrap_or_default(),
        })
    }

    /// The adapter asks for `/` unless it is told otherwise; a server of the platform's own kind is ready when it listens.
    fn readiness(variables: &Variables<'_>, port: u16) -> Result<Readiness, String> {
        const PROTOCOL: &str = "AWS_LWA_READINESS_CHECK_PROTOCOL";
        let path = variables.path(READINESS_PATH)?;
        let path = match variables.of_adapter(PROTOCOL).map(str::to_ascii_lowercase).as_deref() {
            Some("tcp") => None,
            Some("http") => path.or_else(|| Some("/".to_owned())),
            None if variables.adapter => path.or_else(|| Some("/".to_owned())),
            None => path,
            Some(other) => return Err(format!("{PROTOCOL} must be http or tcp, not {other:?}")),
        };
        let healthy = variables.statuses("AWS_LWA_READINESS_CHECK_HEALTHY_STATUS")?;
        Ok(Readiness {
            port: variables.port("AWS_LWA_READINESS_CHECK_PORT")?.unwrap_or(port),
            path,
            healthy: healthy.unwrap_or_else(|| vec![(100, 499)]),
        })
    }

    /// A path as the server is to see it.
    pub fn path<'a>(&self, path: &'a str) -> &'a str {
        let rest = self.base_path.as_deref().and_then(|base| path.strip_prefix(base));
        match rest {
            Some("") => "/",
            Some(rest) if rest.starts_with('/') => rest,
            _ => path,
        }
    }
}

/// An HTTP request for a web server. The body of one that asks for another protocol goes on with what its client sends
/// in that.
#[derive(Debug)]
pub struct WebCall {
    /// Which function, for whom; without a payload.
    pub invocation: Invocation,
    /// The request: path and query, headers of the message, body.
    pub request: http::Request<Body>,
}

/// What came of a `WebCall`.
pub enum WebAnswer {
    /// The server answers. After status 101 the pieces are what it sends in the other protocol.
    Begun(http::Response<Box<dyn Pieces>>),
    /// The function failed before it did.
    Failed(Box<Outcome>),
}

impl fmt::Debug for WebAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Begun(response) => f.debug_tuple("Begun").field(&response.status()).finish(),
            Self::Failed(outcome) => f.debug_tuple("Failed").field(outcome).finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(family: Family, pairs: &[(&str, &str)]) -> Result<Option<WebServer>, String> {
        let environment = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        WebServer::of(family, &environment, 30_000)
    }

    fn adapted(pairs: &[(&str, &str)]) -> Result<WebServer, String> {
        let all: Vec<_> = [(WRAPPER, ADAPTER)].into_iter().chain(pairs.iter().copied()).collect();
        of(Family::Node, &all).map(Option::unwrap)
    }

    #[test]
    fn only_what_says_so_is_a_web_server() {
        for (family, pairs) in [
            (Family::Node, &[("PORT", "80")][..]),
            (Family::Node, &[("AWS_LWA_PORT", "8000")]),
            (Family::Node, &[("AWS_LAMBDA_EXEC_WRAPPER", "/opt/otel")]),
            (Family::Provided, &[]),
            (Family::Node, &[(COMMAND, " ")]),
        ] {
            assert!(!of(family, pairs).is_ok_and(|server| server.is_some()), "{pairs:?}");
        }
        let own = of(Family::Provided, &[("AWS_LWA_PORT", "8000")]).unwrap().unwrap();
        assert_eq!((own.port, own.concurrency), (8_000, 1));
        assert!(own.command.ends_with("/bootstrap\""));
    }

    #[test]
    fn defaults_differ_between_the_adapter_and_a_command() {
        let own = of(Family::Python, &[(COMMAND, "python server.py")]).unwrap().unwrap();
        assert_eq!((own.port, own.concurrency, own.readiness.path.as_deref()), (8_080, 80, None));
        assert_eq!(own.startup_ms, None);
        let adapted = adapted(&[("PORT", "3000"), ("READINESS_CHECK_PATH", "/up"), ("ASYNC_INIT", "true")]).unwrap();
        assert_eq!((adapted.port, adapted.concurrency), (3_000, 1));
        assert_eq!((adapted.readiness.path.as_deref(), adapted.startup_ms), (Some("/up"), Some(30_000)));
        assert!(holds(&adapted.readiness.healthy, 499) && !holds(&adapted.readiness.healthy, 500));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for (name, value) in [
            ("AWS_LWA_PORT", "0"),
            ("AWS_LWA_PORT", "80"),
            ("AWS_LWA_PORT", "9001"),
            ("AWS_LWA_HOST", "10.0.0.1"),
            ("AWS_LWA_READINESS_CHECK_PATH", "healthz"),
            ("AWS_LWA_READINESS_CHECK_PROTOCOL", "grpc"),
            ("AWS_LWA_READINESS_CHECK_HEALTHY_STATUS", "200-"),
            ("AWS_LWA_ERROR_STATUS_CODES", "600"),
            ("AWS_LWA_INVOKE_MODE", "eventually"),
            ("AWS_LWA_ASYNC_INIT", "yes"),
            ("AWS_LWA_AUTHORIZATION_SOURCE", "a b"),
            ("AWS_LWA_ENABLE_TLS", "true"),
            ("DUNLIN_WEB_CONCURRENCY", "1001"),
            ("DUNLIN_WEB_STARTUP", "901"),
            ("DUNLIN_WEB_TIMEOUT", "1"),
        ] {
            let words = adapted(&[(name, value)]).unwrap_err();
            assert!(words.contains(name), "{words}");
        }
        assert!(adapted(&[("AWS_LWA_ENABLE_COMPRESSION", "true")]).is_ok());
        assert!(of(Family::Node, &[("DUNLIN_WEB_CONCURRENCY", "5")]).is_err());
    }

    #[test]
    fn an_image_is_one_by_its_own_variables_or_the_functions() {
        let of = |image: &[(&str, &str)], own: &[(&str, &str)]| {
            let owned = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
                pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
            };
            WebServer::of_image(&owned(image), &owned(own).into_iter().collect(), 30_000)
        };
        assert_eq!(of(&[("PORT", "3000")], &[]), Ok(None));
        let own = of(&[("PORT", "3000")], &[(CONCURRENCY, "5")]).unwrap().unwrap();
        assert_eq!((own.port, own.concurrency, own.readiness.path, own.adapted), (3_000, 5, None, false));
        let adapted = of(&[("AWS_LWA_PORT", "3000")], &[("AWS_LWA_PORT", "4000")]).unwrap().unwrap();
        assert_eq!((adapted.port, adapted.concurrency, adapted.adapted), (4_000, 1, true));
        assert!(of(&[], &[(COMMAND, "x")]).is_err() && of(&[("AWS_LWA_PORT", "80")], &[]).is_err());
    }

    #[test]
    fn the_base_path_goes_at_a_segment_only() {
        let server = adapted(&[("AWS_LWA_REMOVE_BASE_PATH", "/prod/")]).unwrap();
        for (path, seen) in [("/prod/a", "/a"), ("/prod", "/"), ("/production", "/production"), ("/a/prod", "/a/prod")]
        {
            assert_eq!(server.path(path), seen);
        }
    }
}

//! One signed request to the platform, and its answer.
//!
//! The platform is found by `--endpoint`, `DUNLIN_ENDPOINT`, `AWS_ENDPOINT_URL`, else `http://localhost:4566`. The key is
//! found by `AWS_ACCESS_KEY_ID`, a key file (`--key-file`, `DUNLIN_KEY_FILE`), the shared credentials file, else
//! `test`/`test`, which `dunlin dev` takes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use aws::sigv4::{self, Signing};
use base::Clock;
use http::{Method, Request};
use model::Credentials;
use serde_json::Value as Json;

/// Where the platform is, and who asks.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Connection {
    /// Address of the platform [default: http://localhost:4566]
    #[arg(long, global = true, value_name = "URL")]
    pub endpoint: Option<String>,
    /// File with the access key, such as the root key that `dunlin up` made
    #[arg(long, global = true, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
}

/// An error that the platform answered.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{code}: {message}")]
pub struct ApiError {
    /// HTTP status.
    pub status: u16,
    /// `ResourceNotFoundException`
    pub code: String,
    /// For people.
    pub message: String,
}

/// An answer with its headers.
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Headers, names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The body.
    pub body: Vec<u8>,
}

/// A connection to the platform.
pub struct Client {
    agent: ureq::Agent,
    /// `http://host:port`, without a final slash.
    pub endpoint: String,
    credentials: Credentials,
    clock: Arc<dyn Clock>,
}

impl Client {
    /// Finds address and key; sends nothing.
    pub fn open(connection: &Connection) -> Result<Self> {
        let endpoint = connection
            .endpoint
            .clone()
            .or_else(|| variable("DUNLIN_ENDPOINT"))
            .or_else(|| variable("AWS_ENDPOINT_URL"))
            .unwrap_or_else(|| "http://localhost:4566".into());
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        let uri: http::Uri = endpoint.parse().with_context(|| format!("the endpoint {endpoint:?} is no URL"))?;
        if uri.host().is_none() || !matches!(uri.scheme_str(), Some("http" | "https")) {
            bail!("the endpoint {endpoint:?} is no http or https URL, such as http://localhost:4566");
        }
        let mut config = ureq::Agent::config_builder().http_status_as_error(false);
        if let Some(bundle) = variable("AWS_CA_BUNDLE").filter(|_| uri.scheme_str() == Some("https")) {
            config = config.tls_config(tls(Path::new(&bundle))?);
        }
        let credentials = credentials(connection)?;
        Ok(Self { agent: config.build().into(), endpoint, credentials, clock: base::SystemClock::shared() })
    }

    /// A call of a service that speaks JSON 1.0 or 1.1.
    pub fn json(&self, service: &str, target: &str, region: &str, input: &Json) -> Result<Json> {
        let headers = [("content-type", "application/x-amz-json-1.1"), ("x-amz-target", target)];
        let answer = self.send(service, region, Method::POST, "/", &headers, input.to_string().as_bytes())?;
        document(answer)
    }

    /// A call of a service that speaks REST and JSON.
    pub fn rest(&self, service: &str, region: &str, method: Method, path: &str, input: Option<&Json>) -> Result<Json> {
        let body = input.map(Json::to_string).unwrap_or_default();
        let headers: &[(&str, &str)] = if input.is_some() { &[("content-type", "application/json")] } else { &[] };
        document(self.send(service, region, method, path, headers, body.as_bytes())?)
    }

    /// A question to the platform's own interface.
    pub fn admin(&self, path: &str) -> Result<Json> {
        document(self.send("dunlin", "us-east-1", Method::GET, path, &[], b"")?)
    }

    /// A question to the platform's own interface that changes something there, or whose answer is no JSON.
    pub fn admin_post(&self, path: &str, question: &Json) -> Result<Vec<u8>> {
        let headers = [("content-type", "application/json")];
        let answer = self.send("dunlin", "us-east-1", Method::POST, path, &headers, question.to_string().as_bytes())?;
        if answer.status < 300 {
            return Ok(answer.body);
        }
        document(answer).map(|_| Vec::new())
    }

    /// A change of something of the platform's own.
    pub fn admin_change(&self, method: Method, path: &str, body: &[u8]) -> Result<Json> {
        document(self.send("dunlin", "us-east-1", method, path, &[("content-type", "application/zip")], body)?)
    }

    /// Sends one signed request and takes whatever comes back.
    pub fn send(
        &self,
        service: &str,
        region: &str,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Answer> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.endpoint));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (mut parts, ()) = request.body(())?.into_parts();
        let signing = Signing { credentials: &self.credentials, region, service, now_ms: self.clock.now_ms() };
        sigv4::sign(&mut parts, body, signing)?;
        let request = Request::from_parts(parts, body);
        let mut response = self.agent.run(request).map_err(|error| self.unreachable(&error))?;
        let headers = response.headers().iter();
        let headers = headers
            .map(|(name, value)| (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
            .collect();
        let status = response.status().as_u16();
        let body = response
            .body_mut()
            .with_config()
            .limit(64 * 1024 * 1024)
            .read_to_vec()
            .map_err(|error| self.unreachable(&error))?;
        Ok(Answer { status, headers, body })
    }

    fn unreachable(&self, error: &ureq::Error) -> anyhow::Error {
        anyhow::anyhow!(
            "no answer from {}: {error}\nIs Dunlin running? Start it with `dunlin dev`, or say where it is with --endpoint or DUNLIN_ENDPOINT.",
            self.endpoint
        )
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn tls(bundle: &Path) -> Result<ureq::tls::TlsConfig> {
    let pem = std::fs::read(bundle).with_context(|| format!("AWS_CA_BUNDLE {}", bundle.display()))?;
    let certificates: Vec<_> = ureq::tls::parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(ureq::tls::PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if certificates.is_empty() {
        bail!("AWS_CA_BUNDLE {} holds no certificate", bundle.display());
    }
    Ok(ureq::tls::TlsConfig::builder().root_certs(ureq::tls::RootCerts::new_with_certs(&certificates)).build())
}

fn credentials(connection: &Connection) -> Result<Credentials> {
    if connection.key_file.is_none()
        && let (Some(access_key), Some(secret_key)) = (variable("AWS_ACCESS_KEY_ID"), variable("AWS_SECRET_ACCESS_KEY"))
    {
        return Ok(Credentials {
            access_key,
            secret_key,
            session_token: variable("AWS_SESSION_TOKEN"),
            expires_at_ms: None,
        });
    }
    if let Some(file) = connection.key_file.clone().or_else(|| variable("DUNLIN_KEY_FILE").map(PathBuf::from)) {
        let text = std::fs::read_to_string(&file)
            .with_context(|| format!("the key file {} cannot be read", file.display()))?;
        return from_ini(&text, "default")
            .with_context(|| format!("{} holds no aws_access_key_id and aws_secret_access_key", file.display()));
    }
    let shared = variable("AWS_SHARED_CREDENTIALS_FILE").map(PathBuf::from);
    let shared = shared.or_else(|| Some(PathBuf::from(variable("HOME")?).join(".aws/credentials")));
    let profile = variable("AWS_PROFILE").unwrap_or_else(|| "default".into());
    if let Some(found) =
        shared.and_then(|file| std::fs::read_to_string(file).ok()).and_then(|text| from_ini(&text, &profile))
    {
        return Ok(found);
    }
    Ok(Credentials { access_key: "test".into(), secret_key: "test".into(), session_token: None, expires_at_ms: None })
}

/// A profile of a shared credentials file.
fn from_ini(text: &str, profile: &str) -> Option<Credentials> {
    let mut here = false;
    let mut values = BTreeMap::new();
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            here = name.trim() == profile;
        } else if let (true, Some((name, value))) = (here, line.split_once('=')) {
            values.insert(name.trim().to_owned(), value.trim().to_owned());
        }
    }
    Some(Credentials {
        access_key: values.remove("aws_access_key_id")?,
        secret_key: values.remove("aws_secret_access_key")?,
        session_token: values.remove("aws_session_token"),
        expires_at_ms: None,
    })
}

/// The answer's JSON, or the error that it holds.
fn document(answer: Answer) -> Result<Json> {
    let json: Json = serde_json::from_slice(&answer.body).unwrap_or(Json::Null);
    if answer.status < 300 {
        return Ok(json);
    }
    Err(error_of(&answer, &json).into())
}

fn error_of(answer: &Answer, json: &Json) -> ApiError {
    let text = |name: &str| json.get(name).and_then(Json::as_str).map(str::to_owned);
    let code = answer.headers.get("x-amzn-errortype").cloned().or_else(|| text("__type")).or_else(|| text("code"));
    let code = code.unwrap_or_else(|| format!("HTTP {}", answer.status));
    let code = code.split(':').next().unwrap_or_default().rsplit('#').next().unwrap_or_default().to_owned();
    let message = text("message")
        .or_else(|| text("Message"))
        .unwrap_or_else(|| String::from_utf8_lossy(&answer.body).trim().to_owned());
    ApiError { status: answer.status, code, message }
}

/// Nothing instead of an error, where the platform says that there is no such thing.
pub fn found(result: Result<Json>) -> Result<Option<Json>> {
    match result {
        Ok(json) => Ok(Some(json)),
        Err(error) => match error.downcast_ref::<ApiError>() {
            Some(api) if api.status == 404 || api.code.ends_with("NotFoundException") => Ok(None),
            _ => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_read_from_a_credentials_file() {
        let text = "[other]\naws_access_key_id = X\n[default]\naws_access_key_id=A\naws_secret_access_key = S\n";
        let found = from_ini(text, "default").unwrap();
        assert_eq!((found.access_key.as_str(), found.secret_key.as_str()), ("A", "S"));
        assert!(from_ini(text, "other").is_none());
    }

    #[test]
    fn errors_are_read_in_each_protocol() {
        let json =
            serde_json::json!({"__type": "com.amazonaws.dynamodb.v20120810#ResourceInUseException", "message": "m"});
        let answer = Answer { status: 400, headers: BTreeMap::new(), body: Vec::new() };
        assert_eq!(error_of(&answer, &json).code, "ResourceInUseException");
        let headers =
            BTreeMap::from([("x-amzn-errortype".to_owned(), "ResourceNotFoundException:http://x".to_owned())]);
        let answer = Answer { status: 404, headers, body: b"plain".to_vec() };
        let error = error_of(&answer, &Json::Null);
        assert_eq!((error.code.as_str(), error.message.as_str()), ("ResourceNotFoundException", "plain"));
    }
}

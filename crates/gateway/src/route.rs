//! Which part of the platform a request is for, from its host, path, method and headers. Pure.
//!
//! | request                                                        | target          |
//! |----------------------------------------------------------------|-----------------|
//! | host `ID.lambda-url.REGION.{localhost,on.aws}`                 | function URL    |
//! | host `ID.execute-api.REGION.{localhost,amazonaws.com}`         | API             |
//! | `GET /_dunlin/health`                                          | health          |
//! | `/_dunlin/url/ID/…`                                            | function URL    |
//! | `/_dunlin/api/ID/STAGE/…`, `/restapis/ID/STAGE/_user_request_/…` | API           |
//! | `/_dunlin/…`                                                   | admin           |
//! | signature, `X-Amz-Target`, AWS host, path of an operation      | AWS call        |
//!
//! Invariant: the first row that fits decides, so that a tenant's host never reaches the control plane.

use std::borrow::Cow;

use http::HeaderMap;
use model::SiteKey;

/// Prefix of everything that is the platform's own.
pub const OWN_PREFIX: &str = "/_dunlin/";

/// How the client named a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// By a host name of its own: a browser sees a separate origin.
    Host,
    /// By a path on the platform's host: the content is served sandboxed.
    Path,
}

/// A function URL or API, and the path that it is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteRequest<'a> {
    /// Which.
    pub key: SiteKey,
    /// Path as the site sees it, percent-encoded, starting with `/`.
    pub path: Cow<'a, str>,
    /// How it was named.
    pub form: Form,
}

/// What a request is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target<'a> {
    /// Whether the platform is ready.
    Health,
    /// The admin handler.
    Admin,
    /// Tenants' content.
    Site(SiteRequest<'a>),
    /// An AWS operation.
    Aws,
    /// Nothing that this port serves.
    Unknown,
}

/// The parts of a request that decide.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// Host name without port, lower case; empty if there is none.
    pub host: &'a str,
    /// Method.
    pub method: &'a str,
    /// Percent-encoded path.
    pub path: &'a str,
    /// Query without `?`.
    pub query: &'a str,
    /// Headers.
    pub headers: &'a HeaderMap,
}

/// Decides. `known_operation` is asked last: whether method and path are those of a served operation.
pub fn route<'a>(view: &View<'a>, known_operation: impl FnOnce() -> bool) -> Target<'a> {
    if let Some(key) = site_of_host(view.host) {
        return Target::Site(SiteRequest { key, path: Cow::Borrowed(view.path), form: Form::Host });
    }
    if let Some(rest) = view.path.strip_prefix(OWN_PREFIX) {
        return own(view, rest);
    }
    if let Some(site) = user_request(view.path) {
        return Target::Site(site);
    }
    if is_aws_call(view) || known_operation() { Target::Aws } else { Target::Unknown }
}

fn own<'a>(view: &View<'a>, rest: &'a str) -> Target<'a> {
    if rest == "health" && (view.method == "GET" || view.method == "HEAD") {
        return Target::Health;
    }
    let path_form = |key, path: &'a str| {
        let path = if path.is_empty() { "/" } else { path };
        Target::Site(SiteRequest { key, path: Cow::Borrowed(path), form: Form::Path })
    };
    if let Some((id, path)) = rest.strip_prefix("url/").map(split_id) {
        return path_form(SiteKey::FunctionUrl(id.to_owned()), path);
    }
    if let Some((id, path)) = rest.strip_prefix("api/").map(split_id) {
        // `$default` is no path segment of an API, but a path form needs a word for it.
        let path = match path.strip_prefix("/$default").or_else(|| path.strip_prefix("/%24default")) {
            Some(rest) if rest.is_empty() || rest.starts_with('/') => rest,
            _ => path,
        };
        return path_form(SiteKey::Api(id.to_owned()), path);
    }
    Target::Admin
}

/// `ID/rest` as `ID` and `/rest`.
fn split_id(text: &str) -> (&str, &str) {
    text.split_at(text.find('/').unwrap_or(text.len()))
}

/// `/restapis/ID/STAGE/_user_request_/rest`, the form that tools know from other local clouds.
fn user_request(path: &str) -> Option<SiteRequest<'_>> {
    let (id, rest) = path.strip_prefix("/restapis/")?.split_once('/')?;
    let (stage, rest) = rest.split_once('/')?;
    let rest = rest.strip_prefix("_user_request_")?;
    if !(rest.is_empty() || rest.starts_with('/')) {
        return None;
    }
    let path = if stage == "$default" || stage == "%24default" {
        if rest.is_empty() { "/".to_owned() } else { rest.to_owned() }
    } else {
        format!("/{stage}{rest}")
    };
    Some(SiteRequest { key: SiteKey::Api(id.to_owned()), path: Cow::Owned(path), form: Form::Path })
}

/// The site that a host name (lower case, without port) names.
pub fn site_of_host(host: &str) -> Option<SiteKey> {
    let (id, rest) = host.split_once('.')?;
    let fits = |id: &str| !id.is_empty() && id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    if !fits(id) {
        return None;
    }
    let below = |kind: &str, domains: &[&str]| {
        let rest = rest.strip_prefix(kind)?.strip_prefix('.')?;
        let fits = |domain: &str| {
            let region = rest.strip_suffix(domain).and_then(|region| region.strip_suffix('.'));
            rest == domain || region.is_some_and(|region| !region.is_empty() && !region.contains('.'))
        };
        domains.iter().any(|domain| fits(domain)).then(|| id.to_owned())
    };
    below("lambda-url", &["localhost", "on.aws"])
        .map(SiteKey::FunctionUrl)
        .or_else(|| below("execute-api", &["localhost", "amazonaws.com"]).map(SiteKey::Api))
}

/// Whether a host name (lower case, without port) belongs to AWS.
pub fn is_aws_host(host: &str) -> bool {
    [".amazonaws.com", ".amazonaws.com.cn", ".on.aws", ".api.aws"].iter().any(|domain| host.ends_with(domain))
}

fn is_aws_call(view: &View<'_>) -> bool {
    let signed =
        view.headers.get(http::header::AUTHORIZATION).is_some_and(|value| value.as_bytes().starts_with(b"AWS"));
    signed
        || view.headers.contains_key("x-amz-target")
        || is_presigned(view.query)
        || is_aws_host(view.host)
        // The Query protocol posts a form to the root; nothing else answers there.
        || (view.method == "POST" && view.path == "/")
}

/// Whether the query carries a signature, of version 4 or 2.
pub fn is_presigned(query: &str) -> bool {
    let has = |name: &str| query.split('&').any(|pair| pair.split('=').next() == Some(name));
    !query.is_empty() && (has("X-Amz-Signature") || (has("Signature") && has("AWSAccessKeyId")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(method: &str, host: &str, path: &str, headers: &[(&'static str, &str)]) -> String {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().unwrap());
        }
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let view = View { host, method, path, query, headers: &map };
        match route(&view, || path.starts_with("/2015-03-31/")) {
            Target::Site(SiteRequest { key: SiteKey::FunctionUrl(id), path, form }) => {
                format!("url {id} {path} {form:?}")
            }
            Target::Site(SiteRequest { key: SiteKey::Api(id), path, form }) => format!("api {id} {path} {form:?}"),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn hosts_and_paths_decide() {
        for (method, host, path, wanted) in [
            ("GET", "abc1.lambda-url.us-east-1.localhost", "/x", "url abc1 /x Host"),
            ("GET", "abc1.lambda-url.us-east-1.on.aws", "/", "url abc1 / Host"),
            ("GET", "abc1.lambda-url.localhost", "/_dunlin/admin", "url abc1 /_dunlin/admin Host"),
            ("GET", "a1.execute-api.eu-west-1.amazonaws.com", "/dev/x", "api a1 /dev/x Host"),
            ("GET", "a1.execute-api.eu-west-1.localhost", "/_dunlin/health", "api a1 /_dunlin/health Host"),
            ("GET", "localhost", "/_dunlin/health", "Health"),
            ("POST", "localhost", "/_dunlin/health", "Admin"),
            ("GET", "localhost", "/_dunlin/url/abc", "url abc / Path"),
            ("GET", "localhost", "/_dunlin/url/abc/a%20b/", "url abc /a%20b/ Path"),
            ("GET", "localhost", "/_dunlin/api/a1/dev/x", "api a1 /dev/x Path"),
            ("GET", "localhost", "/_dunlin/api/a1/$default/x", "api a1 /x Path"),
            ("GET", "localhost", "/_dunlin/api/a1/$default", "api a1 / Path"),
            ("GET", "localhost", "/_dunlin/api/a1/$defaults", "api a1 /$defaults Path"),
            ("GET", "localhost", "/_dunlin/anything", "Admin"),
            ("GET", "localhost", "/restapis/a1/dev/_user_request_/x", "api a1 /dev/x Path"),
            ("GET", "localhost", "/restapis/a1/dev/_user_request_", "api a1 /dev Path"),
            ("GET", "localhost", "/restapis/a1/$default/_user_request_/x", "api a1 /x Path"),
            ("GET", "localhost", "/restapis/a1/resources", "Unknown"),
            ("GET", "localhost", "/2015-03-31/functions", "Aws"),
            ("GET", "dynamodb.us-east-1.amazonaws.com", "/", "Aws"),
            ("GET", "amazonaws.com.evil", "/", "Unknown"),
            ("GET", "a.lambda-url.x.y.localhost", "/", "Unknown"),
            ("POST", "localhost", "/", "Aws"),
            ("GET", "localhost", "/", "Unknown"),
            ("GET", "localhost", "/b/k?X-Amz-Signature=1", "Aws"),
            ("GET", "localhost", "/b/k?AWSAccessKeyId=1&Signature=2", "Aws"),
            ("GET", "localhost", "/b/k?NotX-Amz-Signature=1", "Unknown"),
        ] {
            assert_eq!(target(method, host, path, &[]), wanted, "{method} {host} {path}");
        }
        let signature = "AWS4-HMAC-SHA256 Credential=x/20200101/us-east-1/s3/aws4_request";
        assert_eq!(target("GET", "localhost", "/b", &[("authorization", signature)]), "Aws");
        assert_eq!(target("PUT", "localhost", "/b", &[("x-amz-target", "DynamoDB_20120810.GetItem")]), "Aws");
    }
}

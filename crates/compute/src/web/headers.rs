//! What the platform adds to the head of a request for a web server, and what it takes off heads on either way. Pure.

use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHORIZATION, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{Request, Uri};
use model::{FunctionVersion, WebServer};
use serde::Serialize;

use crate::environment::{About, Call};

const LAMBDA_CONTEXT: &str = "x-amzn-lambda-context";
const TRACE: &str = "x-amzn-trace-id";
const TENANT: &str = "x-amz-tenant-id";

/// Whether a header belongs to one connection and not to the message.
pub(super) fn is_of_connection(name: &HeaderName) -> bool {
    [CONNECTION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, PROXY_AUTHORIZATION].contains(name)
        || matches!(name.as_str(), "keep-alive" | "proxy-connection" | "proxy-authenticate")
}

/// The protocol that a request asks for instead of HTTP, if it does.
pub(super) fn upgrade_of(headers: &HeaderMap) -> Option<HeaderValue> {
    let asks = headers.get_all(CONNECTION).iter().any(|value| {
        value.as_bytes().split(|byte| *byte == b',').any(|token| token.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
    });
    headers.get(UPGRADE).filter(|_| asks).cloned()
}

/// Takes off what belongs to the connection, what `Connection` names included.
pub(super) fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        // A client could otherwise take away what bounds its body.
        .filter(|name| *name != CONTENT_LENGTH)
        .collect();
    let own: Vec<HeaderName> = headers.keys().filter(|name| is_of_connection(name)).cloned().collect();
    for name in named.iter().chain(&own) {
        headers.remove(name);
    }
}

/// Makes a request fit for the server of a call.
pub(super) fn prepare<B>(request: &mut Request<B>, web: &WebServer, call: &Call, log_stream: &str) {
    let upgrade = upgrade_of(request.headers());
    let path = web.path(request.uri().path());
    let target = match request.uri().query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    // Of a target that was one, the end is one.
    *request.uri_mut() = target.parse().unwrap_or(Uri::from_static("/"));
    *request.version_mut() = http::Version::HTTP_11;
    let headers = request.headers_mut();
    strip(headers);
    if let Some(protocol) = upgrade {
        headers.insert(UPGRADE, protocol);
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
    if let Some(source) = web.authorization_source.as_deref()
        && let Some(value) = headers.remove(source)
    {
        headers.insert(AUTHORIZATION, value);
    }
    let set = [
        (TRACE, call.trace_id.clone()),
        (TENANT, call.version.tenant.clone()),
        (LAMBDA_CONTEXT, Some(context(call, log_stream))),
    ];
    for (name, text) in set {
        // What a client sends under these names is not what they mean.
        headers.remove(name);
        if let Some(value) = text.and_then(|text| HeaderValue::from_bytes(text.as_bytes()).ok()) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    if !headers.contains_key(http::header::HOST)
        && let Ok(host) = HeaderValue::from_str(&format!("127.0.0.1:{}", web.port))
    {
        headers.insert(http::header::HOST, host);
    }
}

/// The context of a call, as the adapter's users read it.
fn context(call: &Call, log_stream: &str) -> String {
    #[derive(Serialize)]
    struct Config<'a> {
        function_name: &'a str,
        memory: u32,
        version: &'a str,
        log_stream: &'a str,
        log_group: &'a str,
    }
    #[derive(Serialize)]
    struct Context<'a> {
        #[serde(flatten)]
        about: About<'a>,
        identity: Option<()>,
        env_config: Config<'a>,
    }
    let version: &FunctionVersion = &call.version;
    let context = Context {
        about: call.about(),
        identity: None,
        env_config: Config {
            function_name: version.function.name.as_str(),
            memory: version.memory_mb,
            version: &version.version,
            log_stream,
            log_group: &version.log_group,
        },
    };
    // Strings and numbers always serialise.
    serde_json::to_string(&context).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        map
    }

    #[test]
    fn what_belongs_to_a_connection_goes_no_further() {
        let mut map = headers(&[
            ("connection", "close, X-Hop, content-length"),
            ("x-hop", "1"),
            ("transfer-encoding", "chunked"),
            ("te", "trailers"),
            ("content-length", "3"),
            ("x-own", "2"),
        ]);
        strip(&mut map);
        let mut left: Vec<&str> = map.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["content-length", "x-own"]);
    }

    #[test]
    fn another_protocol_is_asked_for_by_both_headers() {
        let asked = |pairs| upgrade_of(&headers(pairs)).is_some();
        assert!(asked(&[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")]));
        assert!(!asked(&[("upgrade", "websocket")]) && !asked(&[("connection", "upgrade")]));
    }
}

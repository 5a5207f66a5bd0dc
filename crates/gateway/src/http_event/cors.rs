//! Cross-origin answers of function URLs and HTTP APIs that configure them. Pure.
//!
//! Invariants
//!   1. Where cross-origin settings exist, the function's own `Access-Control-*` headers are never sent.
//!   2. An origin that is not allowed gets no cross-origin header at all.

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use model::http_api::Cors;

/// The answer to a preflight, if the request is one.
pub fn preflight(cors: &Cors, method: &str, headers: &HeaderMap, status: StatusCode) -> Option<Response<Bytes>> {
    let asked = headers.get(header::ACCESS_CONTROL_REQUEST_METHOD)?;
    if method != "OPTIONS" || !headers.contains_key(header::ORIGIN) {
        return None;
    }
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = status;
    let out = response.headers_mut();
    if !allow_origin(cors, headers, out) {
        return Some(response);
    }
    let asked_headers = headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS);
    set_list(out, header::ACCESS_CONTROL_ALLOW_METHODS, &cors.allow_methods, cors, Some(asked));
    set_list(out, header::ACCESS_CONTROL_ALLOW_HEADERS, &cors.allow_headers, cors, asked_headers);
    if let Some(seconds) = cors.max_age_s {
        out.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from(seconds));
    }
    Some(response)
}

/// Puts the configured headers in the place of the function's.
pub fn apply(cors: &Cors, request: &HeaderMap, response: &mut HeaderMap) {
    let own: Vec<HeaderName> =
        response.keys().filter(|name| name.as_str().starts_with("access-control-")).cloned().collect();
    for name in own {
        response.remove(name);
    }
    if request.contains_key(header::ORIGIN) && allow_origin(cors, request, response) {
        set_list(response, header::ACCESS_CONTROL_EXPOSE_HEADERS, &cors.expose_headers, cors, None);
    }
}

/// Allows the request's origin, if the settings do.
fn allow_origin(cors: &Cors, request: &HeaderMap, out: &mut HeaderMap) -> bool {
    let Some(origin) = request.get(header::ORIGIN) else { return false };
    let Ok(text) = origin.to_str() else { return false };
    let every = cors.allow_origins.iter().any(|allowed| allowed == "*");
    if !every && !cors.allow_origins.iter().any(|allowed| fits(allowed, text)) {
        return false;
    }
    // With credentials, a browser takes no wildcard.
    if every && !cors.allow_credentials {
        out.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    } else {
        out.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        out.append(header::VARY, HeaderValue::from_static("Origin"));
    }
    if cors.allow_credentials {
        out.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
    true
}

/// An origin, or `scheme://*`.
fn fits(allowed: &str, origin: &str) -> bool {
    match allowed.strip_suffix("://*") {
        Some(scheme) => origin.split_once("://").is_some_and(|(own, _)| own.eq_ignore_ascii_case(scheme)),
        None => allowed.trim_end_matches('/').eq_ignore_ascii_case(origin),
    }
}

/// A list as a header; `*` is spelled out with what was asked for where credentials forbid the wildcard.
fn set_list(out: &mut HeaderMap, name: HeaderName, list: &[String], cors: &Cors, asked: Option<&HeaderValue>) {
    let value = match asked.filter(|_| cors.allow_credentials && list.iter().any(|entry| entry == "*")) {
        Some(asked) => asked.clone(),
        None if list.is_empty() => return,
        None => match HeaderValue::from_str(&list.join(",")) {
            Ok(value) => value,
            Err(_) => return,
        },
    };
    out.insert(name, value);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cors(origins: &[&str], credentials: bool) -> Cors {
        Cors {
            allow_credentials: credentials,
            allow_headers: vec!["content-type".into(), "x-a".into()],
            allow_methods: vec!["*".into()],
            allow_origins: origins.iter().map(|&origin| origin.into()).collect(),
            expose_headers: vec!["x-b".into()],
            max_age_s: Some(60),
        }
    }

    fn map(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    const ASK: [(&str, &str); 2] = [("origin", "https://a.example"), ("access-control-request-method", "PUT")];

    #[test]
    fn preflights_are_answered_by_the_settings() {
        for (origins, credentials, origin, methods) in [
            (&["*"][..], false, Some("*"), Some("*")),
            (&["*"], true, Some("https://a.example"), Some("PUT")),
            (&["https://a.example"], false, Some("https://a.example"), Some("*")),
            (&["https://*"], false, Some("https://a.example"), Some("*")),
            (&["http://*"], false, None, None),
            (&["https://b.example"], false, None, None),
            (&[], false, None, None),
        ] {
            let response =
                preflight(&cors(origins, credentials), "OPTIONS", &map(&ASK), StatusCode::NO_CONTENT).unwrap();
            let get = |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap());
            assert_eq!(response.status(), 204);
            assert_eq!(get("access-control-allow-origin"), origin, "{origins:?}");
            assert_eq!(get("access-control-allow-methods"), methods, "{origins:?}");
            assert_eq!(get("access-control-max-age"), origin.map(|_| "60"));
            assert_eq!(get("access-control-allow-headers"), origin.map(|_| "content-type,x-a"));
        }
        let settings = cors(&["*"], false);
        assert!(preflight(&settings, "OPTIONS", &map(&ASK[..1]), StatusCode::OK).is_none());
        assert!(preflight(&settings, "GET", &map(&ASK), StatusCode::OK).is_none());
    }

    #[test]
    fn the_settings_win_over_the_function() {
        let own = [("access-control-allow-origin", "*"), ("access-control-allow-methods", "GET"), ("x-kept", "1")];
        let mut response = map(&own);
        apply(&cors(&["https://a.example"], true), &map(&ASK[..1]), &mut response);
        assert_eq!(response["access-control-allow-origin"], "https://a.example");
        assert_eq!(response["access-control-allow-credentials"], "true");
        assert_eq!(response["access-control-expose-headers"], "x-b");
        assert!(!response.contains_key("access-control-allow-methods"));
        let mut response = map(&own);
        apply(&cors(&["https://b.example"], false), &map(&ASK[..1]), &mut response);
        assert_eq!(response, map(&own[2..]));
    }
}

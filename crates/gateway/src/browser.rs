//! A web page is never an operator: which requests are refused because a browser may have been tricked into them. Pure.
//!
//! Invariants
//!   1. A host name that is not the platform's is refused everywhere but at the health check: a page that rebinds its
//!      own name to this machine reaches nothing.
//!   2. The control plane and `/_dunlin/` answer only requests with an `Authorization` header or a signed query, which
//!      no form and no simple cross-origin request can carry, in `dev` too. A look at the root of one of AWS's hosts needs
//!      none: it names no operation.
//!   3. There, pages of other origins are refused unless an option names them, and no WebSocket is opened.
//!   4. The control plane never sends a CORS header, so that no preflight of a page succeeds.
//!   5. Content of tenants on the platform's own host is sandboxed: it runs in an opaque origin.

use std::net::{IpAddr, Ipv6Addr};

use http::HeaderMap;

use crate::route::{Form, Target, View, is_aws_host, is_presigned};

/// Policy of tenants' content on path forms. Without `allow-same-origin`, the page has an origin of its own.
pub const SANDBOX_POLICY: &str = "sandbox allow-downloads allow-forms allow-modals allow-popups allow-scripts";

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The request names no host, or two.
    NoHost,
    /// The host name is not the platform's.
    ForeignHost,
    /// Nothing says who calls.
    NoAuthorization,
    /// A page of another origin calls.
    ForeignOrigin,
    /// A WebSocket is asked for.
    WebSocket,
    /// A sandbox asks for the platform's own pages.
    Guest,
}

impl Refusal {
    /// HTTP status.
    pub fn status(self) -> u16 {
        match self {
            Self::NoHost => 400,
            Self::ForeignHost => 421,
            _ => 403,
        }
    }

    /// AWS's code for it, so that an SDK shows the right kind of error.
    pub fn code(self) -> &'static str {
        match self {
            Self::NoHost => "BadRequestException",
            Self::NoAuthorization => "MissingAuthenticationTokenException",
            _ => "AccessDeniedException",
        }
    }

    /// What happened and what to do.
    pub fn message(self) -> &'static str {
        match self {
            Self::NoHost => "The request has no single Host. Send one Host header.",
            Self::ForeignHost => {
                "This host name is not one of this platform's. Use a loopback address, localhost, a name below \
                 localhost, an AWS name, or start Dunlin with this name as a domain."
            }
            Self::NoAuthorization => {
                "Missing Authentication Token. Calls of the platform need an Authorization header or a signed URL; in \
                 dev any credentials do."
            }
            Self::ForeignOrigin => {
                "Web pages of other origins may not call the platform. Start Dunlin with this origin allowed if the \
                 page is yours."
            }
            Self::WebSocket => "The platform opens no WebSocket here.",
            Self::Guest => "Functions may not use the platform's own pages.",
        }
    }
}

/// Decides over one request. `guest` says whether a sandbox sent it, `guest_host` is the name of the endpoint it got.
pub fn judge(view: &View<'_>, target: &Target<'_>, rules: &Rules<'_>) -> Result<(), Refusal> {
    if *target == Target::Health {
        return Ok(());
    }
    if view.host.is_empty() {
        return Err(Refusal::NoHost);
    }
    if !is_own_host(view.host, rules.domains) && rules.guest_host != Some(view.host) {
        return Err(Refusal::ForeignHost);
    }
    if matches!(target, Target::Site(_)) {
        return Ok(());
    }
    if rules.guest_host.is_some() && *target == Target::Admin {
        return Err(Refusal::Guest);
    }
    if asks_for_websocket(view) {
        return Err(Refusal::WebSocket);
    }
    if !origin_fits(view.headers, rules) {
        return Err(Refusal::ForeignOrigin);
    }
    let named = view.headers.get(http::header::AUTHORIZATION).is_some_and(|value| !value.is_empty());
    if *target != Target::Unknown && !named && !is_presigned(view.query) && !looks_at_root(view, target) {
        return Err(Refusal::NoAuthorization);
    }
    Ok(())
}

/// What the rules depend on beside the request.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'a> {
    /// Configured domains and addresses.
    pub domains: &'a [String],
    /// Configured origins.
    pub allowed_origins: &'a [String],
    /// `scheme://host[:port]` as the client addressed the platform.
    pub own_origin: &'a str,
    /// Host of the endpoint that a sandbox was given, if one calls.
    pub guest_host: Option<&'a str>,
}

/// The policy that an answer must carry, if any.
pub fn content_policy(target: &Target<'_>) -> Option<&'static str> {
    matches!(target, Target::Site(site) if site.form == Form::Path).then_some(SANDBOX_POLICY)
}

/// Host name without port, lower case, of a `Host` header or authority.
pub fn host_name(authority: &str) -> String {
    let authority = authority.rsplit('@').next().unwrap_or(authority);
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => authority.split(':').next().unwrap_or(authority),
    };
    host.trim_end_matches('.').to_ascii_lowercase()
}

fn is_own_host(host: &str, domains: &[String]) -> bool {
    if let Ok(address) = host.parse::<IpAddr>() {
        let loopback = match address {
            IpAddr::V4(address) => address.is_loopback(),
            IpAddr::V6(address) => address == Ipv6Addr::LOCALHOST,
        };
        return loopback || domains.iter().any(|domain| domain.parse() == Ok(address));
    }
    let below = |domain: &str| {
        let head = host.len().checked_sub(domain.len()).filter(|_| host.ends_with(domain));
        head.is_some_and(|head| head == 0 || host.as_bytes()[head - 1] == b'.')
    };
    below("localhost") || is_aws_host(host) || domains.iter().any(|domain| below(&domain.to_ascii_lowercase()))
}

/// Whether a request names no operation of the AWS host that it is for, whose service may say how it is.
fn looks_at_root(view: &View<'_>, target: &Target<'_>) -> bool {
    let nothing_more = view.query.is_empty() && !view.headers.contains_key("x-amz-target");
    *target == Target::Aws && is_aws_host(view.host) && view.method == "GET" && view.path == "/" && nothing_more
}

fn asks_for_websocket(view: &View<'_>) -> bool {
    let upgrade = view.headers.get_all(http::header::UPGRADE).iter();
    let mut words = upgrade.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    words.any(|word| word.trim().eq_ignore_ascii_case("websocket"))
        || view.headers.contains_key("sec-websocket-key")
        || view.method == "CONNECT"
}

fn origin_fits(headers: &HeaderMap, rules: &Rules<'_>) -> bool {
    let origin = match headers.get(http::header::ORIGIN).map(|value| value.to_str()) {
        None => None,
        Some(Ok(origin)) => Some(origin),
        Some(Err(_)) => return false,
    };
    if origin.is_some_and(|origin| rules.allowed_origins.iter().any(|allowed| allowed == origin)) {
        return true;
    }
    let own = origin.is_none_or(|origin| origin.eq_ignore_ascii_case(rules.own_origin));
    let site = headers.get("sec-fetch-site").map_or(b"none".as_slice(), |value| value.as_bytes());
    // A page of another port of this host is same-site and yet a stranger.
    own && matches!(site, b"none" | b"same-origin")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::{self};

    const AUTH: (&str, &str) = ("authorization", "Bearer x");

    fn judged(method: &str, host: &str, path: &str, headers: &[(&'static str, &str)]) -> Result<(), Refusal> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().unwrap());
        }
        let host = host_name(host);
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let view = View { host: &host, method, path, query, headers: &map };
        let target = route::route(&view, || path.starts_with("/2015-03-31/"));
        let domains = ["faas.example".to_owned(), "192.0.2.7".to_owned()];
        let origins = ["https://console.example".to_owned()];
        let own_origin = "http://localhost:4566";
        judge(&view, &target, &Rules { domains: &domains, allowed_origins: &origins, own_origin, guest_host: None })
    }

    #[test]
    fn only_own_hosts_are_served() {
        for host in [
            "localhost",
            "LOCALHOST:4566",
            "a.localhost:1",
            "127.0.0.1:4566",
            "127.9.9.9",
            "[::1]:4566",
            "lambda.us-east-1.amazonaws.com",
            "x.lambda-url.us-east-1.on.aws",
            "faas.example",
            "deep.faas.example:443",
            "192.0.2.7:4566",
            "localhost.",
        ] {
            assert_eq!(judged("GET", host, "/2015-03-31/functions", &[AUTH]), Ok(()), "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example",
            "notlocalhost",
            "xfaas.example",
            "amazonaws.com.evil.example",
            "10.0.0.1",
            "192.0.2.8",
            "[::2]",
            "[::ffff:127.0.0.1]",
            "0.0.0.0",
            "user@evil.example",
            "2130706433",
        ] {
            let refused = Err(Refusal::ForeignHost);
            assert_eq!(judged("GET", host, "/2015-03-31/functions", &[AUTH]), refused, "{host}");
            assert_eq!(judged("GET", host, "/_dunlin/url/abc/", &[]), refused, "{host}");
            assert_eq!(judged("GET", host, "/_dunlin/health", &[]), Ok(()), "{host}");
        }
        assert_eq!(judged("GET", "", "/2015-03-31/functions", &[AUTH]), Err(Refusal::NoHost));
    }

    #[test]
    fn the_root_of_an_aws_host_may_be_looked_at_by_everybody_of_its_origin() {
        let host = "dynamodb.us-east-1.amazonaws.com";
        assert_eq!(judged("GET", host, "/", &[]), Ok(()));
        let refused = Err(Refusal::NoAuthorization);
        assert_eq!(judged("GET", "localhost", "/", &[("x-amz-target", "DynamoDB_20120810.ListTables")]), refused);
        assert_eq!(judged("GET", host, "/", &[("x-amz-target", "DynamoDB_20120810.ListTables")]), refused);
        for (method, path) in [("POST", "/"), ("PUT", "/"), ("GET", "/x"), ("GET", "/?Action=ListUsers")] {
            assert_eq!(judged(method, host, path, &[]), refused, "{method} {path}");
        }
        let page = [("origin", "https://evil.example")];
        assert_eq!(judged("GET", host, "/", &page), Err(Refusal::ForeignOrigin));
    }

    #[test]
    fn the_control_plane_wants_a_name_and_no_stranger() {
        let refused = |reason| Err(reason);
        for (path, headers, wanted) in [
            ("/2015-03-31/functions", vec![], refused(Refusal::NoAuthorization)),
            ("/_dunlin/usage", vec![], refused(Refusal::NoAuthorization)),
            ("/", vec![("content-type", "text/plain")], refused(Refusal::NoAuthorization)),
            ("/", vec![("content-type", "application/x-www-form-urlencoded")], refused(Refusal::NoAuthorization)),
            ("/", vec![("x-amz-target", "DynamoDB_20120810.ListTables")], refused(Refusal::NoAuthorization)),
            ("/", vec![("authorization", "")], refused(Refusal::NoAuthorization)),
            ("/", vec![AUTH], Ok(())),
            ("/?X-Amz-Signature=1", vec![], Ok(())),
            ("/", vec![AUTH, ("origin", "https://evil.example")], refused(Refusal::ForeignOrigin)),
            ("/", vec![AUTH, ("origin", "http://localhost:3000")], refused(Refusal::ForeignOrigin)),
            ("/", vec![AUTH, ("origin", "null")], refused(Refusal::ForeignOrigin)),
            ("/", vec![AUTH, ("origin", "http://localhost:4566")], Ok(())),
            ("/", vec![AUTH, ("origin", "https://console.example"), ("sec-fetch-site", "cross-site")], Ok(())),
            ("/", vec![AUTH, ("sec-fetch-site", "cross-site")], refused(Refusal::ForeignOrigin)),
            ("/", vec![AUTH, ("sec-fetch-site", "same-site")], refused(Refusal::ForeignOrigin)),
            ("/", vec![AUTH, ("sec-fetch-site", "same-origin")], Ok(())),
            ("/", vec![AUTH, ("sec-fetch-site", "none")], Ok(())),
            ("/", vec![AUTH, ("upgrade", "h2c, WebSocket")], refused(Refusal::WebSocket)),
            ("/_dunlin/x", vec![AUTH, ("sec-websocket-key", "x")], refused(Refusal::WebSocket)),
        ] {
            assert_eq!(judged("POST", "localhost:4566", path, &headers), wanted, "{path} {headers:?}");
        }
    }

    #[test]
    fn tenants_are_open_to_browsers() {
        let foreign = [("origin", "https://shop.example"), ("sec-fetch-site", "cross-site")];
        assert_eq!(judged("POST", "x.lambda-url.us-east-1.localhost:4566", "/", &foreign), Ok(()));
        assert_eq!(judged("POST", "localhost:4566", "/_dunlin/url/x/", &foreign), Ok(()));
    }

    #[test]
    fn a_guest_reaches_its_endpoint_but_not_the_platforms_pages() {
        let headers = HeaderMap::from_iter([(http::header::AUTHORIZATION, "x".parse().unwrap())]);
        let view = View { host: "169.254.100.1", method: "GET", path: "/", query: "", headers: &headers };
        let rules = Rules {
            domains: &[],
            allowed_origins: &[],
            own_origin: "http://169.254.100.1",
            guest_host: Some("169.254.100.1"),
        };
        assert_eq!(judge(&view, &Target::Aws, &rules), Ok(()));
        assert_eq!(judge(&view, &Target::Admin, &rules), Err(Refusal::Guest));
        assert_eq!(judge(&view, &Target::Aws, &Rules { guest_host: None, ..rules }), Err(Refusal::ForeignHost));
    }
}

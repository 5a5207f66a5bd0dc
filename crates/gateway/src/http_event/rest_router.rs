//! Which method of a REST API's resource tree serves a request. Pure.
//!
//! Rules (source: API Gateway's developer guide and recorded answers of AWS)
//!   1. Segment by segment, a static part beats `{param}`, which beats `{proxy+}`.
//!   2. The best resource serves with the exact method, else with `ANY`.
//!   3. If it has neither, the best `{proxy+}` elsewhere that has one of them serves; else nothing does.
//!   4. A trailing slash is ignored, but fills no `{param}`; `{proxy+}` needs at least one segment.

use std::borrow::Cow;

use model::http_api::RestMethod;

use super::{Pairs, decoded};

/// A matched method.
#[derive(Debug)]
pub struct Match<'a> {
    /// What serves.
    pub method: &'a RestMethod,
    /// Path parameters, percent-encoded as they came.
    pub parameters: Pairs<'a>,
}

/// The method that serves; `path` is percent-encoded and without the stage.
pub fn find<'a>(methods: &'a [RestMethod], http_method: &str, path: &'a str) -> Option<Match<'a>> {
    let segments = segments(path);
    let mut matches: Vec<(Vec<Kind>, &RestMethod)> =
        methods.iter().filter_map(|method| rank(&method.resource_path, &segments).map(|rank| (rank, method))).collect();
    matches.sort_by(|a, b| a.0.cmp(&b.0));
    let best = matches.first()?.1.resource_path.as_str();
    let serves = |resource: &str| {
        let of = matches.iter().map(|(_, method)| *method).filter(|method| method.resource_path == resource);
        let exact = of.clone().find(|method| method.http_method == http_method);
        exact.or_else(|| of.clone().find(|method| method.http_method == "ANY"))
    };
    let elsewhere = || {
        let proxies = matches.iter().filter(|(rank, _)| rank.last() == Some(&Kind::Greedy));
        proxies.map(|(_, method)| method.resource_path.as_str()).find_map(serves)
    };
    let method = serves(best).or_else(elsewhere)?;
    Some(Match { method, parameters: parameters(&method.resource_path, &segments, path) })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Static,
    Param,
    Greedy,
}

fn segments(path: &str) -> Vec<&str> {
    let inner = path.trim_start_matches('/');
    let inner = inner.strip_suffix('/').unwrap_or(inner);
    if inner.is_empty() { Vec::new() } else { inner.split('/').collect() }
}

fn name_of(part: &str) -> Option<(&str, bool)> {
    let inner = part.strip_prefix('{')?.strip_suffix('}')?;
    Some(inner.strip_suffix('+').map_or((inner, false), |name| (name, true)))
}

/// How a resource fits, better ones smaller; nothing if it does not.
fn rank(resource: &str, wanted: &[&str]) -> Option<Vec<Kind>> {
    let parts = segments(resource);
    let mut rank = Vec::with_capacity(parts.len());
    for (index, part) in parts.iter().enumerate() {
        let segment = wanted.get(index)?;
        match name_of(part) {
            Some((_, true)) => {
                rank.push(Kind::Greedy);
                return (index + 1 == parts.len()).then_some(rank);
            }
            Some((_, false)) if !segment.is_empty() => rank.push(Kind::Param),
            None if decoded(segment) == *part => rank.push(Kind::Static),
            _ => return None,
        }
    }
    (parts.len() == wanted.len()).then_some(rank)
}

fn parameters<'a>(resource: &'a str, wanted: &[&'a str], path: &'a str) -> Pairs<'a> {
    let mut out = Vec::new();
    for (index, part) in segments(resource).into_iter().enumerate() {
        let Some((name, greedy)) = name_of(part) else { continue };
        let value = if greedy { rest_from(wanted, index, path) } else { wanted[index] };
        out.push((Cow::Borrowed(name), Cow::Borrowed(value)));
    }
    out
}

/// The path from a segment on, without leading or trailing slash.
fn rest_from<'a>(wanted: &[&'a str], index: usize, path: &'a str) -> &'a str {
    let from = wanted[index].as_ptr() as usize - path.as_ptr() as usize;
    let rest = &path[from..];
    rest.strip_suffix('/').unwrap_or(rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::http_api::{AuthKind, Integration};
    use std::collections::BTreeMap;

    fn methods(keys: &[&str]) -> Vec<RestMethod> {
        let method = |key: &&str| {
            let (http_method, path) = key.split_once(' ').unwrap();
            RestMethod {
                resource_path: path.into(),
                resource_id: "r".into(),
                http_method: http_method.into(),
                auth: AuthKind::None,
                integration: Integration::Mock { status: 200, headers: BTreeMap::new(), body: String::new() },
            }
        };
        keys.iter().map(method).collect()
    }

    fn found(methods: &[RestMethod], method: &str, path: &str) -> String {
        match find(methods, method, path) {
            None => "none".into(),
            Some(found) => {
                let parameters: Vec<String> =
                    found.parameters.iter().map(|(name, value)| format!(" {name}={value}")).collect();
                format!("{} {}{}", found.method.http_method, found.method.resource_path, parameters.concat())
            }
        }
    }

    #[test]
    fn the_most_specific_resource_that_has_the_method_serves() {
        let methods = methods(&[
            "GET /",
            "GET /pets",
            "ANY /pets/{id}",
            "GET /pets/{id}",
            "GET /pets/dog",
            "GET /pets/{id}/toys/{toy}",
            "POST /{proxy+}",
            "GET /files/{path+}",
        ]);
        for (method, path, wanted) in [
            ("GET", "/", "GET /"),
            ("GET", "", "GET /"),
            ("GET", "/pets", "GET /pets"),
            ("GET", "/pets/", "GET /pets"),
            ("GET", "/pets/dog", "GET /pets/dog"),
            ("GET", "/pets/cat%20x", "GET /pets/{id} id=cat%20x"),
            ("DELETE", "/pets/cat", "ANY /pets/{id} id=cat"),
            ("POST", "/pets", "POST /{proxy+} proxy=pets"),
            ("POST", "/pets/dog/", "POST /{proxy+} proxy=pets/dog"),
            ("DELETE", "/pets", "none"),
            ("GET", "/pets/a/toys/b", "GET /pets/{id}/toys/{toy} id=a toy=b"),
            ("GET", "/pets//toys/b", "none"),
            ("GET", "/files", "none"),
            ("GET", "/files/", "none"),
            ("GET", "/files/a//b", "GET /files/{path+} path=a//b"),
            ("POST", "/", "none"),
            ("GET", "/Pets", "none"),
            ("GET", "/p%65ts", "GET /pets"),
        ] {
            assert_eq!(found(&methods, method, path), wanted, "{method} {path}");
        }
    }

    proptest::proptest! {
        #[test]
        fn every_path_with_a_segment_reaches_a_greedy_root(path in "/[a-z/%{}+]{0,20}") {
            let methods = methods(&["ANY /{proxy+}"]);
            let found = find(&methods, "GET", &path);
            let wanted = path.trim_start_matches('/');
            proptest::prop_assert_eq!(found.is_some(), !wanted.is_empty());
        }
    }
}

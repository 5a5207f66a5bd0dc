//! Which stage and route of an HTTP API serve a request. Pure.
//!
//! Rules (source: API Gateway's developer guide and recorded answers of AWS)
//!   1. A first segment that names a stage selects it; else `$default` serves, if it exists.
//!   2. Only routes of the request's method, of `ANY`, and `$default` take part.
//!   3. A path without variables beats one with, which beats a greedy one (longer first); `$default` is last. Among
//!      equals, static parts further left win; for the same path, a method beats `ANY`.
//!   4. A trailing slash counts: `/pets/` is not `/pets`; `/pets/{proxy+}` takes it with an empty value. `/{proxy+}`
//!      does not take `/`.

use std::borrow::Cow;

use model::http_api::{HttpApi, HttpRoute, HttpStage};

use super::{Pairs, decoded};

/// A matched stage.
#[derive(Debug)]
pub struct StageMatch<'a> {
    /// The stage.
    pub stage: &'a HttpStage,
    /// Percent-encoded path without the stage's segment, starting with `/`.
    pub path: &'a str,
}

/// A matched route.
#[derive(Debug)]
pub struct Match<'a> {
    /// What serves.
    pub route: &'a HttpRoute,
    /// Path parameters, decoded.
    pub parameters: Pairs<'a>,
}

/// The stage that serves a path.
pub fn find_stage<'a>(api: &'a HttpApi, path: &'a str) -> Option<StageMatch<'a>> {
    let inner = path.strip_prefix('/').unwrap_or(path);
    let (first, _) = inner.split_at(inner.find('/').unwrap_or(inner.len()));
    if let Some(stage) = api.stages.get(decoded(first).as_ref()).filter(|stage| stage.name != "$default") {
        let rest = &inner[first.len()..];
        return Some(StageMatch { stage, path: if rest.is_empty() { "/" } else { rest } });
    }
    api.stages.get("$default").map(|stage| StageMatch { stage, path })
}

/// The route that serves; `path` is percent-encoded and without the stage.
pub fn find<'a>(stage: &'a HttpStage, method: &str, path: &'a str) -> Option<Match<'a>> {
    let segments: Vec<&str> = path.strip_prefix('/').unwrap_or(path).split('/').collect();
    let ranked = stage.routes.iter().filter_map(|route| {
        let (route_method, route_path) = route.route_key.split_once(' ')?;
        let any = route_method == "ANY";
        if !any && route_method != method {
            return None;
        }
        rank(route_path, &segments).map(|rank| ((rank, any), route, route_path))
    });
    if let Some((_, route, route_path)) = ranked.min_by(|a, b| a.0.cmp(&b.0)) {
        return Some(Match { route, parameters: parameters(route_path, &segments) });
    }
    let default = stage.routes.iter().find(|route| route.route_key == "$default")?;
    Some(Match { route: default, parameters: Vec::new() })
}

/// Better routes are smaller.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    /// 0 static, 1 with variables, 2 greedy.
    class: u8,
    /// Fewer is longer: the negated number of parts before a greedy one.
    prefix: std::cmp::Reverse<usize>,
    /// Whether each part is a variable.
    variable: Vec<bool>,
}

fn name_of(part: &str) -> Option<(&str, bool)> {
    let inner = part.strip_prefix('{')?.strip_suffix('}')?;
    Some(inner.strip_suffix('+').map_or((inner, false), |name| (name, true)))
}

fn rank(route_path: &str, wanted: &[&str]) -> Option<Rank> {
    let parts: Vec<&str> = route_path.strip_prefix('/').unwrap_or(route_path).split('/').collect();
    let mut rank = Rank { class: 0, prefix: std::cmp::Reverse(0), variable: Vec::with_capacity(parts.len()) };
    for (index, part) in parts.iter().enumerate() {
        let segment = wanted.get(index)?;
        match name_of(part) {
            Some((_, true)) => {
                let root = index == 0 && wanted == [""];
                rank.class = 2;
                rank.prefix = std::cmp::Reverse(index);
                return (index + 1 == parts.len() && !root).then_some(rank);
            }
            Some((_, false)) if !segment.is_empty() => {
                rank.class = 1;
                rank.variable.push(true);
            }
            None if decoded(segment) == *part => rank.variable.push(false),
            _ => return None,
        }
    }
    (parts.len() == wanted.len()).then_some(rank)
}

fn parameters<'a>(route_path: &'a str, wanted: &[&'a str]) -> Pairs<'a> {
    let parts = route_path.strip_prefix('/').unwrap_or(route_path).split('/').enumerate();
    let parameter = |(index, part): (usize, &'a str)| {
        let (name, greedy) = name_of(part)?;
        let value =
            if greedy { Cow::Owned(decoded(&wanted[index..].join("/")).into_owned()) } else { decoded(wanted[index]) };
        Some((Cow::Borrowed(name), value))
    };
    parts.filter_map(parameter).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::http_api::{AuthKind, Integration};
    use std::collections::BTreeMap;

    fn stage(name: &str, keys: &[&str]) -> HttpStage {
        let route = |key: &&str| HttpRoute {
            route_key: (*key).into(),
            auth: AuthKind::None,
            integration: Integration::Mock { status: 200, headers: BTreeMap::new(), body: String::new() },
        };
        HttpStage { name: name.into(), variables: BTreeMap::new(), routes: keys.iter().map(route).collect() }
    }

    fn found(stage: &HttpStage, method: &str, path: &str) -> String {
        match find(stage, method, path) {
            None => "none".into(),
            Some(found) => {
                let parameters: Vec<String> =
                    found.parameters.iter().map(|(name, value)| format!(" {name}={value}")).collect();
                format!("{}{}", found.route.route_key, parameters.concat())
            }
        }
    }

    #[test]
    fn the_documented_order_holds() {
        let keys = [
            "$default",
            "ANY /{proxy+}",
            "GET /pets/{proxy+}",
            "GET /pets/dog/{id}",
            "GET /pets/dog/1",
            "ANY /pets/dog/1",
        ];
        let stage = stage("$default", &keys);
        for (method, path, wanted) in [
            ("GET", "/pets/dog/1", "GET /pets/dog/1"),
            ("PUT", "/pets/dog/1", "ANY /pets/dog/1"),
            ("GET", "/pets/dog/2", "GET /pets/dog/{id} id=2"),
            ("GET", "/pets/cat/1", "GET /pets/{proxy+} proxy=cat/1"),
            ("GET", "/pets/", "GET /pets/{proxy+} proxy="),
            ("GET", "/pets", "ANY /{proxy+} proxy=pets"),
            ("POST", "/pets/cat/%20", "ANY /{proxy+} proxy=pets/cat/ "),
            ("GET", "/", "$default"),
        ] {
            assert_eq!(found(&stage, method, path), wanted, "{method} {path}");
        }
    }

    #[test]
    fn variables_slashes_and_case() {
        let stage = stage("$default", &["GET /pets", "GET /pets/{id}", "GET /{a}/{b}", "POST /files/{path+}", "GET /"]);
        for (method, path, wanted) in [
            ("GET", "/pets", "GET /pets"),
            ("GET", "/pets/", "none"),
            ("GET", "/Pets", "none"),
            ("GET", "/pets/a%2Fb", "GET /pets/{id} id=a/b"),
            ("GET", "/x/y", "GET /{a}/{b} a=x b=y"),
            ("POST", "/pets", "none"),
            ("POST", "/files/a/b", "POST /files/{path+} path=a/b"),
            ("POST", "/files", "none"),
            ("GET", "/", "GET /"),
        ] {
            assert_eq!(found(&stage, method, path), wanted, "{method} {path}");
        }
    }

    #[test]
    fn the_first_segment_selects_a_stage() {
        let mut api = HttpApi {
            id: "a".into(),
            account: model::AccountId::default(),
            region: model::Region::default(),
            cors: None,
            stages: BTreeMap::new(),
        };
        for name in ["$default", "dev"] {
            api.stages.insert(name.into(), stage(name, &[]));
        }
        let of = |api: &HttpApi, path: &str| {
            find_stage(api, path).map(|found| format!("{} {}", found.stage.name, found.path)).unwrap_or_default()
        };
        assert_eq!(of(&api, "/dev/x"), "dev /x");
        assert_eq!(of(&api, "/dev"), "dev /");
        assert_eq!(of(&api, "/dev/"), "dev /");
        assert_eq!(of(&api, "/device"), "$default /device");
        assert_eq!(of(&api, "/"), "$default /");
        api.stages.remove("$default");
        assert_eq!(of(&api, "/x"), "");
    }

    proptest::proptest! {
        #[test]
        fn any_path_is_routed_or_defaulted(path in "/[a-z/%{}+]{0,20}") {
            let stage = stage("$default", &["GET /{a}", "ANY /{a}/{p+}", "$default"]);
            let found = find(&stage, "GET", &path).is_some();
            proptest::prop_assert!(found);
        }
    }
}

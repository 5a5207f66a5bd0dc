//! From method and path to a REST operation.
//!
//! Built once from the generated tables. The operation with the most literal parts wins; a fixed query part
//! (`/restapis?mode=import`) counts as one.

use std::collections::HashMap;

use http::request::Parts;
use percent_encoding::percent_decode_str;

use crate::model_table::{Model, Operation};

#[derive(Debug)]
enum Segment {
    Literal(&'static str),
    /// One part, by its wire name.
    One(&'static str),
    /// The rest of the path.
    Rest(&'static str),
}

#[derive(Debug)]
struct Route {
    operation: &'static Operation,
    segments: Vec<Segment>,
    /// `name=value`, or a bare name.
    fixed_query: Vec<&'static str>,
    literals: usize,
}

/// Routes of one model, by their first segment.
#[derive(Debug)]
pub(crate) struct Routes {
    by_first: HashMap<&'static str, Vec<Route>>,
}

/// A matched operation with the decoded parts of its path, by wire name.
pub(crate) type Matched = (&'static Operation, Vec<(&'static str, String)>);

impl Routes {
    /// The routes of a model.
    pub(crate) fn of(model: &'static Model) -> Self {
        let mut by_first: HashMap<&'static str, Vec<Route>> = HashMap::new();
        for operation in model.operations {
            let (path, query) = operation.uri.split_once('?').unwrap_or((operation.uri, ""));
            let segments: Vec<Segment> = path.split('/').filter(|part| !part.is_empty()).map(segment).collect();
            let Some(Segment::Literal(first)) = segments.first() else { continue };
            let fixed_query: Vec<&str> = query.split('&').filter(|part| !part.is_empty()).collect();
            let literals = segments.iter().filter(|segment| matches!(segment, Segment::Literal(_))).count();
            let literals = literals + fixed_query.len();
            by_first.entry(first).or_default().push(Route { operation, segments, fixed_query, literals });
        }
        for routes in by_first.values_mut() {
            routes.sort_by_key(|route| std::cmp::Reverse(route.literals));
        }
        Self { by_first }
    }

    /// Whether any operation's path starts with this one's first part.
    pub(crate) fn knows(&self, path: &str) -> bool {
        path.split('/').nth(1).is_some_and(|first| self.by_first.contains_key(first))
    }

    /// The operation of a request.
    pub(crate) fn find(&self, parts: &Parts) -> Option<Matched> {
        let path: Vec<&str> = parts.uri.path().split('/').filter(|part| !part.is_empty()).collect();
        let query = parts.uri.query().unwrap_or_default();
        let routes = self.by_first.get(path.first()?)?;
        routes.iter().filter(|route| route.operation.method == parts.method.as_str()).find_map(|route| {
            let has = |fixed: &&str| query.split('&').any(|pair| pair == *fixed);
            if !route.fixed_query.iter().all(has) {
                return None;
            }
            Some((route.operation, matched(&route.segments, &path)?))
        })
    }
}

fn segment(part: &'static str) -> Segment {
    match part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) {
        None => Segment::Literal(part),
        Some(name) => match name.strip_suffix('+') {
            Some(name) => Segment::Rest(name),
            None => Segment::One(name),
        },
    }
}

fn matched(segments: &[Segment], path: &[&str]) -> Option<Vec<(&'static str, String)>> {
    let decode = |part: &str| percent_decode_str(part).decode_utf8_lossy().into_owned();
    let mut found = Vec::new();
    let mut rest = path;
    for segment in segments {
        let (first, after) = rest.split_first()?;
        match segment {
            Segment::Literal(literal) if literal == first => {}
            Segment::Literal(_) => return None,
            Segment::One(name) => found.push((*name, decode(first))),
            Segment::Rest(name) => {
                found.push((*name, decode(&rest.join("/"))));
                return Some(found);
            }
        }
        rest = after;
    }
    rest.is_empty().then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apis;

    fn find(api: &apis::Api, method: &str, uri: &str) -> Option<(String, Vec<(&'static str, String)>)> {
        let request = http::Request::builder().method(method).uri(uri).body(()).unwrap();
        let (operation, found) = Routes::of(api.model).find(&request.into_parts().0)?;
        Some((operation.name.to_owned(), found))
    }

    #[test]
    fn finds_operations_by_method_path_and_fixed_query() {
        let lambda = apis::of("lambda", "/").unwrap();
        let (name, found) = find(lambda, "GET", "/2015-03-31/functions/arn%3Aaws%3Alambda/configuration").unwrap();
        assert_eq!(name, "GetFunctionConfiguration");
        assert_eq!(found, [("FunctionName", "arn:aws:lambda".to_owned())]);
        for (method, uri, name) in [
            ("GET", "/2015-03-31/functions/", "ListFunctions"),
            ("GET", "/2015-03-31/functions", "ListFunctions"),
            ("POST", "/2015-03-31/functions/f/invocations?Qualifier=1", "Invoke"),
            ("GET", "/2018-10-31/layers?find=LayerVersion&Arn=x", "GetLayerVersionByArn"),
            ("GET", "/2018-10-31/layers?Marker=x", "ListLayers"),
            ("GET", "/2016-08-19/account-settings/", "GetAccountSettings"),
        ] {
            assert_eq!(find(lambda, method, uri).unwrap().0, name, "{uri}");
        }
        assert!(find(lambda, "PATCH", "/2015-03-31/functions").is_none());
        assert!(find(lambda, "GET", "/2015-03-31/functions/a/b/c").is_none());
        let v1 = apis::of("apigateway", "/restapis").unwrap();
        assert_eq!(find(v1, "POST", "/restapis").unwrap().0, "CreateRestApi");
        assert_eq!(find(v1, "POST", "/restapis?mode=import").unwrap().0, "ImportRestApi");
        let v2 = apis::of("apigateway", "/v2/apis").unwrap();
        let (name, found) = find(v2, "GET", "/v2/apis/abc/stages/%24default").unwrap();
        assert_eq!((name.as_str(), found[1].1.as_str()), ("v2.GetStage", "$default"));
    }
}

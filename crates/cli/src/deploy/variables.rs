//! `${source:address, fallback}` of serverless.yml.
//!
//! Sources: `self`, `opt`, `env`, `sls:stage`, `aws:accountId`, `aws:region`, `param`, `file(path):key`. A value that is
//! one variable keeps its type; inside a longer text it becomes text. `${AWS::Region}` and other names without a known
//! source belong to CloudFormation's Fn::Sub and stay.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::yaml::{Error, Node, Value};

/// Deepest chain of variables that lead to each other.
const DEPTH_MAX: usize = 32;

/// Everything that variables can ask for.
pub struct Sources<'a> {
    /// The whole document, unresolved.
    pub document: &'a Node,
    /// The folder that `file(…)` is relative to.
    pub folder: PathBuf,
    /// `--stage` and other options.
    pub options: BTreeMap<String, String>,
    /// `--param name=value`.
    pub params: BTreeMap<String, String>,
    /// The environment.
    pub environment: &'a dyn Fn(&str) -> Option<String>,
    /// Account of `aws:accountId`.
    pub account: String,
}

impl Sources<'_> {
    /// The stage: option, then `provider.stage`, then `dev`.
    pub fn stage(&self) -> Result<String, Error> {
        if let Some(stage) = self.options.get("stage") {
            return Ok(stage.clone());
        }
        match self.document.get("provider").and_then(|provider| provider.get("stage")) {
            Some(node) => self.resolve(node, 0)?.text("provider.stage"),
            None => Ok("dev".into()),
        }
    }

    /// The region: option, then `provider.region`, then `us-east-1`.
    pub fn region(&self) -> Result<String, Error> {
        if let Some(region) = self.options.get("region") {
            return Ok(region.clone());
        }
        match self.document.get("provider").and_then(|provider| provider.get("region")) {
            Some(node) => self.resolve(node, 0)?.text("provider.region"),
            None => Ok("us-east-1".into()),
        }
    }

    /// The document with every variable replaced.
    pub fn resolve_all(&self) -> Result<Node, Error> {
        self.resolve(self.document, 0)
    }

    fn resolve(&self, node: &Node, depth: usize) -> Result<Node, Error> {
        let value = match &node.value {
            Value::Text(text) => return self.text(node, text, depth),
            Value::List(items) => {
                Value::List(items.iter().map(|item| self.resolve(item, depth)).collect::<Result<_, _>>()?)
            }
            Value::Map(entries) => {
                let resolve = |(key, value): &(String, Node)| Ok((key.clone(), self.resolve(value, depth)?));
                Value::Map(entries.iter().map(resolve).collect::<Result<_, Error>>()?)
            }
            other => other.clone(),
        };
        Ok(Node { at: node.at.clone(), value })
    }

    fn text(&self, node: &Node, text: &str, depth: usize) -> Result<Node, Error> {
        if depth > DEPTH_MAX {
            return Err(node.error(format!("{text:?} leads to itself")));
        }
        let mut out = String::new();
        let mut rest = text;
        while let Some(start) = rest.find("${") {
            let Some(end) = closing(&rest[start..]) else {
                return Err(node.error(format!("{text:?} has a ${{ without its }}")));
            };
            let inside = &rest[start + 2..start + end];
            let whole = start == 0 && out.is_empty() && end + 1 == rest.len();
            match self.variable(node, inside, depth)? {
                Some(found) if whole => return Ok(Node { at: node.at.clone(), value: found.value }),
                Some(found) => {
                    out.push_str(&rest[..start]);
                    out.push_str(&found.text(&format!("${{{inside}}} inside a text"))?);
                }
                None => out.push_str(&rest[..=start + end]),
            }
            rest = &rest[start + end + 1..];
        }
        out.push_str(rest);
        Ok(Node { at: node.at.clone(), value: Value::Text(out) })
    }

    /// The value of what stands between the braces; nothing if it is CloudFormation's.
    fn variable(&self, node: &Node, inside: &str, depth: usize) -> Result<Option<Node>, Error> {
        let candidates = split(inside);
        if !candidates.iter().any(|candidate| has_source(candidate)) {
            return Ok(None);
        }
        for candidate in &candidates {
            let nested = self.text(node, candidate.trim(), depth + 1)?;
            let Value::Text(candidate) = &nested.value else { return Ok(Some(nested)) };
            if let Some(found) = self.candidate(node, candidate, depth)? {
                return Ok(Some(found));
            }
        }
        Err(node.error(format!("${{{inside}}} has no value; give it one, or a fallback after a comma")))
    }

    fn candidate(&self, node: &Node, candidate: &str, depth: usize) -> Result<Option<Node>, Error> {
        let make = |value| Node { at: node.at.clone(), value };
        let text = |text: String| make(Value::Text(text));
        if let Some(literal) = literal(candidate) {
            return Ok(Some(make(literal)));
        }
        if let Some(rest) = candidate.strip_prefix("file(") {
            return self.file(node, rest, depth);
        }
        let Some((source, address)) = candidate.split_once(':') else {
            return Err(node.error(format!("{candidate:?} is no variable; literal texts stand in quotes")));
        };
        Ok(match source {
            "self" => self.at_path(self.document, address, depth)?,
            "opt" => match address {
                "stage" => self.options.get("stage").cloned().map(text),
                "region" => self.options.get("region").cloned().map(text),
                _ => self.options.get(address).cloned().map(text),
            },
            "env" => (self.environment)(address).map(text),
            "sls" if address == "stage" => Some(text(self.stage()?)),
            "aws" if address == "accountId" => Some(text(self.account.clone())),
            "aws" if address == "region" => Some(text(self.region()?)),
            // Which PHP a function has; `php` makes something of it.
            "bref" if address.starts_with(super::php::BREF_LAYER) => Some(text(address.to_owned())),
            "param" => self.param(address, depth)?.or_else(|| self.params.get(address).cloned().map(text)),
            _ => {
                let message = format!(
                    "the variable source {source:?} is not supported; there are self, opt, env, sls, aws, bref, param and file"
                );
                return Err(node.error(message));
            }
        })
    }

    fn param(&self, name: &str, depth: usize) -> Result<Option<Node>, Error> {
        if self.params.contains_key(name) {
            return Ok(None);
        }
        let stage = self.stage()?;
        for group in [stage.as_str(), "default"] {
            if let Some(found) = self.at_path(self.document, &format!("params.{group}.{name}"), depth)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn at_path(&self, root: &Node, path: &str, depth: usize) -> Result<Option<Node>, Error> {
        let mut node = root.clone();
        for part in path.split('.').filter(|part| !part.is_empty()) {
            // A part of the way may itself be a variable that gives a map.
            if matches!(&node.value, Value::Text(text) if text.contains("${")) {
                node = self.resolve(&node, depth + 1)?;
            }
            let next = match &node.value {
                Value::List(items) => part.parse::<usize>().ok().and_then(|index| items.get(index)).cloned(),
                _ => node.get(part).cloned(),
            };
            match next {
                Some(next) => node = next,
                None => return Ok(None),
            }
        }
        self.resolve(&node, depth + 1).map(Some)
    }

    fn file(&self, node: &Node, rest: &str, depth: usize) -> Result<Option<Node>, Error> {
        let Some((name, after)) = rest.split_once(')') else { return Err(node.error("file( without its )")) };
        let path = self.folder.join(name);
        if !path.exists() {
            return Ok(None);
        }
        let text =
            std::fs::read_to_string(&path).map_err(|error| node.error(format!("{}: {error}", path.display())))?;
        let is_data = [".yml", ".yaml", ".json"].iter().any(|ending| name.ends_with(ending));
        if !is_data {
            if [".js", ".cjs", ".mjs", ".ts", ".toml"].iter().any(|ending| name.ends_with(ending)) {
                return Err(node.error(format!("file({name}): only YAML, JSON and plain text files are supported")));
            }
            return Ok(Some(Node { at: node.at.clone(), value: Value::Text(text) }));
        }
        let document = Node::parse(&path, &text)?;
        self.at_path(&document, after.trim_start_matches(':'), depth)
    }
}

/// Index of the brace that closes the variable at the start of `text`.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0usize;
    for (index, character) in text.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 1 => return Some(index),
            '}' => depth -= 1,
            _ => {}
        }
    }
    None
}

/// Candidates between commas that are in no braces, quotes or parentheses.
fn split(inside: &str) -> Vec<&str> {
    let (mut parts, mut start, mut depth, mut quote) = (Vec::new(), 0, 0i32, None);
    for (index, character) in inside.char_indices() {
        match (character, quote) {
            (c, Some(q)) if c == q => quote = None,
            (_, Some(_)) => {}
            ('\'' | '"', None) => quote = Some(character),
            ('{' | '(', None) => depth += 1,
            ('}' | ')', None) => depth -= 1,
            (',', None) if depth == 0 => {
                parts.push(&inside[start..index]);
                start = index + 1;
            }
            _ => {}
        }
    }
    parts.push(&inside[start..]);
    parts
}

fn has_source(candidate: &str) -> bool {
    let candidate = candidate.trim();
    let source = candidate.split([':', '(']).next().unwrap_or("");
    let is_name = !source.is_empty() && source.bytes().all(|b| b.is_ascii_lowercase() || b == b'T' || b == b'B');
    is_name && candidate[source.len()..].starts_with([':', '(']) && !candidate[source.len()..].starts_with("::")
}

fn literal(candidate: &str) -> Option<Value> {
    for quote in ['\'', '"'] {
        if let Some(inner) = candidate.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote)) {
            return Some(Value::Text(inner.to_owned()));
        }
    }
    match candidate {
        "true" => Some(Value::Bool(true)),
        "false" => Some(Value::Bool(false)),
        "null" => Some(Value::Null),
        _ => candidate.parse::<i64>().ok().map(|number| Value::Number(number.into())),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn resolve(yaml: &str) -> Result<serde_json::Value, Error> {
        let document = Node::parse(Path::new("serverless.yml"), yaml)?;
        let environment = |name: &str| (name == "HOME_TOWN").then(|| "Sylt".to_owned());
        let options = BTreeMap::from([("tier".to_owned(), "gold".to_owned())]);
        let sources = Sources {
            document: &document,
            folder: PathBuf::from("/nowhere"),
            options,
            params: BTreeMap::new(),
            environment: &environment,
            account: "000000000000".into(),
        };
        sources.resolve_all().map(|node| node.json())
    }

    #[test]
    fn variables_have_sources_fallbacks_and_types() {
        let yaml = "provider: {stage: test}\ncustom: {n: 5, m: {k: [a, b]}}\na: ${self:custom.n}\nb: x-${self:custom.n}-${sls:stage}\nc: ${opt:none, env:HOME_TOWN}\nd: ${opt:none, 'x, y'}\ne: ${self:custom.m}\nf: ${self:custom.m.k.1}\ng: ${opt:tier}\nh: '${AWS::Region}-${aws:region}'\ni: ${opt:none, ${env:NONE, 7}}\n";
        let all = resolve(yaml).unwrap();
        assert_eq!(all["a"], 5);
        assert_eq!(all["b"], "x-5-test");
        assert_eq!(all["c"], "Sylt");
        assert_eq!(all["d"], "x, y");
        assert_eq!(all["e"], serde_json::json!({"k": ["a", "b"]}));
        assert_eq!(all["f"], "b");
        assert_eq!(all["g"], "gold");
        assert_eq!(all["h"], "${AWS::Region}-us-east-1");
        assert_eq!(all["i"], 7);
    }

    #[test]
    fn missing_values_loops_and_unknown_sources_are_said_with_their_place() {
        for (yaml, word) in [
            ("a: ${env:NONE}", "has no value"),
            ("a: ${self:b}\nb: ${self:a}", "leads to itself"),
            ("a: ${ssm:/x}", "\"ssm\" is not supported"),
            ("a: ${self:b", "without its }"),
        ] {
            let error = resolve(yaml).unwrap_err();
            assert!(error.message.contains(word), "{error}");
            assert!(error.to_string().starts_with("serverless.yml:"), "{error}");
        }
    }
}

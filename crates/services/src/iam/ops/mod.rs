//! The operations on roles and policies: each validates, decides with the pure file `record`, and commits once.

pub(super) mod policies;
pub(super) mod roles;

use aws::{Call, Error};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use store::{Entry, Range};

use super::error;
use super::roles::Roles;

/// Most items of one page where the call does not say. Source: IAM's operations.
const PAGE: usize = 100;

/// The account of a call.
fn account(call: &Call) -> &str {
    call.principal.account.as_str()
}

/// A text that the model demands.
fn text<'a>(call: &'a Call, member: &str) -> &'a str {
    call.text(member).unwrap_or_default()
}

/// `Path` or `PathPrefix`; without one, the root.
fn path(call: &Call, member: &str) -> Result<String, Error> {
    let path = call.text(member).filter(|path| !path.is_empty()).unwrap_or("/");
    if path.starts_with('/') && (member != "Path" || path.ends_with('/')) {
        return Ok(path.to_owned());
    }
    Err(error::invalid(format!("The specified value for path is invalid. It must begin and end with /: {path}")))
}

/// One page of records in a range that `fits` accepts, and the marker of the next page.
async fn page<T: DeserializeOwned>(
    roles: &Roles,
    call: &Call,
    prefix: bytes::Bytes,
    key_of: impl Fn(&str) -> bytes::Bytes + Send,
    fits: impl Fn(&T) -> bool + Send,
) -> Result<(Vec<T>, Option<String>), Error> {
    let most = call.number("MaxItems").and_then(|most| usize::try_from(most).ok()).unwrap_or(PAGE).clamp(1, 1_000);
    let mut range = Range::prefix(prefix);
    if let Some(marker) = call.text("Marker") {
        range.start = std::ops::Bound::Included(key_of(marker));
    }
    let mut found = Vec::new();
    loop {
        let page = roles.store.range(&range).await.map_err(error::store)?;
        for Entry { key, value, .. } in &page.entries {
            let record: T = serde_json::from_slice(value).map_err(Error::internal)?;
            if !fits(&record) {
                continue;
            }
            if found.len() == most {
                let name = store::keys::Parts::of(key);
                return Ok((found, Some(last_text(name)?)));
            }
            found.push(record);
        }
        match page.entries.last() {
            Some(last) if page.more => range = range.beyond(last.key.clone()),
            _ => return Ok((found, None)),
        }
    }
}

/// The name in a key of a role or policy.
fn last_text(mut parts: store::keys::Parts<'_>) -> Result<String, Error> {
    let name = parts.byte().and_then(|_| parts.byte()).and_then(|_| parts.text()).and_then(|_| parts.text());
    name.ok_or_else(|| Error::internal("the key of a role or policy cannot be read"))
}

/// One page of what is in memory already, in the order of its names.
fn page_of<T>(call: &Call, items: Vec<(String, T)>) -> (Vec<T>, Option<String>) {
    let most = call.number("MaxItems").and_then(|most| usize::try_from(most).ok()).unwrap_or(PAGE).clamp(1, 1_000);
    let start = call.text("Marker").unwrap_or_default();
    let mut rest = items.into_iter().filter(|(name, _)| name.as_str() >= start);
    let shown = rest.by_ref().take(most).map(|(_, item)| item).collect();
    (shown, rest.next().map(|(name, _)| name))
}

/// A list under its member, with what pages say.
fn listed(member: &str, items: Vec<Value>, next: Option<String>) -> Value {
    json!({member: items, "IsTruncated": next.is_some(), "Marker": next})
}

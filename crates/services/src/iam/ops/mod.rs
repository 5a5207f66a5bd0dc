//! The operations on roles and policies: each validates, decides with the pure file `record`, and commits once.

pub(super) mod policies;
pub(super) mod roles;
#[cfg(test)]
mod tests;

use aws::{Call, Error};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use store::{Entry, Range};

use super::error;
use super::roles::Roles;
use crate::marker;

/// Most items of one page where the call does not say. Source: IAM's operations.
const PAGE: usize = 100;

/// Paths of what services make for themselves. Source: IAM user guide, service-linked roles and reserved roles.
const RESERVED: &[&str] = &["/aws-service-role/", "/aws-reserved/"];

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
        let reserved = RESERVED.iter().find(|reserved| member == "Path" && path.starts_with(**reserved));
        return match reserved {
            Some(reserved) => Err(error::refused(format!("The path {reserved} is reserved for AWS's own use."))),
            None => Ok(path.to_owned()),
        };
    }
    Err(error::invalid(format!("The specified value for path is invalid. It must begin and end with /: {path}")))
}

/// Most items of the page that a call wants.
fn most(call: &Call) -> usize {
    call.number("MaxItems").and_then(|most| usize::try_from(most).ok()).unwrap_or(PAGE).clamp(1, 1_000)
}

/// The list that a call asks for, as markers are bound to it.
fn list_of(call: &Call) -> String {
    let subject = call.text("RoleName").or_else(|| call.text("PolicyArn")).unwrap_or_default();
    format!("{}/{}/{}", call.operation, account(call), subject.to_lowercase())
}

/// Where the page begins that a call asks for.
fn position(call: &Call) -> Result<Option<Vec<u8>>, Error> {
    let read = |text| marker::read(&list_of(call), text).ok_or_else(|| error::invalid("Invalid Marker."));
    call.text("Marker").map(read).transpose()
}

/// As `position`, of a list whose positions are names.
fn name_at(call: &Call) -> Result<Option<String>, Error> {
    let name = position(call)?.map(String::from_utf8).transpose();
    name.map_err(Error::internal)
}

/// The first records in a range that `fits` accepts, from a name on, and the name of the next.
async fn page<T: DeserializeOwned>(
    roles: &Roles,
    most: usize,
    (prefix, from): (bytes::Bytes, Option<bytes::Bytes>),
    fits: impl Fn(&T) -> bool + Send,
) -> Result<(Vec<T>, Option<String>), Error> {
    let mut range = Range::prefix(prefix);
    if let Some(from) = from {
        range.start = std::ops::Bound::Included(from);
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

/// One page of what is in memory already, in the order that it has, and the marker of the next. A position is the number of an
/// item and a digest of its name: should others before it go or come, it is found by that.
fn page_of<T>(call: &Call, items: Vec<(String, T)>) -> Result<(Vec<T>, Option<String>), Error> {
    let digest = |name: &str| Sha256::digest(name)[..8].to_vec();
    let start = match position(call)? {
        None => 0,
        Some(position) => {
            let (number, name) = position.split_at_checked(4).unwrap_or_default();
            let number = number.try_into().map(u32::from_be_bytes).map_err(Error::internal)?;
            let found = items.iter().position(|(item, _)| digest(item) == name);
            found.unwrap_or(usize::try_from(number).unwrap_or(usize::MAX))
        }
    };
    let end = start.saturating_add(most(call));
    let next = items.get(end).map(|(name, _)| {
        let number = u32::try_from(end).unwrap_or(u32::MAX).to_be_bytes();
        marker::of(&list_of(call), &[&number[..], &digest(name)].concat())
    });
    let shown = items.into_iter().map(|(_, item)| item).skip(start).take(most(call)).collect();
    Ok((shown, next))
}

/// A list under its member, with what pages say.
fn listed(member: &str, items: Vec<Value>, next: Option<String>) -> Value {
    json!({member: items, "IsTruncated": next.is_some(), "Marker": next})
}

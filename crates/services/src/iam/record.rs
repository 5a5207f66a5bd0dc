//! Roles and policies as the store keeps them and as answers show them. JSON, so that fields can be added. Pure.
//!
//! Documents are kept as they were sent. Answers carry them percent-encoded, as IAM's do.

use std::collections::{BTreeMap, BTreeSet};

use aws::Error;
use jiff::Timestamp;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::provided::Provided;
use super::{error, token};

/// Most versions of a policy. Source: IAM quotas.
pub(super) const VERSIONS_MAX: usize = 5;
/// Most tags of a role or policy. Source: IAM quotas.
pub(super) const TAGS_MAX: usize = 50;
/// What RFC 3986 leaves as it is.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RoleRecord {
    /// `RoleName`
    pub(super) name: String,
    /// `Path`, from slash to slash.
    pub(super) path: String,
    /// Milliseconds since the epoch.
    pub(super) created_ms: u64,
    /// `AssumeRolePolicyDocument`
    pub(super) trust: String,
    /// `Description`
    pub(super) description: Option<String>,
    /// `MaxSessionDuration`, seconds.
    pub(super) max_session_s: u64,
    /// Tags.
    pub(super) tags: BTreeMap<String, String>,
    /// Policies of the role's own, by name.
    pub(super) inline: BTreeMap<String, String>,
    /// Names of attached policies, by ARN.
    pub(super) attached: BTreeMap<String, String>,
}

/// A policy of the customer's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PolicyRecord {
    /// `PolicyName`
    pub(super) name: String,
    /// `Path`, from slash to slash.
    pub(super) path: String,
    /// Milliseconds since the epoch.
    pub(super) created_ms: u64,
    /// Milliseconds since the epoch.
    pub(super) updated_ms: u64,
    /// `Description`
    pub(super) description: Option<String>,
    /// Tags.
    pub(super) tags: BTreeMap<String, String>,
    /// The number of the version that holds.
    pub(super) default_version: u32,
    /// The number that the next version gets. Numbers are never reused.
    pub(super) next_version: u32,
    /// Versions by number.
    pub(super) versions: BTreeMap<u32, PolicyVersion>,
}

/// A version of a policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PolicyVersion {
    /// `Document`
    pub(super) document: String,
    /// Milliseconds since the epoch.
    pub(super) created_ms: u64,
}

impl RoleRecord {
    /// `Arn`
    pub(super) fn arn(&self, account: &str) -> String {
        format!("arn:aws:iam::{account}:role{}{}", self.path, self.name)
    }

    /// `Role`
    pub(super) fn shown(&self, account: &str) -> Value {
        let arn = self.arn(account);
        json!({
            "Path": self.path,
            "RoleName": self.name,
            "RoleId": token::id("AROA", &arn),
            "Arn": arn,
            "CreateDate": time(self.created_ms),
            "AssumeRolePolicyDocument": encoded(&self.trust),
            "Description": self.description,
            "MaxSessionDuration": self.max_session_s,
        })
    }

    /// `Role` as GetRole and CreateRole show it: with tags, which lists leave out.
    pub(super) fn whole(&self, account: &str) -> Value {
        let mut shown = self.shown(account);
        if !self.tags.is_empty() {
            shown["Tags"] = tags_shown(&self.tags);
        }
        shown
    }
}

impl PolicyRecord {
    /// `Arn`
    pub(super) fn arn(&self, account: &str) -> String {
        format!("arn:aws:iam::{account}:policy{}{}", self.path, self.name)
    }

    /// `Policy`; `attachments` is to how many roles it is attached.
    pub(super) fn shown(&self, account: &str, attachments: usize) -> Value {
        let arn = self.arn(account);
        json!({
            "PolicyName": self.name,
            "PolicyId": token::id("ANPA", &arn),
            "Arn": arn,
            "Path": self.path,
            "DefaultVersionId": format!("v{}", self.default_version),
            "AttachmentCount": attachments,
            "PermissionsBoundaryUsageCount": 0,
            "IsAttachable": true,
            "CreateDate": time(self.created_ms),
            "UpdateDate": time(self.updated_ms),
        })
    }

    /// `Policy` as GetPolicy shows it: with description and tags, which lists leave out.
    pub(super) fn whole(&self, account: &str, attachments: usize) -> Value {
        let mut shown = self.shown(account, attachments);
        shown["Description"] = json!(self.description);
        shown["Tags"] = tags_shown(&self.tags);
        shown
    }

    /// `PolicyVersion`; lists leave the document out.
    pub(super) fn version_shown(&self, number: u32, with_document: bool) -> Option<Value> {
        let version = self.versions.get(&number)?;
        let mut shown = json!({
            "VersionId": format!("v{number}"),
            "IsDefaultVersion": number == self.default_version,
            "CreateDate": time(version.created_ms),
        });
        if with_document {
            shown["Document"] = json!(encoded(&version.document));
        }
        Some(shown)
    }
}

/// `Policy` of one that AWS provides: nothing of it but its name is known.
pub(super) fn provided_shown(policy: Provided, attachments: usize) -> Value {
    json!({
        "PolicyName": policy.name,
        "Arn": policy.arn(),
        "Path": policy.path,
        "AttachmentCount": attachments,
        "PermissionsBoundaryUsageCount": 0,
        "IsAttachable": true,
    })
}

/// The name at the end of a policy's ARN, if it is one of this account's.
pub(super) fn own_policy_name<'a>(arn: &'a str, account: &str) -> Option<&'a str> {
    let path = arn.strip_prefix("arn:aws:iam::")?.strip_prefix(account)?.strip_prefix(":policy/")?;
    path.rsplit('/').next().filter(|name| !name.is_empty())
}

/// Milliseconds since the epoch as IAM writes them.
pub(super) fn time(ms: u64) -> String {
    let at =
        i64::try_from(ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok()).unwrap_or(Timestamp::UNIX_EPOCH);
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A document as answers carry it.
pub(super) fn encoded(document: &str) -> String {
    utf8_percent_encode(document, ENCODED).to_string()
}

/// Tags as a list.
pub(super) fn tags_shown(tags: &BTreeMap<String, String>) -> Value {
    tags.iter().map(|(key, value)| json!({"Key": key, "Value": value})).collect()
}

/// Tags of a call. Keys that differ in case alone are one key.
pub(super) fn tags_of(value: Option<&Value>) -> Result<BTreeMap<String, String>, Error> {
    let (mut tags, mut keys) = (BTreeMap::new(), BTreeSet::new());
    for tag in value.and_then(Value::as_array).into_iter().flatten() {
        let text = |member: &str| tag[member].as_str().unwrap_or_default().to_owned();
        let (key, value) = (text("Key"), text("Value"));
        if key.to_lowercase().starts_with("aws:") {
            return Err(error::refused("aws: prefixed tag key names are not allowed for external use."));
        }
        if !keys.insert(key.to_lowercase()) {
            return Err(error::refused("Duplicate tag keys found. Please note that Tag keys are case insensitive."));
        }
        tags.insert(key, value);
    }
    if tags.len() > TAGS_MAX {
        return Err(too_many_tags());
    }
    Ok(tags)
}

/// A role or policy would have too many tags.
pub(super) fn too_many_tags() -> Error {
    error::limit(format!("The number of tags has reached the maximum limit: {TAGS_MAX}."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_told_apart_by_their_keys_whatever_their_case() {
        let tags = |keys: &[&str]| {
            let list: Value = keys.iter().map(|key| json!({"Key": key, "Value": "v"})).collect();
            tags_of(Some(&list)).map(|tags| tags.len()).map_err(|error| error.code)
        };
        assert_eq!(tags(&["a", "b"]), Ok(2));
        assert_eq!(tags(&["a", "A"]), Err("InvalidInput".into()));
        assert_eq!(tags(&["AWS:a"]), Err("InvalidInput".into()));
        let many: Vec<String> = (0..=TAGS_MAX).map(|number| number.to_string()).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!((tags(&many[1..]), tags(&many)), (Ok(TAGS_MAX), Err("LimitExceeded".into())));
    }

    #[test]
    fn documents_are_shown_encoded() {
        assert_eq!(encoded(r#"{"a": "b-c"}"#), "%7B%22a%22%3A%20%22b-c%22%7D");
    }

    #[test]
    fn arns_name_policies() {
        let own = "arn:aws:iam::123456789012:policy/team/p";
        assert_eq!(own_policy_name(own, "123456789012"), Some("p"));
        assert_eq!(own_policy_name(own, "000000000000"), None);
    }
}

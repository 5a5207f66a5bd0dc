//! Roles and policies as the store keeps them and as answers show them. JSON, so that fields can be added. Pure.
//!
//! Documents are kept as they were sent. Answers carry them percent-encoded, as IAM's do.

use std::collections::BTreeMap;

use aws::Error;
use jiff::Timestamp;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{error, token};

/// Most versions of a policy. Source: IAM quotas.
pub(super) const VERSIONS_MAX: usize = 5;
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
            "RoleId": token::role_id(&arn),
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
            "PolicyId": format!("ANPA{}", &token::role_id(&arn)["AROA".len()..]),
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

/// The name at the end of a policy's ARN, if it is one of this account's.
pub(super) fn own_policy_name<'a>(arn: &'a str, account: &str) -> Option<&'a str> {
    let path = arn.strip_prefix("arn:aws:iam::")?.strip_prefix(account)?.strip_prefix(":policy/")?;
    path.rsplit('/').next().filter(|name| !name.is_empty())
}

/// The name at the end of the ARN of a policy that AWS provides. Which there are is not known here.
pub(super) fn provided_policy_name(arn: &str) -> Option<&str> {
    arn.strip_prefix("arn:aws:iam::aws:policy/")?.rsplit('/').next().filter(|name| !name.is_empty())
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

/// Tags of a call.
pub(super) fn tags_of(value: Option<&Value>) -> BTreeMap<String, String> {
    let text = |tag: &Value, member: &str| tag[member].as_str().unwrap_or_default().to_owned();
    let listed = value.and_then(Value::as_array).into_iter().flatten();
    listed.map(|tag| (text(tag, "Key"), text(tag, "Value"))).collect()
}

/// The statements of a document; refuses what is no policy. A policy that is attached to a role says nothing of principals,
/// one that says who may assume a role nothing of resources.
pub(super) fn statements(document: &str, is_trust: bool) -> Result<Vec<Value>, Error> {
    let syntax = || error::malformed("Syntax errors in policy.");
    let parsed: Value = serde_json::from_str(document).map_err(|_| syntax())?;
    let statements = match &parsed["Statement"] {
        Value::Array(statements) => statements.clone(),
        Value::Object(_) => vec![parsed["Statement"].clone()],
        _ => return Err(syntax()),
    };
    if parsed.get("Version").is_some_and(|version| version != "2012-10-17" && version != "2008-10-17") {
        return Err(syntax());
    }
    for statement in &statements {
        let has = |element: &str| statement.get(element).is_some();
        let (wanted, prohibited) = if is_trust { ("Principal", "Resource") } else { ("Resource", "Principal") };
        if !matches!(statement["Effect"].as_str(), Some("Allow" | "Deny")) || !(has("Action") || has("NotAction")) {
            return Err(syntax());
        }
        if has(prohibited) {
            return Err(error::malformed(format!("Has prohibited field {prohibited}.")));
        }
        if !has(wanted) && !has(&format!("Not{wanted}")) {
            return Err(error::malformed(format!("Missing required field {wanted}.")));
        }
    }
    if statements.is_empty() { Err(syntax()) } else { Ok(statements) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_told_apart() {
        let trust = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"Service":"lambda.amazonaws.com"},"Action":"sts:AssumeRole"}]}"#;
        let rights = r#"{"Statement":{"Effect":"Allow","Action":["logs:*"],"Resource":"*"}}"#;
        assert_eq!(statements(trust, true).unwrap().len(), 1);
        assert_eq!(statements(rights, false).unwrap().len(), 1);
        for (document, is_trust) in [(trust, false), (rights, true), ("{}", true), ("no", false), ("[]", false)] {
            assert_eq!(statements(document, is_trust).unwrap_err().code, "MalformedPolicyDocument", "{document}");
        }
        assert_eq!(encoded(r#"{"a": "b-c"}"#), "%7B%22a%22%3A%20%22b-c%22%7D");
    }

    #[test]
    fn arns_name_policies() {
        let own = "arn:aws:iam::123456789012:policy/team/p";
        assert_eq!(own_policy_name(own, "123456789012"), Some("p"));
        assert_eq!(own_policy_name(own, "000000000000"), None);
        assert_eq!(
            provided_policy_name("arn:aws:iam::aws:policy/service-role/AWSLambdaBasicExecutionRole"),
            Some("AWSLambdaBasicExecutionRole")
        );
        assert_eq!(provided_policy_name(own), None);
    }
}

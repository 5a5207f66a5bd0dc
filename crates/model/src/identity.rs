//! Who acts and where: accounts, regions, principals, credentials.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// An account: twelve digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AccountId(Arc<str>);

impl AccountId {
    /// The one account of a fresh installation.
    pub const DEFAULT: &'static str = "000000000000";

    /// Twelve digits, or nothing.
    pub fn parse(text: &str) -> Option<Self> {
        (text.len() == 12 && text.bytes().all(|b| b.is_ascii_digit())).then(|| Self(text.into()))
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for AccountId {
    fn default() -> Self {
        Self(Self::DEFAULT.into())
    }
}

impl fmt::Display for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A region name such as `us-east-1`. Regions separate names, not machines.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Region(Arc<str>);

impl Region {
    /// The region where none is said.
    pub const DEFAULT: &'static str = "us-east-1";

    /// A name of 1 to 32 lower-case letters, digits and hyphens, or nothing.
    pub fn parse(text: &str) -> Option<Self> {
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        (!text.is_empty() && text.len() <= 32 && text.bytes().all(fits)).then(|| Self(text.into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Region {
    fn default() -> Self {
        Self(Self::DEFAULT.into())
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The address that a call comes from, beside its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallerAddress(pub std::net::IpAddr);

/// Who makes a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Principal {
    /// The account that the call acts in.
    pub account: AccountId,
    /// `arn:aws:iam::…:root`, `arn:aws:sts::…:assumed-role/…`.
    pub arn: String,
    /// What GetCallerIdentity answers as `UserId`.
    pub user_id: String,
    /// The access key that the call was signed with; empty for a call without one.
    pub access_key: String,
}

/// A role, as far as others than its owner need to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Role {
    /// Its ARN.
    pub arn: String,
    /// Statements of the policy that says who may assume it.
    pub trust: Vec<serde_json::Value>,
    /// Seconds that a session may last.
    pub max_session_s: u64,
}

/// A key pair, with a session token if it is temporary.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// `AKIA…` or `ASIA…`.
    pub access_key: String,
    /// The secret. Never printed.
    pub secret_key: String,
    /// Present on temporary credentials.
    pub session_token: Option<String>,
    /// When temporary credentials end, milliseconds since the epoch.
    pub expires_at_ms: Option<u64>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("access_key", &self.access_key).finish_non_exhaustive()
    }
}

//! Every key of roles and policies. Nobody else builds one.
//!
//! | tag | parts                     | value                                        |
//! |-----|---------------------------|----------------------------------------------|
//! | `r` | account, name             | `RoleRecord`                                 |
//! | `p` | account, name             | `PolicyRecord`: a policy of the customer's   |
//! | `a` | account, policy ARN, role | nothing: the policy is attached to the role  |
//!
//! Names are in lower case: two that differ in case alone are one.

use bytes::Bytes;
use store::keys::Key;

fn under(tag: u8) -> Key {
    Key::new(model::prefixes::IAM.byte).tag(tag)
}

/// A role.
pub(super) fn role(account: &str, name: &str) -> Bytes {
    under(b'r').text(account).text(&name.to_lowercase()).done()
}

/// What the keys of all roles of an account start with.
pub(super) fn roles(account: &str) -> Bytes {
    under(b'r').text(account).done()
}

/// A policy.
pub(super) fn policy(account: &str, name: &str) -> Bytes {
    under(b'p').text(account).text(&name.to_lowercase()).done()
}

/// What the keys of all policies of an account start with.
pub(super) fn policies(account: &str) -> Bytes {
    under(b'p').text(account).done()
}

/// A policy is attached to a role.
pub(super) fn attached(account: &str, policy_arn: &str, role: &str) -> Bytes {
    under(b'a').text(account).text(policy_arn).text(&role.to_lowercase()).done()
}

/// What the keys of all that a policy is attached to start with.
pub(super) fn attachments(account: &str, policy_arn: &str) -> Bytes {
    under(b'a').text(account).text(policy_arn).done()
}

//! The IAM service: roles, what they may be assumed by, and policies.
//!
//! Operations: roles with their trust policies, inline and attached policies and tags; policies of the customer's with their
//! versions; ListInstanceProfilesForRole, which is empty. Every other operation is refused loudly.
//!
//! Who may assume a role is evaluated, by STS and for functions. What a role may do is kept and shown and not evaluated yet.

use std::sync::Arc;

use async_trait::async_trait;
use aws::{Call, Error, Reply, Service};

use super::ops::{policies, roles};
use super::roles::Roles;

/// What is taken and stored but changes nothing: operation, parameter, and why. The compatibility matrix shows it.
pub const ACCEPTED_WITHOUT_EFFECT: &[(&str, &str, &str)] = &[
    ("PutRolePolicy", "PolicyDocument", "stored and shown; what a role may do is not evaluated yet"),
    ("AttachRolePolicy", "PolicyArn", "stored and shown; what a role may do is not evaluated yet"),
    ("CreatePolicy", "PolicyDocument", "stored and shown; what a role may do is not evaluated yet"),
    ("CreatePolicyVersion", "PolicyDocument", "stored and shown; what a role may do is not evaluated yet"),
];

/// The API of roles and policies.
pub struct Iam {
    roles: Arc<Roles>,
}

impl Iam {
    /// The API over these roles.
    pub fn new(roles: Arc<Roles>) -> Self {
        Self { roles }
    }
}

#[async_trait]
impl Service for Iam {
    fn signing_name(&self) -> &'static str {
        "iam"
    }

    async fn call(&self, call: Call) -> Result<Reply, Error> {
        let all = &*self.roles;
        match call.operation {
            "CreateRole" => roles::create(all, &call).await,
            "GetRole" => roles::get(all, &call).await,
            "ListRoles" => roles::list(all, &call).await,
            "DeleteRole" => roles::delete(all, &call).await,
            "UpdateRole" => roles::update(all, &call).await,
            "UpdateAssumeRolePolicy" => roles::update_trust(all, &call).await,
            "AttachRolePolicy" => roles::attach(all, &call).await,
            "DetachRolePolicy" => roles::detach(all, &call).await,
            "ListAttachedRolePolicies" => roles::list_attached(all, &call).await,
            "PutRolePolicy" => roles::put_inline(all, &call).await,
            "GetRolePolicy" => roles::get_inline(all, &call).await,
            "DeleteRolePolicy" => roles::delete_inline(all, &call).await,
            "ListRolePolicies" => roles::list_inline(all, &call).await,
            "TagRole" => roles::tag(all, &call).await,
            "UntagRole" => roles::untag(all, &call).await,
            "ListRoleTags" => roles::list_tags(all, &call).await,
            "ListInstanceProfilesForRole" => roles::list_instance_profiles(all, &call).await,
            "CreatePolicy" => policies::create(all, &call).await,
            "GetPolicy" => policies::get(all, &call).await,
            "ListPolicies" => policies::list(all, &call).await,
            "DeletePolicy" => policies::delete(all, &call).await,
            "GetPolicyVersion" => policies::get_version(all, &call).await,
            "ListPolicyVersions" => policies::list_versions(all, &call).await,
            "CreatePolicyVersion" => policies::create_version(all, &call).await,
            "DeletePolicyVersion" => policies::delete_version(all, &call).await,
            other => Err(Error::not_implemented(format_args!("the operation '{other}' of 'iam'"))),
        }
    }
}

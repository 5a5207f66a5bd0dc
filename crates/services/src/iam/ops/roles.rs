//! Roles, what they may be assumed by, and which policies they have.

use aws::{Call, Error, Reply};
use serde_json::{Value, json};
use store::Txn;

use super::{account, list_of, listed, most, name_at, page, page_of, path, text};
use crate::iam::document::{self, Kind};
use crate::iam::record::{self, RoleRecord, TAGS_MAX, tags_of, too_many_tags};
use crate::iam::roles::{ATTEMPTS, Roles, no_policy, written};
use crate::iam::{error, keys, provided};
use crate::marker;

/// Most policies that are attached to a role. Source: IAM quotas, what an account has without asking for more.
const ATTACHED_MAX: usize = 10;

/// Most characters of who may assume a role, and of all its policies of its own. Source: IAM quotas.
const TRUST_MAX: usize = 2_048;
const INLINE_MAX: usize = 10_240;

/// Refuses who may assume a role where it is no policy, cannot be evaluated or is too long.
fn check_trust(trust: &str) -> Result<(), Error> {
    document::check(trust, Kind::Trust)?;
    if document::size(trust) > TRUST_MAX {
        return Err(error::limit(format!("Cannot exceed quota for ACLSizePerRole: {TRUST_MAX}")));
    }
    Ok(())
}

/// CreateRole.
pub(in crate::iam) async fn create(roles: &Roles, call: &Call) -> Result<Reply, Error> {
    call.honours(&["Path", "RoleName", "AssumeRolePolicyDocument", "Description", "MaxSessionDuration", "Tags"])?;
    let trust = text(call, "AssumeRolePolicyDocument");
    check_trust(trust)?;
    let record = RoleRecord {
        name: text(call, "RoleName").to_owned(),
        path: path(call, "Path")?,
        created_ms: roles.clock.now_ms(),
        trust: trust.to_owned(),
        description: call.text("Description").map(str::to_owned),
        max_session_s: call.number("MaxSessionDuration").unwrap_or(3_600),
        tags: tags_of(call.input.get("Tags"))?,
        inline: std::collections::BTreeMap::new(),
        attached: std::collections::BTreeMap::new(),
    };
    let key = keys::role(account(call), &record.name);
    if !roles.committed(Txn::new().expect_absent(key.clone()).put(key, written(&record)?)).await? {
        return Err(error::exists(format!("Role with name {} already exists.", record.name)));
    }
    Ok(Reply::of(json!({"Role": record.whole(account(call))})))
}

/// GetRole.
pub(in crate::iam) async fn get(roles: &Roles, call: &Call) -> Result<Reply, Error> {
    call.honours(&["RoleName"])?;
    let (record, _) = roles.existing_role(account(call), text(call, "RoleName")).await?;
    let mut shown = record.whole(account(call));
    shown["RoleLastUsed"] = json!({});
    Ok(Reply::of(json!({"Role": shown})))
}

/// ListRoles.
pub(in crate::iam) async fn list(roles: &Roles, call: &Call) -> Result<Reply, Error> {
    call.honours(&["PathPrefix", "Marker", "MaxItems"])?;
    let (account, prefix) = (account(call), path(call, "PathPrefix")?);
    let fits = |record: &RoleRecord| record.path.starts_with(&prefix);
    let from = name_at(call)?.map(|name| keys::role(account, &name));
    let (found, next) = page(roles, most(call), (keys::roles(account), from), fits).await?;
    let shown = found.iter().map(|record| record.shown(account)).collect();
    let next = next.map(|name| marker::of(&list_of(call), name.as_bytes()));
    Ok(Reply::of(listed("Roles", shown, next)))
}

/// DeleteRole, once it has no policies.
pub(in crate::iam) async fn delete(roles: &Roles, call: &Call) -> Result<Reply, Error> {
    call.honours(&["RoleName"])?;
    for _ in 0..ATTEMPTS {
        let (record, entry) = roles.existing_role(account(call), text(call, "RoleName")).await?;
        if !record.attached.is_empty() {
            return Err(error::in_use("Cannot delete entity, must detach all policies first."));
        }
        if !record.inline.is_empty() {
            return Err(error::in_use("Cannot delete entity, must delete policies first."));
        }
        let txn = Txn::new().expect_version(entry.key.clone(), entry.version).delete(entry.key);
        if roles.committed(txn).await? {
            return Ok(Reply::empty());
        }
    }
    Err(error::store(store::Error::Conflict))
}

/// Changes a role and answers with nothing.
async fn change(
    roles: &Roles,
    call: &Call,
    decide: impl Fn(&mut RoleRecord) -> Result<(), Error> + Send + Sync,
) -> Result<Reply, Error> {
    let decide = |record: &mut RoleRecord, txn| decide(record).map(|()| ((), txn));
    roles.change_role(account(call), text(call, "RoleName"), decide).await?;
    Ok(Reply::empty())
}

/// UpdateRole.
pub(in crate::iam) async fn update(roles: &Roles, call: &Call) -> Result<Reply, Error> {
    call.honours(&["RoleName", "Description", "MaxSessionDuration"])?;
    change(roles, call, |record| {
        if let Some(description) = call.text("Description") {
            record.description = Some(description.to_owned());
        }
        record.max_session_s = call.number("MaxSessionDuration").unwrap_or(record.max_session_s);
        Ok(())
    })
    .await
}

/// UpdateAssumeRolePolicy.
pub(in crate::iam) async fn update_trust(roles: &Roles, call: &Call) -> Result<Reply, Error> {
    call.honours(&["RoleName", "PolicyDocument"])?;
    let trust = text(call, "PolicyDocument");
    check_trust(trust)?;
    change(roles, call, |record| {
        trust.clone_into(&mut record.trust);
        Ok(())
    })
    .await
}

/// AttachRolePolicy. One that AWS provides must be known here, one of the account's own must be there.
pub(in crate::iam) async fn attach(roles: &Roles, call: &Call) -> Result<Reply, Error> {
    call.honours(&["RoleName", "PolicyArn"])?;
    let (account, arn, role) = (account(call), text(call, "PolicyArn"), text(call, "RoleName"));
    let not_attachable = || error::missing(format!("Policy {arn} does not exist or is not attachable."));
    let (name, expected) = match (provided::find(arn), record::own_policy_name(arn, account)) {
        (Some(policy), _) => (policy.name.to_owned(), None),
        (_, Some(name)) => {
            let found = roles.policy(account, name).await?.filter(|(record, _)| record.arn(account) == arn);
            let (record, entry) = found.ok_or_else(not_attachable)?;
            (record.name, Some(entry))
        }
        _ => return Err(not_attachable()),
    };
    roles
        .change_role(account, role, |record, mut txn| {
            record.attached.insert(arn.to_owned(), name.clone());
            if record.attached.len() > ATTACHED_MAX {
                return Err(error::limit(format!("Cannot exceed quota for PoliciesPerRole: {ATTACHED_MAX}")));
            }
            if let Some(entry) = &expected {
                txn = txn.expect_present(entry.key.clone());
            }
            Ok(((), txn.put(keys::attached(account, arn, role), bytes::Bytes::new())))
        })
        .await?;
    Ok(Reply::empty())
}

/// DetachRolePolicy.
pub(in crate::iam) async fn detach(roles: &Roles, call: &Call) -> Result<Reply, Error> {
    call.honours(&["RoleName", "PolicyArn"])?;
    let (account, arn, role) = (account(call), text(call, "PolicyArn"), text(call, "RoleName"));
    roles
        .change_role(account, role, |record, txn| {
            if record.attached.remove(arn).is_none() {
                return Err(no_policy(arn));
            }
            Ok(((), txn.delete(keys::attached(account, arn, role))))
        })
        .await?;
    Ok(Reply::empty())
}

/// ListAttachedRolePolicies.
pub(in crate::iam) async fn list_attached(roles: &Roles, call: &Call) -> Result<Reply, Error> {
    call.honours(&["RoleName", "PathPrefix", "Marker", "MaxItems"])?;
    let (record, _) = roles.existing_role(account(call), text(call, "RoleName")).await?;
    let prefix = path(call, "PathPrefix")?;
    let fits = |arn: &str| arn.split_once(":policy").is_some_and(|(_, path)| path.starts_with(&prefix));
    let attached = record.attached.into_iter().filter(|(arn, _)| fits(arn));
    let items = attached.map(|(arn, name)| (arn.clone(), json!({"PolicyName": name, "PolicyArn": arn}))).collect();
    let (shown, next) = page_of(call, items)?;
    Ok(Reply::of(listed("AttachedPolicies", shown, next)))
}

/// PutRolePolicy.
pub(in crate::iam) async fn put_inline(roles: &Roles, call: &Call) -> Result<Reply, Error> {
    call.honours(&["RoleName", "PolicyName", "PolicyDocument"])?;
    let (name, document) = (text(call, "PolicyName"), text(call, "PolicyDocument"));
    document::check(document, Kind::Rights)?;
    change(roles, call, |record| {
        record.inline.insert(name.to_owned(), document.to_owned());
        if record.inline.values().map(|document| document::size(document)).sum::<usize>() > INLINE_MAX {
            let role = &record.name;
            return Err(error::limit(format!("Maximum policy size of {INLINE_MAX} bytes exceeded for role {role}")));
        }
        Ok(())
    })
    .await
}

fn no_inline(name: &str) -> Error {
    error::missing(format!("The role policy with name {name} cannot be found."))
}

/// GetRolePolicy.
pub(in crate::iam) async fn get_inline(roles: &Roles, call: &Call) -> Result<Reply, Error> {
    call.honours(&["RoleName", "PolicyName"])?;
    let (record, _) = roles.existing_role(account(call), text(call, "RoleName")).await?;
    let name = text(call, "PolicyName");
    let document = record.inline.get(name).ok_or_else(|| no_inline(name))?;
    Ok(Reply::of(json!({
        "RoleName": record.name,
        "PolicyName": name,
        "PolicyDocument": record::encoded(document),
    })))
}

/// DeleteRolePolicy.
pub(in crate::iam) async fn delete_inline(roles: &Roles, call: &Call) -> Result<Reply, Error> {
    call.honours(&["RoleName", "PolicyName"])?;
    let name = text(call, "PolicyName");
    change(roles, call, |record| record.inline.remove(name).map(drop).ok_or_else(|| no_inline(name))).await
}

/// ListRolePolicies.
pub(in crate::iam) async fn list_inline(roles: &Roles, call: &Call) -> Result<Reply, Error> {
    call.honours(&["RoleName", "Marker", "MaxItems"])?;
    let (record, _) = roles.existing_role(account(call), text(call, "RoleName")).await?;
    let items = record.inline.into_keys().map(|name| (name.clone(), json!(name))).collect();
    let (shown, next) = page_of(call, items)?;
    Ok(Reply::of(listed("PolicyNames", shown, next)))
}

/// TagRole.
pub(in crate::iam) async fn tag(roles: &Roles, call: &Call) -> Result<Reply, Error> {
    call.honours(&["RoleName", "Tags"])?;
    let tags = tags_of(call.input.get("Tags"))?;
    change(roles, call, |record| {
        // Keys that differ in case alone are one; the spelling that came last stays.
        let is_new = |key: &str| tags.keys().all(|tag| tag.to_lowercase() != key.to_lowercase());
        record.tags.retain(|key, _| is_new(key));
        record.tags.extend(tags.clone());
        if record.tags.len() > TAGS_MAX {
            return Err(too_many_tags());
        }
        Ok(())
    })
    .await
}

/// UntagRole.
pub(in crate::iam) async fn untag(roles: &Roles, call: &Call) -> Result<Reply, Error> {
    call.honours(&["RoleName", "TagKeys"])?;
    let keys: Vec<&str> = call.input["TagKeys"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    change(roles, call, |record| {
        record.tags.retain(|key, _| !keys.iter().any(|gone| gone.to_lowercase() == key.to_lowercase()));
        Ok(())
    })
    .await
}

/// ListRoleTags.
pub(in crate::iam) async fn list_tags(roles: &Roles, call: &Call) -> Result<Reply, Error> {
    call.honours(&["RoleName", "Marker", "MaxItems"])?;
    let (record, _) = roles.existing_role(account(call), text(call, "RoleName")).await?;
    let items = record.tags.iter().map(|(key, value)| (key.clone(), json!({"Key": key, "Value": value}))).collect();
    let (shown, next) = page_of(call, items)?;
    Ok(Reply::of(listed("Tags", shown, next)))
}

/// ListInstanceProfilesForRole: of a role that is there, none, as nothing here makes any.
pub(in crate::iam) async fn list_instance_profiles(roles: &Roles, call: &Call) -> Result<Reply, Error> {
    call.honours(&["RoleName", "Marker", "MaxItems"])?;
    roles.existing_role(account(call), text(call, "RoleName")).await?;
    let (shown, next) = page_of(call, Vec::new())?;
    Ok(Reply::of(listed("InstanceProfiles", shown, next)))
}

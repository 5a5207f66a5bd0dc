//! Policies of the customer's, and their versions.

use aws::{Call, Error, Reply};
use serde_json::json;
use store::{Range, Txn};

use super::{account, list_of, listed, most, name_at, page, page_of, path, text};
use crate::iam::document::{self, Kind};
use crate::iam::provided::{self, Provided};
use crate::iam::record::{self, PolicyRecord, PolicyVersion, VERSIONS_MAX, tags_of};
use crate::iam::roles::{ATTEMPTS, Roles, no_policy, written};
use crate::iam::{error, keys};
use crate::marker;

/// Most characters of a policy. Source: IAM quotas.
const POLICY_MAX: usize = 6_144;

fn check_document(text: &str) -> Result<(), Error> {
    document::check(text, Kind::Rights)?;
    if document::size(text) > POLICY_MAX {
        return Err(error::limit(format!("Cannot exceed quota for PolicySize: {POLICY_MAX}")));
    }
    Ok(())
}

/// CreatePolicy.
pub(in crate::iam) async fn create(roles: &Roles, call: &Call) -> Result<Reply, Error> {
    call.honours(&["PolicyName", "Path", "PolicyDocument", "Description", "Tags"])?;
    let document = text(call, "PolicyDocument");
    check_document(document)?;
    let now_ms = roles.clock.now_ms();
    let record = PolicyRecord {
        name: text(call, "PolicyName").to_owned(),
        path: path(call, "Path")?,
        created_ms: now_ms,
        updated_ms: now_ms,
        description: call.text("Description").map(str::to_owned),
        tags: tags_of(call.input.get("Tags"))?,
        default_version: 1,
        next_version: 2,
        versions: [(1, PolicyVersion { document: document.to_owned(), created_ms: now_ms })].into(),
    };
    let key = keys::policy(account(call), &record.name);
    if !roles.committed(Txn::new().expect_absent(key.clone()).put(key, written(&record)?)).await? {
        return Err(error::exists(format!(
            "A policy called {} already exists. Duplicate names are not allowed.",
            record.name
        )));
    }
    Ok(Reply::of(json!({"Policy": record.whole(account(call), 0)})))
}

/// The account's own policy that a call names. What a policy that AWS provides says is not kept here, and none can be changed.
fn named(call: &Call) -> Result<(&str, &str), Error> {
    let arn = text(call, "PolicyArn");
    if provided::find(arn).is_some() {
        return Err(Error::not_implemented(format_args!(
            "{} of a policy that AWS provides ({arn}); roles can have it, and what it says is not kept",
            call.operation
        )));
    }
    record::own_policy_name(arn, account(call)).map(|name| (arn, name)).ok_or_else(|| no_policy(arn))
}

async fn existing(roles: &Roles, call: &Call) -> Result<PolicyRecord, Error> {
    let (arn, name) = named(call)?;
    let found = roles.policy(account(call), name).await?.filter(|(record, _)| record.arn(account(call)) == arn);
    found.map(|(record, _)| record).ok_or_else(|| no_policy(arn))
}

/// GetPolicy. Of one that AWS provides it says that it is there and how often it is attached.
pub(in crate::iam) async fn get(roles: &Roles, call: &Call) -> Result<Reply, Error> {
    call.honours(&["PolicyArn"])?;
    let arn = text(call, "PolicyArn");
    let shown = match provided::find(arn) {
        Some(policy) => record::provided_shown(policy, roles.attachments(account(call), arn).await?),
        None => {
            let record = existing(roles, call).await?;
            record.whole(account(call), roles.attachments(account(call), arn).await?)
        }
    };
    Ok(Reply::of(json!({"Policy": shown})))
}

/// ListPolicies: first those of the account, then those known here of the ones that AWS provides. A position is a name, after
/// an `o` for the account's own and a `p` for the others.
pub(in crate::iam) async fn list(roles: &Roles, call: &Call) -> Result<Reply, Error> {
    call.honours(&["Scope", "OnlyAttached", "PathPrefix", "Marker", "MaxItems"])?;
    let (account, prefix, most) = (account(call), path(call, "PathPrefix")?, most(call));
    let scope = call.text("Scope").unwrap_or("All");
    let start = name_at(call)?;
    let start_of = |mark: char| start.as_deref().and_then(|start| start.strip_prefix(mark));
    let marked = |position: String| marker::of(&list_of(call), position.as_bytes());
    let only_attached = call.flag("OnlyAttached");
    let mut shown = Vec::new();
    if scope != "AWS" && start_of('p').is_none() {
        let fits = |record: &PolicyRecord| record.path.starts_with(&prefix);
        let from = start_of('o').map(|name| keys::policy(account, name));
        let (found, next) = page(roles, most, (keys::policies(account), from), fits).await?;
        for record in &found {
            let attachments = roles.attachments(account, &record.arn(account)).await?;
            if attachments > 0 || !only_attached {
                shown.push(record.shown(account, attachments));
            }
        }
        if let Some(next) = next {
            return Ok(Reply::of(listed("Policies", shown, Some(marked(format!("o{next}"))))));
        }
    }
    if scope != "Local" {
        let first = start_of('p').unwrap_or_default();
        let position = |policy: Provided| format!("{}{}", policy.path, policy.name);
        let fits = |policy: &Provided| policy.path.starts_with(&prefix) && position(*policy).as_str() >= first;
        for policy in provided::all().filter(fits) {
            let attachments = roles.attachments(account, &policy.arn()).await?;
            if attachments == 0 && only_attached {
                continue;
            }
            if shown.len() == most {
                return Ok(Reply::of(listed("Policies", shown, Some(marked(format!("p{}", position(policy)))))));
            }
            shown.push(record::provided_shown(policy, attachments));
        }
    }
    Ok(Reply::of(listed("Policies", shown, None)))
}

/// DeletePolicy, once nothing has it and its default version alone is left.
pub(in crate::iam) async fn delete(roles: &Roles, call: &Call) -> Result<Reply, Error> {
    call.honours(&["PolicyArn"])?;
    let (arn, name) = named(call)?;
    for _ in 0..ATTEMPTS {
        let snapshot = roles.store.snapshot().await.map_err(error::store)?;
        let found = roles.policy(account(call), name).await?.filter(|(record, _)| record.arn(account(call)) == arn);
        let (record, entry) = found.ok_or_else(|| no_policy(arn))?;
        let attachments = Range::prefix(keys::attachments(account(call), arn));
        if !snapshot.range(&attachments).await.map_err(error::store)?.entries.is_empty() {
            return Err(error::in_use("Cannot delete a policy attached to entities."));
        }
        if record.versions.len() > 1 {
            return Err(error::in_use(
                "This policy has more than one version. Before you delete a policy, you must delete the policy's versions. The default version is deleted with the policy.",
            ));
        }
        let txn = Txn::new().expect_version(entry.key.clone(), entry.version);
        let txn = txn.expect_range(attachments, snapshot.version()).delete(entry.key);
        drop(snapshot);
        if roles.committed(txn).await? {
            return Ok(Reply::empty());
        }
    }
    Err(error::store(store::Error::Conflict))
}

/// The number of `VersionId`.
fn version_of(call: &Call) -> Result<u32, Error> {
    let text = text(call, "VersionId");
    let number =
        text.strip_prefix('v').and_then(|number| number.split('.').next()).and_then(|number| number.parse().ok());
    number.ok_or_else(|| no_version(call))
}

fn no_version(call: &Call) -> Error {
    let (arn, version) = (text(call, "PolicyArn"), text(call, "VersionId"));
    error::missing(format!("Policy {arn} version {version} does not exist or is not attachable."))
}

/// GetPolicyVersion.
pub(in crate::iam) async fn get_version(roles: &Roles, call: &Call) -> Result<Reply, Error> {
    call.honours(&["PolicyArn", "VersionId"])?;
    let record = existing(roles, call).await?;
    let shown = record.version_shown(version_of(call)?, true).ok_or_else(|| no_version(call))?;
    Ok(Reply::of(json!({"PolicyVersion": shown})))
}

/// ListPolicyVersions, the newest first.
pub(in crate::iam) async fn list_versions(roles: &Roles, call: &Call) -> Result<Reply, Error> {
    call.honours(&["PolicyArn", "Marker", "MaxItems"])?;
    let record = existing(roles, call).await?;
    let shown = record.versions.keys().rev();
    let shown = shown.filter_map(|number| Some((number.to_string(), record.version_shown(*number, false)?)));
    let (shown, next) = page_of(call, shown.collect())?;
    Ok(Reply::of(listed("Versions", shown, next)))
}

/// CreatePolicyVersion.
pub(in crate::iam) async fn create_version(roles: &Roles, call: &Call) -> Result<Reply, Error> {
    call.honours(&["PolicyArn", "PolicyDocument", "SetAsDefault"])?;
    let (arn, name) = named(call)?;
    let document = text(call, "PolicyDocument");
    check_document(document)?;
    let now_ms = roles.clock.now_ms();
    let shown = roles
        .change_policy(account(call), arn, name, |record| {
            if record.versions.len() >= VERSIONS_MAX {
                return Err(error::limit(format!(
                    "A managed policy can have up to {VERSIONS_MAX} versions. Before you create a new version, you must delete an existing version."
                )));
            }
            let number = record.next_version;
            record.next_version += 1;
            record.updated_ms = now_ms;
            record.versions.insert(number, PolicyVersion { document: document.to_owned(), created_ms: now_ms });
            if call.flag("SetAsDefault") {
                record.default_version = number;
            }
            Ok(record.version_shown(number, false))
        })
        .await?;
    Ok(Reply::of(json!({"PolicyVersion": shown})))
}

/// DeletePolicyVersion.
pub(in crate::iam) async fn delete_version(roles: &Roles, call: &Call) -> Result<Reply, Error> {
    call.honours(&["PolicyArn", "VersionId"])?;
    let (arn, name) = named(call)?;
    let number = version_of(call)?;
    roles
        .change_policy(account(call), arn, name, |record| {
            if number == record.default_version {
                return Err(error::in_use("Cannot delete the default version of a policy."));
            }
            record.versions.remove(&number).map(drop).ok_or_else(|| no_version(call))
        })
        .await?;
    Ok(Reply::empty())
}

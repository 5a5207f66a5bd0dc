//! Operations on aliases: CreateAlias, GetAlias, UpdateAlias, DeleteAlias, ListAliases.

use aws::{Call, Error, Reply};
use serde_json::json;

use crate::lambda::record::{AliasRecord, VersionId};
use crate::lambda::{Functions, alias, error, keys, name, provisioned};

/// Most aliases of one page. Source: ListAliases, which never answers more whatever is asked.
const PAGE_MAX: usize = 50;

/// CreateAlias.
pub(in crate::lambda) async fn create(functions: &Functions, call: &Call) -> Result<Reply, Error> {
    call.honours(&["FunctionName", "Name", "FunctionVersion", "Description", "RoutingConfig"])?;
    let function = name::unqualified(call)?;
    let name = alias::name(call)?;
    let made = functions
        .change(&function, |record, _| {
            if record.aliases.contains_key(name) {
                return Err(error::conflict(format!("Alias already exists: {}", alias::arn(&function, name))));
            }
            let made = AliasRecord {
                version: alias::version(call, &function, record)?.unwrap_or(VersionId::Latest),
                description: call.text("Description").unwrap_or_default().to_owned(),
                second: alias::second(call, &function, record)?.flatten(),
                revision_id: functions.random.uuid(),
            };
            alias::check(&made)?;
            record.aliases.insert(name.to_owned(), made.clone());
            Ok(made)
        })
        .await?;
    Ok(Reply::of(alias::shown(&function, name, &made)))
}

/// GetAlias.
pub(in crate::lambda) async fn get(functions: &Functions, call: &Call) -> Result<Reply, Error> {
    call.honours(&["FunctionName", "Name"])?;
    let function = name::unqualified(call)?;
    let name = alias::name(call)?;
    let arn = alias::arn(&function, name);
    let record = functions.record(&function).await?;
    let found = record.as_ref().and_then(|record| record.aliases.get(name)).ok_or_else(|| alias::not_found(&arn))?;
    Ok(Reply::of(alias::shown(&function, name, found)))
}

/// UpdateAlias.
pub(in crate::lambda) async fn update(functions: &Functions, call: &Call) -> Result<Reply, Error> {
    call.honours(&["FunctionName", "Name", "FunctionVersion", "Description", "RoutingConfig", "RevisionId"])?;
    let function = name::unqualified(call)?;
    let name = alias::name(call)?;
    let changed = functions
        .change(&function, |record, _| {
            let arn = alias::arn(&function, name);
            let mut next = record.aliases.get(name).cloned().ok_or_else(|| alias::not_found(&arn))?;
            if call.text("RevisionId").is_some_and(|revision| revision != next.revision_id) {
                return Err(error::stale_revision("GetFunction/GetAlias"));
            }
            if let Some(version) = alias::version(call, &function, record)? {
                next.version = version;
            }
            if let Some(description) = call.text("Description") {
                description.clone_into(&mut next.description);
            }
            if let Some(second) = alias::second(call, &function, record)? {
                next.second = second;
            }
            alias::check(&next)?;
            next.revision_id = functions.random.uuid();
            record.aliases.insert(name.to_owned(), next.clone());
            if record.provisioned.contains_key(name) {
                provisioned::check_place(record, name)?;
            }
            Ok(next)
        })
        .await?;
    Ok(Reply::of(alias::shown(&function, name, &changed)))
}

/// DeleteAlias: with its policy and its URL. An alias that does not exist counts as deleted.
pub(in crate::lambda) async fn delete(functions: &Functions, call: &Call) -> Result<Reply, Error> {
    call.honours(&["FunctionName", "Name"])?;
    let function = name::unqualified(call)?;
    let name = alias::name(call)?;
    functions
        .change(&function, |record, txn| {
            record.aliases.remove(name);
            record.policies.remove(name);
            record.provisioned.remove(name);
            record.event_configs.remove(name);
            if let Some(url) = record.urls.remove(name) {
                *txn = std::mem::take(txn).delete(keys::url(&url.id));
            }
            Ok(())
        })
        .await?;
    Ok(Reply::empty())
}

/// ListAliases; with `FunctionVersion` those that lead to this version, some calls or all.
pub(in crate::lambda) async fn list(functions: &Functions, call: &Call) -> Result<Reply, Error> {
    call.honours(&["FunctionName", "FunctionVersion", "Marker", "MaxItems"])?;
    let function = name::unqualified(call)?;
    let record = functions.existing(&function).await?;
    let version = call.text("FunctionVersion").map(VersionId::parse);
    let leads = |alias: &AliasRecord| {
        version.is_none_or(|version| {
            version == Some(alias.version) || version.is_some() && version == alias.second.map(|second| second.version)
        })
    };
    let listed = record.aliases.iter().filter(|(_, alias)| leads(alias));
    let listed = listed.map(|(name, alias)| (name.clone(), alias::shown(&function, name, alias))).collect();
    let (aliases, next) = super::page(listed, call, PAGE_MAX);
    Ok(Reply::of(json!({"Aliases": aliases, "NextMarker": next})))
}

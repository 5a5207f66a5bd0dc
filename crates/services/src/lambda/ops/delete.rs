//! DeleteFunction: the record, its versions, its URLs and its use of packages go in one transaction; with a qualifier, one
//! version alone.

use aws::{Call, Error, Reply};
use model::FunctionRef;
use serde_json::json;
use store::{Entry, Range, Snapshot, Txn};

use crate::lambda::packages::Users;
use crate::lambda::record::{FunctionRecord, VersionId, VersionRecord};
use crate::lambda::versions::Qualifier;
use crate::lambda::{ATTEMPTS, Functions, decoded, encoded, error, keys, name};

/// DeleteFunction.
pub(in crate::lambda) async fn run(functions: &Functions, call: &Call) -> Result<Reply, Error> {
    call.honours(&["FunctionName", "Qualifier"])?;
    let asked = name::of_call(call)?;
    let function = asked.unqualified();
    let key = keys::function(&function);
    for _ in 0..ATTEMPTS {
        let snapshot = functions.store.snapshot().await.map_err(error::store)?;
        let entry = snapshot.get(&key).await.map_err(error::store)?;
        let entry = entry.ok_or_else(|| error::function_not_found(&function.arn()))?;
        let txn = if asked.qualifier.is_none() {
            whole(functions, &*snapshot, &function, &entry).await?
        } else {
            let mut record: FunctionRecord = decoded(&entry.value)?;
            let Some(number) = deletable(&asked, &record)? else { return Ok(done()) };
            let Some(version) = functions.content(&*snapshot, &function, &record, VersionId::Number(number)).await?
            else {
                return Err(Error::internal(format_args!("version {number} of {} has no record", function.arn())));
            };
            record.published.remove(&number);
            record.version_revisions.remove(&number);
            record.policies.remove(&number.to_string());
            record.provisioned.remove(&number.to_string());
            record.event_configs.remove(&number.to_string());
            record.runtime_management.remove(&number.to_string());
            let txn = Txn::new().expect_version(key.clone(), entry.version).put(key.clone(), encoded(&record)?);
            let txn = txn.delete(keys::version(&function, number));
            functions.count(&*snapshot, &Users::of(&version, -1), txn).await?
        };
        drop(snapshot);
        if functions.committed(txn).await? {
            return Ok(done());
        }
    }
    Err(error::store(store::Error::Conflict))
}

/// The version that a qualifier names, if there is one and it may go. One that does not exist counts as deleted.
fn deletable(function: &FunctionRef, record: &FunctionRecord) -> Result<Option<u64>, Error> {
    let number = match Qualifier::of(function) {
        Qualifier::Version(VersionId::Number(number)) => number,
        Qualifier::Version(VersionId::Latest) => {
            return Err(error::invalid("$LATEST version cannot be deleted without deleting the function."));
        }
        Qualifier::Alias(_) => return Err(error::invalid("Deletion of aliases is not currently supported.")),
        Qualifier::Neither => return Err(error::function_not_found(&function.arn())),
    };
    let id = VersionId::Number(number);
    let leads = record
        .aliases
        .iter()
        .filter(|(_, alias)| alias.version == id || alias.second.is_some_and(|second| second.version == id));
    let aliases: Vec<&str> = leads.map(|(name, _)| name.as_str()).collect();
    if !aliases.is_empty() {
        return Err(error::conflict(format!(
            "Unable to delete version because the following aliases reference it: [{}]",
            aliases.join(", ")
        )));
    }
    Ok(record.published.contains(&number).then_some(number))
}

/// All that belongs to a function, gone.
async fn whole(
    functions: &Functions,
    snapshot: &dyn Snapshot,
    function: &FunctionRef,
    entry: &Entry,
) -> Result<Txn, Error> {
    let record: FunctionRecord = decoded(&entry.value)?;
    let mut txn = Txn::new().expect_version(entry.key.clone(), entry.version).delete(entry.key.clone());
    for url in record.urls.values() {
        txn = txn.delete(keys::url(&url.id));
    }
    txn = super::code_signing::left_by(function, record.code_signing.as_deref(), txn);
    let mut users = Users::of(&record.latest, -1);
    let versions = snapshot.range(&Range::prefix(keys::versions(function))).await.map_err(error::store)?;
    for version in versions.entries {
        users = users.and(&decoded::<VersionRecord>(&version.value)?, -1);
        txn = txn.delete(version.key);
    }
    functions.count(snapshot, &users, txn).await
}

fn done() -> Reply {
    Reply { status: Some(204), ..Reply::of(json!({"StatusCode": 204})) }
}

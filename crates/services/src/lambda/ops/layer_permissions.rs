//! AddLayerVersionPermission, GetLayerVersionPolicy, RemoveLayerVersionPermission: which other accounts may have a layer
//! version. These policies are evaluated (`layers`).

use aws::{Call, Error, Reply};
use serde_json::json;
use store::Txn;

use crate::lambda::layer::{self, LayerVersionRef};
use crate::lambda::record::LayerVersionRecord;
use crate::lambda::{ATTEMPTS, Functions, decoded, encoded, error, keys, policy};

fn of_call(call: &Call) -> Result<LayerVersionRef, Error> {
    layer::numbered(call, layer::own(call)?)
}

fn no_policy() -> Error {
    error::not_found("No policy is associated with the given resource.")
}

/// Changes the policy of a version; its `RevisionId` changes with it, and is returned.
async fn change(
    functions: &Functions,
    call: &Call,
    version: &LayerVersionRef,
    decide: impl Fn(&mut LayerVersionRecord) -> Result<(), Error>,
) -> Result<String, Error> {
    let key = keys::layer_version(version);
    for _ in 0..ATTEMPTS {
        let entry = functions.store.get(&key).await.map_err(error::store)?;
        let entry = entry.ok_or_else(|| error::not_found(layer::absent(version)))?;
        let mut record: LayerVersionRecord = decoded(&entry.value)?;
        if call.text("RevisionId").is_some_and(|revision| revision != record.revision_id) {
            return Err(error::stale_revision("GetLayerPolicy"));
        }
        decide(&mut record)?;
        record.revision_id = functions.random.uuid();
        let txn = Txn::new().expect_version(key.clone(), entry.version).put(key.clone(), encoded(&record)?);
        if functions.committed(txn).await? {
            return Ok(record.revision_id);
        }
    }
    Err(error::store(store::Error::Conflict))
}

/// AddLayerVersionPermission.
pub(in crate::lambda) async fn add(functions: &Functions, call: &Call) -> Result<Reply, Error> {
    call.honours(&[
        "LayerName",
        "VersionNumber",
        "StatementId",
        "Action",
        "Principal",
        "OrganizationId",
        "RevisionId",
    ])?;
    let version = of_call(call)?;
    let statement = layer::statement(call, &version);
    if call.text("OrganizationId").is_some() && statement["Principal"] != "*" {
        return Err(error::invalid("Specify the principal * together with an organization ID."));
    }
    let sid = call.text("StatementId").unwrap_or_default();
    let revision = change(functions, call, &version, |record| {
        if record.policy.iter().any(|statement| policy::has_sid(statement, sid)) {
            return Err(policy::sid_exists(sid));
        }
        record.policy.push(statement.clone());
        policy::document(&record.policy).map(drop)
    })
    .await?;
    Ok(Reply::of(json!({"Statement": statement.to_string(), "RevisionId": revision})))
}

/// GetLayerVersionPolicy.
pub(in crate::lambda) async fn get(functions: &Functions, call: &Call) -> Result<Reply, Error> {
    call.honours(&["LayerName", "VersionNumber"])?;
    let version = of_call(call)?;
    let snapshot = functions.store.snapshot().await.map_err(error::store)?;
    let record = functions.layer_version(&*snapshot, &version).await?;
    let record = record.ok_or_else(|| error::not_found(layer::absent(&version)))?;
    if record.policy.is_empty() {
        return Err(no_policy());
    }
    Ok(Reply::of(json!({"Policy": policy::document(&record.policy)?, "RevisionId": record.revision_id})))
}

/// RemoveLayerVersionPermission.
pub(in crate::lambda) async fn remove(functions: &Functions, call: &Call) -> Result<Reply, Error> {
    call.honours(&["LayerName", "VersionNumber", "StatementId", "RevisionId"])?;
    let version = of_call(call)?;
    let sid = call.text("StatementId").unwrap_or_default();
    change(functions, call, &version, |record| {
        if record.policy.is_empty() {
            return Err(no_policy());
        }
        let before = record.policy.len();
        record.policy.retain(|statement| !policy::has_sid(statement, sid));
        if record.policy.len() == before { Err(policy::no_statement(sid)) } else { Ok(()) }
    })
    .await?;
    Ok(Reply::empty())
}

//! PublishVersion and ListVersionsByFunction.

use aws::{Call, Error, Reply};
use model::FunctionRef;
use serde_json::json;
use store::Txn;

use crate::lambda::packages::Users;
use crate::lambda::record::{FunctionRecord, LATEST, VersionId};
use crate::lambda::versions::{Published, existing_in};
use crate::lambda::{ATTEMPTS, Functions, encoded, error, keys, name, view};

/// Most versions of one page. Source: ListVersionsByFunction, which never answers more whatever is asked.
const PAGE_MAX: usize = 50;

/// PublishVersion.
pub(in crate::lambda) async fn publish(functions: &Functions, call: &Call) -> Result<Reply, Error> {
    call.honours(&["FunctionName", "CodeSha256", "Description", "RevisionId"])?;
    let function = name::unqualified(call)?;
    let Published { id, version, .. } = commit(functions, call, &function).await?;
    Ok(Reply::of(view::configuration(&qualified(&function, id), id, &version)))
}

fn qualified(function: &FunctionRef, id: VersionId) -> FunctionRef {
    FunctionRef { qualifier: Some(id.to_string()), ..function.clone() }
}

async fn commit(functions: &Functions, call: &Call, function: &FunctionRef) -> Result<Published, Error> {
    let key = keys::function(function);
    for _ in 0..ATTEMPTS {
        let snapshot = functions.store.snapshot().await.map_err(error::store)?;
        let (mut record, written) = existing_in(&*snapshot, function).await?;
        super::update::check_revision(call, &record)?;
        check_code(call, &record)?;
        let txn = Txn::new().expect_version(key.clone(), written);
        let description = call.text("Description");
        let (txn, published) = functions.publish(&*snapshot, function, &mut record, description, txn).await?;
        if !published.is_new {
            return Ok(published);
        }
        let txn = functions.count(&*snapshot, &Users::of(&published.version, 1), txn).await?;
        drop(snapshot);
        if functions.committed(txn.put(key.clone(), encoded(&record)?)).await? {
            return Ok(published);
        }
    }
    Err(error::store(store::Error::Conflict))
}

fn check_code(call: &Call, record: &FunctionRecord) -> Result<(), Error> {
    let present = view::sha256_of(&record.latest);
    match call.text("CodeSha256").filter(|expected| !expected.is_empty() && *expected != present) {
        Some(expected) => Err(error::invalid(format!(
            "CodeSHA256 ({expected}) is different from current CodeSHA256 in $LATEST ({present}). Please try again with the CodeSHA256 in $LATEST."
        ))),
        None => Ok(()),
    }
}

/// ListVersionsByFunction: `$LATEST`, then the published ones by their numbers. The marker is the number that the next
/// page starts with.
pub(in crate::lambda) async fn list(functions: &Functions, call: &Call) -> Result<Reply, Error> {
    call.honours(&["FunctionName", "Marker", "MaxItems"])?;
    let function = name::unqualified(call)?;
    let wanted = super::page_size(call, PAGE_MAX);
    let marker = call.text("Marker").filter(|marker| *marker != LATEST);
    let from = match marker.map(VersionId::parse) {
        None => None,
        Some(Some(VersionId::Number(number))) => Some(number),
        Some(_) => return Err(super::bad_marker(marker.unwrap_or_default())),
    };
    let snapshot = functions.store.snapshot().await.map_err(error::store)?;
    let (record, _) = existing_in(&*snapshot, &function).await?;
    let mut shown = Vec::new();
    if from.is_none() {
        let id = VersionId::Latest;
        shown.push(view::summary(&qualified(&function, id), id, &record.latest));
    }
    let left = wanted - shown.len();
    let (versions, next) = functions.contents(&*snapshot, &function, &record, from.unwrap_or(0), left).await?;
    for (number, version) in versions {
        let id = VersionId::Number(number);
        shown.push(view::summary(&qualified(&function, id), id, &version));
    }
    Ok(Reply::of(json!({"Versions": shown, "NextMarker": next.map(|number| number.to_string())})))
}

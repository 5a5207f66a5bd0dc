//! DeleteFunction: the record, its URLs and its use of the package go in one transaction.

use aws::{Call, Error, Reply};
use serde_json::json;
use store::Txn;

use crate::lambda::record::{FunctionRecord, LATEST};
use crate::lambda::{Functions, decoded, error, keys, name};

const ATTEMPTS: usize = 64;

/// DeleteFunction.
pub(in crate::lambda) async fn run(functions: &Functions, call: &Call) -> Result<Reply, Error> {
    call.honours(&["FunctionName", "Qualifier"])?;
    let mut function = name::of_call(call)?;
    let qualifier = function.qualifier.take();
    let key = keys::function(&function);
    for _ in 0..ATTEMPTS {
        let snapshot = functions.store.snapshot().await.map_err(error::store)?;
        let entry = snapshot.get(&key).await.map_err(error::store)?;
        let entry = entry.ok_or_else(|| error::function_not_found(&function.arn()))?;
        match qualifier.as_deref() {
            None => {}
            Some(LATEST) => {
                return Err(error::invalid("$LATEST version cannot be deleted without deleting the function."));
            }
            // A version that does not exist counts as deleted; an alias can never be deleted this way.
            Some(number) if number.bytes().all(|byte| byte.is_ascii_digit()) => return Ok(done()),
            Some(_) => return Err(error::invalid("Deletion of aliases is not currently supported.")),
        }
        let record: FunctionRecord = decoded(&entry.value)?;
        let mut txn = Txn::new().expect_version(key.clone(), entry.version).delete(key.clone());
        for url in record.urls.values() {
            txn = txn.delete(keys::url(&url.id));
        }
        let txn = functions.release(&*snapshot, &record.latest.code, txn).await?;
        drop(snapshot);
        if functions.committed(txn).await? {
            return Ok(done());
        }
    }
    Err(error::store(store::Error::Conflict))
}

fn done() -> Reply {
    Reply { status: Some(204), ..Reply::of(json!({"StatusCode": 204})) }
}

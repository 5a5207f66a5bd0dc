//! Put/Get/DeleteFunctionConcurrency: what of the account's concurrency is a function's own.

use aws::{Call, Error, Reply};
use serde_json::json;
use store::{Range, Txn};

use crate::lambda::record::FunctionRecord;
use crate::lambda::{Functions, decoded, encoded, error, keys, name};

/// What must stay for functions without a reservation. Source: Lambda quotas.
const UNRESERVED_LEAST: u32 = 100;
const ATTEMPTS: usize = 64;

/// PutFunctionConcurrency.
pub(in crate::lambda) async fn put(functions: &Functions, call: &Call) -> Result<Reply, Error> {
    call.honours(&["FunctionName", "ReservedConcurrentExecutions"])?;
    let function = name::unqualified(call)?;
    let wanted = call.number("ReservedConcurrentExecutions").unwrap_or_default();
    let key = keys::function(&function);
    let all = Range::prefix(keys::functions(function.account.as_str(), function.region.as_str()));
    for _ in 0..ATTEMPTS {
        let snapshot = functions.store.snapshot().await.map_err(error::store)?;
        let page = snapshot.range(&all).await.map_err(error::store)?;
        let (mut own, mut others) = (None, 0u64);
        for entry in &page.entries {
            let record: FunctionRecord = decoded(&entry.value)?;
            if entry.key == key {
                own = Some(record);
            } else {
                others += u64::from(record.reserved_concurrency.unwrap_or_default());
            }
        }
        let Some(mut record) = own else { return Err(error::function_not_found(&function.arn())) };
        let most = u64::from(functions.config.account_concurrency.saturating_sub(UNRESERVED_LEAST));
        let reserved = u32::try_from(wanted).ok().filter(|_| others + wanted <= most || wanted == 0);
        let Some(reserved) = reserved else {
            return Err(error::invalid(format!(
                "Specified ReservedConcurrentExecutions for function decreases account's UnreservedConcurrentExecution below its minimum value of [{UNRESERVED_LEAST}]."
            )));
        };
        record.reserved_concurrency = Some(reserved);
        // The whole list must still be as it was read: two reservations at once may not both fit.
        let txn = Txn::new().expect_range(all.clone(), snapshot.version()).put(key.clone(), encoded(&record)?);
        drop(snapshot);
        if functions.committed(txn).await? {
            return Ok(Reply::of(json!({"ReservedConcurrentExecutions": reserved})));
        }
    }
    Err(error::store(store::Error::Conflict))
}

/// GetFunctionConcurrency.
pub(in crate::lambda) async fn get(functions: &Functions, call: &Call) -> Result<Reply, Error> {
    call.honours(&["FunctionName"])?;
    let record = functions.existing(&name::unqualified(call)?).await?;
    Ok(Reply::of(json!({"ReservedConcurrentExecutions": record.reserved_concurrency})))
}

/// DeleteFunctionConcurrency.
pub(in crate::lambda) async fn delete(functions: &Functions, call: &Call) -> Result<Reply, Error> {
    call.honours(&["FunctionName"])?;
    let function = name::unqualified(call)?;
    functions
        .change(&function, |record, _| {
            record.reserved_concurrency = None;
            Ok(())
        })
        .await?;
    Ok(Reply::empty())
}

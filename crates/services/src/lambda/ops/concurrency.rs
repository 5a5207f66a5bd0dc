//! Put/Get/DeleteFunctionConcurrency: what of the account's concurrency is a function's own.

use aws::{Call, Error, Reply};
use model::FunctionRef;
use serde_json::json;
use store::{Range, Txn};

use crate::lambda::record::FunctionRecord;
use crate::lambda::{ATTEMPTS, Functions, decoded, encoded, error, keys, name, provisioned};

/// What must stay for functions without a reservation. Source: Lambda quotas.
pub(super) const UNRESERVED_LEAST: u32 = 100;

/// What functions take of an account's concurrency, as a decision sees it.
pub(super) struct Account {
    /// What other functions have taken.
    pub(super) others: u64,
    /// What the account has.
    pub(super) limit: u32,
}

impl Account {
    /// Whether so much can be one function's.
    pub(super) fn allows(&self, taken: u64) -> bool {
        self.others + taken <= u64::from(self.limit.saturating_sub(UNRESERVED_LEAST))
    }
}

/// Changes a function's record by a decision that depends on what others have taken: of two at once that do not both fit,
/// the second sees the first.
pub(super) async fn change<T>(
    functions: &Functions,
    function: &FunctionRef,
    decide: impl Fn(&mut FunctionRecord, &Account) -> Result<T, Error>,
) -> Result<T, Error> {
    let key = keys::function(function);
    let all = Range::prefix(keys::functions(function.account.as_str(), function.region.as_str()));
    for _ in 0..ATTEMPTS {
        let snapshot = functions.store.snapshot().await.map_err(error::store)?;
        let page = snapshot.range(&all).await.map_err(error::store)?;
        let (mut own, mut others) = (None, 0);
        for entry in &page.entries {
            let record: FunctionRecord = decoded(&entry.value)?;
            if entry.key == key {
                own = Some(record);
            } else {
                others += provisioned::taken(&record);
            }
        }
        let mut record = own.ok_or_else(|| error::function_not_found(&function.arn()))?;
        let decided = decide(&mut record, &Account { others, limit: functions.config.account_concurrency })?;
        let txn = Txn::new().expect_range(all.clone(), snapshot.version()).put(key.clone(), encoded(&record)?);
        drop(snapshot);
        if functions.committed(txn).await? {
            return Ok(decided);
        }
    }
    Err(error::store(store::Error::Conflict))
}

/// PutFunctionConcurrency.
pub(in crate::lambda) async fn put(functions: &Functions, call: &Call) -> Result<Reply, Error> {
    call.honours(&["FunctionName", "ReservedConcurrentExecutions"])?;
    let function = name::unqualified(call)?;
    let wanted = call.number("ReservedConcurrentExecutions").unwrap_or_default();
    let reserved = change(functions, &function, |record, account| {
        let provisioned = provisioned::sum(record);
        if wanted < provisioned {
            return Err(error::invalid(format!(
                "ReservedConcurrentExecutions  {wanted} should not be lower than function's total provisioned concurrency [{provisioned}]."
            )));
        }
        let reserved = u32::try_from(wanted).ok().filter(|_| wanted == 0 || account.allows(wanted));
        let Some(reserved) = reserved else {
            return Err(error::invalid(format!(
                "Specified ReservedConcurrentExecutions for function decreases account's UnreservedConcurrentExecution below its minimum value of [{UNRESERVED_LEAST}]."
            )));
        };
        record.reserved_concurrency = Some(reserved);
        Ok(reserved)
    })
    .await?;
    Ok(Reply::of(json!({"ReservedConcurrentExecutions": reserved})))
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

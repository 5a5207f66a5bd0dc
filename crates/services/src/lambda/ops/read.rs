//! What there is: GetFunction, GetFunctionConfiguration, the lists, and GetAccountSettings.

use std::collections::BTreeMap;

use aws::{Call, Error, Reply};
use model::{FunctionName, FunctionRef};
use serde_json::{Value, json};
use store::Range;
use store::keys::Parts;

use crate::lambda::record::{FunctionRecord, LATEST};
use crate::lambda::{Functions, decoded, error, keys, name, view};

/// Most functions of one page. Source: ListFunctions, which never answers more whatever is asked.
const PAGE_MAX: usize = 50;
/// Bytes of all packages of an account in a region. Source: Lambda quotas (75 GB).
const CODE_BYTES_TOTAL: u64 = 80_530_636_800;

/// GetFunction.
pub(in crate::lambda) async fn get(functions: &Functions, call: &Call) -> Result<Reply, Error> {
    call.honours(&["FunctionName", "Qualifier"])?;
    let function = name::of_call(call)?;
    let record = functions.existing(&function).await?;
    let link = functions.package_link(&call.endpoint, &record.latest.code).await?;
    let mut output = json!({
        "Configuration": view::configuration(&function, &record.latest),
        "Code": {"RepositoryType": "S3", "Location": link},
    });
    if !record.tags.is_empty() {
        output["Tags"] = json!(record.tags);
    }
    if let Some(reserved) = record.reserved_concurrency {
        output["Concurrency"] = json!({"ReservedConcurrentExecutions": reserved});
    }
    Ok(Reply::of(output))
}

/// GetFunctionConfiguration.
pub(in crate::lambda) async fn configuration(functions: &Functions, call: &Call) -> Result<Reply, Error> {
    call.honours(&["FunctionName", "Qualifier"])?;
    let function = name::of_call(call)?;
    let record = functions.existing(&function).await?;
    Ok(Reply::of(view::configuration(&function, &record.latest)))
}

/// ListFunctions. The marker is the name that the next page starts with.
pub(in crate::lambda) async fn list(functions: &Functions, call: &Call) -> Result<Reply, Error> {
    call.honours(&["MasterRegion", "FunctionVersion", "Marker", "MaxItems"])?;
    let wanted = call.number("MaxItems").and_then(|number| usize::try_from(number).ok()).unwrap_or(PAGE_MAX);
    let wanted = wanted.clamp(1, PAGE_MAX);
    let (account, region) = (&call.principal.account, &call.region);
    let mut range = Range::prefix(keys::functions(account.as_str(), region.as_str())).rows(wanted + 1);
    let marker = call.text("Marker").map(|marker| FunctionName::parse(marker).ok_or_else(|| bad_marker(marker)));
    if let Some(name) = marker.transpose()? {
        let first = FunctionRef { account: account.clone(), region: region.clone(), name, qualifier: None };
        range.start = std::ops::Bound::Included(keys::function(&first));
    }
    let page = functions.store.range(&range).await.map_err(error::store)?;
    let qualifier = call.text("FunctionVersion").map(|_| LATEST.to_owned());
    let mut shown = Vec::new();
    let mut next = None;
    for entry in &page.entries {
        let name = name_of(&entry.key)?;
        if shown.len() == wanted {
            next = Some(name.to_string());
            break;
        }
        let record: FunctionRecord = decoded(&entry.value)?;
        let function =
            FunctionRef { account: account.clone(), region: region.clone(), name, qualifier: qualifier.clone() };
        shown.push(view::summary(&function, &record.latest));
    }
    Ok(Reply::of(json!({"Functions": shown, "NextMarker": next})))
}

fn bad_marker(marker: &str) -> Error {
    error::invalid(format!("The Marker {marker} is not one that a list answered."))
}

/// The name at the end of a function's key.
fn name_of(key: &[u8]) -> Result<FunctionName, Error> {
    let mut parts = Parts::of(key);
    let name = (|| {
        parts.byte()?;
        parts.byte()?;
        parts.text()?;
        parts.text()?;
        FunctionName::parse(&parts.text()?)
    })();
    name.ok_or_else(|| Error::internal("a function's key cannot be read"))
}

/// ListVersionsByFunction: `$LATEST` is the only version.
pub(in crate::lambda) async fn versions(functions: &Functions, call: &Call) -> Result<Reply, Error> {
    call.honours(&["FunctionName", "Marker", "MaxItems"])?;
    let mut function = name::unqualified(call)?;
    let record = functions.existing(&function).await?;
    function.qualifier = Some(LATEST.into());
    Ok(Reply::of(json!({"Versions": [view::summary(&function, &record.latest)]})))
}

/// ListAliases: there are none.
pub(in crate::lambda) async fn aliases(functions: &Functions, call: &Call) -> Result<Reply, Error> {
    call.honours(&["FunctionName", "FunctionVersion", "Marker", "MaxItems"])?;
    functions.existing(&name::unqualified(call)?).await?;
    Ok(Reply::of(json!({"Aliases": []})))
}

/// GetAccountSettings.
pub(in crate::lambda) async fn account(functions: &Functions, call: &Call) -> Result<Reply, Error> {
    let prefix = keys::functions(call.principal.account.as_str(), call.region.as_str());
    let page = functions.store.range(&Range::prefix(prefix)).await.map_err(error::store)?;
    let records: Vec<FunctionRecord> =
        page.entries.iter().map(|entry| decoded(&entry.value)).collect::<Result<_, _>>()?;
    let sizes: BTreeMap<&str, u64> =
        records.iter().map(|record| (record.latest.code.as_str(), record.latest.code_bytes)).collect();
    let reserved: u32 = records.iter().filter_map(|record| record.reserved_concurrency).sum();
    let most = functions.config.account_concurrency;
    let output: Value = json!({
        "AccountLimit": {
            "TotalCodeSize": CODE_BYTES_TOTAL,
            "CodeSizeUnzipped": 262_144_000,
            "CodeSizeZipped": 52_428_800,
            "ConcurrentExecutions": most,
            "UnreservedConcurrentExecutions": most.saturating_sub(reserved),
        },
        "AccountUsage": {"TotalCodeSize": sizes.values().sum::<u64>(), "FunctionCount": records.len()},
    });
    Ok(Reply::of(output))
}

//! What there is: GetFunction, GetFunctionConfiguration, ListFunctions, GetAccountSettings.

use aws::{Call, Error, Reply};
use model::{FunctionName, FunctionRef};
use serde_json::{Value, json};
use store::Range;

use crate::lambda::record::{FunctionRecord, LATEST, VersionId};
use crate::lambda::versions::Found;
use crate::lambda::{Functions, decoded, error, keys, name, provisioned, view};

/// Most functions of one page. Source: ListFunctions, which never answers more whatever is asked.
const PAGE_MAX: usize = 50;

/// GetFunction.
pub(in crate::lambda) async fn get(functions: &Functions, call: &Call) -> Result<Reply, Error> {
    call.honours(&["FunctionName", "Qualifier"])?;
    let function = name::of_call(call)?;
    let Found { record, id, version } = functions.found(&function).await?;
    let code = match &version.image {
        Some(image) => {
            json!({"RepositoryType": "ECR", "ImageUri": image.uri, "ResolvedImageUri": image.resolved})
        }
        None => {
            let link = functions.package_link(&call.endpoint, &version.code).await?;
            json!({"RepositoryType": "S3", "Location": link})
        }
    };
    let mut output = json!({"Configuration": view::configuration(&function, id, &version), "Code": code});
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
    let found = functions.found(&function).await?;
    Ok(Reply::of(view::configuration(&function, found.id, &found.version)))
}

/// Where a page of ListFunctions begins: a function, and with `FunctionVersion=ALL` one of its versions.
struct Begin {
    name: FunctionName,
    version: u64,
}

impl Begin {
    fn parse(marker: &str) -> Result<Self, Error> {
        let (name, number) = marker.split_once(':').unwrap_or((marker, "0"));
        let begin = FunctionName::parse(name).zip(number.parse().ok());
        begin.map(|(name, version)| Self { name, version }).ok_or_else(|| super::bad_marker(marker))
    }
}

/// ListFunctions. The marker is the name that the next page starts with; where it starts within the versions of a
/// function, their number follows.
pub(in crate::lambda) async fn list(functions: &Functions, call: &Call) -> Result<Reply, Error> {
    call.honours(&["MasterRegion", "FunctionVersion", "Marker", "MaxItems"])?;
    let wanted = super::page_size(call, PAGE_MAX);
    let all = call.text("FunctionVersion").is_some();
    let (account, region) = (&call.principal.account, &call.region);
    let at =
        |name: FunctionName| FunctionRef { account: account.clone(), region: region.clone(), name, qualifier: None };
    let mut range = Range::prefix(keys::functions(account.as_str(), region.as_str())).rows(wanted + 1);
    let begin = call.text("Marker").map(Begin::parse).transpose()?;
    if let Some(begin) = &begin {
        range.start = std::ops::Bound::Included(keys::function(&at(begin.name.clone())));
    }
    let snapshot = functions.store.snapshot().await.map_err(error::store)?;
    let page = snapshot.range(&range).await.map_err(error::store)?;
    let (mut shown, mut next) = (Vec::new(), None);
    for entry in &page.entries {
        let function = keys::function_of(&entry.key);
        let function = function.ok_or_else(|| Error::internal("a function's key cannot be read"))?;
        if shown.len() == wanted {
            next = Some(function.name.to_string());
            break;
        }
        let record: FunctionRecord = decoded(&entry.value)?;
        let from = begin.as_ref().filter(|begin| begin.name == function.name).map_or(0, |begin| begin.version);
        if from == 0 {
            let qualifier = all.then(|| LATEST.to_owned());
            shown.push(view::summary(
                &FunctionRef { qualifier, ..function.clone() },
                VersionId::Latest,
                &record.latest,
            ));
        }
        if !all || record.published.is_empty() {
            continue;
        }
        let left = wanted - shown.len();
        let (versions, rest) = functions.contents(&*snapshot, &function, &record, from, left).await?;
        for (number, version) in versions {
            let of_version = FunctionRef { qualifier: Some(number.to_string()), ..function.clone() };
            shown.push(view::summary(&of_version, VersionId::Number(number), &version));
        }
        if let Some(number) = rest {
            next = Some(format!("{}:{number}", function.name));
            break;
        }
    }
    Ok(Reply::of(json!({"Functions": shown, "NextMarker": next})))
}

/// GetAccountSettings.
pub(in crate::lambda) async fn account(functions: &Functions, call: &Call) -> Result<Reply, Error> {
    let (account, region) = (call.principal.account.as_str(), call.region.as_str());
    let snapshot = functions.store.snapshot().await.map_err(error::store)?;
    let stored = functions.stored(&*snapshot, account, region).await?;
    let taken: u64 = stored.functions.iter().map(provisioned::taken).sum();
    let most = functions.config.account_concurrency;
    let output: Value = json!({
        "AccountLimit": {
            "TotalCodeSize": functions.config.code_bytes_max,
            "CodeSizeUnzipped": 262_144_000,
            "CodeSizeZipped": 52_428_800,
            "ConcurrentExecutions": most,
            "UnreservedConcurrentExecutions": u64::from(most).saturating_sub(taken),
        },
        "AccountUsage": {"TotalCodeSize": stored.bytes(), "FunctionCount": stored.functions.len()},
    });
    Ok(Reply::of(output))
}

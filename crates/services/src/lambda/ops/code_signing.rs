//! Code signing configurations, and which function has which.

use aws::{Call, Error, Reply};
use model::{FunctionName, FunctionRef};
use serde_json::json;
use store::{Entry, Range, Snapshot, Txn};

use crate::lambda::code_signing::{self, CodeSigningRecord, CodeSigningRef};
use crate::lambda::record::FunctionRecord;
use crate::lambda::versions::existing_in;
use crate::lambda::{ATTEMPTS, Functions, decoded, encoded, error, keys, name};

/// Most items of one page.
const PAGE_MAX: usize = 50;
const SETTINGS: &[&str] = &["Description", "AllowedPublishers", "CodeSigningPolicies"];

/// CreateCodeSigningConfig.
pub(in crate::lambda) async fn create(functions: &Functions, call: &Call) -> Result<Reply, Error> {
    call.honours(&[SETTINGS, &["Tags"]].concat())?;
    let config = CodeSigningRef {
        account: call.principal.account.clone(),
        region: call.region.clone(),
        id: format!("csc-{}", functions.random.lower_alphanumeric(17)),
    };
    let mut record = code_signing::created(call, functions.clock.now_ms());
    record.tags = super::tags::checked(call.input.get("Tags"))?;
    let key = keys::code_signing(&config);
    functions
        .store
        .commit(Txn::new().expect_absent(key.clone()).put(key, encoded(&record)?))
        .await
        .map_err(error::store)?;
    Ok(Reply::of(json!({"CodeSigningConfig": code_signing::shown(&config, &record)})))
}

fn named(call: &Call) -> Result<CodeSigningRef, Error> {
    let missing = || code_signing::missing(call.text("CodeSigningConfigArn").unwrap_or_default());
    CodeSigningRef::of_call(call).ok_or_else(missing)
}

/// GetCodeSigningConfig.
pub(in crate::lambda) async fn get(functions: &Functions, call: &Call) -> Result<Reply, Error> {
    call.honours(&["CodeSigningConfigArn"])?;
    let config = named(call)?;
    let record = functions.code_signing(&config).await?.ok_or_else(|| code_signing::missing(&config.arn()))?;
    Ok(Reply::of(json!({"CodeSigningConfig": code_signing::shown(&config, &record)})))
}

/// UpdateCodeSigningConfig. What is deployed already stays; what is deployed next meets the new policy.
pub(in crate::lambda) async fn update(functions: &Functions, call: &Call) -> Result<Reply, Error> {
    call.honours(&[SETTINGS, &["CodeSigningConfigArn"]].concat())?;
    let config = named(call)?;
    let record = functions
        .change_code_signing(&config, |record| {
            *record = code_signing::updated(record, call, functions.clock.now_ms());
            Ok(record.clone())
        })
        .await?;
    Ok(Reply::of(json!({"CodeSigningConfig": code_signing::shown(&config, &record)})))
}

/// DeleteCodeSigningConfig, while no function has it.
pub(in crate::lambda) async fn delete(functions: &Functions, call: &Call) -> Result<Reply, Error> {
    call.honours(&["CodeSigningConfigArn"])?;
    let config = named(call)?;
    let key = keys::code_signing(&config);
    for _ in 0..ATTEMPTS {
        let snapshot = functions.store.snapshot().await.map_err(error::store)?;
        let entry = snapshot.get(&key).await.map_err(error::store)?;
        let entry = entry.ok_or_else(|| code_signing::missing(&config.arn()))?;
        let users = Range::prefix(keys::code_signing_users(&config)).rows(1);
        if !snapshot.range(&users).await.map_err(error::store)?.entries.is_empty() {
            return Err(error::conflict(format!(
                "The code signing configuration {} cannot be deleted: functions use it. Use DeleteFunctionCodeSigningConfig for each that ListFunctionsByCodeSigningConfig names.",
                config.arn()
            )));
        }
        let txn = Txn::new().expect_version(key.clone(), entry.version).expect_range(users, snapshot.version());
        drop(snapshot);
        if functions.committed(txn.delete(key.clone())).await? {
            return Ok(Reply::empty());
        }
    }
    Err(error::store(store::Error::Conflict))
}

/// ListCodeSigningConfigs.
pub(in crate::lambda) async fn list(functions: &Functions, call: &Call) -> Result<Reply, Error> {
    call.honours(&["Marker", "MaxItems"])?;
    let (account, region) = (&call.principal.account, &call.region);
    let at = |id: String| CodeSigningRef { account: account.clone(), region: region.clone(), id };
    let mut range = Range::prefix(keys::code_signings(account.as_str(), region.as_str()));
    if let Some(marker) = call.text("Marker") {
        range.start = std::ops::Bound::Included(keys::code_signing(&at(marker.to_owned())));
    }
    let (entries, next) = page(functions, call, range, keys::code_signing_id_of).await?;
    let mut shown = Vec::new();
    for (id, entry) in entries {
        shown.push(code_signing::shown(&at(id), &decoded::<CodeSigningRecord>(&entry.value)?));
    }
    Ok(Reply::of(json!({"CodeSigningConfigs": shown, "NextMarker": next})))
}

/// ListFunctionsByCodeSigningConfig.
pub(in crate::lambda) async fn functions_of(functions: &Functions, call: &Call) -> Result<Reply, Error> {
    call.honours(&["CodeSigningConfigArn", "Marker", "MaxItems"])?;
    let config = named(call)?;
    functions.code_signing(&config).await?.ok_or_else(|| code_signing::missing(&config.arn()))?;
    let mut range = Range::prefix(keys::code_signing_users(&config));
    if let Some(marker) = call.text("Marker") {
        let name = FunctionName::parse(marker).ok_or_else(|| super::bad_marker(marker))?;
        range.start = std::ops::Bound::Included(keys::code_signing_user(&config, &name));
    }
    let (entries, next) = page(functions, call, range, keys::code_signing_user_of).await?;
    let (account, region) = (&config.account, &config.region);
    let arns = entries.into_iter().map(|(name, _)| format!("arn:aws:lambda:{region}:{account}:function:{name}"));
    Ok(Reply::of(json!({"FunctionArns": arns.collect::<Vec<_>>(), "NextMarker": next})))
}

/// One page of a range, each entry with its name, and the name that the next page begins with.
async fn page(
    functions: &Functions,
    call: &Call,
    range: Range,
    name_of: impl Fn(&[u8]) -> Option<String> + Send,
) -> Result<(Vec<(String, Entry)>, Option<String>), Error> {
    let wanted = super::page_size(call, PAGE_MAX);
    let page = functions.store.range(&range.rows(wanted + 1)).await.map_err(error::store)?;
    let mut named = Vec::new();
    for entry in page.entries {
        let name = name_of(&entry.key).ok_or_else(|| Error::internal("a key of code signing cannot be read"))?;
        named.push((name, entry));
    }
    let next = (named.len() > wanted).then(|| named.pop()).flatten().map(|(name, _)| name);
    Ok((named, next))
}

/// PutFunctionCodeSigningConfig. It holds from the next deployment on.
pub(in crate::lambda) async fn put(functions: &Functions, call: &Call) -> Result<Reply, Error> {
    call.honours(&["FunctionName", "CodeSigningConfigArn"])?;
    let function = name::unqualified(call)?;
    let config = wanted(call)?.ok_or_else(|| code_signing::missing_for_function(""))?;
    let key = keys::function(&function);
    for _ in 0..ATTEMPTS {
        let snapshot = functions.store.snapshot().await.map_err(error::store)?;
        let (mut record, written) = existing_in(&*snapshot, &function).await?;
        let left = record.code_signing.replace(config.id.clone());
        let txn = Txn::new().expect_version(key.clone(), written).put(key.clone(), encoded(&record)?);
        let txn = left_by(&function, left.as_deref(), txn);
        let (_, txn) = functions.joined_by(&*snapshot, &function, &config, txn).await?;
        drop(snapshot);
        if functions.committed(txn).await? {
            return Ok(Reply::of(json!({
                "CodeSigningConfigArn": config.arn(),
                "FunctionName": function.name.as_str(),
            })));
        }
    }
    Err(error::store(store::Error::Conflict))
}

/// GetFunctionCodeSigningConfig.
pub(in crate::lambda) async fn of_function(functions: &Functions, call: &Call) -> Result<Reply, Error> {
    call.honours(&["FunctionName"])?;
    let function = name::unqualified(call)?;
    let record = functions.existing(&function).await?;
    let Some(config) = record.code_signing_of(&function) else { return Ok(Reply::empty()) };
    Ok(Reply::of(json!({"CodeSigningConfigArn": config.arn(), "FunctionName": function.name.as_str()})))
}

/// DeleteFunctionCodeSigningConfig.
pub(in crate::lambda) async fn remove(functions: &Functions, call: &Call) -> Result<Reply, Error> {
    call.honours(&["FunctionName"])?;
    let function = name::unqualified(call)?;
    functions
        .change(&function, |record, txn| {
            let left = record.code_signing.take();
            *txn = left_by(&function, left.as_deref(), std::mem::take(txn));
            Ok(())
        })
        .await?;
    Ok(Reply::empty())
}

/// The configuration that a call names for a function.
pub(super) fn wanted(call: &Call) -> Result<Option<CodeSigningRef>, Error> {
    let Some(arn) = call.text("CodeSigningConfigArn").filter(|arn| !arn.is_empty()) else { return Ok(None) };
    CodeSigningRef::of_call(call).map(Some).ok_or_else(|| code_signing::missing_for_function(arn))
}

/// A function no longer has the configuration of this id.
pub(super) fn left_by(function: &FunctionRef, id: Option<&str>, txn: Txn) -> Txn {
    let Some(id) = id else { return txn };
    let (account, region) = (function.account.clone(), function.region.clone());
    txn.delete(keys::code_signing_user(&CodeSigningRef { account, region, id: id.to_owned() }, &function.name))
}

impl FunctionRecord {
    fn code_signing_of(&self, function: &FunctionRef) -> Option<CodeSigningRef> {
        let (account, region) = (function.account.clone(), function.region.clone());
        self.code_signing.clone().map(|id| CodeSigningRef { account, region, id })
    }
}

impl Functions {
    /// A configuration, if there is one.
    pub(super) async fn code_signing(&self, config: &CodeSigningRef) -> Result<Option<CodeSigningRecord>, Error> {
        let entry = self.store.get(&keys::code_signing(config)).await.map_err(error::store)?;
        entry.map(|entry| decoded(&entry.value)).transpose()
    }

    /// Changes a configuration that must be there.
    pub(super) async fn change_code_signing<T: Send>(
        &self,
        config: &CodeSigningRef,
        mut decide: impl FnMut(&mut CodeSigningRecord) -> Result<T, Error> + Send,
    ) -> Result<T, Error> {
        let key = keys::code_signing(config);
        for _ in 0..ATTEMPTS {
            let entry = self.store.get(&key).await.map_err(error::store)?;
            let entry = entry.ok_or_else(|| code_signing::missing(&config.arn()))?;
            let mut record: CodeSigningRecord = decoded(&entry.value)?;
            let result = decide(&mut record)?;
            let txn = Txn::new().expect_version(key.clone(), entry.version).put(key.clone(), encoded(&record)?);
            if self.committed(txn).await? {
                return Ok(result);
            }
        }
        Err(error::store(store::Error::Conflict))
    }

    /// A function gets a configuration, which is there still when the transaction is written.
    pub(super) async fn joined_by(
        &self,
        snapshot: &dyn Snapshot,
        function: &FunctionRef,
        config: &CodeSigningRef,
        txn: Txn,
    ) -> Result<(CodeSigningRecord, Txn), Error> {
        let key = keys::code_signing(config);
        let entry = snapshot.get(&key).await.map_err(error::store)?;
        let entry = entry.ok_or_else(|| code_signing::missing_for_function(&config.arn()))?;
        let txn = txn.expect_version(key, entry.version);
        let txn = txn.put(keys::code_signing_user(config, &function.name), bytes::Bytes::new());
        Ok((decoded(&entry.value)?, txn))
    }

    /// Refuses code or layers for a function whose configuration refuses them.
    pub(super) async fn check_signed(
        &self,
        snapshot: &dyn Snapshot,
        function: &FunctionRef,
        record: &FunctionRecord,
    ) -> Result<(), Error> {
        let Some(config) = record.code_signing_of(function) else { return Ok(()) };
        match snapshot.get(&keys::code_signing(&config)).await.map_err(error::store)? {
            Some(entry) => code_signing::check_deployment(&decoded(&entry.value)?),
            None => Err(Error::internal(format_args!("{} is gone while {} has it", config.arn(), function.arn()))),
        }
    }
}

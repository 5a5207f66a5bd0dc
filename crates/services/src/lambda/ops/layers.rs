//! PublishLayerVersion, GetLayerVersion, GetLayerVersionByArn, ListLayers, ListLayerVersions, DeleteLayerVersion.
//!
//! Publishing follows the order of `create`: everything checked, then the bytes kept, then one transaction.

use aws::{Call, Error, Reply};
use serde_json::{Value, json};
use store::{Range, Txn};

use crate::lambda::layer::{self, LayerRef, LayerVersionRef};
use crate::lambda::packages::{self, Brought, Claim, Package, Upload, Users};
use crate::lambda::record::{LayerRecord, LayerVersionRecord};
use crate::lambda::{ATTEMPTS, Functions, decoded, encoded, error, keys, settings, storage, view};

/// Most layers or versions of one page. Source: the service model.
const PAGE_MAX: usize = 50;

/// PublishLayerVersion.
pub(in crate::lambda) async fn publish(functions: &Functions, call: &Call) -> Result<Reply, Error> {
    call.honours(&[
        "LayerName",
        "Description",
        "Content",
        "CompatibleRuntimes",
        "CompatibleArchitectures",
        "LicenseInfo",
    ])?;
    settings::check_compatible(call)?;
    let layer = layer::own(call)?;
    let package = packages::checked(super::inline_zip(&call.input["Content"])?).await?;
    let record = LayerVersionRecord {
        code: package.digest.clone(),
        code_bytes: package.zip.len() as u64,
        without_bootstrap: package.without_bootstrap,
        description: call.text("Description").unwrap_or_default().to_owned(),
        runtimes: texts(call, "CompatibleRuntimes"),
        architectures: texts(call, "CompatibleArchitectures"),
        license: call.text("LicenseInfo").map(str::to_owned),
        created_ms: functions.clock.now_ms(),
        policy: Vec::new(),
        revision_id: functions.random.uuid(),
    };
    let mut upload = None;
    let made = commit(functions, &layer, &package, &record, &mut upload).await;
    if let Some(upload) = upload.filter(|_| !matches!(made, Ok((_, Claim::Uploaded)))) {
        functions.discard(&upload).await;
    }
    let (number, _) = made?;
    shown(functions, call, &layer.version(number), &record).await
}

fn texts(call: &Call, member: &str) -> Vec<String> {
    let items = call.input.get(member).and_then(Value::as_array);
    items.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Makes the version; tells its number.
async fn commit(
    functions: &Functions,
    layer: &LayerRef,
    package: &Package,
    version: &LayerVersionRecord,
    upload: &mut Option<Upload>,
) -> Result<(u64, Claim), Error> {
    let key = keys::layer(layer);
    for _ in 0..ATTEMPTS {
        let snapshot = functions.store.snapshot().await.map_err(error::store)?;
        let entry = snapshot.get(&key).await.map_err(error::store)?;
        let before: Option<LayerRecord> = entry.as_ref().map(|entry| decoded(&entry.value)).transpose()?;
        let stored = storage::Package { code: &version.code, bytes: version.code_bytes };
        functions.check_storage(&*snapshot, (&layer.account, &layer.region), stored, None).await?;
        let number = before.map_or(1, |before| before.next_version);
        let of_version = keys::layer_version(&layer.clone().version(number));
        let txn = Txn::new()
            .expect_unchanged(key.clone(), entry.as_ref())
            .put(key.clone(), encoded(&LayerRecord { next_version: number + 1 })?)
            .expect_absent(of_version.clone())
            .put(of_version, encoded(version)?);
        let brought = [Brought::package(package, upload.as_ref())];
        let claimed = functions.claim(&*snapshot, &Users::one(&package.digest, 1), &brought, txn).await?;
        drop(snapshot);
        match claimed {
            None => *upload = Some(functions.upload(package).await?),
            Some((txn, claim)) => {
                if functions.committed(txn).await? {
                    return Ok((number, claim));
                }
            }
        }
    }
    Err(error::store(store::Error::Conflict))
}

async fn shown(
    functions: &Functions,
    call: &Call,
    version: &LayerVersionRef,
    record: &LayerVersionRecord,
) -> Result<Reply, Error> {
    let mut output = view::layer_version(version, record);
    output["LayerArn"] = json!(version.layer.arn());
    output["Content"] = json!({
        "Location": functions.package_link(&call.endpoint, &record.code).await?,
        "CodeSha256": view::code_sha256(record.code.as_str()),
        "CodeSize": record.code_bytes,
    });
    Ok(Reply::of(output))
}

/// GetLayerVersion.
pub(in crate::lambda) async fn get(functions: &Functions, call: &Call) -> Result<Reply, Error> {
    call.honours(&["LayerName", "VersionNumber"])?;
    let version = layer::numbered(call, layer::of_call(call)?)?;
    found(functions, call, &version).await
}

/// GetLayerVersionByArn.
pub(in crate::lambda) async fn by_arn(functions: &Functions, call: &Call) -> Result<Reply, Error> {
    call.honours(&["Arn"])?;
    found(functions, call, &layer::of_arn(call)?).await
}

async fn found(functions: &Functions, call: &Call, version: &LayerVersionRef) -> Result<Reply, Error> {
    let snapshot = functions.store.snapshot().await.map_err(error::store)?;
    let record = functions.layer_for(&*snapshot, call, version).await?.ok_or_else(error::no_such_resource)?;
    drop(snapshot);
    shown(functions, call, version, &record).await
}

/// Whether a version is for the runtime and the architecture that a list is asked for.
fn fits(call: &Call) -> impl Fn(&LayerVersionRecord) -> bool + Clone + Send {
    let runtime = call.text("CompatibleRuntime").map(str::to_owned);
    let architecture = call.text("CompatibleArchitecture").map(str::to_owned);
    move |record| {
        runtime.as_ref().is_none_or(|runtime| record.runtimes.contains(runtime))
            && architecture.as_ref().is_none_or(|architecture| record.architectures.contains(architecture))
    }
}

/// ListLayers: by name, each with its newest version that fits. The marker is the name that the next page starts with.
pub(in crate::lambda) async fn list(functions: &Functions, call: &Call) -> Result<Reply, Error> {
    call.honours(&["CompatibleRuntime", "CompatibleArchitecture", "Marker", "MaxItems"])?;
    settings::check_compatible(call)?;
    let wanted = super::page_size(call, PAGE_MAX);
    let at = |name: &str| LayerRef {
        account: call.principal.account.clone(),
        region: call.region.clone(),
        name: name.to_owned(),
    };
    let mut range = Range::prefix(keys::layers(call.principal.account.as_str(), call.region.as_str())).rows(PAGE_MAX);
    if let Some(name) = call.text("Marker") {
        range.start = std::ops::Bound::Included(keys::layer(&at(name)));
    }
    let snapshot = functions.store.snapshot().await.map_err(error::store)?;
    let mut shown = Vec::new();
    loop {
        let page = snapshot.range(&range).await.map_err(error::store)?;
        for entry in &page.entries {
            let name = keys::layer_name_of(&entry.key);
            let layer = at(&name.ok_or_else(|| Error::internal("a layer's key cannot be read"))?);
            let newest = functions.newest_versions(&*snapshot, &layer, u64::MAX - 1, 1, fits(call)).await?;
            let Some((number, record)) = newest.into_iter().next() else { continue };
            if shown.len() == wanted {
                return Ok(Reply::of(json!({"Layers": shown, "NextMarker": layer.name})));
            }
            let version = layer.version(number);
            shown.push(json!({
                "LayerName": version.layer.name,
                "LayerArn": version.layer.arn(),
                "LatestMatchingVersion": view::layer_version(&version, &record),
            }));
        }
        match page.entries.into_iter().next_back() {
            Some(last) if page.more => range = range.beyond(last.key),
            _ => return Ok(Reply::of(json!({"Layers": shown, "NextMarker": null}))),
        }
    }
}

/// ListLayerVersions: the newest first. The marker is the number that the next page starts with.
pub(in crate::lambda) async fn versions(functions: &Functions, call: &Call) -> Result<Reply, Error> {
    call.honours(&["LayerName", "CompatibleRuntime", "CompatibleArchitecture", "Marker", "MaxItems"])?;
    settings::check_compatible(call)?;
    let layer = layer::own(call)?;
    let wanted = super::page_size(call, PAGE_MAX);
    let newest = match call.text("Marker") {
        None => u64::MAX - 1,
        Some(marker) => marker.parse().map_err(|_| super::bad_marker(marker))?,
    };
    let snapshot = functions.store.snapshot().await.map_err(error::store)?;
    let mut found = functions.newest_versions(&*snapshot, &layer, newest, wanted + 1, fits(call)).await?;
    let next = if found.len() > wanted { found.pop().map(|(number, _)| number.to_string()) } else { None };
    let shown: Vec<Value> = found
        .into_iter()
        .map(|(number, record)| view::layer_version(&layer.clone().version(number), &record))
        .collect();
    Ok(Reply::of(json!({"LayerVersions": shown, "NextMarker": next})))
}

/// DeleteLayerVersion. One that does not exist counts as deleted; functions that use it keep it.
pub(in crate::lambda) async fn delete(functions: &Functions, call: &Call) -> Result<Reply, Error> {
    call.honours(&["LayerName", "VersionNumber"])?;
    let version = layer::numbered(call, layer::own(call)?)?;
    let key = keys::layer_version(&version);
    for _ in 0..ATTEMPTS {
        let snapshot = functions.store.snapshot().await.map_err(error::store)?;
        let Some(entry) = snapshot.get(&key).await.map_err(error::store)? else { return Ok(Reply::empty()) };
        let record: LayerVersionRecord = decoded(&entry.value)?;
        let txn = Txn::new().expect_version(key.clone(), entry.version).delete(key.clone());
        let txn = functions.count(&*snapshot, &Users::one(&record.code, -1), txn).await?;
        drop(snapshot);
        if functions.committed(txn).await? {
            return Ok(Reply::empty());
        }
    }
    Err(error::store(store::Error::Conflict))
}

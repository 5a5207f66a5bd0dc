//! UpdateFunctionCode and UpdateFunctionConfiguration.
//!
//! Both replace `$LATEST` in one transaction that also moves the packages' users, so that a crash leaves either version
//! whole. The package that was replaced stays readable for a while: environments are starting from it.

use std::sync::Arc;

use aws::{Call, Error, Reply};
use model::FunctionRef;
use model::ports::EventTarget;
use store::Txn;

use crate::lambda::image::{Code, Uploads};
use crate::lambda::layer;
use crate::lambda::packages::{Claim, Users};
use crate::lambda::record::{FunctionRecord, VersionId, VersionRecord};
use crate::lambda::versions::existing_in;
use crate::lambda::{ATTEMPTS, Functions, dead_letters, encoded, error, keys, name, settings, view};

const CODE: &[&str] = &[
    "FunctionName",
    "ZipFile",
    "ImageUri",
    "S3Bucket",
    "S3Key",
    "S3ObjectVersion",
    "S3ObjectStorageMode",
    "SourceKMSKeyArn",
    "Architectures",
    "DryRun",
    "Publish",
    "RevisionId",
];
const CONFIGURATION: &[&str] = &["FunctionName", "RevisionId"];

/// UpdateFunctionCode.
pub(in crate::lambda) async fn code(functions: &Functions, call: &Call) -> Result<Reply, Error> {
    call.honours(CODE)?;
    let function = name::unqualified(call)?;
    let record = functions.existing(&function).await?;
    check_revision(call, &record)?;
    settings::with_architecture(record.latest.settings.clone(), call, functions.config.architecture)?;
    let code = super::code_of(functions, &call.input, record.latest.image.is_some()).await?;
    if call.flag("DryRun") {
        let next = replaced(functions, call, &record, &code)?;
        let snapshot = functions.store.snapshot().await.map_err(error::store)?;
        functions.check_signed(&*snapshot, &function, &record).await?;
        functions.check_unpacked(&*snapshot, &next, code.package()).await?;
        functions.check_stored(&*snapshot, &function, &next, Some(&record.latest)).await?;
        return Ok(Reply::of(view::configuration(&function, VersionId::Latest, &next)));
    }
    let mut uploads = functions.ready(&code).await?;
    let done = commit(functions, call, &function, &code, &mut uploads).await;
    functions.discard_unused(uploads, matches!(done, Ok(Done { claim: Claim::Uploaded, .. }))).await;
    let Done { id, version, .. } = done?;
    let qualifier = call.flag("Publish").then(|| id.to_string());
    Ok(Reply::of(view::configuration(&FunctionRef { qualifier, ..function }, id, &version)))
}

/// What an update of code came to: the version to show, and what became of the upload.
struct Done {
    id: VersionId,
    version: VersionRecord,
    claim: Claim,
}

fn replaced(functions: &Functions, call: &Call, record: &FunctionRecord, code: &Code) -> Result<VersionRecord, Error> {
    let settings = record.latest.settings.clone();
    let settings = settings::with_architecture(settings, call, functions.config.architecture)?;
    Ok(super::create::version(functions, settings, code))
}

async fn commit(
    functions: &Functions,
    call: &Call,
    function: &FunctionRef,
    code: &Code,
    uploads: &mut Uploads,
) -> Result<Done, Error> {
    let key = keys::function(function);
    for _ in 0..ATTEMPTS {
        let snapshot = functions.store.snapshot().await.map_err(error::store)?;
        let (mut record, written) = existing_in(&*snapshot, function).await?;
        check_revision(call, &record)?;
        functions.check_signed(&*snapshot, function, &record).await?;
        let next = replaced(functions, call, &record, code)?;
        functions.check_unpacked(&*snapshot, &next, code.package()).await?;
        functions.check_stored(&*snapshot, function, &next, Some(&record.latest)).await?;
        let before = std::mem::replace(&mut record.latest, next);
        let mut txn = Txn::new().expect_version(key.clone(), written);
        let mut users = Users::of(&before, -1).and(&record.latest, 1);
        let (mut id, mut version) = (VersionId::Latest, record.latest.clone());
        if call.flag("Publish") {
            let (with_version, published) = functions.publish(&*snapshot, function, &mut record, None, txn).await?;
            users = users.and(&published.version, i64::from(published.is_new));
            (txn, id, version) = (with_version, published.id, published.version);
        }
        txn = txn.put(key.clone(), encoded(&record)?);
        let claimed = functions.claim(&*snapshot, &users, &uploads.brought(code), txn).await?;
        let Some((txn, claim)) = claimed else {
            drop(snapshot);
            functions.bring(code, uploads).await?;
            continue;
        };
        drop(snapshot);
        if functions.committed(txn).await? {
            return Ok(Done { id, version, claim });
        }
    }
    Err(error::store(store::Error::Conflict))
}

/// UpdateFunctionConfiguration.
pub(in crate::lambda) async fn configuration(
    functions: &Functions,
    targets: &[Arc<dyn EventTarget>],
    call: &Call,
) -> Result<Reply, Error> {
    call.honours(&[CONFIGURATION, settings::HONOURED].concat())?;
    settings::refuse_durable(call)?;
    let function = name::unqualified(call)?;
    let layers = layer::wanted(call)?;
    if dead_letters::wanted(call)?.flatten().is_some() {
        // That the function is not there, or is another by now, is said first.
        check_revision(call, &functions.existing(&function).await?)?;
        dead_letters::check(call, targets).await?;
    }
    let key = keys::function(&function);
    for _ in 0..ATTEMPTS {
        let snapshot = functions.store.snapshot().await.map_err(error::store)?;
        let (mut record, written) = existing_in(&*snapshot, &function).await?;
        check_revision(call, &record)?;
        if layers.as_ref().is_some_and(|layers| !layers.is_empty()) {
            // Layers are code too.
            functions.check_signed(&*snapshot, &function, &record).await?;
        }
        let before = record.latest.clone();
        let latest = &mut record.latest;
        latest.settings = settings::updated(&latest.settings, call, &functions.config)?;
        if let Some(layers) = &layers {
            latest.settings.layers = functions.layers_of(&*snapshot, call, layers).await?;
            functions.check_unpacked(&*snapshot, latest, None).await?;
        }
        latest.modified_ms = functions.clock.now_ms();
        latest.revision_id = functions.random.uuid();
        latest.content_revision = functions.random.hex(16);
        let txn = Txn::new().expect_version(key.clone(), written).put(key.clone(), encoded(&record)?);
        let users = Users::of(&before, -1).and(&record.latest, 1);
        let txn = functions.count(&*snapshot, &users, txn).await?;
        drop(snapshot);
        if functions.committed(txn).await? {
            return Ok(Reply::of(view::configuration(&function, VersionId::Latest, &record.latest)));
        }
    }
    Err(error::store(store::Error::Conflict))
}

/// Refuses a `RevisionId` that is not the function's.
pub(super) fn check_revision(call: &Call, record: &FunctionRecord) -> Result<(), Error> {
    match call.text("RevisionId") {
        Some(revision) if revision != record.latest.revision_id => Err(error::stale_revision("GetFunction/GetAlias")),
        _ => Ok(()),
    }
}

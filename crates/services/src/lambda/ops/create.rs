//! CreateFunction.
//!
//! Order: what the call asks for is checked whole, then the package, then the bytes are kept, then one transaction
//! makes the function. A failure after the bytes were kept removes them again.

use std::sync::Arc;

use aws::{Call, Error, Reply};
use model::FunctionRef;
use model::ports::EventTarget;
use serde_json::Value;
use store::Txn;

use crate::lambda::code_signing::{self, CodeSigningRef};
use crate::lambda::image::{Code, Uploads};
use crate::lambda::layer::{self, LayerVersionRef};
use crate::lambda::packages::{Claim, Users};
use crate::lambda::record::{FunctionRecord, Settings, VersionId, VersionRecord};
use crate::lambda::{ATTEMPTS, Functions, dead_letters, encoded, error, keys, name, provisioned, settings, view};

const HONOURED: &[&str] = &[
    "FunctionName",
    "Code",
    "PackageType",
    "Tags",
    "Architectures",
    "Publish",
    "CodeSigningConfigArn",
    "TenancyConfig",
];

/// CreateFunction.
pub(in crate::lambda) async fn run(
    functions: &Functions,
    targets: &[Arc<dyn EventTarget>],
    call: &Call,
) -> Result<Reply, Error> {
    call.honours(&[HONOURED, settings::HONOURED].concat())?;
    settings::refuse_durable(call)?;
    let function = name::of_call(call)?;
    if function.qualifier.is_some() {
        let name = call.text("FunctionName").unwrap_or_default();
        return Err(error::constraint(name, "functionName", "Member must not carry a qualifier"));
    }
    let settings = settings::created(call, &functions.config)?;
    let layers = layer::wanted(call)?.unwrap_or_default();
    let tags = super::tags::checked(call.input.get("Tags"))?;
    let signing = super::code_signing::wanted(call)?;
    if functions.record(&function).await?.is_some() {
        return Err(exists(&function));
    }
    let is_image = settings::are_of_image(&settings);
    if is_image && signing.is_some() {
        return Err(error::invalid("Code signing is not supported for functions with PackageType Image."));
    }
    dead_letters::check(call, targets).await?;
    let code = super::code_of(functions, &call.input["Code"], is_image).await?;
    let mut record = FunctionRecord::new(version(functions, settings, &code), tags);
    provisioned::check_tenants(&record)?;
    record.code_signing = signing.as_ref().map(|config| config.id.clone());
    let mut uploads = functions.ready(&code).await?;
    let new = New { function, code, layers, signing, record, publish: call.flag("Publish") };
    let made = commit(functions, call, &new, &mut uploads).await;
    functions.discard_unused(uploads, matches!(made, Ok((_, _, Claim::Uploaded)))).await;
    let (id, version, _) = made?;
    Ok(Reply::of(view::configuration(&new.function, id, &version)))
}

/// A function that is to be made.
struct New {
    function: FunctionRef,
    code: Code,
    layers: Vec<LayerVersionRef>,
    signing: Option<CodeSigningRef>,
    record: FunctionRecord,
    publish: bool,
}

fn exists(function: &FunctionRef) -> Error {
    error::conflict(format!("Function already exist: {}", function.name))
}

/// A first or next `$LATEST`.
pub(super) fn version(functions: &Functions, settings: Settings, code: &Code) -> VersionRecord {
    VersionRecord {
        settings,
        code: code.digest().clone(),
        code_bytes: code.bytes(),
        image: code.image(),
        modified_ms: functions.clock.now_ms(),
        revision_id: functions.random.uuid(),
        content_revision: functions.random.hex(16),
        description: None,
        has_program: code.package().is_some_and(|package| package.has_program),
        without_bootstrap: code.package().is_some_and(|package| package.without_bootstrap),
    }
}

/// Makes the function; tells the version to show, `$LATEST` or the one that was published with it.
async fn commit(
    functions: &Functions,
    call: &Call,
    new: &New,
    uploads: &mut Uploads,
) -> Result<(VersionId, VersionRecord, Claim), Error> {
    let New { function, code, .. } = new;
    let key = keys::function(function);
    for _ in 0..ATTEMPTS {
        let snapshot = functions.store.snapshot().await.map_err(error::store)?;
        if snapshot.get(&key).await.map_err(error::store)?.is_some() {
            return Err(exists(function));
        }
        let mut record = new.record.clone();
        record.latest.settings.layers = functions.layers_of(&*snapshot, call, &new.layers).await?;
        functions.check_unpacked(&*snapshot, &record.latest, code.package()).await?;
        functions.check_stored(&*snapshot, function, &record.latest, None).await?;
        let (mut id, mut shown) = (VersionId::Latest, record.latest.clone());
        let mut txn = Txn::new().expect_absent(key.clone());
        if let Some(config) = &new.signing {
            let (policy, joined) = functions.joined_by(&*snapshot, function, config, txn).await?;
            code_signing::check_deployment(&policy)?;
            txn = joined;
        }
        if new.publish {
            let (with_version, published) = functions.publish(&*snapshot, function, &mut record, None, txn).await?;
            (txn, id, shown) = (with_version, published.id, published.version);
        }
        let txn = txn.put(key.clone(), encoded(&record)?);
        let users = Users::of(&record.latest, 1 + i64::from(new.publish));
        let claimed = functions.claim(&*snapshot, &users, &uploads.brought(code), txn).await?;
        drop(snapshot);
        match claimed {
            None => functions.bring(code, uploads).await?,
            Some((txn, claim)) => {
                if functions.committed(txn).await? {
                    return Ok((id, shown, claim));
                }
            }
        }
    }
    Err(error::store(store::Error::Conflict))
}

/// The members of `Tags` are texts by the model.
pub(super) fn text_map(value: Option<&Value>) -> std::collections::BTreeMap<String, String> {
    let members = value.and_then(Value::as_object).into_iter().flatten();
    members.map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned())).collect()
}

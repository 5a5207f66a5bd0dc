//! Create/Get/Update/Delete/ListEventSourceMapping(s), and the tags of mappings.

use std::collections::BTreeMap;
use std::sync::Arc;

use aws::{Call, Error, Reply};
use model::FunctionRef;
use model::ports::{EventSource, EventTarget};
use serde_json::{Value, json};
use store::{Range, Txn};

use crate::lambda::mapping::{MappingRecord, MappingRef, State};
use crate::lambda::mapping_settings::{self, Kind};
use crate::lambda::{Functions, decoded, encoded, error, keys, name};

/// Most mappings of one page. Source: ListEventSourceMappings, which never answers more whatever is asked.
const PAGE_MAX: usize = 100;

/// Who has what mappings lead from and to.
pub(in crate::lambda) struct Ends<'a> {
    /// Sources of records.
    pub(in crate::lambda) sources: &'a [Arc<dyn EventSource>],
    /// Destinations of batches that are given up.
    pub(in crate::lambda) targets: &'a [Arc<dyn EventTarget>],
}

fn named(call: &Call) -> MappingRef {
    of_uuid(call, call.text("UUID").unwrap_or_default())
}

fn of_uuid(call: &Call, uuid: &str) -> MappingRef {
    MappingRef { account: call.principal.account.clone(), region: call.region.clone(), uuid: uuid.to_owned() }
}

/// The function that a call names, and its timeout in seconds; it must be there, with its qualifier.
async fn function(functions: &Functions, call: &Call) -> Result<(FunctionRef, u64), Error> {
    let function = name::of_call(call)?;
    match functions.found(&function).await {
        Ok(found) if found.version.settings.per_tenant => {
            Err(error::invalid("Event source mappings are not supported for functions with tenant isolation."))
        }
        Ok(found) => Ok((function, u64::from(found.version.settings.timeout_s))),
        Err(problem) if problem.status == 404 => Err(error::invalid("Function does not exist")),
        Err(problem) => Err(problem),
    }
}

/// CreateEventSourceMapping. What nobody would poll is not kept.
pub(in crate::lambda) async fn create(functions: &Functions, ends: Ends<'_>, call: &Call) -> Result<Reply, Error> {
    let kind = Kind::of_call(call)?;
    let settings = mapping_settings::created(call, kind)?;
    let tags = super::tags::checked(call.input.get("Tags"))?;
    let (function, timeout_s) = self::function(functions, call).await?;
    let source = call.text("EventSourceArn").unwrap_or_default().to_owned();
    mapping_settings::check_source(&source, kind, call, timeout_s, ends.sources).await?;
    mapping_settings::check_destination(&settings, ends.targets).await?;
    let mapping = of_uuid(call, &functions.random.uuid());
    let now_ms = functions.clock.now_ms();
    let record =
        MappingRecord { function, source, state: State::Creating, modified_ms: now_ms, revision: 1, settings, tags };
    let pair = keys::mapping_pair(&mapping, &record.source, &record.function);
    let txn = Txn::new().expect_absent(pair.clone()).put(pair.clone(), mapping.uuid.clone());
    if !functions.committed_mapping(txn.put(keys::mapping(&mapping), encoded(&record)?)).await? {
        return Err(exists(functions, &mapping, &record.source, &record.function, kind).await?);
    }
    Ok(Reply::of(record.shown(&mapping, None)))
}

/// There is a mapping of this source and function already.
async fn exists(
    functions: &Functions,
    mapping: &MappingRef,
    source: &str,
    function: &FunctionRef,
    kind: Kind,
) -> Result<Error, Error> {
    let entry = functions.store.get(&keys::mapping_pair(mapping, source, function)).await.map_err(error::store)?;
    let Some(entry) = entry else { return Ok(error::store(store::Error::Conflict)) };
    let uuid = String::from_utf8_lossy(&entry.value);
    let name = &function.name;
    Ok(error::conflict(match kind {
        Kind::Sqs => format!(
            "An event source mapping with SQS arn (\" {source} \") and function (\" {name} \") already exists. Please update or delete the existing mapping with UUID {uuid}"
        ),
        Kind::Kinesis | Kind::DynamoDb => format!(
            "The event source arn (\" {source} \") and function (\" {name} \") provided mapping already exists. Please update or delete the existing mapping with UUID {uuid}"
        ),
    }))
}

/// GetEventSourceMapping.
pub(in crate::lambda) async fn get(functions: &Functions, call: &Call) -> Result<Reply, Error> {
    call.honours(&["UUID"])?;
    let mapping = named(call);
    let record = functions.mapping(&mapping).await?;
    let result = functions.mapping_result(&mapping).await?;
    Ok(Reply::of(record.shown(&mapping, result.as_deref())))
}

/// UpdateEventSourceMapping.
pub(in crate::lambda) async fn update(functions: &Functions, ends: Ends<'_>, call: &Call) -> Result<Reply, Error> {
    let mapping = named(call);
    let present = functions.mapping(&mapping).await?;
    // A source of another kind is never kept.
    let kind = Kind::of(&present.source).ok_or_else(error::no_such_resource)?;
    let settings = mapping_settings::changed(&present.settings, call, kind, &present.source)?;
    present.check_at_rest("update")?;
    let mut to = present.function.clone();
    if call.text("FunctionName").is_some() {
        let timeout_s;
        (to, timeout_s) = function(functions, call).await?;
        mapping_settings::check_source(&present.source, kind, call, timeout_s, ends.sources).await?;
    }
    if call.input.get("DestinationConfig").is_some() {
        mapping_settings::check_destination(&settings, ends.targets).await?;
    }
    let moves = to != present.function;
    let pair = keys::mapping_pair(&mapping, &present.source, &to);
    if moves && functions.store.get(&pair).await.map_err(error::store)?.is_some() {
        return Err(exists(functions, &mapping, &present.source, &to, kind).await?);
    }
    let record = functions
        .change_mapping(&mapping, |record, txn| {
            // Settings were decided over what was read.
            if *record != present {
                record.check_at_rest("update")?;
                return Err(error::store(store::Error::Conflict));
            }
            if moves {
                let before = keys::mapping_pair(&mapping, &record.source, &record.function);
                let moved = std::mem::take(txn).expect_absent(pair.clone()).delete(before);
                *txn = moved.put(pair.clone(), mapping.uuid.clone());
            }
            record.update(to.clone(), settings.clone(), functions.clock.now_ms());
            Ok(())
        })
        .await?;
    let result = functions.mapping_result(&mapping).await?;
    Ok(Reply::of(record.shown(&mapping, result.as_deref())))
}

/// DeleteEventSourceMapping. It is gone when its poller has stopped.
pub(in crate::lambda) async fn delete(functions: &Functions, call: &Call) -> Result<Reply, Error> {
    call.honours(&["UUID"])?;
    let mapping = named(call);
    let record = functions
        .change_mapping(&mapping, |record, _| {
            record.check_at_rest("delete")?;
            record.delete(functions.clock.now_ms());
            Ok(())
        })
        .await?;
    let result = functions.mapping_result(&mapping).await?;
    Ok(Reply::of(record.shown(&mapping, result.as_deref())))
}

/// ListEventSourceMappings. The marker is the UUID that the next page starts with.
pub(in crate::lambda) async fn list(functions: &Functions, call: &Call) -> Result<Reply, Error> {
    call.honours(&["EventSourceArn", "FunctionName", "Marker", "MaxItems"])?;
    let function = call.text("FunctionName").map(|_| name::of_call(call)).transpose()?;
    let source = call.text("EventSourceArn").filter(|arn| !arn.is_empty());
    let wanted = super::page_size(call, PAGE_MAX);
    let mut range = Range::prefix(keys::mappings_of(call.principal.account.as_str(), call.region.as_str()));
    if let Some(marker) = call.text("Marker").filter(|marker| !marker.is_empty()) {
        range.start = std::ops::Bound::Included(keys::mapping(&of_uuid(call, marker)));
    }
    let page = functions.store.range(&range).await.map_err(error::store)?;
    let (mut shown, mut next) = (Vec::new(), None);
    for entry in &page.entries {
        let Some(mapping) = keys::mapping_of(&entry.key) else { continue };
        let record: MappingRecord = decoded(&entry.value)?;
        // A function without a qualifier stands for all of its versions and aliases.
        let own = function.as_ref().is_none_or(|function| {
            let asked = FunctionRef { qualifier: function.qualifier.clone(), ..record.function.clone() };
            asked == *function && (function.qualifier.is_none() || function.qualifier == record.function.qualifier)
        });
        if !own || source.is_some_and(|source| source != record.source) {
            continue;
        }
        if shown.len() == wanted {
            next = Some(mapping.uuid);
            break;
        }
        let result = functions.mapping_result(&mapping).await?;
        shown.push(record.shown(&mapping, result.as_deref()));
    }
    Ok(Reply::of(json!({"EventSourceMappings": shown, "NextMarker": next})))
}

/// The mapping whose tags a call is about; nothing if it is about something else.
pub(in crate::lambda) fn tagged(call: &Call) -> Option<MappingRef> {
    MappingRef::parse_arn(call.text("Resource")?)
}

fn own(call: &Call, mapping: &MappingRef) -> Result<(), Error> {
    let own = mapping.account == call.principal.account && mapping.region == call.region;
    if own { Ok(()) } else { Err(error::no_such_resource()) }
}

/// TagResource, UntagResource and ListTags of a mapping.
pub(in crate::lambda) async fn tags(functions: &Functions, call: &Call, mapping: &MappingRef) -> Result<Reply, Error> {
    own(call, mapping)?;
    let tags = match call.operation {
        "ListTags" => {
            call.honours(&["Resource"])?;
            let record = functions.mapping(mapping).await?;
            return Ok(Reply::of(json!({"Tags": record.tags})));
        }
        "TagResource" => {
            call.honours(&["Resource", "Tags"])?;
            super::tags::checked(call.input.get("Tags"))?
        }
        _ => {
            call.honours(&["Resource", "TagKeys"])?;
            BTreeMap::new()
        }
    };
    let keys = call.input.get("TagKeys").and_then(Value::as_array).into_iter().flatten();
    let removed: Vec<&str> = keys.filter_map(Value::as_str).collect();
    functions
        .change_mapping(mapping, |record, _| {
            record.tags.extend(tags.clone());
            record.tags.retain(|key, _| !removed.contains(&key.as_str()));
            super::tags::limited(record.tags.clone()).map(drop)
        })
        .await?;
    Ok(Reply::empty())
}

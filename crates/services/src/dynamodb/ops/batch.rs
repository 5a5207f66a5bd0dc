//! BatchGetItem and BatchWriteItem: many items in one call, each on its own.
//!
//! Invariants
//!   1. Everything is checked before the first write; after that each write stands alone.
//!   2. What the store has no room for, or the table no capacity, comes back unprocessed; what fails otherwise fails the
//!      call. A call of which nothing is done for want of capacity is refused.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::join_all;
use serde_json::{Map, Value as Json, json};
use store::Error as StoreError;

use super::super::capacity::Units;
use super::super::error::{Error, Result, broken, constraint, invalid};
use super::super::table::{ItemKey, Table};
use super::super::throttle::Direction;
use super::super::value::{ITEM_BYTES_MAX, Item, item_from_json, item_size, item_to_json};
use super::items::View;
use super::request::{AT_LEAST_ONE, CAPACITY, Request, Rule, missing, report, table_name, wrong_type};
use super::{Change, Found, Place, Shared, collections, consumed, decode};

/// Most keys of one BatchGetItem.
const GETS_MAX: usize = 100;
/// Most writes of one BatchWriteItem.
const WRITES_MAX: usize = 25;
/// Most bytes of items that BatchGetItem answers. Source: the API reference, by which 52 items of 300 KB fit.
const REPLY_BYTES_MAX: usize = 16_000_000;

fn request_items<'a>(request: &'a Request, operation: &str) -> Result<&'a Map<String, Json>> {
    let metrics = Rule::OneOf("ReturnItemCollectionMetrics", &["SIZE", "NONE"]);
    request.check(&[Rule::Required("RequestItems"), metrics, CAPACITY])?;
    let tables = request.required_map("RequestItems")?;
    if tables.is_empty() {
        return invalid(format!("The requestItems parameter is required for {operation}"));
    }
    Ok(tables)
}

/// The keys of one table in a BatchGetItem.
struct Gets<'a> {
    found: Found,
    name: &'a str,
    request: Request,
    view: View,
    consistent: bool,
    keys: Vec<ItemKey>,
}

/// `BatchGetItem`
pub(super) async fn get(shared: &Shared, place: &Place, request: &Request) -> Result<Json> {
    request.only("BatchGetItem", &["RequestItems", "ReturnConsumedCapacity"])?;
    let tables = request_items(request, "BatchGetItem")?;
    let mut count = 0;
    let mut wrong = Vec::new();
    for (name, member) in tables {
        check_gets(name, member, &mut wrong);
        count += member.get("Keys").and_then(Json::as_array).map_or(0, Vec::len);
    }
    report(wrong)?;
    if count > GETS_MAX {
        return invalid("Too many items requested for the BatchGetItem call");
    }
    let mut plans = Vec::with_capacity(tables.len());
    for (name, member) in tables {
        plans.push(plan_gets(shared, place, name, member).await?);
    }
    let (mut responses, mut unprocessed, mut capacities) = (Map::new(), Map::new(), Vec::new());
    let (mut left, mut done, mut short) = (REPLY_BYTES_MAX, 0, None);
    for plan in plans {
        let (mut items, mut later, mut units) = (Vec::new(), Vec::new(), Units::default());
        for key in &plan.keys {
            let refused = shared.admit(&plan.found.table, None, Direction::Read).err();
            if left == 0 || refused.is_some() {
                short = short.or(refused);
                later.push(item_to_json(&key.attributes));
                continue;
            }
            let item = shared.store.get(&key.store).await?.as_ref().map(decode).transpose()?;
            let bytes = item.as_ref().map_or(0, item_size);
            if bytes > left {
                // Nothing after it is read either: an answer ends where it is full.
                left = 0;
                later.push(item_to_json(&key.attributes));
                continue;
            }
            let used = Units::of_read(bytes, plan.consistent);
            shared.pay(&plan.found.table, &used, Direction::Read);
            units = units.and(&used);
            done += 1;
            left -= bytes;
            items.extend(item.map(|item| item_to_json(&plan.view.show(item))));
        }
        responses.insert(plan.name.into(), Json::Array(items));
        if !later.is_empty() {
            let mut rest = plan.request.into_members();
            rest.insert("Keys".into(), Json::Array(later));
            unprocessed.insert(plan.name.into(), Json::Object(rest));
        }
        capacities.extend(consumed(request, plan.name, &units)?);
    }
    if let Some(short) = short.filter(|_| done == 0) {
        return Err(short);
    }
    let mut output = json!({ "Responses": responses, "UnprocessedKeys": unprocessed });
    if !capacities.is_empty() {
        output["ConsumedCapacity"] = Json::Array(capacities);
    }
    Ok(output)
}

/// Notes what is wrong with the members of one table in a BatchGetItem.
fn check_gets(table: &str, member: &Json, wrong: &mut Vec<String>) {
    let at = |name: &str| format!("requestItems.{table}.member.{name}");
    if member.get("AttributesToGet").and_then(Json::as_array).is_some_and(Vec::is_empty) {
        wrong.push(broken(&json!([]), &at("attributesToGet"), AT_LEAST_ONE));
    }
    match member.get("Keys").filter(|keys| !keys.is_null()) {
        None => wrong.push(broken(&Json::Null, &at("keys"), "Member must not be null")),
        Some(Json::Array(keys)) if keys.is_empty() => wrong.push(broken(&json!([]), &at("keys"), AT_LEAST_ONE)),
        Some(Json::Array(keys)) if keys.len() > GETS_MAX => {
            let rule = format!("Member must have length less than or equal to {GETS_MAX}");
            wrong.push(broken(&json!(keys), &at("keys"), &rule));
        }
        Some(_) => {}
    }
}

async fn plan_gets<'a>(shared: &Shared, place: &Place, name: &'a str, member: &Json) -> Result<Gets<'a>> {
    const MEMBERS: &[&str] =
        &["Keys", "AttributesToGet", "ConsistentRead", "ProjectionExpression", "ExpressionAttributeNames"];
    let request = Request::new(member.clone())?;
    request.only("BatchGetItem.RequestItems", MEMBERS)?;
    request.check_expressions(&["ProjectionExpression"])?;
    let list = request.list("Keys")?.ok_or_else(|| missing("Keys"))?;
    let read = |json: &Json| item_from_json(json.as_object().ok_or_else(wrong_type)?);
    let attributes = list.iter().map(read).collect::<Result<Vec<Item>>>()?;
    let mut scope = request.scope()?;
    let view = View::of(&request, &mut scope)?;
    scope.finish()?;
    let consistent = request.flag("ConsistentRead")?.unwrap_or(false);
    let found = shared.table_of_part(place, name, place.operation).await?;
    let keys = attributes.iter().map(|key| found.table.key_of_request(key)).collect::<Result<Vec<_>>>()?;
    check_distinct(&keys)?;
    view.check(&found.table)?;
    Ok(Gets { found, name, view, consistent, keys, request })
}

fn check_distinct(keys: &[ItemKey]) -> Result<()> {
    let distinct: BTreeSet<&[u8]> = keys.iter().map(|key| &key.store[..]).collect();
    if distinct.len() < keys.len() {
        return invalid("Provided list of item keys contains duplicates");
    }
    Ok(())
}

/// One write of a batch.
struct Write<'a> {
    table: &'a str,
    json: &'a Json,
    kind: WriteKind,
}

enum WriteKind {
    Put(Item),
    Delete(Item),
}

impl WriteKind {
    /// An item with the key attributes, at least.
    fn attributes(&self) -> &Item {
        match self {
            Self::Put(item) | Self::Delete(item) => item,
        }
    }

    fn locate(&self, table: &Table) -> Result<ItemKey> {
        match self {
            Self::Put(item) => {
                table.check_key_types(item)?;
                table.key_of_item(item)
            }
            Self::Delete(key) => table.key_of_request(key),
        }
    }
}

/// `BatchWriteItem`
pub(super) async fn write(shared: &Shared, place: &Place, request: &Request) -> Result<Json> {
    request.only("BatchWriteItem", &["RequestItems", "ReturnConsumedCapacity", "ReturnItemCollectionMetrics"])?;
    let tables = request_items(request, "BatchWriteItem")?;
    let writes = read_writes(tables, place)?;
    let mut all = Vec::with_capacity(writes.len());
    for name in tables.keys() {
        let found = shared.table_of_part(place, name, place.operation).await?;
        let own = writes.iter().filter(|write| write.table == name);
        let own = own.map(|write| write.kind.locate(&found.table)).collect::<Result<Vec<_>>>()?;
        check_distinct(&own)?;
        all.extend(own);
    }
    // A table may be named twice: by its name and by its ARN.
    check_distinct(&all)?;
    // All at once: the store gathers commits that wait together into one flush.
    let results = join_all(writes.iter().map(|write| write_one(shared, place, write))).await;
    let failed: Vec<bool> = results.iter().map(Result::is_err).collect();
    let mut unprocessed: BTreeMap<&str, Vec<Json>> = BTreeMap::new();
    let mut units: BTreeMap<&str, Units> = BTreeMap::new();
    let mut short = None;
    for (write, result) in writes.iter().zip(results) {
        match result {
            Ok(used) => {
                let sum = units.entry(write.table).or_default();
                *sum = std::mem::take(sum).and(&used);
            }
            Err(error @ (Error::Store(StoreError::Busy) | Error::Throttled(_) | Error::InConflict)) => {
                short = Some(error).filter(|error| matches!(error, Error::Throttled(_))).or(short);
                unprocessed.entry(write.table).or_default().push(write.json.clone());
            }
            Err(error) => return Err(error),
        }
    }
    if let Some(short) = short.filter(|_| units.is_empty()) {
        return Err(short);
    }
    let mut output = json!({ "UnprocessedItems": unprocessed });
    if collections::are_wanted(request)? {
        let done = writes.iter().zip(&failed).filter(|(_, failed)| !**failed);
        let written = done.map(|(write, _)| (write.table, write.kind.attributes()));
        let metrics = collections::of_many(shared, place, written).await?;
        if metrics.as_object().is_some_and(|tables| !tables.is_empty()) {
            output["ItemCollectionMetrics"] = metrics;
        }
    }
    let mut capacities = Vec::new();
    for (name, units) in units {
        capacities.extend(consumed(request, name, &units)?);
    }
    if !capacities.is_empty() {
        output["ConsumedCapacity"] = Json::Array(capacities);
    }
    Ok(output)
}

async fn write_one(shared: &Shared, place: &Place, write: &Write<'_>) -> Result<Units> {
    let there = place.of_part(write.table, place.operation);
    let locate = |table: &Table| write.kind.locate(table);
    let decide = |_: &Table, _: Option<&Item>| {
        let change = match &write.kind {
            WriteKind::Put(item) => Change::Put(item.clone()),
            WriteKind::Delete(_) => Change::Delete,
        };
        Ok((change, ()))
    };
    let ((), units) = shared.change(&there, table_name(write.table, &there)?, locate, decide).await?;
    Ok(units)
}

fn read_writes<'a>(tables: &'a Map<String, Json>, place: &Place) -> Result<Vec<Write<'a>>> {
    let mut writes = Vec::new();
    for (name, list) in tables {
        table_name(name, &place.of_part(name, place.operation))?;
        let list = list.as_array().ok_or_else(wrong_type)?;
        if list.is_empty() || list.len() > WRITES_MAX {
            let rule = format!(
                "Map value must satisfy constraint: [Member must have length less than or equal to {WRITES_MAX}, \
                 Member must have length greater than or equal to 1]"
            );
            return Err(constraint(&Json::Object(tables.clone()), "requestItems", &rule));
        }
        for (at, json) in list.iter().enumerate() {
            let place = format!("requestItems.{name}.member.{}.member", at + 1);
            writes.push(Write { table: name, json, kind: read_write(json, &place)? });
        }
    }
    if writes.len() > WRITES_MAX {
        return invalid("Too many items requested for the BatchWriteItem call");
    }
    Ok(writes)
}

fn read_write(json: &Json, place: &str) -> Result<WriteKind> {
    let part = |request: &str, member: &str| json.get(request).filter(|j| !j.is_null()).map(|j| j.get(member));
    let item = |json: Option<&Json>, member: &str| {
        let missing = || constraint(&Json::Null, &format!("{place}.{member}"), "Member must not be null");
        item_from_json(json.filter(|json| !json.is_null()).ok_or_else(missing)?.as_object().ok_or_else(wrong_type)?)
    };
    match (part("PutRequest", "Item"), part("DeleteRequest", "Key")) {
        (Some(put), None) => {
            let item = item(put, "putRequest.item")?;
            if item_size(&item) > ITEM_BYTES_MAX {
                return invalid("Item size has exceeded the maximum allowed size");
            }
            Ok(WriteKind::Put(item))
        }
        (None, Some(key)) => Ok(WriteKind::Delete(item(key, "deleteRequest.key")?)),
        // So it is told of none as well as of both.
        _ => invalid(
            "Supplied AttributeValue has more than one datatypes set, must contain exactly one of the supported datatypes",
        ),
    }
}

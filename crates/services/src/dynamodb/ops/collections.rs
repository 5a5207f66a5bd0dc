//! Item collections: the items of one partition of a table with local indexes, and what is told of their size.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json, json};

use super::super::error::Result;
use super::super::keys;
use super::super::table::Table;
use super::super::value::{Item, item_to_json};
use super::request::Request;
use super::{Place, Shared, tables};

const GIGABYTE: u64 = 1 << 30;

/// Whether the request asks for metrics of collections.
pub(super) fn are_wanted(request: &Request) -> Result<bool> {
    Ok(request.text("ReturnItemCollectionMetrics")? == Some("SIZE"))
}

/// Adds `ItemCollectionMetrics` of the collection of an item that was written, if the request asks for it.
pub(super) async fn add(
    shared: &Shared,
    place: &Place,
    request: &Request,
    name: &str,
    item: &Item,
    mut output: Json,
) -> Result<Json> {
    if are_wanted(request)?
        && let Some(found) = shared.find_table(place, name).await?
        && let Some(metrics) = of(shared, &found.table, item).await?
    {
        output["ItemCollectionMetrics"] = metrics;
    }
    Ok(output)
}

/// `ItemCollectionMetrics` of an item's collection; nothing if the table has no collections.
///
/// A collection's own size is not kept. Its bounds are told: it has no more than its table and local indexes have together.
async fn of(shared: &Shared, table: &Table, item: &Item) -> Result<Option<Json>> {
    let Some(value) = item.get(&table.hash.name).filter(|_| table.has_collections()) else {
        return Ok(None);
    };
    let generation = table.generation;
    let mut bytes = tables::count(shared, &keys::count(generation), &keys::size(generation)).await?.bytes;
    for index in table.indexes.iter().filter(|index| index.local) {
        bytes += tables::index_count(shared, table, index).await?.bytes;
    }
    let upper = bytes.max(1).unsigned_abs().div_ceil(GIGABYTE);
    Ok(Some(json!({
        "ItemCollectionKey": item_to_json(&Item::from([(table.hash.name.clone(), value.clone())])),
        "SizeEstimateRangeGB": [0, upper],
    })))
}

/// `ItemCollectionMetrics` of many items, by table: each collection once.
pub(super) async fn of_many<'a>(
    shared: &Shared,
    place: &Place,
    written: impl Iterator<Item = (&'a str, &'a Item)>,
) -> Result<Json> {
    let mut by_table: BTreeMap<&str, Vec<&Item>> = BTreeMap::new();
    for (table, item) in written {
        by_table.entry(table).or_default().push(item);
    }
    let mut output = Map::new();
    for (name, items) in by_table {
        let there = place.of_part(name, place.operation);
        let Some(found) = shared.find_table(&there, super::request::table_name(name, &there)?).await? else { continue };
        let mut all: Vec<Json> = Vec::new();
        for item in items {
            all.extend(of(shared, &found.table, item).await?.filter(|metrics| !all.contains(metrics)));
        }
        if !all.is_empty() {
            output.insert(name.into(), Json::Array(all));
        }
    }
    Ok(Json::Object(output))
}

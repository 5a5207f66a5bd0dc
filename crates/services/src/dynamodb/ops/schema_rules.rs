//! What members that describe keys, indexes, units and encryption must be on their own.
//!
//! Pure: each function adds what is wrong, in the words of constraints.

use serde_json::Value as Json;

use super::super::error::{Result, broken};
use super::request::{Request, broken_name, length_rule, lower_first};

/// Most attributes of the key of a table or a local index.
const KEYS_MAX: usize = 2;
/// Most attributes of the key of a global index. `schema` says which of these forms are not here.
const GLOBAL_KEYS_MAX: usize = 8;
/// Most bytes of the name of a key attribute.
const NAME_BYTES_MAX: usize = 255;
/// Most attributes that one index includes.
const INCLUDED_MAX: usize = 20;

/// The length of a list as a constraint sees it.
fn check_length(json: &Json, at: &str, max: usize, out: &mut Vec<String>) {
    let length = json.as_array().map_or(0, Vec::len);
    if length == 0 {
        out.push(broken(json, at, "Member must have length greater than or equal to 1"));
    } else if length > max {
        out.push(broken(json, at, &format!("Member must have length less than or equal to {max}")));
    }
}

fn check_choice(json: Option<&Json>, at: &str, choices: &[&str], out: &mut Vec<String>) {
    match json.filter(|json| !json.is_null()) {
        None => out.push(broken(&Json::Null, at, "Member must not be null")),
        Some(json) if json.as_str().is_none_or(|text| !choices.contains(&text)) => {
            let rule = format!("Member must satisfy enum value set: [{}]", choices.join(", "));
            out.push(broken(json, at, &rule));
        }
        Some(_) => {}
    }
}

fn check_there(json: &Json, member: &str, at: &str, out: &mut Vec<String>) -> bool {
    let there = json.get(member).is_some_and(|json| !json.is_null());
    if !there {
        let name = if at.is_empty() { lower_first(member) } else { format!("{at}.{}", lower_first(member)) };
        out.push(broken(&Json::Null, &name, "Member must not be null"));
    }
    there
}

/// The name of a key attribute, as a constraint sees it.
fn check_attribute_name(json: &Json, at: &str, out: &mut Vec<String>) {
    if check_there(json, "AttributeName", at, out) {
        let name = &json["AttributeName"];
        let rule = length_rule(name.as_str().map_or(1, str::len), 1, NAME_BYTES_MAX);
        out.extend(rule.map(|rule| broken(name, &format!("{at}.attributeName"), &rule)));
    }
}

fn check_key_schema(json: &Json, at: &str, max: usize, out: &mut Vec<String>) {
    check_length(json, at, max, out);
    for (number, element) in (1..).zip(json.as_array().into_iter().flatten()) {
        let at = format!("{at}.{number}.member");
        check_attribute_name(element, &at, out);
        check_choice(element.get("KeyType"), &format!("{at}.keyType"), &["HASH", "RANGE"], out);
    }
}

/// A name of a table's index, as a constraint sees it.
fn check_index_name(json: &Json, at: &str, out: &mut Vec<String>) {
    if !check_there(json, "IndexName", at, out) {
        return;
    }
    out.extend(broken_name(json["IndexName"].as_str().unwrap_or_default(), &format!("{at}.indexName")));
}

/// Throughput, as a constraint sees it.
fn check_units(json: &Json, at: &str, out: &mut Vec<String>) {
    check_units_in(json, at, ["ReadCapacityUnits", "WriteCapacityUnits"], out);
}

fn check_units_in(json: &Json, at: &str, members: [&str; 2], out: &mut Vec<String>) {
    for member in members {
        if check_there(json, member, at, out) && json[member].as_i64().is_some_and(|units| units < 1) {
            let at = format!("{at}.{}", lower_first(member));
            out.push(broken(&json[member], &at, "Member must have value greater than or equal to 1"));
        }
    }
}

/// Throughput of a whole table, as a constraint sees it.
fn check_table_units(request: &Request, member: &str, out: &mut Vec<String>) -> Result<()> {
    if request.map(member)?.is_some() {
        let units = request.get(member).unwrap_or(&Json::Null);
        check_units_in(units, &lower_first(member), ["WriteCapacityUnits", "ReadCapacityUnits"], out);
    }
    Ok(())
}

/// How a table is encrypted, as a constraint sees it.
fn check_encryption(request: &Request, member: &str, out: &mut Vec<String>) -> Result<()> {
    let kind = request.map(member)?.and_then(|map| map.get("SSEType")).filter(|kind| !kind.is_null());
    if kind.is_some() {
        check_choice(kind, &format!("{}.sSEType", lower_first(member)), &["AES256", "KMS"], out);
    }
    Ok(())
}

/// Lists of whole indexes, global ones and local ones, as a constraint sees them: in this order.
fn check_indexes(request: &Request, [globals, locals]: [&str; 2], out: &mut Vec<String>) -> Result<()> {
    for (member, keys_max) in [(globals, GLOBAL_KEYS_MAX), (locals, KEYS_MAX)] {
        for (number, index) in (1..).zip(request.list(member)?.into_iter().flatten()) {
            check_index(index, &format!("{}.{number}.member", lower_first(member)), keys_max, out);
        }
    }
    Ok(())
}

/// An index, as a constraint sees it.
fn check_index(json: &Json, at: &str, keys_max: usize, out: &mut Vec<String>) {
    check_index_name(json, at, out);
    if check_there(json, "KeySchema", at, out) {
        check_key_schema(&json["KeySchema"], &format!("{at}.keySchema"), keys_max, out);
    }
    if check_there(json, "Projection", at, out) {
        let projection = &json["Projection"];
        let at = format!("{at}.projection");
        if projection.get("ProjectionType").is_some_and(|kind| !kind.is_null()) {
            let kinds = ["ALL", "INCLUDE", "KEYS_ONLY"];
            check_choice(projection.get("ProjectionType"), &format!("{at}.projectionType"), &kinds, out);
        }
        if let Some(names) = projection.get("NonKeyAttributes").filter(|names| !names.is_null()) {
            check_length(names, &format!("{at}.nonKeyAttributes"), INCLUDED_MAX, out);
        }
    }
    if let Some(units) = json.get("ProvisionedThroughput").filter(|units| !units.is_null()) {
        check_units(units, &format!("{at}.provisionedThroughput"), out);
    }
}

/// Attribute definitions, as a constraint sees them.
fn check_definitions(list: &[Json], out: &mut Vec<String>) {
    for (number, definition) in (1..).zip(list) {
        let at = format!("attributeDefinitions.{number}.member");
        check_attribute_name(definition, &at, out);
        check_choice(definition.get("AttributeType"), &format!("{at}.attributeType"), &["B", "N", "S"], out);
    }
}

/// What is wrong with the members of CreateTable that speak of keys, indexes, units and encryption.
pub(super) fn of_creation(request: &Request) -> Result<Vec<String>> {
    let mut out = Vec::new();
    check_definitions(request.list("AttributeDefinitions")?.map_or(&[], Vec::as_slice), &mut out);
    check_table_units(request, "ProvisionedThroughput", &mut out)?;
    if let Some(schema) = request.get("KeySchema") {
        check_key_schema(schema, "keySchema", KEYS_MAX, &mut out);
    }
    check_indexes(request, ["GlobalSecondaryIndexes", "LocalSecondaryIndexes"], &mut out)?;
    check_encryption(request, "SSESpecification", &mut out)?;
    Ok(out)
}

/// What is wrong with the members of a restore that say how the new table differs from its source.
pub(super) fn of_restore(request: &Request) -> Result<Vec<String>> {
    let mut out = Vec::new();
    check_table_units(request, "ProvisionedThroughputOverride", &mut out)?;
    check_indexes(request, ["GlobalSecondaryIndexOverride", "LocalSecondaryIndexOverride"], &mut out)?;
    check_encryption(request, "SSESpecificationOverride", &mut out)?;
    Ok(out)
}

/// What is wrong with the members of UpdateTable that speak of indexes and units.
pub(super) fn of_update(request: &Request) -> Result<Vec<String>> {
    let mut out = Vec::new();
    check_definitions(request.list("AttributeDefinitions")?.map_or(&[], Vec::as_slice), &mut out);
    check_table_units(request, "ProvisionedThroughput", &mut out)?;
    let list = request.list("GlobalSecondaryIndexUpdates")?;
    for (number, update) in (1..).zip(list.into_iter().flatten()) {
        let at = |action: &str| format!("globalSecondaryIndexUpdates.{number}.member.{action}");
        let action = |name: &str| update.get(name).filter(|action| !action.is_null());
        if let Some(create) = action("Create") {
            check_index(create, &at("create"), GLOBAL_KEYS_MAX, &mut out);
        }
        if let Some(update) = action("Update") {
            check_index_name(update, &at("update"), &mut out);
            let most = update.get("OnDemandThroughput").is_some_and(|most| !most.is_null());
            let units = update.get("ProvisionedThroughput").is_some_and(|units| !units.is_null());
            if units || (!most && check_there(update, "ProvisionedThroughput", &at("update"), &mut out)) {
                check_units(&update["ProvisionedThroughput"], &at("update.provisionedThroughput"), &mut out);
            }
        }
        if let Some(delete) = action("Delete") {
            check_index_name(delete, &at("delete"), &mut out);
        }
    }
    Ok(out)
}

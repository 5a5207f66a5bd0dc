//! What CreateTable asks for: key schema, attribute definitions and indexes, read and compared with each other.
//!
//! Pure: JSON in, keys and indexes out, refusals in DynamoDB's order. What members must be on their own comes before, in
//! `schema_rules`; how a live table's indexes change is in `index_updates`.

use serde_json::Value as Json;

use super::super::error::{Error, Result, invalid};
use super::super::index::{Index, Projection, State};
use super::super::table::KeyAttribute;
use super::super::throughput::{self, OnDemand, UnitsChanged};
use super::request::{Request, missing, wrong_type};

const PARAMETERS: &str = "One or more parameter values were invalid: ";
/// Most bytes of the name of a key attribute or a projected one.
const NAME_BYTES_MAX: usize = 255;
/// Most local indexes of a table.
const LOCAL_MAX: usize = 5;
/// Most global indexes of a table.
pub(super) const GLOBAL_MAX: usize = 20;
/// Most attributes that all indexes of a table include.
const INCLUDED_SUM_MAX: usize = 100;
/// Most capacity units of each kind.
const UNITS_MAX: i64 = 1_000_000_000_000;

/// Names and a word about each, in the order written: types of definitions, roles of key schemas.
pub(super) type Pairs = Vec<(String, String)>;

/// The keys of a table, and its indexes, which have no numbers yet.
pub(super) struct Schema {
    pub(super) hash: KeyAttribute,
    pub(super) range: Option<KeyAttribute>,
    pub(super) indexes: Vec<Index>,
}

fn texts(json: &Json, member: &str) -> Vec<String> {
    let list = json.get(member).and_then(Json::as_array);
    list.into_iter().flatten().filter_map(Json::as_str).map(Into::into).collect()
}

/// A member that is a text.
pub(super) fn text<'a>(json: &'a Json, member: &str) -> Option<&'a str> {
    json.get(member).and_then(Json::as_str)
}

/// A list of elements with a name and a word.
pub(super) fn pairs(json: &Json, name: &str, word: &str) -> Result<Pairs> {
    let list = json.as_array().ok_or_else(wrong_type)?;
    let pair = |json: &Json| {
        let part = |member: &str| text(json, member).map(str::to_owned).ok_or_else(|| missing(member));
        Ok((part(name)?, part(word)?))
    };
    list.iter().map(pair).collect()
}

fn names(pairs: &[(String, String)]) -> String {
    pairs.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ")
}

/// The keys of a global index.
pub(super) fn keys_of_global(schema: &Pairs, definitions: &Pairs) -> Result<(KeyAttribute, Option<KeyAttribute>)> {
    let two_hashes = matches!(&schema[..], [(a, first), (b, second)] if first == "HASH" && second == "HASH" && a != b);
    if schema.len() > 2 || two_hashes {
        let what = "keys of several attributes each in the KeySchema of a global secondary index";
        return Err(Error::NotImplemented(what.into()));
    }
    keys_of(schema, definitions)
}

/// Checks a key schema against the definitions and finds the types of its attributes.
pub(super) fn keys_of(schema: &Pairs, definitions: &Pairs) -> Result<(KeyAttribute, Option<KeyAttribute>)> {
    if schema.iter().any(|(name, _)| !definitions.iter().any(|(defined, _)| defined == name)) {
        return invalid(format!(
            "{PARAMETERS}Some index key attributes are not defined in AttributeDefinitions. Keys: [{}], \
             AttributeDefinitions: [{}]",
            names(schema),
            names(definitions)
        ));
    }
    if schema.len() == 2 && schema[0].0 == schema[1].0 {
        return invalid("Both the Hash Key and the Range Key element in the KeySchema have the same name");
    }
    if schema.first().is_none_or(|(_, role)| role != "HASH") {
        return invalid("Invalid KeySchema: The first KeySchemaElement is not a HASH key type");
    }
    if schema.get(1).is_some_and(|(_, role)| role != "RANGE") {
        return invalid("Invalid KeySchema: The second KeySchemaElement is not a RANGE key type");
    }
    let attribute = |name: &str| -> Result<KeyAttribute> {
        let (_, kind) = definitions.iter().find(|(defined, _)| defined == name).ok_or_else(|| missing(name))?;
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            return invalid(format!("{PARAMETERS}Key attribute names must have 1 to {NAME_BYTES_MAX} bytes: {name}"));
        }
        Ok(KeyAttribute { name: name.into(), kind: kind.clone() })
    };
    let range = schema.get(1).map(|(name, _)| attribute(name)).transpose()?;
    Ok((attribute(&schema[0].0)?, range))
}

/// The keys and indexes that CreateTable asks for.
pub(super) fn read(request: &Request, pays_per_request: bool) -> Result<Schema> {
    let member = |name: &str| request.get(name).ok_or_else(|| missing(name));
    let definitions = pairs(member("AttributeDefinitions")?, "AttributeName", "AttributeType")?;
    check_distinct(&definitions)?;
    let schema = pairs(member("KeySchema")?, "AttributeName", "KeyType")?;
    if schema.len() > definitions.len() {
        return invalid("Invalid KeySchema: Some index key attribute have no definition");
    }
    let (hash, range) = keys_of(&schema, &definitions)?;
    let (locals, globals) = (request.list("LocalSecondaryIndexes")?, request.list("GlobalSecondaryIndexes")?);
    if locals.is_none() && globals.is_none() && schema.len() != definitions.len() {
        return invalid(format!(
            "{PARAMETERS}Number of attributes in KeySchema does not exactly match number of attributes defined in \
             AttributeDefinitions"
        ));
    }
    let mut indexes = Vec::new();
    if let Some(locals) = locals {
        read_locals(locals, &hash, range.is_some(), &definitions, &mut indexes)?;
    }
    if let Some(globals) = globals {
        read_globals(globals, &definitions, pays_per_request, &mut indexes)?;
    }
    check_included(&indexes)?;
    let schema = Schema { hash, range, indexes };
    check_all_used(&schema, &definitions)?;
    Ok(schema)
}

fn read_locals(
    list: &[Json],
    hash: &KeyAttribute,
    has_range: bool,
    definitions: &Pairs,
    out: &mut Vec<Index>,
) -> Result<()> {
    if list.is_empty() {
        return invalid(format!("{PARAMETERS}List of LocalSecondaryIndexes is empty"));
    }
    if !has_range {
        return invalid(format!(
            "{PARAMETERS}Table KeySchema does not have a range key, which is required when specifying a \
             LocalSecondaryIndex"
        ));
    }
    for json in list {
        only(json, "LocalSecondaryIndexes", &["IndexName", "KeySchema", "Projection"])?;
        let (own_hash, range) = keys_of(&key_schema(json)?, definitions)?;
        let name = text(json, "IndexName").unwrap_or_default();
        if range.is_none() {
            return invalid(format!("{PARAMETERS}Index KeySchema does not have a range key for index: {name}"));
        }
        if own_hash != *hash {
            return invalid(format!(
                "{PARAMETERS}Index KeySchema does not have the same leading hash key as table KeySchema for index: \
                 {name}. index hash key: {}, table hash key: {}",
                own_hash.name, hash.name
            ));
        }
        push(out, index(json, true, own_hash, range)?)?;
    }
    if list.len() > LOCAL_MAX {
        return invalid(format!("{PARAMETERS}Number of LocalSecondaryIndexes exceeds per-table limit of {LOCAL_MAX}"));
    }
    Ok(())
}

fn read_globals(list: &[Json], definitions: &Pairs, pays_per_request: bool, out: &mut Vec<Index>) -> Result<()> {
    if list.is_empty() {
        return invalid(format!("{PARAMETERS}List of GlobalSecondaryIndexes is empty"));
    }
    for json in list {
        let (hash, range) = keys_of_global(&key_schema(json)?, definitions)?;
        let mut index = global(json, "GlobalSecondaryIndexes", hash, range)?;
        let throughput = throughput(json)?;
        if pays_per_request && throughput.is_some() {
            return invalid(format!(
                "{PARAMETERS}ProvisionedThroughput should not be specified for index: {} when BillingMode is \
                 PAY_PER_REQUEST",
                index.name
            ));
        }
        if !pays_per_request && throughput.is_none() {
            return invalid(format!("{PARAMETERS}ProvisionedThroughput is not specified for index: {}", index.name));
        }
        index.throughput = throughput;
        index.on_demand = on_demand(json, pays_per_request)?;
        push(out, index)?;
    }
    if list.len() > GLOBAL_MAX {
        return invalid(format!("{PARAMETERS}GlobalSecondaryIndex count exceeds the per-table limit of {GLOBAL_MAX}"));
    }
    Ok(())
}

/// Adds an index whose name is not taken.
fn push(out: &mut Vec<Index>, index: Index) -> Result<()> {
    if out.iter().any(|other| other.name == index.name) {
        return invalid(format!("{PARAMETERS}Duplicate index name: {}", index.name));
    }
    out.push(index);
    Ok(())
}

/// The key schema of an index.
pub(super) fn key_schema(json: &Json) -> Result<Pairs> {
    pairs(json.get("KeySchema").ok_or_else(|| missing("KeySchema"))?, "AttributeName", "KeyType")
}

/// Refuses members of an index that nothing here honours.
pub(super) fn only(json: &Json, place: &str, known: &[&str]) -> Result<()> {
    let members = json.as_object().ok_or_else(wrong_type)?;
    match members.iter().find(|(name, member)| !member.is_null() && !known.contains(&name.as_str())) {
        Some((name, _)) => Err(Error::NotImplemented(format!("the member {name} of {place}"))),
        None => Ok(()),
    }
}

/// Refuses encryption with keys of a caller's choice; what is asked for without being enabled, too.
pub(super) fn refuse_encryption(request: &Request, member: &str) -> Result<()> {
    let Some(asked) = request.map(member)? else { return Ok(()) };
    let enabled = asked.get("Enabled").filter(|flag| !flag.is_null());
    let enabled = enabled.map_or(Ok(false), |flag| flag.as_bool().ok_or_else(wrong_type))?;
    let more =
        ["SSEType", "KMSMasterKeyId"].iter().any(|name| asked.get(*name).is_some_and(|member| !member.is_null()));
    if enabled || more {
        return Err(Error::NotImplemented(format!("{member} with keys of one's own")));
    }
    Ok(())
}

/// A global index, without its throughput.
pub(super) fn global(json: &Json, place: &str, hash: KeyAttribute, range: Option<KeyAttribute>) -> Result<Index> {
    only(json, place, &["IndexName", "KeySchema", "Projection", "ProvisionedThroughput", "OnDemandThroughput"])?;
    index(json, false, hash, range)
}

fn index(json: &Json, local: bool, hash: KeyAttribute, range: Option<KeyAttribute>) -> Result<Index> {
    let projection = projection(json.get("Projection").unwrap_or(&Json::Null))?;
    let name = text(json, "IndexName").ok_or_else(|| missing("IndexName"))?.into();
    Ok(Index {
        name,
        number: 0,
        local,
        hash,
        range,
        projection,
        state: State::Active,
        throughput: None,
        on_demand: OnDemand::default(),
        units_changed: UnitsChanged::default(),
    })
}

/// A projection.
pub(super) fn projection(json: &Json) -> Result<Projection> {
    let names = json.get("NonKeyAttributes").filter(|names| !names.is_null()).map(|_| texts(json, "NonKeyAttributes"));
    match (text(json, "ProjectionType"), names) {
        (Some("ALL"), None) => Ok(Projection::All),
        (Some("KEYS_ONLY"), None) => Ok(Projection::KeysOnly),
        (Some("INCLUDE"), Some(names)) => {
            let twice = names.iter().enumerate().find(|(at, name)| names[..*at].contains(name));
            if let Some((_, name)) = twice {
                return invalid(format!("{PARAMETERS}Duplicate element in NonKeyAttributes: {name}"));
            }
            if let Some(name) = names.iter().find(|name| name.is_empty() || name.len() > NAME_BYTES_MAX) {
                return invalid(format!(
                    "{PARAMETERS}Projected attribute names must have 1 to {NAME_BYTES_MAX} bytes: {name}"
                ));
            }
            Ok(Projection::Include(names))
        }
        (Some("INCLUDE"), None) => {
            invalid(format!("{PARAMETERS}ProjectionType is INCLUDE, but NonKeyAttributes is not specified"))
        }
        (Some(kind), _) => invalid(format!("{PARAMETERS}ProjectionType is {kind}, but NonKeyAttributes is specified")),
        (None, _) => invalid(format!("{PARAMETERS}Unknown ProjectionType: null")),
    }
}

/// Refuses more projected attributes than a table may have.
pub(super) fn check_included(indexes: &[Index]) -> Result<()> {
    let included = indexes.iter().map(|index| match &index.projection {
        Projection::Include(names) => names.len(),
        Projection::All | Projection::KeysOnly => 0,
    });
    if included.sum::<usize>() > INCLUDED_SUM_MAX {
        return invalid(format!(
            "{PARAMETERS}The number of NonKeyAttributes of all indexes exceeds the per-table limit of \
             {INCLUDED_SUM_MAX}"
        ));
    }
    Ok(())
}

fn check_all_used(schema: &Schema, definitions: &Pairs) -> Result<()> {
    let mut used: Vec<&str> = std::iter::once(&schema.hash).chain(&schema.range).map(|key| key.name.as_str()).collect();
    for key in schema.indexes.iter().flat_map(Index::key_attributes) {
        if !used.contains(&key.name.as_str()) {
            used.push(&key.name);
        }
    }
    if definitions.len() == used.len() {
        return Ok(());
    }
    invalid(format!(
        "{PARAMETERS}Some AttributeDefinitions are not used. AttributeDefinitions: [{}], keys used: [{}]",
        names(definitions),
        used.join(", ")
    ))
}

/// `ProvisionedThroughput` of an index, if it is there: read and write units.
pub(super) fn throughput(json: &Json) -> Result<Option<(u64, u64)>> {
    let Some(units) = json.get("ProvisionedThroughput").filter(|units| !units.is_null()) else {
        return Ok(None);
    };
    let unit = |member: &str| units.get(member).and_then(Json::as_i64).ok_or_else(|| missing(member));
    let (read, write) = (unit("ReadCapacityUnits")?, unit("WriteCapacityUnits")?);
    if read > UNITS_MAX || write > UNITS_MAX {
        return invalid(
            "This operation cannot be performed with given input values. Please contact DynamoDB service team for more \
             info: Action Blocked: IndexUpdate",
        );
    }
    let units = (read.unsigned_abs(), write.unsigned_abs());
    throughput::check_units(units)?;
    Ok(Some(units))
}

/// `OnDemandThroughput` of a new index.
pub(super) fn on_demand(json: &Json, pays_per_request: bool) -> Result<OnDemand> {
    match json.get("OnDemandThroughput").filter(|most| !most.is_null()) {
        None => Ok(OnDemand::default()),
        Some(_) if !pays_per_request => throughput::not_on_demand(),
        Some(most) => {
            let what = format!("index {}", text(json, "IndexName").unwrap_or_default());
            Ok(OnDemand::default().changed(OnDemand::read(most, &what)?))
        }
    }
}

/// Refuses an attribute that is defined twice.
fn check_distinct(definitions: &Pairs) -> Result<()> {
    let twice =
        definitions.iter().enumerate().find(|(at, (name, _))| definitions[..*at].iter().any(|(n, _)| n == name));
    match twice {
        Some((_, (name, _))) => invalid(format!("Attribute Name is duplicated: {name}")),
        None => Ok(()),
    }
}

/// The members of `AttributeDefinitions`, if they are there.
pub(super) fn definitions(request: &Request) -> Result<Pairs> {
    let json = request.get("AttributeDefinitions");
    let definitions = json.map_or(Ok(Pairs::new()), |json| pairs(json, "AttributeName", "AttributeType"))?;
    check_distinct(&definitions)?;
    Ok(definitions)
}

//! Changes of the global indexes of a live table: what UpdateTable asks for, read, checked and applied to its record.
//!
//! Pure. What follows from a change of the record, filling an index or emptying it, is `indexing`'s.
//!
//! Invariant: of a table one index at a time is filled or emptied; a filling may be broken off by a deletion.

use serde_json::Value as Json;

use super::super::error::{Error, Result, invalid};
use super::super::index::{Index, State, all_keys};
use super::super::table::Table;
use super::super::throughput::{self, OnDemand};
use super::request::missing;
use super::schema::{self, GLOBAL_MAX, Pairs, text, throughput};

const PARAMETERS: &str = "One or more parameter values were invalid: ";

/// One entry of `GlobalSecondaryIndexUpdates`.
pub(super) enum IndexUpdate<'a> {
    /// Its members.
    Create(&'a Json),
    /// Its name and what it is to let through.
    Update(&'a str, Wanted),
    /// Its name.
    Delete(&'a str),
}

/// What an index is to let through.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    units: Option<(u64, u64)>,
    most: Option<(Option<i64>, Option<i64>)>,
}

impl IndexUpdate<'_> {
    /// Whether it makes an index or takes one away.
    pub(super) fn is_online(&self) -> bool {
        !matches!(self, Self::Update(..))
    }

    /// The index that is meant.
    fn name(&self) -> &str {
        match self {
            Self::Create(json) => text(json, "IndexName").unwrap_or_default(),
            Self::Update(name, _) | Self::Delete(name) => name,
        }
    }
}

/// Reads `GlobalSecondaryIndexUpdates`.
pub(super) fn read(list: &[Json]) -> Result<Vec<IndexUpdate<'_>>> {
    let mut found: Vec<IndexUpdate<'_>> = Vec::with_capacity(list.len());
    for json in list {
        let action = |name: &str| json.get(name).filter(|action| !action.is_null());
        let name = |json| text(json, "IndexName").ok_or_else(|| missing("IndexName"));
        let update = match (action("Create"), action("Update"), action("Delete")) {
            (Some(json), None, None) => IndexUpdate::Create(json),
            (None, Some(json), None) => {
                let members = ["IndexName", "ProvisionedThroughput", "OnDemandThroughput"];
                schema::only(json, "GlobalSecondaryIndexUpdates", &members)?;
                let most = json.get("OnDemandThroughput").filter(|most| !most.is_null());
                let what = format!("index {}", name(json)?);
                let most = most.map(|most| OnDemand::read(most, &what)).transpose()?;
                let wanted = Wanted { units: throughput(json)?, most };
                if wanted.units.is_none() && wanted.most.is_none() {
                    return Err(missing("ProvisionedThroughput"));
                }
                IndexUpdate::Update(name(json)?, wanted)
            }
            (None, None, Some(json)) => IndexUpdate::Delete(name(json)?),
            (None, None, None) => {
                return invalid(format!(
                    "{PARAMETERS}One of GlobalSecondaryIndexUpdate.Update, GlobalSecondaryIndexUpdate.Create, \
                     GlobalSecondaryIndexUpdate.Delete must not be null"
                ));
            }
            _ => {
                return invalid(format!(
                    "{PARAMETERS}Only one global secondary index action is allowed per GlobalSecondaryIndexUpdate object"
                ));
            }
        };
        if found.iter().any(|other| other.name() == update.name()) {
            return invalid(format!(
                "{PARAMETERS}Only one global secondary index update per index is allowed simultaneously. Index: {}",
                update.name()
            ));
        }
        found.push(update);
    }
    Ok(found)
}

fn busy<T>() -> Result<T> {
    Err(Error::LimitExceeded(
        "Subscriber limit exceeded: Only 1 online index can be created or deleted simultaneously per table".into(),
    ))
}

/// Changes the indexes of a table as the updates say. A new index gets `number`. Returns the number of the index that is to
/// be filled or emptied, if there is one.
pub(super) fn apply(
    table: &mut Table,
    updates: &[IndexUpdate<'_>],
    definitions: &Pairs,
    pays_per_request: bool,
    (number, now_ms): (u64, u64),
) -> Result<Option<u64>> {
    if updates.iter().filter(|update| update.is_online()).count() > 1 {
        return busy();
    }
    let mut work = None;
    for update in updates {
        match update {
            IndexUpdate::Create(json) => {
                let index = created(table, json, definitions, pays_per_request, number)?;
                if is_busy(table) {
                    return busy();
                }
                work = Some(number);
                table.indexes.push(index);
                schema::check_included(&table.indexes)?;
            }
            IndexUpdate::Update(name, wanted) => updated(table, name, *wanted, pays_per_request, now_ms)?,
            IndexUpdate::Delete(name) => {
                let at = position(table, name, "delete")?;
                let others = table.indexes.iter().enumerate().any(|(other, index)| {
                    index.state == State::Deleting || (other != at && index.state == State::Creating)
                });
                if others {
                    return busy();
                }
                work = Some(table.indexes[at].number);
                table.indexes[at].state = State::Deleting;
            }
        }
    }
    Ok(work)
}

fn is_busy(table: &Table) -> bool {
    table.indexes.iter().any(|index| index.state != State::Active)
}

/// Where a global index stands among the indexes.
fn position(table: &Table, name: &str, verb: &str) -> Result<usize> {
    match table.indexes.iter().position(|index| index.name == name) {
        Some(at) if table.indexes[at].local => {
            invalid(format!("Cannot {verb} an index that is not a GlobalSecondaryIndex: {name}"))
        }
        Some(at) => Ok(at),
        None => Err(Error::NotFound(format!("Requested resource not found: Index {name} for table {}", table.name))),
    }
}

fn created(table: &Table, json: &Json, definitions: &Pairs, pays_per_request: bool, number: u64) -> Result<Index> {
    let name = text(json, "IndexName").ok_or_else(|| missing("IndexName"))?;
    if table.indexes.iter().any(|index| index.name == name) {
        return invalid("Attempting to create an index which already exists");
    }
    let schema = schema::key_schema(json)?;
    if definitions.is_empty() {
        return invalid(format!("{PARAMETERS}AttributeDefinitions is not specified for index: {name}"));
    }
    if schema.iter().any(|(name, _)| !definitions.iter().any(|(defined, _)| defined == name)) {
        return invalid("Invalid KeySchema: Some index key attribute have no definition");
    }
    let (hash, range) = schema::keys_of_global(&schema, definitions)?;
    let known = all_keys(table);
    for key in std::iter::once(&hash).chain(&range) {
        if known.iter().any(|other| other.name == key.name && other.kind != key.kind) {
            return invalid(format!(
                "{PARAMETERS}Cannot redefine the type of the attribute {} that is a key already",
                key.name
            ));
        }
    }
    let throughput = throughput(json)?;
    if pays_per_request && throughput.is_some() {
        return invalid(format!(
            "{PARAMETERS}Neither ReadCapacityUnits nor WriteCapacityUnits can be specified for index: {name} when \
             BillingMode is PAY_PER_REQUEST"
        ));
    }
    if !pays_per_request && throughput.is_none() {
        return invalid(format!(
            "{PARAMETERS}Both ReadCapacityUnits and WriteCapacityUnits must be specified for index: {name}"
        ));
    }
    if table.indexes.iter().filter(|index| !index.local).count() >= GLOBAL_MAX {
        return Err(Error::LimitExceeded(format!(
            "GlobalSecondaryIndex count exceeds the per-table limit of {GLOBAL_MAX}"
        )));
    }
    let index = schema::global(json, "GlobalSecondaryIndexUpdates.Create", hash, range)?;
    let on_demand = schema::on_demand(json, pays_per_request)?;
    Ok(Index { number, state: State::Creating, throughput, on_demand, ..index })
}

fn updated(table: &mut Table, name: &str, wanted: Wanted, pays_per_request: bool, now_ms: u64) -> Result<()> {
    let at = position(table, name, "update")?;
    if pays_per_request && wanted.units.is_some() {
        return invalid(format!(
            "{PARAMETERS}Neither ReadCapacityUnits nor WriteCapacityUnits can be specified for index: {name} when \
             BillingMode is PAY_PER_REQUEST"
        ));
    }
    if !pays_per_request && wanted.most.is_some() {
        return throughput::not_on_demand();
    }
    let index = &mut table.indexes[at];
    if let Some(most) = wanted.most {
        index.on_demand = index.on_demand.changed(most);
    }
    if let Some(units) = wanted.units {
        if let Some(old) = index.throughput {
            throughput::check_changes(&format!("index {name}"), old, units)?;
            index.units_changed = index.units_changed.change(old, units, now_ms)?;
        }
        index.throughput = Some(units);
    }
    Ok(())
}

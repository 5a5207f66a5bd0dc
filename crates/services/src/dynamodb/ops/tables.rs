//! Operations on tables: CreateTable, DescribeTable, ListTables, UpdateTable, DeleteTable, and the fixed truths.
//!
//! Invariants
//!   1. A table is usable as soon as CreateTable answers; the answer says CREATING, as DynamoDB's does.
//!   2. Deleting marks the generation for the worker in the commit that removes the record.

use serde_json::{Value as Json, json};
use store::{Error as StoreError, Txn};

use super::super::error::{Error, Result, invalid};
use super::super::keys;
use super::super::table::{Billing, KeyAttribute, Table};
use super::request::{Request, Rule, missing, wrong_type};
use super::{ATTEMPTS_MAX, Found, Place, Shared, tags};

const PARAMETERS: &str = "One or more parameter values were invalid: ";
const BILLING_MODE: Rule<'static> = Rule::OneOf("BillingMode", &["PROVISIONED", "PAY_PER_REQUEST"]);
const TABLE_CLASS: Rule<'static> = Rule::OneOf("TableClass", &["STANDARD", "STANDARD_INFREQUENT_ACCESS"]);
/// Most capacity units of each kind.
const UNITS_MAX: i64 = 1_000_000_000_000;

/// `CreateTable`
pub(super) async fn create(shared: &Shared, place: &Place, request: &Request) -> Result<Json> {
    const MEMBERS: &[&str] = &[
        "TableName",
        "AttributeDefinitions",
        "KeySchema",
        "BillingMode",
        "ProvisionedThroughput",
        "TableClass",
        "DeletionProtectionEnabled",
        "Tags",
        "StreamSpecification",
        "SSESpecification",
        "LocalSecondaryIndexes",
        "GlobalSecondaryIndexes",
    ];
    request.only("CreateTable", MEMBERS)?;
    request.check(&[
        Rule::Required("TableName"),
        Rule::Required("AttributeDefinitions"),
        Rule::Required("KeySchema"),
        BILLING_MODE,
        TABLE_CLASS,
    ])?;
    let name = request.table_name(place)?;
    let now_ms = shared.clock.now_ms();
    let billing = billing(request, now_ms)?;
    let (hash, range) = key_schema(request)?;
    refuse_unsupported(request)?;
    let table = Table {
        name: name.into(),
        account: place.account.clone(),
        region: place.region.clone(),
        id: shared.random.uuid(),
        generation: shared.random.next_u64(),
        created_at_ms: now_ms,
        hash,
        range,
        billing,
        deletion_protection: request.flag("DeletionProtectionEnabled")?.unwrap_or(false),
        class: class(request)?,
        tags: tags::read(request)?.unwrap_or_default(),
    };
    let key = keys::table(&place.account, &place.region, name);
    let exists = || Error::InUse(format!("Table already exists: {name}"));
    if shared.store.get(&key).await?.is_some() {
        return Err(exists());
    }
    let record = encode(&table)?;
    // The counters start here, so that a second table with the same generation cannot come to be.
    let zero = 0i64.to_le_bytes().to_vec();
    let txn = Txn::new()
        .expect_absent(key.clone())
        .expect_absent(keys::count(table.generation))
        .put(key, record)
        .put(keys::count(table.generation), zero.clone())
        .put(keys::size(table.generation), zero);
    match shared.store.commit(txn).await {
        Ok(_) => Ok(json!({ "TableDescription": table.describe("CREATING", 0, 0) })),
        Err(StoreError::Conflict) => Err(exists()),
        Err(error) => Err(error.into()),
    }
}

fn encode(table: &Table) -> Result<Vec<u8>> {
    serde_json::to_vec(table).map_err(|_| Error::Corrupt("table record"))
}

fn units_without_mode() -> Error {
    Error::validation(format!(
        "{PARAMETERS}Neither ReadCapacityUnits nor WriteCapacityUnits can be specified when BillingMode is PAY_PER_REQUEST"
    ))
}

/// The billing mode with its throughput, checked against each other.
fn billing(request: &Request, now_ms: u64) -> Result<Billing> {
    let mode = request.text("BillingMode")?;
    let throughput = request.map("ProvisionedThroughput")?;
    if mode == Some("PAY_PER_REQUEST") {
        if throughput.is_some() {
            return Err(units_without_mode());
        }
        return Ok(Billing::PayPerRequest { since_ms: now_ms });
    }
    let units = |name: &str| throughput.and_then(|throughput| throughput.get(name)).and_then(Json::as_i64);
    let (Some(read), Some(write)) = (units("ReadCapacityUnits"), units("WriteCapacityUnits")) else {
        return invalid(format!(
            "{PARAMETERS}ReadCapacityUnits and WriteCapacityUnits must both be specified when BillingMode is \
             PROVISIONED"
        ));
    };
    for (name, units) in [("ReadCapacityUnits", read), ("WriteCapacityUnits", write)] {
        if units > UNITS_MAX {
            return invalid(format!("Given value {units} for {name} is out of bounds"));
        }
        if units < 1 {
            let member = format!("provisionedThroughput.{}{}", name[..1].to_lowercase(), &name[1..]);
            let rule = "Member must have value greater than or equal to 1";
            return Err(super::super::error::constraint(&json!(units), &member, rule));
        }
    }
    Ok(Billing::Provisioned { read: read.unsigned_abs(), write: write.unsigned_abs() })
}

fn pair<'a>(json: &'a Json, a: &str, b: &str) -> Result<(&'a str, &'a str)> {
    let text = |name: &str| json.get(name).and_then(Json::as_str).ok_or_else(|| missing(name));
    Ok((text(a)?, text(b)?))
}

/// The hash and range attributes with their types.
fn key_schema(request: &Request) -> Result<(KeyAttribute, Option<KeyAttribute>)> {
    let read = |name: &str, a: &str, b: &str| -> Result<Vec<(String, String)>> {
        let list = request.list(name)?.ok_or_else(|| missing(name))?;
        list.iter().map(|json| pair(json, a, b).map(|(a, b)| (a.into(), b.into()))).collect()
    };
    let definitions = read("AttributeDefinitions", "AttributeName", "AttributeType")?;
    let schema = read("KeySchema", "AttributeName", "KeyType")?;
    let names = |pairs: &[(String, String)]| pairs.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
    if schema.is_empty() || schema.len() > 2 {
        let bound = if schema.is_empty() { "greater than or equal to 1" } else { "less than or equal to 2" };
        let rule = format!("Member must have length {bound}");
        return Err(super::super::error::constraint(
            request.get("KeySchema").unwrap_or(&Json::Null),
            "keySchema",
            &rule,
        ));
    }
    if schema.len() > definitions.len() {
        return invalid("Invalid KeySchema: Some index key attribute have no definition");
    }
    if schema.iter().any(|(name, _)| !definitions.iter().any(|(defined, _)| defined == name)) {
        return invalid(format!(
            "{PARAMETERS}Some index key attributes are not defined in AttributeDefinitions. Keys: [{}], \
             AttributeDefinitions: [{}]",
            names(&schema),
            names(&definitions)
        ));
    }
    if schema.len() == 2 && schema[0].0 == schema[1].0 {
        return invalid("Both the Hash Key and the Range Key element in the KeySchema have the same name");
    }
    if schema[0].1 != "HASH" {
        return invalid("Invalid KeySchema: The first KeySchemaElement is not a HASH key type");
    }
    if schema.get(1).is_some_and(|(_, kind)| kind != "RANGE") {
        return invalid("Invalid KeySchema: The second KeySchemaElement is not a RANGE key type");
    }
    let indexes = request.get("LocalSecondaryIndexes").or(request.get("GlobalSecondaryIndexes"));
    if indexes.is_none() && schema.len() != definitions.len() {
        return invalid(format!(
            "{PARAMETERS}Number of attributes in KeySchema does not exactly match number of attributes defined in \
             AttributeDefinitions"
        ));
    }
    let attribute = |name: &str| -> Result<KeyAttribute> {
        let (_, kind) = definitions.iter().find(|(defined, _)| defined == name).ok_or_else(|| missing(name))?;
        if !matches!(kind.as_str(), "S" | "N" | "B") {
            let rule = "Member must satisfy enum value set: [B, N, S]";
            let member = "attributeDefinitions.1.member.attributeType";
            return Err(super::super::error::constraint(&json!(kind), member, rule));
        }
        if name.is_empty() || name.len() > 255 {
            return invalid(format!("{PARAMETERS}Key attribute names must have 1 to 255 bytes: {name}"));
        }
        Ok(KeyAttribute { name: name.into(), kind: kind.clone() })
    };
    let range = schema.get(1).map(|(name, _)| attribute(name)).transpose()?;
    Ok((attribute(&schema[0].0)?, range))
}

/// Members that are understood and cannot be done.
fn refuse_unsupported(request: &Request) -> Result<()> {
    for name in ["LocalSecondaryIndexes", "GlobalSecondaryIndexes"] {
        if request.list(name)?.is_some() {
            return Err(Error::NotImplemented(format!("{name} of CreateTable yet")));
        }
    }
    let on = |member: &str, flag: &str| -> Result<bool> {
        let value = request.map(member)?.and_then(|map| map.get(flag));
        value.map_or(Ok(false), |value| value.as_bool().ok_or_else(wrong_type))
    };
    if on("StreamSpecification", "StreamEnabled")? {
        return Err(Error::NotImplemented("StreamSpecification of CreateTable yet".into()));
    }
    if on("SSESpecification", "Enabled")? {
        return Err(Error::NotImplemented("SSESpecification of CreateTable".into()));
    }
    Ok(())
}

fn class(request: &Request) -> Result<Option<String>> {
    Ok(request.text("TableClass")?.map(Into::into))
}

/// The table of a control operation, whose refusal names it.
pub(super) async fn named(shared: &Shared, place: &Place, name: &str) -> Result<Found> {
    let missing = || Error::NotFound(format!("Requested resource not found: Table: {name} not found"));
    shared.find_table(place, name).await?.ok_or_else(missing)
}

async fn description(shared: &Shared, table: &Table, status: &str) -> Result<Json> {
    let items = counter(shared, &keys::count(table.generation)).await?;
    let bytes = counter(shared, &keys::size(table.generation)).await?;
    Ok(table.describe(status, items, bytes))
}

async fn counter(shared: &Shared, key: &[u8]) -> Result<i64> {
    match shared.store.get(key).await? {
        None => Ok(0),
        Some(entry) => {
            let bytes = <[u8; 8]>::try_from(&entry.value[..]).map_err(|_| Error::Corrupt("counter"))?;
            Ok(i64::from_le_bytes(bytes))
        }
    }
}

/// `DescribeTable`
pub(super) async fn describe(shared: &Shared, place: &Place, request: &Request) -> Result<Json> {
    request.only("DescribeTable", &["TableName"])?;
    let found = named(shared, place, request.table_name(place)?).await?;
    Ok(json!({ "Table": description(shared, &found.table, "ACTIVE").await? }))
}

/// `ListTables`
pub(super) async fn list(shared: &Shared, place: &Place, request: &Request) -> Result<Json> {
    request.only("ListTables", &["ExclusiveStartTableName", "Limit"])?;
    request.check(&[Rule::Within("Limit", 1, 100)])?;
    let limit = request.number("Limit")?.unwrap_or(100);
    let limit = usize::try_from(limit).unwrap_or(100);
    let mut range = keys::tables(&place.account, &place.region).rows(limit);
    if let Some(start) = request.text("ExclusiveStartTableName")? {
        range = range.beyond(keys::table(&place.account, &place.region, start));
    }
    let page = shared.store.range(&range).await?;
    let names = page.entries.iter().map(|entry| Ok(shared.decoded(entry)?.name.clone()));
    let names = names.collect::<Result<Vec<_>>>()?;
    let mut output = json!({ "TableNames": names });
    if page.more {
        output["LastEvaluatedTableName"] = json!(names.last());
    }
    Ok(output)
}

/// Reads a table's record, changes it and writes it back; again if others came first.
pub(super) async fn change_record(
    shared: &Shared,
    place: &Place,
    name: &str,
    change: impl Fn(&mut Table) -> Result<()> + Send + Sync,
) -> Result<Table> {
    for _ in 0..ATTEMPTS_MAX {
        let found = named(shared, place, name).await?;
        let mut table = (*found.table).clone();
        change(&mut table)?;
        let txn = Txn::new().expect_version(found.key.clone(), found.version).put(found.key, encode(&table)?);
        match shared.store.commit(txn).await {
            Ok(_) => return Ok(table),
            Err(StoreError::Conflict | StoreError::TooOld) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Error::Contended)
}

/// `UpdateTable`
pub(super) async fn update(shared: &Shared, place: &Place, request: &Request) -> Result<Json> {
    const MEMBERS: &[&str] =
        &["TableName", "BillingMode", "ProvisionedThroughput", "TableClass", "DeletionProtectionEnabled"];
    request.only("UpdateTable", MEMBERS)?;
    request.check(&[Rule::Required("TableName"), BILLING_MODE, TABLE_CLASS])?;
    let name = request.table_name(place)?;
    let changes = ["BillingMode", "ProvisionedThroughput", "TableClass", "DeletionProtectionEnabled"];
    if changes.iter().all(|member| request.get(member).is_none()) {
        return invalid(
            "At least one of ProvisionedThroughput, BillingMode, UpdateStreamEnabled, GlobalSecondaryIndexUpdates or \
             SSESpecification or ReplicaUpdates is required",
        );
    }
    let pays = request.get("BillingMode").is_some() || request.get("ProvisionedThroughput").is_some();
    let billing = if pays { Some(billing(request, shared.clock.now_ms())?) } else { None };
    let (class, protection) = (class(request)?, request.flag("DeletionProtectionEnabled")?);
    let keeps_mode = request.get("BillingMode").is_none();
    let table = change_record(shared, place, name, |table| {
        if keeps_mode && billing.is_some() && matches!(table.billing, Billing::PayPerRequest { .. }) {
            return Err(units_without_mode());
        }
        if let Some(billing) = &billing {
            table.billing = billing.clone();
        }
        if let Some(class) = &class {
            table.class = Some(class.clone());
        }
        table.deletion_protection = protection.unwrap_or(table.deletion_protection);
        Ok(())
    })
    .await?;
    Ok(json!({ "TableDescription": description(shared, &table, "ACTIVE").await? }))
}

/// `DeleteTable`
pub(super) async fn delete(shared: &Shared, place: &Place, request: &Request) -> Result<Json> {
    request.only("DeleteTable", &["TableName"])?;
    let name = request.table_name(place)?;
    for _ in 0..ATTEMPTS_MAX {
        let found = named(shared, place, name).await?;
        if found.table.deletion_protection {
            return invalid(
                "Resource cannot be deleted as it is currently protected against deletion. Disable deletion \
                 protection first.",
            );
        }
        let description = description(shared, &found.table, "DELETING").await?;
        let txn = Txn::new()
            .expect_version(found.key.clone(), found.version)
            .delete(found.key)
            .put(keys::garbage(found.table.generation), Vec::new());
        match shared.store.commit(txn).await {
            Ok(_) => return Ok(json!({ "TableDescription": description })),
            Err(StoreError::Conflict | StoreError::TooOld) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Error::Contended)
}

/// `DescribeLimits`: capacity is described only, so the figures are DynamoDB's own defaults.
pub(super) fn limits() -> Json {
    json!({
        "AccountMaxReadCapacityUnits": 80_000,
        "AccountMaxWriteCapacityUnits": 80_000,
        "TableMaxReadCapacityUnits": 40_000,
        "TableMaxWriteCapacityUnits": 40_000,
    })
}

/// `DescribeEndpoints`: the endpoint that the client already speaks to.
pub(super) fn endpoints(endpoint: &str) -> Json {
    let address = endpoint.split_once("://").map_or(endpoint, |(_, address)| address);
    json!({ "Endpoints": [{ "Address": address, "CachePeriodInMinutes": 1_440 }] })
}

/// `DescribeTimeToLive`: no table has an expiry attribute yet.
pub(super) async fn time_to_live(shared: &Shared, place: &Place, request: &Request) -> Result<Json> {
    request.only("DescribeTimeToLive", &["TableName"])?;
    named(shared, place, request.table_name(place)?).await?;
    Ok(json!({ "TimeToLiveDescription": { "TimeToLiveStatus": "DISABLED" } }))
}

/// `DescribeContinuousBackups`: there are none yet.
pub(super) async fn continuous_backups(shared: &Shared, place: &Place, request: &Request) -> Result<Json> {
    request.only("DescribeContinuousBackups", &["TableName"])?;
    let name = request.table_name(place)?;
    if shared.find_table(place, name).await?.is_none() {
        return Err(Error::TableNotFound(format!("Table not found: {name}")));
    }
    Ok(json!({ "ContinuousBackupsDescription": {
        "ContinuousBackupsStatus": "DISABLED",
        "PointInTimeRecoveryDescription": { "PointInTimeRecoveryStatus": "DISABLED" },
    } }))
}

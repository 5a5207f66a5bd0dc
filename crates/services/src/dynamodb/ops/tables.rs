//! Operations on tables: CreateTable, DescribeTable, ListTables, UpdateTable, DeleteTable, and the fixed truths.
//!
//! Invariants
//!   1. A table is usable as soon as CreateTable answers; the answer says CREATING, as DynamoDB's does.
//!   2. Deleting marks the generation for the worker in the commit that removes the record.

use serde_json::{Value as Json, json};
use store::{Error as StoreError, Txn};

use super::super::error::{Error, Result, invalid};
use super::super::index::Index;
use super::super::indexing;
use super::super::keys;
use super::super::records;
use super::super::stream::View;
use super::super::table::{Billing, Count, Table};
use super::request::{Request, Rule, report, wrong_type};
use super::schema::{self, Schema};
use super::stream_updates::{self, SwitchedOn};
use super::{ATTEMPTS_MAX, Found, Place, Shared, index_updates, schema_rules, tags};

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
    let mut wrong = request.broken(&[
        Rule::Required("TableName"),
        Rule::Required("AttributeDefinitions"),
        Rule::Required("KeySchema"),
        BILLING_MODE,
        TABLE_CLASS,
    ])?;
    wrong.extend(schema_rules::of_creation(request)?);
    wrong.extend(stream_updates::broken_members(request)?);
    report(wrong)?;
    let mut table = asked_for(shared, place, request)?;
    if let Some(view) = stream_updates::of_creation(request)? {
        // Streams outlive their tables: one of this name may have had one a moment ago.
        let last = keys::streams(&place.account, &place.region, Some(&table.name)).reversed().rows(1);
        let last = shared.store.range(&last).await?.entries.first().map(records::description).transpose()?;
        table.stream = Some(switched_on(shared, view).await?.stream(last.as_ref().map(|last| &last.stream)));
    }
    let name = &table.name;
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
    let txn = match &table.stream {
        Some(stream) => stream_updates::described(txn, &table, stream, None)?,
        None => txn,
    };
    match shared.store.commit(txn).await {
        Ok(_) => {
            let none = vec![Count::default(); table.indexes.len()];
            let mut description = table.describe("CREATING", Count::default(), &none);
            for index in description["GlobalSecondaryIndexes"].as_array_mut().into_iter().flatten() {
                index["IndexStatus"] = json!("CREATING");
            }
            Ok(json!({ "TableDescription": description }))
        }
        Err(StoreError::Conflict) => Err(exists()),
        Err(error) => Err(error.into()),
    }
}

/// The table that CreateTable asks for.
fn asked_for(shared: &Shared, place: &Place, request: &Request) -> Result<Table> {
    let name = request.table_name(place)?;
    let now_ms = shared.clock.now_ms();
    let billing = billing(request, now_ms)?;
    let Schema { hash, range, mut indexes } = schema::read(request, matches!(billing, Billing::PayPerRequest { .. }))?;
    for index in &mut indexes {
        index.number = shared.random.next_u64();
    }
    refuse_unsupported(request)?;
    Ok(Table {
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
        ttl: None,
        class: class(request)?,
        tags: tags::read(request)?.unwrap_or_default(),
        indexes,
        stream: None,
    })
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

/// Members that are understood and cannot be done.
fn refuse_unsupported(request: &Request) -> Result<()> {
    let on = |member: &str, flag: &str| -> Result<bool> {
        let value = request.map(member)?.and_then(|map| map.get(flag));
        value.map_or(Ok(false), |value| value.as_bool().ok_or_else(wrong_type))
    };
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
    let generation = table.generation;
    let count = count(shared, &keys::count(generation), &keys::size(generation)).await?;
    let mut counts = Vec::with_capacity(table.indexes.len());
    for index in &table.indexes {
        counts.push(index_count(shared, table, index).await?);
    }
    Ok(table.describe(status, count, &counts))
}

/// What an index has.
pub(super) async fn index_count(shared: &Shared, table: &Table, index: &Index) -> Result<Count> {
    let (generation, number) = (table.generation, index.number);
    count(shared, &keys::index_count(generation, number), &keys::index_size(generation, number)).await
}

/// What a pair of counters says.
pub(super) async fn count(shared: &Shared, items: &[u8], bytes: &[u8]) -> Result<Count> {
    Ok(Count { items: counter(shared, items).await?, bytes: counter(shared, bytes).await? })
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
    change_record_and(shared, place, name, |table| change(table).map(|()| Txn::new())).await
}

/// The same, with more writes in the same commit.
async fn change_record_and(
    shared: &Shared,
    place: &Place,
    name: &str,
    change: impl Fn(&mut Table) -> Result<Txn> + Send + Sync,
) -> Result<Table> {
    for _ in 0..ATTEMPTS_MAX {
        let found = named(shared, place, name).await?;
        let mut table = (*found.table).clone();
        let txn = change(&mut table)?;
        let txn = found.put_record(txn, &table)?;
        match shared.store.commit(txn).await {
            Ok(_) => return Ok(table),
            Err(StoreError::Conflict | StoreError::TooOld) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Error::Contended)
}

/// The billing that UpdateTable asks for.
fn updated_billing(request: &Request, now_ms: u64) -> Result<Option<Billing>> {
    if request.text("BillingMode")? == Some("PROVISIONED") && request.get("ProvisionedThroughput").is_none() {
        return invalid(format!("{PARAMETERS}ProvisionedThroughput must be specified when BillingMode is PROVISIONED"));
    }
    let pays = request.get("BillingMode").is_some() || request.get("ProvisionedThroughput").is_some();
    if pays { billing(request, now_ms).map(Some) } else { Ok(None) }
}

/// Gives a table another billing; its global indexes follow.
fn change_billing(table: &mut Table, billing: &Billing, keeps_mode: bool) -> Result<()> {
    let paid_per_request = matches!(table.billing, Billing::PayPerRequest { .. });
    if keeps_mode && paid_per_request {
        return Err(units_without_mode());
    }
    table.billing = billing.clone();
    let globals = table.indexes.iter_mut().filter(|index| !index.local);
    match billing {
        Billing::PayPerRequest { .. } => globals.for_each(|index| index.throughput = None),
        Billing::Provisioned { .. } if paid_per_request => {
            let without: Vec<&str> = globals.filter(|i| i.throughput.is_none()).map(|i| i.name.as_str()).collect();
            if !without.is_empty() {
                return invalid(format!(
                    "{PARAMETERS}ProvisionedThroughput must be specified for index: {}",
                    without.join(",")
                ));
            }
        }
        Billing::Provisioned { .. } => {}
    }
    Ok(())
}

/// Members of UpdateTable of which one at least is needed.
const CHANGES: &[&str] = &[
    "BillingMode",
    "ProvisionedThroughput",
    "TableClass",
    "DeletionProtectionEnabled",
    "StreamSpecification",
    "GlobalSecondaryIndexUpdates",
];

/// What a stream needs that is switched on now.
async fn switched_on(shared: &Shared, view: View) -> Result<SwitchedOn> {
    let opened = shared.store.snapshot().await?.version();
    Ok(SwitchedOn { view, number: shared.random.next_u64(), opened, now_ms: shared.clock.now_ms() })
}

/// What cannot be changed in one call.
fn check_together(bills: bool, updates: &[index_updates::IndexUpdate<'_>], streams: bool) -> Result<()> {
    let online = updates.iter().any(index_updates::IndexUpdate::is_online);
    match (bills, online, streams) {
        (true, true, _) => invalid(format!("{PARAMETERS}You cannot create or delete index while updating table IOPS")),
        (true, _, true) => invalid(format!("{PARAMETERS}You cannot modify stream status while updating table IOPS")),
        (_, true, true) => {
            invalid(format!("{PARAMETERS}You cannot create or delete index while changing stream status"))
        }
        _ => Ok(()),
    }
}

/// `UpdateTable`
pub(super) async fn update(shared: &Shared, place: &Place, request: &Request) -> Result<Json> {
    request.only("UpdateTable", &[CHANGES, &["TableName", "AttributeDefinitions"]].concat())?;
    let mut wrong = request.broken(&[Rule::Required("TableName"), BILLING_MODE, TABLE_CLASS])?;
    wrong.extend(schema_rules::of_update(request)?);
    wrong.extend(stream_updates::broken_members(request)?);
    report(wrong)?;
    let name = request.table_name(place)?;
    let list = request.list("GlobalSecondaryIndexUpdates")?.map_or(&[][..], Vec::as_slice);
    if CHANGES.iter().all(|member| request.get(member).is_none())
        || (list.is_empty() && CHANGES[..5].iter().all(|member| request.get(member).is_none()))
    {
        return invalid(
            "At least one of ProvisionedThroughput, BillingMode, UpdateStreamEnabled, GlobalSecondaryIndexUpdates or \
             SSESpecification or ReplicaUpdates is required",
        );
    }
    let billing = updated_billing(request, shared.clock.now_ms())?;
    let updates = index_updates::read(list)?;
    let definitions = schema::definitions(request)?;
    let stream = stream_updates::of_update(request)?;
    check_together(billing.is_some(), &updates, stream.is_some())?;
    let switched_on = match stream {
        Some(Some(view)) => Some(switched_on(shared, view).await?),
        _ => None,
    };
    let (class, protection) = (class(request)?, request.flag("DeletionProtectionEnabled")?);
    let keeps_mode = request.get("BillingMode").is_none();
    let number = shared.random.next_u64();
    let table = change_record_and(shared, place, name, |table| {
        let pays = matches!(billing.as_ref().unwrap_or(&table.billing), Billing::PayPerRequest { .. });
        let work = index_updates::apply(table, &updates, &definitions, pays, number)?;
        if let Some(billing) = &billing {
            change_billing(table, billing, keeps_mode)?;
        }
        if let Some(class) = &class {
            table.class = Some(class.clone());
        }
        table.deletion_protection = protection.unwrap_or(table.deletion_protection);
        let txn = match (stream, &switched_on) {
            (Some(None), _) => stream_updates::disable(Txn::new(), table, shared.clock.now_ms())?,
            (_, Some(on)) => stream_updates::enable(Txn::new(), table, on)?,
            _ => Txn::new(),
        };
        match work {
            Some(number) => indexing::offered(txn, table, number),
            None => Ok(txn),
        }
    })
    .await?;
    let status = if updates.is_empty() && stream.is_none() { "ACTIVE" } else { "UPDATING" };
    Ok(json!({ "TableDescription": description(shared, &table, status).await? }))
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
        let mut table = (*found.table).clone();
        let txn = if table.stream.as_ref().is_some_and(|stream| stream.enabled) {
            stream_updates::disable(Txn::new(), &mut table, shared.clock.now_ms())?
        } else {
            Txn::new()
        };
        // Whoever removes the items finds their marks by it.
        let attribute = table.ttl.map(|ttl| ttl.attribute).unwrap_or_default();
        let txn = found
            .expect(txn)
            .delete(found.key.clone())
            .delete(keys::owner(table.generation))
            .delete(keys::pass(table.generation))
            .put(keys::garbage(table.generation), attribute);
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

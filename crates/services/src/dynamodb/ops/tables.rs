//! Operations on tables: CreateTable, DescribeTable, ListTables, UpdateTable, DeleteTable, and the fixed truths.
//!
//! Invariants
//!   1. A table is usable as soon as CreateTable answers; the answer says CREATING, as DynamoDB's does.
//!   2. Deleting marks the generation for the worker in the commit that removes the record.

use serde_json::{Value as Json, json};
use store::{Error as StoreError, Txn};

use super::super::backup::{Backup, Kind};
use super::super::error::{Error, Result, broken, invalid};
use super::super::index::Index;
use super::super::indexing;
use super::super::jobs;
use super::super::keys;
use super::super::policy::Policy;
use super::super::records;
use super::super::stream::View;
use super::super::table::{Billing, Count, Table};
use super::super::throughput::UnitsChanged;
use super::request::{Request, Rule, report};
use super::schema::{self, Schema};
use super::stream_updates::{self, SwitchedOn};
use super::{ATTEMPTS_MAX, Found, Place, Shared, backups, billing, index_updates, schema_rules, tags};

const PARAMETERS: &str = "One or more parameter values were invalid: ";
const BILLING_MODE: Rule<'static> = Rule::OneOf("BillingMode", &["PROVISIONED", "PAY_PER_REQUEST"]);
const TABLE_CLASS: Rule<'static> = Rule::OneOf("TableClass", &["STANDARD", "STANDARD_INFREQUENT_ACCESS"]);

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
        "OnDemandThroughput",
        "ResourcePolicy",
    ];
    request.only("CreateTable", MEMBERS)?;
    if request.get("TableName").is_none() {
        return invalid("The parameter 'TableName' is required but was not present in the request");
    }
    let mut wrong = request.broken(&[
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
    billing::check_account(shared, place, None, &table).await?;
    let record = encode(&table)?;
    // The counters start here, so that a second table with the same generation cannot come to be.
    let txn = backups::born(Txn::new().expect_absent(key.clone()).put(key, record), table.generation);
    let txn = match &table.stream {
        Some(stream) => stream_updates::described(txn, &table, stream, None)?,
        None => txn,
    };
    match shared.store.commit(txn).await {
        Ok(_) => Ok(json!({ "TableDescription": description(shared, &table, "CREATING").await? })),
        Err(StoreError::Conflict) => Err(exists()),
        Err(error) => Err(error.into()),
    }
}

/// The table that CreateTable asks for.
fn asked_for(shared: &Shared, place: &Place, request: &Request) -> Result<Table> {
    let name = request.table_name(place)?;
    let now_ms = shared.clock.now_ms();
    let billing = billing::read(request, "BillingMode", "ProvisionedThroughput", now_ms)?;
    let Schema { hash, range, mut indexes } = schema::read(request, matches!(billing, Billing::PayPerRequest { .. }))?;
    for index in &mut indexes {
        index.number = shared.random.next_u64();
    }
    schema::refuse_encryption(request, "SSESpecification")?;
    Ok(Table {
        name: name.into(),
        account: place.account.clone(),
        region: place.region.clone(),
        id: shared.random.uuid(),
        generation: shared.random.next_u64(),
        created_at_ms: now_ms,
        hash,
        range,
        deletion_protection: request.flag("DeletionProtectionEnabled")?.unwrap_or(false),
        ttl: None,
        class: class(request)?,
        tags: tags::read(request)?.unwrap_or_default(),
        on_demand: billing::on_demand(request, "OnDemandThroughput", &billing)?,
        paid_per_request_ms: None,
        units_changed: UnitsChanged::default(),
        billing,
        indexes,
        stream: None,
        history: None,
        recovery: None,
        holds: Vec::new(),
        restored: None,
        policy: policy(shared, request)?,
    })
}

/// The policy that CreateTable asks for.
fn policy(shared: &Shared, request: &Request) -> Result<Option<Policy>> {
    let text = request.text("ResourcePolicy")?;
    text.map(|text| Policy::read(text, shared.random.next_u64().to_string())).transpose()
}

fn encode(table: &Table) -> Result<Vec<u8>> {
    serde_json::to_vec(table).map_err(|_| Error::Corrupt("table record"))
}

fn class(request: &Request) -> Result<Option<String>> {
    Ok(request.text("TableClass")?.map(Into::into))
}

/// The table of a control operation, whose refusal names it.
pub(super) async fn named(shared: &Shared, place: &Place, name: &str) -> Result<Found> {
    let missing = || Error::NotFound(format!("Requested resource not found: Table: {name} not found"));
    let found = shared.find_table(place, name).await?.ok_or_else(|| place.missing(name, missing()))?;
    place.check(&found.table)?;
    Ok(found)
}

/// The same for an operation that changes the table, which must be ready.
pub(super) async fn ready(shared: &Shared, place: &Place, name: &str) -> Result<Found> {
    let found = named(shared, place, name).await?;
    if found.table.is_being_restored() {
        return in_use("created", name);
    }
    Ok(found)
}

fn in_use<T>(what: &str, name: &str) -> Result<T> {
    let words = format!("Attempt to change a resource which is still in use: Table is being {what}: {name}");
    Err(Error::InUse(words))
}

/// `TableDescription`
pub(super) async fn description(shared: &Shared, table: &Table, status: &str) -> Result<Json> {
    let status = if table.is_being_restored() { "CREATING" } else { status };
    let generation = table.generation;
    let count = count(shared, &keys::count(generation), &keys::size(generation)).await?;
    let mut counts = Vec::with_capacity(table.indexes.len());
    for index in &table.indexes {
        counts.push(index_count(shared, table, index).await?);
    }
    let mut description = table.describe(status, count, &counts, shared.clock.now_ms());
    if status == "CREATING" {
        let indexes = description.get_mut("GlobalSecondaryIndexes").and_then(Json::as_array_mut);
        for index in indexes.into_iter().flatten() {
            index["IndexStatus"] = json!("CREATING");
        }
    }
    Ok(description)
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

/// Refuses a name that no table can have.
fn check_start(name: &str) -> Result<()> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    let mut wrong = Vec::new();
    let mut note = |rule: &str| wrong.push(broken(&json!(name), "exclusiveStartTableName", rule));
    if !name.bytes().all(allowed) || name.is_empty() {
        note("Member must satisfy regular expression pattern: [a-zA-Z0-9_.-]+");
    }
    if name.len() < 3 {
        note("Member must have length greater than or equal to 3");
    }
    if name.len() > 255 {
        note("Member must have length less than or equal to 255");
    }
    report(wrong)
}

/// `ListTables`
pub(super) async fn list(shared: &Shared, place: &Place, request: &Request) -> Result<Json> {
    request.only("ListTables", &["ExclusiveStartTableName", "Limit"])?;
    request.check(&[Rule::Within("Limit", 1, 100)])?;
    let limit = request.number("Limit")?.unwrap_or(100);
    let limit = usize::try_from(limit).unwrap_or(100);
    let mut range = keys::tables(&place.account, &place.region).rows(limit);
    if let Some(start) = request.text("ExclusiveStartTableName")? {
        check_start(start)?;
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
        let found = ready(shared, place, name).await?;
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

/// Members of UpdateTable of which one at least is needed.
const CHANGES: &[&str] = &[
    "BillingMode",
    "ProvisionedThroughput",
    "TableClass",
    "DeletionProtectionEnabled",
    "StreamSpecification",
    "OnDemandThroughput",
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
        || (list.is_empty() && CHANGES[..6].iter().all(|member| request.get(member).is_none()))
    {
        return invalid(
            "At least one of ProvisionedThroughput, BillingMode, UpdateStreamEnabled, GlobalSecondaryIndexUpdates or \
             SSESpecification or ReplicaUpdates is required",
        );
    }
    let now_ms = shared.clock.now_ms();
    let asked = billing::asked_of_update(request, now_ms)?;
    let updates = index_updates::read(list)?;
    let definitions = schema::definitions(request)?;
    let stream = stream_updates::of_update(request)?;
    check_together(asked.bills(), &updates, stream.is_some())?;
    let switched_on = match stream {
        Some(Some(view)) => Some(switched_on(shared, view).await?),
        _ => None,
    };
    let (class, protection) = (class(request)?, request.flag("DeletionProtectionEnabled")?);
    let number = shared.random.next_u64();
    let mut after = (*ready(shared, place, name).await?.table).clone();
    let pays = asked.pays_per_request(&after);
    index_updates::apply(&mut after, &updates, &definitions, pays, (number, now_ms))?;
    asked.apply(&mut after, now_ms)?;
    billing::check_account(shared, place, Some(name), &after).await?;
    let table = change_record_and(shared, place, name, |table| {
        let pays = asked.pays_per_request(table);
        let work = index_updates::apply(table, &updates, &definitions, pays, (number, now_ms))?;
        asked.apply(table, now_ms)?;
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
    let status = if updates.is_empty() && stream.is_none() && !asked.bills() { "ACTIVE" } else { "UPDATING" };
    Ok(json!({ "TableDescription": description(shared, &table, status).await? }))
}

/// What is no longer told of a table that is being deleted.
const GONE: &[&str] =
    &["AttributeDefinitions", "KeySchema", "CreationDateTime", "LocalSecondaryIndexes", "GlobalSecondaryIndexes"];

/// `DeleteTable`
pub(super) async fn delete(shared: &Shared, place: &Place, request: &Request) -> Result<Json> {
    request.only("DeleteTable", &["TableName"])?;
    let name = request.table_name(place)?;
    for _ in 0..ATTEMPTS_MAX {
        let found = ready(shared, place, name).await?;
        if found.table.deletion_protection {
            return invalid(
                "Resource cannot be deleted as it is currently protected against deletion. Disable deletion \
                 protection first.",
            );
        }
        if let Some(hold) = found.table.holds.first() {
            return in_use(if hold.backs_up { "backed up" } else { "restored to another" }, name);
        }
        let mut description = description(shared, &found.table, "DELETING").await?;
        if let Some(members) = description.as_object_mut() {
            members.retain(|name, _| !GONE.contains(&name.as_str()));
        }
        match shared.store.commit(deletion(shared, &found)?).await {
            Ok(_) => return Ok(json!({ "TableDescription": description })),
            Err(StoreError::Conflict | StoreError::TooOld) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Error::Contended)
}

/// All that is written when a table is deleted.
fn deletion(shared: &Shared, found: &Found) -> Result<Txn> {
    let mut table = (*found.table).clone();
    let now_ms = shared.clock.now_ms();
    let mut txn = Txn::new();
    if table.stream.as_ref().is_some_and(|stream| stream.enabled) {
        txn = stream_updates::disable(txn, &mut table, now_ms)?;
    }
    let generation = table.generation;
    txn = found.expect(txn).delete(found.key.clone()).delete(keys::owner(generation)).delete(keys::pass(generation));
    if let Some(history) = &table.history {
        txn = jobs::forget_history(txn, history.number);
    }
    if table.recovery.is_none() {
        // Whoever removes the items finds their marks by it.
        let attribute = table.ttl.map(|ttl| ttl.attribute).unwrap_or_default();
        return Ok(txn.put(keys::garbage(generation), attribute));
    }
    // The items stay where they are, as those of a backup. Marks of items that expire go when their time comes.
    let backup = Backup {
        id: Backup::new_id(now_ms, shared.random.next_u64()),
        name: format!("{}$DeletedTableBackup", table.name),
        kind: Kind::System,
        created_at_ms: now_ms,
        table: (*found.table).clone(),
        generation,
        available: true,
        readers: Vec::new(),
    };
    let key = keys::backup(&table.account, &table.region, &table.name, &backup.id);
    jobs::put_backup(txn.put(keys::garbage_entries(generation), Vec::new()), key, None, &backup)
}

/// `DescribeEndpoints`: the endpoint that the client already speaks to.
pub(super) fn endpoints(endpoint: &str) -> Json {
    let address = endpoint.split_once("://").map_or(endpoint, |(_, address)| address);
    json!({ "Endpoints": [{ "Address": address, "CachePeriodInMinutes": 1_440 }] })
}

//! RestoreTableFromBackup and RestoreTableToPointInTime: a new table of what a backup has, or of what a table was.
//!
//! Invariants
//!   1. The new table is there at once and described as being created; its items are copied in the background (`jobs`),
//!      and until all are there nobody reads or writes it.
//!   2. Its settings are those of its source, as the request overrides them; tags, expiry, stream, policy, recovery and
//!      protection are not taken over, as in DynamoDB.

use serde_json::{Value as Json, json};
use store::{Error as StoreError, Txn};

use super::super::error::{Error, Result, invalid};
use super::super::history::{Cut, Hold};
use super::super::index::{Index, State};
use super::super::jobs::{self, Job, Source, Target};
use super::super::keys;
use super::super::table::{Billing, Restored, Table, seconds};
use super::super::throughput::{OnDemand, UnitsChanged};
use super::request::{Request, Rule, lower_first, missing, report, table_name, wrong_type};
use super::{ATTEMPTS_MAX, Place, Shared, backups, billing, schema, schema_rules, tables};

const PARAMETERS: &str = "One or more parameter values were invalid: ";
/// Members that both operations have.
const OVERRIDES: &[&str] = &[
    "TargetTableName",
    "BillingModeOverride",
    "GlobalSecondaryIndexOverride",
    "LocalSecondaryIndexOverride",
    "ProvisionedThroughputOverride",
    "OnDemandThroughputOverride",
    "SSESpecificationOverride",
];
const TARGET: Rule<'static> = Rule::Name("TargetTableName");
const MODE: Rule<'static> = Rule::OneOf("BillingModeOverride", &["PROVISIONED", "PAY_PER_REQUEST"]);

/// `RestoreTableFromBackup`
pub(super) async fn from_backup(shared: &Shared, place: &Place, request: &Request) -> Result<Json> {
    request.only("RestoreTableFromBackup", &[OVERRIDES, &["BackupArn"]].concat())?;
    check_members(
        request,
        &[Rule::Required("TargetTableName"), Rule::Required("BackupArn"), TARGET, backups::ARN, MODE],
    )?;
    let name = target_name(request, place)?;
    for _ in 0..ATTEMPTS_MAX {
        let backups::Read { key, entry, backup } = backups::named(shared, place, request).await?;
        if !backup.available {
            let words = format!("Backup is being created: {}", backup.arn());
            return Err(Error::Refused("BackupInUseException", words));
        }
        let number = shared.random.next_u64();
        let restored = Restored {
            backup: Some(backup.arn()),
            table: backup.table.arn(),
            at_ms: backup.created_at_ms,
            in_progress: true,
        };
        let table = restored_table(shared, request, name, &backup.table, restored)?;
        let source = Source::Backup(backup.table.name.clone(), backup.id.clone());
        let generations = (backup.generation, table.generation);
        let job = Job::new(place.of_job(), source, Target::Table(table.name.clone()), generations);
        let mut read = backup;
        read.readers.push(number);
        let txn = jobs::put_backup(Txn::new(), key, Some(&entry), &read)?;
        if let Some(answer) = begin(shared, place, txn, &table, &job, number).await? {
            return Ok(answer);
        }
    }
    Err(Error::Contended)
}

/// `RestoreTableToPointInTime`
pub(super) async fn to_point_in_time(shared: &Shared, place: &Place, request: &Request) -> Result<Json> {
    let own = ["SourceTableArn", "SourceTableName", "UseLatestRestorableTime", "RestoreDateTime"];
    request.only("RestoreTableToPointInTime", &[OVERRIDES, &own].concat())?;
    check_members(request, &[Rule::Required("TargetTableName"), TARGET, MODE])?;
    let name = target_name(request, place)?;
    let text = match (request.text("SourceTableArn")?, request.text("SourceTableName")?) {
        (Some(text), None) | (None, Some(text)) => text,
        (Some(_), Some(_)) => return invalid("Only one of SourceTableArn and SourceTableName can be specified"),
        (None, None) => return invalid("One of SourceTableArn and SourceTableName must be specified"),
    };
    let (latest, at_ms) =
        (request.flag("UseLatestRestorableTime")?.unwrap_or(false), backups::time(request, "RestoreDateTime")?);
    if latest == at_ms.is_some() {
        return invalid("Exactly one of UseLatestRestorableTime and RestoreDateTime must be specified");
    }
    for _ in 0..ATTEMPTS_MAX {
        let found = backups::table_of(shared, place, text).await?;
        let now_ms = shared.clock.now_ms();
        let (Some(recovery), Some(history)) = (&found.table.recovery, &found.table.history) else {
            let words = format!("Point in time recovery is not enabled for table '{}'", found.table.name);
            return Err(Error::Refused("PointInTimeRecoveryUnavailableException", words));
        };
        let (earliest_ms, latest_ms) = (recovery.earliest_ms(now_ms), recovery.latest_ms(now_ms));
        let at_ms = at_ms.unwrap_or(latest_ms);
        let Some(at_ms) = recovery.restorable_ms(at_ms, now_ms) else {
            let words = format!(
                "The restore time {} is not between the earliest and the latest restorable time, {} and {}",
                seconds(at_ms),
                seconds(earliest_ms),
                seconds(latest_ms)
            );
            return Err(Error::Refused("InvalidRestoreTimeException", words));
        };
        let number = shared.random.next_u64();
        let restored = Restored { backup: None, table: found.table.arn(), at_ms, in_progress: true };
        let table = restored_table(shared, request, name, &found.table, restored)?;
        let generations = (found.table.generation, table.generation);
        let source = Source::Table(found.table.name.clone());
        let mut job = Job::new(place.of_job(), source, Target::Table(table.name.clone()), generations);
        job.undo = Some((history.number, Cut::AfterMs(at_ms)));
        let mut held = (*found.table).clone();
        held.holds.push(Hold { job: number, from_ms: at_ms, backs_up: false });
        let txn = found.put_record(Txn::new(), &held)?;
        if let Some(answer) = begin(shared, place, txn, &table, &job, number).await? {
            return Ok(answer);
        }
    }
    Err(Error::Contended)
}

/// Refuses members that are wrong on their own, those within overrides too.
fn check_members(request: &Request, rules: &[Rule<'_>]) -> Result<()> {
    let mut wrong = request.broken(rules)?;
    wrong.extend(schema_rules::of_restore(request)?);
    report(wrong)
}

fn target_name<'a>(request: &'a Request, place: &Place) -> Result<&'a str> {
    let name = request.text("TargetTableName")?.ok_or_else(|| missing("TargetTableName"))?;
    table_name(name, place)
}

/// Makes the table and the job that fills it; nothing if others came first.
async fn begin(
    shared: &Shared,
    place: &Place,
    txn: Txn,
    table: &Table,
    job: &Job,
    number: u64,
) -> Result<Option<Json>> {
    let key = keys::table(&table.account, &table.region, &table.name);
    if shared.store.get(&key).await?.is_some() {
        let words = format!("Table already exists: {}", table.name);
        return Err(Error::Refused("TableAlreadyExistsException", words));
    }
    billing::check_account(shared, place, None, table).await?;
    let record = serde_json::to_vec(table).map_err(|_| Error::Corrupt("table record"))?;
    let txn = backups::born(txn.expect_absent(key.clone()).put(key, record), table.generation);
    match shared.store.commit(job.offer(txn, number)?).await {
        Ok(_) => Ok(Some(json!({ "TableDescription": tables::description(shared, table, "CREATING").await? }))),
        Err(StoreError::Conflict | StoreError::TooOld) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The table that a request asks for of another.
fn restored_table(shared: &Shared, request: &Request, name: &str, of: &Table, restored: Restored) -> Result<Table> {
    schema::refuse_encryption(request, "SSESpecificationOverride")?;
    let now_ms = shared.clock.now_ms();
    let billing = overridden_billing(request, of, now_ms)?;
    let on_demand = match request.get("OnDemandThroughputOverride") {
        Some(_) => billing::on_demand(request, "OnDemandThroughputOverride", &billing)?,
        None if matches!(billing, Billing::PayPerRequest { .. }) => of.on_demand,
        None => OnDemand::default(),
    };
    let mut indexes = overridden_indexes(request, of, &billing)?;
    for index in &mut indexes {
        index.number = shared.random.next_u64();
    }
    Ok(Table {
        name: name.into(),
        id: shared.random.uuid(),
        generation: shared.random.next_u64(),
        created_at_ms: now_ms,
        billing,
        deletion_protection: false,
        ttl: None,
        tags: std::collections::BTreeMap::new(),
        indexes,
        stream: None,
        on_demand,
        paid_per_request_ms: None,
        units_changed: UnitsChanged::default(),
        history: None,
        recovery: None,
        holds: Vec::new(),
        restored: Some(restored),
        policy: None,
        ..of.clone()
    })
}

/// How the new table is paid for.
fn overridden_billing(request: &Request, of: &Table, now_ms: u64) -> Result<Billing> {
    let (mode, units) = ("BillingModeOverride", "ProvisionedThroughputOverride");
    let provisioned = matches!(of.billing, Billing::Provisioned { .. });
    let kept = match request.text(mode)? {
        None => true,
        Some(mode) => (mode == "PROVISIONED") == provisioned,
    };
    if kept && request.get(units).is_none() {
        return Ok(match of.billing {
            Billing::PayPerRequest { .. } => Billing::PayPerRequest { since_ms: now_ms },
            Billing::Provisioned { .. } => of.billing.clone(),
        });
    }
    if request.get(mode).is_none() && !provisioned {
        return invalid(format!(
            "{PARAMETERS}Neither ReadCapacityUnits nor WriteCapacityUnits can be specified when BillingMode is PAY_PER_REQUEST"
        ));
    }
    billing::read(request, mode, units, now_ms)
}

/// The indexes of the new table: those of the source, or those of them that the request names.
fn overridden_indexes(request: &Request, of: &Table, billing: &Billing) -> Result<Vec<Index>> {
    let pays_per_request = matches!(billing, Billing::PayPerRequest { .. });
    let mut indexes = Vec::new();
    for (member, local) in [("LocalSecondaryIndexOverride", true), ("GlobalSecondaryIndexOverride", false)] {
        let own = of.indexes.iter().filter(|index| index.local == local && index.state != State::Deleting);
        let Some(list) = request.list(member)? else {
            indexes.extend(own.cloned());
            continue;
        };
        let own: Vec<&Index> = own.collect();
        for json in list {
            indexes.push(overridden_index(json, member, &own, pays_per_request)?);
        }
    }
    for index in &mut indexes {
        index.state = State::Active;
        index.units_changed = UnitsChanged::default();
        if index.local {
            continue;
        }
        if pays_per_request {
            index.throughput = None;
        } else {
            index.on_demand = OnDemand::default();
            if index.throughput.is_none() {
                return invalid(format!(
                    "{PARAMETERS}ProvisionedThroughput must be specified for index: {}",
                    index.name
                ));
            }
        }
    }
    let twice =
        indexes.iter().enumerate().find(|(at, index)| indexes[..*at].iter().any(|other| other.name == index.name));
    match twice {
        Some((_, index)) => invalid(format!("{PARAMETERS}Duplicate index name: {}", index.name)),
        None => Ok(indexes),
    }
}

/// One of the source's indexes as the request names it again.
fn overridden_index(json: &Json, member: &str, own: &[&Index], pays_per_request: bool) -> Result<Index> {
    let members = ["IndexName", "KeySchema", "Projection", "ProvisionedThroughput", "OnDemandThroughput"];
    schema::only(json, member, &members)?;
    let name = schema::text(json, "IndexName").ok_or_else(|| missing("IndexName"))?;
    let differs =
        |what: &str| invalid(format!("{PARAMETERS}{} {name} {what} the source of the restore", lower_first(member)));
    let Some(index) = own.iter().find(|index| index.name == name) else {
        return differs("is not among the indexes of");
    };
    let keys = json.get("KeySchema").ok_or_else(|| missing("KeySchema"))?;
    let keys = schema::pairs(keys, "AttributeName", "KeyType")?;
    let roles = ["HASH", "RANGE"].into_iter();
    let same = index.key_attributes().zip(roles).map(|(key, role)| (key.name.clone(), role.to_owned()));
    if keys != same.collect::<Vec<_>>() {
        return differs("has another KeySchema than in");
    }
    let projection = json.get("Projection").ok_or_else(|| missing("Projection"))?;
    if !projection.is_object() {
        return Err(wrong_type());
    }
    if schema::projection(projection)? != index.projection {
        return differs("has another Projection than in");
    }
    let mut index = (*index).clone();
    if let Some(units) = schema::throughput(json)? {
        if pays_per_request {
            return invalid(format!(
                "{PARAMETERS}ProvisionedThroughput should not be specified for index: {name} when BillingMode is \
                 PAY_PER_REQUEST"
            ));
        }
        index.throughput = Some(units);
    }
    if json.get("OnDemandThroughput").is_some_and(|most| !most.is_null()) {
        index.on_demand = schema::on_demand(json, pays_per_request)?;
    }
    Ok(index)
}

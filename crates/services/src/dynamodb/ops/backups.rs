//! Backups and recovery to points in time: CreateBackup, DescribeBackup, ListBackups, DeleteBackup,
//! UpdateContinuousBackups, DescribeContinuousBackups. What makes tables of them is in `restore`.
//!
//! Invariants
//!   1. A backup has everything that was acknowledged before it was asked for, and is one state of its table.
//!   2. From the answer that says that recovery is on, every change can be undone; the time since when is taken after the
//!      commit that begins to record them.

use serde_json::{Value as Json, json};
use store::{Entry, Error as StoreError, Txn};

use super::super::backup::{Backup, Kind};
use super::super::error::{Error, Result, constraint, invalid};
use super::super::history::{self, Cut, DAYS_MAX, Hold, Recovery};
use super::super::jobs::{self, Job, Source, Target};
use super::super::keys;
use super::super::table::Count;
use super::request::{Request, Rule, missing, table_name, wrong_type};
use super::tables::count;
use super::{ATTEMPTS_MAX, Found, Place, Shared};

/// Until the commit that begins to record is over, nobody is told that recovery goes back further than this after it.
const NOT_YET_MS: u64 = 60_000;
/// How far the clocks of nodes may be apart.
const CLOCKS_MS: u64 = 10 * 60_000;
/// Most backups of one answer.
const LIST_MAX: usize = 100;
/// What the ARN of a backup must be on its own.
pub(super) const ARN: Rule<'static> = Rule::Length("BackupArn", 37, 1_024);
const TYPES: &[&str] = &["USER", "SYSTEM", "AWS_BACKUP", "ALL"];

/// The table of an operation on backups, whose refusal has words of its own.
pub(super) async fn table_of(shared: &Shared, place: &Place, text: &str) -> Result<Found> {
    let name = table_name(text, place).map_err(|error| match error {
        Error::NotFound(_) => Error::TableNotFound(format!("Table not found: {text}")),
        other => other,
    })?;
    let found = shared.find_table(place, name).await?;
    let found = found.ok_or_else(|| Error::TableNotFound(format!("Table not found: {name}")))?;
    place.check(&found.table)?;
    Ok(found)
}

fn in_use(name: &str) -> Error {
    Error::Refused("TableInUseException", format!("Table is being created: {name}"))
}

/// `CreateBackup`
pub(super) async fn create(shared: &Shared, place: &Place, request: &Request) -> Result<Json> {
    request.only("CreateBackup", &["TableName", "BackupName"])?;
    request.check(&[Rule::Required("TableName"), Rule::Required("BackupName"), Rule::Name("BackupName")])?;
    let name = request.text("BackupName")?.unwrap_or_default();
    let text = request.text("TableName")?.unwrap_or_default();
    for _ in 0..ATTEMPTS_MAX {
        let found = table_of(shared, place, text).await?;
        if found.table.is_being_restored() {
            return Err(in_use(&found.table.name));
        }
        // What was acknowledged before this call is in this state; what comes after it is undone.
        let cut = Cut::AfterCommit(shared.store.snapshot().await?.version());
        let (number, now_ms) = (shared.random.next_u64(), shared.clock.now_ms());
        let backup = Backup {
            id: Backup::new_id(now_ms, shared.random.next_u64()),
            name: name.into(),
            kind: Kind::User,
            created_at_ms: now_ms,
            table: (*found.table).clone(),
            generation: shared.random.next_u64(),
            available: false,
            readers: Vec::new(),
        };
        let mut table = (*found.table).clone();
        table.holds.push(Hold { job: number, from_ms: now_ms.saturating_sub(CLOCKS_MS), backs_up: true });
        let txn = jobs::begin_history(Txn::new(), &mut table, shared.random.next_u64());
        let target = Target::Backup(table.name.clone(), backup.id.clone());
        let generations = (table.generation, backup.generation);
        let mut job = Job::new(place.of_job(), Source::Table(table.name.clone()), target, generations);
        job.undo = table.history.as_ref().map(|history| (history.number, cut));
        let key = keys::backup(&place.account, &place.region, &table.name, &backup.id);
        let txn = jobs::put_backup(txn, key, None, &backup)?;
        // The counters start here, so that nobody else has the same generation.
        let txn = born(txn, backup.generation);
        let txn = found.put_record(job.offer(txn, number)?, &table)?;
        match shared.store.commit(txn).await {
            Ok(_) => return Ok(json!({ "BackupDetails": backup.details(Count::default(), "CREATING") })),
            Err(StoreError::Conflict | StoreError::TooOld) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Error::Contended)
}

/// Appends the counters of a new generation.
pub(super) fn born(txn: Txn, generation: u64) -> Txn {
    let zero = 0i64.to_le_bytes().to_vec();
    txn.expect_absent(keys::count(generation))
        .put(keys::count(generation), zero.clone())
        .put(keys::size(generation), zero)
}

/// A backup as it was read.
pub(super) struct Read {
    pub(super) key: bytes::Bytes,
    pub(super) entry: Entry,
    pub(super) backup: Backup,
}

/// Where the backup of an ARN lies, if it is one of the caller's.
fn key_of(place: &Place, arn: &str) -> Option<bytes::Bytes> {
    let own = format!("arn:aws:dynamodb:{}:{}:table/", place.region, place.account);
    let (table, id) = arn.strip_prefix(&own)?.split_once("/backup/")?;
    Some(keys::backup(&place.account, &place.region, table, id))
}

/// The backup that a request names.
pub(super) async fn named(shared: &Shared, place: &Place, request: &Request) -> Result<Read> {
    let arn = request.text("BackupArn")?.ok_or_else(|| missing("BackupArn"))?;
    if arn.len() < 37 {
        return Err(constraint(&json!(arn), "backupArn", "Member must have length greater than or equal to 37"));
    }
    let missing = || Error::Refused("BackupNotFoundException", format!("Backup not found: {arn}"));
    let key = key_of(place, arn).ok_or_else(missing)?;
    let entry = shared.store.get(&key).await?.ok_or_else(missing)?;
    let backup = jobs::backup(&entry)?;
    Ok(Read { key, entry, backup })
}

/// How much a backup has.
async fn count_of(shared: &Shared, backup: &Backup) -> Result<Count> {
    count(shared, &keys::count(backup.generation), &keys::size(backup.generation)).await
}

/// `DescribeBackup`
pub(super) async fn describe(shared: &Shared, place: &Place, request: &Request) -> Result<Json> {
    request.only("DescribeBackup", &["BackupArn"])?;
    request.check(&[ARN])?;
    let read = named(shared, place, request).await?;
    let count = count_of(shared, &read.backup).await?;
    Ok(json!({ "BackupDescription": read.backup.describe(count, read.backup.status()) }))
}

/// `DeleteBackup`
pub(super) async fn delete(shared: &Shared, place: &Place, request: &Request) -> Result<Json> {
    request.only("DeleteBackup", &["BackupArn"])?;
    request.check(&[ARN])?;
    for _ in 0..ATTEMPTS_MAX {
        let Read { key, entry, backup } = named(shared, place, request).await?;
        let busy = |what: &str| {
            let words = format!("Backup cannot be deleted while {what}: {}", backup.arn());
            Err(Error::Refused("BackupInUseException", words))
        };
        if !backup.available {
            return busy("it is being created");
        }
        if !backup.readers.is_empty() {
            return busy("a table is being restored from it");
        }
        let count = count_of(shared, &backup).await?;
        let txn = Txn::new()
            .expect_version(key.clone(), entry.version)
            .delete(key)
            .put(keys::garbage(backup.generation), Vec::new());
        match shared.store.commit(txn).await {
            Ok(_) => return Ok(json!({ "BackupDescription": backup.describe(count, "DELETED") })),
            Err(StoreError::Conflict | StoreError::TooOld) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Error::Contended)
}

/// A time of a request, in milliseconds.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "what is beyond is cut to the nearest")]
pub(super) fn time(request: &Request, member: &str) -> Result<Option<u64>> {
    let seconds = request.get(member).map(|json| json.as_f64().ok_or_else(wrong_type)).transpose()?;
    Ok(seconds.map(|seconds| (seconds * 1_000.0).round() as u64))
}

/// `ListBackups`
pub(super) async fn list(shared: &Shared, place: &Place, request: &Request) -> Result<Json> {
    let members =
        ["TableName", "Limit", "TimeRangeLowerBound", "TimeRangeUpperBound", "ExclusiveStartBackupArn", "BackupType"];
    request.only("ListBackups", &members)?;
    let start = Rule::Length("ExclusiveStartBackupArn", 37, 1_024);
    request.check(&[Rule::Within("Limit", 1, 100), start, Rule::OneOf("BackupType", TYPES)])?;
    let limit = request.number("Limit")?.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(LIST_MAX);
    let table = request.text("TableName")?.map(|name| table_name(name, place)).transpose()?;
    let (from, to) = (time(request, "TimeRangeLowerBound")?, time(request, "TimeRangeUpperBound")?);
    let kind = request.text("BackupType")?.unwrap_or("USER");
    let mut range = keys::backups(&place.account, &place.region, table).rows(LIST_MAX);
    if let Some(arn) = request.text("ExclusiveStartBackupArn")? {
        let key = key_of(place, arn);
        range = range.beyond(key.ok_or_else(|| Error::validation(format!("Invalid ExclusiveStartBackupArn: {arn}")))?);
    }
    let wanted = |backup: &Backup| {
        (kind == "ALL" || backup.kind.name() == kind)
            && from.is_none_or(|from| backup.created_at_ms >= from)
            && to.is_none_or(|to| backup.created_at_ms < to)
    };
    let (mut summaries, mut last) = (Vec::new(), None);
    'pages: loop {
        let page = shared.store.range(&range).await?;
        for entry in &page.entries {
            let backup = jobs::backup(entry)?;
            if !wanted(&backup) {
                continue;
            }
            // One more than is asked for says whether there are more.
            if summaries.len() == limit {
                break 'pages;
            }
            summaries.push(backup.summary(count_of(shared, &backup).await?));
            last = Some(backup.arn());
        }
        match page.entries.last() {
            Some(entry) if page.more => range = range.beyond(entry.key.clone()),
            _ => return Ok(json!({ "BackupSummaries": summaries })),
        }
    }
    Ok(json!({ "BackupSummaries": summaries, "LastEvaluatedBackupArn": last }))
}

/// `DescribeContinuousBackups`
pub(super) async fn continuous(shared: &Shared, place: &Place, request: &Request) -> Result<Json> {
    request.only("DescribeContinuousBackups", &["TableName"])?;
    request.check(&[Rule::Required("TableName")])?;
    let found = table_of(shared, place, request.text("TableName")?.unwrap_or_default()).await?;
    Ok(json!({ "ContinuousBackupsDescription": history::describe(&found.table, shared.clock.now_ms()) }))
}

/// Whether recovery is to be on, and for how many days.
fn specification(request: &Request) -> Result<(bool, Option<u64>)> {
    let map = request.required_map("PointInTimeRecoverySpecification")?;
    let member = "pointInTimeRecoverySpecification";
    let enabled = map.get("PointInTimeRecoveryEnabled").filter(|enabled| !enabled.is_null());
    let Some(enabled) = enabled else {
        let at = format!("{member}.pointInTimeRecoveryEnabled");
        return Err(constraint(&Json::Null, &at, "Member must not be null"));
    };
    let enabled = enabled.as_bool().ok_or_else(wrong_type)?;
    let days = map.get("RecoveryPeriodInDays").filter(|days| !days.is_null());
    let Some(days) = days else { return Ok((enabled, None)) };
    let number = days.as_i64().ok_or_else(wrong_type)?;
    let bound = match number {
        number if number < 1 => "greater than or equal to 1",
        number if number > 35 => "less than or equal to 35",
        _ if !enabled => {
            return invalid("RecoveryPeriodInDays can only be specified when point in time recovery is enabled");
        }
        _ => return Ok((enabled, Some(number.unsigned_abs()))),
    };
    let at = format!("{member}.recoveryPeriodInDays");
    Err(constraint(days, &at, &format!("Member must have value {bound}")))
}

/// `UpdateContinuousBackups`
pub(super) async fn update(shared: &Shared, place: &Place, request: &Request) -> Result<Json> {
    request.only("UpdateContinuousBackups", &["TableName", "PointInTimeRecoverySpecification"])?;
    request.check(&[Rule::Required("TableName"), Rule::Required("PointInTimeRecoverySpecification")])?;
    let (enabled, days) = specification(request)?;
    let text = request.text("TableName")?.unwrap_or_default();
    // Twice where it is switched on: since when it goes back is known when its records have begun.
    let mut begun = false;
    for _ in 0..ATTEMPTS_MAX {
        let found = table_of(shared, place, text).await?;
        if found.table.is_being_restored() {
            return Err(in_use(&found.table.name));
        }
        let mut table = (*found.table).clone();
        let now_ms = shared.clock.now_ms();
        let is_new = enabled && table.recovery.is_none();
        match (&mut table.recovery, enabled) {
            (recovery, false) => *recovery = None,
            (None, true) => {
                let since_ms = now_ms + NOT_YET_MS;
                table.recovery = Some(Recovery { since_ms, days: days.unwrap_or(DAYS_MAX) });
            }
            (Some(recovery), true) => {
                recovery.days = days.unwrap_or(DAYS_MAX);
                if begun {
                    recovery.since_ms = now_ms;
                }
            }
        }
        let txn = if enabled {
            jobs::begin_history(Txn::new(), &mut table, shared.random.next_u64())
        } else {
            jobs::end_history(Txn::new(), &mut table)
        };
        match shared.store.commit(found.put_record(txn, &table)?).await {
            Ok(_) if is_new => begun = true,
            Ok(_) => return Ok(json!({ "ContinuousBackupsDescription": history::describe(&table, now_ms) })),
            Err(StoreError::Conflict | StoreError::TooOld) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Error::Contended)
}

//! From a call to an answer: what all operations share. Each file beside this one holds some operations.
//!
//! Order of checks in every operation: members, their combinations, values, expressions, the table, its key schema,
//! the item.
//!
//! Invariants
//!   1. A member that is neither used nor listed as accepted is refused by name: `Request::only`.
//!   2. `Shared::write_item` is the only road to writing an item; `Shared::change` takes it for one item alone.

mod action;
mod backups;
mod batch;
mod billing;
mod collections;
mod index_updates;
mod items;
mod pages;
mod partiql;
mod policies;
mod request;
mod restore;
mod schema;
mod schema_rules;
mod stream_updates;
mod streams;
mod tables;
mod tags;
mod throttling;
mod transactions;
mod ttl;
mod write;

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeSet, HashMap};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use aws::{Call, Reply};
use base::{Clock, Random};
use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::Value as Json;
use store::{Entry, Error as StoreError, Snapshot, Store, Txn, Version};

use super::Config;
use super::capacity::Units;
use super::error::{Error, Result};
use super::policy::{self, Caller};
use super::table::{ItemKey, Table};
use super::throttle::{Buckets, Direction};
use super::value::Item;
use super::{item, keys};
use request::Request;
pub(super) use write::ItemWrite;

/// How often a write is decided anew when others come first.
pub(super) const ATTEMPTS_MAX: usize = 64;
/// Most decoded table records kept in memory.
const CACHED_TABLES_MAX: usize = 4_096;

/// What every operation works with.
pub(super) struct Shared {
    pub(super) store: Arc<dyn Store>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) random: Arc<dyn Random>,
    pub(super) config: Config,
    /// Tells this process from others over the same store.
    pub(super) node: u64,
    lanes: Vec<tokio::sync::Mutex<()>>,
    /// Decoded records by key. Valid only for the version beside them, which each use compares with the store's.
    cache: Mutex<HashMap<Bytes, (Version, Arc<Table>)>>,
    /// What capacity tables have left.
    buckets: Mutex<Buckets>,
}

/// Whose tables a call means, and who calls.
pub(super) struct Place {
    account: String,
    region: String,
    caller: Caller,
    /// What is to be done, as policies name it.
    operation: &'static str,
    /// The index of a table that it is done with.
    index: Option<String>,
}

/// Operations of which each part is looked at on its own, as policies have names of their own for them.
const IN_PARTS: &[&str] =
    &["TransactGetItems", "TransactWriteItems", "ExecuteStatement", "BatchExecuteStatement", "ExecuteTransaction"];

impl Place {
    /// A table of another account is meant by its ARN.
    fn of(call: &Call, now_ms: u64) -> Self {
        let caller = Caller {
            account: call.principal.account.to_string(),
            arn: call.principal.arn.clone(),
            circumstances: call.circumstances(now_ms),
        };
        let text = |member: &str| call.input.get(member).and_then(Json::as_str);
        let region = call.region.to_string();
        let owner = text("TableName").and_then(|text| owner_of(text, &region));
        let searches = matches!(call.operation, "Query" | "Scan");
        Self {
            account: owner.unwrap_or_else(|| caller.account.clone()),
            region,
            caller,
            operation: call.operation,
            index: text("IndexName").filter(|_| searches).map(str::to_owned),
        }
    }

    /// The place of a table that a part of a call means, which policies call `operation`. Statements know tables of
    /// their caller's account only, as in AWS.
    fn of_part(&self, text: &str, operation: &'static str) -> Self {
        let owner = owner_of(text, &self.region).filter(|_| !self.has_statements());
        Self {
            account: owner.unwrap_or_else(|| self.caller.account.clone()),
            region: self.region.clone(),
            caller: self.caller.clone(),
            operation,
            index: None,
        }
    }

    /// Account and region, as a job has them.
    fn of_job(&self) -> (String, String) {
        (self.account.clone(), self.region.clone())
    }

    /// Refuses what the policy of a table does not let the caller do.
    fn check(&self, table: &Table) -> Result<()> {
        if IN_PARTS.contains(&self.operation) {
            return Ok(());
        }
        self.check_for(table, self.index.as_deref(), self.operation)
    }

    /// The same for a part of a call, which policies have a name of its own for.
    fn check_for(&self, table: &Table, index: Option<&str>, operation: &str) -> Result<()> {
        if table.policy.is_none() && self.caller.account == table.account {
            return Ok(());
        }
        let arn = table.arn();
        let resource = index.map_or(arn.clone(), |index| format!("{arn}/index/{index}"));
        policy::check(table.policy.as_ref(), &self.caller, &table.account, operation, &resource)
    }

    /// Whether the call is made of statements.
    fn has_statements(&self) -> bool {
        matches!(self.operation, "ExecuteStatement" | "BatchExecuteStatement" | "ExecuteTransaction")
    }

    /// What a caller is told of a table that is not there: one of another account learns nothing of it.
    fn missing(&self, name: &str, error: Error) -> Error {
        let arn = format!("arn:aws:dynamodb:{}:{}:table/{name}", self.region, self.account);
        policy::check(None, &self.caller, &self.account, self.operation, &arn).err().unwrap_or(error)
    }
}

/// Whose table an ARN means; nothing if it is none of this region.
fn owner_of(text: &str, region: &str) -> Option<String> {
    let (of, rest) = text.strip_prefix("arn:aws:dynamodb:")?.split_once(':')?;
    let (owner, _) = rest.split_once(":table/").filter(|_| of == region)?;
    model::AccountId::parse(owner).map(|owner| owner.to_string())
}

/// A table as it was read.
pub(super) struct Found {
    pub(super) table: Arc<Table>,
    key: Bytes,
    version: Version,
}

impl Found {
    /// Only if the table's record is still as it was read.
    pub(super) fn expect(&self, txn: Txn) -> Txn {
        txn.expect_version(self.key.clone(), self.version)
    }

    /// Writes the table's record anew, only if it is still as it was read.
    pub(super) fn put_record(&self, txn: Txn, table: &Table) -> Result<Txn> {
        let record = serde_json::to_vec(table).map_err(|_| Error::Corrupt("table record"))?;
        Ok(self.expect(txn).put(self.key.clone(), record))
    }
}

/// What is to become of an item.
pub(super) enum Change {
    Put(Item),
    Delete,
    Nothing,
}

/// Does one call.
pub(super) async fn call(shared: &Shared, call: Call) -> std::result::Result<Reply, aws::Error> {
    let place = Place::of(&call, shared.clock.now_ms());
    let request = Request::new(call.input)?;
    request.check_table_name()?;
    let output = match call.operation {
        "GetItem" => return Ok(items::get(shared, &place, &request).await?),
        "Query" => return Ok(pages::query(shared, &place, &request).await?),
        "Scan" => return Ok(pages::scan(shared, &place, &request).await?),
        "CreateTable" => tables::create(shared, &place, &request).await,
        "DescribeTable" => tables::describe(shared, &place, &request).await,
        "ListTables" => tables::list(shared, &place, &request).await,
        "UpdateTable" => tables::update(shared, &place, &request).await,
        "DeleteTable" => tables::delete(shared, &place, &request).await,
        "DescribeLimits" => Ok(billing::limits()),
        "DescribeEndpoints" => Ok(tables::endpoints(&call.endpoint)),
        "DescribeTimeToLive" => ttl::describe(shared, &place, &request).await,
        "UpdateTimeToLive" => ttl::update(shared, &place, &request).await,
        "CreateBackup" => backups::create(shared, &place, &request).await,
        "DescribeBackup" => backups::describe(shared, &place, &request).await,
        "ListBackups" => backups::list(shared, &place, &request).await,
        "DeleteBackup" => backups::delete(shared, &place, &request).await,
        "RestoreTableFromBackup" => restore::from_backup(shared, &place, &request).await,
        "RestoreTableToPointInTime" => restore::to_point_in_time(shared, &place, &request).await,
        "DescribeContinuousBackups" => backups::continuous(shared, &place, &request).await,
        "UpdateContinuousBackups" => backups::update(shared, &place, &request).await,
        "PutResourcePolicy" => policies::put(shared, &place, &request).await,
        "GetResourcePolicy" => policies::get(shared, &place, &request).await,
        "DeleteResourcePolicy" => policies::delete(shared, &place, &request).await,
        "ListStreams" => streams::list(shared, &place, &request).await,
        "DescribeStream" => streams::describe(shared, &place, &request).await,
        "GetShardIterator" => streams::iterator(shared, &place, &request).await,
        "GetRecords" => streams::records(shared, &place, &request).await,
        "TagResource" => return Ok(tags::tag(shared, &place, &request).await?),
        "UntagResource" => return Ok(tags::untag(shared, &place, &request).await?),
        "ListTagsOfResource" => tags::list(shared, &place, &request).await,
        "PutItem" => items::put(shared, &place, &request).await,
        "UpdateItem" => items::update(shared, &place, &request).await,
        "DeleteItem" => items::delete(shared, &place, &request).await,
        "BatchGetItem" => batch::get(shared, &place, &request).await,
        "BatchWriteItem" => batch::write(shared, &place, &request).await,
        "ExecuteStatement" => partiql::execute(shared, &place, &request).await,
        "BatchExecuteStatement" => partiql::batch(shared, &place, &request).await,
        "ExecuteTransaction" => partiql::transaction(shared, &place, &request).await,
        "TransactGetItems" => transactions::get(shared, &place, &request).await,
        "TransactWriteItems" => transactions::write(shared, &place, &request).await,
        other => return Err(aws::Error::not_implemented(format_args!("the DynamoDB operation {other}"))),
    }?;
    Ok(Reply::of(output))
}

impl Shared {
    pub(super) fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>, random: Arc<dyn Random>, config: Config) -> Self {
        let lanes = (0..config.write_lanes.max(1)).map(|_| tokio::sync::Mutex::new(())).collect();
        let node = random.next_u64();
        Self { store, clock, random, config, node, lanes, cache: Mutex::default(), buckets: Mutex::default() }
    }

    /// The table of that name, if there is one.
    async fn find_table(&self, place: &Place, name: &str) -> Result<Option<Found>> {
        self.found(&keys::table(&place.account, &place.region, name)).await
    }

    /// The table whose record lies at this key, if there is one.
    pub(super) async fn found(&self, key: &Bytes) -> Result<Option<Found>> {
        let Some(entry) = self.store.get(key).await? else {
            self.cache.lock().remove(key);
            return Ok(None);
        };
        let version = entry.version;
        Ok(Some(Found { table: self.decoded(&entry)?, key: key.clone(), version }))
    }

    fn decoded(&self, entry: &Entry) -> Result<Arc<Table>> {
        if let Some((version, table)) = self.cache.lock().get(&entry.key)
            && *version == entry.version
        {
            return Ok(Arc::clone(table));
        }
        let table: Table = serde_json::from_slice(&entry.value).map_err(|_| Error::Corrupt("table record"))?;
        let table = Arc::new(table);
        let mut cache = self.cache.lock();
        if cache.len() >= CACHED_TABLES_MAX {
            cache.clear();
        }
        cache.insert(entry.key.clone(), (entry.version, Arc::clone(&table)));
        Ok(table)
    }

    /// The table of that name for an operation on items.
    async fn table(&self, place: &Place, name: &str) -> Result<Found> {
        let found = self.find_table(place, name).await?.filter(|found| !found.table.is_being_restored());
        let found = found.ok_or_else(|| place.missing(name, Error::table_not_found()))?;
        place.check(&found.table)?;
        Ok(found)
    }

    /// The table that a part of a call means by its name or ARN.
    async fn table_of_part(&self, place: &Place, text: &str, operation: &'static str) -> Result<Found> {
        let there = place.of_part(text, operation);
        self.table(&there, request::table_name(text, &there)?).await
    }

    /// Changes one item: finds where it lies, reads it, decides, commits; again if others came first. What was decided
    /// on, and what it used.
    ///
    /// `locate` checks the request against the table; `decide` is pure and may run several times.
    async fn change<T>(
        &self,
        place: &Place,
        table_name: &str,
        locate: impl Fn(&Table) -> Result<ItemKey> + Send + Sync,
        decide: impl Fn(&Table, Option<&Item>) -> Result<(Change, T)> + Send + Sync,
    ) -> Result<(T, Units)> {
        let mut paid = false;
        for _ in 0..ATTEMPTS_MAX {
            let found = self.table(place, table_name).await?;
            let key = locate(&found.table)?;
            if !paid {
                self.admit(&found.table, None, Direction::Write)?;
            }
            // Held until the commit is over: the next writer of this item reads what this one wrote.
            let _lane = self.lane(&key.store).lock().await;
            let entry = self.store.get(&key.store).await?;
            let before = entry.as_ref().map(decode).transpose()?;
            let (change, decided) = match decide(&found.table, before.as_ref()) {
                Ok((change, answer)) => (change, Ok(answer)),
                // Whose condition does not hold pays, too.
                Err(error @ (Error::ConditionFailed(_) | Error::Duplicate)) => (Change::Nothing, Err(error)),
                Err(error) => return Err(error),
            };
            let after = match &change {
                Change::Put(after) => Some(after),
                Change::Delete => None,
                Change::Nothing => before.as_ref(),
            };
            let write = ItemWrite::new(&found, &key, entry.as_ref(), before.as_ref(), after);
            let units = write.units();
            self.pay_for_write(&found.table, &units, &mut paid)?;
            let answer = decided?;
            if matches!(change, Change::Nothing) || (before.is_none() && after.is_none()) {
                return Ok((answer, units));
            }
            let txn = self.write_item(Txn::new(), write).await?;
            match self.store.commit(txn).await {
                Ok(_) => return Ok((answer, units)),
                Err(StoreError::Conflict | StoreError::TooOld) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::InConflict)
    }

    /// Reads at one moment, and anew where a crowded host takes longer for that than a snapshot lives.
    pub(super) async fn on_snapshot<T, F>(&self, read: impl Fn(Box<dyn Snapshot>) -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        for _ in 0..ATTEMPTS_MAX {
            match read(self.store.snapshot().await?).await {
                Err(Error::Store(StoreError::TooOld)) => {}
                done => return done,
            }
        }
        Err(Error::Contended)
    }

    /// What the writers of an item hold, one after the other.
    pub(super) fn lane(&self, key: &[u8]) -> &tokio::sync::Mutex<()> {
        &self.lanes[self.lane_number(key)]
    }

    fn lane_number(&self, key: &[u8]) -> usize {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let lanes = self.lanes.len();
        usize::try_from(hasher.finish() % lanes as u64).unwrap_or(0)
    }

    /// The lanes of all these keys. Everybody who takes several takes them in this order, so nobody waits in a circle.
    async fn lanes(&self, keys: impl Iterator<Item = &[u8]>) -> Vec<tokio::sync::MutexGuard<'_, ()>> {
        let numbers: BTreeSet<usize> = keys.map(|key| self.lane_number(key)).collect();
        let mut held = Vec::with_capacity(numbers.len());
        for number in numbers {
            held.push(self.lanes[number].lock().await);
        }
        held
    }
}

/// Reads a stored item.
pub(super) fn decode(entry: &Entry) -> Result<Item> {
    item::decode(&entry.value).ok_or(Error::Corrupt("item"))
}

/// Capacity of a call on one table, as far as the request asks for it; the table as the request names it.
fn consumed(request: &Request, table: &str, units: &Units) -> Result<Option<Json>> {
    Ok(units.shown(request.text("ReturnConsumedCapacity")?, table))
}

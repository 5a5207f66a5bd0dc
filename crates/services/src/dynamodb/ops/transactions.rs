//! TransactWriteItems and TransactGetItems: all or nothing, as if nobody else were there.
//!
//! Order of checks: members, values and expressions of every part; the tables; empty keys; two operations on one
//! item. What is wrong with single parts beyond that is told as the reasons of a cancellation.
//!
//! Invariants
//!   1. All items are read from one snapshot, and the commit expects every one of them, also those that are only
//!      checked, to be as it was read: so transactions and single writes are serialisable.
//!   2. The lanes of all items are held from the reading to the end of the commit, taken in one order by everybody.
//!   3. The token is written in the commit of its transaction: who sends the same again within ten minutes changes
//!      nothing and is told of success; a token never outlives a transaction that did not happen.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::try_join_all;
use serde_json::{Map, Value as Json, json};
use store::contract::TXN_BYTES_MAX;
use store::{Entry, Error as StoreError, Snapshot, Txn};

use super::super::capacity::Units;
use super::super::error::{Error, Reason, Result, broken, constraint, constraints, invalid};
use super::super::keys;
use super::super::table::{ItemKey, Table};
use super::super::throttle::Direction;
use super::super::token::{self, Used};
use super::super::value::{Item, item_size, item_to_json};
use super::action::Action;
use super::items::View;
use super::request::{CAPACITY, Request, Rule, lower_first, missing, table_name, wrong_type};
use super::write::ItemWrite;
use super::{ATTEMPTS_MAX, Change, Found, Place, Shared, collections, decode};

/// Most parts of a transaction.
const ITEMS_MAX: usize = 100;
/// Most bytes of what a transaction brings, or reads.
const BYTES_MAX: usize = 4 * 1024 * 1024;
/// Most bytes of a client's token.
const TOKEN_BYTES_MAX: usize = 36;
/// Most mistakes that are told at once.
const MISTAKES_MAX: usize = 10;
/// What a part may be, and what it must have.
const KINDS: [(&str, &[&str]); 4] = [
    ("ConditionCheck", &["TableName", "Key", "ConditionExpression"]),
    ("Put", &["TableName", "Item"]),
    ("Delete", &["TableName", "Key"]),
    ("Update", &["TableName", "Key", "UpdateExpression"]),
];
/// The code of a part that makes no sense.
const INVALID: &str = "ValidationError";
const SHOW: &str = "ReturnValuesOnConditionCheckFailure";

/// A client's token with what it stands for.
#[derive(Debug)]
pub(super) struct Token {
    name: String,
    digest: [u8; 32],
}

impl Token {
    /// The `ClientRequestToken` of a request; the rest of the request is what it stands for.
    pub(super) fn of(request: &Request) -> Result<Option<Self>> {
        let Some(name) = request.text("ClientRequestToken")? else {
            return Ok(None);
        };
        if name.is_empty() || name.len() > TOKEN_BYTES_MAX {
            let bound = if name.is_empty() { "greater than or equal to 1" } else { "less than or equal to 36" };
            let rule = format!("Member must have length {bound}");
            return Err(constraint(&json!(name), "clientRequestToken", &rule));
        }
        let digest = token::digest(request.members().filter(|(name, _)| *name != "ClientRequestToken"));
        Ok(Some(Self { name: name.into(), digest }))
    }
}

/// The parts of a transaction, if their number is right.
pub(super) fn parts<'a>(request: &'a Request, name: &str, most: usize) -> Result<&'a [Json]> {
    let list = request.list(name)?.ok_or_else(|| missing(name))?;
    let bound = match list.len() {
        0 => "greater than or equal to 1".to_owned(),
        count if count > most => format!("less than or equal to {most}"),
        _ => return Ok(list),
    };
    let member = lower_first(name);
    Err(constraint(&Json::Array(list.clone()), &member, &format!("Member must have length {bound}")))
}

/// Notes what is missing in or wrong with the members of one part.
fn check_members(request: &Request, place: &str, required: &[&str], wrong: &mut Vec<String>) -> Result<()> {
    let member = |name: &str| format!("{place}.{}", lower_first(name));
    for name in required.iter().filter(|name| request.get(name).is_none()) {
        wrong.push(broken(&Json::Null, &member(name), "Member must not be null"));
    }
    if let Some(text) = request.text(SHOW)?.filter(|text| !["ALL_OLD", "NONE"].contains(text)) {
        wrong.push(broken(&json!(text), &member(SHOW), "Member must satisfy enum value set: [ALL_OLD, NONE]"));
    }
    Ok(())
}

fn refuse(mut wrong: Vec<String>) -> Result<()> {
    wrong.truncate(MISTAKES_MAX);
    if wrong.is_empty() { Ok(()) } else { Err(constraints(&wrong)) }
}

/// One part of a TransactWriteItems: what kind it is, and its members.
fn read_part(json: &Json, at: usize, wrong: &mut Vec<String>) -> Result<(&'static str, Request)> {
    let members = json.as_object().ok_or_else(wrong_type)?;
    let mut found = members.iter().filter(|(_, member)| !member.is_null());
    let Some((name, member)) = found.next() else {
        return invalid("Invalid Request: TransactWriteRequest should contain Delete or Put or Update request");
    };
    let Some((name, required)) = KINDS.iter().find(|(kind, _)| kind == name) else {
        return Err(Error::NotImplemented(format!("the member {name} of TransactWriteItems")));
    };
    if found.next().is_some() {
        return invalid("TransactItems can only contain one of Check, Put, Update or Delete");
    }
    let request = Request::new(member.clone())?;
    let more = ["ConditionExpression", "ExpressionAttributeNames", "ExpressionAttributeValues", SHOW];
    request.only("TransactWriteItems", &[required, &more[..]].concat())?;
    let place = format!("transactItems.{}.member.{}", at + 1, lower_first(name));
    check_members(&request, &place, required, wrong)?;
    Ok((name, request))
}

/// `TransactWriteItems`
pub(super) async fn write(shared: &Shared, place: &Place, request: &Request) -> Result<Json> {
    let members = ["TransactItems", "ClientRequestToken", "ReturnConsumedCapacity", "ReturnItemCollectionMetrics"];
    request.only("TransactWriteItems", &members)?;
    let metrics = Rule::OneOf("ReturnItemCollectionMetrics", &["SIZE", "NONE"]);
    request.check(&[Rule::Required("TransactItems"), metrics, CAPACITY])?;
    let parts = parts(request, "TransactItems", ITEMS_MAX)?;
    let token = Token::of(request)?;
    let mut wrong = Vec::new();
    let mut read = Vec::new();
    for (at, json) in parts.iter().enumerate() {
        read.push(read_part(json, at, &mut wrong)?);
    }
    refuse(wrong)?;
    let mut actions = Vec::with_capacity(read.len());
    for (name, part) in &read {
        actions.push(Action::of_transaction(table_of_part(part, place)?, name, part)?);
    }
    let written = write_all(shared, place, &actions, token.as_ref()).await?;
    let mut output = Map::new();
    if let Some(capacity) = written.capacity(request)? {
        output.insert("ConsumedCapacity".into(), capacity);
    }
    if collections::are_wanted(request)? {
        let written = actions.iter().map(|action| (action.table, action.key()));
        let metrics = collections::of_many(shared, place, written).await?;
        if metrics.as_object().is_some_and(|metrics| !metrics.is_empty()) {
            output.insert("ItemCollectionMetrics".into(), metrics);
        }
    }
    Ok(Json::Object(output))
}

/// What a transaction has used.
pub(super) struct Written {
    /// By table.
    units: BTreeMap<String, Units>,
    /// Whether an earlier call with the same token had done it.
    again: bool,
}

impl Written {
    /// `ConsumedCapacity`, as far as the request asks for it. A call that was done before only reads.
    pub(super) fn capacity(&self, request: &Request) -> Result<Option<Json>> {
        capacity(request, &self.units, if self.again { "ReadCapacityUnits" } else { "WriteCapacityUnits" })
    }
}

fn capacity(request: &Request, units: &BTreeMap<String, Units>, kind: &str) -> Result<Option<Json>> {
    let wanted = request.text("ReturnConsumedCapacity")?;
    let shown = units.iter().filter_map(|(table, units)| units.in_transaction().shown(wanted, table));
    let shown: Vec<Json> = shown
        .map(|mut shown| {
            name_kind(&mut shown, kind);
            shown
        })
        .collect();
    Ok(if shown.is_empty() { None } else { Some(Json::Array(shown)) })
}

/// Beside every `CapacityUnits`, says which kind they are of.
fn name_kind(shown: &mut Json, kind: &str) {
    if let Json::Object(members) = shown {
        members.values_mut().for_each(|member| name_kind(member, kind));
        if let Some(units) = members.get("CapacityUnits").cloned() {
            members.insert(kind.into(), units);
        }
    }
}

/// The table of one part, by its name or its ARN as it came; nothing but that it can be one is checked.
fn table_of_part<'a>(part: &'a Request, place: &Place) -> Result<&'a str> {
    let text = part.text("TableName")?.ok_or_else(|| missing("TableName"))?;
    table_name(text, &place.of_part(text, place.operation))?;
    Ok(text)
}

/// The tables that these names or ARNs mean, each of which must be there; beside each, what is to be done there.
async fn tables<'a>(
    shared: &Shared,
    place: &Place,
    parts: impl Iterator<Item = (&'a str, &'static str)>,
) -> Result<BTreeMap<&'a str, Found>> {
    let mut tables = BTreeMap::new();
    for (name, operation) in parts {
        if !tables.contains_key(name) {
            tables.insert(name, shared.table_of_part(place, name, operation).await?);
        }
    }
    Ok(tables)
}

fn table_of<'t>(tables: &'t BTreeMap<&str, Found>, name: &str) -> Result<&'t Found> {
    tables.get(name).ok_or_else(Error::table_not_found)
}

/// Refuses two parts of one item, whatever else is wrong with them. A part whose key does not fit is of no item.
fn check_distinct<'k>(
    tables: &BTreeMap<&str, Found>,
    parts: impl Iterator<Item = (&'k str, &'k Item)>,
    located: &[Result<ItemKey>],
) -> Result<()> {
    let mut seen = BTreeSet::new();
    for ((name, key), located) in parts.zip(located) {
        let place = match located {
            Ok(key) => Some(key.store.clone()),
            Err(_) => table_of(tables, name)?.table.place(key),
        };
        if place.is_some_and(|place| !seen.insert(place)) {
            return invalid("Transaction request cannot include multiple operations on one item");
        }
    }
    Ok(())
}

/// An item as the snapshot has it.
struct Before {
    entry: Option<Entry>,
    item: Option<Item>,
}

async fn read_all(snapshot: &dyn Snapshot, keys: &[Result<ItemKey>]) -> Result<Vec<Before>> {
    let reads = keys.iter().map(|key| async move {
        let entry = match key {
            Ok(key) => snapshot.get(&key.store).await?,
            Err(_) => None,
        };
        let item = entry.as_ref().map(decode).transpose()?;
        Ok::<_, Error>(Before { entry, item })
    });
    try_join_all(reads).await
}

/// Why a part does not let its transaction happen. What is no part's own fault fails the call.
fn reason(error: Error) -> Result<Reason> {
    Ok(match error {
        Error::Validation(message) => Reason { code: INVALID, message, item: None },
        Error::ConditionFailed(item) => {
            Reason { code: "ConditionalCheckFailed", message: "The conditional request failed".into(), item }
        }
        Error::Duplicate => Reason { code: "DuplicateItem", message: error.to_string(), item: None },
        other => return Err(other),
    })
}

/// All results, or the reasons against them: what is wrong with the first part that is invalid, else all.
fn all_or_reasons<T>(results: Vec<Result<T>>) -> Result<Vec<T>> {
    let mut reasons = Vec::with_capacity(results.len());
    let mut values = Vec::with_capacity(results.len());
    for result in results {
        match result {
            Ok(value) => {
                values.push(value);
                reasons.push(None);
            }
            Err(error) => reasons.push(Some(reason(error)?)),
        }
    }
    if values.len() == reasons.len() {
        return Ok(values);
    }
    let is_invalid = |reason: &Option<Reason>| reason.as_ref().is_some_and(|reason| reason.code == INVALID);
    if let Some(first) = reasons.iter().position(is_invalid) {
        reasons.iter_mut().enumerate().filter(|(at, _)| *at != first).for_each(|(_, reason)| *reason = None);
    }
    Err(Error::Cancelled(reasons))
}

/// Does all of `actions` or nothing; again if others came first.
pub(super) async fn write_all(
    shared: &Shared,
    place: &Place,
    actions: &[Action<'_>],
    token: Option<&Token>,
) -> Result<Written> {
    if actions.iter().map(Action::bytes).sum::<usize>() > BYTES_MAX {
        return too_large();
    }
    let mut paid = false;
    for _ in 0..ATTEMPTS_MAX {
        let of_statements = place.has_statements();
        let parts = actions.iter().map(|action| (action.table, action.permission(of_statements)));
        let tables = tables(shared, place, parts).await?;
        for action in actions {
            let table = &table_of(&tables, action.table)?.table;
            place.check_for(table, None, action.permission(of_statements))?;
            action.check_key_values(table)?;
        }
        let locate = |action: &Action<'_>| action.locate(&table_of(&tables, action.table)?.table);
        let located: Vec<_> = actions.iter().map(locate).collect();
        check_distinct(&tables, actions.iter().map(|action| (action.table, action.key())), &located)?;
        let token_key = token.map(|token| keys::token(&place.account, &place.region, &token.name));
        let held = located.iter().flatten().map(|key| &key.store[..]).chain(token_key.as_deref());
        let _lanes = shared.lanes(held).await;
        let (keys, token_of) = (&located, token_key.as_deref());
        let read = |snapshot: Box<dyn Snapshot>| async move {
            let used = match token_of {
                Some(key) => snapshot.get(key).await?,
                None => None,
            };
            Ok((read_all(&*snapshot, keys).await?, used))
        };
        let (before, entry) = shared.on_snapshot(read).await?;
        let mut txn = Txn::new();
        if let (Some(token), Some(key)) = (token, &token_key) {
            match Used::decode(entry.as_ref()).filter(|used| used.until_ms > shared.clock.now_ms()) {
                Some(used) if used.digest == token.digest => return Ok(again(actions, &before)),
                Some(_) => return Err(Error::TokenReused),
                None => txn = token::write(txn, key, entry.as_ref(), token.digest, shared.clock.now_ms()),
            }
        }
        let decide = |((action, key), before): ((&Action<'_>, Result<ItemKey>), &Before)| {
            let key = key?;
            let table = &table_of(&tables, action.table)?.table;
            Ok((key, action.decide(table, before.item.as_ref())?))
        };
        let decided = actions.iter().zip(located).zip(&before).map(decide).collect();
        let decided = all_or_reasons(decided)?;
        let (txn, units) = append(shared, txn, actions, &tables, &before, &decided).await?;
        if !paid {
            let parts = actions.iter().map(|action| action.table);
            shared.pay_for_transaction(&tables, &units, parts, Direction::Write)?;
            paid = true;
        }
        let written = Written { units, again: false };
        if txn.ops.is_empty() {
            return Ok(written);
        }
        match shared.store.commit(txn).await {
            Ok(_) => return Ok(written),
            Err(StoreError::Conflict | StoreError::TooOld) => {}
            Err(StoreError::TooLarge(_)) => return beyond_a_commit(),
            Err(error) => return Err(error.into()),
        }
    }
    // Which item it was is not known: each round may have been lost by another one.
    Err(Error::Cancelled(actions.iter().map(|_| Some(Reason::conflict())).collect()))
}

fn beyond_a_commit<T>() -> Result<T> {
    invalid(format!(
        "The transaction writes more than one commit of the store takes: its items, their entries in indexes, their images in \
         streams and what they were before may have {} MB together",
        TXN_BYTES_MAX >> 20
    ))
}

fn too_large<T>() -> Result<T> {
    invalid("The aggregate size of the items in the transaction cannot exceed 4 MB")
}

/// Appends the writes and expectations of all parts, and adds up what they use.
async fn append(
    shared: &Shared,
    mut txn: Txn,
    actions: &[Action<'_>],
    tables: &BTreeMap<&str, Found>,
    before: &[Before],
    decided: &[(ItemKey, Change)],
) -> Result<(Txn, BTreeMap<String, Units>)> {
    let mut units: BTreeMap<String, Units> = BTreeMap::new();
    for ((action, before), (key, change)) in actions.iter().zip(before).zip(decided) {
        let found = table_of(tables, action.table)?;
        let (old, entry) = (before.item.as_ref(), before.entry.as_ref());
        let after = match change {
            Change::Put(after) => Some(after),
            Change::Delete => None,
            Change::Nothing => old,
        };
        let write = ItemWrite::new(found, key, entry, old, after);
        let sum = units.entry(action.table.into()).or_default();
        *sum = std::mem::take(sum).and(&write.units());
        txn = match change {
            Change::Nothing => found.expect(txn).expect_unchanged(key.store.clone(), entry),
            _ => shared.write_item(txn, write).await?,
        };
    }
    Ok((txn, units))
}

/// The answer to a call that was done before: it has read the items.
fn again(actions: &[Action<'_>], before: &[Before]) -> Written {
    let mut units: BTreeMap<String, Units> = BTreeMap::new();
    for (action, before) in actions.iter().zip(before) {
        let used = Units::of_read(before.item.as_ref().map_or(0, item_size), true);
        let sum = units.entry(action.table.into()).or_default();
        *sum = std::mem::take(sum).and(&used);
    }
    Written { units, again: true }
}

/// One item that a transaction reads.
pub(super) struct Get<'a> {
    pub(super) table: &'a str,
    pub(super) key: Item,
    pub(super) view: View,
}

/// `TransactGetItems`
pub(super) async fn get(shared: &Shared, place: &Place, request: &Request) -> Result<Json> {
    request.only("TransactGetItems", &["TransactItems", "ReturnConsumedCapacity"])?;
    request.check(&[Rule::Required("TransactItems"), CAPACITY])?;
    let mut wrong = Vec::new();
    let mut read = Vec::new();
    for (at, json) in parts(request, "TransactItems", ITEMS_MAX)?.iter().enumerate() {
        let part = format!("transactItems.{}.member.get", at + 1);
        let Some(member) = json.get("Get").filter(|member| !member.is_null()) else {
            wrong.push(broken(&Json::Null, &part, "Member must not be null"));
            continue;
        };
        let get = Request::new(member.clone())?;
        let required = ["TableName", "Key"];
        get.only("TransactGetItems", &[&required[..], &["ProjectionExpression", "ExpressionAttributeNames"]].concat())?;
        check_members(&get, &part, &required, &mut wrong)?;
        read.push(get);
    }
    refuse(wrong)?;
    let mut gets = Vec::with_capacity(read.len());
    for part in &read {
        let table = table_of_part(part, place)?;
        part.check_expressions(&["ProjectionExpression"])?;
        let key = part.item("Key")?;
        let mut scope = part.scope()?;
        let view = View::of(part, &mut scope)?;
        scope.finish()?;
        gets.push(Get { table, key, view });
    }
    read_transaction(shared, place, request, &gets).await
}

/// Reads all of `gets` from one snapshot.
pub(super) async fn read_transaction(
    shared: &Shared,
    place: &Place,
    request: &Request,
    gets: &[Get<'_>],
) -> Result<Json> {
    let operation = if place.has_statements() { "PartiQLSelect" } else { "GetItem" };
    let tables = tables(shared, place, gets.iter().map(|get| (get.table, operation))).await?;
    for get in gets {
        let table = &table_of(&tables, get.table)?.table;
        place.check_for(table, None, operation)?;
        table.check_values(&get.key)?;
    }
    let locate = |get: &Get<'_>| {
        let table: &Table = &table_of(&tables, get.table)?.table;
        let key = table.key_of_request(&get.key)?;
        get.view.check(table)?;
        Ok(key)
    };
    let located: Vec<Result<ItemKey>> = gets.iter().map(locate).collect();
    check_distinct(&tables, gets.iter().map(|get| (get.table, &get.key)), &located)?;
    let located: Vec<_> = all_or_reasons(located)?.into_iter().map(Ok).collect();
    let keys = &located;
    let items = shared.on_snapshot(|snapshot| async move { read_all(&*snapshot, keys).await }).await?;
    let mut units: BTreeMap<String, Units> = BTreeMap::new();
    let mut responses = Vec::with_capacity(gets.len());
    let mut bytes = 0;
    for (get, read) in gets.iter().zip(items) {
        let size = read.item.as_ref().map_or(0, item_size);
        bytes += size;
        let sum = units.entry(get.table.into()).or_default();
        *sum = std::mem::take(sum).and(&Units::of_read(size, true));
        responses.push(match read.item {
            Some(item) => json!({ "Item": item_to_json(&get.view.show(item)) }),
            None => json!({}),
        });
    }
    if bytes > BYTES_MAX {
        return too_large();
    }
    shared.pay_for_transaction(&tables, &units, gets.iter().map(|get| get.table), Direction::Read)?;
    let mut output = json!({ "Responses": responses });
    if let Some(capacity) = capacity(request, &units, "ReadCapacityUnits")? {
        output["ConsumedCapacity"] = capacity;
    }
    Ok(output)
}

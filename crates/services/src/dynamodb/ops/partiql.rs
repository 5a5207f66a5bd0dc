//! ExecuteStatement, BatchExecuteStatement, ExecuteTransaction: statements, done by the operations that are there
//! without them.
//!
//! Invariants
//!   1. A write means one item: its condition names the whole key. What else it says is the condition of the write.
//!   2. A read goes along partitions where its condition names them, else along everything, and the whole condition
//!      is its filter.
//!   3. A token for the next page is good for the statement and parameters that made it, and nothing else.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use futures_util::future::join_all;
use serde_json::{Map, Value as Json, json};
use store::{Error as StoreError, Range};

use super::super::access::Access;
use super::super::capacity::Units;
use super::super::error::{Error, Result, invalid};
use super::super::partiql::{self, Returning, Select, Statement, plan};
use super::super::query;
use super::super::table::Table;
use super::super::throttle::{self, Direction};
use super::super::token;
use super::super::value::{AttributeValue, Item, item_from_json, item_size, item_to_json};
use super::action::{Action, Kind};
use super::items::{Guard, View};
use super::pages::{self, Page};
use super::request::{CAPACITY, Request, Rule, missing, report, table_name, wrong_type};
use super::transactions::{self, Get, Token};
use super::{Change, Place, Shared, consumed, decode};

/// Most statements of a batch and of a transaction.
const BATCH_MAX: usize = 25;
const TRANSACTION_MAX: usize = 100;
/// Most partitions that a SELECT names.
const HASHES_MAX: usize = 50;
/// Most characters of a statement.
const STATEMENT_CHARS_MAX: usize = 8_192;
const SHOW: &str = "ReturnValuesOnConditionCheckFailure";
const SHOW_RULE: Rule<'static> = Rule::OneOf(SHOW, &["ALL_OLD", "NONE"]);
const NEXT: Rule<'static> = Rule::Length("NextToken", 1, 32_768);
/// What the members of a statement must be on their own.
const STATEMENT: [Rule<'static>; 4] = [
    Rule::Required("Statement"),
    Rule::Length("Statement", 1, STATEMENT_CHARS_MAX),
    Rule::Filled("Parameters"),
    SHOW_RULE,
];

/// A statement of a request, read and not yet held against its table.
struct Asked {
    statement: Statement,
    show: bool,
    consistent: bool,
}

impl Asked {
    fn read(request: &Request) -> Result<Self> {
        request.check(&STATEMENT)?;
        let text = request.text("Statement")?.ok_or_else(|| missing("Statement"))?;
        let parameters = match request.list("Parameters")? {
            Some(list) => list.iter().map(AttributeValue::from_json).collect::<Result<_>>()?,
            None => Vec::new(),
        };
        Ok(Self {
            statement: partiql::parse(text, parameters)?,
            show: request.text(SHOW)? == Some("ALL_OLD"),
            consistent: request.flag("ConsistentRead")?.unwrap_or(false),
        })
    }

    /// The table's name.
    fn table(&self, place: &Place) -> Result<String> {
        table_name(self.statement.table(), place).map(Into::into)
    }
}

/// What a write is, on a table.
fn action<'a>(name: &'a str, table: &Table, asked: &Asked) -> Result<Action<'a>> {
    let guard = |condition| Guard::of(condition, asked.show);
    Ok(match &asked.statement {
        Statement::Insert { item, .. } => Action::new(name, Kind::Insert(item.clone()), item.clone(), guard(None)),
        Statement::Update { update, condition, .. } => {
            let (key, rest) = plan::key(table, condition.as_ref())?;
            Action::new(name, Kind::Update(update.clone()), key, guard(Some(plan::existing(table, rest))))
        }
        Statement::Delete { condition, .. } => {
            let (key, rest) = plan::key(table, condition.as_ref())?;
            Action::new(name, Kind::Delete, key, guard(plan::existing_or_missing(table, rest)))
        }
        Statement::Exists(select) => {
            let what = "EXISTS() must contain a single item read with additional condition";
            let Ok((key, rest)) = plan::key(table, select.condition.as_ref()) else { return invalid(what) };
            if rest.is_empty() || select.index.is_some() {
                return invalid(what);
            }
            Action::new(name, Kind::Check, key, guard(Some(plan::existing(table, rest))))
        }
        Statement::Select(_) => return invalid("Unsupported operation: Select"),
    })
}

/// What a statement has written.
struct Written {
    item: Option<Item>,
    units: Units,
}

/// Does a write on its own.
async fn write(shared: &Shared, place: &Place, name: &str, asked: &Asked) -> Result<Written> {
    if matches!(asked.statement, Statement::Exists(_)) {
        return invalid("EXISTS can only be used in ExecuteTransaction write requests.");
    }
    let found = shared.table(place, name).await?;
    let action = action(name, &found.table, asked)?;
    place.check_for(&found.table, None, action.permission(true))?;
    let locate = |table: &Table| {
        action.check_key_values(table)?;
        action.locate(table)
    };
    let decide = |table: &Table, before: Option<&Item>| {
        let change = action.decide(table, before)?;
        let after = match &change {
            Change::Put(after) => Some(after),
            Change::Delete => None,
            Change::Nothing => before,
        };
        let item = asked.statement.returning().and_then(|returning| returned(returning, &action, before, after));
        Ok((change, item))
    };
    let (item, units) = shared.change(place, name, locate, decide).await?;
    Ok(Written { item, units })
}

/// What RETURNING asks for.
fn returned(returning: Returning, action: &Action<'_>, before: Option<&Item>, after: Option<&Item>) -> Option<Item> {
    let item = if returning.new { after } else { before }?;
    if returning.all {
        return Some(item.clone());
    }
    Some(action.update()?.targets.project(item)).filter(|item| !item.is_empty())
}

/// `ExecuteStatement`
pub(super) async fn execute(shared: &Shared, place: &Place, request: &Request) -> Result<Json> {
    const MEMBERS: &[&str] =
        &["Statement", "Parameters", "ConsistentRead", "NextToken", "ReturnConsumedCapacity", "Limit", SHOW];
    request.only("ExecuteStatement", MEMBERS)?;
    request.check(&[Rule::Required("Statement"), Rule::Within("Limit", 1, i64::MAX), NEXT, SHOW_RULE, CAPACITY])?;
    let asked = Asked::read(request)?;
    let name = asked.table(place)?;
    if let Statement::Select(select) = &asked.statement {
        return read(shared, place, request, &name, select, asked.consistent).await;
    }
    let written = write(shared, place, &name, &asked).await?;
    let items: Vec<Json> = written.item.iter().map(item_to_json).collect();
    let mut output = json!({ "Items": items });
    if let Some(capacity) = consumed(request, &name, &written.units)? {
        output["ConsumedCapacity"] = capacity;
    }
    Ok(output)
}

/// What a token for the next page belongs to.
fn digest(request: &Request) -> String {
    let bound = request.members().filter(|(name, _)| matches!(*name, "Statement" | "Parameters"));
    hex::encode(token::digest(bound))
}

fn next_token(request: &Request, key: &Json) -> String {
    BASE64.encode(json!([digest(request), key]).to_string())
}

/// The key after which the page begins.
fn start(request: &Request) -> Result<Option<Item>> {
    let Some(text) = request.text("NextToken")? else {
        return Ok(None);
    };
    let token =
        BASE64.decode(text).ok().and_then(|bytes| serde_json::from_slice::<(String, Map<String, Json>)>(&bytes).ok());
    let Some((digest_of_token, key)) = token else {
        return invalid("Invalid NextToken");
    };
    if digest_of_token != digest(request) {
        return invalid("NextToken does not match request");
    }
    item_from_json(&key).map(Some)
}

/// The ranges that a SELECT reads, in the order of its answer.
fn ranges(access: &Access<'_>, select: &Select) -> Result<Vec<Range>> {
    let condition = select.condition.as_ref();
    let hash = &access.hash().name;
    let Some(mut values) = plan::choices(condition, hash) else {
        check_order(access, select, 0)?;
        return Ok(vec![access.whole(None)]);
    };
    values.sort_by(|a, b| a.order(b).unwrap_or(std::cmp::Ordering::Equal));
    values.dedup();
    if values.len() > HASHES_MAX {
        return invalid(format!("A statement may name at most {HASHES_MAX} values of the hash key: {}", values.len()));
    }
    check_order(access, select, values.len())?;
    let descends = |name: &str| select.order.iter().any(|(ordered, descending)| ordered == name && *descending);
    if descends(hash) {
        values.reverse();
    }
    let test = access.range().and_then(|range| Some((range.name.clone(), plan::sort_test(condition, &range.name)?)));
    let backwards = access.range().is_some_and(|range| descends(&range.name));
    let range = |value| {
        let equal = super::super::expression::condition::Comparator::Equal;
        let mut tests = vec![(hash.clone(), super::super::expression::key_condition::KeyTest::Compare(equal, value))];
        tests.extend(test.clone());
        let range = query::plan(access, &tests)?;
        Ok(if backwards { range.reversed() } else { range })
    };
    values.into_iter().map(range).collect()
}

/// Refuses an order that no way through the keys has.
fn check_order(access: &Access<'_>, select: &Select, partitions: usize) -> Result<()> {
    let Some((first, _)) = select.order.first() else {
        return Ok(());
    };
    if select.condition.is_none() {
        return invalid("Must have WHERE clause in the statement when using ORDER BY clause.");
    }
    if let Some((name, _)) = select.order.iter().find(|(name, _)| !access.is_key(name)) {
        return invalid(format!("Attribute {name} in ORDER BY clause must be part of the primary key"));
    }
    if partitions == 0 {
        return invalid(
            "Must have at least one non-optional hash key condition in WHERE clause when using ORDER BY clause.",
        );
    }
    if partitions > 1 && *first != access.hash().name {
        return invalid(
            "Must have hash key in ORDER BY clause when more than one hash key condition specified in WHERE clause.",
        );
    }
    Ok(())
}

/// A page of a SELECT.
async fn read(
    shared: &Shared,
    place: &Place,
    request: &Request,
    name: &str,
    select: &Select,
    consistent: bool,
) -> Result<Json> {
    let start = start(request)?;
    let found = shared.table(place, name).await?;
    place.check_for(&found.table, select.index.as_deref(), "PartiQLSelect")?;
    let access = access(&found.table, select, consistent)?;
    let mut ranges = ranges(&access, select)?;
    if let Some(start) = start {
        let key = access.start(&start)?;
        let Some(at) = ranges.iter().position(|range| range.contains(&key)) else {
            return invalid("NextToken does not match request");
        };
        ranges.drain(..at);
        if let Some(first) = ranges.first_mut() {
            *first = first.clone().beyond(key);
        }
    }
    let limit = request.number("Limit")?.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let page = Page {
        limit,
        filter: select.condition.clone(),
        view: View::of_columns(select.paths.clone()),
        consistent,
        of_partition: plan::choices(select.condition.as_ref(), &access.hash().name).is_some(),
    };
    let read = pages::read(shared, request, &access, ranges, page).await?;
    let mut output = json!({ "Items": read.items()? });
    if let Some(key) = read.last_evaluated_key.as_ref().map(item_to_json) {
        output["NextToken"] = json!(next_token(request, &key));
        output["LastEvaluatedKey"] = key;
    }
    if let Some(capacity) = read.consumed_capacity {
        output["ConsumedCapacity"] = capacity;
    }
    Ok(output)
}

fn access<'a>(table: &'a Table, select: &Select, consistent: bool) -> Result<Access<'a>> {
    Access::new(table, select.index.as_deref(), consistent).map_err(|error| match error {
        Error::Validation(text) if text.starts_with("The table does not have the specified index") => {
            Error::validation("The table does not have the specified index")
        }
        Error::Validation(text) if text.starts_with("Consistent reads are not supported") => {
            Error::validation("Strongly consistent read is not supported on Global Secondary Indexes")
        }
        other => other,
    })
}

/// The key of a SELECT that names one item and says nothing else.
fn single(table: &Table, select: &Select, operation: &str) -> Result<Item> {
    match plan::key(table, select.condition.as_ref()) {
        Ok((key, rest)) if rest.is_empty() && select.index.is_none() => Ok(key),
        _ => invalid(format!("Select statements within {operation} must specify the primary key in the where clause.")),
    }
}

/// The parts of a request, if their number is right.
fn parts(request: &Request, name: &str, most: usize) -> Result<Vec<Request>> {
    transactions::parts(request, name, most)?.iter().map(|part| Request::new(part.clone())).collect()
}

/// Refuses a call of statements whose members are not what they must be on their own.
fn check_parts(parts: &[Request], member: &str) -> Result<()> {
    let mut wrong = Vec::new();
    for (number, part) in (1..).zip(parts) {
        wrong.extend(part.broken_in(&format!("{member}.{number}.member."), &STATEMENT)?);
    }
    report(wrong)
}

/// `BatchExecuteStatement`
pub(super) async fn batch(shared: &Shared, place: &Place, request: &Request) -> Result<Json> {
    request.only("BatchExecuteStatement", &["Statements", "ReturnConsumedCapacity"])?;
    request.check(&[Rule::Required("Statements"), CAPACITY])?;
    let parts = parts(request, "Statements", BATCH_MAX)?;
    for part in &parts {
        part.only("BatchExecuteStatement.Statements", &["Statement", "Parameters", "ConsistentRead", SHOW])?;
    }
    check_parts(&parts, "statements")?;
    let asked: Vec<Result<Asked>> = parts.iter().map(Asked::read).collect();
    let reads = asked.iter().flatten().filter(|asked| asked.statement.is_read()).count();
    if reads > 0 && reads < asked.iter().flatten().count() {
        return invalid(
            "BatchExecuteStatement API does not support both read and write operations in the same request.",
        );
    }
    check_distinct(shared, place, asked.iter().flatten()).await?;
    let done = join_all(asked.into_iter().map(|asked| one_of_batch(shared, place, asked))).await;
    let mut responses = Vec::with_capacity(done.len());
    let mut units: std::collections::BTreeMap<String, Units> = std::collections::BTreeMap::new();
    for (response, used) in done {
        responses.push(response);
        if let Some((table, used)) = used {
            let sum = units.entry(table).or_default();
            *sum = std::mem::take(sum).and(&used);
        }
    }
    let mut output = json!({ "Responses": responses });
    let mut capacities = Vec::new();
    for (table, units) in &units {
        capacities.extend(consumed(request, table, units)?);
    }
    if !capacities.is_empty() {
        output["ConsumedCapacity"] = Json::Array(capacities);
    }
    Ok(output)
}

/// Refuses two statements of one item. What keeps a statement from meaning one is told as its own answer.
async fn check_distinct(shared: &Shared, place: &Place, all: impl Iterator<Item = &Asked>) -> Result<()> {
    let mut seen = BTreeSet::new();
    for asked in all {
        let Ok(name) = asked.table(place) else { continue };
        let Some(found) = shared.find_table(place, &name).await? else { continue };
        let key = match &asked.statement {
            Statement::Insert { item, .. } => Some(item.clone()),
            other => plan::key(&found.table, other.condition()).ok().map(|(key, _)| key),
        };
        if key.and_then(|key| found.table.place(&key)).is_some_and(|place| !seen.insert(place)) {
            return invalid("Provided list of item keys contains duplicates");
        }
    }
    Ok(())
}

/// The answer to one statement of a batch, and what it used of which table.
async fn one_of_batch(shared: &Shared, place: &Place, asked: Result<Asked>) -> (Json, Option<(String, Units)>) {
    let name = asked.as_ref().ok().and_then(|asked| asked.table(place).ok());
    let result = match asked {
        Ok(asked) => try_one_of_batch(shared, place, &asked).await,
        Err(error) => Err(error),
    };
    let mut response = Map::new();
    match result {
        Ok(written) => {
            response.extend(name.iter().map(|name| ("TableName".to_owned(), json!(name))));
            response.extend(written.item.iter().map(|item| ("Item".to_owned(), item_to_json(item))));
            (Json::Object(response), name.map(|name| (name, written.units)))
        }
        Err(error) => {
            // The table is told only where the statement came as far as the item.
            if matches!(error, Error::ConditionFailed(_) | Error::Duplicate) {
                response.extend(name.iter().map(|name| ("TableName".to_owned(), json!(name))));
            }
            response.insert("Error".into(), batch_error(error));
            (Json::Object(response), None)
        }
    }
}

async fn try_one_of_batch(shared: &Shared, place: &Place, asked: &Asked) -> Result<Written> {
    let name = asked.table(place)?;
    let Statement::Select(select) = &asked.statement else {
        return write(shared, place, &name, asked).await;
    };
    let found = shared.table(place, &name).await?;
    let key = found.table.key_of_request(&single(&found.table, select, "BatchExecuteStatement")?)?;
    place.check_for(&found.table, None, "PartiQLSelect")?;
    shared.admit(&found.table, None, Direction::Read)?;
    let entry = shared.store.get(&key.store).await?;
    let item = entry.as_ref().map(decode).transpose()?;
    let units = Units::of_read(item.as_ref().map_or(0, item_size), asked.consistent);
    shared.pay(&found.table, &units, Direction::Read);
    let view = View::of_columns(select.paths.clone());
    Ok(Written { item: item.map(|item| view.show(item)), units })
}

fn batch_error(error: Error) -> Json {
    let code = match &error {
        Error::ConditionFailed(_) => "ConditionalCheckFailed",
        Error::Duplicate => "DuplicateItem",
        Error::InConflict => "TransactionConflict",
        Error::NotFound(_) => "ResourceNotFound",
        Error::Store(StoreError::Busy) => "ThrottlingError",
        Error::Refused("AccessDeniedException", _) => "AccessDenied",
        Error::Throttled(short) => throttle::reason_code(short),
        Error::Store(_) | Error::Corrupt(_) | Error::Contended => "InternalServerError",
        _ => "ValidationError",
    };
    let mut json = json!({ "Code": code, "Message": error.to_string() });
    if let Error::ConditionFailed(Some(item)) = &error {
        json["Item"] = item_to_json(item);
    }
    json
}

/// `ExecuteTransaction`
pub(super) async fn transaction(shared: &Shared, place: &Place, request: &Request) -> Result<Json> {
    request.only("ExecuteTransaction", &["TransactStatements", "ClientRequestToken", "ReturnConsumedCapacity"])?;
    request.check(&[Rule::Required("TransactStatements"), CAPACITY])?;
    let parts = parts(request, "TransactStatements", TRANSACTION_MAX)?;
    let token = Token::of(request)?;
    check_parts(&parts, "transactStatements")?;
    let mut all = Vec::with_capacity(parts.len());
    for (at, part) in parts.iter().enumerate() {
        part.only("ExecuteTransaction.TransactStatements", &["Statement", "Parameters", SHOW])?;
        let asked = Asked::read(part).map_err(|error| in_part(at, error))?;
        if asked.statement.returning().is_some() {
            let what = "RETURNING clause is not supported in ExecuteTransaction.";
            return Err(in_part(at, Error::validation(what)));
        }
        let name = asked.table(place).map_err(|error| in_part(at, error))?;
        all.push((name, asked));
    }
    let reads = all.iter().filter(|(_, asked)| asked.statement.is_read()).count();
    if reads > 0 && reads < all.len() {
        return invalid("ExecuteTransaction API does not support both read and write operations in the same request.");
    }
    if reads > 0 {
        return read_all(shared, place, request, &all).await;
    }
    write_all(shared, place, request, &all, token.as_ref()).await
}

/// Says in which statement of a transaction something is wrong.
fn in_part(at: usize, error: Error) -> Error {
    match error {
        Error::Validation(text) => Error::validation(format!("Validation failed in TransactStatements[{at}]: {text}")),
        other => other,
    }
}

async fn read_all(shared: &Shared, place: &Place, request: &Request, all: &[(String, Asked)]) -> Result<Json> {
    let mut gets = Vec::with_capacity(all.len());
    for (at, (name, asked)) in all.iter().enumerate() {
        let Statement::Select(select) = &asked.statement else { return Err(wrong_type()) };
        if select.index.is_some() {
            return Err(in_part(at, Error::validation("Reads on indices are not supported within transactions.")));
        }
        let found = shared.table(place, name).await?;
        let key = single(&found.table, select, "ExecuteTransaction").map_err(|error| in_part(at, error))?;
        gets.push(Get { table: name, key, view: View::of_columns(select.paths.clone()) });
    }
    transactions::read_transaction(shared, place, request, &gets).await
}

async fn write_all(
    shared: &Shared,
    place: &Place,
    request: &Request,
    all: &[(String, Asked)],
    token: Option<&Token>,
) -> Result<Json> {
    let mut actions = Vec::with_capacity(all.len());
    for (at, (name, asked)) in all.iter().enumerate() {
        let found = shared.table(place, name).await?;
        actions.push(action(name, &found.table, asked).map_err(|error| in_part(at, error))?);
    }
    let written = transactions::write_all(shared, place, &actions, token).await?;
    let mut output = json!({ "Responses": [] });
    if let Some(capacity) = written.capacity(request)? {
        output["ConsumedCapacity"] = capacity;
    }
    Ok(output)
}

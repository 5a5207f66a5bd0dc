//! Operations on one item: PutItem, GetItem, UpdateItem, DeleteItem.
//!
//! Each checks its request, says where the item lies, and decides on the item as it is; `Shared::change` does the rest.

use aws::Reply;
use serde_json::{Map, Value as Json};
use store::Entry;

use super::super::capacity::Units;
use super::super::error::{Error, Result, invalid};
use super::super::expression::condition::{self, Condition};
use super::super::expression::evaluate::holds;
use super::super::expression::path::Path;
use super::super::expression::projection::{self, Projection};
use super::super::expression::update::{self, Expression, Update};
use super::super::index::{self, Origin};
use super::super::item;
use super::super::legacy;
use super::super::table::Table;
use super::super::throttle::Direction;
use super::super::value::{ITEM_BYTES_MAX, Item, item_size, item_to_json};
use super::request::{CAPACITY, CONDITIONAL, Request, Rule};
use super::{Change, Place, Shared, collections, consumed};

const RETURN_VALUES: &[&str] = &["ALL_NEW", "UPDATED_OLD", "ALL_OLD", "NONE", "UPDATED_NEW"];
const WRITE_MEMBERS: &[&str] = &[
    "TableName",
    "ConditionExpression",
    "ConditionalOperator",
    "Expected",
    "ExpressionAttributeNames",
    "ExpressionAttributeValues",
    "ReturnConsumedCapacity",
    "ReturnItemCollectionMetrics",
    "ReturnValues",
    "ReturnValuesOnConditionCheckFailure",
];

/// A condition, and whether its failure shows the item.
#[derive(Debug)]
pub(super) struct Guard {
    condition: Option<Condition>,
    show: bool,
}

impl Guard {
    /// The members of a write, checked before anything else.
    fn check_members(request: &Request, subject: &str) -> Result<()> {
        request.check(&[
            Rule::Required("TableName"),
            Rule::Required(subject),
            Rule::OneOf("ReturnValues", RETURN_VALUES),
            Rule::OneOf("ReturnItemCollectionMetrics", &["SIZE", "NONE"]),
            Rule::OneOf("ReturnValuesOnConditionCheckFailure", &["ALL_OLD", "NONE"]),
            CONDITIONAL,
            Rule::Legacy("Expected"),
            Rule::Legacy("AttributeUpdates"),
            CAPACITY,
        ])
    }

    pub(super) fn new(request: &Request, condition: Option<Condition>) -> Result<Self> {
        let show = request.text("ReturnValuesOnConditionCheckFailure")? == Some("ALL_OLD");
        Ok(Self { condition, show })
    }

    /// A condition; `show` says whether its failure shows the item.
    pub(super) fn of(condition: Option<Condition>, show: bool) -> Self {
        Self { condition, show }
    }

    pub(super) fn check(&self, before: Option<&Item>) -> Result<()> {
        let nothing = Item::new();
        match &self.condition {
            Some(condition) if !holds(condition, before.unwrap_or(&nothing)) => {
                let item = before.filter(|_| self.show).cloned().map(Box::new);
                Err(Error::ConditionFailed(item))
            }
            _ => Ok(()),
        }
    }
}

/// The answer of a write: `Attributes` and `ConsumedCapacity`, each if there is something to say.
fn written(request: &Request, attributes: Option<Item>, units: &Units) -> Result<Json> {
    let mut output = Map::new();
    if let Some(attributes) = attributes.filter(|attributes| !attributes.is_empty()) {
        output.insert("Attributes".into(), item_to_json(&attributes));
    }
    if let Some(capacity) = consumed(request, request.given_table()?, units)? {
        output.insert("ConsumedCapacity".into(), capacity);
    }
    Ok(Json::Object(output))
}

/// `ReturnValues` of operations that know the old item only.
fn returns_old(request: &Request) -> Result<bool> {
    match request.text("ReturnValues")? {
        None | Some("NONE") => Ok(false),
        Some("ALL_OLD") => Ok(true),
        Some(_) => invalid("ReturnValues can only be ALL_OLD or NONE"),
    }
}

fn parse_condition(request: &Request, scope: &mut super::super::expression::Scope) -> Result<Option<Condition>> {
    match request.text("ConditionExpression")? {
        Some(text) => scope.parse("ConditionExpression", text, condition::parse).map(Some),
        None => request.expected(),
    }
}

/// Key attributes are scalars: an expression that looks inside one is refused.
pub(super) fn check_key_paths<'a>(table: &Table, paths: impl IntoIterator<Item = &'a Path>) -> Result<()> {
    let nested: Vec<&Path> = paths.into_iter().filter(|path| path.is_nested()).collect();
    let of_table = nested.iter().find(|path| table.is_key(path.head())).map(|path| ("Key", path));
    let of_index = || nested.iter().find(|path| table.is_index_key(path.head())).map(|path| ("IndexKey", path));
    match of_table.or_else(of_index) {
        Some((kind, path)) => invalid(format!(
            "Key attributes must be scalars; list random access '[]' and map lookup '.' are not allowed: {kind}: {}",
            path.head()
        )),
        None => Ok(()),
    }
}

pub(super) fn check_condition_paths(table: &Table, guard: &Guard) -> Result<()> {
    let mut paths = Vec::new();
    if let Some(condition) = &guard.condition {
        condition::heads(condition, &mut paths);
    }
    check_key_paths(table, paths)
}

/// `PutItem`
pub(super) async fn put(shared: &Shared, place: &Place, request: &Request) -> Result<Json> {
    request.only("PutItem", &[WRITE_MEMBERS, &["Item"]].concat())?;
    Guard::check_members(request, "Item")?;
    let name = request.table_name(place)?;
    request.check_expressions(&["ConditionExpression"])?;
    let item = request.item("Item")?;
    let returns_old = returns_old(request)?;
    if item_size(&item) > ITEM_BYTES_MAX {
        return invalid("Item size has exceeded the maximum allowed size");
    }
    let mut scope = request.scope()?;
    let guard = Guard::new(request, parse_condition(request, &mut scope)?)?;
    scope.finish()?;
    let locate = |table: &Table| {
        let key = table.key_of_item(&item)?;
        check_condition_paths(table, &guard)?;
        Ok(key)
    };
    let decide = |_: &Table, before: Option<&Item>| {
        guard.check(before)?;
        Ok((Change::Put(item.clone()), before.filter(|_| returns_old).cloned()))
    };
    let (attributes, units) = shared.change(place, name, locate, decide).await?;
    let answer = written(request, attributes, &units)?;
    collections::add(shared, place, request, name, &item, answer).await
}

/// `DeleteItem`
pub(super) async fn delete(shared: &Shared, place: &Place, request: &Request) -> Result<Json> {
    request.only("DeleteItem", &[WRITE_MEMBERS, &["Key"]].concat())?;
    Guard::check_members(request, "Key")?;
    let name = request.table_name(place)?;
    request.check_expressions(&["ConditionExpression"])?;
    let key = request.item("Key")?;
    let returns_old = returns_old(request)?;
    let mut scope = request.scope()?;
    let guard = Guard::new(request, parse_condition(request, &mut scope)?)?;
    scope.finish()?;
    let locate = |table: &Table| {
        let key = table.key_of_request(&key)?;
        check_condition_paths(table, &guard)?;
        Ok(key)
    };
    let decide = |_: &Table, before: Option<&Item>| {
        guard.check(before)?;
        Ok((Change::Delete, before.filter(|_| returns_old).cloned()))
    };
    let (attributes, units) = shared.change(place, name, locate, decide).await?;
    let answer = written(request, attributes, &units)?;
    collections::add(shared, place, request, name, &key, answer).await
}

/// `UpdateItem`
pub(super) async fn update(shared: &Shared, place: &Place, request: &Request) -> Result<Json> {
    request.only("UpdateItem", &[WRITE_MEMBERS, &["Key", "UpdateExpression", "AttributeUpdates"]].concat())?;
    Guard::check_members(request, "Key")?;
    let name = request.table_name(place)?;
    request.check_expressions(&["UpdateExpression", "ConditionExpression"])?;
    let key = request.item("Key")?;
    let mut scope = request.scope()?;
    let update = match (request.text("UpdateExpression")?, request.map("AttributeUpdates")?) {
        (Some(text), _) => scope.parse("UpdateExpression", text, update::parse)?,
        (None, Some(map)) => legacy::updates(map)?,
        (None, None) => Update::default(),
    };
    let guard = Guard::new(request, parse_condition(request, &mut scope)?)?;
    scope.finish()?;
    let locate = |table: &Table| {
        let key = table.key_of_request(&key)?;
        check_targets(table, &update)?;
        check_condition_paths(table, &guard)?;
        Ok(key)
    };
    let decide = |table: &Table, before: Option<&Item>| {
        guard.check(before)?;
        if before.is_none() && update.only_deletes() {
            return Ok((Change::Nothing, None));
        }
        let after = super::super::update::apply(&update, before, &key)?;
        table.check_item(&after, Origin::Update(before))?;
        let attributes = match request.text("ReturnValues")? {
            Some("ALL_OLD") => before.cloned(),
            Some("ALL_NEW") => Some(after.clone()),
            Some("UPDATED_OLD") => before.map(|before| update.targets.project(before)),
            Some("UPDATED_NEW") => Some(update.targets.project(&after)),
            _ => None,
        };
        let change = if before == Some(&after) { Change::Nothing } else { Change::Put(after) };
        Ok((change, attributes))
    };
    let (attributes, units) = shared.change(place, name, locate, decide).await?;
    let answer = written(request, attributes, &units)?;
    collections::add(shared, place, request, name, &key, answer).await
}

pub(super) fn check_targets(table: &Table, update: &Update) -> Result<()> {
    check_key_paths(table, update.paths())?;
    if let Some(path) = update.paths().find(|path| table.is_key(path.head())) {
        return invalid(format!(
            "One or more parameter values were invalid: Cannot update attribute {}. This attribute is part of the key",
            path.head()
        ));
    }
    for (path, expression) in &update.set {
        if let Expression::Value(value) = expression {
            index::check_assigned(table, path.head(), value)?;
        }
    }
    Ok(())
}

/// What a read answers of an item.
#[derive(Default)]
pub(super) struct View {
    projection: Option<Projection>,
    attributes: Option<Vec<String>>,
    /// What a statement selects: each path under the name of its last step.
    columns: Option<Vec<Path>>,
}

impl View {
    /// From `ProjectionExpression` or `AttributesToGet`.
    pub(super) fn of(request: &Request, scope: &mut super::super::expression::Scope) -> Result<Self> {
        let text = request.text("ProjectionExpression")?;
        let projection = text.map(|text| scope.parse("ProjectionExpression", text, projection::parse)).transpose()?;
        Ok(Self { projection, attributes: request.attributes_to_get()?, columns: None })
    }

    /// What a statement selects; nothing means whole items.
    pub(super) fn of_columns(columns: Option<Vec<Path>>) -> Self {
        Self { columns, ..Self::default() }
    }

    /// The top-level attributes that it names.
    pub(super) fn heads(&self) -> Vec<&str> {
        match (&self.projection, &self.attributes) {
            (Some(projection), _) => projection.paths.iter().map(Path::head).collect(),
            (None, Some(names)) => names.iter().map(String::as_str).collect(),
            (None, None) => self.columns.iter().flatten().map(Path::head).collect(),
        }
    }

    /// Whether it names attributes at all.
    pub(super) fn is_some(&self) -> bool {
        self.projection.is_some() || self.attributes.is_some()
    }

    /// Whether it shows whole items.
    pub(super) fn is_whole(&self) -> bool {
        !self.is_some() && self.columns.is_none()
    }

    pub(super) fn check(&self, table: &Table) -> Result<()> {
        let projected = self.projection.iter().flat_map(|projection| &projection.paths);
        check_key_paths(table, projected.chain(self.columns.iter().flatten()))
    }

    pub(super) fn show(&self, item: Item) -> Item {
        if let Some(columns) = &self.columns {
            let column = |(at, path): (usize, &Path)| Some((path.column(at), path.find(&item)?.clone()));
            return columns.iter().enumerate().filter_map(column).collect();
        }
        match (&self.projection, &self.attributes) {
            (Some(projection), _) => projection.tree.project(&item),
            (None, Some(names)) => item.into_iter().filter(|(name, _)| names.contains(name)).collect(),
            (None, None) => item,
        }
    }
}

/// `GetItem`
pub(super) async fn get(shared: &Shared, place: &Place, request: &Request) -> Result<Reply> {
    const MEMBERS: &[&str] = &[
        "TableName",
        "Key",
        "AttributesToGet",
        "ConsistentRead",
        "ReturnConsumedCapacity",
        "ProjectionExpression",
        "ExpressionAttributeNames",
    ];
    request.only("GetItem", MEMBERS)?;
    request.check(&[Rule::Filled("AttributesToGet"), Rule::Required("TableName"), Rule::Required("Key"), CAPACITY])?;
    let name = request.table_name(place)?;
    request.check_expressions(&["ProjectionExpression"])?;
    let key = request.item("Key")?;
    let mut scope = request.scope()?;
    let view = View::of(request, &mut scope)?;
    scope.finish()?;
    let consistent = request.flag("ConsistentRead")?.unwrap_or(false);
    let found = shared.table(place, name).await?;
    let key = found.table.key_of_request(&key)?;
    view.check(&found.table)?;
    shared.admit(&found.table, None, Direction::Read)?;
    let entry = shared.store.get(&key.store).await?;
    let mut text = Vec::with_capacity(entry.as_ref().map_or(0, |entry| entry.value.len() + entry.value.len() / 8) + 64);
    text.push(b'{');
    let bytes = match &entry {
        Some(entry) => show(entry, &view, &mut text)?,
        None => 0,
    };
    let units = Units::of_read(bytes, consistent);
    shared.pay(&found.table, &units, Direction::Read);
    if let Some(capacity) = consumed(request, request.given_table()?, &units)? {
        let comma = if entry.is_some() { "," } else { "" };
        text.extend_from_slice(format!("{comma}\"ConsumedCapacity\":{capacity}").as_bytes());
    }
    text.push(b'}');
    Ok(Reply::text(text))
}

/// Appends the member `Item` of an answer; the bytes of the item as it is stored. One that is shown whole is never made.
fn show(entry: &Entry, view: &View, text: &mut Vec<u8>) -> Result<usize> {
    text.extend_from_slice(b"\"Item\":");
    if view.is_whole() {
        return item::write_json(&entry.value, text).ok_or(Error::Corrupt("item"));
    }
    let item = super::decode(entry)?;
    let bytes = item_size(&item);
    // Memory takes every byte, and maps with names for keys always serialise.
    let _ = serde_json::to_writer(text, &view.show(item));
    Ok(bytes)
}

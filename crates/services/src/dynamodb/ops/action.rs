//! One write of an item that was read from a request and not yet held against a table: what transactions and statements
//! are made of.
//!
//! Pure: a table and the item before in, a decision out. Who calls reads and commits.

use super::super::error::{Error, Result, invalid};
use super::super::expression::condition;
use super::super::expression::update::{self, Update};
use super::super::index::Origin;
use super::super::table::{ItemKey, Table};
use super::super::value::{ITEM_BYTES_MAX, Item, item_size};
use super::Change;
use super::items::{Guard, check_condition_paths, check_targets};
use super::request::Request;

/// What is to be done.
#[derive(Debug)]
pub(super) enum Kind {
    /// Nothing but to check the condition.
    Check,
    /// Puts this item in the place of any other.
    Put(Item),
    /// Puts this item where none is.
    Insert(Item),
    /// Changes an item or makes it.
    Update(Update),
    /// Removes an item, if there is one.
    Delete,
}

/// A write with its condition.
#[derive(Debug)]
pub(super) struct Action<'a> {
    /// The table as the request names it.
    pub(super) table: &'a str,
    kind: Kind,
    /// The key attributes; of a whole item, the item.
    key: Item,
    guard: Guard,
}

impl<'a> Action<'a> {
    /// A whole item is its own key.
    pub(super) fn new(table: &'a str, kind: Kind, key: Item, guard: Guard) -> Self {
        Self { table, kind, key, guard }
    }

    /// Reads `ConditionCheck`, `Put`, `Update` or `Delete` of a transaction, whose members are `request`.
    pub(super) fn of_transaction(table: &'a str, name: &str, request: &Request) -> Result<Self> {
        let expressions: &[&str] = match name {
            "Update" => &["UpdateExpression", "ConditionExpression"],
            _ => &["ConditionExpression"],
        };
        request.check_expressions(expressions)?;
        let item = request.item(if name == "Put" { "Item" } else { "Key" })?;
        if name == "Put" && item_size(&item) > ITEM_BYTES_MAX {
            return invalid("Item size has exceeded the maximum allowed size");
        }
        let mut scope = request.scope()?;
        let kind = match name {
            "Put" => Kind::Put(item.clone()),
            "Delete" => Kind::Delete,
            "Update" => {
                let text = request.text("UpdateExpression")?.unwrap_or_default();
                Kind::Update(scope.parse("UpdateExpression", text, update::parse)?)
            }
            _ => Kind::Check,
        };
        let text = request.text("ConditionExpression")?;
        let parsed = text.map(|text| scope.parse("ConditionExpression", text, condition::parse)).transpose()?;
        scope.finish()?;
        Ok(Self { table, kind, key: item, guard: Guard::new(request, parsed)? })
    }

    /// The key attributes, perhaps among others.
    pub(super) fn key(&self) -> &Item {
        &self.key
    }

    /// The bytes that the request brings: of the key, the item, or the values of an update.
    pub(super) fn bytes(&self) -> usize {
        item_size(&self.key) + self.update().map_or(0, Update::bytes)
    }

    /// Refuses keys without content, whatever else is wrong with them.
    pub(super) fn check_key_values(&self, table: &Table) -> Result<()> {
        table.check_values(&self.key)
    }

    /// Where the item lies, if the request fits the table.
    pub(super) fn locate(&self, table: &Table) -> Result<ItemKey> {
        let key = match &self.kind {
            Kind::Put(item) | Kind::Insert(item) => table.key_of_item(item)?,
            Kind::Check | Kind::Update(_) | Kind::Delete => table.key_of_request(&self.key)?,
        };
        if let Kind::Update(update) = &self.kind {
            check_targets(table, update)?;
        }
        check_condition_paths(table, &self.guard)?;
        Ok(key)
    }

    /// What becomes of the item.
    pub(super) fn decide(&self, table: &Table, before: Option<&Item>) -> Result<Change> {
        if matches!(self.kind, Kind::Insert(_)) && before.is_some() {
            return Err(Error::Duplicate);
        }
        self.guard.check(before)?;
        Ok(match &self.kind {
            Kind::Check => Change::Nothing,
            Kind::Put(item) | Kind::Insert(item) => Change::Put(item.clone()),
            Kind::Delete if before.is_some() => Change::Delete,
            Kind::Delete => Change::Nothing,
            Kind::Update(update) => {
                let after = super::super::update::apply(update, before, &self.key)?;
                table.check_item(&after, Origin::Update(before))?;
                if before == Some(&after) { Change::Nothing } else { Change::Put(after) }
            }
        })
    }

    /// What policies call it, as a statement or as a part of a request.
    pub(super) fn permission(&self, is_statement: bool) -> &'static str {
        match (&self.kind, is_statement) {
            (Kind::Check, _) => "ConditionCheckItem",
            (Kind::Put(_) | Kind::Insert(_), false) => "PutItem",
            (Kind::Put(_) | Kind::Insert(_), true) => "PartiQLInsert",
            (Kind::Update(_), false) => "UpdateItem",
            (Kind::Update(_), true) => "PartiQLUpdate",
            (Kind::Delete, false) => "DeleteItem",
            (Kind::Delete, true) => "PartiQLDelete",
        }
    }

    /// What an update does.
    pub(super) fn update(&self) -> Option<&Update> {
        match &self.kind {
            Kind::Update(update) => Some(update),
            _ => None,
        }
    }
}

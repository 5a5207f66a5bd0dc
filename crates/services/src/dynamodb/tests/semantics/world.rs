//! The tables of the model: what a write makes of an item, what indexes have of it, what a page shows.
//!
//! Two tables. The first has a sort key and four indexes, the second neither a sort key nor more than one index.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value as Json, json};

use super::expressions::{self, Change, Condition, Operand, Path, Term, Update, compares, project};
use super::values::{Item, Value, item_bytes, item_json};

/// Which attributes an index has besides keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Projection {
    All,
    KeysOnly,
    Include(&'static [&'static str]),
}

#[derive(Debug)]
pub(super) struct Index {
    pub(super) name: &'static str,
    pub(super) local: bool,
    pub(super) hash: &'static str,
    pub(super) range: Option<&'static str>,
    pub(super) projection: Projection,
}

pub(super) const INDEXES: [&[Index]; 2] = [
    &[
        Index { name: "local-rank", local: true, hash: "id", range: Some("rank"), projection: Projection::KeysOnly },
        Index {
            name: "local-kind",
            local: true,
            hash: "id",
            range: Some("kind"),
            projection: Projection::Include(&["b", "l"]),
        },
        Index {
            name: "by-kind",
            local: false,
            hash: "kind",
            range: Some("rank"),
            projection: Projection::Include(&["a", "m"]),
        },
        Index { name: "by-rank", local: false, hash: "rank", range: Some("kind"), projection: Projection::All },
    ],
    &[Index { name: "by-kind", local: false, hash: "kind", range: None, projection: Projection::KeysOnly }],
];

/// The sort key counts in the first table alone.
pub(super) type Key = (&'static str, i64);

/// One write of one item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    Put(Item),
    /// Where no item is.
    Insert(Item),
    Update(Update),
    Delete,
    /// Nothing but its condition.
    Check,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Write {
    pub(super) table: usize,
    pub(super) key: Key,
    pub(super) kind: Kind,
    pub(super) condition: Option<Condition>,
    /// Whether the item is to be shown where the condition does not hold.
    pub(super) show: bool,
}

/// Why something is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    Invalid,
    Failed(Option<Item>),
    Duplicate,
    /// With the reason of each part.
    Cancelled(Vec<Option<Refusal>>),
    TokenReused,
}

/// An item before and after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Changed {
    pub(super) before: Option<Item>,
    pub(super) after: Option<Item>,
}

#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) items: BTreeMap<Key, Item>,
    /// What became of each item that changed, in order.
    pub(super) history: BTreeMap<Key, Vec<Changed>>,
}

/// Both tables, and the transactions that clients have named.
#[derive(Debug, Default)]
pub(super) struct World {
    pub(super) tables: [Table; 2],
    pub(super) tokens: BTreeMap<u8, (bool, Vec<Write>)>,
}

/// The attributes of a key.
pub(super) fn key_item(table: usize, key: Key) -> Item {
    let mut item = Item::from([("id", Value::S(key.0))]);
    if table == 0 {
        item.insert("at", Value::N(key.1));
    }
    item
}

pub(super) fn placed(table: usize, key: Key) -> Key {
    if table == 0 { key } else { (key.0, 0) }
}

fn fits_index(name: &str, value: &Value) -> bool {
    match (name, value) {
        ("kind", Value::S(text)) => !text.is_empty(),
        ("rank", Value::N(_)) => true,
        _ => false,
    }
}

/// The attributes that are keys of indexes.
fn index_keys(table: usize) -> BTreeSet<&'static str> {
    let names = INDEXES[table].iter().flat_map(|index| std::iter::once(index.hash).chain(index.range));
    names.filter(|name| *name != "id").collect()
}

impl Write {
    pub(super) fn place(&self) -> (usize, Key) {
        (self.table, placed(self.table, self.key))
    }

    /// The whole item of one that brings an item.
    pub(super) fn whole(&self) -> Option<Item> {
        match &self.kind {
            Kind::Put(content) | Kind::Insert(content) => {
                Some(content.clone().into_iter().chain(key_item(self.table, self.key)).collect())
            }
            _ => None,
        }
    }

    pub(super) fn update(&self) -> Option<&Update> {
        match &self.kind {
            Kind::Update(update) => Some(update),
            _ => None,
        }
    }

    /// The same as a statement means it: an update is of what is there, and nothing that is missing is kept from going.
    pub(super) fn of_statement(&self) -> Self {
        let id = Path::to("id");
        let condition = match (&self.kind, self.condition.clone()) {
            (Kind::Update(_) | Kind::Check, condition) => {
                Some(Condition::And(std::iter::once(Condition::Exists(id)).chain(condition).collect()))
            }
            (Kind::Delete, Some(condition)) => Some(Condition::Or(vec![Condition::Missing(id), condition])),
            (Kind::Delete, None) | (Kind::Put(_) | Kind::Insert(_), _) => None,
        };
        Self { condition, ..self.clone() }
    }

    /// What becomes of an item.
    pub(super) fn decide(&self, before: Option<&Item>) -> Result<Option<Item>, Refusal> {
        let keys = index_keys(self.table);
        let unfit = |item: &Item| item.iter().any(|(name, value)| keys.contains(name) && !fits_index(name, value));
        if let Some(item) = self.whole().filter(&unfit) {
            drop(item);
            return Err(Refusal::Invalid);
        }
        // Told before the item is looked at. That the value is empty is told later.
        let wrong_kind = |change: &Change| match change {
            Change::Set(path, Term::Value(value)) if keys.contains(path.head) => {
                value.kind() != if path.head == "kind" { "S" } else { "N" }
            }
            _ => false,
        };
        if self.update().is_some_and(|update| update.iter().any(wrong_kind)) {
            return Err(Refusal::Invalid);
        }
        if matches!(self.kind, Kind::Insert(_)) && before.is_some() {
            return Err(Refusal::Duplicate);
        }
        let nothing = Item::new();
        if self.condition.as_ref().is_some_and(|condition| !condition.holds(before.unwrap_or(&nothing))) {
            return Err(Refusal::Failed(before.filter(|_| self.show).cloned()));
        }
        let update = match &self.kind {
            Kind::Check => return Ok(before.cloned()),
            Kind::Delete => return Ok(None),
            Kind::Put(_) | Kind::Insert(_) => return Ok(self.whole()),
            Kind::Update(update) => update,
        };
        let start = before.cloned().unwrap_or_else(|| key_item(self.table, self.key));
        // Of an item that is not there nothing is taken, however deep.
        let takes_nothing =
            |change: &Change| before.is_none() && matches!(change, Change::Remove(path) if !path.steps.is_empty());
        let update: Update = update.iter().filter(|change| !takes_nothing(change)).cloned().collect();
        let after = expressions::updated(&start, &update).map_err(|_| Refusal::Invalid)?;
        let changed = after.iter().filter(|(name, value)| start.get(*name) != Some(value));
        if unfit(&changed.map(|(name, value)| (*name, value.clone())).collect()) {
            return Err(Refusal::Invalid);
        }
        Ok(Some(after))
    }
}

impl Table {
    fn set(&mut self, key: Key, after: Option<Item>) -> Changed {
        let before = match after.clone() {
            Some(item) => self.items.insert(key, item),
            None => self.items.remove(&key),
        };
        let changed = Changed { before, after };
        if changed.before != changed.after {
            self.history.entry(key).or_default().push(changed.clone());
        }
        changed
    }
}

impl World {
    pub(super) fn item(&self, place: (usize, Key)) -> Option<&Item> {
        self.tables[place.0].items.get(&place.1)
    }

    /// One write on its own.
    pub(super) fn write(&mut self, write: &Write) -> Result<Changed, Refusal> {
        let (table, key) = write.place();
        let after = write.decide(self.item((table, key)))?;
        Ok(self.tables[table].set(key, after))
    }

    /// All or nothing.
    pub(super) fn transact(&mut self, writes: &[Write], of_statements: bool, token: Option<u8>) -> Result<(), Refusal> {
        let places: BTreeSet<_> = writes.iter().map(Write::place).collect();
        if places.len() < writes.len() {
            return Err(Refusal::Invalid);
        }
        let named = (of_statements, writes.to_vec());
        match token.and_then(|token| self.tokens.get(&token)) {
            Some(earlier) if *earlier == named => return Ok(()),
            Some(_) => return Err(Refusal::TokenReused),
            None => {}
        }
        let meant: Vec<Write> =
            writes.iter().map(|write| if of_statements { write.of_statement() } else { write.clone() }).collect();
        let decided: Vec<_> = meant.iter().map(|write| write.decide(self.item(write.place()))).collect();
        if let Some(first) = decided.iter().position(|one| matches!(one, Err(Refusal::Invalid))) {
            let reasons = (0..decided.len()).map(|at| (at == first).then_some(Refusal::Invalid));
            return Err(Refusal::Cancelled(reasons.collect()));
        }
        if decided.iter().any(Result::is_err) {
            return Err(Refusal::Cancelled(decided.into_iter().map(Result::err).collect()));
        }
        for (write, after) in meant.iter().zip(decided) {
            let (table, key) = write.place();
            self.tables[table].set(key, after.unwrap());
        }
        if let Some(token) = token {
            self.tokens.insert(token, named);
        }
        Ok(())
    }

    /// Puts and deletes, each on its own, if none is wrong.
    pub(super) fn batch(&mut self, writes: &[Write]) -> Result<(), Refusal> {
        let places: BTreeSet<_> = writes.iter().map(Write::place).collect();
        let wrong = writes.iter().any(|write| write.decide(None).is_err());
        if places.len() < writes.len() || wrong {
            return Err(Refusal::Invalid);
        }
        for write in writes {
            self.write(write).unwrap();
        }
        Ok(())
    }
}

/// A table, or one of its indexes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Access {
    pub(super) table: usize,
    pub(super) index: Option<usize>,
}

/// What is asked of a sort key.
#[derive(Debug, Clone)]
pub(super) enum Sort {
    Compare(&'static str, Value),
    Between(Value, Value),
    Begins(&'static str),
}

impl Sort {
    fn holds(&self, value: &Value) -> bool {
        match self {
            Self::Compare(operator, bound) => compares(operator, value, bound),
            Self::Between(low, high) => compares(">=", value, low) && compares("<=", value, high),
            Self::Begins(start) => matches!(value, Value::S(text) if text.starts_with(start)),
        }
    }

    /// As a condition on an attribute.
    pub(super) fn condition(&self, name: &'static str) -> Condition {
        let operand = Operand::Path(Path::to(name));
        match self.clone() {
            Self::Compare(operator, bound) => Condition::Compare(operator, operand, Operand::Value(bound)),
            Self::Between(low, high) => Condition::Between(operand, Operand::Value(low), Operand::Value(high)),
            Self::Begins(start) => Condition::Begins(Path::to(name), Operand::Value(Value::S(start))),
        }
    }
}

impl Access {
    pub(super) fn index(self) -> Option<&'static Index> {
        self.index.map(|index| &INDEXES[self.table][index])
    }

    pub(super) fn hash(self) -> &'static str {
        self.index().map_or("id", |index| index.hash)
    }

    pub(super) fn range(self) -> Option<&'static str> {
        match self.index() {
            Some(index) => index.range,
            None => (self.table == 0).then_some("at"),
        }
    }

    /// Whether an attribute can be had here without the table's item.
    pub(super) fn has(self, name: &str) -> bool {
        let Some(index) = self.index() else { return true };
        let keys = ["id", self.hash(), self.range().unwrap_or("id"), if self.table == 0 { "at" } else { "id" }];
        match index.projection {
            Projection::All => true,
            Projection::Include(names) if names.contains(&name) => true,
            _ => keys.contains(&name),
        }
    }

    pub(super) fn shown(self, item: &Item) -> Item {
        item.iter().filter(|(name, _)| self.has(name)).map(|(name, value)| (*name, value.clone())).collect()
    }

    /// The items of the table that lie here, whole, in order; of one partition, if one is asked for.
    pub(super) fn items(self, world: &World, hash: Option<&Value>) -> Vec<Item> {
        let there = |item: &&Item| {
            let has = item.contains_key(self.hash()) && self.range().is_none_or(|range| item.contains_key(range));
            has && hash.is_none_or(|hash| item.get(self.hash()) == Some(hash))
        };
        let mut items: Vec<Item> = world.tables[self.table].items.values().filter(there).cloned().collect();
        if let Some(range) = self.range() {
            // A stable sort: what is equal stays in the order of the table's keys.
            items.sort_by(|a, b| a[range].order(&b[range]).unwrap());
        }
        items
    }

    /// The same, as far as the sort key is as asked.
    pub(super) fn partition(self, world: &World, hash: &Value, sort: Option<&Sort>, forward: bool) -> Vec<Item> {
        let mut items = self.items(world, Some(hash));
        if let (Some(sort), Some(range)) = (sort, self.range()) {
            items.retain(|item| sort.holds(&item[range]));
        }
        if !forward {
            items.reverse();
        }
        items
    }

    /// What tells where a page ended.
    pub(super) fn position(self, item: &Item) -> Json {
        let mut keys = vec!["id", self.hash()];
        keys.extend(self.range());
        keys.extend((self.table == 0).then_some("at"));
        let part = project(item, &keys.iter().copied().map(Path::to).collect::<Vec<_>>());
        item_json(&part)
    }

    /// What a filter sees of an item: what lies in the index.
    pub(super) fn seen(self, item: &Item) -> Item {
        if self.index().is_some() { self.shown(item) } else { item.clone() }
    }

    /// Items and bytes, as the table's description has them.
    pub(super) fn count(self, world: &World) -> (usize, usize) {
        let items = self.items(world, None);
        (items.len(), items.iter().map(|item| item_bytes(&self.shown(item))).sum())
    }
}

/// The description of a table, to make it.
pub(super) fn create(table: usize, name: &str) -> Json {
    let hash_and_range = |hash: &str, range: Option<&str>| {
        let roles = ["HASH", "RANGE"].into_iter();
        let keys = std::iter::once(hash).chain(range).zip(roles);
        keys.map(|(name, role)| json!({ "AttributeName": name, "KeyType": role })).collect::<Vec<_>>()
    };
    let mut input = json!({
        "TableName": name, "BillingMode": "PAY_PER_REQUEST",
        "AttributeDefinitions": [
            { "AttributeName": "id", "AttributeType": "S" }, { "AttributeName": "kind", "AttributeType": "S" },
        ],
        "KeySchema": hash_and_range("id", (table == 0).then_some("at")),
        "StreamSpecification": { "StreamEnabled": true, "StreamViewType": "NEW_AND_OLD_IMAGES" },
        "GlobalSecondaryIndexes": [],
    });
    if table == 0 {
        let numbers = ["at", "rank"].map(|name| json!({ "AttributeName": name, "AttributeType": "N" }));
        input["AttributeDefinitions"].as_array_mut().unwrap().extend(numbers);
        input["LocalSecondaryIndexes"] = json!([]);
    }
    for index in INDEXES[table] {
        let projection = match index.projection {
            Projection::All => json!({ "ProjectionType": "ALL" }),
            Projection::KeysOnly => json!({ "ProjectionType": "KEYS_ONLY" }),
            Projection::Include(names) => json!({ "ProjectionType": "INCLUDE", "NonKeyAttributes": names }),
        };
        let member = if index.local { "LocalSecondaryIndexes" } else { "GlobalSecondaryIndexes" };
        input[member].as_array_mut().unwrap().push(json!({
            "IndexName": index.name, "Projection": projection, "KeySchema": hash_and_range(index.hash, index.range),
        }));
    }
    input
}

//! Paths, conditions and updates of the model: what they are, how they come about, and what they mean.
//!
//! Only what a reader of expressions lets pass is made here; what it refuses is tested beside it.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::values::{Item, MEMBERS, NAMES, Value, at, id, kind, list_of, number, ordered, rank, set, text, value};

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    Name(&'static str),
    Index(usize),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Path {
    pub(super) head: &'static str,
    pub(super) steps: Vec<Step>,
}

impl Path {
    pub(super) fn to(head: &'static str) -> Self {
        Self { head, steps: Vec::new() }
    }

    pub(super) fn find<'a>(&self, item: &'a Item) -> Option<&'a Value> {
        self.steps.iter().try_fold(item.get(self.head)?, |value, step| match (value, step) {
            (Value::M(map), Step::Name(name)) => map.get(name),
            (Value::L(list), Step::Index(index)) => list.get(*index),
            _ => None,
        })
    }

    fn all(&self) -> Vec<Step> {
        std::iter::once(Step::Name(self.head)).chain(self.steps.iter().cloned()).collect()
    }

    /// Whether both can be targets of one update, or parts of one projection.
    fn gets_along(&self, other: &Self) -> bool {
        match self.all().iter().zip(&other.all()).find(|(a, b)| a != b) {
            None => false,
            Some(pair) => !matches!(pair, (Step::Name(_), Step::Index(_)) | (Step::Index(_), Step::Name(_))),
        }
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> + Clone {
    let step = prop_oneof![
        prop::sample::select(&MEMBERS[..]).prop_map(Step::Name),
        prop_oneof![4 => 0usize..3, 1 => 3usize..6].prop_map(Step::Index),
    ];
    prop::collection::vec(step, 0..3)
}

/// A path into what no index has for a key.
pub(super) fn path() -> impl Strategy<Value = Path> + Clone {
    prop_oneof![
        3 => prop::sample::select(&NAMES[..]).prop_map(Path::to),
        2 => (prop_oneof![4 => 0usize..3, 1 => 3usize..6], steps())
            .prop_map(|(index, rest)| Path { head: "l", steps: [vec![Step::Index(index)], rest].concat() }),
        2 => (prop::sample::select(&MEMBERS[..]), steps())
            .prop_map(|(name, rest)| Path { head: "m", steps: [vec![Step::Name(name)], rest].concat() }),
        1 => (prop::sample::select(&NAMES[..]), steps()).prop_map(|(head, steps)| Path { head, steps }),
    ]
}

/// One that an update can mostly reach.
fn target() -> impl Strategy<Value = Path> + Clone {
    let index = prop_oneof![6 => 0usize..2, 1 => 2usize..6];
    prop_oneof![
        5 => prop::sample::select(&NAMES[..]).prop_map(Path::to),
        4 => index.prop_map(|index| Path { head: "l", steps: vec![Step::Index(index)] }),
        4 => prop::sample::select(&MEMBERS[..]).prop_map(|name| Path { head: "m", steps: vec![Step::Name(name)] }),
        1 => path(),
    ]
}

/// Some that get along with each other.
pub(super) fn paths() -> impl Strategy<Value = Vec<Path>> {
    prop::collection::vec(path(), 1..4).prop_map(|all| distinct(all, |path| path))
}

fn distinct<T>(all: Vec<T>, path: impl Fn(&T) -> &Path) -> Vec<T> {
    let mut kept: Vec<T> = Vec::new();
    for one in all {
        if kept.iter().all(|other| path(other).gets_along(path(&one))) {
            kept.push(one);
        }
    }
    kept
}

/// The parts of an item that paths lead to.
pub(super) fn project(item: &Item, paths: &[Path]) -> Item {
    let all: Vec<Vec<Step>> = paths.iter().map(Path::all).collect();
    match part(&Value::M(item.clone()), &all.iter().map(|one| &one[..]).collect::<Vec<_>>()) {
        Some(Value::M(item)) => item,
        _ => Item::new(),
    }
}

fn part(value: &Value, paths: &[&[Step]]) -> Option<Value> {
    if paths.iter().any(|path| path.is_empty()) {
        return Some(value.clone());
    }
    let beyond =
        |step: &Step| -> Vec<&[Step]> { paths.iter().filter(|path| path[0] == *step).map(|path| &path[1..]).collect() };
    match value {
        Value::M(map) => {
            let parts =
                map.iter().filter_map(|(name, value)| Some((*name, part(value, &some(beyond(&Step::Name(name)))?)?)));
            let parts: Item = parts.collect();
            (!parts.is_empty()).then_some(Value::M(parts))
        }
        Value::L(list) => {
            let all = list.iter().enumerate();
            let parts = all.filter_map(|(at, value)| part(value, &some(beyond(&Step::Index(at)))?));
            let parts: Vec<Value> = parts.collect();
            (!parts.is_empty()).then_some(Value::L(parts))
        }
        _ => None,
    }
}

fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    Some(list).filter(|list| !list.is_empty())
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Operand {
    Path(Path),
    Value(Value),
    Size(Path),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Condition {
    Compare(&'static str, Operand, Operand),
    Between(Operand, Operand, Operand),
    In(Operand, Vec<Operand>),
    Exists(Path),
    Missing(Path),
    HasType(Path, &'static str),
    Begins(Path, Operand),
    Contains(Path, Operand),
    And(Vec<Condition>),
    Or(Vec<Condition>),
    Not(Box<Condition>),
}

impl Operand {
    fn value(&self, item: &Item) -> Option<Value> {
        match self {
            Self::Path(path) => path.find(item).cloned(),
            Self::Value(value) => Some(value.clone()),
            Self::Size(path) => {
                let length = path.find(item)?.length()?;
                Some(Value::N(i64::try_from(length).unwrap() * 1_000))
            }
        }
    }
}

/// What a comparison says of two values.
pub(super) fn compares(operator: &str, a: &Value, b: &Value) -> bool {
    let order = a.order(b);
    match operator {
        "=" => a == b,
        "<>" => a != b,
        "<" => order.is_some_and(|order| order.is_lt()),
        "<=" => order.is_some_and(|order| order.is_le()),
        ">" => order.is_some_and(|order| order.is_gt()),
        _ => order.is_some_and(|order| order.is_ge()),
    }
}

fn contains(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::S(text), Value::S(part)) => text.contains(part),
        (Value::B(bytes), Value::B(part)) => part.is_empty() || bytes.windows(part.len()).any(|window| window == part),
        (Value::Ss(set), Value::S(member)) => set.contains(member),
        (Value::Ns(set), Value::N(member)) => set.contains(member),
        (Value::Bs(set), Value::B(member)) => set.contains(member),
        (Value::L(list), part) => list.contains(part),
        _ => false,
    }
}

impl Condition {
    /// Whether an item fulfils it; one that is not there is empty.
    pub(super) fn holds(&self, item: &Item) -> bool {
        match self {
            Self::Compare(operator, a, b) => match (a.value(item), b.value(item)) {
                (Some(a), Some(b)) => compares(operator, &a, &b),
                _ => *operator == "<>",
            },
            Self::Between(a, low, high) => match (a.value(item), low.value(item), high.value(item)) {
                (Some(a), Some(low), Some(high)) => compares(">=", &a, &low) && compares("<=", &a, &high),
                _ => false,
            },
            Self::In(a, choices) => {
                a.value(item).is_some_and(|a| choices.iter().any(|choice| choice.value(item) == Some(a.clone())))
            }
            Self::Exists(path) => path.find(item).is_some(),
            Self::Missing(path) => path.find(item).is_none(),
            Self::HasType(path, kind) => path.find(item).is_some_and(|value| value.kind() == *kind),
            Self::Begins(path, start) => match (path.find(item), start.value(item)) {
                (Some(Value::S(text)), Some(Value::S(start))) => text.starts_with(start),
                (Some(Value::B(bytes)), Some(Value::B(start))) => bytes.starts_with(&start),
                _ => false,
            },
            Self::Contains(path, part) => match (path.find(item), part.value(item)) {
                (Some(whole), Some(part)) => contains(whole, &part),
                _ => false,
            },
            Self::And(parts) => parts.iter().all(|part| part.holds(item)),
            Self::Or(parts) => parts.iter().any(|part| part.holds(item)),
            Self::Not(inner) => !inner.holds(item),
        }
    }

    /// The attributes that it looks at.
    pub(super) fn heads(&self) -> Vec<&'static str> {
        let of = |operand: &Operand| match operand {
            Operand::Path(path) | Operand::Size(path) => Some(path.head),
            Operand::Value(_) => None,
        };
        match self {
            Self::Compare(_, a, b) => [a, b].into_iter().filter_map(of).collect(),
            Self::Between(a, low, high) => [a, low, high].into_iter().filter_map(of).collect(),
            Self::In(a, choices) => std::iter::once(a).chain(choices).filter_map(of).collect(),
            Self::Exists(path) | Self::Missing(path) | Self::HasType(path, _) => vec![path.head],
            Self::Begins(path, operand) | Self::Contains(path, operand) => {
                std::iter::once(path.head).chain(of(operand)).collect()
            }
            Self::And(parts) | Self::Or(parts) => parts.iter().flat_map(Self::heads).collect(),
            Self::Not(inner) => inner.heads(),
        }
    }
}

fn operator() -> impl Strategy<Value = &'static str> + Clone {
    prop::sample::select(vec!["=", "<>", "<", "<=", ">", ">="])
}

fn compare(a: Operand, operator: &'static str, b: Operand) -> Condition {
    // Neither is accepted.
    let orders_without_order = matches!(&b, Operand::Value(value) if !value.is_ordered());
    let operator = if orders_without_order && operator != "=" { "<>" } else { operator };
    if a == b {
        Condition::Compare(operator, a, Operand::Value(Value::N(0)))
    } else {
        Condition::Compare(operator, a, b)
    }
}

fn other_than(path: &Path, operand: Operand) -> Operand {
    if operand == Operand::Path(path.clone()) { Operand::Value(Value::S("a")) } else { operand }
}

fn between(a: Operand, low: Operand, high: Operand) -> Condition {
    let (low, high) = match (low, high) {
        (Operand::Value(low), Operand::Value(high)) => match low.order(&high) {
            Some(order) if order.is_gt() => (Operand::Value(high), Operand::Value(low)),
            Some(_) => (Operand::Value(low), Operand::Value(high)),
            None => (Operand::Value(low.clone()), Operand::Value(low)),
        },
        other => other,
    };
    Condition::Between(a, low, high)
}

fn simple(path: impl Strategy<Value = Path> + Clone + 'static) -> impl Strategy<Value = Condition> + Clone {
    let measured = prop_oneof![4 => path.clone().prop_map(Operand::Path), 1 => path.clone().prop_map(Operand::Size)];
    let operand = prop_oneof![5 => value().prop_map(Operand::Value), 2 => measured.clone()];
    let bound = prop_oneof![5 => ordered().prop_map(Operand::Value), 1 => measured.clone()];
    let start = prop_oneof![
        4 => text().prop_map(|text| Operand::Value(Value::S(text))),
        1 => super::values::binary().prop_map(|bytes| Operand::Value(Value::B(bytes))),
        1 => path.clone().prop_map(Operand::Path),
    ];
    let kinds = prop::sample::select(vec!["S", "N", "B", "SS", "NS", "BS", "BOOL", "NULL", "L", "M"]);
    prop_oneof![
        4 => (measured.clone(), operator(), operand.clone()).prop_map(|(a, operator, b)| compare(a, operator, b)),
        2 => (measured.clone(), operator(), bound.clone()).prop_map(|(a, operator, b)| compare(a, operator, b)),
        2 => (measured.clone(), bound.clone(), bound).prop_map(|(a, low, high)| between(a, low, high)),
        1 => (measured, prop::collection::vec(operand.clone(), 1..4)).prop_map(|(a, all)| Condition::In(a, all)),
        2 => path.clone().prop_map(Condition::Exists),
        2 => path.clone().prop_map(Condition::Missing),
        1 => (path.clone(), kinds).prop_map(|(path, kind)| Condition::HasType(path, kind)),
        1 => (path.clone(), start).prop_map(|(path, start)| {
            let start = other_than(&path, start);
            Condition::Begins(path, start)
        }),
        2 => (path, operand).prop_map(|(path, part)| {
            let part = other_than(&path, part);
            Condition::Contains(path, part)
        }),
    ]
}

fn condition_over(path: impl Strategy<Value = Path> + Clone + 'static) -> impl Strategy<Value = Condition> {
    simple(path).prop_recursive(2, 6, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 2..4).prop_map(Condition::And),
            prop::collection::vec(inner.clone(), 2..4).prop_map(Condition::Or),
            inner.prop_map(|inner| Condition::Not(Box::new(inner))),
        ]
    })
}

/// A condition on whatever an item has.
pub(super) fn condition() -> impl Strategy<Value = Condition> {
    let keys = prop::sample::select(vec!["id", "kind", "rank"]).prop_map(Path::to);
    condition_over(prop_oneof![5 => path(), 1 => keys])
}

/// One that says nothing of keys.
pub(super) fn filter() -> impl Strategy<Value = Condition> {
    condition_over(path())
}

/// What can be computed for SET.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Term {
    Path(Path),
    Value(Value),
    IfNotExists(Path, Box<Term>),
    Append(Box<Term>, Box<Term>),
    Plus(Box<Term>, Box<Term>),
    Minus(Box<Term>, Box<Term>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    Set(Path, Term),
    Remove(Path),
    Add(Path, Value),
    Delete(Path, Value),
}

/// Changes of which no two touch the same.
pub(super) type Update = Vec<Change>;

impl Change {
    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Set(path, _) | Self::Remove(path) | Self::Add(path, _) | Self::Delete(path, _) => path,
        }
    }
}

fn term() -> impl Strategy<Value = Term> {
    let operand = |plain: BoxedStrategy<Value>, head: &'static str| {
        let (value, fallback) = (plain.clone().prop_map(Term::Value), plain.prop_map(Term::Value));
        let from = prop_oneof![4 => Just(Path::to(head)), 2 => target()];
        prop_oneof![
            3 => value,
            1 => from.clone().prop_map(Term::Path),
            3 => (from, fallback).prop_map(|(path, other)| Term::IfNotExists(path, Box::new(other))),
        ]
        .boxed()
    };
    let number = operand(number().prop_map(Value::N).boxed(), "rank");
    let list = operand(list_of(value()).boxed(), "l");
    let two = |one: BoxedStrategy<Term>| (one.clone(), one).prop_map(|(a, b)| (Box::new(a), Box::new(b)));
    prop_oneof![
        3 => operand(value().boxed(), "m"),
        1 => two(number.clone()).prop_map(|(a, b)| Term::Plus(a, b)),
        1 => two(number).prop_map(|(a, b)| Term::Minus(a, b)),
        2 => two(list).prop_map(|(a, b)| Term::Append(a, b)),
    ]
}

/// A change of an attribute that indexes have for a key.
fn change_of_key() -> impl Strategy<Value = Change> {
    let (to_kind, to_rank) = (Path::to("kind"), Path::to("rank"));
    prop_oneof![
        4 => kind().prop_map(|kind| Change::Set(Path::to("kind"), Term::Value(Value::S(kind)))),
        4 => rank().prop_map(|rank| Change::Set(Path::to("rank"), Term::Value(Value::N(rank)))),
        4 => rank().prop_map(|rank| Change::Add(Path::to("rank"), Value::N(rank))),
        2 => Just(Change::Remove(to_kind.clone())),
        2 => Just(Change::Remove(to_rank.clone())),
        1 => Just(Change::Set(to_kind, Term::Value(Value::S("")))),
        1 => Just(Change::Set(to_rank.clone(), Term::Value(Value::Bool(true)))),
        1 => path().prop_map(move |from| Change::Set(to_rank.clone(), Term::Path(from))),
    ]
}

pub(super) fn update() -> impl Strategy<Value = Update> {
    // Where numbers and sets often are.
    let summed = prop_oneof![3 => Just(Path::to("a")), 1 => target()];
    let gathered = prop_oneof![3 => Just(Path::to("b")), 1 => target()];
    let change = prop_oneof![
        5 => (target(), term()).prop_map(|(path, term)| Change::Set(path, term)),
        4 => target().prop_map(Change::Remove),
        2 => (summed, number()).prop_map(|(path, number)| Change::Add(path, Value::N(number))),
        1 => (gathered.clone(), set()).prop_map(|(path, value)| Change::Add(path, value)),
        2 => (gathered, set()).prop_map(|(path, value)| Change::Delete(path, value)),
        3 => change_of_key(),
    ];
    prop::collection::vec(change, 1..5).prop_map(|all| distinct(all, Change::path))
}

/// An update that cannot be done to the item as it is.
#[derive(Debug)]
pub(super) struct Unfit;

fn computed(term: &Term, item: &Item) -> Result<Value, Unfit> {
    let both = |a: &Term, b: &Term| Ok((computed(a, item)?, computed(b, item)?));
    match term {
        Term::Value(value) => Ok(value.clone()),
        Term::Path(path) => path.find(item).cloned().ok_or(Unfit),
        Term::IfNotExists(path, other) => {
            path.find(item).map_or_else(|| computed(other, item), |found| Ok(found.clone()))
        }
        Term::Append(a, b) => match both(a, b)? {
            (Value::L(a), Value::L(b)) => Ok(Value::L([a, b].concat())),
            _ => Err(Unfit),
        },
        Term::Plus(a, b) => match both(a, b)? {
            (Value::N(a), Value::N(b)) => Ok(Value::N(a + b)),
            _ => Err(Unfit),
        },
        Term::Minus(a, b) => match both(a, b)? {
            (Value::N(a), Value::N(b)) => Ok(Value::N(a - b)),
            _ => Err(Unfit),
        },
    }
}

fn added(old: Option<&Value>, more: &Value) -> Result<Value, Unfit> {
    match (old, more) {
        (None, more) => Ok(more.clone()),
        (Some(Value::N(a)), Value::N(b)) => Ok(Value::N(a + b)),
        (Some(Value::Ss(a)), Value::Ss(b)) => Ok(Value::Ss(a.union(b).copied().collect())),
        (Some(Value::Ns(a)), Value::Ns(b)) => Ok(Value::Ns(a.union(b).copied().collect())),
        (Some(Value::Bs(a)), Value::Bs(b)) => Ok(Value::Bs(a.union(b).cloned().collect())),
        _ => Err(Unfit),
    }
}

fn without(old: Option<&Value>, less: &Value) -> Result<Option<Value>, Unfit> {
    let left = match (old, less) {
        (None, _) => return Ok(None),
        (Some(Value::Ss(a)), Value::Ss(b)) => Value::Ss(a.difference(b).copied().collect()),
        (Some(Value::Ns(a)), Value::Ns(b)) => Value::Ns(a.difference(b).copied().collect()),
        (Some(Value::Bs(a)), Value::Bs(b)) => Value::Bs(a.difference(b).cloned().collect()),
        _ => return Err(Unfit),
    };
    Ok(Some(left).filter(|left| left.length() != Some(0)))
}

/// What each place will hold; nothing where what is there goes.
type Edits<'a> = Vec<(&'a [Step], Option<Value>)>;

/// The item after an update, which looks at nothing but the item before.
pub(super) fn updated(before: &Item, update: &Update) -> Result<Item, Unfit> {
    let mut targets = Vec::new();
    for change in update {
        let path = change.path();
        let old = path.find(before);
        let new = match change {
            Change::Set(_, term) => Some(computed(term, before)?),
            Change::Remove(_) => None,
            Change::Add(_, value) => Some(added(old, value)?),
            Change::Delete(_, value) => without(old, value)?,
        };
        if let Some((last, parents)) = path.steps.split_last() {
            let parent = Path { head: path.head, steps: parents.to_vec() };
            match (parent.find(before), last) {
                (Some(Value::M(_)), Step::Name(_)) | (Some(Value::L(_)), Step::Index(_)) => {}
                _ => return Err(Unfit),
            }
        }
        targets.push((path.all(), new));
    }
    let edits = targets.iter().map(|(steps, new)| (&steps[..], new.clone())).collect();
    match edited(&Value::M(before.clone()), edits) {
        Value::M(item) => Ok(item),
        _ => Err(Unfit),
    }
}

/// The value with all edits, made anew from its parts.
fn edited(value: &Value, edits: Edits<'_>) -> Value {
    let mut here: BTreeMap<Step, Option<Value>> = BTreeMap::new();
    let mut below: BTreeMap<Step, Edits<'_>> = BTreeMap::new();
    for (path, new) in edits {
        match path {
            [only] => drop(here.insert(only.clone(), new)),
            [first, rest @ ..] => below.entry(first.clone()).or_default().push((rest, new)),
            [] => unreachable!("no target is the item itself"),
        }
    }
    let mut part = |step: Step, old: &Value| match here.remove(&step) {
        Some(new) => new,
        None => Some(edited(old, below.remove(&step).unwrap_or_default())),
    };
    match value {
        Value::M(map) => {
            let kept = map.iter().filter_map(|(name, old)| Some((*name, part(Step::Name(name), old)?)));
            let mut item: Item = kept.collect();
            for (step, new) in here {
                if let (Step::Name(name), Some(new)) = (step, new) {
                    item.insert(name, new);
                }
            }
            Value::M(item)
        }
        Value::L(list) => {
            let kept = list.iter().enumerate().filter_map(|(at, old)| part(Step::Index(at), old));
            let mut list: Vec<Value> = kept.collect();
            // Whatever lies beyond the end comes to the end, in the order of the places.
            list.extend(here.into_values().flatten());
            Value::L(list)
        }
        other => other.clone(),
    }
}

/// A key of the table with a sort key, which the other table takes the first part of.
pub(super) fn key() -> impl Strategy<Value = (&'static str, i64)> + Clone {
    (id(), at())
}

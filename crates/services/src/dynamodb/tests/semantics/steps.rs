//! What clients do in a run of the model.

use proptest::prelude::*;

use super::expressions::{Change, Condition, Path, Update, condition, filter, key, path, paths, update};
use super::values::{NAMES, Value, at, content, id, kind, rank};
use super::world::{Access, INDEXES, Key, Kind, Sort, Write};

#[derive(Debug, Clone)]
pub(super) struct Get {
    pub(super) table: usize,
    pub(super) key: Key,
    pub(super) paths: Option<Vec<Path>>,
}

/// What a page shows.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum View {
    /// All that lies where it is read.
    Plain,
    /// All that the items have.
    All,
    Paths(Vec<Path>),
    Count,
}

#[derive(Debug, Clone)]
pub(super) struct Query {
    pub(super) access: Access,
    pub(super) hash: Value,
    pub(super) sort: Option<Sort>,
    pub(super) forward: bool,
    pub(super) filter: Option<Condition>,
    pub(super) limit: Option<usize>,
    pub(super) view: View,
}

#[derive(Debug, Clone)]
pub(super) struct Scan {
    pub(super) access: Access,
    pub(super) filter: Option<Condition>,
    pub(super) limit: Option<usize>,
    pub(super) segments: Option<usize>,
    pub(super) counts: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Select {
    pub(super) access: Access,
    pub(super) hashes: Vec<Value>,
    pub(super) sort: Option<Sort>,
    pub(super) descending: bool,
    pub(super) filter: Option<Condition>,
    pub(super) limit: Option<usize>,
    pub(super) columns: Option<Vec<Path>>,
    pub(super) literal: bool,
}

#[derive(Debug, Clone)]
pub(super) enum Step {
    Write(Write, &'static str),
    Get(Get),
    BatchWrite(Vec<Write>),
    BatchGet(Vec<Get>),
    Transact(Vec<Write>, Option<u8>),
    TransactGet(Vec<Get>),
    Query(Query),
    Scan(Scan),
    /// What it returns, and whether its values stand in its text.
    Statement(Write, Option<&'static str>, bool),
    Statements(Vec<Write>),
    StatementReads(Vec<Get>),
    TransactStatements(Vec<Write>, Option<u8>),
    TransactStatementReads(Vec<Get>),
    Select(Select),
    Describe(usize),
}

fn table() -> impl Strategy<Value = usize> + Clone {
    prop_oneof![3 => Just(0usize), 1 => Just(1usize)]
}

fn maybe<T: std::fmt::Debug + Clone>(one: impl Strategy<Value = T>) -> impl Strategy<Value = Option<T>> {
    prop::option::weighted(0.4, one)
}

fn write_of(kind: impl Strategy<Value = (Kind, Option<Condition>)>) -> impl Strategy<Value = Write> {
    (table(), key(), kind, any::<bool>()).prop_map(|(table, key, (kind, condition), show)| Write {
        table,
        key,
        kind,
        condition,
        show,
    })
}

fn put() -> impl Strategy<Value = Kind> {
    content().prop_map(Kind::Put)
}

fn plain_write() -> impl Strategy<Value = Write> {
    let kind = prop_oneof![3 => put(), 4 => update().prop_map(Kind::Update), 1 => Just(Kind::Delete)];
    write_of((kind, maybe(condition())))
}

fn returning() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["NONE", "ALL_OLD", "UPDATED_OLD", "ALL_NEW", "UPDATED_NEW"])
}

fn part() -> impl Strategy<Value = Write> {
    let kind = prop_oneof![
        3 => (prop_oneof![2 => put(), 3 => update().prop_map(Kind::Update), 1 => Just(Kind::Delete)], maybe(condition())),
        1 => condition().prop_map(|condition| (Kind::Check, Some(condition))),
    ];
    write_of(kind)
}

fn batched() -> impl Strategy<Value = Write> {
    write_of((prop_oneof![3 => put(), 1 => Just(Kind::Delete)], Just(None)))
}

/// What a statement can say: it adds no numbers but by a sum.
fn said(update: Update) -> Update {
    let mut said = update;
    said.retain(|change| !matches!(change, Change::Add(_, Value::N(_))));
    if said.is_empty() {
        said.push(Change::Remove(Path::to("a")));
    }
    said
}

fn statement(checks: bool) -> impl Strategy<Value = Write> {
    let change = prop_oneof![3 => update().prop_map(said).prop_map(Kind::Update), 1 => Just(Kind::Delete)];
    let kind = prop_oneof![
        3 => content().prop_map(|item| (Kind::Insert(item), None)),
        4 => (change, maybe(condition())),
        u32::from(checks) => condition().prop_map(|condition| (Kind::Check, Some(condition))),
    ];
    write_of(kind)
}

fn get() -> impl Strategy<Value = Get> {
    (table(), key(), maybe(paths())).prop_map(|(table, key, paths)| Get { table, key, paths })
}

fn get_columns() -> impl Strategy<Value = Get> {
    (table(), key(), maybe(columns())).prop_map(|(table, key, paths)| Get { table, key, paths })
}

/// Paths whose last names differ, since those are what a statement answers under.
fn columns() -> impl Strategy<Value = Vec<Path>> {
    let whole = prop::collection::btree_set(prop::sample::select(&NAMES[..]), 1..4);
    let nested = prop::option::of(prop::sample::select(vec![("m", "x"), ("l", "y")]));
    (whole, nested).prop_map(|(whole, nested)| {
        let nested = nested.map(|(head, name)| Path { head, steps: vec![super::expressions::Step::Name(name)] });
        whole.into_iter().map(Path::to).chain(nested).collect()
    })
}

fn access() -> impl Strategy<Value = Access> + Clone {
    let some = |table: usize| prop::option::weighted(0.7, 0..INDEXES[table].len());
    prop_oneof![
        4 => some(0).prop_map(|index| Access { table: 0, index }),
        1 => some(1).prop_map(|index| Access { table: 1, index }),
    ]
}

fn value_of(key: &str) -> BoxedStrategy<Value> {
    match key {
        "id" => id().prop_map(Value::S).boxed(),
        "kind" => kind().prop_map(Value::S).boxed(),
        "at" => at().prop_map(Value::N).boxed(),
        _ => rank().prop_map(Value::N).boxed(),
    }
}

fn sort_of(key: Option<&'static str>) -> BoxedStrategy<Option<Sort>> {
    let Some(key) = key else { return Just(None).boxed() };
    let value = value_of(key);
    let operator = prop::sample::select(vec!["=", "<", "<=", ">", ">="]);
    let compare = (operator, value.clone()).prop_map(|(operator, value)| Sort::Compare(operator, value));
    let between = (value.clone(), value)
        .prop_map(|(a, b)| if a.order(&b).unwrap().is_le() { Sort::Between(a, b) } else { Sort::Between(b, a) });
    let sort = if key == "kind" {
        let start = prop::sample::select(vec!["k", "kk", "kkk"]);
        prop_oneof![3 => compare, 2 => between, 2 => start.prop_map(Sort::Begins)].boxed()
    } else {
        prop_oneof![3 => compare, 2 => between].boxed()
    };
    maybe(sort).boxed()
}

/// A way to items, keys to look for there, and an order.
fn look() -> impl Strategy<Value = (Access, Vec<Value>, Option<Sort>, bool)> {
    access().prop_flat_map(|access| {
        let hashes = prop::collection::vec(value_of(access.hash()), 1..3);
        (Just(access), hashes, sort_of(access.range()), any::<bool>())
    })
}

fn limit() -> impl Strategy<Value = Option<usize>> {
    prop::option::of(1usize..4)
}

fn view() -> impl Strategy<Value = View> {
    prop_oneof![
        3 => Just(View::Plain),
        1 => Just(View::All),
        1 => Just(View::Count),
        2 => prop::collection::vec(path(), 1..2).prop_map(View::Paths),
        1 => paths().prop_map(View::Paths),
    ]
}

fn query() -> impl Strategy<Value = Query> {
    (look(), maybe(filter()), limit(), view()).prop_map(|((access, mut hashes, sort, forward), filter, limit, view)| {
        let hash = hashes.remove(0);
        Query { access, hash, sort, forward, filter, limit, view }
    })
}

fn select() -> impl Strategy<Value = Select> {
    (look(), maybe(filter()), limit(), maybe(columns()), any::<bool>()).prop_map(
        |((access, hashes, sort, descending), filter, limit, columns, literal)| {
            let descending = descending && hashes.len() == 1 && access.range().is_some();
            Select { access, hashes, sort, descending, filter, limit, columns, literal }
        },
    )
}

fn scan() -> impl Strategy<Value = Scan> {
    (access(), maybe(filter()), limit(), prop::option::of(1usize..4), any::<bool>())
        .prop_map(|(access, filter, limit, segments, counts)| Scan { access, filter, limit, segments, counts })
}

/// What lies in the tables before.
pub(super) fn first_puts() -> impl Strategy<Value = Vec<Write>> {
    prop::collection::vec(write_of((put(), Just(None))), 0..16)
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    let token = || prop::option::weighted(0.3, 0u8..2);
    let returned = prop::option::of(prop::sample::select(vec!["ALL OLD", "ALL NEW", "MODIFIED OLD", "MODIFIED NEW"]));
    let some = 1..4usize;
    prop_oneof![
        12 => (plain_write(), returning()).prop_map(|(write, returns)| Step::Write(write, returns)),
        2 => get().prop_map(Step::Get),
        2 => prop::collection::vec(batched(), some.clone()).prop_map(Step::BatchWrite),
        1 => prop::collection::vec(get(), some.clone()).prop_map(Step::BatchGet),
        4 => (prop::collection::vec(part(), some.clone()), token()).prop_map(|(all, token)| Step::Transact(all, token)),
        1 => prop::collection::vec(get(), some.clone()).prop_map(Step::TransactGet),
        4 => query().prop_map(Step::Query),
        2 => scan().prop_map(Step::Scan),
        3 => (statement(false), returned, any::<bool>()).prop_map(|(write, returned, literal)| {
            Step::Statement(write, returned, literal)
        }),
        1 => prop::collection::vec(statement(false), some.clone()).prop_map(Step::Statements),
        1 => prop::collection::vec(get_columns(), some.clone()).prop_map(Step::StatementReads),
        2 => (prop::collection::vec(statement(true), some.clone()), token())
            .prop_map(|(all, token)| Step::TransactStatements(all, token)),
        1 => prop::collection::vec(get_columns(), some).prop_map(Step::TransactStatementReads),
        2 => select().prop_map(Step::Select),
        1 => table().prop_map(Step::Describe),
    ]
}

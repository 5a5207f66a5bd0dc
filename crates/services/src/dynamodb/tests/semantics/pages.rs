//! Pages and streams of a run: everything in its order, each page from where the last one ended.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value as Json, json};

use super::expressions::{Condition, Operand, Path, project};
use super::run::{Run, columns};
use super::steps::{Query, Scan, Select, View};
use super::text::Writer;
use super::values::{Item, Value, canonical, item_json};
use super::world::{Access, Projection, Refusal, key_item};

/// More pages than any table of a run has.
const PAGES_MAX: usize = 100;

/// Whether an index is asked for what it does not have: one of all partitions to show it, any to filter a partition by it.
fn asks_too_much(access: Access, view: &View, filter: Option<&Condition>) -> bool {
    let Some(index) = access.index() else { return false };
    let shows_more = match view {
        View::All => index.projection != Projection::All,
        View::Paths(paths) => paths.iter().any(|path| !access.has(path.head)),
        View::Plain | View::Count => false,
    };
    let filters_more = filter.is_some_and(|filter| filter.heads().into_iter().any(|head| !access.has(head)));
    (shows_more && !index.local) || filters_more
}

fn shown(access: Access, view: &View, item: &Item) -> Item {
    match view {
        View::All => item.clone(),
        View::Paths(paths) => project(item, paths),
        View::Plain | View::Count => access.shown(item),
    }
}

fn passes(access: Access, filter: Option<&Condition>, item: &Item) -> bool {
    filter.is_none_or(|filter| filter.holds(&access.seen(item)))
}

/// One page of items that follow each other, and whether there is another one.
fn cut(items: &[Item], limit: Option<usize>) -> (&[Item], bool) {
    match limit {
        Some(limit) if items.len() >= limit => (&items[..limit], true),
        _ => (items, false),
    }
}

impl Run<'_> {
    fn query_input(&self, query: &Query) -> Json {
        let mut writer = Writer::of_expressions();
        let mut input = json!({ "TableName": self.names[query.access.table], "ScanIndexForward": query.forward });
        let hash =
            Condition::Compare("=", Operand::Path(Path::to(query.access.hash())), Operand::Value(query.hash.clone()));
        let mut keys = writer.condition(&hash);
        if let (Some(sort), Some(range)) = (&query.sort, query.access.range()) {
            keys = format!("{} AND {keys}", writer.condition(&sort.condition(range)));
        }
        input["KeyConditionExpression"] = json!(keys);
        if let Some(index) = query.access.index() {
            input["IndexName"] = json!(index.name);
        }
        if let Some(filter) = &query.filter {
            input["FilterExpression"] = json!(writer.condition(filter));
        }
        if let Some(limit) = query.limit {
            input["Limit"] = json!(limit);
        }
        match &query.view {
            View::Plain => {}
            View::All => input["Select"] = json!("ALL_ATTRIBUTES"),
            View::Count => input["Select"] = json!("COUNT"),
            View::Paths(paths) => input["ProjectionExpression"] = json!(writer.paths(paths)),
        }
        writer.add_to(&mut input);
        input
    }

    pub(super) async fn query(&mut self, query: &Query) {
        let mut input = self.query_input(query);
        if asks_too_much(query.access, &query.view, query.filter.as_ref()) {
            return self.expect("Query", input, Err(Refusal::Invalid)).await;
        }
        let all = query.access.partition(&self.world, &query.hash, query.sort.as_ref(), query.forward);
        let mut rest = &all[..];
        loop {
            let (page, more) = cut(rest, query.limit);
            let passed: Vec<&Item> =
                page.iter().filter(|item| passes(query.access, query.filter.as_ref(), item)).collect();
            let mut expected = json!({ "Count": passed.len(), "ScannedCount": page.len() });
            if query.view != View::Count {
                let items = passed.iter().map(|item| item_json(&shown(query.access, &query.view, item)));
                expected["Items"] = items.collect();
            }
            if more {
                let position = query.access.position(&page[page.len() - 1]);
                expected["LastEvaluatedKey"] = position.clone();
                self.expect("Query", input.clone(), Ok(expected)).await;
                input["ExclusiveStartKey"] = position;
                rest = &rest[page.len()..];
            } else {
                return self.expect("Query", input, Ok(expected)).await;
            }
        }
    }

    /// All pages of a scan, or of one segment of it: the items, how many passed, how many were looked at.
    async fn scanned(&mut self, mut input: Json, limit: Option<usize>) -> (Vec<Json>, u64, u64) {
        let (mut items, mut count, mut looked_at) = (Vec::new(), 0, 0);
        for _ in 0..PAGES_MAX {
            let page = self.node().ok("Scan", input.clone()).await;
            items.extend(page["Items"].as_array().into_iter().flatten().map(canonical));
            count += page["Count"].as_u64().unwrap();
            let scanned = page["ScannedCount"].as_u64().unwrap();
            looked_at += scanned;
            let is_full = limit.is_some_and(|limit| scanned == limit as u64);
            assert_eq!(page["LastEvaluatedKey"].is_object(), is_full, "{input} {page}");
            if !is_full {
                return (items, count, looked_at);
            }
            input["ExclusiveStartKey"] = page["LastEvaluatedKey"].clone();
        }
        panic!("no end of pages: {input}");
    }

    pub(super) async fn scan(&mut self, scan: &Scan) {
        let access = scan.access;
        let mut input = json!({ "TableName": self.names[access.table] });
        let mut writer = Writer::of_expressions();
        if let Some(index) = access.index() {
            input["IndexName"] = json!(index.name);
        }
        if let Some(filter) = &scan.filter {
            input["FilterExpression"] = json!(writer.condition(filter));
        }
        if let Some(limit) = scan.limit {
            input["Limit"] = json!(limit);
        }
        if scan.counts {
            input["Select"] = json!("COUNT");
        }
        writer.add_to(&mut input);
        let (mut items, mut count, mut looked_at) = (Vec::new(), 0, 0);
        for segment in 0..scan.segments.unwrap_or(1) {
            if let Some(segments) = scan.segments {
                input["Segment"] = json!(segment);
                input["TotalSegments"] = json!(segments);
            }
            let (more, passed, scanned) = self.scanned(input.clone(), scan.limit).await;
            items.extend(more);
            count += passed;
            looked_at += scanned;
        }
        let all = access.items(&self.world, None);
        let passed: Vec<&Item> = all.iter().filter(|item| passes(access, scan.filter.as_ref(), item)).collect();
        assert_eq!((count, looked_at), (passed.len() as u64, all.len() as u64), "{input}");
        if !scan.counts {
            check_partitions(access, &items, &passed, &input);
        }
    }

    fn select_input(&self, select: &Select) -> Json {
        let mut writer = Writer::of_statement(select.literal);
        let access = select.access;
        let shown = select.columns.as_ref().map_or_else(|| "*".to_owned(), |paths| writer.paths(paths));
        let mut text = format!("SELECT {shown} FROM {}", writer.name(&self.names[access.table]));
        if let Some(index) = access.index() {
            text = format!("{text}.{}", writer.name(index.name));
        }
        let hash = Operand::Path(Path::to(access.hash()));
        let choices = select.hashes.iter().cloned().map(Operand::Value).collect();
        text = format!("{text} WHERE {}", writer.condition(&Condition::In(hash, choices)));
        if let (Some(sort), Some(range)) = (&select.sort, access.range()) {
            text = format!("{text} AND {}", writer.condition(&sort.condition(range)));
        }
        if let Some(filter) = &select.filter {
            text = format!("{text} AND {}", writer.wrapped(filter));
        }
        if let Some(range) = access.range().filter(|_| select.descending) {
            text = format!("{text} ORDER BY {} DESC", writer.name(range));
        }
        let mut input = writer.statement(text);
        if let Some(limit) = select.limit {
            input["Limit"] = json!(limit);
        }
        input
    }

    pub(super) async fn select(&mut self, select: &Select) {
        let access = select.access;
        let mut input = self.select_input(select);
        let view = select.columns.clone().map_or(View::Plain, View::Paths);
        if asks_too_much(access, &view, select.filter.as_ref()) {
            return self.expect("ExecuteStatement", input, Err(Refusal::Invalid)).await;
        }
        let mut hashes = select.hashes.clone();
        hashes.sort_by(|a, b| a.order(b).unwrap());
        hashes.dedup();
        let partition = |hash| access.partition(&self.world, hash, select.sort.as_ref(), !select.descending);
        let all: Vec<Item> = hashes.iter().flat_map(partition).collect();
        let mut rest = &all[..];
        loop {
            let (page, more) = cut(rest, select.limit);
            let passed = page.iter().filter(|item| passes(access, select.filter.as_ref(), item));
            let show = |item: &Item| match &select.columns {
                Some(paths) => item_json(&columns(item, Some(paths))),
                None => item_json(&access.shown(item)),
            };
            let mut expected = json!({ "Items": passed.map(show).collect::<Vec<_>>() });
            if more {
                expected["LastEvaluatedKey"] = access.position(&page[page.len() - 1]);
            }
            let token = std::cell::RefCell::new(Json::Null);
            let seen = |mut answer: Json| {
                let next = answer.as_object_mut().unwrap().remove("NextToken").unwrap_or_default();
                assert_eq!(next.is_string(), more, "{answer}");
                *token.borrow_mut() = next;
                answer
            };
            self.expect_as("ExecuteStatement", input.clone(), Ok(expected), seen).await;
            if !more {
                return;
            }
            input["NextToken"] = token.into_inner();
            rest = &rest[page.len()..];
        }
    }

    /// Whether the tables' streams have each change of the run once, in its order, and nothing else.
    pub(super) async fn check_streams(&mut self) {
        for table in 0..self.names.len() {
            let mut expected = BTreeMap::new();
            for (key, history) in &self.world.tables[table].history {
                let image = |item: &Option<Item>| item.as_ref().map_or(Json::Null, item_json);
                let changes = history.iter().map(|one| (image(&one.before), image(&one.after)));
                let changes: Vec<_> = changes.map(|(old, new)| (canonical(&old), canonical(&new))).collect();
                expected.insert(item_json(&key_item(table, *key)).to_string(), changes);
            }
            let mut found: BTreeMap<String, Vec<(Json, Json)>> = BTreeMap::new();
            let mut last = 0u128;
            for record in self.records(table).await {
                let change = &record["dynamodb"];
                let number: u128 = change["SequenceNumber"].as_str().unwrap().parse().unwrap();
                assert!(number > last, "sequence numbers grow");
                last = number;
                let (old, new) = (canonical(&change["OldImage"]), canonical(&change["NewImage"]));
                let name = match (old.is_null(), new.is_null()) {
                    (true, _) => "INSERT",
                    (_, true) => "REMOVE",
                    _ => "MODIFY",
                };
                assert_eq!(record["eventName"], name);
                found.entry(change["Keys"].to_string()).or_default().push((old, new));
            }
            assert_eq!(found, expected);
        }
    }

    async fn records(&mut self, table: usize) -> Vec<Json> {
        let described = self.node().ok("DescribeTable", json!({ "TableName": self.names[table] })).await;
        let arn = &described["Table"]["LatestStreamArn"];
        let stream = self.node().ok("DescribeStream", json!({ "StreamArn": arn })).await;
        let shard = &stream["StreamDescription"]["Shards"][0]["ShardId"];
        let start = json!({ "StreamArn": arn, "ShardId": shard, "ShardIteratorType": "TRIM_HORIZON" });
        let mut iterator = self.node().ok("GetShardIterator", start).await["ShardIterator"].clone();
        let mut records = Vec::new();
        loop {
            let page = self.node().ok("GetRecords", json!({ "ShardIterator": iterator, "Limit": 7 })).await;
            let more = page["Records"].as_array().unwrap();
            if more.is_empty() {
                return records;
            }
            records.extend(more.iter().cloned());
            iterator = page["NextShardIterator"].clone();
        }
    }
}

/// Whether the items of a scan are those that pass, each partition in one piece and in its order.
fn check_partitions(access: Access, found: &[Json], passed: &[&Item], input: &Json) {
    let hash_of = |item: &Json| item[access.hash()].clone();
    let mut seen = BTreeSet::new();
    for run in found.chunk_by(|a, b| hash_of(a) == hash_of(b)) {
        let hash = hash_of(&run[0]);
        assert!(seen.insert(hash.to_string()), "a partition in two pieces: {input} {found:?}");
        let own = passed.iter().filter(|item| item.get(access.hash()).map(Value::json).as_ref() == Some(&hash));
        let own: Vec<Json> = own.map(|item| canonical(&item_json(&access.shown(item)))).collect();
        assert_eq!(run, own, "{input}");
    }
    assert_eq!(found.len(), passed.len(), "{input}");
}

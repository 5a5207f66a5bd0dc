//! One run: each step is asked of the service and of the model, and both must answer the same.

use std::collections::BTreeSet;

use serde_json::{Value as Json, json};

use super::super::{Bench, Refusal as ServiceRefusal};
use super::expressions::{Path, project};
use super::steps::{Get, Step};
use super::text::Writer;
use super::values::{Item, canonical, item_json, item_sent};
use super::world::{Access, Changed, INDEXES, Kind, Refusal, World, Write, create, key_item, placed};

/// The service, on one node or several that take turns, with two tables of this run alone; and the model of them.
pub(super) struct Run<'a> {
    pub(super) nodes: &'a [Bench],
    pub(super) names: [String; 2],
    pub(super) world: World,
    /// Which node is asked next.
    turn: usize,
    number: usize,
}

/// A refusal as the model has it.
fn refused(refusal: &Refusal) -> Json {
    let item = |item: &Option<Item>| item.as_ref().map_or(Json::Null, item_json);
    match refusal {
        Refusal::Invalid => json!({ "code": "ValidationException" }),
        Refusal::Failed(shown) => json!({ "code": "ConditionalCheckFailedException", "item": item(shown) }),
        Refusal::Duplicate => json!({ "code": "DuplicateItemException" }),
        Refusal::TokenReused => json!({ "code": "IdempotentParameterMismatchException" }),
        Refusal::Cancelled(reasons) => {
            let reasons = reasons.iter().map(|one| one.as_ref().map_or_else(|| json!({ "Code": "None" }), reason));
            json!({ "code": "TransactionCanceledException", "reasons": reasons.collect::<Vec<_>>() })
        }
    }
}

/// The same as one reason among others, or as the answer to one statement among others.
fn reason(refusal: &Refusal) -> Json {
    match refusal {
        Refusal::Failed(Some(item)) => json!({ "Code": "ConditionalCheckFailed", "Item": item_json(item) }),
        Refusal::Failed(None) => json!({ "Code": "ConditionalCheckFailed" }),
        Refusal::Duplicate => json!({ "Code": "DuplicateItem" }),
        _ => json!({ "Code": "ValidationError" }),
    }
}

fn without_message(mut reason: Json) -> Json {
    reason.as_object_mut().unwrap().remove("Message");
    reason
}

/// A refusal as the service has it.
fn told(error: &ServiceRefusal) -> Json {
    let mut told = json!({ "code": error.code });
    match error.code.as_str() {
        "ConditionalCheckFailedException" => told["item"] = error.fields.get("Item").cloned().unwrap_or_default(),
        "TransactionCanceledException" => {
            let reasons = error.fields["CancellationReasons"].as_array().unwrap().iter().cloned();
            told["reasons"] = reasons.map(without_message).collect();
        }
        _ => {}
    }
    told
}

fn item_or_nothing(item: Option<Item>) -> Json {
    item.map_or_else(|| json!({}), |item| json!({ "Item": item_json(&item) }))
}

/// The items that some columns of a statement show.
pub(super) fn columns(item: &Item, columns: Option<&[Path]>) -> Item {
    let Some(columns) = columns else { return item.clone() };
    let column = |path: &Path| {
        let name = match path.steps.last() {
            Some(super::expressions::Step::Name(name)) => name,
            _ => path.head,
        };
        Some((name, path.find(item)?.clone()))
    };
    columns.iter().filter_map(column).collect()
}

impl<'a> Run<'a> {
    /// Makes the tables.
    pub(super) async fn new(nodes: &'a [Bench], number: usize) -> Self {
        let names = [format!("wide-{number}"), format!("plain-{number}")];
        for (table, name) in names.iter().enumerate() {
            nodes[0].ok("CreateTable", create(table, name)).await;
        }
        Self { nodes, names, world: World::default(), turn: 0, number }
    }

    pub(super) fn node(&mut self) -> &'a Bench {
        self.turn += 1;
        &self.nodes[self.turn % self.nodes.len()]
    }

    /// Asks for something, whose answer must be the model's.
    pub(super) async fn expect(&mut self, operation: &'static str, input: Json, expected: Result<Json, Refusal>) {
        self.expect_as(operation, input, expected, |answer| answer).await;
    }

    /// The same of what `seen` makes of the answer.
    pub(super) async fn expect_as(
        &mut self,
        operation: &'static str,
        input: Json,
        expected: Result<Json, Refusal>,
        seen: impl Fn(Json) -> Json,
    ) {
        let answer = self.node().call(operation, input.clone()).await;
        let words = answer.as_ref().err().map(ToString::to_string);
        let found = match answer {
            Ok(answer) => json!({ "answered": seen(answer) }),
            Err(error) => json!({ "refused": told(&error) }),
        };
        let expected = match &expected {
            Ok(answer) => json!({ "answered": answer }),
            Err(refusal) => json!({ "refused": refused(refusal) }),
        };
        assert_eq!(canonical(&found), canonical(&expected), "{operation} {input} {words:?}");
    }

    pub(super) async fn step(&mut self, step: &Step) {
        match step {
            Step::Write(write, returns) => self.write(write, returns).await,
            Step::Get(get) => self.get(get).await,
            Step::BatchWrite(writes) => self.batch_write(writes).await,
            Step::BatchGet(gets) => self.batch_get(gets).await,
            Step::Transact(writes, token) => self.transact(writes, *token).await,
            Step::TransactGet(gets) => self.transact_get(gets).await,
            Step::Query(query) => self.query(query).await,
            Step::Scan(scan) => self.scan(scan).await,
            Step::Statement(write, returns, literal) => self.statement(write, *returns, *literal).await,
            Step::Statements(writes) => self.statements(writes).await,
            Step::StatementReads(gets) => self.statement_reads(gets).await,
            Step::TransactStatements(writes, token) => self.transact_statements(writes, *token).await,
            Step::TransactStatementReads(gets) => self.transact_statement_reads(gets).await,
            Step::Select(select) => self.select(select).await,
            Step::Describe(table) => self.describe(*table).await,
        }
    }

    fn keyed(&self, table: usize, key: super::world::Key) -> Json {
        json!({ "TableName": self.names[table], "Key": item_sent(&key_item(table, key)) })
    }

    /// The members of a write, and what a transaction calls it.
    fn input(&self, write: &Write) -> (&'static str, Json) {
        let mut input = self.keyed(write.table, write.key);
        let mut writer = Writer::of_expressions();
        let kind = match &write.kind {
            Kind::Put(_) | Kind::Insert(_) => {
                let item = item_sent(&write.whole().unwrap());
                input = json!({ "TableName": self.names[write.table], "Item": item });
                "Put"
            }
            Kind::Update(update) => {
                input["UpdateExpression"] = json!(writer.update(update));
                "Update"
            }
            Kind::Delete => "Delete",
            Kind::Check => "ConditionCheck",
        };
        if let Some(condition) = &write.condition {
            input["ConditionExpression"] = json!(writer.condition(condition));
        }
        if write.show {
            input["ReturnValuesOnConditionCheckFailure"] = json!("ALL_OLD");
        }
        writer.add_to(&mut input);
        (kind, input)
    }

    async fn write(&mut self, write: &Write, returns: &str) {
        let (kind, mut input) = self.input(write);
        let operation = match kind {
            "Put" => "PutItem",
            "Update" => "UpdateItem",
            _ => "DeleteItem",
        };
        let returns = if kind == "Update" || returns == "ALL_OLD" { returns } else { "NONE" };
        input["ReturnValues"] = json!(returns);
        let targets: Vec<Path> = write.update().into_iter().flatten().map(|change| change.path().clone()).collect();
        let expected = self.world.write(write).map(|Changed { before, after }| {
            let shown = match returns {
                "ALL_OLD" => before,
                "ALL_NEW" => after,
                "UPDATED_OLD" => before.map(|before| project(&before, &targets)),
                "UPDATED_NEW" => after.map(|after| project(&after, &targets)),
                _ => None,
            };
            let shown = shown.filter(|shown| !shown.is_empty());
            shown.map_or_else(|| json!({}), |shown| json!({ "Attributes": item_json(&shown) }))
        });
        self.expect(operation, input, expected).await;
    }

    /// What a read of one item shows.
    fn found(&self, get: &Get, show: fn(&Item, &[Path]) -> Item) -> Option<Item> {
        let item = self.world.item((get.table, placed(get.table, get.key)))?;
        Some(get.paths.as_ref().map_or_else(|| item.clone(), |paths| show(item, paths)))
    }

    fn get_input(&self, get: &Get) -> Json {
        let mut input = self.keyed(get.table, get.key);
        let mut writer = Writer::of_expressions();
        if let Some(paths) = &get.paths {
            input["ProjectionExpression"] = json!(writer.paths(paths));
        }
        writer.add_to(&mut input);
        input
    }

    async fn get(&mut self, get: &Get) {
        let expected = item_or_nothing(self.found(get, project));
        self.expect("GetItem", self.get_input(get), Ok(expected)).await;
    }

    async fn batch_write(&mut self, writes: &[Write]) {
        let mut tables = json!({});
        for write in writes {
            let (kind, mut input) = self.input(write);
            let request = match kind {
                "Put" => json!({ "PutRequest": { "Item": input["Item"].take() } }),
                _ => json!({ "DeleteRequest": { "Key": input["Key"].take() } }),
            };
            let table = &mut tables[&self.names[write.table]];
            if table.is_null() {
                *table = json!([]);
            }
            table.as_array_mut().unwrap().push(request);
        }
        let expected = self.world.batch(writes).map(|()| json!({ "UnprocessedItems": {} }));
        self.expect("BatchWriteItem", json!({ "RequestItems": tables }), expected).await;
    }

    async fn batch_get(&mut self, gets: &[Get]) {
        let (mut tables, mut found) = (json!({}), json!({}));
        for (table, name) in self.names.iter().enumerate() {
            let own: Vec<&Get> = gets.iter().filter(|get| get.table == table).collect();
            let Some(first) = own.first() else { continue };
            // One projection is for all keys of a table.
            let mut input = self.get_input(first);
            let members = input.as_object_mut().unwrap();
            members.remove("TableName");
            members.remove("Key");
            members.insert("Keys".into(), own.iter().map(|get| item_sent(&key_item(table, get.key))).collect());
            tables[name] = input;
            let alike = |get: &&Get| Get { paths: first.paths.clone(), ..(*get).clone() };
            let shown = own.iter().filter_map(|get| self.found(&alike(get), project));
            found[name] = sorted(shown.map(|item| item_json(&item)).collect());
        }
        let keys: BTreeSet<_> = gets.iter().map(|get| (get.table, placed(get.table, get.key))).collect();
        let expected = if keys.len() < gets.len() {
            Err(Refusal::Invalid)
        } else {
            Ok(json!({ "Responses": found, "UnprocessedKeys": {} }))
        };
        let in_no_order = |mut answer: Json| {
            let tables = answer["Responses"].as_object_mut().unwrap();
            tables.values_mut().for_each(|items| *items = sorted(items.as_array().unwrap().clone()));
            answer
        };
        self.expect_as("BatchGetItem", json!({ "RequestItems": tables }), expected, in_no_order).await;
    }

    /// The name of a token, which belongs to this run.
    fn with_token(&self, mut input: Json, token: Option<u8>) -> Json {
        if let Some(token) = token {
            input["ClientRequestToken"] = json!(format!("{}-{token}", self.number));
        }
        input
    }

    async fn transact(&mut self, writes: &[Write], token: Option<u8>) {
        let parts: Vec<_> =
            writes.iter().map(|write| self.input(write)).map(|(kind, part)| json!({ kind: part })).collect();
        let input = self.with_token(json!({ "TransactItems": parts }), token);
        let expected = self.world.transact(writes, false, token).map(|()| json!({}));
        self.expect("TransactWriteItems", input, expected).await;
    }

    /// The answer to reads that are done together.
    fn together(&self, gets: &[Get], show: fn(&Item, &[Path]) -> Item) -> Result<Json, Refusal> {
        let keys: BTreeSet<_> = gets.iter().map(|get| (get.table, placed(get.table, get.key))).collect();
        if keys.len() < gets.len() {
            return Err(Refusal::Invalid);
        }
        let responses = gets.iter().map(|get| item_or_nothing(self.found(get, show)));
        Ok(json!({ "Responses": responses.collect::<Vec<_>>() }))
    }

    async fn transact_get(&mut self, gets: &[Get]) {
        let parts: Vec<_> = gets.iter().map(|get| json!({ "Get": self.get_input(get) })).collect();
        let expected = self.together(gets, project);
        self.expect("TransactGetItems", json!({ "TransactItems": parts }), expected).await;
    }

    fn key_condition(writer: &mut Writer, table: usize, key: super::world::Key) -> String {
        let parts = key_item(table, key);
        let parts = parts.iter().map(|(name, value)| format!("{} = {}", writer.name(name), writer.value(value)));
        parts.collect::<Vec<_>>().join(" AND ")
    }

    /// A write as a statement.
    fn said(&self, write: &Write, returns: Option<&str>, literal: bool) -> Json {
        let mut writer = Writer::of_statement(literal);
        let table = writer.name(&self.names[write.table]);
        let mut text = match &write.kind {
            Kind::Put(_) | Kind::Insert(_) => {
                format!("INSERT INTO {table} VALUE {}", writer.item(&write.whole().unwrap()))
            }
            Kind::Update(update) => format!("UPDATE {table} {}", writer.changes(update)),
            Kind::Delete => format!("DELETE FROM {table}"),
            Kind::Check => format!("EXISTS(SELECT * FROM {table}"),
        };
        if write.whole().is_none() {
            text = format!("{text} WHERE {}", Self::key_condition(&mut writer, write.table, write.key));
        }
        if let Some(condition) = &write.condition {
            text = format!("{text} AND {}", writer.wrapped(condition));
        }
        if write.kind == Kind::Check {
            text.push(')');
        }
        if let Some(returns) = returns {
            text = format!("{text} RETURNING {returns} *");
        }
        let mut statement = writer.statement(text);
        if write.show {
            statement["ReturnValuesOnConditionCheckFailure"] = json!("ALL_OLD");
        }
        statement
    }

    async fn statement(&mut self, write: &Write, returns: Option<&'static str>, literal: bool) {
        let returns = match &write.kind {
            Kind::Update(_) => returns,
            Kind::Delete => returns.filter(|returns| *returns == "ALL OLD"),
            _ => None,
        };
        let targets: Vec<Path> = write.update().into_iter().flatten().map(|change| change.path().clone()).collect();
        let expected = self.world.write(&write.of_statement()).map(|Changed { before, after }| {
            let shown = match returns {
                Some("ALL OLD") => before,
                Some("ALL NEW") => after,
                Some("MODIFIED OLD") => before.map(|before| project(&before, &targets)),
                Some(_) => after.map(|after| project(&after, &targets)),
                None => None,
            };
            let whole = returns.is_some_and(|returns| returns.starts_with("ALL"));
            let shown = shown.filter(|shown| whole || !shown.is_empty());
            json!({ "Items": shown.iter().map(item_json).collect::<Vec<_>>() })
        });
        self.expect("ExecuteStatement", self.said(write, returns, literal), expected).await;
    }

    async fn statements(&mut self, writes: &[Write]) {
        let input: Vec<_> = writes.iter().map(|write| self.said(write, None, write.show)).collect();
        let places: BTreeSet<_> = writes.iter().map(Write::place).collect();
        if places.len() < writes.len() {
            let refused = Err(Refusal::Invalid);
            return self.expect("BatchExecuteStatement", json!({ "Statements": input }), refused).await;
        }
        let mut responses = Vec::new();
        for write in writes {
            let table = self.names[write.table].clone();
            responses.push(match self.world.write(&write.of_statement()) {
                Ok(_) => json!({ "TableName": table }),
                Err(refusal @ Refusal::Invalid) => json!({ "Error": reason(&refusal) }),
                Err(refusal) => json!({ "Error": reason(&refusal), "TableName": table }),
            });
        }
        let in_no_words = |mut answer: Json| {
            for response in answer["Responses"].as_array_mut().unwrap() {
                if response["Error"].is_object() {
                    response["Error"] = without_message(response["Error"].take());
                } else {
                    response.as_object_mut().unwrap().remove("Error");
                }
            }
            answer
        };
        let expected = Ok(json!({ "Responses": responses }));
        self.expect_as("BatchExecuteStatement", json!({ "Statements": input }), expected, in_no_words).await;
    }

    fn read_statement(&self, get: &Get) -> Json {
        let mut writer = Writer::of_statement(false);
        let shown = get.paths.as_ref().map_or_else(|| "*".to_owned(), |paths| writer.paths(paths));
        let table = writer.name(&self.names[get.table]);
        let condition = Self::key_condition(&mut writer, get.table, get.key);
        writer.statement(format!("SELECT {shown} FROM {table} WHERE {condition}"))
    }

    async fn statement_reads(&mut self, gets: &[Get]) {
        let input: Vec<_> = gets.iter().map(|get| self.read_statement(get)).collect();
        let response = |get: &Get| {
            let mut response = item_or_nothing(self.found(get, |item, paths| columns(item, Some(paths))));
            response["TableName"] = json!(self.names[get.table]);
            response
        };
        let places: BTreeSet<_> = gets.iter().map(|get| (get.table, placed(get.table, get.key))).collect();
        let expected = if places.len() < gets.len() {
            Err(Refusal::Invalid)
        } else {
            Ok(json!({ "Responses": gets.iter().map(response).collect::<Vec<_>>() }))
        };
        self.expect("BatchExecuteStatement", json!({ "Statements": input }), expected).await;
    }

    async fn transact_statement_reads(&mut self, gets: &[Get]) {
        let input: Vec<_> = gets.iter().map(|get| self.read_statement(get)).collect();
        let expected = self.together(gets, |item, paths| columns(item, Some(paths)));
        self.expect("ExecuteTransaction", json!({ "TransactStatements": input }), expected).await;
    }

    async fn transact_statements(&mut self, writes: &[Write], token: Option<u8>) {
        let literal = writes.len() == 2;
        let statements: Vec<_> = writes.iter().map(|write| self.said(write, None, literal)).collect();
        let input = self.with_token(json!({ "TransactStatements": statements }), token);
        let done = json!({ "Responses": [] });
        let expected = self.world.transact(writes, true, token).map(|()| done);
        self.expect("ExecuteTransaction", input, expected).await;
    }

    /// Whether a table's description counts what the model has.
    pub(super) async fn describe(&mut self, table: usize) {
        let input = json!({ "TableName": self.names[table] });
        let table_of = self.node().ok("DescribeTable", input).await["Table"].clone();
        let counted = Access { table, index: None }.count(&self.world);
        assert_eq!((&table_of["ItemCount"], &table_of["TableSizeBytes"]), (&json!(counted.0), &json!(counted.1)));
        for (at, index) in INDEXES[table].iter().enumerate() {
            let member = if index.local { "LocalSecondaryIndexes" } else { "GlobalSecondaryIndexes" };
            let all = table_of[member].as_array().unwrap();
            let described = all.iter().find(|one| one["IndexName"] == index.name).unwrap();
            let counted = Access { table, index: Some(at) }.count(&self.world);
            let expected = (&json!(counted.0), &json!(counted.1));
            assert_eq!((&described["ItemCount"], &described["IndexSizeBytes"]), expected, "{}", index.name);
        }
    }
}

/// In an order of its own.
pub(super) fn sorted(mut items: Vec<Json>) -> Json {
    items.sort_by_key(|item| canonical(item).to_string());
    Json::Array(items)
}

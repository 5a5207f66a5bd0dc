//! Pairs of keys and values as items of a table: what `keyvalue` offers, in operations of DynamoDB.

use std::collections::HashMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::keyvalue::StoreError;
use super::state::CALL_BYTES_MAX;
use super::tables::{Failure, Tables};

/// The attribute that is a pair's value.
const VALUE: &str = "value";
/// Keys of one page.
const PAGE: usize = 1_000;
/// What DynamoDB takes at once.
const READS_MAX: usize = 100;
const CHANGES_MAX: usize = 25;
/// How often what was not processed, or changed meanwhile, is tried again; and how long after the first time.
const TRIES: u32 = 10;
const PAUSE: Duration = Duration::from_millis(20);

type Done<T> = Result<T, StoreError>;

/// A table whose items are pairs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bucket {
    table: String,
    /// Its partition key.
    key: String,
}

/// The bucket that is a table.
pub(super) async fn open(tables: &mut Tables, name: &str) -> Done<Bucket> {
    match tables.call("DescribeTable", &json!({ "TableName": name })).await {
        Ok(about) => bucket_of(name, &about["Table"]),
        // What no table can be called is no store either.
        Err(failure) if failure.code == "ValidationException" => Err(StoreError::NoSuchStore),
        Err(failure) => Err(failure.into()),
    }
}

/// Pure: what a table's description says of its key.
fn bucket_of(name: &str, table: &Value) -> Done<Bucket> {
    let unfit = |why: &str| {
        Err(StoreError::other(format!(
            "the table {name} cannot be a store: {why}; it takes a partition key of type S and no sort key"
        )))
    };
    let schema = table["KeySchema"].as_array().map_or(&[][..], Vec::as_slice);
    let [part] = schema else { return unfit("it has a sort key") };
    let key = part["AttributeName"].as_str().unwrap_or_default();
    let attributes = table["AttributeDefinitions"].as_array().map_or(&[][..], Vec::as_slice);
    if !attributes.iter().any(|about| about["AttributeName"] == key && about["AttributeType"] == "S") {
        return unfit("its key is no string");
    }
    if key == VALUE {
        return unfit("its key is the attribute that values are in");
    }
    Ok(Bucket { table: name.to_owned(), key: key.to_owned() })
}

/// The bytes of an attribute: its own, or the text of a string or number.
pub(super) fn bytes(attribute: &Value) -> Done<Vec<u8>> {
    if let Some(text) = attribute["B"].as_str() {
        return STANDARD.decode(text).map_err(|error| StoreError::other(error.to_string()));
    }
    match attribute["S"].as_str().or(attribute["N"].as_str()) {
        Some(text) => Ok(text.as_bytes().to_vec()),
        None => {
            Err(StoreError::other(format!("the item's attribute {VALUE} holds neither bytes nor a text or number")))
        }
    }
}

fn number(attribute: &Value) -> Done<i128> {
    let text = bytes(attribute)?;
    let whole = std::str::from_utf8(&text).ok().and_then(|text| text.parse().ok());
    whole.ok_or_else(|| StoreError::other("the value is no whole number"))
}

impl Bucket {
    fn item_key(&self, key: &str) -> Value {
        json!({ &self.key: { "S": key } })
    }

    fn item(&self, key: &str, value: &[u8]) -> Value {
        json!({ &self.key: { "S": key }, VALUE: { "B": STANDARD.encode(value) } })
    }

    /// A key's value as an attribute; nothing if there is no such pair.
    pub(super) async fn read(&self, tables: &mut Tables, key: &str) -> Done<Option<Value>> {
        let body = json!({ "TableName": self.table, "Key": self.item_key(key), "ConsistentRead": true });
        let mut answer = tables.call("GetItem", &body).await?;
        Ok(Some(answer["Item"][VALUE].take()).filter(|value| !value.is_null()))
    }

    pub(super) async fn write(&self, tables: &mut Tables, key: &str, value: &[u8]) -> Done<()> {
        tables.call("PutItem", &json!({ "TableName": self.table, "Item": self.item(key, value) })).await?;
        Ok(())
    }

    pub(super) async fn delete(&self, tables: &mut Tables, key: &str) -> Done<()> {
        tables.call("DeleteItem", &json!({ "TableName": self.table, "Key": self.item_key(key) })).await?;
        Ok(())
    }

    pub(super) async fn exists(&self, tables: &mut Tables, key: &str) -> Done<bool> {
        let body = json!({
            "TableName": self.table, "Key": self.item_key(key), "ConsistentRead": true,
            "ProjectionExpression": "#k", "ExpressionAttributeNames": { "#k": self.key },
        });
        Ok(tables.call("GetItem", &body).await?["Item"].is_object())
    }

    /// A page of keys, and the last one if there may be more.
    pub(super) async fn keys(&self, tables: &mut Tables, after: Option<&str>) -> Done<(Vec<String>, Option<String>)> {
        let mut body = json!({
            "TableName": self.table, "ConsistentRead": true, "Limit": PAGE,
            "ProjectionExpression": "#k", "ExpressionAttributeNames": { "#k": self.key },
        });
        if let Some(after) = after {
            body["ExclusiveStartKey"] = self.item_key(after);
        }
        let answer = tables.call("Scan", &body).await?;
        let key = |item: &Value| item[&self.key]["S"].as_str().map(ToOwned::to_owned);
        let keys = answer["Items"].as_array().map_or(&[][..], Vec::as_slice).iter().filter_map(key).collect();
        Ok((keys, key(&answer["LastEvaluatedKey"])))
    }

    /// Adds to a number, and makes it where there is none; the sum, which stays within bounds.
    pub(super) async fn add(&self, tables: &mut Tables, key: &str, delta: i128, bounds: (i128, i128)) -> Done<i128> {
        for _ in 0..TRIES {
            match tables.call("UpdateItem", &self.adding(key, delta, bounds)).await {
                Ok(answer) => return number(&answer["Attributes"][VALUE]),
                Err(failure) if failure.is_condition() => {}
                Err(failure) => return Err(failure.into()),
            }
            // Not a number of the table's, or one whose sum would be out of bounds.
            let Some(seen) = self.read(tables, key).await? else { continue };
            let sum = number(&seen)?.checked_add(delta).filter(|sum| (bounds.0..=bounds.1).contains(sum));
            let sum = sum.ok_or_else(|| StoreError::other("the number would be out of range"))?;
            match self.replace(tables, key, Some(&seen), json!({ "N": sum.to_string() })).await {
                Ok(()) => return Ok(sum),
                Err(failure) if failure.is_condition() => {}
                Err(failure) => return Err(failure.into()),
            }
        }
        Err(StoreError::other("the value changes faster than it can be added to"))
    }

    fn adding(&self, key: &str, delta: i128, (least, most): (i128, i128)) -> Value {
        json!({
            "TableName": self.table, "Key": self.item_key(key), "ReturnValues": "UPDATED_NEW",
            "UpdateExpression": "ADD #v :delta",
            "ConditionExpression": "attribute_not_exists(#v) OR (attribute_type(#v, :number) AND #v BETWEEN :least AND :most)",
            "ExpressionAttributeNames": { "#v": VALUE },
            "ExpressionAttributeValues": {
                ":delta": { "N": delta.to_string() }, ":number": { "S": "N" },
                ":least": { "N": (least - delta).to_string() }, ":most": { "N": (most - delta).to_string() },
            },
        })
    }

    /// Writes a value if the present one is what was seen.
    ///
    /// # Errors
    /// Also that it is another (`Failure::is_condition`), which is then with the failure.
    async fn replace(&self, tables: &mut Tables, key: &str, seen: Option<&Value>, value: Value) -> Result<(), Failure> {
        let mut body = json!({
            "TableName": self.table, "Item": { &self.key: { "S": key }, VALUE: value },
            "ExpressionAttributeNames": { "#v": VALUE }, "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
        });
        match seen {
            Some(seen) => {
                body["ConditionExpression"] = "#v = :seen".into();
                body["ExpressionAttributeValues"] = json!({ ":seen": seen });
            }
            None => body["ConditionExpression"] = "attribute_not_exists(#v)".into(),
        }
        tables.call("PutItem", &body).await.map(drop)
    }

    /// Writes a value if the present one is what was seen; otherwise what it is now.
    pub(super) async fn swap(
        &self,
        tables: &mut Tables,
        key: &str,
        seen: Option<&Value>,
        value: &[u8],
    ) -> Done<Option<Option<Value>>> {
        match self.replace(tables, key, seen, json!({ "B": STANDARD.encode(value) })).await {
            Ok(()) => Ok(None),
            Err(mut failure) if failure.is_condition() => {
                Ok(Some(Some(failure.body["Item"][VALUE].take()).filter(|value| !value.is_null())))
            }
            Err(failure) => Err(failure.into()),
        }
    }

    /// The pairs of keys, in their order; nothing for one that is not there.
    pub(super) async fn read_many(&self, tables: &mut Tables, keys: &[String]) -> Done<Vec<Option<(String, Vec<u8>)>>> {
        let mut found: HashMap<String, Vec<u8>> = HashMap::new();
        let mut held = 0;
        for chunk in distinct(keys.iter().map(String::as_str)).chunks(READS_MAX) {
            let wanted: Vec<Value> = chunk.iter().map(|key| self.item_key(key)).collect();
            let mut left = json!({ &self.table: { "Keys": wanted, "ConsistentRead": true } });
            let mut tries = 0;
            while left.as_object().is_some_and(|left| !left.is_empty()) {
                wait(&mut tries).await?;
                let mut answer = tables.call("BatchGetItem", &json!({ "RequestItems": left })).await?;
                for item in answer["Responses"][&self.table].as_array().map_or(&[][..], Vec::as_slice) {
                    let Some(key) = item[&self.key]["S"].as_str() else { continue };
                    let value = bytes(&item[VALUE])?;
                    held += value.len();
                    // As much as any call of the host hands over; the server has it in its own memory.
                    if held > CALL_BYTES_MAX {
                        return Err(StoreError::other(
                            "the values are larger than 16 MiB together: ask for fewer keys",
                        ));
                    }
                    found.insert(key.to_owned(), value);
                }
                left = answer["UnprocessedKeys"].take();
            }
        }
        Ok(keys.iter().map(|key| Some((key.clone(), found.get(key)?.clone()))).collect())
    }

    /// Writes pairs, and deletes where there is no value. Of those of one key the last one counts.
    pub(super) async fn change_many<'a>(
        &self,
        tables: &mut Tables,
        changes: impl Iterator<Item = (&'a str, Option<&'a [u8]>)>,
    ) -> Done<()> {
        let last: HashMap<&str, Option<&[u8]>> = changes.collect();
        let changes: Vec<Value> = last
            .into_iter()
            .map(|(key, value)| match value {
                Some(value) => json!({ "PutRequest": { "Item": self.item(key, value) } }),
                None => json!({ "DeleteRequest": { "Key": self.item_key(key) } }),
            })
            .collect();
        for chunk in changes.chunks(CHANGES_MAX) {
            let mut left = Value::Object(Map::from_iter([(self.table.clone(), chunk.into())]));
            let mut tries = 0;
            while left.as_object().is_some_and(|left| !left.is_empty()) {
                wait(&mut tries).await?;
                left =
                    tables.call("BatchWriteItem", &json!({ "RequestItems": left })).await?["UnprocessedItems"].take();
            }
        }
        Ok(())
    }
}

/// Lets a time pass that doubles, before each try but the first.
async fn wait(tries: &mut u32) -> Done<()> {
    if *tries == TRIES {
        return Err(StoreError::other("the table's throughput is exceeded"));
    }
    if *tries > 0 {
        tokio::time::sleep(PAUSE * 2_u32.pow(*tries - 1)).await;
    }
    *tries += 1;
    Ok(())
}

fn distinct<'a>(keys: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut keys: Vec<&str> = keys.collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_a_table_with_one_string_key() {
        let table = |schema: &[&str], kind: &str| {
            let schema: Vec<Value> =
                schema.iter().map(|name| json!({ "AttributeName": name, "KeyType": "HASH" })).collect();
            json!({ "KeySchema": schema, "AttributeDefinitions": [{ "AttributeName": "id", "AttributeType": kind }] })
        };
        assert_eq!(bucket_of("t", &table(&["id"], "S")), Ok(Bucket { table: "t".to_owned(), key: "id".to_owned() }));
        for (schema, kind) in [(&["id", "at"][..], "S"), (&["id"], "N"), (&["id"], "B"), (&[], "S"), (&["value"], "S")]
        {
            let refused = bucket_of("t", &table(schema, kind));
            assert!(
                matches!(&refused, Err(StoreError::Other(words)) if words.contains("cannot be a store")),
                "{refused:?}"
            );
        }
    }

    #[test]
    fn values_are_bytes_and_what_has_a_text() {
        assert_eq!(bytes(&json!({ "B": "AP8=" })), Ok(vec![0, 255]));
        assert_eq!(bytes(&json!({ "S": "ü" })), Ok("ü".as_bytes().to_vec()));
        assert_eq!(number(&json!({ "N": "-7" })), Ok(-7));
        assert_eq!(number(&json!({ "B": STANDARD.encode("12") })), Ok(12));
        for strange in [json!({ "BOOL": true }), json!({ "B": "%" }), json!({ "M": {} }), Value::Null] {
            assert!(bytes(&strange).is_err(), "{strange}");
        }
        for strange in [json!({ "N": "1.5" }), json!({ "S": "one" }), json!({ "B": "/w==" })] {
            assert!(number(&strange).is_err(), "{strange}");
        }
    }
}

// The AWS SDK for JavaScript v2, whose document client much code still uses. See `sdk.test.js` for how it is run.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import test from "node:test";

import AWS from "aws-sdk";

const options = { endpoint: process.env.ENDPOINT, region: "us-east-1", maxRetries: 0 };
const dynamo = new AWS.DynamoDB(options);
const documents = new AWS.DynamoDB.DocumentClient(options);
const streams = new AWS.DynamoDBStreams(options);

async function table() {
  const TableName = `js2-${randomUUID()}`;
  await dynamo.createTable({
    TableName, BillingMode: "PAY_PER_REQUEST", KeySchema: [{ AttributeName: "id", KeyType: "HASH" }],
    AttributeDefinitions: [{ AttributeName: "id", AttributeType: "S" }],
  }).promise();
  await dynamo.waitFor("tableExists", { TableName, $waiter: { delay: 1 } }).promise();
  return TableName;
}

test("items and transactions through the document client", async () => {
  const TableName = await table();
  const item = { id: "a", n: 1, list: [1, "two", { three: 3 }], set: documents.createSet(["x", "y"]), nothing: null };
  await documents.put({ TableName, Item: item }).promise();
  const { Item } = await documents.get({ TableName, Key: { id: "a" } }).promise();
  assert.deepEqual([Item.list, Item.set.values.sort(), Item.nothing], [item.list, ["x", "y"], null]);
  const move = (id, by) => ({ Update: { TableName, Key: { id }, UpdateExpression: "ADD n :by", ExpressionAttributeValues: { ":by": by } } });
  await documents.transactWrite({ TransactItems: [move("a", -3), move("b", 3)] }).promise();
  const gets = { TransactItems: ["a", "b", "c"].map((id) => ({ Get: { TableName, Key: { id }, ProjectionExpression: "n" } })) };
  const { Responses } = await documents.transactGet(gets).promise();
  assert.deepEqual(Responses.map((answer) => answer.Item), [{ n: -2 }, { n: 3 }, undefined]);
  const cancelled = { TransactItems: [
    move("a", 1), { ConditionCheck: { TableName, Key: { id: "b" }, ConditionExpression: "n < :n", ExpressionAttributeValues: { ":n": 0 } } },
  ] };
  await assert.rejects(documents.transactWrite(cancelled).promise(), {
    code: "TransactionCanceledException",
    message: "Transaction cancelled, please refer cancellation reasons for specific reasons [None, ConditionalCheckFailed]",
  });
});

test("forms from before expressions, and statements", async () => {
  const TableName = await table();
  await documents.put({ TableName, Item: { id: "a", n: 1 }, Expected: { id: { Exists: false } } }).promise();
  await assert.rejects(documents.delete({ TableName, Key: { id: "a" }, Expected: { n: { Value: 2 } } }).promise(), {
    code: "ConditionalCheckFailedException", statusCode: 400,
  });
  const AttributeUpdates = { n: { Action: "ADD", Value: 1 }, tags: { Action: "ADD", Value: documents.createSet(["x"]) } };
  const { Attributes } = await documents.update({ TableName, Key: { id: "a" }, AttributeUpdates, ReturnValues: "UPDATED_NEW" }).promise();
  assert.deepEqual([Attributes.n, Attributes.tags.values], [2, ["x"]]);
  const KeyConditions = { id: { ComparisonOperator: "EQ", AttributeValueList: ["a"] } };
  assert.equal((await documents.query({ TableName, KeyConditions }).promise()).Count, 1);
  const Statement = `SELECT n FROM "${TableName}" WHERE id = ?`;
  assert.deepEqual((await dynamo.executeStatement({ Statement, Parameters: [{ S: "a" }] }).promise()).Items, [{ n: { N: "2" } }]);
});

test("the records of a stream", async () => {
  const TableName = await table();
  const StreamSpecification = { StreamEnabled: true, StreamViewType: "NEW_IMAGE" };
  const { TableDescription } = await dynamo.updateTable({ TableName, StreamSpecification }).promise();
  const StreamArn = TableDescription.LatestStreamArn;
  await documents.put({ TableName, Item: { id: "a", n: 1 } }).promise();
  await documents.update({ TableName, Key: { id: "a" }, UpdateExpression: "SET n = :n", ExpressionAttributeValues: { ":n": 2 } }).promise();
  await documents.delete({ TableName, Key: { id: "a" } }).promise();
  const { StreamDescription } = await streams.describeStream({ StreamArn }).promise();
  assert.equal(StreamDescription.StreamStatus, "ENABLED");
  const begin = { StreamArn, ShardId: StreamDescription.Shards[0].ShardId, ShardIteratorType: "TRIM_HORIZON" };
  const { ShardIterator } = await streams.getShardIterator(begin).promise();
  const { Records } = await streams.getRecords({ ShardIterator }).promise();
  assert.deepEqual(Records.map((record) => record.eventName), ["INSERT", "MODIFY", "REMOVE"]);
  const images = Records.map(({ dynamodb }) => dynamodb.NewImage && AWS.DynamoDB.Converter.unmarshall(dynamodb.NewImage));
  assert.deepEqual(images, [{ id: "a", n: 1 }, { id: "a", n: 2 }, undefined]);
  assert.deepEqual(AWS.DynamoDB.Converter.unmarshall(Records[2].dynamodb.Keys), { id: "a" });
});

test("pages and batches of the document client, and waiters", async () => {
  const TableName = await table();
  const puts = Array.from({ length: 25 }, (_, n) => ({ PutRequest: { Item: { id: `item-${n}`, n } } }));
  const { UnprocessedItems } = await documents.batchWrite({ RequestItems: { [TableName]: puts } }).promise();
  assert.deepEqual(UnprocessedItems, {});
  const seen = new Set();
  let ExclusiveStartKey;
  do {
    const page = await documents.scan({ TableName, Limit: 7, ExclusiveStartKey }).promise();
    page.Items.forEach(({ id }) => seen.add(id));
    ExclusiveStartKey = page.LastEvaluatedKey;
  } while (ExclusiveStartKey);
  assert.equal(seen.size, 25);
  const Keys = [{ id: "item-1" }, { id: "item-2" }, { id: "none" }];
  const { Responses } = await documents.batchGet({ RequestItems: { [TableName]: { Keys } } }).promise();
  assert.deepEqual(Responses[TableName].map(({ n }) => n).sort(), [1, 2]);
  await dynamo.deleteTable({ TableName }).promise();
  await dynamo.waitFor("tableNotExists", { TableName, $waiter: { delay: 1 } }).promise();
});

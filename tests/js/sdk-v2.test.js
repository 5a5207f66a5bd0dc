// The AWS SDK for JavaScript v2, whose document client much code still uses. See `sdk.test.js` for how it is run.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import test from "node:test";

import AWS from "aws-sdk";

const options = { endpoint: process.env.ENDPOINT, region: "us-east-1", maxRetries: 0 };
const dynamo = new AWS.DynamoDB(options);
const documents = new AWS.DynamoDB.DocumentClient(options);

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

// DynamoDB's document client of the SDK for JavaScript v3: what goes beyond single items. See `sdk.test.js` for how it is run.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import test from "node:test";

import { CreateTableCommand, DynamoDBClient, TransactionCanceledException, waitUntilTableExists } from "@aws-sdk/client-dynamodb";
import { DynamoDBDocumentClient, PutCommand, TransactGetCommand, TransactWriteCommand } from "@aws-sdk/lib-dynamodb";

const dynamo = new DynamoDBClient({ endpoint: process.env.ENDPOINT, region: "us-east-1", maxAttempts: 1 });
const documents = DynamoDBDocumentClient.from(dynamo);

async function table() {
  const TableName = `js-${randomUUID()}`;
  await dynamo.send(new CreateTableCommand({
    TableName, BillingMode: "PAY_PER_REQUEST", KeySchema: [{ AttributeName: "id", KeyType: "HASH" }],
    AttributeDefinitions: [{ AttributeName: "id", AttributeType: "S" }],
  }));
  await waitUntilTableExists({ client: dynamo, minDelay: 1, maxDelay: 2, maxWaitTime: 30 }, { TableName });
  return TableName;
}

test("transactions move money and never lose any", async () => {
  const TableName = await table();
  const ids = ["a", "b", "c"];
  for (const id of ids) await documents.send(new PutCommand({ TableName, Item: { id, n: 50 } }));
  const add = (id, by, least) => ({ Update: {
    TableName, Key: { id }, UpdateExpression: "ADD n :by", ConditionExpression: "n >= :least", ExpressionAttributeValues: { ":by": by, ":least": least },
  } });
  const read = async () => {
    const TransactItems = ids.map((id) => ({ Get: { TableName, Key: { id } } }));
    return (await documents.send(new TransactGetCommand({ TransactItems }))).Responses.map(({ Item }) => Item.n);
  };
  const sum = (numbers) => numbers.reduce((a, b) => a + b, 0);
  await Promise.all(Array.from({ length: 24 }, async (_, round) => {
    const [from, to] = [ids[round % 3], ids[(round + 1 + (round % 2)) % 3]];
    const amount = 1 + (round * 7) % 40;
    try {
      await documents.send(new TransactWriteCommand({ TransactItems: [add(from, -amount, amount), add(to, amount, 0)] }));
    } catch (error) {
      assert.ok(error instanceof TransactionCanceledException, error);
      assert.deepEqual(error.CancellationReasons.map(({ Code }) => Code), ["ConditionalCheckFailed", "None"]);
    }
    assert.equal(sum(await read()), 150);
  }));
  assert.ok((await read()).every((n) => n >= 0));
});

test("a transaction that is sent twice happens once, and one that is cancelled says why", async () => {
  const TableName = await table();
  const once = { ClientRequestToken: randomUUID(), TransactItems: [{ Update: {
    TableName, Key: { id: "a" }, UpdateExpression: "ADD n :one", ExpressionAttributeValues: { ":one": 1 },
  } }] };
  for (let time = 0; time < 2; time++) await documents.send(new TransactWriteCommand(once));
  const get = { TransactItems: [{ Get: { TableName, Key: { id: "a" } } }, { Get: { TableName, Key: { id: "none" } } }] };
  const { Responses } = await documents.send(new TransactGetCommand(get));
  assert.deepEqual(Responses.map(({ Item }) => Item), [{ id: "a", n: 1 }, undefined]);
  const other = { ...once, TransactItems: [{ Delete: { TableName, Key: { id: "a" } } }] };
  await assert.rejects(documents.send(new TransactWriteCommand(other)), { name: "IdempotentParameterMismatchException" });
  const cancelled = { TransactItems: [
    { Put: { TableName, Item: { id: "b" } } },
    { ConditionCheck: {
      TableName, Key: { id: "a" }, ConditionExpression: "attribute_not_exists(id)", ReturnValuesOnConditionCheckFailure: "ALL_OLD",
    } },
  ] };
  await assert.rejects(documents.send(new TransactWriteCommand(cancelled)), (error) => {
    assert.ok(error instanceof TransactionCanceledException);
    // The document client leaves errors as they came.
    assert.deepEqual(error.CancellationReasons[1].Item, { id: { S: "a" }, n: { N: "1" } });
    return error.CancellationReasons[0].Code === "None" && error.CancellationReasons[1].Code === "ConditionalCheckFailed";
  });
});

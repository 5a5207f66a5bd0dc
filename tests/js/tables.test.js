// DynamoDB's document client of the SDK for JavaScript v3: what goes beyond single items. See `sdk.test.js` for how it is run.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import test from "node:test";

import {
  CreateBackupCommand, CreateTableCommand, DeleteBackupCommand, DescribeBackupCommand, DescribeTableCommand, DynamoDBClient,
  ListBackupsCommand, ProvisionedThroughputExceededException, RestoreTableFromBackupCommand, TransactionCanceledException,
  UpdateTableCommand, waitUntilTableExists,
} from "@aws-sdk/client-dynamodb";
import {
  DescribeStreamCommand, DynamoDBStreamsClient, GetRecordsCommand, GetShardIteratorCommand, ListStreamsCommand,
} from "@aws-sdk/client-dynamodb-streams";
import {
  BatchExecuteStatementCommand, DeleteCommand, DynamoDBDocumentClient, ExecuteStatementCommand, ExecuteTransactionCommand, paginateScan, PutCommand,
  QueryCommand, TransactGetCommand, TransactWriteCommand, UpdateCommand,
} from "@aws-sdk/lib-dynamodb";
import { unmarshall } from "@aws-sdk/util-dynamodb";

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

test("statements read and write documents", async () => {
  const TableName = await table();
  const run = async (Statement, ...Parameters) => {
    const input = { Statement: Statement.replace("@", `"${TableName}"`), ...(Parameters.length ? { Parameters } : {}) };
    return (await documents.send(new ExecuteStatementCommand(input))).Items;
  };
  const item = { id: "a", n: 1, deep: { list: [1, "two", { three: null }] } };
  await run("INSERT INTO @ VALUE ?", item);
  assert.deepEqual(await run("SELECT * FROM @ WHERE id = ?", "a"), [item]);
  assert.deepEqual(await run("SELECT deep.list FROM @ WHERE id = 'a' AND deep.list[1] = 'two'"), [{ list: item.deep.list }]);
  assert.deepEqual(await run("UPDATE @ SET n = n + ? WHERE id = 'a' RETURNING MODIFIED NEW *", 4), [{ n: 5 }]);
  await assert.rejects(run("INSERT INTO @ VALUE {'id': 'a'}"), { name: "DuplicateItemException" });
  const statements = ["a", "b"].map((id) => ({ Statement: `SELECT n FROM "${TableName}" WHERE id = ?`, Parameters: [id] }));
  const batch = await documents.send(new BatchExecuteStatementCommand({ Statements: statements }));
  assert.deepEqual(batch.Responses.map(({ Item }) => Item), [{ n: 5 }, undefined]);
  const TransactStatements = [
    { Statement: `DELETE FROM "${TableName}" WHERE id = 'a' AND n = 5` }, { Statement: `INSERT INTO "${TableName}" VALUE {'id': 'b'}` },
  ];
  await documents.send(new ExecuteTransactionCommand({ TransactStatements }));
  assert.deepEqual(await run("SELECT * FROM @"), [{ id: "b" }]);
});

test("forms from before expressions", async () => {
  const TableName = await table();
  await documents.send(new PutCommand({ TableName, Item: { id: "a", n: 1 }, Expected: { id: { Exists: false } } }));
  const again = new PutCommand({ TableName, Item: { id: "a" }, Expected: { id: { Exists: false } } });
  await assert.rejects(documents.send(again), { name: "ConditionalCheckFailedException" });
  const update = { TableName, Key: { id: "a" }, AttributeUpdates: { n: { Action: "ADD", Value: 2 }, s: { Action: "PUT", Value: "x" } } };
  assert.deepEqual((await documents.send(new UpdateCommand({ ...update, ReturnValues: "ALL_NEW" }))).Attributes, { id: "a", n: 3, s: "x" });
  const KeyConditions = { id: { ComparisonOperator: "EQ", AttributeValueList: ["a"] } };
  const QueryFilter = { n: { ComparisonOperator: "BETWEEN", AttributeValueList: [2, 4] } };
  assert.equal((await documents.send(new QueryCommand({ TableName, KeyConditions, QueryFilter }))).Count, 1);
  const ScanFilter = { s: { ComparisonOperator: "BEGINS_WITH", AttributeValueList: ["y"] } };
  for await (const page of paginateScan({ client: documents }, { TableName, ScanFilter })) assert.equal(page.Count, 0);
});

test("the records of a stream are the changes of its table, in order", async () => {
  const streams = new DynamoDBStreamsClient({ endpoint: process.env.ENDPOINT, region: "us-east-1", maxAttempts: 1 });
  const TableName = await table();
  const StreamSpecification = { StreamEnabled: true, StreamViewType: "NEW_AND_OLD_IMAGES" };
  await dynamo.send(new UpdateTableCommand({ TableName, StreamSpecification }));
  const StreamArn = (await dynamo.send(new DescribeTableCommand({ TableName }))).Table.LatestStreamArn;
  const listed = await streams.send(new ListStreamsCommand({ TableName }));
  assert.deepEqual(listed.Streams.map((stream) => stream.StreamArn), [StreamArn]);
  await documents.send(new PutCommand({ TableName, Item: { id: "a", n: 1, deep: { list: [1, "two"] } } }));
  const add = { TableName, Key: { id: "a" }, UpdateExpression: "ADD n :one", ExpressionAttributeValues: { ":one": 1 } };
  for (let time = 0; time < 3; time++) await documents.send(new UpdateCommand(add));
  await documents.send(new DeleteCommand({ TableName, Key: { id: "a" } }));
  const { Shards } = (await streams.send(new DescribeStreamCommand({ StreamArn }))).StreamDescription;
  const begin = { StreamArn, ShardId: Shards[0].ShardId, ShardIteratorType: "TRIM_HORIZON" };
  let { ShardIterator } = await streams.send(new GetShardIteratorCommand(begin));
  const records = [];
  while (records.length < 5) {
    const page = await streams.send(new GetRecordsCommand({ ShardIterator, Limit: 2 }));
    records.push(...page.Records);
    ShardIterator = page.NextShardIterator;
  }
  assert.deepEqual(records.map((record) => record.eventName), ["INSERT", "MODIFY", "MODIFY", "MODIFY", "REMOVE"]);
  const image = (name) => records.map((record) => record.dynamodb[name] && unmarshall(record.dynamodb[name]).n);
  assert.deepEqual(image("NewImage"), [1, 2, 3, 4, undefined]);
  assert.deepEqual(image("OldImage"), [undefined, 1, 2, 3, 4]);
  assert.deepEqual(unmarshall(records[0].dynamodb.NewImage).deep, { list: [1, "two"] });
  const numbers = records.map((record) => BigInt(record.dynamodb.SequenceNumber));
  assert.ok(numbers.every((number, at) => at === 0 || number > numbers[at - 1]));
});

test("backups, and a table without capacity", async () => {
  const TableName = await table();
  for (const id of ["a", "b"]) await documents.send(new PutCommand({ TableName, Item: { id, n: 1 } }));
  const { BackupArn } = (await dynamo.send(new CreateBackupCommand({ TableName, BackupName: "nightly" }))).BackupDetails;
  await documents.send(new PutCommand({ TableName, Item: { id: "c", n: 1 } }));
  const details = async () => (await dynamo.send(new DescribeBackupCommand({ BackupArn }))).BackupDescription.BackupDetails;
  while ((await details()).BackupStatus !== "AVAILABLE") await new Promise((resolve) => setTimeout(resolve, 50));
  assert.ok((await details()).BackupCreationDateTime instanceof Date);
  assert.equal((await dynamo.send(new ListBackupsCommand({ TableName }))).BackupSummaries.length, 1);
  const TargetTableName = `js-${randomUUID()}`;
  const ProvisionedThroughputOverride = { ReadCapacityUnits: 1, WriteCapacityUnits: 1 };
  await dynamo.send(new RestoreTableFromBackupCommand({
    BackupArn, TargetTableName, BillingModeOverride: "PROVISIONED", ProvisionedThroughputOverride,
  }));
  await waitUntilTableExists({ client: dynamo, minDelay: 1, maxDelay: 2, maxWaitTime: 30 }, { TableName: TargetTableName });
  const ids = [];
  for await (const page of paginateScan({ client: documents, pageSize: 1 }, { TableName: TargetTableName })) {
    ids.push(...page.Items.map(({ id }) => id));
  }
  assert.deepEqual(ids.sort(), ["a", "b"]);
  await dynamo.send(new DeleteBackupCommand({ BackupArn }));
  const big = new PutCommand({ TableName: TargetTableName, Item: { id: "big", text: "x".repeat(390_000) } });
  await documents.send(big);
  await assert.rejects(documents.send(big), (error) => {
    assert.ok(error instanceof ProvisionedThroughputExceededException, error);
    assert.equal(error.ThrottlingReasons[0].reason, "TableWriteProvisionedThroughputExceeded");
    return true;
  });
});

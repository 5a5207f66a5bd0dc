// The AWS SDK for JavaScript v3 against a running server: ENDPOINT, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY say
// which. `tests/sdk/test_javascript.py` starts the servers and runs this file against each.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import test from "node:test";

import { ApiGatewayV2Client, CreateApiCommand, DeleteApiCommand, GetApiCommand, GetRoutesCommand } from "@aws-sdk/client-apigatewayv2";
import {
  CloudWatchLogsClient, DescribeLogGroupsCommand, FilterLogEventsCommand, GetLogEventsCommand, paginateDescribeLogStreams,
} from "@aws-sdk/client-cloudwatch-logs";
import {
  CreateTableCommand, DeleteTableCommand, DescribeTableCommand, DynamoDBClient, ResourceNotFoundException, waitUntilTableExists,
  waitUntilTableNotExists,
} from "@aws-sdk/client-dynamodb";
import {
  AddPermissionCommand, CreateAliasCommand, CreateFunctionCommand, CreateFunctionUrlConfigCommand, DeleteFunctionCommand, GetFunctionCommand, InvokeCommand,
  InvokeWithResponseStreamCommand, LambdaClient, ListCapacityProvidersCommand,
  paginateListFunctions, paginateListVersionsByFunction, PublishVersionCommand, ResourceConflictException, UpdateAliasCommand,
  UpdateFunctionCodeCommand, UpdateFunctionConfigurationCommand, waitUntilFunctionActiveV2, waitUntilFunctionUpdatedV2,
  waitUntilPublishedVersionActive,
} from "@aws-sdk/client-lambda";
import { GetCallerIdentityCommand, STSClient } from "@aws-sdk/client-sts";
import { DynamoDBDocumentClient, GetCommand, NumberValue, paginateQuery, PutCommand, ScanCommand, UpdateCommand } from "@aws-sdk/lib-dynamodb";

const endpoint = process.env.ENDPOINT;
const options = { endpoint, region: "us-east-1", maxAttempts: 1 };
const lambda = new LambdaClient(options);
const dynamo = new DynamoDBClient(options);
const documents = DynamoDBDocumentClient.from(dynamo, { marshallOptions: { removeUndefinedValues: true } });
const logs = new CloudWatchLogsClient(options);
const sts = new STSClient(options);
const apis = new ApiGatewayV2Client(options);

const patience = { minDelay: 1, maxDelay: 2, maxWaitTime: 30 };
const named = (prefix) => `${prefix}-${randomUUID()}`;
// Packages that the runner made: the handler says "one", or "two".
const code = (name) => readFileSync(`${process.env.PACKAGES}/${name}.zip`);

async function eventually(what, condition) {
  for (const end = Date.now() + 30_000; Date.now() < end; ) {
    const value = await condition();
    if (value) return value;
    await new Promise((done) => setTimeout(done, 50));
  }
  assert.fail(`${what} did not come true`);
}

async function created(name, zip = code("one")) {
  const input = {
    FunctionName: name, Runtime: "nodejs20.x", Handler: "handler.handler", Role: "arn:aws:iam::000000000000:role/tests",
    Code: { ZipFile: zip }, Timeout: 10, MemorySize: 256,
  };
  const made = await lambda.send(new CreateFunctionCommand(input));
  await waitUntilFunctionActiveV2({ client: lambda, ...patience }, { FunctionName: name });
  return made;
}

async function invoked(name, payload, more = {}) {
  const answer = await lambda.send(new InvokeCommand({ FunctionName: name, Payload: JSON.stringify(payload), ...more }));
  return { ...answer, json: answer.Payload?.length ? JSON.parse(answer.Payload.transformToString()) : undefined };
}

test("lambda: a function's life", async () => {
  const name = named("js");
  const made = await created(name);
  assert.equal(made.$metadata.httpStatusCode, 201);
  await assert.rejects(created(name), (error) => error instanceof ResourceConflictException && error.message === `Function already exist: ${name}`);
  const answer = await invoked(name, { text: "ü☃🐦" }, { LogType: "Tail" });
  assert.deepEqual(answer.json, { said: "one", event: { text: "ü☃🐦" } });
  assert.equal(answer.ExecutedVersion, "$LATEST");
  assert.match(Buffer.from(answer.LogResult, "base64").toString(), /REPORT RequestId: /);
  await lambda.send(new UpdateFunctionCodeCommand({ FunctionName: name, ZipFile: code("two") }));
  await waitUntilFunctionUpdatedV2({ client: lambda, ...patience }, { FunctionName: name });
  assert.equal((await invoked(name, 1)).json.said, "two");
  const changed = await lambda.send(new UpdateFunctionConfigurationCommand({ FunctionName: name, MemorySize: 320 }));
  assert.equal(changed.MemorySize, 320);
  const { Code, Configuration } = await lambda.send(new GetFunctionCommand({ FunctionName: name }));
  assert.equal(Configuration.State, "Active");
  assert.deepEqual(Buffer.from(await (await fetch(Code.Location)).arrayBuffer()), code("two"));
  assert.equal((await invoked(name, 1, { InvocationType: "Event" })).StatusCode, 202);
  assert.equal((await invoked(name, 1, { InvocationType: "DryRun" })).StatusCode, 204);
  await lambda.send(new DeleteFunctionCommand({ FunctionName: name }));
  await assert.rejects(invoked(name, 1), { name: "ResourceNotFoundException", message: /^Function not found: arn:aws:lambda:/ });
});

test("lambda: failures, pages and what is not there", async () => {
  const name = named("js");
  await created(name);
  const failed = await invoked(name, { fail: "as asked" });
  assert.equal(failed.FunctionError, "Unhandled");
  assert.equal(failed.json.errorType, "TypeError");
  assert.equal(failed.json.errorMessage, "as asked");
  const found = [];
  for await (const page of paginateListFunctions({ client: lambda, pageSize: 1 }, {})) found.push(...page.Functions.map((f) => f.FunctionName));
  assert.ok(found.includes(name));
  assert.equal(new Set(found).size, found.length);
  await assert.rejects(lambda.send(new ListCapacityProvidersCommand({})), { name: "NotImplementedException" });
});

test("lambda: versions and an alias that moves", async () => {
  const name = named("js");
  await created(name);
  const first = await lambda.send(new PublishVersionCommand({ FunctionName: name }));
  assert.equal(first.Version, "1");
  await waitUntilPublishedVersionActive({ client: lambda, ...patience }, { FunctionName: name, Qualifier: "1" });
  const alias = { FunctionName: name, Name: "live" };
  await lambda.send(new CreateAliasCommand({ ...alias, FunctionVersion: "1" }));
  const input = { FunctionName: name, ZipFile: code("two"), Publish: true };
  assert.equal((await lambda.send(new UpdateFunctionCodeCommand(input))).Version, "2");
  const ran = async () => (await lambda.send(new InvokeCommand({ FunctionName: name, Qualifier: "live" }))).ExecutedVersion;
  assert.equal(await ran(), "1");
  await lambda.send(new UpdateAliasCommand({ ...alias, FunctionVersion: "2" }));
  assert.equal(await ran(), "2");
  const versions = [];
  for await (const page of paginateListVersionsByFunction({ client: lambda, pageSize: 2 }, { FunctionName: name })) {
    versions.push(...page.Versions.map((version) => version.Version));
  }
  assert.deepEqual(versions, ["$LATEST", "1", "2"]);
});

test("lambda: a streamed answer", async () => {
  const name = named("js");
  await created(name, code("stream"));
  const streamed = async (payload) => {
    const input = { FunctionName: name, Payload: JSON.stringify(payload), LogType: "Tail" };
    const answer = await lambda.send(new InvokeWithResponseStreamCommand(input));
    const pieces = [];
    let complete;
    for await (const event of answer.EventStream) {
      if (event.PayloadChunk) pieces.push(event.PayloadChunk.Payload);
      if (event.InvokeComplete) complete = event.InvokeComplete;
    }
    return { ...answer, text: Buffer.concat(pieces).toString(), complete };
  };
  const whole = await streamed({});
  assert.deepEqual([whole.StatusCode, whole.ExecutedVersion, whole.text], [200, "$LATEST", "first last"]);
  assert.match(Buffer.from(whole.complete.LogResult, "base64").toString(), /REPORT RequestId: /);
  const failed = await streamed({ fail: true });
  assert.deepEqual([failed.text, failed.complete.ErrorCode], ["first ", "TypeError"]);
  assert.equal(JSON.parse(failed.complete.ErrorDetails).errorMessage, "half way");
});

test("lambda: a function URL", async () => {
  const name = named("js");
  await created(name);
  const { FunctionUrl } = await lambda.send(new CreateFunctionUrlConfigCommand({ FunctionName: name, AuthType: "NONE" }));
  const id = new URL(FunctionUrl).host.split(".")[0];
  assert.equal((await fetch(`${endpoint}/_dunlin/url/${id}/`)).status, 403, "nobody may call it yet");
  await lambda.send(new AddPermissionCommand({
    FunctionName: name, StatementId: "public", Action: "lambda:InvokeFunctionUrl", Principal: "*", FunctionUrlAuthType: "NONE",
  }));
  const answer = await fetch(`${endpoint}/_dunlin/url/${id}/path?q=1`);
  const { said, event } = await answer.json();
  assert.deepEqual([answer.status, said, event.rawPath, event.rawQueryString], [200, "one", "/path", "q=1"]);
});

test("dynamodb: a table's life and its items", async () => {
  const TableName = named("js");
  await dynamo.send(new CreateTableCommand({
    TableName, BillingMode: "PAY_PER_REQUEST",
    KeySchema: [{ AttributeName: "id", KeyType: "HASH" }, { AttributeName: "n", KeyType: "RANGE" }],
    AttributeDefinitions: [{ AttributeName: "id", AttributeType: "S" }, { AttributeName: "n", AttributeType: "N" }],
  }));
  await waitUntilTableExists({ client: dynamo, ...patience }, { TableName });
  const item = {
    id: "a", n: 0, text: "ü☃🐦", bytes: new Uint8Array([0, 255]), yes: true, nothing: null, list: [1, "two", { three: 3 }], set: new Set(["x", "y"]),
  };
  await documents.send(new PutCommand({ TableName, Item: { ...item, gone: undefined } }));
  const got = await documents.send(new GetCommand({ TableName, Key: { id: "a", n: 0 } }));
  assert.deepEqual(got.Item, item);
  const exact = DynamoDBDocumentClient.from(new DynamoDBClient(options), { unmarshallOptions: { wrapNumbers: (text) => NumberValue.from(text) } });
  await exact.send(new PutCommand({ TableName, Item: { id: "b", n: 1, big: NumberValue.from("12345678901234567890123456789012345678") } }));
  const big = await exact.send(new GetCommand({ TableName, Key: { id: "b", n: 1 } }));
  assert.equal(big.Item.big.toString(), "12345678901234567890123456789012345678");
  const updated = await documents.send(new UpdateCommand({
    TableName, Key: { id: "a", n: 0 }, UpdateExpression: "SET #t = :t ADD hits :one", ReturnValues: "UPDATED_NEW",
    ExpressionAttributeNames: { "#t": "text" }, ExpressionAttributeValues: { ":t": "new", ":one": 1 },
  }));
  assert.deepEqual(updated.Attributes, { text: "new", hits: 1 });
  await assert.rejects(
    documents.send(new PutCommand({ TableName, Item: { id: "a", n: 0 }, ConditionExpression: "attribute_not_exists(id)" })),
    { name: "ConditionalCheckFailedException", message: "The conditional request failed" },
  );
  for (let n = 1; n < 8; n++) await documents.send(new PutCommand({ TableName, Item: { id: "a", n } }));
  const numbers = [];
  const query = { TableName, KeyConditionExpression: "id = :a AND n > :n", ExpressionAttributeValues: { ":a": "a", ":n": 2 } };
  for await (const page of paginateQuery({ client: documents, pageSize: 2 }, query)) numbers.push(...page.Items.map((i) => i.n));
  assert.deepEqual(numbers, [3, 4, 5, 6, 7]);
  assert.equal((await documents.send(new ScanCommand({ TableName, Select: "COUNT" }))).Count, 9);
  await dynamo.send(new DeleteTableCommand({ TableName }));
  await waitUntilTableNotExists({ client: dynamo, ...patience }, { TableName });
  await assert.rejects(dynamo.send(new DescribeTableCommand({ TableName })), (error) => error instanceof ResourceNotFoundException);
});

test("sts: who calls, and a wrong secret", async () => {
  const who = await sts.send(new GetCallerIdentityCommand({}));
  assert.equal(who.Arn, `arn:aws:iam::${who.Account}:root`);
  if (process.env.SERVER_MODE !== "up") return;
  const credentials = { accessKeyId: process.env.AWS_ACCESS_KEY_ID, secretAccessKey: "wrong" };
  await assert.rejects(new STSClient({ ...options, credentials }).send(new GetCallerIdentityCommand({})), { name: "SignatureDoesNotMatch" });
  await assert.rejects(new LambdaClient({ ...options, credentials }).send(new GetFunctionCommand({ FunctionName: "f" })), {
    name: "InvalidSignatureException",
  });
});

test("logs: what a function wrote", async () => {
  const name = named("js");
  const logGroupName = `/aws/lambda/${name}`;
  await created(name);
  await invoked(name, { mark: 7 });
  const filter = new FilterLogEventsCommand({ logGroupName, filterPattern: "called" });
  const events = await eventually("the log line", async () => {
    try {
      const { events } = await logs.send(filter);
      return events.length && events;
    } catch (error) {
      if (error.name !== "ResourceNotFoundException") throw error;
    }
  });
  assert.match(events[0].message, /\tINFO\tcalled with \{ mark: 7 \}\n$/);
  const { logGroups } = await logs.send(new DescribeLogGroupsCommand({ logGroupNamePrefix: logGroupName }));
  assert.deepEqual(logGroups.map((group) => group.logGroupName), [logGroupName]);
  for await (const page of paginateDescribeLogStreams({ client: logs }, { logGroupName })) {
    for (const { logStreamName } of page.logStreams) {
      const got = await logs.send(new GetLogEventsCommand({ logGroupName, logStreamName, startFromHead: true }));
      assert.ok(got.events.some((event) => event.message.startsWith("START RequestId: ")));
    }
  }
});

test("apigatewayv2: an API over a function", async () => {
  const name = named("js");
  const { FunctionArn } = await created(name);
  await lambda.send(new AddPermissionCommand({
    FunctionName: name, StatementId: "api", Action: "lambda:InvokeFunction", Principal: "apigateway.amazonaws.com",
  }));
  const made = await apis.send(new CreateApiCommand({ Name: name, ProtocolType: "HTTP", Target: FunctionArn }));
  const { said, event } = await (await fetch(`${endpoint}/_dunlin/api/${made.ApiId}/$default/a/b`)).json();
  assert.deepEqual([said, event.rawPath, event.routeKey], ["one", "/a/b", "$default"]);
  const { Items } = await apis.send(new GetRoutesCommand({ ApiId: made.ApiId }));
  assert.deepEqual(Items.map((route) => route.RouteKey), ["$default"]);
  await apis.send(new DeleteApiCommand({ ApiId: made.ApiId }));
  await assert.rejects(apis.send(new GetApiCommand({ ApiId: made.ApiId })), { name: "NotFoundException" });
});

// Every operation of Lambda that is supported, as the AWS SDK for JavaScript v3 calls it, with what it brings about. Started
// like `sdk.test.js`, whose calls are not repeated here.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import test from "node:test";

import * as tables from "@aws-sdk/client-dynamodb";
import * as api from "@aws-sdk/client-lambda";

const endpoint = process.env.ENDPOINT;
const lambda = new api.LambdaClient({ endpoint, region: "us-east-1", maxAttempts: 1 });
const dynamodb = new tables.DynamoDBClient({ endpoint, region: "us-east-1", maxAttempts: 1 });
const code = (name) => readFileSync(`${process.env.PACKAGES}/${name}.zip`);
const ROLE = "arn:aws:iam::000000000000:role/tests";

/** Sends the command of an operation. */
const call = (operation, input) => lambda.send(new api[`${operation}Command`](input));
const refusedAs = (name, operation, input) => assert.rejects(call(operation, input), { name });
const said = async (FunctionName, more = {}) => JSON.parse((await call("Invoke", { FunctionName, ...more })).Payload.transformToString()).said;

async function listed(paginate, input, items) {
  const all = [];
  for await (const page of paginate({ client: lambda, pageSize: 1 }, input)) all.push(...page[items]);
  return all;
}

async function created(more = {}) {
  const input = {
    FunctionName: `js-${randomUUID()}`, Runtime: "nodejs20.x", Handler: "handler.handler", Role: ROLE, Code: { ZipFile: code("one") },
    Timeout: 10, MemorySize: 256, ...more,
  };
  return call("CreateFunction", input);
}

async function eventually(what, condition) {
  for (const end = Date.now() + 30_000; Date.now() < end; ) {
    if (await condition()) return;
    await new Promise((done) => setTimeout(done, 50));
  }
  assert.fail(`${what} did not come true`);
}

test("configuration and tags", async () => {
  const { FunctionName, FunctionArn } = await created();
  const changed = await call("UpdateFunctionConfiguration", { FunctionName, LoggingConfig: { LogFormat: "JSON", SystemLogLevel: "WARN" } });
  assert.equal(changed.LoggingConfig.SystemLogLevel, "WARN");
  assert.equal((await call("GetFunctionConfiguration", { FunctionName })).LoggingConfig.ApplicationLogLevel, "INFO");
  await call("TagResource", { Resource: FunctionArn, Tags: { a: "1", b: "2" } });
  await call("UntagResource", { Resource: FunctionArn, TagKeys: ["a"] });
  assert.deepEqual((await call("ListTags", { Resource: FunctionArn })).Tags, { b: "2" });
  assert.ok((await call("GetAccountSettings", {})).AccountUsage.FunctionCount >= 1);
});

test("tenants", async () => {
  const { FunctionName, TenancyConfig } = await created({ TenancyConfig: { TenantIsolationMode: "PER_TENANT" } });
  assert.equal(TenancyConfig.TenantIsolationMode, "PER_TENANT");
  assert.equal(await said(FunctionName, { TenantId: "blue" }), "one");
  await refusedAs("InvalidParameterValueException", "Invoke", { FunctionName });
});

test("aliases and provisioned concurrency", async () => {
  const { FunctionName } = await created({ Publish: true });
  const alias = { FunctionName, Name: "live" };
  await call("CreateAlias", { ...alias, FunctionVersion: "1" });
  await call("CreateAlias", { FunctionName, Name: "next", FunctionVersion: "1" });
  assert.equal((await call("GetAlias", alias)).FunctionVersion, "1");
  assert.deepEqual((await listed(api.paginateListAliases, { FunctionName }, "Aliases")).map((it) => it.Name), ["live", "next"]);
  await call("DeleteAlias", { FunctionName, Name: "next" });
  await refusedAs("ResourceNotFoundException", "GetAlias", { FunctionName, Name: "next" });
  const place = { FunctionName, Qualifier: "live" };
  await call("PutProvisionedConcurrencyConfig", { ...place, ProvisionedConcurrentExecutions: 1 });
  await eventually("the environment", async () => (await call("GetProvisionedConcurrencyConfig", place)).Status === "READY");
  const configs = await listed(api.paginateListProvisionedConcurrencyConfigs, { FunctionName }, "ProvisionedConcurrencyConfigs");
  assert.deepEqual(configs.map((it) => it.RequestedProvisionedConcurrentExecutions), [1]);
  await call("DeleteProvisionedConcurrencyConfig", place);
  await refusedAs("ProvisionedConcurrencyConfigNotFoundException", "GetProvisionedConcurrencyConfig", place);
});

test("reserved concurrency", async () => {
  const { FunctionName } = await created();
  await call("PutFunctionConcurrency", { FunctionName, ReservedConcurrentExecutions: 0 });
  assert.equal((await call("GetFunctionConcurrency", { FunctionName })).ReservedConcurrentExecutions, 0);
  await refusedAs("TooManyRequestsException", "Invoke", { FunctionName });
  await call("DeleteFunctionConcurrency", { FunctionName });
  assert.equal((await call("GetFunctionConcurrency", { FunctionName })).ReservedConcurrentExecutions, undefined);
  assert.equal(await said(FunctionName), "one");
});

test("events", async () => {
  const { FunctionName } = await created();
  const { FunctionArn } = await created();
  const put = await call("PutFunctionEventInvokeConfig", { FunctionName, MaximumRetryAttempts: 1 });
  assert.equal(put.MaximumRetryAttempts, 1);
  const DestinationConfig = { OnFailure: { Destination: FunctionArn } };
  await call("UpdateFunctionEventInvokeConfig", { FunctionName, DestinationConfig });
  const got = await call("GetFunctionEventInvokeConfig", { FunctionName });
  assert.deepEqual([got.MaximumRetryAttempts, got.DestinationConfig.OnFailure.Destination], [1, FunctionArn]);
  assert.ok(got.LastModified instanceof Date);
  const configs = await listed(api.paginateListFunctionEventInvokeConfigs, { FunctionName }, "FunctionEventInvokeConfigs");
  assert.equal(configs.length, 1);
  await call("DeleteFunctionEventInvokeConfig", { FunctionName });
  await refusedAs("ResourceNotFoundException", "GetFunctionEventInvokeConfig", { FunctionName });
  assert.equal((await call("InvokeAsync", { FunctionName, InvokeArgs: "{}" })).Status, 202);
});

test("function URLs and policies", async () => {
  const { FunctionName, FunctionArn } = await created();
  await call("CreateFunctionUrlConfig", { FunctionName, AuthType: "NONE" });
  const Cors = { AllowOrigins: ["https://a.example"] };
  await call("UpdateFunctionUrlConfig", { FunctionName, AuthType: "AWS_IAM", Cors });
  const url = await call("GetFunctionUrlConfig", { FunctionName });
  assert.deepEqual([url.AuthType, url.Cors], ["AWS_IAM", Cors]);
  assert.equal((await listed(api.paginateListFunctionUrlConfigs, { FunctionName }, "FunctionUrlConfigs"))[0].FunctionUrl, url.FunctionUrl);
  const id = new URL(url.FunctionUrl).host.split(".")[0];
  assert.equal((await fetch(`${endpoint}/_dunlin/url/${id}/`)).status, 403, "without a signature");
  await call("DeleteFunctionUrlConfig", { FunctionName });
  await refusedAs("ResourceNotFoundException", "GetFunctionUrlConfig", { FunctionName });

  const statement = { FunctionName, StatementId: "s", Action: "lambda:InvokeFunction", Principal: "events.amazonaws.com" };
  await call("AddPermission", statement);
  assert.equal(JSON.parse((await call("GetPolicy", { FunctionName })).Policy).Statement[0].Sid, "s");
  await call("RemovePermission", { FunctionName, StatementId: "s" });
  await refusedAs("ResourceNotFoundException", "GetPolicy", { FunctionName });
  const Policy = JSON.stringify({
    Version: "2012-10-17",
    Statement: [{ Sid: "t", Effect: "Allow", Principal: { AWS: "123456789012" }, Action: "lambda:InvokeFunction", Resource: FunctionArn }],
  });
  await call("PutResourcePolicy", { ResourceArn: FunctionArn, Policy });
  assert.equal(JSON.parse((await call("GetResourcePolicy", { ResourceArn: FunctionArn })).Policy).Statement[0].Sid, "t");
  await call("DeleteResourcePolicy", { ResourceArn: FunctionArn });
  await refusedAs("ResourceNotFoundException", "GetResourcePolicy", { ResourceArn: FunctionArn });
});

test("layers", async () => {
  const LayerName = `js-${randomUUID()}`;
  const publish = (zip) => call("PublishLayerVersion", { LayerName, Content: { ZipFile: code(zip) }, CompatibleRuntimes: ["nodejs20.x"] });
  const [first, second] = [await publish("one"), await publish("two")];
  assert.deepEqual([first.Version, second.Version], [1, 2]);
  const one = { LayerName, VersionNumber: 1 };
  const got = await call("GetLayerVersion", one);
  assert.deepEqual(Buffer.from(await (await fetch(got.Content.Location)).arrayBuffer()), code("one"));
  assert.equal((await call("GetLayerVersionByArn", { Arn: second.LayerVersionArn })).Version, 2);
  assert.deepEqual((await listed(api.paginateListLayerVersions, { LayerName }, "LayerVersions")).map((it) => it.Version), [2, 1]);
  assert.ok((await listed(api.paginateListLayers, {}, "Layers")).some((it) => it.LayerName === LayerName));
  await call("AddLayerVersionPermission", { ...one, StatementId: "all", Action: "lambda:GetLayerVersion", Principal: "*" });
  assert.equal(JSON.parse((await call("GetLayerVersionPolicy", one)).Policy).Statement[0].Sid, "all");
  await call("RemoveLayerVersionPermission", { ...one, StatementId: "all" });
  await refusedAs("ResourceNotFoundException", "GetLayerVersionPolicy", one);
  await call("DeleteLayerVersion", one);
  await refusedAs("ResourceNotFoundException", "GetLayerVersion", one);
  const { Layers } = await created({ Layers: [second.LayerVersionArn] });
  assert.equal(Layers[0].Arn, second.LayerVersionArn);
});

test("code signing", async () => {
  const AllowedPublishers = { SigningProfileVersionArns: ["arn:aws:signer:us-east-1:000000000000:/signing-profiles/p/0123456789"] };
  const CodeSigningPolicies = { UntrustedArtifactOnDeployment: "Warn" };
  const { CodeSigningConfig } = await call("CreateCodeSigningConfig", { AllowedPublishers, CodeSigningPolicies });
  const { CodeSigningConfigArn } = CodeSigningConfig;
  const { FunctionName, FunctionArn } = await created();
  await call("PutFunctionCodeSigningConfig", { FunctionName, CodeSigningConfigArn });
  assert.equal((await call("GetFunctionCodeSigningConfig", { FunctionName })).CodeSigningConfigArn, CodeSigningConfigArn);
  assert.deepEqual(await listed(api.paginateListFunctionsByCodeSigningConfig, { CodeSigningConfigArn }, "FunctionArns"), [FunctionArn]);
  await call("UpdateCodeSigningConfig", { CodeSigningConfigArn, CodeSigningPolicies: { UntrustedArtifactOnDeployment: "Enforce" } });
  await refusedAs("CodeVerificationFailedException", "UpdateFunctionCode", { FunctionName, ZipFile: code("two") });
  await call("DeleteFunctionCodeSigningConfig", { FunctionName });
  await call("UpdateFunctionCode", { FunctionName, ZipFile: code("two") });
  assert.equal(await said(FunctionName), "two");
  const configs = await listed(api.paginateListCodeSigningConfigs, {}, "CodeSigningConfigs");
  assert.ok(configs.some((it) => it.CodeSigningConfigArn === CodeSigningConfigArn));
  assert.equal((await call("GetCodeSigningConfig", { CodeSigningConfigArn })).CodeSigningConfig.CodeSigningPolicies.UntrustedArtifactOnDeployment, "Enforce");
  await call("DeleteCodeSigningConfig", { CodeSigningConfigArn });
  await refusedAs("ResourceNotFoundException", "GetCodeSigningConfig", { CodeSigningConfigArn });
});

test("recursion and runtime management", async () => {
  const { FunctionName } = await created();
  await call("PutFunctionRecursionConfig", { FunctionName, RecursiveLoop: "Allow" });
  assert.equal((await call("GetFunctionRecursionConfig", { FunctionName })).RecursiveLoop, "Allow");
  await call("PutRuntimeManagementConfig", { FunctionName, UpdateRuntimeOn: "FunctionUpdate" });
  assert.equal((await call("GetRuntimeManagementConfig", { FunctionName })).UpdateRuntimeOn, "FunctionUpdate");
});

test("event source mappings", async () => {
  const { FunctionName } = await created();
  const UUID = randomUUID();
  const EventSourceArn = "arn:aws:sqs:us-east-1:000000000000:q";
  await assert.rejects(call("CreateEventSourceMapping", { FunctionName, EventSourceArn }), (error) => {
    return ["NotImplementedException", "InvalidParameterValueException"].includes(error.name);
  });
  assert.deepEqual(await listed(api.paginateListEventSourceMappings, { FunctionName }, "EventSourceMappings"), []);
  for (const operation of ["Get", "Update", "Delete"]) {
    await refusedAs("ResourceNotFoundException", `${operation}EventSourceMapping`, { UUID });
  }
});

test("event source mappings of the stream of a table", async () => {
  const TableName = `js-${randomUUID()}`;
  await dynamodb.send(new tables.CreateTableCommand({
    TableName, KeySchema: [{ AttributeName: "pk", KeyType: "HASH" }], AttributeDefinitions: [{ AttributeName: "pk", AttributeType: "S" }],
    BillingMode: "PAY_PER_REQUEST", StreamSpecification: { StreamEnabled: true, StreamViewType: "NEW_IMAGE" },
  }));
  const EventSourceArn = (await dynamodb.send(new tables.DescribeTableCommand({ TableName }))).Table.LatestStreamArn;
  const functions = [(await created()).FunctionName, (await created()).FunctionName];
  const map = (FunctionName, more) => call("CreateEventSourceMapping", { FunctionName, EventSourceArn, StartingPosition: "TRIM_HORIZON", ...more });
  const made = [await map(functions[0], { Enabled: false, BatchSize: 3 }), await map(functions[1], { Enabled: false })];
  assert.ok(made[0].State === "Creating" && made[0].LastModified instanceof Date);
  await refusedAs("ResourceConflictException", "CreateEventSourceMapping", { FunctionName: functions[0], EventSourceArn, StartingPosition: "LATEST" });
  const { UUID } = made[0];
  const shown = () => call("GetEventSourceMapping", { UUID });
  const settled = (state, id = UUID) => eventually(state, async () => (await call("GetEventSourceMapping", { UUID: id })).State === state);
  const uuids = async (input) => (await listed(api.paginateListEventSourceMappings, input, "EventSourceMappings")).map((it) => it.UUID).sort();
  assert.deepEqual(await uuids({ EventSourceArn }), made.map((it) => it.UUID).sort());
  assert.deepEqual(await uuids({ FunctionName: functions[0] }), [UUID]);
  await settled("Disabled");

  const settings = {
    ParallelizationFactor: 2, BisectBatchOnFunctionError: true, MaximumRecordAgeInSeconds: 60, MaximumRetryAttempts: 2,
    FunctionResponseTypes: ["ReportBatchItemFailures"], FilterCriteria: { Filters: [{ Pattern: JSON.stringify({ eventName: ["INSERT"] }) }] },
  };
  assert.equal((await call("UpdateEventSourceMapping", { UUID, ...settings })).State, "Updating");
  await settled("Disabled");
  const now = await shown();
  for (const [name, value] of Object.entries({ BatchSize: 3, ...settings })) assert.deepEqual(now[name], value, name);
  await call("UpdateEventSourceMapping", { UUID, ParallelizationFactor: 1, TumblingWindowInSeconds: 5 });
  await settled("Disabled");
  assert.equal((await shown()).TumblingWindowInSeconds, 5);
  assert.equal((await call("UpdateEventSourceMapping", { UUID, Enabled: true, TumblingWindowInSeconds: 0 })).State, "Enabling");
  await settled("Enabled");
  await dynamodb.send(new tables.PutItemCommand({ TableName, Item: { pk: { S: "a" } } }));
  await eventually("the function was called", async () => (await shown()).LastProcessingResult === "OK");
  assert.equal((await call("UpdateEventSourceMapping", { UUID, Enabled: false })).State, "Disabling");
  await settled("Disabled");
  await settled("Disabled", made[1].UUID);
  for (const it of made) assert.equal((await call("DeleteEventSourceMapping", { UUID: it.UUID })).State, "Deleting");
  await eventually("both are gone", async () => (await uuids({ EventSourceArn })).length === 0);
  await refusedAs("ResourceNotFoundException", "GetEventSourceMapping", { UUID });
});

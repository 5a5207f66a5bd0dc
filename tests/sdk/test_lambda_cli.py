"""Operations of Lambda that the AWS CLI's other tests leave out, each with what it brings about. The CLI runs within this
process: to start it takes longer than its calls."""

import contextlib
import io
import json
import os
import unittest.mock

import awscli.clidriver

from conftest import NODE, ROLE, name_of, wait_for, zipped
from test_dynamodb import make

CODE = "exports.handler = async () => 'one';"
PROFILE = "arn:aws:signer:us-east-1:000000000000:/signing-profiles/p/0123456789"


def cli(server, operation, *arguments, fails=False):
    """Runs an operation and returns its JSON; or, where it is to fail, its words."""
    out, err = io.StringIO(), io.StringIO()
    # Where the CLI keeps its own data is said by a variable that it has set itself.
    variables = server.environment() | {"AWS_DATA_PATH": os.environ["AWS_DATA_PATH"]}
    with unittest.mock.patch.dict(os.environ, variables, clear=True), \
            contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = awscli.clidriver.create_clidriver().main(["lambda", operation, *arguments, "--output", "json"])
    assert (code != 0) == fails, (code, out.getvalue(), err.getvalue())
    if fails:
        return err.getvalue()
    return json.loads(out.getvalue()) if out.getvalue().strip() else None


def test_url_policy_and_concurrency(dev, tmp_path):
    name = dev.function(CODE, runtime=NODE)
    of = ["--function-name", name]
    url = cli(dev, "create-function-url-config", *of, "--auth-type", "NONE")["FunctionUrl"]
    cli(dev, "update-function-url-config", *of, "--auth-type", "AWS_IAM", "--invoke-mode", "RESPONSE_STREAM")
    shown = cli(dev, "get-function-url-config", *of)
    assert (shown["FunctionUrl"], shown["AuthType"], shown["InvokeMode"]) == (url, "AWS_IAM", "RESPONSE_STREAM")
    assert len(cli(dev, "list-function-url-configs", *of)["FunctionUrlConfigs"]) == 1
    cli(dev, "delete-function-url-config", *of)
    assert "(ResourceNotFoundException)" in cli(dev, "get-function-url-config", *of, fails=True)

    statement = ["--statement-id", "s", "--action", "lambda:InvokeFunction", "--principal", "events.amazonaws.com"]
    cli(dev, "add-permission", *of, *statement)
    assert json.loads(cli(dev, "get-policy", *of)["Policy"])["Statement"][0]["Sid"] == "s"
    cli(dev, "remove-permission", *of, "--statement-id", "s")
    assert "(ResourceNotFoundException)" in cli(dev, "get-policy", *of, fails=True)

    cli(dev, "put-function-concurrency", *of, "--reserved-concurrent-executions", "0")
    assert cli(dev, "get-function-concurrency", *of) == {"ReservedConcurrentExecutions": 0}
    assert "(TooManyRequestsException)" in cli(dev, "invoke", *of, str(tmp_path / "out"), fails=True)
    cli(dev, "delete-function-concurrency", *of)
    cli(dev, "invoke", *of, str(tmp_path / "out"))
    assert json.loads((tmp_path / "out").read_text()) == "one"
    assert cli(dev, "get-account-settings")["AccountUsage"]["FunctionCount"] >= 1


def test_events_and_tags(dev, tmp_path):
    name, other = dev.function(CODE, runtime=NODE), dev.function(CODE, runtime=NODE)
    arn = cli(dev, "get-function-configuration", "--function-name", other)["FunctionArn"]
    of = ["--function-name", name]
    cli(dev, "put-function-event-invoke-config", *of, "--maximum-retry-attempts", "0")
    cli(dev, "update-function-event-invoke-config", *of, "--destination-config", json.dumps({"OnSuccess": {"Destination": arn}}))
    shown = cli(dev, "list-function-event-invoke-configs", *of)["FunctionEventInvokeConfigs"]
    assert [(one["MaximumRetryAttempts"], one["DestinationConfig"]["OnSuccess"]["Destination"]) for one in shown] == [(0, arn)]
    cli(dev, "delete-function-event-invoke-config", *of)
    assert cli(dev, "list-function-event-invoke-configs", *of)["FunctionEventInvokeConfigs"] == []
    arguments = tmp_path / "arguments"
    arguments.write_text("{}")
    assert cli(dev, "invoke-async", *of, "--invoke-args", str(arguments)) == {"Status": 202}
    cli(dev, "tag-resource", "--resource", arn, "--tags", "a=1,b=2")
    cli(dev, "untag-resource", "--resource", arn, "--tag-keys", "a")
    assert cli(dev, "list-tags", "--resource", arn) == {"Tags": {"b": "2"}}


def test_mappings_of_the_stream_of_a_table(dev):
    table = make(dev, StreamSpecification={"StreamEnabled": True, "StreamViewType": "KEYS_ONLY"})
    source = dev.client("dynamodb").describe_table(TableName=table)["Table"]["LatestStreamArn"]
    names = [dev.function("exports.handler = async (event) => console.log('GOT', event.Records.length);", runtime=NODE) for _ in range(2)]
    create = ["create-event-source-mapping", "--event-source-arn", source, "--starting-position", "TRIM_HORIZON", "--function-name"]
    first = cli(dev, *create, names[0], "--batch-size", "5", "--no-enabled")["UUID"]
    second = cli(dev, *create, names[1])["UUID"]
    assert "(ResourceConflictException)" in cli(dev, *create, names[0], fails=True)
    shown = lambda: cli(dev, "get-event-source-mapping", "--uuid", first)
    state = lambda wanted: wait_for(lambda: shown()["State"] == wanted, f"it is {wanted}")
    state("Disabled")

    listed = lambda *wanted: [
        found["UUID"] for found in cli(dev, "list-event-source-mappings", *wanted, "--page-size", "1")["EventSourceMappings"]]
    assert sorted(listed("--event-source-arn", source)) == sorted([first, second])
    assert listed("--function-name", names[0]) == [first]
    assert listed("--function-name", names[0], "--event-source-arn", source) == [first]

    pattern = json.dumps({"eventName": ["INSERT"]})
    cli(
        dev, "update-event-source-mapping", "--uuid", first, "--parallelization-factor", "2", "--bisect-batch-on-function-error",
        "--maximum-record-age-in-seconds", "90", "--maximum-retry-attempts", "3", "--function-response-types", "ReportBatchItemFailures",
        "--filter-criteria", json.dumps({"Filters": [{"Pattern": pattern}]}),
    )
    state("Disabled")
    now = shown()
    assert (now["BatchSize"], now["ParallelizationFactor"], now["BisectBatchOnFunctionError"]) == (5, 2, True)
    assert (now["MaximumRecordAgeInSeconds"], now["MaximumRetryAttempts"]) == (90, 3)
    assert (now["FunctionResponseTypes"], now["FilterCriteria"]) == (["ReportBatchItemFailures"], {"Filters": [{"Pattern": pattern}]})
    cli(dev, "update-event-source-mapping", "--uuid", first, "--parallelization-factor", "1", "--tumbling-window-in-seconds", "1")
    state("Disabled")
    assert shown()["TumblingWindowInSeconds"] == 1
    assert cli(dev, "update-event-source-mapping", "--uuid", first, "--enabled", "--tumbling-window-in-seconds", "0")["State"] == "Enabling"
    state("Enabled")
    dev.resource("dynamodb").Table(table).put_item(Item={"pk": "a"})
    wait_for(lambda: shown()["LastProcessingResult"] == "OK", "the function was called")
    assert cli(dev, "update-event-source-mapping", "--uuid", first, "--no-enabled")["State"] == "Disabling"
    state("Disabled")
    for uuid in (first, second):
        wait_for(lambda uuid=uuid: cli(dev, "get-event-source-mapping", "--uuid", uuid)["State"] in ("Enabled", "Disabled"), "it is settled")
        assert cli(dev, "delete-event-source-mapping", "--uuid", uuid)["State"] == "Deleting"
    wait_for(lambda: listed("--event-source-arn", source) == [], "both are gone")
    assert "(ResourceNotFoundException)" in cli(dev, "get-event-source-mapping", "--uuid", first, fails=True)


def test_layers_and_their_policies(dev, tmp_path):
    layer, content = name_of("layer"), tmp_path / "layer.zip"
    content.write_bytes(zipped({"nodejs/node_modules/x.js": "1"}))
    made = cli(dev, "publish-layer-version", "--layer-name", layer, "--zip-file", f"fileb://{content}")
    version = ["--layer-name", layer, "--version-number", "1"]
    assert cli(dev, "get-layer-version-by-arn", "--arn", made["LayerVersionArn"])["Version"] == 1
    assert layer in [one["LayerName"] for one in cli(dev, "list-layers")["Layers"]]
    allow = ["--statement-id", "all", "--action", "lambda:GetLayerVersion", "--principal", "*"]
    cli(dev, "add-layer-version-permission", *version, *allow)
    assert json.loads(cli(dev, "get-layer-version-policy", *version)["Policy"])["Statement"][0]["Sid"] == "all"
    cli(dev, "remove-layer-version-permission", *version, "--statement-id", "all")
    assert "(ResourceNotFoundException)" in cli(dev, "get-layer-version-policy", *version, fails=True)


def test_code_signing_and_versions(dev, tmp_path):
    package = tmp_path / "code.zip"
    package.write_bytes(zipped({"handler.js": CODE.replace("one", "two")}))
    config = cli(
        dev, "create-code-signing-config", "--allowed-publishers", f"SigningProfileVersionArns={PROFILE}",
        "--code-signing-policies", "UntrustedArtifactOnDeployment=Warn",
    )["CodeSigningConfig"]["CodeSigningConfigArn"]
    name, which = dev.function(CODE, runtime=NODE), ["--code-signing-config-arn", config]
    of = ["--function-name", name]
    cli(dev, "put-function-code-signing-config", *of, *which)
    assert cli(dev, "get-function-code-signing-config", *of)["CodeSigningConfigArn"] == config
    assert [arn.rsplit(":", 1)[1] for arn in cli(dev, "list-functions-by-code-signing-config", *which)["FunctionArns"]] == [name]
    cli(dev, "update-code-signing-config", *which, "--code-signing-policies", "UntrustedArtifactOnDeployment=Enforce")
    assert "(CodeVerificationFailedException)" in cli(dev, "update-function-code", *of, "--zip-file", f"fileb://{package}", fails=True)
    cli(dev, "delete-function-code-signing-config", *of)
    cli(dev, "update-function-code", *of, "--zip-file", f"fileb://{package}")
    assert config in [one["CodeSigningConfigArn"] for one in cli(dev, "list-code-signing-configs")["CodeSigningConfigs"]]
    assert cli(dev, "get-code-signing-config", *which)["CodeSigningConfig"]["CodeSigningConfigArn"] == config
    cli(dev, "delete-code-signing-config", *which)
    assert "(ResourceNotFoundException)" in cli(dev, "get-code-signing-config", *which, fails=True)

    assert cli(dev, "publish-version", *of)["Version"] == "1"
    assert cli(dev, "list-provisioned-concurrency-configs", *of)["ProvisionedConcurrencyConfigs"] == []
    place = [*of, "--qualifier", "1"]
    cli(dev, "put-provisioned-concurrency-config", *place, "--provisioned-concurrent-executions", "1")
    assert len(cli(dev, "list-provisioned-concurrency-configs", *of)["ProvisionedConcurrencyConfigs"]) == 1
    cli(dev, "delete-provisioned-concurrency-config", *place)
    assert cli(dev, "list-provisioned-concurrency-configs", *of)["ProvisionedConcurrencyConfigs"] == []
    cli(dev, "put-function-recursion-config", *of, "--recursive-loop", "Allow")
    assert cli(dev, "get-function-recursion-config", *of) == {"RecursiveLoop": "Allow"}
    cli(dev, "put-runtime-management-config", *of, "--update-runtime-on", "FunctionUpdate")
    assert cli(dev, "get-runtime-management-config", *of)["UpdateRuntimeOn"] == "FunctionUpdate"


def test_network_tenants_and_what_is_refused(dev, tmp_path):
    package = tmp_path / "code.zip"
    package.write_bytes(zipped({"handler.js": CODE}))
    name = name_of()
    made = cli(
        dev, "create-function", "--function-name", name, "--runtime", NODE, "--handler", "handler.handler", "--role", ROLE,
        "--zip-file", f"fileb://{package}", "--vpc-config", "SubnetIds=subnet-1,SecurityGroupIds=sg-1",
        "--tenancy-config", "TenantIsolationMode=PER_TENANT",
    )
    assert made["VpcConfig"]["VpcId"].startswith("vpc-") and made["TenancyConfig"] == {"TenantIsolationMode": "PER_TENANT"}
    words = cli(dev, "create-event-source-mapping", "--function-name", name, "--event-source-arn", "arn:aws:sqs:us-east-1:000000000000:q", fails=True)
    assert "tenant isolation" in words
    uuid = "00000000-0000-4000-8000-000000000000"
    for operation in ("get", "update", "delete"):
        assert "(ResourceNotFoundException)" in cli(dev, f"{operation}-event-source-mapping", "--uuid", uuid, fails=True)
    assert cli(dev, "list-event-source-mappings", "--function-name", name)["EventSourceMappings"] == []
    assert "(NotImplementedException)" in cli(dev, "list-capacity-providers", fails=True)

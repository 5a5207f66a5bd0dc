"""The AWS CLI, as people and scripts call it, against a server of each kind."""

import json
import pathlib
import subprocess
import sys

import requests

from conftest import NODE, ROLE, name_of, wait_for, zipped

AWS = pathlib.Path(sys.executable).with_name("aws")


def aws(server, *arguments, fails=False, **more):
    """Runs the CLI and returns its JSON; or, where it is to fail, its words."""
    done = subprocess.run(
        [str(AWS), *arguments, "--output", "json"], env=server.environment() | more, capture_output=True, text=True,
        timeout=120, check=False,
    )
    if fails:
        assert done.returncode != 0, done.stdout
        return done.stderr
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout) if done.stdout.strip() else None


def test_lambda(server, tmp_path):
    package = tmp_path / "code.zip"
    package.write_bytes(zipped({"handler.js": "exports.handler = async (event) => { console.log('ran'); return { got: event }; };"}))
    name = name_of()
    made = aws(
        server, "lambda", "create-function", "--function-name", name, "--runtime", NODE, "--handler", "handler.handler",
        "--role", ROLE, "--zip-file", f"fileb://{package}", "--environment", "Variables={MINE=1}", "--timeout", "9",
    )
    assert made["FunctionName"] == name
    aws(server, "lambda", "wait", "function-active-v2", "--function-name", name)
    out = tmp_path / "out.json"
    answer = aws(server, "lambda", "invoke", "--function-name", name, "--payload", '{"text": "ü"}', "--log-type", "Tail", str(out))
    assert (answer["StatusCode"], answer["ExecutedVersion"]) == (200, "$LATEST")
    assert json.loads(out.read_text()) == {"got": {"text": "ü"}}
    assert name in [function["FunctionName"] for function in aws(server, "lambda", "list-functions")["Functions"]]
    aws(server, "lambda", "update-function-configuration", "--function-name", name, "--memory-size", "256")
    aws(server, "lambda", "wait", "function-updated-v2", "--function-name", name)
    assert aws(server, "lambda", "get-function-configuration", "--function-name", name)["MemorySize"] == 256
    group = f"/aws/lambda/{name}"
    logs = server.client("logs")
    wait_for(lambda: logs.describe_log_groups(logGroupNamePrefix=group)["logGroups"], "the log group")
    words = ["logs", "filter-log-events", "--log-group-name", group, "--filter-pattern", "ran"]
    events = wait_for(lambda: aws(server, *words)["events"], "the log line")
    groups = aws(server, "logs", "describe-log-groups", "--log-group-name-prefix", group)["logGroups"]
    assert [found["logGroupName"] for found in groups] == [group]
    assert events[0]["message"].endswith("\tINFO\tran\n")
    aws(server, "lambda", "delete-function", "--function-name", name)
    words = aws(server, "lambda", "get-function", "--function-name", name, fails=True)
    assert "(ResourceNotFoundException) when calling the GetFunction operation: Function not found: arn:aws:lambda:" in words


def test_versions_aliases_and_what_is_provisioned(server, tmp_path):
    name, out = name_of(), tmp_path / "out.json"
    for number in (1, 2):
        package = tmp_path / f"{number}.zip"
        package.write_bytes(zipped({"handler.js": f"exports.handler = async () => [{number}, process.env.AWS_LAMBDA_INITIALIZATION_TYPE];"}))
    of = ["--function-name", name]
    made = aws(
        server, "lambda", "create-function", *of, "--runtime", NODE, "--handler", "handler.handler", "--role", ROLE,
        "--zip-file", f"fileb://{tmp_path}/1.zip", "--publish",
    )
    assert made["Version"] == "1"
    aws(server, "lambda", "wait", "published-version-active", *of, "--qualifier", "1")
    made = aws(server, "lambda", "update-function-code", *of, "--zip-file", f"fileb://{tmp_path}/2.zip", "--publish")
    assert made["Version"] == "2"
    listed = aws(server, "lambda", "list-versions-by-function", *of)["Versions"]
    assert [version["Version"] for version in listed] == ["$LATEST", "1", "2"]
    aws(server, "lambda", "create-alias", *of, "--name", "live", "--function-version", "1")
    aws(server, "lambda", "update-alias", *of, "--name", "live", "--function-version", "2",
        "--routing-config", "AdditionalVersionWeights={1=0}")
    assert aws(server, "lambda", "get-alias", *of, "--name", "live")["RoutingConfig"] == {"AdditionalVersionWeights": {"1": 0.0}}
    aws(server, "lambda", "update-alias", *of, "--name", "live", "--routing-config", "AdditionalVersionWeights={}")
    words = ["--qualifier", "live"]
    aws(server, "lambda", "put-provisioned-concurrency-config", *of, *words, "--provisioned-concurrent-executions", "1")

    def ready():
        return aws(server, "lambda", "get-provisioned-concurrency-config", *of, *words)["Status"] == "READY"

    wait_for(ready, "the provisioned environment")
    answer = aws(server, "lambda", "invoke", *of, *words, str(out))
    assert (answer["ExecutedVersion"], json.loads(out.read_text())) == ("2", [2, "provisioned-concurrency"])
    aws(server, "lambda", "delete-alias", *of, "--name", "live")
    assert aws(server, "lambda", "list-aliases", *of)["Aliases"] == []


def test_dynamodb(server):
    table = name_of("table")
    aws(
        server, "dynamodb", "create-table", "--table-name", table, "--billing-mode", "PAY_PER_REQUEST",
        "--key-schema", "AttributeName=id,KeyType=HASH", "--attribute-definitions", "AttributeName=id,AttributeType=S",
    )
    aws(server, "dynamodb", "wait", "table-exists", "--table-name", table)
    items = [{"PutRequest": {"Item": {"id": {"S": str(index)}, "n": {"N": f"{index}.50"}}}} for index in range(3)]
    aws(server, "dynamodb", "batch-write-item", "--request-items", json.dumps({table: items}))
    got = aws(server, "dynamodb", "get-item", "--table-name", table, "--key", '{"id": {"S": "1"}}')
    assert got["Item"] == {"id": {"S": "1"}, "n": {"N": "1.5"}}
    scanned = aws(
        server, "dynamodb", "scan", "--table-name", table, "--page-size", "1", "--filter-expression", "n > :n",
        "--expression-attribute-values", '{":n": {"N": "1"}}',
    )
    assert sorted(item["id"]["S"] for item in scanned["Items"]) == ["1", "2"]
    words = aws(
        server, "dynamodb", "put-item", "--table-name", table, "--item", '{"id": {"S": "1"}}',
        "--condition-expression", "attribute_not_exists(id)", fails=True,
    )
    assert "(ConditionalCheckFailedException) when calling the PutItem operation: The conditional request failed" in words


def test_apigatewayv2(server):
    name = server.function("def handler(event, context):\n    return {'path': event['rawPath']}\n")
    arn = server.client("lambda").get_function_configuration(FunctionName=name)["FunctionArn"]
    aws(server, "lambda", "add-permission", "--function-name", name, "--statement-id", "api", "--action", "lambda:InvokeFunction",
        "--principal", "apigateway.amazonaws.com")
    made = aws(server, "apigatewayv2", "create-api", "--name", name, "--protocol-type", "HTTP", "--target", arn)
    answer = requests.get(f"{server.url}/_dunlin/api/{made['ApiId']}/$default/from/cli", timeout=30)
    assert answer.json() == {"path": "/from/cli"}
    assert made["ApiId"] in [api["ApiId"] for api in aws(server, "apigatewayv2", "get-apis")["Items"]]
    aws(server, "apigatewayv2", "delete-api", "--api-id", made["ApiId"])


def test_sts(server):
    who = aws(server, "sts", "get-caller-identity")
    assert who["Arn"] == f"arn:aws:iam::{who['Account']}:root"


def test_wrong_secret(up):
    words = aws(up, "lambda", "list-functions", fails=True, AWS_SECRET_ACCESS_KEY="wrong")
    assert "(InvalidSignatureException) when calling the ListFunctions operation" in words
    words = aws(up, "dynamodb", "list-tables", fails=True, AWS_ACCESS_KEY_ID="AKIAUNKNOWNUNKNOWN00")
    assert "(UnrecognizedClientException)" in words


def test_what_is_not_there(dev):
    words = aws(dev, "s3api", "list-buckets", fails=True)
    assert "NotImplemented" in words

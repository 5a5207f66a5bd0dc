"""Layers through boto3 and the AWS CLI: what functions find at /opt, which layer wins, who may have one, and what is left
when one is deleted."""

import base64
import hashlib
import json
import shutil

import pytest
import requests

from conftest import NODE, PYTHON, ROLE, name_of, refused, wait_for, zipped
from test_aws_cli import aws

PYTHON_USER = """
import os
import shared
def handler(event, context):
    try:
        import second
        other = second.NAME
    except ImportError:
        other = None
    own = {"opt": sorted(os.listdir("/opt")), "python": shared.NAME, "second": other}
    if event.get("read"):
        own["text"] = open("/opt/data/text").read()
        try:
            open("/opt/data/mine", "w")
        except OSError as error:
            own["write"] = error.strerror
    if event.get("run"):
        import subprocess
        own["ran"] = subprocess.run(["tool"], capture_output=True, text=True, check=True).stdout.strip()
    return own
"""
NODE_USER = """
const shared = require('shared');
exports.handler = async () => ({shared: shared.name, major: require('of-major').name});
"""


def published(client, name, files, **more):
    """A new version of a layer: its ARN."""
    return client.publish_layer_version(LayerName=name, Content={"ZipFile": zipped(files)}, **more)["LayerVersionArn"]


def call(client, name, event=None, **more):
    """What a function answers."""
    got = client.invoke(FunctionName=name, Payload=json.dumps(event or {}), **more)
    text = got["Payload"].read()
    assert "FunctionError" not in got, text
    return json.loads(text)


def test_python_functions_import_from_layers_and_the_later_one_wins(server):
    client = server.client("lambda")
    first = published(client, name_of(), {
        "python/shared.py": "NAME = 'first'", "data/text": "of first", "data/more": "",
        "bin/tool": ("#!/bin/sh\necho first tool\n", 0o755),
    })
    site = f"python/lib/{PYTHON}/site-packages"
    second = published(client, name_of(), {
        "python/shared.py": "NAME = 'second'", f"{site}/second.py": "NAME = 'of second'", "data/text": "of second",
    })
    name = server.function(PYTHON_USER, Layers=[first, second])
    answer = call(client, name, {"read": True, "run": True})
    assert answer == {
        "opt": ["bin", "data", "python"], "python": "second", "second": "of second", "text": "of second",
        "write": "Read-only file system", "ran": "first tool",
    }
    shown = client.get_function_configuration(FunctionName=name)["Layers"]
    sizes = [client.get_layer_version_by_arn(Arn=arn)["Content"]["CodeSize"] for arn in (first, second)]
    assert shown == [{"Arn": arn, "CodeSize": size} for arn, size in zip((first, second), sizes)]

    assert client.publish_version(FunctionName=name)["Layers"] == shown
    client.update_function_configuration(FunctionName=name, Layers=[second, first])
    assert call(client, name, {"read": True})["text"] == "of first"
    assert call(client, name)["python"] == "first"
    client.update_function_configuration(FunctionName=name, Layers=[first])
    assert call(client, name) == {"opt": ["bin", "data", "python"], "python": "first", "second": None}
    assert call(client, name, Qualifier="1")["python"] == "second", "a version keeps its layers"

    own = zipped({"handler.py": PYTHON_USER, "shared.py": "NAME = 'own'"})
    client.update_function_code(FunctionName=name, ZipFile=own)
    assert call(client, name)["python"] == "own", "what the function brings goes before its layers"
    emptied = client.update_function_configuration(FunctionName=name, Layers=[])
    assert "Layers" not in emptied
    assert call(client, name) == {"opt": [], "python": "own", "second": None}


def test_node_functions_require_from_layers(server):
    client = server.client("lambda")
    major = NODE.removeprefix("nodejs").removesuffix(".x")
    modules = "nodejs/node_modules"
    one = published(client, name_of(), {
        f"{modules}/shared/index.js": "exports.name = 'one'",
        f"nodejs/node{major}/node_modules/of-major/index.js": "exports.name = 'of one'",
    }, CompatibleRuntimes=[NODE])
    two = published(client, name_of(), {f"{modules}/shared/index.js": "exports.name = 'two'"})
    name = server.function(NODE_USER, runtime=NODE, Layers=[two, one])
    assert call(client, name) == {"shared": "one", "major": "of one"}
    client.update_function_configuration(FunctionName=name, Layers=[one, two])
    assert call(client, name) == {"shared": "two", "major": "of one"}


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not on this machine")
def test_a_layer_can_bring_the_runtime_and_libraries(server):
    client = server.client("lambda")
    bootstrap = """#!/bin/sh
while :; do
  head=$(mktemp)
  curl -sS -D "$head" -o /dev/null "http://$AWS_LAMBDA_RUNTIME_API/2018-06-01/runtime/invocation/next"
  id=$(grep -i lambda-runtime-aws-request-id "$head" | tr -d '\\r' | cut -d' ' -f2)
  curl -sS -o /dev/null -d "{\\"script\\": \\"$0\\", \\"libraries\\": \\"$LD_LIBRARY_PATH\\"}" \\
    "http://$AWS_LAMBDA_RUNTIME_API/2018-06-01/runtime/invocation/$id/response"
done
"""
    layer = published(client, name_of(), {"bootstrap": (bootstrap, 0o755)})
    name = server.function({"unused": ""}, runtime="provided.al2023", Layers=[layer])
    answer = call(client, name)
    assert answer["script"] == "/opt/bootstrap"
    assert answer["libraries"].split(":")[-1] == "/opt/lib"


def test_versions_of_layers(server):
    client = server.client("lambda")
    name = name_of()
    content = zipped({"python/a.py": ""})
    made = client.publish_layer_version(
        LayerName=name, Description="d", Content={"ZipFile": content}, CompatibleRuntimes=[PYTHON, NODE],
        CompatibleArchitectures=["x86_64"], LicenseInfo="MIT",
    )
    assert made["ResponseMetadata"]["HTTPStatusCode"] == 201
    assert made["LayerVersionArn"] == made["LayerArn"] + ":1" and made["LayerArn"].endswith(f":layer:{name}")
    assert (made["Version"], made["Description"], made["LicenseInfo"]) == (1, "d", "MIT")
    assert (made["CompatibleRuntimes"], made["CompatibleArchitectures"]) == ([PYTHON, NODE], ["x86_64"])
    assert made["Content"]["CodeSha256"] == base64.b64encode(hashlib.sha256(content).digest()).decode()
    assert requests.get(made["Content"]["Location"], timeout=30).content == content
    for got in [
        client.get_layer_version(LayerName=name, VersionNumber=1),
        client.get_layer_version(LayerName=made["LayerArn"], VersionNumber=1),
        client.get_layer_version_by_arn(Arn=made["LayerVersionArn"]),
    ]:
        assert got["LayerVersionArn"] == made["LayerVersionArn"]
        assert requests.get(got["Content"]["Location"], timeout=30).content == content
    for number in range(2, 6):
        assert published(client, name, {"x": str(number)}).endswith(f":{number}")
    client.delete_layer_version(LayerName=name, VersionNumber=5)
    assert published(client, name, {"x": "5"}).endswith(":6"), "a number is used once"

    pages = client.get_paginator("list_layer_versions").paginate(LayerName=name, PaginationConfig={"PageSize": 2})
    assert [[item["Version"] for item in page["LayerVersions"]] for page in pages] == [[6, 4], [3, 2], [1]]
    found = client.list_layer_versions(LayerName=name, CompatibleRuntime=NODE)["LayerVersions"]
    assert [item["Version"] for item in found] == [1]
    more = sorted(name_of("page") for _ in range(3))
    for one in more:
        published(client, one, {"x": one}, CompatibleRuntimes=["ruby3.3"])
    pages = list(client.get_paginator("list_layers").paginate(CompatibleRuntime="ruby3.3", PaginationConfig={"PageSize": 2}))
    assert [item["LayerName"] for page in pages for item in page["Layers"]] == more
    assert len(pages) == 2
    all_layers = [item for page in client.get_paginator("list_layers").paginate() for item in page["Layers"]]
    own = next(item for item in all_layers if item["LayerName"] == name)
    assert (own["LayerArn"], own["LatestMatchingVersion"]["Version"]) == (made["LayerArn"], 6)


def test_what_cannot_be_is_refused(server):
    client = server.client("lambda")
    content = {"ZipFile": zipped({"a": ""})}
    for changed, code in [
        ({"LayerName": "a b"}, "ValidationException"),
        ({"Description": "x" * 257}, "ValidationException"),
        ({"CompatibleRuntimes": [PYTHON] * 16}, "ValidationException"),
        ({"CompatibleArchitectures": ["mips"]}, "ValidationException"),
        ({"Content": {"S3Bucket": "bucket", "S3Key": "key"}}, "NotImplementedException"),
    ]:
        arguments = {"LayerName": name_of(), "Content": content} | changed
        assert refused(client.publish_layer_version, **arguments)[1] == code, changed
    arn = published(client, name_of(), {"a": ""})
    missing = arn[:-1] + "9"
    got = refused(client.get_layer_version_by_arn, Arn=missing)
    assert got == (404, "ResourceNotFoundException", "The resource you requested does not exist.")
    name = server.function(PYTHON_USER.replace("import shared", ""))
    for layers, message in [
        ([missing], f"Layer version {missing} does not exist."),
        ([arn, arn], "Two different versions of the same layer are not allowed"),
        ([f"{arn[:-2]}-{number}:1" for number in range(6)], "Cannot reference more than 5 layers."),
    ]:
        got = refused(client.update_function_configuration, FunctionName=name, Layers=layers)
        assert got[:2] == (400, "InvalidParameterValueException") and message in got[2], got


def test_a_deleted_layer_stays_with_its_functions(own_server):
    server = own_server()
    client = server.client("lambda")
    layer = name_of()
    arn = published(client, layer, {"python/shared.py": "NAME = 'kept'"})
    before = client.get_account_settings()["AccountUsage"]["TotalCodeSize"]
    assert before == client.get_layer_version_by_arn(Arn=arn)["Content"]["CodeSize"]
    name = server.function(PYTHON_USER, Layers=[arn])
    client.delete_layer_version(LayerName=layer, VersionNumber=1)
    assert refused(client.get_layer_version, LayerName=layer, VersionNumber=1)[0] == 404
    assert layer not in [item["LayerName"] for item in client.list_layers()["Layers"]]
    assert call(client, name)["python"] == "kept"
    server.stop()
    server.start()
    client = server.client("lambda")
    assert client.get_function_configuration(FunctionName=name)["Layers"][0]["Arn"] == arn
    assert call(client, name)["python"] == "kept"
    assert refused(client.create_function, FunctionName=name_of(), Runtime=PYTHON, Handler="h.h", Role=ROLE,
                   Code={"ZipFile": zipped({"h.py": ""})}, Layers=[arn])[2] == f"Layer version {arn} does not exist."


@pytest.mark.modes("dev")
def test_a_policy_shares_a_layer_with_another_account(server):
    client, other = server.client("lambda"), server.client("lambda", "123456789012", "any")
    layer = name_of()
    arn = published(client, layer, {"python/shared.py": "NAME = 'shared'"})
    version = {"LayerName": layer, "VersionNumber": 1}
    role = ROLE.replace("000000000000", "123456789012")
    function = {
        "FunctionName": name_of(), "Runtime": PYTHON, "Handler": "handler.handler", "Role": role, "Layers": [arn],
        "Code": {"ZipFile": zipped({"handler.py": PYTHON_USER})},
    }
    for got in [refused(other.get_layer_version_by_arn, Arn=arn), refused(other.create_function, **function)]:
        assert got[:2] == (403, "AccessDeniedException")
    permission = {"StatementId": "all", "Action": "lambda:GetLayerVersion", "Principal": "*"}
    added = client.add_layer_version_permission(**version, **permission)
    assert json.loads(added["Statement"])["Resource"] == arn
    assert refused(client.add_layer_version_permission, **version, **permission)[1] == "ResourceConflictException"
    policy = client.get_layer_version_policy(**version)
    assert json.loads(policy["Policy"])["Statement"] == [json.loads(added["Statement"])]
    assert policy["RevisionId"] == added["RevisionId"]
    other.create_function(**function)
    assert call(other, function["FunctionName"])["python"] == "shared"
    assert refused(client.remove_layer_version_permission, **version, StatementId="all", RevisionId="old")[0] == 412
    client.remove_layer_version_permission(**version, StatementId="all", RevisionId=added["RevisionId"])
    assert refused(client.get_layer_version_policy, **version)[0] == 404
    assert refused(other.get_layer_version_by_arn, Arn=arn)[0] == 403
    assert call(other, function["FunctionName"])["python"] == "shared", "what it has it keeps"


def test_the_aws_cli(server, tmp_path):
    package = tmp_path / "layer.zip"
    package.write_bytes(zipped({"python/shared.py": "NAME = 'of the CLI'"}))
    layer = name_of()
    made = aws(server, "lambda", "publish-layer-version", "--layer-name", layer, "--zip-file", f"fileb://{package}",
               "--compatible-runtimes", PYTHON)
    name = server.function(PYTHON_USER)
    aws(server, "lambda", "update-function-configuration", "--function-name", name, "--layers", made["LayerVersionArn"])
    assert wait_for(lambda: call(server.client("lambda"), name), "an answer")["python"] == "of the CLI"
    listed = aws(server, "lambda", "list-layer-versions", "--layer-name", layer)["LayerVersions"]
    assert [item["LayerVersionArn"] for item in listed] == [made["LayerVersionArn"]]
    aws(server, "lambda", "delete-layer-version", "--layer-name", layer, "--version-number", "1")
    assert "does not exist" in aws(
        server, "lambda", "get-layer-version", "--layer-name", layer, "--version-number", "1", fails=True
    )

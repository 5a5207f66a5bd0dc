"""Functions that are themselves clients: SDKs inside the sandbox, with and without an endpoint override, reach the
platform as the function's role, over TLS where they choose it themselves."""

import json
import pathlib
import subprocess

import boto3
import botocore.exceptions
import pytest
import requests

from conftest import binary, name_of, wait_for
from test_dynamodb import make
from test_invoke import invoke

PUT = """
import os
if {without}:
    for name in list(os.environ):
        if name.startswith('AWS_ENDPOINT_URL'): del os.environ[name]
import boto3
dynamodb = boto3.client('dynamodb')
def handler(event, context):
    dynamodb.put_item(TableName=event['table'], Item={{'pk': {{'S': 'from inside'}}}})
    who = boto3.client('sts').get_caller_identity()
    return [dynamodb.meta.endpoint_url, who['Arn']]
"""


def with_boto3(source, *services):
    """A package of a handler and the boto3 of this environment, without the models of services that it does not call."""
    files = {"handler.py": source}
    site = pathlib.Path(boto3.__file__).parent.parent
    for package in ["boto3", "botocore", "s3transfer", "jmespath", "dateutil", "urllib3"]:
        for path in (site / package).rglob("*"):
            name = path.relative_to(site).as_posix()
            unused = "/data/" in name and name.count("/") > 2 and name.split("/")[2] not in (services or ("dynamodb", "sts"))
            if path.is_file() and not unused and "__pycache__" not in name and not name.endswith("examples-1.json"):
                files[name] = path.read_bytes()
    files["six.py"] = (site / "six.py").read_bytes()
    return files


@pytest.mark.parametrize("without", [False, True], ids=["endpoint-url", "tls"])
def test_boto3(server, without):
    table = make(server)
    name = server.function(with_boto3(PUT.format(without=without)), Timeout=60, MemorySize=512)
    answer = invoke(server, name, {"table": table})
    assert "FunctionError" not in answer, answer["json"]
    endpoint, arn = answer["json"]
    if without:
        assert endpoint == "https://dynamodb.us-east-1.amazonaws.com"
    else:
        assert endpoint != "https://dynamodb.us-east-1.amazonaws.com"
    assert arn.startswith("arn:aws:sts::") and f":assumed-role/tests/{name}" in arn
    found = server.client("dynamodb").get_item(TableName=table, Key={"pk": {"S": "from inside"}})
    assert found["Item"] == {"pk": {"S": "from inside"}}


def deployed(server, folder, **files):
    """Deploys a folder of one handler with `dunlin deploy`, and returns the function's name."""
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    done = subprocess.run(
        [binary(), "deploy", "--json", str(folder)], env=server.environment(), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


V2 = """
for (const name of Object.keys(process.env)) if (name.startsWith('AWS_ENDPOINT_URL')) delete process.env[name];
const AWS = require('aws-sdk');
const documents = new AWS.DynamoDB.DocumentClient();
exports.handler = async (event) => {
  await documents.put({ TableName: event.table, Item: { pk: 'from v2' } }).promise();
  return documents.service.endpoint.href;
};
"""
V3 = """
for (const name of Object.keys(process.env)) if (name.startsWith('AWS_ENDPOINT_URL')) delete process.env[name];
const { DynamoDBClient, PutItemCommand } = await import('@aws-sdk/client-dynamodb');
const client = new DynamoDBClient({});
export const handler = async (event) => {
  await client.send(new PutItemCommand({ TableName: event.table, Item: { pk: { S: 'from v3' } } }));
  return 'https';
};
"""


@pytest.mark.parametrize(("file", "source", "key"), [("handler.js", V2, "from v2"), ("handler.mjs", V3, "from v3")], ids=["v2", "v3"])
def test_sdks_for_javascript_that_deploy_supplies(server, tmp_path, file, source, key):
    folder = tmp_path / name_of("app")
    folder.mkdir()
    (folder / file).write_text(source)
    deployment = deployed(server, folder)
    assert any("is added to the package" in note for note in deployment["notes"]), deployment
    table = make(server)
    client = server.client("lambda")
    client.update_function_configuration(FunctionName=deployment["functions"][0], Timeout=60, MemorySize=512)
    answer = invoke(server, deployment["functions"][0], {"table": table})
    assert "FunctionError" not in answer, answer["json"]
    assert answer["json"].startswith("https")
    found = server.client("dynamodb").get_item(TableName=table, Key={"pk": {"S": key}})
    assert found["Item"] == {"pk": {"S": key}}


@pytest.mark.modes("dev")
def test_a_function_calls_another(server):
    other = server.function("def handler(event, context):\n    return ['other', event]\n")
    source = (
        "import json, boto3\n"
        "def handler(event, context):\n"
        "    answer = boto3.client('lambda').invoke(FunctionName=event['other'], Payload=json.dumps(event['n']))\n"
        "    return json.load(answer['Payload'])\n"
    )
    files = with_boto3(source)
    site = pathlib.Path(botocore.__file__).parent.parent
    for path in (site / "botocore/data/lambda").rglob("*"):
        if path.is_file():
            files[path.relative_to(site).as_posix()] = path.read_bytes()
    name = server.function(files, Timeout=60, MemorySize=512)
    answer = invoke(server, name, {"other": other, "n": 7})
    assert answer["json"] == ["other", 7], answer["json"]


def test_keys_of_a_function_end_with_nothing_else(up):
    """What a function is given works outside too, as that function, and only with its token."""
    name = up.function("import os\ndef handler(e, c):\n    return {k: v for k, v in os.environ.items() if k.startswith('AWS_')}\n")
    env = invoke(up, name)["json"]
    session = boto3.Session(env["AWS_ACCESS_KEY_ID"], env["AWS_SECRET_ACCESS_KEY"], env["AWS_SESSION_TOKEN"], region_name="us-east-1")
    who = session.client("sts", endpoint_url=up.url).get_caller_identity()
    assert f":assumed-role/tests/{name}" in who["Arn"]
    without = boto3.Session(env["AWS_ACCESS_KEY_ID"], env["AWS_SECRET_ACCESS_KEY"], region_name="us-east-1")
    with pytest.raises(botocore.exceptions.ClientError) as caught:
        without.client("sts", endpoint_url=up.url).get_caller_identity()
    assert caught.value.response["Error"]["Code"] == "InvalidClientTokenId"


QUESTIONS = '''
import socket, struct
def asked(name, kind, kind_class=1):
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return b"\\x00\\x09\\x01\\x00\\x00\\x01\\x00\\x00\\x00\\x00\\x00\\x00" + labels + b"\\0" + struct.pack(">HH", kind, kind_class)
def told(answer, question):
    assert answer[:2] == b"\\x00\\x09" and answer[12:len(question)] == question[12:], answer
    return [answer[3] & 15, answer[7], answer[-4:].hex() if answer[7] else ""]
def datagram(server, question):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(5)
        sock.sendto(question, (server, 53))
        return told(sock.recv(512), question)
def stream(server, question):
    with socket.create_connection((server, 53), 5) as sock:
        sock.sendall(struct.pack(">H", len(question)) + question)
        reader = sock.makefile("rb")
        return told(reader.read(struct.unpack(">H", reader.read(2))[0]), question)
def handler(event, context):
    return [[[way(server, asked(*event["question"])) for way in (datagram, stream)] for server in ("127.0.0.1", "8.8.8.8")]]
'''


@pytest.mark.modes("dev")
def test_names_over_udp_and_tcp(server):
    """Every question has an answer, whichever server is asked: addresses, none of other kinds, and that some are not answered."""
    name = server.function(QUESTIONS)
    served = "sts.amazonaws.com"
    for question, wanted in [
        ([served, 1], [0, 1, "64400001"]),
        ([served, 28], [0, 0, ""]),
        ([served, 33], [0, 0, ""]),
        ([served, 65], [0, 0, ""]),
        ([served, 255], [4, 0, ""]),
        ([served, 1, 3], [4, 0, ""]),
        (["1.0.0.10.in-addr.arpa", 12], [3, 0, ""]),
        (["x.dunlin.internal", 16], [3, 0, ""]),
    ]:
        answer = invoke(server, name, {"question": question})
        assert answer["json"] == [[[wanted, wanted]] * 2], (question, answer["json"])


SEGMENTS = '''
import json, os, socket
def handler(event, context):
    host, port = os.environ["AWS_XRAY_DAEMON_ADDRESS"].split(":")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((host, int(port)))
        for number in range(event):
            sock.send(json.dumps({"format": "json", "version": 1}).encode() + b"\\n" + json.dumps({"trace_id": "1-2-3", "id": str(number)}).encode())
        sock.send(b"noise")
        sock.send(b"noise")
'''


@pytest.mark.modes("dev")
def test_segments_of_traces_are_taken(server):
    """The daemon's address refuses nothing, which a second datagram would be told."""
    name = server.function(SEGMENTS)
    assert "FunctionError" not in invoke(server, name, 3)

    def counted():
        headers = {"Authorization": "test"}
        found = requests.get(f"{server.url}/_dunlin/network?function={name}", headers=headers, timeout=10).json()["functions"]
        return [(sums["segments"], sums["badSegments"]) for sums in found.values()] == [(3, 2)]

    wait_for(counted, "the segments to be counted")

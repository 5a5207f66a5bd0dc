"""`dunlin runtimes`: the SDKs that Lambda provides, as packs that all functions of a runtime find; from real registries."""

import contextlib
import http.server
import json
import threading

import pytest
import requests

from conftest import PYTHON, name_of
from test_deploy import dunlin, project
from test_invoke import invoke

BOTO3 = "import boto3\ndef handler(event, context):\n    return [boto3.__version__, boto3.__file__]\n"
V3_CJS = "const { S3Client } = require('@aws-sdk/client-s3');\nexports.handler = async () => [typeof S3Client, require.resolve('@aws-sdk/client-s3')];\n"
V3_ESM = (
    "import { DynamoDBDocumentClient } from '@aws-sdk/lib-dynamodb';\nimport { SQSClient } from '@aws-sdk/client-sqs';\n"
    "export const handler = async () => [typeof DynamoDBDocumentClient, new SQSClient({ region: 'eu-west-1' }).config.serviceId];\n"
)
V2 = "exports.handler = async () => require('aws-sdk').VERSION;\n"


def answer(server, files, runtime, **settings):
    """What a function answers when it is called once."""
    got = invoke(server, server.function(files, runtime=runtime, Timeout=30, MemorySize=512, **settings))
    assert "FunctionError" not in got, got["json"]
    return got["json"]


def listed(packed):
    platform = dunlin(packed, "runtimes", "list", "--json").json
    packs = {pack["name"]: pack["packages"] for pack in platform["packs"]}
    assert "nodejs" in packs and "@aws-sdk/client-s3" in packs["nodejs"]
    (python,) = [packages for name, packages in packs.items() if name.startswith("python3.")]
    assert {"boto3", "botocore", "s3transfer"} <= set(python)
    shown = dunlin(packed, "runtimes")
    assert "boto3" in shown.out and "nodejs20.x" in shown.out
    for served in platform["runtimes"]:
        assert served["note"] is None or served["note"].startswith(f"{served['runtime']} runs on "), served


def found(packed):
    version, place = answer(packed, BOTO3, PYTHON)
    assert place.startswith("/var/runtime/") and version
    assert answer(packed, {"handler.js": V3_CJS}, "nodejs20.x")[0] == "function"
    assert answer(packed, {"handler.mjs": V3_ESM}, "nodejs20.x") == ["function", "SQS"]
    # Version 2 is not there for runtimes that Lambda gives version 3.
    name = packed.function({"handler.js": V2}, runtime="nodejs20.x")
    assert invoke(packed, name)["json"]["errorType"] == "Error"


def own_copies_win(packed):
    version, place = answer(packed, {"handler.py": BOTO3, "boto3/__init__.py": "__version__ = 'own'\n"}, PYTHON)
    assert (version, place) == ("own", "/var/task/boto3/__init__.py")
    own = {"node_modules/@aws-sdk/client-s3/index.js": "exports.S3Client = 1;\n", "handler.js": V3_CJS}
    assert answer(packed, own, "nodejs20.x") == ["number", "/var/task/node_modules/@aws-sdk/client-s3/index.js"]
    esm = {
        "node_modules/@aws-sdk/client-s3/index.js": "exports.S3Client = 1;\n",
        "handler.mjs": "import { S3Client } from '@aws-sdk/client-s3';\nexport const handler = async () => S3Client;\n",
    }
    assert answer(packed, esm, "nodejs20.x") == 1


def left_to_the_platform(packed, tmp_path):
    folder = project(tmp_path / name_of("app"), handler__py=BOTO3)
    done = dunlin(packed, "deploy", "--json", "--runtime", PYTHON, folder)
    assert done.code == 0, done.err
    assert any(note.startswith("boto3 ") and "is the platform's own" in note for note in done.json["notes"]), done.json
    name = done.json["functions"][0]
    assert invoke(packed, name)["json"][1].startswith("/var/runtime/")
    size = packed.client("lambda").get_function(FunctionName=name)["Configuration"]["CodeSize"]
    assert size < 10_000
    # Another version of the interpreter than the one asked for is said.
    other = next((found for found in dunlin(packed, "runtimes", "list", "--json").json["runtimes"] if found["note"]), None)
    if other:
        file = "handler.py" if other["runtime"].startswith("python") else "handler.js"
        text = "def handler(event, context):\n    return 1\n" if file == "handler.py" else "exports.handler = async () => 1;\n"
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / file).write_text(text)
        planned = dunlin(packed, "deploy", "--plan", "--runtime", other["runtime"], tmp_path / "other")
        assert other["note"] in planned.err, planned.err


def test_packs_of_python_and_node(own_server, tmp_path):
    # One test, since the packs are installed once for all of it.
    server = own_server("dev")
    for runtime in [PYTHON, "nodejs20.x"]:
        done = dunlin(server, "runtimes", "add", runtime)
        assert done.code == 0, done.err
    listed(server)
    found(server)
    own_copies_win(server)
    left_to_the_platform(server, tmp_path)


def test_packs_are_replaced_and_removed(own_server):
    server = own_server("up")
    before = invoke(server, server.function(BOTO3))["json"]
    assert before["errorType"] == "Runtime.ImportModuleError"
    add = dunlin(server, "runtimes", "add", "nodejs16.x")
    assert add.code == 0, add.err
    name = server.function({"handler.js": V2}, runtime="nodejs16.x", MemorySize=512, Timeout=30)
    assert invoke(server, name)["json"].startswith("2.")
    assert server.stop() == 0
    server.start()
    assert invoke(server, name)["json"].startswith("2.")
    assert dunlin(server, "runtimes", "remove", "nodejs14.x").code == 0
    again = dunlin(server, "runtimes", "remove", "nodejs16.x")
    assert (again.code, "not installed" in again.err) == (1, True)
    after = server.function({"handler.js": V2}, runtime="nodejs16.x")
    assert "errorType" in invoke(server, after)["json"]


def test_what_cannot_be_a_pack(dev):
    for arguments, words in [
        (["add", "provided.al2023"], "brings its own program"),
        (["add", "cobol1.0"], "is not supported"),
        (["add", "php-84"], "functions bring theirs"),
        (["add", PYTHON, "--with", "no such package"], "failed"),
    ]:
        done = dunlin(dev, "runtimes", *arguments)
        assert done.code == 1 and words in done.err, done.err
    put = requests.put(f"{dev.url}/_dunlin/runtimes/nodejs", data=b"no zip", timeout=30)
    assert put.status_code == 403, "without a signature"


@contextlib.contextmanager
def platform_without(name, family, package):
    """Stands for a platform whose machine lacks an interpreter: where it listens."""
    answer = {"interpreters": [], "runtimes": [], "packs": [], "absent": [{"family": family, "name": name, "package": package}]}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("word,family,name,package", [("ruby3.4", "ruby", "Ruby", "ruby"), ("php-84", "php", "PHP", "php-cli")])
def test_interpreters_that_are_missing_are_installed(dev, tmp_path, word, family, name, package):
    # Stand for the distribution's package manager.
    folder = project(tmp_path / "bin")
    for program in ("apt-get", "sudo"):
        script = f'#!/bin/sh\necho {program} "$@" >> {tmp_path}/asked\nexit ${{DUNLIN_TEST_CODE:-0}}\n'
        (folder / program).write_text(script)
        (folder / program).chmod(0o755)
    with platform_without(name, family, package) as url:
        add = lambda **more: dunlin(dev, "--endpoint", url, "runtimes", "add", word, PATH=str(folder), **more)
        done = add()
        assert done.code == 0 and f"{name} is installed; restart the platform" in done.err, done.err
        asked = (tmp_path / "asked").read_text()
        assert asked.endswith(f"apt-get install -y --no-install-recommends {package}\n"), asked
        failed = add(DUNLIN_TEST_CODE="100")
        assert failed.code == 1 and "run `apt-get update` first" in failed.err, failed.err
        (folder / "apt-get").unlink()
        none = add()
        assert none.code == 1 and f"Debian's package is `{package}`" in none.err, none.err


def test_functions_cannot_change_packs(dev):
    source = (
        "import os, urllib.request, urllib.error\n"
        "def handler(event, context):\n"
        "    request = urllib.request.Request(os.environ['AWS_ENDPOINT_URL'] + '/_dunlin/runtimes/nodejs', b'x', method=event['method'])\n"
        "    key = os.environ['AWS_ACCESS_KEY_ID']\n"
        "    request.add_header('authorization', f'AWS4-HMAC-SHA256 Credential={key}/20260101/us-east-1/dunlin/aws4_request, '\n"
        "        f'SignedHeaders=host;x-amz-date, Signature={\"0\" * 64}')\n"
        "    request.add_header('x-amz-date', '20260101T000000Z')\n"
        "    request.add_header('x-dunlin-client', '1')\n"
        "    try:\n"
        "        return urllib.request.urlopen(request).status\n"
        "    except urllib.error.HTTPError as error:\n"
        "        return error.code\n"
    )
    name = dev.function(source)
    for method in ["PUT", "DELETE"]:
        assert invoke(dev, name, {"method": method})["json"] == 403

"""File systems of functions: folders of the host that the operator named, and nothing else."""

import json
import os
import shutil

import pytest

from conftest import NODE, PYTHON, ROLE, refused, zipped, name_of

ID = "fsap-0123456789abcdef0"
READABLE = "fsap-0123456789abcdef1"
PYTHON_CODE = """
import os
def handler(event, context):
    try:
        if "write" in event:
            open(event["path"], "w").write(event["write"])
        return open(event["path"]).read()
    except OSError as error:
        return type(error).__name__ + " " + str(error.errno)
"""
NODE_CODE = """
const fs = require("node:fs");
exports.handler = async (event) => {
  if ("write" in event) fs.writeFileSync(event.path, event.write);
  return fs.readFileSync(event.path, "utf8");
};
"""


def arn(point):
    return f"arn:aws:elasticfilesystem:us-east-1:000000000000:access-point/{point}"


def configs(point=ID, path="/mnt/shared"):
    return [{"Arn": arn(point), "LocalMountPath": path}]


@pytest.fixture
def shared(tmp_path, own_server):
    """A server with two folders, and the folders."""
    writable, readable = tmp_path / "writable", tmp_path / "readable"
    for folder in (writable, readable):
        folder.mkdir(mode=0o750)
        (folder / "there").write_text("of the host")
        if os.geteuid() == 0:
            for path in (folder, folder / "there"):
                shutil.chown(path, 4321, 4322)
    server = own_server("dev", "--file-system", f"{ID}={writable}", "--file-system", f"{READABLE}={readable}:ro")
    return server, writable


def call(server, name, **event):
    return json.loads(server.client("lambda").invoke(FunctionName=name, Payload=json.dumps(event))["Payload"].read())


@pytest.mark.parametrize("code,runtime", [(PYTHON_CODE, PYTHON), (NODE_CODE, NODE)], ids=["python", "node"])
def test_functions_share_a_folder_of_the_host(shared, code, runtime):
    server, folder = shared
    one = server.function(code, runtime=runtime, FileSystemConfigs=configs())
    two = server.function(code, runtime=runtime, FileSystemConfigs=configs(path="/mnt/other.place"))
    assert server.client("lambda").get_function_configuration(FunctionName=one)["FileSystemConfigs"] == configs()
    assert call(server, one, path="/mnt/shared/there") == "of the host"
    assert call(server, one, path="/mnt/shared/new", write="from one") == "from one"
    assert call(server, two, path="/mnt/other.place/new", write="from two") == "from two"
    assert (folder / "new").read_text() == "from two"
    assert (folder / "new").stat().st_uid == folder.stat().st_uid
    assert (folder / "new").stat().st_gid == folder.stat().st_gid


def test_what_may_only_be_read_is_not_written(shared):
    server, _ = shared
    name = server.function(PYTHON_CODE, FileSystemConfigs=configs(READABLE))
    assert call(server, name, path="/mnt/shared/there") == "of the host"
    assert call(server, name, path="/mnt/shared/there", write="x") == "OSError 30"
    assert call(server, name, path="/mnt/beside", write="x").split()[0] in ("OSError", "PermissionError")
    client = server.client("lambda")
    client.update_function_configuration(FunctionName=name, FileSystemConfigs=[])
    assert "FileSystemConfigs" not in client.get_function_configuration(FunctionName=name)
    assert call(server, name, path="/mnt/shared/there") == "FileNotFoundError 2"


def test_what_no_operator_named_is_refused(shared):
    server, _ = shared
    client = server.client("lambda")
    made = {"Runtime": PYTHON, "Handler": "handler.handler", "Role": ROLE, "Code": {"ZipFile": zipped({"handler.py": PYTHON_CODE})}}
    for point, path in [("fsap-0123456789abcdef2", "/mnt/shared"), (ID, "/mnt/..")]:
        status, code, _ = refused(client.create_function, FunctionName=name_of(), FileSystemConfigs=configs(point, path), **made)
        assert (status, code) == (400, "InvalidParameterValueException")
    for point, path in [("data", "/mnt/shared"), (ID, "/srv/shared")]:
        status, code, _ = refused(client.create_function, FunctionName=name_of(), FileSystemConfigs=configs(point, path), **made)
        assert (status, code) == (400, "ValidationException")


def test_a_server_without_the_folder_does_not_start_the_function(shared):
    server, _ = shared
    name = server.function(PYTHON_CODE, FileSystemConfigs=configs())
    server.stop()
    server.arguments = ()
    server.start()
    status, code, words = refused(server.client("lambda").invoke, FunctionName=name)
    assert (status, code) == (409, "ResourceConflictException") and "no longer started with a folder" in words

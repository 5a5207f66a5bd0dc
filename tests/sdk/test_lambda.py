"""The Lambda API as boto3 sees it: functions, their code, their settings, and what is refused."""

import base64
import hashlib
import io
import json
import zipfile

import pytest
import requests

from conftest import NODE, PYTHON, ROLE, name_of, refused, zipped

ECHO = "def handler(event, context):\n    return event\n"


def create(server, **changed):
    """CreateFunction with sound arguments but for those given."""
    arguments = {
        "FunctionName": name_of(), "Runtime": PYTHON, "Handler": "handler.handler", "Role": ROLE,
        "Code": {"ZipFile": zipped({"handler.py": ECHO})},
    } | changed
    return server.client("lambda").create_function(**arguments)


def test_create_and_get(server):
    client = server.client("lambda")
    package = zipped({"handler.py": ECHO})
    name = name_of()
    made = create(
        server, FunctionName=name, Code={"ZipFile": package}, Description="words", Timeout=7, MemorySize=192,
        Environment={"Variables": {"A_KEY": "value"}}, Tags={"team": "birds"}, EphemeralStorage={"Size": 600},
    )
    assert made["ResponseMetadata"]["HTTPStatusCode"] == 201
    account = server.client("sts").get_caller_identity()["Account"]
    assert made["FunctionArn"] == f"arn:aws:lambda:us-east-1:{account}:function:{name}"
    assert made["CodeSha256"] == base64.b64encode(hashlib.sha256(package).digest()).decode()
    assert made["CodeSize"] == len(package)
    assert (made["Version"], made["PackageType"], made["Architectures"]) == ("$LATEST", "Zip", ["x86_64"])
    client.get_waiter("function_active_v2").wait(FunctionName=name)
    client.get_waiter("function_exists").wait(FunctionName=name)
    for qualified in [name, f"{name}:$LATEST", made["FunctionArn"], f"{account}:function:{name}"]:
        got = client.get_function(FunctionName=qualified)
        settings = got["Configuration"]
        assert settings["FunctionName"] == name
        assert (settings["State"], settings["LastUpdateStatus"]) == ("Active", "Successful")
        assert (settings["Timeout"], settings["MemorySize"], settings["Description"]) == (7, 192, "words")
        assert settings["Environment"] == {"Variables": {"A_KEY": "value"}}
        assert settings["EphemeralStorage"] == {"Size": 600}
    assert got["Tags"] == {"team": "birds"}
    assert got["Code"]["RepositoryType"] == "S3"
    assert "Concurrency" not in got
    downloaded = requests.get(got["Code"]["Location"], timeout=30)
    assert downloaded.status_code == 200
    assert downloaded.content == package


def test_code_locations_cannot_be_forged(server):
    name = server.function(ECHO)
    location = server.client("lambda").get_function(FunctionName=name)["Code"]["Location"]
    last = location[-1]
    forged = location[:-1] + ("0" if last != "0" else "1")
    assert requests.get(forged, timeout=30).status_code in (403, 404)


def test_defaults(server):
    made = create(server)
    assert (made["Timeout"], made["MemorySize"]) == (3, 128)
    assert made["EphemeralStorage"] == {"Size": 512}
    assert made["TracingConfig"] == {"Mode": "PassThrough"}


def test_list_functions_pages(own_server):
    server = own_server("dev")
    client = server.client("lambda")
    names = sorted(server.function(ECHO, FunctionName=f"page-{index:02}") for index in range(7))
    first = client.list_functions(MaxItems=3)
    assert len(first["Functions"]) == 3 and first["NextMarker"]
    pages = client.get_paginator("list_functions").paginate(PaginationConfig={"PageSize": 3})
    listed = [function["FunctionName"] for page in pages for function in page["Functions"]]
    assert sorted(listed) == names
    assert len(listed) == len(names)
    assert client.list_functions(MaxItems=7).get("NextMarker") is None


def test_update_code_is_what_the_next_call_runs(server):
    client = server.client("lambda")
    name = server.function("def handler(event, context):\n    return 'old'\n")
    assert json.load(client.invoke(FunctionName=name)["Payload"]) == "old"
    before = client.get_function_configuration(FunctionName=name)
    package = zipped({"handler.py": "def handler(event, context):\n    return 'new'\n"})
    dry = client.update_function_code(FunctionName=name, ZipFile=package, DryRun=True)
    assert dry["CodeSha256"] == base64.b64encode(hashlib.sha256(package).digest()).decode()
    assert json.load(client.invoke(FunctionName=name)["Payload"]) == "old"
    updated = client.update_function_code(FunctionName=name, ZipFile=package)
    assert updated["CodeSha256"] != before["CodeSha256"]
    assert updated["RevisionId"] != before["RevisionId"]
    client.get_waiter("function_updated_v2").wait(FunctionName=name)
    assert json.load(client.invoke(FunctionName=name)["Payload"]) == "new"


def test_update_configuration(server):
    client = server.client("lambda")
    name = server.function("import os\ndef handler(event, context):\n    return os.environ.get('COLOUR')\n")
    assert json.load(client.invoke(FunctionName=name)["Payload"]) is None
    revision = client.get_function_configuration(FunctionName=name)["RevisionId"]
    updated = client.update_function_configuration(
        FunctionName=name, Environment={"Variables": {"COLOUR": "grün"}}, Timeout=11, MemorySize=300,
        RevisionId=revision,
    )
    assert (updated["Timeout"], updated["MemorySize"]) == (11, 300)
    client.get_waiter("function_updated").wait(FunctionName=name)
    assert json.load(client.invoke(FunctionName=name)["Payload"]) == "grün"
    status, code, message = refused(
        client.update_function_configuration, FunctionName=name, Timeout=5, RevisionId=revision
    )
    assert (status, code) == (412, "PreconditionFailedException")
    assert "does not match the latest Revision Id" in message
    assert client.get_function_configuration(FunctionName=name)["Timeout"] == 11


def test_delete(server):
    client = server.client("lambda")
    name = server.function(ECHO)
    client.delete_function(FunctionName=name)
    for call in [client.get_function, client.delete_function, client.invoke, client.get_function_configuration]:
        status, code, message = refused(call, FunctionName=name)
        assert (status, code) == (404, "ResourceNotFoundException")
        assert message.startswith("Function not found: arn:aws:lambda:us-east-1:")
        assert message.split("$")[0].rstrip(":").endswith(f"function:{name}")
    # The name is free again, and runs its new code.
    server.function("def handler(event, context):\n    return 2\n", FunctionName=name)
    assert json.load(client.invoke(FunctionName=name)["Payload"]) == 2


def test_delete_with_a_url_takes_the_url_along(server):
    client = server.client("lambda")
    name = server.function(ECHO)
    url = server.function_url(name)
    assert requests.get(url, timeout=30).status_code == 200
    client.delete_function(FunctionName=name)
    gone = requests.get(url, timeout=30)
    assert gone.status_code == 403


def test_a_name_is_created_once(server):
    name = server.function(ECHO)
    assert refused(create, server=server, FunctionName=name) == (
        409, "ResourceConflictException", f"Function already exist: {name}",
    )


@pytest.mark.parametrize(
    ("changed", "status", "code", "words"),
    [
        ({"Runtime": "cobol85"}, 400, "InvalidParameterValueException",
         "Value cobol85 at 'runtime' failed to satisfy constraint: Member must satisfy enum value set: ["),
        ({"Runtime": "python2.7"}, 400, "InvalidParameterValueException",
         "The runtime parameter of python2.7 is no longer supported"),
        ({"Runtime": "dotnet8"}, 501, "NotImplementedException", "dotnet8"),
        ({"Timeout": 0}, 400, None, "imeout"),
        ({"Timeout": 901}, 400, None, "imeout"),
        ({"MemorySize": 64}, 400, None, "emorySize"),
        ({"MemorySize": 20000}, 400, None, "emorySize"),
        ({"FunctionName": "no spaces"}, 400, "ValidationException", "at 'functionName' failed to satisfy constraint"),
        ({"Role": "nobody"}, 400, "ValidationException", "at 'role' failed to satisfy constraint"),
        ({"Environment": {"Variables": {"AWS_REGION": "x"}}}, 400, "InvalidParameterValueException",
         "Reserved keys used in this request: AWS_REGION"),
        ({"Environment": {"Variables": {"BIG": "x" * 4096}}}, 400, "InvalidParameterValueException",
         "exceeded the 4KB limit"),
        ({"Layers": ["arn:aws:lambda:us-east-1:000000000000:layer:l:1"]}, 400, "InvalidParameterValueException", "layer:l:1"),
        ({"FileSystemConfigs": [{
            "Arn": "arn:aws:elasticfilesystem:us-east-1:000000000000:access-point/fsap-0123456789abcdef0",
            "LocalMountPath": "/mnt/files",
        }]}, 400, "InvalidParameterValueException", "is not there"),
        ({"ImageConfig": {"Command": ["x"]}}, 400, "InvalidParameterValueException", "PackageType Image"),
        ({"Code": {"S3Bucket": "bucket", "S3Key": "key"}}, 501, "NotImplementedException", "S3Bucket"),
        ({"PublishTo": "LATEST_PUBLISHED"}, 501, "NotImplementedException", "PublishTo"),
    ],
)
@pytest.mark.modes("dev")
def test_refused_settings(server, changed, status, code, words):
    name = changed.get("FunctionName", name_of())
    got = refused(create, server=server, **({"FunctionName": name} | changed))
    assert got[0] == status, got
    assert code is None or got[1] == code, got
    assert words in got[2], got
    if " " not in name:
        assert refused(server.client("lambda").get_function, FunctionName=name)[0] == 404


def hostile(name, content=b"x"):
    """A package with one entry of a name that zip tools would not write."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("handler.py", ECHO)
        archive.writestr(zipfile.ZipInfo(name), content)
    return out.getvalue()


def linked():
    """A package with a symbolic link that leads out."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        info = zipfile.ZipInfo("link")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "../../../etc/passwd")
    return out.getvalue()


def bomb():
    """Less than a megabyte that unpacks to more than the limit."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for index in range(6):
            with archive.open(f"zeros-{index}", "w") as entry:
                for _ in range(48):
                    entry.write(bytes(1 << 20))
    return out.getvalue()


def truncated():
    """A package whose end is missing."""
    package = zipped({"handler.py": ECHO * 100})
    return package[: len(package) // 2]


def corrupt():
    """A package with a flipped bit in its content."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("handler.py", ECHO)
    return out.getvalue().replace(b"return event", b"return evenT", 1)


@pytest.mark.parametrize(
    ("package", "words"),
    [
        (lambda: b"this is no zip", "Could not unzip uploaded file"),
        (truncated, "Could not unzip uploaded file"),
        (corrupt, "Could not unzip uploaded file"),
        (lambda: hostile("../escape.py"), "Could not unzip uploaded file"),
        (lambda: hostile("/etc/cron.d/escape"), "Could not unzip uploaded file"),
        (lambda: hostile("a/../../escape"), "Could not unzip uploaded file"),
        (linked, "Could not unzip uploaded file"),
        (bomb, "Unzipped size must be smaller than 262144000 bytes"),
    ],
    ids=["no-zip", "truncated", "corrupt", "parent", "absolute", "hidden-parent", "link", "bomb"],
)
@pytest.mark.modes("dev")
def test_refused_packages(server, package, words):
    content = package()
    name = name_of()
    status, code, message = refused(create, server=server, FunctionName=name, Code={"ZipFile": content})
    assert (status, code) == (400, "InvalidParameterValueException"), message
    assert words in message
    assert refused(server.client("lambda").get_function, FunctionName=name)[0] == 404
    # The same on an update, which leaves the old code running.
    living = server.function(ECHO)
    status, code, message = refused(server.client("lambda").update_function_code, FunctionName=living, ZipFile=content)
    assert (status, code) == (400, "InvalidParameterValueException"), message
    answer = server.client("lambda").invoke(FunctionName=living, Payload=b'"still here"')
    assert json.load(answer["Payload"]) == "still here"


@pytest.mark.modes("dev")
def test_tags(server):
    client = server.client("lambda")
    name = server.function(ECHO)
    arn = client.get_function(FunctionName=name)["Configuration"]["FunctionArn"]
    client.tag_resource(Resource=arn, Tags={"a": "1", "b": "2"})
    client.untag_resource(Resource=arn, TagKeys=["a"])
    assert client.list_tags(Resource=arn)["Tags"] == {"b": "2"}


@pytest.mark.modes("dev")
def test_permissions(server):
    client = server.client("lambda")
    name = server.function(ECHO)
    assert refused(client.get_policy, FunctionName=name)[:2] == (404, "ResourceNotFoundException")
    statement = {"StatementId": "one", "Action": "lambda:InvokeFunction", "Principal": "apigateway.amazonaws.com"}
    client.add_permission(FunctionName=name, **statement)
    policy = json.loads(client.get_policy(FunctionName=name)["Policy"])
    assert policy["Statement"][0]["Sid"] == "one"
    assert policy["Statement"][0]["Principal"] == {"Service": "apigateway.amazonaws.com"}
    assert refused(client.add_permission, FunctionName=name, **statement)[:2] == (409, "ResourceConflictException")
    client.remove_permission(FunctionName=name, StatementId="one")
    assert refused(client.get_policy, FunctionName=name)[:2] == (404, "ResourceNotFoundException")


def test_versions_and_settings_that_there_are(server):
    client = server.client("lambda")
    name = server.function(ECHO)
    versions = client.list_versions_by_function(FunctionName=name)["Versions"]
    assert [version["Version"] for version in versions] == ["$LATEST"]
    assert client.list_aliases(FunctionName=name)["Aliases"] == []
    limits = client.get_account_settings()["AccountLimit"]
    assert (limits["CodeSizeZipped"], limits["CodeSizeUnzipped"]) == (52_428_800, 262_144_000)


@pytest.mark.modes("dev")
def test_an_interpreter_is_substituted_loudly_not_silently(server):
    # Whatever this machine has, an accepted runtime is created; what runs says which version it is.
    name = server.function(
        {"handler.js": "exports.handler = async () => process.version;"}, runtime=NODE,
    )
    answer = server.client("lambda").invoke(FunctionName=name)
    assert json.load(answer["Payload"]).startswith("v")

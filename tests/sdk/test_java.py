"""Java functions, beyond what the suite of all runtimes checks: kinds of handlers, AWS's classes for events, the heap, errors,
variables, files, layers, logs, hooks of snapshots, and the runtime pack that they need."""

import base64
import json
import subprocess

import pytest
import requests

from conftest import JAVA as RUNTIME, ROOT, Server, name_of, wait_for, zipped
from test_deploy import dunlin
from test_invoke import invoke, tail

JARS = ROOT / ".cache/java/lib"

pytestmark = [
    pytest.mark.skipif(not JARS.is_dir(), reason="the jars could not be installed (tests/install.sh says why)"),
    # One server for all: its runtime pack is installed once.
    pytest.mark.xdist_group("java"),
]


def compiled(folder, sources, jars=()):
    """Classes of these sources: names in a package to bytes."""
    out = folder / name_of("classes")
    out.mkdir()
    path = ":".join(str(jar) for jar in [*JARS.glob("*.jar"), *jars])
    done = subprocess.run(
        ["javac", "--release", "11", "-nowarn", "-cp", path, "-d", out, *sources], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return {str(file.relative_to(out)): file.read_bytes() for file in out.rglob("*.class")}


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """The package of the functions in tests/java."""
    folder = tmp_path_factory.mktemp("java")
    files = compiled(folder, sorted((ROOT / "tests/java/functions").glob("*.java")))
    for jar in JARS.glob("*.jar"):
        files[f"lib/{jar.name}"] = jar.read_bytes()
    part = folder / "Part.java"
    part.write_text('package bundled; public class Part { public String toString() { return "bundled"; } }')
    files["lib/part.jar"] = zipped(compiled(folder, [part]))
    files["data/words.txt"] = "some words"
    return files


def create(server, files, handler, **settings):
    """A function of this handler."""
    settings = {"MemorySize": 512, "Timeout": 20} | settings
    return server.function(files, runtime=RUNTIME, handler=handler, **settings)


def answer(server, package, handler, payload, **settings):
    """What a function answers when it is called once."""
    got = invoke(server, create(server, package, handler, **settings), payload)
    assert "FunctionError" not in got, got["json"]
    return got["json"]


def test_kinds_of_handlers(java, package):
    event = {"a": [1, 2.5, None, True, "ü☃🐦"], "b": {"c": {}}}
    assert answer(java, package, "functions.Echo", event) == event
    assert answer(java, package, "functions.Echo::handleRequest", event) == event
    order = answer(java, package, "functions.Facts::bean", {"item": "é", "count": 1, "tags": ["x"], "unknown": 1})
    assert (order["item"], order["count"], order["tags"][0]) == ("é", 2, "x") and len(order["tags"]) == 2
    assert answer(java, package, "functions.Facts::fixed", "quiet") == "QUIET"
    assert answer(java, package, "functions.Facts::number", 21) == 42
    assert answer(java, package, "functions.Facts::list", [5, 6]) == [5, 6, 2]
    assert answer(java, package, "functions.Facts::nothing", {}) is None
    streamed = answer(java, package, "functions.Facts::stream", {"k": "v"})
    assert streamed[0] == {"k": "v"} and 0 < streamed[1] <= 20_000


def test_the_context(java, package):
    name = create(java, package, "functions.Facts::context", MemorySize=640)
    custom = base64.b64encode(json.dumps({"custom": {"k": "v"}}).encode()).decode()
    got = invoke(java, name, {}, ClientContext=custom)
    facts = got["json"]
    assert facts["requestId"] == got["ResponseMetadata"]["RequestId"]
    assert (facts["function"], facts["version"], facts["memory"]) == (name, "$LATEST", 640)
    assert facts["arn"].endswith(f":function:{name}") and facts["group"] == f"/aws/lambda/{name}"
    assert "[$LATEST]" in facts["stream"] and 0 < facts["remaining"] <= 20_000
    assert facts["client"] == {"k": "v"}
    # What is beside the heap has its room within the memory of the function.
    assert 300 << 20 < facts["heap"] < 512 << 20


def test_classes_for_events(java, package):
    url = java.function_url(create(java, package, "functions.Http"))
    got = requests.post(url + "some/path?a=1", data="text", headers={"content-type": "text/plain"}, timeout=30)
    assert (got.status_code, got.headers["x-method"], got.text) == (201, "POST", "/some/path?a=1 text")
    message = {"messageId": "m", "body": "b", "eventSourceARN": "arn:q", "attributes": {}, "messageAttributes": {}}
    assert answer(java, package, "functions.Http::messages", {"Records": [message]}) == "m b arn:q"


def test_errors(java, package):
    name = create(java, package, "functions.Echo")
    got = invoke(java, name, {"do": "throw"}, LogType="Tail")
    assert got["FunctionError"] == "Unhandled"
    assert (got["json"]["errorType"], got["json"]["errorMessage"]) == ("java.lang.IllegalStateException", "not now")
    assert got["json"]["stackTrace"][0].startswith("functions.Echo.handleRequest(Echo.java:")
    # The log of the call has it, and the environment goes on.
    assert "not now: java.lang.IllegalStateException" in tail(got)
    assert invoke(java, name, {"x": 1})["json"] == {"x": 1}
    for handler, kind, words in [
        ("functions.None", "java.lang.ClassNotFoundException", "functions.None"),
        ("functions.Facts::none", None, "none"),
        ("functions.Failing::handle", "java.lang.ExceptionInInitializerError", "Error loading class functions.Failing"),
    ]:
        got = invoke(java, create(java, package, handler), {})
        assert got["FunctionError"] == "Unhandled", handler
        assert kind is None or got["json"]["errorType"] == kind, got["json"]
        assert words in json.dumps(got["json"]), got["json"]
    # What is no such object.
    got = invoke(java, create(java, package, "functions.Facts::bean"), [1])
    assert got["FunctionError"] == "Unhandled" and "errorMessage" in got["json"]


def test_variables(java, package):
    settings = {"Environment": {"Variables": {"COLOUR": "blau ü"}}}
    name = create(java, package, "functions.Facts::variables", **settings)
    for variable, value in [("COLOUR", "blau ü"), ("AWS_LAMBDA_FUNCTION_NAME", name), ("AWS_EXECUTION_ENV", "AWS_Lambda_java17")]:
        facts = invoke(java, name, {"name": variable})["json"]
        assert facts == {"own": value, "child": value, "all": True, "platform": False}
    # One that the machine itself reads at its start.
    settings = {"Environment": {"Variables": {"JAVA_TOOL_OPTIONS": "-Dcolour=red -Xmx100m"}}}
    assert answer(java, package, "functions.Facts::variables", {"name": "JAVA_TOOL_OPTIONS"}, **settings)["own"]


def test_files_and_layers(java, package, tmp_path):
    part = tmp_path / "Part.java"
    part.write_text('package layered; public class Part { public String toString() { return "layered"; } }')
    jar = zipped(compiled(tmp_path, [part]))
    layer = java.client("lambda").publish_layer_version(
        LayerName=name_of("part"), Content={"ZipFile": zipped({"java/lib/part.jar": jar})}, CompatibleRuntimes=[RUNTIME]
    )
    facts = answer(java, package, "functions.Facts::files", {}, Layers=[layer["LayerVersionArn"]])
    assert facts == {
        "directory": "/var/task", "io": "some words", "nio": "some words", "absolute": True, "resource": "some words", "layer": "layered",
        "library": "bundled",
    }


def test_logs(java, package):
    name = create(java, package, "functions.Echo")
    text = tail(invoke(java, name, {"do": "print"}, LogType="Tail"))
    for line in ["from out", "from err", "from the logger"]:
        assert f"{line}\n" in text, text
    assert "REPORT RequestId" in text and text.index("from out") < text.index("END RequestId")
    events = lambda: java.client("logs").filter_log_events(logGroupName=f"/aws/lambda/{name}")["events"]
    messages = wait_for(lambda: [event["message"] for event in events()], "log lines")
    first = messages[0]
    assert messages[messages.index("begun\n") + 1] == "one\ntwo\nthree\n", "a record is one event, and begins one"
    assert first.startswith("INIT_START Runtime Version: java:"), first


def test_tls_of_the_platform_is_trusted(java, package):
    url = "https://dynamodb.us-east-1.amazonaws.com/"
    # It is the platform that answers, and tells everybody that it is there.
    assert answer(java, package, "functions.Facts::secure", {"url": url}) == 200


def test_hooks_of_snapshots(java, package):
    client = java.client("lambda")
    name = create(java, package, "functions.Hooks", SnapStart={"ApplyOn": "PublishedVersions"}, Publish=True)
    client.get_waiter("published_version_active").wait(FunctionName=name, Qualifier="1")
    assert invoke(java, name, {}, Qualifier="1")["json"] == ["init", "before", "after", "snap-start"]
    assert invoke(java, name, {})["json"] == ["init", "on-demand"]


def test_deploy_of_an_artifact(package, tmp_path):
    # A platform without the pack: deploying brings it.
    server = Server("dev")
    try:
        folder = tmp_path / name_of("app")
        folder.mkdir()
        yaml = (
            f"service: {folder.name}\nprovider:\n  name: aws\n  runtime: java17\npackage:\n  artifact: target/app.jar\n"
            "functions:\n  echo:\n    handler: functions.Echo\n    memorySize: 512\n"
        )
        (folder / "serverless.yml").write_text(yaml)
        failed = dunlin(server, "deploy", "--json", folder)
        assert failed.code != 0 and "target/app.jar cannot be read; was the project built?" in failed.err
        (folder / "target").mkdir()
        (folder / "target/app.jar").write_bytes(zipped(package))
        done = dunlin(server, "deploy", "--json", folder)
        assert done.code == 0, done.err
        assert any("runtime client of AWS for Java" in note for note in done.json["notes"]), done.json
        assert invoke(server, done.json["functions"][0], {"a": 1})["json"] == {"a": 1}
        again = dunlin(server, "deploy", "--json", folder)
        assert again.json["changed"] is False, again.json
    finally:
        server.remove()

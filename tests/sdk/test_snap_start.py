"""SnapStart through boto3: versions whose environments begin as copies of one that ran the init, and what is each one's own."""

import concurrent.futures
import json
import re

import pytest

from conftest import refused, wait_for
from test_inside import with_boto3

RUNTIME = "python3.12"

# Each environment says what is its own, and what the init made for all.
UNIQUE = """
import os, random, ssl, tempfile, time, uuid
from snapshot_restore_py import register_after_restore, register_before_snapshot

MADE = uuid.uuid4().hex
ssl.RAND_bytes(8)
random.random()
tempfile.mktemp()
ORDER = []
COUNTRY = open("/etc/hosts")
COUNTRY.read(3)
print("init of", MADE)

@register_before_snapshot
def first_registered():
    ORDER.append("before 1")

@register_before_snapshot
def second_registered():
    ORDER.append("before 2")

def after(word, ending=""):
    ORDER.append(word + ending)
    print("restored", MADE)

register_after_restore(after, "after 1")
register_after_restore(after, "after", ending=" 2")

def handler(event, context):
    others = os.listdir("/tmp")
    open("/tmp/mine", "w").close()
    time.sleep(event.get("sleep", 0))
    return {
        "made": MADE, "order": ORDER, "tmp": others, "read": COUNTRY.tell(),
        "how": os.environ["AWS_LAMBDA_INITIALIZATION_TYPE"], "log": context.log_stream_name,
        "variable": os.environ["AWS_LAMBDA_LOG_STREAM_NAME"], "key": os.environ["AWS_ACCESS_KEY_ID"],
        "token": os.environ["AWS_SESSION_TOKEN"], "random": random.random(), "uuid": uuid.uuid4().hex,
        "ssl": ssl.RAND_bytes(8).hex(), "name": tempfile.mktemp(), "version": context.function_version,
    }
"""


def publish(server, files, **settings):
    """A function with SnapStart, and its first version, whose snapshot is taken or cannot be."""
    client = server.client("lambda")
    settings.setdefault("SnapStart", {"ApplyOn": "PublishedVersions"})
    name = server.function(files, RUNTIME, **settings)
    made = client.publish_version(FunctionName=name)
    assert made["SnapStart"] == {"ApplyOn": "PublishedVersions", "OptimizationStatus": "On"}
    return f"{name}:{made['Version']}", settled(server, name, made["Version"])


def settled(server, name, version):
    def there():
        shown = server.client("lambda").get_function_configuration(FunctionName=name, Qualifier=version)
        return shown if shown["State"] == "Active" else None
    return wait_for(there, "the version's snapshot")


def call(server, function, **event):
    """The answer of a call, and its log."""
    import base64

    got = server.client("lambda").invoke(FunctionName=function, Payload=json.dumps(event), LogType="Tail")
    answer = json.load(got["Payload"])
    assert "FunctionError" not in got, answer
    return answer, base64.b64decode(got["LogResult"]).decode()


def at_once(server, function, number):
    """Calls that each get an environment of their own."""
    with concurrent.futures.ThreadPoolExecutor(number) as threads:
        return list(threads.map(lambda _: call(server, function, sleep=2), range(number)))


def messages(server, function):
    name = function.split(":")[0]
    events = server.client("logs").filter_log_events(logGroupName=f"/aws/lambda/{name}")["events"]
    return [event["message"].rstrip() for event in events]


def test_environments_begin_from_one_init_and_share_nothing_else(server):
    function, shown = publish(server, UNIQUE)
    assert (shown["SnapStart"]["OptimizationStatus"], shown.get("StateReason")) == ("On", None)
    answers = at_once(server, function, 4)
    assert len({answer["log"] for answer, _ in answers}) == 4, "each call has an environment of its own"
    for answer, log in answers:
        assert (answer["how"], answer["version"], answer["tmp"], answer["read"]) == ("snap-start", "1", [], 3)
        assert answer["variable"] == answer["log"]
        assert answer["order"] == ["before 2", "before 1", "after 1", "after 2"]
        assert log.startswith("RESTORE_START Runtime Version: python:") and "INIT_START" not in log, log
        assert f"restored {answer['made']}" in log and "init of" not in log
        assert re.search(r"^RESTORE_REPORT Restore Duration: \d+\.\d\d ms", log, re.M), log
        report = re.search(
            r"Duration: ([\d.]+) ms\tBilled Duration: (\d+) ms\t.*\tRestore Duration: ([\d.]+) ms\tBilled Restore Duration: (\d+) ms\t",
            log)
        duration, billed, restore, of_restore = (float(number) for number in report.groups())
        assert billed - 1 <= duration + of_restore <= billed and of_restore <= restore + 1
    assert len({answer["made"] for answer, _ in answers}) == 1
    for own in ("key", "token", "random", "uuid", "ssl", "name"):
        assert len({answer[own] for answer, _ in answers}) == 4, own
    again, log = call(server, function)
    # It may have an environment that was begun for one of the four, which then took another's: nobody waited for that.
    charged = [line for line in log.splitlines() if line.startswith("REPORT")]
    assert len(charged) == 1 and "Restore Duration" not in charged[0] and again["order"] == answers[0][0]["order"]
    init = wait_for(lambda: [line for line in messages(server, function) if line.startswith("INIT_REPORT")], "the init's log")
    assert len(init) == 1 and re.match(r"INIT_REPORT Init Duration: [\d.]+ ms\tPhase: init", init[0])


def test_a_version_is_pending_until_its_snapshot_is_taken(server):
    client = server.client("lambda")
    source = "import time\ntime.sleep(3)\ndef handler(event, context):\n    return context.function_version\n"
    name = server.function(source, RUNTIME, SnapStart={"ApplyOn": "PublishedVersions"}, Publish=True)
    client.create_alias(FunctionName=name, Name="live", FunctionVersion="1")
    shown = client.get_function_configuration(FunctionName=name, Qualifier="1")
    assert (shown["State"], shown["StateReasonCode"]) == ("Pending", "Creating")
    for settings in [{"Qualifier": "1"}, {"Qualifier": "live", "InvocationType": "Event"}]:
        status, code, message = refused(client.invoke, FunctionName=name, **settings)
        assert (status, code) == (409, "ResourceConflictException")
        assert message.endswith("The function is currently in the following state: Pending")
    client.get_waiter("published_version_active").wait(
        FunctionName=name, Qualifier="1", WaiterConfig={"Delay": 1, "MaxAttempts": 60})
    assert call(server, f"{name}:live")[0] == "1"


CLIENT = """
import boto3, json, os, time

client = boto3.client("sts")
AT_INIT = client.get_caller_identity()["Arn"]
KEY_AT_INIT = client._request_signer._credentials.get_frozen_credentials().access_key
NAMES = sorted(name for name in os.environ if name.startswith(("AWS_ACCESS", "AWS_SECRET", "AWS_SESSION", "AWS_CONTAINER")))

def handler(event, context):
    begin = time.perf_counter()
    now = client.get_caller_identity()["Arn"]
    took = time.perf_counter() - begin
    key = client._request_signer._credentials.get_frozen_credentials().access_key
    time.sleep(event.get("sleep", 0))
    return {"at_init": AT_INIT, "now": now, "key_at_init": KEY_AT_INIT, "key": key, "names": NAMES, "took": took}
"""


def test_a_client_of_the_init_goes_on_with_the_environments_credentials(server):
    function, shown = publish(server, with_boto3(CLIENT), MemorySize=512, Timeout=60)
    assert shown.get("StateReason") is None
    answers = [answer for answer, _ in at_once(server, function, 2)]
    for answer in answers:
        assert answer["now"] == answer["at_init"] and ":assumed-role/tests/" in answer["now"]
        assert answer["names"] == ["AWS_CONTAINER_AUTHORIZATION_TOKEN", "AWS_CONTAINER_CREDENTIALS_FULL_URI"]
    keys = {answer["key"] for answer in answers} | {answers[0]["key_at_init"]}
    assert len(keys) == 3 and answers[0]["key_at_init"] == answers[1]["key_at_init"]


OBSTACLES = {
    "thread": ("import threading, time\nthreading.Thread(target=time.sleep, args=(600,), name='poller', daemon=True).start()",
               "its init left a thread (poller) running"),
    "process": ("import subprocess\nCHILD = subprocess.Popen(['sleep', '600'])", "its init left a process (sleep) running"),
    "file": ("open('/tmp/cache', 'w').close()", "its init left files in /tmp: cache"),
    "socket": ("import socket\nPAIR = socket.socketpair()", "its init left something open: socket:["),
    "listener": ("import socket\nPORT = socket.socket()\nPORT.bind(('127.0.0.1', 0))\nPORT.listen()",
                 "its init left something open: socket:["),
    "event loop": ("import asyncio\nLOOP = asyncio.new_event_loop()", "its init left something open: "),
    "shared memory": ("import mmap\nSHARED = mmap.mmap(-1, 4096)", "its init left memory that processes share"),
    "timer": ("import signal\nsignal.setitimer(signal.ITIMER_REAL, 600)", "its init left a timer running"),
    "extension": (
        "import os, threading, urllib.request\n"
        "API = f\"http://{os.environ['AWS_LAMBDA_RUNTIME_API']}/2020-01-01/extension/\"\n"
        "ask = lambda *about: urllib.request.urlopen(urllib.request.Request(*about))\n"
        "ME = ask(API + 'register', b'{\"events\": []}', {'Lambda-Extension-Name': 'inside'}).headers['Lambda-Extension-Identifier']\n"
        "follow = lambda: ask(API + 'event/next', None, {'Lambda-Extension-Identifier': ME})\n"
        "threading.Thread(target=follow, daemon=True).start()", "its init registers an extension"),
}


@pytest.mark.parametrize("obstacle", OBSTACLES)
def test_an_init_that_leaves_more_than_memory_is_run_by_each_environment(dev, obstacle):
    source, reason = OBSTACLES[obstacle]
    hooks = (
        "\nimport os\nfrom snapshot_restore_py import register_after_restore, register_before_snapshot\nORDER = []\n"
        "register_before_snapshot(ORDER.append, 'before')\nregister_after_restore(ORDER.append, 'after')\n"
        "def handler(event, context):\n    return [ORDER, os.environ['AWS_LAMBDA_INITIALIZATION_TYPE']]\n")
    function, shown = publish(dev, source + hooks)
    assert shown["SnapStart"] == {"ApplyOn": "PublishedVersions", "OptimizationStatus": "Off"}
    assert reason in shown["StateReason"]
    answer, log = call(dev, function)
    assert answer == [["before", "after"], "snap-start"]
    assert log.startswith("INIT_START") and "Init Duration" in log and "Restore" not in log
    told = [line for line in messages(dev, function) if line.startswith("SnapStart is off")]
    assert len(told) == 1 and reason in told[0], told


def test_failing_inits_and_hooks_are_the_calls_failures(dev):
    client = dev.client("lambda")
    hook = "from snapshot_restore_py import register_after_restore\n@register_after_restore\ndef again():\n    raise OSError('gone')\n"
    function, _ = publish(dev, hook + "def handler(event, context):\n    return 1\n")
    got = client.invoke(FunctionName=function)
    assert (got["FunctionError"], json.load(got["Payload"])["errorMessage"]) == ("Unhandled", "gone")
    assert any(line.startswith("RESTORE_REPORT") and "Status: error" in line for line in messages(dev, function))
    function, _ = publish(dev, "raise ValueError('no')\n")
    got = client.invoke(FunctionName=function)
    assert json.load(got["Payload"])["errorMessage"] == "no"


def test_only_published_versions_and_only_of_runtimes_that_have_it(dev):
    client = dev.client("lambda")
    who = "import os\ndef handler(event, context):\n    return os.environ['AWS_LAMBDA_INITIALIZATION_TYPE']\n"
    function, _ = publish(dev, who)
    name = function.split(":")[0]
    assert call(dev, name)[0] == "on-demand"
    assert client.get_function_configuration(FunctionName=name)["SnapStart"] == {
        "ApplyOn": "PublishedVersions", "OptimizationStatus": "Off"}
    for runtime in ("python3.11", "nodejs22.x"):
        assert refused(client.update_function_configuration, FunctionName=name, Runtime=runtime) == (
            400, "InvalidParameterValueException", f"{runtime} is not supported for SnapStart enabled functions.")
    client.update_function_configuration(FunctionName=name, SnapStart={"ApplyOn": "None"})
    assert client.publish_version(FunctionName=name)["SnapStart"] == {"ApplyOn": "None", "OptimizationStatus": "Off"}
    assert call(dev, f"{name}:2")[0] == "on-demand"
    assert call(dev, f"{name}:1")[0] == "snap-start"

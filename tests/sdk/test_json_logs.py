"""Logs in JSON: the platform's records and the function's own lines, each of their level."""

import base64
import json
import subprocess

import pytest

from conftest import NODE, PYTHON, binary, name_of, refused, wait_for
from test_aws_cli import aws

PYTHON_CODE = """
import logging
logger = logging.getLogger()
def handler(event, context):
    logger.debug("quiet")
    logger.info("said")
    logger.error("loud")
    return 1
"""
NODE_CODE = """
exports.handler = async () => { console.debug("quiet"); console.info("said"); console.error("loud"); return 1; };
"""


def records(server, name):
    """Every line of the function's log."""
    logs = server.client("logs")

    def found():
        if not logs.describe_log_groups(logGroupNamePrefix=f"/aws/lambda/{name}")["logGroups"]:
            return None
        events = logs.filter_log_events(logGroupName=f"/aws/lambda/{name}")["events"]
        lines = [json.loads(event["message"]) for event in events]
        return lines if any(ended(line) for line in lines) else None

    return wait_for(found, "the end of the call in the log")


def ended(line):
    """Whether a line is the last that a call has at these levels."""
    return line.get("type") == "platform.report" or line.get("message") == "loud"


@pytest.mark.parametrize("code,runtime", [(PYTHON_CODE, PYTHON), (NODE_CODE, NODE)], ids=["python", "node"])
def test_levels_of_the_function_and_of_the_platform(dev, code, runtime):
    client = dev.client("lambda")
    name = dev.function(code, runtime=runtime, LoggingConfig={"LogFormat": "JSON"})
    tail = client.invoke(FunctionName=name, LogType="Tail")
    lines = records(dev, name)
    shown = base64.b64decode(tail["LogResult"]).decode()
    assert [json.loads(line) for line in shown.splitlines()] == lines
    kinds = [line["type"] for line in lines if "type" in line]
    assert kinds == ["platform.initStart", "platform.start", "platform.report"]
    request_id = tail["ResponseMetadata"]["RequestId"]
    assert [line["record"].get("requestId") for line in lines if "type" in line] == [None, request_id, request_id]
    report = lines[-1]["record"]
    assert report["status"] == "success" and report["metrics"]["memorySizeMB"] == 256
    assert {"durationMs", "billedDurationMs", "maxMemoryUsedMB", "initDurationMs"} <= set(report["metrics"])
    own = [(line["level"], line["message"]) for line in lines if "level" in line]
    assert own == [("INFO", "said"), ("ERROR", "loud")]
    assert [line["requestId"] for line in lines if "level" in line] == [request_id] * 2

    quiet = {"LogFormat": "JSON", "ApplicationLogLevel": "ERROR", "SystemLogLevel": "WARN"}
    name = dev.function(code, runtime=runtime, LoggingConfig=quiet)
    client.invoke(FunctionName=name)
    assert [line["message"] for line in records(dev, name)] == ["loud"], "nothing of the platform was worth a warning"


def test_everything_is_there_when_it_is_asked_for(dev):
    name = dev.function(PYTHON_CODE, LoggingConfig={
        "LogFormat": "JSON", "ApplicationLogLevel": "DEBUG", "SystemLogLevel": "DEBUG"})
    client = dev.client("lambda")
    client.invoke(FunctionName=name)
    lines = records(dev, name)
    assert [line["type"] for line in lines if "type" in line] == [
        "platform.initStart", "platform.initRuntimeDone", "platform.initReport", "platform.start", "platform.runtimeDone", "platform.report"]
    begun = next(line["record"] for line in lines if line.get("type") == "platform.initReport")
    assert (begun["initializationType"], begun["phase"], begun["status"]) == ("on-demand", "init", "success")
    assert "quiet" in [line.get("message") for line in lines]
    client.update_function_configuration(FunctionName=name, LoggingConfig={"LogFormat": "Text"})
    client.invoke(FunctionName=name)

    def texts():
        events = dev.client("logs").filter_log_events(logGroupName=f"/aws/lambda/{name}")["events"]
        return [event["message"] for event in events if event["message"].startswith("REPORT RequestId: ")]

    wait_for(texts, "a report as text")


def test_what_goes_wrong_is_a_warning(dev):
    code = "import time\ndef handler(event, context):\n    time.sleep(30)\n"
    name = dev.function(code, Timeout=1, LoggingConfig={"LogFormat": "JSON", "SystemLogLevel": "WARN"})
    answer = dev.client("lambda").invoke(FunctionName=name, LogType="Tail")
    assert answer["FunctionError"] == "Unhandled"
    lines = base64.b64decode(answer["LogResult"]).decode().splitlines()
    found = [json.loads(line) for line in lines if line.startswith("{")]
    assert [(line["type"], line["record"]["status"]) for line in found] == [
        ("platform.runtimeDone", "timeout"), ("platform.report", "timeout")]
    assert any("Task timed out after 1.00 seconds" in line for line in lines)


def test_a_functions_own_error_is_one(dev):
    code = "def handler(event, context):\n    raise ValueError('own')\n"
    name = dev.function(code, LoggingConfig={"LogFormat": "JSON", "SystemLogLevel": "WARN"})
    answer = dev.client("lambda").invoke(FunctionName=name, LogType="Tail")
    lines = [json.loads(line) for line in base64.b64decode(answer["LogResult"]).decode().splitlines()]
    found = [(line["type"], line["record"]["status"], line["record"]["errorType"]) for line in lines if "record" in line]
    assert found == [("platform.runtimeDone", "error", "ValueError"), ("platform.report", "error", "ValueError")]


def test_the_platform_filters_what_a_runtime_does_not(dev):
    code = """
import json
def handler(event, context):
    for level in ["debug", "warn", "ERROR"]:
        print(json.dumps({"level": level, "timestamp": "2024-11-02T16:51:31.587Z", "message": level}))
    print("plain")
"""
    name = dev.function(code, LoggingConfig={"LogFormat": "JSON", "ApplicationLogLevel": "WARN", "SystemLogLevel": "WARN"})
    tail = dev.client("lambda").invoke(FunctionName=name, LogType="Tail")["LogResult"]
    lines = base64.b64decode(tail).decode().splitlines()
    assert [json.loads(line)["message"] if line[0] == "{" else line for line in lines] == ["warn", "ERROR", "plain"]


def test_several_functions_write_into_one_group(dev):
    group = f"/shared/{name_of()}"
    names = [dev.function(f"def handler(event, context):\n    print('I am {word}')\n", LoggingConfig={"LogGroup": group})
             for word in ("one", "two")]
    client, logs = dev.client("lambda"), dev.client("logs")
    for name in names:
        assert client.get_function_configuration(FunctionName=name)["LoggingConfig"] == {"LogFormat": "Text", "LogGroup": group}
        client.invoke(FunctionName=name)

    def said():
        if not logs.describe_log_groups(logGroupNamePrefix=group)["logGroups"]:
            return None
        events = logs.filter_log_events(logGroupName=group)["events"]
        lines = {event["message"].strip(): event["logStreamName"] for event in events}
        return lines if {"I am one", "I am two"} <= set(lines) else None

    lines = wait_for(said, "the words of both")
    for word, name in zip(("one", "two"), names):
        assert f"/{name}[$LATEST]" in lines[f"I am {word}"]
        shown = subprocess.run(
            [binary(), "logs", name], env=dev.environment(), capture_output=True, text=True, timeout=60, check=True).stdout
        assert f"I am {word}" in shown and shown.count("I am ") == 1, shown
    assert not logs.describe_log_groups(logGroupNamePrefix=f"/aws/lambda/{names[0]}")["logGroups"]


def test_levels_belong_to_json(dev):
    client, name = dev.client("lambda"), dev.function("def handler(event, context):\n    pass\n")
    wrong = {"LogFormat": "Text", "ApplicationLogLevel": "INFO"}
    status, code, _ = refused(client.update_function_configuration, FunctionName=name, LoggingConfig=wrong)
    assert (status, code) == (400, "InvalidParameterValueException")
    status, code, words = refused(client.update_function_configuration, FunctionName=name, LoggingConfig={"LogFormat": "XML"})
    assert (status, code) == (400, "ValidationException") and "enum value set: [JSON, Text]" in words
    aws(dev, "lambda", "update-function-configuration", "--function-name", name,
        "--logging-config", "LogFormat=JSON,ApplicationLogLevel=TRACE")
    assert client.get_function_configuration(FunctionName=name)["LoggingConfig"] == {
        "LogFormat": "JSON", "ApplicationLogLevel": "TRACE", "SystemLogLevel": "INFO", "LogGroup": f"/aws/lambda/{name}"}

"""Tenant isolation: environments that serve one tenant, and calls that say whose they are."""

import json
import subprocess

import pytest

from conftest import NODE, PYTHON, binary, refused, wait_for
from test_aws_cli import aws

PYTHON_CODE = """
import os
seen = []
def handler(event, context):
    seen.append(context.tenant_id)
    mark = "/tmp/mark"
    before = open(mark).read() if os.path.exists(mark) else None
    open(mark, "w").write(context.tenant_id)
    print("for " + context.tenant_id)
    return {"seen": seen, "before": before}
"""
NODE_CODE = """
const fs = require("node:fs");
const seen = [];
exports.handler = async (event, context) => {
  seen.push(context.tenantId);
  const before = fs.existsSync("/tmp/mark") ? fs.readFileSync("/tmp/mark", "utf8") : null;
  fs.writeFileSync("/tmp/mark", context.tenantId);
  console.log("for", context.tenantId);
  return { seen, before };
};
"""
ISOLATED = {"TenancyConfig": {"TenantIsolationMode": "PER_TENANT"}}


def call(server, name, tenant):
    answer = server.client("lambda").invoke(FunctionName=name, TenantId=tenant)
    document = json.loads(answer["Payload"].read())
    assert "FunctionError" not in answer, document
    return document


@pytest.mark.parametrize("code,runtime", [(PYTHON_CODE, PYTHON), (NODE_CODE, NODE)], ids=["python", "node"])
def test_no_environment_serves_two_tenants(server, code, runtime):
    name = server.function(code, runtime=runtime, **ISOLATED)
    for tenant, calls in [("blue", 1), ("green/2", 1), ("blue", 2), ("green/2", 2)]:
        found = call(server, name, tenant)
        assert found == {"seen": [tenant] * calls, "before": tenant if calls > 1 else None}
    shown = subprocess.run([binary(), "ps"], env=server.environment(), capture_output=True, text=True, timeout=60, check=True).stdout
    assert f"{name} for blue" in shown and f"{name} for green/2" in shown, shown


def test_a_call_names_a_tenant_exactly_where_it_must(dev, tmp_path):
    client = dev.client("lambda")
    isolated, plain = dev.function(PYTHON_CODE, **ISOLATED), dev.function("def handler(event, context):\n    return context.tenant_id\n")
    status, code, words = refused(client.invoke, FunctionName=isolated)
    assert (status, code) == (400, "InvalidParameterValueException")
    assert words == ("The invoked function is enabled with tenancy configuration. "
                     "Add a valid tenant ID in your request and try again.")
    assert refused(client.invoke, FunctionName=plain, TenantId="blue")[:2] == (400, "InvalidParameterValueException")
    assert refused(client.invoke, FunctionName=isolated, TenantId="blue!")[:2] == (400, "ValidationException")
    assert refused(client.invoke, FunctionName=isolated, InvocationType="Event")[:2] == (400, "InvalidParameterValueException")
    out = tmp_path / "out.json"
    aws(dev, "lambda", "invoke", "--function-name", isolated, "--tenant-id", "red", str(out))
    assert json.loads(out.read_text())["seen"] == ["red"]
    assert json.loads(client.invoke(FunctionName=plain)["Payload"].read()) is None


@pytest.mark.parametrize("code,runtime", [
    ("import logging\ndef handler(event, context):\n    logging.getLogger().error('for ' + context.tenant_id)\n", PYTHON),
    ("exports.handler = async (event, context) => { console.error('for ' + context.tenantId); };", NODE),
], ids=["python", "node"])
def test_events_keep_their_tenant_and_logs_name_it(dev, code, runtime):
    name = dev.function(code, runtime=runtime, LoggingConfig={"LogFormat": "JSON"}, **ISOLATED)
    dev.client("lambda").invoke(FunctionName=name, InvocationType="Event", TenantId="blue")
    logs = dev.client("logs")

    def lines():
        if not logs.describe_log_groups(logGroupNamePrefix=f"/aws/lambda/{name}")["logGroups"]:
            return None
        found = [json.loads(event["message"]) for event in logs.filter_log_events(logGroupName=f"/aws/lambda/{name}")["events"]]
        return found if any(line.get("type") == "platform.report" for line in found) else None

    found = wait_for(lines, "the end of the event in the log")
    assert [line["record"]["tenantId"] for line in found if line.get("type") == "platform.start"] == ["blue"]
    assert [(line["message"], line["tenantId"]) for line in found if line.get("level") == "ERROR"] == [("for blue", "blue")]


def test_a_stream_is_for_a_tenant_too(dev):
    name = dev.function(NODE_CODE, runtime=NODE, **ISOLATED)
    answer = dev.client("lambda").invoke_with_response_stream(FunctionName=name, TenantId="blue")
    text = b"".join(event["PayloadChunk"]["Payload"] for event in answer["EventStream"] if "PayloadChunk" in event)
    assert json.loads(text)["seen"] == ["blue"]

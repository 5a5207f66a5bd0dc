"""Functions that call themselves through an SDK: counted by the trace header, and stopped after a while."""

import json

from conftest import refused, wait_for
from test_inside import with_boto3

# Each call leaves a line in the log and calls again, as long as it is let.
SELF_PYTHON = """
import json, os, boto3, botocore.config
client = boto3.client("lambda", config=botocore.config.Config(read_timeout=300, retries={"total_max_attempts": 1}))
def handler(event, context):
    print("call", event["n"])
    again = dict(FunctionName=context.function_name, Payload=json.dumps({"n": event["n"] + 1, "most": event["most"]}))
    if event["n"] >= event["most"]:
        return {"n": event["n"]}
    try:
        answer = client.invoke(InvocationType=os.environ["HOW"], **again)
    except client.exceptions.RecursiveInvocationException as error:
        return {"n": event["n"], "refused": str(error)}
    return json.load(answer["Payload"]) if os.environ["HOW"] == "RequestResponse" else None
"""


def calls_in_log(server, name):
    events = server.client("logs").filter_log_events(logGroupName=f"/aws/lambda/{name}", filterPattern='"call "')["events"]
    return len(events)


def test_a_function_that_calls_itself_is_stopped_unless_it_is_allowed(dev):
    # Each call starts an environment below the one before: a busy machine takes its time for so many in a row.
    client = dev.client("lambda", read_timeout=300)
    name = dev.function(with_boto3(SELF_PYTHON, "lambda"), Timeout=300, MemorySize=256, Environment={"Variables": {"HOW": "RequestResponse"}})
    assert client.get_function_recursion_config(FunctionName=name)["RecursiveLoop"] == "Terminate"

    def run(most):
        return json.load(client.invoke(FunctionName=name, Payload=json.dumps({"n": 1, "most": most}))["Payload"])

    stopped = run(25)
    assert stopped["n"] == 16 and "recursive loop" in stopped["refused"], stopped
    assert client.put_function_recursion_config(FunctionName=name, RecursiveLoop="Allow")["RecursiveLoop"] == "Allow"
    assert run(18) == {"n": 18}
    client.put_function_recursion_config(FunctionName=name, RecursiveLoop="Terminate")
    assert run(25)["n"] == 16


def test_an_event_that_is_stopped_goes_to_the_destination_of_failures(dev):
    client = dev.client("lambda")
    name = dev.function(with_boto3(SELF_PYTHON, "lambda"), Timeout=60, MemorySize=256, Environment={"Variables": {"HOW": "Event"}})
    witness = dev.function("import json\ndef handler(event, context):\n    print('told', json.dumps(event))\n")
    arn = client.get_function_configuration(FunctionName=witness)["FunctionArn"]
    client.put_function_event_invoke_config(FunctionName=name, DestinationConfig={"OnFailure": {"Destination": arn}})
    client.invoke(FunctionName=name, InvocationType="Event", Payload=json.dumps({"n": 1, "most": 40}))
    logs = dev.client("logs")

    def told():
        found = logs.filter_log_events(logGroupName=f"/aws/lambda/{witness}", filterPattern="told")["events"]
        return [json.loads(event["message"].split("told ", 1)[1]) for event in found]

    [record] = wait_for(lambda: told() if witness_has_log(logs, witness) else None, "the record of the stopped event", 60)
    assert record["requestContext"]["condition"] == "RecursiveLoop"
    assert record["requestPayload"]["n"] == 17
    assert calls_in_log(dev, name) == 16


def witness_has_log(logs, name):
    return logs.describe_log_groups(logGroupNamePrefix=f"/aws/lambda/{name}")["logGroups"]


def test_runtime_management_is_kept_by_version(server):
    client = server.client("lambda")
    name = server.function("def handler(event, context): pass\n")
    assert client.get_runtime_management_config(FunctionName=name)["UpdateRuntimeOn"] == "Auto"
    version = "arn:aws:lambda:us-east-1::runtime:0123456789abcdef"
    assert refused(client.put_runtime_management_config, FunctionName=name, UpdateRuntimeOn="Manual")[0] == 400
    assert refused(client.put_runtime_management_config, FunctionName=name, UpdateRuntimeOn="Auto",
                   RuntimeVersionArn=version)[0] == 400
    client.publish_version(FunctionName=name)
    put = client.put_runtime_management_config(FunctionName=name, Qualifier="1", UpdateRuntimeOn="Manual",
                                               RuntimeVersionArn=version)
    assert put["FunctionArn"].endswith(":1")
    got = client.get_runtime_management_config(FunctionName=name, Qualifier="1")
    assert (got["UpdateRuntimeOn"], got["RuntimeVersionArn"]) == ("Manual", version)
    assert client.get_runtime_management_config(FunctionName=name)["UpdateRuntimeOn"] == "Auto"


def test_the_older_way_to_send_an_event_runs_the_function(server):
    client = server.client("lambda")
    name = server.function("import json\ndef handler(event, context):\n    print('got', json.dumps(event))\n")
    answer = client.invoke_async(FunctionName=name, InvokeArgs=b'{"a": 1}')
    assert answer["Status"] == 202
    logs = server.client("logs")

    def got():
        if not witness_has_log(logs, name):
            return None
        return logs.filter_log_events(logGroupName=f"/aws/lambda/{name}", filterPattern="got")["events"]

    [event] = wait_for(got, "the event's line")
    assert 'got {"a": 1}' in event["message"]
    assert refused(client.invoke_async, FunctionName=name, InvokeArgs=b"x" * 300_000)[0] == 413
    assert refused(client.invoke_async, FunctionName="none", InvokeArgs=b"{}")[:2] == (404, "ResourceNotFoundException")

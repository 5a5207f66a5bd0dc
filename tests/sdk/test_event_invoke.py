"""What becomes of asynchronous events: their configuration per qualifier, and the records that destinations get."""

import json

import pytest

from conftest import name_of, refused, wait_for
from test_aws_cli import aws

#: Fails when it is told to.
WORK = """
def handler(event, context):
    if event.get("fail"):
        raise ValueError("as told")
    return {"done": event}
"""

#: Says what it was called with, in its log.
TELL = """
import json
def handler(event, context):
    print("GOT " + json.dumps(event))
"""


def records(server, name):
    """The events that a telling function got."""
    logs = server.client("logs")
    try:
        events = logs.filter_log_events(logGroupName=f"/aws/lambda/{name}")["events"]
    except logs.exceptions.ResourceNotFoundException:
        return []
    return [json.loads(event["message"][4:]) for event in events if event["message"].startswith("GOT ")]


def record(server, name):
    """The one record that a destination got."""
    got = wait_for(lambda: records(server, name), "the record at the destination")
    assert len(got) == 1, got
    return got[0]


def arn_of(server, name):
    return server.client("lambda").get_function_configuration(FunctionName=name)["FunctionArn"]


def send(client, name, **event):
    answer = client.invoke(FunctionName=name, InvocationType="Event", Payload=json.dumps(event))
    assert answer["StatusCode"] == 202
    return answer["ResponseMetadata"]["RequestId"]


def test_the_records_of_success_and_failure_reach_functions(server):
    client = server.client("lambda")
    work, good, bad = server.function(WORK), server.function(TELL), server.function(TELL)
    made = client.put_function_event_invoke_config(
        FunctionName=work, MaximumRetryAttempts=0, MaximumEventAgeInSeconds=3600,
        DestinationConfig={
            "OnSuccess": {"Destination": arn_of(server, good)}, "OnFailure": {"Destination": arn_of(server, bad)},
        },
    )
    assert made["FunctionArn"] == arn_of(server, work) + ":$LATEST"
    assert made["DestinationConfig"]["OnFailure"]["Destination"] == arn_of(server, bad)
    failed, handled = send(client, work, fail=True), send(client, work, n=1)
    told = record(server, bad)
    assert told["version"] == "1.0" and told["timestamp"].endswith("Z")
    assert told["requestContext"] == {
        "requestId": failed, "functionArn": made["FunctionArn"], "condition": "RetriesExhausted",
        "approximateInvokeCount": 1,
    }
    assert told["requestPayload"] == {"fail": True}
    assert told["responseContext"] == {"statusCode": 200, "executedVersion": "$LATEST", "functionError": "Unhandled"}
    assert (told["responsePayload"]["errorType"], told["responsePayload"]["errorMessage"]) == ("ValueError", "as told")
    told = record(server, good)
    assert told["requestContext"] == {
        "requestId": handled, "functionArn": made["FunctionArn"], "condition": "Success", "approximateInvokeCount": 1,
    }
    assert (told["requestPayload"], told["responsePayload"]) == ({"n": 1}, {"done": {"n": 1}})
    assert told["responseContext"] == {"statusCode": 200, "executedVersion": "$LATEST"}


def test_an_alias_has_a_configuration_of_its_own(server):
    client = server.client("lambda")
    work, tell = server.function(WORK, Publish=True), server.function(TELL)
    alias = client.create_alias(FunctionName=work, Name="live", FunctionVersion="1")["AliasArn"]
    client.put_function_event_invoke_config(
        FunctionName=work, Qualifier="live", DestinationConfig={"OnSuccess": {"Destination": arn_of(server, tell)}})
    send(client, work, n="unqualified")
    sent = send(client, f"{work}:live", n="qualified")
    told = record(server, tell)
    assert (told["requestContext"]["requestId"], told["requestContext"]["functionArn"]) == (sent, alias)
    assert told["responseContext"]["executedVersion"] == "1"


def test_configurations_are_listed_changed_and_deleted(server):
    client = server.client("lambda")
    name = server.function(WORK, Publish=True)
    client.create_alias(FunctionName=name, Name="live", FunctionVersion="1")
    for qualifier in ["$LATEST", "1", "live"]:
        client.put_function_event_invoke_config(FunctionName=name, Qualifier=qualifier, MaximumRetryAttempts=1)
    changed = client.update_function_event_invoke_config(FunctionName=name, MaximumEventAgeInSeconds=60)
    assert (changed["MaximumRetryAttempts"], changed["MaximumEventAgeInSeconds"]) == (1, 60)
    shown = client.get_function_event_invoke_config(FunctionName=name)
    assert shown["LastModified"] == changed["LastModified"]
    pages = client.get_paginator("list_function_event_invoke_configs").paginate(
        FunctionName=name, PaginationConfig={"PageSize": 2})
    listed = [[config["FunctionArn"].rsplit(":", 1)[1] for config in page["FunctionEventInvokeConfigs"]] for page in pages]
    assert listed == [["$LATEST", "1"], ["live"]]
    client.delete_function_event_invoke_config(FunctionName=name)
    got = refused(client.get_function_event_invoke_config, FunctionName=name)
    assert got == (404, "ResourceNotFoundException",
                   f"The function {arn_of(server, name)}:$LATEST doesn't have an EventInvokeConfig")
    for wrong in [{"MaximumRetryAttempts": 3}, {"MaximumEventAgeInSeconds": 59}, {"MaximumEventAgeInSeconds": 21601}]:
        got = refused(client.put_function_event_invoke_config, FunctionName=name, **wrong)
        assert got[:2] == (400, "ValidationException"), got


@pytest.mark.modes("dev")
def test_destinations_that_are_not_here_are_refused(server):
    client = server.client("lambda")
    name = server.function(WORK)
    queue = "arn:aws:sqs:us-east-1:000000000000:q"
    got = refused(client.put_function_event_invoke_config, FunctionName=name,
                  DestinationConfig={"OnFailure": {"Destination": queue}})
    assert got[:2] == (501, "NotImplementedException") and queue in got[2]
    for absent in [queue, "arn:aws:sns:us-east-1:000000000000:t"]:
        got = refused(client.update_function_configuration, FunctionName=name, DeadLetterConfig={"TargetArn": absent})
        assert got[:2] == (501, "NotImplementedException") and absent in got[2]
    for wrong in [queue + ".fifo", arn_of(server, name)]:
        got = refused(client.update_function_configuration, FunctionName=name, DeadLetterConfig={"TargetArn": wrong})
        assert got[:2] == (400, "InvalidParameterValueException") and wrong in got[2]
    for none in [{}, {"TargetArn": ""}]:
        assert "DeadLetterConfig" not in client.update_function_configuration(FunctionName=name, DeadLetterConfig=none)


@pytest.mark.modes("dev")
def test_the_cli_puts_and_shows_it(server):
    name = server.function(WORK)
    tell = server.function(TELL, FunctionName=name_of("tell"))
    config = json.dumps({"OnFailure": {"Destination": arn_of(server, tell)}})
    of = ["--function-name", name]
    made = aws(server, "lambda", "put-function-event-invoke-config", *of, "--maximum-retry-attempts", "0",
               "--destination-config", config)
    assert made["DestinationConfig"]["OnFailure"] == {"Destination": arn_of(server, tell)}
    assert aws(server, "lambda", "get-function-event-invoke-config", *of) == made
    send(server.client("lambda"), name, fail=True)
    assert record(server, tell)["requestContext"]["condition"] == "RetriesExhausted"

"""Event source mappings as clients see them of services that have no queues or streams here: refusals that say so, and lists
that are empty. What pollers do is tested in crates/compute, with a queue and a stream in memory; with streams of tables in
test_dynamodb_streams.py."""

import uuid

import pytest

from conftest import refused
from test_aws_cli import aws

QUEUE = "arn:aws:sqs:us-east-1:000000000000:q"
STREAM = "arn:aws:kinesis:us-east-1:000000000000:stream/s"
CODE = "def handler(event, context):\n    return None\n"


@pytest.mark.parametrize("source, more, words", [
    (QUEUE, {}, "the service sqs does not exist here yet"),
    (STREAM, {"StartingPosition": "LATEST"}, "the service kinesis does not exist here yet"),
    ("arn:aws:kafka:us-east-1:000000000000:cluster/c/1", {"StartingPosition": "LATEST", "Topics": ["t1"]}, "MSK"),
    ("arn:aws:mq:us-east-1:000000000000:broker:b:1", {"Queues": ["q"]}, "Amazon MQ"),
    ("arn:aws:rds:us-east-1:000000000000:cluster:c", {"StartingPosition": "LATEST"}, "DocumentDB"),
])
def test_a_source_that_nobody_has_is_refused_and_nothing_is_kept(server, source, more, words):
    client = server.client("lambda")
    function = server.function(CODE)
    status, code, message = refused(
        client.create_event_source_mapping, FunctionName=function, EventSourceArn=source, **more)
    assert (status, code) == (501, "NotImplementedException")
    assert words in message
    assert client.list_event_source_mappings(FunctionName=function)["EventSourceMappings"] == []


def test_what_is_wrong_is_said_before(server):
    client = server.client("lambda")
    function = server.function(CODE)
    for arguments, words in [
        ({"EventSourceArn": QUEUE, "BatchSize": 11}, "Maximum batch window in seconds must be greater than 0"),
        ({"EventSourceArn": QUEUE, "StartingPosition": "LATEST"}, "Unsupported StartingPosition parameter"),
        ({"EventSourceArn": STREAM}, "startingPosition"),
        ({"EventSourceArn": QUEUE, "FilterCriteria": {"Filters": [{"Pattern": "{"}]}}, "Invalid filter pattern definition."),
        ({}, "Unrecognized event source."),
    ]:
        status, code, message = refused(client.create_event_source_mapping, FunctionName=function, **arguments)
        assert (status, code) == (400, "InvalidParameterValueException"), message
        assert words in message
    status, code, message = refused(
        client.create_event_source_mapping, FunctionName="absent-function", EventSourceArn=QUEUE)
    assert (status, code, message) == (400, "InvalidParameterValueException", "Function does not exist")
    for limit in ({"BatchSize": 10_001}, {"MaximumBatchingWindowInSeconds": 301}, {"MaximumRetryAttempts": 10_001},
                  {"ScalingConfig": {"MaximumConcurrency": 1}}, {"ParallelizationFactor": 11}):
        status, code, message = refused(
            client.create_event_source_mapping, FunctionName=function, EventSourceArn=QUEUE, **limit)
        assert (status, code) == (400, "ValidationException"), message


def test_mappings_that_are_not_there(server):
    client = server.client("lambda")
    absent = str(uuid.uuid4())
    for call in (client.get_event_source_mapping, client.update_event_source_mapping, client.delete_event_source_mapping):
        status, code, message = refused(call, UUID=absent)
        assert (status, code) == (404, "ResourceNotFoundException")
        assert message == "The resource you requested does not exist."
    status, code, _ = refused(client.get_event_source_mapping, UUID="short-id")
    assert (status, code) == (400, "ValidationException")
    arn = f"arn:aws:lambda:us-east-1:000000000000:event-source-mapping:{absent}"
    assert refused(client.list_tags, Resource=arn)[:2] == (404, "ResourceNotFoundException")
    assert refused(client.tag_resource, Resource=arn, Tags={"a": "b"})[:2] == (404, "ResourceNotFoundException")


def test_lists_are_empty_and_take_all_parameters(server):
    client = server.client("lambda")
    function = server.function(CODE)
    for mapping in client.list_event_source_mappings()["EventSourceMappings"]:
        assert mapping["FunctionArn"].split(":")[6] != function, "other tests' mappings are there too"
    for arguments in ({"FunctionName": function}, {"EventSourceArn": QUEUE},
                      {"FunctionName": function, "EventSourceArn": QUEUE, "MaxItems": 7, "Marker": ""}):
        answer = client.list_event_source_mappings(**arguments)
        assert answer["EventSourceMappings"] == [] and "NextMarker" not in answer
    pages = client.get_paginator("list_event_source_mappings").paginate(FunctionName=function)
    assert [page["EventSourceMappings"] for page in pages] == [[]]
    status, code, _ = refused(client.list_event_source_mappings, Marker=str(uuid.uuid4()))
    assert (status, code) == (400, "InvalidParameterValueException"), "a marker that no list answered"
    status, code, _ = refused(client.list_event_source_mappings, MaxItems=10_001)
    assert (status, code) == (400, "ValidationException")
    listed = aws(server, "lambda", "list-event-source-mappings", "--function-name", function)
    assert listed == {"EventSourceMappings": []}

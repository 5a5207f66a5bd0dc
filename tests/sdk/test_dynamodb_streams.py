"""Streams of tables: DynamoDB Streams through boto3, and functions that a stream wakes."""

import itertools
import json
import time

import pytest

from conftest import name_of, refused, wait_for
from test_dynamodb import make

ON = {"StreamEnabled": True, "StreamViewType": "NEW_AND_OLD_IMAGES"}


@pytest.fixture
def table(server):
    """A table with a stream, as a resource."""
    return server.resource("dynamodb").Table(make(server, StreamSpecification=ON))


def arn_of(table):
    return table.meta.client.describe_table(TableName=table.name)["Table"]["LatestStreamArn"]


def read(streams, arn, kind="TRIM_HORIZON", **more):
    """All records from there on."""
    shard = streams.describe_stream(StreamArn=arn)["StreamDescription"]["Shards"][0]["ShardId"]
    iterator = streams.get_shard_iterator(StreamArn=arn, ShardId=shard, ShardIteratorType=kind, **more)["ShardIterator"]
    records = []
    while iterator:
        page = streams.get_records(ShardIterator=iterator)
        records += page["Records"]
        iterator = page["Records"] and page.get("NextShardIterator")
    return records


def test_changes_are_read_as_they_were_made(server, table):
    streams = server.client("dynamodbstreams")
    arn = arn_of(table)
    table.put_item(Item={"pk": "a", "n": 1, "bytes": b"\x00\xff"})
    table.update_item(Key={"pk": "a"}, UpdateExpression="SET n = n + :one", ExpressionAttributeValues={":one": 1})
    table.update_item(Key={"pk": "a"}, UpdateExpression="SET n = n + :none", ExpressionAttributeValues={":none": 0})
    table.delete_item(Key={"pk": "a"})
    records = read(streams, arn)
    assert [record["eventName"] for record in records] == ["INSERT", "MODIFY", "REMOVE"]
    changed = records[1]["dynamodb"]
    assert changed["Keys"] == {"pk": {"S": "a"}}
    assert changed["OldImage"] == {"pk": {"S": "a"}, "n": {"N": "1"}, "bytes": {"B": b"\x00\xff"}}
    assert changed["NewImage"]["n"] == {"N": "2"}
    assert abs(changed["ApproximateCreationDateTime"].timestamp() - time.time()) < 60
    numbers = [int(record["dynamodb"]["SequenceNumber"]) for record in records]
    assert numbers == sorted(set(numbers))
    second = records[1]["dynamodb"]["SequenceNumber"]
    assert read(streams, arn, "AT_SEQUENCE_NUMBER", SequenceNumber=second) == records[1:]
    assert read(streams, arn, "AFTER_SEQUENCE_NUMBER", SequenceNumber=second) == records[2:]
    assert read(streams, arn, "LATEST") == []
    described = streams.describe_stream(StreamArn=arn)["StreamDescription"]
    assert (described["StreamStatus"], described["TableName"]) == ("ENABLED", table.name)
    assert described["KeySchema"] == [{"AttributeName": "pk", "KeyType": "HASH"}]
    listed = streams.list_streams(TableName=table.name)["Streams"]
    assert listed == [{"StreamArn": arn, "TableName": table.name, "StreamLabel": described["StreamLabel"]}]


def test_a_stream_ends_and_another_begins(server, table):
    client, streams = table.meta.client, server.client("dynamodbstreams")
    arn = arn_of(table)
    table.put_item(Item={"pk": "a"})
    assert refused(client.update_table, TableName=table.name, StreamSpecification=ON) == (
        400, "ValidationException", f"Table already has an enabled stream: TableName: {table.name}",
    )
    client.update_table(TableName=table.name, StreamSpecification={"StreamEnabled": False})
    table.put_item(Item={"pk": "b"})
    described = streams.describe_stream(StreamArn=arn)["StreamDescription"]
    assert described["StreamStatus"] == "DISABLED"
    assert "EndingSequenceNumber" in described["Shards"][0]["SequenceNumberRange"]
    assert [record["dynamodb"]["Keys"]["pk"]["S"] for record in read(streams, arn)] == ["a"]
    client.update_table(TableName=table.name, StreamSpecification=ON)
    assert arn_of(table) != arn
    client.delete_table(TableName=table.name)
    # A stream outlives its table.
    assert len(read(streams, arn)) == 1
    absent = arn[:-1] + "x"
    assert refused(streams.describe_stream, StreamArn=absent) == (
        400, "ResourceNotFoundException", f"Requested resource not found: Stream: {absent} not found",
    )


# Fails when one of its records is of the key `bad`.
FAILS_ON_BAD = """
import json
def handler(event, context):
    print("GOT " + json.dumps(event))
    if any(r["dynamodb"]["Keys"]["pk"]["S"] == "bad" for r in event["Records"]):
        raise ValueError("one of them is bad")
"""
HANDLER = """
import json
def handler(event, context):
    print("GOT " + json.dumps(event))
    bad = [r for r in event["Records"] if r["dynamodb"]["Keys"]["pk"]["S"].startswith("bad")]
    return {"batchItemFailures": [{"itemIdentifier": r["dynamodb"]["SequenceNumber"]} for r in bad[:1]]}
"""


def events_of(server, function):
    """The events that a function has printed."""
    logs = server.client("logs")
    try:
        pages = logs.get_paginator("filter_log_events").paginate(logGroupName=f"/aws/lambda/{function}", filterPattern="GOT")
        lines = [event["message"] for page in pages for event in page["events"]]
    except logs.exceptions.ResourceNotFoundException:
        return []
    return [json.loads(line.split("GOT ", 1)[1]) for line in lines]


def keys_of(events):
    return [record["dynamodb"]["Keys"]["pk"]["S"] for event in events for record in event["Records"]]


def mapped(server, function, arn, **settings):
    """A mapping from a stream to a function, ready."""
    client = server.client("lambda")
    made = client.create_event_source_mapping(
        FunctionName=function, EventSourceArn=arn, **{"StartingPosition": "TRIM_HORIZON", **settings})
    state = lambda: client.get_event_source_mapping(UUID=made["UUID"])["State"]
    wait_for(lambda: state() == "Enabled", "the mapping is enabled")
    return made["UUID"]


def test_a_function_gets_the_changes_of_a_table(server, table):
    function = server.function(HANDLER)
    arn = arn_of(table)
    table.put_item(Item={"pk": "before"})
    mapping = mapped(server, function, arn)
    for number in range(5):
        table.put_item(Item={"pk": f"a{number}", "n": number})
    table.delete_item(Key={"pk": "a0"})
    expected = ["before", "a0", "a1", "a2", "a3", "a4", "a0"]
    wait_for(lambda: keys_of(events_of(server, function)) == expected, "the function has got all changes, in order")
    records = [record for event in events_of(server, function) for record in event["Records"]]
    assert [record["eventName"] for record in records] == ["INSERT"] * 6 + ["REMOVE"]
    record = records[1]
    assert set(record) == {
        "eventID", "eventName", "eventVersion", "eventSource", "awsRegion", "dynamodb", "eventSourceARN",
    }
    assert (record["eventSource"], record["eventVersion"], record["eventSourceARN"]) == ("aws:dynamodb", "1.1", arn)
    assert record["dynamodb"]["NewImage"] == {"pk": {"S": "a0"}, "n": {"N": "0"}}
    assert record["dynamodb"]["StreamViewType"] == "NEW_AND_OLD_IMAGES"
    server.client("lambda").delete_event_source_mapping(UUID=mapping)


def test_filters_and_partial_failures(server, table):
    function = server.function(HANDLER)
    pattern = {"eventName": ["INSERT"], "dynamodb": {"NewImage": {"wanted": {"BOOL": [True]}}}}
    mapping = mapped(
        server, function, arn_of(table), FilterCriteria={"Filters": [{"Pattern": json.dumps(pattern)}]},
        FunctionResponseTypes=["ReportBatchItemFailures"], MaximumRetryAttempts=1, BatchSize=10,
        MaximumBatchingWindowInSeconds=1,
    )
    for key, wanted in [("a", True), ("b", False), ("bad", True), ("c", True)]:
        table.put_item(Item={"pk": key, "wanted": wanted})
    table.delete_item(Key={"pk": "a"})
    # What failed is tried again, then given up; what comes after it is handled.
    wait_for(lambda: keys_of(events_of(server, function)).count("bad") == 2, "the failure is tried again")
    wait_for(lambda: keys_of(events_of(server, function))[-1] == "c", "the rest is handled")
    assert "b" not in keys_of(events_of(server, function))
    server.client("lambda").delete_event_source_mapping(UUID=mapping)


def test_a_batch_that_fails_is_cut_in_two(server, table):
    """The bad record alone is given up at the end, all others are handled in calls that succeed."""
    function = server.function(FAILS_ON_BAD)
    keys = ["a", "b", "c", "d", "e", "bad", "f", "g"]
    for key in keys:
        table.put_item(Item={"pk": key})
    # What is there before the mapping comes as one batch.
    mapping = mapped(server, function, arn_of(table), BatchSize=8, BisectBatchOnFunctionError=True, MaximumRetryAttempts=0)
    called = lambda: [keys_of([event]) for event in events_of(server, function)]
    wait_for(lambda: any("g" in batch and "bad" not in batch for batch in called()), "what comes after the bad record is handled")
    batches = called()
    assert batches[0] == keys
    assert [key for batch in batches if "bad" not in batch for key in batch] == [key for key in keys if key != "bad"]
    failed = [batch for batch in batches if "bad" in batch]
    assert [len(batch) for batch in failed] == [8, 4, 2, 1], "each is half of the one before"
    server.client("lambda").delete_event_source_mapping(UUID=mapping)


def test_without_bisecting_a_batch_is_given_up_whole(server, table):
    function = server.function("""
import json
def handler(event, context):
    print("GOT " + json.dumps(event))
    if event["Records"][0]["dynamodb"]["Keys"]["pk"]["S"] == "a":
        raise ValueError("no")
""")
    for key in ["a", "b", "c"]:
        table.put_item(Item={"pk": key})
    mapping = mapped(server, function, arn_of(table), BatchSize=2, MaximumRetryAttempts=1)
    wait_for(lambda: "c" in keys_of(events_of(server, function)), "the next batch is handled")
    assert [keys_of([event]) for event in events_of(server, function)] == [["a", "b"], ["a", "b"], ["c"]]
    server.client("lambda").delete_event_source_mapping(UUID=mapping)


def test_a_tumbling_window_carries_its_state_to_its_last_call(server, table):
    function = server.function("""
import json
def handler(event, context):
    print("GOT " + json.dumps(event))
    return {"state": {"count": event["state"].get("count", 0) + len(event["Records"])}}
""")
    mapping = mapped(server, function, arn_of(table), BatchSize=1, TumblingWindowInSeconds=3)
    for number in range(6):
        table.put_item(Item={"pk": str(number)})
    last = lambda: [event for event in events_of(server, function) if event["isFinalInvokeForWindow"]]
    counted = lambda event: event["state"].get("count", 0) + len(event["Records"])
    wait_for(lambda: sum(map(counted, last())) == 6, "each window ends with the count of its records", 60)
    windows = {}
    for event in events_of(server, function):
        windows.setdefault((event["window"]["start"], event["window"]["end"]), []).append(event)
        assert event["eventSourceARN"] == arn_of(table) and event["isWindowTerminatedEarly"] is False
    for events in windows.values():
        records = 0
        for event in events:
            assert event["state"] == ({"count": records} if records else {}), events
            records += len(event["Records"])
        assert [event["isFinalInvokeForWindow"] for event in events] == [False] * (len(events) - 1) + [True]
    server.client("lambda").delete_event_source_mapping(UUID=mapping)


def test_a_mapping_begins_with_what_comes_after_it(server, table):
    function = server.function(HANDLER)
    for number in range(3):
        table.put_item(Item={"pk": f"before{number}"})
    mapping = mapped(server, function, arn_of(table), StartingPosition="LATEST")
    for number in range(3):
        table.put_item(Item={"pk": f"after{number}"})
    got = lambda: keys_of(events_of(server, function))
    wait_for(lambda: got()[-1:] == ["after2"], "the function has got what came after the mapping")
    assert got() == ["after0", "after1", "after2"]
    server.client("lambda").delete_event_source_mapping(UUID=mapping)


def test_calls_of_a_shard_run_side_by_side_and_those_of_a_key_in_a_row(server, table):
    """With a parallelization factor, keys are apart from each other; each key's changes still come one after the other."""
    function = server.function("""
import json, time
def handler(event, context):
    began = time.time()
    time.sleep(0.3)
    for record in event["Records"]:
        image = record["dynamodb"]["NewImage"]
        print("GOT " + json.dumps([image["pk"]["S"], int(image["n"]["N"]), began, time.time()]))
""")
    keys, factor = [f"k{number}" for number in range(12)], 3
    for number in range(3):
        for key in keys:
            table.put_item(Item={"pk": key, "n": number})
    mapping = mapped(server, function, arn_of(table), ParallelizationFactor=factor, BatchSize=1)
    wait_for(lambda: len(events_of(server, function)) >= 3 * len(keys), "all changes are handled", 60)
    spans = sorted(events_of(server, function), key=lambda span: span[2])
    assert len(spans) == 3 * len(keys), "each change once"
    for key in keys:
        own = [span for span in spans if span[0] == key]
        assert [span[1] for span in own] == [0, 1, 2]
        assert all(one[3] <= next_one[2] for one, next_one in zip(own, own[1:])), own
    together = [sum(other[2] <= span[2] < other[3] for other in spans) for span in spans]
    assert 1 < max(together) <= factor
    server.client("lambda").delete_event_source_mapping(UUID=mapping)


@pytest.mark.modes("dev")
def test_a_record_beyond_its_greatest_age_is_given_up(server, table):
    """It would be tried for ever; once it is a minute old, what comes after it is handled."""
    function = server.function(FAILS_ON_BAD)
    mapping = mapped(server, function, arn_of(table), MaximumRecordAgeInSeconds=60, BatchSize=1)
    table.put_item(Item={"pk": "bad"})
    put, others = time.monotonic(), itertools.count()
    got = lambda: keys_of(events_of(server, function))
    wait_for(lambda: got().count("bad") >= 2, "it is tried again")

    def one_more():
        table.put_item(Item={"pk": f"good{next(others)}"})
        return any(key != "bad" for key in got())
    wait_for(one_more, "it is given up", 150, 1)
    assert time.monotonic() - put >= 59, "it is tried until it is too old"
    # Those that waited behind it for as long are too old as well; in their order come the others.
    goods = [int(key.removeprefix("good")) for key in got() if key != "bad"]
    assert goods == list(range(goods[0], goods[-1] + 1))
    server.client("lambda").delete_event_source_mapping(UUID=mapping)


def test_a_mapping_rests_while_it_is_disabled(server, table):
    client, arn = server.client("lambda"), arn_of(table)
    resting, witness = server.function(HANDLER), server.function(HANDLER)
    mapping, other = mapped(server, resting, arn), mapped(server, witness, arn)
    state = lambda: client.get_event_source_mapping(UUID=mapping)["State"]
    got = lambda function: keys_of(events_of(server, function))
    table.put_item(Item={"pk": "a"})
    wait_for(lambda: got(resting) == ["a"], "it is polled")
    assert client.update_event_source_mapping(UUID=mapping, Enabled=False)["State"] == "Disabling"
    wait_for(lambda: state() == "Disabled", "it rests")
    table.put_item(Item={"pk": "b"})
    wait_for(lambda: got(witness) == ["a", "b"], "another mapping of the stream goes on")
    assert got(resting) == ["a"]
    # What it asks for may change meanwhile; that does not wake it.
    pattern = json.dumps({"dynamodb": {"Keys": {"pk": {"S": [{"anything-but": ["c"]}]}}}})
    client.update_event_source_mapping(UUID=mapping, FilterCriteria={"Filters": [{"Pattern": pattern}]})
    wait_for(lambda: state() == "Disabled", "it still rests")
    assert client.update_event_source_mapping(UUID=mapping, Enabled=True)["State"] == "Enabling"
    wait_for(lambda: state() == "Enabled", "it is polled again")
    for key in ["c", "d"]:
        table.put_item(Item={"pk": key})
    wait_for(lambda: got(resting)[-1] == "d", "it goes on where it has stopped, with its filter")
    assert got(resting) == ["a", "b", "d"]
    for uuid in (mapping, other):
        client.delete_event_source_mapping(UUID=uuid)


SETTINGS = {
    "BatchSize": 7, "ParallelizationFactor": 3, "BisectBatchOnFunctionError": True, "TumblingWindowInSeconds": 0,
    "MaximumRecordAgeInSeconds": 120, "MaximumRetryAttempts": 5, "MaximumBatchingWindowInSeconds": 2,
    "FunctionResponseTypes": ["ReportBatchItemFailures"],
    "FilterCriteria": {"Filters": [{"Pattern": json.dumps({"eventName": ["INSERT"]})}]},
}


def test_a_mapping_from_creation_to_deletion(server, table):
    client, arn = server.client("lambda"), arn_of(table)
    function, other = server.function(HANDLER), server.function(HANDLER)
    place = {"FunctionName": function, "EventSourceArn": arn}
    made = client.create_event_source_mapping(**place, StartingPosition="LATEST", Enabled=False)
    uuid = made["UUID"]
    assert (made["State"], made["EventSourceArn"], made["StartingPosition"]) == ("Creating", arn, "LATEST")
    assert made["FunctionArn"].endswith(f":function:{function}")
    shown = lambda: client.get_event_source_mapping(UUID=uuid)
    wait_for(lambda: shown()["State"] == "Disabled", "it is as it was asked for")
    defaults = {name: shown()[name] for name in SETTINGS if name != "FilterCriteria"}
    assert defaults == {
        "BatchSize": 100, "ParallelizationFactor": 1, "BisectBatchOnFunctionError": False, "TumblingWindowInSeconds": 0,
        "MaximumRecordAgeInSeconds": -1, "MaximumRetryAttempts": -1, "MaximumBatchingWindowInSeconds": 0, "FunctionResponseTypes": [],
    }
    assert refused(client.create_event_source_mapping, **place, StartingPosition="LATEST")[:2] == (409, "ResourceConflictException")
    updated = client.update_event_source_mapping(UUID=uuid, **SETTINGS)
    assert updated["State"] == "Updating"
    wait_for(lambda: shown()["State"] == "Disabled", "the settings hold")
    assert {name: shown()[name] for name in SETTINGS} == SETTINGS
    assert client.update_event_source_mapping(UUID=uuid, Enabled=True, FunctionName=other)["State"] == "Enabling"
    wait_for(lambda: shown()["State"] == "Enabled", "it is polled")
    assert shown()["FunctionArn"].endswith(f":function:{other}")
    # Filters and what is reported can be taken back, and each value has its limits.
    client.update_event_source_mapping(UUID=uuid, FilterCriteria={}, FunctionResponseTypes=[], TumblingWindowInSeconds=30, ParallelizationFactor=1)
    wait_for(lambda: shown()["State"] == "Enabled", "the settings hold")
    assert "FilterCriteria" not in shown() and shown()["FunctionResponseTypes"] == []
    assert shown()["TumblingWindowInSeconds"] == 30
    for limit in ({"ParallelizationFactor": 11}, {"TumblingWindowInSeconds": 901}, {"MaximumRetryAttempts": 10_001}, {"MaximumRecordAgeInSeconds": 604_801}):
        assert refused(client.update_event_source_mapping, UUID=uuid, **limit)[:2] == (400, "ValidationException")
    assert client.delete_event_source_mapping(UUID=uuid)["State"] == "Deleting"
    wait_for(lambda: not client.list_event_source_mappings(EventSourceArn=arn)["EventSourceMappings"], "it is gone")
    assert refused(client.get_event_source_mapping, UUID=uuid)[:2] == (404, "ResourceNotFoundException")


def test_lists_of_mappings_have_pages_and_are_of_a_function_or_a_source(server, table):
    client = server.client("lambda")
    sources = [arn_of(table), arn_of(server.resource("dynamodb").Table(make(server, StreamSpecification=ON)))]
    functions = [server.function(HANDLER) for _ in range(3)]
    made = {
        (function, source): client.create_event_source_mapping(
            FunctionName=function, EventSourceArn=source, StartingPosition="LATEST", Enabled=False)["UUID"]
        for function in functions for source in sources
    }

    def listed(**wanted):
        pages = list(client.get_paginator("list_event_source_mappings").paginate(**wanted, PaginationConfig={"PageSize": 1}))
        assert all(len(page["EventSourceMappings"]) <= 1 for page in pages)
        return sorted(mapping["UUID"] for page in pages for mapping in page["EventSourceMappings"])

    of = lambda wanted: sorted(uuid for place, uuid in made.items() if wanted(*place))
    for name in functions:
        assert listed(FunctionName=name) == of(lambda function, _, name=name: function == name)
    for arn in sources:
        assert listed(EventSourceArn=arn) == of(lambda _, source, arn=arn: source == arn)
    assert listed(FunctionName=functions[0], EventSourceArn=sources[1]) == [made[functions[0], sources[1]]]
    assert set(listed()) >= set(made.values())
    for uuid in made.values():
        wait_for(lambda uuid=uuid: client.get_event_source_mapping(UUID=uuid)["State"] == "Disabled", "it is settled")
        client.delete_event_source_mapping(UUID=uuid)


def test_a_mapping_goes_on_after_a_kill(own_server):
    server = own_server("dev")
    table = server.resource("dynamodb").Table(make(server, StreamSpecification=ON))
    function = server.function(HANDLER)
    mapped(server, function, arn_of(table))
    table.put_item(Item={"pk": "before"})
    wait_for(lambda: keys_of(events_of(server, function)) == ["before"], "the function has got the first change")
    server.process.kill()
    server.process.wait()
    server.start()
    table = server.resource("dynamodb").Table(table.name)
    table.put_item(Item={"pk": "after"})
    wait_for(lambda: "after" in keys_of(events_of(server, function)), "the function gets changes again")


def test_a_source_that_is_not_there_is_refused(server, table):
    client = server.client("lambda")
    function = server.function(HANDLER)
    arn = arn_of(table)[:-1] + "x"
    status, code, message = refused(
        client.create_event_source_mapping, FunctionName=function, EventSourceArn=arn, StartingPosition="LATEST")
    assert (status, code) == (400, "InvalidParameterValueException")
    assert arn in message


def test_the_cli_reaches_streams(server, table):
    from test_aws_cli import aws

    listed = aws(server, "dynamodbstreams", "list-streams", "--table-name", table.name)
    assert [stream["StreamArn"] for stream in listed["Streams"]] == [arn_of(table)]

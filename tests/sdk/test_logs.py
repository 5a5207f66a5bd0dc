"""CloudWatch Logs through boto3, over what functions really wrote."""

import json
import time

import pytest

from conftest import NODE, PYTHON, name_of, refused, wait_for
from test_invoke import invoke

CHATTY = "def handler(event, context):\n    for i in range(event['n']): print('line', event['mark'], i)\n"


def lines(server, name, **arguments):
    """Messages of a function's group, through the paginator; nothing while there is no group."""
    client = server.client("logs")
    try:
        pages = client.get_paginator("filter_log_events").paginate(logGroupName=f"/aws/lambda/{name}", **arguments)
        return [event["message"] for page in pages for event in page["events"]]
    except client.exceptions.ResourceNotFoundException:
        return []


def test_lines_of_a_function(server):
    client = server.client("logs")
    begun = int(time.time() * 1_000)
    name = server.function(CHATTY)
    answer = invoke(server, name, {"n": 3, "mark": "m"})
    request_id = answer["ResponseMetadata"]["RequestId"]
    wait_for(lambda: any("REPORT" in line for line in lines(server, name)), "the REPORT line")
    group = f"/aws/lambda/{name}"
    groups = client.describe_log_groups(logGroupNamePrefix=group)["logGroups"]
    account = server.client("sts").get_caller_identity()["Account"]
    assert [found["logGroupName"] for found in groups] == [group]
    assert groups[0]["arn"] == f"arn:aws:logs:us-east-1:{account}:log-group:{group}:*"
    streams = client.describe_log_streams(logGroupName=group, orderBy="LastEventTime", descending=True)["logStreams"]
    assert len(streams) == 1
    got = client.get_log_events(logGroupName=group, logStreamName=streams[0]["logStreamName"], startFromHead=True)
    first, *before, report = [event["message"] for event in got["events"]]
    assert first.startswith("INIT_START Runtime Version: python:3.") and "\tRuntime Version ARN: arn:aws:lambda:us-east-1::runtime:" in first
    assert before == [
        f"START RequestId: {request_id} Version: $LATEST\n", "line m 0\n", "line m 1\n", "line m 2\n",
        f"END RequestId: {request_id}\n",
    ]
    assert report.startswith(f"REPORT RequestId: {request_id}\tDuration: ") and report.endswith("\t\n")
    for event in got["events"]:
        assert begun <= event["timestamp"] <= event["ingestionTime"] <= time.time() * 1_000 + 1_000
    again = client.get_log_events(
        logGroupName=group, logStreamName=streams[0]["logStreamName"], nextToken=got["nextForwardToken"], startFromHead=True
    )
    assert again["events"] == [] and again["nextForwardToken"] == got["nextForwardToken"]


PYTHON_RECORDS = """
import logging
def handler(event, context):
    print('part', end='')
    try:
        raise KeyError('x')
    except KeyError:
        logging.exception('several\\nlines')
    print('more', end='')
    logging.warning('last')
    print('raw\\nlines')
    raise ValueError('multi\\nline')
"""
NODE_RECORDS = """
exports.handler = async () => {
  process.stdout.write('part');
  console.error('several\\nlines', new RangeError('x'));
  process.stdout.write('more');
  console.warn('last');
  process.stdout.write('raw\\nlines\\n');
  throw new TypeError('multi\\nline');
};
"""


@pytest.mark.modes("dev")
@pytest.mark.parametrize("form", ["Text", "JSON"])
@pytest.mark.parametrize("code,runtime,kinds", [
    (PYTHON_RECORDS, PYTHON, ("KeyError", "ValueError")), (NODE_RECORDS, NODE, ("RangeError", "TypeError")),
], ids=["python", "node"])
def test_a_record_is_one_event_and_joins_no_line(server, code, runtime, kinds, form):
    name = server.function(code, runtime=runtime, LoggingConfig={"LogFormat": form})
    invoke(server, name)
    wait_for(lambda: any("REPORT" in line or "platform.report" in line for line in lines(server, name)), "the end of the call")
    own = [line for line in lines(server, name) if not line.startswith(("INIT_START", "START", "END", "REPORT")) and '"platform.' not in line]
    part, several, more, last, first, second, failure = [line.removesuffix("\n") for line in own]
    assert [part, more, first, second] == ["part", "more", "raw", "lines"]
    if form == "JSON":
        assert json.loads(several)["message"].startswith("several\nlines") and json.loads(last)["message"] == "last"
        failure = json.loads(failure)
        assert [json.loads(several)["errorType"], failure["errorType"], failure["errorMessage"]] == [*kinds, "multi\nline"]
    else:
        assert "\tseveral\nlines" in several and several.count("\n") >= 3 and kinds[0] in several
        assert last.endswith("\tlast") and last.count("\n") == 0
        assert kinds[1] in failure and "multi" in failure


def test_filters_and_pages(server):
    name = server.function(CHATTY)
    for mark in ["one", "two"]:
        invoke(server, name, {"n": 40, "mark": mark})
    wait_for(lambda: len(lines(server, name, filterPattern="REPORT")) == 2, "both REPORT lines")
    assert lines(server, name, filterPattern="line two") == [f"line two {i}\n" for i in range(40)]
    assert lines(server, name, filterPattern='"line one 39"') == ["line one 39\n"]
    # INIT_START holds the term too.
    assert len(lines(server, name, filterPattern="?START ?END")) == 5
    assert len(lines(server, name, filterPattern="line -two")) == 40
    assert lines(server, name, filterPattern="line", PaginationConfig={"PageSize": 7}) == [
        f"line {mark} {i}\n" for mark in ["one", "two"] for i in range(40)
    ]
    assert lines(server, name, startTime=int(time.time() * 1_000) + 60_000) == []
    client = server.client("logs")
    stream = client.describe_log_streams(logGroupName=f"/aws/lambda/{name}")["logStreams"][0]["logStreamName"]
    # Backwards from the end, page by page, until the token stays the same.
    token, found = {}, []
    while True:
        page = client.get_log_events(logGroupName=f"/aws/lambda/{name}", logStreamName=stream, limit=30, **token)
        if token == {"nextToken": page["nextBackwardToken"]}:
            break
        found = [event["message"] for event in page["events"]] + found
        token = {"nextToken": page["nextBackwardToken"]}
    assert [line for line in found if line.startswith("line")] == [
        f"line {mark} {i}\n" for mark in ["one", "two"] for i in range(40)
    ]


def test_groups_page(own_server):
    client = own_server("dev").client("logs")
    names = [f"group-{index}" for index in range(7)]
    for name in names:
        client.create_log_group(logGroupName=name)
    pages = client.get_paginator("describe_log_groups").paginate(PaginationConfig={"PageSize": 3})
    assert [group["logGroupName"] for page in pages for group in page["logGroups"]] == names
    for index in range(5):
        client.create_log_stream(logGroupName=names[0], logStreamName=f"s{index}")
    pages = client.get_paginator("describe_log_streams").paginate(logGroupName=names[0], PaginationConfig={"PageSize": 2})
    assert [stream["logStreamName"] for page in pages for stream in page["logStreams"]] == [f"s{index}" for index in range(5)]


def test_own_groups(server):
    client = server.client("logs")
    group = name_of("group")
    client.create_log_group(logGroupName=group)
    assert refused(client.create_log_group, logGroupName=group)[1:] == (
        "ResourceAlreadyExistsException", "The specified log group already exists",
    )
    client.create_log_stream(logGroupName=group, logStreamName="s")
    now = int(time.time() * 1_000)
    client.put_log_events(logGroupName=group, logStreamName="s", logEvents=[{"timestamp": now, "message": "mine ü"}])
    got = client.get_log_events(logGroupName=group, logStreamName="s")["events"]
    assert [(event["timestamp"], event["message"]) for event in got] == [(now, "mine ü")]
    client.put_retention_policy(logGroupName=group, retentionInDays=7)
    assert client.describe_log_groups(logGroupNamePrefix=group)["logGroups"][0]["retentionInDays"] == 7
    client.delete_log_group(logGroupName=group)
    assert refused(client.describe_log_streams, logGroupName=group)[1:] == (
        "ResourceNotFoundException", "The specified log group does not exist.",
    )


@pytest.mark.modes("dev")
def test_a_flood_of_lines_is_kept_whole(server):
    name = server.function(CHATTY, Timeout=60)
    invoke(server, name, {"n": 20_000, "mark": "flood"})
    found = wait_for(lambda: (all_lines := lines(server, name, filterPattern="flood")) and len(all_lines) >= 20_000 and all_lines)
    assert found == [f"line flood {i}\n" for i in range(20_000)]

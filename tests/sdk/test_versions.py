"""Published versions and aliases through boto3: what is immutable, what moves, and what a call is told of itself."""

import base64
import collections
import concurrent.futures
import json
import threading
import time

import pytest
import requests

from conftest import NODE, name_of, refused, wait_for, zipped

WHO = """
import os
def handler(event, context):
    return {"answer": ANSWER, "version": os.environ["AWS_LAMBDA_FUNCTION_VERSION"], "arn": context.invoked_function_arn,
            "of_context": context.function_version, "stream": context.log_stream_name,
            "how": os.environ["AWS_LAMBDA_INITIALIZATION_TYPE"]}
"""
NODE_WHO = """
exports.handler = async (event, context) => ({answer: ANSWER, version: process.env.AWS_LAMBDA_FUNCTION_VERSION,
    arn: context.invokedFunctionArn, of_context: context.functionVersion, stream: context.logStreamName});
"""


def who(answer):
    return WHO.replace("ANSWER", str(answer))


def call(client, name, **more):
    """The answer of a call, with the version that the platform says ran."""
    got = client.invoke(FunctionName=name, **more)
    assert "FunctionError" not in got, got["Payload"].read()
    return json.load(got["Payload"]) | {"executed": got["ExecutedVersion"]}


def published(server, *answers, **changed):
    """A function whose versions 1, 2, … give these answers."""
    client = server.client("lambda")
    name = server.function(who(answers[0]), **changed)
    assert client.publish_version(FunctionName=name)["Version"] == "1"
    for number, answer in enumerate(answers[1:], 2):
        made = client.update_function_code(FunctionName=name, ZipFile=zipped({"handler.py": who(answer)}), Publish=True)
        assert made["Version"] == str(number)
    return name


def test_a_version_is_not_changed_by_what_comes_later(server):
    client = server.client("lambda")
    name = server.function(who(1), Timeout=5, Environment={"Variables": {"A_KEY": "one"}})
    before = client.get_function_configuration(FunctionName=name)
    first = client.publish_version(FunctionName=name, Description="first", CodeSha256=before["CodeSha256"],
                                   RevisionId=before["RevisionId"])
    assert first["ResponseMetadata"]["HTTPStatusCode"] == 201
    assert (first["Version"], first["Description"]) == ("1", "first")
    assert first["FunctionArn"] == before["FunctionArn"] + ":1"
    client.get_waiter("published_version_active").wait(FunctionName=name, Qualifier="1")
    assert client.publish_version(FunctionName=name)["Version"] == "1"
    client.update_function_configuration(FunctionName=name, Timeout=9, Environment={"Variables": {"A_KEY": "two"}})
    client.update_function_code(FunctionName=name, ZipFile=zipped({"handler.py": who(2)}))
    for qualified in [{"FunctionName": name, "Qualifier": "1"}, {"FunctionName": f"{name}:1"},
                      {"FunctionName": first["FunctionArn"]}]:
        got = client.get_function(**qualified)
        shown = got["Configuration"]
        assert (shown["Version"], shown["Timeout"], shown["CodeSha256"]) == ("1", 5, before["CodeSha256"])
        assert shown["Environment"] == {"Variables": {"A_KEY": "one"}}
        package = requests.get(got["Code"]["Location"], timeout=30).content
        assert package == zipped({"handler.py": who(1)})
        answer = call(client, **{("name" if key == "FunctionName" else key): value for key, value in qualified.items()})
        assert (answer["answer"], answer["executed"], answer["version"], answer["of_context"]) == (1, "1", "1", "1")
        assert answer["arn"] == first["FunctionArn"]
        assert "/[1]" in answer["stream"]
    latest = call(client, name)
    assert (latest["answer"], latest["executed"], latest["arn"]) == (2, "$LATEST", before["FunctionArn"])
    assert "/[$LATEST]" in latest["stream"]
    assert call(client, name, Qualifier="$LATEST")["arn"] == before["FunctionArn"] + ":$LATEST"


def test_node_functions_know_their_version(server):
    client = server.client("lambda")
    name = server.function(NODE_WHO.replace("ANSWER", "7"), runtime=NODE, Publish=True)
    answer = call(client, name, Qualifier="1")
    assert (answer["answer"], answer["version"], answer["of_context"], answer["executed"]) == (7, "1", "1", "1")
    assert answer["arn"].endswith(f":function:{name}:1") and "/[1]" in answer["stream"]


def test_publishing_with_the_wrong_code_or_revision(server):
    client = server.client("lambda")
    name = server.function(who(1))
    status, code, message = refused(client.publish_version, FunctionName=name, CodeSha256="eA==")
    assert (status, code) == (400, "InvalidParameterValueException")
    assert message.startswith("CodeSHA256 (eA==) is different from current CodeSHA256 in $LATEST (")
    assert refused(client.publish_version, FunctionName=name, RevisionId="old")[:2] == (
        412, "PreconditionFailedException")
    assert refused(client.publish_version, FunctionName=name, PublishTo="LATEST_PUBLISHED")[0] == 501
    assert [v["Version"] for v in client.list_versions_by_function(FunctionName=name)["Versions"]] == ["$LATEST"]


def test_versions_in_pages(server):
    client = server.client("lambda")
    name = published(server, *range(1, 6))
    pages = client.get_paginator("list_versions_by_function").paginate(
        FunctionName=name, PaginationConfig={"PageSize": 2})
    listed = [version for page in pages for version in page["Versions"]]
    assert [version["Version"] for version in listed] == ["$LATEST", "1", "2", "3", "4", "5"]
    assert [version["FunctionArn"].rsplit(":", 1)[1] for version in listed] == [v["Version"] for v in listed]
    pages = client.get_paginator("list_functions").paginate(FunctionVersion="ALL", PaginationConfig={"PageSize": 4})
    everything = [f["FunctionArn"] for page in pages for f in page["Functions"] if f["FunctionName"] == name]
    assert everything == [version["FunctionArn"] for version in listed]


def test_deleting_one_version(server):
    client = server.client("lambda")
    name = published(server, 1, 2)
    client.create_alias(FunctionName=name, Name="live", FunctionVersion="2")
    assert call(client, f"{name}:1")["answer"] == 1
    client.delete_function(FunctionName=name, Qualifier="1")
    for operation in [client.get_function, client.invoke, client.get_function_configuration]:
        status, code, message = refused(operation, FunctionName=name, Qualifier="1")
        assert (status, code) == (404, "ResourceNotFoundException")
        assert message.startswith("Function not found: ") and message.endswith(f":{name}:1")
    assert refused(client.delete_function, FunctionName=name, Qualifier="2") == (
        409, "ResourceConflictException",
        "Unable to delete version because the following aliases reference it: [live]")
    assert refused(client.delete_function, FunctionName=name, Qualifier="$LATEST")[:2] == (
        400, "InvalidParameterValueException")
    assert refused(client.get_function, FunctionName=name, Qualifier="$LATEST.PUBLISHED")[:2] == (
        404, "ResourceNotFoundException")
    assert call(client, f"{name}:live")["answer"] == 2
    client.delete_function(FunctionName=name)
    assert refused(client.invoke, FunctionName=f"{name}:live")[0] == 404


def test_an_alias_moves_without_a_lost_call(server):
    client = server.client("lambda")
    name = published(server, 1, 2)
    made = client.create_alias(FunctionName=name, Name="live", FunctionVersion="1", Description="words")
    assert made["ResponseMetadata"]["HTTPStatusCode"] == 201
    assert (made["AliasArn"].endswith(f":{name}:live"), made["FunctionVersion"]) == (True, "1")
    answer = call(client, name, Qualifier="live")
    assert (answer["answer"], answer["executed"], answer["version"]) == (1, "1", "1")
    assert answer["arn"] == made["AliasArn"]
    shown = client.get_function_configuration(FunctionName=made["AliasArn"])
    assert (shown["FunctionArn"], shown["Version"]) == (made["AliasArn"], "1")
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        calls = [threads.submit(call, client, f"{name}:live") for _ in range(40)]
        moved = client.update_alias(FunctionName=name, Name="live", FunctionVersion="2", RevisionId=made["RevisionId"])
        after = [call(client, f"{name}:live") for _ in range(5)]
        answers = {done.result()["answer"] for done in calls}
    assert answers <= {1, 2}
    assert {answer["answer"] for answer in after} == {2}, "nothing runs on the old version once it is reported done"
    assert (moved["FunctionVersion"], moved["Description"]) == ("2", "words")
    assert refused(client.update_alias, FunctionName=name, Name="live", FunctionVersion="1",
                   RevisionId=made["RevisionId"])[:2] == (412, "PreconditionFailedException")
    assert client.get_alias(FunctionName=name, Name="live")["FunctionVersion"] == "2"
    client.delete_alias(FunctionName=name, Name="live")
    assert refused(client.get_alias, FunctionName=name, Name="live") == (
        404, "ResourceNotFoundException", f"Cannot find alias arn: {made['AliasArn']}")


@pytest.mark.parametrize("moves", ["code", "alias"])
def test_under_load_nothing_old_runs_once_a_change_is_reported_done(server, moves):
    """Up to 100 calls a second while the code, or the alias, changes five times: no error, and a call that begins after a change
    was reported done runs what it changed to. A call that takes long, as those do that start an environment, holds back those of
    its thread; how many there were in a second is said, and that there was load is asserted."""
    client = server.client("lambda")
    name = published(server, *range(1, 7)) if moves == "alias" else server.function(who(1))
    target = f"{name}:live" if moves == "alias" else name
    if moves == "alias":
        client.create_alias(FunctionName=name, Name="live", FunctionVersion="1")
    newest, calls, stop = [1], [], threading.Event()

    def caller(number):
        due = time.monotonic() + number / 100
        while not stop.is_set():
            time.sleep(max(0, due - time.monotonic()))
            due += 8 / 100
            known = newest[0]
            calls.append((known, call(client, target)["answer"]))

    began = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        callers = [threads.submit(caller, number) for number in range(8)]
        try:
            for change in range(2, 7):
                before = len(calls)
                wait_for(lambda: len(calls) >= before + 40 or any(done.done() for done in callers), "calls before the change")
                if moves == "alias":
                    client.update_alias(FunctionName=name, Name="live", FunctionVersion=str(change))
                else:
                    client.update_function_code(FunctionName=name, ZipFile=zipped({"handler.py": who(change)}))
                    client.get_waiter("function_updated_v2").wait(FunctionName=name, WaiterConfig={"Delay": 0.02})
                newest[0] = change
            before = len(calls)
            wait_for(lambda: len(calls) >= before + 40 or any(done.done() for done in callers), "calls after the last change")
        finally:
            stop.set()
        for done in callers:
            done.result()
    rate = len(calls) / (time.monotonic() - began)
    print(f"{len(calls)} calls, {rate:.0f} in a second")
    # A tenth of what is scheduled: a machine that is busy with all other tests still calls while things change.
    assert rate >= 10, f"only {rate:.1f} calls a second are no load"
    old = [(known, answer) for known, answer in calls if answer < known]
    assert not old, f"{len(old)} of {len(calls)} calls ran what was replaced before they began: {old[:5]}"
    assert {answer for _, answer in calls} == set(range(1, 7))


def test_weights_share_the_calls(server):
    client = server.client("lambda")
    name = published(server, 1, 2)
    routing = {"AdditionalVersionWeights": {"2": 0.5}}
    made = client.create_alias(FunctionName=name, Name="canary", FunctionVersion="1", RoutingConfig=routing)
    assert made["RoutingConfig"] == routing
    count = collections.Counter()
    for _ in range(60):
        answer = call(client, f"{name}:canary")
        assert str(answer["answer"]) == answer["executed"] == answer["version"]
        count[answer["executed"]] += 1
    # Of sixty calls at one half, fewer than ten or more than fifty come once in a hundred million runs.
    assert 10 <= count["2"] <= 50, count
    client.update_alias(FunctionName=name, Name="canary", RoutingConfig={"AdditionalVersionWeights": {}})
    assert "RoutingConfig" not in client.get_alias(FunctionName=name, Name="canary")
    assert {call(client, f"{name}:canary")["executed"] for _ in range(10)} == {"1"}


@pytest.mark.parametrize(
    ("arguments", "status", "code", "words"),
    [
        ({"Name": "7"}, 400, "ValidationException", "at 'name' failed to satisfy constraint"),
        ({"Name": "a b"}, 400, "ValidationException", "at 'name' failed to satisfy constraint"),
        ({"FunctionVersion": "9"}, 404, "ResourceNotFoundException", ":9"),
        ({"FunctionVersion": "live"}, 400, "ValidationException", "at 'functionVersion' failed to satisfy constraint"),
        ({"RoutingConfig": {"AdditionalVersionWeights": {"1": 0.1}}}, 400, "InvalidParameterValueException",
         "Function version 1 is already included in routing configuration."),
        ({"RoutingConfig": {"AdditionalVersionWeights": {"2": 1.1}}}, 400, "ValidationException",
         "less than or equal to 1"),
        ({"FunctionVersion": "$LATEST", "RoutingConfig": {"AdditionalVersionWeights": {"2": 0.1}}}, 400,
         "InvalidParameterValueException", "$LATEST is not supported for an alias pointing to more than 1 version"),
    ],
)
@pytest.mark.modes("dev")
def test_refused_aliases(server, arguments, status, code, words):
    client = server.client("lambda")
    name = published(server, 1, 2)
    got = refused(client.create_alias, **({"FunctionName": name, "Name": "a", "FunctionVersion": "1"} | arguments))
    assert got[:2] == (status, code), got
    assert words in got[2], got
    assert client.list_aliases(FunctionName=name)["Aliases"] == []


def test_aliases_in_pages(server):
    client = server.client("lambda")
    name = published(server, 1, 2)
    for number in range(5):
        client.create_alias(FunctionName=name, Name=f"a{number}", FunctionVersion=str(number % 2 + 1))
    paginator = client.get_paginator("list_aliases")
    pages = paginator.paginate(FunctionName=name, PaginationConfig={"PageSize": 2})
    assert [alias["Name"] for page in pages for alias in page["Aliases"]] == ["a0", "a1", "a2", "a3", "a4"]
    pages = paginator.paginate(FunctionName=name, FunctionVersion="2")
    assert [alias["Name"] for page in pages for alias in page["Aliases"]] == ["a1", "a3"]


def test_a_url_of_an_alias(server):
    client = server.client("lambda")
    name = published(server, 1, 2)
    assert refused(client.create_function_url_config, FunctionName=name, Qualifier="live", AuthType="NONE")[0] == 404
    client.create_alias(FunctionName=name, Name="live", FunctionVersion="1")
    url = server.function_url(name, Qualifier="live")
    arn = client.get_function_url_config(FunctionName=name, Qualifier="live")["FunctionArn"]
    assert arn.endswith(f":{name}:live")
    answer = requests.get(url, timeout=30).json()
    assert (answer["answer"], answer["arn"]) == (1, arn)
    client.update_alias(FunctionName=name, Name="live", FunctionVersion="2")
    assert requests.get(url, timeout=30).json()["answer"] == 2
    client.delete_alias(FunctionName=name, Name="live")
    assert requests.get(url, timeout=30).status_code == 403


def test_policies_are_of_a_qualifier(server):
    client = server.client("lambda")
    name = published(server, 1)
    client.create_alias(FunctionName=name, Name="live", FunctionVersion="1")
    for qualifier in ["1", "live"]:
        client.add_permission(FunctionName=name, Qualifier=qualifier, StatementId=f"s-{qualifier}",
                              Action="lambda:InvokeFunction", Principal="events.amazonaws.com")
        policy = json.loads(client.get_policy(FunctionName=f"{name}:{qualifier}")["Policy"])
        assert [statement["Sid"] for statement in policy["Statement"]] == [f"s-{qualifier}"]
        assert policy["Statement"][0]["Resource"].endswith(f":{name}:{qualifier}")
    assert refused(client.get_policy, FunctionName=name)[0] == 404
    assert refused(client.add_permission, FunctionName=name, Qualifier="none", StatementId="s",
                   Action="lambda:InvokeFunction", Principal="*")[2].startswith("Cannot find alias arn: ")
    client.remove_permission(FunctionName=name, Qualifier="live", StatementId="s-live")
    assert refused(client.get_policy, FunctionName=name, Qualifier="live")[0] == 404


def test_events_to_an_alias_run_and_are_logged_under_their_version(server):
    client, logs = server.client("lambda"), server.client("logs")
    name = server.function("def handler(event, context):\n    print('heard', event['word'])\n")
    client.publish_version(FunctionName=name)
    client.create_alias(FunctionName=name, Name="live", FunctionVersion="1")
    word = name_of("word")
    accepted = client.invoke(FunctionName=name, Qualifier="live", InvocationType="Event",
                             Payload=json.dumps({"word": word}))
    assert accepted["StatusCode"] == 202
    assert refused(client.invoke, FunctionName=name, Qualifier="none", InvocationType="Event", Payload="{}")[0] == 404

    def heard():
        found = logs.filter_log_events(logGroupName=f"/aws/lambda/{name}", filterPattern=f'"{word}"')["events"]
        return [event["logStreamName"] for event in found]

    def there():
        try:
            return heard()
        except logs.exceptions.ResourceNotFoundException:
            return []

    streams = wait_for(there, "the event's line in the log")
    assert "/[1]" in streams[0]


def test_dry_runs_and_tails_of_a_version(server):
    client = server.client("lambda")
    name = published(server, 1)
    assert client.invoke(FunctionName=name, Qualifier="1", InvocationType="DryRun")["StatusCode"] == 204
    assert refused(client.invoke, FunctionName=name, Qualifier="2", InvocationType="DryRun")[0] == 404
    got = client.invoke(FunctionName=name, Qualifier="1", LogType="Tail")
    assert "Version: 1\n" in base64.b64decode(got["LogResult"]).decode()


def test_versions_outlive_a_restart(own_server):
    server = own_server("dev")
    client = server.client("lambda")
    name = published(server, 1, 2)
    client.create_alias(FunctionName=name, Name="live", FunctionVersion="1",
                        RoutingConfig={"AdditionalVersionWeights": {"2": 1.0}})
    server.stop()
    server.start()
    client = server.client("lambda")
    assert [call(client, f"{name}:{number}")["answer"] for number in (1, 2)] == [1, 2]
    assert call(client, f"{name}:live")["executed"] == "2"

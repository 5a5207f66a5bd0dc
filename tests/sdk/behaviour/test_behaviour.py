"""What holds for functions of every runtime, as boto3 sees it. `tests/sdk/behaviour/__init__.py` says how it is made."""

import base64
import concurrent.futures
import itertools
import json
import math
import re
import time

import pytest
import requests

from conftest import refused, wait_for
from test_invoke import tail

from . import MINE, Probe
from .differences import DIFFERENCES, has
from .table import RUNTIMES

MOST = 6_291_456
MOST_ANSWERED = 6_291_556
REPORT = (
    r"REPORT RequestId: {id}\tDuration: ([0-9.]+) ms\tBilled Duration: ([0-9]+) ms\tMemory Size: ([0-9]+) MB\t"
    r"Max Memory Used: ([0-9]+) MB\t"
)


def pytest_generate_tests(metafunc):
    """Each check with every runtime that has what it needs; those of one runtime stay with one worker."""
    if "probe" in metafunc.fixturenames:
        needed = [what for marker in metafunc.definition.iter_markers("needs") for what in marker.args]
        params = [
            pytest.param(runtime, id=runtime.name, marks=pytest.mark.xdist_group("java" if runtime.server == "java" else f"behaviour-{runtime.name}"))
            for runtime in RUNTIMES if has(runtime, *needed)
        ]
        metafunc.parametrize("probe", params, indirect=True)


@pytest.fixture(scope="session")
def probes():
    """The functions of each runtime, which all of its checks share."""
    found = {}
    yield found
    for probe in found.values():
        probe.close()


@pytest.fixture
def probe(request, probes):
    """The functions of a runtime."""
    runtime = request.param
    reason = runtime.missing()
    if reason:
        pytest.skip(reason)
    if runtime.name not in probes:
        probes[runtime.name] = Probe(runtime, request.getfixturevalue(runtime.server))
    return probes[runtime.name]


def report(answer):
    """Duration, billed, memory size and memory used of the REPORT line that came with an answer; then what follows."""
    text = tail(answer)
    found = re.search(REPORT.format(id=answer["ResponseMetadata"]["RequestId"]) + "(.*)\n", text)
    assert found, text
    return *(float(number) for number in found.groups()[:4]), found.group(5)


def failed(answer, kind, message):
    """An error of the platform's own making."""
    assert (answer["StatusCode"], answer.get("FunctionError")) == (200, "Unhandled"), answer["body"]
    request_id = answer["ResponseMetadata"]["RequestId"]
    assert answer["json"] == {"errorType": kind, "errorMessage": f"RequestId: {request_id} Error: {message}"}


def test_differences_are_documented():
    names = {runtime.name for runtime in RUNTIMES}
    for what, found in DIFFERENCES.items():
        for name, (reason, where) in found.items():
            assert name in names and reason and where, (what, name)


@pytest.mark.parametrize(
    "value",
    [{"a": [1, 2.5, None, True, {"b": [0]}]}, [], [1, "two"], "text", "", 7, -0.5, True, None, 9_007_199_254_740_991],
    ids=lambda value: json.dumps(value)[:12],
)
def test_values_pass_as_they_are(probe, value):
    answer = probe.call(value)
    assert "FunctionError" not in answer, answer["json"]
    assert (answer["StatusCode"], answer["ExecutedVersion"]) == (200, "$LATEST")
    assert answer["json"] == value


@pytest.mark.needs("empty objects")
def test_objects_without_members(probe):
    for value in ({}, {"a": [{}], "b": {}}):
        assert probe.call(value)["json"] == value


@pytest.mark.needs("empty objects")
def test_no_payload_is_an_empty_object(probe):
    answer = probe.lambdas.invoke(FunctionName=probe.function())
    assert json.loads(answer["Payload"].read()) == {}


@pytest.mark.parametrize(
    "text",
    ["ü☃", "🐦𝄞👩‍🚀", "e\u0301\u2028\u2029\ufeff", "\0\x01\x1f\x7f", "\"\\/\b\f\n\r\t", "\ufffd\uffff\U0010ffff"],
    ids=["plane-0", "astral", "marks", "controls", "escapes", "ends"],
)
def test_unicode(probe, text):
    for ascii_only in (True, False):
        payload = json.dumps({"text": text, text: 1}, ensure_ascii=ascii_only).encode()
        answer = probe.lambdas.invoke(FunctionName=probe.function(), Payload=payload)
        assert json.loads(answer["Payload"].read()) == {"text": text, text: 1}


@pytest.mark.needs("half surrogates")
def test_half_a_pair_of_surrogates(probe):
    answer = probe.lambdas.invoke(FunctionName=probe.function(), Payload=b'"\\ud800"')
    content = answer["Payload"].read()
    assert "FunctionError" not in answer, content
    assert content == probe.runtime.surrogate


def test_bytes_through_a_url(probe):
    url = probe.server.function_url(probe.function())
    sent = bytes(range(256)) * 40
    answer = requests.post(url, data=sent, headers={"content-type": "application/octet-stream"}, timeout=30)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/octet-stream")
    assert answer.content == sent


def test_sizes_of_events(probe):
    frame = len('{"text": ""}')
    text = "x" * (MOST - frame)
    assert probe.call({"text": text})["json"] == {"text": text}
    payload = json.dumps({"text": text + "x"}).encode()
    status, code, message = refused(probe.lambdas.invoke, FunctionName=probe.function(), Payload=payload)
    assert (status, code) == (413, "RequestEntityTooLargeException")
    assert message == f"{MOST + 1} byte payload is too large for the RequestResponse invocation type (limit {MOST} bytes)"


def test_sizes_of_answers(probe):
    answer = probe.call({"do": "large", "bytes": MOST_ANSWERED - 2})
    assert "FunctionError" not in answer and len(answer["body"]) == MOST_ANSWERED
    answer = probe.call({"do": "large", "bytes": MOST_ANSWERED - 1}, LogType="Tail")
    assert answer["FunctionError"] == "Unhandled"
    assert answer["json"] == {
        "errorType": "Function.ResponseSizeTooLarge",
        "errorMessage": f"Response payload size exceeded maximum allowed payload size ({MOST_ANSWERED} bytes).",
    }
    assert probe.ask("large", bytes=3) == "xxx"


def test_variables(probe):
    runtime, name = probe.runtime, probe.function()
    found = probe.ask("environment")
    expected = {
        **MINE, "_HANDLER": runtime.told_handler, "AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EXECUTION_ENV": runtime.execution_env, "AWS_LAMBDA_FUNCTION_NAME": name, "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(runtime.memory), "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
        "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{name}", "LAMBDA_TASK_ROOT": "/var/task", "LAMBDA_RUNTIME_DIR": "/var/runtime",
        "TZ": ":UTC", "LANG": "en_US.UTF-8", "AWS_XRAY_CONTEXT_MISSING": "LOG_ERROR", "AWS_XRAY_DAEMON_ADDRESS": "169.254.79.129:2000",
        "AWS_LAMBDA_LOG_FORMAT": "Text",
    }
    assert {key: found.get(key) for key in expected} == expected
    assert re.fullmatch(r"\d{4}/\d\d/\d\d/\[\$LATEST\][0-9a-f]{32}", found["AWS_LAMBDA_LOG_STREAM_NAME"])
    assert found["AWS_ACCESS_KEY_ID"] and found["AWS_SECRET_ACCESS_KEY"] and found["AWS_SESSION_TOKEN"]
    assert found["AWS_SECRET_ACCESS_KEY"] != probe.server.secret_key
    assert "PROBE_INIT" not in found and not [key for key in set(found) - set(runtime.variables) if "DUNLIN" in key], found


def test_files(probe):
    found = probe.ask("files")
    assert (found["folder"], found["refused"], found["data"]) == (probe.runtime.folder, True, "of the package")
    assert found["notes"] >= 1


def test_the_context(probe):
    name = probe.function()
    version = probe.lambdas.publish_version(FunctionName=name)["Version"]
    probe.lambdas.create_alias(FunctionName=name, Name=f"alias-{version}", FunctionVersion=version)
    arn = probe.lambdas.get_function(FunctionName=name)["Configuration"]["FunctionArn"]
    custom = base64.b64encode(json.dumps({"custom": {"k": "v"}, "client": {}, "env": {}}).encode()).decode()
    for qualifier, more in [(None, {}), (f"alias-{version}", {"ClientContext": custom})]:
        arguments = {"Qualifier": qualifier} if qualifier else {}
        answer = probe.call({"do": "context"}, **arguments, **more)
        assert "FunctionError" not in answer, answer["json"]
        found, shown = answer["json"], version if qualifier else "$LATEST"
        assert answer["ExecutedVersion"] == shown
        expected = {
            "id": answer["ResponseMetadata"]["RequestId"], "name": name, "version": shown, "memory": str(probe.runtime.memory),
            "arn": f"{arn}:{qualifier}" if qualifier else arn, "group": f"/aws/lambda/{name}", "client": {"k": "v"} if more and has(probe.runtime, "client context") else None,
        }
        assert {key: found.get(key) for key in expected} == expected
        assert re.fullmatch(rf"\d{{4}}/\d\d/\d\d/\[{re.escape(shown)}\][0-9a-f]{{32}}", found["stream"])
        assert 10_000 < found["left"] <= 20_000


def test_the_log_of_a_call(probe):
    lines = ["one", "two words", "ü☃🐦"]
    answer = probe.call({"do": "print", "lines": lines}, LogType="Tail")
    assert answer["json"] is None and "FunctionError" not in answer
    text, request_id = tail(answer), answer["ResponseMetadata"]["RequestId"]
    begin, end = f"START RequestId: {request_id} Version: $LATEST\n", f"END RequestId: {request_id}\n"
    said = text[text.index(begin) + len(begin):text.index(end)]
    assert [line for line in said.splitlines() if line in lines] == lines, text
    assert "to stderr\n" in said
    duration, billed, memory, used, rest = report(answer)
    assert (memory, 1 <= used <= memory) == (probe.runtime.memory, True)
    assert billed >= duration and "Status" not in rest
    assert "LogResult" not in probe.call({"do": "count"})


def test_an_event_runs_once_and_is_logged(probe):
    name = probe.function()
    answer = probe.call({"do": "print", "lines": ["marked-17"]}, InvocationType="Event")
    assert (answer["StatusCode"], answer["body"]) == (202, b"")
    request_id = answer["ResponseMetadata"]["RequestId"]
    logs = probe.server.client("logs")

    def found(pattern):
        events = logs.filter_log_events(logGroupName=f"/aws/lambda/{name}", filterPattern=f'"{pattern}"')["events"]
        return [event["message"] for event in events]

    wait_for(lambda: found(f"REPORT RequestId: {request_id}"), "the event's report")
    assert found("marked-17") == ["marked-17\n"]


def test_a_log_in_json(probe):
    probe.function("json")
    answer = probe.call({"do": "print", "lines": ["plain"]}, "json", LogType="Tail")
    assert "FunctionError" not in answer, answer["json"]
    lines = tail(answer).splitlines()
    records = [json.loads(line) for line in lines if line.startswith("{") and '"platform.' in line]
    assert [record["type"] for record in records] == ["platform.initStart", "platform.start", "platform.report"], lines
    ended = records[-1]["record"]
    assert (ended["requestId"], ended["status"]) == (answer["ResponseMetadata"]["RequestId"], "success")
    assert ended["metrics"]["memorySizeMB"] == probe.runtime.memory and ended["metrics"]["initDurationMs"] > 0
    assert "plain" in lines, "what a program writes is not made JSON of"


@pytest.mark.needs("state")
def test_cold_and_warm(probe):
    def started():
        # One that was started ahead of the call, as where others come quickly, is told of no init.
        probe.renew()
        answer = probe.call({"do": "count"}, LogType="Tail")
        assert answer["json"]["calls"] == 1
        return "Init Duration" in report(answer)[-1] and answer

    cold = wait_for(started, "an environment that a call waits for")
    duration, billed, *_, rest = report(cold)
    init = re.match(r"Init Duration: ([0-9.]+) ms\t", rest)
    assert init, rest
    both = duration + float(init.group(1))
    # Each of the two is rounded for itself.
    assert -(-round(both - 0.01, 2) // 1) <= billed <= -(-round(both + 0.01, 2) // 1), rest
    seen = {cold["json"]["who"]: 1}

    def warm():
        # A call may get a new environment while the last one is still busy with its end.
        answer = probe.call({"do": "count"}, LogType="Tail")
        who, calls = answer["json"]["who"], answer["json"]["calls"]
        assert calls == seen.get(who, 0) + 1, "an environment counts its own calls"
        seen[who] = calls
        return calls > 1 and answer

    duration, billed, *_, rest = report(wait_for(warm, "an environment that is used again"))
    assert "Init Duration" not in rest and billed == -(-duration // 1)
    probe.renew()
    fresh = probe.ask("count")
    assert fresh["calls"] == 1 and fresh["who"] not in seen


def test_a_folder_for_files_that_lasts(probe):
    probe.renew()
    seen, named = {}, has(probe.runtime, "state")

    def again():
        found = probe.ask("files")
        who, notes = found["who"], found["notes"]
        assert not named or notes == seen.get(who, 0) + 1, "an environment keeps its /tmp and has it for itself"
        seen[who] = notes
        return notes > 2

    wait_for(again, "an environment that is used for the third time")


def at(answer):
    """The environment that a call was in, by its log."""
    return re.search(r"^at (\S+)$", tail(answer), re.MULTILINE).group(1)


def test_errors_of_the_function(probe):
    answer = probe.call({"do": "raise", "message": "as asked ü☃🐦"}, LogType="Tail")
    assert (answer["StatusCode"], answer["FunctionError"]) == (200, "Unhandled")
    document, runtime = answer["json"], probe.runtime
    expected = runtime.error("as asked ü☃🐦", answer["ResponseMetadata"]["RequestId"])
    if runtime.trace:
        trace = document.pop(runtime.trace)
        assert trace and all(isinstance(line, str) for line in trace)
    assert document == expected
    report(answer)
    if has(runtime, "state", "alone"):
        # An environment may go for a reason of its own meanwhile; what errors end would be gone each time.
        raises = itertools.chain([answer], (probe.call({"do": "raise", "message": "again"}, LogType="Tail") for _ in range(2)))
        assert any(probe.finds(at(raised)) for raised in raises), "an error of the handler ends no environment"


def ends(probe, event, message):
    """A call whose process ends, and with it its environment."""
    answer = probe.call(event, LogType="Tail")
    failed(answer, "Runtime.ExitError", message)
    assert "Status: error\tError Type: Runtime.ExitError" in report(answer)[-1], tail(answer)
    assert at(answer) not in probe.here()


def test_a_process_that_exits(probe):
    ends(probe, {"do": "exit", "code": 3}, f"Runtime exited with error: exit status {probe.runtime.exit_status}")


@pytest.mark.needs("exit 0")
def test_a_process_that_exits_without_a_reason(probe):
    ends(probe, {"do": "exit", "code": 0}, "Runtime exited without providing a reason")


@pytest.mark.needs("signals")
def test_a_process_that_is_killed(probe):
    ends(probe, {"do": "signal", "number": 9}, "Runtime exited with error: signal: killed")


def test_time_that_ends(probe):
    probe.ask("count", "short")
    began = time.monotonic()
    answer = probe.call(probe.runtime.busy, "short", LogType="Tail")
    assert 0.9 < time.monotonic() - began < 4
    failed(answer, "Sandbox.Timedout", "Task timed out after 1.00 seconds")
    assert f"{answer['ResponseMetadata']['RequestId']} Task timed out after 1.00 seconds" in tail(answer)
    duration, billed, _, _, rest = report(answer)
    # A runtime that has answered but not asked for its next call is busy: another environment may have been quicker.
    init = re.search(r"Init Duration: ([\d.]+) ms", rest)
    expected = 1000 if init is None else math.ceil(1000 + float(init.group(1)))
    assert (duration, billed) == (1000, expected) and "Status: timeout" in rest, rest
    if has(probe.runtime, "alone"):
        assert at(answer) not in probe.here("short")


def test_memory_that_ends(probe):
    kind, message = probe.runtime.out_of_memory
    answer = probe.call({"do": "allocate"}, LogType="Tail")
    assert (answer["FunctionError"], answer["json"]["errorType"]) == ("Unhandled", kind), answer["json"]
    assert answer["json"]["errorMessage"].endswith(message), answer["json"]
    if kind == "Runtime.ExitError":
        *_, used, rest = report(answer)
        assert "Status: error\tError Type: Runtime.OutOfMemory" in rest, rest
        assert probe.runtime.memory * 0.9 < used <= probe.runtime.memory
    assert at(answer) not in probe.here()


@pytest.mark.needs("alone")
def test_calls_at_once_have_environments_of_their_own(probe):
    began = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        used = [answer["who"] for answer in pool.map(lambda _: probe.ask("sleep", "many", ms=1_000), range(4))]
    most = max(used.count(who) for who in used)
    # Where a start takes longer than a call, one environment may have had several, one after the other.
    assert len(set(used)) > 1 and time.monotonic() - began >= most, used


def test_many_calls_in_a_row_share_nothing(probe):
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        assert list(pool.map(lambda number: probe.call({"n": number}, "many")["json"], range(30))) == [{"n": number} for number in range(30)]


def initialised(probe, case, kind, message):
    """Two calls of a function whose initialisation fails, each of which tries it anew, and again in its own time."""
    for _ in range(2):
        answer = probe.call({"do": "count"}, case, LogType="Tail")
        assert answer["FunctionError"] == "Unhandled", answer["json"]
        assert answer["json"]["errorType"] == kind, answer["json"]
        assert message in answer["json"]["errorMessage"], answer["json"]
    found = probe.server.client("logs").filter_log_events(logGroupName=f"/aws/lambda/{probe.function(case)}", filterPattern="INIT_REPORT")
    lines = [event["message"] for event in found["events"]]
    if has(probe.runtime, "alone"):
        phases = [re.search(r"\tPhase: (\w+)\t", line).group(1) for line in lines]
        assert phases.count("invoke") == 2 and phases.count("init") >= 2, lines
    return lines


@pytest.mark.needs("init")
def test_an_init_that_raises(probe):
    runtime = probe.runtime
    words = "exit status" if runtime.init_error_type == "Runtime.ExitError" else "at the start"
    lines = initialised(probe, "raise", runtime.init_error_type, words)
    assert any(re.search(r"Init Duration: [0-9.]+ ms\tPhase: (init|invoke)\tStatus: error\tError Type: \S+", line) for line in lines), lines


@pytest.mark.needs("init")
def test_an_init_that_exits(probe):
    lines = initialised(probe, "exit", "Runtime.ExitError", "Error: Runtime exited with error: exit status 5")
    assert any("\tStatus: error\tError Type: Runtime.ExitError" in line for line in lines), lines


@pytest.mark.needs("init")
def test_an_init_that_does_not_end(probe):
    answer = probe.hanging.result()
    assert (answer["StatusCode"], answer["FunctionError"], answer["json"]["errorType"]) == (200, "Unhandled", "Sandbox.Timedout")
    assert answer["json"]["errorMessage"].startswith(f"RequestId: {answer['ResponseMetadata']['RequestId']} Error: {probe.runtime.init_hangs}")


@pytest.mark.needs("entry point")
def test_an_entry_point_that_is_not_there(probe):
    name, kind, words = probe.runtime.lost(probe.server)
    probe.names["lost"] = name
    for _ in range(2):
        answer = probe.call({}, "lost")
        assert (answer["FunctionError"], answer["json"]["errorType"]) == ("Unhandled", kind), answer["json"]
        assert words in answer["json"]["errorMessage"], answer["json"]


def stream(probe, event, case):
    """The pieces of a streamed answer with the times at which they came, and its end."""
    answer = probe.lambdas.invoke_with_response_stream(FunctionName=probe.function(case), Payload=json.dumps(event))
    assert answer["StatusCode"] == 200
    pieces, end = [], None
    for part in answer["EventStream"]:
        if "PayloadChunk" in part:
            pieces.append((time.monotonic(), part["PayloadChunk"]["Payload"]))
        else:
            end = part["InvokeComplete"]
    return pieces, end


def test_an_answer_at_once_as_a_stream(probe):
    pieces, end = stream(probe, {"a": "ü"}, "usual")
    assert json.loads(b"".join(piece for _, piece in pieces)) == {"a": "ü"}
    assert "ErrorCode" not in end


@pytest.mark.needs("streams")
def test_a_stream_comes_in_pieces(probe):
    pieces, end = stream(probe, probe.runtime.stream_event(600), "stream")
    content = b"".join(piece for _, piece in pieces)
    # A web server's answer has a status and headers before it.
    assert content.split(b"\0" * 8)[-1] == b"first last"
    assert pieces[-1][0] - pieces[0][0] > 0.3, pieces
    assert "ErrorCode" not in end
    # One that takes no stream gets all of it at the end.
    assert probe.runtime.streamed_whole(probe.call(probe.runtime.stream_event(1), "stream")) == "first last"

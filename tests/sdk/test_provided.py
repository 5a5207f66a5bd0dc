"""Functions that bring their own runtime and speak the HTTP Runtime API, beyond what the suite of all runtimes checks."""

import shutil
import textwrap
import time

import pytest

from behaviour.custom import Go
from conftest import wait_for
from test_invoke import invoke, tail
from test_logs import lines

RUNTIME = "provided.al2023"
PROGRAM = 0o755
NO_BOOTSTRAP = "Couldn't find valid bootstrap(s): [/var/task/bootstrap /opt/bootstrap]"


def provided(server, bootstrap, **settings):
    """A function with this bootstrap, and a way to call it."""
    files = {"bootstrap": (bootstrap, PROGRAM)}
    name = server.function(files, runtime=RUNTIME, handler="some.handler", **settings)
    return lambda payload=None, **arguments: invoke(server, name, payload, **arguments)


PYTHON_BOOTSTRAP = textwrap.dedent(
    """\
    #!/usr/bin/env python3
    import json, os, sys, time, urllib.request
    BASE = 'http://' + os.environ['AWS_LAMBDA_RUNTIME_API'] + '/2018-06-01/runtime/'
    def post(path, body, **headers):
        request = urllib.request.Request(BASE + path, body, {k.replace('_', '-'): v for k, v in headers.items()})
        return urllib.request.urlopen(request).status
    if os.environ.get('FAIL_INIT'):
        body = json.dumps({'errorMessage': 'not today', 'errorType': 'Own.InitError', 'stackTrace': []}).encode()
        post('init/error', body, Lambda_Runtime_Function_Error_Type='Runtime.Own')
        sys.exit(1)
    print('loaded', flush=True)
    while True:
        with urllib.request.urlopen(BASE + 'invocation/next') as answer:
            headers, event = answer.headers, json.load(answer)
        request_id = headers['Lambda-Runtime-Aws-Request-Id']
        print('called', flush=True)
        if event.get('fail'):
            body = json.dumps({'errorMessage': 'as asked', 'errorType': 'Own.Error', 'stackTrace': ['a', 'b']}).encode()
            post(f'invocation/{request_id}/error', body, Lambda_Runtime_Function_Error_Type='Function.Own')
            continue
        if event.get('exit'):
            sys.exit(7)
        answer = {'headers': {k.lower(): v for k, v in headers.items()}, 'event': event, 'env': dict(os.environ),
                  'cwd': os.getcwd()}
        post(f'invocation/{request_id}/response', json.dumps(answer).encode())
        if 'after' in event:
            print('after the answer', flush=True)
            time.sleep(event['after'])
            print('still after it', flush=True)
        if 'exit_after' in event:
            sys.exit(event['exit_after'])
    """
)


def test_runtime_api(server):
    call = provided(server, PYTHON_BOOTSTRAP, Timeout=9, Environment={"Variables": {"MINE": "1"}})
    answer = call({"a": "ü"}, LogType="Tail")
    assert "FunctionError" not in answer, answer["json"]
    got = answer["json"]
    headers = got["headers"]
    assert got["event"] == {"a": "ü"}
    assert headers["lambda-runtime-aws-request-id"] == answer["ResponseMetadata"]["RequestId"]
    assert int(headers["lambda-runtime-deadline-ms"]) > 1_600_000_000_000
    assert headers["lambda-runtime-invoked-function-arn"].startswith("arn:aws:lambda:us-east-1:")
    assert headers["content-type"] == "application/json"
    env = got["env"]
    assert (env["_HANDLER"], env["MINE"], env["LAMBDA_TASK_ROOT"]) == ("some.handler", "1", "/var/task")
    assert "AWS_EXECUTION_ENV" not in env
    assert got["cwd"] == "/var/task"
    assert "loaded\n" in tail(answer) and "called\n" in tail(answer)
    answer = call({"fail": 1})
    assert answer["FunctionError"] == "Unhandled"
    assert answer["json"] == {"errorMessage": "as asked", "errorType": "Own.Error", "stackTrace": ["a", "b"]}
    answer = call({"exit": 1})
    assert answer["json"]["errorType"] == "Runtime.ExitError"
    assert answer["json"]["errorMessage"].endswith("Error: Runtime exited with error: exit status 7")
    assert call({"again": 1})["json"]["event"] == {"again": 1}


def test_work_after_the_answer_belongs_to_the_call(server):
    """A call is over when the runtime asks for the next one; its caller has the answer before."""
    name = server.function({"bootstrap": (PYTHON_BOOTSTRAP, PROGRAM)}, runtime=RUNTIME, handler="x", Timeout=3)
    invoke(server, name, {})

    def reported(event):
        """What the log has of a call, between START and REPORT."""
        began = time.monotonic()
        answer = invoke(server, name, event)
        took = time.monotonic() - began
        assert answer["json"]["event"] == event, answer["json"]
        request_id = answer["ResponseMetadata"]["RequestId"]

        def found():
            # Another environment may begin meanwhile.
            log = [line for line in lines(server, name) if not line.startswith(("INIT_START", "loaded"))]
            ends = [at for at, line in enumerate(log) if line.startswith(f"REPORT RequestId: {request_id}")]
            begins = [at for at, line in enumerate(log) if line.startswith(f"START RequestId: {request_id}")]
            return [line.rstrip("\n") for line in log[begins[0]:ends[0] + 1]] if ends else None

        return took, wait_for(found, f"the report of {request_id}")

    took, log = reported({"after": 1})
    assert took < 0.9, "the answer waited"
    assert log[1:4] == ["called", "after the answer", "still after it"] and log[4].startswith("END ")
    assert 1_000 <= float(log[-1].split("Duration: ")[1].split(" ms")[0]) < 3_000 and "Status" not in log[-1]
    took, log = reported({"after": 6})
    assert took < 2.9, "the answer waited"
    assert "after the answer" in log and "still after it" not in log
    assert any(line.endswith("Task timed out after 3.00 seconds") for line in log) and log[-1].endswith("Status: timeout")
    _, log = reported({"exit_after": 3})
    assert any("Runtime exited with error: exit status 3" in line for line in log)
    assert log[-1].endswith("Status: error\tError Type: Runtime.ExitError")
    answer = invoke(server, name, {"after": 0.5}, LogType="Tail")
    assert "still after it\n" in tail(answer) and "REPORT RequestId" in tail(answer), "a tail ends with the report"


@pytest.mark.modes("dev")
def test_who_has_its_answer_may_call_again(server):
    name = server.function({"bootstrap": (PYTHON_BOOTSTRAP, PROGRAM)}, runtime=RUNTIME, handler="some.handler", Timeout=9)
    client = server.client("lambda")
    client.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=1)
    for _ in range(3):
        assert "FunctionError" not in invoke(server, name, {"after": 0.5})
    began = time.monotonic()
    invoke(server, name, {})
    assert time.monotonic() - began > 0.2, "the one place was not free yet"


@pytest.mark.modes("dev")
def test_a_failed_initialisation(server):
    call = provided(server, PYTHON_BOOTSTRAP, Environment={"Variables": {"FAIL_INIT": "1"}})
    answer = call({})
    assert answer["FunctionError"] == "Unhandled"
    assert (answer["json"]["errorType"], answer["json"]["errorMessage"]) == ("Own.InitError", "not today")
    answer = call({}, LogType="Tail")
    assert "Status: error\tError Type: Runtime.Own\n" in tail(answer), "the type that is said beside the document"


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"other": "x"}, NO_BOOTSTRAP),
        ({"bootstrap/other": "x"}, NO_BOOTSTRAP),
        ({"bootstrap": ("#!/bin/sh\n", 0o644)}, "fork/exec /var/task/bootstrap: permission denied"),
        ({"bootstrap": ("\x7fELFnot", PROGRAM)}, "fork/exec /var/task/bootstrap: exec format error"),
        ({"bootstrap": ("#!/no/such/interpreter\n", PROGRAM)}, "fork/exec /var/task/bootstrap: no such file or directory"),
    ],
    ids=["missing", "folder", "not-executable", "no-program", "no-interpreter"],
)
@pytest.mark.modes("dev")
def test_entry_points_that_cannot_start(server, files, words):
    name = server.function(files, runtime=RUNTIME, handler="x")
    answer = invoke(server, name, {})
    assert answer["FunctionError"] == "Unhandled"
    assert answer["json"]["errorType"] == "Runtime.InvalidEntrypoint", answer["json"]
    assert answer["json"]["errorMessage"] == f"RequestId: {answer['ResponseMetadata']['RequestId']} Error: {words}"


@pytest.mark.skipif(not shutil.which("go"), reason="Go is not on this machine: its runtime client is not tested")
def test_a_panic_in_go(server):
    call = provided(server, Go().program())
    answer = call({"do": "panic", "message": "as told"})
    assert (answer["json"]["errorMessage"], answer["json"]["errorType"]) == ("as told", "string")
    assert answer["json"]["stackTrace"]
    assert call({"again": 1})["json"] == {"again": 1}

"""Invoke as boto3 sees it, beyond what the suite of all runtimes checks: kinds of calls, the tail of logs, payloads,
concurrency, and what is Python's own about handlers, contexts, results and errors."""

import base64
import concurrent.futures
import json
import re

import pytest

from conftest import PYTHON, name_of, refused, wait_for, zipped

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def invoke(server, name, payload=None, **arguments):
    """One call: the answer with its payload read as `body`, and as `json` where it is JSON."""
    if payload is not None:
        arguments["Payload"] = json.dumps(payload).encode()
    answer = server.client("lambda").invoke(FunctionName=name, **arguments)
    answer["body"] = answer["Payload"].read()
    try:
        answer["json"] = json.loads(answer["body"])
    except ValueError:
        answer["json"] = None
    return answer


def failure(server, name, payload, **arguments):
    """What a call that fails answers."""
    got = invoke(server, name, payload, **arguments)
    assert got.get("FunctionError") == "Unhandled", got
    return got["json"]


def tail(answer):
    """The log that came with an answer."""
    return base64.b64decode(answer["LogResult"]).decode()


def python(server, source, **settings):
    """A Python function, and a way to call it."""
    name = server.function(source, **settings)
    return lambda payload=None, **arguments: invoke(server, name, payload, **arguments)


def test_request_response(server):
    call = python(server, "def handler(event, context):\n    return {'got': event}\n")
    answer = call({"a": [1, 2.5, None, True, "ü☃🐦"]})
    assert answer["StatusCode"] == 200
    assert "FunctionError" not in answer
    assert answer["ExecutedVersion"] == "$LATEST"
    assert UUID.fullmatch(answer["ResponseMetadata"]["RequestId"])
    assert answer["json"] == {"got": {"a": [1, 2.5, None, True, "ü☃🐦"]}}
    assert call()["json"] == {"got": {}}
    assert call(Qualifier="$LATEST")["json"] == {"got": {}}


def test_log_tail_is_the_last_4_kilobytes(server):
    call = python(server, "def handler(event, context):\n    for i in range(500): print('line', i, 'x' * 40)\n")
    log = base64.b64decode(call(LogType="Tail")["LogResult"])
    assert 3_500 < len(log) <= 4_096
    assert b"line 499 " in log and b"line 1 " not in log and b"REPORT RequestId" in log


@pytest.mark.modes("dev")
def test_a_failed_event_is_tried_again(server):
    # The first retry comes after a minute in AWS: what is checked here is that the failure is recorded as one.
    name = server.function("def handler(event, context):\n    raise ValueError('no luck')\n")
    invoke(server, name, {}, InvocationType="Event")
    logs = server.client("logs")

    def reported():
        try:
            return logs.filter_log_events(logGroupName=f"/aws/lambda/{name}", filterPattern="ValueError")["events"]
        except logs.exceptions.ResourceNotFoundException:
            return []

    assert wait_for(reported, "the error in the log")


def test_dry_run_runs_nothing(server):
    name = server.function("def handler(event, context):\n    print('must not run')\n")
    answer = invoke(server, name, {}, InvocationType="DryRun")
    assert (answer["StatusCode"], answer["body"]) == (204, b"")
    groups = server.client("logs").describe_log_groups(logGroupNamePrefix=f"/aws/lambda/{name}")["logGroups"]
    assert groups == []
    assert refused(server.client("lambda").invoke, FunctionName=name_of(), InvocationType="DryRun")[0] == 404


CONTEXT = """
import os
def handler(event, context):
    client = context.client_context
    left = context.get_remaining_time_in_millis()
    return {
        'id': context.aws_request_id, 'name': context.function_name, 'version': context.function_version,
        'arn': context.invoked_function_arn, 'memory': context.memory_limit_in_mb, 'left': left,
        'group': context.log_group_name, 'stream': context.log_stream_name,
        'client': client and [client.client.app_title, client.custom, client.env],
        'identity': context.identity and context.identity.cognito_identity_id,
        'env': {k: v for k, v in os.environ.items()}, 'cwd': os.getcwd(),
    }
"""


def test_context_and_environment(server):
    name = server.function(CONTEXT, Timeout=9, MemorySize=192, Environment={"Variables": {"MINE": "1"}})
    client_context = {"client": {"app_title": "app"}, "custom": {"k": "v"}, "env": {"locale": "de"}}
    encoded = base64.b64encode(json.dumps(client_context).encode()).decode()
    answer = invoke(server, name, {}, ClientContext=encoded)
    got = answer["json"]
    arn = server.client("lambda").get_function(FunctionName=name)["Configuration"]["FunctionArn"]
    assert got["id"] == answer["ResponseMetadata"]["RequestId"]
    assert (got["name"], got["version"], got["arn"], got["memory"]) == (name, "$LATEST", arn, "192")
    assert 5_000 < got["left"] <= 9_000
    assert got["client"] == ["app", {"k": "v"}, {"locale": "de"}]
    assert got["cwd"] == "/var/task"
    env = got["env"]
    expected = {
        "MINE": "1", "_HANDLER": "handler.handler", "AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EXECUTION_ENV": f"AWS_Lambda_{PYTHON}", "AWS_LAMBDA_FUNCTION_NAME": name,
        "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "192",
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand", "LAMBDA_TASK_ROOT": "/var/task",
        "LAMBDA_RUNTIME_DIR": "/var/runtime", "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{name}", "TZ": ":UTC",
    }
    assert {key: env.get(key) for key in expected} == expected
    assert got["group"] == env["AWS_LAMBDA_LOG_GROUP_NAME"]
    assert got["stream"] == env["AWS_LAMBDA_LOG_STREAM_NAME"]
    assert re.fullmatch(r"\d{4}/\d\d/\d\d/\[\$LATEST\][0-9a-f]{32}", got["stream"])
    assert env["AWS_ACCESS_KEY_ID"] and env["AWS_SECRET_ACCESS_KEY"] and env["AWS_SESSION_TOKEN"]
    assert env["AWS_SECRET_ACCESS_KEY"] != server.secret_key
    assert not [key for key in env if key.startswith("DUNLIN")]
    assert invoke(server, name, {})["json"]["client"] is None


def test_errors_of_the_function(server):
    source = (
        "class Custom(Exception):\n    pass\n"
        "def inner():\n    raise Custom('the message ü')\n"
        "def handler(event, context):\n    inner()\n"
    )
    answer = python(server, source)(LogType="Tail")
    assert (answer["StatusCode"], answer["FunctionError"]) == (200, "Unhandled")
    error = answer["json"]
    assert (error["errorType"], error["errorMessage"]) == ("Custom", "the message ü")
    assert error["requestId"] == answer["ResponseMetadata"]["RequestId"]
    assert len(error["stackTrace"]) == 2
    assert re.fullmatch(r'  File "/var/task/handler.py", line 6, in handler\n    inner\(\)\n', error["stackTrace"][0])
    assert "[ERROR] Custom: the message ü" in tail(answer)


@pytest.mark.parametrize(
    ("files", "handler", "kind", "words"),
    [
        ("import nothing_like_this\ndef handler(e, c): pass\n", "handler.handler", "Runtime.ImportModuleError",
         "Unable to import module 'handler': No module named 'nothing_like_this'"),
        ("def handler(e, c:\n", "handler.handler", "Runtime.UserCodeSyntaxError", "Syntax error in module 'handler':"),
        ("def other(e, c): pass\n", "handler.handler", "Runtime.HandlerNotFound",
         "Handler 'handler' missing on module 'handler'"),
        ("def handler(e, c): pass\n", "missing.handler", "Runtime.ImportModuleError",
         "Unable to import module 'missing': No module named 'missing'"),
        ("def handler(e, c): pass\n", "handler", "Runtime.MalformedHandlerName", "Bad handler 'handler'"),
        ("raise KeyError('at load')\n", "handler.handler", "KeyError", "'at load'"),
    ],
    ids=["import", "syntax", "no-handler", "no-module", "malformed", "raises"],
)
@pytest.mark.modes("dev")
def test_errors_of_the_initialisation(server, files, handler, kind, words):
    name = server.function(files, handler=handler)
    for _ in range(2):
        answer = invoke(server, name, {}, LogType="Tail")
        assert answer["FunctionError"] == "Unhandled"
        assert answer["json"]["errorType"] == kind, answer["json"]
        assert words in answer["json"]["errorMessage"]


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("sys.exit(3)", "Runtime exited with error: exit status 3"),
        ("raise SystemExit", "Runtime exited without providing a reason"),
        ("raise GeneratorExit", "Runtime exited with error: exit status 1"),
        ("os.abort()", "Runtime exited with error: signal: aborted"),
    ],
)
@pytest.mark.modes("dev")
def test_exit_of_the_runtime(server, statement, words):
    source = f"import os, sys\ndef handler(event, context):\n    if event.get('die'): {statement}\n    return 'alive'\n"
    call = python(server, source)
    answer = call({"die": True}, LogType="Tail")
    request_id = answer["ResponseMetadata"]["RequestId"]
    assert answer["FunctionError"] == "Unhandled"
    assert answer["json"] == {
        "errorType": "Runtime.ExitError", "errorMessage": f"RequestId: {request_id} Error: {words}",
    }
    assert f"RequestId: {request_id} Error: {words}\nRuntime.ExitError\nEND" in tail(answer)
    assert "Status: error\tError Type: Runtime.ExitError" in tail(answer)
    assert call({})["json"] == "alive"


@pytest.mark.modes("dev")
def test_events_are_smaller(server):
    name = server.function("def handler(e, c): return 1\n")
    payload = json.dumps("x" * 1_048_575).encode()
    status, code, message = refused(
        server.client("lambda").invoke, FunctionName=name, Payload=payload, InvocationType="Event"
    )
    assert (status, code) == (413, "RequestEntityTooLargeException")
    assert message == "1048577 byte payload is too large for the Event invocation type (limit 1048576 bytes)"
    assert invoke(server, name, "x" * 1_048_574, InvocationType="Event")["StatusCode"] == 202


def test_a_payload_that_is_no_json(server):
    name = server.function("def handler(e, c): return 1\n")
    status, code, message = refused(server.client("lambda").invoke, FunctionName=name, Payload=b"{not json")
    assert (status, code) == (400, "InvalidRequestContentException")
    assert message.startswith("Could not parse request body into json")


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("None", b"null"),
        ("'ü☃🐦'", None),
        ("b'raw \\x00\\xff'", b"raw \x00\xff"),
        ("float('nan')", b"NaN"),
        ("[1, 2.5, True, {}]", b"[1, 2.5, true, {}]"),
        ("__import__('decimal').Decimal('1.5')", b"1.5"),
    ],
)
@pytest.mark.modes("dev")
def test_results_in_python(server, expression, expected):
    answer = python(server, f"def handler(event, context):\n    return {expression}\n")()
    assert "FunctionError" not in answer, answer["json"]
    if expected is None:
        assert answer["json"] == "ü☃🐦"
    else:
        assert answer["body"] == expected


@pytest.mark.modes("dev")
def test_results_that_cannot_be_told(server):
    answer = python(server, "def handler(event, context):\n    return {1, 2}\n")()
    assert answer["FunctionError"] == "Unhandled"
    assert answer["json"]["errorType"] == "Runtime.MarshalError"
    assert "Unable to marshal response: Object of type set is not JSON serializable" in answer["json"]["errorMessage"]


@pytest.mark.modes("dev")
def test_logging_in_python(server):
    source = (
        "import logging, sys\nlog = logging.getLogger()\nlog.setLevel('INFO')\n"
        "def handler(event, context):\n    log.info('informed %s', 1)\n    log.debug('hidden')\n"
        "    print('to stderr', file=sys.stderr)\n    print('two\\nlines')\n"
    )
    answer = python(server, source)(LogType="Tail")
    text = tail(answer)
    request_id = answer["ResponseMetadata"]["RequestId"]
    assert re.search(rf"\[INFO\]\t\d{{4}}-\d\d-\d\dT[0-9:.]+Z\t{request_id}\tinformed 1\n", text), text
    assert "hidden" not in text
    assert "to stderr\n" in text and "two\nlines\n" in text


@pytest.mark.modes("dev")
def test_packages_and_folders_in_python(server):
    files = {
        "src/app/__init__.py": "", "src/app/main.py": "from . import other\ndef run(e, c):\n    return other.VALUE\n",
        "src/app/other.py": "VALUE = open('/var/task/data.txt').read()\n", "data.txt": "data",
    }
    name = server.function(files, handler="src/app/main.run")
    assert invoke(server, name)["json"] == "data"
    name = server.function(files, handler="src.app.main.run")
    assert invoke(server, name)["json"] == "data"


@pytest.mark.modes("dev")
def test_modules_by_names_of_the_library_in_python(server):
    client = server.client("lambda")
    layer = client.publish_layer_version(LayerName="calendars", Content={"ZipFile": zipped({"python/calendar.py": "VALUE = 'a layer\\'s'\n"})})
    own = (
        "import sys\nimport platform, random, calendar\ndef handler(event, context):\n"
        "    return ['dunlin_zygote' in sys.modules, platform.VALUE, random.VALUE, calendar.VALUE]\n"
    )
    files = {"email.py": own, "random.py": "VALUE = 'own'\n", "platform/__init__.py": "VALUE = 'own package'\n"}

    def forked():
        """What the function says, once it runs in a fork of a zygote; that is not there from the first moment on."""
        name = server.function(files, handler="email.handler", Layers=[layer["LayerVersionArn"]])
        is_fork, *said = invoke(server, name)["json"]
        assert said == ["own package", "own", "a layer's"]
        return is_fork

    wait_for(forked, "a fork of a zygote")


def test_no_concurrency_means_no_call(server):
    client = server.client("lambda")
    name = server.function("def handler(e, c): return 1\n")
    put = client.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=0)
    assert put["ReservedConcurrentExecutions"] == 0
    with pytest.raises(client.exceptions.TooManyRequestsException) as caught:
        client.invoke(FunctionName=name)
    answer = caught.value.response
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 429
    assert answer["Reason"] == "ReservedFunctionConcurrentInvocationLimitExceeded"
    assert answer["Error"]["Message"] == "Rate Exceeded."
    assert client.get_function(FunctionName=name)["Concurrency"] == {"ReservedConcurrentExecutions": 0}
    client.delete_function_concurrency(FunctionName=name)
    assert invoke(server, name)["json"] == 1


def test_reserved_concurrency_is_a_hard_limit(server):
    client = server.client("lambda")
    name = server.function("import time\ndef handler(event, context):\n    time.sleep(1)\n    return 'ran'\n")
    client.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=2)

    def call(_):
        try:
            return json.load(client.invoke(FunctionName=name)["Payload"])
        except client.exceptions.TooManyRequestsException as problem:
            return problem.response["Reason"]

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        results = sorted(pool.map(call, range(6)))
    assert results == ["ReservedFunctionConcurrentInvocationLimitExceeded"] * 4 + ["ran"] * 2


def test_many_callers_at_once(server):
    client = server.client("lambda")
    source = "import time\ndef handler(event, context):\n    time.sleep(0.02)\n    return event['i']\n"
    name = server.function(source, MemorySize=128)

    def call(i):
        answer = client.invoke(FunctionName=name, Payload=json.dumps({"i": i}).encode())
        return json.load(answer["Payload"])

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        assert list(pool.map(call, range(200))) == list(range(200))


def test_active_tracing_decides_which_traces_are_sampled(server):
    source = "import os\ndef handler(event, context):\n    return os.environ['_X_AMZN_TRACE_ID']\n"
    client = server.client("lambda")
    given = {}
    client.meta.events.register(
        "before-call.lambda.Invoke", lambda params, **_: params["headers"].update(given))

    def call(name):
        got = client.invoke(FunctionName=name, LogType="Tail")
        header = dict(part.split("=", 1) for part in json.load(got["Payload"]).split(";"))
        assert len(header["Parent"]) == 16
        return header, base64.b64decode(got["LogResult"]).decode()

    active = server.function(source, PYTHON, TracingConfig={"Mode": "Active"})
    # The first call of a second is sampled, unless another function of this node had it.
    header, log = wait_for(lambda: (found := call(active))[0]["Sampled"] == "1" and found, "a sampled call")
    assert f"XRAY TraceId: {header['Root']}\tSegmentId: {header['Parent']}\tSampled: true" in log
    given["X-Amzn-Trace-Id"] = "Root=1-67891233-abcdef012345678912345678;Parent=53995c3f42cd8ad8;Sampled=0"
    header, log = call(active)
    assert (header["Parent"], header["Sampled"]) == ("53995c3f42cd8ad8", "0") and "XRAY" not in log

    through = server.function(source, PYTHON)
    given["X-Amzn-Trace-Id"] = given["X-Amzn-Trace-Id"].replace("Sampled=0", "Sampled=1")
    header, log = call(through)
    assert (header["Root"], header["Sampled"]) == ("1-67891233-abcdef012345678912345678", "1") and "XRAY TraceId" in log
    given.clear()
    for _ in range(5):
        header, log = call(through)
        assert header["Sampled"] == "0" and "XRAY" not in log

"""Lambda extensions: programs in layers that run beside functions, extensions inside a runtime, telemetry, and the ends of environments.

What an extension sees it writes to `/tmp/NAME`, which its function shares and returns; what happens after the last call is in the log.
"""

import datetime
import json
import subprocess
import tarfile
import textwrap
import time

import pytest
import requests

from behaviour.images import PythonImage, python_layer
from behaviour.table import RUNTIMES
from conftest import NODE, PYTHON, ROOT, binary, name_of, wait_for
from test_invoke import invoke, tail
from test_layers import published
from test_logs import lines

PROGRAM = 0o755
SENTRY = ROOT / ".cache/agents/sentry.tgz"

# An external extension: what it does at each event is told by variables of the function.
AGENT = """\
#!/usr/bin/env python3
import http.server, json, os, pathlib, socketserver, sys, threading, time, urllib.error, urllib.request
API = 'http://' + os.environ['AWS_LAMBDA_RUNTIME_API'] + '/'
NAME = pathlib.Path(sys.argv[0]).name
SEEN = pathlib.Path('/tmp', NAME)
DO = json.loads(os.environ.get('AGENT', '{}'))
def seen(**what):
    with SEEN.open('a') as file:
        file.write(json.dumps(what) + '\\n')
def ask(method, path, body=None, **headers):
    headers = {key.replace('_', '-'): value for key, value in headers.items()}
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(API + path, data, headers, method=method)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.headers, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, error.headers, json.load(error)
print('agent begins', flush=True)
if DO.get('die') == 'start':
    sys.exit(3)
events = DO.get('events', ['INVOKE', 'SHUTDOWN'])
feature = {'Lambda_Extension_Accept_Feature': 'accountId'}
status, headers, about = ask('POST', '2020-01-01/extension/register', {'events': events}, Lambda_Extension_Name=NAME, **feature)
ME = {'Lambda_Extension_Identifier': headers['Lambda-Extension-Identifier']}
seen(registered=about, status=status, env=dict(os.environ), cwd=os.getcwd(), at=time.time())
class Telemetry(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers['content-length']))
        if DO.get('refuse') and not hasattr(Telemetry, 'refused'):
            Telemetry.refused = True
            self.send_error(503)
            return
        for event in json.loads(body):
            seen(telemetry=event, path=self.path, host=self.headers['host'])
        self.send_response(200)
        self.end_headers()
    def log_message(self, *_):
        pass
class Tcp(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            seen(telemetry=json.loads(line))
if 'subscribe' in DO:
    handler = Tcp if DO['subscribe']['destination']['protocol'] == 'TCP' else Telemetry
    if not DO.get('dead'):
        server = socketserver.ThreadingTCPServer(('127.0.0.1', 4243), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
    status, _, answer = ask('PUT', DO.get('api', '2022-07-01/telemetry'), DO['subscribe'], **ME)
    seen(subscribed=answer, status=status)
for call in DO.get('ask', []):
    status, _, answer = ask(call[0], call[1], call[2], **(ME | call[3]))
    seen(asked=call[1], status=status, answer=answer)
if DO.get('die') == 'init':
    ask('POST', '2020-01-01/extension/init/error', {}, Lambda_Extension_Function_Error_Type='Extension.Mine', **ME)
    sys.exit(1)
if DO.get('until'):
    while not any(json.loads(line).get('telemetry', {}).get('type') == DO['until'] for line in SEEN.open()):
        time.sleep(0.01)
time.sleep(DO.get('slow_init', 0))
while True:
    _, headers, event = ask('GET', '2020-01-01/extension/event/next', **ME)
    if event.get('eventType') == 'SHUTDOWN':
        print('agent was told', event['shutdownReason'], event['deadlineMs'] - int(time.time() * 1000) > 500, flush=True)
        time.sleep(DO.get('slow_end', 0))
        print('agent ends', flush=True)
        sys.exit(0)
    seen(event=event, id=headers['Lambda-Extension-Event-Identifier'], at=time.time())
    if DO.get('die') == 'call':
        sys.exit(4)
    if DO.get('die') == 'exit':
        ask('POST', '2020-01-01/extension/exit/error', {}, Lambda_Extension_Function_Error_Type='Extension.Mine', **ME)
        sys.exit(5)
    if 'wait_for' in DO:
        while not any(json.loads(line).get('telemetry', {}).get('type') == DO['wait_for']
                      and json.loads(line)['telemetry']['record']['requestId'] == event['requestId'] for line in SEEN.open()):
            time.sleep(0.01)
        seen(waited_for=DO['wait_for'])
    time.sleep(DO.get('slow', 0))
    print('agent has seen', event['requestId'], flush=True)
"""
HANDLER = """\
import json, os, pathlib, signal, sys, time
FIRST = sorted(name for name in os.listdir('/tmp') if name.isalpha())
PROCESS = os.urandom(4).hex()
if os.environ.get('HEAR'):
    def heard(number, frame):
        print('runtime was told', flush=True)
        sys.exit(0)
    signal.signal(signal.SIGTERM, heard)
def handler(event, context):
    print('function says', context.aws_request_id)
    time.sleep(event.get('sleep', 0))
    if event.get('fail'):
        raise ValueError('as asked')
    if event.get('exit'):
        os._exit(6)
    end = time.monotonic() + event.get('patience', 0)
    while True:
        seen = {}
        for path in pathlib.Path('/tmp').iterdir():
            if path.is_file():
                seen[path.name] = [json.loads(line) for line in path.read_text().splitlines()]
        kinds = {it['telemetry']['type'] for all in seen.values() for it in all if 'telemetry' in it}
        if set(event.get('until', [])) <= kinds or time.monotonic() > end:
            break
        time.sleep(0.02)
    return {'first': FIRST, 'seen': seen, 'process': PROCESS, 'arn': context.invoked_function_arn,
            'api': os.environ['AWS_LAMBDA_RUNTIME_API']}
"""


@pytest.fixture(scope="module")
def agents():
    """A layer with one extension, once for each server."""
    made = {}

    def layer(server, *names):
        names = names or ("agent",)
        if (server.url, names) not in made:
            files = {f"extensions/{name}": (AGENT, PROGRAM) for name in names}
            made[server.url, names] = published(server.client("lambda"), name_of(), files)
        return made[server.url, names]

    return layer


def accompanied(server, agents, files=HANDLER, do=None, names=(), **settings):
    """A function with extensions beside it."""
    variables = settings.pop("variables", {}) | ({"AGENT": json.dumps(do)} if do else {})
    return server.function(files, Layers=[agents(server, *names)], Environment={"Variables": variables}, **settings)


def log_of(server, name, *words):
    """The function's log, once it has all these words."""
    def found():
        log = "".join(lines(server, name))
        return log if all(word in log for word in words) else None
    return wait_for(found, f"a log with {words}")


def retire(server, name):
    """Has the environments of a function end, as a new revision does."""
    server.client("lambda").update_function_configuration(FunctionName=name, Description=name_of())
    invoke(server, name, {})


def test_an_extension_takes_part_in_calls(server, agents):
    name = accompanied(server, agents, Timeout=9)
    first = invoke(server, name, {}, LogType="Tail")
    assert "FunctionError" not in first, first["json"]
    seen = first["json"]["seen"]["agent"]
    about = seen[0]["registered"]
    account = server.client("sts").get_caller_identity()["Account"]
    assert about == {"functionName": name, "functionVersion": "$LATEST", "handler": "handler.handler", "accountId": account}
    assert first["json"]["first"] == ["agent"], "the runtime begins after its extensions"
    assert first["json"]["api"] == seen[0]["env"]["AWS_LAMBDA_RUNTIME_API"] == "127.0.0.1:9001"
    env = seen[0]["env"]
    assert env["AWS_LAMBDA_FUNCTION_NAME"] == name and env["AWS_SESSION_TOKEN"] and env["AWS_REGION"] == "us-east-1"
    assert not [key for key in env if key.startswith("_") and key != "_"] and not {"LAMBDA_TASK_ROOT", "AWS_EXECUTION_ENV"} & set(env)
    log = tail(first)
    assert "EXTENSION\tName: agent\tState: Ready\tEvents: [INVOKE, SHUTDOWN]\n" in log
    request_id = first["ResponseMetadata"]["RequestId"]
    assert f"agent has seen {request_id}\n" in log, "the tail comes when the extensions are done"
    assert log.index("agent begins") < log.index("EXTENSION") < log.index("START RequestId") < log.index("END RequestId") < log.index("REPORT RequestId")
    second = invoke(server, name, {})
    events = [it for it in second["json"]["seen"]["agent"] if "event" in it]
    assert second["json"]["process"] == first["json"]["process"]
    assert events[0]["event"] == {
        "eventType": "INVOKE", "requestId": request_id, "invokedFunctionArn": first["json"]["arn"],
        "deadlineMs": events[0]["event"]["deadlineMs"], "tracing": events[0]["event"]["tracing"],
    }
    assert 0 < events[0]["event"]["deadlineMs"] - events[0]["at"] * 1_000 <= 9_000
    assert events[0]["event"]["tracing"]["type"] == "X-Amzn-Trace-Id"
    assert len({it["id"] for it in events}) == len(events)
    retire(server, name)
    log_of(server, name, "agent was told spindown True", "agent ends")


class AccompaniedImage(PythonImage):
    """An image that brings its extension, as images have no layers."""

    name = "image"

    @property
    def beside(self):
        _, python = python_layer()
        return {"opt/extensions/agent": (AGENT.replace("/usr/bin/env python3", python).encode(), PROGRAM)}


# Programs of WebAssembly and web servers have none (`docs/extensions.md`); a single program in an image has nothing that runs AGENT.
WITHOUT = {"python-up", "wasm", "wasi-http", "web", "image-go", "image-python"}


@pytest.mark.parametrize(
    "runtime", [runtime for runtime in RUNTIMES if runtime.name not in WITHOUT] + [AccompaniedImage()], ids=lambda runtime: runtime.name)
def test_every_runtime_has_them(request, agents, runtime):
    if reason := runtime.missing():
        pytest.skip(reason)
    server = request.getfixturevalue(runtime.server)
    layers = {} if isinstance(runtime, AccompaniedImage) else {"Layers": [agents(server)]}
    name = runtime.create(server, Timeout=20, Environment={"Variables": runtime.variables}, **layers)
    for _ in range(2):
        answer = invoke(server, name, {"do": "count"})
        assert "FunctionError" not in answer, answer["json"]
        log_of(server, name, f"agent has seen {answer['ResponseMetadata']['RequestId']}")
    retire(server, name)
    log_of(server, name, "EXTENSION\tName: agent\tState: Ready", "agent was told spindown True")


@pytest.mark.modes("dev")
def test_callers_do_not_wait_for_extensions_but_their_environments_do(server, agents):
    # Longer than a new environment can take on a busy machine: else it is right to wait for this one.
    name = accompanied(server, agents, do={"slow": 6}, Timeout=30)
    invoke(server, name, {}, LogType="Tail")
    begun = time.monotonic()
    first = invoke(server, name, {})
    assert time.monotonic() - begun < 5, "the answer waited for an extension"
    second = invoke(server, name, {})
    assert first["json"]["process"] != second["json"]["process"], "the environment was not done with the call before"
    request_id = first["ResponseMetadata"]["RequestId"]
    log = log_of(server, name, f"REPORT RequestId: {request_id}")
    report = next(line for line in log.splitlines() if line.startswith(f"REPORT RequestId: {request_id}"))
    assert float(report.split("Duration: ")[1].split(" ms")[0]) >= 6_000


@pytest.mark.modes("up")
@pytest.mark.parametrize("die, kind, words", [
    ("start", "Extension.Crash", "exit status 3"),
    ("init", "Extension.InitError", "agent: Extension.Mine"),
    ("call", "Extension.Crash", "exit status 4"),
    ("exit", "Extension.ExitError", "agent: Extension.Mine"),
])
def test_an_extension_that_ends_ends_its_environment(server, agents, die, kind, words):
    name = accompanied(server, agents, do={"die": die})
    answer = invoke(server, name, {"sleep": 3})
    assert answer["FunctionError"] == "Unhandled"
    assert answer["json"]["errorType"] == kind and answer["json"]["errorMessage"].endswith(f"Error: {words}"), answer["json"]
    log = log_of(server, name, f"Error Type: {kind}")
    assert "EXTENSION\tName: agent\tState: " in log


@pytest.mark.modes("up")
def test_what_cannot_be_executed_is_a_launch_error(server):
    client = server.client("lambda")
    plain = published(client, name_of(), {"extensions/agent": AGENT, "extensions/folder/x": "is no extension"})
    name = server.function(HANDLER, Layers=[plain])
    answer = invoke(server, name, {})
    assert answer["json"]["errorType"] == "Extension.LaunchError"
    assert answer["json"]["errorMessage"].endswith("fork/exec /opt/extensions/agent: permission denied")
    log_of(server, name, "EXTENSION\tName: agent\tState: LaunchError\tEvents: []\tError Type: PermissionDenied")
    many = published(client, name_of(), {f"extensions/a{number}": (AGENT, PROGRAM) for number in range(11)})
    name = server.function(HANDLER, Layers=[many], MemorySize=1024, Timeout=30)
    answer = invoke(server, name, {})
    assert answer["json"]["errorType"] == "Extension.LaunchError" and "limit (10)" in answer["json"]["errorMessage"]


@pytest.mark.modes("dev")
def test_timeouts_and_failures_are_told(server, agents):
    name = accompanied(server, agents, Timeout=1)
    answer = invoke(server, name, {"sleep": 5})
    assert answer["json"]["errorType"] == "Sandbox.Timedout"
    log_of(server, name, "agent was told timeout", "Status: timeout")
    answer = invoke(server, name, {"exit": 1})
    assert answer["json"]["errorType"] == "Runtime.ExitError" and "exit status 6" in answer["json"]["errorMessage"], answer["json"]
    log_of(server, name, "agent was told failure")
    assert "FunctionError" not in invoke(server, name, {}), "the next call has another environment"
    answer = invoke(server, name, {"fail": 1})
    assert answer["json"]["errorType"] == "ValueError"


@pytest.mark.modes("dev")
def test_an_extension_that_takes_too_long_is_a_timeout_of_the_call(server, agents):
    name = accompanied(server, agents, do={"slow": 30}, Timeout=1)
    answer = invoke(server, name, {})
    assert "FunctionError" not in answer, "the caller has had its answer"
    log = log_of(server, name, "Task timed out after 1.00 seconds", "Status: timeout")
    assert "Duration: 1000.00 ms" in log


@pytest.mark.modes("up")
def test_who_does_not_end_is_killed(server, agents):
    name = accompanied(server, agents, do={"slow_end": 60})
    invoke(server, name, {})
    retire(server, name)
    log = log_of(server, name, "agent was told spindown")
    ps = server.client("lambda")
    ps.delete_function(FunctionName=name)
    assert "agent ends" not in log
    wait_for(lambda: not environments(server, name), "environments that are gone", timeout_s=10)


def environments(server, name):
    """What `dunlin ps` shows of a function."""
    shown = subprocess.run([binary(), "ps", "--json"], env=server.environment(), capture_output=True, text=True, check=False)
    if shown.returncode:
        pytest.skip(f"dunlin ps: {shown.stderr}")
    return name in shown.stdout


@pytest.mark.modes("dev")
def test_runtimes_hear_of_their_end_where_there_are_extensions(server, agents):
    def log_of_an_end():
        name = accompanied(server, agents, variables={"HEAR": "1"})
        invoke(server, name, {})
        retire(server, name)
        return log_of(server, name, "agent was told spindown")

    # A runtime has 300 ms, which a busy machine may not give it every time.
    log = next((log for log in (log_of_an_end() for _ in range(6)) if "runtime was told" in log), "")
    assert "runtime was told" in log and log.index("runtime was told") < log.index("agent was told")
    alone = server.function(HANDLER, Environment={"Variables": {"HEAR": "1"}})
    invoke(server, alone, {})
    retire(server, alone)
    assert "runtime was told" not in "".join(lines(server, alone))


INTERNAL = """\
import json, os, threading, urllib.error, urllib.request
API = 'http://' + os.environ['AWS_LAMBDA_RUNTIME_API'] + '/'
EVENTS, REFUSED = [], []
def ask(method, path, body=None, **headers):
    headers = {key.replace('_', '-'): value for key, value in headers.items()}
    data = json.dumps(body).encode() if body is not None else None
    try:
        with urllib.request.urlopen(urllib.request.Request(API + path, data, headers, method=method)) as answer:
            return answer.status, answer.headers, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, error.headers, json.load(error)
def register(name, *events):
    return ask('POST', '2020-01-01/extension/register', {'events': list(events)}, Lambda_Extension_Name=name)
def refused(answer):
    REFUSED.append([answer[0], answer[2]['errorType'], answer[2]['errorMessage']])
refused(register('inside', 'INVOKE', 'SHUTDOWN'))
refused(register(''))
refused(register('inside', 'SLEEP'))
status, headers, about = register('inside', 'INVOKE')
ME = {'Lambda_Extension_Identifier': headers['Lambda-Extension-Identifier']}
refused(register('inside', 'INVOKE'))
refused(ask('GET', '2020-01-01/extension/event/next'))
refused(ask('GET', '2020-01-01/extension/event/next', Lambda_Extension_Identifier='x'))
refused(ask('GET', '2020-01-01/extension/event/next', Lambda_Extension_Identifier='00000000-0000-4000-8000-000000000000'))
refused(ask('POST', '2020-01-01/extension/init/error', {}, **ME))
refused(ask('PUT', '2022-07-01/telemetry', {'schemaVersion': '2022-07-01'}, **ME))
refused(ask('GET', '2018-06-01/runtime/invocation/next'))
refused(ask('GET', '2020-01-01/extension/nothing', **ME))
def follow():
    while True:
        EVENTS.append(ask('GET', '2020-01-01/extension/event/next', **ME)[2])
threading.Thread(target=follow, daemon=True).start()
def handler(event, context):
    import time
    end = time.monotonic() + 5
    while not any(it['requestId'] == context.aws_request_id for it in EVENTS) and time.monotonic() < end:
        time.sleep(0.01)
    late = [list(register('late'))[0::2], list(ask('PUT', '2022-07-01/telemetry', {
        'schemaVersion': '2022-07-01', 'types': ['platform'],
        'destination': {'protocol': 'HTTP', 'URI': 'http://sandbox.localdomain:81'}}, **ME))[0::2]]
    return {'events': EVENTS, 'refused': REFUSED, 'about': about, 'late': late}
"""


def test_an_extension_inside_the_runtime(server):
    name = server.function(INTERNAL, Timeout=15)
    answer = invoke(server, name, {}, LogType="Tail")
    assert "FunctionError" not in answer, answer["json"]
    got = answer["json"]
    assert got["about"] == {"functionName": name, "functionVersion": "$LATEST", "handler": "handler.handler"}
    assert [it["requestId"] for it in got["events"]] == [answer["ResponseMetadata"]["RequestId"]]
    assert [it[:2] for it in got["refused"]] == [
        [403, "Extension.InvalidEventType"], [403, "Extension.InvalidExtensionName"], [403, "Extension.InvalidEventType"],
        [403, "Extension.InvalidExtensionState"], [403, "Extension.MissingExtensionIdentifier"],
        [403, "Extension.InvalidExtensionIdentifier"], [403, "Extension.UnknownExtensionIdentifier"],
        [403, "Extension.MissingHeader"], [400, "ValidationError"], [403, "InvalidStateTransition"], [404, "NotFound"],
    ]
    assert got["refused"][1][2] == "Empty extension name"
    assert [it[0] for it in got["late"]] == [403, 403]
    assert [it[1]["errorType"] for it in got["late"]] == ["Extension.RegistrationClosed", "Telemetry.SubscriptionClosed"]
    assert "EXTENSION\tName: inside\tState: Ready\tEvents: [INVOKE]\n" in tail(answer)
    assert len(invoke(server, name, {})["json"]["events"]) == 2


def subscription(protocol="HTTP", **more):
    """What an agent asks for."""
    destination = {"protocol": protocol, "URI": "http://sandbox.localdomain:4243/all?x=1"}
    if protocol == "TCP":
        destination = {"protocol": "TCP", "port": 4243}
    wish = {"schemaVersion": "2022-12-13", "types": ["platform", "function", "extension"], "destination": destination}
    return wish | {"buffering": {"timeoutMs": 25, "maxBytes": 262_144, "maxItems": 1_000}} | more


def telemetry_of(answer, of="agent"):
    """Type to records, in order."""
    found = {}
    for it in answer["json"]["seen"][of]:
        if "telemetry" in it:
            found.setdefault(it["telemetry"]["type"], []).append(it["telemetry"]["record"])
    return found


@pytest.mark.parametrize("protocol", ["HTTP", "TCP"])
def test_telemetry(server, agents, protocol):
    name = accompanied(server, agents, do={"subscribe": subscription(protocol)}, Timeout=15)
    first = invoke(server, name, {}, LogType="Tail")
    request_id = first["ResponseMetadata"]["RequestId"]
    assert "TELEMETRY\tName: agent\tState: Subscribed\tTypes: [Platform, Function, Extension]\n" in tail(first)
    second = invoke(server, name, {"patience": 10, "until": ["platform.report"]})
    assert "FunctionError" not in second, second["json"]
    told = telemetry_of(second)
    order = [it["telemetry"]["type"] for it in second["json"]["seen"]["agent"] if "telemetry" in it]
    wanted = ["platform.initStart", "platform.telemetrySubscription", "platform.initRuntimeDone", "platform.extension",
              "platform.start", "platform.runtimeDone", "platform.report"]
    # An agent may subscribe after the runtime is ready.
    anywhere = {"platform.extension", "platform.telemetrySubscription"}
    places = [order.index(kind) for kind in wanted if kind not in anywhere]
    assert places == sorted(places) and anywhere <= set(order), order
    assert told["platform.initStart"][0]["functionName"] == name and told["platform.initStart"][0]["phase"] == "init"
    assert told["platform.initRuntimeDone"][0]["status"] == "success"
    assert told["platform.initReport"][0]["metrics"]["durationMs"] > 0
    assert told["platform.telemetrySubscription"][0] == {"name": "agent", "state": "Subscribed", "types": ["platform", "function", "extension"]}
    assert told["platform.extension"][0] == {"name": "agent", "state": "Ready", "events": ["INVOKE", "SHUTDOWN"]}
    assert told["platform.start"][0]["requestId"] == request_id and told["platform.start"][0]["version"] == "$LATEST"
    done = told["platform.runtimeDone"][0]
    assert (done["requestId"], done["status"]) == (request_id, "success")
    assert done["metrics"]["producedBytes"] > 10 and done["metrics"]["durationMs"] > 0
    assert [span["name"] for span in done["spans"]] == ["responseLatency", "responseDuration", "runtimeOverhead"]
    report = told["platform.report"][0]
    assert report["requestId"] == request_id and report["status"] == "success"
    assert {"durationMs", "billedDurationMs", "memorySizeMB", "maxMemoryUsedMB", "initDurationMs"} <= set(report["metrics"])
    assert f"function says {request_id}" in told["function"]
    assert f"agent has seen {request_id}" in told["extension"]
    if protocol == "HTTP":
        posted = next(it for it in second["json"]["seen"]["agent"] if "telemetry" in it)
        assert (posted["path"], posted["host"]) == ("/all?x=1", "sandbox.localdomain:4243")


@pytest.mark.parametrize("phase", ["init", "restore"])
@pytest.mark.modes("dev")
def test_an_agent_may_wait_for_the_runtime_to_be_ready(server, agents, phase):
    done, report = f"platform.{phase}RuntimeDone", f"platform.{phase}Report"
    do = {"subscribe": subscription(), "until": done, "slow_init": 0.5}
    settings = {"SnapStart": {"ApplyOn": "PublishedVersions"}, "runtime": "python3.12"} if phase == "restore" else {}
    name = accompanied(server, agents, do=do, Timeout=15, **settings)
    if phase == "restore":
        client = server.client("lambda")
        version = client.publish_version(FunctionName=name)["Version"]
        client.get_waiter("published_version_active").wait(FunctionName=name, Qualifier=version)
        name = f"{name}:{version}"
    invoke(server, name, {})
    answer = invoke(server, name, {"patience": 10, "until": [report]})
    told = telemetry_of(answer)
    assert [it["status"] for it in told[done] + told[report]] == ["success", "success"]
    assert told[report][0]["metrics"]["durationMs"] < 9_000, "the init was cut"
    at = {it["telemetry"]["type"]: it["telemetry"]["time"] for it in answer["json"]["seen"]["agent"] if "telemetry" in it}
    ready, over = (datetime.datetime.fromisoformat(at[kind]) for kind in (done, report))
    assert (over - ready).total_seconds() >= 0.5, "each has its own time"


@pytest.mark.modes("dev")
def test_an_agent_may_wait_for_the_runtime_to_be_done(server, agents):
    name = accompanied(server, agents, do={"subscribe": subscription(), "wait_for": "platform.runtimeDone"}, Timeout=15)
    invoke(server, name, {}, LogType="Tail")
    answer = invoke(server, name, {"fail": 1}, LogType="Tail")
    assert "Status: timeout" not in tail(answer)
    answer = invoke(server, name, {})
    assert sum("waited_for" in it for it in answer["json"]["seen"]["agent"]) == 2
    done = telemetry_of(answer)["platform.runtimeDone"]
    assert [it["status"] for it in done] == ["success", "error"] and done[1]["errorType"] == "ValueError"


@pytest.mark.modes("dev")
def test_telemetry_is_sent_again_and_a_dead_subscriber_harms_nobody(server, agents):
    name = accompanied(server, agents, do={"subscribe": subscription(), "refuse": True}, Timeout=15)
    invoke(server, name, {}, LogType="Tail")
    told = telemetry_of(invoke(server, name, {"patience": 10, "until": ["platform.report"]}))
    assert told["platform.initStart"] and told["platform.report"]
    name = accompanied(server, agents, do={"subscribe": subscription(), "dead": True})
    begun = time.monotonic()
    for _ in range(20):
        assert "FunctionError" not in invoke(server, name, {})
    assert time.monotonic() - begun < 10


@pytest.mark.modes("up")
def test_json_lines_are_objects_where_the_schema_has_them(server, agents):
    settings = {"LoggingConfig": {"LogFormat": "JSON"}, "Timeout": 15}
    code = HANDLER.replace("print('function says'", "print(json.dumps({'level': 'INFO', 'own': 1}))\n    print('function says'")
    for schema, kind in [("2022-12-13", dict), ("2022-07-01", str)]:
        name = accompanied(server, agents, code, do={"subscribe": subscription(schemaVersion=schema)}, **settings)
        invoke(server, name, {}, LogType="Tail")
        told = telemetry_of(invoke(server, name, {"patience": 10, "until": ["platform.report"]}))
        own = [it for it in told["function"] if "own" in it]
        assert own and isinstance(own[0], kind), own
    log_of(server, name, '"type":"platform.extension"', '"type":"platform.telemetrySubscription"')


@pytest.mark.modes("up")
def test_the_logs_api(server, agents):
    wish = {"types": ["platform", "function"], "destination": {"protocol": "HTTP", "URI": "http://sandbox:4243"}, "buffering": {"timeoutMs": 25}}
    telemetry = ["PUT", "2022-07-01/telemetry", subscription(), {}]
    name = accompanied(server, agents, do={"api": "2020-08-15/logs", "subscribe": wish, "ask": [telemetry]}, Timeout=15)
    first = invoke(server, name, {}, LogType="Tail")
    assert "LOGS\tName: agent\tState: Subscribed\tTypes: [Platform, Function]\n" in tail(first)
    answer = invoke(server, name, {"patience": 10, "until": ["platform.report"]})
    told = telemetry_of(answer)
    request_id = first["ResponseMetadata"]["RequestId"]
    assert told["platform.start"][0] == {"requestId": request_id, "version": "$LATEST"}
    assert told["platform.end"][0] == {"requestId": request_id}
    assert set(told["platform.report"][0]) == {"requestId", "metrics"}
    assert told["platform.logsSubscription"][0]["types"] == ["platform", "function"]
    assert not {"platform.initStart", "platform.runtimeDone"} & set(told)
    asked = [it for it in answer["json"]["seen"]["agent"] if "asked" in it]
    assert [(it["status"], it["answer"]["errorType"]) for it in asked] == [(403, "Telemetry.NotSupported")]


@pytest.mark.modes("up")
def test_memory_of_extensions_is_the_functions(server):
    greedy = AGENT.replace("while True:\n    _, headers", "hoard = bytearray(400 << 20)\nhoard[::4096] = b'x' * len(hoard[::4096])\nwhile True:\n    _, headers")
    assert greedy != AGENT
    greedy = published(server.client("lambda"), name_of(), {"extensions/agent": (greedy, PROGRAM)})
    name = server.function(HANDLER, Layers=[greedy], MemorySize=128, Timeout=30)
    answer = invoke(server, name, {})
    assert answer.get("FunctionError") == "Unhandled", answer["json"]


@pytest.mark.modes("up")
def test_an_extension_has_nothing_that_its_function_has_not(server):
    probe = AGENT.replace("print('agent begins', flush=True)", textwrap.dedent("""\
        import ctypes, subprocess
        libc = ctypes.CDLL(None, use_errno=True)
        status = dict(line.split(':\\t', 1) for line in open('/proc/self/status').read().splitlines() if ':\\t' in line)
        def refused(number, *arguments):
            return libc.syscall(number, *arguments) < 0
        seen(status={key: status[key].strip() for key in ('CapEff', 'CapBnd', 'NoNewPrivs', 'Seccomp', 'Uid')},
             mount=libc.mount(b'x', b'/tmp', b'tmpfs', 0, b'') < 0, unshare=libc.unshare(0x10000000) < 0,
             first=os.path.exists('/proc/1/environ') and not os.access('/proc/1/environ', os.R_OK),
             files=sorted(os.listdir('/proc/self/fd'))[:3])
    """))
    layer = published(server.client("lambda"), name_of(), {"extensions/agent": (probe, PROGRAM)})
    own = HANDLER.replace("def handler(event, context):", textwrap.dedent("""\
        STATUS = dict(line.split(':\\t', 1) for line in open('/proc/self/status').read().splitlines() if ':\\t' in line)
        STATUS = {key: STATUS[key].strip() for key in ('CapEff', 'CapBnd', 'NoNewPrivs', 'Seccomp', 'Uid')}
        def handler(event, context):
            if event.get('status'): return STATUS"""))
    name = server.function(own, Layers=[layer])
    seen = invoke(server, name, {})["json"]["seen"]["agent"][0]
    assert seen["mount"] and seen["unshare"]
    assert seen["status"] == invoke(server, name, {"status": 1})["json"]


@pytest.mark.modes("dev")
def test_several_extensions_and_layers(server, agents):
    client = server.client("lambda")
    first = published(client, name_of(), {"extensions/one": (AGENT, PROGRAM), "extensions/two": (AGENT, PROGRAM)})
    second = published(client, name_of(), {"extensions/two": (AGENT.replace("agent begins", "other begins"), PROGRAM)})
    name = server.function(HANDLER, Layers=[first, second], MemorySize=512)
    answer = invoke(server, name, {}, LogType="Tail")
    assert "FunctionError" not in answer, answer["json"]
    assert set(answer["json"]["seen"]) == {"one", "two"}
    assert "other begins" in tail(answer), "the later layer's is the one"


SENTRY_HANDLER = """\
const http = require('http');
const got = [];
const server = http.createServer((request, answer) => {
    let body = '';
    request.on('data', piece => body += piece);
    request.on('end', () => { got.push([request.url, body]); answer.end('{}'); });
}).listen(4242);
exports.handler = async event => {
    const envelope = JSON.stringify({dsn: process.env.SENTRY_DSN}) + '\\n{"type":"event"}\\n{}';
    const answer = await fetch('http://localhost:9000/envelope', {method: 'POST', body: envelope});
    for (let tries = 0; got.length === 0 && tries < 250; tries++) await new Promise(done => setTimeout(done, 20));
    return {status: answer.status, got};
};
"""


def test_an_agent_as_it_is_sold(dev):
    """The extension that Sentry publishes: a tunnel that functions give their reports to."""
    if not SENTRY.exists():
        pytest.skip(f"{SENTRY} is not there: tests/install.sh could not get it from the registry")
    with tarfile.open(SENTRY) as package:
        def of(path):
            return package.extractfile(f"package/build/lambda-extension/{path}").read()
        files = {"extensions/sentry-extension": (of("sentry-extension"), PROGRAM),
                 "sentry-extension/index.mjs": (of("index.mjs"), PROGRAM)}
    sentry = published(dev.client("lambda"), name_of(), files)
    variables = {"SENTRY_DSN": "http://key@127.0.0.1:4242/7"}
    name = dev.function(SENTRY_HANDLER, runtime=NODE, Layers=[sentry], MemorySize=512, Timeout=20, Environment={"Variables": variables})
    answer = invoke(dev, name, {}, LogType="Tail")
    assert answer["json"]["status"] == 200, answer["json"]
    assert answer["json"]["got"][0][0].startswith("/api/7/envelope/?sentry_version=7&sentry_key=key")
    assert "EXTENSION\tName: sentry-extension\tState: Ready\tEvents: [INVOKE, SHUTDOWN]" in tail(answer)
    for _ in range(3):
        assert "FunctionError" not in invoke(dev, name, {})


# The flow of AWS's own extension for parameters and secrets: a server that listens before it registers, since the function's
# init may follow at once, and answers when the init is over, with what its function's role may read, to those that know the
# session's token.
SECRETS = AGENT.replace("print('agent begins'", textwrap.dedent("""\
    READY = threading.Event()
    class Secrets(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            token = self.headers['X-Aws-Parameters-Secrets-Token']
            if not READY.is_set():
                self.send_error(400, 'not ready to serve traffic, please wait')
            elif token != os.environ['AWS_SESSION_TOKEN']:
                self.send_error(401)
            else:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(json.dumps({'SecretString': 'of ' + os.environ['AWS_ACCESS_KEY_ID'], 'path': self.path}).encode())
        def log_message(self, *_):
            pass
    secrets = socketserver.ThreadingTCPServer(('127.0.0.1', 2773), Secrets)
    threading.Thread(target=secrets.serve_forever, daemon=True).start()
    print('agent begins'"""), 1).replace("    seen(event=event,", "    READY.set()\n    seen(event=event,", 1)
SECRETS_HANDLER = """\
import json, os, urllib.error, urllib.request
def get(token):
    url = 'http://localhost:2773/secretsmanager/get?secretId=mine'
    try:
        return json.load(urllib.request.urlopen(urllib.request.Request(url, headers={'X-Aws-Parameters-Secrets-Token': token})))
    except urllib.error.HTTPError as error:
        return error.code
EARLY = get('x')
def handler(event, context):
    import time
    while get('x') == 400: time.sleep(0.01)
    return {'early': EARLY, 'wrong': get('x'), 'own': get(os.environ['AWS_SESSION_TOKEN']), 'key': os.environ['AWS_ACCESS_KEY_ID']}
"""


@pytest.mark.modes("up")
def test_parameters_and_secrets(server):
    layer = published(server.client("lambda"), name_of(), {"extensions/AWSParametersAndSecretsLambdaExtension": (SECRETS, PROGRAM)})
    name = server.function(SECRETS_HANDLER, Layers=[layer])
    got = invoke(server, name, {})["json"]
    assert (got["early"], got["wrong"]) == (400, 401)
    assert got["own"] == {"SecretString": f"of {got['key']}", "path": "/secretsmanager/get?secretId=mine"}


@pytest.mark.modes("dev")
def test_web_servers_have_none_but_the_adapter(server, agents):
    code = "#!/bin/sh\nexec python3 -m http.server $PORT\n"
    variables = {"AWS_LAMBDA_EXEC_WRAPPER": "/opt/bootstrap"}
    settings = {"runtime": PYTHON, "handler": "run.sh", "Environment": {"Variables": variables}, "Timeout": 20}
    adapter = published(server.client("lambda"), name_of(), {"extensions/lambda-adapter": ("#!/bin/sh\nexit 1\n", PROGRAM)})
    name = server.function({"run.sh": (code, PROGRAM)}, Layers=[adapter], **settings)
    url = server.function_url(name)
    wait_for(lambda: requests.get(url, timeout=20).status_code == 200, "an answer of the web server")
    name = server.function({"run.sh": (code, PROGRAM)}, Layers=[agents(server)], **settings)
    url = server.function_url(name)
    answer = requests.get(url, timeout=20)
    assert answer.status_code >= 500

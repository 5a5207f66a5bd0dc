"""Functions that are web servers: unmodified programs that listen on `$PORT`, by a command or set up for the web adapter."""

import base64
import concurrent.futures
import hashlib
import json
import os
import pathlib
import shutil
import socket
import subprocess
import time

import pytest
import requests

from conftest import JAVA, NODE, PYTHON, ROLE, ROOT, name_of, refused, wait_for, zipped
from test_apis import http_api, rest_api
from test_deploy import dunlin
from test_function_urls import sign

KNIFE = (pathlib.Path(__file__).parent / "web_server.py").read_text()
WEB = ROOT / ".cache/web"
RUN = ("#!/bin/sh\nexec python server.py\n", 0o755)


def served(server, files=KNIFE, runtime=PYTHON, handler="web", command="python server.py", variables=None, **settings):
    """A function with this server, and its URL."""
    files = {"server.py": files} if isinstance(files, str) else files
    variables = ({"DUNLIN_WEB_COMMAND": command} if command else {}) | (variables or {})
    settings.setdefault("Timeout", 20)
    name = server.function(files, runtime, handler, Environment={"Variables": variables}, **settings)
    return name, server.function_url(name)


def adapted(server, variables=None, **settings):
    """The same set up as for the adapter's layer, which is not there."""
    variables = {"AWS_LAMBDA_EXEC_WRAPPER": "/opt/bootstrap"} | (variables or {})
    return served(server, {"run.sh": RUN, "server.py": KNIFE}, handler="run.sh", command=None, variables=variables, **settings)


def get(url, path="", **options):
    return requests.get(url + path, timeout=40, **options)


def invoke(server, name, event, **options):
    answer = server.client("lambda").invoke(FunctionName=name, Payload=json.dumps(event), **options)
    return answer, json.loads(answer["Payload"].read())


def lines(server, name):
    """Everything in the function's log."""
    logs = server.client("logs")
    try:
        events = logs.filter_log_events(logGroupName=f"/aws/lambda/{name}")["events"]
    except logs.exceptions.ResourceNotFoundException:
        return []
    return [event["message"].rstrip("\n") for event in events]


def test_a_request_passes_as_it_is(server):
    name, url = served(server)
    answer = requests.put(
        url + "a%20b/c?x=1&y=%C3%BC&x=2", data=b"\x00\xffbody", headers={"X-Own": "v", "x-amzn-request-context": "forged", "Connection": "X-Gone", "X-Gone": "1"},
        cookies={"c": "1"}, timeout=40,
    )
    assert answer.status_code == 200, answer.text
    seen = answer.json()
    headers = dict(seen["headers"])
    assert (seen["method"], seen["path"]) == ("PUT", "/a%20b/c?x=1&y=%C3%BC&x=2")
    assert base64.b64decode(seen["body"]) == b"\x00\xffbody"
    assert (headers["x-own"], headers["cookie"], headers["content-length"]) == ("v", "c=1", "6")
    assert (headers["host"], headers["x-forwarded-for"], headers["x-forwarded-proto"]) == (f"127.0.0.1:{server.port}", "127.0.0.1", "http")
    assert headers["x-amzn-trace-id"].startswith("Root=1-") and headers["x-forwarded-port"] == str(server.port)
    assert not {"connection", "x-gone", "transfer-encoding"} & set(headers), headers
    context = json.loads(headers["x-amzn-request-context"])
    assert context["http"]["method"] == "PUT" and context["http"]["path"] == "/a b/c"
    own = json.loads(headers["x-amzn-lambda-context"])
    assert own["env_config"]["function_name"] == name and own["request_id"] == answer.headers["x-amzn-requestid"]
    assert own["invoked_function_arn"].endswith(f":function:{name}")


@pytest.mark.modes("dev")
def test_another_http_is_not_spoken(server):
    _, url = served(server)
    path = url.split(str(server.port), 1)[1]
    for protocol in ("h2c", "websocket, h2c", "HTTP/2.0"):
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, close\r\nUpgrade: {protocol}\r\nContent-Length: 4\r\n\r\nbody"
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
            client.sendall(head.encode())
            answer = b"".join(iter(lambda: client.recv(65_536), b""))
        assert answer.startswith(b"HTTP/1.1 200"), answer
        seen = json.loads(answer.split(b"\r\n\r\n", 1)[1])
        assert base64.b64decode(seen["body"]) == b"body" and "upgrade" not in dict(seen["headers"])


def test_the_variables_of_a_server(server):
    name, url = served(server, variables={"AWS_LWA_PORT": "3000", "OWN": "1"})
    env = get(url, "env").json()
    assert (env["PORT"], env["OWN"], env["K_SERVICE"], env["K_REVISION"]) == ("3000", "1", name, f"{name}-latest")
    assert "DUNLIN_WEB_COMMAND" not in env and "AWS_LAMBDA_RUNTIME_API" not in env
    assert env["AWS_LAMBDA_FUNCTION_NAME"] == name and env["AWS_ACCESS_KEY_ID"]


def test_answers_pass_as_they_are(server):
    _, url = served(server)
    answer = get(url, "binary")
    assert answer.content == bytes(range(256)) and answer.headers["content-type"] == "image/png"
    answer = get(url, "cookies")
    assert answer.raw.headers.getlist("set-cookie") == ["a=1", "b=2"]
    assert "x-hop" not in answer.headers
    for code in (201, 301, 404, 500, 503):
        answer = get(url, f"status?code={code}", allow_redirects=False)
        assert (answer.status_code, answer.json()) == (code, {"status": str(code)})
    assert (get(url, "nothing").status_code, get(url, "nothing").content) == (204, b"")
    head = requests.head(url + "big?n=1000", timeout=40)
    assert (head.status_code, head.headers["content-length"], head.content) == (200, "1000", b"")
    assert get(url).status_code == 200, "the connection is in step after all of them"


def test_fifty_requests_in_one_environment(server):
    name, url = served(server)
    with concurrent.futures.ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda _: get(url, "together?n=50"), range(50)))
    assert [answer.status_code for answer in answers] == [200] * 50, [answer.text for answer in answers if answer.status_code != 200]
    assert len({answer.json()["me"] for answer in answers}) == 1
    wait_for(lambda: sum(line.startswith("REPORT RequestId") for line in lines(server, name)) == 50, "a report of each request")


def test_no_more_at_once_than_the_settings_say(server):
    _, url = served(server, variables={"DUNLIN_WEB_CONCURRENCY": "2"})
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: get(url, "sleep?s=1").json()["me"], range(6)))
    assert max(answers.count(me) for me in answers) <= 4 and len(set(answers)) >= 2, answers


def test_a_stream_comes_piece_by_piece(server):
    _, url = served(server)
    with get(url, "stream?gated&n=3", stream=True) as answer:
        assert answer.headers["content-type"] == "text/event-stream"
        pieces = answer.iter_content(None)
        for number in range(3):
            # The next piece is not even made before this one is here.
            assert next(pieces) == f"data: {number}\n\n".encode()
            assert get(url, "go").status_code == 200
        assert list(pieces) == []


def test_the_server_sees_that_its_client_is_gone(server):
    name, url = served(server)
    with get(url, "endless", stream=True) as answer:
        assert next(answer.iter_content(5)) == b"tick\n"
    wait_for(lambda: "nobody listens" in lines(server, name), "the server's word")


def test_bodies_larger_than_an_event(server):
    _, url = served(server)
    sent = os.urandom(1 << 20) * 20
    for data in (sent, (sent[at:at + 65_536] for at in range(0, len(sent), 65_536))):
        got = requests.post(url + "count", data=data, timeout=60).json()
        assert got == {"bytes": len(sent), "sha256": hashlib.sha256(sent).hexdigest()}
    assert len(get(url, f"big?n={20 << 20}").content) == 20 << 20


def test_too_large_a_body_is_refused(server):
    _, url = served(server)
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        path = url.split(str(server.port), 1)[1]
        client.sendall(f"POST {path}count HTTP/1.1\r\nHost: localhost\r\nContent-Length: {201 << 20}\r\n\r\n".encode())
        assert client.recv(100).startswith(b"HTTP/1.1 413")


@pytest.mark.modes("dev")
def test_bodies_of_ambiguous_length_never_reach_the_server(server):
    _, url = served(server)
    path = url.split(str(server.port), 1)[1]
    smuggled = "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
    for head, body in [
        ("Content-Length: 5\r\nContent-Length: 6\r\n", "abcdef"),
        ("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", "0\r\n\r\n" + smuggled),
        ("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"),
        ("Content-Length: +5\r\n", "abcde"),
    ]:
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.settimeout(10)
            client.sendall(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{head}\r\n{body}".encode())
            answer = b""
            try:
                while piece := client.recv(65_536):
                    answer += piece
            except OSError:
                pass
        assert answer.count(b"HTTP/1.1 ") <= 1 and b"/smuggled" not in answer, answer
        if answer.startswith(b"HTTP/1.1 200"):
            seen = json.loads(answer.split(b"\r\n\r\n", 1)[1])
            names = [name for name, _ in seen["headers"]]
            assert not {"content-length", "transfer-encoding"} <= set(names), names
            assert base64.b64decode(seen["body"]) == b""


def started(server, name):
    """Between which times the oldest environment of a function that there is was started, by this machine's clock."""
    before = time.monotonic()
    ages = [row["ageMs"] for row in dunlin(server, "ps", "--json").json["environments"] if row["function"].endswith(name)]
    age = max(ages, default=0) / 1_000
    return before - age - 0.01, time.monotonic() - age


def is_there(server, name, first):
    """Whether the environment that was started between these times still is the oldest."""
    low, high = started(server, name)
    return low <= first[1] and first[0] <= high


def test_answers_that_are_none(server):
    name, url = served(server)
    assert get(url).ok
    first = started(server, name)
    for path in ("garbage", "close", "twice", "heavy?n=200000"):
        answer = get(url, path)
        assert (answer.status_code, answer.text) == (502, "Internal Server Error"), path
    with pytest.raises(requests.exceptions.RequestException):
        print(get(url, "half").content)
    # There may be a second environment by now, which then has the calls; the first one is there as well.
    assert get(url).ok and is_there(server, name, first), "others in the environment do not suffer from it"
    answer, document = invoke(server, name, {"version": "2.0", "rawPath": "/garbage", "requestContext": {"http": {"method": "GET"}}})
    assert (answer["FunctionError"], document["errorType"]) == ("Unhandled", "Runtime.InvalidResponse")


def test_the_end_of_a_request_in_time(server):
    name, url = served(server, Timeout=2)
    assert get(url).ok
    first = started(server, name)
    answer = get(url, "sleep?s=15")
    assert (answer.status_code, answer.json()) == (504, {"Message": "Gateway Timeout"})
    assert get(url).ok and is_there(server, name, first), "the environment has others to serve"
    assert any("Task timed out after 2.00 seconds" in line for line in wait_for(lambda: lines(server, name), "a log"))


def test_alone_in_its_environment_a_request_that_is_over_ends_it(server):
    _, url = adapted(server, Timeout=2)
    first = get(url).json()["me"]
    assert get(url, "sleep?s=15").status_code == 504
    assert get(url).json()["me"] != first


def test_the_end_of_the_process(server):
    name, url = served(server)
    first = get(url).json()["me"]
    answer, document = invoke(server, name, {"version": "2.0", "rawPath": "/crash", "requestContext": {"http": {"method": "GET"}}})
    assert answer["FunctionError"] == "Unhandled"
    assert document["errorType"] == "Runtime.ExitError" and document["errorMessage"].endswith("exit status 3")
    assert get(url, "crash").status_code == 502
    assert get(url).json()["me"] != first
    wait_for(lambda: lines(server, name).count("about to crash") == 2, "its last words")


def test_a_server_that_does_not_come_up(server):
    name, url = served(server, command="echo no reason; exit 7")
    assert get(url).status_code == 502
    _, document = invoke(server, name, {})
    assert document["errorType"] == "Runtime.ExitError" and document["errorMessage"].endswith("exit status 7")
    assert "no reason" in wait_for(lambda: lines(server, name), "a log")
    name, url = served(server, command="exec nothing-of-that-name")
    _, document = invoke(server, name, {})
    assert document["errorMessage"].endswith("exit status 127"), document


def test_a_server_that_is_not_ready_in_time(server):
    variables = {"DUNLIN_WEB_STARTUP": "1", "AWS_LWA_READINESS_CHECK_PATH": "/status?code=503"}
    name, url = served(server, variables=variables)
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda _: get(url).status_code, range(3)))
    assert answers == [504] * 3
    _, document = invoke(server, name, {})
    assert document["errorType"] == "Sandbox.Timedout"
    assert "Init timed out after 1.00 seconds" in document["errorMessage"] and "status 503" in document["errorMessage"], document
    name, _ = served(server, variables={"DUNLIN_WEB_STARTUP": "1", "SLOW": "30"})
    assert "Connection refused" in invoke(server, name, {})[1]["errorMessage"]


@pytest.mark.modes("dev")
def test_slow_starts_may_be_allowed(server):
    _, url = served(server, variables={"SLOW": "11", "DUNLIN_WEB_STARTUP": "30"}, Timeout=5)
    assert get(url).status_code == 200


def test_it_is_asked_to_stop_before_it_is_ended(server):
    name, url = served(server)
    assert get(url).status_code == 200
    # Environments of the former settings end.
    server.client("lambda").update_function_configuration(FunctionName=name, Description="other")
    assert get(url).status_code == 200
    wait_for(lambda: {"asked to stop", "stopped in order"} <= set(lines(server, name)), "an end in order")


def test_a_stop_of_the_platform_asks_too(own_server):
    server = own_server("dev")
    name, url = served(server)
    assert get(url).status_code == 200
    assert server.stop() == 0
    server.start()
    assert "stopped in order" in lines(server, name)


def test_events_become_requests_and_answers_their_form(server):
    name, _ = served(server)
    event = {
        "version": "2.0", "rawPath": "/p/é", "rawQueryString": "q=1", "cookies": ["a=1", "b=2"], "headers": {"x-own": "v"},
        "requestContext": {"http": {"method": "POST"}}, "body": base64.b64encode(b"\xff").decode(), "isBase64Encoded": True,
    }
    answer, document = invoke(server, name, event)
    assert "FunctionError" not in answer and document["statusCode"] == 200 and document["isBase64Encoded"] is False
    seen = json.loads(document["body"])
    assert (seen["method"], seen["path"], seen["body"]) == ("POST", "/p/%C3%A9?q=1", "/w==")
    assert dict(seen["headers"])["cookie"] == "a=1; b=2"
    binary = {**event, "rawPath": "/binary", "requestContext": {"http": {"method": "GET"}}}
    document = invoke(server, name, binary)[1]
    assert document["isBase64Encoded"] is True and base64.b64decode(document["body"]) == bytes(range(256))
    assert document["cookies"] == ["a=1"]
    rest = {"httpMethod": "GET", "path": "/cookies", "requestContext": {"stage": "x"}, "headers": None}
    document = invoke(server, name, rest)[1]
    assert document["multiValueHeaders"]["set-cookie"] == ["a=1", "b=2"]
    balancer = {"httpMethod": "GET", "path": "/", "requestContext": {"elb": {}}, "headers": {}, "queryStringParameters": {"a": "b%20c"}}
    document = invoke(server, name, balancer)[1]
    assert document["statusDescription"] == "200 OK" and json.loads(document["body"])["path"] == "/?a=b%20c"


def test_other_events_are_posted(server):
    name, _ = served(server)
    assert invoke(server, name, {"Records": [1]})[1] == {"event": {"Records": [1]}, "trace": True}
    answer, document = invoke(server, name, "fail")
    assert answer["FunctionError"] == "Unhandled" and document["errorType"] == "Runtime.WebServerStatus"
    name, _ = adapted(server, {"AWS_LWA_PASS_THROUGH_PATH": "/in/events"})
    assert "FunctionError" not in invoke(server, name, "fail")[0], "the adapter's rule"
    name, _ = adapted(server, {"AWS_LWA_ERROR_STATUS_CODES": "500-599"})
    assert "FunctionError" in invoke(server, name, "fail")[0]


def test_the_adapters_variables(server):
    name, url = adapted(server, {"AWS_LWA_REMOVE_BASE_PATH": "/api", "AWS_LWA_AUTHORIZATION_SOURCE": "X-Token", "AWS_LWA_ENABLE_COMPRESSION": "true"})
    seen = get(url, "api/items?x=1", headers={"X-Token": "t"}).json()
    assert seen["path"] == "/items?x=1" and dict(seen["headers"])["authorization"] == "t"
    _, url = adapted(server, {"AWS_LWA_READINESS_CHECK_PROTOCOL": "tcp", "PORT": "5000"})
    assert get(url, "env").json()["PORT"] == "5000"
    event = {"version": "2.0", "rawPath": "/stream", "requestContext": {"http": {"method": "GET"}}}
    name, _ = adapted(server, {"AWS_LWA_INVOKE_MODE": "response_stream"})
    stream = server.client("lambda").invoke_with_response_stream(FunctionName=name, Payload=json.dumps(event))["EventStream"]
    content = b"".join(part["PayloadChunk"]["Payload"] for part in stream if "PayloadChunk" in part)
    prelude, body = content.split(b"\0" * 8, 1)
    assert json.loads(prelude)["statusCode"] == 200 and body == b"data: 0\n\ndata: 1\n\ndata: 2\n\n"


@pytest.mark.modes("dev")
def test_settings_that_are_not_understood_are_refused(server):
    for variables, words in [
        ({"DUNLIN_WEB_COMMAND": "x", "AWS_LWA_PORT": "80"}, "AWS_LWA_PORT must be a number from 1024 to 65535"),
        ({"DUNLIN_WEB_COMMAND": "x", "AWS_LWA_ENABLE_TLS": "true"}, "AWS_LWA_ENABLE_TLS is no setting"),
        ({"DUNLIN_WEB_CONCURRENCY": "5"}, "has no meaning without DUNLIN_WEB_COMMAND"),
    ]:
        got = refused(
            server.client("lambda").create_function, FunctionName=name_of(), Runtime=PYTHON, Handler="x", Role=ROLE,
            Code={"ZipFile": zipped({"a": "b"})}, Environment={"Variables": variables},
        )
        assert got[:2] == (400, "InvalidParameterValueException") and words in got[2], got


def test_apis_lead_to_servers(server):
    name, _ = served(server)
    api, url = http_api(server, name, "$default")
    old, old_url = http_api(server, name, "ANY /{proxy+}", version="1.0")
    rest, _, rest_url = rest_api(server, name, "/{proxy+}")
    for identity, url in ((api, url), (old, old_url), (rest, rest_url)):
        answer = requests.post(f"{url}/a%20b?c=d", data=b"\xff" * 10, timeout=40)
        assert answer.status_code == 200, answer.text
        seen = answer.json()
        assert (seen["path"], base64.b64decode(seen["body"])) == ("/a%20b?c=d", b"\xff" * 10)
        headers = dict(seen["headers"])
        assert json.loads(headers["x-amzn-request-context"])["apiId"] == identity and headers["x-forwarded-for"] == "127.0.0.1"
        assert get(url, "/binary").content == bytes(range(256))
        assert get(url, "/status?code=418").status_code == 418
        assert get(url, "/stream").text == "data: 0\n\ndata: 1\n\ndata: 2\n\n"
    assert requests.post(f"{url}/count", data=b"x" * (11 << 20), timeout=40).status_code == 413


def test_signed_urls_lead_to_servers(server):
    name, _ = served(server)
    client = server.client("lambda")
    client.update_function_url_config(FunctionName=name, AuthType="AWS_IAM")
    url = client.get_function_url_config(FunctionName=name)["FunctionUrl"]
    identity = url.split("://")[1].split(".")[0]
    url = f"{server.url}/_dunlin/url/{identity}/"
    assert requests.post(url, data=b"x", timeout=40).status_code == 403
    answer = requests.post(url + "count", data=b"body", headers=sign(server, "POST", url + "count", b"body"), timeout=40)
    assert answer.json()["bytes"] == 4


WEBSOCKETS = """
import asyncio, os, websockets

async def echo(socket):
    async for message in socket:
        await socket.send(message[::-1] if isinstance(message, str) else message)
        if message == "bye":
            return

async def main():
    async with websockets.serve(echo, "0.0.0.0", int(os.environ["PORT"]), max_size=None):
        await asyncio.get_running_loop().create_future()

asyncio.run(main())
"""


def installed(name):
    if not (WEB / f".{name}").exists():
        pytest.skip(f"the web frameworks are not in {WEB}: tests/install.sh could not get them from the registry")


def tree(folder, **files):
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            files[str(path.relative_to(folder))] = path.read_bytes()
    return files


class WebSocket:
    """Enough of a client to see that bytes pass untouched."""

    def __init__(self, server, url):
        self.socket = socket.create_connection(("127.0.0.1", server.port), timeout=30)
        path = url.split(str(server.port), 1)[1]
        self.socket.sendall(
            f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        )
        self.stream = self.socket.makefile("rb")
        self.head = b"".join(iter(self.stream.readline, b"\r\n"))

    def close(self):
        self.stream.close()
        self.socket.close()

    def send(self, data, kind=1):
        length = len(data)
        size = bytes([0x80 | length]) if length < 126 else b"\xfe" + length.to_bytes(2) if length < 65_536 else b"\xff" + length.to_bytes(8)
        self.socket.sendall(bytes([0x80 | kind]) + size + bytes(4) + data)

    def receive(self):
        first, size = self.stream.read(2)
        length = size & 0x7F
        length = int.from_bytes(self.stream.read({126: 2, 127: 8}[length])) if length > 125 else length
        return first & 0x0F, self.stream.read(length)


def test_websockets_pass(server):
    installed("python")
    files = {f"websockets/{path.relative_to(WEB / 'python/websockets')}": path.read_bytes() for path in (WEB / "python/websockets").rglob("*.py")}
    name, url = served(server, {"server.py": WEBSOCKETS, **files})
    sockets = [WebSocket(server, url) for _ in range(3)]
    for number, client in enumerate(sockets):
        assert client.head.startswith(b"HTTP/1.1 101") and b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in client.head, client.head
        client.send(f"hello {number}".encode())
    for number, client in enumerate(sockets):
        assert client.receive() == (1, f"{number} olleh".encode())
    large = os.urandom(1 << 20)
    sockets[0].send(large, kind=2)
    assert sockets[0].receive() == (2, large)
    sockets[1].send(b"bye")
    assert sockets[1].receive() == (1, b"eyb") and sockets[1].receive()[0] == 8
    for client in sockets:
        client.close()
    wait_for(lambda: sum(line.startswith("REPORT RequestId") for line in lines(server, name)) == 3, "a report of each")
    # A plain request is told so by the server itself.
    assert get(url).status_code == 426


@pytest.mark.modes("dev")
def test_a_websocket_ends_with_the_functions_time(server):
    installed("python")
    files = {f"websockets/{path.relative_to(WEB / 'python/websockets')}": path.read_bytes() for path in (WEB / "python/websockets").rglob("*.py")}
    _, url = served(server, {"server.py": WEBSOCKETS, **files}, Timeout=3)
    client = WebSocket(server, url)
    client.send(b"ab")
    assert client.receive() == (1, b"ba")
    assert client.stream.read(1) == b""


EXPRESS = """
const express = require('express');
const app = express();
app.use(express.json());
app.post('/items/:id', (request, response) => response.status(201).json({id: request.params.id, body: request.body, by: request.ip}));
app.get('/stream', async (request, response) => {
  for (const part of ['a', 'b', 'c']) { response.write(part); await new Promise(setImmediate); }
  response.end();
});
app.listen(process.env.PORT, () => console.log('express listens'));
"""


@pytest.mark.modes("dev")
def test_express(server):
    installed("node")
    files = tree(WEB / "node", **{"server.js": EXPRESS})
    _, url = served(server, files, NODE, command="node server.js")
    answer = requests.post(url + "items/7", json={"a": 1}, timeout=40)
    assert (answer.status_code, answer.json()["id"], answer.json()["body"]) == (201, "7", {"a": 1})
    assert get(url, "stream").text == "abc"


@pytest.mark.modes("dev")
def test_node_without_a_framework(server):
    code = """
const http = require('http');
http.createServer((request, response) => {
  let size = 0;
  request.on('data', (data) => { size += data.length; });
  request.on('end', () => { response.setHeader('x-size', size); response.end(`${request.method} ${request.url}`); });
}).listen(process.env.PORT);
"""
    _, url = served(server, {"server.js": code}, NODE, command="node server.js")
    for _ in range(20):
        answer = requests.post(url + "x?y", data=b"z" * 100_000, timeout=40)
        assert (answer.text, answer.headers["x-size"]) == ("POST /x?y", "100000")


FASTAPI = """
from fastapi import FastAPI, WebSocket
from fastapi.responses import StreamingResponse

app = FastAPI()

@app.get("/items/{number}")
def item(number: int, q: str = ""):
    return {"number": number, "q": q}

@app.get("/stream")
def stream():
    return StreamingResponse((f"data: {n}\\n\\n" for n in range(3)), media_type="text/event-stream")

@app.websocket("/socket")
async def socket(socket: WebSocket):
    await socket.accept()
    while True:
        await socket.send_text((await socket.receive_text()).upper())
"""


@pytest.mark.modes("dev")
def test_fastapi(server):
    installed("python")
    files = tree(WEB / "python", **{"main.py": FASTAPI})
    command = "python -m uvicorn main:app --host 0.0.0.0 --port $PORT"
    _, url = served(server, files, command=command, MemorySize=512, Timeout=30, variables={"DUNLIN_WEB_STARTUP": "60"})
    assert get(url, "items/7?q=x").json() == {"number": 7, "q": "x"}
    assert get(url, "items/x").status_code == 422
    assert get(url, "stream").text == "data: 0\n\ndata: 1\n\ndata: 2\n\n"
    client = WebSocket(server, url + "socket")
    client.send(b"up")
    assert client.receive() == (1, b"UP")
    client.close()


SPRING = """
package app;

import java.io.OutputStream;
import java.util.Map;
import org.springframework.boot.SpringApplication;
import org.springframework.boot.autoconfigure.SpringBootApplication;
import org.springframework.http.HttpStatus;
import org.springframework.web.bind.annotation.*;
import org.springframework.web.servlet.mvc.method.annotation.StreamingResponseBody;

@SpringBootApplication
@RestController
public class Application {
    public record Item(String name, int count) {}

    @PostMapping("/items/{id}")
    @ResponseStatus(HttpStatus.CREATED)
    public Map<String, Object> item(@PathVariable("id") int id, @RequestBody Item item) {
        return Map.of("id", id, "name", item.name(), "count", item.count());
    }

    @GetMapping("/stream")
    public StreamingResponseBody stream() {
        return out -> {
            for (String part : new String[] {"a", "b", "c"}) { out.write(part.getBytes()); out.flush(); }
        };
    }

    public static void main(String[] arguments) { SpringApplication.run(Application.class, arguments); }
}
"""


@pytest.mark.modes("dev")
def test_spring(server, tmp_path):
    jars = installed_jars()
    (tmp_path / "Application.java").write_text(SPRING)
    names = ":".join(str(jar) for jar in jars)
    out = tmp_path / "classes"
    subprocess.run(["javac", "-parameters", "-cp", names, "-d", out, tmp_path / "Application.java"], check=True, timeout=120)
    files = {str(file.relative_to(out)): file.read_bytes() for file in out.rglob("*.class")}
    files |= {f"lib/{jar.name}": jar.read_bytes() for jar in jars}
    files["application.properties"] = b"server.port=${PORT}\nserver.shutdown=graceful\n"
    command = "java -XX:TieredStopAtLevel=1 -cp '.:lib/*' app.Application"
    _, url = served(server, files, JAVA, command=command, MemorySize=1024, Timeout=30,
                    variables={"DUNLIN_WEB_STARTUP": "120", "DUNLIN_WEB_CONCURRENCY": "20"})
    # The first request starts it.
    answer = requests.post(url + "items/7", json={"name": "ü", "count": 3}, timeout=150)
    assert (answer.status_code, answer.json()) == (201, {"id": 7, "name": "ü", "count": 3})
    assert requests.post(url + "items/x", json={}, timeout=40).status_code == 400
    assert get(url, "stream").text == "abc"
    assert get(url, "nothing").json()["path"].endswith("/nothing")


def installed_jars():
    """Spring's jars, where there is a JDK that they run on."""
    jars = sorted((ROOT / ".cache/spring/lib").glob("*.jar"))
    if not jars:
        pytest.skip("Spring could not be installed (tests/install.sh says why)")
    shown = subprocess.run(["javac", "-version"], capture_output=True, text=True, check=True).stdout
    if int(shown.split()[1].split(".")[0]) < 17:
        pytest.skip(f"Spring Boot 3 needs a JDK from 17 on; this is {shown.strip()}")
    return jars


GO = """
package main

import ("fmt"; "io"; "net/http"; "os")

func main() {
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %d", r.Method, r.URL, len(body))
	})
	http.ListenAndServe(":" + os.Getenv("PORT"), nil)
}
"""


@pytest.mark.modes("dev")
def test_a_static_binary_of_go(server, tmp_path):
    if not shutil.which("go"):
        pytest.skip("Go is not there")
    (tmp_path / "main.go").write_text(GO)
    environment = os.environ | {"CGO_ENABLED": "0", "GOFLAGS": "-mod=mod", "GOCACHE": str(WEB / "go")}
    subprocess.run(["go", "build", "-o", "server", "main.go"], cwd=tmp_path, env=environment, check=True)
    files = {"server": ((tmp_path / "server").read_bytes(), 0o755)}
    _, url = served(server, files, "provided.al2023", command="./server")
    assert requests.post(url + "a?b", data="body", timeout=40).text == "POST /a?b 4"
    # The same with the adapter's variables only: the package's bootstrap is the server.
    name, url = served(server, {"bootstrap": files["server"]}, "provided.al2023", "bootstrap", None, {"AWS_LWA_PORT": "8081"})
    assert get(url, "x").text == "GET /x 0"


@pytest.mark.modes("dev")
def test_a_server_cannot_reach_that_of_another(server):
    code = """
import os, socket
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        with socket.socket() as probe:
            probe.settimeout(2)
            got = probe.connect_ex(("127.0.0.1", int(self.path[1:])))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(str(got).encode())

HTTPServer(("0.0.0.0", int(os.environ["PORT"])), Handler).serve_forever()
"""
    _, first = served(server, variables={"AWS_LWA_PORT": "4000"})
    assert get(first).status_code == 200
    _, second = served(server, code, variables={"AWS_LWA_PORT": "4001"})
    assert get(second, "4001").text == "0", "its own"
    assert get(second, "4000").text != "0", "another's"
    assert get(second, str(server.port)).text != "0", "the platform's listener"


def test_tails_of_calls_that_share_an_environment(server):
    name, _ = served(server)
    event = {"version": "2.0", "rawPath": "/print", "rawQueryString": "text=hello", "requestContext": {"http": {"method": "GET"}}}
    answer, _ = invoke(server, name, event, LogType="Tail")
    tail = base64.b64decode(answer["LogResult"]).decode()
    assert "hello" in tail and "START RequestId" in tail and "REPORT RequestId" in tail, tail


def test_servers_that_are_there_always(server):
    name, url = served(server)
    client = server.client("lambda")
    client.publish_version(FunctionName=name)
    client.put_provisioned_concurrency_config(FunctionName=name, Qualifier="1", ProvisionedConcurrentExecutions=1)
    status = lambda: client.get_provisioned_concurrency_config(FunctionName=name, Qualifier="1")["Status"]
    wait_for(lambda: status() == "READY", "a provisioned server")
    event = {"version": "2.0", "rawPath": "/", "requestContext": {"http": {"method": "GET"}}}
    answer, _ = invoke(server, name, event, Qualifier="1")
    assert "FunctionError" not in answer

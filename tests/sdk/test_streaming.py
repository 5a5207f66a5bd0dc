"""Answers in pieces: response streams of Node.js handlers and of custom runtimes, over function URLs and by the API."""

import base64
import json
import pathlib
import textwrap
import threading
import time

import pytest
import requests

from conftest import NODE, wait_for
from test_provided import PROGRAM, RUNTIME

MB = 1_000_000

HANDLER = """
const { setTimeout: sleep } = require('timers/promises');
const { once } = require('events');
exports.handler = awslambda.streamifyResponse(async (event, stream, context) => {
  const query = event.queryStringParameters || event;
  if (query.early) throw new TypeError('before the first byte');
  if (query.http) {
    stream = awslambda.HttpResponseStream.from(stream, {
      statusCode: 201, headers: { 'Content-Type': 'text/plain', 'X-Own': 'yes' }, cookies: ['a=1', 'b=2; Path=/'],
    });
  } else stream.setContentType('text/x-own');
  stream.write('first ');
  console.log('began');
  if (query.wait) await sleep(Number(query.wait));
  if (query.fail) throw new TypeError('half way');
  const block = Buffer.alloc(1 << 16, 'x');
  for (let left = Number(query.bytes || 0); left > 0; left -= block.length) {
    if (!stream.write(block.subarray(0, Math.min(left, block.length)))) await once(stream, 'drain');
  }
  stream.end('last');
  await require('stream/promises').finished(stream);
  console.log('ended');
});
"""


@pytest.fixture(scope="module")
def streaming(dev):
    """A streaming function of the development server, and its URL."""
    name = dev.function(HANDLER, runtime=NODE, Timeout=30, MemorySize=256)
    return name, dev.function_url(name, InvokeMode="RESPONSE_STREAM")


def events_of(server, name, payload, **arguments):
    """The answer and its events, the last one apart."""
    call = server.client("lambda").invoke_with_response_stream
    answer = call(FunctionName=name, Payload=json.dumps(payload), **arguments)
    *chunks, last = list(answer["EventStream"])
    return answer, [chunk["PayloadChunk"]["Payload"] for chunk in chunks], last["InvokeComplete"]


def lines(server, name, text):
    """How many log events of a function hold this text."""
    logs = server.client("logs")
    try:
        found = logs.filter_log_events(logGroupName=f"/aws/lambda/{name}", filterPattern=f'"{text}"')
    except logs.exceptions.ResourceNotFoundException:
        return 0
    return len(found["events"])


def test_the_first_byte_arrives_before_the_function_ends(streaming):
    _, url = streaming
    began = time.monotonic()
    with requests.get(url, params={"http": 1, "wait": 1500}, stream=True, timeout=30) as answer:
        pieces = answer.iter_content(chunk_size=None)
        first = next(pieces)
        at_first = time.monotonic() - began
        assert (first, answer.status_code) == (b"first ", 201)
        assert answer.headers["content-type"] == "text/plain" and answer.headers["x-own"] == "yes"
        assert answer.cookies.get_dict() == {"a": "1", "b": "2"}
        assert answer.headers["transfer-encoding"] == "chunked"
        assert b"".join(pieces) == b"last"
        took = time.monotonic() - began
    # The handler sleeps for 1.5 s after its first byte.
    assert took - at_first > 1, (at_first, took)


def test_without_a_prelude_the_stream_is_the_body(streaming):
    _, url = streaming
    answer = requests.get(url, timeout=30)
    assert (answer.status_code, answer.headers["content-type"], answer.text) == (200, "text/x-own", "first last")


def test_errors_before_and_after_the_first_byte(dev, streaming):
    name, url = streaming
    answer = requests.get(url, params={"early": 1}, timeout=30)
    assert (answer.status_code, answer.text) == (502, "Internal Server Error")
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        requests.get(url, params={"fail": 1, "wait": 100}, timeout=30)
    _, chunks, last = events_of(dev, name, {"early": 1})
    assert chunks == [] and last["ErrorCode"] == "TypeError"
    assert json.loads(last["ErrorDetails"])["errorMessage"] == "before the first byte"
    _, chunks, last = events_of(dev, name, {"fail": 1})
    assert chunks == [b"first "] and json.loads(last["ErrorDetails"])["errorMessage"] == "half way"
    assert requests.get(url, timeout=30).status_code == 200


def test_invoke_with_response_stream(server):
    name = server.function(HANDLER, runtime=NODE, Timeout=2)
    answer, chunks, last = events_of(server, name, {"bytes": 200_000}, LogType="Tail")
    assert (answer["StatusCode"], answer["ExecutedVersion"]) == (200, "$LATEST")
    assert answer["ResponseStreamContentType"] == "application/vnd.amazon.eventstream"
    assert b"".join(chunks) == b"first " + b"x" * 200_000 + b"last"
    assert "ErrorCode" not in last
    tail = base64.b64decode(last["LogResult"]).decode()
    assert "INFO\tbegan" in tail and "REPORT RequestId: " in tail
    _, chunks, last = events_of(server, name, {"wait": 60_000})
    assert (chunks, last["ErrorCode"]) == ([b"first "], "Sandbox.Timedout")
    plain = server.function("exports.handler = async (event) => event;", runtime=NODE)
    assert events_of(server, plain, {"a": 1})[1:] == ([b'{"a":1}'], {})
    url = server.function_url(plain, InvokeMode="RESPONSE_STREAM")
    assert requests.post(url, data="hi", headers={"content-type": "text/plain"}, timeout=30).json()["body"] == "hi"


def test_a_caller_that_takes_no_stream_gets_all_at_once(dev, streaming):
    name, _ = streaming
    url = dev.function_url(dev.function(HANDLER, runtime=NODE))
    assert requests.get(url, timeout=30).text == "first last"
    answer = dev.client("lambda").invoke(FunctionName=name, Payload=b'{"bytes": 1000}')
    assert answer["Payload"].read() == b"first " + b"x" * 1000 + b"last"
    answer = dev.client("lambda").invoke(FunctionName=name, Payload=json.dumps({"bytes": 7 * MB}))
    assert json.load(answer["Payload"])["errorType"] == "Function.ResponseSizeTooLarge"


def memory(server, key):
    """A line of the server's memory, in bytes."""
    status = pathlib.Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.split(f"{key}:")[1].split()[0]) * 1024


def test_200_mb_pass_in_constant_memory(own_server):
    server = own_server("dev")
    name = server.function(HANDLER, runtime=NODE, Timeout=120, MemorySize=256)
    url = server.function_url(name, InvokeMode="RESPONSE_STREAM")
    # What a first stream needs is there before the count begins.
    assert requests.get(url, params={"bytes": MB}, timeout=60).status_code == 200
    pathlib.Path(f"/proc/{server.process.pid}/clear_refs").write_text("5")
    before = memory(server, "VmRSS")
    total = 0
    with requests.get(url, params={"bytes": 200 * MB}, stream=True, timeout=120) as answer:
        for piece in answer.iter_content(chunk_size=1 << 20):
            total += len(piece)
    assert total == 200 * MB + len("first last")
    grown = memory(server, "VmHWM") - before
    assert grown < 16 * MB, f"{grown} bytes more while 200 MB passed"
    # The function stays within its own memory too.
    report = wait_for(lambda: [event["message"] for event in server.client("logs").filter_log_events(
        logGroupName=f"/aws/lambda/{name}", filterPattern="REPORT")["events"]][1:], "the second REPORT")
    assert int(report[0].split("Max Memory Used: ")[1].split(" ")[0]) < 200, report


def test_a_rate_can_be_set(own_server):
    server = own_server("dev", "--stream-rate", str(4 * MB))
    url = server.function_url(server.function(HANDLER, runtime=NODE), InvokeMode="RESPONSE_STREAM")
    assert requests.get(url, timeout=30).status_code == 200
    began = time.monotonic()
    assert len(requests.get(url, params={"bytes": 10 * MB}, timeout=30).content) == 10 * MB + len("first last")
    # What is beyond 6 MiB takes its time.
    assert time.monotonic() - began > 0.8


def test_a_slow_reader_slows_the_function(dev):
    name = dev.function(HANDLER, runtime=NODE, Timeout=60)
    url = dev.function_url(name, InvokeMode="RESPONSE_STREAM")
    with requests.get(url, params={"bytes": 64 * MB}, stream=True, timeout=60) as answer:
        wait_for(lambda: lines(dev, name, "began"), "the handler's begin")
        # Far longer than 64 MB take when somebody reads.
        time.sleep(1)
        assert lines(dev, name, "ended") == 0
        assert sum(len(piece) for piece in answer.iter_content(1 << 20)) == 64 * MB + len("first last")
    wait_for(lambda: lines(dev, name, "ended"), "the handler's end")


def test_a_function_whose_client_is_gone_runs_to_its_end(dev):
    name = dev.function(HANDLER, runtime=NODE, Timeout=60)
    url = dev.function_url(name, InvokeMode="RESPONSE_STREAM")
    with requests.get(url, params={"bytes": 64 * MB}, stream=True, timeout=60) as answer:
        assert next(answer.iter_content(6)) == b"first "
    wait_for(lambda: lines(dev, name, "ended"), "the handler's end")
    report = wait_for(lambda: lines(dev, name, "REPORT RequestId"), "its REPORT")
    assert report == 1


BOOTSTRAP = textwrap.dedent(
    """\
    #!/usr/bin/env python3
    import base64, http.client, json, os, time
    HOST, BASE = os.environ['AWS_LAMBDA_RUNTIME_API'], '/2018-06-01/runtime/invocation/'
    while True:
        connection = http.client.HTTPConnection(HOST)
        connection.request('GET', BASE + 'next')
        answer = connection.getresponse()
        request_id, event = answer.headers['Lambda-Runtime-Aws-Request-Id'], json.load(answer)
        event = event.get('queryStringParameters') or event
        out = http.client.HTTPConnection(HOST)
        out.putrequest('POST', f'{BASE}{request_id}/response')
        for header in [('Lambda-Runtime-Function-Response-Mode', 'streaming'), ('Transfer-Encoding', 'chunked'),
                       ('Content-Type', 'application/vnd.awslambda.http-integration-response'),
                       ('Trailer', 'Lambda-Runtime-Function-Error-Type, Lambda-Runtime-Function-Error-Body')]:
            out.putheader(*header)
        out.endheaders()
        def piece(data):
            out.send(b'%x\\r\\n%s\\r\\n' % (len(data), data))
        piece(json.dumps({'statusCode': 203, 'headers': {'x-own': 'custom'}}).encode() + bytes(8))
        piece(b'first ')
        time.sleep(float(event.get('wait', 0)))
        if event.get('fail'):
            body = base64.b64encode(json.dumps({'errorType': 'Own.Error', 'errorMessage': 'half way'}).encode()).decode()
            out.send(f'0\\r\\nLambda-Runtime-Function-Error-Type: Own.Error\\r\\nLambda-Runtime-Function-Error-Body: {body}\\r\\n\\r\\n'.encode())
        else:
            for _ in range(int(event.get('megabytes', 0))):
                piece(b'x' * 1_000_000)
            piece(b'last')
            out.send(b'0\\r\\n\\r\\n')
        assert out.getresponse().status == 202
    """
)


def test_custom_runtimes_stream_through_the_runtime_api(dev):
    name = dev.function({"bootstrap": (BOOTSTRAP, PROGRAM)}, runtime=RUNTIME, handler="x", Timeout=30)
    url = dev.function_url(name, InvokeMode="RESPONSE_STREAM")
    began = time.monotonic()
    with requests.get(url, params={"wait": 1.5}, stream=True, timeout=30) as answer:
        pieces = answer.iter_content(chunk_size=None)
        assert (next(pieces), answer.status_code, answer.headers["x-own"]) == (b"first ", 203, "custom")
        at_first = time.monotonic() - began
        assert b"".join(pieces) == b"last"
    assert time.monotonic() - began - at_first > 1
    with requests.get(url, params={"megabytes": 30}, stream=True, timeout=30) as answer:
        assert sum(len(piece) for piece in answer.iter_content(1 << 20)) == 30 * MB + len("first last")
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        requests.get(url, params={"fail": 1, "wait": 0.1}, timeout=30)
    _, chunks, last = events_of(dev, name, {"fail": 1})
    assert b"".join(chunks).endswith(b"\0first ")
    assert (last["ErrorCode"], json.loads(last["ErrorDetails"])["errorMessage"]) == ("Own.Error", "half way")


def test_streams_at_once_do_not_wait_for_each_other(dev, streaming):
    _, url = streaming
    sizes = []

    def read():
        with requests.get(url, params={"bytes": 8 * MB, "wait": 50}, stream=True, timeout=60) as answer:
            sizes.append(sum(len(piece) for piece in answer.iter_content(1 << 18)))

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sizes == [8 * MB + len("first last")] * 8

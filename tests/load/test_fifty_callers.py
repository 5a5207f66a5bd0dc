"""Fifty callers of one function at once: no error, no lost log line, and every call in the books exactly once.

Each call has an id of its own, which the function prints and answers. Afterwards the log in CloudWatch Logs, the usage
records and the bill are compared with what the callers saw. `DUNLIN_LOAD_SECONDS` says how long they call.
"""

import collections
import http.client
import json
import os
import re
import statistics
import threading
import time

import pytest

from chaos.servers import Server, runtimes, wait_until

CALLERS = 50
SECONDS = float(os.environ.get("DUNLIN_LOAD_SECONDS", "5"))

CODE = {
    "python": """
import json

def handler(event, context):
    call = json.loads(event["body"])["call"]
    print("call", call)
    return {"statusCode": 200, "body": json.dumps({"call": call, "request": context.aws_request_id})}
""",
    "nodejs": """
exports.handler = async (event, context) => {
  const { call } = JSON.parse(event.body);
  console.log("call " + call);
  return { statusCode: 200, body: JSON.stringify({ call, request: context.awsRequestId }) };
};
""",
}


class Callers:
    """Fifty threads, each with one kept connection to a function URL."""

    def __init__(self, port, host):
        self.port, self.host = port, host
        self.calls = {}
        self.errors = []
        self.seconds = []
        self.end = 0.0

    def run(self):
        self.end = time.monotonic() + SECONDS
        threads = [threading.Thread(target=self.caller, args=(number,)) for number in range(CALLERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def caller(self, number):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        headers = {"Host": self.host, "Content-Type": "application/json"}
        count = 0
        while time.monotonic() < self.end:
            count += 1
            call = f"{number}-{count}"
            try:
                began = time.monotonic()
                connection.request("POST", "/", json.dumps({"call": call}), headers)
                answer = connection.getresponse()
                body = answer.read()
                self.seconds.append(time.monotonic() - began)
                if answer.status != 200:
                    self.errors.append(f"{call}: {answer.status} {body[:200]!r}")
                    continue
                told = json.loads(body)
                if told["call"] != call:
                    self.errors.append(f"{call}: got the answer to {told['call']}")
                self.calls[call] = told["request"]
            except (OSError, http.client.HTTPException, ValueError) as error:
                self.errors.append(f"{call}: {error!r}")
                connection.close()
        connection.close()


def read_log(server, group):
    """All lines of a log group, by what they are: {kind: Counter of call or request ids}."""
    lines = collections.defaultdict(collections.Counter)
    pages = server.client("logs").get_paginator("filter_log_events").paginate(logGroupName=group)
    for page in pages:
        for event in page["events"]:
            message = event["message"].strip()
            if request := re.match(r"(START|END|REPORT) RequestId: (\S+)", message):
                lines[request[1]][request[2]] += 1
            elif call := re.search(r"\bcall (\d+-\d+)$", message):
                lines["call"][call[1]] += 1
            elif not message.startswith("INIT_START"):
                lines["other"][message] += 1
    return lines


@pytest.fixture(scope="module")
def platform():
    with Server() as running:
        yield running.start()
        family = running.family()
        assert running.stop() == 0
        running.assert_nothing_left(family)


@pytest.mark.parametrize("family", ["nodejs", "python"])
def test_fifty_callers_lose_nothing(platform, family):
    server = platform
    runtime = runtimes(server).get(family)
    if runtime is None:
        pytest.skip(f"no interpreter of {family} on this machine")
    name = f"fifty-{family}"
    server.create(name, CODE[family], runtime, Timeout=30)
    url = server.client("lambda").create_function_url_config(FunctionName=name, AuthType="NONE")["FunctionUrl"]
    server.open_url(name)
    callers = Callers(server.port, url.split("/")[2])
    callers.run()

    assert callers.errors == [], f"{len(callers.errors)} of {len(callers.calls)} calls failed"
    calls, requests = set(callers.calls), set(callers.calls.values())
    assert len(calls) >= CALLERS, "not every caller called"
    assert len(requests) == len(calls), "two calls had one request id"
    quantiles = statistics.quantiles(callers.seconds, n=100)
    print(f"\n{runtime}: {len(calls)} calls in {SECONDS:g} s by {CALLERS} callers, "
          f"p50 {quantiles[49] * 1e3:.1f} ms, p99 {quantiles[98] * 1e3:.1f} ms")

    seen = {}

    def log_is_complete():
        seen.update(read_log(server, f"/aws/lambda/{name}"))
        return all(set(seen.get(kind, ())) >= requests for kind in ("START", "END", "REPORT"))

    wait_until(lambda: "all reports in the log; there are " + str({k: len(v) for k, v in seen.items()}),
               log_is_complete, 30)
    assert set(seen["call"]) == calls, f"{len(calls - set(seen['call']))} calls lost their line"
    for kind in ("call", "START", "END", "REPORT"):
        assert set(seen[kind].values()) == {1}, f"{kind} lines more than once"
    assert set(seen["REPORT"]) == requests
    assert not seen.get("other"), "lines that nobody printed"

    usage = server.admin(f"usage?function={name}&limit=10000000")
    records = [record["requestId"] for record in usage["records"]]
    assert len(records) == len(set(records)), "a call has two usage records"
    assert set(records) == requests
    assert {record["ending"] for record in usage["records"]} == {"Success"}
    bill = next(entry for entry in server.admin("bill")["functions"] if entry["function"] == name)
    assert (bill["requests"], bill["errors"]) == (len(calls), 0)
    assert bill["billedMs"] == sum(record["billedMs"] for record in usage["records"])

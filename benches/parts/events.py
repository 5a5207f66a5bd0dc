"""Asynchronous events: how long it takes to accept one for good, and until the handler's first line."""
import json
import statistics
import time

import machine
from bench import at_most, load_line, medians
from calls import ask, connected, get
from dunlin import authorization, zipped
from packages import python_runtime
from parts.tables import call, make

CONNECTIONS = (1, 16, 64)
#: Events one after another, and how far apart.
SENT, APART_S = 200, 0.01
#: What accepting an event may take beside a PutItem, whose commit is one flush, and beginning to run it beyond a flush.
ACCEPT_TIMES, BEGIN_MORE_US = 1.1, 1_000

#: Says how long ago it was sent, if it is told when.
CODE = b"""
import time

def handler(event, context):
    now = time.time()
    if event.get("sent"):
        print("BEGAN", round((now - event["sent"]) * 1e6))
"""


def measure(bench):
    server = bench.fresh("events")
    try:
        server.create_function("work", python_runtime(), "handler.handler", zipped({"handler.py": (CODE, 0o644)}))
        make(server.port, "Kept", {"id": "S"})
        found = {**apart(server, bench.folder), "accept": {}}
        for connections in CONNECTIONS:
            samples = [bench.load(server, connections, [event(server, {})]) for _ in range(bench.options.rounds)]
            found["accept"][connections] = medians(samples)
        return found
    finally:
        server.stop()


def event(server, payload):
    text = json.dumps(payload).encode()
    head = (f"POST /2015-03-31/functions/work/invocations HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n"
            f"Authorization: {authorization('lambda')}\r\nX-Amz-Date: 20260101T000000Z\r\n"
            f"X-Amz-Invocation-Type: Event\r\nContent-Length: {len(text)}\r\n\r\n")
    return head.encode() + text


def apart(server, folder):
    """Median µs of events one after another, in a warm environment, with time for each to be over before the next: until one
    is accepted, and until the first line of its handler. In turns with them, as far apart, are what is below that: items that
    are put, bare flushes, and answers that only say that the server is there. All take longer so far apart than one after
    another, since disk and processors have rested."""
    accepted, put, flushed, bare = [], [], [], []
    health = get(server.port, "/_dunlin/health")
    item = call(server.port, "PutItem", {"TableName": "Kept", "Item": {"id": {"S": "one"}, "sent": {"N": "1"}}})
    with connected(server.port) as connection, machine.flushes(folder) as flush:
        for number in range(SENT + 1):
            request = event(server, {"sent": time.time()} if number else {})
            accepted.append(asked_us(connection, request))
            # The first one starts the environment.
            time.sleep(APART_S if number else 2)
            put.append(asked_us(connection, item))
            time.sleep(APART_S)
            flushed.append(flush())
            time.sleep(APART_S)
        for _ in range(SENT):
            bare.append(asked_us(connection, health))
            time.sleep(APART_S)
    body = {"logGroupName": "/aws/lambda/work", "filterPattern": "BEGAN"}
    for _ in range(100):
        lines = server.target("logs", "Logs_20140328.FilterLogEvents", body)["events"]
        if len(lines) >= SENT:
            break
        time.sleep(0.1)
    begun = [int(line["message"].split()[1]) for line in lines]
    seen = {"accepted_us": accepted[1:], "put_us": put[1:], "flush_us": flushed, "bare_us": bare, "begin_us": begun}
    return {name: statistics.median(values) for name, values in seen.items()}


def asked_us(connection, request):
    begin = time.perf_counter()
    ask(connection, request)
    return (time.perf_counter() - begin) * 1e6


def promises(found):
    return {
        "event accepted, one client, p50: one flush, as a PutItem has it (times)": at_most(found["accepted_us"] / found["put_us"], ACCEPT_TIMES),
        "event to the handler's first line, µs: one flush and 1 ms": at_most(found["begin_us"], found["flush_us"] + BEGIN_MORE_US),
    }


def lines(found):
    text = [
        "## Asynchronous events", "",
        f"Each is on disk before its 202. Of events one after another ({SENT}, medians), one is accepted after "
        f"{found['accepted_us']:,.0f} µs, and its warm handler's first line comes after {found['begin_us']:,.0f} µs. In turns with them, "
        f"{APART_S * 1e3:.0f} ms apart: a PutItem takes {found['put_us']:,.0f} µs, a 4 KiB append with fdatasync {found['flush_us']:,.0f} µs, "
        f"an answer that only says that the server is there {found['bare_us']:,.0f} µs. Below, the function runs while events are sent.", "",
        "| | connections | p50 µs | p99 µs | events/s | CPU µs/event, some run | page faults/event | not 2xx |",
        "|---|---|---|---|---|---|---|---|",
    ]
    return text + [load_line("Invoke, Event", connections, seen) for connections, seen in found["accept"].items()]

"""`kill -9` of the server while 64 clients send events: each accepted one ends, as a success or a failure, in a record at
the destination for it.

`DUNLIN_EVENTS` events are accepted, and `DUNLIN_KILLS` times meanwhile the server is killed and started again on its
folder. One event in ten fails. The destinations are functions that print the event's id, so what they got is in their
logs; a record may come twice when a kill fell between its delivery and the note of it, never not at all.
"""

import http.client
import itertools
import json
import os
import re
import threading
import time

from chaos.servers import ROLE, Server, package, runtimes, wait_until

EVENTS = int(os.environ.get("DUNLIN_EVENTS", "800"))
KILLS = int(os.environ.get("DUNLIN_KILLS", "2"))
CLIENTS = 64
#: One event in so many fails.
FAILS = 10
#: Between two looks at the logs; and without a new record for so long, none is waited for any more.
PAUSE_S, STANDS_STILL_S = 0.5, 60

WORK = f"""
def handler(event, context):
    if event["id"] % {FAILS} == 0:
        raise ValueError("as told")
    return event["id"]
"""

#: Prints the id and how it ended, and which of the function's answers came with it.
TELL = """
def handler(event, context):
    print("GOT", event["requestPayload"]["id"], event["requestContext"]["condition"], event.get("responsePayload"))
"""


class Senders:
    """Threads that send events until enough of them are accepted."""

    def __init__(self, server):
        self.server = server
        self.numbers = itertools.count(1)
        self.accepted = []
        self.errors = []

    def start(self):
        self.threads = [threading.Thread(target=self.send, daemon=True) for _ in range(CLIENTS)]
        for thread in self.threads:
            thread.start()

    def join(self):
        for thread in self.threads:
            thread.join(300)
            assert not thread.is_alive(), "a sender hangs"
        assert self.errors == []

    def send(self):
        headers = {
            "X-Amz-Invocation-Type": "Event",
            "Authorization": "AWS4-HMAC-SHA256 Credential=test/20250101/us-east-1/lambda/aws4_request, SignedHeaders=host, Signature=0",
        }
        connection = self.connection()
        while len(self.accepted) < EVENTS and not self.errors:
            number = next(self.numbers)
            try:
                connection.request("POST", "/2015-03-31/functions/work/invocations", json.dumps({"id": number}), headers)
                answer = connection.getresponse()
                body = answer.read()
            except (OSError, http.client.HTTPException):
                # Cut off by a kill: accepted or not, nobody knows.
                connection.close()
                self.wait_for_server()
                connection = self.connection()
                continue
            if answer.status == 202:
                self.accepted.append(number)
            else:
                self.errors.append(f"{number}: {answer.status} {body[:200]!r}")
        connection.close()

    def connection(self):
        return http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)

    def wait_for_server(self):
        wait_until("the server is back", self.server.is_ready, 60)


class Destination:
    """What a destination got, from its log, which is read on from where it was read to."""

    #: Lines of a moment may come late by so much.
    OVERLAP_MS = 10_000

    def __init__(self, server, name):
        self.server, self.name = server, name
        #: {id: (condition, answer)}
        self.records = {}
        self.read_to_ms = 0

    def read(self):
        logs = self.server.client("logs")
        pages = logs.get_paginator("filter_log_events").paginate(
            logGroupName=f"/aws/lambda/{self.name}", startTime=max(0, self.read_to_ms - self.OVERLAP_MS), filterPattern="GOT",
        )
        try:
            for page in pages:
                for event in page["events"]:
                    self.read_to_ms = max(self.read_to_ms, event["timestamp"])
                    number, condition, answer = re.match(r"GOT (\d+) (\w+) (.*)", event["message"].strip()).groups()
                    self.records[int(number)] = (condition, answer)
        except logs.exceptions.ResourceNotFoundException:
            pass
        return self.records


def prepare(server):
    runtime = runtimes(server)["python"]
    client = server.client("lambda")
    arns = {}
    for name, code in (("work", WORK), ("good", TELL), ("bad", TELL)):
        made = client.create_function(
            FunctionName=name, Runtime=runtime, Handler="main.handler", Code={"ZipFile": package(main__py=code)}, Role=ROLE,
            Timeout=30,
        )
        arns[name] = made["FunctionArn"]
    client.put_function_event_invoke_config(
        FunctionName="work", MaximumRetryAttempts=0,
        DestinationConfig={"OnSuccess": {"Destination": arns["good"]}, "OnFailure": {"Destination": arns["bad"]}},
    )


def wait_for_all(accepted, *destinations):
    """Waits until each accepted event is in a record, for as long as more and more are; what the destinations have then."""
    left, changed = set(accepted), time.monotonic()
    while left:
        found = [destination.read() for destination in destinations]
        before, left = len(left), accepted.difference(*found)
        changed = time.monotonic() if len(left) < before else changed
        assert time.monotonic() - changed < STANDS_STILL_S, f"{len(left)} events have not ended: {sorted(left)[:20]}"
        time.sleep(PAUSE_S)
    return [destination.read() for destination in destinations]


def test_every_accepted_event_ends_although_the_server_is_killed():
    with Server() as server:
        server.start()
        prepare(server)
        senders = Senders(server)
        senders.start()
        for kill in range(1, KILLS + 1):
            enough = EVENTS * kill // (KILLS + 1)
            wait_until("events are accepted", lambda: len(senders.accepted) >= enough or senders.errors, 600)
            family = server.kill()
            server.assert_nothing_left(family)
            server.start()
        senders.join()
        accepted = set(senders.accepted)
        good, bad = wait_for_all(accepted, Destination(server, "good"), Destination(server, "bad"))
        print(f"\nkilled {KILLS} times; {len(accepted)} events acknowledged: {len(good)} records of success and {len(bad)} "
              "of failure, 0 lost")
        assert {condition for condition, _ in good.values()} == {"Success"}
        assert all(answer == str(number) for number, (_, answer) in good.items()), "another event's answer"
        assert not {number for number in good if number % FAILS == 0}, "events that cannot succeed"
        assert {condition for condition, _ in bad.values()} == {"RetriesExhausted"}
        # A try that a kill cut off is no failure: the event runs again.
        assert not {number for number in bad if number % FAILS}, "events that cannot fail"
        family = server.family()
        assert server.stop() == 0
        server.assert_nothing_left(family)

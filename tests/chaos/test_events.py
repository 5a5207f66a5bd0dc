"""`kill -9` of the server while 64 clients send events: each accepted one ends, as a success or a failure, in a record at
the destination for it.

`DUNLIN_EVENTS` events are accepted, and `DUNLIN_KILLS` times meanwhile the server is killed and started again on its
folder. One event in ten fails. The destinations are functions that leave an item for each record in a table; a record may
come twice when a kill fell between its delivery and the note of it, never not at all.
"""

import http.client
import itertools
import json
import os
import threading
import time

from chaos.servers import PUT_ITEM, ROLE, Server, create_table, package, runtimes, scan, wait_until

EVENTS = int(os.environ.get("DUNLIN_EVENTS", "800"))
KILLS = int(os.environ.get("DUNLIN_KILLS", "2"))
CLIENTS = 64
#: One event in so many fails.
FAILS = 10
#: Between two looks at the tables; and without a new record for so long, none is waited for any more.
PAUSE_S, STANDS_STILL_S = 0.5, 60

WORK = f"""
def handler(event, context):
    if event["id"] % {FAILS} == 0:
        raise ValueError("as told")
    return event["id"]
"""

#: Leaves how the event ended, and which of the function's answers came with it, in the table of its own name.
TELL = PUT_ITEM + """
def handler(event, context):
    text = lambda value: {"S": str(value)}
    put(context.function_name, {
        "id": text(event["requestPayload"]["id"]), "how": text(event["requestContext"]["condition"]),
        "answer": text(event.get("responsePayload")),
    })
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
    for table in ("good", "bad"):
        create_table(server.client("dynamodb"), table)
    client.put_function_event_invoke_config(
        FunctionName="work", MaximumRetryAttempts=0,
        DestinationConfig={"OnSuccess": {"Destination": arns["good"]}, "OnFailure": {"Destination": arns["bad"]}},
    )


def wait_for_all(server, accepted):
    """Waits until each accepted event is in a record, for as long as more and more are; what the destinations have then."""
    left, changed = set(accepted), time.monotonic()
    while True:
        good, bad = ({int(key): item for key, item in scan(server, table).items()} for table in ("good", "bad"))
        before, left = len(left), accepted.difference(good, bad)
        if not left:
            return good, bad
        changed = time.monotonic() if len(left) < before else changed
        assert time.monotonic() - changed < STANDS_STILL_S, f"{len(left)} events have not ended: {sorted(left)[:20]}"
        time.sleep(PAUSE_S)


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
        good, bad = wait_for_all(server, accepted)
        print(f"\nkilled {KILLS} times; {len(accepted)} events acknowledged: {len(good)} records of success and {len(bad)} "
              "of failure, 0 lost")
        assert {item["how"]["S"] for item in good.values()} == {"Success"}
        assert all(item["answer"]["S"] == str(number) for number, item in good.items()), "another event's answer"
        assert not {number for number in good if number % FAILS == 0}, "events that cannot succeed"
        assert {item["how"]["S"] for item in bad.values()} == {"RetriesExhausted"}
        # A try that a kill cut off is no failure: the event runs again.
        assert not {number for number in bad if number % FAILS}, "events that cannot fail"
        family = server.family()
        # Its environments are as many as its callers were.
        assert server.stop(60) == 0
        server.assert_nothing_left(family, 60)

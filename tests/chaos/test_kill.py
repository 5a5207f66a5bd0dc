"""`kill -9` of the server during deploys, writes and calls: what was acknowledged is there, once, and it is soon back.

`DUNLIN_KILLS` rounds (an ordinary user's server gets a quarter of them). In each, writers deploy functions, put and
count items, and call functions until the server is killed at a random moment; now and then it is killed again while it
starts. Then it starts on the same folder, and everything that was ever acknowledged is looked for. Before an
acknowledgement the writers note what they try, so that what may be there is known as well.

`DUNLIN_SEED` repeats the moments of a run, as far as timing does.
"""

import json
import os
import random
import statistics
import threading
import time

import botocore.exceptions
import pytest

from chaos.servers import PRIVILEGES, PUT_ITEM, create_table, mounts, package, runtimes, scan, server_of, wait_until

KILLS = int(os.environ.get("DUNLIN_KILLS", "4"))
SEED = int(os.environ.get("DUNLIN_SEED", random.randrange(1 << 32)))
#: The promise is one second. A machine that has more to do than processors is given as many times that.
READY_SECONDS = 1.0

TABLE, RAN = "items", "ran"
#: Two tables whose items only change together.
PAIR = ("left", "right")
COUNTER = "counter"

#: Answers which version it is.
VERSION_CODE = "def handler(event, context):\n    return {version}\n"

#: Leaves an item that says that the event ran.
EVENT_CODE = PUT_ITEM + f"""
def handler(event, context):
    put("{RAN}", {{"id": {{"S": event["id"]}}}})
"""


class Ledger:
    """What was tried and what was acknowledged, of one kind of write."""

    def __init__(self):
        self.tried = {}
        self.acknowledged = {}

    def attempt(self, key, value, write):
        """Tries a write and notes its acknowledgement. Values of a key only grow."""
        self.tried[key] = value
        write()
        self.acknowledged[key] = value

    def allows(self, key, value):
        """Whether what was found under a key is what was acknowledged, or newer."""
        return self.acknowledged.get(key, -1) <= value <= self.tried.get(key, -1)


class Writers:
    """Threads that write until the server is gone."""

    def __init__(self, server, runtime):
        self.server, self.runtime = server, runtime
        self.functions, self.items, self.counters, self.events = Ledger(), Ledger(), Ledger(), Ledger()
        self.pairs = Ledger()
        self.answered = []
        self.errors = []
        self.killed = threading.Event()
        self.clients = {name: server.client(name) for name in ("lambda", "dynamodb")}
        self.numbers = {}

    def next(self, kind):
        self.numbers[kind] = self.numbers.get(kind, 0) + 1
        return self.numbers[kind]

    def start(self):
        """Starts all writers."""
        self.killed.clear()
        steps = [self.deploy, self.put, self.put, self.count, self.write_pair, self.call, self.send]
        self.threads = [threading.Thread(target=self.repeat, args=(index, step)) for index, step in enumerate(steps)]
        for thread in self.threads:
            thread.start()

    def join(self):
        """Waits for the writers after a kill."""
        for thread in self.threads:
            thread.join(60)
            assert not thread.is_alive(), "a call hangs although its server is dead"
        assert self.errors == []

    def repeat(self, index, step):
        while not self.killed.is_set():
            try:
                step(index)
            except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError, OSError) as error:
                # What was cut off by the kill may or may not have happened. Before it, nothing may fail.
                if not self.wait_for_kill():
                    self.errors.append(f"{step.__name__}: {error!r}")
                if isinstance(error, botocore.exceptions.ClientError):
                    self.errors.append(f"{step.__name__}: {error!r}")
                return

    def wait_for_kill(self):
        """A broken connection is seen before the killer says so."""
        return self.killed.wait(5)

    def deploy(self, _):
        number = self.next("deploy")
        name, version = f"f{number % 7}-{number // 70}", number
        code = package(main__py=VERSION_CODE.format(version=version))
        if name in self.functions.acknowledged:
            write = lambda: self.clients["lambda"].update_function_code(FunctionName=name, ZipFile=code)
        else:
            write = lambda: self.create(name, code)
        self.functions.attempt(name, version, write)

    def create(self, name, code):
        try:
            self.create_function(name, code)
        except self.clients["lambda"].exceptions.ResourceConflictException:
            # A creation that a kill cut off had happened.
            assert name in self.functions.tried
            self.clients["lambda"].update_function_code(FunctionName=name, ZipFile=code)

    def create_function(self, name, code, **settings):
        self.clients["lambda"].create_function(
            FunctionName=name, Runtime=self.runtime, Handler="main.handler", Code={"ZipFile": code},
            Role="arn:aws:iam::000000000000:role/test", **settings,
        )

    def put(self, index):
        key, value = f"{index}-{self.next(f'put-{index}')}", 1
        item = {"id": {"S": key}, "value": {"N": str(value)}, "padding": {"S": "x" * random.randrange(2000)}}
        self.items.attempt(key, value, lambda: self.clients["dynamodb"].put_item(TableName=TABLE, Item=item))

    def count(self, _):
        value = self.next("count")
        self.counters.attempt("count", value, lambda: self.clients["dynamodb"].update_item(
            TableName=TABLE, Key={"id": {"S": "count"}}, UpdateExpression="SET #v = :v",
            ExpressionAttributeNames={"#v": "value"}, ExpressionAttributeValues={":v": {"N": str(value)}},
        ))

    def write_pair(self, _):
        value = self.next("pair")
        key = f"pair-{value % 5}"
        puts = [{"Put": {"TableName": table, "Item": {"id": {"S": key}, "value": {"N": str(value)}}}} for table in PAIR]
        self.pairs.attempt(key, value, lambda: self.clients["dynamodb"].transact_write_items(TransactItems=puts))

    def call(self, _):
        response = self.clients["lambda"].invoke(FunctionName=COUNTER, Payload=b"{}")
        assert json.loads(response["Payload"].read()) == 0, "a wrong answer"
        self.answered.append(response["ResponseMetadata"]["RequestId"])

    def send(self, _):
        key = str(self.next("event"))
        payload = json.dumps({"id": key})
        self.events.attempt(key, 1, lambda: self.clients["lambda"].invoke(
            FunctionName="event", InvocationType="Event", Payload=payload,
        ))
        time.sleep(0.01)

    def prepare(self):
        """Tables and functions that the writers use."""
        for table in (TABLE, RAN, *PAIR):
            create_table(self.clients["dynamodb"], table)
        self.create_function(COUNTER, package(main__py=VERSION_CODE.format(version=0)), Timeout=30)
        self.create_function("event", package(main__py=EVENT_CODE), Timeout=30)

    # What must be there after a start.

    def check(self, server, everything):
        """Compares what is there with the ledgers."""
        self.check_items(server)
        self.check_pairs(server)
        self.check_functions(server, everything)
        self.check_usage(server)
        self.check_events(server)

    def check_items(self, server):
        found = scan(server, TABLE)
        count = int(found.pop("count", {"value": {"N": "-1"}})["value"]["N"])
        assert count == -1 and not self.counters.tried or self.counters.allows("count", count), (count, self.counters.tried)
        lost = set(self.items.acknowledged) - set(found)
        assert not lost, f"{len(lost)} acknowledged items are lost"
        assert set(found) <= set(self.items.tried), "items that nobody wrote"

    def check_pairs(self, server):
        left, right = (scan(server, table) for table in PAIR)
        assert left == right, "half of a transaction"
        lost = set(self.pairs.acknowledged) - set(left)
        assert not lost, f"acknowledged transactions are lost: {lost}"
        assert all(self.pairs.allows(key, int(item["value"]["N"])) for key, item in left.items()), (left, self.pairs.tried)

    def check_functions(self, server, everything):
        client = server.client("lambda")
        listed = {
            entry["FunctionName"] for page in client.get_paginator("list_functions").paginate() for entry in page["Functions"]
        }
        lost = set(self.functions.acknowledged) - listed
        assert not lost, f"acknowledged functions are lost: {lost}"
        assert listed <= set(self.functions.tried) | {COUNTER, "event"}, "functions that nobody made"
        # The last ones are called as well: their package must be whole.
        called = sorted(self.functions.acknowledged, key=self.functions.acknowledged.get)[-(1000 if everything else 2):]
        for name in called:
            answer, response = server.invoke(name)
            assert "FunctionError" not in response, (name, answer)
            assert self.functions.allows(name, answer), (
                f"{name} runs version {answer}, acknowledged was {self.functions.acknowledged[name]}"
            )

    def check_usage(self, server):
        usage = server.admin(f"usage?function={COUNTER}&limit=10000000")
        billed = [record["requestId"] for record in usage["records"]]
        assert len(billed) == len(set(billed)), "a call is billed twice"
        lost = set(self.answered) - set(billed)
        assert not lost, f"{len(lost)} of {len(self.answered)} answered calls have no usage record"
        bill = [entry for entry in server.admin("bill")["functions"] if entry["function"] == COUNTER]
        assert [entry["requests"] for entry in bill] in ([len(billed)], [] if not billed else None)

    def check_events(self, server):
        missing = lambda: set(self.events.acknowledged) - set(scan(server, RAN))
        wait_until(lambda: f"accepted events ran; left: {sorted(missing())[:20]}", lambda: not missing(), 60)


def kill_while_starting(server, chance):
    """Starts the server and kills it at a random moment before it is ready."""
    server.launch()
    time.sleep(chance.uniform(0, 0.3))
    family = server.kill()
    server.assert_nothing_left(family)


def report(privilege, server, writers):
    ready = sorted(server.ready_seconds[1:])
    counts = {
        "functions": len(writers.functions.acknowledged), "items": len(writers.items.acknowledged),
        "calls": len(writers.answered), "events": len(writers.events.acknowledged),
    }
    print(f"\n{privilege}: killed {len(ready)} times, seed {SEED}; ready again: median {statistics.median(ready):.3f} s, "
          f"max {ready[-1]:.3f} s (load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors); "
          f"acknowledged and all there: {counts}")
    return ready


@pytest.mark.parametrize("privilege", PRIVILEGES)
def test_what_was_acknowledged_survives_kills(privilege):
    chance = random.Random(SEED)
    kills = KILLS if privilege == PRIVILEGES[0] else max(1, KILLS // 4)
    mounted = mounts()
    with server_of(privilege) as server:
        server.start()
        writers = Writers(server, runtimes(server)["python"])
        writers.prepare()
        for kill in range(kills):
            writers.start()
            time.sleep(chance.uniform(0.05, 1.5))
            family = server.kill()
            writers.killed.set()
            writers.join()
            server.assert_nothing_left(family)
            if chance.random() < 0.3:
                kill_while_starting(server, chance)
            server.start()
            writers.check(server, everything=kill == kills - 1)
        family = server.family()
        assert server.stop() == 0
        server.assert_nothing_left(family)
        assert mounts() == mounted
        ready = report(privilege, server, writers)
        crowded = max(1.0, os.getloadavg()[0] / os.cpu_count())
        assert statistics.median(ready) < READY_SECONDS * crowded

"""Tables under concurrent clients and `kill -9`: one order explains everything that anybody saw.

Clients append to lists and read them, alone and in transactions over several items, while the server is killed again and
again: one server on its own disk, and two over one PostgreSQL database, of which one dies at a time. Then every list must
hold what was acknowledged, each value once, no half transactions, and a single order of all operations must explain every
answer and respect what was over before what else began (`histories`). Backups are made meanwhile; a table that is restored of
one is a read of everything at the moment when the backup was asked for.

`DUNLIN_KILLS` is the number of kills, `DUNLIN_SEED` repeats the moments of a run as far as timing does.
"""

import contextlib
import os
import random
import threading
import time
import uuid

import botocore.exceptions
import pytest

from chaos.histories import History, Operation, problems
from chaos.servers import Server, create_table, wait_until
from databases import Database

KILLS = int(os.environ.get("DUNLIN_KILLS", "3"))
SEED = int(os.environ.get("DUNLIN_SEED", random.randrange(1 << 32)))
CLIENTS = 6
LISTS = 5
#: After so many kills the clients go on with new lists, since a list is written whole each time.
EPOCH = 4
TABLE = "lists"
APPEND = "SET l = list_append(if_not_exists(l, :none), :one)"


def numbers(item):
    """The list of an item."""
    return [int(value["N"]) for value in (item or {}).get("l", {"L": []})["L"]]


def arguments(key, value):
    return {
        "TableName": TABLE, "Key": {"id": {"S": key}}, "UpdateExpression": APPEND,
        "ExpressionAttributeValues": {":none": {"L": []}, ":one": {"L": [{"N": str(value)}]}},
    }


class Client(threading.Thread):
    """One client: random operations until it is told to stop or its server is gone."""

    def __init__(self, client, history, keys, seed, stopped):
        super().__init__()
        self.client, self.history, self.keys, self.stopped = client, history, keys, stopped
        self.chance = random.Random(seed)
        self.errors = []

    def run(self):
        steps = [self.append, self.append_many, self.append_many, self.compare_and_append, self.read, self.read_many]
        while not self.stopped.is_set():
            try:
                self.chance.choice(steps)()
            except (botocore.exceptions.BotoCoreError, OSError) as error:
                # A broken connection is seen before the killer says so.
                if not self.stopped.wait(10):
                    self.errors.append(repr(error))
                return
            except botocore.exceptions.ClientError as error:
                # A node that is killed, and a database that loses one, may refuse a last call; nothing else is refused.
                if not self.stopped.wait(2):
                    self.errors.append(repr(error))
                return

    def append(self):
        key, value = self.chance.choice(self.keys), self.history.value()
        operation = self.history.begin({key: value})
        answer = self.client.update_item(**arguments(key, value), ReturnValues="ALL_NEW")
        self.history.end(operation, "ok", {key: numbers(answer["Attributes"])})

    def append_many(self):
        keys = self.chance.sample(self.keys, self.chance.randint(1, 3))
        appends = {key: self.history.value() for key in keys}
        operation = self.history.begin(appends)
        updates = [{"Update": arguments(key, value)} for key, value in appends.items()]
        token = {"ClientRequestToken": uuid.uuid4().hex} if self.chance.random() < 0.5 else {}
        self.client.transact_write_items(TransactItems=updates, **token)
        if token and self.chance.random() < 0.3:
            # The same again changes nothing.
            self.client.transact_write_items(TransactItems=updates, **token)
        self.history.end(operation, "ok")

    def compare_and_append(self):
        key, value = self.chance.choice(self.keys), self.history.value()
        found = self.client.get_item(TableName=TABLE, Key={"id": {"S": key}}, ConsistentRead=True).get("Item")
        operation = self.history.begin({key: value})
        update = arguments(key, value)
        if found:
            update |= {"ConditionExpression": "size(l) = :size"}
            update["ExpressionAttributeValues"][":size"] = {"N": str(len(numbers(found)))}
        else:
            update |= {"ConditionExpression": "attribute_not_exists(id)"}
        try:
            self.client.update_item(**update)
        except self.client.exceptions.ConditionalCheckFailedException:
            self.history.end(operation, "no")
        else:
            self.history.end(operation, "ok", {key: numbers(found) + [value]})

    def read(self):
        key = self.chance.choice(self.keys)
        operation = self.history.begin()
        answer = self.client.get_item(TableName=TABLE, Key={"id": {"S": key}}, ConsistentRead=True)
        self.history.end(operation, "ok", {key: numbers(answer.get("Item"))})

    def read_many(self):
        keys = self.chance.sample(self.keys, self.chance.randint(2, 4))
        operation = self.history.begin()
        answer = self.client.transact_get_items(TransactItems=[{"Get": {"TableName": TABLE, "Key": {"id": {"S": key}}}} for key in keys])
        self.history.end(operation, "ok", {key: numbers(one.get("Item")) for key, one in zip(keys, answer["Responses"], strict=True)})


class Keeper(threading.Thread):
    """Makes a backup at some moment, unless the server dies meanwhile."""

    def __init__(self, client, epoch, delay):
        super().__init__()
        self.client, self.epoch, self.delay = client, epoch, delay

    def run(self):
        time.sleep(self.delay)
        operation = Operation(start=time.monotonic())
        with contextlib.suppress(botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError, OSError):
            arn = self.client.create_backup(TableName=TABLE, BackupName="moment")["BackupDetails"]["BackupArn"]
            operation.end = time.monotonic()
            self.epoch.backups.append((operation, arn))


class Epoch:
    """Some rounds on the same lists."""

    def __init__(self, number):
        self.history = History()
        self.keys = [f"{number}-{key}" for key in range(LISTS)]
        self.backups = []

    def restore(self, client, operation, arn):
        """Reads what a backup has, by a table that is made of it."""
        status = lambda: client.describe_backup(BackupArn=arn)["BackupDescription"]["BackupDetails"]["BackupStatus"]
        wait_until("an available backup", lambda: status() == "AVAILABLE", 60)
        name = f"restored-{uuid.uuid4().hex}"
        client.restore_table_from_backup(TargetTableName=name, BackupArn=arn)
        wait_until("a restored table", lambda: client.describe_table(TableName=name)["Table"]["TableStatus"] == "ACTIVE", 60)
        answer = lambda key: client.get_item(TableName=name, Key={"id": {"S": key}}).get("Item")
        operation.reads = {key: numbers(answer(key)) for key in self.keys}
        operation.outcome = "ok"
        self.history.operations.append(operation)
        client.delete_table(TableName=name)
        client.delete_backup(BackupArn=arn)

    def check(self, client):
        for operation, arn in self.backups:
            self.restore(client, operation, arn)
        answer = lambda key: client.get_item(TableName=TABLE, Key={"id": {"S": key}}, ConsistentRead=True).get("Item")
        final = {key: numbers(answer(key)) for key in self.keys}
        wrong = problems(self.history.operations, final)
        assert not wrong, f"seed {SEED}: {wrong[:3]}"
        return sum(operation.outcome == "ok" for operation in self.history.operations)


def torment(servers, chance):
    """Rounds of clients, each ended by the death of one server; answers how many operations were acknowledged."""
    create_table(servers[0].client("dynamodb"), TABLE)
    acknowledged = 0
    epoch = Epoch(0)
    for kill in range(KILLS):
        if kill and kill % EPOCH == 0:
            acknowledged += epoch.check(servers[0].client("dynamodb"))
            epoch = Epoch(kill)
        stops = [threading.Event() for _ in servers]
        clients = []
        for number in range(CLIENTS):
            node = number % len(servers)
            client = servers[node].client("dynamodb", pool=CLIENTS)
            clients.append(Client(client, epoch.history, epoch.keys, chance.random(), stops[node]))
        keeper = Keeper(servers[kill % len(servers)].client("dynamodb"), epoch, chance.uniform(0, 1))
        for client in [*clients, keeper]:
            client.start()
        time.sleep(chance.uniform(0.3, 1.5))
        victim = chance.randrange(len(servers))
        family = servers[victim].kill()
        stops[victim].set()
        # Who has another node goes on for a moment without the dead one.
        time.sleep(chance.uniform(0, 0.3) if len(servers) > 1 else 0)
        for stop in stops:
            stop.set()
        for client in clients:
            client.join(90)
            assert not client.is_alive(), "a call hangs although its server is dead"
        keeper.join(90)
        assert [error for client in clients for error in client.errors] == []
        servers[victim].assert_nothing_left(family)
        servers[victim].start()
    return acknowledged + epoch.check(servers[0].client("dynamodb"))


def test_one_order_explains_what_clients_of_a_killed_server_saw():
    with Server() as server:
        server.start()
        acknowledged = torment([server], random.Random(SEED))
        assert server.stop() == 0
    print(f"\nembedded: killed {KILLS} times, {acknowledged} operations acknowledged, one order explains them (seed {SEED})")
    assert acknowledged > 20


def test_one_order_explains_what_clients_of_two_nodes_over_postgresql_saw():
    database = Database()
    try:
        address = database.make("tables")
        with contextlib.ExitStack() as stack:
            servers = [stack.enter_context(Server(args=["--store", address])) for _ in range(2)]
            for server in servers:
                server.start()
            acknowledged = torment(servers, random.Random(SEED))
            assert [server.stop() for server in servers] == [0, 0]
    finally:
        database.remove()
    print(f"\nPostgreSQL, two nodes: killed {KILLS} times, {acknowledged} operations acknowledged, one order explains them (seed {SEED})")
    assert acknowledged > 20


def done(start, end, appends=None, reads=None, outcome="ok"):
    return Operation(appends or {}, reads or {}, start, end, outcome)


@pytest.mark.parametrize(("name", "operations", "final"), [
    ("a lost update", [done(0, 1, {"a": 1}), done(2, 3, {"a": 2})], {"a": [2]}),
    ("one that happened twice", [done(0, 1, {"a": 1})], {"a": [1, 1]}),
    ("a refused one that happened", [done(0, 1, {"a": 1}, outcome="no")], {"a": [1]}),
    ("half of a transaction", [done(0, 1, {"a": 1, "b": 2}, outcome="unknown")], {"a": [1], "b": []}),
    ("out of nothing", [], {"a": [1]}),
    ("a read of what never was", [done(0, 1, {"a": 1}), done(0, 9, {"a": 2}), done(0, 1, {}, {"a": [2]})], {"a": [1, 2]}),
    ("a read of the past", [done(0, 1, {"a": 1}), done(2, 3, {}, {"a": []})], {"a": [1]}),
    (
        "a torn read", [done(0, 9, {"a": 1, "b": 2}), done(0, 9, {}, {"a": [1], "b": []})], {"a": [1], "b": [2]},
    ),
    (
        "write skew", [done(0, 9, {"a": 1}, {"a": [1], "b": []}), done(0, 9, {"b": 2}, {"b": [2], "a": []})], {"a": [1], "b": [2]},
    ),
    (
        "two orders", [
            done(0, 9, {"a": 1}), done(0, 9, {"b": 2}), done(0, 9, {}, {"a": [1], "b": []}), done(0, 9, {}, {"a": [], "b": [2]}),
        ], {"a": [1], "b": [2]},
    ),
])
def test_the_checker_finds(name, operations, final):
    assert problems(operations, final), name


def test_the_checker_lets_pass_what_one_order_explains():
    operations = [
        done(0, 5, {"a": 1, "b": 2}), done(0, 5, {}, {"a": [], "b": []}), done(1, 2, {}, {"a": [1], "b": [2]}),
        done(6, 7, {"a": 3}, {"a": [1, 3]}), done(6, 9, {"b": 4}, outcome="unknown"), done(6, 9, {"b": 5}, outcome="unknown"),
        done(8, 9, {}, {"b": [2, 4]}), done(8, 9, {"a": 6}, outcome="no"),
    ]
    assert problems(operations, {"a": [1, 3], "b": [2, 4]}) == []

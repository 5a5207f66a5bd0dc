"""`--store postgres://…`: servers that share one database, and what they say when they cannot."""

import json
import signal
import subprocess

import botocore.exceptions
import pytest

from conftest import binary, clean_environment, name_of, wait_for, zipped
from databases import PASSWORD, Database
from test_deploy import dunlin
from test_dynamodb import make
from test_dynamodb_indexes import definitions, index, status as index_status
from test_dynamodb_streams import HANDLER, events_of, keys_of as streamed_keys, mapped
from test_invoke import invoke
from test_store import alone, keys_of, place, put, restored  # noqa: F401 (a fixture)

SOURCE = "def handler(event, context):\n    return {answer!r}\n"


@pytest.fixture(scope="module")
def database():
    """One PostgreSQL server for the tests of this file."""
    database = Database()
    yield database
    database.remove()


def streamed(server, function):
    """The keys that a function has got of a stream."""
    return streamed_keys(events_of(server, function))


def answer(server, name):
    """What a function answers on a server that may not know it yet."""
    try:
        return invoke(server, name)["json"]
    except server.client("lambda").exceptions.ResourceNotFoundException:
        return None


@pytest.mark.parametrize("mode", ["dev", "up"])
def test_servers_over_one_database_share_everything(own_server, database, mode):
    address = database.make(name_of("db"))
    one, two = own_server(mode, "--store", address), own_server(mode, "--store", address)
    name = one.function(SOURCE.format(answer="first"))
    table = make(one)
    put(one, table, "from one")
    assert answer(two, name) == "first", "the code package is in the database too"
    assert not any(path.is_file() for path in (one.data_dir / "blobs").rglob("*"))
    put(two, table, "from two")
    assert keys_of(one, table) == keys_of(two, table) == {"from one", "from two"}
    # A change on one node reaches what the other remembers.
    two.client("lambda").update_function_code(FunctionName=name, ZipFile=zipped({"handler.py": SOURCE.format(answer="second")}))
    wait_for(lambda: answer(one, name) == "second", "the new code on the other node")

    # A node that is killed takes nothing with it.
    put(one, table, "before the kill")
    one.process.send_signal(signal.SIGKILL)
    one.process.wait()
    assert keys_of(two, table) == {"from one", "from two", "before the kill"}
    assert answer(two, name) == "second"
    one.start()
    assert answer(one, name) == "second"

    # A database that dies is waited for.
    database.kill()
    database.start()
    wait_for(lambda: scanned(one, table) == {"from one", "from two", "before the kill"}, "the database again")
    put(two, table, "after the crash")
    assert "after the crash" in keys_of(one, table)

    done = dunlin(one, "doctor", "--store", "--json")
    assert done.code == 0, done.err
    assert done.json["blobs"]["count"] >= 1 and done.json["damage"] == []
    pace = done.json["pace"]
    assert pace["untoldCommits"] >= 0 and pace["replicas"] == [] and pace["lagBytes"] is None
    for server in (one, two):
        assert server.stop() == 0
        assert "hush" not in server.log(), "the password is logged"
    assert f"postgres://127.0.0.1:{database.port}/" in one.log()


@pytest.mark.parametrize("mode", ["dev"])
def test_indexes_and_streams_of_tables_over_one_database(own_server, database, mode):
    address = database.make(name_of("db"))
    one, two = own_server(mode, "--store", address), own_server(mode, "--store", address)
    table = make(one, StreamSpecification={"StreamEnabled": True, "StreamViewType": "NEW_IMAGE"})
    client = two.client("dynamodb")
    arn = client.describe_table(TableName=table)["Table"]["LatestStreamArn"]
    function = one.function(HANDLER)
    mapped(one, function, arn)
    keys = [f"{number:03}" for number in range(60)]
    for number, key in enumerate(keys):
        node = (one, two)[number % 2].client("dynamodb")
        node.put_item(TableName=table, Item={"pk": {"S": key}, "kind": {"S": f"k{number % 3}"}})
    # Whichever node polls: each change in its order. Where one takes over from the other, some may come twice.
    wait_for(lambda: list(dict.fromkeys(streamed(two, function))) == keys, "the function has got all changes, in order")
    client.update_table(
        TableName=table, AttributeDefinitions=definitions(kind="S"),
        GlobalSecondaryIndexUpdates=[{"Create": index("by-kind", "kind")}],
    )
    one.process.send_signal(signal.SIGKILL)
    one.process.wait()
    wait_for(lambda: index_status(client, table) == {"by-kind": "ACTIVE"}, "the index is filled")
    found = client.scan(TableName=table, IndexName="by-kind", Select="COUNT")["Count"]
    assert found == client.describe_table(TableName=table)["Table"]["GlobalSecondaryIndexes"][0]["ItemCount"] == 60
    client.put_item(TableName=table, Item={"pk": {"S": "after"}})
    wait_for(lambda: "after" in streamed(two, function), "the other node polls now")


def scanned(server, table):
    """The keys of a table; nothing while the database is away."""
    try:
        return keys_of(server, table)
    except botocore.exceptions.ClientError:
        return None


def starting(folder, *arguments, **environment):
    """A start that is to fail: what it says."""
    done = subprocess.run(
        [binary(), "dev", "--listen", "127.0.0.1:0", "--data-dir", str(folder), *map(str, arguments)],
        env=clean_environment(**environment), capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 1, done.stderr
    assert "hush" not in done.stderr + done.stdout, "the password is told"
    return done.stderr


def test_what_cannot_be_opened_says_why_and_never_the_password(own_server, database, tmp_path):
    folder = tmp_path / "data"
    assert "cannot be reached" in starting(folder, "--store", "postgres://dunlin:hush@127.0.0.1:1/d")
    assert "password authentication failed" in starting(folder, "--store", database.address("postgres", "hush"))
    assert "does not exist" in starting(folder, DUNLIN_STORE=database.address("nothing"))
    name = name_of("db")
    address = database.make(name)
    server = own_server("dev", "--store", address)
    assert server.stop() == 0
    database.sql(name, "UPDATE dunlin.meta SET format = 99")
    assert "newer release" in starting(folder, "--store", address)
    # One data folder is for one process, and its store is where it was.
    database.sql(name, "UPDATE dunlin.meta SET format = 1")
    server.start()
    assert "in use by process" in starting(server.data_dir, "--store", address)
    assert server.stop() == 0
    assert "say so with --store" in starting(server.data_dir)
    for arguments in (["--store", "mysql://u:hush@h/d"], ["--store", "/folder"]):
        done = subprocess.run([binary(), "up", *arguments], env=clean_environment(), capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 2 and "postgres://USER" in done.stderr
    shown = subprocess.run([binary(), "up", "--help"], env=clean_environment(DUNLIN_STORE=address), capture_output=True, text=True, timeout=60, check=True)
    assert "DUNLIN_STORE" in shown.stdout and "hush" not in shown.stdout


def test_no_function_sees_the_address(own_server, database):
    address = database.make(name_of("db"))
    server = own_server("dev", "--store", address)
    name = server.function("import os\ndef handler(event, context):\n    return dict(os.environ)\n")
    assert "hush" not in json.dumps(invoke(server, name)["json"])


def test_a_store_moves_into_a_database_and_back(own_server, database, place):  # noqa: F811
    server = own_server("dev")
    name = server.function(SOURCE.format(answer="kept"))
    table = make(server)
    for number in range(30):
        put(server, table, f"{number}", "x" * 40_000)
    server.stop()
    address = database.make(name_of("db"))
    done = alone("migrate", "--from", server.data_dir, "--to", address, "--json")
    assert done.returncode == 0, done.stderr
    moved = json.loads(done.stdout)["amount"]
    assert moved["blobs"] == 1 and moved["entries"] > 30
    done = alone("migrate", "--from", server.data_dir, "--to", address)
    assert done.returncode == 1 and "there is a store in" in done.stderr and "hush" not in done.stderr

    again = own_server("dev", "--store", address)
    assert keys_of(again, table) == {f"{number}" for number in range(30)}
    assert answer(again, name) == "kept"
    put(again, table, "new")
    # The copy of a store that is written meanwhile would be no state of it.
    again.stop()
    done = alone("doctor", f"--store={address}", "--json")
    assert done.returncode == 0, done.stderr
    sizes = {row["name"]: row["sizes"]["entries"] for row in json.loads(done.stdout)["prefixes"]}
    assert {"functions", "tables"} <= sizes.keys() and "unknown" not in sizes

    done = alone("migrate", "--from", address, "--to", place / "back", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["amount"]["entries"] == sum(sizes.values())
    back = restored(own_server, "dev", place / "back")
    assert keys_of(back, table) == {f"{number}" for number in range(30)} | {"new"}
    assert answer(back, name) == "kept"
    done = alone("migrate", "--from", database.make(name_of("db")), "--to", place / "nothing")
    assert done.returncode == 1 and "there is no store in" in done.stderr

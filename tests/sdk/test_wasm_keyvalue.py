"""`wasi:keyvalue` in both of its drafts, by a program in Rust: buckets are tables of the function's account."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from behaviour.wasm import component, without_target
from conftest import ROOT, name_of
from test_invoke import invoke
from test_wasm import compiled, deploy

# Both drafts are built in one folder.
pytestmark = pytest.mark.xdist_group("keyvalue")


@pytest.fixture(scope="module", params=["first", "second"])
def program(request):
    """The program in one of the drafts."""
    if reason := without_target():
        pytest.skip(reason)
    features = "--features second" if request.param == "second" else ""
    return component(ROOT / "tests/programs/keyvalue", "keyvalue", features)


@pytest.fixture
def do(server, program):
    """Runs steps in a fresh instance; what came of each."""
    # A thousand pairs take a debug build seconds where the machine has other work.
    name = deploy(server, program, wait=False, Timeout=60)
    assert compiled(server, name, 120)["LastUpdateStatus"] == "Successful"
    return lambda *steps: invoke(server, name, "|".join(steps))["json"]


def store_of(server, key="id", kind="S", sort=None):
    """A table."""
    client, name = server.client("dynamodb"), name_of("pairs")
    schema = [(key, kind, "HASH"), *([(sort, "S", "RANGE")] if sort else [])]
    client.create_table(
        TableName=name, BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": part, "AttributeType": of} for part, of, _ in schema],
        KeySchema=[{"AttributeName": part, "KeyType": what} for part, _, what in schema],
    )
    client.get_waiter("table_exists").wait(TableName=name, WaiterConfig={"Delay": 1})
    return name


def test_pairs_are_items(server, do):
    table, client = store_of(server), server.client("dynamodb")
    assert do(f"open {table}", "get a", "exists a", "set a one", "get a", "exists a") == [
        "opened", "none", "false", "done", "one", "true"]
    assert client.get_item(TableName=table, Key={"id": {"S": "a"}})["Item"] == {"id": {"S": "a"}, "value": {"B": b"one"}}
    client.put_item(TableName=table, Item={"id": {"S": "b"}, "value": {"S": "of a text"}})
    client.put_item(TableName=table, Item={"id": {"S": "c"}})
    client.put_item(TableName=table, Item={"id": {"S": "d"}, "value": {"BOOL": True}})
    seen = do(f"open {table}", "get b", "get c", "exists c", "get d", "list", "delete a", "delete a", "exists a")
    assert seen[:4] == ["opened", "of a text", "none", "true"]
    assert seen[4].startswith("other: ") and "neither bytes" in seen[4]
    assert seen[5:] == ["a b c d", "done", "done", "false"]


def test_numbers(server, do):
    table, client = store_of(server), server.client("dynamodb")
    assert do(f"open {table}", "add n 5", "add n 2", "get n", "set t 40", "add t 2", "get t", "set w word", "add w 1") == [
        "opened", "5", "7", "7", "done", "42", "42", "done", "other: the value is no whole number"]
    assert client.get_item(TableName=table, Key={"id": {"S": "t"}})["Item"]["value"] == {"N": "42"}
    client.put_item(TableName=table, Item={"id": {"S": "m"}, "value": {"N": str(2**64)}})
    assert do(f"open {table}", "add m 1") == ["opened", "other: the number would be out of range"]
    # Nothing is lost where several add at once.
    for answer in in_parallel([lambda: do(f"open {table}", *["add many 1"] * 10)] * 6):
        assert len(answer) == 11
    assert do(f"open {table}", "get many") == ["opened", "60"]


def in_parallel(calls):
    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(call) for call in calls]]


def test_batches_and_pages(server, do):
    table = store_of(server, key="name")
    # More than DynamoDB takes at once, and keys of several pages.
    assert do(f"open {table}", "fill 1105", "count 1200") == ["opened", "done", "1105"]
    _, keys = do(f"open {table}", "list")
    assert keys.split() == sorted(f"key-{index}" for index in range(1105))
    assert do(f"open {table}", "clear 1100", "list") == ["opened", "done", "key-1100 key-1101 key-1102 key-1103 key-1104"]


def test_what_is_no_store(server, do):
    assert do(f"open {name_of('absent')}", "open x") == ["no such store"] * 2
    for table in (store_of(server, kind="N"), store_of(server, sort="at"), store_of(server, key="value")):
        [answer] = do(f"open {table}")
        assert answer.startswith(f"other: the table {table} cannot be a store: "), answer
    table = store_of(server)
    refused = do(f"open {table}", f"get {'k' * 2049}", f"set big {'x' * (400 * 1024)}")
    assert [answer.split(":")[:2] for answer in refused[1:]] == [["other", " ValidationException"]] * 2


def test_swaps(server, do, program, request):
    if request.node.callspec.params["program"] == "first":
        pytest.skip("the first draft has no swaps")
    table = store_of(server)
    assert do(f"open {table}", "swap a - one", "get a", "swap a other two", "get a", "add n 1", "swap n - three", "get n") == [
        "opened", "none: swapped", "one", "one: other: swapped", "two", "1", "1: swapped", "three"]

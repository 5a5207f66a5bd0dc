"""Secondary indexes through boto3: made with a table and on a live one, queried, scanned, paged, refused."""

import concurrent.futures

import pytest
from boto3.dynamodb.conditions import Key

from conftest import name_of, refused, wait_for
from test_dynamodb import make


def index(name, *keys, projection="ALL", **more):
    schema = [{"AttributeName": key, "KeyType": role} for key, role in zip(keys, ("HASH", "RANGE"))]
    return {"IndexName": name, "KeySchema": schema, "Projection": {"ProjectionType": projection, **more}}


def definitions(**kinds):
    return [{"AttributeName": name, "AttributeType": kind} for name, kind in kinds.items()]


@pytest.fixture
def orders(server):
    """A table with the keys `customer` and `placed`, a local index `by-total` and a global one `by-state`."""
    client = server.client("dynamodb")
    name = name_of("orders")
    client.create_table(
        TableName=name, BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=definitions(customer="S", placed="S", total="N", state="S"),
        KeySchema=index("", "customer", "placed")["KeySchema"],
        LocalSecondaryIndexes=[index("by-total", "customer", "total", projection="KEYS_ONLY")],
        GlobalSecondaryIndexes=[
            index("by-state", "state", "total", projection="INCLUDE", NonKeyAttributes=["note"]),
        ],
    )
    client.get_waiter("table_exists").wait(TableName=name, WaiterConfig={"Delay": 1})
    return server.resource("dynamodb").Table(name)


def fill(table, count=30):
    with table.batch_writer() as batch:
        for number in range(count):
            item = {"customer": f"c{number % 3}", "placed": f"{number:03}", "total": number % 7, "note": "n", "big": "b"}
            if number % 2:
                item["state"] = "open"
            batch.put_item(Item=item)


def test_an_index_is_read_in_its_order_and_in_pages(orders):
    fill(orders)
    client = orders.meta.client
    whole = orders.query(IndexName="by-state", KeyConditionExpression=Key("state").eq("open"))["Items"]
    assert [item["total"] for item in whole] == sorted(item["total"] for item in whole) and len(whole) == 15
    assert set(whole[0]) == {"customer", "placed", "total", "state", "note"}
    pages = client.get_paginator("query").paginate(
        TableName=orders.name, IndexName="by-state", KeyConditionExpression=Key("state").eq("open"),
        PaginationConfig={"PageSize": 4},
    )
    assert [item for page in pages for item in page["Items"]] == whole
    down = orders.query(IndexName="by-state", KeyConditionExpression=Key("state").eq("open"), ScanIndexForward=False)
    assert down["Items"] == whole[::-1]
    some = orders.query(IndexName="by-state", KeyConditionExpression=Key("state").eq("open") & Key("total").between(2, 3))
    assert {item["total"] for item in some["Items"]} == {2, 3}
    scanned = client.get_paginator("scan").paginate(TableName=orders.name, IndexName="by-state", PaginationConfig={"PageSize": 7})
    key = lambda item: item["placed"]
    assert sorted((item for page in scanned for item in page["Items"]), key=key) == sorted(whole, key=key)


def test_a_local_index_fetches_what_it_does_not_have(orders):
    fill(orders)
    condition = Key("customer").eq("c1")
    keys = orders.query(IndexName="by-total", KeyConditionExpression=condition, ConsistentRead=True)["Items"]
    assert all(set(item) == {"customer", "placed", "total"} for item in keys) and len(keys) == 10
    whole = orders.query(IndexName="by-total", KeyConditionExpression=condition, Select="ALL_ATTRIBUTES",
                         ReturnConsumedCapacity="INDEXES")
    assert all(item["big"] == "b" for item in whole["Items"])
    assert whole["ConsumedCapacity"]["Table"]["CapacityUnits"] == 5.0
    assert whole["ConsumedCapacity"]["LocalSecondaryIndexes"]["by-total"]["CapacityUnits"] == 0.5


def test_an_index_follows_its_items(orders):
    fill(orders, 6)
    opened = lambda: [item["placed"] for item in orders.query(
        IndexName="by-state", KeyConditionExpression=Key("state").eq("open"))["Items"]]
    key = {"customer": "c1", "placed": "001"}
    assert opened() == ["001", "003", "005"]
    orders.update_item(Key=key, UpdateExpression="SET #s = :s", ExpressionAttributeNames={"#s": "state"},
                       ExpressionAttributeValues={":s": "closed"})
    assert opened() == ["003", "005"]
    orders.update_item(Key=key, UpdateExpression="SET #s = :s, #t = :t", ExpressionAttributeNames={"#s": "state", "#t": "total"},
                       ExpressionAttributeValues={":s": "open", ":t": 99})
    assert opened() == ["003", "005", "001"]
    metrics = orders.delete_item(Key=key, ReturnItemCollectionMetrics="SIZE")["ItemCollectionMetrics"]
    assert metrics == {"ItemCollectionKey": {"customer": "c1"}, "SizeEstimateRangeGB": [0.0, 1.0]}
    assert opened() == ["003", "005"]
    shown = orders.meta.client.describe_table(TableName=orders.name)["Table"]
    assert [shown["LocalSecondaryIndexes"][0]["ItemCount"], shown["GlobalSecondaryIndexes"][0]["ItemCount"]] == [5, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"IndexName": "by-state", "ConsistentRead": True}, "Consistent reads are not supported on global secondary indexes"),
        ({"IndexName": "by-state", "Select": "ALL_ATTRIBUTES"},
         "One or more parameter values were invalid: Select type ALL_ATTRIBUTES is not supported for global secondary index "
         "by-state because its projection type is not ALL"),
        ({"IndexName": "by-state", "ProjectionExpression": "big"},
         "One or more parameter values were invalid: Global secondary index by-state does not project [big]"),
        ({"IndexName": "by-nothing"}, "The table does not have the specified index: by-nothing"),
    ],
)
def test_refused_reads(orders, arguments, message):
    condition = Key("state").eq("open")
    assert refused(orders.query, KeyConditionExpression=condition, **arguments) == (400, "ValidationException", message)


def status(client, name):
    indexes = client.describe_table(TableName=name)["Table"].get("GlobalSecondaryIndexes", [])
    return {index["IndexName"]: index["IndexStatus"] for index in indexes}


def test_an_index_comes_and_goes_on_a_live_table(server):
    client = server.client("dynamodb")
    name = make(server)
    table = server.resource("dynamodb").Table(name)
    with table.batch_writer() as batch:
        for number in range(1_000):
            batch.put_item(Item={"pk": f"{number:04}", "kind": f"k{number % 2}", "n": 0})
    made = client.update_table(
        TableName=name, AttributeDefinitions=definitions(kind="S"),
        GlobalSecondaryIndexUpdates=[{"Create": index("by-kind", "kind")}],
    )["TableDescription"]
    assert made["GlobalSecondaryIndexes"][0]["IndexStatus"] == "CREATING"
    # Writers go on meanwhile.
    def work(number):
        table.update_item(Key={"pk": f"{number:04}"}, UpdateExpression="SET kind = :k, n = n + :one",
                          ExpressionAttributeValues={":k": "moved", ":one": 1})
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(0, 1_000, 10)))
    wait_for(lambda: status(client, name) == {"by-kind": "ACTIVE"}, "the index is filled")

    def count(kind):
        pages = client.get_paginator("query").paginate(
            TableName=name, IndexName="by-kind", Select="COUNT", KeyConditionExpression="kind = :k",
            ExpressionAttributeValues={":k": {"S": kind}},
        )
        return sum(page["Count"] for page in pages)

    assert (count("k0"), count("k1"), count("moved")) == (400, 500, 100)
    assert client.describe_table(TableName=name)["Table"]["GlobalSecondaryIndexes"][0]["ItemCount"] == 1_000
    client.update_table(TableName=name, GlobalSecondaryIndexUpdates=[{"Delete": {"IndexName": "by-kind"}}])
    wait_for(lambda: status(client, name) == {}, "the index is gone")
    assert client.describe_table(TableName=name)["Table"]["AttributeDefinitions"] == definitions(pk="S")


def test_a_filling_goes_on_after_a_kill(own_server):
    server = own_server("dev")
    client = server.client("dynamodb")
    name = make(server)
    with server.resource("dynamodb").Table(name).batch_writer() as batch:
        for number in range(1_500):
            batch.put_item(Item={"pk": str(number), "kind": "k"})
    client.update_table(
        TableName=name, AttributeDefinitions=definitions(kind="S"),
        GlobalSecondaryIndexUpdates=[{"Create": index("by-kind", "kind")}],
    )
    server.process.kill()
    server.process.wait()
    server.start()
    client = server.client("dynamodb")
    wait_for(lambda: status(client, name) == {"by-kind": "ACTIVE"}, "the index is filled")
    pages = client.get_paginator("scan").paginate(TableName=name, IndexName="by-kind", Select="COUNT")
    assert sum(page["Count"] for page in pages) == 1_500
    assert client.describe_table(TableName=name)["Table"]["GlobalSecondaryIndexes"][0]["ItemCount"] == 1_500

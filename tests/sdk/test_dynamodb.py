"""DynamoDB through boto3's client and its table resource: tables, items, expressions, pages, exact numbers, refusals."""

import decimal

import boto3.dynamodb.types
import pytest
from boto3.dynamodb.conditions import Attr, Key
from botocore.exceptions import ClientError

from conftest import name_of, refused

D = decimal.Decimal


def make(server, sort=None, kind="S", sort_kind="S", **settings):
    """A table of its own, ready."""
    client = server.client("dynamodb")
    name = name_of("table")
    keys = [("pk", kind, "HASH")] + ([(sort, sort_kind, "RANGE")] if sort else [])
    settings.setdefault("BillingMode", "PAY_PER_REQUEST")
    client.create_table(
        TableName=name, KeySchema=[{"AttributeName": key, "KeyType": role} for key, _, role in keys],
        AttributeDefinitions=[{"AttributeName": key, "AttributeType": of} for key, of, _ in keys], **settings,
    )
    client.get_waiter("table_exists").wait(TableName=name, WaiterConfig={"Delay": 1})
    return name


@pytest.fixture
def table(server):
    """A table with the string key `pk`, as a resource."""
    return server.resource("dynamodb").Table(make(server))


@pytest.fixture
def sorted_table(server):
    """A table with the string key `pk` and the number key `n`, as a resource."""
    return server.resource("dynamodb").Table(make(server, sort="n", sort_kind="N"))


def code_of(call, **arguments):
    """The code and the message of a refusal."""
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    error = caught.value.response["Error"]
    return error["Code"], error["Message"]


def test_life_of_a_table(server):
    client = server.client("dynamodb")
    name = make(server, sort="sk", BillingMode="PROVISIONED", ProvisionedThroughput={"ReadCapacityUnits": 2, "WriteCapacityUnits": 3})
    described = client.describe_table(TableName=name)["Table"]
    account = server.client("sts").get_caller_identity()["Account"]
    assert described["TableStatus"] == "ACTIVE"
    assert described["TableArn"] == f"arn:aws:dynamodb:us-east-1:{account}:table/{name}"
    assert described["KeySchema"] == [
        {"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"},
    ]
    assert (described["ItemCount"], described["TableSizeBytes"]) == (0, 0)
    assert described["ProvisionedThroughput"]["WriteCapacityUnits"] == 3
    same = {"KeySchema": described["KeySchema"], "AttributeDefinitions": described["AttributeDefinitions"]}
    assert refused(client.create_table, TableName=name, BillingMode="PAY_PER_REQUEST", **same) == (
        400, "ResourceInUseException", f"Table already exists: {name}",
    )
    client.put_item(TableName=name, Item={"pk": {"S": "a"}, "sk": {"S": "b"}})
    assert client.describe_table(TableName=name)["Table"]["ItemCount"] == 1
    client.delete_table(TableName=name)
    client.get_waiter("table_not_exists").wait(TableName=name, WaiterConfig={"Delay": 1})
    assert refused(client.describe_table, TableName=name) == (
        400, "ResourceNotFoundException", f"Requested resource not found: Table: {name} not found",
    )
    assert refused(client.get_item, TableName=name, Key={"pk": {"S": "a"}, "sk": {"S": "b"}}) == (
        400, "ResourceNotFoundException", "Requested resource not found",
    )
    # A table that is made again under the name is empty.
    client.create_table(TableName=name, BillingMode="PAY_PER_REQUEST", **same)
    client.get_waiter("table_exists").wait(TableName=name, WaiterConfig={"Delay": 1})
    assert client.scan(TableName=name)["Count"] == 0


def test_list_tables_pages(own_server):
    server = own_server("dev")
    client = server.client("dynamodb")
    names = sorted(make(server) for _ in range(7))
    first = client.list_tables(Limit=3)
    assert first["TableNames"] == names[:3] and first["LastEvaluatedTableName"] == names[2]
    pages = client.get_paginator("list_tables").paginate(PaginationConfig={"PageSize": 2})
    assert [name for page in pages for name in page["TableNames"]] == names


def test_every_type_comes_back_as_it_was(table):
    item = {
        "pk": "ü☃🐦", "text": "", "number": D("1.5"), "bytes": boto3.dynamodb.types.Binary(bytes(range(256))),
        "yes": True, "no": False, "nothing": None, "list": [D(1), "two", [D(3)], {"four": D(4)}],
        "map": {"a.b": {"c": [None]}, "ü": "a name"}, "strings": {"a", "b"}, "numbers": {D("1"), D("2.5")},
        "binaries": {boto3.dynamodb.types.Binary(b"\x00"), boto3.dynamodb.types.Binary(b"\xff")},
    }
    table.put_item(Item=item)
    assert table.get_item(Key={"pk": item["pk"]})["Item"] == item
    assert "Item" not in table.get_item(Key={"pk": "other"})


@pytest.mark.parametrize(
    ("given", "back"),
    [
        ("0", "0"), ("-0", "0"), ("1.50", "1.5"), ("1E+2", "100"), ("00012", "12"), ("-1.0", "-1"),
        ("12345678901234567890123456789012345678", "12345678901234567890123456789012345678"),
        ("0.1234567890123456789012345678901234567", "0.1234567890123456789012345678901234567"),
        ("9.9999999999999999999999999999999999999E+125", "99999999999999999999999999999999999999" + "0" * 88),
        ("1E-130", "0." + "0" * 129 + "1"),
        ("-9007199254740993", "-9007199254740993"),
    ],
)
@pytest.mark.modes("dev")
def test_numbers_are_exact(server, given, back):
    client = server.client("dynamodb")
    name = make(server)
    client.put_item(TableName=name, Item={"pk": {"S": "n"}, "n": {"N": given}})
    assert client.get_item(TableName=name, Key={"pk": {"S": "n"}})["Item"]["n"] == {"N": back}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"N": "abc"}, "The parameter cannot be converted to a numeric value: abc"),
        ({"N": "1" * 39}, "Attempting to store more than 38 significant digits in a Number"),
        ({"N": "1E126"}, "Number overflow. Attempting to store a number with magnitude larger than supported range"),
        ({"N": "1E-131"}, "Number underflow. Attempting to store a number with magnitude smaller than supported range"),
        ({"NULL": False}, "One or more parameter values were invalid: Null attribute value types must have the value of true"),
        ({"SS": []}, "One or more parameter values were invalid: An string set  may not be empty"),
        ({"SS": ["a", "a"]}, "One or more parameter values were invalid: Input collection [a, a] contains duplicates."),
        ({}, "Supplied AttributeValue is empty, must contain exactly one of the supported datatypes"),
    ],
)
@pytest.mark.modes("dev")
def test_refused_values(server, value, message):
    client = server.client("dynamodb")
    name = make(server)
    answer = refused(client.put_item, TableName=name, Item={"pk": {"S": "a"}, "v": value})
    assert answer == (400, "ValidationException", message)
    assert client.scan(TableName=name)["Count"] == 0


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"other": "x"}, "One or more parameter values were invalid: Missing the key pk in the item"),
        ({"pk": D(1)}, "One or more parameter values were invalid: Type mismatch for key pk expected: S actual: N"),
        ({"pk": ""}, "One or more parameter values are not valid. The AttributeValue for a key attribute cannot contain an "
                     "empty string value. Key: pk"),
        ({"pk": "x" * 2049},
         "One or more parameter values were invalid: Size of hashkey has exceeded the maximum size limit of2048 bytes"),
        ({"pk": "a", "v": "x" * 409_600}, "Item size has exceeded the maximum allowed size"),
    ],
    ids=["missing", "type", "empty", "long", "item"],
)
def test_refused_items(table, item, message):
    assert code_of(table.put_item, Item=item) == ("ValidationException", message)


@pytest.mark.modes("dev")
def test_refused_keys(server):
    table = server.resource("dynamodb").Table(make(server))
    message = "The provided key element does not match the schema"
    for key in [{"other": "x"}, {"pk": D(1)}, {"pk": "a", "more": "b"}]:
        for call in [table.get_item, table.delete_item, table.update_item]:
            assert code_of(call, Key=key) == ("ValidationException", message)


def test_return_values(table):
    assert "Attributes" not in table.put_item(Item={"pk": "a", "n": 1}, ReturnValues="ALL_OLD")
    assert table.put_item(Item={"pk": "a", "n": 2}, ReturnValues="ALL_OLD")["Attributes"] == {"pk": "a", "n": 1}
    update = {"Key": {"pk": "a"}, "UpdateExpression": "SET n = :n, m = :n", "ExpressionAttributeValues": {":n": 3}}
    assert table.update_item(ReturnValues="UPDATED_OLD", **update)["Attributes"] == {"n": 2}
    assert table.update_item(ReturnValues="UPDATED_NEW", **update)["Attributes"] == {"n": 3, "m": 3}
    assert table.update_item(ReturnValues="ALL_NEW", **update)["Attributes"] == {"pk": "a", "n": 3, "m": 3}
    assert table.delete_item(Key={"pk": "a"}, ReturnValues="ALL_OLD")["Attributes"] == {"pk": "a", "n": 3, "m": 3}
    assert "Attributes" not in table.delete_item(Key={"pk": "a"}, ReturnValues="ALL_OLD")
    assert code_of(table.put_item, Item={"pk": "a"}, ReturnValues="ALL_NEW") == (
        "ValidationException", "ReturnValues can only be ALL_OLD or NONE",
    )


def test_update_expressions(table):
    table.put_item(Item={"pk": "a", "n": 1, "list": [1, 2, 3], "map": {"x": 1}, "tags": {"a", "b"}, "gone": 1})
    table.update_item(
        Key={"pk": "a"},
        UpdateExpression="SET n = n + :one, #l[1] = :two, #l[9] = :end, #m.y = if_not_exists(#m.x, :one), "
        "app = list_append(#l, :more), fresh = if_not_exists(fresh, :one) REMOVE gone, #l[0] ADD cnt :two DELETE tags :tag",
        ExpressionAttributeNames={"#l": "list", "#m": "map"},
        ExpressionAttributeValues={":one": 1, ":two": 2, ":end": "end", ":more": [9], ":tag": {"a"}},
    )
    assert table.get_item(Key={"pk": "a"})["Item"] == {
        "pk": "a", "n": 2, "list": [2, 3, "end"], "map": {"x": 1, "y": 1}, "tags": {"b"}, "cnt": 2,
        "app": [1, 2, 3, 9], "fresh": 1,
    }
    table.update_item(Key={"pk": "new"}, UpdateExpression="ADD hits :one", ExpressionAttributeValues={":one": 1})
    assert table.get_item(Key={"pk": "new"})["Item"] == {"pk": "new", "hits": 1}
    table.update_item(Key={"pk": "a"}, UpdateExpression="DELETE tags :t", ExpressionAttributeValues={":t": {"b"}})
    assert "tags" not in table.get_item(Key={"pk": "a"})["Item"]


@pytest.mark.parametrize(
    ("expression", "values", "message"),
    [
        ("SET pk = :v", {":v": "b"},
         "One or more parameter values were invalid: Cannot update attribute pk. This attribute is part of the key"),
        ("SET a = :v", {":v": 1, ":w": 2},
         "Value provided in ExpressionAttributeValues unused in expressions: keys: {:w}"),
        ("SET a = :w", {":v": 1},
         "Invalid UpdateExpression: An expression attribute value used in expression is not defined; attribute value: :w"),
        ("SET name = :v", {":v": 1},
         "Invalid UpdateExpression: Attribute name is a reserved keyword; reserved keyword: name"),
        ("SET a.b = :v, a = :v", {":v": 1},
         "Invalid UpdateExpression: Two document paths overlap with each other; must remove or rewrite one of these paths; "
         "path one: [a, b], path two: [a]"),
        ("SET a = :v SET b = :v", {":v": 1},
         'Invalid UpdateExpression: The "SET" section can only be used once in an update expression;'),
        ("SET x.y = :v", {":v": 1}, "The document path provided in the update expression is invalid for update"),
        ("SET n = absent + :v", {":v": 1}, "The provided expression refers to an attribute that does not exist in the item"),
        ("SET n = words + :v", {":v": 1}, "An operand in the update expression has an incorrect data type"),
    ],
    ids=["key", "unused", "undefined", "reserved", "overlap", "twice", "path", "missing", "type"],
)
@pytest.mark.modes("dev")
def test_refused_updates(server, expression, values, message):
    table = server.resource("dynamodb").Table(make(server))
    table.put_item(Item={"pk": "a", "words": "t"})
    answer = code_of(table.update_item, Key={"pk": "a"}, UpdateExpression=expression, ExpressionAttributeValues=values)
    assert answer == ("ValidationException", message)
    assert table.get_item(Key={"pk": "a"})["Item"] == {"pk": "a", "words": "t"}


def test_conditions(table):
    table.put_item(Item={"pk": "a", "n": 1}, ConditionExpression=Attr("pk").not_exists())
    failed = ("ConditionalCheckFailedException", "The conditional request failed")
    assert code_of(table.put_item, Item={"pk": "a"}, ConditionExpression=Attr("pk").not_exists()) == failed
    assert code_of(table.delete_item, Key={"pk": "a"}, ConditionExpression=Attr("n").gt(1)) == failed
    with pytest.raises(table.meta.client.exceptions.ConditionalCheckFailedException) as caught:
        table.update_item(
            Key={"pk": "a"}, UpdateExpression="SET n = :v", ConditionExpression="n = :w",
            ExpressionAttributeValues={":v": 2, ":w": 7}, ReturnValuesOnConditionCheckFailure="ALL_OLD",
        )
    assert caught.value.response["Item"] == {"pk": {"S": "a"}, "n": {"N": "1"}}
    assert table.get_item(Key={"pk": "a"})["Item"] == {"pk": "a", "n": 1}
    table.delete_item(Key={"pk": "a"}, ConditionExpression=Attr("n").eq(1))
    assert "Item" not in table.get_item(Key={"pk": "a"})


@pytest.mark.parametrize(
    ("condition", "found"),
    [
        (Attr("n").eq(2), "b"), (Attr("n").ne(2), "acd"), (Attr("n").lt(2), "a"), (Attr("n").between(1, 2), "ab"),
        (Attr("n").is_in([1, 3]), "ac"), (Attr("n").exists(), "abc"), (Attr("n").not_exists(), "d"),
        (Attr("s").begins_with("x"), "ab"), (Attr("s").contains("y"), "bc"), (Attr("tags").contains("t"), "d"),
        (Attr("s").size().gt(1), "bc"), (Attr("s").attribute_type("S"), "abc"), (~Attr("n").gt(1), "ad"),
        (Attr("n").eq(1) | Attr("s").eq("zy"), "ac"), (Attr("n").gt(1) & Attr("s").begins_with("x"), "b"),
        (Attr("map.deep").eq(1), "d"),
    ],
)
@pytest.mark.modes("dev")
def test_filters(server, condition, found):
    table = server.resource("dynamodb").Table(make(server))
    for item in [
        {"pk": "a", "n": 1, "s": "x"}, {"pk": "b", "n": 2, "s": "xy"}, {"pk": "c", "n": 3, "s": "zy"},
        {"pk": "d", "tags": {"t"}, "map": {"deep": 1}},
    ]:
        table.put_item(Item=item)
    answer = table.scan(FilterExpression=condition)
    assert "".join(sorted(item["pk"] for item in answer["Items"])) == found
    assert (answer["Count"], answer["ScannedCount"]) == (len(found), 4)


def test_query(sorted_table):
    for n in [3, -1, 10, D("2.5"), 0]:
        sorted_table.put_item(Item={"pk": "a", "n": n, "even": n % 2 == 0})
    sorted_table.put_item(Item={"pk": "b", "n": 1})

    def numbers(condition, **more):
        return [item["n"] for item in sorted_table.query(KeyConditionExpression=condition, **more)["Items"]]

    key, sort = Key("pk").eq("a"), Key("n")
    assert numbers(key) == [-1, 0, D("2.5"), 3, 10]
    assert numbers(key, ScanIndexForward=False) == [10, 3, D("2.5"), 0, -1]
    assert numbers(key & sort.gt(0)) == [D("2.5"), 3, 10]
    assert numbers(key & sort.between(0, 3)) == [0, D("2.5"), 3]
    assert numbers(key & sort.eq(10)) == [10]
    assert numbers(key, FilterExpression=Attr("even").eq(True)) == [0, 10]
    assert numbers(Key("pk").eq("none")) == []
    page = sorted_table.query(KeyConditionExpression=key, Limit=2)
    assert ([item["n"] for item in page["Items"]], page["LastEvaluatedKey"]) == ([-1, 0], {"pk": "a", "n": 0})
    page = sorted_table.query(KeyConditionExpression=key, Limit=2, ExclusiveStartKey=page["LastEvaluatedKey"])
    assert [item["n"] for item in page["Items"]] == [D("2.5"), 3]
    count = sorted_table.query(KeyConditionExpression=key, Select="COUNT")
    assert count["Count"] == 5 and "Items" not in count
    some = sorted_table.query(KeyConditionExpression=key & sort.eq(3), ProjectionExpression="even")
    assert some["Items"] == [{"even": False}]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "Either the KeyConditions or KeyConditionExpression parameter must be specified in the request."),
        ({"KeyConditionExpression": Key("n").eq(1)}, "Query condition missed key schema element: pk"),
        ({"KeyConditionExpression": Key("pk").gt("a")}, "Query key condition not supported"),
        ({"KeyConditionExpression": Key("pk").eq(1)},
         "One or more parameter values were invalid: Condition parameter type does not match schema type"),
        ({"KeyConditionExpression": Key("pk").eq("a"), "FilterExpression": Attr("n").eq(1)},
         "Filter Expression can only contain non-primary key attributes: Primary key attribute: n"),
        ({"KeyConditionExpression": Key("pk").eq("a"), "IndexName": "none"},
         "The table does not have the specified index: none"),
    ],
    ids=["none", "no-hash", "operator", "type", "filter", "index"],
)
def test_refused_queries(sorted_table, arguments, message):
    assert code_of(sorted_table.query, **arguments) == ("ValidationException", message)


def test_pages_of_a_scan(server):
    client = server.client("dynamodb")
    name = make(server)
    big = "x" * 100_000
    for index in range(25):
        client.put_item(TableName=name, Item={"pk": {"S": f"{index:02}"}, "big": {"S": big}})
    # A page ends at one megabyte.
    first = client.scan(TableName=name)
    assert 8 <= first["Count"] <= 11 and "LastEvaluatedKey" in first
    pages = list(client.get_paginator("scan").paginate(TableName=name, ProjectionExpression="pk"))
    assert sorted(item["pk"]["S"] for page in pages for item in page["Items"]) == [f"{index:02}" for index in range(25)]
    assert len(pages) == 3
    pages = client.get_paginator("scan").paginate(TableName=name, PaginationConfig={"PageSize": 4}, ProjectionExpression="pk")
    assert [page["ScannedCount"] for page in pages] == [4, 4, 4, 4, 4, 4, 1]
    found = []
    for segment in range(3):
        for page in client.get_paginator("scan").paginate(TableName=name, Segment=segment, TotalSegments=3):
            found += [item["pk"]["S"] for item in page["Items"]]
    assert sorted(found) == [f"{index:02}" for index in range(25)]


def test_batches(table):
    with table.batch_writer() as batch:
        for index in range(60):
            batch.put_item(Item={"pk": str(index), "n": index})
    with table.batch_writer() as batch:
        for index in range(30):
            batch.delete_item(Key={"pk": str(index)})
    assert table.scan(Select="COUNT")["Count"] == 30
    client = table.meta.client
    got = client.batch_get_item(RequestItems={table.name: {"Keys": [{"pk": "40"}, {"pk": "1"}, {"pk": "41"}]}})
    assert sorted(item["n"] for item in got["Responses"][table.name]) == [40, 41]
    assert got["UnprocessedKeys"] == {}


@pytest.mark.modes("dev")
def test_consumed_capacity(server):
    client = server.client("dynamodb")
    name = make(server)
    put = client.put_item(TableName=name, Item={"pk": {"S": "a"}, "v": {"S": "x" * 1500}}, ReturnConsumedCapacity="TOTAL")
    assert put["ConsumedCapacity"] == {"TableName": name, "CapacityUnits": 2.0}
    got = client.get_item(TableName=name, Key={"pk": {"S": "a"}}, ReturnConsumedCapacity="TOTAL")
    assert got["ConsumedCapacity"]["CapacityUnits"] == 0.5


def test_a_counter_loses_no_update(server):
    import concurrent.futures

    client = server.client("dynamodb")
    name = make(server)

    def add(_):
        client.update_item(
            TableName=name, Key={"pk": {"S": "c"}}, UpdateExpression="ADD n :one", ExpressionAttributeValues={":one": {"N": "1"}},
        )

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(200)))
    assert client.get_item(TableName=name, Key={"pk": {"S": "c"}})["Item"]["n"] == {"N": "200"}

"""DynamoDB's transactions through boto3: all or nothing, reasons, tokens, and sums that stay whoever else is at work."""

import concurrent.futures
import decimal
import random

import pytest

from conftest import refused
from test_dynamodb import make

D = decimal.Decimal


@pytest.fixture
def client(server):
    """The client of a resource, which speaks Python values."""
    return server.resource("dynamodb").meta.client


@pytest.fixture
def name(server):
    """A table with the string key `pk`."""
    return make(server)


def put(name, **item):
    return {"Put": {"TableName": name, "Item": item}}


def add(name, pk, by, least=0):
    return {"Update": {
        "TableName": name, "Key": {"pk": pk}, "UpdateExpression": "ADD n :by", "ConditionExpression": "n >= :least",
        "ExpressionAttributeValues": {":by": by, ":least": least},
    }}


def read(client, name, *keys):
    gets = [{"Get": {"TableName": name, "Key": {"pk": key}}} for key in keys]
    return [answer.get("Item") for answer in client.transact_get_items(TransactItems=gets)["Responses"]]


def test_all_or_nothing_over_tables(server, client, name):
    other = make(server, sort="n", sort_kind="N")
    client.put_item(TableName=name, Item={"pk": "a", "n": 5})
    client.put_item(TableName=name, Item={"pk": "gone"})
    parts = [
        add(name, "a", -2), {"Delete": {"TableName": name, "Key": {"pk": "gone"}}}, put(other, pk="a", n=1),
        {"ConditionCheck": {"TableName": name, "Key": {"pk": "none"}, "ConditionExpression": "attribute_not_exists(pk)"}},
    ]
    client.transact_write_items(TransactItems=parts)
    assert read(client, name, "a", "gone", "none") == [{"pk": "a", "n": D(3)}, None, None]
    assert client.get_item(TableName=other, Key={"pk": "a", "n": 1})["Item"] == {"pk": "a", "n": D(1)}
    parts[0] = add(name, "a", -9, least=9)
    parts[0]["Update"]["ReturnValuesOnConditionCheckFailure"] = "ALL_OLD"
    parts[2] = put(other, pk="b", n=2)
    with pytest.raises(client.exceptions.TransactionCanceledException) as caught:
        client.transact_write_items(TransactItems=parts)
    answer = caught.value.response
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 400
    assert answer["Error"]["Message"] == (
        "Transaction cancelled, please refer cancellation reasons for specific reasons [ConditionalCheckFailed, None, None, None]"
    )
    failed = {"Code": "ConditionalCheckFailed", "Message": "The conditional request failed", "Item": {"pk": {"S": "a"}, "n": {"N": "3"}}}
    reasons = answer["CancellationReasons"]
    # The resource does not unwrap errors.
    assert reasons[0] == failed and [reason["Code"] for reason in reasons[1:]] == ["None"] * 3
    assert all("Message" not in reason for reason in reasons[1:])
    assert "Item" not in client.get_item(TableName=other, Key={"pk": "b", "n": 2})


def test_a_token_makes_a_transaction_happen_once(client, name):
    client.put_item(TableName=name, Item={"pk": "a", "n": 0})
    for _ in range(3):
        client.transact_write_items(TransactItems=[add(name, "a", 1)], ClientRequestToken="token-of-one")
    assert read(client, name, "a") == [{"pk": "a", "n": D(1)}]
    with pytest.raises(client.exceptions.IdempotentParameterMismatchException):
        client.transact_write_items(TransactItems=[add(name, "a", 2)], ClientRequestToken="token-of-one")
    # Without one, the SDK makes a token for each call.
    for _ in range(2):
        client.transact_write_items(TransactItems=[add(name, "a", 1)])
    assert read(client, name, "a") == [{"pk": "a", "n": D(3)}]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (lambda name: [put(name, pk="a"), add(name, "a", 1)], "Transaction request cannot include multiple operations on one item"),
        (lambda name: [put(name, pk="")],
         "One or more parameter values are not valid. The AttributeValue for a key attribute cannot contain an empty string "
         "value. Key: pk"),
        (lambda name: [put(name, pk="a", v="x" * 409_600)], "Item size has exceeded the maximum allowed size"),
        (lambda name: [{**put(name, pk="a"), "Delete": {"TableName": name, "Key": {"pk": "a"}}}],
         "TransactItems can only contain one of Check, Put, Update or Delete"),
    ],
    ids=["twice", "empty-key", "size", "two-kinds"],
)
@pytest.mark.modes("dev")
def test_refused_transactions(client, name, parts, message):
    assert refused(client.transact_write_items, TransactItems=parts(name)) == (400, "ValidationException", message)
    assert client.scan(TableName=name)["Count"] == 0


@pytest.mark.modes("dev")
def test_consumed_capacity_is_doubled(client, name):
    used = client.transact_write_items(TransactItems=[put(name, pk="a", v="x" * 1500)], ReturnConsumedCapacity="TOTAL")
    assert used["ConsumedCapacity"] == [{"TableName": name, "CapacityUnits": 4.0, "WriteCapacityUnits": 4.0}]
    get = [{"Get": {"TableName": name, "Key": {"pk": "a"}}}]
    used = client.transact_get_items(TransactItems=get, ReturnConsumedCapacity="TOTAL")
    assert used["ConsumedCapacity"] == [{"TableName": name, "CapacityUnits": 2.0, "ReadCapacityUnits": 2.0}]


def test_transfers_keep_the_sum(server, name):
    client = server.resource("dynamodb").meta.client
    accounts = [f"account-{number}" for number in range(5)]
    for account in accounts:
        client.put_item(TableName=name, Item={"pk": account, "n": 100})

    def work(seed):
        dice = random.Random(seed)
        sums = set()
        for _ in range(12):
            source, target = dice.sample(accounts, 2)
            amount = dice.randint(1, 60)
            try:
                client.transact_write_items(TransactItems=[add(name, source, -amount, amount), add(name, target, amount)])
            except client.exceptions.TransactionCanceledException as error:
                assert [reason["Code"] for reason in error.response["CancellationReasons"]] == ["ConditionalCheckFailed", "None"]
            sums.add(sum(item["n"] for item in read(client, name, *accounts)))
        return sums

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        for sums in pool.map(work, range(6)):
            assert sums == {D(500)}
    assert all(item["n"] >= 0 for item in read(client, name, *accounts))

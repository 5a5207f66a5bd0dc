"""DynamoDB's forms from before expressions, through boto3."""

import decimal

import pytest

from test_dynamodb import code_of, make

D = decimal.Decimal


def test_expected_and_attribute_updates(server):
    table = server.resource("dynamodb").Table(make(server))
    table.put_item(Item={"pk": "a", "n": 1, "tags": {"x", "y"}}, Expected={"pk": {"Exists": False}})
    failed = ("ConditionalCheckFailedException", "The conditional request failed")
    assert code_of(table.put_item, Item={"pk": "a"}, Expected={"pk": {"Exists": False}}) == failed
    assert code_of(table.delete_item, Key={"pk": "a"}, Expected={"n": {"Value": 2}}) == failed
    updated = table.update_item(
        Key={"pk": "a"}, ReturnValues="ALL_NEW", ConditionalOperator="OR",
        Expected={"n": {"ComparisonOperator": "BETWEEN", "AttributeValueList": [0, 5]}, "s": {"ComparisonOperator": "NOT_NULL"}},
        AttributeUpdates={
            "n": {"Action": "ADD", "Value": 2}, "s": {"Value": "text"}, "tags": {"Action": "DELETE", "Value": {"x"}},
            "none": {"Action": "DELETE"},
        },
    )
    assert updated["Attributes"] == {"pk": "a", "n": D(3), "s": "text", "tags": {"y"}}
    assert code_of(table.update_item, Key={"pk": "a"}, AttributeUpdates={"s": {"Action": "ADD", "Value": 1}}) == (
        "ValidationException", "Type mismatch for attribute to update",
    )
    mixed = {"Expected": {"n": {"Value": 3}}, "ConditionExpression": "attribute_exists(pk)"}
    assert code_of(table.delete_item, Key={"pk": "a"}, **mixed) == (
        "ValidationException",
        "Can not use both expression and non-expression parameters in the same request: Non-expression parameters: {Expected} "
        "Expression parameters: {ConditionExpression}",
    )
    table.delete_item(Key={"pk": "a"}, Expected={"n": {"ComparisonOperator": "GE", "AttributeValueList": [3]}})
    assert "Item" not in table.get_item(Key={"pk": "a"})


@pytest.mark.modes("dev")
def test_key_conditions_and_filters(server):
    table = server.resource("dynamodb").Table(make(server, sort="n", sort_kind="N"))
    for n in range(6):
        table.put_item(Item={"pk": "a", "n": n, "even": n % 2 == 0})
    is_a = {"ComparisonOperator": "EQ", "AttributeValueList": ["a"]}
    found = table.query(
        KeyConditions={"pk": is_a, "n": {"ComparisonOperator": "GT", "AttributeValueList": [1]}}, AttributesToGet=["n"],
        QueryFilter={"even": {"ComparisonOperator": "EQ", "AttributeValueList": [True]}}, ScanIndexForward=False,
    )
    assert found["Items"] == [{"n": 4}, {"n": 2}] and found["ScannedCount"] == 4
    some = {"n": {"ComparisonOperator": "IN", "AttributeValueList": [1, 4]}, "even": {"ComparisonOperator": "NE", "AttributeValueList": [False]}}
    assert table.scan(ScanFilter=some)["Count"] == 1
    assert table.scan(ScanFilter=some, ConditionalOperator="OR")["Count"] == 4
    pages = table.meta.client.get_paginator("scan").paginate(TableName=table.name, ScanFilter=some, PaginationConfig={"PageSize": 2})
    assert [page["Count"] for page in pages] == [0, 0, 1, 0]

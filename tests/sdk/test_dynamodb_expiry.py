"""Expiry of DynamoDB items by a time of their own."""

import time

import pytest

from conftest import refused, wait_for
from test_dynamodb import make


def status(client, name):
    return client.describe_time_to_live(TableName=name)["TimeToLiveDescription"]["TimeToLiveStatus"]


def turn(client, name, enabled, attribute="due"):
    specification = {"Enabled": enabled, "AttributeName": attribute}
    return client.update_time_to_live(TableName=name, TimeToLiveSpecification=specification)["TimeToLiveSpecification"] == specification


def test_items_go_soon_after_their_time(server):
    client = server.client("dynamodb")
    name = make(server)
    now = int(time.time())

    def put(key, **due):
        client.put_item(TableName=name, Item={"pk": {"S": key}, **({"due": due} if due else {})})

    put("over-before", N=str(now - 10))
    put("never")
    put("text", S=str(now - 10))
    put("long-ago", N=str(now - 6 * 365 * 86_400))
    assert status(client, name) == "DISABLED"
    assert turn(client, name, True)
    wait_for(lambda: status(client, name) == "ENABLED", "the expiry being enabled")
    put("over-after", N=str(now - 1))
    put("soon", N=str(now + 2))
    put("later", N=str(now + 3_600))

    def keys():
        return sorted(item["pk"]["S"] for item in client.scan(TableName=name)["Items"])

    wait_for(lambda: keys() == ["later", "long-ago", "never", "text"], "the items' expiry")
    assert client.describe_table(TableName=name)["Table"]["ItemCount"] == 4
    assert turn(client, name, False)
    wait_for(lambda: status(client, name) == "DISABLED", "the expiry being disabled")


@pytest.mark.modes("dev")
def test_refused_changes_of_expiry(server):
    client = server.client("dynamodb")
    name = make(server)

    def change(enabled, attribute):
        return refused(
            client.update_time_to_live, TableName=name, TimeToLiveSpecification={"Enabled": enabled, "AttributeName": attribute},
        )

    assert change(False, "due") == (400, "ValidationException", "TimeToLive is already disabled")
    turn(client, name, True)
    wait_for(lambda: status(client, name) == "ENABLED", "the expiry being enabled")
    assert change(True, "due") == (400, "ValidationException", "TimeToLive is already enabled")
    assert change(False, "other") == (
        400, "ValidationException", "TimeToLive is active on a different AttributeName: current AttributeName is due",
    )


def test_expiry_survives_the_server(own_server):
    server = own_server("dev")
    client = server.client("dynamodb")
    name = make(server)
    now = int(time.time())
    turn(client, name, True)
    for number in range(30):
        client.put_item(TableName=name, Item={"pk": {"S": str(number)}, "due": {"N": str(now + (1 if number < 20 else 3_600))}})
    server.process.kill()
    server.process.wait()
    server.start()
    client = server.client("dynamodb")
    wait_for(lambda: client.scan(TableName=name, Select="COUNT")["Count"] == 10, "the items' expiry")
    assert status(client, name) == "ENABLED"

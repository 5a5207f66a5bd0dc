"""Limited throughput of DynamoDB's tables through boto3: what is refused, what comes back unprocessed, what may be set."""

import botocore.config
import pytest

from conftest import name_of, refused
from test_dynamodb import make

EXCEEDED = (
    "The level of configured provisioned throughput for the table was exceeded. Consider increasing your provisioning level "
    "with the UpdateTable API."
)
#: Bytes of an item that takes nearly all that a table of one unit a second begins with.
BURST = 300 * 1024 - 100


def provisioned(server, read=1, write=1):
    return make(server, BillingMode="PROVISIONED", ProvisionedThroughput={"ReadCapacityUnits": read, "WriteCapacityUnits": write})


def use_up(client, table):
    """Takes what a table may take at once, and more."""
    for name in ("big", "bigger"):
        try:
            client.put_item(TableName=table, Item={"pk": {"S": name}, "v": {"S": "x" * BURST}})
        except client.exceptions.ProvisionedThroughputExceededException:
            return


def test_writes_beyond_provisioned_units(server):
    client = server.client("dynamodb")
    table = provisioned(server)
    use_up(client, table)
    item = {"pk": {"S": "a"}}
    with pytest.raises(client.exceptions.ProvisionedThroughputExceededException) as caught:
        client.put_item(TableName=table, Item=item)
    answer = caught.value.response
    assert (answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Message"]) == (400, EXCEEDED)
    reason, = answer["ThrottlingReasons"]
    assert reason["reason"] == "TableWriteProvisionedThroughputExceeded"
    assert reason["resource"].endswith(f"table/{table}")
    assert refused(client.update_item, TableName=table, Key=item)[1] == "ProvisionedThroughputExceededException"
    free = make(server)
    requests = {table: [{"PutRequest": {"Item": item}}], free: [{"PutRequest": {"Item": item}}]}
    assert client.batch_write_item(RequestItems=requests)["UnprocessedItems"] == {table: requests[table]}
    assert refused(client.batch_write_item, RequestItems={table: requests[table]})[2] == EXCEEDED
    with pytest.raises(client.exceptions.TransactionCanceledException) as caught:
        client.transact_write_items(TransactItems=[{"Put": {"TableName": table, "Item": item}}])
    assert caught.value.response["CancellationReasons"] == [{"Code": "ProvisionedThroughputExceeded", "Message": EXCEEDED}]
    # With more units there is more at once, as an SDK finds that tries again.
    client.update_table(TableName=table, ProvisionedThroughput={"ReadCapacityUnits": 1, "WriteCapacityUnits": 1000})
    patient = server.session().client(
        "dynamodb", endpoint_url=server.url, config=botocore.config.Config(retries={"max_attempts": 10, "mode": "standard"}),
    )
    patient.put_item(TableName=table, Item=item)
    client.update_table(TableName=table, BillingMode="PAY_PER_REQUEST")
    client.put_item(TableName=table, Item=item)


def test_reads_beyond_provisioned_units(server):
    client = server.client("dynamodb")
    table = provisioned(server, write=1000)
    client.put_item(TableName=table, Item={"pk": {"S": "big"}, "v": {"S": "x" * 380_000}})
    read = {"TableName": table, "Key": {"pk": {"S": "big"}}, "ConsistentRead": True}
    refusal = None
    for _ in range(12):
        try:
            client.get_item(**read)
        except client.exceptions.ProvisionedThroughputExceededException as error:
            refusal = error.response
            break
    assert refusal["ThrottlingReasons"][0]["reason"] == "TableReadProvisionedThroughputExceeded"
    assert refused(client.scan, TableName=table)[1] == "ProvisionedThroughputExceededException"
    assert client.put_item(TableName=table, Item={"pk": {"S": "a"}})["ResponseMetadata"]["HTTPStatusCode"] == 200


def test_a_maximum_on_demand(server):
    client = server.client("dynamodb")
    table = make(server, OnDemandThroughput={"MaxWriteRequestUnits": 1})
    most = client.describe_table(TableName=table)["Table"]["OnDemandThroughput"]
    assert most == {"MaxReadRequestUnits": -1, "MaxWriteRequestUnits": 1}
    refusal = None
    for number in range(4):
        try:
            client.put_item(TableName=table, Item={"pk": {"S": f"big-{number}"}, "v": {"S": "x" * BURST}})
        except client.exceptions.ThrottlingException as error:
            refusal = error.response
            break
    assert refusal["Error"]["Code"] == "ThrottlingException"
    assert refusal["throttlingReasons"][0]["reason"] == "TableWriteMaxOnDemandThroughputExceeded"
    client.update_table(TableName=table, OnDemandThroughput={"MaxWriteRequestUnits": -1})
    client.put_item(TableName=table, Item={"pk": {"S": "a"}})


def test_units_are_limited_and_lowered_four_times_a_day(server):
    client = server.client("dynamodb")
    table = provisioned(server, 10, 10)
    update = lambda read, write: {"TableName": table, "ProvisionedThroughput": {"ReadCapacityUnits": read, "WriteCapacityUnits": write}}
    assert refused(client.update_table, **update(10, 10))[1] == "ValidationException"
    for write in (9, 8, 7, 6):
        client.update_table(**update(10, write))
    assert client.describe_table(TableName=table)["Table"]["ProvisionedThroughput"]["NumberOfDecreasesToday"] in (0, 1, 2, 3, 4)
    limits = client.describe_limits()
    status, code, _ = refused(client.update_table, **update(limits["TableMaxReadCapacityUnits"] + 1, 6))
    assert (status, code) == (400, "LimitExceededException")
    missing = name_of("table")
    assert refused(client.update_table, TableName=missing, BillingMode="PAY_PER_REQUEST")[1] == "ResourceNotFoundException"

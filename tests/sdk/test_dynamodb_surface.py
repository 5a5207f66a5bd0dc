"""Every operation of DynamoDB's model: what is not there says so, in DynamoDB's shape, and changes nothing."""

import gzip
import http.client
import uuid
import zlib

import pytest
from botocore.exceptions import ClientError

from conftest import ROOT, refused
from test_dynamodb import make

#: What Dunlin does not do: tables over several regions, exports to and imports from buckets, streams to Kinesis,
#: contributor insights, bulk operations and vectors.
REFUSED = {
    "CancelBulkOperation", "CreateGlobalTable", "DescribeBulkOperation", "DescribeContributorInsights", "DescribeExport",
    "DescribeGlobalTable", "DescribeGlobalTableSettings", "DescribeImport", "DescribeKinesisStreamingDestination",
    "DescribeTableReplicaAutoScaling", "DisableKinesisStreamingDestination", "EnableKinesisStreamingDestination",
    "ExportTableToPointInTime", "ImportTable", "ListBulkOperations", "ListContributorInsights", "ListExports", "ListGlobalTables",
    "ListImports", "SearchVectors", "StartBulkPutItems", "UpdateContributorInsights", "UpdateGlobalTable",
    "UpdateGlobalTableSettings", "UpdateKinesisStreamingDestination", "UpdateTableReplicaAutoScaling",
}


#: What the SDK itself needs before it sends anything.
NEEDED = {
    "BatchGetItem": {"RequestItems": {}}, "BatchWriteItem": {"RequestItems": {}}, "TransactGetItems": {"TransactItems": []},
    "TransactWriteItems": {"TransactItems": []},
}


def operations(client):
    """Operations to the methods that call them."""
    return {operation: getattr(client, method) for method, operation in client.meta.method_to_api_mapping.items()}


def packing(server, coding, pack):
    """A client of its own that compresses what it sends."""
    client = server.client("dynamodb", user_agent_extra=str(uuid.uuid4()))

    def packed(request, **_):
        request.data = pack(request.data.encode() if isinstance(request.data, str) else request.data)
        request.headers["Content-Encoding"] = coding
    client.meta.events.register("before-sign.dynamodb", packed)
    return client


@pytest.mark.parametrize(("coding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_calls_may_be_compressed(server, coding, pack):
    name, client = make(server), packing(server, coding, pack)
    item = {"pk": {"S": "a"}, "v": {"S": "v" * 100_000}}
    client.put_item(TableName=name, Item=item)
    assert client.get_item(TableName=name, Key={"pk": {"S": "a"}})["Item"] == item
    broken = packing(server, coding, lambda data: pack(data)[:-1])
    assert refused(broken.delete_item, TableName=name, Key={"pk": {"S": "a"}})[:2] == (500, "InternalServerError")
    assert client.get_item(TableName=name, Key={"pk": {"S": "a"}})["Item"] == item


def test_calls_beyond_sixteen_megabytes_are_refused(server):
    name = make(server)
    call = server.client("dynamodb").put_item
    assert refused(call, TableName=name, Item={"pk": {"S": "a"}, "v": {"S": "v" * (16 << 20)}})[0] == 413
    # What grows to as much when it is unpacked is, too.
    call = packing(server, "gzip", gzip.compress).put_item
    assert refused(call, TableName=name, Item={"pk": {"S": "a"}, "v": {"S": "v" * (16 << 20)}})[0] == 413


def test_the_root_of_the_own_host_says_that_it_is_healthy(server):
    def get(host):
        connection = http.client.HTTPConnection("127.0.0.1", server.port)
        connection.request("GET", "/", headers={"Host": host})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    name = "dynamodb.us-east-1.amazonaws.com"
    assert get(name) == (200, f"healthy: {name} ")
    assert get("lambda.us-east-1.amazonaws.com")[0] in (403, 404)


def test_every_operation_is_done_or_refused_loudly(server):
    client = server.client("dynamodb")
    known = operations(client)
    wrong = {}
    for operation, call in known.items():
        try:
            call(**NEEDED.get(operation, {}))
            answer = (200, None)
        except ClientError as error:
            answer = (error.response["ResponseMetadata"]["HTTPStatusCode"], error.response["Error"]["Code"])
        refused = answer == (501, "NotImplementedException")
        if refused != (operation in REFUSED) or answer[0] == 500:
            wrong[operation] = answer
    assert wrong == {}
    assert REFUSED <= set(known)
    page = (ROOT / "docs/compatibility.md").read_text()
    assert f"| dynamodb | {len(known) - len(REFUSED)} | {len(known)} |" in page


@pytest.mark.parametrize(("operation", "member", "value"), [
    ("create_table", "GlobalTableSourceArn", "arn:aws:dynamodb:us-east-1:000000000000:table/t"),
    ("create_table", "VectorIndexes", [{"IndexName": "vec"}]),
    ("create_table", "WarmThroughput", {"ReadUnitsPerSecond": 12000}),
    ("create_table", "SSESpecification", {"Enabled": True}),
    ("update_table", "ReplicaUpdates", [{"Create": {"RegionName": "eu-west-1"}}]),
    ("update_table", "WarmThroughput", {"ReadUnitsPerSecond": 12000}),
    ("update_table", "MultiRegionConsistency", "STRONG"),
])
def test_members_without_a_meaning_here_are_refused_by_name(server, operation, member, value):
    client = server.client("dynamodb")
    table = {
        "TableName": "refused", "BillingMode": "PAY_PER_REQUEST", "KeySchema": [{"AttributeName": "pk", "KeyType": "HASH"}],
        "AttributeDefinitions": [{"AttributeName": "pk", "AttributeType": "S"}],
    }
    arguments = table if operation == "create_table" else {"TableName": "refused"}
    with pytest.raises(ClientError) as caught:
        getattr(client, operation)(**arguments, **{member: value})
    error = caught.value.response
    assert (error["ResponseMetadata"]["HTTPStatusCode"], error["Error"]["Code"]) == (501, "NotImplementedException")
    assert member in error["Error"]["Message"]
    assert "refused" not in client.list_tables()["TableNames"]

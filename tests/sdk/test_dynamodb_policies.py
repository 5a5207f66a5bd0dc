"""Resource policies of DynamoDB's tables and streams through boto3, for callers of their own account and of others."""

import json

import pytest

from conftest import refused
from test_dynamodb import make

STRANGER = "111122223333"


def document(arn, effect, principal, action):
    statement = {"Effect": effect, "Principal": {"AWS": principal}, "Action": action, "Resource": [arn, f"{arn}/index/*"]}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


@pytest.fixture
def arn(server):
    """A table of its own."""
    return server.client("dynamodb").describe_table(TableName=make(server))["Table"]["TableArn"]


def test_policies_and_their_revisions(server, arn):
    client = server.client("dynamodb")
    assert refused(client.get_resource_policy, ResourceArn=arn)[1] == "PolicyNotFoundException"
    text = document(arn, "Deny", "*", "dynamodb:DeleteItem")
    first = client.put_resource_policy(ResourceArn=arn, Policy=text, ExpectedRevisionId="NO_POLICY")["RevisionId"]
    assert client.put_resource_policy(ResourceArn=arn, Policy=text)["RevisionId"] == first
    found = client.get_resource_policy(ResourceArn=arn)
    assert (found["Policy"], found["RevisionId"]) == (text, first)
    # A denial is in force for everybody, the table's owner too.
    status, code, message = refused(client.delete_item, TableName=arn, Key={"pk": {"S": "a"}})
    assert (status, code) == (400, "AccessDeniedException")
    assert message.endswith(f"on resource: {arn} with an explicit deny in a resource-based policy")
    client.put_item(TableName=arn, Item={"pk": {"S": "a"}})
    assert refused(client.delete_resource_policy, ResourceArn=arn, ExpectedRevisionId="7")[1] == "PolicyNotFoundException"
    assert client.delete_resource_policy(ResourceArn=arn, ExpectedRevisionId=first)["RevisionId"] == first
    client.delete_item(TableName=arn, Key={"pk": {"S": "a"}})
    assert client.delete_resource_policy(ResourceArn=arn)["RevisionId"] == ""
    too_long = text + " " * (20 * 1024)
    assert refused(client.put_resource_policy, ResourceArn=arn, Policy=too_long)[1] == "ValidationException"
    # A condition of where a call comes from is.
    for network, falls in [("127.0.0.0/8", True), ("192.0.2.0/24", False)]:
        near = text.replace('"Resource"', f'"Condition": {{"IpAddress": {{"aws:SourceIp": "{network}"}}}}, "Resource"')
        client.put_resource_policy(ResourceArn=arn, Policy=near)
        if falls:
            assert refused(client.delete_item, TableName=arn, Key={"pk": {"S": "a"}})[1] == "AccessDeniedException"
        else:
            client.delete_item(TableName=arn, Key={"pk": {"S": "a"}})
    client.delete_resource_policy(ResourceArn=arn)
    # What could not be enforced is not taken.
    unknown = text.replace('"Resource"', '"Condition": {"StringEquals": {"aws:PrincipalTag/team": "a"}}, "Resource"')
    assert refused(client.put_resource_policy, ResourceArn=arn, Policy=unknown)[1] == "ValidationException"


@pytest.mark.modes("dev")
def test_another_account_needs_to_be_let_in(server, arn):
    """In development a key of twelve digits is the account of that number."""
    client, stranger = server.client("dynamodb"), server.client("dynamodb", access_key=STRANGER)
    item = {"pk": {"S": "a"}}
    status, code, message = refused(stranger.put_item, TableName=arn, Item=item)
    assert (status, code) == (400, "AccessDeniedException")
    assert message.endswith("because no resource-based policy allows the dynamodb:PutItem action")
    client.put_resource_policy(ResourceArn=arn, Policy=document(arn, "Allow", STRANGER, ["dynamodb:PutItem", "dynamodb:GetItem"]))
    stranger.put_item(TableName=arn, Item=item)
    assert client.get_item(TableName=arn, Key=item)["Item"] == item
    assert refused(stranger.delete_item, TableName=arn, Key=item)[1] == "AccessDeniedException"


def test_a_stream_has_a_policy_of_its_own(server):
    client, streams = server.client("dynamodb"), server.client("dynamodbstreams")
    table = make(server, StreamSpecification={"StreamEnabled": True, "StreamViewType": "KEYS_ONLY"})
    stream = client.describe_table(TableName=table)["Table"]["LatestStreamArn"]
    statement = {"Effect": "Deny", "Principal": "*", "Action": "dynamodb:DescribeStream", "Resource": stream}
    client.put_resource_policy(ResourceArn=stream, Policy=json.dumps({"Statement": [statement]}))
    assert refused(streams.describe_stream, StreamArn=stream)[1] == "AccessDeniedException"
    client.delete_resource_policy(ResourceArn=stream)
    assert streams.describe_stream(StreamArn=stream)["StreamDescription"]["StreamStatus"] == "ENABLED"

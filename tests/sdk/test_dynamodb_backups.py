"""DynamoDB's backups through boto3: on demand, to points in time, of deleted tables, and what is restored of them."""

import datetime
import time

import pytest

from conftest import name_of, refused, wait_for
from test_aws_cli import aws
from test_dynamodb import make


@pytest.fixture
def client(server):
    return server.client("dynamodb")


def put(client, table, *names, value="1"):
    for name in names:
        client.put_item(TableName=table, Item={"pk": {"S": name}, "v": {"S": value}})


def content(client, table):
    """Names to values."""
    pages = client.get_paginator("scan").paginate(TableName=table, PaginationConfig={"PageSize": 7})
    return {item["pk"]["S"]: item["v"]["S"] for page in pages for item in page["Items"]}


def available(client, arn):
    """Waits until a backup is there."""
    status = lambda: client.describe_backup(BackupArn=arn)["BackupDescription"]["BackupDetails"]["BackupStatus"]
    wait_for(lambda: status() == "AVAILABLE", "an available backup")


def restored(client, name):
    """Waits until a restored table is there."""
    client.get_waiter("table_exists").wait(TableName=name, WaiterConfig={"Delay": 1})
    return client.describe_table(TableName=name)["Table"]


def test_life_of_a_backup(client, server):
    table = make(server)
    names = [f"item-{number}" for number in range(40)]
    put(client, table, *names)
    details = client.create_backup(TableName=table, BackupName="nightly")["BackupDetails"]
    arn = details["BackupArn"]
    assert (details["BackupStatus"], details["BackupType"]) == ("CREATING", "USER")
    put(client, table, "item-0", "later", value="2")
    client.delete_item(TableName=table, Key={"pk": {"S": "item-1"}})
    available(client, arn)
    described = client.describe_backup(BackupArn=arn)["BackupDescription"]
    assert described["SourceTableDetails"]["ItemCount"] == 40
    assert described["SourceTableDetails"]["TableName"] == table
    assert described["BackupDetails"]["BackupSizeBytes"] > 0
    client.delete_table(TableName=table)
    summaries = client.list_backups(TableName=table)["BackupSummaries"]
    assert [(one["BackupArn"], one["BackupStatus"]) for one in summaries] == [(arn, "AVAILABLE")]
    again = name_of("table")
    answer = client.restore_table_from_backup(
        TargetTableName=again, BackupArn=arn, BillingModeOverride="PROVISIONED",
        ProvisionedThroughputOverride={"ReadCapacityUnits": 50, "WriteCapacityUnits": 60},
    )["TableDescription"]
    assert answer["RestoreSummary"]["SourceBackupArn"] == arn
    description = restored(client, again)
    assert description["RestoreSummary"]["RestoreInProgress"] is False
    assert description["ProvisionedThroughput"]["WriteCapacityUnits"] == 60
    assert description["ItemCount"] == 40
    assert content(client, again) == dict.fromkeys(names, "1")
    assert refused(client.restore_table_from_backup, TargetTableName=again, BackupArn=arn) == (
        400, "TableAlreadyExistsException", f"Table already exists: {again}",
    )
    put(client, again, "more")
    deleted = client.delete_backup(BackupArn=arn)["BackupDescription"]["BackupDetails"]
    assert deleted["BackupStatus"] == "DELETED"
    assert refused(client.describe_backup, BackupArn=arn) == (400, "BackupNotFoundException", f"Backup not found: {arn}")
    assert content(client, again)["more"] == "1"


def test_backups_in_pages(client, server):
    table = make(server)
    arns = [client.create_backup(TableName=table, BackupName=f"number-{number}")["BackupDetails"]["BackupArn"] for number in range(5)]
    for arn in arns:
        available(client, arn)
    pages = client.get_paginator("list_backups").paginate(TableName=table, PaginationConfig={"PageSize": 2})
    found = [summary["BackupArn"] for page in pages for summary in page["BackupSummaries"]]
    assert sorted(found) == sorted(arns)
    hour = datetime.timedelta(hours=1)
    now = datetime.datetime.now(datetime.timezone.utc)
    assert client.list_backups(TableName=table, TimeRangeUpperBound=now - hour)["BackupSummaries"] == []
    assert len(client.list_backups(TableName=table, TimeRangeLowerBound=now - hour)["BackupSummaries"]) == 5
    assert client.list_backups(TableName=table, BackupType="SYSTEM")["BackupSummaries"] == []
    missing = name_of("table")
    assert refused(client.create_backup, TableName=missing, BackupName="abc") == (
        400, "TableNotFoundException", f"Table not found: {missing}",
    )


def test_indexes_come_back_or_stay_away(client, server):
    index = {
        "IndexName": "by-v", "KeySchema": [{"AttributeName": "v", "KeyType": "HASH"}], "Projection": {"ProjectionType": "ALL"},
    }
    table = name_of("table")
    client.create_table(
        TableName=table, BillingMode="PAY_PER_REQUEST", KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in ("pk", "v")], GlobalSecondaryIndexes=[index],
    )
    put(client, table, "a", "b", "c")
    arn = client.create_backup(TableName=table, BackupName="indexed")["BackupDetails"]["BackupArn"]
    available(client, arn)
    whole, bare = name_of("table"), name_of("table")
    client.restore_table_from_backup(TargetTableName=whole, BackupArn=arn, GlobalSecondaryIndexOverride=[index])
    client.restore_table_from_backup(TargetTableName=bare, BackupArn=arn, GlobalSecondaryIndexOverride=[])
    assert restored(client, whole)["GlobalSecondaryIndexes"][0]["ItemCount"] == 3
    query = {"KeyConditionExpression": "v = :v", "ExpressionAttributeValues": {":v": {"S": "1"}}}
    assert client.query(TableName=whole, IndexName="by-v", **query)["Count"] == 3
    assert "GlobalSecondaryIndexes" not in restored(client, bare)
    other = index | {"IndexName": "other"}
    status, code, _ = refused(
        client.restore_table_from_backup, TargetTableName=name_of("table"), BackupArn=arn, GlobalSecondaryIndexOverride=[other],
    )
    assert (status, code) == (400, "ValidationException")


def test_points_in_time(client, server):
    table = make(server)
    status = client.describe_continuous_backups(TableName=table)["ContinuousBackupsDescription"]
    assert status["ContinuousBackupsStatus"] == "ENABLED"
    assert status["PointInTimeRecoveryDescription"]["PointInTimeRecoveryStatus"] == "DISABLED"
    put(client, table, "old")
    on = {"PointInTimeRecoveryEnabled": True, "RecoveryPeriodInDays": 7}
    status = client.update_continuous_backups(TableName=table, PointInTimeRecoverySpecification=on)
    recovery = status["ContinuousBackupsDescription"]["PointInTimeRecoveryDescription"]
    assert (recovery["PointInTimeRecoveryStatus"], recovery["RecoveryPeriodInDays"]) == ("ENABLED", 7)
    put(client, table, "first")
    # Clients send whole seconds: the point lies between two of them.
    moment = int(time.time()) + 1
    wait_for(lambda: time.time() > moment + 0.1, "the next second")
    put(client, table, "first", "second", value="2")
    client.delete_item(TableName=table, Key={"pk": {"S": "old"}})
    then, latest = name_of("table"), name_of("table")
    answer = client.restore_table_to_point_in_time(
        SourceTableName=table, TargetTableName=then, RestoreDateTime=datetime.datetime.fromtimestamp(moment, datetime.timezone.utc),
    )["TableDescription"]
    assert answer["RestoreSummary"]["SourceTableArn"].endswith(f"table/{table}")
    client.restore_table_to_point_in_time(SourceTableName=table, TargetTableName=latest, UseLatestRestorableTime=True)
    put(client, table, "third", value="3")
    restored(client, then)
    restored(client, latest)
    assert content(client, then) == {"old": "1", "first": "1"}
    assert content(client, latest) == {"first": "2", "second": "2"}
    long_ago = datetime.datetime.fromtimestamp(moment - 3600, datetime.timezone.utc)
    status, code, _ = refused(
        client.restore_table_to_point_in_time, SourceTableName=table, TargetTableName=name_of("table"), RestoreDateTime=long_ago,
    )
    assert (status, code) == (400, "InvalidRestoreTimeException")
    # A table that is deleted can be had back.
    client.delete_table(TableName=table)
    backup, = client.list_backups(TableName=table, BackupType="SYSTEM")["BackupSummaries"]
    assert backup["BackupName"] == f"{table}$DeletedTableBackup"
    assert backup["BackupExpiryDateTime"] - backup["BackupCreationDateTime"] == datetime.timedelta(days=35)
    client.restore_table_from_backup(TargetTableName=table, BackupArn=backup["BackupArn"])
    restored(client, table)
    assert content(client, table) == {"first": "2", "second": "2", "third": "3"}
    off = {"PointInTimeRecoveryEnabled": False}
    client.update_continuous_backups(TableName=table, PointInTimeRecoverySpecification=off)
    assert refused(
        client.restore_table_to_point_in_time, SourceTableName=table, TargetTableName=then, UseLatestRestorableTime=True,
    ) == (400, "PointInTimeRecoveryUnavailableException", f"Point in time recovery is not enabled for table '{table}'")


def test_the_command_line_backs_up_and_waits(server):
    table = make(server)
    call = lambda *arguments: aws(server, "dynamodb", *arguments)
    arn = call("create-backup", "--table-name", table, "--backup-name", "shell")["BackupDetails"]["BackupArn"]
    available(server.client("dynamodb"), arn)
    again = name_of("table")
    call("restore-table-from-backup", "--target-table-name", again, "--backup-arn", arn)
    call("wait", "table-exists", "--table-name", again)
    listed = call("list-backups", "--table-name", table, "--page-size", "1")["BackupSummaries"]
    assert [backup["BackupName"] for backup in listed] == ["shell"]
    call("delete-table", "--table-name", again)
    call("wait", "table-not-exists", "--table-name", again)

"""The calls that the AWS provider of Terraform makes for its resources of Lambda, in their order and with their arguments.

After the provider's source (internal/service/lambda: function.go, alias.go, permission.go, function_url.go,
event_source_mapping.go). A resource is created, read, read again without a difference, changed and destroyed; what the
provider sends although nobody wrote it (empty descriptions, empty lists that take settings back) is sent here too.
"""

import base64
import hashlib
import json

import pytest

from conftest import ROLE, name_of, refused, wait_for, zipped

CODE = "def handler(event, context):\n    return {answer}\n"


class Function:
    """`aws_lambda_function` with a package."""

    def __init__(self, server):
        self.client = server.client("lambda")
        self.name = name_of("terraform")

    def create(self, answer=1, **settings):
        self.client.create_function(
            FunctionName=self.name, Code={"ZipFile": package(answer)}, Description="", MemorySize=128, PackageType="Zip",
            Publish=True, Role=ROLE, Tags={"made-by": "terraform"}, Timeout=3, Handler="handler.handler",
            Runtime="python3.11", Architectures=["x86_64"], EphemeralStorage={"Size": 512},
            TracingConfig={"Mode": "PassThrough"}, **settings,
        )
        self.client.get_function(FunctionName=self.name)
        wait_for(lambda: self.configuration()["State"] == "Active", "an active function")
        return self.read()

    def configuration(self):
        return self.client.get_function(FunctionName=self.name)["Configuration"]

    def read(self):
        """What the provider keeps of a function."""
        got = self.client.get_function(FunctionName=self.name)
        kept = {key: value for key, value in got["Configuration"].items() if key != "RevisionId"}
        pages = self.client.get_paginator("list_versions_by_function").paginate(FunctionName=self.name, MaxItems=10_000)
        *_, latest = [version for page in pages for version in page["Versions"]]
        signing = self.client.get_function_code_signing_config(FunctionName=self.name)
        assert "CodeSigningConfigArn" not in signing
        return {
            "configuration": kept, "reserved": got.get("Concurrency", {}).get("ReservedConcurrentExecutions", -1),
            "tags": got["Tags"], "version": latest["Version"], "qualified_arn": latest["FunctionArn"],
        }

    def wait_until_updated(self):
        wait_for(lambda: self.configuration()["LastUpdateStatus"] == "Successful", "an updated function")

    def configure(self, **settings):
        self.client.update_function_configuration(FunctionName=self.name, **settings)
        self.wait_until_updated()

    def publish(self):
        made = self.client.publish_version(FunctionName=self.name)
        shown = lambda: self.client.get_function_configuration(FunctionName=made["FunctionArn"], Qualifier=made["Version"])
        wait_for(lambda: shown()["LastUpdateStatus"] == "Successful", "a published version")

    def answer(self, **more):
        return json.load(self.client.invoke(FunctionName=self.name, **more)["Payload"])

    def destroy(self):
        self.client.delete_function(FunctionName=self.name)
        assert refused(self.client.get_function, FunctionName=self.name)[:2] == (404, "ResourceNotFoundException")


def package(answer):
    return zipped({"handler.py": CODE.format(answer=answer)})


def sha256(content):
    return base64.b64encode(hashlib.sha256(content).digest()).decode()


@pytest.fixture
def function(server):
    made = Function(server)
    yield made
    made.destroy()


def test_a_function(function):
    first = function.create()
    assert first == function.read(), "a second plan shows no difference"
    assert (first["version"], first["reserved"], first["tags"]) == ("1", -1, {"made-by": "terraform"})
    assert first["qualified_arn"] == f"{first['configuration']['FunctionArn']}:1"
    assert first["configuration"]["CodeSha256"] == sha256(package(1))
    assert first["configuration"]["Description"] == "" and "Layers" not in first["configuration"]

    # A change of settings, then of code, a limit, and a version of all that.
    function.configure(Description="changed", Environment={"Variables": {"NAME": "1"}}, MemorySize=256, Timeout=5)
    function.client.update_function_code(FunctionName=function.name, ZipFile=package(2))
    function.wait_until_updated()
    function.client.put_function_concurrency(FunctionName=function.name, ReservedConcurrentExecutions=2)
    function.publish()
    second = function.read()
    assert (second["version"], second["reserved"]) == ("2", 2)
    assert second["configuration"]["Environment"] == {"Variables": {"NAME": "1"}}
    assert (function.answer(), function.answer(Qualifier="1"), function.answer(Qualifier="2")) == (2, 1, 2)

    # What is no longer written is taken back with empty values.
    function.configure(
        Description="", Environment={"Variables": {}}, Layers=[], FileSystemConfigs=[], DeadLetterConfig={"TargetArn": ""},
        VpcConfig={"Ipv6AllowedForDualStack": False, "SecurityGroupIds": [], "SubnetIds": []}, MemorySize=128, Timeout=3,
    )
    function.client.delete_function_concurrency(FunctionName=function.name)
    third = function.read()
    differs = {"CodeSha256", "CodeSize", "ConfigSha256", "LastModified"}
    assert {k: v for k, v in third["configuration"].items() if k not in differs} == {
        k: v for k, v in first["configuration"].items() if k not in differs}
    assert third["reserved"] == -1


def test_tags_of_a_function(function):
    arn = function.create()["configuration"]["FunctionArn"]
    function.client.untag_resource(Resource=arn, TagKeys=["made-by"])
    function.client.tag_resource(Resource=arn, Tags={"team": "birds"})
    assert function.client.list_tags(Resource=arn)["Tags"] == {"team": "birds"} == function.read()["tags"]


def test_an_alias(function):
    function.create()
    function.client.update_function_code(FunctionName=function.name, ZipFile=package(2))
    function.wait_until_updated()
    function.publish()
    client, named = function.client, {"FunctionName": function.name, "Name": "live"}
    made = client.create_alias(**named, Description="", FunctionVersion="1", RoutingConfig={})
    read = lambda: {key: value for key, value in client.get_alias(**named).items() if key not in ("ResponseMetadata", "RevisionId")}
    assert read() == {
        "AliasArn": made["AliasArn"], "Name": "live", "FunctionVersion": "1", "Description": "",
    }
    assert function.answer(Qualifier="live") == 1
    client.update_alias(**named, Description="both", FunctionVersion="1", RoutingConfig={"AdditionalVersionWeights": {"2": 0.5}})
    assert read()["RoutingConfig"] == {"AdditionalVersionWeights": {"2": 0.5}}
    client.update_alias(**named, Description="", FunctionVersion="2", RoutingConfig={})
    wait_for(lambda: not read().get("RoutingConfig", {}).get("AdditionalVersionWeights"), "weights that are gone")
    assert function.answer(Qualifier="live") == 2
    client.delete_alias(**named)
    assert refused(client.get_alias, **named)[:2] == (404, "ResourceNotFoundException")


@pytest.mark.parametrize("arguments, principal, condition", [
    ({"Principal": "events.amazonaws.com", "SourceArn": "arn:aws:events:us-east-1:000000000000:rule/nightly"},
     {"Service": "events.amazonaws.com"}, {"ArnLike": {"AWS:SourceArn": "arn:aws:events:us-east-1:000000000000:rule/nightly"}}),
    ({"Principal": "s3.amazonaws.com", "SourceAccount": "000000000000", "SourceArn": "arn:aws:s3:::bucket"},
     {"Service": "s3.amazonaws.com"},
     {"StringEquals": {"AWS:SourceAccount": "000000000000"}, "ArnLike": {"AWS:SourceArn": "arn:aws:s3:::bucket"}}),
])
def test_a_permission(function, arguments, principal, condition):
    function.create()
    client, statement = function.client, {"FunctionName": function.name, "StatementId": "allow"}

    def read():
        document = json.loads(client.get_policy(FunctionName=function.name)["Policy"])
        return next(one for one in document["Statement"] if one["Sid"] == "allow")

    client.add_permission(**statement, Action="lambda:InvokeFunction", **arguments)
    found = read()
    arn = function.configuration()["FunctionArn"]
    assert (found["Effect"], found["Action"], found["Resource"]) == ("Allow", "lambda:InvokeFunction", arn)
    assert (found["Principal"], found["Condition"]) == (principal, condition)
    client.remove_permission(**statement)
    assert refused(client.get_policy, FunctionName=function.name)[:2] == (404, "ResourceNotFoundException")
    assert refused(client.remove_permission, **statement)[:2] == (404, "ResourceNotFoundException")


def test_a_function_url(function):
    function.create()
    client, named = function.client, {"FunctionName": function.name}
    made = client.create_function_url_config(**named, AuthType="NONE", InvokeMode="BUFFERED")
    client.add_permission(
        **named, StatementId="FunctionURLAllowPublicAccess", Action="lambda:InvokeFunctionUrl", Principal="*",
        FunctionUrlAuthType="NONE",
    )
    read = lambda: client.get_function_url_config(**named)
    assert (read()["FunctionUrl"], read()["AuthType"], read()["InvokeMode"]) == (made["FunctionUrl"], "NONE", "BUFFERED")
    policy = json.loads(client.get_policy(**named)["Policy"])["Statement"][0]
    assert (policy["Principal"], policy["Condition"]) == ("*", {"StringEquals": {"lambda:FunctionUrlAuthType": "NONE"}})
    cors = {"AllowCredentials": False, "AllowOrigins": ["https://example.com"], "AllowMethods": ["GET"], "MaxAge": 60}
    client.update_function_url_config(**named, AuthType="AWS_IAM", Cors=cors, InvokeMode="RESPONSE_STREAM")
    # What is not allowed may be left out of an answer.
    shown = {"AllowCredentials": False} | read()["Cors"]
    assert (read()["AuthType"], shown, read()["InvokeMode"]) == ("AWS_IAM", cors, "RESPONSE_STREAM")
    client.delete_function_url_config(**named)
    assert refused(client.get_function_url_config, **named)[:2] == (404, "ResourceNotFoundException")


def test_an_event_source_mapping(server, function):
    """`aws_lambda_event_source_mapping` of a table's stream; a state that is not settled is waited out after each change."""
    function.create()
    tables, table = server.client("dynamodb"), name_of("terraform")
    tables.create_table(
        TableName=table, BillingMode="PAY_PER_REQUEST", AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        StreamSpecification={"StreamEnabled": True, "StreamViewType": "NEW_IMAGE"},
    )
    tables.get_waiter("table_exists").wait(TableName=table, WaiterConfig={"Delay": 1})
    stream = tables.describe_table(TableName=table)["Table"]["LatestStreamArn"]
    client = function.client
    made = client.create_event_source_mapping(
        FunctionName=function.name, EventSourceArn=stream, Enabled=True, StartingPosition="LATEST", BatchSize=50,
        Tags={"made-by": "terraform"},
    )
    named = {"UUID": made["UUID"]}

    def read(state):
        """What the provider keeps, once its wait is over."""
        wait_for(lambda: client.get_event_source_mapping(**named)["State"] not in {"Creating", "Enabling", "Disabling", "Updating"},
                 "a settled mapping")
        got = client.get_event_source_mapping(**named)
        assert got["State"] == state, got
        return {key: value for key, value in got.items() if key not in {"ResponseMetadata", "LastModified", "LastProcessingResult"}}

    kept = read("Enabled")
    assert kept == read("Enabled"), "a second plan shows no difference"
    assert (kept["EventSourceArn"], kept["BatchSize"], kept["ParallelizationFactor"]) == (stream, 50, 1)
    assert kept["FunctionArn"] == function.configuration()["FunctionArn"]
    assert client.list_tags(Resource=kept["EventSourceMappingArn"])["Tags"] == {"made-by": "terraform"}

    # The update sends each argument that differs, and the function's name always.
    client.update_event_source_mapping(**named, FunctionName=function.name, BatchSize=7, BisectBatchOnFunctionError=True,
                                       MaximumRetryAttempts=2, FunctionResponseTypes=["ReportBatchItemFailures"])
    changed = read("Enabled")
    assert changed == kept | {"BatchSize": 7, "BisectBatchOnFunctionError": True, "MaximumRetryAttempts": 2,
                              "FunctionResponseTypes": ["ReportBatchItemFailures"]}
    # An empty list takes a setting back.
    client.update_event_source_mapping(**named, FunctionName=function.name, Enabled=False, FunctionResponseTypes=[])
    assert read("Disabled")["FunctionResponseTypes"] == []

    assert client.delete_event_source_mapping(**named)["State"] == "Deleting"
    gone = lambda: refused(client.get_event_source_mapping, **named)[:2] == (404, "ResourceNotFoundException")
    wait_for(lambda: named["UUID"] not in [one["UUID"] for one in client.list_event_source_mappings()["EventSourceMappings"]],
             "a deleted mapping")
    assert gone()
    tables.delete_table(TableName=table)


def test_an_event_source_mapping_of_a_service_that_is_not_there(function):
    """Without its service the first call says so, and nothing is left."""
    function.create()
    status, code, message = refused(
        function.client.create_event_source_mapping, FunctionName=function.name, BatchSize=10, Enabled=True,
        EventSourceArn="arn:aws:sqs:us-east-1:000000000000:queue",
    )
    assert status >= 400 and "sqs" in message.lower(), (status, code, message)
    assert function.client.list_event_source_mappings(FunctionName=function.name)["EventSourceMappings"] == []

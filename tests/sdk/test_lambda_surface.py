"""Lambda's whole model: no operation answers with anything but its effect or a right error; every paginator and every waiter
of boto3 comes to its end."""

import json
import pathlib
import re
import threading

import botocore.exceptions
from botocore import xform_name

from conftest import ROLE, name_of, zipped

CODE = "def handler(event, context):\n    return 1\n"
PROFILE = "arn:aws:signer:us-east-1:000000000000:/signing-profiles/p/0123456789"

#: Durable executions, capacity providers and scaling configurations.
NOT_HERE = {
    "CheckpointDurableExecution", "CreateCapacityProvider", "DeleteCapacityProvider", "DeleteDurableExecution", "GetCapacityProvider",
    "GetDurableExecution", "GetDurableExecutionHistory", "GetDurableExecutionState", "GetFunctionScalingConfig", "ListCapacityProviders",
    "ListDurableExecutionsByFunction", "ListFunctionVersionsByCapacityProvider", "PauseDurableExecution", "PutFunctionScalingConfig",
    "ResumeDurableExecution", "SendDurableExecutionCallbackFailure", "SendDurableExecutionCallbackHeartbeat",
    "SendDurableExecutionCallbackSuccess", "StopDurableExecution", "UpdateCapacityProvider",
}
#: What a member is given that must be there; others follow from their shapes.
GIVEN = {
    "FunctionName": "absent", "Qualifier": "1", "Name": "live", "FunctionVersion": "1", "LayerName": "absent", "VersionNumber": 1,
    "UUID": "00000000-0000-4000-8000-000000000000", "Role": ROLE, "StatementId": "s", "Action": "lambda:InvokeFunction",
    "Principal": "events.amazonaws.com", "Arn": "arn:aws:lambda:us-east-1:000000000000:layer:absent:1",
    "Resource": "arn:aws:lambda:us-east-1:000000000000:function:absent",
    "ResourceArn": "arn:aws:lambda:us-east-1:000000000000:function:absent", "Policy": "{}",
    "CodeSigningConfigArn": "arn:aws:lambda:us-east-1:000000000000:code-signing-config:csc-0123456789abcdef0",
    "SigningProfileVersionArns": [PROFILE], "InvokeArgs": b"{}",
}


def argument(name, shape):
    """Something that a member may be."""
    if name in GIVEN:
        return GIVEN[name]
    if shape.type_name == "structure":
        return {member: argument(member, shape.members[member]) for member in shape.required_members}
    if shape.type_name == "list":
        return [argument(name, shape.member)]
    if shape.type_name == "map":
        return {}
    if shape.type_name == "string":
        return shape.enum[0] if shape.enum else "x" * max(1, shape.metadata.get("min", 1))
    return {"blob": b"x", "boolean": False, "timestamp": 0}.get(shape.type_name, max(1, shape.metadata.get("min", 1)))


def test_no_operation_answers_anything_but_its_effect_or_a_right_error(server):
    client = server.client("lambda")
    model = client.meta.service_model
    missing, wrong = set(), []
    for operation in model.operation_names:
        shape = model.operation_model(operation)
        members = shape.input_shape.members if shape.input_shape else {}
        given = {name: argument(name, members[name]) for name in (shape.input_shape.required_members if shape.input_shape else [])}
        try:
            answer = getattr(client, xform_name(operation))(**given)
            if not 200 <= answer["ResponseMetadata"]["HTTPStatusCode"] < 300:
                wrong.append((operation, answer))
        except botocore.exceptions.ClientError as error:
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            code, words = error.response["Error"]["Code"], error.response["Error"]["Message"]
            if code == "NotImplementedException":
                missing.add(operation)
                if status != 501 or operation not in words:
                    wrong.append((operation, status, words))
            elif code not in {one.name for one in shape.error_shapes} | {"ValidationException"} or not 400 <= status < 500 or not words:
                wrong.append((operation, status, code, words))
    assert not wrong, wrong
    assert missing == NOT_HERE


def test_what_is_refused_is_not_counted_as_supported():
    matrix = (pathlib.Path(__file__).parent.parent.parent / "docs/compatibility.md").read_text()
    supported = re.search(r"\n## lambda\n\nSupported: ([^.]*)\.", matrix).group(1).split(", ")
    assert len(supported) == 71 and not set(supported) & NOT_HERE


def pages(client, operation, items, **arguments):
    """What a paginator gathers one by one, which must be several pages of what it gathers at once."""
    paginator = client.get_paginator(operation)
    single = list(paginator.paginate(**arguments, PaginationConfig={"PageSize": 1}))
    assert all(len(page[items]) <= 1 for page in single)
    gathered = [item for page in single for item in page[items]]
    whole = paginator.paginate(**arguments).build_full_result()[items]
    key = lambda item: json.dumps(item, sort_keys=True, default=str)
    assert sorted(map(key, gathered)) == sorted(map(key, whole))
    assert len(gathered) >= 2, f"{operation}: {gathered}"
    return gathered


def test_every_paginator_of_what_is_supported(own_server):
    server = own_server()
    client = server.client("lambda")
    config = client.create_code_signing_config(
        AllowedPublishers={"SigningProfileVersionArns": [PROFILE]}, CodeSigningPolicies={"UntrustedArtifactOnDeployment": "Warn"},
    )["CodeSigningConfig"]["CodeSigningConfigArn"]
    client.create_code_signing_config(AllowedPublishers={"SigningProfileVersionArns": [PROFILE]})
    names = [server.function(CODE, CodeSigningConfigArn=config, Publish=True) for _ in range(2)]
    of = {"FunctionName": names[0]}
    client.update_function_configuration(**of, Timeout=11)
    client.publish_version(**of)
    layers = [name_of("layer") for _ in range(2)]
    for layer in (layers[0], *layers):
        client.publish_layer_version(LayerName=layer, Content={"ZipFile": zipped({"x": "1"})})
    for version, alias in [("1", "one"), ("2", "two")]:
        client.create_alias(**of, Name=alias, FunctionVersion=version)
        client.put_provisioned_concurrency_config(**of, Qualifier=alias, ProvisionedConcurrentExecutions=1)
        client.put_function_event_invoke_config(**of, Qualifier=alias, MaximumRetryAttempts=0)
        client.create_function_url_config(**of, Qualifier=alias, AuthType="NONE")
    assert {one["FunctionName"] for one in pages(client, "list_functions", "Functions")} == set(names)
    assert [one["Version"] for one in pages(client, "list_versions_by_function", "Versions", **of)] == ["$LATEST", "1", "2"]
    assert [one["Name"] for one in pages(client, "list_aliases", "Aliases", **of)] == ["one", "two"]
    assert {one["LayerName"] for one in pages(client, "list_layers", "Layers")} == set(layers)
    assert [one["Version"] for one in pages(client, "list_layer_versions", "LayerVersions", LayerName=layers[0])] == [2, 1]
    assert len(pages(client, "list_function_event_invoke_configs", "FunctionEventInvokeConfigs", **of)) == 2
    assert len(pages(client, "list_function_url_configs", "FunctionUrlConfigs", **of)) == 2
    assert len(pages(client, "list_code_signing_configs", "CodeSigningConfigs")) == 2
    assert len(pages(client, "list_functions_by_code_signing_config", "FunctionArns", CodeSigningConfigArn=config)) == 2
    seen = client.get_paginator("list_provisioned_concurrency_configs").paginate(**of, PaginationConfig={"PageSize": 1})
    assert [len(page["ProvisionedConcurrencyConfigs"]) for page in seen] == [1, 1]
    assert client.get_paginator("list_event_source_mappings").paginate(**of).build_full_result()["EventSourceMappings"] == []
    tried = {
        "list_functions", "list_versions_by_function", "list_aliases", "list_layers", "list_layer_versions", "list_code_signing_configs",
        "list_function_event_invoke_configs", "list_function_url_configs", "list_functions_by_code_signing_config",
        "list_provisioned_concurrency_configs", "list_event_source_mappings",
    }
    operations = client.meta.service_model.operation_names
    assert tried == {xform_name(one) for one in operations if client.can_paginate(xform_name(one)) and one not in NOT_HERE}


def test_every_waiter(dev):
    client, name = dev.client("lambda"), name_of()
    exists = client.get_waiter("function_exists")
    done = threading.Event()

    def wait():
        exists.wait(FunctionName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 30})
        done.set()

    waiting = threading.Thread(target=wait)
    waiting.start()
    dev.function(CODE, FunctionName=name, Publish=True)
    waiting.join(60)
    assert done.is_set()
    client.update_function_configuration(FunctionName=name, Timeout=9)
    for waiter in ("function_active", "function_active_v2", "function_updated", "function_updated_v2"):
        client.get_waiter(waiter).wait(FunctionName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 5})
    client.get_waiter("published_version_active").wait(FunctionName=name, Qualifier="1", WaiterConfig={"Delay": 1, "MaxAttempts": 5})
    assert set(client.waiter_names) == {
        "function_active", "function_active_v2", "function_exists", "function_updated", "function_updated_v2", "published_version_active"}

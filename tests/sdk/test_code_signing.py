"""Code signing configurations through boto3. Nothing here signs code, so every package is unsigned."""

import json

from conftest import PYTHON, ROLE, name_of, refused, zipped

PROFILE = "arn:aws:signer:us-east-1:000000000000:/signing-profiles/p/0123456789"
HANDLER = "def handler(event, context): return ANSWER\n"


def config(client, policy):
    made = client.create_code_signing_config(
        Description="d", AllowedPublishers={"SigningProfileVersionArns": [PROFILE]},
        CodeSigningPolicies={"UntrustedArtifactOnDeployment": policy})
    assert made["ResponseMetadata"]["HTTPStatusCode"] == 201
    return made["CodeSigningConfig"]["CodeSigningConfigArn"]


def test_unsigned_code_is_refused_where_it_is_enforced(server):
    client = server.client("lambda")
    enforce, warn = config(client, "Enforce"), config(client, "Warn")
    name = name_of()
    code = {"ZipFile": zipped({"handler.py": HANDLER.replace("ANSWER", "1")})}
    creation = {"FunctionName": name, "Runtime": PYTHON, "Handler": "handler.handler", "Role": ROLE, "Code": code}
    status, error, _ = refused(client.create_function, **creation, CodeSigningConfigArn=enforce)
    assert (status, error) == (400, "CodeVerificationFailedException")
    client.create_function(**creation, CodeSigningConfigArn=warn)
    assert json.load(client.invoke(FunctionName=name)["Payload"]) == 1
    assert client.get_function_code_signing_config(FunctionName=name)["CodeSigningConfigArn"] == warn

    client.put_function_code_signing_config(FunctionName=name, CodeSigningConfigArn=enforce)
    two = zipped({"handler.py": HANDLER.replace("ANSWER", "2")})
    status, error, _ = refused(client.update_function_code, FunctionName=name, ZipFile=two)
    assert (status, error) == (400, "CodeVerificationFailedException")
    assert json.load(client.invoke(FunctionName=name)["Payload"]) == 1, "what ran before runs on"
    client.delete_function_code_signing_config(FunctionName=name)
    client.update_function_code(FunctionName=name, ZipFile=two)
    assert json.load(client.invoke(FunctionName=name)["Payload"]) == 2


def test_a_configuration_is_changed_listed_and_goes_when_nobody_has_it(server):
    client = server.client("lambda")
    arn = config(client, "Warn")
    names = [server.function(HANDLER.replace("ANSWER", "1"), CodeSigningConfigArn=arn) for _ in range(3)]
    pages = client.get_paginator("list_functions_by_code_signing_config").paginate(
        CodeSigningConfigArn=arn, PaginationConfig={"PageSize": 2})
    listed = [function for page in pages for function in page["FunctionArns"]]
    assert sorted(function.rsplit(":", 1)[1] for function in listed) == sorted(names)
    changed = client.update_code_signing_config(CodeSigningConfigArn=arn, Description="other")["CodeSigningConfig"]
    assert changed["Description"] == "other"
    assert client.get_code_signing_config(CodeSigningConfigArn=arn)["CodeSigningConfig"] == changed
    pages = client.get_paginator("list_code_signing_configs").paginate(PaginationConfig={"PageSize": 1})
    assert arn in [config["CodeSigningConfigArn"] for page in pages for config in page["CodeSigningConfigs"]]

    client.tag_resource(Resource=arn, Tags={"team": "a"})
    assert client.list_tags(Resource=arn)["Tags"] == {"team": "a"}
    assert refused(client.delete_code_signing_config, CodeSigningConfigArn=arn)[:2] == (409, "ResourceConflictException")
    for name in names:
        client.delete_function(FunctionName=name)
    client.delete_code_signing_config(CodeSigningConfigArn=arn)
    assert refused(client.get_code_signing_config, CodeSigningConfigArn=arn)[:2] == (404, "ResourceNotFoundException")

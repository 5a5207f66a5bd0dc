"""Roles and policies through boto3: their life, whom they let have them, and temporary keys."""

import json

import boto3
import pytest

from conftest import PYTHON, name_of, refused, zipped
from test_inside import with_boto3

HANDLER = "import boto3\ndef handler(event, context):\n    return boto3.client('sts').get_caller_identity()['Arn']\n"
RIGHTS = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "logs:*", "Resource": "*"}]}
BASIC = "arn:aws:iam::aws:policy/service-role/AWSLambdaBasicExecutionRole"


def trust(condition=None, **principal):
    statement = {"Effect": "Allow", "Principal": principal, "Action": "sts:AssumeRole"}
    if condition:
        statement["Condition"] = condition
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def role(client, document=None, **more):
    name = name_of("role")
    made = client.create_role(RoleName=name, AssumeRolePolicyDocument=document or trust(Service="lambda.amazonaws.com"), **more)
    return name, made["Role"]["Arn"]


def test_a_role_from_creation_to_deletion(server):
    client = server.client("iam")
    name, arn = role(client, Path="/team/", Description="d", MaxSessionDuration=7200, Tags=[{"Key": "a", "Value": "1"}])
    client.get_waiter("role_exists").wait(RoleName=name)
    assert refused(client.create_role, RoleName=name.upper(), AssumeRolePolicyDocument=trust(AWS="*"))[:2] == (409, "EntityAlreadyExists")
    got = client.get_role(RoleName=name)["Role"]
    assert arn.endswith(f":role/team/{name}") and got["Arn"] == arn and got["RoleId"].startswith("AROA")
    assert got["AssumeRolePolicyDocument"]["Statement"][0]["Principal"] == {"Service": "lambda.amazonaws.com"}
    assert (got["Description"], got["MaxSessionDuration"], got["Tags"]) == ("d", 7200, [{"Key": "a", "Value": "1"}])
    pages = client.get_paginator("list_roles").paginate(PathPrefix="/team/", PaginationConfig={"PageSize": 1})
    assert name in [role["RoleName"] for page in pages for role in page["Roles"]]

    client.update_role(RoleName=name, Description="other")
    client.update_assume_role_policy(RoleName=name, PolicyDocument=trust(AWS="123456789012"))
    client.tag_role(RoleName=name, Tags=[{"Key": "b", "Value": "2"}])
    client.untag_role(RoleName=name, TagKeys=["a"])
    assert client.list_role_tags(RoleName=name)["Tags"] == [{"Key": "b", "Value": "2"}]
    got = client.get_role(RoleName=name)["Role"]
    assert (got["Description"], got["MaxSessionDuration"]) == ("other", 7200)
    assert got["AssumeRolePolicyDocument"]["Statement"][0]["Principal"] == {"AWS": "123456789012"}

    client.put_role_policy(RoleName=name, PolicyName="own", PolicyDocument=json.dumps(RIGHTS))
    assert client.list_role_policies(RoleName=name)["PolicyNames"] == ["own"]
    assert client.get_role_policy(RoleName=name, PolicyName="own")["PolicyDocument"] == RIGHTS
    client.attach_role_policy(RoleName=name, PolicyArn=BASIC)
    assert client.list_attached_role_policies(RoleName=name)["AttachedPolicies"] == [
        {"PolicyName": "AWSLambdaBasicExecutionRole", "PolicyArn": BASIC}
    ]
    assert client.list_instance_profiles_for_role(RoleName=name)["InstanceProfiles"] == []
    assert refused(client.delete_role, RoleName=name)[:2] == (409, "DeleteConflict")
    client.detach_role_policy(RoleName=name, PolicyArn=BASIC)
    assert refused(client.delete_role, RoleName=name)[:2] == (409, "DeleteConflict")
    client.delete_role_policy(RoleName=name, PolicyName="own")
    client.delete_role(RoleName=name)
    assert refused(client.get_role, RoleName=name)[:2] == (404, "NoSuchEntity")


def test_a_policy_goes_when_nothing_has_it(server):
    client = server.client("iam")
    name, _ = role(client)
    policy = name_of("policy")
    arn = client.create_policy(PolicyName=policy, PolicyDocument=json.dumps(RIGHTS), Description="d")["Policy"]["Arn"]
    client.get_waiter("policy_exists").wait(PolicyArn=arn)
    client.attach_role_policy(RoleName=name, PolicyArn=arn)
    got = client.get_policy(PolicyArn=arn)["Policy"]
    assert (got["AttachmentCount"], got["DefaultVersionId"], got["Description"]) == (1, "v1", "d")
    assert client.get_policy_version(PolicyArn=arn, VersionId="v1")["PolicyVersion"]["Document"] == RIGHTS
    made = client.create_policy_version(PolicyArn=arn, PolicyDocument=json.dumps(RIGHTS), SetAsDefault=True)["PolicyVersion"]
    assert made["VersionId"] == "v2" and made["IsDefaultVersion"]
    assert [version["VersionId"] for version in client.list_policy_versions(PolicyArn=arn)["Versions"]] == ["v2", "v1"]
    pages = client.get_paginator("list_policies").paginate(Scope="Local", OnlyAttached=True)
    assert arn in [policy["Arn"] for page in pages for policy in page["Policies"]]

    assert refused(client.delete_policy, PolicyArn=arn)[:2] == (409, "DeleteConflict")
    client.detach_role_policy(RoleName=name, PolicyArn=arn)
    assert refused(client.delete_policy, PolicyArn=arn)[:2] == (409, "DeleteConflict"), "it has two versions"
    assert refused(client.delete_policy_version, PolicyArn=arn, VersionId="v2")[:2] == (409, "DeleteConflict")
    client.delete_policy_version(PolicyArn=arn, VersionId="v1")
    client.delete_policy(PolicyArn=arn)
    assert refused(client.attach_role_policy, RoleName=name, PolicyArn=arn)[:2] == (404, "NoSuchEntity")
    for document in ["{", "{}", trust(AWS="*")]:
        assert refused(client.create_policy, PolicyName=policy, PolicyDocument=document)[:2] == (400, "MalformedPolicyDocument")


def test_a_function_has_only_a_role_that_lambda_may_have(server):
    iam, client = server.client("iam"), server.client("lambda")
    name, arn = role(iam, trust(Service="ec2.amazonaws.com"))
    creation = {
        "FunctionName": name_of(), "Runtime": PYTHON, "Handler": "handler.handler", "Role": arn, "Timeout": 30, "MemorySize": 256,
        "Code": {"ZipFile": zipped(with_boto3(HANDLER, "sts"))},
    }
    status, code, message = refused(client.create_function, **creation)
    assert (status, code) == (400, "InvalidParameterValueException")
    assert message == "The role defined for the function cannot be assumed by Lambda."
    iam.update_assume_role_policy(RoleName=name, PolicyDocument=trust(Service="lambda.amazonaws.com"))
    client.create_function(**creation)
    said = json.load(client.invoke(FunctionName=creation["FunctionName"])["Payload"])
    assert said == f"arn:aws:sts::000000000000:assumed-role/{name}/{creation['FunctionName']}"
    _, other = role(iam, trust(Service="ec2.amazonaws.com"))
    assert refused(client.update_function_configuration, FunctionName=creation["FunctionName"], Role=other)[0] == 400


def test_a_function_has_no_role_of_another_account(server):
    client = server.client("lambda")
    function = server.function(HANDLER)
    stranger = "arn:aws:iam::111122223333:role/tests"
    creation = {
        "FunctionName": name_of(), "Runtime": PYTHON, "Handler": "handler.handler", "Role": stranger,
        "Code": {"ZipFile": zipped({"handler.py": HANDLER})},
    }
    expected = (403, "AccessDeniedException", "Cross-account pass role is not allowed.")
    assert refused(client.create_function, **creation) == expected
    assert refused(client.get_function, FunctionName=creation["FunctionName"])[0] == 404
    assert refused(client.update_function_configuration, FunctionName=function, Role=stranger) == expected
    # One of its own account that was never made is taken (docs/compatibility.md says so).
    made = stranger.replace("111122223333", "000000000000")
    assert client.update_function_configuration(FunctionName=function, Role=made)["Role"] == made


def test_a_role_is_assumed_by_whom_it_trusts(server):
    iam, sts = server.client("iam"), server.client("sts")
    name, arn = role(iam, trust({"StringEquals": {"sts:ExternalId": "word"}}, AWS="arn:aws:iam::000000000000:root"))
    assumed = sts.assume_role(RoleArn=arn, RoleSessionName="s1", ExternalId="word", DurationSeconds=900)
    assert assumed["AssumedRoleUser"]["Arn"] == f"arn:aws:sts::000000000000:assumed-role/{name}/s1"
    keys = assumed["Credentials"]
    session = boto3.Session(keys["AccessKeyId"], keys["SecretAccessKey"], keys["SessionToken"], region_name="us-east-1")
    who = session.client("sts", endpoint_url=server.url).get_caller_identity()
    assert (who["Arn"], who["UserId"]) == (assumed["AssumedRoleUser"]["Arn"], assumed["AssumedRoleUser"]["AssumedRoleId"])
    assert iam.get_role(RoleName=name)["Role"]["RoleId"] == who["UserId"].split(":")[0]
    session.client("lambda", endpoint_url=server.url).list_functions()

    for wrong in [{"ExternalId": "other"}, {}, {"RoleArn": "arn:aws:iam::000000000000:role/none"}]:
        assert refused(sts.assume_role, **{"RoleArn": arn, "RoleSessionName": "s1"} | wrong)[:2] == (403, "AccessDenied")
    assert refused(sts.assume_role, RoleArn=arn, RoleSessionName="s1", ExternalId="word", DurationSeconds=43200)[0] == 400


@pytest.mark.modes("dev")
def test_another_account_has_a_role_that_trusts_it(server):
    _, arn = role(server.client("iam"), trust(AWS="arn:aws:iam::111122223333:root"))
    other = server.client("sts", "111122223333", "any")
    assert other.assume_role(RoleArn=arn, RoleSessionName="from-afar")["AssumedRoleUser"]["Arn"].endswith("/from-afar")
    assert refused(server.client("sts", "444455556666", "any").assume_role, RoleArn=arn, RoleSessionName="s1")[0] == 403
    assert refused(server.client("sts").assume_role, RoleArn=arn, RoleSessionName="s1")[0] == 403


def test_session_keys_stand_for_who_asked(server):
    keys = server.client("sts").get_session_token(DurationSeconds=900)["Credentials"]
    session = boto3.Session(keys["AccessKeyId"], keys["SecretAccessKey"], keys["SessionToken"], region_name="us-east-1")
    sts = session.client("sts", endpoint_url=server.url)
    assert sts.get_caller_identity()["Arn"] == "arn:aws:iam::000000000000:root"
    session.client("iam", endpoint_url=server.url).list_roles()


def test_what_iam_does_not_do_is_said(server):
    client = server.client("iam")
    for call, arguments in [(client.create_user, {"UserName": "u"}), (client.list_users, {}), (client.create_group, {"GroupName": "g"})]:
        assert refused(call, **arguments)[:2] == (501, "NotImplementedException")
    assert refused(client.get_policy_version, PolicyArn=BASIC, VersionId="v1")[:2] == (501, "NotImplementedException")


def test_documents_that_are_no_policies_are_refused_in_the_words_of_iam(server):
    client = server.client("iam")
    name, arn = role(client)
    made = client.create_policy(PolicyName=name_of("policy"), PolicyDocument=json.dumps(RIGHTS))["Policy"]["Arn"]

    def trusted(**changes):
        return trusting({"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"} | changes)

    def trusting(*statements, **more):
        return json.dumps({"Version": "2012-10-17", "Statement": list(statements)} | more)

    syntax = "Syntax errors in policy."
    for document, message in [
        (trusted(Action="s3:GetObject"), "AssumeRole policy may only specify STS AssumeRole actions."),
        (trusted(Principal={"AWS": "foo"}), 'Invalid principal in policy: "AWS":"foo"'),
        (trusted(Principal={"Foo": "x"}), 'Invalid principal in policy: "Foo":"x"'),
        (trusted(Principal={"Service": "foo"}), 'Invalid principal in policy: "SERVICE":"foo"'),
        (trusted(Resource="*"), "Has prohibited field Resource"),
        (trusting({"Effect": "Allow", "Action": "sts:AssumeRole"}), "Missing required field Principal"),
        (trusted(Condition={"StringEquls": {"sts:ExternalId": "x"}}), syntax),
        (trusted(Foo="x"), syntax),
        (trusted(NotAction="sts:TagSession"), syntax),
        (trusting(), syntax),
        (trusted(Condition={"StringEquals": {"aws:PrincipalTag/a": "b"}}),
         "The policy cannot be taken: the condition key aws:PrincipalTag/a is not supported."),
    ]:
        expected = (400, "MalformedPolicyDocument", message)
        assert refused(client.create_role, RoleName=name_of("role"), AssumeRolePolicyDocument=document) == expected
        assert refused(client.update_assume_role_policy, RoleName=name, PolicyDocument=document) == expected

    def right(**changes):
        return trusting({"Effect": "Allow", "Action": "s3:*", "Resource": "*"} | changes)

    vendor = "Actions/Conditions must be prefaced by a vendor, e.g., iam, sdb, ec2, etc."
    for document, message in [
        (right(Action="foo"), vendor),
        (right(Resource="foo"), 'Resource foo must be in ARN format or "*".'),
        (right(Principal="*"), "Policy document should not specify a principal."),
        (right(Effect="allow"), syntax),
        (trusting({"Effect": "Allow", "Action": "s3:*"}), "Policy statement must contain resources."),
        (trusting({"Effect": "Allow", "Resource": "*"}), "Policy statement must contain actions."),
        (trusting(Statement=RIGHTS["Statement"] * 2), None),
        (trusting(Statement=[RIGHTS["Statement"][0] | {"Sid": "a"}] * 2), "Statement IDs (SID) in a single policy must be unique."),
        (trusting(Statement=RIGHTS["Statement"], Version="2011-01-01"), "The policy must contain a valid version string"),
        (json.dumps({"Statement": RIGHTS["Statement"]}), "Policy document must be version 2012-10-17 or greater."),
    ]:
        calls = [
            (client.put_role_policy, {"RoleName": name, "PolicyName": "p"}),
            (client.create_policy_version, {"PolicyArn": made}),
        ]
        for call, arguments in calls:
            if message is None:
                call(**arguments, PolicyDocument=document)
            else:
                assert refused(call, **arguments, PolicyDocument=document) == (400, "MalformedPolicyDocument", message)


def test_conditions_of_time_and_place_decide_who_assumes_a_role(server):
    iam, sts = server.client("iam"), server.client("sts")
    name, arn = role(iam, trust(AWS="000000000000"))
    for condition, lets in [
        ({"DateGreaterThan": {"aws:CurrentTime": "2020-01-01T00:00:00Z"}}, True),
        ({"DateLessThan": {"aws:CurrentTime": "2020-01-01T00:00:00Z"}}, False),
        ({"NumericGreaterThan": {"aws:EpochTime": "1577836800"}}, True),
        ({"IpAddress": {"aws:SourceIp": ["127.0.0.0/8", "::1/128"]}}, True),
        ({"NotIpAddress": {"aws:SourceIp": ["127.0.0.0/8", "::1/128"]}}, False),
        ({"Bool": {"aws:SecureTransport": "true"}}, False),
        ({"Null": {"sts:ExternalId": "true"}}, True),
        ({"ArnLike": {"aws:PrincipalArn": "arn:aws:iam::*:root"}}, True),
        ({"ForAnyValue:StringEquals": {"aws:PrincipalAccount": ["000000000000"]}}, True),
        ({"StringNotEqualsIfExists": {"aws:PrincipalOrgID": "o-1"}}, True),
    ]:
        iam.update_assume_role_policy(RoleName=name, PolicyDocument=trust(condition, AWS="000000000000"))
        if lets:
            sts.assume_role(RoleArn=arn, RoleSessionName="s1")
        else:
            assert refused(sts.assume_role, RoleArn=arn, RoleSessionName="s1")[:2] == (403, "AccessDenied"), condition


def test_a_role_has_the_limits_of_iam(server):
    client = server.client("iam")
    name, arn = role(client, Tags=[{"Key": "Team", "Value": "1"}])
    assert len(client.get_role(RoleName=name)["Role"]["RoleId"]) == 21
    paginator = client.get_paginator("list_policies")
    known = [policy["Arn"] for page in paginator.paginate(Scope="AWS") for policy in page["Policies"]]
    assert BASIC in known
    for arn in known[:10]:
        client.attach_role_policy(RoleName=name, PolicyArn=arn)
    expected = (409, "LimitExceeded", "Cannot exceed quota for PoliciesPerRole: 10")
    assert refused(client.attach_role_policy, RoleName=name, PolicyArn=known[10]) == expected
    wrong = BASIC.replace("Basic", "Bassic")
    expected = (404, "NoSuchEntity", f"Policy {wrong} does not exist or is not attachable.")
    assert refused(client.attach_role_policy, RoleName=name, PolicyArn=wrong) == expected
    pages = client.get_paginator("list_attached_role_policies").paginate(RoleName=name, PaginationConfig={"PageSize": 3})
    assert sorted(policy["PolicyArn"] for page in pages for policy in page["AttachedPolicies"]) == sorted(known[:10])

    def sized(size):
        statement = {"Effect": "Allow", "Action": "s3:*", "Resource": "arn:aws:s3:::"}
        policy = {"Version": "2012-10-17", "Statement": [statement]}
        statement["Resource"] += "b" * (size - len(json.dumps(policy, separators=(",", ":"))))
        return json.dumps(policy, indent=4)

    client.put_role_policy(RoleName=name, PolicyName="a", PolicyDocument=sized(10240))
    expected = (409, "LimitExceeded", f"Maximum policy size of 10240 bytes exceeded for role {name}")
    assert refused(client.put_role_policy, RoleName=name, PolicyName="b", PolicyDocument=sized(200)) == expected
    expected = (409, "LimitExceeded", "Cannot exceed quota for PolicySize: 6144")
    assert refused(client.create_policy, PolicyName=name_of("policy"), PolicyDocument=sized(6145)) == expected
    twice = "Duplicate tag keys found. Please note that Tag keys are case insensitive."
    tags = [{"Key": "a", "Value": "1"}, {"Key": "A", "Value": "2"}]
    assert refused(client.tag_role, RoleName=name, Tags=tags) == (400, "InvalidInput", twice)
    client.tag_role(RoleName=name, Tags=[{"Key": "TEAM", "Value": "2"}])
    assert client.list_role_tags(RoleName=name)["Tags"] == [{"Key": "TEAM", "Value": "2"}]
    assert refused(client.list_roles, Marker=name) == (400, "ValidationError", "Invalid Marker.")
    own = {"RoleName": name_of("role"), "Path": "/aws-service-role/x/", "AssumeRolePolicyDocument": trust(AWS="*")}
    assert refused(client.create_role, **own)[:2] == (400, "InvalidInput")

"""Who calls: STS, signatures that are wrong or old, keys that are unknown, and requests that are not signed at all."""

import datetime

import pytest
import requests
from botocore.auth import SigV4Auth, SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from conftest import refused

FORM = "Action=GetCallerIdentity&Version=2011-06-15"


def test_get_caller_identity(server):
    who = server.client("sts").get_caller_identity()
    assert who["Arn"] == f"arn:aws:iam::{who['Account']}:root"
    assert len(who["Account"]) == 12 and who["UserId"]


@pytest.mark.modes("dev")
def test_accounts_of_a_development_server_are_apart(server):
    client = server.client("sts", "123456789012", "any")
    assert client.get_caller_identity()["Account"] == "123456789012"
    assert server.client("sts").get_caller_identity()["Account"] == "000000000000"
    name = server.function("def handler(e, c): return 1\n")
    other = server.client("lambda", "123456789012", "any")
    assert refused(other.get_function, FunctionName=name)[:2] == (404, "ResourceNotFoundException")


def test_wrong_secret(up):
    for service, operation, code in [
        ("lambda", "list_functions", "InvalidSignatureException"),
        ("dynamodb", "list_tables", "InvalidSignatureException"),
        ("logs", "describe_log_groups", "InvalidSignatureException"),
        ("apigateway", "get_rest_apis", "InvalidSignatureException"),
        ("sts", "get_caller_identity", "SignatureDoesNotMatch"),
    ]:
        status, got, message = refused(getattr(up.client(service, up.access_key, "wrong"), operation))
        assert (status in (400, 403), got) == (True, code), service
        assert "signature" in message.lower()


def test_unknown_key(up):
    for service, operation, code in [
        ("lambda", "list_functions", "UnrecognizedClientException"),
        ("dynamodb", "list_tables", "UnrecognizedClientException"),
        ("sts", "get_caller_identity", "InvalidClientTokenId"),
    ]:
        got = refused(getattr(up.client(service, "AKIAUNKNOWNUNKNOWN00", "wrong"), operation))
        assert got[1] == code
        assert got[2] == "The security token included in the request is invalid."


def signed(server, minutes_ago=0, secret=None, body=FORM, monkeypatch=None):
    """Headers of a GetCallerIdentity call, signed at another time."""
    request = AWSRequest("POST", server.url + "/", data=body, headers={"Content-Type": "application/x-www-form-urlencoded"})
    at = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(minutes=minutes_ago)
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda remove_tzinfo=True: at.replace(tzinfo=None))
    SigV4Auth(Credentials(server.access_key, secret or server.secret_key), "sts", "us-east-1").add_auth(request)
    return dict(request.headers)


def post(server, headers, body=FORM):
    """What the server answers to them."""
    return requests.post(server.url + "/", data=body, headers=headers, timeout=30)


def test_clock_skew(up, monkeypatch):
    assert post(up, signed(up, 4, monkeypatch=monkeypatch)).status_code == 200
    for minutes_ago, words in [(20, "Signature expired: "), (-20, "Signature not yet current: ")]:
        answer = post(up, signed(up, minutes_ago, monkeypatch=monkeypatch))
        assert answer.status_code == 403
        assert "<Code>SignatureDoesNotMatch</Code>" in answer.text
        assert words in answer.text


def test_a_signature_covers_the_body(up, monkeypatch):
    headers = signed(up, monkeypatch=monkeypatch)
    answer = post(up, headers, FORM.replace("GetCallerIdentity", "GetSessionToken"))
    assert answer.status_code == 403
    assert "<Code>SignatureDoesNotMatch</Code>" in answer.text


def test_presigned(up):
    request = AWSRequest("GET", f"{up.url}/?{FORM}")
    SigV4QueryAuth(Credentials(up.access_key, up.secret_key), "sts", "us-east-1", expires=60).add_auth(request)
    assert requests.get(request.url, timeout=30).status_code == 200
    assert requests.get(request.url.replace("Expires=60", "Expires=61"), timeout=30).status_code == 403


def test_unsigned_calls_are_refused(server):
    answer = requests.get(f"{server.url}/2015-03-31/functions/", timeout=30)
    assert answer.status_code == 403
    assert answer.headers["x-amzn-errortype"].startswith("MissingAuthenticationTokenException")
    answer = requests.get(f"{server.url}/_dunlin/ps", timeout=30)
    assert answer.status_code == 403
    assert requests.get(f"{server.url}/_dunlin/health", timeout=30).status_code == 200


def test_the_root_key_is_well_kept(up):
    assert up.key_file.stat().st_mode & 0o777 == 0o600
    assert up.data_dir.stat().st_mode & 0o777 == 0o700
    up.client("sts").get_caller_identity()
    assert up.secret_key not in up.log()


@pytest.mark.parametrize(
    ("service", "operation", "arguments"),
    [
        ("lambda", "list_capacity_providers", {}),
        ("lambda", "get_capacity_provider", {"CapacityProviderName": "c"}),
        ("s3", "list_buckets", {}),
        ("s3", "put_object", {"Bucket": "b", "Key": "k", "Body": b"x"}),
        ("sqs", "create_queue", {"QueueName": "q"}),
        ("sns", "create_topic", {"Name": "t"}),
        ("sts", "get_federation_token", {"Name": "f1"}),
        ("iam", "list_users", {}),
        ("ssm", "get_parameter", {"Name": "p"}),
        ("secretsmanager", "list_secrets", {}),
        ("kinesis", "list_streams", {}),
        ("ec2", "describe_instances", {}),
        ("events", "list_rules", {}),
        ("stepfunctions", "list_state_machines", {}),
        ("cloudformation", "list_stacks", {}),
        ("logs", "start_query", {"startTime": 0, "endTime": 1, "queryString": "fields @message"}),
    ],
)
def test_what_is_not_there_is_refused_in_the_service_s_own_shape(server, service, operation, arguments):
    status, code, message = refused(getattr(server.client(service), operation), **arguments)
    assert status == 501
    assert code in ("NotImplementedException", "NotImplemented")
    assert message

"""Function URLs over plain HTTP: events, answers, cookies, CORS, signatures, and what a failing function looks like."""

import base64
import json

import pytest
import requests
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from conftest import NODE, refused

ECHO = "def handler(event, context):\n    return event\n"
ANSWER = "import json\ndef handler(event, context):\n    return json.loads(event['body'])\n"


def sign(server, method, url, body=b"", service="lambda", secret=None, **headers):
    """Headers of a request signed by the server's key, or by another secret."""
    request = AWSRequest(method, url, data=body, headers=headers)
    SigV4Auth(Credentials(server.access_key, secret or server.secret_key), service, "us-east-1").add_auth(request)
    return dict(request.headers)


def test_configuration(server):
    client = server.client("lambda")
    name = server.function(ECHO)
    made = client.create_function_url_config(FunctionName=name, AuthType="NONE")
    assert made["AuthType"] == "NONE" and made["InvokeMode"] == "BUFFERED"
    got = client.get_function_url_config(FunctionName=name)
    assert got["FunctionUrl"] == made["FunctionUrl"] and got["LastModifiedTime"]
    assert client.list_function_url_configs(FunctionName=name)["FunctionUrlConfigs"][0]["FunctionUrl"] == got["FunctionUrl"]
    status, code, message = refused(client.create_function_url_config, FunctionName=name, AuthType="NONE")
    assert (status, code) == (409, "ResourceConflictException")
    assert "FunctionUrlConfig exists for this Lambda function" in message
    updated = client.update_function_url_config(FunctionName=name, Cors={"AllowOrigins": ["*"]})
    assert updated["Cors"] == {"AllowOrigins": ["*"]}
    client.delete_function_url_config(FunctionName=name)
    assert refused(client.get_function_url_config, FunctionName=name)[:2] == (404, "ResourceNotFoundException")


def test_the_event(server):
    name = server.function(ECHO)
    url = server.function_url(name)
    answer = requests.get(
        url + "a%20b/c?x=1&y=%C3%BC&x=2", headers={"X-Own": "Value", "User-Agent": "me"}, cookies={"c": "1", "d": "2"}, timeout=30,
    )
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    event = answer.json()
    assert (event["version"], event["routeKey"], event["rawPath"]) == ("2.0", "$default", "/a b/c")
    assert event["rawQueryString"] == "x=1&y=%C3%BC&x=2"
    assert event["queryStringParameters"] == {"x": "1,2", "y": "ü"}
    assert event["headers"]["x-own"] == "Value"
    assert "cookie" not in event["headers"]
    assert sorted(event["cookies"]) == ["c=1", "d=2"]
    http = event["requestContext"]["http"]
    assert (http["method"], http["path"], http["protocol"], http["sourceIp"]) == ("GET", "/a b/c", "HTTP/1.1", "127.0.0.1")
    assert http["userAgent"] == "me"
    context = event["requestContext"]
    assert (context["accountId"], context["stage"], context["routeKey"]) == ("anonymous", "$default", "$default")
    assert context["apiId"] == context["domainPrefix"]
    assert context["domainName"].startswith(context["apiId"] + ".lambda-url.us-east-1.")
    assert isinstance(context["timeEpoch"], int)
    assert "body" not in event and event["isBase64Encoded"] is False
    assert "pathParameters" not in event


def test_the_host_form(server):
    name = server.function(ECHO)
    url = server.function_url(name)
    identity = url.rstrip("/").rsplit("/", 1)[1]
    for host in [f"{identity}.lambda-url.us-east-1.localhost:{server.port}", f"{identity}.lambda-url.us-east-1.on.aws"]:
        answer = requests.get(f"{server.url}/p", headers={"Host": host}, timeout=30)
        assert answer.status_code == 200, (host, answer.text)
        assert answer.json()["rawPath"] == "/p"


@pytest.mark.parametrize(
    ("content_type", "body", "text"),
    [
        ("application/json", b'{"a": 1}', True),
        ("text/plain; charset=utf-8", "ü☃".encode(), True),
        ("application/xml", b"<a/>", True),
        ("application/x-www-form-urlencoded", b"a=1", False),
        ("application/octet-stream", bytes(range(256)), False),
        ("image/png", b"\x89PNG", False),
    ],
)
@pytest.mark.modes("dev")
def test_bodies(server, content_type, body, text):
    url = server.function_url(server.function(ECHO))
    event = requests.post(url, data=body, headers={"Content-Type": content_type}, timeout=30).json()
    assert event["isBase64Encoded"] is not text
    assert event["body"] == (body.decode() if text else base64.b64encode(body).decode())


def test_answers(server):
    url = server.function_url(server.function(ANSWER))

    def answer(result):
        return requests.post(url, data=json.dumps(result), headers={"Content-Type": "application/json"}, timeout=30, allow_redirects=False)

    got = answer({"statusCode": 201, "headers": {"X-A": "b", "Content-Type": "text/html"}, "body": "<p>ü</p>"})
    assert (got.status_code, got.headers["x-a"], got.headers["content-type"]) == (201, "b", "text/html")
    assert got.content == "<p>ü</p>".encode()
    got = answer({"statusCode": 200, "cookies": ["a=1; Path=/", "b=2"], "body": ""})
    assert got.raw.headers.getlist("set-cookie") == ["a=1; Path=/", "b=2"]
    got = answer({"statusCode": 200, "isBase64Encoded": True, "body": base64.b64encode(b"\x00\xff").decode(),
                  "headers": {"Content-Type": "image/png"}})
    assert got.content == b"\x00\xff"
    got = answer({"free": "form"})
    assert (got.status_code, got.headers["content-type"], got.json()) == (200, "application/json", {"free": "form"})
    got = answer("only text")
    assert (got.status_code, got.text) == (200, "only text")
    assert answer({"statusCode": 204}).status_code == 204
    got = answer({"statusCode": 302, "headers": {"Location": "https://example.com/"}})
    assert (got.status_code, got.headers["location"]) == (302, "https://example.com/")


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
@pytest.mark.modes("dev")
def test_methods(server, method):
    source = (
        "def handler(event, context):\n"
        "    return {'statusCode': 200, 'headers': {'x-method': event['requestContext']['http']['method']}, 'body': 'b'}\n"
    )
    answer = requests.request(method, server.function_url(server.function(source)), timeout=30)
    assert answer.status_code == 200
    assert answer.headers["x-method"] == method
    assert answer.text == ("" if method == "HEAD" else "b")


def test_failures(server):
    url = server.function_url(server.function("def handler(event, context):\n    raise ValueError('secret detail')\n"))
    answer = requests.get(url, timeout=30)
    assert (answer.status_code, answer.text) == (502, "Internal Server Error")
    assert answer.headers["x-amzn-requestid"]
    unknown = requests.get(f"{server.url}/_dunlin/url/{'a' * 32}/", timeout=30)
    assert unknown.status_code == 403
    assert unknown.headers["x-amzn-errortype"] == "AccessDeniedException"
    assert unknown.json() == {"Message": None}


@pytest.mark.modes("dev")
def test_throttled(server):
    name = server.function(ECHO)
    url = server.function_url(name)
    server.client("lambda").put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=0)
    assert requests.get(url, timeout=30).status_code == 429


@pytest.mark.modes("dev")
def test_large_bodies(server):
    url = server.function_url(server.function("def handler(event, context):\n    return {'statusCode': 200, 'body': event['body']}\n"))
    text = "x" * 5_000_000
    assert requests.post(url, data=text, headers={"Content-Type": "text/plain"}, timeout=60).text == text
    assert requests.post(url, data="x" * (7 << 20), headers={"Content-Type": "text/plain"}, timeout=60).status_code == 413


def test_cors(server):
    cors = {
        "AllowOrigins": ["https://app.example"], "AllowMethods": ["GET", "POST"], "AllowHeaders": ["x-own"],
        "ExposeHeaders": ["x-shown"], "AllowCredentials": True, "MaxAge": 300,
    }
    source = "def handler(e, c):\n    return {'statusCode': 200, 'headers': {'access-control-allow-origin': '*'}, 'body': 'ran'}\n"
    url = server.function_url(server.function(source), Cors=cors)
    asked = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-own"}
    preflight = requests.options(url, headers=asked, timeout=30)
    assert preflight.status_code in (200, 204)
    assert preflight.text == ""
    headers = preflight.headers
    assert headers["access-control-allow-origin"] == "https://app.example"
    assert "POST" in headers["access-control-allow-methods"]
    assert headers["access-control-allow-headers"].lower() == "x-own"
    assert headers["access-control-allow-credentials"] == "true"
    assert headers["access-control-max-age"] == "300"
    answer = requests.get(url, headers={"Origin": "https://app.example"}, timeout=30)
    assert answer.headers["access-control-allow-origin"] == "https://app.example"
    assert answer.headers["access-control-expose-headers"].lower() == "x-shown"
    other = requests.get(url, headers={"Origin": "https://other.example"}, timeout=30)
    assert "access-control-allow-origin" not in other.headers


@pytest.mark.modes("dev")
def test_without_cors_the_function_answers_for_itself(server):
    source = "def handler(e, c):\n    return {'statusCode': 200, 'headers': {'access-control-allow-origin': 'https://a.example'}, 'body': ''}\n"
    url = server.function_url(server.function(source))
    answer = requests.options(url, headers={"Origin": "https://a.example", "Access-Control-Request-Method": "GET"}, timeout=30)
    assert answer.headers["access-control-allow-origin"] == "https://a.example"


def test_signed_urls(server):
    name = server.function(ECHO)
    url = server.function_url(name, AuthType="AWS_IAM") + "path"
    anonymous = requests.get(url, timeout=30)
    assert anonymous.status_code == 403
    assert anonymous.json() == {"Message": "Forbidden"}
    body = b'{"n": 1}'
    headers = sign(server, "POST", url, body, **{"Content-Type": "application/json"})
    answer = requests.post(url, data=body, headers=headers, timeout=30)
    assert answer.status_code == 200, answer.text
    event = answer.json()
    iam = event["requestContext"]["authorizer"]["iam"]
    account = server.client("sts").get_caller_identity()["Account"]
    assert (iam["accessKey"], iam["accountId"]) == (server.access_key, account)
    assert event["body"] == '{"n": 1}'


@pytest.mark.modes("up")
def test_wrong_signatures_of_urls(server):
    url = server.function_url(server.function(ECHO), AuthType="AWS_IAM")
    assert requests.get(url, headers=sign(server, "GET", url, secret="wrong"), timeout=30).status_code == 403
    # A signature is for one body.
    headers = sign(server, "POST", url, b"one")
    assert requests.post(url, data=b"two", headers=headers, timeout=30).status_code == 403
    # And for one service.
    headers = sign(server, "GET", url, service="dynamodb")
    assert requests.get(url, headers=headers, timeout=30).status_code == 403


@pytest.mark.modes("dev")
def test_in_node(server):
    source = "exports.handler = async (event) => ({ statusCode: 200, body: event.requestContext.http.method });"
    url = server.function_url(server.function(source, runtime=NODE))
    assert requests.post(url, timeout=30).text == "POST"

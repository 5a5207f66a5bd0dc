"""A browser on the same machine is not an operator: what a web page can send reaches neither control plane nor admin.

Each request is sent as a page's would be, by hand; each has a control, the same request as an SDK sends it, which must
succeed, so that a refusal is not a mistake of the test. `test_browser_real.py` tries the same in a real browser.
"""

import base64
import json
import socket

import pytest

from chaos.servers import ROLE, Server, package, runtimes

AUTHORIZATION = ("AWS4-HMAC-SHA256 Credential=test/20250101/us-east-1/{}/aws4_request, "
                 "SignedHeaders=host, Signature=0000")
PAGE_CODE = """
def handler(event, context):
    headers = {"content-type": "text/html", "content-security-policy": "default-src *"}
    return {"statusCode": 200, "headers": headers, "body": "<script>alert(1)</script>"}
"""


def function_body(name, runtime):
    """A CreateFunction that would work."""
    return json.dumps({
        "FunctionName": name, "Runtime": runtime, "Handler": "main.handler", "Role": ROLE,
        "Code": {"ZipFile": base64.b64encode(package(main__py=PAGE_CODE)).decode()},
    })


@pytest.fixture(scope="module", params=["dev", "up"])
def platform(request):
    with Server(request.param) as running:
        yield running.start()
        assert running.stop() == 0


@pytest.fixture(scope="module")
def open_platform():
    """A development server: where any credentials do, a page has the best chances."""
    with Server("dev") as running:
        yield running.start()


@pytest.fixture(scope="module")
def site(open_platform):
    """A function's page with a URL: its host name and identity."""
    runtime = runtimes(open_platform)["python"]
    open_platform.create("page", PAGE_CODE, runtime)
    url = open_platform.client("lambda").create_function_url_config(FunctionName="page", AuthType="NONE")
    open_platform.open_url("page")
    host = url["FunctionUrl"].split("/")[2]
    return host, host.split(".")[0]


def functions(server):
    return {entry["FunctionName"] for entry in server.client("lambda").list_functions()["Functions"]}


def tables(server):
    return server.client("dynamodb").list_tables()["TableNames"]


def assert_no_permission(headers):
    """No answer that lets a page read it, or send more."""
    granted = [name for name in headers if name.startswith("access-control-")]
    assert not granted, granted


#: What a page can send without asking first: "simple" requests.
SIMPLE_TYPES = ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", None]


@pytest.mark.parametrize("kind", SIMPLE_TYPES)
def test_simple_posts_create_nothing(platform, kind):
    headers = {"Origin": "http://localhost:3000", **({"Content-Type": kind} if kind else {})}
    table = json.dumps({
        "TableName": "stolen", "BillingMode": "PAY_PER_REQUEST",
        "KeySchema": [{"AttributeName": "id", "KeyType": "HASH"}],
        "AttributeDefinitions": [{"AttributeName": "id", "AttributeType": "S"}],
    })
    attempts = [
        ("POST", "/2015-03-31/functions", function_body("stolen", "python3.11")),
        ("POST", "/", table),
        ("POST", "/", "Action=GetCallerIdentity&Version=2011-06-15"),
        ("POST", "/?Action=GetCallerIdentity&Version=2011-06-15", ""),
        ("POST", "/?X-Amz-Target=DynamoDB_20120810.CreateTable", table),
        ("POST", "/restapis", json.dumps({"name": "stolen"})),
        ("POST", "/v2/apis", json.dumps({"name": "stolen", "protocolType": "HTTP"})),
        ("GET", "/2015-03-31/functions", None),
    ]
    for method, path, body in attempts:
        # With the origin that browsers send, and without, as old forms do.
        for sent in (headers, {name: value for name, value in headers.items() if name != "Origin"}):
            status, answer, text = platform.http(method, path, sent, body)
            assert status in (403, 404), (method, path, sent, status, text)
            assert_no_permission(answer)
    assert "stolen" not in functions(platform) and "stolen" not in tables(platform)


@pytest.mark.parametrize("path", ["ps", "bill", "usage", "runtimes", "walls", "anything", ""])
def test_admin_wants_a_name(platform, path):
    for method in ("GET", "POST"):
        status, answer, _ = platform.http(method, f"/_dunlin/{path}")
        assert status == 403, (method, path, status)
        assert_no_permission(answer)
    status, _, _ = platform.http("GET", f"/_dunlin/{path}", {"Authorization": "x"})
    known = path in ("ps", "bill", "usage", "runtimes", "walls")
    assert status == (403 if platform.mode == "up" else 200 if known else 404)


FOREIGN_HOSTS = ["evil.example", "evil.example:{port}", "localhost.evil.example", "127.0.0.1.nip.io:{port}", "10.0.0.1",
                 "0.0.0.0:{port}", "amazonaws.com.evil.example", "notlocalhost"]


@pytest.mark.parametrize("host", FOREIGN_HOSTS)
def test_a_rebound_name_reaches_nothing(open_platform, site, host):
    authorization = AUTHORIZATION.format("lambda")
    headers = {"Host": host.format(port=open_platform.port), "Authorization": authorization}
    for path in ("/2015-03-31/functions", "/_dunlin/ps", f"/_dunlin/url/{site[1]}/", "/"):
        status, answer, body = open_platform.http("GET", path, headers)
        assert status == 421, (host, path, status, body)
        assert_no_permission(answer)
    control = {"Host": f"localhost:{open_platform.port}", "Authorization": authorization}
    assert open_platform.http("GET", "/2015-03-31/functions", control)[0] == 200


STRANGERS = [
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Origin": "https://evil.example"},
    {"Origin": "http://localhost:3000"},
    {"Origin": "http://localhost:{port}.evil.example"},
    {"Origin": "null"},
    {"Origin": ""},
    {"Origin": "null", "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
]


@pytest.mark.parametrize("stranger", STRANGERS, ids=str)
def test_pages_of_strangers_are_refused_even_with_a_name(open_platform, stranger):
    """A page that could add the header is refused all the same."""
    stranger = {name: value.format(port=open_platform.port) for name, value in stranger.items()}
    runtime = runtimes(open_platform)["python"]
    attempts = [
        ("POST", "/2015-03-31/functions", "lambda", {}, function_body("stranger", runtime)),
        ("GET", "/2015-03-31/functions", "lambda", {}, None),
        ("POST", "/", "dynamodb", {"X-Amz-Target": "DynamoDB_20120810.ListTables"}, "{}"),
        ("GET", "/_dunlin/ps", "dunlin", {}, None),
    ]
    for method, path, service, more, body in attempts:
        headers = {"Authorization": AUTHORIZATION.format(service), **more}
        status, answer, text = open_platform.http(method, path, headers | stranger, body)
        assert status == 403, (method, path, stranger, status, text)
        assert_no_permission(answer)
        if method == "GET":
            assert open_platform.http(method, path, headers, body)[0] == 200, "the control"
    assert "stranger" not in functions(open_platform)


def test_the_same_creation_by_an_sdk_succeeds(open_platform):
    """The control of every CreateFunction above."""
    runtime = runtimes(open_platform)["python"]
    headers = {"Authorization": AUTHORIZATION.format("lambda"), "Content-Type": "application/json"}
    status, _, text = open_platform.http("POST", "/2015-03-31/functions", headers, function_body("control", runtime))
    assert status == 201, text
    assert "control" in functions(open_platform)


def test_preflights_get_no_permission(platform):
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,x-amz-target"}
    for origin in ("https://evil.example", "http://localhost:3000", "null"):
        for path in ("/", "/2015-03-31/functions", "/_dunlin/ps", "/_dunlin/health", "/restapis"):
            status, answer, _ = platform.http("OPTIONS", path, {"Origin": origin, **asked})
            assert_no_permission(answer)
            assert status >= 400 or path == "/_dunlin/health", (path, status)
            private = {"Access-Control-Request-Private-Network": "true"}
            assert_no_permission(platform.http("OPTIONS", path, {"Origin": origin, **asked, **private})[1])


def test_websockets_are_not_opened(open_platform):
    for path in ("/", "/_dunlin/ps", "/2015-03-31/functions", "/_dunlin/health"):
        for name in ("", f"Authorization: {AUTHORIZATION.format('lambda')}\r\n"):
            request = (
                f"GET {path} HTTP/1.1\r\nHost: localhost:{open_platform.port}\r\nUpgrade: websocket\r\n"
                f"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                f"Origin: http://evil.example\r\n{name}\r\n"
            )
            with socket.create_connection(("127.0.0.1", open_platform.port), 10) as connection:
                connection.sendall(request.encode())
                status = connection.makefile("rb").readline().split()[1]
            wanted = b"200" if path == "/_dunlin/health" else b"403"
            assert status == wanted, (path, status)


def test_requests_that_try_to_name_two_hosts_are_refused(open_platform):
    port = open_platform.port
    for head in (
        f"GET http://evil.example/2015-03-31/functions HTTP/1.1\r\nHost: localhost:{port}",
        f"GET /2015-03-31/functions HTTP/1.1\r\nHost: localhost:{port}\r\nHost: evil.example",
        f"GET /2015-03-31/functions HTTP/1.1\r\nHost: evil.example\r\nX-Forwarded-Host: localhost:{port}",
        f"GET /2015-03-31/functions HTTP/1.1\r\nHost: evil.example\r\nForwarded: host=localhost",
        "GET /2015-03-31/functions HTTP/1.1",
    ):
        with socket.create_connection(("127.0.0.1", port), 10) as connection:
            connection.sendall(f"{head}\r\nAuthorization: {AUTHORIZATION.format('lambda')}\r\n\r\n".encode())
            status = int(connection.makefile("rb").readline().split()[1])
        assert status in (400, 421), (head, status)


def test_health_is_open_to_anyone(platform):
    for headers in ({}, {"Host": "evil.example"}, {"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        status, answer, _ = platform.http("GET", "/_dunlin/health", headers)
        assert status == 200
        assert_no_permission(answer)


STRANGE_PAGE = {"Origin": "https://shop.example", "Sec-Fetch-Site": "cross-site"}


def test_tenants_are_open_and_their_content_is_boxed(open_platform, site):
    host, identity = site
    status, answer, body = open_platform.http("GET", f"/_dunlin/url/{identity}/", STRANGE_PAGE)
    assert status == 200 and b"<script>" in body
    # The function's own policy cannot lift the box: every policy applies, or only the platform's is there.
    policy = answer["content-security-policy"]
    assert "sandbox" in policy and "allow-same-origin" not in policy
    status, answer, _ = open_platform.http("GET", "/", {"Host": host, **STRANGE_PAGE})
    assert status == 200
    assert "sandbox" not in answer.get("content-security-policy", "")
    assert_no_permission(answer)


def test_tenants_errors_are_boxed_too(open_platform):
    for path in ("/_dunlin/url/nobody/", "/_dunlin/api/nobody/dev/", "/restapis/nobody/dev/_user_request_/"):
        status, answer, _ = open_platform.http("GET", path)
        assert status >= 400
        assert "sandbox" in answer.get("content-security-policy", ""), path


def test_urls_answer_their_own_cross_origin_settings(open_platform):
    client = open_platform.client("lambda")
    open_platform.create("shop", PAGE_CODE, runtimes(open_platform)["python"])
    url = client.create_function_url_config(
        FunctionName="shop", AuthType="NONE", Cors={"AllowOrigins": ["https://shop.example"], "AllowMethods": ["POST"]},
    )["FunctionUrl"]
    open_platform.open_url("shop")
    host = url.split("/")[2]
    for way in ({"Host": host}, None):
        path = "/" if way else f"/_dunlin/url/{host.split('.')[0]}/"
        preflight = {"Access-Control-Request-Method": "POST", **(way or {})}
        allowed = open_platform.http("OPTIONS", path, preflight | {"Origin": "https://shop.example"})
        assert allowed[0] < 300 and allowed[1]["access-control-allow-origin"] == "https://shop.example"
        foreign = open_platform.http("OPTIONS", path, preflight | {"Origin": "https://evil.example"})
        assert_no_permission(foreign[1])
        answer = open_platform.http("POST", path, {"Origin": "https://shop.example", **(way or {})}, "")
        assert answer[0] == 200 and answer[1]["access-control-allow-origin"] == "https://shop.example"


def test_http_apis_answer_their_own_cross_origin_settings(open_platform, site):
    client = open_platform.client("apigatewayv2")
    arn = open_platform.client("lambda").get_function(FunctionName="page")["Configuration"]["FunctionArn"]
    api = client.create_api(
        Name="shop", ProtocolType="HTTP", Target=arn,
        CorsConfiguration={"AllowOrigins": ["https://shop.example"], "AllowMethods": ["GET"]},
    )
    path = f"/_dunlin/api/{api['ApiId']}/$default/"
    preflight = {"Access-Control-Request-Method": "GET"}
    allowed = open_platform.http("OPTIONS", path, preflight | {"Origin": "https://shop.example"})
    assert allowed[1]["access-control-allow-origin"] == "https://shop.example"
    assert_no_permission(open_platform.http("OPTIONS", path, preflight | {"Origin": "https://evil.example"})[1])


def test_an_allowed_origin_is_allowed_and_only_that():
    with Server("dev", args=["--allow-origin", "https://console.example"]) as server:
        server.start()
        headers = {"Authorization": AUTHORIZATION.format("lambda"), "Sec-Fetch-Site": "cross-site"}
        path = "/2015-03-31/functions"
        assert server.http("GET", path, headers | {"Origin": "https://console.example"})[0] == 200
        assert server.http("GET", path, headers | {"Origin": "https://console.example.evil.example"})[0] == 403
        assert server.http("GET", path, {"Origin": "https://console.example"})[0] == 403, "it still needs a name"


def test_a_configured_domain_is_served_and_only_that():
    with Server("dev", args=["--domain", "faas.example"]) as server:
        server.start()
        headers = {"Authorization": AUTHORIZATION.format("lambda")}
        for host, wanted in (("faas.example", 200), ("a.faas.example", 200), ("xfaas.example", 421)):
            assert server.http("GET", "/2015-03-31/functions", headers | {"Host": host})[0] == wanted

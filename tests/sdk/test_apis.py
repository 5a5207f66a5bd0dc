"""REST APIs (v1) and HTTP APIs (v2): made with boto3, called over plain HTTP."""

import json

import pytest
import requests

from conftest import name_of, refused
from test_function_urls import sign

ECHO = "import json\ndef handler(event, context):\n    return {'statusCode': 200, 'body': json.dumps(event)}\n"


def open_to_apis(server, name, **more):
    """Lets every API of the account call a function."""
    server.client("lambda").add_permission(
        FunctionName=name, StatementId=name_of("api"), Action="lambda:InvokeFunction", Principal="apigateway.amazonaws.com", **more
    )


def arn_of(server, name):
    """The ARN of a function."""
    return server.client("lambda").get_function_configuration(FunctionName=name)["FunctionArn"]


def rest_api(server, name, *paths, method="ANY", stage="dev"):
    """A REST API with these paths in front of a function, deployed; the address of its stage."""
    client = server.client("apigateway")
    api = client.create_rest_api(name=name_of("rest"))["id"]
    uri = f"arn:aws:apigateway:us-east-1:lambda:path/2015-03-31/functions/{arn_of(server, name)}/invocations"
    known = {"/": client.get_resources(restApiId=api)["items"][0]["id"]}
    for path in paths:
        parent = "/"
        for part in [part for part in path.split("/") if part]:
            here = f"{parent.rstrip('/')}/{part}"
            if here not in known:
                made = client.create_resource(restApiId=api, parentId=known[parent], pathPart=part)
                assert made["path"] == here
                known[here] = made["id"]
            parent = here
        client.put_method(restApiId=api, resourceId=known[parent], httpMethod=method, authorizationType="NONE")
        client.put_integration(
            restApiId=api, resourceId=known[parent], httpMethod=method, type="AWS_PROXY", integrationHttpMethod="POST", uri=uri,
        )
    client.create_deployment(restApiId=api, stageName=stage)
    open_to_apis(server, name)
    return api, known, f"{server.url}/_dunlin/api/{api}/{stage}"


def http_api(server, name, *keys, version="2.0", **settings):
    """An HTTP API with these routes to a function; its id and the address of its $default stage."""
    client = server.client("apigatewayv2")
    api = client.create_api(Name=name_of("http"), ProtocolType="HTTP", **settings)["ApiId"]
    made = client.create_integration(
        ApiId=api, IntegrationType="AWS_PROXY", IntegrationUri=arn_of(server, name), PayloadFormatVersion=version,
    )
    for key in keys:
        client.create_route(ApiId=api, RouteKey=key, Target=f"integrations/{made['IntegrationId']}")
    client.create_stage(ApiId=api, StageName="$default", AutoDeploy=True)
    open_to_apis(server, name)
    return api, f"{server.url}/_dunlin/api/{api}/$default"


def test_rest_event(server):
    name = server.function(ECHO)
    api, known, url = rest_api(server, name, "/pets/{id}")
    answer = requests.get(
        f"{url}/pets/a%20b?q=1&q=2&r=%C3%BC", headers={"X-Own": "Value", "User-Agent": "me"}, timeout=30
    )
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    event = answer.json()
    assert (event["resource"], event["path"], event["httpMethod"]) == ("/pets/{id}", "/pets/a%20b", "GET")
    assert event["pathParameters"] == {"id": "a%20b"}
    assert event["queryStringParameters"] == {"q": "2", "r": "ü"}
    assert event["multiValueQueryStringParameters"] == {"q": ["1", "2"], "r": ["ü"]}
    assert event["headers"]["X-Own"] == "Value"
    assert event["multiValueHeaders"]["X-Own"] == ["Value"]
    assert event["stageVariables"] is None and event["body"] is None and event["isBase64Encoded"] is False
    context = event["requestContext"]
    assert (context["apiId"], context["stage"], context["resourcePath"]) == (api, "dev", "/pets/{id}")
    assert context["resourceId"] == known["/pets/{id}"]
    assert (context["path"], context["httpMethod"]) == ("/dev/pets/a%20b", "GET")
    assert (context["identity"]["sourceIp"], context["identity"]["userAgent"]) == ("127.0.0.1", "me")
    assert isinstance(context["requestTimeEpoch"], int)
    posted = requests.post(f"{url}/pets/1", data="text ü".encode(), timeout=30).json()
    assert posted["body"] == "text ü" and posted["queryStringParameters"] is None


def test_rest_other_addresses(server):
    name = server.function(ECHO)
    api, _, _ = rest_api(server, name, "/x")
    for host in [f"{api}.execute-api.us-east-1.localhost:{server.port}", f"{api}.execute-api.us-east-1.amazonaws.com"]:
        answer = requests.get(f"{server.url}/dev/x", headers={"Host": host}, timeout=30)
        assert (answer.status_code, answer.json()["path"]) == (200, "/x"), host
    assert requests.get(f"{server.url}/restapis/{api}/dev/_user_request_/x", timeout=30).json()["path"] == "/x"


def test_rest_root_and_proxy(server):
    name = server.function(ECHO)
    _, _, url = rest_api(server, name, "/", "/{proxy+}", "/fixed/{id}")
    assert requests.get(url, timeout=30).json()["resource"] == "/"
    assert requests.get(f"{url}/a/b", timeout=30).json()["pathParameters"] == {"proxy": "a/b"}
    assert requests.get(f"{url}/fixed/1", timeout=30).json()["resource"] == "/fixed/{id}"


def test_rest_answers(server):
    name = server.function("import json\ndef handler(event, context):\n    return json.loads(event['body'])\n")
    _, _, url = rest_api(server, name, "/")

    def answer(result):
        return requests.post(url, data=json.dumps(result), timeout=30)

    got = answer({"statusCode": 201, "headers": {"X-A": "b"}, "multiValueHeaders": {"Set-Cookie": ["a=1", "b=2"]}, "body": "ü"})
    assert (got.status_code, got.headers["x-a"], got.content) == (201, "b", "ü".encode())
    assert got.raw.headers.getlist("set-cookie") == ["a=1", "b=2"]
    for wrong in [{"statusCode": 200, "other": 1}, "text", [1], {"statusCode": 200, "body": {"a": 1}}, {"statusCode": 0}]:
        got = answer(wrong)
        assert (got.status_code, got.json()) == (502, {"message": "Internal server error"}), wrong
        assert got.headers["x-amzn-errortype"] == "InternalServerErrorException"


def test_rest_refusals(server):
    name = server.function("def handler(event, context):\n    raise ValueError('secret detail')\n")
    api, _, url = rest_api(server, name, "/x", method="GET")
    failed = requests.get(f"{url}/x", timeout=30)
    assert (failed.status_code, failed.json()) == (502, {"message": "Internal server error"})
    for refused_at in [requests.get(f"{url}/unknown", timeout=30), requests.post(f"{url}/x", timeout=30)]:
        assert refused_at.status_code == 403
        assert refused_at.json() == {"message": "Missing Authentication Token"}
        assert refused_at.headers["x-amzn-errortype"] == "MissingAuthenticationTokenException"
    wrong_stage = requests.get(f"{server.url}/_dunlin/api/{api}/other/x", timeout=30)
    assert (wrong_stage.status_code, wrong_stage.json()) == (403, {"message": "Forbidden"})


def test_rest_mock_preflight(server):
    client = server.client("apigateway")
    name = server.function(ECHO)
    api, known, url = rest_api(server, name, "/x", method="GET")
    at = {"restApiId": api, "resourceId": known["/x"], "httpMethod": "OPTIONS"}
    allow = "method.response.header.Access-Control-Allow-"
    client.put_method(authorizationType="NONE", **at)
    client.put_integration(type="MOCK", requestTemplates={"application/json": '{"statusCode": 200}'}, **at)
    client.put_method_response(
        statusCode="200", responseParameters={f"{allow}Origin": True, f"{allow}Methods": True, f"{allow}Headers": True}, **at
    )
    client.put_integration_response(
        statusCode="200",
        responseParameters={f"{allow}Origin": "'*'", f"{allow}Methods": "'GET,OPTIONS'", f"{allow}Headers": "'Content-Type'"},
        **at,
    )
    # What is not deployed is not there yet.
    assert requests.options(f"{url}/x", timeout=30).status_code == 403
    client.create_deployment(restApiId=api, stageName="dev")
    asked = {"Origin": "https://a.example", "Access-Control-Request-Method": "GET"}
    answer = requests.options(f"{url}/x", headers=asked, timeout=30)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.headers["access-control-allow-methods"] == "GET,OPTIONS"
    assert answer.headers["access-control-allow-headers"] == "Content-Type"


def test_rest_control_plane(server):
    client = server.client("apigateway")
    name = server.function(ECHO)
    api, known, url = rest_api(server, name, "/x")
    assert client.get_rest_api(restApiId=api)["id"] == api
    pages = client.get_paginator("get_rest_apis").paginate()
    assert api in [item["id"] for page in pages for item in page["items"]]
    pages = client.get_paginator("get_resources").paginate(restApiId=api)
    assert sorted(item["path"] for page in pages for item in page["items"]) == ["/", "/x"]
    assert [stage["stageName"] for stage in client.get_stages(restApiId=api)["item"]] == ["dev"]
    assert client.get_integration(restApiId=api, resourceId=known["/x"], httpMethod="ANY")["type"] == "AWS_PROXY"
    assert refused(client.create_resource, restApiId=api, parentId=known["/"], pathPart="x")[:2] == (409, "ConflictException")
    client.delete_rest_api(restApiId=api)
    assert refused(client.get_rest_api, restApiId=api)[:2] == (404, "NotFoundException")
    gone = requests.get(f"{url}/x", timeout=30)
    assert (gone.status_code, gone.json()) == (404, {"message": "Not Found"})


def test_http_event_2(server):
    name = server.function(ECHO)
    api, url = http_api(server, name, "GET /pets/{id}", "POST /pets")
    answer = requests.get(
        f"{url}/pets/a%20b?q=1&q=2", headers={"X-Own": "Value", "User-Agent": "me"}, cookies={"c": "1"}, timeout=30
    )
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/plain;charset=UTF-8"
    event = answer.json()
    assert (event["version"], event["routeKey"], event["rawPath"]) == ("2.0", "GET /pets/{id}", "/pets/a b")
    assert event["pathParameters"] == {"id": "a b"}
    assert (event["rawQueryString"], event["queryStringParameters"]) == ("q=1&q=2", {"q": "1,2"})
    assert (event["headers"]["x-own"], event["cookies"]) == ("Value", ["c=1"])
    context = event["requestContext"]
    assert (context["apiId"], context["stage"], context["routeKey"]) == (api, "$default", "GET /pets/{id}")
    assert (context["http"]["method"], context["http"]["path"]) == ("GET", "/pets/a b")
    assert "body" not in event
    posted = requests.post(f"{url}/pets", json={"a": 1}, timeout=30).json()
    assert json.loads(posted["body"]) == {"a": 1} and "pathParameters" not in posted
    missing = requests.put(f"{url}/pets", timeout=30)
    assert (missing.status_code, missing.json()) == (404, {"message": "Not Found"})


def test_http_event_1(server):
    name = server.function(ECHO)
    _, url = http_api(server, name, "ANY /pets/{id}", version="1.0")
    event = requests.get(f"{url}/pets/1?q=1&q=2", headers={"X-Own": "Value"}, timeout=30).json()
    assert (event["version"], event["resource"], event["path"]) == ("1.0", "/pets/{id}", "/pets/1")
    assert (event["httpMethod"], event["pathParameters"]) == ("GET", {"id": "1"})
    assert event["multiValueQueryStringParameters"] == {"q": ["1", "2"]}
    assert event["requestContext"]["resourcePath"] == "/pets/{id}"


def test_http_routes(server):
    source = "def handler(event, context):\n    return {'statusCode': 200, 'body': event['routeKey']}\n"
    keys = ["$default", "ANY /{proxy+}", "GET /pets/{proxy+}", "GET /pets/dog/{id}", "GET /pets/dog/1", "ANY /pets/dog/2"]
    _, url = http_api(server, server.function(source), *keys)

    def route(method, path):
        return requests.request(method, url + path, timeout=30).text

    assert route("GET", "/pets/dog/1") == "GET /pets/dog/1"
    assert route("POST", "/pets/dog/1") == "ANY /{proxy+}"
    assert route("GET", "/pets/dog/7") == "GET /pets/dog/{id}"
    assert route("GET", "/pets/dog/2") == "ANY /pets/dog/2"
    assert route("GET", "/pets/cat/1") == "GET /pets/{proxy+}"
    assert route("GET", "/else") == "ANY /{proxy+}"
    assert route("GET", "/") == "$default"


def test_http_answers_and_failures(server):
    source = (
        "import json\ndef handler(event, context):\n    result = json.loads(event['body'])\n"
        "    if result == 'fail': raise ValueError('secret detail')\n    return result\n"
    )
    _, url = http_api(server, server.function(source), "POST /")

    def answer(result):
        return requests.post(f"{url}/", json=result, timeout=30)

    assert answer({"statusCode": 418, "body": "tea", "cookies": ["a=1"]}).cookies["a"] == "1"
    got = answer({"free": "form"})
    assert (got.status_code, got.headers["content-type"], got.json()) == (200, "application/json", {"free": "form"})
    for wrong in ["fail", {"statusCode": 200, "body": {"a": 1}}, {"statusCode": "x"}]:
        got = answer(wrong)
        assert (got.status_code, got.json()) == (500, {"message": "Internal Server Error"}), wrong


def test_http_named_stages(server):
    client = server.client("apigatewayv2")
    api, _ = http_api(server, server.function(ECHO), "GET /x")
    client.create_stage(ApiId=api, StageName="test", AutoDeploy=True, StageVariables={"k": "v"})
    event = requests.get(f"{server.url}/_dunlin/api/{api}/test/x", timeout=30).json()
    assert (event["rawPath"], event["requestContext"]["stage"]) == ("/test/x", "test")
    assert event["stageVariables"] == {"k": "v"}
    host = f"{api}.execute-api.us-east-1.localhost:{server.port}"
    assert requests.get(f"{server.url}/x", headers={"Host": host}, timeout=30).json()["rawPath"] == "/x"


def test_http_quick_create_and_cors(server):
    client = server.client("apigatewayv2")
    name = server.function("def handler(event, context):\n    return 'quick'\n")
    made = client.create_api(
        Name=name_of("quick"), ProtocolType="HTTP", Target=arn_of(server, name),
        CorsConfiguration={"AllowOrigins": ["https://a.example"], "AllowMethods": ["GET"], "MaxAge": 60},
    )
    open_to_apis(server, name)
    url = f"{server.url}/_dunlin/api/{made['ApiId']}/$default/any/path"
    answer = requests.get(url, headers={"Origin": "https://a.example"}, timeout=30)
    assert (answer.text, answer.headers["access-control-allow-origin"]) == ("quick", "https://a.example")
    asked = {"Origin": "https://a.example", "Access-Control-Request-Method": "GET"}
    preflight = requests.options(url, headers=asked, timeout=30)
    assert (preflight.status_code, preflight.text) == (204, "")
    assert preflight.headers["access-control-max-age"] == "60"
    other = requests.get(url, headers={"Origin": "https://b.example"}, timeout=30)
    assert "access-control-allow-origin" not in other.headers


def test_http_signed_routes(server):
    client = server.client("apigatewayv2")
    api, url = http_api(server, server.function(ECHO), "GET /open")
    integration = client.get_integrations(ApiId=api)["Items"][0]["IntegrationId"]
    client.create_route(
        ApiId=api, RouteKey="GET /closed", AuthorizationType="AWS_IAM", Target=f"integrations/{integration}"
    )
    assert requests.get(f"{url}/open", timeout=30).status_code == 200
    anonymous = requests.get(f"{url}/closed", timeout=30)
    assert (anonymous.status_code, anonymous.json()) == (403, {"message": "Forbidden"})
    headers = sign(server, "GET", f"{url}/closed", service="execute-api")
    signed = requests.get(f"{url}/closed", headers=headers, timeout=30)
    assert signed.status_code == 200, signed.text
    assert signed.json()["requestContext"]["authorizer"]["iam"]["accessKey"] == server.access_key


def test_http_control_plane(server):
    client = server.client("apigatewayv2")
    api, url = http_api(server, server.function(ECHO), "GET /x")
    assert client.get_api(ApiId=api)["ProtocolType"] == "HTTP"
    assert api in [item["ApiId"] for item in client.get_apis()["Items"]]
    routes = client.get_routes(ApiId=api)["Items"]
    assert [route["RouteKey"] for route in routes] == ["GET /x"]
    assert refused(client.create_route, ApiId=api, RouteKey="GET /x")[:2] == (409, "ConflictException")
    assert refused(client.create_route, ApiId=api, RouteKey="GET x")[:2] == (400, "BadRequestException")
    client.delete_route(ApiId=api, RouteId=routes[0]["RouteId"])
    assert requests.get(f"{url}/x", timeout=30).status_code == 404
    client.delete_api(ApiId=api)
    assert refused(client.get_api, ApiId=api)[:2] == (404, "NotFoundException")


@pytest.mark.modes("dev")
def test_what_is_not_there_is_refused_loudly(server):
    rest, http = server.client("apigateway"), server.client("apigatewayv2")
    assert refused(rest.create_api_key, name="k")[:2] == (501, "NotImplementedException")
    assert refused(http.create_api, Name="w", ProtocolType="WEBSOCKET", RouteSelectionExpression="$request.body.action")[0] == 501
    assert refused(http.create_vpc_link, Name="v", SubnetIds=["s"])[:2] == (501, "NotImplementedException")

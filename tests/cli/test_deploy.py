"""`dunlin deploy`: what it finds, plans, applies and prints; and what it says about mistakes."""

import json
import shutil
import subprocess

import pytest
import requests

from conftest import ROOT, binary, name_of, wait_for, zipped


class Ended:
    """How a command ended."""

    def __init__(self, done):
        self.code, self.out, self.err = done.returncode, done.stdout, done.stderr

    @property
    def json(self):
        """Its standard output, which must be one JSON document."""
        return json.loads(self.out)


def dunlin(server, *arguments, cwd=None, stdin=None, **more):
    """Runs the program as a client of a server."""
    done = subprocess.run(
        [binary(), *map(str, arguments)], env=server.environment() | more, capture_output=True, text=True, timeout=300, cwd=cwd,
        input=stdin, stdin=subprocess.DEVNULL if stdin is None else None, check=False,
    )
    return Ended(done)


def project(folder, **files):
    """A folder with these files, `__` in a name standing for a dot."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


@pytest.fixture
def folder(tmp_path):
    """A folder whose name no other test deploys."""
    return project(tmp_path / name_of("app"))


def test_the_example(server, tmp_path):
    # A copy under a name of its own: the other runs of this test deploy it too.
    service = name_of("items")
    example = tmp_path / service
    shutil.copytree(ROOT / "examples/items-api", example)
    planned = dunlin(server, "deploy", "--plan", example)
    assert planned.code == 0, planned.err
    assert f"+     create function {service}-dev-items: nodejs" in planned.err
    assert "+     create table ExampleTable: key id" in planned.err
    assert "aws-sdk is added to the package" in planned.err
    assert f"{service}-dev-items" not in str(server.client("lambda").list_functions()["Functions"])
    first = dunlin(server, "deploy", "--json", example)
    assert first.code == 0, first.err
    told = first.json
    assert told["changed"] is True
    assert (told["functions"], told["tables"]) == ([f"{service}-dev-items"], ["ExampleTable"])
    assert told["url"].startswith(("http://127.0.0.1:", "http://")) and told["hostUrl"].startswith("http://")
    assert ".execute-api.us-east-1.localhost:" in told["hostUrl"]
    answer = requests.post(told["url"], json={"id": "1", "data": {"colour": "grey", "n": 1.5}}, timeout=60)
    assert (answer.status_code, answer.json()) == (200, {"message": "Item stored", "id": "1"})
    item = server.resource("dynamodb").Table("ExampleTable").get_item(Key={"id": "1"})["Item"]
    assert (item["data"]["colour"], str(item["data"]["n"])) == ("grey", "1.5")
    host = told["hostUrl"].split("/")[2]
    path = told["hostUrl"].split(host)[1]
    assert requests.post(server.url + path, json={"id": "2"}, headers={"Host": host}, timeout=60).status_code == 200
    assert requests.post(told["url"], data="no json", timeout=60).status_code == 500
    second = dunlin(server, "deploy", "--json", example)
    assert second.code == 0, second.err
    assert (second.json["changed"], second.json["steps"], second.json["url"]) == (False, [], told["url"])
    assert "nothing to do" in second.err
    words = dunlin(server, "deploy", example)
    assert f"ANY {told['url']} -> {service}-dev-items" in words.out


def test_a_change_is_an_update(dev, folder):
    project(folder, handler__py="def handler(event, context):\n    return 1\n")
    name = dunlin(dev, "deploy", "--json", folder).json["functions"][0]
    project(folder, handler__py="def handler(event, context):\n    return 2\n")
    changed = dunlin(dev, "deploy", "--json", folder)
    assert [step["action"] for step in changed.json["steps"]] == ["update"]
    assert dunlin(dev, "invoke", name).out == "2\n"


def test_provisioned_concurrency_is_of_an_alias_that_events_lead_to(dev, folder):
    def deploy(line, answer):
        project(
            folder,
            handler__py=f"import os\ndef handler(event, context):\n    return {{'statusCode': 200, 'body': '{answer} '"
                        " + os.environ['AWS_LAMBDA_FUNCTION_VERSION']}\n",
            serverless__yml=f"""
provider: {{name: aws, runtime: python3.11}}
package: {{patterns: ['!serverless.yml']}}
functions:
  f:
    handler: handler.handler
    url: true
    events: [{{httpApi: GET /x}}, {{http: GET /y}}]
    {line}
""",
        )
        done = dunlin(dev, "deploy", "--json", folder)
        assert done.code == 0, done.err
        return done.json

    def answers(told):
        assert len(told["routes"]) == 3
        return {requests.get(route["url"], timeout=60).text for route in told["routes"]}

    client = dev.client("lambda")
    first = deploy("provisionedConcurrency: 1", "one")
    name = first["functions"][0]
    assert answers(first) == {"one 1"}
    there = {"FunctionName": name, "Qualifier": "provisioned"}
    wait_for(lambda: client.get_provisioned_concurrency_config(**there)["Status"] == "READY", "the environment")
    assert deploy("provisionedConcurrency: 1", "one")["steps"] == []
    assert len(deploy("provisionedConcurrency: 2", "one")["steps"]) == 1
    assert client.get_provisioned_concurrency_config(**there)["RequestedProvisionedConcurrentExecutions"] == 2
    second = deploy("provisionedConcurrency: 2", "two")
    assert answers(second) == {"two 2"}
    assert deploy("provisionedConcurrency: 2", "two")["steps"] == []
    last = deploy("", "two")
    assert [step["action"] for step in last["steps"]][-1] == "delete"
    assert answers(last) == {"two $LATEST"}
    assert client.list_aliases(FunctionName=name)["Aliases"] == []
    assert deploy("", "two")["steps"] == []


def test_what_becomes_of_events_and_how_the_log_is_written(dev, folder):
    def deploy(lines):
        project(
            folder,
            handler__py="def work(event, context):\n    raise ValueError('as told')\n"
                        "def told(event, context):\n    print('TOLD', event['requestContext']['condition'])\n",
            serverless__yml=f"""
provider: {{name: aws, runtime: python3.11, tags: {{team: birds}}}}
package: {{patterns: ['!serverless.yml']}}
functions:
  work:
    handler: handler.work
{lines}
  told:
    handler: handler.told
""",
        )
        done = dunlin(dev, "deploy", "--json", folder)
        assert done.code == 0, done.err
        return done.json

    client, logs = dev.client("lambda"), dev.client("logs")
    whole = """
    maximumRetryAttempts: 0
    destinations: {onFailure: told}
    logs: {logFormat: JSON, systemLogLevel: WARN}
    vpc: {securityGroupIds: [sg-1], subnetIds: [subnet-1]}
    tags: {use: tests}
"""
    work, told = deploy(whole)["functions"]
    assert deploy(whole)["steps"] == []
    config = client.get_function_event_invoke_config(FunctionName=work)
    assert config["MaximumRetryAttempts"] == 0
    assert config["DestinationConfig"]["OnFailure"]["Destination"].endswith(f":function:{told}")
    shown = client.get_function(FunctionName=work)
    assert shown["Tags"] == {"team": "birds", "use": "tests"}
    assert shown["Configuration"]["VpcConfig"]["SubnetIds"] == ["subnet-1"]
    assert (shown["Configuration"]["LoggingConfig"]["LogFormat"], shown["Configuration"]["LoggingConfig"]["SystemLogLevel"]) == ("JSON", "WARN")
    client.invoke(FunctionName=work, InvocationType="Event")

    def heard():
        if not logs.describe_log_groups(logGroupNamePrefix=f"/aws/lambda/{told}")["logGroups"]:
            return None
        events = logs.filter_log_events(logGroupName=f"/aws/lambda/{told}", filterPattern="TOLD")["events"]
        return [event["message"].strip() for event in events]

    assert wait_for(heard, "the destination to be told") == ["TOLD RetriesExhausted"]
    changed = deploy("    maximumRetryAttempts: 1\n    tags: {use: show}")
    assert {(step["action"], step["resource"].split()[0]) for step in changed["steps"]} == {("update", "events"), ("update", "function")}
    assert client.get_function_event_invoke_config(FunctionName=work)["DestinationConfig"]["OnFailure"] == {}
    assert client.list_tags(Resource=shown["Configuration"]["FunctionArn"])["Tags"] == {"team": "birds", "use": "show"}
    assert client.get_function_configuration(FunctionName=work)["VpcConfig"]["SubnetIds"] == []
    assert [step["action"] for step in deploy("")["steps"]] == ["delete"]
    with pytest.raises(client.exceptions.ResourceNotFoundException):
        client.get_function_event_invoke_config(FunctionName=work)
    assert deploy("")["steps"] == []


def test_a_function_gets_the_records_of_a_tables_stream(dev, folder):
    table = name_of("table")

    def deploy(lines):
        project(
            folder,
            handler__py="def handler(event, context):\n    print('GOT', [r['dynamodb']['Keys']['id']['S'] for r in event['Records']])\n",
            serverless__yml=f"""
provider: {{name: aws, runtime: python3.11}}
package: {{patterns: ['!serverless.yml']}}
functions:
  f:
    handler: handler.handler
    events:
      - stream: {{type: dynamodb, arn: !GetAtt Items.StreamArn, {lines}}}
resources:
  Resources:
    Items:
      Type: AWS::DynamoDB::Table
      Properties:
        TableName: {table}
        AttributeDefinitions: [{{AttributeName: id, AttributeType: S}}]
        KeySchema: [{{AttributeName: id, KeyType: HASH}}]
        StreamSpecification: {{StreamViewType: KEYS_ONLY}}
""",
        )
        done = dunlin(dev, "deploy", "--json", folder)
        assert done.code == 0, done.err
        return done.json

    name = deploy("batchSize: 7")["functions"][0]
    assert deploy("batchSize: 7")["steps"] == []
    client, logs = dev.client("lambda"), dev.client("logs")
    [mapping] = client.list_event_source_mappings(FunctionName=name)["EventSourceMappings"]
    assert mapping["BatchSize"] == 7
    dev.client("dynamodb").put_item(TableName=table, Item={"id": {"S": "one"}})

    def got():
        if not logs.describe_log_groups(logGroupNamePrefix=f"/aws/lambda/{name}")["logGroups"]:
            return None
        events = logs.filter_log_events(logGroupName=f"/aws/lambda/{name}", filterPattern="GOT")["events"]
        return [event["message"].strip() for event in events]

    assert wait_for(got, "the record of the item") == ["GOT ['one']"]
    assert [step["action"] for step in deploy("batchSize: 8")["steps"]] == ["update"]
    [mapping] = client.list_event_source_mappings(FunctionName=name)["EventSourceMappings"]
    assert mapping["BatchSize"] == 8


def test_snap_start_is_of_an_alias_that_events_lead_to(dev, folder):
    def deploy(line, answer):
        project(
            folder,
            handler__py=f"import os\ndef handler(event, context):\n    return {{'statusCode': 200, 'body': '{answer} '"
                        " + os.environ['AWS_LAMBDA_INITIALIZATION_TYPE']}\n",
            serverless__yml=f"""
provider: {{name: aws, runtime: python3.12}}
package: {{patterns: ['!serverless.yml']}}
functions:
  f:
    handler: handler.handler
    url: true
    {line}
""",
        )
        done = dunlin(dev, "deploy", "--json", folder)
        assert done.code == 0, done.err
        return done.json

    def answer(told):
        return requests.get(told["routes"][0]["url"], timeout=60).text

    client = dev.client("lambda")
    first = deploy("snapStart: true", "one")
    name = first["functions"][0]
    assert answer(first) == "one snap-start"
    alias = client.get_function_configuration(FunctionName=name, Qualifier="snapstart")
    assert (alias["Version"], alias["SnapStart"]["ApplyOn"]) == ("1", "PublishedVersions")
    assert deploy("snapStart: true", "one")["steps"] == []
    assert answer(deploy("snapStart: true", "two")) == "two snap-start"
    assert deploy("snapStart: true", "two")["steps"] == []
    last = deploy("", "two")
    assert [step["action"] for step in last["steps"]][-1] == "delete"
    assert answer(last) == "two on-demand"
    assert client.list_aliases(FunctionName=name)["Aliases"] == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("handler.py", "def handler(event, context):\n    return {'said': 'hello'}\n"),
        ("handler.js", "exports.handler = async () => ({ said: 'hello' });\n"),
        ("handler.mjs", "export const handler = async () => ({ said: 'hello' });\n"),
        ("handler.ts", "enum E { A = 'hello' }\nexport const handler = async (): Promise<{ said: E }> => ({ said: E.A });\n"),
        ("index.js", "exports.handler = async () => ({ said: 'hello' });\n"),
    ],
)
@pytest.mark.parametrize("whole", [False, True], ids=["file", "folder"])
def test_bare_handlers(dev, folder, name, text, whole):
    (folder / name).write_text(text)
    (folder / "beside.txt").write_text("data")
    done = dunlin(dev, "deploy", "--json", folder if whole else folder / name)
    assert done.code == 0, done.err
    answer = requests.get(done.json["url"], timeout=60)
    assert (answer.status_code, answer.json()) == (200, {"said": "hello"}), done.err
    dev.client("lambda").delete_function(FunctionName=done.json["functions"][0])


def test_a_web_handler_in_typescript_streams(dev, folder):
    (folder / "app.ts").write_text(
        "type Env = Record<string, string>;\n"
        "const parts: string[] = await Promise.resolve(['first ', 'last']);\n"
        "export default {\n"
        "  async fetch(request: Request, env: Env): Promise<Response> {\n"
        "    const body = new ReadableStream<Uint8Array>({\n"
        "      start(controller) { for (const part of parts) controller.enqueue(new TextEncoder().encode(part)); controller.close(); },\n"
        "    });\n"
        "    return new Response(body, { headers: { 'x-path': new URL(request.url).pathname, 'x-own': env.AWS_LAMBDA_FUNCTION_NAME } });\n"
        "  },\n};\n"
    )
    done = dunlin(dev, "deploy", "--json", "--runtime", "nodejs20.x", folder / "app.ts")
    assert done.code == 0, done.err
    assert "auth NONE, streams" in done.err, done.err
    answer = requests.get(done.json["url"] + "a/b", timeout=60)
    assert (answer.status_code, answer.text) == (200, "first last"), answer.text
    assert answer.headers["x-path"].endswith("/a/b") and answer.headers["x-own"] == "app"
    assert answer.headers["transfer-encoding"] == "chunked"
    assert dunlin(dev, "deploy", "--json", "--runtime", "nodejs20.x", folder / "app.ts").json["changed"] is False
    dev.client("lambda").delete_function(FunctionName="app")


def test_http_api_events_and_settings(dev, folder):
    project(
        folder,
        serverless__yml=f"""
service: {folder.name}
provider:
  name: aws
  runtime: python3.11
  stage: test
  environment: {{SHARED: all, MINE: provider}}
  httpApi: {{cors: true}}
functions:
  one:
    handler: src/app.one
    timeout: 7
    memorySize: 256
    environment: {{MINE: "${{self:custom.mine}}", TABLE: !Ref Things}}
    events:
      - httpApi: GET /one/{{id}}
      - httpApi: {{method: post, path: /one}}
  two:
    handler: src/app.two
    url: true
    events: [{{httpApi: '*'}}]
custom:
  mine: ${{env:NOT_SET, 'function'}}
resources:
  Resources:
    Things:
      Type: AWS::DynamoDB::Table
      Properties:
        BillingMode: PAY_PER_REQUEST
        AttributeDefinitions: [{{AttributeName: id, AttributeType: S}}]
        KeySchema: [{{AttributeName: id, KeyType: HASH}}]
""",
    )
    project(
        folder / "src",
        app__py="import os\n"
        "def one(event, context):\n"
        "    return [os.environ[k] for k in ('SHARED', 'MINE', 'TABLE')] + [event['routeKey'], event.get('pathParameters')]\n"
        "def two(event, context):\n    return 'two'\n",
    )
    done = dunlin(dev, "deploy", "--json", folder)
    assert done.code == 0, done.err
    told = done.json
    assert told["functions"] == [f"{folder.name}-test-one", f"{folder.name}-test-two"]
    routes = {(route["method"], route["function"].rsplit("-", 1)[1]): route["url"] for route in told["routes"]}
    one = routes[("GET", "one")].replace("{id}", "7")
    assert requests.get(one, timeout=60).json() == ["all", "function", told["tables"][0], "GET /one/{id}", {"id": "7"}]
    assert requests.post(routes[("POST", "one")], timeout=60).json()[3] == "POST /one"
    settings = dev.client("lambda").get_function_configuration(FunctionName=told["functions"][0])
    assert (settings["Timeout"], settings["MemorySize"], settings["Runtime"]) == (7, 256, "python3.11")
    base = one.rsplit("/one/", 1)[0]
    assert requests.get(f"{base}/anything", timeout=60).text == "two"
    preflight = {"Origin": "https://a.example", "Access-Control-Request-Method": "GET"}
    assert requests.options(one, headers=preflight, timeout=60).headers["access-control-allow-origin"] == "*"
    url = [route["url"] for route in told["routes"] if "/_dunlin/url/" in route["url"] or ".lambda-url." in route["url"]]
    assert requests.get(url[0], timeout=60).text == "two"
    assert dunlin(dev, "deploy", "--json", folder).json["steps"] == []
    # What the file no longer says is taken away.
    text = (folder / "serverless.yml").read_text()
    (folder / "serverless.yml").write_text(text.replace("httpApi: {cors: true}", "").replace("      - httpApi: GET /one/{id}\n", ""))
    assert dunlin(dev, "deploy", "--json", folder).json["changed"] is True
    assert "access-control-allow-origin" not in requests.options(one, headers=preflight, timeout=60).headers
    assert requests.get(one, timeout=60).text == "two"
    assert dunlin(dev, "deploy", "--json", folder).json["steps"] == []


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("functions:\n  a: [\n", None, "this is not valid YAML"),
        ("functions:\n\ta: 1\n", "2:", "this is not valid YAML"),
        ("- a\n", "1:1", "a map with `functions:` was expected, here is a list"),
        ("functions:\n  a:\n    timeout: 3\n", "3:5", "functions.a.handler is missing; write `handler: file.export`"),
        ("functions:\n  a:\n    handler: h.h\n    timeout: soon\n", "4:14", "timeout must be"),
        ("functions:\n  a:\n    handler: h.h\n    timeout: 901\n", "4:14", "timeout must be"),
        ("functions:\n  a:\n    handler: h.h\n    memroySize: 1\n", "4:17", "functions.a.memroySize is not supported; supported here: "),
        ("functions:\n  a:\n    handler: h.h\n    events:\n      - sqs: arn\n", "5:14",
         'the event "sqs" is not supported yet; supported are http, httpApi and stream'),
        ("functions:\n  a:\n    handler: h.h\n    destinations: {onFailure: arn:aws:sqs:us-east-1:000000000000:q}\n", "4:31", "sqs is not supported yet"),
        ("functions:\n  a:\n    handler: h.h\n    destinations:\n      onSuccess: b\n", "5:18", 'there is no function "b" in this file'),
        ("functions:\n  a:\n    handler: h.h\n    onError: arn:aws:sns:us-east-1:000000000000:t\n", "4:14", "dead letters go to queues and topics"),
        ("functions:\n  a:\n    handler: h.h\n    events:\n      - http: GET\n", "5:15", "an http event is `METHOD /path`"),
        ("functions:\n  a:\n    handler: h.h\nresources:\n  Resources:\n    B:\n      Type: AWS::S3::Bucket\n", "7:13",
         "resources of type AWS::S3::Bucket are not supported yet; supported is AWS::DynamoDB::Table"),
        ("functions: {}\n", "1:1", "nothing to deploy"),
        ("functions:\n  a:\n    handler: ${self:custom.nothing}.h\n", "3:14", "custom.nothing"),
        ("provider: {name: google}\nfunctions:\n  a:\n    handler: h.h\n", "1:18", "provider.name must be aws"),
    ],
    ids=["open", "tab", "list", "no-handler", "timeout", "too-long", "typo", "event", "destination", "absent", "dead-letters", "http", "resource", "empty", "variable", "provider"],
)
def test_mistakes_in_a_file_are_pointed_at(dev, folder, text, place, words):
    project(folder, serverless__yml=text, h__py="def h(event, context):\n    return 1\n")
    done = dunlin(dev, "deploy", folder)
    assert done.code == 1, done.err
    assert done.out == ""
    where = f"{folder}/serverless.yml:" + (place or "")
    assert done.err.startswith(f"error: {where}"), done.err
    assert words in done.err
    assert folder.name not in str(dev.client("lambda").list_functions()["Functions"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("functions:\n  a:\n    handler: h.h\n    runtime: cobol85\n", 'the runtime "cobol85" is not supported; there are nodejs'),
        ("functions:\n  a:\n    handler: missing.h\n    runtime: python3.11\n", 'the handler "missing.h" names no file in '),
        ("functions:\n  a:\n    handler: missing.h\n", 'the handler "missing.h" names no file in '),
        ("functions:\n  a:\n    handler: handler\n    runtime: python3.11\n", 'the handler "handler" must be FILE.EXPORT'),
        ("functions:\n  a:\n    handler: x\n    runtime: provided.al2023\n", "needs an executable file `bootstrap`"),
    ],
    ids=["runtime", "file", "inferred", "malformed", "bootstrap"],
)
def test_mistakes_between_files(dev, folder, text, words):
    project(folder, serverless__yml=text, h__py="def h(event, context):\n    return 1\n")
    done = dunlin(dev, "deploy", folder)
    assert (done.code, done.out) == (1, ""), done.err
    assert words in done.err, done.err
    assert folder.name not in str(dev.client("lambda").list_functions()["Functions"])


def test_a_mistake_in_typescript_is_pointed_at(dev, folder):
    project(folder, handler__ts="export const ok = 1;\nexport const handler = async ( => 1;\n")
    done = dunlin(dev, "deploy", folder)
    assert (done.code, done.out) == (1, "")
    assert "handler.ts:2" in done.err or "line 2" in done.err, done.err


def test_other_files_are_refused_by_name(dev, folder):
    project(folder, template__yaml="Resources: {}\n")
    done = dunlin(dev, "deploy", folder)
    assert done.code == 1
    assert "template.yaml is not supported yet" in done.err
    done = dunlin(dev, "deploy", folder / "nothing")
    assert done.code == 1
    assert "does not exist" in done.err


def test_a_table_is_never_replaced(dev, folder):
    text = (
        "functions: {{}}\nresources:\n  Resources:\n    T:\n      Type: AWS::DynamoDB::Table\n      Properties:\n"
        "        BillingMode: PAY_PER_REQUEST\n        AttributeDefinitions: [{{AttributeName: {0}, AttributeType: S}}]\n"
        "        KeySchema: [{{AttributeName: {0}, KeyType: HASH}}]\n"
    )
    project(folder, serverless__yml=text.format("id"))
    assert dunlin(dev, "deploy", folder).code == 0
    project(folder, serverless__yml=text.format("other"))
    done = dunlin(dev, "deploy", folder)
    assert done.code == 1
    assert "tables are never replaced" in done.err


def test_no_platform_is_running(dev, folder):
    project(folder, handler__py="def handler(event, context):\n    return 1\n")
    for command in [("deploy", str(folder)), ("invoke", "x"), ("logs", "x"), ("ps",), ("bill",)]:
        done = dunlin(dev, *command, "--endpoint", "http://127.0.0.1:9")
        assert (done.code, done.out) == (1, ""), command
        assert "no answer from http://127.0.0.1:9" in done.err
        assert "Start it with `dunlin dev`" in done.err
    done = dunlin(dev, "ps", "--endpoint", "nonsense")
    assert done.code == 1 and "is no " in done.err


def test_the_platform_is_found_by_variables(dev):
    nowhere = "http://127.0.0.1:9"
    assert dunlin(dev, "ps").code == 0
    assert dunlin(dev, "ps", DUNLIN_ENDPOINT=nowhere).code == 1
    assert dunlin(dev, "ps", AWS_ENDPOINT_URL=nowhere, DUNLIN_ENDPOINT=dev.url).code == 0
    assert dunlin(dev, "ps", "--endpoint", dev.url, DUNLIN_ENDPOINT=nowhere).code == 0


def test_dependencies_of_a_manifest(dev, folder):
    pytest.importorskip("six")
    project(folder, handler__py="import six\ndef handler(event, context):\n    return six.__name__\n", requirements__txt="six\n")
    done = dunlin(dev, "deploy", "--json", folder)
    assert done.code == 0, done.err
    assert any("requirements.txt is installed by pip" in note for note in done.json["notes"])
    assert dunlin(dev, "invoke", done.json["functions"][0]).out == '"six"\n'
    # The second time comes from the cache, and changes nothing.
    assert dunlin(dev, "deploy", "--json", folder).json["changed"] is False


def test_layers_of_a_serverless_yml(server, folder):
    client = server.client("lambda")
    layer = name_of("libs")
    # A layer of somebody else, by its ARN.
    other = client.publish_layer_version(LayerName=name_of(), Content={"ZipFile": zipped({"python/other.py": "NAME = 'other'"})})
    (folder / "libs" / "python").mkdir(parents=True)
    (folder / "libs" / "python" / "shared.py").write_text("NAME = 'one'")
    project(folder, handler__py="import other, shared\ndef main(event, context):\n    return [other.NAME, shared.NAME]\n")
    yml = f"""
provider: {{name: aws, runtime: python3.11}}
layers:
  my-libs: {{path: libs, name: {layer}, description: d, allowedAccounts: ["*"]}}
package: {{patterns: ["!libs/**"]}}
functions:
  f:
    handler: handler.main
    layers: ["{other['LayerVersionArn']}", !Ref MyDashlibsLambdaLayer]
"""
    (folder / "serverless.yml").write_text(yml)
    name = f"{folder.name}-dev-f"
    planned = dunlin(server, "deploy", "--plan", folder)
    assert planned.code == 0, planned.err
    assert f"create layer {layer}" in planned.err and "create function" in planned.err
    done = dunlin(server, "deploy", "--json", folder)
    assert done.code == 0, done.err
    answer = lambda: json.load(client.invoke(FunctionName=name)["Payload"])
    assert answer() == ["other", "one"]
    assert [one["Arn"].rsplit(":", 2)[1:] for one in client.get_function_configuration(FunctionName=name)["Layers"]][1] == [layer, "1"]
    policy = json.loads(client.get_layer_version_policy(LayerName=layer, VersionNumber=1)["Policy"])
    assert [statement["Principal"] for statement in policy["Statement"]] == ["*"]
    assert dunlin(server, "deploy", "--json", folder).json["changed"] is False
    (folder / "libs" / "python" / "shared.py").write_text("NAME = 'two'")
    changed = dunlin(server, "deploy", "--json", folder).json
    assert [(step["action"], step["resource"]) for step in changed["steps"]] == [("update", f"layer {layer}"), ("update", f"function {name}")]
    assert answer() == ["other", "two"]
    (folder / "serverless.yml").write_text(yml.replace(", !Ref MyDashlibsLambdaLayer", ", !Ref NoLambdaLayer"))
    wrong = dunlin(server, "deploy", folder)
    assert wrong.code != 0 and "layers: " in wrong.err and "NoLambdaLayer" in wrong.err


def test_the_web_server_example(server, tmp_path):
    service = name_of("hello-web")
    example = tmp_path / service
    shutil.copytree(ROOT / "examples/hello-web", example)
    text = (example / "serverless.yml").read_text()
    (example / "serverless.yml").write_text(text.replace("service: hello-web", f"service: {service}"))
    done = dunlin(server, "deploy", "--json", example)
    assert done.code == 0, done.err
    [route] = done.json["routes"]
    answer = requests.post(route["url"] + "hi", timeout=30)
    assert answer.text == "Hello from POST /hi, request 1 of this process\n"
    assert requests.get(route["url"], timeout=30).text.startswith("Hello from GET /, request 2")
    again = dunlin(server, "deploy", "--json", example)
    assert again.code == 0 and again.json["changed"] is False, again.err


def test_a_procfile(server, folder):
    code = (
        "import os, sys\nfrom http.server import BaseHTTPRequestHandler, HTTPServer\n\n"
        "class Handler(BaseHTTPRequestHandler):\n    def do_GET(self):\n        self.send_response(200)\n        self.end_headers()\n"
        "        self.wfile.write(self.path.encode())\n\nHTTPServer(('0.0.0.0', int(sys.argv[1])), Handler).serve_forever()\n"
    )
    project(folder, Procfile="release: false\nweb: python serve.py $PORT\n", serve__py=code)
    done = dunlin(server, "deploy", "--json", folder)
    assert done.code == 0, done.err
    assert "from the folder's files" in done.err
    assert requests.get(done.json["routes"][0]["url"] + "a", timeout=30).text == "/a"


def test_mistakes_of_a_web_server(server, folder):
    project(folder, serverless__yml="functions:\n  f:\n    runtime: nodejs22.x\n    web: {port: 8080}\n")
    done = dunlin(server, "deploy", folder)
    assert done.code != 0 and "serverless.yml:4:" in done.err and "web.command is missing" in done.err, done.err

"""PHP functions as boto3 sees them. Lambda has no such runtime: they are `provided.*` functions whose handler is a PHP file
in Bref's shape, and which bring no program of their own."""

import concurrent.futures
import json
import shutil

import pytest
import requests

from conftest import ROOT, name_of, refused, wait_for, zipped
from test_deploy import dunlin, project
from test_invoke import failure, invoke, tail

pytestmark = pytest.mark.skipif(not shutil.which("php"), reason="PHP is not there (tests/install.sh says why)")

RUNTIME = "provided.al2023"
CODE = """<?php
use Bref\\Context\\Context;

class State { public static int $calls = 0; public static ?string $process = null; }

return function ($event, Context $context) {
    State::$calls++;
    State::$process ??= bin2hex(random_bytes(8));
    switch (is_array($event) ? $event['do'] ?? '' : '') {
        case 'throw': throw new InvalidArgumentException('bad ü');
        case 'tell': throw new Exception(State::$process);
        case 'begin': echo 'begun'; throw new Exception("one\\ntwo");
        case 'exit': exit(3);
        case 'fatal': eval('class Twice {} '); eval('class Twice {}');
        case 'memory': for ($all = [];;) { $all[] = str_repeat('x', 4000000); }
        case 'sleep': sleep($event['s']); return null;
        case 'bytes': return "\\xff";
        case 'large': return str_repeat('x', $event['bytes']);
        case 'calls': return State::$calls;
        case 'process': return [State::$process, State::$calls];
        case 'print': echo "from echo\\n"; fwrite(STDERR, "from stderr\\n"); error_log('from error_log'); ob_start(); echo "buffered\\n"; return null;
        case 'variables': return array_map(fn ($name) => [getenv($name), $_SERVER[$name] ?? null, $_ENV[$name] ?? null, trim((string) shell_exec("printenv $name"))], $event['names']);
        case 'context': return [
            'id' => $context->getAwsRequestId(), 'arn' => $context->getInvokedFunctionArn(), 'trace' => $context->getTraceId(),
            'remaining' => $context->getRemainingTimeInMillis(), 'json' => json_decode($_SERVER['LAMBDA_INVOCATION_CONTEXT'], true),
            'folder' => getcwd(), 'execution' => getenv('AWS_EXECUTION_ENV'), 'extensions' => get_loaded_extensions(),
        ];
        case 'ini': return [ini_get('precision'), ini_get('memory_limit')];
        case 'secure': return @file_get_contents($event['url']) === false ? $http_response_header[0] : 'answered';
    }
    return $event;
};
"""


def create(server, handler="index.php", files=None, **settings):
    """A function of this handler."""
    return server.function({"index.php": CODE} | (files or {}), runtime=RUNTIME, handler=handler, **settings)


def kept(count):
    """The setting that has one process serve so many calls."""
    return {"Environment": {"Variables": {"BREF_LOOP_MAX": str(count)}}}


def test_kinds_of_handlers(server):
    name = create(server)
    event = {"a": [1, 2.5, None, True, "ü☃🐦"], "b": {"c": 1}}
    assert invoke(server, name, event)["json"] == event
    assert invoke(server, name, "é")["json"] == "é"
    text = "é" * 1_000_000
    assert invoke(server, name, {"text": text})["json"] == {"text": text}
    files = {
        "src/object.php": "<?php class Own implements Bref\\Event\\Handler { public function handle($event, Bref\\Context\\Context $context) { return [$event, __DIR__]; } } return new Own();",
        "invokable.php": "<?php return new class { public function __invoke($event) { return $event['n'] + 1; } };",
        "callable.php": "<?php class A { static function b($event) { return 'b'; } } return ['A', 'b'];",
        "one.php": "<?php return fn ($event) => require 'data.php';",
        "data.php": "<?php return ['data' => $event];",
    }
    assert invoke(server, create(server, "src/object.php", files), 1)["json"] == [1, "/var/task/src"]
    assert invoke(server, create(server, "invokable.php", files), {"n": 1})["json"] == 2
    assert invoke(server, create(server, "callable.php", files))["json"] == "b"
    assert invoke(server, create(server, "one.php", files), 5)["json"] == {"data": 5}


def test_the_context(dev):
    got = invoke(dev, create(dev), {"do": "context"})
    facts = got["json"]
    assert facts["id"] == got["ResponseMetadata"]["RequestId"] == facts["json"]["awsRequestId"]
    assert ":function:" in facts["arn"] and 0 < facts["remaining"] <= 10_000 and facts["folder"] == "/var/task"
    # As of a custom runtime, which it is at AWS.
    assert facts["execution"] is False
    assert {"json", "openssl", "sodium", "PDO"} <= set(facts["extensions"])


def test_a_call_finds_nothing_of_the_one_before(server):
    process = lambda: invoke(server, name, {"do": "process"})["json"]
    name = create(server)
    seen = [process() for _ in range(4)]
    assert len({one for one, _ in seen}) == 4 and {calls for _, calls in seen} == {1}
    name = create(server, **kept(3))
    seen = []
    wait_for(lambda: seen.append(process()) or [calls for _, calls in seen].count(3) > 1, "processes that serve three calls")
    assert max(calls for _, calls in seen) == 3 and len(seen) == len({tuple(one) for one in seen})
    # What an error has left is not gone on with.
    gone = failure(server, name, {"do": "tell"})["errorMessage"]
    assert gone not in {process()[0] for _ in range(4)}


def test_errors(server):
    name = create(server)
    got = invoke(server, name, {"do": "throw"}, LogType="Tail")
    assert got["json"] == {"errorType": "InvalidArgumentException", "errorMessage": "bad ü", "stackTrace": ["/var/task/index.php(10)"]}
    assert f"{got['ResponseMetadata']['RequestId']}\tInvoke Error\t" in tail(got)
    assert failure(server, name, {"do": "bytes"})["errorType"] == "Runtime.MarshalError"
    assert failure(server, name, {"do": "large", "bytes": 6_400_000})["errorType"] == "Function.ResponseSizeTooLarge"
    assert len(invoke(server, name, {"do": "large", "bytes": 6_000_000})["json"]) == 6_000_000
    got = invoke(server, name, {"do": "exit"})
    assert got["json"]["errorType"] == "Runtime.ExitError" and "exit status 3" in got["json"]["errorMessage"]
    got = invoke(server, name, {"do": "fatal"}, LogType="Tail")
    assert got["json"]["errorType"] == "Runtime.ExitError" and "exit status 255" in got["json"]["errorMessage"]
    assert "Fatal error: Cannot declare class Twice" in tail(got)
    assert invoke(server, name, {"do": "calls"})["json"] == 1


def test_errors_of_inits(dev):
    files = {"broken.php": "<?php return function( {", "none.php": "<?php $x = 1;", "throw.php": "<?php throw new LogicException('early');"}
    for handler, kind, words in [
        ("absent.php", "Runtime.HandlerNotFound", "absent.php is no file in /var/task"),
        ("none.php", "Runtime.HandlerNotFound", "must return a function"),
        ("broken.php", "ParseError", "syntax error"),
        ("throw.php", "LogicException", "early"),
    ]:
        got = failure(dev, create(dev, handler, files), {})
        assert got["errorType"] == kind and words in got["errorMessage"], got


def test_time_and_memory_end(dev):
    name = create(dev, Timeout=2)
    assert "timed out after 2.00 seconds" in failure(dev, name, {"do": "sleep", "s": 30})["errorMessage"]
    assert invoke(dev, name, {"do": "calls"})["json"] == 1
    name = create(dev, MemorySize=128, Timeout=30)
    assert failure(dev, name, {"do": "memory"})["errorType"] == "Runtime.ExitError"
    assert invoke(dev, name, {"do": "calls"})["json"] == 1


def test_logs(dev):
    text = tail(invoke(dev, create(dev), {"do": "print"}, LogType="Tail"))
    for line in ["from echo", "from stderr", "from error_log", "buffered"]:
        assert f"{line}\n" in text and text.index(line) < text.index("END RequestId"), text
    lines = tail(invoke(dev, create(dev), {"do": "begin"}, LogType="Tail")).splitlines()
    assert "Invoke Error" in lines[lines.index("begun") + 1], "a record begins an event"
    got = invoke(dev, create(dev, LoggingConfig={"LogFormat": "JSON"}), {"do": "throw"}, LogType="Tail")
    [line] = [json.loads(line) for line in tail(got).splitlines() if "Invoke Error" in line]
    assert (line["level"], line["requestId"], line["errorMessage"]) == ("ERROR", got["ResponseMetadata"]["RequestId"], "bad ü")


def test_variables(dev):
    name = create(dev, Environment={"Variables": {"COLOUR": "blau ü"}})
    names, values = ["COLOUR", "AWS_LAMBDA_FUNCTION_NAME", "_HANDLER"], ["blau ü", name, "index.php"]
    assert invoke(dev, name, {"do": "variables", "names": names})["json"] == [[value] * 4 for value in values]


def test_settings_of_the_package(dev):
    name = create(dev, files={"php/conf.d/own.ini": "precision=5\nmemory_limit=100M\n"})
    # The sandbox bounds memory, whatever a package says.
    assert invoke(dev, name, {"do": "ini"})["json"] == ["5", "-1"]
    assert invoke(dev, name, {"do": "calls"})["json"] == 1


def test_commands(dev):
    files = {"artisan": "<?php echo 'ran ', implode('|', array_slice($argv, 1)), PHP_EOL; exit(in_array('--fail', $argv) ? 4 : 0);"}
    variables = {"BREF_RUNTIME": "console", "DUNLIN_PHP_VERSION": "8.2"}
    name = create(dev, "artisan", files, Environment={"Variables": variables})
    assert invoke(dev, name, "migrate --force 'a b'")["json"] == {"exitCode": 0, "output": "ran migrate|--force|a b\n"}
    assert failure(dev, name, "--fail")["errorMessage"] == "ran --fail\n"


def test_what_bref_brings_goes_first(dev):
    # Stands for an installed Bref: its container, its listeners and its context.
    own = (
        "<?php namespace Bref; class Bref {\n  static array $told = [];\n"
        "  static function getContainer() { return new class { function get($id) { return new \\App\\Handler($id); } }; }\n"
        "  static function events() { return new class { function __call($name, $arguments) { Bref::$told[] = $name; } }; }\n}\n"
    )
    files = {
        "vendor/autoload.php": "<?php spl_autoload_register(function ($class) { $file = '/var/task/' . str_replace('\\\\', '/', $class) . '.php'; if (is_file($file)) require $file; }, true, true); require __DIR__ . '/../Bref/Bref.php';",
        "Bref/Bref.php": own,
        "App/Handler.php": "<?php namespace App; class Handler implements \\Bref\\Event\\Handler { function __construct(private string $id) {} function handle($event, \\Bref\\Context\\Context $context) { return [$this->id, $context->own, \\Bref\\Bref::$told]; } }",
        "Bref/Context/Context.php": "<?php namespace Bref\\Context; class Context implements \\JsonSerializable { public $own = 'own'; function __construct(...$all) {} function jsonSerialize(): array { return []; } }",
    }
    name = create(dev, "App\\Handler", files, Environment={"Variables": {"DUNLIN_PHP_VERSION": "8.2"}})
    assert invoke(dev, name)["json"] == ["App\\Handler", "own", ["beforeStartup", "afterStartup", "beforeInvoke"]]


def test_a_program_of_its_own_goes_first(dev):
    # As at AWS, of the package or of a layer.
    shell = '#!/bin/sh\napi="http://$AWS_LAMBDA_RUNTIME_API/2018-06-01/runtime/invocation"\nexec python3 -c "\nimport os, urllib.request as r\nwhile True:\n  n = r.urlopen(\'$api/next\')\n  r.urlopen(\'$api/\' + n.headers[\'Lambda-Runtime-Aws-Request-Id\'] + \'/response\', b\'\\x22own\\x22\')\n"\n'
    assert invoke(dev, create(dev, files={"bootstrap": (shell, 0o755)}))["json"] == "own"
    layer = dev.client("lambda").publish_layer_version(LayerName=name_of("own"), Content={"ZipFile": zipped({"bootstrap": (shell, 0o755)})})
    assert invoke(dev, create(dev, Layers=[layer["LayerVersionArn"]]))["json"] == "own"
    plain = dev.client("lambda").publish_layer_version(LayerName=name_of("plain"), Content={"ZipFile": zipped({"some.txt": "1"})})
    assert invoke(dev, create(dev, Layers=[plain["LayerVersionArn"]]), 7)["json"] == 7
    # What a function is follows its code.
    name = create(dev)
    dev.client("lambda").update_function_code(FunctionName=name, ZipFile=zipped({"bootstrap": (shell, 0o755)}))
    assert invoke(dev, name)["json"] == "own"
    got = invoke(dev, create(dev, "index.handler"))
    assert "valid bootstrap(s): [/var/task/bootstrap /opt/bootstrap]" in got["json"]["errorMessage"]


def test_runtimes_are_lambdas_own(dev):
    got = refused(create, server=dev, Environment={"Variables": {"DUNLIN_PHP_VERSION": "84"}})
    assert got[:2] == (400, "InvalidParameterValueException") and "a version of PHP such as 8.4" in got[2]
    got = refused(dev.function, files={"index.php": CODE}, runtime="php8.4", handler="index.php")
    assert got[:2] == (400, "InvalidParameterValueException") and "Value php8.4 at 'runtime'" in got[2]


def test_calls_at_once(server):
    for settings in ({}, kept(1_000)):
        name = create(server, **settings)
        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(lambda index: invoke(server, name, {"i": index})["json"], range(40)))
        assert answers == [{"i": index} for index in range(40)]


def test_tls_of_the_platform_is_trusted(dev):
    # It is the platform that answers, and tells everybody that it is there.
    name = create(dev, Timeout=20)
    assert invoke(dev, name, {"do": "secure", "url": "https://dynamodb.us-east-1.amazonaws.com/"})["json"] == "answered"


def test_the_example(server, tmp_path):
    folder = tmp_path / name_of("hello-php")
    shutil.copytree(ROOT / "examples/hello-php", folder)
    text = (folder / "serverless.yml").read_text()
    (folder / "serverless.yml").write_text(text.replace("service: hello-php", f"service: {folder.name}"))
    done = dunlin(server, "deploy", "--json", folder)
    assert done.code == 0, done.err
    urls = {route["function"].rsplit("-", 1)[1]: route["url"] for route in done.json["routes"]}
    assert requests.get(urls["hello"] + "?name=Ada", timeout=30).json() == {"message": "Hello, Ada!"}
    assert requests.get(urls["page"] + "any/path?name=<b>", timeout=30).text.strip() == "<h1>Hello, &lt;b&gt;!</h1>"
    assert dunlin(server, "deploy", "--json", folder).json["changed"] is False


def test_deploys_in_the_words_of_bref(dev, tmp_path):
    yaml = (
        "provider:\n  name: aws\n  runtime: provided.al2\nplugins:\n  - ./vendor/bref/bref\nfunctions:\n"
        "  old:\n    handler: index.php\n    layers:\n      - ${bref:layer.php-81}\n"
    )
    folder = project(tmp_path / name_of("app"), serverless__yml=yaml, index__php=CODE)
    done = dunlin(dev, "deploy", "--json", folder)
    assert done.code == 0, done.err
    assert any(note.startswith("PHP 8.1 runs on PHP 8.") for note in done.json["notes"]), done.json["notes"]
    [name] = done.json["functions"]
    assert invoke(dev, name, 3)["json"] == 3
    assert dev.client("lambda").get_function_configuration(FunctionName=name)["Runtime"] == RUNTIME
    (folder / "index.php").unlink()
    assert "names no file" in dunlin(dev, "deploy", folder).err
    # A bare file, with what it requires.
    bare = project(tmp_path / name_of("bare"), greet__php="<?php require_once __DIR__ . '/words.php'; \nreturn fn ($event) => word();\n", words__php="<?php function word() { return 'hi'; }")
    done = dunlin(dev, "deploy", "--json", bare / "greet.php")
    assert done.code == 0, done.err
    assert requests.get(done.json["url"], timeout=30).text in ("hi", '"hi"')

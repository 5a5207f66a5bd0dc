"""Ruby functions as boto3 sees them: what is particular to Ruby, and to AWS's runtime client for it."""

import base64
import concurrent.futures
import json
import re
import shutil
import subprocess

import pytest

from conftest import ROOT, name_of, wait_for, zipped
from test_deploy import dunlin
from test_invoke import failure, invoke, tail

pytestmark = pytest.mark.skipif(not shutil.which("ruby"), reason="Ruby is not there (tests/install.sh says why)")

RUNTIME = "ruby3.3"
CODE = """
$calls = 0
$before = []
LOGGER = Logger.new($stdout)

def handler(event:, context:)
  $calls += 1
  act = event.is_a?(Hash) ? event['do'] : nil
  $before << act
  case act
  when 'raise' then raise ArgumentError, 'bad ü'
  when 'name' then no_such_thing
  when 'exit' then exit 3
  when 'exit!' then exit! 3
  when 'memory' then a = []; loop { a << 'x' * 4_000_000 }
  when 'sleep' then sleep event['s']
  when 'bytes' then StringIO.new([0xff, 0x00, 0xfe].pack('C*'))
  when 'invalid' then "\\xff"
  when 'large' then 'x' * event['bytes']
  when 'calls' then $calls
  when 'before' then $before
  when 'log'
    puts 'from puts'
    warn 'from warn'
    LOGGER.debug('quiet')
    print 'begun'
    LOGGER.info('from the logger')
    LOGGER.error(ArgumentError.new("an error\\nof two lines"))
  when 'variables' then event['names'].map { |name| [ENV[name], `printenv #{name}`.chomp] }
  when 'secure' then Net::HTTP.get_response(URI(event['url'])).code
  else event
  end
end

def facts(event:, context:)
  all = %i[aws_request_id invoked_function_arn log_group_name log_stream_name function_name memory_limit_in_mb
           function_version identity tenant_id client_context deadline_ms]
  facts = all.to_h { |name| [name, context.public_send(name)] }
  facts.merge(remaining: context.get_remaining_time_in_millis, folder: Dir.pwd, encoding: Encoding.default_external.to_s)
end

module Shop
  class Orders
    def self.handle(event:, context:)
      { order: event['order'], by: name }
    end
  end
end
"""


def create(server, handler="app.handler", files=None, **settings):
    """A function of this handler."""
    return server.function({"app.rb": CODE} | (files or {}), runtime=RUNTIME, handler=handler, **settings)


def test_kinds_of_handlers_and_answers(server):
    name = create(server)
    event = {"a": [1, 2.5, None, True, "ü☃🐦"]}
    assert invoke(server, name, event)["json"] == event
    assert invoke(server, name)["json"] == {}
    assert invoke(server, name, [1, "é"])["json"] == [1, "é"]
    assert invoke(server, name, {"do": "bytes"})["body"] == b"\xff\x00\xfe"
    text = "é" * 1_000_000
    assert invoke(server, name, {"text": text})["json"] == {"text": text}
    assert invoke(server, create(server, "app.Shop::Orders.handle"), {"order": 7})["json"] == {"order": 7, "by": "Shop::Orders"}
    below = {"lib/part/other.rb": "require_relative '../../app'\ndef other(event:, context:) = [__dir__, event]\n"}
    assert invoke(server, create(server, "lib/part/other.other", below), 1)["json"] == ["/var/task/lib/part", 1]


def test_the_context(dev):
    name = create(dev, "app.facts", MemorySize=640)
    custom = base64.b64encode(json.dumps({"custom": {"k": "v"}}).encode()).decode()
    got = invoke(dev, name, {}, ClientContext=custom)
    facts = got["json"]
    assert facts["aws_request_id"] == got["ResponseMetadata"]["RequestId"]
    assert (facts["function_name"], facts["function_version"], facts["memory_limit_in_mb"]) == (name, "$LATEST", "640")
    assert facts["invoked_function_arn"].endswith(f":function:{name}") and facts["log_group_name"] == f"/aws/lambda/{name}"
    assert "[$LATEST]" in facts["log_stream_name"] and 0 < facts["remaining"] <= 10_000 < facts["deadline_ms"]
    assert facts["client_context"] == {"custom": {"k": "v"}} and facts["identity"] is None and facts["tenant_id"] is None
    assert (facts["folder"], facts["encoding"]) == ("/var/task", "UTF-8")


def test_errors_of_calls(server):
    name = create(server)
    got = invoke(server, name, {"do": "raise"}, LogType="Tail")
    # How a method is named in a trace differs between versions of Ruby.
    [line] = got["json"].pop("stackTrace")
    assert line.startswith("/var/task/app.rb:11:in ") and "handler" in line
    assert got["json"] == {"errorMessage": "bad ü", "errorType": "Function<ArgumentError>"}
    assert "Error raised from handler method\n" in tail(got)
    assert failure(server, name, {"do": "invalid"})["errorType"].startswith("Function<JSON::")
    assert failure(server, name, {"do": "large", "bytes": 6_400_000})["errorType"] == "Function.ResponseSizeTooLarge"
    assert len(invoke(server, name, {"do": "large", "bytes": 6_000_000})["json"]) == 6_000_000
    # The environment goes on after each of them.
    before = lambda: invoke(server, name, {"do": "before"})["json"]
    for act in ("raise", "invalid", "large"):
        wait_for(lambda: invoke(server, name, {"do": act}) and act in before(), f"a call after {act}")
    # After these it does not, as with AWS's client.
    for act, kind in [("name", "Function<NameError>"), ("exit", "Function<SystemExit>"), ("exit!", "Runtime.ExitError")]:
        assert failure(server, name, {"do": act})["errorType"] == kind
        assert all(act not in before() for _ in range(3)), act
    assert "exit status 3" in failure(server, name, {"do": "exit!"})["errorMessage"]


def test_errors_of_inits(server):
    broken = {"broken.rb": "def handler(event:, context:)\n  1 +\nend end\n", "gem.rb": "require 'no-such-gem'\n", "leave.rb": "exit 1\n"}
    for handler, kind, words in [
        ("none.handler", "Init<LoadError>", "cannot load such file -- none"),
        ("gem.handler", "Init<LoadError>", "cannot load such file -- no-such-gem"),
        ("broken.handler", "Init<SyntaxError>", "/var/task/broken.rb:"),
        ("leave.handler", "Init<SystemExit>", "exit"),
        ("a.b.c.d", "Init<ArgumentError>", "Invalid handler"),
    ]:
        got = failure(server, create(server, handler, broken), {})
        assert got["errorType"] == kind and words in got["errorMessage"], got
    got = failure(server, create(server, "app.none"), {})
    assert got["errorType"] == "Function<NoMethodError>"
    assert re.match("undefined method ['`]none' for .*LambdaHandler", got["errorMessage"]), got


def test_time_and_memory_end(dev):
    name = create(dev, Timeout=2)
    assert "timed out after 2.00 seconds" in failure(dev, name, {"do": "sleep", "s": 30})["errorMessage"]
    assert invoke(dev, name, {"do": "calls"})["json"] == 1
    name = create(dev, MemorySize=128, Timeout=30)
    assert failure(dev, name, {"do": "memory"})["errorType"] == "Runtime.ExitError"
    assert invoke(dev, name, {"do": "calls"})["json"] == 1


def test_logs(dev):
    request_id = lambda got: got["ResponseMetadata"]["RequestId"]
    name = create(dev)
    got = invoke(dev, name, {"do": "log"}, LogType="Tail")
    text = tail(got)
    assert "from puts\n" in text and "from warn\n" in text and "DEBUG" in text
    assert f" INFO {request_id(got)} -- : from the logger\n" in text and "an error\nof two lines (ArgumentError)" in text
    invoke(dev, name, {"do": "raise"}, LogType="Tail")
    events = [event["message"] for event in dev.client("logs").filter_log_events(logGroupName=f"/aws/lambda/{name}")["events"]]
    assert "begun\n" in events, events
    for words, end in [("an error\n", "of two lines (ArgumentError)\n"), ("Error raised from handler method\n", "}\n")]:
        [record] = [event for event in events if words in event]
        assert record.endswith(end), "a record is one event, however many lines it has"
    settings = {"LogFormat": "JSON", "ApplicationLogLevel": "INFO"}
    got = invoke(dev, create(dev, LoggingConfig=settings), {"do": "log"}, LogType="Tail")
    lines = [json.loads(line) for line in tail(got).splitlines() if line.startswith("{")]
    own = [line for line in lines if "level" in line]
    assert [(line["level"], line["message"]) for line in own][0] == ("INFO", "from the logger")
    assert own[1]["level"] == "ERROR" and own[1]["requestId"] == request_id(got) and len(own) == 2


def gem(name, text):
    """The files of an installed gem, below the folder that holds gems."""
    specification = f"Gem::Specification.new do |s|\n  s.name = '{name}'\n  s.version = '1.0'\n  s.summary = s.name\n  s.authors = ['a']\n  s.require_paths = ['lib']\nend\n"
    return {f"specifications/{name}-1.0.gemspec": specification, f"gems/{name}-1.0/lib/{name}.rb": text}


def test_gems_of_the_package_and_of_layers(dev):
    code = (
        "require 'bundled'\nrequire 'layered'\nrequire 'loose'\nrequire 'rexml/document'\n"
        "def handler(event:, context:) = [BUNDLED, LAYERED, LOOSE, REXML::Document.new('<a b=\"1\"/>').root['b']]\n"
    )
    # They were installed for the version that is asked for, whichever runs.
    own = {f"vendor/bundle/ruby/3.3.0/{name}": text for name, text in gem("bundled", "BUNDLED = __FILE__\n").items()}
    files = {f"ruby/gems/3.3.0/{name}": text for name, text in gem("layered", "LAYERED = __FILE__\n").items()}
    content = {"ZipFile": zipped(files | {"ruby/lib/loose.rb": "LOOSE = __FILE__\n"})}
    layer = dev.client("lambda").publish_layer_version(LayerName=name_of("gems"), Content=content, CompatibleRuntimes=[RUNTIME])
    name = create(dev, "main.handler", own | {"main.rb": code}, Layers=[layer["LayerVersionArn"]])
    bundled, layered, loose, parsed = invoke(dev, name)["json"]
    assert bundled == "/var/task/vendor/bundle/ruby/3.3.0/gems/bundled-1.0/lib/bundled.rb"
    assert (layered, loose) == ("/opt/ruby/gems/3.3.0/gems/layered-1.0/lib/layered.rb", "/opt/ruby/lib/loose.rb")
    assert parsed == "1"


def test_variables_and_options_of_the_start(dev):
    name = create(dev, Environment={"Variables": {"COLOUR": "blau ü", "RUBYOPT": "-W0"}})
    names = ["COLOUR", "AWS_EXECUTION_ENV", "AWS_LAMBDA_FUNCTION_NAME", "RUBYOPT", "TZ"]
    values = ["blau ü", "AWS_Lambda_ruby3.3", name, "-W0", ":UTC"]
    assert invoke(dev, name, {"do": "variables", "names": names})["json"] == [[value, value] for value in values]


def test_calls_at_once_and_one_after_the_other(server):
    name = create(server)
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda index: invoke(server, name, {"i": index})["json"], range(60)))
    assert answers == [{"i": index} for index in range(60)]
    wait_for(lambda: invoke(server, name, {"do": "calls"})["json"] > 1, "a second call of an environment")


def test_tls_of_the_platform_is_trusted(dev):
    # It is the platform that answers, and tells everybody that it is there.
    name = create(dev, Timeout=20)
    assert invoke(dev, name, {"do": "secure", "url": "https://dynamodb.us-east-1.amazonaws.com/"})["json"] == "200"


def test_the_example_and_what_serves_it(dev, tmp_path):
    folder = tmp_path / name_of("hello-ruby")
    shutil.copytree(ROOT / "examples/hello-ruby", folder)
    done = dunlin(dev, "deploy", "--json", folder)
    assert done.code == 0, done.err
    assert invoke(dev, done.json["functions"][0], {"name": "Ada"})["json"] == {"message": "Hello, Ada!"}
    platform = dunlin(dev, "runtimes", "list", "--json").json
    served = {found["runtime"]: found for found in platform["runtimes"]}
    assert all(name in served for name in ("ruby3.2", "ruby3.3", "ruby3.4", "ruby4.0"))
    version = subprocess.run(["ruby", "-e", "print RUBY_VERSION"], capture_output=True, text=True, check=True).stdout
    other = next(found for found in served.values() if found["runtime"].startswith("ruby") and not version.startswith(found["runtime"][4:]))
    assert other["note"].startswith(f"{other['runtime']} runs on Ruby {version} "), other


def test_the_sdk_as_a_runtime_pack(own_server, tmp_path):
    # A source of gems on the disk, with gems by the names of the SDK's.
    source = tmp_path / "source"
    (source / "gems").mkdir(parents=True)
    names = [line.strip(' ",\n') for line in (ROOT / "crates/cli/src/deploy/packs.rs").read_text().splitlines() if '"aws-sdk-' in line]
    assert len(names) > 10
    for name in [*names, "more"]:
        built = tmp_path / name
        (built / "lib").mkdir(parents=True)
        (built / f"lib/{name}.rb").write_text(f"NAME_{name.replace('-', '_').upper()} = 'packed'\n")
        text = f"Gem::Specification.new do |s|\n  s.name = '{name}'\n  s.version = '1.2.3'\n  s.summary = s.name\n  s.authors = ['a']\n  s.files = ['lib/{name}.rb']\nend\n"
        (built / f"{name}.gemspec").write_text(text)
        subprocess.run(["gem", "build", "--silent", f"{name}.gemspec", "-o", source / f"gems/{name}-1.2.3.gem"], cwd=built, check=True, capture_output=True)
    if subprocess.run(["gem", "generate_index", "--silent", "-d", source], capture_output=True, check=False).returncode != 0:
        pytest.skip("this RubyGems makes no index of a source")
    (tmp_path / ".gemrc").write_text(f":sources:\n- file://{source}/\n")
    server = own_server()
    done = dunlin(server, "runtimes", "add", RUNTIME, "--with", "more", HOME=str(tmp_path))
    assert done.code == 0, done.err
    code = "require 'aws-sdk-s3'\nrequire 'more'\ndef handler(event:, context:) = [NAME_AWS_SDK_S3, $LOADED_FEATURES.grep(/aws-sdk-s3/)]\n"
    value, place = invoke(server, create(server, "main.handler", {"main.rb": code}))["json"]
    assert value == "packed" and place[0].startswith("/var/runtime/"), place
    [pack] = [pack for pack in dunlin(server, "runtimes", "list", "--json").json["packs"] if pack["name"].startswith("ruby")]
    assert pack["packages"]["aws-sdk-s3"] == "1.2.3"

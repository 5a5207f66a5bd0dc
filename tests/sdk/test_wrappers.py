"""Wrapper scripts (`AWS_LAMBDA_EXEC_WRAPPER`): what starts a managed runtime in its place, in a layer or in the package."""

import shutil

import pytest

from conftest import JAVA, NODE, PYTHON, name_of, refused, wait_for
from test_extensions import AGENT
from test_invoke import failure, invoke, tail
from test_java import JARS, compiled
from test_layers import published
from test_logs import lines

PROGRAM = 0o755
VARIABLE = "AWS_LAMBDA_EXEC_WRAPPER"
# Changes variables and the handler as the agents' layers do, and puts options before what runs the runtime.
WRAPPER = """\
#!/bin/bash
echo "wrapper begins: $#"
export WRAPPED="by $(basename "$0")" MARK="$MARK more" AGENT_HANDLER="$_HANDLER"
[ -z "$OTHER" ] || export _HANDLER="$OTHER"
read -ra options <<< "$OPTIONS"
exec "$1" "${options[@]}" "${@:2}"
"""
PYTHON_CODE = """\
import os, sys
def facts(event, context):
    return {'wrapped': os.environ.get('WRAPPED'), 'mark': os.environ.get('MARK'), 'agent': os.environ.get('AGENT_HANDLER'),
            'option': 'importtime' in sys._xoptions, 'folder': os.getcwd(), 'handler': 'facts',
            'agreed': getattr(sys, 'agreed', None), 'how': os.environ['AWS_LAMBDA_INITIALIZATION_TYPE']}
def other(event, context):
    return facts(event, context) | {'handler': 'other'}
"""
NODE_CODE = """\
const facts = async () => ({wrapped: process.env.WRAPPED, mark: process.env.MARK, agent: process.env.AGENT_HANDLER,
  option: process.execArgv.includes('--expose-gc') && typeof gc === 'function', folder: process.cwd(), handler: 'facts',
  preloaded: globalThis.preloaded});
exports.facts = facts;
exports.other = async () => ({...await facts(), handler: 'other'});
"""
RUBY_CODE = """\
def facts(event:, context:)
  { wrapped: ENV['WRAPPED'], mark: ENV['MARK'], agent: ENV['AGENT_HANDLER'], option: $VERBOSE, folder: Dir.pwd, handler: 'facts' }
end
def other(event:, context:)
  facts(event: event, context: context).merge(handler: 'other')
end
"""
JAVA_CODE = """\
package wrapped;
import java.util.HashMap;
import java.util.Map;
public class Functions {
    public Map<String, Object> facts(Object event) {
        Map<String, Object> all = new HashMap<>();
        all.put("wrapped", System.getenv("WRAPPED"));
        all.put("mark", System.getenv("MARK"));
        all.put("agent", System.getenv("AGENT_HANDLER"));
        all.put("option", "red".equals(System.getProperty("colour")));
        all.put("folder", System.getProperty("user.dir"));
        all.put("handler", "facts");
        return all;
    }
    public Map<String, Object> other(Object event) {
        Map<String, Object> all = facts(event);
        all.put("handler", "other");
        return all;
    }
}
"""


class Kind:
    """A runtime: a function of it, and an option of its interpreter."""

    def __init__(self, name, runtime, files, handler, option):
        self.name, self.runtime, self.files, self.handler, self.option = name, runtime, files, handler, option

    def __str__(self):
        return self.name


PYTHON_KIND = Kind("python", PYTHON, {"app.py": PYTHON_CODE}, "app.{}", "-X importtime")
NODE_KIND = Kind("node", NODE, {"app.js": NODE_CODE}, "app.{}", "--expose-gc")
KINDS = [
    PYTHON_KIND,
    NODE_KIND,
    pytest.param(
        Kind("ruby", "ruby3.3", {"app.rb": RUBY_CODE}, "app.{}", "-W2"),
        marks=pytest.mark.skipif(not shutil.which("ruby"), reason="Ruby is not there (tests/install.sh says why)"),
    ),
]


def wrapped(server, kind, path, variables=None, files=None, **settings):
    """A function that is started so."""
    variables = {VARIABLE: path, "MARK": "own"} | (variables or {})
    settings = {"handler": kind.handler.format("facts"), "Environment": {"Variables": variables}} | settings
    return server.function(kind.files | (files or {}), kind.runtime, **settings)


def answer(server, name, **arguments):
    """What a function answers that goes well, and its log."""
    got = invoke(server, name, {}, LogType="Tail", **arguments)
    assert "FunctionError" not in got, (got["json"], tail(got))
    return got["json"], tail(got)


def check(server, kind, **settings):
    """Everything that a wrapper changes reaches runtime and handler."""
    layer = published(server.client("lambda"), name_of(), {"wrap": (WRAPPER, PROGRAM)})
    variables = {"OPTIONS": kind.option, "OTHER": kind.handler.format("other")}
    name = wrapped(server, kind, "/opt/wrap", variables, Layers=[layer], **settings)
    got, log = answer(server, name)
    assert (got["wrapped"], got["mark"], got["agent"]) == ("by wrap", "own more", kind.handler.format("facts"))
    assert (got["option"], got["folder"], got["handler"]) == (True, "/var/task", "other")
    assert "wrapper begins: " in log and log.index("wrapper begins: ") < log.index("START RequestId"), log
    assert "Init Duration" in log
    _, log = answer(server, name)
    assert "wrapper begins" not in log and "Init Duration" not in log, "it starts an environment, not a call"


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_what_a_wrapper_changes_reaches_the_handler(server, kind):
    check(server, kind)


@pytest.mark.skipif(not JARS.is_dir(), reason="the jars could not be installed (tests/install.sh says why)")
@pytest.mark.xdist_group("java")
def test_java_machines_are_wrapped(java, tmp_path):
    source = tmp_path / "Functions.java"
    source.write_text(JAVA_CODE)
    kind = Kind("java", JAVA, compiled(tmp_path, [source]), "wrapped.Functions::{}", "-Dcolour=red")
    check(java, kind, MemorySize=512, Timeout=20)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_every_environment_is_started_so_whatever_is_ready(server, kind):
    # A function without one, for which guests are booted ahead.
    plain = server.function(kind.files, kind.runtime, handler=kind.handler.format("facts"))
    assert answer(server, plain)[0].get("wrapped") is None
    # Without `#!` it is a script of a shell, and one that waits for the runtime is as good as one that becomes it.
    script = 'export WRAPPED="$# words"\n"$@"\n'
    name = wrapped(server, kind, "/var/task/start", files={"start": (script, PROGRAM)})
    client = server.client("lambda")
    for round_ in range(3):
        got, _ = answer(server, name)
        assert got["wrapped"].endswith(" words") and got["handler"] == "facts", round_
        client.update_function_configuration(FunctionName=name, Description=name_of())
    assert answer(server, plain)[0].get("wrapped") is None


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_wrapper_that_cannot_be_executed_is_told(server, kind):
    files = {
        "plain": "#!/bin/sh\n", "homeless": ("#!/no/such/shell\n", PROGRAM), "binary": (b"\x7fELF\0\0\0\0", PROGRAM),
        "ends": ("#!/bin/sh\necho went wrong >&2\nexit 3\n", PROGRAM),
    }
    cases = [
        ("/opt/none", "/opt/none: does not exist", 127),
        ("/var/task", "/var/task: does not exist", 127),
        ("/var/task/plain", "/var/task/plain: is not an executable", 126),
        ("/var/task/homeless", "/var/task/homeless: has an interpreter that does not exist", 126),
        ("/var/task/binary", "/var/task/binary: has a format that cannot be executed here", 126),
        ("/var/task/ends", "went wrong", 3),
    ]
    client = server.client("lambda")
    name = wrapped(server, kind, "/var/task/plain", files=files)
    for path, words, code in cases:
        client.update_function_configuration(FunctionName=name, Environment={"Variables": {VARIABLE: path}})
        got = failure(server, name, {})
        assert got["errorType"] == "Runtime.ExitError", got
        assert got["errorMessage"].endswith(f"Error: Runtime exited with error: exit status {code}"), got
        wait_for(lambda: any(words in line for line in lines(server, name)), f"a log with {words!r}")
    client.update_function_configuration(FunctionName=name, Environment={"Variables": {VARIABLE: ""}})
    assert answer(server, name)[0].get("wrapped") is None, "an empty one is none"


@pytest.mark.modes("dev")
def test_agents_of_python_and_node_begin_with_the_runtime(server):
    # How agents for Python get in: a module that interpreters import as they start.
    start = '#!/bin/sh\nexport PYTHONPATH="/opt/auto:$PYTHONPATH"\nexec python3 /opt/launch "$@"\n'
    launch = "import os, sys\nos.environ['WRAPPED'] = 'by launch'\nos.execvp(sys.argv[1], sys.argv[1:])\n"
    auto = "import sys\nsys.agreed = 'in this process'\n"
    files = {"start": (start, PROGRAM), "launch": launch, "auto/sitecustomize.py": auto}
    layer = published(server.client("lambda"), name_of(), files)
    got, _ = answer(server, wrapped(server, PYTHON_KIND, "/opt/start", Layers=[layer]))
    assert (got["wrapped"], got["agreed"]) == ("by launch", "in this process")

    start = '#!/bin/sh\nexport NODE_OPTIONS="$NODE_OPTIONS --require /opt/agent.js"\nexec "$@"\n'
    layer = published(server.client("lambda"), name_of(), {"start": (start, PROGRAM), "agent.js": "globalThis.preloaded = 7;"})
    assert answer(server, wrapped(server, NODE_KIND, "/opt/start", Layers=[layer]))[0]["preloaded"] == 7


def test_a_wrapper_begins_after_the_extensions(server):
    start = '#!/bin/sh\ncp /tmp/agent /tmp/copy\nexport WRAPPED=$?\nexec "$@"\n'
    files = {"extensions/agent": (AGENT, PROGRAM), "start": (start, PROGRAM)}
    layer = published(server.client("lambda"), name_of(), files)
    for kind in (PYTHON_KIND, NODE_KIND):
        got, log = answer(server, wrapped(server, kind, "/opt/start", Layers=[layer], Timeout=20))
        assert got["wrapped"] == "0", log
        assert "EXTENSION\tName: agent\tState: Ready" in log


@pytest.mark.modes("dev")
def test_a_version_with_snap_start_runs_its_own_init(server):
    files = {"start": ("#!/bin/sh\necho wrapper begins\nexport WRAPPED=yes\nexec \"$@\"\n", PROGRAM)}
    kind = Kind("snap", "python3.12", PYTHON_KIND.files, "app.{}", "")
    name = wrapped(server, kind, "/var/task/start", files=files, SnapStart={"ApplyOn": "PublishedVersions"})
    client = server.client("lambda")
    version = client.publish_version(FunctionName=name)["Version"]
    wait_for(
        lambda: client.get_function_configuration(FunctionName=name, Qualifier=version)["State"] == "Active", "an active version"
    )
    got, log = answer(server, name, Qualifier=version)
    assert (got["wrapped"], got["how"]) == ("yes", "snap-start") and "RESTORE_START" not in log, log


@pytest.mark.modes("dev")
def test_who_brings_a_program_of_its_own_does_not_look_at_it(server):
    code = (
        "#!/bin/sh\nAPI=http://$AWS_LAMBDA_RUNTIME_API/2018-06-01/runtime/invocation\nwhile :; do\n"
        "id=$(curl -sSD - -o /dev/null $API/next | tr -d '\\r' | sed -n 's/^Lambda-Runtime-Aws-Request-Id: //pI')\n"
        'curl -sS -o /dev/null -d "\\"$AWS_LAMBDA_EXEC_WRAPPER\\"" $API/$id/response\ndone\n'
    )
    if not shutil.which("curl"):
        pytest.skip("curl is not there")
    variables = {"Variables": {VARIABLE: "/opt/none"}}
    name = server.function({"bootstrap": (code, PROGRAM)}, "provided.al2023", "any", Environment=variables)
    assert invoke(server, name, {})["json"] == "/opt/none"


@pytest.mark.modes("dev")
def test_a_web_server_has_none_but_the_adapters(server):
    variables = {"DUNLIN_WEB_COMMAND": "python server.py", VARIABLE: "/opt/wrap"}
    code, kind, words = refused(
        server.function, files={"server.py": ""}, runtime=PYTHON, Environment={"Variables": variables}
    )
    assert (code, kind) == (400, "InvalidParameterValueException")
    assert f"{VARIABLE} has no effect on a web server" in words

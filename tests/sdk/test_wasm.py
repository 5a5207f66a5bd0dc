"""Functions that are WebAssembly: components that take HTTP, commands, what they may and what ends them.

Programs are hand-written text (`tests/programs`, and below). A command that Go compiled is in the suite of all runtimes
(`behaviour/`), and those that need the compilers of other languages are in `test_wasm_languages.py`.
"""

import json
import os
import shutil
import subprocess
import threading
import time

import pytest
import requests
import wasmtime

from conftest import ROOT, clean_environment, name_of, refused, wait_for, zipped
from test_invoke import invoke, tail

RUNTIME = "provided.al2023"
HTTP = wasmtime.wat2wasm((ROOT / "tests/programs/http.wat").read_text())
HEAD = """
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 200)
"""
# Answers with what it was asked, and says a line.
ECHO = f"""(module {HEAD}
  (data (i32.const 32) "heard\\n")
  (func (export "_start") (local $n i32)
    (i32.store (i32.const 0) (i32.const 32)) (i32.store (i32.const 4) (i32.const 6))
    (drop (call $write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 8)))
    (block $end (loop $on
      (i32.store (i32.const 0) (i32.add (i32.const 1024) (local.get $n)))
      (i32.store (i32.const 4) (i32.const 65536))
      (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
      (br_if $end (i32.eqz (i32.load (i32.const 8))))
      (local.set $n (i32.add (local.get $n) (i32.load (i32.const 8))))
      (br $on)))
    (i32.store (i32.const 0) (i32.const 1024)) (i32.store (i32.const 4) (local.get $n))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"""


def command(start):
    """A module that does this and nothing else."""
    return f'(module {HEAD} (func (export "_start") {start}))'


def deploy(server, program, wait=True, **settings):
    """A function that is a program: its text, or its bytes."""
    program = wasmtime.wat2wasm(program) if isinstance(program, str) else program
    name = server.function({"bootstrap.wasm": program}, runtime=RUNTIME, handler="some.handler", **settings)
    if wait:
        compiled(server, name)
    return name


def compiled(server, name, timeout_s=30):
    """Waits until a function is no longer pending; its configuration then."""
    client = server.client("lambda")

    def settled():
        configuration = client.get_function_configuration(FunctionName=name)
        return configuration if configuration["State"] != "Pending" else None

    return wait_for(settled, "a compiled program", timeout_s)


def test_an_http_component_behind_a_url(server):
    name = deploy(server, HTTP)
    url = server.function_url(name)
    for path in ["", "a", "a/b?c=d&e=%20"]:
        answer = requests.get(url + path, timeout=10)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "text/plain")
        assert answer.text == f"/{path} asked 1 times\n", "every request has an instance of its own"
    # The event itself, and what the function answers with it.
    event = {"version": "2.0", "rawPath": "/x", "rawQueryString": "", "headers": {}, "requestContext": {"http": {"method": "GET"}}}
    answer = invoke(server, name, event)["json"]
    assert (answer["statusCode"], answer["body"]) == (200, "/x asked 1 times\n")
    rest = {"httpMethod": "GET", "path": "/y", "requestContext": {"stage": "s"}, "headers": {}}
    answer = invoke(server, name, rest)["json"]
    assert answer["multiValueHeaders"] == {"content-type": ["text/plain"]}
    # Any other event is posted.
    answer = server.client("lambda").invoke(FunctionName=name, Payload=b'{"Records": []}')
    assert answer["Payload"].read() == b"/events asked 1 times\n"


@pytest.mark.modes("dev")
def test_a_streamed_answer(server):
    name = deploy(server, HTTP)
    url = server.function_url(name, InvokeMode="RESPONSE_STREAM")
    answer = requests.get(url + "pieces", timeout=10)
    assert (answer.status_code, answer.text) == (200, "/pieces asked 1 times\n")
    assert answer.headers["content-type"] == "text/plain"


def test_a_command(server):
    name = deploy(server, ECHO)
    answer = invoke(server, name, {"a": "ü"}, LogType="Tail")
    assert (answer["json"], answer.get("FunctionError")) == ({"a": "ü"}, None)
    said = tail(answer)
    assert "heard\n" in said and "REPORT RequestId: " in said and "Init Duration" in said
    large = {"text": "x" * 5_000_000}
    assert invoke(server, name, large)["json"] == large
    logs = server.client("logs")
    groups = lambda: [event["message"] for event in logs.filter_log_events(logGroupName=f"/aws/lambda/{name}")["events"]]
    wait_for(lambda: sum("heard" in message for message in groups()) == 2, "two lines")


@pytest.mark.parametrize(
    ("start", "words", "kind"),
    [
        ("(unreachable)", "unreachable", "Runtime.ExitError"),
        ("(drop (i32.load (i32.const -1)))", "out of bounds", "Runtime.ExitError"),
        ("(loop $on (drop (memory.grow (i32.const 64))) (br $on))", "signal: killed", "Runtime.ExitError"),
    ],
    ids=["trap", "out-of-bounds", "memory"],
)
@pytest.mark.modes("dev")
def test_failures(server, start, words, kind):
    name = deploy(server, command(start), Timeout=1, MemorySize=128)
    for _ in range(2):
        answer = invoke(server, name, {}, LogType="Tail")
        assert answer["FunctionError"] == "Unhandled"
        assert answer["json"]["errorType"] == kind, answer["json"]
        assert words in answer["json"]["errorMessage"], answer["json"]
    if "grow" in start:
        assert "Error Type: Runtime.OutOfMemory" in tail(answer)
        assert "Max Memory Used: 12" in tail(answer)


@pytest.mark.modes("dev")
def test_endings_of_http_components(server):
    name = deploy(server, HTTP, Timeout=1, MemorySize=128)
    url = server.function_url(name)
    for path in ["t", "n", "g", "s", "l"]:
        assert requests.get(url + path, timeout=10).status_code == 502, path
        assert requests.get(url + "ok", timeout=10).text == "/ok asked 1 times\n"


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("(module)", "without a function _start"),
        ('(module (import "env" "f" (func)) (func (export "_start")))', "env.f"),
        ("(component)", "exports neither"),
        ('(component (import "wasi:keyvalue/store@0.3.0" (instance)))', "wasi:keyvalue/store@0.3.0"),
        ('(component (import "wasi:http/types@0.3.0" (instance)))', "wasi:http/types@0.3.0"),
        (b"#!/bin/sh\n", "magic number"),
        (b"\0asm\x01\0\0\0\x01\xff", "bootstrap.wasm cannot be run"),
    ],
    ids=["no-start", "import", "no-export", "keyvalue", "wasi-0.3", "script", "broken"],
)
@pytest.mark.modes("dev")
def test_what_cannot_be_run_is_refused_with_its_reason(server, program, words):
    name = deploy(server, program, wait=False)
    configuration = compiled(server, name)
    assert (configuration["State"], configuration["LastUpdateStatus"]) == ("Failed", "Failed")
    assert words in configuration["StateReason"] and "Program" not in configuration
    status, code, message = refused(server.client("lambda").invoke, FunctionName=name)
    assert words in message and 400 <= status < 503, (status, code, message)
    # Another package makes it well again.
    server.client("lambda").update_function_code(
        FunctionName=name, ZipFile=zipped({"bootstrap.wasm": wasmtime.wat2wasm(ECHO)}))
    assert compiled(server, name)["LastUpdateStatus"] == "Successful"
    assert invoke(server, name, {"a": 1})["json"] == {"a": 1}


@pytest.mark.modes("dev")
def test_clients_wait_for_the_compiler_and_calls_too(server):
    client = server.client("lambda")
    name = deploy(server, ECHO, wait=False)
    assert invoke(server, name, {"at": "once"})["json"] == {"at": "once"}
    client.get_waiter("function_active_v2").wait(FunctionName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 20})
    client.update_function_code(FunctionName=name, ZipFile=zipped({"bootstrap.wasm": HTTP}))
    client.get_waiter("function_updated_v2").wait(FunctionName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 20})
    listed = client.list_functions()["Functions"]
    assert all("Program" not in function for function in listed)
    version = client.publish_version(FunctionName=name)["Version"]
    answer = client.invoke(FunctionName=name, Qualifier=version, Payload=b"{}")
    assert answer["Payload"].read() == b"/events asked 1 times\n"


@pytest.mark.modes("dev")
def test_a_bootstrap_goes_before_a_program(server):
    bootstrap = "#!/bin/sh\nexit 9\n"
    files = {"bootstrap": (bootstrap, 0o755), "bootstrap.wasm": wasmtime.wat2wasm(ECHO)}
    name = server.function(files, runtime=RUNTIME, handler="x")
    assert "exit status 9" in invoke(server, name, {})["json"]["errorMessage"]


@pytest.mark.modes("dev")
def test_many_at_once_share_nothing(server):
    name = deploy(server, ECHO, MemorySize=128)
    wrong = []

    def call(number):
        for turn in range(20):
            event = {"from": number, "turn": turn}
            if invoke(server, name, event)["json"] != event:
                wrong.append(event)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.modes("dev")
def test_a_program_that_spins_holds_up_nobody(server):
    spins = deploy(server, command("(loop $on (br $on))"), Timeout=4, MemorySize=128)
    name = deploy(server, ECHO)
    invoke(server, name, {})
    spinning = [threading.Thread(target=invoke, args=(server, spins, {})) for _ in range(4)]
    for thread in spinning:
        thread.start()
    slowest = 0
    while any(thread.is_alive() for thread in spinning):
        began = time.monotonic()
        assert invoke(server, name, {"a": 1})["json"] == {"a": 1}
        slowest = max(slowest, time.monotonic() - began)
    assert slowest < 2, slowest


@pytest.mark.modes("dev")
def test_a_bare_file_is_deployed(server, tmp_path):
    (tmp_path / "hello.wasm").write_bytes(HTTP)
    done = subprocess.run(
        [os.environ.get("DUNLIN_BIN", ROOT / "target/debug/dunlin"), "deploy", str(tmp_path / "hello.wasm"), "--json"],
        env=server.environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    url = json.loads(done.stdout)["url"]
    assert requests.get(url, timeout=10).text == "/ asked 1 times\n"


@pytest.mark.modes("dev")
def test_the_example(server, tmp_path):
    if not shutil.which("go"):
        pytest.skip("Go is not on this machine")
    folder = tmp_path / name_of("hello-wasm")
    shutil.copytree(ROOT / "examples/hello-wasm", folder)
    (folder / "serverless.yml").write_text((folder / "serverless.yml").read_text().replace("service: hello-wasm", f"service: {folder.name}"))
    subprocess.run(["go", "build", "-ldflags=-s -w", "-o", "hello.wasm", "."], cwd=folder, check=True,
                   env=clean_environment(GOOS="wasip1", GOARCH="wasm", GOTOOLCHAIN="local"))
    done = subprocess.run(
        [os.environ.get("DUNLIN_BIN", ROOT / "target/debug/dunlin"), "deploy", str(folder), "--json"],
        env=server.environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    deployed = json.loads(done.stdout)
    compiled(server, deployed["functions"][0], 120)
    assert requests.get(deployed["url"], timeout=20).text.startswith("Hello from WebAssembly, request ")

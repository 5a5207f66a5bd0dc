"""Programs of WebAssembly that attack the platform they run in: time, memory, logs, files, and what is compiled of them."""

import pathlib
import sys
import threading
import time

import pytest
import requests
import wasmtime

from conftest import ROOT, refused, wait_for

sys.path.insert(0, str(ROOT / "tests/sdk"))

from test_invoke import invoke  # noqa: E402
from test_wasm import ECHO, HEAD, HTTP, command, compiled, deploy  # noqa: E402

pytestmark = pytest.mark.modes("dev")
# Takes all the memory that there is, and uses it.
BOMB = """(local $pages i32)
  (loop $on
    (local.set $pages (memory.grow (i32.const 160)))
    (memory.fill (i32.mul (local.get $pages) (i32.const 65536)) (i32.const 7) (i32.const 10485760))
    (br $on))"""
FLOOD = """(loop $on
  (i32.store (i32.const 0) (i32.const 1024)) (i32.store (i32.const 4) (i32.const 65536))
  (drop (call $write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 8))) (br $on))"""


def at_once(count, call):
    """Runs calls in threads of their own."""
    threads = [threading.Thread(target=call, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    return threads


def resident_kib(server):
    """Memory of the server's own process."""
    status = pathlib.Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0])


def test_start_functions_that_never_end(server):
    spins = "(module (func $f (loop $on (br $on))) (start $f) (func (export \"_start\")))"
    name = deploy(server, spins, Timeout=1)
    other = deploy(server, ECHO)
    calling = at_once(3, lambda _: invoke(server, name, {}))
    while any(thread.is_alive() for thread in calling):
        assert invoke(server, other, {"a": 1})["json"] == {"a": 1}
    assert invoke(server, name, {})["json"]["errorType"] == "Sandbox.Timedout"


def test_memory_bombs_leave_nothing(server):
    name = deploy(server, command(BOMB), MemorySize=512, Timeout=20)
    other = deploy(server, ECHO)
    invoke(server, other, {})
    before = resident_kib(server)
    kinds = []
    for thread in at_once(4, lambda _: kinds.append(invoke(server, name, {})["json"]["errorMessage"])):
        thread.join()
    assert len(kinds) == 4 and all("signal: killed" in kind for kind in kinds), kinds
    assert invoke(server, other, {"a": 1})["json"] == {"a": 1}
    wait_for(lambda: resident_kib(server) - before < 100 * 1024, "memory that is given back")


def test_a_flood_of_lines_harms_its_function_only(server):
    name = deploy(server, command(FLOOD), Timeout=2)
    other = deploy(server, ECHO)
    before = resident_kib(server)
    calling = at_once(2, lambda _: invoke(server, name, {}))
    slowest = 0
    while any(thread.is_alive() for thread in calling):
        began = time.monotonic()
        assert invoke(server, other, {"a": 1})["json"] == {"a": 1}
        slowest = max(slowest, time.monotonic() - began)
    assert slowest < 3, slowest
    assert resident_kib(server) - before < 200 * 1024


def test_an_answer_without_end(server):
    name = deploy(server, HTTP, Timeout=2)
    url = server.function_url(name)
    before = resident_kib(server)
    assert requests.get(url + "l", timeout=20).status_code == 502
    assert resident_kib(server) - before < 100 * 1024


def test_much_to_compile_holds_up_no_call(server):
    body = "(local.set $n (i32.add (i32.mul (local.get $n) (i32.const 3)) (i32.const 7)))" * 2_000
    large = "".join(f"(func $f{number} (param $n i32) (result i32) {body} (local.get $n))" for number in range(40))
    other = deploy(server, ECHO)
    name = deploy(server, f'(module {large} (func (export "_start")))', wait=False)
    client = server.client("lambda")
    while client.get_function_configuration(FunctionName=name)["State"] == "Pending":
        began = time.monotonic()
        assert invoke(server, other, {"a": 1})["json"] == {"a": 1}
        assert time.monotonic() - began < 3
    assert compiled(server, name)["State"] == "Active"


def test_what_is_no_module_is_refused(server):
    name = server.function({"bootstrap.wasm": b"\0asm\x01\0\0\0" + b"\0" * 1_000}, runtime="provided.al2023", handler="x")
    assert compiled(server, name)["State"] == "Failed"
    assert refused(server.client("lambda").invoke, FunctionName=name)[0] < 503


def test_compiled_code_is_the_servers_alone(own_server):
    server = own_server("dev")
    name = deploy(server, HTTP)
    url = server.function_url(name)
    assert requests.get(url + "a", timeout=20).text == "/a asked 1 times\n"
    folder = server.data_dir / "wasm/code"
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert folder.stat().st_mode & 0o777 == 0o700 and set(modes.values()) == {0o600}, modes
    # Another file in its place, as a disk or a copied folder may have it, is not run.
    server.stop()
    made = next(folder.glob("*.cwasm"))
    changed = bytearray(made.read_bytes())
    changed[len(changed) // 2] ^= 1
    made.write_bytes(bytes(changed))
    server.start()
    url = f"{server.url}/" + url.split("/", 3)[3]
    assert requests.get(url + "a", timeout=30).text == "/a asked 1 times\n"
    assert "not as it was written" in server.log()
    assert made.read_bytes() != bytes(changed)

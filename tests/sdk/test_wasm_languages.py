"""Programs that the compilers of other languages make: JavaScript by componentize-js, Python by componentize-py, C by clang.

The compilers are large, so that only `make prove` installs them (DUNLIN_WASM_LANGUAGES=1); what is there already is used in
any case. The interfaces of WASI, which the first two compile against, come with a crate that the server is built from.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
import requests

from conftest import ROOT, clean_environment
from test_invoke import invoke, tail
from test_wasm import HTTP, compiled, deploy

CACHE = ROOT / ".cache/wasm"
WANTED = os.environ.get("DUNLIN_WASM_LANGUAGES") == "1"

JAVASCRIPT = """\
addEventListener('fetch', (event) => event.respondWith(answer(event.request)));
async function answer(request) {
  const url = new URL(request.url);
  const to = url.searchParams.get('to');
  if (to) {
    try {
      const got = await fetch(to);
      return new Response(await got.text(), { status: got.status });
    } catch (error) {
      return new Response(String(error), { status: 599 });
    }
  }
  console.log('heard', url.pathname);
  return new Response(JSON.stringify({ path: url.pathname, body: await request.text() }), {
    headers: { 'content-type': 'application/json' },
  });
}
"""
PYTHON = """\
import json
import sys

from componentize_py_types import Ok
from wit_world import exports
from wit_world.imports.types import Fields, OutgoingBody, OutgoingResponse, ResponseOutparam


class IncomingHandler(exports.IncomingHandler):
    def handle(self, request, response_out):
        print("heard", request.path_with_query(), file=sys.stderr)
        body = json.dumps({"path": request.path_with_query(), "sum": sum(range(10))}).encode()
        response = OutgoingResponse(Fields.from_list([("content-type", b"application/json")]))
        outgoing = response.body()
        ResponseOutparam.set(response_out, Ok(response))
        stream = outgoing.write()
        stream.blocking_write_and_flush(body)
        stream.__exit__(None, None, None)
        OutgoingBody.finish(outgoing, None)
"""
C = """\
#include <stdio.h>
#include <stdlib.h>
int main(int argc, char **argv) {
    char event[4096];
    size_t length = fread(event, 1, sizeof event - 1, stdin);
    event[length] = 0;
    fprintf(stderr, "heard in C\\n");
    printf("{\\"event\\": %s, \\"handler\\": \\"%s\\"}", event, argv[1]);
    return 0;
}
"""


def interfaces(folder, version):
    """Writes the world of `wasi:http/proxy` in a version of WASI 0.2."""
    home = pathlib.Path(os.environ.get("CARGO_HOME", pathlib.Path.home() / ".cargo"))
    crates = sorted(home.glob("registry/src/*/wasmtime-wasi-http-48.*/wit/deps"))
    if not crates:
        pytest.skip("the crate with WASI's interfaces is not there")
    folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder / "deps", ignore_errors=True)
    (folder / "deps").mkdir()
    for file in crates[-1].glob("*.wit"):
        # The packages' versions, and those since when a part of one is there, which may not be later.
        (folder / "deps" / file.name).write_text(re.sub(r"(@|= )0\.2\.\d+", rf"\g<1>{version}", file.read_text()))
    (folder / "world.wit").write_text(f"package tests:program;\nworld program {{\n  include wasi:http/proxy@{version};\n}}\n")


def built(name, source, build):
    """What a build makes of a source, kept; or the test is skipped."""
    folder = CACHE / name
    program, kept = folder / "program.wasm", folder / "source"
    if not program.exists() or not kept.exists() or kept.read_text() != source:
        folder.mkdir(parents=True, exist_ok=True)
        build(folder)
        kept.write_text(source)
    return program.read_bytes()


def run(*command, folder):
    done = subprocess.run(command, cwd=folder, env=clean_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def javascript(folder):
    if not shutil.which("npm") or not (WANTED or (folder / "node_modules").exists()):
        pytest.skip("componentize-js is not installed: DUNLIN_WASM_LANGUAGES=1 does that")
    (folder / "package.json").write_text('{"private": true, "type": "module"}')
    if not (folder / "node_modules").exists():
        run("npm", "install", "--no-audit", "--no-fund", "--loglevel=error", "@bytecodealliance/componentize-js@0.23", folder=folder)
    interfaces(folder / "wit", "0.2.10")
    (folder / "source.js").write_text(JAVASCRIPT)
    (folder / "build.js").write_text(
        "import { componentize } from '@bytecodealliance/componentize-js';\nimport { writeFileSync } from 'node:fs';\n"
        "const made = await componentize({ sourcePath: 'source.js', witPath: 'wit', worldName: 'program' });\n"
        "writeFileSync('program.wasm', made.component);\n")
    run("node", "build.js", folder=folder)


def python(folder):
    tool = folder / "venv/bin/componentize-py"
    if not (WANTED or tool.exists()):
        pytest.skip("componentize-py is not installed: DUNLIN_WASM_LANGUAGES=1 does that")
    if not tool.exists():
        run(sys.executable, "-m", "venv", "venv", folder=folder)
        run("venv/bin/pip", "install", "-q", "componentize-py==0.25.1", folder=folder)
    interfaces(folder / "wit", "0.2.12")
    (folder / "app").mkdir(exist_ok=True)
    (folder / "app/app.py").write_text(PYTHON)
    run(str(tool), "-d", "wit", "-w", "program", "componentize", "app", "-p", "app", "-o", "program.wasm", folder=folder)


def c(folder):
    clang = next((path for path in ["clang", "clang-19", "clang-16", "clang-14"] if shutil.which(path)), None)
    if not clang or not pathlib.Path("/usr/lib/wasm32-wasi").exists():
        pytest.skip("clang and wasi-libc are not on this machine")
    (folder / "main.c").write_text(C)
    run(clang, "--target=wasm32-wasi", "-O1", "-o", "program.wasm", "main.c", folder=folder)


@pytest.mark.modes("dev")
def test_javascript(server):
    # It fetches itself, and what nobody may reach.
    name = deploy(server, built("javascript", JAVASCRIPT, javascript), wait=False, Timeout=20, MemorySize=512)
    compiled(server, name, 300)
    url = server.function_url(name)
    answer = requests.post(url + "a/b", data="body", timeout=60)
    assert answer.json() == {"path": "/a/b", "body": "body"}, answer.text
    answer = invoke(server, name, {"rawPath": "/l", "requestContext": {"http": {"method": "GET"}}}, LogType="Tail")
    assert "heard /l\n" in tail(answer)
    other = server.function_url(deploy(server, HTTP))
    identity = other.rstrip("/").rsplit("/", 1)[1]
    inside = f"http://{identity}.lambda-url.us-east-1.localhost:{server.port}/inner"
    answer = requests.get(url, params={"to": inside}, timeout=60)
    assert (answer.status_code, answer.text) == (200, "/inner asked 1 times\n")
    # An AWS name is the platform itself, TLS or not: it asks for a signature.
    for scheme in ["http", "https"]:
        answer = requests.get(url, params={"to": f"{scheme}://dynamodb.us-east-1.amazonaws.com/"}, timeout=60)
        assert answer.status_code in (200, 400, 403, 404), answer.text
    for forbidden in [f"http://127.0.0.1:{server.port}/", "http://169.254.169.254/latest/meta-data/", "http://10.0.0.1/"]:
        answer = requests.get(url, params={"to": forbidden}, timeout=60)
        assert answer.status_code == 599, (forbidden, answer.text)


@pytest.mark.modes("dev")
def test_python(server):
    name = deploy(server, built("python", PYTHON, python), wait=False, Timeout=20, MemorySize=512)
    compiled(server, name, 300)
    url = server.function_url(name)
    assert requests.get(url + "a?b=c", timeout=60).json() == {"path": "/a?b=c", "sum": 45}


@pytest.mark.modes("dev")
def test_c(server):
    name = deploy(server, built("c", C, c), wait=False)
    compiled(server, name, 60)
    answer = invoke(server, name, {"a": 1}, LogType="Tail")
    assert answer["json"] == {"event": {"a": 1}, "handler": "some.handler"}
    assert "heard in C\n" in tail(answer)

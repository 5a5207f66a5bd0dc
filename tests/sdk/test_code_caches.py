"""Compiled code that the platform keeps beside a package: it is there for later environments, is no part of the function's
code, and cannot be written by it."""

import uuid

import pytest

from conftest import NODE, PYTHON, wait_for
from test_invoke import invoke

PYTHON_FILES = {
    "handler.py": """
import os
import large
def handler(event, context):
    try:
        open('/var/cache/0/mine', 'w').close()
        written = True
    except OSError:
        written = False
    loader = type(large.__loader__).__name__
    return [os.listdir('/var/cache/0'), os.listdir('/var/task'), written, large.f7(1), loader == 'CachedLoader']
""",
    "large.py": "\n".join(f"def f{n}(a, b=1):\n    return a + b * {n}" for n in range(3000)),
}
NODE_FILES = {
    "handler.js": """
const fs = require('fs');
const large = require('./large');
exports.handler = async () => {
  let written = true;
  try { fs.writeFileSync('/var/cache/0/mine', ''); } catch { written = false; }
  const caches = fs.readdirSync('/var/cache/0');
  return [caches, fs.readdirSync('/var/task'), written, large.f7(1), caches.length > 0];
};
""",
    "large.js": "\n".join(f"exports.f{n} = (a, b = 1) => a + b * {n};" for n in range(3000)),
}


@pytest.mark.parametrize("runtime, files", [(PYTHON, PYTHON_FILES), (NODE, NODE_FILES)], ids=["python", "node"])
def test_later_environments_find_the_code_compiled(server, runtime, files):
    name = server.function(files, runtime)
    assert invoke(server, name, {})["json"][3] == 8

    def in_a_new_environment():
        variables = {"Variables": {"MARK": uuid.uuid4().hex}}
        server.client("lambda").update_function_configuration(FunctionName=name, Environment=variables)
        answer = invoke(server, name, {})["json"]
        # It may come while the environment begins: seen by the handler, too late for what was imported.
        return answer if answer[4] else None

    caches, code, written, value, _ = wait_for(in_a_new_environment, "compiled code", every_s=0.6)
    assert len(caches) == 1
    assert sorted(code) == sorted(files)
    assert (written, value) == (False, 8)

"""Idle environments are frozen between calls: what a function leaves running stops, and goes on with its next call.

`dunlin ps` (`/_dunlin/ps`) says of each environment whether it is frozen. A machine that cannot freeze says so in
`dunlin doctor`; there only that calls go on as always is looked at.
"""

import json
import subprocess
import time

import pytest
import requests

from conftest import NODE, PYTHON, binary, clean_environment, wait_for
from test_provided import PROGRAM, RUNTIME

#: Counts in a thread from the first call on; answers how far it is, and when that was.
THREAD = """
import threading, time

count = 0

def run():
    global count
    while True:
        count += 1

def handler(event, context):
    if threading.active_count() == 1:
        threading.Thread(target=run, daemon=True).start()
        time.sleep(0.02)
    before = count
    time.sleep(event.get("stay", 0))
    return {"first": before, "last": count}
"""

#: The same in a program of its own, which leaves its parent and writes the count to a file.
PROCESS = '''
import os, subprocess, sys, time

SCRIPT = """
import os
n = 0
while True:
    n += 1
    if n % 1000 == 0:
        with open("/tmp/new", "w") as file:
            file.write(str(n))
        os.replace("/tmp/new", "/tmp/n")
"""

def read():
    try:
        return int(open("/tmp/n").read() or 0)
    except FileNotFoundError:
        return 0

def handler(event, context):
    if not os.path.exists("/tmp/n"):
        subprocess.Popen([sys.executable, "-c", SCRIPT], start_new_session=True)
        while not read():
            time.sleep(0.01)
    before = read()
    time.sleep(event.get("stay", 0))
    return {"first": before, "last": read()}
'''

WORKER = """
const { Worker } = require("worker_threads");
const shared = new Int32Array(new SharedArrayBuffer(4));
let worker;
exports.handler = async (event) => {
  if (!worker) {
    worker = new Worker("const { workerData } = require('worker_threads'); for (;;) Atomics.add(workerData, 0, 1);",
      { eval: true, workerData: shared });
    while (!Atomics.load(shared, 0)) await new Promise((done) => setTimeout(done, 5));
  }
  const first = Atomics.load(shared, 0);
  await new Promise((done) => setTimeout(done, 1000 * (event.stay || 0)));
  return { first, last: Atomics.load(shared, 0) };
};
"""


#: A runtime of its own that counts in a thread from its start on.
BOOTSTRAP = """#!/usr/bin/env python3
import json, os, threading, time, urllib.request

BASE = "http://" + os.environ["AWS_LAMBDA_RUNTIME_API"] + "/2018-06-01/runtime/invocation/"
count = 0

def run():
    global count
    while True:
        count += 1

threading.Thread(target=run, daemon=True).start()
while True:
    with urllib.request.urlopen(BASE + "next") as next:
        request, event = next.headers["Lambda-Runtime-Aws-Request-Id"], json.load(next)
    first = count
    time.sleep(event.get("stay", 0))
    answer = json.dumps({"first": first, "last": count}).encode()
    urllib.request.urlopen(urllib.request.Request(BASE + request + "/response", answer)).read()
"""


def pass_time(seconds):
    """What is tested is that nothing happens meanwhile; there is nothing to wait for."""
    time.sleep(seconds)


@pytest.fixture(scope="module")
def freezes():
    """Whether this machine can freeze."""
    said = subprocess.run([binary(), "doctor", "--json"], env=clean_environment(), capture_output=True, check=True)
    return json.loads(said.stdout)["freezes"]


def environments(server, name):
    listed = requests.get(f"{server.url}/_dunlin/ps", headers={"Authorization": "test"}, timeout=10).json()
    return [one for one in listed["environments"] if one["function"] == name]


def call(server, name, **payload):
    got = server.client("lambda").invoke(FunctionName=name, Payload=json.dumps(payload))
    answer = json.load(got["Payload"])
    assert "FunctionError" not in got, answer
    return answer


def frozen(server, name):
    return [one["frozen"] for one in environments(server, name)]


@pytest.mark.modes("dev")
@pytest.mark.parametrize("kind", ["thread", "process", "worker", "custom"])
def test_nothing_runs_between_calls(server, freezes, kind):
    if not freezes:
        pytest.skip("this machine cannot freeze; see `dunlin doctor`")
    settings = {"thread": (THREAD, PYTHON), "process": (PROCESS, PYTHON), "worker": (WORKER, NODE),
                "custom": ({"bootstrap": (BOOTSTRAP, PROGRAM)}, RUNTIME)}
    files, runtime = settings[kind]
    name = server.function(files, runtime=runtime, Timeout=30)
    is_frozen = lambda: frozen(server, name) == [True]
    before = call(server, name, stay=0.5)
    assert before["last"] > before["first"], "it counts during the call"
    counted = []
    # On a busy machine how far it counts in half a second is seldom the same twice: not every time has to be good.
    while len([one for one in counted if one[0] < 2 * one[1]]) < 2:
        assert len(counted) < 6, f"between two calls, and in half a second of one, it counted {counted}"
        wait_for(is_frozen, "the environment is frozen")
        pass_time(2)
        assert is_frozen(), "it stays so until it is called"
        after = call(server, name, stay=0.5)
        in_call = after["last"] - after["first"]
        assert in_call > 0, "it goes on in the next call"
        # It runs on for some tenths of a second before it is frozen; in the two seconds it would count to four times this.
        counted.append((after["first"] - before["last"], in_call))
        before = after
    assert len(environments(server, name)) == 1, "all calls met one environment"
    server.client("lambda").delete_function(FunctionName=name)
    wait_for(lambda: not environments(server, name), "a frozen environment of a deleted function ends")


@pytest.mark.modes("dev")
def test_what_only_waits_is_not_frozen(server):
    name = server.function("def handler(event, context):\n    return 1")
    assert call(server, name) == 1
    pass_time(1)
    assert frozen(server, name) == [False]
    assert call(server, name) == 1


def test_it_can_be_turned_off(own_server):
    server = own_server("dev", "--no-freeze")
    name = server.function(THREAD, runtime=PYTHON, Timeout=30)
    before = call(server, name, stay=0.1)
    pass_time(1)
    assert frozen(server, name) == [False]
    assert call(server, name)["first"] > 3 * before["last"], "it ran on"

"""The functions of the mixed load: what each does, and what it must answer.

`KINDS` is the table. Each kind makes a payload and judges the answer to it; what a killed environment makes of a call is
judged by `was_killed`, the same for all.
"""

import hashlib
import json
import re
import uuid

PYTHON_HELLO = """
def handler(event, context):
    print("call", event["call"])
    return {"call": event["call"]}
"""

NODE_HELLO = """
exports.handler = async (event) => {
  const { call } = event.body ? JSON.parse(event.body) : event;
  console.log("call " + call);
  return { statusCode: 200, body: JSON.stringify({ call }) };
};
"""

PYTHON_SLEEPS = """
import time

def handler(event, context):
    time.sleep(event["seconds"])
    return {"call": event["call"]}
"""

PYTHON_FAILS = """
def handler(event, context):
    raise ValueError("no " + event["call"])
"""

NODE_FAILS = """
exports.handler = async (event) => { throw new TypeError("no " + event.call); };
"""

PYTHON_EXITS = """
import os

def handler(event, context):
    os._exit(7)
"""

NODE_EXITS = """
exports.handler = async () => { process.exit(7); };
"""

#: Answers as much as it got, and a digest of it.
PYTHON_LARGE = """
import hashlib

def handler(event, context):
    return {"digest": hashlib.sha256(event["text"].encode()).hexdigest(), "text": event["text"]}
"""

NODE_LARGE = """
const crypto = require("crypto");
exports.handler = async (event) => (
  { digest: crypto.createHash("sha256").update(event.text).digest("hex"), text: event.text });
"""

NODE_STREAMS = """
const { once } = require("events");
exports.handler = awslambda.streamifyResponse(async (event, stream) => {
  let left = Number(event.queryStringParameters.bytes);
  const block = Buffer.alloc(1 << 16, "x");
  for (; left > 0; left -= block.length) {
    if (!stream.write(block.subarray(0, Math.min(left, block.length)))) await once(stream, "drain");
  }
  stream.end();
});
"""

#: Runs another program, and leaves a thread behind that never ends.
PYTHON_STRAYS = """
import subprocess, threading, time

def stray():
    while True:
        time.sleep(0.01)

def handler(event, context):
    threading.Thread(target=stray, daemon=True).start()
    said = subprocess.run(["echo", event["call"]], capture_output=True, text=True, check=True).stdout
    return {"call": said.strip()}
"""

PYTHON_RECORDS = """
def handler(event, context):
    print("event", event["event"])
"""

#: Answers which deployment it is.
PYTHON_VERSION = """
def handler(event, context):
    return {number}
"""

NODE_VERSION = """
exports.handler = async () => ({number});
"""

LARGEST = 5_900_000

#: What is said of an environment that was killed, whenever that was.
KILLED = re.compile(r"Runtime exited with error: signal: killed")


def was_killed(answer):
    """Whether an answer is that of a killed environment."""
    if answer.status == 502 and answer.error is None:
        return True  # A function URL says no more.
    return answer.error == "Unhandled" and isinstance(answer.body, dict) and (
        answer.body.get("errorType") == "Runtime.ExitError" and bool(KILLED.search(answer.body.get("errorMessage", "")))
    )


def unique():
    return uuid.uuid4().hex[:12]


class Kind:
    """One function and what is called with it."""

    def __init__(self, name, family, code, weight, payload, judge, via="invoke", **settings):
        self.name, self.family, self.code, self.weight = name, family, code, weight
        self.payload, self.judge, self.via, self.settings = payload, judge, via, settings


def says(payload, answer):
    """The call's own name comes back."""
    body = answer.body.get("body") if isinstance(answer.body, dict) and "statusCode" in answer.body else answer.body
    if isinstance(body, str):
        body = json.loads(body)
    return answer.error is None and body == {"call": payload["call"]}


def throws(kind):
    return lambda payload, answer: (
        answer.error == "Unhandled" and answer.body.get("errorType") == kind
        and answer.body.get("errorMessage") == "no " + payload["call"]
    )


def exits(payload, answer):
    return answer.error == "Unhandled" and answer.body.get("errorType") == "Runtime.ExitError" and (
        answer.body["errorMessage"].endswith("Runtime exited with error: exit status 7"))


def times_out(payload, answer):
    return answer.error == "Unhandled" and answer.body.get("errorType") == "Sandbox.Timedout"


def echoes(payload, answer):
    digest = hashlib.sha256(payload["text"].encode()).hexdigest()
    return answer.error is None and answer.body == {"digest": digest, "text": payload["text"]}


def streams(payload, answer):
    return answer.status == 200 and answer.body == b"x" * payload["bytes"]


def named(chance):
    return {"call": unique()}


def large(chance):
    # Small ones are usual, the largest are rare.
    size = int(10 ** chance.uniform(2, 6.77))
    return {"text": unique() + "y" * min(size, LARGEST)}


KINDS = [
    Kind("hello-python", "python", PYTHON_HELLO, 20, named, says),
    Kind("hello-node", "nodejs", NODE_HELLO, 10, named, says),
    Kind("hello-url", "nodejs", NODE_HELLO, 15, named, says, via="url"),
    Kind("sleeps", "python", PYTHON_SLEEPS, 6, lambda chance: {**named(chance), "seconds": chance.uniform(0.05, 0.8)}, says),
    Kind("fails-python", "python", PYTHON_FAILS, 4, named, throws("ValueError")),
    Kind("fails-node", "nodejs", NODE_FAILS, 4, named, throws("TypeError")),
    Kind("exits-python", "python", PYTHON_EXITS, 2, named, exits),
    Kind("exits-node", "nodejs", NODE_EXITS, 2, named, exits),
    Kind("times-out", "python", PYTHON_SLEEPS, 1, lambda chance: {**named(chance), "seconds": 30}, times_out, Timeout=1),
    Kind("large-python", "python", PYTHON_LARGE, 3, large, echoes, MemorySize=256),
    Kind("large-node", "nodejs", NODE_LARGE, 3, large, echoes, MemorySize=256),
    Kind("streams", "nodejs", NODE_STREAMS, 4, lambda chance: {"bytes": chance.randrange(10_000_000)}, streams,
         via="stream", MemorySize=256),
    Kind("strays", "python", PYTHON_STRAYS, 5, named, says),
]

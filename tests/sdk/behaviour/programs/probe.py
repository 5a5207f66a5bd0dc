"""The probe in Python: a handler that does what its event says, as `tests/sdk/behaviour/__init__.py` describes it."""

import os
import sys
import time
import uuid

WHO = uuid.uuid4().hex
CALLS = 0


class ProbeError(Exception):
    """What it raises when asked to."""


def begin(what):
    """The end of the initialisation, if the function's variables ask for one."""
    if what == "raise":
        raise ProbeError("at the start")
    if what == "exit":
        os._exit(5)
    if what == "hang":
        time.sleep(60)


def facts(context):
    client = context.client_context
    return {
        "id": context.aws_request_id, "name": context.function_name, "version": context.function_version,
        "memory": str(context.memory_limit_in_mb), "arn": context.invoked_function_arn, "group": context.log_group_name,
        "stream": context.log_stream_name, "left": context.get_remaining_time_in_millis(), "client": client and client.custom,
    }


def files():
    with open("/tmp/notes", "a+", encoding="utf-8") as notes:
        notes.write("x")
        notes.seek(0)
        written = len(notes.read())
    try:
        with open("/var/task/new", "w", encoding="utf-8"):
            refused = False
    except OSError:
        refused = True
    with open("/var/task/data.txt", encoding="utf-8") as data:
        return {"who": WHO, "folder": os.getcwd(), "notes": written, "refused": refused, "data": data.read()}


def act(event, context):
    global CALLS
    CALLS += 1
    if isinstance(event, dict) and "requestContext" in event:
        headers = {"content-type": "application/octet-stream"}
        return {"statusCode": 200, "headers": headers, "isBase64Encoded": True, "body": event["body"]}
    what = event.get("do") if isinstance(event, dict) else None
    if what in ("raise", "exit", "signal", "spin", "allocate"):
        print("at", WHO, flush=True)
    if what == "raise":
        raise ProbeError(event["message"])
    if what == "exit":
        os._exit(event["code"])
    if what == "signal":
        os.kill(os.getpid(), event["number"])
    if what == "allocate":
        held = []
        while True:
            held.append(bytearray(b"x" * (8 << 20)))
    if what == "spin":
        while True:
            pass
    if what == "sleep":
        time.sleep(event["ms"] / 1000)
    if what in ("sleep", "count"):
        return {"who": WHO, "calls": CALLS}
    if what == "environment":
        return dict(os.environ)
    if what == "context":
        return facts(context)
    if what == "print":
        for line in event["lines"]:
            print(line, flush=True)
        print("to stderr", file=sys.stderr, flush=True)
        return None
    if what == "large":
        return "x" * event["bytes"]
    if what == "files":
        return files()
    return event


begin(os.environ.get("PROBE_INIT"))
handler = act

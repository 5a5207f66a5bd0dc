"""What the platform adds to a call: custom runtimes and guests that speak frames beside the bare parts of such a call.

Bare are an HTTP server, a Runtime API and a socket to another process, each alone (`load`'s program `bare`); nothing that
isolates, meters or logs is behind them. One after another in each round.
"""
import json
import os
import statistics
import subprocess

from bench import at_least, at_most
from calls import get, post
from packages import native_package, native_program, python_package, python_runtime
from parts.warm import SETTLED_MS

#: About what a function's event and its answer take.
EVENT_BYTES, ANSWER_BYTES = 1_200, 100
BUSY = 64
#: Of the sum of the bare parts; of the bare socket; and of the bare Runtime API's calls/s.
NATIVE_TIMES, FRAMES_TIMES, RATE_PART = 1.3, 3, 0.8


def measure(bench):
    program = os.path.join(os.path.dirname(bench.options.load), "bare")
    bootstrap = os.path.join(os.path.dirname(bench.options.load), "bootstrap")
    native = bench.server.create_function("added-native", "provided.al2023", "bootstrap", native_package(native_program(bench)))
    python = bench.server.create_function("added-python", python_runtime(), "handler.handler", python_package())
    echo = bench.peer(lambda port: [program, "echo", str(port)])
    calls = {
        "bare HTTP server": lambda count: bench.load(echo, count, [post(echo.port, "/", b"x" * ANSWER_BYTES)]),
        "dunlin provided (native)": lambda count: bench.load(bench.server, count, [get(bench.server.port, native)]),
        "dunlin python": lambda count: bench.load(bench.server, count, [get(bench.server.port, python)]),
    }
    bench.load(bench.server, BUSY, [get(bench.server.port, native)], SETTLED_MS)
    seconds = str(bench.options.seconds)
    bare = {
        "bare Runtime API": lambda: alone([program, "loop", seconds, str(EVENT_BYTES), bootstrap]),
        "bare socket": lambda: alone([program, "socket", seconds, str(EVENT_BYTES), str(ANSWER_BYTES)]),
    }
    seen = {name: {"p50_us": [], "rps": []} for name in (*calls, *bare)}
    for _ in range(bench.options.rounds):
        for name, call in calls.items():
            seen[name]["p50_us"].append(call(1)["p50_us"])
        for name, run in bare.items():
            for figure, value in run().items():
                seen[name][figure].append(value)
        for name, call in calls.items():
            seen[name]["rps"].append(call(BUSY)["rps"])
    for name in ("added-native", "added-python"):
        bench.server.delete_function(name)
    return {name: {figure: statistics.median(values) for figure, values in row.items()} for name, row in seen.items()}


def alone(command):
    return json.loads(subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout)


def promises(found):
    p50 = {name: row["p50_us"] for name, row in found.items()}
    parts = p50["bare HTTP server"] + p50["bare Runtime API"]
    added = p50["dunlin python"] - p50["bare HTTP server"]
    rate = found["dunlin provided (native)"]["rps"] / found["bare Runtime API"]["rps"]
    return {
        "native function, 1 connection: p50 over bare HTTP and bare Runtime API": at_most(p50["dunlin provided (native)"] / parts, NATIVE_TIMES),
        "guest with frames, 1 connection: p50 beyond bare HTTP over a bare socket's": at_most(added / p50["bare socket"], FRAMES_TIMES),
        f"native function, {BUSY} connections: calls/s over a bare Runtime API's": at_least(rate, RATE_PART),
    }


def lines(found):
    text = [
        "## What the platform adds to a call", "",
        f"Medians with one connection, and rates with {BUSY}. A bare part has one thread and knows nothing of functions; the bare Runtime API "
        f"and the bare socket always have one call under way, with events of {EVENT_BYTES:,} bytes.", "",
        "| | p50 µs | calls/s |", "|---|---|---|",
    ]
    return text + [f"| {name} | {row['p50_us']:,.1f} | {row['rps']:,.0f} |" for name, row in found.items()]
